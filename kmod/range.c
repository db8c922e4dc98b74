// SPDX-License-Identifier: GPL-2.0
/*
 * Ranges of the window: how the module checks them, divides them into arenas, commits and
 * releases them, one by one or in the lists of KARENA_COMMIT and KARENA_RELEASE. The ranges
 * of a list are together at most as long as the window. Any signal ends a list, because
 * io_uring cancels a running request as a signal would.
 */
#include <linux/bitmap.h>
#include <linux/errno.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/uaccess.h>

#include "heap.h"

/**
 * karena_range_valid() - Check a range of a window.
 * @heap: The heap.
 * @offset: Where it begins, in bytes.
 * @length: Its size in bytes.
 *
 * Return: True if the range is in the window and consists of whole pages.
 */
bool karena_range_valid(const struct karena_heap *heap, u64 offset, u64 length)
{
	u64 window = karena_window_size(heap);

	return length && PAGE_ALIGNED(offset | length) && offset < window &&
	       length <= window - offset;
}

static int part_commit(struct karena_heap *heap, unsigned long page,
		       unsigned long count)
{
	u32 *state = karena_state(heap, page / KARENA_ARENA_PAGES);
	bool again = false;
	int err;

	switch (state ? KARENA_STATE(READ_ONCE(*state)) : KARENA_FREE) {
	case KARENA_VOLATILE:
	case KARENA_BUSY:
		return -EBUSY;
	default:
		break;
	}
	karena_heap_touch(heap);
	err = karena_commit(heap, page, count, false, &again);
	if (again) {
		karena_folio_wait(heap);
		err = karena_commit(heap, page, count, false, NULL);
	}
	return err;
}

static int range_commit(struct karena_heap *heap, u64 offset, u64 length)
{
	unsigned long page = offset >> PAGE_SHIFT;
	unsigned long end = (offset + length) >> PAGE_SHIFT;

	while (page < end) {
		unsigned long next = min(end, ALIGN(page + 1, KARENA_ARENA_PAGES));
		int err;

		err = part_commit(heap, page, next - page);
		if (err)
			return err;
		page = next;
		cond_resched();
		/* Only after the first step, so that a caller that tries again makes progress. */
		if (page < end && signal_pending(current))
			return -EINTR;
	}
	return 0;
}

/* A release in progress: the current arena, and which of its pages to release. */
struct release {
	struct karena_heap *heap;
	bool list;		/* any signal ends the release; else only a fatal one */
	unsigned long index;
	bool any;
	DECLARE_BITMAP(gone, KARENA_ARENA_PAGES);
};

static void release_flush(struct release *release)
{
	if (!release->any)
		return;
	karena_release(release->heap, release->index, release->gone);
	bitmap_zero(release->gone, KARENA_ARENA_PAGES);
	release->any = false;
	cond_resched();
}

/*
 * Skip whole arenas of a chunk that was never allocated. They have no memory, but may be
 * REQUESTED after a commit that failed. Returns the page at which to continue.
 */
static unsigned long release_skip_chunk(struct karena_heap *heap, unsigned long page,
					unsigned long end)
{
	unsigned long index = page / KARENA_ARENA_PAGES;
	unsigned long stop = min(end / KARENA_ARENA_PAGES, ALIGN(index + 1, KARENA_CHUNK));

	if (page % KARENA_ARENA_PAGES || karena_arena(heap, index))
		return page;
	for (; index < stop; index++) {
		u32 *state = karena_state(heap, index);

		if (state && READ_ONCE(*state) != KARENA_FREE)
			WRITE_ONCE(*state, KARENA_FREE);
	}
	return index * KARENA_ARENA_PAGES;
}

static unsigned long release_part(struct release *release, unsigned long page,
				  unsigned long end)
{
	unsigned long index = page / KARENA_ARENA_PAGES;
	unsigned long next = min(end, (index + 1) * KARENA_ARENA_PAGES);

	if (index != release->index)
		release_flush(release);
	release->index = index;
	release->any = true;
	bitmap_set(release->gone, page % KARENA_ARENA_PAGES, next - page);
	return next;
}

