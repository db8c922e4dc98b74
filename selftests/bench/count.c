// SPDX-License-Identifier: GPL-2.0
/*
 * Instructions of malloc and of free, counted one by one: with the trap flag set, a signal
 * follows each instruction, and those outside of this program count. (A string instruction
 * counts once per repetition, a system call as one.) Prints a line for each call with its
 * name and the mean: of PAIRS blocks that are each freed at once, or, "-batch", of BATCH
 * blocks that are all allocated and then freed, oldest first. If karena's domains are
 * preloaded, they are counted instead.
 */
#include <dlfcn.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define PAIRS		16
#define BATCH		512
#define WARM_UP		8	/* batches, and blocks freed at once */
#define TRAP_FLAG	0x100

/*
 * Large blocks take thousands of instructions, so in batches only one in EVERY is counted.
 * EVERY is no multiple of the number of blocks in a pool or an arena.
 */
#define LARGE		16384
#define EVERY		7

enum part { TAKING, GIVING, NOT_COUNTED, PARTS };

/* The functions that allocate and free a block. */
struct calls {
	const char *take_name, *give_name;	/* without the size; NULL: not printed */
	void *(*take)(size_t size);
	void (*give)(void *block);
};

static const size_t sizes[] = { 16, 1024, 4096, 16384, 40000, 65536, 262144 };

/* The address range of this program, which is linked to a fixed address. */
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

/*
 * The clock that an allocator reads: it advances by a microsecond at each call. The real
 * clock would run thousands of times too fast during counting, and differ between runs.
 */
int clock_gettime(clockid_t clock, struct timespec *time)
{
	static long looks;

	(void)clock;
	looks++;
	*time = (struct timespec){ 1000 + looks / 1000000, looks % 1000000 * 1000 };
	return 0;
}

/* karena calls this function instead of the vDSO, and never clock_gettime(). */
int ka_own_clock(clockid_t clock, struct timespec *time)
{
	return clock_gettime(clock, time);
}

static void *checked(void *block)
{
	if (!block)
		abort();
	return block;
}

/* Allocate a block and write to both of its ends, like a program that uses it. */
static void *take(const struct calls *calls, size_t size)
{
	volatile char *block = checked(calls->take(size));

	block[0] = 1;
	block[size - 1] = 1;
	return (void *)block;
}

static void pairs(const struct calls *calls, size_t size, int n, enum part taking,
		  enum part giving)
{
	for (int i = 0; i < n; i++) {
		void *block;

		count(taking);
		block = take(calls, size);
		count_no_more();
		count(giving);
		calls->give(block);
		count_no_more();
	}
}

static void batch(const struct calls *calls, size_t size, int every, enum part taking,
		  enum part giving)
{
	static void *blocks[BATCH];

	for (int i = 0; i < BATCH; i++) {
		count(i % every ? NOT_COUNTED : taking);
		blocks[i] = take(calls, size);
		count_no_more();
	}
	for (int i = 0; i < BATCH; i++) {
		count(i % every ? NOT_COUNTED : giving);
		calls->give(blocks[i]);
		count_no_more();
	}
}

static void print(const char *name, size_t size, const char *how, unsigned long n, int of)
{
	if (name)
		dprintf(STDOUT_FILENO, "%s-%zu%s %.1f\n", name, size, how, (double)n / of);
}

static void count_pairs(const struct calls *calls, size_t size)
{
	counts[TAKING] = 0;
	counts[GIVING] = 0;
	pairs(calls, size, WARM_UP * BATCH, NOT_COUNTED, NOT_COUNTED);
	pairs(calls, size, PAIRS, TAKING, GIVING);
	print(calls->take_name, size, "", counts[TAKING], PAIRS);
	print(calls->give_name, size, "", counts[GIVING], PAIRS);
}

static void count_batch(const struct calls *calls, size_t size)
{
	int every = size < LARGE ? 1 : EVERY, counted = (BATCH + every - 1) / every;

	counts[TAKING] = 0;
	counts[GIVING] = 0;
	for (int i = 0; i < WARM_UP; i++)
		batch(calls, size, every, NOT_COUNTED, NOT_COUNTED);
	batch(calls, size, every, TAKING, GIVING);
	print(calls->take_name, size, "-batch", counts[TAKING], counted);
	print(calls->give_name, size, "-batch", counts[GIVING], counted);
}

/* Write to the first word of a block, like a program that stores something. */
static void *written(void *block)
{
	*(volatile long *)checked(block) = 1;
	return block;
}

/* Resize between two sizes that each allocator rounds to the same one. */
static void count_in_place(size_t from, size_t to)
{
	counts[TAKING] = 0;
	for (int i = -WARM_UP; i < PAIRS; i++) {
		void *block = written(malloc(from));

		count(i < 0 ? NOT_COUNTED : TAKING);
		block = realloc(block, to);
		count_no_more();
		free(checked(block));
	}
	print("realloc-in-place", to, "", counts[TAKING], PAIRS);
}

/* Double the size from 16 bytes on. The copies count. */
static void count_growing(size_t to)
{
	int steps = 0;

	counts[TAKING] = 0;
	for (int i = -WARM_UP; i < PAIRS; i++) {
		void *block = written(malloc(16));

		for (size_t size = 32; size <= to; size *= 2) {
			count(i < 0 ? NOT_COUNTED : TAKING);
			block = checked(realloc(block, size));
			count_no_more();
			steps += i >= 0;
		}
		free(block);
	}
	print("realloc-growing", to, "", counts[TAKING], steps);
}

static void *zeroed(size_t size)
{
	return calloc(1, size);
}

static void *aligned(size_t size)
{
	return aligned_alloc(64, size);
}

static void count_malloc(void)
{
	const struct calls calls = { "malloc", "free", malloc, free };

	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		count_pairs(&calls, sizes[i]);
		count_batch(&calls, sizes[i]);
	}
	count_pairs(&(struct calls){ "calloc", NULL, zeroed, free }, 64);
	count_pairs(&(struct calls){ "aligned-64", NULL, aligned, free }, 128);
	count_in_place(100, 104);
	count_growing(4096);
}

static void count_domains(void)
{
	static const struct calls names[] = {
		{ "ka_raw_malloc", "ka_raw_free", NULL, NULL },
		{ "ka_mem_malloc", "ka_mem_free", NULL, NULL },
		{ "ka_obj_malloc", "ka_obj_free", NULL, NULL },
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		struct calls calls = names[i];

		calls.take = checked(dlsym(RTLD_DEFAULT, calls.take_name));
		calls.give = checked(dlsym(RTLD_DEFAULT, calls.give_name));
		count_pairs(&calls, 16);
		count_batch(&calls, 16);
	}
}

int main(void)
{
	struct sigaction action = { .sa_sigaction = trap, .sa_flags = SA_SIGINFO };

	if (sigaction(SIGTRAP, &action, NULL)) {
		perror("sigaction");
		return 1;
	}
	if (dlsym(RTLD_DEFAULT, "ka_obj_malloc"))
		count_domains();
	else
		count_malloc();
	return 0;
}
