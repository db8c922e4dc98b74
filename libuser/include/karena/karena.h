/* SPDX-License-Identifier: MIT */
/* Copyright (C) 2026 The karena authors */
/**
 * DOC: Rules of all functions
 *
 * A heap is private to a process and consists of arenas of 2 MiB. The arenas come from the
 * karena kernel module or, without it, from plain mmap.
 *
 * A heap reserves a window of addresses and commits its arenas as it needs them. A run is
 * a number of whole pages in the arenas. A block has any size; blocks up to 256 KiB lie in
 * pools, which are runs cut into blocks of one size. The heap releases an arena when its
 * last run is freed, and keeps one empty arena for the next run.
 *
 * Errors: a function that fails sets errno, and ka_error() returns a message.
 *
 * Threads: several threads may call all functions at once, also on one heap. During
 * ka_heap_destroy() and ka_heap_reset(), no other thread may use the heap.
 *
 * Signals: a signal handler must not call any of these functions.
 *
 * Fork: a child has a copy of each heap, unless the creator of the heap chose otherwise
 * (enum ka_fork). If a heap belongs to the parent alone, functions fail with EOWNERDEAD in
 * the child. A thread may fork while other threads allocate.
 *
 * Structs: every struct that a caller fills in or declares begins with its size, so that
 * later versions can add members. Each has an initialiser (KA_OPTIONS, KA_STATS, ...).
 */
#ifndef KARENA_KARENA_H
#define KARENA_KARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

/**
 * KARENA_VERSION_MAJOR - First number of the version of this header.
 *
 * ka_version() returns the version of the library.
 */
#define KARENA_VERSION_MAJOR	0

/**
 * KARENA_VERSION_MINOR - Second number of the version of this header.
 */
#define KARENA_VERSION_MINOR	2

/**
 * KARENA_VERSION_PATCH - Third number of the version of this header.
 */
#define KARENA_VERSION_PATCH	0

/**
 * KARENA_VERSION - Version of this header as a string.
 */
#define KARENA_VERSION		"0.2.0"

/**
 * KARENA_VERSION_NUMBER - Version of this header as a number for #if.
 *
 * Major times 10,000, plus minor times 100, plus patch: 200 is version 0.2.0.
 */
#define KARENA_VERSION_NUMBER	(KARENA_VERSION_MAJOR * 10000 + \
				 KARENA_VERSION_MINOR * 100 + KARENA_VERSION_PATCH)

/**
 * DOC: Attributes
 *
 * The declarations have attributes by which a compiler checks callers. A program may use the
 * macros for its own functions. With a compiler that does not know an attribute, and in a
 * program that defines KARENA_NO_ATTRIBUTES before it includes a header, the macros are
 * empty. Arguments count from 1.
 */
#if defined(__GNUC__) && !defined(KARENA_NO_ATTRIBUTES)
/**
 * KA_MUST_USE - Makes the compiler warn if a caller ignores the result.
 */
#define KA_MUST_USE			__attribute__((warn_unused_result))

/**
 * KA_ALLOC_SIZE() - Names the argument with the size of the allocated memory.
 * @size: Number of that argument, which is in bytes.
 */
#define KA_ALLOC_SIZE(size)		__attribute__((alloc_size(size)))

/**
 * KA_ALLOC_PRODUCT() - Names two arguments whose product is the size of the memory.
 * @count: Number of the argument with the number of items.
 * @size: Number of the argument with the bytes of an item.
 */
#define KA_ALLOC_PRODUCT(count, size)	__attribute__((alloc_size(count, size)))

/**
 * KA_ALLOC_ALIGN() - Names the argument with the alignment of the allocated memory.
 * @align: Number of that argument, which is in bytes.
 */
#define KA_ALLOC_ALIGN(align)		__attribute__((alloc_align(align)))

/**
 * KA_MALLOC - Tells the compiler that no other pointer refers to the returned memory.
 */
#define KA_MALLOC			__attribute__((malloc))
#else
#define KA_MUST_USE
#define KA_ALLOC_SIZE(size)
#define KA_ALLOC_PRODUCT(count, size)
#define KA_ALLOC_ALIGN(align)
#define KA_MALLOC
#endif
#if defined(__GNUC__) && __GNUC__ >= 11 && !defined(__clang__) && \
	!defined(KARENA_NO_ATTRIBUTES)
