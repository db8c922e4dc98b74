/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The kernel's fault injection: its knobs, and the one allocation of a thread's that fails
 * next. For kernels with CONFIG_FAULT_INJECTION, as the debug kernel.
 */
#ifndef KARENA_SELFTESTS_FAULTS_H
#define KARENA_SELFTESTS_FAULTS_H

#include "common.h"

#define DEBUG	"/sys/kernel/debug"

/* A knob of the kernel's, what it was, and what it is to be. */
struct knob {
	const char *path;
	const char *wanted;
	char before[32];
};

/* The first is there where copies to and from user space can fail, too. */
static struct knob knobs[] = {
	{ DEBUG "/fail_usercopy/verbose", "0" },
	{ DEBUG "/failslab/ignore-gfp-wait", "N" },
	{ DEBUG "/failslab/cache-filter", "N" },
	{ DEBUG "/failslab/verbose", "0" },
	{ DEBUG "/fail_page_alloc/ignore-gfp-wait", "N" },
	{ DEBUG "/fail_page_alloc/ignore-gfp-highmem", "N" },
	{ DEBUG "/fail_page_alloc/min-order", "0" },
	{ DEBUG "/fail_page_alloc/verbose", "0" },
	/* For who throws dice. */
	{ DEBUG "/failslab/task-filter", "Y" },
	{ DEBUG "/failslab/times", "-1" },
	{ DEBUG "/failslab/probability", "0" },
	{ DEBUG "/fail_page_alloc/task-filter", "Y" },
	{ DEBUG "/fail_page_alloc/times", "-1" },
	{ DEBUG "/fail_page_alloc/probability", "0" },
};

/* Whether the kernel has it. */
static inline bool faults_possible(void)
{
	return !access(DEBUG "/failslab", F_OK) && !access(DEBUG "/fail_page_alloc", F_OK);
}

/* Whether a copy to or from user space can fail, which says EFAULT. */
static inline bool copies_can_fail(void)
{
	return !access(DEBUG "/fail_usercopy", F_OK);
}

/* Turn all knobs to what is wanted: whether that is done. */
static inline bool knobs_turn(void)
{
	for (int i = !copies_can_fail(); i < ARRAY_SIZE(knobs); i++) {
		if (read_text(knobs[i].path, knobs[i].before, sizeof(knobs[i].before)) ||
		    write_text(knobs[i].path, knobs[i].wanted))
			return false;
	}
	return true;
}

/* Turn them back, so that nothing fails of tasks that have not asked for it meanwhile. */
static inline bool knobs_turn_back(void)
{
	int first = !copies_can_fail();
	bool done = true;

	for (int i = ARRAY_SIZE(knobs) - 1; i >= first; i--)
		done &= !write_text(knobs[i].path, knobs[i].before);
	return done;
}

/* The calling thread's file, or -1. */
static inline int nth_open(void)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/task/%d/fail-nth", gettid());
	return open(path, O_RDWR | O_CLOEXEC);
}

/* The allocation with this number fails from now on, of this thread's. */
static inline bool nth_arm(int nth, int number)
{
	char text[16];

	snprintf(text, sizeof(text), "%d", number);
	return pwrite(nth, text, strlen(text), 0) > 0;
}

/*
 * Whether one has failed; no more will. The kernel counts the file's number down, and
 * fails what makes it 0. Reading it counts, too; where that is what failed, no other has.
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
