// SPDX-License-Identifier: GPL-2.0
/*
 * Sparse frames: pages of an arena that come and go by themselves, what they cost,
 * and huge frames that become sparse when most of them is released.
 */
#include <pthread.h>
#include <sys/uio.h>

#include "common.h"

#define GROUP	CGROUPS "/karena-sparse"

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
	EXPECT_TRUE(figure_becomes("committed", 0));
	EXPECT_EQ(0, figure("sparse_arenas"));
	EXPECT_EQ(0, figure("sparse_pages"));
	EXPECT_EQ(0, figure("huge_arenas"));
	EXPECT_EQ(0, figure("pinned_orphans"));
}

static char *page(const struct heap *heap, size_t index, size_t page)
{
	return arena(heap, index) + page * PAGE;
}

/* Commit pages as a program without a descriptor does: 0 or -errno. */
static int commit_pages(const struct heap *heap, size_t index, size_t first,
			size_t count)
{
	set_state(heap, index, 1, KARENA_REQUESTED | KARENA_SPARSE);
	if (madvise(page(heap, index, first), count * PAGE, MADV_POPULATE_WRITE))
		return -errno;
	set_state(heap, index, 1, KARENA_ACTIVE | KARENA_SPARSE);
	return 0;
}

static int release_pages(const struct heap *heap, size_t index, size_t first,
			 size_t count)
{
	return madvise(page(heap, index, first), count * PAGE, MADV_REMOVE) ?
	       -errno : 0;
}

/* The same two by the calls. */
static int call_pages(const struct heap *heap, unsigned int cmd, size_t index,
		      size_t first, size_t count)
{
	return heap_range(heap, cmd, index * ARENA + first * PAGE, count * PAGE);
}

/* Each page of an arena filled with a byte of its own. */
static void fill(const struct heap *heap, size_t index, size_t first, size_t count)
{
	for (size_t i = first; i < first + count; i++)
		memset(page(heap, index, i), i * 7 + index + 1, PAGE);
}

/* How many of some pages are not as they were filled. */
static size_t spoilt(const struct heap *heap, size_t index, size_t first,
		     size_t count)
{
	size_t pages = 0;

	for (size_t i = first; i < first + count; i++)
		pages += count_other(page(heap, index, i), PAGE,
				     i * 7 + index + 1) != 0;
	return pages;
}

/* How many of some pages a touch reaches. */
static size_t reachable(const struct heap *heap, size_t index, size_t first,
			size_t count)
{
	size_t pages = 0;

	for (size_t i = first; i < first + count; i++)
		pages += !touch(page(heap, index, i) + i);
	return pages;
}

#define EXPECT_FIGURES(_heap, _huge, _arenas, _pages)			\
	do {								\
		EXPECT_EQ(_huge, heap_figure(_heap, "huge_arenas"));	\
		EXPECT_EQ(_arenas, heap_figure(_heap, "sparse_arenas"));\
		EXPECT_EQ(_pages, heap_figure(_heap, "sparse_pages"));	\
		EXPECT_EQ((_huge) * (long)ARENA + (_pages) * (long)PAGE, \
			  heap_figure(_heap, "committed"));		\
	} while (0)

TEST_F(sparse, a_few_pages_are_counted_as_a_few_pages)
{
	struct karena_info info = { .size = sizeof(info) };
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, commit_pages(heap, 0, 3, 3));
	EXPECT_EQ(0, count_other(page(heap, 0, 3), 3 * PAGE, 0));
	EXPECT_FIGURES(heap, 0, 1, 3);
	EXPECT_EQ(3 * PAGE, smaps(heap->window, "Rss"));
	EXPECT_EQ(0, smaps(heap->window, "FilePmdMapped"));
	ASSERT_EQ(0, commit_pages(heap, 0, 4, 10));
	ASSERT_EQ(0, commit_pages(heap, 5, 511, 1));
	EXPECT_FIGURES(heap, 0, 2, 12);
	EXPECT_EQ(2, figure("sparse_arenas"));
	EXPECT_EQ(12, figure("sparse_pages"));
	ASSERT_EQ(0, device_call(KARENA_INFO, &info));
	EXPECT_EQ(12 * PAGE, info.committed);
}

