// SPDX-License-Identifier: GPL-2.0
/*
 * Heaps: each is a file of its own on a pseudo file system, so that it has an
 * inode whose size covers the window (kernels from 6.12 on map no PMD beyond it)
 * and whose mappings are its own alone (unmap_mapping_range() reaches no other).
 */
#include <linux/cred.h>
#include <linux/delay.h>
#include <linux/falloc.h>
#include <linux/file.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/pid.h>
#include <linux/pseudo_fs.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/time_namespace.h>

#include "compat.h"
#include "karena.h"

#define KARENA_MAGIC	0x6b61726e	/* "karn" */

/* Mounted as long as the module is there; see karena_heap_init(). */
static struct vfsmount *karena_mnt;
static atomic64_t karena_last_id = ATOMIC64_INIT(0);

static void heap_destroy(struct karena_heap *heap)
{
	karena_arena_hide_all(heap);
	karena_ready_stop(heap);
	karena_arena_destroy_all(heap);
	karena_pressure_stop(heap);
	karena_limit_abandon(heap);
	karena_control_free(heap);
	put_pid(heap->pid);
	mmdrop(heap->mm);
	atomic_long_dec(&karena_nr_heaps);
	kobject_put(&heap->kobj);
}

static int heap_release(struct inode *inode, struct file *file)
{
	struct karena_heap *heap = file->private_data;

	karena_sysfs_remove(heap);
	heap_destroy(heap);
	return 0;
}

/* MADV_REMOVE arrives here, without mmap_lock. */
static long heap_fallocate(struct file *file, int mode, loff_t offset, loff_t len)
{
	struct karena_heap *heap = file->private_data;

	if (mode != (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE))
		return -EOPNOTSUPP;
	if (current->mm != heap->mm)
		return -EPERM;
	return karena_range_release(heap, offset, len);
}

static const struct file_operations heap_fops = {
	.owner			= THIS_MODULE,
	.mmap			= karena_mmap,
	.get_unmapped_area	= thp_get_unmapped_area,
	.fallocate		= heap_fallocate,
	.unlocked_ioctl		= karena_heap_ioctl,
	.poll			= karena_pressure_poll,
	.fsync			= noop_fsync,
	.release		= heap_release,
	.llseek			= noop_llseek,
};

/* Size and mode are the module's: a truncated window would lose its PMDs. */
static int heap_setattr(struct mnt_idmap *idmap, struct dentry *dentry,
			struct iattr *attr)
{
	return -EPERM;
}

static const struct inode_operations heap_iops = {
	.setattr	= heap_setattr,
};

/**
 * karena_heap_of() - The heap of a file.
 * @file: Any file.
 *
 * Return: The heap, or NULL when the file is no heap.
 */
struct karena_heap *karena_heap_of(struct file *file)
{
	return file && file->f_op == &heap_fops ? file->private_data : NULL;
}

/* In a time namespace, monotonic time is not what the kernel's own is. */
static u32 heap_clock(void)
{
	struct timespec64 ahead = {};

	timens_add_monotonic(&ahead);
	return timespec64_to_ns(&ahead) >> 20;
}

static struct karena_heap *heap_alloc(const struct karena_create *create,
				      kgid_t gid)
{
	struct karena_heap *heap;
	int err;

	heap = kzalloc(sizeof(*heap), KARENA_GFP);
	if (!heap)
		return ERR_PTR(-ENOMEM);
	karena_sysfs_prepare(heap);
	heap->id = atomic64_inc_return(&karena_last_id);
	strscpy(heap->name, create->name, sizeof(heap->name));
	heap->uid = current_euid();
	heap->gid = gid;
	heap->nr_arenas = create->window >> KARENA_ARENA_SHIFT;
	heap->clock = heap_clock();
	heap->policy = create->policy;
	heap->node = create->node;
	heap->limit = min(create->limit ?: create->window, create->window) >>
		      PAGE_SHIFT;
	heap->soft_limit = karena_limit_pages(create->soft_limit);
	spin_lock_init(&heap->lock);
	xa_init(&heap->arenas);
	karena_frame_prepare(heap);
	karena_ready_prepare(heap);
	karena_pressure_prepare(heap);

	err = karena_control_alloc(heap);
	if (err) {
		kobject_put(&heap->kobj);
		return ERR_PTR(err);
	}
	heap->memlock = karena_limit_memlock();
	heap->mm = current->mm;
	mmgrab(heap->mm);
	heap->pid = get_pid(task_tgid(current));
	atomic_long_inc(&karena_nr_heaps);
	return heap;
}

