// SPDX-License-Identifier: MIT
/*
 * Calls on a heap in addition to malloc and free: sized and batched calls, expansion in
 * place, changes of the limit, resets, the heap of an address, a heap as allocator, and
 * options that ignore the environment.
 */
#include <limits.h>

#include <karena/domain.h>
#include <karena/trace.h>

#include "common.h"
#include "heap/heap.h"

FIXTURE(calls)
{
	struct ka_heap *heap;
};

FIXTURE_SETUP(calls)
{
	self->heap = make(64 * MIB, 16 * MIB, KA_FORK_COW);
	ASSERT_NE(NULL, self->heap);
}

FIXTURE_TEARDOWN(calls)
{
	ka_heap_destroy(self->heap);
}

TEST(version_of_the_header_is_consistent)
{
	char text[32];

	snprintf(text, sizeof(text), "%d.%d.%d", KARENA_VERSION_MAJOR, KARENA_VERSION_MINOR,
		 KARENA_VERSION_PATCH);
	EXPECT_STREQ(KARENA_VERSION, text);
	EXPECT_STREQ(ka_version(), text);
	EXPECT_EQ(KARENA_VERSION_MAJOR * 10000 + KARENA_VERSION_MINOR * 100 +
		  KARENA_VERSION_PATCH, KARENA_VERSION_NUMBER);
}

TEST_F(calls, good_size_is_the_usable_size_of_malloc)
{
	static const size_t large[] = {
		256 * 1024 - 1, 256 * 1024, 256 * 1024 + 1, 300000, MIB - 1, MIB + 1, 3 * MIB,
	};

	for (size_t size = 0; size <= 5000; size++) {
		void *block = ka_heap_malloc(self->heap, size);

		ASSERT_EQ(ka_heap_usable_size(self->heap, block), ka_good_size(size));
		ka_heap_free(self->heap, block);
	}
	for (size_t i = 0; i < sizeof(large) / sizeof(*large); i++) {
		void *block = ka_heap_malloc(self->heap, large[i]);

		ASSERT_EQ(ka_heap_usable_size(self->heap, block), ka_good_size(large[i]));
		ASSERT_EQ(ka_good_size(large[i]), ka_good_size(ka_good_size(large[i])));
		ka_heap_free(self->heap, block);
	}
	EXPECT_EQ(SIZE_MAX, ka_good_size(SIZE_MAX));
	EXPECT_EQ(SIZE_MAX - 4094, ka_good_size(SIZE_MAX - 4094));
}

TEST_F(calls, block_expands_in_place_or_not_at_all)
{
	char *small = ka_heap_malloc(self->heap, 100);
	char *large = ka_heap_malloc(self->heap, 300000);
	size_t usable = ka_heap_usable_size(self->heap, large);

	EXPECT_EQ(112, ka_heap_expand(self->heap, small, 0));
	EXPECT_EQ(112, ka_heap_expand(self->heap, small, 112));
	EXPECT_EQ(0, ka_heap_expand(self->heap, small, 113));
	EXPECT_EQ(ENOMEM, errno);
	EXPECT_NE(NULL, strstr(ka_error(), "a block of 112 bytes to 113 bytes in place"));

	memset(large, 'x', usable);
	EXPECT_EQ(usable, ka_heap_expand(self->heap, large, usable));
	EXPECT_LE(usable + 1, ka_heap_expand(self->heap, large, usable + 1));
	EXPECT_LE(usable + 1, ka_heap_usable_size(self->heap, large));
	memset(large + usable, 'y', 1);
	for (size_t i = 0; i < usable; i++)
		ASSERT_EQ('x', large[i]);
	/* Above the limit of the heap, and above all addresses. */
	usable = ka_heap_usable_size(self->heap, large);
	EXPECT_EQ(0, ka_heap_expand(self->heap, large, 17 * MIB));
	EXPECT_EQ(ENOMEM, errno);
	EXPECT_EQ(0, ka_heap_expand(self->heap, large, SIZE_MAX));
	EXPECT_EQ(ENOMEM, errno);
	EXPECT_EQ(usable, ka_heap_usable_size(self->heap, large));
	EXPECT_EQ(0, ka_heap_expand(self->heap, large + 1, 10));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(0, ka_heap_expand(self->heap, small + 16, 10));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(0, ka_heap_free(self->heap, large));
	EXPECT_EQ(0, ka_heap_free(self->heap, small));
}