/**
 * KA_FREED_BY() - Names a function that frees the returned memory.
 * @function: The function; it has to be declared already.
 * @argument: Number of its argument with the memory.
 *
 * gcc 11 and later warn of memory that is used after it was freed, or freed by a function
 * that no KA_FREED_BY() names.
 */
#define KA_FREED_BY(function, argument)	__attribute__((malloc(function, argument)))
#else
#define KA_FREED_BY(function, argument)
#endif

/**
 * KA_ARENA_SIZE - Size and alignment of an arena in bytes.
 */
#define KA_ARENA_SIZE	((size_t)2 << 20)

/**
 * KA_PAGE_SIZE - Size of a page in bytes.
 *
 * Size and alignment of a run are multiples of it.
 */
#define KA_PAGE_SIZE	((size_t)4096)

/**
 * KA_NAME_SIZE - Most bytes of the name of a heap, including the final NUL.
 */
#define KA_NAME_SIZE	32

/* A heap; its members are private. */
struct ka_heap;

/**
 * enum ka_source - Where a heap gets its arenas from.
 * @KA_SOURCE_AUTO: The module if the process can use it, else plain mmap.
 * @KA_SOURCE_DEVICE: The module. Arenas are huge pages, the kernel enforces the limit, and
 *	sysfs shows the heap.
 * @KA_SOURCE_EMBEDDED: Plain mmap.
 */
enum ka_source {
	KA_SOURCE_AUTO		= 0,
	KA_SOURCE_DEVICE	= 1,
	KA_SOURCE_EMBEDDED	= 2,
};

/**
 * enum ka_fork - What a child has of a heap after fork().
 * @KA_FORK_COW: A copy of its own. The kernel copies a page when parent or child writes
 *	to it. All functions work in both processes. A module without
 *	KARENA_FEATURE_FORK cannot copy heaps; there this means KA_FORK_NONE.
 * @KA_FORK_SHARE: The same memory: each process sees what the other writes. Only the
 *	parent manages the heap. In the child ka_run_alloc(), ka_run_free() and the
 *	functions that read the heap's metadata fail with EOWNERDEAD. On plain mmap, the
 *	child cannot touch arenas that the parent commits after the fork.
 * @KA_FORK_NONE: Nothing. The addresses stay reserved, touching them raises SIGSEGV, and
 *	functions fail with EOWNERDEAD.
 */
enum ka_fork {
	KA_FORK_COW		= 0,
	KA_FORK_SHARE		= 1,
	KA_FORK_NONE		= 2,
};

/**
 * struct ka_options - Options of a heap. Initialise them with KA_OPTIONS.
 * @size: sizeof(struct ka_options).
 * @source: Source of the arenas. AUTO: the source that KARENA_SOURCE names (auto, device,
 *	embedded).
 * @window: Address space in bytes, rounded up to whole arenas. 0: KARENA_WINDOW or, if
 *	that is not set, 1 TiB on plain mmap and 64 GiB on the module, or less if the
 *	process has less room.
 * @limit: Most bytes to commit, at least one arena, rounded down to whole arenas. 0:
 *	KARENA_LIMIT or, if that is not set, the size of the window.
 * @name: Printable ASCII without '/', at most 31 characters. Sysfs and /proc/PID/maps
 *	show it. NULL: KARENA_NAME or, if that is not set, the name of the program.
 * @fork: What a child has of the heap.
 * @io: The heap is for I/O buffers, which devices may pin for a long time. @fork must not
 *	be KA_FORK_COW. ka_io_alloc() uses such a heap.
 * @ignore_environment: Ignore KARENA_SOURCE, KARENA_WINDOW, KARENA_LIMIT, KARENA_NAME,
 *	KARENA_STATS and KARENA_MALLOCSTATS. For libraries: a user who sets a variable
 *	means the heap of the program.
 *
 * A caller may leave out the members from @fork on (@size says so). Sizes in the
 * environment are bytes, or numbers with a suffix K, M, G or T.
 */
struct ka_options {
	size_t size;
	enum ka_source source;
	size_t window;
	size_t limit;
	const char *name;
	enum ka_fork fork;
	bool io;
	bool ignore_environment;
};

