// SPDX-License-Identifier: MIT
/*
 * Blocks: what a call does when the thread's current pool has no block left, when
 * a block is another thread's or larger than any pool's, or is none.
 */
#include <errno.h>
#include <string.h>

#include "thread/cache.h"

/*
 * A block that has been made larger is likely to be made larger again: above this it is
 * a run, which can often grow where it is. Of so many pages no more than an eighth is
 * unused.
 */
#define GROWING_MIN	(8 * KA_PAGE_SIZE)

/* Odd while blocks are traced. */
unsigned int ka_trace_generation;
size_t ka_trace_nr_runs;
const struct ka_sampler *ka_sampler;

static void *no_block(size_t size)
{
	ka_fail(ENOMEM, "no memory has room for %zu bytes", size);
	return NULL;
}

/*
 * Let the inline functions see the current pool of a class. Who starts or stops tracing
 * counts @ka_trace_generation up, lets every processor come to a barrier, and hides all
 * pools then: either this pool is seen to be shown, and is hidden, or the new count is
 * seen here.
 */
static void show_pool(struct ka_cache *cache, unsigned int class)
{
	ka_cache_show(cache, class, cache->by->current[class]);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	if (__atomic_load_n(&ka_trace_generation, __ATOMIC_RELAXED) != cache->generation)
		ka_cache_show(cache, class, &ka_no_pool);
}

/* Whether the inline functions see a pool for a size; while tracing, larger ones none. */
static bool is_shown(const struct ka_cache *cache, size_t size, const struct ka_pool *pool)
{
	bool traced = cache->generation & 1;

	if (size > KA_DIRECT_MAX)
		return traced || KA_READ(cache->larger[pool->class - KA_FIRST_LARGER]) == pool;
	return KA_READ((traced ? cache->by->traced : cache->direct)[ka_step_of(size)]) == pool;
}

/* Let a pool have linked blocks, if it has any at all; @fresh if none was ever in use. */
static bool provide(struct ka_caches *caches, struct ka_pool *pool, bool *fresh)
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
 * A pool that was looked at, and is not to be taken from next, comes to the list's end. If
 * it is half free, and is to be @shared, it is better left to all.
 */
static void put_back(struct ka_cache *cache, struct ka_pool *pool, bool shared)
{
	if (ka_cache_give_back_empty(cache, pool))
		return;
	if (shared && pool->used <= pool->capacity / 2) {
		ka_cache_unlist(cache, pool);
		ka_pool_shelve(&cache->caches->pools, pool);
		return;
	}
	/* It stays listed all the time: who frees its last block waits for the lock. */
	ka_pool_move_back(&cache->by->partial[pool->class], pool);
}

/*
 * The best of the first pools in a thread's list, taken out of it; or NULL. What others
 * have freed of them is collected. If there are others, the next time the next pools are
 * looked at, so that in time all are: a thread that frees what others allocate would keep
 * for ever what it never needs. A thread that is alone takes from the same few until they
 * are full, and the rest become empty.
 */
static struct ka_pool *choose(struct ka_cache *cache, unsigned int class)
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
			put_back(cache, pools[i], shared && pool);
	}
	ka_cache_unlock(cache, locked);
	return best;
}

/*
 * So many of a pool's blocks are checked before they are taken again: those that were freed
 * last, and will be needed in a moment. A walk through all would take longer than a quarter
 * of what a program does that frees blocks by chance.
 */
#define LOOKED_AT	(KA_CHECKED ? UINT32_MAX : 8)

/* The thread's pool of a class from which blocks are to be taken next, or NULL. */
static struct ka_pool *next_pool(struct ka_caches *caches, struct ka_cache *cache,
				 unsigned int class)
{
	struct ka_pool *pool = choose(cache, class);

	if (!pool)
		pool = ka_pool_unshelve(&caches->pools, class, ka_thread());
	if (!pool)
		return ka_pool_make(&caches->pools, class, ka_thread());
	ka_pool_check(&caches->pools, pool, LOOKED_AT);
	return pool;
}

/* A pool of the thread's with free blocks, not its current one, to take from later. */
static void keep_pool(struct ka_cache *cache, struct ka_pool *pool)
{
	bool locked = ka_cache_lock(cache);

	ka_cache_keep(cache, pool);
	ka_cache_unlock(cache, locked);
}

