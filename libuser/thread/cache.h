/* SPDX-License-Identifier: MIT */
/*
 * Caches: the pools that a thread has of a heap. The inline functions allocate a block from
 * such a pool and free it without locks and atomic operations; most calls do no more.
 *
 * A thread allocates blocks of a class from its current pool. It disowns pools that become
 * full; pools with free blocks are in @partial. An empty pool is returned to the heap at once,
 * even if another thread has freed its last block: its owner might be idle and keep it. The
 * current pool is returned too, unless it keeps becoming empty and being needed again: then the
 * thread holds it.
 *
 * The tables @direct, @larger and @traced show current pools. Another thread that starts or
 * stops tracing clears them, so all stores to them are atomic; see pool_show() in current.h.
 *
 * A preloaded malloc has a thread's cache in static thread-local storage, where the loader has
 * little room: under LD_AUDIT some 1,800 bytes for all preloaded libraries. So the cache itself
 * only has the tables that malloc reads; a page holds the rest.
 */
#ifndef KARENA_CACHE_H
#define KARENA_CACHE_H

#include "pool/pool.h"

/* Maximum number of heaps with blocks at a time. */
#define KA_HEAPS	((size_t)1024)

/**
 * struct ka_by_class - The part of a cache that lies in a page of its own.
 * @traced: Replaces @direct while blocks are traced; the entry of size 0 stays empty.
 * @current: Current pool of each class, or &ka_no_pool.
 * @emptied: How often the current pool has become empty; see pool_try_hold() in free.c.
 * @skipped: How often a pool outside of @partial was the next one since the pools in @partial
 *	were last compared; see pool_may_skip() in free.c.
 * @partial: Pools of each class with free blocks.
 */
struct ka_by_class {
	struct ka_pool *traced[KA_DIRECT];
	struct ka_pool *current[KA_CLASSES];
	uint8_t emptied[KA_CLASSES];
	uint8_t skipped[KA_CLASSES];
	struct ka_pool_list partial[KA_CLASSES];
};

/**
 * struct ka_cache - A thread's pools of a heap.
 * @direct: Current pool for sizes up to KA_DIRECT_MAX, in steps of 16 bytes; or &ka_no_pool, as
 *	in all entries while blocks are traced.
 * @larger: Current pool of each larger class; &ka_no_pool if there is none, and while blocks
 *	are traced.
 * @by: The rest, by class; &ka_none_by_class while no list has the cache.
 * @until_traced: Bytes that can be allocated before a block is traced.
 * @generation: Value of ka_trace_generation that the tables are for.
 * @looks: Number of free blocks that may still be searched; see KA_LOOKS.
 * @lock: Protects @by->partial, once there is a second thread.
 * @caches: All caches of the heap; NULL while no list has this one.
 * @thread: Number of the owner.
 * @of_heap: Links in the heap's list of caches.
 * @of_thread: Links in the thread's list of caches.
 * @own: The cache and its page are one mapping; otherwise it lies in a thread's storage.
 * @ended: The thread ends, and keeps no pool any more.
 */
struct ka_cache {
	struct ka_pool *direct[KA_DIRECT];
	struct ka_pool *larger[KA_LARGER];
	struct ka_by_class *by;
	size_t until_traced;
	unsigned int generation;
	uint32_t looks;
	struct ka_mutex lock;
	struct ka_caches *caches;
	uintptr_t thread;
	struct {
		struct ka_cache *next;
		struct ka_cache **link;
	} of_heap, of_thread;
	bool own;
	bool ended;
};

/**
 * struct ka_caches - The caches of a heap.
 * @pools: The pools of the heap.
 * @first: The first cache of the list: one for each thread that has pools of the heap.
 * @nr_cacheless: Number of threads that own a pool for a moment, and have no cache.
 */
struct ka_caches {
	struct ka_pools pools;
	struct ka_cache *first;
	unsigned int nr_cacheless;
};

