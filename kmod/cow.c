// SPDX-License-Identifier: GPL-2.0
/*
 * Copy-on-write: what becomes of a frame that several have. Who writes to a page of it
 * gets a copy of that page alone, in a sparse frame above the huge one, which is its
 * base from then on; nobody else notices. When nobody shares the base any more, the
 * arena can be made huge again: then the copies are put in their places.
 */
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/workqueue.h>

#include "arena.h"
#include "compat.h"
#include "trace.h"

/* Less is not worth to unmap an arena in use, which comes back page by page. */
#define PROMOTE_PAGES	(KARENA_ARENA_PAGES / 8)

/* Until then there may be the next child. */
#define PROMOTE_AFTER	HZ

atomic_long_t karena_nr_copies;
atomic_long_t karena_nr_promoted;

/**
 * karena_cow_split() - Put a sparse frame above a huge one.
 * @arena: The arena, with a huge frame and CHANGING held.
 * @gfp: How to allocate it.
 *
 * Nothing changes for the process until the frame gets a page.
 *
 * Return: 0 or -ENOMEM.
 */
int karena_cow_split(struct karena_arena *arena, gfp_t gfp)
{
	struct karena_frame *base = arena->frame, *frame;
	struct karena_heap *heap = arena->heap;

	karena_arena_assert_locked(arena);
	if (WARN_ON_ONCE(arena->base))
		return -ENOMEM;
	frame = karena_frame_sparse(heap, base->node, gfp);
	if (!frame)
		return -ENOMEM;
	/* Faults have to know that the arena is mapped by pages from now on. */
	folio_lock(base->folio);
	spin_lock(&heap->family->lock);
	arena->base = base;
	karena_arena_set_frame(arena, frame);
	spin_unlock(&heap->family->lock);
	folio_unlock(base->folio);
	atomic_long_inc(&heap->based);
	karena_frame_count(heap, -1, 1, 0);
	return 0;
}

/* With CHANGING held; forced, whether or not others have it, too. */
static struct page *page_to_copy(struct karena_arena *arena, unsigned long i,
				 bool force)
{
	struct page *page;

	spin_lock(&arena->heap->family->lock);
	page = karena_arena_page(arena, i);
	if (karena_page_real(page) && !force &&
	    !karena_arena_shared(arena, page))
		page = NULL;
	spin_unlock(&arena->heap->family->lock);
	return page;
}

/* With CHANGING held: the page is the arena's from now on, and counted. */
static void page_install(struct karena_arena *arena, unsigned long i,
			 struct folio *folio, bool more)
{
	struct karena_heap *heap = arena->heap;

	spin_lock(&heap->family->lock);
	arena->frame->pages[i] = folio_page(folio, 0);
	arena->frame->nr_pages += more;
	spin_unlock(&heap->family->lock);
	karena_charge_all(1);
	karena_frame_count(heap, 0, 0, more);
	atomic_long_inc(&heap->copies);
	atomic_long_inc(&karena_nr_copies);
	trace_karena_copy(heap, arena->index * KARENA_ARENA_PAGES + i);
}

/* Whether the arenas are mapped elsewhere than where a fault comes from. */
static bool mapped_elsewhere(struct karena_heap *heap)
{
	return heap->fork == KARENA_FORK_SHARE || karena_has_shares(heap);
}

/*
 * Unmap a page where the process has it, if it has it. What others have mapped is not
 * touched, unless they have this arena, not a copy of it.
 */
static void page_unmap(struct karena_arena *arena, struct vm_area_struct *vma,
		       unsigned long i)
{
	unsigned long page = arena->index * KARENA_ARENA_PAGES + i;

	if (!vma)
		return;
	if (mapped_elsewhere(arena->heap))
		karena_arena_unmap(arena, i, 1);
	else
		karena_zap(vma, vma->vm_start +
			   ((page - vma->vm_pgoff) << PAGE_SHIFT), PAGE_SIZE);
}

/*
 * With CHANGING held. Under the lock of the folio, so that no fault writes to what it
 * has found to be the arena's alone meanwhile, and unmapped before another thread can
 * write to the copy: nobody reads the old page after that. 0; -EHWPOISON; or -EAGAIN when
 * the page is another by now.
 */
