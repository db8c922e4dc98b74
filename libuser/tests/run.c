// SPDX-License-Identifier: MIT
/*
 * Runs: sizes, alignments, reuse, and a long random sequence compared with a model. Runs on
 * the source that KARENA_SOURCE names.
 */
#include "common.h"
#include "heap/heap.h"
#include "stamp.h"

FIXTURE(run) {
	struct ka_heap *heap;
};

FIXTURE_SETUP(run)
{
	struct ka_options options = KA_OPTIONS;

	options.window = 256 * MIB;
	options.name = "tests";
	self->heap = ka_heap_create(&options);
	ASSERT_NE(NULL, self->heap) TH_LOG("%s", ka_error());
}

FIXTURE_TEARDOWN(run)
{
	ka_heap_destroy(self->heap);
}

TEST_F(run, every_multiple_of_a_page_can_be_allocated)
{
	for (size_t pages = 1; pages < 1300; pages += pages < 20 ? 1 : 37) {
		char *run = ka_run_alloc(self->heap, pages * KA_PAGE_SIZE, 0);

		ASSERT_NE(NULL, run);
		EXPECT_EQ(0, (uintptr_t)run % KA_PAGE_SIZE);
		EXPECT_EQ(pages * KA_PAGE_SIZE, ka_run_size(self->heap, run));
		run[0] = 1;
		run[pages * KA_PAGE_SIZE - 1] = 1;
		ASSERT_EQ(0, ka_run_free(self->heap, run));
	}
	EXPECT_EQ(0, stats_of(self->heap).runs);
}

TEST_F(run, alignment_is_as_requested)
{
	char *spoiler = ka_run_alloc(self->heap, KA_PAGE_SIZE, 0);

	ASSERT_NE(NULL, spoiler);
	for (size_t align = KA_PAGE_SIZE; align <= 32 * MIB; align *= 2) {
		for (size_t size = KA_PAGE_SIZE; size <= 4 * MIB; size *= 4) {
			char *run = ka_run_alloc(self->heap, size, align);

			ASSERT_NE(NULL, run);
			EXPECT_EQ(0, (uintptr_t)run % align);
			run[size - 1] = 1;
			ASSERT_EQ(0, ka_run_free(self->heap, run));
		}
	}
	for (size_t align = 1; align < KA_PAGE_SIZE; align *= 2)
		EXPECT_EQ(0, ka_run_free(self->heap,
					 ka_run_alloc(self->heap, 8192, align)));
}

TEST_F(run, invalid_requests_are_rejected)
{
	static const size_t sizes[] = { 0, 1, 4095, 4097, SIZE_MAX };
	char *run = ka_run_alloc(self->heap, 8 * KA_PAGE_SIZE, 0);
	int local;

	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		errno = 0;
		EXPECT_EQ(NULL, ka_run_alloc(self->heap, sizes[i], 0));
		EXPECT_EQ(EINVAL, errno);
	}
	errno = 0;
	EXPECT_EQ(NULL, ka_run_alloc(self->heap, KA_PAGE_SIZE, 3 * KA_PAGE_SIZE));
	EXPECT_EQ(EINVAL, errno);
	errno = 0;
	EXPECT_EQ(NULL, ka_run_alloc(self->heap, SIZE_MAX & ~4095UL, 0));
	EXPECT_EQ(ENOMEM, errno);
	errno = 0;
	EXPECT_EQ(NULL, ka_run_alloc(self->heap, KA_PAGE_SIZE, (size_t)1 << 63));
	EXPECT_EQ(ENOMEM, errno);

	EXPECT_EQ(0, ka_run_free(self->heap, NULL));
	EXPECT_EQ(-1, ka_run_free(self->heap, &local));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, ka_run_free(self->heap, run + 1));
	EXPECT_EQ(-1, ka_run_free(self->heap, run + KA_PAGE_SIZE));
	EXPECT_EQ(-1, ka_run_free(self->heap, run + 200 * MIB));
	EXPECT_EQ(0, ka_run_size(self->heap, run + KA_PAGE_SIZE));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(0, ka_run_free(self->heap, run));
	/* A second free fails. */
	EXPECT_EQ(-1, ka_run_free(self->heap, run));
	EXPECT_EQ(EINVAL, errno);
}

