/* SPDX-License-Identifier: MIT */
/*
 * Tracing. The files of this folder:
 *
 *	trace.c		whether blocks are traced; the table of traced blocks
 *	autotrace.c	tracing by the environment
 *	tracefile.c	writing traces to a file
 *	traces.c	snapshots: grouped, sorted and compared
 *	stack.c		stacks, each stored once
 *	sample.c	which blocks are traced, and for how many blocks each counts
 *
 * A traced block is a run, or lies in a pool that the tracer alone owns (KA_TRACED). Freeing
 * any other block therefore costs nothing more.
 *
 * The lock of the traces guards all data of these files, except thread-local variables. Threads
 * take it after the lock of the lists, and before that of a heap.
 */
#ifndef KARENA_TRACE_INTERNAL_H
#define KARENA_TRACE_INTERNAL_H

#include <karena/trace.h>

#include "heap/heap.h"

#define KA_TRACE_FRAMES	64

/* A traced block counts as several blocks: its weight, in these parts of a block. */
#define KA_WEIGHT_ONE	((uint64_t)1 << 16)

/**
 * struct ka_stack - A stack, and counters of the blocks that were allocated there. The counters
 *	are estimates for all blocks, made from the traced ones.
 * @next: The next stack of the bucket.
 * @all: The stack that was added before this one.
 * @hash: Hash of the frames.
 * @bytes: Bytes in use.
 * @blocks: Blocks in use, in parts of KA_WEIGHT_ONE.
 * @total_bytes: Bytes allocated since tracing started.
 * @total_blocks: Blocks allocated since then, in parts of KA_WEIGHT_ONE.
 * @nr_frames: Number of frames.
 * @frames: Return addresses, the innermost first.
 */
struct ka_stack {
	struct ka_stack *next;
	struct ka_stack *all;
	uint64_t hash;
	uint64_t bytes;
	uint64_t blocks;
	uint64_t total_bytes;
	uint64_t total_blocks;
	size_t nr_frames;
	void *frames[];
};

/**
 * struct ka_traces - A snapshot of the traces, or the difference of two.
 * @mapped: Bytes of its memory.
 * @interval: Interval of tracing.
 * @most_frames: Maximum number of frames of a stack.
 * @current: Estimated bytes in use.
 * @peak: Maximum of @current since tracing started, or since ka_trace_reset_peak().
 * @by: How the entries are grouped.
 * @difference: This is a difference.
 * @count: Number of entries.
 * @frames: The frames of all entries, one after the other.
 * @entries: The entries.
 */
struct ka_traces {
	size_t mapped;
	size_t interval;
	size_t most_frames;
	size_t current;
	size_t peak;
	enum ka_trace_by by;
	bool difference;
	size_t count;
	const void **frames;
	struct ka_trace_entry entries[];
};

/* trace.c */
void ka_trace_attach(void);
void ka_trace_lock(void);
void ka_trace_unlock(void);
void ka_trace_stats(struct ka_traces *traces);

/* autotrace.c */
void ka_traces_open(void);

/* stack.c; the lock of the traces is held, except for the first two */
void *ka_trace_map(size_t size);
void ka_trace_unmap(void *start, size_t size);
struct ka_stack *ka_stack_of(void *const frames[], size_t count);
struct ka_stack *ka_stacks(size_t *count, size_t *nr_frames);
void ka_stacks_forget(void);

/* sample.c */
size_t ka_sample_next(size_t interval);
uint64_t ka_sample_weight(size_t size, size_t interval);
void ka_sample_seed(uint64_t seed);

#endif /* KARENA_TRACE_INTERNAL_H */
