// SPDX-License-Identifier: GPL-2.0
/*
 * The files in sysfs: statistics of all heaps in the device's own directory, those of each
 * heap in heaps/ID below it. A file has one value, except the files events and statistics,
 * which have a name and a value in each line. The owner of a heap and the group of the
 * device node may read the files of the heap. dir.c adds and removes the directories.
 */
#include <linux/device.h>
#include <linux/kobject.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/pid.h>
#include <linux/sysfs.h>
#include <linux/user_namespace.h>

#include "compat.h"
#include "file.h"

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
GLOBAL_SHOW(huge_arenas, "%ld", atomic_long_read(&karena_nr_huge));
GLOBAL_SHOW(sparse_arenas, "%ld", atomic_long_read(&karena_nr_sparse));
GLOBAL_SHOW(sparse_pages, "%ld", atomic_long_read(&karena_nr_sparse_pages));
GLOBAL_SHOW(reclaimed, "%ld", atomic_long_read(&karena_nr_reclaimed));
GLOBAL_SHOW(reclaimed_ready, "%ld", atomic_long_read(&karena_nr_reclaimed_ready));
GLOBAL_SHOW(copies, "%ld", atomic_long_read(&karena_nr_copies));
GLOBAL_SHOW(promoted, "%ld", atomic_long_read(&karena_nr_promoted));
GLOBAL_SHOW(pinned_orphans, "%ld", karena_folio_orphans());
GLOBAL_SHOW(poisoned_frames, "%ld", karena_folio_poisoned());

