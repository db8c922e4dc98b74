// SPDX-License-Identifier: MIT
/*
 * Runs: consecutive pages of an arena, or of several. Found first fit, lowest
 * address first, so that the upper arenas can drain; which pages are taken stands
 * in two bits a page of the notes at the window's start.
 */
#include <errno.h>
#include <stdio.h>

#include "bits.h"
#include "pool.h"

#define NO_PAGE		((size_t)-1)

/*
 * A heap's first arena is committed in parts, of 64 KiB: then a small heap costs
 * what it uses. Not when the first run already takes a quarter of it.
 */
#define PART_PAGES	((size_t)16)
#define FIRST_RUN_PAGES	(KA_ARENA_PAGES / 4)

/* A place for @pages at a multiple of @align pages in an arena, or NO_PAGE. */
static size_t find_in_arena(struct ka_arena *arena, size_t pages, size_t align)
{
	size_t from = 0;

	if (!arena->committed || pages > arena->longest)
		return NO_PAGE;
	for (;;) {
		size_t end;

		from = ka_find_bit(arena->used, from, false);
		from = (from + align - 1) & ~(align - 1);
		if (from + pages > KA_ARENA_PAGES)
			break;
		end = ka_find_bit(arena->used, from, true);
		if (end - from >= pages)
			return from;
		from = end;
	}
	/* A stricter alignment may have been all that was in the way. */
	if (align == 1)
		arena->longest = (uint16_t)(pages - 1);
	return NO_PAGE;
}

static size_t find_in_committed(struct ka_heap *heap, size_t pages, size_t align)
{
	struct ka_notes *notes = heap->notes;

	for (size_t i = notes->nr_notes; i < notes->nr_touched; i++) {
		size_t page = find_in_arena(ka_arena_at(notes, i), pages, align);

		if (page != NO_PAGE)
			return i * KA_ARENA_PAGES + page;
	}
	return NO_PAGE;
}

/* Whole arenas in a row without a run, committed or not, or NO_PAGE. */
static size_t find_arenas(struct ka_heap *heap, size_t count, size_t align)
{
	const struct ka_notes *notes = heap->notes;
	/* The window's start is aligned to an arena, perhaps to no more. */
	uintptr_t base = (uintptr_t)heap->window.start / KA_ARENA_SIZE;
	size_t nr_arenas = heap->window.nr_arenas;
	size_t first = notes->nr_notes;

	first += -(base + first) & (align - 1);
	while (first < nr_arenas && count <= nr_arenas - first) {
		size_t i = first + count;

		while (i > first && (i > notes->nr_touched ||
				     !ka_arena_at(notes, i - 1)->nr_used))
			i--;
		if (i == first)
			return first;
		/* Arena i - 1 is in use: go on behind it. */
		first = ((base + i + align - 1) & ~(uintptr_t)(align - 1)) - base;
	}
	return NO_PAGE;
}

/* The end of the arenas from @first on that are (not) committed, at most @end. */
static size_t end_of(struct ka_heap *heap, size_t first, size_t end, bool committed)
{
	while (first < end && !ka_arena_at(heap->notes, first)->committed == !committed)
		first++;
	return first;
}

static void forget_arenas(struct ka_heap *heap, size_t first, size_t count)
{
	struct ka_notes *notes = heap->notes;

	heap->window.source->release(&heap->window, first, count);
	for (size_t i = first; i < first + count; i++)
		ka_arena_at(notes, i)->committed = 0;
	notes->stats.arenas -= count;
	notes->stats.arenas_reclaimed += count;
	notes->nr_empty -= count;
}

static int commit_failed(struct ka_heap *heap, size_t count, int error)
{
	size_t arenas = heap->notes->stats.arenas;

	if (arenas + count > heap->window.limit)
		return ka_fail(ENOMEM, "the heap is at its limit: it has %zu of %zu"
			       " arenas and needs %zu more", arenas,
			       heap->window.limit, count);
	return ka_fail(error, "no memory for %zu more arenas: the machine, the"
		       " memory cgroup, the limit of all heaps or that of locked"
		       " memory (ulimit -l) has none left", count);
}

static void arenas_committed(struct ka_heap *heap, size_t first, size_t end,
			     uint16_t pages)
{
	struct ka_notes *notes = heap->notes;

	for (size_t i = first; i < end; i++) {
		ka_arena_at(notes, i)->committed = pages;
		ka_arena_at(notes, i)->longest = KA_ARENA_PAGES;
	}
	notes->stats.arenas += end - first;
	notes->stats.arenas_allocated += end - first;
	notes->nr_empty += end - first;
	if (notes->stats.arenas > notes->stats.arenas_highwater)
		notes->stats.arenas_highwater = notes->stats.arenas;
	if (end > notes->nr_touched)
		notes->nr_touched = end;
}

