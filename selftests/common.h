/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Shared by all selftests: create and map a heap as a library would, touch memory that may
 * raise SIGBUS, read statistics from /proc and sysfs.
 */
#ifndef KARENA_SELFTESTS_COMMON_H
#define KARENA_SELFTESTS_COMMON_H

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/falloc.h>
#include <linux/karena.h>

#include "kselftest_harness.h"
#include "machine.h"

/*
 * Timeout of a test in seconds. The harness's 30 are too few for a debug kernel on a busy
 * machine.
 */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	120

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE	23
#endif

/* Timeout in seconds of a test that takes longer, on a debug kernel in an emulator. */
#define SLOW		200

#define MIB		(1UL << 20)
#define ARENA		KARENA_ARENA_SIZE
#define PAGE		4096UL
#define SYSFS		"/sys/class/misc/karena"
#define PARAMETERS	"/sys/module/karena/parameters"
#define LIMIT_PARAM	PARAMETERS "/limit"
#define CGROUPS		"/sys/fs/cgroup"
#define DISK		"/dev/vda"
#define DISK_GROUP	CGROUPS "/karena-disk"

struct heap {
	int fd;
	uint64_t id;
	char *window;
	size_t size;
	struct karena_control *control;
	size_t control_size;
	uint32_t *states;
};

static inline int device_open(void)
{
	return open(KARENA_DEVICE, O_RDWR | O_CLOEXEC);
}

/* One call with its own device descriptor. Return its result, or -errno. */
static inline int device_call(unsigned int cmd, void *args)
{
	int device = device_open();
	int ret;

	if (device < 0)
		return -errno;
	ret = ioctl(device, cmd, args);
	if (ret < 0)
		ret = -errno;
	close(device);
	return ret;
}

static inline int heap_map_control(struct heap *heap, const struct karena_create *create)
{
	heap->control_size = create->control_size;
	heap->control = mmap(NULL, create->control_size, PROT_READ | PROT_WRITE,
			     MAP_SHARED, heap->fd, create->control_offset);
	if (heap->control == MAP_FAILED)
		return -errno;
	heap->states = (void *)((char *)heap->control +
				heap->control->states_offset);
	return 0;
}

/*
 * Create and map a heap as @create specifies, and fill in its size and name. The descriptor
 * stays open. Return 0 or -errno.
 */
static inline int heap_create(struct heap *heap, struct karena_create *create)
{
	memset(heap, 0, sizeof(*heap));
	create->size = sizeof(*create);
	strcpy(create->name, "selftest");
	heap->fd = device_call(KARENA_CREATE, create);
	if (heap->fd < 0)
		return heap->fd;
	heap->id = create->id;
	heap->size = create->window;
	heap->window = mmap(NULL, heap->size, PROT_READ | PROT_WRITE, MAP_SHARED,
			    heap->fd, 0);
	if (heap->window == MAP_FAILED)
		return -errno;
	return heap_map_control(heap, create);
}

static inline int heap_open(struct heap *heap, size_t size, size_t limit)
{
	struct karena_create create = { .window = size, .limit = limit };

	return heap_create(heap, &create);
}

/* Open a heap that children do not inherit. */
static inline int heap_open_alone(struct heap *heap, size_t size, size_t limit)
{
	struct karena_create create = {
		.window = size, .limit = limit, .fork = KARENA_FORK_NONE,
	};

	return heap_create(heap, &create);
}

/* Open a heap and close its descriptor, as a library does. Return 0 or -errno. */
static inline int heap_make(struct heap *heap, size_t size, size_t limit)
{
	int ret = heap_open(heap, size, limit);

	if (heap->fd >= 0)
		close(heap->fd);
	heap->fd = -1;
	return ret;
}

static inline void heap_destroy(struct heap *heap)
{
	if (heap->fd >= 0)
		close(heap->fd);
	munmap(heap->window, heap->size);
	munmap(heap->control, heap->control_size);
}

static inline char *arena(const struct heap *heap, size_t index)
{
	return heap->window + index * ARENA;
}

