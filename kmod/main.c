// SPDX-License-Identifier: GPL-2.0
/*
 * karena: arenas of physical memory for the heaps of language runtimes.
 */
#include <linux/build_bug.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/rcupdate.h>

#include "file.h"

/* Set when initialization has succeeded. Until then no process can create a heap. */
static bool karena_up;

static int karena_open(struct inode *inode, struct file *file)
{
	/* Pairs with karena_init(). */
	return smp_load_acquire(&karena_up) ? 0 : -ENXIO;
}

/* No compat_ioctl: a 32-bit program's addresses have no room for a window. */
static const struct file_operations karena_fops = {
	.owner		= THIS_MODULE,
	.open		= karena_open,
	.unlocked_ioctl	= karena_ioctl,
	.llseek		= noop_llseek,
};

static struct miscdevice karena_device = {
	.minor	= MISC_DYNAMIC_MINOR,
	.name	= "karena",
	.fops	= &karena_fops,
	.mode	= 0660,
	.groups	= karena_groups,
};

static int __init karena_init(void)
{
	int err;

	/* One PMD maps a huge frame. */
	BUILD_BUG_ON(PMD_SHIFT != KARENA_ARENA_SHIFT);
	karena_limit_init();
	err = karena_base_init();
	if (err)
		return err;
	err = karena_arena_init();
	if (err)
		goto err_base;
	err = karena_frame_init();
	if (err)
		goto err_arena;
	err = karena_reclaim_init();
	if (err)
		goto err_frame;
	err = karena_ready_init();
	if (err)
		goto err_reclaim;
	err = karena_fs_init();
	if (err)
		goto err_ready;
	err = misc_register(&karena_device);
	if (err)
		goto err_fs;
	err = karena_sysfs_init(&karena_device);
	if (err)
		goto err_device;
	/* Pairs with karena_open(). */
	smp_store_release(&karena_up, true);
	return 0;

err_device:
	misc_deregister(&karena_device);
err_fs:
	karena_fs_exit();
err_ready:
	karena_ready_exit();
err_reclaim:
	karena_reclaim_exit();
err_frame:
	karena_frame_exit();
err_arena:
	karena_arena_exit();
err_base:
	karena_base_exit();
	return err;
}

static void __exit karena_exit(void)
{
	/* A thread that has dropped a heap may still be in the text; see heap_defer_leave(). */
	synchronize_rcu_tasks();
	karena_sysfs_exit();
	misc_deregister(&karena_device);
	karena_fs_exit();
	karena_folio_exit();
	karena_ready_exit();
	karena_reclaim_exit();
	karena_frame_exit();
	karena_arena_exit();
	karena_base_exit();
}

module_init(karena_init);
module_exit(karena_exit);

MODULE_DESCRIPTION("Arenas of physical memory for the heaps of language runtimes");
MODULE_AUTHOR("The karena authors");
MODULE_VERSION(KARENA_MODULE_VERSION);
MODULE_LICENSE("GPL");
