// SPDX-License-Identifier: MIT
/*
 * Blocks: sizes, alignments, errors, threads that free each other's, threads that
 * end, forks; and random sequences held against a model. Runs on the source that
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

/* A block knows what it is to have in it, from its first to its last byte. */
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

/* Sizes that exercise all classes, and runs; small ones are more frequent. */
static size_t random_size(unsigned int *seed)
{
	unsigned int bits = (unsigned int)rand_r(seed) % 10;

	if (rand_r(seed) % 2000 == 0)
		return (size_t)rand_r(seed) % (4 * MIB);
	if (rand_r(seed) % 50 == 0)
		bits = 10 + (unsigned int)rand_r(seed) % 9;
	return (size_t)rand_r(seed) % ((size_t)2 << bits);
}

TEST_F(block, every_size_has_a_block_that_wastes_little)
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

TEST_F(block, powers_of_two_are_aligned_to_themselves)
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

TEST_F(block, alignment_is_as_asked)
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

TEST_F(block, calloc_is_zero_and_knows_an_overflow)
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

TEST_F(block, what_is_no_block_is_refused)
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

TEST_F(block, what_is_freed_twice_is_refused_whatever_was_freed_between)
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
		EXPECT_EQ(2, figures(self->heap).blocks);
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
		EXPECT_EQ(0, figures(self->heap).blocks);
	}
}

/* What is in use may look as if it were free: as it was left, or as chance has it. */
TEST_F(block, what_looks_as_if_it_were_free_can_be_freed)
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
		/* The first ones first, and then the last ones. */
		for (int i = 0; i < 50; i++)
			ASSERT_EQ(0, ka_heap_free(self->heap, blocks[i])) TH_LOG("%d", way);
		for (int i = 99; i >= 50; i--)
			ASSERT_EQ(0, ka_heap_free(self->heap, blocks[i])) TH_LOG("%d", way);
		EXPECT_EQ(0, figures(self->heap).blocks);
	}
}

/* Its pool has gone, but the run may be kept for the next one. */
TEST_F(block, what_is_freed_twice_is_refused_when_its_pool_has_gone)
{
	static const size_t sizes[] = { 16, 40, 1000, 5000, 20000, 100000 };
	void *other = ka_heap_malloc(self->heap, 3000), *block, *run;

	ASSERT_NE(NULL, other);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		block = ka_heap_malloc(self->heap, sizes[i]);
		ASSERT_EQ(0, ka_heap_free(self->heap, block));
		EXPECT_EQ(1, figures(self->heap).pools);
		errno = 0;
		EXPECT_EQ(-1, ka_heap_free(self->heap, block));
		EXPECT_EQ(EINVAL, errno);
		EXPECT_EQ(0, ka_heap_usable_size(self->heap, block));
		EXPECT_EQ(NULL, ka_heap_realloc(self->heap, block, 2 * sizes[i]));
		EXPECT_EQ(EINVAL, errno);
		EXPECT_EQ(-1, ka_run_free(self->heap, block));
		/* It is nobody else's by now. */
		run = ka_run_alloc(self->heap, 4 * KA_PAGE_SIZE, 4 * KA_PAGE_SIZE);
		ASSERT_NE(NULL, run);
		EXPECT_NE(block, run);
		EXPECT_EQ(0, ka_run_free(self->heap, run));
	}
	EXPECT_EQ(0, ka_heap_free(self->heap, other));
}

#define NR_ORDERS	8
#define IN_A_PAGE	(KA_PAGE_SIZE / 64)

/* Of a new heap's first pool, the blocks of the first page. */
static void take_page(struct ka_heap *heap, uint8_t order[IN_A_PAGE])
{
	for (size_t i = 0; i < IN_A_PAGE; i++) {
		char *block = ka_heap_malloc(heap, 64);

		order[i] = (uint8_t)((block - ka_pools_of(heap)->start) / 64);
	}
}

TEST(the_tables_of_current_pools_have_each_class)
{
	EXPECT_EQ(KA_FIRST_LARGER, ka_class_of(KA_DIRECT_MAX) + 1);
	EXPECT_EQ(KA_CLASSES, ka_class_of(KA_BLOCK_MAX) + 1);
}

