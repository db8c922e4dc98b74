// SPDX-License-Identifier: GPL-2.0
/*
 * Arenas: the slots of a window, and how a frame enters and leaves one. The rules
 * of the frame's references are in frame.c, those of the locks in karena.h.
 */
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/slab.h>
#include <linux/wait_bit.h>

#include "karena.h"

static struct kmem_cache *arena_cache;

static struct karena_arena *arena_get(struct karena_heap *heap,
				      unsigned long index)
{
	struct karena_arena *arena = xa_load(&heap->arenas, index);
	int err;

	if (arena)
		return arena;
	arena = karena_reclaim_arena_alloc(heap, arena_cache);
	if (!arena)
		return ERR_PTR(-ENOMEM);
	arena->heap = heap;
	arena->index = index;
	INIT_LIST_HEAD(&arena->lru);
	err = xa_insert(&heap->arenas, index, arena, KARENA_GFP);
	if (!err) {
		karena_reclaim_add(arena);
		return arena;
	}
	kmem_cache_free(arena_cache, arena);
	/* Another commit of the same arena was faster. */
	return err == -EBUSY ? xa_load(&heap->arenas, index) : ERR_PTR(err);
}

/* With COMMITTING held. */
static int arena_commit(struct karena_heap *heap, struct karena_arena *arena,
			unsigned long index)
{
	struct folio *folio;
	int err;

	if (READ_ONCE(arena->folio))
		return 0;
	err = karena_charge(heap, KARENA_ARENA_PAGES);
	if (err)
		return err;
	folio = karena_frame_alloc(heap, index);
	if (!folio) {
		karena_uncharge(heap, KARENA_ARENA_PAGES);
		return -ENOMEM;
	}
	spin_lock(&heap->lock);
	WRITE_ONCE(arena->folio, folio);
	cmpxchg(karena_state(heap, index), KARENA_REQUESTED, KARENA_ACTIVE);
	spin_unlock(&heap->lock);
	atomic_long_inc(&heap->huge);
	atomic_long_inc(&karena_nr_huge);
	return 0;
}

/**
 * karena_arena_commit() - Give an arena a frame.
 * @heap: The heap.
 * @index: Which arena of its window.
 *
 * The arena's state word must say REQUESTED; it says ACTIVE afterwards.
 *
 * Context: May sleep.
 * Return: 0, also when another thread was faster; -ENOMEM without memory or at a
 * limit; -ENXIO when nobody asked for the arena.
 */
int karena_arena_commit(struct karena_heap *heap, unsigned long index)
{
	struct karena_arena *arena;
	int err;

	/* The commit that has made it ACTIVE has installed its frame before. */
	if (smp_load_acquire(karena_state(heap, index)) != KARENA_REQUESTED) {
		arena = xa_load(&heap->arenas, index);
		return arena && READ_ONCE(arena->folio) ? 0 : -ENXIO;
	}
	karena_sysfs_add(heap);
	arena = arena_get(heap, index);
	if (IS_ERR(arena)) {
		err = PTR_ERR(arena);
	} else {
		wait_on_bit_lock(&arena->flags, KARENA_ARENA_COMMITTING,
				 TASK_UNINTERRUPTIBLE);
		err = arena_commit(heap, arena, index);
		clear_and_wake_up_bit(KARENA_ARENA_COMMITTING, &arena->flags);
	}
	if (err)
		atomic_long_inc(&heap->refused);
	return err;
}

/**
 * karena_arena_lock_folio() - Get hold of an arena's frame.
 * @heap: The heap.
 * @index: Which arena of its window.
 *
 * Context: May sleep for the folio lock.
 * Return: The frame, locked and with a reference for the caller, and certain to
 * stay the arena's until it is unlocked; NULL when the arena has none.
 */
struct folio *karena_arena_lock_folio(struct karena_heap *heap,
				      unsigned long index)
{
	struct karena_arena *arena = xa_load(&heap->arenas, index);
	struct folio *folio;

	if (!arena)
		return NULL;
	for (;;) {
		spin_lock(&heap->lock);
		folio = arena->folio;
		if (folio)
			folio_get(folio);
		spin_unlock(&heap->lock);
		if (!folio)
			return NULL;
		folio_lock(folio);
		if (folio == READ_ONCE(arena->folio))
			return folio;
		/* It was released, perhaps replaced, while we waited. */
		folio_unlock(folio);
		folio_put(folio);
	}
}

