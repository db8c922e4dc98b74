// SPDX-License-Identifier: GPL-2.0
/*
 * The control region: pages that kernel and process share. Its first page says
 * what it is and has the pressure word, the second is the statistics page, the
 * others hold a state word for each arena of the window. The kernel uses the pages
 * by their linear addresses, which every 64-bit kernel has.
 */
#include <linux/mm.h>
#include <linux/slab.h>

#include "karena.h"

#define STATS_PAGE	1
#define FIRST_STATES	2	/* pages */
#define STATES_PER_PAGE	(PAGE_SIZE / sizeof(u32))

/* How often the kernel looks for figures that belong together. */
#define STATS_TRIES	100

/**
 * karena_control() - Find the first page of the control region.
 * @heap: The heap.
 *
 * Return: Its address. The process writes there too, anything, at any time.
 */
struct karena_control *karena_control(struct karena_heap *heap)
{
	return page_address(heap->control[0]);
}

/**
 * karena_state() - Find the state word of an arena.
 * @heap: The heap.
 * @index: Which arena of its window.
 *
 * Return: Its address. The process writes there too, anything, at any time.
 */
u32 *karena_state(struct karena_heap *heap, unsigned long index)
{
	u32 *states = page_address(heap->control[FIRST_STATES +
						 index / STATES_PER_PAGE]);

	return states + index % STATES_PER_PAGE;
}

/**
 * karena_control_volatile() - Count the state words that say VOLATILE.
 * @heap: The heap.
 *
 * Return: Their number. What the process writes is believed.
 */
unsigned long karena_control_volatile(struct karena_heap *heap)
{
	unsigned long index, count = 0;
	struct karena_arena *arena;

	xa_for_each(&heap->arenas, index, arena)
		count += KARENA_STATE(READ_ONCE(*karena_state(heap, index))) ==
			 KARENA_VOLATILE;
	return count;
}

/**
 * karena_control_stats() - Copy the statistics page.
 * @heap: The heap.
 * @stats: Where to; all zero when the process says nothing, or speaks a version
 *	that is not known here.
 *
 * The figures belong together, unless the process never stops to write them.
 */
void karena_control_stats(struct karena_heap *heap, struct karena_stats *stats)
{
	struct karena_stats *shared = page_address(heap->control[STATS_PAGE]);
	u32 sequence;
	int tries;

	for (tries = 0; tries < STATS_TRIES; tries++) {
		/* Pairs with the process's: odd, figures, even. */
		sequence = smp_load_acquire(&shared->sequence);
		memcpy(stats, shared, sizeof(*stats));
		/* Likewise. */
		smp_rmb();
		if (!(sequence & 1) && sequence == READ_ONCE(shared->sequence))
			break;
		cpu_relax();
	}
	if (stats->version != KARENA_STATS_VERSION)
		memset(stats, 0, sizeof(*stats));
}

/**
 * karena_control_free() - Give up a heap's control region.
 * @heap: The heap; what is left of a failed karena_control_alloc() will do.
 */
void karena_control_free(struct karena_heap *heap)
{
	while (heap->nr_control)
		put_page(heap->control[--heap->nr_control]);
	kvfree(heap->control);
}

/**
 * karena_control_alloc() - Make a heap's control region.
 * @heap: The heap, with its id and window set.
 *
 * Return: 0 or -ENOMEM.
 */
int karena_control_alloc(struct karena_heap *heap)
{
	unsigned long pages = FIRST_STATES +
			      DIV_ROUND_UP(heap->nr_arenas, STATES_PER_PAGE);
	struct karena_control *control;

	heap->control = kvcalloc(pages, sizeof(*heap->control), KARENA_GFP);
	if (!heap->control)
		return -ENOMEM;
	while (heap->nr_control < pages) {
		struct page *page = alloc_page(KARENA_GFP | __GFP_ZERO);

		if (!page) {
			karena_control_free(heap);
			return -ENOMEM;
		}
		heap->control[heap->nr_control++] = page;
	}
	control = karena_control(heap);
	control->abi_version = KARENA_ABI_VERSION;
	control->arena_shift = KARENA_ARENA_SHIFT;
	control->id = heap->id;
	control->nr_arenas = heap->nr_arenas;
	control->states_offset = FIRST_STATES * PAGE_SIZE;
	control->stats_offset = STATS_PAGE * PAGE_SIZE;
	return 0;
}
