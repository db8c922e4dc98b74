// SPDX-License-Identifier: GPL-2.0
/*
 * Forks of a copy-on-write heap in use: by threads that write to it and control it, by
 * several generations at once, thousands of times, and killed at any moment. No data is
 * lost and nothing is left behind.
 */
#include <pthread.h>

#include "family.h"

#define NR	8	/* arenas of the window */

FIXTURE(forkrace) {
	struct balance before;
	struct heap heap;
};

/* Two arenas with all pages marked. */
FIXTURE_SETUP(forkrace)
{
	REQUIRE_MODULE();
	balance_read(&self->before);
	ASSERT_EQ(0, heap_open(&self->heap, NR * ARENA, 0));
	ASSERT_EQ(0, family_make(&self->heap));
	expect_signals();
	ASSERT_EQ(0, commit(&self->heap, 0, 2, 0));
	ASSERT_EQ(0, mark(&self->heap, 0, 2 * PAGES, 'p'));
}

FIXTURE_TEARDOWN(forkrace)
{
	family_end();
	heap_destroy(&self->heap);
	EXPECT_BALANCE(&self->before);
}

/*
 * Threads write while another forks. Each has one page in every arena, and increments the
 * counters in them one after the other.
 */
#define NR_COUNTERS	3

static bool stop;

struct counter {
	pthread_t thread;
	struct heap *heap;
	int number;
	uint64_t count[2];	/* last stored values, for the checker */
	long lost;
};

static volatile uint64_t *counter_at(struct heap *heap, int number, int index)
{
	return (uint64_t *)page(heap, index, 13 + number * 131);
}

static void *count_main(void *data)
{
	struct counter *counter = data;

	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
		for (int i = 0; i < 2; i++) {
			volatile uint64_t *at = counter_at(counter->heap,
							   counter->number, i);
			uint64_t count = counter->count[i];

			for (int n = 0; n < 50; n++) {
				counter->lost += at[0] != count || at[500] != count;
				count++;
				at[0] = count;
				at[500] = count;
				__atomic_store_n(&counter->count[i], count,
						 __ATOMIC_RELEASE);
			}
			relax();
		}
	}
	return NULL;
}

struct seen {
	uint64_t first[NR_COUNTERS][2], last[NR_COUNTERS][2];
};

static void look_at_counters(struct heap *heap, struct seen *seen)
{
	for (int i = 0; i < NR_COUNTERS; i++) {
		for (int index = 0; index < 2; index++) {
			seen->first[i][index] = counter_at(heap, i, index)[0];
			seen->last[i][index] = counter_at(heap, i, index)[500];
		}
	}
}

static void look_at_counts(const struct counter *counters, struct seen *seen)
{
	for (int i = 0; i < NR_COUNTERS; i++) {
		for (int index = 0; index < 2; index++)
			seen->first[i][index] =
				__atomic_load_n(&counters[i].count[index],
						__ATOMIC_ACQUIRE);
	}
}

/* All values that the child sees must have been there at one moment of the fork. */
static long counters_wrong(const struct seen *before, const struct seen *child,
			   const struct seen *after)
{
	long wrong = 0;

	for (int i = 0; i < NR_COUNTERS; i++) {
		for (int index = 0; index < 2; index++) {
			uint64_t first = child->first[i][index];
			uint64_t last = child->last[i][index];

			/* A store may be done but not yet recorded. */
			wrong += first < before->first[i][index] ||
				 first > after->first[i][index] + 1 ||
				 (last != first && last + 1 != first);
		}
	}
	return wrong;
}

static void fork_beside_counters(struct __test_metadata *_metadata,
				 struct heap *heap, struct counter *counters)
{
	long forks, rounds = kernel_is_slow() ? 12 : 300;

	for (forks = 0; forks < rounds; forks++) {
		struct seen before = {}, seen = {}, after = {};
		int pipes[2];
		pid_t pid;

		ASSERT_EQ(0, pipe(pipes));
		look_at_counts(counters, &before);
		pid = fork();
		if (!pid) {
			look_at_counters(heap, &seen);
			_exit(write(pipes[1], &seen, sizeof(seen)) != sizeof(seen));
		}
		look_at_counts(counters, &after);
		EXPECT_EQ(sizeof(seen), read(pipes[0], &seen, sizeof(seen)));
		EXPECT_EQ(0, counters_wrong(&before, &seen, &after));
		EXPECT_EQ(0, child_status(pid));
		close(pipes[0]);
		close(pipes[1]);
	}
	TH_LOG("%ld forks during writes of other threads", forks);
}

