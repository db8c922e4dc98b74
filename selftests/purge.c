// SPDX-License-Identifier: GPL-2.0
/*
 * A stress of reclaim: threads that give arenas back and take them back, direct
 * I/O into arenas that reclaim may take at any moment, and reclaim that never
 * stops. What is taken back must be intact, what the kernel took must come back
 * zeroed, and no I/O may fail without a reason. KARENA_SECONDS says for how long.
 */
#include <pthread.h>
#include <sched.h>

#include "common.h"

#define DEFAULT_SECONDS	5

#define NR_WRITERS	2
#define NR_EACH		6
#define BLOCK		(ARENA / 8)	/* of the disk; one for each arena */

struct worker {
	pthread_t thread;
	struct heap *heap;
	int first;
	unsigned int seed;
	int disk;
	long rounds, kept, taken;
	/* What must not be. */
	long lost, dirty, io_errors, refused;
};

static bool stop;

static bool stopped(void)
{
	return __atomic_load_n(&stop, __ATOMIC_RELAXED);
}

/* No word of an arena is another's, or that of another round. */
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

/* Wait until a volatile arena is ours again, or gone. */
static bool take_back_or_lose(struct heap *heap, int index, uint32_t word)
{
	while (!take_back(heap, index, word)) {
		if (state(heap, index) == KARENA_FREE)
			return false;
		/* BUSY: it comes back or goes. */
		sched_yield();
	}
	return true;
}

/* See to it that an arena of ours is committed; what is new must be zero. */
static bool have(struct worker *worker, int index)
{
	char *start = arena(worker->heap, index);

	if (state(worker->heap, index) == KARENA_ACTIVE)
		return true;
	if (heap_commit(worker->heap, index, 1)) {
		worker->refused++;
		return false;
	}
	worker->dirty += count_other(start, ARENA, 0) != 0;
	return true;
}

static void write_round(struct worker *worker, uint64_t *stamps, uint32_t *words)
{
	int i = rand_r(&worker->seed) % NR_EACH;
	int index = worker->first + i;

	/* The first time it is not given back yet. */
	if (words[i]) {
		if (take_back_or_lose(worker->heap, index, words[i])) {
			worker->kept++;
			worker->lost += !intact(arena(worker->heap, index), ARENA,
						stamps[i]);
		} else {
			worker->taken++;
		}
		words[i] = 0;
	}
	if (!have(worker, index))
		return;
	worker->rounds++;
	stamps[i] = new_stamp(worker, index);
	fill(arena(worker->heap, index), ARENA, stamps[i]);
	words[i] = give_back(worker->heap, index);
}

static void *writer_main(void *data)
{
	struct worker *worker = data;
	uint32_t words[NR_EACH] = {};
	uint64_t stamps[NR_EACH] = {};

	while (!stopped()) {
		write_round(worker, stamps, words);
		if (rand_r(&worker->seed) % 4 == 0)
			usleep(1000);
	}
	for (int i = 0; i < NR_EACH; i++) {
		if (!words[i])
			continue;
		if (take_back_or_lose(worker->heap, worker->first + i, words[i]))
			worker->lost += !intact(arena(worker->heap,
						      worker->first + i),
						ARENA, stamps[i]);
		else
			worker->taken++;
	}
	return NULL;
}

/*
 * Write a block out and read it back into an arena that is volatile meanwhile. It
 * may be taken before the pages are pinned, but not afterwards: then the read fails
 * with EFAULT and the arena is gone, or it succeeds and the data are there.
 */
static void io_round(struct worker *worker, int index)
{
	char *start = arena(worker->heap, index);
	uint64_t stamp = new_stamp(worker, index);
	off_t at = (off_t)(index - worker->first) * BLOCK;
	uint32_t word;
	ssize_t done;

	fill(start, BLOCK, stamp);
	if (pwrite(worker->disk, start, BLOCK, at) != BLOCK)
		worker->io_errors++;
	memset(start, 0, BLOCK);
	word = give_back(worker->heap, index);
	if (rand_r(&worker->seed) % 2)
		sched_yield();
	done = pread(worker->disk, start, BLOCK, at);
	if (done < 0 && errno != EFAULT)
		worker->io_errors++;
	if (!take_back_or_lose(worker->heap, index, word)) {
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

		if (!have(worker, index))
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
		/* Else nothing would ever be kept. */
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
	/* The harness's own limit does not know how long it is to take. */
	alarm(self->seconds + SLOW);
	ASSERT_EQ(0, heap_make(&self->heap, 64 * ARENA, 0));
}

FIXTURE_TEARDOWN(purge)
{
	heap_destroy(&self->heap);
	EXPECT_TRUE(figure_becomes("committed", 0));
	EXPECT_EQ(0, figure("pinned_orphans"));
}

static void start(FIXTURE_DATA(purge) *self, int i, void *(*main)(void *), int disk)
{
	struct worker *worker = &self->workers[i];

	*worker = (struct worker){
		.heap = &self->heap, .first = i * NR_EACH, .seed = i + 1,
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
	/* At first pages are pinned for longer than reclaim takes to come. */
	slow = disk_slow("8388608");
	stop = false;
	for (int i = 0; i < NR_WRITERS; i++)
		start(self, i, writer_main, disk);
	start(self, NR_WRITERS, io_main, disk);
	pthread_create(&self->purger, NULL, purger_main, NULL);
	usleep(self->seconds * 500000);
	if (slow)
		disk_fast();
	else
		TH_LOG("no cgroup can slow down the disk: few pins");
	usleep(self->seconds * 500000);
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	pthread_join(self->purger, NULL);

	for (int i = 0; i < NR_WRITERS + 1; i++) {
		struct worker *worker = &self->workers[i];

		pthread_join(worker->thread, NULL);
		TH_LOG("%s %d: %ld rounds, %ld kept, %ld taken",
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
	/* Both must have happened for this to prove anything. */
	EXPECT_GT(sum.kept, 0);
	EXPECT_GT(sum.taken, 0);
	EXPECT_EQ(sum.taken, heap_figure(&self->heap, "reclaimed"));
	for (int i = 0; i < 64; i++)
		committed += state(&self->heap, i) == KARENA_ACTIVE ? ARENA : 0;
	EXPECT_EQ(committed, heap_figure(&self->heap, "committed"));
	EXPECT_EQ(committed, figure("committed"));
	EXPECT_EQ(0, heap_figure(&self->heap, "volatile_arenas"));
	ASSERT_EQ(0, heap_release(&self->heap, 0, 64));
	EXPECT_EQ(0, heap_figure(&self->heap, "committed"));
	close(disk);
}

TEST_HARNESS_MAIN
