// SPDX-License-Identifier: GPL-2.0
/*
 * What 2 MiB cost, committed and with every page touched: on karena, as 4 KiB
 * anonymous pages, and as transparent huge pages. Each round takes 32 MiB of
 * each in turn; medians of the rounds.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include <linux/karena.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE	23
#endif

#define ARENAS	16
#define SIZE	(ARENAS * KARENA_ARENA_SIZE)
#define ROUNDS	31

static char *window;
static uint32_t *states;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void heap_make(void)
{
	struct karena_create create = {
		.size = sizeof(create), .window = 2 * SIZE, .name = "bench"
	};
	struct karena_control *control;
	int device = open(KARENA_DEVICE, O_RDWR), fd;

	fd = device < 0 ? -1 : ioctl(device, KARENA_CREATE, &create);
	if (fd < 0)
		die(KARENA_DEVICE);
	window = mmap(NULL, 2 * SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	control = mmap(NULL, create.control_size, PROT_READ | PROT_WRITE, MAP_SHARED,
		       fd, create.control_offset);
	if (window == MAP_FAILED || control == MAP_FAILED)
		die("mmap");
	states = (uint32_t *)((char *)control + control->states_offset);
	close(fd);
	close(device);
}

static void commit(size_t arenas)
{
	for (size_t i = 0; i < arenas; i++)
		__atomic_store_n(&states[i], KARENA_REQUESTED, __ATOMIC_RELEASE);
	if (madvise(window, arenas * KARENA_ARENA_SIZE, MADV_POPULATE_WRITE))
		die("MADV_POPULATE_WRITE");
}

static void touch(volatile char *start, size_t size)
{
	for (size_t i = 0; i < size; i += 4096)
		start[i] = 1;
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1e6 + time.tv_nsec / 1e3;
}

static long faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_minflt;
}

struct cost {
	const char *name;
	double take[ROUNDS];	/* us, commit and touch */
	double give[ROUNDS];	/* us, give back */
	long faults;
};

static void measure_karena(struct cost *cost, int round)
{
	long before = faults();
	double start = now();

	commit(ARENAS);
	touch(window, SIZE);
	cost->take[round] = now() - start;
	cost->faults = faults() - before;
	start = now();
	if (madvise(window, SIZE, MADV_REMOVE))
		die("MADV_REMOVE");
	cost->give[round] = now() - start;
}

static void measure_anonymous(struct cost *cost, int round, int advice)
{
	/* Aligned, so that huge pages have their chance. */
	char *map = mmap(NULL, 2 * SIZE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *start = (char *)(((uintptr_t)map + KARENA_ARENA_SIZE - 1) &
			       ~(KARENA_ARENA_SIZE - 1));
	long before = faults();
	double time;

	if (map == MAP_FAILED || madvise(map, 2 * SIZE, advice))
		die("mmap");
	time = now();
	touch(start, SIZE);
	cost->take[round] = now() - time;
	cost->faults = faults() - before;
	time = now();
	if (madvise(start, SIZE, MADV_DONTNEED))
		die("MADV_DONTNEED");
	cost->give[round] = now() - time;
	munmap(map, 2 * SIZE);
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *values)
{
	qsort(values, ROUNDS, sizeof(*values), compare);
	return values[ROUNDS / 2];
}

int main(void)
{
	struct cost costs[] = {
		{ .name = "karena" }, { .name = "4 KiB anonymous" },
		{ .name = "MADV_HUGEPAGE" },
	};
	double base = 0;
	long before;

	heap_make();
	for (int round = 0; round < ROUNDS; round++) {
		measure_karena(&costs[0], round);
		measure_anonymous(&costs[1], round, MADV_NOHUGEPAGE);
		measure_anonymous(&costs[2], round, MADV_HUGEPAGE);
	}
	printf("2 MiB, medians of %d rounds of %d each\n", ROUNDS, ARENAS);
	printf("%-18s%16s%8s%14s%10s\n", "", "commit, touch", "ratio", "give back",
	       "faults");
	for (int i = 0; i < 3; i++) {
		double take = median(costs[i].take) / ARENAS;

		if (!i)
			base = take;
		printf("%-18s%13.1f us%8.2f%11.1f us%10.2f\n", costs[i].name, take,
		       take / base, median(costs[i].give) / ARENAS,
		       (double)costs[i].faults / ARENAS);
	}
	before = faults();
	commit(2 * ARENAS);
	touch(window, 2 * SIZE);
	printf("64 MiB committed and touched: %ld faults\n", faults() - before);
	return 0;
}
