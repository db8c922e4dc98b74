// SPDX-License-Identifier: MIT
/*
 * The source that needs no module. In a claimed window, only committed memory is mapped. So the
 * limits of a process (RLIMIT_AS, RLIMIT_DATA), locked memory, dumps and the kernel's commit
 * accounting (vm.overcommit_memory) count only what is used.
 *
 * A window that cannot be claimed is reserved without access, and pages are made accessible.
 */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "source/claim.h"

/* Map pages at addresses where nothing is mapped: 0, or an errno. */
static int map_pages(const struct ka_window *window, void *start, size_t size)
{
	void *found = ka_mmap(start, size, PROT_READ | PROT_WRITE, MAP_PRIVATE |
			      MAP_ANONYMOUS | MAP_FIXED_NOREPLACE);

	if (found == start && window->fork == KA_FORK_NONE)
		return ka_madvise(start, size, MADV_DONTFORK) ? errno : 0;
	if (found == start)
		return 0;
	/* EAGAIN: the limit of locked memory. */
	if (found == MAP_FAILED)
		return errno == EEXIST ? EEXIST : ENOMEM;
	/* A kernel that does not know the flag has chosen another address. */
	ka_munmap(found, size);
	return EEXIST;
}

static void *reserve(void *address, size_t size, bool shared, int flags)
{
	return ka_mmap(address, size, PROT_NONE, MAP_ANONYMOUS | MAP_NORESERVE | flags |
		       (shared ? MAP_SHARED : MAP_PRIVATE));
}

/*
 * Set the advice for reserved addresses, also for a part that is mapped anew. A huge page would
 * allocate a whole arena at the first touch.
 */
static int reserved(const struct ka_window *window, char *start, size_t size)
{
	ka_madvise(start, size, MADV_NOHUGEPAGE);
	ka_madvise(start, size, MADV_DONTDUMP);
	return window->fork == KA_FORK_NONE ? ka_madvise(start, size, MADV_DONTFORK) : 0;
}

static int embedded_open(struct ka_window *window,
			 const struct ka_options *options)
{
	size_t size = ka_window_size(window), slack = KA_ARENA_SIZE, before;
	char *start, text[32];

	if (ka_claim(window))
		return 0;
	start = size > SIZE_MAX - slack ? MAP_FAILED :
		reserve(NULL, size + slack, window->fork == KA_FORK_SHARE, 0);
	if (start == MAP_FAILED)
		return ka_fail(ENOMEM, "no room for a window of %s in this process"
			       " (see ulimit -v)",
			       ka_format_size(options->window, text));
	before = -(uintptr_t)start % KA_ARENA_SIZE;
	if (before)
		ka_munmap(start, before);
	ka_munmap(start + before + size, slack - before);
	window->start = start + before;
	if (reserved(window, window->start, size)) {
		ka_munmap(window->start, size);
		return ka_fail(errno, "cannot exclude the window from forked children: %s",
			       strerror(errno));
	}
	return 0;
}

/* Advise the kernel on the pages of arenas, which the caller makes accessible. */
static void advise(const struct ka_window *window, void *start, size_t size,
		   enum ka_pages pages)
{
	if (pages == KA_PAGES_HUGE)
		ka_madvise(start, size, MADV_HUGEPAGE);
	else if (pages == KA_PAGES_SMALL && window->claimed)
		ka_madvise(start, size, MADV_NOHUGEPAGE);
}

/* Make reserved pages accessible: 0, or an errno. */
static int open_pages(void *start, size_t size)
{
	ka_madvise(start, size, MADV_DODUMP);
	return ka_mprotect(start, size, PROT_READ | PROT_WRITE) ? errno : 0;
}

static int embedded_commit(struct ka_window *window, size_t first, size_t count,
			   enum ka_pages pages)
{
	char *start = window->start + first * KA_ARENA_SIZE;
	size_t size = count * KA_ARENA_SIZE;
	int error = 0;

	if (window->claimed)
		error = map_pages(window, start, size);
	if (error)
		return error;
	/* Before the pages are accessible, since locked memory is allocated at once. */
	advise(window, start, size, pages);
	if (!window->claimed)
		error = open_pages(start, size);
	if (error)
		reserved(window, start, size);
	return error;
}

static void embedded_make_huge(struct ka_window *window, size_t arena)
{
	advise(window, window->start + arena * KA_ARENA_SIZE, KA_ARENA_SIZE, KA_PAGES_HUGE);
}

static int embedded_commit_pages(struct ka_window *window, size_t arena,
				 size_t from, size_t count)
{
	char *start = window->start + arena * KA_ARENA_SIZE + from * KA_PAGE_SIZE;
	size_t size = count * KA_PAGE_SIZE;
	int error;

	if (!window->claimed)
		return open_pages(start, size);
	error = map_pages(window, start, size);
	if (!error)
		advise(window, start, size, KA_PAGES_SMALL);
	return error;
}

/* Free shared memory for all processes that map it. */
static void release_shared(char *start, size_t size)
{
	if (ka_madvise(start, size, MADV_REMOVE)) {
		/* The kernel refuses this for memory locked by mlockall(). */
		ka_munlock(start, size);
		ka_madvise(start, size, MADV_REMOVE);
	}
	ka_mprotect(start, size, PROT_NONE);
}

