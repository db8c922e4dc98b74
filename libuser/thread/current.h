/* SPDX-License-Identifier: MIT */
/*
 * Changes of a thread's current pools, for alloc.c and free.c.
 */
#ifndef KARENA_CURRENT_H
#define KARENA_CURRENT_H

#include "thread/cache.h"

/*
 * Show the current pool of a class to the inline functions. A thread that starts or stops
 * tracing increments ka_trace_generation, makes every processor pass a barrier, and then hides
 * all pools: either it sees this pool shown and hides it, or this function sees the new value.
 */
static inline void pool_show(struct ka_cache *cache, unsigned int class)
{
	ka_cache_show(cache, class, cache->by->current[class]);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	if (__atomic_load_n(&ka_trace_generation, __ATOMIC_RELAXED) != cache->generation)
		ka_cache_show(cache, class, &ka_no_pool);
}

/* List a pool of the thread that has free blocks and is not the current one. */
static inline void pool_list(struct ka_cache *cache, struct ka_pool *pool)
{
	bool locked = ka_cache_lock(cache);

	ka_cache_list(cache, pool);
	ka_cache_unlock(cache, locked);
}

/* Disown a full pool; list it if other threads have freed blocks of it by now. */
static inline void pool_retire(struct ka_caches *caches, struct ka_cache *cache,
			       struct ka_pool *pool)
{
	if (!ka_pool_disown(&caches->pools, pool))
		pool_list(cache, pool);
}

/* Give up the full current pool. The caller makes another one current. */
static inline void pool_retire_current(struct ka_caches *caches, struct ka_cache *cache,
				       struct ka_pool *pool)
{
	uint8_t *emptied = &cache->by->emptied[pool->class];

	/* A thread that fills pools has many blocks: see pool_try_hold() in free.c. */
	*emptied = pool->capacity < *emptied ? (uint8_t)(*emptied - pool->capacity) : 0;
	ka_pool_unhold(pool);
	pool_retire(caches, cache, pool);
}

/* Make a pool the current one of its class; &ka_no_pool: none. */
static inline void pool_make_current(struct ka_cache *cache, unsigned int class,
				     struct ka_pool *pool)
{
	cache->by->current[class] = pool;
	pool_show(cache, class);
	if (pool != &ka_no_pool)
		pool->thin = false;
}

/*
 * Count threads without a cache that own a pool for a moment, before their first cache or after
 * their last. A child that is forked at such a moment searches all pools for those of such
 * threads.
 */
static inline void cacheless_count(struct ka_caches *caches, unsigned int count)
{
	__atomic_fetch_add(&caches->nr_cacheless, count, __ATOMIC_SEQ_CST);
}

static inline bool cache_is_unregistered(const struct ka_cache *cache)
{
	return cache->ended || !cache->caches;
}

#endif /* KARENA_CURRENT_H */
