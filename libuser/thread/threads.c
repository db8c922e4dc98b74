// SPDX-License-Identifier: MIT
/*
 * Which caches there are: of each thread for each heap whose blocks it uses. A thread that
 * ends leaves its pools to the others; a heap that goes takes its caches along; a child has
 * those of the thread that forked.
 *
 * The lock of the lists guards those of caches: @first of a heap, and @mine of each thread.
 * The thread that gives back another thread's pool holds it, too, and then the lock of that
 * cache.
 */
#include <errno.h>
#include <limits.h>
#include <pthread.h>

#include "thread/cache.h"

/* Where a thread finds its cache of a heap: at the index of the heap, if the serial is right. */
struct entry {
	uint64_t serial;
	struct ka_cache *cache;
};

#define TABLE_SIZE	((KA_HEAPS + 1) * sizeof(struct entry))

static __thread struct entry *table;
static __thread struct ka_cache *mine;

/* The cache of threads that have ended their own. */
static struct ka_cache ended = { KA_CACHE_INIT, .ended = true };
static __thread bool thread_ended;

/* The cache of threads that have none: it is read, and never stored to. */
struct ka_cache ka_no_cache = { KA_CACHE_INIT };
__thread struct ka_cache *ka_domain_cache = &ka_no_cache;

/* Pages that threads have left, for the next ones; the lock of the list guards them. */
#define MOST_KEPT	16
static struct ka_by_class *kept[MOST_KEPT];
static unsigned int nr_kept;

/* A cache that is not a thread's own storage, with its page. */
struct with_page {
	struct ka_cache cache;
	struct ka_by_class by;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static bool have_key;

/**
 * ka_caches_hide_pools() - Let each thread's next call be a slow one.
 * @caches: The heap's. The lock of the lists is held.
 *
 * The pools stay what they are, and come to be shown again as they are needed.
 */
void ka_caches_hide_pools(struct ka_caches *caches)
{
	for (struct ka_cache *cache = caches->first; cache; cache = cache->of_heap.next)
		ka_cache_hide(cache);
}

/**
 * ka_caches_emptied() - The last block of another thread's pool may have been freed.
 * @caches: The heap's.
 * @pool: The pool, or what it has become by now. If it is in a list and empty, it goes
 *	back to the heap: its owner may not look at it for long.
 */
void ka_caches_emptied(struct ka_caches *caches, struct ka_pool *pool)
{
	/* Its owner may hold that lock, and wait for one that is held for the fork. */
	if (ka_is_forking())
		return;
	ka_lists_lock();
	for (struct ka_cache *cache = caches->first; cache; cache = cache->of_heap.next) {
		if (cache->thread != ka_pool_owner(pool))
			continue;
		ka_mutex_lock(&cache->lock);
		if (__atomic_load_n(&pool->listed, __ATOMIC_ACQUIRE) &&
		    cache->thread == ka_pool_owner(pool))
			ka_cache_give_back_empty(cache, pool);
		ka_mutex_unlock(&cache->lock);
		break;
	}
	ka_lists_unlock();
}

static void cache_unlink(struct ka_cache *cache)
{
	*cache->of_heap.link = cache->of_heap.next;
	if (cache->of_heap.next)
		cache->of_heap.next->of_heap.link = cache->of_heap.link;
	*cache->of_thread.link = cache->of_thread.next;
	if (cache->of_thread.next)
		cache->of_thread.next->of_thread.link = cache->of_thread.link;
}

static void *pages_map(size_t size)
{
	void *start = ka_mmap(NULL, size, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);

	return start == MAP_FAILED ? NULL : start;
}

/* Let a cache in a thread's storage have a page; whether there is one. */
static bool cache_get_page(struct ka_cache *cache)
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

/* The cache itself, too, where it is with its page. The lock of the list is held. */
static void cache_give_page(struct ka_cache *cache)
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
	cache_unlink(cache);
	cache_give_page(cache);
}

/* No more is taken from a cache in a thread's storage. The lock of the list is held. */
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
 * A thread's destructors of other keys may run after this one, and allocate: it has itself
 * called again, and ends the caches in the last round but one of the C library's. In the last
 * one a sanitizer ends what it has of the thread.
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
			ka_cache_leave_all(cache);
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
 * ka_cache_begin() - Let a cache be known.
 * @caches: The heap's.
 * @cache: The thread's, which has nothing.
 *
 * Return: Whether something will end it with its thread. Else it has ended by now; or,
 * where there is no memory for it, nothing has been done.
 */
