// SPDX-License-Identifier: GPL-2.0
/*
 * Reclaim: when memory is short, in the machine or in a memory cgroup, volatile
 * arenas are taken from their heaps, those first that were given back first; after
 * them ready frames.
 *
 * All arenas are on a memcg-aware list_lru, because their owners make them volatile
 * by a store of which the kernel learns nothing; and so are the heaps that have
 * had ready frames. Without such lists the kernel would not call the shrinker for a
 * cgroup's own limit, and would start its OOM killer instead.
 *
 * A list_lru has a list for each NUMA node, but the node is that of the slab page
 * which what is listed lies in, not that of the memory which it has. So here all
 * nodes' lists of a cgroup are one, and who reclaims a node takes the arenas whose
 * memory is there; those of other nodes only when there are none.
 */
#include <linux/ktime.h>
#include <linux/list_lru.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/nodemask.h>
#include <linux/sched/mm.h>
#include <linux/wait_bit.h>

#include "compat.h"
#include "karena.h"
#include "trace.h"

/* How many arenas one call takes at most: 32 MiB. */
#define BATCH	16

/* Ages are counted as in the state words: 29 bits of 2^20 ns. */
#define AGE_MASK	GENMASK(28, 0)

static struct list_lru arena_lru;
static struct list_lru ready_lru;
static struct shrinker *shrinker;
static bool reclaim_up;

atomic_long_t karena_nr_reclaimed;
atomic_long_t karena_nr_reclaimed_ready;

static void purge_get(struct karena_heap *heap)
{
	atomic_inc(&heap->purges);
}

static void purge_put(struct karena_heap *heap)
{
	if (atomic_dec_and_test(&heap->purges))
		wake_up_var(&heap->purges);
}

static u32 arena_word(struct karena_arena *arena)
{
	return READ_ONCE(*karena_state(arena->heap, arena->index));
}

/* Walk a cgroup's lists of all nodes; whether there was anything on them. */
static bool walk(struct list_lru *lru, struct shrink_control *sc,
		 list_lru_walk_cb isolate, void *data)
{
	unsigned long nr, all = 0;
	int node;

	for_each_node_state(node, N_NORMAL_MEMORY) {
		nr = list_lru_count_one(lru, node, sc->memcg);
		all += nr;
		if (nr)
			list_lru_walk_one(lru, node, sc->memcg, isolate, data, &nr);
	}
	return all;
}

/*
 * On which node an arena's frame is, or NUMA_NO_NODE without one. The frame may go
 * meanwhile, its struct page stays.
 */
static int arena_node(struct karena_arena *arena)
{
	struct folio *folio = READ_ONCE(arena->folio);

	if (folio)
		return folio_nid(folio);
	return READ_ONCE(arena->pages) ? READ_ONCE(arena->node) : NUMA_NO_NODE;
}

/* What there is to take, in pages, of the node that is short and of others. */
struct count {
	int node;
	bool low;
	unsigned long arenas, others;
	unsigned long ready;
};

static enum lru_status count_volatile(KARENA_LRU_ARGS)
{
	struct karena_arena *arena = container_of(item, struct karena_arena, lru);
	struct count *count = data;
	int node = arena_node(arena);

	if (count->low)
		karena_pressure_raise(arena->heap, KARENA_PRESSURE_SOME);
	if (node == NUMA_NO_NODE || KARENA_STATE(arena_word(arena)) != KARENA_VOLATILE)
		return LRU_SKIP;
	if (node == count->node)
		count->arenas++;
	else
		count->others++;
	return LRU_SKIP;
}

static enum lru_status count_ready(KARENA_LRU_ARGS)
{
	struct karena_ready_frames *ready =
		container_of(item, struct karena_ready_frames, lru);
	struct count *count = data;

	count->ready += READ_ONCE(ready->heap->nr_ready);
	return LRU_SKIP;
}

/*
 * In pages, as the callers of shrinkers weigh objects against pages. With seeks 0
 * half of what is counted is asked for at once; so that is twice what should go at
 * once, which is an eighth, and one when there are few.
 */
static unsigned long reclaim_count(struct shrinker *self,
				   struct shrink_control *sc)
{
	struct count count = { .node = sc->nid };
	unsigned long frames, most;
	bool any;

	/* Pairs with karena_reclaim_init(). */
	if (!smp_load_acquire(&reclaim_up))
		return 0;
	count.low = !current_is_kswapd() && karena_pressure_low(sc->memcg);
	any = walk(&arena_lru, sc, count_volatile, &count);
	any |= walk(&ready_lru, sc, count_ready, &count);
	if (!any)
		return SHRINK_EMPTY;
	frames = (count.arenas ?: count.others) + count.ready;
	most = 2 * clamp_t(unsigned long, frames / 8, 1, BATCH);
	return min(frames, most) * KARENA_ARENA_PAGES;
}

