/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Heaps: their lifetime, their directories in sysfs, their clones, and ranges of their
 * windows.
 */
#ifndef _KARENA_HEAP_H
#define _KARENA_HEAP_H

#include <linux/fs.h>
#include <linux/sysfs.h>

#include "arena.h"

/**
 * struct karena_share_range - A share.
 * @node: Entry in the heap's interval tree.
 * @subtree_last: For the interval tree.
 * @heap: The heap; the share has a reference to it.
 * @first: The first page, counted from the window's start.
 * @count: The number of pages.
 */
struct karena_share_range {
	struct rb_node node;
	unsigned long subtree_last;
	struct karena_heap *heap;
	unsigned long first;
	unsigned long count;
};

/* dir.c */
void karena_dir_prepare(struct karena_heap *heap);
void karena_dir_free(struct karena_heap *heap);
void karena_dir_add(struct karena_heap *heap);
void karena_dir_remove(struct karena_heap *heap);
int karena_dir_init(struct kobject *device, const struct sysfs_ops *ops,
		    const struct attribute_group *group, const struct attribute *limit);
void karena_dir_exit(void);

/* heap.c */
extern atomic_long_t karena_nr_heaps;
struct karena_heap *karena_heap_create(const struct karena_create *create, kgid_t gid,
				       const struct file_operations *window_fops);
struct karena_heap *karena_heap_clone(struct karena_heap *heap, struct mm_struct *mm);
void karena_heap_publish(struct karena_heap *heap);
struct file *karena_heap_file(struct karena_heap *heap, int flags,
			      const struct file_operations *fops, void *data);
struct file *karena_heap_open(struct karena_heap *heap, int flags,
			      const struct file_operations *fops);
int karena_heap_release(struct inode *inode, struct file *file);
struct karena_heap *karena_heap_mine(struct file *file);
struct karena_heap *karena_heap_find(struct karena_family *family, struct mm_struct *mm);
struct karena_heap *karena_heap_by_id(u64 id);
struct karena_heap *karena_heap_mapped(struct vm_area_struct *vma);
void karena_heap_get(struct karena_heap *heap);
void karena_heap_put(struct karena_heap *heap);
void karena_heap_exit(struct karena_heap *heap);
void karena_heap_drop(struct karena_heap *heap);
void karena_heap_touch(struct karena_heap *heap);
int karena_family_release(struct inode *inode, struct file *file);
void karena_heap_share(struct karena_heap *heap, struct karena_share_range *share);
void karena_heap_unshare(struct karena_heap *heap, struct karena_share_range *share);

/* clone.c */
struct karena_heap *karena_clone(struct karena_heap *heap, struct mm_struct *mm,
				 struct karena_windows *windows);

/* range.c */
bool karena_range_valid(const struct karena_heap *heap, u64 offset, u64 length);
int karena_range_release(struct karena_heap *heap, u64 offset, u64 length);
int karena_ranges_commit(struct karena_heap *heap, const struct karena_ranges *call);
int karena_ranges_release(struct karena_heap *heap, const struct karena_ranges *call);

#endif /* _KARENA_HEAP_H */