/* A pool without a block; what it is given back meanwhile makes it one to take from. */
static void put_away(struct ka_caches *caches, struct ka_cache *cache, struct ka_pool *pool)
{
	if (!ka_pool_disown(&caches->pools, pool))
		keep_pool(cache, pool);
}

/* The current pool has no block any more; no table shows it by the next call. */
static void pool_used_up(struct ka_caches *caches, struct ka_cache *cache, struct ka_pool *pool)
{
	uint8_t *emptied = &cache->by->emptied[pool->class];

	/* A thread that uses pools up has many blocks: see hold(). */
	*emptied = pool->capacity < *emptied ? (uint8_t)(*emptied - pool->capacity) : 0;
	ka_pool_let_go(pool);
	put_away(caches, cache, pool);
}

/* From which blocks are taken next; or &ka_no_pool. */
static void make_current(struct ka_cache *cache, unsigned int class, struct ka_pool *pool)
{
	cache->by->current[class] = pool;
	show_pool(cache, class);
	if (pool != &ka_no_pool)
		pool->thin = false;
}

/* A pool with a linked block becomes the current one; or NULL. */
static struct ka_pool *refill(struct ka_caches *caches, struct ka_cache *cache,
			      unsigned int class, bool *fresh)
{
	struct ka_pool *pool = cache->by->current[class];

	cache->looks = KA_LOOKS;
	if (pool != &ka_no_pool) {
		if (provide(caches, pool, fresh))
			return pool;
		pool_used_up(caches, cache, pool);
	}
	while ((pool = next_pool(caches, cache, class)) && !provide(caches, pool, fresh))
		put_away(caches, cache, pool);
	make_current(cache, class, pool ? pool : &ka_no_pool);
	return pool;
}

/* A run for a block that no pool is to have. */
static void *take_run(struct ka_caches *caches, size_t align, size_t size)
{
	size_t pages = (size + KA_PAGE_SIZE - 1) & ~(KA_PAGE_SIZE - 1);

	return pages < size ? no_block(size) : ka_runs_take(&caches->pools, pages, align);
}

/*
 * Whether a block of @size bytes, at least 1, that is about to be taken is to be traced: 0,
 * or what the sampler is to be told. The tables are for tracing, or not, from now on.
 */
static unsigned int trace_due(struct ka_cache *cache, size_t size)
{
	unsigned int now = __atomic_load_n(&ka_trace_generation, __ATOMIC_ACQUIRE);

	/* Such a cache may be that of several threads. */
	if (cache->ended)
		return now & 1 && ka_sampler->draw() < size ? now : 0;
	if (cache->generation != now) {
		cache->generation = now;
		/* Without a barrier it may be shown still what has been. */
		ka_cache_hide(cache);
		cache->until_traced = now & 1 ? ka_sampler->draw() : 0;
	}
	if (!(now & 1))
		return 0;
	if (size <= cache->until_traced) {
		cache->until_traced -= size;
		return 0;
	}
	cache->until_traced = ka_sampler->draw();
	return now;
}

/* A run is about to be freed: if it is traced, it is no more. */
static void trace_run_freed(const void *run)
{
	if (__builtin_expect(KA_READ(ka_trace_nr_runs) > 0, 0))
		ka_sampler->run_freed(run);
}

/* A run for a block, traced if it is to be: for @size bytes, of which @asked are used. */
static void *take_block_run(struct ka_caches *caches, struct ka_cache *cache, size_t align,
			    size_t size, size_t asked)
{
	unsigned int due = trace_due(cache, size);
	void *block = take_run(caches, align, asked);

	if (block && due)
		ka_sampler->add_run(block, size, asked, due);
	return block;
}

/*
 * A thread without a cache, none yet or none any more, may have a pool for a moment: a
 * child that is forked meanwhile has to look for it.
 */
static void late(struct ka_caches *caches, unsigned int count)
{
	__atomic_fetch_add(&caches->nr_late, count, __ATOMIC_SEQ_CST);
}

/* For a thread that has ended its cache: one block of a pool that goes back to the shelf. */
static void *take_one(struct ka_caches *caches, unsigned int class)
{
	struct ka_pool *pool;
	void *block = NULL;
	bool fresh;

	late(caches, 1);
	pool = ka_pool_unshelve(&caches->pools, class, ka_thread());
	if (!pool)
		pool = ka_pool_make(&caches->pools, class, ka_thread());
	if (pool) {
		provide(caches, pool, &fresh);
		block = ka_pool_take(pool);
		ka_pool_leave(&caches->pools, pool);
	}
	late(caches, -1U);
	return block || !pool ? block : take_run(caches, 0, ka_class_size(class));
}

