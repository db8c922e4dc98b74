// SPDX-License-Identifier: GPL-2.0
/*
 * Commit and release: how arenas, and pages of them, get memory and lose it again. A commit
 * is charged to the limits before it allocates memory. At a limit, ready frames and
 * unpinned orphans make room for it. A release frees a whole frame, makes a huge frame
 * sparse (sparse.c), or clears pages of a frame that it cannot split.
 */
#include <linux/bitmap.h>
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/pagemap.h>

#include "arena.h"
#include "trace.h"

/* Charge pages to be committed. A ready frame that makes room for them becomes @spare. */
static int charge_or_trade(struct karena_heap *heap, unsigned long pages,
			   struct folio **spare)
{
	int err;

	spin_lock(&heap->family->lock);
	err = karena_charge(heap, pages);
	if (err) {
		*spare = karena_ready_give_up(heap);
		if (*spare)
			err = karena_charge(heap, pages);
	}
	spin_unlock(&heap->family->lock);
	if (err && *spare) {
		karena_folio_put(*spare);
		*spare = NULL;
	}
	return err;
}

/*
 * Charge pages. If a limit refuses them, free orphans and try again. Returns -EAGAIN
 * instead of -ENOMEM if karena_folio_wait() may help.
 */
static int charge_commit(struct karena_heap *heap, unsigned long pages,
			 struct folio **spare)
{
	int err;

	*spare = NULL;
	err = charge_or_trade(heap, pages, spare);
	if (!err)
		return 0;
	karena_folio_reap(heap);
	err = charge_or_trade(heap, pages, spare);
	return err && karena_folio_passing(heap) ? -EAGAIN : err;
}

/*
 * Charge and allocate a zeroed folio. Returns NULL without memory, and an ERR_PTR when a
 * limit refuses it.
 */
static struct folio *folio_commit(struct karena_arena *arena, unsigned int order)
{
	struct karena_heap *heap = arena->heap;
	int node = karena_folio_node(heap, arena->index);
	struct folio *folio, *spare;
	int err;

	err = charge_commit(heap, 1UL << order, &spare);
	if (err)
		return ERR_PTR(err);
	if (spare && order)
		return spare;
	/* A commit of single pages cannot use a ready frame. */
	if (spare)
		karena_folio_put(spare);
	folio = karena_folio_alloc(heap, order, node, KARENA_FRAME_GFP);
	/* Orphans are charged to the memory cgroup until they are freed. */
	if (!folio && karena_folio_reap(heap))
		folio = karena_folio_alloc(heap, order, node, KARENA_FRAME_GFP);
	if (!folio)
		karena_uncharge(heap, 1UL << order);
	return folio;
}

/* Commit a huge frame to an arena without a frame. CHANGING is held. */
static int arena_commit_huge(struct karena_arena *arena)
{
	struct karena_heap *heap = arena->heap;
	int node = karena_folio_node(heap, arena->index);
	struct karena_frame *frame;
	struct folio *folio;

	folio = karena_ready_take(heap, node, false) ?:
		folio_commit(arena, KARENA_ARENA_ORDER) ?:
		/* A ready frame of another node is better than none. */
		karena_ready_take(heap, node, true);
	if (IS_ERR_OR_NULL(folio))
		return folio ? PTR_ERR(folio) : -ENOMEM;
	frame = karena_frame_huge(heap, folio);
	if (!frame) {
		karena_folio_free(heap, folio, true);
		return -ENOMEM;
	}
	karena_key_set(heap, folio, arena->index * KARENA_ARENA_PAGES);
	karena_frame_count(heap, 1, 0, 0);
	frame->owners = 1;
	spin_lock(&heap->family->lock);
	karena_arena_set_frame(arena, frame);
	spin_unlock(&heap->family->lock);
	karena_ready_committed(heap, folio_nid(folio));
	return 0;
}

