// SPDX-License-Identifier: MIT
/*
 * Blocks: sizes, alignments, errors, threads that free each other's blocks, threads that
 * end, forks; and random sequences compared with a model. Runs on the source that
 * KARENA_SOURCE names.
 */
#include "common.h"
#include "heap/heap.h"

#define NR_THREADS	4

FIXTURE(block) {
	struct ka_heap *heap;
};

FIXTURE_SETUP(block)
{
	self->heap = make(1024 * MIB, 0, KA_FORK_COW);
	ASSERT_NE(NULL, self->heap) TH_LOG("%s", ka_error());
}

FIXTURE_TEARDOWN(block)
{
	ka_heap_destroy(self->heap);
}

/* Fill a block with a pattern that depends on its value and size. */
static void fill(void *block, size_t size, unsigned int value)
{
	memset(block, (int)(value & 0xff), size);
	if (size >= sizeof(value))
		memcpy(block, &value, sizeof(value));
}

static bool has(const void *block, size_t size, unsigned int value)
{
	const unsigned char *bytes = block;
	size_t i = 0;

	if (size >= sizeof(value)) {
		if (memcmp(block, &value, sizeof(value)))
			return false;
		i = sizeof(value);
	}
	while (i < size && bytes[i] == (value & 0xff))
		i++;
	return i == size;
}

/* Sizes of all classes and of runs; small ones are more frequent. */
static size_t random_size(unsigned int *seed)
{
	unsigned int bits = (unsigned int)rand_r(seed) % 10;

	if (rand_r(seed) % 2000 == 0)
		return (size_t)rand_r(seed) % (4 * MIB);
	if (rand_r(seed) % 50 == 0)
		bits = 10 + (unsigned int)rand_r(seed) % 9;
	return (size_t)rand_r(seed) % ((size_t)2 << bits);
}

TEST_F(block, blocks_of_every_size_waste_little)
{
	for (size_t size = 0; size <= 5 * MIB; size += size < 3000 ? 1 : size / 7) {
		char *block = ka_heap_malloc(self->heap, size);
		size_t usable;

		ASSERT_NE(NULL, block) TH_LOG("%zu: %s", size, ka_error());
		usable = ka_heap_usable_size(self->heap, block);
		ASSERT_LE(size, usable);
		ASSERT_LE(usable - size, size > 128 ? usable / 8 : 16) TH_LOG("%zu", size);
		ASSERT_EQ(0, (uintptr_t)block % 16);
		memset(block, 1, usable);
		ASSERT_EQ(0, ka_heap_free(self->heap, block));
	}
}

TEST_F(block, blocks_of_powers_of_two_are_naturally_aligned)
{
	for (size_t size = 16; size <= 256 * 1024; size *= 2) {
		void *blocks[20];

		for (int i = 0; i < 20; i++) {
			blocks[i] = ka_heap_malloc(self->heap, size);
			ASSERT_NE(NULL, blocks[i]);
			EXPECT_EQ(0, (uintptr_t)blocks[i] % size);
		}
		for (int i = 0; i < 20; i++)
			EXPECT_EQ(0, ka_heap_free(self->heap, blocks[i]));
	}
}

TEST_F(block, alignment_is_as_requested)
{
	for (size_t align = 1; align <= 8 * MIB; align *= 2) {
		for (size_t size = 0; size <= 3 * MIB; size = size * 3 + 1) {
			char *blocks[3];

			for (int i = 0; i < 3; i++) {
				blocks[i] = ka_heap_aligned_alloc(self->heap, align, size);
				ASSERT_NE(NULL, blocks[i]);
				ASSERT_EQ(0, (uintptr_t)blocks[i] % align);
				ASSERT_LE(size, ka_heap_usable_size(self->heap, blocks[i]));
				memset(blocks[i], 1, size);
			}
			for (int i = 0; i < 3; i++)
				ASSERT_EQ(0, ka_heap_free(self->heap, blocks[i]));
		}
	}
}

TEST_F(block, calloc_clears_memory_and_detects_overflow)
{
	for (size_t size = 1; size < 6 * MIB; size = size * 2 + 3) {
		for (int turn = 0; turn < 3; turn++) {
			char *block = ka_heap_calloc(self->heap, size, 1);

			ASSERT_NE(NULL, block);
			ASSERT_TRUE(has(block, size, 0));
			memset(block, 0xff, size);
			ASSERT_EQ(0, ka_heap_free(self->heap, block));
		}
	}
	errno = 0;
	EXPECT_EQ(NULL, ka_heap_calloc(self->heap, SIZE_MAX / 2, 3));
	EXPECT_EQ(ENOMEM, errno);
}

TEST_F(block, invalid_blocks_and_sizes_are_rejected)
{
	static const size_t sizes[] = { SIZE_MAX, SIZE_MAX - 4095, (size_t)1 << 63,
					(size_t)1 << 50 };
	char *block = ka_heap_malloc(self->heap, 100);
	char *large = ka_heap_malloc(self->heap, MIB);
	int local;

	ASSERT_NE(NULL, block);
	ASSERT_NE(NULL, large);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		errno = 0;
		EXPECT_EQ(NULL, ka_heap_malloc(self->heap, sizes[i]));
		EXPECT_EQ(ENOMEM, errno);
		errno = 0;
		EXPECT_EQ(NULL, ka_heap_realloc(self->heap, block, sizes[i]));
		EXPECT_EQ(ENOMEM, errno);
	}
	errno = 0;
	EXPECT_EQ(NULL, ka_heap_aligned_alloc(self->heap, 48, 1));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(NULL, ka_heap_aligned_alloc(self->heap, 0, 1));
	EXPECT_EQ(NULL, ka_heap_aligned_alloc(self->heap, (size_t)1 << 63, 1));
	EXPECT_EQ(ENOMEM, errno);

	EXPECT_EQ(0, ka_heap_free(self->heap, NULL));
	EXPECT_EQ(-1, ka_heap_free(self->heap, &local));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, ka_heap_free(self->heap, large + KA_PAGE_SIZE));
	EXPECT_EQ(-1, ka_run_free(self->heap, block));
	EXPECT_EQ(0, ka_heap_usable_size(self->heap, block + 1));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(NULL, ka_heap_realloc(self->heap, &local, 10));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(0, ka_heap_free(self->heap, block));
	errno = 0;
	EXPECT_EQ(-1, ka_heap_free(self->heap, block));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(0, ka_heap_free(self->heap, large));
	EXPECT_EQ(-1, ka_heap_free(self->heap, large));
	errno = 7;
	EXPECT_EQ(0, ka_heap_free(self->heap, ka_heap_malloc(self->heap, 4 * MIB)));
	EXPECT_EQ(7, errno);
}

static const size_t some_sizes[] = { 16, 48, 600, 1000, 5000, 20000, 100000 };
#define NR_SOME		(sizeof(some_sizes) / sizeof(*some_sizes))

