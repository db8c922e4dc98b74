// SPDX-License-Identifier: MIT
/*
 * What libkarena-uring is told of a heap.
 */
#include "bits.h"
#include "private.h"

/* The first page of the window from one on that is (not) committed. */
static size_t find_page(const struct ka_notes *notes, size_t page, bool committed)
{
	size_t least = notes->nr_notes * KA_ARENA_PAGES;
	size_t end = notes->nr_touched * KA_ARENA_PAGES;

	page = page < least ? least : page;
	while (page < end) {
		const struct ka_arena *arena = ka_arena_at(notes, page / KA_ARENA_PAGES);

		page += ka_find_bit(arena->backed, page % KA_ARENA_PAGES, committed) -
			page % KA_ARENA_PAGES;
		if (page % KA_ARENA_PAGES ||
		    (page < end && ka_test_bit(ka_arena_at(notes, page / KA_ARENA_PAGES)->backed,
					       0) == committed))
			break;
	}
	return page;
}

int ka_private_fail(int error, const char *sentence)
{
	return ka_fail(error, "%s", sentence);
}

char *ka_private_window(const struct ka_heap *heap, size_t *size)
{
	*size = heap->window.nr_arenas * KA_ARENA_SIZE;
	return heap->window.start;
}

size_t ka_private_committed(struct ka_heap *heap, size_t *from)
{
	size_t page = *from / KA_PAGE_SIZE, end;

	pthread_mutex_lock(&heap->lock);
	if (ka_refuse_inherited(heap)) {
		pthread_mutex_unlock(&heap->lock);
		return 0;
	}
	/* Who asks will pin what there is, free or not. */
	heap->window.io = true;
	page = find_page(heap->notes, page, true);
	end = find_page(heap->notes, page, false);
	pthread_mutex_unlock(&heap->lock);
	*from = page * KA_PAGE_SIZE;
	return (end - page) * KA_PAGE_SIZE;
}
