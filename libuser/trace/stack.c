// SPDX-License-Identifier: MIT
/*
 * Stacks. Each is stored once, with the counters of its blocks, until tracing starts again.
 * Their memory does not come from malloc, whose blocks may be traced.
 */
#include <string.h>

#include "trace/trace.h"

#define CHUNK		((size_t)256 << 10)
#define FIRST_BUCKETS	((size_t)1024)

struct chunk {
	struct chunk *next;
	size_t used;
};

static struct chunk *chunks;
static struct ka_stack **buckets;
static size_t nr_buckets;
static struct ka_stack *last;
static size_t nr_stacks;
static size_t nr_all_frames;

static size_t cost;

size_t ka_trace_cost(void)
{
	return __atomic_load_n(&cost, __ATOMIC_RELAXED);
}

/* Map zeroed memory for traces; NULL if there is none. */
void *ka_trace_map(size_t size)
{
	void *start = ka_mmap(NULL, size, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);

	if (start == MAP_FAILED)
		return NULL;
	__atomic_add_fetch(&cost, size, __ATOMIC_RELAXED);
	return start;
}

void ka_trace_unmap(void *start, size_t size)
{
	if (!start)
		return;
	ka_munmap(start, size);
	__atomic_sub_fetch(&cost, size, __ATOMIC_RELAXED);
}

static struct ka_stack *stack_make(size_t count)
{
	size_t size = sizeof(struct ka_stack) + count * sizeof(void *);
	struct ka_stack *stack;

	if (!chunks || size > CHUNK - chunks->used) {
		struct chunk *chunk = ka_trace_map(CHUNK);

		if (!chunk)
			return NULL;
		chunk->next = chunks;
		chunk->used = sizeof(*chunk);
		chunks = chunk;
	}
	stack = (void *)((char *)chunks + chunks->used);
	chunks->used += size;
	return stack;
}

static uint64_t hash_of(void *const frames[], size_t count)
{
	uint64_t hash = count;

	for (size_t i = 0; i < count; i++) {
		hash = (hash ^ (uintptr_t)frames[i]) * 0x9e3779b97f4a7c15ULL;
		hash ^= hash >> 29;
	}
	return hash;
}

static bool grow(void)
{
	size_t count = nr_buckets ? nr_buckets * 2 : FIRST_BUCKETS;
	struct ka_stack **table = ka_trace_map(count * sizeof(void *)), *stack;

	if (!table)
		return nr_buckets;
	ka_trace_unmap(buckets, nr_buckets * sizeof(void *));
	buckets = table;
	nr_buckets = count;
	for (stack = last; stack; stack = stack->all) {
		struct ka_stack **bucket = &buckets[stack->hash & (count - 1)];

		stack->next = *bucket;
		*bucket = stack;
	}
	return true;
}

/**
 * ka_stack_of() - Find or add the stack with certain frames.
 * @frames: Return addresses, the innermost first.
 * @count: Number of frames.
 *
 * Context: The lock of the traces is held.
 *
 * Return: The stack, or NULL without memory.
 */
struct ka_stack *ka_stack_of(void *const frames[], size_t count)
{
	uint64_t hash = hash_of(frames, count);
	struct ka_stack *stack;

	if (nr_stacks >= nr_buckets && !grow())
		return NULL;
	for (stack = buckets[hash & (nr_buckets - 1)]; stack; stack = stack->next) {
		if (stack->hash == hash && stack->nr_frames == count &&
		    !memcmp(stack->frames, frames, count * sizeof(*frames)))
			return stack;
	}
	stack = stack_make(count);
	if (!stack)
		return NULL;
	*stack = (struct ka_stack){
		.next = buckets[hash & (nr_buckets - 1)], .all = last,
		.hash = hash, .nr_frames = count,
	};
	memcpy(stack->frames, frames, count * sizeof(*frames));
	buckets[hash & (nr_buckets - 1)] = stack;
	last = stack;
	nr_stacks++;
	nr_all_frames += count;
	return stack;
}

/**
 * ka_stacks() - Get all stacks.
 * @count: Filled in with the number of stacks.
 * @nr_frames: Filled in with the number of their frames together.
 *
 * Context: The lock of the traces is held.
 *
 * Return: The last stack, which links the others by @all; NULL if there is none.
 */
struct ka_stack *ka_stacks(size_t *count, size_t *nr_frames)
{
	*count = nr_stacks;
	*nr_frames = nr_all_frames;
	return last;
}

/**
 * ka_stacks_forget() - Free all stacks.
 *
 * Context: The lock of the traces is held. No entry may point to a stack any more.
 */
void ka_stacks_forget(void)
{
	struct chunk *chunk;

	while ((chunk = chunks)) {
		chunks = chunk->next;
		ka_trace_unmap(chunk, CHUNK);
	}
	ka_trace_unmap(buckets, nr_buckets * sizeof(void *));
	buckets = NULL;
	nr_buckets = 0;
	last = NULL;
	nr_stacks = 0;
	nr_all_frames = 0;
}
