// SPDX-License-Identifier: MIT
/*
 * Heaps: made from options and the environment, read, given up.
 */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trace/trace.h"

/*
 * Addresses only. Without the module they cost nothing; of the module's, half is tried where
 * there is no room for all, unless somebody has asked for a size.
 */
#define DEVICE_WINDOW	((size_t)64 << 30)
#define EMBEDDED_WINDOW	((size_t)1 << 40)
#define SMALLEST_WINDOW	(64 * KA_MIB)

/* Of these structs as they first were. */
#define OPTIONS_MIN	offsetof(struct ka_options, fork)
#define STATS_MIN	offsetof(struct ka_stats, pools)

/* A size that the caller left open, from a variable; 0 if that is not set either. */
int ka_option_size(size_t *size, const char *variable)
{
	const char *text = secure_getenv(variable);

	if (*size || !text || !*text)
		return 0;
	if (ka_parse_size(text, size))
		return ka_fail(EINVAL, "%s=%s is no size: give bytes, or a number"
			       " with K, M, G or T", variable, text);
	if (!*size)
		return ka_fail(EINVAL, "%s=%s is no size: it must not be 0",
			       variable, text);
	return 0;
}

static int option_source(enum ka_source *source)
{
	const char *text = secure_getenv("KARENA_SOURCE");

	if (*source != KA_SOURCE_AUTO || !text || !*text || !strcmp(text, "auto"))
		return 0;
	if (!strcmp(text, "device"))
		*source = KA_SOURCE_DEVICE;
	else if (!strcmp(text, "embedded"))
		*source = KA_SOURCE_EMBEDDED;
	else
		return ka_fail(EINVAL, "KARENA_SOURCE=%s is no source: give auto,"
			       " device or embedded", text);
	return 0;
}

static int option_name(const char **name, bool look)
{
	const char *text = *name;

	if (!text && look)
		text = secure_getenv("KARENA_NAME");
	if (!text || !*text) {
		/* A program may be called anything; that is no error. */
		text = program_invocation_short_name;
		for (const char *c = text; *c; c++) {
			if (*c < ' ' || *c > '~' || *c == '/')
				text = "";
		}
		*name = text;
		return 0;
	}
	for (const char *c = text; *c; c++) {
		if (*c < ' ' || *c > '~' || *c == '/')
			return ka_fail(EINVAL, "a heap's name is printable ASCII"
				       " without '/'");
	}
	if (strlen(text) >= KA_NAME_SIZE)
		return ka_fail(EINVAL, "the heap's name \"%.40s\" is too long: it"
			       " may have %d characters", text, KA_NAME_SIZE - 1);
	*name = text;
	return 0;
}

/* Whether to go on without a variable, which is wrong; the user is told. */
static bool ignores(bool forgive)
{
	if (forgive)
		ka_ignore();
	return forgive;
}

/* A size from the environment, as ka_option_size(), and no less than @least. */
static int option_size(size_t *size, const char *variable, size_t least, bool forgive)
{
	size_t given = *size;
	char text[32];
	int error = ka_option_size(size, variable);

	if (!error && *size && *size < least)
		error = ka_fail(EINVAL, "a limit of %s is too small: an arena has 2 MiB",
				ka_format_size(*size, text));
	if (!error || given || !ignores(forgive))
		return error;
	*size = 0;
	return 0;
}

/*
 * Fill in what the caller left open; window stays 0 if nobody set it. A wrong variable is
 * an error, unless @forgive says to go on without it.
 */
