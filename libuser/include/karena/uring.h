/* SPDX-License-Identifier: MIT */
/*
 * libkarena-uring: a heap's memory through io_uring. It is committed, released and
 * kept ready by requests that a worker of the ring carries out, and registered as
 * fixed buffers.
 *
 * The functions that prepare a request fill in an entry of the submission queue, as
 * those of liburing do; user data is set behind them, and flags are added (sqe->flags
 * |= IOSQE_IO_LINK), as there is one already: IOSQE_ASYNC. They make no system call
 * and cannot fail, but for those that say what they return. The descriptor is
 * ka_heap_descriptor()'s; it may be a registered file (IOSQE_FIXED_FILE). A
 * completion's result is 0 or a negative errno; EOPNOTSUPP: the module is older than
 * its calls through io_uring.
 *
 * Those that fail set errno and leave one sentence, for people, in ka_error().
 *
 * Threads: a ring is one thread's at a time, as with liburing; so are the fixed buffers
 * of a ring, but for ka_uring_buffer_index(). Fork: a child has no use of its parent's
 * rings. A descriptor that it inherits stands for its own clone of the heap. None may
 * be called from a signal handler.
 */
#ifndef KARENA_URING_H
#define KARENA_URING_H

#include <sys/uio.h>

#include <karena/karena.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

struct io_uring;
struct io_uring_sqe;

/* Of the module's interface, installed as karena/linux/karena.h. */
struct karena_range;

/**
 * struct ka_uring_call - The memory of one request, from its preparation until its
 *	completion; its members are the library's own.
 * @words: Not to be looked at.
 */
struct ka_uring_call {
	uint64_t words[8];
};

/** struct ka_uring_buffers - A ring's fixed buffers in a heap. */
struct ka_uring_buffers;

/**
 * ka_uring_range() - Fill in a range for the two calls below.
 * @range: Filled in.
 * @heap: The heap.
 * @address: Where it begins: an address in the heap's window, of a whole page.
 * @length: Bytes, whole pages, not 0.
 *
 * Return: 0, or -1 with errno EINVAL: not whole pages, or not within the window.
 */
int ka_uring_range(struct karena_range *range, struct ka_heap *heap,
		   const void *address, size_t length);

/**
 * ka_uring_prep_commit() - Prepare to commit ranges of a heap.
 * @sqe: The entry.
 * @fd: The heap's descriptor.
 * @call: Memory for the request.
 * @ranges: The ranges, with results 0; each has its result when the request completes.
 *	They must stay until then.
 * @nr: How many these are, KARENA_RANGES_MAX at most.
 *
 * What is committed already stays as it is. A run has its memory from ka_run_alloc();
 * this is for what was released since, and for heaps that are driven by the module's
 * interface. The completion fails with the first result that is an error: ENOMEM, no
 * memory or a limit, or another that karena/linux/karena.h names.
 */
void ka_uring_prep_commit(struct io_uring_sqe *sqe, int fd,
			  struct ka_uring_call *call, struct karena_range *ranges,
			  unsigned int nr);

/**
 * ka_uring_prep_release() - Prepare to release ranges of a heap.
 * @sqe: The entry.
 * @fd: The heap's descriptor.
 * @call: Memory for the request.
 * @ranges: The ranges, as above.
 * @nr: How many these are.
 *
 * A run of which something is released stays a run, whose addresses nobody else gets:
 * a touch of them is SIGBUS, until they are committed again. That must be before
 * ka_run_free(), which leaves the memory to the next run.
 */
void ka_uring_prep_release(struct io_uring_sqe *sqe, int fd,
			   struct ka_uring_call *call, struct karena_range *ranges,
			   unsigned int nr);

/**
 * ka_uring_prep_ready() - Prepare to keep huge frames cleared ahead for a heap.
 * @sqe: The entry.
 * @fd: The heap's descriptor.
 * @call: Memory for the request.
 * @count: How many to keep from now on.
 * @node: On which NUMA node; KARENA_NODE_ANY: on all together.
 *
 * The completion fails with EINVAL, more than the window has arenas, or no such node;
 * ENOMEM, the limit of locked memory.
 */
