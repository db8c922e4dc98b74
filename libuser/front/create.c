// SPDX-License-Identifier: MIT
/*
 * Create and destroy heaps. This is the layer that knows all others.
 */
#include <errno.h>
#include <sys/auxv.h>

#include "stats/stats.h"
#include "trace/trace.h"
#include "front/create.h"

/*
 * KA_PAGE_SIZE is a constant, by which programs align runs and the library commits and protects
 * memory. On arm64 a kernel may have larger pages.
 */
static int check_page_size(void)
{
	size_t size = getauxval(AT_PAGESZ);
	char text[32];

	if (size == KA_PAGE_SIZE)
		return 0;
	return ka_fail(EOPNOTSUPP,
		       "this kernel has pages of %s: karena needs a kernel with pages of 4 KiB",
		       ka_format_size(size, text));
}

/**
 * ka_heap_open() - Open a heap in memory of the caller's.
 * @heap: The heap; all zero except @most_empty.
 * @wanted: The options that the caller has set, or NULL.
 * @forgive: Ignore an invalid variable with a message on standard error.
 *
 * Return: 0; -1 with errno and a message.
 */
int ka_heap_open(struct ka_heap *heap, const struct ka_options *wanted, bool forgive)
{
	enum ka_show show = KA_SHOW_LARGE;
	struct ka_options options;

	if (check_page_size() || ka_options_read(&options, wanted, forgive))
		return -1;
	if (!options.ignore_environment)
		show = ka_shown_option();
	if ((show == KA_SHOW_WRONG && !ka_option_ignored(forgive)) ||
	    ka_heap_begin(heap, &options))
		return -1;
	ka_traces_open();
	ka_shown_open(heap, &options, show);
	ka_heap_register(heap);
	return 0;
}

struct ka_heap *ka_heap_create(const struct ka_options *wanted)
{
	/* malloc() may itself use a heap, so it is not called here. */
	struct ka_heap *heap = ka_mmap(NULL, sizeof(*heap), PROT_READ | PROT_WRITE,
				       MAP_PRIVATE | MAP_ANONYMOUS);

	if (heap == MAP_FAILED) {
		ka_fail(ENOMEM, "no memory for a heap");
		return NULL;
	}
	if (!ka_heap_open(heap, wanted, false))
		return heap;
	ka_munmap(heap, sizeof(*heap));
	return NULL;
}

void ka_heap_destroy(struct ka_heap *heap)
{
	if (!heap)
		return;
	ka_heap_unregister(heap);
	ka_heap_end(heap);
	ka_munmap(heap, sizeof(*heap));
}
