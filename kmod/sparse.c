// SPDX-License-Identifier: GPL-2.0
/*
 * Sparse frames: an arena's pages of 4 KiB, each committed and released by itself,
 * and how a huge frame becomes one. The table of pages is changed with CHANGING and
 * heap->lock held; either is enough to read it.
 */
#include <linux/bitmap.h>
#include <linux/delay.h>
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/slab.h>
#include <linux/wait_bit.h>

#include "karena.h"
#include "trace.h"

/* A huge frame of which this many pages go is not worth keeping. */
#define DEMOTE_PAGES	(KARENA_ARENA_PAGES / 2)

/* Written to at once; not worth to reclaim for. */
#define DEMOTE_GFP	((KARENA_FRAME_GFP & ~(__GFP_ZERO | __GFP_RETRY_MAYFAIL)) | \
			 __GFP_NORETRY)

/* How often a frame is tried that a fault under way may hold; 20 to 50 us each. */
#define FREEZE_TRIES	50

static struct page **table_alloc(void)
{
	return kcalloc(KARENA_ARENA_PAGES, sizeof(struct page *), KARENA_GFP);
}

static void count_pages(struct karena_heap *heap, long arenas, long pages)
{
	atomic_long_add(arenas, &heap->sparse);
	atomic_long_add(arenas, &karena_nr_sparse);
	atomic_long_add(pages, &heap->sparse_pages);
	atomic_long_add(pages, &karena_nr_sparse_pages);
}

static int table_make(struct karena_arena *arena)
{
	struct karena_heap *heap = arena->heap;
	int node = karena_frame_node(heap, arena->index);
	struct karena_anchor *anchor;
	struct page **table;

	table = table_alloc();
	if (!table)
		return -ENOMEM;
	anchor = karena_reclaim_anchor(heap, node == NUMA_NO_NODE ? numa_mem_id() :
								    node);
	if (!anchor) {
		kfree(table);
		return -ENOMEM;
	}
	spin_lock(&heap->lock);
	WRITE_ONCE(arena->pages, table);
	spin_unlock(&heap->lock);
	count_pages(heap, 1, 0);
	karena_reclaim_add(arena, anchor);
	return 0;
}

/* With CHANGING held: without pages, the arena needs no table. */
static void table_remove_empty(struct karena_arena *arena)
{
	struct karena_heap *heap = arena->heap;
	struct page **table = arena->pages;

	if (arena->nr_pages)
		return;
	karena_reclaim_remove(arena);
	spin_lock(&heap->lock);
	WRITE_ONCE(arena->pages, NULL);
	spin_unlock(&heap->lock);
	count_pages(heap, -1, 0);
	kfree(table);
}

static struct folio *page_alloc(struct karena_arena *arena, unsigned long i,
				gfp_t gfp)
{
	struct karena_heap *heap = arena->heap;
	struct folio *folio;

	folio = karena_frame_alloc(heap, 0, karena_frame_node(heap, arena->index),
				   gfp);
	if (folio)
		folio->index = arena->index * KARENA_ARENA_PAGES + i;
	return folio;
}

static int page_commit(struct karena_arena *arena, unsigned long i)
{
	struct karena_heap *heap = arena->heap;
	struct folio *folio;
	int err;

	err = karena_charge(heap, 1);
	/* A ready frame is of no use to who cannot commit. */
	if (err && karena_ready_drop(heap, 1, NUMA_NO_NODE))
		err = karena_charge(heap, 1);
	if (err)
		return err;
	folio = page_alloc(arena, i, KARENA_FRAME_GFP);
	/* Orphans that have come free are charged to its cgroup still. */
	if (!folio && karena_frame_reap(heap))
		folio = page_alloc(arena, i, KARENA_FRAME_GFP);
	if (!folio) {
		karena_uncharge(heap, 1);
		return -ENOMEM;
	}
	count_pages(heap, 0, 1);
	spin_lock(&heap->lock);
	if (!arena->nr_pages++)
		WRITE_ONCE(arena->node, folio_nid(folio));
	WRITE_ONCE(arena->pages[i], folio_page(folio, 0));
	spin_unlock(&heap->lock);
	return 0;
}

/**
 * karena_sparse_commit() - Commit the missing ones of an arena's pages.
 * @arena: The arena, without a huge frame, with CHANGING held.
 * @first: The first page.
 * @count: How many pages.
 *
 * Return: 0, or -ENOMEM: then the pages before the one that failed are committed.
 */
int karena_sparse_commit(struct karena_arena *arena, unsigned long first,
			 unsigned long count)
{
	unsigned long i;
	int err = 0;

	if (!arena->pages)
		err = table_make(arena);
	if (err)
		return err;
	for (i = first; i < first + count && !err; i++) {
		if (!arena->pages[i])
			err = page_commit(arena, i);
		cond_resched();
	}
	table_remove_empty(arena);
	return err;
}

