// SPDX-License-Identifier: GPL-2.0
/*
 * Groups: a group has the heaps whose memory is charged to one memory cgroup. The kernel
 * calls reclaim for one cgroup and one NUMA node, and reclaim finds the heaps through the
 * group.
 *
 * The kernel calls a memcg-aware shrinker for a cgroup's own limit only if something is on
 * a memcg-aware list_lru there; else it starts its OOM killer. The slab page of the listed
 * object determines the cgroup and the node. So a group lists an object, the anchor, for
 * each node that it has memory on. The anchor is allocated on that node and charged to the
 * cgroup. When the cgroup is removed, the kernel moves the anchors to the list of its
 * parent.
 *
 * A heap becomes a member when it allocates its first frame for a cgroup, and stays one. A
 * clone becomes a member of all groups of the heap whose frames it shares.
 */
#include <linux/cgroup.h>
#include <linux/hashtable.h>
#include <linux/list_lru.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/nodemask.h>
#include <linux/slab.h>
#include <linux/wait_bit.h>
#include <linux/workqueue.h>

#include "compat.h"
#include "frame.h"

/* Least time between two reports to the members that memory is low. */
#define TELL_EVERY	(HZ / 4)

/**
 * struct karena_anchor - The object of a group that is on a list_lru.
 * @lru: Entry in the list of the cgroup and node of this structure's slab page.
 * @group: The group.
 */
struct karena_anchor {
	struct list_head lru;
	struct karena_group *group;
};

static DEFINE_SPINLOCK(groups_lock);
static DEFINE_HASHTABLE(group_table, 8);

static struct kmem_cache *anchor_cache;
static struct list_lru anchor_lru;
static struct workqueue_struct *reclaim_queue;

/* Unlike the structure of a cgroup, its number is never reused. */
static u64 memcg_number(struct mem_cgroup *memcg)
{
#ifdef CONFIG_MEMCG
	return memcg ? cgroup_id(memcg->css.cgroup) : 0;
#else
	return 0;
#endif
}

static void group_tell_work(struct work_struct *work);

/* groups_lock is held. */
static struct karena_group *group_find(u64 memcg)
{
	struct karena_group *group;

	hash_for_each_possible(group_table, group, hash, memcg) {
		if (group->memcg == memcg && refcount_inc_not_zero(&group->users))
			return group;
	}
	return NULL;
}

static struct karena_group *group_make(u64 memcg, gfp_t gfp)
{
	struct karena_group *group;

	group = kzalloc(struct_size(group, anchors, nr_node_ids), gfp);
	if (!group)
		return NULL;
	group->memcg = memcg;
	group->told = jiffies - TELL_EVERY;
	refcount_set(&group->users, 1);
	spin_lock_init(&group->lock);
	INIT_LIST_HEAD(&group->members);
	INIT_WORK(&group->tell_work, group_tell_work);
	return group;
}

/* Returns the group of a cgroup with a reference, or NULL. */
static struct karena_group *group_get(u64 memcg, gfp_t gfp)
{
	struct karena_group *group, *made = NULL;

	spin_lock(&groups_lock);
	group = group_find(memcg);
	spin_unlock(&groups_lock);
	if (!group)
		made = group_make(memcg, gfp);
	if (!made)
		return group;
	spin_lock(&groups_lock);
	group = group_find(memcg);
	if (!group) {
		hash_add(group_table, &made->hash, memcg);
		group = made;
		made = NULL;
	}
	spin_unlock(&groups_lock);
	kfree(made);
	return group;
}

/**
 * karena_group_put() - Drop a reference to a group.
 * @group: The group. Without a reference it is removed from the lists and freed.
 *
 * Context: Any process context, including reclaim.
 */
void karena_group_put(struct karena_group *group)
{
	bool last;
	int node;

	if (refcount_dec_not_one(&group->users))
		return;
	spin_lock(&groups_lock);
	last = refcount_dec_and_test(&group->users);
	if (last)
		hash_del(&group->hash);
	spin_unlock(&groups_lock);
	if (!last)
		return;
	for (node = 0; node < nr_node_ids; node++) {
		struct karena_anchor *anchor = group->anchors[node];

		if (!anchor)
			continue;
		list_lru_del_obj(&anchor_lru, &anchor->lru);
		kmem_cache_free(anchor_cache, anchor);
	}
	kfree(group);
}

