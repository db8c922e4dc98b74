// SPDX-License-Identifier: GPL-2.0
/*
 * How soon a process learns that memory is short: from the start of the write or call that
 * causes it until another thread has noticed, through karena's pressure word or poll() on
 * the heap; compared with the kernel's own means: memory.events of the memory cgroup, and
 * triggers on the stall of tasks (PSI).
 *
 * The commit of a page crosses a soft limit. Writes to anonymous memory, page by page,
 * cross memory.high and continue until the thread notices. The cgroup has a few volatile
 * arenas, which the kernel reclaims first. PSI reports only tasks that wait for memory,
 * which is its purpose. The kernel charges a cgroup for up to 64 pages at a time, so the
 * first writes may still be below memory.high. One thread waits at a time; all variants
 * take turns.
 */
#include <poll.h>
#include <pthread.h>
#include <sys/inotify.h>

#include "group.h"

#define ARENAS		8
#define VOLATILE	4	/* arenas */
#define PUSH		(256UL << 20)
#define PATIENCE	10000	/* ms */

#define PRESSURE_ROUNDS	5

static struct heap heap;
static int heap_fd;
static char *push_start;

/* Of the current round. */
static double started, seen_at;
static bool waits, seen;

static uint32_t level(void)
{
	return KARENA_PRESSURE_LEVEL(__atomic_load_n(&heap.control->pressure,
						     __ATOMIC_ACQUIRE));
}

/* Open a descriptor to wait with, or return -1 if the kernel lacks the feature. */

static int open_heap(const char *argument)
{
	(void)argument;
	return dup(heap_fd);
}

/* Read the file once, so that its current content is not an event. */
static int open_events(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char text[512];

	if (fd >= 0 && read(fd, text, sizeof(text)) < 0)
		die(path);
	return fd;
}

static int open_inotify(const char *path)
{
	int fd = inotify_init1(IN_CLOEXEC);

	if (fd >= 0 && inotify_add_watch(fd, path, IN_MODIFY) < 0)
		die(path);
	return fd;
}

static int open_trigger(const char *path, const char *trigger)
{
	int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);

	if (fd >= 0 && write(fd, trigger, strlen(trigger) + 1) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static int open_usual(const char *path)
{
	return open_trigger(path, "some 150000 1000000");
}

/* The most sensitive trigger that the kernel allows. */
static int open_sensitive(const char *path)
{
	return open_trigger(path, "some 1000 500000");
}

static bool wait_word(int fd)
{
	double start = now();

	(void)fd;
	while (level() == KARENA_PRESSURE_NONE) {
		if (now() - start > PATIENCE * 1e3)
			return false;
		sched_yield();
	}
	return true;
}

static bool wait_poll(int fd)
{
	struct pollfd poll_fd = { .fd = fd, .events = POLLPRI };

	return poll(&poll_fd, 1, PATIENCE) > 0;
}

static bool wait_input(int fd)
{
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN };

	return poll(&poll_fd, 1, PATIENCE) > 0;
}

static struct row {
	const char *name;
	bool soft;	/* what is crossed: the soft limit, or memory.high */
	int (*open)(const char *argument);
	const char *argument;
	bool (*wait)(int fd);
	int err;	/* why the feature is missing */
	int missed;	/* rounds in which the thread did not notice in time */
	struct series times;	/* us */
	struct series written;	/* KiB written until the thread noticed */
} rows[] = {
	{ .name = "karena, pressure word", .soft = true, .open = open_heap,
	  .wait = wait_word },
	{ .name = "karena, poll", .soft = true, .open = open_heap, .wait = wait_poll },
	{ .name = "karena, pressure word", .open = open_heap, .wait = wait_word },
	{ .name = "karena, poll", .open = open_heap, .wait = wait_poll },
	{ .name = "memory.events, poll", .open = open_events,
	  .argument = GROUP "/memory.events", .wait = wait_poll },
	{ .name = "memory.events, inotify", .open = open_inotify,
	  .argument = GROUP "/memory.events", .wait = wait_input },
	{ .name = "cgroup's PSI, 1 ms in 500 ms", .open = open_sensitive,
	  .argument = GROUP "/memory.pressure", .wait = wait_poll },
	{ .name = "cgroup's PSI, 150 ms in 1 s", .open = open_usual,
	  .argument = GROUP "/memory.pressure", .wait = wait_poll },
	{ .name = "PSI of all, 1 ms in 500 ms", .open = open_sensitive,
	  .argument = "/proc/pressure/memory", .wait = wait_poll },
	{ .name = "PSI of all, 150 ms in 1 s", .open = open_usual,
	  .argument = "/proc/pressure/memory", .wait = wait_poll },
};

#define NR_ROWS	(sizeof(rows) / sizeof(*rows))

struct waiter {
	struct row *row;
	int fd;
	bool in_time;
};

static void *run_waiter(void *data)
{
	struct waiter *waiter = data;

	__atomic_store_n(&waits, true, __ATOMIC_RELEASE);
	waiter->in_time = waiter->row->wait(waiter->fd);
	seen_at = now();
	__atomic_store_n(&seen, true, __ATOMIC_RELEASE);
	return NULL;
}

