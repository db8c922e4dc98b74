// SPDX-License-Identifier: GPL-2.0
/*
 * Ready frames: a worker clears them in advance, because the process asks for them or its
 * heap grows fast. Tests which limits they count against, which commits use them and when
 * they are freed.
 */
#include <pthread.h>

#include "child.h"

#define DISK		"/dev/vda"
#define AHEAD		PARAMETERS "/ahead"
#define ANY		KARENA_NODE_ANY

static void msleep(unsigned int milliseconds)
{
	usleep(milliseconds * 1000);
}

/* An earlier test that failed may have left another value. */
static int keep_ahead(const char *frames)
{
	return write_text(AHEAD, frames);
}

TEST(eight_frames_are_kept_ahead_by_default)
{
	char text[32];

	REQUIRE_MODULE();
	ASSERT_EQ(0, read_text(AHEAD, text, sizeof(text)));
	EXPECT_STREQ("8\n", text);
}

/* Tests that count exactly must have only the frames that they ask for. */
FIXTURE(ready) {
	struct heap heap;
};

FIXTURE_SETUP(ready)
{
	struct karena_info info = { .size = sizeof(info) };

	REQUIRE_MODULE();
	ASSERT_EQ(0, device_call(KARENA_INFO, &info));
	ASSERT_TRUE(info.features & KARENA_FEATURE_READY);
	/* Otherwise KARENA_NODE_ANY would mean a different node from time to time. */
	ASSERT_EQ(0, run_on(0));
	ASSERT_TRUE(module_stat_becomes("ready_frames", 0));
	ASSERT_EQ(0, heap_open(&self->heap, 64 * ARENA, 0));
	ASSERT_EQ(0, keep_ahead("0"));
}

FIXTURE_TEARDOWN(ready)
{
	EXPECT_EQ(0, keep_ahead("8"));
	heap_destroy(&self->heap);
	EXPECT_TRUE(module_stat_becomes("ready_frames", 0));
	EXPECT_TRUE(module_stat_becomes("committed", 0));
}

static int root_limits(const struct heap *heap, unsigned long arenas)
{
	char path[128], text[32];

	snprintf(path, sizeof(path), SYSFS "/heaps/%llu/limit",
		 (unsigned long long)heap->id);
	snprintf(text, sizeof(text), "%lu", arenas * ARENA);
	return directory_appears(heap->id) ? write_text(path, text) : -ENOENT;
}

TEST_F(ready, requested_number_of_frames_is_kept)
{
	struct heap *heap = &self->heap;

	EXPECT_EQ(0, heap_ready(heap, ANY, 0));
	EXPECT_LE(heap_ready(heap, ANY, 5), 5);
	ASSERT_TRUE(heap_ready_becomes(heap, ANY, 5, 5));
	EXPECT_EQ(5, module_stat("ready_frames"));
	EXPECT_EQ(0, module_stat("huge_arenas"));
	msleep(100);
	EXPECT_EQ(5, heap_ready(heap, ANY, 5));
	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	EXPECT_TRUE(heap_stat_becomes(heap, "ready_frames", 5));
	EXPECT_EQ(ARENA, heap_stat(heap, "committed"));
}

/* At the limit the worker cannot replace used frames, so the count stays down. */
TEST_F(ready, commit_at_the_limit_uses_a_ready_frame)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_limit(heap, KARENA_LIMIT_HARD, 8 * ARENA, 0));
	ASSERT_EQ(0, heap_commit(heap, 0, 4));
	ASSERT_TRUE(heap_ready_becomes(heap, ANY, 4, 4));
	for (int i = 0; i < 4; i++) {
		EXPECT_EQ(0, heap_commit(heap, 4 + i, 1));
		EXPECT_EQ(3 - i, heap_ready(heap, ANY, 4));
		EXPECT_EQ((5 + i) * ARENA, heap_stat(heap, "committed"));
	}
	EXPECT_EQ(-ENOMEM, heap_commit(heap, 8, 1));
	msleep(100);
	EXPECT_EQ(0, module_stat("ready_frames"));
}

TEST_F(ready, committed_and_ready_frames_stay_within_the_limit)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_limit(heap, KARENA_LIMIT_HARD, 8 * ARENA, 0));
	ASSERT_EQ(0, heap_commit(heap, 0, 6));
	EXPECT_TRUE(heap_ready_becomes(heap, ANY, 4, 2));
	msleep(1500);
	EXPECT_EQ(2, heap_ready(heap, ANY, 4));
	EXPECT_EQ(6 * ARENA, heap_stat(heap, "committed"));
	/* The release makes room for one more frame. */
	ASSERT_EQ(0, heap_release(heap, 0, 1));
	EXPECT_TRUE(heap_ready_becomes(heap, ANY, 4, 3));
	ASSERT_EQ(0, heap_limit(heap, KARENA_LIMIT_HARD, 16 * ARENA, 0));
	EXPECT_TRUE(heap_ready_becomes(heap, ANY, 4, 4));
}

