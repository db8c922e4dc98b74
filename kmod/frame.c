// SPDX-License-Identifier: GPL-2.0
/*
 * Frames: the physical memory behind arenas. The rules of a frame's references:
 *
 * - The arena's slot owns one. Every page table entry owns one and every pin (of
 *   direct I/O, of io_uring) its own; the core takes and drops these.
 * - A frame leaves its slot under the folio lock, is unmapped, and then our
 *   reference is dropped. Whoever still pins it keeps it: the last reference frees
 *   it, and no other owner gets it before.
 * - Nothing here uses a frame again. Whoever comes to do so must win
 *   folio_ref_freeze(folio, 1) first.
 */
#include <linux/gfp.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>

#include "karena.h"

atomic_long_t karena_nr_orphans;

/**
 * karena_frame_alloc() - Allocate a huge frame.
 * @heap: The heap that is to own it, whose memory cgroup is charged, whoever's
 *	fault it is.
 *
 * Context: May sleep. Reclaims and compacts, but never starts the OOM killer: the
 * order is a costly one.
 * Return: A zeroed folio with one reference, or NULL.
 */
struct folio *karena_frame_alloc(struct karena_heap *heap)
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
	return folio;
}

/**
 * karena_frame_free() - Drop the slot's reference to a frame.
 * @folio: A frame that no slot and no mapping has any more.
 */
void karena_frame_free(struct folio *folio)
{
	if (folio_ref_count(folio) != 1)
		atomic_long_inc(&karena_nr_orphans);
	folio_put(folio);
}
