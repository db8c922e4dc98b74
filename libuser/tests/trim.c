// SPDX-License-Identifier: MIT
/*
 * Purging: at once, after a while, on request, at a limit; and which memory is known to be
 * zero. Runs on the source that KARENA_SOURCE names.
 */
#include <time.h>

#include "common.h"
#include "heap/heap.h"

#define NR_SMALL	((size_t)200000)

FIXTURE(trim) {
	struct ka_heap *heap;
	char **blocks;
};

FIXTURE_SETUP(trim)
{
	self->heap = make(1024 * MIB, 0, KA_FORK_COW);
	ASSERT_NE(NULL, self->heap) TH_LOG("%s", ka_error());
	self->blocks = calloc(NR_SMALL, sizeof(char *));
	ASSERT_NE(NULL, self->blocks);
}

FIXTURE_TEARDOWN(trim)
{
	free(self->blocks);
	ka_heap_destroy(self->heap);
}

/* Resident bytes of a heap without its metadata. */
static size_t resident_in(const struct ka_heap *heap)
{
	const struct ka_metadata *metadata = ka_arenas_of(heap)->metadata;
	size_t arenas = metadata->nr_touched - metadata->nr_metadata;

	return resident_from(ka_window_of(heap)->start + metadata->nr_metadata * KA_ARENA_SIZE,
			     arenas * KA_ARENA_SIZE);
}

static void wait_ms(long ms)
{
	struct timespec time = { ms / 1000, ms % 1000 * 1000000 };

	nanosleep(&time, NULL);
}

static bool is_zero(const char *block, size_t size)
{
	return !size || (!*block && !memcmp(block, block + 1, size - 1));
}

/* Allocate blocks of 200 bytes, and keep one of @kept. */
static void thin_out(struct ka_heap *heap, char **blocks, size_t kept)
{
	for (size_t i = 0; i < NR_SMALL; i++) {
		blocks[i] = ka_heap_malloc(heap, 200);
		if (!blocks[i])
			abort();
		memset(blocks[i], (int)(i % 251), 200);
	}
	for (size_t i = 0; i < NR_SMALL; i++) {
		if (i % kept)
			ka_heap_free(heap, blocks[i]);
	}
}

static size_t purged_bytes;

int __real_ka_madvise(void *start, size_t size, int advice);
int __wrap_ka_madvise(void *start, size_t size, int advice);

int __wrap_ka_madvise(void *start, size_t size, int advice)
{
	if (advice == MADV_DONTNEED)
		purged_bytes += size;
	return __real_ka_madvise(start, size, advice);
}

/* Pages without memory are not purged again together with those that have just become free. */
TEST_F_TIMEOUT(trim, pages_are_purged_once, SLOW)
{
	size_t first;

	if (on_device())
		SKIP(return, "the module purges by other calls");
	thin_out(self->heap, self->blocks, 1000);
	ka_heap_trim(self->heap);
	first = purged_bytes;
	EXPECT_LT(MIB, first);
	for (int i = 0; i < 100; i++) {
		ka_heap_free(self->heap, self->blocks[i * 1000]);
		ka_heap_trim(self->heap);
	}
	/* A pool for each of these blocks, and what was left of the first pages. */
	EXPECT_LE(purged_bytes, first + first / 4 + 100 * 16384);
}

TEST_F_TIMEOUT(trim, trim_frees_most_of_a_heap_with_few_blocks, SLOW)
{
	size_t before, after;

	thin_out(self->heap, self->blocks, 1000);
	NOT_WITH_VALGRIND("does not free purged memory");
	before = resident_in(self->heap);
	EXPECT_LT(0, ka_heap_trim(self->heap));
	after = resident_in(self->heap);
	/* Two hundred pools of 16 KiB. */
	EXPECT_LE(after, before > 8 * MIB ? 4 * MIB : before);
	EXPECT_EQ(0, ka_heap_trim(self->heap));
	for (size_t i = 0; i < NR_SMALL; i += 1000) {
		EXPECT_EQ((char)(i % 251), self->blocks[i][0]);
		EXPECT_EQ((char)(i % 251), self->blocks[i][199]);
	}
	/* All of the memory can be used again. */
	thin_out(self->heap, self->blocks, 1000);
}

