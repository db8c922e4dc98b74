/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/* Copyright (C) 2026 The karena authors */
/*
 * karena: arenas of physical memory for the heaps of language runtimes.
 *
 * A heap is a file, like a memfd. KARENA_CREATE on /dev/karena returns a descriptor of
 * it, and mmap() maps its window, as a whole or in parts. The process may then close the
 * descriptor: the mapping keeps the heap alive. From then on madvise() drives it:
 *
 *	MADV_POPULATE_WRITE	commits arenas whose state word is REQUESTED
 *	MADV_REMOVE		releases arenas, or pages of them
 *
 * and a store to a state word makes an arena volatile, or a compare-and-swap reuses it.
 *
 * An arena that was committed as a whole has a huge frame, mapped by one page table
 * entry. An arena that was committed in part, or most of which was released, has a
 * sparse frame: pages of 4 KiB, each of which counts by itself.
 *
 * Every call takes a struct whose first member is its size. A module that knows a shorter
 * struct accepts a longer one whose additional bytes are zero. A module that knows a
 * longer struct treats the missing members as zero. The errors of all calls:
 *
 *	ENOTTY	the module does not know the call
 *	E2BIG	the struct has additional bytes that are not zero and that the module
 *		does not know
 *	EINVAL	a size below the first version of the call, an unknown flag, a reserved
 *		member that is not zero, or an invalid value of a member
 *	EFAULT	the memory of the struct cannot be read or written
 *	EPERM	the heap belongs to another process, or the caller lacks a privilege
 *	ENOMEM	no memory for the kernel's own structures, or a limit is reached
 */
#ifndef _UAPI_LINUX_KARENA_H
#define _UAPI_LINUX_KARENA_H

#include <linux/ioctl.h>
#include <linux/types.h>

/** KARENA_ABI_VERSION - Changes when old programs would no longer work. */
#define KARENA_ABI_VERSION	1

/** KARENA_DEVICE - Path of the device node. */
#define KARENA_DEVICE		"/dev/karena"

/** KARENA_ARENA_SHIFT - Base 2 logarithm of the size of an arena in bytes. */
#define KARENA_ARENA_SHIFT	21

/** KARENA_ARENA_SIZE - Size and alignment of an arena in bytes: 2 MiB. */
#define KARENA_ARENA_SIZE	0x200000UL

/** KARENA_NAME_SIZE - Size of a heap's name in bytes, including the final NUL. */
#define KARENA_NAME_SIZE	32

/** KARENA_FEATURE_VOLATILE - The kernel reclaims volatile arenas. */
#define KARENA_FEATURE_VOLATILE	0x01UL

/** KARENA_FEATURE_SPARSE - Parts of arenas: KARENA_COMMIT and KARENA_RELEASE. */
#define KARENA_FEATURE_SPARSE	0x02UL

/** KARENA_FEATURE_READY - Ready frames: KARENA_READY. */
#define KARENA_FEATURE_READY	0x04UL

/** KARENA_FEATURE_LIMIT - Changing limits: KARENA_LIMIT. */
#define KARENA_FEATURE_LIMIT	0x08UL

/** KARENA_FEATURE_PRESSURE - The pressure word, and poll() for it. */
#define KARENA_FEATURE_PRESSURE	0x10UL

/** KARENA_FEATURE_NODE - NUMA policies: enum karena_policy. */
#define KARENA_FEATURE_NODE	0x20UL

/** KARENA_FEATURE_STATS - The statistics page. */
#define KARENA_FEATURE_STATS	0x40UL

/** KARENA_FEATURE_FORK - Fork policies: enum karena_fork. */
#define KARENA_FEATURE_FORK	0x80UL

/** KARENA_FEATURE_IO - Heaps for I/O buffers: KARENA_CREATE_IO. */
#define KARENA_FEATURE_IO	0x100UL

/** KARENA_FEATURE_SNAPSHOT - Images of heaps: KARENA_SNAPSHOT. */
#define KARENA_FEATURE_SNAPSHOT	0x200UL

/** KARENA_FEATURE_SHARE - Shared ranges: KARENA_SHARE. */
#define KARENA_FEATURE_SHARE	0x400UL

