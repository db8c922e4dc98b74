// SPDX-License-Identifier: GPL-2.0
/*
 * Heaps: how they are created, found and freed. A descriptor of a heap is a file on a
 * pseudo file system. A window maps another file, that of the family. A heap and all its
 * clones have the same family, because a child's mapping is of the parent's file. Only
 * windows, shares and snapshots of the family map the family's inode, so
 * unmap_mapping_range() reaches no other mapping.
 */
#include <linux/bitmap.h>
#include <linux/cred.h>
#include <linux/file.h>
#include <linux/hash.h>
#include <linux/interval_tree_generic.h>
#include <linux/list_bl.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pid.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/task_work.h>
#include <linux/time_namespace.h>
#include <linux/xarray.h>

#include "compat.h"
#include "heap.h"

static atomic64_t karena_last_id = ATOMIC64_INIT(0);

atomic_long_t karena_nr_heaps;

/* All heaps except snapshots, by their numbers. */
static DEFINE_XARRAY(registry);

/*
 * The same heaps by the mm that drives them. A heap with the policy SHARE, which several
 * processes drive, is listed by its family instead. The bit lock of a bucket is innermost.
 * A heap leaves its bucket before it is freed, so a look-up that holds the lock may try to
 * become a user.
 */
#define MM_BITS	12
static struct hlist_bl_head heaps_by_mm[1 << MM_BITS];

static struct hlist_bl_head *hash_bucket(const struct karena_family *family,
					 const struct mm_struct *mm)
{
	const void *key = family->shared ? (const void *)family : mm;

	return &heaps_by_mm[hash_ptr(key, MM_BITS)];
}

static void heap_unlist(struct karena_heap *heap)
{
	struct hlist_bl_head *bucket = hash_bucket(heap->family, heap->mm);

	hlist_bl_lock(bucket);
	hlist_bl_del_init(&heap->by_mm);
	hlist_bl_unlock(bucket);
	spin_lock(&heap->family->lock);
	list_del_init(&heap->sibling);
	spin_unlock(&heap->family->lock);
}

static void heap_free(struct kref *ref)
{
	struct karena_heap *heap = container_of(ref, struct karena_heap, life.ref);
	struct karena_family *family = heap->family;

	karena_dir_remove(heap);
	cancel_delayed_work_sync(&heap->promote_work);
	karena_ready_stop(heap);
	karena_arena_destroy_all(heap);
	karena_pressure_stop(heap);
	karena_limit_abandon(heap);
	karena_control_free(heap);
	karena_key_abandon(heap);
	if (test_bit(KARENA_HEAP_COW, &heap->flags))
		karena_cow_queue_promote(family);
	put_pid(heap->pid);
	mmdrop(heap->mm);
	atomic_long_dec(&karena_nr_heaps);
	karena_dir_free(heap);
	fput(family->file);
}

/**
 * karena_heap_drop() - Drop the reference of a share, or of all users, to a heap.
 * @heap: The heap.
 *
 * Context: Process context, without locks.
 */
void karena_heap_drop(struct karena_heap *heap)
{
	kref_put(&heap->life.ref, heap_free);
}

static inline unsigned long share_first(const struct karena_share_range *share)
{
	return share->first;
}

static inline unsigned long share_last(const struct karena_share_range *share)
{
	return share->first + share->count - 1;
}

INTERVAL_TREE_DEFINE(struct karena_share_range, node, unsigned long, subtree_last,
		     share_first, share_last, static inline, share_tree)

/**
 * karena_heap_share() - Add a share to its heap.
 * @heap: The heap, with mmap_lock held for reading: it is not being cloned.
 * @share: The share.
 */
void karena_heap_share(struct karena_heap *heap, struct karena_share_range *share)
{
	lockdep_assert_held(&heap->mm->mmap_lock);
	spin_lock(&heap->family->lock);
	share_tree_insert(share, &heap->shares);
	spin_unlock(&heap->family->lock);
}

/**
 * karena_heap_unshare() - Remove a share from its heap, if it was added.
 * @heap: The heap.
 * @share: The share.
 */
