/* SPDX-License-Identifier: MIT */
/*
 * System calls that an allocation makes. A program or a preloaded library may replace libc's
 * functions by functions that allocate, and the caller may hold the lock of a heap; so the
 * library calls the kernel itself. None of these functions is a cancellation point.
 */
#ifndef KARENA_SYS_H
#define KARENA_SYS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/types.h>

/* Like libc's functions of these names; on failure they set errno. */
void *ka_mmap(void *start, size_t size, int protection, int flags);
int ka_munmap(void *start, size_t size);
int ka_mprotect(void *start, size_t size, int protection);
int ka_madvise(void *start, size_t size, int advice);
int ka_munlock(void *start, size_t size);

/* Grow the last @size bytes of a mapping to @new_size, where they are. False on failure. */
bool ka_grow(void *start, size_t size, size_t new_size);

/* True if pages belong to one mapping. */
bool ka_is_one_mapping(void *start, size_t size);

/*
 * Move the memory of pages of one mapping, which are zero afterwards. False on failure: the
 * kernel may have unmapped the pages at @to before it refused. (If the pages belong to several
 * mappings, Linux 6.17 and later may move some before they refuse.)
 */
bool ka_move(void *from, void *to, size_t size);
ssize_t ka_write(int fd, const void *bytes, size_t size);

/* Fill @bytes with random bytes: 0; -1 if the kernel has none, or a sandbox forbids it. */
int ka_random(void *bytes, size_t size);

/*
 * ka_wait() sleeps while @word has @value, until ka_wake() wakes the thread or @ns nanoseconds
 * have passed; 0: without a limit. ka_wake() wakes one thread. Both keep errno.
 */
void ka_wait(uint32_t *word, uint32_t value, long ns);
void ka_wake(uint32_t *word);

/* Any other system call: the kernel's result, or -1 with errno. */
long ka_syscall(long number, long a, long b, long c);

/* Nanoseconds of CLOCK_MONOTONIC; ka_clock_coarse() has the value of the last tick. */
uint64_t ka_clock(void);
uint64_t ka_clock_coarse(void);

#endif /* KARENA_SYS_H */
