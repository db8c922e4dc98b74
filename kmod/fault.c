// SPDX-License-Identifier: GPL-2.0
/*
 * Faults in the mappings of heaps, shares and snapshots. All are shared file mappings: the
 * handler returns a page with a reference, and the core counts rmap and RSS and installs
 * the entry. A huge frame is mapped by a PMD, whatever the setting of transparent huge
 * pages: up to Linux 6.13 the core does this for a page of an order-9 folio, from 6.18 on
 * the handler does it.
 */
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include <asm/pgalloc.h>

#include "compat.h"
#include "map.h"
#include "trace.h"

static vm_fault_t fault_page(struct vm_fault *vmf, struct page *page)
{
	/* The core would detect it as well, but would first try to drop the page. */
	if (PageHWPoison(page))
		return VM_FAULT_HWPOISON;
	vmf->page = page;
	return 0;
}

/*
 * A refused commit may succeed a moment later. Drop the lock with which the core called,
 * wait, and let the core repeat the fault.
 */
static vm_fault_t fault_wait(struct vm_fault *vmf, struct karena_heap *heap)
{
	karena_heap_get(heap);
	karena_release_fault_lock(vmf);
	karena_folio_wait(heap);
	karena_heap_put(heap);
	return VM_FAULT_RETRY;
}

/*
 * Commit the page of a fault. A limit never raises a signal: MADV_POPULATE_WRITE turns
 * VM_FAULT_OOM into ENOMEM. A touch of uncommitted memory from user mode is a bug. It
 * raises SIGBUS even in a REQUESTED arena, so that the bug shows whether or not there is
 * memory.
 */
static vm_fault_t fault_commit(struct vm_fault *vmf, struct karena_heap *heap)
{
	unsigned long page = vmf->pgoff, count = 1;
	u32 *state = karena_state(heap, page / KARENA_ARENA_PAGES);
	bool again = false, wait;
	int err;

	/* An access from another process commits nothing. */
	if (vmf->flags & (FAULT_FLAG_USER | FAULT_FLAG_REMOTE) || !state ||
	    !karena_is_window(vmf->vma, heap))
		return VM_FAULT_SIGBUS;
	/* Pairs with the cmpxchg() of a commit, which sets the state after the frame. */
	switch (smp_load_acquire(state)) {
	case KARENA_REQUESTED:
		page = ALIGN_DOWN(page, KARENA_ARENA_PAGES);
		count = KARENA_ARENA_PAGES;
		break;
	case KARENA_REQUESTED | KARENA_SPARSE:
		break;
	default:
		/* Another thread may have committed it, and made it ACTIVE. */
		return karena_arena_has(heap, page) ? 0 : VM_FAULT_SIGBUS;
	}
	karena_heap_touch(heap);
	wait = fault_flag_allow_retry_first(vmf->flags) &&
	       !(vmf->flags & FAULT_FLAG_RETRY_NOWAIT);
	err = karena_commit(heap, page, count, count == 1, wait ? &again : NULL);
	if (again)
		return fault_wait(vmf, heap);
	return err ? VM_FAULT_OOM : 0;
}

/*
 * Copy a shared page for a write. Without memory for the copy, a write by the kernel fails
 * with an error, and a write from user mode raises a signal.
 */
static vm_fault_t fault_copy(struct vm_fault *vmf, struct karena_heap *heap)
{
	switch (karena_cow_copy(heap, vmf->vma, vmf->pgoff)) {
	case 0:
		return 0;
	case -EHWPOISON:
		return VM_FAULT_HWPOISON;
	default:
		return vmf->flags & FAULT_FLAG_USER ? VM_FAULT_SIGBUS : VM_FAULT_OOM;
	}
}

/* Returns true in a read-only share, where a thread may wait for a futex without a write. */
static bool fault_in_read_only_share(struct vm_fault *vmf)
{
	struct karena_heap *heap = vmf->vma->vm_private_data;

	return !karena_is_window(vmf->vma, heap) && !(vmf->vma->vm_flags & VM_WRITE) &&
	       !test_bit(KARENA_HEAP_SNAPSHOT, &heap->flags);
}

