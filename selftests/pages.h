/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Helpers for tests of sparse frames: commit, release, fill and check pages of an arena,
 * and check the statistics.
 */
#ifndef KARENA_SELFTESTS_PAGES_H
#define KARENA_SELFTESTS_PAGES_H

#include "common.h"

static inline char *page(const struct heap *heap, size_t index, size_t page)
{
	return arena(heap, index) + page * PAGE;
}

/* Commit pages as a program without a descriptor does. Return 0 or -errno. */
static inline int commit_pages(const struct heap *heap, size_t index,
			       size_t first, size_t count)
{
	set_state(heap, index, 1, KARENA_REQUESTED | KARENA_SPARSE);
	if (madvise(page(heap, index, first), count * PAGE, MADV_POPULATE_WRITE))
		return -errno;
	set_state(heap, index, 1, KARENA_ACTIVE | KARENA_SPARSE);
	return 0;
}

static inline int release_pages(const struct heap *heap, size_t index,
				size_t first, size_t count)
{
	return madvise(page(heap, index, first), count * PAGE, MADV_REMOVE) ?
	       -errno : 0;
}

/* Commit or release pages by ioctl. */
static inline int call_pages(const struct heap *heap, unsigned int cmd,
			     size_t index, size_t first, size_t count)
{
	return heap_range(heap, cmd, index * ARENA + first * PAGE, count * PAGE);
}

/* Fill each page of an arena with its own byte. */
static inline void fill(const struct heap *heap, size_t index, size_t first,
			size_t count)
{
	for (size_t i = first; i < first + count; i++)
		memset(page(heap, index, i), i * 7 + index + 1, PAGE);
}

/* Count the pages that do not have their byte. */
static inline size_t spoilt(const struct heap *heap, size_t index, size_t first,
			    size_t count)
{
	size_t pages = 0;

	for (size_t i = first; i < first + count; i++)
		pages += count_other(page(heap, index, i), PAGE,
				     i * 7 + index + 1) != 0;
	return pages;
}

/* Count the pages that can be touched. */
static inline size_t reachable(const struct heap *heap, size_t index,
			       size_t first, size_t count)
{
	size_t pages = 0;

	for (size_t i = first; i < first + count; i++)
		pages += !touch(page(heap, index, i) + i);
	return pages;
}

#define EXPECT_HEAP_STATS(_heap, _huge, _arenas, _pages)		\
	do {								\
		EXPECT_EQ(_huge, heap_stat(_heap, "huge_arenas"));	\
		EXPECT_EQ(_arenas, heap_stat(_heap, "sparse_arenas"));	\
		EXPECT_EQ(_pages, heap_stat(_heap, "sparse_pages"));	\
		EXPECT_EQ((_huge) * (long)ARENA + (_pages) * (long)PAGE, \
			  heap_stat(_heap, "committed"));		\
	} while (0)

static inline bool reuse_sparse(const struct heap *heap, size_t index,
				uint32_t word)
{
	return __atomic_compare_exchange_n(&heap->states[index], &word,
					   KARENA_ACTIVE | KARENA_SPARSE, false,
					   __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

#endif
