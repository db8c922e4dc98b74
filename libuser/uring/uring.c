// SPDX-License-Identifier: MIT
/*
 * libkarena-uring: io_uring requests that commit and release a heap's memory, and fixed buffers
 * in that memory. Nothing here depends on the layout of a heap.
 */
#include <errno.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <karena/uring.h>
#include <linux/karena.h>

#include "front/private.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ	22
#define MADV_POPULATE_WRITE	23
#endif

/* The kernel's limits: the size of a fixed buffer, and the number of them. */
#define BUFFER_MAX	((size_t)1 << 30)
#define BUFFERS_MAX	(1U << 14)

/* The length in a request has 32 bits. */
#define ADVICE_MAX	(((size_t)1 << 32) - KA_PAGE_SIZE)

/**
 * struct ka_uring_buffers - The fixed buffers of a ring. A buffer's index is its place in @vec.
 * @size: Bytes of the mapping that contains this struct.
 * @nr: Number of buffers.
 * @vec: The buffers, by address.
 */
struct ka_uring_buffers {
	size_t size;
	unsigned int nr;
	struct iovec vec[];
};

_Static_assert(sizeof(struct karena_ranges) <= sizeof(struct ka_uring_call) &&
	       sizeof(struct karena_ready) <= sizeof(struct ka_uring_call),
	       "a request's memory is too small for its call");

static bool whole_pages(const void *start, size_t length)
{
	return length && !(((uintptr_t)start | length) & (KA_PAGE_SIZE - 1));
}

/* True if @length bytes at an address lie in the window; @offset is set to where. */
static bool within(struct ka_heap *heap, const void *address, size_t length,
		   size_t *offset)
{
	size_t size;

	*offset = (uintptr_t)address - (uintptr_t)ka_private_window(heap, &size);
	return *offset < size && length <= size - *offset;
}

int ka_uring_range(struct karena_range *range, struct ka_heap *heap,
		   const void *address, size_t length)
{
	size_t offset;

	if (!whole_pages(address, length) || !within(heap, address, length, &offset))
		return ka_private_fail(EINVAL, "invalid range: it must be whole pages of"
				       " the heap's window");
	*range = (struct karena_range){ .offset = offset, .length = length };
	return 0;
}

static void prep_call(struct io_uring_sqe *sqe, int fd, unsigned int cmd,
		      const void *args)
{
	struct karena_uring command = { .arg = (uintptr_t)args };

	io_uring_prep_rw(IORING_OP_URING_CMD, sqe, fd, NULL, 0, 0);
	sqe->cmd_op = cmd;
	memcpy(sqe->cmd, &command, sizeof(command));
}

/*
 * A worker thread runs the request in any case. IOSQE_ASYNC passes it to the worker at once,
 * which saves the first attempt and copies the entry's command at once. Without the flag, Linux
 * 6.10 to 6.13 would copy the command of a linked request later, when another request may use
 * the entry.
 */
static void prep_ranges(struct io_uring_sqe *sqe, int fd, unsigned int cmd,
			struct ka_uring_call *call, struct karena_range *ranges,
			unsigned int nr)
{
	struct karena_ranges args = {
		.size = sizeof(args), .ranges = (uintptr_t)ranges, .nr = nr
	};

	memcpy(call, &args, sizeof(args));
	prep_call(sqe, fd, cmd, call);
	sqe->flags |= IOSQE_ASYNC;
}

void ka_uring_prep_commit(struct io_uring_sqe *sqe, int fd,
			  struct ka_uring_call *call, struct karena_range *ranges,
			  unsigned int nr)
{
	prep_ranges(sqe, fd, KARENA_COMMIT, call, ranges, nr);
}

void ka_uring_prep_release(struct io_uring_sqe *sqe, int fd,
			   struct ka_uring_call *call, struct karena_range *ranges,
			   unsigned int nr)
{
	prep_ranges(sqe, fd, KARENA_RELEASE, call, ranges, nr);
}

