// SPDX-License-Identifier: GPL-2.0
/*
 * Arenas: the slots of a window, and how a frame, huge or sparse, enters and leaves
 * one. What is special to sparse frames is in sparse.c. The rules of references are
 * in frame.c, those of the locks in karena.h.
 */
#include <linux/bitmap.h>
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/slab.h>
#include <linux/wait_bit.h>

#include "karena.h"
#include "trace.h"

static struct kmem_cache *arena_cache;

static struct karena_arena *arena_get(struct karena_heap *heap,
				      unsigned long index)
{
	struct karena_arena *arena = xa_load(&heap->arenas, index);
	int err;

	if (arena)
		return arena;
	arena = kmem_cache_zalloc(arena_cache, KARENA_GFP);
	if (!arena)
		return ERR_PTR(-ENOMEM);
	arena->heap = heap;
	arena->index = index;
	err = xa_insert(&heap->arenas, index, arena, KARENA_GFP);
	if (!err)
		return arena;
	kmem_cache_free(arena_cache, arena);
	/* Another commit of the same arena was faster. */
	return err == -EBUSY ? xa_load(&heap->arenas, index) : ERR_PTR(err);
}

static void arena_lock(struct karena_arena *arena)
{
	wait_on_bit_lock(&arena->flags, KARENA_ARENA_CHANGING,
			 TASK_UNINTERRUPTIBLE);
}

static void arena_unlock(struct karena_arena *arena)
{
	clear_and_wake_up_bit(KARENA_ARENA_CHANGING, &arena->flags);
}

/* With heap->lock held: the folio that one page of the arena is in, or NULL. */
static struct folio *arena_folio(struct karena_arena *arena, unsigned long page)
{
	struct page *small;

	lockdep_assert_held(&arena->heap->lock);
	if (arena->folio)
		return arena->folio;
	small = arena->pages ? arena->pages[page % KARENA_ARENA_PAGES] : NULL;
	return small ? page_folio(small) : NULL;
}

/*
 * What the state word says after a commit. A commit of single pages by madvise()
 * leaves it: the kernel does not know when the last of them has come.
 */
static void state_committed(struct karena_arena *arena, u32 committed)
{
	u32 *state = karena_state(arena->heap, arena->index);
	u32 word = READ_ONCE(*state);

	lockdep_assert_held(&arena->heap->lock);
	if (KARENA_STATE(word) <= KARENA_ACTIVE)
		cmpxchg(state, word, committed);
}

/* A charged, zeroed frame, or an ERR_PTR. */
static struct folio *huge_frame(struct karena_heap *heap, unsigned long index)
{
	int node = karena_frame_node(heap, index);
	struct folio *folio = karena_ready_take(heap, node, false);
	int err;

	if (folio)
		return folio;
	err = karena_charge(heap, KARENA_ARENA_PAGES);
	if (!err) {
		folio = karena_reserve_take(heap, node);
		if (!folio)
			folio = karena_frame_alloc(heap, KARENA_ARENA_ORDER,
						   node, KARENA_FRAME_GFP);
		/* Orphans that have come free are charged to its cgroup still. */
		if (!folio && karena_frame_reap(heap))
			folio = karena_frame_alloc(heap, KARENA_ARENA_ORDER,
						   node, KARENA_FRAME_GFP);
		if (!folio)
			karena_uncharge(heap, KARENA_ARENA_PAGES);
	}
	/* Better one of another node than none. */
	if (!folio)
		folio = karena_ready_take(heap, node, true);
	return folio ?: ERR_PTR(-ENOMEM);
}

/* With CHANGING held, on an arena without a frame. */
static int commit_huge(struct karena_arena *arena)
{
	struct karena_heap *heap = arena->heap;
	struct folio *folio = huge_frame(heap, arena->index);
	struct karena_anchor *anchor;

	if (IS_ERR(folio))
		return PTR_ERR(folio);
	anchor = karena_reclaim_anchor(heap, folio_nid(folio));
	if (!anchor) {
		karena_frame_free(heap, folio);
		return -ENOMEM;
	}
	/* Kernels from 6.12 on map no PMD for what lies beyond the file's end. */
	folio->index = arena->index << KARENA_ARENA_ORDER;
	atomic_long_inc(&heap->huge);
	atomic_long_inc(&karena_nr_huge);
	spin_lock(&heap->lock);
	WRITE_ONCE(arena->folio, folio);
	spin_unlock(&heap->lock);
	karena_reclaim_add(arena, anchor);
	karena_ready_committed(heap, folio_nid(folio));
	return 0;
}

