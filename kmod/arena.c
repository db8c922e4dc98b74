// SPDX-License-Identifier: GPL-2.0
/*
 * Arenas: the slots of a window. This file finds arenas, looks up, locks, freezes and
 * unmaps their frames and pages, and frees all arenas of a heap. sparse.c, cow.c and
 * commit.c change their frames. base.h has the rules of locks, folio.c those of references.
 */
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/slab.h>
#include <linux/wait_bit.h>

#include "arena.h"
#include "trace.h"

static struct kmem_cache *chunk_cache;

/**
 * karena_arena() - Find an arena.
 * @heap: The heap.
 * @index: Which arena of its window.
 *
 * Return: The arena, or NULL if no arena of its chunk has ever been committed.
 */
struct karena_arena *karena_arena(struct karena_heap *heap, unsigned long index)
{
	struct karena_chunk *chunk = xa_load(&heap->chunks, index / KARENA_CHUNK);

	return chunk ? &chunk->arenas[index % KARENA_CHUNK] : NULL;
}

/*
 * Arenas are empty when their chunk is freed, so a fork, which allocates many, need not
 * clear chunks.
 */
static void chunk_init(void *object)
{
	memset(object, 0, sizeof(struct karena_chunk));
}

/**
 * karena_arena_make() - Find an arena, or allocate it.
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
	unsigned long i;
	int err;

	if (arena)
		return arena;
	if (!karena_control_states(heap, index, gfp))
		return NULL;
	chunk = kmem_cache_alloc(chunk_cache, gfp);
	if (!chunk)
		return NULL;
	for (i = 0; i < KARENA_CHUNK; i++) {
		chunk->arenas[i].heap = heap;
		chunk->arenas[i].index = number * KARENA_CHUNK + i;
	}
	err = xa_insert(&heap->chunks, number, chunk, gfp);
	if (err)
		kmem_cache_free(chunk_cache, chunk);
	/* Another thread may have inserted one. */
	return karena_arena(heap, index);
}

#ifdef CONFIG_LOCKDEP
/*
 * To lockdep, CHANGING is one lock for all arenas, because no thread waits for a second
 * one.
 */
struct lockdep_map karena_changing_map =
	STATIC_LOCKDEP_MAP_INIT("karena CHANGING", &karena_changing_map);
#endif

/**
 * karena_arena_lock() - Take CHANGING.
 * @arena: The arena.
 *
 * Context: May sleep. The caller holds heap->cloning for reading or, as the cloner, for
 * writing; or the arena is that of a clone that is being made.
 */
void karena_arena_lock(struct karena_arena *arena)
{
	mutex_acquire(&karena_changing_map, 0, 0, _RET_IP_);
	wait_on_bit_lock(&arena->flags, KARENA_ARENA_CHANGING,
			 TASK_UNINTERRUPTIBLE);
}

/**
 * karena_arena_trylock() - Take CHANGING, for reclaim.
 * @arena: The arena.
 *
 * Return: True if this thread holds CHANGING now.
 */
bool karena_arena_trylock(struct karena_arena *arena)
{
	if (test_and_set_bit_lock(KARENA_ARENA_CHANGING, &arena->flags))
		return false;
	mutex_acquire(&karena_changing_map, 0, 1, _RET_IP_);
	return true;
}

/**
 * karena_arena_unlock() - Drop CHANGING.
 * @arena: The arena.
 */
void karena_arena_unlock(struct karena_arena *arena)
{
	karena_arena_assert_locked(arena);
	mutex_release(&karena_changing_map, _RET_IP_);
	clear_and_wake_up_bit(KARENA_ARENA_CHANGING, &arena->flags);
}

/**
 * karena_arena_freeze() - Make faults wait.
 * @arena: The arena, with CHANGING held.
 */
void karena_arena_freeze(struct karena_arena *arena)
{
	struct karena_heap *heap = arena->heap;

	karena_arena_assert_locked(arena);
	spin_lock(&heap->family->lock);
	set_bit(KARENA_ARENA_FROZEN, &arena->flags);
	spin_unlock(&heap->family->lock);
}

/**
 * karena_arena_thaw() - Let faults use the arena again.
 * @arena: The arena, with CHANGING held.
 *
 * A waiting fault continues when CHANGING is dropped; new faults do not wait.
 */
void karena_arena_thaw(struct karena_arena *arena)
{
	struct karena_heap *heap = arena->heap;

	karena_arena_assert_locked(arena);
	spin_lock(&heap->family->lock);
	clear_bit(KARENA_ARENA_FROZEN, &arena->flags);
	spin_unlock(&heap->family->lock);
}