void karena_heap_unshare(struct karena_heap *heap, struct karena_share_range *share)
{
	spin_lock(&heap->family->lock);
	if (!RB_EMPTY_NODE(&share->node))
		share_tree_remove(share, &heap->shares);
	spin_unlock(&heap->family->lock);
}

static bool arena_is_shared(struct karena_heap *heap, unsigned long index)
{
	unsigned long first = index * KARENA_ARENA_PAGES;
	bool shared;

	spin_lock(&heap->family->lock);
	shared = share_tree_iter_first(&heap->shares, first,
				       first + KARENA_ARENA_PAGES - 1);
	spin_unlock(&heap->family->lock);
	return shared;
}

/* Release all arenas outside of shares: no process drives the heap any more. */
static void heap_empty(struct karena_heap *heap)
{
	DECLARE_BITMAP(all, KARENA_ARENA_PAGES);
	struct karena_chunk *chunk;
	unsigned long number, i;

	bitmap_fill(all, KARENA_ARENA_PAGES);
	karena_ready_forget(heap);
	xa_for_each(&heap->chunks, number, chunk) {
		for (i = 0; i < KARENA_CHUNK; i++) {
			unsigned long index = number * KARENA_CHUNK + i;

			if (READ_ONCE(chunk->arenas[i].frame) &&
			    !arena_is_shared(heap, index))
				karena_release(heap, index, all);
			cond_resched();
		}
	}
}

/* End a heap without users: no look-up finds it, and shares keep the arenas they cover. */
static void heap_end(struct karena_heap *heap)
{
	xa_erase(&registry, heap->id);
	heap_unlist(heap);
	if (kref_read(&heap->life.ref) > 1)
		heap_empty(heap);
	karena_heap_drop(heap);
}

/* Act on the last user of a heap, or on the end of its process; then the caller is a user. */
static void heap_leave(struct karena_heap *heap)
{
	unsigned int users = kref_read(&heap->life.users);

	if (!users) {
		heap_end(heap);
		return;
	}
	/* Descriptors in other processes keep the heap, but not its memory. */
	if (users > 1)
		heap_empty(heap);
	karena_heap_put(heap);
}

static void heap_leave_task(struct callback_head *task)
{
	heap_leave(container_of(task, struct karena_heap, life.task));
}

static void heap_leave_work(struct work_struct *work)
{
	heap_leave(container_of(work, struct karena_heap, life.work));
}

/*
 * Defer heap_leave() until the caller holds no locks, as fput() does: to the moment before
 * the thread returns to user mode, or ends. So the memory of a process is free when another
 * process has waited for its end. If the kernel does not export task_work_add(), a worker
 * calls heap_leave() soon after instead.
 *
 * heap_leave() drops the family's file, which holds the module. If other heaps hold the
 * file as well, another thread may drop it last, and root may unload the module, before
 * this thread has returned from heap_leave(). So karena_exit() waits until each runnable
 * thread has slept or returned to user mode. For workers, destroy_workqueue() waits.
 */
static void heap_defer_leave(struct karena_heap *heap)
{
	if (current->flags & PF_KTHREAD || karena_task_work_add(&heap->life.task))
		queue_work(karena_workqueue, &heap->life.work);
}

/**
 * karena_heap_get() - Become a user of a heap.
 * @heap: The heap, which has a user.
 */
void karena_heap_get(struct karena_heap *heap)
{
	kref_get(&heap->life.users);
}

static void heap_unused(struct kref *users)
{
	heap_defer_leave(container_of(users, struct karena_heap, life.users));
}

/**
 * karena_heap_put() - Stop being a user of a heap.
 * @heap: The heap.
 *
 * Context: Any process context, with any locks held.
 */
void karena_heap_put(struct karena_heap *heap)
{
	kref_put(&heap->life.users, heap_unused);
}

/**
 * karena_heap_exit() - Empty a heap whose process has ended without being its last user.
 * @heap: The heap. The caller is a user, and is about to stop being one, because it closes
 *	a mapping or a descriptor.
 *
 * A process that ends unmaps all of its memory before it closes its mappings.
 *
 * Context: As karena_heap_put().
 */
