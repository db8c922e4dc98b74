// SPDX-License-Identifier: GPL-2.0
/*
 * Stress test of reclaim: threads make huge and sparse arenas volatile and reuse them,
 * direct I/O reads into arenas that reclaim may take at any moment, and reclaim never
 * stops. A reused arena must be intact, an arena that reclaim took must be zero after its
 * next commit, and no I/O may fail without a reason. KARENA_SECONDS is the duration.
 */
#include <pthread.h>
#include <sched.h>

#include "common.h"

#define DEFAULT_SECONDS	5

#define NR_WRITERS	2
#define NR_EACH		6
#define SPARSE		(64 * PAGE)	/* committed part of a sparse arena */
#define BLOCK		SPARSE		/* of the disk; one block for each arena */

struct worker {
	pthread_t thread;
	struct heap *heap;
	int first;
	unsigned int seed;
	int disk;
	long rounds, kept, taken;
	/* Errors. */
	long lost, dirty, io_errors, refused;
};

static bool stop;

static bool stopped(void)
{
	return __atomic_load_n(&stop, __ATOMIC_RELAXED);
}

/* Each word of each arena differs in each round. */
static uint64_t word_of(uint64_t stamp, size_t i)
{
	return stamp * 0x9e3779b97f4a7c15ULL + i;
}

static void fill(char *start, size_t size, uint64_t stamp)
{
	uint64_t *words = (uint64_t *)start;

	for (size_t i = 0; i < size / sizeof(*words); i++)
		words[i] = word_of(stamp, i);
}

static bool intact(const char *start, size_t size, uint64_t stamp)
{
	const uint64_t *words = (const uint64_t *)start;
	uint64_t wrong = 0;

	for (size_t i = 0; i < size / sizeof(*words); i++)
		wrong |= words[i] ^ word_of(stamp, i);
	return !wrong;
}

static uint64_t new_stamp(struct worker *worker, int index)
{
	return (uint64_t)worker->rounds << 16 | index << 8 | worker->first;
}

/* Committed bytes of an arena: all of it, or the pages of a sparse one. */
static size_t size_of(const struct heap *heap, int index)
{
	switch (state(heap, index)) {
	case KARENA_ACTIVE:
		return ARENA;
	case KARENA_ACTIVE | KARENA_SPARSE:
		return SPARSE;
	default:
		return 0;
	}
}

/* A volatile arena and its earlier state word. */
struct lent {
	uint32_t before;
	uint32_t word;
};

static struct lent lend(struct heap *heap, int index)
{
	struct lent lent = { .before = state(heap, index) };

	lent.word = make_volatile(heap, index);
	return lent;
}

/*
 * Wait until reclaim has either taken a volatile arena or given up. Return true if the
 * arena was reused.
 */
static bool reuse_or_lose(struct heap *heap, int index, struct lent lent)
{
	for (;;) {
		uint32_t found = lent.word;

		if (__atomic_compare_exchange_n(&heap->states[index], &found,
						lent.before, false,
						__ATOMIC_ACQ_REL,
						__ATOMIC_ACQUIRE))
			return true;
		if (found == KARENA_FREE)
			return false;
		/* BUSY: the kernel either reclaims the arena or restores the word. */
		sched_yield();
	}
}

/* Commit an arena unless it is committed. New memory must be zero. */
static bool have(struct worker *worker, int index, bool sparse)
{
	struct heap *heap = worker->heap;

	if (size_of(heap, index))
		return true;
	if (heap_range(heap, KARENA_COMMIT, index * ARENA,
		       sparse ? SPARSE : ARENA)) {
		worker->refused++;
		return false;
	}
	worker->dirty += count_other(arena(heap, index), size_of(heap, index), 0) != 0;
	return true;
}

/* A volatile arena of a writer, and its expected content. */
struct slot {
	bool given;
	struct lent lent;
	uint64_t stamp;
};

static void get_back(struct worker *worker, struct slot *slot, int index)
{
	struct heap *heap = worker->heap;

	slot->given = false;
	if (!reuse_or_lose(heap, index, slot->lent)) {
		worker->taken++;
		return;
	}
	worker->kept++;
	worker->lost += !intact(arena(heap, index), size_of(heap, index),
				slot->stamp);
}

static void write_round(struct worker *worker, struct slot *slot, int index)
{
	struct heap *heap = worker->heap;

	if (slot->given)
		get_back(worker, slot, index);
	if (!have(worker, index, rand_r(&worker->seed) % 2))
		return;
	worker->rounds++;
	slot->stamp = new_stamp(worker, index);
	fill(arena(heap, index), size_of(heap, index), slot->stamp);
	/* Arenas change between huge and sparse. */
	if (rand_r(&worker->seed) % 8 == 0) {
		worker->refused += heap_release(heap, index, 1) != 0;
		return;
	}
	slot->lent = lend(heap, index);
	slot->given = true;
}

static void *writer_main(void *data)
{
	struct worker *worker = data;
	struct slot slots[NR_EACH] = {};

	while (!stopped()) {
		int i = rand_r(&worker->seed) % NR_EACH;

		write_round(worker, &slots[i], worker->first + i);
		if (rand_r(&worker->seed) % 4 == 0)
			usleep(1000);
	}
	for (int i = 0; i < NR_EACH; i++) {
		if (slots[i].given)
			get_back(worker, &slots[i], worker->first + i);
	}
	return NULL;
}

