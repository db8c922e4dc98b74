// SPDX-License-Identifier: GPL-2.0
/*
 * Reclaim: when memory is short, in the machine or in a memory cgroup, volatile
 * arenas are taken from their heaps, those first that were given back first; after
 * them ready frames.
 *
 * All frames are on a memcg-aware list_lru, because their owners make arenas volatile
 * by a store of which the kernel learns nothing; and so are the heaps that have had
 * ready frames. Without such lists the kernel would not call the shrinker for a
 * cgroup's own limit, and would start its OOM killer instead.
 *
 * Which node's and which cgroup's list something is on is decided by the slab page
 * that it lies in. So a struct karena_frame is made on the node of its memory and
 * charged as that is. Where slab has none on that node, it is on another's list: all
 * nodes' lists of a cgroup are walked as one, and who reclaims a node takes the arenas
 * whose memory is there; those of other nodes only when there are none. An arena that
 * shares its frame goes last: memory comes free when all who have it have given it
 * back.
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

/* How many entries are looked at with a list's lock held. */
#define SLICE	512

/* Ages are counted as in the state words: 28 bits of 2^20 ns. */
#define AGE_BITS	28
#define AGE_MASK	GENMASK(AGE_BITS - 1, 0)

static struct kmem_cache *frame_cache;
static struct list_lru frame_lru;
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

/*
 * Walk a cgroup's lists of all nodes; whether there was anything on them. What has
 * been looked at goes to the end of its list, so that the next slice goes on.
 */
static bool walk(struct list_lru *lru, struct shrink_control *sc,
		 list_lru_walk_cb isolate, void *data)
{
	unsigned long left, all = 0;
	int node;

	for_each_node_state(node, N_NORMAL_MEMORY) {
		left = list_lru_count_one(lru, node, sc->memcg);
		all += left;
		while (left) {
			unsigned long slice = min_t(unsigned long, left, SLICE);

			left -= slice;
			list_lru_walk_one(lru, node, sc->memcg, isolate, data,
					  &slice);
			cond_resched();
		}
	}
	return all;
}

/* What there is to take, in pages, of the node that is short and of others. */
struct count {
	int node;
	bool low;
	unsigned long arenas, other_arenas;
	unsigned long ready, other_ready;
};

static enum lru_status count_volatile(KARENA_LRU_ARGS)
{
	struct karena_frame *frame = container_of(item, struct karena_frame, lru);
	struct count *count = data;
	struct karena_arena *arena;

	spin_lock(&frame->family->lock);
	list_for_each_entry(arena, &frame->arenas, listed) {
		if (count->low)
			karena_pressure_raise_locked(arena->heap,
						     KARENA_PRESSURE_SOME);
		if (KARENA_STATE(arena_word(arena)) != KARENA_VOLATILE)
			continue;
		if (frame->node == count->node)
			count->arenas++;
		else
			count->other_arenas++;
	}
	spin_unlock(&frame->family->lock);
	return LRU_ROTATE;
}

static enum lru_status count_ready(KARENA_LRU_ARGS)
{
	struct karena_ready_frames *ready =
		container_of(item, struct karena_ready_frames, lru);
	struct count *count = data;

	unsigned long here = READ_ONCE(ready->node[count->node].nr);

	count->ready += here;
	count->other_ready += READ_ONCE(ready->heap->nr_ready) - here;
	return LRU_ROTATE;
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
	any = walk(&frame_lru, sc, count_volatile, &count);
	any |= walk(&ready_lru, sc, count_ready, &count);
	if (!any)
		return SHRINK_EMPTY;
	frames = count.arenas + count.ready ?:
		 count.other_arenas + count.other_ready;
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
		bool shared;
	} of[BATCH];
};

/* How long ago something was; what seems to be in the future is new. */
static u32 age(u32 now, u32 then)
{
	u32 past = (now - then) & AGE_MASK;

	return past >> (AGE_BITS - 1) ? 0 : past;
}