static void arena_unmap(struct karena_heap *heap, unsigned long index)
{
	unmap_mapping_range(heap->mapping, (loff_t)index << KARENA_ARENA_SHIFT,
			    KARENA_ARENA_SIZE, 1);
}

static void arena_uncommit(struct karena_heap *heap, struct folio *folio)
{
	atomic_long_dec(&heap->huge);
	atomic_long_dec(&karena_nr_huge);
	karena_frame_free(heap, folio);
}

/**
 * karena_arena_release() - Take an arena's frame away, if it has one.
 * @heap: The heap.
 * @index: Which arena of its window.
 *
 * The arena's state word says FREE afterwards.
 *
 * Context: May sleep; takes the mapping's i_mmap_rwsem.
 */
void karena_arena_release(struct karena_heap *heap, unsigned long index)
{
	struct folio *folio = karena_arena_lock_folio(heap, index);
	struct karena_arena *arena = xa_load(&heap->arenas, index);

	if (!folio) {
		spin_lock(&heap->lock);
		if (!arena || !arena->folio)
			WRITE_ONCE(*karena_state(heap, index), KARENA_FREE);
		spin_unlock(&heap->lock);
		return;
	}
	spin_lock(&heap->lock);
	WRITE_ONCE(arena->folio, NULL);
	WRITE_ONCE(*karena_state(heap, index), KARENA_FREE);
	spin_unlock(&heap->lock);
	folio_unlock(folio);
	arena_unmap(heap, index);
	folio_put(folio);	/* our own; the slot's is still there */
	arena_uncommit(heap, folio);
}

/* With the folio lock held: the frame is the arena's until it is unlocked. */
static bool purge_locked(struct karena_arena *arena, struct folio *folio, u32 word)
{
	struct karena_heap *heap = arena->heap;
	u32 *state = karena_state(heap, arena->index);
	bool frozen;

	/* Kinder than to take what a device is writing to. */
	if (folio != READ_ONCE(arena->folio) || folio_maybe_dma_pinned(folio))
		return false;
	if (cmpxchg(state, word, KARENA_BUSY) != word)
		return false;
	arena_unmap(heap, arena->index);
	/*
	 * The slot's reference and ours: nobody else has one, or gets one. Under
	 * the lock, because who looks into the slot takes a reference there.
	 */
	spin_lock(&heap->lock);
	frozen = folio_ref_freeze(folio, 2);
	if (frozen) {
		WRITE_ONCE(arena->folio, NULL);
		folio_ref_unfreeze(folio, 2);
	}
	cmpxchg(state, KARENA_BUSY, frozen ? KARENA_FREE : word);
	spin_unlock(&heap->lock);
	return frozen;
}

/**
 * karena_arena_purge() - Take a volatile arena's frame, if nobody uses it.
 * @arena: The arena, on the list of reclaim or kept by heap->purges.
 * @word: Its state word, as it was when the arena was chosen.
 *
 * Context: Reclaim. Waits for no folio lock and allocates nothing.
 * Return: Whether the frame is free; then the state word says FREE.
 */
bool karena_arena_purge(struct karena_arena *arena, u32 word)
{
	struct karena_heap *heap = arena->heap;
	struct folio *folio;
	bool purged;

	spin_lock(&heap->lock);
	folio = arena->folio;
	if (folio && !folio_trylock(folio))
		folio = NULL;
	if (folio)
		folio_get(folio);
	spin_unlock(&heap->lock);
	if (!folio)
		return false;

	purged = purge_locked(arena, folio, word);
	folio_unlock(folio);
	folio_put(folio);	/* our own; the slot's is still there */
	if (purged)
		arena_uncommit(heap, folio);
	return purged;
}

/**
 * karena_arena_destroy_all() - Free what a heap has; nothing maps it any more.
 * @heap: The heap, with no other user left.
 */
void karena_arena_destroy_all(struct karena_heap *heap)
{
	struct karena_arena *arena;
	unsigned long index;

	xa_for_each(&heap->arenas, index, arena)
		karena_reclaim_remove(arena);
	karena_reclaim_wait(heap);
	xa_for_each(&heap->arenas, index, arena) {
		if (arena->folio)
			arena_uncommit(heap, arena->folio);
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