TEST_F_TIMEOUT(forkrace, no_store_is_lost_during_a_fork, SLOW)
{
	struct counter counters[NR_COUNTERS] = {};
	struct heap *heap = &self->heap;

	for (int i = 0; i < NR_COUNTERS; i++) {
		for (int index = 0; index < 2; index++) {
			counter_at(heap, i, index)[0] = 0;
			counter_at(heap, i, index)[500] = 0;
		}
		counters[i].heap = heap;
		counters[i].number = i;
		ASSERT_EQ(0, pthread_create(&counters[i].thread, NULL, count_main,
					    &counters[i]));
	}
	fork_beside_counters(_metadata, heap, counters);
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	for (int i = 0; i < NR_COUNTERS; i++) {
		pthread_join(counters[i].thread, NULL);
		EXPECT_EQ(0, counters[i].lost);
		EXPECT_GT(counters[i].count[0], 0);
		for (int index = 0; index < 2; index++)
			EXPECT_EQ(counters[i].count[index],
				  counter_at(heap, i, index)[0]);
	}
}

/*
 * Threads commit, release, demote and make arenas volatile while another forks. Each has an
 * arena; all its pages have the same mark, which increases.
 */
#define NR_DRIVERS	3

struct driver {
	pthread_t thread;
	struct heap *heap;
	int index;
	long wrong;
	long rounds;
	long taken;	/* arenas lost to reclaim */
};

static bool arena_is(struct heap *heap, int index, size_t pages, uint64_t mark)
{
	for (size_t i = 0; i < pages; i += 17) {
		volatile uint64_t *at = (uint64_t *)page(heap, index, i);

		if (at[0] != mark || at[511] != mark)
			return false;
	}
	return true;
}

/* Make an arena volatile and reuse it, unless it is reclaimed first. */
static bool make_volatile_and_reuse(struct driver *driver)
{
	uint32_t since = make_volatile(driver->heap, driver->index);

	if (driver->rounds % 2)
		sched_yield();
	while (!reuse(driver->heap, driver->index, since)) {
		if (state(driver->heap, driver->index) == KARENA_FREE) {
			driver->taken++;
			return false;
		}
		/* BUSY: the kernel either reclaims the arena or restores the word. */
		sched_yield();
	}
	return true;
}

static void *drive_main(void *data)
{
	struct driver *driver = data;
	struct heap *heap = driver->heap;
	int index = driver->index;

	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
		uint64_t mark = ++driver->rounds;

		driver->wrong += heap_commit(heap, index, 1) != 0;
		for (size_t i = 0; i < PAGES; i++) {
			volatile uint64_t *at = (uint64_t *)page(heap, index, i);

			driver->wrong += at[0] || at[511];
			at[0] = mark;
			at[511] = mark;
		}
		if (!make_volatile_and_reuse(driver))
			continue;
		driver->wrong += !arena_is(heap, index, PAGES, mark);
		/* Release half of some arenas, and a few pages of others. */
		driver->wrong += release_pages(heap, index, mark % 2 ? 256 : 500,
					       mark % 2 ? 256 : 12) != 0;
		driver->wrong += !arena_is(heap, index, 256, mark);
		driver->wrong += heap_release(heap, index, 1) != 0;
	}
	return NULL;
}

/*
 * A clone has each arena as it was at one moment: its accessible pages have zeros or one
 * mark.
 */
static int clone_is_sound(struct heap *heap)
{
	for (long first = 3 * PAGES; first < (3 + NR_DRIVERS) * PAGES; first += PAGES) {
		uint64_t mark = 0;

		for (long i = first; i < first + PAGES; i += 7) {
			volatile uint64_t *at = (uint64_t *)page_at(heap, i);

			if (peek(heap, i * PAGE, 0, 0) < 0 || !at[0])
				continue;
			mark = mark ?: at[0];
			if (at[0] != mark || (at[511] && at[511] != mark))
				return 1;
		}
		/* The clone can be controlled. */
		if (release(heap, first / PAGES, 1, 0) ||
		    commit(heap, first / PAGES, 1, 0) ||
		    nonzero(heap, first, PAGES, 0))
			return 2;
	}
	return unlike(heap, 0, 2 * PAGES, 'p') ? 3 : 0;
}

