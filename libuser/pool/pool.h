/* SPDX-License-Identifier: MIT */
/*
 * Pools: runs that are cut into blocks of one size class. The metadata of a pool lies in the
 * heap's metadata, not in the pool: a child that only frees copies no page of the pool, and
 * blocks are aligned as their size allows.
 *
 * A pool has an owner: a thread, which allocates blocks from it and frees its own blocks
 * without atomic operations. A pool that is full, or on the heap's shelf, has none. A thread
 * that frees a block of an unowned pool becomes its owner.
 *
 * Each pool is in one of these states. "In hand" means that one function of the owner holds
 * the pool, which is in no list:
 *
 *	@owner		state	list or table that has it
 *	a thread	current	by->current of the thread's cache; direct, larger, by->traced
 *				show it
 *	a thread	listed	by->partial of the thread's cache: it has free blocks
 *	a thread	in hand	none
 *	KA_NOBODY	full	none
 *	KA_SHELF	shelved	@shelf of struct ka_pools: it has free blocks
 *	KA_TRACED	traced	@traced there if it has free blocks, else none
 *	KA_SPARE	spare	@spare there: it is empty, and is no pool in the map
 *	KA_GONE		gone	none: its slots belong to another run, or are free
 *
 * These are all changes, with the lock that the changing thread holds:
 *
 *	gone, spare	-> in hand	ka_pool_make()			heap
 *	in hand		-> current	pool_make_current()		none
 *	current		-> in hand	ka_cache_drop_current()		none
 *	in hand		-> listed	ka_cache_list()			cache
 *	listed		-> in hand	ka_cache_unlist()		cache
 *	in hand		-> full		ka_pool_disown()		none: an exchange
 *	full		-> in hand	ka_pool_adopt()			none: compare-and-swap
 *	in hand		-> shelved	ka_pool_shelve()		heap
 *	shelved		-> in hand	ka_pool_unshelve(), _adopt()	heap
 *	in hand		-> spare, gone	ka_pool_return()		heap
 *	spare		-> gone		spare_drop()			heap
 *	gone, spare	-> traced	ka_pool_make() by the tracer	heap, traces
 *	traced		-> spare, gone	ka_pool_return() by it		heap, traces
 *	any thread's	-> shelved	orphans_shelve() in a child	all
 *
 * The owner makes the change, except for two: a thread that frees a block of an unowned pool
 * adopts it, and a thread that frees the last block of a listed pool of another thread returns
 * it, with the lock of the lists and that of the owner's cache.
 *
 * These guard a pool:
 *
 *	owner		all members not named below
 *	heap's lock	which pools there are; the shelf; @owner when a pool is put on the shelf
 *			or removed from it
 *	@remote		atomic: other threads push blocks, the owner collects them all
 *	cache's lock	the owner's lists. While a pool is listed, @used only falls, and
 *			@remote is collected only with the lock held: if the two are equal,
 *			no block of the pool is in use.
 *
 * While the process has one thread, changes of @owner are plain stores: that thread is the
 * one that creates a second one. Other threads than the owner only add KA_CALLED to @owner.
 */
#ifndef KARENA_POOL_H
#define KARENA_POOL_H

#include <sys/single_threaded.h>

#include "arena/arena.h"

/* No thread has one of these numbers. */
#define KA_NOBODY	((uintptr_t)0)
#define KA_SHELF	((uintptr_t)2)
#define KA_GONE		((uintptr_t)4)
#define KA_TRACED	((uintptr_t)6)
#define KA_SPARE	((uintptr_t)8)

/*
 * Added to an owner's number when other threads have freed blocks of the pool: the owner's
 * next free of one takes the slow path, which collects these blocks. Otherwise no thread
 * would notice that the pool becomes empty. The thread that finds @remote empty adds it, the owner
 * removes it before it collects.
 */
#define KA_CALLED	((uintptr_t)1)

/**
 * struct ka_free - A free block.
 * @mark: KA_FREED.
 * @doubtful: In @remote: the block was marked before it was freed.
 * @next: The next block of the list, encoded in the checked build: see ka_next().
 *
 * A marked block that a program frees may be free already, so free() searches the list of
 * free blocks for it. That finds most double frees with three instructions in free() and none
 * in malloc(), which leaves the mark: the first byte that the program writes to a block
 * overwrites it.
 */
struct ka_free {
	uint8_t mark;
	bool doubtful;
	struct ka_free *next;
};

/* No character begins with it, no address is as odd, and few numbers end with it. */
#define KA_FREED	0xf7

