// SPDX-License-Identifier: GPL-2.0
/*
 * No data of one process reaches another, and a process that writes garbage to all of its
 * mappings harms only itself.
 */
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "common.h"

#define SECRET	"the secret of another process!!"	/* 32 bytes */

static void write_secret(size_t arenas)
{
	struct heap heap;

	if (heap_make(&heap, arenas * ARENA, 0) || heap_commit(&heap, 0, arenas))
		_exit(1);
	for (size_t i = 0; i < arenas * ARENA; i += sizeof(SECRET))
		memcpy(heap.window + i, SECRET, sizeof(SECRET));
	_exit(0);
}

TEST(memory_of_an_ended_process_is_cleared)
{
	int rounds = kernel_is_slow() ? 1 : 4;

	REQUIRE_MODULE();
	for (int round = 0; round < rounds; round++) {
		struct heap heap;
		pid_t child = fork();

		if (!child)
			write_secret(48);
		ASSERT_EQ(0, child_status(child));
		ASSERT_EQ(0, heap_make(&heap, 48 * ARENA, 0));
		ASSERT_EQ(0, heap_commit(&heap, 0, 48));
		EXPECT_EQ(0, count_other(heap.window, 48 * ARENA, 0));
		heap_destroy(&heap);
	}
}

/* For a while, write random data everywhere and make random calls. */
static void misbehave(unsigned int seed, time_t until)
{
	struct heap heap;

	if (heap_make(&heap, 16 * ARENA, 8 * ARENA))
		_exit(1);
	srandom(seed);
	while (time(NULL) < until) {
		size_t words = heap.control_size / sizeof(uint32_t);
		size_t index = random() % 16;

		for (int i = 0; i < 200; i++)
			((uint32_t *)heap.control)[random() % words] =
				random() % 8 ? random() % 6 : random();
		/* Some calls populate memory. Each is valid or fails with an error. */
		switch (random() % 3) {
		case 0:
			madvise(arena(&heap, index), ARENA, MADV_POPULATE_WRITE);
			break;
		case 1:
			madvise(arena(&heap, index), ARENA, MADV_REMOVE);
			break;
		case 2:
			touch(arena(&heap, index));
			break;
		}
	}
	_exit(0);
}

TEST(hostile_process_harms_only_itself)
{
	time_t until = time(NULL) + 4;
	pid_t children[2];
	struct heap heap;

	REQUIRE_MODULE();
	for (int i = 0; i < 2; i++) {
		children[i] = fork();
		if (!children[i])
			misbehave(i, until);
	}
	ASSERT_EQ(0, heap_make(&heap, 4 * ARENA, 0));
	while (time(NULL) < until) {
		ASSERT_EQ(0, heap_commit(&heap, 0, 4));
		for (int i = 0; i < 4; i++) {
			ASSERT_EQ(KARENA_ACTIVE, state(&heap, i));
			ASSERT_EQ(0, count_other(arena(&heap, i), ARENA, 0));
			memset(arena(&heap, i), 1 + i, ARENA);
		}
		for (int i = 0; i < 4; i++)
			ASSERT_EQ(0, count_other(arena(&heap, i), ARENA, 1 + i));
		ASSERT_EQ(0, heap_release(&heap, 0, 4));
	}
	heap_destroy(&heap);
	for (int i = 0; i < 2; i++)
		EXPECT_EQ(0, child_status(children[i]));
	EXPECT_TRUE(module_stat_becomes("committed", 0));
}

/*
 * In this process, some threads write random words all over its control region, including
 * the header, while the others use the heap in every way.
 */
#define NR_HOSTILE	24

struct hostile {
	struct heap heap;
	uint32_t *words;
	size_t nr_words;
	const bool *stop;	/* shared with the tested process */
};

static bool hostile_continues(const struct hostile *hostile)
{
	return !__atomic_load_n(hostile->stop, __ATOMIC_RELAXED);
}

/* Mostly valid states, some with random other bits. */
static uint32_t random_word(unsigned int *seed)
{
	uint32_t word = rand_r(seed);

	switch (word >> 8 & 3) {
	case 0:
		return word & 7;
	case 1:
		return word & 15;
	case 2:
		return KARENA_VOLATILE_SINCE((uint64_t)word << 20);
	default:
		return word << 8 ^ rand_r(seed);
	}
}

static void *scribble_everywhere(void *data)
{
	struct hostile *hostile = data;
	unsigned int seed = gettid();

	while (hostile_continues(hostile)) {
		for (int i = 0; i < 10000; i++) {
			size_t at = rand_r(&seed) % hostile->nr_words;

			__atomic_store_n(&hostile->words[at], random_word(&seed),
					 __ATOMIC_RELAXED);
		}
	}
	return NULL;
}

/* The state words have most effect. */
static void *scribble_at_the_states(void *data)
{
	struct hostile *hostile = data;
	unsigned int seed = gettid();

	while (hostile_continues(hostile)) {
		for (int i = 0; i < 10000; i++)
			set_state(&hostile->heap, rand_r(&seed) % NR_HOSTILE, 1,
				  random_word(&seed));
	}
	return NULL;
}

/* Write to a page or fail. A plain store would often raise SIGBUS. */
static void poke(char *at)
{
	char byte = 'x';
	struct iovec local = { &byte, 1 }, remote = { at, 1 };

	if (process_vm_writev(getpid(), &local, 1, &remote, 1, 0) < 0)
		sched_yield();
}