static inline void set_state(const struct heap *heap, size_t first, size_t count,
			     uint32_t state)
{
	for (size_t i = first; i < first + count; i++)
		__atomic_store_n(&heap->states[i], state, __ATOMIC_RELEASE);
}

static inline uint32_t state(const struct heap *heap, size_t index)
{
	return __atomic_load_n(&heap->states[index], __ATOMIC_ACQUIRE);
}

/* Commit arenas as the interface specifies. Return 0 or -errno. */
static inline int heap_commit(const struct heap *heap, size_t first, size_t count)
{
	set_state(heap, first, count, KARENA_REQUESTED);
	return madvise(arena(heap, first), count * ARENA, MADV_POPULATE_WRITE) ?
	       -errno : 0;
}

static inline int heap_release(const struct heap *heap, size_t first, size_t count)
{
	return madvise(arena(heap, first), count * ARENA, MADV_REMOVE) ? -errno : 0;
}

/* One call with the heap's descriptor. Return its result, or -errno. */
static inline int heap_call(const struct heap *heap, unsigned int cmd, void *args)
{
	int ret = ioctl(heap->fd, cmd, args);

	return ret < 0 ? -errno : ret;
}

/* KARENA_COMMIT or KARENA_RELEASE. Return 0 or -errno. */
static inline int heap_ranges(const struct heap *heap, unsigned int cmd,
			      struct karena_range *ranges, uint32_t nr)
{
	struct karena_ranges args = {
		.size = sizeof(args), .ranges = (uintptr_t)ranges, .nr = nr
	};

	return heap_call(heap, cmd, &args);
}

/* KARENA_COMMIT or KARENA_RELEASE of one range. Return its result, or -errno. */
static inline int heap_range(const struct heap *heap, unsigned int cmd,
			     uint64_t offset, uint64_t length)
{
	struct karena_range range = { .offset = offset, .length = length };
	int err = heap_ranges(heap, cmd, &range, 1);

	/*
	 * The call fails with the result of its only range, if it could write that result.
	 */
	return err == range.result || err == -EFAULT ? err : -EPROTO;
}

/* KARENA_LIMIT. Return 0 or -errno. */
static inline int heap_limit(const struct heap *heap, unsigned int flags,
			     uint64_t hard, uint64_t soft)
{
	struct karena_limit args = {
		.size = sizeof(args), .flags = flags, .hard = hard, .soft = soft
	};

	return heap_call(heap, KARENA_LIMIT, &args);
}

/* Keep frames ready on a node. Return how many are ready now, or -errno. */
static inline long heap_ready(const struct heap *heap, uint32_t node,
			      uint32_t count)
{
	struct karena_ready args = {
		.size = sizeof(args), .count = count, .node = node
	};
	int err = heap_call(heap, KARENA_READY, &args);

	return err ? err : (long)args.ready;
}

/* Keep frames ready, and wait up to ten seconds until @value frames are ready. */
static inline bool heap_ready_becomes(const struct heap *heap, uint32_t node,
				      uint32_t count, long value)
{
	for (int i = 0; i < 1000; i++) {
		if (heap_ready(heap, node, count) == value)
			return true;
		usleep(10000);
	}
	return false;
}

/* Run on one processor. In the guest each processor is a NUMA node. */
static inline int run_on(int cpu)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	return sched_setaffinity(0, sizeof(cpus), &cpus);
}

static __thread sigjmp_buf touch_jump;

static inline void touch_handler(int signal)
{
	siglongjmp(touch_jump, signal);
}

/* Write to an address. Return 0, or the signal that the write raised. */
static inline int touch(volatile char *address)
{
	struct sigaction action = { .sa_handler = touch_handler };
	struct sigaction old_bus, old_segv;
	int signal;

	sigaction(SIGBUS, &action, &old_bus);
	sigaction(SIGSEGV, &action, &old_segv);
	signal = sigsetjmp(touch_jump, 1);
	if (!signal)
		*address = 1;
	sigaction(SIGBUS, &old_bus, NULL);
	sigaction(SIGSEGV, &old_segv, NULL);
	return signal;
}