/* KA_CACHE_INIT - A cache without pools, which is in no list. */
#define KA_CACHE_INIT							\
	.lock		= KA_MUTEX,					\
	.direct		= { [0 ... KA_DIRECT - 1] = &ka_no_pool },	\
	.larger		= { [0 ... KA_LARGER - 1] = &ka_no_pool },	\
	.by		= (struct ka_by_class *)&ka_none_by_class

/* No pool of any class. Caches that are in no list point to it, and no thread stores to it. */
extern const struct ka_by_class ka_none_by_class;

/**
 * struct ka_sampler - Functions of the tracer, in a layer above: see trace/trace.h.
 * @draw: Return the number of bytes that can be allocated before a block is traced.
 * @alloc: Allocate a traced block with room for @whole bytes, up to KA_BLOCK_MAX, of which the
 *	program has asked for @size. Return NULL if the block should not be traced.
 * @add_run: Trace a block that is a run; no other thread knows the run yet.
 * @free: Free a block of one of the tracer's pools. Return false if it was free.
 * @run_freed: Called before a run is freed, traced or not.
 * @resized: Called when a block of a tracer's pool was resized in place.
 * @forget_heap: Called when the heap of a window is destroyed, with the lock of the lists held.
 * @locked is true in a child, which holds the locks that the fork has taken.
 */
struct ka_sampler {
	size_t (*draw)(void);
	void *(*alloc)(struct ka_pools *pools, size_t whole, size_t size, unsigned int due);
	void (*add_run)(void *run, size_t whole, size_t size, unsigned int due);
	bool (*free)(struct ka_pools *pools, struct ka_pool *pool, void *block);
	void (*run_freed)(const void *run);
	void (*resized)(const void *block, size_t size);
	void (*forget_heap)(const struct ka_window *window, bool locked);
};

/* NULL until there is a heap. */
extern const struct ka_sampler *ka_sampler;

/* Counts starts and stops of tracing: odd while blocks are traced. */
extern unsigned int ka_trace_generation;

/* Number of traced runs. */
extern size_t ka_trace_nr_runs;

/* A cache without a block. */
extern struct ka_cache ka_no_cache;

/* The thread's cache of the domains' heap; or ka_no_cache. */
extern __thread struct ka_cache *ka_domain_cache
	__attribute__((tls_model("initial-exec")));

/* cache.c */
bool ka_cache_lock(struct ka_cache *cache);
void ka_cache_unlock(struct ka_cache *cache, bool locked);
void ka_cache_show(struct ka_cache *cache, unsigned int class, struct ka_pool *pool);
void ka_cache_hide(struct ka_cache *cache);
void ka_cache_drop_current(struct ka_cache *cache, unsigned int class);
void ka_cache_list(struct ka_cache *cache, struct ka_pool *pool);
void ka_cache_unlist(struct ka_cache *cache, struct ka_pool *pool);
bool ka_cache_return_empty(struct ka_cache *cache, struct ka_pool *pool);
void ka_cache_forget(struct ka_cache *cache);
void ka_cache_abandon_all(struct ka_cache *cache);

/* threads.c; the first two return NULL with errno and a message */
struct ka_cache *ka_cache_of(struct ka_caches *caches);
struct ka_cache *ka_cache_for_free(struct ka_caches *caches);
bool ka_cache_has_freed_many(void);
bool ka_cache_begin(struct ka_caches *caches, struct ka_cache *cache);
void ka_caches_emptied(struct ka_caches *caches, struct ka_pool *pool);
void ka_caches_free(struct ka_caches *caches);
void ka_caches_hide_pools(struct ka_caches *caches);
void ka_caches_forked(struct ka_caches *caches, bool alone);

/* trim.c */
void ka_cache_thin(struct ka_cache *cache, unsigned int class);
size_t ka_cache_trim(struct ka_caches *caches, struct ka_cache *cache);

/* alloc.c; NULL with errno and a message */
void *ka_block_alloc_slow(struct ka_caches *caches, struct ka_cache *cache, size_t size);
void *ka_block_alloc_aligned(struct ka_caches *caches, struct ka_cache *cache, size_t align,
			     size_t size);
