// SPDX-License-Identifier: MIT
/*
 * Stacks of calls, each stored once: a program allocates millions of blocks in some thousand
 * places.
 */
#include <errno.h>
#include <execinfo.h>
#include <string.h>
#include <sys/mman.h>

#include "check/debug.h"

#define DEPTH	16

/* Maximum number of the hooks' own frames. */
#define OWN	8

#define NR_BUCKETS	((size_t)1 << 14)

static const struct ka_callers **buckets;

/* The first call of backtrace() loads a library, which allocates. */
static bool primed;
static __thread bool busy;

void ka_callers_prime(void)
{
	void *frames[2];

	if (__atomic_load_n(&primed, __ATOMIC_ACQUIRE) || busy)
		return;
	busy = true;
	(void)backtrace(frames, 2);
	busy = false;
	__atomic_store_n(&primed, true, __ATOMIC_RELEASE);
}

static uint32_t hash_of(void *const *frames, uint32_t depth)
{
	uint64_t hash = depth;

	for (uint32_t i = 0; i < depth; i++)
		hash = (hash ^ (uintptr_t)frames[i]) * 0x9e3779b97f4a7c15ULL;
	return (uint32_t)(hash >> 32);
}

/* Find a stack, or add it. The lock is held. NULL without memory. */
static const struct ka_callers *keep(void *const *frames, uint32_t depth)
{
	uint32_t hash = hash_of(frames, depth);
	size_t bytes = depth * sizeof(void *);
	const struct ka_callers **bucket;
	struct ka_callers *stack;

	if (!buckets)
		buckets = ka_records_room(NR_BUCKETS * sizeof(const struct ka_callers *));
	if (!buckets)
		return NULL;
	bucket = &buckets[hash % NR_BUCKETS];
	for (const struct ka_callers *seen = *bucket; seen; seen = seen->next) {
		if (seen->hash == hash && seen->depth == depth &&
		    !memcmp(seen->frames, frames, bytes))
			return seen;
	}
	stack = ka_records_room(sizeof(*stack) + bytes);
	if (!stack)
		return NULL;
	stack->hash = hash;
	stack->depth = depth;
	memcpy(stack->frames, frames, bytes);
	stack->next = *bucket;
	*bucket = stack;
	return stack;
}

/* The first frame that is not one of the hooks'. Frame 0 is always this file's. */
static int first_of(void *const *frames, int depth, const void *caller)
{
	for (int i = 0; i < depth && i < OWN; i++) {
		if (frames[i] == caller)
			return i;
	}
	return depth > 1 ? 1 : 0;
}

/**
 * ka_callers_here() - Get the stack of a call.
 * @caller: Return address of the hook that the program called.
 *
 * Keeps errno. Takes the lock of the records.
 *
 * Return: The stack from @caller on; only @caller before ka_callers_prime() has finished. NULL
 * without memory.
 */
const struct ka_callers *ka_callers_here(const void *caller)
{
	void *frames[OWN + DEPTH] = { (void *)caller };
	const struct ka_callers *stack;
	int depth = 1, first = 0, before = errno;

	if (!busy && __atomic_load_n(&primed, __ATOMIC_ACQUIRE)) {
		busy = true;
		depth = backtrace(frames, OWN + DEPTH);
		busy = false;
		first = first_of(frames, depth, caller);
	}
	if (depth - first > DEPTH)
		depth = first + DEPTH;
	ka_records_lock();
	stack = keep(&frames[first], (uint32_t)(depth - first));
	ka_records_unlock();
	errno = before;
	return stack;
}
