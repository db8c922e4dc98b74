// SPDX-License-Identifier: MIT
/*
 * The list of all heaps of the process, and their numbers. @ka_lists guards both.
 */
#include <time.h>

#include "heap/heap.h"

struct ka_heap *ka_heaps;

static struct ka_heap *by_index[KA_HEAPS];
static uint64_t last_serial;

/* Whether there has ever been a heap. */
bool ka_heaps_any(void)
{
	return last_serial;
}

/* With the lock of the lists held: see ka_caches_hide_pools(). */
void ka_heaps_hide_pools(void)
{
	for (struct ka_heap *heap = ka_heaps; heap; heap = heap->next)
		ka_caches_hide_pools(&heap->caches);
}

/* An index for a heap, or KA_HEAPS if there are too many: it has no blocks then. */
static size_t free_index(void)
{
	size_t index = 0;

	while (index < KA_HEAPS && by_index[index])
		index++;
	return index;
}

/**
 * ka_heaps_add() - Put a heap into the list, and give it its numbers.
 * @heap: The heap. The lock of the lists is held.
 */
void ka_heaps_add(struct ka_heap *heap)
{
	heap->next = ka_heaps;
	ka_heaps = heap;
	ka_pools_of(heap)->serial = ++last_serial;
	ka_pools_of(heap)->index = free_index();
	if (ka_pools_of(heap)->index < KA_HEAPS)
		by_index[ka_pools_of(heap)->index] = heap;
}

/**
 * ka_heaps_remove() - Take a heap out of the list.
 * @heap: The heap. The lock of the lists is held.
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
 * ka_heaps_renumber() - Give a heap a new number, by which no thread finds its cache.
 * @heap: The heap. The lock of the lists is held.
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
