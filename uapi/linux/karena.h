/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * karena: arenas of physical memory for the heaps of language runtimes.
 *
 * A heap is a file, as a memfd is: KARENA_CREATE on /dev/karena returns its
 * descriptor, mmap() maps its window, whole or in parts, and the descriptor may be
 * closed; the mapping keeps the heap alive. From then on madvise() drives it:
 *
 *	MADV_POPULATE_WRITE	commits what is in arenas whose state word says REQUESTED
 *	MADV_REMOVE		releases arenas, or pages of them
 *
 * and stores to the state words give arenas back and take them back.
 *
 * An arena that was committed whole has a huge frame, mapped by one entry. One that
 * was committed in part, or whose greater part was released, has a sparse frame:
 * pages of 4 KiB, of which each counts by itself.
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
 *	EPERM	the heap belongs to another process, or the right is missing
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
#define KARENA_FEATURE_VOLATILE	0x01UL

/** KARENA_FEATURE_SPARSE - Parts of arenas, KARENA_COMMIT and KARENA_RELEASE. */
#define KARENA_FEATURE_SPARSE	0x02UL

/** KARENA_FEATURE_READY - Frames cleared ahead, KARENA_READY. */
#define KARENA_FEATURE_READY	0x04UL

/** KARENA_FEATURE_LIMIT - Limits that can be changed, KARENA_LIMIT. */
#define KARENA_FEATURE_LIMIT	0x08UL

/** KARENA_FEATURE_PRESSURE - The pressure word, and poll() for it. */
#define KARENA_FEATURE_PRESSURE	0x10UL

/** KARENA_FEATURE_NODE - A heap's NUMA node or policy. */
#define KARENA_FEATURE_NODE	0x20UL

/** KARENA_FEATURE_STATS - The statistics page. */
#define KARENA_FEATURE_STATS	0x40UL

/** KARENA_FEATURE_FORK - What fork() makes of a heap can be chosen. */
#define KARENA_FEATURE_FORK	0x80UL

/** KARENA_FEATURE_IO - Heaps for I/O buffers, KARENA_CREATE_IO. */
#define KARENA_FEATURE_IO	0x100UL

/** KARENA_FEATURE_SNAPSHOT - KARENA_SNAPSHOT. */
#define KARENA_FEATURE_SNAPSHOT	0x200UL

/** KARENA_FEATURE_SHARE - KARENA_SHARE. */
#define KARENA_FEATURE_SHARE	0x400UL

/** KARENA_FEATURE_URING - The calls on a heap through io_uring. */
#define KARENA_FEATURE_URING	0x800UL

/** KARENA_FEATURE_PARTS - A window can be mapped in parts, and each can grow. */
#define KARENA_FEATURE_PARTS	0x1000UL

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
 * enum karena_policy - On which NUMA node a heap's frames are.
 * @KARENA_POLICY_DEFAULT: As the memory policy of the committing thread says; by
 *	default on the node it runs on, or on another when that is full.
 * @KARENA_POLICY_PREFER: On one node, or on another when that is full.
 * @KARENA_POLICY_BIND: On one node alone.
 * @KARENA_POLICY_INTERLEAVE: On all nodes in turn, by the arena's place in the
 *	window.
 */
enum karena_policy {
	KARENA_POLICY_DEFAULT		= 0,
	KARENA_POLICY_PREFER		= 1,
	KARENA_POLICY_BIND		= 2,
	KARENA_POLICY_INTERLEAVE	= 3,
};

/**
 * enum karena_fork - What a child has of a heap after fork().
 * @KARENA_FORK_COW: A clone of its own, copy-on-write: each process sees its own data
 *	only. Frames are shared until one of them writes; then 4 KiB are copied, for
 *	who writes. A clone has the limits of the heap, a control region with the
 *	same state words, its own number, and neither ready frames nor what was
 *	volatile: there the state word says FREE.
 * @KARENA_FORK_SHARE: The heap itself: what one process writes the other sees, and
 *	both may drive it; so may any process that is sent a descriptor.
 * @KARENA_FORK_NONE: Nothing: the addresses are not mapped.
 */
