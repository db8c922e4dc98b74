// SPDX-License-Identifier: GPL-2.0
/*
 * Ready frames: huge frames of a heap that are cleared before a commit needs them, as many
 * as the process asks for, and some more while the heap grows fast. One thread for all
 * heaps prepares them one at a time, at a low priority and without reclaim. They are
 * charged to the owner's memory cgroup and to the limits from the start, because no charge
 * can be added later. A commit with a ready frame on its node takes about a quarter of the
 * time of one without, so each node has its own number.
 *
 * The family's lock protects the lists and counts. heap->ready.frames does not change once
 * it is set.
 */
#include <linux/jiffies.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/moduleparam.h>
#include <linux/nodemask.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "compat.h"
#include "frame.h"
#include "trace.h"

/* A heap grows fast when it commits again within this time. */
#define FAST		(HZ / 10)

/* A low priority, but not so low that the end of a heap waits for the thread. */
#define READY_NICE	10

/* For this time after memory was short, no frame is made ready. */
#define PAUSE		HZ

/* For a heap with fewer arenas, one frame more would be a large part. */
#define AHEAD_ARENAS	4

/* Uses only free memory, and does not start reclaim. */
#define READY_GFP	(((KARENA_FRAME_GFP & ~__GFP_RECLAIM) & \
			  ~__GFP_RETRY_MAYFAIL) | __GFP_NOMEMALLOC | __GFP_THISNODE)

static unsigned int ahead = 8;
module_param(ahead, uint, 0644);
MODULE_PARM_DESC(ahead, "most frames kept ready for a heap that grows fast (default: 8; 0: none)");

static struct kthread_worker *worker;
static struct kmem_cache *ready_cache;
static atomic_long_t nr_ready;

static void ready_run(struct karena_heap *heap, unsigned long delay)
{
	kthread_mod_delayed_work(worker, &heap->ready.work, delay);
}

/* Charge the structure to the heap's owner, in whose group reclaim finds the frames. */
static struct karena_ready_frames *ready_alloc(struct karena_heap *heap, gfp_t gfp)
{
	struct mem_cgroup *memcg = karena_folio_memcg(heap), *old;
	struct karena_ready_frames *ready = NULL;
	struct karena_group *group;

	old = set_active_memcg(memcg);
	if (!karena_group_join(heap, memcg, numa_mem_id(), gfp, &group))
		ready = kmem_cache_zalloc(ready_cache, gfp);
	set_active_memcg(old);
	mem_cgroup_put(memcg);
	if (ready)
		ready->group = group;
	return ready;
}

static struct karena_ready_frames *ready_get(struct karena_heap *heap, gfp_t gfp)
{
	struct karena_ready_frames *ready = READ_ONCE(heap->ready.frames);
	int node;

	if (ready)
		return ready;
	ready = ready_alloc(heap, gfp);
	if (!ready)
		return NULL;
	for (node = 0; node < nr_node_ids; node++)
		INIT_LIST_HEAD(&ready->node[node].folios);
	if (cmpxchg(&heap->ready.frames, NULL, ready)) {
		kmem_cache_free(ready_cache, ready);
		return heap->ready.frames;
	}
	return ready;
}

/* The family's lock is held. */
static unsigned int ready_target(struct karena_heap *heap, int node)
{
	return max(heap->ready.frames->node[node].wanted,
		   node == heap->ready.ahead_node ? heap->ready.ahead : 0);
}

/* Remove a frame from the list. It stays charged. The family's lock is held. */
static struct folio *ready_pop(struct karena_heap *heap, int node)
{
	struct karena_ready_node *at = &heap->ready.frames->node[node];
	struct folio *folio;

	lockdep_assert_held(&heap->family->lock);
	folio = list_first_entry_or_null(&at->folios, struct folio, lru);
	if (!folio)
		return NULL;
	list_del(&folio->lru);
	at->nr--;
	WRITE_ONCE(heap->ready.nr, heap->ready.nr - 1);
	atomic_long_dec(&nr_ready);
	return folio;
}

/* Charge and list a frame in one step, so that a commit can use every charged frame. */
static bool ready_push(struct karena_heap *heap, int node, struct folio *folio)
{
	struct karena_ready_node *at = &heap->ready.frames->node[node];
	int err = -ECANCELED;

	spin_lock(&heap->family->lock);
	/* The frame may no longer be wanted. */
	if (at->nr < ready_target(heap, node))
		err = karena_charge_ready(heap, KARENA_ARENA_PAGES);
	if (!err) {
		list_add(&folio->lru, &at->folios);
		at->nr++;
		WRITE_ONCE(heap->ready.nr, heap->ready.nr + 1);
		atomic_long_inc(&nr_ready);
	}
	spin_unlock(&heap->family->lock);
	return !err;
}

