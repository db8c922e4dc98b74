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

/* A child that is gone sooner needs no directory, which costs more than all else. */
#define CLONE_DELAY	(HZ / 10)

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
GLOBAL_SHOW(ready_frames, "%ld", karena_ready_total());
GLOBAL_SHOW(reserve_frames, "%ld", karena_reserve_frames());
GLOBAL_SHOW(huge_arenas, "%ld", atomic_long_read(&karena_nr_huge));
GLOBAL_SHOW(sparse_arenas, "%ld", atomic_long_read(&karena_nr_sparse));
GLOBAL_SHOW(sparse_pages, "%ld", atomic_long_read(&karena_nr_sparse_pages));
GLOBAL_SHOW(reclaimed, "%ld", atomic_long_read(&karena_nr_reclaimed));
GLOBAL_SHOW(reclaimed_ready, "%ld", atomic_long_read(&karena_nr_reclaimed_ready));
GLOBAL_SHOW(copies, "%ld", atomic_long_read(&karena_nr_copies));
GLOBAL_SHOW(promoted, "%ld", atomic_long_read(&karena_nr_promoted));
GLOBAL_SHOW(pinned_orphans, "%ld", karena_folio_orphans());

static struct attribute *karena_attrs[] = {
	&dev_attr_abi_version.attr,
	&dev_attr_nr_heaps.attr,
	&dev_attr_limit.attr,
	&dev_attr_committed.attr,
	&dev_attr_ready_frames.attr,
	&dev_attr_reserve_frames.attr,
	&dev_attr_huge_arenas.attr,
	&dev_attr_sparse_arenas.attr,
	&dev_attr_sparse_pages.attr,
	&dev_attr_reclaimed.attr,
	&dev_attr_reclaimed_ready.attr,
	&dev_attr_copies.attr,
	&dev_attr_promoted.attr,
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
	ssize_t (*store)(struct karena_heap *heap, const char *text, size_t size);
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

static const char *policy_name(u32 policy)
{
	static const char * const names[] = {
		[KARENA_POLICY_DEFAULT]		= "default",
		[KARENA_POLICY_PREFER]		= "prefer",
		[KARENA_POLICY_BIND]		= "bind",
		[KARENA_POLICY_INTERLEAVE]	= "interleave",
	};

	return names[policy];
}

static const char *fork_name(u32 fork)
{
	static const char * const names[] = {
		[KARENA_FORK_COW]	= "cow",
		[KARENA_FORK_SHARE]	= "share",
		[KARENA_FORK_NONE]	= "none",
	};

	return names[fork];
}

HEAP_SHOW(name, "%s", heap->name);
HEAP_SHOW(pid, "%d", pid_nr(heap->pid));
HEAP_SHOW(uid, "%u", from_kuid_munged(&init_user_ns, heap->uid));
HEAP_SHOW(window, "%llu", karena_window_size(heap));
HEAP_SHOW(soft_limit, "%llu", (u64)READ_ONCE(heap->soft_limit) << PAGE_SHIFT);
HEAP_SHOW(policy, "%s", policy_name(heap->policy));
HEAP_SHOW(node, "%d", heap->node);
HEAP_SHOW(fork, "%s", fork_name(heap->fork));
HEAP_SHOW(parent, "%llu", heap->parent);
HEAP_SHOW(shared, "%llu", (u64)karena_cow_shared(heap) << PAGE_SHIFT);
HEAP_SHOW(copies, "%ld", atomic_long_read(&heap->copies));
HEAP_SHOW(promoted, "%ld", atomic_long_read(&heap->promoted));
HEAP_SHOW(committed, "%llu", (u64)READ_ONCE(heap->committed) << PAGE_SHIFT);
HEAP_SHOW(ready_frames, "%lu", READ_ONCE(heap->nr_ready));
HEAP_SHOW(huge_arenas, "%ld", atomic_long_read(&heap->huge));
HEAP_SHOW(sparse_arenas, "%ld", atomic_long_read(&heap->sparse));
HEAP_SHOW(sparse_pages, "%ld", atomic_long_read(&heap->sparse_pages));
HEAP_SHOW(volatile_arenas, "%lu", karena_control_volatile(heap));
HEAP_SHOW(demoted, "%ld", atomic_long_read(&heap->demoted));
HEAP_SHOW(faults, "%ld", atomic_long_read(&heap->faults));
HEAP_SHOW(refused, "%ld", atomic_long_read(&heap->refused));
HEAP_SHOW(reclaimed, "%ld", atomic_long_read(&heap->reclaimed));
HEAP_SHOW(reclaimed_ready, "%ld", atomic_long_read(&heap->reclaimed_ready));
HEAP_SHOW(pressure, "%u", READ_ONCE(heap->pressure));
HEAP_SHOW(pressure_events, "%u", READ_ONCE(heap->pressure_events));

static ssize_t heap_limit_show(struct karena_heap *heap, char *buffer)
{
	return sysfs_emit(buffer, "%llu\n",
			  (u64)READ_ONCE(heap->limit) << PAGE_SHIFT);
}

/* The file is root's, whoever owns the heap; see heap_add_limit(). */
static ssize_t heap_limit_store(struct karena_heap *heap, const char *text,
				size_t size)
{
	u64 bytes;
	int err = kstrtou64(text, 0, &bytes);

	return err ?: karena_limit_by_root(heap, bytes) ?: size;
}

static struct heap_attribute heap_attr_limit = {
	.attr	= { .name = "limit", .mode = 0640 },
	.show	= heap_limit_show,
	.store	= heap_limit_store,
};

static struct attribute *heap_attrs[] = {
	&heap_attr_name.attr,
	&heap_attr_pid.attr,
	&heap_attr_uid.attr,
	&heap_attr_window.attr,
	&heap_attr_soft_limit.attr,
	&heap_attr_policy.attr,
	&heap_attr_node.attr,
	&heap_attr_fork.attr,
	&heap_attr_parent.attr,
	&heap_attr_shared.attr,
	&heap_attr_copies.attr,
	&heap_attr_promoted.attr,
	&heap_attr_committed.attr,
	&heap_attr_ready_frames.attr,
	&heap_attr_huge_arenas.attr,
	&heap_attr_sparse_arenas.attr,
	&heap_attr_sparse_pages.attr,
	&heap_attr_volatile_arenas.attr,
	&heap_attr_demoted.attr,
	&heap_attr_faults.attr,
	&heap_attr_refused.attr,
	&heap_attr_reclaimed.attr,
	&heap_attr_reclaimed_ready.attr,
	&heap_attr_pressure.attr,
	&heap_attr_pressure_events.attr,
	NULL
};

static const struct attribute_group heap_group = {
	.attrs	= heap_attrs,
};

/* What the process says of itself. */
#define STATS_SHOW(_name, _member)					\
static ssize_t stats_##_name##_show(struct karena_heap *heap, char *buffer) \
{									\
	struct karena_stats stats;					\
									\
	karena_control_stats(heap, &stats);				\
	return sysfs_emit(buffer, "%llu\n", stats._member);		\
}									\
static struct heap_attribute stats_attr_##_name = {		\
	.attr	= { .name = #_name, .mode = 0440 },			\
	.show	= stats_##_name##_show,					\
}

STATS_SHOW(arenas_allocated, arenas_allocated);
STATS_SHOW(arenas_reclaimed, arenas_reclaimed);
STATS_SHOW(arenas_highwater, arenas_highwater);
STATS_SHOW(arenas, arenas);
STATS_SHOW(pools, pools);
STATS_SHOW(bytes_blocks, bytes_blocks);
STATS_SHOW(bytes_available, bytes_available);
STATS_SHOW(bytes_unused_pools, bytes_unused_pools);
STATS_SHOW(bytes_headers, bytes_headers);
STATS_SHOW(bytes_quantization, bytes_quantization);
STATS_SHOW(bytes_alignment, bytes_alignment);
STATS_SHOW(raw_blocks, domain[0].blocks);
STATS_SHOW(raw_bytes, domain[0].bytes);
STATS_SHOW(mem_blocks, domain[1].blocks);
STATS_SHOW(mem_bytes, domain[1].bytes);
STATS_SHOW(obj_blocks, domain[2].blocks);
STATS_SHOW(obj_bytes, domain[2].bytes);

static struct attribute *stats_attrs[] = {
	&stats_attr_arenas_allocated.attr,
	&stats_attr_arenas_reclaimed.attr,
	&stats_attr_arenas_highwater.attr,
	&stats_attr_arenas.attr,
	&stats_attr_pools.attr,
	&stats_attr_bytes_blocks.attr,
	&stats_attr_bytes_available.attr,
	&stats_attr_bytes_unused_pools.attr,
	&stats_attr_bytes_headers.attr,
	&stats_attr_bytes_quantization.attr,
	&stats_attr_bytes_alignment.attr,
	&stats_attr_raw_blocks.attr,
	&stats_attr_raw_bytes.attr,
	&stats_attr_mem_blocks.attr,
	&stats_attr_mem_bytes.attr,
	&stats_attr_obj_blocks.attr,
	&stats_attr_obj_bytes.attr,
	NULL
};

static const struct attribute_group stats_group = {
	.name	= "statistics",
	.attrs	= stats_attrs,
};

static const struct attribute_group *heap_groups[] = {
	&heap_group,
	&stats_group,
	NULL
};

static ssize_t heap_show(struct kobject *kobj, struct attribute *attr,
			 char *buffer)
{
	struct karena_heap *heap = container_of(kobj, struct karena_heap, kobj);

	return container_of(attr, struct heap_attribute, attr)->show(heap, buffer);
}

static ssize_t heap_store(struct kobject *kobj, struct attribute *attr,
			  const char *text, size_t size)
{
	struct karena_heap *heap = container_of(kobj, struct karena_heap, kobj);
	struct heap_attribute *at = container_of(attr, struct heap_attribute, attr);

	return at->store ? at->store(heap, text, size) : -EIO;
}

static const struct sysfs_ops heap_sysfs_ops = {
	.show	= heap_show,
	.store	= heap_store,
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

	*uid = test_bit(KARENA_HEAP_ROOTS, &heap->flags) ? GLOBAL_ROOT_UID :
							   heap->uid;
	*gid = heap->gid;
}

const struct kobj_type karena_heap_ktype = {
	.release	= heap_free,
	.sysfs_ops	= &heap_sysfs_ops,
	.get_ownership	= heap_ownership,
};

/* The one file that can be written to. Made as root's, and never another's. */
static int heap_add_limit(struct karena_heap *heap)
{
	int err;

	set_bit(KARENA_HEAP_ROOTS, &heap->flags);
	err = sysfs_create_file(&heap->kobj, &heap_attr_limit.attr);
	clear_bit(KARENA_HEAP_ROOTS, &heap->flags);
	return err;
}

static void heap_add(struct work_struct *work)
{
	struct karena_heap *heap = container_of(work, struct karena_heap,
						sysfs_work.work);

	if (kobject_add(&heap->kobj, heaps_dir, "%llu", heap->id))
		goto err;
	/* Not as the type's default: those are removed one by one, these at once. */
	if (sysfs_create_groups(&heap->kobj, heap_groups))
		goto err_dir;
	if (heap_add_limit(heap))
		goto err_dir;
	set_bit(KARENA_HEAP_IN_SYSFS, &heap->flags);
	return;

err_dir:
	kobject_del(&heap->kobj);
err:
	clear_bit(KARENA_HEAP_NAMED, &heap->flags);
}

/**
 * karena_sysfs_prepare() - Make a new heap ready for a directory.
 * @heap: The heap; its references are counted from here on.
 */
void karena_sysfs_prepare(struct karena_heap *heap)
{
	kobject_init(&heap->kobj, &karena_heap_ktype);
	INIT_DELAYED_WORK(&heap->sysfs_work, heap_add);
}

/**
 * karena_sysfs_add() - See to it that a heap gets its directory.
 * @heap: The heap, about to commit its first arena; a clone, touched for the first time.
 *
 * It is made by a worker: the caller is in a page fault, perhaps one that kernfs
 * itself took while it held its own lock. Without memory the heap does without,
 * and its next commit tries again.
 */
void karena_sysfs_add(struct karena_heap *heap)
{
	if (test_bit(KARENA_HEAP_NAMED, &heap->flags) ||
	    test_bit(KARENA_HEAP_SNAPSHOT, &heap->flags))
		return;
	if (!READ_ONCE(heap->pid))
		karena_heap_adopt(heap);
	/* Perhaps another process has looked into it before its own. */
	if (READ_ONCE(heap->pid) &&
	    !test_and_set_bit(KARENA_HEAP_NAMED, &heap->flags))
		queue_delayed_work(system_unbound_wq, &heap->sysfs_work,
				   heap->parent ? CLONE_DELAY : 0);
}

/**
 * karena_sysfs_remove() - Remove a heap's directory, if it has one.
 * @heap: The heap, which nobody commits to any more.
 *
 * Returns when nobody reads there any more.
 */
void karena_sysfs_remove(struct karena_heap *heap)
{
	if (!test_bit(KARENA_HEAP_NAMED, &heap->flags))
		return;
	cancel_delayed_work_sync(&heap->sysfs_work);
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
