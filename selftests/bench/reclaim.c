// SPDX-License-Identifier: GPL-2.0
/*
 * How fast the kernel reclaims 1 GiB of volatile arenas when memory is short, compared with
 * 1 GiB of clean page cache, and of anonymous memory after MADV_FREE. A memory cgroup has
 * only one of these kinds, and the kernel has to reclaim it: step by step (memory.reclaim),
 * at once (memory.high), and without regard to cgroups (drop_caches, which does not reclaim
 * anonymous memory).
 *
 * The page cache is that of an empty block device, the argument, so that reading a page
 * again costs the device neither time nor memory.
 */
#include "group.h"

#define MIB		(1UL << 20)
#define SIZE		(1024 * MIB)
#define ARENAS		(SIZE / ARENA)
#define STEP		(64 * MIB)
#define DROP_CACHES	"/proc/sys/vm/drop_caches"

/* This remainder is accepted, because the cgroup's count is approximate. */
#define LEFT		(SIZE / 50)

#define RECLAIM_ROUNDS	3

enum kind { KARENA, CACHE, FREE_SMALL, FREE_HUGE, NR_KINDS };

static const char * const names[] = {
	[KARENA]	= "volatile arenas",
	[CACHE]		= "clean page cache",
	[FREE_SMALL]	= "MADV_FREE, 4 KiB",
	[FREE_HUGE]	= "MADV_FREE, huge",
};

struct pressure {
	const char *name;
	void (*apply)(enum kind kind, long floor);
	int kinds;	/* number of kinds that it can reclaim */
	struct series series[NR_KINDS];	/* MiB/s */
};

static struct heap heap;
static char *memory;
static int disk;

static void apply_reclaim(enum kind kind, long floor)
{
	(void)kind;
	while (group_memory() > floor + (long)LEFT)
		group_reclaim(STEP);
}

static void apply_high(enum kind kind, long floor)
{
	(void)kind;
	group_high(floor + LEFT);
}

static void apply_drop(enum kind kind, long floor)
{
	(void)floor;
	if (write_text(DROP_CACHES, kind == KARENA ? "2" : "1"))
		die(DROP_CACHES);
}

static struct pressure pressures[] = {
	{ .name = "memory.reclaim, 64 MiB", .apply = apply_reclaim, .kinds = NR_KINDS },
	{ .name = "memory.high", .apply = apply_high, .kinds = NR_KINDS },
	{ .name = "drop_caches", .apply = apply_drop, .kinds = FREE_SMALL },
};

#define NR_PRESSURES	(sizeof(pressures) / sizeof(*pressures))

static void fill_arenas(void)
{
	heap_commit(&heap, ARENAS);
	for (size_t i = 0; i < ARENAS; i++)
		__atomic_store_n(&heap.states[i], volatile_word(), __ATOMIC_RELEASE);
}

static void fill_cache(void)
{
	static char buffer[MIB];

	for (size_t at = 0; at < SIZE; at += sizeof(buffer)) {
		if (pread(disk, buffer, sizeof(buffer), at) != sizeof(buffer))
			die("the device");
	}
}

static void fill_anonymous(int advice)
{
	memory = anonymous(SIZE, advice);
	touch(memory, SIZE);
	if (madvise(memory, SIZE, MADV_FREE))
		die("MADV_FREE");
}

static void fill(enum kind kind)
{
	if (kind == KARENA)
		fill_arenas();
	else if (kind == CACHE)
		fill_cache();
	else
		fill_anonymous(kind == FREE_HUGE ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

/* Return MiB/s. */
static double take(const struct pressure *pressure, enum kind kind, long floor)
{
	long before = group_memory(), after;
	double start = now(), time;
	int tries = 0;

	if (before < floor + (long)SIZE * 9 / 10) {
		fprintf(stderr, "the cgroup has %ld MiB\n", (before - floor) >> 20);
		exit(1);
	}
	do {
		pressure->apply(kind, floor);
		time = now() - start;
		after = group_memory();
	} while (after > floor + 2 * (long)LEFT && ++tries < 10);
	group_high(-1);
	if (after > floor + 2 * (long)LEFT) {
		fprintf(stderr, "%s: %ld MiB stay\n", pressure->name,
			(after - floor) >> 20);
		exit(1);
	}
	return (double)(before - after) / MIB / (time / 1e6);
}

static double measure(const struct pressure *pressure, enum kind kind, long floor)
{
	double rate;

	fill(kind);
	rate = take(pressure, kind, floor);
	if (kind >= FREE_SMALL)
		munmap(memory, SIZE);
	return rate;
}

static void print(const struct pressure *pressure)
{
	double karena = median(&pressure->series[KARENA]);

	printf("1 GiB taken by %s; medians\n", pressure->name);
	for (int kind = 0; kind < pressure->kinds; kind++) {
		const struct series *series = &pressure->series[kind];

		printf("  %-22s%11.0f MiB/s", names[kind], median(series));
		print_ratio(karena / median(series), NULL);
		printf("%4d\n", series->n);
		report("reclaim", pressure->name, names[kind], "MiB/s", series);
	}
}

int main(int argc, char **argv)
{
	long floor;

	if (argc != 2) {
		fprintf(stderr, "usage: %s DEVICE\n", *argv);
		return 1;
	}
	disk = open(argv[1], O_RDONLY | O_CLOEXEC);
	if (disk < 0)
		die(argv[1]);
	enter_group();
	heap_make(&heap, ARENAS);
	/* Create everything that is needed only once. */
	heap_commit(&heap, 1);
	heap_release(&heap, 1);
	floor = group_memory();
	for (int round = -1; round < RECLAIM_ROUNDS; round++) {
		warm_up = round < 0;
		for (size_t i = 0; i < NR_PRESSURES; i++) {
			struct pressure *pressure = &pressures[i];

			for (int kind = 0; kind < pressure->kinds; kind++)
				record(&pressure->series[kind],
				       measure(pressure, kind, floor));
		}
	}
	printf("%-24s%17s%14s%4s\n", "", "", "karena / it ", "n");
	for (size_t i = 0; i < NR_PRESSURES; i++)
		print(&pressures[i]);
	return 0;
}