TEST_F(sparse, the_call_sets_the_state_word_and_madvise_leaves_it)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, call_pages(heap, KARENA_COMMIT, 0, 100, 2));
	EXPECT_EQ(KARENA_ACTIVE | KARENA_SPARSE, state(heap, 0));
	EXPECT_EQ(2, reachable(heap, 0, 0, 512));
	EXPECT_FIGURES(heap, 0, 1, 2);

	set_state(heap, 1, 1, KARENA_REQUESTED | KARENA_SPARSE);
	ASSERT_EQ(0, madvise(page(heap, 1, 7), PAGE, MADV_POPULATE_WRITE));
	EXPECT_EQ(KARENA_REQUESTED | KARENA_SPARSE, state(heap, 1));
	EXPECT_EQ(1, reachable(heap, 1, 0, 512));
	ASSERT_EQ(0, call_pages(heap, KARENA_COMMIT, 1, 7, 1));
	EXPECT_EQ(KARENA_ACTIVE | KARENA_SPARSE, state(heap, 1));
	EXPECT_FIGURES(heap, 0, 2, 3);
}

/* The work of a child within the group; its exit status is the failed line. */
#define CHECK(_condition)						\
	do {								\
		if (!(_condition))					\
			_exit(__LINE__ % 251 + 1);			\
	} while (0)

static long group_figure(const char *file)
{
	char path[256], text[64];

	snprintf(path, sizeof(path), GROUP "/%s", file);
	return read_text(path, text, sizeof(text)) ? -1 : atol(text);
}

#define NR_SMALL	64

/* Many, because a cgroup is charged ahead, up to half a megabyte. */
static void make_small_heaps(void)
{
	static struct heap heaps[NR_SMALL];
	long before = 0, cost;

	CHECK(!write_text(GROUP "/cgroup.procs", "0"));
	for (int i = 0; i < NR_SMALL; i++) {
		if (i == 1)
			before = group_figure("memory.current");
		CHECK(!heap_make(&heaps[i], 64 * ARENA, 0));
		CHECK(!commit_pages(&heaps[i], 0, 0, 4));
		fill(&heaps[i], 0, 0, 4);
	}
	cost = (group_figure("memory.current") - before) / (NR_SMALL - 1);
	CHECK(cost >= (long)(4 * PAGE));
	CHECK(cost < (long)(4 * PAGE + heaps[0].control_size + 65536));
	_exit(0);
}

static bool group_make(const char *max)
{
	write_text(CGROUPS "/cgroup.subtree_control", "+memory");
	if (mkdir(GROUP, 0755) && errno != EEXIST)
		return false;
	return !write_text(GROUP "/memory.max", max);
}

TEST_F(sparse, a_small_heap_costs_little)
{
	pid_t child;

	ASSERT_TRUE(group_make("max"));
	child = fork();
	if (!child)
		make_small_heaps();
	EXPECT_EQ(0, child_status(child));
	EXPECT_EQ(0, rmdir(GROUP));
}

TEST_F(sparse, what_is_not_committed_of_an_arena_is_sigbus)
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
	/* A touch commits nothing, even where it was asked for. */
	set_state(heap, 0, 1, KARENA_REQUESTED | KARENA_SPARSE);
	EXPECT_EQ(SIGBUS, touch(page(heap, 0, 16)));
	EXPECT_FIGURES(heap, 0, 1, 8);
	close(zero);
}

TEST_F(sparse, what_is_released_is_free_at_once_and_comes_back_zeroed)
{
	struct heap *heap = &self->heap;

	for (int by_call = 0; by_call < 2; by_call++) {
		ASSERT_EQ(0, commit_pages(heap, 0, 0, 20));
		fill(heap, 0, 0, 20);
		ASSERT_EQ(0, by_call ? call_pages(heap, KARENA_RELEASE, 0, 5, 10) :
			  release_pages(heap, 0, 5, 10));
		EXPECT_FIGURES(heap, 0, 1, 10);
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
		EXPECT_FIGURES(heap, 0, 0, 0);
	}
}

