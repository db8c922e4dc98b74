// SPDX-License-Identifier: GPL-2.0
/*
 * Mappings of a heap and the faults in them. Both the window and the control
 * region are ordinary shared file mappings: the handler returns a page, the core
 * takes reference, rmap and RSS and installs the entry. For a page of an order-9
 * folio that is a PMD, whatever the setting of transparent huge pages.
 */
#include <linux/file.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include <asm/pgalloc.h>

#include "compat.h"
#include "karena.h"
#include "trace.h"

static const struct vm_operations_struct alias_vm_ops;

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
static vm_fault_t wait_fault(struct vm_fault *vmf, struct karena_heap *heap)
{
	struct file *file = get_file(heap->file);

	karena_release_fault_lock(vmf);
	karena_folio_wait(heap);
	fput(file);
	return VM_FAULT_RETRY;
}

static bool may_wait(const struct vm_fault *vmf)
{
	return fault_flag_allow_retry_first(vmf->flags) &&
	       !(vmf->flags & FAULT_FLAG_RETRY_NOWAIT);
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
	bool again = false;
	int err;

	/* What another process does to this one's memory commits none. */
	if (vmf->flags & (FAULT_FLAG_USER | FAULT_FLAG_REMOTE) || !state ||
	    vmf->vma->vm_ops == &alias_vm_ops)
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
	karena_sysfs_add(heap);
	err = karena_commit(heap, page, count, count == 1, may_wait(vmf) ? &again : NULL);
	if (again)
		return wait_fault(vmf, heap);
	return err ? VM_FAULT_OOM : 0;
}

/*
 * A page that others have, too, is copied for who writes to it. If there is no memory
 * for that, whoever wrote is told so, by a signal where there is no other way.
 */
static vm_fault_t copy_fault(struct vm_fault *vmf, struct karena_heap *heap)
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

static bool must_copy(struct vm_fault *vmf, const struct karena_place *place)
{
	return place->page == KARENA_ZERO ||
	       (place->shared && vmf->flags & FAULT_FLAG_WRITE);
}

/* Whether a thread that waits for a futex there has no need to write: a read-only share. */
static bool is_read_only_share(struct vm_fault *vmf)
{
	struct karena_heap *heap = vmf->vma->vm_private_data;

	return vmf->vma->vm_ops == &alias_vm_ops && !(vmf->vma->vm_flags & VM_WRITE) &&
	       !test_bit(KARENA_HEAP_SNAPSHOT, &heap->flags);
}

/* Whether it would wait with another heap's key, which cannot be changed; see key.c. */
static bool wrong_key(struct vm_fault *vmf, const struct karena_place *place)
{
	struct karena_heap *heap = vmf->vma->vm_private_data;

	return place->shared && is_read_only_share(vmf) &&
	       !karena_key_is(heap, place->page, vmf->pgoff);
}

/*
 * For any page of a huge folio, the core would map the whole of it where the PMD is
 * empty, and hide the pages that the arena has above it: there it gets its page table
 * first. False: the fault is to be taken again.
 */
static bool map_by_pages(struct vm_fault *vmf)
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
static bool may_promote(struct vm_fault *vmf, const struct karena_place *place)
{
	return place->by_pages && !place->shared && pmd_none(*vmf->pmd);
}

/* The page, locked; 0 when there is none, else what the fault returns. */
static vm_fault_t window_get(struct vm_fault *vmf, struct karena_heap *heap,
			     struct karena_place *place)
{
	bool tried = false, copied = false;
	vm_fault_t ret;

