// SPDX-License-Identifier: MIT
/*
 * Runs: consecutive pages of an arena, or of several. Found first fit, lowest
 * address first, so that the upper arenas can drain; which pages are taken stands
 * in two bits a page of the notes at the window's start.
 */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "trace/trace.h"

#define NO_PAGE		((size_t)-1)

/* A place for @pages at a multiple of @align pages in an arena, or NO_PAGE. */
static size_t find_in_arena(struct ka_arena *arena, size_t pages, size_t align)
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

/* Arenas that have got free pages since the last search have room for any run. */
static void look_again(struct ka_heap *heap)
{
	size_t again = heap->room_again;

	if (again == SIZE_MAX)
		return;
	for (int i = 0; i < KA_ROOM_CLASSES; i++) {
		if (again < heap->first_room[i])
			heap->first_room[i] = again;
	}
	heap->room_again = SIZE_MAX;
}

/* Of what is not dense, no further page is to be where one is a whole huge page. */
static size_t find_in_committed(struct ka_heap *heap, size_t pages, size_t align,
				bool no_huge)
{
	unsigned int class = 63 - (unsigned int)__builtin_clzl(pages);
	size_t *first = &heap->first_room[class], i;
	struct ka_notes *notes = heap->notes;
	bool before = true;

	look_again(heap);
	i = *first > notes->nr_notes ? *first : notes->nr_notes;
	for (; i < notes->nr_touched; i++) {
		struct ka_arena *arena = ka_arena_at(notes, i);
		size_t page = no_huge && arena->huge ? NO_PAGE :
			      find_in_arena(arena, pages, align);

		if (page != NO_PAGE)
			return i * KA_ARENA_PAGES + page;
		/* The next search can begin behind those that have too few. */
		before &= !arena->nr_backed || arena->nr_used == KA_ARENA_PAGES ||
			  arena->longest < (size_t)1 << class;
		if (before)
			*first = i + 1;
	}
	return NO_PAGE;
}

/* Whole arenas in a row without a run, committed or not, or NO_PAGE. */
static size_t find_arenas(struct ka_heap *heap, size_t count, size_t align)
{
	const struct ka_notes *notes = heap->notes;
	/* The window's start is aligned to an arena, perhaps to no more. */
	uintptr_t base = (uintptr_t)heap->window.start / KA_ARENA_SIZE;
	size_t nr_arenas = heap->window.nr_arenas, first;

	if (heap->first_empty < notes->nr_notes)
		heap->first_empty = notes->nr_notes;
	while (heap->first_empty < notes->nr_touched &&
	       ka_arena_at(notes, heap->first_empty)->nr_used)
		heap->first_empty++;
	first = heap->first_empty;
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

/* Pages that had been free, some of them idle, are in use, and so they are touched. */
static void take_pages(struct ka_heap *heap, struct ka_arena *arena, size_t from,
		       size_t pages)
{
	size_t idle = ka_count_bits(arena->touched, from, pages);

	heap->idle -= idle;
	ka_arenas_refilled(heap, pages - idle);
	if (heap->idle < heap->least_idle)
		heap->least_idle = heap->idle;
	if (!arena->nr_used)
		heap->notes->nr_empty--;
	ka_change_bits(arena->touched, from, pages, true);
	arena->nr_used = (uint16_t)(arena->nr_used + pages);
}

/* Pages are free, and idle. */
static void free_pages(struct ka_heap *heap, size_t index, size_t pages)
{
	struct ka_arena *arena = ka_arena_at(heap->notes, index);

	heap->idle += pages;
	if (index < heap->room_again)
		heap->room_again = index;
	arena->longest = KA_ARENA_PAGES;
	arena->nr_used = (uint16_t)(arena->nr_used - pages);
	if (arena->nr_used)
		return;
	if (index < heap->first_empty)
		heap->first_empty = index;
	heap->notes->nr_empty++;
	ka_arena_emptied(heap, index);
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

		ka_change_bits(arena->used, from, here, used);
		if (used)
			take_pages(heap, arena, from, here);
		else
			free_pages(heap, page / KA_ARENA_PAGES, here);
		page += here;
		pages -= here;
	}
}

/* A place in the committed arenas, and what it needs is committed; or NO_PAGE. */
static size_t find_place(struct ka_heap *heap, size_t pages, size_t align,
			 enum ka_pages kind, int *error)
{
	size_t page;

