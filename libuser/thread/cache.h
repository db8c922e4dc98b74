/* SPDX-License-Identifier: MIT */
/*
 * Caches: the pools that a thread has of a heap, and how it takes blocks from them
 * and gives blocks back. Nothing here is locked or atomic but what other threads'
 * blocks need: the inline functions are all there is to most calls.
 *
 * Of each class one pool is the current one, from which blocks are taken. Pools that
 * become full are disowned; those with free blocks are in @partial; those that become
 * empty go back to the heap at once, if need be by who frees their last block: an idle
 * thread would keep them. So does a current one, unless that has been in vain: who takes
 * a block and gives it back, again and again, holds the pool.
 *
 * The tables @direct, @larger and @traced show current pools. Another thread that starts
 * or stops tracing may empty them, so they are stored to atomically; see show_pool() in
 * block.c.
 *
 * A preloaded malloc has a thread's cache in static thread-local storage, where the loader
 * has little room: under LD_AUDIT some 1,800 bytes for all preloaded libraries. So the
 * cache itself has but the tables that malloc looks into, and a page has the rest.
 */
#ifndef KARENA_CACHE_H
#define KARENA_CACHE_H

#include "pool/pool.h"

/* How many heaps there may be at a time whose blocks are used. */
#define KA_HEAPS	((size_t)1024)

/**
 * struct ka_by_class - What a cache has of each class, in a page of its own.
 * @traced: As @direct, while blocks are traced; that of no bytes never has one.
 * @current: The current pool of each class, or &ka_no_pool.
 * @emptied: How often that has become empty; see hold() in block.c.
 * @skipped: How often the next pool was none of @partial since these were looked at; see
 *	may_skip() there.
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
 * @direct: The current pool for sizes in steps of 16 bytes, up to KA_DIRECT_MAX; or
 *	&ka_no_pool, as all are while blocks are traced.
 * @larger: The current pool of each class of larger sizes, likewise.
 * @by: What it has of each class; &ka_none_by_class as long as it is in no list.
 * @until_traced: As many bytes can be taken before a block is to be traced.
 * @generation: The value of ka_trace_generation that the tables are for.
 * @looks: How many free blocks may be looked at; see KA_LOOKS.
 * @lock: Guards @by->partial, as soon as there is a second thread.
 * @caches: Those of the heap, which it is one of; NULL as long as it is in no list.
 * @thread: Whose it is.
 * @of_heap: In the heap's list of caches.
 * @of_thread: In the thread's.
 * @own: The cache lies in front of its page, in one mapping, not in a thread's storage.
 * @ended: The thread ends: what it still takes it does not keep.
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
 * @pools: The heap's pools.
 * @first: The cache of a thread that has pools of the heap, and so on.
 * @nr_late: How many threads without a cache have a pool for a moment.
 */
struct ka_caches {
	struct ka_pools pools;
	struct ka_cache *first;
	unsigned int nr_late;
};

/* KA_CACHE_INIT - For a cache that has nothing, and is in no list. */
#define KA_CACHE_INIT							\
	.lock		= KA_MUTEX,					\
	.direct		= { [0 ... KA_DIRECT - 1] = &ka_no_pool },	\
	.larger		= { [0 ... KA_LARGER - 1] = &ka_no_pool },	\
	.by		= (struct ka_by_class *)&ka_none_by_class

/* Has no pool of any class: it is looked into, and nothing is stored there. */
extern const struct ka_by_class ka_none_by_class;

/**
 * struct ka_sampler - What traces some of the blocks: see trace/trace.h.
 * @draw: Return how many bytes can be taken before a block is to be traced.
 * @take: Take a block and trace it. It has room for @whole bytes, up to KA_BLOCK_MAX, of
 *	which the program has asked for @size. NULL: take one that is not traced.
 * @add_run: Trace a block that is a run, which only the caller knows.
 * @give: Give back a block of one of the tracer's pools. Return whether it was in use.
 * @run_freed: A run is about to be freed, or anything else.
 * @resized: A block of a tracer's pool has got another size where it is.
 * @heap_gone: The heap of a window goes with all that is in it; with the lock of the lists
 *	held. @locked: it goes in a child, which has the locks that the fork has taken.
 */