TEST_F(ready, lowered_limit_frees_ready_frames)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_commit(heap, 0, 4));
	ASSERT_TRUE(heap_ready_becomes(heap, ANY, 4, 4));
	ASSERT_EQ(0, heap_limit(heap, KARENA_LIMIT_HARD, 6 * ARENA, 0));
	EXPECT_TRUE(heap_ready_becomes(heap, ANY, 4, 2));
	ASSERT_EQ(0, heap_limit(heap, KARENA_LIMIT_HARD, 3 * ARENA, 0));
	EXPECT_EQ(-ENOMEM, heap_commit(heap, 4, 1));
	EXPECT_TRUE(heap_ready_becomes(heap, ANY, 4, 0));
	EXPECT_EQ(4 * ARENA, heap_stat(heap, "committed"));
	ASSERT_EQ(0, heap_limit(heap, KARENA_LIMIT_HARD, 16 * ARENA, 0));
	EXPECT_TRUE(heap_ready_becomes(heap, ANY, 4, 4));
	/* The same with root's limit. */
	ASSERT_EQ(0, root_limits(heap, 4));
	EXPECT_EQ(-ENOMEM, heap_commit(heap, 4, 1));
	EXPECT_TRUE(heap_ready_becomes(heap, ANY, 4, 0));
}

TEST_F(ready, ready_frames_count_against_the_limit_of_all_heaps)
{
	struct heap *heap = &self->heap, other;
	char limit[64];

	ASSERT_EQ(0, read_text(LIMIT_PARAM, limit, sizeof(limit)));
	ASSERT_EQ(0, heap_make(&other, 16 * ARENA, 0));
	EXPECT_EQ(0, write_text(LIMIT_PARAM, "16M"));
	EXPECT_EQ(0, heap_commit(heap, 0, 2));
	/* The last eighth of the limit is reserved for commits. */
	EXPECT_TRUE(heap_ready_becomes(heap, ANY, 8, 5));
	msleep(1500);
	EXPECT_EQ(5, heap_ready(heap, ANY, 8));
	EXPECT_EQ(0, heap_commit(&other, 0, 1));
	/* A commit uses only the frames of its own heap. */
	EXPECT_EQ(-ENOMEM, heap_commit(&other, 1, 1));
	EXPECT_EQ(0, heap_commit(heap, 2, 5));
	EXPECT_EQ(-ENOMEM, heap_commit(heap, 8, 1));
	EXPECT_EQ(0, heap_ready(heap, ANY, 0));
	EXPECT_EQ(0, heap_release(heap, 0, 1));
	EXPECT_EQ(0, heap_commit(&other, 1, 1));
	EXPECT_EQ(0, write_text(LIMIT_PARAM, limit));
	/*
	 * Below the committed memory, the limit allows no commit, even with ready frames.
	 */
	EXPECT_TRUE(heap_ready_becomes(heap, ANY, 2, 2));
	EXPECT_EQ(0, write_text(LIMIT_PARAM, "0"));
	EXPECT_EQ(-ENOMEM, heap_commit(heap, 8, 1));
	EXPECT_EQ(0, write_text(LIMIT_PARAM, limit));
	EXPECT_EQ(0, heap_commit(heap, 8, 1));
	heap_destroy(&other);
}

TEST_F(ready, memory_from_ready_frames_is_zero)
{
	struct heap *heap = &self->heap;

	/* So that memory which is not cleared is not zero. */
	ASSERT_EQ(0, heap_commit(heap, 0, 48));
	memset(heap->window, 0xa5, 48 * ARENA);
	ASSERT_EQ(0, heap_release(heap, 0, 48));
	for (int round = 0; round < 4; round++) {
		ASSERT_TRUE(heap_ready_becomes(heap, ANY, 8, 8));
		ASSERT_EQ(0, heap_commit(heap, 0, 8));
		EXPECT_EQ(0, count_other(heap->window, 8 * ARENA, 0));
		memset(heap->window, 0xa5, 8 * ARENA);
		ASSERT_EQ(0, heap_release(heap, 0, 8));
	}
}

