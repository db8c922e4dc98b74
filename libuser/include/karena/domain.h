/* SPDX-License-Identifier: MIT */
/* Copyright (C) 2026 The karena authors */
/**
 * DOC: Rules of domains
 *
 * A domain is a set of four functions that a runtime allocates its memory with. As in
 * CPython, there are three: raw, mem and obj. A block must be freed by the set that allocated
 * it.
 *
 * By default all three use one heap of the process, which the first call creates. A program
 * can read and replace the allocator behind a domain at any time. The new allocator may call
 * the old one.
 *
 * The functions of the three domains differ only in the allocator that they call. They fail
 * with ENOMEM when the system has no memory left, at the limit of the heap, when the window
 * of the heap is full, and for requests of more than PTRDIFF_MAX bytes. If the heap cannot be
 * created, a call fails as ka_heap_create(), and the next call tries again. No two live blocks
 * have the same address.
 *
 * Threads: several threads may call all functions at once. Signals: a signal handler must
 * not call any of them. Fork: a child has a copy of the blocks (KA_FORK_COW).
 */
#ifndef KARENA_DOMAIN_H
#define KARENA_DOMAIN_H

#include <stddef.h>

#include <karena/karena.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

/**
 * enum ka_domain - The domains.
 * @KA_DOMAIN_RAW: Memory other than objects, and memory for a thread that holds no lock of
 *	the runtime.
 * @KA_DOMAIN_MEM: Buffers of objects.
 * @KA_DOMAIN_OBJ: Objects.
 */
enum ka_domain {
	KA_DOMAIN_RAW		= 0,
	KA_DOMAIN_MEM		= 1,
	KA_DOMAIN_OBJ		= 2,
};

/**
 * struct ka_allocator - An allocator: four functions and their first argument.
 * @context: First argument of each function; the library only passes it on.
 * @malloc: Allocate @size bytes, which may be 0.
 * @calloc: Allocate @count times @size zeroed bytes. The product does not overflow.
 * @realloc: Change the size of @block, which may be NULL.
 * @free: Free @block, which may be NULL.
 *
 * Each function accepts sizes from 0 to PTRDIFF_MAX. One that fails returns NULL, sets
 * errno and changes nothing. Several threads call them at once.
 *
 * The layout is that of CPython's PyMemAllocatorEx, so this struct never grows.
 */
struct ka_allocator {
	void *context;
	void *(*malloc)(void *context, size_t size);
	void *(*calloc)(void *context, size_t count, size_t size);
	void *(*realloc)(void *context, void *block, size_t size);
	void (*free)(void *context, void *block);
};

/**
 * ka_domain_heap() - Get the heap that the domains use by default.
 *
 * The first call creates it from the environment: KARENA_SOURCE, KARENA_LIMIT,
 * KARENA_WINDOW and KARENA_NAME. The program must not destroy it.
 *
 * Return: The heap, in a child its copy; NULL with errno as ka_heap_create().
 */
struct ka_heap *ka_domain_heap(void);

/**
 * ka_allocator_get() - Read the allocator of a domain.
 * @domain: The domain.
 * @allocator: Filled in.
 *
 * Return: 0, or -1 with errno: EINVAL, there is no such domain.
 */
int ka_allocator_get(enum ka_domain domain, struct ka_allocator *allocator);

/**
 * ka_allocator_set() - Replace the allocator of a domain.
 * @domain: The domain.
 * @allocator: The new allocator, which is copied. Calls that have begun end in the old one.
 *
 * The program frees its live blocks through the new allocator. If there are any, the new
 * allocator must pass them to the old one. PEP 445 is the model.
 *
 * Return: 0, or -1 with errno: EINVAL, there is no such domain, or a function is missing;
 * ENOMEM, no memory for the copy.
 */
int ka_allocator_set(enum ka_domain domain, const struct ka_allocator *allocator);

/**
 * ka_allocator_replace() - Replace the allocator of a domain if it is the expected one.
 * @domain: The domain.
 * @expected: The allocator that the new one calls, as ka_allocator_get() filled it in. If
 *	the domain has another one by now, the call stores that here.
 * @allocator: The new allocator, which is copied.
 *
 * If two threads each put an allocator in front of the one that they have read,
 * ka_allocator_set() loses one of the two. Here the second thread sees the first one's
 * allocator, and tries again.
 *
 * Return: 0, or -1 with errno: EAGAIN, the domain has another allocator, which is in
 * @expected now; or as ka_allocator_set().
 */
