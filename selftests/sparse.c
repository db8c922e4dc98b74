// SPDX-License-Identifier: GPL-2.0
/*
 * Sparse frames: single pages of an arena are committed and released. Tests what they cost
 * and what happens to them when the arena is volatile.
 */
#include <pthread.h>
#include <sys/uio.h>

#include "child.h"
#include "pages.h"

FIXTURE(sparse) {
	struct heap heap;
};

FIXTURE_SETUP(sparse)
{
	struct karena_info info = { .size = sizeof(info) };

	REQUIRE_MODULE();
	ASSERT_EQ(0, device_call(KARENA_INFO, &info));
	ASSERT_TRUE(info.features & KARENA_FEATURE_SPARSE);
	ASSERT_EQ(0, heap_open(&self->heap, 32 * ARENA, 0));
}

FIXTURE_TEARDOWN(sparse)
{
	heap_destroy(&self->heap);
	EXPECT_NOTHING_LEFT();
}

TEST_F(sparse, few_pages_count_as_few_pages)
{
	struct karena_info info = { .size = sizeof(info) };
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, commit_pages(heap, 0, 3, 3));
	EXPECT_EQ(0, count_other(page(heap, 0, 3), 3 * PAGE, 0));
	EXPECT_HEAP_STATS(heap, 0, 1, 3);
	EXPECT_EQ(3 * PAGE, smaps(heap->window, "Rss"));
	EXPECT_EQ(0, smaps(heap->window, "FilePmdMapped"));
	ASSERT_EQ(0, commit_pages(heap, 0, 4, 10));
	ASSERT_EQ(0, commit_pages(heap, 5, 511, 1));
	EXPECT_HEAP_STATS(heap, 0, 2, 12);
	EXPECT_EQ(2, module_stat("sparse_arenas"));
	EXPECT_EQ(12, module_stat("sparse_pages"));
	ASSERT_EQ(0, device_call(KARENA_INFO, &info));
	EXPECT_EQ(12 * PAGE, info.committed);
}

TEST_F(sparse, ioctl_sets_the_state_word_and_madvise_does_not)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, call_pages(heap, KARENA_COMMIT, 0, 100, 2));
	EXPECT_EQ(KARENA_ACTIVE | KARENA_SPARSE, state(heap, 0));
	EXPECT_EQ(2, reachable(heap, 0, 0, 512));
	EXPECT_HEAP_STATS(heap, 0, 1, 2);

	set_state(heap, 1, 1, KARENA_REQUESTED | KARENA_SPARSE);
	ASSERT_EQ(0, madvise(page(heap, 1, 7), PAGE, MADV_POPULATE_WRITE));
	EXPECT_EQ(KARENA_REQUESTED | KARENA_SPARSE, state(heap, 1));
	EXPECT_EQ(1, reachable(heap, 1, 0, 512));
	ASSERT_EQ(0, call_pages(heap, KARENA_COMMIT, 1, 7, 1));
	EXPECT_EQ(KARENA_ACTIVE | KARENA_SPARSE, state(heap, 1));
	EXPECT_HEAP_STATS(heap, 0, 2, 3);
}

#define NR_SMALL	64

/* Many heaps, because the kernel charges a cgroup up to half a megabyte in advance. */
static void make_small_heaps(struct child *child)
{
	static struct heap heaps[NR_SMALL];
	long before = 0, cost;

	(void)child;
	CHECK(group_enter());
	for (int i = 0; i < NR_SMALL; i++) {
		if (i == 1)
			before = group_stat("memory.current", NULL);
		CHECK(!heap_make(&heaps[i], 64 * ARENA, 0));
		CHECK(!commit_pages(&heaps[i], 0, 0, 4));
		fill(&heaps[i], 0, 0, 4);
	}
	cost = (group_stat("memory.current", NULL) - before) / (NR_SMALL - 1);
	CHECK(cost >= (long)(4 * PAGE));
	CHECK(cost < (long)(4 * PAGE + heaps[0].control_size + 65536));
}

TEST_F(sparse, small_heap_uses_little_memory)
{
	ASSERT_EQ(0, group_make());
	EXPECT_EQ(0, in_child(make_small_heaps));
	EXPECT_EQ(0, group_remove());
}

