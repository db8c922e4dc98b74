// SPDX-License-Identifier: MIT
/*
 * The free blocks of a pool: linked in lists, checked, collected, and returned with their
 * pages. The caller owns the pool.
 */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "pool/pool.h"

/* Only pools with at most this many blocks are thinned. A pool of one slot never has more. */
#define MOST_THIN	(KA_SLOT_SIZE / KA_CLASS_STEP)

/* The first block of a pool, and the distance of its blocks, prepared for block_at(). */
struct ruler {
	uintptr_t first;
	uint64_t inverse;
	unsigned int shift;
};

/* The blocks of a pool have indices in the order in which they are linked for the first time. */
static inline char *block_of(const struct ka_pools *pools, const struct ka_pool *pool,
			     uint32_t index)
{
	uint32_t position = pool->down ? pool->capacity - 1 - index : index;

	return ka_pool_start(pools, pool) + (size_t)position * pool->size;
}

/* The distance of a block to the one with the next index. */
static ptrdiff_t pool_step(const struct ka_pool *pool)
{
	return pool->down ? -(ptrdiff_t)pool->size : (ptrdiff_t)pool->size;
}

static inline struct ruler ruler_of(const struct ka_pools *pools, const struct ka_pool *pool)
{
	/* Inverses of the odd numbers below 16, modulo 2^64. No size has a larger odd part. */
	static const uint64_t inverses[] = {
		1, 0xaaaaaaaaaaaaaaab, 0xcccccccccccccccd, 0x6db6db6db6db6db7,
		0x8e38e38e38e38e39, 0x2e8ba2e8ba2e8ba3, 0x4ec4ec4ec4ec4ec5, 0xeeeeeeeeeeeeeeef,
	};
	unsigned int shift = (unsigned int)__builtin_ctz(pool->size);
	uint64_t inverse = inverses[pool->size >> shift >> 1];

	return (struct ruler){
		.first = (uintptr_t)block_of(pools, pool, 0),
		.inverse = pool->down ? -inverse : inverse,
		.shift = shift,
	};
}

/*
 * The index of the block that begins at an address; if none does, a number larger than any pool
 * has blocks. An exact division by the size is a multiplication by the inverse of its odd part
 * and a rotation by the rest (Granlund, Montgomery 1994).
 */
static inline uint64_t block_at(struct ruler ruler, const void *address)
{
	uint64_t quotient = ((uintptr_t)address - ruler.first) * ruler.inverse;

	return quotient >> ruler.shift | quotient << (64 - ruler.shift);
}

/* True if an entry of a list of free blocks is wrong. @left: the blocks that may still follow. */
static inline bool block_is_wrong(struct ruler ruler, const struct ka_pool *pool,
				  const struct ka_free *block, uint32_t *left)
{
	return __builtin_expect(block_at(ruler, block) >= pool->made || !(*left)-- ||
				block->mark != KA_FREED, 0);
}

/* End the program, since one of the blocks from @first on is wrong. */
static void __attribute__((noreturn, cold))
list_is_broken(const struct ka_pools *pools, const struct ka_pool *pool,
	       const struct ka_free *first)
{
	struct ruler ruler = ruler_of(pools, pool);
	const struct ka_free *last = first;
	uint32_t left = pool->made;

	for (; !block_is_wrong(ruler, pool, first, &left); first = ka_next(first))
		last = first;
	ka_fail(EINVAL, "the list of free blocks of %u bytes is broken at %p: the program has freed"
		" a block twice, written to a freed block, or freed an address that is no block",
		pool->size, last);
	ka_die("free");
}

void ka_pool_corrupted(const struct ka_free *block)
{
	ka_fail(EINVAL, "the program has written to the block %p after it was freed", block);
	ka_die("malloc");
}

/* True if a block that was marked when another thread freed it is in the list of free blocks. */
static bool remote_is_free(const struct ka_pools *pools, const struct ka_pool *pool,
			   const struct ka_free *block, uint32_t *looks)
{
	uint32_t few = KA_FEW_LOOKS;

	return ka_pool_has_free(pools, pool, block, *looks > KA_FEW_LOOKS ? looks : &few);
}

