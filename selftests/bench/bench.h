/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Shared by the benchmarks: heaps and other memory, touches, clocks, and tables of medians.
 * The kinds of memory that a table compares are measured in turn, round after round of one
 * run, so that a slow moment of the machine affects all of them. The first round warms up
 * and does not count. All values of the other rounds are kept.
 */
#ifndef KARENA_BENCH_H
#define KARENA_BENCH_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/karena.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE	23
#endif

#define ARENA		KARENA_ARENA_SIZE
#define ROUNDS		21
#define AHEAD		"/sys/module/karena/parameters/ahead"
#define NR_HUGEPAGES	"/proc/sys/vm/nr_hugepages"

static inline void die(const char *what)
{
	perror(what);
	exit(1);
}

/* Time in microseconds. */
static inline double clock_us(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return time.tv_sec * 1e6 + time.tv_nsec / 1e3;
}

static inline double now(void)
{
	return clock_us(CLOCK_MONOTONIC);
}

struct heap {
	uint64_t id;
	char *window;
	size_t size;
	struct karena_control *control;
	size_t control_size;
	uint32_t *states;
};

static inline int device_open(void)
{
	int device = open(KARENA_DEVICE, O_RDWR | O_CLOEXEC);

	if (device < 0)
		die(KARENA_DEVICE);
	return device;
}

/* Read a file into text with a final NUL. Return -1 on failure. */
static inline ssize_t read_text(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t length = fd < 0 ? -1 : read(fd, text, size - 1);

	if (fd >= 0)
		close(fd);
	text[length < 0 ? 0 : length] = 0;
	return length;
}

static inline int write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int ret = fd < 0 || write(fd, text, strlen(text)) < 0 ? -1 : 0;

	if (fd >= 0)
		close(fd);
	return ret;
}

/* Create and map a heap as a library would, without a descriptor. */
static inline void heap_make_on(int device, struct heap *heap, size_t arenas)
{
	struct karena_create create = {
		.size = sizeof(create), .window = arenas * ARENA, .name = "bench"
	};
	int fd = ioctl(device, KARENA_CREATE, &create);

	if (fd < 0)
		die("KARENA_CREATE");
	heap->id = create.id;
	heap->size = create.window;
	heap->control_size = create.control_size;
	heap->window = mmap(NULL, heap->size, PROT_READ | PROT_WRITE, MAP_SHARED,
			    fd, 0);
	heap->control = mmap(NULL, heap->control_size, PROT_READ | PROT_WRITE,
			     MAP_SHARED, fd, create.control_offset);
	if (heap->window == MAP_FAILED || heap->control == MAP_FAILED)
		die("mmap");
	close(fd);
	/*
	 * The first commit finds the state words, so a heap without commits has no fault.
	 */
	heap->states = NULL;
}

static inline void heap_make(struct heap *heap, size_t arenas)
{
	int device = device_open();

	heap_make_on(device, heap, arenas);
	close(device);
}

/* Open a descriptor of a heap again. */
static inline int heap_attach(const struct heap *heap)
{
	struct karena_attach attach = {
		.size = sizeof(attach), .address = (uintptr_t)heap->window
	};
	int device = device_open(), fd;

	fd = ioctl(device, KARENA_ATTACH, &attach);
	if (fd < 0)
		die("KARENA_ATTACH");
	close(device);
	return fd;
}

static inline void heap_destroy(struct heap *heap)
{
	munmap(heap->window, heap->size);
	munmap(heap->control, heap->control_size);
}

/* Commit the first bytes of the window, as whole arenas or as pages, depending on state. */
static inline void heap_commit_as(struct heap *heap, size_t size, uint32_t state)
{
	if (!heap->states)
		heap->states = (uint32_t *)((char *)heap->control +
					    heap->control->states_offset);
	for (size_t at = 0; at < size; at += ARENA)
		__atomic_store_n(&heap->states[at / ARENA], state, __ATOMIC_RELEASE);
	if (madvise(heap->window, size, MADV_POPULATE_WRITE))
		die("MADV_POPULATE_WRITE");
}

static inline void heap_commit(struct heap *heap, size_t arenas)
{
	heap_commit_as(heap, arenas * ARENA, KARENA_REQUESTED);
}

static inline void heap_release(struct heap *heap, size_t arenas)
{
	if (madvise(heap->window, arenas * ARENA, MADV_REMOVE))
		die("MADV_REMOVE");
}

