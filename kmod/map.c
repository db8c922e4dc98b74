// SPDX-License-Identifier: GPL-2.0
/*
 * Mappings of a heap: which mappings mmap() accepts, how fork() and a split change a
 * mapping, and the operations that the core calls. A mapping is a user of the heap.
 */
#include <linux/file.h>
#include <linux/mm.h>
#include <linux/workqueue.h>

#include "compat.h"
#include "map.h"

/*
 * The fault handler needs no mmap_lock. Kernels with per-VMA locks call it without
 * mmap_lock only if the operations have a map_pages.
 */
static vm_fault_t vm_map_no_pages(struct vm_fault *vmf, pgoff_t first, pgoff_t last)
{
	return 0;
}

static vm_fault_t vm_huge_fault(KARENA_HUGE_ARGS)
{
	return karena_huge_order(order) ? karena_huge_fault(vmf) : VM_FAULT_FALLBACK;
}

#ifdef CONFIG_NUMA
/* This keeps NUMA balancing from unmapping pages here: frames do not migrate. */
static struct mempolicy *vm_no_policy(KARENA_POLICY_ARGS)
{
	return NULL;
}
#endif

#ifdef CONFIG_NUMA
#define NO_POLICY	.get_policy = vm_no_policy,
#else
#define NO_POLICY
#endif

static void vm_open(struct vm_area_struct *vma);
static void vm_close(struct vm_area_struct *vma);

/*
 * A window keeps its address, by which the module unmaps its arenas. The core calls this
 * when a mapping would move or be duplicated, and then moves its page table entries back.
 * The core does not call this when a mapping grows in place.
 */
static int vm_mremap(struct vm_area_struct *vma)
{
	return -EINVAL;
}

/* For heaps that were never cloned: without page_mkwrite, the core allows long-term pins. */
static const struct vm_operations_struct window_vm_ops = {
	.open		= vm_open,
	.close		= vm_close,
	.mremap		= vm_mremap,
	.fault		= karena_fault,
	.map_pages	= vm_map_no_pages,
	NO_POLICY
};

/* For heaps that were cloned, and for clones. */
static const struct vm_operations_struct cow_vm_ops = {
	.open		= vm_open,
	.close		= vm_close,
	.mremap		= vm_mremap,
	.fault		= karena_fault,
	.huge_fault	= vm_huge_fault,
	.page_mkwrite	= karena_page_mkwrite,
	.map_pages	= vm_map_no_pages,
	NO_POLICY
};

/* For snapshots and shares, in any process. Their files hold the heap. */
static const struct vm_operations_struct alias_vm_ops = {
	.fault		= karena_fault,
	.huge_fault	= vm_huge_fault,
	.page_mkwrite	= karena_page_mkwrite,
	.map_pages	= vm_map_no_pages,
	NO_POLICY
};

/*
 * Prepare a mapping for copy-on-write: from now on, the core maps a page of it writable
 * only after page_mkwrite. mmap_lock is held for writing.
 */
static void window_protect(struct vm_area_struct *vma)
{
	lockdep_assert_held_write(&vma->vm_mm->mmap_lock);
	vma->vm_ops = &cow_vm_ops;
	WRITE_ONCE(vma->vm_page_prot, vm_get_page_prot(vma->vm_flags & ~VM_SHARED));
}

/**
 * karena_map_clone() - Clone a heap, and prepare its process's mappings for copy-on-write.
 * @heap: The heap, whose mmap_lock is held for writing.
 * @mm: The address space of the clone; for a snapshot, the heap's own.
 *
 * Return: The clone, of which the caller is the user; never NULL.
 */
struct karena_heap *karena_map_clone(struct karena_heap *heap, struct mm_struct *mm)
{
	struct karena_windows windows;
	struct karena_heap *clone;
	unsigned int i;

	karena_windows_get(heap, &windows);
	for (i = 0; i < windows.nr; i++)
		window_protect(windows.vmas[i]);
	clone = karena_clone(heap, mm, &windows);
	karena_windows_put(&windows);
	return clone;
}

/* Find or make the clone for a child's mapping, which becomes a user of it. */
static struct karena_heap *heap_fork(struct karena_heap *heap, struct mm_struct *mm)
{
	struct karena_heap *clone;

	if (heap->fork == KARENA_FORK_NONE)
		return NULL;
	clone = karena_heap_find(heap->family, mm);
	if (!clone) {
		clone = karena_map_clone(heap, mm);
		karena_heap_publish(clone);
	}
	return clone;
}

/* A mapping was split, or copied to a child. mmap_lock is held for writing. */
static void vm_open(struct vm_area_struct *vma)
{
	struct karena_heap *heap = vma->vm_private_data;

	if (!heap)
		return;
	if (vma->vm_mm == heap->mm || heap->fork == KARENA_FORK_SHARE)
		karena_heap_get(heap);
	else
		vma->vm_private_data = heap_fork(heap, vma->vm_mm);
	/* After a split, the mapping is prepared already. */
	if (vma->vm_mm != heap->mm && !test_bit(KARENA_HEAP_IO, &heap->flags))
		window_protect(vma);
}

static void vm_close(struct vm_area_struct *vma)
{
	struct karena_heap *heap = vma->vm_private_data;

	if (!heap)
		return;
	karena_heap_exit(heap);
	karena_heap_put(heap);
}

