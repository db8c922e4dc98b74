// SPDX-License-Identifier: MIT
/*
 * Pools of a heap: created from runs, and returned.
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/auxv.h>

#include "pool/pool.h"

struct ka_pool ka_no_pool;
uint64_t ka_secret;

/*
 * Maximum number of slots of spare pools: 4 MiB, and 2 MiB in a small heap. When a pool of
 * another class is created, and the spare pools have more than 2 MiB, all of them are returned.
 */
#define MOST_SPARE	256
#define FEW_SPARE	128

static bool may_be_spare(const struct ka_pools *pools, size_t slots)
{
	size_t most = pools->arenas.metadata->stats.run_bytes / KA_SLOT_SIZE / 16;

	most = most < FEW_SPARE ? FEW_SPARE : most < MOST_SPARE ? most : MOST_SPARE;
	return pools->arenas.spare_pages / KA_SLOT_PAGES + slots <= most;
}

/*
 * Minimum number of blocks of a pool, of which a sixteenth may stay unused. A thread seldom
 * needs the next pool if a pool has many blocks; but few large blocks should lie idle in each
 * class.
 */
static size_t pool_fewest_blocks(size_t size)
{
	if (size <= KA_PAGE_SIZE)
		return size <= KA_DIRECT_MAX ? 64 : 32;
	return size <= 8 * KA_PAGE_SIZE ? 8 : 2;
}

static unsigned int pool_slots(size_t size)
{
	unsigned int slots = 1;

	for (;;) {
		size_t bytes = slots * KA_SLOT_SIZE, count = bytes / size;

		if (count >= pool_fewest_blocks(size) && (bytes - count * size) * 16 <= bytes)
			return slots;
		slots++;
	}
}

/* A block whose size is a power of two is aligned to its size, so its pool is, too. */
static size_t pool_align(size_t size)
{
	return size > KA_SLOT_SIZE && !(size & (size - 1)) ? size : KA_SLOT_SIZE;
}

static void slots_map(struct ka_pools *pools, size_t slot, size_t count, struct ka_pool *pool)
{
	for (size_t i = slot; i < slot + count; i++)
		__atomic_store_n(&pools->map[i], pool, __ATOMIC_RELAXED);
}

/* The map grows in steps of 64 KiB, each for 64 arenas. */
#define MAP_STEP	((size_t)64 << 10)

/* Make memory for the map's entries of @nr_slots slots: 0, or an errno. */
static int map_reach(struct ka_pools *pools, size_t nr_slots)
{
	size_t size = (nr_slots * sizeof(void *) + MAP_STEP - 1) & ~(MAP_STEP - 1);
	size_t most = ka_window_map_size(&pools->arenas.window);
	char *end = (char *)pools->map + pools->map_size;

	size = size < most ? size : most;
	if (size <= pools->map_size)
		return 0;
	if (ka_mmap(end, size - pools->map_size, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE) != end)
		return ENOMEM;
	/* A huge page would cost 2 MiB at the first touch. */
	ka_madvise(end, size - pools->map_size, MADV_NOHUGEPAGE);
	pools->map_size = size;
	return 0;
}

/*
 * Extend the map to the slots of all arenas that have ever been used. The new slots have no
 * pool. 0, or an errno.
 */
static int slots_reach(struct ka_pools *pools)
{
	const struct ka_metadata *metadata = pools->arenas.metadata;
	size_t end = (metadata->nr_touched - metadata->nr_metadata) * KA_ARENA_SLOTS;
	int error;

	if (end <= pools->nr_slots)
		return 0;
	error = map_reach(pools, end);
	if (error)
		return error;
	slots_map(pools, pools->nr_slots, end - pools->nr_slots, &ka_no_pool);
	__atomic_store_n(&pools->nr_slots, end, __ATOMIC_RELEASE);
	return 0;
}

/* Remove the first spare pool of a class, or return NULL. */
static struct ka_pool *spare_pop(struct ka_pools *pools, unsigned int class)
{
	struct ka_pool *spare = pools->spare[class];

