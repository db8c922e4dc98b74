// SPDX-License-Identifier: GPL-2.0
/*
 * Partial release of huge frames: half or more makes the frame sparse, less is cleared. The
 * remaining pages are never lost, even if the heap is in use.
 */
#include <pthread.h>
#include <sys/uio.h>

#include "child.h"
#include "pages.h"

FIXTURE(demote) {
	struct heap heap;
};

FIXTURE_SETUP(demote)
{
	REQUIRE_MODULE();
	ASSERT_EQ(0, heap_open(&self->heap, 32 * ARENA, 0));
}

FIXTURE_TEARDOWN(demote)
{
	heap_destroy(&self->heap);
	EXPECT_NOTHING_LEFT();
}

TEST_F(demote, release_of_half_an_arena_makes_it_sparse)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_commit(heap, 0, 2));
	fill(heap, 0, 0, 512);
	fill(heap, 1, 0, 512);
	ASSERT_EQ(0, release_pages(heap, 0, 100, 256));
	EXPECT_EQ(KARENA_ACTIVE | KARENA_SPARSE, state(heap, 0));
	EXPECT_EQ(KARENA_ACTIVE, state(heap, 1));
	EXPECT_HEAP_STATS(heap, 1, 1, 256);
	EXPECT_EQ(1, heap_stat(heap, "demoted"));
	EXPECT_EQ(0, spoilt(heap, 0, 0, 100));
	EXPECT_EQ(0, spoilt(heap, 0, 356, 156));
	EXPECT_EQ(0, spoilt(heap, 1, 0, 512));
	EXPECT_EQ(0, reachable(heap, 0, 100, 256));
	/* All pages can be committed again. */
	ASSERT_EQ(0, call_pages(heap, KARENA_COMMIT, 0, 0, 512));
	EXPECT_EQ(KARENA_ACTIVE | KARENA_SPARSE, state(heap, 0));
	EXPECT_HEAP_STATS(heap, 1, 1, 512);
	EXPECT_EQ(0, count_other(page(heap, 0, 100), 256 * PAGE, 0));
	EXPECT_EQ(0, spoilt(heap, 0, 0, 100));
	EXPECT_EQ(0, spoilt(heap, 0, 356, 156));
}

TEST_F(demote, release_of_less_than_half_clears_the_pages)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	fill(heap, 0, 0, 512);
	ASSERT_EQ(0, release_pages(heap, 0, 100, 255));
	EXPECT_EQ(KARENA_ACTIVE, state(heap, 0));
	EXPECT_HEAP_STATS(heap, 1, 0, 0);
	EXPECT_EQ(0, heap_stat(heap, "demoted"));
	EXPECT_EQ(0, count_other(page(heap, 0, 100), 255 * PAGE, 0));
	EXPECT_EQ(0, spoilt(heap, 0, 0, 100));
	EXPECT_EQ(0, spoilt(heap, 0, 355, 157));
	EXPECT_EQ(ARENA, smaps(heap->window, "FilePmdMapped"));
}

/* The bitmap in the control region: the pages to release, instead of the whole arena. */
static struct karena_part *part_of(const struct heap *heap)
{
	const struct karena_control *control = heap->control;

	return (struct karena_part *)((char *)heap->control + control->part_offset);
}

TEST_F(demote, one_call_releases_the_pages_in_the_bitmap)
{
	struct heap *heap = &self->heap;
	struct karena_part *part = part_of(heap);

	ASSERT_NE(0, ((struct karena_control *)heap->control)->part_offset);
	ASSERT_EQ(0, heap_commit(heap, 0, 3));
	for (int i = 0; i < 3; i++)
		fill(heap, i, 0, 512);
	/* Every other page, which is half of them. This needs no descriptor. */
	memset(part->pages, 0x55, sizeof(part->pages));
	part->arena = 1 + 1;
	ASSERT_EQ(0, madvise(arena(heap, 1), ARENA, MADV_REMOVE));
	EXPECT_EQ(KARENA_ACTIVE | KARENA_SPARSE, state(heap, 1));
	EXPECT_HEAP_STATS(heap, 2, 1, 256);
	for (int i = 0; i < 512; i++)
		EXPECT_EQ(0, i % 2 ? spoilt(heap, 1, i, 1) : reachable(heap, 1, i, 1));
	/*
	 * The bitmap applies to this arena only, and only to a release of the whole arena.
	 */
	ASSERT_EQ(0, madvise(page(heap, 1, 0), 2 * PAGE, MADV_REMOVE));
	EXPECT_EQ(0, spoilt(heap, 1, 1, 1));
	ASSERT_EQ(0, madvise(arena(heap, 0), ARENA, MADV_REMOVE));
	EXPECT_EQ(KARENA_FREE, state(heap, 0));
	ASSERT_EQ(0, madvise(arena(heap, 1), 2 * ARENA, MADV_REMOVE));
	EXPECT_EQ(KARENA_FREE, state(heap, 1));
	EXPECT_EQ(KARENA_FREE, state(heap, 2));
	EXPECT_EQ(0, heap_stat(heap, "committed"));
	/* An empty bitmap, and pages that are not committed. */
	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	memset(part->pages, 0, sizeof(part->pages));
	part->arena = 1;
	ASSERT_EQ(0, madvise(arena(heap, 0), ARENA, MADV_REMOVE));
	EXPECT_EQ(KARENA_ACTIVE, state(heap, 0));
	memset(part->pages, 0xff, sizeof(part->pages));
	ASSERT_EQ(0, madvise(arena(heap, 0), ARENA, MADV_REMOVE));
	EXPECT_EQ(KARENA_FREE, state(heap, 0));
	ASSERT_EQ(0, madvise(arena(heap, 0), ARENA, MADV_REMOVE));
	part->arena = ~0ULL;
	EXPECT_EQ(0, madvise(arena(heap, 0), ARENA, MADV_REMOVE));
	part->arena = 0;
}

