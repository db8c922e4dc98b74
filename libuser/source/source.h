/* SPDX-License-Identifier: MIT */
/*
 * Sources: the addresses of a heap, and the functions that commit and release its arenas.
 */
#ifndef KARENA_SOURCE_H
#define KARENA_SOURCE_H

#include "base/base.h"

/**
 * struct ka_window - The addresses of a heap, and the source of its arenas.
 * @source: The source.
 * @start: First byte, aligned to KA_ARENA_SIZE.
 * @nr_arenas: Arenas that fit into the window.
 * @nr_metadata: Arenas at its start that are reserved for the metadata.
 * @most_metadata: Bytes that the metadata may use in addition to the limit.
 * @limit: Arenas behind the metadata that may be committed.
 * @fork: What a child inherits.
 * @io: Devices may have pinned pages, used or free: no page is purged.
 * @claimed: Little more is mapped than is committed. Another mapping may lie in the window by
 *	chance: no arena can be committed there, nor behind it if the source is the module.
 * @mapped: Numbers of arenas in the module's two mappings of a claimed window: arenas of the
 *	metadata, and all others.
 * @id: The heap's number in sysfs, or 0.
 * @control: The module's control region, or NULL.
 * @control_size: Bytes of @control.
 * @states: The state words in @control.
 * @next: The next claimed window.
 */
struct ka_window {
	const struct ka_source_type *source;
	char *start;
	size_t nr_arenas;
	size_t nr_metadata;
	size_t most_metadata;
	size_t limit;
	enum ka_fork fork;
	bool io;
	bool claimed;
	size_t mapped[2];
	uint64_t id;
	void *control;
	size_t control_size;
	uint32_t *states;
	struct ka_window *next;
};

/* The pages that an arena should have, if the source can choose. */
enum ka_pages {
	KA_PAGES_SMALL,		/* the heap may use few of them */
	KA_PAGES_ANY,		/* the kernel's setting decides */
	KA_PAGES_HUGE,		/* the heap will use all of them */
};

/* The outcome of moving the content of pages to others. */
enum ka_moved {
	KA_MOVED,		/* the other pages have the content; the first are zero */
	KA_NOT_MOVED,		/* nothing has changed */
	KA_NOWHERE,		/* the first pages still have it; the others are unmapped */
};

/**
 * struct ka_source_type - A source of arenas.
 * @source: Its name in the interface.
 * @open: Reserve a window for window->nr_arenas. Let a child inherit what window->fork says, or
 *	set window->fork to what it will inherit. Return 0, or -1 with errno and a message.
 * @frames: The memory consists of the module's frames: purged pages become uncommitted, and
 *	arenas that are committed whole are always huge.
 * @commit: Commit all of some uncommitted arenas, or none. Return 0 or an errno; EEXIST:
 *	another mapping lies there.
 * @commit_pages: Commit some pages of an arena. Return 0 or an errno.
 * @make_huge: Let a committed arena have huge pages. NULL: the source decides by itself.
 * @release: Uncommit arenas.
 * @purge: Free the memory of the pages of an arena whose bits are set in @map. They are zero
 *	when used again. Return false if nothing was done.
 * @make_volatile: Allow the kernel to reclaim an empty arena. Return false if that is not
 *	possible.
 * @reuse: Make such an arena usable again. Return false if the kernel has reclaimed it.
 * @pressed: Return true if memory has become short since the last call.
 * @copied: In a child: return true if a window of KA_FORK_COW is a copy.
 * @move: Move the content of pages to others by remapping, if that is faster than a copy. NULL:
 *	it never is.
 * @set_limit: Let the kernel enforce window->limit. Return 0, or -1 with errno and a message.
 *	NULL: the library alone enforces it.
 * @descriptor: Return a descriptor of the window's file, or -1 with errno and a message.
 * @close: Release the window and all committed memory.
 */
struct ka_source_type {
	enum ka_source source;
	int (*open)(struct ka_window *window, const struct ka_options *options);
	bool frames;
	int (*commit)(struct ka_window *window, size_t first, size_t count,
		      enum ka_pages pages);
	int (*commit_pages)(struct ka_window *window, size_t arena, size_t from,
			    size_t count);
	void (*make_huge)(struct ka_window *window, size_t arena);
	void (*release)(struct ka_window *window, size_t first, size_t count);
	bool (*purge)(struct ka_window *window, size_t arena, const uint64_t *map);
	bool (*make_volatile)(struct ka_window *window, size_t arena);
	bool (*reuse)(struct ka_window *window, size_t arena);
	bool (*pressed)(struct ka_window *window);
	bool (*copied)(struct ka_window *window);
	enum ka_moved (*move)(struct ka_window *window, char *from, char *to, size_t size);
	int (*set_limit)(const struct ka_window *window);
	int (*descriptor)(const struct ka_window *window);
	void (*close)(struct ka_window *window);
};

extern const struct ka_source_type ka_device;
extern const struct ka_source_type ka_embedded;

static inline size_t ka_window_size(const struct ka_window *window)
{
	return window->nr_arenas * KA_ARENA_SIZE;
}

/* True if an address is in one of the arenas, except those of the metadata. */
static inline bool ka_window_contains(const struct ka_window *window, const void *address)
{
	size_t metadata = window->nr_metadata * KA_ARENA_SIZE;

	return (uintptr_t)address - (uintptr_t)window->start - metadata <
	       ka_window_size(window) - metadata;
}

/* The size of a heap's map of pools, which lies behind the arenas of a claimed window. */
static inline size_t ka_window_map_size(const struct ka_window *window)
{
	return (window->nr_arenas - window->nr_metadata) * KA_ARENA_SLOTS * sizeof(void *);
}

#endif /* KARENA_SOURCE_H */
