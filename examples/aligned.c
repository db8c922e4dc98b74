// SPDX-License-Identifier: MIT
/*
 * Aligned blocks:
 *
 *	cc -pthread aligned.c -o aligned $(pkg-config --cflags --libs karena)
 *	./aligned
 *
 * Each thread has a counter in a cache line of its own, because processors that write to
 * the same line wait for each other. If the size of a block is a power of two, the block is
 * aligned to it anyway. For other sizes the program asks for the alignment.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <karena/karena.h>

#define THREADS		4
#define LINE		64
#define TURNS		1000000

struct counter {
	volatile long value;
	char name[88];		/* makes 96 bytes: two lines */
};

static void die(const char *what, const char *why)
{
	fprintf(stderr, "aligned: %s: %s\n", what, why);
	exit(1);
}

static void *count(void *arg)
{
	struct counter *counter = arg;

	for (int i = 0; i < TURNS; i++)
		counter->value++;
	return NULL;
}

int main(void)
{
	struct ka_heap *heap = ka_heap_create(NULL);
	struct counter *counters[THREADS];
	pthread_t threads[THREADS];

	if (!heap)
		die("cannot create a heap", ka_error());
	for (int i = 0; i < THREADS; i++) {
		int err;

		counters[i] = ka_heap_aligned_alloc(heap, LINE, sizeof(*counters[i]));
		if (!counters[i])
			die("cannot allocate a counter", ka_error());
		counters[i]->value = 0;
		snprintf(counters[i]->name, sizeof(counters[i]->name), "thread %d", i);
		err = pthread_create(&threads[i], NULL, count, counters[i]);
		if (err)
			die("cannot create a thread", strerror(err));
	}
	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i], NULL);
		printf("%s: %ld, at byte %zu of a line, in a block of %zu bytes\n",
		       counters[i]->name, counters[i]->value,
		       (size_t)((uintptr_t)counters[i] % LINE),
		       ka_heap_usable_size(heap, counters[i]));
		if (ka_heap_free(heap, counters[i]))
			die("cannot free a counter", ka_error());
	}
	ka_heap_destroy(heap);
	return 0;
}