static void embedded_release(struct ka_window *window, size_t first, size_t count)
{
	char *start = window->start + first * KA_ARENA_SIZE;
	size_t size = count * KA_ARENA_SIZE;

	if (window->claimed) {
		ka_munmap(start, size);
		return;
	}
	if (window->fork == KA_FORK_SHARE)
		release_shared(start, size);
	/* A new reservation replaces the pages; the kernel promises no memory for it. */
	else if (reserve(start, size, false, MAP_FIXED) == MAP_FAILED)
		ka_madvise(start, size, MADV_DONTNEED);
	reserved(window, start, size);
}

static bool embedded_purge(struct ka_window *window, size_t arena, const uint64_t *map)
{
	int advice = window->fork == KA_FORK_SHARE ? MADV_REMOVE : MADV_DONTNEED;
	char *start = window->start + arena * KA_ARENA_SIZE;
	size_t from = 0, end;

	while ((from = ka_find_bit(map, from, true)) < KA_ARENA_PAGES) {
		end = ka_find_bit(map, from, false);
		/* The kernel refuses locked memory; then all of it is locked. */
		if (ka_madvise(start + from * KA_PAGE_SIZE, (end - from) * KA_PAGE_SIZE,
			       advice))
			return false;
		from = end;
	}
	return true;
}

/*
 * The kernel may reclaim each page until it is written to again. It does not reclaim memory
 * that is shared or locked.
 */
static bool embedded_make_volatile(struct ka_window *window, size_t arena)
{
	char *start = window->start + arena * KA_ARENA_SIZE;

	return window->fork != KA_FORK_SHARE && !ka_madvise(start, KA_ARENA_SIZE, MADV_FREE);
}

/* Pages that the kernel has reclaimed read as zero, so no check is needed. */
static bool embedded_reuse(struct ka_window *window, size_t arena)
{
	(void)window;
	(void)arena;
	return true;
}

/* Copy the content of pages instead of moving it. */
static enum ka_moved move_by_copy(char *from, char *to, size_t size)
{
	memcpy(to, from, size);
	if (ka_madvise(from, size, MADV_DONTNEED))
		memset(from, 0, size);
	return KA_MOVED;
}

static enum ka_moved move_arenas(const struct ka_window *window, char *from, char *to,
				 size_t size);

static enum ka_moved move_halves(const struct ka_window *window, char *from, char *to,
				 size_t size)
{
	size_t half = size / 2 & ~(KA_ARENA_SIZE - 1);
	enum ka_moved moved;

	if (!half)
		return move_by_copy(from, to, size);
	moved = move_arenas(window, from, to, half);
	if (moved != KA_MOVED)
		return moved;
	moved = move_arenas(window, from + half, to + half, size - half);
	/* Copy the first half back to its old pages, which are still mapped. */
	if (moved != KA_MOVED)
		memcpy(from, to, half);
	return moved;
}

/* Move whole arenas. If they belong to several mappings, each half is tried. */
static enum ka_moved move_arenas(const struct ka_window *window, char *from, char *to,
				 size_t size)
{
	int error;

	if (!ka_is_one_mapping(from, size))
		return move_halves(window, from, to, size);
	if (ka_move(from, to, size))
		return KA_MOVED;
	/*
	 * Map the pages at @to again if the kernel has unmapped them before it refused the move.
	 * The window is claimed, so nobody else uses the addresses.
	 */
	error = map_pages(window, to, size);
	if (error && error != EEXIST)
		return KA_NOWHERE;
	return move_by_copy(from, to, size);
}

/*
 * Move the arenas that a run has as a whole, and copy the rest: a mapping ends where pages were
 * moved, and an arena in several mappings could have no huge page later. In a window that is not
 * claimed, another thread could map something where the kernel has just unmapped pages.
 */
static enum ka_moved embedded_move(struct ka_window *window, char *from, char *to,
				   size_t size)
{
	size_t whole = size & ~(KA_ARENA_SIZE - 1);
	enum ka_moved moved;

	if (!window->claimed || !whole ||
	    ((uintptr_t)from | (uintptr_t)to) % KA_ARENA_SIZE)
		return KA_NOT_MOVED;
	moved = move_arenas(window, from, to, whole);
	if (moved == KA_NOWHERE)
		ka_munmap(to, size);
	else if (size > whole)
		move_by_copy(from + whole, to + whole, size - whole);
	return moved;
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
		       " descriptor: create it with KARENA_SOURCE=device");
}

static void embedded_close(struct ka_window *window)
{
	/* The arenas of a claimed window have been released; the metadata is left. */
	ka_munmap(window->start, window->claimed ? window->nr_metadata * KA_ARENA_SIZE :
						   ka_window_size(window));
	if (window->claimed)
		ka_unclaim(window);
}

const struct ka_source_type ka_embedded = {
	.source		= KA_SOURCE_EMBEDDED,
	.open		= embedded_open,
	.commit		= embedded_commit,
	.commit_pages	= embedded_commit_pages,
	.make_huge	= embedded_make_huge,
	.release	= embedded_release,
	.purge		= embedded_purge,
	.make_volatile	= embedded_make_volatile,
	.reuse	= embedded_reuse,
	.pressed	= embedded_pressed,
	.copied		= embedded_copied,
	.move		= embedded_move,
	.descriptor	= embedded_descriptor,
	.close		= embedded_close,
};
