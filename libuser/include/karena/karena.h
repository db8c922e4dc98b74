/* SPDX-License-Identifier: MIT */
/*
 * libkarena: a private heap of 2 MiB arenas, from the karena kernel module or,
 * without it, from plain mmap.
 *
 * A heap is a window of addresses, of which arenas are committed as they are
 * needed. Runs of whole pages are cut from the arenas; an arena with no run in it
 * goes back, but for one that is kept for the next run. Blocks of any size lie in
 * pools, which are runs.
 *
 * Functions that fail set errno and leave one sentence, for people, in ka_error().
 * All may be called by several threads at once, but for ka_heap_destroy(), which
 * must be the last call on its heap. None may be called from a signal handler.
 *
 * Fork: the child has a copy of each heap, unless the heap was made otherwise; see
 * enum ka_fork.
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

/** KA_ARENA_SIZE - Size and alignment of an arena in bytes. */
#define KA_ARENA_SIZE	((size_t)2 << 20)

/** KA_PAGE_SIZE - Runs are multiples of this, in bytes. */
#define KA_PAGE_SIZE	((size_t)4096)

/** KA_NAME_SIZE - Size of a heap's name in bytes, its final NUL included. */
#define KA_NAME_SIZE	32

/** struct ka_heap - A heap; its members are the library's own. */
struct ka_heap;

/**
 * enum ka_source - Where a heap's arenas come from.
 * @KA_SOURCE_AUTO: The module when it can be used, else plain mmap.
 * @KA_SOURCE_DEVICE: The module: huge frames, a limit the kernel keeps, sysfs.
 * @KA_SOURCE_EMBEDDED: Plain mmap.
 */
enum ka_source {
	KA_SOURCE_AUTO		= 0,
	KA_SOURCE_DEVICE	= 1,
	KA_SOURCE_EMBEDDED	= 2,
};

/**
 * enum ka_fork - What a child has of a heap after fork().
 * @KA_FORK_COW: A copy of its own, made page by page as one of the two writes.
 *	Every call works in both. The module must know how to (KARENA_FEATURE_FORK);
 *	with an older one it is as NONE.
 * @KA_FORK_SHARE: The same memory: what one writes the other sees. The heap stays
 *	the parent's; in the child ka_run_alloc(), ka_run_free() and the calls that
 *	read the heap's notes fail with EOWNERDEAD. On plain mmap, the child cannot
 *	touch the arenas that the parent commits after the fork.
 * @KA_FORK_NONE: Nothing: the addresses are kept from being used for something
 *	else, a touch is SIGSEGV, calls on the heap fail with EOWNERDEAD.
 */
enum ka_fork {
	KA_FORK_COW		= 0,
	KA_FORK_SHARE		= 1,
	KA_FORK_NONE		= 2,
};

/**
 * struct ka_options - What a heap is to be. Begin with KA_OPTIONS.
 * @size: sizeof(struct ka_options), so that later versions can add members.
 * @source: AUTO: as the environment's KARENA_SOURCE says (auto, device, embedded).
 * @window: Bytes of address space, rounded up to whole arenas. 0: KARENA_WINDOW,
 *	or else 1 TiB, on the module 64 GiB, or less where the process has no room for
 *	that.
 * @limit: Bytes that may be committed at most, at least one arena. 0:
 *	KARENA_LIMIT, or else as many as the window has.
 * @name: Printable ASCII without '/', at most 31 characters; shown in sysfs and in
 *	/proc/PID/maps. NULL: KARENA_NAME, or else the program's name.
 * @fork: What a child has of it.
 * @io: It is for I/O buffers, which a device may pin for long. @fork must not be
 *	COW. ka_io_alloc() has a heap of this kind.
 *
 * The members from @fork on may be left out. Sizes in the environment are bytes, or
 * have a suffix K, M, G or T.
 */
struct ka_options {
	size_t size;
	enum ka_source source;
	size_t window;
	size_t limit;
	const char *name;
	enum ka_fork fork;
	bool io;
};

/**
 * KA_OPTIONS - Options that leave everything to the environment and defaults.
 *
 * In the order of the members, as C++ before C++20 knows no other way.
 */
#define KA_OPTIONS	{ sizeof(struct ka_options), KA_SOURCE_AUTO, 0, 0, NULL, \
			  KA_FORK_COW, false }

