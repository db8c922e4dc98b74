// SPDX-License-Identifier: GPL-2.0
/*
 * Volatile arenas: a store makes an arena volatile, a compare-and-swap makes it active
 * again, and the kernel takes the oldest ones when memory is short, but not while they are
 * pinned.
 */
#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <linux/seccomp.h>

#include "child.h"

FIXTURE(volatile_) {
	struct heap heap;
};

FIXTURE_SETUP(volatile_)
{
	struct karena_info info = { .size = sizeof(info) };

	REQUIRE_MODULE();
	ASSERT_EQ(0, device_call(KARENA_INFO, &info));
	ASSERT_TRUE(info.features & KARENA_FEATURE_VOLATILE);
	ASSERT_EQ(0, heap_make(&self->heap, 64 * ARENA, 0));
}

FIXTURE_TEARDOWN(volatile_)
{
	heap_destroy(&self->heap);
}

TEST_F(volatile_, arena_reused_in_time_is_intact)
{
	struct heap *heap = &self->heap;
	uint32_t words[4];

	ASSERT_EQ(0, heap_commit(heap, 0, 4));
	for (int i = 0; i < 4; i++) {
		memset(arena(heap, i), i + 1, ARENA);
		words[i] = make_volatile(heap, i);
	}
	EXPECT_EQ(4, heap_stat(heap, "volatile_arenas"));
	for (int i = 0; i < 4; i++) {
		EXPECT_TRUE(reuse(heap, i, words[i]));
		EXPECT_EQ(0, count_other(arena(heap, i), ARENA, i + 1));
	}
	EXPECT_EQ(0, heap_stat(heap, "volatile_arenas"));
	shrink_everything();
	EXPECT_EQ(0, count_other(arena(heap, 3), ARENA, 4));
	EXPECT_EQ(0, heap_stat(heap, "reclaimed"));
}

/* In a process that may only read, write and exit. */
TEST_F(volatile_, volatile_and_reuse_need_no_system_call_or_fault)
{
	struct heap *heap = &self->heap;
	struct { long faults; int lost; } result = {};
	int pipes[2];
	pid_t child;

	ASSERT_EQ(0, pipe(pipes));
	child = fork();
	if (!child) {
		int lost = 0;

		if (heap_make(heap, 16 * ARENA, 0) || heap_commit(heap, 0, 16))
			_exit(1);
		prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
		for (int round = 0; round < 20; round++) {
			for (int i = 0; i < 16; i++) {
				uint32_t word = KARENA_VOLATILE_SINCE(round << 20);

				__atomic_store_n(&heap->states[i], word,
						 __ATOMIC_RELEASE);
				if (!reuse(heap, i, word))
					lost++;
				for (size_t at = 0; at < ARENA; at += 4096)
					arena(heap, i)[at]++;
			}
		}
		result.lost = lost;
		if (write(pipes[1], &heap->id, sizeof(heap->id)) < 0 ||
		    write(pipes[1], &result, sizeof(result)) < 0)
			syscall(SYS_exit, 2);
		/* Keep the memory until the parent has checked the faults. */
		for (;;)
			;
	}
	ASSERT_EQ(sizeof(heap->id), read(pipes[0], &heap->id, sizeof(heap->id)));
	ASSERT_EQ(sizeof(result), read(pipes[0], &result, sizeof(result)));
	EXPECT_EQ(0, result.lost);
	EXPECT_EQ(16, heap_stat(heap, "faults"));
	kill(child, SIGKILL);
	EXPECT_EQ(128 + SIGKILL, child_status(child));
}

