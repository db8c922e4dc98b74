// SPDX-License-Identifier: GPL-2.0
/*
 * What sysfs shows: the figures of all heaps in the device's own directory, those
 * of each heap in heaps/ID below it. One value a file; the files of a heap are
 * its owner's and the device node's group's to read.
 */
#include <linux/kobject.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pid.h>
#include <linux/slab.h>
#include <linux/sysfs.h>

#include "compat.h"
#include "karena.h"

atomic_long_t karena_nr_heaps;
atomic_long_t karena_nr_huge;

static struct kobject *heaps_dir;

#define GLOBAL_SHOW(_name, _format, _value)				\
static ssize_t _name##_show(struct device *device,			\
			    struct device_attribute *attr, char *buffer) \
{									\
	return sysfs_emit(buffer, _format "\n", _value);		\
}									\
static DEVICE_ATTR_RO(_name)

GLOBAL_SHOW(abi_version, "%d", KARENA_ABI_VERSION);
GLOBAL_SHOW(nr_heaps, "%ld", atomic_long_read(&karena_nr_heaps));
GLOBAL_SHOW(limit, "%llu", (u64)karena_limit() << PAGE_SHIFT);
GLOBAL_SHOW(committed, "%llu", (u64)karena_committed() << PAGE_SHIFT);
GLOBAL_SHOW(huge_arenas, "%ld", atomic_long_read(&karena_nr_huge));
GLOBAL_SHOW(reclaimed, "%ld", atomic_long_read(&karena_nr_reclaimed));
GLOBAL_SHOW(pinned_orphans, "%ld", karena_frame_orphans());

static struct attribute *karena_attrs[] = {
	&dev_attr_abi_version.attr,
	&dev_attr_nr_heaps.attr,
	&dev_attr_limit.attr,
	&dev_attr_committed.attr,
	&dev_attr_huge_arenas.attr,
	&dev_attr_reclaimed.attr,
	&dev_attr_pinned_orphans.attr,
	NULL
};

static const struct attribute_group karena_group = {
	.attrs	= karena_attrs,
};

const struct attribute_group *karena_groups[] = {
	&karena_group,
	NULL
};

struct heap_attribute {
	struct attribute attr;
	ssize_t (*show)(struct karena_heap *heap, char *buffer);
};

#define HEAP_SHOW(_name, _format, _value)				\
static ssize_t heap_##_name##_show(struct karena_heap *heap, char *buffer) \
{									\
	return sysfs_emit(buffer, _format "\n", _value);		\
}									\
static struct heap_attribute heap_attr_##_name = {		\
	.attr	= { .name = #_name, .mode = 0440 },			\
	.show	= heap_##_name##_show,					\
}

HEAP_SHOW(name, "%s", heap->name);
HEAP_SHOW(pid, "%d", pid_nr(heap->pid));
HEAP_SHOW(uid, "%u", from_kuid_munged(&init_user_ns, heap->uid));
HEAP_SHOW(window, "%llu", karena_window_size(heap));
HEAP_SHOW(limit, "%llu", (u64)heap->limit << PAGE_SHIFT);
HEAP_SHOW(committed, "%llu", (u64)READ_ONCE(heap->committed) << PAGE_SHIFT);
HEAP_SHOW(huge_arenas, "%ld", atomic_long_read(&heap->huge));
HEAP_SHOW(faults, "%ld", atomic_long_read(&heap->faults));
HEAP_SHOW(refused, "%ld", atomic_long_read(&heap->refused));
HEAP_SHOW(volatile_arenas, "%lu", karena_control_volatile(heap));
HEAP_SHOW(reclaimed, "%ld", atomic_long_read(&heap->reclaimed));

static struct attribute *heap_attrs[] = {
	&heap_attr_name.attr,
	&heap_attr_pid.attr,
	&heap_attr_uid.attr,
	&heap_attr_window.attr,
	&heap_attr_limit.attr,
	&heap_attr_committed.attr,
	&heap_attr_huge_arenas.attr,
	&heap_attr_faults.attr,
	&heap_attr_refused.attr,
	&heap_attr_volatile_arenas.attr,
	&heap_attr_reclaimed.attr,
	NULL
};
ATTRIBUTE_GROUPS(heap);

static ssize_t heap_show(struct kobject *kobj, struct attribute *attr,
			 char *buffer)
{
	struct karena_heap *heap = container_of(kobj, struct karena_heap, kobj);

	return container_of(attr, struct heap_attribute, attr)->show(heap, buffer);
}

static const struct sysfs_ops heap_sysfs_ops = {
	.show	= heap_show,
};

static void heap_free(struct kobject *kobj)
{
	kfree(container_of(kobj, struct karena_heap, kobj));
}

static void heap_ownership(karena_kobj_const struct kobject *kobj, kuid_t *uid,
			   kgid_t *gid)
{
	const struct karena_heap *heap = container_of(kobj, struct karena_heap,
						      kobj);

	*uid = heap->uid;
	*gid = heap->gid;
}

const struct kobj_type karena_heap_ktype = {
	.release	= heap_free,
	.sysfs_ops	= &heap_sysfs_ops,
	.default_groups	= heap_groups,
	.get_ownership	= heap_ownership,
};

static void heap_add(struct work_struct *work)
{
	struct karena_heap *heap = container_of(work, struct karena_heap,
						sysfs_work);

	if (kobject_add(&heap->kobj, heaps_dir, "%llu", heap->id))
		clear_bit(KARENA_HEAP_NAMED, &heap->flags);
	else
		set_bit(KARENA_HEAP_IN_SYSFS, &heap->flags);
}

/**
 * karena_sysfs_prepare() - Make a new heap ready for a directory.
 * @heap: The heap; its references are counted from here on.
 */
void karena_sysfs_prepare(struct karena_heap *heap)
{
	kobject_init(&heap->kobj, &karena_heap_ktype);
	INIT_WORK(&heap->sysfs_work, heap_add);
}

/**
 * karena_sysfs_add() - See to it that a heap gets its directory.
 * @heap: The heap, about to commit its first arena.
 *
 * It is made by a worker: the caller is in a page fault, perhaps one that kernfs
 * itself took while it held its own lock. Without memory the heap does without,
 * and its next commit tries again.
 */
void karena_sysfs_add(struct karena_heap *heap)
{
	if (!test_bit(KARENA_HEAP_NAMED, &heap->flags) &&
	    !test_and_set_bit(KARENA_HEAP_NAMED, &heap->flags))
		schedule_work(&heap->sysfs_work);
}

/**
 * karena_sysfs_remove() - Remove a heap's directory, if it has one.
 * @heap: The heap, which nobody commits to any more.
 *
 * Returns when nobody reads there any more.
 */
void karena_sysfs_remove(struct karena_heap *heap)
{
	cancel_work_sync(&heap->sysfs_work);
	if (test_bit(KARENA_HEAP_IN_SYSFS, &heap->flags))
		kobject_del(&heap->kobj);
}

/**
 * karena_sysfs_init() - Make the directory of the heaps' directories.
 * @device: The device, registered.
 *
 * Return: 0 or -ENOMEM.
 */
int karena_sysfs_init(struct miscdevice *device)
{
	heaps_dir = kobject_create_and_add("heaps", &device->this_device->kobj);
	return heaps_dir ? 0 : -ENOMEM;
}

/**
 * karena_sysfs_exit() - Remove it; no heap is left.
 */
void karena_sysfs_exit(void)
{
	kobject_put(heaps_dir);
}
