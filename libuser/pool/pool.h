/* SPDX-License-Identifier: MIT */
/*
 * Pools: runs that are cut into blocks of one size class. What is known of a pool
 * stands in the heap's notes, not in the pool: a child that only frees copies none
 * of the pool's pages, and blocks are aligned as their size allows.
 *
 * A pool has an owner, a thread, which alone takes blocks from it and may put back
 * its own without an atomic operation; or none, when it is full, or on the heap's
 * shelf. Who frees a block of a pool without an owner becomes that.
 *
 *	owner		guards what it does not say otherwise of
 *	heap->lock	which pools there are; the shelf, and from and to it, the owner
 *	@remote		atomic: blocks that others have freed; taken by the owner
 *	cache->lock	the owner's list of pools with free blocks; and who may take an empty
 *			one out of it, which is not the owner alone. While a pool is in it,
 *			@used falls only, and @remote is not collected but with the lock
 *			held: if the two are equal, nobody has a block of the pool.
 *
 * The owner changes from KA_NOBODY by compare-and-swap, to that by the owner. As long as
 * there is but one thread, both are plain stores: who creates a second one is that thread.
 * Other threads than the owner change no more of it than KA_CALLED.
 */
#ifndef KARENA_POOL_H
#define KARENA_POOL_H

#include <sys/single_threaded.h>

#include "arena/arena.h"

/* No thread has one of these for its number. */
#define KA_NOBODY	((uintptr_t)0)
#define KA_SHELF	((uintptr_t)2)
#define KA_GONE		((uintptr_t)4)	/* this is no pool any more */
#define KA_TRACED	((uintptr_t)6)	/* its blocks are traced; see trace.h */
#define KA_SPARE	((uintptr_t)8)	/* empty, and kept for its class */

/*
 * With an owner's number: others have freed blocks of the pool. So the owner's next free
 * of one is a slow one, which collects them: it may be the last one, and that would be seen
 * by nobody. Whoever finds @remote empty sets it, the owner clears it before it collects.
 */
#define KA_CALLED	((uintptr_t)1)

/**
 * struct ka_free - A free block, of which the program has nothing any more.
 * @mark: KA_FREED.
 * @doubtful: In @remote: it had been marked when it was freed.
 * @next: The next one of the list: see ka_next().
 *
 * A block that is about to be freed, and is marked, may be free already: then the list is
 * asked. So what would be handed out a second time is found by three instructions of free()
 * and none of malloc(), which leaves the mark. The first thing that is written to a block
 * takes it away.
 */
struct ka_free {
	uint8_t mark;
	bool doubtful;
	struct ka_free *next;
};

/* No character begins with it, no address is as odd, and few numbers end with it. */
#define KA_FREED	0xf7

/**
 * struct ka_pool - A pool. Those of a heap are an array in its notes, with an entry
 *	for each slot; a pool has that of its first one.
 * @free: Blocks that can be taken, linked to each other.
 * @owner: The thread whose it is, perhaps with KA_CALLED; or one of KA_NOBODY to KA_SPARE.
 * @used: Blocks that are in use, those in @remote among them; one more while it is
 *	held, so that it does not become empty.
 * @made: Blocks that have been in use, or linked, since the rest had no memory.
 * @remote: Blocks that others than the owner have freed: the first, linked as in
 *	@free, in the low 48 bits, and above them how many they are.
 * @next: In its owner's list of the class, or on the shelf: pools with free blocks.
 * @prev: Likewise.
 * @capacity: Blocks that it has room for.
 * @size: Bytes of a block.
 * @class: The block's class.
 * @slots: Slots that the run has.
 * @held: It is its owner's current pool, and stays that when it is empty: 1 or 0.
 * @zero: What has never been in use is zero.
 * @thin: It has been looked at whether its end can go, and not been current since.
 * @listed: It is in its owner's list.
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
	bool listed;
};

_Static_assert(sizeof(struct ka_pool) == KA_SLOT_ENTRY, "a pool has a line of the cache");

/* Pools with free blocks: which had the first of them longest ago is the first. */
struct ka_pool_list {
	struct ka_pool *first;
	struct ka_pool *last;
};

/* Of the process, to encode links by in the checked build; 0 until there is a heap. */
extern uint64_t ka_secret;

