// SPDX-License-Identifier: GPL-2.0
/*
 * The control region: pages that kernel and process share. The first page describes the
 * region and has the pressure word and a struct karena_part. The second is the statistics
 * page. The others hold a state word for each arena of the window, and are allocated at the
 * first use. The module accesses the pages by their linear addresses, which every 64-bit
 * kernel has.
 */
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/slab.h>

#include "folio.h"

#define PART_OFFSET	512	/* in the first page */
#define STATS_PAGE	1
#define FIRST_STATES	2	/* pages */
#define STATES_PER_PAGE	(PAGE_SIZE / sizeof(u32))

/* How often the module tries to read consistent statistics. */
#define STATS_TRIES	100

/**
 * karena_control() - Find the first page of the control region.
 * @heap: The heap.
 *
 * Return: Its address. The process may write anything there, at any time.
 */
struct karena_control *karena_control(struct karena_heap *heap)
{
	return page_address(heap->control.pages[0]);
}

static void control_put(struct page *page)
{
	karena_key_clear(page_folio(page));
	put_page(page);
}

/**
 * karena_control_page() - Find a page of the control region, or allocate it.
 * @heap: The heap.
 * @number: The page's number in the control region.
 * @gfp: How to allocate it.
 *
 * Return: The page, or NULL.
 */
struct page *karena_control_page(struct karena_heap *heap, unsigned long number,
				 gfp_t gfp)
{
	/* Pairs with the cmpxchg() below. */
	struct page *page = smp_load_acquire(&heap->control.pages[number]);
	struct page *made;

	if (page)
		return page;
	made = alloc_page(gfp | __GFP_ACCOUNT | __GFP_ZERO);
	if (!made)
		return NULL;
	karena_key_set(heap, page_folio(made),
		       heap->nr_arenas * KARENA_ARENA_PAGES + number);
	page = cmpxchg(&heap->control.pages[number], NULL, made);
	if (!page)
		return made;
	control_put(made);
	return page;
}

/**
 * karena_control_states() - Make sure that an arena has a state word.
 * @heap: The heap.
 * @index: The arena's number in the window.
 * @gfp: How to allocate it.
 *
 * Return: True if it has one.
 */
bool karena_control_states(struct karena_heap *heap, unsigned long index, gfp_t gfp)
{
	return karena_control_page(heap, FIRST_STATES + index / STATES_PER_PAGE, gfp);
}

/**
 * karena_state() - Find the state word of an arena.
 * @heap: The heap.
 * @index: The arena's number in the window.
 *
 * Return: Its address; NULL before the first use, when the state is KARENA_FREE. The
 * process may write anything there, at any time.
 */
u32 *karena_state(struct karena_heap *heap, unsigned long index)
{
	/* Pairs with karena_control_page(). */
	struct page *page = smp_load_acquire(&heap->control.pages[FIRST_STATES + index /
							    STATES_PER_PAGE]);

	return page ? (u32 *)page_address(page) + index % STATES_PER_PAGE : NULL;
}

/**
 * karena_control_word_pages() - Count the pages of state words of a window.
 * @heap: The heap.
 *
 * Return: Their number, allocated or not.
 */
unsigned long karena_control_word_pages(const struct karena_heap *heap)
{
	return heap->control.nr - FIRST_STATES;
}

/**
 * karena_control_words() - Find a page of state words.
 * @heap: The heap.
 * @page: The page's number among those with state words.
 * @first: Out: the number of the first word's arena.
 * @count: Out: the number of words of the page that belong to arenas.
 *
 * Return: The first word, or NULL before the first use of the page.
 */
u32 *karena_control_words(struct karena_heap *heap, unsigned long page,
			  unsigned long *first, unsigned long *count)
{
	*first = page * STATES_PER_PAGE;
	*count = min(heap->nr_arenas - *first, STATES_PER_PAGE);
	return karena_state(heap, *first);
}

/**
 * karena_control_stats() - Copy the statistics page.
 * @heap: The heap.
 * @stats: Out: the statistics; all zero if the process publishes none, or in a version that
 *	the module does not know.
 *
 * The statistics are consistent, unless the process never stops writing them.
 */
void karena_control_stats(struct karena_heap *heap, struct karena_stats *stats)
{
	struct karena_stats *shared = page_address(heap->control.pages[STATS_PAGE]);
	u32 sequence;
	int tries;

	for (tries = 0; tries < STATS_TRIES; tries++) {
		/* The process makes the sequence odd, writes, and makes it even again. */
		sequence = smp_load_acquire(&shared->sequence);
		memcpy(stats, shared, sizeof(*stats));
		/* Read the statistics before reading the sequence again. */
		smp_rmb();
		if (!(sequence & 1) && sequence == READ_ONCE(shared->sequence))
			break;
		cpu_relax();
	}
	if (stats->version != KARENA_STATS_VERSION)
		memset(stats, 0, sizeof(*stats));
}

/**
 * karena_control_part() - Ask which pages of an arena the process wants to release.
 * @heap: The heap.
 * @index: The arena's number in the window.
 * @gone: Out: a bit for each page, if struct karena_part names the arena.
 *
 * Return: True if struct karena_part names the arena.
 */
