// SPDX-License-Identifier: MIT
/*
 * Freeing, slow path: the block does not belong to the thread's own pools, or may be free
 * already, or the address is no block. Also, the new state of the pool after a free.
 */
#include <errno.h>

#include "thread/current.h"

/* Errors of invalid pointers: -1 with errno and a message. */
int ka_block_none_begins(const void *address)
{
	return ka_fail(EINVAL, "no block begins at %p", address);
}

int ka_block_freed_twice(const void *block)
{
	return ka_fail(EINVAL, "the block %p was freed already", block);
}

/* True if the owner has allocated all blocks of a pool. */
static bool pool_is_exhausted(const struct ka_pool *pool)
{
	return pool != &ka_no_pool && !pool->free && pool->made == pool->capacity &&
	       !__atomic_load_n(&pool->remote, __ATOMIC_RELAXED);
}

/*
 * Other threads may free blocks of listed pools, so the owner has to check these pools now and
 * then: see pool_choose() in alloc.c.
 */
#define MOST_SKIPPED	8

static bool pool_may_skip(struct ka_cache *cache, unsigned int class)
{
	if (__libc_single_threaded)
		return true;
	if (cache->by->skipped[class] == MOST_SKIPPED)
		return false;
	cache->by->skipped[class]++;
	return true;
}

/*
 * True if a pool that was just adopted should become the current one: the current pool is full,
 * and no pool is fuller than one that was full until now. One free block is enough if the pool
 * has few blocks; a pool with many blocks would be full again at once.
 */
static bool pool_is_next(struct ka_cache *cache, const struct ka_pool *pool)
{
	return pool->free && pool->capacity - pool->used == 1 && ka_pool_has_enough(pool) &&
	       pool_is_exhausted(cache->by->current[pool->class]) &&
	       pool_may_skip(cache, pool->class);
}

/* Make an adopted pool, which is in no list, current or listed. */
static void pool_place_adopted(struct ka_caches *caches, struct ka_cache *cache,
			       struct ka_pool *pool)
{
	ka_pool_collect(&caches->pools, pool);
	if (!pool->used || cache_is_unregistered(cache)) {
		ka_pool_shelve(&caches->pools, pool);
	} else if (pool_is_next(cache, pool)) {
		pool_retire_current(caches, cache, cache->by->current[pool->class]);
		pool_make_current(cache, pool->class, pool);
	} else {
		pool_list(cache, pool);
	}
}

/* True if a block of the thread's pool is free, as far as the pool's list may be searched. */
bool ka_block_has_free(struct ka_caches *caches, struct ka_cache *cache,
		       const struct ka_pool *pool, const void *block)
{
	bool many = cache->caches && cache->looks > KA_FEW_LOOKS;
	uint32_t few = KA_FEW_LOOKS;

	return ka_pool_has_free(&caches->pools, pool, block, many ? &cache->looks : &few);
}

/*
 * As ka_block_has_free(), after the remote frees were collected. The cache is locked if the
 * pool may be listed.
 */
static bool block_is_free(struct ka_caches *caches, struct ka_cache *cache, struct ka_pool *pool,
			  void *block)
{
	if (!ka_is_marked(block))
		return false;
	ka_pool_collect(&caches->pools, pool);
	return ka_block_has_free(caches, cache, pool, block);
}

/* Push a block for the pool's owner. If the pool has no owner by now, adopt it. */
static int block_free_remote(struct ka_caches *caches, struct ka_cache *cache, struct ka_pool *pool,
			     struct ka_free *block)
{
	uint64_t remote = __atomic_load_n(&pool->remote, __ATOMIC_RELAXED), more;

