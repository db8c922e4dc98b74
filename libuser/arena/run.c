// SPDX-License-Identifier: MIT
/*
 * Runs: consecutive pages of an arena, or of several. The search is first fit from the lowest
 * address on, so that the upper arenas become empty. Two bits for each page in the metadata record
 * the runs.
 */
#include <errno.h>

#include "base/bits.h"
#include "arena/arena.h"

#define NO_PAGE		((size_t)-1)

/* Find @pages free pages at a multiple of @align pages in an arena, or return NO_PAGE. */
static size_t place_find_in_arena(struct ka_arena *arena, size_t pages, size_t align)
{
	size_t end = 0, longest = 0;

	if (!arena->nr_backed || pages > arena->longest)
		return NO_PAGE;
	while (end < KA_ARENA_PAGES) {
		size_t from = ka_find_bit(arena->used, end, false);
		size_t aligned = (from + align - 1) & ~(align - 1);

		end = ka_find_bit(arena->used, from, true);
		if (aligned + pages <= end)
			return aligned;
		longest = end - from > longest ? end - from : longest;
	}
	arena->longest = (uint16_t)longest;
	return NO_PAGE;
}

/*
 * Find a place in the committed arenas, or return NO_PAGE. @no_huge: keep runs that may be
 * touched sparsely out of huge arenas.
 */
static size_t place_find_in_committed(struct ka_arenas *arenas, size_t pages, size_t align,
				      bool no_huge)
{
	unsigned int class = 63 - (unsigned int)__builtin_clzl(pages);
	size_t *first = &arenas->first_room[class], i;
	struct ka_metadata *metadata = arenas->metadata;
	size_t again = arenas->room_again;
	bool before = true;

	/* Search again the arenas whose pages have become free since the last search. */
	if (again != SIZE_MAX) {
		for (int room = 0; room < KA_ROOM_CLASSES; room++) {
			if (again < arenas->first_room[room])
				arenas->first_room[room] = again;
		}
		arenas->room_again = SIZE_MAX;
	}
	i = *first > metadata->nr_metadata ? *first : metadata->nr_metadata;
	for (; i < metadata->nr_touched; i++) {
		struct ka_arena *arena = ka_arena_at(metadata, i);
		size_t page = no_huge && arena->huge ? NO_PAGE :
			      place_find_in_arena(arena, pages, align);

		if (page != NO_PAGE)
			return i * KA_ARENA_PAGES + page;
		/* The next search can begin behind arenas that have too few free pages. */
		before &= !arena->nr_backed || arena->nr_used == KA_ARENA_PAGES ||
			  arena->longest < (size_t)1 << class;
		if (before)
			*first = i + 1;
	}
	return NO_PAGE;
}

/* Find a row of whole arenas without a run, committed or not, or return NO_PAGE. */
static size_t place_find_arenas(struct ka_arenas *arenas, size_t count, size_t align)
{
	const struct ka_metadata *metadata = arenas->metadata;
	/* The window's start may be aligned to no more than an arena. */
	uintptr_t base = (uintptr_t)arenas->window.start / KA_ARENA_SIZE;
	size_t nr_arenas = arenas->window.nr_arenas, first;

	if (arenas->first_empty < metadata->nr_metadata)
		arenas->first_empty = metadata->nr_metadata;
	while (arenas->first_empty < metadata->nr_touched &&
	       ka_arena_at(metadata, arenas->first_empty)->nr_used)
		arenas->first_empty++;
	first = arenas->first_empty;
	first += -(base + first) & (align - 1);
	while (first < nr_arenas && count <= nr_arenas - first) {
		size_t i = first + count;

		while (i > first && (i > metadata->nr_touched ||
				     !ka_arena_at(metadata, i - 1)->nr_used))
			i--;
		if (i == first)
			return first;
		/* Arena i - 1 is in use; continue behind it. */
		first = ((base + i + align - 1) & ~(uintptr_t)(align - 1)) - base;
	}
	return NO_PAGE;
}

