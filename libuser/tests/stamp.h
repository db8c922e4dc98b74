/* SPDX-License-Identifier: MIT */
/*
 * Numbers in the pages of a run, which reveal overlaps and losses.
 */
#ifndef KARENA_TESTS_STAMP_H
#define KARENA_TESTS_STAMP_H

#include "common.h"

/* Both ends of each page have the number. */
static inline void stamp(char *run, size_t size, unsigned int value)
{
	for (size_t i = 0; i < size; i += KA_PAGE_SIZE) {
		memcpy(run + i, &value, sizeof(value));
		memcpy(run + i + KA_PAGE_SIZE - sizeof(value), &value,
		       sizeof(value));
	}
}

static inline size_t wrong_stamps(const char *run, size_t size, unsigned int value)
{
	size_t wrong = 0;

	for (size_t i = 0; i < size; i += KA_PAGE_SIZE)
		wrong += memcmp(run + i, &value, sizeof(value)) ||
			 memcmp(run + i + KA_PAGE_SIZE - sizeof(value), &value,
				sizeof(value));
	return wrong;
}

#endif