static int page_copy(struct karena_arena *arena, struct vm_area_struct *vma,
		     unsigned long i, struct page *old, struct folio *folio,
		     bool force)
{
	struct folio *from = page_folio(old);
	bool small = !folio_test_large(from);

	folio_lock(from);
	if (page_to_copy(arena, i, force) != old) {
		folio_unlock(from);
		return -EAGAIN;
	}
	if (!karena_page_copy(folio_page(folio, 0), old)) {
		folio_unlock(from);
		return -EHWPOISON;
	}
	page_unmap(arena, vma, i);
	page_install(arena, i, folio, !small);
	folio_unlock(from);
	if (small)
		karena_page_leave(arena->heap, from, false);
	return 0;
}

/*
 * With CHANGING held, on an arena that needs its base no more: it is sparse, if the state
 * word can tell the process. Whether it is.
 */
static bool leave_base(struct karena_arena *arena)
{
	u32 *state = karena_state(arena->heap, arena->index), word;
	struct karena_frame *base = arena->base;
	struct karena_heap *heap = arena->heap;

	spin_lock(&heap->family->lock);
	word = cmpxchg(state, KARENA_ACTIVE, KARENA_ACTIVE | KARENA_SPARSE);
	if (word == KARENA_ACTIVE || word == (KARENA_ACTIVE | KARENA_SPARSE))
		arena->base = NULL;
	spin_unlock(&heap->family->lock);
	if (arena->base)
		return false;
	atomic_long_dec(&heap->based);
	karena_frame_leave(heap, base, false);
	return true;
}

/* With CHANGING held. */
static int arena_copy(struct karena_arena *arena, struct vm_area_struct *vma,
		      unsigned long i, gfp_t gfp, bool force)
{
	struct page *old = page_to_copy(arena, i, force);
	struct karena_heap *heap = arena->heap;
	struct folio *folio;
	int err = 0;

	/* Another thread was faster, or the others are gone. */
	if (!old)
		return 0;
	if (PageHWPoison(old))
		return -EHWPOISON;
	if (arena->frame->folio && karena_cow_split(arena, gfp & ~__GFP_HIGHMEM))
		return -ENOMEM;
	folio = karena_sparse_alloc(arena, i, old == KARENA_ZERO ? gfp | __GFP_ZERO :
								   gfp);
	if (!folio)
		return -ENOMEM;
	if (old == KARENA_ZERO)
		page_install(arena, i, folio, true);
	else
		err = page_copy(arena, vma, i, old, folio, force);
	if (err)
		karena_folio_put(folio);
	/* Somebody else may be alone with the base then. */
	if (arena->base && arena->frame->nr_pages == KARENA_ARENA_PAGES &&
	    leave_base(arena))
		karena_cow_gone(heap->family);
	return err == -EHWPOISON ? err : 0;
}

/**
 * karena_cow_copy() - Give a heap a page of its own, if it has none.
 * @heap: The heap.
 * @vma: Where the page is mapped; mmap_lock or the VMA's lock is held.
 * @page: Which page of the window.
 *
 * Return: 0, -ENOMEM or -EHWPOISON.
 */
int karena_cow_copy(struct karena_heap *heap, struct vm_area_struct *vma,
		    unsigned long page)
{
	struct karena_arena *arena = karena_arena(heap, page / KARENA_ARENA_PAGES);
	int err;

	down_read(&heap->cloning);
	karena_arena_lock(arena);
	err = arena_copy(arena, vma, page % KARENA_ARENA_PAGES, KARENA_COPY_GFP,
			 false);
	karena_arena_unlock(arena);
	up_read(&heap->cloning);
	return err;
}

/**
 * karena_cow_own() - Give a clone copies of the pages of an arena that the heap must keep.
 * @arena: The clone's arena, which nobody else knows yet.
 * @held: Which these are: a device may be writing to them. Of a huge frame, whose pages
 *	nobody can tell apart, all.
 *
 * Return: 0, or -ENOMEM or -EHWPOISON: the arena is not to be used then.
 */
