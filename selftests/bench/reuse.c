// SPDX-License-Identifier: GPL-2.0
/*
 * The cost of returning 2 MiB to the kernel and using them again, with every page
 * touched: volatile arenas, compared with the ways in which malloc implementations treat
 * anonymous memory, with hugetlb pages, and with a memfd with punched holes. volatile.c
 * proves that volatile arenas need no system call; the number of system calls of the others
 * is known from the code. The faults are counted here.
 */
#include "bench.h"

#define ARENAS		16
#define SIZE		(ARENAS * ARENA)
#define REQUIRED	">= 30"

/* Instead of an advice. */
#define HUGETLB		-1
#define MEMFD		-2

enum way { VOLATILE, DONTNEED, FREE, REMOVE, UNMAP, NR_WAYS };

static struct row {
	const char *name;
	enum way way;
	int advice;		/* for the mapping; HUGETLB and MEMFD have none */
	char *memory;
	struct series times;	/* us per arena */
	struct series faults;	/* per arena */
	struct series calls;	/* for all arenas */
} rows[] = {
	{ .name = "karena, volatile", .way = VOLATILE },
	{ .name = "MADV_DONTNEED, 4 KiB", .way = DONTNEED, .advice = MADV_NOHUGEPAGE },
	{ .name = "MADV_FREE, 4 KiB", .way = FREE, .advice = MADV_NOHUGEPAGE },
	{ .name = "munmap, mmap, 4 KiB", .way = UNMAP, .advice = MADV_NOHUGEPAGE },
	{ .name = "MADV_DONTNEED, huge", .way = DONTNEED, .advice = MADV_HUGEPAGE },
	{ .name = "MADV_FREE, huge", .way = FREE, .advice = MADV_HUGEPAGE },
	{ .name = "munmap, mmap, huge", .way = UNMAP, .advice = MADV_HUGEPAGE },
	{ .name = "MADV_DONTNEED, hugetlb", .way = DONTNEED, .advice = HUGETLB },
	{ .name = "hole punched, memfd", .way = REMOVE, .advice = MEMFD },
};

#define NR_ROWS	(sizeof(rows) / sizeof(*rows))

static const struct {
	int advice;
	int calls;
} ways[NR_WAYS] = {
	[VOLATILE]	= { 0, 0 },
	[DONTNEED]	= { MADV_DONTNEED, 1 },
	[FREE]		= { MADV_FREE, 1 },
	[REMOVE]	= { MADV_REMOVE, 1 },
	[UNMAP]		= { 0, 2 },
};

static struct heap heap;

static void reuse_volatile(void)
{
	uint32_t words[ARENAS];

	for (int i = 0; i < ARENAS; i++) {
		words[i] = volatile_word();
		__atomic_store_n(&heap.states[i], words[i], __ATOMIC_RELEASE);
	}
	for (int i = 0; i < ARENAS; i++) {
		if (!__atomic_compare_exchange_n(&heap.states[i], &words[i],
						 KARENA_ACTIVE, false,
						 __ATOMIC_ACQ_REL,
						 __ATOMIC_ACQUIRE)) {
			fprintf(stderr, "an arena was taken, or about to be\n");
			exit(1);
		}
	}
	touch(heap.window, SIZE);
}

/* In us. The advice for the new mapping is not measured. */
static double reuse_unmap(char *memory, int advice)
{
	double start = now(), time;

	munmap(memory, SIZE);
	if (mmap(memory, SIZE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		die("mmap");
	time = now() - start;
	if (madvise(memory, SIZE, advice))
		die("madvise");
	start = now();
	touch(memory, SIZE);
	return time + now() - start;
}

static double reuse(struct row *row)
{
	double start = now();

	if (row->way == UNMAP)
		return reuse_unmap(row->memory, row->advice);
	if (row->way == VOLATILE) {
		reuse_volatile();
	} else {
		if (madvise(row->memory, SIZE, ways[row->way].advice))
			die("madvise");
		touch(row->memory, SIZE);
	}
	return now() - start;
}

static void prepare(struct row *row)
{
	if (row->way == VOLATILE) {
		heap_make(&heap, ARENAS);
		heap_commit(&heap, ARENAS);
		row->memory = heap.window;
	} else if (row->advice == HUGETLB) {
		row->memory = reserve_hugepages(ARENAS) ? hugetlb(SIZE) : NULL;
	} else if (row->advice == MEMFD) {
		row->memory = shared_memory(SIZE);
	} else {
		row->memory = anonymous(SIZE, row->advice);
	}
	if (row->memory)
		touch(row->memory, SIZE);
}

static void measure(struct row *row)
{
	long before = faults();
	double time;

	if (!row->memory)
		return;
	time = reuse(row);
	record(&row->faults, (double)(faults() - before) / ARENAS);
	record(&row->times, time / ARENAS);
	record(&row->calls, ways[row->way].calls);
}

static void print(const struct row *row)
{
	double time;

	if (!row->memory) {
		printf("%-24snot here\n", row->name);
		return;
	}
	time = median(&row->times);
	printf("%-24s%9.1f us", row->name, time);
	print_ratio(time / median(&rows->times),
		    row->advice == MADV_NOHUGEPAGE ? REQUIRED : NULL);
	printf("%9.2f%7.0f%4d\n", mean(&row->faults), median(&row->calls),
	       row->times.n);
	report("reuse", "give back 2 MiB and touch them again", row->name, "us",
	       &row->times);
	report("reuse", "page faults of 2 MiB", row->name, "faults", &row->faults);
	report("reuse", "system calls of 32 MiB", row->name, "calls", &row->calls);
}

int main(void)
{
	for (size_t i = 0; i < NR_ROWS; i++)
		prepare(&rows[i]);
	for (int round = -1; round < ROUNDS; round++) {
		warm_up = round < 0;
		for (size_t i = 0; i < NR_ROWS; i++)
			measure(&rows[i]);
	}
	printf("2 MiB given back and used again, every page touched; "
	       "medians of rounds of %d\n", ARENAS);
	printf("%-24s%12s%14s%9s%7s%4s\n", "", "time", "it / karena ", "faults",
	       "calls", "n");
	for (size_t i = 0; i < NR_ROWS; i++)
		print(&rows[i]);
	printf("%.0f faults of karena in all rounds (0)\n",
	       mean(&rows->faults) * ROUNDS * ARENAS);
	return 0;
}
