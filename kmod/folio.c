// SPDX-License-Identifier: GPL-2.0
/*
 * Folios: what frames are made of, of 2 MiB or of one page. The rules of a folio's
 * references:
 *
 * - All arenas whose it is own one together; frame.c counts these. Every page table
 *   entry owns one and every pin (of direct I/O, of io_uring) its own; the core takes
 *   and drops these.
 * - A folio leaves its arena under the folio lock and is unmapped there. When the last
 *   arena has let it go it is freed, if no other reference is left. Else somebody
 *   pins it and keeps it: it becomes an orphan, on a list and still charged, until
 *   they let go. So pins do not evade a limit, and no other owner gets the folio
 *   before.
 * - Who takes it from its only owner unasked, or reads what is in it to put it
 *   elsewhere, wins folio_ref_freeze(folio, 1) first, after it is unmapped. What
 *   several own is written to by none of them, and can be copied under its lock.
 * - Nothing here uses a folio again.
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

/* Each until it is uncharged. */
static atomic_long_t nr_orphans;

/* Huge frames that are never freed. */
static atomic_long_t nr_poisoned;

/* How often they are looked at: nobody tells when a pin is let go. */
#define REAP_EVERY	HZ

static void abandoned_work_fn(struct work_struct *work);
static DECLARE_DELAYED_WORK(abandoned_work, abandoned_work_fn);

/* How many orphans are looked at with a lock held. */
#define REAP_SLICE	64

/* A commit that is refused waits for orphans that often, 10 ms each. */
#define MOST_WAITS	5

/* The orphans of heaps that are gone. */
static LIST_HEAD(abandoned);
static unsigned long nr_abandoned;
static DEFINE_SPINLOCK(abandoned_lock);

/**
 * karena_folio_node() - On which NUMA node an arena's memory is to be.
 * @heap: The heap.
 * @index: Which arena of its window.
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
	/* A node went offline meanwhile. */
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
 * karena_folio_local_node() - Where the current thread's memory comes from.
 *
 * Return: The node, or NUMA_NO_NODE when that is not simple to say.
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
 * karena_folio_node_allowed() - Whether the current thread may have memory there.
 * @node: A NUMA node, or what is none.
 *
 * Return: Whether it has memory, and the thread's cpuset allows it.
 */
bool karena_folio_node_allowed(int node)
{
	return node >= 0 && node < nr_node_ids && node_state(node, N_MEMORY) &&
	       node_isset(node, cpuset_current_mems_allowed);
}

/**
 * karena_folio_memcg() - Who is charged for what a heap allocates.
 * @heap: The heap.
 *
 * Return: The memory cgroup of its process, whoever's fault it is. Of a heap that
 * several drive, or whose process is gone, and of a snapshot, whose reader alone fills
 * what has been released, that of the current one. With a reference.
 */
struct mem_cgroup *karena_folio_memcg(struct karena_heap *heap)
{
	struct mm_struct *mm = heap->mm;

	/* A child that is being made is in no cgroup yet, who is dead in none more. */
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
 * @node: Where, or NUMA_NO_NODE.
 * @gfp: How; KARENA_FRAME_GFP, or less of it.
 *
 * Return: A folio with one reference, or NULL.
 */
struct folio *karena_folio_alloc(struct karena_heap *heap, unsigned int order,
				 int node, gfp_t gfp)
{
	struct mem_cgroup *memcg = karena_folio_memcg(heap);
	struct mem_cgroup *old = set_active_memcg(memcg);
	struct folio *folio;

	/* A copy must be had, wherever; a clone that is being made gets nothing else. */
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
 * karena_folio_bad() - Whether the hardware has reported a page of a folio as bad.
 * @folio: The folio.
 *
 * memory_failure() marks the page alone: it does not know what our folios are.
 *
 * Return: True if it has.
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
 * The allocator keeps a single bad page, but gives out one within a huge folio: that is
 * never freed, and stays charged to its memory cgroup.
 */
void karena_folio_put(struct folio *folio)
{
	karena_key_clear(folio);
	if (folio_test_large(folio) && karena_folio_bad(folio)) {
		atomic_long_inc(&nr_poisoned);
		pr_warn("karena: a frame is never used again: memory failure within %#lx-%#lx\n",
			folio_pfn(folio), folio_pfn(folio) + folio_nr_pages(folio) - 1);
		return;
	}
	folio_put(folio);
}

/**
 * karena_folio_free() - Drop the last arena's reference to a folio.
 * @heap: The heap that arena is in.
 * @folio: What no arena and no mapping has any more.
 * @counted: Whether the heap counts it as committed. It is uncharged once the folio is
 *	free; an orphan is always counted.
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
	list_add_tail(&folio->lru, &heap->orphans);
	WRITE_ONCE(heap->nr_orphans, heap->nr_orphans + 1);
	spin_unlock(&heap->family->lock);
	queue_delayed_work(karena_workqueue, &heap->orphan_work, REAP_EVERY);
}

/*
 * Look at some orphans, with their lock held. Those without a pin are moved to a list, the
 * others to the end of their own. Returns how many were moved.
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
		/* Whoever sees one less sees what it was charged, too. */
		atomic_long_fetch_dec_release(&nr_orphans);
	}
}