int karena_cow_own(struct karena_arena *arena,
		   bool (*held)(struct karena_arena *arena, struct page *page))
{
	struct karena_frame *huge = karena_arena_huge(arena);
	bool all = huge && held(arena, folio_page(huge->folio, 0));
	unsigned long i;
	int err = 0;

	karena_arena_lock(arena);
	for (i = 0; i < KARENA_ARENA_PAGES && !err; i++) {
		struct page *page = karena_arena_page(arena, i);
		bool small = karena_page_real(page) && !PageCompound(page);

		/* Even if the heap has let go of it; with the last goes the base. */
		if (small ? held(arena, page) : page && all)
			err = arena_copy(arena, NULL, i, KARENA_OWN_GFP, true);
		cond_resched();
	}
	karena_arena_unlock(arena);
	return err;
}

/*
 * With CHANGING held: whether nobody else has, or pins, anything of the arena, and the
 * hardware can read all of it.
 */
static bool promote_possible(struct karena_arena *arena)
{
	struct karena_frame *frame = arena->frame, *base = arena->base;
	unsigned long i;
	bool possible;

	if (!base || folio_maybe_dma_pinned(base->folio) ||
	    karena_folio_bad(base->folio))
		return false;
	spin_lock(&arena->heap->family->lock);
	possible = base->owners == 1;
	for (i = 0; i < KARENA_ARENA_PAGES && possible; i++) {
		struct page *page = frame->pages[i];

		possible = !karena_page_real(page) ||
			   (!page_private(page) && !PageHWPoison(page));
	}
	spin_unlock(&arena->heap->family->lock);
	return possible;
}

/* Freeze the counts of the first pages, or unfreeze them; how many there are. */
static unsigned long promote_hold(struct karena_frame *frame)
{
	unsigned long i;

	for (i = 0; i < KARENA_ARENA_PAGES; i++) {
		struct page *page = frame->pages[i];

		if (karena_page_real(page) &&
		    !folio_ref_freeze(page_folio(page), 1))
			break;
	}
	return i;
}

static void promote_let_go(struct karena_frame *frame, unsigned long held)
{
	while (held--) {
		struct page *page = frame->pages[held];

		if (karena_page_real(page))
			folio_ref_unfreeze(page_folio(page), 1);
	}
}

/* No process can reach the pages of the base that this overwrites: copies hide them. */
static bool promote_copy(struct karena_frame *frame, struct folio *huge)
{
	unsigned long i;

	if (karena_folio_bad(huge))
		return false;
	for (i = 0; i < KARENA_ARENA_PAGES; i++) {
		struct page *page = frame->pages[i];

		if (page && !karena_page_copy(folio_page(huge, i), page))
			return false;
	}
	return true;
}

/* With CHANGING held, the arena frozen. */
static bool promote_try(struct karena_arena *arena)
{
	struct karena_frame *frame = arena->frame, *base = arena->base;
	struct karena_heap *heap = arena->heap;
	unsigned long held = 0;
	bool done;

	if (karena_sparse_hold(base) <= 0)
		return false;
	held = promote_hold(frame);
	done = held == KARENA_ARENA_PAGES && promote_copy(frame, base->folio);
	if (done) {
		spin_lock(&heap->family->lock);
		arena->base = NULL;
		karena_arena_set_frame(arena, base);
		spin_unlock(&heap->family->lock);
	}
	promote_let_go(frame, held);
	folio_ref_unfreeze(base->folio, 1);
	return done;
}

/* With CHANGING held: put the copies into the base, and make it the frame. */
static bool arena_promote(struct karena_arena *arena)
{
	struct karena_frame *frame = arena->frame;
	struct karena_heap *heap = arena->heap;
	bool done;
	unsigned long i;

	if (!promote_possible(arena))
		return false;
	karena_sparse_freeze(arena, NULL);
	done = promote_try(arena);
	karena_arena_thaw(arena);
	trace_karena_promote(heap, arena->index, done ? frame->nr_pages : 0);
	if (!done)
		return false;
	for (i = 0; i < KARENA_ARENA_PAGES; i++) {
		if (karena_page_real(frame->pages[i]))
			karena_folio_free(heap, page_folio(frame->pages[i]), false);
	}
	karena_frame_count(heap, 1, -1, -(long)frame->nr_pages);
	karena_frame_discard(frame);
	atomic_long_dec(&heap->based);
	atomic_long_inc(&heap->promoted);
	atomic_long_inc(&karena_nr_promoted);
	return true;
}

