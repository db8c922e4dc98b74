// SPDX-License-Identifier: MIT
/*
 * The caches of each thread: one for each heap whose blocks it uses. A thread that ends gives
 * up its pools for the others. A heap that is destroyed frees its caches. A child has the
 * caches of the thread that forked.
 *
 * The lock of the lists guards the lists of caches: @first of a heap, and @mine of each thread.
 * A thread that returns another thread's pool takes this lock, then the lock of that cache.
 */
#include <errno.h>
#include <limits.h>
#include <pthread.h>

#include "thread/cache.h"

/*
 * A thread finds its cache of a heap at the index of the heap, if the serial number is that of
 * the heap.
 */
struct entry {
	uint64_t serial;
	struct ka_cache *cache;
};

#define TABLE_SIZE	((KA_HEAPS + 1) * sizeof(struct entry))

static __thread struct entry *table;
static __thread struct ka_cache *mine;

/* The cache of threads whose own caches have ended. */
static struct ka_cache ended = { KA_CACHE_INIT, .ended = true };
static __thread bool thread_ended;

/* The cache of threads that have none. It is read, but never written. */
struct ka_cache ka_no_cache = { KA_CACHE_INIT };
__thread struct ka_cache *ka_domain_cache = &ka_no_cache;

/* Pages of ended threads, for the next ones; the lock of the lists guards them. */
#define MOST_KEPT	16
static struct ka_by_class *kept[MOST_KEPT];
static unsigned int nr_kept;