/**
 * karena_arena_page() - Find a page of an arena.
 * @arena: The arena, with CHANGING or the family's lock held.
 * @i: The page's number in the arena.
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

/**
 * karena_arena_set_frame() - Set the frame of an arena.
 * @arena: The arena, with CHANGING and the family's lock held.
 * @frame: Its frame from now on, or NULL.
 */
void karena_arena_set_frame(struct karena_arena *arena, struct karena_frame *frame)
{
	karena_arena_assert_locked(arena);
	lockdep_assert_held(&arena->heap->family->lock);
	arena->frame = frame;
}

/**
 * karena_arena_shared() - Ask whether other arenas share a page.
 * @arena: The arena, with the family's lock held.
 * @page: One of its pages.
 *
 * Return: True if they do. Other owners may drop the page at any time, so true may become
 * false. False stays false while heap->cloning is held for reading with CHANGING, and in a
 * fault that has locked the folio.
 */
bool karena_arena_shared(struct karena_arena *arena, struct page *page)
{
	lockdep_assert_held(&arena->heap->family->lock);
	if (PageCompound(page))
		return (arena->base ?: arena->frame)->owners > 1;
	return page_private(page);
}

/**
 * karena_arena_has() - Ask whether a page is committed.
 * @heap: The heap.
 * @page: The page's number in the window.
 *
 * Return: True if it is, as of this moment.
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

/* The family's lock is held. */
static bool arena_frozen(struct karena_arena *arena)
{
	lockdep_assert_held(&arena->heap->family->lock);
	return test_bit(KARENA_ARENA_FROZEN, &arena->flags) ||
	       test_bit(KARENA_HEAP_FROZEN, &arena->heap->flags);
}

/* Wait for the thread that has frozen the arena. That thread holds CHANGING or heap->cloning. */
static void arena_wait_thawed(struct karena_arena *arena)
{
	down_read(&arena->heap->cloning);
	karena_arena_lock(arena);
	karena_arena_unlock(arena);
	up_read(&arena->heap->cloning);
}

/**
 * karena_arena_lock_page() - Find a page and lock its folio.
 * @heap: The heap.
 * @page: The page's number in the window.
 * @place: Out: the page, which the arena keeps until karena_arena_unlock_page().
 *
 * Context: May sleep: takes the folio lock and, if the arena is frozen, heap->cloning and
 * CHANGING. So the caller holds none of these.
 * Return: True if the page is committed.
 */
bool karena_arena_lock_page(struct karena_heap *heap, unsigned long page,
			    struct karena_place *place)
{
	struct karena_arena *arena = karena_arena(heap, page / KARENA_ARENA_PAGES);
	unsigned long i = page % KARENA_ARENA_PAGES;
	struct karena_frame *huge;
	struct folio *folio;

	if (!arena)
		return false;
	/* Let lockdep see these locks in every fault: few faults meet a frozen arena. */
	might_lock_read(&heap->cloning);
	mutex_acquire(&karena_changing_map, 0, 0, _RET_IP_);
	mutex_release(&karena_changing_map, _RET_IP_);
	for (;;) {
		spin_lock(&heap->family->lock);
		while (arena_frozen(arena)) {
			spin_unlock(&heap->family->lock);
			arena_wait_thawed(arena);
			spin_lock(&heap->family->lock);
		}
		place->page = karena_arena_page(arena, i);
		if (!karena_page_real(place->page))
			break;
		folio = page_folio(place->page);
		folio_get(folio);
		spin_unlock(&heap->family->lock);
		folio_lock(folio);
		spin_lock(&heap->family->lock);
		if (!arena_frozen(arena) && place->page == karena_arena_page(arena, i))
			break;
		spin_unlock(&heap->family->lock);
		/* Another thread has released the page, and perhaps committed it again. */
		folio_unlock(folio);
		folio_put(folio);
	}
	if (karena_page_real(place->page)) {
		huge = karena_arena_huge(arena);
		place->shared = karena_arena_shared(arena, place->page);
		place->by_pages = arena->base;
		place->used = huge && huge->used;
		if (huge)
			huge->used = true;
	} else {
		/* A fault replaces KARENA_ZERO as it copies a shared page. */
		place->shared = true;
	}
	spin_unlock(&heap->family->lock);
	return place->page;
}

/**
 * karena_arena_unlock_page() - Unlock a page and drop its reference.
 * @place: From karena_arena_lock_page().
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
 * @arena: The arena, with CHANGING held.
 * @first: The first page.
 * @count: How many.
 *
 * This unmaps them in the heap's own process, if no other process can map them; else in all
 * processes of the family, which then fault in their own arenas at the same offsets again.
 *
 * Context: Tries mmap_lock, or takes the mapping's i_mmap_rwsem.
 */