void karena_heap_exit(struct karena_heap *heap)
{
	if (heap->fork == KARENA_FORK_SHARE || atomic_read(&heap->mm->mm_users) ||
	    test_and_set_bit(KARENA_HEAP_EXITED, &heap->flags))
		return;
	karena_heap_get(heap);
	heap_defer_leave(heap);
}

/**
 * karena_heap_release() - Drop the user for a closed descriptor of a heap or snapshot.
 * @inode: The inode.
 * @file: The descriptor's file.
 *
 * Return: 0.
 */
int karena_heap_release(struct inode *inode, struct file *file)
{
	karena_heap_put(file->private_data);
	return 0;
}

/**
 * karena_heap_find() - Find the heap of a family that a process drives.
 * @family: The family.
 * @mm: The address space of the process.
 *
 * Return: The heap, of which the caller is a user now, or NULL.
 */
struct karena_heap *karena_heap_find(struct karena_family *family, struct mm_struct *mm)
{
	struct hlist_bl_head *bucket = hash_bucket(family, mm);
	struct karena_heap *heap, *found = NULL;
	struct hlist_bl_node *node;

	hlist_bl_lock(bucket);
	hlist_bl_for_each_entry(heap, node, bucket, by_mm) {
		if (heap->family != family || (heap->mm != mm && !family->shared))
			continue;
		/* Skip a heap that is about to be freed. */
		if (kref_get_unless_zero(&heap->life.users)) {
			found = heap;
			break;
		}
	}
	hlist_bl_unlock(bucket);
	return found;
}

/**
 * karena_heap_mine() - Find the heap that a descriptor refers to in this process.
 * @file: A descriptor's file.
 *
 * In a child, an inherited descriptor refers to the child's own clone.
 *
 * Return: The heap, of which the caller is a user now; or an ERR_PTR: -EPERM.
 */
struct karena_heap *karena_heap_mine(struct file *file)
{
	struct karena_heap *heap = file->private_data;

	if (heap->mm == current->mm || heap->fork == KARENA_FORK_SHARE)
		karena_heap_get(heap);
	else
		heap = karena_heap_find(heap->family, current->mm);
	return heap ?: ERR_PTR(-EPERM);
}

/**
 * karena_family_release() - Free a family, whose file has no reference left.
 * @inode: Its inode.
 * @file: The file.
 *
 * Return: 0.
 */
int karena_family_release(struct inode *inode, struct file *file)
{
	struct karena_family *family = file->private_data;

	karena_cow_end(family);
	karena_pressure_forget(family);
	kfree(family);
	return 0;
}

/**
 * karena_heap_by_id() - Find a heap by its number.
 * @id: The number.
 *
 * Return: The heap, of which the caller is a user now, or NULL.
 */
struct karena_heap *karena_heap_by_id(u64 id)
{
	struct karena_heap *heap;

	xa_lock(&registry);
	heap = xa_load(&registry, id);
	if (heap && !kref_get_unless_zero(&heap->life.users))
		heap = NULL;
	xa_unlock(&registry);
	return heap;
}

/**
 * karena_heap_mapped() - Find the heap whose window or control region a mapping maps.
 * @vma: Any mapping of the current process.
 *
 * Return: The heap, or NULL.
 */
struct karena_heap *karena_heap_mapped(struct vm_area_struct *vma)
{
	struct karena_heap *heap = vma->vm_private_data;

	if (!vma->vm_file || !karena_fs_owns(vma->vm_file))
		return NULL;
	return heap && karena_is_window(vma, heap) ? heap : NULL;
}

/* In a time namespace, monotonic time differs from the kernel's. */
static u32 heap_clock(void)
{
	struct timespec64 ahead = {};

	timens_add_monotonic(&ahead);
	return timespec64_to_ns(&ahead) >> 20;
}