void *ka_block_alloc_run(struct ka_caches *caches, struct ka_cache *cache, size_t align,
			 size_t size, size_t asked);
void *ka_block_alloc_zeroed(struct ka_caches *caches, struct ka_cache *cache, size_t size);

/* free.c; -1 with errno and a message */
int ka_block_free_slow(struct ka_caches *caches, struct ka_cache *cache, void *block);
int ka_block_free_marked(struct ka_caches *caches, struct ka_cache *cache,
			 struct ka_pool *pool, void *block);
int ka_block_free_run(struct ka_caches *caches, void *run);
void ka_block_emptied(struct ka_cache *cache, struct ka_pool *pool);
bool ka_block_may_be_free(const struct ka_caches *caches, const struct ka_pool *pool,
			  const struct ka_free *block);
bool ka_block_has_free(struct ka_caches *caches, struct ka_cache *cache,
		       const struct ka_pool *pool, const void *block);
int ka_block_none_begins(const void *address);
int ka_block_freed_twice(const void *block);

/* resize.c; 0 or NULL with errno and a message */
size_t ka_block_size(struct ka_caches *caches, const void *block);
size_t ka_block_expand(struct ka_caches *caches, struct ka_cache *cache, void *block,
		       size_t size);
void *ka_block_resize(struct ka_caches *caches, struct ka_cache *cache, void *block,
		      size_t size);

/* traced.c */
unsigned int ka_trace_due(struct ka_cache *cache, size_t size);
void ka_trace_run_freed(const void *run);

/* Keep a value in the register that returns it, which saves a move. */
#ifdef __x86_64__
#define KA_RETURNED(value)	asm("" : "+a" (value))
#else
#define KA_RETURNED(value)
#endif

/* True if @next may be the link of @block: both lie in one pool, at most an arena apart. */
static inline bool ka_may_follow(const struct ka_free *block, const struct ka_free *next)
{
	uintptr_t distance = (uintptr_t)next - (uintptr_t)block + KA_ARENA_SIZE;

	return block->mark == KA_FREED &&
	       (!next || (distance < 2 * KA_ARENA_SIZE && distance % KA_CLASS_STEP == 0));
}

/* Allocate a linked block from a pool; NULL if there is none. */
static inline void *ka_pool_alloc(struct ka_pool *pool)
{
	struct ka_free *block = pool->free, *next;

	KA_RETURNED(block);
	if (__builtin_expect(!block, 0))
		return NULL;
	next = ka_next(block);
	if (KA_CHECKED && !ka_may_follow(block, next))
		ka_pool_corrupted(block);
	pool->free = next;
	pool->used++;
	return block;
}

/* The size in steps, rounded up. */
static inline size_t ka_step_of(size_t size)
{
	return (size + KA_CLASS_STEP - 1) / KA_CLASS_STEP;
}

/* Allocate a block from the thread's current pools, or return NULL. */
static inline void *ka_block_try(struct ka_cache *cache, size_t size)
{
	if (__builtin_expect(size <= KA_DIRECT_MAX, 1))
		return ka_pool_alloc(KA_READ(cache->direct[ka_step_of(size)]));
	if (size <= KA_BLOCK_MAX)
		return ka_pool_alloc(KA_READ(cache->larger[ka_class_of(size) - KA_FIRST_LARGER]));
	return NULL;
}

/* As ka_block_try(), while blocks are traced. NULL also if this block is to be traced. */
static inline void *ka_block_try_traced(struct ka_cache *cache, size_t size)
{
	size_t left;
	void *block;

	if (size > KA_DIRECT_MAX || __builtin_sub_overflow(cache->until_traced, size, &left))
		return NULL;
	block = ka_pool_alloc(KA_READ(cache->by->traced[ka_step_of(size)]));
	if (__builtin_expect(!!block, 1))
		cache->until_traced = left;
	return block;
}

/**
 * ka_block_alloc() - Allocate a block.
 * @caches: The caches of the heap.
 * @cache: The cache of the thread.
 * @size: Bytes; 0 counts as 1.
 *
 * Return: The block; NULL with errno and a message.
 */
