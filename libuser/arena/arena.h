/* SPDX-License-Identifier: MIT */
/*
 * Arenas of a heap, and runs: consecutive pages of an arena, or of several. What is known of
 * them stands in the notes at the start of the window.
 *
 * The lock of struct ka_arenas is the heap's. It guards everything of a heap that changes
 * once the heap is made, except pools, which have owners: see pool/pool.h.
 */
#ifndef KARENA_ARENA_H
#define KARENA_ARENA_H

#include <linux/karena.h>

#include "source/source.h"

/* Classes of numbers of pages, up to an arena's: the powers of two that they are at least. */
#define KA_ROOM_CLASSES	10

/**
 * struct ka_arena - The library's notes on an arena, kept outside of it.
 * @used: Pages that are in a run.
 * @head: Pages that a run begins with; a run that begins in the arena before
 *	goes on in this one without a head.
 * @backed: Pages that are committed.
 * @touched: Pages that have been in a run since they were committed, or purged; the
 *	others are zero.
 * @nr_used: How many pages are in a run.
 * @nr_backed: How many are committed: all or, of an arena that is committed in parts,
 *	some; or none.
 * @longest: No free pages in a row are more than this.
 * @parts: It is committed in parts, now and whenever it is committed again.
 * @huge: A touch of one page may cost the memory of all.
 * @is_volatile: It has no run, and the kernel may take it.
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
};

/* "ka_notes" in memory; and the layout of what follows, from this struct on. */
#define KA_NOTES_MAGIC		0x7365746f6e5f616bULL
#define KA_NOTES_VERSION	4

/**
 * struct ka_notes - What the library knows of a heap's memory, at the start of its
 *	window, so that an image of the heap explains itself.
 * @magic: KA_NOTES_MAGIC, once all is there.
 * @version: KA_NOTES_VERSION.
 * @entry_size: Bytes of an entry of @arenas.
 * @start: Where the window is mapped in the heap's process.
 * @nr_arenas: Arenas of the window.
 * @nr_notes: The first of them, which the notes may take.
 * @nr_touched: Arenas from here on have never been used.
 * @sequence: Odd while a thread changes the notes: an image taken then has them
 *	half changed.
 * @pages: Pages of @arenas that are committed, from the start of the window on.
 * @pools_offset: Where the pools' entries are, one for each slot behind the notes; in
 *	bytes.
 * @pools_pages: Pages of these that are committed.
 * @nr_pools: Pools there are.
 * @nr_empty: Committed arenas without a run.
 * @stats: The heap's figures; bytes and limits are filled in when read.
 * @name: The heap's name.
 * @shown: Its figures for other processes, written and read as the module's statistics
 *	page; of a heap on the module they are there, and these are zero.
 * @arenas: An entry for each arena of the window but those of the notes; untouched
 *	ones have no memory. See ka_arena_at().
 *
 * But for those of pools there are no pointers, and these are what they are where
 * @start is: who reads it may have mapped it elsewhere.
 */