TEST_F(sparse, uncommitted_pages_of_an_arena_raise_sigbus)
{
	struct heap *heap = &self->heap;
	int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);

	ASSERT_EQ(0, commit_pages(heap, 0, 8, 8));
	EXPECT_EQ(SIGBUS, touch(page(heap, 0, 7) + PAGE - 1));
	EXPECT_EQ(0, touch(page(heap, 0, 8)));
	EXPECT_EQ(SIGBUS, touch(page(heap, 0, 16)));
	EXPECT_EQ(-1, read(zero, page(heap, 0, 7), PAGE));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(PAGE, read(zero, page(heap, 0, 15), 2 * PAGE));
	EXPECT_EQ(-1, madvise(page(heap, 0, 15), 2 * PAGE, MADV_POPULATE_WRITE));
	EXPECT_EQ(EFAULT, errno);
	/* A touch commits nothing, even in a requested arena. */
	set_state(heap, 0, 1, KARENA_REQUESTED | KARENA_SPARSE);
	EXPECT_EQ(SIGBUS, touch(page(heap, 0, 16)));
	EXPECT_HEAP_STATS(heap, 0, 1, 8);
	close(zero);
}

TEST_F(sparse, released_pages_are_freed_at_once_and_zero_when_committed)
{
	struct heap *heap = &self->heap;

	for (int by_call = 0; by_call < 2; by_call++) {
		ASSERT_EQ(0, commit_pages(heap, 0, 0, 20));
		fill(heap, 0, 0, 20);
		ASSERT_EQ(0, by_call ? call_pages(heap, KARENA_RELEASE, 0, 5, 10) :
			  release_pages(heap, 0, 5, 10));
		EXPECT_HEAP_STATS(heap, 0, 1, 10);
		EXPECT_EQ(10 * PAGE, smaps(heap->window, "Rss"));
		EXPECT_EQ(0, spoilt(heap, 0, 0, 5));
		EXPECT_EQ(0, spoilt(heap, 0, 15, 5));
		EXPECT_EQ(0, reachable(heap, 0, 5, 10));
		ASSERT_EQ(0, by_call ? call_pages(heap, KARENA_COMMIT, 0, 0, 20) :
			  commit_pages(heap, 0, 0, 20));
		EXPECT_EQ(0, count_other(page(heap, 0, 5), 10 * PAGE, 0));
		EXPECT_EQ(0, spoilt(heap, 0, 0, 5));
		EXPECT_EQ(0, spoilt(heap, 0, 15, 5));
		ASSERT_EQ(0, release_pages(heap, 0, 0, 20));
		EXPECT_HEAP_STATS(heap, 0, 0, 0);
	}
}

TEST_F(sparse, uncommitted_pages_can_be_released)
{
	struct heap *heap = &self->heap;

	EXPECT_EQ(0, release_pages(heap, 3, 10, 20));
	EXPECT_EQ(0, call_pages(heap, KARENA_RELEASE, 3, 10, 20));
	ASSERT_EQ(0, commit_pages(heap, 0, 0, 2));
	EXPECT_EQ(0, release_pages(heap, 0, 2, 510));
	EXPECT_EQ(0, call_pages(heap, KARENA_RELEASE, 0, 1, 1023));
	EXPECT_HEAP_STATS(heap, 0, 1, 1);
	EXPECT_EQ(0, madvise(heap->window, heap->size, MADV_REMOVE));
	EXPECT_EQ(0, call_pages(heap, KARENA_RELEASE, 0, 0, 32 * 512));
	EXPECT_HEAP_STATS(heap, 0, 0, 0);
	EXPECT_EQ(KARENA_FREE, state(heap, 0));
}

TEST_F(sparse, pinned_page_outlives_its_release)
{
	struct heap *heap = &self->heap;
	struct iovec vector;
	char copy[PAGE];
	int pipes[2];

	ASSERT_EQ(0, pipe(pipes));
	ASSERT_EQ(0, commit_pages(heap, 0, 0, 8));
	memset(heap->window, 'p', 8 * PAGE);
	vector = (struct iovec){ page(heap, 0, 5), PAGE };
	ASSERT_EQ(PAGE, vmsplice(pipes[1], &vector, 1, 0));
	ASSERT_EQ(0, release_pages(heap, 0, 0, 8));
	EXPECT_EQ(1, module_stat("pinned_orphans"));
	EXPECT_EQ(PAGE, heap_stat(heap, "committed"));
	EXPECT_EQ(0, heap_stat(heap, "sparse_pages"));
	ASSERT_EQ(0, commit_pages(heap, 0, 0, 512));
	EXPECT_EQ(0, count_other(heap->window, ARENA, 0));
	memset(heap->window, 'n', ARENA);
	ASSERT_EQ(PAGE, read(pipes[0], copy, PAGE));
	EXPECT_EQ(0, count_other(copy, PAGE, 'p'));
	close(pipes[0]);
	close(pipes[1]);
}

