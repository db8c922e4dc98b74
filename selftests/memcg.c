// SPDX-License-Identifier: GPL-2.0
/*
 * Frames are charged to the owner's memory cgroup: its memory.max ends a commit
 * in ENOMEM, nobody is killed, and what is released is uncharged.
 */
#include <sys/uio.h>

#include "child.h"

FIXTURE(memcg) {
	int unused;
};

FIXTURE_SETUP(memcg)
{
	REQUIRE_MODULE();
	if (group_make())
		SKIP(return, "no memory cgroup can be made");
	ASSERT_EQ(0, group_limit(24 * MIB));
}

FIXTURE_TEARDOWN(memcg)
{
	EXPECT_EQ(0, group_remove());
}

static void commit_to_the_limit(struct child *child)
{
	struct heap heap;
	int n;

	(void)child;
	CHECK(group_enter());
	CHECK(!heap_make(&heap, 64 * ARENA, 0));
	for (n = 0; n < 64 && !heap_commit(&heap, n, 1); n++)
		memset(arena(&heap, n), 1, ARENA);
	/* 24 MiB less what the process itself has. */
	CHECK(n >= 9 && n <= 11);
	CHECK(heap_commit(&heap, n, 1) == -ENOMEM);
	CHECK(group_figure("memory.current", NULL) >= (long)(n * ARENA));
	CHECK(group_figure("memory.stat", "file_mapped") >= (long)(n * ARENA));
	CHECK(!count_other(heap.window, n * ARENA, 1));
	CHECK(!heap_release(&heap, 0, 4));
	CHECK(group_figure("memory.current", NULL) <
	      (long)((n - 4 + 2) * ARENA));
	CHECK(!heap_commit(&heap, n, 3));
}

TEST_F(memcg, memory_max_ends_a_commit_in_enomem)
{
	EXPECT_EQ(0, in_child(commit_to_the_limit));
	EXPECT_EQ(0, group_figure("memory.events", "oom_kill"));
	EXPECT_TRUE(group_falls_below(4 * MIB));
}

TEST_F(memcg, another_process_commits_nothing_in_a_heap)
{
	int to_parent[2], to_child[2];
	struct iovec local, remote;
	struct heap heap;
	char byte = 1;
	pid_t child;

	ASSERT_EQ(0, pipe(to_parent));
	ASSERT_EQ(0, pipe(to_child));
	child = fork();
	if (!child) {
		CHECK(group_enter());
		CHECK(!heap_make(&heap, 4 * ARENA, 0));
		CHECK(!heap_commit(&heap, 0, 2));
		set_state(&heap, 2, 2, KARENA_REQUESTED);
		CHECK(write(to_parent[1], &heap, sizeof(heap)) == sizeof(heap));
		CHECK(read(to_child[0], &byte, 1) == 1);
		CHECK(heap.window[0] == 1 && heap.window[ARENA] == 1);
		CHECK(group_figure("memory.current", NULL) < (long)(4 * ARENA));
		_exit(0);
	}
	ASSERT_EQ(sizeof(heap), read(to_parent[0], &heap, sizeof(heap)));
	/* The parent writes to what its child has, and to what it asked for. */
	for (int i = 0; i < 4; i++) {
		local = (struct iovec){ &byte, 1 };
		remote = (struct iovec){ arena(&heap, i), 1 };
		EXPECT_EQ(i < 2 ? 1 : -1,
			  process_vm_writev(child, &local, 1, &remote, 1, 0));
	}
	ASSERT_EQ(1, write(to_child[1], &byte, 1));
	EXPECT_EQ(0, child_status(child));
}

TEST_HARNESS_MAIN
