// SPDX-License-Identifier: GPL-2.0
/*
 * Reclaim: when memory is short, in the machine or in a memory cgroup, the kernel purges
 * volatile arenas, in the order in which they became volatile, and then frees ready frames.
 *
 * A process makes an arena volatile by a store that the kernel does not notice. So reclaim
 * looks at the state words of the heaps in the cgroup's group. It looks at whole pages of
 * words, one heap after another, from where the last look ended, and at a limited number of
 * words in each call. So the cost of a call does not grow with the number of heaps or
 * arenas. One look sees up to some thousand arenas. If there are more, each call purges the
 * oldest arenas of the part that it has seen.
 *
 * Reclaim for a node purges arenas whose memory is on that node before those of other
 * nodes. It purges an arena that shares its frame last, because the memory is freed only
 * with the last owner.
 */
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/shrinker.h>

#include "arena.h"
#include "compat.h"
#include "trace.h"

/* Most arenas that one call purges: 32 MiB. */
#define BATCH	16

/*
 * Most work of one call, where looking at a state word counts as 1: about 20 us for a
 * count, about 100 us for a scan. The kernel calls so often before it gives up on a cgroup
 * that reclaim reaches millions of arenas.
 */
#define MOST_COUNT	8192
#define MOST_SCAN	32768
#define COST_HEAP	128
#define COST_ARENA	16	/* of a volatile arena */

/* Ages have the unit of the state words: 28 bits of 2^20 ns. */
#define AGE_BITS	28
#define AGE_MASK	GENMASK(AGE_BITS - 1, 0)

static struct shrinker *shrinker;
static bool reclaim_up;

atomic_long_t karena_nr_reclaimed;
atomic_long_t karena_nr_reclaimed_ready;

/* The first arenas to purge found so far, in the order of candidate_goes_before(). */
struct candidates {
	u32 now;
	unsigned int nr;
	struct candidate {
		struct karena_arena *arena;
		u32 word;
		u32 age;
		bool here;
		bool shared;
	} of[BATCH];
};

/* Heaps with ready frames. */
struct heaps {
	unsigned int nr;
	struct karena_heap *of[BATCH];
};

/* The look of one call, and the arenas and ready frames that it has found. */
struct look {
	struct karena_look look;
	int node;			/* the node that is short of memory */
	long left;			/* work left to this call */
	unsigned long members;		/* looked at so far */
	struct candidates *candidates;	/* or NULL, to count */
	struct heaps *heaps;
	unsigned long here, others;
};

/* The age of a state word; 0 if its time seems to be in the future. */
static u32 age_between(u32 now, u32 then)
{
	u32 past = (now - then) & AGE_MASK;

	return past >> (AGE_BITS - 1) ? 0 : past;
}

/* Returns true if reclaim purges one before the other. */
static bool candidate_goes_before(const struct candidate *one,
				  const struct candidate *other)
{
	if (one->shared != other->shared)
		return other->shared;
	return one->here != other->here ? one->here : one->age > other->age;
}

/* Add a volatile arena, unless BATCH others go before it. The family's lock is held. */
static void candidates_add(struct candidates *candidates, struct karena_arena *arena,
			   bool here)
{
	struct candidate new = {
		.arena = arena, .here = here,
		.word = READ_ONCE(*karena_state(arena->heap, arena->index)),
	};
	struct karena_frame *huge = karena_arena_huge(arena);
	unsigned int i = candidates->nr;

	if (KARENA_STATE(new.word) != KARENA_VOLATILE)
		return;
	new.shared = huge && huge->owners > 1;
	new.age = age_between(candidates->now + arena->heap->clock, new.word >> 4);
	/* A pinned arena that was tried before must not keep others from being tried. */
	if (new.word == READ_ONCE(arena->tried_word))
		new.age = min(new.age, age_between(candidates->now,
						   READ_ONCE(arena->tried)));
	if (i == BATCH) {
		if (!candidate_goes_before(&new, &candidates->of[i - 1]))
			return;
		karena_purge_put(candidates->of[--i].arena->heap);
	} else {
		candidates->nr++;
	}
	for (; i && candidate_goes_before(&new, &candidates->of[i - 1]); i--)
		candidates->of[i] = candidates->of[i - 1];
	candidates->of[i] = new;
	karena_purge_get(arena->heap);
}

static void look_count(struct look *look, int node, unsigned long frames)
{
	look->look.found = true;
	if (node == look->node)
		look->here += frames;
	else
		look->others += frames;
}

/* Look at an arena whose state word says VOLATILE. */
static void look_arena(struct look *look, struct karena_heap *heap, unsigned long index)
{
	struct karena_arena *arena = karena_arena(heap, index);
	struct karena_frame *frame;

	look->left -= COST_ARENA;
	if (!arena)
		return;
	spin_lock(&heap->family->lock);
	frame = arena->frame;
	if (frame && frame->group == look->look.group) {
		look_count(look, frame->node, 1);
		if (look->candidates)
			candidates_add(look->candidates, arena, frame->node == look->node);
	}
	spin_unlock(&heap->family->lock);
}

