// SPDX-License-Identifier: GPL-2.0
/*
 * Clones: fork() makes a clone of a heap for the child, and a snapshot is a clone. A clone
 * has all frames that the heap had at one moment. From then on both own these frames, and
 * the first write of either to a page is a fault, which copies the page (cow.c).
 *
 * The cloner holds mmap_lock of the heap's process for writing, so none of its threads is
 * in a fault of the window. It holds heap->cloning for writing, so no thread changes an
 * arena except reclaim, which purges only volatile arenas, and the clone does not inherit
 * these. First the cloner unmaps the state words. Then it makes the clone an owner of each
 * frame, and makes the mappings of frames that the heap owned alone read-only, or removes
 * them. Until then, and as long as the TLB of a processor has the old entry, other threads
 * may still write there, and both heaps see these writes. A thread that meets a
 * write-protected page waits until the clone is complete, and the clone does not see what
 * the thread writes then. So the clone shows one moment. If other processes map the same
 * memory, the cloner first unmaps all of it there, and their faults wait.
 */
#include <linux/bitmap.h>
#include <linux/mm.h>

#include "compat.h"
#include "heap.h"
#include "trace.h"

/* A clone in progress, and the neighbouring arenas that are to be write-protected next. */
struct clone {
	struct karena_heap *heap;
	struct karena_heap *clone;
	long huge, sparse, sparse_pages, based;	/* counts of the clone */
	long pages;			/* committed in the clone */
	unsigned long lost;		/* arenas that the clone lacks */
	unsigned long first, end;	/* arenas that the heap owned alone */
	struct karena_windows *windows;	/* mappings of the heap */
	bool protect;			/* read-only mappings are enough */
};

/* Add an owner. Returns true if the frame had only one. The family's lock is held. */
static bool huge_add_owner(struct karena_frame *frame)
{
	return frame->owners++ == 1;
}

/*
 * Make the clone's arena share all memory of the heap's arena. For a sparse frame the clone
 * has @mine, a frame of its own with the same pages. Returns true if the heap owned any
 * page alone. The family's lock is held.
 */
static bool arena_share(struct karena_arena *from, struct karena_arena *to,
			struct karena_frame *mine)
{
	struct karena_frame *frame = from->frame;
	bool alone = false;
	unsigned long i;

	if (!frame->pages)
		alone = huge_add_owner(frame);
	else
		mine->nr_pages = frame->nr_pages;
	for (i = 0; frame->pages && i < KARENA_ARENA_PAGES; i++) {
		struct page *page = frame->pages[i];

		mine->pages[i] = page;
		if (!karena_page_real(page))
			continue;
		alone |= !page_private(page);
		set_page_private(page, page_private(page) + 1);
	}
	if (from->base)
		alone |= huge_add_owner(from->base);
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

/* Stop the process from writing to the arenas that it owned alone. */
static void clone_flush_protect(struct clone *clone)
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

static void clone_add_protect(struct clone *clone, unsigned long index)
{
	if (clone->end != index) {
		clone_flush_protect(clone);
		clone->first = index;
	}
	clone->end = index + 1;
}

/* Returns true if the clone inherits this arena. VOLATILE and BUSY arenas are not inherited. */
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
 * Clone a sparse arena, for which the clone gets a frame of its own. CHANGING keeps reclaim
 * away, which may be at work there if the process has changed the state word.
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
	alone = arena_share(from, to, mine);
	spin_unlock(&heap->family->lock);
	clone_count(clone, to);
	if (alone)
		clone_add_protect(clone, from->index);
unlock:
	karena_arena_unlock(from);
}

/* Clone neighbouring arenas: all huge ones under one lock, then the sparse ones. */
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
		if (arena_share(&from[i], &to[i], from[i].frame))
			__set_bit(i, alone);
		clone_count(clone, &to[i]);
	}
	spin_unlock(&clone->heap->family->lock);
	for (i = 0; i < KARENA_CHUNK; i++) {
		if (test_bit(i, sparse))
			clone_sparse(clone, &from[i], &to[i]);
		else if (test_bit(i, alone))
			clone_add_protect(clone, from[i].index);
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
	clone_flush_protect(clone);
	karena_frame_count(heap, clone->huge, clone->sparse, clone->sparse_pages);
	atomic_long_add(clone->based, &heap->stats.based);
	karena_charge_heap(heap, clone->pages);
}

/*
 * Returns true if a huge folio that the heap owned alone has other references than those of
 * the two heaps and of PMDs: for DMA, or for a copy in progress. Linux 6.1 cannot tell pins
 * by direct I/O from other references.
 */
static bool huge_is_held(struct karena_frame *huge)
{
	struct folio *folio = huge->folio;

	if (folio_ref_count(folio) == 1 + folio_entire_mapcount(folio))
		return false;
	return huge->owners == 2 || folio_maybe_dma_pinned(folio);
}