/* As ready_pop(), for a frame of any node. */
static struct folio *ready_pop_any(struct karena_heap *heap)
{
	struct folio *folio = NULL;
	int node;

	for (node = 0; node < nr_node_ids && heap->ready.nr && !folio; node++)
		folio = ready_pop(heap, node);
	return folio;
}

/*
 * Uncharge a frame that is about to be freed, so that a commit at the limit finds either the
 * frame or room for one. The family's lock is held.
 */
static struct folio *ready_uncharge(struct karena_heap *heap, struct folio *folio)
{
	if (folio)
		karena_uncharge_ready(heap, KARENA_ARENA_PAGES);
	return folio;
}

/**
 * karena_ready_take() - Remove a ready frame from its list to commit it.
 * @heap: The heap.
 * @node: The node; NUMA_NO_NODE: the node of the current thread's memory.
 * @any: If @node has no frame, the function may return one of another node.
 *
 * Return: A zeroed frame, charged as committed, or NULL.
 */
struct folio *karena_ready_take(struct karena_heap *heap, int node, bool any)
{
	struct folio *folio = NULL;

	if (!READ_ONCE(heap->ready.nr))
		return NULL;
	if (node == NUMA_NO_NODE)
		node = karena_folio_local_node();
	spin_lock(&heap->family->lock);
	/* A limit may have been lowered since the frame was charged. */
	if (heap->ready.nr && !karena_limit_exceeded(heap)) {
		if (node != NUMA_NO_NODE)
			folio = ready_pop(heap, node);
		if (!folio && any)
			folio = ready_pop_any(heap);
		if (folio)
			karena_charge_committed(heap, KARENA_ARENA_PAGES);
	}
	spin_unlock(&heap->family->lock);
	return folio;
}

/**
 * karena_ready_give_up() - Uncharge a ready frame to make room at a limit.
 * @heap: The heap, with the family's lock held.
 *
 * Return: A zeroed frame that is not charged to the limits any more, or NULL.
 */
struct folio *karena_ready_give_up(struct karena_heap *heap)
{
	struct folio *folio = NULL;

	/* A limit may have been lowered since they were charged: then no commit succeeds. */
	if (heap->ready.nr && !karena_limit_exceeded(heap))
		folio = ready_uncharge(heap, ready_pop_any(heap));
	return folio;
}

static bool ready_drop_one(struct karena_heap *heap, int node)
{
	struct folio *folio = NULL;

	spin_lock(&heap->family->lock);
	if (heap->ready.nr && node != NUMA_NO_NODE)
		folio = ready_pop(heap, node);
	else if (heap->ready.nr)
		folio = ready_pop_any(heap);
	ready_uncharge(heap, folio);
	spin_unlock(&heap->family->lock);
	/* No process has ever mapped the frame. */
	if (folio)
		karena_folio_put(folio);
	return folio;
}

/**
 * karena_ready_drop() - Free ready frames because memory is short.
 * @heap: The heap, which gets no new ready frames for a while.
 * @count: How many.
 * @node: Of which node, or NUMA_NO_NODE.
 *
 * Context: Any process context, reclaim too.
 * Return: The number of pages freed.
 */
unsigned long karena_ready_drop(struct karena_heap *heap, unsigned long count,
				int node)
{
	unsigned long pages = 0;

	if (!READ_ONCE(heap->ready.nr))
		return 0;
	WRITE_ONCE(heap->ready.fill_after, jiffies + PAUSE);
	while (count-- && ready_drop_one(heap, node))
		pages += KARENA_ARENA_PAGES;
	ready_run(heap, PAUSE);
	return pages;
}

/**
 * karena_ready_fit() - Free the ready frames that are above a new limit.
 * @heap: The heap, whose limits have changed. Its pressure rises if it is above its soft
 *	limit.
 */
void karena_ready_fit(struct karena_heap *heap)
{
	while (READ_ONCE(heap->charge.pages) > READ_ONCE(heap->charge.limit) &&
	       karena_ready_drop(heap, 1, NUMA_NO_NODE))
		;
	karena_pressure_check(heap);
}

/**
 * karena_ready_committed() - Adapt the ready frames after a commit of a huge frame.
 * @heap: The heap.
 * @node: The node of the frame.
 */
