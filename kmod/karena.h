/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The module's own structures and functions. What guards what:
 *
 *	heap->lock	spinlock; what arenas have for frames, the kernel's writes to
 *			the state words, limits and what is charged, ready frames,
 *			orphans, pressure. Nothing is allocated and nothing sleeps
 *			under it.
 *	the list_lrus	of all arenas with a frame, and of all heaps' ready frames;
 *			what is on one belongs to a living heap. Their locks are taken before
 *			heap->lock.
 *	heap->purges	counts reclaim at work in the heap: taken under a list's
 *			lock, waited for before the heap goes.
 *	CHANGING	bit lock of an arena: its frame, and whether it is listed, is
 *			changed by one at a time, who may allocate meanwhile. Reclaim
 *			only tries it.
 *	FROZEN		bit of an arena, set and cleared under heap->lock by who
 *			holds CHANGING: no fault takes a reference to the frame;
 *			it waits. Nothing is allocated meanwhile.
 *	folio lock	a folio leaves its arena, or the arena is frozen, only while
 *			it is locked or frozen by its count; so that a fault that
 *			holds the lock and has looked again hands the core a page
 *			that is still the arena's.
 *	heap->arenas	an arena, once made, stays until the heap goes: looked up
 *			without a lock, added under the xarray's own.
 *
 * Order: mmap_lock or the VMA's lock -> CHANGING -> folio lock -> heap->lock.
 * Memory is allocated with neither of the last two held. unmap_mapping_range()
 * takes i_mmap_rwsem and the page table locks; it is called with at most CHANGING
 * and a folio lock held, as the core's own reverse mapping does. Nothing of sysfs
 * is made or removed under mmap_lock.
 *
 * Lifetime: the heap is the file's; a mapping holds the file, the file holds the
 * module and the heap's first reference, an open sysfs attribute none (kernfs
 * waits for it). The inode can outlive the file (O_PATH): it holds the module, too.
 */
#ifndef _KARENA_KARENA_H
#define _KARENA_KARENA_H

#include <linux/atomic.h>
#include <linux/fs.h>
#include <linux/kobject.h>
#include <linux/kthread.h>
#include <linux/mm_types.h>
#include <linux/poll.h>
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

/*
 * For a frame: cleared once, whether or not init_on_alloc is on; charged; at a limit
 * it fails, and never starts the OOM killer.
 */
#define KARENA_FRAME_GFP	(GFP_HIGHUSER | __GFP_ACCOUNT | __GFP_ZERO | \
				 __GFP_RETRY_MAYFAIL | __GFP_NOWARN)

struct karena_anchor;
struct kmem_cache;
struct mem_cgroup;
struct miscdevice;
struct pid;

/**
 * struct karena_arena - A slot of the window that has been committed once.
 * @heap: Whose window it is in.
 * @index: Where in it.
 * @anchor: Shows it to reclaim while it has a frame.
 * @tried_word: Its state word when reclaim last failed to take it.
 * @tried: When that was, in the units of the state words.
 * @flags: Bits of enum karena_arena_flag.
 * @folio: Its huge frame, of order KARENA_ARENA_ORDER, or NULL. The slot owns one
 *	reference.
 * @pages: Its sparse frame, or NULL: a pointer for each page, which is NULL where
 *	nothing is committed. The slot owns one reference of each page.
 * @nr_pages: How many of these there are.
 * @node: The NUMA node of the first of these.
 */