/**
 * KA_OPTIONS - Options that leave everything to the environment and the defaults.
 *
 * The values are in the order of the members: C++ before C++20 has no designators.
 */
#define KA_OPTIONS	{ sizeof(struct ka_options), KA_SOURCE_AUTO, 0, 0, NULL, \
			  KA_FORK_COW, false, false }

/**
 * struct ka_stats - Statistics of a heap. Initialise it with KA_STATS.
 * @size: sizeof(struct ka_stats).
 * @window: Bytes of address space.
 * @limit: Most bytes to commit.
 * @arenas_allocated: Arenas committed since the creation of the heap.
 * @arenas_reclaimed: Arenas released since then.
 * @arenas_highwater: Most arenas committed at a time.
 * @arenas: Arenas committed now: @arenas_allocated minus @arenas_reclaimed.
 * @runs: Runs in use.
 * @run_bytes: Bytes of these runs.
 * @available_bytes: Bytes of arenas outside of runs. @run_bytes and @available_bytes add
 *	up to @arenas times KA_ARENA_SIZE.
 * @pools: Pools: runs cut into blocks of one size.
 * @pool_bytes: Bytes of these pools, included in @run_bytes.
 * @blocks: Allocated blocks in pools.
 * @block_bytes: Bytes of these blocks, including the unused bytes at their ends.
 * @quantization_bytes: Bytes at the ends of pools, too few for another block.
 * @used_bytes: Allocated bytes: @block_bytes and all runs except pools.
 * @free_bytes: Bytes of free blocks in pools.
 * @header_bytes: Bytes of arenas used by headers: 0, as metadata has its own arenas.
 * @alignment_bytes: Bytes of arenas lost to alignment: 0, as gaps between runs are
 *	available.
 *
 * @used_bytes, @free_bytes, @available_bytes, @header_bytes, @quantization_bytes and
 * @alignment_bytes always add up to @arenas times KA_ARENA_SIZE. CPython's
 * PYTHONMALLOCSTATS prints the same six numbers.
 *
 * A caller may leave out the members from @pools on, or those from @used_bytes on.
 */
struct ka_stats {
	size_t size;
	size_t window;
	size_t limit;
	size_t arenas_allocated;
	size_t arenas_reclaimed;
	size_t arenas_highwater;
	size_t arenas;
	size_t runs;
	size_t run_bytes;
	size_t available_bytes;
	size_t pools;
	size_t pool_bytes;
	size_t blocks;
	size_t block_bytes;
	size_t quantization_bytes;
	size_t used_bytes;
	size_t free_bytes;
	size_t header_bytes;
	size_t alignment_bytes;
};

/**
 * KA_STATS - Initialiser of struct ka_stats.
 *
 * Sets the size, and all other members to 0.
 */
#define KA_STATS	{ sizeof(struct ka_stats), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, \
			  0, 0, 0, 0, 0 }

/**
 * struct ka_class - Statistics of one size of blocks.
 * @size: Bytes of a block.
 * @pools: Pools of such blocks.
 * @blocks: Allocated blocks.
 * @free_blocks: Free blocks in @pools.
 */
struct ka_class {
	size_t size;
	size_t pools;
	size_t blocks;
	size_t free_blocks;
};

/**
 * ka_heap_destroy() - Destroy a heap and free all its memory.
 * @heap: The heap; NULL does nothing. No other thread may use it, and no I/O may be under way
 *	in its memory.
 *
 * A child may destroy its copy of a heap; the heap of the parent stays.
 */
void ka_heap_destroy(struct ka_heap *heap);

/**
 * ka_heap_create() - Create a heap.
 * @options: Options of the heap; NULL for KA_OPTIONS.
 *
 * Opens /dev/karena for a moment and keeps no descriptor. Commits one page of metadata,
 * which does not count against the limit.
 *
 * Return: The heap, or NULL with errno: EINVAL, an option or an environment variable is
 * invalid; ENOENT, EACCES and the like, the process cannot use the module; EPROTO, the
 * module has another version of the interface; EOPNOTSUPP, the module is too old for an
 * option, or the kernel's pages are not KA_PAGE_SIZE; EFBIG, the window is too large; ENOMEM,
 * no memory or no address space.
 */
struct ka_heap *ka_heap_create(const struct ka_options *options)
	KA_MUST_USE KA_FREED_BY(ka_heap_destroy, 1);

