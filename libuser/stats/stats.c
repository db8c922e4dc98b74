// SPDX-License-Identifier: MIT
/*
 * A heap's statistics, counted on demand from the state of its pools and arenas.
 */
#include <errno.h>
#include <string.h>

#include "stats/stats.h"

/* Size of struct ka_class in the first version. */
#define CLASS_MIN	sizeof(struct ka_class)

/**
 * ka_stats_add_up() - Fill in the statistics that follow from others.
 * @heap: The heap.
 * @stats: Those of arenas, runs, pools and blocks are filled in already.
 *
 * Context: The heap's lock is held.
 */
void ka_stats_add_up(const struct ka_heap *heap, struct ka_stats *stats)
{
	const struct ka_window *window = ka_window_of(heap);

	stats->window = (window->nr_arenas - window->nr_metadata) * KA_ARENA_SIZE;
	stats->limit = window->limit * KA_ARENA_SIZE;
	stats->available_bytes = stats->arenas * KA_ARENA_SIZE - stats->run_bytes;
	stats->used_bytes = stats->block_bytes + stats->run_bytes - stats->pool_bytes;
	stats->free_bytes = stats->pool_bytes - stats->block_bytes -
			    stats->quantization_bytes;
	stats->header_bytes = 0;
	stats->alignment_bytes = 0;
}

/**
 * ka_stats_classes() - Count the pools and blocks of each size class.
 * @heap: The heap.
 * @classes: Filled in.
 *
 * Context: The heap's lock is held. Other threads may allocate and free blocks during the call.
 */
void ka_stats_classes(struct ka_heap *heap, struct ka_class classes[KA_CLASSES])
{
	size_t slot = 0;

	for (unsigned int i = 0; i < KA_CLASSES; i++)
		classes[i] = (struct ka_class){ .size = ka_class_size(i) };
	while (slot < ka_pools_of(heap)->nr_slots) {
		const struct ka_pool *pool = ka_pools_of(heap)->map[slot];
		struct ka_class *class = &classes[pool->class];
		size_t used;

		slot += pool == &ka_no_pool ? 1 : pool->slots;
		if (pool == &ka_no_pool)
			continue;
		used = ka_pool_in_use(pool);
		class->pools++;
		class->blocks += used;
		class->free_blocks += pool->capacity - used;
	}
}

/**
 * ka_stats_count() - Count the statistics of a heap.
 * @heap: The heap.
 * @stats: Filled in, except for its size.
 *
 * Context: The heap's lock is held. Other threads may allocate and free blocks during the call.
 */
void ka_stats_count(struct ka_heap *heap, struct ka_stats *stats)
{
	*stats = ka_arenas_of(heap)->metadata->stats;
	ka_pool_stats(ka_pools_of(heap), stats);
	ka_stats_add_up(heap, stats);
}

int ka_heap_classes(struct ka_heap *heap, struct ka_class *classes, size_t nr,
		    size_t entry_size)
{
	struct ka_class all[KA_CLASSES];
	size_t known = entry_size < sizeof(*all) ? entry_size : sizeof(*all);

	if (entry_size < CLASS_MIN)
		return ka_fail(EINVAL, "invalid size %zu of an entry: pass sizeof(struct ka_class)",
			       entry_size);
	if (ka_refuse_inherited(ka_pools_of(heap)))
		return -1;
	ka_arenas_lock(ka_arenas_of(heap));
	ka_stats_classes(heap, all);
	ka_arenas_unlock(ka_arenas_of(heap));
	/* The caller's entries may have more members, which stay unchanged, or fewer. */
	for (size_t i = 0; i < nr && i < KA_CLASSES; i++)
		memcpy((char *)classes + i * entry_size, &all[i], known);
	return KA_CLASSES;
}
