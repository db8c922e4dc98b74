// SPDX-License-Identifier: MIT
/*
 * Arenas of a heap: committed when a run needs them, and given back. Empty arenas become
 * volatile. Free pages are purged when nobody has needed them for a while, or when they exceed
 * an eighth of the pages in use; the highest addresses first, since new runs take the lowest.
 * All functions are called with the heap's lock held.
 *
 * No thread does that: the threads that take and give back runs look at the clock.
 */
#include <errno.h>

#include "base/bits.h"
#include "arena/arena.h"

/*
 * A heap's first arena is committed in parts, of 64 KiB: then a small heap costs
 * what it uses. Not when the first run already takes a quarter of it.
 */
#define PART_PAGES	((size_t)16)
#define FIRST_RUN_PAGES	(KA_ARENA_PAGES / 4)

/* So many arenas have no huge pages: half of one may be unused, and that would show. */
#define SMALL_HEAP	3

/*
 * Pages are purged when they have been free for so long; longer in a heap that needs most of
 * them again at once, for example because the machine is slow.
 */
#define DECAY_MS	200
#define LONGEST_DECAY_MS 12800

/* Free pages that are always kept; numbers and rows of pages that are not worth a call. */
#define LEAST_SLACK	((8 * KA_MIB) / KA_PAGE_SIZE)
#define LEAST_IDLE	((size_t)16)
#define LEAST_ROW	((size_t)16)

/* Permissions to thin a pool that nobody uses must not add up for ever. */
#define MOST_TO_THIN	((size_t)4096)

/* The end of the arenas from @first on that are (not) committed, at most @end. */
static size_t row_end(struct ka_arenas *arenas, size_t first, size_t end, bool committed)
{
	while (first < end &&
	       !ka_arena_at(arenas->notes, first)->nr_backed == !committed)
		first++;
	return first;
}

/* Pages of an arena that are free, and may have old content. */
static size_t arena_idle(const struct ka_arena *arena)
{
	size_t pages = 0;

	for (size_t i = 0; i < KA_MAP_WORDS; i++)
		pages += (size_t)__builtin_popcountll(arena->touched[i] & ~arena->used[i]);
	return pages;
}

/* Looked at without the heap's lock: see pool_may_be_thinned() in thread/trim.c. */
static void arena_set_huge(struct ka_arena *arena, bool huge)
{
	__atomic_store_n(&arena->huge, huge, __ATOMIC_RELAXED);
}

/* An empty arena has no memory any more. */
static void arena_forget(struct ka_arenas *arenas, struct ka_arena *arena)
{
	arenas->idle -= arena_idle(arena);
	ka_change_bits(arena->touched, 0, KA_ARENA_PAGES, false);
	ka_change_bits(arena->backed, 0, KA_ARENA_PAGES, false);
	arena->nr_backed = 0;
	arena_set_huge(arena, false);
	arena->is_volatile = false;
	arenas->notes->stats.arenas--;
	arenas->notes->stats.arenas_reclaimed++;
	arenas->notes->nr_empty--;
}

static void arenas_release(struct ka_arenas *arenas, size_t first, size_t count)
{
	arenas->window.source->release(&arenas->window, first, count);
	for (size_t i = first; i < first + count; i++)
		arena_forget(arenas, ka_arena_at(arenas->notes, i));
}

/* An empty arena is about to be used; false if the kernel has taken it meanwhile. */
static bool arena_take_back(struct ka_arenas *arenas, size_t index)
{
	struct ka_arena *arena = ka_arena_at(arenas->notes, index);

	if (!arena->is_volatile)
		return true;
	arena->is_volatile = false;
	arenas->in_vain = true;
	if (arenas->window.source->take_back(&arenas->window, index))
		return true;
	arena_forget(arenas, arena);
	return false;
}

static int commit_failed(struct ka_arenas *arenas, size_t count, int error)
{
	size_t committed = arenas->notes->stats.arenas;

	if (committed + count > arenas->window.limit)
		return ka_fail(ENOMEM, "the heap is at its limit: it has %zu of %zu"
			       " arenas and needs %zu more", committed,
			       arenas->window.limit, count);
	/* Callers are promised ENOMEM, also if a sandbox or the limit of locked memory refuses. */
	return ka_fail(error == EEXIST ? EEXIST : ENOMEM,
		       "no memory for %zu more arenas: the machine, the"
		       " memory cgroup, the limit of all heaps or that of locked"
		       " memory (ulimit -l) has none left", count);
}