/**
 * ka_heap_source() - Get the source of a heap's arenas.
 * @heap: The heap.
 *
 * Return: KA_SOURCE_DEVICE or KA_SOURCE_EMBEDDED.
 */
enum ka_source ka_heap_source(const struct ka_heap *heap);

/**
 * ka_heap_id() - Get the number of a heap.
 * @heap: The heap.
 *
 * Return: The name of the heap's directory in /sys/class/misc/karena/heaps. A child's copy
 * has its own. 0 without the module.
 */
uint64_t ka_heap_id(const struct ka_heap *heap);

/**
 * ka_heap_contains() - Check whether an address lies in a heap's window.
 * @heap: The heap.
 * @address: Any address.
 *
 * Return: True for all addresses of the window, committed or not, except those of the
 * metadata at its start.
 */
bool ka_heap_contains(const struct ka_heap *heap, const void *address);

/**
 * ka_heap_of() - Find the heap of an address.
 * @address: Any address.
 *
 * Return: The heap whose window contains the address, as ka_heap_contains() says; NULL if
 * it lies in no heap of this process. Heaps of the parent count.
 */
struct ka_heap *ka_heap_of(const void *address);

/**
 * ka_heap_descriptor() - Open a descriptor of a heap's file.
 * @heap: The heap.
 *
 * A program needs it for the parts of the module's interface that this library does not
 * cover: ioctls on a heap, poll(), io_uring; see karena(4). The library keeps no descriptor.
 *
 * Return: A new descriptor with close-on-exec, which the caller closes. -1 with errno:
 * EOPNOTSUPP, the heap is not on the module; EOWNERDEAD, the heap belongs to the parent;
 * or an error of open().
 */
int ka_heap_descriptor(struct ka_heap *heap) KA_MUST_USE;

/**
 * ka_heap_set_limit() - Change the limit of a heap.
 * @heap: The heap.
 * @limit: Most bytes to commit, at least one arena, rounded down to whole arenas; 0: the
 *	size of the window.
 *
 * A heap that has committed more keeps its arenas, and commits no more until it has less.
 * On the module the kernel enforces the limit, and the call opens /dev/karena for a moment.
 * If the call fails the limit is unchanged.
 *
 * Return: 0, or -1 with errno: EINVAL, less than one arena or more than the window; EPERM,
 * root has set a lower limit; EOWNERDEAD, the heap belongs to the parent; or an error of
 * open().
 */
int ka_heap_set_limit(struct ka_heap *heap, size_t limit);

/**
 * ka_heap_stats() - Read the statistics of a heap.
 * @heap: The heap.
 * @stats: Filled in. The caller has set its size.
 *
 * Other threads do not wait: the call counts their blocks at some moment while it runs.
 *
 * Return: 0, or -1 with errno: EINVAL, the size is not that of any version; EOWNERDEAD,
 * the heap belongs to the parent.
 */
int ka_heap_stats(struct ka_heap *heap, struct ka_stats *stats);

/**
 * ka_heap_classes() - Read the statistics of a heap for each size of blocks.
 * @heap: The heap.
 * @classes: Filled in with all sizes of blocks in pools, the smallest first.
 * @nr: Entries that @classes has room for.
 * @entry_size: sizeof(struct ka_class).
 *
 * Larger blocks are runs, which struct ka_stats counts.
 *
 * Return: The number of sizes, which may be more than @nr; -1 with errno: EINVAL,
 * @entry_size is not that of any version; EOWNERDEAD, the heap belongs to the parent.
 */
int ka_heap_classes(struct ka_heap *heap, struct ka_class *classes, size_t nr,
		    size_t entry_size);

/**
 * ka_heap_print_stats() - Print the statistics of a heap.
 * @heap: The heap.
 * @fd: Descriptor to write to. The heap is not locked while the call writes.
 *
 * The layout is that of CPython's PYTHONMALLOCSTATS. The domains have a section if they
 * are counted; see ka_domain_stats(). If KARENA_MALLOCSTATS is set, and is not empty or
 * "0", the library prints the same to standard error for each heap: when it commits its
 * first arena, each time the highest number of arenas has doubled, and at exit. Printing
 * allocates no memory.
 *
 * Return: 0, or -1 with errno: EOWNERDEAD, the heap belongs to the parent; or an error of
 * write().
 */
