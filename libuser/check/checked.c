// SPDX-License-Identifier: MIT
/*
 * Blocks in the checked build. Each has a tail behind the bytes that the program may use: a
 * word that nobody can predict. A block is cleared when it is freed, and must still be clear
 * when it is allocated again. A block larger than any pool's is a run with an inaccessible page
 * before it and another behind it.
 *
 * The tail of such a run lies before the second of these pages, and says whether the pages are
 * guards: a process may have too few mappings for more guards.
 */
#include <errno.h>
#include <string.h>

#include "check/checked.h"

#define TAIL		sizeof(uint64_t)

/*
 * A run with guards costs four of the 65530 mappings that Linux allows a process by default.
 * Half of them remain for the program.
 */
#define MOST_GUARDED	8000

static int nr_guarded;

static uint64_t *tail_of(void *block, size_t usable)
{
	return (uint64_t *)((char *)block + usable);
}

/*
 * The tail of a block. Its first byte is never 0, which a string written one byte too far would
 * store. Bit 0 is cleared in the tail of a run without guards.
 */
static uint64_t right_tail(const void *block)
{
	return ((ka_secret ^ (uintptr_t)block) * 0x9e3779b97f4a7c15) | 3;
}

static int overwritten(const void *block, size_t usable)
{
	return ka_fail(EINVAL, "the program has written behind the block %p of %zu bytes", block,
		       usable);
}

/* Blocks that are runs. */

struct guarded {
	char *run;
	size_t size;	/* of the run */
	size_t lead;	/* before the block */
	size_t usable;
};

/* Find the run of a block. Return 0, or -1 with errno and a message if the block has no run. */
static int find_guarded(struct ka_heap *heap, const void *block, struct guarded *guarded)
{
	guarded->run = (char *)block;
	guarded->lead = 0;
	guarded->size = ka_runs_size(ka_pools_of(heap), block);
	if (!guarded->size) {
		guarded->run -= KA_PAGE_SIZE;
		guarded->lead = KA_PAGE_SIZE;
		guarded->size = ka_runs_size(ka_pools_of(heap), guarded->run);
	}
	if (guarded->size < guarded->lead + 2 * KA_PAGE_SIZE) {
		if (guarded->size || errno == EINVAL)
			ka_block_none_begins(block);
		return -1;
	}
	guarded->usable = guarded->size - guarded->lead - KA_PAGE_SIZE - TAIL;
	return 0;
}

static int check_guarded(const struct guarded *guarded)
{
	void *block = guarded->run + guarded->lead;

	/* Bit 0 says whether the run has guards. */
	if ((*tail_of(block, guarded->usable) | 1) == right_tail(block))
		return 0;
	return overwritten(block, guarded->usable);
}

/* Make both guards inaccessible, or none. Return true if they are. */
static bool guard(const struct guarded *guarded)
{
	char *behind = guarded->run + guarded->size - KA_PAGE_SIZE;

	if (__atomic_fetch_add(&nr_guarded, 1, __ATOMIC_RELAXED) < MOST_GUARDED &&
	    !ka_mprotect(behind, KA_PAGE_SIZE, PROT_NONE)) {
		if (!guarded->lead || !ka_mprotect(guarded->run, KA_PAGE_SIZE, PROT_NONE))
			return true;
		ka_mprotect(behind, KA_PAGE_SIZE, PROT_READ | PROT_WRITE);
	}
	__atomic_fetch_sub(&nr_guarded, 1, __ATOMIC_RELAXED);
	return false;
}

static void *guarded_alloc(struct ka_heap *heap, size_t align, size_t size)
{
	struct guarded guarded = { .lead = align > KA_PAGE_SIZE ? 0 : KA_PAGE_SIZE };
	char *block;

	if (size > PTRDIFF_MAX - 4 * KA_PAGE_SIZE) {
		ka_fail(ENOMEM, "the size of %zu bytes is too large", size);
		return NULL;
	}
	guarded.size = (size + TAIL + KA_PAGE_SIZE - 1) & ~(KA_PAGE_SIZE - 1);
	guarded.usable = guarded.size - TAIL;
	guarded.size += guarded.lead + KA_PAGE_SIZE;
	guarded.run = ka_runs_alloc_zeroed(ka_pools_of(heap), guarded.size, align);
	if (!guarded.run)
		return NULL;
	block = guarded.run + guarded.lead;
	*tail_of(block, guarded.usable) = right_tail(block) - !guard(&guarded);
	return block;
}

/* A run that mprotect() cannot make accessible again, for lack of mappings, is lost. */
static int guarded_free(struct ka_heap *heap, void *block)
{
	struct guarded guarded;
	bool has_guards;

	if (find_guarded(heap, block, &guarded) || check_guarded(&guarded))
		return -1;
	has_guards = *tail_of(block, guarded.usable) & 1;
	*tail_of(block, guarded.usable) = 0;
	if (!has_guards)
		return ka_runs_free(ka_pools_of(heap), guarded.run);
	if (ka_mprotect(guarded.run, guarded.size, PROT_READ | PROT_WRITE))
		return 0;
	__atomic_fetch_sub(&nr_guarded, 1, __ATOMIC_RELAXED);
	return ka_runs_free(ka_pools_of(heap), guarded.run);
}