TEST(nobody_can_know_which_block_is_next)
{
	uint8_t orders[NR_ORDERS][IN_A_PAGE];
	int same = 0, firsts = 0, steps = 0;

	for (int i = 0; i < NR_ORDERS; i++) {
		struct ka_heap *heap = make(64 * MIB, 0, KA_FORK_COW);
		bool seen[IN_A_PAGE] = { false };

		ASSERT_NE(NULL, heap);
		take_page(heap, orders[i]);
		for (size_t j = 0; j < IN_A_PAGE; j++) {
			ASSERT_GT(IN_A_PAGE, orders[i][j]);
			EXPECT_FALSE(seen[orders[i][j]]);
			seen[orders[i][j]] = true;
		}
		same += i && !memcmp(orders[i], orders[0], IN_A_PAGE);
		firsts += orders[i][0] == orders[0][0];
		steps += (uint8_t)(orders[i][1] - orders[i][0]) ==
			 (uint8_t)(orders[0][1] - orders[0][0]);
		ka_heap_destroy(heap);
	}
	/* By chance, once in 128 ^ 7 and 64 ^ 7 times. */
	EXPECT_NE(NR_ORDERS - 1, same);
	EXPECT_NE(NR_ORDERS, firsts);
	TH_LOG("of %d orders, %d begin alike, %d go on alike", NR_ORDERS, firsts, steps);
}

TEST_F(block, realloc_stays_where_it_can)
{
	char *block = ka_heap_malloc(self->heap, 1000), *same, *large;

	ASSERT_NE(NULL, block);
	fill(block, 1000, 77);
	same = ka_heap_realloc(self->heap, block, 1024);
	EXPECT_EQ(block, same);
	EXPECT_EQ(block, ka_heap_realloc(self->heap, block, 800));
	/* More than a quarter comes free. */
	same = ka_heap_realloc(self->heap, block, 500);
	EXPECT_NE(block, same);
	EXPECT_TRUE(has(same, 500, 77));
	EXPECT_EQ(0, ka_heap_free(self->heap, same));

	large = ka_heap_malloc(self->heap, 512 * 1024);
	ASSERT_NE(NULL, large);
	fill(large, 512 * 1024, 78);
	/* Into free pages behind it, and back. */
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

TEST_F(block, what_has_grown_grows_on_where_it_is)
{
	const size_t small = 20 * 1024, large = 40 * 1024;
	char *block = ka_heap_malloc(self->heap, small), *grown;

	ASSERT_NE(NULL, block);
	fill(block, small, 79);
	grown = ka_heap_realloc(self->heap, block, large);
	ASSERT_NE(NULL, grown);
	/* It is a run by now. */
	EXPECT_EQ(0, figures(self->heap).blocks);
	EXPECT_EQ(grown, ka_heap_realloc(self->heap, grown, 2 * large));
	EXPECT_EQ(2 * large, ka_heap_usable_size(self->heap, grown));
	EXPECT_TRUE(has(grown, small, 79));
	EXPECT_EQ(grown, ka_heap_realloc(self->heap, grown, large));
	EXPECT_EQ(large, ka_heap_usable_size(self->heap, grown));
	block = ka_heap_realloc(self->heap, grown, small);
	EXPECT_EQ(1, figures(self->heap).blocks);
	EXPECT_TRUE(has(block, small, 79));
	EXPECT_EQ(0, ka_heap_free(self->heap, block));
}

TEST_F(block, at_the_limit_there_are_none_and_nothing_is_lost)
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

/* Pools that are kept for later have the room, but no memory that could be given back. */
TEST_F(block, at_the_limit_spare_pools_make_room_even_if_nothing_can_be_purged)
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
		SKIP(return, "no memory may be locked here");
	for (int i = 0; i < 1000; i++)
		ASSERT_EQ(0, ka_heap_free(heap, blocks[i]));
	run = ka_run_alloc(heap, MIB + MIB / 2, 0);
	EXPECT_NE(NULL, run) TH_LOG("%s", ka_error());
	munlockall();
	ka_heap_destroy(heap);
}

/* The model: what is in each block, and how large it was asked for. */
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

/* One step: the name of what was wrong, or NULL. */
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
		/* The first bytes are the value's, if it was large enough. */
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
		/* What lies between the blocks may go at any moment. */
		if (rand_r(&model->seed) % 1000 == 0)
			ka_heap_trim(model->heap);
	}
	return wrong;
}

