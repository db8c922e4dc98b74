// SPDX-License-Identifier: GPL-2.0
/*
 * Clones: what fork() makes of a heap for the child, and what a snapshot is. A clone
 * has all frames of the heap at one moment; from then on they belong to both, and the
 * first write of either side to a page of them is a fault, which copies it (cow.c).
 *
 * The mm of the heap's process is held for writing meanwhile, so none of its threads is
 * in a fault of the window; heap->cloning is, too, so nobody changes an arena of it but
 * reclaim, which takes what is volatile and that the clone does not get. The state words
 * are unmapped first. Each frame becomes the clone's; then the process
 * can write no more to those that were its alone: its mappings of them become read-only
 * or go. Until then, and as long as a processor's TLB has the old entry, other threads may
 * write there, which both see; who comes to a page that is read-only already waits until
 * all is over. What was written after that is not the clone's, so that the clone shows
 * one moment. Where other processes have the same memory, they lose all of it first,
 * and wait.
 */
#include <linux/bitmap.h>
#include <linux/mm.h>

#include "compat.h"
#include "heap.h"
#include "trace.h"

/* A clone under way, and which neighbouring arenas the heap must not write to any more. */
struct clone {
	struct karena_heap *heap;
	struct karena_heap *clone;
	long huge, sparse, sparse_pages, based;	/* what the clone has */
	long pages;			/* that are committed in it */
	unsigned long lost;		/* arenas that it could not have */
	unsigned long first, end;	/* arenas that were the heap's alone */
	struct karena_windows *windows;	/* where they are mapped */
	bool protect;			/* to make them read-only is enough */
};

/* With the family's lock held: the clone's, too. Whether it was the heap's alone. */
static bool share_huge(struct karena_frame *frame)
{
	return frame->owners++ == 1;
}

/* Likewise, the pages of a sparse frame; the clone gets a frame of its own. */
static bool share_pages(struct karena_frame *from, struct karena_frame *to)
{
	bool alone = false;
	unsigned long i;

	for (i = 0; i < KARENA_ARENA_PAGES; i++) {
		struct page *page = from->pages[i];

		to->pages[i] = page;
		if (!karena_page_real(page))
			continue;
		alone |= !page_private(page);
		set_page_private(page, page_private(page) + 1);
	}
	to->nr_pages = from->nr_pages;
	return alone;
}

/*
 * With the family's lock held: what the heap's arena has becomes the clone's, too. Whether
 * any of it was the heap's alone.
 */
static bool share_arena(struct karena_arena *from, struct karena_arena *to,
			struct karena_frame *mine)
{
	struct karena_frame *frame = from->frame;
	bool alone;

	alone = frame->pages ? share_pages(frame, mine) : share_huge(frame);
	if (from->base)
		alone |= share_huge(from->base);
	to->base = from->base;
	to->frame = mine;
	return alone;
}

static void clone_count(struct clone *clone, struct karena_arena *arena)
{
	struct karena_frame *frame = arena->frame;

	clone->huge += !frame->pages;
	clone->sparse += !!frame->pages;
	clone->sparse_pages += frame->nr_pages;
	clone->based += !!arena->base;
	clone->pages += frame->pages && !arena->base ? frame->nr_pages :
						       KARENA_ARENA_PAGES;
}

/* The process writes no more to what was its alone. */
static void protect_flush(struct clone *clone)
{
	unsigned long from = clone->first * KARENA_ARENA_PAGES;
	unsigned long to = clone->end * KARENA_ARENA_PAGES;

	if (clone->protect)
		karena_windows_protect(clone->windows, from, to);
	else
		karena_windows_unmap(clone->windows, from, to);
	clone->first = 0;
	clone->end = 0;
}

static void protect_add(struct clone *clone, unsigned long index)
{
	if (clone->end != index) {
		protect_flush(clone);
		clone->first = index;
	}
	clone->end = index + 1;
}

/* Whether the clone has what the heap has there: what is volatile it has not. */
static bool clone_state(struct clone *clone, struct karena_arena *from)
{
	u32 word = READ_ONCE(*karena_state(clone->heap, from->index));

	switch (KARENA_STATE(word)) {
	case KARENA_VOLATILE:
	case KARENA_BUSY:
		word = KARENA_FREE;
		break;
	default:
		break;
	}
	if (!from->frame && KARENA_STATE(word) != KARENA_REQUESTED)
		word = KARENA_FREE;
	WRITE_ONCE(*karena_state(clone->clone, from->index), word);
	return from->frame && word != KARENA_FREE;
}