/**
 * struct ka_stats - Figures of a heap. Bytes are bytes, the rest are counts.
 * @size: sizeof(struct ka_stats), set by the caller.
 * @window: Bytes of address space.
 * @limit: Bytes that may be committed.
 * @arenas_allocated: Arenas committed since the heap was made.
 * @arenas_reclaimed: Arenas given back since then.
 * @arenas_highwater: The most arenas there have been at a time.
 * @arenas: Arenas now; the difference of the first two.
 * @runs: Runs in use.
 * @run_bytes: Bytes in these.
 * @available_bytes: Bytes of the arenas that are in no run; with @run_bytes it
 *	adds up to @arenas times KA_ARENA_SIZE.
 * @pools: Pools, which are runs that are cut into blocks of one size.
 * @pool_bytes: Bytes in these; the rest of @run_bytes is in other runs.
 * @blocks: Blocks in use of pools.
 * @block_bytes: Bytes in these, those at their ends that nobody asked for included.
 * @quantization_bytes: Bytes of pools that are too few for another block.
 * @used_bytes: Bytes in use: @block_bytes, and the runs that are no pools.
 * @free_bytes: Bytes in free blocks of pools.
 * @header_bytes: Bytes of arenas lost to headers: 0, as these are in the notes, which
 *	have arenas of their own.
 * @alignment_bytes: Bytes of arenas lost to alignment: 0, as what is left between runs
 *	is available.
 *
 * @used_bytes, @free_bytes, @available_bytes, @header_bytes, @quantization_bytes and
 * @alignment_bytes add up to @arenas times KA_ARENA_SIZE, always. These are the six
 * figures of CPython's PYTHONMALLOCSTATS.
 *
 * The members from @pools on may be left out, and those from @used_bytes on.
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
 * struct ka_class - Figures of a heap's blocks of one size.
 * @size: Bytes of a block.
 * @pools: Pools that are cut into such blocks.
 * @blocks: Blocks in use of these.
 * @free_blocks: The others; with @blocks it adds up to what @pools have room for.
 */
struct ka_class {
	size_t size;
	size_t pools;
	size_t blocks;
	size_t free_blocks;
};

/**
 * ka_heap_create() - Make a heap.
 * @options: What it is to be, or NULL for KA_OPTIONS.
 *
 * Opens /dev/karena for a moment; keeps no descriptor. Commits one page, for the
 * library's notes, beside the limit.
 *
 * Return: The heap, or NULL with errno: EINVAL, a bad option or variable of the
 * environment; ENOENT, EACCES and the like, the module cannot be used; EPROTO, it
 * is of another version; EOPNOTSUPP, it is too old for the option; EFBIG, the
 * window is too large; ENOMEM, no memory or no address space.
 */
struct ka_heap *ka_heap_create(const struct ka_options *options);

/**
 * ka_heap_destroy() - Give back a heap with all that is in it.
 * @heap: The heap, or NULL.
 */
void ka_heap_destroy(struct ka_heap *heap);

/**
 * ka_heap_source() - Where a heap's arenas come from.
 * @heap: The heap.
 *
 * Return: KA_SOURCE_DEVICE or KA_SOURCE_EMBEDDED.
 */
enum ka_source ka_heap_source(const struct ka_heap *heap);

/**
 * ka_heap_id() - A heap's number.
 * @heap: The heap.
 *
 * Return: The name of its directory in /sys/class/misc/karena/heaps, in a child
 * that of its copy; 0 without the module.
 */
uint64_t ka_heap_id(const struct ka_heap *heap);

/**
 * ka_heap_contains() - Whether an address is in a heap's window.
 * @heap: The heap.
 * @address: Any address.
 *
 * Return: True for all addresses of the window, whether committed or not. The
 * notes at its start do not count.
 */
bool ka_heap_contains(const struct ka_heap *heap, const void *address);

/**
 * ka_heap_descriptor() - A descriptor of the heap's file.
 * @heap: The heap.
 *
 * For what the module offers beyond this library: its calls on a heap, poll(),
 * io_uring; see karena(4). The library needs none and keeps none.
 *
 * Return: A new descriptor, closed on exec, to be closed by the caller; -1 with
 * errno: EOPNOTSUPP, the heap is not on the module; EOWNERDEAD, it is the
 * parent's; or as open() has it.
 */
int ka_heap_descriptor(struct ka_heap *heap);

/**
 * ka_heap_stats() - Read a heap's figures.
 * @heap: The heap.
 * @stats: Filled in; its member size must be set.
 *
 * Other threads go on: their blocks are counted at some moment of the call.
 *
 * Return: 0, or -1 with errno: EINVAL, that size is no version's; EOWNERDEAD, the
 * heap is the parent's.
 */
