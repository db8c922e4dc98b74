// SPDX-License-Identifier: MIT
/*
 * A table of interned strings that many processes share.
 *
 * One process builds the table in the arenas of a heap, seals it and sends it to its
 * workers. They map it read-only and look strings up. No worker can change the table, nor
 * can any process that gets the descriptor later. The table contains offsets instead of
 * addresses, so each process may map it anywhere. It needs no file and no name, and the
 * kernel frees it when the last process that has it ends.
 *
 * The program prints what the shared table costs, and what a copy for each worker would
 * cost. The exit status is 1 after an error, and 2 if there is no module.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/karena.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE	23
#endif

#define WORKERS		8
#define STRINGS		200000	/* different ones */
#define TIMES		3	/* how often each is interned */
#define LOOKUPS		100000	/* of each worker; one in ten finds nothing */

#define MIB		1048576.0

/* Offsets count from the start of the table; 0: no string. */
struct table {
	uint32_t strings;
	uint32_t slots;		/* a power of two */
	uint32_t size;		/* bytes in use, including this header */
	uint32_t slot[];
};

#define SLOTS		(1U << 19)
#define TABLE_SIZE	(5 * KARENA_ARENA_SIZE)

static void __attribute__((format(printf, 1, 2), noreturn)) die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fprintf(stderr, "interned: ");
	vfprintf(stderr, format, args);
	fprintf(stderr, "\n");
	va_end(args);
	_exit(1);
}

static double milliseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
}

/* The table. */

static uint32_t hash(const char *string)
{
	uint32_t value = 2166136261;

	while (*string)
		value = (value ^ (unsigned char)*string++) * 16777619;
	return value;
}

static const char *text(const struct table *table, uint32_t offset)
{
	return (const char *)table + offset;
}

/* Find the slot of a string, or the free slot where it belongs. */
static uint32_t find(const struct table *table, const char *string)
{
	uint32_t slot = hash(string) & (table->slots - 1);

	while (table->slot[slot] && strcmp(text(table, table->slot[slot]), string))
		slot = (slot + 1) & (table->slots - 1);
	return slot;
}

/* Intern a string. Returns its offset; equal strings have equal offsets. */
static uint32_t intern(struct table *table, const char *string)
{
	uint32_t *slot = &table->slot[find(table, string)];
	size_t size = strlen(string) + 1;

	if (*slot)
		return *slot;
	if (table->strings == table->slots / 2 || TABLE_SIZE - table->size < size)
		die("the table is full");
	memcpy((char *)table + table->size, string, size);
	*slot = table->size;
	table->size += size;
	table->strings++;
	return *slot;
}

static uint32_t lookup(const struct table *table, const char *string)
{
	return table->slot[find(table, string)];
}

/* Make a name like those in programs. */
static void name(char *string, size_t size, uint32_t number)
{
	static const char *const parts[] = {
		"get", "set", "update", "find", "handle", "parse", "render", "close",
	};

	snprintf(string, size, "%s_%s_%u", parts[number % 8], parts[number / 8 % 8],
		 number);
}

static void build(struct table *table)
{
	char string[64];

	table->slots = SLOTS;
	table->size = sizeof(*table) + SLOTS * sizeof(table->slot[0]);
	for (int time = 0; time < TIMES; time++) {
		for (uint32_t i = 0; i < STRINGS; i++) {
			name(string, sizeof(string), i);
			intern(table, string);
		}
	}
	if (table->strings != STRINGS)
		die("the table has %u strings instead of %u", table->strings, STRINGS);
}

/* The heap. */

struct heap {
	int fd;
	char *window;
};

/*
 * Create a heap that children do not inherit. Workers that are forked after the table is
 * built have only the share, like any process that receives it later.
 */
static void heap_open(struct heap *heap)
{
	struct karena_create create = {
		.size = sizeof(create), .window = TABLE_SIZE, .name = "interned",
		.fork = KARENA_FORK_NONE,
	};
	struct karena_range range = { .length = TABLE_SIZE };
	struct karena_ranges commit = {
		.size = sizeof(commit), .ranges = (uintptr_t)&range, .nr = 1,
	};
	int device = open(KARENA_DEVICE, O_RDWR | O_CLOEXEC);

	if (device < 0) {
		perror("interned: " KARENA_DEVICE);
		_exit(2);
	}
	heap->fd = ioctl(device, KARENA_CREATE, &create);
	if (heap->fd < 0)
		die("cannot create a heap: %s", strerror(errno));
	close(device);
	heap->window = mmap(NULL, TABLE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
			    heap->fd, 0);
	if (heap->window == MAP_FAILED)
		die("cannot map the window: %s", strerror(errno));
	if (ioctl(heap->fd, KARENA_COMMIT, &commit))
		die("cannot commit the heap: %s", strerror(errno));
}