void karena_ready_committed(struct karena_heap *heap, int node)
{
	unsigned long huge = atomic_long_read(&heap->stats.huge);
	unsigned int most = READ_ONCE(ahead);
	bool fast;

	spin_lock(&heap->family->lock);
	fast = time_before(jiffies, heap->ready.last_commit + FAST) &&
	       huge >= AHEAD_ARENAS && most;
	heap->ready.last_commit = jiffies;
	if (!most)
		heap->ready.ahead = 0;
	if (fast) {
		heap->ready.ahead_node = node;
		heap->ready.ahead = min3(heap->ready.ahead * 2 + 1, most,
					 (unsigned int)(huge / AHEAD_ARENAS));
	}
	spin_unlock(&heap->family->lock);
	if (fast || READ_ONCE(heap->ready.frames))
		ready_run(heap, 0);
}

/* Free frames above the targets. */
static void ready_trim(struct karena_heap *heap)
{
	struct folio *folio;
	int node;

	for (node = 0; node < nr_node_ids; node++) {
		do {
			folio = NULL;
			spin_lock(&heap->family->lock);
			if (heap->ready.frames->node[node].nr > ready_target(heap, node))
				folio = ready_uncharge(heap, ready_pop(heap, node));
			spin_unlock(&heap->family->lock);
			if (folio)
				karena_folio_put(folio);
		} while (folio);
	}
}

/* Find a node that lacks frames. Returns NUMA_NO_NODE if none does. */
static int ready_lacking(struct karena_heap *heap)
{
	int node, found = NUMA_NO_NODE;

	spin_lock(&heap->family->lock);
	for (node = 0; node < nr_node_ids && found == NUMA_NO_NODE; node++) {
		if (heap->ready.frames->node[node].nr < ready_target(heap, node))
			found = node;
	}
	spin_unlock(&heap->family->lock);
	return found;
}

static bool ready_fill(struct karena_heap *heap, int node)
{
	struct mem_cgroup *memcg;
	struct folio *folio;
	bool low;

	/* After the end of the process, there is no memory cgroup to charge. */
	if (!atomic_read(&heap->mm->mm_users))
		return false;
	memcg = karena_folio_memcg(heap);
	low = karena_pressure_low(memcg);
	mem_cgroup_put(memcg);
	if (low || !karena_charge_room(heap, KARENA_ARENA_PAGES))
		return false;
	folio = karena_folio_alloc(heap, KARENA_ARENA_ORDER, node, READY_GFP);
	if (!folio)
		return false;
	if (ready_push(heap, node, folio))
		return true;
	karena_folio_put(folio);
	return false;
}

/* Make one frame ready, and requeue, so that other heaps have their turn in between. */
static void ready_work(struct kthread_work *work)
{
	struct karena_heap *heap = container_of(work, struct karena_heap,
						ready.work.work);
	unsigned long now = jiffies, after = READ_ONCE(heap->ready.fill_after);
	bool idle, filled;
	int node;

	spin_lock(&heap->family->lock);
	if (time_after(now, heap->ready.last_commit + PAUSE))
		heap->ready.ahead = 0;
	idle = !heap->ready.ahead;
	spin_unlock(&heap->family->lock);
	if (!ready_get(heap, GFP_NOWAIT | __GFP_ACCOUNT | __GFP_NOWARN)) {
		ready_run(heap, PAUSE);
		return;
	}
	ready_trim(heap);
	node = ready_lacking(heap);
	if (node == NUMA_NO_NODE) {
		/* Run again, to free the frames kept ahead when the heap stops growing. */
		if (!idle)
			ready_run(heap, PAUSE);
		return;
	}
	if (time_before(now, after)) {
		ready_run(heap, after - now);
		return;
	}
	filled = ready_fill(heap, node);
	trace_karena_ready(heap, node, filled);
	ready_run(heap, filled ? 0 : PAUSE);
}

/* Returns the node of a call, NUMA_NO_NODE for all nodes together, or -EINVAL. */
static int call_find_node(struct karena_heap *heap, const struct karena_ready *call)
{
	bool single = heap->policy == KARENA_POLICY_PREFER ||
		      heap->policy == KARENA_POLICY_BIND;

	if (call->node == KARENA_NODE_ANY)
		return single ? heap->node : NUMA_NO_NODE;
	if (call->node > INT_MAX || !karena_folio_node_allowed(call->node) ||
	    (heap->policy == KARENA_POLICY_BIND && call->node != heap->node))
		return -EINVAL;
	return call->node;
}

/*
 * Set how many frames are wanted on a node, or on all nodes together. In the second case
 * each node keeps its wanted frames, and the rest is prepared on the node where the caller
 * would commit. The family's lock is held.
 */
