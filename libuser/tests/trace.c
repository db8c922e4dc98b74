// SPDX-License-Identifier: MIT
/*
 * Tracing: exact when each block is traced, and unbiased when some are; by site and by
 * stack; with threads, forks, destroyed heaps, and stops. Runs on the source that
 * KARENA_SOURCE names.
 */
#include <math.h>
#include <stdint.h>

#include <karena/domain.h>
#include <karena/trace.h>

#include "trace/trace.h"

#include "common.h"

/* Used so that no function ends in a call, which would become a jump. */
static inline void *keep(void *block)
{
	asm volatile("" : "+r" (block));
	return block;
}

/* Two places that allocate blocks. */
static __attribute__((noinline)) void *here(struct ka_heap *heap, size_t size)
{
	void *block = ka_heap_malloc(heap, size);

	return keep(block);
}

static __attribute__((noinline)) void *there(struct ka_heap *heap, size_t size)
{
	void *block = ka_heap_malloc(heap, size);

	return keep(block);
}

/* A caller of the first one. */
static __attribute__((noinline)) void *over(struct ka_heap *heap, size_t size)
{
	void *block = here(heap, size);

	return keep(block);
}

/*
 * Return true if an address lies in a function: the one of the known functions that starts
 * last before it.
 */
static bool is_in(const void *address, void *(*function)(struct ka_heap *, size_t))
{
	void *(*const known[])(struct ka_heap *, size_t) = { here, there, over };
	uintptr_t at = (uintptr_t)address, best = 0;

	for (int i = 0; i < 3; i++) {
		if ((uintptr_t)known[i] <= at && (uintptr_t)known[i] > best)
			best = (uintptr_t)known[i];
	}
	return best == (uintptr_t)function && at - best < 1024;
}

static size_t now(void)
{
	size_t current;

	ka_trace_memory(&current, NULL);
	return current;
}

static size_t most(void)
{
	size_t peak;

	ka_trace_memory(NULL, &peak);
	return peak;
}

/* Sums of the current and total bytes and blocks of all entries. */
static struct ka_trace_entry sums(void)
{
	struct ka_traces *traces = ka_trace_snapshot(KA_TRACE_BY_STACK);
	struct ka_trace_entry sum = { 0 };
	const struct ka_trace_entry *entry;

	for (size_t i = 0; (entry = ka_trace_entry(traces, i)); i++) {
		sum.bytes += entry->bytes;
		sum.blocks += entry->blocks;
		sum.total_bytes += entry->total_bytes;
		sum.total_blocks += entry->total_blocks;
	}
	ka_trace_free(traces);
	return sum;
}

FIXTURE(trace) {
	struct ka_heap *heap;
};

FIXTURE_SETUP(trace)
{
	self->heap = make(64 * MIB, 0, KA_FORK_COW);
	ASSERT_NE(NULL, self->heap);
}

FIXTURE_TEARDOWN(trace)
{
	ka_trace_stop();
	ka_heap_destroy(self->heap);
}

