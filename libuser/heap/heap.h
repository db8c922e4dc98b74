/* SPDX-License-Identifier: MIT */
/*
 * Heaps.
 */
#ifndef KARENA_HEAP_H
#define KARENA_HEAP_H

#include "thread/cache.h"

/**
 * struct ka_shown - How a heap's figures are shown to others; see publish.c.
 * @lock: One thread writes @page at a time. Taken before the heap's lock.
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
 * struct ka_heap - A heap, a child's copy of one among them.
 * @caches: What the layers below have of it.
 * @next: In the list of all heaps, whose lock guards it.
 * @permanent: Threads keep addresses of their caches elsewhere, so it cannot be reset.
 * @shown: How others see its figures.
 * @tallies: What the program has of each domain; NULL: it is not the domains' heap, or
 *	that is not counted.
 */
struct ka_heap {
	struct ka_caches caches;
	struct ka_heap *next;
	bool permanent;
	struct ka_shown shown;
	const struct ka_tally *tallies;
};

/* What the layers below have of a heap. */
#define ka_pools_of(heap)	(&(heap)->caches.pools)
#define ka_arenas_of(heap)	(&(heap)->caches.pools.arenas)
#define ka_window_of(heap)	(&(heap)->caches.pools.arenas.window)

/* list.c; all heaps, linked by @next. */
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

/* options.c; 0, or -1 with errno and a sentence. */
int ka_option_size(size_t *size, const char *variable);
bool ka_option_ignored(bool forgive);
int ka_options_read(struct ka_options *options, const struct ka_options *wanted, bool forgive);

/* open.c; likewise */
int ka_heap_begin(struct ka_heap *heap, const struct ka_options *options);
void ka_heap_end(struct ka_heap *heap);

#endif /* KARENA_HEAP_H */
