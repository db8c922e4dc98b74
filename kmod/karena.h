/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The module's own structures and functions. What guards what:
 *
 *	heap->lock	spinlock; arena->folio, the kernel's writes to the state
 *			words, heap->committed and heap->orphans. Nothing is
 *			allocated and nothing sleeps under it.
 *	the list_lru	of all arenas; an arena on it belongs to a living heap.
 *	heap->purges	counts reclaim at work in the heap: taken under the
 *			list's lock, waited for before the heap goes.
 *	COMMITTING	bit lock of an arena: one commit at a time, held while a
 *			frame is allocated. Reclaim never takes it.
 *	folio lock	a frame leaves its arena only while it is locked, so that
 *			a fault that holds the lock and has looked again hands the
 *			core a frame that is still the arena's.
 *	heap->arenas	an arena, once made, stays until the heap goes: looked up
 *			without a lock, added under the xarray's own.
 *
 * Order: mmap_lock or the VMA's lock -> COMMITTING; mmap_lock or the VMA's lock ->
 * folio lock -> heap->lock. Memory is allocated with neither of the last two held.
 * unmap_mapping_range() takes i_mmap_rwsem and the page table locks; it is called
 * with at most a folio lock held, as the core's own reverse mapping does. Reclaim
 * tries the folio lock and takes the others. Nothing of sysfs is made or removed
 * under mmap_lock.
 *
 * Lifetime: the heap is the file's; a mapping holds the file, the file holds the
 * module and the heap's first reference, an open sysfs attribute none (kernfs
 * waits for it). The inode can outlive the file (O_PATH): it holds the superblock
 * and that the module.
 */
#ifndef _KARENA_KARENA_H
#define _KARENA_KARENA_H

#include <linux/atomic.h>
#include <linux/fs.h>
#include <linux/kobject.h>
#include <linux/mm_types.h>
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

struct kmem_cache;
struct miscdevice;
struct pid;

/**
 * struct karena_arena - A slot of the window that has been committed once.
 * @heap: Whose window it is in.
 * @index: Where in it.
 * @lru: In the list of all arenas.
 * @tried_word: Its state word when reclaim last failed to take it.
 * @tried: When that was, in the units of the state words.
 * @flags: Bit KARENA_ARENA_COMMITTING.
 * @folio: Its frame, of order KARENA_ARENA_ORDER; NULL while it has none. The
 *	slot owns one reference.
 */
struct karena_arena {
	struct karena_heap *heap;
	unsigned long index;
	struct list_head lru;
	u32 tried_word;
	u32 tried;
	unsigned long flags;
	struct folio *folio;
};

#define KARENA_ARENA_COMMITTING	0	/* bit of arena->flags */

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
 * @mapping: Of the heap's own inode: all of its mappings and no others.
 * @nr_arenas: Arenas in the window.
 * @control: The pages of the control region.
 * @nr_control: How many these are.
 * @limit: Pages it may commit.
 * @lock: See above.
 * @committed: Pages it has committed, is about to, or still holds as orphans.
 * @orphans: Frames that were released but are pinned.
 * @arenas: Index in the window to struct karena_arena.
 * @huge: Arenas with a huge frame.
 * @faults: Faults taken in the window.
 * @refused: Commits that failed for want of memory or at a limit.
 * @purges: Reclaim at work in it.
 * @reclaimed: Arenas that reclaim took from it.
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
	struct address_space *mapping;
	unsigned long nr_arenas;
	struct page **control;
	unsigned long nr_control;
	unsigned long limit;
	spinlock_t lock;	/* see the top */
	unsigned long committed;
	struct list_head orphans;
	struct xarray arenas;
	atomic_long_t huge;
	atomic_long_t faults;
	atomic_long_t refused;
	atomic_t purges;
	atomic_long_t reclaimed;
};

/**
 * enum karena_heap_flag - Bits of heap->flags.
 * @KARENA_HEAP_MAPPED: The window has been mapped.
 * @KARENA_HEAP_NAMED: Its directory is being added, or has been.
 * @KARENA_HEAP_IN_SYSFS: Its directory has been added.
 */
enum karena_heap_flag {
	KARENA_HEAP_MAPPED,
	KARENA_HEAP_NAMED,
	KARENA_HEAP_IN_SYSFS,
};

static inline u64 karena_window_size(const struct karena_heap *heap)
{
	return (u64)heap->nr_arenas << KARENA_ARENA_SHIFT;
}

/* heap.c */
struct file *karena_heap_create(const struct karena_create *create, kgid_t gid);
struct karena_heap *karena_heap_of(struct file *file);

/* arena.c */
int karena_arena_commit(struct karena_heap *heap, unsigned long index);
struct folio *karena_arena_lock_folio(struct karena_heap *heap,
				      unsigned long index);
void karena_arena_release(struct karena_heap *heap, unsigned long index);
bool karena_arena_purge(struct karena_arena *arena, u32 word);
void karena_arena_destroy_all(struct karena_heap *heap);
int karena_arena_init(void);
void karena_arena_exit(void);

/* frame.c */
struct folio *karena_frame_alloc(struct karena_heap *heap, unsigned long index);
void karena_frame_free(struct karena_heap *heap, struct folio *folio);
void karena_frame_reap(struct karena_heap *heap);
void karena_frame_abandon(struct karena_heap *heap);
long karena_frame_orphans(void);
void karena_frame_exit(void);

/* reclaim.c */
struct karena_arena *karena_reclaim_arena_alloc(struct karena_heap *heap,
						struct kmem_cache *cache);
void karena_reclaim_add(struct karena_arena *arena);
void karena_reclaim_remove(struct karena_arena *arena);
void karena_reclaim_wait(struct karena_heap *heap);
int karena_reclaim_init(void);
void karena_reclaim_exit(void);

/* limit.c */
int karena_charge(struct karena_heap *heap, unsigned long pages);
void karena_uncharge(struct karena_heap *heap, unsigned long pages);
unsigned long karena_limit(void);
unsigned long karena_committed(void);
void karena_limit_init(void);

/* control.c */
int karena_control_alloc(struct karena_heap *heap);
void karena_control_free(struct karena_heap *heap);
unsigned long karena_control_volatile(struct karena_heap *heap);
u32 *karena_state(struct karena_heap *heap, unsigned long index);

/* fault.c */
int karena_mmap(struct file *file, struct vm_area_struct *vma);

/* ioctl.c */
long karena_ioctl(struct file *file, unsigned int cmd, unsigned long arg);

/* sysfs.c */
extern const struct kobj_type karena_heap_ktype;
extern const struct attribute_group *karena_groups[];
extern atomic_long_t karena_nr_heaps;
extern atomic_long_t karena_nr_huge;
extern atomic_long_t karena_nr_reclaimed;
void karena_sysfs_prepare(struct karena_heap *heap);
void karena_sysfs_add(struct karena_heap *heap);
void karena_sysfs_remove(struct karena_heap *heap);
int karena_sysfs_init(struct miscdevice *device);
void karena_sysfs_exit(void);

#endif /* _KARENA_KARENA_H */
