// SPDX-License-Identifier: GPL-2.0
/*
 * Folios: the memory of frames, of 2 MiB or of one page. The rules of a folio's references:
 *
 * - All arenas that own a folio have one reference together; frame.c counts these arenas.
 *   Every page table entry and every pin (of direct I/O, of io_uring) has a reference of
 *   its own. The core gets and drops these references.
 * - The module removes a folio from its arena by the rules of base.h, and unmaps it. When
 *   the last arena has dropped the folio, the module frees it if no other reference is
 *   left. Else the folio is pinned and becomes an orphan: it stays on a list, and stays
 *   charged, until the pins are dropped. So pins do not evade a limit (without the charge,
 *   one pipe kept 500 MiB of a heap with a limit of 32 MiB), and no other owner gets the
 *   folio before.
 * - Reclaim, demotion and promotion unmap a folio, and then fail unless
 *   folio_ref_freeze(folio, 1) succeeds. No owner writes to a folio that several arenas
 *   own, so a thread can copy it under its lock.
 * - The module never reuses a folio.
 */
#include <linux/cpuset.h>
#include <linux/gfp.h>
#include <linux/memcontrol.h>
#include <linux/mempolicy.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/sched/mm.h>
#include <linux/workqueue.h>

#include "compat.h"
#include "folio.h"

/* An orphan counts until it is uncharged. */
static atomic_long_t nr_orphans;

/* Huge frames that are never freed. */
static atomic_long_t nr_poisoned;

/* How often the module looks at orphans: the core does not report that a pin is dropped. */
#define REAP_EVERY	HZ

static void abandoned_work_fn(struct work_struct *work);
static DECLARE_DELAYED_WORK(abandoned_work, abandoned_work_fn);

/* Most orphans to look at with a lock held. */
#define REAP_SLICE	64

/* How often a refused commit waits for orphans, 10 ms each time. */
#define MOST_WAITS	5

/* The orphans of destroyed heaps. */
static LIST_HEAD(abandoned);
static unsigned long nr_abandoned;
static DEFINE_SPINLOCK(abandoned_lock);

/**
 * karena_folio_node() - Choose the NUMA node of an arena's memory.
 * @heap: The heap.
 * @index: The arena's number in the window.
 *
 * Return: The node, or NUMA_NO_NODE when the committing thread's policy decides.
 */
int karena_folio_node(const struct karena_heap *heap, unsigned long index)
{
	int node, place;

	if (heap->policy == KARENA_POLICY_DEFAULT)
		return NUMA_NO_NODE;
	if (heap->policy != KARENA_POLICY_INTERLEAVE)
		return heap->node;
	place = index % num_node_state(N_MEMORY);
	for_each_node_state(node, N_MEMORY) {
		if (!place--)
			return node;
	}
	/* A node has gone offline. */
	return first_memory_node;
}

#ifdef CONFIG_NUMA
static int policy_find_node(struct mempolicy *policy, int local)
{
	switch (policy->mode) {
	case MPOL_LOCAL:
		return local;
	case MPOL_BIND:
	case MPOL_PREFERRED:
		return node_isset(local, policy->nodes) ? local :
		       first_node(policy->nodes);
	default:
		return NUMA_NO_NODE;
	}
}
#endif

/**
 * karena_folio_local_node() - Find the node of the current thread's memory.
 *
 * Return: The node, or NUMA_NO_NODE if its policy names no single node.
 */
int karena_folio_local_node(void)
{
	int node = numa_mem_id();

#ifdef CONFIG_NUMA
	if (current->mempolicy)
		node = policy_find_node(current->mempolicy, node);
#endif
	return karena_folio_node_allowed(node) ? node : NUMA_NO_NODE;
}

/**
 * karena_folio_node_allowed() - Ask whether the current thread may have a node's memory.
 * @node: Any number.
 *
 * Return: True if it is a node with memory that the thread's cpuset allows.
 */
bool karena_folio_node_allowed(int node)
{
	return node >= 0 && node < nr_node_ids && node_state(node, N_MEMORY) &&
	       node_isset(node, cpuset_current_mems_allowed);
}

