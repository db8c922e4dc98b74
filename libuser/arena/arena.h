/* SPDX-License-Identifier: MIT */
/*
 * Arenas of a heap, and runs: consecutive pages of an arena, or of several. Their metadata
 * lies in the metadata at the start of the window.
 *
 * The lock of struct ka_arenas is the heap's lock. It protects everything of a heap that
 * changes once the heap is open, except pools, which have owners: see pool/pool.h.
 *
 * Each arena is in one of these states. All changes are made with the heap's lock held:
 *
 *	state		@nr_backed	@nr_used	memory
 *	uncommitted	0		0		none
 *	used		some or all	1 or more	of the pages in @backed
 *	empty		some or all	0		of the pages in @backed; listed by @emptied
 *	volatile	some or all	0		the kernel may reclaim it (@is_volatile)
 *	blocked		0		all		another mapping's: no run lies there
 *
 *	uncommitted	-> used		ka_arenas_commit(), or ka_arena_commit_pages() for
 *					the first arena of a small heap
 *	uncommitted	-> blocked	ka_arenas_block(), for ever
 *	used		-> empty	pages_free() in run.c, with the last run
 *	empty		-> used		ka_arena_use(), ka_arenas_commit()
 *	empty		-> volatile	arenas_make_volatile(), after runs were freed
 *	volatile	-> used		arena_reuse(), if the kernel has not reclaimed it
 *	volatile	-> uncommitted	arena_reuse(), if the kernel has reclaimed it
 *	empty, volatile	-> uncommitted	arenas_release(): there are more than @most_empty of
 *					them, or they are purged
 *	empty		-> uncommitted	ka_arena_pages_lost(): its pages are not mapped
 */
#ifndef KARENA_ARENA_H
#define KARENA_ARENA_H

#include <linux/karena.h>

#include "source/source.h"

/* Powers of two up to the pages of an arena. */
#define KA_ROOM_CLASSES	10

/**
 * struct ka_arena - Metadata of an arena. Maps have a bit for each page.
 * @used: Pages in runs.
 * @head: First pages of runs. A run that reaches into the next arenas has one head.
 * @backed: Committed pages.
 * @touched: Pages that have been in a run since they were committed or purged. All others are
 *	zero.
 * @nr_used: Number of pages in @used.
 * @nr_backed: Number of pages in @backed.
 * @longest: Upper bound of the longest row of free pages.
 * @parts: The arena is committed in parts of 64 KiB, now and whenever it is committed again.
 * @huge: The first touch of a page may allocate the memory of the whole arena.
 * @is_volatile: The arena has no run, and the kernel may reclaim its memory.
 * @advised: The source was told that all pages of the arena will be used.
 */
struct ka_arena {
	uint64_t used[KA_MAP_WORDS];
	uint64_t head[KA_MAP_WORDS];
	uint64_t backed[KA_MAP_WORDS];
	uint64_t touched[KA_MAP_WORDS];
	uint16_t nr_used;
	uint16_t nr_backed;
	uint16_t longest;
	bool parts;
	bool huge;
	bool is_volatile;
	bool advised;
};

/* "ka_notes" in memory; and the version of the layout, from this struct on. */
#define KA_METADATA_MAGIC		0x7365746f6e5f616bULL
#define KA_METADATA_VERSION	4

