// SPDX-License-Identifier: MIT
/*
 * What the program has of each domain, if KARENA_MALLOC=count asks for it: the domains
 * share one heap, whose pools do not know who wants their blocks, so each call counts.
 * It does so after a block is taken and before one is given back, so that a child of
 * fork() counts none that another thread was just about to have, or no longer to have.
 */
#include <errno.h>

#include <karena/domain.h>

#include "debug.h"

struct ka_tally ka_tallies[KARENA_DOMAINS];

static struct ka_allocator below;

/* Of what is no block, 0: who is below says so. */
static size_t size_of(const void *block)
{
	return ka_heap_block_size(ka_domain_heap(), block);
}

static void add(struct ka_tally *tally, size_t blocks, size_t bytes)
{
	__atomic_fetch_add(&tally->blocks, blocks, __ATOMIC_RELAXED);
	__atomic_fetch_add(&tally->bytes, bytes, __ATOMIC_RELAXED);
}

static void *count_malloc(void *context, size_t size)
{
	void *block = below.malloc(below.context, size);

	if (block)
		add(context, 1, size_of(block));
	return block;
}

static void *count_calloc(void *context, size_t count, size_t size)
{
	void *block = below.calloc(below.context, count, size);

	if (block)
		add(context, 1, size_of(block));
	return block;
}

static void *count_realloc(void *context, void *block, size_t size)
{
	size_t before = block ? size_of(block) : 0;
	void *other = below.realloc(below.context, block, size);

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
	below.free(below.context, block);
}

static struct ka_allocator counting[KARENA_DOMAINS];

/**
 * ka_tally_hook() - Count what a program has of a domain.
 * @domain: The domain; once, before its first block.
 * @next: What takes and gives blocks of the domains' heap, the same for all domains.
 *
 * Return: What is to be behind the domain instead.
 */
const struct ka_allocator *ka_tally_hook(enum ka_domain domain,
					 const struct ka_allocator *next)
{
	below = *next;
	counting[domain] = (struct ka_allocator){
		&ka_tallies[domain], count_malloc, count_calloc, count_realloc, count_free,
	};
	return &counting[domain];
}
