// SPDX-License-Identifier: GPL-2.0
/*
 * Clones: what fork() makes of a heap for the child, and what a snapshot is. A clone
 * has all frames of the heap at one moment; from then on they belong to both, and the
 * first write of either side to a page of them is a fault, which copies it (cow.c).
 *
 * The mm of the heap's process is held for writing meanwhile, so none of its threads is
 * in a fault of the window. Each frame becomes the clone's first; then the process
 * loses its mappings of those that were its alone. Until then its other threads may
 * write there, which both see; who comes to a page that is unmapped already waits. So
 * the clone shows one moment. Where other processes have the same memory, they lose all
 * of it first, and wait.
 */
#include <linux/mm.h>
#include <linux/pagemap.h>

#include "compat.h"
#include "karena.h"
#include "trace.h"

/* A clone under way, and which neighbouring arenas have to be unmapped in the heap. */
struct clone {
	struct karena_heap *heap;
	struct karena_heap *clone;
	unsigned long pages;		/* that the clone has */
	unsigned long first, end;	/* arenas that were the heap's alone */
	struct karena_windows windows;	/* where they are mapped */
};

/* A huge frame becomes the clone's, too. Whether it was the heap's alone. */
static bool share_huge(struct clone *clone, struct karena_frame *frame)
{
	struct karena_family *family = clone->heap->family;
	bool alone = READ_ONCE(frame->owners) == 1;

	/* What is shared already nobody is about to map for writing. */
	if (alone)
		folio_lock(frame->folio);
	spin_lock(&family->lock);
	frame->owners++;
	spin_unlock(&family->lock);
	if (alone)
		folio_unlock(frame->folio);
	return alone;
}

/* Likewise, of the pages of a sparse frame; the clone gets a frame of its own. */
static bool share_pages(struct clone *clone, struct karena_frame *from,
			struct karena_frame *to)
{
	struct karena_family *family = clone->heap->family;
	bool alone = false;
	unsigned long i;

	for (i = 0; i < KARENA_ARENA_PAGES; i++) {
		struct page *page = from->pages[i];

		to->pages[i] = page;
		if (!karena_page_real(page))
			continue;
		lock_page(page);
		spin_lock(&family->lock);
		alone |= !page_private(page);
		set_page_private(page, page_private(page) + 1);
		spin_unlock(&family->lock);
		unlock_page(page);
	}
	to->nr_pages = from->nr_pages;
	return alone;
}

/* With CHANGING of the heap's arena held. */
static bool share_arena(struct clone *clone, struct karena_arena *from,
			struct karena_arena *to)
{
	struct karena_frame *frame = from->frame, *mine = frame;
	struct karena_heap *heap = clone->clone;
	bool alone = false;

	if (frame->pages) {
		mine = karena_frame_sparse(heap, frame->node, KARENA_CLONE_GFP);
		alone = share_pages(clone, frame, mine);
	} else {
		alone = share_huge(clone, frame);
	}
	if (from->base)
		alone |= share_huge(clone, from->base);
	spin_lock(&heap->family->lock);
	to->base = from->base;
	karena_frame_give(to, mine);
	spin_unlock(&heap->family->lock);
	karena_frame_count(heap, !frame->pages, !!frame->pages, frame->nr_pages);
	if (frame->pages)
		karena_reclaim_show(mine);
	if (from->base)
		atomic_long_inc(&heap->based);
	clone->pages += frame->pages && !from->base ? frame->nr_pages :
						      KARENA_ARENA_PAGES;
	return alone;
}

/* Write-protect what was the heap's alone: unmap it. */
static void unmap_flush(struct clone *clone)
{
	if (clone->end > clone->first)
		karena_windows_unmap(&clone->windows,
				     clone->first * KARENA_ARENA_PAGES,
				     clone->end * KARENA_ARENA_PAGES);
	clone->first = 0;
	clone->end = 0;
}

static void unmap_add(struct clone *clone, unsigned long index)
{
	if (clone->end != index) {
		unmap_flush(clone);
		clone->first = index;
	}
	clone->end = index + 1;
}

static void clone_arena(struct clone *clone, struct karena_arena *from,
			struct karena_arena *to)
{
	bool alone = false;

	karena_arena_lock(from);
	if (from->frame)
		alone = share_arena(clone, from, to);
	karena_arena_unlock(from);
	if (alone)
		unmap_add(clone, from->index);
}

