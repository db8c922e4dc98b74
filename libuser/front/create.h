/* SPDX-License-Identifier: MIT */
/*
 * Heaps in memory of the caller's, as the adapters use them.
 */
#ifndef KARENA_CREATE_H
#define KARENA_CREATE_H

#include "heap/heap.h"

int ka_heap_open(struct ka_heap *heap, const struct ka_options *wanted, bool forgive);

#endif /* KARENA_CREATE_H */
