// SPDX-License-Identifier: MIT
/*
 * The source that needs no module: address space is reserved without access, and
 * arenas of it are made accessible and given back. Transparent huge pages are
 * asked for; whether they come is the kernel's choice.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "internal.h"

#define RESERVED	(MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)

static int embedded_open(struct ka_window *window,
			 const struct ka_options *options)
{
	size_t size = options->window, slack = KA_ARENA_SIZE, before;
	char *start, text[32];

	start = size > SIZE_MAX - slack ? MAP_FAILED :
		mmap(NULL, size + slack, PROT_NONE, RESERVED, -1, 0);
	if (start == MAP_FAILED)
		return ka_fail(ENOMEM, "no room for a window of %s in this process"
			       " (see ulimit -v)", ka_format_size(size, text));
	before = -(uintptr_t)start % KA_ARENA_SIZE;
	if (before)
		munmap(start, before);
	munmap(start + before + size, slack - before);
	window->start = start + before;
	window->nr_arenas = size / KA_ARENA_SIZE;
	return 0;
}

static int embedded_commit(struct ka_window *window, size_t first, size_t count)
{
	char *start = window->start + first * KA_ARENA_SIZE;

	if (mprotect(start, count * KA_ARENA_SIZE, PROT_READ | PROT_WRITE))
		return errno;
	/* A kernel without them is as good, only slower. */
	madvise(start, count * KA_ARENA_SIZE, MADV_HUGEPAGE);
	return 0;
}

static int embedded_commit_pages(struct ka_window *window, size_t arena,
				 size_t from, size_t count)
{
	char *start = window->start + arena * KA_ARENA_SIZE + from * KA_PAGE_SIZE;

	if (mprotect(start, count * KA_PAGE_SIZE, PROT_READ | PROT_WRITE))
		return errno;
	/* A huge page would cost the whole arena at the first touch. */
	madvise(start, count * KA_PAGE_SIZE, MADV_NOHUGEPAGE);
	return 0;
}

static void embedded_release(struct ka_window *window, size_t first, size_t count)
{
	char *start = window->start + first * KA_ARENA_SIZE;

	/* A new reservation in the place of the old pages: no promise of memory. */
	if (mmap(start, count * KA_ARENA_SIZE, PROT_NONE, RESERVED | MAP_FIXED, -1,
		 0) == MAP_FAILED)
		madvise(start, count * KA_ARENA_SIZE, MADV_DONTNEED);
}

static bool embedded_forked(struct ka_window *window)
{
	(void)window;
	return true;
}

static void embedded_close(struct ka_window *window)
{
	munmap(window->start, window->nr_arenas * KA_ARENA_SIZE);
}

const struct ka_source_type ka_embedded = {
	.source		= KA_SOURCE_EMBEDDED,
	.open		= embedded_open,
	.commit		= embedded_commit,
	.commit_pages	= embedded_commit_pages,
	.release	= embedded_release,
	.forked		= embedded_forked,
	.close		= embedded_close,
};