static int page_commit(struct karena_arena *arena, unsigned long i)
{
	struct karena_heap *heap = arena->heap;
	struct karena_frame *frame = arena->frame;
	struct folio *folio = folio_commit(arena, 0);

	if (IS_ERR_OR_NULL(folio))
		return folio ? PTR_ERR(folio) : -ENOMEM;
	karena_sparse_set(arena, i, folio);
	karena_frame_count(heap, 0, 0, 1);
	spin_lock(&heap->family->lock);
	if (!frame->nr_pages++)
		frame->node = folio_nid(folio);
	frame->pages[i] = folio_page(folio, 0);
	spin_unlock(&heap->family->lock);
	return 0;
}

/*
 * Commit the pages of a range that are missing, in an arena without a huge frame. CHANGING
 * is held. After an error, the pages before the one that failed are committed.
 */
static int arena_commit_pages(struct karena_arena *arena, unsigned long first,
			      unsigned long count)
{
	struct karena_heap *heap = arena->heap;
	struct karena_frame *frame;
	unsigned long i;
	int err = 0;

	if (!arena->frame) {
		frame = karena_frame_sparse(heap, karena_folio_node(heap, arena->index),
					    KARENA_GFP);
		if (!frame)
			return -ENOMEM;
		spin_lock(&heap->family->lock);
		karena_arena_set_frame(arena, frame);
		spin_unlock(&heap->family->lock);
		karena_frame_count(heap, 0, 1, 0);
	}
	for (i = first; i < first + count && !err; i++) {
		if (!arena->frame->pages[i])
			err = page_commit(arena, i);
		cond_resched();
	}
	karena_sparse_trim(arena);
	return err;
}

/* Set the state word of a committed arena to ACTIVE, unless the process has changed it. */
static void state_commit(struct karena_arena *arena)
{
	struct karena_heap *heap = arena->heap;
	u32 *state = karena_state(heap, arena->index), word;

	spin_lock(&heap->family->lock);
	word = READ_ONCE(*state);
	if (KARENA_STATE(word) <= KARENA_ACTIVE)
		cmpxchg(state, word, karena_arena_huge(arena) ? KARENA_ACTIVE :
				     KARENA_ACTIVE | KARENA_SPARSE);
	spin_unlock(&heap->family->lock);
}

static int arena_commit(struct karena_heap *heap, unsigned long page,
			unsigned long count, bool single)
{
	struct karena_arena *arena;
	int err = 0;

	down_read(&heap->cloning);
	arena = karena_arena_make(heap, page / KARENA_ARENA_PAGES, KARENA_GFP);
	if (!arena) {
		up_read(&heap->cloning);
		return -ENOMEM;
	}
	karena_arena_lock(arena);
	if (!arena->frame && count == KARENA_ARENA_PAGES)
		err = arena_commit_huge(arena);
	else if (!karena_arena_huge(arena))
		err = arena_commit_pages(arena, page % KARENA_ARENA_PAGES, count);
	if (!err && !single)
		state_commit(arena);
	karena_arena_unlock(arena);
	up_read(&heap->cloning);
	return err;
}

/**
 * karena_commit() - Commit an arena, or pages of it.
 * @heap: The heap.
 * @page: The first page, counted from the window's start.
 * @count: How many pages, all in one arena. An arena without a frame gets a huge one if
 *	@count is all of it.
 * @single: madvise() asks for several pages one by one. The state word stays as it is,
 *	because the kernel does not know which page is the last.
 * @again: Set to true if karena_folio_wait() may help. The caller then drops its locks,
 *	waits and tries again; this attempt is not in the statistics. NULL if the caller
 *	does not wait.
 *
 * Context: May sleep.
 * Return: 0, also when another thread has committed it; -ENOMEM without memory or at a
 * limit.
 */