TEST_F(block, double_free_is_rejected_after_other_frees)
{
	for (size_t i = 0; i < NR_SOME; i++) {
		void *stays = ka_heap_malloc(self->heap, some_sizes[i]);
		void *blocks[4], *again[4];

		for (int j = 0; j < 4; j++)
			blocks[j] = ka_heap_malloc(self->heap, some_sizes[i]);
		for (int j = 0; j < 3; j++)
			ASSERT_EQ(0, ka_heap_free(self->heap, blocks[j]));
		for (int j = 0; j < 3; j++) {
			errno = 0;
			EXPECT_EQ(-1, ka_heap_free(self->heap, blocks[j]));
			EXPECT_EQ(EINVAL, errno);
			EXPECT_EQ(NULL, ka_heap_realloc(self->heap, blocks[j], some_sizes[i]));
			EXPECT_EQ(EINVAL, errno);
		}
		EXPECT_EQ(2, stats_of(self->heap).blocks);
		for (int j = 0; j < 4; j++) {
			again[j] = ka_heap_malloc(self->heap, some_sizes[i]);
			for (int k = 0; k < j; k++)
				EXPECT_NE(again[k], again[j]);
			EXPECT_NE(blocks[3], again[j]);
		}
		for (int j = 0; j < 4; j++)
			EXPECT_EQ(0, ka_heap_free(self->heap, again[j]));
		EXPECT_EQ(0, ka_heap_free(self->heap, blocks[3]));
		EXPECT_EQ(0, ka_heap_free(self->heap, stays));
		EXPECT_EQ(0, stats_of(self->heap).blocks);
	}
}

/* An allocated block may look like a free one, because of stale content or by chance. */
TEST_F(block, allocated_block_that_looks_free_can_be_freed)
{
	enum { UNWRITTEN, FIRST, LAST, OTHER, NOWHERE, WAYS };
	void *blocks[100];

	for (int way = 0; way < WAYS * 4; way++) {
		size_t size = some_sizes[way / WAYS];

		for (int i = 0; i < 100; i++) {
			struct ka_free *block = ka_heap_malloc(self->heap, size);
			struct ka_pool *pool = ka_pool_of(ka_pools_of(self->heap), block);

			blocks[i] = block;
			if (way % WAYS == UNWRITTEN)
				continue;
			block->mark = KA_FREED;
			block->next = way % WAYS == FIRST ? pool->free :
				      way % WAYS == LAST ? NULL :
				      way % WAYS == OTHER ? blocks[i / 2] :
				      (void *)self->heap;
		}
		/* Free the first half, and then the second. */
		for (int i = 0; i < 50; i++)
			ASSERT_EQ(0, ka_heap_free(self->heap, blocks[i])) TH_LOG("%d", way);
		for (int i = 99; i >= 50; i--)
			ASSERT_EQ(0, ka_heap_free(self->heap, blocks[i])) TH_LOG("%d", way);
		EXPECT_EQ(0, stats_of(self->heap).blocks);
	}
}

/* The pool of the block was freed, but the heap may keep its run for the next pool. */
TEST_F(block, double_free_is_rejected_after_its_pool_was_freed)
{
	static const size_t sizes[] = { 16, 40, 1000, 5000, 20000, 100000 };
	void *other = ka_heap_malloc(self->heap, 3000), *block, *run;

	ASSERT_NE(NULL, other);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		block = ka_heap_malloc(self->heap, sizes[i]);
		ASSERT_EQ(0, ka_heap_free(self->heap, block));
		EXPECT_EQ(1, stats_of(self->heap).pools);
		errno = 0;
		EXPECT_EQ(-1, ka_heap_free(self->heap, block));
		EXPECT_EQ(EINVAL, errno);
		EXPECT_EQ(0, ka_heap_usable_size(self->heap, block));
		EXPECT_EQ(NULL, ka_heap_realloc(self->heap, block, 2 * sizes[i]));
		EXPECT_EQ(EINVAL, errno);
		EXPECT_EQ(-1, ka_run_free(self->heap, block));
		/* The memory can belong to a run now. */
		run = ka_run_alloc(self->heap, 4 * KA_PAGE_SIZE, 4 * KA_PAGE_SIZE);
		ASSERT_NE(NULL, run);
		EXPECT_NE(block, run);
		EXPECT_EQ(0, ka_run_free(self->heap, run));
	}
	EXPECT_EQ(0, ka_heap_free(self->heap, other));
}

#define NR_ORDERS	8
#define IN_A_PAGE	(KA_PAGE_SIZE / 64)

/* Allocate the blocks in the first page of a new heap's first pool: true if they lie in one. */
static bool take_page(struct ka_heap *heap, uint8_t order[IN_A_PAGE])
{
	uintptr_t page = 0;

	for (size_t i = 0; i < IN_A_PAGE; i++) {
		uintptr_t block = (uintptr_t)ka_heap_malloc(heap, 64);

		page = i ? page : block / KA_PAGE_SIZE;
		if (block / KA_PAGE_SIZE != page)
			return false;
		order[i] = (uint8_t)(block % KA_PAGE_SIZE / 64);
	}
	return true;
}

TEST(tables_of_current_pools_have_every_class)
{
	EXPECT_EQ(KA_FIRST_LARGER, ka_class_of(KA_DIRECT_MAX) + 1);
	EXPECT_EQ(KA_CLASSES, ka_class_of(KA_BLOCK_MAX) + 1);
}

TEST(order_of_blocks_is_random)
{
	uint8_t orders[NR_ORDERS][IN_A_PAGE];
	int same = 0, firsts = 0, steps = 0;

	for (int i = 0; i < NR_ORDERS; i++) {
		struct ka_heap *heap = make(64 * MIB, 0, KA_FORK_COW);
		bool seen[IN_A_PAGE] = { false };

		ASSERT_NE(NULL, heap);
		ASSERT_TRUE(take_page(heap, orders[i]));
		for (size_t j = 0; j < IN_A_PAGE; j++) {
			EXPECT_FALSE(seen[orders[i][j]]);
			seen[orders[i][j]] = true;
		}
		same += i && !memcmp(orders[i], orders[0], IN_A_PAGE);
		firsts += orders[i][0] == orders[0][0];
		steps += (uint8_t)(orders[i][1] - orders[i][0]) ==
			 (uint8_t)(orders[0][1] - orders[0][0]);
		ka_heap_destroy(heap);
	}
	/* By chance this fails once in 128 ^ 7 and 64 ^ 7 times. */
	EXPECT_NE(NR_ORDERS - 1, same);
	EXPECT_NE(NR_ORDERS, firsts);
	TH_LOG("%d orders: %d have the same first block, %d the same next step",
	       NR_ORDERS, firsts, steps);
}

#define NR_DIRECTIONS	100

/* Make pools, and count those that have the direction of the one before. */
static int directions_that_stay(struct ka_heap *heap)
{
	const struct ka_pools *pools = ka_pools_of(heap);
	bool last = false;
	int stay = 0;

	for (int i = 0; i < NR_DIRECTIONS; i++) {
		const void *block = ka_heap_malloc(heap, 64);
		const struct ka_pool *pool = ka_pool_of(pools, block);

		stay += i && pool->down == last;
		last = pool->down;
		while (pool->used < pool->capacity)
			ka_heap_malloc(heap, 64);
	}
	return stay;
}