/* Whether one is to go before another. */
static bool before(const struct candidate *one, const struct candidate *other)
{
	if (one->shared != other->shared)
		return other->shared;
	return one->here != other->here ? one->here : one->age > other->age;
}

/* With the family's lock held. */
static void consider(struct candidates *candidates, struct karena_arena *arena)
{
	struct candidate new = { .arena = arena, .word = arena_word(arena) };
	struct karena_frame *huge = karena_arena_huge(arena);
	unsigned int i = candidates->nr;

	if (KARENA_STATE(new.word) != KARENA_VOLATILE)
		return;
	new.here = arena->frame->node == candidates->node;
	new.shared = huge && huge->owners > 1;
	new.age = age(candidates->now + arena->heap->clock, new.word >> 4);
	/* One that was tried and is pinned does not stand in the others' way. */
	if (new.word == READ_ONCE(arena->tried_word))
		new.age = min(new.age, age(candidates->now,
					   READ_ONCE(arena->tried)));
	if (i == BATCH) {
		if (!before(&new, &candidates->of[i - 1]))
			return;
		purge_put(candidates->of[--i].arena->heap);
	} else {
		candidates->nr++;
	}
	for (; i && before(&new, &candidates->of[i - 1]); i--)
		candidates->of[i] = candidates->of[i - 1];
	candidates->of[i] = new;
	purge_get(arena->heap);
}

static enum lru_status choose_oldest(KARENA_LRU_ARGS)
{
	struct karena_frame *frame = container_of(item, struct karena_frame, lru);
	struct karena_arena *arena;

	spin_lock(&frame->family->lock);
	list_for_each_entry(arena, &frame->arenas, listed)
		consider(data, arena);
	spin_unlock(&frame->family->lock);
	return LRU_ROTATE;
}

/* What the arena's own pages are; it may change meanwhile. */
static unsigned long arena_pages(struct karena_arena *arena)
{
	struct karena_heap *heap = arena->heap;
	struct karena_frame *huge;
	unsigned long pages = 0;

	spin_lock(&heap->family->lock);
	huge = karena_arena_huge(arena);
	if (arena->frame)
		pages = arena->frame->nr_pages;
	if (huge && huge->owners == 1)
		pages += KARENA_ARENA_PAGES;
	spin_unlock(&heap->family->lock);
	return pages;
}