/**
 * struct ka_metadata - Metadata of a heap at the start of its window, so that an image of the
 *	heap explains itself.
 * @magic: KA_METADATA_MAGIC, stored last.
 * @version: KA_METADATA_VERSION.
 * @entry_size: Bytes of an entry of @arenas.
 * @start: Address of the window in the process of the heap.
 * @nr_arenas: Arenas of the window.
 * @nr_metadata: Arenas at its start that are reserved for the metadata.
 * @nr_touched: Arenas from this index on have never been used.
 * @sequence: Odd while a thread changes the metadata: an image made then is inconsistent.
 * @pages: Committed pages of this struct with @arenas, from the start of the window on.
 * @pools_offset: Offset in bytes of the entries of the pools, one for each slot behind the
 *	metadata.
 * @pools_pages: Committed pages of these entries.
 * @nr_pools: Number of pools.
 * @nr_empty: Number of committed arenas without a run.
 * @stats: Statistics of the heap; bytes and limits are filled in by their readers.
 * @name: Name of the heap.
 * @shown: Statistics for other processes, in the layout of the module's statistics page. A
 *	heap on the module has these there, and zeros here.
 * @arenas: An entry for each arena behind the metadata; entries of arenas that have never been
 *	used have no memory. See ka_arena_at().
 *
 * Only the entries of pools contain pointers. These are valid where the window lies at @start;
 * a reader may have mapped it elsewhere.
 */
struct ka_metadata {
	uint64_t magic;
	uint32_t version;
	uint32_t entry_size;
	uint64_t start;
	uint64_t nr_arenas;
	uint64_t nr_metadata;
	uint64_t nr_touched;
	uint64_t sequence;
	uint64_t pages;
	uint64_t pools_offset;
	uint64_t pools_pages;
	uint64_t nr_pools;
	uint64_t nr_empty;
	struct ka_stats stats;
	char name[KA_NAME_SIZE];
	struct karena_stats shown;
	struct ka_arena arenas[];
};

/* The metadata of an arena, by its index in the window. */
#define ka_arena_at(metadata, index)	(&(metadata)->arenas[(index) - (metadata)->nr_metadata])

struct ka_arenas;

/**
 * struct ka_watch - Functions of an upper layer that run when the heap's lock is released.
 * @find_due: Clear @changed and return the work that is due. The heap is locked and @changed is
 *	set.
 * @do_due: Do this work, @due. The heap is no longer locked, and @due is not 0.
 */
struct ka_watch {
	unsigned int (*find_due)(struct ka_arenas *arenas);
	void (*do_due)(struct ka_arenas *arenas, unsigned int due);
};

/**
 * struct ka_arenas - Arenas of a heap, as the calling process sees them. The processes that map
 *	the window share @metadata.
 * @lock: The heap's lock.
 * @changed: The number of arenas or pools may have changed since @lock was taken.
 * @watch: Called when @lock is released, if @changed is set.
 * @drop_spare: Frees the runs that an upper layer keeps for later; called with @lock held.
 * @spare_pages: Pages of these runs.
 * @window: Addresses of the heap.
 * @metadata: Metadata at the start of the window. A child that has not inherited the heap has
 *	none.
 * @most_empty: Empty arenas beyond this number are uncommitted.
 * @emptied: Arenas that have become empty and are not volatile have indices in this range.
 * @reused: A volatile arena was used again since @decay_at was set.
 * @first_room: For each power of two of pages: no arena before this index has a free row of
 *	that length, unless it is at or behind @room_again.
 * @room_again: First arena with pages that have become free since @first_room was updated.
 * @first_empty: All arenas before this index have a run.
 * @idle: Free pages that may have content, and so memory.
 * @slack: This many idle pages may stay, in addition to an eighth of the pages in use.
 * @purged: Pages purged since @decay_at was set, and in the purge just before.
 * @not_refilled: Those of @purged that have not been needed again.
 * @to_thin: Number of pools that may be thinned: as many as the purged pages could have held.
 * @least_idle: Minimum of @idle since @decay_at was set.
 * @decay_ms: Free pages that the program does not need for so many milliseconds are purged.
 * @decay_at: Time of the next purge of unneeded pages, in milliseconds.
 */
struct ka_arenas {
	struct ka_mutex lock;
	bool changed;
	const struct ka_watch *watch;
	void (*drop_spare)(struct ka_arenas *arenas);
	size_t spare_pages;
	struct ka_window window;
	struct ka_metadata *metadata;
	size_t most_empty;
	struct ka_emptied {
		size_t first;
		size_t end;
	} emptied;
	bool reused;
	size_t first_room[KA_ROOM_CLASSES];
	size_t room_again;
	size_t first_empty;
	size_t idle;
	size_t slack;
	size_t purged;
	size_t not_refilled;
	size_t to_thin;
	size_t least_idle;
	uint64_t decay_ms;
	uint64_t decay_at;
};