/* Release the memory that the table does not need, and seal the rest. */
static int seal(const struct heap *heap, size_t size)
{
	struct karena_range rest = { .offset = size, .length = TABLE_SIZE - size };
	struct karena_ranges release = {
		.size = sizeof(release), .ranges = (uintptr_t)&rest, .nr = 1,
	};
	struct karena_share share = { .size = sizeof(share), .length = size };
	int fd;

	if (rest.length && ioctl(heap->fd, KARENA_RELEASE, &release))
		die("cannot release memory: %s", strerror(errno));
	fd = ioctl(heap->fd, KARENA_SHARE, &share);
	if (fd < 0)
		die("cannot share the table: %s", strerror(errno));
	return fd;
}

/* Messages from one process to another. */

struct message {
	uint64_t size;
	double pss, rss, took;	/* KiB, KiB, milliseconds */
	long faults;
};

union control {
	struct cmsghdr header;
	char space[CMSG_SPACE(sizeof(int))];
};

/* Send a message with a descriptor; -1: without one. */
static void put(int line, const struct message *message, int fd)
{
	struct iovec data = { (void *)message, sizeof(*message) };
	struct msghdr header = { .msg_iov = &data, .msg_iovlen = 1 };
	union control control = {};

	if (fd >= 0) {
		header.msg_control = &control;
		header.msg_controllen = sizeof(control);
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&control.header), &fd, sizeof(int));
	}
	if (sendmsg(line, &header, MSG_NOSIGNAL) != sizeof(*message))
		die("the other process has ended");
}

static int get(int line, struct message *message)
{
	struct iovec data = { message, sizeof(*message) };
	union control control = {};
	struct msghdr header = {
		.msg_iov = &data, .msg_iovlen = 1,
		.msg_control = &control, .msg_controllen = sizeof(control),
	};
	int fd = -1;

	if (recvmsg(line, &header, MSG_CMSG_CLOEXEC | MSG_WAITALL) != sizeof(*message))
		die("the other process has ended");
	if (header.msg_controllen && control.header.cmsg_type == SCM_RIGHTS)
		memcpy(&fd, CMSG_DATA(&control.header), sizeof(int));
	return fd;
}

/* A worker. */

static void check(const struct table *table, uint32_t seed)
{
	char string[64];

	for (uint32_t i = 0; i < LOOKUPS; i++) {
		uint32_t offset, number;

		seed = seed * 1103515245 + 12345;
		number = seed / 7 % STRINGS;
		name(string, sizeof(string), number);
		if (i % 10 == 0)
			strcat(string, "?");
		offset = lookup(table, string);
		if (i % 10 == 0 ? offset != 0 :
				  !offset || strcmp(text(table, offset), string))
			die("the table has a wrong entry for %s", string);
	}
}

/* Touch each page. */
static void touch(const void *memory, size_t size)
{
	for (size_t at = 0; at < size; at += 4096)
		(void)*((const volatile char *)memory + at);
}

/* Read the cost of a mapping: its pages (RSS), and its proportion of shared pages (PSS). */
static void read_smaps(const void *memory, struct message *message)
{
	FILE *file = fopen("/proc/self/smaps", "r");
	unsigned long start, end;
	bool inside = false, found = false;
	char line[512];

	if (!file)
		die("cannot read smaps: %s", strerror(errno));
	message->rss = 0;
	message->pss = 0;
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			inside = (unsigned long)memory >= start &&
				 (unsigned long)memory < end;
		found |= inside;
		if (inside && !strncmp(line, "Rss:", 4))
			message->rss = atof(line + 4);
		else if (inside && !strncmp(line, "Pss:", 4))
			message->pss = atof(line + 4);
	}
	if (!found)
		die("smaps does not contain the table");
	fclose(file);
}

/*
 * Measure a mapping, several times if necessary: Linux 6.1 does not count the huge pages
 * of a copy that NUMA balancing has unmapped in order to see which node touches them.
 */
static void measure(const void *memory, size_t size, struct message *message)
{
	for (int i = 0; i < 10; i++) {
		touch(memory, size);
		read_smaps(memory, message);
		if (message->rss * 1024 >= (double)size)
			return;
	}
	die("only %.0f KiB of the table are mapped", message->rss);
}

static long faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_minflt;
}

