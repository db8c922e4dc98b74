/* SPDX-License-Identifier: MIT */
/*
 * What libkarena-uring needs of libkarena's insides: exported, but under a version
 * of its own and for the same release alone.
 */
#ifndef KARENA_PRIVATE_H
#define KARENA_PRIVATE_H

#include <karena/karena.h>

#pragma GCC visibility push(default)

/* Leave a sentence for ka_error(), and errno; -1. */
int ka_private_fail(int error, const char *sentence);

/* A heap's first address, and its size in bytes. */
char *ka_private_window(const struct ka_heap *heap, size_t *size);

/*
 * The first committed bytes at or behind *from, in bytes from the window's start: how
 * many there are in a row, and in *from where they begin. 0 when there are none.
 */
size_t ka_private_committed(struct ka_heap *heap, size_t *from);

#pragma GCC visibility pop

#endif /* KARENA_PRIVATE_H */
