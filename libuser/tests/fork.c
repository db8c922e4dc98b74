// SPDX-License-Identifier: MIT
/*
 * What a child has of a heap: a copy, the same memory, or nothing. Runs on the source that
 * KARENA_SOURCE names.
 */
#include "common.h"
#include "heap/heap.h"
#include "stamp.h"

/* Two pipes with which parent and child wait for each other. */
struct line {
	int ends[2][2];
};

static void line_open(struct line *line)
{
	if (pipe(line->ends[0]) || pipe(line->ends[1]))
		abort();
}

static void line_close(struct line *line)
{
	for (int i = 0; i < 4; i++)
		close(line->ends[i / 2][i % 2]);
}

/* Side 0 is the parent, side 1 the child. */
static void tell(struct line *line, int side)
{
	if (write(line->ends[side][1], "", 1) != 1)
		abort();
}

static bool hear(struct line *line, int side)
{
	char byte;

	close(line->ends[!side][1]);
	return read(line->ends[!side][0], &byte, 1) == 1;
}

FIXTURE(fork) {
	int unused;
};

FIXTURE_SETUP(fork)
{
}

FIXTURE_TEARDOWN(fork)
{
}

TEST_F(fork, each_side_of_a_copy_sees_its_own_data)
{
	struct ka_heap *heap = make(64 * MIB, 0, KA_FORK_COW);
	char *run, *other;
	struct line line;
	uint64_t id;
	pid_t child;

	ASSERT_NE(NULL, heap);
	id = ka_heap_id(heap);
	run = ka_run_alloc(heap, 3 * MIB, 0);
	ASSERT_NE(NULL, run);
	stamp(run, 3 * MIB, 7);
	line_open(&line);
	child = fork();
	if (!child) {
		CHECK(!wrong_stamps(run, 3 * MIB, 7));
		CHECK(!on_device() || (ka_heap_id(heap) && ka_heap_id(heap) != id));
		stamp(run, 3 * MIB, 8);
		/* Both processes allocate the same free address. */
		other = ka_run_alloc(heap, MIB, 0);
		CHECK(other == run + 3 * MIB);
		stamp(other, MIB, 9);
		tell(&line, 1);
		CHECK(hear(&line, 1));
		CHECK(!wrong_stamps(run, 3 * MIB, 8));
		CHECK(!wrong_stamps(other, MIB, 9));
		CHECK(stats_of(heap).runs == 2);
		CHECK(!ka_run_free(heap, run));
		CHECK(!ka_run_free(heap, other));
		CHECK(stats_of(heap).run_bytes == 0);
		ka_heap_destroy(heap);
		_exit(0);
	}
	ASSERT_TRUE(hear(&line, 0));
	EXPECT_EQ(0, wrong_stamps(run, 3 * MIB, 7));
	EXPECT_EQ(id, ka_heap_id(heap));
	other = ka_run_alloc(heap, MIB, 0);
	EXPECT_EQ(run + 3 * MIB, other);
	stamp(other, MIB, 10);
	stamp(run, 3 * MIB, 11);
	tell(&line, 0);
	EXPECT_EQ(0, child_status(child));
	line_close(&line);
	EXPECT_EQ(0, wrong_stamps(run, 3 * MIB, 11));
	EXPECT_EQ(0, wrong_stamps(other, MIB, 10));
	EXPECT_EQ(2, stats_of(heap).runs);
	EXPECT_EQ(0, ka_run_free(heap, run));
	EXPECT_EQ(0, ka_run_free(heap, other));
	ka_heap_destroy(heap);
}

TEST_F(fork, copy_survives_the_parents_heap)
{
	struct ka_heap *heap = make(64 * MIB, 0, KA_FORK_COW);
	struct line line;
	pid_t child;
	char *run;

	ASSERT_NE(NULL, heap);
	run = ka_run_alloc(heap, 5 * MIB, 0);
	ASSERT_NE(NULL, run);
	stamp(run, 5 * MIB, 1);
	line_open(&line);
	child = fork();
	if (!child) {
		CHECK(hear(&line, 1));
		CHECK(!wrong_stamps(run, 5 * MIB, 1));
		stamp(run, 5 * MIB, 2);
		CHECK(ka_run_alloc(heap, 9 * MIB, 0));
		CHECK(!wrong_stamps(run, 5 * MIB, 2));
		_exit(0);
	}
	ka_heap_destroy(heap);
	tell(&line, 0);
	EXPECT_EQ(0, child_status(child));
	line_close(&line);
}