/* Receive the table, map or copy it, and measure what that costs. */
static const struct table *receive(int line, bool copied, struct message *message)
{
	int fd = get(line, message);
	double begin = milliseconds();
	long before = faults();
	size_t size = message->size;
	void *table, *copy;

	table = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	if (table == MAP_FAILED)
		die("cannot map the table: %s", strerror(errno));
	/* The table is sealed: no process can make a writable mapping. */
	if (!mprotect(table, size, PROT_READ | PROT_WRITE) || errno != EACCES ||
	    mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) != MAP_FAILED)
		die("the table is not sealed");
	close(fd);
	if (copied) {
		copy = mmap(NULL, size, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (copy == MAP_FAILED)
			die("cannot copy the table: %s", strerror(errno));
		memcpy(copy, table, size);
		munmap(table, size);
		table = copy;
	}
	touch(table, size);
	message->took = milliseconds() - begin;
	message->faults = faults() - before;
	return table;
}

static void work(int line, uint32_t number)
{
	const struct table *table;
	struct message message;

	for (int copied = 0; copied < 2; copied++) {
		size_t size;

		table = receive(line, copied, &message);
		size = message.size;
		check(table, number);
		/* Measure when all workers have it: PSS depends on their number. */
		put(line, &message, -1);
		get(line, &message);
		measure(table, size, &message);
		put(line, &message, -1);
		get(line, &message);
		munmap((void *)table, size);
	}
}

/* The workers. */

static int start(pid_t *pid, uint32_t number)
{
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
		die("cannot create sockets: %s", strerror(errno));
	*pid = fork();
	if (*pid < 0)
		die("cannot fork a worker: %s", strerror(errno));
	if (!*pid) {
		close(ends[0]);
		work(ends[1], number);
		_exit(0);
	}
	close(ends[1]);
	return ends[0];
}

/* Run one round of all workers. Returns the sum of their costs. */
static struct message run(const int *lines, size_t size, int fd)
{
	struct message sum = { .size = size }, one;

	for (int i = 0; i < WORKERS; i++)
		put(lines[i], &sum, fd);
	for (int i = 0; i < WORKERS; i++) {
		get(lines[i], &one);
		sum.took += one.took;
		sum.faults += one.faults;
	}
	for (int i = 0; i < WORKERS; i++)
		put(lines[i], &sum, -1);
	for (int i = 0; i < WORKERS; i++) {
		get(lines[i], &one);
		sum.rss += one.rss;
		sum.pss += one.pss;
	}
	for (int i = 0; i < WORKERS; i++)
		put(lines[i], &sum, -1);
	return sum;
}

static void report(const char *how, const struct message *sum)
{
	printf("%-14s %6.1f MiB   each: %5.1f MiB RSS, %5.1f MiB PSS, %6.2f ms, %5ld faults\n",
	       how, sum->pss * 1024 / MIB, sum->rss * 1024 / MIB / WORKERS,
	       sum->pss * 1024 / MIB / WORKERS, sum->took / WORKERS,
	       sum->faults / WORKERS);
}

int main(void)
{
	struct message shared, copied;
	pid_t pids[WORKERS];
	int lines[WORKERS];
	struct table *table;
	struct heap heap;
	size_t size;
	int fd;

	heap_open(&heap);
	table = (struct table *)heap.window;
	build(table);
	/* Share whole arenas: an arena that is released in part has smaller pages. */
	size = (table->size + KARENA_ARENA_SIZE - 1) & ~(KARENA_ARENA_SIZE - 1);
	fd = seal(&heap, size);
	printf("%u strings, each interned %d times: %.1f MiB in %zu arenas\n",
	       table->strings, TIMES, table->size / MIB, size / KARENA_ARENA_SIZE);
	fflush(stdout);

	for (int i = 0; i < WORKERS; i++)
		lines[i] = start(&pids[i], i);
	/* The mapping of this process would count in the PSS of the workers. */
	munmap(heap.window, TABLE_SIZE);
	shared = run(lines, size, fd);
	copied = run(lines, size, fd);
	for (int i = 0; i < WORKERS; i++) {
		int status;

		if (waitpid(pids[i], &status, 0) != pids[i] || status)
			die("a worker has failed");
	}

	printf("cost of %d workers together, and of each\n", WORKERS);
	report("shared, sealed", &shared);
	report("a copy each", &copied);
	printf("sharing the table costs %.1f times less\n", copied.pss / shared.pss);
	/* Each worker maps the whole table, and all together pay for it once. */
	if (shared.rss * 1024 < (double)WORKERS * size ||
	    shared.pss * 1024 > 1.1 * size || copied.pss < (WORKERS - 1) * shared.pss)
		die("these numbers are wrong");
	return 0;
}