/** KARENA_FEATURE_URING - Calls through io_uring: struct karena_uring. */
#define KARENA_FEATURE_URING	0x800UL

/** KARENA_FEATURE_PARTS - Windows can be mapped in parts, and a part can grow. */
#define KARENA_FEATURE_PARTS	0x1000UL

/**
 * struct karena_info - Properties of the module (KARENA_INFO).
 * @size: Size of this struct in bytes, set by the caller.
 * @flags: Must be 0.
 * @abi_version: Out: KARENA_ABI_VERSION of the module.
 * @reserved: Must be 0; out: 0.
 * @features: Out: a bit for each optional feature (KARENA_FEATURE_*). Ignore unknown
 *	bits.
 * @arena_size: Out: size of an arena in bytes.
 * @window_max: Out: size of the largest window in bytes.
 * @limit: Out: most bytes that all heaps together may commit.
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
 * enum karena_policy - The NUMA node of a heap's frames.
 * @KARENA_POLICY_DEFAULT: The memory policy of the committing thread decides. By default
 *	this is the node that the thread runs on, or another if that node is full.
 * @KARENA_POLICY_PREFER: One node, or another if that node is full.
 * @KARENA_POLICY_BIND: Only one node.
 * @KARENA_POLICY_INTERLEAVE: All nodes in turn, by the index of the arena in the window.
 */
enum karena_policy {
	KARENA_POLICY_DEFAULT		= 0,
	KARENA_POLICY_PREFER		= 1,
	KARENA_POLICY_BIND		= 2,
	KARENA_POLICY_INTERLEAVE	= 3,
};

/**
 * enum karena_fork - What a child has of a heap after fork().
 * @KARENA_FORK_COW: A clone of the heap, copy-on-write: each process sees only its own
 *	data. Both share a frame until one of them writes to it; then the kernel copies
 *	4 KiB for the writer. A clone has the limits of the heap, a control region with
 *	the same state words, and its own number. It has no ready frames and no volatile
 *	arenas; their state words are FREE.
 * @KARENA_FORK_SHARE: The heap itself: each process sees what the other writes, and
 *	both may drive the heap. So may any process that receives a descriptor.
 * @KARENA_FORK_NONE: Nothing: the addresses are not mapped.
 */
enum karena_fork {
	KARENA_FORK_COW		= 0,
	KARENA_FORK_SHARE	= 1,
	KARENA_FORK_NONE	= 2,
};

/**
 * KARENA_CREATE_IO - A heap for I/O buffers, which a device may pin for a long time, for
 *	example as fixed buffers of io_uring (Linux 6.12; 6.1 refuses mappings of a file).
 *	Other heaps can be pinned like this until their first fork or snapshot. The fork
 *	policy must be SHARE or NONE, and there are no snapshots.
 */
#define KARENA_CREATE_IO	0x1U

