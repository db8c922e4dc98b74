// SPDX-License-Identifier: MIT
/*
 * The runs that the program has: its own, and those of blocks that no pool has. A run that a
 * pool lies on, or has lain on a moment ago, is none of them.
 */
#include <errno.h>
#include <string.h>

#include "pool/pool.h"

/* A program may use a few pages of a large run: whether these are huge, others say. */
static enum ka_pages pages_for(size_t size)
{
	return size >= KA_ARENA_SIZE ? KA_PAGES_ANY : KA_PAGES_SMALL;
}

/**
 * ka_runs_zeroed() - Take a run that is all zero.
 * @heap: The heap.
 * @size: Whole pages, in bytes.
 * @align: A power of two, in bytes; or 0.
 *
 * Return: The run, or NULL with errno and a sentence.
 */
void *ka_runs_zeroed(struct ka_heap *heap, size_t size, size_t align)
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

/**
 * ka_runs_take() - Take a run.
 * @heap: The heap.
 * @size: Bytes.
 * @align: A power of two, in bytes; or 0.
 *
 * Return: The run, or NULL with errno and a sentence.
 */
void *ka_runs_take(struct ka_heap *heap, size_t size, size_t align)
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
	ka_heap_changed(heap);
	ka_heap_unlock(heap);
	return run;
}

/* Whether a run is a spare pool's. */
static bool is_spare(const struct ka_heap *heap, const void *run)
{
	size_t slot = ka_slot_of(heap, run);

	return heap->nr_spare && (uintptr_t)run % KA_SLOT_SIZE == 0 &&
	       ka_notes_have_pool(heap, slot) &&
	       __atomic_load_n(&heap->pools[slot].owner, __ATOMIC_RELAXED) == KA_SPARE;
}

/* Whether one of the program's runs begins at an address; with the heap's lock held. */
static bool is_run(const struct ka_heap *heap, const void *address)
{
	return ka_pool_of(heap, address) == &ka_no_pool && ka_run_begins(heap, address) &&
	       !is_spare(heap, address);
}

static int no_run(const void *address)
{
	return ka_fail(EINVAL, "no run begins at %p", address);
}

/**
 * ka_runs_give() - Give a run back.
 * @heap: The heap.
 * @run: The run, or whatever the caller takes for one.
 *
 * Return: 0; -1 with errno and a sentence if no run of the program begins there.
 */
int ka_runs_give(struct ka_heap *heap, void *run)
{
	bool found;

	if (ka_refuse_inherited(heap))
		return -1;
	ka_heap_lock(heap);
	found = is_run(heap, run);
	if (found) {
		ka_run_give(heap, run);
		ka_arenas_decay(heap);
	}
	ka_heap_changed(heap);
	ka_heap_unlock(heap);
	return found ? 0 : no_run(run);
}

/**
 * ka_runs_size() - The size of a run.
 * @heap: The heap.
 * @run: The run, or whatever the caller takes for one.
 *
 * Return: Bytes; 0 with errno and a sentence if no run of the program begins there.
 */
size_t ka_runs_size(struct ka_heap *heap, const void *run)
{
	size_t size = 0;

	if (ka_refuse_inherited(heap))
		return 0;
	ka_heap_lock(heap);
	if (is_run(heap, run))
		size = ka_run_bytes(heap, run);
	ka_heap_unlock(heap);
	if (!size)
		no_run(run);
	return size;
}

/**
 * ka_runs_resize() - Change a run's size where it is.
 * @heap: The heap.
 * @run: The run.
 * @size: Bytes, more than 0; rounded up to whole pages.
 *
 * Return: Whether it has that size from now on.
 */
bool ka_runs_resize(struct ka_heap *heap, void *run, size_t size)
{
	bool done = false, less = false;

	if (ka_refuse_inherited(heap))
		return false;
	ka_heap_lock(heap);
	if (is_run(heap, run))
		done = ka_run_resize(heap, run, size, &less);
	if (less)
		ka_arenas_decay(heap);
	ka_heap_changed(heap);
	ka_heap_unlock(heap);
	return done;
}

/**
 * ka_runs_move() - Let another run have a run's content, by its pages.
 * @heap: The heap.
 * @run: The run, which has no content afterwards.
 * @other: The other one, which has been in use for nothing.
 * @size: Bytes of the first, all of which the other has room for.
 *
 * Return: What has become of the content; of KA_NOWHERE there are errno and a sentence.
 * The caller gives back the run that has no content (ka_runs_give_gone()).
 */
enum ka_moved ka_runs_move(struct ka_heap *heap, void *run, void *other, size_t size)
{
	enum ka_moved moved = KA_NOT_MOVED;

	/* Without the lock: both are the caller's. */
	if (heap->window.source->move && !heap->window.io &&
	    heap->window.fork != KA_FORK_SHARE)
		moved = heap->window.source->move(&heap->window, run, other, size);
	return moved;
}

/**
 * ka_runs_give_gone() - Give back a run whose first pages have no content any more.
 * @heap: The heap.
 * @run: The run.
 * @size: Bytes of these pages; 0: all pages.
 * @lost: These pages are not mapped any more.
 */
void ka_runs_give_gone(struct ka_heap *heap, void *run, size_t size, bool lost)
{
	ka_heap_lock(heap);
	ka_run_give_gone(heap, run, size, lost);
	ka_arenas_decay(heap);
	ka_heap_changed(heap);
	ka_heap_unlock(heap);
}