/* With heap->reaping held. Returns how many were freed. */
static unsigned long heap_reap_slice(struct karena_heap *heap)
{
	unsigned long moved;
	LIST_HEAD(free);

	spin_lock(&heap->family->lock);
	moved = orphans_collect(&heap->orphans, &free);
	WRITE_ONCE(heap->nr_orphans, heap->nr_orphans - moved);
	spin_unlock(&heap->family->lock);
	orphans_free(heap, &free);
	return moved;
}

/**
 * karena_folio_reap_some() - Look at some of a heap's orphans, and free unpinned ones.
 * @heap: The heap, which has released something.
 *
 * Context: May sleep. Returns at once if another thread does the same.
 */
void karena_folio_reap_some(struct karena_heap *heap)
{
	if (!READ_ONCE(heap->nr_orphans) || !mutex_trylock(&heap->reaping))
		return;
	heap_reap_slice(heap);
	mutex_unlock(&heap->reaping);
}

/*
 * Free all of a heap's orphans that are no longer pinned. Waits for another thread that
 * frees orphans, as they are charged until they are free. True if any were freed, or another
 * thread may have freed some.
 */
static bool heap_reap(struct karena_heap *heap)
{
	bool any = false;
	long left;

	if (!mutex_trylock(&heap->reaping)) {
		mutex_lock(&heap->reaping);
		any = true;
	}
	for (left = READ_ONCE(heap->nr_orphans); left > 0; left -= REAP_SLICE) {
		any |= heap_reap_slice(heap);
		cond_resched();
	}
	mutex_unlock(&heap->reaping);
	return any;
}

/* Free some orphans of heaps that are gone; true if any were freed. */
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
 * @heap: The heap that needs the room: all of its orphans, and some of heaps that are gone.
 *
 * Context: May sleep, until another thread has freed orphans.
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
	list_for_each_entry(folio, &heap->orphans, lru) {
		any = !folio_maybe_dma_pinned(folio);
		if (any || ++seen == REAP_SLICE)
			break;
	}
	spin_unlock(&heap->family->lock);
	return any;
}

/**
 * karena_folio_passing() - Ask whether it is worth to wait for orphans.
 * @heap: The heap.
 *
 * A fault, even one of another process, has a reference to a page until it returns, which
 * may be after the page has left its arena. Pins of devices are not waited for. For a second
 * after a wait in vain there is no other one, so that a list of refused ranges takes no
 * longer.
 *
 * Return: True if karena_folio_wait() may help.
 */
bool karena_folio_passing(struct karena_heap *heap)
{
	return READ_ONCE(heap->nr_orphans) && heap_has_passing(heap) &&
	       time_after_eq(jiffies, READ_ONCE(heap->wait_after));
}

/**
 * karena_folio_wait() - Wait until orphans can be freed.
 * @heap: The heap, kept by its file.
 *
 * Context: Sleeps for some 50 ms at most; with no lock held.
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
		WRITE_ONCE(heap->wait_after, jiffies + HZ);
}

static void heap_orphan_work(struct work_struct *work)
{
	struct karena_heap *heap = container_of(work, struct karena_heap,
						orphan_work.work);

	heap_reap(heap);
	if (!list_empty(&heap->orphans))
		queue_delayed_work(karena_workqueue, &heap->orphan_work,
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
 * karena_folio_prepare() - Make a new heap ready for orphans.
 * @heap: The heap.
 */
void karena_folio_prepare(struct karena_heap *heap)
{
	INIT_LIST_HEAD(&heap->orphans);
	mutex_init(&heap->reaping);
	heap->wait_after = jiffies;
	INIT_DELAYED_WORK(&heap->orphan_work, heap_orphan_work);
}

/**
 * karena_folio_abandon() - Keep the orphans of a heap that goes.
 * @heap: The heap, with no other user left.
 */
void karena_folio_abandon(struct karena_heap *heap)
{
	cancel_delayed_work_sync(&heap->orphan_work);
	if (list_empty(&heap->orphans))
		return;
	spin_lock(&abandoned_lock);
	list_splice_tail_init(&heap->orphans, &abandoned);
	WRITE_ONCE(nr_abandoned, nr_abandoned + heap->nr_orphans);
	spin_unlock(&abandoned_lock);
	queue_delayed_work(karena_workqueue, &abandoned_work, 0);
}

/**
 * karena_folio_orphans() - How many frames are held by pins alone.
 *
 * Return: Their number; it may count some that have come free in the last second.
 */
long karena_folio_orphans(void)
{
	return atomic_long_read(&nr_orphans);
}

/**
 * karena_folio_poisoned() - How many huge frames are never freed.
 *
 * Return: Their number since the module was loaded.
 */
long karena_folio_poisoned(void)
{
	return atomic_long_read(&nr_poisoned);
}

/**
 * karena_folio_exit() - Leave the last orphans to those who pin them.
 */
void karena_folio_exit(void)
{
	cancel_delayed_work_sync(&abandoned_work);
	orphans_free(NULL, &abandoned);
}
