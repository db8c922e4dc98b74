// SPDX-License-Identifier: MIT
/*
 * What has a program's memory grown by, and where? Two snapshots are compared, the
 * places that have grown most are shown, and all is written for a flame graph:
 *
 *	trace [FILE.folded]
 *
 * Linked with -rdynamic, so that the program's own functions have names.
 */
#include <stdio.h>
#include <string.h>

#include <karena/domain.h>
#include <karena/trace.h>

static char *names[1000];

/* Not static, so that they have names. */
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
	/* And forgets to free it. */
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
		return failed("start");
	read_names();
	before = ka_trace_snapshot(KA_TRACE_BY_SITE);
	for (int i = 0; i < 3; i++)
		sort_names();
	after = ka_trace_snapshot(KA_TRACE_BY_SITE);
	difference = before && after ? ka_trace_compare(before, after) : NULL;
	if (!difference)
		return failed("snapshot");
	for (size_t i = 0; (entry = ka_trace_entry(difference, i)); i++)
		printf("%+td bytes in %+td blocks, now %zu in %zu, at %p\n",
		       entry->more_bytes, entry->more_blocks, entry->bytes, entry->blocks,
		       entry->nr_frames ? entry->frames[0] : NULL);
	ka_trace_memory(NULL, &peak);
	printf("%zu bytes at most\n", peak);
	stacks = ka_trace_snapshot(KA_TRACE_BY_STACK);
	if (!stacks || (argc > 1 && ka_trace_write(stacks, argv[1], KA_TRACE_FOLDED)))
		return failed("write");
	ka_trace_free(stacks);
	ka_trace_free(difference);
	ka_trace_free(after);
	ka_trace_free(before);
	ka_trace_stop();
	return 0;
}