/* The oldest volatile arenas met so far, the oldest first; the node's before others. */
struct candidates {
	u32 now;
	int node;
	unsigned int nr;
	struct candidate {
		struct karena_arena *arena;
		u32 word;
		u32 age;
		bool here;
	} of[BATCH];
};

/* Whether one is to go before another. */
static bool before(const struct candidate *one, const struct candidate *other)
{
	return one->here != other->here ? one->here : one->age > other->age;
}

static enum lru_status choose_oldest(KARENA_LRU_ARGS)
{
	struct karena_arena *arena = container_of(item, struct karena_arena, lru);
	struct candidates *candidates = data;
	struct candidate new = { .arena = arena, .word = arena_word(arena) };
	int node = arena_node(arena);
	unsigned int i = candidates->nr;

	if (KARENA_STATE(new.word) != KARENA_VOLATILE || node == NUMA_NO_NODE)
		return LRU_SKIP;
	new.here = node == candidates->node;
	new.age = (candidates->now - (new.word >> 3)) & AGE_MASK;
	/* One that was tried and is pinned does not stand in the others' way. */
	if (new.word == READ_ONCE(arena->tried_word))
		new.age = min_t(u32, new.age, AGE_MASK &
				(candidates->now - READ_ONCE(arena->tried)));
	if (i == BATCH) {
		if (!before(&new, &candidates->of[i - 1]))
			return LRU_SKIP;
		purge_put(candidates->of[--i].arena->heap);
	} else {
		candidates->nr++;
	}
	for (; i && before(&new, &candidates->of[i - 1]); i--)
		candidates->of[i] = candidates->of[i - 1];
	candidates->of[i] = new;
	purge_get(arena->heap);
	return LRU_SKIP;
}

/* How many pages came free. */
static unsigned long purge(struct candidate *candidate, u32 now)
{
	struct karena_arena *arena = candidate->arena;
	struct karena_heap *heap = arena->heap;
	unsigned long pages = karena_arena_purge(arena, candidate->word);

	trace_karena_reclaim(heap, arena->index, pages);
	if (!pages) {
		WRITE_ONCE(arena->tried_word, candidate->word);
		WRITE_ONCE(arena->tried, now);
		return 0;
	}
	atomic_long_inc(&heap->reclaimed);
	atomic_long_inc(&karena_nr_reclaimed);
	karena_pressure_raise(heap, KARENA_PRESSURE_SOME);
	return pages;
}

static unsigned long purge_oldest(struct shrink_control *sc, unsigned long *scanned)
{
	struct candidates candidates = {
		.now = ktime_get_coarse_ns() >> 20,
		.node = sc->nid,
	};
	unsigned long freed = 0;
	unsigned int i;

	walk(&arena_lru, sc, choose_oldest, &candidates);
	for (i = 0; i < candidates.nr; i++) {
		struct karena_heap *heap = candidates.of[i].arena->heap;

		if (!freed || freed < sc->nr_to_scan) {
			*scanned += KARENA_ARENA_PAGES;
			freed += purge(&candidates.of[i], candidates.now);
		}
		purge_put(heap);
	}
	return freed;
}

/* Heaps with ready frames. */
struct heaps {
	unsigned int nr;
	struct karena_heap *of[BATCH];
};

static enum lru_status choose_ready(KARENA_LRU_ARGS)
{
	struct karena_ready_frames *ready =
		container_of(item, struct karena_ready_frames, lru);
	struct heaps *heaps = data;

	if (heaps->nr == BATCH || !READ_ONCE(ready->heap->nr_ready))
		return LRU_SKIP;
	purge_get(ready->heap);
	heaps->of[heaps->nr++] = ready->heap;
	return LRU_SKIP;
}

static unsigned long drop_ready(struct karena_heap *heap, unsigned long pages)
{
	unsigned long frames = DIV_ROUND_UP(pages, KARENA_ARENA_PAGES);

	frames = karena_ready_drop(heap, frames) / KARENA_ARENA_PAGES;
	if (!frames)
		return 0;
	atomic_long_add(frames, &heap->reclaimed_ready);
	atomic_long_add(frames, &karena_nr_reclaimed_ready);
	karena_pressure_raise(heap, KARENA_PRESSURE_SOME);
	return frames * KARENA_ARENA_PAGES;
}

static unsigned long purge_ready(struct shrink_control *sc, unsigned long pages)
{
	struct heaps heaps = {};
	unsigned long freed = 0;
	unsigned int i;

	walk(&ready_lru, sc, choose_ready, &heaps);
	for (i = 0; i < heaps.nr; i++) {
		if (freed < pages)
			freed += drop_ready(heaps.of[i], pages - freed);
		purge_put(heaps.of[i]);
	}
	return freed;
}