/* Count free pages as used and touched. Some of them may be idle. */
static void pages_use(struct ka_arenas *arenas, struct ka_arena *arena, size_t from,
		      size_t pages)
{
	size_t idle = ka_count_bits(arena->touched, from, pages);

	arenas->idle -= idle;
	ka_arenas_refilled(arenas, pages - idle);
	if (arenas->idle < arenas->least_idle)
		arenas->least_idle = arenas->idle;
	if (!arena->nr_used)
		arenas->metadata->nr_empty--;
	ka_change_bits(arena->touched, from, pages, true);
	arena->nr_used = (uint16_t)(arena->nr_used + pages);
}

/* Count used pages as free and idle. */
static void pages_free(struct ka_arenas *arenas, size_t index, size_t pages)
{
	struct ka_arena *arena = ka_arena_at(arenas->metadata, index);

	arenas->idle += pages;
	if (index < arenas->room_again)
		arenas->room_again = index;
	arena->longest = KA_ARENA_PAGES;
	arena->nr_used = (uint16_t)(arena->nr_used - pages);
	if (arena->nr_used)
		return;
	if (index < arenas->first_empty)
		arenas->first_empty = index;
	arenas->metadata->nr_empty++;
	ka_arena_emptied(arenas, index);
}

/* Mark pages, which may lie in several arenas, as used or free. */
static void pages_mark(struct ka_arenas *arenas, size_t page, size_t pages, bool used)
{
	struct ka_metadata *metadata = arenas->metadata;

	metadata->stats.run_bytes += (used ? pages : -pages) * KA_PAGE_SIZE;
	while (pages) {
		struct ka_arena *arena = ka_arena_at(metadata, page / KA_ARENA_PAGES);
		size_t from = page % KA_ARENA_PAGES;
		size_t here = KA_ARENA_PAGES - from < pages ?
			      KA_ARENA_PAGES - from : pages;

		ka_change_bits(arena->used, from, here, used);
		if (used)
			pages_use(arenas, arena, from, here);
		else
			pages_free(arenas, page / KA_ARENA_PAGES, here);
		page += here;
		pages -= here;
	}
}

/* Find a place in the committed arenas and commit its pages; or return NO_PAGE. */
static size_t place_find(struct ka_arenas *arenas, size_t pages, size_t align,
			 enum ka_pages kind, int *error)
{
	size_t page;

	do {
		page = NO_PAGE;
		if (kind == KA_PAGES_SMALL)
			page = place_find_in_committed(arenas, pages, align, true);
		if (page == NO_PAGE)
			page = place_find_in_committed(arenas, pages, align, false);
		if (page == NO_PAGE)
			return NO_PAGE;
		*error = ka_arena_use(arenas, page / KA_ARENA_PAGES, page % KA_ARENA_PAGES,
				      pages, kind);
	} while (*error > 0);
	return page;
}

static size_t run_find(struct ka_arenas *arenas, size_t pages, size_t align, enum ka_pages kind)
{
	size_t page = NO_PAGE, first, count;
	size_t arena_align = align > KA_ARENA_PAGES ? align / KA_ARENA_PAGES : 1;
	int error = 0;

	/* A run that fits into an arena lies in one. */
	if (pages <= KA_ARENA_PAGES && align <= KA_ARENA_PAGES)
		page = place_find(arenas, pages, align, kind, &error);
	if (page != NO_PAGE)
		return error ? NO_PAGE : page;
	count = (pages + KA_ARENA_PAGES - 1) / KA_ARENA_PAGES;
	while ((first = place_find_arenas(arenas, count, arena_align)) != NO_PAGE) {
		if (!ka_arenas_commit(arenas, first, count, pages, kind))
			return first * KA_ARENA_PAGES;
		if (errno != EEXIST)
			return NO_PAGE;
		if (!ka_arenas_block(arenas, first, count))
			break;
	}
	ka_fail(ENOMEM, "the window of %zu MiB has no room for a run of %zu KiB",
		(arenas->window.nr_arenas - arenas->window.nr_metadata) * (KA_ARENA_SIZE / KA_MIB),
		pages * (KA_PAGE_SIZE / 1024));
	return NO_PAGE;
}

