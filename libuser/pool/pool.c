// SPDX-License-Identifier: MIT
/*
 * Pools of a heap: made from runs, given back, and kept on the shelf when a thread
 * has no use for them any more that others may have.
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/auxv.h>

#include "base/bits.h"
#include "pool/pool.h"

struct ka_pool ka_no_pool;
uint64_t ka_secret;

/*
 * How many slots spare pools may have: 4 MiB, in a small heap 2; nor more than that where
 * others are wanted.
 */
#define MOST_SPARE	256
#define FEW_SPARE	128

/* Blocks of a pool that is thinned: any of 16 KiB has no more. */
#define MOST_THIN	(KA_SLOT_SIZE / KA_CLASS_STEP)

static bool may_be_spare(const struct ka_pools *pools, size_t slots)
{
	size_t most = pools->arenas.notes->stats.run_bytes / KA_SLOT_SIZE / 16;

	most = most < FEW_SPARE ? FEW_SPARE : most < MOST_SPARE ? most : MOST_SPARE;
	return pools->arenas.spare_pages / KA_SLOT_PAGES + slots <= most;
}

/*
 * A pool has at least so many blocks, and a sixteenth of it may stay unused. With many, a
 * thread comes to the next pool rarely; but of large ones few lie idle, class by class.
 */
static size_t fewest_blocks(size_t size)
{
	if (size <= KA_PAGE_SIZE)
		return size <= KA_DIRECT_MAX ? 64 : 32;
	return size <= 8 * KA_PAGE_SIZE ? 8 : 2;
}

static unsigned int pool_slots(size_t size)
{
	unsigned int slots = 1;

	for (;;) {
		size_t bytes = slots * KA_SLOT_SIZE, count = bytes / size;

		if (count >= fewest_blocks(size) && (bytes - count * size) * 16 <= bytes)
			return slots;
		slots++;
	}
}

/* Blocks of a power of two are aligned to it, so their pools are as well. */
static size_t pool_align(size_t size)
{
	return size > KA_SLOT_SIZE && !(size & (size - 1)) ? size : KA_SLOT_SIZE;
}

static void map(struct ka_pools *pools, size_t slot, size_t count, struct ka_pool *pool)
{
	for (size_t i = slot; i < slot + count; i++)
		__atomic_store_n(&pools->map[i], pool, __ATOMIC_RELAXED);
}

/* The map gets memory in steps of 64 KiB, of which one is for 64 arenas. */
#define MAP_STEP	((size_t)64 << 10)

/* Let the map have an entry for each of so many slots: 0, or an errno. */
static int reach_map(struct ka_pools *pools, size_t nr_slots)
{
	size_t size = (nr_slots * sizeof(void *) + MAP_STEP - 1) & ~(MAP_STEP - 1);
	size_t most = ka_window_map_size(&pools->arenas.window);
	char *end = (char *)pools->map + pools->map_size;

	size = size < most ? size : most;
	if (size <= pools->map_size)
		return 0;
	if (ka_mmap(end, size - pools->map_size, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE) != end)
		return ENOMEM;
	/* A huge page would cost 2 MiB at the first touch. */
	ka_madvise(end, size - pools->map_size, MADV_NOHUGEPAGE);
	pools->map_size = size;
	return 0;
}

/*
 * Let all slots of the arenas that have been touched be found: not to be pools. 0, or an
 * errno.
 */
static int reach_slots(struct ka_pools *pools)
{
	const struct ka_notes *notes = pools->arenas.notes;
	size_t end = (notes->nr_touched - notes->nr_notes) * KA_ARENA_SLOTS;
	int error;

	if (end <= pools->nr_slots)
		return 0;
	error = reach_map(pools, end);
	if (error)
		return error;
	map(pools, pools->nr_slots, end - pools->nr_slots, &ka_no_pool);
	__atomic_store_n(&pools->nr_slots, end, __ATOMIC_RELEASE);
	return 0;
}

/* The first of the spare pools of a class, or NULL. */
static struct ka_pool *take_spare(struct ka_pools *pools, unsigned int class)
{
	struct ka_pool *spare = pools->spare[class];

