/* SPDX-License-Identifier: MIT */
/* Copyright (C) 2026 The karena authors */
/**
 * DOC: Rules of libkarena-uring
 *
 * libkarena-uring handles the memory of a heap through io_uring. A worker of the ring commits and
 * releases it and prepares frames for it, and a program registers it as fixed buffers.
 *
 * The ka_uring_prep_*() functions fill in an entry of the submission queue, like those of
 * liburing. The caller sets the user data afterwards. It adds flags to those that are set
 * (``sqe->flags |= IOSQE_IO_LINK``), because the functions have set IOSQE_ASYNC. They make no
 * system call, and only those that return a value can fail. The descriptor is that of
 * ka_heap_descriptor(), or its index as a registered file (IOSQE_FIXED_FILE). The result
 * of a completion is 0 or a negative errno; EOPNOTSUPP: the module does not support these
 * calls through io_uring.
 *
 * Errors: a function that fails sets errno, and ka_error() returns a message.
 *
 * Threads: as with liburing, one thread at a time may use a ring. The same is true for the
 * fixed buffers of a ring, except for ka_uring_buffer_index(). Fork: a child cannot use its
 * parent's rings. A descriptor that a child inherits refers to its own copy of the heap.
 * Signals: a signal handler must not call any of these functions.
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

/* Part of the module's interface, installed as karena/linux/karena.h. */
struct karena_range;

/**
 * struct ka_uring_call - Memory of one request, in use until the request completes.
 * @words: Private.
 */
struct ka_uring_call {
	uint64_t words[8];
};

/* The fixed buffers of a ring in a heap; its members are private. */
struct ka_uring_buffers;

/**
 * ka_uring_range() - Fill in a range for the next two functions.
 * @range: Filled in.
 * @heap: The heap.
 * @address: First address, at a page boundary in the heap's window.
 * @length: Bytes, whole pages, not 0.
 *
 * Return: 0, or -1 with errno EINVAL: not whole pages, or not within the window.
 */
int ka_uring_range(struct karena_range *range, struct ka_heap *heap,
		   const void *address, size_t length);

/**
 * ka_uring_prep_commit() - Prepare a request that commits ranges of a heap.
 * @sqe: Submission queue entry.
 * @fd: Descriptor of the heap.
 * @call: Memory of the request.
 * @ranges: The ranges, with results 0. They must stay in place until the request completes,
 *	which stores a result in each.
 * @nr: Number of ranges, at most KARENA_RANGES_MAX.
 *
 * Committed pages stay as they are. ka_run_alloc() commits the memory of a run, so this is
 * for memory that was released since, and for programs that drive a heap through the
 * module's interface. The completion fails with the first error among the results: ENOMEM,
 * no memory or a limit, or an error that karena/linux/karena.h describes.
 */
void ka_uring_prep_commit(struct io_uring_sqe *sqe, int fd,
			  struct ka_uring_call *call, struct karena_range *ranges,
			  unsigned int nr);

/**
 * ka_uring_prep_release() - Prepare a request that releases ranges of a heap.
 * @sqe: Submission queue entry.
 * @fd: Descriptor of the heap.
 * @call: Memory of the request.
 * @ranges: The ranges, as for ka_uring_prep_commit().
 * @nr: Number of ranges.
 *
 * A run stays allocated when pages of it are released. Touching these pages raises SIGBUS
 * until they are committed again. The program must commit them before ka_run_free(), which
 * makes the memory available to the next run.
 */
void ka_uring_prep_release(struct io_uring_sqe *sqe, int fd,
			   struct ka_uring_call *call, struct karena_range *ranges,
			   unsigned int nr);

/**
 * ka_uring_prep_ready() - Prepare a request that keeps cleared huge frames for a heap.
 * @sqe: Submission queue entry.
 * @fd: Descriptor of the heap.
 * @call: Memory of the request.
 * @count: Number of frames to keep from now on.
 * @node: NUMA node; KARENA_NODE_ANY: all nodes together.
 *
 * The completion fails with EINVAL, more frames than the window has arenas, or no such
 * node; ENOMEM, the limit of locked memory.
 */
