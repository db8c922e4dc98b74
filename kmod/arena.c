// SPDX-License-Identifier: GPL-2.0
/*
 * Arenas: the slots of a window, and how a frame, huge or sparse, enters and leaves
 * one. What is special to sparse frames is in sparse.c, to frames that others have,
 * too, in cow.c. The rules of references are in folio.c, those of the locks in
 * karena.h.
 */
#include <linux/bitmap.h>
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/slab.h>
#include <linux/wait_bit.h>

#include "karena.h"
#include "trace.h"

static struct kmem_cache *chunk_cache;

/**
 * karena_arena() - Find an arena.
 * @heap: The heap.
 * @index: Which arena of its window.
 *
 * Return: The arena, or NULL when nothing near it has ever been committed.
 */
struct karena_arena *karena_arena(struct karena_heap *heap, unsigned long index)
{
	struct karena_chunk *chunk = xa_load(&heap->chunks, index / KARENA_CHUNK);

	return chunk ? &chunk->arenas[index % KARENA_CHUNK] : NULL;
}

/* Arenas are empty when they are freed, too: a fork makes many, and clears none. */
static void chunk_init(void *object)
{
	memset(object, 0, sizeof(struct karena_chunk));
}

static struct karena_chunk *chunk_alloc(struct karena_heap *heap,
					unsigned long number, gfp_t gfp)
{
	struct karena_chunk *chunk = kmem_cache_alloc(chunk_cache, gfp);
	unsigned long i;

	for (i = 0; chunk && i < KARENA_CHUNK; i++) {
		chunk->arenas[i].heap = heap;
		chunk->arenas[i].index = number * KARENA_CHUNK + i;
	}
	return chunk;
}

/**
 * karena_arena_make() - Find an arena, or make it.
 * @heap: The heap.
 * @index: Which arena of its window.
 * @gfp: How to allocate it.
 *
 * Return: The arena, which has a state word, or NULL.
 */
struct karena_arena *karena_arena_make(struct karena_heap *heap, unsigned long index,
				       gfp_t gfp)
{
	unsigned long number = index / KARENA_CHUNK;
	struct karena_arena *arena = karena_arena(heap, index);
	struct karena_chunk *chunk;
	int err;

	if (arena)
		return arena;
	if (!karena_control_states(heap, index, gfp))
		return NULL;
	chunk = chunk_alloc(heap, number, gfp);
	if (!chunk)
		return NULL;
	err = xa_insert(&heap->chunks, number, chunk, gfp);
	if (err)
		kmem_cache_free(chunk_cache, chunk);
	/* Another commit may have been faster. */
	return karena_arena(heap, index);
}

/**
 * karena_arena_lock() - Begin to change an arena: take CHANGING.
 * @arena: The arena.
 */
void karena_arena_lock(struct karena_arena *arena)
{
	wait_on_bit_lock(&arena->flags, KARENA_ARENA_CHANGING,
			 TASK_UNINTERRUPTIBLE);
}

/**
 * karena_arena_unlock() - End to change an arena.
 * @arena: The arena.
 */
void karena_arena_unlock(struct karena_arena *arena)
{
	clear_and_wake_up_bit(KARENA_ARENA_CHANGING, &arena->flags);
}

/**
 * karena_arena_freeze() - Let faults wait.
 * @arena: The arena, with CHANGING held.
 */
void karena_arena_freeze(struct karena_arena *arena)
{
	struct karena_heap *heap = arena->heap;

	spin_lock(&heap->family->lock);
	set_bit(KARENA_ARENA_FROZEN, &arena->flags);
	spin_unlock(&heap->family->lock);
}

/**
 * karena_arena_thaw() - Let them go on.
 * @arena: The arena, with CHANGING held.
 */
void karena_arena_thaw(struct karena_arena *arena)
{
	struct karena_heap *heap = arena->heap;

	spin_lock(&heap->family->lock);
	clear_bit(KARENA_ARENA_FROZEN, &arena->flags);
	spin_unlock(&heap->family->lock);
	/* Pairs with the check before the sleep in wait_on_bit(). */
	smp_mb__after_atomic();
	wake_up_bit(&arena->flags, KARENA_ARENA_FROZEN);
}

/**
 * karena_arena_page() - What an arena has for a page.
 * @arena: The arena, with CHANGING or the family's lock held.
 * @i: Which page of it.
 *
 * Return: The page, KARENA_ZERO, or NULL when it is not committed.
 */