TEST(direction_of_a_pool_does_not_follow_from_the_one_before)
{
	for (int i = 0; i < 2 * NR_ORDERS; i++) {
		struct ka_heap *heap = make(64 * MIB, 0, KA_FORK_COW);
		int stay;

		ASSERT_NE(NULL, heap);
		stay = directions_that_stay(heap);
		/* The standard deviation is 5. */
		EXPECT_LT(15, stay);
		EXPECT_GT(85, stay);
		ka_heap_destroy(heap);
	}
}

TEST_F(block, realloc_stays_in_place_if_possible)
{
	char *block = ka_heap_malloc(self->heap, 1000), *same, *large;

	ASSERT_NE(NULL, block);
	fill(block, 1000, 77);
	same = ka_heap_realloc(self->heap, block, 1024);
	EXPECT_EQ(block, same);
	EXPECT_EQ(block, ka_heap_realloc(self->heap, block, 800));
	/* More than a quarter of the block would be unused. */
	same = ka_heap_realloc(self->heap, block, 500);
	EXPECT_NE(block, same);
	EXPECT_TRUE(has(same, 500, 77));
	EXPECT_EQ(0, ka_heap_free(self->heap, same));

	large = ka_heap_malloc(self->heap, 512 * 1024);
	ASSERT_NE(NULL, large);
	fill(large, 512 * 1024, 78);
	/* Grow into free pages behind the block, and shrink again. */
	EXPECT_EQ(large, ka_heap_realloc(self->heap, large, 900 * 1024));
	EXPECT_TRUE(has(large, 512 * 1024, 78));
	memset(large, 1, 900 * 1024);
	fill(large, 512 * 1024, 78);
	EXPECT_EQ(large, ka_heap_realloc(self->heap, large, 300 * 1024));
	EXPECT_EQ(300 * 1024, ka_heap_usable_size(self->heap, large));
	EXPECT_TRUE(has(large, 300 * 1024, 78));
	same = ka_heap_realloc(self->heap, large, 100);
	EXPECT_TRUE(has(same, 4, 78));
	EXPECT_EQ(0, ka_heap_free(self->heap, same));
	same = ka_heap_realloc(self->heap, NULL, 0);
	EXPECT_NE(NULL, same);
	EXPECT_EQ(0, ka_heap_free(self->heap, ka_heap_realloc(self->heap, same, 0)));
}

TEST_F(block, grown_block_continues_to_grow_in_place)
{
	const size_t small = 20 * 1024, large = 40 * 1024;
	char *block = ka_heap_malloc(self->heap, small), *grown;

	ASSERT_NE(NULL, block);
	fill(block, small, 79);
	grown = ka_heap_realloc(self->heap, block, large);
	ASSERT_NE(NULL, grown);
	/* The block is a run now. */
	EXPECT_EQ(0, stats_of(self->heap).blocks);
	EXPECT_EQ(grown, ka_heap_realloc(self->heap, grown, 2 * large));
	EXPECT_EQ(2 * large, ka_heap_usable_size(self->heap, grown));
	EXPECT_TRUE(has(grown, small, 79));
	EXPECT_EQ(grown, ka_heap_realloc(self->heap, grown, large));
	EXPECT_EQ(large, ka_heap_usable_size(self->heap, grown));
	block = ka_heap_realloc(self->heap, grown, small);
	EXPECT_EQ(1, stats_of(self->heap).blocks);
	EXPECT_TRUE(has(block, small, 79));
	EXPECT_EQ(0, ka_heap_free(self->heap, block));
}

TEST_F(block, at_the_limit_allocations_fail_and_nothing_is_lost)
{
	struct ka_heap *heap = make(64 * MIB, 4 * MIB, KA_FORK_COW);
	void **last = NULL, **block;
	size_t count = 0, again = 0;

	ASSERT_NE(NULL, heap);
	while ((block = ka_heap_malloc(heap, 3000))) {
		*block = last;
		last = block;
		count++;
	}
	EXPECT_EQ(ENOMEM, errno);
	EXPECT_LT(4 * MIB * 8 / 10, count * 3000);
	EXPECT_EQ(NULL, ka_heap_malloc(heap, MIB));
	while ((block = last)) {
		last = *block;
		ASSERT_EQ(0, ka_heap_free(heap, block));
	}
	while ((block = ka_heap_malloc(heap, 3000))) {
		*block = last;
		last = block;
		again++;
	}
	EXPECT_EQ(count, again);
	ka_heap_destroy(heap);
}

/* The pools that the heap keeps have enough space, but no memory that it could purge. */
TEST_F(block, at_the_limit_spare_pools_are_freed_for_a_run)
{
	struct ka_heap *heap = make(64 * MIB, 2 * MIB, KA_FORK_COW);
	void *blocks[1000], *stays, *run;

	ASSERT_NE(NULL, heap);
	stays = ka_heap_malloc(heap, 100);
	ASSERT_NE(NULL, stays);
	for (int i = 0; i < 1000; i++) {
		blocks[i] = ka_heap_malloc(heap, 1000);
		ASSERT_NE(NULL, blocks[i]);
	}
	if (mlockall(MCL_CURRENT))
		SKIP(return, "cannot lock memory here");
	for (int i = 0; i < 1000; i++)
		ASSERT_EQ(0, ka_heap_free(heap, blocks[i]));
	run = ka_run_alloc(heap, MIB + MIB / 2, 0);
	EXPECT_NE(NULL, run) TH_LOG("%s", ka_error());
	munlockall();
	ka_heap_destroy(heap);
}

/* The model: content and requested size of each block. */
#define NR_BLOCKS	2000

struct model {
	struct ka_heap *heap;
	unsigned int seed;
	struct held {
		void *block;
		size_t size;
		unsigned int value;
		bool run;
	} held[NR_BLOCKS];
};

/* One step. Return the name of the error, or NULL. */
static const char *step(struct model *model)
{
	struct held *held = &model->held[rand_r(&model->seed) % NR_BLOCKS];
	unsigned int value = (unsigned int)rand_r(&model->seed);
	size_t size = random_size(&model->seed), kept, align, old;
	bool run = size > 256 * 1024;
	void *block;

	if (held->block && !has(held->block, held->size, held->value))
		return "content";
	if (held->block && rand_r(&model->seed) % 3) {
		block = held->block;
		held->block = NULL;
		return ka_heap_free(model->heap, block) ? "free" : NULL;
	}
	if (held->block) {
		kept = size < held->size ? size : held->size;
		old = ka_heap_usable_size(model->heap, held->block);
		block = ka_heap_realloc(model->heap, held->block, size);
		if (!block)
			return "realloc";
		run = is_run_now(block != held->block, held->run, old, size);
		/* The first bytes tell the value, if the block was large enough. */
		if (kept && kept >= sizeof(value) && !has(block, kept, held->value))
			return "content after realloc";
	} else if (value % 8 == 0) {
		block = ka_heap_calloc(model->heap, 1, size);
		if (!block || !has(block, size, 0))
			return "calloc";
	} else if (value % 8 == 1) {
		align = (size_t)16 << rand_r(&model->seed) % 13;
		block = ka_heap_aligned_alloc(model->heap, align, size);
		if (!block || (uintptr_t)block % align)
			return "alignment";
	} else {
		block = ka_heap_malloc(model->heap, size);
		if (!block)
			return "malloc";
	}
	fill(block, size, value);
	*held = (struct held){ block, size, value, run };
	return NULL;
}

