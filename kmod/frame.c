// SPDX-License-Identifier: GPL-2.0
/*
 * Frames: the physical memory behind arenas, huge or sparse. After a fork, several arenas,
 * each in a different heap, own the same huge frame. Each arena has a sparse frame of its
 * own, but several sparse frames may own the same pages. The family's lock protects the
 * number of owners. No owner writes to a frame or page that has several owners.
 */
#include <linux/highmem.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "compat.h"
#include "frame.h"

static struct kmem_cache *frame_cache;

atomic_long_t karena_nr_huge;
atomic_long_t karena_nr_sparse;
atomic_long_t karena_nr_sparse_pages;

/**
 * karena_frame_count() - Count arenas and pages in the statistics.
 * @heap: The heap.
 * @huge: Change of the number of arenas with a huge frame.
 * @sparse: Change of the number of arenas with a sparse frame.
 * @pages: Change of the number of pages of sparse frames.
 */
void karena_frame_count(struct karena_heap *heap, long huge, long sparse, long pages)
{
	if (huge) {
		atomic_long_add(huge, &heap->stats.huge);
		atomic_long_add(huge, &karena_nr_huge);
	}
	if (sparse) {
		atomic_long_add(sparse, &heap->stats.sparse);
		atomic_long_add(sparse, &karena_nr_sparse);
	}
	if (pages) {
		atomic_long_add(pages, &heap->stats.sparse_pages);
		atomic_long_add(pages, &karena_nr_sparse_pages);
	}
}

/* Allocate the structure, charged to the same memory cgroup as the memory of the frame. */
static struct karena_frame *frame_alloc(struct karena_heap *heap, int node, gfp_t gfp)
{
	struct mem_cgroup *memcg = karena_folio_memcg(heap), *old;
	struct karena_frame *frame = NULL;
	struct karena_group *group;

	old = set_active_memcg(memcg);
	if (!karena_group_join(heap, memcg, node, gfp, &group))
		frame = kmem_cache_zalloc(frame_cache, gfp);
	set_active_memcg(old);
	mem_cgroup_put(memcg);
	if (frame) {
		frame->group = group;
		frame->node = node;
	}
	return frame;
}

/**
 * karena_frame_huge() - Make a huge frame.
 * @heap: The heap.
 * @folio: Its folio, which the frame owns from now on.
 *
 * Return: The frame, without an owner, or NULL.
 */
struct karena_frame *karena_frame_huge(struct karena_heap *heap, struct folio *folio)
{
	struct karena_frame *frame;

	frame = frame_alloc(heap, folio_nid(folio), KARENA_GFP);
	if (frame)
		frame->folio = folio;
	return frame;
}

/**
 * karena_frame_sparse() - Make a sparse frame.
 * @heap: The heap.
 * @node: The node of its pages, or NUMA_NO_NODE.
 * @gfp: How to allocate it.
 *
 * Return: The frame, without a page and an owner, or NULL.
 */
struct karena_frame *karena_frame_sparse(struct karena_heap *heap, int node, gfp_t gfp)
{
	struct karena_frame *frame;
	struct page **pages;

	pages = kcalloc(KARENA_ARENA_PAGES, sizeof(*pages), gfp);
	if (!pages)
		return NULL;
	if (node == NUMA_NO_NODE)
		node = numa_mem_id();
	frame = frame_alloc(heap, node, gfp);
	if (!frame) {
		kfree(pages);
		return NULL;
	}
	frame->pages = pages;
	return frame;
}

/**
 * karena_frame_discard() - Free the structure of a frame that no arena has.
 * @frame: The frame; the caller owns its folio or pages.
 */
void karena_frame_discard(struct karena_frame *frame)
{
	WARN_ON_ONCE(frame->owners);
	kfree(frame->pages);
	kmem_cache_free(frame_cache, frame);
}

/**
 * karena_page_copy() - Copy a page of a frame.
 * @to: The copy, which no process has mapped.
 * @from: The page, or KARENA_ZERO. No process writes to it.
 *
 * Return: False if the hardware could not read @from; the core has been told.
 */
bool karena_page_copy(struct page *to, struct page *from)
{
	if (from == KARENA_ZERO) {
		clear_highpage(to);
		return true;
	}
	return !PageHWPoison(from) && karena_copy_page(to, from);
}

/**
 * karena_frame_put() - Drop an arena's ownership of a huge frame.
 * @heap: The arena's heap. The frame has left the arena, and no process of the heap maps
 *	it.
 * @frame: The frame. Without an owner it is freed.
 * @counted: The heap counts it as committed.
 */
void karena_frame_put(struct karena_heap *heap, struct karena_frame *frame,
		      bool counted)
{
	struct folio *folio = frame->folio;
	bool last;

	spin_lock(&heap->family->lock);
	WARN_ON_ONCE(!frame->owners);
	last = !--frame->owners;
	spin_unlock(&heap->family->lock);
	if (last) {
		karena_frame_discard(frame);
		karena_folio_free(heap, folio, counted);
	} else if (counted) {
		karena_charge_heap(heap, -(long)KARENA_ARENA_PAGES);
	}
}

/**
 * karena_page_put() - Drop a sparse frame's ownership of a page.
 * @heap: The frame's heap. The page has left the frame, and no process of the heap maps it.
 * @folio: The page. Without an owner it is freed.
 * @counted: The heap counts it as committed.
 */
void karena_page_put(struct karena_heap *heap, struct folio *folio, bool counted)
{
	struct page *page = folio_page(folio, 0);
	bool last;

	spin_lock(&heap->family->lock);
	last = !page_private(page);
	if (!last)
		set_page_private(page, page_private(page) - 1);
	spin_unlock(&heap->family->lock);
	if (last)
		karena_folio_free(heap, folio, counted);
	else if (counted)
		karena_charge_heap(heap, -1);
}

/**
 * karena_frame_init() - Create the cache of frame structures.
 *
 * Return: 0 or -ENOMEM.
 */
int karena_frame_init(void)
{
	frame_cache = KMEM_CACHE(karena_frame, SLAB_ACCOUNT);
	return frame_cache ? 0 : -ENOMEM;
}

/**
 * karena_frame_exit() - Destroy the cache; no heap is left.
 */
void karena_frame_exit(void)
{
	kmem_cache_destroy(frame_cache);
}
