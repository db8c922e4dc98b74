// SPDX-License-Identifier: GPL-2.0
/*
 * The control region: pages that kernel and process share. Its first page says
 * what it is, the others hold a state word for each arena of the window. The
 * kernel uses the pages by their linear addresses, which every 64-bit kernel has.
 */
#include <linux/mm.h>
#include <linux/slab.h>

#include "karena.h"

#define STATES_PER_PAGE	(PAGE_SIZE / sizeof(u32))

/**
 * karena_state() - Find the state word of an arena.
 * @heap: The heap.
 * @index: Which arena of its window.
 *
 * Return: Its address. The process writes there too, anything, at any time.
 */
u32 *karena_state(struct karena_heap *heap, unsigned long index)
{
	u32 *states = page_address(heap->control[1 + index / STATES_PER_PAGE]);

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
	unsigned long pages = 1 + DIV_ROUND_UP(heap->nr_arenas, STATES_PER_PAGE);
	struct karena_control *control;

	heap->control = kvcalloc(pages, sizeof(*heap->control),
				 GFP_KERNEL_ACCOUNT);
	if (!heap->control)
		return -ENOMEM;
	while (heap->nr_control < pages) {
		struct page *page = alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO);

		if (!page) {
			karena_control_free(heap);
			return -ENOMEM;
		}
		heap->control[heap->nr_control++] = page;
	}
	control = page_address(heap->control[0]);
	control->abi_version = KARENA_ABI_VERSION;
	control->arena_shift = KARENA_ARENA_SHIFT;
	control->id = heap->id;
	control->nr_arenas = heap->nr_arenas;
	control->states_offset = PAGE_SIZE;
	return 0;
}
