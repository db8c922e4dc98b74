// SPDX-License-Identifier: MIT
/*
 * The notes on a heap, at the start of its window: first struct ka_notes, then an
 * entry for each arena. They have arenas of their own, which are committed page by
 * page as the heap reaches further arenas, and never released.
 */
#include <errno.h>

#include "internal.h"

/* Bytes of the notes on so many arenas, whole pages. */
size_t ka_notes_size(size_t nr_arenas)
{
	size_t size = sizeof(struct ka_notes) + nr_arenas * sizeof(struct ka_arena);

	return (size + KA_PAGE_SIZE - 1) & ~(KA_PAGE_SIZE - 1);
}

/* How many arenas the notes need on so many others, and on themselves. */
size_t ka_notes_arenas(size_t nr_arenas)
{
	const size_t room = KA_ARENA_SIZE - sizeof(struct ka_arena);

	return (sizeof(struct ka_notes) + nr_arenas * sizeof(struct ka_arena) +
		room - 1) / room;
}

/* Commit the pages of the notes from one up to another, which are not yet. */
static int commit_pages(struct ka_window *window, size_t from, size_t end)
{
	while (from < end) {
		size_t arena = from / KA_ARENA_PAGES, page = from % KA_ARENA_PAGES;
		size_t count = KA_ARENA_PAGES - page;
		int error;

		if (count > end - from)
			count = end - from;
		error = window->source->commit_pages(window, arena, page, count);
		if (error && !page)
			window->source->release(window, arena, 1);
		if (error)
			return error;
		from += count;
	}
	return 0;
}

/* Commit and fill in the notes of a new heap: 0, or -1. */
int ka_notes_open(struct ka_heap *heap)
{
	struct ka_notes *notes = (struct ka_notes *)heap->window.start;
	size_t size = ka_notes_size(heap->window.nr_notes);
	int error = commit_pages(&heap->window, 0, size / KA_PAGE_SIZE);

	if (error)
		return ka_fail(error, "no memory for the notes on a heap: the machine,"
			       " the memory cgroup, the limit of all heaps or that of"
			       " locked memory (ulimit -l) has none left");
	notes->version = KA_NOTES_VERSION;
	notes->entry_size = sizeof(struct ka_arena);
	notes->start = (uintptr_t)heap->window.start;
	notes->nr_arenas = heap->window.nr_arenas;
	notes->nr_notes = heap->window.nr_notes;
	notes->nr_touched = heap->window.nr_notes;
	notes->pages = size / KA_PAGE_SIZE;
	notes->magic = KA_NOTES_MAGIC;
	heap->notes = notes;
	return 0;
}

/*
 * Let there be an entry for each arena up to @nr_arenas: 0, or an errno. What has
 * been committed when it fails stays, for the next time.
 */
int ka_notes_reach(struct ka_heap *heap, size_t nr_arenas)
{
	size_t pages = ka_notes_size(nr_arenas) / KA_PAGE_SIZE;
	struct ka_notes *notes = heap->notes;
	int error = 0;

	while (!error && notes->pages < pages) {
		/* Up to the end of one arena: what succeeds counts. */
		size_t end = (notes->pages / KA_ARENA_PAGES + 1) * KA_ARENA_PAGES;

		if (end > pages)
			end = pages;
		error = commit_pages(&heap->window, notes->pages, end);
		if (!error)
			notes->pages = end;
	}
	return error;
}

/* Before and after a change, with the heap's lock held. */
void ka_notes_change(struct ka_heap *heap)
{
	__atomic_fetch_add(&heap->notes->sequence, 1, __ATOMIC_ACQ_REL);
}