#define PIECE		((size_t)64)
#define PIECES		(128 * KA_SLOT_SIZE / PIECE)

/*
 * Free all blocks except the first one of each pool, or the last one if the pool goes down. Each
 * contains its own address.
 */
static void leave_the_first(struct ka_heap *heap, char **blocks)
{
	for (size_t i = 0; i < PIECES; i++) {
		blocks[i] = ka_heap_malloc(heap, PIECE);
		if (!blocks[i])
			abort();
		memset(blocks[i], 1, PIECE);
		memcpy(blocks[i], &blocks[i], sizeof(char *));
	}
	for (size_t i = 0; i < PIECES; i++) {
		bool down = ka_pool_of(ka_pools_of(heap), blocks[i])->down;

		if ((uintptr_t)blocks[i] % KA_SLOT_SIZE != (down ? KA_SLOT_SIZE - PIECE : 0)) {
			ka_heap_free(heap, blocks[i]);
			blocks[i] = NULL;
		}
	}
}

/*
 * Allocate all free blocks, and then free everything. Return true if no content was lost.
 */
static bool fill_up(struct ka_heap *heap, char **blocks)
{
	bool sound = true;

	for (size_t i = 0; i < PIECES; i++) {
		if (blocks[i])
			continue;
		blocks[i] = ka_heap_malloc(heap, PIECE);
		memset(blocks[i], 2, PIECE);
		memcpy(blocks[i], &blocks[i], sizeof(char *));
	}
	for (size_t i = 0; i < PIECES; i++) {
		sound = sound && !memcmp(blocks[i], &blocks[i], sizeof(char *)) &&
			(blocks[i][PIECE - 1] == 1 || blocks[i][PIECE - 1] == 2);
		ka_heap_free(heap, blocks[i]);
	}
	return sound;
}

TEST_F_TIMEOUT(trim, memory_behind_the_last_block_of_a_pool_is_purged, SLOW)
{
	bool thins = ka_window_of(self->heap)->source == &ka_embedded;
	size_t pools, before, gone;

	leave_the_first(self->heap, self->blocks);
	pools = stats_of(self->heap).pools;
	before = resident_in(self->heap);
	gone = ka_heap_trim(self->heap);
	EXPECT_LE(thins ? 100 * 3 * KA_PAGE_SIZE : 0, gone);
	EXPECT_EQ(pools, stats_of(self->heap).pools);
	EXPECT_TRUE(fill_up(self->heap, self->blocks));
	leave_the_first(self->heap, self->blocks);
	ka_heap_trim(self->heap);
	if (thins && !getenv("VALGRIND"))
		EXPECT_LE(resident_in(self->heap), before / 2);
	EXPECT_TRUE(fill_up(self->heap, self->blocks));
}

/* Count the pools whose memory was partly purged. */
static size_t thinned(const struct ka_heap *heap)
{
	size_t count = 0;

	for (size_t i = 0; i < ka_pools_of(heap)->nr_slots; i++) {
		const struct ka_pool *pool = ka_pools_of(heap)->map[i];

		count += pool == &ka_pools_of(heap)->entries[i] && pool->thin &&
			 pool->made < pool->capacity;
	}
	return count;
}

TEST_F_TIMEOUT(trim, pools_are_partly_purged_when_others_are_freed, SLOW)
{
	thin_out(self->heap, self->blocks, 1000);
	EXPECT_EQ(ka_window_of(self->heap)->source == &ka_embedded, thinned(self->heap) > 0);
	for (size_t i = 0; i < NR_SMALL; i += 1000)
		EXPECT_EQ((char)(i % 251), self->blocks[i][199]);
	thin_out(self->heap, self->blocks, 1000);
}