	if (!spare)
		return NULL;
	pools->spare[class] = spare->next;
	pools->nr_spare--;
	pools->arenas.spare_pages -= spare->slots * KA_SLOT_PAGES;
	__atomic_store_n(&spare->owner, KA_GONE, __ATOMIC_RELAXED);
	return spare;
}

/* Return the runs of all spare pools. The heap's lock is held. */
static void spare_drop(struct ka_arenas *arenas)
{
	struct ka_pools *pools = (struct ka_pools *)((char *)arenas -
						     offsetof(struct ka_pools, arenas));

	for (unsigned int class = 0; pools->nr_spare && class < KA_CLASSES; class++) {
		struct ka_pool *spare;

		while ((spare = spare_pop(pools, class)))
			ka_run_free_locked(arenas, ka_pool_start(pools, spare));
	}
}

/**
 * ka_pools_forget() - Forget all pools of a heap, whatever they contain; their runs stay.
 * @pools: The pools of the heap. No thread has a cache of them.
 *
 * Context: The heap's lock is held.
 */
void ka_pools_forget(struct ka_pools *pools)
{
	for (unsigned int class = 0; class < KA_CLASSES; class++) {
		while (spare_pop(pools, class))
			;
	}
	for (size_t slot = 0; slot < pools->nr_slots; slot++) {
		struct ka_pool *pool = pools->map[slot];

		if (pool == &ka_no_pool)
			continue;
		__atomic_store_n(&pool->owner, KA_GONE, __ATOMIC_RELAXED);
		__atomic_store_n(&pools->map[slot], &ka_no_pool, __ATOMIC_RELAXED);
	}
	memset(pools->shelf, 0, sizeof(pools->shelf));
	memset(pools->traced, 0, sizeof(pools->traced));
	pools->arenas.metadata->nr_pools = 0;
}

/* Reuse the slots of a spare pool of another class; false if none fits. */
static bool spare_pop_slots(struct ka_pools *pools, unsigned int count, size_t align,
			    size_t *slot)
{
	for (unsigned int class = 0; pools->nr_spare && class < KA_CLASSES; class++) {
		struct ka_pool *spare = pools->spare[class];

		if (!spare || spare->slots != count ||
		    ((uintptr_t)ka_pool_start(pools, spare) & (align - 1)))
			continue;
		*slot = ka_pool_slot(pools, spare_pop(pools, class));
		return true;
	}
	/* Some spare pools are kept for their own class, but not many. */
	if (pools->arenas.spare_pages > FEW_SPARE * KA_SLOT_PAGES)
		spare_drop(&pools->arenas);
	return false;
}

/*
 * Allocate slots for a pool, with entries in the metadata and in the map. @slot is set to the
 * first.
 */
static bool slots_alloc(struct ka_pools *pools, unsigned int count, size_t size, size_t *slot,
			bool *zero)
{
	char *run = ka_run_alloc_locked(&pools->arenas, count * KA_SLOT_SIZE, pool_align(size),
					size <= KA_PAGE_SIZE ? KA_PAGES_HUGE : KA_PAGES_SMALL,
					zero);
	int error;

	if (!run)
		return false;
	*slot = ka_slot_of(pools, run);
	error = ka_metadata_reach_pool(&pools->arenas, *slot);
	if (!error)
		error = slots_reach(pools);
	if (error) {
		ka_run_free_locked(&pools->arenas, run);
		ka_fail(error, "no memory for a pool's metadata");
		return false;
	}
	return true;
}

/* Create a pool on other slots than those of a spare pool of its class. */
static struct ka_pool *pool_make_new(struct ka_pools *pools, unsigned int class)
{
	size_t size = ka_class_size(class), slot;
	unsigned int slots = pool_slots(size);
	struct ka_pool *pool;
	bool zero = false;