/**
 * struct karena_create - Create a heap (KARENA_CREATE).
 * @size: Size of this struct in bytes, set by the caller.
 * @flags: KARENA_CREATE_IO, or 0.
 * @window: Size of the window in bytes, a multiple of the size of an arena.
 *	EFBIG: above window_max of struct karena_info.
 * @limit: Most bytes that the heap may commit. 0, or more than the window: the size of
 *	the window. EINVAL: below the size of an arena.
 * @name: Shown in sysfs and, after "karena:", in /proc/PID/maps. Printable ASCII
 *	without '/', terminated by NUL; may be empty.
 * @id: Out: the number of the heap, which names its directory in sysfs. The module never
 *	reuses a number while it is loaded.
 * @control_offset: Out: offset of the control region in the file.
 * @control_size: Out: size of the control region in bytes.
 * @policy: Of enum karena_policy.
 * @node: The NUMA node of PREFER and BIND, which must have memory that the caller may
 *	use; 0 otherwise.
 * @soft_limit: Committed bytes above which the heap is under pressure; 0: none.
 * @fork: Of enum karena_fork.
 * @reserved: Must be 0.
 *
 * A caller may leave out the members from @policy on.
 *
 * The call returns a close-on-exec descriptor. The heap belongs to the calling process:
 * no other process can map or drive it, except a child as @fork says. A descriptor that
 * a child inherits refers to the child's own clone. The heap ends with its last mapping
 * and descriptor, or with its process.
 *
 * The process maps the window shared, as a whole with one mmap() at offset 0 or in parts,
 * at addresses that are multiples of the size of an arena. If it passes no address, the
 * kernel chooses a suitable one. The first mapping determines the addresses of the whole
 * window: mapping another part elsewhere fails with EBUSY. mremap() can make a part grow.
 * Arenas may be mapped again at their addresses (MAP_FIXED). An arena that has been
 * sparse keeps its page table until then, and the kernel would map a huge frame in it
 * page by page. The control region is mapped shared, as a whole, at @control_offset.
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
 * struct karena_attach - Get another descriptor of a heap (KARENA_ATTACH).
 * @size: Size of this struct in bytes, set by the caller.
 * @flags: Must be 0.
 * @address: A mapped address in the window of a heap of the calling process.
 * @start: Out: address of the window.
 * @window: Out: size of the window in bytes.
 * @limit: Out: most bytes that the heap may commit.
 * @id: Out: the number of the heap.
 * @control_offset: Out: offset of the control region in the file.
 * @control_size: Out: size of the control region in bytes.
 *
 * The call returns a close-on-exec descriptor. ENOENT: no window of a heap is mapped at
 * @address.
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
 * struct karena_limit - Set and read the limits of a heap (KARENA_LIMIT).
 * @size: Size of this struct in bytes, set by the caller.
 * @flags: Limits to set: KARENA_LIMIT_HARD, KARENA_LIMIT_SOFT, or none.
 * @hard: Most bytes that the heap may commit, from the size of an arena to that of the
 *	window. A heap that has committed more keeps its memory, and commits nothing until
 *	it has less. EPERM: root has set the limit in sysfs, and the caller would need
 *	CAP_SYS_RESOURCE to raise it. Out: the limit in force.
 * @soft: Committed bytes above which the heap is under pressure; 0: none. Out: the limit
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
 * struct karena_ready - Keep cleared huge frames ready (KARENA_READY).
 * @size: Size of this struct in bytes, set by the caller.
 * @flags: Must be 0.
 * @count: Number of frames to keep on @node from now on. The module frees surplus frames
 *	at once. EINVAL: more than the window has arenas. ENOMEM: RLIMIT_MEMLOCK does not
 *	allow so many.
 * @node: A NUMA node with memory that the caller may use. EINVAL: there is no such node,
 *	or the policy of the heap excludes it. KARENA_NODE_ANY: @count is for all nodes
 *	together that the policy allows; the module prepares missing frames on the node
 *	where the caller would commit.
 * @ready: Out: number of frames that are ready now, on @node or on all nodes.
 * @reserved: Must be 0; out: 0.
 *
 * While a heap grows fast, the module keeps some frames ready by itself, if these are
 * more than @count.
 *
 * The call returns 0 and does not wait: a worker clears the frames when it has time and
 * memory is not short. Ready frames count against the limits and are charged to the
 * memory cgroup of the owner. When memory is short, the kernel reclaims them after the
 * volatile arenas, and the worker prepares new ones later.
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
 * @offset: Start of the range, in bytes from the start of the window; whole pages.
 * @length: Size of the range in bytes; whole pages, not 0.
 * @result: Out: 0, or a negative error number:
 *
 *	- -EINVAL: not whole pages, not within the window, or longer than the window
 *	  together with the ranges before it in the list
 *	- -ENOMEM (commit): no memory, or a limit is reached
 *	- -EBUSY (commit): an arena of the range is volatile
 *	- -EINTR: a signal arrived before the range was done; the call did not try the
 *	  ranges behind it, and they have no result
 *
 * @reserved: Must be 0; otherwise the result is -EINVAL.
 */
struct karena_range {
	__u64 offset;
	__u64 length;
	__s32 result;
	__u32 reserved;
};