static struct karena_heap *heap_alloc(struct karena_family *family,
				      unsigned long nr_arenas, gfp_t gfp)
{
	struct karena_heap *heap = kzalloc(sizeof(*heap), gfp);

	if (!heap)
		return NULL;
	karena_dir_prepare(heap);
	heap->family = family;
	heap->nr_arenas = nr_arenas;
	heap->id = atomic64_inc_return(&karena_last_id);
	heap->dir.uid = current_euid();
	INIT_LIST_HEAD(&heap->sibling);
	INIT_HLIST_BL_NODE(&heap->by_mm);
	heap->shares = RB_ROOT_CACHED;
	kref_init(&heap->life.ref);
	kref_init(&heap->life.users);
	init_task_work(&heap->life.task, heap_leave_task);
	INIT_WORK(&heap->life.work, heap_leave_work);
	xa_init(&heap->chunks);
	karena_folio_prepare(heap);
	karena_ready_prepare(heap);
	karena_cow_prepare(heap);
	if (karena_key_prepare(heap, gfp))
		goto err;
	if (karena_pressure_prepare(heap, gfp))
		goto err_key;
	if (karena_control_alloc(heap, gfp))
		goto err_pressure;
	atomic_long_inc(&karena_nr_heaps);
	return heap;

err_pressure:
	karena_pressure_stop(heap);
err_key:
	karena_key_abandon(heap);
err:
	karena_dir_free(heap);
	return NULL;
}

static void heap_for_mm(struct karena_heap *heap, struct mm_struct *mm)
{
	heap->mm = mm;
	mmgrab(mm);
}

/**
 * karena_heap_file() - Make a file of the inode of a heap's family.
 * @heap: The heap.
 * @flags: O_RDONLY or O_RDWR.
 * @fops: Its operations.
 * @data: Its private data.
 *
 * Return: The file, or an ERR_PTR.
 */
struct file *karena_heap_file(struct karena_heap *heap, int flags,
			      const struct file_operations *fops, void *data)
{
	struct file *file = karena_fs_file(heap->family->mapping->host, heap->name, flags,
				       fops);

	if (!IS_ERR(file))
		file->private_data = data;
	return file;
}

/**
 * karena_heap_open() - Make the file of a descriptor of a heap or snapshot.
 * @heap: The heap. The caller is a user; on return the file is a user in its place.
 * @flags: O_RDONLY or O_RDWR.
 * @fops: Its operations, with karena_heap_release().
 *
 * Return: The file, or an ERR_PTR.
 */
struct file *karena_heap_open(struct karena_heap *heap, int flags,
			      const struct file_operations *fops)
{
	struct file *file = karena_heap_file(heap, flags, fops, heap);

	if (IS_ERR(file))
		karena_heap_put(heap);
	return file;
}

/**
 * karena_heap_publish() - Let look-ups find a new heap.
 * @heap: The heap; not a snapshot.
 */
void karena_heap_publish(struct karena_heap *heap)
{
	struct hlist_bl_head *bucket = hash_bucket(heap->family, heap->mm);

	spin_lock(&heap->family->lock);
	list_add(&heap->sibling, &heap->family->heaps);
	spin_unlock(&heap->family->lock);
	hlist_bl_lock(bucket);
	hlist_bl_add_head(&heap->by_mm, bucket);
	hlist_bl_unlock(bucket);
	xa_store(&registry, heap->id, heap, GFP_KERNEL | __GFP_NOFAIL);
}

static struct karena_family *family_alloc(const char *name, loff_t size,
					  const struct file_operations *fops)
{
	struct karena_family *family = kzalloc(sizeof(*family), KARENA_GFP);
	struct inode *inode;
	struct file *file;

	if (!family)
		return ERR_PTR(-ENOMEM);
	spin_lock_init(&family->lock);
	INIT_LIST_HEAD(&family->heaps);
	INIT_LIST_HEAD(&family->left_waits);
	karena_cow_begin(family);
	inode = karena_fs_inode(size);
	file = ERR_CAST(inode);
	if (!IS_ERR(inode)) {
		file = karena_fs_file(inode, name, O_RDWR, fops);
		family->mapping = inode->i_mapping;
		iput(inode);
	}
	if (IS_ERR(file)) {
		kfree(family);
		return ERR_CAST(file);
	}
	file->private_data = family;
	family->file = file;
	return family;
}