static const char *give_all_back(struct model *model)
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

/* Steps of a random sequence: fewer where each takes long. */
static long steps(void)
{
	const char *text = getenv("KARENA_TEST_STEPS");

	if (text)
		return atol(text);
	return is_instrumented() || on_device() ? 20000 : 300000;
}

TEST_F_TIMEOUT(block, a_random_sequence_agrees_with_the_model, SLOW)
{
	struct model *model = calloc(1, sizeof(*model));

	model->heap = self->heap;
	model->seed = 1;
	EXPECT_EQ(NULL, play(model, steps()));
	EXPECT_EQ(NULL, give_all_back(model));
	free(model);
}

/* Blocks of pools that the model has, and the bytes that it asked for. */
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

TEST_F_TIMEOUT(block, figures_are_exact_at_any_moment, SLOW)
{
	struct model *model = calloc(1, sizeof(*model));

	model->heap = self->heap;
	model->seed = 3;
	for (int i = 0; i < 50; i++) {
		struct ka_stats stats;
		size_t bytes;

		ASSERT_EQ(NULL, play(model, rand_r(&model->seed) % 500));
		stats = figures(self->heap);
		ASSERT_EQ(in_pools(model, &bytes), stats.blocks);
		ASSERT_EQ(bytes, stats.block_bytes);
		ASSERT_EQ(stats.arenas * 2 * MIB, stats.run_bytes + stats.available_bytes);
		ASSERT_LE(stats.block_bytes + stats.quantization_bytes, stats.pool_bytes);
		ASSERT_LE(stats.pool_bytes, stats.run_bytes);
	}
	ASSERT_EQ(NULL, give_all_back(model));
	EXPECT_EQ(0, figures(self->heap).blocks);
	EXPECT_EQ(0, figures(self->heap).block_bytes);
	free(model);
}

/* Threads that hand blocks to each other: each frees what it finds. */
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
		/* What gives back, or leaves, what others free into at this moment. */
		if (i % 1024 == 0)
			ka_heap_trim(player->model.heap);
		if (i % 1024 == 512 && !player->wrong && ka_heap_idle(player->model.heap))
			player->wrong = "it cannot be idle";
	}
	if (!player->wrong)
		player->wrong = give_all_back(&player->model);
	return NULL;
}

TEST_F_TIMEOUT(block, threads_that_free_each_others_blocks_agree_with_it, SLOW)
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
	/* Nothing is left of threads that have ended. */
	EXPECT_EQ(0, figures(self->heap).runs);
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

/* Replaces blocks by chance: half of those that it frees are the other thread's. */
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

TEST_F_TIMEOUT(block, threads_that_share_blocks_keep_none_for_themselves, SLOW)
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
	EXPECT_GE(16, figures(self->heap).arenas_highwater);
	for (size_t i = 0; i < SHARED; i++)
		EXPECT_EQ(0, ka_heap_free(self->heap, slots[i]));
	EXPECT_EQ(0, figures(self->heap).blocks);
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

static void take_many(struct taker *taker)
{
	for (size_t i = 0; i < MANY; i++) {
		taker->blocks[i] = ka_heap_malloc(taker->heap, 16 + i % 500);
		if (taker->blocks[i])
			fill(taker->blocks[i], 16 + i % 500, (unsigned int)i);
	}
}

static size_t give_many(struct taker *taker)
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
	take_many(data);
	return NULL;
}

TEST_F_TIMEOUT(block, a_thread_that_ends_leaves_its_blocks_and_no_more, SLOW)
{
	struct taker *taker = calloc(1, sizeof(*taker));
	pthread_t thread;

	taker->heap = self->heap;
	for (int i = 0; i < 3; i++) {
		ASSERT_EQ(0, pthread_create(&thread, NULL, takes_and_ends, taker));
		pthread_join(thread, NULL);
		EXPECT_EQ(0, give_many(taker));
		EXPECT_EQ(0, figures(self->heap).runs);
	}
	free(taker);
}

/* Sizes up to 515 bytes are so many classes, of each of which a pool is the current one. */
#define NR_CURRENT	25

