// SPDX-License-Identifier: GPL-2.0
/*
 * The calls that commit and release a list of ranges: every error of the call, every result
 * of a range, and that an error in one range does not affect the others.
 */
#include <sys/time.h>

#include "common.h"

#define WINDOW	(8 * ARENA)

FIXTURE(ranges) {
	struct heap heap;
};

FIXTURE_SETUP(ranges)
{
	REQUIRE_MODULE();
	/* The limit is three arenas. */
	ASSERT_EQ(0, heap_open_alone(&self->heap, WINDOW, 3 * ARENA));
}

FIXTURE_TEARDOWN(ranges)
{
	heap_destroy(&self->heap);
	EXPECT_TRUE(module_stat_becomes("committed", 0));
	EXPECT_TRUE(module_stat_becomes("pinned_orphans", 0));
}

/* Tests of one of the two calls. */
FIXTURE(list) {
	struct heap heap;
};

FIXTURE_SETUP(list)
{
	REQUIRE_MODULE();
	ASSERT_EQ(0, heap_open(&self->heap, WINDOW, 3 * ARENA));
}

FIXTURE_TEARDOWN(list)
{
	heap_destroy(&self->heap);
	EXPECT_TRUE(module_stat_becomes("committed", 0));
	EXPECT_TRUE(module_stat_becomes("pinned_orphans", 0));
}

FIXTURE_VARIANT(ranges) {
	unsigned int cmd;
};

FIXTURE_VARIANT_ADD(ranges, commit) {
	.cmd = KARENA_COMMIT,
};

FIXTURE_VARIANT_ADD(ranges, release) {
	.cmd = KARENA_RELEASE,
};

/* A range with a result that is neither success nor an error. */
#define RANGE(_offset, _length)						\
	{ .offset = (_offset), .length = (_length), .result = 4711 }

static struct karena_ranges list_of(struct karena_range *ranges, uint32_t nr)
{
	return (struct karena_ranges){
		.size = sizeof(struct karena_ranges),
		.ranges = (uintptr_t)ranges,
		.nr = nr,
	};
}

TEST_F(ranges, struct_is_checked)
{
	struct karena_range range = RANGE(0, PAGE);
	struct { struct karena_ranges known; uint64_t more; } longer;
	struct karena_ranges args = list_of(&range, 1);
	struct heap *heap = &self->heap;

	args.size = sizeof(args) - 1;
	EXPECT_EQ(-EINVAL, heap_call(heap, variant->cmd, &args));
	args.size = 0;
	EXPECT_EQ(-EINVAL, heap_call(heap, variant->cmd, &args));
	args.size = PAGE + 1;
	EXPECT_EQ(-E2BIG, heap_call(heap, variant->cmd, &args));
	args = list_of(&range, 1);
	args.flags = 1;
	EXPECT_EQ(-EINVAL, heap_call(heap, variant->cmd, &args));
	args = list_of(&range, 1);
	args.reserved = 1;
	EXPECT_EQ(-EINVAL, heap_call(heap, variant->cmd, &args));
	EXPECT_EQ(-EFAULT, heap_call(heap, variant->cmd, (void *)1));
	EXPECT_EQ(4711, range.result);

	longer.known = list_of(&range, 1);
	longer.known.size = sizeof(longer);
	longer.more = 1;
	EXPECT_EQ(-E2BIG, heap_call(heap, variant->cmd, &longer));
	EXPECT_EQ(4711, range.result);
	longer.more = 0;
	EXPECT_EQ(0, heap_call(heap, variant->cmd, &longer));
	EXPECT_EQ(0, range.result);
}

TEST_F(ranges, device_and_heap_descriptors_have_their_own_calls)
{
	struct karena_range range = RANGE(0, PAGE);
	struct karena_ranges args = list_of(&range, 1);
	struct heap *heap = &self->heap;

	EXPECT_EQ(-ENOTTY, device_call(variant->cmd, &args));
	EXPECT_EQ(-ENOTTY, heap_call(heap, _IO(KARENA_IOC, 0x7f), &args));
	EXPECT_EQ(-ENOTTY, heap_call(heap, KARENA_INFO, &args));
	EXPECT_EQ(4711, range.result);
}