struct page *karena_arena_page(struct karena_arena *arena, unsigned long i)
{
	struct karena_frame *huge = karena_arena_huge(arena);
	struct page *page = NULL;

	if (arena->frame && arena->frame->pages)
		page = arena->frame->pages[i];
	if (!page && huge)
		page = folio_page(huge->folio, i);
	return page;
}

/*
 * What the state word says after a commit. A commit of single pages by madvise()
 * leaves it: the kernel does not know when the last of them has come.
 */
static void state_committed(struct karena_arena *arena, u32 committed)
{
	u32 *state = karena_state(arena->heap, arena->index);
	u32 word = READ_ONCE(*state);

	lockdep_assert_held(&arena->heap->family->lock);
	if (KARENA_STATE(word) <= KARENA_ACTIVE)
		cmpxchg(state, word, committed);
}

/* For what has been charged. */
static struct folio *huge_alloc(struct karena_heap *heap, int node)
{
	struct folio *folio = karena_folio_alloc(heap, KARENA_ARENA_ORDER, node,
						 KARENA_FRAME_GFP);

	/* Orphans that have come free are charged to its cgroup still. */
	if (!folio && karena_folio_reap(heap))
		folio = karena_folio_alloc(heap, KARENA_ARENA_ORDER, node,
					   KARENA_FRAME_GFP);
	return folio;
}

/* A charged, zeroed frame, or an ERR_PTR. */
static struct folio *huge_frame(struct karena_heap *heap, unsigned long index)
{
	int node = karena_folio_node(heap, index);
	struct folio *folio = karena_ready_take(heap, node, false);
	int err;

	if (folio)
		return folio;
	err = karena_charge(heap, KARENA_ARENA_PAGES, &folio);
	if (err)
		return ERR_PTR(err);
	if (!folio)
		folio = huge_alloc(heap, node);
	if (folio)
		return folio;
	karena_uncharge(heap, KARENA_ARENA_PAGES);
	/* Better one of another node than none. */
	return karena_ready_take(heap, node, true) ?: ERR_PTR(-ENOMEM);
}

/* With CHANGING held, on an arena without a frame. */
static int commit_huge(struct karena_arena *arena)
{
	struct karena_heap *heap = arena->heap;
	struct folio *folio = huge_frame(heap, arena->index);
	struct karena_frame *frame;

	if (IS_ERR(folio))
		return PTR_ERR(folio);
	frame = karena_frame_huge(heap, folio);
	if (!frame) {
		karena_folio_free(heap, folio, true);
		return -ENOMEM;
	}
	karena_key_set(heap, folio, arena->index * KARENA_ARENA_PAGES);
	karena_frame_count(heap, 1, 0, 0);
	frame->owners = 1;
	spin_lock(&heap->family->lock);
	karena_frame_give(arena, frame);
	spin_unlock(&heap->family->lock);
	karena_ready_committed(heap, folio_nid(folio));
	return 0;
}

/* With CHANGING held. */
static int arena_commit(struct karena_arena *arena, unsigned long first,
			unsigned long count, bool single)
{
	struct karena_heap *heap = arena->heap;
	int err = 0;

	if (!arena->frame && count == KARENA_ARENA_PAGES)
		err = commit_huge(arena);
	else if (!karena_arena_huge(arena))
		err = karena_sparse_commit(arena, first, count);
	if (!err && !single) {
		spin_lock(&heap->family->lock);
		state_committed(arena, karena_arena_huge(arena) ? KARENA_ACTIVE :
				       KARENA_ACTIVE | KARENA_SPARSE);
		spin_unlock(&heap->family->lock);
	}
	return err;
}

static int try_commit(struct karena_heap *heap, unsigned long page, unsigned long count,
		      bool single)
{
	struct karena_arena *arena;
	int err = -ENOMEM;

	down_read(&heap->cloning);
	arena = karena_arena_make(heap, page / KARENA_ARENA_PAGES, KARENA_GFP);
	if (arena) {
		karena_arena_lock(arena);
		err = arena_commit(arena, page % KARENA_ARENA_PAGES, count, single);
		karena_arena_unlock(arena);
	}
	up_read(&heap->cloning);
	return err;
}