/*
 * Check the blocks that other threads have freed, and return the last one. A double free makes
 * the list a circle; a write to a free block breaks the chain.
 */
static struct ka_free *remote_check(const struct ka_pools *pools, const struct ka_pool *pool,
				    uint64_t remote)
{
	struct ka_free *block = ka_remote_first(remote), *last = block;
	uint32_t left = ka_remote_count(remote), looks = KA_LOOKS;
	struct ruler ruler = ruler_of(pools, pool);

	for (; block; block = ka_next(block)) {
		if (block_is_wrong(ruler, pool, block, &left) ||
		    (__builtin_expect(block->doubtful, 0) &&
		     remote_is_free(pools, pool, block, &looks)))
			list_is_broken(pools, pool, block);
		last = block;
	}
	return last;
}

/**
 * ka_pool_check() - End the program if a pool's list of free blocks is broken.
 * @pools: The pools of the heap.
 * @pool: A pool of the caller's.
 * @most: Maximum number of blocks to check, from the first on.
 *
 * A child's pool may have lost some blocks at the fork.
 */
void ka_pool_check(const struct ka_pools *pools, const struct ka_pool *pool, uint32_t most)
{
	struct ruler ruler = ruler_of(pools, pool);
	uint32_t left = pool->made;

	for (const struct ka_free *block = pool->free; block && most--;
	     block = ka_next(block)) {
		if (block_is_wrong(ruler, pool, block, &left))
			list_is_broken(pools, pool, pool->free);
	}
}

/* A byte for each block of a pool, 1 or 0. */
union block_bytes {
	uint8_t bytes[MOST_THIN];
	uint64_t words[MOST_THIN / 8];
};

/* Clear the bytes of blocks. The compiler would turn plain stores into a call of memset(). */
static void bytes_clear(union block_bytes *map, uint64_t bytes)
{
	for (uint64_t i = 0; i < bytes; i += 8)
		__atomic_store_n(&map->words[i / 8], 0, __ATOMIC_RELAXED);
}

static uint64_t bytes_count(const union block_bytes *map, uint64_t bytes)
{
	uint64_t count = 0;

	/* The product has the sum of a word's bytes in its upper byte. */
	for (uint64_t i = 0; i < bytes; i += 8)
		count += map->words[i / 8] * 0x0101010101010101 >> 56;
	return count;
}

/*
 * True if all blocks of an empty pool are marked, and each is either the first block of the list
 * or the next one of exactly one block. This reads the blocks in the order of their addresses,
 * so the processor can fetch them ahead. A walk through the list would wait for each block.
 *
 * There is one link more than there are blocks: that to the first block. If one link is NULL,
 * and each block is linked, then no block is linked twice. Blocks in a circle apart from the list
 * pass, as they do in a walk; no double free makes such a circle.
 */
static bool list_is_whole(const struct ka_pools *pools, const struct ka_pool *pool)
{
	const char *at = block_of(pools, pool, 0);
	struct ruler ruler = ruler_of(pools, pool);
	const struct ka_free *next = pool->free;
	uint64_t made = pool->made, index;
	union block_bytes linked;
	ptrdiff_t step = pool_step(pool);
	const char *end = at + (ptrdiff_t)made * step;
	bool ends = false;

	if (made > MOST_THIN)
		return false;
	bytes_clear(&linked, made);
	for (;; at += step) {
		index = block_at(ruler, next);
		if (__builtin_expect(index < made, 1))
			linked.bytes[index] = 1;
		else if (!next)
			ends = true;
		else
			return false;
		if (at == end)
			return ends && bytes_count(&linked, made) == made;
		if (!ka_is_marked(at))
			return false;
		next = ka_next((const struct ka_free *)at);
	}
}

/**
 * ka_pool_check_empty() - End the program if the list of free blocks of an empty pool is broken.
 * @pools: The pools of the heap.
 * @pool: A pool of the caller's, with no block in use.
 */
void ka_pool_check_empty(const struct ka_pools *pools, const struct ka_pool *pool)
{
	if (!list_is_whole(pools, pool))
		ka_pool_check(pools, pool, UINT32_MAX);
}