TEST_F(ranges, child_with_the_descriptor_gets_eperm)
{
	struct karena_range range = RANGE(0, PAGE);
	struct heap *heap = &self->heap;
	pid_t child;

	ASSERT_EQ(0, heap_range(heap, KARENA_COMMIT, 0, PAGE));
	heap->window[0] = 7;
	child = fork();
	if (!child) {
		int err = heap_ranges(heap, variant->cmd, &range, 1);

		_exit(err == -EPERM && range.result == 4711 ? 0 : 1);
	}
	EXPECT_EQ(0, child_status(child));
	EXPECT_EQ(7, heap->window[0]);
	EXPECT_EQ(PAGE, heap_stat(heap, "committed"));
}

TEST_F(ranges, empty_list_succeeds)
{
	struct heap *heap = &self->heap;

	EXPECT_EQ(0, heap_ranges(heap, variant->cmd, NULL, 0));
	EXPECT_EQ(0, heap_ranges(heap, variant->cmd, (void *)1, 0));
}

TEST_F(ranges, too_many_ranges_are_rejected_together)
{
	static struct karena_range ranges[KARENA_RANGES_MAX + 1];
	struct heap heap;

	ASSERT_EQ(0, heap_open_alone(&heap, KARENA_RANGES_MAX * PAGE, 0));
	for (int i = 0; i < ARRAY_SIZE(ranges); i++)
		ranges[i] = (struct karena_range)RANGE(i % 512 * PAGE, PAGE);
	EXPECT_EQ(-EINVAL, heap_ranges(&heap, variant->cmd, ranges,
				       KARENA_RANGES_MAX + 1));
	EXPECT_EQ(4711, ranges[0].result);
	EXPECT_EQ(0, heap_ranges(&heap, variant->cmd, ranges, KARENA_RANGES_MAX));
	EXPECT_EQ(0, ranges[KARENA_RANGES_MAX - 1].result);
	EXPECT_EQ(4711, ranges[KARENA_RANGES_MAX].result);
	heap_destroy(&heap);
}

TEST_F(ranges, total_length_is_at_most_the_window)
{
	struct karena_range ranges[] = {
		RANGE(0, ARENA),
		RANGE(WINDOW, PAGE),		/* rejected, so it does not count */
		RANGE(0, ARENA),
		RANGE(2 * ARENA, WINDOW - 2 * ARENA - PAGE),
		RANGE(ARENA, 2 * PAGE),		/* 4: one page above the window */
		RANGE(ARENA, PAGE),
		RANGE(ARENA, PAGE),		/* 6: again */
	};
	struct heap *heap = &self->heap;
	int whole = 0;

	/* The limit allows only the first two arenas of the long range. */
	if (variant->cmd == KARENA_COMMIT)
		whole = -ENOMEM;
	EXPECT_EQ(-EINVAL, heap_ranges(heap, variant->cmd, ranges, ARRAY_SIZE(ranges)));
	EXPECT_EQ(0, ranges[0].result);
	EXPECT_EQ(-EINVAL, ranges[1].result);
	EXPECT_EQ(0, ranges[2].result);
	EXPECT_EQ(whole, ranges[3].result);
	EXPECT_EQ(-EINVAL, ranges[4].result);
	EXPECT_EQ(whole, ranges[5].result);
	EXPECT_EQ(-EINVAL, ranges[6].result);
}

TEST_F(ranges, each_range_is_checked_and_valid_ones_succeed)
{
	struct karena_range ranges[] = {
		RANGE(0, PAGE),
		RANGE(100, PAGE),			/* 1: unaligned */
		RANGE(PAGE, 100),
		RANGE(PAGE, 0),				/* 3: empty */
		RANGE(2 * PAGE, PAGE),
		RANGE(WINDOW, PAGE),			/* 5: outside */
		RANGE(WINDOW - PAGE, 2 * PAGE),
		RANGE(-PAGE, 2 * PAGE),			/* 7: wraps around */
		RANGE(PAGE, -PAGE),
		RANGE(1ULL << 63, 1ULL << 63),
		RANGE(4 * PAGE, PAGE),			/* 10: reserved */
		RANGE(WINDOW - PAGE, PAGE),
	};
	const int nr = ARRAY_SIZE(ranges);
	struct heap *heap = &self->heap;

	ranges[10].reserved = 1;
	EXPECT_EQ(-EINVAL, heap_ranges(heap, variant->cmd, ranges, nr));
	for (int i = 0; i < nr; i++) {
		bool good = i == 0 || i == 4 || i == nr - 1;

		EXPECT_EQ(good ? 0 : -EINVAL, ranges[i].result);
	}
	if (variant->cmd == KARENA_COMMIT) {
		EXPECT_EQ(3 * PAGE, heap_stat(heap, "committed"));
		EXPECT_EQ(0, touch(heap->window));
		EXPECT_EQ(0, touch(heap->window + 2 * PAGE));
		EXPECT_EQ(0, touch(heap->window + WINDOW - 1));
	}
}

