// SPDX-License-Identifier: GPL-2.0
/*
 * How costs grow with the memory of a process: with 64 MiB, 256 MiB and 1 GiB in use, the
 * time to commit one more arena and to release it, to fork, to read the kernel's
 * statistics, and to reclaim 64 MiB that the process allows to reclaim; on karena, and with
 * anonymous pages of 4 KiB and transparent huge pages.
 *
 * Statistics are all files of the heap's directory in sysfs, and one of them, compared with
 * smaps_rollup, which counts the pages when it is read, and statm. Reclaimed memory is
 * volatile, or was passed to MADV_FREE. Each size of each kind is allocated anew, and the
 * process has no other memory.
 */
#include <ftw.h>

#include "group.h"

#define MIB		(1UL << 20)
#define TAKEN		(64 * MIB)

/* An emulator needs seconds for 1 GiB in pages of 4 KiB. */
#define GROWTH_ROUNDS	3

/* Repetitions of a short operation per round; their mean is one value. */
#define REPEATS		5

static const size_t sizes[] = { 64 * MIB, 256 * MIB, 1024 * MIB };

#define NR_SIZES	(sizeof(sizes) / sizeof(*sizes))
#define WINDOW		(1024 * MIB + ARENA)

enum kind { SMALL, HUGE, KARENA, NR_KINDS };

static const char * const names[] = {
	[SMALL]		= "4 KiB anonymous",
	[HUGE]		= "MADV_HUGEPAGE",
	[KARENA]	= "karena",
};

enum what { COMMIT, RELEASE, FORK, FIGURES, FIGURE, RECLAIM, TOOK, NR_WHATS };

static const struct {
	const char *name;
	const char *unit;
} titles[NR_WHATS] = {
	[COMMIT]	= { "commit and touch 2 MiB more", "us" },
	[RELEASE]	= { "release 2 MiB", "us" },
	[FORK]		= { "fork, exit, wait", "us" },
	[FIGURES]	= { "read all statistics", "us" },
	[FIGURE]	= { "read one of the statistics", "us" },
	[RECLAIM]	= { "have 64 MiB taken", "us" },
	/* The kernel may reclaim more than requested. */
	[TOOK]		= { "what was taken then", "KiB" },
};

static struct series values[NR_WHATS][NR_SIZES][NR_KINDS];

/* The kind of memory that is measured now. */
static enum kind kind;
static struct heap heap;
static char *memory;
static size_t used;
static char directory[128];

static void take(size_t from, size_t size)
{
	if (kind == KARENA) {
		for (size_t at = from; at < from + size; at += ARENA)
			__atomic_store_n(&heap.states[at / ARENA], KARENA_REQUESTED,
					 __ATOMIC_RELEASE);
		if (madvise(memory + from, size, MADV_POPULATE_WRITE))
			die("MADV_POPULATE_WRITE");
	}
	touch(memory + from, size);
}

static void make(size_t size)
{
	used = size;
	if (kind == KARENA) {
		heap_make(&heap, WINDOW / ARENA);
		memory = heap.window;
		heap_commit(&heap, 1);
		snprintf(directory, sizeof(directory), "/sys/class/misc/karena/heaps/%llu",
			 (unsigned long long)heap.id);
		take(ARENA, size - ARENA);
	} else {
		memory = anonymous(WINDOW, kind == HUGE ? MADV_HUGEPAGE :
							   MADV_NOHUGEPAGE);
		take(0, size);
	}
}

static void unmake(void)
{
	if (kind == KARENA)
		heap_destroy(&heap);
	else
		munmap(memory, WINDOW);
}

static void measure_commit(double *round)
{
	double start;

	for (int i = 0; i < REPEATS; i++) {
		start = now();
		take(used, ARENA);
		round[COMMIT] += (now() - start) / REPEATS;
		start = now();
		if (madvise(memory + used, ARENA,
			    kind == KARENA ? MADV_REMOVE : MADV_DONTNEED))
			die("madvise");
		round[RELEASE] += (now() - start) / REPEATS;
	}
}

