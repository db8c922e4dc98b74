/* SPDX-License-Identifier: MIT */
/*
 * Bit maps of an arena, with a bit for each page.
 */
#ifndef KARENA_BITS_H
#define KARENA_BITS_H

#include "base/base.h"

static inline bool ka_test_bit(const uint64_t *map, size_t bit)
{
	return map[bit / 64] >> bit % 64 & 1;
}

/* Return the first bit from @from on that has the value @set; KA_ARENA_PAGES if no bit has it. */
static inline size_t ka_find_bit(const uint64_t *map, size_t from, bool set)
{
	while (from < KA_ARENA_PAGES) {
		uint64_t word = set ? map[from / 64] : ~map[from / 64];

		word >>= from % 64;
		if (word)
			return from + (size_t)__builtin_ctzll(word);
		from = (from / 64 + 1) * 64;
	}
	return KA_ARENA_PAGES;
}

/* A mask of up to @count bits of a word, from @from on; @in_word is set to their number. */
static inline uint64_t ka_mask_bits(size_t from, size_t count, size_t *in_word)
{
	size_t bits = 64 - from % 64;

	*in_word = bits < count ? bits : count;
	return (*in_word == 64 ? ~0ULL : (1ULL << *in_word) - 1) << from % 64;
}

static inline void ka_change_bits(uint64_t *map, size_t from, size_t count, bool set)
{
	while (count) {
		size_t in_word;
		uint64_t mask = ka_mask_bits(from, count, &in_word);

		if (set)
			map[from / 64] |= mask;
		else
			map[from / 64] &= ~mask;
		from += in_word;
		count -= in_word;
	}
}

/* The number of set bits. */
static inline size_t ka_count_bits(const uint64_t *map, size_t from, size_t count)
{
	size_t set = 0;

	while (count) {
		size_t in_word;
		uint64_t mask = ka_mask_bits(from, count, &in_word);

		set += (size_t)__builtin_popcountll(map[from / 64] & mask);
		from += in_word;
		count -= in_word;
	}
	return set;
}

#endif /* KARENA_BITS_H */
