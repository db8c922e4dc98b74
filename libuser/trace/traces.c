// SPDX-License-Identifier: MIT
/*
 * Snapshots of traces: stacks with their counters, sorted, grouped by the innermost frame, and
 * compared. A finished snapshot never changes.
 */
#include <errno.h>
#include <string.h>

#include "trace/trace.h"

/* Allocate a snapshot. NULL with errno and a message. */
static struct ka_traces *traces_make(size_t count, size_t nr_frames)
{
	size_t size = sizeof(struct ka_traces) + count * sizeof(struct ka_trace_entry) +
		      nr_frames * sizeof(void *);
	struct ka_traces *traces = ka_trace_map(size);

	if (!traces) {
		ka_fail(ENOMEM, "no memory for a snapshot of %zu stacks", count);
		return NULL;
	}
	traces->mapped = size;
	traces->frames = (const void **)&traces->entries[count];
	return traces;
}

void ka_trace_free(struct ka_traces *traces)
{
	if (traces)
		ka_trace_unmap(traces, traces->mapped);
}

/* Copy the frames of an entry to the end of the snapshot's frames. */
static const void *const *copy_frames(const void **end, const void *const *from,
				      size_t count)
{
	memcpy(end, from, count * sizeof(*from));
	return end;
}

typedef int order_t(const struct ka_trace_entry *, const struct ka_trace_entry *);

static int by_frames(const struct ka_trace_entry *a, const struct ka_trace_entry *b)
{
	for (size_t i = 0; i < a->nr_frames && i < b->nr_frames; i++) {
		if (a->frames[i] != b->frames[i])
			return (uintptr_t)a->frames[i] < (uintptr_t)b->frames[i] ? -1 : 1;
	}
	return a->nr_frames < b->nr_frames ? -1 : a->nr_frames > b->nr_frames;
}

static int by_bytes(const struct ka_trace_entry *a, const struct ka_trace_entry *b)
{
	if (a->bytes != b->bytes)
		return a->bytes > b->bytes ? -1 : 1;
	if (a->total_bytes != b->total_bytes)
		return a->total_bytes > b->total_bytes ? -1 : 1;
	return by_frames(a, b);
}

static size_t magnitude(ptrdiff_t value)
{
	return value < 0 ? -(size_t)value : (size_t)value;
}

static int by_change(const struct ka_trace_entry *a, const struct ka_trace_entry *b)
{
	size_t here = magnitude(a->more_bytes), there = magnitude(b->more_bytes);

	if (here != there)
		return here > there ? -1 : 1;
	return by_bytes(a, b);
}

static void swap(struct ka_trace_entry *a, struct ka_trace_entry *b)
{
	struct ka_trace_entry held = *a;

	*a = *b;
	*b = held;
}

static void sift_down(struct ka_trace_entry *entries, size_t at, size_t count,
		      order_t *order)
{
	size_t child;

	while ((child = 2 * at + 1) < count) {
		if (child + 1 < count && order(&entries[child], &entries[child + 1]) < 0)
			child++;
		if (order(&entries[at], &entries[child]) >= 0)
			return;
		swap(&entries[at], &entries[child]);
		at = child;
	}
}

/* A heapsort, since libc's qsort() may allocate. */
static void sort(struct ka_traces *traces, order_t *order)
{
	struct ka_trace_entry *entries = traces->entries;
	size_t count = traces->count;

	for (size_t i = count / 2; i > 0; i--)
		sift_down(entries, i - 1, count, order);
	while (count > 1) {
		count--;
		swap(&entries[0], &entries[count]);
		sift_down(entries, 0, count, order);
	}
}

/* Merge entries with the same frames. */
static void merge(struct ka_traces *traces)
{
	struct ka_trace_entry *entries = traces->entries, *into = entries;

	if (!traces->count)
		return;
	sort(traces, by_frames);
	for (size_t i = 1; i < traces->count; i++) {
		if (by_frames(into, &entries[i])) {
			*++into = entries[i];
			continue;
		}
		into->bytes += entries[i].bytes;
		into->blocks += entries[i].blocks;
		into->total_bytes += entries[i].total_bytes;
		into->total_blocks += entries[i].total_blocks;
		into->more_bytes += entries[i].more_bytes;
		into->more_blocks += entries[i].more_blocks;
	}
	traces->count = (size_t)(into - entries) + 1;
}