static unsigned long reclaim_scan(struct shrinker *self,
				  struct shrink_control *sc)
{
	unsigned long scanned = 0, freed, ready = 0;

	/* Unmapping takes i_mmap_rwsem, which file systems' reclaim may hold. */
	if (!smp_load_acquire(&reclaim_up) || !(sc->gfp_mask & __GFP_FS))
		return SHRINK_STOP;
	freed = purge_oldest(sc, &scanned);
	if (freed < sc->nr_to_scan)
		ready = purge_ready(sc, sc->nr_to_scan - freed);
	if (!scanned && !ready)
		return SHRINK_STOP;
	freed += ready;
	/* Without this, global reclaim would not know and go on. */
	mm_account_reclaimed_pages(freed);
	sc->nr_scanned = scanned + ready;
	return freed;
}

static void *reclaim_alloc(struct karena_heap *heap, struct kmem_cache *cache,
			   struct list_lru *lru)
{
	struct mem_cgroup *memcg = get_mem_cgroup_from_mm(heap->mm);
	struct mem_cgroup *old = set_active_memcg(memcg);
	void *object;

	object = kmem_cache_alloc_lru(cache, lru, KARENA_GFP | __GFP_ZERO);
	set_active_memcg(old);
	mem_cgroup_put(memcg);
	return object;
}

/**
 * karena_reclaim_alloc_arena() - Allocate an arena's structure.
 * @heap: Its heap, whose memory cgroup decides which list it is on.
 * @cache: Where from.
 *
 * Return: The structure, zeroed, or NULL.
 */
void *karena_reclaim_alloc_arena(struct karena_heap *heap, struct kmem_cache *cache)
{
	return reclaim_alloc(heap, cache, &arena_lru);
}

/**
 * karena_reclaim_alloc_ready() - Allocate the structure of a heap's ready frames.
 * @heap: The heap, as above.
 * @cache: Where from.
 *
 * Return: The structure, zeroed, or NULL.
 */
void *karena_reclaim_alloc_ready(struct karena_heap *heap, struct kmem_cache *cache)
{
	return reclaim_alloc(heap, cache, &ready_lru);
}

/**
 * karena_reclaim_add() - Let reclaim see an arena, until karena_reclaim_remove().
 * @arena: The arena, complete.
 */
void karena_reclaim_add(struct karena_arena *arena)
{
	list_lru_add_obj(&arena_lru, &arena->lru);
}

/**
 * karena_reclaim_remove() - Hide an arena from reclaim.
 * @arena: The arena; reclaim may be at work on it still.
 */
void karena_reclaim_remove(struct karena_arena *arena)
{
	list_lru_del_obj(&arena_lru, &arena->lru);
}

/**
 * karena_reclaim_add_ready() - Let reclaim see ready frames, likewise.
 * @ready: They, complete.
 */
void karena_reclaim_add_ready(struct karena_ready_frames *ready)
{
	list_lru_add_obj(&ready_lru, &ready->lru);
}

/**
 * karena_reclaim_remove_ready() - Hide ready frames from reclaim.
 * @ready: They; reclaim may be at work on them still.
 */
void karena_reclaim_remove_ready(struct karena_ready_frames *ready)
{
	list_lru_del_obj(&ready_lru, &ready->lru);
}

/**
 * karena_reclaim_wait() - Wait until reclaim is no more at work in a heap.
 * @heap: The heap, with all of its arenas removed.
 */
void karena_reclaim_wait(struct karena_heap *heap)
{
	wait_var_event(&heap->purges, !atomic_read(&heap->purges));
}

/**
 * karena_reclaim_init() - Register the shrinker.
 *
 * Return: 0 or a negative errno.
 */
int karena_reclaim_init(void)
{
	struct list_lru *lrus[] = { &arena_lru, &ready_lru };
	int err;

	shrinker = shrinker_alloc(SHRINKER_MEMCG_AWARE | SHRINKER_NUMA_AWARE,
				  "karena");
	if (!shrinker)
		return -ENOMEM;
	shrinker->count_objects = reclaim_count;
	shrinker->scan_objects = reclaim_scan;
	/* To make one again costs no I/O. */
	shrinker->seeks = 0;
	/* Less than half an arena: else the last one would never be asked for. */
	shrinker->batch = KARENA_ARENA_PAGES / 4;
	err = karena_shrinker_register(shrinker, lrus);
	if (err) {
		karena_reclaim_exit();
		return err;
	}
	/* Pairs with reclaim_count() and reclaim_scan(). */
	smp_store_release(&reclaim_up, true);
	return 0;
}

/**
 * karena_reclaim_exit() - Unregister it; no heap is left.
 */
void karena_reclaim_exit(void)
{
	shrinker_free(shrinker);
	list_lru_destroy(&ready_lru);
	list_lru_destroy(&arena_lru);
}