	if (!spare)
		return NULL;
	pools->spare[class] = spare->next;
	pools->nr_spare--;
	pools->arenas.spare_pages -= spare->slots * KA_SLOT_PAGES;
	__atomic_store_n(&spare->owner, KA_GONE, __ATOMIC_RELAXED);
	return spare;
}

/* Give up all spare pools, with the heap's lock held. */
static void drop_spare(struct ka_arenas *arenas)
{
	struct ka_pools *pools = (struct ka_pools *)((char *)arenas -
						     offsetof(struct ka_pools, arenas));

	for (unsigned int class = 0; pools->nr_spare && class < KA_CLASSES; class++) {
		struct ka_pool *spare;

		while ((spare = take_spare(pools, class)))
			ka_run_give(arenas, ka_pool_start(pools, spare));
	}
}

/**
 * ka_pools_forget() - Let no pool of a heap be one any more, whatever is in it.
 * @pools: The heap's, with its lock held. No thread has a cache of them. Their runs stay.
 */
void ka_pools_forget(struct ka_pools *pools)
{
	for (unsigned int class = 0; class < KA_CLASSES; class++) {
		while (take_spare(pools, class))
			;
	}
	for (size_t slot = 0; slot < pools->nr_slots; slot++) {
		struct ka_pool *pool = pools->map[slot];

		if (pool == &ka_no_pool)
			continue;
		__atomic_store_n(&pool->owner, KA_GONE, __ATOMIC_RELAXED);
		__atomic_store_n(&pools->map[slot], &ka_no_pool, __ATOMIC_RELAXED);
	}
	memset(pools->shelf, 0, sizeof(pools->shelf));
	memset(pools->traced, 0, sizeof(pools->traced));
	pools->arenas.notes->nr_pools = 0;
}

/* Slots that a spare pool of another class has; false if there is none that fits. */
static bool take_spare_slots(struct ka_pools *pools, unsigned int count, size_t align,
			     size_t *slot)
{
	for (unsigned int class = 0; pools->nr_spare && class < KA_CLASSES; class++) {
		struct ka_pool *spare = pools->spare[class];

		if (!spare || spare->slots != count ||
		    ((uintptr_t)ka_pool_start(pools, spare) & (align - 1)))
			continue;
		*slot = ka_pool_slot(pools, take_spare(pools, class));
		return true;
	}
	/* Some are for their own class, but not many. */
	if (pools->arenas.spare_pages > FEW_SPARE * KA_SLOT_PAGES)
		drop_spare(&pools->arenas);
	return false;
}

/* Slots for a pool's blocks, which its notes have been made for; the first one. */
static bool take_slots(struct ka_pools *pools, unsigned int count, size_t size, size_t *slot,
		       bool *zero)
{
	char *run = ka_run_take(&pools->arenas, count * KA_SLOT_SIZE, pool_align(size),
				size <= KA_PAGE_SIZE ? KA_PAGES_HUGE : KA_PAGES_SMALL,
				zero);
	int error;

	if (!run)
		return false;
	*slot = ka_slot_of(pools, run);
	error = ka_notes_reach_pool(&pools->arenas, *slot);
	if (!error)
		error = reach_slots(pools);
	if (error) {
		ka_run_give(&pools->arenas, run);
		ka_fail(error, "no memory for the notes on a pool");
		return false;
	}
	return true;
}

/* A pool on slots that it has not been on. */
static struct ka_pool *make_new(struct ka_pools *pools, unsigned int class)
{
	size_t size = ka_class_size(class), slot;
	unsigned int slots = pool_slots(size);
	struct ka_pool *pool;
	bool zero = false;

