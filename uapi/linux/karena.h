/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * karena: arenas of physical memory for the heaps of language runtimes.
 *
 * A heap is a file, as a memfd is: KARENA_CREATE on /dev/karena returns its
 * descriptor, one mmap() reserves its window, and the descriptor may be closed;
 * the mapping keeps the heap alive. From then on madvise() drives it:
 *
 *	MADV_POPULATE_WRITE	commits the arenas whose state word says REQUESTED
 *	MADV_REMOVE		releases arenas
 *
 * and stores to the state words give arenas back and take them back.
 *
 * Every call takes a struct whose first member is its size. A kernel that knows
 * a shorter struct accepts a longer one whose tail is zero; a kernel that knows
 * a longer one takes what is missing as zero. What the errors mean, for every
 * call:
 *
 *	ENOTTY	the kernel does not know the call
 *	E2BIG	the struct has a non-zero tail that the kernel does not know
 *	EINVAL	a size below the call's first version, an unknown flag, a reserved
 *		member that is not zero, or a value outside what the member allows
 *	EFAULT	the struct's memory cannot be read or written
 *	EPERM	the heap belongs to another process
 *	ENOMEM	no memory, for the kernel's own structures or within a limit
 */
#ifndef _UAPI_LINUX_KARENA_H
#define _UAPI_LINUX_KARENA_H

#include <linux/ioctl.h>
#include <linux/types.h>

/** KARENA_ABI_VERSION - Changes when old programs would no longer work. */
#define KARENA_ABI_VERSION	1

/** KARENA_DEVICE - Where the device node stands. */
#define KARENA_DEVICE		"/dev/karena"

/** KARENA_ARENA_SHIFT - Base 2 logarithm of the size of an arena in bytes. */
#define KARENA_ARENA_SHIFT	21

/** KARENA_ARENA_SIZE - Size and alignment of an arena in bytes: 2 MiB. */
#define KARENA_ARENA_SIZE	0x200000UL

/** KARENA_NAME_SIZE - Size of a heap's name in bytes, its final NUL included. */
#define KARENA_NAME_SIZE	32

/** KARENA_FEATURE_VOLATILE - Volatile arenas are taken when memory is short. */
#define KARENA_FEATURE_VOLATILE	0x1UL

/**
 * struct karena_info - What the module offers (KARENA_INFO).
 * @size: Size of this struct in bytes, set by the caller.
 * @flags: Must be 0.
 * @abi_version: Out: KARENA_ABI_VERSION of the module.
 * @reserved: Must be 0; out: 0.
 * @features: Out: a bit for each optional feature (KARENA_FEATURE_*); a bit that
 *	the caller does not know says nothing to it.
 * @arena_size: Out: size of an arena in bytes.
 * @window_max: Out: size in bytes of the largest window.
 * @limit: Out: bytes that all heaps together may commit.
 * @committed: Out: bytes that all heaps together have committed now.
 */
struct karena_info {
	__u32 size;
	__u32 flags;
	__u32 abi_version;
	__u32 reserved;
	__u64 features;
	__u64 arena_size;
	__u64 window_max;
	__u64 limit;
	__u64 committed;
};

/**
 * struct karena_create - Make a heap (KARENA_CREATE).
 * @size: Size of this struct in bytes, set by the caller.
 * @flags: Must be 0.
 * @window: Size of the window in bytes, a multiple of the arena's size.
 *	EFBIG: above window_max of struct karena_info.
 * @limit: Bytes that the heap may commit; 0: as many as the window has. EINVAL:
 *	below the size of an arena.
 * @name: Shown in sysfs and, after "karena:", in /proc/PID/maps. Printable ASCII
 *	without '/', ending in NUL; may be empty.
 * @id: Out: the heap's number, never given twice while the module is loaded, and
 *	the name of its directory in sysfs.
 * @control_offset: Out: where the control region begins in the file.
 * @control_size: Out: size of the control region in bytes.
 *
 * The call returns a descriptor, closed on exec. The heap belongs to the calling
 * process: no other can map or drive it, and a child does not inherit it.
 * The window is mapped by one mmap() of its whole size at offset 0, shared,
 * at an address that is a multiple of the arena's size (the kernel chooses such
 * a one by itself); a second time, EBUSY. The control region is mapped likewise
 * at @control_offset.
 */