TEST_F(ranges, call_returns_the_first_error)
{
	struct karena_range ranges[] = {
		RANGE(0, ARENA),
		RANGE(ARENA, ARENA),
		RANGE(2 * ARENA, PAGE),
		RANGE(1, 1),
	};
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_commit(heap, 1, 1));
	make_volatile(heap, 1);
	if (variant->cmd == KARENA_COMMIT) {
		EXPECT_EQ(-EBUSY, heap_ranges(heap, KARENA_COMMIT, ranges, 4));
		EXPECT_EQ(-EBUSY, ranges[1].result);
		EXPECT_EQ(2 * ARENA + PAGE, heap_stat(heap, "committed"));
	} else {
		EXPECT_EQ(-EINVAL, heap_ranges(heap, KARENA_RELEASE, ranges, 4));
		EXPECT_EQ(0, ranges[1].result);
		EXPECT_EQ(KARENA_FREE, state(heap, 1));
		EXPECT_EQ(0, heap_stat(heap, "committed"));
	}
	EXPECT_EQ(0, ranges[0].result);
	EXPECT_EQ(0, ranges[2].result);
	EXPECT_EQ(-EINVAL, ranges[3].result);
}

TEST_F(ranges, unreadable_list_is_efault)
{
	char *pages = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct karena_range range = RANGE(0, PAGE), *ranges;
	struct heap *heap = &self->heap;

	ASSERT_EQ(-EFAULT, heap_ranges(heap, variant->cmd, NULL, 1));
	ASSERT_EQ(-EFAULT, heap_ranges(heap, variant->cmd, (void *)-8L, 1));
	/* Only two of the ranges are readable. */
	ASSERT_NE(MAP_FAILED, pages);
	munmap(pages + PAGE, PAGE);
	ranges = (struct karena_range *)(pages + PAGE) - 2;
	for (int i = 0; i < 2; i++) {
		ranges[i] = range;
		ranges[i].offset = i * PAGE;
	}
	ASSERT_EQ(0, heap_range(heap, KARENA_COMMIT, 0, 4 * PAGE));
	ASSERT_EQ(-EFAULT, heap_ranges(heap, variant->cmd, ranges, 3));
	EXPECT_EQ(0, ranges[0].result);
	EXPECT_EQ(0, ranges[1].result);
	EXPECT_EQ(variant->cmd == KARENA_COMMIT ? 4 * PAGE : 2 * PAGE,
		  heap_stat(heap, "committed"));
	/* The list must also be writable, for the results. */
	mprotect(pages, PAGE, PROT_READ);
	EXPECT_EQ(-EFAULT, heap_ranges(heap, variant->cmd, ranges, 2));
	munmap(pages, PAGE);
}

/* The call may release or commit the memory of the list itself. */
TEST_F(ranges, list_can_lie_in_the_heap)
{
	struct karena_range range = RANGE(0, ARENA), *ranges;
	struct heap *heap = &self->heap;
	int err;

	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	ranges = (struct karena_range *)heap->window;
	for (int i = 0; i < 3; i++) {
		ranges[i] = range;
		ranges[i].offset = i * ARENA;
	}
	err = heap_ranges(heap, variant->cmd, ranges, 3);
	if (variant->cmd == KARENA_COMMIT) {
		EXPECT_EQ(0, err);
		EXPECT_EQ(3 * ARENA, heap_stat(heap, "committed"));
	} else {
		EXPECT_EQ(-EFAULT, err);
		EXPECT_EQ(0, heap_stat(heap, "committed"));
		EXPECT_EQ(KARENA_FREE, state(heap, 0));
	}
}