static void arena_pages_committed(struct ka_arenas *arenas, size_t index, size_t from, size_t count)
{
	struct ka_arena *arena = ka_arena_at(arenas->notes, index);
	struct ka_notes *notes = arenas->notes;

	ka_change_bits(arena->backed, from, count, true);
	arena->nr_backed = (uint16_t)(arena->nr_backed + count);
	/* There were others before. */
	if (arena->nr_backed > count)
		return;
	arena->longest = KA_ARENA_PAGES;
	if (index < arenas->room_again)
		arenas->room_again = index;
	notes->stats.arenas++;
	notes->stats.arenas_allocated++;
	notes->nr_empty++;
	if (notes->stats.arenas > notes->stats.arenas_highwater)
		notes->stats.arenas_highwater = notes->stats.arenas;
	if (index >= notes->nr_touched)
		notes->nr_touched = index + 1;
}

/**
 * ka_arena_commit_pages() - Commit those pages of an arena that are not committed.
 * @arenas: The heap's.
 * @index: The arena.
 * @from: The first page.
 * @pages: How many; parts of 64 KiB are committed whole.
 *
 * Return: 0, or -1 with errno and a sentence.
 */
int ka_arena_commit_pages(struct ka_arenas *arenas, size_t index, size_t from, size_t pages)
{
	struct ka_arena *arena = ka_arena_at(arenas->notes, index);
	size_t end = (from + pages + PART_PAGES - 1) & ~(PART_PAGES - 1);
	size_t at = ka_find_bit(arena->backed, from & ~(PART_PAGES - 1), false);

	if (!arena->nr_backed && arenas->notes->stats.arenas >= arenas->window.limit)
		return commit_failed(arenas, 1, ENOMEM);
	while (at < end) {
		size_t to = ka_find_bit(arena->backed, at, true);
		int error;

		to = to < end ? to : end;
		error = arenas->window.source->commit_pages(&arenas->window, index, at,
							  to - at);
		/* The module's state word says by then that they were to be committed. */
		if (error && !arena->nr_backed && arenas->window.source->frames)
			arenas->window.source->release(&arenas->window, index, 1);
		if (error)
			return commit_failed(arenas, 1, error);
		arena_pages_committed(arenas, index, at, to - at);
		at = ka_find_bit(arena->backed, to, false);
	}
	return 0;
}

/* All of the row is empty: it goes back. */
static void row_release(struct ka_arenas *arenas, size_t first, size_t end)
{
	while (first < end) {
		size_t from = row_end(arenas, first, end, false);

		first = row_end(arenas, from, end, true);
		if (from < first)
			arenas_release(arenas, from, first - from);
	}
}

/* Arenas of a row that stay empty come to be volatile again. */
static void row_leave(struct ka_arenas *arenas, size_t first, size_t end)
{
	for (size_t i = first; i < end; i++) {
		const struct ka_arena *arena = ka_arena_at(arenas->notes, i);

		if (arena->nr_backed && !arena->nr_used)
			ka_arena_emptied(arenas, i);
	}
}

/* Commit those of a row of arenas that are not committed, all or none. */
static int row_commit(struct ka_arenas *arenas, size_t first, size_t count,
		      enum ka_pages kind)
{
	size_t end = first + count, missing = 0, i, j;
	int error = 0;

	for (i = first; i < end; i++)
		missing += !ka_arena_at(arenas->notes, i)->nr_backed || !arena_take_back(arenas, i);
	/* A heap whose limit was lowered may have more, and use that. */
	if (missing && arenas->notes->stats.arenas + missing > arenas->window.limit) {
		row_leave(arenas, first, end);
		return commit_failed(arenas, missing, ENOMEM);
	}
	for (i = first; i < end && !error; i = j) {
		i = row_end(arenas, i, end, true);
		j = row_end(arenas, i, end, false);
		if (i == j)
			break;
		error = arenas->window.source->commit(&arenas->window, i, j - i, kind);
		for (size_t k = i; !error && k < j; k++) {
			arena_pages_committed(arenas, k, 0, KA_ARENA_PAGES);
			arena_set_huge(ka_arena_at(arenas->notes, k), kind != KA_PAGES_SMALL &&
				       !arenas->window.source->frames);
		}
	}
	if (error) {
		row_release(arenas, first, end);
		return commit_failed(arenas, missing, error);
	}
	/* Of those that were there, some may have had a part only. */
	for (i = first; i < end; i++) {
		if (!ka_arena_commit_pages(arenas, i, 0, KA_ARENA_PAGES))
			continue;
		row_release(arenas, first, end);
		return -1;
	}
	return 0;
}