/** KARENA_RANGES_MAX - Most ranges of one call. */
#define KARENA_RANGES_MAX	65536U

/**
 * struct karena_ranges - Commit or release ranges of the window (KARENA_COMMIT,
 *	KARENA_RELEASE).
 * @size: Size of this struct in bytes, set by the caller.
 * @flags: Must be 0.
 * @ranges: Address of an array of struct karena_range.
 * @nr: Number of ranges, at most KARENA_RANGES_MAX.
 * @reserved: Must be 0.
 *
 * The call tries every range and stores its result, even if others fail, unless a signal
 * arrives. It returns 0 if all succeed, otherwise it fails with the first result that is
 * an error.
 *
 * A signal with a handler ends the call with EINTR. The ranges before the first one with
 * the result -EINTR are done and have their results. The caller does the rest with
 * another call, whose list begins with that range. A call tries at least one arena, so
 * repeated calls come to an end.
 *
 * KARENA_COMMIT allocates huge frames for whole arenas without memory, and single pages
 * where pages of other arenas are missing. The state words become ACTIVE, with
 * KARENA_SPARSE for a sparse arena. If a range fails, what it has committed until then
 * stays committed.
 *
 * KARENA_RELEASE releases whole arenas, and pages of sparse ones. In an arena with a huge
 * frame, it counts the pages of consecutive ranges of the list together. If they are half
 * of the arena or more, the arena becomes sparse: the kernel copies the remaining pages
 * and frees the huge frame. If they are less, if the frame is pinned, if there is no
 * memory for the copies, or if the arena is not ACTIVE, the kernel clears the pages, and
 * they stay committed.
 */
struct karena_ranges {
	__u32 size;
	__u32 flags;
	__u64 ranges;
	__u32 nr;
	__u32 reserved;
};

/** KARENA_SNAPSHOT_MEMORY - @memory of struct karena_snapshot is set. */
#define KARENA_SNAPSHOT_MEMORY	0x1U

/**
 * struct karena_snapshot - Make an image of a heap (KARENA_SNAPSHOT).
 * @size: Size of this struct in bytes, set by the caller.
 * @flags: On the device KARENA_SNAPSHOT_MEMORY, or 0.
 * @id: On the device: the number of a heap of the caller or, with @memory, of another
 *	process. On a descriptor of a heap: 0. Out: the number of the heap. ENOENT: there
 *	is no such heap.
 * @start: Out: address of the window in the process of the heap.
 * @window: Out: size of the window in bytes.
 * @control_offset: Out: offset of the control region in the image.
 * @control_size: Out: size of the control region in bytes.
 * @memory: A descriptor of /proc/PID/mem of the process of the heap, open for reading.
 *	Opening this file needs the right to trace the process (ptrace(2)). EBADF: not a
 *	descriptor; EPERM: not a descriptor of that file.
 * @reserved: Must be 0.
 *
 * A caller may leave out the members from @memory on.
 *
 * The call returns a close-on-exec descriptor. Any process that has it may map the image
 * shared and read-only: the window at offset 0, the control region at @control_offset,
 * or parts of the window at arena boundaries. The image shows the heap as it was at one
 * moment during the call, with volatile arenas as FREE. It shares frames with the heap
 * until the heap writes to them. Its pages count a second time against RLIMIT_MEMLOCK of
 * the process of the heap (ENOMEM). EOPNOTSUPP: the heap is for I/O buffers.
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

/** KARENA_SHARE_WRITE - A process that has the descriptor may write. */
#define KARENA_SHARE_WRITE	0x1U

/**
 * struct karena_share - Let another process map a range of the window (KARENA_SHARE).
 * @size: Size of this struct in bytes, set by the caller.
 * @flags: KARENA_SHARE_WRITE, or 0: the descriptor can only ever be mapped read-only.
 * @offset: Start of the range, in bytes from the start of the window; whole pages.
 * @length: Size of the range in bytes; whole pages, not 0.
 *
 * The call returns a close-on-exec descriptor, which the caller sends to another process.
 * mmap() maps it shared; offset 0 is the first byte of the range. If the caller passes
 * no address, the kernel chooses one at which huge frames stay huge. All processes that
 * map the range and the process of the heap see the same memory. Touching uncommitted
 * memory raises SIGBUS there.
 *
 * The memory belongs to the heap and is charged to its owner. If the owner ends first,
 * its arenas in the range stay as they are until the last descriptor and mapping of the
 * share are gone. After fork() of the owner the share stays with the parent; after fork()
 * of a process that maps the share, parent and child both map it.
 */
