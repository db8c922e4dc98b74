// SPDX-License-Identifier: GPL-2.0
/*
 * Pressure: the module tells a heap that memory is short, in the pressure word of
 * its control region and by poll(). A level lasts for a second after its last
 * cause, or as long as the heap is above its soft limit.
 */
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/poll.h>
#include <linux/slab.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "compat.h"
#include "folio.h"
#include "trace.h"

#define LASTS	HZ

/* Memory is low when less than one part in so many is available. */
#define LOW_PART	16

static bool heap_above_soft_limit(const struct karena_heap *heap)
{
	unsigned long soft = READ_ONCE(heap->charge.soft_limit);

	return soft && READ_ONCE(heap->charge.committed) > soft;
}

/* The family's lock is held. */
static void pressure_show(struct karena_heap *heap, u32 level)
{
	lockdep_assert_held(&heap->family->lock);
	WRITE_ONCE(heap->pressure.level, level);
	WRITE_ONCE(karena_control(heap)->pressure,
		   heap->pressure.events << 2 | level);
	trace_karena_pressure(heap, level);
}

/**
 * karena_pressure_raise() - Tell a heap that memory is short.
 * @heap: The heap.
 * @level: Of enum karena_pressure.
 *
 * Context: Any process context, reclaim too.
 */
void karena_pressure_raise(struct karena_heap *heap, u32 level)
{
	bool rises;

	/* A lasting cause need not extend the level each time. */
	if (level <= READ_ONCE(heap->pressure.level) &&
	    time_before(jiffies, READ_ONCE(heap->pressure.until[level]) -
				 LASTS + LASTS / 4))
		return;
	spin_lock(&heap->family->lock);
	WRITE_ONCE(heap->pressure.until[level], jiffies + LASTS);
	rises = level > heap->pressure.level;
	if (rises) {
		heap->pressure.events++;
		pressure_show(heap, level);
		queue_delayed_work(karena_workqueue, &heap->pressure.work, LASTS);
	}
	spin_unlock(&heap->family->lock);
	if (rises)
		wake_up_interruptible_poll(&heap->pressure.wait->queue, EPOLLPRI);
}

/**
 * karena_pressure_check() - Tell a heap that it is above its soft limit, if it is.
 * @heap: The heap.
 */
void karena_pressure_check(struct karena_heap *heap)
{
	if (READ_ONCE(heap->pressure.level) < KARENA_PRESSURE_SOME &&
	    heap_above_soft_limit(heap))
		karena_pressure_raise(heap, KARENA_PRESSURE_SOME);
}

/* The highest level that has not ended yet. The family's lock is held. */
static u32 pressure_level_now(struct karena_heap *heap)
{
	u32 level;

	for (level = KARENA_PRESSURE_HIGH; level; level--) {
		if (level <= heap->pressure.level &&
		    time_before(jiffies, heap->pressure.until[level]))
			return level;
	}
	return heap_above_soft_limit(heap) ? KARENA_PRESSURE_SOME : KARENA_PRESSURE_NONE;
}

/* Lower the level if its time is over, and run again while there is pressure. */
static void heap_pressure_work(struct work_struct *work)
{
	struct karena_heap *heap = container_of(work, struct karena_heap,
						pressure.work.work);
	long again = 0;
	u32 level;

	spin_lock(&heap->family->lock);
	level = pressure_level_now(heap);
	if (level != heap->pressure.level)
		pressure_show(heap, level);
	if (level)
		again = heap->pressure.until[level] - jiffies;
	spin_unlock(&heap->family->lock);
	if (level)
		queue_delayed_work(karena_workqueue, &heap->pressure.work,
				   again > 0 ? again : LASTS);
}

#ifdef CONFIG_MEMCG
static bool memcg_low(struct mem_cgroup *memcg)
{
	for (; memcg; memcg = parent_mem_cgroup(memcg)) {
		struct page_counter *counter = &memcg->memory;
		unsigned long limit = min(READ_ONCE(counter->max),
					  READ_ONCE(counter->high));

		if (page_counter_read(counter) > limit - limit / LOW_PART)
			return true;
	}
	return false;
}
#else
static bool memcg_low(struct mem_cgroup *memcg)
{
	return false;
}
#endif

/**
 * karena_pressure_low() - Ask whether memory is low.
 * @memcg: A memory cgroup to ask about, beside the machine; or NULL.
 *
 * Return: True if it is low in the machine or in the cgroup.
 */
bool karena_pressure_low(struct mem_cgroup *memcg)
{
	return si_mem_available() < totalram_pages() / LOW_PART ||
	       memcg_low(memcg);
}

/**
 * karena_pressure_poll() - Report EPOLLPRI when pressure has risen.
 * @heap: The heap.
 * @file: The file that is polled; its family is the heap's.
 * @table: The waiting process's table.
 *
 * Return: EPOLLPRI, until the process has acknowledged the rise or the level has fallen to
 * NONE.
 */
__poll_t karena_pressure_poll(struct karena_heap *heap, struct file *file,
			      struct poll_table_struct *table)
{
	u32 seen;

	poll_wait(file, &heap->pressure.wait->queue, table);
	seen = READ_ONCE(karena_control(heap)->pressure_seen) >> 2;
	if (READ_ONCE(heap->pressure.level) &&
	    seen != (READ_ONCE(heap->pressure.events) & (U32_MAX >> 2)))
		return EPOLLPRI;
	return 0;
}

/**
 * karena_pressure_prepare() - Prepare a new heap for pressure.
 * @heap: The heap.
 * @gfp: How to allocate the queue.
 *
 * Return: 0 or -ENOMEM.
 */
int karena_pressure_prepare(struct karena_heap *heap, gfp_t gfp)
{
	struct karena_wait *wait = kzalloc(sizeof(*wait), gfp);

	if (!wait)
		return -ENOMEM;
	init_waitqueue_head(&wait->queue);
	heap->pressure.wait = wait;
	INIT_DELAYED_WORK(&heap->pressure.work, heap_pressure_work);
	heap->pressure.until[KARENA_PRESSURE_SOME] = jiffies;
	heap->pressure.until[KARENA_PRESSURE_HIGH] = jiffies;
	return 0;
}

/* The family's lock is held. */
static void family_free_waits(struct karena_family *family)
{
	struct karena_wait *wait, *next;

	list_for_each_entry_safe(wait, next, &family->left_waits, left) {
		/*
		 * No new wait begins here, but one that ends may still hold the queue's
		 * lock.
		 */
		if (waitqueue_active(&wait->queue))
			continue;
		list_del(&wait->left);
		kfree_rcu(wait, rcu);
	}
}

/**
 * karena_pressure_stop() - Stop the work of a heap that is about to be freed.
 * @heap: The heap, with no other user left.
 *
 * A process can wait for its heap through the descriptor of another heap of the family, and
 * unmap its own heap, which that descriptor does not hold. The descriptor holds the family,
 * so the family keeps the queue until the queue is empty.
 */
void karena_pressure_stop(struct karena_heap *heap)
{
	struct karena_family *family = heap->family;

	cancel_delayed_work_sync(&heap->pressure.work);
	spin_lock(&family->lock);
	list_add(&heap->pressure.wait->left, &family->left_waits);
	family_free_waits(family);
	spin_unlock(&family->lock);
}

/**
 * karena_pressure_forget() - Free the queues that the family has kept.
 * @family: The family, about to be freed: no process has a file of it, so none waits.
 */
void karena_pressure_forget(struct karena_family *family)
{
	struct karena_wait *wait, *next;

	list_for_each_entry_safe(wait, next, &family->left_waits, left)
		kfree(wait);
}
