/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The module's own structures and functions. What guards what:
 *
 *	family->lock	spinlock; what the arenas of all heaps of a family have for frames,
 *			who else has these, the kernel's writes to the state words,
 *			limits and what is charged, ready frames, orphans, pressure, the
 *			family's heaps. Nothing is allocated and nothing sleeps under it.
 *	the list_lru	of groups' anchors; reclaim finds a group there and gets a reference
 *			under the list's lock, unless the group is about to be freed.
 *			Nothing else is done under that lock, which all memory cgroups
 *			may share.
 *	group->lock	spinlock; the heaps that are members of the group. A look at them
 *			keeps one heap at a time by heap->purges, and holds no lock
 *			from one to the next.
 *	heap->purges	counts reclaim at work in the heap: taken under the lock of a group
 *			whose member it is, waited for before the heap goes.
 *	CHANGING	bit lock of an arena: its frame and base are changed by one at a
 *			time, who may allocate meanwhile. Reclaim only tries it. Who clones
 *			the heap needs it only to keep reclaim away.
 *	FROZEN		bit of an arena, set and cleared under family->lock by who
 *			holds CHANGING: no fault takes a reference to the frame;
 *			it waits. Nothing is allocated meanwhile.
 *	folio lock	a folio leaves its arena, or the arena is frozen, only while it is
 *			locked or frozen by its count, and becomes another arena's as
 *			well only when nobody is in a fault there; so that a fault that
 *			holds the lock and has looked again hands the core a page that is
 *			still the arena's, writable only if it is nobody else's. That
 *			others let go of it needs no lock but family->lock.
 *	heap->chunks	of arenas, once made, stay until the heap goes: looked up
 *			without a lock, added under the xarray's own.
 *	folio->index	of a folio in use is changed under the folio lock, when an arena has it
 *			alone; folio->mapping is set before a process has it mapped, and
 *			cleared by who frees it (key.c).
 *	heap->by_mm	a bit lock in each bucket of the hash table by which a process's heap
 *			is found; innermost. The file of a heap in a bucket is not freed.
 *	mmap_lock	heap->start; a share is added with it held for reading. Who clones a
 *			heap holds that of its process for writing, and the locks of all
 *			VMAs of the window: none of its threads is in a fault. Those of
 *			other processes, where there are any, are kept waiting by
 *			HEAP_FROZEN.
 *
 *	heap->cloning	for reading: who takes CHANGING, but for reclaim, which takes only
 *			what no clone gets. For writing: who clones the heap, and changes
 *			nothing of its arenas.
 *
 * Order: mmap_lock or the VMA's lock -> heap->cloning -> CHANGING -> folio lock ->
 * family->lock. Memory is allocated with neither of the last two held.
 * unmap_mapping_range() takes i_mmap_rwsem and the page table locks; it is called with at
 * most CHANGING and a folio lock held, as the core's own reverse mapping does. To unmap
 * in the heap's own process alone, mmap_lock is tried for reading under CHANGING, never
 * waited for. Nothing of sysfs is made or removed under mmap_lock.
 *
 * Lifetime: a heap is that of its file, held by its descriptors and its mappings; after
 * that, what is left of it is that of its shares. A family is that of the file that all
 * mappings of its heaps are of; each heap holds it. Both hold the module; an
 * open sysfs attribute holds none (kernfs waits for it). The inode can outlive the
 * files (O_PATH): it holds the module, too. A work item that drops the last reference to a
 * file returns into the module's text: all run in the module's own queue, which its exit
 * drains.
 */
#ifndef _KARENA_KARENA_H
#define _KARENA_KARENA_H

#include <linux/atomic.h>
#include <linux/fs.h>
#include <linux/kobject.h>
#include <linux/kthread.h>
#include <linux/list_bl.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/poll.h>
#include <linux/rbtree.h>
#include <linux/refcount.h>
#include <linux/rwsem.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include <uapi/linux/karena.h>

#define KARENA_ARENA_ORDER	(KARENA_ARENA_SHIFT - PAGE_SHIFT)
#define KARENA_ARENA_PAGES	(KARENA_ARENA_SIZE >> PAGE_SHIFT)

/* 1 TiB: its state words take 2 MiB. */
#define KARENA_WINDOW_MAX	(KARENA_ARENA_SIZE << 19)

/* Of the inode of all futex keys, and of those that windows are mappings of. */
#define KARENA_KEYS_SIZE	(MAX_LFS_FILESIZE & PAGE_MASK)