	do {
		page = NO_PAGE;
		if (kind == KA_PAGES_SMALL)
			page = find_in_committed(heap, pages, align, true);
		if (page == NO_PAGE)
			page = find_in_committed(heap, pages, align, false);
		if (page == NO_PAGE)
			return NO_PAGE;
		*error = ka_arena_use(heap, page / KA_ARENA_PAGES, page % KA_ARENA_PAGES,
				      pages);
	} while (*error > 0);
	return page;
}

static size_t run_find(struct ka_heap *heap, size_t pages, size_t align, enum ka_pages kind)
{
	size_t page = NO_PAGE, first, count;
	size_t arena_align = align > KA_ARENA_PAGES ? align / KA_ARENA_PAGES : 1;
	int error = 0;

	/* A run that fits into an arena lies in one. */
	if (pages <= KA_ARENA_PAGES && align <= KA_ARENA_PAGES)
		page = find_place(heap, pages, align, kind, &error);
	if (page != NO_PAGE)
		return error ? NO_PAGE : page;
	count = (pages + KA_ARENA_PAGES - 1) / KA_ARENA_PAGES;
	while ((first = find_arenas(heap, count, arena_align)) != NO_PAGE) {
		if (!ka_arenas_commit(heap, first, count, pages, kind))
			return first * KA_ARENA_PAGES;
		if (errno != EEXIST)
			return NO_PAGE;
		if (!ka_arenas_block(heap, first, count))
			break;
	}
	ka_fail(ENOMEM, "the window of %zu MiB has no room for a run of %zu KiB",
		(heap->window.nr_arenas - heap->window.nr_notes) * (KA_ARENA_SIZE / KA_MIB),
		pages * (KA_PAGE_SIZE / 1024));
	return NO_PAGE;
}