static void heap_set_wanted(struct karena_heap *heap, int node, unsigned int count)
{
	struct karena_ready_node *at = heap->ready.frames->node;
	int i;

	lockdep_assert_held(&heap->family->lock);
	if (node != NUMA_NO_NODE) {
		at[node].wanted = count;
		return;
	}
	for (i = 0; i < nr_node_ids; i++) {
		at[i].wanted = min(at[i].wanted, count);
		count -= at[i].wanted;
	}
	i = karena_folio_local_node();
	at[i == NUMA_NO_NODE ? numa_mem_id() : i].wanted += count;
}

/**
 * karena_ready_call() - Keep frames ready (KARENA_READY).
 * @heap: The heap.
 * @call: The caller's struct, which gets the answer.
 *
 * Return: 0, -EINVAL or -ENOMEM. After an error the number of wanted frames is unchanged.
 */
int karena_ready_call(struct karena_heap *heap, struct karena_ready *call)
{
	int node = call_find_node(heap, call);
	struct karena_ready_frames *ready;
	unsigned long have;

	if (call->flags || call->reserved || node == -EINVAL ||
	    call->count > heap->nr_arenas)
		return -EINVAL;
	ready = ready_get(heap, KARENA_GFP);
	if (!ready)
		return -ENOMEM;
	WRITE_ONCE(heap->charge.memlock, karena_limit_memlock());
	have = node == NUMA_NO_NODE ? heap->ready.nr : ready->node[node].nr;
	if (call->count > have && !karena_limit_allows(heap, (call->count - have) *
						      KARENA_ARENA_PAGES))
		return -ENOMEM;
	spin_lock(&heap->family->lock);
	heap->ready.ahead = 0;
	heap_set_wanted(heap, node, call->count);
	spin_unlock(&heap->family->lock);
	ready_trim(heap);
	ready_run(heap, 0);
	call->ready = node == NUMA_NO_NODE ? READ_ONCE(heap->ready.nr) :
					     READ_ONCE(ready->node[node].nr);
	return 0;
}

/**
 * karena_ready_forget() - Free all ready frames of a heap that no process drives any more.
 * @heap: The heap.
 */
void karena_ready_forget(struct karena_heap *heap)
{
	struct karena_ready_frames *ready = READ_ONCE(heap->ready.frames);
	int node;

	if (!ready)
		return;
	spin_lock(&heap->family->lock);
	heap->ready.ahead = 0;
	for (node = 0; node < nr_node_ids; node++)
		ready->node[node].wanted = 0;
	spin_unlock(&heap->family->lock);
	ready_trim(heap);
}

/**
 * karena_ready_prepare() - Prepare a new heap for ready frames.
 * @heap: The heap.
 */
void karena_ready_prepare(struct karena_heap *heap)
{
	kthread_init_delayed_work(&heap->ready.work, ready_work);
	heap->ready.ahead_node = NUMA_NO_NODE;
	heap->ready.last_commit = jiffies - FAST;
	heap->ready.fill_after = jiffies;
}

/**
 * karena_ready_stop() - Free all ready frames of a heap that is about to be freed.
 * @heap: The heap, in which no thread commits any more. It leaves all groups.
 */
void karena_ready_stop(struct karena_heap *heap)
{
	kthread_cancel_delayed_work_sync(&heap->ready.work);
	karena_group_leave(heap);
	if (!heap->ready.frames)
		return;
	/* Reclaim that was at work may have queued the work again. */
	kthread_cancel_delayed_work_sync(&heap->ready.work);
	while (ready_drop_one(heap, NUMA_NO_NODE))
		;
	kmem_cache_free(ready_cache, heap->ready.frames);
}

/**
 * karena_ready_total() - Count the ready frames of all heaps.
 *
 * Return: Their number.
 */
long karena_ready_total(void)
{
	return atomic_long_read(&nr_ready);
}

/**
 * karena_ready_init() - Start the thread that makes frames ready.
 *
 * Return: 0 or a negative errno.
 */
int karena_ready_init(void)
{
	struct karena_ready_frames *ready;

	ready_cache = kmem_cache_create("karena_ready_frames",
					struct_size(ready, node, nr_node_ids), 0,
					SLAB_ACCOUNT, NULL);
	if (!ready_cache)
		return -ENOMEM;
	worker = kthread_create_worker(KTW_FREEZABLE, "karena-ready");
	if (IS_ERR(worker)) {
		kmem_cache_destroy(ready_cache);
		return PTR_ERR(worker);
	}
	set_user_nice(worker->task, READY_NICE);
	return 0;
}

/**
 * karena_ready_exit() - Stop the thread; no heap is left.
 */
void karena_ready_exit(void)
{
	kthread_destroy_worker(worker);
	kmem_cache_destroy(ready_cache);
}