/* Commit the pages of an arena in parts up to @end, if they are not yet. */
static int commit_part(struct ka_heap *heap, size_t index, size_t end)
{
	struct ka_arena *arena = ka_arena_at(heap->notes, index);
	size_t from = arena->committed;
	int error;

	end = (end + PART_PAGES - 1) & ~(PART_PAGES - 1);
	if (end <= from)
		return 0;
	if (!from && heap->notes->stats.arenas >= heap->window.limit)
		return commit_failed(heap, 1, ENOMEM);
	error = heap->window.source->commit_pages(&heap->window, index, from,
						  end - from);
	if (error) {
		if (!from)
			heap->window.source->release(&heap->window, index, 1);
		return commit_failed(heap, 1, error);
	}
	if (from)
		arena->committed = (uint16_t)end;
	else
		arenas_committed(heap, index, index + 1, (uint16_t)end);
	return 0;
}

/* Commit those of a row of arenas that are not committed, all or none. */
static int commit_arenas(struct ka_heap *heap, size_t first, size_t count)
{
	size_t end = first + count, missing = 0, i, j;
	int error = 0;

	for (i = first; i < end; i++)
		missing += !ka_arena_at(heap->notes, i)->committed;
	if (heap->notes->stats.arenas + missing > heap->window.limit)
		return commit_failed(heap, missing, ENOMEM);
	for (i = first; i < end; i = j) {
		j = end_of(heap, i, end, true);
		i = j;
		j = end_of(heap, i, end, false);
		if (i == j)
			break;
		error = heap->window.source->commit(&heap->window, i, j - i);
		if (error)
			break;
		arenas_committed(heap, i, j, KA_ARENA_PAGES);
	}
	if (error) {
		/* All of the row is empty: what was committed goes back. */
		for (i = first; i < end; i = j) {
			j = end_of(heap, i, end, false);
			i = j;
			j = end_of(heap, i, end, true);
			if (i < j)
				forget_arenas(heap, i, j - i);
		}
		return commit_failed(heap, missing, error);
	}
	/* The heap's first arena, if it was there and in part. */
	if (!commit_part(heap, first, KA_ARENA_PAGES))
		return 0;
	forget_arenas(heap, first, count);
	return -1;
}

/* Whether a run is to be the first of a heap's first arena, and a small one. */
static bool begins_in_parts(struct ka_heap *heap, size_t first, size_t pages)
{
	struct ka_arena *arena = ka_arena_at(heap->notes, first);

	if (first != heap->window.nr_notes || pages > KA_ARENA_PAGES)
		return false;
	if (pages < FIRST_RUN_PAGES)
		arena->parts = true;
	return arena->parts;
}

/* Mark pages, which may reach over several arenas, as used or free. */
static void mark_pages(struct ka_heap *heap, size_t page, size_t pages, bool used)
{
	struct ka_notes *notes = heap->notes;

	notes->stats.run_bytes += (used ? pages : -pages) * KA_PAGE_SIZE;
	while (pages) {
		struct ka_arena *arena = ka_arena_at(notes, page / KA_ARENA_PAGES);
		size_t from = page % KA_ARENA_PAGES;
		size_t here = KA_ARENA_PAGES - from < pages ?
			      KA_ARENA_PAGES - from : pages;

		if (used && !arena->nr_used)
			notes->nr_empty--;
		ka_change_bits(arena->used, from, here, used);
		if (used) {
			arena->nr_used = (uint16_t)(arena->nr_used + here);
		} else {
			arena->nr_used = (uint16_t)(arena->nr_used - here);
			arena->longest = KA_ARENA_PAGES;
		}
		if (!arena->nr_used)
			notes->nr_empty++;
		page += here;
		pages -= here;
	}
}

/* Commit what a run needs that begins with an arena of its own: 0, or -1. */
static int commit_run(struct ka_heap *heap, size_t first, size_t count, size_t pages)
{
	const struct ka_notes *notes = heap->notes;
	size_t end = first + count, fresh = 0;
	int error;

	/* What the limit refuses anyway needs no notes. */
	if (end > notes->nr_touched)
		fresh = end - (first > notes->nr_touched ? first : notes->nr_touched);
	if (notes->stats.arenas + fresh > heap->window.limit)
		return commit_failed(heap, fresh, ENOMEM);
	error = ka_notes_reach(heap, end);
	if (error)
		return commit_failed(heap, count, error);
	if (begins_in_parts(heap, first, pages))
		return commit_part(heap, first, pages);
	return commit_arenas(heap, first, count);
}