/* Small structures of the owner's. At a limit they fail, as its frames do. */
#define KARENA_GFP	(GFP_KERNEL_ACCOUNT | __GFP_RETRY_MAYFAIL | __GFP_NOWARN)

/* Those of a clone: fork() does not ask whether it could be made. */
#define KARENA_CLONE_GFP	(GFP_KERNEL_ACCOUNT | __GFP_NOFAIL)

/*
 * For a copy: as for a page of anonymous memory. There may be nothing to do about it
 * but to start the OOM killer.
 */
#define KARENA_COPY_GFP	(GFP_HIGHUSER | __GFP_ACCOUNT)

/*
 * For a copy that a clone needs of what a device holds: fork() cannot fail, and must not
 * start the OOM killer for that.
 */
#define KARENA_OWN_GFP	(KARENA_COPY_GFP | __GFP_RETRY_MAYFAIL | __GFP_NOWARN)

/*
 * For a frame: cleared once, whether or not init_on_alloc is on; charged; at a limit
 * it fails, and never starts the OOM killer.
 */
#define KARENA_FRAME_GFP	(GFP_HIGHUSER | __GFP_ACCOUNT | __GFP_ZERO | \
				 __GFP_RETRY_MAYFAIL | __GFP_NOWARN)

struct completion;
struct io_uring_cmd;
struct karena_anchor;
struct karena_member;
struct kmem_cache;
struct mem_cgroup;
struct miscdevice;
struct pid;
struct shrink_control;
struct shrinker;

/**
 * struct karena_group - The heaps that have memory of one memory cgroup; see group.c.
 * @hash: In the hash table of groups.
 * @memcg: The number of the cgroup.
 * @users: References: of members, and of reclaim at work.
 * @lock: Guards the members and where the next look begins. Under it is nothing else.
 * @members: One for each heap.
 * @nr_members: How many these are.
 * @next: The member with which reclaim goes on, or NULL for the first.
 * @next_page: With which page of its state words.
 * @in_vain: How many members reclaim has looked at since it last saw an unshared arena.
 * @tell_work: Tells the members that memory is low; holds a reference when it is queued.
 * @told: When that was last, in jiffies.
 * @first: The anchor by which reclaim finds the group.
 * @anchors: The anchor for each NUMA node, or NULL.
 */
struct karena_group {
	struct hlist_node hash;
	u64 memcg;
	refcount_t users;
	spinlock_t lock;	/* see above */
	struct list_head members;
	unsigned long nr_members;
	struct karena_member *next;
	unsigned long next_page;
	unsigned long in_vain;
	struct work_struct tell_work;
	unsigned long told;
	struct karena_anchor *first;
	struct karena_anchor *anchors[];
};

/**
 * struct karena_member - A heap in a group.
 * @list: In the group's list; empty when the heap is about to go.
 * @group: The group.
 * @heap: The heap.
 * @others: The next of this heap's memberships, or NULL.
 */
struct karena_member {
	struct list_head list;
	struct karena_group *group;
	struct karena_heap *heap;
	struct karena_member *others;
};

/**
 * struct karena_look - A look of reclaim at a group.
 * @group: The group.
 * @pages: Looks at pages of state words of a heap, from one to an end that it excludes;
 *	returns the first that it has not looked at, which is the end unless it has seen
 *	enough.
 * @found: Set by @pages when there is something to take.
 * @stay: The next look begins where this one has found something first.
 */
struct karena_look {
	struct karena_group *group;
	unsigned long (*pages)(struct karena_look *look, struct karena_heap *heap,
			       unsigned long page, unsigned long end);
	bool found;
	bool stay;
};

/* How many groups one call of the shrinker looks at. */
#define KARENA_GROUPS	16

/**
 * struct karena_frame - The physical memory of an arena.
 * @group: Where it was charged; compared only, and NULL in a snapshot.
 * @owners: Of a huge frame, how many arenas' frame or base it is. Its pages are written
 *	to by one that is alone.
 * @folio: A huge frame: of order KARENA_ARENA_ORDER, of which the owners together own
 *	one reference. NULL when sparse.
 * @pages: A sparse frame: a pointer for each page. NULL where nothing is committed or,
 *	in an arena with a base, the base's page is. KARENA_ZERO where the base's page
 *	has been released. NULL when huge. The pages, of order 0, may be other sparse
 *	frames' as well: page_private() says how many others', and all together own one
 *	reference.
 * @nr_pages: How many pages there are.
 * @node: The NUMA node of the first of these.
 * @used: A huge frame that a fault has found before; the family's lock guards it.
 */
struct karena_frame {
	struct karena_group *group;
	unsigned int owners;
	struct folio *folio;
	struct page **pages;
	unsigned int nr_pages;
	int node;
	bool used;
};

