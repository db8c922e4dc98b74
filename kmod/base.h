/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Shared by all files of the module: heaps and families, and the functions of base.c and
 * fs.c. Each layer of the module has a header, which includes those of the layers below:
 *
 *	base.h, folio.h, frame.h, arena.h, heap.h, map.h, file.h
 *
 * A file calls only functions of files below it; selftests/layers has the order.
 *
 * Lock order, the outermost first:
 *
 *	mmap_lock, or the lock of a VMA
 *	heap->cloning
 *	CHANGING, a bit of an arena
 *	folio lock, or heap->orphans.reaping
 *	family->lock
 *
 * Innermost, each taken alone: the list_lru of groups, group->lock, and heap->by_mm. No
 * thread allocates memory while it holds a folio lock or family->lock. Callers of
 * unmap_mapping_range(), which takes i_mmap_rwsem and the page table locks, hold none of
 * the locks that come after the folio lock. A holder of CHANGING only tries mmap_lock. No
 * thread adds or removes a directory in sysfs while it holds mmap_lock.
 *
 * mmap_lock: Protects heap->start. The cloner of a heap, the thread in karena_clone(),
 *	holds it for writing, with the locks of all VMAs of the window, so no thread of the
 *	process is in a fault there. A thread that adds a share holds it for reading.
 * heap->cloning: A holder of CHANGING holds it for reading, except reclaim, which purges
 *	only volatile arenas: no clone inherits these. The cloner holds it for writing, and
 *	changes no arena of the heap. A fault in the control region of a frozen heap takes
 *	it without CHANGING.
 * CHANGING: Protects the frame and the base of an arena. The holder may sleep and allocate.
 *	Reclaim only tries it. To keep reclaim away, the cloner takes it for each sparse
 *	arena, and for every arena of a heap that other processes map. It also takes it for
 *	arenas of the clone.
 * FROZEN: A bit of an arena that the holder of CHANGING sets and clears under family->lock.
 *	While it is set, faults get no reference to the frame, and the holder allocates
 *	nothing. HEAP_FROZEN freezes all arenas of a heap; the cloner sets it, and does
 *	allocate. A fault that meets either bit takes and drops heap->cloning and CHANGING,
 *	and looks up the page again. So the fault may wait for memory that a later holder of
 *	CHANGING allocates. The core calls fault handlers with neither a folio lock nor a
 *	page table lock held.
 * folio lock: A folio leaves its arena only while the folio is locked, while its count is
 *	frozen, or while the arena is frozen and earlier faults have dropped the lock. A
 *	folio gets another owner only while no fault is in progress there. A fault locks the
 *	folio and then looks at the arena again. So the page that the fault returns still
 *	belongs to the arena, and becomes writable only if the arena owns it alone. Other
 *	owners drop the folio under family->lock alone. The lock also protects folio->index,
 *	once the folio is in use; folio->mapping is set before the first mapping, and
 *	cleared by the freeing thread.
 * family->lock: Protects in all heaps of the family: the frames of arenas and their owners,
 *	the kernel's writes to state words, limits and charges, ready frames, orphans,
 *	pressure, shares, and the list of heaps.
 * heap->chunks: The lock of the xarray protects insertions. Look-ups take no lock, as a chunk
 *	stays until the heap is destroyed.
 * list_lru of groups: Protects the anchors. Reclaim only finds a group under it, and gets a
 *	reference unless the group is being freed, because all memory cgroups may share the
 *	lock.
 * group->lock: Protects the members of a group. Reclaim keeps one heap at a time by
 *	heap->groups.purges, and holds no lock between two heaps.
 * heap->groups.purges: Counts calls of reclaim at work in the heap. Reclaim raises it from
 *	0 only under the lock of a group of which the heap is a member. The heap is
 *	destroyed when it is 0.
 * heap->by_mm: A bit lock in each bucket of the hash table of heaps. A heap in a bucket is not
 *	freed.
 * heap->orphans.reaping: A mutex that a thread holds while it frees orphans; see folio.c.
 *
 * Lifetime: A heap has two counts, like mm_users and mm_count of a process.
 *
 * heap->life.users: Counts the heap's mappings, its descriptors, and the threads that work
 *	in it. At 0 no look-up finds the heap, and only the arenas that shares cover stay.
 * heap->life.ref: 1 for all users together, and 1 for each share. At 0 the heap is freed.
 *
 * Any thread may drop a user, whatever locks it holds: heap_defer_leave() defers the end of
 * the heap until the thread holds none. A family lives as long as the file that all of its
 * windows map, because madvise() may hold this file after the mapping has ended. Each heap
 * holds that file, and all files hold the module. An open attribute of sysfs does not:
 * kernfs waits only for a read or write in progress. The inode can outlive the files,
 * through an O_PATH descriptor, and holds the module, too.
 */
