// SPDX-License-Identifier: GPL-2.0
/*
 * Sparse frames: an arena's pages of 4 KiB, each committed and released by itself, and how
 * a huge frame becomes one. A thread that changes the table of pages holds CHANGING and the
 * family's lock; either is enough to read the table.
 *
 * To remove pages, a thread freezes the arena, waits for faults that have already looked up
 * one of the pages, and unmaps the pages. From then on no process maps them.
 */
#include <linux/bitmap.h>
#include <linux/delay.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/slab.h>

#include "arena.h"
#include "compat.h"
#include "trace.h"

/* A huge frame that loses so many pages is not worth keeping. */
#define DEMOTE_PAGES	(KARENA_ARENA_PAGES / 2)

/* Copies for a demotion are not worth reclaim. */
#define DEMOTE_GFP	((KARENA_FRAME_GFP & ~__GFP_RETRY_MAYFAIL) | __GFP_NORETRY)

/* How often to try a frame that a fault may hold for a moment; 20 to 50 us each. */
#define FREEZE_TRIES	50

/**
 * karena_sparse_trim() - Free a sparse frame that has neither pages nor a base.
 * @arena: The arena, with a sparse frame and CHANGING held.
 */
void karena_sparse_trim(struct karena_arena *arena)
{
	struct karena_heap *heap = arena->heap;
	struct karena_frame *frame = arena->frame;

	karena_arena_assert_locked(arena);
	if (frame->nr_pages || arena->base)
		return;
	spin_lock(&heap->family->lock);
	karena_arena_set_frame(arena, NULL);
	spin_unlock(&heap->family->lock);
	karena_frame_count(heap, 0, -1, 0);
	karena_frame_discard(frame);
}

/**
 * karena_sparse_set() - Prepare a new page for a sparse frame.
 * @arena: The arena.
 * @i: The page's number in the arena.
 * @folio: The page, of order 0.
 */
void karena_sparse_set(struct karena_arena *arena, unsigned long i, struct folio *folio)
{
	karena_key_set(arena->heap, folio, arena->index * KARENA_ARENA_PAGES + i);
	set_page_private(folio_page(folio, 0), 0);
}

/**
 * karena_sparse_alloc() - Allocate a page for a sparse frame.
 * @arena: The arena.
 * @i: The page's number in the arena.
 * @gfp: How to allocate it.
 *
 * Return: The page, or NULL.
 */
struct folio *karena_sparse_alloc(struct karena_arena *arena, unsigned long i,
				  gfp_t gfp)
{
	struct karena_heap *heap = arena->heap;
	struct folio *folio;

	folio = karena_folio_alloc(heap, 0, karena_folio_node(heap, arena->index),
				   gfp);
	if (folio)
		karena_sparse_set(arena, i, folio);
	return folio;
}

static void folio_settle(struct folio *folio)
{
	folio_lock(folio);
	folio_unlock(folio);
}

/**
 * karena_sparse_settle() - Wait for faults that looked up pages before the freeze.
 * @arena: The arena, frozen, with a frame and CHANGING held.
 * @which: A bit for each page, or NULL for all.
 */
void karena_sparse_settle(struct karena_arena *arena, const unsigned long *which)
{
	struct karena_frame *huge = karena_arena_huge(arena);
	struct page **pages = arena->frame->pages;
	unsigned long i;

	if (huge)
		folio_settle(huge->folio);
	for (i = 0; pages && i < KARENA_ARENA_PAGES; i++) {
		if (karena_page_real(pages[i]) && (!which || test_bit(i, which)))
			folio_settle(page_folio(pages[i]));
	}
}

/**
 * karena_sparse_freeze() - Freeze an arena and unmap pages of it.
 * @arena: The arena, with a frame and CHANGING held.
 * @which: A bit for each page, or NULL for all.
 *
 * Until karena_arena_thaw(), faults wait, no process maps these pages, and the caller
 * allocates nothing. The pages may still be pinned.
 */
void karena_sparse_freeze(struct karena_arena *arena, const unsigned long *which)
{
	unsigned long start, end;

	karena_arena_freeze(arena);
	karena_sparse_settle(arena, which);
	if (!which) {
		karena_arena_unmap(arena, 0, KARENA_ARENA_PAGES);
		return;
	}
	for_each_set_bitrange(start, end, which, KARENA_ARENA_PAGES)
		karena_arena_unmap(arena, start, end - start);
}