/* In a sparse frame: reads as zeros, and has no page yet. */
#define KARENA_ZERO	ZERO_PAGE(0)

/* Whether what an arena has for a page is one. */
static inline bool karena_page_real(const struct page *page)
{
	return page && page != KARENA_ZERO;
}

/**
 * struct karena_arena - A slot of the window.
 * @heap: Whose window it is in.
 * @index: Where in it.
 * @flags: Bits of enum karena_arena_flag.
 * @tried_word: Its state word when reclaim last failed to take it.
 * @tried: When that was, in the units of the state words.
 * @frame: Its frame, or NULL.
 * @base: The huge frame below a sparse one, once pages have been copied; or NULL.
 */
struct karena_arena {
	struct karena_heap *heap;
	unsigned long index;
	unsigned long flags;
	u32 tried_word;
	u32 tried;
	struct karena_frame *frame;
	struct karena_frame *base;
};

/**
 * karena_arena_huge() - The huge frame of an arena, on top or below.
 * @arena: The arena, with CHANGING or the family's lock held.
 *
 * Return: The frame, or NULL.
 */
static inline struct karena_frame *karena_arena_huge(struct karena_arena *arena)
{
	if (arena->base)
		return arena->base;
	return arena->frame && arena->frame->folio ? arena->frame : NULL;
}

/* Arenas are made so many at a time: to clone a heap must not take long. */
#define KARENA_CHUNK	64

/**
 * struct karena_chunk - Neighbouring arenas.
 * @arenas: They.
 */
struct karena_chunk {
	struct karena_arena arenas[KARENA_CHUNK];
};

/**
 * enum karena_arena_flag - Bits of arena->flags; see the top.
 * @KARENA_ARENA_CHANGING: Lock.
 * @KARENA_ARENA_FROZEN: Faults wait.
 */
enum karena_arena_flag {
	KARENA_ARENA_CHANGING,
	KARENA_ARENA_FROZEN,
};

/**
 * struct karena_ready_node - A heap's ready frames on one NUMA node.
 * @folios: The frames.
 * @nr: How many these are.
 * @wanted: How many the process wants.
 */
struct karena_ready_node {
	struct list_head folios;
	unsigned int nr;
	unsigned int wanted;
};

/**
 * struct karena_ready_frames - All ready frames of a heap.
 * @group: Where reclaim finds them.
 * @node: One for each node there may be.
 */
struct karena_ready_frames {
	struct karena_group *group;
	struct karena_ready_node node[];
};

/**
 * struct karena_family - A heap and its clones. Their mappings are those of one inode.
 * @lock: See the top.
 * @heaps: The heaps, the latest first; snapshots are not among them.
 * @file: What their windows map, and what each of them holds.
 * @mapping: Of the inode: all of their mappings and no others.
 * @shared: Its policy is SHARE: it has one heap, which every process drives.
 * @gone_work: Lets heaps promote arenas when an owner of shared frames has gone.
 * @left_waits: Queues of heaps that are gone, on which processes still wait.
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
 * struct karena_wait - The queue of processes that wait for a heap's pressure.
 * @queue: The queue; each of its entries holds a file of the family.
 * @left: In the family's list, when the heap is gone.
 * @rcu: To free it.
 */
struct karena_wait {
	wait_queue_head_t queue;
	struct list_head left;
	struct rcu_head rcu;
};

