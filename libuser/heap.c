// SPDX-License-Identifier: MIT
/*
 * Heaps: made from options and the environment, read, forked, given up.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "internal.h"

/* Virtual only. Halved until it fits where nobody asked for a size. */
#define DEFAULT_WINDOW	((size_t)64 << 30)
#define SMALLEST_WINDOW	(64 * KA_MIB)

static pthread_mutex_t heaps_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t heaps_once = PTHREAD_ONCE_INIT;
static struct ka_heap *heaps;

/* Fork with every lock held, so that no child finds one that nobody releases. */
static void fork_prepare(void)
{
	pthread_mutex_lock(&heaps_lock);
	for (struct ka_heap *heap = heaps; heap; heap = heap->next)
		pthread_mutex_lock(&heap->lock);
}

/* Parent and child alike hold what fork_prepare() took. */
static void fork_parent(void)
{
	for (struct ka_heap *heap = heaps; heap; heap = heap->next)
		pthread_mutex_unlock(&heap->lock);
	pthread_mutex_unlock(&heaps_lock);
}

static void fork_child(void)
{
	for (struct ka_heap *heap = heaps; heap; heap = heap->next) {
		if (!heap->inherited)
			heap->inherited =
				!heap->window.source->forked(&heap->window);
	}
	fork_parent();
}

static void register_fork_handlers(void)
{
	pthread_atfork(fork_prepare, fork_parent, fork_child);
}

static int option_size(size_t *size, const char *variable)
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

static int option_name(const char **name)
{
	const char *text = *name;

	if (!text)
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

/* Fill in what the caller left open; window stays 0 where nobody set it. */
static int complete_options(struct ka_options *options)
{
	char text[32];

	if (option_source(&options->source) || option_name(&options->name) ||
	    option_size(&options->window, "KARENA_WINDOW") ||
	    option_size(&options->limit, "KARENA_LIMIT"))
		return -1;
	if (options->source > KA_SOURCE_EMBEDDED)
		return ka_fail(EINVAL, "%d is no source of arenas",
			       (int)options->source);
	if (options->window > SIZE_MAX - KA_ARENA_SIZE)
		return ka_fail(EFBIG, "a window of %zu bytes is too large",
			       options->window);
	options->window = (options->window + KA_ARENA_SIZE - 1) &
			  ~(KA_ARENA_SIZE - 1);
	if (options->limit && options->limit < KA_ARENA_SIZE)
		return ka_fail(EINVAL, "a limit of %s is too small: an arena has"
			       " 2 MiB", ka_format_size(options->limit, text));
	return 0;
}

static int open_source(struct ka_window *window, const struct ka_source_type *type,
		       const struct ka_options *options)
{
	if (type->open(window, options))
		return -1;
	window->source = type;
	window->limit = window->nr_arenas;
	if (options->limit && options->limit / KA_ARENA_SIZE < window->limit)
		window->limit = options->limit / KA_ARENA_SIZE;
	return 0;
}

static int open_window(struct ka_window *window, const struct ka_options *options)
{
	if (options->source != KA_SOURCE_EMBEDDED) {
		if (!open_source(window, &ka_device, options))
			return 0;
		/* A wish that no source can grant is not hidden by another try. */
		if (options->source == KA_SOURCE_DEVICE || errno == ENOMEM ||
		    errno == EFBIG)
			return -1;
	}
	return open_source(window, &ka_embedded, options);
}

static int find_window(struct ka_window *window, struct ka_options *options)
{
	if (options->window)
		return open_window(window, options);
	options->window = DEFAULT_WINDOW;
	while (open_window(window, options)) {
		options->window /= 2;
		if (errno != ENOMEM || options->window < SMALLEST_WINDOW)
			return -1;
	}
	return 0;
}

static size_t arenas_size(const struct ka_window *window)
{
	size_t size = window->nr_arenas * sizeof(struct ka_arena);

	return (size + KA_PAGE_SIZE - 1) & ~(KA_PAGE_SIZE - 1);
}

struct ka_heap *ka_heap_create(const struct ka_options *wanted)
{
	struct ka_options options = KA_OPTIONS;
	struct ka_heap *heap;

	if (wanted && wanted->size < sizeof(options)) {
		ka_fail(EINVAL, "the size of struct ka_options is not set");
		return NULL;
	}
	if (wanted)
		options = *wanted;
	if (complete_options(&options))
		return NULL;

	/* Not from malloc: a heap may be what malloc itself stands on. */
	heap = mmap(NULL, sizeof(*heap), PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (heap == MAP_FAILED) {
		ka_fail(ENOMEM, "no memory for a heap");
		return NULL;
	}
	if (find_window(&heap->window, &options))
		goto err_heap;
	heap->arenas = mmap(NULL, arenas_size(&heap->window),
			    PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (heap->arenas == MAP_FAILED) {
		ka_fail(ENOMEM, "no memory for the notes on %zu arenas",
			heap->window.nr_arenas);
		goto err_window;
	}
	pthread_mutex_init(&heap->lock, NULL);

	pthread_once(&heaps_once, register_fork_handlers);
	pthread_mutex_lock(&heaps_lock);
	heap->next = heaps;
	heaps = heap;
	pthread_mutex_unlock(&heaps_lock);
	return heap;

err_window:
	heap->window.source->close(&heap->window);
	errno = ENOMEM;
err_heap:
	munmap(heap, sizeof(*heap));
	return NULL;
}

void ka_heap_destroy(struct ka_heap *heap)
{
	struct ka_heap **link = &heaps;

	if (!heap)
		return;
	pthread_mutex_lock(&heaps_lock);
	while (*link != heap)
		link = &(*link)->next;
	*link = heap->next;
	pthread_mutex_unlock(&heaps_lock);

	heap->window.source->close(&heap->window);
	munmap(heap->arenas, arenas_size(&heap->window));
	pthread_mutex_destroy(&heap->lock);
	munmap(heap, sizeof(*heap));
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
	return (uintptr_t)address - (uintptr_t)heap->window.start <
	       heap->window.nr_arenas * KA_ARENA_SIZE;
}

int ka_heap_stats(struct ka_heap *heap, struct ka_stats *stats)
{
	struct ka_stats now;

	if (stats->size < sizeof(now))
		return ka_fail(EINVAL, "the size of struct ka_stats is not set");
	pthread_mutex_lock(&heap->lock);
	now = heap->stats;
	pthread_mutex_unlock(&heap->lock);
	now.size = stats->size;
	now.window = heap->window.nr_arenas * KA_ARENA_SIZE;
	now.limit = heap->window.limit * KA_ARENA_SIZE;
	now.available_bytes = now.arenas * KA_ARENA_SIZE - now.run_bytes;
	*stats = now;
	return 0;
}