static const char *play(struct model *model, long steps)
{
	const char *wrong = NULL;

	while (steps-- && !wrong) {
		wrong = step(model);
		/* The memory between the blocks may be purged at any moment. */
		if (rand_r(&model->seed) % 1000 == 0)
			ka_heap_trim(model->heap);
	}
	return wrong;
}

static const char *free_all_blocks(struct model *model)
{
	for (int i = 0; i < NR_BLOCKS; i++) {
		struct held *held = &model->held[i];

		if (!held->block)
			continue;
		if (!has(held->block, held->size, held->value))
			return "content at the end";
		if (ka_heap_free(model->heap, held->block))
			return "free at the end";
		held->block = NULL;
	}
	return NULL;
}

/* Steps of a random sequence: fewer where each step is slow. */
static long steps(void)
{
	const char *text = getenv("KARENA_TEST_STEPS");

	if (text)
		return atol(text);
	return is_instrumented() || on_device() ? 20000 : 300000;
}

TEST_F_TIMEOUT(block, random_sequence_agrees_with_the_model, SLOW)
{
	struct model *model = calloc(1, sizeof(*model));

	model->heap = self->heap;
	model->seed = 1;
	EXPECT_EQ(NULL, play(model, steps()));
	EXPECT_EQ(NULL, free_all_blocks(model));
	free(model);
}

/* Count the model's blocks that lie in pools, and their requested bytes. */
static size_t in_pools(const struct model *model, size_t *bytes)
{
	size_t blocks = 0;

	*bytes = 0;
	for (int i = 0; i < NR_BLOCKS; i++) {
		if (!model->held[i].block || model->held[i].run)
			continue;
		blocks++;
		*bytes += ka_heap_usable_size(model->heap, model->held[i].block);
	}
	return blocks;
}

TEST_F_TIMEOUT(block, statistics_are_exact_at_any_moment, SLOW)
{
	struct model *model = calloc(1, sizeof(*model));

	model->heap = self->heap;
	model->seed = 3;
	for (int i = 0; i < 50; i++) {
		struct ka_stats stats;
		size_t bytes;

		ASSERT_EQ(NULL, play(model, rand_r(&model->seed) % 500));
		stats = stats_of(self->heap);
		ASSERT_EQ(in_pools(model, &bytes), stats.blocks);
		ASSERT_EQ(bytes, stats.block_bytes);
		ASSERT_EQ(stats.arenas * 2 * MIB, stats.run_bytes + stats.available_bytes);
		ASSERT_LE(stats.block_bytes + stats.quantization_bytes, stats.pool_bytes);
		ASSERT_LE(stats.pool_bytes, stats.run_bytes);
	}
	ASSERT_EQ(NULL, free_all_blocks(model));
	EXPECT_EQ(0, stats_of(self->heap).blocks);
	EXPECT_EQ(0, stats_of(self->heap).block_bytes);
	free(model);
}

/* Threads exchange blocks: each frees the blocks that it finds. */
#define NR_PLACES	64

struct exchange {
	struct held places[NR_PLACES];
	pthread_mutex_t lock;
};

struct player {
	struct model model;
	struct exchange *exchange;
	pthread_t thread;
	const char *wrong;
};

static const char *exchange(struct player *player)
{
	struct held *held = &player->model.held[rand_r(&player->model.seed) % NR_BLOCKS];
	struct held *place = &player->exchange->places[rand_r(&player->model.seed) %
						       NR_PLACES];
	struct held got;

	pthread_mutex_lock(&player->exchange->lock);
	got = *place;
	*place = *held;
	pthread_mutex_unlock(&player->exchange->lock);
	*held = got;
	return held->block && !has(held->block, held->size, held->value) ?
	       "content from another thread" : NULL;
}

static void *player_main(void *data)
{
	struct player *player = data;

	for (long i = steps() / 4; i && !player->wrong; i--) {
		player->wrong = step(&player->model);
		if (i % 3 == 0 && !player->wrong)
			player->wrong = exchange(player);
		/*
		 * This purges or abandons pools into which other threads are freeing
		 * blocks.
		 */
		if (i % 1024 == 0)
			ka_heap_trim(player->model.heap);
		if (i % 1024 == 512 && !player->wrong && ka_heap_idle(player->model.heap))
			player->wrong = "it cannot be idle";
	}
	if (!player->wrong)
		player->wrong = free_all_blocks(&player->model);
	return NULL;
}

TEST_F_TIMEOUT(block, threads_freeing_each_others_blocks_agree_with_the_model, SLOW)
{
	struct exchange *places = calloc(1, sizeof(*places));
	struct player *players = calloc(NR_THREADS, sizeof(*players));

	pthread_mutex_init(&places->lock, NULL);
	for (unsigned int i = 0; i < NR_THREADS; i++) {
		players[i].model.heap = self->heap;
		players[i].model.seed = i + 10;
		players[i].exchange = places;
		ASSERT_EQ(0, pthread_create(&players[i].thread, NULL, player_main,
					    &players[i]));
	}
	for (unsigned int i = 0; i < NR_THREADS; i++) {
		pthread_join(players[i].thread, NULL);
		EXPECT_EQ(NULL, players[i].wrong) TH_LOG("%s", players[i].wrong);
	}
	for (int i = 0; i < NR_PLACES; i++) {
		if (!places->places[i].block)
			continue;
		EXPECT_TRUE(has(places->places[i].block, places->places[i].size,
				places->places[i].value));
		EXPECT_EQ(0, ka_heap_free(self->heap, places->places[i].block));
	}
	/* Threads that have ended leave nothing behind. */
	EXPECT_EQ(0, stats_of(self->heap).runs);
	free(players);
	free(places);
}

#define SHARED		5000UL

struct sharer {
	struct ka_heap *heap;
	void **slots;
	unsigned int seed;
	pthread_t thread;
};

/* Replace random blocks. Half of the freed blocks belong to the other thread. */
static void *replaces(void *data)
{
	struct sharer *sharer = data;

	for (long i = steps(); i; i--) {
		size_t at = (unsigned int)rand_r(&sharer->seed) % SHARED;
		size_t size = 16 + (unsigned int)rand_r(&sharer->seed) % 1008;
		void *block = ka_heap_malloc(sharer->heap, size);

		if (!block)
			abort();
		memset(block, 1, size);
		block = __atomic_exchange_n(&sharer->slots[at], block, __ATOMIC_ACQ_REL);
		if (ka_heap_free(sharer->heap, block))
			abort();
	}
	return NULL;
}

