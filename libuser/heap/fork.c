// SPDX-License-Identifier: MIT
/*
 * All heaps of the process, and what becomes of them when it forks: a copy, or the
 * parent's heap, of which the child has the memory or nothing.
 */
#include <pthread.h>
#include <time.h>

#include "trace/trace.h"

static struct ka_mutex heaps_lock = KA_MUTEX;
static struct ka_heap *heaps;
static struct ka_heap *by_index[KA_HEAPS];
static uint64_t last_serial;

/* Locks that are taken before these; see ka_fork_takes(). */
#define MOST_OUTER	8

static struct ka_mutex *outer[MOST_OUTER];
static unsigned int nr_outer;

uintptr_t ka_forking;

/* Whether the thread that forks is the only one; it holds no lock then. */
static bool alone;

void ka_heaps_lock(void)
{
	ka_lock(&heaps_lock);
}

void ka_heaps_unlock(void)
{
	ka_unlock(&heaps_lock);
}

/* Whether there has ever been a heap. */
bool ka_heaps_any(void)
{
	return last_serial;
}

/* With the lock held: see ka_caches_hide_pools(). */
void ka_heaps_hide_pools(void)
{
	for (struct ka_heap *heap = heaps; heap; heap = heap->next)
		ka_caches_hide_pools(heap);
}

static void unlock_outer(unsigned int count)
{
	while (count)
		ka_mutex_unlock(outer[--count]);
}

/* Take the outer locks and that of the list; none is added meanwhile. */
static void lock_list(void)
{
	unsigned int count;

	for (;;) {
		count = __atomic_load_n(&nr_outer, __ATOMIC_ACQUIRE);
		for (unsigned int i = 0; i < count; i++)
			ka_mutex_lock(outer[i]);
		ka_mutex_lock(&heaps_lock);
		if (count == nr_outer)
			return;
		ka_mutex_unlock(&heaps_lock);
		unlock_outer(count);
	}
}

/*
 * Fork with every lock held, so that no child finds one that nobody releases. The preload
 * is initialized before all other libraries (-z initfirst), so its handlers are the last
 * before a fork and the first after it, and whatever another library does in a handler, as
 * to end its threads and start new ones, finds the heaps usable. Elsewhere, and for what a
 * program itself registers even earlier, handlers may run, and allocate, between: from here
 * on, this thread passes all locks. A process with one thread takes none: a signal may have
 * interrupted that thread while it held a lock, and its handler may fork.
 */
static void fork_prepare(void)
{
	alone = __libc_single_threaded;
	if (alone)
		return;
	lock_list();
	ka_trace_lock();
	for (struct ka_heap *heap = heaps; heap; heap = heap->next)
		ka_mutex_lock(&heap->lock);
	__atomic_store_n(&ka_forking, ka_thread(), __ATOMIC_RELAXED);
}

/* Parent and child alike hold what fork_prepare() took. */
static void fork_parent(void)
{
	if (!ka_is_forking())
		return;
	__atomic_store_n(&ka_forking, 0, __ATOMIC_RELAXED);
	for (struct ka_heap *heap = heaps; heap; heap = heap->next)
		ka_mutex_unlock(&heap->lock);
	ka_trace_unlock();
	ka_mutex_unlock(&heaps_lock);
	unlock_outer(nr_outer);
}

/* What is mapped there by chance later must not pass for the heap. */
static void keep_addresses(void *start, size_t size)
{
	if (size)
		(void)ka_mmap(start, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS |
			      MAP_NORESERVE | MAP_FIXED_NOREPLACE);
}

static void inherit(struct ka_heap *heap)
{
	struct ka_window *window = &heap->window;

	if (window->fork == KA_FORK_COW && window->source->copied(window))
		return;
	heap->inherited = true;
	heap->nr_slots = 0;
	if (window->fork == KA_FORK_SHARE)
		return;
	/* The kernel gives away no addresses of a window that is claimed. */
	if (!window->claimed) {
		keep_addresses(window->start, ka_window_size(window));
	} else if (window->fork == KA_FORK_NONE) {
		window->mapped[0] = 0;
		window->mapped[1] = 0;
	}
	keep_addresses(window->control, window->control_size);
}

static void fork_child(void)
{
	for (struct ka_heap *heap = heaps; heap; heap = heap->next) {
		if (!heap->inherited)
			inherit(heap);
		if (heap->inherited)
			ka_trace_heap_gone_locked(heap);
		ka_caches_forked(heap, alone);
	}
	fork_parent();
}

/*
 * At load, and never by a first allocation: libc has a lock of its own while it allocates
 * room for handlers.
 */
__attribute__((constructor))
static void register_handlers(void)
{
	pthread_atfork(fork_prepare, fork_parent, fork_child);
}

/**
 * ka_fork_takes() - Let a fork take a lock, too.
 * @lock: The lock, which is taken before that of the list of heaps.
 */
void ka_fork_takes(struct ka_mutex *lock)
{
	ka_heaps_lock();
	outer[nr_outer] = lock;
	__atomic_store_n(&nr_outer, nr_outer + 1, __ATOMIC_RELEASE);
	if (ka_is_forking())
		ka_mutex_lock(lock);
	ka_heaps_unlock();
}

/* An index for a heap, or KA_HEAPS if there are too many: it has no blocks then. */
static size_t free_index(void)
{
	size_t index = 0;

	while (index < KA_HEAPS && by_index[index])
		index++;
	return index;
}

void ka_heap_register(struct ka_heap *heap)
{
	ka_heaps_lock();
	/* All heaps are locked while their process forks. */
	if (ka_is_forking())
		ka_mutex_lock(&heap->lock);
	heap->next = heaps;
	heaps = heap;
	heap->serial = ++last_serial;
	heap->index = free_index();
	if (heap->index < KA_HEAPS)
		by_index[heap->index] = heap;
	ka_heaps_unlock();
}

void ka_heap_unregister(struct ka_heap *heap)
{
	struct ka_heap **link = &heaps;

	ka_heaps_lock();
	if (ka_is_forking())
		ka_mutex_unlock(&heap->lock);
	while (*link != heap)
		link = &(*link)->next;
	*link = heap->next;
	if (heap->index < KA_HEAPS)
		by_index[heap->index] = NULL;
	ka_caches_free(heap);
	ka_heaps_unlock();
}

/*
 * The thread that has called exit() may hold a lock, and another one may never release
 * it: whether the lock is taken before @moments, of a millisecond, are over.
 */
static bool lock_soon(struct ka_mutex *lock, int *moments)
{
	static const struct timespec moment = { .tv_nsec = 1000000 };

	while (!ka_mutex_try(lock)) {
		if (!*moments)
			return false;
		--*moments;
		nanosleep(&moment, NULL);
	}
	return true;
}

/**
 * ka_heaps_at_exit() - Call a function for each heap at the end of the program.
 * @visit: The function; with the heap's lock held, and that of the list.
 */
void ka_heaps_at_exit(void (*visit)(struct ka_heap *heap))
{
	int moments = 1000;

	if (!lock_soon(&heaps_lock, &moments))
		return;
	for (struct ka_heap *heap = heaps; heap; heap = heap->next) {
		if (!lock_soon(&heap->lock, &moments))
			continue;
		visit(heap);
		ka_mutex_unlock(&heap->lock);
	}
	ka_mutex_unlock(&heaps_lock);
}