#ifndef _KARENA_BASE_H
#define _KARENA_BASE_H

#include <linux/atomic.h>
#include <linux/fs.h>
#include <linux/kobject.h>
#include <linux/kref.h>
#include <linux/kthread.h>
#include <linux/list_bl.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/rbtree.h>
#include <linux/rwsem.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include <uapi/linux/karena.h>

#define KARENA_ARENA_ORDER	(KARENA_ARENA_SHIFT - PAGE_SHIFT)
#define KARENA_ARENA_PAGES	(KARENA_ARENA_SIZE >> PAGE_SHIFT)

/* 1 TiB: the state words of such a window need 2 MiB. */
#define KARENA_WINDOW_MAX	(KARENA_ARENA_SIZE << 19)

/*
 * Bound of the indices of futex keys. Up to Linux 6.13 also the size of the inodes that windows
 * map.
 */
#define KARENA_KEYS_SIZE	(MAX_LFS_FILESIZE & PAGE_MASK)

/* For small structures, charged to the owner. At a limit the allocation fails. */
#define KARENA_GFP	(GFP_KERNEL_ACCOUNT | __GFP_RETRY_MAYFAIL | __GFP_NOWARN)

/* For small structures of a clone, as fork() cannot fail. */
#define KARENA_CLONE_GFP	(GFP_KERNEL_ACCOUNT | __GFP_NOFAIL)

/* For a copy, as for a page of anonymous memory. It may start the OOM killer. */
#define KARENA_COPY_GFP	(GFP_HIGHUSER | __GFP_ACCOUNT)

/*
 * For a clone's copy of a page that a device pins: fork() cannot fail, and must not start
 * the OOM killer for this copy.
 */
#define KARENA_OWN_GFP	(KARENA_COPY_GFP | __GFP_RETRY_MAYFAIL | __GFP_NOWARN)

/*
 * For a frame: cleared once, whether or not init_on_alloc is on, and charged. At a limit
 * the allocation fails, and never starts the OOM killer.
 */
#define KARENA_FRAME_GFP	(GFP_HIGHUSER | __GFP_ACCOUNT | __GFP_ZERO | \
				 __GFP_RETRY_MAYFAIL | __GFP_NOWARN)

struct completion;
struct karena_member;
struct karena_ready_frames;
struct karena_wait;
struct pid;

/**
 * struct karena_family - A heap and its clones. All of their windows map one inode.
 * @lock: See the top.
 * @heaps: The heaps except snapshots, the latest first.
 * @file: The file that the windows map. Each heap holds it.
 * @mapping: The address space of its inode. Only the windows, shares and snapshots of the
 *	family map it.
 * @shared: The policy is SHARE: there is one heap, which all processes drive.
 * @gone_work: Queues the promotion of arenas after an owner has dropped shared frames.
 * @left_waits: Queues of destroyed heaps on which processes still wait.
 */
struct karena_family {
	spinlock_t lock;	/* see the top */
	struct list_head heaps;
	struct file *file;
	struct address_space *mapping;
	bool shared;
	struct delayed_work gone_work;
	struct list_head left_waits;
};

/**
 * struct karena_heap_life - The lifetime of a heap; see heap.c.
 * @ref: See the top.
 * @users: See the top.
 * @task: Ends the heap in the thread that has dropped its last user.
 * @work: Ends the heap in a worker, if that thread cannot.
 */
struct karena_heap_life {
	struct kref ref;
	struct kref users;
	struct callback_head task;
	struct work_struct work;
};

/**
 * struct karena_heap_dir - A heap's directory in sysfs; see dir.c.
 * @kobj: The directory.
 * @released: Completed when @kobj is released; see karena_dir_free().
 * @work: Adds the directory after the first commit.
 * @uid: The user that made the heap.
 * @answerable: The user whose quota the directory counts against.
 * @gid: The group of the device node the heap was made through.
 *
 * The ids do not change. Bits of heap->flags say whether there is a directory.
 */
struct karena_heap_dir {
	struct kobject kobj;
	struct completion *released;
	struct delayed_work work;
	kuid_t uid;
	kuid_t answerable;
	kgid_t gid;
};

/**
 * struct karena_heap_control - A heap's control region; see control.c.
 * @pages: Its pages; NULL where no page has been needed yet.
 * @nr: The number of these pages.
 *
 * cmpxchg() adds a page, which stays until the heap is destroyed.
 */
struct karena_heap_control {
	struct page **pages;
	unsigned long nr;
};

