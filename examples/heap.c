// SPDX-License-Identifier: MIT
/*
 * A heap with a name and a limit:
 *
 *	cc -pthread heap.c -o heap $(pkg-config --cflags --libs karena)
 *	./heap
 *
 * Four threads build lists in the heap. Then the program allocates blocks until the heap is
 * at its limit, which is an error and does not end the program. It destroys the heap with
 * all blocks in it, and does not free the lists.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <karena/karena.h>

#define THREADS		4
#define NODES		100000	/* in the list of each thread */

struct node {
	struct node *next;
	long value;
};

static struct ka_heap *heap;

static void die(const char *what, const char *why)
{
	fprintf(stderr, "heap: %s: %s\n", what, why);
	exit(1);
}

static void *build(void *list)
{
	for (long i = 0; i < NODES; i++) {
		struct node *node = ka_heap_malloc(heap, sizeof(*node));

		if (!node)
			die("cannot allocate a node", ka_error());
		*node = (struct node){ *(struct node **)list, i };
		*(struct node **)list = node;
	}
	return NULL;
}

int main(void)
{
	struct ka_options options = KA_OPTIONS;
	struct node *lists[THREADS] = { NULL };
	pthread_t threads[THREADS];
	long sum = 0, blocks = 0;

	options.name = "example";
	options.limit = (size_t)32 << 20;
	heap = ka_heap_create(&options);
	if (!heap)
		die("cannot create a heap", ka_error());

	for (int i = 0; i < THREADS; i++) {
		int err = pthread_create(&threads[i], NULL, build, &lists[i]);

		if (err)
			die("cannot create a thread", strerror(err));
	}
	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i], NULL);
		for (struct node *node = lists[i]; node; node = node->next)
			sum += node->value;
	}
	printf("%d lists of %d nodes with the sum %ld\n", THREADS, NODES, sum);

	while (ka_heap_malloc(heap, 100000))
		blocks++;
	if (errno != ENOMEM)
		die("cannot allocate a block", ka_error());
	printf("%ld more blocks, then: %s\n", blocks, ka_error());

	ka_heap_destroy(heap);
	return 0;
}
