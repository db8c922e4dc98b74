// SPDX-License-Identifier: GPL-2.0
/*
 * karena: arenas of physical memory for the heaps of language runtimes.
 */
#include <linux/miscdevice.h>
#include <linux/module.h>

#include "karena.h"

static const struct file_operations karena_fops = {
	.owner		= THIS_MODULE,
	.unlocked_ioctl	= karena_ioctl,
	.compat_ioctl	= compat_ptr_ioctl,
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

	karena_limit_init();
	err = karena_arena_init();
	if (err)
		return err;
	err = karena_heap_init();
	if (err)
		goto err_arena;
	err = misc_register(&karena_device);
	if (err)
		goto err_heap;
	err = karena_sysfs_init(&karena_device);
	if (err)
		goto err_device;
	return 0;

err_device:
	misc_deregister(&karena_device);
err_heap:
	karena_heap_exit();
err_arena:
	karena_arena_exit();
	return err;
}

static void __exit karena_exit(void)
{
	karena_sysfs_exit();
	misc_deregister(&karena_device);
	karena_heap_exit();
	karena_arena_exit();
}

module_init(karena_init);
module_exit(karena_exit);

MODULE_DESCRIPTION("Arenas of physical memory for the heaps of language runtimes");
MODULE_AUTHOR("The karena authors");
MODULE_LICENSE("GPL");