enum karena_fork {
	KARENA_FORK_COW		= 0,
	KARENA_FORK_SHARE	= 1,
	KARENA_FORK_NONE	= 2,
};

/**
 * KARENA_CREATE_IO - A heap for I/O buffers, which a device may pin for long: as
 *	fixed buffers of io_uring (Linux 6.12; 6.1 takes no mapping of a file). Other
 *	heaps can be pinned so until their first fork or snapshot. The fork policy
 *	must be SHARE or NONE, and there are no snapshots.
 */
#define KARENA_CREATE_IO	0x1U

/**
 * struct karena_create - Make a heap (KARENA_CREATE).
 * @size: Size of this struct in bytes, set by the caller.
 * @flags: KARENA_CREATE_IO, or 0.
 * @window: Size of the window in bytes, a multiple of the arena's size.
 *	EFBIG: above window_max of struct karena_info.
 * @limit: Bytes that the heap may commit; 0, or more: as many as the window has.
 *	EINVAL: below the size of an arena.
 * @name: Shown in sysfs and, after "karena:", in /proc/PID/maps. Printable ASCII
 *	without '/', ending in NUL; may be empty.
 * @id: Out: the heap's number, never given twice while the module is loaded, and
 *	the name of its directory in sysfs.
 * @control_offset: Out: where the control region begins in the file.
 * @control_size: Out: size of the control region in bytes.
 * @policy: Of enum karena_policy.
 * @node: The NUMA node of PREFER and BIND, one with memory that the caller may use;
 *	0 otherwise.
 * @soft_limit: Bytes above which the heap is under pressure; 0: none.
 * @fork: Of enum karena_fork.
 * @reserved: Must be 0.
 *
 * The members from @policy on may be left out.
 *
 * The call returns a descriptor, closed on exec. The heap belongs to the calling
 * process: no other can map or drive it, but for a child as @fork says. A descriptor
 * that a child inherits stands for the child's own clone there. The heap ends with
 * its last mapping and descriptor, or with its process.
 * The window is mapped whole by one mmap() at offset 0, or in parts; shared, and at
 * addresses that are multiples of the arena's size (the kernel chooses such a one by
 * itself). The first mapping says where all of the window lies, and another part has to
 * be where that puts it, or the call fails with EBUSY; mremap() can let a part grow. Arenas
 * may be mapped again where they are (MAP_FIXED): one that was sparse keeps its page
 * table, by which a huge frame would be mapped page by page, until then. The control
 * region is mapped likewise, whole, at @control_offset.
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
	__u32 policy;
	__u32 node;
	__u64 soft_limit;
	__u32 fork;
	__u32 reserved;
};

/**
 * struct karena_attach - Get a descriptor of a heap again (KARENA_ATTACH).
 * @size: Size of this struct in bytes, set by the caller.
 * @flags: Must be 0.
 * @address: An address, mapped, in the window of a heap of the calling process.
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

/** KARENA_LIMIT_HARD - Set the hard limit. */
#define KARENA_LIMIT_HARD	0x1U

/** KARENA_LIMIT_SOFT - Set the soft limit. */
#define KARENA_LIMIT_SOFT	0x2U

/**
 * struct karena_limit - Set and read a heap's limits (KARENA_LIMIT).
 * @size: Size of this struct in bytes, set by the caller.
 * @flags: Which limits to set: KARENA_LIMIT_HARD, KARENA_LIMIT_SOFT, or none.
 * @hard: Bytes that the heap may commit, from the size of an arena up to that of
 *	the window; out: the limit in force. Below what is committed, nothing more is.
 *	EPERM: root has set it in sysfs, and to raise it takes CAP_SYS_RESOURCE.
 * @soft: Bytes above which the heap is under pressure, 0 for none; out: the limit
 *	in force.
 *
 * The call returns 0.
 */