static int read_file(const char *path, const struct stat *stat, int type)
{
	char text[4096];

	(void)stat;
	if (type == FTW_F)
		read_text(path, text, sizeof(text));
	return 0;
}

static void read_statistics(void)
{
	if (kind != KARENA)
		read_file("/proc/self/smaps_rollup", NULL, FTW_F);
	else if (ftw(directory, read_file, 8))
		die(directory);
}

static void read_figure(void)
{
	char path[160], text[64];

	snprintf(path, sizeof(path), "%s/committed", directory);
	if (read_text(kind == KARENA ? path : "/proc/self/statm", text, sizeof(text)) <= 0)
		die(path);
}

static void measure_figures(double *round)
{
	double start = now();

	/* A worker creates the directory. */
	while (kind == KARENA && access(directory, F_OK)) {
		if (now() - start > 10e6)
			die(directory);
		usleep(1000);
	}
	for (int i = 0; i < REPEATS; i++) {
		start = now();
		read_statistics();
		round[FIGURES] += (now() - start) / REPEATS;
		start = now();
		read_figure();
		round[FIGURE] += (now() - start) / REPEATS;
	}
}

static void give_back(void)
{
	if (kind == KARENA) {
		for (size_t i = 0; i < used / ARENA; i++)
			__atomic_store_n(&heap.states[i], volatile_word(),
					 __ATOMIC_RELEASE);
	} else if (madvise(memory, used, MADV_FREE)) {
		die("MADV_FREE");
	}
}

/* The cgroup's count is approximate, so part of the 64 MiB may have been other memory. */
static void measure_reclaim(double *round)
{
	long before = group_memory(), until = before - TAKEN / 10 * 9;
	double start;

	give_back();
	start = now();
	while (group_memory() > until) {
		group_reclaim(TAKEN);
		if (now() - start > 60e6) {
			fprintf(stderr, "%s: not taken\n", names[kind]);
			exit(1);
		}
	}
	round[RECLAIM] = now() - start;
	round[TOOK] = (before - group_memory()) / 1024.;
}

static void measure(size_t size)
{
	double round[NR_WHATS] = {};

	make(sizes[size]);
	measure_commit(round);
	measure_figures(round);
	round[FORK] = fork_and_wait();
	measure_reclaim(round);
	unmake();
	for (int what = 0; what < NR_WHATS; what++)
		record(&values[what][size][kind], round[what]);
}

static void print(enum what what)
{
	printf("%s\n", titles[what].name);
	for (int which = 0; which < NR_KINDS; which++) {
		printf("  %-18s", names[which]);
		for (size_t size = 0; size < NR_SIZES; size++) {
			const struct series *series = &values[what][size][which];
			char name[64];

			printf("%11.1f %-3s", median(series), titles[what].unit);
			print_ratio(median(series) /
				    median(&values[what][0][which]), NULL);
			snprintf(name, sizeof(name), "%s, with %zu MiB in use",
				 titles[what].name, sizes[size] / MIB);
			report("growth", name, names[which], titles[what].unit, series);
		}
		printf("\n");
	}
}

int main(void)
{
	stay_here();
	stop_ahead();
	enter_group();
	for (int round = -1; round < GROWTH_ROUNDS; round++) {
		warm_up = round < 0;
		for (size_t size = 0; size < NR_SIZES; size++) {
			for (kind = 0; kind < NR_KINDS; kind++)
				measure(size);
		}
	}
	printf("With so much in use, and how many times that of 64 MiB; medians of %d\n",
	       GROWTH_ROUNDS);
	printf("%-20s%15s%14s%15s%14s%15s\n", "", "64 MiB", "ratio       ", "256 MiB",
	       "ratio       ", "1 GiB");
	for (int what = 0; what < NR_WHATS; what++)
		print(what);
	return 0;
}