/*
 * A sparse arena: the clone gets a frame of its own. CHANGING keeps reclaim away, which
 * may be at work there, whatever the process has made of the word since.
 */
static void clone_sparse(struct clone *clone, struct karena_arena *from,
			 struct karena_arena *to)
{
	struct karena_heap *heap = clone->clone;
	struct karena_frame *mine;
	bool alone;

	karena_arena_lock(from);
	if (!from->frame)
		goto unlock;
	mine = karena_frame_sparse(heap, from->frame->node, KARENA_CLONE_GFP);
	spin_lock(&heap->family->lock);
	alone = share_arena(from, to, mine);
	spin_unlock(&heap->family->lock);
	clone_count(clone, to);
	if (alone)
		protect_add(clone, from->index);
unlock:
	karena_arena_unlock(from);
}

/* Neighbouring arenas: the huge ones at once, nothing of which sleeps. */
static void clone_chunk(struct clone *clone, struct karena_arena *from,
			struct karena_arena *to)
{
	DECLARE_BITMAP(alone, KARENA_CHUNK) = {};
	DECLARE_BITMAP(sparse, KARENA_CHUNK) = {};
	unsigned long i;

	spin_lock(&clone->heap->family->lock);
	for (i = 0; i < KARENA_CHUNK; i++) {
		if (!clone_state(clone, &from[i]))
			continue;
		if (from[i].frame->pages) {
			__set_bit(i, sparse);
			continue;
		}
		if (share_arena(&from[i], &to[i], from[i].frame))
			__set_bit(i, alone);
		clone_count(clone, &to[i]);
	}
	spin_unlock(&clone->heap->family->lock);
	for (i = 0; i < KARENA_CHUNK; i++) {
		if (test_bit(i, sparse))
			clone_sparse(clone, &from[i], &to[i]);
		else if (test_bit(i, alone))
			protect_add(clone, from[i].index);
	}
}

static void clone_arenas(struct clone *clone)
{
	struct karena_heap *heap = clone->clone;
	struct karena_chunk *chunk;
	unsigned long number;

	xa_for_each(&clone->heap->chunks, number, chunk) {
		clone_chunk(clone, chunk->arenas,
			    karena_arena_make(heap, number * KARENA_CHUNK,
					      KARENA_CLONE_GFP));
		cond_resched();
	}
	protect_flush(clone);
	karena_frame_count(heap, clone->huge, clone->sparse, clone->sparse_pages);
	atomic_long_add(clone->based, &heap->based);
	karena_charge_heap(heap, clone->pages);
}

/* From here on, who comes to the state words waits; nobody else changes them now. */
static void clone_control(struct clone *clone)
{
	unsigned long window = clone->heap->nr_arenas * KARENA_ARENA_PAGES;

	karena_windows_unmap(clone->windows, window, window + clone->heap->nr_control);
	karena_control_copy(clone->heap, clone->clone);
}

/*
 * Whether somebody besides the two heaps has a page that was the heap's alone, of which
 * only entries for all of a huge frame are left: a device, or who copies to it. Linux 6.1
 * tells pins by direct I/O from no other reference.
 */
static bool huge_held(struct karena_frame *huge)
{
	struct folio *folio = huge->folio;

	if (folio_ref_count(folio) == 1 + folio_entire_mapcount(folio))
		return false;
	return huge->owners == 2 || folio_maybe_dma_pinned(folio);
}

static bool page_held(struct karena_arena *arena, struct page *page)
{
	struct folio *folio = page_folio(page);

	if (folio_test_large(folio))
		return huge_held(karena_arena_huge(arena));
	return (page_private(page) == 1 && folio_ref_count(folio) > 1) ||
	       folio_maybe_dma_pinned(folio);
}

static bool arena_held(struct karena_arena *arena)
{
	struct karena_frame *huge = karena_arena_huge(arena);
	struct page **pages = arena->frame->pages;
	bool held = huge && huge_held(huge);
	unsigned long i;

	for (i = 0; pages && i < KARENA_ARENA_PAGES && !held; i++)
		held = karena_page_real(pages[i]) &&
		       page_held(arena, pages[i]);
	return held;
}

/* Before pages are copied, no thread may write to any: what they have is the moment. */
static void clone_stop_writes(struct clone *clone)
{
	if (clone->protect)
		karena_windows_unmap(clone->windows, 0,
				     clone->heap->nr_arenas * KARENA_ARENA_PAGES);
	clone->protect = false;
}

/*
 * Take from the clone an arena that devices hold and that cannot be copied. A touch of it
 * is SIGBUS then: the clone must never see what a device writes for the heap.
 */
