// SPDX-License-Identifier: GPL-2.0
/*
 * How much reclaim in one memory cgroup delays a process in another. In the first, 200
 * children of a heap of 256 MiB are at memory.max: a worker there commits arenas, makes
 * them volatile and writes to anonymous memory, so that the kernel reclaims all the time,
 * and each child has released part of the inherited arenas. The process in the other cgroup
 * wakes every 2 ms at real-time priority, commits a page and releases it. The time from its
 * due wakeup until the end of the release includes every section of reclaim that it must
 * wait for: sections without preemption on its own processor, and sections with a lock that
 * both need on another.
 *
 * Prints the median, the 99th percentile and the maximum of these times, the number of
 * reclaimed arenas, and the number of rounds of the worker.
 */
#include <signal.h>
#include <sys/prctl.h>

#include "group.h"

#define MIB		(1UL << 20)
#define ARENAS		128
#define CHILDREN	200
#define GIVE_BACK	8	/* of each child: every 8th arena */
#define LEEWAY		(8 * MIB)
#define SAMPLES		1000
#define PERIOD		2000	/* us */

#define RECLAIMED	"/sys/class/misc/karena/reclaimed"

static double times[SAMPLES];

/* Shared with the worker. */
static long *rounds;

static void run_on(int cpu)
{
	cpu_set_t cpus;

	if (cpu >= sysconf(_SC_NPROCESSORS_ONLN))
		cpu = 0;
	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		die("sched_setaffinity");
}

static void leave_group(void)
{
	if (write_text(ROOT "/cgroup.procs", "0"))
		die(ROOT "/cgroup.procs");
}

static void group_max(long bytes)
{
	char text[32];

	snprintf(text, sizeof(text), "%ld", bytes);
	if (write_text(GROUP "/memory.max", text))
		die(GROUP "/memory.max");
}

static long reclaimed(void)
{
	char text[32];

	return read_text(RECLAIMED, text, sizeof(text)) < 0 ? 0 : atol(text);
}

static void give_back(struct heap *heap, size_t arena)
{
	__atomic_store_n(&heap->states[arena], volatile_word(), __ATOMIC_RELEASE);
}

static void child_main(struct heap *heap, int number)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (size_t i = number % GIVE_BACK; i < ARENAS; i += GIVE_BACK)
		give_back(heap, i);
	for (;;)
		pause();
}

/* In its cgroup, on the node of the measured process. */
static void service_main(int ready)
{
	struct heap heap;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	enter_group();
	heap_make(&heap, ARENAS);
	heap_commit(&heap, ARENAS);
	touch(heap.window, heap.size);
	for (int i = 0; i < CHILDREN; i++) {
		pid_t child = fork();

		if (child < 0)
			die("fork");
		if (!child)
			child_main(&heap, i);
	}
	/* By then all children have released their arenas. */
	sleep(3);
	if (write(ready, "", 1) != 1)
		die("write");
	for (;;)
		pause();
}

/* Commit all arenas of the worker that are not refused, and make them volatile. */
static void commit_and_give_back(struct heap *heap)
{
	for (size_t i = 0; i < heap->size / ARENA; i++) {
		__atomic_store_n(&heap->states[i], KARENA_REQUESTED, __ATOMIC_RELEASE);
		if (!madvise(heap->window + i * ARENA, ARENA, MADV_POPULATE_WRITE))
			give_back(heap, i);
	}
}

static void worker_main(int go)
{
	struct heap heap;
	char *memory, byte;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (read(go, &byte, 1) != 1)
		_exit(0);
	run_on(0);
	enter_group();
	heap_make(&heap, LEEWAY / ARENA);
	heap_commit(&heap, 1);
	memory = anonymous(LEEWAY / 2, MADV_NOHUGEPAGE);
	for (;;) {
		commit_and_give_back(&heap);
		touch(memory, LEEWAY / 2);
		if (madvise(memory, LEEWAY / 2, MADV_DONTNEED))
			die("MADV_DONTNEED");
		__atomic_fetch_add(rounds, 1, __ATOMIC_RELAXED);
	}
}

/* Start a process, with a pipe to this one. */
static pid_t start(void (*work)(int end), int end, int other)
{
	pid_t pid = fork();

	if (pid < 0)
		die("fork");
	if (!pid) {
		close(other);
		work(end);
	}
	close(end);
	return pid;
}

static void end(pid_t pid)
{
	kill(pid, SIGKILL);
	if (waitpid(pid, NULL, 0) != pid)
		die("waitpid");
}

static void sleep_until(double us)
{
	struct timespec time = { .tv_sec = us / 1e6 };

	time.tv_nsec = (us - time.tv_sec * 1e6) * 1e3;
	if (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL))
		die("clock_nanosleep");
}

static void measure(const char *name, struct heap *heap)
{
	long taken = reclaimed(), did = __atomic_load_n(rounds, __ATOMIC_RELAXED);
	double due = now() + PERIOD;

	for (int i = 0; i < SAMPLES; i++) {
		sleep_until(due);
		heap_commit_as(heap, 4096, KARENA_REQUESTED | KARENA_SPARSE);
		heap_release(heap, 1);
		times[i] = now() - due;
		/* After a long delay the next wakeup is not late from the start. */
		due = (due + PERIOD > now() ? due : now()) + PERIOD;
	}
	taken = reclaimed() - taken;
	did = __atomic_load_n(rounds, __ATOMIC_RELAXED) - did;
	qsort(times, SAMPLES, sizeof(*times), compare);
	printf("%-16s%9.1f%9.1f%10.1f us%8ld%8ld\n", name, times[SAMPLES / 2],
	       times[SAMPLES * 99 / 100], times[SAMPLES - 1], taken, did);
	fflush(stdout);
}

static void become_urgent(void)
{
	struct sched_param param = { .sched_priority = 10 };

	if (sched_setscheduler(0, SCHED_FIFO, &param))
		die("sched_setscheduler");
}

int main(void)
{
	int ready[2], go[2];
	pid_t service, worker;
	struct heap heap;
	char byte;

	stop_ahead();
	rounds = mmap(NULL, sizeof(*rounds), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (rounds == MAP_FAILED)
		die("mmap");
	run_on(1);
	leave_group();
	if (pipe(ready) || pipe(go))
		die("pipe");
	/* Before the heap exists, so that they do not inherit it. */
	service = start(service_main, ready[1], ready[0]);
	worker = start(worker_main, go[0], go[1]);
	if (read(ready[0], &byte, 1) != 1)
		die("read");
	heap_make(&heap, 1);
	printf("A commit and a release beside a cgroup with %d children of a heap of %d MiB\n",
	       CHILDREN, (int)(ARENAS * ARENA / MIB));
	printf("%-16s%9s%9s%13s%8s%8s\n", "", "median", "99 %", "longest", "taken",
	       "rounds");
	become_urgent();
	measure("no reclaim", &heap);
	group_max(group_memory() + LEEWAY);
	if (write(go[1], "", 1) != 1)
		die("write");
	sleep(1);
	measure("with reclaim", &heap);
	end(worker);
	end(service);
	return 0;
}