TEST_F(ready, ready_frames_become_huge_arenas)
{
	struct heap *heap = &self->heap;
	long before;

	ASSERT_TRUE(heap_ready_becomes(heap, ANY, 8, 8));
	before = minor_faults();
	ASSERT_EQ(0, heap_commit(heap, 0, 8));
	for (size_t at = 0; at < 8 * ARENA; at += 4096)
		heap->window[at] = 1;
	EXPECT_LE(minor_faults() - before, 16);
	EXPECT_EQ(8, heap_stat(heap, "huge_arenas"));
	EXPECT_EQ(8 * ARENA, smaps(heap->window, "FilePmdMapped"));
}

TEST_F(ready, lower_count_frees_frames_at_once)
{
	struct heap *heap = &self->heap;

	ASSERT_TRUE(heap_ready_becomes(heap, ANY, 8, 8));
	EXPECT_EQ(3, heap_ready(heap, ANY, 3));
	EXPECT_EQ(3, module_stat("ready_frames"));
	EXPECT_EQ(0, heap_ready(heap, ANY, 0));
	EXPECT_EQ(0, module_stat("ready_frames"));
	msleep(100);
	EXPECT_EQ(0, heap_ready(heap, ANY, 0));
}

/* A frame that is being cleared at that moment is freed as well. */
TEST_F_TIMEOUT(ready, freeing_races_with_clearing, SLOW)
{
	struct heap *heap = &self->heap;
	unsigned int seed = 1;

	for (int round = 0; round < 100; round++) {
		ASSERT_GE(heap_ready(heap, ANY, 16), 0);
		usleep(rand_r(&seed) % 3000);
		ASSERT_EQ(0, heap_ready(heap, ANY, 0));
	}
	msleep(200);
	EXPECT_EQ(0, module_stat("ready_frames"));
	/* The freed frames are not charged any more. */
	ASSERT_EQ(0, heap_limit(heap, KARENA_LIMIT_HARD, 8 * ARENA, 0));
	EXPECT_EQ(0, heap_commit(heap, 0, 8));
}

static void die_with_ready_frames(struct child *child)
{
	struct heap heap;

	CHECK(!heap_open(&heap, 16 * ARENA, 0));
	CHECK(heap_ready_becomes(&heap, ANY, 4, 4));
	/* Clearing so many takes a while, and the process is killed before the end. */
	CHECK(heap_ready(&heap, ANY, 16) >= 0);
	tell(child->parent, 1);
	raise(SIGKILL);
}

TEST_F_TIMEOUT(ready, destroyed_heap_leaves_no_frames_behind, SLOW)
{
	struct child child;
	unsigned int seed = 2;

	for (int round = 0; round < 50; round++) {
		struct heap heap;

		ASSERT_EQ(0, heap_open(&heap, 16 * ARENA, 0));
		ASSERT_GE(heap_ready(&heap, ANY, 8), 0);
		usleep(rand_r(&seed) % 10000);
		heap_destroy(&heap);
	}
	ASSERT_EQ(0, child_start(&child, die_with_ready_frames));
	EXPECT_EQ(1, hear(child.line));
	EXPECT_EQ(128 + SIGKILL, child_end(&child));
	EXPECT_TRUE(module_stat_becomes("ready_frames", 0));
	EXPECT_TRUE(module_stat_becomes("nr_heaps", 1));
	EXPECT_TRUE(module_stat_becomes("committed", 0));
}

/* The descriptor stays open in a process that may not use the heap. */
static void leave_a_descriptor(struct child *child)
{
	struct heap heap;

	CHECK(!heap_open_alone(&heap, 16 * ARENA, 0));
	CHECK(heap_ready_becomes(&heap, ANY, 4, 4));
	if (!fork()) {
		hear(child->parent);
		_exit(0);
	}
}

TEST_F(ready, ended_process_keeps_and_gets_no_frames)
{
	struct child child;

	ASSERT_EQ(0, child_start(&child, leave_a_descriptor));
	EXPECT_EQ(0, child_status(child.pid));
	EXPECT_TRUE(module_stat_becomes("ready_frames", 0));
	msleep(1500);
	EXPECT_EQ(0, module_stat("ready_frames"));
	close(child.line);
	EXPECT_TRUE(module_stat_becomes("nr_heaps", 1));
}

static bool stop;

static void *change_the_count(void *data)
{
	struct heap *heap = data;
	unsigned int seed = 3;
	long wrong = 0;

	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
		uint32_t count = rand_r(&seed) % 9;

		wrong += heap_ready(heap, rand_r(&seed) % 2 ? ANY : 0, count) < 0;
		usleep(rand_r(&seed) % 4000);
	}
	return (void *)wrong;
}

