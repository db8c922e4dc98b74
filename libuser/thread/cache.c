// SPDX-License-Identifier: MIT
/*
 * The pools of one thread: the current ones, which it allocates from, and those with free
 * blocks. The lock of a cache guards @by->partial.
 */
#include "thread/cache.h"

#define NO_POOL(count)	{ [0 ... (count) - 1] = &ka_no_pool }

const struct ka_by_class ka_none_by_class = {
	.traced		= NO_POOL(KA_DIRECT),
	.current	= NO_POOL(KA_CLASSES),
};

/**
 * ka_cache_lock() - Lock a thread's lists, if the process has other threads.
 * @cache: The cache of the calling thread.
 *
 * Return: True if the lists are locked; passed to ka_cache_unlock().
 */
bool ka_cache_lock(struct ka_cache *cache)
{
	if (__libc_single_threaded)
		return false;
	ka_mutex_lock(&cache->lock);
	return true;
}

/**
 * ka_cache_unlock() - Unlock a thread's lists.
 * @cache: The cache of the calling thread.
 * @locked: Value that ka_cache_lock() has returned.
 */
void ka_cache_unlock(struct ka_cache *cache, bool locked)
{
	if (locked)
		ka_mutex_unlock(&cache->lock);
}

/**
 * ka_cache_unlist() - Remove a pool from its list.
 * @cache: The cache of its owner.
 * @pool: The pool.
 *
 * Context: The cache is locked.
 */
void ka_cache_unlist(struct ka_cache *cache, struct ka_pool *pool)
{
	__atomic_store_n(&pool->listed, false, __ATOMIC_RELAXED);
	ka_pool_unlink(&cache->by->partial[pool->class], pool);
}

/**
 * ka_cache_return_empty() - Return a listed pool to the heap if no block of it is in use.
 * @cache: The cache of its owner.
 * @pool: The pool.
 *
 * Context: The cache is locked. Takes the heap's lock.
 *
 * Return: True if the pool was returned. Otherwise a thread that frees its last block sees that
 * the pool is empty, and waits for the cache's lock.
 */
bool ka_cache_return_empty(struct ka_cache *cache, struct ka_pool *pool)
{
	uint32_t used = __atomic_load_n(&pool->used, __ATOMIC_ACQUIRE);

	if (used != ka_remote_count(__atomic_load_n(&pool->remote, __ATOMIC_SEQ_CST)))
		return false;
	ka_cache_unlist(cache, pool);
	ka_pool_collect(&cache->caches->pools, pool);
	ka_pool_return(&cache->caches->pools, pool);
	return true;
}

/**
 * ka_cache_list() - Put a pool into the list of its class, or return it if it is empty by now.
 * @cache: The cache of its owner.
 * @pool: The pool, in no list.
 *
 * Context: The cache is locked.
 */
void ka_cache_list(struct ka_cache *cache, struct ka_pool *pool)
{
	ka_pool_link(&cache->by->partial[pool->class], pool);
	if (__libc_single_threaded) {
		pool->listed = true;
		return;
	}
	/*
	 * Either a thread that frees its last block after this finds the pool listed, or this
	 * thread finds the block.
	 */
	__atomic_store_n(&pool->listed, true, __ATOMIC_SEQ_CST);
	ka_cache_return_empty(cache, pool);
}

static void show_direct(struct ka_pool **shown, unsigned int class, struct ka_pool *pool,
			bool traced)
{
	size_t last = ka_class_size(class) / KA_CLASS_STEP;
	/* While tracing is on, only the slow path treats a block of 0 bytes as one of 1. */
	size_t first = class ? ka_class_size(class - 1) / KA_CLASS_STEP + 1 : traced;

	for (size_t step = first; step <= last; step++)
		__atomic_store_n(&shown[step], pool, __ATOMIC_RELAXED);
}

/**
 * ka_cache_show() - Show a class's pool in the table of the current mode: tracing or not.
 * @cache: The cache of the thread.
 * @class: The class.
 * @pool: The pool, or &ka_no_pool.
 */
void ka_cache_show(struct ka_cache *cache, unsigned int class, struct ka_pool *pool)
{
	bool traced = cache->generation & 1;

	if (class <= KA_DIRECT_CLASS)
		show_direct(traced ? cache->by->traced : cache->direct, class, pool, traced);
	else if (!traced)
		__atomic_store_n(&cache->larger[class - KA_FIRST_LARGER], pool,
				 __ATOMIC_RELAXED);
}

/**
 * ka_cache_drop_current() - Make a class's current pool no longer current.
 * @cache: The cache of the calling thread.
 * @class: The class, which has a current pool. The caller decides what happens to the pool.
 */
void ka_cache_drop_current(struct ka_cache *cache, unsigned int class)
{
	struct ka_pool *pool = cache->by->current[class];

	cache->by->current[class] = &ka_no_pool;
	ka_cache_show(cache, class, &ka_no_pool);
	ka_pool_unhold(pool);
}

static void hide_pools(struct ka_pool **shown, size_t count)
{
	for (size_t i = 0; i < count; i++)
		__atomic_store_n(&shown[i], &ka_no_pool, __ATOMIC_RELAXED);
}

/**
 * ka_cache_hide() - Hide a thread's pools, so that its next call takes the slow path.
 * @cache: The cache of the thread.
 */
void ka_cache_hide(struct ka_cache *cache)
{
	hide_pools(cache->direct, KA_DIRECT);
	hide_pools(cache->larger, KA_LARGER);
	if (cache->by != &ka_none_by_class)
		hide_pools(cache->by->traced, KA_DIRECT);
}

/* Forget all current pools, so that nothing is allocated from them any more. */
void ka_cache_forget(struct ka_cache *cache)
{
	for (unsigned int class = 0; class < KA_CLASSES; class++)
		cache->by->current[class] = &ka_no_pool;
	ka_cache_hide(cache);
}

/**
 * ka_cache_abandon_all() - Give up all pools of a thread, for other threads to use.
 * @cache: The cache of the calling thread.
 */
void ka_cache_abandon_all(struct ka_cache *cache)
{
	bool locked = ka_cache_lock(cache);
	struct ka_pool *pool;

	for (unsigned int class = 0; class < KA_CLASSES; class++) {
		pool = cache->by->current[class];
		if (pool != &ka_no_pool) {
			ka_cache_drop_current(cache, class);
			ka_pool_abandon(&cache->caches->pools, pool);
		}
		while ((pool = cache->by->partial[class].first)) {
			ka_cache_unlist(cache, pool);
			ka_pool_abandon(&cache->caches->pools, pool);
		}
	}
	ka_cache_forget(cache);
	ka_cache_unlock(cache, locked);
}