/* Allocate an anchor, on its node if slab has memory there; charge the active cgroup. */
static struct karena_anchor *anchor_alloc(int node, gfp_t gfp)
{
	struct karena_anchor *anchor, *there;

	/* The first anchor of a cgroup allocates the cgroup's lists. */
	anchor = kmem_cache_alloc_lru(anchor_cache, &anchor_lru, gfp);
	if (!anchor || page_to_nid(virt_to_page(anchor)) == node)
		return anchor;
	there = kmem_cache_alloc_node(anchor_cache, gfp, node);
	if (!there)
		return anchor;
	kmem_cache_free(anchor_cache, anchor);
	return there;
}

/* Make the kernel call the shrinker for the group's cgroup and a node. */
static bool anchor_add(struct karena_group *group, int node, gfp_t gfp)
{
	struct karena_anchor *anchor;

	if (READ_ONCE(group->anchors[node]))
		return true;
	anchor = anchor_alloc(node, gfp);
	if (!anchor)
		return false;
	INIT_LIST_HEAD(&anchor->lru);
	anchor->group = group;
	if (cmpxchg(&group->anchors[node], NULL, anchor)) {
		kmem_cache_free(anchor_cache, anchor);
		return true;
	}
	/* Reclaim finds the group by its first anchor; the others only serve their nodes. */
	cmpxchg(&group->first, NULL, anchor);
	list_lru_add_obj(&anchor_lru, &anchor->lru);
	return true;
}

static struct karena_member *member_find(struct karena_heap *heap, u64 memcg)
{
	/* Pairs with member_add(). */
	struct karena_member *member = smp_load_acquire(&heap->groups.members);

	while (member && member->group->memcg != memcg)
		member = member->others;
	return member;
}

/* Make a heap a member. Takes over the reference to the group, unless it returns NULL. */
static struct karena_member *member_add(struct karena_heap *heap,
					struct karena_group *group, gfp_t gfp)
{
	struct karena_member *made = kzalloc(sizeof(*made), gfp), *member;

	if (!made)
		return NULL;
	made->heap = heap;
	made->group = group;
	spin_lock(&group->lock);
	member = member_find(heap, group->memcg);
	if (!member) {
		member = made;
		made = NULL;
		list_add_tail(&member->list, &group->members);
		group->nr_members++;
		/* Another thread may add the heap to another group. */
		do {
			member->others = READ_ONCE(heap->groups.members);
		} while (cmpxchg_release(&heap->groups.members, member->others, member) !=
			 member->others);
	}
	spin_unlock(&group->lock);
	if (made)
		karena_group_put(group);
	kfree(made);
	return member;
}

static struct karena_member *member_make(struct karena_heap *heap, u64 memcg, gfp_t gfp)
{
	struct karena_member *member = member_find(heap, memcg);
	struct karena_group *group;

	if (member)
		return member;
	group = group_get(memcg, gfp);
	if (!group)
		return NULL;
	member = member_add(heap, group, gfp);
	if (!member)
		karena_group_put(group);
	return member;
}

/**
 * karena_group_join() - Let reclaim find memory that a heap allocates.
 * @heap: The heap.
 * @memcg: The memory cgroup that is charged; it is the active one.
 * @node: The NUMA node of the memory.
 * @gfp: How to allocate the structures for this.
 * @group: Out: the group, which exists as long as the heap; NULL for a snapshot, from which
 *	reclaim frees nothing.
 *
 * Return: 0 or -ENOMEM.
 */
int karena_group_join(struct karena_heap *heap, struct mem_cgroup *memcg, int node,
		      gfp_t gfp, struct karena_group **group)
{
	struct karena_member *member;

	*group = NULL;
	if (test_bit(KARENA_HEAP_SNAPSHOT, &heap->flags))
		return 0;
	member = member_make(heap, memcg_number(memcg), gfp);
	if (member && anchor_add(member->group, node, gfp))
		*group = member->group;
	/* A clone works without a group: fork() cannot fail. */
	return *group || gfp & __GFP_NOFAIL ? 0 : -ENOMEM;
}

/**
 * karena_group_inherit() - Let reclaim find the frames that a clone gets.
 * @heap: The heap; its arenas do not change until the clone has their frames.
 * @clone: The clone, empty; not a snapshot.
 */