/* How many pages came free. */
static unsigned long purge(struct candidate *candidate, u32 now)
{
	struct karena_arena *arena = candidate->arena;
	struct karena_heap *heap = arena->heap;
	unsigned long pages = arena_pages(arena);
	bool taken = karena_purge(arena, candidate->word);

	trace_karena_reclaim(heap, arena->index, taken ? pages : 0);
	if (!taken) {
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

	walk(&frame_lru, sc, choose_oldest, &candidates);
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
		return LRU_ROTATE;
	purge_get(ready->heap);
	heaps->of[heaps->nr++] = ready->heap;
	return LRU_ROTATE;
}

static unsigned long drop_ready(struct karena_heap *heap, unsigned long pages,
				int node)
{
	unsigned long frames = DIV_ROUND_UP(pages, KARENA_ARENA_PAGES);

	frames = karena_ready_drop(heap, frames, node) / KARENA_ARENA_PAGES;
	if (!frames)
		return 0;
	atomic_long_add(frames, &heap->reclaimed_ready);
	atomic_long_add(frames, &karena_nr_reclaimed_ready);
	karena_pressure_raise(heap, KARENA_PRESSURE_SOME);
	return frames * KARENA_ARENA_PAGES;
}

/* Those of the node that is short first. */
static unsigned long purge_ready(struct shrink_control *sc, unsigned long pages)
{
	struct heaps heaps = {};
	unsigned long freed = 0;
	unsigned int i;

	walk(&ready_lru, sc, choose_ready, &heaps);
	for (i = 0; i < heaps.nr && freed < pages; i++)
		freed += drop_ready(heaps.of[i], pages - freed, sc->nid);
	for (i = 0; i < heaps.nr; i++) {
		if (!freed)
			freed = drop_ready(heaps.of[i], pages, NUMA_NO_NODE);
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

/* Charged to the heap's owner; the first of a cgroup makes its lists. */
static void *reclaim_alloc(struct karena_heap *heap, struct kmem_cache *cache,
			   struct list_lru *lru, int node, gfp_t gfp)
{
	struct mem_cgroup *memcg = karena_folio_memcg(heap);
	struct mem_cgroup *old = set_active_memcg(memcg);
	void *object, *there;

	object = kmem_cache_alloc_lru(cache, lru, gfp | __GFP_ZERO);
	if (object && node != NUMA_NO_NODE &&
	    page_to_nid(virt_to_page(object)) != node) {
		there = kmem_cache_alloc_node(cache, gfp | __GFP_ZERO, node);
		if (there) {
			kmem_cache_free(cache, object);
			object = there;
		}
	}
	set_active_memcg(old);
	mem_cgroup_put(memcg);
	return object;
}

/**
 * karena_reclaim_alloc() - Allocate a frame's structure.
 * @heap: The heap, whose memory cgroup decides which list it is on.
 * @node: Where the frame's memory is.
 * @gfp: How.
 *
 * Return: The structure, empty, or NULL.
 */
struct karena_frame *karena_reclaim_alloc(struct karena_heap *heap, int node, gfp_t gfp)
{
	struct karena_frame *frame;

	frame = reclaim_alloc(heap, frame_cache, &frame_lru, node, gfp);
	if (!frame)
		return NULL;
	INIT_LIST_HEAD(&frame->lru);
	INIT_LIST_HEAD(&frame->arenas);
	frame->family = heap->family;
	return frame;
}

/**
 * karena_reclaim_free() - Free a frame's structure.
 * @frame: The frame, not shown.
 */
void karena_reclaim_free(struct karena_frame *frame)
{
	kmem_cache_free(frame_cache, frame);
}

/**
 * karena_reclaim_show() - Let reclaim see a frame, until karena_reclaim_hide().
 * @frame: The frame, with its memory.
 */
void karena_reclaim_show(struct karena_frame *frame)
{
	list_lru_add_obj(&frame_lru, &frame->lru);
}

/**
 * karena_reclaim_hide() - Let reclaim see a frame no more.
 * @frame: The frame.
 */
void karena_reclaim_hide(struct karena_frame *frame)
{
	list_lru_del_obj(&frame_lru, &frame->lru);
}

/**
 * karena_reclaim_alloc_ready() - Allocate the structure of a heap's ready frames.
 * @heap: The heap, whose memory cgroup decides which list it is on.
 * @cache: Where from.
 * @gfp: How.
 *
 * Return: The structure, zeroed, or NULL.
 */
void *karena_reclaim_alloc_ready(struct karena_heap *heap, struct kmem_cache *cache,
				 gfp_t gfp)
{
	return reclaim_alloc(heap, cache, &ready_lru, NUMA_NO_NODE, gfp);
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
 * @heap: The heap, with none of its arenas listed, and its ready frames removed.
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
	struct list_lru *lrus[] = { &frame_lru, &ready_lru };
	int err;

	frame_cache = KMEM_CACHE(karena_frame, SLAB_ACCOUNT);
	if (!frame_cache)
		return -ENOMEM;
	shrinker = shrinker_alloc(SHRINKER_MEMCG_AWARE | SHRINKER_NUMA_AWARE,
				  "karena");
	if (!shrinker) {
		kmem_cache_destroy(frame_cache);
		return -ENOMEM;
	}
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
	list_lru_destroy(&frame_lru);
	kmem_cache_destroy(frame_cache);
}
