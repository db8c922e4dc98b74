// SPDX-License-Identifier: MIT
/*
 * Write a heap's statistics for other processes: to the module's statistics page or, without
 * the module, to the metadata at the start of the window. A process that may read this one's
 * memory finds the metadata by its first word.
 *
 * The writer is a thread that has changed arenas or pools and has just released the heap's
 * lock. Writing takes at most a hundredth of the time. The thread locks the heap again to
 * count, but does not hold the lock while it writes.
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "stats/stats.h"

#define NS_PER_S	1000000000ULL

/* Maximum age in ns of the counts of pools and blocks while the arenas do not change. */
#define POOLS_AFTER	(NS_PER_S / 10)

/* The pause after a write, in multiples of the time that the write took. */
#define COST_DIVISOR	100

/* Size of struct ka_stats in the first version. */
#define STATS_MIN	offsetof(struct ka_stats, pools)

/* Work that is due when a heap's lock is released. */
#define DUE_PAGE	1U
#define DUE_REPORT	2U

/**
 * ka_shown_option() - Read from the environment when heaps are to be shown.
 *
 * Return: The value of KARENA_STATS; KA_SHOW_WRONG with errno and a message.
 */
enum ka_show ka_shown_option(void)
{
	const char *text = secure_getenv("KARENA_STATS");

	if (!text || !*text)
		return KA_SHOW_LARGE;
	if (!strcmp(text, "0"))
		return KA_SHOW_NEVER;
	if (!strcmp(text, "1"))
		return KA_SHOW_ALWAYS;
	ka_fail(EINVAL, "KARENA_STATS: unknown value '%s' (choose 0 to hide the statistics of"
		" heaps, or 1 to publish them from the creation of a heap on)", text);
	return KA_SHOW_WRONG;
}

/* The words that hold statistics, behind the members that describe the layout. */
#define FIRST_WORD	(offsetof(struct karena_stats, arenas_allocated) / 8)
#define NR_WORDS	(sizeof(struct karena_stats) / 8)

/* A reader sees by the sequence that a write is going on. */
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

/* The module's page; NULL if the module is too old to have one. */
static struct karena_stats *module_page(const struct ka_window *window)
{
	const struct karena_control *control = window->control;

	if (!control->stats_offset)
		return NULL;
	return (struct karena_stats *)((char *)window->control + control->stats_offset);
}

/* Small programs show nothing, except on the module, whose page exists anyway. */
static inline bool is_to_be_shown(const struct ka_shown *shown, const struct ka_stats *stats)
{
	return shown->page && (shown->always || stats->arenas_highwater > 1);
}

/* Count the statistics. The heap's lock is held. */
static void count(struct ka_heap *heap, struct ka_stats *stats)
{
	ka_stats_count(heap, stats);
	heap->shown.changes = stats->arenas_allocated + stats->arenas_reclaimed;
}

/* Write the statistics. If another thread is writing them now, its values are recent enough. */
static void write_now(struct ka_heap *heap)
{
	struct ka_shown *shown = &heap->shown;
	uint64_t began, now, next, next_pools;
	struct ka_stats stats;

	if (!ka_try_lock(&shown->lock))
		return;
	began = ka_clock();
	/* Another thread may have written them after this one found that they are due. */
	if (began < __atomic_load_n(&shown->next, __ATOMIC_RELAXED))
		goto out;
	ka_lock(&ka_arenas_of(heap)->lock);
	count(heap, &stats);
	ka_unlock(&ka_arenas_of(heap)->lock);
	write_page(heap, shown->page, &stats);
	now = ka_clock();
	next = now + (now - began) * COST_DIVISOR;
	next_pools = now + POOLS_AFTER;
	__atomic_store_n(&shown->next, next, __ATOMIC_RELAXED);
	__atomic_store_n(&shown->next_pools, next_pools < next ? next : next_pools,
			 __ATOMIC_RELAXED);
out:
	ka_unlock(&shown->lock);
}