TEST_F(sparse, what_is_not_committed_can_be_released)
{
	struct heap *heap = &self->heap;

	EXPECT_EQ(0, release_pages(heap, 3, 10, 20));
	EXPECT_EQ(0, call_pages(heap, KARENA_RELEASE, 3, 10, 20));
	ASSERT_EQ(0, commit_pages(heap, 0, 0, 2));
	EXPECT_EQ(0, release_pages(heap, 0, 2, 510));
	EXPECT_EQ(0, call_pages(heap, KARENA_RELEASE, 0, 1, 1023));
	EXPECT_FIGURES(heap, 0, 1, 1);
	EXPECT_EQ(0, madvise(heap->window, heap->size, MADV_REMOVE));
	EXPECT_EQ(0, call_pages(heap, KARENA_RELEASE, 0, 0, 32 * 512));
	EXPECT_FIGURES(heap, 0, 0, 0);
	EXPECT_EQ(KARENA_FREE, state(heap, 0));
}

TEST_F(sparse, half_of_a_huge_arena_released_makes_it_sparse)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_commit(heap, 0, 2));
	fill(heap, 0, 0, 512);
	fill(heap, 1, 0, 512);
	ASSERT_EQ(0, release_pages(heap, 0, 100, 256));
	EXPECT_EQ(KARENA_ACTIVE | KARENA_SPARSE, state(heap, 0));
	EXPECT_EQ(KARENA_ACTIVE, state(heap, 1));
	EXPECT_FIGURES(heap, 1, 1, 256);
	EXPECT_EQ(1, heap_figure(heap, "demoted"));
	EXPECT_EQ(0, spoilt(heap, 0, 0, 100));
	EXPECT_EQ(0, spoilt(heap, 0, 356, 156));
	EXPECT_EQ(0, spoilt(heap, 1, 0, 512));
	EXPECT_EQ(0, reachable(heap, 0, 100, 256));
	/* All of it comes back, as pages. */
	ASSERT_EQ(0, call_pages(heap, KARENA_COMMIT, 0, 0, 512));
	EXPECT_EQ(KARENA_ACTIVE | KARENA_SPARSE, state(heap, 0));
	EXPECT_FIGURES(heap, 1, 1, 512);
	EXPECT_EQ(0, count_other(page(heap, 0, 100), 256 * PAGE, 0));
	EXPECT_EQ(0, spoilt(heap, 0, 0, 100));
	EXPECT_EQ(0, spoilt(heap, 0, 356, 156));
}

TEST_F(sparse, less_than_half_of_a_huge_arena_released_is_cleared)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	fill(heap, 0, 0, 512);
	ASSERT_EQ(0, release_pages(heap, 0, 100, 255));
	EXPECT_EQ(KARENA_ACTIVE, state(heap, 0));
	EXPECT_FIGURES(heap, 1, 0, 0);
	EXPECT_EQ(0, heap_figure(heap, "demoted"));
	EXPECT_EQ(0, count_other(page(heap, 0, 100), 255 * PAGE, 0));
	EXPECT_EQ(0, spoilt(heap, 0, 0, 100));
	EXPECT_EQ(0, spoilt(heap, 0, 355, 157));
	EXPECT_EQ(ARENA, smaps(heap->window, "FilePmdMapped"));
}

TEST_F(sparse, a_release_that_crosses_arenas_is_a_release_of_each_part)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_commit(heap, 0, 3));
	for (int i = 0; i < 3; i++)
		fill(heap, i, 0, 512);
	ASSERT_EQ(0, release_pages(heap, 0, 200, 312 + 512 + 10));
	EXPECT_FIGURES(heap, 1, 1, 200);
	EXPECT_EQ(KARENA_ACTIVE | KARENA_SPARSE, state(heap, 0));
	EXPECT_EQ(KARENA_FREE, state(heap, 1));
	EXPECT_EQ(KARENA_ACTIVE, state(heap, 2));
	EXPECT_EQ(0, spoilt(heap, 0, 0, 200));
	EXPECT_EQ(0, count_other(page(heap, 2, 0), 10 * PAGE, 0));
	EXPECT_EQ(0, spoilt(heap, 2, 10, 502));
}

/*
 * An entry that the core would make of a huge page that is gone would show all of
 * it: whatever page is looked at first, it must be the only one that comes.
 */