void karena_group_inherit(struct karena_heap *heap, struct karena_heap *clone)
{
	struct karena_member *member;

	/* Pairs with member_add(). */
	member = smp_load_acquire(&heap->groups.members);
	for (; member; member = member->others) {
		refcount_inc(&member->group->users);
		member_add(clone, member->group, KARENA_CLONE_GFP);
	}
}

/* Returns the next member, or NULL after the last. The group's lock is held. */
static struct karena_member *member_next(struct karena_member *member)
{
	struct karena_group *group = member->group;

	return list_is_last(&member->list, &group->members) ? NULL :
	       list_next_entry(member, list);
}

static struct karena_member *member_first(struct karena_group *group)
{
	return list_first_entry_or_null(&group->members, struct karena_member, list);
}

static void member_remove(struct karena_member *member)
{
	struct karena_group *group = member->group;

	spin_lock(&group->lock);
	if (group->next == member) {
		group->next = member_next(member);
		group->next_page = 0;
	}
	list_del_init(&member->list);
	group->nr_members--;
	spin_unlock(&group->lock);
}

/**
 * karena_group_leave() - Hide a heap from reclaim, and wait until reclaim has left it.
 * @heap: The heap, for which no thread allocates memory any more.
 */
void karena_group_leave(struct karena_heap *heap)
{
	struct karena_member *member, *others;

	for (member = heap->groups.members; member; member = member->others)
		member_remove(member);
	wait_var_event(&heap->groups.purges, !atomic_read(&heap->groups.purges));
	for (member = heap->groups.members; member; member = others) {
		others = member->others;
		karena_group_put(member->group);
		kfree(member);
	}
	heap->groups.members = NULL;
}

/**
 * karena_purge_get() - Keep a heap from being destroyed while reclaim works in it.
 * @heap: The heap, which is a member of a group whose lock is held, or is kept already.
 */
void karena_purge_get(struct karena_heap *heap)
{
	atomic_inc(&heap->groups.purges);
}

/**
 * karena_purge_put() - Let a heap be destroyed again.
 * @heap: The heap; it may be freed at once.
 */
void karena_purge_put(struct karena_heap *heap)
{
	if (atomic_dec_and_test(&heap->groups.purges))
		wake_up_var(&heap->groups.purges);
}

/* Look at a member whose heap is kept. Returns the page at which the look has stopped. */
static unsigned long member_look_at(struct karena_look *look,
				    struct karena_member *member, unsigned long page,
				    unsigned long end)
{
	struct karena_group *group = look->group;
	bool found = look->found;
	unsigned long stop;

	stop = look->pages(look, member->heap, page, end);
	spin_lock(&group->lock);
	/* The next look begins at @stop, or with look->stay where this one found something. */
	if (!list_empty(&member->list) && !(look->stay && found)) {
		group->next = member;
		group->next_page = look->stay && look->found ? page : stop;
	}
	spin_unlock(&group->lock);
	cond_resched();
	return stop;
}

/* Keep the heap of the next member instead; after the last member, that of the first. */
static struct karena_member *member_move_on(struct karena_group *group,
					    struct karena_member *member)
{
	struct karena_heap *heap = member->heap;

	spin_lock(&group->lock);
	member = list_empty(&member->list) ? NULL : member_next(member);
	member = member ?: member_first(group);
	if (member)
		karena_purge_get(member->heap);
	spin_unlock(&group->lock);
	karena_purge_put(heap);
	return member;
}

/**
 * karena_group_look() - Look at the members of a group, from where the last look ended.
 * @look: The group, and the function that looks at a member.
 *
 * While the function looks at a heap, the heap is kept and no lock is held.
 *
 * Return: True if all pages of all members have been looked at.
 */
bool karena_group_look(struct karena_look *look)
{
	struct karena_group *group = look->group;
	struct karena_member *member, *first;
	unsigned long page, first_page;
	bool again = false;

	spin_lock(&group->lock);
	first = group->next ?: member_first(group);
	first_page = group->next ? group->next_page : 0;
	member = first;
	page = first_page;
	if (member)
		karena_purge_get(member->heap);
	spin_unlock(&group->lock);
	while (member) {
		unsigned long end = again ? first_page :
					    karena_control_word_pages(member->heap);
		unsigned long stop = member_look_at(look, member, page, end);

		if (stop < end || again) {
			karena_purge_put(member->heap);
			return stop == end;
		}
		member = member_move_on(group, member);
		/* If @first has left the group, the look ends when it has seen enough. */
		again = member == first;
		page = 0;
	}
	return true;
}