/* A pool has 64 blocks of 1,000 bytes. */
#define NR_FULL		200

/* Give back every so many'th block. */
static void give_some(struct taker *taker, size_t first, size_t step)
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

	take_many(taker);
	/* Then few of its pools are full. */
	if (taker->gives_half)
		give_some(taker, 0, 2);
	if (taker->says_so && ka_heap_idle(taker->heap))
		abort();
	pthread_barrier_wait(&taker->barrier);
	pthread_barrier_wait(&taker->barrier);
	return NULL;
}

/* Free the blocks of a thread that waits; how many pools are left while it does. */
static size_t kept_while_idle(struct taker *taker)
{
	pthread_t thread;
	size_t kept;

	pthread_barrier_init(&taker->barrier, NULL, 2);
	if (pthread_create(&thread, NULL, takes_and_waits, taker))
		return SIZE_MAX;
	pthread_barrier_wait(&taker->barrier);
	kept = figures(taker->heap).pools < 200 || give_many(taker) ?
	       SIZE_MAX : figures(taker->heap).pools;
	pthread_barrier_wait(&taker->barrier);
	pthread_join(thread, NULL);
	return kept;
}

TEST_F_TIMEOUT(block, an_idle_thread_keeps_at_most_a_pool_of_each_class, SLOW)
{
	struct taker *taker = calloc(1, sizeof(*taker));

	taker->heap = self->heap;
	EXPECT_GE(NR_CURRENT, kept_while_idle(taker));
	EXPECT_EQ(0, figures(self->heap).runs);
	taker->gives_half = true;
	EXPECT_GE(NR_CURRENT, kept_while_idle(taker));
	EXPECT_EQ(0, figures(self->heap).runs);
	free(taker);
}

TEST_F_TIMEOUT(block, a_thread_that_says_that_it_is_idle_keeps_none, SLOW)
{
	struct taker *taker = calloc(1, sizeof(*taker));

	taker->heap = self->heap;
	taker->says_so = true;
	EXPECT_EQ(0, kept_while_idle(taker));
	taker->gives_half = true;
	EXPECT_EQ(0, kept_while_idle(taker));
	EXPECT_EQ(0, figures(self->heap).runs);
	/* One that has taken nothing has nothing to leave; and it can be said again. */
	EXPECT_EQ(0, ka_heap_idle(self->heap));
	EXPECT_EQ(0, ka_heap_idle(self->heap));
	free(taker);
}

static void *frees_all_and_waits(void *data)
{
	struct taker *taker = data;

	take_many(taker);
	give_some(taker, 0, 1);
	pthread_barrier_wait(&taker->barrier);
	pthread_barrier_wait(&taker->barrier);
	return NULL;
}

TEST_F_TIMEOUT(block, a_thread_that_frees_all_it_has_keeps_nothing, SLOW)
{
	struct taker *taker = calloc(1, sizeof(*taker));
	pthread_t thread;

	taker->heap = self->heap;
	pthread_barrier_init(&taker->barrier, NULL, 2);
	ASSERT_EQ(0, pthread_create(&thread, NULL, frees_all_and_waits, taker));
	pthread_barrier_wait(&taker->barrier);
	EXPECT_EQ(0, figures(self->heap).blocks);
	EXPECT_EQ(0, figures(self->heap).runs);
	pthread_barrier_wait(&taker->barrier);
	pthread_join(thread, NULL);
	EXPECT_EQ(0, figures(self->heap).runs);
	free(taker);
}

/* A pool is held for who needs it again at once, until many blocks have been. */
TEST_F(block, who_takes_and_gives_back_again_and_again_holds_a_pool)
{
	void *blocks[NR_FULL];

	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 10; i++) {
			EXPECT_EQ(0, ka_heap_free(self->heap, ka_heap_malloc(self->heap, 1000)));
			if (i == 0 || i >= 2)
				EXPECT_EQ(i >= 2, figures(self->heap).pools);
			EXPECT_EQ(0, figures(self->heap).blocks);
		}
		for (int i = 0; i < NR_FULL; i++) {
			blocks[i] = ka_heap_malloc(self->heap, 1000);
			EXPECT_EQ(i + 1, figures(self->heap).blocks);
		}
		EXPECT_EQ(4, figures(self->heap).pools);
		for (int i = 0; i < NR_FULL; i++)
			EXPECT_EQ(0, ka_heap_free(self->heap, blocks[i]));
		EXPECT_EQ(0, figures(self->heap).pools);
	}
}