/**
 * struct ka_pool - A pool. The metadata of a heap has an array with an entry for each slot; a
 *	pool has the entry of its first slot.
 * @free: The first of the free blocks of the owner.
 * @owner: The owner's number, perhaps with KA_CALLED; or one of KA_NOBODY to KA_SPARE.
 * @used: Blocks in use, including those in @remote; one more while the pool is held, so that
 *	it does not become empty.
 * @made: Number of blocks that have been linked, from the pool's start on, or from its end on if
 *	it goes @down. The rest has no content.
 * @remote: Blocks that other threads have freed: the first in the low 48 bits, linked as in
 *	@free, and their number above it.
 * @next: The next pool of the list that has this one.
 * @prev: The one before it.
 * @capacity: Blocks that fit into the pool.
 * @size: Bytes of a block.
 * @class: Size class of the blocks.
 * @slots: Slots of the run.
 * @held: 1: the current pool, which the owner keeps when it becomes empty. Else 0.
 * @zero: Blocks that have never been in use are zero.
 * @thin: ka_pool_thin() has seen the pool, which has not been current since.
 * @down: Blocks are linked for the first time from the highest address to the lowest.
 * @listed: The pool is in its owner's list.
 */
struct ka_pool {
	struct ka_free *free;
	uintptr_t owner;
	uint32_t used;
	uint32_t made;
	uint64_t remote;
	struct ka_pool *next;
	struct ka_pool *prev;
	uint32_t capacity;
	uint32_t size;
	uint8_t class;
	uint8_t slots;
	uint8_t held;
	bool zero : 1;
	bool thin : 1;
	bool down : 1;
	bool listed;
};

_Static_assert(sizeof(struct ka_pool) == KA_SLOT_ENTRY, "a pool has a line of the cache");

/* A list of pools with free blocks. The pool that was added first is the first. */
struct ka_pool_list {
	struct ka_pool *first;
	struct ka_pool *last;
};

/* The process's secret, by which the checked build encodes links; 0 until there is a heap. */
extern uint64_t ka_secret;

/**
 * struct ka_pools - The pools of a heap.
 * @start: Start of the heap's first slot, in the arena behind the metadata.
 * @map: The pool of each slot, or &ka_no_pool.
 * @nr_slots: Slots of all arenas that have ever been used; only these are in @map.
 * @map_size: Bytes of the map that have memory.
 * @entries: The entries of the pools in the metadata.
 * @inherited: The heap is the parent's; the process cannot use it.
 * @index: Index of the heap's cache in the threads' tables.
 * @serial: Unique number: no other heap of the process has, or has had, it.
 * @arenas: The arenas of the heap, with its lock. The members above are read by each call
 *	without a lock, so they have a cache line of their own.
 * @secret: Decides the order in which the blocks of a new pool are linked.
 * @shelf: Unowned pools of each class with free blocks.
 * @traced: Pools of traced blocks of each class that have free blocks; the lock of the traces
 *	guards them.
 * @spare: Empty pools of each class, kept with their blocks linked.
 * @nr_spare: Number of spare pools.
 */
struct ka_pools {
	char *start;
	struct ka_pool **map;
	size_t nr_slots;
	size_t map_size;
	struct ka_pool *entries;
	bool inherited;
	size_t index;
	uint64_t serial;

	struct ka_arenas arenas __attribute__((aligned(64)));
	uint64_t secret[2];
	struct ka_pool_list shelf[KA_CLASSES];
	struct ka_pool_list traced[KA_CLASSES];
	struct ka_pool *spare[KA_CLASSES];
	size_t nr_spare;
};

/* True, with errno and a message, if the heap is the parent's. */
static inline bool ka_refuse_inherited(const struct ka_pools *pools)
{
	/* A child changes this before it runs the program, and never again. */
	return __builtin_expect(pools->inherited, 0) && ka_fail_inherited();
}

/* Number of pools of a list that are compared to find the next one to allocate from. */
#define KA_LOOK_AT	4

/* Stands for "no pool": it has no block and no owner. */
extern struct ka_pool ka_no_pool;

static inline size_t ka_pool_slot(const struct ka_pools *pools, const struct ka_pool *pool)
{
	return (size_t)(pool - pools->entries);
}

static inline char *ka_pool_start(const struct ka_pools *pools, const struct ka_pool *pool)
{
	return pools->start + ka_pool_slot(pools, pool) * KA_SLOT_SIZE;
}

/* True if a block, in use or free, begins at an address in a pool. Offsets have 32 bits. */
static inline bool ka_pool_begins_at(const struct ka_pools *pools, const struct ka_pool *pool,
				     const void *block)
{
	return !((uint32_t)((uintptr_t)block - (uintptr_t)ka_pool_start(pools, pool)) %
		 pool->size);
}