TEST_F_TIMEOUT(block, threads_sharing_blocks_do_not_hoard_memory, SLOW)
{
	void **slots = calloc(SHARED, sizeof(*slots));
	struct sharer sharers[2];

	for (unsigned int i = 0; i < 2; i++) {
		sharers[i] = (struct sharer){ self->heap, slots, i + 1, 0 };
		ASSERT_EQ(0, pthread_create(&sharers[i].thread, NULL, replaces,
					    &sharers[i]));
	}
	for (int i = 0; i < 2; i++)
		pthread_join(sharers[i].thread, NULL);
	/* 2.5 MiB are in use, in 32 sizes. */
	EXPECT_GE(16, stats_of(self->heap).arenas_highwater);
	for (size_t i = 0; i < SHARED; i++)
		EXPECT_EQ(0, ka_heap_free(self->heap, slots[i]));
	EXPECT_EQ(0, stats_of(self->heap).blocks);
	free(slots);
}

#define MANY	20000

struct taker {
	struct ka_heap *heap;
	void *blocks[MANY];
	pthread_barrier_t barrier;
	bool gives_half;
	bool says_so;
};

static void allocate_many(struct taker *taker)
{
	for (size_t i = 0; i < MANY; i++) {
		taker->blocks[i] = ka_heap_malloc(taker->heap, 16 + i % 500);
		if (taker->blocks[i])
			fill(taker->blocks[i], 16 + i % 500, (unsigned int)i);
	}
}

static size_t free_all(struct taker *taker)
{
	size_t wrong = 0;

	for (size_t i = 0; i < MANY; i++) {
		if (!taker->blocks[i])
			continue;
		wrong += !has(taker->blocks[i], 16 + i % 500, (unsigned int)i);
		wrong += ka_heap_free(taker->heap, taker->blocks[i]) != 0;
	}
	return wrong;
}

static void *takes_and_ends(void *data)
{
	allocate_many(data);
	return NULL;
}

TEST_F_TIMEOUT(block, ended_thread_leaves_only_its_blocks, SLOW)
{
	struct taker *taker = calloc(1, sizeof(*taker));
	pthread_t thread;

	taker->heap = self->heap;
	for (int i = 0; i < 3; i++) {
		ASSERT_EQ(0, pthread_create(&thread, NULL, takes_and_ends, taker));
		pthread_join(thread, NULL);
		EXPECT_EQ(0, free_all(taker));
		EXPECT_EQ(0, stats_of(self->heap).runs);
	}
	free(taker);
}

/* Sizes up to 515 bytes have this many classes, each with one current pool. */
#define NR_CURRENT	25

/* A pool has 64 blocks of 1,000 bytes. */
#define NR_FULL		200

/* Free every @step-th block. */
static void free_some(struct taker *taker, size_t first, size_t step)
{
	for (size_t i = first; i < MANY; i += step) {
		if (ka_heap_free(taker->heap, taker->blocks[i]))
			abort();
		taker->blocks[i] = NULL;
	}
}

static void *takes_and_waits(void *data)
{
	struct taker *taker = data;

	allocate_many(taker);
	/* Then few of its pools are full. */
	if (taker->gives_half)
		free_some(taker, 0, 2);
	if (taker->says_so && ka_heap_idle(taker->heap))
		abort();
	pthread_barrier_wait(&taker->barrier);
	pthread_barrier_wait(&taker->barrier);
	return NULL;
}

/* Free the blocks of a waiting thread. Return how many pools are left while it waits. */
static size_t kept_while_idle(struct taker *taker)
{
	pthread_t thread;
	size_t kept;

	pthread_barrier_init(&taker->barrier, NULL, 2);
	if (pthread_create(&thread, NULL, takes_and_waits, taker))
		return SIZE_MAX;
	pthread_barrier_wait(&taker->barrier);
	kept = stats_of(taker->heap).pools < 200 || free_all(taker) ?
	       SIZE_MAX : stats_of(taker->heap).pools;
	pthread_barrier_wait(&taker->barrier);
	pthread_join(thread, NULL);
	return kept;
}

TEST_F_TIMEOUT(block, idle_thread_keeps_at_most_one_pool_of_each_class, SLOW)
{
	struct taker *taker = calloc(1, sizeof(*taker));

	taker->heap = self->heap;
	EXPECT_GE(NR_CURRENT, kept_while_idle(taker));
	EXPECT_EQ(0, stats_of(self->heap).runs);
	taker->gives_half = true;
	EXPECT_GE(NR_CURRENT, kept_while_idle(taker));
	EXPECT_EQ(0, stats_of(self->heap).runs);
	free(taker);
}

TEST_F_TIMEOUT(block, thread_that_calls_idle_keeps_no_pool, SLOW)
{
	struct taker *taker = calloc(1, sizeof(*taker));

	taker->heap = self->heap;
	taker->says_so = true;
	EXPECT_EQ(0, kept_while_idle(taker));
	taker->gives_half = true;
	EXPECT_EQ(0, kept_while_idle(taker));
	EXPECT_EQ(0, stats_of(self->heap).runs);
	/*
	 * The call is harmless for a thread that has allocated nothing, and when repeated.
	 */
	EXPECT_EQ(0, ka_heap_idle(self->heap));
	EXPECT_EQ(0, ka_heap_idle(self->heap));
	free(taker);
}

static void *frees_all_and_waits(void *data)
{
	struct taker *taker = data;

	allocate_many(taker);
	free_some(taker, 0, 1);
	pthread_barrier_wait(&taker->barrier);
	pthread_barrier_wait(&taker->barrier);
	return NULL;
}

TEST_F_TIMEOUT(block, thread_that_frees_all_its_blocks_keeps_nothing, SLOW)
{
	struct taker *taker = calloc(1, sizeof(*taker));
	pthread_t thread;

	taker->heap = self->heap;
	pthread_barrier_init(&taker->barrier, NULL, 2);
	ASSERT_EQ(0, pthread_create(&thread, NULL, frees_all_and_waits, taker));
	pthread_barrier_wait(&taker->barrier);
	EXPECT_EQ(0, stats_of(self->heap).blocks);
	EXPECT_EQ(0, stats_of(self->heap).runs);
	pthread_barrier_wait(&taker->barrier);
	pthread_join(thread, NULL);
	EXPECT_EQ(0, stats_of(self->heap).runs);
	free(taker);
}

/*
 * A thread that repeatedly empties a pool and needs it again keeps it, until it has used
 * many blocks.
 */
TEST_F(block, thread_that_allocates_and_frees_repeatedly_keeps_a_pool)
{
	void *blocks[NR_FULL];

	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 10; i++) {
			EXPECT_EQ(0, ka_heap_free(self->heap, ka_heap_malloc(self->heap, 1000)));
			if (i == 0 || i >= 2)
				EXPECT_EQ(i >= 2, stats_of(self->heap).pools);
			EXPECT_EQ(0, stats_of(self->heap).blocks);
		}
		for (int i = 0; i < NR_FULL; i++) {
			blocks[i] = ka_heap_malloc(self->heap, 1000);
			EXPECT_EQ(i + 1, stats_of(self->heap).blocks);
		}
		EXPECT_EQ(4, stats_of(self->heap).pools);
		for (int i = 0; i < NR_FULL; i++)
			EXPECT_EQ(0, ka_heap_free(self->heap, blocks[i]));
		EXPECT_EQ(0, stats_of(self->heap).pools);
	}
}