/*
 * Write a block to the disk, make the arena volatile and read the block back into it.
 * Reclaim may take the arena before the pages are pinned, but not afterwards. If reclaim
 * takes the arena, the read fails with EFAULT; otherwise the data arrives.
 */
static void io_round(struct worker *worker, int index)
{
	char *start = arena(worker->heap, index);
	uint64_t stamp = new_stamp(worker, index);
	off_t at = (off_t)(index - worker->first) * BLOCK;
	struct lent lent;
	ssize_t done;

	fill(start, BLOCK, stamp);
	if (pwrite(worker->disk, start, BLOCK, at) != BLOCK)
		worker->io_errors++;
	memset(start, 0, BLOCK);
	lent = lend(worker->heap, index);
	if (rand_r(&worker->seed) % 2)
		sched_yield();
	done = pread(worker->disk, start, BLOCK, at);
	if (done < 0 && errno != EFAULT)
		worker->io_errors++;
	if (!reuse_or_lose(worker->heap, index, lent)) {
		worker->taken++;
		return;
	}
	worker->kept++;
	if (done != BLOCK)
		worker->io_errors++;
	else
		worker->lost += !intact(start, BLOCK, stamp);
}

static void *io_main(void *data)
{
	struct worker *worker = data;

	while (!stopped()) {
		int index = worker->first + rand_r(&worker->seed) % NR_EACH;

		if (!have(worker, index, rand_r(&worker->seed) % 2))
			continue;
		worker->rounds++;
		io_round(worker, index);
	}
	return NULL;
}

static void *purger_main(void *data)
{
	while (!stopped()) {
		shrink_everything();
		/* Otherwise every arena would be reclaimed. */
		usleep(10000);
	}
	return data;
}

FIXTURE(purge) {
	struct heap heap;
	struct worker workers[NR_WRITERS + 1];
	pthread_t purger;
	int seconds;
};

FIXTURE_SETUP(purge)
{
	const char *seconds = getenv("KARENA_SECONDS");

	REQUIRE_MODULE();
	self->seconds = seconds ? atoi(seconds) : DEFAULT_SECONDS;
	ASSERT_GT(self->seconds, 0);
	/* The timeout of the harness does not know the duration of this test. */
	alarm(self->seconds + SLOW);
	ASSERT_EQ(0, heap_open(&self->heap, 64 * ARENA, 0));
}

FIXTURE_TEARDOWN(purge)
{
	heap_destroy(&self->heap);
	EXPECT_TRUE(module_stat_becomes("committed", 0));
	EXPECT_TRUE(module_stat_becomes("pinned_orphans", 0));
}

static void start(struct heap *heap, struct worker *worker, int number,
		  void *(*main)(void *), int disk)
{
	*worker = (struct worker){
		.heap = heap, .first = number * NR_EACH, .seed = number + 1,
		.disk = disk,
	};
	pthread_create(&worker->thread, NULL, main, worker);
}

TEST_F_TIMEOUT(purge, nothing_is_lost_and_no_io_fails, 24 * 3600)
{
	struct worker sum = {};
	int disk = open(DISK, O_RDWR | O_DIRECT | O_CLOEXEC);
	long committed = 0;
	bool slow;

	if (disk < 0)
		SKIP(return, "no scratch disk " DISK);
	/* At first the slow disk makes pins last longer than reclaim takes. */
	slow = disk_slow("8388608");
	stop = false;
	for (int i = 0; i < NR_WRITERS; i++)
		start(&self->heap, &self->workers[i], i, writer_main, disk);
	start(&self->heap, &self->workers[NR_WRITERS], NR_WRITERS, io_main, disk);
	pthread_create(&self->purger, NULL, purger_main, NULL);
	usleep(self->seconds * 500000);
	if (slow)
		disk_fast();
	else
		TH_LOG("cannot slow down the disk with a cgroup: there will be few pins");
	usleep(self->seconds * 500000);
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	pthread_join(self->purger, NULL);

	for (int i = 0; i < NR_WRITERS + 1; i++) {
		struct worker *worker = &self->workers[i];

		pthread_join(worker->thread, NULL);
		TH_LOG("%s %d: %ld rounds, %ld reused, %ld reclaimed",
		       i < NR_WRITERS ? "writer" : "direct I/O", i,
		       worker->rounds, worker->kept, worker->taken);
		EXPECT_EQ(0, worker->lost);
		EXPECT_EQ(0, worker->dirty);
		EXPECT_EQ(0, worker->io_errors);
		EXPECT_EQ(0, worker->refused);
		EXPECT_GT(worker->rounds, 0);
		sum.kept += worker->kept;
		sum.taken += worker->taken;
	}
	/* Both must have happened, or the test proves nothing. */
	EXPECT_GT(sum.kept, 0);
	EXPECT_GT(sum.taken, 0);
	EXPECT_EQ(sum.taken, heap_stat(&self->heap, "reclaimed"));
	for (int i = 0; i < 64; i++)
		committed += size_of(&self->heap, i);
	EXPECT_EQ(committed, heap_stat(&self->heap, "committed"));
	EXPECT_EQ(committed, module_stat("committed"));
	EXPECT_EQ(0, heap_stat(&self->heap, "volatile_arenas"));
	ASSERT_EQ(0, heap_release(&self->heap, 0, 64));
	EXPECT_EQ(0, heap_stat(&self->heap, "committed"));
	close(disk);
}

TEST_HARNESS_MAIN
