/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Frames: the physical memory of arenas, how reclaim finds it, and ready frames.
 */
#ifndef _KARENA_FRAME_H
#define _KARENA_FRAME_H

#include <linux/list.h>
#include <linux/mm_types.h>
#include <linux/refcount.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>

#include "folio.h"

struct karena_anchor;
struct shrink_control;
struct shrinker;

/**
 * struct karena_group - The heaps that have memory of one memory cgroup; see group.c.
 * @hash: Entry in the hash table of groups.
 * @memcg: The number of the cgroup.
 * @users: References of members and of reclaim at work.
 * @lock: Protects the members and the place of the next look. Innermost.
 * @members: A member for each heap.
 * @nr_members: The number of members.
 * @next: The member at which reclaim continues, or NULL for the first.
 * @next_page: The page of the state words of @next at which reclaim continues.
 * @in_vain: How many members reclaim has looked at since it last saw an unshared arena.
 * @tell_work: Tells the members that memory is low; holds a reference when it is queued.
 * @told: When the members were last told, in jiffies.
 * @first: The anchor by which reclaim finds the group.
 * @anchors: The anchor for each NUMA node, or NULL.
 */
struct karena_group {
	struct hlist_node hash;
	u64 memcg;
	refcount_t users;
	spinlock_t lock;	/* see above */
	struct list_head members;
	unsigned long nr_members;
	struct karena_member *next;
	unsigned long next_page;
	unsigned long in_vain;
	struct work_struct tell_work;
	unsigned long told;
	struct karena_anchor *first;
	struct karena_anchor *anchors[];
};

/**
 * struct karena_member - A heap in a group.
 * @list: Entry in the group's list; empty when the heap is about to be destroyed.
 * @group: The group.
 * @heap: The heap.
 * @others: The next membership of this heap, or NULL.
 */
struct karena_member {
	struct list_head list;
	struct karena_group *group;
	struct karena_heap *heap;
	struct karena_member *others;
};

/**
 * struct karena_look - A look of reclaim at a group.
 * @group: The group.
 * @pages: Looks at the pages of state words of a heap from page to end - 1. Returns the
 *	first page that it has not looked at, which is end unless it has seen enough.
 * @found: Set by @pages when it finds something to reclaim.
 * @stay: The next look begins where this one first found something.
 */
struct karena_look {
	struct karena_group *group;
	unsigned long (*pages)(struct karena_look *look, struct karena_heap *heap,
			       unsigned long page, unsigned long end);
	bool found;
	bool stay;
};

/* How many groups one call of the shrinker looks at. */
#define KARENA_GROUPS	16

/**
 * struct karena_frame - The physical memory of an arena.
 * @group: The group of the charged memory cgroup, only for comparisons. NULL in a snapshot.
 * @owners: The number of arenas that have this huge frame as frame or base. Only an arena
 *	that owns it alone writes to its pages.
 * @folio: A huge frame: the folio of order KARENA_ARENA_ORDER. All owners together own one
 *	reference. NULL when sparse.
 * @pages: A sparse frame: a pointer for each page. NULL where nothing is committed or, in
 *	an arena with a base, the base has the page. KARENA_ZERO where the base's page has
 *	been released. Other sparse frames may share a page, of order 0: page_private()
 *	counts the other owners, and all owners together own one reference. NULL when huge.
 * @nr_pages: The number of pages of a sparse frame.
 * @node: The NUMA node of the folio, or of the first page.
 * @used: A fault has found this huge frame; the family's lock protects it.
 */
struct karena_frame {
	struct karena_group *group;
	unsigned int owners;
	struct folio *folio;
	struct page **pages;
	unsigned int nr_pages;
	int node;
	bool used;
};

/* An entry of a sparse frame that reads as zeros, and has no page yet. */
#define KARENA_ZERO	ZERO_PAGE(0)

/* Returns true if an entry of a sparse frame is a page. */
static inline bool karena_page_real(const struct page *page)
{
	return page && page != KARENA_ZERO;
}

/**
 * struct karena_ready_node - A heap's ready frames on one NUMA node.
 * @folios: The frames.
 * @nr: The number of frames.
 * @wanted: How many the process wants.
 */
struct karena_ready_node {
	struct list_head folios;
	unsigned int nr;
	unsigned int wanted;
};

/**
 * struct karena_ready_frames - All ready frames of a heap.
 * @group: The group through which reclaim finds them.
 * @node: One for each possible node.
 */
struct karena_ready_frames {
	struct karena_group *group;
	struct karena_ready_node node[];
};

/* group.c */
int karena_group_join(struct karena_heap *heap, struct mem_cgroup *memcg, int node,
		      gfp_t gfp, struct karena_group **group);
void karena_group_inherit(struct karena_heap *heap, struct karena_heap *clone);
void karena_group_leave(struct karena_heap *heap);
void karena_group_put(struct karena_group *group);
bool karena_group_look(struct karena_look *look);
void karena_group_tell(struct karena_group *group);
bool karena_groups_get(struct shrink_control *sc, struct karena_group **groups,
		       unsigned int *nr);
void karena_purge_get(struct karena_heap *heap);
void karena_purge_put(struct karena_heap *heap);
int karena_groups_init(struct shrinker *shrinker);
void karena_groups_exit(void);

/* frame.c */
extern atomic_long_t karena_nr_huge;
extern atomic_long_t karena_nr_sparse;
extern atomic_long_t karena_nr_sparse_pages;
void karena_frame_count(struct karena_heap *heap, long huge, long sparse, long pages);
struct karena_frame *karena_frame_huge(struct karena_heap *heap, struct folio *folio);
struct karena_frame *karena_frame_sparse(struct karena_heap *heap, int node, gfp_t gfp);
void karena_frame_discard(struct karena_frame *frame);
bool karena_page_copy(struct page *to, struct page *from);
void karena_frame_put(struct karena_heap *heap, struct karena_frame *frame,
		      bool counted);
void karena_page_put(struct karena_heap *heap, struct folio *folio, bool counted);
int karena_frame_init(void);
void karena_frame_exit(void);

/* ready.c */
struct folio *karena_ready_take(struct karena_heap *heap, int node, bool any);
void karena_ready_fit(struct karena_heap *heap);
void karena_ready_committed(struct karena_heap *heap, int node);
struct folio *karena_ready_give_up(struct karena_heap *heap);
unsigned long karena_ready_drop(struct karena_heap *heap, unsigned long count,
				int node);
int karena_ready_call(struct karena_heap *heap, struct karena_ready *call);
void karena_ready_forget(struct karena_heap *heap);
void karena_ready_prepare(struct karena_heap *heap);
void karena_ready_stop(struct karena_heap *heap);
long karena_ready_total(void);
int karena_ready_init(void);
void karena_ready_exit(void);

#endif /* _KARENA_FRAME_H */
