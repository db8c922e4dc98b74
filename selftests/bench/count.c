// SPDX-License-Identifier: GPL-2.0
/*
 * The instructions of malloc and of free, counted one by one: with the trap flag set,
 * a signal comes after each, and those outside of this program count. (A string
 * instruction counts as often as it repeats, a system call as one.) Prints for each
 * size the means of malloc and of free: when each block is freed at once, and when
 * BATCH blocks are allocated and then freed, the oldest first.
 */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define PAIRS		16
#define BATCH		512
#define WARM_UP		8	/* batches, and as many blocks freed at once */
#define TRAP_FLAG	0x100

enum part { ONE_MALLOC, ONE_FREE, BATCH_MALLOC, BATCH_FREE, NOT_COUNTED, PARTS };

static const size_t sizes[] = { 16, 1024, 4096, 16384, 40000, 65536, 262144 };

/* Where this program lies, which is linked to a fixed address. */
extern const char __executable_start[], etext[];

static volatile unsigned long counts[PARTS];
static volatile enum part part;

static void trap(int number, siginfo_t *info, void *context)
{
	uintptr_t ip = (uintptr_t)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];

	(void)number;
	(void)info;
	if (ip < (uintptr_t)__executable_start || ip >= (uintptr_t)etext)
		counts[part]++;
}

static inline void count(enum part which)
{
	part = which;
	if (which != NOT_COUNTED)
		__builtin_ia32_writeeflags_u64(__builtin_ia32_readeflags_u64() |
					       TRAP_FLAG);
}

static inline void count_no_more(void)
{
	__builtin_ia32_writeeflags_u64(__builtin_ia32_readeflags_u64() &
				       ~(unsigned long long)TRAP_FLAG);
}

/* With both ends written to, as by a program that uses it. */
static void *take(size_t size)
{
	volatile char *block = malloc(size);

	if (!block)
		abort();
	block[0] = 1;
	block[size - 1] = 1;
	return (void *)block;
}

static void pairs(size_t size, int n, enum part with_malloc, enum part with_free)
{
	for (int i = 0; i < n; i++) {
		void *block;

		count(with_malloc);
		block = take(size);
		count_no_more();
		count(with_free);
		free(block);
		count_no_more();
	}
}

static void batch(size_t size, enum part with_malloc, enum part with_free)
{
	static void *blocks[BATCH];

	count(with_malloc);
	for (int i = 0; i < BATCH; i++)
		blocks[i] = take(size);
	count_no_more();
	count(with_free);
	for (int i = 0; i < BATCH; i++)
		free(blocks[i]);
	count_no_more();
}

static void count_size(size_t size)
{
	for (int i = 0; i < PARTS; i++)
		counts[i] = 0;
	pairs(size, WARM_UP * BATCH, NOT_COUNTED, NOT_COUNTED);
	pairs(size, PAIRS, ONE_MALLOC, ONE_FREE);
	for (int i = 0; i < WARM_UP; i++)
		batch(size, NOT_COUNTED, NOT_COUNTED);
	batch(size, BATCH_MALLOC, BATCH_FREE);
	dprintf(STDOUT_FILENO, "%zu %.1f %.1f %.1f %.1f\n", size,
		(double)counts[ONE_MALLOC] / PAIRS, (double)counts[ONE_FREE] / PAIRS,
		(double)counts[BATCH_MALLOC] / BATCH, (double)counts[BATCH_FREE] / BATCH);
}

int main(void)
{
	struct sigaction action = { .sa_sigaction = trap, .sa_flags = SA_SIGINFO };

	if (sigaction(SIGTRAP, &action, NULL)) {
		perror("sigaction");
		return 1;
	}
	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++)
		count_size(sizes[i]);
	return 0;
}