	if (!take_spare_slots(pools, slots, pool_align(size), &slot) &&
	    !take_slots(pools, slots, size, &slot, &zero))
		return NULL;
	pool = &pools->entries[slot];
	/*
	 * Its owner stays KA_GONE until all is there: who freed the last block of what was
	 * here before may only now look whether anybody owns that.
	 */
	pool->free = NULL;
	pool->used = 0;
	pool->made = 0;
	pool->remote = 0;
	pool->next = NULL;
	pool->prev = NULL;
	pool->capacity = (uint32_t)(slots * KA_SLOT_SIZE / size);
	pool->size = (uint32_t)size;
	pool->class = (uint8_t)class;
	pool->slots = (uint8_t)slots;
	pool->held = 0;
	pool->zero = zero;
	pool->thin = false;
	__atomic_store_n(&pool->listed, false, __ATOMIC_RELAXED);
	return pool;
}

/* With the heap's lock held. A spare pool has all of its blocks linked still. */
static struct ka_pool *make(struct ka_pools *pools, unsigned int class, uintptr_t owner)
{
	struct ka_pool *pool = take_spare(pools, class);

	if (!pool)
		pool = make_new(pools, class);
	if (!pool)
		return NULL;
	__atomic_store_n(&pool->owner, owner, __ATOMIC_RELAXED);
	map(pools, ka_pool_slot(pools, pool), pool->slots, pool);
	pools->arenas.notes->nr_pools++;
	ka_arenas_changed(&pools->arenas);
	return pool;
}

/**
 * ka_pool_make() - Make a pool.
 * @pools: The heap's.
 * @class: Of its blocks.
 * @owner: Whose it is to be.
 *
 * Return: The pool, without a free block yet; or NULL with errno and a sentence.
 */
struct ka_pool *ka_pool_make(struct ka_pools *pools, unsigned int class, uintptr_t owner)
{
	struct ka_pool *pool;

	ka_arenas_lock(&pools->arenas);
	pool = make(pools, class, owner);
	ka_arenas_unlock(&pools->arenas);
	return pool;
}

static void make_spare(struct ka_pools *pools, struct ka_pool *pool)
{
	__atomic_store_n(&pool->owner, KA_SPARE, __ATOMIC_RELAXED);
	pool->next = pools->spare[pool->class];
	pools->spare[pool->class] = pool;
	pools->nr_spare++;
	pools->arenas.spare_pages += pool->slots * KA_SLOT_PAGES;
}

/* How to find out which block of a pool an address is: see block_at(). */
struct ruler {
	uintptr_t start;
	uint64_t inverse;
	unsigned int shift;
};

static struct ruler ruler_of(const struct ka_pools *pools, const struct ka_pool *pool)
{
	/* Of the odd numbers below 16, modulo 2^64: no size has a larger odd part. */
	static const uint64_t inverses[] = {
		1, 0xaaaaaaaaaaaaaaab, 0xcccccccccccccccd, 0x6db6db6db6db6db7,
		0x8e38e38e38e38e39, 0x2e8ba2e8ba2e8ba3, 0x4ec4ec4ec4ec4ec5, 0xeeeeeeeeeeeeeeef,
	};
	unsigned int shift = (unsigned int)__builtin_ctz(pool->size);

	return (struct ruler){
		.start = (uintptr_t)ka_pool_start(pools, pool),
		.inverse = inverses[pool->size >> shift >> 1],
		.shift = shift,
	};
}

/*
 * Which block begins at an address; a larger number than any pool has blocks if none does.
 * To divide by the size, which has to leave no remainder, is to multiply by the inverse of
 * its odd part, and to rotate the rest away (Granlund, Montgomery 1994).
 */
static inline uint64_t block_at(struct ruler ruler, const void *address)
{
	uint64_t quotient = ((uintptr_t)address - ruler.start) * ruler.inverse;

	return quotient >> ruler.shift | quotient << (64 - ruler.shift);
}

/* Whether a free block, in a list that may have @left more, is none, or is one too many. */
static inline bool is_wrong(struct ruler ruler, const struct ka_pool *pool,
			    const struct ka_free *block, uint32_t *left)
{
	return __builtin_expect(block_at(ruler, block) >= pool->made || !(*left)-- ||
				block->mark != KA_FREED, 0);
}

