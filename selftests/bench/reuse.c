// SPDX-License-Identifier: GPL-2.0
/*
 * What it costs to give 2 MiB back to the kernel and to use them again, with every
 * page touched: volatile arenas, against what malloc implementations do with
 * anonymous memory. That the former is no system call is for a test to prove
 * (volatile.c); the faults are counted here.
 */
#include "bench.h"

#define ARENAS		16
#define SIZE		(ARENAS * ARENA)
#define REQUIRED	">= 30"

enum way { VOLATILE, DONTNEED, FREE, UNMAP, NR_WAYS };

static struct row {
	const char *name;
	enum way way;
	int advice;
	char *memory;
	struct series times;	/* us an arena */
	long faults;		/* of all rounds */
} rows[] = {
	{ .name = "karena, volatile", .way = VOLATILE },
	{ .name = "MADV_DONTNEED, 4 KiB", .way = DONTNEED, .advice = MADV_NOHUGEPAGE },
	{ .name = "MADV_FREE, 4 KiB", .way = FREE, .advice = MADV_NOHUGEPAGE },
	{ .name = "munmap, mmap, 4 KiB", .way = UNMAP, .advice = MADV_NOHUGEPAGE },
	{ .name = "MADV_DONTNEED, huge", .way = DONTNEED, .advice = MADV_HUGEPAGE },
	{ .name = "MADV_FREE, huge", .way = FREE, .advice = MADV_HUGEPAGE },
	{ .name = "munmap, mmap, huge", .way = UNMAP, .advice = MADV_HUGEPAGE },
};

#define NR_ROWS	(sizeof(rows) / sizeof(*rows))

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

/* In us; the advice for a new mapping is not counted. */
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
		if (madvise(row->memory, SIZE,
			    row->way == FREE ? MADV_FREE : MADV_DONTNEED))
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
	} else {
		row->memory = anonymous(SIZE, row->advice);
	}
	touch(row->memory, SIZE);
}

static void print(const struct row *row)
{
	double time = median(&row->times);

	printf("%-24s%9.1f us", row->name, time);
	print_ratio(time / median(&rows->times),
		    row->advice == MADV_NOHUGEPAGE ? REQUIRED : NULL);
	printf("%9.2f%4d\n", (double)row->faults / ARENAS / row->times.n, row->times.n);
}

int main(void)
{
	for (size_t i = 0; i < NR_ROWS; i++)
		prepare(&rows[i]);
	/* A round before them: code and stack have their faults, too. */
	for (int round = -1; round < ROUNDS; round++) {
		for (size_t i = 0; i < NR_ROWS; i++) {
			long before = faults();
			double time = reuse(&rows[i]) / ARENAS;

			if (round < 0)
				continue;
			rows[i].faults += faults() - before;
			record(&rows[i].times, time);
		}
	}
	printf("2 MiB given back and used again, every page touched; medians of rounds of %d\n",
	       ARENAS);
	printf("%-24s%12s%14s%9s%4s\n", "", "time", "it / karena ", "faults", "n");
	for (size_t i = 0; i < NR_ROWS; i++)
		print(&rows[i]);
	printf("%ld faults of karena in all rounds (0)\n", rows->faults);
	return 0;
}
