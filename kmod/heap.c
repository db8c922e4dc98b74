// SPDX-License-Identifier: GPL-2.0
/*
 * Heaps: each is a file of its own on a pseudo file system, so that it has an
 * inode whose size covers the window (kernels from 6.12 on map no PMD beyond it)
 * and whose mappings are its own alone (unmap_mapping_range() reaches no other).
 */
#include <linux/cred.h>
#include <linux/falloc.h>
#include <linux/file.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/pid.h>
#include <linux/pseudo_fs.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "compat.h"
#include "karena.h"

#define KARENA_MAGIC	0x6b61726e	/* "karn" */

/* Mounted while there are heaps; the superblock holds the module. */
static struct vfsmount *karena_mnt;
static int karena_mnt_count;
static atomic64_t karena_last_id = ATOMIC64_INIT(0);

static void heap_destroy(struct karena_heap *heap)
{
	karena_ready_stop(heap);
	karena_arena_destroy_all(heap);
	karena_pressure_stop(heap);
	karena_unlock_all(heap);
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
	simple_release_fs(&karena_mnt, &karena_mnt_count);
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

static struct karena_heap *heap_alloc(const struct karena_create *create,
				      kgid_t gid)
{
	struct karena_heap *heap;
	int err;

	heap = kzalloc(sizeof(*heap), GFP_KERNEL_ACCOUNT);
	if (!heap)
		return ERR_PTR(-ENOMEM);
	karena_sysfs_prepare(heap);
	heap->id = atomic64_inc_return(&karena_last_id);
	strscpy(heap->name, create->name, sizeof(heap->name));
	heap->uid = current_euid();
	heap->gid = gid;
	heap->nr_arenas = create->window >> KARENA_ARENA_SHIFT;
	heap->policy = create->policy;
	heap->node = create->node;
	heap->limit = (create->limit ?: create->window) >> PAGE_SHIFT;
	heap->soft_limit = karena_limit_pages(create->soft_limit);
	spin_lock_init(&heap->lock);
	INIT_LIST_HEAD(&heap->orphans);
	xa_init(&heap->arenas);
	karena_ready_prepare(heap);
	karena_pressure_prepare(heap);

	err = karena_control_alloc(heap);
	if (err) {
		kobject_put(&heap->kobj);
		return ERR_PTR(err);
	}
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

static int karena_init_fs_context(struct fs_context *fc)
{
	/* No PROT_EXEC: mmap() and mprotect() refuse it for such a file. */
	fc->s_iflags |= SB_I_NOEXEC;
	return init_pseudo(fc, KARENA_MAGIC) ? 0 : -ENOMEM;
}

static struct file_system_type karena_fs_type = {
	.owner			= THIS_MODULE,
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
	int err;

	err = simple_pin_fs(&karena_fs_type, &karena_mnt, &karena_mnt_count);
	if (err)
		return ERR_PTR(err);
	heap = heap_alloc(create, gid);
	if (IS_ERR(heap)) {
		file = ERR_CAST(heap);
		goto err_fs;
	}
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
err_fs:
	simple_release_fs(&karena_mnt, &karena_mnt_count);
	return file;
}