/**
 * struct karena_heap - One process's private heap.
 * @kobj: Its directory in sysfs.
 * @released: Of karena_sysfs_free(): @kobj is out of use.
 * @sysfs_work: Adds the directory after the first commit.
 * @flags: Bits of enum karena_heap_flag.
 * @id: Its number; never used twice.
 * @name: What the creator called it.
 * @family: Its own and its clones'.
 * @sibling: In the family's list of heaps.
 * @by_mm: In the hash table by which a process's heap is found; see heap.c.
 * @file: Its own; not counted.
 * @mm: The one address space that may map and drive it; its memory is held, its
 *	mappings are not.
 * @users: Its file, and shares.
 * @mappings: How many VMAs it has.
 * @end_work: Empties it when its process is gone, but not its descriptors.
 * @pid: Its process; NULL in a clone until that has touched it.
 * @uid: The user that made it.
 * @answerable: The user that has to answer for its directory.
 * @gid: The group of the device node it was made through.
 * @clock: What its process's CLOCK_MONOTONIC is ahead, in units of the state words.
 * @policy: Of enum karena_policy.
 * @node: The NUMA node that goes with it.
 * @fork: Of enum karena_fork.
 * @parent: The number of the heap it is a clone of, or 0.
 * @first_key: The index of the window's first page in futex keys.
 * @start: Where the window is, or 0; mmap_lock's.
 * @nr_arenas: Arenas in the window.
 * @control: The pages of the control region; NULL where nobody has been yet.
 * @nr_control: How many these are.
 * @limit: Pages it may commit. The family's lock guards this and what follows it up to
 *	@shares.
 * @soft_limit: Pages above which it is under pressure.
 * @committed: Pages it has committed, is about to, or holds as orphans.
 * @charged: These and the pages it keeps ready.
 * @memlock: Pages that RLIMIT_MEMLOCK allowed when somebody last looked.
 * @orphans: Folios that were released but are pinned.
 * @nr_orphans: How many these are.
 * @reaping: Held to free orphans: each is charged until it is free, and a commit that needs
 *	the room waits.
 * @wait_after: No commit waits for orphans before this, in jiffies.
 * @ready: Its ready frames, once it has had any.
 * @nr_ready: How many these are.
 * @ahead: How many the module keeps ready by itself, on @ahead_node.
 * @ahead_node: Where the last commit was.
 * @last_commit: When a huge frame was last committed, in jiffies.
 * @fill_after: No frame is made ready before, in jiffies.
 * @pressure: Of enum karena_pressure.
 * @pressure_events: How often it has risen.
 * @pressure_until: Until when each level lasts, in jiffies.
 * @pressure_wait: The queue of those that wait for a rise; may outlive the heap.
 * @shares: Ranges that other processes may map.
 * @orphan_work: Frees orphans that nobody pins any more.
 * @pressure_work: Lets pressure fall.
 * @cloning: See the top.
 * @promote_work: Makes huge again what nobody shares any more.
 * @ready_work: Fills and drains @ready.
 * @chunks: Of arenas, by their index in the window divided by KARENA_CHUNK.
 * @huge: Arenas with a huge frame.
 * @sparse: Arenas with a sparse frame.
 * @sparse_pages: Pages of these.
 * @based: Arenas with a base.
 * @demoted: Huge frames made sparse.
 * @promoted: Sparse frames made huge.
 * @copies: Pages copied because others have them, too.
 * @faults: Faults taken in the window.
 * @refused: Commits that failed for want of memory or at a limit.
 * @members: Its memberships in groups; they only become more until it goes.
 * @purges: Reclaim at work in it.
 * @reclaimed: Arenas that reclaim took from it.
 * @reclaimed_ready: Ready frames that reclaim took from it.
 */
struct karena_heap {
	struct kobject kobj;
	struct completion *released;
	struct delayed_work sysfs_work;
	unsigned long flags;
	u64 id;
	char name[KARENA_NAME_SIZE];
	struct karena_family *family;
	struct list_head sibling;
	struct hlist_bl_node by_mm;
	struct file *file;
	struct mm_struct *mm;
	refcount_t users;
	atomic_t mappings;
	struct work_struct end_work;
	struct pid *pid;
	kuid_t uid;
	kuid_t answerable;
	kgid_t gid;
	u32 clock;
	u32 policy;
	int node;
	u32 fork;
	u64 parent;
	pgoff_t first_key;
	unsigned long start;
	unsigned long nr_arenas;
	struct page **control;
	unsigned long nr_control;

	unsigned long limit;
	unsigned long soft_limit;
	unsigned long committed;
	unsigned long charged;
	unsigned long memlock;
	struct list_head orphans;
	unsigned long nr_orphans;
	struct mutex reaping;	/* see above */
	unsigned long wait_after;
	struct karena_ready_frames *ready;
	unsigned long nr_ready;
	unsigned int ahead;
	int ahead_node;
	unsigned long last_commit;
	unsigned long fill_after;
	u32 pressure;
	u32 pressure_events;
	unsigned long pressure_until[KARENA_PRESSURE_HIGH + 1];
	struct karena_wait *pressure_wait;
	struct rb_root_cached shares;

	struct delayed_work orphan_work;
	struct delayed_work pressure_work;
	struct rw_semaphore cloning;
	struct delayed_work promote_work;
	struct kthread_delayed_work ready_work;
	struct xarray chunks;
	atomic_long_t huge;
	atomic_long_t sparse;
	atomic_long_t sparse_pages;
	atomic_long_t based;
	atomic_long_t demoted;
	atomic_long_t promoted;
	atomic_long_t copies;
	atomic_long_t faults;
	atomic_long_t refused;
	struct karena_member *members;
	atomic_t purges;
	atomic_long_t reclaimed;
	atomic_long_t reclaimed_ready;
};

