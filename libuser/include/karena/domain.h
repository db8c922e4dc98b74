/* SPDX-License-Identifier: MIT */
/*
 * Domains: three families of calls that a runtime takes its memory from, raw, mem and
 * obj, as CPython has them. A block goes back through the family that it came from.
 *
 * By default all three lie in one heap of the process, which the first call makes. The
 * functions behind a family can be read and replaced at any time, also by ones that
 * call those that were there before.
 *
 * All functions may be called by several threads at once, and across fork() as the
 * heap's (KA_FORK_COW); none from a signal handler.
 */
#ifndef KARENA_DOMAIN_H
#define KARENA_DOMAIN_H

#include <karena/karena.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

/**
 * enum ka_domain - The families.
 * @KA_DOMAIN_RAW: For what is no object, and wherever no lock of the runtime is held.
 * @KA_DOMAIN_MEM: For buffers of objects.
 * @KA_DOMAIN_OBJ: For objects.
 */
enum ka_domain {
	KA_DOMAIN_RAW		= 0,
	KA_DOMAIN_MEM		= 1,
	KA_DOMAIN_OBJ		= 2,
};

/**
 * struct ka_allocator - What is behind a family.
 * @context: Passed to each of them.
 * @malloc: Take @size bytes, which may be 0.
 * @calloc: Take @count times @size bytes that are all zero; the product fits.
 * @realloc: Change the size of @block, which may be NULL.
 * @free: Give back @block, which may be NULL.
 *
 * Each must do with sizes from 0 to PTRDIFF_MAX, and return NULL with errno, and leave
 * everything as it was, when it cannot. They are called by several threads at once.
 */
struct ka_allocator {
	void *context;
	void *(*malloc)(void *context, size_t size);
	void *(*calloc)(void *context, size_t count, size_t size);
	void *(*realloc)(void *context, void *block, size_t size);
	void (*free)(void *context, void *block);
};

/**
 * ka_domain_heap() - The heap that the domains have by default.
 *
 * It is made from the environment: KARENA_SOURCE, KARENA_LIMIT, KARENA_WINDOW and
 * KARENA_NAME. It is never destroyed.
 *
 * Return: The heap; NULL with errno as ka_heap_create() has it.
 */
struct ka_heap *ka_domain_heap(void);

/**
 * ka_allocator_get() - Read what is behind a family.
 * @domain: The family.
 * @allocator: Filled in.
 *
 * Return: 0, or -1 with errno: EINVAL, there is no such family.
 */
int ka_allocator_get(enum ka_domain domain, struct ka_allocator *allocator);

/**
 * ka_allocator_set() - Replace what is behind a family.
 * @domain: The family.
 * @allocator: Copied. Calls that have begun end with what was there before.
 *
 * Blocks that are in use then come back to the new functions: unless there are none,
 * these must call those that were there before. The idea is that of PEP 445.
 *
 * Return: 0, or -1 with errno: EINVAL, there is no such family, or a function is
 * missing; ENOMEM, no memory for the copy.
 */
int ka_allocator_set(enum ka_domain domain, const struct ka_allocator *allocator);

/**
 * ka_allocator_replace() - As ka_allocator_set(), unless another thread was faster.
 * @domain: The family.
 * @expected: What the new functions call: what ka_allocator_get() has filled in. If something
 *	else is behind the family, it is filled in with that.
 * @allocator: Copied.
 *
 * Two threads that each put functions in front of those that they have read lose one pair
 * by ka_allocator_set(); by this the second one sees it, and tries again.
 *
 * Return: 0, or -1 with errno: EAGAIN, @expected is filled in anew; or as ka_allocator_set()
 * has it.
 */
int ka_allocator_replace(enum ka_domain domain, struct ka_allocator *expected,
			 const struct ka_allocator *allocator);

/**
 * struct ka_domain_stats - Figures of a family.
 * @blocks: Blocks that the program has.
 * @bytes: Bytes that can be used in these.
 */
struct ka_domain_stats {
	size_t blocks;
	size_t bytes;
};

/**
 * ka_domain_stats() - What the program has of a family.
 * @domain: The family.
 * @stats: Filled in.
 *
 * All families take from one heap, whose figures have no cost; to tell them apart each
 * call has to count, so they are told apart only where the environment, when the first
 * call is made, has KARENA_MALLOC=count. Blocks of what ka_allocator_set() put behind a
 * family are not counted but where it calls what was there before. What other threads
 * do at the same time is there or not.
 *
 * Return: 0, or -1 with errno: EINVAL, there is no such family; ENODATA, it is not
 * counted; EOWNERDEAD, the heap is the parent's.
 */
int ka_domain_stats(enum ka_domain domain, struct ka_domain_stats *stats);

/**
 * ka_raw_malloc() - Take a block.
 * @size: Bytes; 0 is as 1.
 *
 * Return: The block, aligned to 16 bytes, its content not defined, another one each
 * time; NULL with errno: ENOMEM, no memory, the limit, or more than PTRDIFF_MAX.
 */
void *ka_raw_malloc(size_t size);

/**
 * ka_raw_calloc() - Take a block that is all zero.
 * @count: How many items it is for; 0 is as 1 byte.
 * @size: Bytes of each; likewise.
 *
 * Return: As ka_raw_malloc(); a product above PTRDIFF_MAX is ENOMEM.
 */
void *ka_raw_calloc(size_t count, size_t size);

/**
 * ka_raw_realloc() - Change the size of a block.
 * @block: The block; NULL: as ka_raw_malloc().
 * @size: Bytes; 0 is as 1, and does not free.
 *
 * Return: The block, perhaps elsewhere, with its content up to the smaller of both
 * sizes; NULL with errno as ka_raw_malloc(), and the block as it was.
 */
void *ka_raw_realloc(void *block, size_t size);

/**
 * ka_raw_free() - Give back a block.
 * @block: The block; NULL does nothing.
 *
 * Keeps errno. What is no block, as far as that is seen, ends the program with a
 * sentence on the standard error.
 */
void ka_raw_free(void *block);

/** ka_mem_malloc() - As ka_raw_malloc(), of the family mem. */
void *ka_mem_malloc(size_t size);
/** ka_mem_calloc() - As ka_raw_calloc(), of the family mem. */
void *ka_mem_calloc(size_t count, size_t size);
/** ka_mem_realloc() - As ka_raw_realloc(), of the family mem. */
void *ka_mem_realloc(void *block, size_t size);
/** ka_mem_free() - As ka_raw_free(), of the family mem. */
void ka_mem_free(void *block);

/** ka_obj_malloc() - As ka_raw_malloc(), of the family obj. */
void *ka_obj_malloc(size_t size);
/** ka_obj_calloc() - As ka_raw_calloc(), of the family obj. */
void *ka_obj_calloc(size_t count, size_t size);
/** ka_obj_realloc() - As ka_raw_realloc(), of the family obj. */
void *ka_obj_realloc(void *block, size_t size);
/** ka_obj_free() - As ka_raw_free(), of the family obj. */
void ka_obj_free(void *block);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif /* KARENA_DOMAIN_H */
