/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Tracepoints. Pages and arenas are counted from the start of the heap's window.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM karena

#if !defined(_KARENA_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _KARENA_TRACE_H

#include <linux/tracepoint.h>

#include "base.h"

TRACE_EVENT(karena_commit,

	TP_PROTO(const struct karena_heap *heap, unsigned long page,
		 unsigned long count, int err),

	TP_ARGS(heap, page, count, err),

	TP_STRUCT__entry(
		__field(u64, heap)
		__field(unsigned long, page)
		__field(unsigned long, count)
		__field(int, err)
	),

	TP_fast_assign(
		__entry->heap = heap->id;
		__entry->page = page;
		__entry->count = count;
		__entry->err = err;
	),

	TP_printk("heap=%llu page=%lu count=%lu err=%d", __entry->heap,
		  __entry->page, __entry->count, __entry->err)
);

TRACE_EVENT(karena_fault,

	TP_PROTO(const struct karena_heap *heap, unsigned long page,
		 unsigned int result),

	TP_ARGS(heap, page, result),

	TP_STRUCT__entry(
		__field(u64, heap)
		__field(unsigned long, page)
		__field(unsigned int, result)
	),

	TP_fast_assign(
		__entry->heap = heap->id;
		__entry->page = page;
		__entry->result = result;
	),

	TP_printk("heap=%llu page=%lu result=0x%x", __entry->heap, __entry->page,
		  __entry->result)
);

/* Events of an arena, each with a number of pages. */
DECLARE_EVENT_CLASS(karena_arena,

	TP_PROTO(const struct karena_heap *heap, unsigned long arena,
		 unsigned long pages),

	TP_ARGS(heap, arena, pages),

	TP_STRUCT__entry(
		__field(u64, heap)
		__field(unsigned long, arena)
		__field(unsigned long, pages)
	),

	TP_fast_assign(
		__entry->heap = heap->id;
		__entry->arena = arena;
		__entry->pages = pages;
	),

	TP_printk("heap=%llu arena=%lu pages=%lu", __entry->heap, __entry->arena,
		  __entry->pages)
);

/* Pages that the process asked to release, committed or not. */
DEFINE_EVENT(karena_arena, karena_release,
	TP_PROTO(const struct karena_heap *heap, unsigned long arena,
		 unsigned long pages),
	TP_ARGS(heap, arena, pages)
);

/* Pages freed; 0 if the arena was in use. */
DEFINE_EVENT(karena_arena, karena_reclaim,
	TP_PROTO(const struct karena_heap *heap, unsigned long arena,
		 unsigned long pages),
	TP_ARGS(heap, arena, pages)
);

/* Pages copied; 0 if the frame stays huge, because it is pinned or has a bad page. */
DEFINE_EVENT(karena_arena, karena_demote,
	TP_PROTO(const struct karena_heap *heap, unsigned long arena,
		 unsigned long pages),
	TP_ARGS(heap, arena, pages)
);

/* Copies written to their places in the base; 0 if a page was in use or bad. */
DEFINE_EVENT(karena_arena, karena_promote,
	TP_PROTO(const struct karena_heap *heap, unsigned long arena,
		 unsigned long pages),
	TP_ARGS(heap, arena, pages)
);

TRACE_EVENT(karena_copy,

	TP_PROTO(const struct karena_heap *heap, unsigned long page),

	TP_ARGS(heap, page),

	TP_STRUCT__entry(
		__field(u64, heap)
		__field(unsigned long, page)
	),

	TP_fast_assign(
		__entry->heap = heap->id;
		__entry->page = page;
	),

	TP_printk("heap=%llu page=%lu", __entry->heap, __entry->page)
);

TRACE_EVENT(karena_clone,

	TP_PROTO(const struct karena_heap *heap, u64 clone, unsigned long pages),

	TP_ARGS(heap, clone, pages),

	TP_STRUCT__entry(
		__field(u64, heap)
		__field(u64, clone)
		__field(unsigned long, pages)
	),

	TP_fast_assign(
		__entry->heap = heap->id;
		__entry->clone = clone;
		__entry->pages = pages;
	),

	TP_printk("heap=%llu clone=%llu pages=%lu", __entry->heap, __entry->clone,
		  __entry->pages)
);

TRACE_EVENT(karena_ready,

	TP_PROTO(const struct karena_heap *heap, int node, bool filled),

	TP_ARGS(heap, node, filled),

	TP_STRUCT__entry(
		__field(u64, heap)
		__field(int, node)
		__field(bool, filled)
		__field(unsigned long, frames)
	),

	TP_fast_assign(
		__entry->heap = heap->id;
		__entry->node = node;
		__entry->filled = filled;
		__entry->frames = heap->ready.nr;
	),

	TP_printk("heap=%llu node=%d filled=%d frames=%lu", __entry->heap,
		  __entry->node, __entry->filled, __entry->frames)
);

TRACE_EVENT(karena_pressure,

	TP_PROTO(const struct karena_heap *heap, u32 level),

	TP_ARGS(heap, level),

	TP_STRUCT__entry(
		__field(u64, heap)
		__field(u32, level)
		__field(u32, events)
	),

	TP_fast_assign(
		__entry->heap = heap->id;
		__entry->level = level;
		__entry->events = heap->pressure.events;
	),

	TP_printk("heap=%llu level=%u events=%u", __entry->heap, __entry->level,
		  __entry->events)
);

#endif /* _KARENA_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