static size_t whole_blocks(uint64_t weights)
{
	return (weights + KA_WEIGHT_ONE / 2) / KA_WEIGHT_ONE;
}

struct ka_traces *ka_trace_snapshot(enum ka_trace_by by)
{
	size_t count, nr_frames;
	struct ka_traces *traces;
	const void **end;

	if (by > KA_TRACE_BY_SITE) {
		ka_fail(EINVAL, "invalid grouping of traces %d: choose one of enum ka_trace_by",
			(int)by);
		return NULL;
	}
	ka_trace_lock();
	ka_stacks(&count, &nr_frames);
	traces = traces_make(count, nr_frames);
	if (!traces) {
		ka_trace_unlock();
		return NULL;
	}
	ka_trace_stats(traces);
	traces->by = by;
	end = traces->frames;
	for (struct ka_stack *stack = ka_stacks(&count, &nr_frames); stack;
	     stack = stack->all) {
		traces->entries[traces->count++] = (struct ka_trace_entry){
			.frames = copy_frames(end, (const void *const *)stack->frames,
					      stack->nr_frames),
			.nr_frames = by == KA_TRACE_BY_SITE && stack->nr_frames ?
				     1 : stack->nr_frames,
			.bytes = stack->bytes,
			.blocks = whole_blocks(stack->blocks),
			.total_bytes = stack->total_bytes,
			.total_blocks = whole_blocks(stack->total_blocks),
		};
		end += stack->nr_frames;
	}
	ka_trace_unlock();
	if (by == KA_TRACE_BY_SITE)
		merge(traces);
	sort(traces, by_bytes);
	return traces;
}

static size_t count_frames(const struct ka_traces *traces)
{
	size_t nr_frames = 0;

	for (size_t i = 0; i < traces->count; i++)
		nr_frames += traces->entries[i].nr_frames;
	return nr_frames;
}

/*
 * Append the entries of a snapshot: the earlier one, or the later one. Return the new end of
 * the frames.
 */
static const void **append(struct ka_traces *to, const void **end,
			   const struct ka_traces *from, bool earlier)
{
	for (size_t i = 0; i < from->count; i++) {
		struct ka_trace_entry entry = from->entries[i];

		entry.frames = copy_frames(end, entry.frames, entry.nr_frames);
		entry.more_bytes = (ptrdiff_t)entry.bytes;
		entry.more_blocks = (ptrdiff_t)entry.blocks;
		if (earlier) {
			entry.more_bytes = -entry.more_bytes;
			entry.more_blocks = -entry.more_blocks;
			entry.bytes = 0;
			entry.blocks = 0;
			entry.total_bytes = 0;
			entry.total_blocks = 0;
		}
		to->entries[to->count++] = entry;
		end += entry.nr_frames;
	}
	return end;
}

struct ka_traces *ka_trace_compare(const struct ka_traces *before,
				   const struct ka_traces *after)
{
	struct ka_traces *traces;

	if (before->difference || after->difference || before->by != after->by) {
		ka_fail(EINVAL, "the traces cannot be compared: both must be snapshots with the"
			" same grouping");
		return NULL;
	}
	traces = traces_make(before->count + after->count,
			     count_frames(before) + count_frames(after));
	if (!traces)
		return NULL;
	traces->interval = after->interval;
	traces->most_frames = after->most_frames;
	traces->current = after->current;
	traces->peak = after->peak;
	traces->by = after->by;
	traces->difference = true;
	append(traces, append(traces, traces->frames, before, true), after, false);
	merge(traces);
	sort(traces, by_change);
	return traces;
}

size_t ka_trace_count(const struct ka_traces *traces)
{
	return traces->count;
}

const struct ka_trace_entry *ka_trace_entry(const struct ka_traces *traces, size_t index)
{
	return index < traces->count ? &traces->entries[index] : NULL;
}
