/* SPDX-License-Identifier: MIT */
/*
 * What the library's tests share.
 */
#ifndef KARENA_TESTS_COMMON_H
#define KARENA_TESTS_COMMON_H

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <karena/karena.h>

#include "kselftest_harness.h"

/* Seconds for a test that takes a moment, on a debug kernel in an emulator. */
#define SLOW	200

#define MIB	((size_t)1 << 20)

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define NOT_WITH_SANITIZERS()						\
	SKIP(return, "a sanitizer's own memory hides what is measured")
#else
#define NOT_WITH_SANITIZERS()						\
	do {								\
		if (getenv("VALGRIND"))					\
			SKIP(return, "valgrind's own memory hides it");	\
	} while (0)
#endif

#ifdef __SANITIZE_THREAD__
#define NOT_WITH_THREAD_SANITIZER()					\
	SKIP(return, "ThreadSanitizer cannot fork beside a thread")
#else
#define NOT_WITH_THREAD_SANITIZER()	do { } while (0)
#endif

/* Bytes of this process that are in memory. */
static inline long resident(void)
{
	FILE *file = fopen("/proc/self/statm", "r");
	long size = 0, pages = 0;

	if (!file || fscanf(file, "%ld %ld", &size, &pages) != 2)
		abort();
	fclose(file);
	return pages * 4096;
}

#endif
