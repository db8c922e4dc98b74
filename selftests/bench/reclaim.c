// SPDX-License-Identifier: GPL-2.0
/*
 * How fast the kernel takes 1 GiB of volatile arenas when memory is short, against
 * 1 GiB of clean page cache. Either is all that a memory cgroup has, and the
 * cgroup is made to give it up: step by step (memory.reclaim), at once
 * (memory.high), and without looking at cgroups (drop_caches).
 *
 * The page cache is that of a block device, the argument, which holds nothing: to
 * read a page of it again costs the device neither time nor memory.
 */
#include <sys/stat.h>

#include "bench.h"

#define MIB		(1UL << 20)
#define SIZE		(1024 * MIB)
#define ARENAS		(SIZE / ARENA)
#define STEP		(64 * MIB)
#define ROOT		"/sys/fs/cgroup"
#define GROUP		ROOT "/karena-bench"
#define DROP_CACHES	"/proc/sys/vm/drop_caches"

/* Less than all of it will do: the cgroup's count is a rough one. */
#define LEFT		(SIZE / 50)

#define RECLAIM_ROUNDS	3

struct pressure {
	const char *name;
	void (*apply)(bool karena, long floor);
	struct series karena, cache;	/* MiB/s */
};

static struct heap heap;
static int disk;

static long group_memory(void)
{
	char text[32];

	if (read_text(GROUP "/memory.current", text, sizeof(text)) < 0)
		die(GROUP "/memory.current");
	return atol(text);
}

/* What the kernel cannot take at once it says so of: the next step tries again. */
static void apply_reclaim(bool karena, long floor)
{
	char text[32];

	(void)karena;
	snprintf(text, sizeof(text), "%lu", STEP);
	while (group_memory() > floor + (long)LEFT) {
		if (write_text(GROUP "/memory.reclaim", text) && errno != EAGAIN)
			die(GROUP "/memory.reclaim");
	}
}

static void apply_high(bool karena, long floor)
{
	char text[32];

	(void)karena;
	snprintf(text, sizeof(text), "%ld", floor + LEFT);
	if (write_text(GROUP "/memory.high", text))
		die(GROUP "/memory.high");
}

static void apply_drop(bool karena, long floor)
{
	(void)floor;
	if (write_text(DROP_CACHES, karena ? "2" : "1"))
		die(DROP_CACHES);
}

/* In MiB/s. */
static double measure(const struct pressure *pressure, bool karena, long floor)
{
	long before = group_memory(), after;
	double start = now(), time;
	int tries = 0;

	if (before < floor + (long)SIZE * 9 / 10) {
		fprintf(stderr, "the cgroup has %ld MiB\n", (before - floor) >> 20);
		exit(1);
	}
	do {
		pressure->apply(karena, floor);
		time = now() - start;
		after = group_memory();
	} while (after > floor + 2 * (long)LEFT && ++tries < 10);
	if (write_text(GROUP "/memory.high", "max"))
		die(GROUP "/memory.high");
	if (after > floor + 2 * (long)LEFT) {
		fprintf(stderr, "%s: %ld MiB stay\n", pressure->name,
			(after - floor) >> 20);
		exit(1);
	}
	return (double)(before - after) / MIB / (time / 1e6);
}

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

static void enter_group(void)
{
	write_text(ROOT "/cgroup.subtree_control", "+memory");
	if (mkdir(GROUP, 0755) && errno != EEXIST)
		die(GROUP);
	if (write_text(GROUP "/cgroup.procs", "0"))
		die(GROUP);
}

static void print(const struct pressure *pressure)
{
	double karena = median(&pressure->karena), cache = median(&pressure->cache);

	printf("%-24s%11.0f MiB/s%11.0f MiB/s", pressure->name, karena, cache);
	print_ratio(karena / cache, NULL);
	printf("%4d\n", pressure->karena.n);
}

int main(int argc, char **argv)
{
	struct pressure pressures[] = {
		{ .name = "memory.reclaim, 64 MiB", .apply = apply_reclaim },
		{ .name = "memory.high", .apply = apply_high },
		{ .name = "drop_caches", .apply = apply_drop },
	};
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
	/* What is used only once is in before. */
	heap_commit(&heap, 1);
	heap_release(&heap, 1);
	floor = group_memory();
	for (int round = 0; round < RECLAIM_ROUNDS; round++) {
		for (int i = 0; i < 3; i++) {
			struct pressure *pressure = &pressures[i];

			fill_arenas();
			record(&pressure->karena, measure(pressure, true, floor));
			fill_cache();
			record(&pressure->cache, measure(pressure, false, floor));
		}
	}
	printf("1 GiB taken by the kernel; medians\n");
	printf("%-24s%17s%17s%14s%4s\n", "by", "volatile arenas", "clean page cache",
	       "ratio       ", "n");
	for (int i = 0; i < 3; i++)
		print(&pressures[i]);
	return 0;
}