struct ka_sampler {
	size_t (*draw)(void);
	void *(*take)(struct ka_pools *pools, size_t whole, size_t size, unsigned int due);
	void (*add_run)(void *run, size_t whole, size_t size, unsigned int due);
	bool (*give)(struct ka_pools *pools, struct ka_pool *pool, void *block);
	void (*run_freed)(const void *run);
	void (*resized)(const void *block, size_t size);
	void (*heap_gone)(const struct ka_window *window, bool locked);
};

/* NULL until there is a heap. */
extern const struct ka_sampler *ka_sampler;

/* How many times tracing has started and stopped: odd while blocks are traced. */
extern unsigned int ka_trace_generation;

/* Runs that are traced. */
extern size_t ka_trace_nr_runs;

/* Has no block. */
extern struct ka_cache ka_no_cache;

/* That of the domains' heap; or ka_no_cache. */
extern __thread struct ka_cache *ka_domain_cache
	__attribute__((tls_model("initial-exec")));

/* cache.c; the first returns NULL with errno and a sentence. */
struct ka_cache *ka_cache_of(struct ka_caches *caches);
struct ka_cache *ka_cache_to_give(struct ka_caches *caches);
bool ka_cache_has_given_many(void);
bool ka_cache_begin(struct ka_caches *caches, struct ka_cache *cache);
void ka_cache_show(struct ka_cache *cache, unsigned int class, struct ka_pool *pool);
void ka_cache_hide(struct ka_cache *cache);
void ka_cache_thin(struct ka_cache *cache, unsigned int class);
void ka_cache_drop_current(struct ka_cache *cache, unsigned int class);
bool ka_cache_lock(struct ka_cache *cache);
void ka_cache_unlock(struct ka_cache *cache, bool locked);
void ka_cache_keep(struct ka_cache *cache, struct ka_pool *pool);
void ka_cache_unlist(struct ka_cache *cache, struct ka_pool *pool);
bool ka_cache_give_back_empty(struct ka_cache *cache, struct ka_pool *pool);
void ka_cache_leave_all(struct ka_cache *cache);
size_t ka_cache_trim(struct ka_caches *caches, struct ka_cache *cache);
void ka_caches_emptied(struct ka_caches *caches, struct ka_pool *pool);
void ka_caches_free(struct ka_caches *caches);
void ka_caches_hide_pools(struct ka_caches *caches);
void ka_caches_forked(struct ka_caches *caches, bool alone);

/* block.c; NULL, -1 and 0 with errno and a sentence. */
void *ka_block_take(struct ka_caches *caches, struct ka_cache *cache, size_t size);
void *ka_block_take_aligned(struct ka_caches *caches, struct ka_cache *cache, size_t align,
			    size_t size);
void *ka_block_zeroed(struct ka_caches *caches, struct ka_cache *cache, size_t size);
int ka_block_give_slowly(struct ka_caches *caches, struct ka_cache *cache, void *block);
int ka_block_give_marked(struct ka_caches *caches, struct ka_cache *cache, struct ka_pool *pool,
			 void *block);
void ka_block_emptied(struct ka_cache *cache, struct ka_pool *pool);
void *ka_block_resize(struct ka_caches *caches, struct ka_cache *cache, void *block,
		      size_t size);
size_t ka_block_expand(struct ka_caches *caches, struct ka_cache *cache, void *block,
		       size_t size);
int ka_block_none_begins(const void *address);
int ka_block_freed_twice(const void *block);
size_t ka_block_size(struct ka_caches *caches, const void *block);
int ka_block_free_run(struct ka_caches *caches, void *run);

/* What is going to be returned had better be where it is returned: no move then. */
#ifdef __x86_64__
#define KA_RETURNED(value)	asm("" : "+a" (value))
#else
#define KA_RETURNED(value)
#endif

/* Whether one free block may lead to another: both are in a pool, which is no larger. */
static inline bool ka_may_follow(const struct ka_free *block, const struct ka_free *next)
{
	uintptr_t distance = (uintptr_t)next - (uintptr_t)block + KA_ARENA_SIZE;

	return block->mark == KA_FREED &&
	       (!next || (distance < 2 * KA_ARENA_SIZE && distance % KA_CLASS_STEP == 0));
}