TEST_F(sparse, whole_arenas_are_huge_and_cost_one_fault_each)
{
	struct heap *heap = &self->heap;
	long before;

	/* Fault in the pages of the control region. */
	set_state(heap, 0, 32, KARENA_FREE);
	before = minor_faults();
	ASSERT_EQ(0, call_pages(heap, KARENA_COMMIT, 0, 0, 8 * 512));
	EXPECT_LE(minor_faults() - before, 4);
	for (int i = 0; i < 8; i++)
		EXPECT_EQ(KARENA_ACTIVE, state(heap, i));
	EXPECT_EQ(0, count_other(heap->window, 8 * ARENA, 0));
	EXPECT_LE(minor_faults() - before, 8 + 4);
	EXPECT_EQ(8 * ARENA, smaps(heap->window, "FilePmdMapped"));
	EXPECT_HEAP_STATS(heap, 8, 0, 0);
}

TEST_F(sparse, commit_of_the_missing_pages_keeps_the_others)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, commit_pages(heap, 0, 10, 20));
	fill(heap, 0, 10, 20);
	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	EXPECT_EQ(KARENA_ACTIVE | KARENA_SPARSE, state(heap, 0));
	EXPECT_HEAP_STATS(heap, 0, 1, 512);
	EXPECT_EQ(0, spoilt(heap, 0, 10, 20));
	EXPECT_EQ(0, count_other(page(heap, 0, 0), 10 * PAGE, 0));
	EXPECT_EQ(0, count_other(page(heap, 0, 30), 482 * PAGE, 0));
}

TEST_F(sparse, arena_that_lost_all_pages_can_become_huge)
{
	struct heap *heap = &self->heap;

	for (int by_call = 0; by_call < 2; by_call++) {
		ASSERT_EQ(0, call_pages(heap, KARENA_COMMIT, 0, 0, 511));
		fill(heap, 0, 0, 511);
		ASSERT_EQ(0, release_pages(heap, 0, 0, 300));
		ASSERT_EQ(0, release_pages(heap, 0, 300, 211));
		EXPECT_HEAP_STATS(heap, 0, 0, 0);
		ASSERT_EQ(0, by_call ? call_pages(heap, KARENA_COMMIT, 0, 0, 512) :
			  heap_commit(heap, 0, 1));
		EXPECT_HEAP_STATS(heap, 1, 0, 0);
		EXPECT_EQ(KARENA_ACTIVE, state(heap, 0));
		EXPECT_EQ(0, count_other(heap->window, ARENA, 0));
		ASSERT_EQ(0, heap_release(heap, 0, 1));
	}
}

TEST_F(sparse, ioctl_corrects_the_state_word_of_committed_memory)
{
	static const uint32_t words[] = {
		KARENA_FREE, KARENA_REQUESTED, KARENA_REQUESTED | KARENA_SPARSE,
		KARENA_ACTIVE, KARENA_ACTIVE | KARENA_SPARSE,
	};
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	ASSERT_EQ(0, commit_pages(heap, 1, 0, 8));
	fill(heap, 0, 0, 512);
	fill(heap, 1, 0, 8);
	for (int i = 0; i < ARRAY_SIZE(words); i++) {
		set_state(heap, 0, 2, words[i]);
		ASSERT_EQ(0, call_pages(heap, KARENA_COMMIT, 0, 0, 512));
		EXPECT_EQ(KARENA_ACTIVE, state(heap, 0));
		ASSERT_EQ(0, call_pages(heap, KARENA_COMMIT, 1, 2, 2));
		EXPECT_EQ(KARENA_ACTIVE | KARENA_SPARSE, state(heap, 1));
	}
	EXPECT_EQ(0, spoilt(heap, 0, 0, 512));
	EXPECT_EQ(0, spoilt(heap, 1, 0, 8));
	EXPECT_HEAP_STATS(heap, 1, 1, 8);
}

TEST_F(sparse, sparse_arena_can_be_volatile_and_reused)
{
	struct heap *heap = &self->heap;
	uint32_t word;

	ASSERT_EQ(0, commit_pages(heap, 0, 10, 20));
	fill(heap, 0, 10, 20);
	word = make_volatile(heap, 0);
	EXPECT_EQ(1, heap_stat(heap, "volatile_arenas"));
	EXPECT_EQ(-EBUSY, call_pages(heap, KARENA_COMMIT, 0, 10, 21));
	EXPECT_TRUE(reuse_sparse(heap, 0, word));
	shrink_everything();
	EXPECT_EQ(0, spoilt(heap, 0, 10, 20));
	EXPECT_EQ(0, heap_stat(heap, "reclaimed"));
	EXPECT_HEAP_STATS(heap, 0, 1, 20);
}

