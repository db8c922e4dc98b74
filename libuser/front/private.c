// SPDX-License-Identifier: MIT
/*
 * The private interface for libkarena-uring and the adapters: see private.h.
 */
#include <linux/capability.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/bits.h"
#include "front/private.h"
#include "heap/heap.h"

#define ENOUGH_LOCKED	((rlim_t)1 << 30)

/* True if a capability exempts the process from the limit of locked memory. */
static bool may_lock_all(void)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = { 0 };

	return !ka_syscall(SYS_capget, (long)&header, (long)data, 0) &&
	       data[0].effective & 1U << CAP_IPC_LOCK;
}

enum ka_source ka_private_source(bool may_be_kept)
{
	const char *text = secure_getenv("KARENA_SOURCE");
	struct rlimit limit;

	if (text && *text && strcmp(text, "auto") != 0)
		return KA_SOURCE_AUTO;
	if (!getrlimit(RLIMIT_MEMLOCK, &limit) && limit.rlim_cur >= ENOUGH_LOCKED)
		return KA_SOURCE_AUTO;
	return may_be_kept && may_lock_all() ? KA_SOURCE_AUTO : KA_SOURCE_EMBEDDED;
}

/* The first page of the window at or behind @page that is (not) committed. */
static size_t find_page(const struct ka_metadata *metadata, size_t page, bool committed)
{
	size_t least = metadata->nr_metadata * KA_ARENA_PAGES;
	size_t end = metadata->nr_touched * KA_ARENA_PAGES;

	page = page < least ? least : page;
	while (page < end) {
		const struct ka_arena *arena = ka_arena_at(metadata, page / KA_ARENA_PAGES);

		page += ka_find_bit(arena->backed, page % KA_ARENA_PAGES, committed) -
			page % KA_ARENA_PAGES;
		if (page % KA_ARENA_PAGES ||
		    (page < end && ka_test_bit(ka_arena_at(metadata, page / KA_ARENA_PAGES)->backed,
					       0) == committed))
			break;
	}
	return page;
}

int ka_private_fail(int error, const char *message)
{
	return ka_fail(error, "%s", message);
}

char *ka_private_window(const struct ka_heap *heap, size_t *size)
{
	*size = ka_window_of(heap)->nr_arenas * KA_ARENA_SIZE;
	return ka_window_of(heap)->start;
}

size_t ka_private_committed(struct ka_heap *heap, size_t *from)
{
	size_t page = *from / KA_PAGE_SIZE, end;

	if (ka_refuse_inherited(ka_pools_of(heap)))
		return 0;
	ka_arenas_lock(ka_arenas_of(heap));
	/* The caller will pin the committed pages, used or free. */
	ka_window_of(heap)->io = true;
	page = find_page(ka_arenas_of(heap)->metadata, page, true);
	end = find_page(ka_arenas_of(heap)->metadata, page, false);
	ka_arenas_unlock(ka_arenas_of(heap));
	*from = page * KA_PAGE_SIZE;
	return (end - page) * KA_PAGE_SIZE;
}