struct karena_arena {
	struct karena_heap *heap;
	unsigned long index;
	struct karena_anchor *anchor;
	u32 tried_word;
	u32 tried;
	unsigned long flags;
	struct folio *folio;
	struct page **pages;
	unsigned int nr_pages;
	int node;
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
 * struct karena_heap - One process's private heap.
 * @kobj: Its directory in sysfs; counts references.
 * @sysfs_work: Adds the directory after the first commit.
 * @flags: Bits of enum karena_heap_flag.
 * @id: Its number; never used twice.
 * @name: What the creator called it.
 * @mm: The one address space that may map and drive it; its memory is held, its
 *	mappings are not.
 * @pid: The process that made it.
 * @uid: The user that made it.
 * @gid: The group of the device node it was made through.
 * @clock: What its process's CLOCK_MONOTONIC is ahead, in units of the state words.
 * @policy: Of enum karena_policy.
 * @node: The NUMA node that goes with it.
 * @start: Where the window is, or 0; mmap_lock's.
 * @mapping: Of the heap's own inode: all of its mappings and no others.
 * @nr_arenas: Arenas in the window.
 * @control: The pages of the control region.
 * @nr_control: How many these are.
 * @lock: See the top; guards the members below it up to @pressure_until.
 * @limit: Pages it may commit.
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
 * @orphan_work: Frees orphans that nobody pins any more.
 * @pressure_work: Lets pressure fall.
 * @pressure_wait: Who polls.
 * @ready_work: Fills and drains @ready.
 * @arenas: Index in the window to struct karena_arena.
 * @huge: Arenas with a huge frame.
 * @sparse: Arenas with a sparse frame.
 * @sparse_pages: Pages of these.
 * @demoted: Huge frames made sparse.
 * @faults: Faults taken in the window.
 * @refused: Commits that failed for want of memory or at a limit.
 * @purges: Reclaim at work in it.
 * @reclaimed: Arenas that reclaim took from it.
 * @reclaimed_ready: Ready frames that reclaim took from it.
 */
struct karena_heap {
	struct kobject kobj;
	struct work_struct sysfs_work;
	unsigned long flags;
	u64 id;
	char name[KARENA_NAME_SIZE];
	struct mm_struct *mm;
	struct pid *pid;
	kuid_t uid;
	kgid_t gid;
	u32 clock;
	u32 policy;
	int node;
	unsigned long start;
	struct address_space *mapping;
	unsigned long nr_arenas;
	struct page **control;
	unsigned long nr_control;

	spinlock_t lock;	/* see the top */
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

