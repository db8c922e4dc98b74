// SPDX-License-Identifier: MIT
/*
 * The pools of one thread: which of them its calls take blocks from, and which have free
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
 * @cache: The calling thread's.
 *
 * Return: Whether it is locked, for ka_cache_unlock().
 */
bool ka_cache_lock(struct ka_cache *cache)
{
	if (__libc_single_threaded)
		return false;
	ka_mutex_lock(&cache->lock);
	return true;
}

/**
 * ka_cache_unlock() - Unlock them.
 * @cache: The calling thread's.
 * @locked: What ka_cache_lock() has returned.
 */
void ka_cache_unlock(struct ka_cache *cache, bool locked)
{
	if (locked)
		ka_mutex_unlock(&cache->lock);
}

/**
 * ka_cache_unlist() - Take a pool out of its list.
 * @cache: Its owner's, locked.
 * @pool: The pool.
 */
void ka_cache_unlist(struct ka_cache *cache, struct ka_pool *pool)
{
	__atomic_store_n(&pool->listed, false, __ATOMIC_RELAXED);
	ka_pool_unlink(&cache->by->partial[pool->class], pool);
}

/**
 * ka_cache_give_back_empty() - Give back a pool in a list if nobody has a block of it.
 * @cache: Its owner's, locked.
 * @pool: The pool.
 *
 * Return: Whether it went. Else another thread that frees its last block sees that, and
 * waits for the lock.
 */
bool ka_cache_give_back_empty(struct ka_cache *cache, struct ka_pool *pool)
{
	uint32_t used = __atomic_load_n(&pool->used, __ATOMIC_ACQUIRE);

	if (used != ka_remote_count(__atomic_load_n(&pool->remote, __ATOMIC_SEQ_CST)))
		return false;
	ka_cache_unlist(cache, pool);
	ka_pool_collect(&cache->caches->pools, pool);
	ka_pool_give_back(&cache->caches->pools, pool);
	return true;
}

/**
 * ka_cache_keep() - Put a pool into the list of its class if a block of it is in use.
 * @cache: Its owner's, locked.
 * @pool: The pool, in no list. If it is empty by now it goes back to the heap.
 */
void ka_cache_keep(struct ka_cache *cache, struct ka_pool *pool)
{
	ka_pool_link(&cache->by->partial[pool->class], pool);
	if (__libc_single_threaded) {
		pool->listed = true;
		return;
	}
	/* A thread that frees its last block now finds it listed, or we find the block. */
	__atomic_store_n(&pool->listed, true, __ATOMIC_SEQ_CST);
	ka_cache_give_back_empty(cache, pool);
}

static void show_direct(struct ka_pool **shown, unsigned int class, struct ka_pool *pool,
			bool traced)
{
	size_t last = ka_class_size(class) / KA_CLASS_STEP;
	/* That a block of no bytes is one of 1, only the slow way knows while tracing. */
	size_t first = class ? ka_class_size(class - 1) / KA_CLASS_STEP + 1 : traced;

	for (size_t step = first; step <= last; step++)
		__atomic_store_n(&shown[step], pool, __ATOMIC_RELAXED);
}

/**
 * ka_cache_show() - Let a class's sizes have a pool in the table for what is done now.
 * @cache: The thread's.
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
 * ka_cache_drop_current() - Take from the current pool of a class no longer.
 * @cache: The calling thread's.
 * @class: The class, which has one. What becomes of that is up to the caller.
 */
void ka_cache_drop_current(struct ka_cache *cache, unsigned int class)
{
	struct ka_pool *pool = cache->by->current[class];

	cache->by->current[class] = &ka_no_pool;
	ka_cache_show(cache, class, &ka_no_pool);
	ka_pool_let_go(pool);
}

static void hide_pools(struct ka_pool **shown, size_t count)
{
	for (size_t i = 0; i < count; i++)
		__atomic_store_n(&shown[i], &ka_no_pool, __ATOMIC_RELAXED);
}

/**
 * ka_cache_hide() - Let a thread's next call be a slow one.
 * @cache: The thread's.
 */
void ka_cache_hide(struct ka_cache *cache)
{
	hide_pools(cache->direct, KA_DIRECT);
	hide_pools(cache->larger, KA_LARGER);
	if (cache->by != &ka_none_by_class)
		hide_pools(cache->by->traced, KA_DIRECT);
}

/* Nothing is to be taken from what has been current. */
void ka_cache_forget(struct ka_cache *cache)
{
	for (unsigned int class = 0; class < KA_CLASSES; class++)
		cache->by->current[class] = &ka_no_pool;
	ka_cache_hide(cache);
}

/**
 * ka_cache_leave_all() - Leave all pools to the other threads.
 * @cache: The calling thread's.
 */
void ka_cache_leave_all(struct ka_cache *cache)
{
	bool locked = ka_cache_lock(cache);
	struct ka_pool *pool;

	for (unsigned int class = 0; class < KA_CLASSES; class++) {
		pool = cache->by->current[class];
		if (pool != &ka_no_pool) {
			ka_cache_drop_current(cache, class);
			ka_pool_leave(&cache->caches->pools, pool);
		}
		while ((pool = cache->by->partial[class].first)) {
			ka_cache_unlist(cache, pool);
			ka_pool_leave(&cache->caches->pools, pool);
		}
	}
	ka_cache_forget(cache);
	ka_cache_unlock(cache, locked);
}
