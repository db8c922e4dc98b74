/* SPDX-License-Identifier: MIT */
/*
 * Sources: a window, and how its arenas are committed and given back.
 */
#ifndef KARENA_SOURCE_H
#define KARENA_SOURCE_H

#include "base/base.h"

/**
 * struct ka_window - The addresses of a heap, and what commits them.
 * @source: Whose window it is.
 * @start: Its first byte, aligned to KA_ARENA_SIZE.
 * @nr_arenas: How many arenas it has room for.
 * @nr_notes: How many of these, the first ones, the notes may take.
 * @most_notes: Bytes that the notes may take beside the limit.
 * @limit: How many of the others may be committed.
 * @fork: What a child has of it.
 * @io: Devices may have pinned its pages, used or not: none is purged.
 * @claimed: Little more is mapped than what is committed: what somebody else maps there by
 *	chance, no arena can have, and on the module none behind it.
 * @mapped: By the module, if @claimed: how many of the notes' arenas, and of the others.
 * @id: The heap's number in sysfs, or 0.
 * @control: The module's control region, or NULL.
 * @control_size: Its size in bytes.
 * @states: The state words in it.
 * @next: In the list of those that are claimed.
 */
struct ka_window {
	const struct ka_source_type *source;
	char *start;
	size_t nr_arenas;
	size_t nr_notes;
	size_t most_notes;
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

/* What the pages of arenas may be, where the source can choose. */
enum ka_pages {
	KA_PAGES_SMALL,		/* few of them may be used */
	KA_PAGES_ANY,		/* as the administrator has set it */
	KA_PAGES_HUGE,		/* all of them will be used */
};

/* What has become of the content of pages that were to be moved. */
enum ka_moved {
	KA_MOVED,		/* it is in the other pages; those that had it are zero */
	KA_NOT_MOVED,		/* nothing has been done */
	KA_NOWHERE,		/* it is where it was, and the other pages are not mapped */
};

/**
 * struct ka_source_type - A source of arenas.
 * @source: Its name in the interface.
 * @open: Reserve a window for window->nr_arenas, and let a child have of it what
 *	window->fork says, or set that to what it will have. 0, or -1 with errno and
 *	a sentence.
 * @frames: Its memory are the module's frames: what of a committed arena is purged is
 *	committed no more, and arenas that are committed whole are huge in any case.
 * @commit: Commit arenas that are not committed, all or none. 0, or an errno; EEXIST:
 *	somebody else has mapped something there.
 * @commit_pages: Commit pages of an arena that is not committed, or in part, so
 *	that no more have memory. 0, or an errno.
 * @release: Give committed arenas back.
 * @purge: Give back the memory of some pages, whose bits are set in @map, of an arena
 *	that is in use. Whether that has been done; they are zero when used again.
 * @give_up: Let the kernel take an arena that has no run now. Whether it may.
 * @take_back: Whether it has not, of an arena that was given up; it may no more.
 * @pressed: Whether memory has become short, since this was asked last.
 * @copied: In a child: whether the window, of KA_FORK_COW, is a copy of its own.
 * @move: Let pages have the content of others, which are zero afterwards, by mapping their
 *	memory there, as far as that can be done. NULL: never.
 * @set_limit: Let the kernel enforce window->limit: 0, or -1 with errno and a message.
 *	NULL: the library alone does.
 * @descriptor: A descriptor of the window's file, or -1 with errno and a sentence.
 * @close: Give up the window and all that is committed.
 */
struct ka_source_type {
	enum ka_source source;
	int (*open)(struct ka_window *window, const struct ka_options *options);
	bool frames;
	int (*commit)(struct ka_window *window, size_t first, size_t count,
		      enum ka_pages pages);
	int (*commit_pages)(struct ka_window *window, size_t arena, size_t from,
			    size_t count);
	void (*release)(struct ka_window *window, size_t first, size_t count);
	bool (*purge)(struct ka_window *window, size_t arena, const uint64_t *map);
	bool (*give_up)(struct ka_window *window, size_t arena);
	bool (*take_back)(struct ka_window *window, size_t arena);
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

/* Whether an address is in one of the arenas, except those of the notes. */
static inline bool ka_window_contains(const struct ka_window *window, const void *address)
{
	size_t notes = window->nr_notes * KA_ARENA_SIZE;

	return (uintptr_t)address - (uintptr_t)window->start - notes <
	       ka_window_size(window) - notes;
}

/* Of a window that is claimed, the map of a heap lies behind the arenas. */
static inline size_t ka_window_map_size(const struct ka_window *window)
{
	return (window->nr_arenas - window->nr_notes) * KA_ARENA_SLOTS * sizeof(void *);
}

#endif /* KARENA_SOURCE_H */
