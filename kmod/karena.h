/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The module's own structures and functions. What guards what:
 *
 *	family->lock	spinlock; what the arenas of all heaps of a family have for frames,
 *			who else has these, the kernel's writes to the state words,
 *			limits and what is charged, ready frames, orphans, pressure, the
 *			family's heaps. Nothing is allocated and nothing sleeps under it.
 *	the list_lrus	of all frames, and of all heaps' ready frames; what is on one
 *			belongs to a living family or heap. Their locks are taken before
 *			family->lock.
 *	heap->purges	counts reclaim at work in the heap: taken under family->lock
 *			for an arena that is on its frame's list (ready frames: under
 *			the list's lock), waited for before the heap goes.
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
 * most CHANGING and a folio lock held, as the core's own reverse mapping does. Nothing of
 * sysfs is made or removed under mmap_lock.
 *
 * Lifetime: a heap is that of its file, held by its descriptors and its mappings; after
 * that, what is left of it is that of its shares. A family is that of the file that all
 * mappings of its heaps are of; each heap holds it. Both hold the module; an
 * open sysfs attribute holds none (kernfs waits for it). The inode can outlive the
 * files (O_PATH): it holds the module, too.
 */
#ifndef _KARENA_KARENA_H
#define _KARENA_KARENA_H

#include <linux/atomic.h>
#include <linux/fs.h>
#include <linux/kobject.h>
#include <linux/kthread.h>
#include <linux/mm_types.h>
#include <linux/poll.h>
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
 * For a frame: cleared once, whether or not init_on_alloc is on; charged; at a limit
 * it fails, and never starts the OOM killer.
 */
#define KARENA_FRAME_GFP	(GFP_HIGHUSER | __GFP_ACCOUNT | __GFP_ZERO | \
				 __GFP_RETRY_MAYFAIL | __GFP_NOWARN)

struct io_uring_cmd;
struct kmem_cache;
struct mem_cgroup;
struct miscdevice;
struct pid;

/**
 * struct karena_frame - The physical memory of an arena; shows it to reclaim.
 * @lru: In the list of its memory cgroup and node.
 * @family: Whose it is.
 * @arenas: Whose frame it is; those whose base it is are not on this list.
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
 */
