/* SPDX-License-Identifier: MIT */
/* Copyright (C) 2026 The karena authors */
/**
 * DOC: Rules of tracing
 *
 * Tracing shows where a program allocated its live blocks. For each traced block the library
 * keeps the size and the stack of the allocating call until the block is freed.
 *
 * Tracing covers the blocks of all heaps of the process, also those of the domains, but
 * not the runs of ka_run_alloc(). With an interval of 1 the library traces each block, and
 * all numbers are exact. With a larger interval it traces about one block in that many
 * bytes, and each traced block stands for others. Then the numbers are estimates without
 * bias, whose error is smaller with a smaller interval. Tcmalloc and jemalloc sample in the
 * same way (a Poisson process); the functions are those of Python's tracemalloc.
 *
 * Threads: several threads may call all functions at once. Fork: a child continues with a
 * copy of the traces. Signals: a signal handler must not call any of them.
 *
 * The environment can start tracing: KARENA_TRACE is the interval, and the library writes
 * the traces to KARENA_TRACE_FILE at exit.
 *
 * struct ka_trace_entry belongs to the library, so later versions can add members at its
 * end.
 */
#ifndef KARENA_TRACE_H
#define KARENA_TRACE_H

#include <karena/karena.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

/* A snapshot of the traces; its members are private. */
struct ka_traces;

/**
 * enum ka_trace_by - How a snapshot groups blocks into entries.
 * @KA_TRACE_BY_STACK: All blocks with the same stack.
 * @KA_TRACE_BY_SITE: All blocks with the same innermost frame: the call of an allocating
 *	function.
 */
enum ka_trace_by {
	KA_TRACE_BY_STACK	= 0,
	KA_TRACE_BY_SITE	= 1,
};

/**
 * enum ka_trace_format - File format of a snapshot.
 * @KA_TRACE_FOLDED: One line for each entry with allocated blocks: its functions, the
 *	outermost first, separated by ';', then a space and the bytes. Tools that draw
 *	flame graphs read this. A difference has two numbers, before and after.
 * @KA_TRACE_JSON: All data; the library's documentation describes the members.
 */
enum ka_trace_format {
	KA_TRACE_FOLDED		= 0,
	KA_TRACE_JSON		= 1,
};

/**
 * struct ka_trace_entry - The blocks that one place in the program allocated.
 * @frames: Return addresses, the innermost first, without those of the library.
 * @nr_frames: Number of frames.
 * @bytes: Allocated bytes now, as the program asked for them.
 * @blocks: Allocated blocks now.
 * @total_bytes: Bytes allocated since tracing started.
 * @total_blocks: Blocks allocated since tracing started.
 * @more_bytes: In a difference: how much @bytes has grown. Otherwise 0.
 * @more_blocks: In a difference: how much @blocks has grown. Otherwise 0.
 *
 * A block that realloc changes counts as a new one.
 */
struct ka_trace_entry {
	const void *const *frames;
	size_t nr_frames;
	size_t bytes;
	size_t blocks;
	size_t total_bytes;
	size_t total_blocks;
	ptrdiff_t more_bytes;
	ptrdiff_t more_blocks;
};

/**
 * ka_trace_start() - Start tracing, and drop all earlier traces.
 * @interval: Average number of bytes between traced blocks; 1: all blocks.
 * @frames: Frames to keep of each stack, from 1 to 64.
 *
 * When the call has returned, all threads trace their allocations. Blocks that were
 * allocated before are not traced.
 *
 * Return: 0, or -1 with errno: EINVAL, an argument is out of range; EBUSY, tracing is on.
 */
int ka_trace_start(size_t interval, size_t frames);

/**
 * ka_trace_stop() - Stop tracing new blocks.
 *
 * The traces stay until tracing starts again, and freeing a block still removes its trace.
 * Does nothing if tracing is off.
 */
void ka_trace_stop(void);