static void *take_small(struct ka_caches *caches, struct ka_cache *cache, size_t size)
{
	unsigned int class = ka_class_of(size);
	struct ka_pool *pool;
	bool fresh;

	if (cache->ended || (!cache->caches && !ka_cache_begin(caches, cache)))
		return take_one(caches, class);
	pool = refill(caches, cache, class, &fresh);
	if (!pool)
		return NULL;
	if (!is_shown(cache, size, pool))
		show_pool(cache, class);
	return ka_pool_take(pool);
}

/* Take a block that has room for @size bytes; the program has asked for no more. */
static void *take(struct ka_caches *caches, struct ka_cache *cache, size_t align, size_t size,
		  size_t asked)
{
	unsigned int due;
	void *block;

	if (ka_refuse_inherited(&caches->pools))
		return NULL;
	if (size > KA_BLOCK_MAX)
		return take_block_run(caches, cache, align, size, asked);
	due = trace_due(cache, size);
	block = due ? ka_sampler->take(&caches->pools, size, asked, due) : NULL;
	return block ? block : take_small(caches, cache, size);
}

/*
 * A larger block that is not to be traced, while others are. Its pool is in no table
 * that could be emptied, so the counter itself says whether that still holds.
 */
static void *try_larger_traced(struct ka_cache *cache, size_t size)
{
	void *block;

	if (size <= KA_DIRECT_MAX || size > KA_BLOCK_MAX || size > cache->until_traced ||
	    cache->generation != __atomic_load_n(&ka_trace_generation, __ATOMIC_RELAXED))
		return NULL;
	block = ka_pool_take(cache->by->current[ka_class_of(size)]);
	if (block)
		cache->until_traced -= size;
	return block;
}

/**
 * ka_block_take() - Take a block, whatever it takes.
 * @caches: The heap's.
 * @cache: The thread's; it is begun if need be.
 * @size: Bytes.
 *
 * Return: As ka_block_alloc().
 */
void *ka_block_take(struct ka_caches *caches, struct ka_cache *cache, size_t size)
{
	void *block = ka_block_try_traced(cache, size);

	if (!block)
		block = try_larger_traced(cache, size);
	size = size ? size : 1;
	return block ? block : take(caches, cache, 0, size, size);
}

/* From a page on, what the pool has linked just now is one block, zero but for its link. */
static void *take_fresh(struct ka_caches *caches, struct ka_cache *cache, size_t size)
{
	unsigned int class = ka_class_of(size);
	struct ka_pool *pool = cache->by->current[class];
	bool fresh;
	void *block;

	if (pool->free || !cache->caches || cache->ended || caches->pools.inherited)
		return NULL;
	pool = refill(caches, cache, class, &fresh);
	if (!pool || !fresh || !pool->zero)
		return NULL;
	block = ka_pool_take(pool);
	*(struct ka_free *)block = (struct ka_free){ 0 };
	return block;
}

/* What has never been in use, and so is zero; or NULL, also where blocks are traced. */
static void *try_zero(struct ka_caches *caches, struct ka_cache *cache, size_t size)
{
	size_t pages = (size + KA_PAGE_SIZE - 1) & ~(KA_PAGE_SIZE - 1);

	if (size < KA_PAGE_SIZE || pages < size || (KA_READ(ka_trace_generation) & 1))
		return NULL;
	return size > KA_BLOCK_MAX ? ka_runs_zeroed(&caches->pools, pages, 0) :
				     take_fresh(caches, cache, size);
}

/**
 * ka_block_zeroed() - Take a block that is all zero.
 * @caches: The heap's.
 * @cache: The thread's.
 * @size: Bytes.
 *
 * Return: As ka_block_alloc(). What has never been in use is not cleared again.
 */
void *ka_block_zeroed(struct ka_caches *caches, struct ka_cache *cache, size_t size)
{
	void *block = try_zero(caches, cache, size);

	if (block)
		return block;
	block = ka_block_alloc(caches, cache, size);
	return block ? memset(block, 0, size) : NULL;
}

