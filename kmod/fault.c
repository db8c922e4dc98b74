// SPDX-License-Identifier: GPL-2.0
/*
 * Mappings of a heap and the faults in them. Both the window and the control
 * region are ordinary shared file mappings: the handler returns a page, the core
 * takes reference, rmap and RSS and installs the entry. For a page of an order-9
 * folio that is a PMD, whatever the setting of transparent huge pages.
 */
#include <linux/mm.h>
#include <linux/pagemap.h>

#include "compat.h"
#include "karena.h"
#include "trace.h"

/*
 * The handler needs no mmap_lock. Kernels with per-VMA locks call it without only
 * when there is a map_pages too.
 */
static vm_fault_t map_no_pages(struct vm_fault *vmf, pgoff_t first, pgoff_t last)
{
	return 0;
}

static vm_fault_t fault_page(struct vm_fault *vmf, struct page *page)
{
	/* The core would look for the page's mapping, and it has none. */
	if (PageHWPoison(page))
		return VM_FAULT_HWPOISON;
	vmf->page = page;
	return 0;
}

/*
 * A limit never ends in a signal: MADV_POPULATE_WRITE turns VM_FAULT_OOM into
 * ENOMEM. From user mode a touch of what is not committed is a bug, and is SIGBUS
 * even when REQUESTED, so that the bug shows whether or not there is memory.
 */
static vm_fault_t commit_fault(struct vm_fault *vmf, struct karena_heap *heap)
{
	unsigned long page = vmf->pgoff, count = 1;
	u32 *state = karena_state(heap, page / KARENA_ARENA_PAGES);

	/* What another process does to this one's memory commits none. */
	if (vmf->flags & (FAULT_FLAG_USER | FAULT_FLAG_REMOTE))
		return VM_FAULT_SIGBUS;
	/* Pairs with who commits: the state is set after the frame. */
	switch (smp_load_acquire(state)) {
	case KARENA_REQUESTED:
		page = ALIGN_DOWN(page, KARENA_ARENA_PAGES);
		count = KARENA_ARENA_PAGES;
		break;
	case KARENA_REQUESTED | KARENA_SPARSE:
		break;
	default:
		/* The commit that has made it ACTIVE has come between. */
		return karena_arena_has(heap, page) ? 0 : VM_FAULT_SIGBUS;
	}
	return karena_arena_commit(heap, page, count, count == 1) ? VM_FAULT_OOM : 0;
}

static vm_fault_t window_fault(struct vm_fault *vmf, struct karena_heap *heap)
{
	struct folio *folio;
	vm_fault_t ret;

	while (!(folio = karena_arena_lock_folio(heap, vmf->pgoff))) {
		ret = commit_fault(vmf, heap);
		if (ret)
			return ret;
	}
	ret = fault_page(vmf, folio_file_page(folio, vmf->pgoff));
	if (!ret)
		return VM_FAULT_LOCKED;
	folio_unlock(folio);
	folio_put(folio);
	return ret;
}

static vm_fault_t control_fault(struct vm_fault *vmf, struct karena_heap *heap,
				unsigned long index)
{
	vm_fault_t ret;

	if (index >= heap->nr_control)
		return VM_FAULT_SIGBUS;
	ret = fault_page(vmf, heap->control[index]);
	if (!ret)
		get_page(vmf->page);
	return ret;
}

/*
 * One for window and control region: where they lie side by side the core makes
 * one mapping of them, and does not compare their operations.
 */
static vm_fault_t karena_fault(struct vm_fault *vmf)
{
	struct karena_heap *heap = vmf->vma->vm_file->private_data;
	unsigned long window = heap->nr_arenas * KARENA_ARENA_PAGES;
	unsigned long page = vmf->pgoff;
	vm_fault_t ret;

	/* MADV_DOFORK can give a child the mapping, but not the heap. */
	if (vmf->vma->vm_mm != heap->mm)
		return VM_FAULT_SIGBUS;
	if (vmf->pgoff < window)
		ret = window_fault(vmf, heap);
	else
		ret = control_fault(vmf, heap, vmf->pgoff - window);
	if (page < window)
		atomic_long_inc(&heap->faults);
	trace_karena_fault(heap, page, (__force unsigned int)ret);
	return ret;
}

#ifdef CONFIG_NUMA
/*
 * Without a policy that asks for it, NUMA balancing does not unmap what is here to
 * see who touches it: a frame does not migrate.
 */
static struct mempolicy *no_policy(KARENA_POLICY_ARGS)
{
	return NULL;
}
#endif

static const struct vm_operations_struct karena_vm_ops = {
	.fault		= karena_fault,
	.map_pages	= map_no_pages,
#ifdef CONFIG_NUMA
	.get_policy	= no_policy,
#endif
};

/* With mmap_lock held: the window, or again whole arenas of it where they were. */
static int map_window(struct karena_heap *heap, struct vm_area_struct *vma)
{
	unsigned long window = heap->nr_arenas * KARENA_ARENA_PAGES;
	unsigned long start = vma->vm_start - (vma->vm_pgoff << PAGE_SHIFT);

	if (!IS_ALIGNED(vma->vm_start | vma->vm_end, KARENA_ARENA_SIZE) ||
	    !IS_ALIGNED(vma->vm_pgoff, KARENA_ARENA_PAGES))
		return -EINVAL;
	if (heap->start)
		return heap->start == start ? 0 : -EBUSY;
	if (vma_pages(vma) != window)
		return -EINVAL;
	heap->start = start;
	return 0;
}

/**
 * karena_mmap() - Map the whole window, or the whole control region.
 * @file: The heap's file.
 * @vma: The new mapping.
 *
 * The window is mapped once. After that whole arenas can be mapped where they are
 * already, which drops their page tables: one that was sparse can be huge again.
 *
 * Return: 0; -EPERM in a process other than the heap's; -EBUSY when the window
 * has been mapped elsewhere before; -EINVAL for a private, a partial or a misaligned
 * mapping.
 */
int karena_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct karena_heap *heap = file->private_data;
	unsigned long window = heap->nr_arenas * KARENA_ARENA_PAGES;
	int err = 0;

	if (vma->vm_mm != heap->mm)
		return -EPERM;
	if (!(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	if (vma->vm_pgoff + vma_pages(vma) <= window)
		err = map_window(heap, vma);
	else if (vma->vm_pgoff != window || vma_pages(vma) != heap->nr_control)
		err = -EINVAL;
	if (err)
		return err;
	vma->vm_ops = &karena_vm_ops;
	/*
	 * Until a heap knows how to be forked, a child has none. A core dump asks
	 * for every page of the window, committed or not; MADV_DODUMP chooses.
	 */
	vm_flags_set(vma, VM_DONTCOPY | VM_DONTDUMP);
	return 0;
}