int karena_commit(struct karena_heap *heap, unsigned long page, unsigned long count,
		  bool single, bool *again)
{
	int err = arena_commit(heap, page, count, single);

	if (err == -EAGAIN) {
		err = -ENOMEM;
		if (again) {
			*again = true;
			return err;
		}
	}
	trace_karena_commit(heap, page, count, err);
	if (!err) {
		karena_pressure_check(heap);
		return 0;
	}
	atomic_long_inc(&heap->stats.refused);
	karena_pressure_raise(heap, KARENA_PRESSURE_HIGH);
	return err;
}

/* Release a huge frame. CHANGING is held. */
static void arena_release_huge(struct karena_arena *arena)
{
	struct karena_heap *heap = arena->heap;
	struct karena_frame *frame = arena->frame;

	/* A fault that has looked the page up maps it before this unmaps it. */
	folio_lock(frame->folio);
	spin_lock(&heap->family->lock);
	karena_arena_set_frame(arena, NULL);
	spin_unlock(&heap->family->lock);
	folio_unlock(frame->folio);
	karena_arena_unmap(arena, 0, KARENA_ARENA_PAGES);
	karena_arena_free(heap, frame, NULL);
}

/* Release a sparse frame, and its base if there is one. CHANGING is held. */
static void arena_release_sparse(struct karena_arena *arena)
{
	struct karena_frame *frame = arena->frame, *base = arena->base;
	struct karena_heap *heap = arena->heap;

	karena_sparse_freeze(arena, NULL);
	spin_lock(&heap->family->lock);
	karena_arena_empty(arena);
	spin_unlock(&heap->family->lock);
	karena_arena_thaw(arena);
	karena_arena_free(heap, frame, base);
}

/* Clear pages of a huge frame that stays huge. */
static void folio_clear(struct folio *folio, const unsigned long *gone)
{
	unsigned long i;

	for_each_set_bit(i, gone, KARENA_ARENA_PAGES) {
		if (!PageHWPoison(folio_page(folio, i)))
			clear_highpage(folio_page(folio, i));
		cond_resched();
	}
}

/* Release some pages of an arena with a frame. CHANGING is held. */
static void arena_release_pages(struct karena_arena *arena, const unsigned long *gone)
{
	struct karena_frame *huge = karena_arena_huge(arena);

	if (huge && karena_sparse_demote(arena, gone))
		return;
	/* heap->cloning, held for reading, keeps other arenas from becoming owners. */
	if (huge == arena->frame && READ_ONCE(huge->owners) == 1) {
		folio_clear(huge->folio, gone);
		return;
	}
	if (huge == arena->frame)
		karena_cow_split(arena, GFP_KERNEL_ACCOUNT | __GFP_NOFAIL);
	karena_sparse_release(arena, gone);
}

/**
 * karena_release() - Release pages of an arena, where they are committed.
 * @heap: The heap.
 * @index: The arena's number in the window.
 * @gone: A bit for each page to release. If all are set, the state word says FREE
 *	afterwards.
 *
 * Context: May sleep; takes the mapping's i_mmap_rwsem.
 */
void karena_release(struct karena_heap *heap, unsigned long index,
		    const unsigned long *gone)
{
	struct karena_arena *arena = karena_arena(heap, index);
	bool all = bitmap_full(gone, KARENA_ARENA_PAGES);
	u32 *state = karena_state(heap, index);

	trace_karena_release(heap, index, bitmap_weight(gone, KARENA_ARENA_PAGES));
	if (!arena) {
		/* The arena may be REQUESTED after a commit that had no memory. */
		if (state && all)
			WRITE_ONCE(*state, KARENA_FREE);
		return;
	}
	down_read(&heap->cloning);
	karena_arena_lock(arena);
	if (arena->frame && !all)
		arena_release_pages(arena, gone);
	else if (arena->frame && arena->frame->folio)
		arena_release_huge(arena);
	else if (arena->frame)
		arena_release_sparse(arena);
	if (all) {
		spin_lock(&heap->family->lock);
		WRITE_ONCE(*state, KARENA_FREE);
		spin_unlock(&heap->family->lock);
	}
	karena_arena_unlock(arena);
	up_read(&heap->cloning);
}