/* Returns true if a futex in the page would have another heap's key; see key.c. */
static bool fault_has_wrong_key(struct vm_fault *vmf, const struct karena_place *place)
{
	struct karena_heap *heap = vmf->vma->vm_private_data;

	return place->shared && fault_in_read_only_share(vmf) &&
	       !karena_key_is(heap, place->page, vmf->pgoff);
}

/* Make the PMD writable if it maps this folio, which is locked. Returns true if it does. */
static bool pmd_make_writable(struct vm_fault *vmf, struct folio *folio)
{
	struct mm_struct *mm = vmf->vma->vm_mm;
	spinlock_t *lock = pmd_lock(mm, vmf->pmd);
	pmd_t pmd = *vmf->pmd;
	bool ours = pmd_trans_huge(pmd) && pmd_page(pmd) == folio_page(folio, 0);

	/*
	 * Another thread may have made it writable, userfaultfd may have write-protected it,
	 * and NUMA balancing may have made it inaccessible.
	 */
	if (ours && !pmd_write(pmd) && !pmd_uffd_wp(pmd) && !pmd_protnone(pmd))
		karena_set_pmd(mm, vmf->address & PMD_MASK, vmf->pmd,
			       karena_pmd_mkwrite(pmd));
	spin_unlock(lock);
	return ours;
}

#if KARENA_MAPS_HUGE
/* The core maps one page where the PMD is empty; see karena_fs_inode(). */
static bool fault_add_table(struct vm_fault *vmf)
{
	return true;
}

/*
 * Map all of a huge frame, whose folio is locked, unless there are pages above it or one of
 * its pages is bad. vmf_insert_folio_pmd() installs an entry as for a read: for a write it
 * would warn if it found a page table, which another thread can install at any time. Returns
 * VM_FAULT_NOPAGE if the access may be repeated; 0 if the core is to map one page.
 */
static vm_fault_t fault_prepare_pmd(struct vm_fault *vmf, const struct karena_place *place)
{
	struct folio *folio = page_folio(place->page);
	struct vm_area_struct *vma = vmf->vma;
	vm_fault_t ret;

	if (place->by_pages || !folio_test_large(folio) || !pmd_none(*vmf->pmd) ||
	    vma_thp_disabled(vma, vma->vm_flags, true) ||
	    !thp_vma_suitable_order(vma, vmf->address, PMD_ORDER) ||
	    karena_folio_bad(folio))
		return 0;
	ret = vmf_insert_folio_pmd(vmf, folio, false);
	if (ret == VM_FAULT_NOPAGE && vmf->flags & FAULT_FLAG_WRITE) {
		karena_key_claim(vma->vm_private_data, place->page, vmf->pgoff);
		pmd_make_writable(vmf, folio);
	}
	return ret;
}
#else
/*
 * Install a page table. Where the PMD is empty, the core would map a huge folio as a whole,
 * whichever page of it the fault returns, and hide the pages that the arena has above it.
 * Returns false if the core has to repeat the fault.
 */
static bool fault_add_table(struct vm_fault *vmf)
{
	struct mm_struct *mm = vmf->vma->vm_mm;
	spinlock_t *lock = pmd_lock(mm, vmf->pmd);
	bool done;

	if (pmd_none(*vmf->pmd) && vmf->prealloc_pte) {
		mm_inc_nr_ptes(mm);
		/* The table is visible only after its empty entries are. */
		smp_wmb();
		pmd_populate(mm, vmf->pmd, vmf->prealloc_pte);
		vmf->prealloc_pte = NULL;
	}
	done = !pmd_none(*vmf->pmd) && !pmd_trans_huge(*vmf->pmd);
	spin_unlock(lock);
	return done;
}

/*
 * Returns true if the core must not map all of a huge folio: there are pages above it, or
 * one of its pages is bad. The folio is locked. A new frame has no bad page, so its first
 * fault need not look for one.
 */
static bool fault_needs_table(struct vm_fault *vmf, const struct karena_place *place)
{
	if (place->by_pages)
		return true;
	return place->used && PageCompound(place->page) && pmd_none(*vmf->pmd) &&
	       karena_folio_bad(page_folio(place->page));
}

