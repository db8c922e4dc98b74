// SPDX-License-Identifier: MIT
/*
 * Statistics of a heap:
 *
 *	cc stats.c -o stats $(pkg-config --cflags --libs karena)
 *	./stats <FILE
 *
 * Counts the words of standard input in a table whose blocks lie in a heap, and prints the
 * statistics of the heap for each size of blocks. This prints the same for any program,
 * without a change to it:
 *
 *	KARENA_MALLOCSTATS=1 LD_PRELOAD=libkarena-malloc.so.1 PROGRAM
 *
 * The exit status is 1 if there is no memory.
 */
#include <stdio.h>
#include <string.h>

#include <karena/karena.h>

#define BUCKETS	4096

struct word {
	struct word *next;
	size_t count;
	char text[];
};

static struct word *table[BUCKETS];

static int count(struct ka_heap *heap, const char *text)
{
	unsigned int hash = 0;
	struct word *word;

	for (const char *c = text; *c; c++)
		hash = hash * 31 + (unsigned char)*c;
	for (word = table[hash % BUCKETS]; word; word = word->next) {
		if (!strcmp(word->text, text)) {
			word->count++;
			return 0;
		}
	}
	word = ka_heap_malloc(heap, sizeof(*word) + strlen(text) + 1);
	if (!word)
		return -1;
	word->count = 1;
	strcpy(word->text, text);
	word->next = table[hash % BUCKETS];
	table[hash % BUCKETS] = word;
	return 0;
}

int main(void)
{
	struct ka_stats stats = { .size = sizeof(stats) };
	struct ka_class classes[128];
	struct ka_heap *heap;
	char text[256];
	int nr;

	heap = ka_heap_create(NULL);
	while (heap && scanf("%255s", text) == 1) {
		if (!count(heap, text))
			continue;
		heap = NULL;
	}
	nr = heap ? ka_heap_classes(heap, classes, 128, sizeof(struct ka_class)) : -1;
	if (nr < 0 || ka_heap_stats(heap, &stats)) {
		fprintf(stderr, "stats: %s\n", ka_error());
		return 1;
	}
	for (int i = 0; i < nr; i++) {
		if (classes[i].blocks)
			printf("%8zu words of up to %zu letters\n", classes[i].blocks,
			       classes[i].size - sizeof(struct word) - 1);
	}
	printf("%8zu bytes allocated, %zu free in pools, %zu outside of runs, of %zu\n",
	       stats.used_bytes, stats.free_bytes, stats.available_bytes,
	       stats.arenas * KA_ARENA_SIZE);
	fflush(stdout);
	return ka_heap_print_stats(heap, 1) ? 1 : 0;
}