/* The kernel calls the module once for each VMA, and mprotect() may have made several. */
TEST_F(demote, bitmap_applies_to_an_arena_of_several_vmas)
{
	struct heap *heap = &self->heap;
	struct karena_part *part = part_of(heap);

	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	fill(heap, 0, 0, 512);
	for (int i = 5; i < 512; i += 50)
		ASSERT_EQ(0, mprotect(page(heap, 0, i), PAGE, PROT_NONE));
	memset(part->pages, 0x55, sizeof(part->pages));
	part->arena = 0 + 1;
	ASSERT_EQ(0, madvise(arena(heap, 0), ARENA, MADV_REMOVE));
	part->arena = 0;
	ASSERT_EQ(0, mprotect(arena(heap, 0), ARENA, PROT_READ | PROT_WRITE));
	for (int i = 1; i < 512; i += 2)
		EXPECT_EQ(0, spoilt(heap, 0, i, 1));
}

TEST_F(demote, release_across_arenas_releases_each_part)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_commit(heap, 0, 3));
	for (int i = 0; i < 3; i++)
		fill(heap, i, 0, 512);
	ASSERT_EQ(0, release_pages(heap, 0, 200, 312 + 512 + 10));
	EXPECT_HEAP_STATS(heap, 1, 1, 200);
	EXPECT_EQ(KARENA_ACTIVE | KARENA_SPARSE, state(heap, 0));
	EXPECT_EQ(KARENA_FREE, state(heap, 1));
	EXPECT_EQ(KARENA_ACTIVE, state(heap, 2));
	EXPECT_EQ(0, spoilt(heap, 0, 0, 200));
	EXPECT_EQ(0, count_other(page(heap, 2, 0), 10 * PAGE, 0));
	EXPECT_EQ(0, spoilt(heap, 2, 10, 502));
}

/*
 * If the kernel mapped a page of the old huge folio, it would map all of the folio.
 * Whichever page is touched first, no other page may become visible.
 */
TEST_F(demote, no_old_page_reappears_after_demotion)
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

TEST_F(demote, pinned_arena_is_cleared_and_stays_huge)
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
	EXPECT_HEAP_STATS(heap, 1, 0, 0);
	EXPECT_EQ(0, heap_stat(heap, "demoted"));
	EXPECT_EQ(KARENA_ACTIVE, state(heap, 0));
	EXPECT_EQ(0, count_other(page(heap, 0, 100), 400 * PAGE, 0));
	EXPECT_EQ(0, spoilt(heap, 0, 0, 100));
	EXPECT_EQ(0, spoilt(heap, 0, 500, 12));
	/* The pipe still reads from the same page. */
	page(heap, 0, 5)[0] = 'q';
	ASSERT_EQ(PAGE, read(pipes[0], copy, PAGE));
	EXPECT_EQ('q', copy[0]);
	/* Without the pin the arena becomes sparse. */
	ASSERT_EQ(0, release_pages(heap, 0, 100, 400));
	EXPECT_HEAP_STATS(heap, 0, 1, 112);
	close(pipes[0]);
	close(pipes[1]);
}

/* A thread that drops a reference to a page as soon as the page is no longer mapped. */
struct holder {
	pthread_t thread;
	const char *address;
	int pipe;
	bool stop;
};

static bool mapped(int pagemap, const char *address)
{
	uint64_t entry = 0;

	return pread(pagemap, &entry, 8, (uintptr_t)address / PAGE * 8) == 8 && entry >> 63;
}