static void look_ready(struct look *look, struct karena_heap *heap)
{
	struct karena_ready_frames *ready = READ_ONCE(heap->ready.frames);
	struct heaps *heaps = look->heaps;
	int node;

	if (!READ_ONCE(heap->ready.nr) || !ready || ready->group != look->look.group)
		return;
	for (node = 0; node < nr_node_ids; node++) {
		if (READ_ONCE(ready->node[node].nr))
			look_count(look, node, READ_ONCE(ready->node[node].nr));
	}
	if (!heaps || heaps->nr == BATCH)
		return;
	karena_purge_get(heap);
	heaps->of[heaps->nr++] = heap;
}

static unsigned long look_pages(struct karena_look *karena_look, struct karena_heap *heap,
				unsigned long page, unsigned long end)
{
	struct look *look = container_of(karena_look, struct look, look);
	unsigned long first, count, i;
	u32 *words;

	if (page >= end)
		return end;
	if (look->left <= 0)
		return page;
	look->left -= COST_HEAP;
	look->members++;
	if (!page)
		look_ready(look, heap);
	if (!atomic_long_read(&heap->stats.huge) && !atomic_long_read(&heap->stats.sparse))
		return end;
	do {
		words = karena_control_words(heap, page, &first, &count);
		look->left -= words ? count : 1;
		for (i = 0; words && i < count; i++) {
			if (KARENA_STATE(READ_ONCE(words[i])) == KARENA_VOLATILE)
				look_arena(look, heap, first + i);
		}
	} while (++page < end && look->left > 0);
	return page;
}

/* Look at the members of groups. Returns true if nothing is left to look at. */
static bool look_at_groups(struct look *look, struct karena_group **groups, unsigned int nr)
{
	bool all = true;
	unsigned int i;

	look->look.pages = look_pages;
	for (i = 0; i < nr; i++) {
		look->look.group = groups[i];
		all &= karena_group_look(&look->look);
	}
	return all;
}

static void groups_put(struct karena_group **groups, unsigned int nr)
{
	while (nr--)
		karena_group_put(groups[nr]);
}

/*
 * Count in pages, because the core compares the objects of shrinkers with pages. With seeks
 * 0, the core asks for half of the count at once. So the count is twice the number to free
 * at once: an eighth of the frames that one look has found, but at least one frame. If a
 * look has found no frame and has not seen everything, it counts one, so that the next look
 * continues.
 */
static unsigned long reclaim_count(struct shrinker *self,
				   struct shrink_control *sc)
{
	struct look look = {
		.look.stay = true, .node = sc->nid, .left = MOST_COUNT,
	};
	struct karena_group *groups[KARENA_GROUPS];
	unsigned long frames, most;
	unsigned int nr, i;
	bool all;

	/* Pairs with karena_reclaim_init(). */
	if (!smp_load_acquire(&reclaim_up) || !(sc->gfp_mask & __GFP_FS))
		return 0;
	if (!karena_groups_get(sc, groups, &nr))
		return SHRINK_EMPTY;
	/* Only direct reclaim is a sign of pressure: kswapd works in advance. */
	if (!current_is_kswapd() && nr && karena_pressure_low(sc->memcg)) {
		for (i = 0; i < nr; i++)
			karena_group_tell(groups[i]);
	}
	all = look_at_groups(&look, groups, nr);
	groups_put(groups, nr);
	frames = look.here ?: look.others ?: !all;
	most = 2 * clamp_t(unsigned long, frames / 8, 1, BATCH);
	return min(frames, most) * KARENA_ARENA_PAGES;
}

/* Purge an arena. Returns the number of pages freed. */
static unsigned long candidate_purge(struct candidate *candidate, u32 now)
{
	struct karena_arena *arena = candidate->arena;
	struct karena_heap *heap = arena->heap;
	struct karena_frame *huge;
	unsigned long pages = 0;
	bool taken;

	/* Count the pages that the arena owns alone, as of this moment. */
	spin_lock(&heap->family->lock);
	huge = karena_arena_huge(arena);
	if (arena->frame)
		pages = arena->frame->nr_pages;
	if (huge && huge->owners == 1)
		pages += KARENA_ARENA_PAGES;
	spin_unlock(&heap->family->lock);
	taken = karena_purge(arena, candidate->word);
	trace_karena_reclaim(heap, arena->index, taken ? pages : 0);
	if (!taken) {
		WRITE_ONCE(arena->tried_word, candidate->word);
		WRITE_ONCE(arena->tried, now);
		return 0;
	}
	atomic_long_inc(&heap->stats.reclaimed);
	atomic_long_inc(&karena_nr_reclaimed);
	karena_pressure_raise(heap, KARENA_PRESSURE_SOME);
	return pages;
}

/*
 * Purging a shared arena frees nothing as long as another owner keeps the frame. So if a
 * look has found no unshared arena, reclaim purges a shared one only after it has looked at
 * as many members as there are.
 */