TEST_F(calls, neighbour_prevents_expansion)
{
	char *first = ka_run_alloc(self->heap, MIB, 0);
	char *second = ka_run_alloc(self->heap, MIB, 0);

	ASSERT_EQ(first + MIB, second);
	memset(second, 's', MIB);
	EXPECT_EQ(0, ka_heap_expand(self->heap, first, MIB + 1));
	EXPECT_EQ(ENOMEM, errno);
	EXPECT_EQ(MIB, ka_run_size(self->heap, first));
	EXPECT_EQ('s', second[0]);
	EXPECT_EQ(0, ka_run_free(self->heap, second));
	EXPECT_LE(MIB + 1, ka_heap_expand(self->heap, first, MIB + 1));
}

TEST_F(calls, expanded_block_is_traced_with_its_new_size)
{
	size_t before, after;
	char *block;

	ASSERT_EQ(0, ka_trace_start(1, 8));
	block = ka_heap_malloc(self->heap, 300000);
	ka_trace_memory(&before, NULL);
	ASSERT_LE(400000, ka_heap_expand(self->heap, block, 400000));
	ka_trace_memory(&after, NULL);
	EXPECT_EQ(100000, after - before);
	EXPECT_EQ(0, ka_heap_free(self->heap, block));
	ka_trace_stop();
}

TEST_F(calls, sized_free_checks_the_size)
{
	char *block = ka_heap_malloc(self->heap, 100);
	char *run = ka_heap_malloc(self->heap, MIB);

	errno = 0;
	EXPECT_EQ(-1, ka_heap_free_sized(self->heap, block, 113));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_NE(NULL, strstr(ka_error(), "invalid size 113: the block "));
	EXPECT_EQ(-1, ka_heap_free_sized(self->heap, run, MIB + 1));
	EXPECT_EQ(-1, ka_heap_free_sized(self->heap, run + 1, 10));
	EXPECT_EQ(-1, ka_heap_free_sized(self->heap, block + 16, 10));
	EXPECT_EQ(112, ka_heap_usable_size(self->heap, block));

	errno = 7;
	EXPECT_EQ(0, ka_heap_free_sized(self->heap, block, 100));
	EXPECT_EQ(0, ka_heap_free_sized(self->heap, run, MIB));
	EXPECT_EQ(0, ka_heap_free_sized(self->heap, NULL, 100));
	EXPECT_EQ(7, errno);
	EXPECT_EQ(0, stats_of(self->heap).used_bytes);
}

#define BATCH	1000

TEST_F(calls, batch_allocates_as_many_blocks)
{
	static char *blocks[BATCH];

	ASSERT_EQ(BATCH, ka_heap_malloc_batch(self->heap, 48, (void **)blocks, BATCH));
	for (int i = 0; i < BATCH; i++)
		memset(blocks[i], i, 48);
	for (int i = 0; i < BATCH; i++)
		ASSERT_EQ((char)i, blocks[i][47]);
	EXPECT_EQ(BATCH, stats_of(self->heap).blocks);
	blocks[10] = (ka_heap_free(self->heap, blocks[10]), NULL);
	EXPECT_EQ(BATCH, ka_heap_free_batch(self->heap, (void *const *)blocks, BATCH));
	EXPECT_EQ(0, stats_of(self->heap).blocks);
	EXPECT_EQ(0, ka_heap_malloc_batch(self->heap, 48, (void **)blocks, 0));
	EXPECT_EQ(0, ka_heap_free_batch(self->heap, (void *const *)blocks, 0));
}

TEST_F(calls, batch_stops_at_the_limit)
{
	static char *blocks[BATCH];
	size_t nr;

	/* Fewer blocks than fit into the limit of 16 MiB. */
	nr = ka_heap_malloc_batch(self->heap, 100000, (void **)blocks, BATCH);
	EXPECT_LT(100, nr);
	EXPECT_GT(168, nr);
	EXPECT_EQ(ENOMEM, errno);
	EXPECT_EQ(nr, ka_heap_free_batch(self->heap, (void *const *)blocks, nr));

	nr = ka_heap_malloc_batch(self->heap, 100, (void **)blocks, 10);
	ASSERT_EQ(10, nr);
	blocks[5]++;
	EXPECT_EQ(5, ka_heap_free_batch(self->heap, (void *const *)blocks, 5));
	blocks[5]--;
	EXPECT_EQ(5, ka_heap_free_batch(self->heap, (void *const *)blocks + 5, 5));
	blocks[0] = (char *)&nr;
	EXPECT_EQ(0, ka_heap_free_batch(self->heap, (void *const *)blocks, 1));
	EXPECT_EQ(EINVAL, errno);
}

