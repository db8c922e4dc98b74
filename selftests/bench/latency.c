// SPDX-License-Identifier: GPL-2.0
/*
 * The duration of single calls: random blocks are replaced, first without a clock, for the
 * calls per second, then with a reading of the clock around each malloc and each free.
 * Prints a line for each statistic with its name and value; times are nanoseconds. Each
 * time includes the clock readings, whose cost is also printed. The first touch of a block,
 * perhaps a page fault, is included in the calls per second, but not in malloc.
 */
#include <stdbool.h>
#include <x86intrin.h>

#include "blocks.h"

struct work {
	const char *name;
	size_t min, max;	/* sizes of blocks */
	size_t live;		/* blocks at a time */
	size_t steps;		/* blocks that each thread replaces */
	int threads;
};

/*
 * 128 buckets for each power of two, so the width of a bucket is at most 0.8 % of its
 * values.
 */
#define FINE		7
#define BUCKETS		((64 - FINE + 1) << FINE)

struct histogram {
	uint64_t most, sum;
	uint64_t counts[BUCKETS];
};

struct worker {
	const struct work *work;
	void **slots;
	uint64_t state;
	struct histogram *mallocs, *frees;
};

static size_t bucket(uint64_t ticks)
{
	int shift;

	if (ticks >> FINE == 0)
		return ticks;
	shift = 63 - FINE - __builtin_clzll(ticks);
	return ((size_t)shift << FINE) + (size_t)(ticks >> shift);
}

/* The middle of a bucket. */
static double middle(size_t index)
{
	int shift = (int)(index >> FINE) - 1;

	if (shift < 1)
		return (double)index;
	return (double)((((index & ((1 << FINE) - 1)) + (1 << FINE)) << shift) +
			(1ULL << shift) / 2);
}

static void add(struct histogram *histogram, uint64_t ticks)
{
	histogram->counts[bucket(ticks)]++;
	histogram->sum++;
	if (ticks > histogram->most)
		histogram->most = ticks;
}

static void merge(struct histogram *all, const struct histogram *one)
{
	for (size_t i = 0; i < BUCKETS; i++)
		all->counts[i] += one->counts[i];
	all->sum += one->sum;
	if (one->most > all->most)
		all->most = one->most;
}

/* The value that this part of all samples does not exceed. */
static double quantile(const struct histogram *histogram, double part)
{
	double wanted = part * (double)histogram->sum;
	uint64_t sum = 0;
	size_t i;

	for (i = 0; i < BUCKETS - 1; i++) {
		sum += histogram->counts[i];
		if ((double)sum >= wanted)
			break;
	}
	return middle(i);
}

/* Read the clock, after all earlier instructions and before all later ones. */
static inline uint64_t look(void)
{
	uint64_t ticks;

	_mm_lfence();
	ticks = __rdtsc();
	_mm_lfence();
	return ticks;
}

/*
 * All threads share the slots, so with two threads half of the blocks belong to the other
 * one.
 */
static inline void replace(struct worker *worker, bool timed)
{
	const struct work *work = worker->work;

	for (size_t i = 0; i < work->steps; i++) {
		size_t size = work->min + below(&worker->state, work->max - work->min + 1);
		void **slot = &worker->slots[below(&worker->state, work->live)], *block;
		uint64_t start = timed ? look() : 0;

		block = malloc(size);
		if (timed)
			add(worker->mallocs, look() - start);
		use(block, size);
		block = __atomic_exchange_n(slot, block, __ATOMIC_ACQ_REL);
		start = timed ? look() : 0;
		free(block);
		if (timed)
			add(worker->frees, look() - start);
	}
}

static void *untimed(void *worker)
{
	replace(worker, false);
	return NULL;
}

static void *timed(void *worker)
{
	replace(worker, true);
	return NULL;
}