TEST_F(list, limit_stops_one_range_and_not_the_next)
{
	struct karena_range ranges[] = {
		RANGE(0, 2 * ARENA),
		RANGE(4 * ARENA, 2 * ARENA),	/* the first half fits */
		RANGE(7 * ARENA, PAGE),
		RANGE(ARENA, PAGE),		/* is committed already */
	};
	struct heap *heap = &self->heap;

	EXPECT_EQ(-ENOMEM, heap_ranges(heap, KARENA_COMMIT, ranges, 4));
	EXPECT_EQ(0, ranges[0].result);
	EXPECT_EQ(-ENOMEM, ranges[1].result);
	EXPECT_EQ(-ENOMEM, ranges[2].result);
	EXPECT_EQ(0, ranges[3].result);
	EXPECT_EQ(3 * ARENA, heap_stat(heap, "committed"));
	EXPECT_EQ(2, heap_stat(heap, "refused"));
	EXPECT_EQ(KARENA_ACTIVE, state(heap, 4));
	EXPECT_EQ(KARENA_FREE, state(heap, 5));
	EXPECT_EQ(KARENA_FREE, state(heap, 7));
	EXPECT_EQ(SIGBUS, touch(heap->window + 5 * ARENA));
}

/* The pages of an arena are committed one by one until the limit. */
TEST_F(list, limit_within_an_arena_keeps_the_first_pages)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_range(heap, KARENA_COMMIT, 0, 2 * ARENA));
	ASSERT_EQ(0, heap_range(heap, KARENA_COMMIT, 2 * ARENA, 500 * PAGE));
	EXPECT_EQ(-ENOMEM, heap_range(heap, KARENA_COMMIT, 3 * ARENA, 20 * PAGE));
	EXPECT_EQ(3 * ARENA, heap_stat(heap, "committed"));
	/* The state word of these twelve pages is up to the caller. */
	for (int i = 0; i < 20; i++)
		EXPECT_EQ(i < 12 ? 0 : SIGBUS,
			  touch(heap->window + 3 * ARENA + i * PAGE));
	ASSERT_EQ(0, heap_range(heap, KARENA_RELEASE, 0, ARENA));
	EXPECT_EQ(0, heap_range(heap, KARENA_COMMIT, 3 * ARENA, 20 * PAGE));
	EXPECT_EQ(KARENA_ACTIVE | KARENA_SPARSE, state(heap, 3));
	EXPECT_EQ(ARENA + 520 * PAGE, heap_stat(heap, "committed"));
}

TEST_F(list, volatile_arena_is_not_committed)
{
	struct karena_range ranges[] = {
		RANGE(0, 3 * ARENA),
		RANGE(ARENA + PAGE, PAGE),
		RANGE(2 * ARENA, PAGE),
	};
	struct heap *heap = &self->heap;
	uint32_t word;

	ASSERT_EQ(0, heap_range(heap, KARENA_COMMIT, ARENA, PAGE));
	heap->window[ARENA] = 7;
	word = make_volatile(heap, 1);
	EXPECT_EQ(-EBUSY, heap_ranges(heap, KARENA_COMMIT, ranges, 3));
	EXPECT_EQ(-EBUSY, ranges[0].result);
	EXPECT_EQ(-EBUSY, ranges[1].result);
	EXPECT_EQ(0, ranges[2].result);
	EXPECT_EQ(word, state(heap, 1));
	EXPECT_EQ(7, heap->window[ARENA]);
	/* The range is committed up to the volatile arena, and not after it. */
	EXPECT_EQ(KARENA_ACTIVE, state(heap, 0));
	EXPECT_EQ(ARENA + 2 * PAGE, heap_stat(heap, "committed"));
}

