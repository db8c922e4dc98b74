// SPDX-License-Identifier: MIT
/*
 * A heap's figures: counted when somebody wants them, from what pools and arenas know
 * anyway, and shown to other processes: in the module's statistics page, or in a file
 * (publish.c). They are written where arenas and pools come and go, which takes the
 * heap's lock, as often as it costs no more than a hundredth of the time.
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "pool.h"
#include "publish.h"

#define NS_PER_S	1000000000ULL

/* When arenas stay as they are, figures of pools and blocks may be as old as this. */
#define POOLS_AFTER	(NS_PER_S / 10)

/* After writing them, so many times what it took is waited. */
#define COST_DIVISOR	100

/* The program ends: no file is made any more. */
static bool ended;
/* There is something to do then. */
static bool at_exit_wanted;

/**
 * ka_stats_option() - What the environment wants to be shown of a heap.
 * @heap: The heap, which is being made.
 * @name: Its name.
 *
 * Return: 0; -1 with errno and a sentence.
 */
int ka_stats_option(struct ka_heap *heap, const char *name)
{
	const char *text = secure_getenv("KARENA_STATS");
	const char *report = secure_getenv("KARENA_MALLOCSTATS");
	struct ka_shown *shown = &heap->shown;

	*shown = (struct ka_shown){ .seccomp = prctl(PR_GET_SECCOMP) };
	strncpy(shown->name, name, sizeof(shown->name) - 1);
	shown->report = report && *report && strcmp(report, "0") != 0;
	if (!text || !*text)
		return 0;
	if (!strcmp(text, "0"))
		shown->wish = KA_SHOW_NEVER;
	else if (!strcmp(text, "1"))
		shown->wish = KA_SHOW_ALWAYS;
	else
		return ka_fail(EINVAL, "KARENA_STATS=%s is unknown: give 0, to show a"
			       " heap's figures to nobody, or 1, to show them from the"
			       " begin", text);
	return 0;
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

static void open_page(struct ka_heap *heap)
{
	struct ka_shown *shown = &heap->shown;

	if (heap->window.control) {
		shown->page = module_page(&heap->window);
		return;
	}
	if (__atomic_load_n(&ended, __ATOMIC_RELAXED))
		return;
	if (!ka_publish(shown, heap->window.start)) {
		shown->failed = true;
		return;
	}
	shown->page = &shown->file->stats;
	__atomic_store_n(&at_exit_wanted, true, __ATOMIC_RELAXED);
}

static void forget_file(struct ka_shown *shown)
{
	if (!shown->file)
		return;
	ka_publish_unmap(shown);
	shown->page = NULL;
}

/* A small heap need not have a file; the module's page is there anyway. */
static bool is_to_be_shown(const struct ka_heap *heap)
{
	const struct ka_shown *shown = &heap->shown;

	if (heap->window.control)
		return shown->wish != KA_SHOW_NEVER;
	if (shown->wish == KA_SHOW_LARGE)
		return heap->notes->stats.arenas_highwater > 1 && !shown->failed;
	return shown->wish == KA_SHOW_ALWAYS && !shown->failed;
}

/* Where to write the figures, if there is such a place. */
static struct karena_stats *page_of(struct ka_heap *heap)
{
	struct ka_shown *shown = &heap->shown;

	/* What _Fork() or clone() leaves is still the parent's. */
	if (shown->file && shown->pid != getpid())
		forget_file(shown);
	if (!shown->page)
		open_page(heap);
	return shown->page;
}

static void show(struct ka_heap *heap, struct karena_stats *page,
		 const struct ka_stats *stats)
{
	write_page(heap, page, stats);
	heap->shown.changes = stats->arenas_allocated + stats->arenas_reclaimed;
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
	struct karena_stats *page = is_to_be_shown(heap) ? page_of(heap) : NULL;

	count(heap, stats);
	if (page)
		show(heap, page, stats);
}

static uint64_t now_by(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

static void show_now(struct ka_heap *heap)
{
	struct ka_shown *shown = &heap->shown;
	struct karena_stats *page = page_of(heap);
	struct ka_stats stats;
	uint64_t now, cost;

	if (!page)
		return;
	/* What other threads take from the processor is none of it. */
	cost = now_by(CLOCK_THREAD_CPUTIME_ID);
	count(heap, &stats);
	show(heap, page, &stats);
	cost = now_by(CLOCK_THREAD_CPUTIME_ID) - cost;
	now = now_by(CLOCK_MONOTONIC);
	shown->next = now + cost * COST_DIVISOR;
	shown->next_pools = now + POOLS_AFTER;
	if (shown->next_pools < shown->next)
		shown->next_pools = shown->next;
}

static void report(struct ka_heap *heap)
{
	int before = errno;

	heap->shown.reported = heap->notes->stats.arenas_allocated;
	/* Nobody has asked for an error. */
	ka_report(heap, STDERR_FILENO);
	errno = before;
}

/**
 * ka_stats_changed() - Arenas or pools may have become more or fewer.
 * @heap: The heap, whose lock is held.
 */
void ka_stats_changed(struct ka_heap *heap)
{
	const struct ka_stats *stats = &heap->notes->stats;
	const struct ka_shown *shown = &heap->shown;
	bool due;

	if (shown->report && stats->arenas_allocated > shown->reported)
		report(heap);
	if (!is_to_be_shown(heap))
		return;
	if (stats->arenas_allocated + stats->arenas_reclaimed != shown->changes)
		due = now_by(CLOCK_MONOTONIC) >= shown->next;
	else
		due = now_by(CLOCK_MONOTONIC_COARSE) >= shown->next_pools;
	if (due)
		show_now(heap);
}

/**
 * ka_stats_open() - Show a new heap, if it is to be shown at once.
 * @heap: The heap.
 */
void ka_stats_open(struct ka_heap *heap)
{
	if (heap->shown.report)
		__atomic_store_n(&at_exit_wanted, true, __ATOMIC_RELAXED);
	pthread_mutex_lock(&heap->lock);
	if (heap->shown.wish == KA_SHOW_ALWAYS)
		show_now(heap);
	pthread_mutex_unlock(&heap->lock);
}

static void unlink_file(const struct ka_shown *shown)
{
	if (shown->file && shown->pid == getpid())
		ka_publish_unlink(shown);
}

/**
 * ka_stats_close() - A heap is shown no longer.
 * @heap: The heap, which goes.
 */
void ka_stats_close(struct ka_heap *heap)
{
	unlink_file(&heap->shown);
	forget_file(&heap->shown);
}

/**
 * ka_stats_forked() - In a child: the parent's file is not its own.
 * @heap: The heap, whose lock is held.
 *
 * A child that is soon gone makes none.
 */
void ka_stats_forked(struct ka_heap *heap)
{
	struct ka_shown *shown = &heap->shown;

	forget_file(shown);
	shown->failed = false;
	shown->next = 0;
	shown->next_pools = now_by(CLOCK_MONOTONIC_COARSE) + POOLS_AFTER;
}

static void finish(struct ka_heap *heap)
{
	if (heap->shown.report && !heap->inherited)
		report(heap);
	unlink_file(&heap->shown);
}

__attribute__((destructor))
static void at_exit(void)
{
	__atomic_store_n(&ended, true, __ATOMIC_RELAXED);
	if (__atomic_load_n(&at_exit_wanted, __ATOMIC_RELAXED))
		ka_heaps_at_exit(finish);
}

int ka_heap_classes(struct ka_heap *heap, struct ka_class *classes, size_t nr)
{
	struct ka_class all[KA_CLASSES];

	if (ka_refuse_inherited(heap))
		return -1;
	pthread_mutex_lock(&heap->lock);
	ka_stats_classes(heap, all);
	pthread_mutex_unlock(&heap->lock);
	memcpy(classes, all, (nr < KA_CLASSES ? nr : KA_CLASSES) * sizeof(*all));
	return KA_CLASSES;
}
