// SPDX-License-Identifier: GPL-2.0
/*
 * 64 arenas committed through io_uring, where a worker does the work: as one list, as 64
 * entries of one submission, as 64 entries of madvise; compared with the same calls made by
 * the thread itself. Measured are the number of system calls, the time until all is done,
 * and the cost for the requesting thread: the time until it can continue, and its processor
 * time.
 */
#include <liburing.h>
#include <sched.h>
#include <sys/syscall.h>

#include "bench.h"

#define ARENAS	64

enum way {
	IOCTLS, IOCTL_LIST, MADVISES, MADVISE_ONE,
	RING_LIST, RING_ENTRIES, RING_MADVISES, NR_WAYS
};

static const struct {
	const char *name;
	bool ring;
	int entries;	/* or calls */
} ways[NR_WAYS] = {
	[IOCTLS]	= { "64 ioctls", false, ARENAS },
	[IOCTL_LIST]	= { "1 ioctl, a list", false, 1 },
	[MADVISES]	= { "64 madvise", false, ARENAS },
	[MADVISE_ONE]	= { "1 madvise", false, 1 },
	[RING_LIST]	= { "ring, 1 list of 64", true, 1 },
	[RING_ENTRIES]	= { "ring, 64 entries", true, ARENAS },
	[RING_MADVISES]	= { "ring, 64 madvise", true, ARENAS },
};

struct cost {
	struct series done;	/* us until all arenas are committed */
	struct series submit;	/* us until the thread can continue */
	struct series cpu;	/* us of the thread itself */
	struct series calls;	/* system calls */
};

/* One heap keeps as many frames ready as a round needs, the other none. */
static struct heap ready_heap, other_heap;
static int ready_fd, other_fd;
static struct io_uring ring;

static struct karena_range ranges[ARENAS];
static struct karena_ranges lists[ARENAS], whole;

static void make_lists(void)
{
	for (int i = 0; i < ARENAS; i++) {
		ranges[i] = (struct karena_range){
			.offset = i * ARENA, .length = ARENA
		};
		lists[i] = (struct karena_ranges){
			.size = sizeof(*lists), .ranges = (uintptr_t)&ranges[i], .nr = 1
		};
	}
	whole = lists[0];
	whole.nr = ARENAS;
}

static void request(const struct heap *heap)
{
	for (int i = 0; i < ARENAS; i++)
		__atomic_store_n(&heap->states[i], KARENA_REQUESTED, __ATOMIC_RELEASE);
}

/* Return the number of system calls. */
static int commit_by_calls(enum way way, const struct heap *heap, int fd)
{
	int count = ways[way].entries;
	bool whole_list = count == 1;

	for (int i = 0; i < count; i++) {
		int ret;

		if (way == IOCTLS || way == IOCTL_LIST)
			ret = ioctl(fd, KARENA_COMMIT, whole_list ? &whole : &lists[i]);
		else
			ret = madvise(heap->window + i * ARENA,
				      whole_list ? ARENAS * ARENA : ARENA,
				      MADV_POPULATE_WRITE);
		if (ret)
			die(ways[way].name);
	}
	return count;
}

static void prepare(enum way way, const struct heap *heap, int fd, int i)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
	struct karena_uring command = {
		.arg = (uintptr_t)(way == RING_LIST ? &whole : &lists[i])
	};

	if (way == RING_MADVISES) {
		io_uring_prep_madvise(sqe, heap->window + i * ARENA, ARENA,
				      MADV_POPULATE_WRITE);
		return;
	}
	io_uring_prep_rw(IORING_OP_URING_CMD, sqe, fd, NULL, 0, 0);
	sqe->cmd_op = KARENA_COMMIT;
	memcpy(sqe->cmd, &command, sizeof(command));
}