/**
 * karena_arena_commit() - Commit an arena, or pages of it.
 * @heap: The heap.
 * @page: The first page, counted from the window's start.
 * @count: How many pages, all in one arena. All of an arena that has no frame get
 *	a huge one.
 * @single: Whether one of several that the kernel is asked for one by one; then
 *	the state word stays as it is.
 * @again: Becomes true where karena_folio_wait() may help: the caller lets go of its locks,
 *	waits and tries again, and nothing is counted. NULL: the caller does not wait.
 *
 * Context: May sleep.
 * Return: 0, also when another thread was faster; -ENOMEM without memory or at a
 * limit.
 */
int karena_arena_commit(struct karena_heap *heap, unsigned long page,
			unsigned long count, bool single, bool *again)
{
	int err;

	karena_sysfs_add(heap);
	err = try_commit(heap, page, count, single);
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
	atomic_long_inc(&heap->refused);
	karena_pressure_raise(heap, KARENA_PRESSURE_HIGH);
	return err;
}

/**
 * karena_arena_has() - Whether a page is committed.
 * @heap: The heap.
 * @page: Which page of the window.
 *
 * Return: Whether it is, at this moment.
 */
bool karena_arena_has(struct karena_heap *heap, unsigned long page)
{
	struct karena_arena *arena = karena_arena(heap, page / KARENA_ARENA_PAGES);
	bool has;

	if (!arena)
		return false;
	spin_lock(&heap->family->lock);
	has = karena_arena_page(arena, page % KARENA_ARENA_PAGES);
	spin_unlock(&heap->family->lock);
	return has;
}

/* With the family's lock held. */
static bool arena_frozen(struct karena_arena *arena)
{
	return test_bit(KARENA_ARENA_FROZEN, &arena->flags) ||
	       test_bit(KARENA_HEAP_FROZEN, &arena->heap->flags);
}

/*
 * What a page of the arena is, with a reference to its folio, if it has one; waits
 * while the arena is frozen.
 */
static struct page *arena_get_page(struct karena_arena *arena, unsigned long i)
{
	struct karena_heap *heap = arena->heap;
	struct page *page;

	spin_lock(&heap->family->lock);
	while (arena_frozen(arena)) {
		spin_unlock(&heap->family->lock);
		wait_on_bit(&arena->flags, KARENA_ARENA_FROZEN,
			    TASK_UNINTERRUPTIBLE);
		wait_on_bit(&heap->flags, KARENA_HEAP_FROZEN,
			    TASK_UNINTERRUPTIBLE);
		spin_lock(&heap->family->lock);
	}
	page = karena_arena_page(arena, i);
	if (karena_page_real(page))
		folio_get(page_folio(page));
	spin_unlock(&heap->family->lock);
	return page;
}

/* With the folio locked: whether it is still there, and what is to be known of it. */
static bool arena_look_again(struct karena_arena *arena, unsigned long i,
			     struct karena_place *place)
{
	struct karena_heap *heap = arena->heap;
	struct karena_frame *huge;
	bool still;

	spin_lock(&heap->family->lock);
	huge = karena_arena_huge(arena);
	still = !arena_frozen(arena) && place->page == karena_arena_page(arena, i);
	if (still) {
		place->shared = karena_frame_shared(arena, place->page);
		place->by_pages = arena->base;
		place->used = huge && huge->used;
		if (huge)
			huge->used = true;
	}
	spin_unlock(&heap->family->lock);
	return still;
}

/**
 * karena_arena_lock_page() - Get hold of a page.
 * @heap: The heap.
 * @page: Which page of the window.
 * @place: Out: what is there; certain to stay the arena's until
 *	karena_arena_unlock_page().
 *
 * Context: May sleep for the folio lock, and while the arena is frozen.
 * Return: Whether the page is committed.
 */
bool karena_arena_lock_page(struct karena_heap *heap, unsigned long page,
			    struct karena_place *place)
{
	struct karena_arena *arena = karena_arena(heap, page / KARENA_ARENA_PAGES);
	unsigned long i = page % KARENA_ARENA_PAGES;
	struct folio *folio;

	if (!arena)
		return false;
	while ((place->page = arena_get_page(arena, i))) {
		if (place->page == KARENA_ZERO) {
			place->shared = true;
			return true;
		}
		folio = page_folio(place->page);
		folio_lock(folio);
		if (arena_look_again(arena, i, place))
			return true;
		/* It was released, perhaps replaced, while we waited. */
		folio_unlock(folio);
		folio_put(folio);
	}
	return false;
}