int ka_heap_stats(struct ka_heap *heap, struct ka_stats *stats);

/**
 * ka_heap_classes() - Read a heap's figures size by size, as ka_heap_stats() does.
 * @heap: The heap.
 * @classes: Filled in, the smallest size first, whether there are pools of it or not.
 * @nr: How many there is room for.
 *
 * Blocks that are larger than the last size are runs, which struct ka_stats has.
 *
 * Return: How many sizes there are, which may be more than @nr; -1 with errno:
 * EOWNERDEAD, the heap is the parent's.
 */
int ka_heap_classes(struct ka_heap *heap, struct ka_class *classes, size_t nr);

/**
 * ka_heap_print_stats() - Write a heap's figures as text.
 * @heap: The heap.
 * @fd: The descriptor to write to. The heap is not locked while it is written.
 *
 * The layout is that of CPython's PYTHONMALLOCSTATS; ka_domain_stats() says when the
 * domains have a section. With KARENA_MALLOCSTATS in the environment, other than empty
 * and "0", it is written to the standard error when the heap has its first arena, each
 * time the most arenas it has had have doubled, and at exit. Allocates nothing.
 *
 * Return: 0, or -1 with errno: EOWNERDEAD, the heap is the parent's; or as write() has
 * it.
 */
int ka_heap_print_stats(struct ka_heap *heap, int fd);

/**
 * ka_heap_malloc() - Take a block.
 * @heap: The heap.
 * @size: Bytes; 0 is as 1.
 *
 * Return: The block, aligned to 16 bytes and, if its size is a power of two, to that;
 * above 256 KiB, to a page. What is in it is not defined. NULL with errno: ENOMEM, no
 * memory, no room in the window, or the limit; EOWNERDEAD, the heap is the parent's.
 */
void *ka_heap_malloc(struct ka_heap *heap, size_t size);

/**
 * ka_heap_calloc() - Take a block that is all zero.
 * @heap: The heap.
 * @count: How many items it is for.
 * @size: Bytes of each; an overflow of the product is ENOMEM.
 *
 * Return: As ka_heap_malloc().
 */
void *ka_heap_calloc(struct ka_heap *heap, size_t count, size_t size);

/**
 * ka_heap_realloc() - Change the size of a block.
 * @heap: The heap.
 * @block: The block; NULL: as ka_heap_malloc().
 * @size: Bytes; 0 is as 1.
 *
 * Return: The block, perhaps elsewhere, with its content up to the smaller of both
 * sizes. NULL with errno, and the block as it was: as ka_heap_malloc(), or EINVAL, no
 * block begins there.
 */
void *ka_heap_realloc(struct ka_heap *heap, void *block, size_t size);

/**
 * ka_heap_aligned_alloc() - Take a block with an alignment.
 * @heap: The heap.
 * @align: In bytes, a power of two.
 * @size: Bytes; 0 is as 1.
 *
 * Return: As ka_heap_malloc(), or NULL with EINVAL, a bad alignment.
 */
void *ka_heap_aligned_alloc(struct ka_heap *heap, size_t align, size_t size);

/**
 * ka_heap_free() - Give back a block.
 * @heap: The heap.
 * @block: Of any thread; NULL does nothing.
 *
 * Return: 0; -1 with errno: EINVAL, no block begins there, or it is free already, as far as
 * that is seen at once; EOWNERDEAD, the heap is the parent's. What is seen later ends the
 * program: see *Misuse* in library.rst.
 */
int ka_heap_free(struct ka_heap *heap, void *block);

/**
 * ka_heap_block_size() - How many bytes of a block can be used.
 * @heap: The heap.
 * @block: The block.
 *
 * Return: Bytes, at least those that were asked for; 0 with errno: EINVAL, no block
 * begins there; EOWNERDEAD, the heap is the parent's.
 */
size_t ka_heap_block_size(struct ka_heap *heap, const void *block);

/**
 * ka_trim() - Give back all memory that the heap keeps for later.
 * @heap: The heap.
 *
 * That of free pages, of empty arenas, of empty pools (but those from which other threads
 * last took blocks) and, but on the module, of the pages behind the last block in use of
 * the calling thread's pools. By itself, a heap gives back what nobody has needed for a
 * fifth of a second, or what is more than 8 MiB and an eighth of what is in use; but only
 * when it is called, for it has no thread of its own. The idea is that of malloc_trim(3).
 *
 * Return: How many bytes have been given back; 0, also with errno, EOWNERDEAD, if the
 * heap is the parent's.
 */