TEST_F(sparse, reclaim_takes_all_pages_of_a_sparse_arena)
{
	struct heap *heap = &self->heap;
	uint32_t words[2];

	for (int i = 0; i < 3; i++) {
		ASSERT_EQ(0, commit_pages(heap, i, 10, 20));
		fill(heap, i, 10, 20);
	}
	for (int i = 0; i < 2; i++)
		words[i] = make_volatile(heap, i);
	shrink_everything();
	for (int i = 0; i < 2; i++) {
		EXPECT_FALSE(reuse_sparse(heap, i, words[i]));
		EXPECT_EQ(KARENA_FREE, state(heap, i));
		EXPECT_EQ(0, reachable(heap, i, 0, 512));
	}
	EXPECT_EQ(0, spoilt(heap, 2, 10, 20));
	EXPECT_EQ(2, heap_stat(heap, "reclaimed"));
	EXPECT_HEAP_STATS(heap, 0, 1, 20);
	ASSERT_EQ(0, commit_pages(heap, 0, 10, 20));
	EXPECT_EQ(0, count_other(page(heap, 0, 10), 20 * PAGE, 0));
	ASSERT_EQ(0, heap_commit(heap, 1, 1));
	EXPECT_HEAP_STATS(heap, 1, 2, 40);
}

/* One page in a pipe also keeps the other pages. */
TEST_F(sparse, reclaim_leaves_a_sparse_arena_with_a_pinned_page)
{
	struct heap *heap = &self->heap;
	struct iovec vector;
	char copy[PAGE];
	uint32_t word;
	int pipes[2];

	ASSERT_EQ(0, pipe(pipes));
	ASSERT_EQ(0, commit_pages(heap, 0, 10, 20));
	fill(heap, 0, 10, 20);
	vector = (struct iovec){ page(heap, 0, 25), PAGE };
	ASSERT_EQ(PAGE, vmsplice(pipes[1], &vector, 1, 0));
	word = make_volatile(heap, 0);
	shrink_everything();
	EXPECT_TRUE(reuse_sparse(heap, 0, word));
	EXPECT_EQ(0, spoilt(heap, 0, 10, 20));
	ASSERT_EQ(PAGE, read(pipes[0], copy, PAGE));
	EXPECT_EQ(0, memcmp(copy, page(heap, 0, 25), PAGE));
	word = make_volatile(heap, 0);
	shrink_everything();
	EXPECT_FALSE(reuse_sparse(heap, 0, word));
	close(pipes[0]);
	close(pipes[1]);
}

TEST_F(sparse, direct_io_reaches_only_committed_pages)
{
	struct heap *heap = &self->heap;
	int disk = open(DISK, O_RDWR | O_DIRECT | O_CLOEXEC);

	if (disk < 0)
		SKIP(return, "no scratch disk " DISK);
	ASSERT_EQ(0, commit_pages(heap, 0, 0, 64));
	ASSERT_EQ(0, commit_pages(heap, 1, 100, 64));
	fill(heap, 0, 0, 64);
	ASSERT_EQ(64 * PAGE, pwrite(disk, page(heap, 0, 0), 64 * PAGE, 0));
	ASSERT_EQ(64 * PAGE, pread(disk, page(heap, 1, 100), 64 * PAGE, 0));
	EXPECT_EQ(0, memcmp(page(heap, 0, 0), page(heap, 1, 100), 64 * PAGE));
	EXPECT_EQ(-1, pread(disk, page(heap, 1, 99), PAGE, 0));
	EXPECT_EQ(EFAULT, errno);
	close(disk);
}

struct committer {
	pthread_t thread;
	struct heap *heap;
	pthread_barrier_t *barrier;
	int number;
	int err;
};

/* Each thread commits all pages of the arena in its own order, and touches each one. */
static void *commit_main(void *data)
{
	struct committer *committer = data;

	pthread_barrier_wait(committer->barrier);
	for (int i = 0; i < 512 && !committer->err; i++) {
		size_t at = (i * 5 + committer->number * 128) % 512;

		committer->err = call_pages(committer->heap, KARENA_COMMIT, 0, at, 1);
		if (!committer->err)
			__atomic_fetch_add(page(committer->heap, 0, at), 1,
					   __ATOMIC_RELAXED);
	}
	return NULL;
}

TEST_F_TIMEOUT(sparse, threads_committing_the_same_pages_share_them, SLOW)
{
	struct heap *heap = &self->heap;
	struct committer committers[4];
	pthread_barrier_t barrier;

	pthread_barrier_init(&barrier, NULL, 4);
	for (int i = 0; i < 4; i++) {
		committers[i] = (struct committer){
			.heap = heap, .barrier = &barrier, .number = i
		};
		pthread_create(&committers[i].thread, NULL, commit_main,
			       &committers[i]);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(committers[i].thread, NULL);
		EXPECT_EQ(0, committers[i].err);
	}
	for (int i = 0; i < 512; i++)
		ASSERT_EQ(4, page(heap, 0, i)[0]);
	EXPECT_HEAP_STATS(heap, 0, 1, 512);
}

TEST_HARNESS_MAIN