/**
 * enum karena_heap_flag - Bits of heap->flags.
 * @KARENA_HEAP_NAMED: Its directory is being added, or has been.
 * @KARENA_HEAP_IN_SYSFS: Its directory has been added.
 * @KARENA_HEAP_LIMITED: Root has set its limit.
 * @KARENA_HEAP_ROOTS: The file of sysfs that is being made is root's.
 * @KARENA_HEAP_FROZEN: All of its arenas are frozen, under the family's lock.
 * @KARENA_HEAP_SCATTERED: Its window has been moved, or is mapped twice.
 * @KARENA_HEAP_CLONING: A clone that is being made.
 * @KARENA_HEAP_INCOMPLETE: A clone without arenas that the heap has: there was no memory
 *	to copy what devices hold.
 * @KARENA_HEAP_IO: For I/O buffers; it is never cloned.
 * @KARENA_HEAP_COW: It has been cloned, or is a clone.
 * @KARENA_HEAP_SNAPSHOT: A snapshot; nobody drives it.
 */
enum karena_heap_flag {
	KARENA_HEAP_NAMED,
	KARENA_HEAP_IN_SYSFS,
	KARENA_HEAP_LIMITED,
	KARENA_HEAP_ROOTS,
	KARENA_HEAP_FROZEN,
	KARENA_HEAP_SCATTERED,
	KARENA_HEAP_CLONING,
	KARENA_HEAP_INCOMPLETE,
	KARENA_HEAP_IO,
	KARENA_HEAP_COW,
	KARENA_HEAP_SNAPSHOT,
};

/* Whether a heap has shares; without the family's lock the answer may become wrong. */
static inline bool karena_has_shares(const struct karena_heap *heap)
{
	return READ_ONCE(heap->shares.rb_root.rb_node);
}

static inline u64 karena_window_size(const struct karena_heap *heap)
{
	return (u64)heap->nr_arenas << KARENA_ARENA_SHIFT;
}

/**
 * struct karena_share_range - A share.
 * @node: In the heap's interval tree.
 * @subtree_last: Of that tree.
 * @heap: Whose range it is; the share is one of its users.
 * @first: The first page, counted from the window's start.
 * @count: How many pages.
 */
struct karena_share_range {
	struct rb_node node;
	unsigned long subtree_last;
	struct karena_heap *heap;
	unsigned long first;
	unsigned long count;
};

/**
 * struct karena_windows - A process's mappings of a window.
 * @vmas: The mappings, by their offsets.
 * @nr: How many these are: the window may be mapped in parts.
 * @overlap: The mappings may overlap: the window has been moved, or is mapped twice.
 */
struct karena_windows {
	struct vm_area_struct **vmas;
	unsigned int nr;
	bool overlap;
};

/**
 * struct karena_place - What is at a page of the window.
 * @page: The page, its folio locked and with a reference; or KARENA_ZERO.
 * @shared: Others have it, too: it must be copied before it is written to.
 * @by_pages: The arena has pages that are not its huge frame's: none of it may be
 *	mapped by one PMD.
 * @used: A fault has found the arena's huge frame before.
 */
struct karena_place {
	struct page *page;
	bool shared;
	bool by_pages;
	bool used;
};

/* base.c */
extern struct workqueue_struct *karena_workqueue;
int karena_base_init(void);
void karena_base_exit(void);

/* heap.c */
extern atomic_long_t karena_nr_heaps;
struct file *karena_heap_create(const struct karena_create *create, kgid_t gid,
				const struct file_operations *heap_fops,
				const struct file_operations *window_fops);
struct karena_heap *karena_heap_clone(struct karena_heap *heap, struct mm_struct *mm);
struct file *karena_heap_open_clone(struct karena_heap *heap, struct karena_heap *clone);
struct file *karena_heap_open_snapshot(struct karena_heap *clone,
				       const struct file_operations *fops);
struct file *karena_heap_file(struct karena_heap *heap, int flags,
			      const struct file_operations *fops, void *data);
struct file *karena_heap_mine(struct file *file);
struct file *karena_heap_find(struct karena_family *family, struct mm_struct *mm);
struct file *karena_heap_by_id(u64 id);
struct karena_heap *karena_heap_mapped(struct vm_area_struct *vma);
void karena_heap_put(struct karena_heap *heap);
void karena_heap_touch(struct karena_heap *heap);
int karena_heap_release(struct inode *inode, struct file *file);
int karena_family_release(struct inode *inode, struct file *file);
void karena_heap_share(struct karena_heap *heap, struct karena_share_range *share);
void karena_heap_unshare(struct karena_heap *heap, struct karena_share_range *share);
bool karena_heap_end(struct karena_heap *heap);
void karena_heap_end_work(struct work_struct *work);