struct karena_limit {
	__u32 size;
	__u32 flags;
	__u64 hard;
	__u64 soft;
};

/** KARENA_NODE_ANY - All NUMA nodes together. */
#define KARENA_NODE_ANY		0xffffffffU

/**
 * struct karena_ready - Keep huge frames cleared ahead (KARENA_READY).
 * @size: Size of this struct in bytes, set by the caller.
 * @flags: Must be 0.
 * @count: How many to keep on @node from now on; those above are given up at once.
 *	EINVAL: above what the window has arenas. ENOMEM: RLIMIT_MEMLOCK does not allow
 *	as many.
 * @node: A NUMA node with memory that the caller may use, or KARENA_NODE_ANY: @count
 *	is that of all nodes that the heap's policy allows together, and what is
 *	missing is made where the caller would commit. EINVAL also for a node that
 *	the policy excludes.
 * @ready: Out: how many there are, on @node or on all.
 * @reserved: Must be 0; out: 0.
 *
 * For a heap that grows fast the module keeps some by itself, if that is more, until
 * it grows no more.
 *
 * The call returns 0 and does not wait: a worker clears them when there is time
 * and memory is not short. They count against the limits and are charged to the
 * owner's memory cgroup; when memory is short they go after the volatile arenas,
 * and come again later.
 */
struct karena_ready {
	__u32 size;
	__u32 flags;
	__u32 count;
	__u32 node;
	__u32 ready;
	__u32 reserved;
};

/**
 * struct karena_range - A range of the window, for struct karena_ranges.
 * @offset: Where it begins, in bytes from the window's start; whole pages.
 * @length: Its size in bytes; whole pages, not 0.
 * @result: Out: 0, or a negative error number:
 *	-EINVAL	not whole pages, not within the window, or longer than the window
 *		together with the ranges before it in the list
 *	-ENOMEM	(commit) no memory, or at a limit
 *	-EBUSY	(commit) an arena of it is volatile
 *	-EINTR	a signal came before the range was done; the ranges behind it were not
 *		tried, and have no result
 * @reserved: Must be 0; else the result is -EINVAL.
 */
struct karena_range {
	__u64 offset;
	__u64 length;
	__s32 result;
	__u32 reserved;
};

/** KARENA_RANGES_MAX - How many ranges a call takes at most. */
#define KARENA_RANGES_MAX	65536U

/**
 * struct karena_ranges - Commit or release ranges of the window (KARENA_COMMIT,
 *	KARENA_RELEASE).
 * @size: Size of this struct in bytes, set by the caller.
 * @flags: Must be 0.
 * @ranges: Address of an array of struct karena_range.
 * @nr: How many these are, KARENA_RANGES_MAX at most.
 * @reserved: Must be 0.
 *
 * Every range is tried and gets its result, whatever became of the others, unless a
 * signal comes. The call returns 0 when all succeeded, else it fails with the first
 * result that is an error.
 *
 * A signal with a handler ends the call with EINTR. The ranges before the first whose
 * result is -EINTR are done and have their results; a call with the list from that range
 * on does the rest. A call tries at least one arena, so that repeated calls come to an end.
 *
 * KARENA_COMMIT gives whole arenas without memory huge frames, and the missing
 * pages of the others sparse ones; the state words say ACTIVE afterwards, with
 * KARENA_SPARSE in an arena that is sparse. What a range that fails has committed
 * until then stays.
 *
 * KARENA_RELEASE gives whole arenas and pages of sparse ones back. Of an arena with
 * a huge frame, the pages that ranges which follow each other in the list release
 * are taken together: half of it or more makes it sparse, what remains is copied
 * and the huge frame comes free. Less, or a frame that is pinned or cannot be
 * copied for want of memory, is cleared and stays committed; so it does in an arena
 * that is not ACTIVE.
 */
struct karena_ranges {
	__u32 size;
	__u32 flags;
	__u64 ranges;
	__u32 nr;
	__u32 reserved;
};