/* Wait for all completions. Return the number of system calls. */
static int reap(int entries)
{
	struct io_uring_cqe *cqe;
	int calls = 0;

	while (io_uring_cq_ready(&ring) < (unsigned int)entries) {
		calls++;
		if (syscall(SYS_io_uring_enter, ring.ring_fd, 0, entries,
			    IORING_ENTER_GETEVENTS, NULL, 0) < 0)
			die("io_uring_enter");
	}
	for (int i = 0; i < entries; i++) {
		if (io_uring_peek_cqe(&ring, &cqe) || cqe->res) {
			fprintf(stderr, "a request failed\n");
			exit(1);
		}
		io_uring_cqe_seen(&ring, cqe);
	}
	return calls;
}

static void measure(struct cost *cost, enum way way, struct heap *heap, int fd)
{
	double cpu = clock_us(CLOCK_THREAD_CPUTIME_ID), start = now();
	int entries = ways[way].entries;

	if (way == MADVISES || way == MADVISE_ONE || way == RING_MADVISES)
		request(heap);
	if (ways[way].ring) {
		for (int i = 0; i < entries; i++)
			prepare(way, heap, fd, i);
		if (io_uring_submit(&ring) != entries)
			die("io_uring_submit");
		record(&cost->submit, now() - start);
		record(&cost->calls, 1 + reap(entries));
	} else {
		record(&cost->calls, commit_by_calls(way, heap, fd));
		record(&cost->submit, now() - start);
	}
	record(&cost->done, now() - start);
	record(&cost->cpu, clock_us(CLOCK_THREAD_CPUTIME_ID) - cpu);
	heap_release(heap, ARENAS);
}

static void print(const struct cost *costs, enum way way)
{
	const struct cost *cost = &costs[way];
	double done = median(&cost->done), cpu = median(&cost->cpu);

	printf("%-20s%7.1f%11.0f us", ways[way].name, median(&cost->calls), done);
	print_ratio(median(&costs[IOCTLS].done) / done, NULL);
	printf("%10.0f us%10.0f us", median(&cost->submit), cpu);
	print_ratio(median(&costs[IOCTLS].cpu) / cpu, NULL);
	printf("%4d\n", cost->done.n);
}

static void report_all(const char *title, const char *name, const struct cost *cost)
{
	char what[64];

	snprintf(what, sizeof(what), "64 arenas, %s: all committed", title);
	report("uring", what, name, "us", &cost->done);
	snprintf(what, sizeof(what), "64 arenas, %s: submitted", title);
	report("uring", what, name, "us", &cost->submit);
	snprintf(what, sizeof(what), "64 arenas, %s: CPU of the thread", title);
	report("uring", what, name, "us", &cost->cpu);
	snprintf(what, sizeof(what), "64 arenas, %s: system calls", title);
	report("uring", what, name, "calls", &cost->calls);
}

static void compare_ways(const char *title, struct heap *heap, int fd, bool ready)
{
	struct cost costs[NR_WAYS] = {};

	for (int round = -1; round < ROUNDS; round++) {
		warm_up = round < 0;
		for (int way = 0; way < NR_WAYS; way++) {
			if (ready)
				await_ready(ready_fd, ARENAS);
			measure(&costs[way], way, heap, fd);
		}
	}
	printf("%-20s%7s%14s%14s%13s%13s%14s%4s\n", title, "calls", "done",
	       "ioctls / it ", "submitted", "thread's CPU", "ioctls / it ", "n");
	for (int way = 0; way < NR_WAYS; way++) {
		print(costs, way);
		report_all(title, ways[way].name, &costs[way]);
	}
}

int main(void)
{
	int err;

	stay_here();
	stop_ahead();
	make_lists();
	heap_make(&ready_heap, 2 * ARENAS);
	heap_make(&other_heap, 2 * ARENAS);
	/* So that the state words are faulted in. */
	heap_commit(&ready_heap, 1);
	heap_release(&ready_heap, 1);
	heap_commit(&other_heap, 1);
	heap_release(&other_heap, 1);
	ready_fd = heap_attach(&ready_heap);
	other_fd = heap_attach(&other_heap);
	err = io_uring_queue_init(ARENAS, &ring, 0);
	if (err) {
		errno = -err;
		die("io_uring");
	}
	printf("64 arenas committed, not touched; medians\n");
	compare_ways("none ready", &other_heap, other_fd, false);
	compare_ways("all ready", &ready_heap, ready_fd, true);
	return 0;
}
