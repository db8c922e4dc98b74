// SPDX-License-Identifier: GPL-2.0
/*
 * Commit, touch and release: huge frames, few faults, limits, concurrent threads, and pages
 * that direct I/O or a pipe holds.
 */
#include <pthread.h>
#include <sys/uio.h>
#include <time.h>

#include "common.h"

FIXTURE(memory) {
	struct heap heap;
};

FIXTURE_SETUP(memory)
{
	REQUIRE_MODULE();
	ASSERT_EQ(0, heap_make(&self->heap, 64 * ARENA, 0));
}

FIXTURE_TEARDOWN(memory)
{
	heap_destroy(&self->heap);
}

TEST_F(memory, commit_touch_and_release_without_descriptors)
{
	struct heap *heap = &self->heap;

	for (int fd = 3; fd < 1024; fd++)
		close(fd);
	ASSERT_EQ(0, heap_commit(heap, 0, 4));
	for (int i = 0; i < 4; i++) {
		EXPECT_EQ(KARENA_ACTIVE, state(heap, i));
		EXPECT_EQ(0, count_other(arena(heap, i), ARENA, 0));
		memset(arena(heap, i), i + 1, ARENA);
	}
	ASSERT_EQ(0, heap_release(heap, 1, 2));
	EXPECT_EQ(KARENA_FREE, state(heap, 1));
	EXPECT_EQ(KARENA_FREE, state(heap, 2));
	EXPECT_EQ(SIGBUS, touch(arena(heap, 1)));
	EXPECT_EQ(SIGBUS, touch(arena(heap, 2) + ARENA - 1));
	EXPECT_EQ(0, count_other(arena(heap, 0), ARENA, 1));
	EXPECT_EQ(0, count_other(arena(heap, 3), ARENA, 4));
	ASSERT_EQ(0, heap_commit(heap, 1, 2));
	EXPECT_EQ(0, count_other(arena(heap, 1), 2 * ARENA, 0));
}

TEST_F(memory, uncommitted_memory_raises_sigbus)
{
	struct heap *heap = &self->heap;
	int null = open("/dev/zero", O_RDONLY);

	EXPECT_EQ(SIGBUS, touch(arena(heap, 0)));
	EXPECT_EQ(-1, read(null, arena(heap, 0), 4096));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(-1, madvise(arena(heap, 0), ARENA, MADV_POPULATE_WRITE));
	EXPECT_EQ(EFAULT, errno);

	/* A touch by the process does not commit a requested arena either. */
	set_state(heap, 0, 1, KARENA_REQUESTED);
	EXPECT_EQ(SIGBUS, touch(arena(heap, 0)));
	EXPECT_EQ(0, module_stat("committed"));

	set_state(heap, 0, 1, 0xdeadbeef);
	EXPECT_EQ(-1, madvise(arena(heap, 0), ARENA, MADV_POPULATE_WRITE));
	EXPECT_EQ(EFAULT, errno);
	close(null);
}

TEST_F(memory, commit_is_idempotent)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	arena(heap, 0)[100] = 42;
	ASSERT_EQ(0, madvise(arena(heap, 0), ARENA, MADV_POPULATE_WRITE));
	EXPECT_EQ(0, heap_release(heap, 7, 9));
	EXPECT_EQ(42, arena(heap, 0)[100]);
	EXPECT_EQ(ARENA, heap_stat(heap, "committed"));
}

TEST_F(memory, populating_a_part_commits_the_requested_arena)
{
	struct heap *heap = &self->heap;

	set_state(heap, 0, 1, KARENA_REQUESTED);
	ASSERT_EQ(0, madvise(arena(heap, 0) + 8192, 4096, MADV_POPULATE_WRITE));
	EXPECT_EQ(0, touch(arena(heap, 0) + ARENA - 1));
	EXPECT_EQ(1, heap_stat(heap, "huge_arenas"));
}