/* Allocate blocks until all of their pools are full. */
static size_t allocate_full(struct ka_heap *heap, size_t size, void *blocks[], size_t most)
{
	size_t capacity, count = 0;

	blocks[count++] = ka_heap_malloc(heap, size);
	capacity = ka_pool_of(ka_pools_of(heap), blocks[0])->capacity;
	while (count < most / capacity * capacity)
		blocks[count++] = ka_heap_malloc(heap, size);
	return count;
}

/* Free a block of a full pool. Return true if the pool waits in the list afterwards. */
static bool waits(struct ka_heap *heap, void *block)
{
	if (ka_heap_free(heap, block))
		abort();
	return ka_pool_of(ka_pools_of(heap), block)->listed;
}

TEST_F(block, pool_of_few_blocks_is_used_next_after_a_free)
{
	const size_t few = 20000, many = 1000;
	void *blocks[NR_FULL];
	size_t count = allocate_full(self->heap, few, blocks, NR_FULL);

	for (int i = 0; i < 10; i++) {
		EXPECT_FALSE(waits(self->heap, blocks[0]));
		/* Another pool with a free block comes first. */
		EXPECT_TRUE(waits(self->heap, blocks[count / 2]));
		EXPECT_EQ(blocks[0], ka_heap_malloc(self->heap, few));
		EXPECT_EQ(blocks[count / 2], ka_heap_malloc(self->heap, few));
		EXPECT_EQ(count, stats_of(self->heap).blocks);
	}
	for (size_t i = 0; i < count; i++)
		EXPECT_EQ(0, ka_heap_free(self->heap, blocks[i]));
	EXPECT_EQ(0, stats_of(self->heap).pools);
	/* A pool of many blocks would soon be the next one in any case. */
	allocate_full(self->heap, many, blocks, NR_FULL);
	EXPECT_TRUE(waits(self->heap, blocks[0]));
	EXPECT_EQ(blocks[0], ka_heap_malloc(self->heap, many));
}

static void *does_nothing(void *data)
{
	struct taker *taker = data;

	pthread_barrier_wait(&taker->barrier);
	return NULL;
}

/* Listed pools are scanned from time to time for remote frees. */
TEST_F(block, listed_pools_are_scanned_if_there_are_other_threads)
{
	struct taker *taker = calloc(1, sizeof(*taker));
	void *blocks[NR_FULL];
	pthread_t thread;

	ASSERT_NE(NULL, taker);
	ASSERT_EQ(0, pthread_barrier_init(&taker->barrier, NULL, 2));
	ASSERT_EQ(0, pthread_create(&thread, NULL, does_nothing, taker));
	allocate_full(self->heap, 20000, blocks, NR_FULL);
	for (int i = 0; i < 30; i++) {
		/* A block of a pool that is not the current one. */
		void *block = blocks[i % 2 * (NR_FULL / 2)];

		EXPECT_EQ(i % 9 == 8, waits(self->heap, block));
		EXPECT_EQ(block, ka_heap_malloc(self->heap, 20000));
	}
	pthread_barrier_wait(&taker->barrier);
	pthread_join(thread, NULL);
	free(taker);
}

/* Leave a pool with all blocks free except two. */
static void *leaves_a_pool(void *data)
{
	struct taker *taker = data;
	size_t count = allocate_full(taker->heap, 20000, taker->blocks, 16);

	while (count > 2)
		ka_heap_free(taker->heap, taker->blocks[--count]);
	return NULL;
}

TEST_F(block, nearly_empty_pool_is_not_used_next)
{
	struct taker *taker = calloc(1, sizeof(*taker));
	void *blocks[NR_FULL];
	pthread_t thread;
	size_t count;

	ASSERT_NE(NULL, taker);
	taker->heap = self->heap;
	count = allocate_full(self->heap, 20000, blocks, NR_FULL);
	ASSERT_EQ(0, pthread_create(&thread, NULL, leaves_a_pool, taker));
	pthread_join(thread, NULL);
	EXPECT_TRUE(waits(self->heap, taker->blocks[0]));
	EXPECT_EQ(0, ka_heap_free(self->heap, taker->blocks[1]));
	EXPECT_EQ(count, stats_of(self->heap).blocks);
	free(taker);
}

static void *frees_last(void *data)
{
	struct taker *taker = data;

	allocate_many(taker);
	free_some(taker, 0, 3);
	pthread_barrier_wait(&taker->barrier);
	pthread_barrier_wait(&taker->barrier);
	/* Only blocks that were freed remotely are left then. */
	free_some(taker, 2, 3);
	pthread_barrier_wait(&taker->barrier);
	pthread_barrier_wait(&taker->barrier);
	return NULL;
}

/* Remove all calls, as if each owner had just checked for one. */
static void take_calls_back(struct ka_heap *heap)
{
	for (size_t slot = 0; slot < ka_pools_of(heap)->nr_slots; slot++) {
		struct ka_pool *pool = ka_pools_of(heap)->map[slot];

		if (pool != &ka_no_pool)
			__atomic_store_n(&pool->owner, ka_pool_owner(pool), __ATOMIC_RELAXED);
	}
}

/*
 * Let another thread free the last blocks, and optionally trim. Return how many pools are
 * left.
 */
static size_t kept_by_the_last(struct taker *taker, bool called, bool trim)
{
	pthread_t thread;
	size_t kept;

	pthread_barrier_init(&taker->barrier, NULL, 2);
	if (pthread_create(&thread, NULL, frees_last, taker))
		abort();
	pthread_barrier_wait(&taker->barrier);
	free_some(taker, 1, 3);
	if (!called)
		take_calls_back(taker->heap);
	pthread_barrier_wait(&taker->barrier);
	pthread_barrier_wait(&taker->barrier);
	if (stats_of(taker->heap).blocks)
		abort();
	if (trim)
		ka_heap_trim(taker->heap);
	kept = stats_of(taker->heap).pools;
	pthread_barrier_wait(&taker->barrier);
	pthread_join(thread, NULL);
	return kept;
}

TEST_F_TIMEOUT(block, thread_that_frees_the_last_block_keeps_no_pool, SLOW)
{
	struct taker *taker = calloc(1, sizeof(*taker));

	taker->heap = self->heap;
	EXPECT_EQ(0, kept_by_the_last(taker, true, false));
	EXPECT_EQ(0, stats_of(self->heap).runs);
	free(taker);
}

TEST_F_TIMEOUT(block, trim_frees_empty_pools_of_an_idle_thread, SLOW)
{
	struct taker *taker = calloc(1, sizeof(*taker));

	taker->heap = self->heap;
	EXPECT_LT(200, kept_by_the_last(taker, false, false));
	EXPECT_EQ(0, stats_of(self->heap).runs);
	EXPECT_GE(NR_CURRENT, kept_by_the_last(taker, false, true));
	EXPECT_EQ(0, stats_of(self->heap).runs);
	free(taker);
}

struct freed {
	struct ka_heap *heap;
	void *block;
};

static void *frees_one(void *data)
{
	const struct freed *freed = data;

	if (ka_heap_free(freed->heap, freed->block))
		abort();
	return NULL;
}

