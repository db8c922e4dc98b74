// SPDX-License-Identifier: MIT
/*
 * Open a heap: a window of a source, with the metadata at its start and no pool.
 */
#include <errno.h>

#include "heap/heap.h"

/*
 * Default sizes of a window. These are only addresses; without the module they cost nothing. If
 * there is no room, half the size is tried, unless the caller or the environment chose a size.
 */
#define DEVICE_WINDOW	((size_t)64 << 30)
#define EMBEDDED_WINDOW	((size_t)1 << 40)
#define SMALLEST_WINDOW	(64 * KA_MIB)

static int open_source(struct ka_window *window, const struct ka_source_type *type,
		       const struct ka_options *options)
{
	size_t nr_arenas = options->window / KA_ARENA_SIZE;

	*window = (struct ka_window){
		.source = type,
		.nr_metadata = ka_metadata_arenas(nr_arenas),
		.limit = nr_arenas,
		.fork = options->fork,
		.io = options->io,
	};
	window->nr_arenas = window->nr_metadata + nr_arenas;
	if (options->limit && options->limit / KA_ARENA_SIZE < window->limit)
		window->limit = options->limit / KA_ARENA_SIZE;
	window->most_metadata = ka_metadata_most(window);
	return type->open(window, options);
}

/* Open a window of the chosen size; if none is chosen, of the largest size that has room. */
static int find_window(struct ka_window *window, const struct ka_source_type *type,
		       struct ka_options options, size_t most)
{
	if (options.window)
		return open_source(window, type, &options);
	for (options.window = most; options.window >= SMALLEST_WINDOW; options.window /= 2) {
		if (!open_source(window, type, &options))
			return 0;
		if (errno != ENOMEM)
			break;
	}
	return -1;
}

static int open_window(struct ka_window *window, const struct ka_options *options)
{
	if (options->source != KA_SOURCE_EMBEDDED) {
		if (!find_window(window, &ka_device, *options, DEVICE_WINDOW))
			return 0;
		if (options->source == KA_SOURCE_DEVICE)
			return -1;
	}
	return find_window(window, &ka_embedded, *options, EMBEDDED_WINDOW);
}

static int open_heap(struct ka_heap *heap, struct ka_options options)
{
	struct ka_window *window = ka_window_of(heap);
	struct ka_options wanted = options;
	int error;

	if (open_window(window, &options))
		return -1;
	if (!ka_metadata_open(ka_arenas_of(heap)))
		return 0;
	error = errno;
	window->source->close(window);
	if (wanted.source != KA_SOURCE_AUTO || window->source != &ka_device) {
		errno = error;
		return -1;
	}
	/* The module had no page for it, perhaps because of the limit of locked memory. */
	wanted.source = KA_SOURCE_EMBEDDED;
	return open_heap(heap, wanted);
}

/**
 * ka_heap_begin() - Open the window, metadata and map of a new heap.
 * @heap: The heap; all zero except @most_empty.
 * @options: Its complete options.
 *
 * Return: 0, or -1 with errno and a message.
 */
int ka_heap_begin(struct ka_heap *heap, const struct ka_options *options)
{
	if (open_heap(heap, *options))
		return -1;
	if (ka_pools_open(ka_pools_of(heap))) {
		ka_window_of(heap)->source->close(ka_window_of(heap));
		return -1;
	}
	ka_arenas_begin(ka_arenas_of(heap));
	return 0;
}

/**
 * ka_heap_end() - Unmap all memory of a heap, except struct ka_heap itself.
 * @heap: The heap, which is not in the list any more.
 */
void ka_heap_end(struct ka_heap *heap)
{
	struct ka_window *window = ka_window_of(heap);
	struct ka_pools *pools = ka_pools_of(heap);

	if (window->claimed && !window->source->frames && !pools->inherited)
		ka_arenas_close(&pools->arenas);
	window->source->close(window);
	ka_munmap(pools->map, pools->map_size);
}