/* Blocks of pools. */

static int check_tail(const struct ka_pool *pool, void *block)
{
	size_t usable = pool->size - TAIL;
	uint64_t tail = *tail_of(block, usable);

	if (tail == right_tail(block))
		return 0;
	/* In the smallest blocks, a free block has its link in the place of the tail. */
	if ((!tail || usable < sizeof(struct ka_free)) && ka_is_marked(block))
		return ka_block_freed_twice(block);
	return overwritten(block, usable);
}

typedef uint64_t two_words __attribute__((vector_size(16)));

/* Die if a free block is not zero from its third word on. */
static void check_clear(const struct ka_pool *pool, const void *block)
{
	const two_words *at = block, *end = at + pool->size / sizeof(*at);
	two_words found = { 0 };

#pragma GCC unroll 4
	while (++at < end)
		found |= *at;
	if (__builtin_expect(!(found[0] | found[1]), 1))
		return;
	ka_fail(EINVAL, "the program has written to the block %p of %u bytes after it was freed",
		block, pool->size);
	ka_die("malloc");
}

static void *clear_alloc(struct ka_heap *heap, struct ka_cache *cache, size_t align, size_t size)
{
	void *block = ka_block_alloc_aligned(&heap->caches, cache, align, size + TAIL);
	struct ka_pool *pool = block ? ka_pool_of(ka_pools_of(heap), block) : &ka_no_pool;

	if (!block)
		return NULL;
	/* A thread that ends may get a run if no pool has a block. That run has no guards. */
	if (pool == &ka_no_pool) {
		ka_runs_free(ka_pools_of(heap), block);
		return guarded_alloc(heap, align, size);
	}
	check_clear(pool, block);
	memset(block, 0, sizeof(struct ka_free));
	*tail_of(block, pool->size - TAIL) = right_tail(block);
	return block;
}

/**
 * ka_checked_alloc() - Allocate a zeroed block.
 * @heap: The heap.
 * @align: A power of two, or 0.
 * @size: Bytes.
 *
 * Return: The block; NULL with errno and a message.
 */
void *ka_checked_alloc(struct ka_heap *heap, size_t align, size_t size)
{
	struct ka_cache *cache = ka_cache_of(&heap->caches);

	if (!cache)
		return NULL;
	if (size > KA_BLOCK_MAX - TAIL || align > KA_BLOCK_MAX)
		return guarded_alloc(heap, align, size);
	return clear_alloc(heap, cache, align, size);
}

static int checked_free(struct ka_heap *heap, void *block)
{
	struct ka_pool *pool = ka_pool_of(ka_pools_of(heap), block);
	struct ka_cache *cache = ka_cache_for_free(&heap->caches);

	if (!cache)
		return -1;
	if (pool == &ka_no_pool)
		return guarded_free(heap, block);
	if (!ka_pool_begins_at(ka_pools_of(heap), pool, block))
		return ka_block_none_begins(block);
	if (check_tail(pool, block))
		return -1;
	memset(block, 0, pool->size);
	return ka_block_free(&heap->caches, cache, block);
}

/**
 * ka_checked_free() - Free a block.
 * @heap: The heap.
 * @block: The block.
 *
 * Return: 0, and errno is kept; -1 with errno and a message if no block begins there, or if the
 * program has written behind it.
 */
int ka_checked_free(struct ka_heap *heap, void *block)
{
	int before = errno, error = checked_free(heap, block);

	if (!error)
		errno = before;
	return error;
}

/**
 * ka_checked_size() - Get the usable size of a block.
 * @heap: The heap.
 * @block: The block.
 *
 * Return: Bytes; 0 with errno and a message if no block begins there, or if the program has
 * written behind it.
 */
size_t ka_checked_size(struct ka_heap *heap, const void *block)
{
	struct ka_pool *pool = ka_pool_of(ka_pools_of(heap), block);
	struct guarded guarded;

	if (pool == &ka_no_pool)
		return find_guarded(heap, block, &guarded) || check_guarded(&guarded) ?
		       0 : guarded.usable;
	if (!ka_pool_begins_at(ka_pools_of(heap), pool, block)) {
		ka_block_none_begins(block);
		return 0;
	}
	return check_tail(pool, (void *)block) ? 0 : pool->size - TAIL;
}

/**
 * ka_checked_resize() - Change the size of a block.
 * @heap: The heap.
 * @block: The block.
 * @size: Bytes.
 *
 * Return: The block, perhaps at another address; NULL with errno and a message, and the block
 * is unchanged.
 */
void *ka_checked_resize(struct ka_heap *heap, void *block, size_t size)
{
	size_t old = ka_checked_size(heap, block);
	void *other;

	if (!old)
		return NULL;
	if (size <= old && size >= old - old / 4)
		return block;
	other = ka_checked_alloc(heap, 0, size);
	if (!other)
		return size <= old ? block : NULL;
	memcpy(other, block, size < old ? size : old);
	return ka_checked_free(heap, block) ? NULL : other;
}