/** KARENA_SNAPSHOT_MEMORY - @memory of struct karena_snapshot is given. */
#define KARENA_SNAPSHOT_MEMORY	0x1U

/**
 * struct karena_snapshot - Make an image of a heap (KARENA_SNAPSHOT).
 * @size: Size of this struct in bytes, set by the caller.
 * @flags: On the device KARENA_SNAPSHOT_MEMORY, or 0.
 * @id: On the device, the number of the heap: one of the caller's or, with @memory,
 *	another process's. On a heap's descriptor 0. Out: the heap's number.
 *	ENOENT: there is no such heap.
 * @start: Out: where the heap's window is mapped in its process.
 * @window: Out: size of the window in bytes.
 * @control_offset: Out: where the control region begins in the image.
 * @control_size: Out: size of the control region in bytes.
 * @memory: A descriptor of /proc/PID/mem of the heap's process, open for reading: to
 *	open it takes the right to trace that process (ptrace(2)). EBADF: no descriptor;
 *	EPERM: none of that file.
 * @reserved: Must be 0.
 *
 * The members from @memory on may be left out.
 *
 * The call returns a descriptor, closed on exec, that any process may map, shared and
 * read-only: the window at offset 0, the control region at @control_offset, or
 * arena-aligned parts of the window. It shows the heap as it was at one moment between
 * the call's begin and its end; what was volatile is FREE in it. Frames are shared
 * with the heap until that writes. Their pages count against RLIMIT_MEMLOCK of the
 * heap's process a second time (ENOMEM). EOPNOTSUPP: the heap is for I/O buffers.
 */
struct karena_snapshot {
	__u32 size;
	__u32 flags;
	__u64 id;
	__u64 start;
	__u64 window;
	__u64 control_offset;
	__u64 control_size;
	__u32 memory;
	__u32 reserved;
};

/** KARENA_SHARE_WRITE - Who has the descriptor may write. */
#define KARENA_SHARE_WRITE	0x1U

/**
 * struct karena_share - Let another process map a range (KARENA_SHARE).
 * @size: Size of this struct in bytes, set by the caller.
 * @flags: KARENA_SHARE_WRITE, or 0: the descriptor maps read-only, for ever.
 * @offset: Where the range begins, in bytes from the window's start; whole pages.
 * @length: Its size in bytes; whole pages, not 0.
 *
 * The call returns a descriptor, closed on exec, to be sent to another process. mmap()
 * maps it, shared, offset 0 being the range's first byte; the kernel chooses an
 * address by which huge frames stay huge. All who map it and the heap's process see the
 * same memory; what is not committed is SIGBUS there. The memory stays the heap's, and
 * charged to its owner. When the owner ends first, its arenas in the range stay as they
 * are until the last share's descriptor and mapping are gone. fork() of the owner
 * leaves the share with the parent; of a process that maps it, both map it.
 */
struct karena_share {
	__u32 size;
	__u32 flags;
	__u64 offset;
	__u64 length;
};

/**
 * struct karena_uring - A call on a heap through io_uring (IORING_OP_URING_CMD): the
 *	command of the submission queue entry, whose cmd_op is KARENA_COMMIT,
 *	KARENA_RELEASE, KARENA_READY or KARENA_LIMIT.
 * @arg: Address of the call's struct; it and what it names must stay until the
 *	completion, whose result is what the call returns, or a negative errno.
 * @reserved: Must be 0.
 *
 * COMMIT and RELEASE run in a worker of the ring, never in who submits. To cancel one that
 * runs, or to close the ring, is a signal to it: its result is -EINTR then. An entry that
 * is linked behind another is read when that has completed, by kernels before 6.16, unless
 * it has IOSQE_ASYNC.
 */
struct karena_uring {
	__u64 arg;
	__u64 reserved;
};

/** KARENA_IOC - The type of karena's ioctl numbers. */
#define KARENA_IOC		0xE9

/** KARENA_INFO - On the device; see struct karena_info. Returns 0. */
#define KARENA_INFO		_IO(KARENA_IOC, 0x10)

