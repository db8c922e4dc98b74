// SPDX-License-Identifier: MIT
/*
 * The source that needs no module: address space is reserved without access, and
 * arenas of it are made accessible and given back. For dense arenas huge pages are asked
 * for, and whether they come is the kernel's choice; all else is to have none.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "bits.h"

static void *reserve(void *address, size_t size, bool shared, int flags)
{
	return mmap(address, size, PROT_NONE, MAP_ANONYMOUS | MAP_NORESERVE | flags |
		    (shared ? MAP_SHARED : MAP_PRIVATE), -1, 0);
}

/*
 * What holds for all that is reserved; a part that is mapped anew is asked again. A huge
 * page would cost a whole arena at the first touch.
 */
static int reserved(const struct ka_window *window, char *start, size_t size)
{
	madvise(start, size, MADV_NOHUGEPAGE);
	return window->fork == KA_FORK_NONE ? madvise(start, size, MADV_DONTFORK) : 0;
}

static int embedded_open(struct ka_window *window,
			 const struct ka_options *options)
{
	size_t size = ka_window_size(window), slack = KA_ARENA_SIZE, before;
	char *start, text[32];

	start = size > SIZE_MAX - slack ? MAP_FAILED :
		reserve(NULL, size + slack, window->fork == KA_FORK_SHARE, 0);
	if (start == MAP_FAILED)
		return ka_fail(ENOMEM, "no room for a window of %s in this process"
			       " (see ulimit -v)",
			       ka_format_size(options->window, text));
	before = -(uintptr_t)start % KA_ARENA_SIZE;
	if (before)
		munmap(start, before);
	munmap(start + before + size, slack - before);
	window->start = start + before;
	if (reserved(window, window->start, size)) {
		munmap(window->start, size);
		return ka_fail(errno, "cannot keep a window from children: %s",
			       strerror(errno));
	}
	return 0;
}

static int embedded_commit(struct ka_window *window, size_t first, size_t count,
			   bool dense)
{
	char *start = window->start + first * KA_ARENA_SIZE;
	size_t size = count * KA_ARENA_SIZE;
	int error;

	/* Before: memory that is locked is there at once. A kernel without is only slower. */
	if (dense)
		madvise(start, size, MADV_HUGEPAGE);
	if (!mprotect(start, size, PROT_READ | PROT_WRITE))
		return 0;
	error = errno;
	madvise(start, size, MADV_NOHUGEPAGE);
	return error;
}

static int embedded_commit_pages(struct ka_window *window, size_t arena,
				 size_t from, size_t count)
{
	char *start = window->start + arena * KA_ARENA_SIZE + from * KA_PAGE_SIZE;

	return mprotect(start, count * KA_PAGE_SIZE, PROT_READ | PROT_WRITE) ? errno : 0;
}

/* The memory is one for all who share it: it goes, whoever has it mapped. */
static void release_shared(char *start, size_t size)
{
	if (madvise(start, size, MADV_REMOVE)) {
		/* After mlockall() the memory is locked, and that is refused. */
		munlock(start, size);
		madvise(start, size, MADV_REMOVE);
	}
	mprotect(start, size, PROT_NONE);
}

static void embedded_release(struct ka_window *window, size_t first, size_t count)
{
	char *start = window->start + first * KA_ARENA_SIZE;
	size_t size = count * KA_ARENA_SIZE;

	if (window->fork == KA_FORK_SHARE)
		release_shared(start, size);
	/* A new reservation in the place of the old pages: no promise of memory. */
	else if (reserve(start, size, false, MAP_FIXED) == MAP_FAILED)
		madvise(start, size, MADV_DONTNEED);
	reserved(window, start, size);
}

static bool embedded_purge(struct ka_window *window, size_t arena, const uint64_t *map)
{
	int advice = window->fork == KA_FORK_SHARE ? MADV_REMOVE : MADV_DONTNEED;
	char *start = window->start + arena * KA_ARENA_SIZE;
	size_t from = 0, end;

	while ((from = ka_find_bit(map, from, true)) < KA_ARENA_PAGES) {
		end = ka_find_bit(map, from, false);
		/* Refused where memory is locked: then all of it is. */
		if (madvise(start + from * KA_PAGE_SIZE, (end - from) * KA_PAGE_SIZE,
			    advice))
			return false;
		from = end;
	}
	return true;
}

/*
 * The kernel takes it page by page, until each is written to again. Memory that is shared
 * or locked it does not take.
 */
static bool embedded_give_up(struct ka_window *window, size_t arena)
{
	char *start = window->start + arena * KA_ARENA_SIZE;

	return window->fork != KA_FORK_SHARE && !madvise(start, KA_ARENA_SIZE, MADV_FREE);
}

/* What the kernel has taken by then is as if never touched: there is no need to know. */
static bool embedded_take_back(struct ka_window *window, size_t arena)
{
	(void)window;
	(void)arena;
	return true;
}

static bool embedded_pressed(struct ka_window *window)
{
	(void)window;
	return false;
}

static bool embedded_copied(struct ka_window *window)
{
	(void)window;
	return true;
}

static int embedded_descriptor(const struct ka_window *window)
{
	(void)window;
	return ka_fail(EOPNOTSUPP, "a heap that is not on the module has no"
		       " descriptor");
}

static void embedded_close(struct ka_window *window)
{
	munmap(window->start, ka_window_size(window));
}

const struct ka_source_type ka_embedded = {
	.source		= KA_SOURCE_EMBEDDED,
	.open		= embedded_open,
	.commit		= embedded_commit,
	.commit_pages	= embedded_commit_pages,
	.release	= embedded_release,
	.purge		= embedded_purge,
	.give_up	= embedded_give_up,
	.take_back	= embedded_take_back,
	.pressed	= embedded_pressed,
	.copied		= embedded_copied,
	.descriptor	= embedded_descriptor,
	.close		= embedded_close,
};