int ka_heap_print_stats(struct ka_heap *heap, int fd);

/**
 * ka_heap_free() - Free a block.
 * @heap: The heap.
 * @block: A block that any thread allocated; NULL does nothing.
 *
 * Return: 0; -1 with errno: EINVAL, no block begins there, or the block is free already and
 * the call can see that; EOWNERDEAD, the heap belongs to the parent. A misuse that the
 * library finds later ends the program: see *Misuse* in the library's documentation.
 */
int ka_heap_free(struct ka_heap *heap, void *block);

/**
 * ka_heap_free_sized() - Free a block whose size is known.
 * @heap: The heap.
 * @block: The block; NULL does nothing.
 * @size: The size that it was allocated with, or that ka_heap_usable_size() or
 *	ka_heap_expand() returned.
 *
 * The check finds a caller that frees an object as one of a larger type. C23's
 * free_sized() is the model.
 *
 * Return: As ka_heap_free(); also EINVAL, the block is smaller than @size.
 */
int ka_heap_free_sized(struct ka_heap *heap, void *block, size_t size);

/**
 * ka_heap_realloc() - Change the size of a block.
 * @heap: The heap.
 * @block: The block; NULL allocates a block.
 * @size: New size in bytes; 0 counts as 1.
 *
 * Return: The block, perhaps at another address, aligned as by ka_heap_malloc(), with its
 * content up to the smaller size. NULL with errno, and the block is unchanged: as
 * ka_heap_malloc(), or EINVAL, no block begins there.
 */
void *ka_heap_realloc(struct ka_heap *heap, void *block, size_t size)
	KA_MUST_USE KA_ALLOC_SIZE(3) KA_FREED_BY(ka_heap_free, 2);

/**
 * ka_heap_malloc() - Allocate a block.
 * @heap: The heap.
 * @size: Bytes; 0 counts as 1.
 *
 * Return: The block. Its content is undefined. It is aligned to 16 bytes; if its size is a
 * power of two, to that size; above 256 KiB, to a page. NULL with errno: ENOMEM, no
 * memory, no room in the window, or the limit; EOWNERDEAD, the heap belongs to the parent.
 */
void *ka_heap_malloc(struct ka_heap *heap, size_t size)
	KA_MUST_USE KA_MALLOC KA_ALLOC_SIZE(2)
	KA_FREED_BY(ka_heap_free, 2) KA_FREED_BY(ka_heap_free_sized, 2)
	KA_FREED_BY(ka_heap_realloc, 2);

/**
 * ka_heap_calloc() - Allocate a zeroed block.
 * @heap: The heap.
 * @count: Number of items.
 * @size: Bytes of an item. If the product overflows, the call fails with ENOMEM.
 *
 * Return: The block, aligned as by ka_heap_malloc(); NULL with errno as ka_heap_malloc().
 */
void *ka_heap_calloc(struct ka_heap *heap, size_t count, size_t size)
	KA_MUST_USE KA_MALLOC KA_ALLOC_PRODUCT(2, 3)
	KA_FREED_BY(ka_heap_free, 2) KA_FREED_BY(ka_heap_free_sized, 2)
	KA_FREED_BY(ka_heap_realloc, 2);

/**
 * ka_heap_aligned_alloc() - Allocate an aligned block.
 * @heap: The heap.
 * @align: Alignment in bytes, a power of two.
 * @size: Bytes; 0 counts as 1. Need not be a multiple of @align.
 *
 * Return: The block. Its content is undefined. NULL with errno: EINVAL, @align is not a power
 * of two; or as ka_heap_malloc().
 */
void *ka_heap_aligned_alloc(struct ka_heap *heap, size_t align, size_t size)
	KA_MUST_USE KA_MALLOC KA_ALLOC_SIZE(3) KA_ALLOC_ALIGN(2)
	KA_FREED_BY(ka_heap_free, 2) KA_FREED_BY(ka_heap_free_sized, 2)
	KA_FREED_BY(ka_heap_realloc, 2);

/**
 * ka_heap_malloc_batch() - Allocate several blocks of one size.
 * @heap: The heap.
 * @size: Bytes of each; 0 counts as 1.
 * @blocks: Filled in.
 * @nr: Number of blocks.
 *
 * Looks up the thread's pools once. Without memory the call allocates as many as it can.
 *
 * Return: The number of allocated blocks; if that is less than @nr, with errno as
 * ka_heap_malloc().
 */