/** KARENA_CREATE - On the device; see struct karena_create. */
#define KARENA_CREATE		_IO(KARENA_IOC, 0x11)

/** KARENA_ATTACH - On the device; see struct karena_attach. */
#define KARENA_ATTACH		_IO(KARENA_IOC, 0x12)

/** KARENA_LIMIT - On a heap; see struct karena_limit. */
#define KARENA_LIMIT		_IO(KARENA_IOC, 0x20)

/** KARENA_READY - On a heap; see struct karena_ready. */
#define KARENA_READY		_IO(KARENA_IOC, 0x21)

/** KARENA_COMMIT - On a heap; see struct karena_ranges. */
#define KARENA_COMMIT		_IO(KARENA_IOC, 0x22)

/** KARENA_RELEASE - On a heap; see struct karena_ranges. */
#define KARENA_RELEASE		_IO(KARENA_IOC, 0x23)

/** KARENA_SNAPSHOT - On the device or a heap; see struct karena_snapshot. */
#define KARENA_SNAPSHOT		_IO(KARENA_IOC, 0x24)

/** KARENA_SHARE - On a heap; see struct karena_share. */
#define KARENA_SHARE		_IO(KARENA_IOC, 0x25)

/**
 * enum karena_state - What an arena is; the low three bits of its state word hold
 * one of these, the fourth is KARENA_SPARSE, the others are 0 but for VOLATILE.
 * @KARENA_FREE: No memory. The kernel sets it when it has released the arena, the
 *	process when a commit has failed. A touch is SIGBUS.
 * @KARENA_REQUESTED: Set by the process on a FREE arena: MADV_POPULATE_WRITE may
 *	now commit it, whole. With KARENA_SPARSE, on an arena that is FREE or sparse:
 *	MADV_POPULATE_WRITE may now commit pages of it; when it has, the process
 *	stores ACTIVE with KARENA_SPARSE. A touch of what is not committed is still
 *	SIGBUS from user mode.
 * @KARENA_ACTIVE: Committed, or with KARENA_SPARSE committed in part; set by the
 *	kernel, or by the process that takes a VOLATILE arena back. The kernel adds
 *	KARENA_SPARSE to an ACTIVE arena that a release has made sparse, or of which
 *	all pages were copied after a fork.
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

/**
 * KARENA_SPARSE - In a state word beside REQUESTED and ACTIVE: page by page. Beside
 *	VOLATILE the kernel leaves it to the process, which may keep it there.
 */
#define KARENA_SPARSE		0x8U

/** KARENA_STATE() - The state in a state word. */
#define KARENA_STATE(word)	((word) & 7)

/**
 * KARENA_VOLATILE_SINCE() - The state word of an arena given back.
 * @nanoseconds: Of CLOCK_MONOTONIC (CLOCK_MONOTONIC_COARSE is as good): the kernel
 *	takes the arenas first that were given back first.
 */
#define KARENA_VOLATILE_SINCE(nanoseconds)				\
	((__u32)(((__u64)(nanoseconds) >> 20) << 4) | KARENA_VOLATILE)

/**
 * enum karena_pressure - How short memory is for a heap.
 * @KARENA_PRESSURE_NONE: It is not.
 * @KARENA_PRESSURE_SOME: The heap is above its soft limit, or reclaim took arenas or
 *	ready frames from it, or memory is low in the machine or in its memory cgroup.
 *	Time to collect garbage and to give back.
 * @KARENA_PRESSURE_HIGH: A commit has failed for want of memory or at a limit.
 */
enum karena_pressure {
	KARENA_PRESSURE_NONE	= 0,
	KARENA_PRESSURE_SOME	= 1,
	KARENA_PRESSURE_HIGH	= 2,
};

/** KARENA_PRESSURE_LEVEL() - The level in a pressure word. */
#define KARENA_PRESSURE_LEVEL(word)	((word) & 3)

