/* SPDX-License-Identifier: MIT */
/*
 * Counters of the program's blocks in each domain, for KARENA_MALLOC=count.
 */
#ifndef KARENA_TALLY_H
#define KARENA_TALLY_H

#include <karena/domain.h>
#include <linux/karena.h>

#include "heap/heap.h"

extern struct ka_tally ka_tallies[KARENA_DOMAINS];

const struct ka_allocator *ka_tally_hooks(const struct ka_allocator *below,
					  struct ka_heap *(*heap)(void));

#endif /* KARENA_TALLY_H */
