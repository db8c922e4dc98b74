/* SPDX-License-Identifier: MIT */
/*
 * The private interface for libkarena-uring and the adapters. These symbols are exported with a
 * version of their own, for libraries of the same release only.
 */
#ifndef KARENA_PRIVATE_H
#define KARENA_PRIVATE_H

#include <karena/karena.h>

#pragma GCC visibility push(default)

/* Set the message of ka_error(), and errno. Returns -1. */
int ka_private_fail(int error, const char *message);

/*
 * Choose the source of a heap for all memory of a program. AUTO if KARENA_SOURCE names one, or
 * if the process may lock 1 GiB; else EMBEDDED. A privilege to lock memory counts if it
 * @may_be_kept.
 */
enum ka_source ka_private_source(bool may_be_kept);

/* The first address of a heap's window, and its size in bytes. */
char *ka_private_window(const struct ka_heap *heap, size_t *size);

/*
 * Find the first committed bytes at or behind *from, an offset in bytes from the window's
 * start. Returns the length of this row of committed bytes and sets *from to its offset; 0:
 * there are none.
 */
size_t ka_private_committed(struct ka_heap *heap, size_t *from);

#pragma GCC visibility pop

#endif /* KARENA_PRIVATE_H */