static inline void ka_arenas_lock(struct ka_arenas *arenas)
{
	ka_lock(&arenas->lock);
}

/* Record that the number of arenas or pools may have changed. The heap's lock is held. */
static inline void ka_arenas_changed(struct ka_arenas *arenas)
{
	arenas->changed = true;
}

static inline void ka_arenas_unlock(struct ka_arenas *arenas)
{
	unsigned int due = arenas->changed ? arenas->watch->find_due(arenas) : 0;

	ka_unlock(&arenas->lock);
	if (__builtin_expect(due, 0))
		arenas->watch->do_due(arenas, due);
}

/* arena.c; the heap's lock is held */
int ka_arena_commit_pages(struct ka_arenas *arenas, size_t index, size_t from, size_t pages);
int ka_arena_use(struct ka_arenas *arenas, size_t index, size_t from, size_t pages,
		 enum ka_pages kind);
int ka_arenas_commit(struct ka_arenas *arenas, size_t first, size_t count, size_t pages,
		     enum ka_pages kind);
bool ka_arenas_block(struct ka_arenas *arenas, size_t first, size_t count);
void ka_arenas_close(struct ka_arenas *arenas);
void ka_arena_emptied(struct ka_arenas *arenas, size_t index);
void ka_arenas_emptied(struct ka_arenas *arenas);
void ka_arena_pages_lost(struct ka_arenas *arenas, size_t index, size_t from, size_t count);
void ka_arenas_begin(struct ka_arenas *arenas);
void ka_arenas_refilled(struct ka_arenas *arenas, size_t pages);
void ka_arenas_decay(struct ka_arenas *arenas);
bool ka_arenas_trim(struct ka_arenas *arenas, size_t *pages);

/* run.c; the heap's lock is held; ka_run_alloc_locked() returns NULL with errno and a message */
void *ka_run_alloc_locked(struct ka_arenas *arenas, size_t size, size_t align, enum ka_pages kind,
			  bool *zero);
void ka_run_free_locked(struct ka_arenas *arenas, void *run);
void ka_runs_forget(struct ka_arenas *arenas);
bool ka_run_begins(const struct ka_arenas *arenas, const void *address);
size_t ka_run_bytes(const struct ka_arenas *arenas, const void *run);
bool ka_run_resize(struct ka_arenas *arenas, void *run, size_t size, bool *less);
void ka_run_free_cleared_locked(struct ka_arenas *arenas, void *run, size_t size, bool lost);

/* metadata.c; ka_metadata_open() sets errno and a message, the others return an errno */
size_t ka_metadata_size(size_t nr_arenas);
size_t ka_metadata_pools_size(size_t nr_arenas);
int ka_metadata_reach_pool(struct ka_arenas *arenas, size_t slot);
bool ka_metadata_has_pool(const struct ka_arenas *arenas, size_t slot);
size_t ka_metadata_arenas(size_t nr_arenas);
size_t ka_metadata_most(const struct ka_window *window);
size_t ka_metadata_committed(const struct ka_arenas *arenas);
int ka_metadata_open(struct ka_arenas *arenas);
int ka_metadata_reach(struct ka_arenas *arenas, size_t nr_arenas);
void ka_metadata_change(struct ka_arenas *arenas);

/**
 * ka_walk_t() - Called for each run of a heap.
 * @data: The last argument of ka_walk().
 * @offset: Start of the run in the window, in bytes.
 * @size: Bytes of the run.
 */
typedef void ka_walk_t(void *data, size_t offset, size_t size);

/* walk.c; 0, or a negative errno */
int ka_walk(const void *image, size_t size, ka_walk_t *walk, void *data);

#endif /* KARENA_ARENA_H */