/**
 * struct karena_heap_charge - Limits and charges of a heap; see limit.c.
 * @limit: Most pages that it may commit.
 * @soft_limit: Committed pages above which it is under pressure.
 * @committed: Pages that it has committed, is about to commit, or holds as orphans.
 * @pages: @committed plus the pages of ready frames.
 * @memlock: RLIMIT_MEMLOCK of its process when it was last read, in pages.
 *
 * The family's lock protects all members except @memlock.
 */
struct karena_heap_charge {
	unsigned long limit;
	unsigned long soft_limit;
	unsigned long committed;
	unsigned long pages;
	unsigned long memlock;
};

/**
 * struct karena_heap_orphans - Released folios that are still pinned; see folio.c.
 * @folios: The folios.
 * @nr: The number of these.
 * @wait_after: No commit waits for orphans before this time, in jiffies.
 * @reaping: Held to free orphans. An orphan is charged until it is free, so a commit that
 *	needs the room waits for the holder.
 * @work: Frees orphans that are no longer pinned.
 *
 * The family's lock protects the list and the number.
 */
struct karena_heap_orphans {
	struct list_head folios;
	unsigned long nr;
	unsigned long wait_after;
	struct mutex reaping;	/* see above */
	struct delayed_work work;
};

/**
 * struct karena_heap_ready - Frames that are cleared in advance for a heap; see ready.c.
 * @frames: The ready frames; NULL until the first use.
 * @nr: The number of these.
 * @ahead: How many frames the module keeps ready by itself, on @ahead_node.
 * @ahead_node: The node of the last huge frame that was committed soon after another one.
 * @last_commit: When a huge frame was last committed, in jiffies.
 * @fill_after: No frame is made ready before this time, in jiffies.
 * @work: Fills and drains @frames.
 *
 * The family's lock protects all members except @frames, @fill_after and @work.
 */
struct karena_heap_ready {
	struct karena_ready_frames *frames;
	unsigned long nr;
	unsigned int ahead;
	int ahead_node;
	unsigned long last_commit;
	unsigned long fill_after;
	struct kthread_delayed_work work;
};

/**
 * struct karena_heap_pressure - The pressure on a heap; see pressure.c.
 * @level: Of enum karena_pressure.
 * @events: How often the level has risen.
 * @until: When each level ends, in jiffies.
 * @wait: The queue of processes that wait for a rise; may outlive the heap.
 * @work: Lets the level fall.
 *
 * The family's lock protects the level, the events and the times.
 */
struct karena_heap_pressure {
	u32 level;
	u32 events;
	unsigned long until[KARENA_PRESSURE_HIGH + 1];
	struct karena_wait *wait;
	struct delayed_work work;
};

/**
 * struct karena_heap_groups - The memberships by which reclaim finds a heap; see group.c.
 * @members: The heap's memberships in groups; none is removed until the heap is destroyed.
 * @purges: Calls of reclaim at work in the heap; see the top.
 *
 * The lock of a group protects its members. cmpxchg() adds to the list of a heap's
 * memberships.
 */
struct karena_heap_groups {
	struct karena_member *members;
	atomic_t purges;
};

/**
 * struct karena_heap_stats - Statistics of a heap that its directory in sysfs shows.
 * @huge: Arenas with a huge frame.
 * @sparse: Arenas with a sparse frame.
 * @sparse_pages: Pages of sparse frames.
 * @based: Arenas with a base.
 * @demoted: Huge frames made sparse.
 * @promoted: Sparse frames made huge.
 * @copies: Shared pages that were copied.
 * @faults: Faults taken in the window.
 * @refused: Commits that failed without memory or at a limit.
 * @reclaimed: Arenas that reclaim has purged.
 * @reclaimed_ready: Ready frames that reclaim has freed.
 *
 * No lock protects the statistics, and none is exact while the heap changes.
 */
struct karena_heap_stats {
	atomic_long_t huge;
	atomic_long_t sparse;
	atomic_long_t sparse_pages;
	atomic_long_t based;
	atomic_long_t demoted;
	atomic_long_t promoted;
	atomic_long_t copies;
	atomic_long_t faults;
	atomic_long_t refused;
	atomic_long_t reclaimed;
	atomic_long_t reclaimed_ready;
};