/* The program ends: of the blocks from @first on, one is wrong. */
static void __attribute__((noreturn, cold))
list_is_broken(const struct ka_pools *pools, const struct ka_pool *pool,
	       const struct ka_free *first)
{
	struct ruler ruler = ruler_of(pools, pool);
	const struct ka_free *last = first;
	uint32_t left = pool->made;

	for (; !is_wrong(ruler, pool, first, &left); first = ka_next(first))
		last = first;
	ka_fail(EINVAL, "a block of %u bytes, %p or one that was freed after it, has been freed"
		" twice, or written to since it was freed, or was none", pool->size, last);
	ka_die("free");
}

void ka_pool_take_is_wrong(const struct ka_free *block)
{
	ka_fail(EINVAL, "the block %p has been written to since it was freed", block);
	ka_die("malloc");
}

/*
 * The last of the blocks that others have freed. A block that is freed twice closes a
 * circle, and what is written to one that is free breaks the chain.
 */
static struct ka_free *check_remote(const struct ka_pools *pools, const struct ka_pool *pool,
				    uint64_t remote)
{
	struct ka_free *block = ka_remote_first(remote), *last = block;
	uint32_t left = ka_remote_count(remote), looks = KA_LOOKS;
	struct ruler ruler = ruler_of(pools, pool);

	for (; block; block = ka_next(block)) {
		uint32_t few = KA_FEW_LOOKS;

		if (is_wrong(ruler, pool, block, &left) ||
		    (__builtin_expect(block->doubtful, 0) &&
		     ka_pool_has_free(pools, pool, block,
				      looks > KA_FEW_LOOKS ? &looks : &few)))
			list_is_broken(pools, pool, block);
		last = block;
	}
	return last;
}

/**
 * ka_pool_check() - End the program if a pool's free blocks are not what they must be.
 * @pools: The heap's.
 * @pool: The caller's pool.
 * @most: How many are looked at: the first ones.
 *
 * Of a child's pool, some blocks may have been lost at the fork.
 */
void ka_pool_check(const struct ka_pools *pools, const struct ka_pool *pool, uint32_t most)
{
	struct ruler ruler = ruler_of(pools, pool);
	uint32_t left = pool->made;

	for (const struct ka_free *block = pool->free; block && most--;
	     block = ka_next(block)) {
		if (is_wrong(ruler, pool, block, &left))
			list_is_broken(pools, pool, pool->free);
	}
}

/**
 * ka_pool_has_free() - Whether a block is in a pool's list of free ones.
 * @pools: The heap's.
 * @pool: The caller's pool.
 * @block: Where a block of it begins.
 * @looks: How many free blocks are looked at, the last ones that were freed; on return, how
 *	many could have been more.
 *
 * The program ends if the list is broken.
 */
bool ka_pool_has_free(const struct ka_pools *pools, const struct ka_pool *pool,
		      const void *block, uint32_t *looks)
{
	struct ruler ruler = ruler_of(pools, pool);
	const struct ka_free *each = pool->free;
	uint32_t left = pool->made;

	for (; each && each != block && *looks; each = ka_next(each), --*looks) {
		if (is_wrong(ruler, pool, each, &left))
			list_is_broken(pools, pool, pool->free);
	}
	return each == block;
}

/* With the heap's lock held, a pool that is empty and in no list. */
static void give_back(struct ka_pools *pools, struct ka_pool *pool)
{
	size_t slots = pool->slots;

	ka_pool_check(pools, pool, UINT32_MAX);

	map(pools, ka_pool_slot(pools, pool), slots, &ka_no_pool);
	/* Who has just freed its last block may look at it still. */
	__atomic_store_n(&pool->owner, KA_GONE, __ATOMIC_RELAXED);
	pools->arenas.notes->nr_pools--;
	if (may_be_spare(pools, slots))
		make_spare(pools, pool);
	else
		ka_run_give(&pools->arenas, ka_pool_start(pools, pool));
	/* Without pools nothing is spare where empty arenas are to go. */
	if (!pools->arenas.notes->nr_pools && pools->arenas.most_empty != SIZE_MAX)
		drop_spare(&pools->arenas);
	ka_arenas_decay(&pools->arenas);
	ka_arenas_changed(&pools->arenas);
}