/**
 * karena_heap_create() - Make a heap for the calling process.
 * @create: The caller's struct, whose members have been checked.
 * @gid: The group that may read the heap's directory in sysfs.
 * @window_fops: The operations of the file that its window maps, with
 *	karena_family_release().
 *
 * Return: The heap, of which the caller is the user; or an ERR_PTR.
 */
struct karena_heap *karena_heap_create(const struct karena_create *create, kgid_t gid,
				       const struct file_operations *window_fops)
{
	unsigned long nr_arenas = create->window >> KARENA_ARENA_SHIFT;
	struct karena_family *family;
	struct karena_heap *heap;

	family = family_alloc(create->name, create->window +
			      karena_control_size(nr_arenas), window_fops);
	if (IS_ERR(family))
		return ERR_CAST(family);
	heap = heap_alloc(family, nr_arenas, KARENA_GFP);
	if (!heap) {
		fput(family->file);
		return ERR_PTR(-ENOMEM);
	}
	strscpy(heap->name, create->name, sizeof(heap->name));
	heap->dir.gid = gid;
	heap->clock = heap_clock();
	heap->policy = create->policy;
	heap->node = create->node;
	heap->fork = create->fork;
	family->shared = create->fork == KARENA_FORK_SHARE;
	if (create->flags & KARENA_CREATE_IO)
		set_bit(KARENA_HEAP_IO, &heap->flags);
	heap->charge.limit = min(create->limit ?: create->window, create->window) >>
		      PAGE_SHIFT;
	heap->charge.soft_limit = karena_limit_pages(create->soft_limit);
	heap->charge.memlock = karena_limit_memlock();
	heap->pid = get_pid(task_tgid(current));
	heap_for_mm(heap, current->mm);
	karena_heap_publish(heap);
	return heap;
}

/**
 * karena_heap_clone() - Make an empty clone of a heap.
 * @heap: The heap.
 * @mm: The address space that the clone belongs to; for a snapshot, the heap's own.
 *
 * Return: The clone, of which the caller is the user; never NULL.
 */
struct karena_heap *karena_heap_clone(struct karena_heap *heap, struct mm_struct *mm)
{
	struct karena_heap *clone = heap_alloc(heap->family, heap->nr_arenas,
					       KARENA_CLONE_GFP);

	get_file(heap->family->file);
	heap_for_mm(clone, mm);
	strscpy(clone->name, heap->name, sizeof(clone->name));
	clone->dir.gid = heap->dir.gid;
	clone->clock = heap->clock;
	clone->policy = heap->policy;
	clone->node = heap->node;
	clone->fork = heap->fork;
	clone->parent = heap->id;
	clone->start = heap->start;
	spin_lock(&heap->family->lock);
	clone->charge.limit = heap->charge.limit;
	clone->charge.soft_limit = heap->charge.soft_limit;
	clone->charge.memlock = heap->charge.memlock;
	spin_unlock(&heap->family->lock);
	if (test_bit(KARENA_HEAP_LIMITED, &heap->flags))
		set_bit(KARENA_HEAP_LIMITED, &clone->flags);
	set_bit(KARENA_HEAP_CLONING, &clone->flags);
	set_bit(KARENA_HEAP_COW, &clone->flags);
	set_bit(KARENA_HEAP_COW, &heap->flags);
	if (mm == heap->mm)
		set_bit(KARENA_HEAP_SNAPSHOT, &clone->flags);
	return clone;
}

/**
 * karena_heap_touch() - Note that a heap is used.
 * @heap: The heap, about to commit; or a clone in a fault.
 *
 * The first touch assigns a clone to its process. This also adds the directory of the heap.
 */
void karena_heap_touch(struct karena_heap *heap)
{
	struct pid *pid;

	/* At the fork, the child had neither a pid nor namespaces of its own. */
	if (!READ_ONCE(heap->pid) && current->mm == heap->mm &&
	    !test_bit(KARENA_HEAP_SNAPSHOT, &heap->flags)) {
		pid = get_pid(task_tgid(current));
		WRITE_ONCE(heap->clock, heap_clock());
		WRITE_ONCE(heap->charge.memlock, karena_limit_memlock());
		if (cmpxchg(&heap->pid, NULL, pid))
			put_pid(pid);
	}
	karena_dir_add(heap);
}
