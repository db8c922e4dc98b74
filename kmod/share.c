// SPDX-License-Identifier: GPL-2.0
/*
 * Shares: ranges of a window that other processes may map. A share is a file that holds the
 * heap. A process that maps it sees the memory of the heap's process, and its faults count
 * as faults of the heap.
 */
#include <linux/file.h>
#include <linux/mm.h>
#include <linux/slab.h>

#include "map.h"

static int share_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct karena_share_range *share = file->private_data;

	if (!(vma->vm_flags & VM_MAYSHARE))
		return -EINVAL;
	if (vma->vm_pgoff > share->count ||
	    vma_pages(vma) > share->count - vma->vm_pgoff)
		return -EINVAL;
	/* unmap_mapping_range() finds mappings by their offset in the window. */
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

	karena_heap_unshare(heap, share);
	kfree(share);
	karena_heap_drop(heap);
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
 * @call: The caller's struct.
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
	kref_get(&heap->life.ref);
	/*
	 * The cloner must know whether other processes may map the heap, and none may begin
	 * to map it before fork() has flushed the TLB.
	 */
	if (mmap_read_lock_killable(heap->mm)) {
		fput(file);
		return ERR_PTR(-EINTR);
	}
	karena_heap_share(heap, share);
	mmap_read_unlock(heap->mm);
	return file;
}