TEST_F(volatile_, reclaimed_arenas_are_free_and_inaccessible)
{
	struct heap *heap = &self->heap;
	uint32_t words[8];

	ASSERT_EQ(0, heap_commit(heap, 0, 8));
	memset(heap->window, 1, 8 * ARENA);
	for (int i = 0; i < 8; i += 2)
		words[i] = make_volatile(heap, i);
	shrink_everything();
	for (int i = 0; i < 8; i += 2) {
		EXPECT_EQ(KARENA_FREE, state(heap, i));
		EXPECT_FALSE(reuse(heap, i, words[i]));
		EXPECT_EQ(SIGBUS, touch(arena(heap, i)));
		EXPECT_EQ(KARENA_ACTIVE, state(heap, i + 1));
		EXPECT_EQ(0, count_other(arena(heap, i + 1), ARENA, 1));
	}
	EXPECT_EQ(4, heap_stat(heap, "reclaimed"));
	EXPECT_EQ(4 * ARENA, heap_stat(heap, "committed"));
	EXPECT_EQ(4, heap_stat(heap, "huge_arenas"));
	/* They can be committed again, and are zero then. */
	ASSERT_EQ(0, heap_commit(heap, 0, 8));
	for (int i = 0; i < 8; i += 2)
		EXPECT_EQ(0, count_other(arena(heap, i), ARENA, 0));
}

TEST_F(volatile_, volatile_arena_can_be_released)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_commit(heap, 0, 2));
	make_volatile(heap, 0);
	ASSERT_EQ(0, heap_release(heap, 0, 1));
	EXPECT_EQ(KARENA_FREE, state(heap, 0));
	EXPECT_EQ(ARENA, heap_stat(heap, "committed"));
}

/* vmsplice() takes plain references without a pin count. */
TEST_F(volatile_, pinned_arena_is_not_reclaimed)
{
	struct heap *heap = &self->heap;
	struct iovec vector;
	uint32_t words[2];
	char page[4096];
	int pipes[2];

	ASSERT_EQ(0, pipe(pipes));
	ASSERT_EQ(0, heap_commit(heap, 0, 2));
	memset(heap->window, 'p', 2 * ARENA);
	vector = (struct iovec){ arena(heap, 0) + 8192, 4096 };
	ASSERT_EQ(4096, vmsplice(pipes[1], &vector, 1, 0));
	for (int i = 0; i < 2; i++)
		words[i] = make_volatile(heap, i);
	shrink_everything();
	EXPECT_EQ(KARENA_FREE, state(heap, 1));
	EXPECT_TRUE(reuse(heap, 0, words[0]));
	EXPECT_EQ(0, count_other(arena(heap, 0), ARENA, 'p'));
	EXPECT_TRUE(module_stat_becomes("pinned_orphans", 0));
	/* The pipe still reads from the same page. */
	arena(heap, 0)[8192] = 'q';
	ASSERT_EQ(4096, read(pipes[0], page, 4096));
	EXPECT_EQ('q', page[0]);
	words[0] = make_volatile(heap, 0);
	shrink_everything();
	EXPECT_FALSE(reuse(heap, 0, words[0]));
	close(pipes[0]);
	close(pipes[1]);
}

static bool stop;

static void *shrink_all_the_time(void *data)
{
	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED))
		shrink_everything();
	return data;
}

/* Each owner checks every arena that it reuses. The arena may be lost, but not changed. */
static long use(struct heap *heap, int first, unsigned int seed, time_t until)
{
	int pipes[2];
	long wrong = 0, taken = 0;

	if (pipe(pipes))
		return -1;
	while (time(NULL) < until) {
		int index = first + rand_r(&seed) % 4;
		char byte = rand_r(&seed), copy[512];
		struct iovec vector = { arena(heap, index) + 4096, 512 };
		bool pin = rand_r(&seed) % 4 == 0;
		uint32_t word;

		if (state(heap, index) == KARENA_FREE &&
		    heap_commit(heap, index, 1))
			continue;
		memset(arena(heap, index), byte, ARENA);
		if (pin && vmsplice(pipes[1], &vector, 1, 0) != 512)
			return -2;
		word = make_volatile(heap, index);
		if (rand_r(&seed) % 2)
			usleep(1000);
		for (;;) {
			if (reuse(heap, index, word)) {
				wrong += count_other(arena(heap, index), ARENA,
						     byte) != 0;
				break;
			}
			if (state(heap, index) == KARENA_FREE) {
				taken++;
				break;
			}
			/* BUSY: the kernel either reclaims the arena or restores the word. */
			sched_yield();
		}
		if (pin) {
			if (read(pipes[0], copy, 512) != 512)
				return -3;
			wrong += count_other(copy, 512, byte) != 0;
		}
	}
	close(pipes[0]);
	close(pipes[1]);
	return wrong ?: -100 - taken;
}