/* Each generation finds the data of all earlier ones, and adds its own. */
static void generation(struct ka_heap *heap, char **runs, int number)
{
	pid_t child;

	for (int i = 0; i < number; i++)
		CHECK(!wrong_stamps(runs[i], MIB / 2, (unsigned int)i));
	runs[number] = ka_run_alloc(heap, MIB / 2, 0);
	CHECK(runs[number]);
	stamp(runs[number], MIB / 2, (unsigned int)number);
	if (number == 7)
		return;
	child = fork();
	if (!child) {
		generation(heap, runs, number + 1);
		_exit(0);
	}
	/* The addresses of the child's runs are free in this process. */
	CHECK(ka_run_alloc(heap, 4 * MIB, 0));
	CHECK(child_status(child) == 0);
	for (int i = 0; i <= number; i++)
		CHECK(!wrong_stamps(runs[i], MIB / 2, (unsigned int)i));
}

TEST_F_TIMEOUT(fork, each_generation_copies_the_last_one, SLOW)
{
	struct ka_heap *heap = make(64 * MIB, 0, KA_FORK_COW);
	pid_t child;
	char *runs[8];

	ASSERT_NE(NULL, heap);
	child = fork();
	if (!child) {
		generation(heap, runs, 0);
		_exit(0);
	}
	EXPECT_EQ(0, child_status(child));
	EXPECT_EQ(0, stats_of(heap).runs);
	ka_heap_destroy(heap);
}

#define SLOTS	100

struct slots {
	char *run[SLOTS];
	size_t size[SLOTS];
};

/* Allocate and free random runs with stamps. Return the number of errors. */
static long churn(struct ka_heap *heap, struct slots *slots, unsigned int seed)
{
	long wrong = 0;

	for (int i = 0; i < 600; i++) {
		unsigned int slot = (unsigned int)rand_r(&seed) % SLOTS;
		size_t size = KA_PAGE_SIZE * (1 + (size_t)rand_r(&seed) % 100);

		if (slots->run[slot]) {
			wrong += wrong_stamps(slots->run[slot], slots->size[slot],
					      slot) != 0;
			wrong += ka_run_free(heap, slots->run[slot]) != 0;
			slots->run[slot] = NULL;
			continue;
		}
		slots->run[slot] = ka_run_alloc(heap, size, 0);
		slots->size[slot] = size;
		if (slots->run[slot])
			stamp(slots->run[slot], size, slot);
		else
			wrong++;
	}
	return wrong;
}

TEST_F_TIMEOUT(fork, random_sequence_continues_in_both_processes, SLOW)
{
	struct ka_heap *heap = make(256 * MIB, 0, KA_FORK_COW);
	struct slots slots = {};
	pid_t children[4];

	ASSERT_NE(NULL, heap);
	for (unsigned int i = 0; i < 4; i++) {
		EXPECT_EQ(0, churn(heap, &slots, i));
		children[i] = fork();
		if (!children[i]) {
			CHECK(!churn(heap, &slots, 100 + i));
			_exit(0);
		}
	}
	EXPECT_EQ(0, churn(heap, &slots, 5));
	for (int i = 0; i < 4; i++)
		EXPECT_EQ(0, child_status(children[i]));
	EXPECT_EQ(0, churn(heap, &slots, 6));
	ka_heap_destroy(heap);
}