	struct delayed_work orphan_work;
	struct delayed_work pressure_work;
	wait_queue_head_t pressure_wait;
	struct kthread_delayed_work ready_work;
	struct xarray arenas;
	atomic_long_t huge;
	atomic_long_t sparse;
	atomic_long_t sparse_pages;
	atomic_long_t demoted;
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
 */
enum karena_heap_flag {
	KARENA_HEAP_NAMED,
	KARENA_HEAP_IN_SYSFS,
	KARENA_HEAP_LIMITED,
	KARENA_HEAP_ROOTS,
};

static inline u64 karena_window_size(const struct karena_heap *heap)
{
	return (u64)heap->nr_arenas << KARENA_ARENA_SHIFT;
}

/* heap.c */
struct file *karena_heap_create(const struct karena_create *create, kgid_t gid);
struct karena_heap *karena_heap_of(struct file *file);
int karena_heap_init(void);
void karena_heap_exit(void);

/* arena.c */
int karena_arena_commit(struct karena_heap *heap, unsigned long page,
			unsigned long count, bool single);
bool karena_arena_has(struct karena_heap *heap, unsigned long page);
struct folio *karena_arena_lock_folio(struct karena_heap *heap,
				      unsigned long page);
void karena_arena_release(struct karena_heap *heap, unsigned long index,
			  const unsigned long *gone);
unsigned long karena_arena_purge(struct karena_arena *arena, u32 word);
void karena_arena_unmap(struct karena_arena *arena, unsigned long first,
			unsigned long count);
void karena_arena_hide_all(struct karena_heap *heap);
void karena_arena_destroy_all(struct karena_heap *heap);
int karena_arena_init(void);
void karena_arena_exit(void);

/* sparse.c */
int karena_sparse_commit(struct karena_arena *arena, unsigned long first,
			 unsigned long count);
void karena_sparse_release(struct karena_arena *arena, const unsigned long *gone);
bool karena_sparse_demote(struct karena_arena *arena, const unsigned long *gone);
unsigned long karena_sparse_purge(struct karena_arena *arena,
				  struct list_head *folios);
bool karena_sparse_pinned(struct karena_arena *arena);
void karena_sparse_destroy(struct karena_arena *arena);

/* range.c */
int karena_range_release(struct karena_heap *heap, u64 offset, u64 length);
int karena_ranges_commit(struct karena_heap *heap, const struct karena_ranges *list);
int karena_ranges_release(struct karena_heap *heap,
			  const struct karena_ranges *list);

/* frame.c */
struct folio *karena_frame_alloc(struct karena_heap *heap, unsigned int order,
				 int node, gfp_t gfp);
void karena_frame_put(struct folio *folio);
void karena_frame_free(struct karena_heap *heap, struct folio *folio);
bool karena_frame_reap(struct karena_heap *heap);
void karena_frame_prepare(struct karena_heap *heap);
void karena_frame_abandon(struct karena_heap *heap);
int karena_frame_local_node(void);
bool karena_frame_node_allowed(int node);
int karena_frame_node(const struct karena_heap *heap, unsigned long index);
long karena_frame_orphans(void);
void karena_frame_exit(void);

/* ready.c */
struct folio *karena_ready_take(struct karena_heap *heap, int node, bool any);
void karena_ready_committed(struct karena_heap *heap, int node);
unsigned long karena_ready_drop(struct karena_heap *heap, unsigned long count,
				int node);
int karena_ready_call(struct karena_heap *heap, struct karena_ready *call);
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
struct karena_anchor *karena_reclaim_anchor(struct karena_heap *heap, int node);
void karena_reclaim_add(struct karena_arena *arena, struct karena_anchor *anchor);
void karena_reclaim_remove(struct karena_arena *arena);
void *karena_reclaim_alloc_ready(struct karena_heap *heap, struct kmem_cache *cache,
				 gfp_t gfp);
void karena_reclaim_add_ready(struct karena_ready_frames *ready);
void karena_reclaim_remove_ready(struct karena_ready_frames *ready);
void karena_reclaim_wait(struct karena_heap *heap);
int karena_reclaim_init(void);
void karena_reclaim_exit(void);

/* limit.c */
int karena_charge(struct karena_heap *heap, unsigned long pages);
void karena_uncharge(struct karena_heap *heap, unsigned long pages);
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
__poll_t karena_pressure_poll(struct file *file, struct poll_table_struct *table);
void karena_pressure_prepare(struct karena_heap *heap);
void karena_pressure_stop(struct karena_heap *heap);

/* control.c */
int karena_control_alloc(struct karena_heap *heap);
void karena_control_free(struct karena_heap *heap);
struct karena_control *karena_control(struct karena_heap *heap);
unsigned long karena_control_volatile(struct karena_heap *heap);
void karena_control_stats(struct karena_heap *heap, struct karena_stats *stats);
u32 *karena_state(struct karena_heap *heap, unsigned long index);

/* fault.c */
int karena_mmap(struct file *file, struct vm_area_struct *vma);

/* ioctl.c */
long karena_ioctl(struct file *file, unsigned int cmd, unsigned long arg);
long karena_heap_ioctl(struct file *file, unsigned int cmd, unsigned long arg);

/* sysfs.c */
extern const struct kobj_type karena_heap_ktype;
extern const struct attribute_group *karena_groups[];
extern atomic_long_t karena_nr_heaps;
extern atomic_long_t karena_nr_huge;
extern atomic_long_t karena_nr_sparse;
extern atomic_long_t karena_nr_sparse_pages;
extern atomic_long_t karena_nr_reclaimed;
extern atomic_long_t karena_nr_reclaimed_ready;
void karena_sysfs_prepare(struct karena_heap *heap);
void karena_sysfs_add(struct karena_heap *heap);
void karena_sysfs_remove(struct karena_heap *heap);
int karena_sysfs_init(struct miscdevice *device);
void karena_sysfs_exit(void);

#endif /* _KARENA_KARENA_H */