TEST_F_TIMEOUT(trace, all_blocks_are_traced_exactly, SLOW)
{
	static const size_t sizes[] = { 0, 1, 16, 17, 1000, 1024, 1025, 5000, 262144 };
	size_t bytes = 0;
	void *blocks[9][20];

	/* Blocks that were allocated before do not count. */
	for (int i = 0; i < 9; i++)
		blocks[i][0] = here(self->heap, sizes[i]);
	ASSERT_EQ(0, ka_trace_start(1, 10));
	EXPECT_TRUE(ka_trace_active());
	for (int i = 0; i < 9; i++) {
		ka_heap_free(self->heap, blocks[i][0]);
		for (int j = 0; j < 20; j++) {
			blocks[i][j] = here(self->heap, sizes[i]);
			ASSERT_NE(NULL, blocks[i][j]);
			ASSERT_LE(sizes[i], ka_heap_usable_size(self->heap, blocks[i][j]));
			memset(blocks[i][j], i, sizes[i]);
			bytes += sizes[i] ? sizes[i] : 1;
		}
	}
	EXPECT_EQ(bytes, now());
	EXPECT_EQ(bytes, most());
	EXPECT_EQ(bytes, sums().bytes);
	EXPECT_EQ(180, sums().blocks);
	for (int i = 0; i < 9; i++) {
		for (int j = 0; j < 20; j++) {
			for (size_t k = 0; k < sizes[i]; k++)
				ASSERT_EQ(i, ((char *)blocks[i][j])[k]);
			if (j % 2) {
				ASSERT_EQ(0, ka_heap_free(self->heap, blocks[i][j]));
				bytes -= sizes[i] ? sizes[i] : 1;
			}
		}
	}
	EXPECT_EQ(bytes, now());
	EXPECT_EQ(2 * bytes, most());
	EXPECT_EQ(bytes, sums().bytes);
	EXPECT_EQ(90, sums().blocks);
	EXPECT_EQ(2 * bytes, sums().total_bytes);
	EXPECT_EQ(180, sums().total_blocks);
	ka_trace_reset_peak();
	EXPECT_EQ(bytes, most());
	for (int i = 0; i < 9; i++) {
		for (int j = 0; j < 20; j += 2)
			ASSERT_EQ(0, ka_heap_free(self->heap, blocks[i][j]));
	}
	EXPECT_EQ(0, now());
	EXPECT_EQ(0, sums().blocks);
	ka_trace_stop();
	EXPECT_EQ(0, stats_of(self->heap).blocks);
	EXPECT_EQ(0, stats_of(self->heap).pools);
}

TEST_F_TIMEOUT(trace, double_free_is_rejected, SLOW)
{
	char *block, *other;

	ASSERT_EQ(0, ka_trace_start(1, 10));
	block = here(self->heap, 100);
	other = here(self->heap, 100);
	EXPECT_EQ(0, ka_heap_free(self->heap, block));
	EXPECT_EQ(-1, ka_heap_free(self->heap, block));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, ka_heap_free(self->heap, other + 1));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, ka_run_free(self->heap, other));
	EXPECT_EQ(100, now());
	EXPECT_EQ(0, ka_heap_free(self->heap, other));
	EXPECT_EQ(0, now());
}

TEST_F_TIMEOUT(trace, invalid_arguments_are_rejected, SLOW)
{
	EXPECT_EQ(-1, ka_trace_start(0, 10));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, ka_trace_start(((size_t)1 << 40) + 1, 10));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, ka_trace_start(1, 0));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, ka_trace_start(1, 65));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_FALSE(ka_trace_active());
	EXPECT_EQ(0, ka_trace_start(1, 64));
	EXPECT_EQ(-1, ka_trace_start(1, 64));
	EXPECT_EQ(EBUSY, errno);
	EXPECT_EQ(NULL, ka_trace_snapshot(7));
	EXPECT_EQ(EINVAL, errno);
}

TEST_F_TIMEOUT(trace, frames_are_those_of_the_program, SLOW)
{
	const void *frames[KA_TRACE_FRAMES];
	void *block, *aligned;

	ASSERT_EQ(0, ka_trace_start(1, 3));
	block = over(self->heap, 24);
	EXPECT_EQ(3, ka_trace_of(block, frames, KA_TRACE_FRAMES));
	EXPECT_TRUE(is_in(frames[0], here));
	EXPECT_TRUE(is_in(frames[1], over));
	EXPECT_EQ(1, ka_trace_of(block, frames, 1));
	EXPECT_EQ(0, ka_trace_of(&block, frames, KA_TRACE_FRAMES));
	ka_heap_free(self->heap, block);
	EXPECT_EQ(0, ka_trace_of(block, frames, KA_TRACE_FRAMES));
	/*
	 * Whichever function allocated the block, no function of the library is among the
	 * frames.
	 */
	block = ka_obj_malloc(10);
	EXPECT_EQ(3, ka_trace_of(block, frames, 3));
	aligned = ka_heap_aligned_alloc(self->heap, 4096, 100);
	EXPECT_EQ(110, now());
	for (int i = 0; i < 2; i++) {
		const void *first = frames[0];

		EXPECT_LE(1, ka_trace_of(i ? aligned : block, frames, 3));
		EXPECT_GT(16384, llabs((char *)frames[0] -
				      (char *)trace_frames_are_those_of_the_program));
		if (i)
			EXPECT_NE(first, frames[0]);
	}
	ka_obj_free(block);
	ka_heap_free(self->heap, aligned);
	EXPECT_EQ(0, now());
}