/**
 * ka_pool_has_free() - Search a pool's list of free blocks for a block.
 * @pools: The pools of the heap.
 * @pool: A pool of the caller's.
 * @block: The first byte of one of its blocks.
 * @looks: Maximum number of free blocks to search, from the one freed last on. The call
 *	subtracts those that it has searched.
 *
 * Ends the program if the list is broken.
 *
 * Return: True if the block was found.
 */
bool ka_pool_has_free(const struct ka_pools *pools, const struct ka_pool *pool,
		      const void *block, uint32_t *looks)
{
	struct ruler ruler = ruler_of(pools, pool);
	const struct ka_free *each = pool->free;
	uint32_t left = pool->made;

	for (; each && each != block && *looks; each = ka_next(each), --*looks) {
		if (block_is_wrong(ruler, pool, each, &left))
			list_is_broken(pools, pool, pool->free);
	}
	return each == block;
}

/**
 * ka_pool_collect_some() - Collect the blocks that other threads have freed.
 * @pools: The pools of the heap.
 * @pool: A pool of the caller's.
 */
void ka_pool_collect_some(struct ka_pools *pools, struct ka_pool *pool)
{
	struct ka_free *last;
	uint64_t remote;

	if (KA_READ(pool->owner) & KA_CALLED)
		__atomic_store_n(&pool->owner, ka_pool_owner(pool), __ATOMIC_RELAXED);
	/* A thread that finds @remote empty from here on adds KA_CALLED again. */
	remote = __atomic_exchange_n(&pool->remote, 0, __ATOMIC_ACQ_REL);
	if (!remote)
		return;
	last = remote_check(pools, pool, remote);
	ka_link(last, pool->free);
	pool->free = ka_remote_first(remote);
	/* Pairs with a thread that frees one more block: see ka_cache_return_empty(). */
	__atomic_store_n(&pool->used, pool->used - ka_remote_count(remote),
			 __ATOMIC_SEQ_CST);
}

/*
 * Draw a number that depends on the heap's secret, and differs at each draw. Two children of one
 * process draw the same numbers.
 */
static uint64_t random_draw(const struct ka_pools *pools)
{
	static uint64_t drawn;
	uint64_t random = pools->secret[0] ^
			  __atomic_add_fetch(&drawn, 1, __ATOMIC_RELAXED);

	/* After one multiplication, the lowest bits of such numbers would follow a pattern. */
	for (int i = 0; i < 3; i++) {
		__uint128_t product = (__uint128_t)(random ^ pools->secret[1]) *
				      0x9e3779b97f4a7c15;

		random = (uint64_t)product ^ (uint64_t)(product >> 64);
	}
	return random;
}

/*
 * Link neighbouring blocks, and return the first. The list begins behind the first @skipped
 * blocks, which come last.
 */
static struct ka_free *blocks_link(char *start, ptrdiff_t step, uint32_t count, uint32_t skipped)
{
	struct ka_free *first = (struct ka_free *)start, *last = first, *next;

	for (uint32_t i = 1; i < count; i++) {
		next = (struct ka_free *)((char *)last + step);
		last->mark = KA_FREED;
		ka_link(last, next);
		last = next;
	}
	last->mark = KA_FREED;
	ka_link(last, NULL);
	if (skipped) {
		ka_link(last, first);
		last = (struct ka_free *)(start + (ptrdiff_t)(skipped - 1) * step);
		first = ka_next(last);
		ka_link(last, NULL);
	}
	return first;
}

/*
 * Choose the direction in which the blocks of a pool are linked, and how many blocks of the first
 * page come last. Both depend on the heap's secret. The other pages continue in the same direction,
 * because a program that walks through its blocks would wait for memory at each change.
 */
static uint32_t pool_begin(const struct ka_pools *pools, struct ka_pool *pool, uint32_t count)
{
	uint64_t random = random_draw(pools);

	pool->down = random & 1;
	return (uint32_t)((random >> 32) * count >> 32);
}

/**
 * ka_pool_extend() - Link a page of blocks that have never been in use.
 * @pools: The pools of the heap.
 * @pool: A pool of the caller's without a free block, but with blocks that are not linked yet.
 */