/* Return how many arenas were reclaimed. */
static long fork_beside_drivers(struct __test_metadata *_metadata, struct heap *heap)
{
	long forks = kernel_is_slow() ? 4 : 30, taken = 0;
	struct driver drivers[NR_DRIVERS] = {};

	for (int i = 0; i < NR_DRIVERS; i++) {
		drivers[i].heap = heap;
		drivers[i].index = 3 + i;
		ASSERT_EQ(0, pthread_create(&drivers[i].thread, NULL, drive_main,
					    &drivers[i]));
	}
	for (long i = 0; i < forks; i++) {
		pid_t pid = fork();

		if (!pid)
			_exit(clone_is_sound(heap));
		ASSERT_EQ(0, child_status(pid));
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	for (int i = 0; i < NR_DRIVERS; i++) {
		pthread_join(drivers[i].thread, NULL);
		EXPECT_EQ(0, drivers[i].wrong);
		EXPECT_GT(drivers[i].rounds, 0);
		taken += drivers[i].taken;
	}
	EXPECT_EQ(0, unlike(heap, 0, 2 * PAGES, 'p'));
	EXPECT_EQ(2 * ARENA, heap_stat(heap, "committed"));
	return taken;
}

TEST_F_TIMEOUT(forkrace, threads_may_control_the_heap_during_a_fork, SLOW)
{
	EXPECT_EQ(0, fork_beside_drivers(_metadata, &self->heap));
}

static void *shrink_main(void *data)
{
	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED))
		shrink_everything();
	return data;
}

/* A clone inherits no volatile arena, so reclaim does not wait for cloning. */
TEST_F_TIMEOUT(forkrace, reclaim_works_during_a_fork, SLOW)
{
	struct heap *heap = &self->heap;
	pthread_t shrinker;
	long taken;

	ASSERT_EQ(0, pthread_create(&shrinker, NULL, shrink_main, NULL));
	taken = fork_beside_drivers(_metadata, heap);
	pthread_join(shrinker, NULL);
	EXPECT_GT(taken, 0);
	EXPECT_EQ(taken, heap_stat(heap, "reclaimed"));
}

/* Every thread of a process may fork. Each child has the thread that forked. */
static void *fork_main(void *data)
{
	struct heap *heap = data;
	long wrong = 0;

	for (int i = 0; i < (kernel_is_slow() ? 5 : 100); i++) {
		pid_t pid = fork();

		if (!pid)
			_exit(unlike(heap, i, 3, 'p') ||
			      mark(heap, 0, 20, 'c') ||
			      unlike(heap, 0, 20, 'c'));
		wrong += child_status(pid) != 0;
	}
	return (void *)wrong;
}

TEST_F_TIMEOUT(forkrace, threads_may_fork_at_once, SLOW)
{
	pthread_t threads[3];
	void *wrong;

	for (int i = 0; i < 3; i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, fork_main, &self->heap));
	for (int i = 0; i < 3; i++) {
		pthread_join(threads[i], &wrong);
		EXPECT_EQ(NULL, wrong);
	}
	EXPECT_EQ(0, unlike(&self->heap, 0, 2 * PAGES, 'p'));
}

/* Many forks of a heap that grows and shrinks. */
static int child_of_many(struct heap *heap, long round)
{
	long first = round % PAGES, wrong = 0;

	switch (round % 5) {
	case 0:
		break;
	case 1:
		wrong = unlike(heap, first, 1, 'p');
		break;
	case 2:
		wrong = mark(heap, first, 3, 'c') || unlike(heap, first, 3, 'c');
		break;
	case 3:
		wrong = release_some(heap, 0, 300, 0) || commit(heap, 7, 1, 0) ||
			nonzero(heap, 7 * PAGES + first, 1, 0);
		break;
	case 4:
		kill(getpid(), SIGKILL);
	}
	return wrong != 0;
}

/* In every other round a few pages are committed, otherwise a whole arena. */
static long grow_or_shrink(struct heap *heap, long round)
{
	long index = 2 + round / 2 % 4;

	if (round % 2)
		return release(heap, index, 1, 0);
	if (round % 32 == 0)
		return commit(heap, index, 1, 0) ?: poke(heap, index * ARENA, 1, 0);
	return commit_some(heap, index * PAGES + round % 500, 10, 0);
}

/* Several children at once. Later ones have memory that earlier ones lack. */
#define NR_AT_ONCE	4

static void fork_a_few(struct __test_metadata *_metadata, struct heap *heap, long round)
{
	pid_t pids[NR_AT_ONCE];

	for (int i = 0; i < NR_AT_ONCE; i++) {
		pids[i] = fork();
		if (!pids[i])
			_exit(child_of_many(heap, round + i));
		ASSERT_GT(pids[i], 0);
		ASSERT_EQ(0, grow_or_shrink(heap, round + i));
		ASSERT_EQ(0, mark(heap, (round + i) % PAGES, 1, 'p'));
	}
	for (int i = 0; i < NR_AT_ONCE; i++)
		ASSERT_EQ((round + i) % 5 == 4 ? 128 + SIGKILL : 0, child_status(pids[i]));
}