/* A cache that does not lie in a thread's storage, with its page. */
struct with_page {
	struct ka_cache cache;
	struct ka_by_class by;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static bool have_key;

/**
 * ka_caches_hide_pools() - Hide all pools, so that each thread's next call takes the slow path.
 * @caches: The caches of the heap.
 *
 * The pools do not change; they are shown again as they are needed.
 *
 * Context: The lock of the lists is held.
 */
void ka_caches_hide_pools(struct ka_caches *caches)
{
	for (struct ka_cache *cache = caches->first; cache; cache = cache->of_heap.next)
		ka_cache_hide(cache);
}

/**
 * ka_caches_emptied() - Return another thread's pool if it is listed and empty.
 * @caches: The caches of the heap.
 * @pool: The pool whose last block the caller has freed; by now it may be another pool.
 *
 * The owner might not check the pool for a long time.
 *
 * Context: Takes the lock of the lists, and that of the owner's cache.
 */
void ka_caches_emptied(struct ka_caches *caches, struct ka_pool *pool)
{
	/* The owner may hold its cache's lock, and wait for a lock that the fork holds. */
	if (ka_is_forking())
		return;
	ka_lists_lock();
	for (struct ka_cache *cache = caches->first; cache; cache = cache->of_heap.next) {
		if (cache->thread != ka_pool_owner(pool))
			continue;
		ka_mutex_lock(&cache->lock);
		if (__atomic_load_n(&pool->listed, __ATOMIC_ACQUIRE) &&
		    cache->thread == ka_pool_owner(pool))
			ka_cache_return_empty(cache, pool);
		ka_mutex_unlock(&cache->lock);
		break;
	}
	ka_lists_unlock();
}

static void *pages_map(size_t size)
{
	void *start = ka_mmap(NULL, size, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);

	return start == MAP_FAILED ? NULL : start;
}

/* Allocate the page of a cache in a thread's storage. False without memory. */
static bool cache_alloc_page(struct ka_cache *cache)
{
	struct ka_by_class *by = NULL;

	_Static_assert(sizeof(*by) <= KA_PAGE_SIZE, "one page is enough for all classes");
	ka_lists_lock();
	if (nr_kept)
		by = kept[--nr_kept];
	ka_lists_unlock();
	if (!by)
		by = pages_map(sizeof(*by));
	if (!by)
		return false;
	*by = ka_none_by_class;
	cache->by = by;
	return true;
}

/*
 * Free the page of a cache, and the cache itself if it is in the same mapping. The lock of the
 * lists is held.
 */
static void cache_free_page(struct ka_cache *cache)
{
	if (cache->own)
		ka_munmap(cache, sizeof(struct with_page));
	else if (nr_kept < MOST_KEPT)
		kept[nr_kept++] = cache->by;
	else
		ka_munmap(cache->by, sizeof(*cache->by));
}

static void cache_free(struct ka_cache *cache)
{
	*cache->of_heap.link = cache->of_heap.next;
	if (cache->of_heap.next)
		cache->of_heap.next->of_heap.link = cache->of_heap.link;
	*cache->of_thread.link = cache->of_thread.next;
	if (cache->of_thread.next)
		cache->of_thread.next->of_thread.link = cache->of_thread.link;
	cache_free_page(cache);
}

/* Free a cache; one in a thread's storage is marked as ended. The lock of the lists is held. */
static void cache_end(struct ka_cache *cache)
{
	bool own = cache->own;

	cache_free(cache);
	if (own)
		return;
	cache->by = (struct ka_by_class *)&ka_none_by_class;
	cache->ended = true;
}

/*
 * End the caches of a thread. Destructors of the thread's other keys may run after this one,
 * and allocate. So this one arranges to be called again, and ends the caches in the C library's
 * last round but one. In the last round, a sanitizer frees its own data of the thread.
 */
static void thread_ends(void *data)
{
	static __thread int round;

	if (++round < PTHREAD_DESTRUCTOR_ITERATIONS - 1 && !pthread_setspecific(key, data))
		return;
	thread_ended = true;
	ka_domain_cache = &ka_no_cache;
	ka_lists_lock();
	while (mine) {
		struct ka_cache *cache = mine;

		if (!cache->caches->pools.inherited)
			ka_cache_abandon_all(cache);
		cache_end(cache);
	}
	ka_lists_unlock();
	if (table)
		ka_munmap(table, TABLE_SIZE);
	table = NULL;
}

static void key_make(void)
{
	have_key = !pthread_key_create(&key, thread_ends);
}

/**
 * ka_cache_begin() - Register a cache.
 * @caches: The caches of the heap.
 * @cache: The cache of the thread, without pools.
 *
 * Context: Takes the lock of the lists.
 *
 * Return: True if the thread's end will end the cache. False if the cache has ended already;
 * or, for lack of memory, nothing was done.
 */
bool ka_cache_begin(struct ka_caches *caches, struct ka_cache *cache)
{
	pthread_once(&once, key_make);
	if (!cache->own && !cache_alloc_page(cache))
		return false;
	ka_lists_lock();
	cache->caches = caches;
	cache->thread = ka_thread();
	cache->of_heap.next = caches->first;
	cache->of_heap.link = &caches->first;
	if (caches->first)
		caches->first->of_heap.link = &cache->of_heap.next;
	caches->first = cache;
	cache->of_thread.next = mine;
	cache->of_thread.link = &mine;
	if (mine)
		mine->of_thread.link = &cache->of_thread.next;
	mine = cache;
	ka_lists_unlock();
	/* pthread_setspecific() may allocate; the cache can be used by now. */
	if (have_key && !pthread_setspecific(key, cache))
		return true;
	ka_cache_abandon_all(cache);
	ka_lists_lock();
	cache_end(cache);
	ka_lists_unlock();
	return false;
}

static struct ka_cache *cache_make(struct ka_caches *caches)
{
	static const struct ka_cache empty = { KA_CACHE_INIT };
	struct with_page *made = pages_map(sizeof(*made));

	if (!made)
		return NULL;
	made->cache = empty;
	made->by = ka_none_by_class;
	made->cache.by = &made->by;
	made->cache.own = true;
	return ka_cache_begin(caches, &made->cache) ? &made->cache : &ended;
}

/* True if the thread's table has its cache of a heap. */
static inline bool is_in_table(const struct ka_pools *pools)
{
	return table && table[pools->index].serial == pools->serial;
}

/**
 * ka_cache_of() - Get the calling thread's cache of a heap.
 * @caches: The caches of the heap.
 *
 * Return: The cache, created if necessary; NULL with errno and a message.
 */
struct ka_cache *ka_cache_of(struct ka_caches *caches)
{
	struct entry *entry;

