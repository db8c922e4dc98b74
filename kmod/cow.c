// SPDX-License-Identifier: GPL-2.0
/*
 * Copy-on-write: frames with several owners. A write to a page of such a frame copies that
 * page alone, into a sparse frame above the huge one, which becomes the arena's base. Other
 * owners notice nothing. When the base is no longer shared, the arena can be made huge
 * again: promotion writes the copies to their places in the base. Without promotion, a heap
 * of 128 MiB kept up to 243 MiB after its children had ended.
 */
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/workqueue.h>

#include "arena.h"
#include "compat.h"
#include "trace.h"

/* With fewer copies, unmapping an arena in use costs more than promotion gains. */
#define PROMOTE_PAGES	(KARENA_ARENA_PAGES / 8)

/* A delay, because another fork() often follows. */
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
	/* From now on, faults map the arena by pages. */
	folio_lock(base->folio);
	spin_lock(&heap->family->lock);
	arena->base = base;
	karena_arena_set_frame(arena, frame);
	spin_unlock(&heap->family->lock);
	folio_unlock(base->folio);
	atomic_long_inc(&heap->stats.based);
	karena_frame_count(heap, -1, 1, 0);
	return 0;
}

/* The page to copy, if it is shared or @force is set; else NULL. CHANGING is held. */
static struct page *arena_page_to_copy(struct karena_arena *arena, unsigned long i,
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

/* Put a copy into the arena and count it. CHANGING is held. */
static void arena_install_page(struct karena_arena *arena, unsigned long i,
			       struct folio *folio, bool more)
{
	struct karena_heap *heap = arena->heap;

	spin_lock(&heap->family->lock);
	arena->frame->pages[i] = folio_page(folio, 0);
	arena->frame->nr_pages += more;
	spin_unlock(&heap->family->lock);
	karena_charge_all(1);
	karena_frame_count(heap, 0, 0, more);
	atomic_long_inc(&heap->stats.copies);
	atomic_long_inc(&karena_nr_copies);
	trace_karena_copy(heap, arena->index * KARENA_ARENA_PAGES + i);
}

/*
 * Copy a page and put the copy into the arena. CHANGING is held. The folio lock keeps faults
 * from making the old page writable as the arena's alone. The old page is unmapped before
 * another thread can write to the copy, so no thread reads it after that. @vma is the mapping
 * of the faulting process, or NULL if nothing maps the arena. Returns 0; -EHWPOISON; or -EAGAIN
 * when the arena has another page by now.
 */
static int arena_copy_page(struct karena_arena *arena, struct vm_area_struct *vma,
			   unsigned long i, struct page *old, struct folio *folio,
			   bool force)
{
	unsigned long page = arena->index * KARENA_ARENA_PAGES + i;
	struct karena_heap *heap = arena->heap;
	struct folio *from = page_folio(old);
	bool small = !folio_test_large(from);

	folio_lock(from);
	if (arena_page_to_copy(arena, i, force) != old) {
		folio_unlock(from);
		return -EAGAIN;
	}
	if (!karena_page_copy(folio_page(folio, 0), old)) {
		folio_unlock(from);
		return -EHWPOISON;
	}
	/* If other processes map the arena, unmap the page in the whole family. */
	if (vma && (heap->fork == KARENA_FORK_SHARE || karena_has_shares(heap)))
		karena_arena_unmap(arena, i, 1);
	else if (vma)
		karena_zap(vma, vma->vm_start + ((page - vma->vm_pgoff) << PAGE_SHIFT),
			   PAGE_SIZE);
	arena_install_page(arena, i, folio, !small);
	folio_unlock(from);
	if (small)
		karena_page_put(heap, from, false);
	return 0;
}

/*
 * Drop the base of an arena that has copies of all its pages, if the state word can tell
 * the process that the arena is sparse. CHANGING is held. Returns true if the base was
 * dropped.
 */
static bool arena_leave_base(struct karena_arena *arena)
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
	atomic_long_dec(&heap->stats.based);
	karena_frame_put(heap, base, false);
	return true;
}

/* CHANGING is held. */
static int arena_copy(struct karena_arena *arena, struct vm_area_struct *vma,
		      unsigned long i, gfp_t gfp, bool force)
{
	struct page *old = arena_page_to_copy(arena, i, force);
	struct karena_heap *heap = arena->heap;
	struct folio *folio;
	int err = 0;

	/* Another thread has copied it, or the page is no longer shared. */
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
		arena_install_page(arena, i, folio, true);
	else
		err = arena_copy_page(arena, vma, i, old, folio, force);
	if (err)
		karena_folio_put(folio);
	/* Then another arena may be the only owner of the base. */
	if (arena->base && arena->frame->nr_pages == KARENA_ARENA_PAGES &&
	    arena_leave_base(arena))
		karena_cow_queue_promote(heap->family);
	return err == -EHWPOISON ? err : 0;
}

/**
 * karena_cow_copy() - Copy a page for a heap, if the page is shared.
 * @heap: The heap.
 * @vma: Where the page is mapped; mmap_lock or the VMA's lock is held.
 * @page: The page's number in the window.
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
 * karena_cow_copy_held() - Copy the pages of a clone's arena that devices hold.
 * @arena: The clone's arena, which no other thread knows yet.
 * @held: Returns true if a device may be writing to a page. The result is the same for all
 *	pages of a huge frame.
 *
 * Return: 0, or -ENOMEM or -EHWPOISON, after which the clone must not use the arena.
 */
