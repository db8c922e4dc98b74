// SPDX-License-Identifier: GPL-2.0
/*
 * Faults in the mappings of heaps, shares and snapshots. All are shared file mappings: the
 * handler returns a page, the core takes the reference, counts rmap and RSS, and installs
 * the entry. For a page of an order-9 folio that is a PMD, whatever the setting of
 * transparent huge pages.
 */
#include <linux/file.h>
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
	/* The core would see that, too, but would try to drop the page first. */
	if (PageHWPoison(page))
		return VM_FAULT_HWPOISON;
	vmf->page = page;
	return 0;
}

/*
 * A commit that is refused may succeed in a moment. That is waited for without the lock that
 * the fault came with, and the fault is taken again.
 */
static vm_fault_t fault_wait(struct vm_fault *vmf, struct karena_heap *heap)
{
	struct file *file = get_file(heap->file);

	karena_release_fault_lock(vmf);
	karena_folio_wait(heap);
	fput(file);
	return VM_FAULT_RETRY;
}

static bool fault_may_wait(const struct vm_fault *vmf)
{
	return fault_flag_allow_retry_first(vmf->flags) &&
	       !(vmf->flags & FAULT_FLAG_RETRY_NOWAIT);
}

/*
 * A limit never ends in a signal: MADV_POPULATE_WRITE turns VM_FAULT_OOM into
 * ENOMEM. From user mode a touch of what is not committed is a bug, and is SIGBUS
 * even when REQUESTED, so that the bug shows whether or not there is memory.
 */
static vm_fault_t fault_commit(struct vm_fault *vmf, struct karena_heap *heap)
{
	unsigned long page = vmf->pgoff, count = 1;
	u32 *state = karena_state(heap, page / KARENA_ARENA_PAGES);
	bool again = false;
	int err;

	/* What another process does to this one's memory commits none. */
	if (vmf->flags & (FAULT_FLAG_USER | FAULT_FLAG_REMOTE) || !state ||
	    !karena_is_window(vmf->vma, heap))
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
	karena_heap_touch(heap);
	err = karena_commit(heap, page, count, count == 1, fault_may_wait(vmf) ? &again : NULL);
	if (again)
		return fault_wait(vmf, heap);
	return err ? VM_FAULT_OOM : 0;
}

/*
 * A page that others have, too, is copied for who writes to it. If there is no memory
 * for that, whoever wrote is told so, by a signal where there is no other way.
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

static bool fault_must_copy(struct vm_fault *vmf, const struct karena_place *place)
{
	return place->page == KARENA_ZERO ||
	       (place->shared && vmf->flags & FAULT_FLAG_WRITE);
}

/* Whether a thread that waits for a futex there has no need to write: a read-only share. */
static bool fault_in_read_only_share(struct vm_fault *vmf)
{
	struct karena_heap *heap = vmf->vma->vm_private_data;

	return !karena_is_window(vmf->vma, heap) && !(vmf->vma->vm_flags & VM_WRITE) &&
	       !test_bit(KARENA_HEAP_SNAPSHOT, &heap->flags);
}

/* Whether it would wait with another heap's key, which cannot be changed; see key.c. */
static bool fault_has_wrong_key(struct vm_fault *vmf, const struct karena_place *place)
{
	struct karena_heap *heap = vmf->vma->vm_private_data;

	return place->shared && fault_in_read_only_share(vmf) &&
	       !karena_key_is(heap, place->page, vmf->pgoff);
}

/*
 * For any page of a huge folio, the core would map the whole of it where the PMD is
 * empty, and hide the pages that the arena has above it: there it gets its page table
 * first. False: the fault is to be taken again.
 */
static bool fault_add_table(struct vm_fault *vmf)
{
	struct mm_struct *mm = vmf->vma->vm_mm;
	spinlock_t *lock = pmd_lock(mm, vmf->pmd);
	bool done;

	if (pmd_none(*vmf->pmd) && vmf->prealloc_pte) {
		mm_inc_nr_ptes(mm);
		/* The table's entries are seen empty before the table is. */
		smp_wmb();
		pmd_populate(mm, vmf->pmd, vmf->prealloc_pte);
		vmf->prealloc_pte = NULL;
	}
	done = !pmd_none(*vmf->pmd) && !pmd_trans_huge(*vmf->pmd);
	spin_unlock(lock);
	return done;
}

/* An arena of copies, not mapped yet, may as well be huge, if nobody shares it. */
static bool fault_may_promote(struct vm_fault *vmf, const struct karena_place *place)
{
	return place->by_pages && !place->shared && pmd_none(*vmf->pmd);
}

/* The page, locked; 0 when there is none, else what the fault returns. */
static vm_fault_t window_get_page(struct vm_fault *vmf, struct karena_heap *heap,
				  struct karena_place *place)
{
	bool tried = false, copied = false;
	vm_fault_t ret;

