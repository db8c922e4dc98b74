// SPDX-License-Identifier: GPL-2.0
/*
 * A process's mappings of its heap. The cloner of a heap finds these mappings, and unmaps
 * them or makes them read-only, with mmap_lock held for writing, so no thread of the
 * process is in a fault there. A thread that removes pages from an arena unmaps them with
 * mmap_lock held for reading.
 */
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/sched/mm.h>
#include <linux/sort.h>

#include "arena.h"
#include "compat.h"

/**
 * karena_is_window() - Ask whether a mapping is of a heap's window or control region.
 * @vma: The mapping.
 * @heap: The heap.
 *
 * Shares and snapshots are mappings of other files.
 *
 * Return: True if it is, and belongs to the heap's process or, with the policy SHARE, to
 * one of its processes.
 */
bool karena_is_window(const struct vm_area_struct *vma, const struct karena_heap *heap)
{
	return vma->vm_file == heap->family->file && vma->vm_private_data == heap;
}

/* Count or find all mappings, also those of the control region, which may lie anywhere. */
static unsigned int windows_find(struct karena_heap *heap, struct vm_area_struct **vmas)
{
	VMA_ITERATOR(vmi, heap->mm, 0);
	struct vm_area_struct *vma;
	unsigned int nr = 0;

	for_each_vma(vmi, vma) {
		if (!karena_is_window(vma, heap))
			continue;
		if (vmas)
			vmas[nr] = vma;
		nr++;
	}
	return nr;
}

static int vma_compare_offset(const void *one, const void *other)
{
	const struct vm_area_struct *a = *(struct vm_area_struct * const *)one;
	const struct vm_area_struct *b = *(struct vm_area_struct * const *)other;

	return a->vm_pgoff < b->vm_pgoff ? -1 : a->vm_pgoff > b->vm_pgoff;
}

/**
 * karena_windows_any() - Ask whether a process maps any part of a window.
 * @heap: The heap, whose mmap_lock is held for writing.
 *
 * Return: True if it does; the control region does not count.
 */
bool karena_windows_any(struct karena_heap *heap)
{
	VMA_ITERATOR(vmi, heap->mm, 0);
	struct vm_area_struct *vma;

	for_each_vma(vmi, vma) {
		if (karena_is_window(vma, heap) &&
		    vma->vm_pgoff < heap->nr_arenas * KARENA_ARENA_PAGES)
			return true;
	}
	return false;
}

/**
 * karena_windows_get() - Find a process's mappings of its heap, for copy-on-write.
 * @heap: The heap, whose mmap_lock is held for writing.
 * @windows: Filled in; to be released by karena_windows_put().
 *
 * As long as mmap_lock is held, no thread of the process is in a fault there.
 */
void karena_windows_get(struct karena_heap *heap, struct karena_windows *windows)
{
	unsigned int i;

	lockdep_assert_held_write(&heap->mm->mmap_lock);
	windows->nr = 0;
	windows->vmas = NULL;
	/* The process has ended, but other processes still map its shared heap. */
	if (!atomic_read(&heap->mm->mm_users))
		return;
	windows->nr = windows_find(heap, NULL);
	windows->vmas = kvcalloc(windows->nr, sizeof(*windows->vmas),
				 KARENA_CLONE_GFP);
	windows_find(heap, windows->vmas);
	for (i = 0; i < windows->nr; i++)
		vma_start_write(windows->vmas[i]);
	sort(windows->vmas, windows->nr, sizeof(*windows->vmas), vma_compare_offset, NULL);
}

/**
 * karena_windows_put() - Free the list of mappings.
 * @windows: From karena_windows_get().
 */
void karena_windows_put(struct karena_windows *windows)
{
	kvfree(windows->vmas);
}

/*
 * Returns the first mapping that ends behind a page. Mappings of the window do not overlap.
 * Mappings of the control region may, and are unmapped as a whole.
 */