TEST_F_TIMEOUT(forkrace, thousands_of_forks_lose_and_leave_nothing, 600)
{
	const char *text = getenv("KARENA_FORKS");
	long round, forks = text && *text ? atol(text) : 10000;
	double until = seconds() + 20;
	struct heap *heap = &self->heap;

	ASSERT_GT(forks, 100);
	for (round = 0; round < forks; round += NR_AT_ONCE) {
		fork_a_few(_metadata, heap, round);
		if (kernel_is_slow() && round > 100 && seconds() > until)
			break;
	}
	TH_LOG("%ld forks", round);
	EXPECT_EQ(0, unlike(heap, 0, 2 * PAGES, 'p'));
	ASSERT_EQ(0, release(heap, 2, NR - 2, 0));
	EXPECT_TRUE(module_stat_becomes("nr_heaps", self->before.nr_heaps + 1));
	EXPECT_EQ(0, heap_stat(heap, "shared"));
	/*
	 * The parent's copies become huge pages again; but not in an arena with copies of all
	 * pages, which is sparse then. On a busy machine the first arena may have become so,
	 * if some child shared it at each moment.
	 */
	ASSERT_EQ(0, renew(heap, 0, 2, 0));
	EXPECT_EQ(0, unlike(heap, 0, 2 * PAGES, 'p'));
	EXPECT_TRUE(module_stat_becomes("committed", self->before.committed + 2 * ARENA));
	EXPECT_EQ(state(heap, 0) == KARENA_ACTIVE ? 2 : 1, pmds(heap, 0, 0, 0));
}

/*
 * A fork of a fork of a fork: all of them write to shared pages at once. Each process has
 * the expected content in private memory.
 */
static uint64_t counts[2 * PAGES];

static long count_up(struct heap *heap, long writes, unsigned int *seed)
{
	long wrong = 0;

	for (long i = 0; i < writes; i++) {
		long at = rand_r(seed) / 3 % (2 * PAGES);
		volatile uint64_t *count = (uint64_t *)page_at(heap, at);

		wrong += *count != counts[at];
		counts[at] += 1 + *seed % 100;
		*count = counts[at];
	}
	return wrong;
}

static long go_forth(struct heap *heap, int generations, unsigned int seed)
{
	long writes = kernel_is_slow() ? 200 : 3000;
	long wrong = count_up(heap, writes, &seed);
	int status;

	for (int i = 0; i < 2 && generations; i++) {
		pid_t pid = fork();

		if (!pid)
			_exit(go_forth(heap, generations - 1, seed + i + 1) != 0);
		wrong += pid < 0;
		wrong += count_up(heap, writes, &seed);
	}
	for (long i = 0; i < 2 * PAGES; i++)
		wrong += *(volatile uint64_t *)page_at(heap, i) != counts[i];
	while (wait(&status) > 0)
		wrong += status != 0;
	return wrong + count_up(heap, writes, &seed);
}

TEST_F_TIMEOUT(forkrace, four_generations_write_at_once, SLOW)
{
	for (long i = 0; i < 2 * PAGES; i++)
		counts[i] = *(volatile uint64_t *)page_at(&self->heap, i);
	for (int round = 0; round < 3; round++)
		EXPECT_EQ(0, go_forth(&self->heap, 3, round * 100));
	EXPECT_EQ(0, heap_stat(&self->heap, "shared"));
}

/* Kill a process that forks all the time, and its children, at any moment. */
static void live_dangerously(struct heap *heap, unsigned int seed)
{
	int children = 0, generations = 3;

	for (long i = 0; i < 60; i++) {
		long index = rand_r(&seed) / 3 % NR;

		switch (rand_r(&seed) / 3 % 8) {
		case 0:
			commit(heap, index, 1, 0);
			break;
		case 1:
			commit_some(heap, index * PAGES + 5, 300, 0);
			break;
		case 2:
			release(heap, index, 1, 0);
			break;
		case 3:
			release_some(heap, index * PAGES, 300, 0);
			break;
		case 4:
			lend(heap, index, 0, 0);
			break;
		case 5:
			/* A child forks fewer children, and then works itself. */
			if (children++ < generations && !fork()) {
				children = 0;
				generations--;
				seed++;
				i = 0;
			}
			break;
		default:
			mark(heap, index * PAGES, 50, 'k');
			break;
		}
	}
	_exit(0);
}