/* fs.c */
extern struct inode *karena_keys;
struct inode *karena_fs_inode(loff_t size);
bool karena_fs_owns(const struct file *file);
struct file *karena_fs_file(struct inode *inode, const char *heap_name, int flags,
			    const struct file_operations *fops);
struct file *karena_fs_file_certain(struct inode *inode, const char *heap_name,
				    int flags, const struct file_operations *fops);
int karena_fs_init(void);
void karena_fs_exit(void);

/* arena.c */
struct karena_arena *karena_arena(struct karena_heap *heap, unsigned long index);
struct karena_arena *karena_arena_make(struct karena_heap *heap, unsigned long index,
				       gfp_t gfp);
void karena_arena_lock(struct karena_arena *arena);
void karena_arena_unlock(struct karena_arena *arena);
void karena_arena_freeze(struct karena_arena *arena);
void karena_arena_thaw(struct karena_arena *arena);
struct page *karena_arena_page(struct karena_arena *arena, unsigned long i);
bool karena_arena_has(struct karena_heap *heap, unsigned long page);
bool karena_arena_lock_page(struct karena_heap *heap, unsigned long page,
			    struct karena_place *place);
void karena_arena_unlock_page(struct karena_place *place);
void karena_arena_empty(struct karena_arena *arena);
void karena_arena_free(struct karena_heap *heap, struct karena_frame *frame,
		       struct karena_frame *base);
void karena_arena_unmap(struct karena_arena *arena, unsigned long first,
			unsigned long count);
void karena_arena_destroy_all(struct karena_heap *heap);
int karena_arena_init(void);
void karena_arena_exit(void);

/* commit.c */
int karena_commit(struct karena_heap *heap, unsigned long page, unsigned long count,
		  bool single, bool *again);
void karena_release(struct karena_heap *heap, unsigned long index,
		    const unsigned long *gone);

/* purge.c */
bool karena_purge(struct karena_arena *arena, u32 word);

/* sparse.c */
void karena_sparse_trim(struct karena_arena *arena);
void karena_sparse_set(struct karena_arena *arena, unsigned long i, struct folio *folio);
struct folio *karena_sparse_alloc(struct karena_arena *arena, unsigned long i,
				  gfp_t gfp);
void karena_sparse_settle(struct karena_arena *arena, const unsigned long *which);
void karena_sparse_freeze(struct karena_arena *arena, const unsigned long *which);
int karena_sparse_hold(struct karena_frame *frame);
void karena_sparse_release(struct karena_arena *arena, const unsigned long *gone);
bool karena_sparse_demote(struct karena_arena *arena, const unsigned long *gone);

/* cow.c */
extern atomic_long_t karena_nr_copies;
extern atomic_long_t karena_nr_promoted;
int karena_cow_split(struct karena_arena *arena, gfp_t gfp);
int karena_cow_copy(struct karena_heap *heap, struct vm_area_struct *vma,
		    unsigned long page);
int karena_cow_own(struct karena_arena *arena,
		   bool (*held)(struct karena_arena *arena, struct page *page));
bool karena_cow_promote(struct karena_heap *heap, unsigned long page);
unsigned long karena_cow_shared(struct karena_heap *heap);
void karena_cow_prepare(struct karena_heap *heap);
void karena_cow_gone(struct karena_family *family);
void karena_cow_begin(struct karena_family *family);
void karena_cow_end(struct karena_family *family);

/* clone.c */
struct karena_heap *karena_clone(struct karena_heap *heap, struct mm_struct *mm,
				 struct karena_windows *windows);

/* snapshot.c */
struct file *karena_snapshot_open(struct karena_heap *heap,
				  struct karena_snapshot *call);
struct file *karena_snapshot_find(const struct karena_snapshot *call);

/* share.c */
struct file *karena_share_open(struct karena_heap *heap,
			       const struct karena_share *call);

/* range.c */
bool karena_range_valid(const struct karena_heap *heap, u64 offset, u64 length);
int karena_range_release(struct karena_heap *heap, u64 offset, u64 length);
int karena_ranges_commit(struct karena_heap *heap, const struct karena_ranges *call);
int karena_ranges_release(struct karena_heap *heap, const struct karena_ranges *call);

