/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Common start of the copy-on-write tests: a heap whose pages are marked.
 */
#ifndef KARENA_SELFTESTS_COW_H
#define KARENA_SELFTESTS_COW_H

#include "family.h"

#define NR	8	/* arenas of the window */

#define SPARSE	(2 * PAGES + 10)	/* the first of the 20 sparse pages */
#define SIZE	((long)(2 * ARENA + 20 * PAGE))

/* Two huge arenas and one with 20 pages, all marked. Return 0 or -errno. */
static inline long begin(struct balance *before, struct heap *heap)
{
	long err;

	balance_read(before);
	err = heap_open(heap, NR * ARENA, 0) ?: family_make(heap);
	expect_signals();
	return err ?: commit(heap, 0, 2, 0) ?: commit_some(heap, SPARSE, 20, 0) ?:
	       mark(heap, 0, 2 * PAGES, 'p') ?: mark(heap, SPARSE, 20, 'p');
}

/* Return 1 unless all pages still have their first marks. */
static inline long spoiled(struct heap *heap, long a, long b, long c)
{
	(void)a, (void)b, (void)c;
	return unlike(heap, 0, 2 * PAGES, 'p') + unlike(heap, SPARSE, 20, 'p') +
	       PAGES - 20 - failing(heap, 2 * PAGES, PAGES, SIGBUS);
}

static inline long advise(struct heap *heap, long first, long count, long advice)
{
	return madvise(page_at(heap, first), count * PAGE, advice) ? -errno : 0;
}

#endif