static bool look_may_take_shared(const struct look *look, struct karena_group **groups,
				 unsigned int nr)
{
	bool alone = look->candidates->nr && !look->candidates->of[0].shared;
	unsigned long seen = look->members, all = 0;
	unsigned int i;

	for (i = 0; i < nr; i++)
		all += READ_ONCE(groups[i]->nr_members);
	if (nr)
		seen += READ_ONCE(groups[0]->in_vain);
	if (nr)
		WRITE_ONCE(groups[0]->in_vain, alone ? 0 : seen);
	return alone || seen >= all;
}

static unsigned long candidates_purge(struct candidates *candidates, bool shared,
				      unsigned long pages, unsigned long *scanned)
{
	unsigned long freed = 0;
	unsigned int i;

	for (i = 0; i < candidates->nr; i++) {
		struct karena_heap *heap = candidates->of[i].arena->heap;

		if ((!freed || freed < pages) && (shared || !candidates->of[i].shared)) {
			*scanned += KARENA_ARENA_PAGES;
			freed += candidate_purge(&candidates->of[i], candidates->now);
		}
		karena_purge_put(heap);
	}
	return freed;
}

static unsigned long heap_drop_ready(struct karena_heap *heap, unsigned long pages,
				     int node)
{
	unsigned long frames = DIV_ROUND_UP(pages, KARENA_ARENA_PAGES);

	frames = karena_ready_drop(heap, frames, node) / KARENA_ARENA_PAGES;
	if (!frames)
		return 0;
	atomic_long_add(frames, &heap->stats.reclaimed_ready);
	atomic_long_add(frames, &karena_nr_reclaimed_ready);
	karena_pressure_raise(heap, KARENA_PRESSURE_SOME);
	return frames * KARENA_ARENA_PAGES;
}

/* Free ready frames, first those of the node that is short of memory. */
static unsigned long heaps_drop_ready(struct heaps *heaps, unsigned long pages, int node)
{
	unsigned long freed = 0;
	unsigned int i;

	for (i = 0; i < heaps->nr && freed < pages; i++)
		freed += heap_drop_ready(heaps->of[i], pages - freed, node);
	for (i = 0; i < heaps->nr; i++) {
		if (!freed && pages)
			freed = heap_drop_ready(heaps->of[i], pages, NUMA_NO_NODE);
		karena_purge_put(heaps->of[i]);
	}
	return freed;
}

/* Look at some groups, and free the frames found. Returns the number of pages freed. */
static noinline_for_stack unsigned long groups_take(struct shrink_control *sc,
						    struct karena_group **groups,
						    unsigned int nr, unsigned long *scanned)
{
	struct candidates candidates = { .now = ktime_get_coarse_ns() >> 20 };
	struct heaps heaps = {};
	struct look look = {
		.node = sc->nid, .left = MOST_SCAN, .candidates = &candidates,
		.heaps = &heaps,
	};
	unsigned long freed, ready;
	bool shared;

	shared = look_at_groups(&look, groups, nr);
	shared |= look_may_take_shared(&look, groups, nr);
	freed = candidates_purge(&candidates, shared, sc->nr_to_scan, scanned);
	ready = heaps_drop_ready(&heaps, sc->nr_to_scan - min(freed, sc->nr_to_scan),
				 sc->nid);
	*scanned += ready;
	return freed + ready;
}

static unsigned long reclaim_scan(struct shrinker *self,
				  struct shrink_control *sc)
{
	struct karena_group *groups[KARENA_GROUPS];
	unsigned long scanned = 0, freed;
	unsigned int nr;

	/* Unmapping takes i_mmap_rwsem, which file systems' reclaim may hold. */
	if (!smp_load_acquire(&reclaim_up) || !(sc->gfp_mask & __GFP_FS))
		return SHRINK_STOP;
	karena_groups_get(sc, groups, &nr);
	freed = groups_take(sc, groups, nr, &scanned);
	groups_put(groups, nr);
	if (!scanned)
		return SHRINK_STOP;
	/* Tell global reclaim, which would continue otherwise. */
	mm_account_reclaimed_pages(freed);
	sc->nr_scanned = scanned;
	return freed;
}

/**
 * karena_reclaim_init() - Register the shrinker.
 *
 * Return: 0 or a negative errno.
 */
int karena_reclaim_init(void)
{
	int err;

	shrinker = shrinker_alloc(SHRINKER_MEMCG_AWARE | SHRINKER_NUMA_AWARE,
				  "karena");
	if (!shrinker)
		return -ENOMEM;
	shrinker->count_objects = reclaim_count;
	shrinker->scan_objects = reclaim_scan;
	/* A commit of a reclaimed arena needs no I/O. */
	shrinker->seeks = 0;
	/* Less than half an arena, or the core would never ask for the last one. */
	shrinker->batch = KARENA_ARENA_PAGES / 4;
	err = karena_groups_init(shrinker);
	if (err) {
		karena_reclaim_exit();
		return err;
	}
	/* Pairs with reclaim_count() and reclaim_scan(). */
	smp_store_release(&reclaim_up, true);
	return 0;
}

/**
 * karena_reclaim_exit() - Unregister the shrinker; no heap is left.
 */
void karena_reclaim_exit(void)
{
	shrinker_free(shrinker);
	karena_groups_exit();
}