/* The free block behind one in a list; in the checked build its link is encoded. */
static inline struct ka_free *ka_next(const struct ka_free *block)
{
	uintptr_t next = (uintptr_t)block->next;

	if (KA_CHECKED)
		next ^= ka_secret ^ (uintptr_t)block >> 12;
	return (struct ka_free *)next;
}

static inline void ka_link(struct ka_free *block, struct ka_free *next)
{
	if (KA_CHECKED)
		next = (struct ka_free *)((uintptr_t)next ^ ka_secret ^ (uintptr_t)block >> 12);
	block->next = next;
}

/* True if a block is marked, and so may be free. */
static inline bool ka_is_marked(const void *block)
{
	return ((const struct ka_free *)block)->mark == KA_FREED;
}

/* The arena of the window that the pool lies in. */
static inline size_t ka_pool_arena(const struct ka_pools *pools, const struct ka_pool *pool)
{
	return pools->arenas.metadata->nr_metadata + ka_pool_slot(pools, pool) / KA_ARENA_SLOTS;
}

/* The slot of an address; outside of all arenas, a number of at least pools->nr_slots. */
static inline size_t ka_slot_of(const struct ka_pools *pools, const void *address)
{
	return ((uintptr_t)address - (uintptr_t)pools->start) >> KA_SLOT_SHIFT;
}

/* The pool of an address, or &ka_no_pool. */
static inline struct ka_pool *ka_pool_of(const struct ka_pools *pools, const void *address)
{
	size_t slot = ka_slot_of(pools, address);

	if (slot >= __atomic_load_n(&pools->nr_slots, __ATOMIC_ACQUIRE))
		return &ka_no_pool;
	return __atomic_load_n(&pools->map[slot], __ATOMIC_RELAXED);
}

/*
 * Bits of an address. The kernel returns larger ones only on request; the library requests
 * none.
 */
#define KA_REMOTE_BITS	48

static inline struct ka_free *ka_remote_first(uint64_t remote)
{
	return (struct ka_free *)(uintptr_t)(remote & ((UINT64_C(1) << KA_REMOTE_BITS) - 1));
}

static inline uint32_t ka_remote_count(uint64_t remote)
{
	return (uint32_t)(remote >> KA_REMOTE_BITS);
}

/* The owner's number, or KA_NOBODY to KA_SPARE. */
static inline uintptr_t ka_pool_owner(const struct ka_pool *pool)
{
	return __atomic_load_n(&pool->owner, __ATOMIC_RELAXED) & ~KA_CALLED;
}

/* For functions that only count: other threads may change the variables that these read. */
#define KA_COUNTS	__attribute__((no_sanitize("thread")))

/* Blocks of a pool that are in use. Other threads may allocate and free some during the call. */
KA_COUNTS static inline size_t ka_pool_in_use(const struct ka_pool *pool)
{
	size_t used = KA_READ(pool->used);
	size_t other = KA_READ(pool->held) + ka_remote_count(KA_READ(pool->remote));

	/* The two values may have been read at different moments. */
	used = used > other ? used - other : 0;
	return used < pool->capacity ? used : pool->capacity;
}

/* Put a pool at the end of a list. */
static inline void ka_pool_link(struct ka_pool_list *list, struct ka_pool *pool)
{
	pool->next = NULL;
	pool->prev = list->last;
	if (list->last)
		list->last->next = pool;
	else
		/* ka_pool_unshelve() reads it without the lock. */
		__atomic_store_n(&list->first, pool, __ATOMIC_RELAXED);
	list->last = pool;
}

static inline void ka_pool_unlink(struct ka_pool_list *list, struct ka_pool *pool)
{
	if (pool->prev)
		pool->prev->next = pool->next;
	else
		__atomic_store_n(&list->first, pool->next, __ATOMIC_RELAXED);
	if (pool->next)
		pool->next->prev = pool->prev;
	else
		list->last = pool->prev;
}

/* Move a pool to the end of its list. */
static inline void ka_pool_move_back(struct ka_pool_list *list, struct ka_pool *pool)
{
	ka_pool_unlink(list, pool);
	ka_pool_link(list, pool);
}

/*
 * Only a walk through the pool's free blocks shows whether a marked block is freed twice.
 * Programs that write to their blocks hardly ever cause one. For other programs, all walks
 * together end after KA_LOOKS blocks until malloc() takes its slow path again; each further
 * walk then ends after KA_FEW_LOOKS.
 */
#define KA_LOOKS	1024
#define KA_FEW_LOOKS	16

