// SPDX-License-Identifier: GPL-2.0
/*
 * Pressure: what a heap is told of memory that is short, in the pressure word of
 * its control region and by poll(). A level lasts for a second after its last
 * cause, or as long as the heap is above its soft limit.
 */
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/poll.h>
#include <linux/workqueue.h>

#include "compat.h"
#include "karena.h"
#include "trace.h"

#define LASTS	HZ

/* Memory is low when less than one part in so many is available. */
#define LOW_PART	16

static bool above_soft_limit(const struct karena_heap *heap)
{
	unsigned long soft = READ_ONCE(heap->soft_limit);

	return soft && READ_ONCE(heap->committed) > soft;
}

/* With heap->lock held. */
static void pressure_show(struct karena_heap *heap, u32 level)
{
	lockdep_assert_held(&heap->lock);
	WRITE_ONCE(heap->pressure, level);
	WRITE_ONCE(karena_control(heap)->pressure,
		   heap->pressure_events << 2 | level);
	trace_karena_pressure(heap, level);
}

/**
 * karena_pressure_raise() - Tell a heap that memory is short.
 * @heap: The heap.
 * @level: How short, of enum karena_pressure.
 *
 * Context: Any process context, reclaim too.
 */
void karena_pressure_raise(struct karena_heap *heap, u32 level)
{
	unsigned long until = jiffies + LASTS;
	bool rises;

	/* A cause that goes on need not be noted each time. */
	if (level <= READ_ONCE(heap->pressure) &&
	    time_before(until, READ_ONCE(heap->pressure_until[level]) + LASTS / 4))
		return;
	spin_lock(&heap->lock);
	rises = level > heap->pressure;
	WRITE_ONCE(heap->pressure_until[level], until);
	if (rises) {
		heap->pressure_events++;
		pressure_show(heap, level);
	}
	spin_unlock(&heap->lock);
	if (!rises)
		return;
	wake_up_interruptible_poll(&heap->pressure_wait, EPOLLPRI);
	queue_delayed_work(system_wq, &heap->pressure_work, LASTS);
}

/**
 * karena_pressure_check() - Tell a heap that it is above its soft limit, if it is.
 * @heap: The heap.
 */
void karena_pressure_check(struct karena_heap *heap)
{
	if (READ_ONCE(heap->pressure) < KARENA_PRESSURE_SOME &&
	    above_soft_limit(heap))
		karena_pressure_raise(heap, KARENA_PRESSURE_SOME);
}

/* With heap->lock held: the highest level that has not come to its end. */
static u32 level_now(struct karena_heap *heap)
{
	u32 level;

	for (level = KARENA_PRESSURE_HIGH; level; level--) {
		if (level <= heap->pressure &&
		    time_before(jiffies, heap->pressure_until[level]))
			return level;
	}
	return above_soft_limit(heap) ? KARENA_PRESSURE_SOME : KARENA_PRESSURE_NONE;
}

/* The level falls, or this runs again when it may. */
static void pressure_work(struct work_struct *work)
{
	struct karena_heap *heap = container_of(work, struct karena_heap,
						pressure_work.work);
	long again = 0;
	u32 level;

	spin_lock(&heap->lock);
	level = level_now(heap);
	if (level != heap->pressure)
		pressure_show(heap, level);
	if (level)
		again = heap->pressure_until[level] - jiffies;
	spin_unlock(&heap->lock);
	if (level)
		queue_delayed_work(system_wq, &heap->pressure_work,
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
 * karena_pressure_low() - Whether memory is low.
 * @memcg: Of which memory cgroup, beside the machine; or NULL.
 *
 * Return: Whether it is.
 */
bool karena_pressure_low(struct mem_cgroup *memcg)
{
	return si_mem_available() < totalram_pages() / LOW_PART ||
	       memcg_low(memcg);
}

/**
 * karena_pressure_poll() - Report EPOLLPRI when pressure has risen.
 * @file: The heap's file.
 * @table: Who polls.
 *
 * Return: EPOLLPRI, until the process has noted the rise or the level has fallen to
 * NONE.
 */
__poll_t karena_pressure_poll(struct file *file, struct poll_table_struct *table)
{
	struct karena_heap *heap = file->private_data;
	u32 seen;

	poll_wait(file, &heap->pressure_wait, table);
	seen = READ_ONCE(karena_control(heap)->pressure_seen) >> 2;
	if (!READ_ONCE(heap->pressure) ||
	    seen == (READ_ONCE(heap->pressure_events) & (U32_MAX >> 2)))
		return 0;
	return EPOLLPRI;
}

/**
 * karena_pressure_prepare() - Make a new heap ready for pressure.
 * @heap: The heap.
 */
void karena_pressure_prepare(struct karena_heap *heap)
{
	INIT_DELAYED_WORK(&heap->pressure_work, pressure_work);
	init_waitqueue_head(&heap->pressure_wait);
	heap->pressure_until[KARENA_PRESSURE_SOME] = jiffies;
	heap->pressure_until[KARENA_PRESSURE_HIGH] = jiffies;
}

/**
 * karena_pressure_stop() - Let no more work run for a heap that goes.
 * @heap: The heap, with no other user left.
 */
void karena_pressure_stop(struct karena_heap *heap)
{
	cancel_delayed_work_sync(&heap->pressure_work);
}