	block->doubtful = ka_is_marked(block);
	block->mark = KA_FREED;
	do {
		if (ka_remote_first(remote) == block)
			return ka_block_freed_twice(block);
		ka_link(block, ka_remote_first(remote));
		more = (uintptr_t)block |
		       (uint64_t)(ka_remote_count(remote) + 1) << KA_REMOTE_BITS;
	} while (!__atomic_compare_exchange_n(&pool->remote, &remote, more, true,
					      __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
	if (ka_pool_adopt(&caches->pools, pool, ka_thread())) {
		pool_place_adopted(caches, cache, pool);
		return 0;
	}
	if (!remote)
		ka_pool_call(pool);
	if (__atomic_load_n(&pool->listed, __ATOMIC_SEQ_CST) && !ka_pool_in_use(pool))
		ka_caches_emptied(caches, pool);
	return 0;
}

/* Become the owner of an unowned pool; else leave the block to the owner. */
static int block_free_foreign(struct ka_caches *caches, struct ka_cache *cache,
			      struct ka_pool *pool, void *block)
{
	bool twice;

	if (!ka_pool_adopt(&caches->pools, pool, ka_thread()))
		return block_free_remote(caches, cache, pool, block);
	twice = block_is_free(caches, cache, pool, block);
	if (!twice)
		ka_pool_free(pool, block);
	pool_place_adopted(caches, cache, pool);
	return twice ? ka_block_freed_twice(block) : 0;
}

/*
 * A thread that allocates and frees one block again and again needs its current pool. A thread
 * that allocates many blocks in between may have freed all that it had, and be idle from now
 * on. So a thread holds a pool that becomes empty for the third time before pools with so many
 * blocks have become full.
 */
#define EMPTIED		64

static bool pool_try_hold(struct ka_cache *cache, struct ka_pool *pool)
{
	uint8_t *emptied = &cache->by->emptied[pool->class];

	if (*emptied < 2 * EMPTIED) {
		*emptied += EMPTIED;
		return false;
	}
	ka_pool_hold(pool);
	return true;
}

/* Return or hold a pool of the thread that has become empty. The cache is locked. */
static void pool_emptied(struct ka_cache *cache, struct ka_pool *pool)
{
	unsigned int class = pool->class;

	if (cache->by->current[class] == pool) {
		if (pool_try_hold(cache, pool)) {
			ka_pool_check_empty(&cache->caches->pools, pool);
			return;
		}
		ka_cache_drop_current(cache, class);
	} else {
		ka_cache_unlist(cache, pool);
	}
	ka_pool_return(&cache->caches->pools, pool);
	ka_cache_thin(cache, class);
}

/*
 * Free a block of the thread's own pool if the block is marked or other threads have freed
 * blocks of the pool. The remote frees are collected, and an empty pool is returned. The cache
 * is locked, since the pool may be listed.
 */
static int block_free_own(struct ka_cache *cache, struct ka_pool *pool, void *block)
{
	bool locked = ka_cache_lock(cache);
	bool twice = block_is_free(cache->caches, cache, pool, block);

	if (!twice) {
		ka_pool_free(pool, block);
		ka_pool_collect_some(&cache->caches->pools, pool);
	}
	if (!pool->used)
		pool_emptied(cache, pool);
	ka_cache_unlock(cache, locked);
	return twice ? ka_block_freed_twice(block) : 0;
}

/*
 * True if a marked block may be free. If the program has written to the block, the word in the
 * place of its link is hardly ever a valid link. If the program has not, a block that was just
 * allocated still links to the first free one.
 */
bool ka_block_may_be_free(const struct ka_caches *caches, const struct ka_pool *pool,
			  const struct ka_free *block)
{
	uintptr_t start = (uintptr_t)ka_pool_start(&caches->pools, pool);
	bool others = __atomic_load_n(&pool->remote, __ATOMIC_RELAXED);
	const struct ka_free *next = ka_next(block);

	if (!next)
		return pool->free || others;
	return (uintptr_t)next - start < (size_t)pool->capacity * pool->size &&
	       (next != pool->free || others);
}

/**
 * ka_block_free_marked() - Free a block of the thread's own pool that may be free already.
 * @caches: The caches of the heap.
 * @cache: The cache of the thread.
 * @pool: The pool.
 * @block: The address that the caller passed.
 *
 * Return: As ka_block_free().
 */
int ka_block_free_marked(struct ka_caches *caches, struct ka_cache *cache, struct ka_pool *pool,
			 void *block)
{
	if (ka_block_may_be_free(caches, pool, block)) {
		if (cache->looks > KA_FEW_LOOKS)
			return ka_block_free_slow(caches, cache, block);
		if (ka_block_has_free(caches, cache, pool, block))
			return ka_block_freed_twice(block);
	}
	if (!ka_pool_free(pool, block))
		ka_block_emptied(cache, pool);
	return 0;
}

static int block_free_in_pool(struct ka_caches *caches, struct ka_cache *cache,
			      struct ka_pool *pool, void *block)
{
	uintptr_t owner = __atomic_load_n(&pool->owner, __ATOMIC_RELAXED);
	int error;

	if (!ka_pool_begins_at(&caches->pools, pool, block))
		return ka_block_none_begins(block);
	if ((owner & ~KA_CALLED) == ka_thread())
		return block_free_own(cache, pool, block);
	if (owner == KA_TRACED)
		return ka_sampler->free(&caches->pools, pool, block) ?
		       0 : ka_block_freed_twice(block);
	if (!cache->caches && !cache->ended && ka_cache_has_freed_many())
		ka_cache_begin(caches, cache);
	if (!cache_is_unregistered(cache))
		return block_free_foreign(caches, cache, pool, block);
	cacheless_count(caches, 1);
	error = block_free_foreign(caches, cache, pool, block);
	cacheless_count(caches, -1U);
	return error;
}

/**
 * ka_block_free_run() - Free a run.
 * @caches: The caches of the heap.
 * @run: The address that the caller passed. The run may be a block.
 *
 * Return: 0; -1 with errno and a message if no run of the program begins there.
 */
int ka_block_free_run(struct ka_caches *caches, void *run)
{
	if (ka_refuse_inherited(&caches->pools))
		return -1;
	/* Before another thread can allocate the run. */
	ka_trace_run_freed(run);
	return ka_runs_free(&caches->pools, run);
}

/**
 * ka_block_free_slow() - Free a block that does not belong to the thread's own pools.
 * @caches: The caches of the heap.
 * @cache: The cache of the thread.
 * @block: The address that the caller passed.
 *
 * Return: As ka_block_free().
 */
int ka_block_free_slow(struct ka_caches *caches, struct ka_cache *cache, void *block)
{
	struct ka_pool *pool = ka_pool_of(&caches->pools, block);
	int before = errno, error;

	if (!block)
		return 0;
	if (ka_refuse_inherited(&caches->pools))
		return -1;
	if (pool != &ka_no_pool)
		error = block_free_in_pool(caches, cache, pool, block);
	else
		error = ka_block_free_run(caches, block);
	/* A successful free keeps errno. */
	if (!error)
		errno = before;
	return error;
}

/**
 * ka_block_emptied() - Return a pool whose last block was freed, unless the thread holds it.
 * @cache: The cache of the thread.
 * @pool: A pool of the thread.
 */
void ka_block_emptied(struct ka_cache *cache, struct ka_pool *pool)
{
	bool locked = ka_cache_lock(cache);
	int before = errno;

	/* Another thread that returns empty pools may have been faster. */
	if (ka_pool_owner(pool) == cache->thread)
		pool_emptied(cache, pool);
	ka_cache_unlock(cache, locked);
	errno = before;
}
