// SPDX-License-Identifier: MIT
/*
 * A heap's figures: counted when somebody wants them, from what pools and arenas know
 * anyway, and shown to other processes: in the module's statistics page or, without the
 * module, in the notes at the start of the window, which a process that may read this one's
 * memory finds by their first word. They are written where arenas and pools come and go,
 * which takes the heap's lock, as often as it costs no more than a hundredth of the time.
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "pool/pool.h"

#define NS_PER_S	1000000000ULL

/* When arenas stay as they are, figures of pools and blocks may be as old as this. */
#define POOLS_AFTER	(NS_PER_S / 10)

/* After writing them, so many times what it took is waited. */
#define COST_DIVISOR	100

/**
 * ka_stats_option() - Ask the environment when heaps are to be shown.
 *
 * Return: When; KA_SHOW_WRONG with errno and a sentence.
 */
enum ka_show ka_stats_option(void)
{
	const char *text = secure_getenv("KARENA_STATS");

	if (!text || !*text)
		return KA_SHOW_LARGE;
	if (!strcmp(text, "0"))
		return KA_SHOW_NEVER;
	if (!strcmp(text, "1"))
		return KA_SHOW_ALWAYS;
	ka_fail(EINVAL, "KARENA_STATS=%s is unknown: give 0, to show a heap's figures to"
		" nobody, or 1, to show them from its beginning on", text);
	return KA_SHOW_WRONG;
}

/**
 * ka_stats_add_up() - Fill in the figures that follow from others.
 * @heap: The heap, whose lock is held.
 * @stats: Those of runs, pools and blocks are there.
 */
void ka_stats_add_up(const struct ka_heap *heap, struct ka_stats *stats)
{
	const struct ka_window *window = &heap->window;

	stats->window = (window->nr_arenas - window->nr_notes) * KA_ARENA_SIZE;
	stats->limit = window->limit * KA_ARENA_SIZE;
	stats->available_bytes = stats->arenas * KA_ARENA_SIZE - stats->run_bytes;
	stats->used_bytes = stats->block_bytes + stats->run_bytes - stats->pool_bytes;
	stats->free_bytes = stats->pool_bytes - stats->block_bytes -
			    stats->quantization_bytes;
	stats->header_bytes = 0;
	stats->alignment_bytes = 0;
}

/**
 * ka_stats_classes() - Count pools and blocks of each size.
 * @heap: The heap, whose lock is held.
 * @classes: Filled in. Other threads go on, as with ka_pool_figures().
 */
