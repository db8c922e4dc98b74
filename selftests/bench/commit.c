// SPDX-License-Identifier: GPL-2.0
/*
 * The cost of 2 MiB, committed, touched page by page, and released: on karena, with and
 * without ready frames, and for other kinds of memory: anonymous pages of 4 KiB and
 * transparent huge pages, faulted in or populated by a call; reserved hugetlb pages; and a
 * memfd.
 *
 * The address space is mapped before, so no mmap() counts. The number of other system calls
 * is known from the code.
 */
#include "bench.h"

#define ARENAS	16
#define SIZE	(ARENAS * ARENA)

enum what { TAKE, GIVE, FAULTS, ENTRIES, CALLS, NR_WHATS };

static const struct {
	const char *name;
	const char *unit;
} measures[NR_WHATS] = {
	[TAKE]		= { "commit and touch 2 MiB", "us" },
	[GIVE]		= { "give back 2 MiB", "us" },
	[FAULTS]	= { "page faults of 2 MiB", "faults" },
	[ENTRIES]	= { "page-table entries of 2 MiB", "entries" },
	[CALLS]		= { "system calls of 32 MiB", "calls" },
};

/* One heap keeps as many frames ready as a round needs, the other none. */
static struct heap ready_heap, other_heap;
static int ready_fd;

static bool hugetlb_reserved;

/* Map SIZE bytes of address space, or return NULL if there is no such memory. */

static char *make_small(void)
{
	return anonymous(SIZE, MADV_NOHUGEPAGE);
}

static char *make_huge(void)
{
	return anonymous(SIZE, MADV_HUGEPAGE);
}

static char *make_hugetlb(void)
{
	return hugetlb_reserved ? hugetlb(SIZE) : NULL;
}

static char *make_memfd(void)
{
	return shared_memory(SIZE);
}

static char *make_ready(void)
{
	return await_ready(ready_fd, ARENAS) ? ready_heap.window : NULL;
}

static char *make_other(void)
{
	return other_heap.window;
}

static void take_nothing(char *start)
{
	(void)start;
}

static void populate(char *start)
{
	if (madvise(start, SIZE, MADV_POPULATE_WRITE))
		die("MADV_POPULATE_WRITE");
}

static void commit(char *start)
{
	heap_commit(start == ready_heap.window ? &ready_heap : &other_heap, ARENAS);
}

static void unmap(char *start)
{
	munmap(start, SIZE);
}

/*
 * Wait until the used frames are replaced, so that this does not disturb other
 * measurements.
 */
static void refill(char *start)
{
	(void)start;
	await_ready(ready_fd, ARENAS);
}

static void leave(char *start)
{
	(void)start;
}

enum { SMALL, SMALL_POPULATE, HUGE, HUGE_POPULATE, HUGETLB, MEMFD, NONE_READY, READY };

static struct kind {
	const char *name;
	char *(*make)(void);
	void (*take)(char *start);	/* in addition to the touch */
	int give;			/* advice for madvise() */
	void (*end)(char *start);
	const char *small, *huge;	/* required factor */
	struct series series[NR_WHATS];
} kinds[] = {
	[SMALL] = { "4 KiB anonymous", make_small, take_nothing, MADV_DONTNEED, unmap },
	[SMALL_POPULATE] = { "4 KiB, populated", make_small, populate, MADV_DONTNEED,
			     unmap },
	[HUGE] = { "MADV_HUGEPAGE", make_huge, take_nothing, MADV_DONTNEED, unmap },
	[HUGE_POPULATE] = { "huge, populated", make_huge, populate, MADV_DONTNEED,
			    unmap },
	[HUGETLB] = { "hugetlb", make_hugetlb, take_nothing, MADV_DONTNEED, unmap },
	[MEMFD] = { "memfd", make_memfd, take_nothing, MADV_REMOVE, unmap },
	[NONE_READY] = { "karena, none ready", make_other, commit, MADV_REMOVE, leave,
			 ">= 1.2", ">= 1" },
	[READY] = { "karena, ready", make_ready, commit, MADV_REMOVE, refill,
		    ">= 40", ">= 30" },
};

#define NR_KINDS	(sizeof(kinds) / sizeof(*kinds))

static void measure(struct kind *kind)
{
	char *start = kind->make();
	double time, take;
	long before;

	if (!start)
		return;
	before = faults();
	time = now();
	kind->take(start);
	touch(start, SIZE);
	take = now() - time;
	before = faults() - before;
	record(&kind->series[TAKE], take / ARENAS);
	record(&kind->series[FAULTS], (double)before / ARENAS);
	record(&kind->series[ENTRIES], entries(start, SIZE) / ARENAS);
	record(&kind->series[CALLS], (kind->take != take_nothing) + 1);
	time = now();
	if (madvise(start, SIZE, kind->give))
		die("madvise");
	record(&kind->series[GIVE], (now() - time) / ARENAS);
	kind->end(start);
}

static double middle(const struct kind *kind, enum what what)
{
	return median(&kind->series[what]);
}

static void print(const struct kind *kind)
{
	double take;

	if (!kind->series[TAKE].n) {
		printf("%-19snot here\n", kind->name);
		return;
	}
	take = middle(kind, TAKE);
	printf("%-19s%8.1f us", kind->name, take);
	print_ratio(middle(&kinds[SMALL], TAKE) / take, kind->small);
	print_ratio(middle(&kinds[HUGE], TAKE) / take, kind->huge);
	printf("%6.1f us%8.2f%9.2f%6.0f%4d\n", middle(kind, GIVE),
	       middle(kind, FAULTS), middle(kind, ENTRIES), middle(kind, CALLS),
	       kind->series[TAKE].n);
	for (int what = 0; what < NR_WHATS; what++)
		report("commit", measures[what].name, kind->name, measures[what].unit,
		       &kind->series[what]);
}

int main(void)
{
	long before;

	stay_here();
	stop_ahead();
	hugetlb_reserved = reserve_hugepages(ARENAS);
	heap_make(&ready_heap, 2 * ARENAS);
	heap_make(&other_heap, 2 * ARENAS);
	ready_fd = heap_attach(&ready_heap);
	for (int round = -1; round < ROUNDS; round++) {
		warm_up = round < 0;
		for (size_t i = 0; i < NR_KINDS; i++)
			measure(&kinds[i]);
	}
	printf("2 MiB committed, every page touched; medians of rounds of %d\n", ARENAS);
	printf("%-19s%11s%14s%14s%9s%8s%9s%6s%4s\n", "", "time", "4 KiB / it  ",
	       "huge / it   ", "give back", "faults", "entries", "calls", "n");
	for (size_t i = 0; i < NR_KINDS; i++)
		print(&kinds[i]);
	before = faults();
	heap_commit(&other_heap, 2 * ARENAS);
	touch(other_heap.window, 2 * SIZE);
	printf("64 MiB committed and touched: %ld faults\n", faults() - before);
	return 0;
}
