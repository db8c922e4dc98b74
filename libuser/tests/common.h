/* SPDX-License-Identifier: MIT */
/*
 * Shared by the library's tests.
 */
#ifndef KARENA_TESTS_COMMON_H
#define KARENA_TESTS_COMMON_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <karena/karena.h>

#include "../../selftests/machine.h"
#include "kselftest_harness.h"

/*
 * Timeout of a test in seconds. The harness's 30 are too few for a debug kernel on a busy
 * machine.
 */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	120

/* Timeout in seconds of a test that takes longer, on a debug kernel in an emulator. */
#define SLOW	200

#define MIB	((size_t)1 << 20)

/* Return true under a tool with which each step takes ten times as long. */
static inline bool is_instrumented(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	return true;
#else
	return getenv("VALGRIND");
#endif
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define NOT_WITH_SANITIZERS()						\
	SKIP(return, "the sanitizer's own memory hides the measured memory")
#else
#define NOT_WITH_SANITIZERS()						\
	do {								\
		if (getenv("VALGRIND"))					\
			SKIP(return, "valgrind's own memory hides the measured memory");	\
	} while (0)
#endif

#define NOT_WITH_VALGRIND(_why)						\
	do {								\
		if (getenv("VALGRIND"))					\
			SKIP(return, "valgrind " _why);			\
	} while (0)

#ifdef __SANITIZE_THREAD__
#define NOT_WITH_THREAD_SANITIZER()					\
	SKIP(return, "ThreadSanitizer cannot fork a process with threads")
#else
#define NOT_WITH_THREAD_SANITIZER()	do { } while (0)
#endif

static inline bool on_device(void)
{
	const char *source = getenv("KARENA_SOURCE");

	return source && !strcmp(source, "device");
}

/* Return true in a guest of the tests, an emulated machine with the module loaded. */
static inline bool is_guest(void)
{
	return !access("/sys/module/karena", F_OK);
}

/* Return true if the preloaded library is libkarena-malloc-checked.so. */
static inline bool in_checked_build(void)
{
	const char *preload = getenv("LD_PRELOAD");

	return preload && strstr(preload, "-checked.so");
}

static inline struct ka_heap *make(size_t window, size_t limit, enum ka_fork fork)
{
	struct ka_options options = KA_OPTIONS;

	options.window = window;
	options.limit = limit;
	options.fork = fork;
	return ka_heap_create(&options);
}

static inline struct ka_stats stats_of(struct ka_heap *heap)
{
	struct ka_stats stats = { .size = sizeof(stats) };

	ka_heap_stats(heap, &stats);
	return stats;
}

/* In a child: print a condition that failed, and exit. */
#define CHECK(_condition)						\
	do {								\
		if (!(_condition)) {					\
			fprintf(stderr, "# %s:%d: in a child: %s\n",	\
				__FILE__, __LINE__, #_condition);	\
			_exit(1);					\
		}							\
	} while (0)

/* For a child that may be killed by a signal, which a sanitizer would turn into an exit. */
static inline void die_of_signals(void)
{
	signal(SIGSEGV, SIG_DFL);
	signal(SIGBUS, SIG_DFL);
}

/* The status of a child as in a shell: 128 + signal, or the exit status. */
static inline int child_status(pid_t child)
{
	int status;

	if (waitpid(child, &status, 0) != child)
		return -1;
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* Count the resident bytes of a range that is whole arenas or smaller. */
static inline size_t resident_from(const char *start, size_t size)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	static uint64_t entries[512];
	size_t pages = 0;

	for (size_t at = 0; at < size; at += sizeof(entries) / 8 * KA_PAGE_SIZE) {
		size_t count = (size - at) / KA_PAGE_SIZE;
		off_t page = (off_t)((uintptr_t)(start + at) / KA_PAGE_SIZE);

		if (count > sizeof(entries) / 8)
			count = sizeof(entries) / 8;
		if (pread(fd, entries, count * 8, page * 8) != (ssize_t)(count * 8))
			abort();
		for (size_t i = 0; i < count; i++)
			pages += entries[i] >> 63;
	}
	close(fd);
	return pages * KA_PAGE_SIZE;
}

/* Bytes of addresses that the process has mapped. */
static inline size_t mapped_size(void)
{
	FILE *file = fopen("/proc/self/statm", "r");
	size_t pages = 0;

	if (!file || fscanf(file, "%zu", &pages) != 1)
		abort();
	fclose(file);
	return pages * KA_PAGE_SIZE;
}

/* Resident bytes of this process. */
static inline long resident(void)
{
	FILE *file = fopen("/proc/self/statm", "r");
	long size = 0, pages = 0;

	if (!file || fscanf(file, "%ld %ld", &size, &pages) != 2)
		abort();
	fclose(file);
	return pages * 4096;
}

/*
 * Return true if a resized block is a run, as documented. Before, it had @old usable bytes,
 * and was a run or not; its new size is @size bytes.
 */
static inline bool is_run_now(bool moved, bool was_run, size_t old, size_t size)
{
	if (!moved)
		return was_run;
	return size > 256 * 1024 || (size > old && size > 32 * 1024);
}

#endif