/* Count the bytes of a range that differ from @byte; usually none do. */
static inline size_t count_other(const char *start, size_t size, char byte)
{
	uint64_t word, right = 0x0101010101010101ULL * (unsigned char)byte;
	size_t i, other = 0;

	for (i = 0; i + sizeof(word) <= size; i += sizeof(word)) {
		memcpy(&word, start + i, sizeof(word));
		if (word == right)
			continue;
		for (size_t j = i; j < i + sizeof(word); j++)
			other += start[j] != byte;
	}
	for (; i < size; i++)
		other += start[i] != byte;
	return other;
}

static inline long minor_faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_minflt;
}

/* A member of smaps in bytes, for the mapping that contains an address; -1 if missing. */
static inline long smaps(const void *address, const char *member)
{
	FILE *file = fopen("/proc/self/smaps", "r");
	unsigned long start, end;
	bool inside = false;
	char line[512];
	long kib = -1;

	while (file && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			inside = (unsigned long)address >= start &&
				 (unsigned long)address < end;
		else if (inside && !strncmp(line, member, strlen(member)) &&
			 line[strlen(member)] == ':')
			kib = atol(line + strlen(member) + 1);
	}
	if (file)
		fclose(file);
	return kib < 0 ? -1 : kib * 1024;
}

/* Return true if the mapping that contains an address has the two-letter VmFlag. */
static inline bool vm_flag(const void *address, const char *flag)
{
	FILE *file = fopen("/proc/self/smaps", "r");
	unsigned long start, end;
	bool inside = false, set = false;
	char line[512];

	while (file && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			inside = (unsigned long)address >= start &&
				 (unsigned long)address < end;
		else if (inside && !strncmp(line, "VmFlags:", 8))
			set = strstr(line + 8, flag);
	}
	if (file)
		fclose(file);
	return set;
}

static inline int read_text(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t length;

	if (fd < 0)
		return -errno;
	length = read(fd, text, size - 1);
	close(fd);
	if (length < 0)
		return -errno;
	text[length] = 0;
	return 0;
}

static inline int write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int ret = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) < 0)
		ret = -errno;
	close(fd);
	return ret;
}

/* Return a statistic of the module from sysfs, or -errno. */
static inline long module_stat(const char *name)
{
	char path[256], text[64];
	int err;

	snprintf(path, sizeof(path), SYSFS "/%s", name);
	err = read_text(path, text, sizeof(text));
	return err ? err : atol(text);
}

/*
 * Wait up to @tries times 10 ms for the directory of a heap. A worker creates it, and adds
 * root's file for the limit last.
 */
static inline bool directory_appears_within(uint64_t id, int tries)
{
	char path[64];

	snprintf(path, sizeof(path), SYSFS "/heaps/%llu/limit",
		 (unsigned long long)id);
	for (int i = 0; i < tries; i++) {
		if (!access(path, F_OK))
			return true;
		usleep(10000);
	}
	return false;
}

static inline bool directory_appears(uint64_t id)
{
	return directory_appears_within(id, 500);
}

/* A statistic of a heap from a file with a name and a value in each line, or ~0 - errno. */
static inline uint64_t heap_line(const struct heap *heap, const char *file,
				 const char *name)
{
	char path[64], text[1024], *at;
	size_t length = strlen(name);
	int err;

	snprintf(path, sizeof(path), SYSFS "/heaps/%llu/%s",
		 (unsigned long long)heap->id, file);
	err = read_text(path, text, sizeof(text));
	if (err)
		return ~0UL + err;
	for (at = text; at; at = strchr(at, '\n')) {
		at += *at == '\n';
		if (!strncmp(at, name, length) && at[length] == ' ')
			return strtoull(at + length, NULL, 10);
	}
	return ~0UL - ENOENT;
}

/*
 * Return a statistic from sysfs, from whichever file has it, of a heap that has committed
 * memory; on failure -errno or -errno - 1.
 */