TEST_F(fork, shared_heap_is_the_same_memory_and_belongs_to_the_parent)
{
	struct ka_heap *heap = make(64 * MIB, 0, KA_FORK_SHARE);
	struct ka_stats stats = { .size = sizeof(stats) };
	struct line line;
	pid_t child;
	char *run;
	int fd;

	ASSERT_NE(NULL, heap);
	run = ka_run_alloc(heap, 3 * MIB, 0);
	ASSERT_NE(NULL, run);
	stamp(run, 3 * MIB, 1);
	line_open(&line);
	child = fork();
	if (!child) {
		CHECK(!wrong_stamps(run, 3 * MIB, 1));
		stamp(run, 3 * MIB, 2);
		CHECK(!ka_run_alloc(heap, MIB, 0) && errno == EOWNERDEAD);
		CHECK(ka_run_free(heap, run) == -1 && errno == EOWNERDEAD);
		CHECK(!ka_run_size(heap, run) && errno == EOWNERDEAD);
		CHECK(ka_heap_stats(heap, &stats) == -1 && errno == EOWNERDEAD);
		CHECK(strstr(ka_error(), "the parent process's"));
		fd = ka_heap_descriptor(heap);
		CHECK(on_device() ? fd >= 0 : errno == EOPNOTSUPP);
		tell(&line, 1);
		CHECK(hear(&line, 1));
		CHECK(!wrong_stamps(run, 3 * MIB, 3));
		/* The child destroys the heap, and the parent keeps it. */
		ka_heap_destroy(heap);
		_exit(0);
	}
	ASSERT_TRUE(hear(&line, 0));
	EXPECT_EQ(0, wrong_stamps(run, 3 * MIB, 2));
	stamp(run, 3 * MIB, 3);
	tell(&line, 0);
	EXPECT_EQ(0, child_status(child));
	line_close(&line);
	EXPECT_EQ(0, wrong_stamps(run, 3 * MIB, 3));
	EXPECT_NE(NULL, ka_run_alloc(heap, 8 * MIB, 0));
	EXPECT_EQ(0, ka_run_free(heap, run));
	ka_heap_destroy(heap);
}

TEST_F(fork, shared_memory_is_released_and_zero_when_allocated_again)
{
	struct ka_heap *heap = make(64 * MIB, 0, KA_FORK_SHARE);
	char *run;

	ASSERT_NE(NULL, heap);
	for (int i = 0; i < 3; i++) {
		run = ka_run_alloc(heap, 16 * MIB, 0);
		ASSERT_NE(NULL, run);
		/* The heap kept one arena; the others are new. */
		for (size_t at = 2 * MIB; at < 16 * MIB; at += 4093)
			ASSERT_EQ(0, run[at]);
		memset(run, 1, 16 * MIB);
		EXPECT_EQ(0, ka_run_free(heap, run));
		EXPECT_EQ(1, stats_of(heap).arenas);
		EXPECT_GE(2 * MIB, resident_from(run, 16 * MIB));
	}
	ka_heap_destroy(heap);
}

TEST_F(fork, locked_shared_memory_is_released)
{
	struct ka_heap *heap = make(64 * MIB, 0, KA_FORK_SHARE);
	char *run;

	NOT_WITH_SANITIZERS();
	ASSERT_NE(NULL, heap);
	ASSERT_EQ(0, mlockall(MCL_CURRENT | MCL_FUTURE)) TH_LOG("mlockall");
	run = ka_run_alloc(heap, 16 * MIB, 0);
	ASSERT_NE(NULL, run);
	memset(run, 1, 16 * MIB);
	EXPECT_EQ(0, ka_run_free(heap, run));
	EXPECT_GE(2 * MIB, resident_from(run, 16 * MIB));
	ASSERT_EQ(0, munlockall());
	ka_heap_destroy(heap);
}

TEST_F(fork, later_commits_are_shared_only_by_the_module)
{
	struct ka_heap *heap = make(64 * MIB, 0, KA_FORK_SHARE);
	struct line line;
	char *run, *later;
	pid_t child;

	ASSERT_NE(NULL, heap);
	run = ka_run_alloc(heap, 2 * MIB, 0);
	ASSERT_NE(NULL, run);
	line_open(&line);
	child = fork();
	if (!child) {
		die_of_signals();
		CHECK(hear(&line, 1));
		CHECK(run[2 * MIB] == 5);
		_exit(0);
	}
	later = ka_run_alloc(heap, 2 * MIB, 0);
	ASSERT_EQ(run + 2 * MIB, later);
	later[0] = 5;
	tell(&line, 0);
	EXPECT_EQ(on_device() ? 0 : 128 + SIGSEGV, child_status(child));
	line_close(&line);
	ka_heap_destroy(heap);
}

/* In a child that must not have the heap. */
static void check_nothing_is_there(struct ka_heap *heap, char *run)
{
	struct ka_stats stats = { .size = sizeof(stats) };

	CHECK(!ka_run_alloc(heap, MIB, 0) && errno == EOWNERDEAD);
	CHECK(ka_run_free(heap, run) == -1 && errno == EOWNERDEAD);
	CHECK(!ka_run_size(heap, run) && errno == EOWNERDEAD);
	CHECK(ka_heap_stats(heap, &stats) == -1 && errno == EOWNERDEAD);
	CHECK(ka_heap_descriptor(heap) == -1 && errno == EOWNERDEAD);
	/*
	 * No other mapping is placed there. The kernel does not reuse claimed addresses
	 * either.
	 */
	CHECK(ka_window_of(heap)->claimed ||
	      mmap(run, MIB, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS |
		   MAP_FIXED_NOREPLACE, -1, 0) != run);
	CHECK(ka_heap_contains(heap, run));
}