/**
 * struct ka_pools - The pools of a heap.
 * @start: Of the heap's first slot, in the arena behind the notes.
 * @map: The pool of each slot, or &ka_no_pool.
 * @nr_slots: Slots of all arenas that have ever been used; only these are in @map.
 * @map_size: How much of the map has memory, in bytes.
 * @entries: The pools' entries in the notes.
 * @inherited: The heap is the parent's; nothing can be done with it.
 * @index: Where the threads' tables have their cache of the heap.
 * @serial: No other heap of the process has, or has had, this number.
 * @arenas: What the pools lie in, with the heap's lock. What is above, each call reads
 *	without a lock, so it has a line of the cache to itself.
 * @secret: What decides in which order pools have their blocks.
 * @shelf: Pools of each class with free blocks that have no owner.
 * @traced: Pools of each class with free blocks whose others are traced; the lock of
 *	the traces guards them.
 * @spare: What were pools of each class a moment ago, with their blocks linked.
 * @nr_spare: How many these are.
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

/* True, with errno and a sentence, if the heap is the parent's. */
static inline bool ka_refuse_inherited(const struct ka_pools *pools)
{
	/* It changes in a child before that runs, and never again. */
	return __builtin_expect(pools->inherited, 0) && ka_fail_inherited();
}

/* How many pools of a list are looked at, to find the one to take from next. */
#define KA_LOOK_AT	4

/* What stands for no pool: it has no block, and nobody owns it. */
extern struct ka_pool ka_no_pool;

static inline size_t ka_pool_slot(const struct ka_pools *pools, const struct ka_pool *pool)
{
	return (size_t)(pool - pools->entries);
}

static inline char *ka_pool_start(const struct ka_pools *pools, const struct ka_pool *pool)
{
	return pools->start + ka_pool_slot(pools, pool) * KA_SLOT_SIZE;
}

/* Whether a block, in use or not, begins at an address in a pool, which has 32 bits of them. */
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

/* Whether a block is marked: it may be free. */
static inline bool ka_is_marked(const void *block)
{
	return ((const struct ka_free *)block)->mark == KA_FREED;
}

/* Which arena of the window it lies in. */
static inline size_t ka_pool_arena(const struct ka_pools *pools, const struct ka_pool *pool)
{
	return pools->arenas.notes->nr_notes + ka_pool_slot(pools, pool) / KA_ARENA_SLOTS;
}

/* The slot that an address lies in; no less than heap->nr_slots outside of all arenas. */
static inline size_t ka_slot_of(const struct ka_pools *pools, const void *address)
{
	return ((uintptr_t)address - (uintptr_t)pools->start) >> KA_SLOT_SHIFT;
}

/* The pool that an address lies in; or &ka_no_pool. */
static inline struct ka_pool *ka_pool_of(const struct ka_pools *pools, const void *address)
{
	size_t slot = ka_slot_of(pools, address);

	if (slot >= __atomic_load_n(&pools->nr_slots, __ATOMIC_ACQUIRE))
		return &ka_no_pool;
	return __atomic_load_n(&pools->map[slot], __ATOMIC_RELAXED);
}

/* No address of a process has more bits, unless it asks for such; the library does not. */
#define KA_REMOTE_BITS	48

static inline struct ka_free *ka_remote_first(uint64_t remote)
{
	return (struct ka_free *)(uintptr_t)(remote & ((UINT64_C(1) << KA_REMOTE_BITS) - 1));
}

static inline uint32_t ka_remote_count(uint64_t remote)
{
	return (uint32_t)(remote >> KA_REMOTE_BITS);
}

/* The number of the thread whose pool it is; or what stands for none. */
static inline uintptr_t ka_pool_owner(const struct ka_pool *pool)
{
	return __atomic_load_n(&pool->owner, __ATOMIC_RELAXED) & ~KA_CALLED;
}

/* For who only counts, and takes what another thread is changing as it comes. */
#define KA_COUNTS	__attribute__((no_sanitize("thread")))

