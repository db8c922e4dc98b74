// SPDX-License-Identifier: MIT
/*
 * Walk the runs of a heap by its notes alone, in an image of its window: a snapshot, or the
 * window itself, mapped anywhere, perhaps read-only.
 *
 * The owner of the heap wrote the notes and may still write to them. So the walk reads their
 * header once, and nothing in the notes leads out of the image. Reading a page without memory
 * raises SIGBUS, if the notes say that the page has some.
 */
#include <errno.h>
#include <string.h>

#include "arena/arena.h"
#include "base/bits.h"

/* Check that the notes are complete, of this version, and fit into the image. */
static int check_notes(const struct ka_notes *notes, size_t size)
{
	if (notes->magic != KA_NOTES_MAGIC ||
	    notes->version != KA_NOTES_VERSION ||
	    notes->entry_size != sizeof(struct ka_arena))
		return -EPROTO;
	if (notes->sequence & 1)
		return -EAGAIN;
	if (notes->nr_arenas > size / KA_ARENA_SIZE ||
	    notes->nr_touched > notes->nr_arenas ||
	    notes->nr_notes > notes->nr_touched ||
	    notes->pages > notes->nr_notes * KA_ARENA_PAGES ||
	    ka_notes_size(notes->nr_touched - notes->nr_notes) > notes->pages * KA_PAGE_SIZE)
		return -EPROTO;
	return 0;
}

/**
 * ka_walk() - Call a function for each run of a heap.
 * @image: The heap's window, from its start on.
 * @size: Bytes of it that are mapped.
 * @walk: Called for each run, in the order of addresses.
 * @data: First argument of @walk.
 *
 * Return: 0; -EPROTO, these are no notes, notes of another version, or inconsistent notes;
 * -EAGAIN, a thread is changing the notes.
 */
int ka_walk(const void *image, size_t size, ka_walk_t *walk, void *data)
{
	const struct ka_arena *arenas = ((const struct ka_notes *)image)->arenas;
	size_t run = 0, page, end;
	struct ka_notes header;
	bool in_run = false;
	int error;

	if (size < ka_notes_size(0))
		return -EPROTO;
	memcpy(&header, image, sizeof(header));
	error = check_notes(&header, size);
	if (error)
		return error;
	page = header.nr_notes * KA_ARENA_PAGES;
	end = header.nr_touched * KA_ARENA_PAGES;
	for (; page < end; page++) {
		const struct ka_arena *arena = &arenas[page / KA_ARENA_PAGES - header.nr_notes];
		bool head = ka_test_bit(arena->head, page % KA_ARENA_PAGES);
		bool used = ka_test_bit(arena->used, page % KA_ARENA_PAGES);

		if (in_run && (head || !used))
			walk(data, run * KA_PAGE_SIZE, (page - run) * KA_PAGE_SIZE);
		in_run = head || (in_run && used);
		if (head)
			run = page;
	}
	if (in_run)
		walk(data, run * KA_PAGE_SIZE, (end - run) * KA_PAGE_SIZE);
	return 0;
}