/* Replace a page of a frozen arena. Returns the old folio, or NULL. CHANGING is held. */
static struct folio *arena_set_page(struct karena_arena *arena, unsigned long i,
				    struct page *page)
{
	struct karena_frame *frame = arena->frame;
	struct page *old = frame->pages[i];

	karena_arena_assert_locked(arena);
	spin_lock(&arena->heap->family->lock);
	frame->pages[i] = page;
	frame->nr_pages += karena_page_real(page) - karena_page_real(old);
	WARN_ON_ONCE(frame->nr_pages > KARENA_ARENA_PAGES);
	spin_unlock(&arena->heap->family->lock);
	return karena_page_real(old) ? page_folio(old) : NULL;
}

/**
 * karena_sparse_release() - Release the committed ones of some pages.
 * @arena: The arena, with a sparse frame and CHANGING held. If it has a base, the pages
 *	become zero and stay committed.
 * @gone: A bit for each page to release.
 */
void karena_sparse_release(struct karena_arena *arena, const unsigned long *gone)
{
	struct page *empty = arena->base ? KARENA_ZERO : NULL;
	struct karena_heap *heap = arena->heap;
	unsigned long i, pages = 0;
	struct folio *folio;

	karena_sparse_freeze(arena, gone);
	for_each_set_bit(i, gone, KARENA_ARENA_PAGES) {
		folio = arena_set_page(arena, i, empty);
		if (!folio)
			continue;
		pages++;
		karena_page_put(heap, folio, !arena->base);
	}
	karena_arena_thaw(arena);
	karena_frame_count(heap, 0, 0, -(long)pages);
	karena_sparse_trim(arena);
}

/* A demotion in progress. */
struct demotion {
	struct karena_arena *arena;
	const unsigned long *gone;
	struct karena_frame *frame;	/* the sparse one */
	struct page **fresh;		/* targets of copies, or zeroed pages */
	unsigned long stay;		/* number of pages that stay */
	unsigned long copies;		/* number of these that are fresh */
};

static struct page *demotion_old_page(struct demotion *demotion, unsigned long i)
{
	return demotion->arena->base ? demotion->frame->pages[i] : NULL;
}

static void demotion_cancel(struct demotion *demotion)
{
	unsigned long i;

	for (i = 0; demotion->fresh && i < KARENA_ARENA_PAGES; i++) {
		if (demotion->fresh[i])
			karena_folio_put(page_folio(demotion->fresh[i]));
	}
	kfree(demotion->fresh);
	if (!demotion->arena->base && demotion->frame)
		karena_frame_discard(demotion->frame);
}

/* Allocate all that the demotion needs, or nothing. */
static bool demotion_prepare(struct demotion *demotion)
{
	struct karena_arena *arena = demotion->arena;
	struct folio *folio;
	unsigned long i;

	demotion->frame = arena->base ? arena->frame :
		karena_frame_sparse(arena->heap, arena->frame->node, KARENA_GFP);
	demotion->fresh = kcalloc(KARENA_ARENA_PAGES, sizeof(struct page *),
				  KARENA_GFP);
	if (!demotion->frame || !demotion->fresh)
		goto err;
	for_each_clear_bit(i, demotion->gone, KARENA_ARENA_PAGES) {
		struct page *old = demotion_old_page(demotion, i);

		if (karena_page_real(old))
			continue;
		folio = karena_sparse_alloc(arena, i, old ? DEMOTE_GFP :
					    DEMOTE_GFP & ~__GFP_ZERO);
		if (!folio)
			goto err;
		demotion->fresh[i] = folio_page(folio, 0);
		demotion->copies++;
		cond_resched();
	}
	return true;

err:
	demotion_cancel(demotion);
	return false;
}

/**
 * karena_sparse_hold_huge() - Keep threads and devices from writing to a huge frame.
 * @frame: The huge frame, or base, of a frozen arena.
 *
 * No owner writes to a frame with several owners. If the arena owns the frame alone, this
 * freezes its count, so no mapping and no pin is left; the caller unfreezes the count to 1.
 *
 * Return: 0; 1 when the count is frozen; -EBUSY when the frame is pinned.
 */