	if (!spare_pop_slots(pools, slots, pool_align(size), &slot) &&
	    !slots_alloc(pools, slots, size, &slot, &zero))
		return NULL;
	pool = &pools->entries[slot];
	/*
	 * @owner stays KA_GONE until all members are set: the thread that freed the last block
	 * of the previous pool here may only now read @owner.
	 */
	pool->free = NULL;
	pool->used = 0;
	pool->made = 0;
	pool->remote = 0;
	pool->next = NULL;
	pool->prev = NULL;
	pool->capacity = (uint32_t)(slots * KA_SLOT_SIZE / size);
	pool->size = (uint32_t)size;
	pool->class = (uint8_t)class;
	pool->slots = (uint8_t)slots;
	pool->held = 0;
	pool->zero = zero;
	pool->thin = false;
	pool->down = false;
	__atomic_store_n(&pool->listed, false, __ATOMIC_RELAXED);
	return pool;
}

/**
 * ka_pool_make() - Create a pool, or reuse a spare one, whose blocks are still linked.
 * @pools: The pools of the heap.
 * @class: Size class of the blocks.
 * @owner: Number of the owner.
 *
 * Context: Takes the heap's lock.
 *
 * Return: The pool, perhaps without a linked block; NULL with errno and a message.
 */
struct ka_pool *ka_pool_make(struct ka_pools *pools, unsigned int class, uintptr_t owner)
{
	struct ka_pool *pool;

	ka_arenas_lock(&pools->arenas);
	pool = spare_pop(pools, class);
	if (!pool)
		pool = pool_make_new(pools, class);
	if (pool) {
		__atomic_store_n(&pool->owner, owner, __ATOMIC_RELAXED);
		slots_map(pools, ka_pool_slot(pools, pool), pool->slots, pool);
		pools->arenas.metadata->nr_pools++;
		ka_arenas_changed(&pools->arenas);
	}
	ka_arenas_unlock(&pools->arenas);
	return pool;
}

static void pool_make_spare(struct ka_pools *pools, struct ka_pool *pool)
{
	__atomic_store_n(&pool->owner, KA_SPARE, __ATOMIC_RELAXED);
	pool->next = pools->spare[pool->class];
	pools->spare[pool->class] = pool;
	pools->nr_spare++;
	pools->arenas.spare_pages += pool->slots * KA_SLOT_PAGES;
}

/**
 * ka_pool_return_locked() - Return a pool to the heap.
 * @pools: The pools of the heap.
 * @pool: A pool of the caller's, in no list. All of its blocks are free.
 *
 * Context: The heap's lock is held.
 */
void ka_pool_return_locked(struct ka_pools *pools, struct ka_pool *pool)
{
	size_t slots = pool->slots;

	ka_pool_check_empty(pools, pool);
	slots_map(pools, ka_pool_slot(pools, pool), slots, &ka_no_pool);
	/* The thread that has just freed the last block may still read @owner. */
	__atomic_store_n(&pool->owner, KA_GONE, __ATOMIC_RELAXED);
	pools->arenas.metadata->nr_pools--;
	if (may_be_spare(pools, slots))
		pool_make_spare(pools, pool);
	else
		ka_run_free_locked(&pools->arenas, ka_pool_start(pools, pool));
	/* A heap without pools keeps no spare ones if empty arenas are to be released. */
	if (!pools->arenas.metadata->nr_pools && pools->arenas.most_empty != SIZE_MAX)
		spare_drop(&pools->arenas);
	ka_arenas_decay(&pools->arenas);
	ka_arenas_changed(&pools->arenas);
}

/**
 * ka_pool_return() - As ka_pool_return_locked(), but takes the heap's lock.
 * @pools: The pools of the heap.
 * @pool: A pool of the caller's, in no list.
 */
void ka_pool_return(struct ka_pools *pools, struct ka_pool *pool)
{
	ka_arenas_lock(&pools->arenas);
	ka_pool_return_locked(pools, pool);
	ka_arenas_unlock(&pools->arenas);
}

