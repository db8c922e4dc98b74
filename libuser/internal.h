/* SPDX-License-Identifier: MIT */
/*
 * What the library's files share. Calls go down only:
 *
 *	domain.c	domains, and what is behind them, by default a heap
 *	debug.c		what is put between the two to find mistakes; see debug.h
 *	io.c		buffers for input and output, in a heap of their own
 *	heap.c		heaps: options, figures, blocks of them
 *	block.c		blocks: what takes more than a thread's own pools (cache.h)
 *	trace.h		tracing: which blocks are in use, and where they were allocated
 *	cache.c		which pools are whose, what a thread leaves when it ends
 *	pool.c		pools, and which runs they need
 *	run.c		runs, and which arenas they need
 *	arena.c		arenas: committed, given up, purged, released
 *	list.c		the list of all heaps
 *	fork.c		what a child has of them
 *	report.c	a heap's figures, as text
 *	stats.c		a heap's figures: counted, and when they are shown to others
 *	note.c		the notes at the start of the window; walk.c reads them
 *	device.c, embedded.c	sources: a window, arenas committed and released
 *	error.c, size.c	sentences, sizes in text
 *	sys.c		system calls and the clock
 *
 * heap->lock guards everything of a heap that changes after ka_heap_create(), its
 * notes among it, but for pools, which have owners; see pool.h. The list of heaps, and
 * which caches there are, have a lock of their own, taken before it; between them come
 * that of the traces and that of a cache. Files that have a further lock tell lock.c of it
 * (ka_fork_takes()); these are taken before the list's.
 */
#ifndef KARENA_INTERNAL_H
#define KARENA_INTERNAL_H

#include <sys/types.h>

#include <karena/karena.h>
#include <linux/karena.h>

#include "base/class.h"
#include "base/lock.h"
#include "base/sys.h"

#define KA_ARENA_PAGES	(KA_ARENA_SIZE / KA_PAGE_SIZE)
#define KA_MIB		((size_t)1 << 20)

/* Pools are made of slots of 16 KiB, to find the pool of an address by. */
#define KA_SLOT_SHIFT	14
#define KA_SLOT_SIZE	((size_t)1 << KA_SLOT_SHIFT)
#define KA_ARENA_SLOTS	(KA_ARENA_SIZE / KA_SLOT_SIZE)
#define KA_SLOT_PAGES	(KA_SLOT_SIZE / KA_PAGE_SIZE)

/* Bytes of the notes on a slot: struct ka_pool. */
#define KA_SLOT_ENTRY	((size_t)64)

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

/* How many heaps there may be at a time whose blocks are used. */
#define KA_HEAPS	((size_t)1024)

/* One bit a page. */
#define KA_MAP_WORDS	(KA_ARENA_PAGES / 64)

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

/* Pools with free blocks: which had the first of them longest ago is the first. */
struct ka_pool_list {
	struct ka_pool *first;
	struct ka_pool *last;
};

/**
 * struct ka_shown - How a heap's figures are shown to others; see publish.c.
 * @page: What they are written to: the module's statistics page, or @shown in the notes;
 *	NULL: nothing (KARENA_STATS=0).
 * @always: Not only when the heap has had two arenas at a time (KARENA_STATS=1).
 * @report: KARENA_MALLOCSTATS: the library prints the figures each time the arenas have
 *	doubled, and at exit.
 * @due: The thread that changes arenas or pools next prints the figures.
 * @reported: The most arenas there had been, when they were last printed.
 * @changes: Arenas committed and given back, when they were last written.
 * @next: When they may be written again, if arenas have changed.
 * @next_pools: When, if pools alone have; both in ns of CLOCK_MONOTONIC.
 */
struct ka_shown {
	struct karena_stats *page;
	bool always;
	bool report;
	bool due;
	size_t reported;
	size_t changes;
	uint64_t next;
	uint64_t next_pools;
};

/**
 * struct ka_tally - What the program has of a domain, if that is counted; see tally.c.
 * @blocks: Blocks.
 * @bytes: Bytes in these.
 *
 * Threads that use different domains share no cache line.
 */
struct ka_tally {
	size_t blocks;
	size_t bytes;
} __attribute__((aligned(64)));