/**
 * ka_pool_give_back() - Give up a pool whose blocks are all free.
 * @pools: The heap's.
 * @pool: The caller's pool, in no list.
 */
void ka_pool_give_back(struct ka_pools *pools, struct ka_pool *pool)
{
	ka_arenas_lock(&pools->arenas);
	give_back(pools, pool);
	ka_arenas_unlock(&pools->arenas);
}

/**
 * ka_pool_collect_some() - Take what others have freed.
 * @pools: The heap's.
 * @pool: The caller's pool, of which they have, or who called its owner had.
 */
void ka_pool_collect_some(struct ka_pools *pools, struct ka_pool *pool)
{
	struct ka_free *last;
	uint64_t remote;

	if (KA_READ(pool->owner) & KA_CALLED)
		__atomic_store_n(&pool->owner, ka_pool_owner(pool), __ATOMIC_RELAXED);
	/* Who finds it empty from here on calls the owner again. */
	remote = __atomic_exchange_n(&pool->remote, 0, __ATOMIC_ACQ_REL);
	if (!remote)
		return;
	last = check_remote(pools, pool, remote);
	ka_link(last, pool->free);
	pool->free = ka_remote_first(remote);
	/* Who frees another one sees this, or is seen: ka_cache_give_back_empty(). */
	__atomic_store_n(&pool->used, pool->used - ka_remote_count(remote),
			 __ATOMIC_SEQ_CST);
}

