/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A family: processes that fork each other and run the functions that the test names, one
 * at a time. Each has a copy of the test's memory, so a task is a function pointer and a
 * heap is an address. Process 0 is the test itself.
 */
#ifndef KARENA_SELFTESTS_FAMILY_H
#define KARENA_SELFTESTS_FAMILY_H

#include <sys/prctl.h>
#include <sys/syscall.h>

#include "child.h"
#include "pages.h"

#define NR_KIN	9
#define PAGES	(ARENA / PAGE)

enum {
	PARENT, CHILD, GRANDCHILD, GREATGRANDCHILD,
};

/* Result of ask() if the process ends before it answers. */
#define DEAD	(-4711L)

struct order {
	long (*deed)(struct heap *heap, long a, long b, long c);
	struct heap *heap;
	long a, b, c;
};

static struct {
	struct heap *heap;	/* heap for ask() */
	int lines[NR_KIN];	/* the test's ends of the socket pairs */
	int ends[NR_KIN];	/* the ends of the processes */
	pid_t pids[NR_KIN];	/* 0: not alive */
	int self;
} family;

/* Main loop of a process of the family. */
static inline void serve(int who)
{
	struct order order;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	family.self = who;
	/* A later child may use the same descriptor numbers for something else. */
	for (int i = 1; i < NR_KIN; i++) {
		close(family.lines[i]);
		family.lines[i] = -1;
	}
	while (recv(family.ends[who], &order, sizeof(order), 0) == sizeof(order)) {
		long result = order.deed(order.heap, order.a, order.b, order.c);

		if (send(family.ends[who], &result, sizeof(result),
			 MSG_NOSIGNAL) != sizeof(result))
			break;
	}
	_exit(0);
}

/* All processes are children of the test, so it gets the exit status of each. */
static inline long deed_fork(struct heap *heap, long who, long b, long c)
{
	pid_t pid;

	(void)heap, (void)b, (void)c;
	fflush(stdout);
	pid = family.self == PARENT ? fork() :
	      syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
	if (!pid)
		serve(who);
	return pid < 0 ? -errno : pid;
}

static inline bool is_dead(int who)
{
	siginfo_t info = {};

	return waitid(P_PID, family.pids[who], &info,
		      WEXITED | WNOHANG | WNOWAIT) || info.si_pid;
}

/* Send a task to a process without waiting for the answer. */
static inline bool order_of(int who, struct heap *heap,
			    long (*deed)(struct heap *, long, long, long),
			    long a, long b, long c)
{
	struct order order = { deed, heap, a, b, c };

	return family.pids[who] &&
	       send(family.lines[who], &order, sizeof(order),
		    MSG_NOSIGNAL) == sizeof(order);
}

static inline long answer(int who)
{
	long result;
	bool dead;

	for (;;) {
		/* An answer that was sent before exit can still be received after it. */
		dead = is_dead(who);
		if (recv(family.lines[who], &result, sizeof(result),
			 dead ? MSG_DONTWAIT : 0) == sizeof(result))
			return result;
		if (dead)
			return DEAD;
	}
}

static inline long ask_of(int who, struct heap *heap,
			  long (*deed)(struct heap *, long, long, long),
			  long a, long b, long c)
{
	if (who == PARENT)
		return deed(heap, a, b, c);
	return order_of(who, heap, deed, a, b, c) ? answer(who) : DEAD;
}

static inline long ask(int who, long (*deed)(struct heap *, long, long, long),
		       long a, long b, long c)
{
	return ask_of(who, family.heap, deed, a, b, c);
}

/* Let one process fork another. Return 0 or -errno. */
static inline int bear(int parent, int who)
{
	struct order stale;
	long pid;

	/* Drop answers of a process that was killed. */
	while (recv(family.lines[who], &stale, sizeof(stale), MSG_DONTWAIT) > 0)
		;
	while (recv(family.ends[who], &stale, sizeof(stale), MSG_DONTWAIT) > 0)
		;
	pid = ask(parent, deed_fork, who, 0, 0);
	if (pid <= 0)
		return pid ?: -EPROTO;
	family.pids[who] = pid;
	return 0;
}

static inline long deed_exit(struct heap *heap, long status, long b, long c)
{
	(void)heap, (void)b, (void)c;
	_exit(status);
}

/* End a process. Return its status as in a shell. */
static inline int end(int who)
{
	pid_t pid = family.pids[who];

	/* Otherwise the next process with this number would get the task. */
	if (!is_dead(who))
		order_of(who, NULL, deed_exit, 0, 0, 0);
	family.pids[who] = 0;
	return child_status(pid);
}

static inline int slay(int who)
{
	pid_t pid = family.pids[who];

	kill(pid, SIGKILL);
	family.pids[who] = 0;
	return child_status(pid);
}

