// SPDX-License-Identifier: GPL-2.0
/*
 * No byte of one process reaches another, and one that scribbles over all it may
 * write to harms itself alone.
 */
#include <time.h>

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

TEST(memory_of_an_ended_process_comes_back_zeroed)
{
	REQUIRE_MODULE();
	for (int round = 0; round < 4; round++) {
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

/* Write anything everywhere, ask for anything, for a while. */
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
		/* Some populate, some do not; each is a valid call or an error. */
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

TEST(a_hostile_process_harms_only_itself)
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
	EXPECT_TRUE(figure_becomes("committed", 0));
}

TEST_HARNESS_MAIN