/* Install a page table where the core must map one page. Returns VM_FAULT_NOPAGE, or 0. */
static vm_fault_t fault_prepare_pmd(struct vm_fault *vmf, const struct karena_place *place)
{
	return fault_needs_table(vmf, place) && !fault_add_table(vmf) ? VM_FAULT_NOPAGE : 0;
}
#endif

/* Find or make the page of a fault, and lock it. Returns 0, or the result of the fault. */
static vm_fault_t window_get_page(struct vm_fault *vmf, struct karena_heap *heap,
				  struct karena_place *place)
{
	bool tried = false, copied = false;
	vm_fault_t ret;

	for (;;) {
		if (!karena_arena_lock_page(heap, vmf->pgoff, place)) {
			ret = fault_commit(vmf, heap);
		} else if (place->page == KARENA_ZERO ||
			   (place->shared && vmf->flags & FAULT_FLAG_WRITE)) {
			karena_arena_unlock_page(place);
			ret = fault_copy(vmf, heap);
		} else if (!copied && fault_has_wrong_key(vmf, place)) {
			karena_arena_unlock_page(place);
			/* Without memory for a copy, the page can still be read. */
			karena_cow_copy(heap, vmf->vma, vmf->pgoff);
			copied = true;
			ret = 0;
		} else if (!tried && place->by_pages && !place->shared &&
			   pmd_none(*vmf->pmd)) {
			/* Not mapped here, perhaps unshared: try to promote the arena. */
			karena_arena_unlock_page(place);
			karena_cow_promote(heap, vmf->pgoff);
			tried = true;
			ret = 0;
		} else {
			return 0;
		}
		if (ret)
			return ret;
	}
}

static vm_fault_t window_fault(struct vm_fault *vmf, struct karena_heap *heap)
{
	struct karena_place place;
	vm_fault_t ret;

	ret = window_get_page(vmf, heap, &place);
	if (ret)
		return ret;
	/* An unshared page may still have the futex key of another heap of the family. */
	if (!place.shared && fault_in_read_only_share(vmf))
		karena_key_claim(heap, place.page, vmf->pgoff);
	ret = fault_prepare_pmd(vmf, &place) ?: fault_page(vmf, place.page);
	if (!ret)
		return VM_FAULT_LOCKED;
	karena_arena_unlock_page(&place);
	return ret;
}

static vm_fault_t control_fault(struct vm_fault *vmf, struct karena_heap *heap,
				unsigned long index)
{
	struct page *page;
	vm_fault_t ret;

	if (index >= heap->control.nr)
		return VM_FAULT_SIGBUS;
	/* One page has the words of 2 GiB of window: a limit must not raise a signal. */
	page = karena_control_page(heap, index, GFP_KERNEL | __GFP_NOFAIL);
	ret = fault_page(vmf, page);
	if (ret)
		return ret;
	get_page(page);
	karena_control_lock(heap, page);
	return VM_FAULT_LOCKED;
}

/*
 * A window has one address, by which the module unmaps its pages. If vm_ops refuse an
 * mremap() and the core has no memory to undo it, the core leaves an empty mapping
 * elsewhere. Faults there fail, so it stays empty. With the policy SHARE, each process has
 * an address of its own.
 */
static bool fault_is_misplaced(const struct vm_area_struct *vma, const struct karena_heap *heap)
{
	return heap->fork != KARENA_FORK_SHARE && karena_is_window(vma, heap) &&
	       vma->vm_start - (vma->vm_pgoff << PAGE_SHIFT) != heap->start;
}

/**
 * karena_fault() - Handle a fault in a mapping of a heap, share or snapshot.
 * @vmf: The fault.
 *
 * One mapping may cover both the window and the control region.
 *
 * Context: With mmap_lock or the lock of the VMA held.
 * Return: VM_FAULT_LOCKED with the page, or another result without a page.
 */
