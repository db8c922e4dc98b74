/* SPDX-License-Identifier: MIT */
/*
 * System calls that an allocation makes. A program, or a library that is preloaded, may
 * replace libc's functions by its own, which may allocate while a heap is locked; so the
 * library calls the kernel itself. None of these functions is a cancellation point.
 */
#ifndef KARENA_SYS_H
#define KARENA_SYS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/types.h>

/* As libc's functions of these names: on failure with errno. */
void *ka_mmap(void *start, size_t size, int protection, int flags);
int ka_munmap(void *start, size_t size);
int ka_mprotect(void *start, size_t size, int protection);
int ka_madvise(void *start, size_t size, int advice);
int ka_munlock(void *start, size_t size);

/* Whether a mapping's last @size bytes could grow to @new_size, where they are. */
bool ka_grow(void *start, size_t size, size_t new_size);

/* Whether pages belong to one mapping. */
bool ka_is_one_mapping(void *start, size_t size);

/*
 * Move the memory of pages of one mapping; where it was, they are zero. Whether that was
 * done; if not, the kernel may have unmapped the pages at @to before it refused. (Of several
 * mappings, Linux 6.17 and later may move some before they refuse.)
 */
bool ka_move(void *from, void *to, size_t size);
ssize_t ka_write(int fd, const void *bytes, size_t size);

/* Fill @bytes with random ones: 0; or -1, if the kernel has none or must not be asked. */
int ka_random(void *bytes, size_t size);

/*
 * Sleep until woken, or for so many nanoseconds unless these are 0; not at all if the word
 * has another value. The second wakes one who sleeps so. Both leave errno alone.
 */
void ka_wait(uint32_t *word, uint32_t value, long ns);
void ka_wake(uint32_t *word);

/* Those that are seldom made: what the kernel returns, -1 with errno. */
long ka_syscall(long number, long a, long b, long c);

/* Nanoseconds of CLOCK_MONOTONIC; the second as they were at the last tick. */
uint64_t ka_clock(void);
uint64_t ka_clock_coarse(void);

#endif /* KARENA_SYS_H */