/* Each number has one socket pair, which successive processes with the number use. */
static inline int family_make(struct heap *heap)
{
	const struct timeval patience = { .tv_usec = 50000 };

	memset(&family, 0, sizeof(family));
	family.heap = heap;
	for (int i = 1; i < NR_KIN; i++) {
		int ends[2];

		if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) ||
		    setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &patience,
			       sizeof(patience)))
			return -errno;
		family.lines[i] = ends[0];
		family.ends[i] = ends[1];
	}
	return 0;
}

/* End all processes that are alive. */
static inline void family_end(void)
{
	for (int i = 1; i < NR_KIN; i++) {
		if (family.pids[i])
			slay(i);
		close(family.lines[i]);
		close(family.ends[i]);
	}
}

/*
 * Tasks on the pages of a heap, which are numbered through all arenas. The content of a
 * marked page depends on its number and on the mark.
 */
static inline char *page_at(const struct heap *heap, long number)
{
	return heap->window + number * PAGE;
}

static inline char byte_of(long number, long mark)
{
	return number * 7 + mark;
}

/* Return 1 if all bytes of a page have a value, 0 if not, or minus the signal. */
__attribute__((noinline, unused))
static int page_is(const char *page, char byte)
{
	int signal = sigsetjmp(touch_jump, 1);

	return signal ? -signal : !count_other(page, PAGE, byte);
}

__attribute__((noinline, unused))
static int page_fill(char *page, char byte)
{
	int signal = sigsetjmp(touch_jump, 1);

	if (!signal)
		memset(page, byte, PAGE);
	return -signal;
}

/* From now on a touch that fails returns a result, also in processes forked later. */
static inline void expect_signals(void)
{
	struct sigaction action = { .sa_handler = touch_handler };

	sigaction(SIGBUS, &action, NULL);
	sigaction(SIGSEGV, &action, NULL);
}

/* Write to pages. Return 0, or minus the first signal. */
static inline long mark(struct heap *heap, long first, long count, long with)
{
	int ret = 0;

	for (long i = first; i < first + count && !ret; i++)
		ret = page_fill(page_at(heap, i), byte_of(i, with));
	return ret;
}

/* Count the pages that do not have the mark. */
static inline long unlike(struct heap *heap, long first, long count, long with)
{
	long pages = 0;

	for (long i = first; i < first + count; i++)
		pages += page_is(page_at(heap, i), byte_of(i, with)) != 1;
	return pages;
}

/* Count the pages that are not zero or not accessible. */
static inline long nonzero(struct heap *heap, long first, long count, long c)
{
	long pages = 0;

	(void)c;
	for (long i = first; i < first + count; i++)
		pages += page_is(page_at(heap, i), 0) != 1;
	return pages;
}

/* Count the pages that raise this signal. */
static inline long failing(struct heap *heap, long first, long count, long signal)
{
	long pages = 0;

	for (long i = first; i < first + count; i++)
		pages += page_is(page_at(heap, i), 0) == -signal;
	return pages;
}

/* Read one byte at an offset in the window. Return the byte, or minus the signal. */
__attribute__((noinline, unused))
static long peek(struct heap *heap, long offset, long b, long c)
{
	int signal = sigsetjmp(touch_jump, 1);

	(void)b;
	(void)c;
	if (signal)
		return -signal;
	return *(volatile unsigned char *)(heap->window + offset);
}

__attribute__((noinline, unused))
static long poke(struct heap *heap, long offset, long byte, long c)
{
	int signal = sigsetjmp(touch_jump, 1);

	(void)c;
	if (!signal)
		*(volatile char *)(heap->window + offset) = byte;
	return -signal;
}

/* Whole arenas, as in heap_commit() and heap_release(). */
static inline long commit(struct heap *heap, long first, long count, long c)
{
	(void)c;
	return heap_commit(heap, first, count);
}

static inline long release(struct heap *heap, long first, long count, long c)
{
	(void)c;
	return heap_release(heap, first, count);
}

/* Pages within an arena. */
static inline long commit_some(struct heap *heap, long first, long count, long c)
{
	(void)c;
	return commit_pages(heap, first / PAGES, first % PAGES, count);
}

static inline long release_some(struct heap *heap, long first, long count, long c)
{
	(void)c;
	return release_pages(heap, first / PAGES, first % PAGES, count);
}

static inline long word(struct heap *heap, long index, long b, long c)
{
	(void)b;
	(void)c;
	return state(heap, index);
}

static inline long lend(struct heap *heap, long index, long b, long c)
{
	(void)b;
	(void)c;
	return make_volatile(heap, index);
}

static inline long reclaim_back(struct heap *heap, long index, long word, long c)
{
	(void)c;
	return reuse(heap, index, word);
}

/* Map whole arenas again in place. Return 0 or -errno. */
static inline long renew(struct heap *heap, long first, long count, long c)
{
	(void)c;
	return mmap(arena(heap, first), count * ARENA, PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_FIXED, heap->fd, first * ARENA) ==
	       arena(heap, first) ? 0 : -errno;
}