/* Blocks of a pool that the program has, while other threads may be at it. */
KA_COUNTS static inline size_t ka_pool_in_use(const struct ka_pool *pool)
{
	size_t used = KA_READ(pool->used);
	size_t other = KA_READ(pool->held) + ka_remote_count(KA_READ(pool->remote));

	/* A moment ago, or a moment later, the two go together. */
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
		/* Looked at without the lock: see ka_pool_unshelve(). */
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

/* To the end of the list that it is in. */
static inline void ka_pool_move_back(struct ka_pool_list *list, struct ka_pool *pool)
{
	ka_pool_unlink(list, pool);
	ka_pool_link(list, pool);
}

/*
 * Whether a marked block is freed twice, only a walk through the pool's free blocks can tell.
 * A program that writes to its blocks hardly ever causes one. For other programs, the walks
 * end after so many blocks until malloc is slow again, and then each after a few.
 */
#define KA_LOOKS	1024
#define KA_FEW_LOOKS	16

/* runs.c, which takes the heap's lock; see there. */
void *ka_runs_take(struct ka_pools *pools, size_t size, size_t align);
void *ka_runs_zeroed(struct ka_pools *pools, size_t size, size_t align);
int ka_runs_give(struct ka_pools *pools, void *run);
size_t ka_runs_size(struct ka_pools *pools, const void *run);
bool ka_runs_resize(struct ka_pools *pools, void *run, size_t size);
enum ka_moved ka_runs_move(struct ka_pools *pools, void *run, void *other, size_t size);
void ka_runs_give_gone(struct ka_pools *pools, void *run, size_t size, bool lost);

/* pool.c; the first: 0, or -1 with errno and a sentence. */
int ka_pools_open(struct ka_pools *pools);
struct ka_pool *ka_pool_make(struct ka_pools *pools, unsigned int class, uintptr_t owner);
void ka_pool_take_is_wrong(const struct ka_free *block) __attribute__((noreturn, cold));
void ka_pool_check(const struct ka_pools *pools, const struct ka_pool *pool, uint32_t most);
bool ka_pool_has_free(const struct ka_pools *pools, const struct ka_pool *pool,
		      const void *block, uint32_t *looks);
void ka_pools_forget(struct ka_pools *pools);
void ka_pool_give_back(struct ka_pools *pools, struct ka_pool *pool);
void ka_pool_collect_some(struct ka_pools *pools, struct ka_pool *pool);
void ka_pool_extend(struct ka_pools *pools, struct ka_pool *pool);
size_t ka_pool_thin(struct ka_pools *pools, struct ka_pool *pool);
void ka_pool_shelve(struct ka_pools *pools, struct ka_pool *pool);
void ka_pool_shelve_locked(struct ka_pools *pools, struct ka_pool *pool);
struct ka_pool *ka_pool_unshelve(struct ka_pools *pools, unsigned int class, uintptr_t owner);
bool ka_pool_adopt(struct ka_pools *pools, struct ka_pool *pool, uintptr_t owner);
bool ka_pool_disown(struct ka_pools *pools, struct ka_pool *pool);
void ka_pool_leave(struct ka_pools *pools, struct ka_pool *pool);
void ka_pool_call(struct ka_pool *pool);
void ka_pool_figures(struct ka_pools *pools, struct ka_stats *stats);

/* Take what others have freed of the caller's pool; whether there was anything. */
static inline bool ka_pool_collect(struct ka_pools *pools, struct ka_pool *pool)
{
	if (!__atomic_load_n(&pool->remote, __ATOMIC_RELAXED))
		return false;
	ka_pool_collect_some(pools, pool);
	return true;
}

/* Whether so much of a pool is free that it does not run out at once: an eighth. */
static inline bool ka_pool_has_enough(const struct ka_pool *pool)
{
	return pool->capacity - pool->used >= pool->capacity / 8;
}

/*
 * Whether a pool is a better one to take from than another: whether it is fuller, so that
 * the others become empty, as long as it has enough; else whether it has more free blocks.
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
 * That a pool is held counts as a block in use. Whenever a child may be forked, no more is
 * held than counted: the child, which lets go of it, would lose count of a block in use.
 */
static inline void ka_pool_hold(struct ka_pool *pool)
{
	pool->used++;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	pool->held = 1;
}

/* Let the caller's pool be empty when it is. */
static inline void ka_pool_let_go(struct ka_pool *pool)
{
	uint32_t held = pool->held;

	pool->held = 0;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	pool->used -= held;
}

#endif /* KARENA_POOL_H */
