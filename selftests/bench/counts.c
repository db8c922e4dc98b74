// SPDX-License-Identifier: GPL-2.0
/*
 * Instructions of karena's operations, for comparison with an earlier run: in a guest whose
 * processor counter advances by 1 with each instruction (COUNT=1). The run is short and its
 * results almost constant.
 *
 * Sources of variation are excluded: random address layout (`guest` turns it off); kernel
 * threads, which run only while this real-time process sleeps; and the timer interrupt,
 * since each measurement starts right after one, so that short ones contain none and long
 * ones always the same number. What remains are lists of free pages and objects that are
 * full or empty from time to time. Therefore there are several rounds, after two that warm
 * up.
 */
#include <signal.h>
#include <sys/wait.h>
#include <x86intrin.h>

#include "bench.h"

#define WARM_UP		2	/* rounds */
#define COUNT_ROUNDS	5
#define ARENAS		32	/* in use at a fork: 64 MiB */
#define READY		4

/* Each measurement has its own heap and device. */
static struct heap heap;
static int device;

static inline unsigned long long count(void)
{
	return __rdtsc();
}

/* Let kernel threads finish their work, and wait for the tick of the coarse clock. */
static unsigned long long begin(void)
{
	double tick;

	usleep(20000);
	tick = clock_us(CLOCK_MONOTONIC_COARSE);
	while (clock_us(CLOCK_MONOTONIC_COARSE) == tick)
		;
	return count();
}

static void use_memory(size_t arenas)
{
	heap_commit(&heap, arenas);
	touch(heap.window, arenas * ARENA);
}

static double commit_none_ready(void)
{
	unsigned long long start = begin();

	use_memory(1);
	return count() - start;
}

static double commit_ready(void)
{
	unsigned long long start;
	int fd = heap_attach(&heap);

	await_ready(fd, READY);
	start = begin();
	use_memory(1);
	start = count() - start;
	close(fd);
	return start;
}

static double release(void)
{
	unsigned long long start;

	use_memory(1);
	start = begin();
	heap_release(&heap, 1);
	return count() - start;
}

static double reuse(void)
{
	unsigned long long start;
	uint32_t word;

	use_memory(1);
	start = begin();
	word = volatile_word();
	__atomic_store_n(heap.states, word, __ATOMIC_RELEASE);
	if (!__atomic_compare_exchange_n(heap.states, &word, KARENA_ACTIVE, false,
					 __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
		abort();
	touch(heap.window, ARENA);
	return count() - start;
}

static pid_t fork_child(bool stays)
{
	pid_t child = fork();

	if (child < 0)
		die("fork");
	if (!child) {
		if (stays)
			pause();
		_exit(0);
	}
	return child;
}

static void await_child(pid_t child)
{
	if (waitpid(child, NULL, 0) != child)
		die("waitpid");
}

static double fork_and_exit(void)
{
	unsigned long long start;

	use_memory(ARENAS);
	start = begin();
	await_child(fork_child(false));
	return count() - start;
}

/* Write to a page of an arena for the first time since the fork, while the child exists. */
static double write_after_fork(void)
{
	unsigned long long start;
	pid_t child;

	use_memory(ARENAS);
	child = fork_child(true);
	start = begin();
	*(volatile char *)(heap.window + ARENA) = 2;
	start = count() - start;
	kill(child, SIGKILL);
	await_child(child);
	return start;
}

static double create_and_destroy(void)
{
	unsigned long long start = begin();
	struct heap other;

	heap_make_on(device, &other, 2 * ARENAS);
	heap_destroy(&other);
	return count() - start;
}

static struct measurement {
	const char *name;
	double (*measure)(void);
	struct series counts;
} measurements[] = {
	{ .name = "2 MiB committed and touched, none ready",
	  .measure = commit_none_ready },
	{ .name = "2 MiB committed and touched, ready",
	  .measure = commit_ready },
	{ .name = "2 MiB given back, taken back and touched",
	  .measure = reuse },
	{ .name = "2 MiB released",
	  .measure = release },
	{ .name = "fork and exit with 64 MiB",
	  .measure = fork_and_exit },
	{ .name = "a first write after fork",
	  .measure = write_after_fork },
	{ .name = "a heap created and destroyed",
	  .measure = create_and_destroy },
};

#define NR_MEASUREMENTS	(sizeof(measurements) / sizeof(*measurements))

static void run_round(void)
{
	for (size_t i = 0; i < NR_MEASUREMENTS; i++) {
		struct measurement *measurement = &measurements[i];

		heap_make_on(device, &heap, 2 * ARENAS);
		/* The first commit of a heap maps its state words. */
		heap_commit(&heap, 1);
		heap_release(&heap, 1);
		record(&measurement->counts, measurement->measure());
		heap_destroy(&heap);
	}
}

static void be_real_time(void)
{
	struct sched_param param = { .sched_priority = 1 };

	write_text("/proc/sys/kernel/sched_rt_runtime_us", "-1");
	if (sched_setscheduler(0, SCHED_FIFO, &param))
		die("sched_setscheduler");
}

static void print(const struct measurement *measurement)
{
	double min = measurement->counts.values[0], max = min;

	for (int i = 1; i < COUNT_ROUNDS; i++) {
		double value = measurement->counts.values[i];

		min = value < min ? value : min;
		max = value > max ? value : max;
	}
	printf("%-42s%10.0f%10.0f%10.0f%4d\n", measurement->name,
	       median(&measurement->counts), min, max, measurement->counts.n);
	report("counts", measurement->name, "karena", "instructions",
	       &measurement->counts);
}

int main(void)
{
	const char *place = getenv("KARENA_PLACE");

	if (!place || !strstr(place, " counted")) {
		fprintf(stderr, "instructions are counted with COUNT=1 alone\n");
		return 1;
	}
	stay_here();
	stop_ahead();
	device = device_open();
	be_real_time();
	for (int round = -WARM_UP; round < COUNT_ROUNDS; round++) {
		warm_up = round < 0;
		run_round();
	}
	printf("Instructions; medians\n%-42s%10s%10s%10s%4s\n", "", "median", "least",
	       "most", "n");
	for (size_t i = 0; i < NR_MEASUREMENTS; i++)
		print(&measurements[i]);
	return 0;
}
