// SPDX-License-Identifier: MIT
/*
 * Allocation, slow path: the thread's current pool has no free block, or the block is larger
 * than those of any pool.
 */
#include <errno.h>
#include <string.h>

#include "thread/current.h"

/*
 * True if the inline functions find the pool for a size. While tracing is on, they find none
 * for larger sizes.
 */
static bool pool_is_shown(const struct ka_cache *cache, size_t size, const struct ka_pool *pool)
{
	bool traced = cache->generation & 1;

	if (size > KA_DIRECT_MAX)
		return traced || KA_READ(cache->larger[pool->class - KA_FIRST_LARGER]) == pool;
	return KA_READ((traced ? cache->by->traced : cache->direct)[ka_step_of(size)]) == pool;
}

/* Link blocks of a pool. False if it is full; @fresh: the blocks have never been in use. */
static bool pool_provide(struct ka_caches *caches, struct ka_pool *pool, bool *fresh)
{
	*fresh = false;
	if (pool->free)
		return true;
	ka_pool_collect(&caches->pools, pool);
	if (pool->free)
		return true;
	if (pool->made == pool->capacity)
		return false;
	ka_pool_extend(&caches->pools, pool);
	*fresh = true;
	return true;
}

/*
 * Move a pool that was compared, and was not the best, to the end of the list. If it should be
 * @shared and is half free, put it on the shelf instead.
 */
static void pool_requeue(struct ka_cache *cache, struct ka_pool *pool, bool shared)
{
	if (ka_cache_return_empty(cache, pool))
		return;
	if (shared && pool->used <= pool->capacity / 2) {
		ka_cache_unlist(cache, pool);
		ka_pool_shelve(&cache->caches->pools, pool);
		return;
	}
	/* The pool stays listed: a thread that frees its last block waits for the lock. */
	ka_pool_move_back(&cache->by->partial[pool->class], pool);
}

/*
 * Compare up to KA_LOOK_AT pools of a thread's list, collect their remote frees, and remove the
 * best pool from the list. NULL if the list is empty. If the process has other threads, rotate
 * the list, so that all pools are checked in time: a thread that frees blocks of others would
 * otherwise keep pools that it never needs. A single thread allocates from the same few pools
 * until they are full, and the others become empty.
 */
static struct ka_pool *pool_choose(struct ka_cache *cache, unsigned int class)
{
	struct ka_pool *pool, *best = NULL, *pools[KA_LOOK_AT];
	bool locked, shared = false;
	int count = 0;

	cache->by->skipped[class] = 0;
	locked = ka_cache_lock(cache);
	for (pool = cache->by->partial[class].first; pool && count < KA_LOOK_AT;
	     pool = pool->next) {
		shared |= ka_pool_collect(&cache->caches->pools, pool);
		pools[count++] = pool;
		if (!best || ka_pool_is_better(pool, best))
			best = pool;
	}
	if (best)
		ka_cache_unlist(cache, best);
	for (int i = 0; (locked || shared) && i < count; i++) {
		if (pools[i] != best)
			pool_requeue(cache, pools[i], shared && pool);
	}
	ka_cache_unlock(cache, locked);
	return best;
}

/*
 * Number of free blocks to check, from the one freed last on, which is allocated next. Checking
 * all would slow a program that frees blocks in random order down by more than a quarter, and
 * checking eight by a tenth: each is a cache miss that waits for the one before it.
 */
#define LOOKED_AT	(KA_CHECKED ? UINT32_MAX : 4)

/* The pool of a class to allocate from next, or NULL. */
static struct ka_pool *pool_next(struct ka_caches *caches, struct ka_cache *cache,
				 unsigned int class)
{
	struct ka_pool *pool = pool_choose(cache, class);

	if (!pool)
		pool = ka_pool_unshelve(&caches->pools, class, ka_thread());
	if (!pool)
		return ka_pool_make(&caches->pools, class, ka_thread());
	ka_pool_check(&caches->pools, pool, LOOKED_AT);
	return pool;
}

