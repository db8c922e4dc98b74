// SPDX-License-Identifier: MIT
/*
 * Arenas of a heap: committed when a run needs them, and released. Empty arenas become
 * volatile. Free pages are purged when the program has not needed them for a while, or when
 * they exceed 8 MiB plus an eighth of the pages in use. The highest addresses are purged
 * first, since new runs use the lowest. All functions are called with the heap's lock held.
 *
 * No thread exists for this: the threads that allocate and free runs read the clock.
 */
#include <errno.h>

#include "base/bits.h"
#include "arena/arena.h"

/*
 * A heap's first arena is committed in parts of 64 KiB, so that a small heap costs only what it
 * uses; but not if its first run already uses a quarter of the arena.
 */
#define PART_PAGES	((size_t)16)
#define FIRST_RUN_PAGES	(KA_ARENA_PAGES / 4)

/*
 * The first arenas have no huge pages, of which half might be unused: too much for a small
 * heap.
 */
#define SMALL_HEAP	3

/*
 * Pages are purged after they have been free for so long. The time is longer in a heap that
 * soon needs most of them again, for example because the machine is slow.
 */
#define DECAY_MS	200
#define LONGEST_DECAY_MS 12800

/* Free pages that always stay; numbers and rows of pages that are not worth a system call. */
#define LEAST_SLACK	((8 * KA_MIB) / KA_PAGE_SIZE)
#define LEAST_IDLE	((size_t)16)
#define LEAST_ROW	((size_t)16)

/* Maximum of @to_thin, which would otherwise grow for ever. */
#define MOST_TO_THIN	((size_t)4096)

/* The end of a row of arenas from @first on that are all (not) committed, at most @end. */
static size_t row_end(struct ka_arenas *arenas, size_t first, size_t end, bool committed)
{
	while (first < end &&
	       !ka_arena_at(arenas->metadata, first)->nr_backed == !committed)
		first++;
	return first;
}

/* Number of pages of an arena that are free and may have old content. */
static size_t arena_idle(const struct ka_arena *arena)
{
	size_t pages = 0;

	for (size_t i = 0; i < KA_MAP_WORDS; i++)
		pages += (size_t)__builtin_popcountll(arena->touched[i] & ~arena->used[i]);
	return pages;
}

/* pool_may_be_thinned() in thread/trim.c reads @huge without the heap's lock. */
static void arena_set_huge(struct ka_arena *arena, bool huge)
{
	__atomic_store_n(&arena->huge, huge, __ATOMIC_RELAXED);
}

/* Record that an empty arena has no memory any more. */
static void arena_forget(struct ka_arenas *arenas, struct ka_arena *arena)
{
	arenas->idle -= arena_idle(arena);
	ka_change_bits(arena->touched, 0, KA_ARENA_PAGES, false);
	ka_change_bits(arena->backed, 0, KA_ARENA_PAGES, false);
	arena->nr_backed = 0;
	arena_set_huge(arena, false);
	arena->advised = false;
	arena->is_volatile = false;
	arenas->metadata->stats.arenas--;
	arenas->metadata->stats.arenas_reclaimed++;
	arenas->metadata->nr_empty--;
}

static void arenas_release(struct ka_arenas *arenas, size_t first, size_t count)
{
	arenas->window.source->release(&arenas->window, first, count);
	for (size_t i = first; i < first + count; i++)
		arena_forget(arenas, ka_arena_at(arenas->metadata, i));
}

/* Make an empty arena usable again. False if the kernel has reclaimed its memory. */
static bool arena_reuse(struct ka_arenas *arenas, size_t index)
{
	struct ka_arena *arena = ka_arena_at(arenas->metadata, index);

	if (!arena->is_volatile)
		return true;
	arena->is_volatile = false;
	arenas->reused = true;
	if (arenas->window.source->reuse(&arenas->window, index))
		return true;
	arena_forget(arenas, arena);
	return false;
}

static int commit_failed(struct ka_arenas *arenas, size_t count, int error)
{
	size_t committed = arenas->metadata->stats.arenas;

	if (committed + count > arenas->window.limit)
		return ka_fail(ENOMEM, "the heap is at its limit: it has %zu of %zu"
			       " arenas and needs %zu more", committed,
			       arenas->window.limit, count);
	/*
	 * Return ENOMEM also if a sandbox or the limit of locked memory refuses: callers rely
	 * on it.
	 */
	return ka_fail(error == EEXIST ? EEXIST : ENOMEM,
		       "no memory for %zu more arenas: the machine, the"
		       " memory cgroup, the limit of all heaps or that of locked"
		       " memory (ulimit -l) has none left", count);
}

