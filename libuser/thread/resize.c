// SPDX-License-Identifier: MIT
/*
 * Resize blocks, in place or by moving them.
 */
#include <errno.h>
#include <string.h>

#include "thread/cache.h"

/*
 * A block that has grown is likely to grow again: above this size it becomes a run, which can
 * often grow where it is. At most an eighth of so many pages stays unused.
 */
#define GROWING_MIN	(8 * KA_PAGE_SIZE)

/* The usable size of a block of @pool; for &ka_no_pool, the size of a run. */
static size_t block_size(struct ka_caches *caches, const struct ka_pool *pool, const void *block)
{
	if (pool == &ka_no_pool)
		return ka_runs_size(&caches->pools, block);
	if (ka_pool_begins_at(&caches->pools, pool, block))
		return pool->size;
	ka_block_none_begins(block);
	return 0;
}

/**
 * ka_block_size() - Get the usable size of a block.
 * @caches: The caches of the heap.
 * @block: The block.
 *
 * Return: Bytes; 0 with errno and a message if no block begins there.
 */
size_t ka_block_size(struct ka_caches *caches, const void *block)
{
	return block_size(caches, ka_pool_of(&caches->pools, block), block);
}

/* Tell the tracer that a block was resized in place. */
static void block_resized(struct ka_caches *caches, struct ka_cache *cache, void *block,
			  size_t size)
{
	const struct ka_pool *pool = ka_pool_of(&caches->pools, block);
	unsigned int due;

	if (pool == &ka_no_pool) {
		ka_trace_run_freed(block);
		due = ka_trace_due(cache, size);
		if (due)
			ka_sampler->add_run(block, size, size, due);
	} else if (KA_READ(pool->owner) == KA_TRACED) {
		ka_sampler->resized(block, size);
	}
}

/* Resize a block in place. False if that is not possible. */
static bool block_resize_here(struct ka_caches *caches, void *block, size_t old, size_t size)
{
	if (size <= old && size >= old - old / 4)
		return true;
	return size > GROWING_MIN && ka_pool_of(&caches->pools, block) == &ka_no_pool &&
	       ka_runs_resize(&caches->pools, block, size);
}

/**
 * ka_block_expand() - Make a block larger in place.
 * @caches: The caches of the heap.
 * @cache: The cache of the thread.
 * @block: The block.
 * @size: Bytes that it must have room for.
 *
 * Return: Its usable size, at least @size; 0 with errno and a message.
 */
size_t ka_block_expand(struct ka_caches *caches, struct ka_cache *cache, void *block,
		       size_t size)
{
	const struct ka_pool *pool = ka_pool_of(&caches->pools, block);
	size_t usable = block_size(caches, pool, block);

	if (!usable || size <= usable)
		return usable;
	if (pool != &ka_no_pool || !ka_runs_resize(&caches->pools, block, size)) {
		ka_fail(ENOMEM, "cannot expand a block of %zu bytes to %zu bytes in place", usable,
			size);
		return 0;
	}
	block_resized(caches, cache, block, size);
	return ka_runs_size(&caches->pools, block);
}

/* Allocate a block for the content of another one. */
static void *block_alloc_other(struct ka_caches *caches, struct ka_cache *cache, size_t old,
			       size_t size)
{
	void *other = NULL;

	if (size > old && size > GROWING_MIN)
		other = ka_block_alloc_run(caches, cache, 0, size, size);
	/* At the limit, a pool may still have a free block. */
	return other ? other : ka_block_alloc(caches, cache, size);
}

/*
 * Move the pages of a block that is a run to another one, @other, which is at least as large.
 * @other is set to the block that then has the content. It is set to NULL, with errno and a
 * message, if no addresses are left for the pages of the other block: the block is unchanged, and
 * the other one is free. False: nothing was done; the caller copies the content.
 */
static bool block_move(struct ka_caches *caches, void *block, void **other, size_t size)
{
	enum ka_moved moved;

	if (ka_pool_of(&caches->pools, block) != &ka_no_pool ||
	    ka_pool_of(&caches->pools, *other) != &ka_no_pool)
		return false;
	moved = ka_runs_move(&caches->pools, block, *other, size);
	if (moved == KA_MOVED) {
		ka_trace_run_freed(block);
		ka_runs_free_cleared(&caches->pools, block, 0, false);
	} else if (moved == KA_NOWHERE) {
		ka_trace_run_freed(*other);
		ka_runs_free_cleared(&caches->pools, *other, size, true);
		*other = NULL;
		ka_fail(ENOMEM, "no memory to move %zu KiB (see ulimit -v)", size / 1024);
	}
	return moved != KA_NOT_MOVED;
}

/**
 * ka_block_resize() - Change the size of a block.
 * @caches: The caches of the heap.
 * @cache: The cache of the thread.
 * @block: The block.
 * @size: Bytes; 0 counts as 1.
 *
 * The block stays in place if it fits and at most a quarter would become free, as in CPython's
 * obmalloc.
 *
 * Return: The block, perhaps at another address; NULL with errno and a message, and the block
 * is unchanged.
 */
void *ka_block_resize(struct ka_caches *caches, struct ka_cache *cache, void *block, size_t size)
{
	struct ka_pool *pool = ka_pool_of(&caches->pools, block);
	size_t old = block_size(caches, pool, block);
	const struct ka_pool *asked = NULL;
	void *other;

	if (!old)
		return NULL;
	/*
	 * The pool of a marked block if the thread owns it, looked up once: another thread that
	 * frees a block adds KA_CALLED, and ka_pool_own() no longer finds it.
	 */
	if (ka_is_marked(block))
		asked = ka_pool_own(pool);
	if (asked && ka_block_may_be_free(caches, asked, block) &&
	    ka_block_has_free(caches, cache, asked, block)) {
		ka_block_freed_twice(block);
		return NULL;
	}
	size = size ? size : 1;
	other = block_resize_here(caches, block, old, size) ? block :
						      block_alloc_other(caches, cache, old, size);
	if (!other && size > old)
		return NULL;
	/* Without memory for another block, one that should become smaller stays. */
	if (!other || other == block) {
		block_resized(caches, cache, block, size);
		return block;
	}
	if (size >= old && block_move(caches, block, &other, old))
		return other;
	memcpy(other, block, size < old ? size : old);
	/* The block is in use, as the search above has shown. */
	if (asked)
		((struct ka_free *)block)->mark = 0;
	ka_block_free_of(caches, cache, ka_pool_own(pool), block);
	return other;
}