/* Free a block in another thread. Return true on success. */
static bool free_elsewhere(struct ka_heap *heap, void *block)
{
	struct freed freed = { heap, block };
	pthread_t thread;

	return !pthread_create(&thread, NULL, frees_one, &freed) &&
	       !pthread_join(thread, NULL);
}

TEST_F(block, remote_free_calls_the_owner_once)
{
	struct ka_pool *pool;
	void *blocks[4];

	for (int i = 0; i < 4; i++) {
		blocks[i] = ka_heap_malloc(self->heap, 600);
		ASSERT_NE(NULL, blocks[i]);
	}
	pool = ka_pool_of(ka_pools_of(self->heap), blocks[0]);
	EXPECT_EQ(ka_thread(), pool->owner);
	ASSERT_TRUE(free_elsewhere(self->heap, blocks[0]));
	EXPECT_EQ(ka_thread() | KA_CALLED, pool->owner);
	EXPECT_EQ(3, stats_of(self->heap).blocks);
	/*
	 * The owner's next free collects the remote frees. The free after that is a normal
	 * one.
	 */
	EXPECT_EQ(0, ka_heap_free(self->heap, blocks[1]));
	EXPECT_EQ(ka_thread(), pool->owner);
	EXPECT_EQ(0, pool->remote);
	EXPECT_EQ(2, stats_of(self->heap).blocks);
	/* A double free is detected as usual. */
	EXPECT_EQ(0, ka_heap_free(self->heap, blocks[2]));
	ASSERT_TRUE(free_elsewhere(self->heap, blocks[3]));
	EXPECT_EQ(-1, ka_heap_free(self->heap, blocks[2]));
	EXPECT_EQ(EINVAL, errno);
	/*
	 * An allocation that uses up the pool also collects remote frees. A call without
	 * any is harmless.
	 */
	for (int i = 0; i < 2 * pool->capacity; i++)
		ASSERT_NE(NULL, blocks[i % 2] = ka_heap_malloc(self->heap, 600));
	pool = ka_pool_of(ka_pools_of(self->heap), blocks[0]);
	ka_pool_call(pool);
	EXPECT_EQ(0, ka_heap_free(self->heap, blocks[0]));
	EXPECT_EQ(ka_thread(), pool->owner);
}

static pthread_key_t late_key;
static struct ka_heap *late_heap;
static int late_rounds;

/* A destructor that runs after the library's, and sets its key again. */
static void late(void *data)
{
	void *block = ka_heap_malloc(late_heap, 700);

	if (block && !ka_heap_free(late_heap, data) && late_rounds++ < 1)
		pthread_setspecific(late_key, block);
	else
		ka_heap_free(late_heap, block);
}

static void *ends_late(void *data)
{
	pthread_setspecific(late_key, ka_heap_malloc(late_heap, 700));
	return data;
}

TEST_F(block, thread_may_use_the_heap_while_it_ends)
{
	pthread_t thread;

	late_heap = self->heap;
	late_rounds = 0;
	/* Destructors run in the order in which their keys were created. */
	ASSERT_EQ(0, ka_heap_free(self->heap, ka_heap_malloc(self->heap, 1)));
	ASSERT_EQ(0, pthread_key_create(&late_key, late));
	ASSERT_EQ(0, pthread_create(&thread, NULL, ends_late, NULL));
	pthread_join(thread, NULL);
	EXPECT_LT(0, late_rounds);
	EXPECT_EQ(0, stats_of(self->heap).runs);
	pthread_key_delete(late_key);
}

struct user {
	struct ka_heap *heap;
	pthread_barrier_t barrier;
	void *block;
};

static void *uses_two_heaps(void *data)
{
	struct user *user = data;

	user->block = ka_heap_malloc(user->heap, 100);
	pthread_barrier_wait(&user->barrier);
	pthread_barrier_wait(&user->barrier);
	/* A different heap, perhaps at the same address. */
	user->block = ka_heap_malloc(user->heap, 100);
	if (user->block)
		memset(user->block, 1, 100);
	return NULL;
}

TEST_F(block, destroyed_heap_frees_the_blocks_of_all_threads)
{
	struct user user = { .heap = make(64 * MIB, 0, KA_FORK_COW) };
	pthread_t thread;

	ASSERT_NE(NULL, user.heap);
	pthread_barrier_init(&user.barrier, NULL, 2);
	ASSERT_EQ(0, pthread_create(&thread, NULL, uses_two_heaps, &user));
	pthread_barrier_wait(&user.barrier);
	EXPECT_NE(NULL, user.block);
	ka_heap_destroy(user.heap);
	user.heap = make(64 * MIB, 0, KA_FORK_COW);
	ASSERT_NE(NULL, user.heap);
	pthread_barrier_wait(&user.barrier);
	pthread_join(thread, NULL);
	ASSERT_NE(NULL, user.block);
	EXPECT_EQ(0, ka_heap_free(user.heap, user.block));
	EXPECT_EQ(0, stats_of(user.heap).runs);
	ka_heap_destroy(user.heap);
}

TEST_F_TIMEOUT(block, random_sequence_continues_in_parent_and_child, SLOW)
{
	struct model *model = calloc(1, sizeof(*model));

	model->heap = self->heap;
	model->seed = 5;
	ASSERT_EQ(NULL, play(model, 20000));
	for (int i = 0; i < 4; i++) {
		pid_t child = fork();

		if (!child) {
			model->seed += (unsigned int)i;
			CHECK(!play(model, 20000));
			CHECK(!free_all_blocks(model));
			_exit(0);
		}
		ASSERT_EQ(NULL, play(model, 20000));
		EXPECT_EQ(0, child_status(child));
	}
	EXPECT_EQ(NULL, free_all_blocks(model));
	free(model);
}

static bool stop;

static void *plays_on(void *data)
{
	struct player *player = data;

	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED) && !player->wrong)
		player->wrong = step(&player->model);
	return NULL;
}

/*
 * The child cannot free the blocks of the other threads, but no one else gets their memory.
 */