/**
 * ka_pool_stats() - Count pools and their blocks.
 * @pools: The pools of the heap.
 * @stats: The members for pools and blocks are filled in.
 *
 * Context: The heap's lock is held. Other threads may allocate and free blocks during the call,
 * so each pool is counted as it was at some moment. Spare runs count as free.
 */
KA_COUNTS void ka_pool_stats(struct ka_pools *pools, struct ka_stats *stats)
{
	size_t slot = 0;

	stats->runs -= pools->nr_spare;
	stats->run_bytes -= pools->arenas.spare_pages * KA_PAGE_SIZE;
	stats->pools = pools->arenas.metadata->nr_pools;
	stats->pool_bytes = 0;
	stats->blocks = 0;
	stats->block_bytes = 0;
	stats->quantization_bytes = 0;
	while (slot < pools->nr_slots) {
		struct ka_pool *pool = pools->map[slot];
		size_t used;

		slot += pool == &ka_no_pool ? 1 : pool->slots;
		if (pool == &ka_no_pool)
			continue;
		used = ka_pool_in_use(pool);
		stats->pool_bytes += pool->slots * KA_SLOT_SIZE;
		stats->blocks += used;
		stats->block_bytes += used * pool->size;
		stats->quantization_bytes += pool->slots * KA_SLOT_SIZE -
					     (size_t)pool->capacity * pool->size;
	}
}

/* Reserve the map that finds pools by address: 0, or -1. */
static int map_open(struct ka_pools *pools)
{
	struct ka_window *window = &pools->arenas.window;
	size_t size = ka_window_map_size(window);

	pools->map_size = 0;
	if (window->claimed) {
		pools->map = (void *)(window->start + ka_window_size(window));
		return 0;
	}
	/* Reserves addresses only; pages are allocated as arenas are. */
	pools->map = ka_mmap(NULL, size, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
	if (pools->map == MAP_FAILED)
		return ka_fail(ENOMEM, "no address space for the map of a heap (see ulimit -v)");
	pools->map_size = size;
	/* A huge page would cost 2 MiB at the first touch; a page has the entries of 4 arenas. */
	ka_madvise(pools->map, size, MADV_NOHUGEPAGE);
	return 0;
}

/*
 * Make the secret of a heap. The kernel has passed 16 random bytes to the process at its start,
 * so no system call is needed, which a sandbox may forbid. Other values made of these bytes do
 * not reveal the secret.
 */
static void secret_open(struct ka_pools *pools)
{
	uint64_t random[2] = { 0 };
	const void *bytes = (const void *)getauxval(AT_RANDOM);

	if (bytes)
		memcpy(random, bytes, sizeof(random));
	random[0] += (uintptr_t)pools->arenas.window.start;
	random[1] += ka_clock();
	for (int i = 0; i < 4; i++) {
		__uint128_t product = (__uint128_t)(random[0] | 1) *
					    0x9e3779b97f4a7c15;

		random[0] = random[1] ^ (uint64_t)product;
		random[1] += (uint64_t)(product >> 64);
	}
	memcpy(pools->secret, random, sizeof(random));
	/* Links that are encoded with it must stay valid. */
	if (!ka_secret)
		ka_secret = random[0] * 0xd6e8feb86659fd93 ^ random[1];
}

/**
 * ka_pools_open() - Prepare a new heap for pools.
 * @pools: The pools of the heap, which has its window and its metadata.
 *
 * Return: 0, or -1 with errno and a message.
 */
int ka_pools_open(struct ka_pools *pools)
{
	const struct ka_metadata *metadata = pools->arenas.metadata;
	char *start = pools->arenas.window.start;

	if (map_open(pools))
		return -1;
	pools->start = start + metadata->nr_metadata * KA_ARENA_SIZE;
	pools->entries = (struct ka_pool *)(start + metadata->pools_offset);
	pools->arenas.drop_spare = spare_drop;
	secret_open(pools);
	return 0;
}