static void clone_lose(struct clone *clone, struct karena_arena *arena)
{
	struct karena_heap *heap = clone->clone;
	struct karena_frame *frame = arena->frame, *base = arena->base;

	karena_arena_lock(arena);
	spin_lock(&heap->family->lock);
	karena_arena_empty(arena);
	WRITE_ONCE(*karena_state(heap, arena->index), KARENA_FREE);
	spin_unlock(&heap->family->lock);
	karena_arena_unlock(arena);
	karena_arena_free(heap, frame, base);
	clone->lost++;
}

/* A pin stays with the heap's page. All that there are, are there now. */
static void clone_pinned(struct clone *clone)
{
	struct karena_chunk *chunk;
	unsigned long number, i;
	int err = 0;

	xa_for_each(&clone->clone->chunks, number, chunk) {
		for (i = 0; i < KARENA_CHUNK; i++) {
			struct karena_arena *arena = &chunk->arenas[i];

			cond_resched();
			if (!arena->frame || !arena_held(arena))
				continue;
			clone_stop_writes(clone);
			/* Once memory is short, to ask again takes long. */
			if (err != -ENOMEM)
				err = karena_cow_own(arena, page_held);
			/* The reference that held the arena may be gone by now. */
			if (err && arena_held(arena))
				clone_lose(clone, arena);
		}
	}
	if (!clone->lost)
		return;
	set_bit(KARENA_HEAP_INCOMPLETE, &clone->clone->flags);
	pr_warn_ratelimited("karena: a clone does without %lu arenas: they are pinned, and cannot be copied\n",
			    clone->lost);
}

/* Wait for faults that have looked at a frame before. */
static void settle_all(struct karena_heap *heap)
{
	struct karena_chunk *chunk;
	unsigned long number, i;

	xa_for_each(&heap->chunks, number, chunk) {
		for (i = 0; i < KARENA_CHUNK; i++) {
			karena_arena_lock(&chunk->arenas[i]);
			if (chunk->arenas[i].frame)
				karena_sparse_settle(&chunk->arenas[i], NULL);
			karena_arena_unlock(&chunk->arenas[i]);
			cond_resched();
		}
	}
}

/* Whether other processes have the same memory, for whom mmap_lock says nothing. */
static bool is_public(struct karena_heap *heap)
{
	return heap->fork == KARENA_FORK_SHARE || karena_has_shares(heap);
}

static void set_frozen(struct karena_heap *heap, bool frozen)
{
	spin_lock(&heap->family->lock);
	if (frozen)
		set_bit(KARENA_HEAP_FROZEN, &heap->flags);
	else
		clear_bit(KARENA_HEAP_FROZEN, &heap->flags);
	spin_unlock(&heap->family->lock);
}

/* Nobody at all has any of it mapped from here on, or comes to. */
static void heap_freeze(struct karena_heap *heap)
{
	set_frozen(heap, true);
	settle_all(heap);
	karena_control_settle(heap);
	unmap_mapping_range(heap->family->mapping, 0, karena_window_size(heap) +
			    karena_control_size(heap->nr_arenas), 1);
}

static void heap_thaw(struct karena_heap *heap)
{
	set_frozen(heap, false);
	/* Pairs with the check before the sleep in wait_on_bit(). */
	smp_mb__after_atomic();
	wake_up_bit(&heap->flags, KARENA_HEAP_FROZEN);
}

/**
 * karena_clone() - Make a clone of a heap.
 * @heap: The heap, whose mm is held for writing.
 * @mm: The address space of the clone; for a snapshot, the heap's own.
 * @windows: All mappings of the heap in its process, prepared for copy-on-write.
 *
 * Return: The clone, which has no file yet; never NULL.
 */
struct karena_heap *karena_clone(struct karena_heap *heap, struct mm_struct *mm,
				 struct karena_windows *windows)
{
	struct clone clone = { .heap = heap, .windows = windows };
	bool public;

	/* fork() flushes the TLB, who makes a snapshot does not. */
	clone.protect = mm != heap->mm && karena_windows_can_protect(heap);
	clone.clone = karena_heap_clone(heap, mm);
	down_write(&heap->cloning);
	if (mm != heap->mm)
		karena_group_inherit(heap, clone.clone);
	public = is_public(heap);
	if (public)
		heap_freeze(heap);
	clone_control(&clone);
	clone_arenas(&clone);
	clone_pinned(&clone);
	if (public)
		heap_thaw(heap);
	up_write(&heap->cloning);
	clear_bit(KARENA_HEAP_CLONING, &clone.clone->flags);
	trace_karena_clone(heap, clone.clone->id, clone.pages);
	return clone.clone;
}