	for (;;) {
		if (!karena_arena_lock_page(heap, vmf->pgoff, place)) {
			ret = fault_commit(vmf, heap);
		} else if (fault_must_copy(vmf, place)) {
			karena_arena_unlock_page(place);
			ret = fault_copy(vmf, heap);
		} else if (!copied && fault_has_wrong_key(vmf, place)) {
			karena_arena_unlock_page(place);
			/* Without memory for a copy, the page can be read all the same. */
			karena_cow_copy(heap, vmf->vma, vmf->pgoff);
			copied = true;
			ret = 0;
		} else if (!tried && fault_may_promote(vmf, place)) {
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

/*
 * With the folio locked: whether the core, which maps all of a huge folio where the PMD is
 * empty, must not. A frame that comes from the allocator has no bad page; to look costs
 * something, so a frame's first fault does not.
 */
static bool fault_needs_table(struct vm_fault *vmf, const struct karena_place *place)
{
	if (place->by_pages)
		return true;
	return place->used && PageCompound(place->page) && pmd_none(*vmf->pmd) &&
	       karena_folio_bad(page_folio(place->page));
}

static vm_fault_t window_fault(struct vm_fault *vmf, struct karena_heap *heap)
{
	struct karena_place place;
	vm_fault_t ret;

	ret = window_get_page(vmf, heap, &place);
	if (ret)
		return ret;
	/* What the heap has alone by now may have come from a relative, with its key. */
	if (!place.shared && fault_in_read_only_share(vmf))
		karena_key_claim(heap, place.page, vmf->pgoff);
	if (fault_needs_table(vmf, &place) && !fault_add_table(vmf))
		ret = VM_FAULT_NOPAGE;
	else
		ret = fault_page(vmf, place.page);
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

	if (index >= heap->nr_control)
		return VM_FAULT_SIGBUS;
	/* One for two GiB of window: a limit must not end in a signal. */
	page = karena_control_page(heap, index, GFP_KERNEL | __GFP_NOFAIL);
	ret = fault_page(vmf, page);
	if (ret)
		return ret;
	get_page(page);
	karena_control_lock(heap, page);
	return VM_FAULT_LOCKED;
}

/**
 * karena_fault() - Handle a fault in a mapping of a heap, share or snapshot.
 * @vmf: The fault.
 *
 * One mapping may be of both window and control region.
 *
 * Context: With mmap_lock or the lock of the VMA held.
 * Return: VM_FAULT_LOCKED with the page, or what ends the fault without one.
 */
vm_fault_t karena_fault(struct vm_fault *vmf)
{
	struct karena_heap *heap = vmf->vma->vm_private_data;
	unsigned long page = vmf->pgoff, window;
	vm_fault_t ret;

	/* A child has none, where it has the mapping all the same. */
	if (!heap)
		return VM_FAULT_SIGBUS;
	/* A clone is a child's from its first touch on. */
	if (!READ_ONCE(heap->pid))
		karena_heap_touch(heap);
	window = heap->nr_arenas * KARENA_ARENA_PAGES;
	if (page < window)
		ret = window_fault(vmf, heap);
	else
		ret = control_fault(vmf, heap, page - window);
	/* The mapping, and the heap, may be gone. */
	if (ret & VM_FAULT_RETRY)
		return ret;
	if (page < window)
		atomic_long_inc(&heap->faults);
	trace_karena_fault(heap, page, (__force unsigned int)ret);
	return ret;
}

/**
 * karena_page_mkwrite() - Make sure that a page which is about to become writable is unshared.
 * @vmf: The fault.
 *
 * Return: VM_FAULT_LOCKED: the page is the arena's alone, and stays so while it is locked.
 * VM_FAULT_NOPAGE: the fault is to be taken again. Else an error.
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
		/* It is about to be unmapped, or should have been. */
		karena_zap(vmf->vma, vmf->address & PAGE_MASK, PAGE_SIZE);
	return ret;
}

/* With the folio locked: if it is what one entry maps, a write there may go on. */
static bool pmd_make_writable(struct vm_fault *vmf, struct folio *folio)
{
	bool ours = pmd_page(vmf->orig_pmd) == folio_page(folio, 0);
	struct mm_struct *mm = vmf->vma->vm_mm;
	spinlock_t *lock = pmd_lock(mm, vmf->pmd);

	/* Another thread may have been faster. */
	if (ours && pmd_same(*vmf->pmd, vmf->orig_pmd))
		set_pmd_at(mm, vmf->address & PMD_MASK, vmf->pmd,
			   karena_pmd_mkwrite(vmf->orig_pmd));
	spin_unlock(lock);
	return ours;
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
	 * Newer kernels ask where nothing is mapped, too. An entry that userfaultfd has
	 * protected is taken away, so that its next write is seen.
	 */
	if (!(vmf->flags & FAULT_FLAG_WRITE) || !pmd_trans_huge(vmf->orig_pmd) ||
	    pmd_uffd_wp(vmf->orig_pmd) || !karena_arena_lock_page(heap, vmf->pgoff, &place))
		return VM_FAULT_FALLBACK;
	if (!place.shared && !place.by_pages &&
	    !karena_folio_bad(page_folio(place.page))) {
		karena_key_claim(heap, place.page, vmf->pgoff);
		done = pmd_make_writable(vmf, page_folio(place.page));
	}
	karena_arena_unlock_page(&place);
	if (!done)
		return VM_FAULT_FALLBACK;
	atomic_long_inc(&heap->faults);
	trace_karena_fault(heap, vmf->pgoff, (__force unsigned int)VM_FAULT_NOPAGE);
	return VM_FAULT_NOPAGE;
}