static char ahead[16];

static inline void restore_ahead(void)
{
	write_text(AHEAD, ahead);
}

/* Keep no frames ready except on request. Without the file the module keeps no others. */
static inline void stop_ahead(void)
{
	if (read_text(AHEAD, ahead, sizeof(ahead)) < 0)
		return;
	atexit(restore_ahead);
	if (write_text(AHEAD, "0"))
		die(AHEAD);
}

/*
 * Wait until a heap has this many ready frames. Return false if the module has no ready
 * frames. The wait is not measured.
 */
static inline bool await_ready(int fd, uint32_t count)
{
	struct karena_ready call = {
		.size = sizeof(call), .count = count, .node = KARENA_NODE_ANY
	};
	double start = now();

	do {
		if (ioctl(fd, KARENA_READY, &call)) {
			if (errno != ENOTTY)
				die("KARENA_READY");
			return false;
		}
		if (now() - start > 60e6) {
			fprintf(stderr, "%u frames ready after 60 s\n", call.ready);
			exit(1);
		}
		usleep(1000);
	} while (call.ready < count);
	return true;
}

static inline uint32_t volatile_word(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &time);
	return KARENA_VOLATILE_SINCE(time.tv_sec * 1000000000ULL + time.tv_nsec);
}

/* Anonymous memory, aligned so that it can have huge pages. */
static inline char *anonymous(size_t size, int advice)
{
	char *map = mmap(NULL, size + ARENA, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	size_t before = -(uintptr_t)map & (ARENA - 1);

	if (map == MAP_FAILED)
		die("mmap");
	if (before)
		munmap(map, before);
	munmap(map + before + size, ARENA - before);
	if (madvise(map + before, size, advice))
		die("madvise");
	return map + before;
}

static char nr_hugepages[16];

static inline void restore_hugepages(void)
{
	write_text(NR_HUGEPAGES, nr_hugepages);
}

/* Reserve hugetlb pages on each node until the program ends. Return true on success. */
static inline bool reserve_hugepages(int count)
{
	int nodes = access("/sys/devices/system/node/node1", F_OK) ? 1 : 2;
	char text[16];

	if (read_text(NR_HUGEPAGES, nr_hugepages, sizeof(nr_hugepages)) < 0)
		return false;
	atexit(restore_hugepages);
	/* The kernel distributes them evenly. */
	snprintf(text, sizeof(text), "%d", nodes * count);
	return !write_text(NR_HUGEPAGES, text) &&
	       read_text(NR_HUGEPAGES, text, sizeof(text)) > 0 &&
	       atoi(text) >= nodes * count;
}

/* Return NULL if there are not enough pages. */
static inline char *hugetlb(size_t size)
{
	char *map = mmap(NULL, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);

	return map == MAP_FAILED ? NULL : map;
}

/* Create and map a memfd. */
static inline char *shared_memory(size_t size)
{
	int fd = memfd_create("bench", MFD_CLOEXEC);
	char *map;

	if (fd < 0 || ftruncate(fd, size))
		die("memfd_create");
	map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		die("mmap");
	close(fd);
	return map;
}

/* Add a line of smaps to the memory mapped by PMDs and to all mapped memory, in KiB. */
static inline void add_mapped(const char *line, long *huge, long *all)
{
	static const char * const members[] = {
		"AnonHugePages:", "ShmemPmdMapped:", "FilePmdMapped:",
		/* Rss does not include these. */
		"Private_Hugetlb:", "Shared_Hugetlb:",
	};
	long value;

	if (sscanf(line, "Rss: %ld", &value) == 1)
		*all += value;
	for (int i = 0; i < 5; i++) {
		if (strncmp(line, members[i], strlen(members[i])))
			continue;
		value = atol(line + strlen(members[i]));
		*huge += value;
		*all += i < 3 ? 0 : value;
	}
}

/* The page-table entries that map a range, which is also how many the TLB would need. */
static inline double entries(const char *start, size_t size)
{
	unsigned long from, to, at = (uintptr_t)start;
	FILE *file = fopen("/proc/self/smaps", "r");
	long huge = 0, all = 0;
	bool inside = false;
	char line[4096];

	if (!file)
		die("/proc/self/smaps");
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx", &from, &to) == 2)
			inside = from < at + size && to > at;
		else if (inside)
			add_mapped(line, &huge, &all);
	}
	fclose(file);
	return huge / 2048. + (all - huge) / 4.;
}