/**
 * struct karena_control - The first page of the control region.
 * @abi_version: KARENA_ABI_VERSION of the module.
 * @arena_shift: Base 2 logarithm of the arena's size in bytes.
 * @id: The heap's number.
 * @nr_arenas: Arenas in the window.
 * @states_offset: Where in the control region, in bytes, the state words begin:
 *	one __u32 for each arena of the window, read and written with atomics.
 * @stats_offset: Where the statistics page begins, a struct karena_stats.
 * @pressure: The pressure word: the level in its two low bits, above them a number
 *	that grows with each rise. The level falls by itself about a second after its
 *	last cause.
 * @pressure_seen: The process stores the pressure word here when it has acted on
 *	it; poll() on the heap's descriptor reports EPOLLPRI while the level is above
 *	NONE and the number is another.
 * @part_offset: Where in the control region, in bytes, a struct karena_part is; 0 with a
 *	module that is older than that.
 * @reserved: 0.
 *
 * The kernel writes these members, pressure_seen excepted, and reads none of them
 * but that one. It reads the state words as requests, never as the truth: what a
 * process writes there concerns its own heap alone.
 */
struct karena_control {
	__u32 abi_version;
	__u32 arena_shift;
	__u64 id;
	__u64 nr_arenas;
	__u64 states_offset;
	__u64 stats_offset;
	__u32 pressure;
	__u32 pressure_seen;
	__u64 part_offset;
	__u64 reserved[1];
};

/**
 * struct karena_part - Which pages of an arena MADV_REMOVE releases.
 * @arena: The number of an arena in the window, plus 1; 0: of no arena.
 * @pages: A bit for each page of this arena.
 *
 * The process writes here. As long as an arena is named, MADV_REMOVE in that arena alone
 * releases only those pages whose bits are set: of all of the arena, as one KARENA_RELEASE of
 * them does, but without a descriptor. One thread at a time: set @pages, store @arena, call
 * madvise(), store 0.
 */
struct karena_part {
	__u64 arena;
	__u64 pages[8];
};

/** KARENA_STATS_VERSION - The layout of struct karena_stats. */
#define KARENA_STATS_VERSION	1

/** KARENA_DOMAINS - The domains of a library: raw, mem and obj, in this order. */
#define KARENA_DOMAINS		3

/**
 * struct karena_stats - The statistics page: what the process says of its heap.
 * @version: KARENA_STATS_VERSION; 0 while the process says nothing.
 * @sequence: Odd while the process writes the rest.
 * @arenas_allocated: Arenas taken into use, ever.
 * @arenas_reclaimed: Arenas given up, ever.
 * @arenas_highwater: The most that were in use at a time.
 * @arenas: In use now.
 * @pools: Runs that hold blocks of one size.
 * @bytes_blocks: In blocks that the program has.
 * @bytes_available: In blocks that are free.
 * @bytes_unused_pools: In pages without a block.
 * @bytes_headers: Lost to headers.
 * @bytes_quantization: Lost at the end of pools, where no block fits.
 * @bytes_alignment: Lost to alignment.
 * @domain: Blocks and bytes that the program has, of each domain; 0 if it does not tell
 *	them apart.
 * @domain.blocks: Blocks.
 * @domain.bytes: Bytes of these.
 *
 * The kernel shows these figures in sysfs, as the process wrote them. The byte
 * figures add up to arenas times the arena's size.
 */
struct karena_stats {
	__u32 version;
	__u32 sequence;
	__u64 arenas_allocated;
	__u64 arenas_reclaimed;
	__u64 arenas_highwater;
	__u64 arenas;
	__u64 pools;
	__u64 bytes_blocks;
	__u64 bytes_available;
	__u64 bytes_unused_pools;
	__u64 bytes_headers;
	__u64 bytes_quantization;
	__u64 bytes_alignment;
	struct {
		__u64 blocks;
		__u64 bytes;
	} domain[KARENA_DOMAINS];
};

#endif /* _UAPI_LINUX_KARENA_H */