TEST_F_TIMEOUT(trace, entries_are_by_site_or_by_stack, SLOW)
{
	struct ka_traces *traces;
	const struct ka_trace_entry *first, *second;

	ASSERT_EQ(0, ka_trace_start(1, 10));
	for (int i = 0; i < 10; i++) {
		here(self->heap, 100);
		over(self->heap, 50);
		there(self->heap, 140);
		ka_heap_free(self->heap, there(self->heap, 10));
	}
	traces = ka_trace_snapshot(KA_TRACE_BY_STACK);
	ASSERT_EQ(4, ka_trace_count(traces));
	EXPECT_EQ(1400, ka_trace_entry(traces, 0)->bytes);
	EXPECT_EQ(1000, ka_trace_entry(traces, 1)->bytes);
	EXPECT_EQ(500, ka_trace_entry(traces, 2)->bytes);
	EXPECT_EQ(0, ka_trace_entry(traces, 3)->bytes);
	EXPECT_EQ(100, ka_trace_entry(traces, 3)->total_bytes);
	EXPECT_EQ(NULL, ka_trace_entry(traces, 4));
	EXPECT_TRUE(is_in(ka_trace_entry(traces, 2)->frames[1], over));
	ka_trace_free(traces);

	traces = ka_trace_snapshot(KA_TRACE_BY_SITE);
	ASSERT_EQ(2, ka_trace_count(traces));
	first = ka_trace_entry(traces, 0);
	second = ka_trace_entry(traces, 1);
	EXPECT_EQ(1500, first->bytes);
	EXPECT_EQ(20, first->blocks);
	EXPECT_EQ(1, first->nr_frames);
	EXPECT_TRUE(is_in(first->frames[0], here));
	EXPECT_EQ(1400, second->bytes);
	EXPECT_EQ(10, second->blocks);
	EXPECT_EQ(1500, second->total_bytes);
	EXPECT_EQ(20, second->total_blocks);
	EXPECT_TRUE(is_in(second->frames[0], there));
	ka_trace_free(traces);
}

TEST_F_TIMEOUT(trace, snapshots_can_be_compared, SLOW)
{
	struct ka_traces *before, *after, *stacks, *difference;
	const struct ka_trace_entry *entry;
	void *block, *other;

	ASSERT_EQ(0, ka_trace_start(1, 10));
	block = here(self->heap, 1000);
	other = here(self->heap, 1000);
	before = ka_trace_snapshot(KA_TRACE_BY_SITE);
	ka_heap_free(self->heap, block);
	there(self->heap, 300);
	there(self->heap, 400);
	after = ka_trace_snapshot(KA_TRACE_BY_SITE);
	ka_heap_free(self->heap, other);
	difference = ka_trace_compare(before, after);
	ASSERT_NE(NULL, difference);
	/* Its two snapshots may be freed. */
	stacks = ka_trace_snapshot(KA_TRACE_BY_STACK);
	EXPECT_EQ(NULL, ka_trace_compare(before, stacks));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(NULL, ka_trace_compare(before, difference));
	ka_trace_free(stacks);
	ka_trace_free(before);
	ka_trace_free(after);

	ASSERT_EQ(2, ka_trace_count(difference));
	entry = ka_trace_entry(difference, 0);
	EXPECT_EQ(-1000, entry->more_bytes);
	EXPECT_EQ(-1, entry->more_blocks);
	EXPECT_EQ(1000, entry->bytes);
	EXPECT_EQ(2000, entry->total_bytes);
	EXPECT_TRUE(is_in(entry->frames[0], here));
	entry = ka_trace_entry(difference, 1);
	EXPECT_EQ(700, entry->more_bytes);
	EXPECT_EQ(2, entry->more_blocks);
	EXPECT_TRUE(is_in(entry->frames[0], there));
	ka_trace_free(difference);
	ka_trace_free(NULL);
}

