// SPDX-License-Identifier: MIT
/*
 * Runs of whole pages that the program itself divides:
 *
 *	cc run.c -o run $(pkg-config --cflags --libs karena)
 *	./run <FILE
 *
 * The program stores the lines of standard input one after the other in runs of 64 KiB.
 * Each run begins with the address of the previous one. The program prints the lines from
 * the last to the first, like tac(1), and frees whole runs instead of single lines.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <karena/karena.h>

#define RUN_SIZE	(16 * KA_PAGE_SIZE)

struct line {
	struct line *before;
	size_t length;
	char text[];
};

struct run {
	struct run *before;
	size_t used;		/* bytes, including this header */
};

static struct ka_heap *heap;
static struct run *last;

static void die(const char *what, const char *why)
{
	fprintf(stderr, "run: %s: %s\n", what, why);
	exit(1);
}

/* Allocate from the last run, or from a new one, which is larger if the line needs it. */
static void *allocate(size_t size)
{
	void *memory;

	size = (size + 15) & ~(size_t)15;
	if (!last || ka_run_size(heap, last) - last->used < size) {
		size_t runs = (sizeof(*last) + size + RUN_SIZE - 1) / RUN_SIZE;
		struct run *run = ka_run_alloc(heap, runs * RUN_SIZE, 0);

		if (!run)
			die("cannot allocate a run", ka_error());
		*run = (struct run){ last, sizeof(*run) };
		last = run;
	}
	memory = (char *)last + last->used;
	last->used += size;
	return memory;
}

int main(void)
{
	struct line *line = NULL;
	size_t room = 0, runs = 0, bytes = 0;
	char *text = NULL;
	ssize_t length;

	heap = ka_heap_create(NULL);
	if (!heap)
		die("cannot create a heap", ka_error());
	while ((length = getline(&text, &room, stdin)) >= 0) {
		struct line *next = allocate(sizeof(*next) + (size_t)length);

		*next = (struct line){ line, (size_t)length };
		memcpy(next->text, text, next->length);
		line = next;
	}
	if (ferror(stdin))
		die("cannot read standard input", strerror(errno));
	for (; line; line = line->before)
		fwrite(line->text, 1, line->length, stdout);
	while (last) {
		struct run *run = last;

		last = run->before;
		runs++;
		bytes += ka_run_size(heap, run);
		if (ka_run_free(heap, run))
			die("cannot free a run", ka_error());
	}
	fprintf(stderr, "run: %zu runs, %zu bytes\n", runs, bytes);
	free(text);
	ka_heap_destroy(heap);
	return fflush(stdout) != 0;
}