/**
 * struct ka_watch - What a layer above does when the heap's lock is released.
 * @find_due: Clear @changed of the heap and return what is to be done; called with the lock
 *	held, if there were changes.
 * @do_due: Do it; called when the lock has been released, if that is not 0.
 */
struct ka_watch {
	unsigned int (*find_due)(struct ka_heap *heap);
	void (*do_due)(struct ka_heap *heap, unsigned int due);
};

/**
 * struct ka_heap - A heap: what belongs to the process that calls, a child's copy
 *	of it among them. What is the same for all who see its memory is in @notes.
 * @start: Of its first slot, in the arena behind the notes.
 * @map: The pool of each slot, or &ka_no_pool.
 * @nr_slots: Slots of all arenas that have ever been used; only these are in @map.
 * @map_size: How much of the map has memory, in bytes.
 * @pools: The pools' entries in the notes.
 * @inherited: The heap is the parent's; nothing can be done with it.
 * @index: Where the threads' tables have their cache; see cache.c.
 * @serial: No other heap of the process has, or has had, this number.
 * @lock: Guards what no other does. What is above, each call reads without a lock, so it
 *	has a line of the cache to itself.
 * @changed: Arenas or pools may have become more or fewer since it was taken.
 * @watch: Looks at the heap then.
 * @secret: What decides in which order pools have their blocks.
 * @window: Its addresses.
 * @notes: At their start; not to be touched when @inherited.
 * @shelf: Pools of each class with free blocks that have no owner.
 * @traced: Pools of each class with free blocks whose others are traced; the lock of
 *	the traces guards them.
 * @spare: What were pools of each class a moment ago, with their blocks linked.
 * @nr_spare: How many these are.
 * @spare_pages: Pages of runs that layers above keep for later.
 * @drop_spare: Gives these runs back, with the heap's lock held.
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
 * @caches: Of all threads that have pools of the heap.
 * @nr_late: How many threads without a cache have a pool for a moment.
 * @shown: How others see its figures.
 * @tallies: What the program has of each domain; NULL: it is not the domains' heap, or
 *	that is not counted.
 * @next: In the list of all heaps, whose lock guards it.
 */
struct ka_heap {
	char *start;
	struct ka_pool **map;
	size_t nr_slots;
	size_t map_size;
	struct ka_pool *pools;
	bool inherited;
	size_t index;
	uint64_t serial;

	struct ka_mutex lock __attribute__((aligned(64)));
	bool changed;
	const struct ka_watch *watch;
	uint64_t secret[2];
	struct ka_window window;
	struct ka_notes *notes;
	struct ka_pool_list shelf[KA_CLASSES];
	struct ka_pool_list traced[KA_CLASSES];
	struct ka_pool *spare[KA_CLASSES];
	size_t nr_spare;
	size_t spare_pages;
	void (*drop_spare)(struct ka_heap *heap);
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
	struct ka_cache *caches;
	unsigned int nr_late;
	struct ka_shown shown;
	const struct ka_tally *tallies;
	struct ka_heap *next;
};

static inline void ka_heap_lock(struct ka_heap *heap)
{
	ka_lock(&heap->lock);
}

/* Arenas or pools may have become more or fewer; with the lock held. */
static inline void ka_heap_changed(struct ka_heap *heap)
{
	heap->changed = true;
}

static inline void ka_heap_unlock(struct ka_heap *heap)
{
	unsigned int due = heap->changed ? heap->watch->find_due(heap) : 0;

	ka_unlock(&heap->lock);
	if (__builtin_expect(due, 0))
		heap->watch->do_due(heap, due);
}

/* options.c; 0, or -1 with errno and a sentence. */
int ka_option_size(size_t *size, const char *variable);
bool ka_option_ignored(bool forgive);
int ka_options_read(struct ka_options *options, const struct ka_options *wanted, bool forgive);

/* open.c; likewise */
int ka_heap_begin(struct ka_heap *heap, const struct ka_options *options);
void ka_heap_end(struct ka_heap *heap);

/* error.c; true, with errno and a sentence. */
bool ka_fail_inherited(void);

/* Likewise, if the heap is the parent's. */
static inline bool ka_refuse_inherited(const struct ka_heap *heap)
{
	/* It changes in a child before that runs, and never again. */
	return __builtin_expect(heap->inherited, 0) && ka_fail_inherited();
}