vm_fault_t karena_fault(struct vm_fault *vmf)
{
	struct karena_heap *heap = vmf->vma->vm_private_data;
	unsigned long page = vmf->pgoff, window;
	vm_fault_t ret;

	/* A child without a heap, whose parent has used MADV_DOFORK. */
	if (!heap)
		return VM_FAULT_SIGBUS;
	/* The first touch by the child assigns the clone to it. */
	if (!READ_ONCE(heap->pid))
		karena_heap_touch(heap);
	window = heap->nr_arenas * KARENA_ARENA_PAGES;
	if (page < window && fault_is_misplaced(vmf->vma, heap))
		ret = VM_FAULT_SIGBUS;
	else if (page < window)
		ret = window_fault(vmf, heap);
	else
		ret = control_fault(vmf, heap, page - window);
	/* The mapping and the heap may no longer exist. */
	if (ret & VM_FAULT_RETRY)
		return ret;
	if (page < window)
		atomic_long_inc(&heap->stats.faults);
	trace_karena_fault(heap, page, (__force unsigned int)ret);
	return ret;
}

/**
 * karena_page_mkwrite() - Make sure that a page which is about to become writable is unshared.
 * @vmf: The fault.
 *
 * Return: VM_FAULT_LOCKED if only the arena owns the page, which stays so while the page is
 * locked; VM_FAULT_NOPAGE if the core has to repeat the fault; else an error.
 */
vm_fault_t karena_page_mkwrite(struct vm_fault *vmf)
{
	struct karena_heap *heap = vmf->vma->vm_private_data;
	struct karena_place place;
	vm_fault_t ret = VM_FAULT_NOPAGE;

	if (vmf->pgoff >= heap->nr_arenas * KARENA_ARENA_PAGES) {
		karena_control_lock(heap, vmf->page);
		return VM_FAULT_LOCKED;
	}
	if (!karena_arena_lock_page(heap, vmf->pgoff, &place))
		return VM_FAULT_NOPAGE;
	if (place.page == vmf->page && !place.shared &&
	    (!place.by_pages || fault_add_table(vmf))) {
		karena_key_claim(heap, place.page, vmf->pgoff);
		/* The core has a reference of its own. */
		put_page(place.page);
		return VM_FAULT_LOCKED;
	}
	karena_arena_unlock_page(&place);
	if (place.page == vmf->page && place.shared)
		ret = fault_copy(vmf, heap) ?: VM_FAULT_NOPAGE;
	else if (place.page != vmf->page)
		/* Another thread is about to unmap it. */
		karena_zap(vmf->vma, vmf->address & PAGE_MASK, PAGE_SIZE);
	return ret;
}

/**
 * karena_huge_fault() - Handle a write to a huge frame that a read-only PMD maps.
 * @vmf: The fault.
 *
 * If the frame is no longer shared, the PMD becomes writable under the folio lock. Else the
 * core removes the PMD, and the write faults again.
 *
 * Return: VM_FAULT_NOPAGE or VM_FAULT_FALLBACK.
 */
vm_fault_t karena_huge_fault(struct vm_fault *vmf)
{
	struct karena_heap *heap = vmf->vma->vm_private_data;
	struct karena_place place;
	bool done = false;

	/*
	 * Newer kernels also call this where nothing is mapped. For a PMD that userfaultfd
	 * has write-protected, the core must fall back: it removes the PMD, and so sees the
	 * next write.
	 */
	if (!KARENA_MAKES_WRITABLE || !(vmf->flags & FAULT_FLAG_WRITE) ||
	    !pmd_trans_huge(vmf->orig_pmd) || pmd_uffd_wp(vmf->orig_pmd) ||
	    !karena_arena_lock_page(heap, vmf->pgoff, &place))
		return VM_FAULT_FALLBACK;
	if (!place.shared && !place.by_pages &&
	    !karena_folio_bad(page_folio(place.page))) {
		karena_key_claim(heap, place.page, vmf->pgoff);
		done = pmd_make_writable(vmf, page_folio(place.page));
	}
	karena_arena_unlock_page(&place);
	if (!done)
		return VM_FAULT_FALLBACK;
	atomic_long_inc(&heap->stats.faults);
	trace_karena_fault(heap, vmf->pgoff, (__force unsigned int)VM_FAULT_NOPAGE);
	return VM_FAULT_NOPAGE;
}
