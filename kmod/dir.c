// SPDX-License-Identifier: GPL-2.0
/*
 * The directory of a heap in sysfs: how it is added and removed. sysfs.c defines its files.
 *
 * A directory costs 5 KiB of kernel memory, 230 bytes for each file, and no memory cgroup
 * is charged for it. So a heap has few files, and a user has a limited number of
 * directories.
 */
#include <linux/completion.h>
#include <linux/cred.h>
#include <linux/kobject.h>
#include <linux/moduleparam.h>
#include <linux/slab.h>
#include <linux/sysfs.h>
#include <linux/user_namespace.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include "compat.h"
#include "heap.h"

/* A child that ends sooner gets no directory, which costs more than the rest of a clone. */
#define CLONE_DELAY	(HZ / 10)

static struct kobject *heaps_dir;

/* The files of each directory: of the heap's owner, and of root. Set before the first heap. */
static const struct attribute_group *heap_group;
static const struct attribute *heap_limit;

static unsigned int directories = 4096;
module_param(directories, uint, 0644);
MODULE_PARM_DESC(directories, "most heaps of a user that have a directory in sysfs (default: 4096)");

/* For each kuid, how many directories the user has or is about to get. */
static DEFINE_XARRAY(users);

/*
 * Returns the user whose quota a directory counts against. Outside the initial user
 * namespace, that is the owner of the outermost namespace below it, because this owner
 * could use any number of user ids.
 */
static kuid_t user_answerable(void)
{
	struct user_namespace *ns = current_user_ns();
	kuid_t uid = current_euid();

	for (; ns != &init_user_ns; ns = ns->parent)
		uid = ns->owner;
	return uid;
}

/* Count one directory more, if the quota allows it, or one less. Returns true if done. */
static bool directory_count(kuid_t user, int change)
{
	unsigned long index = __kuid_val(user), count;
	void *entry = NULL;
	bool done = false;

	xa_lock(&users);
	count = xa_to_value(xa_load(&users, index) ?: xa_mk_value(0)) + change;
	if (count)
		entry = xa_mk_value(count);
	if (change < 0 || count <= READ_ONCE(directories))
		done = !xa_is_err(__xa_store(&users, index, entry,
					     GFP_NOWAIT | __GFP_NOWARN));
	xa_unlock(&users);
	return done;
}

static void heap_released(struct kobject *kobj)
{
	complete(container_of(kobj, struct karena_heap, dir.kobj)->dir.released);
}

static void heap_ownership(karena_kobj_const struct kobject *kobj, kuid_t *uid,
			   kgid_t *gid)
{
	const struct karena_heap *heap = container_of(kobj, struct karena_heap,
						      dir.kobj);

	*uid = test_bit(KARENA_HEAP_ROOTS, &heap->flags) ? GLOBAL_ROOT_UID :
							   heap->dir.uid;
	*gid = heap->dir.gid;
}

static struct kobj_type heap_ktype = {
	.release	= heap_released,
	.get_ownership	= heap_ownership,
};

static void heap_add_work(struct work_struct *work)
{
	struct karena_heap *heap = container_of(work, struct karena_heap,
						dir.work.work);
	int err;

	if (kobject_add(&heap->dir.kobj, heaps_dir, "%llu", heap->id))
		goto err;
	/* Not as defaults of the type, removed one by one; a group is removed at once. */
	if (sysfs_create_group(&heap->dir.kobj, heap_group))
		goto err_dir;
	/* The one writable file belongs to root from the start. */
	set_bit(KARENA_HEAP_ROOTS, &heap->flags);
	err = sysfs_create_file(&heap->dir.kobj, heap_limit);
	clear_bit(KARENA_HEAP_ROOTS, &heap->flags);
	if (err)
		goto err_dir;
	set_bit(KARENA_HEAP_IN_SYSFS, &heap->flags);
	return;

err_dir:
	kobject_del(&heap->dir.kobj);
err:
	directory_count(heap->dir.answerable, -1);
	clear_bit(KARENA_HEAP_NAMED, &heap->flags);
}

/**
 * karena_dir_prepare() - Prepare a new heap for a directory.
 * @heap: The heap; from here on karena_dir_free() frees it.
 */
void karena_dir_prepare(struct karena_heap *heap)
{
	kobject_init(&heap->dir.kobj, &heap_ktype);
	heap->dir.answerable = user_answerable();
	INIT_DELAYED_WORK(&heap->dir.work, heap_add_work);
}

/**
 * karena_dir_free() - Free a heap.
 * @heap: The heap, without a directory and without another user.
 *
 * With CONFIG_DEBUG_KOBJECT_RELEASE the kernel releases a kobject only after some seconds,
 * when the module could be unloaded already. So this waits for the release, while the
 * family's file holds the module.
 */
void karena_dir_free(struct karena_heap *heap)
{
	DECLARE_COMPLETION_ONSTACK(released);

	heap->dir.released = &released;
	kobject_put(&heap->dir.kobj);
	wait_for_completion(&released);
	kfree(heap);
}

/**
 * karena_dir_add() - Let a worker add a heap's directory.
 * @heap: The heap, about to commit its first arena, or a clone at its first touch.
 *
 * A worker adds it, because the caller may be in a page fault, perhaps in one of kernfs,
 * which then holds its own lock. Without memory, or above the quota of the user, the heap
 * gets no directory, and its next commit tries again.
 */
void karena_dir_add(struct karena_heap *heap)
{
	if (test_bit(KARENA_HEAP_NAMED, &heap->flags) ||
	    test_bit(KARENA_HEAP_SNAPSHOT, &heap->flags))
		return;
	/* Another process may use a clone before the clone's own process does. */
	if (!READ_ONCE(heap->pid) ||
	    test_and_set_bit(KARENA_HEAP_NAMED, &heap->flags))
		return;
	if (directory_count(heap->dir.answerable, 1))
		queue_delayed_work(karena_workqueue, &heap->dir.work,
				   heap->parent ? CLONE_DELAY : 0);
	else
		clear_bit(KARENA_HEAP_NAMED, &heap->flags);
}

/**
 * karena_dir_remove() - Remove a heap's directory, if it has one.
 * @heap: The heap, in which no thread commits any more.
 *
 * Returns when no process is reading a file of the directory.
 */
void karena_dir_remove(struct karena_heap *heap)
{
	if (!test_bit(KARENA_HEAP_NAMED, &heap->flags))
		return;
	cancel_delayed_work_sync(&heap->dir.work);
	/* Without memory, the work may have failed. */
	if (!test_bit(KARENA_HEAP_NAMED, &heap->flags))
		return;
	if (test_bit(KARENA_HEAP_IN_SYSFS, &heap->flags))
		kobject_del(&heap->dir.kobj);
	directory_count(heap->dir.answerable, -1);
}

/**
 * karena_dir_init() - Add the directory "heaps".
 * @device: The device's directory.
 * @ops: How the files of a heap's directory are read and written.
 * @group: The files that belong to the heap's owner.
 * @limit: The one file that belongs to root.
 *
 * Return: 0 or -ENOMEM.
 */
int karena_dir_init(struct kobject *device, const struct sysfs_ops *ops,
		    const struct attribute_group *group, const struct attribute *limit)
{
	heap_ktype.sysfs_ops = ops;
	heap_group = group;
	heap_limit = limit;
	heaps_dir = kobject_create_and_add("heaps", device);
	return heaps_dir ? 0 : -ENOMEM;
}

/**
 * karena_dir_exit() - Remove the directory "heaps"; no heap is left.
 */
void karena_dir_exit(void)
{
	kobject_put(heaps_dir);
}