void ka_uring_prep_ready(struct io_uring_sqe *sqe, int fd,
			 struct ka_uring_call *call, unsigned int count,
			 unsigned int node);

/**
 * ka_uring_ready() - How many frames were ready.
 * @call: Of a request that ka_uring_prep_ready() prepared, completed with 0.
 *
 * Return: Frames, on the node that was asked about or on all.
 */
unsigned int ka_uring_ready(const struct ka_uring_call *call);

/**
 * ka_uring_prep_populate() - Prepare MADV_POPULATE_WRITE.
 * @sqe: The entry.
 * @start: Where it begins; whole pages.
 * @length: Bytes, whole pages, less than 4 GiB.
 *
 * Of a run: makes the copies ahead that writing would make, after a fork or a
 * snapshot. Of arenas whose state words say REQUESTED: commits them. Needs no
 * descriptor, and works on plain mmap, too. The completion fails with ENOMEM, no
 * memory or a limit, or EFAULT, not committed.
 *
 * Return: 0, or -1 with errno EINVAL: not whole pages, none, or too many.
 */
int ka_uring_prep_populate(struct io_uring_sqe *sqe, void *start, size_t length);

/**
 * ka_uring_prep_remove() - Prepare MADV_REMOVE.
 * @sqe: The entry.
 * @start: Where it begins; whole pages.
 * @length: Bytes, whole pages, less than 4 GiB.
 *
 * Releases as ka_uring_prep_release() does, without a descriptor. The completion fails
 * with EINVAL where the memory is locked (mlock) or the heap is on plain mmap.
 *
 * Return: 0, or -1 with errno EINVAL: not whole pages, none, or too many.
 */
int ka_uring_prep_remove(struct io_uring_sqe *sqe, void *start, size_t length);

/**
 * ka_uring_register() - Make a heap's memory the fixed buffers of a ring.
 * @ring: The ring, which has no fixed buffers.
 * @heap: The heap.
 * @ranges: Which memory: committed, within the heap, no two overlapping; NULL: all
 *	that is committed now.
 * @nr: How many these are; 0 with NULL.
 *
 * A range above 1 GiB becomes several buffers. The memory is pinned: what is in a run
 * stays where it is as long as it is registered, whatever reclaim would like. What is
 * released meanwhile, or the run freed, is lost to the ring: what it reads from then on
 * arrives nowhere. Each page counts against the limit of locked memory once more
 * (ulimit -l). On plain mmap, a fork takes the memory away from the ring or from the
 * heap, as it does with all private memory.
 *
 * Return: The buffers, or NULL with errno: EOPNOTSUPP, the kernel takes no memory of the
 * module (before Linux 6.5), or none of a heap that was forked or snapshotted and is
 * not for I/O buffers; EFAULT, not all of it is committed; EINVAL, a range
 * is empty, not within the heap, or overlaps; ENOMEM, no memory, or the limit of locked
 * memory; E2BIG, more than 16,384 buffers; ENOENT, nothing is committed; EBUSY, the
 * ring has fixed buffers; or another of io_uring_register(2).
 */
struct ka_uring_buffers *ka_uring_register(struct io_uring *ring, struct ka_heap *heap,
					   const struct iovec *ranges,
					   unsigned int nr);

/**
 * ka_uring_buffer_index() - In which fixed buffer memory is.
 * @buffers: The ring's buffers.
 * @address: Where it begins.
 * @length: Bytes; all in one buffer.
 *
 * May be called by several threads at once.
 *
 * Return: The index for io_uring_prep_read_fixed() and the like; -1 with errno ENOENT:
 * in none, or in two.
 */
int ka_uring_buffer_index(const struct ka_uring_buffers *buffers, const void *address,
			  size_t length);

/**
 * ka_uring_unregister() - Give up a ring's fixed buffers.
 * @ring: The ring they were registered with, or NULL when it is gone already.
 * @buffers: The buffers, or NULL; not to be used any more.
 *
 * Waits for requests that use them, on kernels that do.
 */
void ka_uring_unregister(struct io_uring *ring, struct ka_uring_buffers *buffers);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif /* KARENA_URING_H */