TEST_F_TIMEOUT(block, child_of_a_process_with_threads_has_a_valid_heap, SLOW)
{
	struct player *players;

	NOT_WITH_THREAD_SANITIZER();
	players = calloc(NR_THREADS, sizeof(*players));
	stop = false;
	for (unsigned int i = 0; i < NR_THREADS; i++) {
		players[i].model.heap = self->heap;
		players[i].model.seed = i + 100;
		if (i)
			ASSERT_EQ(0, pthread_create(&players[i].thread, NULL, plays_on,
						    &players[i]));
	}
	for (int i = 0; i < (is_instrumented() || on_device() ? 5 : 40); i++) {
		pid_t child;

		ASSERT_EQ(NULL, play(&players[0].model, 500));
		child = fork();
		if (!child) {
			CHECK(!play(&players[0].model, 3000));
			CHECK(!free_all_blocks(&players[0].model));
			_exit(0);
		}
		EXPECT_EQ(0, child_status(child));
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	for (unsigned int i = 1; i < NR_THREADS; i++) {
		pthread_join(players[i].thread, NULL);
		EXPECT_EQ(NULL, players[i].wrong) TH_LOG("%s", players[i].wrong);
	}
	free(players);
}

#ifdef __x86_64__
#define TRAP_FLAG	0x100ULL

/* What a child must find in a pool if it is forked at any moment. */
static struct {
	const struct ka_pool *pool;
	volatile uint32_t blocks;	/* the program has at least so many */
	uint32_t most;
	unsigned long steps, wrong;
} watched;

static void look_at_pool(int number)
{
	uint32_t used = watched.pool->used, held = watched.pool->held;

	(void)number;
	watched.steps++;
	watched.wrong += used < held || used - held < watched.blocks;
}

/* Turn a signal after each instruction on or off. */
static void step_by_step(bool steps)
{
	unsigned long long flags = __builtin_ia32_readeflags_u64() & ~TRAP_FLAG;

	__builtin_ia32_writeeflags_u64(steps ? flags | TRAP_FLAG : flags);
}

/* A pool has 8 blocks of this size. */
#define LARGE		(16 * 1024)
#define NR_LARGE	20

/* Keep a pool by allocating and freeing repeatedly, and then use all of its blocks. */
static void hold_and_use_up(struct ka_heap *heap)
{
	void *blocks[NR_LARGE];

	for (int i = 0; i < 4; i++)
		ka_heap_free(heap, ka_heap_malloc(heap, LARGE));
	for (int i = 0; i < NR_LARGE; i++) {
		blocks[i] = ka_heap_malloc(heap, LARGE);
		if (ka_pool_of(ka_pools_of(heap), blocks[i]) == watched.pool)
			watched.blocks++;
		if (watched.blocks > watched.most)
			watched.most = watched.blocks;
	}
	for (int i = 0; i < NR_LARGE; i++) {
		if (ka_pool_of(ka_pools_of(heap), blocks[i]) == watched.pool)
			watched.blocks--;
		ka_heap_free(heap, blocks[i]);
	}
}

TEST_F_TIMEOUT(block, child_never_finds_fewer_allocated_blocks_than_there_are, SLOW)
{
	struct sigaction action = { .sa_handler = look_at_pool }, before;
	void *block;

	NOT_WITH_VALGRIND("has no trap flag");
	NOT_WITH_THREAD_SANITIZER();
	if (kernel_is_slow())
		SKIP(return, "a debug kernel takes minutes for a signal after each step");
	block = ka_heap_malloc(self->heap, LARGE);
	watched.pool = ka_pool_of(ka_pools_of(self->heap), block);
	ka_heap_free(self->heap, block);
	ASSERT_EQ(0, sigaction(SIGTRAP, &action, &before));
	step_by_step(true);
	hold_and_use_up(self->heap);
	hold_and_use_up(self->heap);
	step_by_step(false);
	sigaction(SIGTRAP, &before, NULL);
	EXPECT_EQ(8, watched.most);
	EXPECT_LT(1000, watched.steps);
	EXPECT_EQ(0, watched.wrong);
}

/* The step of a call in which another thread calls the owner of the pool, and the pool. */
static struct {
	struct ka_pool *pool;
	volatile unsigned long steps;
	unsigned long at;
} called;

static void call_once(int number)
{
	(void)number;
	if (++called.steps == called.at)
		ka_pool_call(called.pool);
}

/* Calls on a marked block. They return true on success. */
static bool keep_size(struct ka_heap *heap, void *block)
{
	return ka_heap_realloc(heap, block, 600) == block && !ka_heap_free(heap, block);
}

static bool make_larger(struct ka_heap *heap, void *block)
{
	block = ka_heap_realloc(heap, block, 900);
	return block && !ka_heap_free(heap, block);
}

static bool look_and_free(struct ka_heap *heap, void *block)
{
	return ka_heap_usable_size(heap, block) >= 600 && !ka_heap_free(heap, block);
}

/* Return true if the operation succeeds whenever its thread is called during it. */
static bool works_at_any_step(struct ka_heap *heap, bool (*use)(struct ka_heap *, void *))
{
	/*
	 * A sanitizer has more instructions, and a guest needs ten times as long for each.
	 */
	unsigned long each = is_instrumented() ? 23 : is_guest() ? 7 : 1;
	bool well = true;

	called.at = 0;
	do {
		/* A new block looks like a free one until the program writes to it. */
		void *block = ka_heap_malloc(heap, 600);

		called.pool = ka_pool_of(ka_pools_of(heap), block);
		called.steps = 0;
		called.at += each;
		if (!ka_is_marked(block))
			return false;
		step_by_step(true);
		well = use(heap, block) && well;
		step_by_step(false);
	} while (called.steps >= called.at);
	return well && called.at > 40;
}

TEST_F_TIMEOUT(block, thread_can_be_called_at_any_moment, SLOW)
{
	struct sigaction action = { .sa_handler = call_once }, before;
	void *blocks[4];

	NOT_WITH_VALGRIND("has no trap flag");
	NOT_WITH_THREAD_SANITIZER();
	if (kernel_is_slow())
		SKIP(return, "a debug kernel takes minutes for a signal after each step");
	for (int i = 0; i < 4; i++)
		blocks[i] = ka_heap_malloc(self->heap, 600);
	/* One block stays allocated, so the pool stays. */
	for (int i = 1; i < 4; i++)
		ASSERT_EQ(0, ka_heap_free(self->heap, blocks[i]));
	ASSERT_EQ(0, sigaction(SIGTRAP, &action, &before));
	EXPECT_TRUE(works_at_any_step(self->heap, keep_size));
	EXPECT_TRUE(works_at_any_step(self->heap, make_larger));
	EXPECT_TRUE(works_at_any_step(self->heap, look_and_free));
	sigaction(SIGTRAP, &before, NULL);
	EXPECT_EQ(0, ka_heap_free(self->heap, blocks[0]));
}
#endif

TEST_F(block, child_cannot_use_a_heap_of_the_parent)
{
	struct ka_heap *heap = make(64 * MIB, 0, KA_FORK_NONE);
	char *block = ka_heap_malloc(heap, 100);
	pid_t child;

	ASSERT_NE(NULL, block);
	child = fork();
	if (!child) {
		CHECK(!ka_heap_malloc(heap, 100) && errno == EOWNERDEAD);
		CHECK(ka_heap_free(heap, block) && errno == EOWNERDEAD);
		CHECK(!ka_heap_realloc(heap, block, 10) && errno == EOWNERDEAD);
		CHECK(!ka_heap_usable_size(heap, block) && errno == EOWNERDEAD);
		CHECK(!ka_heap_aligned_alloc(heap, 64, 100) && errno == EOWNERDEAD);
		CHECK(!ka_heap_calloc(heap, 1, 2 * KA_PAGE_SIZE) && errno == EOWNERDEAD);
		CHECK(ka_heap_idle(heap) && errno == EOWNERDEAD);
		_exit(0);
	}
	EXPECT_EQ(0, child_status(child));
	EXPECT_EQ(0, ka_heap_free(heap, block));
	ka_heap_destroy(heap);
}

TEST_HARNESS_MAIN