/* Whether a run is to be the first of a heap's first arena, and a small one. */
static bool arena_begins_in_parts(struct ka_arenas *arenas, size_t first, size_t pages)
{
	struct ka_arena *arena = ka_arena_at(arenas->notes, first);

	if (first != arenas->window.nr_notes || pages > KA_ARENA_PAGES)
		return false;
	if (pages < FIRST_RUN_PAGES)
		arena->parts = true;
	return arena->parts;
}

/**
 * ka_arenas_commit() - Commit what a run needs that begins with an arena of its own.
 * @arenas: The heap's.
 * @first: The arena; it and those behind it have no run.
 * @count: How many.
 * @pages: The run's.
 * @kind: What these may be.
 *
 * Return: 0, or -1 with errno and a sentence; EEXIST: see ka_arenas_block().
 */
int ka_arenas_commit(struct ka_arenas *arenas, size_t first, size_t count, size_t pages,
		     enum ka_pages kind)
{
	const struct ka_notes *notes = arenas->notes;
	size_t end = first + count, fresh = 0;
	int error;

	/* What the limit refuses anyway needs no notes. */
	if (end > notes->nr_touched)
		fresh = end - (first > notes->nr_touched ? first : notes->nr_touched);
	if (fresh && notes->stats.arenas + fresh > arenas->window.limit)
		return commit_failed(arenas, fresh, ENOMEM);
	error = ka_notes_reach(arenas, end);
	if (error)
		return commit_failed(arenas, count, error);
	if (arena_begins_in_parts(arenas, first, pages))
		return ka_arena_commit_pages(arenas, first, 0, pages);
	if (kind == KA_PAGES_HUGE && notes->stats.arenas + count <= SMALL_HEAP)
		kind = KA_PAGES_SMALL;
	return row_commit(arenas, first, count, kind);
}

/**
 * ka_arenas_block() - Do without arenas where somebody else has mapped something.
 * @arenas: The heap's.
 * @first: The first one; there are notes on all.
 * @count: How many; those that are committed are not concerned.
 *
 * Return: Whether there is one less to be found.
 */
bool ka_arenas_block(struct ka_arenas *arenas, size_t first, size_t count)
{
	struct ka_notes *notes = arenas->notes;
	bool any = false;

	for (size_t i = first; i < first + count; i++) {
		struct ka_arena *arena = ka_arena_at(notes, i);

		if (arena->nr_backed)
			continue;
		/* As one run, which nobody has. */
		ka_change_bits(arena->used, 0, KA_ARENA_PAGES, true);
		ka_change_bits(arena->head, 0, 1, true);
		arena->nr_used = KA_ARENA_PAGES;
		if (i >= notes->nr_touched)
			notes->nr_touched = i + 1;
		any = true;
	}
	return any;
}

/**
 * ka_arenas_close() - Unmap all arenas of a heap that goes, and nothing else.
 * @arenas: The heap's.
 */
void ka_arenas_close(struct ka_arenas *arenas)
{
	const struct ka_notes *notes = arenas->notes;

	for (size_t i = notes->nr_notes; i < notes->nr_touched; i++) {
		if (ka_arena_at(notes, i)->nr_backed)
			arenas->window.source->release(&arenas->window, i, 1);
	}
}

/**
 * ka_arena_use() - A run is going to lie in a committed arena.
 * @arenas: The heap's.
 * @index: The arena.
 * @from: The run's first page in it.
 * @pages: How many of its pages are in it.
 *
 * Return: 0; 1 if the kernel has taken the arena, which is not committed any more; or
 * -1 with errno and a sentence.
 */
