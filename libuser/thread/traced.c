// SPDX-License-Identifier: MIT
/*
 * When a thread has a block traced: see struct ka_sampler.
 */
#include "thread/cache.h"

/* Odd while blocks are traced. */
unsigned int ka_trace_generation;
size_t ka_trace_nr_runs;
const struct ka_sampler *ka_sampler;

/*
 * Whether a block of @size bytes, at least 1, that is about to be taken is to be traced: 0,
 * or what the sampler is to be told. The tables are for tracing, or not, from now on.
 */
unsigned int ka_trace_due(struct ka_cache *cache, size_t size)
{
	unsigned int now = __atomic_load_n(&ka_trace_generation, __ATOMIC_ACQUIRE);

	/* Such a cache may be that of several threads. */
	if (cache->ended)
		return now & 1 && ka_sampler->draw() < size ? now : 0;
	if (cache->generation != now) {
		cache->generation = now;
		/* Without a barrier it may be shown still what has been. */
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

/* A run is about to be freed: if it is traced, it is no more. */
void ka_trace_run_freed(const void *run)
{
	if (__builtin_expect(KA_READ(ka_trace_nr_runs) > 0, 0))
		ka_sampler->run_freed(run);
}