TEST_F_TIMEOUT(trim, memory_above_the_bound_is_purged_at_once, SLOW)
{
	size_t used, most;

	thin_out(self->heap, self->blocks, 2000);
	used = stats_of(self->heap).run_bytes;
	/* Plus the free ranges of less than 64 KiB. */
	most = used + used / 8 + 8 * MIB + 2 * MIB;
	NOT_WITH_VALGRIND("does not free purged memory");
	EXPECT_LE(resident_in(self->heap), most);
}

TEST_F_TIMEOUT(trim, unused_memory_is_purged_after_a_while, SLOW)
{
	void *runs[16], *stays = NULL;
	size_t before;

	for (int i = 0; i < 16; i++) {
		runs[i] = ka_run_alloc(self->heap, MIB / 4, 0);
		ASSERT_NE(NULL, runs[i]);
		memset(runs[i], 1, MIB / 4);
	}
	for (int i = 0; i < 16; i++) {
		if (i % 8)
			ka_run_free(self->heap, runs[i]);
	}
	before = resident_in(self->heap);
	/* A heap has no thread of its own, and checks the time during calls. */
	for (int i = 0; i < 4; i++) {
		wait_ms(250);
		stays = ka_run_alloc(self->heap, KA_PAGE_SIZE, 0);
		ka_run_free(self->heap, stays);
	}
	NOT_WITH_VALGRIND("does not free purged memory");
	EXPECT_LE(resident_in(self->heap), before / 2);
	for (int i = 0; i < 16; i += 8)
		EXPECT_EQ(1, ((char *)runs[i])[MIB / 4 - 1]);
}

/* Minor page faults of the process. */
static long faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_minflt;
}

static void use_much(struct ka_heap *heap, void **runs)
{
	for (int i = 0; i < 100; i++) {
		runs[i] = ka_run_alloc(heap, 300 * 1024, 0);
		if (!runs[i])
			abort();
		memset(runs[i], 1, 300 * 1024);
	}
	for (int i = 0; i < 100; i++)
		ka_run_free(heap, runs[i]);
}

TEST_F_TIMEOUT(trim, memory_used_again_and_again_stays, SLOW)
{
	void *runs[100];
	long before;

	NOT_WITH_SANITIZERS();
	/* As in malloc's heap and that of the domains. */
	ka_arenas_of(self->heap)->most_empty = SIZE_MAX;
	for (int i = 0; i < 12; i++)
		use_much(self->heap, runs);
	before = faults();
	for (int i = 0; i < 8; i++)
		use_much(self->heap, runs);
	/* Each round touches 7500 pages. */
	EXPECT_LT(faults() - before, 4 * 7500);
}

TEST_F(trim, calloc_does_not_clear_unused_memory)
{
	char *block = ka_heap_calloc(self->heap, 64, MIB);

	ASSERT_NE(NULL, block);
	if (!on_device())
		EXPECT_GE(2 * MIB, resident_from(block, 64 * MIB));
	EXPECT_TRUE(is_zero(block + 13 * MIB, MIB));
	memset(block, 1, 64 * MIB);
	EXPECT_EQ(0, ka_heap_free(self->heap, block));
	block = ka_heap_calloc(self->heap, 64, MIB);
	ASSERT_NE(NULL, block);
	EXPECT_TRUE(is_zero(block, 64 * MIB));
}