static int complete_options(struct ka_options *options, bool forgive)
{
	if (option_source(&options->source) && !ignores(forgive))
		return -1;
	if (option_name(&options->name, true) &&
	    (!ignores(forgive) || option_name(&options->name, false)))
		return -1;
	if (option_size(&options->window, "KARENA_WINDOW", 0, forgive) ||
	    option_size(&options->limit, "KARENA_LIMIT", KA_ARENA_SIZE, forgive))
		return -1;
	if (options->window > SIZE_MAX / 2 && forgive) {
		ka_fail(EFBIG, "a window of %zu bytes is too large", options->window);
		ka_ignore();
		options->window = 0;
	}
	if (options->source > KA_SOURCE_EMBEDDED)
		return ka_fail(EINVAL, "%d is no source of arenas",
			       (int)options->source);
	if (options->fork > KA_FORK_NONE)
		return ka_fail(EINVAL, "%d is no policy for fork",
			       (int)options->fork);
	if (options->io && options->fork == KA_FORK_COW)
		return ka_fail(EINVAL, "a heap for I/O buffers is not copied at fork:"
			       " choose KA_FORK_NONE or KA_FORK_SHARE");
	/* What is above, no machine has, and the notes can still be added to it. */
	if (options->window > SIZE_MAX / 2)
		return ka_fail(EFBIG, "a window of %zu bytes is too large",
			       options->window);
	options->window = (options->window + KA_ARENA_SIZE - 1) &
			  ~(KA_ARENA_SIZE - 1);
	return 0;
}

static int open_source(struct ka_window *window, const struct ka_source_type *type,
		       const struct ka_options *options)
{
	size_t nr_arenas = options->window / KA_ARENA_SIZE;

	*window = (struct ka_window){
		.source = type,
		.nr_notes = ka_notes_arenas(nr_arenas),
		.limit = nr_arenas,
		.fork = options->fork,
		.io = options->io,
	};
	window->nr_arenas = window->nr_notes + nr_arenas;
	if (options->limit && options->limit / KA_ARENA_SIZE < window->limit)
		window->limit = options->limit / KA_ARENA_SIZE;
	window->most_notes = ka_notes_most(window);
	return type->open(window, options);
}

/* A window of the size that is wanted or, if none is, the largest that there is room for. */
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
	struct ka_options wanted = options;
	int error;

	if (open_window(&heap->window, &options))
		return -1;
	if (!ka_notes_open(heap))
		return 0;
	error = errno;
	heap->window.source->close(&heap->window);
	if (wanted.source != KA_SOURCE_AUTO ||
	    heap->window.source != &ka_device) {
		errno = error;
		return -1;
	}
	/* Not a page is to be had of the module, for want of locked memory perhaps. */
	wanted.source = KA_SOURCE_EMBEDDED;
	return open_heap(heap, wanted);
}

/* Options as they were in an older version are shorter, in a newer one longer. */
static int copy_options(struct ka_options *options, const struct ka_options *wanted)
{
	const char *from = (const char *)wanted;
	size_t size = wanted->size;

	if (size < OPTIONS_MIN || size > KA_PAGE_SIZE)
		return ka_fail(EINVAL, "the size of struct ka_options is not set");
	for (size_t i = sizeof(*options); i < size; i++) {
		if (from[i])
			return ka_fail(EINVAL, "an option is set that this version of"
				       " the library does not know");
	}
	memcpy(options, from, size < sizeof(*options) ? size : sizeof(*options));
	return 0;
}

/*
 * What a heap stands on, and the lists that it is in: 0, or -1. With @forgive, a wrong
 * variable is said on the standard error and ignored.
 */
int ka_heap_open(struct ka_heap *heap, const struct ka_options *wanted, bool forgive)
{
	struct ka_options options = KA_OPTIONS;
	enum ka_show show = ka_stats_option();

	if (wanted && copy_options(&options, wanted))
		return -1;
	if (complete_options(&options, forgive) ||
	    (show == KA_SHOW_WRONG && ka_stats_option() == show && !ignores(forgive)) ||
	    open_heap(heap, options))
		return -1;
	if (ka_pools_open(heap)) {
		heap->window.source->close(&heap->window);
		return -1;
	}
	if (!heap->most_empty)
		heap->most_empty = 1;
	ka_traces_open();
	ka_arenas_begin(heap);
	heap->lock = (struct ka_mutex)KA_MUTEX;
	ka_report_wanted(heap);
	ka_stats_open(heap, options.name, show);
	ka_heap_register(heap);
	return 0;
}

struct ka_heap *ka_heap_create(const struct ka_options *wanted)
{
	/* Not from malloc: a heap may be what malloc itself stands on. */
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
	if (heap->window.claimed && !heap->window.source->frames && !heap->inherited)
		ka_arenas_close(heap);
	heap->window.source->close(&heap->window);
	ka_munmap(heap->map, heap->map_size);
	ka_munmap(heap, sizeof(*heap));
}