/* Take so many blocks that the pools of all of them are full. */
static size_t take_full(struct ka_heap *heap, size_t size, void *blocks[], size_t most)
{
	size_t capacity, count = 0;

	blocks[count++] = ka_heap_malloc(heap, size);
	capacity = ka_pool_of(ka_pools_of(heap), blocks[0])->capacity;
	while (count < most / capacity * capacity)
		blocks[count++] = ka_heap_malloc(heap, size);
	return count;
}

/* Of a full pool that is given a block back: whether it waits for its turn. */
static bool waits(struct ka_heap *heap, void *block)
{
	if (ka_heap_free(heap, block))
		abort();
	return ka_pool_of(ka_pools_of(heap), block)->listed;
}

TEST_F(block, a_pool_of_few_blocks_is_next_when_it_is_given_one_back)
{
	const size_t few = 20000, many = 1000;
	void *blocks[NR_FULL];
	size_t count = take_full(self->heap, few, blocks, NR_FULL);

	for (int i = 0; i < 10; i++) {
		EXPECT_FALSE(waits(self->heap, blocks[0]));
		/* One that has a block comes first. */
		EXPECT_TRUE(waits(self->heap, blocks[count / 2]));
		EXPECT_EQ(blocks[0], ka_heap_malloc(self->heap, few));
		EXPECT_EQ(blocks[count / 2], ka_heap_malloc(self->heap, few));
		EXPECT_EQ(count, figures(self->heap).blocks);
	}
	for (size_t i = 0; i < count; i++)
		EXPECT_EQ(0, ka_heap_free(self->heap, blocks[i]));
	EXPECT_EQ(0, figures(self->heap).pools);
	/* Where pools have many, it would soon be the next one's turn. */
	take_full(self->heap, many, blocks, NR_FULL);
	EXPECT_TRUE(waits(self->heap, blocks[0]));
	EXPECT_EQ(blocks[0], ka_heap_malloc(self->heap, many));
}

static void *does_nothing(void *data)
{
	struct taker *taker = data;

	pthread_barrier_wait(&taker->barrier);
	return NULL;
}

/* What others may have freed of those that wait is looked at in time. */
TEST_F(block, with_other_threads_the_pools_that_wait_are_looked_at)
{
	struct taker *taker = calloc(1, sizeof(*taker));
	void *blocks[NR_FULL];
	pthread_t thread;

	ASSERT_NE(NULL, taker);
	ASSERT_EQ(0, pthread_barrier_init(&taker->barrier, NULL, 2));
	ASSERT_EQ(0, pthread_create(&thread, NULL, does_nothing, taker));
	take_full(self->heap, 20000, blocks, NR_FULL);
	for (int i = 0; i < 30; i++) {
		/* Not of the pool that is the current one. */
		void *block = blocks[i % 2 * (NR_FULL / 2)];

		EXPECT_EQ(i % 9 == 8, waits(self->heap, block));
		EXPECT_EQ(block, ka_heap_malloc(self->heap, 20000));
	}
	pthread_barrier_wait(&taker->barrier);
	pthread_join(thread, NULL);
	free(taker);
}

/* What a thread leaves: a pool of which all but two blocks are free. */
static void *leaves_a_pool(void *data)
{
	struct taker *taker = data;
	size_t count = take_full(taker->heap, 20000, taker->blocks, 16);

	while (count > 2)
		ka_heap_free(taker->heap, taker->blocks[--count]);
	return NULL;
}

TEST_F(block, a_pool_that_is_nearly_empty_is_not_next)
{
	struct taker *taker = calloc(1, sizeof(*taker));
	void *blocks[NR_FULL];
	pthread_t thread;
	size_t count;

	ASSERT_NE(NULL, taker);
	taker->heap = self->heap;
	count = take_full(self->heap, 20000, blocks, NR_FULL);
	ASSERT_EQ(0, pthread_create(&thread, NULL, leaves_a_pool, taker));
	pthread_join(thread, NULL);
	EXPECT_TRUE(waits(self->heap, taker->blocks[0]));
	EXPECT_EQ(0, ka_heap_free(self->heap, taker->blocks[1]));
	EXPECT_EQ(count, figures(self->heap).blocks);
	free(taker);
}