static size_t run_find(struct ka_heap *heap, size_t pages, size_t align)
{
	size_t page = NO_PAGE, first, count;
	size_t arena_align = align > KA_ARENA_PAGES ? align / KA_ARENA_PAGES : 1;

	/* A run that fits into an arena lies in one. */
	if (pages <= KA_ARENA_PAGES && align <= KA_ARENA_PAGES)
		page = find_in_committed(heap, pages, align);
	if (page != NO_PAGE)
		return commit_part(heap, page / KA_ARENA_PAGES,
				   page % KA_ARENA_PAGES + pages) ? NO_PAGE : page;
	count = (pages + KA_ARENA_PAGES - 1) / KA_ARENA_PAGES;
	first = find_arenas(heap, count, arena_align);
	if (first == NO_PAGE) {
		ka_fail(ENOMEM, "the window of %zu MiB has no room for a run of"
			" %zu KiB",
			(heap->window.nr_arenas - heap->window.nr_notes) *
			(KA_ARENA_SIZE / KA_MIB),
			pages * (KA_PAGE_SIZE / 1024));
		return NO_PAGE;
	}
	if (commit_run(heap, first, count, pages))
		return NO_PAGE;
	return first * KA_ARENA_PAGES;
}

/* Which page of the window a run begins with, or NO_PAGE; pools are not the caller's. */
static size_t run_page(const struct ka_heap *heap, const void *run)
{
	size_t offset = (uintptr_t)run - (uintptr_t)heap->window.start;
	size_t page = offset / KA_PAGE_SIZE;
	const struct ka_pool *pool = ka_pool_of(heap, run);

	if (pool != &ka_no_pool || !ka_heap_contains(heap, run) || offset % KA_PAGE_SIZE ||
	    page / KA_ARENA_PAGES >= heap->notes->nr_touched ||
	    !ka_test_bit(ka_arena_at(heap->notes, page / KA_ARENA_PAGES)->head,
			 page % KA_ARENA_PAGES))
		return NO_PAGE;
	return page;
}

/* How many pages a run has: up to the next head or the next free page. */
static size_t run_pages(const struct ka_heap *heap, size_t page)
{
	const struct ka_notes *notes = heap->notes;
	size_t end = page + 1;

	for (;;) {
		const struct ka_arena *arena = ka_arena_at(notes, end / KA_ARENA_PAGES);
		size_t from = end % KA_ARENA_PAGES, head, unused;

		/* The entry behind the last touched one may not exist. */
		if (end / KA_ARENA_PAGES >= notes->nr_touched)
			break;
		head = ka_find_bit(arena->head, from, true);
		unused = ka_find_bit(arena->used, from, false);
		end += (head < unused ? head : unused) - from;
		if (end % KA_ARENA_PAGES || head == from || unused == from)
			break;
	}
	return end - page;
}

bool ka_refuse_inherited(const struct ka_heap *heap)
{
	/* It changes in a child before that runs, and never again. */
	if (!heap->inherited)
		return false;
	ka_fail(EOWNERDEAD, "the heap is the parent's: it is not copied at fork");
	return true;
}

static void change_head(struct ka_heap *heap, size_t page, bool head)
{
	ka_change_bits(ka_arena_at(heap->notes, page / KA_ARENA_PAGES)->head,
		       page % KA_ARENA_PAGES, 1, head);
}

/**
 * ka_run_take() - Take a run, with the heap's lock held.
 * @heap: The heap.
 * @size: Whole pages, in bytes.
 * @align: A power of two, in bytes; or 0.
 *
 * Return: The run, or NULL with errno and a sentence.
 */
void *ka_run_take(struct ka_heap *heap, size_t size, size_t align)
{
	size_t pages = size / KA_PAGE_SIZE, page;

	ka_notes_change(heap);
	page = run_find(heap, pages, align > KA_PAGE_SIZE ? align / KA_PAGE_SIZE : 1);
	if (page != NO_PAGE) {
		change_head(heap, page, true);
		mark_pages(heap, page, pages, true);
		heap->notes->stats.runs++;
	}
	ka_notes_change(heap);
	return page == NO_PAGE ? NULL : heap->window.start + page * KA_PAGE_SIZE;
}