static void arena_pages_committed(struct ka_arenas *arenas, size_t index, size_t from, size_t count)
{
	struct ka_arena *arena = ka_arena_at(arenas->metadata, index);
	struct ka_metadata *metadata = arenas->metadata;

	ka_change_bits(arena->backed, from, count, true);
	arena->nr_backed = (uint16_t)(arena->nr_backed + count);
	/* The arena had committed pages before. */
	if (arena->nr_backed > count)
		return;
	arena->longest = KA_ARENA_PAGES;
	if (index < arenas->room_again)
		arenas->room_again = index;
	metadata->stats.arenas++;
	metadata->stats.arenas_allocated++;
	metadata->nr_empty++;
	if (metadata->stats.arenas > metadata->stats.arenas_highwater)
		metadata->stats.arenas_highwater = metadata->stats.arenas;
	if (index >= metadata->nr_touched)
		metadata->nr_touched = index + 1;
}

/**
 * ka_arena_commit_pages() - Commit pages of an arena that are not committed yet.
 * @arenas: The arenas of the heap.
 * @index: The arena.
 * @from: The first page.
 * @pages: Number of pages; parts of 64 KiB are committed whole.
 *
 * Return: 0, or -1 with errno and a message.
 */
int ka_arena_commit_pages(struct ka_arenas *arenas, size_t index, size_t from, size_t pages)
{
	struct ka_arena *arena = ka_arena_at(arenas->metadata, index);
	size_t end = (from + pages + PART_PAGES - 1) & ~(PART_PAGES - 1);
	size_t at = ka_find_bit(arena->backed, from & ~(PART_PAGES - 1), false);

	if (!arena->nr_backed && arenas->metadata->stats.arenas >= arenas->window.limit)
		return commit_failed(arenas, 1, ENOMEM);
	while (at < end) {
		size_t to = ka_find_bit(arena->backed, at, true);
		int error;

		to = to < end ? to : end;
		error = arenas->window.source->commit_pages(&arenas->window, index, at,
							  to - at);
		/* The module's state word already says that the pages are committed. */
		if (error && !arena->nr_backed && arenas->window.source->frames)
			arenas->window.source->release(&arenas->window, index, 1);
		if (error)
			return commit_failed(arenas, 1, error);
		arena_pages_committed(arenas, index, at, to - at);
		at = ka_find_bit(arena->backed, to, false);
	}
	return 0;
}

/* Release the committed arenas of a row, all of which are empty. */
static void row_release(struct ka_arenas *arenas, size_t first, size_t end)
{
	while (first < end) {
		size_t from = row_end(arenas, first, end, false);

		first = row_end(arenas, from, end, true);
		if (from < first)
			arenas_release(arenas, from, first - from);
	}
}

/* Let the empty arenas of a row become volatile again. */
static void row_mark_emptied(struct ka_arenas *arenas, size_t first, size_t end)
{
	for (size_t i = first; i < end; i++) {
		const struct ka_arena *arena = ka_arena_at(arenas->metadata, i);

		if (arena->nr_backed && !arena->nr_used)
			ka_arena_emptied(arenas, i);
	}
}

/* Commit the uncommitted arenas of a row, all or none. */
static int row_commit(struct ka_arenas *arenas, size_t first, size_t count,
		      enum ka_pages kind)
{
	size_t end = first + count, missing = 0, i, j;
	int error = 0;