enum ka_source ka_heap_source(const struct ka_heap *heap)
{
	return heap->window.source->source;
}

uint64_t ka_heap_id(const struct ka_heap *heap)
{
	return heap->window.id;
}

bool ka_heap_contains(const struct ka_heap *heap, const void *address)
{
	return ka_window_contains(&heap->window, address);
}

int ka_heap_descriptor(struct ka_heap *heap)
{
	/* What is shared with the parent can be had; its notes are not needed. */
	if (heap->window.fork != KA_FORK_SHARE && ka_refuse_inherited(heap))
		return -1;
	return heap->window.source->descriptor(&heap->window);
}

int ka_heap_stats(struct ka_heap *heap, struct ka_stats *stats)
{
	size_t size = stats->size;
	struct ka_stats now;

	if (size < STATS_MIN)
		return ka_fail(EINVAL, "the size of struct ka_stats is not set");
	if (ka_refuse_inherited(heap))
		return -1;
	ka_heap_lock(heap);
	ka_stats_now(heap, &now);
	ka_heap_unlock(heap);
	now.size = size;
	/* What a later version has more is left as it is. */
	memcpy(stats, &now, size < sizeof(now) ? size : sizeof(now));
	return 0;
}

size_t ka_trim(struct ka_heap *heap)
{
	struct ka_cache *cache;

	if (ka_refuse_inherited(heap))
		return 0;
	cache = ka_cache_of(heap);
	return cache ? ka_cache_trim(heap, cache) * KA_PAGE_SIZE : 0;
}

int ka_heap_idle(struct ka_heap *heap)
{
	struct ka_cache *cache;

	if (ka_refuse_inherited(heap))
		return -1;
	cache = ka_cache_of(heap);
	/* One that has had no block yet is in no list. */
	if (cache && cache->heap)
		ka_cache_leave_all(cache);
	return cache ? 0 : -1;
}

/* Its runs. */

void *ka_run_alloc(struct ka_heap *heap, size_t size, size_t align)
{
	return ka_runs_take(heap, size, align);
}

int ka_run_free(struct ka_heap *heap, void *run)
{
	return run ? ka_block_free_run(heap, run) : 0;
}

size_t ka_run_size(struct ka_heap *heap, const void *run)
{
	return ka_runs_size(heap, run);
}

/* Its blocks. In a heap of the parent's, which a child may not touch, nothing is read. */

void *ka_heap_malloc(struct ka_heap *heap, size_t size)
{
	struct ka_cache *cache = ka_cache_of(heap);

	return cache ? ka_block_alloc(heap, cache, size) : NULL;
}

void *ka_heap_calloc(struct ka_heap *heap, size_t count, size_t size)
{
	struct ka_cache *cache = ka_cache_of(heap);
	size_t product;

	if (__builtin_mul_overflow(count, size, &product)) {
		ka_fail(ENOMEM, "no memory has room for %zu times %zu bytes", count, size);
		return NULL;
	}
	return cache ? ka_block_zeroed(heap, cache, product) : NULL;
}

void *ka_heap_realloc(struct ka_heap *heap, void *block, size_t size)
{
	struct ka_cache *cache = ka_cache_of(heap);

	if (!cache || (block && ka_refuse_inherited(heap)))
		return NULL;
	return block ? ka_block_resize(heap, cache, block, size) :
		       ka_block_alloc(heap, cache, size);
}

void *ka_heap_aligned_alloc(struct ka_heap *heap, size_t align, size_t size)
{
	struct ka_cache *cache = ka_cache_of(heap);

	if (!align || align & (align - 1)) {
		ka_fail(EINVAL, "an alignment of %zu is not a power of two", align);
		return NULL;
	}
	return cache ? ka_block_take_aligned(heap, cache, align, size) : NULL;
}

int ka_heap_free(struct ka_heap *heap, void *block)
{
	struct ka_cache *cache = ka_cache_to_give(heap);

	return cache ? ka_block_free(heap, cache, block) : -1;
}

size_t ka_heap_block_size(struct ka_heap *heap, const void *block)
{
	return ka_refuse_inherited(heap) ? 0 : ka_block_size(heap, block);
}
