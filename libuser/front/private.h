/* SPDX-License-Identifier: MIT */
/*
 * What libkarena-uring and the adapters need of libkarena's insides: exported, but under
 * a version of its own and for the same release alone.
 */
#ifndef KARENA_PRIVATE_H
#define KARENA_PRIVATE_H

#include <karena/karena.h>

#pragma GCC visibility push(default)

/* Leave a sentence for ka_error(), and errno; -1. */
int ka_private_fail(int error, const char *sentence);

/*
 * The source of a heap for all that a program allocates, where nobody has chosen one: AUTO
 * if as much as that may be locked, else EMBEDDED. A privilege counts if it @may_be_kept.
 */
enum ka_source ka_private_source(bool may_be_kept);

/* A heap's first address, and its size in bytes. */
char *ka_private_window(const struct ka_heap *heap, size_t *size);

/*
 * The first committed bytes at or behind *from, in bytes from the window's start: how
 * many there are in a row, and in *from where they begin. 0 when there are none.
 */
size_t ka_private_committed(struct ka_heap *heap, size_t *from);

#pragma GCC visibility pop

#endif /* KARENA_PRIVATE_H */