/* Returns true if there is room for all of a window around a mapping of some arenas. */
static bool window_has_room(unsigned long window, struct vm_area_struct *vma)
{
	unsigned long before = vma->vm_pgoff << PAGE_SHIFT;

	/* No window begins at 0, because 0 means that there is no window. */
	return vma->vm_start > before &&
	       (window << PAGE_SHIFT) <= TASK_SIZE - (vma->vm_start - before);
}

/* Map arenas. The first mapping determines the window's address. mmap_lock is held. */
static int window_map(struct karena_heap *heap, struct vm_area_struct *vma)
{
	unsigned long window = heap->nr_arenas * KARENA_ARENA_PAGES;
	unsigned long start = vma->vm_start - (vma->vm_pgoff << PAGE_SHIFT);

	if (!IS_ALIGNED(vma->vm_start | vma->vm_end, KARENA_ARENA_SIZE) ||
	    !IS_ALIGNED(vma->vm_pgoff, KARENA_ARENA_PAGES))
		return -EINVAL;
	if (heap->start && heap->start == start)
		return 0;
	/* A window that was unmapped, or whose mmap() failed later, may be mapped elsewhere. */
	if (heap->start && (vma->vm_mm != heap->mm || karena_windows_any(heap)))
		return -EBUSY;
	if (!window_has_room(window, vma))
		return -EINVAL;
	heap->start = start;
	return 0;
}

/* Returns true if the mapping is of the window or of a part of it. */
static bool vma_in_window(const struct karena_heap *heap, struct vm_area_struct *vma)
{
	return vma->vm_pgoff + vma_pages(vma) <= heap->nr_arenas * KARENA_ARENA_PAGES;
}

static bool vma_is_control(const struct karena_heap *heap, struct vm_area_struct *vma)
{
	return vma->vm_pgoff == heap->nr_arenas * KARENA_ARENA_PAGES &&
	       vma_pages(vma) == heap->control.nr;
}

static int heap_map(struct karena_heap *heap, struct vm_area_struct *vma)
{
	unsigned long flags = VM_DONTDUMP;
	int err = 0;
	bool cow;

	if (!(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	if (vma_in_window(heap, vma))
		err = window_map(heap, vma);
	else if (!vma_is_control(heap, vma))
		err = -EINVAL;
	if (err)
		return err;
	/* Prepare for copies if the heap was cloned, or if another process maps it. */
	cow = !test_bit(KARENA_HEAP_IO, &heap->flags) &&
	      (test_bit(KARENA_HEAP_COW, &heap->flags) || vma->vm_mm != heap->mm);
	vma->vm_ops = cow ? &cow_vm_ops : &window_vm_ops;
	vma->vm_private_data = heap;
	/* If it mapped the descriptor's file, a child would keep the parent's heap. */
	vma_set_file(vma, heap->family->file);
	karena_heap_get(heap);
	if (heap->fork == KARENA_FORK_NONE)
		flags |= VM_DONTCOPY;
	/*
	 * A core dump would touch every page of the window, committed or not. MADV_DODUMP
	 * allows it.
	 */
	vm_flags_set(vma, flags);
	return 0;
}

/**
 * karena_mmap() - Map arenas of the window, or the whole control region.
 * @file: A descriptor's file.
 * @vma: The new mapping.
 *
 * A window is mapped as a whole, or in parts whose addresses differ like their file
 * offsets; mremap() can make a part grow. A process may map arenas again at their
 * addresses. This drops their page tables, so an arena that was sparse can be huge again.
 *
 * Return: 0; -EPERM in a process that may not use the heap; -EBUSY when another part of the
 * window is mapped elsewhere; -EINVAL for a private or a misaligned mapping, or one around
 * which the window has no room.
 */
int karena_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct karena_heap *heap = karena_heap_mine(file);
	int err;

	if (IS_ERR(heap))
		return PTR_ERR(heap);
	err = heap_map(heap, vma);
	karena_heap_put(heap);
	return err;
}

/**
 * karena_map_alias() - Set up a mapping of a share or snapshot, in any process.
 * @heap: The heap, which the file holds.
 * @vma: The new mapping, of the file; in the window.
 */
void karena_map_alias(struct karena_heap *heap, struct vm_area_struct *vma)
{
	vma->vm_ops = &alias_vm_ops;
	vma->vm_private_data = heap;
	/* Neither mremap() nor a merge may extend a mapping beyond its share. */
	vm_flags_set(vma, VM_DONTDUMP | VM_DONTEXPAND);
}

/**
 * karena_mmap_snapshot() - Map arenas, or the whole control region, of a snapshot.
 * @file: The snapshot's file.
 * @vma: The new mapping.
 *
 * Return: 0, or -EINVAL for a private, a partial or a misaligned mapping.
 */
int karena_mmap_snapshot(struct file *file, struct vm_area_struct *vma)
{
	struct karena_heap *heap = file->private_data;

	if (!(vma->vm_flags & VM_MAYSHARE))
		return -EINVAL;
	if (vma_in_window(heap, vma)) {
		if (!IS_ALIGNED(vma->vm_start | vma->vm_end, KARENA_ARENA_SIZE) ||
		    !IS_ALIGNED(vma->vm_pgoff, KARENA_ARENA_PAGES))
			return -EINVAL;
	} else if (!vma_is_control(heap, vma)) {
		return -EINVAL;
	}
	karena_map_alias(heap, vma);
	return 0;
}
