// SPDX-License-Identifier: MIT
/*
 * Heaps at fork. A child gets a copy of each heap, shares its memory with the parent, or has
 * nothing of it: see enum ka_fork.
 */
#include <pthread.h>

#include "heap/heap.h"

/* The process has one thread, so fork_prepare() has taken no lock. */
static bool alone;

/* Take both locks of a heap, also in a thread that forks, where ka_lock() does nothing. */
static void heap_lock(struct ka_heap *heap)
{
	ka_mutex_lock(&heap->shown.lock);
	ka_mutex_lock(&ka_arenas_of(heap)->lock);
}

static void heap_unlock(struct ka_heap *heap)
{
	ka_mutex_unlock(&ka_arenas_of(heap)->lock);
	ka_mutex_unlock(&heap->shown.lock);
}

/*
 * Hold all locks during a fork, so that no lock stays held for ever in a child. The preload
 * library is initialized before all other libraries (-z initfirst), so its handlers run last
 * before a fork and first after it. The handlers of other libraries, which may end threads and
 * start new ones, then find the heaps usable.
 *
 * In other programs, and for handlers that a program registers even earlier, a handler may run
 * and allocate while this thread holds the locks. So from here on, ka_lock() does nothing in
 * this thread. A process with one thread takes no lock: a signal may have interrupted the
 * thread while it held a lock, and the signal handler may fork.
 */
static void fork_prepare(void)
{
	alone = __libc_single_threaded;
	if (alone)
		return;
	ka_fork_lock();
	for (struct ka_heap *heap = ka_heaps; heap; heap = heap->next)
		heap_lock(heap);
	__atomic_store_n(&ka_forking, ka_thread(), __ATOMIC_RELAXED);
}

/* Release the locks that fork_prepare() has taken, in the parent and in the child. */
static void fork_parent(void)
{
	if (!ka_is_forking())
		return;
	__atomic_store_n(&ka_forking, 0, __ATOMIC_RELAXED);
	for (struct ka_heap *heap = ka_heaps; heap; heap = heap->next)
		heap_unlock(heap);
	ka_fork_unlock();
}

/* Map addresses without access: another mapping there would pass for the heap. */
static void keep_addresses(void *start, size_t size)
{
	if (size)
		(void)ka_mmap(start, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS |
			      MAP_NORESERVE | MAP_FIXED_NOREPLACE);
}

static void inherit(struct ka_heap *heap)
{
	struct ka_window *window = ka_window_of(heap);

	if (window->fork == KA_FORK_COW && window->source->copied(window))
		return;
	ka_pools_of(heap)->inherited = true;
	ka_arenas_of(heap)->changed = false;
	ka_pools_of(heap)->nr_slots = 0;
	if (window->fork == KA_FORK_SHARE)
		return;
	/* The kernel chooses no address in a claimed window, so the window needs no mapping. */
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
	for (struct ka_heap *heap = ka_heaps; heap; heap = heap->next) {
		if (!ka_pools_of(heap)->inherited)
			inherit(heap);
		if (ka_pools_of(heap)->inherited)
			ka_sampler->forget_heap(ka_window_of(heap), true);
		ka_caches_forked(&heap->caches, alone);
	}
	fork_parent();
}

/*
 * Register the handlers at load, not at a first allocation: libc holds a lock of its own while
 * it allocates memory for them.
 */
__attribute__((constructor))
static void register_handlers(void)
{
	pthread_atfork(fork_prepare, fork_parent, fork_child);
}

/**
 * ka_heap_register() - Add a new heap to the list of all heaps.
 * @heap: The heap.
 *
 * Context: Takes the lock of the lists. From now on, a fork takes the heap's locks.
 */
void ka_heap_register(struct ka_heap *heap)
{
	ka_lists_lock();
	/* A thread that forks holds the locks of all heaps, and releases them later. */
	if (ka_is_forking())
		heap_lock(heap);
	ka_heaps_add(heap);
	ka_lists_unlock();
}

/**
 * ka_heap_unregister() - Remove a heap from the list before it is destroyed; free its caches.
 * @heap: The heap.
 *
 * Context: Takes the lock of the lists.
 */
void ka_heap_unregister(struct ka_heap *heap)
{
	ka_lists_lock();
	if (ka_is_forking())
		heap_unlock(heap);
	ka_heaps_remove(heap);
	ka_caches_free(&heap->caches);
	ka_sampler->forget_heap(ka_window_of(heap), false);
	ka_lists_unlock();
}