/* True if no page of a run has been in use since it was committed or purged. */
static bool pages_are_untouched(const struct ka_arenas *arenas, size_t page, size_t pages)
{
	while (pages) {
		const struct ka_arena *arena =
			ka_arena_at(arenas->metadata, page / KA_ARENA_PAGES);
		size_t from = page % KA_ARENA_PAGES;
		size_t here = KA_ARENA_PAGES - from < pages ?
			      KA_ARENA_PAGES - from : pages;

		if (ka_count_bits(arena->touched, from, here))
			return false;
		page += here;
		pages -= here;
	}
	return true;
}

/* The page of the window that a run begins with. */
static size_t run_page(const struct ka_arenas *arenas, const void *run)
{
	return ((uintptr_t)run - (uintptr_t)arenas->window.start) / KA_PAGE_SIZE;
}

/**
 * ka_run_begins() - Check if a run begins at an address.
 * @arenas: The arenas of the heap.
 * @address: Any address.
 *
 * Context: The heap's lock is held.
 *
 * Return: True if a run of the program or of a pool begins there.
 */
bool ka_run_begins(const struct ka_arenas *arenas, const void *address)
{
	size_t page = run_page(arenas, address), index = page / KA_ARENA_PAGES;
	const struct ka_arena *arena;

	if (!ka_window_contains(&arenas->window, address) ||
	    (uintptr_t)address % KA_PAGE_SIZE || index >= arenas->metadata->nr_touched)
		return false;
	arena = ka_arena_at(arenas->metadata, index);
	return arena->nr_backed && ka_test_bit(arena->head, page % KA_ARENA_PAGES);
}

/* Number of pages of a run: up to the next head or the next free page. */
static size_t run_pages(const struct ka_arenas *arenas, size_t page)
{
	const struct ka_metadata *metadata = arenas->metadata;
	size_t end = page + 1;

	for (;;) {
		const struct ka_arena *arena = ka_arena_at(metadata, end / KA_ARENA_PAGES);
		size_t from = end % KA_ARENA_PAGES, head, unused;

		/* The entry behind the last touched one may not exist. */
		if (end / KA_ARENA_PAGES >= metadata->nr_touched)
			break;
		head = ka_find_bit(arena->head, from, true);
		unused = ka_find_bit(arena->used, from, false);
		end += (head < unused ? head : unused) - from;
		if (end % KA_ARENA_PAGES || head == from || unused == from)
			break;
	}
	return end - page;
}

/**
 * ka_run_bytes() - Get the size of a run.
 * @arenas: The arenas of the heap.
 * @run: The run.
 *
 * Context: The heap's lock is held.
 *
 * Return: Bytes.
 */
size_t ka_run_bytes(const struct ka_arenas *arenas, const void *run)
{
	return run_pages(arenas, run_page(arenas, run)) * KA_PAGE_SIZE;
}

static void run_change_head(struct ka_arenas *arenas, size_t page, bool head)
{
	ka_change_bits(ka_arena_at(arenas->metadata, page / KA_ARENA_PAGES)->head,
		       page % KA_ARENA_PAGES, 1, head);
}

static size_t run_alloc(struct ka_arenas *arenas, size_t pages, size_t align,
			enum ka_pages kind, bool *zero)
{
	size_t page;

	ka_metadata_change(arenas);
	page = run_find(arenas, pages, align, kind);
	if (page != NO_PAGE) {
		if (zero)
			*zero = pages_are_untouched(arenas, page, pages);
		run_change_head(arenas, page, true);
		pages_mark(arenas, page, pages, true);
		arenas->metadata->stats.runs++;
	}
	ka_metadata_change(arenas);
	return page;
}

