/* SPDX-License-Identifier: MIT */
/*
 * What the library's files share. Calls go down only:
 *
 *	heap.c		heaps: options, figures, fork
 *	run.c		runs, and which arenas they need
 *	device.c, embedded.c	sources: a window, arenas committed and released
 *	error.c, size.c	sentences, sizes in text
 *
 * heap->lock guards everything of a heap that changes after ka_heap_create(); the
 * list of heaps has a lock of its own, taken before it.
 */
#ifndef KARENA_INTERNAL_H
#define KARENA_INTERNAL_H

#include <pthread.h>

#include <karena/karena.h>

#define KA_ARENA_PAGES	(KA_ARENA_SIZE / KA_PAGE_SIZE)
#define KA_MIB		((size_t)1 << 20)

/**
 * struct ka_window - The addresses of a heap, and what commits them.
 * @source: Whose window it is.
 * @start: Its first byte, aligned to KA_ARENA_SIZE.
 * @nr_arenas: How many arenas it has room for.
 * @limit: How many of these may be committed.
 * @id: The heap's number in sysfs, or 0.
 * @control: The module's control region, or NULL.
 * @control_size: Its size in bytes.
 * @states: The state words in it.
 */
struct ka_window {
	const struct ka_source_type *source;
	char *start;
	size_t nr_arenas;
	size_t limit;
	uint64_t id;
	void *control;
	size_t control_size;
	uint32_t *states;
};

/**
 * struct ka_source_type - A source of arenas.
 * @source: Its name in the interface.
 * @open: Reserve a window of options->window bytes, whole arenas. 0, or -1 with
 *	errno and a sentence.
 * @commit: Commit arenas that are not committed, all or none. 0, or an errno.
 * @commit_pages: Commit pages of an arena that is not committed, or in part, so
 *	that no more have memory. 0, or an errno.
 * @release: Give committed arenas back.
 * @forked: In a child: true if the window is there, else its addresses are kept
 *	from being used for something else.
 * @close: Give up the window and all that is committed.
 */
struct ka_source_type {
	enum ka_source source;
	int (*open)(struct ka_window *window, const struct ka_options *options);
	int (*commit)(struct ka_window *window, size_t first, size_t count);
	int (*commit_pages)(struct ka_window *window, size_t arena, size_t from,
			    size_t count);
	void (*release)(struct ka_window *window, size_t first, size_t count);
	bool (*forked)(struct ka_window *window);
	void (*close)(struct ka_window *window);
};

extern const struct ka_source_type ka_device;
extern const struct ka_source_type ka_embedded;

/* One bit a page. */
#define KA_MAP_WORDS	(KA_ARENA_PAGES / 64)

/**
 * struct ka_arena - The library's notes on an arena, kept outside of it.
 * @used: Pages that are in a run.
 * @head: Pages that a run begins with; a run that begins in the arena before
 *	goes on in this one without a head.
 * @nr_used: How many pages are in a run.
 * @longest: No free pages in a row are more than this.
 * @committed: How many of its pages have memory: none, all or, of one that is
 *	committed in parts, the first so many.
 * @parts: It is committed in parts, now and whenever it is committed again.
 */
struct ka_arena {
	uint64_t used[KA_MAP_WORDS];
	uint64_t head[KA_MAP_WORDS];
	uint16_t nr_used;
	uint16_t longest;
	uint16_t committed;
	bool parts;
};

/**
 * struct ka_heap - A heap.
 * @lock: Guards what follows it.
 * @window: Its addresses.
 * @arenas: An entry for each arena of the window; untouched ones cost no memory.
 * @nr_touched: Entries from here on have never been used.
 * @nr_empty: Committed arenas without a run.
 * @inherited: The heap is the parent's; nothing can be done with it.
 * @stats: Its figures; bytes and limits are filled in when read.
 * @next: In the list of all heaps, which ka_heaps_lock guards.
 */
struct ka_heap {
	pthread_mutex_t lock;
	struct ka_window window;
	struct ka_arena *arenas;
	size_t nr_touched;
	size_t nr_empty;
	bool inherited;
	struct ka_stats stats;
	struct ka_heap *next;
};

/* error.c; sets errno too, and returns -1. */
int ka_fail(int error, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* size.c */
int ka_parse_size(const char *text, size_t *size);
const char *ka_format_size(size_t size, char buffer[static 32]);

#endif /* KARENA_INTERNAL_H */