/* The smallest one that is no less. */
static size_t power_of_two(size_t size)
{
	size_t power = KA_CLASS_STEP;

	while (power < size)
		power *= 2;
	return power;
}

/**
 * ka_block_take_aligned() - Take a block with an alignment.
 * @caches: The heap's.
 * @cache: The thread's.
 * @align: A power of two.
 * @size: Bytes.
 *
 * Return: As ka_block_alloc().
 */
void *ka_block_take_aligned(struct ka_caches *caches, struct ka_cache *cache, size_t align,
			    size_t size)
{
	size_t least;
	void *block;

	if (align <= KA_CLASS_STEP)
		return ka_block_alloc(caches, cache, size);
	size = size ? size : 1;
	if (size > KA_BLOCK_MAX || align > KA_BLOCK_MAX)
		return take(caches, cache, align, size > align ? size : align, size);
	/*
	 * Pools are aligned to a slot, and their blocks to what divides their size, as
	 * the alignment does that of the class for a multiple of it. To more than a slot
	 * are those of powers of two.
	 */
	least = (size + align - 1) & ~(align - 1);
	if (align > KA_SLOT_SIZE)
		least = power_of_two(least);
	block = ka_block_try(cache, least);
	return block ? block : take(caches, cache, align, least, size);
}

/* The errors of a wrong pointer: -1 with errno and a sentence. */
int ka_block_none_begins(const void *address)
{
	return ka_fail(EINVAL, "no block begins at %p", address);
}

int ka_block_freed_twice(const void *block)
{
	return ka_fail(EINVAL, "the block %p is freed already", block);
}

static bool is_late(const struct ka_cache *cache)
{
	return cache->ended || !cache->caches;
}

/* Whether a pool has no block for its owner, who has taken all. */
static bool is_used_up(const struct ka_pool *pool)
{
	return pool != &ka_no_pool && !pool->free && pool->made == pool->capacity &&
	       !__atomic_load_n(&pool->remote, __ATOMIC_RELAXED);
}

/*
 * Where there are others, who may free blocks of the pools in the list, these have to be
 * looked at now and then: see choose().
 */
#define MOST_SKIPPED	8

static bool may_skip(struct ka_cache *cache, unsigned int class)
{
	if (__libc_single_threaded)
		return true;
	if (cache->by->skipped[class] == MOST_SKIPPED)
		return false;
	cache->by->skipped[class]++;
	return true;
}

/*
 * Whether the next block of its class is to come from a pool that has just been adopted: the
 * current one is used up, and none is fuller than one that was full until now. That a block
 * of few is free is enough; of many it would soon be the next pool's turn.
 */
static bool is_next(struct ka_cache *cache, const struct ka_pool *pool)
{
	return pool->free && pool->capacity - pool->used == 1 && ka_pool_has_enough(pool) &&
	       is_used_up(cache->by->current[pool->class]) && may_skip(cache, pool->class);
}

/* The pool is the thread's now, has free blocks or will, and is in no list. */
static void adopted(struct ka_caches *caches, struct ka_cache *cache, struct ka_pool *pool)
{
	ka_pool_collect(&caches->pools, pool);
	if (!pool->used || is_late(cache)) {
		ka_pool_shelve(&caches->pools, pool);
	} else if (is_next(cache, pool)) {
		pool_used_up(caches, cache, cache->by->current[pool->class]);
		make_current(cache, pool->class, pool);
	} else {
		keep_pool(cache, pool);
	}
}

/* Whether a block of the thread's pool is among the free ones that may be looked at. */
static bool has_free(struct ka_caches *caches, struct ka_cache *cache,
		     const struct ka_pool *pool, const void *block)
{
	bool many = cache->caches && cache->looks > KA_FEW_LOOKS;
	uint32_t few = KA_FEW_LOOKS;

	return ka_pool_has_free(&caches->pools, pool, block, many ? &cache->looks : &few);
}

/*
 * The same, of all that others have freed as well. With the cache's lock held if the pool may
 * be in a list.
 */
static bool is_free(struct ka_caches *caches, struct ka_cache *cache, struct ka_pool *pool,
		    void *block)
{
	if (!ka_is_marked(block))
		return false;
	ka_pool_collect(&caches->pools, pool);
	return has_free(caches, cache, pool, block);
}