TEST_F_TIMEOUT(forkrace, sigkill_at_any_moment_leaves_nothing, SLOW)
{
	long rounds = kernel_is_slow() ? 8 : 200;
	unsigned int seed = 1;

	ASSERT_EQ(0, prctl(PR_SET_CHILD_SUBREAPER, 1));
	for (long round = 0; round < rounds; round++) {
		pid_t pid = fork();

		if (!pid) {
			struct heap heap;

			setpgid(0, 0);
			/* Every other process has only inherited memory. */
			if (round % 2 && !heap_open(&heap, NR * ARENA, 0))
				live_dangerously(&heap, round);
			live_dangerously(&self->heap, round);
		}
		setpgid(pid, pid);
		usleep(rand_r(&seed) / 3 % 30000);
		kill(-pid, SIGKILL);
		/* The process may have forked after the last kill(). */
		while (!kill(-pid, SIGKILL)) {
			while (waitpid(-pid, NULL, WNOHANG) > 0)
				;
			sched_yield();
		}
		while (waitpid(-pid, NULL, 0) > 0)
			;
		if (round % 20 == 0)
			ASSERT_TRUE(module_stat_becomes("nr_heaps",
							self->before.nr_heaps + 1));
	}
	EXPECT_EQ(0, unlike(&self->heap, 0, 2 * PAGES, 'p'));
	EXPECT_TRUE(module_stat_becomes("nr_heaps", self->before.nr_heaps + 1));
	EXPECT_TRUE(module_stat_becomes("committed", self->before.committed + 2 * ARENA));
	EXPECT_EQ(0, heap_stat(&self->heap, "shared"));
}

/*
 * No data of a heap reaches an unrelated heap through processes that shared it after a
 * fork.
 */
static long foreign_bytes(struct heap *heap, long a, long b, long c)
{
	static struct heap other;
	long found;

	(void)heap, (void)a, (void)b, (void)c;
	if (heap_open(&other, 24 * ARENA, 0) || heap_commit(&other, 0, 24))
		return -ENOMEM;
	found = count_other(other.window, 24 * ARENA, 0);
	heap_destroy(&other);
	return found;
}

TEST_F_TIMEOUT(forkrace, memory_released_by_all_owners_is_cleared, SLOW)
{
	struct heap *heap = &self->heap;

	/*
	 * The last process has none of the data, because the memory was released before the
	 * fork.
	 */
	ASSERT_EQ(0, release(heap, 0, 2, 0));
	ASSERT_EQ(0, bear(PARENT, GREATGRANDCHILD));
	ASSERT_EQ(0, ask(GREATGRANDCHILD, give_up, 0, 0, 0));
	for (int round = 0; round < 4; round++) {
		ASSERT_EQ(0, commit(heap, 0, 4, 0));
		ASSERT_EQ(0, mark(heap, 0, 4 * PAGES, 's'));
		ASSERT_EQ(0, bear(PARENT, CHILD));
		ASSERT_EQ(0, ask(CHILD, mark, 0, PAGES + 100, 't'));
		ASSERT_EQ(0, bear(CHILD, GRANDCHILD));
		ASSERT_EQ(0, ask(GRANDCHILD, mark, 50, PAGES, 'u'));
		/* Each process releases the memory in another way, and then finds zeros. */
		EXPECT_EQ(0, ask(CHILD, release, 0, 2, 0));
		EXPECT_EQ(0, ask(CHILD, commit, 0, 2, 0));
		EXPECT_EQ(0, ask(CHILD, nonzero, 0, 2 * PAGES, 0));
		EXPECT_EQ(0, ask(PARENT, release_some, 0, 300, 0));
		EXPECT_EQ(0, ask(PARENT, commit_some, 0, PAGES, 0));
		EXPECT_EQ(0, ask(PARENT, nonzero, 0, 300, 0));
		EXPECT_EQ(0, ask(GRANDCHILD, release_some, 10, 20, 0));
		EXPECT_EQ(20, ask(GRANDCHILD, nonzero, 10, 20, 0) +
			  20 - ask(GRANDCHILD, failing, 10, 20, SIGBUS));
		EXPECT_EQ(0, ask(GREATGRANDCHILD, foreign_bytes, 0, 0, 0));
		EXPECT_EQ(0, round % 2 ? end(CHILD) : slay(CHILD) - 128 - SIGKILL);
		EXPECT_EQ(0, ask(GREATGRANDCHILD, foreign_bytes, 0, 0, 0));
		EXPECT_EQ(0, ask(PARENT, release, 0, 4, 0));
		EXPECT_EQ(0, ask(GREATGRANDCHILD, foreign_bytes, 0, 0, 0));
		EXPECT_EQ(0, end(GRANDCHILD));
		EXPECT_EQ(0, ask(GREATGRANDCHILD, foreign_bytes, 0, 0, 0));
	}
}

TEST_HARNESS_MAIN
