// SPDX-License-Identifier: MIT
/*
 * Buffers for input and output: runs of a separate heap, which the first call creates. A device
 * may write to a buffer at any time, so a child inherits none. If buffers were copied at fork,
 * parent and child would each have a part of the data that is read.
 */
#include <errno.h>
#include <string.h>

#include "heap/heap.h"

/* Addresses only, like the window of any heap. Half the size is tried until there is room. */
#define IO_WINDOW	((size_t)16 << 30)
#define SMALLEST_WINDOW	(64 * KA_MIB)

/*
 * Guards only the two pointers; taken before the locks of heaps. A heap that @heap has pointed
 * to is destroyed only in a child, so a caller may use it without the lock.
 */
static struct ka_mutex lock = KA_MUTEX;
KA_FORK_TAKES(lock);
static struct ka_heap *heap;	/* of this process */
static struct ka_heap *parents;	/* in a child: the parent's, whose addresses stay reserved */

/* KARENA_LIMIT and KARENA_WINDOW are for other heaps. */
static struct ka_heap *create(void)
{
	struct ka_options options = KA_OPTIONS;
	size_t limit = 0, smallest = SMALLEST_WINDOW;
	struct ka_heap *made;

	if (ka_option_size(&limit, "KARENA_IO_LIMIT"))
		return NULL;
	options.name = "io";
	options.fork = KA_FORK_NONE;
	options.io = true;
	options.window = limit > IO_WINDOW ? limit : IO_WINDOW;
	options.limit = limit ? limit : options.window;
	if (limit > smallest)
		smallest = limit;
	while (!(made = ka_heap_create(&options))) {
		options.window /= 2;
		if (errno != ENOMEM || options.window < smallest)
			return NULL;
	}
	made->permanent = true;
	return made;
}

/*
 * In a child, keep the parent's heap as @parents, so that nothing else is mapped at its
 * addresses. The heap of the generation before is destroyed, or a long line of children would
 * run out of addresses. The lock is held.
 */
static void forget_parents(void)
{
	if (!heap || !ka_pools_of(heap)->inherited)
		return;
	ka_heap_destroy(parents);
	parents = heap;
	heap = NULL;
}

/* The heap for a new buffer; NULL with errno and a message. */
static struct ka_heap *heap_for_new(void)
{
	struct ka_heap *found;

	ka_lock(&lock);
	forget_parents();
	if (!heap)
		heap = create();
	found = heap;
	ka_unlock(&lock);
	return found;
}

/* The heap of a buffer; NULL with errno and a message. */
static struct ka_heap *heap_of(const void *buffer)
{
	struct ka_heap *found;
	bool foreign;

	ka_lock(&lock);
	forget_parents();
	found = heap && ka_heap_contains(heap, buffer) ? heap : NULL;
	foreign = !found && parents && ka_heap_contains(parents, buffer);
	ka_unlock(&lock);
	if (foreign)
		ka_fail(EOWNERDEAD, "the I/O buffer %p is the parent process's: a forked child"
			" has no copy of it", buffer);
	else if (!found)
		ka_fail(EINVAL, "no I/O buffer begins at %p", buffer);
	return found;
}

/* Round up to whole pages, at least one. 0 if the size overflows. */
static size_t whole_pages(size_t size)
{
	if (size > SIZE_MAX - KA_PAGE_SIZE) {
		ka_fail(ENOMEM, "an I/O buffer of %zu bytes is too large", size);
		return 0;
	}
	return size ? (size + KA_PAGE_SIZE - 1) & ~(KA_PAGE_SIZE - 1) :
		      KA_PAGE_SIZE;
}

void *ka_io_alloc(size_t size)
{
	size_t whole = whole_pages(size);
	struct ka_heap *in = whole ? heap_for_new() : NULL;

	return in ? ka_run_alloc(in, whole, 0) : NULL;
}

void *ka_io_calloc(size_t count, size_t size)
{
	size_t product;
	void *buffer;

	if (__builtin_mul_overflow(count, size, &product)) {
		ka_fail(ENOMEM, "an I/O buffer of %zu times %zu bytes is too large", count, size);
		return NULL;
	}
	buffer = ka_io_alloc(product);
	if (buffer)
		memset(buffer, 0, whole_pages(product));
	return buffer;
}

/* Find a buffer's heap and size. False if there is no such buffer. */
static bool find(const void *buffer, struct ka_heap **in, size_t *size)
{
	*in = heap_of(buffer);
	*size = *in ? ka_run_size(*in, buffer) : 0;
	return *size;
}

void *ka_io_realloc(void *buffer, size_t size)
{
	size_t whole = whole_pages(size), old;
	struct ka_heap *in;
	void *other;

	if (!buffer)
		return ka_io_alloc(size);
	if (!whole || !find(buffer, &in, &old))
		return NULL;
	if (whole == old)
		return buffer;
	other = ka_run_alloc(in, whole, 0);
	/* A buffer that becomes smaller can stay. */
	if (!other)
		return whole < old ? buffer : NULL;
	memcpy(other, buffer, whole < old ? whole : old);
	ka_run_free(in, buffer);
	return other;
}

int ka_io_free(void *buffer)
{
	struct ka_heap *in;

	if (!buffer)
		return 0;
	in = heap_of(buffer);
	if (!in)
		return -1;
	return ka_run_free(in, buffer);
}

size_t ka_io_size(const void *buffer)
{
	struct ka_heap *in;
	size_t size;

	return find(buffer, &in, &size) ? size : 0;
}