TEST_F(run, fresh_arenas_are_zero)
{
	char *run = ka_run_alloc(self->heap, 4 * MIB, 0);

	ASSERT_NE(NULL, run);
	for (size_t i = 0; i < 4 * MIB; i += 61)
		ASSERT_EQ(0, run[i]);
}

TEST_F(run, low_addresses_are_used_first)
{
	char *first = ka_run_alloc(self->heap, MIB, 0);
	char *second = ka_run_alloc(self->heap, MIB, 0);
	char *third = ka_run_alloc(self->heap, MIB, 0);

	EXPECT_EQ(first + MIB, second);
	EXPECT_EQ(second + MIB, third);
	EXPECT_EQ(0, ka_run_free(self->heap, first));
	EXPECT_EQ(first, ka_run_alloc(self->heap, MIB / 2, 0));
	EXPECT_EQ(first + MIB / 2, ka_run_alloc(self->heap, MIB / 2, 0));
}

TEST_F(run, arena_is_filled_to_the_last_page)
{
	struct ka_stats stats;

	for (int i = 0; i < 512; i++)
		ASSERT_NE(NULL, ka_run_alloc(self->heap, KA_PAGE_SIZE, 0));
	stats = stats_of(self->heap);
	EXPECT_EQ(1, stats.arenas);
	EXPECT_EQ(0, stats.available_bytes);
	ASSERT_NE(NULL, ka_run_alloc(self->heap, KA_PAGE_SIZE, 0));
	EXPECT_EQ(2, stats_of(self->heap).arenas);
}

TEST_F(run, only_one_empty_arena_is_kept)
{
	void *runs[8];

	for (int i = 0; i < 8; i++)
		runs[i] = ka_run_alloc(self->heap, 2 * MIB, 0);
	EXPECT_EQ(8, stats_of(self->heap).arenas);
	for (int i = 0; i < 8; i++)
		EXPECT_EQ(0, ka_run_free(self->heap, runs[i]));
	EXPECT_EQ(1, stats_of(self->heap).arenas);
	/* Allocating and freeing a run of this size commits nothing. */
	for (int i = 0; i < 100; i++)
		ka_run_free(self->heap, ka_run_alloc(self->heap, 2 * MIB, 0));
	EXPECT_EQ(8, stats_of(self->heap).arenas_allocated);
}

/* The advice about huge pages at an address: 'h' for yes, 'n' for no. */
static char advice(const void *address)
{
	FILE *file = fopen("/proc/self/smaps", "r");
	char line[512], told = 0;
	bool here = false;
	uintptr_t from, end;

	if (!file)
		abort();
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx ", &from, &end) == 2)
			here = (uintptr_t)address >= from && (uintptr_t)address < end;
		else if (here && !strncmp(line, "VmFlags:", 8))
			told = strstr(line, " hg") ? 'h' : strstr(line, " nh") ? 'n' : 0;
	}
	fclose(file);
	return told;
}

/* A large run may use few of its pages, but pools of small blocks use all of theirs. */
TEST(only_arenas_with_pools_get_huge_pages)
{
	static const enum ka_fork policies[] = { KA_FORK_COW, KA_FORK_NONE, KA_FORK_SHARE };
	const size_t whole = 20 * MIB, other = 2 * MIB - KA_PAGE_SIZE;

	if (on_device())
		SKIP(return, "arenas of the module are always huge");
	if (access("/sys/kernel/mm/transparent_hugepage", F_OK))
		SKIP(return, "the kernel has no transparent huge pages");
	for (int i = 0; i < 3; i++) {
		struct ka_heap *heap = make(64 * MIB, 0, policies[i]);
		char *small, *large, *run = NULL;
		/* A reserved window has huge pages only where all pages are used. */
		char open = 0;

		ASSERT_NE(NULL, heap);
		if (!ka_window_of(heap)->claimed)
			open = 'n';
		small = ka_run_alloc(heap, KA_PAGE_SIZE, 0);
		EXPECT_EQ('n', advice(small));
		large = ka_run_alloc(heap, whole, 0);
		EXPECT_EQ(open, advice(large));
		for (int j = 0; j < 100000; j++)
			small = ka_heap_malloc(heap, 100);
		EXPECT_EQ('h', advice(small));
		EXPECT_EQ(0, ka_run_free(heap, large));
		/*
		 * The first run fills the arena of the small one, the second the arena that
		 * is kept.
		 */
		for (int j = 0; j < 3; j++)
			run = ka_run_alloc(heap, other, 0);
		EXPECT_TRUE(run > large && run < large + whole);
		EXPECT_EQ('n', advice(run));
		ka_heap_destroy(heap);
	}
}