/* runs.c; the functions take the heap's lock */
void *ka_runs_alloc(struct ka_pools *pools, size_t size, size_t align);
void *ka_runs_alloc_zeroed(struct ka_pools *pools, size_t size, size_t align);
int ka_runs_free(struct ka_pools *pools, void *run);
size_t ka_runs_size(struct ka_pools *pools, const void *run);
bool ka_runs_resize(struct ka_pools *pools, void *run, size_t size);
enum ka_moved ka_runs_move(struct ka_pools *pools, void *run, void *other, size_t size);
void ka_runs_free_cleared(struct ka_pools *pools, void *run, size_t size, bool lost);

/* pool.c; ka_pools_open() returns 0, or -1 with errno and a message */
int ka_pools_open(struct ka_pools *pools);
struct ka_pool *ka_pool_make(struct ka_pools *pools, unsigned int class, uintptr_t owner);
void ka_pool_return_locked(struct ka_pools *pools, struct ka_pool *pool);
void ka_pool_return(struct ka_pools *pools, struct ka_pool *pool);
void ka_pool_stats(struct ka_pools *pools, struct ka_stats *stats);

/* freelist.c */
void ka_pool_corrupted(const struct ka_free *block) __attribute__((noreturn, cold));
void ka_pool_check(const struct ka_pools *pools, const struct ka_pool *pool, uint32_t most);
void ka_pool_check_empty(const struct ka_pools *pools, const struct ka_pool *pool);
bool ka_pool_has_free(const struct ka_pools *pools, const struct ka_pool *pool,
		      const void *block, uint32_t *looks);
void ka_pools_forget(struct ka_pools *pools);
void ka_pool_collect_some(struct ka_pools *pools, struct ka_pool *pool);
void ka_pool_extend(struct ka_pools *pools, struct ka_pool *pool);
size_t ka_pool_thin(struct ka_pools *pools, struct ka_pool *pool);

/* shelf.c */
void ka_pool_shelve(struct ka_pools *pools, struct ka_pool *pool);
void ka_pool_shelve_locked(struct ka_pools *pools, struct ka_pool *pool);
struct ka_pool *ka_pool_unshelve(struct ka_pools *pools, unsigned int class, uintptr_t owner);
bool ka_pool_adopt_unowned(struct ka_pools *pools, struct ka_pool *pool, uintptr_t owner);
bool ka_pool_disown(struct ka_pools *pools, struct ka_pool *pool);
void ka_pool_abandon(struct ka_pools *pools, struct ka_pool *pool);
void ka_pool_call(struct ka_pool *pool);

/* Become the owner of a pool if it has none. True: the caller has to collect its remote frees. */
static inline bool ka_pool_adopt(struct ka_pools *pools, struct ka_pool *pool, uintptr_t owner)
{
	uintptr_t now = __atomic_load_n(&pool->owner, __ATOMIC_SEQ_CST);

	return (now == KA_NOBODY || now == KA_SHELF) && ka_pool_adopt_unowned(pools, pool, owner);
}

/*
 * Collect the blocks that other threads have freed in the caller's pool. True if there were
 * any.
 */
static inline bool ka_pool_collect(struct ka_pools *pools, struct ka_pool *pool)
{
	if (!__atomic_load_n(&pool->remote, __ATOMIC_RELAXED))
		return false;
	ka_pool_collect_some(pools, pool);
	return true;
}

/* True if an eighth of a pool is free, so that it does not soon become full. */
static inline bool ka_pool_has_enough(const struct ka_pool *pool)
{
	return pool->capacity - pool->used >= pool->capacity / 8;
}

/*
 * True if blocks should be allocated from @pool rather than from @best. Of the pools that have
 * enough free blocks, the fullest is the best, so that the others become empty. If none has
 * enough, the pool with the most free blocks is the best.
 */
static inline bool ka_pool_is_better(const struct ka_pool *pool, const struct ka_pool *best)
{
	bool enough = ka_pool_has_enough(pool);
	bool was = ka_pool_has_enough(best);

	if (enough != was)
		return enough;
	return enough ? pool->used > best->used : pool->used < best->used;
}

/*
 * A held pool counts one block more as in use. @held is set after @used and cleared before it:
 * a child that is forked in between subtracts @held from @used, which must count it by then.
 */
static inline void ka_pool_hold(struct ka_pool *pool)
{
	pool->used++;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	pool->held = 1;
}

/* Undo ka_pool_hold(): the caller's pool may become empty. */
static inline void ka_pool_unhold(struct ka_pool *pool)
{
	uint32_t held = pool->held;

	pool->held = 0;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	pool->used -= held;
}

#endif /* KARENA_POOL_H */
