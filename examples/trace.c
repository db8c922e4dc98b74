// SPDX-License-Identifier: MIT
/*
 * Finds the calls that made the memory of a program grow:
 *
 *	cc -rdynamic trace.c -o trace $(pkg-config --cflags --libs karena)
 *	./trace [FILE.folded]
 *
 * The program compares two snapshots and prints the places in the code that grew most. It
 * writes all traces to FILE.folded, for a flame graph. With -rdynamic, the traces have the
 * names of the program's own functions.
 */
#include <stdio.h>
#include <string.h>

#include <karena/domain.h>
#include <karena/trace.h>

static char *names[1000];

/* Not static, so that the traces have their names. */
void read_names(void);
void sort_names(void);

__attribute__((noinline)) void read_names(void)
{
	for (int i = 0; i < 1000; i++) {
		names[i] = ka_mem_malloc(64);
		if (names[i])
			snprintf(names[i], 64, "name %d", i * 7919 % 1000);
	}
}

__attribute__((noinline)) void sort_names(void)
{
	void *copy = ka_mem_malloc(sizeof(names));

	if (copy)
		memcpy(copy, names, sizeof(names));
	/* The leak: this function does not free the copy. */
	__asm__ volatile("" : "+r" (copy));
}

static int failed(const char *what)
{
	fprintf(stderr, "trace: %s: %s\n", what, ka_error());
	return 1;
}

int main(int argc, char **argv)
{
	struct ka_traces *before, *after, *difference, *stacks;
	const struct ka_trace_entry *entry;
	size_t peak;

	if (ka_trace_start(1, 16))
		return failed("cannot start tracing");
	read_names();
	before = ka_trace_snapshot(KA_TRACE_BY_SITE);
	for (int i = 0; i < 3; i++)
		sort_names();
	after = ka_trace_snapshot(KA_TRACE_BY_SITE);
	difference = before && after ? ka_trace_compare(before, after) : NULL;
	if (!difference)
		return failed("cannot compare snapshots");
	for (size_t i = 0; (entry = ka_trace_entry(difference, i)); i++)
		printf("%+td bytes in %+td blocks, now %zu bytes in %zu blocks, at %p\n",
		       entry->more_bytes, entry->more_blocks, entry->bytes, entry->blocks,
		       entry->nr_frames ? entry->frames[0] : NULL);
	ka_trace_memory(NULL, &peak);
	printf("%zu bytes at the peak\n", peak);
	stacks = ka_trace_snapshot(KA_TRACE_BY_STACK);
	if (!stacks || (argc > 1 && ka_trace_write(stacks, argv[1], KA_TRACE_FOLDED)))
		return failed("cannot write the traces");
	ka_trace_free(stacks);
	ka_trace_free(difference);
	ka_trace_free(after);
	ka_trace_free(before);
	ka_trace_stop();
	return 0;
}
