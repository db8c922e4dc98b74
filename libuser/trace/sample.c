// SPDX-License-Identifier: MIT
/*
 * Which blocks are traced: one at each event of a Poisson process over the allocated bytes.
 * With an interval i, a block of s bytes is traced with the probability p = 1 - exp(-s/i), and
 * counts as 1/p blocks, so that no sum has a bias. A Poisson process has no memory, so each
 * thread has its own, and may begin a new one at any time.
 *
 * The logarithm and the exponential function are computed here: libkarena links only libc, and
 * libc's are in libm.
 */
#include <math.h>
#include <time.h>
#include <unistd.h>

#include "trace/trace.h"

#define LN2	0.69314718055994530942

/* Bits of a random number: as many as a double holds. */
#define BITS	53

static __thread uint64_t state;

/* Set the state of the calling thread's generator. */
void ka_sample_seed(uint64_t seed)
{
	state = seed ? seed : 1;
}

/* SplitMix64 (Steele, Lea, Flood 2014). */
static uint64_t scramble(uint64_t value)
{
	value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9ULL;
	value = (value ^ value >> 27) * 0x94d049bb133111ebULL;
	return value ^ value >> 31;
}

static uint64_t random_bits(void)
{
	if (__builtin_expect(!state, 0))
		ka_sample_seed(scramble(ka_clock()) ^ ka_thread() ^ (uint64_t)getpid() << 48);
	state += 0x9e3779b97f4a7c15ULL;
	return scramble(state) >> (64 - BITS);
}

/* The natural logarithm of a number from 1 on. */
static double logarithm(uint64_t number)
{
	int top = 63 - __builtin_clzl(number);
	double mantissa = (double)number / (double)((uint64_t)1 << top), z, square;
	double sum = 0;

	if (mantissa > M_SQRT2) {
		mantissa /= 2;
		top++;
	}
	/* 2 artanh(z), |z| < 0.172: the next term is less than 1e-15. */
	z = (mantissa - 1) / (mantissa + 1);
	square = z * z;
	for (int n = 17; n > 0; n -= 2)
		sum = sum * square + 1.0 / n;
	return 2 * z * sum + top * LN2;
}

/**
 * ka_sample_next() - Draw the number of bytes until the next event.
 * @interval: Average number of bytes between two events.
 *
 * Return: The number of whole bytes before the event: a larger block contains it. 0 for an
 * interval of 1, since each block then contains an event.
 */
size_t ka_sample_next(size_t interval)
{
	if (interval == 1)
		return 0;
	return (size_t)((BITS * LN2 - logarithm(random_bits() + 1)) * (double)interval);
}

/* 1 - exp(-x). */
static double probability(double x)
{
	double sum = 0, half;

	if (x > 40)
		return 1;
	if (x > 0.5) {
		half = probability(x / 2);
		return half * (2 - half);
	}
	/* x - x^2/2! + x^3/3! - ..., from its last term. */
	for (int n = 16; n > 0; n--)
		sum = (1 - sum) * x / n;
	return sum;
}

/**
 * ka_sample_weight() - Compute for how many blocks a traced one counts.
 * @size: Bytes of the block, at least 1.
 * @interval: Average number of bytes between two events.
 *
 * Return: The number of blocks, in parts of KA_WEIGHT_ONE.
 */
uint64_t ka_sample_weight(size_t size, size_t interval)
{
	if (interval == 1)
		return KA_WEIGHT_ONE;
	return (uint64_t)((double)KA_WEIGHT_ONE /
			  probability((double)size / (double)interval) + 0.5);
}