/**
 * karena_cow_promote() - Make an arena huge again that a process has not mapped.
 * @heap: The heap.
 * @page: A page of the window, in that arena.
 *
 * Return: Whether it was done. Not when others have a page of it, too, or pin one.
 */
bool karena_cow_promote(struct karena_heap *heap, unsigned long page)
{
	struct karena_arena *arena = karena_arena(heap, page / KARENA_ARENA_PAGES);
	bool done;

	down_read(&heap->cloning);
	karena_arena_lock(arena);
	done = arena_promote(arena);
	karena_arena_unlock(arena);
	up_read(&heap->cloning);
	return done;
}

/* With the family's lock held: pages of an arena that others have, too. */
static unsigned long arena_shared(struct karena_arena *arena)
{
	struct karena_frame *huge = karena_arena_huge(arena);
	struct page **pages = arena->frame->pages;
	bool shared = huge && huge->owners > 1;
	unsigned long i, count = 0;

	if (!pages)
		return shared ? KARENA_ARENA_PAGES : 0;
	for (i = 0; i < KARENA_ARENA_PAGES; i++) {
		if (!pages[i])
			count += shared;
		else if (karena_page_real(pages[i]))
			count += !!page_private(pages[i]);
	}
	return count;
}

/**
 * karena_cow_shared() - Count the pages that others have, too.
 * @heap: The heap.
 *
 * Return: Their number.
 */
unsigned long karena_cow_shared(struct karena_heap *heap)
{
	unsigned long number, i, count = 0;
	struct karena_chunk *chunk;

	if (!test_bit(KARENA_HEAP_COW, &heap->flags))
		return 0;
	xa_for_each(&heap->chunks, number, chunk) {
		for (i = 0; i < KARENA_CHUNK; i++) {
			spin_lock(&heap->family->lock);
			if (chunk->arenas[i].frame)
				count += arena_shared(&chunk->arenas[i]);
			spin_unlock(&heap->family->lock);
		}
		cond_resched();
	}
	return count;
}

static void promote_work(struct work_struct *work)
{
	struct karena_heap *heap = container_of(work, struct karena_heap,
						promote_work.work);
	struct karena_chunk *chunk;
	unsigned long number, i;

	xa_for_each(&heap->chunks, number, chunk) {
		for (i = 0; i < KARENA_CHUNK; i++) {
			struct karena_arena *arena = &chunk->arenas[i];

			/* To be looked at again with CHANGING held. */
			if (!READ_ONCE(arena->base))
				continue;
			down_read(&heap->cloning);
			karena_arena_lock(arena);
			if (arena->base && arena->frame->nr_pages >= PROMOTE_PAGES)
				arena_promote(arena);
			karena_arena_unlock(arena);
			up_read(&heap->cloning);
			cond_resched();
		}
	}
}

/**
 * karena_cow_prepare() - Make a new heap ready to be cloned.
 * @heap: The heap.
 */
void karena_cow_prepare(struct karena_heap *heap)
{
	init_rwsem(&heap->cloning);
	INIT_DELAYED_WORK(&heap->promote_work, promote_work);
}

static void gone_work(struct work_struct *work)
{
	struct karena_family *family = container_of(work, struct karena_family,
						    gone_work.work);
	struct karena_heap *heap;

	spin_lock(&family->lock);
	list_for_each_entry(heap, &family->heaps, sibling) {
		if (atomic_long_read(&heap->based))
			queue_delayed_work(karena_workqueue, &heap->promote_work, 0);
	}
	spin_unlock(&family->lock);
}

/**
 * karena_cow_gone() - Let heaps promote arenas that an owner of their frames has left.
 * @family: The owner's family. One look at its heaps serves all owners that leave within a
 *	second.
 */
void karena_cow_gone(struct karena_family *family)
{
	queue_delayed_work(karena_workqueue, &family->gone_work, PROMOTE_AFTER);
}

/**
 * karena_cow_begin() - Make a new family ready for clones.
 * @family: The family.
 */
void karena_cow_begin(struct karena_family *family)
{
	INIT_DELAYED_WORK(&family->gone_work, gone_work);
}

/**
 * karena_cow_end() - Let no more work run for a family that goes.
 * @family: The family, without a heap.
 */
void karena_cow_end(struct karena_family *family)
{
	cancel_delayed_work_sync(&family->gone_work);
}
