/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Properties of the machine that runs a test, for tests of the module and the library.
 */
#ifndef KARENA_MACHINE_H
#define KARENA_MACHINE_H

#include <stdbool.h>
#include <unistd.h>

/*
 * For loops that wait for another thread, or that keep a processor busy until another
 * thread stops them. Where one host thread emulates all processors in turn, this lets the
 * next processor run at once instead of after 100 ms.
 */
static inline void relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield" ::: "memory");
#endif
}

/* A debug kernel takes ten times as long as others, and finds more errors. */
static inline bool kernel_is_slow(void)
{
	return !access("/sys/kernel/debug/kmemleak", F_OK);
}

#endif /* KARENA_MACHINE_H */