/* Leave a block to the pool's owner; if it has none by now, become that. */
static int give_remote(struct ka_caches *caches, struct ka_cache *cache, struct ka_pool *pool,
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
		adopted(caches, cache, pool);
		return 0;
	}
	if (!remote)
		ka_pool_call(pool);
	if (__atomic_load_n(&pool->listed, __ATOMIC_SEQ_CST) && !ka_pool_in_use(pool))
		ka_caches_emptied(caches, pool);
	return 0;
}

/* Become the owner of a pool that has none, or leave the block to whoever it is. */
static int give_or_adopt(struct ka_caches *caches, struct ka_cache *cache, struct ka_pool *pool,
			 void *block)
{
	bool twice;

	if (!ka_pool_adopt(&caches->pools, pool, ka_thread()))
		return give_remote(caches, cache, pool, block);
	twice = is_free(caches, cache, pool, block);
	if (!twice)
		ka_pool_give(pool, block);
	adopted(caches, cache, pool);
	return twice ? ka_block_freed_twice(block) : 0;
}

/*
 * A thread that takes a block and gives it back will need its current pool again. One that
 * takes many between may have given back all it had, and be idle for long. So a pool is
 * held that has become empty twice, while fewer blocks than these were used up.
 */
#define EMPTIED		64

static bool hold(struct ka_cache *cache, struct ka_pool *pool)
{
	uint8_t *emptied = &cache->by->emptied[pool->class];

	if (*emptied < 2 * EMPTIED) {
		*emptied += EMPTIED;
		return false;
	}
	ka_pool_hold(pool);
	return true;
}

/* With the cache's lock held. */
static void give_back_emptied(struct ka_cache *cache, struct ka_pool *pool)
{
	unsigned int class = pool->class;

	if (cache->by->current[class] == pool) {
		if (hold(cache, pool)) {
			ka_pool_check(&cache->caches->pools, pool, UINT32_MAX);
			return;
		}
		ka_cache_drop_current(cache, class);
	} else {
		ka_cache_unlist(cache, pool);
	}
	ka_pool_give_back(&cache->caches->pools, pool);
	ka_cache_thin(cache, class);
}

/*
 * A block of the thread's own pool, of which others have freed some, or that is marked:
 * those are collected, and the pool goes if that was the last one. With the lock, since the
 * pool may be in a list.
 */
static int give_own(struct ka_cache *cache, struct ka_pool *pool, void *block)
{
	bool locked = ka_cache_lock(cache);
	bool twice = is_free(cache->caches, cache, pool, block);

	if (!twice) {
		ka_pool_give(pool, block);
		ka_pool_collect_some(&cache->caches->pools, pool);
	}
	if (!pool->used)
		give_back_emptied(cache, pool);
	ka_cache_unlock(cache, locked);
	return twice ? ka_block_freed_twice(block) : 0;
}

/*
 * Whether a marked block may be free: what a program has written where its link would be is
 * mostly none; and what is taken and given back, unwritten, is linked to the first one still.
 */
static bool may_be_free(const struct ka_caches *caches, const struct ka_pool *pool,
			const struct ka_free *block)
{
	uintptr_t start = (uintptr_t)ka_pool_start(&caches->pools, pool);
	bool others = __atomic_load_n(&pool->remote, __ATOMIC_RELAXED);
	const struct ka_free *next = ka_next(block);

	if (!next)
		return pool->free || others;
	return (uintptr_t)next - start < (size_t)pool->made * pool->size &&
	       (next != pool->free || others);
}

/**
 * ka_block_give_marked() - Give back a block of the thread's own pool that may be free.
 * @caches: The heap's.
 * @cache: The thread's.
 * @pool: The pool.
 * @block: The block, or whatever the caller takes for one.
 *
 * Return: As ka_block_free().
 */
int ka_block_give_marked(struct ka_caches *caches, struct ka_cache *cache, struct ka_pool *pool,
			 void *block)
{
	if (may_be_free(caches, pool, block)) {
		if (cache->looks > KA_FEW_LOOKS)
			return ka_block_give_slowly(caches, cache, block);
		if (has_free(caches, cache, pool, block))
			return ka_block_freed_twice(block);
	}
	if (!ka_pool_give(pool, block))
		ka_block_emptied(cache, pool);
	return 0;
}

