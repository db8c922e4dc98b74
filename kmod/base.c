// SPDX-License-Identifier: GPL-2.0
/*
 * Shared by all files of the module: its work queue and the tracepoints.
 */
#include <linux/workqueue.h>

#include "base.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

/*
 * Runs the work of heaps: all work items of the module except those of reclaim, for which
 * group.c has a queue with a rescuer. An item that drops the last reference to a file returns
 * into the module's text, so the queue is drained before the text is freed.
 */
struct workqueue_struct *karena_workqueue;

/**
 * karena_base_init() - Make the work queue.
 *
 * Return: 0 or -ENOMEM.
 */
int karena_base_init(void)
{
	karena_workqueue = alloc_workqueue("karena_heaps", WQ_UNBOUND, 0);
	return karena_workqueue ? 0 : -ENOMEM;
}

/**
 * karena_base_exit() - Drain and destroy the work queue; no heap is left.
 */
void karena_base_exit(void)
{
	destroy_workqueue(karena_workqueue);
}