TEST_F(sparse, after_a_demotion_no_page_brings_back_another)
{
	struct heap *heap = &self->heap;

	for (int first = 0; first < 3; first++) {
		ASSERT_EQ(0, heap_commit(heap, first, 1));
		fill(heap, first, 0, 512);
		ASSERT_EQ(0, release_pages(heap, first, 8, 500));
		switch (first) {
		case 0:
			EXPECT_EQ(0, spoilt(heap, first, 3, 1));
			break;
		case 1:
			EXPECT_EQ(0, reachable(heap, first, 300, 1));
			break;
		case 2:
			ASSERT_EQ(0, commit_pages(heap, first, 300, 1));
			EXPECT_EQ(0, count_other(page(heap, first, 300), PAGE, 0));
			ASSERT_EQ(0, release_pages(heap, first, 300, 1));
			break;
		}
		EXPECT_EQ(0, reachable(heap, first, 8, 500));
		EXPECT_EQ(0, spoilt(heap, first, 0, 8));
		EXPECT_EQ(0, spoilt(heap, first, 508, 4));
	}
}

TEST_F(sparse, a_pinned_huge_arena_is_cleared_and_stays_huge)
{
	struct heap *heap = &self->heap;
	struct iovec vector;
	char copy[PAGE];
	int pipes[2];

	ASSERT_EQ(0, pipe(pipes));
	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	fill(heap, 0, 0, 512);
	vector = (struct iovec){ page(heap, 0, 5), PAGE };
	ASSERT_EQ(PAGE, vmsplice(pipes[1], &vector, 1, 0));
	ASSERT_EQ(0, release_pages(heap, 0, 100, 400));
	EXPECT_FIGURES(heap, 1, 0, 0);
	EXPECT_EQ(0, heap_figure(heap, "demoted"));
	EXPECT_EQ(KARENA_ACTIVE, state(heap, 0));
	EXPECT_EQ(0, count_other(page(heap, 0, 100), 400 * PAGE, 0));
	EXPECT_EQ(0, spoilt(heap, 0, 0, 100));
	EXPECT_EQ(0, spoilt(heap, 0, 500, 12));
	/* It is still the page that the pipe reads from. */
	page(heap, 0, 5)[0] = 'q';
	ASSERT_EQ(PAGE, read(pipes[0], copy, PAGE));
	EXPECT_EQ('q', copy[0]);
	/* Without the pin it goes. */
	ASSERT_EQ(0, release_pages(heap, 0, 100, 400));
	EXPECT_FIGURES(heap, 0, 1, 112);
	close(pipes[0]);
	close(pipes[1]);
}

TEST_F(sparse, a_pinned_page_outlives_its_release)
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
	EXPECT_EQ(1, figure("pinned_orphans"));
	EXPECT_EQ(PAGE, heap_figure(heap, "committed"));
	EXPECT_EQ(0, heap_figure(heap, "sparse_pages"));
	ASSERT_EQ(0, commit_pages(heap, 0, 0, 512));
	EXPECT_EQ(0, count_other(heap->window, ARENA, 0));
	memset(heap->window, 'n', ARENA);
	ASSERT_EQ(PAGE, read(pipes[0], copy, PAGE));
	EXPECT_EQ(0, count_other(copy, PAGE, 'p'));
	close(pipes[0]);
	close(pipes[1]);
}

TEST_F(sparse, whole_arenas_are_huge_and_take_one_fault_each)
{
	struct heap *heap = &self->heap;
	long before;

	/* The control region's pages are there. */
	set_state(heap, 0, 32, KARENA_FREE);
	before = minor_faults();
	ASSERT_EQ(0, call_pages(heap, KARENA_COMMIT, 0, 0, 8 * 512));
	EXPECT_LE(minor_faults() - before, 4);
	for (int i = 0; i < 8; i++)
		EXPECT_EQ(KARENA_ACTIVE, state(heap, i));
	EXPECT_EQ(0, count_other(heap->window, 8 * ARENA, 0));
	EXPECT_LE(minor_faults() - before, 8 + 4);
	EXPECT_EQ(8 * ARENA, smaps(heap->window, "FilePmdMapped"));
	EXPECT_FIGURES(heap, 8, 0, 0);
}

