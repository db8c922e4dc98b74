// SPDX-License-Identifier: GPL-2.0
/*
 * Futex keys. The core identifies a futex without FUTEX_PRIVATE_FLAG by the address space
 * of the folio and the index of the page in it, so a folio without an address space can
 * hold no such futex. All folios of all heaps have the same address space: that of an inode
 * which no process maps, so the core finds no mapping through it. Each heap has a range of
 * indices in this address space, and a folio that one heap owns alone has an index of that
 * range.
 *
 * A fork leaves the index as it is. The core makes a key after a write fault, which gives
 * the heap a folio that it owns alone. This folio is a copy, with an index of the heap, or
 * the old folio, if the other owners have dropped it. For an old folio, karena_key_claim()
 * changes the index before the page becomes writable. If a thread has got a reference
 * before a fork in order to make a key, its own heap keeps the folio, and the clone gets a
 * copy, as of a folio that a device pins.
 *
 * Only in a read-only mapping, the core may make a key of a folio with several owners. This
 * is the key of the heap that was the last to own the folio alone; the other heaps have to
 * write to the page first.
 */
#include <linux/fs.h>
#include <linux/idr.h>
#include <linux/mm.h>

#include "folio.h"

/* Indices of a heap: more than the largest window and its control region have pages. */
#define RANGE_SHIFT	29

/* Up to Linux 6.13, an index has to be below the size of the inode that a window maps. */
#define RANGES		(KARENA_KEYS_SIZE >> PAGE_SHIFT >> RANGE_SHIFT)

/* Shared by all heaps that find no range left; their processes may get spurious wake-ups. */
#define LAST_RANGE	(RANGES - 1)

static DEFINE_IDA(ranges);

/**
 * karena_key_prepare() - Allocate a range of indices for a new heap.
 * @heap: The heap.
 * @gfp: How to allocate memory for it.
 *
 * Return: 0 or -ENOMEM.
 */
int karena_key_prepare(struct karena_heap *heap, gfp_t gfp)
{
	int range = ida_alloc_max(&ranges, LAST_RANGE - 1, gfp);

	BUILD_BUG_ON(KARENA_WINDOW_MAX >> PAGE_SHIFT > 1UL << (RANGE_SHIFT - 1));
	if (range == -ENOMEM)
		return range;
	if (range < 0) {
		pr_warn_once("karena: more than %lu heaps: shared futexes may wake others' waiters\n",
			     (unsigned long)LAST_RANGE);
		range = LAST_RANGE;
	}
	heap->first_key = (pgoff_t)range << RANGE_SHIFT;
	return 0;
}

/**
 * karena_key_abandon() - Free the range of a heap.
 * @heap: The heap; no process can write to a folio that has an index of the range.
 */
void karena_key_abandon(struct karena_heap *heap)
{
	unsigned int range = heap->first_key >> RANGE_SHIFT;

	if (range != LAST_RANGE)
		ida_free(&ranges, range);
}

/**
 * karena_key_set() - Enable a folio to hold futexes.
 * @heap: The heap that owns it alone.
 * @folio: The folio, which no process has mapped yet.
 * @page: The number of the folio's first page in the window, or in the control region, whose
 *	pages are numbered from the window's end on.
 */
void karena_key_set(struct karena_heap *heap, struct folio *folio, pgoff_t page)
{
	/* Always dirty, so that the core never drops it as clean. */
	folio_set_dirty(folio);
	folio->index = heap->first_key + page;
	WRITE_ONCE(folio->mapping, karena_keys->i_mapping);
}

/* Returns the index, in the heap's range, of the folio of a page of the window. */
static pgoff_t heap_key_of(struct karena_heap *heap, struct page *page, pgoff_t number)
{
	return heap->first_key + number - folio_page_idx(page_folio(page), page);
}

/**
 * karena_key_is() - Ask whether the futexes in a page belong to a heap.
 * @heap: The heap.
 * @page: The page, its folio locked.
 * @number: The page's number in the window.
 *
 * Return: True if they do.
 */
bool karena_key_is(struct karena_heap *heap, struct page *page, pgoff_t number)
{
	return page_folio(page)->index == heap_key_of(heap, page, number);
}

/**
 * karena_key_claim() - Assign the futexes in a page to a heap.
 * @heap: The heap that owns the page's folio alone.
 * @page: The page, its folio locked; it is about to become writable.
 * @number: The page's number in the window.
 */
void karena_key_claim(struct karena_heap *heap, struct page *page, pgoff_t number)
{
	if (!karena_key_is(heap, page, number))
		WRITE_ONCE(page_folio(page)->index, heap_key_of(heap, page, number));
}

/**
 * karena_key_clear() - Disable the futexes of a folio.
 * @folio: The folio, which no process has mapped and no arena has any more.
 *
 * The page allocator does not accept a folio that has an address space.
 */
void karena_key_clear(struct folio *folio)
{
	WRITE_ONCE(folio->mapping, NULL);
}