	/* The table has an additional entry for heaps without an index. */
	if (__builtin_expect(is_in_table(&caches->pools), 1))
		return table[caches->pools.index].cache;
	if (thread_ended)
		return &ended;
	if (caches->pools.index == KA_HEAPS) {
		ka_fail(ENOMEM, "too many heaps: only %zu can have blocks at a time", KA_HEAPS);
		return NULL;
	}
	if (!table)
		table = pages_map(TABLE_SIZE);
	if (!table)
		goto err;
	entry = &table[caches->pools.index];
	entry->cache = cache_make(caches);
	if (!entry->cache)
		goto err;
	if (entry->cache == &ended) {
		/* No destructor would free the table, either. */
		thread_ended = true;
		ka_munmap(table, TABLE_SIZE);
		table = NULL;
		return &ended;
	}
	entry->serial = caches->pools.serial;
	return entry->cache;

err:
	ka_fail(ENOMEM, "no memory for the thread's cache of a heap");
	return NULL;
}

/* A thread that has only freed blocks, and at most this many, may be about to end. */
#define FEW_FREED	100

/**
 * ka_cache_has_freed_many() - Count a block that a thread without a cache frees.
 *
 * glibc frees its own memory for a thread after the destructors of that thread have run. A
 * cache created then would never end. So a thread that only frees blocks gets a cache late.
 *
 * Return: True if the thread should have a cache now.
 */
bool ka_cache_has_freed_many(void)
{
	static __thread uint8_t freed;

	if (freed == FEW_FREED)
		return true;
	freed++;
	return false;
}

/**
 * ka_cache_for_free() - Get the calling thread's cache of a heap, to free a block.
 * @caches: The caches of the heap.
 *
 * Return: As ka_cache_of(); but a thread that has freed few blocks and allocated none gets the
 * cache of ended threads.
 */
struct ka_cache *ka_cache_for_free(struct ka_caches *caches)
{
	if (__builtin_expect(is_in_table(&caches->pools), 1))
		return table[caches->pools.index].cache;
	return ka_cache_has_freed_many() ? ka_cache_of(caches) : &ended;
}

/**
 * ka_caches_free() - Free all caches of a heap that is destroyed or reset.
 * @caches: The caches of the heap.
 *
 * Context: The lock of the lists is held.
 */
void ka_caches_free(struct ka_caches *caches)
{
	while (caches->first)
		cache_free(caches->first);
}

/* Put the pools of threads that a child does not have on the shelf. */
static void orphans_shelve(struct ka_caches *caches)
{
	size_t slot = 0;

	while (slot < caches->pools.nr_slots) {
		struct ka_pool *pool = &caches->pools.entries[slot];

		if (caches->pools.map[slot] != pool) {
			slot++;
			continue;
		}
		slot += pool->slots;
		if (pool->owner != KA_NOBODY && pool->owner != KA_SHELF &&
		    pool->owner != KA_TRACED && ka_pool_owner(pool) != ka_thread()) {
			ka_pool_unhold(pool);
			pool->listed = false;
			ka_pool_shelve_locked(&caches->pools, pool);
		}
	}
}

/**
 * ka_caches_forked() - In a child, forget the caches of the parent's other threads.
 * @caches: The caches of the heap.
 * @alone: The parent had no other threads; any other thread was started by the child.
 *
 * A thread's stores to its pools before the fork are complete up to some point of the program's
 * order. At worst a block is lost, or a pool never becomes empty.
 *
 * Context: The heap's lock and that of the lists are held, unless @alone.
 */
void ka_caches_forked(struct ka_caches *caches, bool alone)
{
	struct ka_cache *cache = caches->first, *next, *own = NULL;
	bool others = false;

	if (alone && !caches->pools.inherited)
		return;
	for (; cache; cache = next) {
		next = cache->of_heap.next;
		if (cache->thread == ka_thread()) {
			own = cache;
			continue;
		}
		others = true;
		/* The storage of the cache's thread is unused now. */
		cache_free_page(cache);
	}
	caches->first = own;
	if (own) {
		own->of_heap.next = NULL;
		own->of_heap.link = &caches->first;
	}
	if (caches->pools.inherited && own)
		ka_cache_forget(own);
	else if ((others || caches->nr_cacheless) && !caches->pools.inherited)
		orphans_shelve(caches);
	caches->nr_cacheless = 0;
}
