// SPDX-License-Identifier: MIT
/*
 * The metadata of a heap, at the start of its window: struct ka_metadata, with an entry for each
 * arena; and in the arenas behind these, an entry for each slot of 16 KiB that a pool may begin
 * with. Pages of the metadata are committed as the heap reaches further arenas, and are never
 * released.
 */
#include <errno.h>

#include "arena/arena.h"

static size_t whole_pages(size_t size)
{
	return (size + KA_PAGE_SIZE - 1) & ~(KA_PAGE_SIZE - 1);
}

static size_t whole_arenas(size_t size)
{
	return (size + KA_ARENA_SIZE - 1) / KA_ARENA_SIZE;
}

/* Bytes of the metadata for @nr_arenas arenas, without the entries of pools; whole pages. */
size_t ka_metadata_size(size_t nr_arenas)
{
	return whole_pages(sizeof(struct ka_metadata) + nr_arenas * sizeof(struct ka_arena));
}

/* Bytes of the entries of pools for @nr_arenas arenas; whole pages. */
size_t ka_metadata_pools_size(size_t nr_arenas)
{
	return whole_pages(nr_arenas * KA_ARENA_SLOTS * KA_SLOT_ENTRY);
}

/*
 * Bytes that the metadata may use in addition to the limit. This includes the entries of pools in
 * four times as many arenas as the limit allows; pools lie in the arenas with the lowest
 * addresses.
 */
size_t ka_metadata_most(const struct ka_window *window)
{
	size_t nr_arenas = window->nr_arenas - window->nr_metadata, pools = nr_arenas;

	if (window->limit < nr_arenas / 4)
		pools = window->limit * 4;
	return ka_metadata_size(nr_arenas) + ka_metadata_pools_size(pools);
}

/* Bytes of the committed metadata. */
size_t ka_metadata_committed(const struct ka_arenas *arenas)
{
	return (arenas->metadata->pages + arenas->metadata->pools_pages) * KA_PAGE_SIZE;
}

/* Number of arenas that the metadata needs for @nr_arenas other ones. */
size_t ka_metadata_arenas(size_t nr_arenas)
{
	return whole_arenas(ka_metadata_size(nr_arenas)) +
	       whole_arenas(ka_metadata_pools_size(nr_arenas));
}

/* Commit the uncommitted pages of the metadata in a range. */
static int metadata_commit(struct ka_window *window, size_t from, size_t end)
{
	while (from < end) {
		size_t arena = from / KA_ARENA_PAGES, page = from % KA_ARENA_PAGES;
		size_t count = KA_ARENA_PAGES - page;
		int error;

		if (count > end - from)
			count = end - from;
		error = window->source->commit_pages(window, arena, page, count);
		/* The module's state words already say that the pages are committed. */
		if (error && !page && window->source->frames)
			window->source->release(window, arena, 1);
		if (error)
			return error;
		from += count;
	}
	return 0;
}

/* Commit and initialise the metadata of a new heap: 0, or -1. */
int ka_metadata_open(struct ka_arenas *arenas)
{
	struct ka_metadata *metadata = (struct ka_metadata *)arenas->window.start;
	size_t nr_arenas = arenas->window.nr_arenas - arenas->window.nr_metadata;
	size_t size = ka_metadata_size(0);
	int error = metadata_commit(&arenas->window, 0, size / KA_PAGE_SIZE);

	if (error)
		return ka_fail(error, "no memory for a heap's metadata: the machine,"
			       " the memory cgroup, the limit of all heaps or that of"
			       " locked memory (ulimit -l) has none left");
	metadata->version = KA_METADATA_VERSION;
	metadata->entry_size = sizeof(struct ka_arena);
	metadata->start = (uintptr_t)arenas->window.start;
	metadata->nr_arenas = arenas->window.nr_arenas;
	metadata->nr_metadata = arenas->window.nr_metadata;
	metadata->nr_touched = arenas->window.nr_metadata;
	metadata->pages = size / KA_PAGE_SIZE;
	metadata->pools_offset = whole_arenas(ka_metadata_size(nr_arenas)) * KA_ARENA_SIZE;
	metadata->magic = KA_METADATA_MAGIC;
	arenas->metadata = metadata;
	return 0;
}

/* Commit further pages of one of the two tables, which begins at page @start. */
static int metadata_reach(struct ka_arenas *arenas, size_t start, uint64_t *pages, size_t wanted)
{
	int error = 0;

	while (!error && *pages < wanted) {
		size_t from = start + *pages;
		/* One arena at a time, so that pages committed before a failure are counted. */
		size_t end = (from / KA_ARENA_PAGES + 1) * KA_ARENA_PAGES;

		if (end > start + wanted)
			end = start + wanted;
		error = metadata_commit(&arenas->window, from, end);
		if (!error)
			*pages = end - start;
	}
	return error;
}

/*
 * Commit the entries of the arenas up to @nr_arenas of the window: 0, or an errno. After a
 * failure, the pages that were committed stay so, for the next call.
 */
int ka_metadata_reach(struct ka_arenas *arenas, size_t nr_arenas)
{
	struct ka_metadata *metadata = arenas->metadata;

	return metadata_reach(arenas, 0, &metadata->pages,
			      ka_metadata_size(nr_arenas - metadata->nr_metadata) / KA_PAGE_SIZE);
}

/* Commit the entry of a pool that begins with a slot: 0, or an errno. */
int ka_metadata_reach_pool(struct ka_arenas *arenas, size_t slot)
{
	struct ka_metadata *metadata = arenas->metadata;
	size_t size = ka_metadata_pools_size(slot / KA_ARENA_SLOTS + 1);

	return metadata_reach(arenas, metadata->pools_offset / KA_PAGE_SIZE, &metadata->pools_pages,
			      size / KA_PAGE_SIZE);
}

/* True if the entry of such a pool is committed. */
bool ka_metadata_has_pool(const struct ka_arenas *arenas, size_t slot)
{
	return slot < arenas->metadata->pools_pages * KA_PAGE_SIZE / KA_SLOT_ENTRY;
}

/* Called before and after each change of the metadata. The heap's lock is held. */
void ka_metadata_change(struct ka_arenas *arenas)
{
	__atomic_fetch_add(&arenas->metadata->sequence, 1, __ATOMIC_ACQ_REL);
}
