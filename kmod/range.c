// SPDX-License-Identifier: GPL-2.0
/*
 * Ranges of the window, in pages: checked, cut into arenas, committed and released;
 * one by one or in the lists of KARENA_COMMIT and KARENA_RELEASE.
 */
#include <linux/bitmap.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/uaccess.h>

#include "karena.h"

/**
 * karena_range_valid() - Whether a range is one of the window's.
 * @heap: The heap.
 * @offset: Where it begins, in bytes.
 * @length: Its size in bytes.
 *
 * Return: Whether it is, and consists of whole pages.
 */
bool karena_range_valid(const struct karena_heap *heap, u64 offset, u64 length)
{
	u64 window = karena_window_size(heap);

	return length && PAGE_ALIGNED(offset | length) && offset < window &&
	       length <= window - offset;
}

static int commit_part(struct karena_heap *heap, unsigned long page,
		       unsigned long count)
{
	u32 *state = karena_state(heap, page / KARENA_ARENA_PAGES);

	switch (state ? KARENA_STATE(READ_ONCE(*state)) : KARENA_FREE) {
	case KARENA_VOLATILE:
	case KARENA_BUSY:
		return -EBUSY;
	default:
		return karena_arena_commit(heap, page, count, false);
	}
}

static int range_commit(struct karena_heap *heap, u64 offset, u64 length)
{
	unsigned long page = offset >> PAGE_SHIFT;
	unsigned long end = (offset + length) >> PAGE_SHIFT;

	while (page < end) {
		unsigned long next = min(end, ALIGN(page + 1, KARENA_ARENA_PAGES));
		int err;

		if (fatal_signal_pending(current))
			return -EINTR;
		err = commit_part(heap, page, next - page);
		if (err)
			return err;
		page = next;
		cond_resched();
	}
	return 0;
}

/* What is to go of the arena that the ranges have come to. */
struct release {
	struct karena_heap *heap;
	unsigned long index;
	bool any;
	DECLARE_BITMAP(gone, KARENA_ARENA_PAGES);
};

static void release_flush(struct release *release)
{
	if (!release->any)
		return;
	karena_arena_release(release->heap, release->index, release->gone);
	bitmap_zero(release->gone, KARENA_ARENA_PAGES);
	release->any = false;
	cond_resched();
}

static int release_range(struct release *release, u64 offset, u64 length)
{
	unsigned long page = offset >> PAGE_SHIFT;
	unsigned long end = (offset + length) >> PAGE_SHIFT;

	while (page < end) {
		unsigned long index = page / KARENA_ARENA_PAGES;
		unsigned long next = min(end, (index + 1) * KARENA_ARENA_PAGES);

		if (fatal_signal_pending(current))
			return -EINTR;
		if (index != release->index)
			release_flush(release);
		release->index = index;
		release->any = true;
		bitmap_set(release->gone, page % KARENA_ARENA_PAGES, next - page);
		page = next;
	}
	return 0;
}

static void release_done(struct release *release)
{
	release_flush(release);
	karena_folio_reap(release->heap);
}

/**
 * karena_range_release() - Release a range of the window.
 * @heap: The heap.
 * @offset: Where it begins, in bytes.
 * @length: Its size in bytes.
 *
 * Context: May sleep; not under mmap_lock.
 * Return: 0; -EINVAL; -EINTR when the process is being killed.
 */
int karena_range_release(struct karena_heap *heap, u64 offset, u64 length)
{
	struct release release = { .heap = heap };
	int err;

	if (!karena_range_valid(heap, offset, length))
		return -EINVAL;
	err = release_range(&release, offset, length);
	release_done(&release);
	return err;
}

/* Get a range of the list, and give it its result. */
static int range_get(struct karena_range *range, u64 address)
{
	return copy_from_user(range, u64_to_user_ptr(address), sizeof(*range)) ?
	       -EFAULT : 0;
}

static int range_put(s32 result, u64 address)
{
	struct karena_range __user *user = u64_to_user_ptr(address);

	return put_user(result, &user->result) ? -EFAULT : 0;
}

static int try_range(struct karena_heap *heap, struct release *release,
		     const struct karena_range *range)
{
	if (range->reserved || !karena_range_valid(heap, range->offset, range->length))
		return -EINVAL;
	return release ? release_range(release, range->offset, range->length) :
			 range_commit(heap, range->offset, range->length);
}

/* Commit the ranges of a list or, with something to note them in, release them. */
static int try_ranges(struct karena_heap *heap, struct release *release,
		      const struct karena_ranges *list)
{
	u64 address = list->ranges;
	int first = 0, err;
	u32 i;

	if (list->nr > KARENA_RANGES_MAX)
		return -EINVAL;
	for (i = 0; i < list->nr; i++, address += sizeof(struct karena_range)) {
		struct karena_range range;

		if (fatal_signal_pending(current))
			return -EINTR;
		err = range_get(&range, address);
		if (err)
			return err;
		range.result = try_range(heap, release, &range);
		err = range_put(range.result, address);
		if (err)
			return err;
		first = first ?: range.result;
		cond_resched();
	}
	return first;
}

/**
 * karena_ranges_commit() - Commit a list of ranges (KARENA_COMMIT).
 * @heap: The heap.
 * @list: The caller's wishes.
 *
 * Return: 0, -EFAULT, or the first result that is an error.
 */
int karena_ranges_commit(struct karena_heap *heap, const struct karena_ranges *list)
{
	return try_ranges(heap, NULL, list);
}

/**
 * karena_ranges_release() - Release a list of ranges (KARENA_RELEASE).
 * @heap: The heap.
 * @list: The caller's wishes.
 *
 * Return: 0, -EFAULT, or the first result that is an error.
 */
int karena_ranges_release(struct karena_heap *heap,
			  const struct karena_ranges *list)
{
	struct release release = { .heap = heap };
	int err = try_ranges(heap, &release, list);

	release_done(&release);
	return err;
}