int ka_arena_use(struct ka_arenas *arenas, size_t index, size_t from, size_t pages)
{
	if (!arena_take_back(arenas, index))
		return 1;
	return ka_arena_commit_pages(arenas, index, from, pages);
}

static bool arena_is_empty(const struct ka_notes *notes, size_t index)
{
	const struct ka_arena *arena = ka_arena_at(notes, index);

	return arena->nr_backed && !arena->nr_used;
}

/**
 * ka_arenas_emptied() - Give back empty arenas, but for as many as may stay.
 * @arenas: The heap's.
 *
 * Those with the lowest addresses stay, where the next runs are looked for, and are
 * volatile until then.
 */
void ka_arenas_emptied(struct ka_arenas *arenas)
{
	struct ka_notes *notes = arenas->notes;
	size_t end = notes->nr_touched;

	while (notes->nr_empty > arenas->most_empty) {
		size_t first, most = notes->nr_empty - arenas->most_empty;

		while (!arena_is_empty(notes, end - 1))
			end--;
		first = end - 1;
		while (end - first < most && first > notes->nr_notes &&
		       arena_is_empty(notes, first - 1))
			first--;
		arenas_release(arenas, first, end - first);
		end = first;
	}
}

/**
 * ka_arena_pages_lost() - Pages of an arena are not mapped any more.
 * @arenas: The heap's.
 * @index: The arena.
 * @from: The first page.
 * @count: How many, none of which is in use or has content.
 */
void ka_arena_pages_lost(struct ka_arenas *arenas, size_t index, size_t from, size_t count)
{
	struct ka_arena *arena = ka_arena_at(arenas->notes, index);
	size_t backed = ka_count_bits(arena->backed, from, count);

	if (!backed)
		return;
	ka_change_bits(arena->backed, from, count, false);
	arena->nr_backed = (uint16_t)(arena->nr_backed - backed);
	if (!arena->nr_backed)
		arena_forget(arenas, arena);
}

/**
 * ka_arena_emptied() - An arena's last run has gone.
 * @arenas: The heap's.
 * @index: The arena. If it is still there when the call is done, it becomes volatile.
 */
void ka_arena_emptied(struct ka_arenas *arenas, size_t index)
{
	struct ka_emptied *emptied = &arenas->emptied;

	if (!emptied->end || index < emptied->first)
		emptied->first = index;
	if (index >= emptied->end)
		emptied->end = index + 1;
}

/* If it takes a system call, skip it when a volatile arena was used again meanwhile. */
static bool arenas_may_give_up(const struct ka_arenas *arenas)
{
	return arenas->emptied.end && !arenas->window.io &&
	       (arenas->window.source->frames || !arenas->in_vain);
}

/* Those that have become empty, and are so still, become volatile. */
static void arenas_give_up(struct ka_arenas *arenas)
{
	for (size_t i = arenas->emptied.first; i < arenas->emptied.end; i++) {
		struct ka_arena *arena = ka_arena_at(arenas->notes, i);

		if (arena_is_empty(arenas->notes, i) && !arena->is_volatile)
			arena->is_volatile = arenas->window.source->give_up(&arenas->window, i);
	}
	arenas->emptied.end = 0;
}

/* Of free pages, those that are not in rows of so many, are left alone. */
static void map_drop_short_rows(uint64_t *map, size_t pages)
{
	size_t from = 0, end;

	while ((from = ka_find_bit(map, from, true)) < KA_ARENA_PAGES) {
		end = ka_find_bit(map, from, false);
		if (end - from < pages)
			ka_change_bits(map, from, end - from, false);
		from = end;
	}
}

/*
 * Purge free pages of an arena: @all, or what is worth it. A call for each few pages
 * takes longer than they are worth; a huge page is split only if half of it comes free.
 */