static inline long heap_stat(const struct heap *heap, const char *name)
{
	static const char *const events[] = {
		"faults", "refused", "demoted", "copies", "promoted", "reclaimed",
		"reclaimed_ready", "pressure_events",
	};
	char path[64];

	if (!directory_appears(heap->id))
		return -ENOENT;
	if (!strncmp(name, "statistics/", 11))
		return heap_line(heap, "statistics", name + 11);
	for (int i = 0; i < 8; i++) {
		if (!strcmp(events[i], name))
			return heap_line(heap, "events", i < 7 ? name : "pressure");
	}
	snprintf(path, sizeof(path), "heaps/%llu/%s",
		 (unsigned long long)heap->id, name);
	return module_stat(path);
}

/* Wait up to five seconds until a statistic of a heap has a value. */
static inline bool heap_stat_becomes(const struct heap *heap, const char *name,
				     long value)
{
	for (int i = 0; i < 500; i++) {
		if (heap_stat(heap, name) == value)
			return true;
		usleep(10000);
	}
	return false;
}

/* Wait up to five seconds until a statistic of the module has a value. */
static inline bool module_stat_becomes(const char *name, long value)
{
	for (int i = 0; i < 500; i++) {
		if (module_stat(name) == value)
			return true;
		usleep(10000);
	}
	return false;
}

/* The heaps of a test have ended, and have left no memory behind. */
#define EXPECT_NOTHING_LEFT()						\
	do {								\
		EXPECT_TRUE(module_stat_becomes("committed", 0));	\
		EXPECT_EQ(0, module_stat("huge_arenas"));		\
		EXPECT_EQ(0, module_stat("sparse_arenas"));		\
		EXPECT_EQ(0, module_stat("sparse_pages"));		\
		EXPECT_TRUE(module_stat_becomes("pinned_orphans", 0));	\
	} while (0)

/* The state word that makes an arena volatile now. */
static inline uint32_t now_volatile(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return KARENA_VOLATILE_SINCE(now.tv_sec * 1000000000ULL + now.tv_nsec);
}

static inline uint32_t make_volatile(const struct heap *heap, size_t index)
{
	uint32_t word = now_volatile();

	__atomic_store_n(&heap->states[index], word, __ATOMIC_RELEASE);
	return word;
}

static inline bool reuse(const struct heap *heap, size_t index, uint32_t word)
{
	return __atomic_compare_exchange_n(&heap->states[index], &word,
					   KARENA_ACTIVE, false, __ATOMIC_ACQ_REL,
					   __ATOMIC_ACQUIRE);
}

/* Shrink every cache that can shrink. This reclaims all volatile arenas. */
static inline void shrink_everything(void)
{
	/* Each write makes every cache free a part of its memory. */
	for (int i = 0; i < 4; i++)
		write_text("/proc/sys/vm/drop_caches", "2\n");
}

/* Set how many bytes per second this process may read from the scratch disk. */
static inline bool disk_speed(const char *bytes)
{
	struct stat disk;
	char text[64];

	if (stat(DISK, &disk))
		return false;
	snprintf(text, sizeof(text), "%u:%u rbps=%s", major(disk.st_rdev),
		 minor(disk.st_rdev), bytes);
	return !write_text(DISK_GROUP "/io.max", text);
}

/*
 * Slow down the disk for this process, so that the pages of a read stay pinned for longer.
 * Return true on success.
 */
static inline bool disk_slow(const char *bytes)
{
	write_text(CGROUPS "/cgroup.subtree_control", "+io");
	mkdir(DISK_GROUP, 0755);
	if (disk_speed(bytes) && !write_text(DISK_GROUP "/cgroup.procs", "0"))
		return true;
	rmdir(DISK_GROUP);
	return false;
}

/* Make the disk fast again. Reads that are waiting complete at once. */
static inline void disk_fast(void)
{
	disk_speed("max");
	write_text(CGROUPS "/cgroup.procs", "0");
	rmdir(DISK_GROUP);
}

/* The status of a child as in a shell: 128 + signal, or the exit status. */
static inline int child_status(pid_t child)
{
	int status;

	if (waitpid(child, &status, 0) != child)
		return -1;
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

#define REQUIRE_MODULE()						\
	do {								\
		if (access(KARENA_DEVICE, F_OK))			\
			SKIP(return, "no " KARENA_DEVICE);		\
	} while (0)

#endif