static int release_range(struct release *release, u64 offset, u64 length)
{
	unsigned long page = offset >> PAGE_SHIFT, from;
	unsigned long end = (offset + length) >> PAGE_SHIFT;

	while (page < end) {
		from = page;
		page = release_skip_chunk(release->heap, page, end);
		if (page == from)
			page = release_part(release, page, end);
		cond_resched();
		/* Only after the first step, so that a caller that tries again makes progress. */
		if (page < end && (release->list ? signal_pending(current) :
						   fatal_signal_pending(current)))
			return -EINTR;
	}
	return 0;
}

static void release_done(struct release *release)
{
	release_flush(release);
	karena_folio_reap_some(release->heap);
}

/*
 * Release the pages of a range that struct karena_part selects, in the one arena that it
 * names. The core calls once for each mapping, so the range may be a part of the arena.
 * Returns false if the struct does not name the arena.
 */
static bool release_chosen(struct release *release, u64 offset, u64 length)
{
	unsigned long index = offset >> KARENA_ARENA_SHIFT;
	unsigned long from = (offset >> PAGE_SHIFT) % KARENA_ARENA_PAGES;
	unsigned long end = from + (length >> PAGE_SHIFT);

	if (end > KARENA_ARENA_PAGES ||
	    !karena_control_part(release->heap, index, release->gone))
		return false;
	bitmap_clear(release->gone, 0, from);
	bitmap_clear(release->gone, end, KARENA_ARENA_PAGES - end);
	release->index = index;
	release->any = !bitmap_empty(release->gone, KARENA_ARENA_PAGES);
	return true;
}

/**
 * karena_range_release() - Release a range of the window.
 * @heap: The heap.
 * @offset: Where it begins, in bytes.
 * @length: Its size in bytes.
 *
 * If struct karena_part names the arena, this releases only the pages that it selects.
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
	err = release_chosen(&release, offset, length) ? 0 :
	      release_range(&release, offset, length);
	release_done(&release);
	return err;
}

/* A list in progress: its ranges are to be committed or, with @release, released. */
struct list {
	struct karena_heap *heap;
	struct release *release;
	u64 left;		/* bytes that the remaining ranges may have together */
};

static int list_try_range(struct list *list, const struct karena_range *range)
{
	if (range->reserved || range->length > list->left ||
	    !karena_range_valid(list->heap, range->offset, range->length))
		return -EINVAL;
	list->left -= range->length;
	return list->release ?
	       release_range(list->release, range->offset, range->length) :
	       range_commit(list->heap, range->offset, range->length);
}

/*
 * Try each range once. After a signal without a handler, the core may restart a commit, but
 * not a release: another thread may have committed the released memory again.
 */
static int list_try_ranges(struct list *list, const struct karena_ranges *call)
{
	u64 address = call->ranges;
	int first = 0;
	u32 i;

	if (call->nr > KARENA_RANGES_MAX)
		return -EINVAL;
	for (i = 0; i < call->nr; i++, address += sizeof(struct karena_range)) {
		struct karena_range __user *user = u64_to_user_ptr(address);
		struct karena_range range;

		if (copy_from_user(&range, user, sizeof(range)))
			return -EFAULT;
		range.result = i && signal_pending(current) ? -EINTR :
							      list_try_range(list, &range);
		if (put_user(range.result, &user->result))
			return -EFAULT;
		if (range.result == -EINTR)
			return list->release ? -EINTR : -ERESTARTNOHAND;
		first = first ?: range.result;
		cond_resched();
	}
	return first;
}

/**
 * karena_ranges_commit() - Commit a list of ranges (KARENA_COMMIT).
 * @heap: The heap.
 * @call: The caller's list.
 *
 * Return: 0, -EFAULT, -ERESTARTNOHAND after a signal, or the first result that is an
 * error.
 */
int karena_ranges_commit(struct karena_heap *heap, const struct karena_ranges *call)
{
	struct list list = { .heap = heap, .left = karena_window_size(heap) };

	return list_try_ranges(&list, call);
}

/**
 * karena_ranges_release() - Release a list of ranges (KARENA_RELEASE).
 * @heap: The heap.
 * @call: The caller's list.
 *
 * Return: 0, -EFAULT, -EINTR after a signal, or the first result that is an error.
 */
int karena_ranges_release(struct karena_heap *heap, const struct karena_ranges *call)
{
	struct release release = { .heap = heap, .list = true };
	struct list list = {
		.heap = heap, .release = &release, .left = karena_window_size(heap),
	};
	int err = list_try_ranges(&list, call);

	release_done(&release);
	return err;
}