static void *frees_last(void *data)
{
	struct taker *taker = data;

	take_many(taker);
	give_some(taker, 0, 3);
	pthread_barrier_wait(&taker->barrier);
	pthread_barrier_wait(&taker->barrier);
	/* Nothing is left then but what the others have freed. */
	give_some(taker, 2, 3);
	pthread_barrier_wait(&taker->barrier);
	pthread_barrier_wait(&taker->barrier);
	return NULL;
}

/* As if each owner were just past its look whether it has been called. */
static void take_calls_back(struct ka_heap *heap)
{
	for (size_t slot = 0; slot < ka_pools_of(heap)->nr_slots; slot++) {
		struct ka_pool *pool = ka_pools_of(heap)->map[slot];

		if (pool != &ka_no_pool)
			__atomic_store_n(&pool->owner, ka_pool_owner(pool), __ATOMIC_RELAXED);
	}
}

/* How many pools are left when a thread has freed the last blocks, and @trim is tried. */
static size_t kept_by_the_last(struct taker *taker, bool called, bool trim)
{
	pthread_t thread;
	size_t kept;

	pthread_barrier_init(&taker->barrier, NULL, 2);
	if (pthread_create(&thread, NULL, frees_last, taker))
		abort();
	pthread_barrier_wait(&taker->barrier);
	give_some(taker, 1, 3);
	if (!called)
		take_calls_back(taker->heap);
	pthread_barrier_wait(&taker->barrier);
	pthread_barrier_wait(&taker->barrier);
	if (figures(taker->heap).blocks)
		abort();
	if (trim)
		ka_heap_trim(taker->heap);
	kept = figures(taker->heap).pools;
	pthread_barrier_wait(&taker->barrier);
	pthread_join(thread, NULL);
	return kept;
}

TEST_F_TIMEOUT(block, a_thread_that_frees_the_last_block_keeps_no_pool, SLOW)
{
	struct taker *taker = calloc(1, sizeof(*taker));

	taker->heap = self->heap;
	EXPECT_EQ(0, kept_by_the_last(taker, true, false));
	EXPECT_EQ(0, figures(self->heap).runs);
	free(taker);
}

TEST_F_TIMEOUT(block, trim_gives_back_what_an_idle_thread_has_emptied, SLOW)
{
	struct taker *taker = calloc(1, sizeof(*taker));

	taker->heap = self->heap;
	EXPECT_LT(200, kept_by_the_last(taker, false, false));
	EXPECT_EQ(0, figures(self->heap).runs);
	EXPECT_GE(NR_CURRENT, kept_by_the_last(taker, false, true));
	EXPECT_EQ(0, figures(self->heap).runs);
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

/* Whether another thread has given a block back. */
static bool free_elsewhere(struct ka_heap *heap, void *block)
{
	struct freed freed = { heap, block };
	pthread_t thread;

	return !pthread_create(&thread, NULL, frees_one, &freed) &&
	       !pthread_join(thread, NULL);
}

TEST_F(block, who_frees_elsewhere_calls_the_owner_once)
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
	EXPECT_EQ(3, figures(self->heap).blocks);
	/* Its next free takes it, and the one after that is as before. */
	EXPECT_EQ(0, ka_heap_free(self->heap, blocks[1]));
	EXPECT_EQ(ka_thread(), pool->owner);
	EXPECT_EQ(0, pool->remote);
	EXPECT_EQ(2, figures(self->heap).blocks);
	/* What is freed twice is seen as ever. */
	EXPECT_EQ(0, ka_heap_free(self->heap, blocks[2]));
	ASSERT_TRUE(free_elsewhere(self->heap, blocks[3]));
	EXPECT_EQ(-1, ka_heap_free(self->heap, blocks[2]));
	EXPECT_EQ(EINVAL, errno);
	/* Who takes all there is has taken that, too; to be called in vain does no harm. */
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

/* A destructor that runs after the library's, and again. */
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

TEST_F(block, a_thread_may_use_the_heap_while_it_ends)
{
	pthread_t thread;

	late_heap = self->heap;
	late_rounds = 0;
	/* Destructors run in the order in which their keys were made. */
	ASSERT_EQ(0, ka_heap_free(self->heap, ka_heap_malloc(self->heap, 1)));
	ASSERT_EQ(0, pthread_key_create(&late_key, late));
	ASSERT_EQ(0, pthread_create(&thread, NULL, ends_late, NULL));
	pthread_join(thread, NULL);
	EXPECT_LT(0, late_rounds);
	EXPECT_EQ(0, figures(self->heap).runs);
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
	/* Perhaps in the same place, surely another heap. */
	user->block = ka_heap_malloc(user->heap, 100);
	if (user->block)
		memset(user->block, 1, 100);
	return NULL;
}

TEST_F(block, a_heap_goes_with_all_blocks_whoever_has_used_it)
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
	EXPECT_EQ(0, figures(user.heap).runs);
	ka_heap_destroy(user.heap);
}