	for (i = first; i < end; i++)
		missing += !ka_arena_at(arenas->metadata, i)->nr_backed ||
			   !arena_reuse(arenas, i);
	/* A heap whose limit was lowered may have more arenas, and may use these. */
	if (missing && arenas->metadata->stats.arenas + missing > arenas->window.limit) {
		row_mark_emptied(arenas, first, end);
		return commit_failed(arenas, missing, ENOMEM);
	}
	for (i = first; i < end && !error; i = j) {
		i = row_end(arenas, i, end, true);
		j = row_end(arenas, i, end, false);
		if (i == j)
			break;
		error = arenas->window.source->commit(&arenas->window, i, j - i, kind);
		for (size_t k = i; !error && k < j; k++) {
			struct ka_arena *arena = ka_arena_at(arenas->metadata, k);

			arena_pages_committed(arenas, k, 0, KA_ARENA_PAGES);
			arena_set_huge(arena, kind != KA_PAGES_SMALL &&
				       !arenas->window.source->frames);
			arena->advised = kind == KA_PAGES_HUGE;
		}
	}
	if (error) {
		row_release(arenas, first, end);
		return commit_failed(arenas, missing, error);
	}
	/* Some of the committed arenas may have been committed in part only. */
	for (i = first; i < end; i++) {
		if (!ka_arena_commit_pages(arenas, i, 0, KA_ARENA_PAGES))
			continue;
		row_release(arenas, first, end);
		return -1;
	}
	return 0;
}

/* True if an arena is to be committed in parts: the first of the heap, with a small first run. */
static bool arena_begins_in_parts(struct ka_arenas *arenas, size_t first, size_t pages)
{
	struct ka_arena *arena = ka_arena_at(arenas->metadata, first);

	if (first != arenas->window.nr_metadata || pages > KA_ARENA_PAGES)
		return false;
	if (pages < FIRST_RUN_PAGES)
		arena->parts = true;
	return arena->parts;
}

/**
 * ka_arenas_commit() - Commit the arenas of a run that begins at the start of an arena.
 * @arenas: The arenas of the heap.
 * @first: The first arena; none of the arenas has a run.
 * @count: Number of arenas.
 * @pages: Pages of the run.
 * @kind: The pages that the arenas should have.
 *
 * Return: 0, or -1 with errno and a message; EEXIST: see ka_arenas_block().
 */
int ka_arenas_commit(struct ka_arenas *arenas, size_t first, size_t count, size_t pages,
		     enum ka_pages kind)
{
	const struct ka_metadata *metadata = arenas->metadata;
	size_t end = first + count, fresh = 0;
	int error;

	/* Commit no metadata for arenas that the limit refuses anyway. */
	if (end > metadata->nr_touched)
		fresh = end - (first > metadata->nr_touched ? first : metadata->nr_touched);
	if (fresh && metadata->stats.arenas + fresh > arenas->window.limit)
		return commit_failed(arenas, fresh, ENOMEM);
	error = ka_metadata_reach(arenas, end);
	if (error)
		return commit_failed(arenas, count, error);
	if (arena_begins_in_parts(arenas, first, pages))
		return ka_arena_commit_pages(arenas, first, 0, pages);
	if (kind == KA_PAGES_HUGE && metadata->stats.arenas + count <= SMALL_HEAP)
		kind = KA_PAGES_SMALL;
	return row_commit(arenas, first, count, kind);
}

/**
 * ka_arenas_block() - Mark arenas as blocked where another mapping lies.
 * @arenas: The arenas of the heap.
 * @first: The first arena; all have an entry in the metadata.
 * @count: Number of arenas; committed ones do not change.
 *
 * Return: True if an arena was marked, so that a search no longer finds it.
 */
bool ka_arenas_block(struct ka_arenas *arenas, size_t first, size_t count)
{
	struct ka_metadata *metadata = arenas->metadata;
	bool any = false;

	for (size_t i = first; i < first + count; i++) {
		struct ka_arena *arena = ka_arena_at(metadata, i);

		if (arena->nr_backed)
			continue;
		/* A blocked arena looks like one run, which no caller has. */
		ka_change_bits(arena->used, 0, KA_ARENA_PAGES, true);
		ka_change_bits(arena->head, 0, 1, true);
		arena->nr_used = KA_ARENA_PAGES;
		if (i >= metadata->nr_touched)
			metadata->nr_touched = i + 1;
		any = true;
	}
	return any;
}

/**
 * ka_arenas_close() - Unmap the arenas of a heap that is destroyed, and nothing else.
 * @arenas: The arenas of the heap.
 */
void ka_arenas_close(struct ka_arenas *arenas)
{
	const struct ka_metadata *metadata = arenas->metadata;

	for (size_t i = metadata->nr_metadata; i < metadata->nr_touched; i++) {
		if (ka_arena_at(metadata, i)->nr_backed)
			arenas->window.source->release(&arenas->window, i, 1);
	}
}

