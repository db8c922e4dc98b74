// SPDX-License-Identifier: MIT
/*
 * Counters of each domain. The domains share one heap, whose pools do not know the domain of a
 * block, so each call counts.
 *
 * A call counts a block after it was allocated, and before it is freed. If the process forks in
 * between, no thread of the child has the block, and the child does not count it. If it forks
 * between the two additions of one call, the child has one of them.
 */
#include <errno.h>

#include "stats/tally.h"

struct ka_tally ka_tallies[KARENA_DOMAINS];

/* The allocator below the counters, and its heap. All domains have the same. */
static struct ka_allocator next;
static struct ka_heap *(*domain_heap)(void);

/* The usable size; 0 for an invalid block, which the next allocator reports. */
static size_t size_of(const void *block)
{
	struct ka_heap *heap = domain_heap();

	return heap ? ka_heap_usable_size(heap, block) : 0;
}

static void add(struct ka_tally *tally, size_t blocks, size_t bytes)
{
	__atomic_fetch_add(&tally->blocks, blocks, __ATOMIC_RELAXED);
	__atomic_fetch_add(&tally->bytes, bytes, __ATOMIC_RELAXED);
}

static void *count_malloc(void *context, size_t size)
{
	void *block = next.malloc(next.context, size);

	if (block)
		add(context, 1, size_of(block));
	return block;
}

static void *count_calloc(void *context, size_t count, size_t size)
{
	void *block = next.calloc(next.context, count, size);

	if (block)
		add(context, 1, size_of(block));
	return block;
}

static void *count_realloc(void *context, void *block, size_t size)
{
	size_t before = block ? size_of(block) : 0;
	void *other = next.realloc(next.context, block, size);

	if (other)
		add(context, !block, size_of(other) - before);
	return other;
}

static void count_free(void *context, void *block)
{
	int error = errno;

	if (block)
		add(context, (size_t)-1, -size_of(block));
	errno = error;
	next.free(next.context, block);
}

/**
 * ka_tally_hooks() - Make allocators that count the blocks of each domain.
 * @below: The allocator of the domains' heap.
 * @heap: Returns that heap, or NULL with errno and a message.
 *
 * Called once, before the program has a block.
 *
 * Return: An allocator for each domain, in their order.
 */
const struct ka_allocator *ka_tally_hooks(const struct ka_allocator *below,
					  struct ka_heap *(*heap)(void))
{
	static struct ka_allocator hooks[KARENA_DOMAINS];

	next = *below;
	domain_heap = heap;
	for (int i = 0; i < KARENA_DOMAINS; i++)
		hooks[i] = (struct ka_allocator){
			&ka_tallies[i], count_malloc, count_calloc, count_realloc,
			count_free,
		};
	return hooks;
}