TEST_F(calls, limit_can_be_changed)
{
	void *runs[9];

	for (int i = 0; i < 8; i++)
		ASSERT_NE(NULL, runs[i] = ka_run_alloc(self->heap, KA_ARENA_SIZE, 0));
	EXPECT_EQ(NULL, ka_run_alloc(self->heap, KA_ARENA_SIZE, 0));
	EXPECT_EQ(ENOMEM, errno);

	ASSERT_EQ(0, ka_heap_set_limit(self->heap, 9 * KA_ARENA_SIZE + 1));
	EXPECT_EQ(9 * KA_ARENA_SIZE, stats_of(self->heap).limit);
	ASSERT_NE(NULL, runs[8] = ka_run_alloc(self->heap, KA_ARENA_SIZE, 0));
	memset(runs[8], 'x', KA_ARENA_SIZE);
	EXPECT_EQ(NULL, ka_run_alloc(self->heap, KA_ARENA_SIZE, 0));

	/*
	 * A limit below the committed memory: nothing is lost, and nothing more is
	 * committed.
	 */
	ASSERT_EQ(0, ka_heap_set_limit(self->heap, KA_ARENA_SIZE));
	EXPECT_EQ(9, stats_of(self->heap).arenas);
	EXPECT_EQ('x', *(char *)runs[8]);
	EXPECT_EQ(NULL, ka_run_alloc(self->heap, KA_ARENA_SIZE, 0));
	for (int i = 0; i < 9; i++)
		ASSERT_EQ(0, ka_run_free(self->heap, runs[i]));
	ASSERT_NE(NULL, runs[0] = ka_run_alloc(self->heap, KA_ARENA_SIZE, 0));
	EXPECT_EQ(NULL, ka_run_alloc(self->heap, KA_ARENA_SIZE, 0));

	/* 0: the whole window. */
	ASSERT_EQ(0, ka_heap_set_limit(self->heap, 0));
	EXPECT_EQ(64 * MIB, stats_of(self->heap).limit);
}

TEST_F(calls, invalid_limit_changes_nothing)
{
	static const size_t bad[] = { 1, KA_ARENA_SIZE - 1, 64 * MIB + KA_ARENA_SIZE, SIZE_MAX };

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		EXPECT_EQ(-1, ka_heap_set_limit(self->heap, bad[i]));
		EXPECT_EQ(EINVAL, errno);
	}
	EXPECT_EQ(16 * MIB, stats_of(self->heap).limit);
}

TEST_F(calls, reset_heap_is_like_a_new_one)
{
	enum { KINDS = 40 };
	void *blocks[KINDS], *run;
	struct ka_stats stats;
	size_t total;

	for (int round = 0; round < 50; round++) {
		for (int i = 0; i < KINDS; i++) {
			blocks[i] = ka_heap_malloc(self->heap, 16 + (size_t)i * i * 100);
			ASSERT_NE(NULL, blocks[i]);
			memset(blocks[i], round, 16);
		}
		/* Some blocks are free, so pools are spare, listed or on the shelf. */
		for (int i = round % 3; i < KINDS; i += 3)
			ka_heap_free(self->heap, blocks[i]);
		ASSERT_NE(NULL, run = ka_run_alloc(self->heap, 3 * MIB, 0));
		memset(run, round, 3 * MIB);
		total = stats_of(self->heap).arenas_allocated;
		ASSERT_EQ(0, ka_heap_reset(self->heap));
		stats = stats_of(self->heap);
		ASSERT_EQ(0, stats.runs);
		ASSERT_EQ(0, stats.pools);
		ASSERT_EQ(0, stats.blocks);
		ASSERT_EQ(0, stats.used_bytes + stats.free_bytes + stats.quantization_bytes);
		ASSERT_EQ(total, stats.arenas_allocated);
		ASSERT_GE(1, stats.arenas);
		ASSERT_EQ(-1, ka_heap_free(self->heap, blocks[1]));
		ASSERT_EQ(-1, ka_run_free(self->heap, run));
	}
}