int ka_allocator_replace(enum ka_domain domain, struct ka_allocator *expected,
			 const struct ka_allocator *allocator);

/**
 * ka_heap_allocator() - Get an allocator that uses a heap.
 * @heap: The heap.
 * @allocator: Filled in with functions that call ka_heap_malloc() and so on. They may be
 *	called until the heap is destroyed.
 *
 * A program passes it to ka_allocator_set(), or to libraries that let it choose their
 * allocator. The function @free ends the program with a message if ka_heap_free() fails.
 */
void ka_heap_allocator(struct ka_heap *heap, struct ka_allocator *allocator);

/**
 * struct ka_domain_stats - Statistics of a domain. Initialise it with KA_DOMAIN_STATS.
 * @size: sizeof(struct ka_domain_stats).
 * @blocks: Allocated blocks.
 * @bytes: Usable bytes of these blocks.
 */
struct ka_domain_stats {
	size_t size;
	size_t blocks;
	size_t bytes;
};

/**
 * KA_DOMAIN_STATS - Initialiser of struct ka_domain_stats.
 *
 * Sets the size, and all other members to 0.
 */
#define KA_DOMAIN_STATS	{ sizeof(struct ka_domain_stats), 0, 0 }

/**
 * ka_domain_stats() - Read the statistics of a domain.
 * @domain: The domain.
 * @stats: Filled in. The caller has set its size.
 *
 * All domains share a heap, whose statistics cost nothing. To tell the domains apart, each
 * call has to count, so the library only does that if the environment has
 * KARENA_MALLOC=count at the first call. A block that an allocator of the program's own
 * allocates counts only if that allocator calls the old one. Calls of other threads during
 * this one may or may not be counted.
 *
 * Return: 0, or -1 with errno: EINVAL, there is no such domain, or the size is not that of
 * any version; ENODATA, domains are not counted; EOWNERDEAD, the heap belongs to the
 * parent.
 */
int ka_domain_stats(enum ka_domain domain, struct ka_domain_stats *stats);

/**
 * ka_raw_free() - Free a block of the domain raw.
 * @block: A block that any thread allocated in the domain raw; NULL does nothing.
 *
 * Leaves errno as it is. If no block begins at @block and the call can see that, it prints a
 * message to standard error and aborts the program.
 */
void ka_raw_free(void *block);

/**
 * ka_raw_realloc() - Change the size of a block of the domain raw.
 * @block: The block; NULL allocates a block.
 * @size: New size in bytes; 0 counts as 1 and does not free the block.
 *
 * If no block begins at @block and the call can see that, it prints a message to standard
 * error and aborts the program.
 *
 * Return: The block, perhaps at another address, aligned to 16 bytes, with its content up
 * to the smaller size. NULL with errno ENOMEM, and the block is unchanged.
 */
void *ka_raw_realloc(void *block, size_t size)
	KA_MUST_USE KA_ALLOC_SIZE(2) KA_FREED_BY(ka_raw_free, 1);

/**
 * ka_raw_malloc() - Allocate a block in the domain raw.
 * @size: Bytes; 0 counts as 1.
 *
 * Return: The block, aligned to 16 bytes, with undefined content; NULL with errno ENOMEM.
 */
void *ka_raw_malloc(size_t size)
	KA_MUST_USE KA_MALLOC KA_ALLOC_SIZE(1)
	KA_FREED_BY(ka_raw_free, 1) KA_FREED_BY(ka_raw_realloc, 1);

/**
 * ka_raw_calloc() - Allocate a zeroed block in the domain raw.
 * @count: Number of items; 0 counts as 1 byte.
 * @size: Bytes of an item; 0 counts as 1 byte.
 *
 * Return: The block, aligned to 16 bytes; NULL with errno ENOMEM, also if the product is
 * above PTRDIFF_MAX.
 */
void *ka_raw_calloc(size_t count, size_t size)
	KA_MUST_USE KA_MALLOC KA_ALLOC_PRODUCT(1, 2)
	KA_FREED_BY(ka_raw_free, 1) KA_FREED_BY(ka_raw_realloc, 1);