void karena_arena_unmap(struct karena_arena *arena, unsigned long first,
			unsigned long count)
{
	loff_t page = arena->index * KARENA_ARENA_PAGES + first;

	karena_arena_assert_locked(arena);
	if (karena_window_unmap(arena->heap, page, page + count))
		return;
	unmap_mapping_range(arena->heap->family->mapping, page << PAGE_SHIFT,
			    count << PAGE_SHIFT, 1);
}

/* Free a sparse frame that no arena has any more, with its pages. */
static void frame_free(struct karena_heap *heap, struct karena_frame *frame,
		       bool counted)
{
	unsigned long i;

	for (i = 0; i < KARENA_ARENA_PAGES; i++) {
		if (karena_page_real(frame->pages[i]))
			karena_page_put(heap, page_folio(frame->pages[i]),
					counted);
	}
	karena_frame_count(heap, 0, 0, -(long)frame->nr_pages);
	karena_frame_discard(frame);
}

/**
 * karena_arena_free() - Free the frame and the base that an arena had.
 * @heap: The heap. No process of it maps them any more.
 * @frame: The frame that the arena had.
 * @base: The base below it, or NULL.
 */
void karena_arena_free(struct karena_heap *heap, struct karena_frame *frame,
		       struct karena_frame *base)
{
	if (frame->folio) {
		karena_frame_count(heap, -1, 0, 0);
		karena_frame_put(heap, frame, true);
		return;
	}
	karena_frame_count(heap, 0, -1, 0);
	frame_free(heap, frame, !base);
	if (!base)
		return;
	atomic_long_dec(&heap->stats.based);
	karena_frame_put(heap, base, true);
}

/**
 * karena_arena_empty() - Remove frame and base from an arena.
 * @arena: The arena, with CHANGING and the family's lock held.
 */
void karena_arena_empty(struct karena_arena *arena)
{
	karena_arena_set_frame(arena, NULL);
	arena->base = NULL;
}

/**
 * karena_arena_count_volatile() - Count the arenas whose state words say VOLATILE.
 * @heap: The heap.
 *
 * Return: Their number, if the process has written correct state words.
 */
unsigned long karena_arena_count_volatile(struct karena_heap *heap)
{
	unsigned long number, i, count = 0;
	struct karena_chunk *chunk;
	u32 *state;

	xa_for_each(&heap->chunks, number, chunk) {
		for (i = 0; i < KARENA_CHUNK; i++) {
			state = karena_state(heap, number * KARENA_CHUNK + i);
			count += KARENA_STATE(READ_ONCE(*state)) == KARENA_VOLATILE;
		}
	}
	return count;
}

/* Drop all shared huge frames under one lock, because most frames of a child are shared. */
static void chunk_leave_shared(struct karena_heap *heap, struct karena_chunk *chunk)
{
	unsigned long i;

	spin_lock(&heap->family->lock);
	for (i = 0; i < KARENA_CHUNK; i++) {
		struct karena_frame *frame = chunk->arenas[i].frame;

		/*
		 * Neither reclaim nor a commit is at work in a heap that is being
		 * destroyed.
		 */
		WARN_ON_ONCE(test_bit(KARENA_ARENA_CHANGING, &chunk->arenas[i].flags));
		if (!frame || !frame->folio || frame->owners == 1)
			continue;
		frame->owners--;
		chunk->arenas[i].frame = NULL;
	}
	spin_unlock(&heap->family->lock);
}

/**
 * karena_arena_destroy_all() - Free all arenas of a heap, which no process maps any more.
 * @heap: The heap, without users, and a member of no group. Its own count of committed
 *	pages stays as it is until the heap is freed.
 */
void karena_arena_destroy_all(struct karena_heap *heap)
{
	struct karena_frame *frame, *base;
	struct karena_chunk *chunk;
	unsigned long number, i;

	karena_frame_count(heap, -atomic_long_read(&heap->stats.huge),
			   -atomic_long_read(&heap->stats.sparse), 0);
	xa_for_each(&heap->chunks, number, chunk) {
		chunk_leave_shared(heap, chunk);
		for (i = 0; i < KARENA_CHUNK; i++) {
			frame = chunk->arenas[i].frame;
			base = chunk->arenas[i].base;
			chunk->arenas[i].frame = NULL;
			chunk->arenas[i].base = NULL;
			chunk->arenas[i].tried_word = 0;
			if (frame && frame->folio)
				karena_frame_put(heap, frame, false);
			else if (frame)
				frame_free(heap, frame, false);
			if (base)
				karena_frame_put(heap, base, false);
		}
		kmem_cache_free(chunk_cache, chunk);
		cond_resched();
	}
	xa_destroy(&heap->chunks);
	karena_folio_abandon(heap);
}

/**
 * karena_arena_init() - Create the cache of arena structures.
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
 * karena_arena_exit() - Destroy the cache; no heap is left.
 */
void karena_arena_exit(void)
{
	kmem_cache_destroy(chunk_cache);
}