TEST_F_TIMEOUT(block, a_random_sequence_goes_on_in_parent_and_child, SLOW)
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
			CHECK(!give_all_back(model));
			_exit(0);
		}
		ASSERT_EQ(NULL, play(model, 20000));
		EXPECT_EQ(0, child_status(child));
	}
	EXPECT_EQ(NULL, give_all_back(model));
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

/* What the other threads had is lost to the child, but nothing of it is anybody else's. */
TEST_F_TIMEOUT(block, a_child_of_a_busy_process_has_a_sound_heap, SLOW)
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
			CHECK(!give_all_back(&players[0].model));
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

/* What a child that is forked at any moment is to find in a pool. */
static struct {
	const struct ka_pool *pool;
	volatile uint32_t blocks;	/* that the program has, at least */
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

/* With a signal after each instruction, or without again. */
static void step_by_step(bool steps)
{
	unsigned long long flags = __builtin_ia32_readeflags_u64() & ~TRAP_FLAG;

	__builtin_ia32_writeeflags_u64(steps ? flags | TRAP_FLAG : flags);
}

/* A pool has 8 of them. */
#define LARGE		(16 * 1024)
#define NR_LARGE	20

/* Hold a pool, as who takes and gives back again and again does, and use it up. */
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

TEST_F_TIMEOUT(block, a_child_never_finds_fewer_blocks_in_use_than_there_are, SLOW)
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

/* In which step of a call another thread calls the pool's owner, and which one it is. */
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

/* What a thread may do with a block that is marked; whether the heap lets it. */
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

/* Whether all goes well, whenever the owner is called while it does that. */
static bool goes_well_at_any_step(struct ka_heap *heap, bool (*use)(struct ka_heap *, void *))
{
	/* A sanitizer has more instructions, and a guest takes ten times as long for each. */
	unsigned long each = is_instrumented() ? 23 : is_guest() ? 7 : 1;
	bool well = true;

	called.at = 0;
	do {
		/* It is taken for a block that is free until something is written to it. */
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

TEST_F_TIMEOUT(block, a_thread_can_be_called_at_any_moment, SLOW)
{
	struct sigaction action = { .sa_handler = call_once }, before;
	void *blocks[4];

	NOT_WITH_VALGRIND("has no trap flag");
	NOT_WITH_THREAD_SANITIZER();
	if (kernel_is_slow())
		SKIP(return, "a debug kernel takes minutes for a signal after each step");
	for (int i = 0; i < 4; i++)
		blocks[i] = ka_heap_malloc(self->heap, 600);
	/* One stays in use, so that the pool does. */
	for (int i = 1; i < 4; i++)
		ASSERT_EQ(0, ka_heap_free(self->heap, blocks[i]));
	ASSERT_EQ(0, sigaction(SIGTRAP, &action, &before));
	EXPECT_TRUE(goes_well_at_any_step(self->heap, keep_size));
	EXPECT_TRUE(goes_well_at_any_step(self->heap, make_larger));
	EXPECT_TRUE(goes_well_at_any_step(self->heap, look_and_free));
	sigaction(SIGTRAP, &before, NULL);
	EXPECT_EQ(0, ka_heap_free(self->heap, blocks[0]));
}
#endif

TEST_F(block, a_child_uses_no_heap_of_the_parents)
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