static void *hold_until_unmapped(void *data)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	struct holder *holder = data;
	char byte;

	while (mapped(pagemap, holder->address) &&
	       !__atomic_load_n(&holder->stop, __ATOMIC_RELAXED))
		;
	close(pagemap);
	return read(holder->pipe, &byte, 1) == 1 ? NULL : data;
}

/* A fault that began before the release has a reference for a moment, as the thread does. */
TEST_F(demote, release_waits_for_a_short_lived_reference)
{
	struct heap *heap = &self->heap;
	int pipes[2], sparse = 0;
	void *failed;

	ASSERT_EQ(0, pipe(pipes));
	for (int round = 0; round < 20; round++) {
		struct holder holder = { .address = page(heap, 0, 5), .pipe = pipes[0] };
		struct iovec vector = { page(heap, 0, 5), 1 };

		ASSERT_EQ(0, heap_commit(heap, 0, 1));
		fill(heap, 0, 0, 512);
		ASSERT_EQ(1, vmsplice(pipes[1], &vector, 1, 0));
		ASSERT_EQ(0, pthread_create(&holder.thread, NULL, hold_until_unmapped, &holder));
		ASSERT_EQ(0, release_pages(heap, 0, 100, 400));
		__atomic_store_n(&holder.stop, true, __ATOMIC_RELAXED);
		pthread_join(holder.thread, &failed);
		ASSERT_EQ(NULL, failed);
		sparse += heap_stat(heap, "sparse_arenas");
		ASSERT_EQ(0, heap_release(heap, 0, 1));
	}
	TH_LOG("%d of 20 arenas became sparse", sparse);
	/* A busy machine may run the thread too late. */
	EXPECT_GE(sparse, 10);
	close(pipes[0]);
	close(pipes[1]);
}

/* Until the new mapping, the old page table causes 512 faults. */
TEST_F(demote, remapped_sparse_arena_becomes_huge)
{
	const int prot = PROT_READ | PROT_WRITE, flags = MAP_SHARED | MAP_FIXED;
	struct heap *heap = &self->heap;
	long before;

	ASSERT_EQ(0, heap_commit(heap, 0, 3));
	for (int i = 0; i < 3; i++) {
		fill(heap, i, 0, 512);
		ASSERT_EQ(0, release_pages(heap, i, 12, 500));
		EXPECT_EQ(0, spoilt(heap, i, 0, 12));
	}
	ASSERT_EQ(0, heap_release(heap, 0, 2));
	ASSERT_EQ(heap->window, mmap(heap->window, 2 * ARENA, prot, flags,
				     heap->fd, 0));
	before = minor_faults();
	ASSERT_EQ(0, call_pages(heap, KARENA_COMMIT, 0, 0, 1024));
	EXPECT_EQ(0, count_other(heap->window, 2 * ARENA, 0));
	EXPECT_LE(minor_faults() - before, 4);
	/* The remapped part is a VMA of its own from now on. */
	EXPECT_EQ(2 * ARENA, smaps(heap->window, "Size"));
	EXPECT_EQ(2 * ARENA, smaps(heap->window, "Rss"));
	EXPECT_EQ(2 * ARENA, smaps(heap->window, "FilePmdMapped"));
	EXPECT_EQ(heap->size - 2 * ARENA, smaps(arena(heap, 2), "Size"));
	EXPECT_EQ(12 * PAGE, smaps(arena(heap, 2), "Rss"));
	EXPECT_EQ(0, spoilt(heap, 2, 0, 12));
	/* Committed memory survives a new mapping. */
	fill(heap, 0, 0, 512);
	ASSERT_EQ(heap->window, mmap(heap->window, 3 * ARENA, prot, flags,
				     heap->fd, 0));
	EXPECT_EQ(0, spoilt(heap, 0, 0, 512));
	EXPECT_EQ(0, spoilt(heap, 2, 0, 12));
	EXPECT_HEAP_STATS(heap, 2, 1, 12);
}