/**
 * karena_folio_memcg() - Find the memory cgroup to charge for a heap.
 * @heap: The heap.
 *
 * This is the cgroup of the heap's own process, whichever process faults. It is the cgroup
 * of the current process if several processes drive the heap, if the heap's process has
 * ended, and for a snapshot, in which only readers fill released pages.
 *
 * Return: The memory cgroup, with a reference.
 */
struct mem_cgroup *karena_folio_memcg(struct karena_heap *heap)
{
	struct mm_struct *mm = heap->mm;

	/* During fork() the child is not yet in a cgroup; a dead mm no longer is. */
	if ((heap->fork == KARENA_FORK_SHARE || !atomic_read(&mm->mm_users) ||
	     test_bit(KARENA_HEAP_CLONING, &heap->flags) ||
	     test_bit(KARENA_HEAP_SNAPSHOT, &heap->flags)) && current->mm)
		mm = current->mm;
	return get_mem_cgroup_from_mm(mm);
}

/**
 * karena_folio_alloc() - Allocate the folio of a huge frame, or a page of a sparse one.
 * @heap: The heap that is to own it.
 * @order: KARENA_ARENA_ORDER or 0.
 * @node: The node, or NUMA_NO_NODE.
 * @gfp: KARENA_FRAME_GFP, or a part of it.
 *
 * Return: A folio with one reference, or NULL.
 */
struct folio *karena_folio_alloc(struct karena_heap *heap, unsigned int order,
				 int node, gfp_t gfp)
{
	struct mem_cgroup *memcg = karena_folio_memcg(heap);
	struct mem_cgroup *old = set_active_memcg(memcg);
	struct folio *folio;

	/* A copy may come from any node, and a clone that is being made gets only copies. */
	if (heap->policy == KARENA_POLICY_BIND &&
	    !test_bit(KARENA_HEAP_CLONING, &heap->flags) &&
	    gfp & (__GFP_RETRY_MAYFAIL | __GFP_NORETRY))
		gfp |= __GFP_THISNODE;
	if (node == NUMA_NO_NODE)
		folio = folio_alloc(gfp, order);
	else
		folio = __folio_alloc_node(gfp, order, node);
	set_active_memcg(old);
	mem_cgroup_put(memcg);
	return folio;
}

/**
 * karena_folio_bad() - Ask whether the hardware has reported a page of a folio as bad.
 * @folio: The folio.
 *
 * memory_failure() marks only the page, because it does not know these folios.
 *
 * Return: True if a page is bad.
 */
bool karena_folio_bad(struct folio *folio)
{
	long i;

	if (!karena_memory_failed())
		return false;
	for (i = 0; i < folio_nr_pages(folio); i++) {
		if (PageHWPoison(folio_page(folio, i)))
			return true;
	}
	return false;
}

/**
 * karena_folio_put() - Drop the last reference to a folio.
 * @folio: The folio.
 *
 * The page allocator never allocates a bad page of order 0 again, but would do so with a
 * bad page within a huge folio. So the module never frees such a folio, which stays charged
 * to its memory cgroup.
 */
void karena_folio_put(struct folio *folio)
{
	karena_key_clear(folio);
	if (folio_test_large(folio) && karena_folio_bad(folio)) {
		atomic_long_inc(&nr_poisoned);
		pr_warn("karena: keep a frame from use after a memory failure: pages %#lx to %#lx\n",
			folio_pfn(folio), folio_pfn(folio) + folio_nr_pages(folio) - 1);
		return;
	}
	folio_put(folio);
}

/**
 * karena_folio_free() - Drop the last arena's reference to a folio.
 * @heap: The heap of that arena.
 * @folio: The folio, which no arena and no mapping has any more.
 * @counted: The heap counts the folio as committed, and is uncharged once the folio is
 *	free. An orphan is always counted.
 */
void karena_folio_free(struct karena_heap *heap, struct folio *folio, bool counted)
{
	long pages = folio_nr_pages(folio);

	if (folio_ref_count(folio) == 1) {
		karena_folio_put(folio);
		if (counted)
			karena_charge_heap(heap, -pages);
		karena_charge_all(-pages);
		return;
	}
	karena_key_clear(folio);
	if (!counted)
		karena_charge_heap(heap, pages);
	atomic_long_inc(&nr_orphans);
	spin_lock(&heap->family->lock);
	list_add_tail(&folio->lru, &heap->orphans.folios);
	WRITE_ONCE(heap->orphans.nr, heap->orphans.nr + 1);
	spin_unlock(&heap->family->lock);
	queue_delayed_work(karena_workqueue, &heap->orphans.work, REAP_EVERY);
}

