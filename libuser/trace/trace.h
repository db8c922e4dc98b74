/* SPDX-License-Identifier: MIT */
/*
 * Tracing, as the rest of the library sees it, and what its files share:
 *
 *	trace.c		whether blocks are traced, and which are
 *	autotrace.c	what the environment asks for
 *	tracefile.c	traces written to a file
 *	traces.c	traces as they were at one moment, grouped and compared
 *	stack.c		stacks, each kept once
 *	sample.c	which blocks are traced, and for how many each of them stands
 *
 * A traced block lies in a pool that belongs to nobody but the tracer (KA_TRACED), or
 * is a run: no other block costs anything when it is freed.
 *
 * The lock of the traces guards all of this but what is a thread's own. It is taken
 * after that of the lists, and before any heap's.
 */
#ifndef KARENA_TRACE_INTERNAL_H
#define KARENA_TRACE_INTERNAL_H

#include <karena/trace.h>

#include "heap/heap.h"

#define KA_TRACE_FRAMES	64

/* Weights are in parts of so many: for how many blocks a traced one stands. */
#define KA_WEIGHT_ONE	((uint64_t)1 << 16)

/**
 * struct ka_stack - A stack that blocks were allocated at.
 * @next: In its bucket.
 * @all: Of all stacks, the one that came before it.
 * @hash: Of its frames.
 * @bytes: In use now. What is traced stands for the rest here, as in all that follows.
 * @blocks: Likewise, in parts of KA_WEIGHT_ONE.
 * @total_bytes: Allocated since tracing began.
 * @total_blocks: Likewise, in parts of KA_WEIGHT_ONE.
 * @nr_frames: How many frames it has.
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
 * struct ka_traces - Traces as they were at one moment, or what two of them differ in.
 * @mapped: Bytes of its memory.
 * @interval: That of tracing.
 * @most_frames: How many frames were kept at most.
 * @current: Bytes in use.
 * @peak: The most that there were.
 * @by: How they are grouped.
 * @difference: It is one.
 * @count: How many entries there are.
 * @frames: All entries' frames, one after the other.
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
void ka_trace_figures(struct ka_traces *traces);

/* autotrace.c */
void ka_traces_open(void);

/* stack.c; with the lock of the traces held, but for the first two. */
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