/* A block of a pool, or NULL if it has none linked. */
static inline void *ka_pool_take(struct ka_pool *pool)
{
	struct ka_free *block = pool->free, *next;

	KA_RETURNED(block);
	if (__builtin_expect(!block, 0))
		return NULL;
	next = ka_next(block);
	if (KA_CHECKED && !ka_may_follow(block, next))
		ka_pool_take_is_wrong(block);
	pool->free = next;
	pool->used++;
	return block;
}

/* The size in steps, rounded up. */
static inline size_t ka_step_of(size_t size)
{
	return (size + KA_CLASS_STEP - 1) / KA_CLASS_STEP;
}

/* What the thread's current pools have: a block, or NULL. */
static inline void *ka_block_try(struct ka_cache *cache, size_t size)
{
	if (__builtin_expect(size <= KA_DIRECT_MAX, 1))
		return ka_pool_take(KA_READ(cache->direct[ka_step_of(size)]));
	if (size <= KA_BLOCK_MAX)
		return ka_pool_take(KA_READ(cache->larger[ka_class_of(size) - KA_FIRST_LARGER]));
	return NULL;
}

/* The same while blocks are traced, for one that is not to be; else NULL. */
static inline void *ka_block_try_traced(struct ka_cache *cache, size_t size)
{
	size_t left;
	void *block;

	if (size > KA_DIRECT_MAX || __builtin_sub_overflow(cache->until_traced, size, &left))
		return NULL;
	block = ka_pool_take(KA_READ(cache->by->traced[ka_step_of(size)]));
	if (__builtin_expect(!!block, 1))
		cache->until_traced = left;
	return block;
}

/**
 * ka_block_alloc() - Take a block.
 * @caches: The heap's.
 * @cache: The thread's.
 * @size: Bytes; 0 is as 1.
 *
 * Return: The block; NULL with errno and a sentence.
 */
static inline void *ka_block_alloc(struct ka_caches *caches, struct ka_cache *cache, size_t size)
{
	void *block = ka_block_try(cache, size);

	return __builtin_expect(!block, 0) ? ka_block_take(caches, cache, size) : block;
}

/* The pool of a block if it is the thread's; else NULL. */
static inline struct ka_pool *ka_block_own(const struct ka_pools *pools, const void *block)
{
	size_t slot = ka_slot_of(pools, block);
	struct ka_pool *pool;

	if (__builtin_expect(slot >= KA_READ(pools->nr_slots), 0))
		return NULL;
	/* Another thread may just have let the slot of a run be found. */
	pool = KA_READ(pools->map[slot]);
	return __builtin_expect(KA_READ(pool->owner) != ka_thread(), 0) ? NULL : pool;
}

/* A block less is in use. Who sees that without a lock sees what was stored before. */
static inline uint32_t ka_pool_count_down(struct ka_pool *pool)
{
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
	/* All stores are in order; and this is one instruction. */
	__atomic_signal_fence(__ATOMIC_RELEASE);
	return --pool->used;
#else
	uint32_t used = pool->used - 1;

	__atomic_store_n(&pool->used, used, __ATOMIC_RELEASE);
	return used;
#endif
}

/* Put a block back into the thread's pool; how many of it are in use then. */
static inline uint32_t ka_pool_give(struct ka_pool *pool, void *block)
{
	struct ka_free *free = block;

	free->mark = KA_FREED;
	ka_link(free, pool->free);
	pool->free = free;
	return ka_pool_count_down(pool);
}

/**
 * ka_block_free() - Give a block back.
 * @caches: The heap's.
 * @cache: The thread's.
 * @block: The block; NULL does nothing.
 *
 * Return: 0; -1 with errno and a sentence if it is none, as far as that is seen.
 */
static inline int ka_block_free(struct ka_caches *caches, struct ka_cache *cache, void *block)
{
	struct ka_pool *pool = ka_block_own(&caches->pools, block);

	if (__builtin_expect(!pool, 0))
		return ka_block_give_slowly(caches, cache, block);
	if (__builtin_expect(ka_is_marked(block), 0))
		return ka_block_give_marked(caches, cache, pool, block);
	if (__builtin_expect(!ka_pool_give(pool, block), 0))
		ka_block_emptied(cache, pool);
	return 0;
}

#endif /* KARENA_CACHE_H */