/* Tell all members that memory is low. The work item has a reference to the group. */
static void group_tell_work(struct work_struct *work)
{
	struct karena_group *group = container_of(work, struct karena_group, tell_work);
	struct karena_member *member;
	unsigned long left;

	spin_lock(&group->lock);
	left = group->nr_members;
	member = member_first(group);
	if (member)
		karena_purge_get(member->heap);
	spin_unlock(&group->lock);
	for (; member && left; left--) {
		struct karena_heap *heap = member->heap;

		if (atomic_long_read(&heap->stats.huge) || atomic_long_read(&heap->stats.sparse))
			karena_pressure_raise(heap, KARENA_PRESSURE_SOME);
		member = member_move_on(group, member);
		cond_resched();
	}
	if (member)
		karena_purge_put(member->heap);
	karena_group_put(group);
}

/**
 * karena_group_tell() - Tell all members that memory is low.
 * @group: The group.
 *
 * Context: Any process context, including reclaim. A worker tells them, at most once in
 * TELL_EVERY.
 */
void karena_group_tell(struct karena_group *group)
{
	if (time_before(jiffies, READ_ONCE(group->told) + TELL_EVERY))
		return;
	WRITE_ONCE(group->told, jiffies);
	refcount_inc(&group->users);
	if (!queue_work(reclaim_queue, &group->tell_work))
		karena_group_put(group);
}

/* The groups that a walk of a cgroup's list has found. */
struct met {
	struct karena_group **groups;
	unsigned int nr;
};

static enum lru_status anchor_met(KARENA_LRU_ARGS)
{
	struct karena_anchor *anchor = container_of(item, struct karena_anchor, lru);
	struct karena_group *group = anchor->group;
	struct met *met = data;

	if (READ_ONCE(group->first) == anchor && met->nr < KARENA_GROUPS &&
	    refcount_inc_not_zero(&group->users))
		met->groups[met->nr++] = group;
	return LRU_ROTATE;
}

/**
 * karena_groups_get() - Find the groups for which the kernel has called reclaim.
 * @sc: The call.
 * @groups: Out: at most KARENA_GROUPS groups, each with a reference. There is more than one
 *	if child cgroups were removed; later calls find the remaining ones.
 * @nr: Out: the number of groups.
 *
 * If slab has no memory on an anchor's node, the anchor is on the list of another node. So
 * this walks the lists of all nodes.
 *
 * Return: False if all lists are empty.
 */
bool karena_groups_get(struct shrink_control *sc, struct karena_group **groups,
		       unsigned int *nr)
{
	struct met met = { .groups = groups };
	unsigned long left, all = 0;
	int node;

	for_each_node_state(node, N_NORMAL_MEMORY) {
		left = list_lru_count_one(&anchor_lru, node, sc->memcg);
		all += left;
		left = min_t(unsigned long, left, KARENA_GROUPS);
		if (left)
			list_lru_walk_one(&anchor_lru, node, sc->memcg, anchor_met, &met,
					  &left);
	}
	*nr = met.nr;
	return all;
}

/**
 * karena_groups_init() - Prepare for groups.
 * @shrinker: The shrinker that the kernel is to call for groups; registered on return.
 *
 * Return: 0 or a negative errno. The caller calls karena_groups_exit() even after an error.
 */
int karena_groups_init(struct shrinker *shrinker)
{
	anchor_cache = KMEM_CACHE(karena_anchor, SLAB_ACCOUNT);
	/* Reclaim needs this queue even when there is no memory for new workers. */
	reclaim_queue = alloc_workqueue("karena_reclaim", WQ_UNBOUND | WQ_MEM_RECLAIM, 0);
	if (!anchor_cache || !reclaim_queue)
		return -ENOMEM;
	return karena_shrinker_register(shrinker, &anchor_lru);
}

/**
 * karena_groups_exit() - Free the cache and the queue; no heap is left, and the shrinker is
 * unregistered.
 */
void karena_groups_exit(void)
{
	if (reclaim_queue)
		destroy_workqueue(reclaim_queue);
	list_lru_destroy(&anchor_lru);
	kmem_cache_destroy(anchor_cache);
}