static int give_to_pool(struct ka_caches *caches, struct ka_cache *cache, struct ka_pool *pool,
			void *block)
{
	uintptr_t owner = __atomic_load_n(&pool->owner, __ATOMIC_RELAXED);
	int error;

	if (!ka_pool_begins_at(&caches->pools, pool, block))
		return ka_block_none_begins(block);
	if ((owner & ~KA_CALLED) == ka_thread())
		return give_own(cache, pool, block);
	if (owner == KA_TRACED)
		return ka_sampler->give(&caches->pools, pool, block) ?
		       0 : ka_block_freed_twice(block);
	if (!cache->caches && !cache->ended && ka_cache_has_given_many())
		ka_cache_begin(caches, cache);
	if (!is_late(cache))
		return give_or_adopt(caches, cache, pool, block);
	late(caches, 1);
	error = give_or_adopt(caches, cache, pool, block);
	late(caches, -1U);
	return error;
}

/**
 * ka_block_free_run() - Give back a run.
 * @caches: The heap's.
 * @run: The run, a block or not; or whatever the caller takes for one.
 *
 * Return: 0; -1 with errno and a sentence if no run of the program begins there.
 */
int ka_block_free_run(struct ka_caches *caches, void *run)
{
	if (ka_refuse_inherited(&caches->pools))
		return -1;
	/* Before others can have it. */
	trace_run_freed(run);
	return ka_runs_give(&caches->pools, run);
}

/**
 * ka_block_give_slowly() - Give back a block that is not of the thread's own pools.
 * @caches: The heap's.
 * @cache: The thread's.
 * @block: The block, or whatever the caller takes for one.
 *
 * Return: As ka_block_free().
 */
int ka_block_give_slowly(struct ka_caches *caches, struct ka_cache *cache, void *block)
{
	struct ka_pool *pool = ka_pool_of(&caches->pools, block);
	int before = errno, error;

	if (!block)
		return 0;
	if (ka_refuse_inherited(&caches->pools))
		return -1;
	if (pool != &ka_no_pool)
		error = give_to_pool(caches, cache, pool, block);
	else
		error = ka_block_free_run(caches, block);
	/* What has been freed is no reason for an errno. */
	if (!error)
		errno = before;
	return error;
}

/**
 * ka_block_emptied() - A pool's last block has been freed.
 * @cache: The thread's.
 * @pool: The thread's pool. Unless it is a current one that is held, it goes back.
 */
void ka_block_emptied(struct ka_cache *cache, struct ka_pool *pool)
{
	bool locked = ka_cache_lock(cache);
	int before = errno;

	/* Who gives back all that is empty may have come first. */
	if (ka_pool_owner(pool) == cache->thread)
		give_back_emptied(cache, pool);
	ka_cache_unlock(cache, locked);
	errno = before;
}

/**
 * ka_block_size() - How many bytes of a block can be used.
 * @caches: The heap's.
 * @block: The block.
 *
 * Return: Bytes; 0 with errno and a sentence if no block begins there.
 */
size_t ka_block_size(struct ka_caches *caches, const void *block)
{
	struct ka_pool *pool = ka_pool_of(&caches->pools, block);

	if (pool == &ka_no_pool)
		return ka_runs_size(&caches->pools, block);
	if (ka_pool_begins_at(&caches->pools, pool, block))
		return pool->size;
	ka_block_none_begins(block);
	return 0;
}

/*
 * The pool of a marked block if the thread can ask it, as its owner; or NULL. It is looked
 * up once: when another thread frees a block, it calls the owner, who is not seen then.
 */
static const struct ka_pool *pool_to_ask(const struct ka_caches *caches, const void *block)
{
	return ka_is_marked(block) ? ka_block_own(&caches->pools, block) : NULL;
}

/* A block stays where it is: if it is traced, or is to be, its size is another. */
static void resized(struct ka_caches *caches, struct ka_cache *cache, void *block, size_t size)
{
	const struct ka_pool *pool = ka_pool_of(&caches->pools, block);
	unsigned int due;

	if (pool == &ka_no_pool) {
		trace_run_freed(block);
		due = trace_due(cache, size);
		if (due)
			ka_sampler->add_run(block, size, size, due);
	} else if (KA_READ(pool->owner) == KA_TRACED) {
		ka_sampler->resized(block, size);
	}
}