static void *shrink_all_the_time(void *data)
{
	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
		shrink_everything();
		usleep(5000);
	}
	return data;
}

/* Some commits use a ready frame, others get memory from the kernel. */
static void *commit_and_release(void *data)
{
	static int next;
	int first = 4 * __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED);
	struct heap *heap = data;
	long wrong = 0;

	for (int round = 0; !__atomic_load_n(&stop, __ATOMIC_RELAXED); round++) {
		int index = first + round % 4;

		if (heap_commit(heap, index, 1)) {
			wrong++;
			continue;
		}
		wrong += count_other(arena(heap, index), ARENA, 0) != 0;
		memset(arena(heap, index), 0x5a, ARENA);
		wrong += heap_release(heap, index, 1) != 0;
	}
	return (void *)wrong;
}

TEST_F_TIMEOUT(ready, commits_counts_and_reclaim_race, SLOW)
{
	void *(*const work[])(void *) = {
		commit_and_release, commit_and_release, change_the_count,
		shrink_all_the_time
	};
	struct heap *heap = &self->heap;
	pthread_t threads[4];
	void *wrong;

	stop = false;
	/* Frames for fast growing heaps as well. */
	ASSERT_EQ(0, keep_ahead("8"));
	for (int i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, work[i], heap);
	sleep(3);
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	for (int i = 0; i < 3; i++) {
		pthread_join(threads[i], &wrong);
		EXPECT_EQ(NULL, wrong);
	}
	pthread_join(threads[3], NULL);
	EXPECT_TRUE(heap_ready_becomes(heap, ANY, 0, 0));
	EXPECT_EQ(0, heap_stat(heap, "committed"));
	ASSERT_EQ(0, heap_limit(heap, KARENA_LIMIT_HARD, 8 * ARENA, 0));
	EXPECT_EQ(0, heap_commit(heap, 0, 8));
}

/* Committed and ready frames together may reach the limit. */
struct edge {
	pthread_t thread;
	struct heap *heap;
	int cpu;
	long commits;
	long refused;
};

static void *commit_at_the_edge(void *data)
{
	struct edge *edge = data;
	int first = edge->cpu * 4;

	run_on(edge->cpu);
	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
		__atomic_fetch_add(&edge->commits, 1, __ATOMIC_RELAXED);
		edge->refused += heap_commit(edge->heap, first, 4) != 0;
		heap_release(edge->heap, first, 4);
	}
	return NULL;
}

static long commits_of(const struct edge *edge)
{
	return __atomic_load_n(&edge->commits, __ATOMIC_RELAXED);
}

/* The worker makes frames ready on two nodes in turn. */
TEST_F_TIMEOUT(ready, commit_within_the_limit_is_never_refused, SLOW)
{
	struct edge edges[2] = {
		{ .heap = &self->heap, .cpu = 0 }, { .heap = &self->heap, .cpu = 1 }
	};

	ASSERT_EQ(0, heap_limit(&self->heap, KARENA_LIMIT_HARD, 8 * ARENA, 0));
	ASSERT_EQ(0, keep_ahead("8"));
	stop = false;
	for (int i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_create(&edges[i].thread, NULL, commit_at_the_edge,
					    &edges[i]));
	/* A slow machine needs longer for as many commits. */
	do
		sleep(4);
	while (commits_of(&edges[0]) <= 10 || commits_of(&edges[1]) <= 10);
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	for (int i = 0; i < 2; i++) {
		pthread_join(edges[i].thread, NULL);
		EXPECT_EQ(0, edges[i].refused) {
			TH_LOG("of %ld commits", edges[i].commits);
		}
	}
}

