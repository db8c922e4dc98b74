/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The fault injection of the kernel: its knobs, and which allocation of a thread fails
 * next. For kernels with CONFIG_FAULT_INJECTION, such as the debug kernel.
 */
#ifndef KARENA_SELFTESTS_FAULTS_H
#define KARENA_SELFTESTS_FAULTS_H

#include "common.h"

#define DEBUG	"/sys/kernel/debug"

/* A knob, its earlier value and the value for the test. */
struct knob {
	const char *path;
	const char *wanted;
	char before[32];
};

/* Exists only if copies to and from user space can fail. */
static struct knob knobs[] = {
	{ DEBUG "/fail_usercopy/verbose", "0" },
	{ DEBUG "/failslab/ignore-gfp-wait", "N" },
	{ DEBUG "/failslab/cache-filter", "N" },
	{ DEBUG "/failslab/verbose", "0" },
	{ DEBUG "/fail_page_alloc/ignore-gfp-wait", "N" },
	{ DEBUG "/fail_page_alloc/ignore-gfp-highmem", "N" },
	{ DEBUG "/fail_page_alloc/min-order", "0" },
	{ DEBUG "/fail_page_alloc/verbose", "0" },
	/* For tests in which allocations fail at random. */
	{ DEBUG "/failslab/task-filter", "Y" },
	{ DEBUG "/failslab/times", "-1" },
	{ DEBUG "/failslab/probability", "0" },
	{ DEBUG "/fail_page_alloc/task-filter", "Y" },
	{ DEBUG "/fail_page_alloc/times", "-1" },
	{ DEBUG "/fail_page_alloc/probability", "0" },
};

/* Return true if the kernel has fault injection. */
static inline bool faults_possible(void)
{
	return !access(DEBUG "/failslab", F_OK) && !access(DEBUG "/fail_page_alloc", F_OK);
}

/* Return true if copies to or from user space can fail with EFAULT. */
static inline bool copies_can_fail(void)
{
	return !access(DEBUG "/fail_usercopy", F_OK);
}

/* Set all knobs for the test. Return true on success. */
static inline bool knobs_turn(void)
{
	for (int i = !copies_can_fail(); i < ARRAY_SIZE(knobs); i++) {
		if (read_text(knobs[i].path, knobs[i].before, sizeof(knobs[i].before)) ||
		    write_text(knobs[i].path, knobs[i].wanted))
			return false;
	}
	return true;
}

/* Restore them, so that allocations fail only in tasks that asked for it. */
static inline bool knobs_turn_back(void)
{
	int first = !copies_can_fail();
	bool done = true;

	for (int i = ARRAY_SIZE(knobs) - 1; i >= first; i--)
		done &= !write_text(knobs[i].path, knobs[i].before);
	return done;
}

/* Open the file of the calling thread, or return -1. */
static inline int nth_open(void)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/task/%d/fail-nth", gettid());
	return open(path, O_RDWR | O_CLOEXEC);
}

/* From now on, let the allocation with this number fail in this thread. */
static inline bool nth_arm(int nth, int number)
{
	char text[16];

	snprintf(text, sizeof(text), "%d", number);
	return pwrite(nth, text, strlen(text), 0) > 0;
}

/*
 * Return true if an allocation has failed, and let no further ones fail. The kernel counts
 * the number in the file down and fails the allocation that makes it 0. Reading the file
 * counts as well; if that read fails, no other allocation has failed.
 */
static inline bool nth_disarm(int nth)
{
	char text[16] = "";
	bool failed = pread(nth, text, sizeof(text) - 1, 0) > 0 && atoi(text) == 0;

	while (pwrite(nth, "0", 1, 0) != 1)
		;
	return failed;
}

#endif /* KARENA_SELFTESTS_FAULTS_H */