TEST_F(memory, committed_arena_is_mapped_by_one_pmd)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_commit(heap, 0, 4));
	EXPECT_EQ(4 * ARENA, smaps(heap->window, "FilePmdMapped"));
	EXPECT_EQ(4 * ARENA, smaps(heap->window, "Rss"));
	EXPECT_EQ(4, heap_stat(heap, "huge_arenas"));
	ASSERT_EQ(0, heap_release(heap, 0, 2));
	EXPECT_EQ(2 * ARENA, smaps(heap->window, "FilePmdMapped"));
	EXPECT_EQ(2 * ARENA, smaps(heap->window, "Rss"));
	EXPECT_EQ(2, heap_stat(heap, "huge_arenas"));
}

/* The mapping must not depend on the earlier use of a frame's memory. */
TEST_F_TIMEOUT(memory, arena_is_huge_whatever_its_memory_was_before, SLOW)
{
	off_t bytes = (off_t)(kernel_is_slow() ? 64 * MIB : 512 * MIB);
	int arenas = kernel_is_slow() ? 16 : 64;
	struct heap *heap = &self->heap;
	char data[65536] = "";
	int fd = open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	ASSERT_GE(fd, 0);
	/* Pages of a file at indexes far above those of a window. */
	for (off_t at = 0; at < bytes; at += sizeof(data))
		ASSERT_EQ(sizeof(data), pwrite(fd, data, sizeof(data),
					       (1L << 42) + at));
	close(fd);
	for (int round = 0; round < 2; round++) {
		ASSERT_EQ(0, heap_commit(heap, 0, arenas));
		EXPECT_EQ(arenas * ARENA, smaps(heap->window, "FilePmdMapped"));
		ASSERT_EQ(0, heap_release(heap, 0, arenas));
	}
}

TEST_F(memory, arena_costs_at_most_one_fault)
{
	struct heap *heap = &self->heap;
	long before;

	/* Fault in the pages of the control region. */
	set_state(heap, 0, 64, KARENA_FREE);
	before = minor_faults();
	ASSERT_EQ(0, heap_commit(heap, 0, 32));
	for (size_t i = 0; i < 32 * ARENA; i += 4096)
		heap->window[i] = 1;
	EXPECT_LE(minor_faults() - before, 40);
	EXPECT_EQ(32, heap_stat(heap, "faults"));
}

/* NUMA balancing scans a process that runs for more than a second. */
TEST_F(memory, no_faults_follow_later)
{
	struct heap *heap = &self->heap;
	time_t until = time(NULL) + 5;
	long before;

	ASSERT_EQ(0, heap_commit(heap, 0, 32));
	before = minor_faults();
	while (time(NULL) < until) {
		for (size_t i = 0; i < 32 * ARENA; i += 4096)
			heap->window[i]++;
	}
	EXPECT_LE(minor_faults() - before, 8);
}

TEST_F(memory, commit_at_the_heap_limit_returns_enomem)
{
	struct heap heap;

	ASSERT_EQ(0, heap_make(&heap, 16 * ARENA, 3 * ARENA));
	ASSERT_EQ(0, heap_commit(&heap, 0, 2));
	EXPECT_EQ(-ENOMEM, heap_commit(&heap, 8, 4));
	EXPECT_EQ(KARENA_ACTIVE, state(&heap, 8));
	EXPECT_EQ(KARENA_REQUESTED, state(&heap, 9));
	EXPECT_EQ(3 * ARENA, heap_stat(&heap, "committed"));
	EXPECT_GE(heap_stat(&heap, "refused"), 1);
	EXPECT_EQ(0, touch(arena(&heap, 0)));
	EXPECT_EQ(0, touch(arena(&heap, 8)));
	/* Released memory can be committed again. */
	ASSERT_EQ(0, heap_release(&heap, 0, 1));
	EXPECT_EQ(0, heap_commit(&heap, 9, 1));
	EXPECT_EQ(-ENOMEM, heap_commit(&heap, 10, 1));
	heap_destroy(&heap);
}