/**
 * ka_run_alloc_locked() - Allocate a run.
 * @arenas: The arenas of the heap.
 * @size: Whole pages, in bytes.
 * @align: A power of two, in bytes; or 0.
 * @kind: The pages that the run should have.
 * @zero: Set to true if the run is all zero; or NULL.
 *
 * Context: The heap's lock is held.
 *
 * Return: The run, or NULL with errno and a message.
 */
void *ka_run_alloc_locked(struct ka_arenas *arenas, size_t size, size_t align, enum ka_pages kind,
			  bool *zero)
{
	size_t pages = size / KA_PAGE_SIZE, page, spare;

	align = align > KA_PAGE_SIZE ? align / KA_PAGE_SIZE : 1;
	page = run_alloc(arenas, pages, align, kind, zero);
	/*
	 * Trim and try again: free pages and spare runs may keep the missing memory, or room in
	 * arenas.
	 */
	spare = arenas->spare_pages;
	if (page == NO_PAGE && (ka_arenas_trim(arenas, NULL) || spare))
		page = run_alloc(arenas, pages, align, kind, zero);
	return page == NO_PAGE ? NULL : arenas->window.start + page * KA_PAGE_SIZE;
}

/*
 * Mark a run as free. The caller has begun a change of the metadata, and calls
 * ka_arenas_emptied().
 */
static void run_clear(struct ka_arenas *arenas, size_t page)
{
	size_t pages = run_pages(arenas, page);

	run_change_head(arenas, page, false);
	pages_mark(arenas, page, pages, false);
	arenas->metadata->stats.runs--;
}

static void run_free(struct ka_arenas *arenas, size_t page)
{
	ka_metadata_change(arenas);
	run_clear(arenas, page);
	ka_arenas_emptied(arenas);
	ka_metadata_change(arenas);
}

/**
 * ka_runs_forget() - Free all runs of a heap.
 * @arenas: The arenas of the heap. None of the runs is a pool.
 *
 * Context: The heap's lock is held.
 */
void ka_runs_forget(struct ka_arenas *arenas)
{
	const struct ka_metadata *metadata = arenas->metadata;

	ka_metadata_change(arenas);
	for (size_t i = metadata->nr_metadata; i < metadata->nr_touched; i++) {
		const struct ka_arena *arena = ka_arena_at(metadata, i);
		size_t head;

		/* A blocked arena contains another mapping, and is marked as if it had a run. */
		while (arena->nr_backed &&
		       (head = ka_find_bit(arena->head, 0, true)) < KA_ARENA_PAGES)
			run_clear(arenas, i * KA_ARENA_PAGES + head);
	}
	ka_arenas_emptied(arenas);
	ka_metadata_change(arenas);
}

/**
 * ka_run_free_locked() - Free a run.
 * @arenas: The arenas of the heap.
 * @run: The run.
 *
 * Context: The heap's lock is held. The caller then calls ka_arenas_decay(), unless that
 * function is the caller.
 */
void ka_run_free_locked(struct ka_arenas *arenas, void *run)
{
	run_free(arenas, run_page(arenas, run));
}

/* True if none of @count arenas has a run. */
static bool arenas_are_empty(const struct ka_arenas *arenas, size_t first, size_t count)
{
	const struct ka_metadata *metadata = arenas->metadata;

	if (count > arenas->window.nr_arenas - first)
		return false;
	for (size_t i = first; i < first + count && i < metadata->nr_touched; i++) {
		if (ka_arena_at(metadata, i)->nr_used)
			return false;
	}
	return true;
}

/*
 * Add pages behind a run, in the arena where it ends and in the next ones. False: not possible.
 */