bool karena_control_part(struct karena_heap *heap, unsigned long index,
			 unsigned long *gone)
{
	struct karena_part *part = page_address(heap->control.pages[0]) + PART_OFFSET;
	u64 pages[KARENA_ARENA_PAGES / 64];
	int i;

	BUILD_BUG_ON(sizeof(pages) != sizeof(part->pages));
	/* Pairs with the process's store. */
	if (smp_load_acquire(&part->arena) != index + 1)
		return false;
	for (i = 0; i < ARRAY_SIZE(pages); i++)
		pages[i] = READ_ONCE(part->pages[i]);
	bitmap_from_arr64(gone, pages, KARENA_ARENA_PAGES);
	return true;
}

/**
 * karena_control_lock() - Lock a page of the control region, to map it.
 * @heap: The heap.
 * @page: The page. While the heap is frozen, no process may map it.
 *
 * Context: May sleep; takes heap->cloning if the heap is frozen.
 */
void karena_control_lock(struct karena_heap *heap, struct page *page)
{
	/* Let lockdep see this lock in every fault. */
	might_lock_read(&heap->cloning);
	lock_page(page);
	while (test_bit(KARENA_HEAP_FROZEN, &heap->flags)) {
		unlock_page(page);
		/* The cloner clears HEAP_FROZEN before it drops heap->cloning. */
		down_read(&heap->cloning);
		up_read(&heap->cloning);
		lock_page(page);
	}
}

/**
 * karena_control_settle() - Wait for faults that began before the heap was frozen.
 * @heap: The frozen heap.
 */
void karena_control_settle(struct karena_heap *heap)
{
	unsigned long i;

	for (i = 0; i < heap->control.nr; i++) {
		struct page *page = READ_ONCE(heap->control.pages[i]);

		if (!page)
			continue;
		lock_page(page);
		unlock_page(page);
	}
}

/**
 * karena_control_free() - Free a heap's control region.
 * @heap: The heap; its control region may be incomplete.
 */
void karena_control_free(struct karena_heap *heap)
{
	unsigned long i;

	for (i = 0; i < heap->control.nr; i++) {
		if (heap->control.pages[i])
			control_put(heap->control.pages[i]);
	}
	kvfree(heap->control.pages);
}

/**
 * karena_control_copy() - Copy the contents of a heap's control region to that of a clone.
 * @heap: The heap.
 * @clone: The clone, with a control region of its own.
 */
void karena_control_copy(struct karena_heap *heap, struct karena_heap *clone)
{
	unsigned long left = heap->nr_arenas, i, j, nr;
	const u32 *from;
	u32 *to;

	copy_page(page_address(clone->control.pages[STATS_PAGE]),
		  page_address(heap->control.pages[STATS_PAGE]));
	for (i = FIRST_STATES; i < heap->control.nr; i++, left -= nr) {
		struct page *page = READ_ONCE(heap->control.pages[i]), *copy;

		nr = min(left, STATES_PER_PAGE);
		if (!page)
			continue;
		copy = karena_control_page(clone, i, KARENA_CLONE_GFP);
		from = page_address(page);
		to = page_address(copy);
		for (j = 0; j < nr; j++) {
			u32 word = READ_ONCE(from[j]);

			/* A clone inherits no volatile arena, and reclaim must not see one. */
			if (KARENA_STATE(word) < KARENA_VOLATILE)
				WRITE_ONCE(to[j], word);
		}
	}
}

static unsigned long control_pages(unsigned long nr_arenas)
{
	return FIRST_STATES + DIV_ROUND_UP(nr_arenas, STATES_PER_PAGE);
}

/**
 * karena_control_size() - Compute the size of a control region.
 * @nr_arenas: Arenas in the window.
 *
 * Return: Bytes.
 */
u64 karena_control_size(unsigned long nr_arenas)
{
	return (u64)control_pages(nr_arenas) << PAGE_SHIFT;
}

/**
 * karena_control_alloc() - Allocate a heap's control region.
 * @heap: The heap, with its id and window set.
 * @gfp: How to allocate it.
 *
 * Return: 0 or -ENOMEM.
 */
int karena_control_alloc(struct karena_heap *heap, gfp_t gfp)
{
	unsigned long pages = control_pages(heap->nr_arenas);
	struct karena_control *control;

	heap->control.pages = kvcalloc(pages, sizeof(*heap->control.pages), gfp);
	if (!heap->control.pages)
		return -ENOMEM;
	heap->control.nr = pages;
	if (!karena_control_page(heap, 0, gfp) ||
	    !karena_control_page(heap, STATS_PAGE, gfp)) {
		karena_control_free(heap);
		return -ENOMEM;
	}
	control = karena_control(heap);
	control->abi_version = KARENA_ABI_VERSION;
	control->arena_shift = KARENA_ARENA_SHIFT;
	control->id = heap->id;
	control->nr_arenas = heap->nr_arenas;
	control->states_offset = FIRST_STATES * PAGE_SIZE;
	control->stats_offset = STATS_PAGE * PAGE_SIZE;
	control->part_offset = PART_OFFSET;
	return 0;
}