TEST_F_TIMEOUT(trace, realloc_counts_as_a_new_allocation, SLOW)
{
	const void *frame;
	void *block;

	ASSERT_EQ(0, ka_trace_start(1, 10));
	block = here(self->heap, 1000);
	/* In place, at another address, in a run, in a larger one, and back. */
	for (int i = 0; i < 6; i++) {
		static const size_t sizes[] = { 1020, 50, 0, 300000, 400000, 900 };

		block = ka_heap_realloc(self->heap, block, sizes[i]);
		ASSERT_NE(NULL, block);
		EXPECT_EQ(sizes[i] ? sizes[i] : 1, now());
		EXPECT_EQ(1, sums().blocks);
		EXPECT_EQ(2 + i, sums().total_blocks);
		EXPECT_EQ(1, ka_trace_of(block, &frame, 1));
		EXPECT_FALSE(is_in(frame, here));
	}
	ka_heap_free(self->heap, block);
	EXPECT_EQ(0, now());
}

TEST_F_TIMEOUT(trace, large_blocks_are_traced_and_runs_are_not, SLOW)
{
	void *block, *run, *aligned;

	ASSERT_EQ(0, ka_trace_start(1, 10));
	run = ka_run_alloc(self->heap, MIB, 0);
	EXPECT_EQ(0, now());
	block = here(self->heap, 5 * MIB + 1);
	EXPECT_EQ(5 * MIB + 1, now());
	aligned = ka_heap_aligned_alloc(self->heap, MIB, 10);
	EXPECT_EQ(4096, ka_run_size(self->heap, aligned));
	EXPECT_EQ(5 * MIB + 11, now());
	ka_run_free(self->heap, run);
	EXPECT_EQ(5 * MIB + 11, now());
	/* Such a block can be freed as a run. */
	EXPECT_EQ(0, ka_run_free(self->heap, block));
	EXPECT_EQ(10, now());
	EXPECT_EQ(0, ka_heap_free(self->heap, aligned));
	EXPECT_EQ(0, now());
	EXPECT_EQ(0, ka_trace_nr_runs);
}

TEST_F_TIMEOUT(trace, after_a_stop_traces_stay_until_their_blocks_are_freed, SLOW)
{
	const void *frame;
	void *blocks[3], *large;

	for (int i = 0; i < 3; i++) {
		ASSERT_EQ(0, ka_trace_start(1, 10));
		EXPECT_EQ(0, now());
		EXPECT_EQ(0, most());
		blocks[i] = here(self->heap, 64);
		large = there(self->heap, MIB);
		ka_trace_stop();
		EXPECT_FALSE(ka_trace_active());
		here(self->heap, 64);
		EXPECT_EQ(64 + MIB, now());
		ka_heap_free(self->heap, large);
		EXPECT_EQ(64, now());
		/* Without tracing, the stack stays unchanged. */
		blocks[i] = ka_heap_realloc(self->heap, blocks[i], 60);
		EXPECT_EQ(60, now());
		EXPECT_EQ(1, ka_trace_of(blocks[i], &frame, 1));
		EXPECT_TRUE(is_in(frame, here));
	}
	/* The traces of earlier sessions are dropped. */
	EXPECT_EQ(0, ka_trace_of(blocks[0], &frame, 1));
	for (int i = 0; i < 3; i++)
		EXPECT_EQ(0, ka_heap_free(self->heap, blocks[i]));
	EXPECT_EQ(0, now());
	EXPECT_EQ(3, stats_of(self->heap).blocks);
	/* Blocks are allocated in the normal way again. */
	EXPECT_EQ(blocks[0] = here(self->heap, 64),
		  (ka_heap_free(self->heap, blocks[0]), here(self->heap, 64)));
}