int karena_cow_copy_held(struct karena_arena *arena,
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

		/* Even if the heap has released it. Copying the last page drops the base. */
		if (small ? held(arena, page) : page && all)
			err = arena_copy(arena, NULL, i, KARENA_OWN_GFP, true);
		cond_resched();
	}
	karena_arena_unlock(arena);
	return err;
}

/*
 * Returns true if the arena owns all of its pages alone, no device pins the base, and the
 * hardware can read all pages. CHANGING is held.
 */
static bool arena_can_promote(struct karena_arena *arena)
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

/*
 * Make the base the frame, if no thread uses the base or the copies: freeze their counts,
 * and write the copies to their places in the base. CHANGING is held, and the arena is
 * frozen.
 */
static bool arena_try_promote(struct karena_arena *arena)
{
	struct karena_frame *frame = arena->frame, *base = arena->base;
	struct karena_heap *heap = arena->heap;
	unsigned long held, i;
	struct page *page;
	bool done = false;

	if (karena_sparse_hold_huge(base) <= 0)
		return false;
	for (held = 0; held < KARENA_ARENA_PAGES; held++) {
		page = frame->pages[held];
		if (karena_page_real(page) && !folio_ref_freeze(page_folio(page), 1))
			goto unfreeze;
	}
	if (karena_folio_bad(base->folio))
		goto unfreeze;
	/* No process can reach the pages that this overwrites. */
	for (i = 0; i < KARENA_ARENA_PAGES; i++) {
		page = frame->pages[i];
		if (page && !karena_page_copy(folio_page(base->folio, i), page))
			goto unfreeze;
	}
	spin_lock(&heap->family->lock);
	arena->base = NULL;
	karena_arena_set_frame(arena, base);
	spin_unlock(&heap->family->lock);
	done = true;
unfreeze:
	while (held--) {
		page = frame->pages[held];
		if (karena_page_real(page))
			folio_ref_unfreeze(page_folio(page), 1);
	}
	folio_ref_unfreeze(base->folio, 1);
	return done;
}

/* Write the copies to the base, and make the base the frame. CHANGING is held. */
static bool arena_promote(struct karena_arena *arena)
{
	struct karena_frame *frame = arena->frame;
	struct karena_heap *heap = arena->heap;
	bool done;
	unsigned long i;

	if (!arena_can_promote(arena))
		return false;
	karena_sparse_freeze(arena, NULL);
	done = arena_try_promote(arena);
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
	atomic_long_dec(&heap->stats.based);
	atomic_long_inc(&heap->stats.promoted);
	atomic_long_inc(&karena_nr_promoted);
	return true;
}

/**
 * karena_cow_promote() - Make an unmapped arena huge again.
 * @heap: The heap.
 * @page: A page of the window, in that arena.
 *
 * Return: True if the arena is huge now; false if a page of it is shared, pinned or bad.
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

/* Count the shared pages of an arena. The family's lock is held. */
static unsigned long arena_count_shared(struct karena_arena *arena)
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
 * karena_cow_shared() - Count a heap's shared pages.
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
				count += arena_count_shared(&chunk->arenas[i]);
			spin_unlock(&heap->family->lock);
		}
		cond_resched();
	}
	return count;
}

static void heap_promote_work(struct work_struct *work)
{
	struct karena_heap *heap = container_of(work, struct karena_heap,
						promote_work.work);
	struct karena_chunk *chunk;
	unsigned long number, i;

	xa_for_each(&heap->chunks, number, chunk) {
		for (i = 0; i < KARENA_CHUNK; i++) {
			struct karena_arena *arena = &chunk->arenas[i];

			/* Without CHANGING this is only a hint. */
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
 * karena_cow_prepare() - Prepare a new heap for cloning.
 * @heap: The heap.
 */
void karena_cow_prepare(struct karena_heap *heap)
{
	init_rwsem(&heap->cloning);
	INIT_DELAYED_WORK(&heap->promote_work, heap_promote_work);
}

static void family_gone_work(struct work_struct *work)
{
	struct karena_family *family = container_of(work, struct karena_family,
						    gone_work.work);
	struct karena_heap *heap;

	spin_lock(&family->lock);
	list_for_each_entry(heap, &family->heaps, sibling) {
		if (atomic_long_read(&heap->stats.based))
			queue_delayed_work(karena_workqueue, &heap->promote_work, 0);
	}
	spin_unlock(&family->lock);
}

/**
 * karena_cow_queue_promote() - Make a family's heaps look for arenas to promote.
 * @family: The family of a heap that has dropped shared frames. One look serves all heaps
 *	that do so within a second.
 */
void karena_cow_queue_promote(struct karena_family *family)
{
	queue_delayed_work(karena_workqueue, &family->gone_work, PROMOTE_AFTER);
}

/**
 * karena_cow_begin() - Prepare a new family for clones.
 * @family: The family.
 */
void karena_cow_begin(struct karena_family *family)
{
	INIT_DELAYED_WORK(&family->gone_work, family_gone_work);
}

/**
 * karena_cow_end() - Stop the work of a family that is about to be freed.
 * @family: The family, without a heap.
 */
void karena_cow_end(struct karena_family *family)
{
	cancel_delayed_work_sync(&family->gone_work);
}