struct ka_notes {
	uint64_t magic;
	uint32_t version;
	uint32_t entry_size;
	uint64_t start;
	uint64_t nr_arenas;
	uint64_t nr_notes;
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

/* The notes on an arena, which is none of their own. */
#define ka_arena_at(notes, index)	(&(notes)->arenas[(index) - (notes)->nr_notes])

struct ka_arenas;

/**
 * struct ka_watch - What a layer above does when the heap's lock is released.
 * @find_due: Clear @changed and return what is to be done; called with the lock held, if
 *	there were changes.
 * @do_due: Do it; called when the lock has been released, if that is not 0.
 */
struct ka_watch {
	unsigned int (*find_due)(struct ka_arenas *arenas);
	void (*do_due)(struct ka_arenas *arenas, unsigned int due);
};

/**
 * struct ka_arenas - The arenas of a heap: what belongs to the process that calls. What is
 *	the same for all who see their memory is in @notes.
 * @lock: The heap's lock.
 * @changed: Arenas or pools may have become more or fewer since it was taken.
 * @watch: Looks at the heap then.
 * @drop_spare: Gives back the runs that a layer above keeps for later; with the lock held.
 * @spare_pages: Pages of these runs.
 * @window: The heap's addresses.
 * @notes: At their start; not to be touched when the heap is the parent's.
 * @most_empty: How many arenas without a run may stay committed.
 * @emptied: Among these arenas are those that have become empty, and are not volatile.
 * @in_vain: A volatile one has been needed again since @decay_at was set.
 * @first_room: For each power of two: only arenas from this one on have so many free pages
 *	in a row, or those from @room_again on.
 * @room_again: The first arena that has got free pages since the others were looked at.
 * @first_empty: All arenas before this one have a run.
 * @idle: Pages of arenas that are free and may have old content, so have memory.
 * @slack: How many of these are kept, beside an eighth of what is in use.
 * @purged: Pages that have been purged since @decay_at was set, and just before.
 * @not_refilled: Those of them that have not been needed again.
 * @to_thin: How many pools in use may lose pages: those are given up when others are.
 * @least_idle: The fewest there have been since @decay_at was set.
 * @decay_ms: How long pages are idle at least that are purged then.
 * @decay_at: When that is, in milliseconds.
 */
struct ka_arenas {
	struct ka_mutex lock;
	bool changed;
	const struct ka_watch *watch;
	void (*drop_spare)(struct ka_arenas *arenas);
	size_t spare_pages;
	struct ka_window window;
	struct ka_notes *notes;
	size_t most_empty;
	struct ka_emptied {
		size_t first;
		size_t end;
	} emptied;
	bool in_vain;
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

/* Arenas or pools may have become more or fewer; with the lock held. */
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

/* arena.c, with the heap's lock held; see there. */
int ka_arena_commit_pages(struct ka_arenas *arenas, size_t index, size_t from, size_t pages);
int ka_arena_use(struct ka_arenas *arenas, size_t index, size_t from, size_t pages);
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

/* run.c, likewise; the first returns NULL with errno and a sentence. */
void *ka_run_take(struct ka_arenas *arenas, size_t size, size_t align, enum ka_pages kind,
		  bool *zero);
void ka_run_give(struct ka_arenas *arenas, void *run);
void ka_runs_forget(struct ka_arenas *arenas);
bool ka_run_begins(const struct ka_arenas *arenas, const void *address);
size_t ka_run_bytes(const struct ka_arenas *arenas, const void *run);
bool ka_run_resize(struct ka_arenas *arenas, void *run, size_t size, bool *less);
void ka_run_give_gone(struct ka_arenas *arenas, void *run, size_t size, bool lost);

/* note.c; ka_notes_open() sets errno and a sentence, the others return an errno. */
size_t ka_notes_size(size_t nr_arenas);
size_t ka_notes_pools_size(size_t nr_arenas);
int ka_notes_reach_pool(struct ka_arenas *arenas, size_t slot);
bool ka_notes_have_pool(const struct ka_arenas *arenas, size_t slot);
size_t ka_notes_arenas(size_t nr_arenas);
size_t ka_notes_most(const struct ka_window *window);
int ka_notes_open(struct ka_arenas *arenas);
int ka_notes_reach(struct ka_arenas *arenas, size_t nr_arenas);
void ka_notes_change(struct ka_arenas *arenas);

/**
 * ka_walk_t() - Told of a run.
 * @data: What the walk was given.
 * @offset: Where in the window it begins, in bytes.
 * @size: Its size in bytes.
 */
typedef void ka_walk_t(void *data, size_t offset, size_t size);

/* walk.c; 0, or -errno. */
int ka_walk(const void *image, size_t size, ka_walk_t *walk, void *data);

#endif /* KARENA_ARENA_H */