/**
 * ka_mem_free() - Free a block of the domain mem.
 * @block: A block that the domain mem allocated; NULL does nothing.
 *
 * Leaves errno as it is. If no block begins at @block and the call can see that, it prints a
 * message to standard error and aborts the program.
 */
void ka_mem_free(void *block);

/**
 * ka_mem_realloc() - Change the size of a block of the domain mem.
 * @block: A block that the domain mem allocated; NULL allocates a block.
 * @size: New size in bytes; 0 counts as 1 and does not free the block.
 *
 * If no block begins at @block and the call can see that, it prints a message to standard
 * error and aborts the program.
 *
 * Return: The block, perhaps at another address, aligned to 16 bytes, with its content up
 * to the smaller size. NULL with errno ENOMEM, and the block is unchanged.
 */
void *ka_mem_realloc(void *block, size_t size)
	KA_MUST_USE KA_ALLOC_SIZE(2) KA_FREED_BY(ka_mem_free, 1);

/**
 * ka_mem_malloc() - Allocate a block in the domain mem.
 * @size: Bytes; 0 counts as 1.
 *
 * Return: The block, aligned to 16 bytes, with undefined content; NULL with errno ENOMEM.
 */
void *ka_mem_malloc(size_t size)
	KA_MUST_USE KA_MALLOC KA_ALLOC_SIZE(1)
	KA_FREED_BY(ka_mem_free, 1) KA_FREED_BY(ka_mem_realloc, 1);

/**
 * ka_mem_calloc() - Allocate a zeroed block in the domain mem.
 * @count: Number of items; 0 counts as 1 byte.
 * @size: Bytes of an item; 0 counts as 1 byte.
 *
 * Return: The block, aligned to 16 bytes; NULL with errno ENOMEM, also if the product is
 * above PTRDIFF_MAX.
 */
void *ka_mem_calloc(size_t count, size_t size)
	KA_MUST_USE KA_MALLOC KA_ALLOC_PRODUCT(1, 2)
	KA_FREED_BY(ka_mem_free, 1) KA_FREED_BY(ka_mem_realloc, 1);

/**
 * ka_obj_free() - Free a block of the domain obj.
 * @block: A block that the domain obj allocated; NULL does nothing.
 *
 * Leaves errno as it is. If no block begins at @block and the call can see that, it prints a
 * message to standard error and aborts the program.
 */
void ka_obj_free(void *block);

/**
 * ka_obj_realloc() - Change the size of a block of the domain obj.
 * @block: A block that the domain obj allocated; NULL allocates a block.
 * @size: New size in bytes; 0 counts as 1 and does not free the block.
 *
 * If no block begins at @block and the call can see that, it prints a message to standard
 * error and aborts the program.
 *
 * Return: The block, perhaps at another address, aligned to 16 bytes, with its content up
 * to the smaller size. NULL with errno ENOMEM, and the block is unchanged.
 */
void *ka_obj_realloc(void *block, size_t size)
	KA_MUST_USE KA_ALLOC_SIZE(2) KA_FREED_BY(ka_obj_free, 1);

/**
 * ka_obj_malloc() - Allocate a block in the domain obj.
 * @size: Bytes; 0 counts as 1.
 *
 * Return: The block, aligned to 16 bytes, with undefined content; NULL with errno ENOMEM.
 */
void *ka_obj_malloc(size_t size)
	KA_MUST_USE KA_MALLOC KA_ALLOC_SIZE(1)
	KA_FREED_BY(ka_obj_free, 1) KA_FREED_BY(ka_obj_realloc, 1);

/**
 * ka_obj_calloc() - Allocate a zeroed block in the domain obj.
 * @count: Number of items; 0 counts as 1 byte.
 * @size: Bytes of an item; 0 counts as 1 byte.
 *
 * Return: The block, aligned to 16 bytes; NULL with errno ENOMEM, also if the product is
 * above PTRDIFF_MAX.
 */
void *ka_obj_calloc(size_t count, size_t size)
	KA_MUST_USE KA_MALLOC KA_ALLOC_PRODUCT(1, 2)
	KA_FREED_BY(ka_obj_free, 1) KA_FREED_BY(ka_obj_realloc, 1);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif /* KARENA_DOMAIN_H */