/* Other mappings in the window, which the heap leaves alone. */
TEST(reset_keeps_foreign_mappings)
{
	struct ka_heap *heap = make(32 * MIB, 0, KA_FORK_COW);
	char *start, *foreign[2], *runs[6];
	struct ka_stats stats;

	ASSERT_NE(NULL, heap);
	if (!ka_window_of(heap)->claimed || on_device())
		SKIP(return, "the window is mapped as a whole, or from its start on");
	start = ka_pools_of(heap)->start;
	for (int i = 0; i < 2; i++) {
		foreign[i] = mmap(start + (2 * i + 1) * KA_ARENA_SIZE, KA_PAGE_SIZE,
				  PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS |
				  MAP_FIXED_NOREPLACE, -1, 0);
		ASSERT_EQ(start + (2 * i + 1) * KA_ARENA_SIZE, foreign[i]);
		foreign[i][0] = 'f';
	}
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 6; i++) {
			ASSERT_NE(NULL, runs[i] = ka_run_alloc(heap, KA_ARENA_SIZE, 0));
			memset(runs[i], 'r', KA_ARENA_SIZE);
		}
		ASSERT_EQ(0, ka_heap_reset(heap));
		stats = stats_of(heap);
		EXPECT_EQ(0, stats.runs);
		EXPECT_EQ(0, stats.run_bytes);
		EXPECT_GE(1, stats.arenas);
		for (int i = 0; i < 2; i++)
			EXPECT_EQ('f', foreign[i][0]);
	}
	ka_heap_destroy(heap);
}

struct printing {
	struct ka_heap *heap;
	int ends[2];	/* of a pipe */
};

/* Holds the lock of printing until there is room in the pipe. */
static void *print_into_the_pipe(void *data)
{
	struct printing *printing = data;

	return ka_heap_print_stats(printing->heap, printing->ends[1]) ? data : NULL;
}

static void *make_room_later(void *data)
{
	struct printing *printing = data;
	char bytes[4096];

	usleep(500000);
	while (read(printing->ends[0], bytes, sizeof(bytes)) > 0)
		;
	return NULL;
}

static void fill(int fd)
{
	static const char page[KA_PAGE_SIZE];

	fcntl(fd, F_SETFL, O_NONBLOCK);
	while (write(fd, page, sizeof(page)) > 0)
		;
	fcntl(fd, F_SETFL, 0);
}

/* No heap before this one has told the library of its lock. */
TEST(fork_waits_for_a_thread_that_prints_statistics)
{
	struct ka_options options = KA_OPTIONS;
	struct printing printing;
	pthread_t threads[2];
	void *failed;
	pid_t child;

	NOT_WITH_THREAD_SANITIZER();
	options.ignore_environment = true;
	options.source = on_device() ? KA_SOURCE_DEVICE : KA_SOURCE_EMBEDDED;
	ASSERT_NE(NULL, printing.heap = ka_heap_create(&options));
	ASSERT_EQ(0, pipe(printing.ends));
	fill(printing.ends[1]);
	pthread_create(&threads[0], NULL, print_into_the_pipe, &printing);
	usleep(250000);
	pthread_create(&threads[1], NULL, make_room_later, &printing);
	child = fork();
	if (!child) {
		alarm(60);
		CHECK(!ka_heap_print_stats(printing.heap, open("/dev/null", O_WRONLY)));
		_exit(0);
	}
	EXPECT_EQ(0, child_status(child));
	ASSERT_EQ(0, pthread_join(threads[0], &failed));
	EXPECT_EQ(NULL, failed);
	close(printing.ends[1]);
	ASSERT_EQ(0, pthread_join(threads[1], NULL));
	ka_heap_destroy(printing.heap);
}

static void *allocate_and_wait(void *data)
{
	void **shared = data;
	struct ka_heap *heap = shared[0];

	shared[1] = ka_heap_malloc(heap, 100);
	pthread_barrier_wait(shared[2]);
	/* The main thread resets the heap here. */
	pthread_barrier_wait(shared[2]);
	shared[1] = ka_heap_malloc(heap, 100);
	if (shared[1])
		memset(shared[1], 'w', 100);
	pthread_barrier_wait(shared[2]);
	return NULL;
}