/*
 * Let an empty arena that was committed for another purpose have huge pages. The heap is not
 * small any more if it has so many arenas.
 */
static void arena_make_huge(struct ka_arenas *arenas, size_t index)
{
	const struct ka_source_type *source = arenas->window.source;
	struct ka_arena *arena = ka_arena_at(arenas->metadata, index);

	if (arena->nr_used || arena->parts || arena->advised || !source->make_huge ||
	    arenas->metadata->stats.arenas <= SMALL_HEAP)
		return;
	source->make_huge(&arenas->window, index);
	arena->advised = true;
	arena_set_huge(arena, true);
}

/**
 * ka_arena_use() - Prepare pages of a committed arena for a run.
 * @arenas: The arenas of the heap.
 * @index: The arena.
 * @from: The run's first page in it.
 * @pages: Number of the run's pages in it.
 * @kind: The pages that the run should have.
 *
 * Return: 0; 1 if the kernel has reclaimed the arena, which is then uncommitted; or -1 with
 * errno and a message.
 */
int ka_arena_use(struct ka_arenas *arenas, size_t index, size_t from, size_t pages,
		 enum ka_pages kind)
{
	if (!arena_reuse(arenas, index))
		return 1;
	if (kind == KA_PAGES_HUGE)
		arena_make_huge(arenas, index);
	return ka_arena_commit_pages(arenas, index, from, pages);
}

static bool arena_is_empty(const struct ka_metadata *metadata, size_t index)
{
	const struct ka_arena *arena = ka_arena_at(metadata, index);

	return arena->nr_backed && !arena->nr_used;
}

/**
 * ka_arenas_emptied() - Release empty arenas beyond @most_empty.
 * @arenas: The arenas of the heap.
 *
 * Those with the lowest addresses stay, since the next runs are allocated there. They become
 * volatile.
 */
void ka_arenas_emptied(struct ka_arenas *arenas)
{
	struct ka_metadata *metadata = arenas->metadata;
	size_t end = metadata->nr_touched;

	while (metadata->nr_empty > arenas->most_empty) {
		size_t first, most = metadata->nr_empty - arenas->most_empty;

		while (!arena_is_empty(metadata, end - 1))
			end--;
		first = end - 1;
		while (end - first < most && first > metadata->nr_metadata &&
		       arena_is_empty(metadata, first - 1))
			first--;
		arenas_release(arenas, first, end - first);
		end = first;
	}
}

/**
 * ka_arena_pages_lost() - Record that pages of an arena are not mapped any more.
 * @arenas: The arenas of the heap.
 * @index: The arena.
 * @from: The first page.
 * @count: Number of pages, none of which is in use or has content.
 */
void ka_arena_pages_lost(struct ka_arenas *arenas, size_t index, size_t from, size_t count)
{
	struct ka_arena *arena = ka_arena_at(arenas->metadata, index);
	size_t backed = ka_count_bits(arena->backed, from, count);

	if (!backed)
		return;
	ka_change_bits(arena->backed, from, count, false);
	arena->nr_backed = (uint16_t)(arena->nr_backed - backed);
	if (!arena->nr_backed)
		arena_forget(arenas, arena);
}

/**
 * ka_arena_emptied() - Record that the last run of an arena was freed.
 * @arenas: The arenas of the heap.
 * @index: The arena. It becomes volatile later if it is still empty then.
 */
void ka_arena_emptied(struct ka_arenas *arenas, size_t index)
{
	struct ka_emptied *emptied = &arenas->emptied;

	if (!emptied->end || index < emptied->first)
		emptied->first = index;
	if (index >= emptied->end)
		emptied->end = index + 1;
}

/*
 * Make the arenas volatile that have become empty and are still empty. If that takes a system
 * call, skip it when a volatile arena was used again since the last scan.
 */
static void arenas_make_volatile(struct ka_arenas *arenas)
{
	if (!arenas->emptied.end || arenas->window.io ||
	    (arenas->reused && !arenas->window.source->frames))
		return;
	for (size_t i = arenas->emptied.first; i < arenas->emptied.end; i++) {
		struct ka_arena *arena = ka_arena_at(arenas->metadata, i);

		if (arena_is_empty(arenas->metadata, i) && !arena->is_volatile)
			arena->is_volatile =
				arenas->window.source->make_volatile(&arenas->window, i);
	}
	arenas->emptied.end = 0;
}