void ka_stats_classes(struct ka_heap *heap, struct ka_class classes[KA_CLASSES])
{
	size_t slot = 0;

	for (unsigned int i = 0; i < KA_CLASSES; i++)
		classes[i] = (struct ka_class){ .size = ka_class_size(i) };
	while (slot < heap->nr_slots) {
		const struct ka_pool *pool = heap->map[slot];
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

/* The figures alone: not a member that says how to write or read them. */
#define FIRST_WORD	(offsetof(struct karena_stats, arenas_allocated) / 8)
#define NR_WORDS	(sizeof(struct karena_stats) / 8)

/* Whoever reads it sees by the sequence what is half written. */
static void write_page(const struct ka_heap *heap, struct karena_stats *page,
		       const struct ka_stats *stats)
{
	struct karena_stats now = {
		.arenas_allocated	= stats->arenas_allocated,
		.arenas_reclaimed	= stats->arenas_reclaimed,
		.arenas_highwater	= stats->arenas_highwater,
		.arenas			= stats->arenas,
		.pools			= stats->pools,
		.bytes_blocks		= stats->used_bytes,
		.bytes_available	= stats->free_bytes,
		.bytes_unused_pools	= stats->available_bytes,
		.bytes_headers		= stats->header_bytes,
		.bytes_quantization	= stats->quantization_bytes,
		.bytes_alignment	= stats->alignment_bytes,
	};
	const __u64 *from = (const __u64 *)&now;
	__u64 *to = (__u64 *)page;
	uint32_t odd = __atomic_load_n(&page->sequence, __ATOMIC_RELAXED) | 1;

	for (int i = 0; heap->tallies && i < KARENA_DOMAINS; i++) {
		now.domain[i].blocks = KA_READ(heap->tallies[i].blocks);
		now.domain[i].bytes = KA_READ(heap->tallies[i].bytes);
	}
	__atomic_exchange_n(&page->sequence, odd, __ATOMIC_ACQ_REL);
	__atomic_store_n(&page->version, KARENA_STATS_VERSION, __ATOMIC_RELAXED);
	for (size_t i = FIRST_WORD; i < NR_WORDS; i++)
		__atomic_store_n(&to[i], from[i], __ATOMIC_RELAXED);
	__atomic_store_n(&page->sequence, odd + 1, __ATOMIC_RELEASE);
}

/* A module that is older than the page has none: NULL. */
static struct karena_stats *module_page(const struct ka_window *window)
{
	const struct karena_control *control = window->control;

	if (!control->stats_offset)
		return NULL;
	return (struct karena_stats *)((char *)window->control + control->stats_offset);
}

static void show(struct ka_heap *heap, const struct ka_stats *stats)
{
	write_page(heap, heap->shown.page, stats);
	heap->shown.changes = stats->arenas_allocated + stats->arenas_reclaimed;
}

/* A small, short program does nothing for it; the module's page is there anyway. */
static bool is_to_be_shown(const struct ka_heap *heap)
{
	return heap->shown.page &&
	       (heap->shown.always || heap->notes->stats.arenas_highwater > 1);
}

static void count(struct ka_heap *heap, struct ka_stats *stats)
{
	*stats = heap->notes->stats;
	ka_pool_figures(heap, stats);
	ka_stats_add_up(heap, stats);
}

/**
 * ka_stats_now() - Count, and let others see it, too.
 * @heap: The heap, whose lock is held.
 * @stats: Filled in, but for its size.
 */
void ka_stats_now(struct ka_heap *heap, struct ka_stats *stats)
{
	count(heap, stats);
	if (is_to_be_shown(heap))
		show(heap, stats);
}

static void show_now(struct ka_heap *heap)
{
	struct ka_shown *shown = &heap->shown;
	uint64_t began = ka_clock(), now;
	struct ka_stats stats;

	count(heap, &stats);
	show(heap, &stats);
	now = ka_clock();
	shown->next = now + (now - began) * COST_DIVISOR;
	shown->next_pools = now + POOLS_AFTER;
	if (shown->next_pools < shown->next)
		shown->next_pools = shown->next;
}

/**
 * ka_stats_changed() - Arenas or pools may have become more or fewer.
 * @heap: The heap, whose lock is held.
 */
void ka_stats_changed(struct ka_heap *heap)
{
	const struct ka_stats *stats = &heap->notes->stats;
	struct ka_shown *shown = &heap->shown;
	bool arenas;

	if (shown->report && stats->arenas_highwater / 2 >= shown->reported)
		shown->due = stats->arenas_highwater > 0;
	if (!is_to_be_shown(heap))
		return;
	arenas = stats->arenas_allocated + stats->arenas_reclaimed != shown->changes;
	if (ka_clock_coarse() >= (arenas ? shown->next : shown->next_pools))
		show_now(heap);
}

/**
 * ka_stats_open() - Let a new heap be shown.
 * @heap: The heap.
 * @name: Its name.
 * @show: When.
 */
void ka_stats_open(struct ka_heap *heap, const char *name, enum ka_show show)
{
	strncpy(heap->notes->name, name, sizeof(heap->notes->name) - 1);
	if (show == KA_SHOW_NEVER)
		return;
	heap->shown.page = heap->window.control ? module_page(&heap->window) :
						  &heap->notes->shown;
	heap->shown.always = show == KA_SHOW_ALWAYS || heap->window.control;
	if (show == KA_SHOW_ALWAYS && heap->shown.page)
		show_now(heap);
}

int ka_heap_classes(struct ka_heap *heap, struct ka_class *classes, size_t nr)
{
	struct ka_class all[KA_CLASSES];

	if (ka_refuse_inherited(heap))
		return -1;
	ka_heap_lock(heap);
	ka_stats_classes(heap, all);
	ka_heap_unlock(heap);
	memcpy(classes, all, (nr < KA_CLASSES ? nr : KA_CLASSES) * sizeof(*all));
	return KA_CLASSES;
}