size_t ka_heap_malloc_batch(struct ka_heap *heap, size_t size, void **blocks, size_t nr)
	KA_MUST_USE;

/**
 * ka_heap_free_batch() - Free several blocks, of any sizes.
 * @heap: The heap.
 * @blocks: The blocks; a NULL among them does nothing.
 * @nr: Number of entries.
 *
 * Stops at the first entry that ka_heap_free() would refuse.
 *
 * Return: The number of entries done; if that is less than @nr, with errno as
 * ka_heap_free().
 */
size_t ka_heap_free_batch(struct ka_heap *heap, void *const *blocks, size_t nr);

/**
 * ka_heap_expand() - Make a block larger where it is.
 * @heap: The heap.
 * @block: The block.
 * @size: Bytes that it must have room for.
 *
 * Never moves the block. A block larger than 256 KiB grows into free pages behind it; a
 * smaller one has room for its usable size. jemalloc's xallocx() is the model.
 *
 * Return: The usable size, at least @size; 0 with errno: ENOMEM, there is no room, and the
 * block is unchanged; EINVAL, no block begins there; EOWNERDEAD, the heap belongs to the
 * parent.
 */
size_t ka_heap_expand(struct ka_heap *heap, void *block, size_t size);

/**
 * ka_heap_usable_size() - Get the usable size of a block.
 * @heap: The heap.
 * @block: The block.
 *
 * Return: Bytes, at least as many as the program asked for; 0 with errno: EINVAL, no block
 * begins there; EOWNERDEAD, the heap belongs to the parent.
 */
size_t ka_heap_usable_size(struct ka_heap *heap, const void *block);

/**
 * ka_good_size() - Get the usable size that a new block would have.
 * @size: Bytes; 0 counts as 1.
 *
 * A container that can use all of a block asks for this size. malloc_good_size() of macOS
 * is the model.
 *
 * Return: Bytes, at least @size; @size itself if rounding up would overflow.
 */
size_t ka_good_size(size_t size);

/**
 * ka_heap_trim() - Return all cached memory to the system.
 * @heap: The heap.
 *
 * Releases free pages, empty arenas and empty pools, except pools that other threads
 * allocated from last. On plain mmap it also releases the pages behind the last allocated
 * block of the calling thread's pools. A heap returns free memory by itself when the program
 * did not need it for a fifth of a second, or when it exceeds 8 MiB plus an eighth of the
 * memory in use; but a heap has no thread of its own and does so only inside a call.
 * malloc_trim(3) is the model.
 *
 * Return: The number of returned bytes; 0 with errno EOWNERDEAD if the heap belongs to the
 * parent.
 */
size_t ka_heap_trim(struct ka_heap *heap);

/**
 * ka_heap_reset() - Free all blocks and runs of a heap.
 * @heap: The heap. No other thread may use it.
 *
 * Does the same as ka_heap_destroy() and ka_heap_create() with the same options, but the
 * heap keeps its window, its number and its totals. A program that works in phases can free
 * all objects of a phase at its end. mimalloc's mi_heap_destroy() is the model.
 *
 * Return: 0, or -1 with errno: EINVAL, the heap is that of the domains or of
 * ka_io_alloc(); EOWNERDEAD, the heap belongs to the parent.
 */
int ka_heap_reset(struct ka_heap *heap);

/**
 * ka_heap_idle() - Tell a heap that the calling thread will not allocate for a while.
 * @heap: The heap.
 *
 * Other threads can use the thread's pools then, and its empty pools return to the heap.
 * The thread's next allocation takes as long as its first one. TCMalloc's MarkThreadIdle()
 * and jemalloc's thread.idle are the models.
 *
 * Return: 0, or -1 with errno: EOWNERDEAD, the heap belongs to the parent.
 */
int ka_heap_idle(struct ka_heap *heap);

/**
 * ka_run_free() - Free a run.
 * @heap: The heap.
 * @run: A run that ka_run_alloc() returned; NULL does nothing.
 *
 * Return: 0, or -1 with errno: EINVAL, no run begins there; EOWNERDEAD, the heap belongs
 * to the parent.
 */
int ka_run_free(struct ka_heap *heap, void *run);