/* A number that nobody can tell who does not know the heap's secret. */
static uint64_t draw(const struct ka_pools *pools)
{
	static __thread uint64_t drawn;
	__uint128_t product;

	drawn += 2;
	product = (__uint128_t)(pools->secret[0] ^ (drawn + ka_thread())) *
		  (pools->secret[1] | 1);
	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/*
 * Link the blocks of a page, at least two, in an order that nobody can know: from any of them
 * on, up or down, round and round. With steps of more than one block, to walk through a list
 * in the order of its making takes twice as long: the processor does not foresee where it
 * goes on. Returns the first one.
 */
static struct ka_free *link_at_random(const struct ka_pools *pools, char *start, size_t size,
				      uint32_t count)
{
	uint64_t random = draw(pools);
	uint32_t step = 1, at = (uint32_t)((random >> 32) * count >> 32);
	struct ka_free *first = (struct ka_free *)(start + at * size), *block = first, *next;

	if (random & 1)
		step = count - 1;
	for (uint32_t i = 1; i < count; i++) {
		at += step;
		at = at < count ? at : at - count;
		next = (struct ka_free *)(start + at * size);
		block->mark = KA_FREED;
		ka_link(block, next);
		block = next;
	}
	block->mark = KA_FREED;
	ka_link(block, NULL);
	return first;
}

/**
 * ka_pool_extend() - Link blocks that have never been in use, a page of them.
 * @pools: The heap's.
 * @pool: The caller's pool, without a free block, but with such.
 */
void ka_pool_extend(struct ka_pools *pools, struct ka_pool *pool)
{
	char *start = ka_pool_start(pools, pool) + (size_t)pool->made * pool->size;
	uint32_t count = (uint32_t)(KA_PAGE_SIZE / pool->size);
	struct ka_free *first = (struct ka_free *)start;

	if (count > pool->capacity - pool->made)
		count = pool->capacity - pool->made;
	if (!count)
		count = 1;
	if (KA_CHECKED && !pool->zero)
		memset(start, 0, (size_t)count * pool->size);
	if (count == 1) {
		*first = (struct ka_free){ .mark = KA_FREED };
		ka_link(first, NULL);
	} else {
		first = link_at_random(pools, start, pool->size, count);
	}
	/* In this order: a child that is forked between them loses them, no more. */
	__atomic_store_n(&pool->made, pool->made + count, __ATOMIC_RELEASE);
	__atomic_store_n(&pool->free, first, __ATOMIC_RELEASE);
}

/* How many blocks a pool has up to the last one in use. */
static uint32_t blocks_to_keep(const struct ka_pool *pool, const char *start)
{
	uint64_t map[MOST_THIN / 64] = { 0 };
	uint32_t keep = pool->made;

	for (const struct ka_free *block = pool->free; block; block = ka_next(block))
		ka_change_bits(map, (size_t)((const char *)block - start) / pool->size, 1,
			       true);
	while (keep && ka_test_bit(map, keep - 1))
		keep--;
	return keep;
}

/* Of blocks that are linked, let only those before an address be so. */
static void unlink_from(struct ka_pool *pool, const char *end)
{
	struct ka_free *block = pool->free, *last = NULL, *next;

	for (; block; block = next) {
		next = ka_next(block);
		if ((char *)block < end)
			last = block;
		else if (last)
			ka_link(last, next);
		else
			pool->free = next;
	}
}

/**
 * ka_pool_thin() - Give back the pages behind a pool's last block in use.
 * @pools: The heap's.
 * @pool: The caller's pool, not a current one.
 *
 * Return: How many pages have been given back. The blocks in them are as if never made.
 * On the module none are: it would have to cut huge frames up for that.
 */
size_t ka_pool_thin(struct ka_pools *pools, struct ka_pool *pool)
{
	const struct ka_source_type *source = pools->arenas.window.source;
	size_t first = ka_pool_slot(pools, pool) % KA_ARENA_SLOTS * KA_SLOT_PAGES, from, end;
	char *start = ka_pool_start(pools, pool);
	uint64_t map[KA_MAP_WORDS] = { 0 };
	uint32_t keep;

	pool->thin = true;
	if (source->frames || pools->arenas.window.io || pool->capacity > MOST_THIN)
		return 0;
	keep = blocks_to_keep(pool, start);
	from = ((size_t)keep * pool->size + KA_PAGE_SIZE - 1) / KA_PAGE_SIZE;
	end = ((size_t)pool->made * pool->size + KA_PAGE_SIZE - 1) / KA_PAGE_SIZE;
	if (from >= end)
		return 0;
	/* A child that is forked in between loses them, no more. */
	unlink_from(pool, start + (size_t)keep * pool->size);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	pool->zero = false;
	pool->made = keep;
	ka_change_bits(map, first + from, end - from, true);
	if (!source->purge(&pools->arenas.window, ka_pool_arena(pools, pool), map))
		return 0;
	return end - from;
}

/* With the heap's lock held: on the shelf, or back if it is empty by now. */
void ka_pool_shelve_locked(struct ka_pools *pools, struct ka_pool *pool)
{
	struct ka_pool_list *shelf = &pools->shelf[pool->class];

	ka_pool_link(shelf, pool);
	for (;;) {
		ka_pool_collect(pools, pool);
		if (!pool->used)
			break;
		/* Who frees a block now finds it on the shelf, or we find the block. */
		__atomic_exchange_n(&pool->owner, KA_SHELF, __ATOMIC_SEQ_CST);
		if (!__atomic_load_n(&pool->remote, __ATOMIC_SEQ_CST))
			return;
	}
	ka_pool_unlink(shelf, pool);
	give_back(pools, pool);
}

/**
 * ka_pool_shelve() - Leave a pool to whoever needs blocks of its class.
 * @pools: The heap's.
 * @pool: The caller's pool, in no list. If it is empty it goes back to the heap.
 */
void ka_pool_shelve(struct ka_pools *pools, struct ka_pool *pool)
{
	ka_arenas_lock(&pools->arenas);
	ka_pool_shelve_locked(pools, pool);
	ka_arenas_unlock(&pools->arenas);
}

/* The best of the first pools on a shelf, or NULL. */
static struct ka_pool *choose(const struct ka_pool_list *shelf)
{
	struct ka_pool *best = shelf->first, *pool = best;

	for (int i = 0; i < KA_LOOK_AT && pool; i++, pool = pool->next) {
		if (ka_pool_is_better(pool, best))
			best = pool;
	}
	return best;
}

/**
 * ka_pool_unshelve() - Take a pool from the shelf.
 * @pools: The heap's.
 * @class: Of its blocks.
 * @owner: Whose it is from now on.
 *
 * Return: The pool, or NULL.
 */
struct ka_pool *ka_pool_unshelve(struct ka_pools *pools, unsigned int class, uintptr_t owner)
{
	struct ka_pool *pool;

	if (!__atomic_load_n(&pools->shelf[class].first, __ATOMIC_RELAXED))
		return NULL;
	ka_arenas_lock(&pools->arenas);
	pool = choose(&pools->shelf[class]);
	if (pool) {
		ka_pool_unlink(&pools->shelf[class], pool);
		__atomic_store_n(&pool->owner, owner, __ATOMIC_RELEASE);
	}
	ka_arenas_unlock(&pools->arenas);
	return pool;
}

/**
 * ka_pool_adopt() - Become the owner of a pool that has none.
 * @pools: The heap's.
 * @pool: The pool.
 * @owner: Whose it is from now on.
 *
 * Return: Whether it had none. What others have freed of it is still to be collected.
 */
bool ka_pool_adopt(struct ka_pools *pools, struct ka_pool *pool, uintptr_t owner)
{
	uintptr_t now = __atomic_load_n(&pool->owner, __ATOMIC_SEQ_CST);
	bool mine = false;

	if (now == KA_NOBODY && __libc_single_threaded) {
		__atomic_store_n(&pool->owner, owner, __ATOMIC_RELAXED);
		return true;
	}
	if (now == KA_NOBODY)
		return __atomic_compare_exchange_n(&pool->owner, &now, owner, false,
						   __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
	if (now != KA_SHELF)
		return false;
	ka_arenas_lock(&pools->arenas);
	if (__atomic_load_n(&pool->owner, __ATOMIC_RELAXED) == KA_SHELF) {
		ka_pool_unlink(&pools->shelf[pool->class], pool);
		__atomic_store_n(&pool->owner, owner, __ATOMIC_RELEASE);
		mine = true;
	}
	ka_arenas_unlock(&pools->arenas);
	return mine;
}

/**
 * ka_pool_disown() - Give up a pool that is full.
 * @pools: The heap's.
 * @pool: The caller's pool, in no list, without a free block.
 *
 * Return: True; false if others have freed blocks meanwhile: it stays the caller's.
 */
bool ka_pool_disown(struct ka_pools *pools, struct ka_pool *pool)
{
	uintptr_t owner = ka_pool_owner(pool);

	/* Nobody else can have freed one since the last were collected. */
	if (__libc_single_threaded) {
		__atomic_store_n(&pool->owner, KA_NOBODY, __ATOMIC_RELAXED);
		return true;
	}
	/* Who frees a block from here on adopts the pool, or we see the block. */
	__atomic_exchange_n(&pool->owner, KA_NOBODY, __ATOMIC_SEQ_CST);
	return !__atomic_load_n(&pool->remote, __ATOMIC_SEQ_CST) ||
	       !ka_pool_adopt(pools, pool, owner | KA_CALLED);
}

/**
 * ka_pool_leave() - Give up a pool: to the heap, to the shelf or, if it is full, to nobody.
 * @pools: The heap's.
 * @pool: The caller's pool, in no list.
 */
void ka_pool_leave(struct ka_pools *pools, struct ka_pool *pool)
{
	ka_pool_collect(pools, pool);
	if (pool->free || pool->made < pool->capacity || !ka_pool_disown(pools, pool))
		ka_pool_shelve(pools, pool);
}

/**
 * ka_pool_call() - Let the owner of a pool see that others have freed blocks of it.
 * @pool: A pool of another thread; nothing happens if it is nobody's by now.
 */
void ka_pool_call(struct ka_pool *pool)
{
	uintptr_t owner = __atomic_load_n(&pool->owner, __ATOMIC_RELAXED);

	while (owner > KA_SPARE && !(owner & KA_CALLED) &&
	       !__atomic_compare_exchange_n(&pool->owner, &owner, owner | KA_CALLED, true,
					    __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
		;
}

/**
 * ka_pool_figures() - What pools and blocks there are.
 * @pools: The heap's, whose lock is held.
 * @stats: Its members for pools and blocks are filled in.
 *
 * Other threads go on: each pool is counted as it was at some moment. Spare runs
 * count as free.
 */
KA_COUNTS void ka_pool_figures(struct ka_pools *pools, struct ka_stats *stats)
{
	size_t slot = 0;

	stats->runs -= pools->nr_spare;
	stats->run_bytes -= pools->arenas.spare_pages * KA_PAGE_SIZE;
	stats->pools = pools->arenas.notes->nr_pools;
	stats->pool_bytes = 0;
	stats->blocks = 0;
	stats->block_bytes = 0;
	stats->quantization_bytes = 0;
	while (slot < pools->nr_slots) {
		struct ka_pool *pool = pools->map[slot];
		size_t used;

		slot += pool == &ka_no_pool ? 1 : pool->slots;
		if (pool == &ka_no_pool)
			continue;
		used = ka_pool_in_use(pool);
		stats->pool_bytes += pool->slots * KA_SLOT_SIZE;
		stats->blocks += used;
		stats->block_bytes += used * pool->size;
		stats->quantization_bytes += pool->slots * KA_SLOT_SIZE -
					     (size_t)pool->capacity * pool->size;
	}
}

/* Where to find pools by their addresses: 0, or -1. */
static int open_map(struct ka_pools *pools)
{
	struct ka_window *window = &pools->arenas.window;
	size_t size = ka_window_map_size(window);

	pools->map_size = 0;
	if (window->claimed) {
		pools->map = (void *)(window->start + ka_window_size(window));
		return 0;
	}
	/* Addresses alone: pages of it come as arenas do. */
	pools->map = ka_mmap(NULL, size, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
	if (pools->map == MAP_FAILED)
		return ka_fail(ENOMEM, "no room for the map of a heap (see ulimit -v)");
	pools->map_size = size;
	/* A huge page would cost 2 MiB at the first touch; one page has 4 arenas. */
	ka_madvise(pools->map, size, MADV_NOHUGEPAGE);
	return 0;
}

/*
 * A secret of the heap's own. The kernel has given the process 16 random bytes at its start:
 * no call is needed, which a sandbox may forbid. What else depends on them shows nothing of
 * the secret.
 */
static void open_secret(struct ka_pools *pools)
{
	uint64_t random[2] = { 0 };
	const void *bytes = (const void *)getauxval(AT_RANDOM);

	if (bytes)
		memcpy(random, bytes, sizeof(random));
	random[0] += (uintptr_t)pools->arenas.window.start;
	random[1] += ka_clock();
	for (int i = 0; i < 4; i++) {
		__uint128_t product = (__uint128_t)(random[0] | 1) *
					    0x9e3779b97f4a7c15;

		random[0] = random[1] ^ (uint64_t)product;
		random[1] += (uint64_t)(product >> 64);
	}
	memcpy(pools->secret, random, sizeof(random));
	/* What is encoded with it must stay as it is. */
	if (!ka_secret)
		ka_secret = random[0] * 0xd6e8feb86659fd93 ^ random[1];
}

/**
 * ka_pools_open() - Let a new heap have pools.
 * @pools: The heap's, which has its window and its notes.
 *
 * Return: 0, or -1 with errno and a sentence.
 */
int ka_pools_open(struct ka_pools *pools)
{
	const struct ka_notes *notes = pools->arenas.notes;
	char *start = pools->arenas.window.start;

	if (open_map(pools))
		return -1;
	pools->start = start + notes->nr_notes * KA_ARENA_SIZE;
	pools->entries = (struct ka_pool *)(start + notes->pools_offset);
	pools->arenas.drop_spare = drop_spare;
	open_secret(pools);
	return 0;
}