/* Make a pool with a linked block the current one, or return NULL. */
static struct ka_pool *pool_refill(struct ka_caches *caches, struct ka_cache *cache,
				   unsigned int class, bool *fresh)
{
	struct ka_pool *pool = cache->by->current[class];

	cache->looks = KA_LOOKS;
	if (pool != &ka_no_pool) {
		if (pool_provide(caches, pool, fresh))
			return pool;
		pool_retire_current(caches, cache, pool);
	}
	while ((pool = pool_next(caches, cache, class)) && !pool_provide(caches, pool, fresh))
		pool_retire(caches, cache, pool);
	pool_make_current(cache, class, pool ? pool : &ka_no_pool);
	return pool;
}

/* Allocate a run for a block that belongs to no pool. */
static void *run_alloc(struct ka_caches *caches, size_t align, size_t size)
{
	size_t pages = (size + KA_PAGE_SIZE - 1) & ~(KA_PAGE_SIZE - 1);

	if (pages >= size)
		return ka_runs_alloc(&caches->pools, pages, align);
	ka_fail(ENOMEM, "the size of %zu bytes is too large", size);
	return NULL;
}

/*
 * Allocate a run for a block, and trace it if it is due: with the weight of @size bytes, of
 * which @asked are used.
 */
void *ka_block_alloc_run(struct ka_caches *caches, struct ka_cache *cache, size_t align,
			 size_t size, size_t asked)
{
	unsigned int due = ka_trace_due(cache, size);
	void *block = run_alloc(caches, align, asked);

	if (block && due)
		ka_sampler->add_run(block, size, asked, due);
	return block;
}

/* Allocate one block for a thread whose cache has ended, and put its pool on the shelf again. */
static void *block_alloc_once(struct ka_caches *caches, unsigned int class)
{
	struct ka_pool *pool;
	void *block = NULL;
	bool fresh;

	cacheless_count(caches, 1);
	pool = ka_pool_unshelve(&caches->pools, class, ka_thread());
	if (!pool)
		pool = ka_pool_make(&caches->pools, class, ka_thread());
	if (pool) {
		pool_provide(caches, pool, &fresh);
		block = ka_pool_alloc(pool);
		ka_pool_abandon(&caches->pools, pool);
	}
	cacheless_count(caches, -1U);
	return block || !pool ? block : run_alloc(caches, 0, ka_class_size(class));
}

static void *block_alloc_small(struct ka_caches *caches, struct ka_cache *cache, size_t size)
{
	unsigned int class = ka_class_of(size);
	struct ka_pool *pool;
	bool fresh;

	if (cache->ended || (!cache->caches && !ka_cache_begin(caches, cache)))
		return block_alloc_once(caches, class);
	pool = pool_refill(caches, cache, class, &fresh);
	if (!pool)
		return NULL;
	if (!pool_is_shown(cache, size, pool))
		pool_show(cache, class);
	return ka_pool_alloc(pool);
}

/* Allocate a block with room for @size bytes, of which the program has asked for @asked. */
static void *block_alloc(struct ka_caches *caches, struct ka_cache *cache, size_t align,
			 size_t size, size_t asked)
{
	unsigned int due;
	void *block;

	if (ka_refuse_inherited(&caches->pools))
		return NULL;
	if (size > KA_BLOCK_MAX)
		return ka_block_alloc_run(caches, cache, align, size, asked);
	due = ka_trace_due(cache, size);
	block = due ? ka_sampler->alloc(&caches->pools, size, asked, due) : NULL;
	return block ? block : block_alloc_small(caches, cache, size);
}

/*
 * Allocate a larger block that is not traced, while tracing is on. No table shows its pool,
 * which another thread could clear, so this function checks the generation itself.
 */