/* With CHANGING held. */
static int arena_commit(struct karena_arena *arena, unsigned long first,
			unsigned long count, bool single)
{
	struct karena_heap *heap = arena->heap;
	int err = 0;

	if (!arena->folio && !arena->pages && count == KARENA_ARENA_PAGES)
		err = commit_huge(arena);
	else if (!arena->folio)
		err = karena_sparse_commit(arena, first, count);
	if (!err && !single) {
		spin_lock(&heap->lock);
		state_committed(arena, arena->folio ? KARENA_ACTIVE :
				       KARENA_ACTIVE | KARENA_SPARSE);
		spin_unlock(&heap->lock);
	}
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
 *
 * Context: May sleep.
 * Return: 0, also when another thread was faster; -ENOMEM without memory or at a
 * limit.
 */
int karena_arena_commit(struct karena_heap *heap, unsigned long page,
			unsigned long count, bool single)
{
	struct karena_arena *arena;
	int err;

	karena_sysfs_add(heap);
	arena = arena_get(heap, page / KARENA_ARENA_PAGES);
	if (IS_ERR(arena)) {
		err = PTR_ERR(arena);
	} else {
		arena_lock(arena);
		err = arena_commit(arena, page % KARENA_ARENA_PAGES, count, single);
		arena_unlock(arena);
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
	struct karena_arena *arena;
	bool has;

	arena = xa_load(&heap->arenas, page / KARENA_ARENA_PAGES);
	if (!arena)
		return false;
	spin_lock(&heap->lock);
	has = arena_folio(arena, page);
	spin_unlock(&heap->lock);
	return has;
}

/* With heap->lock held. */
static bool arena_frozen(struct karena_arena *arena)
{
	return test_bit(KARENA_ARENA_FROZEN, &arena->flags);
}

/* A reference to the folio that a page is in, or NULL; waits while it is frozen. */
static struct folio *arena_get_folio(struct karena_arena *arena, unsigned long page)
{
	struct karena_heap *heap = arena->heap;
	struct folio *folio;

	spin_lock(&heap->lock);
	while (arena_frozen(arena)) {
		spin_unlock(&heap->lock);
		wait_on_bit(&arena->flags, KARENA_ARENA_FROZEN,
			    TASK_UNINTERRUPTIBLE);
		spin_lock(&heap->lock);
	}
	folio = arena_folio(arena, page);
	if (folio)
		folio_get(folio);
	spin_unlock(&heap->lock);
	return folio;
}

/**
 * karena_arena_lock_folio() - Get hold of the memory of a page.
 * @heap: The heap.
 * @page: Which page of the window.
 *
 * Context: May sleep for the folio lock, and while the arena is frozen.
 * Return: The folio that the page is in, locked and with a reference for the caller,
 * and certain to stay the arena's until it is unlocked; NULL when the page is not
 * committed.
 */
struct folio *karena_arena_lock_folio(struct karena_heap *heap, unsigned long page)
{
	struct karena_arena *arena;
	struct folio *folio;
	bool still;

	arena = xa_load(&heap->arenas, page / KARENA_ARENA_PAGES);
	if (!arena)
		return NULL;
	while ((folio = arena_get_folio(arena, page))) {
		folio_lock(folio);
		spin_lock(&heap->lock);
		still = !arena_frozen(arena) && folio == arena_folio(arena, page);
		spin_unlock(&heap->lock);
		if (still)
			break;
		/* It was released, perhaps replaced, while we waited. */
		folio_unlock(folio);
		folio_put(folio);
	}
	return folio;
}

/**
 * karena_arena_unmap() - Unmap pages of an arena.
 * @arena: The arena.
 * @first: The first page.
 * @count: How many.
 *
 * Context: Takes the mapping's i_mmap_rwsem.
 */
void karena_arena_unmap(struct karena_arena *arena, unsigned long first,
			unsigned long count)
{
	loff_t page = arena->index * KARENA_ARENA_PAGES + first;

	unmap_mapping_range(arena->heap->mapping, page << PAGE_SHIFT,
			    count << PAGE_SHIFT, 1);
}

static void huge_free(struct karena_heap *heap, struct folio *folio)
{
	atomic_long_dec(&heap->huge);
	atomic_long_dec(&karena_nr_huge);
	karena_frame_free(heap, folio);
}

/* With CHANGING held. */
static void release_huge(struct karena_arena *arena)
{
	struct karena_heap *heap = arena->heap;
	struct folio *folio = arena->folio;

	/* Who has looked it up maps it before we unmap it. */
	karena_reclaim_remove(arena);
	folio_lock(folio);
	spin_lock(&heap->lock);
	WRITE_ONCE(arena->folio, NULL);
	spin_unlock(&heap->lock);
	folio_unlock(folio);
	karena_arena_unmap(arena, 0, KARENA_ARENA_PAGES);
	huge_free(heap, folio);
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

/* With CHANGING held. */
static void arena_release(struct karena_arena *arena, const unsigned long *gone)
{
	struct karena_heap *heap = arena->heap;
	bool all = bitmap_full(gone, KARENA_ARENA_PAGES);

	if (arena->pages)
		karena_sparse_release(arena, gone);
	else if (arena->folio && all)
		release_huge(arena);
	else if (arena->folio && !karena_sparse_demote(arena, gone))
		clear_pages_of(arena->folio, gone);
	if (all) {
		spin_lock(&heap->lock);
		WRITE_ONCE(*karena_state(heap, arena->index), KARENA_FREE);
		spin_unlock(&heap->lock);
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
	struct karena_arena *arena = xa_load(&heap->arenas, index);

	trace_karena_release(heap, index,
			     bitmap_weight(gone, KARENA_ARENA_PAGES));
	if (!arena) {
		/* Perhaps it was requested, and there was no memory for it. */
		if (bitmap_full(gone, KARENA_ARENA_PAGES))
			WRITE_ONCE(*karena_state(heap, index), KARENA_FREE);
		return;
	}
	arena_lock(arena);
	arena_release(arena, gone);
	arena_unlock(arena);
}

/* With CHANGING held. */
static bool arena_pinned(struct karena_arena *arena)
{
	return arena->folio ? folio_maybe_dma_pinned(arena->folio) :
	       karena_sparse_pinned(arena);
}

/*
 * Under the lock, because who looks into the slot takes a reference there: if the
 * slot's reference is the only one nobody uses the frame, or gets to.
 */
static unsigned long purge_huge(struct karena_arena *arena, struct list_head *folios)
{
	struct folio *folio = arena->folio;

	lockdep_assert_held(&arena->heap->lock);
	if (!folio_ref_freeze(folio, 1))
		return 0;
	WRITE_ONCE(arena->folio, NULL);
	folio_ref_unfreeze(folio, 1);
	list_add(&folio->lru, folios);
	return KARENA_ARENA_PAGES;
}

/* With CHANGING held, on an arena with a frame. */
static unsigned long arena_purge(struct karena_arena *arena, u32 word)
{
	struct karena_heap *heap = arena->heap;
	u32 *state = karena_state(heap, arena->index);
	bool huge = arena->folio;
	struct folio *folio, *next;
	unsigned long pages;
	LIST_HEAD(folios);

	/* Kinder than to take what a device is writing to. */
	if (arena_pinned(arena) || cmpxchg(state, word, KARENA_BUSY) != word)
		return 0;
	karena_arena_unmap(arena, 0, KARENA_ARENA_PAGES);
	spin_lock(&heap->lock);
	pages = huge ? purge_huge(arena, &folios) :
		       karena_sparse_purge(arena, &folios);
	cmpxchg(state, KARENA_BUSY, pages ? KARENA_FREE : word);
	spin_unlock(&heap->lock);
	if (pages)
		karena_reclaim_remove(arena);
	list_for_each_entry_safe(folio, next, &folios, lru) {
		list_del(&folio->lru);
		if (huge)
			huge_free(heap, folio);
		else
			karena_frame_free(heap, folio);
	}
	return pages;
}

/**
 * karena_arena_purge() - Take a volatile arena's frame, if nobody uses it.
 * @arena: The arena, on the list of reclaim or kept by heap->purges.
 * @word: Its state word, as it was when the arena was chosen.
 *
 * Context: Reclaim. Waits for nobody who allocates, and allocates nothing.
 * Return: How many pages came free; if any, the state word says FREE.
 */
unsigned long karena_arena_purge(struct karena_arena *arena, u32 word)
{
	unsigned long pages = 0;

	if (test_and_set_bit_lock(KARENA_ARENA_CHANGING, &arena->flags))
		return 0;
	if (arena->folio || arena->pages)
		pages = arena_purge(arena, word);
	arena_unlock(arena);
	return pages;
}

/**
 * karena_arena_hide_all() - Hide all arenas of a heap that goes from reclaim.
 * @heap: The heap.
 */
void karena_arena_hide_all(struct karena_heap *heap)
{
	struct karena_arena *arena;
	unsigned long index;

	xa_for_each(&heap->arenas, index, arena) {
		/* Reclaim may be at work on it, and removes it itself. */
		arena_lock(arena);
		karena_reclaim_remove(arena);
		arena_unlock(arena);
		cond_resched();
	}
}

/**
 * karena_arena_destroy_all() - Free what a heap has; nothing maps it any more.
 * @heap: The heap, hidden from reclaim and with no other user left.
 */
void karena_arena_destroy_all(struct karena_heap *heap)
{
	struct karena_arena *arena;
	unsigned long index;

	karena_reclaim_wait(heap);
	xa_for_each(&heap->arenas, index, arena) {
		if (arena->folio)
			huge_free(heap, arena->folio);
		karena_sparse_destroy(arena);
		kmem_cache_free(arena_cache, arena);
		cond_resched();
	}
	xa_destroy(&heap->arenas);
	karena_frame_abandon(heap);
}

/**
 * karena_arena_init() - Make the cache of arena structures.
 *
 * Return: 0 or -ENOMEM.
 */
int karena_arena_init(void)
{
	arena_cache = KMEM_CACHE(karena_arena, SLAB_ACCOUNT);
	return arena_cache ? 0 : -ENOMEM;
}

/**
 * karena_arena_exit() - Destroy it; no heap is left.
 */
void karena_arena_exit(void)
{
	kmem_cache_destroy(arena_cache);
}