/* Allocate small blocks until one lies behind an address. */
static char *small_block_behind(struct ka_heap *heap, const char *address)
{
	char *block;

	do
		block = ka_heap_malloc(heap, 100);
	while (block && block < address);
	return block;
}

TEST(arena_of_a_freed_run_gets_huge_pages_for_pools)
{
	struct ka_heap *heap = make(64 * MIB, 0, KA_FORK_COW);
	char *large, *block;

	ASSERT_NE(NULL, heap);
	if (on_device())
		SKIP(return, "arenas of the module are always huge");
	if (access("/sys/kernel/mm/transparent_hugepage", F_OK))
		SKIP(return, "the kernel has no transparent huge pages");
	large = ka_run_alloc(heap, 20 * MIB, 0);
	ASSERT_NE(NULL, ka_run_alloc(heap, 20 * MIB, 0));
	EXPECT_EQ(0, ka_run_free(heap, large));
	/* The heap keeps the first of its arenas. */
	EXPECT_NE('h', advice(large));
	block = small_block_behind(heap, large);
	EXPECT_LT(block, large + KA_ARENA_SIZE);
	EXPECT_EQ('h', advice(block));
	ka_heap_destroy(heap);
}

/* Mappings of the process that begin inside an arena of a heap, except inside the first one. */
static int mappings_inside_arenas(const struct ka_heap *heap, const char *first)
{
	FILE *file = fopen("/proc/self/maps", "r");
	char line[512];
	int count = 0;

	if (!file)
		abort();
	while (fgets(line, sizeof(line), file)) {
		char *start = (char *)strtoul(line, NULL, 16);

		count += ka_heap_contains(heap, start) && start >= first + KA_ARENA_SIZE &&
			 (uintptr_t)start % KA_ARENA_SIZE;
	}
	fclose(file);
	return count;
}

/* Resize a block, and check and extend its content: a number in each page. */
static char *grow(struct ka_heap *heap, char *block, size_t old, size_t size)
{
	block = ka_heap_realloc(heap, block, size);
	for (size_t i = 0; block && i < size; i += KA_PAGE_SIZE) {
		if (i < old && block[i] != (char)(i / KA_PAGE_SIZE % 127))
			return NULL;
		block[i] = (char)(i / KA_PAGE_SIZE % 127);
	}
	return block;
}

/* An arena in several mappings could have no huge page. */
TEST(growing_blocks_leave_whole_arenas)
{
	struct ka_heap *heap = make(256 * MIB, 0, KA_FORK_COW);
	char *blocks[2] = { NULL, NULL }, *first, *moved;
	int moves = 0;

	ASSERT_NE(NULL, heap);
	first = ka_run_alloc(heap, KA_PAGE_SIZE, 0);
	/* Each block is in the way of the other. */
	for (size_t size = 300000, old = 0; size < 40 * MIB; old = size, size += size / 8) {
		for (int i = 0; i < 2; i++) {
			moved = grow(heap, blocks[i], old, size);
			ASSERT_NE(NULL, moved);
			moves += blocks[i] && moved != blocks[i];
			blocks[i] = moved;
		}
	}
	EXPECT_LT(10, moves);
	EXPECT_EQ(0, mappings_inside_arenas(heap, first));
	ka_heap_destroy(heap);
}