TEST_F(ranges, overlapping_ranges_count_once)
{
	struct karena_range ranges[] = {
		RANGE(0, 200 * PAGE),
		RANGE(0, 200 * PAGE),
		RANGE(55 * PAGE, 200 * PAGE),
	};
	struct heap *heap = &self->heap;

	if (variant->cmd == KARENA_COMMIT) {
		ASSERT_EQ(0, heap_ranges(heap, KARENA_COMMIT, ranges, 3));
		EXPECT_EQ(255 * PAGE, heap_stat(heap, "committed"));
		return;
	}
	/*
	 * Together 255 pages, which is less than half, even though the lengths add up to
	 * 600.
	 */
	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	memset(heap->window, 1, ARENA);
	ASSERT_EQ(0, heap_ranges(heap, KARENA_RELEASE, ranges, 3));
	EXPECT_EQ(1, heap_stat(heap, "huge_arenas"));
	EXPECT_EQ(0, count_other(heap->window, 255 * PAGE, 0));
	EXPECT_EQ(0, count_other(heap->window + 255 * PAGE, 257 * PAGE, 1));
}

#define NR_STRIPES	64

/* Stripes of four pages with gaps of four: half of the arena. */
TEST_F(ranges, ranges_of_one_arena_count_together)
{
	struct karena_range ranges[NR_STRIPES];
	struct heap *heap = &self->heap;

	for (int i = 0; i < NR_STRIPES; i++)
		ranges[i] = (struct karena_range)RANGE(i * 8 * PAGE, 4 * PAGE);
	if (variant->cmd == KARENA_COMMIT) {
		ASSERT_EQ(0, heap_ranges(heap, KARENA_COMMIT, ranges, NR_STRIPES));
		EXPECT_EQ(256 * PAGE, heap_stat(heap, "committed"));
		return;
	}
	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	memset(heap->window, 1, ARENA);
	ASSERT_EQ(0, heap_ranges(heap, KARENA_RELEASE, ranges, NR_STRIPES));
	EXPECT_EQ(0, heap_stat(heap, "huge_arenas"));
	EXPECT_EQ(1, heap_stat(heap, "demoted"));
	EXPECT_EQ(256 * PAGE, heap_stat(heap, "committed"));
	for (int i = 0; i < NR_STRIPES; i++) {
		char *stripe = heap->window + i * 8 * PAGE;

		EXPECT_EQ(SIGBUS, touch(stripe));
		EXPECT_EQ(SIGBUS, touch(stripe + 3 * PAGE));
		EXPECT_EQ(0, count_other(stripe + 4 * PAGE, 4 * PAGE, 1));
	}
}

TEST_F(list, only_consecutive_ranges_of_an_arena_count_together)
{
	struct karena_range ranges[] = {
		RANGE(0, 200 * PAGE),
		RANGE(ARENA, PAGE),
		RANGE(200 * PAGE, 200 * PAGE),	/* the first arena again */
		RANGE(ARENA + PAGE, 255 * PAGE),
		RANGE(ARENA + 256 * PAGE, 200 * PAGE),
	};
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_commit(heap, 0, 2));
	memset(heap->window, 1, 2 * ARENA);
	ASSERT_EQ(0, heap_ranges(heap, KARENA_RELEASE, ranges, 5));
	EXPECT_EQ(KARENA_ACTIVE, state(heap, 0));
	EXPECT_EQ(KARENA_ACTIVE | KARENA_SPARSE, state(heap, 1));
	EXPECT_EQ(0, count_other(heap->window, 400 * PAGE, 0));
	EXPECT_EQ(0, count_other(heap->window + 400 * PAGE, 112 * PAGE, 1));
	/* The single page was cleared and does not count with the later ranges. */
	EXPECT_EQ(ARENA + 57 * PAGE, heap_stat(heap, "committed"));
	EXPECT_EQ(0, count_other(heap->window + ARENA, PAGE, 0));
	EXPECT_EQ(0, count_other(heap->window + ARENA + 456 * PAGE, 56 * PAGE, 1));
}

TEST_F(ranges, ranges_that_cover_an_arena_release_it_completely)
{
	struct karena_range ranges[] = {
		RANGE(0, 200 * PAGE), RANGE(200 * PAGE, 312 * PAGE),
	};
	struct heap *heap = &self->heap;

	if (variant->cmd == KARENA_COMMIT) {
		ASSERT_EQ(0, heap_ranges(heap, KARENA_COMMIT, ranges, 2));
		EXPECT_EQ(512, heap_stat(heap, "sparse_pages"));
		return;
	}
	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	ASSERT_EQ(0, heap_ranges(heap, KARENA_RELEASE, ranges, 2));
	EXPECT_EQ(KARENA_FREE, state(heap, 0));
	EXPECT_EQ(0, heap_stat(heap, "demoted"));
	EXPECT_EQ(0, heap_stat(heap, "committed"));
}

