/* SPDX-License-Identifier: MIT */
/*
 * The checked build, libkarena-malloc-checked.so. All of its files are compiled with KA_CHECKED
 * set to 1. Its additional code depends on that constant, or is called from such code:
 *
 *	pool/pool.h		encodes the links of free blocks
 *	pool/freelist.c	clears used memory before it becomes blocks of a pool
 *	thread/alloc.c		checks all free blocks of a pool, not only some, before the
 *				pool becomes the current one again
 *	thread/cache.h		checks a link when it allocates the block
 *	check/checked.c		clears blocks when they are freed, puts a tail behind each, and
 *				puts guards around runs
 *	adapters/malloc.c	calls check/checked.c instead of the functions for plain blocks
 */
#ifndef KARENA_CHECKED_H
#define KARENA_CHECKED_H

#include "heap/heap.h"

/* checked.c; on failure they return NULL, -1 or 0, with errno and a message. */
void *ka_checked_alloc(struct ka_heap *heap, size_t align, size_t size);
int ka_checked_free(struct ka_heap *heap, void *block);
void *ka_checked_resize(struct ka_heap *heap, void *block, size_t size);
size_t ka_checked_size(struct ka_heap *heap, const void *block);

#endif /* KARENA_CHECKED_H */