size_t ka_trim(struct ka_heap *heap);

/**
 * ka_heap_idle() - Say that the calling thread will not take blocks for a while.
 * @heap: The heap.
 *
 * Its pools, which it would take blocks from next, are left to the other threads, and
 * those that are empty go back to the heap. Its next call that takes a block is as a
 * thread's first. The idea is that of TCMalloc's MarkThreadIdle() and of jemalloc's
 * thread.idle.
 *
 * Return: 0; or -1 with errno: EOWNERDEAD, the heap is the parent's.
 */
int ka_heap_idle(struct ka_heap *heap);

/**
 * ka_run_alloc() - Take a run of pages.
 * @heap: The heap.
 * @size: Bytes, a multiple of KA_PAGE_SIZE; may be more than an arena.
 * @align: Alignment in bytes, a power of two; 0: KA_PAGE_SIZE.
 *
 * Return: The run, committed; what is in it is not defined. NULL with errno:
 * EINVAL, a bad size or alignment; ENOMEM, no memory, no room in the window, or
 * the limit; EOWNERDEAD, the heap is the parent's.
 */
void *ka_run_alloc(struct ka_heap *heap, size_t size, size_t align);

/**
 * ka_run_free() - Give back a run.
 * @heap: The heap.
 * @run: What ka_run_alloc() returned; NULL does nothing.
 *
 * Return: 0, or -1 with errno: EINVAL, no run begins there; EOWNERDEAD, the heap
 * is the parent's.
 */
int ka_run_free(struct ka_heap *heap, void *run);

/**
 * ka_run_size() - The size of a run.
 * @heap: The heap.
 * @run: What ka_run_alloc() returned.
 *
 * Return: Bytes; 0 with errno: EINVAL, no run begins there; EOWNERDEAD, the heap
 * is the parent's.
 */
size_t ka_run_size(struct ka_heap *heap, const void *run);

/**
 * ka_io_alloc() - Take a buffer for input and output.
 * @size: Bytes; 0 is as 1.
 *
 * Whole pages, aligned to a page, as O_DIRECT and the fixed buffers of io_uring
 * want them. All buffers of the process lie in one heap, which the first call
 * makes: on the source that KARENA_SOURCE names, with at most KARENA_IO_LIMIT bytes
 * (by default, 16 GiB). A child has none of them after fork(), so that what a
 * device writes into a buffer never meets a copy of it; its first call makes a heap
 * of its own.
 *
 * Return: The buffer; what is in it is not defined. NULL with errno: ENOMEM, no
 * memory, or the limit; or as ka_heap_create() has it.
 */
void *ka_io_alloc(size_t size);

/**
 * ka_io_calloc() - Take a buffer that is all zero.
 * @count: How many items it is for.
 * @size: Bytes of each; an overflow of the product is ENOMEM.
 *
 * Return: As ka_io_alloc().
 */
void *ka_io_calloc(size_t count, size_t size);

/**
 * ka_io_realloc() - Change the size of a buffer.
 * @buffer: What ka_io_alloc() returned; NULL: as ka_io_alloc().
 * @size: Bytes; 0 is as 1.
 *
 * Return: The buffer, perhaps elsewhere, with its content up to the smaller of both
 * sizes. NULL with errno, and the old buffer as it was: as ka_io_alloc() or, for
 * the buffer, ka_io_free().
 */
void *ka_io_realloc(void *buffer, size_t size);

/**
 * ka_io_free() - Give back a buffer.
 * @buffer: What ka_io_alloc() returned; NULL does nothing.
 *
 * No input or output may still go on in it.
 *
 * Return: 0, or -1 with errno: EINVAL, no buffer begins there; EOWNERDEAD, it is
 * the parent's.
 */
int ka_io_free(void *buffer);

/**
 * ka_io_size() - The size of a buffer.
 * @buffer: What ka_io_alloc() returned.
 *
 * Return: Bytes, all of which can be used; 0 with errno as ka_io_free() has it.
 */
size_t ka_io_size(const void *buffer);

/**
 * ka_error() - Why the last call of this thread that failed has failed.
 *
 * Return: A sentence without a final full stop or newline, valid until the next
 * call that fails in this thread.
 */
const char *ka_error(void);

/**
 * ka_version() - The library's version.
 *
 * Return: Such as "0.1.0".
 */
const char *ka_version(void);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif /* KARENA_KARENA_H */
