// SPDX-License-Identifier: GPL-2.0
/*
 * Frames: the physical memory behind arenas. The rules of a frame's references:
 *
 * - The arena's slot owns one. Every page table entry owns one and every pin (of
 *   direct I/O, of io_uring) its own; the core takes and drops these.
 * - A frame leaves its slot under the folio lock, is unmapped, and is freed when
 *   the slot's reference is the only one left. Else somebody pins it and keeps it:
 *   it becomes an orphan, on a list and still charged, until they let go. So pins
 *   do not evade a limit, and no other owner gets the frame before.
 * - Nothing here uses a frame again. Whoever comes to do so must win
 *   folio_ref_freeze(folio, 1) first.
 */
#include <linux/gfp.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>

#include "karena.h"

static atomic_long_t nr_orphans;

/* The orphans of heaps that are gone. */
static LIST_HEAD(abandoned);
static DEFINE_SPINLOCK(abandoned_lock);

/**
 * karena_frame_alloc() - Allocate a huge frame.
 * @heap: The heap that is to own it, whose memory cgroup is charged, whoever's
 *	fault it is.
 * @index: For which arena of its window.
 *
 * Context: May sleep. Reclaims and compacts, but never starts the OOM killer: the
 * order is a costly one.
 * Return: A zeroed folio with one reference, or NULL.
 */
struct folio *karena_frame_alloc(struct karena_heap *heap, unsigned long index)
{
	struct mem_cgroup *memcg = get_mem_cgroup_from_mm(heap->mm);
	struct mem_cgroup *old = set_active_memcg(memcg);
	struct folio *folio;

	/* __GFP_ZERO clears once, whether or not init_on_alloc is on. */
	folio = folio_alloc(GFP_HIGHUSER | __GFP_ACCOUNT | __GFP_ZERO |
			    __GFP_RETRY_MAYFAIL | __GFP_NOWARN,
			    KARENA_ARENA_ORDER);
	set_active_memcg(old);
	mem_cgroup_put(memcg);
	/* Kernels from 6.12 on map no PMD for what lies beyond the file's end. */
	if (folio)
		folio->index = index << KARENA_ARENA_ORDER;
	return folio;
}

/**
 * karena_frame_free() - Drop the slot's reference to a frame.
 * @heap: The heap, which is uncharged once the frame is free.
 * @folio: A frame that no slot and no mapping has any more.
 */
void karena_frame_free(struct karena_heap *heap, struct folio *folio)
{
	if (folio_ref_count(folio) == 1) {
		folio_put(folio);
		karena_uncharge(heap, KARENA_ARENA_PAGES);
		return;
	}
	spin_lock(&heap->lock);
	list_add_tail(&folio->lru, &heap->orphans);
	spin_unlock(&heap->lock);
	atomic_long_inc(&nr_orphans);
}

/* Move the orphans that nobody pins any more to a list; the lock is held. */
static void collect_orphans(struct list_head *orphans, struct list_head *free)
{
	struct folio *folio, *next;

	list_for_each_entry_safe(folio, next, orphans, lru) {
		if (folio_ref_count(folio) == 1)
			list_move(&folio->lru, free);
	}
}

static void free_orphans(struct karena_heap *heap, struct list_head *free)
{
	struct folio *folio, *next;

	list_for_each_entry_safe(folio, next, free, lru) {
		list_del(&folio->lru);
		atomic_long_dec(&nr_orphans);
		folio_put(folio);
		karena_uncharge(heap, KARENA_ARENA_PAGES);
	}
}

/**
 * karena_frame_reap() - Free the orphans that nobody pins any more.
 * @heap: Whose, beside those of heaps that are gone; NULL: only these.
 */
void karena_frame_reap(struct karena_heap *heap)
{
	LIST_HEAD(free);

	if (heap && !list_empty(&heap->orphans)) {
		spin_lock(&heap->lock);
		collect_orphans(&heap->orphans, &free);
		spin_unlock(&heap->lock);
		free_orphans(heap, &free);
	}
	if (!list_empty(&abandoned)) {
		spin_lock(&abandoned_lock);
		collect_orphans(&abandoned, &free);
		spin_unlock(&abandoned_lock);
		free_orphans(NULL, &free);
	}
}

/**
 * karena_frame_abandon() - Keep the orphans of a heap that goes.
 * @heap: The heap, with no other user left.
 */
void karena_frame_abandon(struct karena_heap *heap)
{
	spin_lock(&abandoned_lock);
	list_splice_tail_init(&heap->orphans, &abandoned);
	spin_unlock(&abandoned_lock);
	karena_frame_reap(NULL);
}

/**
 * karena_frame_orphans() - How many frames are held by pins alone.
 *
 * Return: Their number; of heaps that live, it may count some that have come free
 * since the heap's last commit or release.
 */
long karena_frame_orphans(void)
{
	karena_frame_reap(NULL);
	return atomic_long_read(&nr_orphans);
}

/**
 * karena_frame_exit() - Leave the last orphans to those who pin them.
 */
void karena_frame_exit(void)
{
	free_orphans(NULL, &abandoned);
}