TEST_F(sparse, a_commit_of_all_that_a_sparse_arena_lacks_keeps_what_it_has)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, commit_pages(heap, 0, 10, 20));
	fill(heap, 0, 10, 20);
	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	EXPECT_EQ(KARENA_ACTIVE | KARENA_SPARSE, state(heap, 0));
	EXPECT_FIGURES(heap, 0, 1, 512);
	EXPECT_EQ(0, spoilt(heap, 0, 10, 20));
	EXPECT_EQ(0, count_other(page(heap, 0, 0), 10 * PAGE, 0));
	EXPECT_EQ(0, count_other(page(heap, 0, 30), 482 * PAGE, 0));
}

TEST_F(sparse, an_arena_that_has_lost_all_pages_can_be_huge)
{
	struct heap *heap = &self->heap;

	for (int by_call = 0; by_call < 2; by_call++) {
		ASSERT_EQ(0, call_pages(heap, KARENA_COMMIT, 0, 0, 511));
		fill(heap, 0, 0, 511);
		ASSERT_EQ(0, release_pages(heap, 0, 0, 300));
		ASSERT_EQ(0, release_pages(heap, 0, 300, 211));
		EXPECT_FIGURES(heap, 0, 0, 0);
		ASSERT_EQ(0, by_call ? call_pages(heap, KARENA_COMMIT, 0, 0, 512) :
			  heap_commit(heap, 0, 1));
		EXPECT_FIGURES(heap, 1, 0, 0);
		EXPECT_EQ(KARENA_ACTIVE, state(heap, 0));
		EXPECT_EQ(0, count_other(heap->window, ARENA, 0));
		ASSERT_EQ(0, heap_release(heap, 0, 1));
	}
}

/* What is left of its page table would make it 512 faults. */
TEST_F(sparse, an_arena_that_was_sparse_is_huge_again_where_it_is_mapped_again)
{
	struct heap *heap = &self->heap;
	long before;

	ASSERT_EQ(0, commit_pages(heap, 0, 0, 64));
	fill(heap, 0, 0, 64);
	ASSERT_EQ(0, heap_commit(heap, 1, 1));
	fill(heap, 1, 0, 512);
	ASSERT_EQ(0, release_pages(heap, 1, 0, 500));
	EXPECT_EQ(0, spoilt(heap, 1, 500, 12));
	ASSERT_EQ(0, heap_release(heap, 0, 2));
	ASSERT_EQ(MAP_FAILED, mmap(heap->window + ARENA, ARENA,
				   PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
				   heap->fd, 0));
	EXPECT_EQ(EBUSY, errno);
	ASSERT_EQ(heap->window, mmap(heap->window, 2 * ARENA,
				     PROT_READ | PROT_WRITE,
				     MAP_SHARED | MAP_FIXED, heap->fd, 0));
	ASSERT_EQ(0, heap_commit(heap, 0, 2));
	before = minor_faults();
	EXPECT_EQ(0, count_other(heap->window, 2 * ARENA, 0));
	EXPECT_LE(minor_faults() - before, 4);
	EXPECT_EQ(2 * ARENA, smaps(heap->window, "FilePmdMapped"));
}