/* frame.c */
extern atomic_long_t karena_nr_huge;
extern atomic_long_t karena_nr_sparse;
extern atomic_long_t karena_nr_sparse_pages;
void karena_frame_count(struct karena_heap *heap, long huge, long sparse, long pages);
struct karena_frame *karena_frame_huge(struct karena_heap *heap, struct folio *folio);
struct karena_frame *karena_frame_sparse(struct karena_heap *heap, int node, gfp_t gfp);
void karena_frame_discard(struct karena_frame *frame);
void karena_frame_give(struct karena_arena *arena, struct karena_frame *frame);
void karena_frame_leave(struct karena_heap *heap, struct karena_frame *frame,
			bool counted);
void karena_page_leave(struct karena_heap *heap, struct folio *folio, bool counted);
bool karena_frame_shared(struct karena_arena *arena, struct page *page);
int karena_frame_init(void);
void karena_frame_exit(void);

/* folio.c */
struct mem_cgroup *karena_folio_memcg(struct karena_heap *heap);
struct folio *karena_folio_alloc(struct karena_heap *heap, unsigned int order,
				 int node, gfp_t gfp);
bool karena_folio_bad(struct folio *folio);
void karena_folio_put(struct folio *folio);
void karena_folio_free(struct karena_heap *heap, struct folio *folio, bool counted);
void karena_folio_reap_some(struct karena_heap *heap);
bool karena_folio_reap(struct karena_heap *heap);
bool karena_folio_passing(struct karena_heap *heap);
void karena_folio_wait(struct karena_heap *heap);
void karena_folio_prepare(struct karena_heap *heap);
void karena_folio_abandon(struct karena_heap *heap);
int karena_folio_local_node(void);
bool karena_folio_node_allowed(int node);
int karena_folio_node(const struct karena_heap *heap, unsigned long index);
long karena_folio_orphans(void);
long karena_folio_poisoned(void);
void karena_folio_exit(void);

/* key.c */
int karena_key_prepare(struct karena_heap *heap, gfp_t gfp);
void karena_key_abandon(struct karena_heap *heap);
void karena_key_set(struct karena_heap *heap, struct folio *folio, pgoff_t page);
bool karena_key_is(struct karena_heap *heap, struct page *page, pgoff_t number);
void karena_key_claim(struct karena_heap *heap, struct page *page, pgoff_t number);
void karena_key_clear(struct folio *folio);

/* ready.c */
struct folio *karena_ready_take(struct karena_heap *heap, int node, bool any);
void karena_ready_fit(struct karena_heap *heap);
void karena_ready_committed(struct karena_heap *heap, int node);
struct folio *karena_ready_give_up(struct karena_heap *heap);
unsigned long karena_ready_drop(struct karena_heap *heap, unsigned long count,
				int node);
int karena_ready_call(struct karena_heap *heap, struct karena_ready *call);
void karena_ready_forget(struct karena_heap *heap);
void karena_ready_prepare(struct karena_heap *heap);
void karena_ready_stop(struct karena_heap *heap);
long karena_ready_total(void);
int karena_ready_init(void);
void karena_ready_exit(void);

/* group.c */
int karena_group_join(struct karena_heap *heap, struct mem_cgroup *memcg, int node,
		      gfp_t gfp, struct karena_group **group);
void karena_group_inherit(struct karena_heap *heap, struct karena_heap *clone);
void karena_group_leave(struct karena_heap *heap);
void karena_group_put(struct karena_group *group);
bool karena_group_look(struct karena_look *look);
void karena_group_tell(struct karena_group *group);
bool karena_groups_get(struct shrink_control *sc, struct karena_group **groups,
		       unsigned int *nr);
void karena_purge_get(struct karena_heap *heap);
void karena_purge_put(struct karena_heap *heap);
int karena_groups_init(struct shrinker *shrinker);
void karena_groups_exit(void);

/* reclaim.c */
extern atomic_long_t karena_nr_reclaimed;
extern atomic_long_t karena_nr_reclaimed_ready;
int karena_reclaim_init(void);
void karena_reclaim_exit(void);

/* limit.c */
int karena_charge(struct karena_heap *heap, unsigned long pages);
void karena_uncharge(struct karena_heap *heap, unsigned long pages);
void karena_charge_heap(struct karena_heap *heap, long pages);
void karena_charge_all(long pages);
bool karena_charge_room(struct karena_heap *heap, unsigned long pages);
int karena_charge_ready(struct karena_heap *heap, unsigned long pages);
void karena_uncharge_ready(struct karena_heap *heap, unsigned long pages);
void karena_charge_committed(struct karena_heap *heap, unsigned long pages);
void karena_limit_abandon(struct karena_heap *heap);
unsigned long karena_limit_memlock(void);
bool karena_limit_exceeded(struct karena_heap *heap);
bool karena_limit_allows(struct karena_heap *heap, unsigned long pages);
int karena_limit_call(struct karena_heap *heap, struct karena_limit *call);
unsigned long karena_limit_pages(u64 bytes);
int karena_limit_by_root(struct karena_heap *heap, u64 bytes);
unsigned long karena_limit(void);
unsigned long karena_committed(void);
void karena_limit_init(void);

