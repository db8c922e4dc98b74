// SPDX-License-Identifier: MIT
/*
 * Choose the addresses of claimed windows: see claim.h.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "source/claim.h"

/* A sanitizer, if the program is built with one. */
#pragma weak __asan_init
#pragma weak __tsan_init
#pragma weak __msan_init
void __asan_init(void);
void __tsan_init(void);
void __msan_init(void);

/* Number of random addresses to try. */
#define TRIES	16

/*
 * Choose a random address for a window. The kernel maps from the top of the address space
 * downwards, near the stack, and programs from the middle of its upper half upwards, or at low
 * addresses. Nothing lies between a quarter and five eighths.
 */
static uintptr_t choose_start(size_t size)
{
	uintptr_t top = (uintptr_t)__builtin_frame_address(0), half = 1, from, room;
	uint64_t random;

	while (half <= top / 2)
		half *= 2;
	from = half / 2;
	room = half / 4 * 3;
	if (size > room)
		return 0;
	if (ka_random(&random, sizeof(random)))
		random = ka_clock() * 0x9e3779b97f4a7c15ULL ^ (uintptr_t)&random;
	return (from + random % (room - size + 1)) & ~(KA_ARENA_SIZE - 1);
}

/* All claimed windows: the kernel does not know most of their addresses. */
static struct ka_mutex lock = KA_MUTEX;
KA_FORK_TAKES(lock);
static struct ka_window *all;

/* Bytes of a window and of the map behind it. */
static size_t claimed_size(const struct ka_window *window)
{
	return ka_window_size(window) + ka_window_map_size(window);
}

static bool is_claimed(const char *start, size_t size)
{
	for (const struct ka_window *window = all; window; window = window->next) {
		if (start < window->start + claimed_size(window) &&
		    window->start < start + size)
			return true;
	}
	return false;
}

/*
 * True if nothing is mapped in a range, or if the limit of addresses prevents the test.
 */
static bool is_free(void *start, size_t size)
{
	void *found = ka_mmap(start, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS |
			      MAP_NORESERVE | MAP_FIXED_NOREPLACE);

	if (found == MAP_FAILED)
		return errno != EEXIST;
	ka_munmap(found, size);
	return found == start;
}

/* True if a page can be mapped at an address. An emulator may offer fewer addresses. */
static bool is_address(void *start)
{
	void *found = ka_mmap(start, KA_PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS |
			      MAP_FIXED_NOREPLACE);

	if (found != MAP_FAILED)
		ka_munmap(found, KA_PAGE_SIZE);
	return found == start;
}

/* Find an address for a window; NULL if there is none. The lock is held. */
static char *find_start(const struct ka_window *window)
{
	size_t size = claimed_size(window);

	for (int i = 0; i < TRIES; i++) {
		char *start = (char *)choose_start(size);

		if (start && !is_claimed(start, size) && is_free(start, size))
			return is_address(start) ? start : NULL;
	}
	return NULL;
}

/* True under a sanitizer or valgrind, which choose addresses in another way than the kernel. */
static bool has_other_addresses(void)
{
	const char *preloaded = getenv("LD_PRELOAD");

	return __asan_init || __tsan_init || __msan_init ||
	       (preloaded && strstr(preloaded, "/vgpreload_"));
}

/**
 * ka_claim() - Choose addresses for a window.
 * @window: The window, whose sizes are known. Its @start and @claimed are set.
 *
 * The function maps nothing. It fails for a window that children share, which has to be one
 * mapping, and under sanitizers and valgrind, which use such addresses for themselves.
 *
 * Return: True if the window has addresses, which no other heap gets before ka_unclaim().
 */
bool ka_claim(struct ka_window *window)
{
	if (window->fork == KA_FORK_SHARE || has_other_addresses())
		return false;
	ka_lock(&lock);
	window->start = find_start(window);
	window->claimed = window->start;
	if (window->claimed) {
		window->next = all;
		all = window;
	}
	ka_unlock(&lock);
	return window->claimed;
}

/**
 * ka_unclaim() - Release a window's addresses, where nothing is mapped any more.
 * @window: The window. It is not claimed from then on.
 */
void ka_unclaim(struct ka_window *window)
{
	struct ka_window **link = &all;

	ka_lock(&lock);
	while (*link != window)
		link = &(*link)->next;
	*link = window->next;
	window->claimed = false;
	ka_unlock(&lock);
}