struct user {
	pthread_t thread;
	struct heap *heap;
	int first;
	time_t until;
	long result;
};

static void *user_main(void *data)
{
	struct user *user = data;

	user->result = use(user->heap, user->first, user->first, user->until);
	return NULL;
}

TEST_F_TIMEOUT(volatile_, reclaim_races_with_owners, SLOW)
{
	struct user users[3];
	pthread_t shrinker;
	long taken = 0;

	stop = false;
	ASSERT_EQ(0, pthread_create(&shrinker, NULL, shrink_all_the_time, NULL));
	for (int i = 0; i < 3; i++) {
		users[i] = (struct user){
			.heap = &self->heap, .first = 4 * i,
			.until = time(NULL) + 8
		};
		pthread_create(&users[i].thread, NULL, user_main, &users[i]);
	}
	for (int i = 0; i < 3; i++) {
		pthread_join(users[i].thread, NULL);
		EXPECT_LE(users[i].result, -100);
		taken += -100 - users[i].result;
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	pthread_join(shrinker, NULL);
	EXPECT_GT(taken, 0);
	EXPECT_EQ(taken, heap_stat(&self->heap, "reclaimed"));
}

TEST_F_TIMEOUT(volatile_, heap_can_be_destroyed_during_reclaim, SLOW)
{
	pthread_t shrinker;

	stop = false;
	ASSERT_EQ(0, pthread_create(&shrinker, NULL, shrink_all_the_time, NULL));
	for (int i = 0; i < 100; i++) {
		struct heap heap;

		ASSERT_EQ(0, heap_make(&heap, 8 * ARENA, 0));
		ASSERT_EQ(0, heap_commit(&heap, 0, 2));
		make_volatile(&heap, 0);
		make_volatile(&heap, 1);
		heap_destroy(&heap);
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	pthread_join(shrinker, NULL);
	EXPECT_TRUE(module_stat_becomes("committed", 0));
}

/* In a cgroup of 60 MiB: 32 of arenas, and a child that needs 45. */
#define NR_VOLATILE	15

static void fill_the_group(struct child *self)
{
	struct heap heap;
	pid_t child;
	int free = 0;

	(void)self;
	CHECK(group_enter());
	CHECK(!heap_make(&heap, 16 * ARENA, 0));
	CHECK(!heap_commit(&heap, 0, 16));
	memset(heap.window, 7, 16 * ARENA);
	for (int i = 0; i < NR_VOLATILE; i++)
		make_volatile(&heap, i);
	child = fork();
	if (!child) {
		char *memory = mmap(NULL, 45 * MIB, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		CHECK(memory != MAP_FAILED);
		madvise(memory, 45 * MIB, MADV_NOHUGEPAGE);
		memset(memory, 1, 45 * MIB);
		_exit(0);
	}
	CHECK(!child_status(child));
	for (int i = 0; i < NR_VOLATILE; i++)
		free += state(&heap, i) == KARENA_FREE;
	CHECK(free >= 8);
	for (int i = NR_VOLATILE; i < 16; i++)
		CHECK(!count_other(arena(&heap, i), ARENA, 7));
}

TEST_F_TIMEOUT(volatile_, cgroup_limit_reclaims_volatile_arenas_and_kills_nobody, SLOW)
{
	ASSERT_EQ(0, group_make());
	ASSERT_EQ(0, group_limit(60 * MIB));
	EXPECT_EQ(0, in_child(fill_the_group));
	EXPECT_EQ(0, group_stat("memory.events", "oom_kill"));
	EXPECT_EQ(0, group_remove());
}

#define NR_HEAPS	500	/* more than reclaim scans in one call */

/* One heap in the middle has a volatile arena, the others have one page each. */
static void find_one_of_many(struct child *child)
{
	static struct heap heaps[NR_HEAPS];
	struct heap *heap = &heaps[NR_HEAPS / 2];
	char *memory;

	(void)child;
	CHECK(group_enter());
	for (int i = 0; i < NR_HEAPS; i++) {
		CHECK(!heap_open(&heaps[i], 64 * ARENA, 0));
		CHECK(!heap_range(&heaps[i], KARENA_COMMIT, 0, 4096));
		CHECK(!close(heaps[i].fd));
	}
	CHECK(!heap_commit(heap, 1, 1));
	make_volatile(heap, 1);
	memory = own_memory(2 * MIB);
	CHECK(memory);
	/* Only the arena can provide the memory for it. */
	CHECK(!group_limit(group_stat("memory.current", NULL) + MIB));
	memset(memory, 1, 2 * MIB);
	CHECK(state(heap, 1) == KARENA_FREE);
}

TEST_F_TIMEOUT(volatile_, reclaim_finds_one_volatile_arena_among_many_heaps, SLOW)
{
	ASSERT_EQ(0, group_make());
	EXPECT_EQ(0, in_child(find_one_of_many));
	EXPECT_EQ(0, group_stat("memory.events", "oom_kill"));
	EXPECT_EQ(0, group_remove());
}

#define NR_OLD	64

/* The arenas become volatile in an order that differs from that of their indexes. */
static uint32_t state_of_age(const struct heap *heap, int age)
{
	return KARENA_STATE(state(heap, age * 7 % NR_OLD));
}

struct watch {
	pthread_t thread;
	struct heap *heap;
	bool stop;
	long partly;	/* checks that found only some of the arenas */
	long wrong;	/* checks that found an older arena but not a younger one */
};

/* Check from the youngest to the oldest: an arena that is found missing stays missing. */
static void *watch_the_order(void *data)
{
	struct watch *watch = data;

	while (!__atomic_load_n(&watch->stop, __ATOMIC_ACQUIRE)) {
		int gone = 0;

		for (int age = NR_OLD - 1; age >= 0; age--) {
			uint32_t word = state_of_age(watch->heap, age);

			gone += word == KARENA_FREE;
			watch->wrong += gone && word == KARENA_VOLATILE;
		}
		watch->partly += gone && gone < NR_OLD;
	}
	return NULL;
}

static void outgrow_the_group(struct child *child)
{
	/* Reclaim keeps the order on each NUMA node. */
	struct karena_create create = {
		.window = NR_OLD * ARENA, .policy = KARENA_POLICY_BIND,
	};
	long before = module_stat("reclaimed");
	struct watch watch = {};
	struct heap heap;
	char *memory;

	(void)child;
	CHECK(group_enter());
	CHECK(!heap_create(&heap, &create));
	CHECK(!heap_commit(&heap, 0, NR_OLD));
	for (int i = 0; i < NR_OLD; i++) {
		make_volatile(&heap, i * 7 % NR_OLD);
		usleep(10000);
	}
	watch.heap = &heap;
	CHECK(!pthread_create(&watch.thread, NULL, watch_the_order, &watch));
	memory = own_memory(20 * MIB);
	CHECK(memory);
	for (size_t at = 0; at < 20 * MIB &&
	     module_stat("reclaimed") < before + 5; at += 4096)
		memory[at] = 1;
	/* Linux 6.12 may continue until all of them are reclaimed. */
	CHECK(module_stat("reclaimed") >= before + 5);
	__atomic_store_n(&watch.stop, true, __ATOMIC_RELEASE);
	pthread_join(watch.thread, NULL);
	CHECK(watch.partly > 0);
	CHECK(!watch.wrong);
}

TEST_F_TIMEOUT(volatile_, oldest_arenas_are_reclaimed_first, SLOW)
{
	ASSERT_EQ(0, group_make());
	ASSERT_EQ(0, group_limit(140 * MIB));
	EXPECT_EQ(0, in_child(outgrow_the_group));
	EXPECT_EQ(0, group_remove());
}

TEST_HARNESS_MAIN