static bool is_seen(void)
{
	return __atomic_load_n(&seen, __ATOMIC_ACQUIRE);
}

static void set_soft_limit(uint64_t soft)
{
	struct karena_limit limit = {
		.size = sizeof(limit), .flags = KARENA_LIMIT_SOFT, .soft = soft
	};

	if (ioctl(heap_fd, KARENA_LIMIT, &limit))
		die("KARENA_LIMIT");
}

/* Return the number of bytes written. */
static size_t push_soft_limit(void)
{
	char *page = heap.window + ARENAS * ARENA;

	started = now();
	__atomic_store_n(&heap.states[ARENAS], KARENA_REQUESTED | KARENA_SPARSE,
			 __ATOMIC_RELEASE);
	if (madvise(page, 4096, MADV_POPULATE_WRITE))
		die("MADV_POPULATE_WRITE");
	return 4096;
}

static size_t push_group(void)
{
	size_t size = 0;

	started = now();
	while (size < PUSH && !is_seen()) {
		push_start[size] = 1;
		size += 4096;
	}
	return size;
}

/* Commit the reclaimed volatile arenas again, and wait until there is no pressure. */
static void prepare(void)
{
	double start = now();

	for (int i = 0; i < ARENAS; i++) {
		__atomic_store_n(&heap.states[i], KARENA_REQUESTED, __ATOMIC_RELEASE);
		if (madvise(heap.window + i * ARENA, ARENA, MADV_POPULATE_WRITE))
			die("MADV_POPULATE_WRITE");
		if (i < VOLATILE)
			__atomic_store_n(&heap.states[i], volatile_word(),
					 __ATOMIC_RELEASE);
	}
	while (level() != KARENA_PRESSURE_NONE) {
		if (now() - start > 10e6) {
			fprintf(stderr, "the pressure does not fall\n");
			exit(1);
		}
		usleep(100000);
	}
	seen = false;
	waits = false;
}

static void clean_up(bool soft)
{
	if (soft)
		set_soft_limit(0);
	else
		group_high(-1);
	if (madvise(push_start, PUSH, MADV_DONTNEED) ||
	    madvise(heap.window, heap.size, MADV_REMOVE))
		die("madvise");
}

static void wait_and_push(struct waiter *waiter, size_t *written)
{
	bool soft = waiter->row->soft;
	pthread_t thread;

	if (pthread_create(&thread, NULL, run_waiter, waiter))
		die("pthread_create");
	while (!__atomic_load_n(&waits, __ATOMIC_ACQUIRE))
		usleep(1000);
	/* By then the thread is in poll(). */
	usleep(20000);
	if (soft)
		set_soft_limit(ARENAS * ARENA);
	else
		group_high(group_memory());
	*written = soft ? push_soft_limit() : push_group();
	pthread_join(thread, NULL);
}

static void measure(struct row *row)
{
	struct waiter waiter = { .row = row };
	size_t written;

	waiter.fd = row->open(row->argument);
	if (waiter.fd < 0) {
		row->err = errno;
		return;
	}
	prepare();
	wait_and_push(&waiter, &written);
	clean_up(row->soft);
	close(waiter.fd);
	if (!waiter.in_time) {
		row->missed += !warm_up;
		return;
	}
	record(&row->times, seen_at - started);
	record(&row->written, written / 1024.);
}

static void print(const struct row *row)
{
	const char *what = row->soft ? "soft limit crossed" : "memory.high crossed";

	if (row->err) {
		printf("  %-34snot here: %s\n", row->name, strerror(row->err));
		return;
	}
	printf("  %-34s", row->name);
	if (row->times.n) {
		printf("%13.0f us%11.0f KiB%4d", median(&row->times),
		       median(&row->written), row->times.n);
		report("pressure", what, row->name, "us", &row->times);
		report("pressure", row->soft ? "soft limit crossed: written until seen" :
		       "memory.high crossed: written until seen", row->name, "KiB",
		       &row->written);
	}
	if (row->missed)
		printf("  not in %d s: %d", PATIENCE / 1000, row->missed);
	printf("\n");
}

int main(void)
{
	stop_ahead();
	enter_group();
	heap_make(&heap, 2 * ARENAS);
	heap_commit(&heap, 1);
	heap_release(&heap, 1);
	heap_fd = heap_attach(&heap);
	push_start = anonymous(PUSH, MADV_NOHUGEPAGE);
	for (int round = -1; round < PRESSURE_ROUNDS; round++) {
		warm_up = round < 0;
		for (size_t i = 0; i < NR_ROWS; i++)
			measure(&rows[i]);
	}
	printf("Pressure, until another thread has seen it; medians\n");
	printf("%-36s%16s%15s%4s\n", "the soft limit is crossed", "time", "written", "n");
	for (size_t i = 0; i < NR_ROWS; i++) {
		if (i && rows[i - 1].soft && !rows[i].soft)
			printf("memory.high is crossed\n");
		print(&rows[i]);
	}
	return 0;
}