/*
 * Drop pages from a map of free pages: rows shorter than @pages, and at both ends of a row, pages
 * without memory. In an arena with huge pages, an untouched page may have some, too.
 */
static void map_drop(const struct ka_arena *arena, uint64_t *map, size_t pages)
{
	size_t from = 0, end, first, last;

	while ((from = ka_find_bit(map, from, true)) < KA_ARENA_PAGES) {
		end = ka_find_bit(map, from, false);
		first = arena->huge ? from : ka_find_bit(arena->touched, from, true);
		last = end;
		while (!arena->huge && last > first && !ka_test_bit(arena->touched, last - 1))
			last--;
		if (end - from < pages || first > last)
			first = last;
		ka_change_bits(map, from, first - from, false);
		ka_change_bits(map, last, end - last, false);
		from = end;
	}
}

/*
 * Purge free pages of an arena: all, or those that are worth a system call. Purging a few pages
 * by each call takes too long, and a huge page is split only if half of it is free.
 */
static void arena_purge(struct ka_arenas *arenas, size_t index, bool all)
{
	const struct ka_source_type *source = arenas->window.source;
	struct ka_arena *arena = ka_arena_at(arenas->metadata, index);
	uint64_t map[KA_MAP_WORDS];
	size_t idle = arena_idle(arena);

	if (!idle || (arena->huge && !all && idle < KA_ARENA_PAGES / 2))
		return;
	for (size_t i = 0; i < KA_MAP_WORDS; i++)
		map[i] = arena->backed[i] & ~arena->used[i];
	if (!source->frames)
		map_drop(arena, map, all ? 1 : LEAST_ROW);
	if (!source->purge(&arenas->window, index, map))
		return;
	for (size_t i = 0; i < KA_MAP_WORDS; i++) {
		arena->touched[i] &= ~map[i];
		if (source->frames)
			arena->backed[i] &= ~map[i];
	}
	if (source->frames)
		arena->nr_backed = arena->nr_used;
	arena_set_huge(arena, false);
	arenas->idle -= idle - arena_idle(arena);
}

/* Purge at least @pages pages, if there are so many, from the highest address on. */
static void arenas_purge(struct ka_arenas *arenas, size_t pages, bool all)
{
	struct ka_metadata *metadata = arenas->metadata;

	if (!pages)
		return;
	ka_metadata_change(arenas);
	for (size_t i = metadata->nr_touched; i > metadata->nr_metadata && pages; i--) {
		size_t idle = arenas->idle;

		if (arena_is_empty(metadata, i - 1))
			arenas_release(arenas, i - 1, 1);
		else if (ka_arena_at(metadata, i - 1)->nr_backed)
			arena_purge(arenas, i - 1, all);
		idle -= arenas->idle;
		pages -= idle < pages ? idle : pages;
	}
	ka_metadata_change(arenas);
}

static uint64_t now_ms(void)
{
	return ka_clock_coarse() / 1000000;
}

/**
 * ka_arenas_refilled() - Count pages that have got memory again.
 * @arenas: The arenas of the heap.
 * @pages: Number of pages.
 *
 * Pages that are needed again soon were purged in vain, so more are kept from now on.
 */
void ka_arenas_refilled(struct ka_arenas *arenas, size_t pages)
{
	size_t wasted = pages < arenas->not_refilled ? pages : arenas->not_refilled;

	arenas->not_refilled -= wasted;
	arenas->slack += wasted;
}

/* Allow to thin as many pools as the purged pages could have held. */
static void arenas_let_thin(struct ka_arenas *arenas, size_t pages)
{
	/* A thread that thins a pool at this moment may or may not be counted. */
	size_t pools = __atomic_load_n(&arenas->to_thin, __ATOMIC_RELAXED) +
		       pages / KA_SLOT_PAGES;

	__atomic_store_n(&arenas->to_thin, pools < MOST_TO_THIN ? pools : MOST_TO_THIN,
			 __ATOMIC_RELAXED);
}

/* Maximum number of idle pages. */
static size_t arenas_most_idle(const struct ka_arenas *arenas)
{
	return arenas->slack + arenas->metadata->stats.run_bytes / KA_PAGE_SIZE / 8;
}