TEST_F(demote, arena_can_be_remapped_only_whole_and_in_place)
{
	const int prot = PROT_READ | PROT_WRITE, flags = MAP_SHARED | MAP_FIXED;
	struct heap *heap = &self->heap;
	char *elsewhere = mmap(NULL, 4 * ARENA, PROT_NONE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ASSERT_EQ(0, heap_commit(heap, 1, 1));
	fill(heap, 1, 0, 512);
	elsewhere = (char *)(((uintptr_t)elsewhere + ARENA - 1) & -ARENA);
	EXPECT_EQ(MAP_FAILED, mmap(elsewhere, ARENA, prot, flags, heap->fd, 0));
	EXPECT_EQ(EBUSY, errno);
	EXPECT_EQ(MAP_FAILED, mmap(elsewhere, PAGE, prot, flags, heap->fd, 0));
	EXPECT_EQ(EINVAL, errno);
	/* A failed mmap() may have removed the earlier mapping. */
	EXPECT_EQ(MAP_FAILED, mmap(arena(heap, 1), ARENA, prot, flags,
				   heap->fd, 0));
	EXPECT_EQ(EBUSY, errno);
	ASSERT_EQ(arena(heap, 1), mmap(arena(heap, 1), ARENA, prot, flags,
				       heap->fd, ARENA));
	EXPECT_EQ(0, spoilt(heap, 1, 0, 512));
	EXPECT_EQ(ARENA, smaps(arena(heap, 1), "FilePmdMapped"));
}

/*
 * The process must find its data when it reuses the arena, because nothing reports a
 * change.
 */
TEST_F(demote, volatile_arena_is_cleared_and_stays_huge)
{
	struct heap *heap = &self->heap;
	uint32_t word;

	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	fill(heap, 0, 0, 512);
	word = make_volatile(heap, 0);
	ASSERT_EQ(0, release_pages(heap, 0, 100, 400));
	ASSERT_EQ(word, state(heap, 0));
	EXPECT_HEAP_STATS(heap, 1, 0, 0);
	ASSERT_TRUE(reuse(heap, 0, word));
	EXPECT_EQ(0, count_other(page(heap, 0, 100), 400 * PAGE, 0));
	EXPECT_EQ(0, spoilt(heap, 0, 0, 100));
	EXPECT_EQ(0, spoilt(heap, 0, 500, 12));
}

/*
 * The module may have no free page to copy the remaining pages to. Even then nothing is
 * lost.
 */
TEST_F(demote, partial_release_succeeds_at_the_limit)
{
	struct heap heap;

	ASSERT_EQ(0, heap_open(&heap, 4 * ARENA, 2 * ARENA));
	ASSERT_EQ(0, heap_commit(&heap, 0, 2));
	fill(&heap, 0, 0, 512);
	ASSERT_EQ(-ENOMEM, heap_commit(&heap, 2, 1));
	ASSERT_EQ(-ENOMEM, commit_pages(&heap, 2, 0, 1));
	ASSERT_EQ(0, release_pages(&heap, 0, 8, 504));
	EXPECT_EQ(0, spoilt(&heap, 0, 0, 8));
	EXPECT_HEAP_STATS(&heap, 1, 1, 8);
	/* The released memory can be committed again, and no page more. */
	ASSERT_EQ(0, commit_pages(&heap, 2, 0, 504));
	EXPECT_EQ(-ENOMEM, commit_pages(&heap, 2, 504, 1));
	heap_destroy(&heap);
}

static void release_at_the_groups_limit(struct child *child)
{
	struct heap heap;
	int n;

	(void)child;
	CHECK(group_enter());
	CHECK(!heap_open(&heap, 32 * ARENA, 0));
	for (n = 0; n < 32 && !heap_commit(&heap, n, 1); n++)
		fill(&heap, n, 0, 512);
	CHECK(n > 2 && n < 32);
	/* Use up the rest page by page. */
	set_state(&heap, n, 1, KARENA_FREE);
	CHECK(call_pages(&heap, KARENA_COMMIT, n, 0, 512) == -ENOMEM ||
	      call_pages(&heap, KARENA_COMMIT, n + 1, 0, 512) == -ENOMEM);
	for (int i = 0; i < n; i++) {
		CHECK(!release_pages(&heap, i, 200, 312));
		CHECK(!spoilt(&heap, i, 0, 200));
	}
	/* The first releases may only have cleared the pages, which frees no memory. */
	CHECK(!heap_release(&heap, n - 1, 1));
	CHECK(!release_pages(&heap, 0, 200, 312));
	CHECK(heap_stat(&heap, "demoted") > 0);
}

TEST_F(demote, partial_release_at_a_cgroup_limit_kills_nobody)
{
	ASSERT_EQ(0, group_make());
	ASSERT_EQ(0, group_limit(24 * MIB));
	EXPECT_EQ(0, in_child(release_at_the_groups_limit));
	EXPECT_EQ(0, group_stat("memory.events", "oom_kill"));
	EXPECT_EQ(0, group_remove());
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

/* Each thread counts in one page of every arena and checks what it finds there. */
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

/* Release all pages of an arena except those of the counters. */
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

/* For one second: demote, commit the missing pages, release them again. */
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

TEST_F_TIMEOUT(demote, no_store_is_lost_during_demotion, SLOW)
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
		EXPECT_HEAP_STATS(heap, 0, NR_RACED, NR_RACED * NR_COUNTERS);
		ASSERT_EQ(0, heap_release(heap, 0, NR_RACED));
	}
	/* Nothing was pinned, so each arena became sparse each time. */
	EXPECT_EQ(3 * NR_RACED, demotions);
	EXPECT_EQ(3 * NR_RACED, heap_stat(heap, "demoted"));
}

TEST_HARNESS_MAIN
