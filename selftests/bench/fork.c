// SPDX-License-Identifier: GPL-2.0
/*
 * The cost of fork for a process that uses 512 MiB: in arenas, in 4 KiB anonymous pages, in
 * transparent huge pages, in hugetlb pages, or not at all. Measured are the fork itself
 * together with the child's exit; the parent's first writes afterwards, while the child
 * exists and after its exit; a second fork; and the memory that a child needs if it only
 * reads.
 *
 * Each kind of memory is in its own process, so that no other page tables are copied with
 * it, and in its own memory cgroup. The processes take turns.
 */
#include <sys/stat.h>
#include <sys/wait.h>

#include "bench.h"

#define MIB		(1UL << 20)
#define SIZE		(512 * MIB)
#define ARENAS		(SIZE / ARENA)
#define WRITES		1000
#define SPARE		8	/* hugetlb pages */

/* Writing 512 MiB for each round takes an emulator seconds. */
#define FORK_ROUNDS	7

/* per round; their median is one value */
#define FORKS		5

#define ROOT		"/sys/fs/cgroup"
#define COMMITTED	"/sys/class/misc/karena/committed"

enum kind { NOTHING, SMALL, HUGE, HUGETLB, KARENA, NR_KINDS };

static const char * const names[] = {
	[NOTHING]	= "nothing",
	[SMALL]		= "4 KiB anonymous",
	[HUGE]		= "MADV_HUGEPAGE",
	[HUGETLB]	= "hugetlb",
	[KARENA]	= "karena",
};

/* The measurements of a round in this order; times in microseconds. */
enum what {
	FORK,		/* fork, _exit, waitpid; all memory written before */
	FORK_AGAIN,	/* the same, without writes since the last fork */
	FORK_CPU,	/* processor time, including kernel threads */
	AFTER_FORK,	/* then the first write to a page, after the child's exit */
	READ,		/* a child reads every page */
	READ_GROUP,	/* bytes charged to the memory cgroup for that */
	READ_TABLES,	/* bytes of page tables of that child */
	READ_COMMITTED,	/* bytes that all heaps have committed for it */
	ALIVE,		/* fork alone, while the child stays */
	SECOND_FORK,	/* fork, _exit, waitpid, beside that child */
	WRITE,		/* the first write to a page, while the child exists */
	WRITE_CPU,
	WRITE_SECOND,	/* to the next pages */
	AFTER_WRITE,	/* to other pages, after its exit */
	NR_WHATS
};

struct round {
	double values[NR_WHATS];
};

/* The names in the report; bytes are reported in KiB. */
static const struct {
	const char *name;
	const char *unit;
} measures[NR_WHATS] = {
	[FORK]		= { "fork, exit, wait", "us" },
	[FORK_AGAIN]	= { "fork, exit, wait, nothing written since", "us" },
	[FORK_CPU]	= { "fork, exit, wait, 1,000 writes: CPU", "us" },
	[AFTER_FORK]	= { "first write after fork, child gone at once", "us" },
	[READ]		= { "child that reads all", "us" },
	[READ_GROUP]	= { "child that reads all: cgroup", "KiB" },
	[READ_TABLES]	= { "child that reads all: page tables", "KiB" },
	[READ_COMMITTED] = { "child that reads all: committed", "KiB" },
	[ALIVE]		= { "fork alone", "us" },
	[SECOND_FORK]	= { "fork, exit, wait, beside a child", "us" },
	[WRITE]		= { "first write after fork", "us" },
	[WRITE_CPU]	= { "first write after fork: CPU", "us" },
	[WRITE_SECOND]	= { "first write after fork, the page beside", "us" },
	[AFTER_WRITE]	= { "first write after fork, child gone after writes", "us" },
};

static struct holder {
	bool absent;	/* the kernel has no such memory */
	int line[2];	/* commands to the process, results from it */
	struct series values[NR_WHATS];
} holders[NR_KINDS];

/* A child that waits until it is told to exit. */
struct child {
	pid_t pid;
	int up[2], down[2];
};

