// SPDX-License-Identifier: GPL-2.0
/*
 * What 2 MiB cost, committed and with every page touched: on karena, with frames
 * that were ready and without, as 4 KiB anonymous pages, and as transparent huge
 * pages.
 */
#include "bench.h"

#define ARENAS	16
#define SIZE	(ARENAS * ARENA)

enum kind { SMALL, HUGE, NONE_READY, READY, NR_KINDS };

static struct cost {
	const char *name;
	struct series take;	/* us an arena, commit and touch */
	struct series give;	/* us an arena, give back */
	long faults;
} costs[NR_KINDS] = {
	[SMALL]		= { .name = "4 KiB anonymous" },
	[HUGE]		= { .name = "MADV_HUGEPAGE" },
	[NONE_READY]	= { .name = "karena, none ready" },
	[READY]		= { .name = "karena, ready" },
};

/* One keeps as many frames ready as a round takes, the other none. */
static struct heap ready_heap, other_heap;
static int ready_fd;
static char ahead[16];

static void restore_ahead(void)
{
	write_text(AHEAD, ahead);
}

/* No frames but those that are asked for: without the file there are no others. */
static void stop_ahead(void)
{
	if (read_text(AHEAD, ahead, sizeof(ahead)) < 0)
		return;
	atexit(restore_ahead);
	if (write_text(AHEAD, "0"))
		die(AHEAD);
}

static int ready_call(uint32_t *ready)
{
	struct karena_ready call = {
		.size = sizeof(call), .count = ARENAS, .node = KARENA_NODE_ANY
	};
	int ret = ioctl(ready_fd, KARENA_READY, &call);

	*ready = call.ready;
	return ret;
}

/* Whether the module has ready frames. Waiting for them is not measured. */
static bool await_ready(void)
{
	double start = now();
	uint32_t ready;

	do {
		if (ready_call(&ready)) {
			if (errno != ENOTTY)
				die("KARENA_READY");
			return false;
		}
		if (now() - start > 60e6) {
			fprintf(stderr, "%u frames ready after 60 s\n", ready);
			exit(1);
		}
		usleep(1000);
	} while (ready < ARENAS);
	return true;
}

static void measure_karena(struct cost *cost, struct heap *heap)
{
	long before = faults();
	double start = now();

	heap_commit(heap, ARENAS);
	touch(heap->window, SIZE);
	record(&cost->take, (now() - start) / ARENAS);
	cost->faults = faults() - before;
	start = now();
	heap_release(heap, ARENAS);
	record(&cost->give, (now() - start) / ARENAS);
}

static void measure_anonymous(struct cost *cost, int advice)
{
	char *start = anonymous(SIZE, advice);
	long before = faults();
	double time = now();

	touch(start, SIZE);
	record(&cost->take, (now() - time) / ARENAS);
	cost->faults = faults() - before;
	time = now();
	if (madvise(start, SIZE, MADV_DONTNEED))
		die("MADV_DONTNEED");
	record(&cost->give, (now() - time) / ARENAS);
	munmap(start, SIZE);
}

static void print(enum kind kind, const char *small, const char *huge)
{
	struct cost *cost = &costs[kind];
	double take = median(&cost->take);

	if (!cost->take.n) {
		printf("%-19snot in this module\n", cost->name);
		return;
	}
	printf("%-19s%8.1f us", cost->name, take);
	print_ratio(median(&costs[SMALL].take) / take, small);
	print_ratio(median(&costs[HUGE].take) / take, huge);
	printf("%6.1f us%8.2f%4d\n", median(&cost->give),
	       (double)cost->faults / ARENAS, cost->take.n);
}

int main(void)
{
	long before;

	stay_here();
	stop_ahead();
	heap_make(&ready_heap, 2 * ARENAS);
	heap_make(&other_heap, 2 * ARENAS);
	ready_fd = heap_attach(&ready_heap);
	for (int round = 0; round < ROUNDS; round++) {
		if (await_ready()) {
			measure_karena(&costs[READY], &ready_heap);
			/* Those taken are made anew: not while others are measured. */
			await_ready();
		}
		measure_karena(&costs[NONE_READY], &other_heap);
		measure_anonymous(&costs[SMALL], MADV_NOHUGEPAGE);
		measure_anonymous(&costs[HUGE], MADV_HUGEPAGE);
	}
	printf("2 MiB committed, every page touched; medians of rounds of %d\n", ARENAS);
	printf("%-19s%11s%14s%14s%9s%8s%4s\n", "", "time", "4 KiB / it  ",
	       "huge / it   ", "give back", "faults", "n");
	print(SMALL, NULL, NULL);
	print(HUGE, NULL, NULL);
	print(NONE_READY, ">= 1.2", ">= 1");
	print(READY, ">= 40", ">= 30");
	before = faults();
	heap_commit(&other_heap, 2 * ARENAS);
	touch(other_heap.window, 2 * SIZE);
	printf("64 MiB committed and touched: %ld faults\n", faults() - before);
	return 0;
}
