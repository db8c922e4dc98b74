// SPDX-License-Identifier: MIT
/*
 * The runs of the program: those that it has allocated, and those of blocks that are too large
 * for pools. Runs of pools and of spare pools do not belong to the program.
 */
#include <errno.h>
#include <string.h>

#include "pool/pool.h"

/* The pages of a large run. The program may use only a few, so the kernel's setting decides. */
static enum ka_pages run_pages_kind(size_t size)
{
	return size >= KA_ARENA_SIZE ? KA_PAGES_ANY : KA_PAGES_SMALL;
}

/**
 * ka_runs_alloc_zeroed() - Allocate a zeroed run.
 * @pools: The pools of the heap.
 * @size: Whole pages, in bytes.
 * @align: A power of two, in bytes; or 0.
 *
 * Return: The run, or NULL with errno and a message.
 */
void *ka_runs_alloc_zeroed(struct ka_pools *pools, size_t size, size_t align)
{
	bool zero;
	void *run;

	if (ka_refuse_inherited(pools))
		return NULL;
	ka_arenas_lock(&pools->arenas);
	run = ka_run_alloc_locked(&pools->arenas, size, align, run_pages_kind(size), &zero);
	ka_arenas_unlock(&pools->arenas);
	return run && !zero ? memset(run, 0, size) : run;
}

/**
 * ka_runs_alloc() - Allocate a run.
 * @pools: The pools of the heap.
 * @size: Bytes.
 * @align: A power of two, in bytes; or 0.
 *
 * Return: The run, or NULL with errno and a message.
 */
void *ka_runs_alloc(struct ka_pools *pools, size_t size, size_t align)
{
	void *run;

	if (!size || size % KA_PAGE_SIZE) {
		ka_fail(EINVAL, "invalid size %zu of a run: it must be whole pages of %zu bytes",
			size, KA_PAGE_SIZE);
		return NULL;
	}
	if (align & (align - 1)) {
		ka_fail(EINVAL, "invalid alignment %zu: it must be a power of two", align);
		return NULL;
	}
	if (ka_refuse_inherited(pools))
		return NULL;
	ka_arenas_lock(&pools->arenas);
	run = ka_run_alloc_locked(&pools->arenas, size, align, run_pages_kind(size), NULL);
	ka_arenas_changed(&pools->arenas);
	ka_arenas_unlock(&pools->arenas);
	return run;
}

/* True if a run belongs to a spare pool. */
static bool run_is_spare(const struct ka_pools *pools, const void *run)
{
	size_t slot = ka_slot_of(pools, run);

	return pools->nr_spare && (uintptr_t)run % KA_SLOT_SIZE == 0 &&
	       ka_metadata_has_pool(&pools->arenas, slot) &&
	       __atomic_load_n(&pools->entries[slot].owner, __ATOMIC_RELAXED) == KA_SPARE;
}

/* True if a run of the program begins at an address. The heap's lock is held. */
static bool run_is_programs(const struct ka_pools *pools, const void *address)
{
	return ka_pool_of(pools, address) == &ka_no_pool &&
	       ka_run_begins(&pools->arenas, address) && !run_is_spare(pools, address);
}

static int run_missing(const void *address)
{
	return ka_fail(EINVAL, "no run begins at %p", address);
}

/**
 * ka_runs_free() - Free a run.
 * @pools: The pools of the heap.
 * @run: The address that the caller passed.
 *
 * Return: 0; -1 with errno and a message if no run of the program begins there.
 */
int ka_runs_free(struct ka_pools *pools, void *run)
{
	bool found;

	if (ka_refuse_inherited(pools))
		return -1;
	ka_arenas_lock(&pools->arenas);
	found = run_is_programs(pools, run);
	if (found) {
		ka_run_free_locked(&pools->arenas, run);
		ka_arenas_decay(&pools->arenas);
	}
	ka_arenas_changed(&pools->arenas);
	ka_arenas_unlock(&pools->arenas);
	return found ? 0 : run_missing(run);
}

/**
 * ka_runs_size() - Get the size of a run.
 * @pools: The pools of the heap.
 * @run: The address that the caller passed.
 *
 * Return: Bytes; 0 with errno and a message if no run of the program begins there.
 */
size_t ka_runs_size(struct ka_pools *pools, const void *run)
{
	size_t size = 0;

	if (ka_refuse_inherited(pools))
		return 0;
	ka_arenas_lock(&pools->arenas);
	if (run_is_programs(pools, run))
		size = ka_run_bytes(&pools->arenas, run);
	ka_arenas_unlock(&pools->arenas);
	if (!size)
		run_missing(run);
	return size;
}

/**
 * ka_runs_resize() - Change the size of a run in place.
 * @pools: The pools of the heap.
 * @run: The run.
 * @size: Bytes, more than 0; rounded up to whole pages.
 *
 * Return: True if the run has that size now.
 */
bool ka_runs_resize(struct ka_pools *pools, void *run, size_t size)
{
	bool done = false, less = false;

	if (ka_refuse_inherited(pools))
		return false;
	ka_arenas_lock(&pools->arenas);
	if (run_is_programs(pools, run))
		done = ka_run_resize(&pools->arenas, run, size, &less);
	if (less)
		ka_arenas_decay(&pools->arenas);
	ka_arenas_changed(&pools->arenas);
	ka_arenas_unlock(&pools->arenas);
	return done;
}

/**
 * ka_runs_move() - Move the content of a run to another one by remapping its pages.
 * @pools: The pools of the heap.
 * @run: The run, which has no content afterwards.
 * @other: The other run, which has not been used yet.
 * @size: Bytes of @run; @other is at least as large.
 *
 * Context: The caller owns both runs, so the heap's lock is not taken.
 *
 * Return: The outcome; KA_NOWHERE with errno and a message. The caller then frees the run
 * without content by ka_runs_free_cleared().
 */
enum ka_moved ka_runs_move(struct ka_pools *pools, void *run, void *other, size_t size)
{
	struct ka_window *window = &pools->arenas.window;

	if (!window->source->move || window->io || window->fork == KA_FORK_SHARE)
		return KA_NOT_MOVED;
	return window->source->move(window, run, other, size);
}

/**
 * ka_runs_free_cleared() - Free a run whose first pages have no content any more.
 * @pools: The pools of the heap.
 * @run: The run.
 * @size: Bytes of these pages; 0: all pages.
 * @lost: These pages are not mapped any more.
 */
void ka_runs_free_cleared(struct ka_pools *pools, void *run, size_t size, bool lost)
{
	ka_arenas_lock(&pools->arenas);
	ka_run_free_cleared_locked(&pools->arenas, run, size, lost);
	ka_arenas_decay(&pools->arenas);
	ka_arenas_changed(&pools->arenas);
	ka_arenas_unlock(&pools->arenas);
}