static inline void *ka_block_alloc(struct ka_caches *caches, struct ka_cache *cache, size_t size)
{
	void *block = ka_block_try(cache, size);

	return __builtin_expect(!block, 0) ? ka_block_alloc_slow(caches, cache, size) : block;
}

/* A pool if the thread owns it, else NULL. */
static inline struct ka_pool *ka_pool_own(struct ka_pool *pool)
{
	return __builtin_expect(KA_READ(pool->owner) != ka_thread(), 0) ? NULL : pool;
}

/* The pool of a block if the thread owns it, else NULL. */
static inline struct ka_pool *ka_block_own(const struct ka_pools *pools, const void *block)
{
	size_t slot = ka_slot_of(pools, block);

	if (__builtin_expect(slot >= KA_READ(pools->nr_slots), 0))
		return NULL;
	/* Another thread may just have extended the map. */
	return ka_pool_own(KA_READ(pools->map[slot]));
}

/* Decrement @used. A thread that reads @used without a lock sees all earlier stores. */
static inline uint32_t ka_pool_count_down(struct ka_pool *pool)
{
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
	/* x86 keeps stores in order, and this is one instruction. */
	__atomic_signal_fence(__ATOMIC_RELEASE);
	return --pool->used;
#else
	uint32_t used = pool->used - 1;

	__atomic_store_n(&pool->used, used, __ATOMIC_RELEASE);
	return used;
#endif
}

/* Free a block of the thread's own pool. Returns the number of blocks still in use. */
static inline uint32_t ka_pool_free(struct ka_pool *pool, void *block)
{
	struct ka_free *free = block;

	free->mark = KA_FREED;
	ka_link(free, pool->free);
	pool->free = free;
	return ka_pool_count_down(pool);
}

/* The outcome of ka_block_try_free(). */
enum ka_try_free {
	KA_TRY_DONE,		/* the block is free */
	KA_TRY_EMPTIED,		/* the same, and it was the last in use: call ka_block_emptied() */
	KA_TRY_MARKED,		/* nothing was done: the block may be free already */
	KA_TRY_FOREIGN,		/* nothing was done: the thread does not own the block's pool */
};

/*
 * Free a block by the fast path, if that can free it. Each caller has its own slow path. @own:
 * the pool of the block if the thread owns it, else NULL.
 */
static inline enum ka_try_free ka_block_try_free(struct ka_pool *own, void *block)
{
	if (__builtin_expect(!own, 0))
		return KA_TRY_FOREIGN;
	if (__builtin_expect(ka_is_marked(block), 0))
		return KA_TRY_MARKED;
	return __builtin_expect(!ka_pool_free(own, block), 0) ? KA_TRY_EMPTIED : KA_TRY_DONE;
}

/**
 * ka_block_free_of() - Free a block whose pool is known.
 * @caches: The caches of the heap.
 * @cache: The cache of the thread.
 * @own: The pool of the block if the thread owns it, else NULL.
 * @block: The block.
 *
 * Return: As ka_block_free().
 */
static inline int ka_block_free_of(struct ka_caches *caches, struct ka_cache *cache,
				   struct ka_pool *own, void *block)
{
	switch (ka_block_try_free(own, block)) {
	case KA_TRY_FOREIGN:
		return ka_block_free_slow(caches, cache, block);
	case KA_TRY_MARKED:
		return ka_block_free_marked(caches, cache, own, block);
	case KA_TRY_EMPTIED:
		ka_block_emptied(cache, own);
		return 0;
	default:
		return 0;
	}
}

/**
 * ka_block_free() - Free a block.
 * @caches: The caches of the heap.
 * @cache: The cache of the thread.
 * @block: The block; NULL does nothing.
 *
 * Return: 0; -1 with errno and a message if the library sees that there is no such block.
 */
static inline int ka_block_free(struct ka_caches *caches, struct ka_cache *cache, void *block)
{
	return ka_block_free_of(caches, cache, ka_block_own(&caches->pools, block), block);
}

#endif /* KARENA_CACHE_H */
