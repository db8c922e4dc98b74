// SPDX-License-Identifier: MIT
/*
 * Walk the runs of a heap by its metadata alone, in an image of its window: a snapshot, or the
 * window itself, mapped anywhere, perhaps read-only.
 *
 * The owner of the heap wrote the metadata and may still write to it. So the walk reads its
 * header once, and nothing in the metadata leads out of the image. Reading a page without memory
 * raises SIGBUS, if the metadata says that the page has some.
 */
#include <errno.h>
#include <string.h>

#include "arena/arena.h"
#include "base/bits.h"

/* Check that the metadata is complete, of this version, and fits into the image. */
static int metadata_check(const struct ka_metadata *metadata, size_t size)
{
	if (metadata->magic != KA_METADATA_MAGIC ||
	    metadata->version != KA_METADATA_VERSION ||
	    metadata->entry_size != sizeof(struct ka_arena))
		return -EPROTO;
	if (metadata->sequence & 1)
		return -EAGAIN;
	if (metadata->nr_arenas > size / KA_ARENA_SIZE ||
	    metadata->nr_touched > metadata->nr_arenas ||
	    metadata->nr_metadata > metadata->nr_touched ||
	    metadata->pages > metadata->nr_metadata * KA_ARENA_PAGES ||
	    ka_metadata_size(metadata->nr_touched - metadata->nr_metadata) >
	    metadata->pages * KA_PAGE_SIZE)
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
 * Return: 0; -EPROTO, the image has no metadata, that of another version, or inconsistent
 * metadata; -EAGAIN, a thread is changing the metadata.
 */
int ka_walk(const void *image, size_t size, ka_walk_t *walk, void *data)
{
	const struct ka_arena *arenas = ((const struct ka_metadata *)image)->arenas;
	size_t run = 0, page, end;
	struct ka_metadata header;
	bool in_run = false;
	int error;

	if (size < ka_metadata_size(0))
		return -EPROTO;
	memcpy(&header, image, sizeof(header));
	error = metadata_check(&header, size);
	if (error)
		return error;
	page = header.nr_metadata * KA_ARENA_PAGES;
	end = header.nr_touched * KA_ARENA_PAGES;
	for (; page < end; page++) {
		const struct ka_arena *arena = &arenas[page / KA_ARENA_PAGES - header.nr_metadata];
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