/* Purge the idle pages above half of the maximum. */
static void arenas_purge_excess(struct ka_arenas *arenas)
{
	size_t idle, most;

	arenas->drop_spare(arenas);
	idle = arenas->idle;
	most = arenas_most_idle(arenas);
	if (idle <= most)
		return;
	arenas_purge(arenas, idle - most / 2, false);
	arenas->purged += idle - arenas->idle;
	arenas->not_refilled += idle - arenas->idle;
	arenas_let_thin(arenas, idle - arenas->idle);
	/* If pages cannot be purged, do not look for them again. */
	if (arenas->idle > most)
		arenas->slack += arenas->idle - most;
}

/**
 * ka_arenas_begin() - Initialise the arenas of a new heap, except window and metadata.
 * @arenas: The arenas of the heap.
 */
void ka_arenas_begin(struct ka_arenas *arenas)
{
	if (!arenas->most_empty)
		arenas->most_empty = 1;
	arenas->lock = (struct ka_mutex)KA_MUTEX;
	arenas->slack = LEAST_SLACK;
	arenas->decay_ms = DECAY_MS;
	arenas->decay_at = now_ms() + DECAY_MS;
}

/* The program did not need the minimum that stayed free, so purge that much. */
static void arenas_purge_unneeded(struct ka_arenas *arenas)
{
	size_t idle;

	if (arenas->not_refilled * 2 < arenas->purged)
		arenas->decay_ms = arenas->decay_ms * 2 < LONGEST_DECAY_MS ?
				 arenas->decay_ms * 2 : LONGEST_DECAY_MS;
	else if (arenas->decay_ms > DECAY_MS)
		arenas->decay_ms /= 2;
	arenas->drop_spare(arenas);
	idle = arenas->idle;
	arenas_purge(arenas, arenas->least_idle, false);
	arenas->least_idle = arenas->idle;
	arenas->reused = false;
	arenas->slack -= (arenas->slack - LEAST_SLACK) / 16;
	arenas->purged = idle - arenas->idle;
	arenas->not_refilled = arenas->purged;
	arenas_let_thin(arenas, arenas->purged);
}

static void arenas_decay(struct ka_arenas *arenas)
{
	uint64_t now;

	if (arenas->idle < LEAST_IDLE || arenas->window.io)
		return;
	if (arenas->window.source->pressed(&arenas->window) && ka_arenas_trim(arenas, NULL))
		return;
	if (arenas->idle + arenas->spare_pages > arenas_most_idle(arenas))
		arenas_purge_excess(arenas);
	now = now_ms();
	if (now < arenas->decay_at)
		return;
	arenas->decay_at = now + arenas->decay_ms;
	arenas_purge_unneeded(arenas);
}

/**
 * ka_arenas_decay() - Purge free pages that were not needed for a while, and excess ones.
 * @arenas: The arenas of the heap, after runs were freed.
 *
 * Arenas that are empty afterwards become volatile.
 */
void ka_arenas_decay(struct ka_arenas *arenas)
{
	arenas_decay(arenas);
	arenas_make_volatile(arenas);
}

/**
 * ka_arenas_trim() - Purge all free pages.
 * @arenas: The arenas of the heap.
 * @pages: Set to the number of pages whose memory was freed; or NULL.
 *
 * Return: True if memory was freed.
 */
bool ka_arenas_trim(struct ka_arenas *arenas, size_t *pages)
{
	struct ka_metadata *metadata = arenas->metadata;
	size_t idle, committed;

	arenas->drop_spare(arenas);
	idle = arenas->window.io ? 0 : arenas->idle;
	committed = metadata->stats.arenas;
	if (pages)
		*pages = 0;
	if (!idle && !metadata->nr_empty)
		return false;
	arenas_purge(arenas, idle, true);
	/* Arenas that have never been used have no idle pages. */
	ka_metadata_change(arenas);
	for (size_t i = metadata->nr_touched; metadata->nr_empty && i > metadata->nr_metadata;
	     i--) {
		if (arena_is_empty(metadata, i - 1))
			arenas_release(arenas, i - 1, 1);
	}
	ka_metadata_change(arenas);
	idle = idle > arenas->idle ? idle - arenas->idle : 0;
	if (pages)
		*pages = idle;
	return idle || metadata->stats.arenas < committed;
}