static void *use_at_random(void *data)
{
	struct hostile *hostile = data;
	struct heap *heap = &hostile->heap;
	unsigned int seed = gettid();

	while (hostile_continues(hostile)) {
		size_t first = rand_r(&seed) % NR_HOSTILE;
		size_t size = ARENA * (1 + rand_r(&seed) % 2);
		char *start = arena(heap, first);

		if (first == NR_HOSTILE - 1)
			size = ARENA;
		switch (rand_r(&seed) % 6) {
		case 0:
		case 1:
			set_state(heap, first, size / ARENA, KARENA_REQUESTED);
			madvise(start, size, MADV_POPULATE_WRITE);
			break;
		case 2:
			madvise(start, size, MADV_REMOVE);
			break;
		case 3:
			make_volatile(heap, first);
			break;
		case 4:
			/* A single page. */
			start += rand_r(&seed) % 512 * 4096UL;
			madvise(start, 4096, rand_r(&seed) % 2 ?
				MADV_POPULATE_WRITE : MADV_REMOVE);
			break;
		default:
			poke(start + rand_r(&seed) % ARENA);
			break;
		}
	}
	return NULL;
}

static void *shrink_all_the_time(void *data)
{
	while (hostile_continues(data))
		shrink_everything();
	return NULL;
}

static void be_hostile(const bool *stop, pid_t parent)
{
	static void *(*const mains[])(void *) = {
		scribble_everywhere, scribble_at_the_states,
		use_at_random, use_at_random, shrink_all_the_time,
	};
	pthread_t threads[ARRAY_SIZE(mains)];
	struct hostile hostile = { .stop = stop };
	struct heap *heap = &hostile.heap;

	/* The parent, which ends this process, may fail before it does so. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(7);
	if (heap_make(heap, NR_HOSTILE * ARENA, NR_HOSTILE / 2 * ARENA))
		_exit(1);
	hostile.words = (uint32_t *)heap->control;
	hostile.nr_words = heap->control_size / sizeof(uint32_t);
	for (int i = 0; i < ARRAY_SIZE(mains); i++) {
		if (pthread_create(&threads[i], NULL, mains[i], &hostile))
			_exit(2);
	}
	for (int i = 0; i < ARRAY_SIZE(mains); i++)
		pthread_join(threads[i], NULL);
	/*
	 * The state words are garbage, the module's own counts are not: all memory can be
	 * released.
	 */
	if (heap_release(heap, 0, NR_HOSTILE))
		_exit(3);
	if (heap_stat(heap, "committed") || heap_stat(heap, "huge_arenas"))
		_exit(4);
	if (heap_commit(heap, 0, NR_HOSTILE / 2))
		_exit(5);
	if (count_other(heap->window, NR_HOSTILE / 2 * ARENA, 0))
		_exit(6);
	_exit(0);
}

FIXTURE(isolation) {
	int unused;
};

FIXTURE_SETUP(isolation)
{
}

FIXTURE_TEARDOWN(isolation)
{
}

TEST_F_TIMEOUT(isolation, garbage_in_a_control_region_harms_no_other_process, SLOW)
{
	time_t until = time(NULL) + 5;
	pid_t child, parent = getpid();
	struct heap heap;
	bool *stop;

	REQUIRE_MODULE();
	stop = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, stop);
	child = fork();
	if (!child)
		be_hostile(stop, parent);
	ASSERT_EQ(0, heap_make(&heap, 8 * ARENA, 0));
	/* A slow machine needs longer for as many rounds. */
	for (int rounds = 0; rounds < 3 || time(NULL) < until; rounds++) {
		ASSERT_EQ(0, heap_commit(&heap, 0, 4));
		ASSERT_EQ(0, count_other(heap.window, 4 * ARENA, 0));
		for (int i = 0; i < 4; i++)
			memset(arena(&heap, i), 1 + i, ARENA);
		EXPECT_EQ(4 * ARENA, heap_stat(&heap, "committed"));
		EXPECT_EQ(4, heap_stat(&heap, "huge_arenas"));
		EXPECT_EQ(0, heap_stat(&heap, "volatile_arenas"));
		for (int i = 0; i < 4; i++) {
			ASSERT_EQ(KARENA_ACTIVE, state(&heap, i));
			ASSERT_EQ(0, count_other(arena(&heap, i), ARENA, 1 + i));
		}
		ASSERT_EQ(0, heap_release(&heap, 0, 4));
		EXPECT_EQ(0, heap_stat(&heap, "committed"));
	}
	__atomic_store_n(stop, true, __ATOMIC_RELAXED);
	EXPECT_EQ(0, heap_stat(&heap, "reclaimed"));
	EXPECT_EQ(0, heap_stat(&heap, "refused"));
	EXPECT_EQ(heap.id, heap.control->id);
	EXPECT_EQ(8, heap.control->nr_arenas);
	heap_destroy(&heap);
	EXPECT_EQ(0, child_status(child));
	EXPECT_TRUE(module_stat_becomes("committed", 0));
	EXPECT_EQ(0, module_stat("huge_arenas"));
	EXPECT_TRUE(module_stat_becomes("pinned_orphans", 0));
}

TEST_HARNESS_MAIN
