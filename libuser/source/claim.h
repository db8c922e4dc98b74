/* SPDX-License-Identifier: MIT */
/*
 * Claimed windows: addresses chosen at random, far from those that the kernel chooses. A source
 * maps only what it needs there.
 */
#ifndef KARENA_CLAIM_H
#define KARENA_CLAIM_H

#include "source/source.h"

bool ka_claim(struct ka_window *window);
void ka_unclaim(struct ka_window *window);

#endif /* KARENA_CLAIM_H */
