// SPDX-License-Identifier: MIT
/*
 * An allocator that counts calls and passes them on to another one:
 *
 *	cc domain.c -o domain $(pkg-config --cflags --libs karena)
 *	./domain
 *
 * The program reads the allocator of the domain obj and replaces it with one that counts
 * and calls the old one. It also frees blocks that the old one allocated. Several threads
 * may call an allocator at once, so the counts are atomic.
 */
#include <stdio.h>
#include <stdlib.h>

#include <karena/domain.h>

#define BLOCKS	1000

struct counts {
	struct ka_allocator below;
	size_t allocated, resized, freed;
};

static void die(const char *what)
{
	fprintf(stderr, "domain: %s: %s\n", what, ka_error());
	exit(1);
}

static void add(size_t *count)
{
	__atomic_fetch_add(count, 1, __ATOMIC_RELAXED);
}

static void *counting_malloc(void *context, size_t size)
{
	struct counts *counts = context;

	add(&counts->allocated);
	return counts->below.malloc(counts->below.context, size);
}

static void *counting_calloc(void *context, size_t count, size_t size)
{
	struct counts *counts = context;

	add(&counts->allocated);
	return counts->below.calloc(counts->below.context, count, size);
}

static void *counting_realloc(void *context, void *block, size_t size)
{
	struct counts *counts = context;

	add(block ? &counts->resized : &counts->allocated);
	return counts->below.realloc(counts->below.context, block, size);
}

static void counting_free(void *context, void *block)
{
	struct counts *counts = context;

	if (block)
		add(&counts->freed);
	counts->below.free(counts->below.context, block);
}

int main(void)
{
	static struct counts counts;
	struct ka_allocator counting = {
		&counts, counting_malloc, counting_calloc, counting_realloc,
		counting_free,
	};
	char *before = ka_obj_malloc(100), *blocks[BLOCKS];

	if (!before || ka_allocator_get(KA_DOMAIN_OBJ, &counts.below) ||
	    ka_allocator_set(KA_DOMAIN_OBJ, &counting))
		die("cannot replace the allocator");

	for (size_t i = 0; i < BLOCKS; i++) {
		blocks[i] = i % 2 ? ka_obj_malloc(i) : ka_obj_calloc(i, 1);
		if (!blocks[i])
			die("cannot allocate a block");
	}
	for (size_t i = 0; i < BLOCKS; i += 10) {
		char *larger = ka_obj_realloc(blocks[i], 2 * i);

		if (!larger)
			die("cannot make a block larger");
		blocks[i] = larger;
	}
	for (size_t i = 0; i < BLOCKS; i++)
		ka_obj_free(blocks[i]);
	ka_obj_free(before);

	if (ka_allocator_set(KA_DOMAIN_OBJ, &counts.below))
		die("cannot restore the allocator");
	ka_obj_free(ka_obj_malloc(100));	/* not counted */
	printf("%zu allocated, %zu resized, %zu freed\n", counts.allocated, counts.resized,
	       counts.freed);
	return 0;
}