void *ka_run_alloc(struct ka_heap *heap, size_t size, size_t align)
{
	void *run;

	if (!size || size % KA_PAGE_SIZE) {
		ka_fail(EINVAL, "a run of %zu bytes is not whole pages", size);
		return NULL;
	}
	if (align & (align - 1)) {
		ka_fail(EINVAL, "an alignment of %zu is not a power of two", align);
		return NULL;
	}
	if (ka_refuse_inherited(heap))
		return NULL;
	pthread_mutex_lock(&heap->lock);
	run = ka_run_take(heap, size, align);
	pthread_mutex_unlock(&heap->lock);
	return run;
}

static bool is_empty(const struct ka_notes *notes, size_t index)
{
	const struct ka_arena *arena = ka_arena_at(notes, index);

	return arena->committed && !arena->nr_used;
}

/*
 * Give back empty arenas, but for as many as may stay: those with the lowest addresses,
 * where the next runs are looked for.
 */
static void release_empty(struct ka_heap *heap)
{
	struct ka_notes *notes = heap->notes;
	size_t end = notes->nr_touched;

	while (notes->nr_empty > heap->most_empty) {
		size_t first, most = notes->nr_empty - heap->most_empty;

		while (!is_empty(notes, end - 1))
			end--;
		first = end - 1;
		while (end - first < most && first > notes->nr_notes &&
		       is_empty(notes, first - 1))
			first--;
		forget_arenas(heap, first, end - first);
		end = first;
	}
}

static void run_free(struct ka_heap *heap, size_t page)
{
	size_t pages = run_pages(heap, page);

	ka_notes_change(heap);
	change_head(heap, page, false);
	mark_pages(heap, page, pages, false);
	heap->notes->stats.runs--;
	release_empty(heap);
	ka_notes_change(heap);
}

/**
 * ka_run_give() - Give a run back, with the heap's lock held.
 * @heap: The heap.
 * @run: The run.
 */
void ka_run_give(struct ka_heap *heap, void *run)
{
	run_free(heap, run_page(heap, run));
}

int ka_run_free(struct ka_heap *heap, void *run)
{
	size_t page;

	if (!run)
		return 0;
	if (ka_refuse_inherited(heap))
		return -1;
	pthread_mutex_lock(&heap->lock);
	page = run_page(heap, run);
	if (page != NO_PAGE)
		run_free(heap, page);
	pthread_mutex_unlock(&heap->lock);
	if (page == NO_PAGE)
		return ka_fail(EINVAL, "no run begins at %p", run);
	return 0;
}

size_t ka_run_size(struct ka_heap *heap, const void *run)
{
	size_t page, pages = 0;

	if (ka_refuse_inherited(heap))
		return 0;
	pthread_mutex_lock(&heap->lock);
	page = run_page(heap, run);
	if (page != NO_PAGE)
		pages = run_pages(heap, page);
	pthread_mutex_unlock(&heap->lock);
	if (page == NO_PAGE)
		ka_fail(EINVAL, "no run begins at %p", run);
	return pages * KA_PAGE_SIZE;
}

/* Pages behind a run, in the arena that it ends in: whether they could be added. */
static bool run_grow(struct ka_heap *heap, size_t end, size_t pages)
{
	struct ka_arena *arena = ka_arena_at(heap->notes, end / KA_ARENA_PAGES);
	size_t from = end % KA_ARENA_PAGES;

	/* Where an arena ends, the next may not even be committed. */
	if (!from || from + pages > KA_ARENA_PAGES ||
	    ka_find_bit(arena->used, from, true) < from + pages ||
	    commit_part(heap, end / KA_ARENA_PAGES, from + pages))
		return false;
	mark_pages(heap, end, pages, true);
	return true;
}

static void run_shrink(struct ka_heap *heap, size_t end, size_t pages)
{
	mark_pages(heap, end - pages, pages, false);
	release_empty(heap);
}

/**
 * ka_run_resize() - Change a run's size where it is.
 * @heap: The heap.
 * @run: The run.
 * @size: Bytes, more than 0; rounded up to whole pages.
 *
 * Return: Whether it has that size from now on.
 */
bool ka_run_resize(struct ka_heap *heap, void *run, size_t size)
{
	size_t pages = size / KA_PAGE_SIZE + !!(size % KA_PAGE_SIZE), page, old;
	bool done = true;

	if (ka_refuse_inherited(heap))
		return false;
	pthread_mutex_lock(&heap->lock);
	page = run_page(heap, run);
	if (page != NO_PAGE) {
		ka_notes_change(heap);
		old = run_pages(heap, page);
		if (pages > old)
			done = run_grow(heap, page + old, pages - old);
		else if (pages < old)
			run_shrink(heap, page + old, old - pages);
		ka_notes_change(heap);
	}
	pthread_mutex_unlock(&heap->lock);
	return page != NO_PAGE && done;
}