/*
 * Look at some orphans, with their lock held. Move those without a pin to @free, and the
 * others to the end of @orphans. Returns the number moved to @free.
 */
static unsigned long orphans_collect(struct list_head *orphans, struct list_head *free)
{
	struct folio *folio, *next;
	unsigned long seen = 0, moved = 0;
	LIST_HEAD(pinned);

	list_for_each_entry_safe(folio, next, orphans, lru) {
		if (seen++ == REAP_SLICE)
			break;
		if (folio_ref_count(folio) == 1) {
			list_move(&folio->lru, free);
			moved++;
		} else {
			list_move_tail(&folio->lru, &pinned);
		}
	}
	list_splice_tail(&pinned, orphans);
	return moved;
}

static void orphans_free(struct karena_heap *heap, struct list_head *free)
{
	struct folio *folio, *next;

	list_for_each_entry_safe(folio, next, free, lru) {
		long pages = folio_nr_pages(folio);

		list_del(&folio->lru);
		karena_folio_put(folio);
		if (heap)
			karena_charge_heap(heap, -pages);
		karena_charge_all(-pages);
		/* A thread that sees the lower count also sees the folio uncharged. */
		atomic_long_fetch_dec_release(&nr_orphans);
	}
}

/* Free some orphans. Returns their number. heap->orphans.reaping is held. */
static unsigned long heap_reap_slice(struct karena_heap *heap)
{
	unsigned long moved;
	LIST_HEAD(free);

	spin_lock(&heap->family->lock);
	moved = orphans_collect(&heap->orphans.folios, &free);
	WRITE_ONCE(heap->orphans.nr, heap->orphans.nr - moved);
	spin_unlock(&heap->family->lock);
	orphans_free(heap, &free);
	return moved;
}

/**
 * karena_folio_reap_some() - Look at some of a heap's orphans, and free unpinned ones.
 * @heap: The heap, which has released something.
 *
 * Context: May sleep. Returns at once if another thread is freeing orphans.
 */
void karena_folio_reap_some(struct karena_heap *heap)
{
	if (!READ_ONCE(heap->orphans.nr) || !mutex_trylock(&heap->orphans.reaping))
		return;
	heap_reap_slice(heap);
	mutex_unlock(&heap->orphans.reaping);
}

/*
 * Free all of a heap's orphans that are no longer pinned. Waits for another thread that
 * frees orphans, as they are charged until they are free. Returns true if any were freed,
 * or another thread may have freed some.
 */
static bool heap_reap(struct karena_heap *heap)
{
	bool any = false;
	long left;

	if (!mutex_trylock(&heap->orphans.reaping)) {
		mutex_lock(&heap->orphans.reaping);
		any = true;
	}
	for (left = READ_ONCE(heap->orphans.nr); left > 0; left -= REAP_SLICE) {
		any |= heap_reap_slice(heap);
		cond_resched();
	}
	mutex_unlock(&heap->orphans.reaping);
	return any;
}

/* Free some orphans of destroyed heaps. Returns true if any were freed. */
static bool abandoned_reap(void)
{
	unsigned long moved;
	LIST_HEAD(free);

	if (!READ_ONCE(nr_abandoned))
		return false;
	spin_lock(&abandoned_lock);
	moved = orphans_collect(&abandoned, &free);
	WRITE_ONCE(nr_abandoned, nr_abandoned - moved);
	spin_unlock(&abandoned_lock);
	orphans_free(NULL, &free);
	return moved;
}

/**
 * karena_folio_reap() - Free orphans that are no longer pinned, to make room.
 * @heap: The heap that needs the room. This frees all of its unpinned orphans, and some of
 *	destroyed heaps.
 *
 * Context: May sleep until another thread has freed orphans.
 * Return: True if any were freed, or another thread may have freed some.
 */
bool karena_folio_reap(struct karena_heap *heap)
{
	bool any = heap_reap(heap);

	return abandoned_reap() || any;
}