static struct ka_heap *heap_of(struct ka_arenas *arenas)
{
	return (struct ka_heap *)((char *)arenas -
				  offsetof(struct ka_heap, caches.pools.arenas));
}

/* True if the statistics are to be printed for KARENA_MALLOCSTATS. The heap's lock is held. */
static __attribute__((noinline)) bool is_report_due(struct ka_shown *shown,
						    const struct ka_stats *stats)
{
	if (stats->arenas_highwater / 2 >= shown->reported)
		shown->due = stats->arenas_highwater > 0;
	return shown->due;
}

/* Called with the heap's lock held when the number of arenas or pools may have changed. */
static unsigned int find_due(struct ka_arenas *arenas)
{
	const struct ka_stats *stats = &arenas->metadata->stats;
	struct ka_shown *shown = &heap_of(arenas)->shown;
	unsigned int due = 0;
	uint64_t next;

	arenas->changed = false;
	if (__builtin_expect(shown->report, 0))
		due = is_report_due(shown, stats) ? DUE_REPORT : 0;
	if (!is_to_be_shown(shown, stats))
		return due;
	if (stats->arenas_allocated + stats->arenas_reclaimed != shown->changes)
		next = __atomic_load_n(&shown->next, __ATOMIC_RELAXED);
	else
		next = __atomic_load_n(&shown->next_pools, __ATOMIC_RELAXED);
	return ka_clock_coarse() < next ? due : due | DUE_PAGE;
}

/* Do the work that find_due() found. The heap is no longer locked. */
static void do_due(struct ka_arenas *arenas, unsigned int due)
{
	struct ka_heap *heap = heap_of(arenas);

	if (due & DUE_PAGE)
		write_now(heap);
	if (due & DUE_REPORT)
		ka_report_due(heap);
}

/**
 * ka_shown_open() - Prepare a new heap's statistics for other processes, and its report.
 * @heap: The heap, which is not in the list yet.
 * @options: Its options.
 * @show: When the statistics are shown.
 */
void ka_shown_open(struct ka_heap *heap, const struct ka_options *options, enum ka_show show)
{
	static const struct ka_watch watch = { .find_due = find_due, .do_due = do_due };
	const struct ka_window *window = ka_window_of(heap);
	struct ka_metadata *metadata = ka_arenas_of(heap)->metadata;

	heap->shown.lock = (struct ka_mutex)KA_MUTEX;
	if (!options->ignore_environment)
		ka_report_wanted(heap);
	strncpy(metadata->name, options->name, sizeof(metadata->name) - 1);
	ka_arenas_of(heap)->watch = &watch;
	if (show == KA_SHOW_NEVER)
		return;
	heap->shown.page = window->control ? module_page(window) : &metadata->shown;
	heap->shown.always = show == KA_SHOW_ALWAYS || window->control;
	if (show == KA_SHOW_ALWAYS && heap->shown.page)
		write_now(heap);
}

int ka_heap_stats(struct ka_heap *heap, struct ka_stats *stats)
{
	size_t size = stats->size;
	struct ka_stats now;
	bool shown;

	if (size < STATS_MIN)
		return ka_fail(EINVAL, "struct ka_stats has the invalid size %zu: initialise it"
			       " with KA_STATS", size);
	if (ka_refuse_inherited(ka_pools_of(heap)))
		return -1;
	/* Update the page as well. Other work waits until the lock is released the next time. */
	ka_lock(&heap->shown.lock);
	ka_lock(&ka_arenas_of(heap)->lock);
	count(heap, &now);
	shown = is_to_be_shown(&heap->shown, &now);
	ka_unlock(&ka_arenas_of(heap)->lock);
	if (shown)
		write_page(heap, heap->shown.page, &now);
	ka_unlock(&heap->shown.lock);
	now.size = size;
	/* Members of a later version stay unchanged. */
	memcpy(stats, &now, size < sizeof(now) ? size : sizeof(now));
	return 0;
}
