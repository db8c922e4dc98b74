// SPDX-License-Identifier: MIT
/*
 * The list of all heaps of the process, with their indices and serial numbers. The lock of the
 * lists guards all of them.
 */
#include <time.h>

#include "heap/heap.h"

struct ka_heap *ka_heaps;

static struct ka_heap *by_index[KA_HEAPS];
static uint64_t last_serial;

/* True if the process has ever had a heap. */
bool ka_heaps_any(void)
{
	return last_serial;
}

/* See ka_caches_hide_pools(). The lock of the lists is held. */
void ka_heaps_hide_pools(void)
{
	for (struct ka_heap *heap = ka_heaps; heap; heap = heap->next)
		ka_caches_hide_pools(&heap->caches);
}

/**
 * ka_heaps_add() - Add a heap to the list; set its index and its serial number.
 * @heap: The heap.
 *
 * Context: The lock of the lists is held.
 */
void ka_heaps_add(struct ka_heap *heap)
{
	size_t index = 0;

	heap->next = ka_heaps;
	ka_heaps = heap;
	/* If all indices are used, it stays KA_HEAPS: the heap then has no blocks. */
	while (index < KA_HEAPS && by_index[index])
		index++;
	if (index < KA_HEAPS)
		by_index[index] = heap;
	ka_pools_of(heap)->serial = ++last_serial;
	ka_pools_of(heap)->index = index;
}

/**
 * ka_heaps_remove() - Remove a heap from the list.
 * @heap: The heap.
 *
 * Context: The lock of the lists is held.
 */
void ka_heaps_remove(struct ka_heap *heap)
{
	struct ka_heap **link = &ka_heaps;

	while (*link != heap)
		link = &(*link)->next;
	*link = heap->next;
	if (ka_pools_of(heap)->index < KA_HEAPS)
		by_index[ka_pools_of(heap)->index] = NULL;
}

/**
 * ka_heaps_renumber() - Set a new serial number, so that no thread finds its old cache.
 * @heap: The heap.
 *
 * Context: The lock of the lists is held.
 */
void ka_heaps_renumber(struct ka_heap *heap)
{
	ka_pools_of(heap)->serial = ++last_serial;
}

struct ka_heap *ka_heap_of(const void *address)
{
	struct ka_heap *heap;

	ka_lists_lock();
	for (heap = ka_heaps; heap; heap = heap->next) {
		if (ka_window_contains(ka_window_of(heap), address))
			break;
	}
	ka_lists_unlock();
	return heap;
}

/*
 * Take a lock at exit; return true if the thread holds it now. The thread that called exit()
 * may hold the lock itself, or another thread may never release it, so the function waits at
 * most @moments milliseconds, and subtracts those that it has waited.
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
 * @visit: The function. The heap's lock and that of the lists are held.
 *
 * Context: Waits for locks for at most one second in total, and skips heaps that stay locked.
 */
void ka_heaps_at_exit(void (*visit)(struct ka_heap *heap))
{
	int moments = 1000;

	if (!lock_soon(&ka_lists, &moments))
		return;
	for (struct ka_heap *heap = ka_heaps; heap; heap = heap->next) {
		if (!lock_soon(&ka_arenas_of(heap)->lock, &moments))
			continue;
		visit(heap);
		ka_mutex_unlock(&ka_arenas_of(heap)->lock);
	}
	ka_mutex_unlock(&ka_lists);
}