static void print(const char *name, const struct histogram *histogram, double ns)
{
	dprintf(STDOUT_FILENO, "%s-p50 %.1f\n%s-p99 %.1f\n%s-p99.9 %.1f\n%s-p99.99 %.1f\n"
		"%s-max %.1f\n", name, quantile(histogram, 0.5) * ns, name,
		quantile(histogram, 0.99) * ns, name, quantile(histogram, 0.999) * ns,
		name, quantile(histogram, 0.9999) * ns, name,
		(double)histogram->most * ns);
}

/*
 * The cost of a clock reading, and the smallest distance of two, since the clock has steps.
 */
static void print_looks(double ns)
{
	struct histogram *looks = pages(sizeof(*looks));
	uint64_t step = UINT64_MAX;

	for (int i = 0; i < 100000; i++) {
		uint64_t start = look(), ticks = look() - start;

		add(looks, ticks);
		start = __rdtsc();
		ticks = __rdtsc() - start;
		if (ticks && ticks < step)
			step = ticks;
	}
	dprintf(STDOUT_FILENO, "timing %.1f\nstep %.1f\n", quantile(looks, 0.5) * ns,
		(double)step * ns);
}

/* One of two threads that pass a cache line to each other. */
struct player {
	int *ball;
	int own, turns;
	struct histogram *rounds;	/* time from one turn to the next */
};

static void *play(void *argument)
{
	struct player *player = argument;
	uint64_t last = look();

	for (int i = 0; i < player->turns; i++) {
		uint64_t turn;

		while (__atomic_load_n(player->ball, __ATOMIC_ACQUIRE) != player->own)
			;
		__atomic_store_n(player->ball, !player->own, __ATOMIC_RELEASE);
		turn = look();
		add(player->rounds, turn - last);
		last = turn;
	}
	return NULL;
}

/* How long a cache line takes from one processor to another. */
static void print_handover(double ns)
{
	static _Alignas(128) int ball;
	struct player players[] = {
		{ &ball, 0, 200000, pages(sizeof(struct histogram)) },
		{ &ball, 1, 200000, pages(sizeof(struct histogram)) },
	};

	on_threads(2, play, players, sizeof(*players));
	dprintf(STDOUT_FILENO, "handover %.1f\n", quantile(players[0].rounds, 0.5) / 2 * ns);
}

static void run(const struct work *work)
{
	struct worker workers[MAX_THREADS];
	void **slots = pages(work->live * sizeof(*slots));
	double start, ns;
	uint64_t ticks;
	int n = work->threads;

	for (int i = 0; i < n; i++)
		workers[i] = (struct worker){
			work, slots, (uint64_t)i + 1, pages(sizeof(struct histogram)),
			pages(sizeof(struct histogram))
		};
	/* The first run is not measured. After it, all slots have blocks. */
	on_threads(n, untimed, workers, sizeof(*workers));
	start = now();
	on_threads(n, untimed, workers, sizeof(*workers));
	dprintf(STDOUT_FILENO, "calls %.0f\n",
		2 * (double)work->steps * n / (now() - start));

	start = now();
	ticks = __rdtsc();
	on_threads(n, timed, workers, sizeof(*workers));
	ns = (now() - start) * 1e9 / (double)(__rdtsc() - ticks);
	print_looks(ns);
	if (n > 1)
		print_handover(ns);
	for (int i = 1; i < n; i++) {
		merge(workers[0].mallocs, workers[i].mallocs);
		merge(workers[0].frees, workers[i].frees);
	}
	print("malloc", workers[0].mallocs, ns);
	print("free", workers[0].frees, ns);
}

static const struct work works[] = {
	{ "small", 16, KIB, 20000, 2000000, 1 },
	{ "medium", KIB, 64 * KIB, 2000, 200000, 1 },
	{ "shared", 16, KIB, 20000, 1000000, 2 },
};

int main(int argc, char **argv)
{
	for (size_t i = 0; i < sizeof(works) / sizeof(*works); i++) {
		if (argc < 2) {
			puts(works[i].name);
		} else if (strcmp(works[i].name, argv[1]) == 0) {
			run(&works[i]);
			return 0;
		}
	}
	if (argc < 2)
		return 0;
	fprintf(stderr, "latency: no case %s\n", argv[1]);
	return 2;
}