TEST_F(fork, child_does_not_inherit_a_heap_with_policy_none)
{
	struct ka_heap *heap = make(64 * MIB, 0, KA_FORK_NONE);
	pid_t child;
	char *run;

	NOT_WITH_VALGRIND("reads the memory that MADV_DONTFORK has removed");
	ASSERT_NE(NULL, heap);
	/* Also in arenas that were released once. */
	for (int i = 0; i < 2; i++) {
		run = ka_run_alloc(heap, 16 * MIB, 0);
		ASSERT_NE(NULL, run);
		memset(run, 7, 16 * MIB);
		child = fork();
		if (!child) {
			check_nothing_is_there(heap, run);
			/* Another heap can be created, and inherited by a child. */
			ka_heap_destroy(heap);
			heap = make(4 * MIB, 0, KA_FORK_COW);
			CHECK(heap);
			run = ka_run_alloc(heap, MIB, 0);
			CHECK(run && memset(run, 1, MIB) == run);
			ka_heap_destroy(heap);
			_exit(0);
		}
		EXPECT_EQ(0, child_status(child));
		for (size_t at = 0; at < 16 * MIB; at += 15 * MIB) {
			child = fork();
			if (!child) {
				die_of_signals();
				run[at]++;
				_exit(0);
			}
			EXPECT_EQ(128 + SIGSEGV, child_status(child));
		}
		EXPECT_EQ(7, run[16 * MIB - 1]);
		EXPECT_EQ(0, ka_run_free(heap, run));
	}
	ka_heap_destroy(heap);
}

TEST_F(fork, grandchild_does_not_inherit_it_either)
{
	struct ka_heap *heap = make(64 * MIB, 0, KA_FORK_NONE);
	pid_t child;
	char *run;

	ASSERT_NE(NULL, heap);
	run = ka_run_alloc(heap, MIB, 0);
	child = fork();
	if (!child) {
		child = fork();
		if (!child) {
			check_nothing_is_there(heap, run);
			_exit(0);
		}
		_exit(child_status(child));
	}
	EXPECT_EQ(0, child_status(child));
	ka_heap_destroy(heap);
}

static bool stop;

static void *take_and_give(void *data)
{
	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
		void *run = ka_run_alloc(data, 64 * 1024, 0);

		if (!run || ka_run_free(data, run))
			return data;
	}
	return NULL;
}

static void *make_and_destroy(void *data)
{
	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
		struct ka_heap *heap = make(4 * MIB, 0, KA_FORK_COW);

		if (!heap || !ka_run_alloc(heap, KA_PAGE_SIZE, 0))
			return &stop;
		ka_heap_destroy(heap);
	}
	return (void)data, NULL;
}

TEST_F_TIMEOUT(fork, fork_during_calls_of_other_threads_does_not_hang, SLOW)
{
	struct ka_heap *heap = make(64 * MIB, 0, KA_FORK_COW);
	pthread_t threads[3];
	void *failed;

	NOT_WITH_THREAD_SANITIZER();
	ASSERT_NE(NULL, heap);
	stop = false;
	for (int i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, take_and_give, heap));
	ASSERT_EQ(0, pthread_create(&threads[2], NULL, make_and_destroy, NULL));
	for (int i = 0; i < 50; i++) {
		pid_t child = fork();

		if (!child) {
			/* The runs that the threads had then stay allocated. */
			CHECK(stats_of(heap).runs <= 2);
			CHECK(ka_run_alloc(heap, MIB, 0));
			CHECK(stats_of(heap).run_bytes <= MIB + 2 * 64 * 1024);
			_exit(0);
		}
		ASSERT_EQ(0, child_status(child));
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	for (int i = 0; i < 3; i++) {
		pthread_join(threads[i], &failed);
		EXPECT_EQ(NULL, failed);
	}
	EXPECT_EQ(0, stats_of(heap).runs);
	ka_heap_destroy(heap);
}

TEST_HARNESS_MAIN