static bool take_back_sparse(const struct heap *heap, size_t index, uint32_t word)
{
	return __atomic_compare_exchange_n(&heap->states[index], &word,
					   KARENA_ACTIVE | KARENA_SPARSE, false,
					   __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

TEST_F(sparse, a_sparse_arena_is_given_back_and_taken_back)
{
	struct heap *heap = &self->heap;
	uint32_t word;

	ASSERT_EQ(0, commit_pages(heap, 0, 10, 20));
	fill(heap, 0, 10, 20);
	word = give_back(heap, 0);
	EXPECT_EQ(1, heap_figure(heap, "volatile_arenas"));
	EXPECT_EQ(-EBUSY, call_pages(heap, KARENA_COMMIT, 0, 10, 21));
	EXPECT_TRUE(take_back_sparse(heap, 0, word));
	shrink_everything();
	EXPECT_EQ(0, spoilt(heap, 0, 10, 20));
	EXPECT_EQ(0, heap_figure(heap, "reclaimed"));
	EXPECT_FIGURES(heap, 0, 1, 20);
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
		words[i] = give_back(heap, i);
	shrink_everything();
	for (int i = 0; i < 2; i++) {
		EXPECT_FALSE(take_back_sparse(heap, i, words[i]));
		EXPECT_EQ(KARENA_FREE, state(heap, i));
		EXPECT_EQ(0, reachable(heap, i, 0, 512));
	}
	EXPECT_EQ(0, spoilt(heap, 2, 10, 20));
	EXPECT_EQ(2, heap_figure(heap, "reclaimed"));
	EXPECT_FIGURES(heap, 0, 1, 20);
	ASSERT_EQ(0, commit_pages(heap, 0, 10, 20));
	EXPECT_EQ(0, count_other(page(heap, 0, 10), 20 * PAGE, 0));
	ASSERT_EQ(0, heap_commit(heap, 1, 1));
	EXPECT_FIGURES(heap, 1, 2, 40);
}

/* One page that a pipe holds keeps the others. */
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
	word = give_back(heap, 0);
	shrink_everything();
	EXPECT_TRUE(take_back_sparse(heap, 0, word));
	EXPECT_EQ(0, spoilt(heap, 0, 10, 20));
	ASSERT_EQ(PAGE, read(pipes[0], copy, PAGE));
	EXPECT_EQ(0, memcmp(copy, page(heap, 0, 25), PAGE));
	word = give_back(heap, 0);
	shrink_everything();
	EXPECT_FALSE(take_back_sparse(heap, 0, word));
	close(pipes[0]);
	close(pipes[1]);
}

/* The module may have no page free for what stays: then nothing is lost. */
TEST_F(sparse, at_a_limit_a_release_of_most_of_an_arena_succeeds)
{
	struct heap heap;

	ASSERT_EQ(0, heap_open(&heap, 4 * ARENA, 2 * ARENA));
	ASSERT_EQ(0, heap_commit(&heap, 0, 2));
	fill(&heap, 0, 0, 512);
	ASSERT_EQ(-ENOMEM, heap_commit(&heap, 2, 1));
	ASSERT_EQ(-ENOMEM, commit_pages(&heap, 2, 0, 1));
	ASSERT_EQ(0, release_pages(&heap, 0, 8, 504));
	EXPECT_EQ(0, spoilt(&heap, 0, 0, 8));
	EXPECT_FIGURES(&heap, 1, 1, 8);
	/* What came free can be had, and not a page more. */
	ASSERT_EQ(0, commit_pages(&heap, 2, 0, 504));
	EXPECT_EQ(-ENOMEM, commit_pages(&heap, 2, 504, 1));
	heap_destroy(&heap);
}

static void release_at_the_groups_limit(void)
{
	struct heap heap;
	int n;

	CHECK(!write_text(GROUP "/cgroup.procs", "0"));
	CHECK(!heap_open(&heap, 32 * ARENA, 0));
	for (n = 0; n < 32 && !heap_commit(&heap, n, 1); n++)
		fill(&heap, n, 0, 512);
	CHECK(n > 2 && n < 32);
	/* Page by page what is left. */
	set_state(&heap, n, 1, KARENA_FREE);
	CHECK(call_pages(&heap, KARENA_COMMIT, n, 0, 512) == -ENOMEM ||
	      call_pages(&heap, KARENA_COMMIT, n + 1, 0, 512) == -ENOMEM);
	for (int i = 0; i < n; i++) {
		CHECK(!release_pages(&heap, i, 200, 312));
		CHECK(!spoilt(&heap, i, 0, 200));
	}
	/* The first ones may have been cleared; that made room for nobody. */
	CHECK(!heap_release(&heap, n - 1, 1));
	CHECK(!release_pages(&heap, 0, 200, 312));
	CHECK(heap_figure(&heap, "demoted") > 0);
	_exit(0);
}

TEST_F(sparse, at_a_cgroups_limit_too_and_nobody_is_killed)
{
	char path[] = GROUP "/memory.events", text[512];
	pid_t child;

	ASSERT_TRUE(group_make("24M"));
	child = fork();
	if (!child)
		release_at_the_groups_limit();
	EXPECT_EQ(0, child_status(child));
	ASSERT_EQ(0, read_text(path, text, sizeof(text)));
	EXPECT_NE(NULL, strstr(text, "oom_kill 0"));
	EXPECT_EQ(0, rmdir(GROUP));
}

TEST_F(sparse, direct_io_reaches_pages_and_not_what_is_between)
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

#define NR_COUNTERS	4
#define NR_RACED	8	/* arenas */

static bool stop;

struct counter {
	pthread_t thread;
	struct heap *heap;
	int number;
	uint64_t count[NR_RACED];
	long lost;
	long rounds;
};

/* Each has a page of every arena, and knows what it must find there. */
static void *count_main(void *data)
{
	struct counter *counter = data;

	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
		for (int i = 0; i < NR_RACED; i++) {
			volatile uint64_t *at = (uint64_t *)
				page(counter->heap, i, counter->number * 131);

			for (int n = 0; n < 50; n++) {
				if (*at != counter->count[i])
					counter->lost++;
				*at = ++counter->count[i];
			}
		}
		counter->rounds++;
	}
	return NULL;
}