int karena_sparse_hold_huge(struct karena_frame *frame)
{
	struct folio *folio = frame->folio;
	int tries;

	if (READ_ONCE(frame->owners) > 1)
		return 0;
	for (tries = 0; tries < FREEZE_TRIES; tries++) {
		if (folio_ref_freeze(folio, 1))
			return 1;
		if (folio_maybe_dma_pinned(folio))
			break;
		usleep_range(20, 50);
	}
	return -EBUSY;
}

/* CHANGING is held, and the arena is frozen. */
static void demotion_finish(struct demotion *demotion, struct karena_frame *huge)
{
	struct karena_arena *arena = demotion->arena;
	struct karena_heap *heap = arena->heap;
	bool based = arena->base;
	unsigned long i, left = 0;
	struct folio *folio;

	/* The huge frame is charged, so no limit is checked for its copies. */
	karena_charge_all(demotion->copies);
	spin_lock(&heap->family->lock);
	if (!based)
		karena_arena_set_frame(arena, demotion->frame);
	arena->base = NULL;
	arena->frame->node = huge->node;
	cmpxchg(karena_state(heap, arena->index), KARENA_ACTIVE,
		KARENA_ACTIVE | KARENA_SPARSE);
	spin_unlock(&heap->family->lock);
	for (i = 0; i < KARENA_ARENA_PAGES; i++) {
		if (!demotion->fresh[i] && !test_bit(i, demotion->gone))
			continue;
		folio = arena_set_page(arena, i, demotion->fresh[i]);
		if (folio) {
			left++;
			karena_page_put(heap, folio, false);
		}
	}
	kfree(demotion->fresh);
	if (based)
		atomic_long_dec(&heap->stats.based);
	karena_frame_count(heap, based ? 0 : -1, based ? 0 : 1,
			   (long)demotion->copies - (long)left);
	atomic_long_inc(&heap->stats.demoted);
	karena_frame_put(heap, huge, false);
	karena_charge_heap(heap, (long)demotion->stay - (long)KARENA_ARENA_PAGES);
}

/**
 * karena_sparse_demote() - Make an arena's huge frame sparse, if that pays.
 * @arena: The arena, with a huge frame or a base, and CHANGING held.
 * @gone: A bit for each page to release, not for all.
 *
 * This copies the pages that stay. Until the huge frame is freed, the heap has more memory
 * than is charged to its limits, because a release at the limit must not fail.
 *
 * Return: True if the frame is sparse now. False, with nothing changed, if too few pages
 * are to be released, the arena is not ACTIVE, the frame is pinned or has a bad page, or
 * memory is short.
 */
bool karena_sparse_demote(struct karena_arena *arena, const unsigned long *gone)
{
	struct karena_frame *huge = karena_arena_huge(arena);
	struct demotion demotion = { .arena = arena, .gone = gone };
	u32 *state = karena_state(arena->heap, arena->index);
	unsigned long i;
	bool done;
	int held;

	demotion.stay = KARENA_ARENA_PAGES - bitmap_weight(gone, KARENA_ARENA_PAGES);
	/* Only an ACTIVE state word can tell the process about the demotion. */
	if (KARENA_ARENA_PAGES - demotion.stay < DEMOTE_PAGES ||
	    READ_ONCE(*state) != KARENA_ACTIVE ||
	    folio_maybe_dma_pinned(huge->folio))
		return false;
	if (!demotion_prepare(&demotion))
		return false;
	karena_sparse_freeze(arena, NULL);
	held = karena_sparse_hold_huge(huge);
	done = held >= 0;
	/* Copy the pages that stay: at most half a frame, which takes as long as clearing it. */
	for (i = 0; i < KARENA_ARENA_PAGES && done; i++) {
		if (demotion.fresh[i] && !demotion_old_page(&demotion, i))
			done = karena_page_copy(demotion.fresh[i], folio_page(huge->folio, i));
	}
	if (held > 0)
		folio_ref_unfreeze(huge->folio, 1);
	if (done)
		demotion_finish(&demotion, huge);
	karena_arena_thaw(arena);
	if (!done)
		demotion_cancel(&demotion);
	trace_karena_demote(arena->heap, arena->index, done ? demotion.stay : 0);
	return done;
}