TEST_F_TIMEOUT(trim, calloc_clears_memory_with_any_content, SLOW)
{
	unsigned int seed = 7;
	struct {
		char *start;
		size_t size;
	} blocks[200] = { 0 };

	for (int i = 0; i < 8000; i++) {
		int which = rand_r(&seed) % 200;
		size_t size = (size_t)rand_r(&seed) % (i % 50 ? 40000 : 600000);

		if (blocks[which].start)
			memset(blocks[which].start, 0xff, blocks[which].size);
		ka_heap_free(self->heap, blocks[which].start);
		if (i % 1000 == 0)
			ka_heap_trim(self->heap);
		blocks[which].size = size;
		blocks[which].start = ka_heap_calloc(self->heap, 1, size);
		ASSERT_NE(NULL, blocks[which].start);
		ASSERT_TRUE(is_zero(blocks[which].start, size)) TH_LOG("step %d", i);
	}
}

TEST(at_the_limit_no_empty_arena_is_kept)
{
	struct ka_heap *heap = make(64 * MIB, 8 * MIB, KA_FORK_COW);
	void *runs[4], *whole;

	ASSERT_NE(NULL, heap) TH_LOG("%s", ka_error());
	/* Empty arenas may stay, unless another arena is needed. */
	for (int i = 0; i < 4; i++) {
		runs[i] = ka_run_alloc(heap, 2 * MIB, 0);
		ASSERT_NE(NULL, runs[i]);
	}
	EXPECT_EQ(0, ka_run_free(heap, runs[0]));
	EXPECT_EQ(0, ka_run_free(heap, runs[2]));
	EXPECT_EQ(0, ka_run_free(heap, runs[3]));
	whole = ka_run_alloc(heap, 6 * MIB, 0);
	EXPECT_NE(NULL, whole) TH_LOG("%s", ka_error());
	EXPECT_EQ(4, stats_of(heap).arenas);
	ka_heap_destroy(heap);
}

/* On the module, the kernel reclaims the whole arena. */
static void volatile_on_device(struct __test_metadata *_metadata, struct ka_heap *heap)
{
	void *run = ka_run_alloc(heap, 2 * MIB, 0), *again;
	size_t index;

	ASSERT_NE(NULL, run);
	memset(run, 1, 2 * MIB);
	index = (size_t)((char *)run - ka_window_of(heap)->start) / KA_ARENA_SIZE;
	EXPECT_EQ(0, ka_run_free(heap, run));
	EXPECT_EQ(3, ka_window_of(heap)->states[index] & 7);
	/* The heap reuses the arena with its content. */
	again = ka_run_alloc(heap, 2 * MIB, 0);
	ASSERT_EQ(run, again);
	EXPECT_EQ(2, ka_window_of(heap)->states[index] & 7);
	EXPECT_EQ(1, *(char *)again);
	/* If the kernel has reclaimed the arena, as here, it is new and zero. */
	EXPECT_EQ(0, ka_run_free(heap, again));
	ASSERT_EQ(0, madvise(run, 2 * MIB, MADV_REMOVE));
	again = ka_heap_calloc(heap, 2, MIB);
	ASSERT_EQ(run, again);
	EXPECT_TRUE(is_zero(again, 2 * MIB));
	EXPECT_EQ(1, stats_of(heap).arenas);
}

/* Count the pages of an arena that start with a byte. */
static size_t pages_with(const char *start, char byte)
{
	size_t pages = 0;

	for (size_t i = 0; i < KA_ARENA_PAGES; i++)
		pages += start[i * KA_PAGE_SIZE] == byte;
	return pages;
}

/*
 * Without the module, the kernel reclaims pages, as it is told to here. Pages that are not
 * volatile may be swapped out. Some pages stay in lists of the kernel for a while.
 */
static void volatile_embedded(struct __test_metadata *_metadata, struct ka_heap *heap)
{
	char *run = ka_run_alloc(heap, 2 * MIB, 0), *again;

	ASSERT_NE(NULL, run);
	memset(run, 1, 2 * MIB);
	EXPECT_EQ(0, ka_run_free(heap, run));
	EXPECT_EQ(KA_ARENA_PAGES, pages_with(run, 1));
	ASSERT_EQ(0, madvise(run, 2 * MIB, MADV_PAGEOUT));
	EXPECT_LE(KA_ARENA_PAGES / 2, pages_with(run, 0));
	/* The arena is complete again when it is needed again. */
	again = ka_heap_calloc(heap, 2, MIB);
	ASSERT_EQ(run, again);
	EXPECT_TRUE(is_zero(again, 2 * MIB));
	memset(again, 2, 2 * MIB);
	ASSERT_EQ(0, madvise(run, 2 * MIB, MADV_PAGEOUT));
	EXPECT_EQ(KA_ARENA_PAGES, pages_with(run, 2));
	EXPECT_EQ(1, stats_of(heap).arenas);
}

