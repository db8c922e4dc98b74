/* SPDX-License-Identifier: MIT */
/*
 * Windows that are claimed: addresses chosen at random, far from those that the kernel gives
 * away, where a source maps no more than it needs.
 */
#ifndef KARENA_CLAIM_H
#define KARENA_CLAIM_H

#include "source/source.h"

bool ka_claim(struct ka_window *window);
void ka_unclaim(struct ka_window *window);

#endif /* KARENA_CLAIM_H */