TEST_F(memory, commit_at_the_module_limit_returns_enomem)
{
	struct heap *heap = &self->heap;
	char limit[64], small[64];

	ASSERT_EQ(0, read_text(LIMIT_PARAM, limit, sizeof(limit)));
	EXPECT_EQ(atol(limit), module_stat("limit"));
	snprintf(small, sizeof(small), "%ldM",
		 module_stat("committed") / (long)MIB + 5);
	ASSERT_EQ(0, write_text(LIMIT_PARAM, small));
	EXPECT_EQ(0, heap_commit(heap, 0, 2));
	EXPECT_EQ(-ENOMEM, heap_commit(heap, 2, 1));
	EXPECT_EQ(-EINVAL, write_text(LIMIT_PARAM, "many"));
	EXPECT_EQ(-EINVAL, write_text(LIMIT_PARAM, "12 apples"));
	ASSERT_EQ(0, write_text(LIMIT_PARAM, limit));
	EXPECT_EQ(0, heap_commit(heap, 2, 1));
}

static void *commit_all(void *data)
{
	struct heap *heap = data;

	for (int i = 0; i < 16; i++) {
		int err;

		set_state(heap, i, 1, KARENA_REQUESTED);
		err = madvise(arena(heap, i), ARENA, MADV_POPULATE_WRITE);
		if (err)
			return (void *)1;
		__atomic_fetch_add(arena(heap, i) + 64, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

TEST_F_TIMEOUT(memory, threads_committing_one_arena_get_one_frame, SLOW)
{
	struct heap *heap = &self->heap;
	pthread_t threads[4];
	void *failed;

	for (int round = 0; round < 20; round++) {
		for (int i = 0; i < 4; i++)
			pthread_create(&threads[i], NULL, commit_all, heap);
		for (int i = 0; i < 4; i++) {
			pthread_join(threads[i], &failed);
			EXPECT_EQ(NULL, failed);
		}
		EXPECT_EQ(16 * ARENA, heap_stat(heap, "committed"));
		EXPECT_EQ(16, heap_stat(heap, "huge_arenas"));
		for (int i = 0; i < 16; i++)
			EXPECT_EQ(4, arena(heap, i)[64]);
		ASSERT_EQ(0, heap_release(heap, 0, 16));
	}
	EXPECT_EQ(0, heap_stat(heap, "committed"));
}

struct commit {
	struct heap *heap;
	pthread_barrier_t *barrier;
	int err;
};

static void *commit_first(void *data)
{
	struct commit *commit = data;

	pthread_barrier_wait(commit->barrier);
	commit->err = madvise(commit->heap->window, ARENA, MADV_POPULATE_WRITE) ?
		      -errno : 0;
	return NULL;
}

TEST_F_TIMEOUT(memory, slower_of_two_commits_at_the_limit_succeeds, SLOW)
{
	struct commit commits[2];
	pthread_barrier_t barrier;
	pthread_t threads[2];
	struct heap heap;

	ASSERT_EQ(0, heap_make(&heap, ARENA, ARENA));
	pthread_barrier_init(&barrier, NULL, 2);
	for (int round = 0; round < 100; round++) {
		set_state(&heap, 0, 1, KARENA_REQUESTED);
		for (int i = 0; i < 2; i++) {
			commits[i] = (struct commit){ &heap, &barrier };
			pthread_create(&threads[i], NULL, commit_first, &commits[i]);
		}
		for (int i = 0; i < 2; i++) {
			pthread_join(threads[i], NULL);
			ASSERT_EQ(0, commits[i].err);
		}
		ASSERT_EQ(0, heap_release(&heap, 0, 1));
	}
	heap_destroy(&heap);
}

static bool stop;

/* Write to pages that other threads release and commit at any moment. */
static void *scribble(void *data)
{
	struct heap *heap = data;
	int pipes[2];
	long errors = 0;
	char left;

	if (pipe(pipes))
		return (void *)1;
	for (unsigned int i = 0; !__atomic_load_n(&stop, __ATOMIC_RELAXED); i++) {
		/* read() reports an error where a store would raise SIGBUS. */
		char *at = arena(heap, i % 8) + i * 4096UL % ARENA;

		if (write(pipes[1], "x", 1) != 1)
			errors++;
		/* After EFAULT the byte is still in the pipe, and must be removed. */
		else if (read(pipes[0], at, 1) != 1 &&
			 (errno != EFAULT || read(pipes[0], &left, 1) != 1))
			errors++;
		else if (i % 8 == 0)
			sched_yield();
	}
	close(pipes[0]);
	close(pipes[1]);
	return (void *)errors;
}

TEST_F_TIMEOUT(memory, release_races_with_writers, SLOW)
{
	struct heap *heap = &self->heap;
	pthread_t threads[2];
	void *errors;

	stop = false;
	for (int i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, scribble, heap);
	for (int round = 0; round < (kernel_is_slow() ? 60 : 300); round++) {
		int first = round % 6;

		ASSERT_EQ(0, heap_commit(heap, first, 2));
		arena(heap, first)[0] = 1;
		ASSERT_EQ(0, heap_release(heap, first, 2));
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	for (int i = 0; i < 2; i++) {
		pthread_join(threads[i], &errors);
		EXPECT_EQ(NULL, errors);
	}
	ASSERT_EQ(0, heap_release(heap, 0, 64));
	EXPECT_EQ(0, heap_stat(heap, "committed"));
	EXPECT_EQ(0, smaps(heap->window, "Rss"));
}

TEST_F(memory, direct_io_works)
{
	struct heap *heap = &self->heap;
	int disk = open(DISK, O_RDWR | O_DIRECT | O_CLOEXEC);

	if (disk < 0)
		SKIP(return, "no scratch disk " DISK);
	ASSERT_EQ(0, heap_commit(heap, 0, 2));
	for (size_t i = 0; i < ARENA; i++)
		arena(heap, 0)[i] = i * 31 + i / 4096;
	ASSERT_EQ(ARENA, pwrite(disk, arena(heap, 0), ARENA, 0));
	ASSERT_EQ(ARENA, pread(disk, arena(heap, 1), ARENA, 0));
	EXPECT_EQ(0, memcmp(arena(heap, 0), arena(heap, 1), ARENA));
	/* A read into uncommitted memory fails, without other effects. */
	EXPECT_EQ(-1, pread(disk, arena(heap, 2), 4096, 0));
	EXPECT_EQ(EFAULT, errno);
	close(disk);
}

TEST_F(memory, pinned_page_outlives_its_release)
{
	struct heap *heap = &self->heap;
	long orphans = module_stat("pinned_orphans");
	struct iovec vector;
	char page[4096];
	int pipes[2];

	ASSERT_EQ(0, pipe(pipes));
	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	memset(arena(heap, 0), 'p', ARENA);
	vector = (struct iovec){ arena(heap, 0) + 8192, 4096 };
	ASSERT_EQ(4096, vmsplice(pipes[1], &vector, 1, 0));

	ASSERT_EQ(0, heap_release(heap, 0, 1));
	EXPECT_EQ(orphans + 1, module_stat("pinned_orphans"));
	EXPECT_EQ(ARENA, heap_stat(heap, "committed"));
	ASSERT_EQ(0, heap_commit(heap, 0, 32));
	EXPECT_EQ(0, count_other(arena(heap, 0), 32 * ARENA, 0));
	memset(arena(heap, 0), 'n', 32 * ARENA);

	ASSERT_EQ(4096, read(pipes[0], page, 4096));
	EXPECT_EQ(0, count_other(page, 4096, 'p'));
	ASSERT_EQ(0, heap_release(heap, 0, 32));
	EXPECT_TRUE(module_stat_becomes("pinned_orphans", orphans));
	EXPECT_TRUE(heap_stat_becomes(heap, "committed", 0));
	close(pipes[0]);
	close(pipes[1]);
}

TEST_F(memory, pinned_pages_count_against_the_limit)
{
	struct heap heap;
	int pipes[2], n;

	ASSERT_EQ(0, pipe(pipes));
	ASSERT_EQ(0, heap_make(&heap, ARENA, ARENA));
	for (n = 0; n < 8 && !heap_commit(&heap, 0, 1); n++) {
		struct iovec vector = { heap.window, 4096 };

		ASSERT_EQ(4096, vmsplice(pipes[1], &vector, 1, 0));
		ASSERT_EQ(0, heap_release(&heap, 0, 1));
	}
	EXPECT_EQ(1, n);
	EXPECT_EQ(ARENA, module_stat("committed"));
	/* Pinned pages still count without the heap, until they are unpinned. */
	heap_destroy(&heap);
	EXPECT_EQ(ARENA, module_stat("committed"));
	EXPECT_EQ(1, module_stat("pinned_orphans"));
	close(pipes[0]);
	close(pipes[1]);
	EXPECT_TRUE(module_stat_becomes("committed", 0));
	EXPECT_TRUE(module_stat_becomes("pinned_orphans", 0));
}

#define NR_REFUSED	400

/* Waiting for each range would take 20 seconds. */
TEST_F(memory, rejected_ranges_do_not_wait_one_by_one)
{
	static struct karena_range ranges[NR_REFUSED];
	struct timespec start, end;
	struct iovec vector;
	struct heap heap;
	int pipes[2];

	ASSERT_EQ(0, pipe(pipes));
	ASSERT_EQ(0, heap_open(&heap, NR_REFUSED * ARENA, ARENA));
	ASSERT_EQ(0, heap_commit(&heap, 0, 1));
	vector = (struct iovec){ heap.window, 4096 };
	ASSERT_EQ(4096, vmsplice(pipes[1], &vector, 1, 0));
	ASSERT_EQ(0, heap_release(&heap, 0, 1));
	for (int i = 0; i < NR_REFUSED; i++)
		ranges[i] = (struct karena_range){ .offset = i * ARENA, .length = ARENA };
	clock_gettime(CLOCK_MONOTONIC, &start);
	EXPECT_EQ(-ENOMEM, heap_ranges(&heap, KARENA_COMMIT, ranges, NR_REFUSED));
	clock_gettime(CLOCK_MONOTONIC, &end);
	EXPECT_LT(end.tv_sec - start.tv_sec, 10);
	EXPECT_EQ(NR_REFUSED, heap_stat(&heap, "refused"));
	heap_destroy(&heap);
	close(pipes[0]);
	close(pipes[1]);
}

struct reaper {
	pthread_t thread;
	pthread_barrier_t barrier;
	struct heap *heap;
	int pipe;
	bool stop;
};

/*
 * A round begins and ends at the barrier. A thread that is still leaving it would otherwise
 * miss the end.
 */
static void reaper_end(struct reaper *reaper)
{
	reaper->stop = true;
	pthread_barrier_wait(&reaper->barrier);
	pthread_join(reaper->thread, NULL);
}

/* Every release looks for pages that are no longer pinned, even if it releases nothing. */
static void *reap(void *data)
{
	struct reaper *reaper = data;

	for (;;) {
		pthread_barrier_wait(&reaper->barrier);
		if (reaper->stop)
			return NULL;
		heap_range(reaper->heap, KARENA_RELEASE, 4 * ARENA, ARENA);
		pthread_barrier_wait(&reaper->barrier);
	}
}

/*
 * As soon as a page is unpinned, its memory can be committed again, whichever thread frees
 * it.
 */
TEST_F_TIMEOUT(memory, commit_succeeds_while_another_thread_frees_unpinned_pages, SLOW)
{
	struct reaper reaper = {};
	int refused = 0, pipes[2];
	struct heap heap;
	time_t until;
	char byte;

	ASSERT_EQ(0, pipe(pipes));
	ASSERT_EQ(0, heap_open(&heap, 8 * ARENA, ARENA));
	reaper.heap = &heap;
	pthread_barrier_init(&reaper.barrier, NULL, 2);
	ASSERT_EQ(0, pthread_create(&reaper.thread, NULL, reap, &reaper));
	/* On a fast machine, many rounds; on a slow one, some are enough. */
	until = time(NULL) + 8;
	for (int round = 0; round < 50 || time(NULL) < until; round++) {
		struct iovec vector = { heap.window, 1 };

		ASSERT_EQ(0, heap_range(&heap, KARENA_COMMIT, 0, ARENA));
		ASSERT_EQ(1, vmsplice(pipes[1], &vector, 1, 0));
		ASSERT_EQ(0, heap_range(&heap, KARENA_RELEASE, 0, ARENA));
		ASSERT_EQ(1, read(pipes[0], &byte, 1));
		pthread_barrier_wait(&reaper.barrier);
		refused += heap_range(&heap, KARENA_COMMIT, 0, ARENA) != 0;
		pthread_barrier_wait(&reaper.barrier);
		ASSERT_EQ(0, heap_range(&heap, KARENA_RELEASE, 0, ARENA));
	}
	EXPECT_EQ(0, refused);
	reaper_end(&reaper);
	heap_destroy(&heap);
	close(pipes[0]);
	close(pipes[1]);
}

/* Hold a reference to the page for a moment, and then drop it. */
static void *lets_go(void *data)
{
	struct reaper *reaper = data;
	char byte;

	for (;;) {
		pthread_barrier_wait(&reaper->barrier);
		if (reaper->stop)
			return NULL;
		usleep(5000);
		if (read(reaper->pipe, &byte, 1) != 1)
			return NULL;
		pthread_barrier_wait(&reaper->barrier);
	}
}

/*
 * The fault handler of another process does the same: it has a reference until it returns.
 */
TEST_F(memory, commit_waits_for_a_short_lived_reference)
{
	struct reaper reaper = {};
	int refused = 0, pipes[2];
	struct heap heap;

	ASSERT_EQ(0, pipe(pipes));
	ASSERT_EQ(0, heap_open(&heap, 8 * ARENA, ARENA));
	reaper.pipe = pipes[0];
	pthread_barrier_init(&reaper.barrier, NULL, 2);
	ASSERT_EQ(0, pthread_create(&reaper.thread, NULL, lets_go, &reaper));
	for (int round = 0; round < 20; round++) {
		struct iovec vector = { heap.window, 1 };

		ASSERT_EQ(0, heap_commit(&heap, 0, 1));
		ASSERT_EQ(1, vmsplice(pipes[1], &vector, 1, 0));
		ASSERT_EQ(0, heap_release(&heap, 0, 1));
		pthread_barrier_wait(&reaper.barrier);
		refused += heap_commit(&heap, 1, 1) != 0;
		pthread_barrier_wait(&reaper.barrier);
		ASSERT_EQ(0, heap_release(&heap, 0, 2));
	}
	TH_LOG("refused %d times", refused);
	/* On a slow machine a moment may be long. */
	EXPECT_LT(refused, 10);
	reaper_end(&reaper);
	heap_destroy(&heap);
	close(pipes[0]);
	close(pipes[1]);
}

TEST_F(memory, other_processes_can_read_the_memory)
{
	struct heap *heap = &self->heap;
	char expected[64] = "read by process_vm_readv", data[64] = "";
	struct iovec local = { data, sizeof(data) };
	struct iovec remote = { arena(heap, 0) + 4000, sizeof(data) };
	pid_t parent = getpid(), child;

	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	memcpy(remote.iov_base, expected, sizeof(expected));
	child = fork();
	if (!child) {
		if (process_vm_readv(parent, &local, 1, &remote, 1, 0) != 64)
			_exit(1);
		_exit(memcmp(data, expected, 64) ? 2 : 0);
	}
	EXPECT_EQ(0, child_status(child));
}

TEST_HARNESS_MAIN
