// SPDX-License-Identifier: MIT
/*
 * Return memory that threads keep for later: empty pools, and the free end of others.
 */
#include "thread/cache.h"

/* Return the empty current pools. */
static void cache_drop_empty(struct ka_cache *cache)
{
	for (unsigned int class = 0; class < KA_CLASSES; class++) {
		struct ka_pool *pool = cache->by->current[class];

		if (pool == &ka_no_pool)
			continue;
		ka_pool_collect(&cache->caches->pools, pool);
		if (pool->used > pool->held)
			continue;
		ka_cache_drop_current(cache, class);
		ka_pool_return(&cache->caches->pools, pool);
	}
}

/* Return the empty pools in a thread's lists. The lock of the lists is held. */
static void cache_return_all_empty(struct ka_cache *cache)
{
	bool locked = ka_cache_lock(cache);

	for (unsigned int class = 0; class < KA_CLASSES; class++) {
		struct ka_pool *pool, *next;

		for (pool = cache->by->partial[class].first; pool; pool = next) {
			next = pool->next;
			ka_cache_return_empty(cache, pool);
		}
	}
	ka_cache_unlock(cache, locked);
}

/* Thin the pools in the thread's lists. Return the number of purged pages. */
static size_t cache_thin_all(struct ka_cache *cache)
{
	bool locked = ka_cache_lock(cache);
	size_t pages = 0;

	for (unsigned int class = 0; class < KA_CLASSES; class++) {
		struct ka_pool *pool, *next;

		for (pool = cache->by->partial[class].first; pool; pool = next) {
			next = pool->next;
			ka_pool_collect(&cache->caches->pools, pool);
			if (!ka_cache_return_empty(cache, pool))
				pages += ka_pool_thin(&cache->caches->pools, pool);
		}
	}
	ka_cache_unlock(cache, locked);
	return pages;
}

/*
 * True if a pool is worth thinning: few of its blocks are in use, and it lies on no huge page.
 * A huge page is split only when half of it is free, not for a few pages.
 */
static bool pool_may_be_thinned(const struct ka_caches *caches, const struct ka_pool *pool)
{
	const struct ka_arena *arena = ka_arena_at(caches->pools.arenas.metadata,
						   ka_pool_arena(&caches->pools, pool));

	return !pool->thin && pool->used <= pool->capacity / 8 &&
	       !__atomic_load_n(&arena->huge, __ATOMIC_RELAXED);
}

/* Use up a permission to thin one pool. False if there is none. */
static bool thinning_begin(struct ka_caches *caches)
{
	size_t *to_thin = &caches->pools.arenas.to_thin;
	size_t left = __atomic_load_n(to_thin, __ATOMIC_RELAXED);

	while (left && !__atomic_compare_exchange_n(to_thin, &left, left - 1, true,
						    __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
	return left;
}

/**
 * ka_cache_thin() - Thin a pool, if free pages were purged that pools could have filled.
 * @cache: The cache of the thread.
 * @class: Class of the pool. Its first listed pool is moved to the end of the list and thinned.
 *
 * Context: The cache is locked.
 */
void ka_cache_thin(struct ka_cache *cache, unsigned int class)
{
	struct ka_pool *pool = cache->by->partial[class].first;

	if (!pool || !__atomic_load_n(&cache->caches->pools.arenas.to_thin, __ATOMIC_RELAXED))
		return;
	ka_pool_move_back(&cache->by->partial[class], pool);
	if (pool_may_be_thinned(cache->caches, pool) && thinning_begin(cache->caches))
		ka_pool_thin(&cache->caches->pools, pool);
}

/**
 * ka_cache_trim() - Return all memory that a heap and a thread keep for later.
 * @caches: The caches of the heap.
 * @cache: The cache of the calling thread.
 *
 * Context: Takes the lock of the lists, those of the caches, and that of the heap.
 *
 * Return: The number of pages whose memory was freed.
 */
size_t ka_cache_trim(struct ka_caches *caches, struct ka_cache *cache)
{
	size_t thinned = 0, pages;

	if (cache->caches) {
		cache_drop_empty(cache);
		thinned = cache_thin_all(cache);
	}
	ka_lists_lock();
	for (struct ka_cache *each = caches->first; each; each = each->of_heap.next) {
		/* The owner of another cache may hold its lock and wait for the fork to end. */
		if (each != cache && !ka_is_forking())
			cache_return_all_empty(each);
	}
	ka_lists_unlock();
	ka_arenas_lock(&caches->pools.arenas);
	ka_arenas_trim(&caches->pools.arenas, &pages);
	ka_arenas_unlock(&caches->pools.arenas);
	return pages + thinned;
}