struct karena_share {
	__u32 size;
	__u32 flags;
	__u64 offset;
	__u64 length;
};

/**
 * struct karena_uring - A call on a heap through io_uring (IORING_OP_URING_CMD). This is
 *	the command of the submission queue entry. Its cmd_op is KARENA_COMMIT,
 *	KARENA_RELEASE, KARENA_READY or KARENA_LIMIT.
 * @arg: Address of the struct of the call. This struct and the memory that it refers to
 *	must stay in place until the completion. The result of the completion is what the
 *	call returns, or a negative errno.
 * @reserved: Must be 0.
 *
 * COMMIT and RELEASE run in a worker of the ring, never in the submitting thread.
 * Cancelling a running request, or closing the ring, acts like a signal: the result is
 * -EINTR. Kernels before 6.16 read an entry that is linked behind another only when that
 * one has completed, unless the entry has IOSQE_ASYNC.
 */
struct karena_uring {
	__u64 arg;
	__u64 reserved;
};

/** KARENA_IOC - Type of karena's ioctl numbers. */
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
 * enum karena_state - State of an arena. The low three bits of the state word hold one of
 * these values, and the fourth is KARENA_SPARSE. The other bits are 0, except in VOLATILE.
 * @KARENA_FREE: No memory. The kernel sets this when it has released the arena, and the
 *	process sets it when a commit has failed. Touching the arena raises SIGBUS.
 * @KARENA_REQUESTED: The process sets this in a FREE arena: MADV_POPULATE_WRITE may now
 *	commit the whole arena. With KARENA_SPARSE, in an arena that is FREE or sparse:
 *	MADV_POPULATE_WRITE may now commit pages of it, after which the process stores
 *	ACTIVE with KARENA_SPARSE. Touching uncommitted memory from user mode still raises
 *	SIGBUS.
 * @KARENA_ACTIVE: Committed, or with KARENA_SPARSE committed in part. The kernel sets
 *	this, and so does the process when it reuses a VOLATILE arena. The kernel adds
 *	KARENA_SPARSE to an ACTIVE arena when a release has made it sparse, or when all
 *	its pages were copied after a fork.
 * @KARENA_VOLATILE: Committed, but the kernel may reclaim the arena without asking. The
 *	process makes an ACTIVE arena volatile by a store of KARENA_VOLATILE_SINCE(). To
 *	reuse it, the process replaces the stored word by ACTIVE with a compare-and-swap.
 *	If that succeeds, the data are intact; if the word is FREE, they are gone.
 * @KARENA_BUSY: The kernel is reclaiming a VOLATILE arena. The word becomes FREE, or
 *	VOLATILE again if reclaim fails. The process waits, or uses another arena.
 */
enum karena_state {
	KARENA_FREE		= 0,
	KARENA_REQUESTED	= 1,
	KARENA_ACTIVE		= 2,
	KARENA_VOLATILE		= 3,
	KARENA_BUSY		= 4,
};

/**
 * KARENA_SPARSE - Flag of REQUESTED and ACTIVE: the arena is committed page by page. The
 *	kernel ignores it in VOLATILE, where the process may keep it.
 */
#define KARENA_SPARSE		0x8U

/** KARENA_STATE() - Extract the state from a state word. */
#define KARENA_STATE(word)	((word) & 7)

/**
 * KARENA_VOLATILE_SINCE() - Make the state word of a volatile arena.
 * @nanoseconds: Time of CLOCK_MONOTONIC (CLOCK_MONOTONIC_COARSE is as good). The kernel
 *	reclaims the arenas first that became volatile first.
 */
#define KARENA_VOLATILE_SINCE(nanoseconds)				\
	((__u32)(((__u64)(nanoseconds) >> 20) << 4) | KARENA_VOLATILE)