static enum kind kind;
static char *memory;
static struct heap heap;

static void make_pipe(int ends[2])
{
	if (pipe2(ends, O_CLOEXEC))
		die("pipe");
}

static void tell(int fd)
{
	if (write(fd, "", 1) != 1)
		die("write");
}

static void hear(int fd)
{
	char byte;

	if (read(fd, &byte, 1) != 1) {
		fprintf(stderr, "the other side is gone\n");
		exit(1);
	}
}

static const char *group_file(const char *file)
{
	static char path[128];

	snprintf(path, sizeof(path), ROOT "/karena-bench-%d/%s", kind, file);
	return path;
}

static double number_in(const char *path)
{
	char text[64];

	if (read_text(path, text, sizeof(text)) < 0)
		die(path);
	return atof(text);
}

static void enter_group(void)
{
	write_text(ROOT "/cgroup.subtree_control", "+memory");
	if (mkdir(group_file(""), 0755) && errno != EEXIST)
		die(group_file(""));
	if (write_text(group_file("cgroup.procs"), "0"))
		die(group_file("cgroup.procs"));
}

/* A member of a process's status in bytes. */
static double status_of(pid_t pid, const char *member)
{
	char path[64], text[8192], *at;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	if (read_text(path, text, sizeof(text)) < 0)
		die(path);
	at = strstr(text, member);
	return at ? atof(at + strlen(member) + 1) * 1024 : 0;
}

