// SPDX-License-Identifier: MIT
/*
 * Runs of whole pages, cut up by the program itself:
 *
 *	cc run.c -o run $(pkg-config --cflags --libs karena)
 *	./run <FILE
 *
 * Lines of the standard input are kept one behind the other in runs of 64 KiB, each of
 * which begins with the address of the one before. They are printed from the last to
 * the first, as tac(1) does, and go back run by run: no line is freed.
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
	size_t used;		/* bytes, these included */
};

static struct ka_heap *heap;
static struct run *last;

static void die(const char *what, const char *why)
{
	fprintf(stderr, "run: %s: %s\n", what, why);
	exit(1);
}

/* Bytes of the last run, or of a new one, which is larger if it has to be. */
static void *take(size_t size)
{
	void *taken;

	size = (size + 15) & ~(size_t)15;
	if (!last || ka_run_size(heap, last) - last->used < size) {
		size_t runs = (sizeof(*last) + size + RUN_SIZE - 1) / RUN_SIZE;
		struct run *run = ka_run_alloc(heap, runs * RUN_SIZE, 0);

		if (!run)
			die("a run", ka_error());
		*run = (struct run){ last, sizeof(*run) };
		last = run;
	}
	taken = (char *)last + last->used;
	last->used += size;
	return taken;
}

int main(void)
{
	struct line *line = NULL;
	size_t room = 0, runs = 0, bytes = 0;
	char *text = NULL;
	ssize_t length;

	heap = ka_heap_create(NULL);
	if (!heap)
		die("a heap", ka_error());
	while ((length = getline(&text, &room, stdin)) >= 0) {
		struct line *next = take(sizeof(*next) + (size_t)length);

		*next = (struct line){ line, (size_t)length };
		memcpy(next->text, text, next->length);
		line = next;
	}
	if (ferror(stdin))
		die("the standard input", strerror(errno));
	for (; line; line = line->before)
		fwrite(line->text, 1, line->length, stdout);
	while (last) {
		struct run *run = last;

		last = run->before;
		runs++;
		bytes += ka_run_size(heap, run);
		if (ka_run_free(heap, run))
			die("a run", ka_error());
	}
	fprintf(stderr, "run: %zu runs, %zu bytes\n", runs, bytes);
	free(text);
	ka_heap_destroy(heap);
	return fflush(stdout) != 0;
}