bool ka_cache_begin(struct ka_caches *caches, struct ka_cache *cache)
{
	pthread_once(&once, key_make);
	if (!cache->own && !cache_get_page(cache))
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
	/* It may allocate: the cache can be used by now. */
	if (have_key && !pthread_setspecific(key, cache))
		return true;
	ka_cache_leave_all(cache);
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

/* Whether the thread has a cache of a heap in its table. */
static inline bool is_in_table(const struct ka_pools *pools)
{
	return table && table[pools->index].serial == pools->serial;
}

/**
 * ka_cache_of() - The calling thread's cache of a heap.
 * @caches: The heap's.
 *
 * Return: The cache, made if need be; NULL with errno and a sentence.
 */
struct ka_cache *ka_cache_of(struct ka_caches *caches)
{
	struct entry *entry;

	/* The table has an entry more, for heaps that have found no index. */
	if (__builtin_expect(is_in_table(&caches->pools), 1))
		return table[caches->pools.index].cache;
	if (thread_ended)
		return &ended;
	if (caches->pools.index == KA_HEAPS) {
		ka_fail(ENOMEM, "%zu heaps have blocks already", KA_HEAPS);
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
		/* Nothing would end the table, either. */
		thread_ended = true;
		ka_munmap(table, TABLE_SIZE);
		table = NULL;
		return &ended;
	}
	entry->serial = caches->pools.serial;
	return entry->cache;

err:
	ka_fail(ENOMEM, "no memory for what a thread has of a heap");
	return NULL;
}

/* A thread that has given no more blocks, and taken none, may be about to end. */
#define FEW_GIVEN	100

/**
 * ka_cache_has_given_many() - Count a block that a thread without a cache gives back.
 *
 * glibc frees what it had for a thread after the destructors of that thread have run, and
 * then nobody would end a cache. So a thread that has done nothing but give gets a cache
 * late.
 *
 * Return: Whether the thread is to have a cache now.
 */
bool ka_cache_has_given_many(void)
{
	static __thread uint8_t given;

	if (given == FEW_GIVEN)
		return true;
	given++;
	return false;
}

/**
 * ka_cache_to_give() - The calling thread's cache of a heap, to give a block back.
 * @caches: The heap's.
 *
 * Return: As ka_cache_of(); but a thread that has given few blocks, and taken none, has that
 * of one that has ended.
 */
struct ka_cache *ka_cache_to_give(struct ka_caches *caches)
{
	if (__builtin_expect(is_in_table(&caches->pools), 1))
		return table[caches->pools.index].cache;
	return ka_cache_has_given_many() ? ka_cache_of(caches) : &ended;
}

/**
 * ka_caches_free() - Free all caches of a heap, which goes with all that is in it.
 * @caches: The heap's. The lock of the lists is held.
 */
void ka_caches_free(struct ka_caches *caches)
{
	while (caches->first)
		cache_free(caches->first);
}

/* The pools of threads that a child does not have are left to all. */
static void orphans_leave(struct ka_caches *caches)
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
			ka_pool_let_go(pool);
			pool->listed = false;
			ka_pool_shelve_locked(&caches->pools, pool);
		}
	}
}

/**
 * ka_caches_forked() - In a child, forget the caches of the parent's other threads.
 * @caches: The heap's. Its lock, and that of the lists, are held.
 * @alone: There were none: others that there are now the child has started since.
 *
 * Whatever a thread was doing to its pools, what it has stored by then is in the
 * order of the program: at worst a block is lost, or a pool never becomes empty.
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
		/* Its thread's own storage is nobody's now. */
		cache_give_page(cache);
	}
	caches->first = own;
	if (own) {
		own->of_heap.next = NULL;
		own->of_heap.link = &caches->first;
	}
	if (caches->pools.inherited && own)
		ka_cache_forget(own);
	else if ((others || caches->nr_late) && !caches->pools.inherited)
		orphans_leave(caches);
	caches->nr_late = 0;
}