/**
 * karena_arena_unlock_page() - Let go of a page.
 * @place: Of karena_arena_lock_page().
 */
void karena_arena_unlock_page(struct karena_place *place)
{
	struct folio *folio = page_folio(place->page);

	if (place->page == KARENA_ZERO)
		return;
	folio_unlock(folio);
	folio_put(folio);
}

/**
 * karena_arena_unmap() - Unmap pages of an arena.
 * @arena: The arena.
 * @first: The first page.
 * @count: How many.
 *
 * In the heap's own process, if that is certain to be enough; else in all processes of the
 * family. These fault their own arenas of the same place in again.
 *
 * Context: Tries mmap_lock, or takes the mapping's i_mmap_rwsem.
 */
void karena_arena_unmap(struct karena_arena *arena, unsigned long first,
			unsigned long count)
{
	loff_t page = arena->index * KARENA_ARENA_PAGES + first;

	if (karena_window_unmap(arena->heap, page, page + count))
		return;
	unmap_mapping_range(arena->heap->family->mapping, page << PAGE_SHIFT,
			    count << PAGE_SHIFT, 1);
}

/* With CHANGING held, on a huge frame: as fast as can be. */
static void release_huge(struct karena_arena *arena)
{
	struct karena_heap *heap = arena->heap;
	struct karena_frame *frame = arena->frame;

	/* Who has looked it up maps it before we unmap it. */
	folio_lock(frame->folio);
	spin_lock(&heap->family->lock);
	karena_frame_give(arena, NULL);
	spin_unlock(&heap->family->lock);
	folio_unlock(frame->folio);
	karena_arena_unmap(arena, 0, KARENA_ARENA_PAGES);
	karena_arena_free(heap, frame, NULL);
}

/* Out of an arena already: a sparse frame with its pages. */
static void frame_free(struct karena_heap *heap, struct karena_frame *frame,
		       bool counted)
{
	unsigned long i;

	for (i = 0; i < KARENA_ARENA_PAGES; i++) {
		if (karena_page_real(frame->pages[i]))
			karena_page_leave(heap, page_folio(frame->pages[i]),
					  counted);
	}
	karena_frame_count(heap, 0, 0, -(long)frame->nr_pages);
	karena_frame_discard(frame);
}

/**
 * karena_arena_free() - Free what has been an arena's.
 * @heap: The heap, where nobody maps it any more.
 * @frame: The frame that the arena had.
 * @base: The base below it, or NULL.
 */
void karena_arena_free(struct karena_heap *heap, struct karena_frame *frame,
		       struct karena_frame *base)
{
	if (frame->folio) {
		karena_frame_count(heap, -1, 0, 0);
		karena_frame_leave(heap, frame, true);
		return;
	}
	karena_frame_count(heap, 0, -1, 0);
	frame_free(heap, frame, !base);
	if (!base)
		return;
	atomic_long_dec(&heap->based);
	karena_frame_leave(heap, base, true);
}

/**
 * karena_arena_empty() - Take all out of an arena.
 * @arena: The arena, with CHANGING and the family's lock held.
 */
void karena_arena_empty(struct karena_arena *arena)
{
	karena_frame_give(arena, NULL);
	arena->base = NULL;
}

/* With CHANGING held, on a sparse frame, perhaps with a base. */
static void release_sparse(struct karena_arena *arena)
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

/* Too little of a huge frame to make it sparse for, or it is pinned. */
static void clear_pages_of(struct folio *folio, const unsigned long *gone)
{
	unsigned long i;

	for_each_set_bit(i, gone, KARENA_ARENA_PAGES) {
		if (!PageHWPoison(folio_page(folio, i)))
			clear_highpage(folio_page(folio, i));
		cond_resched();
	}
}

/* With CHANGING held, on an arena with a frame. */
static void release_part(struct karena_arena *arena, const unsigned long *gone)
{
	struct karena_frame *huge = karena_arena_huge(arena);

	if (huge && karena_sparse_demote(arena, gone))
		return;
	/* Nobody else comes to have it while we hold CHANGING. */
	if (huge == arena->frame && READ_ONCE(huge->owners) == 1) {
		clear_pages_of(huge->folio, gone);
		return;
	}
	if (huge == arena->frame)
		karena_cow_split(arena, GFP_KERNEL_ACCOUNT | __GFP_NOFAIL);
	karena_sparse_release(arena, gone);
}

