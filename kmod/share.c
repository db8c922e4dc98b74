// SPDX-License-Identifier: GPL-2.0
/*
 * Shares: ranges of a window that other processes may map. A share is a file that holds
 * the heap; who maps it has the same memory as the heap's process, and its faults are
 * faults of the heap.
 */
#include <linux/file.h>
#include <linux/interval_tree_generic.h>
#include <linux/mm.h>
#include <linux/slab.h>

#include "karena.h"

static inline unsigned long share_first(const struct karena_share_range *share)
{
	return share->first;
}

static inline unsigned long share_last(const struct karena_share_range *share)
{
	return share->first + share->count - 1;
}

INTERVAL_TREE_DEFINE(struct karena_share_range, node, unsigned long, subtree_last,
		     share_first, share_last, static inline, share_tree)

static int share_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct karena_share_range *share = file->private_data;

	if (!(vma->vm_flags & VM_MAYSHARE))
		return -EINVAL;
	if (vma->vm_pgoff > share->count ||
	    vma_pages(vma) > share->count - vma->vm_pgoff)
		return -EINVAL;
	/* As in the window, where the family's pages are unmapped by. */
	vma->vm_pgoff += share->first;
	karena_map_alias(share->heap, vma);
	return 0;
}

static unsigned long share_area(struct file *file, unsigned long address,
				unsigned long length, unsigned long offset,
				unsigned long flags)
{
	struct karena_share_range *share = file->private_data;

	return thp_get_unmapped_area(file, address, length, offset + share->first,
				     flags);
}

static int share_release(struct inode *inode, struct file *file)
{
	struct karena_share_range *share = file->private_data;
	struct karena_heap *heap = share->heap;

	spin_lock(&heap->family->lock);
	if (!RB_EMPTY_NODE(&share->node))
		share_tree_remove(share, &heap->shares);
	spin_unlock(&heap->family->lock);
	kfree(share);
	karena_heap_put(heap);
	return 0;
}

static const struct file_operations share_fops = {
	.owner			= THIS_MODULE,
	.mmap			= share_mmap,
	.get_unmapped_area	= share_area,
	.release		= share_release,
	.llseek			= noop_llseek,
};

/**
 * karena_share_open() - Make a share (KARENA_SHARE).
 * @heap: The heap.
 * @call: The caller's wish.
 *
 * Return: The share's file, or an ERR_PTR.
 */
struct file *karena_share_open(struct karena_heap *heap,
			       const struct karena_share *call)
{
	bool write = call->flags & KARENA_SHARE_WRITE;
	struct karena_share_range *share;
	struct file *file;

	if (call->flags & ~KARENA_SHARE_WRITE ||
	    !karena_range_valid(heap, call->offset, call->length))
		return ERR_PTR(-EINVAL);
	share = kzalloc(sizeof(*share), KARENA_GFP);
	if (!share)
		return ERR_PTR(-ENOMEM);
	file = karena_heap_file(heap, write ? O_RDWR : O_RDONLY, &share_fops, share);
	if (IS_ERR(file)) {
		kfree(share);
		return file;
	}
	share->heap = heap;
	share->first = call->offset >> PAGE_SHIFT;
	share->count = call->length >> PAGE_SHIFT;
	RB_CLEAR_NODE(&share->node);
	refcount_inc(&heap->users);
	/*
	 * Who clones the heap has to know whether others may have it mapped, and they may
	 * not have it before fork() has flushed the TLB.
	 */
	if (mmap_read_lock_killable(heap->mm)) {
		fput(file);
		return ERR_PTR(-EINTR);
	}
	spin_lock(&heap->family->lock);
	share_tree_insert(share, &heap->shares);
	spin_unlock(&heap->family->lock);
	mmap_read_unlock(heap->mm);
	return file;
}

/**
 * karena_share_touches() - Look for a share that a range of pages is a part of.
 * @heap: The heap, with the family's lock held.
 * @first: The first page.
 * @last: The last one.
 *
 * Return: True if there is one with any of these pages.
 */
bool karena_share_touches(struct karena_heap *heap, unsigned long first,
			  unsigned long last)
{
	lockdep_assert_held(&heap->family->lock);
	return share_tree_iter_first(&heap->shares, first, last);
}