/**
 * ka_trace_active() - Check whether tracing is on.
 *
 * Return: True if a thread has started tracing, and no thread has stopped it since.
 */
bool ka_trace_active(void);

/**
 * ka_trace_memory() - Get the number of bytes allocated in traced blocks.
 * @current: Bytes now; or NULL.
 * @peak: Most bytes since tracing started or since ka_trace_reset_peak(); or NULL.
 *
 * Both are estimates if the interval is larger than 1, and 0 if tracing has never started.
 */
void ka_trace_memory(size_t *current, size_t *peak);

/**
 * ka_trace_reset_peak() - Set the peak to the current number of bytes.
 *
 * A program calls this at the start of a phase whose peak it reads by ka_trace_memory().
 */
void ka_trace_reset_peak(void);

/**
 * ka_trace_cost() - Get the memory that tracing uses.
 *
 * Return: Bytes of all traces, stacks and snapshots of the process.
 */
size_t ka_trace_cost(void);

/**
 * ka_trace_of() - Get the stack that allocated a block.
 * @block: The block.
 * @frames: Filled in with return addresses, the innermost first.
 * @most: Entries that @frames has room for.
 *
 * Return: The number of frames filled in; 0, the block is not traced.
 */
size_t ka_trace_of(const void *block, const void **frames, size_t most);

/**
 * ka_trace_free() - Free a snapshot or a difference.
 * @traces: The snapshot; NULL does nothing. No other thread may use it, and its entries are
 *	invalid afterwards.
 */
void ka_trace_free(struct ka_traces *traces);

/**
 * ka_trace_snapshot() - Take a snapshot of all traces.
 * @by: How to group blocks into entries.
 *
 * The entry with most allocated bytes is the first. A snapshot takes no memory from a
 * heap.
 *
 * Return: The snapshot; NULL with errno: ENOMEM, no memory; EINVAL, there is no such
 * grouping.
 */
struct ka_traces *ka_trace_snapshot(enum ka_trace_by by)
	KA_MUST_USE KA_FREED_BY(ka_trace_free, 1);

/**
 * ka_trace_compare() - Compute the difference of two snapshots.
 * @before: The earlier snapshot.
 * @after: The later snapshot, with the same grouping.
 *
 * The difference has the entries of both snapshots, with the numbers of @after. The entry
 * whose bytes changed most, up or down, is the first.
 *
 * Return: The difference; NULL with errno: ENOMEM, no memory; EINVAL, the groupings differ,
 * or one of the two is a difference itself.
 */
struct ka_traces *ka_trace_compare(const struct ka_traces *before,
				   const struct ka_traces *after)
	KA_MUST_USE KA_FREED_BY(ka_trace_free, 1);

/**
 * ka_trace_count() - Get the number of entries of a snapshot.
 * @traces: The snapshot.
 *
 * Return: The number, from 0.
 */
size_t ka_trace_count(const struct ka_traces *traces);

/**
 * ka_trace_entry() - Get an entry of a snapshot.
 * @traces: The snapshot.
 * @index: Number of the entry, from 0.
 *
 * Return: The entry, or NULL if @index is too large. It stays valid until the snapshot is
 * freed.
 */
const struct ka_trace_entry *ka_trace_entry(const struct ka_traces *traces, size_t index);

/**
 * ka_trace_write() - Write a snapshot or a difference to a file.
 * @traces: The snapshot.
 * @path: Path of the file, which is created or overwritten.
 * @format: Format of the file.
 *
 * Functions appear under the names that dladdr() finds, those of dynamic symbols. A program
 * that is linked with -rdynamic has all its functions among them. Other functions appear
 * as the name of their file and an offset.
 *
 * Return: 0, or -1 with errno: EINVAL, there is no such format; or an error of open() or
 * write().
 */
int ka_trace_write(const struct ka_traces *traces, const char *path,
		   enum ka_trace_format format);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif /* KARENA_TRACE_H */
