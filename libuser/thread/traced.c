// SPDX-License-Identifier: MIT
/*
 * Decide when a thread's block is traced: see struct ka_sampler.
 */
#include "thread/cache.h"

/* Odd while blocks are traced. */
unsigned int ka_trace_generation;
size_t ka_trace_nr_runs;
const struct ka_sampler *ka_sampler;

/*
 * True, as the value to pass to the sampler, if the next block of @size bytes, at least 1, is
 * to be traced; else 0. The call switches the cache's tables to the current mode: tracing or
 * not.
 */
unsigned int ka_trace_due(struct ka_cache *cache, size_t size)
{
	unsigned int now = __atomic_load_n(&ka_trace_generation, __ATOMIC_ACQUIRE);

	/* Several threads may share this cache. */
	if (cache->ended)
		return now & 1 && ka_sampler->draw() < size ? now : 0;
	if (cache->generation != now) {
		cache->generation = now;
		/* Without a barrier, a pool of the previous mode may still be shown. */
		ka_cache_hide(cache);
		cache->until_traced = now & 1 ? ka_sampler->draw() : 0;
	}
	if (!(now & 1))
		return 0;
	if (size <= cache->until_traced) {
		cache->until_traced -= size;
		return 0;
	}
	cache->until_traced = ka_sampler->draw();
	return now;
}

/* Tell the tracer that a run is about to be freed, if any run is traced. */
void ka_trace_run_freed(const void *run)
{
	if (__builtin_expect(KA_READ(ka_trace_nr_runs) > 0, 0))
		ka_sampler->run_freed(run);
}