TEST_F(trim, empty_arena_is_volatile_and_may_be_reclaimed)
{
	if (on_device())
		volatile_on_device(_metadata, self->heap);
	else
		volatile_embedded(_metadata, self->heap);
}

/* Return true if the arena of an address is volatile. */
static bool is_volatile(const struct ka_heap *heap, const char *address)
{
	size_t index = (size_t)(address - ka_window_of(heap)->start) / KA_ARENA_SIZE;

	return ka_arena_at(ka_arenas_of(heap)->metadata, index)->is_volatile;
}

TEST_F(trim, arena_no_longer_used_by_a_run_is_volatile)
{
	char *run = ka_run_alloc(self->heap, 4 * MIB, 0);

	ASSERT_NE(NULL, run);
	EXPECT_TRUE(ka_runs_resize(ka_pools_of(self->heap), run, 2 * MIB));
	EXPECT_FALSE(is_volatile(self->heap, run));
	EXPECT_TRUE(is_volatile(self->heap, run + 2 * MIB));
}

/* Allocate an arena and free it. Return true if it is volatile then. */
static bool becomes_volatile(struct ka_heap *heap)
{
	char *run = ka_run_alloc(heap, 2 * MIB, 0);

	if (!run || ka_run_free(heap, run))
		abort();
	return is_volatile(heap, run);
}

TEST_F(trim, arena_used_again_and_again_is_volatile_only_if_that_is_free)
{
	/* No decay in between. */
	ka_arenas_of(self->heap)->decay_at = UINT64_MAX;
	for (int i = 0; i < 10; i++)
		EXPECT_EQ(on_device() || i < 1, becomes_volatile(self->heap));
	ka_arenas_of(self->heap)->decay_at = 0;
	EXPECT_TRUE(becomes_volatile(self->heap));
}

TEST_F_TIMEOUT(trim, child_keeps_its_data_and_continues, SLOW)
{
	pid_t child;

	thin_out(self->heap, self->blocks, 1000);
	child = fork();
	ASSERT_LE(0, child);
	if (!child) {
		ka_heap_trim(self->heap);
		for (size_t i = 0; i < NR_SMALL; i += 1000)
			CHECK(self->blocks[i][199] == (char)(i % 251));
		thin_out(self->heap, self->blocks, 100);
		_exit(0);
	}
	ka_heap_trim(self->heap);
	thin_out(self->heap, self->blocks, 100);
	EXPECT_EQ(0, child_status(child));
}

TEST(possibly_pinned_memory_is_not_purged)
{
	struct ka_options options = KA_OPTIONS;
	struct ka_heap *heap;
	void *run, *stays;

	options.window = 64 * MIB;
	options.io = true;
	options.fork = KA_FORK_NONE;
	heap = ka_heap_create(&options);
	ASSERT_NE(NULL, heap) TH_LOG("%s", ka_error());
	run = ka_run_alloc(heap, MIB, 0);
	stays = ka_run_alloc(heap, KA_PAGE_SIZE, 0);
	memset(run, 1, MIB);
	EXPECT_NE(NULL, stays);
	EXPECT_EQ(0, ka_run_free(heap, run));
	EXPECT_EQ(0, ka_heap_trim(heap));
	EXPECT_LE(MIB, resident_from(run, MIB));
	ka_heap_destroy(heap);
}

TEST_HARNESS_MAIN
