/* SPDX-License-Identifier: MIT */
/*
 * Statistics: counted, written for other processes, and printed.
 */
#ifndef KARENA_STATS_H
#define KARENA_STATS_H

#include "heap/heap.h"

/* When other processes see a heap's statistics: KARENA_STATS. */
enum ka_show {
	KA_SHOW_WRONG		= -1,	/* with errno and a message */
	KA_SHOW_LARGE		= 0,	/* from its second arena on */
	KA_SHOW_NEVER		= 1,
	KA_SHOW_ALWAYS		= 2,
};

/* stats.c; the heap's lock is held */
void ka_stats_count(struct ka_heap *heap, struct ka_stats *stats);
void ka_stats_classes(struct ka_heap *heap, struct ka_class classes[KA_CLASSES]);
void ka_stats_add_up(const struct ka_heap *heap, struct ka_stats *stats);

/* report.c */
void ka_report_due(struct ka_heap *heap);
void ka_report_wanted(struct ka_heap *heap);

/* publish.c */
enum ka_show ka_shown_option(void);
void ka_shown_open(struct ka_heap *heap, const struct ka_options *options, enum ka_show show);

#endif /* KARENA_STATS_H */