TEST_F(run, rest_of_a_long_runs_last_arena_is_used)
{
	char *longer = ka_run_alloc(self->heap, 5 * MIB, 0);
	char *rest = ka_run_alloc(self->heap, MIB, 0);

	EXPECT_EQ(longer + 5 * MIB, rest);
	EXPECT_EQ(5 * MIB, ka_run_size(self->heap, longer));
	EXPECT_EQ(0, ka_run_free(self->heap, longer));
	EXPECT_EQ(MIB, ka_run_size(self->heap, rest));
	rest[0] = 1;
	rest[MIB - 1] = 1;
	/* The heap keeps one empty arena in addition to that of the rest. */
	EXPECT_EQ(2, stats_of(self->heap).arenas);
	EXPECT_EQ(0, ka_run_free(self->heap, rest));
}

#define SLOTS	400

static size_t random_size(unsigned int *seed)
{
	switch (rand_r(seed) % 8) {
	case 0:
		return KA_PAGE_SIZE * (1 + (size_t)rand_r(seed) % 1600);
	case 1:
		return MIB;
	case 2:
	case 3:
		return 16384;
	default:
		return KA_PAGE_SIZE * (1 + (size_t)rand_r(seed) % 40);
	}
}

/* The random work of one thread. Return the number of errors. */
static long work(struct ka_heap *heap, unsigned int seed, int rounds)
{
	struct { char *run; size_t size; } slots[SLOTS] = {};
	long wrong = 0;

	for (int i = 0; i < rounds; i++) {
		unsigned int slot = (unsigned int)rand_r(&seed) % SLOTS;
		size_t size = random_size(&seed);
		size_t align = KA_PAGE_SIZE << rand_r(&seed) % 4;

		if (slots[slot].run) {
			wrong += wrong_stamps(slots[slot].run, slots[slot].size,
					      slot) != 0;
			wrong += ka_run_size(heap, slots[slot].run) !=
				 slots[slot].size;
			wrong += ka_run_free(heap, slots[slot].run) != 0;
			slots[slot].run = NULL;
			continue;
		}
		slots[slot].run = ka_run_alloc(heap, size, align);
		slots[slot].size = size;
		if (!slots[slot].run) {
			wrong += errno != ENOMEM;
			continue;
		}
		wrong += (uintptr_t)slots[slot].run % align != 0;
		stamp(slots[slot].run, size, slot);
	}
	for (unsigned int slot = 0; slot < SLOTS; slot++) {
		if (!slots[slot].run)
			continue;
		wrong += wrong_stamps(slots[slot].run, slots[slot].size, slot) != 0;
		wrong += ka_run_free(heap, slots[slot].run) != 0;
	}
	return wrong;
}

/* Steps of a random sequence: fewer where each step is slow. */
static int steps(int most)
{
	return kernel_is_slow() ? most / 10 : is_instrumented() ? most / 4 : most;
}

TEST_F_TIMEOUT(run, random_sequence_agrees_with_the_model, SLOW)
{
	struct ka_stats stats;

	for (unsigned int seed = 1; seed <= 4; seed++) {
		EXPECT_EQ(0, work(self->heap, seed, steps(5000)));
		stats = stats_of(self->heap);
		EXPECT_EQ(0, stats.runs);
		EXPECT_EQ(0, stats.run_bytes);
		EXPECT_LE(stats.arenas, 1);
	}
}

struct worker {
	pthread_t thread;
	struct ka_heap *heap;
	unsigned int seed;
	long wrong;
};

static void *worker_main(void *data)
{
	struct worker *worker = data;

	worker->wrong = work(worker->heap, worker->seed, steps(2000));
	return NULL;
}

TEST_F_TIMEOUT(run, threads_can_share_a_heap, SLOW)
{
	struct worker workers[4];

	for (unsigned int i = 0; i < 4; i++) {
		workers[i].heap = self->heap;
		workers[i].seed = 100 + i;
		ASSERT_EQ(0, pthread_create(&workers[i].thread, NULL, worker_main,
					    &workers[i]));
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(workers[i].thread, NULL);
		EXPECT_EQ(0, workers[i].wrong);
	}
	EXPECT_EQ(0, stats_of(self->heap).runs);
	EXPECT_LE(stats_of(self->heap).arenas, 1);
}

TEST_HARNESS_MAIN