/* Count the arenas that are mapped by a PMD, in all VMAs of the window. */
static inline long pmds(struct heap *heap, long a, long b, long c)
{
	FILE *file = fopen("/proc/self/smaps", "r");
	unsigned long start, end;
	bool inside = false;
	char line[512];
	long kib = 0;

	(void)a, (void)b, (void)c;
	while (file && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			inside = start >= (unsigned long)heap->window &&
				 end <= (unsigned long)heap->window + heap->size;
		else if (inside && !strncmp(line, "FilePmdMapped:", 14))
			kib += atol(line + 14);
	}
	if (file)
		fclose(file);
	return kib * 1024 / (long)ARENA;
}

static inline long own_number(struct heap *heap, long a, long b, long c)
{
	(void)a, (void)b, (void)c;
	return heap->control->id;
}

static inline long locked(struct heap *heap, long a, long b, long c)
{
	(void)heap, (void)a, (void)b, (void)c;
	return status_member("VmPin");
}

static inline long hard_limit(struct heap *heap, long flags, long bytes, long c)
{
	struct karena_limit args = {
		.size = sizeof(args), .flags = flags, .hard = bytes,
	};

	(void)c;
	return heap_call(heap, KARENA_LIMIT, &args) ?: (long)args.hard;
}

/* Number of the heap at an address, from KARENA_ATTACH. */
static inline long attached(struct heap *heap, long index, long b, long c)
{
	struct karena_attach attach = {
		.size = sizeof(attach), .address = (uintptr_t)arena(heap, index),
	};
	int fd = device_call(KARENA_ATTACH, &attach);

	(void)b;
	(void)c;
	if (fd < 0)
		return fd;
	close(fd);
	if (attach.start != (uintptr_t)heap->window || attach.window != heap->size)
		return -EPROTO;
	return attach.id;
}

static inline long by_call(struct heap *heap, long cmd, long first, long count)
{
	struct karena_range range = {
		.offset = first * PAGE, .length = count * PAGE
	};

	return heap_ranges(heap, cmd, &range, 1);
}

static inline long punch(struct heap *heap, long first, long count, long c)
{
	(void)c;
	return fallocate(heap->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			 first * PAGE, count * PAGE) ? -errno : 0;
}

static inline long give_up(struct heap *heap, long a, long b, long c)
{
	(void)a, (void)b, (void)c;
	heap_destroy(heap);
	return 0;
}

static inline long close_it(struct heap *heap, long a, long b, long c)
{
	(void)a, (void)b, (void)c;
	return close(heap->fd) ? -errno : 0;
}

/* Map the window at another address. */
static inline long map_again(struct heap *heap, long a, long b, long c)
{
	void *start = mmap(NULL, heap->size, PROT_READ, MAP_SHARED, heap->fd, 0);

	(void)a, (void)b, (void)c;
	return start == MAP_FAILED ? -errno : 0;
}

/* Return the heap of a process, to look it up in sysfs. */
static inline struct heap heap_of(int who)
{
	struct heap heap = *family.heap;

	heap.id = ask(who, own_number, 0, 0, 0);
	return heap;
}

static inline long stat_of(int who, const char *name)
{
	struct heap heap = heap_of(who);

	return heap_stat(&heap, name);
}

/* Return true if a text file of a heap's directory has this text and a newline. */
static inline bool heap_says(const struct heap *heap, const char *name, const char *expected)
{
	char path[256], text[64] = "";
	size_t length = strlen(expected);

	if (!directory_appears(heap->id))
		return false;
	snprintf(path, sizeof(path), SYSFS "/heaps/%llu/%s",
		 (unsigned long long)heap->id, name);
	if (read_text(path, text, sizeof(text)))
		return false;
	return !strncmp(text, expected, length) && !strcmp(text + length, "\n");
}

/* Statistics that must have their initial values when everything has ended. */
static const char *const balanced[] = {
	"nr_heaps", "committed", "huge_arenas", "sparse_arenas", "sparse_pages",
	"ready_frames", "pinned_orphans",
};

struct balance {
	long values[ARRAY_SIZE(balanced)];
	long nr_heaps;
	long committed;
	long locked;
};

static inline void balance_read(struct balance *balance)
{
	for (size_t i = 0; i < ARRAY_SIZE(balanced); i++)
		balance->values[i] = module_stat(balanced[i]);
	balance->nr_heaps = balance->values[0];
	balance->committed = balance->values[1];
	balance->locked = status_member("VmPin");
}

/* Return the first statistic that does not return to its initial value, or NULL. */
static inline const char *balance_lost(const struct balance *balance)
{
	for (size_t i = 0; i < ARRAY_SIZE(balanced); i++) {
		if (!module_stat_becomes(balanced[i], balance->values[i]))
			return balanced[i];
	}
	return pinned_becomes(balance->locked) ? NULL : "VmPin";
}

#define EXPECT_BALANCE(_balance)					\
	do {								\
		const char *_lost = balance_lost(_balance);		\
									\
		EXPECT_EQ(NULL, _lost) {				\
			TH_LOG("%s is %ld", _lost, module_stat(_lost));	\
		}							\
	} while (0)

static inline double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

#endif