TEST_F_TIMEOUT(trace, destroyed_heap_drops_its_traces, SLOW)
{
	struct ka_heap *other = make(64 * MIB, 0, KA_FORK_COW);

	ASSERT_EQ(0, ka_trace_start(1, 10));
	for (int i = 0; i < 3000; i++) {
		ASSERT_NE(NULL, here(other, 100));
		ASSERT_NE(NULL, here(self->heap, 10));
	}
	here(other, MIB);
	EXPECT_EQ(3000 * 110 + MIB, now());
	ka_heap_destroy(other);
	EXPECT_EQ(3000 * 10, now());
	EXPECT_EQ(3000, sums().blocks);
	EXPECT_EQ(0, ka_trace_nr_runs);
}

/* The deviation of a sum in units of the expected standard deviation. */
static double deviations(double sum, double expected, double variance)
{
	return fabs(sum - expected) / sqrt(variance);
}

/* A block of s bytes that is traced with the probability p stands for s/p bytes. */
static double variance_of(size_t size, size_t interval, size_t count)
{
	double p = -expm1(-(double)size / (double)interval);

	return (double)count * (double)size * (double)size * (1 - p) / p;
}

TEST_F_TIMEOUT(trace, samples_are_unbiased, SLOW)
{
	static const size_t sizes[] = { 16, 100, 1000, 3000, 20000, 100000, 300000 };
	const size_t interval = 4096;

	ka_sample_seed(7);
	ASSERT_EQ(0, ka_trace_start(interval, 10));
	for (int i = 0; i < 7; i++) {
		size_t count = (sizes[i] < 3000 ? 20 * MIB : 60 * MIB) / sizes[i];
		struct ka_trace_entry before = sums(), after;
		double variance = variance_of(sizes[i], interval, count), bytes, blocks;

		for (size_t j = 0; j < count; j++) {
			void *block = here(self->heap, sizes[i]);

			ASSERT_NE(NULL, block);
			ka_heap_free(self->heap, block);
		}
		after = sums();
		bytes = (double)(after.total_bytes - before.total_bytes);
		blocks = (double)(after.total_blocks - before.total_blocks);
		/* A deviation of one block is due to rounding. */
		variance += (double)sizes[i] * (double)sizes[i];
		EXPECT_GT(4, deviations(bytes, (double)(count * sizes[i]), variance));
		EXPECT_GT(4, deviations(blocks * (double)sizes[i],
					(double)(count * sizes[i]), variance));
		EXPECT_EQ(0, after.bytes);
	}
	EXPECT_EQ(0, now());
}

TEST_F_TIMEOUT(trace, allocated_memory_is_estimated, SLOW)
{
	const size_t interval = 16384, count = 40000, size = 400;
	void **blocks = calloc(count, sizeof(*blocks));
	double variance = variance_of(size, interval, count / 2);

	ka_sample_seed(3);
	ASSERT_EQ(0, ka_trace_start(interval, 10));
	for (size_t i = 0; i < count; i++)
		blocks[i] = here(self->heap, size);
	/* The estimate is much smaller than all memory allocated so far. */
	EXPECT_GT(2 * size * count / interval, stats_of(self->heap).pools);
	for (size_t i = 0; i < count; i += 2)
		ASSERT_EQ(0, ka_heap_free(self->heap, blocks[i]));
	EXPECT_GT(4, deviations((double)now(), (double)(size * count / 2), variance));
	for (size_t i = 1; i < count; i += 2)
		ASSERT_EQ(0, ka_heap_free(self->heap, blocks[i]));
	EXPECT_EQ(0, now());
	free(blocks);
}