#define LARGEST		(1UL << 40)

/* Each range takes time for at most its own length, not for that of all ranges. */
TEST_F(list, release_of_many_ranges_of_an_empty_window_is_fast)
{
	static struct karena_range ranges[KARENA_RANGES_MAX];
	const size_t length = LARGEST / ARRAY_SIZE(ranges);
	struct heap heap;

	ASSERT_EQ(0, heap_open_alone(&heap, LARGEST, 0));
	for (int i = 0; i < ARRAY_SIZE(ranges); i++)
		ranges[i] = (struct karena_range)RANGE(0, LARGEST);
	EXPECT_EQ(-EINVAL, heap_ranges(&heap, KARENA_RELEASE, ranges, ARRAY_SIZE(ranges)));
	EXPECT_EQ(0, ranges[0].result);
	for (int i = 1; i < ARRAY_SIZE(ranges); i++)
		ASSERT_EQ(-EINVAL, ranges[i].result);
	for (int i = 0; i < ARRAY_SIZE(ranges); i++)
		ranges[i] = (struct karena_range)RANGE(i * length, length);
	EXPECT_EQ(0, heap_ranges(&heap, KARENA_RELEASE, ranges, ARRAY_SIZE(ranges)));
	heap_destroy(&heap);
}

/* A release also makes requested arenas FREE that were never committed. */
TEST_F(list, release_makes_requested_arenas_free)
{
	const size_t nr = 200;
	struct heap heap;

	ASSERT_EQ(0, heap_open_alone(&heap, 2 * nr * ARENA, 0));
	ASSERT_EQ(0, heap_commit(&heap, 70, 1));
	set_state(&heap, 0, 2 * nr, KARENA_REQUESTED);
	set_state(&heap, 70, 1, KARENA_ACTIVE);
	ASSERT_EQ(0, heap_range(&heap, KARENA_RELEASE, 2 * PAGE, (nr - 1) * ARENA));
	for (size_t i = 0; i < 2 * nr; i++)
		ASSERT_EQ(i > 0 && i < nr - 1 ? KARENA_FREE : KARENA_REQUESTED,
			  state(&heap, i));
	EXPECT_EQ(0, heap_stat(&heap, "committed"));
	EXPECT_EQ(0, heap_release(&heap, nr, nr));
	for (size_t i = nr; i < 2 * nr; i++)
		ASSERT_EQ(KARENA_FREE, state(&heap, i));
	heap_destroy(&heap);
}

static void nothing(int signal)
{
	(void)signal;
}

/* Turn a signal every ten milliseconds on or off. */
static void alarms(bool on)
{
	struct sigaction action = { .sa_handler = nothing, .sa_flags = SA_RESTART };
	struct itimerval every = {
		.it_interval.tv_usec = on ? 10000 : 0,
		.it_value.tv_usec = on ? 10000 : 0,
	};

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &every, NULL);
}

/* Count the ranges that are done. */
static size_t done(const struct karena_range *ranges, size_t nr)
{
	size_t i;

	for (i = 0; i < nr && !ranges[i].result; i++)
		;
	return i;
}