/* From here on, who comes to the window or to the state words waits. */
static void clone_arenas(struct clone *clone)
{
	unsigned long window = clone->heap->nr_arenas * KARENA_ARENA_PAGES;
	struct karena_chunk *chunk;
	unsigned long number, i;

	xa_for_each(&clone->heap->chunks, number, chunk) {
		struct karena_arena *to;

		to = karena_arena_make(clone->clone, number * KARENA_CHUNK,
				       KARENA_CLONE_GFP);
		for (i = 0; i < KARENA_CHUNK; i++)
			clone_arena(clone, &chunk->arenas[i], &to[i]);
		cond_resched();
	}
	unmap_flush(clone);
	karena_windows_unmap(&clone->windows, window, window + clone->heap->nr_control);
	karena_charge_heap(clone->clone, clone->pages);
}

/*
 * What the kernel may take at any time, from the clone it takes now. Reclaim may have
 * been faster in the heap.
 */
static bool state_allows(struct clone *clone, struct karena_arena *from)
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
	return word != KARENA_FREE;
}

static void clone_state(struct clone *clone, struct karena_arena *from,
			struct karena_arena *to)
{
	struct karena_heap *heap = clone->clone;
	struct karena_frame *frame, *base;

	karena_arena_lock(from);
	/* Reclaim knows the clone's arenas already. */
	karena_arena_lock(to);
	frame = to->frame;
	base = to->base;
	if (!state_allows(clone, from) && frame) {
		spin_lock(&heap->family->lock);
		karena_arena_empty(to);
		spin_unlock(&heap->family->lock);
		karena_arena_free(heap, frame, base);
	}
	karena_arena_unlock(to);
	karena_arena_unlock(from);
}

/* The control region, which nobody changes now but the kernel. */
static void clone_states(struct clone *clone)
{
	struct karena_chunk *chunk;
	unsigned long number, i;

	karena_control_copy(clone->heap, clone->clone);
	xa_for_each(&clone->heap->chunks, number, chunk) {
		struct karena_arena *to = karena_arena(clone->clone,
						       number * KARENA_CHUNK);

		for (i = 0; i < KARENA_CHUNK; i++)
			clone_state(clone, &chunk->arenas[i], &to[i]);
	}
}

/*
 * Whether somebody besides the two heaps has a page that was the heap's alone, which
 * is unmapped: a device, or who copies to it. Linux 6.1 tells pins by direct I/O from no
 * other reference.
 */
static bool page_held(struct karena_arena *arena, struct page *page)
{
	struct folio *folio = page_folio(page);
	bool two = folio_test_large(folio) ?
		   karena_arena_huge(arena)->owners == 2 : page_private(page) == 1;

	return (two && folio_ref_count(folio) > 1) || folio_maybe_dma_pinned(folio);
}

static bool arena_held(struct karena_arena *arena)
{
	struct karena_frame *huge = karena_arena_huge(arena);
	struct page **pages = arena->frame->pages;
	bool held = huge && page_held(arena, folio_page(huge->folio, 0));
	unsigned long i;

	for (i = 0; pages && i < KARENA_ARENA_PAGES && !held; i++)
		held = karena_page_real(pages[i]) &&
		       page_held(arena, pages[i]);
	return held;
}

/* A pin stays with the heap's page. All that there are, are there now. */
static void clone_pinned(struct clone *clone)
{
	struct karena_chunk *chunk;
	unsigned long number, i;

	xa_for_each(&clone->clone->chunks, number, chunk) {
		for (i = 0; i < KARENA_CHUNK; i++) {
			if (chunk->arenas[i].frame &&
			    arena_held(&chunk->arenas[i]))
				karena_cow_own(&chunk->arenas[i], page_held);
		}
	}
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
		}
	}
}

/* Whether other processes have the same memory, for whom mmap_lock says nothing. */
static bool is_public(struct karena_heap *heap)
{
	return heap->fork == KARENA_FORK_SHARE || !list_empty_careful(&heap->shares);
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
	unmap_mapping_range(heap->family->mapping, 0, karena_window_size(heap), 1);
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
 * @mm: Whose the clone is.
 *
 * Return: The clone, which knows no file yet; never NULL.
 */
struct karena_heap *karena_clone(struct karena_heap *heap, struct mm_struct *mm)
{
	struct clone clone = { .heap = heap };
	bool public = is_public(heap);

	karena_windows_get(heap, &clone.windows);
	clone.clone = karena_heap_clone(heap, mm);
	down_write(&heap->cloning);
	if (public)
		heap_freeze(heap);
	clone_arenas(&clone);
	clone_states(&clone);
	clone_pinned(&clone);
	if (public)
		heap_thaw(heap);
	up_write(&heap->cloning);
	karena_windows_put(&clone.windows);
	clear_bit(KARENA_HEAP_CLONING, &clone.clone->flags);
	trace_karena_clone(heap, clone.clone->id, clone.pages);
	return clone.clone;
}