static bool page_is_held(struct karena_arena *arena, struct page *page)
{
	struct folio *folio = page_folio(page);

	if (folio_test_large(folio))
		return huge_is_held(karena_arena_huge(arena));
	return (page_private(page) == 1 && folio_ref_count(folio) > 1) ||
	       folio_maybe_dma_pinned(folio);
}

static bool arena_is_held(struct karena_arena *arena)
{
	struct karena_frame *huge = karena_arena_huge(arena);
	struct page **pages = arena->frame->pages;
	bool held = huge && huge_is_held(huge);
	unsigned long i;

	for (i = 0; pages && i < KARENA_ARENA_PAGES && !held; i++)
		held = karena_page_real(pages[i]) &&
		       page_is_held(arena, pages[i]);
	return held;
}

/*
 * Remove an arena from the clone that devices pin and that cannot be copied. A touch of it
 * raises SIGBUS then, because the clone must never see data that a device writes for the
 * heap.
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

/* Copy pinned pages for the clone, because a pin stays with the heap's page. */
static void clone_pinned(struct clone *clone)
{
	struct karena_chunk *chunk;
	unsigned long number, i;
	int err = 0;

	xa_for_each(&clone->clone->chunks, number, chunk) {
		for (i = 0; i < KARENA_CHUNK; i++) {
			struct karena_arena *arena = &chunk->arenas[i];

			cond_resched();
			if (!arena->frame || !arena_is_held(arena))
				continue;
			/* From now on no thread may write to the copied pages. */
			if (clone->protect)
				karena_windows_unmap(clone->windows, 0,
						     clone->heap->nr_arenas *
						     KARENA_ARENA_PAGES);
			clone->protect = false;
			/* When memory is short, another attempt takes long. */
			if (err != -ENOMEM)
				err = karena_cow_copy_held(arena, page_is_held);
			/* The reference that held the arena may have been dropped. */
			if (err && arena_is_held(arena))
				clone_lose(clone, arena);
		}
	}
	if (!clone->lost)
		return;
	set_bit(KARENA_HEAP_INCOMPLETE, &clone->clone->flags);
	pr_warn_ratelimited("karena: fork: the child lacks %lu arenas: a device uses them, and no memory was left for copies\n",
			    clone->lost);
}

static void heap_set_frozen(struct karena_heap *heap, bool frozen)
{
	spin_lock(&heap->family->lock);
	if (frozen)
		set_bit(KARENA_HEAP_FROZEN, &heap->flags);
	else
		clear_bit(KARENA_HEAP_FROZEN, &heap->flags);
	spin_unlock(&heap->family->lock);
}

/*
 * Unmap the heap in all processes, and keep them from mapping any of it again, also by
 * faults that have already looked up a page.
 */
static void heap_freeze(struct karena_heap *heap)
{
	struct karena_chunk *chunk;
	unsigned long number, i;

	heap_set_frozen(heap, true);
	xa_for_each(&heap->chunks, number, chunk) {
		for (i = 0; i < KARENA_CHUNK; i++) {
			karena_arena_lock(&chunk->arenas[i]);
			if (chunk->arenas[i].frame)
				karena_sparse_settle(&chunk->arenas[i], NULL);
			karena_arena_unlock(&chunk->arenas[i]);
			cond_resched();
		}
	}
	karena_control_settle(heap);
	unmap_mapping_range(heap->family->mapping, 0, karena_window_size(heap) +
			    karena_control_size(heap->nr_arenas), 1);
}

/**
 * karena_clone() - Make a clone of a heap.
 * @heap: The heap, whose mmap_lock is held for writing.
 * @mm: The address space of the clone; for a snapshot, the heap's own.
 * @windows: All mappings of the heap in its process, prepared for copy-on-write.
 *
 * Return: The clone, of which the caller is the user; never NULL.
 */
struct karena_heap *karena_clone(struct karena_heap *heap, struct mm_struct *mm,
				 struct karena_windows *windows)
{
	unsigned long window = heap->nr_arenas * KARENA_ARENA_PAGES;
	struct clone clone = { .heap = heap, .windows = windows };
	bool public;

	/* fork() flushes the TLB, a snapshot does not. */
	clone.protect = mm != heap->mm && karena_windows_can_protect(heap);
	clone.clone = karena_heap_clone(heap, mm);
	down_write(&heap->cloning);
	if (mm != heap->mm)
		karena_group_inherit(heap, clone.clone);
	/* If other processes map the memory, this mmap_lock does not stop their faults. */
	public = heap->fork == KARENA_FORK_SHARE || karena_has_shares(heap);
	if (public)
		heap_freeze(heap);
	/* From here on, a touch of the state words waits, and no other thread changes them. */
	karena_windows_unmap(windows, window, window + heap->control.nr);
	karena_control_copy(heap, clone.clone);
	clone_arenas(&clone);
	clone_pinned(&clone);
	if (public)
		heap_set_frozen(heap, false);
	up_write(&heap->cloning);
	clear_bit(KARENA_HEAP_CLONING, &clone.clone->flags);
	trace_karena_clone(heap, clone.clone->id, clone.pages);
	return clone.clone;
}