TEST_F(calls, threads_continue_after_a_reset)
{
	pthread_barrier_t barrier;
	void *shared[3] = { self->heap, NULL, &barrier };
	pthread_t thread;
	char *own;

	pthread_barrier_init(&barrier, NULL, 2);
	ASSERT_EQ(0, pthread_create(&thread, NULL, allocate_and_wait, shared));
	pthread_barrier_wait(&barrier);
	ASSERT_NE(NULL, shared[1]);
	ASSERT_EQ(0, ka_heap_reset(self->heap));
	EXPECT_EQ(0, stats_of(self->heap).blocks);
	pthread_barrier_wait(&barrier);
	pthread_barrier_wait(&barrier);
	ASSERT_NE(NULL, shared[1]);
	own = ka_heap_malloc(self->heap, 100);
	EXPECT_NE(shared[1], own);
	EXPECT_EQ(2, stats_of(self->heap).blocks);
	EXPECT_EQ(0, ka_heap_free(self->heap, shared[1]));
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(0, ka_heap_free(self->heap, own));
	EXPECT_EQ(0, stats_of(self->heap).blocks);
}

TEST_F(calls, reset_drops_traces)
{
	size_t now;

	ASSERT_EQ(0, ka_trace_start(1, 8));
	ASSERT_NE(NULL, ka_heap_malloc(self->heap, 100));
	ASSERT_NE(NULL, ka_heap_malloc(self->heap, 300000));
	ka_trace_memory(&now, NULL);
	EXPECT_EQ(300100, now);
	ASSERT_EQ(0, ka_heap_reset(self->heap));
	ka_trace_memory(&now, NULL);
	EXPECT_EQ(0, now);
	ASSERT_NE(NULL, ka_heap_malloc(self->heap, 50));
	ka_trace_memory(&now, NULL);
	EXPECT_EQ(50, now);
	ka_trace_stop();
}

TEST(heap_of_the_domains_cannot_be_reset)
{
	void *block = ka_obj_malloc(10);

	ASSERT_NE(NULL, block);
	EXPECT_EQ(ka_domain_heap(), ka_heap_of(block));
	EXPECT_EQ(-1, ka_heap_reset(ka_domain_heap()));
	EXPECT_EQ(EINVAL, errno);
	ka_obj_free(block);
	block = ka_io_alloc(10);
	ASSERT_NE(NULL, block);
	EXPECT_EQ(-1, ka_heap_reset(ka_heap_of(block)));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(0, ka_io_free(block));
}

TEST_F(calls, heap_of_an_address_is_found)
{
	struct ka_heap *other = make(16 * MIB, 0, KA_FORK_NONE);
	char *block = ka_heap_malloc(self->heap, 10);
	char *run = ka_run_alloc(other, MIB, 0);

	EXPECT_EQ(self->heap, ka_heap_of(block));
	EXPECT_EQ(self->heap, ka_heap_of(block + MIB));
	EXPECT_EQ(other, ka_heap_of(run + MIB - 1));
	EXPECT_EQ(NULL, ka_heap_of(&block));
	EXPECT_EQ(NULL, ka_heap_of(NULL));
	ka_heap_destroy(other);
	EXPECT_EQ(NULL, ka_heap_of(run));
	EXPECT_EQ(self->heap, ka_heap_of(block));
}

TEST_F(calls, child_gets_an_error_or_its_copy)
{
	struct ka_heap *none = make(16 * MIB, 0, KA_FORK_NONE);
	char *block = ka_heap_malloc(none, 300000);
	void *blocks[1] = { block };
	pid_t child = fork();

	if (!child) {
		CHECK(!ka_heap_expand(none, block, 400000) && errno == EOWNERDEAD);
		CHECK(ka_heap_free_sized(none, block, 100) && errno == EOWNERDEAD);
		CHECK(!ka_heap_free_batch(none, blocks, 1) && errno == EOWNERDEAD);
		CHECK(!ka_heap_malloc_batch(none, 10, blocks, 1) && errno == EOWNERDEAD);
		CHECK(ka_heap_reset(none) && errno == EOWNERDEAD);
		CHECK(ka_heap_set_limit(none, 4 * MIB) && errno == EOWNERDEAD);
		CHECK(ka_heap_of(block) == none);
		CHECK(!ka_heap_reset(self->heap) && ka_heap_malloc(self->heap, 10));
		CHECK(!ka_heap_set_limit(self->heap, 4 * MIB));
		_exit(0);
	}
	EXPECT_EQ(0, child_status(child));
	EXPECT_EQ(16 * MIB, stats_of(self->heap).limit);
	EXPECT_EQ(0, ka_heap_free(none, block));
	ka_heap_destroy(none);
}