void ka_uring_prep_ready(struct io_uring_sqe *sqe, int fd,
			 struct ka_uring_call *call, unsigned int count,
			 unsigned int node)
{
	struct karena_ready args = {
		.size = sizeof(args), .count = count, .node = node
	};

	memcpy(call, &args, sizeof(args));
	prep_call(sqe, fd, KARENA_READY, call);
}

unsigned int ka_uring_ready(const struct ka_uring_call *call)
{
	struct karena_ready args;

	memcpy(&args, call, sizeof(args));
	return args.ready;
}

static int prep_advice(struct io_uring_sqe *sqe, void *start, size_t length,
		       int advice)
{
	if (!whole_pages(start, length) || length > ADVICE_MAX)
		return ka_private_fail(EINVAL, "invalid range: it must be whole pages and"
				       " less than 4 GiB");
	/* The type of the length differs between versions of liburing. */
	io_uring_prep_madvise(sqe, start, (unsigned int)length, advice);
	return 0;
}

int ka_uring_prep_populate(struct io_uring_sqe *sqe, void *start, size_t length)
{
	return prep_advice(sqe, start, length, MADV_POPULATE_WRITE);
}

int ka_uring_prep_remove(struct io_uring_sqe *sqe, void *start, size_t length)
{
	return prep_advice(sqe, start, length, MADV_REMOVE);
}

/* malloc() may use this very heap, so it is not called here. */
static struct ka_uring_buffers *buffers_alloc(void)
{
	size_t size = sizeof(struct ka_uring_buffers) +
		      BUFFERS_MAX * sizeof(struct iovec);
	struct ka_uring_buffers *buffers;

	buffers = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (buffers == MAP_FAILED) {
		ka_private_fail(ENOMEM, "no memory for the table of fixed buffers");
		return NULL;
	}
	buffers->size = size;
	return buffers;
}

/* Add a range, as few buffers as possible. */
static int buffers_add(struct ka_uring_buffers *buffers, char *start, size_t length)
{
	while (length) {
		size_t part = length < BUFFER_MAX ? length : BUFFER_MAX;

		if (buffers->nr == BUFFERS_MAX)
			return ka_private_fail(E2BIG, "too many fixed buffers: a ring"
					       " has at most 16384");
		buffers->vec[buffers->nr++] = (struct iovec){ start, part };
		start += part;
		length -= part;
	}
	return 0;
}

static int add_committed(struct ka_uring_buffers *buffers, struct ka_heap *heap)
{
	size_t from = 0, length, size;
	char *start = ka_private_window(heap, &size);

	while ((length = ka_private_committed(heap, &from))) {
		if (buffers_add(buffers, start + from, length))
			return -1;
		from += length;
	}
	if (!buffers->nr)
		return ka_private_fail(ENOENT, "nothing to register: nothing of the heap"
				       " is committed yet");
	return 0;
}

static int compare_vec(const void *a, const void *b)
{
	const struct iovec *x = a, *y = b;

	return ((uintptr_t)x->iov_base > (uintptr_t)y->iov_base) -
	       ((uintptr_t)x->iov_base < (uintptr_t)y->iov_base);
}

static int add_ranges(struct ka_uring_buffers *buffers, struct ka_heap *heap,
		      const struct iovec *ranges, unsigned int nr)
{
	size_t offset;

	for (unsigned int i = 0; i < nr; i++) {
		if (!ranges[i].iov_len ||
		    !within(heap, ranges[i].iov_base, ranges[i].iov_len, &offset))
			return ka_private_fail(EINVAL, "memory to be registered is"
					       " empty, or not in the heap");
		if (buffers_add(buffers, ranges[i].iov_base, ranges[i].iov_len))
			return -1;
	}
	if (!nr)
		return ka_private_fail(EINVAL, "nothing to register: no range is passed");
	qsort(buffers->vec, buffers->nr, sizeof(*buffers->vec), compare_vec);
	for (unsigned int i = 1; i < buffers->nr; i++) {
		const struct iovec *before = &buffers->vec[i - 1];

		if ((uintptr_t)before->iov_base + before->iov_len >
		    (uintptr_t)buffers->vec[i].iov_base)
			return ka_private_fail(EINVAL, "two ranges to be registered"
					       " overlap");
	}
	return 0;
}

