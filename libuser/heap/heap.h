/* SPDX-License-Identifier: MIT */
/*
 * Heaps: their list, their options, and what a fork does with them.
 */
#ifndef KARENA_HEAP_H
#define KARENA_HEAP_H

#include "thread/cache.h"

/**
 * struct ka_shown - How other processes see a heap's statistics; see stats/publish.c.
 * @lock: Held by the thread that writes @page. Taken before the heap's lock.
 * @page: Where the statistics are written: the module's statistics page, or @shown of struct
 *	ka_metadata. NULL: nowhere (KARENA_STATS=0).
 * @always: Write them even if the heap has never had two arenas at a time: for KARENA_STATS=1,
 *	and for a heap on the module.
 * @report: KARENA_MALLOCSTATS: print the statistics whenever the number of arenas has doubled,
 *	and at exit.
 * @due: The next thread that changes arenas or pools prints the statistics.
 * @reported: The highest number of arenas so far when they were last printed.
 * @changes: Arenas committed and released so far when the statistics were last counted.
 * @next: Earliest time of the next write if arenas have changed.
 * @next_pools: The same if only pools have changed. Both in ns of CLOCK_MONOTONIC.
 */
struct ka_shown {
	struct ka_mutex lock;
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
 * struct ka_tally - Counters of a domain, if KARENA_MALLOC=count; see stats/tally.c.
 * @blocks: Allocated blocks.
 * @bytes: Usable bytes of these blocks.
 *
 * The alignment keeps threads that use different domains from sharing a cache line.
 */
struct ka_tally {
	size_t blocks;
	size_t bytes;
} __attribute__((aligned(64)));

/**
 * struct ka_heap - A heap, or a child's copy of one.
 * @caches: The structs of the lower layers.
 * @next: The next heap in the list of all heaps; the lock of the lists guards it.
 * @permanent: The heap cannot be reset, since threads keep addresses of their caches in other
 *	places than their tables.
 * @shown: How other processes see the statistics.
 * @tallies: The counters of each domain. NULL: this is not the heap of the domains, or domains
 *	are not counted.
 */
struct ka_heap {
	struct ka_caches caches;
	struct ka_heap *next;
	bool permanent;
	struct ka_shown shown;
	const struct ka_tally *tallies;
};

/* The structs of lower layers in a heap. */
#define ka_pools_of(heap)	(&(heap)->caches.pools)
#define ka_arenas_of(heap)	(&(heap)->caches.pools.arenas)
#define ka_window_of(heap)	(&(heap)->caches.pools.arenas.window)

/* list.c; @ka_heaps: all heaps, linked by @next. */
extern struct ka_heap *ka_heaps;
void ka_heaps_add(struct ka_heap *heap);
void ka_heaps_remove(struct ka_heap *heap);
void ka_heaps_renumber(struct ka_heap *heap);
void ka_heaps_hide_pools(void);
bool ka_heaps_any(void);
void ka_heaps_at_exit(void (*visit)(struct ka_heap *heap));

/* fork.c */
void ka_heap_register(struct ka_heap *heap);
void ka_heap_unregister(struct ka_heap *heap);

/* options.c; the two int functions return 0, or -1 with errno and a message. */
int ka_option_size(size_t *size, const char *variable);
bool ka_option_ignored(bool forgive);
int ka_options_read(struct ka_options *options, const struct ka_options *wanted, bool forgive);

/* open.c; the first function returns 0, or -1 with errno and a message. */
int ka_heap_begin(struct ka_heap *heap, const struct ka_options *options);
void ka_heap_end(struct ka_heap *heap);

#endif /* KARENA_HEAP_H */