void ka_pool_extend(struct ka_pools *pools, struct ka_pool *pool)
{
	uint32_t count = 1, skipped = 0;
	struct ka_free *first;
	char *start;

	if (pool->size <= KA_PAGE_SIZE / 2) {
		count = (uint32_t)KA_PAGE_SIZE / pool->size;
		if (count > pool->capacity - pool->made)
			count = pool->capacity - pool->made;
		if (!pool->made)
			skipped = pool_begin(pools, pool, count);
	}
	start = block_of(pools, pool, pool->made);
	if (KA_CHECKED && !pool->zero)
		memset(pool->down ? block_of(pools, pool, pool->made + count - 1) : start, 0,
		       (size_t)count * pool->size);
	first = blocks_link(start, pool_step(pool), count, skipped);
	/*
	 * In this order: a child that is forked between the two stores only loses these blocks.
	 */
	__atomic_store_n(&pool->made, pool->made + count, __ATOMIC_RELEASE);
	__atomic_store_n(&pool->free, first, __ATOMIC_RELEASE);
}

/* Number of a pool's blocks up to the last one in use. Ends the program if the list is broken. */
static uint32_t pool_blocks_to_keep(const struct ka_pools *pools, const struct ka_pool *pool)
{
	struct ruler ruler = ruler_of(pools, pool);
	uint32_t keep = pool->made, left = keep;
	uint64_t map[MOST_THIN / 64] = { 0 };

	for (const struct ka_free *block = pool->free; block; block = ka_next(block)) {
		if (block_is_wrong(ruler, pool, block, &left))
			list_is_broken(pools, pool, pool->free);
		ka_change_bits(map, block_at(ruler, block), 1, true);
	}
	while (keep && ka_test_bit(map, keep - 1))
		keep--;
	return keep;
}

/* Remove the blocks from an index on from the list of free blocks. */
static void pool_unlink_from(const struct ka_pools *pools, struct ka_pool *pool, uint32_t index)
{
	struct ruler ruler = ruler_of(pools, pool);
	struct ka_free *block = pool->free, *last = NULL, *next;

	for (; block; block = next) {
		next = ka_next(block);
		if (block_at(ruler, block) < index)
			last = block;
		else if (last)
			ka_link(last, next);
		else
			pool->free = next;
	}
}

/* Find the pages of a pool in which only blocks from an index on lie. Returns their number. */
static size_t pool_pages_from(const struct ka_pool *pool, uint32_t index, size_t *first)
{
	size_t keep = (size_t)index * pool->size, made = (size_t)pool->made * pool->size;
	size_t all = (size_t)pool->capacity * pool->size, end;

	if (pool->down) {
		*first = (all - made) / KA_PAGE_SIZE;
		end = (all - keep) / KA_PAGE_SIZE;
	} else {
		*first = (keep + KA_PAGE_SIZE - 1) / KA_PAGE_SIZE;
		end = (made + KA_PAGE_SIZE - 1) / KA_PAGE_SIZE;
	}
	return end > *first ? end - *first : 0;
}

/**
 * ka_pool_thin() - Purge the pages behind a pool's last block in use.
 * @pools: The pools of the heap.
 * @pool: A pool of the caller's, not a current one.
 *
 * The blocks in purged pages are no longer linked. Does nothing on the module, which would have
 * to split huge frames.
 *
 * Return: The number of purged pages.
 */
size_t ka_pool_thin(struct ka_pools *pools, struct ka_pool *pool)
{
	const struct ka_source_type *source = pools->arenas.window.source;
	size_t first = ka_pool_slot(pools, pool) % KA_ARENA_SLOTS * KA_SLOT_PAGES, from, pages;
	uint64_t map[KA_MAP_WORDS] = { 0 };
	uint32_t keep;

	pool->thin = true;
	if (source->frames || pools->arenas.window.io || pool->capacity > MOST_THIN)
		return 0;
	keep = pool_blocks_to_keep(pools, pool);
	pages = pool_pages_from(pool, keep, &from);
	if (!pages)
		return 0;
	/* A child that is forked between the two steps only loses these blocks. */
	pool_unlink_from(pools, pool, keep);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	pool->zero = false;
	pool->made = keep;
	ka_change_bits(map, first + from, pages, true);
	if (!source->purge(&pools->arenas.window, ka_pool_arena(pools, pool), map))
		return 0;
	return pages;
}