/* pressure.c */
void karena_pressure_raise(struct karena_heap *heap, u32 level);
void karena_pressure_check(struct karena_heap *heap);
bool karena_pressure_low(struct mem_cgroup *memcg);
__poll_t karena_pressure_poll(struct karena_heap *heap, struct file *file,
			      struct poll_table_struct *table);
int karena_pressure_prepare(struct karena_heap *heap, gfp_t gfp);
void karena_pressure_stop(struct karena_heap *heap);
void karena_pressure_forget(struct karena_family *family);

/* control.c */
struct page *karena_control_page(struct karena_heap *heap, unsigned long number,
				 gfp_t gfp);
bool karena_control_states(struct karena_heap *heap, unsigned long index, gfp_t gfp);
void karena_control_copy(struct karena_heap *heap, struct karena_heap *clone);
u64 karena_control_size(unsigned long nr_arenas);
int karena_control_alloc(struct karena_heap *heap, gfp_t gfp);
void karena_control_lock(struct karena_heap *heap, struct page *page);
void karena_control_settle(struct karena_heap *heap);
void karena_control_free(struct karena_heap *heap);
struct karena_control *karena_control(struct karena_heap *heap);
unsigned long karena_control_volatile(struct karena_heap *heap);
void karena_control_stats(struct karena_heap *heap, struct karena_stats *stats);
bool karena_control_part(struct karena_heap *heap, unsigned long index,
			 unsigned long *gone);
u32 *karena_state(struct karena_heap *heap, unsigned long index);
unsigned long karena_control_word_pages(const struct karena_heap *heap);
u32 *karena_control_words(struct karena_heap *heap, unsigned long page,
			  unsigned long *first, unsigned long *count);

/* fault.c */
vm_fault_t karena_fault(struct vm_fault *vmf);
vm_fault_t karena_page_mkwrite(struct vm_fault *vmf);
vm_fault_t karena_huge_fault(struct vm_fault *vmf);

/* map.c */
struct karena_heap *karena_map_clone(struct karena_heap *heap, struct mm_struct *mm);
int karena_mmap(struct file *file, struct vm_area_struct *vma);
int karena_mmap_snapshot(struct file *file, struct vm_area_struct *vma);
void karena_map_alias(struct karena_heap *heap, struct vm_area_struct *vma);

/* window.c */
bool karena_is_window(const struct vm_area_struct *vma, const struct karena_heap *heap);
bool karena_windows_any(struct karena_heap *heap);
void karena_windows_get(struct karena_heap *heap, struct karena_windows *windows);
void karena_windows_put(struct karena_windows *windows);
void karena_windows_unmap(struct karena_windows *windows, unsigned long from,
			  unsigned long to);
bool karena_windows_can_protect(struct karena_heap *heap);
void karena_windows_protect(struct karena_windows *windows, unsigned long from,
			    unsigned long to);
bool karena_window_unmap(struct karena_heap *heap, unsigned long from, unsigned long to);

/* file.c */
long karena_heap_fallocate(struct file *file, int mode, loff_t offset, loff_t len);
long karena_window_fallocate(struct file *file, int mode, loff_t offset, loff_t len);
__poll_t karena_heap_poll(struct file *file, struct poll_table_struct *table);
int karena_heap_flush(struct file *file, fl_owner_t id);

/* ioctl.c */
long karena_ioctl(struct file *file, unsigned int cmd, unsigned long arg);

/* dir.c */
void karena_dir_prepare(struct karena_heap *heap);
void karena_dir_free(struct karena_heap *heap);
void karena_dir_add(struct karena_heap *heap);
void karena_dir_remove(struct karena_heap *heap);
int karena_dir_init(struct kobject *device, const struct sysfs_ops *ops,
		    const struct attribute_group *group, const struct attribute *limit);
void karena_dir_exit(void);

/* sysfs.c */
extern const struct attribute_group *karena_groups[];
int karena_sysfs_init(struct miscdevice *device);
void karena_sysfs_exit(void);

#endif /* _KARENA_KARENA_H */
