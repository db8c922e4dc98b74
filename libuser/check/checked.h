/* SPDX-License-Identifier: MIT */
/*
 * The checked build, libkarena-malloc-checked.so: in all of its files KA_CHECKED is 1. What
 * it does more than the other one stands behind that constant, or is called there:
 *
 *	pool/pool.h		links of free blocks are encoded, and what they say is checked
 *	pool/pool.c		what has been in use is cleared before it becomes blocks;
 *				a pool that is taken from again is looked at as a whole
 *	check/checked.c		blocks are cleared when they are freed, and have a tail;
 *				runs have guards
 *	adapters/malloc.c	calls that, in place of the blocks that it knows
 */
#ifndef KARENA_CHECKED_H
#define KARENA_CHECKED_H

#include "heap/heap.h"

/* checked.c; NULL and 0 with errno and a sentence. -1 likewise, of what is no block. */
void *ka_checked_take(struct ka_heap *heap, size_t align, size_t size);
int ka_checked_give(struct ka_heap *heap, void *block);
void *ka_checked_resize(struct ka_heap *heap, void *block, size_t size);
size_t ka_checked_size(struct ka_heap *heap, const void *block);

#endif /* KARENA_CHECKED_H */