/* Take a page out; who has looked it up maps it before it is unmapped. */
static void page_remove(struct karena_arena *arena, unsigned long i,
			struct list_head *folios)
{
	struct karena_heap *heap = arena->heap;
	struct folio *folio = page_folio(arena->pages[i]);

	folio_lock(folio);
	spin_lock(&heap->lock);
	WRITE_ONCE(arena->pages[i], NULL);
	arena->nr_pages--;
	spin_unlock(&heap->lock);
	folio_unlock(folio);
	list_add(&folio->lru, folios);
	count_pages(heap, 0, -1);
}

static void free_folios(struct karena_heap *heap, struct list_head *folios)
{
	struct folio *folio, *next;

	list_for_each_entry_safe(folio, next, folios, lru) {
		list_del(&folio->lru);
		karena_frame_free(heap, folio);
	}
}

/**
 * karena_sparse_release() - Release those of some pages that are committed.
 * @arena: The arena, with a sparse frame and CHANGING held.
 * @gone: A bit for each page that goes.
 */
void karena_sparse_release(struct karena_arena *arena, const unsigned long *gone)
{
	unsigned long i, start, end;
	LIST_HEAD(folios);

	for_each_set_bit(i, gone, KARENA_ARENA_PAGES) {
		if (arena->pages[i])
			page_remove(arena, i, &folios);
		cond_resched();
	}
	if (list_empty(&folios))
		return;
	for_each_set_bitrange(start, end, gone, KARENA_ARENA_PAGES)
		karena_arena_unmap(arena, start, end - start);
	free_folios(arena->heap, &folios);
	table_remove_empty(arena);
}

/**
 * karena_sparse_pinned() - Whether a device may be using a page.
 * @arena: The arena, with a sparse frame and CHANGING held.
 *
 * Return: Whether one looks pinned; it may be mistaken that it is.
 */
bool karena_sparse_pinned(struct karena_arena *arena)
{
	unsigned long i;

	for (i = 0; i < KARENA_ARENA_PAGES; i++) {
		if (arena->pages[i] &&
		    folio_maybe_dma_pinned(page_folio(arena->pages[i])))
			return true;
	}
	return false;
}

/**
 * karena_sparse_purge() - Take all pages out of an arena, if nobody uses any.
 * @arena: The arena, with a sparse frame, unmapped, with CHANGING and heap->lock
 *	held.
 * @folios: Where they are put.
 *
 * Return: How many there were; 0 when one is in use: then all stay.
 */
unsigned long karena_sparse_purge(struct karena_arena *arena,
				  struct list_head *folios)
{
	unsigned long i, frozen, pages = 0;
	struct page **table = arena->pages;

	lockdep_assert_held(&arena->heap->lock);
	for (frozen = 0; frozen < KARENA_ARENA_PAGES; frozen++) {
		if (table[frozen] &&
		    !folio_ref_freeze(page_folio(table[frozen]), 1))
			break;
	}
	for (i = 0; i < frozen; i++) {
		struct folio *folio = table[i] ? page_folio(table[i]) : NULL;

		if (!folio)
			continue;
		folio_ref_unfreeze(folio, 1);
		if (frozen < KARENA_ARENA_PAGES)
			continue;
		list_add(&folio->lru, folios);
		pages++;
	}
	if (!pages)
		return 0;
	WRITE_ONCE(arena->pages, NULL);
	arena->nr_pages = 0;
	count_pages(arena->heap, -1, -(long)pages);
	kfree(table);
	return pages;
}

static void demote_cancel(struct page **table)
{
	unsigned long i;

	for (i = 0; i < KARENA_ARENA_PAGES; i++) {
		if (table[i])
			put_page(table[i]);
	}
	kfree(table);
}

/* Pages to copy the others to, all or none. */
static struct page **demote_prepare(struct karena_arena *arena,
				    const unsigned long *gone)
{
	struct page **table = table_alloc();
	struct folio *folio;
	unsigned long i;

	if (!table)
		return NULL;
	for_each_clear_bit(i, gone, KARENA_ARENA_PAGES) {
		folio = page_alloc(arena, i, DEMOTE_GFP);
		if (!folio) {
			demote_cancel(table);
			return NULL;
		}
		table[i] = folio_page(folio, 0);
		cond_resched();
	}
	return table;
}

static void arena_freeze(struct karena_arena *arena)
{
	struct karena_heap *heap = arena->heap;

	spin_lock(&heap->lock);
	set_bit(KARENA_ARENA_FROZEN, &arena->flags);
	spin_unlock(&heap->lock);
}