/* With CHANGING held. */
static void arena_release(struct karena_arena *arena, const unsigned long *gone)
{
	struct karena_heap *heap = arena->heap;
	bool all = bitmap_full(gone, KARENA_ARENA_PAGES);

	if (arena->frame && !all)
		release_part(arena, gone);
	else if (arena->frame && arena->frame->folio)
		release_huge(arena);
	else if (arena->frame)
		release_sparse(arena);
	if (all) {
		spin_lock(&heap->family->lock);
		WRITE_ONCE(*karena_state(heap, arena->index), KARENA_FREE);
		spin_unlock(&heap->family->lock);
	}
}

/**
 * karena_arena_release() - Take pages of an arena away, where it has them.
 * @heap: The heap.
 * @index: Which arena of its window.
 * @gone: A bit for each page that goes. When all go the state word says FREE
 *	afterwards.
 *
 * Context: May sleep; takes the mapping's i_mmap_rwsem.
 */
void karena_arena_release(struct karena_heap *heap, unsigned long index,
			  const unsigned long *gone)
{
	struct karena_arena *arena = karena_arena(heap, index);
	u32 *state = karena_state(heap, index);

	trace_karena_release(heap, index,
			     bitmap_weight(gone, KARENA_ARENA_PAGES));
	if (!arena) {
		/* Perhaps it was requested, and there was no memory for it. */
		if (state && bitmap_full(gone, KARENA_ARENA_PAGES))
			WRITE_ONCE(*state, KARENA_FREE);
		return;
	}
	down_read(&heap->cloning);
	karena_arena_lock(arena);
	arena_release(arena, gone);
	karena_arena_unlock(arena);
	up_read(&heap->cloning);
}

/* With the heap hidden from reclaim and no other user left. */
static void arena_destroy(struct karena_arena *arena)
{
	struct karena_frame *frame = arena->frame, *base = arena->base;
	struct karena_heap *heap = arena->heap;

	arena->frame = NULL;
	arena->base = NULL;
	if (frame->folio) {
		karena_frame_leave(heap, frame, false);
		return;
	}
	frame_free(heap, frame, false);
	if (base)
		karena_frame_leave(heap, base, false);
}

/* What others have, too, is let go of at once: most of a child's. */
static void chunk_leave(struct karena_heap *heap, struct karena_chunk *chunk)
{
	unsigned long i;

	spin_lock(&heap->family->lock);
	for (i = 0; i < KARENA_CHUNK; i++) {
		struct karena_frame *frame = chunk->arenas[i].frame;

		if (!frame || !frame->folio || frame->owners == 1)
			continue;
		frame->owners--;
		chunk->arenas[i].frame = NULL;
	}
	spin_unlock(&heap->family->lock);
}

/**
 * karena_arena_destroy_all() - Free what a heap has; nothing maps it any more.
 * @heap: The heap, with no other user left, and out of all groups. What it has committed
 *	stays counted in it, and goes with it.
 */
void karena_arena_destroy_all(struct karena_heap *heap)
{
	struct karena_chunk *chunk;
	unsigned long number, i;

	karena_frame_count(heap, -atomic_long_read(&heap->huge),
			   -atomic_long_read(&heap->sparse), 0);
	xa_for_each(&heap->chunks, number, chunk) {
		chunk_leave(heap, chunk);
		for (i = 0; i < KARENA_CHUNK; i++) {
			if (chunk->arenas[i].frame)
				arena_destroy(&chunk->arenas[i]);
			chunk->arenas[i].tried_word = 0;
		}
		kmem_cache_free(chunk_cache, chunk);
		cond_resched();
	}
	xa_destroy(&heap->chunks);
	karena_folio_abandon(heap);
}

/**
 * karena_arena_init() - Make the cache of arena structures.
 *
 * Return: 0 or -ENOMEM.
 */
int karena_arena_init(void)
{
	chunk_cache = kmem_cache_create("karena_chunk", sizeof(struct karena_chunk), 0,
					SLAB_ACCOUNT, chunk_init);
	return chunk_cache ? 0 : -ENOMEM;
}

/**
 * karena_arena_exit() - Destroy it; no heap is left.
 */
void karena_arena_exit(void)
{
	kmem_cache_destroy(chunk_cache);
}