/* Whether a block has another size from now on where it is. */
static bool resize_here(struct ka_caches *caches, void *block, size_t old, size_t size)
{
	if (size <= old && size >= old - old / 4)
		return true;
	return size > GROWING_MIN && ka_pool_of(&caches->pools, block) == &ka_no_pool &&
	       ka_runs_resize(&caches->pools, block, size);
}

/**
 * ka_block_expand() - Make a block larger where it is.
 * @caches: The heap's.
 * @cache: The thread's.
 * @block: The block.
 * @size: Bytes that it must have room for.
 *
 * Return: Its usable size, at least @size; 0 with errno and a message.
 */
size_t ka_block_expand(struct ka_caches *caches, struct ka_cache *cache, void *block, size_t size)
{
	size_t usable = ka_block_size(caches, block);

	if (!usable || size <= usable)
		return usable;
	if (ka_pool_of(&caches->pools, block) != &ka_no_pool ||
	    !ka_runs_resize(&caches->pools, block, size)) {
		ka_fail(ENOMEM, "a block of %zu bytes has no room for %zu where it is", usable,
			size);
		return 0;
	}
	resized(caches, cache, block, size);
	return ka_runs_size(&caches->pools, block);
}

/* What is to take the place of a block. */
static void *take_other(struct ka_caches *caches, struct ka_cache *cache, size_t old, size_t size)
{
	void *other = NULL;

	if (size > old && size > GROWING_MIN)
		other = take_block_run(caches, cache, 0, size, size);
	/* At the limit, a pool may have one still. */
	return other ? other : ka_block_alloc(caches, cache, size);
}

/* Below this, copying is faster than a system call. */
#define MOVED_MIN	(64 * KA_PAGE_SIZE)

/* Whether it is worth it to move a block's pages. */
static bool moves(struct ka_caches *caches, const void *block, const void *other, size_t old,
		  size_t size)
{
	return old >= MOVED_MIN && size >= old &&
	       ka_pool_of(&caches->pools, block) == &ka_no_pool &&
	       ka_pool_of(&caches->pools, other) == &ka_no_pool;
}

/*
 * Move the pages of a block, a run, to another one. @other is set to the block that has the
 * content then; NULL with errno and a sentence, and the block as it was: there are no
 * addresses left for the pages of the other one, which is free. False: nothing was done.
 */
static bool move_pages(struct ka_caches *caches, void *block, void **other, size_t size)
{
	enum ka_moved moved = ka_runs_move(&caches->pools, block, *other, size);

	if (moved == KA_MOVED) {
		trace_run_freed(block);
		ka_runs_give_gone(&caches->pools, block, 0, false);
	} else if (moved == KA_NOWHERE) {
		trace_run_freed(*other);
		ka_runs_give_gone(&caches->pools, *other, size, true);
		*other = NULL;
		ka_fail(ENOMEM, "no memory to move %zu KiB (see ulimit -v)", size / 1024);
	}
	return moved != KA_NOT_MOVED;
}

/**
 * ka_block_resize() - Change a block's size.
 * @caches: The heap's.
 * @cache: The thread's.
 * @block: The block.
 * @size: Bytes; 0 is as 1.
 *
 * Return: The block, perhaps elsewhere; NULL with errno and a sentence, and the
 * block as it was. It stays where it is if it fits and no more than a quarter would
 * come free, as in CPython's obmalloc.
 */
void *ka_block_resize(struct ka_caches *caches, struct ka_cache *cache, void *block, size_t size)
{
	size_t old = ka_block_size(caches, block);
	const struct ka_pool *asked;
	void *other;

	if (!old)
		return NULL;
	asked = pool_to_ask(caches, block);
	if (asked && may_be_free(caches, asked, block) && has_free(caches, cache, asked, block)) {
		ka_block_freed_twice(block);
		return NULL;
	}
	size = size ? size : 1;
	other = resize_here(caches, block, old, size) ? block :
						      take_other(caches, cache, old, size);
	if (!other && size > old)
		return NULL;
	/* Without another, one that is to be smaller stays. */
	if (!other || other == block) {
		resized(caches, cache, block, size);
		return block;
	}
	if (moves(caches, block, other, old, size) && move_pages(caches, block, &other, old))
		return other;
	memcpy(other, block, size < old ? size : old);
	/* It is known to be in use. */
	if (asked)
		((struct ka_free *)block)->mark = 0;
	ka_block_free(caches, cache, block);
	return other;
}