TEST_F_TIMEOUT(ready, heap_can_be_destroyed_during_reclaim, SLOW)
{
	unsigned int seed = 4;
	pthread_t shrinker;

	stop = false;
	ASSERT_EQ(0, pthread_create(&shrinker, NULL, shrink_all_the_time, NULL));
	for (int i = 0; i < 50; i++) {
		struct heap heap;

		ASSERT_EQ(0, heap_open(&heap, 8 * ARENA, 0));
		ASSERT_GE(heap_ready(&heap, ANY, 4), 0);
		usleep(rand_r(&seed) % 20000);
		heap_destroy(&heap);
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	pthread_join(shrinker, NULL);
	EXPECT_TRUE(module_stat_becomes("nr_heaps", 1));
	/* The timers that refill the heaps find no heap. */
	msleep(1200);
	EXPECT_EQ(0, module_stat("ready_frames"));
}

/* Tests in a memory cgroup. */
FIXTURE(ready_group) {
	int unused;
};

FIXTURE_SETUP(ready_group)
{
	REQUIRE_MODULE();
	ASSERT_EQ(0, run_on(0));
	ASSERT_EQ(0, group_make());
	ASSERT_EQ(0, group_limit(60 * MIB));
	ASSERT_EQ(0, keep_ahead("0"));
}

FIXTURE_TEARDOWN(ready_group)
{
	EXPECT_EQ(0, keep_ahead("8"));
	EXPECT_EQ(0, group_stat("memory.events", "oom_kill"));
	EXPECT_EQ(0, group_remove());
	EXPECT_TRUE(module_stat_becomes("ready_frames", 0));
}

static void be_charged(struct child *child)
{
	struct heap heap;
	long before;

	(void)child;
	CHECK(group_enter());
	CHECK(!heap_open(&heap, 64 * ARENA, 0));
	before = group_stat("memory.stat", "kernel");
	CHECK(before >= 0);
	CHECK(heap_ready_becomes(&heap, ANY, 8, 8));
	CHECK(group_stat_becomes("memory.stat", "kernel", before + 8 * ARENA,
				 before + 9 * ARENA));
	CHECK(group_stat("memory.current", NULL) >= (long)(8 * ARENA));
	/* A commit that uses a ready frame charges nothing more. */
	CHECK(!heap_limit(&heap, KARENA_LIMIT_HARD, 8 * ARENA, 0));
	CHECK(!heap_commit(&heap, 0, 4));
	CHECK(group_stat_becomes("memory.stat", "kernel", before + 8 * ARENA,
				 before + 9 * ARENA));
	CHECK(!heap_ready(&heap, ANY, 0));
	CHECK(group_stat_becomes("memory.stat", "kernel", before + 4 * ARENA,
				 before + 5 * ARENA));
}

TEST_F(ready_group, memory_cgroup_of_the_owner_is_charged)
{
	EXPECT_EQ(0, in_child(be_charged));
	EXPECT_TRUE(group_falls_below(4 * MIB));
}

/* Touch small pages until 45 MiB are in use. Return true on success. */
static bool another_takes_45_mib(void)
{
	pid_t child = fork();

	if (!child) {
		char *memory = own_memory(45 * MIB);

		CHECK(memory);
		memset(memory, 1, 45 * MIB);
		_exit(0);
	}
	return !child_status(child);
}

/* In 60 MiB: 8 committed, 24 ready, and a child that needs 45. */
static void give_way(struct child *child)
{
	long before = module_stat("reclaimed_ready");
	struct heap heap;

	(void)child;
	CHECK(group_enter());
	CHECK(!heap_open(&heap, 64 * ARENA, 0));
	CHECK(!heap_commit(&heap, 0, 4));
	memset(heap.window, 7, 4 * ARENA);
	CHECK(heap_ready_becomes(&heap, ANY, 12, 12));
	CHECK(another_takes_45_mib());
	CHECK(heap_stat(&heap, "reclaimed_ready") >= 7);
	CHECK(module_stat("reclaimed_ready") >= before + 7);
	CHECK(heap_stat(&heap, "reclaimed") == 0);
	CHECK(!count_other(heap.window, 4 * ARENA, 7));
	CHECK(state(&heap, 0) == KARENA_ACTIVE);
	/* After the child has ended, the frames are ready again without a new request. */
	CHECK(heap_stat_becomes(&heap, "ready_frames", 12));
}

TEST_F_TIMEOUT(ready_group, cgroup_limit_frees_ready_frames_and_kills_nobody, SLOW)
{
	EXPECT_EQ(0, in_child(give_way));
}

/* In 60 MiB: 20 ready, 20 volatile, and then slightly more than the rest. */
static void give_way_in_order(struct child *child)
{
	long before = module_stat("reclaimed"), nr_volatile = 10, taken;
	struct heap heap;
	char *memory;

	(void)child;
	CHECK(group_enter());
	CHECK(!heap_open(&heap, 64 * ARENA, 0));
	CHECK(!heap_commit(&heap, 0, nr_volatile));
	CHECK(heap_ready_becomes(&heap, ANY, 10, 10));
	for (int i = 0; i < nr_volatile; i++)
		make_volatile(&heap, i);
	memory = own_memory(40 * MIB);
	CHECK(memory);
	for (size_t at = 0; at < 40 * MIB && module_stat("reclaimed") < before + 4;
	     at += 65536)
		memset(memory + at, 1, 65536);
	taken = heap_stat(&heap, "reclaimed");
	CHECK(taken >= 4);
	/* Newer kernels do not count these pages as progress, and continue. */
	CHECK(taken == nr_volatile || !heap_stat(&heap, "reclaimed_ready"));
}

TEST_F_TIMEOUT(ready_group, volatile_arenas_are_reclaimed_before_ready_frames, SLOW)
{
	EXPECT_EQ(0, in_child(give_way_in_order));
}

/* Room for eight and a half frames; the page cache would fill more. */
static void fill_what_is_free(struct child *child)
{
	int disk = open(DISK, O_RDONLY | O_CLOEXEC);
	struct heap heap;
	char block[65536];
	long cached;

	(void)child;
	CHECK(group_enter());
	CHECK(!heap_open(&heap, 64 * ARENA, 0));
	CHECK(!posix_fadvise(disk, 0, 0, POSIX_FADV_DONTNEED));
	for (int i = 0; i < 320; i++)
		CHECK(read(disk, block, sizeof(block)) == sizeof(block));
	cached = group_stat("memory.stat", "file");
	CHECK(cached >= (long)(16 * MIB));
	CHECK(!group_limit(group_stat("memory.current", NULL) + 17 * MIB));
	CHECK(heap_ready_becomes(&heap, ANY, 64, 8));
	/* The worker tries again after a second. */
	for (int i = 0; i < 25; i++) {
		msleep(100);
		CHECK(heap_ready(&heap, ANY, 64) == 8);
	}
	CHECK(group_stat("memory.stat", "pgscan") == 0);
	CHECK(group_stat("memory.stat", "file") >= cached);
	CHECK(group_stat("memory.events", "max") == 0);
	CHECK(group_stat("memory.events", "oom") == 0);
	close(disk);
}

TEST_F_TIMEOUT(ready_group, worker_uses_only_free_memory, SLOW)
{
	if (access(DISK, R_OK))
		SKIP(return, "no scratch disk " DISK);
	EXPECT_EQ(0, in_child(fill_what_is_free));
}

/* A commit may use a ready frame, even if there is no other memory. */
static void commit_at_the_groups_limit(struct child *child)
{
	struct heap heap;

	(void)child;
	CHECK(group_enter());
	CHECK(!heap_open(&heap, 64 * ARENA, 0));
	CHECK(heap_ready_becomes(&heap, ANY, 8, 8));
	CHECK(!group_limit(group_stat("memory.current", NULL) + MIB));
	for (int i = 0; i < 8; i++)
		CHECK(!heap_commit(&heap, i, 1));
	CHECK(heap_commit(&heap, 8, 1) == -ENOMEM);
	CHECK(!heap_ready(&heap, ANY, 8));
	CHECK(!touch(heap.window));
}

TEST_F_TIMEOUT(ready_group, commit_at_the_cgroup_limit_uses_a_ready_frame, SLOW)
{
	EXPECT_EQ(0, in_child(commit_at_the_groups_limit));
}

FIXTURE(ready_ahead) {
	struct heap heap;
};

FIXTURE_SETUP(ready_ahead)
{
	REQUIRE_MODULE();
	ASSERT_EQ(0, run_on(0));
	ASSERT_EQ(0, keep_ahead("8"));
	ASSERT_TRUE(module_stat_becomes("ready_frames", 0));
	ASSERT_EQ(0, heap_open(&self->heap, 256 * ARENA, 0));
}

FIXTURE_TEARDOWN(ready_ahead)
{
	heap_destroy(&self->heap);
	EXPECT_EQ(0, keep_ahead("8"));
	EXPECT_TRUE(module_stat_becomes("ready_frames", 0));
}

/* Commit one arena after another. Return the maximum number of ready frames seen. */
static long grow(const struct heap *heap, int first, int count,
		 unsigned int milliseconds)
{
	long ready, most = 0;

	for (int i = first; i < first + count; i++) {
		if (heap_commit(heap, i, 1))
			return -1;
		msleep(milliseconds);
		ready = module_stat("ready_frames");
		if (ready > most)
			most = ready;
		/* The module keeps at most a quarter of the huge arenas ready, here i + 1. */
		if (ready > (i + 1) / 4)
			return -2;
	}
	return most;
}

/* Wait until there are ready frames, or the module frees them. */
static bool some_are_ready(void)
{
	for (int i = 0; i < 100; i++) {
		if (module_stat("ready_frames") > 0)
			return true;
		usleep(10000);
	}
	return false;
}

TEST_F_TIMEOUT(ready_ahead, fast_growing_heap_has_ready_frames_for_a_second, SLOW)
{
	struct heap *heap = &self->heap;
	long most;

	most = grow(heap, 0, 64, 10);
	EXPECT_GE(most, 1);
	EXPECT_LE(most, 8);
	EXPECT_TRUE(some_are_ready());
	EXPECT_EQ(64 * ARENA, heap_stat(heap, "committed"));
	/* Then the module frees them. */
	EXPECT_TRUE(module_stat_becomes("ready_frames", 0));
	msleep(200);
	EXPECT_EQ(0, module_stat("ready_frames"));
	/* They are ready again when the heap grows again. */
	EXPECT_GE(grow(heap, 64, 16, 10), 1);
}

TEST_F_TIMEOUT(ready_ahead, requested_frames_stay_when_the_others_are_freed, SLOW)
{
	struct heap *heap = &self->heap;

	ASSERT_TRUE(heap_ready_becomes(heap, ANY, 2, 2));
	ASSERT_EQ(0, heap_commit(heap, 0, 64));
	sleep(3);
	EXPECT_TRUE(heap_stat_becomes(heap, "ready_frames", 2));
	EXPECT_EQ(2, heap_ready(heap, ANY, 2));
}

TEST_F_TIMEOUT(ready_ahead, slowly_growing_heap_has_no_ready_frames, SLOW)
{
	EXPECT_EQ(0, grow(&self->heap, 0, 12, 150));
}

TEST_F(ready_ahead, small_heap_has_no_ready_frames)
{
	EXPECT_EQ(0, grow(&self->heap, 0, 3, 10));
	EXPECT_FALSE(some_are_ready());
}

TEST_F_TIMEOUT(ready_ahead, parameter_limits_frames_ahead_and_0_turns_them_off, SLOW)
{
	struct heap *heap = &self->heap;
	long most;

	ASSERT_EQ(0, keep_ahead("2"));
	most = grow(heap, 0, 32, 10);
	EXPECT_GE(most, 1);
	EXPECT_LE(most, 2);
	ASSERT_EQ(0, keep_ahead("0"));
	EXPECT_TRUE(module_stat_becomes("ready_frames", 0));
	EXPECT_EQ(0, grow(heap, 32, 32, 10));
	EXPECT_FALSE(some_are_ready());
	/* The parameter does not affect requested frames. */
	EXPECT_TRUE(heap_ready_becomes(heap, ANY, 2, 2));
	EXPECT_EQ(-EINVAL, write_text(AHEAD, "-1"));
	EXPECT_EQ(-EINVAL, write_text(AHEAD, "many"));
}

FIXTURE(ready_call) {
	struct heap heap;
};

FIXTURE_SETUP(ready_call)
{
	REQUIRE_MODULE();
	ASSERT_EQ(0, keep_ahead("0"));
	ASSERT_EQ(0, heap_open_alone(&self->heap, 16 * ARENA, 0));
}

FIXTURE_TEARDOWN(ready_call)
{
	EXPECT_EQ(0, keep_ahead("8"));
	heap_destroy(&self->heap);
	EXPECT_TRUE(module_stat_becomes("ready_frames", 0));
}

TEST_F(ready_call, invalid_values_are_rejected)
{
	const struct karena_ready good = { .size = sizeof(good), .count = 1 };
	struct karena_ready args;

#define EXPECT_FAILS(_error, _member, _value)				\
	do {								\
		args = good;						\
		args._member = _value;					\
		EXPECT_EQ(-(_error), heap_call(&self->heap, KARENA_READY, &args)); \
	} while (0)

	for (unsigned int size = 0; size < sizeof(good); size++)
		EXPECT_FAILS(EINVAL, size, size);
	EXPECT_FAILS(EINVAL, flags, 1);
	EXPECT_FAILS(EINVAL, flags, 1U << 31);
	EXPECT_FAILS(EINVAL, reserved, 1);
	EXPECT_FAILS(EINVAL, count, 17);
	EXPECT_FAILS(EINVAL, count, ~0U);
	EXPECT_FAILS(EINVAL, node, 63);
	EXPECT_FAILS(EINVAL, node, 1 << 20);
	EXPECT_FAILS(EINVAL, node, ~0U - 1);
	EXPECT_EQ(-EFAULT, heap_call(&self->heap, KARENA_READY, NULL));
	EXPECT_EQ(-EFAULT, heap_call(&self->heap, KARENA_READY, (void *)-4096L));
	msleep(50);
	EXPECT_EQ(0, module_stat("ready_frames"));
	EXPECT_EQ(0, heap_ready(&self->heap, ANY, 0));
}

TEST_F(ready_call, longer_struct_may_have_a_zero_tail)
{
	struct {
		struct karena_ready ready;
		uint64_t tail[2];
	} args = { { .size = sizeof(args), .count = 16, .node = ANY } };

	EXPECT_EQ(0, heap_call(&self->heap, KARENA_READY, &args));
	EXPECT_EQ(sizeof(args), args.ready.size);
	EXPECT_EQ(0, args.ready.reserved);
	args.ready.count = 0;
	args.tail[1] = 1;
	EXPECT_EQ(-E2BIG, heap_call(&self->heap, KARENA_READY, &args));
	args.ready.size = 4097;
	EXPECT_EQ(-E2BIG, heap_call(&self->heap, KARENA_READY, &args));
}

TEST_F(ready_call, readonly_struct_fails_with_efault)
{
	struct karena_ready good = { .size = sizeof(good), .node = ANY };
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ASSERT_NE(MAP_FAILED, page);
	memcpy(page, &good, sizeof(good));
	ASSERT_EQ(0, mprotect(page, 4096, PROT_READ));
	EXPECT_EQ(-EFAULT, heap_call(&self->heap, KARENA_READY, page));
}

TEST_F(ready_call, only_heap_descriptors_accept_the_call)
{
	struct karena_ready args = { .size = sizeof(args), .node = ANY };
	struct karena_info info = { .size = sizeof(info) };
	struct heap *heap = &self->heap;

	EXPECT_EQ(-ENOTTY, device_call(KARENA_READY, &args));
	EXPECT_EQ(-ENOTTY, heap_call(heap, KARENA_INFO, &info));
	EXPECT_EQ(-ENOTTY, heap_call(heap, _IO(KARENA_IOC, 0), &args));
	EXPECT_EQ(-ENOTTY, heap_call(heap, _IO(KARENA_IOC, 0xff), &args));
	EXPECT_EQ(-ENOTTY, heap_call(heap, _IO(0xE8, 0x21), &args));
}

static struct heap parents;

static void ask_for_the_parents_heap(struct child *child)
{
	(void)child;
	CHECK(heap_ready(&parents, ANY, 1) == -EPERM);
	CHECK(heap_ready(&parents, ANY, 0) == -EPERM);
}

TEST_F(ready_call, other_process_cannot_make_the_call)
{
	parents = self->heap;
	EXPECT_EQ(0, in_child(ask_for_the_parents_heap));
	EXPECT_EQ(0, module_stat("ready_frames"));
}

static void ask_for_more_than_may_be_locked(struct child *child)
{
	struct heap heap;

	(void)child;
	CHECK(limit_locked_memory(8 * MIB));
	CHECK(!run_on(0));
	CHECK(become_nobody());
	CHECK(!heap_open(&heap, 16 * ARENA, 0));
	CHECK(heap_ready(&heap, ANY, 5) == -ENOMEM);
	CHECK(heap_ready(&heap, ANY, 16) == -ENOMEM);
	CHECK(heap_ready_becomes(&heap, ANY, 4, 4));
	CHECK(status_member("VmPin") == 8 * MIB);
	/* A commit uses a ready frame, which the worker cannot replace. */
	CHECK(!heap_commit(&heap, 0, 3));
	CHECK(heap_ready(&heap, ANY, 1) == 1);
	CHECK(!heap_commit(&heap, 3, 1));
	CHECK(heap_commit(&heap, 4, 1) == -ENOMEM);
	CHECK(heap_ready(&heap, ANY, 1) == -ENOMEM);
	CHECK(!heap_ready(&heap, ANY, 0));
	CHECK(!heap_release(&heap, 0, 4));
	CHECK(heap_ready_becomes(&heap, ANY, 4, 4));
	heap_destroy(&heap);
	CHECK(status_member("VmPin") == 0);
}

TEST_F(ready_call, memlock_limit_bounds_ready_frames)
{
	struct stat stat;
	int status;

	ASSERT_EQ(0, lstat(KARENA_DEVICE, &stat));
	ASSERT_EQ(0, chown(KARENA_DEVICE, 0, NOBODY));
	status = in_child(ask_for_more_than_may_be_locked);
	EXPECT_EQ(0, chown(KARENA_DEVICE, 0, stat.st_gid));
	EXPECT_EQ(0, status);
}

TEST_HARNESS_MAIN