TEST_F(ranges, signal_ends_a_long_list_and_results_tell_where)
{
	static struct karena_range ranges[KARENA_RANGES_MAX];
	const size_t nr = ARRAY_SIZE(ranges);
	size_t at = 0, interrupted = 0;
	struct heap heap;
	int err;

	/* Every other page, so that no two ranges can be merged. */
	ASSERT_EQ(0, heap_open_alone(&heap, 2 * nr * PAGE, 8 * MIB));
	for (int i = 0; i < nr; i++)
		ranges[i] = (struct karena_range)RANGE(2 * i * PAGE, PAGE);
	if (variant->cmd == KARENA_COMMIT) {
		/* All ranges lie in one arena, which is committed with the first range. */
		for (int i = 0; i < nr; i++)
			ranges[i].offset = i % 512 * PAGE;
	}
	alarms(true);
	while (at < nr) {
		err = heap_ranges(&heap, variant->cmd, ranges + at, nr - at);
		if (!err) {
			EXPECT_EQ(nr - at, done(ranges + at, nr - at));
			break;
		}
		ASSERT_EQ(-EINTR, err);
		if (++interrupted == 20)
			alarms(false);
		err = done(ranges + at, nr - at);
		/* The call has processed more ranges before the signal. */
		ASSERT_GT(err, 0);
		at += err;
		ASSERT_EQ(-EINTR, ranges[at].result);
		EXPECT_TRUE(at + 1 == nr || ranges[at + 1].result == 4711);
	}
	alarms(false);
	EXPECT_GT(interrupted, 0);
	heap_destroy(&heap);
}

/* Process a list. After a signal, continue with the first range that is not done. */
static bool all_done(struct heap *heap, unsigned long cmd, struct karena_range *ranges,
		     size_t nr)
{
	int err;

	while ((err = heap_ranges(heap, cmd, ranges, nr)) == -EINTR) {
		size_t first = done(ranges, nr);

		/*
		 * Only a release may stop early and tell the caller. A commit is restarted
		 * instead.
		 */
		if (cmd != KARENA_RELEASE || first == nr)
			return false;
		ranges += first;
		nr -= first;
	}
	return !err && done(ranges, nr) == nr;
}

/* A signal without a handler, such as SIGSTOP. */
TEST_F(ranges, list_continues_after_a_stop)
{
	static struct karena_range ranges[KARENA_RANGES_MAX / 4];
	const size_t nr = ARRAY_SIZE(ranges);
	pid_t child;
	int status;

	child = fork();
	if (!child) {
		struct heap heap;

		if (heap_open_alone(&heap, nr * PAGE, 8 * MIB))
			_exit(1);
		for (int i = 0; i < nr; i++)
			ranges[i] = (struct karena_range)RANGE(i % 512 * PAGE, PAGE);
		raise(SIGSTOP);
		for (int i = 0; i < 3; i++) {
			if (!all_done(&heap, variant->cmd, ranges, nr))
				_exit(2);
		}
		_exit(0);
	}
	ASSERT_EQ(child, waitpid(child, &status, WUNTRACED));
	/* Only a few times, because each time a commit starts again. */
	for (int i = 0; i < 10 && WIFSTOPPED(status); i++) {
		kill(child, SIGCONT);
		usleep(5000);
		kill(child, SIGSTOP);
		ASSERT_EQ(child, waitpid(child, &status, WUNTRACED));
	}
	kill(child, SIGCONT);
	EXPECT_EQ(0, WIFSTOPPED(status) ? child_status(child) : WEXITSTATUS(status));
}

/* Another thread may have committed again what the release had released before the stop. */
TEST_F(list, release_does_not_start_again_after_a_stop)
{
	static struct karena_range ranges[KARENA_RANGES_MAX];
	const size_t nr = ARRAY_SIZE(ranges);
	int status = 0;
	pid_t child;

	child = fork();
	if (!child) {
		struct heap heap;
		int err;

		if (heap_open_alone(&heap, nr * PAGE, 8 * MIB))
			_exit(1);
		for (int i = 0; i < nr; i++)
			ranges[i] = (struct karena_range)RANGE(i % 512 * PAGE, PAGE);
		do
			err = heap_ranges(&heap, KARENA_RELEASE, ranges, nr);
		while (!err);
		_exit(err == -EINTR ? 0 : 2);
	}
	/* The child is in the call nearly all the time. */
	for (int i = 0; i < 100; i++) {
		usleep(5000);
		kill(child, SIGSTOP);
		ASSERT_EQ(child, waitpid(child, &status, WUNTRACED));
		if (!WIFSTOPPED(status))
			break;
		kill(child, SIGCONT);
	}
	EXPECT_TRUE(WIFEXITED(status));
	EXPECT_EQ(0, WEXITSTATUS(status));
	if (WIFSTOPPED(status)) {
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
	}
}

TEST_HARNESS_MAIN