static void take_memory(void)
{
	long before = faults();

	if (kind == NOTHING)
		return;
	if (kind == KARENA) {
		heap_make(&heap, ARENAS);
		heap_commit(&heap, ARENAS);
		memory = heap.window;
	} else if (kind == HUGETLB) {
		memory = hugetlb(SIZE);
		if (!memory)
			die("MAP_HUGETLB");
	} else {
		memory = anonymous(SIZE, kind == HUGE ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	}
	touch(memory, SIZE);
	/* Compare real huge pages or nothing. */
	if (kind == HUGE && faults() - before > 2 * (long)ARENAS) {
		fprintf(stderr, "the kernel gives no transparent huge pages\n");
		exit(1);
	}
}

/* Restore the initial state of the memory after the writes. */
static void renew_memory(void)
{
	if (kind == KARENA)
		heap_destroy(&heap);
	else if (kind != NOTHING)
		munmap(memory, SIZE);
	take_memory();
}

/* Write to all memory, so that it is mapped. */
static void use_memory(void)
{
	if (kind != NOTHING)
		touch(memory, SIZE);
}

static void read_memory(void)
{
	if (kind == NOTHING)
		return;
	for (size_t i = 0; i < SIZE; i += 4096)
		(void)*(volatile char *)(memory + i);
}

/* Write to 1,000 pages spread over all memory. Return microseconds per write. */
static double write_spread(size_t offset)
{
	size_t step = SIZE / WRITES & ~4095UL;
	double start = now();

	if (kind == NOTHING)
		return 0;
	for (size_t i = 0; i < WRITES; i++)
		*(volatile char *)(memory + i * step + offset * 4096) = 2;
	return (now() - start) / WRITES;
}

/* Return the time that fork() takes the parent. */
static double child_start(struct child *child, bool reads)
{
	double time;

	make_pipe(child->up);
	make_pipe(child->down);
	time = now();
	child->pid = fork();
	if (!child->pid) {
		if (reads)
			read_memory();
		tell(child->up[1]);
		hear(child->down[0]);
		_exit(0);
	}
	time = now() - time;
	if (child->pid < 0)
		die("fork");
	hear(child->up[0]);
	return time;
}

static void child_end(struct child *child)
{
	tell(child->down[1]);
	if (waitpid(child->pid, NULL, 0) != child->pid)
		die("waitpid");
	for (int i = 0; i < 2; i++) {
		close(child->up[i]);
		close(child->down[i]);
	}
}

static double cpu_now(void)
{
	struct rusage children;

	getrusage(RUSAGE_CHILDREN, &children);
	return clock_us(CLOCK_PROCESS_CPUTIME_ID) + kernel_cpu() +
	       children.ru_utime.tv_sec * 1e6 + children.ru_utime.tv_usec +
	       children.ru_stime.tv_sec * 1e6 + children.ru_stime.tv_usec;
}

/* Later work of kernel workers belongs to this measurement and not to the next one. */
static void settle(void)
{
	usleep(100000);
}

/* All memory is written before each fork, so each fork has to write-protect it. */
static void measure_forks(struct round *round)
{
	struct series times = {};

	for (int i = 0; i < FORKS; i++) {
		use_memory();
		record(&times, fork_and_wait());
	}
	round->values[FORK] = median(&times);
	times.n = 0;
	for (int i = 0; i < FORKS; i++)
		record(&times, fork_and_wait());
	round->values[FORK_AGAIN] = median(&times);
}

static void measure_fork(struct round *round)
{
	double cpu;

	measure_forks(round);
	use_memory();
	settle();
	cpu = cpu_now();
	fork_and_wait();
	round->values[AFTER_FORK] = write_spread(0);
	settle();
	round->values[FORK_CPU] = cpu_now() - cpu;
}

static void measure_reader(struct round *round)
{
	double group, committed, start;
	struct child child;

	use_memory();
	settle();
	group = number_in(group_file("memory.current"));
	committed = number_in(COMMITTED);
	start = now();
	child_start(&child, true);
	round->values[READ] = now() - start;
	settle();
	round->values[READ_GROUP] = number_in(group_file("memory.current")) - group;
	round->values[READ_TABLES] = status_of(child.pid, "VmPTE");
	round->values[READ_COMMITTED] = number_in(COMMITTED) - committed;
	child_end(&child);
	settle();
}

static void measure_writes(struct round *round)
{
	struct child child;
	double cpu;

	use_memory();
	round->values[ALIVE] = child_start(&child, false);
	round->values[SECOND_FORK] = fork_and_wait();
	settle();
	cpu = cpu_now();
	round->values[WRITE] = write_spread(0);
	round->values[WRITE_CPU] = (cpu_now() - cpu) / WRITES;
	round->values[WRITE_SECOND] = write_spread(1);
	child_end(&child);
	round->values[AFTER_WRITE] = write_spread(2);
	settle();
}

static void hold(int from, int to)
{
	char byte;

	enter_group();
	take_memory();
	tell(to);
	/* Until the other side closes the pipe. */
	while (read(from, &byte, 1) == 1) {
		struct round round = {};

		renew_memory();
		settle();
		measure_fork(&round);
		measure_reader(&round);
		measure_writes(&round);
		if (write(to, &round, sizeof(round)) != sizeof(round))
			die("write");
	}
}

static void start_holder(enum kind which)
{
	int down[2], up[2];
	pid_t pid;

	make_pipe(down);
	make_pipe(up);
	pid = fork();
	if (!pid) {
		close(down[1]);
		close(up[0]);
		kind = which;
		hold(down[0], up[1]);
		_exit(0);
	}
	if (pid < 0)
		die("fork");
	close(down[0]);
	close(up[1]);
	holders[which].line[0] = up[0];
	holders[which].line[1] = down[1];
	hear(up[0]);
}

/* The last one first, since it has copies of the sockets of the others. */
static void end_holders(void)
{
	for (int which = NR_KINDS - 1; which >= 0; which--) {
		if (holders[which].absent)
			continue;
		close(holders[which].line[1]);
		if (wait(NULL) < 0)
			die("wait");
		kind = which;
		rmdir(group_file(""));
	}
}

static void run_round(struct holder *holder)
{
	struct round round;

	if (holder->absent)
		return;
	tell(holder->line[1]);
	if (read(holder->line[0], &round, sizeof(round)) != sizeof(round)) {
		fprintf(stderr, "a process is gone\n");
		exit(1);
	}
	for (int i = 0; i < NR_WHATS; i++)
		record(&holder->values[i], round.values[i]);
}

static double middle(enum kind which, enum what what)
{
	return median(&holders[which].values[what]);
}

/*
 * One row per kind: the value, and the factor by which it is larger or smaller than
 * karena's.
 */
static void print_times(const char *title, enum what what, bool faster,
			const char *small, const char *huge)
{
	printf("%-34s%11s%14s\n", title, "", faster ? "it / karena " :
						      "karena / it ");
	for (int which = faster ? NOTHING : SMALL; which < NR_KINDS; which++) {
		double time, karena = middle(KARENA, what);

		if (holders[which].absent)
			continue;
		time = middle(which, what);
		printf("  %-32s%8.1f us", names[which], time);
		if (which != KARENA)
			print_ratio(faster ? time / karena : karena / time,
				    which == SMALL ? small :
				    which == HUGE ? huge : NULL);
		printf("\n");
	}
}

static void print_memory(void)
{
	printf("%-34s%12s%12s%12s%12s\n", "a child that reads all", "time",
	       "cgroup", "tables", "committed");
	for (int which = NOTHING; which < NR_KINDS; which++) {
		if (holders[which].absent)
			continue;
		printf("  %-32s%9.0f us%8.0f KiB%8.0f KiB%8.0f KiB\n", names[which],
		       middle(which, READ), middle(which, READ_GROUP) / 1024,
		       middle(which, READ_TABLES) / 1024,
		       middle(which, READ_COMMITTED) / 1024);
	}
	printf("  karena more than nothing: %.0f KiB of the cgroup (<= 1024)\n",
	       (middle(KARENA, READ_GROUP) - middle(NOTHING, READ_GROUP)) / 1024);
}

static void report_all(enum kind which)
{
	for (int what = 0; what < NR_WHATS; what++) {
		struct series *series = &holders[which].values[what];
		bool bytes = !strcmp(measures[what].unit, "KiB");

		for (int i = 0; bytes && i < series->n; i++)
			series->values[i] /= 1024;
		report("fork", measures[what].name, names[which], measures[what].unit,
		       series);
	}
}

int main(void)
{
	stay_here();
	/*
	 * A write may copy each page once. Without a free page for the copy, the child is
	 * killed.
	 */
	holders[HUGETLB].absent = !reserve_hugepages(ARENAS + SPARE);
	if (holders[HUGETLB].absent)
		printf("hugetlb: not here\n");
	for (int which = 0; which < NR_KINDS; which++) {
		if (!holders[which].absent)
			start_holder(which);
	}
	for (int round = -1; round < FORK_ROUNDS; round++) {
		warm_up = round < 0;
		for (int which = 0; which < NR_KINDS; which++)
			run_round(&holders[which]);
	}
	printf("Fork with 512 MiB in use; medians of %d rounds, of %d forks each\n",
	       FORK_ROUNDS, FORKS);
	print_times("fork, _exit, waitpid", FORK, true, ">= 40", ">= 3");
	print_times("nothing written since the last", FORK_AGAIN, true, NULL, NULL);
	print_times("the same, all CPU, and 1,000 writes", FORK_CPU, true, NULL, NULL);
	print_times("fork alone", ALIVE, true, NULL, NULL);
	print_times("a second one beside the first child", SECOND_FORK, true, NULL, NULL);
	printf("A first write to each of 1,000 pages, spread over all\n");
	print_times("the child waits", WRITE, false, "<= 1.5", NULL);
	print_times("the same, CPU", WRITE_CPU, false, NULL, NULL);
	print_times("the pages beside them", WRITE_SECOND, false, NULL, NULL);
	print_times("others, the child gone now", AFTER_WRITE, false, NULL, NULL);
	print_times("no writes before, the child gone", AFTER_FORK, false, NULL, NULL);
	print_memory();
	end_holders();
	for (int which = 0; which < NR_KINDS; which++)
		report_all(which);
	return 0;
}