static struct attribute *karena_attrs[] = {
	&dev_attr_abi_version.attr,
	&dev_attr_nr_heaps.attr,
	&dev_attr_limit.attr,
	&dev_attr_committed.attr,
	&dev_attr_ready_frames.attr,
	&dev_attr_huge_arenas.attr,
	&dev_attr_sparse_arenas.attr,
	&dev_attr_sparse_pages.attr,
	&dev_attr_reclaimed.attr,
	&dev_attr_reclaimed_ready.attr,
	&dev_attr_copies.attr,
	&dev_attr_promoted.attr,
	&dev_attr_pinned_orphans.attr,
	&dev_attr_poisoned_frames.attr,
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
HEAP_SHOW(pid, "%d", pid_vnr(heap->pid));
HEAP_SHOW(uid, "%u", from_kuid_munged(&init_user_ns, heap->dir.uid));
HEAP_SHOW(window, "%llu", karena_window_size(heap));
HEAP_SHOW(soft_limit, "%llu", (u64)READ_ONCE(heap->charge.soft_limit) << PAGE_SHIFT);
HEAP_SHOW(policy, "%s", policy_name(heap->policy));
HEAP_SHOW(node, "%d", heap->node);
HEAP_SHOW(fork, "%s", fork_name(heap->fork));
HEAP_SHOW(parent, "%llu", heap->parent);
HEAP_SHOW(shared, "%llu", (u64)karena_cow_shared(heap) << PAGE_SHIFT);
HEAP_SHOW(committed, "%llu", (u64)READ_ONCE(heap->charge.committed) << PAGE_SHIFT);
HEAP_SHOW(ready_frames, "%lu", READ_ONCE(heap->ready.nr));
HEAP_SHOW(huge_arenas, "%ld", atomic_long_read(&heap->stats.huge));
HEAP_SHOW(sparse_arenas, "%ld", atomic_long_read(&heap->stats.sparse));
HEAP_SHOW(sparse_pages, "%ld", atomic_long_read(&heap->stats.sparse_pages));
HEAP_SHOW(volatile_arenas, "%lu", karena_arena_count_volatile(heap));
HEAP_SHOW(pressure, "%u", READ_ONCE(heap->pressure.level));

/* The events of a heap, counted since its creation. */
static ssize_t heap_events_show(struct karena_heap *heap, char *buffer)
{
	const struct {
		const char *name;
		long count;
	} events[] = {
		{ "faults", atomic_long_read(&heap->stats.faults) },
		{ "refused", atomic_long_read(&heap->stats.refused) },
		{ "demoted", atomic_long_read(&heap->stats.demoted) },
		{ "copies", atomic_long_read(&heap->stats.copies) },
		{ "promoted", atomic_long_read(&heap->stats.promoted) },
		{ "reclaimed", atomic_long_read(&heap->stats.reclaimed) },
		{ "reclaimed_ready", atomic_long_read(&heap->stats.reclaimed_ready) },
		{ "pressure", READ_ONCE(heap->pressure.events) },
	};
	int i, at = 0;

	for (i = 0; i < ARRAY_SIZE(events); i++)
		at += sysfs_emit_at(buffer, at, "%s %ld\n", events[i].name,
				    events[i].count);
	return at;
}

static struct heap_attribute heap_attr_events = {
	.attr	= { .name = "events", .mode = 0440 },
	.show	= heap_events_show,
};

/* The statistics that the process writes about itself. */
static ssize_t heap_statistics_show(struct karena_heap *heap, char *buffer)
{
	static const struct {
		const char *name;
		size_t offset;
	} shown[] = {
#define SHOWN(_name, _member)	{ #_name, offsetof(struct karena_stats, _member) }
		SHOWN(arenas_allocated, arenas_allocated),
		SHOWN(arenas_reclaimed, arenas_reclaimed),
		SHOWN(arenas_highwater, arenas_highwater),
		SHOWN(arenas, arenas),
		SHOWN(pools, pools),
		SHOWN(bytes_blocks, bytes_blocks),
		SHOWN(bytes_available, bytes_available),
		SHOWN(bytes_unused_pools, bytes_unused_pools),
		SHOWN(bytes_headers, bytes_headers),
		SHOWN(bytes_quantization, bytes_quantization),
		SHOWN(bytes_alignment, bytes_alignment),
		SHOWN(raw_blocks, domain[0].blocks),
		SHOWN(raw_bytes, domain[0].bytes),
		SHOWN(mem_blocks, domain[1].blocks),
		SHOWN(mem_bytes, domain[1].bytes),
		SHOWN(obj_blocks, domain[2].blocks),
		SHOWN(obj_bytes, domain[2].bytes),
	};
	struct karena_stats stats;
	int i, at = 0;

	karena_control_stats(heap, &stats);
	for (i = 0; i < ARRAY_SIZE(shown); i++)
		at += sysfs_emit_at(buffer, at, "%s %llu\n", shown[i].name,
				    *(u64 *)((char *)&stats + shown[i].offset));
	return at;
}

static struct heap_attribute heap_attr_statistics = {
	.attr	= { .name = "statistics", .mode = 0440 },
	.show	= heap_statistics_show,
};

static ssize_t heap_limit_show(struct karena_heap *heap, char *buffer)
{
	return sysfs_emit(buffer, "%llu\n",
			  (u64)READ_ONCE(heap->charge.limit) << PAGE_SHIFT);
}

/* The file belongs to root, whichever user owns the heap; see dir.c. */
static ssize_t heap_limit_store(struct karena_heap *heap, const char *text,
				size_t size)
{
	u64 bytes;
	int err = kstrtou64(text, 0, &bytes) ?: karena_limit_by_root(heap, bytes);

	if (err)
		return err;
	karena_ready_fit(heap);
	return size;
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
	&heap_attr_committed.attr,
	&heap_attr_ready_frames.attr,
	&heap_attr_huge_arenas.attr,
	&heap_attr_sparse_arenas.attr,
	&heap_attr_sparse_pages.attr,
	&heap_attr_volatile_arenas.attr,
	&heap_attr_pressure.attr,
	&heap_attr_events.attr,
	&heap_attr_statistics.attr,
	NULL
};

static const struct attribute_group heap_group = {
	.attrs	= heap_attrs,
};

static ssize_t heap_show(struct kobject *kobj, struct attribute *attr,
			 char *buffer)
{
	struct karena_heap *heap = container_of(kobj, struct karena_heap, dir.kobj);

	return container_of(attr, struct heap_attribute, attr)->show(heap, buffer);
}

static ssize_t heap_store(struct kobject *kobj, struct attribute *attr,
			  const char *text, size_t size)
{
	struct karena_heap *heap = container_of(kobj, struct karena_heap, dir.kobj);
	struct heap_attribute *at = container_of(attr, struct heap_attribute, attr);

	return at->store ? at->store(heap, text, size) : -EIO;
}

static const struct sysfs_ops heap_sysfs_ops = {
	.show	= heap_show,
	.store	= heap_store,
};

/**
 * karena_sysfs_init() - Add the directory of the heaps.
 * @device: The device, registered.
 *
 * Return: 0 or -ENOMEM.
 */
int karena_sysfs_init(struct miscdevice *device)
{
	return karena_dir_init(&device->this_device->kobj, &heap_sysfs_ops, &heap_group,
			       &heap_attr_limit.attr);
}

/**
 * karena_sysfs_exit() - Remove the directory of the heaps; no heap is left.
 */
void karena_sysfs_exit(void)
{
	karena_dir_exit();
}