static void arena_purge(struct ka_arenas *arenas, size_t index, bool all)
{
	const struct ka_source_type *source = arenas->window.source;
	struct ka_arena *arena = ka_arena_at(arenas->notes, index);
	uint64_t map[KA_MAP_WORDS];
	size_t idle = arena_idle(arena);

	if (!idle || (arena->huge && !all && idle < KA_ARENA_PAGES / 2))
		return;
	for (size_t i = 0; i < KA_MAP_WORDS; i++)
		map[i] = arena->backed[i] & ~arena->used[i];
	if (!all && !source->frames)
		map_drop_short_rows(map, LEAST_ROW);
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

/* Purge at least so many pages, the highest first, as far as there are such. */
static void arenas_purge(struct ka_arenas *arenas, size_t pages, bool all)
{
	struct ka_notes *notes = arenas->notes;

	if (!pages)
		return;
	ka_notes_change(arenas);
	for (size_t i = notes->nr_touched; i > notes->nr_notes && pages; i--) {
		size_t idle = arenas->idle;

		if (arena_is_empty(notes, i - 1))
			arenas_release(arenas, i - 1, 1);
		else if (ka_arena_at(notes, i - 1)->nr_backed)
			arena_purge(arenas, i - 1, all);
		idle -= arenas->idle;
		pages -= idle < pages ? idle : pages;
	}
	ka_notes_change(arenas);
}

static uint64_t now_ms(void)
{
	return ka_clock_coarse() / 1000000;
}

/**
 * ka_arenas_refilled() - Pages have got memory that had none.
 * @arenas: The heap's.
 * @pages: How many.
 *
 * Pages that are needed again soon were purged in vain: keep more from now on.
 */
void ka_arenas_refilled(struct ka_arenas *arenas, size_t pages)
{
	size_t in_vain = pages < arenas->not_refilled ? pages : arenas->not_refilled;

	arenas->not_refilled -= in_vain;
	arenas->slack += in_vain;
}

/* Pages were purged that could have held pools: allow to thin as many pools. */
static void arenas_let_thin(struct ka_arenas *arenas, size_t pages)
{
	/* Threads that thin a pool at this moment may be counted or not. */
	size_t pools = __atomic_load_n(&arenas->to_thin, __ATOMIC_RELAXED) +
		       pages / KA_SLOT_PAGES;

	__atomic_store_n(&arenas->to_thin, pools < MOST_TO_THIN ? pools : MOST_TO_THIN,
			 __ATOMIC_RELAXED);
}

/* How many pages may be idle. */
static size_t arenas_most_idle(const struct ka_arenas *arenas)
{
	return arenas->slack + arenas->notes->stats.run_bytes / KA_PAGE_SIZE / 8;
}

/* Purge half of what may stay and all above it. */
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
	/* Of what cannot be purged, no more is to be looked for. */
	if (arenas->idle > most)
		arenas->slack += arenas->idle - most;
}

/**
 * ka_arenas_begin() - Fill in what a new heap has of its arenas, beside window and notes.
 * @arenas: The heap's.
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

/* Nobody needed the minimum that stayed free, so purge that much. */
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
	arenas->in_vain = false;
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
 * ka_arenas_decay() - Purge what has not been needed for a while, or is too much.
 * @arenas: The heap's, to which runs have just been given back.
 *
 * Arenas that are empty afterwards become volatile.
 */
void ka_arenas_decay(struct ka_arenas *arenas)
{
	arenas_decay(arenas);
	if (arenas_may_give_up(arenas))
		arenas_give_up(arenas);
}

/**
 * ka_arenas_trim() - Purge all that is free.
 * @arenas: The heap's.
 * @pages: How many pages have come free of their memory; or NULL.
 *
 * Return: Whether that is anything.
 */
bool ka_arenas_trim(struct ka_arenas *arenas, size_t *pages)
{
	struct ka_notes *notes = arenas->notes;
	size_t idle, committed;

	arenas->drop_spare(arenas);
	idle = arenas->window.io ? 0 : arenas->idle;
	committed = notes->stats.arenas;
	if (pages)
		*pages = 0;
	if (!idle && !notes->nr_empty)
		return false;
	arenas_purge(arenas, idle, true);
	/* Arenas that have never been used have nothing idle. */
	ka_notes_change(arenas);
	for (size_t i = notes->nr_touched; notes->nr_empty && i > notes->nr_notes; i--) {
		if (arena_is_empty(notes, i - 1))
			arenas_release(arenas, i - 1, 1);
	}
	ka_notes_change(arenas);
	idle = idle > arenas->idle ? idle - arenas->idle : 0;
	if (pages)
		*pages = idle;
	return idle || notes->stats.arenas < committed;
}