struct karena_frame {
	struct list_head lru;
	struct karena_family *family;
	struct list_head arenas;
	unsigned int owners;
	struct folio *folio;
	struct page **pages;
	unsigned int nr_pages;
	int node;
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
 * @listed: In the list of its frame.
 * @tried_word: Its state word when reclaim last failed to take it.
 * @tried: When that was, in the units of the state words.
 * @frame: Its frame, or NULL.
 * @base: The huge frame below a sparse one, once pages have been copied; or NULL.
 */
struct karena_arena {
	struct karena_heap *heap;
	unsigned long index;
	unsigned long flags;
	struct list_head listed;
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
 * @heap: Whose.
 * @lru: In the list of all heaps' ready frames.
 * @node: One for each node there may be.
 */
struct karena_ready_frames {
	struct karena_heap *heap;
	struct list_head lru;
	struct karena_ready_node node[];
};

/**
 * struct karena_family - A heap and its clones. Their mappings are those of one inode.
 * @lock: See the top.
 * @heaps: The heaps, the latest first; snapshots are not among them.
 * @file: What their windows map, and what each of them holds.
 * @mapping: Of the inode: all of their mappings and no others.
 * @pressure_wait: Who polls.
 */
struct karena_family {
	spinlock_t lock;	/* see the top */
	struct list_head heaps;
	struct file *file;
	struct address_space *mapping;
	wait_queue_head_t pressure_wait;
};

/**
 * struct karena_heap - One process's private heap.
 * @kobj: Its directory in sysfs; counts references.
 * @sysfs_work: Adds the directory after the first commit.
 * @flags: Bits of enum karena_heap_flag.
 * @id: Its number; never used twice.
 * @name: What the creator called it.
 * @family: Its own and its clones'.
 * @sibling: In the family's list of heaps.
 * @file: Its own; not counted.
 * @mm: The one address space that may map and drive it; its memory is held, its
 *	mappings are not.
 * @users: Its file, and shares.
 * @mappings: How many VMAs it has.
 * @end_work: Empties it when its process is gone, but not its descriptors.
 * @pid: Its process; NULL in a clone until that has touched it.
 * @uid: The user that made it.
 * @gid: The group of the device node it was made through.
 * @clock: What its process's CLOCK_MONOTONIC is ahead, in units of the state words.
 * @policy: Of enum karena_policy.
 * @node: The NUMA node that goes with it.
 * @fork: Of enum karena_fork.
 * @parent: The number of the heap it is a clone of, or 0.
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
 * @ready: Its ready frames, once it has had any.
 * @nr_ready: How many these are.
 * @ahead: How many the module keeps ready by itself, on @ahead_node.
 * @ahead_node: Where the last commit was.
 * @last_commit: When a huge frame was last committed, in jiffies.
 * @fill_after: No frame is made ready before, in jiffies.
 * @pressure: Of enum karena_pressure.
 * @pressure_events: How often it has risen.
 * @pressure_until: Until when each level lasts, in jiffies.
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
 * @purges: Reclaim at work in it.
 * @reclaimed: Arenas that reclaim took from it.
 * @reclaimed_ready: Ready frames that reclaim took from it.
 */
struct karena_heap {
	struct kobject kobj;
	struct delayed_work sysfs_work;
	unsigned long flags;
	u64 id;
	char name[KARENA_NAME_SIZE];
	struct karena_family *family;
	struct list_head sibling;
	struct file *file;
	struct mm_struct *mm;
	refcount_t users;
	atomic_t mappings;
	struct work_struct end_work;
	struct pid *pid;
	kuid_t uid;
	kgid_t gid;
	u32 clock;
	u32 policy;
	int node;
	u32 fork;
	u64 parent;
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
	struct karena_ready_frames *ready;
	unsigned long nr_ready;
	unsigned int ahead;
	int ahead_node;
	unsigned long last_commit;
	unsigned long fill_after;
	u32 pressure;
	u32 pressure_events;
	unsigned long pressure_until[KARENA_PRESSURE_HIGH + 1];
	struct list_head shares;

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
	KARENA_HEAP_IO,
	KARENA_HEAP_COW,
	KARENA_HEAP_SNAPSHOT,
};

static inline u64 karena_window_size(const struct karena_heap *heap)
{
	return (u64)heap->nr_arenas << KARENA_ARENA_SHIFT;
}

/**
 * struct karena_share_range - A share.
 * @list: In the heap's list.
 * @heap: Whose range it is; the share is one of its users.
 * @first: The first page, counted from the window's start.
 * @count: How many pages.
 */
struct karena_share_range {
	struct list_head list;
	struct karena_heap *heap;
	unsigned long first;
	unsigned long count;
};

/**
 * struct karena_windows - A process's mappings of a window.
 * @vmas: They.
 * @nr: How many these are: one, unless something has split it.
 */
struct karena_windows {
	struct vm_area_struct **vmas;
	unsigned int nr;
};

/**
 * struct karena_place - What is at a page of the window.
 * @page: The page, its folio locked and with a reference; or KARENA_ZERO.
 * @shared: Others have it, too: it must be copied before it is written to.
 * @by_pages: The arena has pages that are not its huge frame's: none of it may be
 *	mapped by one PMD.
 */
struct karena_place {
	struct page *page;
	bool shared;
	bool by_pages;
};

/* heap.c */
struct file *karena_heap_create(const struct karena_create *create, kgid_t gid);
struct karena_heap *karena_heap_clone(struct karena_heap *heap, struct mm_struct *mm);
struct file *karena_heap_open_clone(struct karena_heap *clone);
struct file *karena_heap_open_snapshot(struct karena_heap *clone);
struct file *karena_heap_file(struct karena_heap *heap, int flags,
			      const struct file_operations *fops, void *data);
struct file *karena_heap_mine(struct file *file);
struct file *karena_heap_find(struct karena_heap *heap, struct mm_struct *mm);
struct file *karena_heap_by_id(u64 id);
struct karena_heap *karena_heap_mapped(struct vm_area_struct *vma);
void karena_heap_put(struct karena_heap *heap);
void karena_heap_adopt(struct karena_heap *heap);
bool karena_heap_end(struct karena_heap *heap);
void karena_heap_end_work(struct work_struct *work);

/* fs.c */
struct inode *karena_fs_inode(loff_t size);
struct file *karena_fs_file(struct inode *inode, const char *heap_name, int flags,
			    const struct file_operations *fops);
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
int karena_arena_commit(struct karena_heap *heap, unsigned long page,
			unsigned long count, bool single);
bool karena_arena_has(struct karena_heap *heap, unsigned long page);
bool karena_arena_lock_page(struct karena_heap *heap, unsigned long page,
			    struct karena_place *place);
void karena_arena_unlock_page(struct karena_place *place);
void karena_arena_release(struct karena_heap *heap, unsigned long index,
			  const unsigned long *gone);
void karena_arena_empty(struct karena_arena *arena);
void karena_arena_free(struct karena_heap *heap, struct karena_frame *frame,
		       struct karena_frame *base);
void karena_arena_unmap(struct karena_arena *arena, unsigned long first,
			unsigned long count);
void karena_arena_destroy_all(struct karena_heap *heap);
int karena_arena_init(void);
void karena_arena_exit(void);

/* purge.c */
bool karena_purge(struct karena_arena *arena, u32 word);

/* sparse.c */
struct folio *karena_sparse_alloc(struct karena_arena *arena, unsigned long i,
				  gfp_t gfp);
int karena_sparse_commit(struct karena_arena *arena, unsigned long first,
			 unsigned long count);
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
void karena_cow_own(struct karena_arena *arena,
		    bool (*held)(struct karena_arena *arena, struct page *page));
bool karena_cow_promote(struct karena_heap *heap, unsigned long page);
unsigned long karena_cow_shared(struct karena_heap *heap);
void karena_cow_prepare(struct karena_heap *heap);
void karena_cow_gone(struct karena_family *family);

/* fork.c */
struct karena_heap *karena_clone(struct karena_heap *heap, struct mm_struct *mm);

/* snapshot.c */
struct file *karena_snapshot_open(struct karena_heap *heap,
				  struct karena_snapshot *call);
struct file *karena_snapshot_find(u64 id);

/* share.c */
struct file *karena_share_open(struct karena_heap *heap,
			       const struct karena_share *call);

/* uring.c */
int karena_heap_uring_cmd(struct io_uring_cmd *cmd, unsigned int flags);

/* range.c */
bool karena_range_valid(const struct karena_heap *heap, u64 offset, u64 length);
int karena_range_release(struct karena_heap *heap, u64 offset, u64 length);
int karena_ranges_commit(struct karena_heap *heap, const struct karena_ranges *list);
int karena_ranges_release(struct karena_heap *heap,
			  const struct karena_ranges *list);

/* frame.c */
extern atomic_long_t karena_nr_huge;
extern atomic_long_t karena_nr_sparse;
extern atomic_long_t karena_nr_sparse_pages;
void karena_frame_count(struct karena_heap *heap, long huge, long sparse, long pages);
struct karena_frame *karena_frame_huge(struct karena_heap *heap, struct folio *folio);
struct karena_frame *karena_frame_sparse(struct karena_heap *heap, int node, gfp_t gfp);
void karena_frame_discard(struct karena_frame *frame);
void karena_frame_remove(struct karena_frame *frame);
void karena_frame_give(struct karena_arena *arena, struct karena_frame *frame);
void karena_frame_leave(struct karena_heap *heap, struct karena_frame *frame,
			bool counted);
void karena_page_leave(struct karena_heap *heap, struct folio *folio, bool counted);
bool karena_frame_shared(struct karena_arena *arena, struct page *page);

/* folio.c */
struct mem_cgroup *karena_folio_memcg(struct karena_heap *heap);
struct folio *karena_folio_alloc(struct karena_heap *heap, unsigned int order,
				 int node, gfp_t gfp);
void karena_folio_put(struct folio *folio);
void karena_folio_free(struct karena_heap *heap, struct folio *folio, bool counted);
bool karena_folio_reap(struct karena_heap *heap);
bool karena_folio_wait(struct karena_heap *heap);
void karena_folio_prepare(struct karena_heap *heap);
void karena_folio_abandon(struct karena_heap *heap);
int karena_folio_local_node(void);
bool karena_folio_node_allowed(int node);
int karena_folio_node(const struct karena_heap *heap, unsigned long index);
long karena_folio_orphans(void);
void karena_folio_exit(void);

/* ready.c */
struct folio *karena_ready_take(struct karena_heap *heap, int node, bool any);
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

/* reserve.c */
struct folio *karena_reserve_take(struct karena_heap *heap, int node);
void karena_reserve_put(void);
long karena_reserve_frames(void);
void karena_reserve_init(struct kthread_worker *worker);
void karena_reserve_exit(void);

/* reclaim.c */
struct karena_frame *karena_reclaim_alloc(struct karena_heap *heap, int node, gfp_t gfp);
void karena_reclaim_free(struct karena_frame *frame);
void karena_reclaim_show(struct karena_frame *frame);
void karena_reclaim_hide(struct karena_frame *frame);
void *karena_reclaim_alloc_ready(struct karena_heap *heap, struct kmem_cache *cache,
				 gfp_t gfp);
void karena_reclaim_add_ready(struct karena_ready_frames *ready);
void karena_reclaim_remove_ready(struct karena_ready_frames *ready);
void karena_reclaim_wait(struct karena_heap *heap);
int karena_reclaim_init(void);
void karena_reclaim_exit(void);

/* limit.c */
int karena_charge(struct karena_heap *heap, unsigned long pages, struct folio **spare);
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
void karena_pressure_raise_locked(struct karena_heap *heap, u32 level);
void karena_pressure_raise(struct karena_heap *heap, u32 level);
void karena_pressure_check(struct karena_heap *heap);
bool karena_pressure_low(struct mem_cgroup *memcg);
__poll_t karena_pressure_poll(struct file *file, struct poll_table_struct *table);
void karena_pressure_prepare(struct karena_heap *heap);
void karena_pressure_stop(struct karena_heap *heap);

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
u32 *karena_state(struct karena_heap *heap, unsigned long index);

/* fault.c */
int karena_mmap(struct file *file, struct vm_area_struct *vma);
int karena_mmap_snapshot(struct file *file, struct vm_area_struct *vma);
void karena_map_alias(struct karena_heap *heap, struct vm_area_struct *vma);
bool karena_is_window(struct vm_area_struct *vma, struct karena_heap *heap);
void karena_window_protect(struct vm_area_struct *vma);

/* window.c */
void karena_windows_get(struct karena_heap *heap, struct karena_windows *windows);
void karena_windows_put(struct karena_windows *windows);
void karena_windows_unmap(struct karena_windows *windows, unsigned long from,
			  unsigned long to);
bool karena_windows_can_protect(struct karena_heap *heap);
void karena_windows_protect(struct karena_windows *windows, unsigned long from,
			    unsigned long to);

/* ioctl.c */
long karena_ioctl(struct file *file, unsigned int cmd, unsigned long arg);
long karena_heap_ioctl(struct file *file, unsigned int cmd, unsigned long arg);

/* sysfs.c */
extern const struct kobj_type karena_heap_ktype;
extern const struct attribute_group *karena_groups[];
extern atomic_long_t karena_nr_heaps;
extern atomic_long_t karena_nr_reclaimed;
extern atomic_long_t karena_nr_reclaimed_ready;
void karena_sysfs_prepare(struct karena_heap *heap);
void karena_sysfs_add(struct karena_heap *heap);
void karena_sysfs_remove(struct karena_heap *heap);
int karena_sysfs_init(struct miscdevice *device);
void karena_sysfs_exit(void);

#endif /* _KARENA_KARENA_H */