/* Whether nothing in a run's pages has been in use since they were committed. */
static bool is_untouched(const struct ka_heap *heap, size_t page, size_t pages)
{
	while (pages) {
		const struct ka_arena *arena =
			ka_arena_at(heap->notes, page / KA_ARENA_PAGES);
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

/* Whether a run is a spare pool's. */
static bool is_spare(const struct ka_heap *heap, const void *run)
{
	size_t slot = ka_slot_of(heap, run);

	return heap->nr_spare && (uintptr_t)run % KA_SLOT_SIZE == 0 &&
	       ka_notes_have_pool(heap, slot) &&
	       __atomic_load_n(&heap->pools[slot].owner, __ATOMIC_RELAXED) == KA_SPARE;
}

/* Which page of the window a run begins with, or NO_PAGE; pools are not the caller's. */
static size_t run_page(const struct ka_heap *heap, const void *run)
{
	size_t offset = (uintptr_t)run - (uintptr_t)heap->window.start;
	size_t page = offset / KA_PAGE_SIZE;
	const struct ka_pool *pool = ka_pool_of(heap, run);

	if (pool != &ka_no_pool || !ka_heap_contains(heap, run) || offset % KA_PAGE_SIZE ||
	    page / KA_ARENA_PAGES >= heap->notes->nr_touched ||
	    !ka_arena_at(heap->notes, page / KA_ARENA_PAGES)->nr_backed ||
	    !ka_test_bit(ka_arena_at(heap->notes, page / KA_ARENA_PAGES)->head,
			 page % KA_ARENA_PAGES) || is_spare(heap, run))
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

bool ka_fail_inherited(void)
{
	ka_fail(EOWNERDEAD, "the heap is the parent's: it is not copied at fork");
	return true;
}

static void change_head(struct ka_heap *heap, size_t page, bool head)
{
	ka_change_bits(ka_arena_at(heap->notes, page / KA_ARENA_PAGES)->head,
		       page % KA_ARENA_PAGES, 1, head);
}

static size_t run_take(struct ka_heap *heap, size_t pages, size_t align,
		       enum ka_pages kind, bool *zero)
{
	size_t page;

	ka_notes_change(heap);
	page = run_find(heap, pages, align, kind);
	if (page != NO_PAGE) {
		if (zero)
			*zero = is_untouched(heap, page, pages);
		change_head(heap, page, true);
		mark_pages(heap, page, pages, true);
		heap->notes->stats.runs++;
	}
	ka_notes_change(heap);
	return page;
}

/**
 * ka_run_take() - Take a run, with the heap's lock held.
 * @heap: The heap.
 * @size: Whole pages, in bytes.
 * @align: A power of two, in bytes; or 0.
 * @kind: What its pages may be.
 * @zero: Whether it is all zero; or NULL.
 *
 * Return: The run, or NULL with errno and a sentence.
 */
void *ka_run_take(struct ka_heap *heap, size_t size, size_t align, enum ka_pages kind,
		  bool *zero)
{
	size_t pages = size / KA_PAGE_SIZE, page, spare;

	align = align > KA_PAGE_SIZE ? align / KA_PAGE_SIZE : 1;
	page = run_take(heap, pages, align, kind, zero);
	/* Memory that is kept for nobody may be what is missing, or room in arenas. */
	spare = heap->nr_spare;
	if (page == NO_PAGE && (ka_arenas_trim(heap, NULL) || spare))
		page = run_take(heap, pages, align, kind, zero);
	return page == NO_PAGE ? NULL : heap->window.start + page * KA_PAGE_SIZE;
}

/* A program may use a few pages of a large run: whether these are huge, others say. */
static enum ka_pages pages_for(size_t size)
{
	return size >= KA_ARENA_SIZE ? KA_PAGES_ANY : KA_PAGES_SMALL;
}

/**
 * ka_run_zeroed() - Take a run that is all zero.
 * @heap: The heap.
 * @size: Whole pages, in bytes.
 * @align: A power of two, in bytes; or 0.
 *
 * Return: The run, or NULL with errno and a sentence.
 */
void *ka_run_zeroed(struct ka_heap *heap, size_t size, size_t align)
{
	bool zero;
	void *run;

	if (ka_refuse_inherited(heap))
		return NULL;
	ka_heap_lock(heap);
	run = ka_run_take(heap, size, align, pages_for(size), &zero);
	ka_heap_unlock(heap);
	return run && !zero ? memset(run, 0, size) : run;
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
	ka_heap_lock(heap);
	run = ka_run_take(heap, size, align, pages_for(size), NULL);
	ka_stats_changed(heap);
	ka_heap_unlock(heap);
	return run;
}

static void run_free(struct ka_heap *heap, size_t page)
{
	size_t pages = run_pages(heap, page);

	ka_notes_change(heap);
	change_head(heap, page, false);
	mark_pages(heap, page, pages, false);
	heap->notes->stats.runs--;
	ka_arenas_emptied(heap);
	ka_notes_change(heap);
}

/**
 * ka_run_give() - Give a run back, with the heap's lock held.
 * @heap: The heap.
 * @run: The run.
 *
 * What decays then is the caller's: it may itself be giving up what has decayed.
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
	/* Before others can have it. */
	if (__builtin_expect(KA_READ(ka_trace_nr_runs) > 0, 0))
		ka_trace_run_freed(run);
	ka_heap_lock(heap);
	page = run_page(heap, run);
	if (page != NO_PAGE) {
		run_free(heap, page);
		ka_arenas_decay(heap);
	}
	ka_stats_changed(heap);
	ka_heap_unlock(heap);
	if (page == NO_PAGE)
		return ka_fail(EINVAL, "no run begins at %p", run);
	return 0;
}

size_t ka_run_size(struct ka_heap *heap, const void *run)
{
	size_t page, pages = 0;

	if (ka_refuse_inherited(heap))
		return 0;
	ka_heap_lock(heap);
	page = run_page(heap, run);
	if (page != NO_PAGE)
		pages = run_pages(heap, page);
	ka_heap_unlock(heap);
	if (page == NO_PAGE)
		ka_fail(EINVAL, "no run begins at %p", run);
	return pages * KA_PAGE_SIZE;
}

/* Whether some arenas have no run. */
static bool are_empty(const struct ka_heap *heap, size_t first, size_t count)
{
	const struct ka_notes *notes = heap->notes;

	if (count > heap->window.nr_arenas - first)
		return false;
	for (size_t i = first; i < first + count && i < notes->nr_touched; i++) {
		if (ka_arena_at(notes, i)->nr_used)
			return false;
	}
	return true;
}

/* Pages behind a run, in the arena that it ends in and in others: whether they were added. */
static bool run_grow(struct ka_heap *heap, size_t end, size_t pages)
{
	size_t index = end / KA_ARENA_PAGES, from = end % KA_ARENA_PAGES;
	size_t here = from ? KA_ARENA_PAGES - from : 0, rest, count = 0;

	here = here < pages ? here : pages;
	rest = pages - here;
	if (rest)
		count = (rest + KA_ARENA_PAGES - 1) / KA_ARENA_PAGES;
	if (here && ka_find_bit(ka_arena_at(heap->notes, index)->used, from, true) < from + here)
		return false;
	/* The first arena that is all the run's. */
	index += !!from;
	if (count && (!are_empty(heap, index, count) ||
		      ka_arenas_commit(heap, index, count, rest, KA_PAGES_ANY)))
		return false;
	if (here && ka_arena_commit_pages(heap, index - 1, from, here))
		return false;
	mark_pages(heap, end, pages, true);
	return true;
}

/*
 * The same, so that the run has @pages. One that is larger than an arena is likely to grow
 * on, and takes all of its last one, where nothing else comes to lie in its way.
 */
static bool run_grow_to(struct ka_heap *heap, size_t page, size_t old, size_t pages)
{
	size_t roomy;

	if (pages >= KA_ARENA_PAGES) {
		roomy = ((page + pages + KA_ARENA_PAGES - 1) & ~(KA_ARENA_PAGES - 1)) - page;
		if (run_grow(heap, page + old, roomy - old))
			return true;
	}
	return run_grow(heap, page + old, pages - old);
}

static void run_shrink(struct ka_heap *heap, size_t end, size_t pages)
{
	mark_pages(heap, end - pages, pages, false);
	ka_arenas_emptied(heap);
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
	ka_heap_lock(heap);
	page = run_page(heap, run);
	if (page != NO_PAGE) {
		ka_notes_change(heap);
		old = run_pages(heap, page);
		if (pages > old)
			done = run_grow_to(heap, page, old, pages);
		else if (pages < old)
			run_shrink(heap, page + old, old - pages);
		ka_notes_change(heap);
		if (pages < old)
			ka_arenas_decay(heap);
	}
	ka_stats_changed(heap);
	ka_heap_unlock(heap);
	return page != NO_PAGE && done;
}

/* Pages have no content any more; @lost: and are not mapped. */
static void forget_pages(struct ka_heap *heap, size_t page, size_t pages, bool lost)
{
	while (pages) {
		size_t index = page / KA_ARENA_PAGES, from = page % KA_ARENA_PAGES;
		size_t here = KA_ARENA_PAGES - from < pages ? KA_ARENA_PAGES - from : pages;

		if (lost)
			ka_arena_pages_lost(heap, index, from, here);
		else
			ka_change_bits(ka_arena_at(heap->notes, index)->touched, from, here,
				       false);
		page += here;
		pages -= here;
	}
}

/* Free a run whose first @gone pages have no content any more; @lost: and are not mapped. */
static void free_without(struct ka_heap *heap, void *run, size_t gone, bool lost)
{
	size_t page;

	ka_heap_lock(heap);
	page = run_page(heap, run);
	gone = gone ? gone : run_pages(heap, page);
	forget_pages(heap, page, gone, false);
	/* As free ones, which they are soon, they are not idle. */
	heap->idle -= gone;
	run_free(heap, page);
	if (lost)
		forget_pages(heap, page, gone, true);
	ka_arenas_decay(heap);
	ka_stats_changed(heap);
	ka_heap_unlock(heap);
}

/**
 * ka_run_move() - Let another run have a run's content, by its pages, and free the run.
 * @heap: The heap.
 * @run: The run.
 * @other: The other one, which has been in use for nothing.
 * @size: Bytes of the first, all of which the other has room for.
 *
 * Return: KA_MOVED; KA_NOT_MOVED, nothing has been done; or KA_NOWHERE with errno and a
 * sentence: the other run is free, as there are no addresses left for its pages, and the
 * first is as it was.
 */
enum ka_moved ka_run_move(struct ka_heap *heap, void *run, void *other, size_t size)
{
	enum ka_moved moved = KA_NOT_MOVED;

	/* Without the lock: both are the caller's. */
	if (heap->window.source->move && !heap->window.io &&
	    heap->window.fork != KA_FORK_SHARE)
		moved = heap->window.source->move(&heap->window, run, other, size);
	if (moved == KA_MOVED) {
		if (__builtin_expect(KA_READ(ka_trace_nr_runs) > 0, 0))
			ka_trace_run_freed(run);
		free_without(heap, run, 0, false);
	} else if (moved == KA_NOWHERE) {
		if (__builtin_expect(KA_READ(ka_trace_nr_runs) > 0, 0))
			ka_trace_run_freed(other);
		free_without(heap, other, size / KA_PAGE_SIZE, true);
		ka_fail(ENOMEM, "no memory to move %zu KiB (see ulimit -v)", size / 1024);
	}
	return moved;
}