/**
 * struct karena_heap - One process's private heap.
 * @life: Its references.
 * @dir: Its directory in sysfs.
 * @flags: Bits of enum karena_heap_flag.
 * @id: Its number, which is never reused.
 * @name: The name that the creator gave it.
 * @family: The family of the heap and its clones.
 * @sibling: Entry in the family's list of heaps; the family's lock protects it.
 * @by_mm: Entry in the hash table of heaps by address space; see heap.c.
 * @mm: The one address space that may map and drive it. The heap holds the structure, not
 *	the mappings.
 * @pid: Its process; NULL in a clone until the child has touched it.
 * @clock: The offset of its process's CLOCK_MONOTONIC, in units of the state words.
 * @policy: Of enum karena_policy.
 * @node: The NUMA node of @policy.
 * @fork: Of enum karena_fork.
 * @parent: The number of the heap that it was cloned from, or 0.
 * @first_key: The index of the window's first page in futex keys.
 * @start: The address of the window, or 0; mmap_lock protects it.
 * @nr_arenas: Arenas in the window.
 * @control: The control region.
 * @shares: Ranges that other processes may map; the family's lock protects the tree.
 * @cloning: See the top.
 * @promote_work: Promotes arenas that are no longer shared.
 * @chunks: Chunks of arenas, by index in the window divided by KARENA_CHUNK.
 * @charge: Limits and charges.
 * @orphans: Released folios that are still pinned.
 * @ready: Ready frames.
 * @pressure: Pressure.
 * @groups: Its memberships in groups.
 * @stats: Counts of its arenas and of events.
 *
 * All members without a lock are set before the heap is published, and do not change, except
 * @clock and @pid, which a clone's first touch sets.
 */
struct karena_heap {
	struct karena_heap_life life;
	struct karena_heap_dir dir;
	unsigned long flags;
	u64 id;
	char name[KARENA_NAME_SIZE];
	struct karena_family *family;
	struct list_head sibling;
	struct hlist_bl_node by_mm;
	struct mm_struct *mm;
	struct pid *pid;
	u32 clock;
	u32 policy;
	int node;
	u32 fork;
	u64 parent;
	pgoff_t first_key;
	unsigned long start;
	unsigned long nr_arenas;
	struct karena_heap_control control;
	struct rb_root_cached shares;
	struct rw_semaphore cloning;
	struct delayed_work promote_work;
	struct xarray chunks;

	struct karena_heap_charge charge;
	struct karena_heap_orphans orphans;
	struct karena_heap_ready ready;
	struct karena_heap_pressure pressure;
	struct karena_heap_groups groups;
	struct karena_heap_stats stats;
};

/**
 * enum karena_heap_flag - Bits of heap->flags.
 * @KARENA_HEAP_NAMED: Its directory has been added, or a worker is to add it.
 * @KARENA_HEAP_IN_SYSFS: Its directory has been added.
 * @KARENA_HEAP_LIMITED: Root has set its limit.
 * @KARENA_HEAP_ROOTS: The file that is being added to its directory belongs to root.
 * @KARENA_HEAP_FROZEN: All of its arenas are frozen; changed under the family's lock.
 * @KARENA_HEAP_CLONING: A clone that is being made.
 * @KARENA_HEAP_INCOMPLETE: A clone that lacks arenas of the heap: there was no memory to copy
 *	pages that devices hold.
 * @KARENA_HEAP_IO: For I/O buffers; it is never cloned.
 * @KARENA_HEAP_COW: It has been cloned, or is a clone.
 * @KARENA_HEAP_SNAPSHOT: A snapshot, which no process drives.
 * @KARENA_HEAP_EXITED: Its process has ended.
 */
enum karena_heap_flag {
	KARENA_HEAP_NAMED,
	KARENA_HEAP_IN_SYSFS,
	KARENA_HEAP_LIMITED,
	KARENA_HEAP_ROOTS,
	KARENA_HEAP_FROZEN,
	KARENA_HEAP_CLONING,
	KARENA_HEAP_INCOMPLETE,
	KARENA_HEAP_IO,
	KARENA_HEAP_COW,
	KARENA_HEAP_SNAPSHOT,
	KARENA_HEAP_EXITED,
};

/* Returns true if a heap has shares; without the family's lock, as of this moment. */
static inline bool karena_has_shares(const struct karena_heap *heap)
{
	return READ_ONCE(heap->shares.rb_root.rb_node);
}

static inline u64 karena_window_size(const struct karena_heap *heap)
{
	return (u64)heap->nr_arenas << KARENA_ARENA_SHIFT;
}

/* base.c */
extern struct workqueue_struct *karena_workqueue;
int karena_base_init(void);
void karena_base_exit(void);

/* fs.c */
extern struct inode *karena_keys;
struct inode *karena_fs_inode(loff_t size);
bool karena_fs_owns(const struct file *file);
struct file *karena_fs_file(struct inode *inode, const char *heap_name, int flags,
			    const struct file_operations *fops);
int karena_fs_init(void);
void karena_fs_exit(void);

#endif /* _KARENA_BASE_H */