static struct inode *heap_inode(struct karena_heap *heap)
{
	struct inode *inode = alloc_anon_inode(karena_mnt->mnt_sb);

	if (IS_ERR(inode))
		return inode;
	/* Until heap_evict_inode(): it can outlive the file, by O_PATH. */
	__module_get(THIS_MODULE);
	inode->i_ino = heap->id;
	inode->i_mode = S_IFREG | 0600;
	inode->i_op = &heap_iops;
	inode->i_flags |= S_NOCMTIME;
	/* Without a name, it counts as anonymous memory in a core dump. */
	clear_nlink(inode);
	i_size_write(inode, karena_window_size(heap) +
		     ((loff_t)heap->nr_control << PAGE_SHIFT));
	return inode;
}

static void heap_evict_inode(struct inode *inode)
{
	bool is_heap = inode->i_op == &heap_iops;

	truncate_inode_pages_final(&inode->i_data);
	clear_inode(inode);
	/*
	 * Who runs this has the mount still and karena_heap_exit() waits for it, or
	 * is inotify, for which kern_unmount() waits.
	 */
	if (is_heap)
		module_put(THIS_MODULE);
}

static const struct super_operations heap_super_ops = {
	.statfs		= simple_statfs,
	.evict_inode	= heap_evict_inode,
};

static int karena_init_fs_context(struct fs_context *fc)
{
	struct pseudo_fs_context *context = init_pseudo(fc, KARENA_MAGIC);

	if (!context)
		return -ENOMEM;
	context->ops = &heap_super_ops;
	/* No PROT_EXEC: mmap() and mprotect() refuse it for such a file. */
	fc->s_iflags |= SB_I_NOEXEC;
	return 0;
}

/* Without an owner, or the mount would hold the module for ever. */
static struct file_system_type karena_fs_type = {
	.name			= "karena",
	.init_fs_context	= karena_init_fs_context,
	.kill_sb		= kill_anon_super,
};

/**
 * karena_heap_create() - Make a heap for the calling process.
 * @create: The checked wishes of the caller.
 * @gid: The group that may read the heap's directory in sysfs.
 *
 * Return: The heap's file, or an ERR_PTR.
 */
struct file *karena_heap_create(const struct karena_create *create, kgid_t gid)
{
	char name[sizeof("karena:") + KARENA_NAME_SIZE];
	struct karena_heap *heap;
	struct inode *inode;
	struct file *file;

	heap = heap_alloc(create, gid);
	if (IS_ERR(heap))
		return ERR_CAST(heap);
	inode = heap_inode(heap);
	if (IS_ERR(inode)) {
		file = ERR_CAST(inode);
		goto err_heap;
	}
	snprintf(name, sizeof(name), "karena:%s", heap->name);
	file = alloc_file_pseudo(inode, karena_mnt, name, O_RDWR, &heap_fops);
	if (IS_ERR(file))
		goto err_inode;
	/* The last fput() drops what alloc_file_pseudo() does not take. */
	__module_get(THIS_MODULE);
	heap->mapping = inode->i_mapping;
	file->private_data = heap;
	return file;

err_inode:
	iput(inode);
err_heap:
	heap_destroy(heap);
	return file;
}

/**
 * karena_heap_init() - Mount the pseudo file system.
 *
 * To mount it for the first heap and to unmount it after the last would cost more
 * than a heap does.
 *
 * Return: 0 or a negative errno.
 */
int karena_heap_init(void)
{
	karena_mnt = kern_mount(&karena_fs_type);
	if (IS_ERR(karena_mnt))
		return PTR_ERR(karena_mnt);
	/* may_umount() asks whether there are references beside two. */
	mntget(karena_mnt);
	return 0;
}

/**
 * karena_heap_exit() - Unmount it; no inode is left.
 */
void karena_heap_exit(void)
{
	/* Whoever has put the last inode is about to put the mount. */
	while (!may_umount(karena_mnt))
		usleep_range(1000, 2000);
	mntput(karena_mnt);
	kern_unmount(karena_mnt);
}
