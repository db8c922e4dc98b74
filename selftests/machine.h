/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The machine that a test runs on, for the tests of the module and of the library.
 */
#ifndef KARENA_MACHINE_H
#define KARENA_MACHINE_H

#include <stdbool.h>
#include <unistd.h>

/*
 * For loops that wait for another thread, or that keep a processor busy until another
 * thread stops them. Where one host thread emulates all processors in turn, the next
 * processor has its turn at once, not when 100 ms are over.
 */
static inline void relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield" ::: "memory");
#endif
}

/* A debug kernel takes ten times as long as others, and finds what they do not. */
static inline bool kernel_is_slow(void)
{
	return !access("/sys/kernel/debug/kmemleak", F_OK);
}

#endif /* KARENA_MACHINE_H */