TEST(sample_distances_are_exponential)
{
	const size_t interval = 100000, draws = 200000;
	double sum = 0, squares = 0;
	size_t above = 0;

	ka_sample_seed(1);
	for (size_t i = 0; i < draws; i++) {
		double value = (double)ka_sample_next(interval);

		sum += value;
		squares += value * value;
		above += value > 3 * (double)interval;
	}
	EXPECT_GT(0.01, fabs(sum / draws / interval - 1));
	EXPECT_GT(0.03, fabs(squares / draws / interval / interval - 2));
	EXPECT_GT(0.05, fabs((double)above / draws / exp(-3) - 1));
	for (size_t size = 1; size < (size_t)1 << 40; size = size * 3 / 2 + 1) {
		double weight = (double)ka_sample_weight(size, interval) / KA_WEIGHT_ONE;
		double exact = -1 / expm1(-(double)size / (double)interval);

		ASSERT_GT(0.00001, fabs(weight / exact - 1));
	}
	EXPECT_EQ(KA_WEIGHT_ONE, ka_sample_weight(10, 1));
	EXPECT_EQ(0, ka_sample_next(1));
}

#define THREADS	4
#define ROUNDS	3000

struct crew {
	struct ka_heap *heap;
	pthread_barrier_t barrier;
	void *handed[THREADS][ROUNDS];
};

struct member {
	struct crew *crew;
	int number;
};

/* Allocate before and during tracing, and leave half of the blocks to the next thread. */
static void *work(void *data)
{
	struct member *member = data;
	struct crew *crew = member->crew;
	int number = member->number;

	for (int i = 0; i < 100; i++)
		ka_heap_free(crew->heap, here(crew->heap, (size_t)i * 20));
	pthread_barrier_wait(&crew->barrier);
	/* The main thread starts tracing here. */
	pthread_barrier_wait(&crew->barrier);
	for (int i = 0; i < ROUNDS; i++) {
		crew->handed[number][i] = here(crew->heap, 100);
		ka_heap_free(crew->heap, there(crew->heap, (size_t)(i % 2000) + 1));
	}
	pthread_barrier_wait(&crew->barrier);
	for (int i = 0; i < ROUNDS; i += 2)
		ka_heap_free(crew->heap, crew->handed[(number + 1) % THREADS][i]);
	return NULL;
}

TEST_F_TIMEOUT(trace, threads_may_free_each_others_blocks, SLOW)
{
	struct member members[THREADS];
	pthread_t threads[THREADS];
	struct crew *crew = calloc(1, sizeof(*crew));

	crew->heap = self->heap;
	pthread_barrier_init(&crew->barrier, NULL, THREADS + 1);
	for (int i = 0; i < THREADS; i++) {
		members[i] = (struct member){ crew, i };
		pthread_create(&threads[i], NULL, work, &members[i]);
	}
	pthread_barrier_wait(&crew->barrier);
	ASSERT_EQ(0, ka_trace_start(1, 10));
	pthread_barrier_wait(&crew->barrier);
	pthread_barrier_wait(&crew->barrier);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	EXPECT_EQ(THREADS * ROUNDS / 2 * 100, now());
	EXPECT_EQ(THREADS * ROUNDS / 2, sums().blocks);
	EXPECT_EQ(THREADS * ROUNDS * 2, sums().total_blocks);
	ka_trace_stop();
	for (int i = 0; i < THREADS; i++) {
		for (int j = 1; j < ROUNDS; j += 2)
			EXPECT_EQ(0, ka_heap_free(self->heap, crew->handed[i][j]));
	}
	EXPECT_EQ(0, now());
	pthread_barrier_destroy(&crew->barrier);
	free(crew);
}

static bool is_over;

/* Allocate and free blocks of all kinds, repeatedly. */
static void *churn(void *data)
{
	struct ka_heap *heap = data;
	char *blocks[64] = { NULL };
	unsigned int random = (unsigned int)(uintptr_t)&blocks;

	while (!__atomic_load_n(&is_over, __ATOMIC_RELAXED)) {
		char **block = &blocks[rand_r(&random) % 64];
		size_t size = (size_t)rand_r(&random) % (rand_r(&random) % 16 ? 600 : 9000);

		if (*block && **block != (char)((uintptr_t)*block >> 4))
			abort();
		if (rand_r(&random) % 2) {
			*block = ka_heap_realloc(heap, *block, size);
		} else {
			ka_heap_free(heap, *block);
			*block = here(heap, size);
		}
		**block = (char)((uintptr_t)*block >> 4);
	}
	for (int i = 0; i < 64; i++)
		ka_heap_free(heap, blocks[i]);
	return NULL;
}