/* Returns true if one of the first orphans is not pinned by a device. */
static bool heap_has_passing(struct karena_heap *heap)
{
	struct folio *folio;
	unsigned int seen = 0;
	bool any = false;

	spin_lock(&heap->family->lock);
	list_for_each_entry(folio, &heap->orphans.folios, lru) {
		any = !folio_maybe_dma_pinned(folio);
		if (any || ++seen == REAP_SLICE)
			break;
	}
	spin_unlock(&heap->family->lock);
	return any;
}

/**
 * karena_folio_passing() - Ask whether waiting for orphans may help.
 * @heap: The heap.
 *
 * A fault, even one of another process, has a reference to a page until it returns, which
 * may be after the page has left its arena. No commit waits for pins of devices. For a
 * second after a wait that freed nothing, no commit waits at all, so a list of refused
 * ranges waits only once.
 *
 * Return: True if karena_folio_wait() may help.
 */
bool karena_folio_passing(struct karena_heap *heap)
{
	return READ_ONCE(heap->orphans.nr) && heap_has_passing(heap) &&
	       time_after_eq(jiffies, READ_ONCE(heap->orphans.wait_after));
}

/**
 * karena_folio_wait() - Wait until orphans can be freed.
 * @heap: The heap, of which the caller is a user.
 *
 * Context: Sleeps for about 50 ms at most. No lock is held.
 */
void karena_folio_wait(struct karena_heap *heap)
{
	int waits;

	for (waits = 0; waits < MOST_WAITS; waits++) {
		if (heap_reap(heap) || fatal_signal_pending(current) ||
		    !heap_has_passing(heap))
			return;
		schedule_timeout_killable(msecs_to_jiffies(10));
	}
	if (!heap_reap(heap))
		WRITE_ONCE(heap->orphans.wait_after, jiffies + HZ);
}

static void heap_orphan_work(struct work_struct *work)
{
	struct karena_heap *heap = container_of(work, struct karena_heap,
						orphans.work.work);

	heap_reap(heap);
	if (!list_empty(&heap->orphans.folios))
		queue_delayed_work(karena_workqueue, &heap->orphans.work,
				   REAP_EVERY);
}

static void abandoned_work_fn(struct work_struct *work)
{
	long left;

	for (left = READ_ONCE(nr_abandoned); left > 0; left -= REAP_SLICE) {
		abandoned_reap();
		cond_resched();
	}
	if (READ_ONCE(nr_abandoned))
		queue_delayed_work(karena_workqueue, &abandoned_work, REAP_EVERY);
}

/**
 * karena_folio_prepare() - Prepare a new heap for orphans.
 * @heap: The heap.
 */
void karena_folio_prepare(struct karena_heap *heap)
{
	INIT_LIST_HEAD(&heap->orphans.folios);
	mutex_init(&heap->orphans.reaping);
	heap->orphans.wait_after = jiffies;
	INIT_DELAYED_WORK(&heap->orphans.work, heap_orphan_work);
}

/**
 * karena_folio_abandon() - Keep the orphans of a heap that is being destroyed.
 * @heap: The heap, with no other user left.
 */
void karena_folio_abandon(struct karena_heap *heap)
{
	cancel_delayed_work_sync(&heap->orphans.work);
	if (list_empty(&heap->orphans.folios))
		return;
	spin_lock(&abandoned_lock);
	list_splice_tail_init(&heap->orphans.folios, &abandoned);
	WRITE_ONCE(nr_abandoned, nr_abandoned + heap->orphans.nr);
	spin_unlock(&abandoned_lock);
	queue_delayed_work(karena_workqueue, &abandoned_work, 0);
}

/**
 * karena_folio_orphans() - Count the folios that only pins hold.
 *
 * Return: Their number, perhaps with some that were unpinned in the last second.
 */
long karena_folio_orphans(void)
{
	return atomic_long_read(&nr_orphans);
}

/**
 * karena_folio_poisoned() - Count the huge frames that are never freed.
 *
 * Return: Their number since the module was loaded.
 */
long karena_folio_poisoned(void)
{
	return atomic_long_read(&nr_poisoned);
}

/**
 * karena_folio_exit() - Drop the last orphans, which the core frees with their last pins.
 */
void karena_folio_exit(void)
{
	cancel_delayed_work_sync(&abandoned_work);
	orphans_free(NULL, &abandoned);
}