static bool run_grow(struct ka_arenas *arenas, size_t end, size_t pages)
{
	size_t index = end / KA_ARENA_PAGES, from = end % KA_ARENA_PAGES;
	size_t here = from ? KA_ARENA_PAGES - from : 0, rest, count = 0;

	here = here < pages ? here : pages;
	rest = pages - here;
	if (rest)
		count = (rest + KA_ARENA_PAGES - 1) / KA_ARENA_PAGES;
	if (here &&
	    ka_find_bit(ka_arena_at(arenas->metadata, index)->used, from, true) < from + here)
		return false;
	/* The first arena that belongs to the run as a whole. */
	index += !!from;
	if (count && (!arenas_are_empty(arenas, index, count) ||
		      ka_arenas_commit(arenas, index, count, rest, KA_PAGES_ANY)))
		return false;
	if (here && ka_arena_commit_pages(arenas, index - 1, from, here))
		return false;
	pages_mark(arenas, end, pages, true);
	return true;
}

/*
 * Grow a run to @pages pages. A run larger than an arena is likely to grow again, so it gets
 * all of its last arena, where no other run can then block it.
 */
static bool run_grow_to(struct ka_arenas *arenas, size_t page, size_t old, size_t pages)
{
	size_t roomy;

	if (pages >= KA_ARENA_PAGES) {
		roomy = ((page + pages + KA_ARENA_PAGES - 1) & ~(KA_ARENA_PAGES - 1)) - page;
		if (run_grow(arenas, page + old, roomy - old))
			return true;
	}
	return run_grow(arenas, page + old, pages - old);
}

/**
 * ka_run_resize() - Change the size of a run in place.
 * @arenas: The arenas of the heap.
 * @run: The run.
 * @size: Bytes, more than 0; rounded up to whole pages.
 * @less: Set to true if pages have become free.
 *
 * Context: The heap's lock is held.
 *
 * Return: True if the run has that size now.
 */
bool ka_run_resize(struct ka_arenas *arenas, void *run, size_t size, bool *less)
{
	size_t pages = size / KA_PAGE_SIZE + !!(size % KA_PAGE_SIZE);
	size_t page = run_page(arenas, run), old = run_pages(arenas, page);
	bool done = true;

	*less = pages < old;
	ka_metadata_change(arenas);
	if (pages > old) {
		done = run_grow_to(arenas, page, old, pages);
	} else if (*less) {
		pages_mark(arenas, page + pages, old - pages, false);
		ka_arenas_emptied(arenas);
	}
	ka_metadata_change(arenas);
	return done;
}

/* Record that pages have no content any more. @lost: they are not mapped, either. */
static void pages_forget(struct ka_arenas *arenas, size_t page, size_t pages, bool lost)
{
	while (pages) {
		size_t index = page / KA_ARENA_PAGES, from = page % KA_ARENA_PAGES;
		size_t here = KA_ARENA_PAGES - from < pages ? KA_ARENA_PAGES - from : pages;

		if (lost)
			ka_arena_pages_lost(arenas, index, from, here);
		else
			ka_change_bits(ka_arena_at(arenas->metadata, index)->touched, from, here,
				       false);
		page += here;
		pages -= here;
	}
}

/**
 * ka_run_free_cleared_locked() - Free a run whose first pages have no content any more.
 * @arenas: The arenas of the heap.
 * @run: The run.
 * @size: Bytes of these pages; 0: all pages.
 * @lost: These pages are not mapped any more.
 *
 * Context: The heap's lock is held.
 */
void ka_run_free_cleared_locked(struct ka_arenas *arenas, void *run, size_t size, bool lost)
{
	size_t page = run_page(arenas, run);
	size_t cleared = size ? size / KA_PAGE_SIZE : run_pages(arenas, page);

	pages_forget(arenas, page, cleared, false);
	/* These pages are about to be freed, and then do not count as idle. */
	arenas->idle -= cleared;
	run_free(arenas, page);
	if (lost)
		pages_forget(arenas, page, cleared, true);
}