TEST_F_TIMEOUT(trace, tracing_can_start_and_stop_while_threads_run, SLOW)
{
	pthread_t threads[3];
	struct ka_traces *traces;

	for (int i = 0; i < 3; i++)
		pthread_create(&threads[i], NULL, churn, self->heap);
	for (int i = 0; i < 100; i++) {
		ASSERT_EQ(0, ka_trace_start(i % 3 ? 2000 : 1, 5));
		usleep(1000);
		traces = ka_trace_snapshot(i % 2);
		ASSERT_NE(NULL, traces);
		ka_trace_free(traces);
		ka_trace_stop();
	}
	/* If the last tracing started before the threads ended, its numbers are exact. */
	ASSERT_EQ(0, ka_trace_start(1, 5));
	__atomic_store_n(&is_over, true, __ATOMIC_RELAXED);
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	EXPECT_EQ(0, now());
	EXPECT_EQ(0, sums().blocks);
	ka_trace_stop();
	EXPECT_EQ(0, stats_of(self->heap).blocks);
}

static pthread_key_t late_key;

/* Runs after the destructor of the library, and allocates and frees once more. */
static void late(void *data)
{
	static __thread int times;

	if (++times < 3) {
		pthread_setspecific(late_key, data);
		return;
	}
	ka_heap_free(data, here(data, 100));
	here(data, 700);
}

static void *end_late(void *data)
{
	here(data, 10);
	pthread_setspecific(late_key, data);
	return NULL;
}

TEST_F_TIMEOUT(trace, ending_threads_are_traced_until_their_end, SLOW)
{
	pthread_t thread;

	pthread_key_create(&late_key, late);
	ASSERT_EQ(0, ka_trace_start(1, 10));
	for (int i = 0; i < 10; i++) {
		pthread_create(&thread, NULL, end_late, self->heap);
		pthread_join(thread, NULL);
	}
	EXPECT_EQ(7100, now());
	EXPECT_EQ(30, sums().total_blocks);
}

TEST_F_TIMEOUT(trace, child_continues_with_a_copy_of_the_traces, SLOW)
{
	struct ka_heap *nothing = make(64 * MIB, 0, KA_FORK_NONE);
	void *block;
	pid_t child;

	ASSERT_EQ(0, ka_trace_start(1, 10));
	block = here(self->heap, 100);
	here(nothing, 50);
	child = fork();
	if (!child) {
		/* The child does not have the parent's other heap, nor its blocks. */
		CHECK(now() == 100);
		CHECK(ka_trace_active());
		there(self->heap, 1000);
		CHECK(now() == 1100);
		CHECK(!ka_heap_free(self->heap, block));
		CHECK(now() == 1000);
		CHECK(sums().blocks == 1);
		ka_trace_stop();
		_exit(0);
	}
	EXPECT_EQ(0, child_status(child));
	EXPECT_EQ(150, now());
	ka_heap_free(self->heap, block);
	EXPECT_EQ(50, now());
	ka_heap_destroy(nothing);
	EXPECT_EQ(0, now());
}

TEST_F_TIMEOUT(trace, fork_during_tracing_leaves_no_lock_held, SLOW)
{
	pthread_t threads[2];

	NOT_WITH_THREAD_SANITIZER();
	ASSERT_EQ(0, ka_trace_start(1, 10));
	for (int i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, churn, self->heap);
	for (int i = 0; i < 50; i++) {
		pid_t child = fork();

		if (!child) {
			size_t before = now();

			alarm(30);
			for (int j = 0; j < 100; j++)
				ka_heap_free(self->heap, here(self->heap, 100));
			CHECK(now() == before);
			ka_trace_stop();
			_exit(0);
		}
		ASSERT_EQ(0, child_status(child));
	}
	__atomic_store_n(&is_over, true, __ATOMIC_RELAXED);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	EXPECT_EQ(0, now());
}