/* Write to every page. */
static inline void touch(volatile char *start, size_t size)
{
	for (size_t i = 0; i < size; i += 4096)
		start[i] = 1;
}

/* Run on one processor, and so on one NUMA node: that of the ready frames. */
static inline void stay_here(void)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(sched_getcpu(), &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		die("sched_setaffinity");
}

/* Microseconds from a fork until the child, which exits at once, has been waited for. */
static inline double fork_and_wait(void)
{
	double start = now();
	pid_t child = fork();

	if (!child)
		_exit(0);
	if (child < 0 || waitpid(child, NULL, 0) != child)
		die("fork");
	return now() - start;
}

/* Nanoseconds that a kernel thread has run; 0 for other tasks. */
static inline unsigned long long kernel_thread(const char *pid)
{
	unsigned long long time = 0;
	char path[300], text[128];

	/* Only kernel threads have an empty command line. */
	snprintf(path, sizeof(path), "/proc/%s/cmdline", pid);
	if (read_text(path, text, sizeof(text)))
		return 0;
	snprintf(path, sizeof(path), "/proc/%s/schedstat", pid);
	if (read_text(path, text, sizeof(text)) > 0)
		sscanf(text, "%llu", &time);
	return time;
}

/* Processor time of all kernel threads in microseconds. */
static inline double kernel_cpu(void)
{
	unsigned long long sum = 0;
	struct dirent *entry;
	DIR *dir = opendir("/proc");

	if (!dir)
		die("/proc");
	while ((entry = readdir(dir))) {
		if (atoi(entry->d_name))
			sum += kernel_thread(entry->d_name);
	}
	closedir(dir);
	return sum / 1e3;
}

static inline long faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_minflt;
}

/* Values of the rounds. */
struct series {
	int n;
	double values[ROUNDS];
};

/* While this is set, recorded values do not count. */
static bool warm_up;

static inline void record(struct series *series, double value)
{
	if (warm_up)
		return;
	if (series->n == ROUNDS)
		abort();
	series->values[series->n++] = value;
}

static inline int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static inline double median(const struct series *series)
{
	double values[ROUNDS];

	memcpy(values, series->values, sizeof(values));
	qsort(values, series->n, sizeof(*values), compare);
	return series->n % 2 ? values[series->n / 2] :
	       (values[series->n / 2 - 1] + values[series->n / 2]) / 2;
}

static inline double mean(const struct series *series)
{
	double sum = 0;

	for (int i = 0; i < series->n; i++)
		sum += series->values[i];
	return sum / series->n;
}

/*
 * In a guest whose clock counts one instruction per nanosecond: the number of instructions
 * and the unit.
 */
static inline double counted(const char *place, const char **unit)
{
	bool us = !strcmp(*unit, "us");

	if (!place || !strstr(place, " counted"))
		return 1;
	if (us || !strcmp(*unit, "ns"))
		*unit = "instructions";
	else if (!strcmp(*unit, "MiB/s"))
		*unit = "MiB in 1e9 instructions";
	return us ? 1000 : 1;
}

/*
 * Append a series to the file named by KARENA_RESULTS, in the format of results.py: what
 * was measured, for which kind of memory, and in which unit.
 */
static inline void report(const char *group, const char *what, const char *contender,
			  const char *unit, const struct series *series)
{
	const char *path = getenv("KARENA_RESULTS"), *place = getenv("KARENA_PLACE");
	FILE *file = path && series->n ? fopen(path, "a") : NULL;
	double factor = counted(place, &unit);

	if (!path || !series->n)
		return;
	if (!file)
		die(path);
	fprintf(file, "{\"place\": \"%s\", \"group\": \"%s\", \"case\": \"%s\", "
		"\"contender\": \"%s\", \"unit\": \"%s\", \"values\": [",
		place ? place : "", group, what, contender, unit);
	for (int i = 0; i < series->n; i++)
		fprintf(file, "%s%.9g", i ? ", " : "",
			factor * series->values[i]);
	fputs("]}\n", file);
	if (fclose(file))
		die(path);
}

/* Print a column of 14 characters: a ratio, and the required one if there is one. */
static inline void print_ratio(double ratio, const char *required)
{
	if (required)
		printf("%7.2f %-6s", ratio, required);
	else
		printf("%7.2f%7s", ratio, "");
}

#endif