static void *block_try_larger(struct ka_cache *cache, size_t size)
{
	void *block;

	if (size <= KA_DIRECT_MAX || size > KA_BLOCK_MAX || size > cache->until_traced ||
	    cache->generation != __atomic_load_n(&ka_trace_generation, __ATOMIC_RELAXED))
		return NULL;
	block = ka_pool_alloc(cache->by->current[ka_class_of(size)]);
	if (block)
		cache->until_traced -= size;
	return block;
}

/**
 * ka_block_alloc_slow() - Allocate a block, by the slow path if necessary.
 * @caches: The caches of the heap.
 * @cache: The cache of the thread; registered if necessary.
 * @size: Bytes.
 *
 * Return: As ka_block_alloc().
 */
void *ka_block_alloc_slow(struct ka_caches *caches, struct ka_cache *cache, size_t size)
{
	void *block = ka_block_try_traced(cache, size);

	if (!block)
		block = block_try_larger(cache, size);
	size = size ? size : 1;
	return block ? block : block_alloc(caches, cache, 0, size, size);
}

/*
 * Allocate a block of a page or more that was just linked for the first time. It is then the
 * only linked block, and zero except for its link.
 */
static void *block_alloc_fresh(struct ka_caches *caches, struct ka_cache *cache, size_t size)
{
	unsigned int class = ka_class_of(size);
	struct ka_pool *pool = cache->by->current[class];
	bool fresh;
	void *block;

	if (pool->free || !cache->caches || cache->ended || caches->pools.inherited)
		return NULL;
	pool = pool_refill(caches, cache, class, &fresh);
	if (!pool || !fresh || !pool->zero)
		return NULL;
	block = ka_pool_alloc(pool);
	memset(block, 0, sizeof(struct ka_free));
	return block;
}

/**
 * ka_block_alloc_zeroed() - Allocate a zeroed block.
 * @caches: The caches of the heap.
 * @cache: The cache of the thread.
 * @size: Bytes.
 *
 * Does not clear memory that has never been in use.
 *
 * Return: As ka_block_alloc().
 */
void *ka_block_alloc_zeroed(struct ka_caches *caches, struct ka_cache *cache, size_t size)
{
	size_t pages = (size + KA_PAGE_SIZE - 1) & ~(KA_PAGE_SIZE - 1);
	void *block = NULL;

	/* While tracing is on, the block may be one to be traced. */
	if (size >= KA_PAGE_SIZE && pages >= size && !(KA_READ(ka_trace_generation) & 1))
		block = size > KA_BLOCK_MAX ? ka_runs_alloc_zeroed(&caches->pools, pages, 0) :
					      block_alloc_fresh(caches, cache, size);
	if (block)
		return block;
	block = ka_block_alloc(caches, cache, size);
	return block ? memset(block, 0, size) : NULL;
}

/**
 * ka_block_alloc_aligned() - Allocate an aligned block.
 * @caches: The caches of the heap.
 * @cache: The cache of the thread.
 * @align: A power of two.
 * @size: Bytes.
 *
 * Return: As ka_block_alloc().
 */
void *ka_block_alloc_aligned(struct ka_caches *caches, struct ka_cache *cache, size_t align,
			     size_t size)
{
	size_t least, power = KA_CLASS_STEP;
	void *block;

	if (align <= KA_CLASS_STEP)
		return ka_block_alloc(caches, cache, size);
	size = size ? size : 1;
	if (size > KA_BLOCK_MAX || align > KA_BLOCK_MAX)
		return block_alloc(caches, cache, align, size > align ? size : align, size);
	/*
	 * Pools are aligned to a slot, and their blocks to any power of two that divides their
	 * size, up to a slot. The size of a class for a multiple of @align is such a multiple,
	 * too. Only blocks whose size is a power of two have a larger alignment than a slot.
	 */
	least = (size + align - 1) & ~(align - 1);
	if (align > KA_SLOT_SIZE) {
		while (power < least)
			power *= 2;
		least = power;
	}
	block = ka_block_try(cache, least);
	return block ? block : block_alloc(caches, cache, align, least, size);
}