TEST_F_TIMEOUT(trace, memory_of_traces_is_freed, SLOW)
{
	struct ka_traces *traces;
	size_t cost;

	ASSERT_EQ(0, ka_trace_start(1, 10));
	for (int i = 0; i < 100000; i++)
		ASSERT_NE(NULL, here(self->heap, 16));
	cost = ka_trace_cost();
	EXPECT_LT(100000 * 16, cost);
	EXPECT_GT(100000 * 100, cost);
	traces = ka_trace_snapshot(KA_TRACE_BY_STACK);
	EXPECT_LT(cost, ka_trace_cost());
	ka_trace_free(traces);
	EXPECT_EQ(cost, ka_trace_cost());
}

/* Read a file, with a final NUL. */
static char *contents(const char *path)
{
	static char text[65536];
	int fd = open(path, O_RDONLY);
	ssize_t size = read(fd, text, sizeof(text) - 1);

	text[size < 0 ? 0 : size] = '\0';
	close(fd);
	return text;
}

/* Count the lines with this end. */
static int lines_ending(const char *text, const char *end)
{
	int count = 0;

	while ((text = strstr(text, end))) {
		text += strlen(end);
		count += *text == '\n';
	}
	return count;
}

TEST_F_TIMEOUT(trace, snapshots_can_be_written_to_files, SLOW)
{
	char path[] = "/tmp/karena-trace-XXXXXX", command[512];
	struct ka_traces *before, *after, *difference;
	void *block;

	close(mkstemp(path));
	ASSERT_EQ(0, ka_trace_start(1, 10));
	block = here(self->heap, 1234);
	there(self->heap, 4321);
	before = ka_trace_snapshot(KA_TRACE_BY_STACK);
	ASSERT_EQ(0, ka_trace_write(before, path, KA_TRACE_FOLDED));
	EXPECT_EQ(1, lines_ending(contents(path), " 1234"));
	EXPECT_EQ(1, lines_ending(contents(path), " 4321"));
	EXPECT_NE(NULL, strstr(contents(path), ";"));
	EXPECT_EQ(strchr(strchr(contents(path), '\n') + 1, '\n') + 1,
		  strchr(contents(path), '\0'));
	ka_heap_free(self->heap, block);
	after = ka_trace_snapshot(KA_TRACE_BY_STACK);
	difference = ka_trace_compare(before, after);
	ASSERT_EQ(0, ka_trace_write(difference, path, KA_TRACE_FOLDED));
	EXPECT_EQ(1, lines_ending(contents(path), " 1234 0"));
	EXPECT_EQ(1, lines_ending(contents(path), " 4321 4321"));
	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(0, ka_trace_write(i ? difference : before, path, KA_TRACE_JSON));
		snprintf(command, sizeof(command),
			 "/usr/bin/python3 -m json.tool --no-ensure-ascii %s >/dev/null", path);
		EXPECT_EQ(0, system(command));
		snprintf(command, sizeof(command), "/usr/bin/python3 -c \""
			 "import json; t = json.load(open('%s')); e = t['entries'];"
			 "assert t['difference'] is (%d > 0) and t['by'] == 'stack';"
			 "assert sorted(x['bytes'] for x in e) == [1234 * (1 - %d), 4321];"
			 "assert all(f['file'] and f['address'] for x in e for f in"
			 " x['frames'])\"", path, i, i);
		EXPECT_EQ(0, system(command));
	}
	EXPECT_EQ(-1, ka_trace_write(after, "/nowhere/file", KA_TRACE_JSON));
	EXPECT_EQ(ENOENT, errno);
	EXPECT_EQ(-1, ka_trace_write(after, "/dev/full", KA_TRACE_JSON));
	EXPECT_EQ(ENOSPC, errno);
	EXPECT_EQ(-1, ka_trace_write(after, path, 5));
	EXPECT_EQ(EINVAL, errno);
	ka_trace_free(before);
	ka_trace_free(after);
	ka_trace_free(difference);
	unlink(path);
}

TEST_HARNESS_MAIN
