/* SPDX-License-Identifier: MIT */
/*
 * Size classes: multiples of 16 bytes up to 128, then eight for each doubling, up to 256 KiB.
 * Above 128 bytes, a block is at most an eighth larger than the size that was asked for. Powers
 * of two are classes, and their blocks are aligned to their size.
 *
 * jemalloc introduced this geometric spacing.
 */
#ifndef KARENA_CLASS_H
#define KARENA_CLASS_H

#include <stddef.h>

#define KA_CLASS_STEP	((size_t)16)
#define KA_LINEAR	8		/* classes that are multiples of the step */
#define KA_BLOCK_MAX	((size_t)256 << 10)
#define KA_CLASSES	(KA_LINEAR + 11 * 8)

/* Up to this size, a table in steps of 16 bytes finds the pool of a size. */
#define KA_DIRECT_MAX	((size_t)1024)
#define KA_DIRECT	(KA_DIRECT_MAX / KA_CLASS_STEP + 1)
#define KA_DIRECT_CLASS	ka_class_of(KA_DIRECT_MAX)	/* the last class in the table */
/* Number of larger classes: eight doublings of KA_DIRECT_MAX, eight classes for each. */
#define KA_LARGER	(8 * 8)
#define KA_FIRST_LARGER	(KA_CLASSES - KA_LARGER)

/* The class of a size from 1 to KA_BLOCK_MAX. */
static inline unsigned int ka_class_of(size_t size)
{
	unsigned int top;

	if (size <= KA_LINEAR * KA_CLASS_STEP)
		return (unsigned int)((size - 1) / KA_CLASS_STEP);
	top = 63 - (unsigned int)__builtin_clzl(size - 1);
	return KA_LINEAR + (top - 7) * 8 + (unsigned int)((size - 1) >> (top - 3) & 7);
}

/* The size of a class's blocks. */
static inline size_t ka_class_size(unsigned int class)
{
	unsigned int top = 7 + (class - KA_LINEAR) / 8;
	unsigned int step = (class - KA_LINEAR) % 8 + 1;

	if (class < KA_LINEAR)
		return (class + 1) * KA_CLASS_STEP;
	return ((size_t)1 << top) + ((size_t)step << (top - 3));
}

#endif /* KARENA_CLASS_H */
