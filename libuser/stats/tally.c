// SPDX-License-Identifier: MIT
/*
 * What the program has of each domain: the domains share one heap, whose pools do not
 * know who wants their blocks, so each call counts. It does so after a block is taken
 * and before one is given back: where fork() comes between, the child, in which nobody
 * has the block, does not count it. Between the two additions, it has one of them.
 */
#include <errno.h>

#include "stats/tally.h"

struct ka_tally ka_tallies[KARENA_DOMAINS];

/* The same for all domains. */
static struct ka_allocator next;
static struct ka_heap *(*domain_heap)(void);

/* Of what is no block, 0: who is next says so. */
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
 * ka_tally_hooks() - Count what a program has of each domain, from its first block on.
 * @below: What takes and gives blocks of the domains' heap. Called once.
 * @heap: Returns that heap; NULL with errno and a sentence.
 *
 * Return: What is to be behind each domain instead, in their order.
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