static unsigned int windows_first(struct karena_windows *windows, unsigned long page)
{
	unsigned int low = 0, high = windows->nr;

	while (low < high) {
		unsigned int middle = low + (high - low) / 2;
		struct vm_area_struct *vma = windows->vmas[middle];

		if (vma->vm_pgoff + vma_pages(vma) <= page)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Call a function for each mapping of a range of pages. */
static void windows_for_each(struct karena_windows *windows, unsigned long from,
			     unsigned long to,
			     void (*what)(struct vm_area_struct *vma, unsigned long start,
					  unsigned long stop))
{
	unsigned int i;

	for (i = windows_first(windows, from); i < windows->nr; i++) {
		struct vm_area_struct *vma = windows->vmas[i];
		unsigned long start = max(from, vma->vm_pgoff);
		unsigned long stop = min(to, vma->vm_pgoff + vma_pages(vma));

		if (vma->vm_pgoff >= to)
			break;
		if (start < stop)
			what(vma, vma->vm_start + ((start - vma->vm_pgoff) << PAGE_SHIFT),
			     vma->vm_start + ((stop - vma->vm_pgoff) << PAGE_SHIFT));
	}
}

static void vma_unmap(struct vm_area_struct *vma, unsigned long start, unsigned long stop)
{
	karena_zap(vma, start, stop - start);
}

/**
 * karena_windows_unmap() - Unmap pages of the window or of the control region.
 * @windows: From karena_windows_get().
 * @from: The first page.
 * @to: The page after the last.
 */
void karena_windows_unmap(struct karena_windows *windows, unsigned long from,
			  unsigned long to)
{
	windows_for_each(windows, from, to, vma_unmap);
}

/* Find the PMD of an address; NULL where there is no table. */
static pmd_t *pmd_find(struct mm_struct *mm, unsigned long address)
{
	pgd_t *pgd = pgd_offset(mm, address);
	p4d_t *p4d;
	pud_t *pud;

	if (pgd_none(*pgd))
		return NULL;
	p4d = p4d_offset(pgd, address);
	if (p4d_none(*p4d))
		return NULL;
	pud = pud_offset(p4d, address);
	return pud_none(*pud) ? NULL : pmd_offset(pud, address);
}

/* Make the PMD of a huge frame read-only. Returns true if it has a page table instead. */
static bool pmd_protect(struct vm_area_struct *vma, unsigned long address, pmd_t *pmd)
{
	struct mm_struct *mm = vma->vm_mm;
	spinlock_t *lock = pmd_lock(mm, pmd);
	bool pages = false;

	address &= PMD_MASK;
	if (pmd_trans_huge(*pmd)) {
		pmdp_set_wrprotect(mm, address, pmd);
		/* mprotect() of newer kernels makes dirty entries writable. */
		karena_set_pmd(mm, address, pmd, pmd_mkclean(*pmd));
	} else {
		pages = !pmd_none(*pmd);
	}
	spin_unlock(lock);
	return pages;
}

/* Make PMDs of huge frames read-only, and unmap neighbouring small pages with one call. */
static void vma_protect(struct vm_area_struct *vma, unsigned long start, unsigned long stop)
{
	unsigned long address, next, zap = stop;
	pmd_t *pmd;

	for (address = start; address < stop; address = next) {
		next = pmd_addr_end(address, stop);
		pmd = pmd_find(vma->vm_mm, address);
		if (pmd && pmd_protect(vma, address, pmd)) {
			zap = min(zap, address);
		} else if (zap < address) {
			karena_zap(vma, zap, address - zap);
			zap = stop;
		}
	}
	if (zap < stop)
		karena_zap(vma, zap, stop - zap);
}

/**
 * karena_windows_can_protect() - Ask whether karena_windows_protect() is allowed.
 * @heap: The heap that is cloned.
 *
 * Return: True if the mm has no MMU notifier, which would need to learn what becomes
 * read-only.
 */
bool karena_windows_can_protect(struct karena_heap *heap)
{
	return !mm_has_notifiers(heap->mm);
}

/**
 * karena_windows_protect() - Make pages of the window read-only.
 * @windows: From karena_windows_get().
 * @from: The first page.
 * @to: The page after the last.
 *
 * PMDs of huge frames stay; small pages are unmapped. The caller's fork() flushes the TLB
 * afterwards, as it does for anonymous memory. Until then, threads of the process can write
 * where they have written before.
 */
void karena_windows_protect(struct karena_windows *windows, unsigned long from,
			    unsigned long to)
{
	windows_for_each(windows, from, to, vma_protect);
}

/* mmap_lock is held, which protects heap->start. */
static void window_unmap_locked(struct karena_heap *heap, unsigned long from,
				unsigned long to)
{
	VMA_ITERATOR(vmi, heap->mm, heap->start + (from << PAGE_SHIFT));
	unsigned long start = heap->start + (from << PAGE_SHIFT);
	unsigned long stop = heap->start + (to << PAGE_SHIFT);
	struct vm_area_struct *vma;

	lockdep_assert_held(&heap->mm->mmap_lock);
	for_each_vma_range(vmi, vma, stop) {
		if (karena_is_window(vma, heap))
			vma_unmap(vma, max(start, vma->vm_start), min(stop, vma->vm_end));
	}
}

/**
 * karena_window_unmap() - Unmap pages in the heap's own process, if no other process maps them.
 * @heap: The heap. No fault maps these pages any more, or the caller detects such a fault.
 * @from: The first page.
 * @to: The page after the last.
 *
 * Clones have arenas of their own at the same offsets of the file, and keep their mappings.
 * Other processes map the heap's arenas only with the policy SHARE, and through shares and
 * snapshots. A share that is made later finds none of these pages.
 *
 * mmap_lock is held for reading, so that the mappings stay. This only tries the lock,
 * because callers hold CHANGING, and may be in reclaim or in a fault. A process that has
 * ended maps nothing new; an entry that its exit has not removed yet holds a reference.
 *
 * Return: True if the pages are unmapped; else the caller has to unmap them in all mappings
 * of the file.
 */
bool karena_window_unmap(struct karena_heap *heap, unsigned long from, unsigned long to)
{
	struct mm_struct *mm = heap->mm;
	bool done;

	if (heap->fork == KARENA_FORK_SHARE || karena_has_shares(heap) ||
	    test_bit(KARENA_HEAP_SNAPSHOT, &heap->flags))
		return false;
	if (!mmget_not_zero(mm))
		return true;
	done = mmap_read_trylock(mm);
	if (done) {
		window_unmap_locked(heap, from, to);
		mmap_read_unlock(mm);
	}
	/* Reclaim must not tear down an address space. */
	mmput_async(mm);
	return done;
}
