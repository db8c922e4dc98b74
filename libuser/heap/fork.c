// SPDX-License-Identifier: MIT
/*
 * What becomes of all heaps when the process forks: a copy, or the parent's heap, of which
 * the child has the memory or nothing.
 */
#include <pthread.h>

#include "heap/heap.h"

/* Whether the thread that forks is the only one; it holds no lock then. */
static bool alone;

/* Both locks of a heap, also for a thread that forks. */
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
	ka_fork_lock();
	for (struct ka_heap *heap = ka_heaps; heap; heap = heap->next)
		heap_lock(heap);
	__atomic_store_n(&ka_forking, ka_thread(), __ATOMIC_RELAXED);
}

/* Parent and child alike hold what fork_prepare() took. */
static void fork_parent(void)
{
	if (!ka_is_forking())
		return;
	__atomic_store_n(&ka_forking, 0, __ATOMIC_RELAXED);
	for (struct ka_heap *heap = ka_heaps; heap; heap = heap->next)
		heap_unlock(heap);
	ka_fork_unlock();
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
	struct ka_window *window = ka_window_of(heap);

	if (window->fork == KA_FORK_COW && window->source->copied(window))
		return;
	ka_pools_of(heap)->inherited = true;
	ka_arenas_of(heap)->changed = false;
	ka_pools_of(heap)->nr_slots = 0;
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
	for (struct ka_heap *heap = ka_heaps; heap; heap = heap->next) {
		if (!ka_pools_of(heap)->inherited)
			inherit(heap);
		if (ka_pools_of(heap)->inherited)
			ka_sampler->heap_gone(ka_window_of(heap), true);
		ka_caches_forked(&heap->caches, alone);
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
 * ka_heap_register() - Let a new heap be in the list, and a fork take its lock.
 * @heap: The heap.
 */
void ka_heap_register(struct ka_heap *heap)
{
	ka_lists_lock();
	/* All heaps are locked while their process forks. */
	if (ka_is_forking())
		heap_lock(heap);
	ka_heaps_add(heap);
	ka_lists_unlock();
}

/**
 * ka_heap_unregister() - Forget a heap that goes, and its caches.
 * @heap: The heap.
 */
void ka_heap_unregister(struct ka_heap *heap)
{
	ka_lists_lock();
	if (ka_is_forking())
		heap_unlock(heap);
	ka_heaps_remove(heap);
	ka_caches_free(&heap->caches);
	ka_sampler->heap_gone(ka_window_of(heap), false);
	ka_lists_unlock();
}