/* True if all pages of the buffers can be read. */
static bool all_committed(const struct ka_uring_buffers *buffers)
{
	for (unsigned int i = 0; i < buffers->nr; i++) {
		uintptr_t start = (uintptr_t)buffers->vec[i].iov_base;
		uintptr_t end = start + buffers->vec[i].iov_len;

		start &= ~(KA_PAGE_SIZE - 1);
		if (madvise((void *)start, end - start, MADV_POPULATE_READ))
			return false;
	}
	return true;
}

/* Set the message that explains why the kernel refused the buffers. */
static void explain(const struct ka_uring_buffers *buffers, int error)
{
	char text[160];

	switch (error) {
	case EOPNOTSUPP:
		ka_private_fail(error, "this kernel does not accept memory of the module"
				" as fixed buffers, Linux 6.5 does: use plain reads and"
				" writes");
		break;
	case EFAULT:
		if (all_committed(buffers))
			ka_private_fail(EOPNOTSUPP, "the heap was forked or"
					" snapshotted, so its memory can no longer be a"
					" fixed buffer: create a heap for I/O buffers, or"
					" use plain reads and writes");
		else
			ka_private_fail(error, "memory to be registered is not"
					" committed");
		break;
	case ENOMEM:
		ka_private_fail(error, "no memory for fixed buffers, or they exceed the"
				" limit of locked memory (ulimit -l)");
		break;
	case EBUSY:
		ka_private_fail(error, "the ring has fixed buffers already");
		break;
	default:
		snprintf(text, sizeof(text), "cannot register the fixed buffers: %s",
			 strerror(error));
		ka_private_fail(error, text);
	}
}

struct ka_uring_buffers *ka_uring_register(struct io_uring *ring, struct ka_heap *heap,
					   const struct iovec *ranges,
					   unsigned int nr)
{
	struct ka_uring_buffers *buffers = buffers_alloc();
	int err;

	if (!buffers)
		return NULL;
	if (ranges ? add_ranges(buffers, heap, ranges, nr) :
	    add_committed(buffers, heap))
		goto err_buffers;
	err = io_uring_register_buffers(ring, buffers->vec, buffers->nr);
	if (err) {
		explain(buffers, -err);
		goto err_buffers;
	}
	return buffers;

err_buffers:
	err = errno;
	munmap(buffers, buffers->size);
	errno = err;
	return NULL;
}

int ka_uring_buffer_index(const struct ka_uring_buffers *buffers, const void *address,
			  size_t length)
{
	uintptr_t offset, at = (uintptr_t)address;
	unsigned int low = 0, high = buffers->nr;

	/* Find the last buffer that begins at or before the address. */
	while (high - low > 1) {
		unsigned int middle = low + (high - low) / 2;

		if ((uintptr_t)buffers->vec[middle].iov_base <= at)
			low = middle;
		else
			high = middle;
	}
	offset = at - (uintptr_t)buffers->vec[low].iov_base;
	if (offset < buffers->vec[low].iov_len &&
	    length <= buffers->vec[low].iov_len - offset)
		return (int)low;
	return ka_private_fail(ENOENT, "the memory is not within one fixed buffer");
}

void ka_uring_unregister(struct io_uring *ring, struct ka_uring_buffers *buffers)
{
	if (!buffers)
		return;
	if (ring)
		io_uring_unregister_buffers(ring);
	munmap(buffers, buffers->size);
}
