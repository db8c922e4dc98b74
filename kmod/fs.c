// SPDX-License-Identifier: GPL-2.0
/*
 * The pseudo file system of heaps: an inode for each family, and files of it. Files
 * and inodes hold the module.
 */
#include <linux/delay.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/pseudo_fs.h>

#include "base.h"
#include "compat.h"

#define KARENA_MAGIC	0x6b61726e	/* "karn" */

/* Mounted as long as the module is loaded; see karena_fs_init(). */
static struct vfsmount *karena_mnt;

/* The inode of all futex keys; see key.c. */
struct inode *karena_keys;

/* No process may change size and mode: a truncated window would lose its PMDs. */
static int fs_setattr(struct mnt_idmap *idmap, struct dentry *dentry,
		      struct iattr *attr)
{
	return -EPERM;
}

/* Processes see a file that ends behind the control region. */
static int fs_getattr(struct mnt_idmap *idmap, const struct path *path,
		      struct kstat *stat, u32 mask, unsigned int flags)
{
	int err = simple_getattr(idmap, path, stat, mask, flags);

	stat->size = (unsigned long)d_inode(path->dentry)->i_private;
	return err;
}

static const struct inode_operations fs_iops = {
	.getattr	= fs_getattr,
	.setattr	= fs_setattr,
};

/**
 * karena_fs_inode() - Make an inode.
 * @size: The size that processes see, in bytes.
 *
 * The size that the core sees decides what it maps for a page of a large folio where the PMD
 * is empty. If the folio is below the end of the file, the core maps all of it: by a PMD or,
 * from 6.18 on, also by single entries. If the folio is beyond the end, kernels from 6.12 on
 * map only that page. Up to 6.13 the core has to map huge frames, so the size is the maximum.
 * From 6.18 on the fault handler maps them, so the size is 0.
 *
 * Return: The inode, or an ERR_PTR.
 */
struct inode *karena_fs_inode(loff_t size)
{
	struct inode *inode = alloc_anon_inode(karena_mnt->mnt_sb);

	if (IS_ERR(inode))
		return inode;
	/* Until fs_evict_inode(): the inode can outlive the file, by an O_PATH descriptor. */
	__module_get(THIS_MODULE);
	inode->i_mode = S_IFREG | 0600;
	inode->i_op = &fs_iops;
	inode->i_flags |= S_NOCMTIME;
	/* Without a name, it counts as anonymous memory in a core dump. */
	clear_nlink(inode);
	inode->i_private = (void *)(unsigned long)size;
	i_size_write(inode, KARENA_MAPS_HUGE ? 0 : KARENA_KEYS_SIZE);
	return inode;
}

static void fs_evict_inode(struct inode *inode)
{
	bool is_ours = inode->i_op == &fs_iops;

	truncate_inode_pages_final(&inode->i_data);
	clear_inode(inode);
	/*
	 * The text stays until this returns: the caller still has the mount, for which
	 * karena_fs_exit() waits, or the caller is inotify, for which kern_unmount() waits.
	 */
	if (is_ours)
		module_put(THIS_MODULE);
}

static const struct super_operations fs_super_ops = {
	.statfs		= simple_statfs,
	.evict_inode	= fs_evict_inode,
};

static int karena_init_fs_context(struct fs_context *fc)
{
	struct pseudo_fs_context *context = init_pseudo(fc, KARENA_MAGIC);

	if (!context)
		return -ENOMEM;
	context->ops = &fs_super_ops;
	/* No PROT_EXEC: mmap() and mprotect() refuse it for such a file. */
	fc->s_iflags |= SB_I_NOEXEC;
	return 0;
}

/* Without an owner, because otherwise the mount would hold the module forever. */
static struct file_system_type karena_fs_type = {
	.name			= "karena",
	.init_fs_context	= karena_init_fs_context,
	.kill_sb		= kill_anon_super,
};

/**
 * karena_fs_owns() - Ask whether a file is one of the module's.
 * @file: The file.
 *
 * Return: True if it belongs to a heap, family, share or snapshot.
 */
bool karena_fs_owns(const struct file *file)
{
	return file->f_path.mnt == karena_mnt;
}

/**
 * karena_fs_file() - Make a file of an inode.
 * @inode: The inode.
 * @heap_name: The part of its name after "karena:".
 * @flags: O_RDONLY or O_RDWR.
 * @fops: Its operations. The last fput() drops the module.
 *
 * Return: The file, or an ERR_PTR.
 */
struct file *karena_fs_file(struct inode *inode, const char *heap_name, int flags,
			    const struct file_operations *fops)
{
	char name[sizeof("karena:") + KARENA_NAME_SIZE];
	struct file *file;

	snprintf(name, sizeof(name), "karena:%s", heap_name);
	ihold(inode);
	file = alloc_file_pseudo(inode, karena_mnt, name, flags, fops);
	if (IS_ERR(file))
		iput(inode);
	else
		/* alloc_file_pseudo() takes no reference to the module. */
		__module_get(THIS_MODULE);
	return file;
}

/**
 * karena_fs_init() - Mount the pseudo file system.
 *
 * Mounting it for the first heap and unmounting it after the last would cost more than a
 * heap.
 *
 * Return: 0 or a negative errno.
 */
int karena_fs_init(void)
{
	karena_mnt = kern_mount(&karena_fs_type);
	if (IS_ERR(karena_mnt))
		return PTR_ERR(karena_mnt);
	karena_keys = alloc_anon_inode(karena_mnt->mnt_sb);
	if (IS_ERR(karena_keys)) {
		kern_unmount(karena_mnt);
		return PTR_ERR(karena_keys);
	}
	/* may_umount() returns true when at most two references are left. */
	mntget(karena_mnt);
	return 0;
}

/**
 * karena_fs_exit() - Unmount the pseudo file system; no inode of a family is left.
 */
void karena_fs_exit(void)
{
	/* The thread that put the last inode is about to put the mount. */
	while (!may_umount(karena_mnt))
		usleep_range(1000, 2000);
	iput(karena_keys);
	mntput(karena_mnt);
	kern_unmount(karena_mnt);
}