/* With the heap's lock held; the first returns NULL with errno and a sentence. */
void *ka_run_take(struct ka_heap *heap, size_t size, size_t align, enum ka_pages kind,
		  bool *zero);
void ka_run_give(struct ka_heap *heap, void *run);

bool ka_run_begins(const struct ka_heap *heap, const void *address);
size_t ka_run_bytes(const struct ka_heap *heap, const void *run);
bool ka_run_resize(struct ka_heap *heap, void *run, size_t size, bool *less);
void ka_run_give_gone(struct ka_heap *heap, void *run, size_t size, bool lost);

/* arena.c, with the heap's lock held; see there. */
int ka_arena_commit_pages(struct ka_heap *heap, size_t index, size_t from, size_t pages);
int ka_arena_use(struct ka_heap *heap, size_t index, size_t from, size_t pages);
int ka_arenas_commit(struct ka_heap *heap, size_t first, size_t count, size_t pages,
		     enum ka_pages kind);
bool ka_arenas_block(struct ka_heap *heap, size_t first, size_t count);
void ka_arenas_close(struct ka_heap *heap);
void ka_arena_emptied(struct ka_heap *heap, size_t index);
void ka_arenas_emptied(struct ka_heap *heap);
void ka_arena_pages_lost(struct ka_heap *heap, size_t index, size_t from, size_t count);
void ka_arenas_begin(struct ka_heap *heap);
void ka_arenas_refilled(struct ka_heap *heap, size_t pages);
void ka_arenas_decay(struct ka_heap *heap);
bool ka_arenas_trim(struct ka_heap *heap, size_t *pages);

/* runs.c, which takes the lock; see there. */
void *ka_runs_take(struct ka_heap *heap, size_t size, size_t align);
void *ka_runs_zeroed(struct ka_heap *heap, size_t size, size_t align);
int ka_runs_give(struct ka_heap *heap, void *run);
size_t ka_runs_size(struct ka_heap *heap, const void *run);
bool ka_runs_resize(struct ka_heap *heap, void *run, size_t size);
enum ka_moved ka_runs_move(struct ka_heap *heap, void *run, void *other, size_t size);
void ka_runs_give_gone(struct ka_heap *heap, void *run, size_t size, bool lost);

/* pool.c; 0, or -1 with errno and a sentence. */
int ka_pools_open(struct ka_heap *heap);

/* list.c; all heaps, linked by @next. */
extern struct ka_heap *ka_heaps;
void ka_heaps_add(struct ka_heap *heap);
void ka_heaps_remove(struct ka_heap *heap);
void ka_heaps_hide_pools(void);
bool ka_heaps_any(void);
void ka_heaps_at_exit(void (*visit)(struct ka_heap *heap));

/* fork.c */
void ka_heap_register(struct ka_heap *heap);
void ka_heap_unregister(struct ka_heap *heap);

/* note.c; ka_notes_open() sets errno and a sentence, the others return an errno. */
size_t ka_notes_size(size_t nr_arenas);
size_t ka_notes_pools_size(size_t nr_arenas);
int ka_notes_reach_pool(struct ka_heap *heap, size_t slot);
bool ka_notes_have_pool(const struct ka_heap *heap, size_t slot);
size_t ka_notes_arenas(size_t nr_arenas);
size_t ka_notes_most(const struct ka_window *window);
int ka_notes_open(struct ka_heap *heap);
int ka_notes_reach(struct ka_heap *heap, size_t nr_arenas);
void ka_notes_change(struct ka_heap *heap);

/**
 * ka_walk_t() - Told of a run.
 * @data: What the walk was given.
 * @offset: Where in the window it begins, in bytes.
 * @size: Its size in bytes.
 */
typedef void ka_walk_t(void *data, size_t offset, size_t size);

/* walk.c; 0, or -errno. */
int ka_walk(const void *image, size_t size, ka_walk_t *walk, void *data);

/* error.c; the first sets errno too, and returns -1. */
int ka_fail(int error, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
void ka_ignore(void);
void ka_die(const char *what) __attribute__((noreturn, cold));

/* size.c */
int ka_parse_size(const char *text, size_t *size);
const char *ka_format_size(size_t size, char buffer[static 32]);

#endif /* KARENA_INTERNAL_H */