void ka_uring_prep_ready(struct io_uring_sqe *sqe, int fd,
			 struct ka_uring_call *call, unsigned int count,
			 unsigned int node);

/**
 * ka_uring_ready() - Get the number of frames that were ready.
 * @call: Memory of a request of ka_uring_prep_ready() that completed with 0.
 *
 * Return: Frames on the node of the request, or on all nodes.
 */
unsigned int ka_uring_ready(const struct ka_uring_call *call);

/**
 * ka_uring_prep_populate() - Prepare MADV_POPULATE_WRITE.
 * @sqe: Submission queue entry.
 * @start: First address, at a page boundary.
 * @length: Bytes, whole pages, less than 4 GiB.
 *
 * In a run, this makes the copies in advance that writes would make after a fork or a
 * snapshot. Arenas whose state word is REQUESTED are committed. Needs no descriptor, and
 * works on plain mmap. The completion fails with ENOMEM, no memory or a limit, or EFAULT,
 * not committed.
 *
 * Return: 0, or -1 with errno EINVAL: not whole pages, none, or too many.
 */
int ka_uring_prep_populate(struct io_uring_sqe *sqe, void *start, size_t length);

/**
 * ka_uring_prep_remove() - Prepare MADV_REMOVE.
 * @sqe: Submission queue entry.
 * @start: First address, at a page boundary.
 * @length: Bytes, whole pages, less than 4 GiB.
 *
 * Releases memory as ka_uring_prep_release() does, without a descriptor. The completion
 * fails with EINVAL if the memory is locked (mlock) or the heap is on plain mmap.
 *
 * Return: 0, or -1 with errno EINVAL: not whole pages, none, or too many.
 */
int ka_uring_prep_remove(struct io_uring_sqe *sqe, void *start, size_t length);

/**
 * ka_uring_unregister() - Unregister the fixed buffers of a ring.
 * @ring: The ring that they were registered with; NULL if it is gone already.
 * @buffers: The buffers, which the call frees; NULL does nothing.
 *
 * Some kernels make this call wait for requests that use the buffers.
 */
void ka_uring_unregister(struct io_uring *ring, struct ka_uring_buffers *buffers);

/**
 * ka_uring_register() - Register the memory of a heap as fixed buffers of a ring.
 * @ring: A ring without fixed buffers.
 * @heap: The heap.
 * @ranges: The memory: committed, within the heap, without overlap. NULL: all memory that
 *	is committed now.
 * @nr: Number of ranges; 0 with NULL.
 *
 * A range above 1 GiB becomes several buffers. Registration pins the memory: reclaim cannot
 * free or move an allocated run. If memory is released, or its run freed, while it is
 * registered, the ring loses this memory: data that the ring reads into it do not arrive in
 * the heap. Each page counts a second time against the limit of locked memory (ulimit -l).
 * On plain mmap a fork separates the memory of the ring from that of the heap, as it does
 * with all private memory.
 *
 * Return: The buffers, or NULL with errno: EOPNOTSUPP, the kernel cannot pin memory of the
 * module (before Linux 6.5), or not that of a heap that was forked or snapshotted and is
 * not for I/O buffers; EFAULT, not all memory is committed; EINVAL, a range is empty, not
 * within the heap, or overlaps; ENOMEM, no memory, or the limit of locked memory; E2BIG,
 * more than 16,384 buffers; ENOENT, no memory is committed; EBUSY, the ring has fixed
 * buffers; or another error of io_uring_register(2).
 */
struct ka_uring_buffers *ka_uring_register(struct io_uring *ring, struct ka_heap *heap,
					   const struct iovec *ranges,
					   unsigned int nr)
	KA_MUST_USE;

/**
 * ka_uring_buffer_index() - Find the fixed buffer that contains memory.
 * @buffers: The buffers of a ring.
 * @address: First address.
 * @length: Bytes, all in one buffer.
 *
 * Several threads may call this at once.
 *
 * Return: The index for io_uring_prep_read_fixed() and the like; -1 with errno ENOENT: no
 * buffer contains the memory, or it lies in two.
 */
int ka_uring_buffer_index(const struct ka_uring_buffers *buffers, const void *address,
			  size_t length);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif /* KARENA_URING_H */
