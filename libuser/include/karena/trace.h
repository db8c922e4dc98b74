/* SPDX-License-Identifier: MIT */
/*
 * Tracing: where the blocks that are in use were allocated. For each block that is
 * traced, its size and the stack of calls that led to it are kept until it is freed.
 *
 * Blocks of all heaps of the process are traced, with ka_heap_malloc() and its kin
 * and with the domains, and no runs that ka_run_alloc() gives. With an interval of 1
 * each block is traced, and all figures are exact. With a larger one about one block in
 * so many bytes is, and stands for the others: figures are estimates without a bias,
 * whose error shrinks as the interval does. That is the Poisson sampling of tcmalloc
 * and jemalloc; the calls are those of Python's tracemalloc.
 *
 * All functions may be called by several threads at once, and across fork(): a child
 * goes on with a copy of the traces. None may be called from a signal handler.
 *
 * The environment can ask for tracing: KARENA_TRACE is the interval, and at exit the
 * traces are written to KARENA_TRACE_FILE.
 */
#ifndef KARENA_TRACE_H
#define KARENA_TRACE_H

#include <karena/karena.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

/** struct ka_traces - Traces of one moment; its members are the library's own. */
struct ka_traces;

/**
 * enum ka_trace_by - What makes one entry of a snapshot.
 * @KA_TRACE_BY_STACK: All blocks with the same stack.
 * @KA_TRACE_BY_SITE: All blocks with the same innermost frame, the call of an
 *	allocating function.
 */
enum ka_trace_by {
	KA_TRACE_BY_STACK	= 0,
	KA_TRACE_BY_SITE	= 1,
};

/**
 * enum ka_trace_format - How a snapshot is written.
 * @KA_TRACE_FOLDED: A line for each entry with blocks in use: its functions, the
 *	outermost first, with ';' between them, a space, and the bytes. Tools that draw
 *	flame graphs read it. Of a difference there are two numbers, before and after.
 * @KA_TRACE_JSON: All there is, as library.rst describes it.
 */
enum ka_trace_format {
	KA_TRACE_FOLDED		= 0,
	KA_TRACE_JSON		= 1,
};

/**
 * struct ka_trace_entry - Blocks that were allocated at one place.
 * @frames: Return addresses, the innermost first; the library's own are left out.
 * @nr_frames: How many these are.
 * @bytes: Bytes in use, as they were asked for.
 * @blocks: Blocks in use.
 * @total_bytes: Bytes that were allocated since tracing started.
 * @total_blocks: Blocks that were.
 * @more_bytes: Of a difference: by how much @bytes has grown. Else 0.
 * @more_blocks: Likewise.
 *
 * realloc is a new allocation.
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
 * ka_trace_start() - Begin to trace, and forget what was traced before.
 * @interval: Bytes between traced blocks, on average; 1: all blocks.
 * @frames: How many frames to keep of each stack, from 1 to 64.
 *
 * Whatever is allocated after it has returned, by any thread, is traced. Blocks that
 * are in use already are not.
 *
 * Return: 0, or -1 with errno: EINVAL, a number is wrong; EBUSY, tracing is on.
 */
int ka_trace_start(size_t interval, size_t frames);

/**
 * ka_trace_stop() - Trace no more blocks.
 *
 * Traces stay until tracing starts again: those of blocks that are freed go as before.
 * Without tracing it does nothing.
 */
void ka_trace_stop(void);

/** ka_trace_active() - Whether tracing is on. */
bool ka_trace_active(void);

/**
 * ka_traced_memory() - How many bytes are in use in blocks that were traced.
 * @current: Now; or NULL.
 * @peak: The most since tracing started, or since ka_trace_reset_peak(); or NULL.
 */
void ka_traced_memory(size_t *current, size_t *peak);

/** ka_trace_reset_peak() - Let the peak be what is in use now. */
void ka_trace_reset_peak(void);

/** ka_trace_cost() - How many bytes of memory traces and snapshots take. */
size_t ka_trace_cost(void);

/**
 * ka_trace_of() - Where a block was allocated.
 * @block: The block.
 * @frames: Filled in: return addresses, the innermost first.
 * @most: How many of them there is room for.
 *
 * Return: How many were filled in; 0, the block is not traced.
 */
size_t ka_trace_of(const void *block, const void **frames, size_t most);

/**
 * ka_trace_snapshot() - All traces as they are now.
 * @by: What makes an entry.
 *
 * The entry with most bytes in use is the first. Its memory is not from a heap.
 *
 * Return: The snapshot, for ka_trace_free(); NULL with errno: ENOMEM; EINVAL, there is
 * no such grouping.
 */
struct ka_traces *ka_trace_snapshot(enum ka_trace_by by);

/**
 * ka_trace_compare() - What has changed between two snapshots.
 * @before: The earlier one.
 * @after: The later one, with the same grouping.
 *
 * Its entries are those of either, with @after's figures; the one whose bytes have
 * changed most, up or down, is the first.
 *
 * Return: The difference, for ka_trace_free(); NULL with errno: ENOMEM; EINVAL, they
 * are grouped differently, or one is a difference.
 */
struct ka_traces *ka_trace_compare(const struct ka_traces *before,
				   const struct ka_traces *after);

/** ka_trace_count() - How many entries a snapshot has. */
size_t ka_trace_count(const struct ka_traces *traces);

/** ka_trace_entry() - An entry; NULL if there are not so many. It goes with @traces. */
const struct ka_trace_entry *ka_trace_entry(const struct ka_traces *traces, size_t index);

/**
 * ka_trace_write() - Write a snapshot, or a difference, to a file.
 * @traces: What to write.
 * @path: The file, made or overwritten.
 * @format: How.
 *
 * Functions have the names that dladdr() finds, those of the dynamic symbols: a program
 * that is linked with -rdynamic has its own among them. Others are the name of the
 * file that they are in, and where.
 *
 * Return: 0, or -1 with errno: EINVAL, there is no such format; what open() and write()
 * fail with.
 */
int ka_trace_write(const struct ka_traces *traces, const char *path,
		   enum ka_trace_format format);

/** ka_trace_free() - Give up a snapshot; NULL does nothing. */
void ka_trace_free(struct ka_traces *traces);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif /* KARENA_TRACE_H */