/**
 * enum karena_pressure - How short memory is for a heap.
 * @KARENA_PRESSURE_NONE: There is enough.
 * @KARENA_PRESSURE_SOME: The heap is above its soft limit, or the kernel has reclaimed
 *	arenas or ready frames from it, or memory is low in the machine or in the memory
 *	cgroup of the heap. The process should collect garbage and release memory.
 * @KARENA_PRESSURE_HIGH: A commit has failed because there was no memory or a limit was
 *	reached.
 */
enum karena_pressure {
	KARENA_PRESSURE_NONE	= 0,
	KARENA_PRESSURE_SOME	= 1,
	KARENA_PRESSURE_HIGH	= 2,
};

/** KARENA_PRESSURE_LEVEL() - Extract the level from a pressure word. */
#define KARENA_PRESSURE_LEVEL(word)	((word) & 3)

/**
 * struct karena_control - The first page of the control region.
 * @abi_version: KARENA_ABI_VERSION of the module.
 * @arena_shift: Base 2 logarithm of the size of an arena in bytes.
 * @id: The number of the heap.
 * @nr_arenas: Number of arenas in the window.
 * @states_offset: Offset of the state words in the control region, in bytes: one __u32
 *	for each arena of the window. Process and kernel access them with atomics.
 * @stats_offset: Offset of the statistics page, a struct karena_stats.
 * @pressure: The pressure word: the level in the two low bits, and above them a number
 *	that grows each time the level rises. The level falls by itself about a second
 *	after its last cause.
 * @pressure_seen: The process stores the pressure word here when it acts on it. poll() on
 *	a descriptor of the heap reports EPOLLPRI while the level is above NONE and the
 *	numbers of the two words differ.
 * @part_offset: Offset of a struct karena_part in the control region, in bytes; 0 if the
 *	module is older than this struct.
 * @reserved: 0.
 *
 * The kernel writes all of these members except @pressure_seen, and reads only that one.
 * It reads the state words as requests and never relies on them: a process that writes
 * nonsense there affects only its own heap.
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
 * @arena: Index of an arena in the window, plus 1; 0: none.
 * @pages: A bit for each page of this arena.
 *
 * The process writes this struct. While it names an arena, MADV_REMOVE of a range within
 * this arena releases only those pages of the range whose bits are set. The effect is that
 * of one KARENA_RELEASE of these pages, without a descriptor. Only one thread at a time may
 * use the struct: it sets @pages, stores @arena, calls madvise(), and stores 0.
 */
struct karena_part {
	__u64 arena;
	__u64 pages[8];
};

/** KARENA_STATS_VERSION - Version of the layout of struct karena_stats. */
#define KARENA_STATS_VERSION	1

/** KARENA_DOMAINS - Number of domains of a library: raw, mem and obj, in this order. */
#define KARENA_DOMAINS		3

/**
 * struct karena_stats - The statistics page: statistics that the process publishes.
 * @version: KARENA_STATS_VERSION; 0: the process publishes none.
 * @sequence: Odd while the process writes the other members.
 * @arenas_allocated: Arenas allocated since the creation of the heap.
 * @arenas_reclaimed: Arenas released since then.
 * @arenas_highwater: Most arenas in use at a time.
 * @arenas: Arenas in use now.
 * @pools: Runs that hold blocks of one size.
 * @bytes_blocks: Bytes in allocated blocks.
 * @bytes_available: Bytes in free blocks.
 * @bytes_unused_pools: Bytes in pages without a block.
 * @bytes_headers: Bytes lost to headers.
 * @bytes_quantization: Bytes lost at the ends of pools, too few for another block.
 * @bytes_alignment: Bytes lost to alignment.
 * @domain: Allocated blocks and bytes of each domain; 0 if the process does not tell the
 *	domains apart.
 * @domain.blocks: Allocated blocks.
 * @domain.bytes: Bytes of these blocks.
 *
 * Sysfs shows these statistics as the process wrote them. The members bytes_* add up to
 * @arenas times the size of an arena.
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