	for (;;) {
		if (!karena_arena_lock_page(heap, vmf->pgoff, place)) {
			ret = commit_fault(vmf, heap);
		} else if (must_copy(vmf, place)) {
			karena_arena_unlock_page(place);
			ret = copy_fault(vmf, heap);
		} else if (!copied && wrong_key(vmf, place)) {
			karena_arena_unlock_page(place);
			/* Without memory for a copy, the page can be read all the same. */
			karena_cow_copy(heap, vmf->vma, vmf->pgoff);
			copied = true;
			ret = 0;
		} else if (!tried && may_promote(vmf, place)) {
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
static bool must_map_by_pages(struct vm_fault *vmf, const struct karena_place *place)
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

	ret = window_get(vmf, heap, &place);
	if (ret)
		return ret;
	/* What the heap has alone by now may have come from a relative, with its key. */
	if (!place.shared && is_read_only_share(vmf))
		karena_key_claim(heap, place.page, vmf->pgoff);
	if (must_map_by_pages(vmf, &place) && !map_by_pages(vmf))
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

/* One for window and control region: their mappings may be one. */
static vm_fault_t karena_fault(struct vm_fault *vmf)
{
	struct karena_heap *heap = vmf->vma->vm_private_data;
	unsigned long page = vmf->pgoff, window;
	vm_fault_t ret;

	/* A child has none, where it has the mapping all the same. */
	if (!heap)
		return VM_FAULT_SIGBUS;
	/* A clone is a child's from its first touch on. */
	if (!READ_ONCE(heap->pid))
		karena_sysfs_add(heap);
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

/*
 * A page is about to become writable: it must be the arena's alone, and be so until
 * it is mapped, for which it stays locked.
 */
static vm_fault_t karena_page_mkwrite(struct vm_fault *vmf)
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
	    (!place.by_pages || map_by_pages(vmf))) {
		karena_key_claim(heap, place.page, vmf->pgoff);
		/* The core has a reference of its own. */
		put_page(place.page);
		return VM_FAULT_LOCKED;
	}
	karena_arena_unlock_page(&place);
	if (place.page == vmf->page && place.shared)
		ret = copy_fault(vmf, heap) ?: VM_FAULT_NOPAGE;
	else if (place.page != vmf->page)
		/* It is about to be unmapped, or should have been. */
		karena_zap(vmf->vma, vmf->address & PAGE_MASK, PAGE_SIZE);
	return ret;
}

/* With the folio locked: if it is what one entry maps, a write there may go on. */
static bool make_writable(struct vm_fault *vmf, struct folio *folio)
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

/*
 * A write to what one entry maps, but not for writing: others have had it, too. If they
 * are gone, the entry becomes writable, under the folio's lock as ever; else the core
 * takes it away, and there is a fault like others.
 */
static vm_fault_t karena_huge_fault(KARENA_HUGE_ARGS)
{
	struct karena_heap *heap = vmf->vma->vm_private_data;
	struct karena_place place;
	bool done = false;

	/*
	 * Newer kernels ask where nothing is mapped, too. An entry that userfaultfd has
	 * protected is taken away, so that its next write is seen.
	 */
	if (!karena_huge_order(order) || !(vmf->flags & FAULT_FLAG_WRITE) ||
	    !pmd_trans_huge(vmf->orig_pmd) || pmd_uffd_wp(vmf->orig_pmd) ||
	    !karena_arena_lock_page(heap, vmf->pgoff, &place))
		return VM_FAULT_FALLBACK;
	if (!place.shared && !place.by_pages &&
	    !karena_folio_bad(page_folio(place.page))) {
		karena_key_claim(heap, place.page, vmf->pgoff);
		done = make_writable(vmf, page_folio(place.page));
	}
	karena_arena_unlock_page(&place);
	if (!done)
		return VM_FAULT_FALLBACK;
	atomic_long_inc(&heap->faults);
	trace_karena_fault(heap, vmf->pgoff, (__force unsigned int)VM_FAULT_NOPAGE);
	return VM_FAULT_NOPAGE;
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

#ifdef CONFIG_NUMA
#define NO_POLICY	.get_policy = no_policy,
#else
#define NO_POLICY
#endif

static void vm_open(struct vm_area_struct *vma);
static void vm_close(struct vm_area_struct *vma);

/* Of a heap that has never been cloned: devices may pin its pages for long. */
static const struct vm_operations_struct window_vm_ops = {
	.open		= vm_open,
	.close		= vm_close,
	.fault		= karena_fault,
	.map_pages	= map_no_pages,
	NO_POLICY
};

/* Of one that has been, and of clones. */
static const struct vm_operations_struct cow_vm_ops = {
	.open		= vm_open,
	.close		= vm_close,
	.fault		= karena_fault,
	.huge_fault	= karena_huge_fault,
	.page_mkwrite	= karena_page_mkwrite,
	.map_pages	= map_no_pages,
	NO_POLICY
};

/* Of snapshots and shares, whose files hold the heap: any process's. */
static const struct vm_operations_struct alias_vm_ops = {
	.fault		= karena_fault,
	.huge_fault	= karena_huge_fault,
	.page_mkwrite	= karena_page_mkwrite,
	.map_pages	= map_no_pages,
	NO_POLICY
};

/**
 * karena_is_window() - Whether a mapping is of a heap's window or control region.
 * @vma: The mapping.
 * @heap: The heap.
 *
 * Return: Whether it is, and the heap's process's own.
 */
bool karena_is_window(struct vm_area_struct *vma, struct karena_heap *heap)
{
	return (vma->vm_ops == &window_vm_ops || vma->vm_ops == &cow_vm_ops) &&
	       vma->vm_private_data == heap;
}

/**
 * karena_window_protect() - Prepare a mapping for copy-on-write.
 * @vma: The mapping, with its mm held for writing.
 *
 * From now on the core maps no page of it writable that page_mkwrite has not seen.
 */
void karena_window_protect(struct vm_area_struct *vma)
{
	vma->vm_ops = &cow_vm_ops;
	WRITE_ONCE(vma->vm_page_prot, vm_get_page_prot(vma->vm_flags & ~VM_SHARED));
}

/* A mapping holds the heap's file. */
static void mapping_get(struct karena_heap *heap)
{
	atomic_inc(&heap->mappings);
	get_file(heap->file);
}

/* Drops the reference to the heap's file; not here, that takes too many locks. */
static void mapping_put(struct karena_heap *heap)
{
	if (!atomic_dec_and_test(&heap->mappings) || !karena_heap_end(heap))
		fput(heap->file);
}

/* The clone that a child's mapping is to be of: made with the first of them. */
static struct karena_heap *fork_heap(struct karena_heap *heap, struct mm_struct *mm)
{
	struct file *file;

	if (heap->fork == KARENA_FORK_NONE)
		return NULL;
	file = karena_heap_find(heap, mm);
	if (!file)
		file = karena_heap_open_clone(karena_clone(heap, mm));
	if (!file)
		return NULL;
	heap = file->private_data;
	atomic_inc(&heap->mappings);
	return heap;
}

/* A mapping has been split, or copied to a child; mmap_lock is held for writing. */
static void vm_open(struct vm_area_struct *vma)
{
	struct karena_heap *heap = vma->vm_private_data;

	if (!heap)
		return;
	if (vma->vm_pgoff < heap->nr_arenas * KARENA_ARENA_PAGES &&
	    vma->vm_start - (vma->vm_pgoff << PAGE_SHIFT) != heap->start)
		set_bit(KARENA_HEAP_SCATTERED, &heap->flags);
	if (vma->vm_mm == heap->mm || heap->fork == KARENA_FORK_SHARE)
		mapping_get(heap);
	else
		vma->vm_private_data = fork_heap(heap, vma->vm_mm);
	/* A split one has been, if it had to. */
	if (vma->vm_mm != heap->mm && !test_bit(KARENA_HEAP_IO, &heap->flags))
		karena_window_protect(vma);
}

static void vm_close(struct vm_area_struct *vma)
{
	if (vma->vm_private_data)
		mapping_put(vma->vm_private_data);
}

/* Whether all of a window can lie where a mapping of its arenas is to be. */
static bool has_room(unsigned long window, struct vm_area_struct *vma)
{
	unsigned long before = vma->vm_pgoff << PAGE_SHIFT;

	/* No window begins at 0, which stands for none. */
	return vma->vm_start > before &&
	       (window << PAGE_SHIFT) <= TASK_SIZE - (vma->vm_start - before);
}

/*
 * With mmap_lock held for writing: arenas of the window. The first mapping says where all
 * of it lies.
 */
static int map_window(struct karena_heap *heap, struct vm_area_struct *vma)
{
	unsigned long window = heap->nr_arenas * KARENA_ARENA_PAGES;
	unsigned long start = vma->vm_start - (vma->vm_pgoff << PAGE_SHIFT);

	if (!IS_ALIGNED(vma->vm_start | vma->vm_end, KARENA_ARENA_SIZE) ||
	    !IS_ALIGNED(vma->vm_pgoff, KARENA_ARENA_PAGES))
		return -EINVAL;
	if (heap->start && heap->start == start)
		return 0;
	/* A window that was unmapped, or whose mmap() failed later on, may be mapped anew. */
	if (heap->start && (vma->vm_mm != heap->mm || karena_windows_any(heap)))
		return -EBUSY;
	if (!has_room(window, vma))
		return -EINVAL;
	heap->start = start;
	return 0;
}

/* What is asked to be mapped is the window, parts of it, or the control region. */
static bool in_window(const struct karena_heap *heap, struct vm_area_struct *vma)
{
	return vma->vm_pgoff + vma_pages(vma) <= heap->nr_arenas * KARENA_ARENA_PAGES;
}

static bool is_control(const struct karena_heap *heap, struct vm_area_struct *vma)
{
	return vma->vm_pgoff == heap->nr_arenas * KARENA_ARENA_PAGES &&
	       vma_pages(vma) == heap->nr_control;
}

/* Without another look at the mapping: it has been, or is not the owner's. */
static bool may_be_cloned(struct karena_heap *heap, struct mm_struct *mm)
{
	return !test_bit(KARENA_HEAP_IO, &heap->flags) &&
	       (test_bit(KARENA_HEAP_COW, &heap->flags) || mm != heap->mm);
}

static int map_heap(struct karena_heap *heap, struct vm_area_struct *vma)
{
	unsigned long flags = VM_DONTDUMP;
	int err = 0;

	if (!(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	if (in_window(heap, vma))
		err = map_window(heap, vma);
	else if (!is_control(heap, vma))
		err = -EINVAL;
	if (err)
		return err;
	vma->vm_ops = may_be_cloned(heap, vma->vm_mm) ? &cow_vm_ops : &window_vm_ops;
	vma->vm_private_data = heap;
	/* A child's would hold the parent's heap. */
	vma_set_file(vma, heap->family->file);
	mapping_get(heap);
	if (heap->fork == KARENA_FORK_NONE)
		flags |= VM_DONTCOPY;
	/*
	 * A core dump asks for every page of the window, committed or not; MADV_DODUMP
	 * chooses.
	 */
	vm_flags_set(vma, flags);
	return 0;
}

/**
 * karena_mmap() - Map arenas of the window, or the whole control region.
 * @file: The heap's file.
 * @vma: The new mapping.
 *
 * A window is mapped whole, or in parts that lie as they do in the file; mremap() can let
 * a part grow. Arenas can be mapped where they are already, which drops their page tables:
 * one that was sparse can be huge again.
 *
 * Return: 0; -EPERM in a process that has no part in the heap; -EBUSY when another part
 * of the window is mapped elsewhere; -EINVAL for a private or a misaligned mapping, or
 * one around which the window has no room.
 */
int karena_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct file *mine = karena_heap_mine(file);
	int err;

	if (IS_ERR(mine))
		return PTR_ERR(mine);
	err = map_heap(mine->private_data, vma);
	fput(mine);
	return err;
}

/**
 * karena_map_alias() - Map what any process may map that has the descriptor.
 * @heap: The heap, which the file holds.
 * @vma: The new mapping, of the file; in the window.
 */
void karena_map_alias(struct karena_heap *heap, struct vm_area_struct *vma)
{
	vma->vm_ops = &alias_vm_ops;
	vma->vm_private_data = heap;
	/* Neither mremap() nor a merge may make more of a share than it is. */
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
	if (in_window(heap, vma)) {
		if (!IS_ALIGNED(vma->vm_start | vma->vm_end, KARENA_ARENA_SIZE) ||
		    !IS_ALIGNED(vma->vm_pgoff, KARENA_ARENA_PAGES))
			return -EINVAL;
	} else if (!is_control(heap, vma)) {
		return -EINVAL;
	}
	karena_map_alias(heap, vma);
	return 0;
}