TEST_F(calls, heap_works_as_an_allocator)
{
	struct ka_allocator before, heap;
	char *block, *item;

	ka_heap_allocator(self->heap, &heap);
	block = heap.malloc(heap.context, 0);
	ASSERT_NE(NULL, block);
	EXPECT_EQ(self->heap, ka_heap_of(block));
	block = heap.realloc(heap.context, block, 1000);
	ASSERT_NE(NULL, block);
	heap.free(heap.context, block);
	heap.free(heap.context, NULL);
	block = heap.calloc(heap.context, 10, 10);
	ASSERT_NE(NULL, block);
	for (int i = 0; i < 100; i++)
		ASSERT_EQ(0, block[i]);
	heap.free(heap.context, block);

	ASSERT_EQ(0, ka_allocator_get(KA_DOMAIN_MEM, &before));
	ASSERT_EQ(0, ka_allocator_set(KA_DOMAIN_MEM, &heap));
	item = ka_mem_malloc(10);
	EXPECT_EQ(self->heap, ka_heap_of(item));
	ka_mem_free(item);
	ASSERT_EQ(0, ka_allocator_set(KA_DOMAIN_MEM, &before));
	EXPECT_EQ(0, stats_of(self->heap).used_bytes);
}

TEST(heap_may_ignore_the_environment)
{
	struct ka_options options = KA_OPTIONS;
	struct ka_heap *heap;

	setenv("KARENA_LIMIT", "2M", 1);
	setenv("KARENA_WINDOW", "4M", 1);
	setenv("KARENA_NAME", "theirs", 1);
	setenv("KARENA_STATS", "wrong", 1);
	options.source = KA_SOURCE_EMBEDDED;
	EXPECT_EQ(NULL, ka_heap_create(&options));
	setenv("KARENA_STATS", "1", 1);
	ASSERT_NE(NULL, heap = ka_heap_create(&options));
	EXPECT_EQ(4 * MIB, stats_of(heap).window);
	EXPECT_EQ(2 * MIB, stats_of(heap).limit);
	ka_heap_destroy(heap);

	setenv("KARENA_LIMIT", "none", 1);
	setenv("KARENA_STATS", "wrong", 1);
	setenv("KARENA_SOURCE", "wrong", 1);
	options.ignore_environment = true;
	options.window = 32 * MIB;
	ASSERT_NE(NULL, heap = ka_heap_create(&options));
	EXPECT_EQ(32 * MIB, stats_of(heap).window);
	EXPECT_EQ(32 * MIB, stats_of(heap).limit);
	ka_heap_destroy(heap);
	/* Errors in the options are still errors. */
	options.limit = 1;
	EXPECT_EQ(NULL, ka_heap_create(&options));
	EXPECT_EQ(EINVAL, errno);
}

TEST_F(calls, entries_of_other_versions_are_accepted)
{
	struct { struct ka_class known; size_t more; } larger[4];
	struct ka_class class[4];

	EXPECT_EQ(-1, ka_heap_classes(self->heap, class, 4, sizeof(*class) - 1));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, ka_heap_classes(self->heap, class, 4, 0));
	ASSERT_NE(NULL, ka_heap_malloc(self->heap, 40));
	memset(larger, 7, sizeof(larger));
	EXPECT_LT(4, ka_heap_classes(self->heap, (struct ka_class *)larger, 4,
				     sizeof(*larger)));
	EXPECT_LT(4, ka_heap_classes(self->heap, class, 4, sizeof(*class)));
	for (int i = 0; i < 4; i++) {
		EXPECT_EQ(0, memcmp(&larger[i].known, &class[i], sizeof(*class)));
		EXPECT_EQ(0x0707070707070707, larger[i].more);
	}
	EXPECT_EQ(1, class[2].blocks);
}

TEST_HARNESS_MAIN