/**
 * ka_run_alloc() - Allocate a run of pages.
 * @heap: The heap.
 * @size: Bytes, a multiple of KA_PAGE_SIZE; may be more than an arena.
 * @align: Alignment in bytes, a power of two; 0: KA_PAGE_SIZE.
 *
 * Return: The run, committed. Its content is undefined. NULL with errno: EINVAL, an
 * invalid size or alignment; ENOMEM, no memory, no room in the window, or the limit;
 * EOWNERDEAD, the heap belongs to the parent.
 */
void *ka_run_alloc(struct ka_heap *heap, size_t size, size_t align)
	KA_MUST_USE KA_MALLOC KA_ALLOC_SIZE(2) KA_FREED_BY(ka_run_free, 2);

/**
 * ka_run_size() - Get the size of a run.
 * @heap: The heap.
 * @run: A run that ka_run_alloc() returned.
 *
 * Return: Bytes; 0 with errno: EINVAL, no run begins there; EOWNERDEAD, the heap belongs
 * to the parent.
 */
size_t ka_run_size(struct ka_heap *heap, const void *run);

/**
 * ka_io_free() - Free an I/O buffer.
 * @buffer: A buffer that ka_io_alloc() returned; NULL does nothing. No I/O may use it any
 *	more.
 *
 * Return: 0, or -1 with errno: EINVAL, no buffer begins there; EOWNERDEAD, the buffer
 * belongs to the parent.
 */
int ka_io_free(void *buffer);

/**
 * ka_io_realloc() - Change the size of an I/O buffer.
 * @buffer: A buffer that ka_io_alloc() returned; NULL allocates a buffer.
 * @size: New size in bytes; 0 counts as 1.
 *
 * Return: The buffer, perhaps at another address, aligned to a page, with its content up to
 * the smaller size. NULL with errno, and the buffer is unchanged: as ka_io_alloc() or
 * ka_io_free().
 */
void *ka_io_realloc(void *buffer, size_t size)
	KA_MUST_USE KA_ALLOC_SIZE(2) KA_FREED_BY(ka_io_free, 1);

/**
 * ka_io_alloc() - Allocate an I/O buffer.
 * @size: Bytes; 0 counts as 1.
 *
 * A buffer is whole pages, aligned to a page, as O_DIRECT and the fixed buffers of
 * io_uring need it. All buffers of a process lie in one heap, which the first call
 * creates, on the source that KARENA_SOURCE names and with a limit of KARENA_IO_LIMIT
 * bytes (default 16 GiB). A child does not inherit buffers, so a device never writes into
 * a copied page; the child's first call creates its own heap.
 *
 * Return: The buffer. Its content is undefined. NULL with errno: ENOMEM, no memory, or the
 * limit; or as ka_heap_create().
 */
void *ka_io_alloc(size_t size)
	KA_MUST_USE KA_MALLOC KA_ALLOC_SIZE(1)
	KA_FREED_BY(ka_io_free, 1) KA_FREED_BY(ka_io_realloc, 1);

/**
 * ka_io_calloc() - Allocate a zeroed I/O buffer.
 * @count: Number of items.
 * @size: Bytes of an item. If the product overflows, the call fails with ENOMEM.
 *
 * Return: The buffer, aligned to a page; NULL with errno as ka_io_alloc().
 */
void *ka_io_calloc(size_t count, size_t size)
	KA_MUST_USE KA_MALLOC KA_ALLOC_PRODUCT(1, 2)
	KA_FREED_BY(ka_io_free, 1) KA_FREED_BY(ka_io_realloc, 1);

/**
 * ka_io_size() - Get the size of an I/O buffer.
 * @buffer: A buffer that ka_io_alloc() returned.
 *
 * Return: Bytes, all of them usable; 0 with errno as ka_io_free().
 */
size_t ka_io_size(const void *buffer);

/**
 * ka_error() - Get the message of the calling thread's last failure.
 *
 * The message is only valid after a function has failed; a success does not change it.
 *
 * Return: A message without a final full stop or newline. It stays valid until the next
 * failure in this thread.
 */
const char *ka_error(void);

/**
 * ka_version() - Get the version of the library.
 *
 * Return: A string such as "0.2.0".
 */
const char *ka_version(void);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif /* KARENA_KARENA_H */
