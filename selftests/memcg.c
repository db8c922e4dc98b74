// SPDX-License-Identifier: GPL-2.0
/*
 * Frames are charged to the memory cgroup of the owner: at memory.max a commit returns
 * ENOMEM, no process is killed, and released memory is uncharged.
 */
#include <sys/uio.h>

#include "child.h"
#include "pass.h"

FIXTURE(memcg) {
	int unused;
};

FIXTURE_SETUP(memcg)
{
	REQUIRE_MODULE();
	if (group_make())
		SKIP(return, "cannot create a memory cgroup");
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
	/* 24 MiB minus the memory of the process itself. */
	CHECK(n >= 9 && n <= 11);
	CHECK(heap_commit(&heap, n, 1) == -ENOMEM);
	CHECK(group_stat("memory.current", NULL) >= (long)(n * ARENA));
	CHECK(group_stat_becomes("memory.stat", "file_mapped", n * ARENA,
				 (n + 1) * ARENA));
	CHECK(!count_other(heap.window, n * ARENA, 1));
	CHECK(!heap_release(&heap, 0, 4));
	CHECK(group_stat("memory.current", NULL) <
	      (long)((n - 4 + 2) * ARENA));
	CHECK(!heap_commit(&heap, n, 3));
}

TEST_F(memcg, commit_at_memory_max_returns_enomem)
{
	EXPECT_EQ(0, in_child(commit_to_the_limit));
	EXPECT_EQ(0, group_stat("memory.events", "oom_kill"));
	EXPECT_TRUE(group_falls_below(4 * MIB));
}

TEST_F(memcg, other_process_commits_nothing_in_a_heap)
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
		CHECK(group_stat("memory.current", NULL) < (long)(4 * ARENA));
		_exit(0);
	}
	ASSERT_EQ(sizeof(heap), read(to_parent[0], &heap, sizeof(heap)));
	/* The parent writes to its child's committed and requested arenas. */
	for (int i = 0; i < 4; i++) {
		local = (struct iovec){ &byte, 1 };
		remote = (struct iovec){ arena(&heap, i), 1 };
		EXPECT_EQ(i < 2 ? 1 : -1,
			  process_vm_writev(child, &local, 1, &remote, 1, 0));
	}
	ASSERT_EQ(1, write(to_child[1], &byte, 1));
	EXPECT_EQ(0, child_status(child));
}

#define GONE	200	/* pages of each arena, fewer than make it sparse */

/* Released pages that a child still shares read as zeros and have no page of their own. */
static void release_what_is_shared(struct child *child)
{
	struct heap heap;
	pid_t other;

	CHECK(group_enter());
	CHECK(!heap_open(&heap, 16 * ARENA, 0));
	CHECK(!heap_commit(&heap, 0, 4));
	memset(heap.window, 1, 4 * ARENA);
	other = fork();
	if (!other) {
		pause();
		_exit(0);
	}
	for (int i = 0; i < 4; i++)
		CHECK(!heap_range(&heap, KARENA_RELEASE, i * ARENA, GONE * PAGE));
	CHECK(tell(child->parent, heap.id));
	CHECK(!hear(child->parent));
	CHECK(!kill(other, SIGKILL));
	child_status(other);
}

TEST_F(memcg, reading_an_image_charges_the_reader)
{
	struct karena_snapshot args;
	struct child child;
	struct image image;
	uint64_t id;
	long before;
	int fd;

	ASSERT_EQ(0, child_start(&child, release_what_is_shared));
	id = hear(child.line);
	ASSERT_TRUE(id);
	fd = traced_snapshot(child.pid, "mem", id, &args);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(0, image_map(&image, fd, NULL, &args));
	before = group_stat("memory.current", NULL);
	for (int i = 0; i < 4; i++) {
		EXPECT_EQ(0, count_other(image.window + i * ARENA, GONE * PAGE, 0));
		EXPECT_EQ(0, count_other(image.window + i * ARENA + GONE * PAGE,
					 ARENA - GONE * PAGE, 1));
	}
	EXPECT_LT(group_stat("memory.current", NULL) - before, (long)MIB);
	image_destroy(&image);
	EXPECT_EQ(0, child_end(&child));
	EXPECT_EQ(0, group_stat("memory.events", "oom_kill"));
	EXPECT_TRUE(group_falls_below(4 * MIB));
}

#define HELD	8	/* arenas; copies of them exceed the limit of the cgroup */

/* Put a page of each arena into a pipe, so that the parent must keep all of the arena. */
static void hold(const struct heap *heap, int pipes[2])
{
	CHECK(!pipe(pipes));
	for (int i = 0; i < HELD; i++) {
		struct iovec page = { arena(heap, i), PAGE };

		CHECK(vmsplice(pipes[1], &page, 1, 0) == (ssize_t)PAGE);
	}
}

/*
 * Count the arenas that a forked child has. It must have each one completely or not at all.
 */
static int have(const struct heap *heap)
{
	int nr = 0;

	for (int i = 0; i < HELD; i++) {
		if (touch(arena(heap, i))) {
			CHECK(state(heap, i) == KARENA_FREE);
			continue;
		}
		CHECK(!count_other(arena(heap, i), ARENA, 1));
		nr++;
	}
	return nr;
}

static int snapshot(const struct heap *heap)
{
	struct karena_snapshot call = { .size = sizeof(call) };

	return heap_call(heap, KARENA_SNAPSHOT, &call);
}

static void fork_with_pinned_memory(struct child *child)
{
	struct heap heap;
	int pipes[2];
	pid_t forked;

	(void)child;
	CHECK(group_enter());
	CHECK(!heap_open(&heap, 16 * ARENA, 0));
	CHECK(!heap_commit(&heap, 0, HELD));
	memset(heap.window, 1, HELD * ARENA);
	hold(&heap, pipes);
	CHECK(snapshot(&heap) == -ENOMEM);
	forked = fork();
	if (!forked)
		_exit(have(&heap));
	CHECK(forked > 0 && child_status(forked) < HELD);
	CHECK(have(&heap) == HELD);
	/* Memory that is no longer pinned needs no copy. */
	close(pipes[0]);
	close(pipes[1]);
	CHECK(snapshot(&heap) >= 0);
	forked = fork();
	if (!forked)
		_exit(have(&heap));
	CHECK(child_status(forked) == HELD);
}

TEST_F_TIMEOUT(memcg, fork_with_pinned_memory_kills_nobody, SLOW)
{
	EXPECT_EQ(0, in_child(fork_with_pinned_memory));
	EXPECT_EQ(0, group_stat("memory.events", "oom_kill"));
	EXPECT_TRUE(group_falls_below(4 * MIB));
}

TEST_HARNESS_MAIN