static void arena_thaw(struct karena_arena *arena)
{
	struct karena_heap *heap = arena->heap;

	spin_lock(&heap->lock);
	clear_bit(KARENA_ARENA_FROZEN, &arena->flags);
	spin_unlock(&heap->lock);
	/* Pairs with the check before the sleep in wait_on_bit(). */
	smp_mb__after_atomic();
	wake_up_bit(&arena->flags, KARENA_ARENA_FROZEN);
}

/*
 * Unmap the huge frame of a frozen arena and freeze its count: from then on nobody
 * writes to it, or comes to. A fault that had looked it up before either maps it
 * before we unmap it or, once it has the folio lock, looks again and lets go.
 */
static bool huge_freeze(struct karena_arena *arena)
{
	struct folio *folio = arena->folio;
	int tries;

	folio_lock(folio);
	karena_arena_unmap(arena, 0, KARENA_ARENA_PAGES);
	folio_unlock(folio);
	for (tries = 0; tries < FREEZE_TRIES; tries++) {
		if (folio_ref_freeze(folio, 1))
			return true;
		if (folio_maybe_dma_pinned(folio))
			return false;
		usleep_range(20, 50);
	}
	return false;
}

/* No more than half a frame: as long as clearing it takes. */
static bool copy_pages(struct folio *folio, struct page **table)
{
	unsigned long i;

	for (i = 0; i < KARENA_ARENA_PAGES; i++) {
		struct page *page = folio_page(folio, i);

		if (PageHWPoison(page))
			return false;
		if (table[i])
			copy_highpage(table[i], page);
	}
	return true;
}

/* With CHANGING held, the arena frozen and the frame's count, too. */
static void demote_finish(struct karena_arena *arena, struct page **table,
			  unsigned long pages)
{
	struct karena_heap *heap = arena->heap;
	struct folio *folio = arena->folio;

	folio_ref_unfreeze(folio, 1);
	atomic_long_dec(&heap->huge);
	atomic_long_dec(&karena_nr_huge);
	atomic_long_inc(&heap->demoted);
	count_pages(heap, 1, pages);
	spin_lock(&heap->lock);
	WRITE_ONCE(arena->folio, NULL);
	WRITE_ONCE(arena->pages, table);
	arena->nr_pages = pages;
	WRITE_ONCE(arena->node, folio_nid(folio));
	cmpxchg(karena_state(heap, arena->index), KARENA_ACTIVE,
		KARENA_ACTIVE | KARENA_SPARSE);
	spin_unlock(&heap->lock);
	karena_frame_put(folio);
	karena_uncharge(heap, KARENA_ARENA_PAGES - pages);
}

/**
 * karena_sparse_demote() - Make an arena's huge frame sparse, if that pays.
 * @arena: The arena, with a huge frame and CHANGING held.
 * @gone: A bit for each page that is to go, not all.
 *
 * The pages that stay are copied. For that moment the heap has more memory than
 * is charged to its limits: a release at the limit must not fail.
 *
 * Return: Whether it was done. Not when too few pages go, when the arena is not
 * ACTIVE, when somebody pins the frame, or without memory; then nothing is changed.
 */
bool karena_sparse_demote(struct karena_arena *arena, const unsigned long *gone)
{
	u32 *state = karena_state(arena->heap, arena->index);
	bool frozen, copied = false;
	struct page **table;
	unsigned long stay;

	stay = KARENA_ARENA_PAGES - bitmap_weight(gone, KARENA_ARENA_PAGES);
	/* Only where the state word can tell the process. */
	if (KARENA_ARENA_PAGES - stay < DEMOTE_PAGES ||
	    READ_ONCE(*state) != KARENA_ACTIVE ||
	    folio_maybe_dma_pinned(arena->folio))
		return false;
	table = demote_prepare(arena, gone);
	if (!table)
		return false;
	arena_freeze(arena);
	frozen = huge_freeze(arena);
	if (frozen)
		copied = copy_pages(arena->folio, table);
	if (copied)
		demote_finish(arena, table, stay);
	else if (frozen)
		folio_ref_unfreeze(arena->folio, 1);
	arena_thaw(arena);
	if (!copied)
		demote_cancel(table);
	trace_karena_demote(arena->heap, arena->index, copied ? stay : 0);
	return copied;
}

/**
 * karena_sparse_destroy() - Free an arena's sparse frame, if it has one.
 * @arena: The arena of a heap that nobody uses any more.
 */
void karena_sparse_destroy(struct karena_arena *arena)
{
	LIST_HEAD(folios);
	unsigned long i;

	if (!arena->pages)
		return;
	for (i = 0; i < KARENA_ARENA_PAGES; i++) {
		if (arena->pages[i])
			page_remove(arena, i, &folios);
	}
	free_folios(arena->heap, &folios);
	table_remove_empty(arena);
}
