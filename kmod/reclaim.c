// SPDX-License-Identifier: GPL-2.0
/*
 * Reclaim: when memory is short, in the machine or in a memory cgroup, volatile
 * arenas are taken from their heaps: of a NUMA node's and a cgroup's those that were
 * given back first.
 *
 * All arenas are on a memcg-aware list_lru, because their owners make them volatile
 * by a store of which the kernel learns nothing. Without that list the kernel
 * would not call the shrinker for a cgroup's own limit, and would start its OOM
 * killer instead.
 */
#include <linux/ktime.h>
#include <linux/list_lru.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/wait_bit.h>

#include "compat.h"
#include "karena.h"

/* How many arenas one call takes at most: 32 MiB. */
#define BATCH	16

/* Ages are counted as in the state words: 29 bits of 2^20 ns. */
#define AGE_MASK	GENMASK(28, 0)

static struct list_lru arena_lru;
static struct shrinker *shrinker;
static bool reclaim_up;

atomic_long_t karena_nr_reclaimed;

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

static enum lru_status count_volatile(KARENA_LRU_ARGS)
{
	struct karena_arena *arena = container_of(item, struct karena_arena, lru);
	unsigned long *count = data;

	*count += KARENA_STATE(arena_word(arena)) == KARENA_VOLATILE &&
		  READ_ONCE(arena->folio);
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
	unsigned long arenas, most, count = 0;

	/* Pairs with karena_reclaim_init(). */
	if (!smp_load_acquire(&reclaim_up))
		return 0;
	arenas = list_lru_shrink_count(&arena_lru, sc);
	if (!arenas)
		return SHRINK_EMPTY;
	list_lru_walk_one(&arena_lru, sc->nid, sc->memcg, count_volatile, &count,
			  &arenas);
	most = 2 * clamp_t(unsigned long, count / 8, 1, BATCH);
	return min(count, most) * KARENA_ARENA_PAGES;
}

/* The oldest volatile arenas met so far, the oldest first. */
struct candidates {
	u32 now;
	unsigned int nr;
	struct candidate {
		struct karena_arena *arena;
		u32 word;
		u32 age;
	} of[BATCH];
};

static enum lru_status choose_oldest(KARENA_LRU_ARGS)
{
	struct karena_arena *arena = container_of(item, struct karena_arena, lru);
	struct candidates *candidates = data;
	struct candidate new = { .arena = arena, .word = arena_word(arena) };
	unsigned int i = candidates->nr;

	if (KARENA_STATE(new.word) != KARENA_VOLATILE || !READ_ONCE(arena->folio))
		return LRU_SKIP;
	new.age = (candidates->now - (new.word >> 3)) & AGE_MASK;
	/* One that was tried and is pinned does not stand in the others' way. */
	if (new.word == READ_ONCE(arena->tried_word))
		new.age = min_t(u32, new.age, AGE_MASK &
				(candidates->now - READ_ONCE(arena->tried)));
	if (i == BATCH) {
		if (candidates->of[i - 1].age >= new.age)
			return LRU_SKIP;
		purge_put(candidates->of[--i].arena->heap);
	} else {
		candidates->nr++;
	}
	for (; i && candidates->of[i - 1].age < new.age; i--)
		candidates->of[i] = candidates->of[i - 1];
	candidates->of[i] = new;
	purge_get(arena->heap);
	return LRU_SKIP;
}

/* How many pages came free. */
static unsigned long purge(struct candidate *candidate, u32 now)
{
	struct karena_arena *arena = candidate->arena;

	if (!karena_arena_purge(arena, candidate->word)) {
		WRITE_ONCE(arena->tried_word, candidate->word);
		WRITE_ONCE(arena->tried, now);
		return 0;
	}
	/* Without this, global reclaim would not know and go on. */
	mm_account_reclaimed_pages(KARENA_ARENA_PAGES);
	atomic_long_inc(&arena->heap->reclaimed);
	atomic_long_inc(&karena_nr_reclaimed);
	return KARENA_ARENA_PAGES;
}

static unsigned long reclaim_scan(struct shrinker *self,
				  struct shrink_control *sc)
{
	struct candidates candidates = {
		.now = ktime_get_coarse_ns() >> 20,
	};
	unsigned long arenas, scanned = 0, freed = 0;
	unsigned int i;

	/* Unmapping takes i_mmap_rwsem, which file systems' reclaim may hold. */
	if (!smp_load_acquire(&reclaim_up) || !(sc->gfp_mask & __GFP_FS))
		return SHRINK_STOP;
	arenas = list_lru_shrink_count(&arena_lru, sc);
	list_lru_walk_one(&arena_lru, sc->nid, sc->memcg, choose_oldest,
			  &candidates, &arenas);
	if (!candidates.nr)
		return SHRINK_STOP;
	for (i = 0; i < candidates.nr; i++) {
		struct candidate *candidate = &candidates.of[i];
		struct karena_heap *heap = candidate->arena->heap;

		if (!freed || freed < sc->nr_to_scan) {
			scanned += KARENA_ARENA_PAGES;
			freed += purge(candidate, candidates.now);
		}
		purge_put(heap);
	}
	sc->nr_scanned = scanned;
	return freed;
}

/**
 * karena_reclaim_arena_alloc() - Allocate an arena's structure.
 * @heap: Its heap, whose memory cgroup decides which list it is on.
 * @cache: Where from.
 *
 * Return: The structure, zeroed, or NULL.
 */
struct karena_arena *karena_reclaim_arena_alloc(struct karena_heap *heap,
						struct kmem_cache *cache)
{
	struct mem_cgroup *memcg = get_mem_cgroup_from_mm(heap->mm);
	struct mem_cgroup *old = set_active_memcg(memcg);
	struct karena_arena *arena;

	arena = kmem_cache_alloc_lru(cache, &arena_lru, KARENA_GFP | __GFP_ZERO);
	set_active_memcg(old);
	mem_cgroup_put(memcg);
	return arena;
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
	err = karena_shrinker_register(shrinker, &arena_lru);
	if (err) {
		shrinker_free(shrinker);
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
	list_lru_destroy(&arena_lru);
}