/* All pages of an arena but those of the counters go. */
static int release_others(const struct heap *heap, size_t index)
{
	struct karena_range ranges[NR_COUNTERS];

	for (int i = 0; i < NR_COUNTERS; i++) {
		size_t end = i < NR_COUNTERS - 1 ? (i + 1) * 131 : 512;

		ranges[i] = (struct karena_range){
			.offset = index * ARENA + (i * 131 + 1) * PAGE,
			.length = (end - i * 131 - 1) * PAGE,
		};
	}
	return heap_ranges(heap, KARENA_RELEASE, ranges, NR_COUNTERS);
}

/* Until a second is over: demote, commit what lacks, release it again. */
static int shake(const struct heap *heap, int *demotions)
{
	time_t until = time(NULL) + 1;
	int err = 0;

	for (int i = 0; i < NR_RACED && !err; i++)
		err = release_others(heap, i);
	for (int i = 0; i < NR_RACED && !err; i++)
		*demotions += state(heap, i) == (KARENA_ACTIVE | KARENA_SPARSE);
	while (!err && time(NULL) <= until) {
		for (int i = 0; i < NR_RACED && !err; i++)
			err = call_pages(heap, KARENA_COMMIT, i, 0, 512);
		for (int i = 0; i < NR_RACED && !err; i++)
			err = release_others(heap, i);
	}
	return err;
}

TEST_F_TIMEOUT(sparse, no_store_is_lost_when_an_arena_becomes_sparse, SLOW)
{
	struct heap *heap = &self->heap;
	struct counter counters[NR_COUNTERS];
	int demotions = 0;

	for (int round = 0; round < 3; round++) {
		ASSERT_EQ(0, heap_commit(heap, 0, NR_RACED));
		__atomic_store_n(&stop, false, __ATOMIC_RELAXED);
		for (int i = 0; i < NR_COUNTERS; i++) {
			counters[i] = (struct counter){
				.heap = heap, .number = i
			};
			pthread_create(&counters[i].thread, NULL, count_main,
				       &counters[i]);
		}
		usleep(10000);
		EXPECT_EQ(0, shake(heap, &demotions));
		__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
		for (int i = 0; i < NR_COUNTERS; i++) {
			pthread_join(counters[i].thread, NULL);
			EXPECT_EQ(0, counters[i].lost);
			EXPECT_GT(counters[i].rounds, 0);
		}
		EXPECT_FIGURES(heap, 0, NR_RACED, NR_RACED * NR_COUNTERS);
		ASSERT_EQ(0, heap_release(heap, 0, NR_RACED));
	}
	/* Nothing was pinned: each arena became sparse each time. */
	EXPECT_EQ(3 * NR_RACED, demotions);
	EXPECT_EQ(3 * NR_RACED, heap_figure(heap, "demoted"));
}

struct committer {
	pthread_t thread;
	struct heap *heap;
	pthread_barrier_t *barrier;
	int number;
	int err;
};

/* All pages of the arena, each in an order of its own, and every one's page. */
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

TEST_F_TIMEOUT(sparse, threads_that_commit_the_same_pages_share_them, SLOW)
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
	EXPECT_FIGURES(heap, 0, 1, 512);
}

TEST_HARNESS_MAIN