struct karena_create {
	__u32 size;
	__u32 flags;
	__u64 window;
	__u64 limit;
	char name[KARENA_NAME_SIZE];
	__u64 id;
	__u64 control_offset;
	__u64 control_size;
};

/**
 * struct karena_attach - Get a descriptor of a heap again (KARENA_ATTACH).
 * @size: Size of this struct in bytes, set by the caller.
 * @flags: Must be 0.
 * @address: An address in the window of a heap of the calling process.
 * @start: Out: address of the window.
 * @window: Out: size of the window in bytes.
 * @limit: Out: bytes that the heap may commit.
 * @id: Out: the heap's number.
 * @control_offset: Out: where the control region begins in the file.
 * @control_size: Out: size of the control region in bytes.
 *
 * The call returns a descriptor, closed on exec. ENOENT: no heap's window is
 * mapped at @address.
 */
struct karena_attach {
	__u32 size;
	__u32 flags;
	__u64 address;
	__u64 start;
	__u64 window;
	__u64 limit;
	__u64 id;
	__u64 control_offset;
	__u64 control_size;
};

/** KARENA_IOC - The type of karena's ioctl numbers. */
#define KARENA_IOC		0xE9

/** KARENA_INFO - On the device; see struct karena_info. Returns 0. */
#define KARENA_INFO		_IO(KARENA_IOC, 0x10)

/** KARENA_CREATE - On the device; see struct karena_create. */
#define KARENA_CREATE		_IO(KARENA_IOC, 0x11)

/** KARENA_ATTACH - On the device; see struct karena_attach. */
#define KARENA_ATTACH		_IO(KARENA_IOC, 0x12)

/**
 * enum karena_state - What an arena is; the low bits of its state word hold one of
 * these, the others are 0 but for VOLATILE.
 * @KARENA_FREE: No memory. The kernel sets it when it has released the arena, the
 *	process when a commit has failed. A touch is SIGBUS.
 * @KARENA_REQUESTED: Set by the process on a FREE arena: MADV_POPULATE_WRITE may
 *	now commit it. A touch from user mode is still SIGBUS.
 * @KARENA_ACTIVE: Committed; set by the kernel, or by the process that takes a
 *	VOLATILE arena back.
 * @KARENA_VOLATILE: Committed, but the kernel may take it without asking. The
 *	process stores KARENA_VOLATILE_SINCE() over ACTIVE to give an arena back,
 *	and takes it back by a compare-and-swap of what it stored for ACTIVE: if
 *	that succeeds the data are intact, if it finds FREE they are gone.
 * @KARENA_BUSY: The kernel is about to take a VOLATILE arena; VOLATILE again if it
 *	cannot, else FREE. The process waits, or uses another arena.
 */
enum karena_state {
	KARENA_FREE		= 0,
	KARENA_REQUESTED	= 1,
	KARENA_ACTIVE		= 2,
	KARENA_VOLATILE		= 3,
	KARENA_BUSY		= 4,
};

/** KARENA_STATE() - The state in a state word. */
#define KARENA_STATE(word)	((word) & 7)

/**
 * KARENA_VOLATILE_SINCE() - The state word of an arena given back.
 * @nanoseconds: Of CLOCK_MONOTONIC (CLOCK_MONOTONIC_COARSE is as good): the kernel
 *	takes the arenas first that were given back first.
 */
#define KARENA_VOLATILE_SINCE(nanoseconds)				\
	((__u32)(((__u64)(nanoseconds) >> 20) << 3) | KARENA_VOLATILE)

/**
 * struct karena_control - The first page of the control region.
 * @abi_version: KARENA_ABI_VERSION of the module.
 * @arena_shift: Base 2 logarithm of the arena's size in bytes.
 * @id: The heap's number.
 * @nr_arenas: Arenas in the window.
 * @states_offset: Where in the control region, in bytes, the state words begin:
 *	one __u32 for each arena of the window, read and written with atomics.
 * @reserved: 0.
 *
 * The kernel writes these members once and never reads them. It reads the state
 * words as requests, never as the truth: what a process writes there concerns
 * its own heap alone.
 */
struct karena_control {
	__u32 abi_version;
	__u32 arena_shift;
	__u64 id;
	__u64 nr_arenas;
	__u64 states_offset;
	__u64 reserved[4];
};

#endif /* _UAPI_LINUX_KARENA_H */
