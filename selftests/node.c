// SPDX-License-Identifier: GPL-2.0
/*
 * NUMA nodes of huge, sparse and ready frames, by the policy of the heap or of the thread.
 * Needs two nodes with memory, 0 and 1; processor 0 is on node 0, processor 1 on node 1.
 */
#include <stddef.h>
#include <sys/syscall.h>

#include <linux/mempolicy.h>

#include "child.h"

#define NODES	"/sys/devices/system/node/has_memory"

FIXTURE(node) {
	struct heap heap;
};

static bool two_nodes(void)
{
	char text[64];

	return !read_text(NODES, text, sizeof(text)) && !strcmp(text, "0-1\n") &&
	       !access("/sys/devices/system/cpu/cpu0/node0", F_OK) &&
	       !access("/sys/devices/system/cpu/cpu1/node1", F_OK);
}

FIXTURE_SETUP(node)
{
	struct karena_info info = { .size = sizeof(info) };

	REQUIRE_MODULE();
	if (!two_nodes())
		SKIP(return, "needs two NUMA nodes with a processor each");
	ASSERT_EQ(0, device_call(KARENA_INFO, &info));
	ASSERT_TRUE(info.features & KARENA_FEATURE_NODE);
	ASSERT_EQ(0, run_on(0));
	ASSERT_EQ(0, heap_open(&self->heap, 64 * ARENA, 0));
}

FIXTURE_TEARDOWN(node)
{
	if (self->heap.window)
		heap_destroy(&self->heap);
	EXPECT_TRUE(module_stat_becomes("ready_frames", 0));
	EXPECT_TRUE(module_stat_becomes("committed", 0));
}

static int open_on(struct heap *heap, uint32_t policy, uint32_t node)
{
	struct karena_create create = {
		.window = 64 * ARENA, .policy = policy, .node = node
	};

	return heap_create(heap, &create);
}

/* Node of the page at an address of this process, or -errno. */
static int node_of(void *address)
{
	int node = -EPROTO;

	*(volatile char *)address;
	if (syscall(SYS_move_pages, 0, 1UL, &address, NULL, &node, 0))
		return -errno;
	return node;
}

/* Count the arenas of a range whose first and last pages are on a node. */
static int arenas_on(const struct heap *heap, int first, int count, int node)
{
	int on = 0;

	for (int i = first; i < first + count; i++)
		on += node_of(arena(heap, i)) == node &&
		      node_of(arena(heap, i + 1) - 4096) == node;
	return on;
}

static int set_policy(int mode, unsigned long nodes)
{
	return syscall(SYS_set_mempolicy, mode, nodes ? &nodes : NULL,
		       nodes ? 64UL : 0UL) ? -errno : 0;
}

/* The policy of a heap in sysfs. */
static const char *policy_of(const struct heap *heap)
{
	static char text[64];
	char path[128];

	snprintf(path, sizeof(path), SYSFS "/heaps/%llu/policy",
		 (unsigned long long)heap->id);
	return directory_appears(heap->id) && !read_text(path, text, sizeof(text)) ?
	       text : "none";
}

TEST_F(node, without_policy_frames_are_on_the_node_of_the_thread)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_commit(heap, 0, 4));
	ASSERT_EQ(0, run_on(1));
	ASSERT_EQ(0, heap_commit(heap, 4, 4));
	ASSERT_EQ(0, heap_range(heap, KARENA_COMMIT, 8 * ARENA, 4096));
	EXPECT_EQ(4, arenas_on(heap, 0, 4, 0));
	EXPECT_EQ(4, arenas_on(heap, 4, 4, 1));
	EXPECT_EQ(1, node_of(arena(heap, 8)));
	EXPECT_EQ(8, heap_stat(heap, "huge_arenas"));
	EXPECT_STREQ("default\n", policy_of(heap));
}

TEST_F(node, policy_of_the_thread_applies_without_one_of_the_heap)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, set_policy(MPOL_BIND, 1 << 1));
	ASSERT_EQ(0, heap_commit(heap, 0, 4));
	ASSERT_EQ(0, heap_range(heap, KARENA_COMMIT, 4 * ARENA, 16384));
	ASSERT_EQ(0, set_policy(MPOL_PREFERRED, 1 << 1));
	ASSERT_EQ(0, heap_commit(heap, 5, 2));
	ASSERT_EQ(0, run_on(1));
	ASSERT_EQ(0, set_policy(MPOL_BIND, 1 << 0));
	ASSERT_EQ(0, heap_commit(heap, 8, 4));
	ASSERT_EQ(0, set_policy(MPOL_DEFAULT, 0));
	EXPECT_EQ(4, arenas_on(heap, 0, 4, 1));
	for (int i = 0; i < 4; i++)
		EXPECT_EQ(1, node_of(arena(heap, 4) + i * 4096));
	EXPECT_EQ(2, arenas_on(heap, 5, 2, 1));
	EXPECT_EQ(4, arenas_on(heap, 8, 4, 0));
}

/* Ready frames must not override the policy of the thread. */
TEST_F(node, policy_of_the_thread_applies_to_ready_frames)
{
	struct heap *heap = &self->heap;

	ASSERT_TRUE(heap_ready_becomes(heap, 0, 4, 4));
	ASSERT_EQ(0, set_policy(MPOL_BIND, 1 << 1));
	ASSERT_EQ(0, heap_commit(heap, 0, 4));
	ASSERT_EQ(0, set_policy(MPOL_DEFAULT, 0));
	EXPECT_EQ(4, arenas_on(heap, 0, 4, 1));
	EXPECT_EQ(4, heap_ready(heap, 0, 4));
}

/* A thread on node 0 commits whole arenas, parts, and the rest of an arena. */
static void expect_all_on_1(struct __test_metadata *_metadata, struct heap *heap)
{
	uint64_t at = 6 * ARENA;

	ASSERT_EQ(0, heap_commit(heap, 0, 4));
	EXPECT_EQ(4, arenas_on(heap, 0, 4, 1));
	EXPECT_EQ(4, heap_stat(heap, "huge_arenas"));
	ASSERT_EQ(0, heap_range(heap, KARENA_COMMIT, at, 12288));
	ASSERT_EQ(0, heap_range(heap, KARENA_COMMIT, at + ARENA / 2, 4096));
	for (int i = 0; i < 3; i++)
		EXPECT_EQ(1, node_of(heap->window + at + i * 4096));
	EXPECT_EQ(1, node_of(heap->window + at + ARENA / 2));

	memset(heap->window, 3, ARENA);
	ASSERT_EQ(0, heap_range(heap, KARENA_RELEASE, 65536, ARENA - 65536));
	ASSERT_EQ(3, heap_stat(heap, "huge_arenas"));
	for (int i = 0; i < 16; i++)
		EXPECT_EQ(1, node_of(heap->window + i * 4096));
	EXPECT_EQ(0, count_other(heap->window, 65536, 3));
	EXPECT_EQ(1, heap_stat(heap, "node"));
}

TEST_F(node, preferred_node_is_used)
{
	struct heap heap;

	ASSERT_EQ(0, open_on(&heap, KARENA_POLICY_PREFER, 1));
	expect_all_on_1(_metadata, &heap);
	EXPECT_STREQ("prefer\n", policy_of(&heap));
	heap_destroy(&heap);
}

TEST_F(node, bound_node_is_used)
{
	struct heap heap;

	ASSERT_EQ(0, open_on(&heap, KARENA_POLICY_BIND, 1));
	expect_all_on_1(_metadata, &heap);
	EXPECT_STREQ("bind\n", policy_of(&heap));
	heap_destroy(&heap);
}

/* The policy of the heap applies, that of the thread does not. */
TEST_F(node, policy_of_the_heap_overrides_that_of_the_thread)
{
	struct heap heap;

	ASSERT_EQ(0, open_on(&heap, KARENA_POLICY_BIND, 1));
	ASSERT_EQ(0, set_policy(MPOL_PREFERRED, 1 << 0));
	ASSERT_EQ(0, heap_commit(&heap, 0, 4));
	ASSERT_EQ(0, set_policy(MPOL_DEFAULT, 0));
	EXPECT_EQ(4, arenas_on(&heap, 0, 4, 1));
	heap_destroy(&heap);
}

/* The node depends on the index of the arena, not on the order of the commits. */
TEST_F(node, interleaved_arenas_alternate_between_nodes)
{
	struct heap heap;
	int first;

	ASSERT_EQ(0, open_on(&heap, KARENA_POLICY_INTERLEAVE, 0));
	for (int i = 0; i < 16; i++)
		ASSERT_EQ(0, heap_commit(&heap, i * 5 % 16, 1));
	ASSERT_EQ(0, heap_range(&heap, KARENA_COMMIT, 16 * ARENA, 8192));
	ASSERT_EQ(0, heap_range(&heap, KARENA_COMMIT, 17 * ARENA, 8192));
	first = node_of(heap.window);
	EXPECT_TRUE(first == 0 || first == 1);
	for (int i = 0; i < 16; i++)
		EXPECT_EQ(1, arenas_on(&heap, i, 1, (first + i) % 2));
	for (int i = 16; i < 18; i++) {
		EXPECT_EQ((first + i) % 2, node_of(arena(&heap, i)));
		EXPECT_EQ((first + i) % 2, node_of(arena(&heap, i) + 4096));
	}
	ASSERT_EQ(0, heap_release(&heap, 4, 3));
	ASSERT_EQ(0, heap_commit(&heap, 4, 3));
	for (int i = 4; i < 7; i++)
		EXPECT_EQ(1, arenas_on(&heap, i, 1, (first + i) % 2));
	EXPECT_STREQ("interleave\n", policy_of(&heap));
	heap_destroy(&heap);
}

/* Commit arenas until a commit fails. The window is larger than a node. Return how many. */
static int fill(struct heap *heap, uint32_t policy, int wanted)
{
	struct karena_create create = {
		.window = wanted * ARENA, .policy = policy, .node = 1
	};
	int n;

	if (heap_create(heap, &create))
		return -1;
	for (n = 0; n < wanted && !heap_commit(heap, n, 1); n++)
		;
	return n;
}

static int arenas_of_a_node(void)
{
	char text[4096], *at;

	if (read_text("/sys/devices/system/node/node1/meminfo", text,
		      sizeof(text)))
		return 0;
	at = strstr(text, "MemTotal:");
	return at ? atol(at + 9) / 2048 : 0;
}

TEST_F_TIMEOUT(node, on_a_full_node_prefer_falls_back_and_bind_fails, SLOW)
{
	int all = arenas_of_a_node(), bound, preferred;
	struct heap heap;
	char limit[64];

	ASSERT_GT(all, 0);
	ASSERT_EQ(0, read_text(LIMIT_PARAM, limit, sizeof(limit)));
	ASSERT_EQ(0, write_text(LIMIT_PARAM, "1T"));
	bound = fill(&heap, KARENA_POLICY_BIND, all);
	EXPECT_EQ(bound, arenas_on(&heap, 0, bound, 1));
	heap_destroy(&heap);
	preferred = fill(&heap, KARENA_POLICY_PREFER, all);
	EXPECT_EQ(preferred, arenas_on(&heap, 0, preferred, 0) +
			     arenas_on(&heap, 0, preferred, 1));
	EXPECT_GT(arenas_on(&heap, 0, preferred, 0), 0);
	heap_destroy(&heap);
	EXPECT_EQ(0, write_text(LIMIT_PARAM, limit));
	/* Only the bound heap failed, when its node was full; the other node had memory. */
	EXPECT_LT(bound, all);
	EXPECT_GT(bound, all / 2);
	EXPECT_EQ(all, preferred);
}

/* At the limit, so that used frames are not replaced. */
TEST_F(node, ready_frames_are_on_the_requested_node)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_limit(heap, KARENA_LIMIT_HARD, 5 * ARENA, 0));
	ASSERT_TRUE(heap_ready_becomes(heap, 0, 2, 2));
	ASSERT_TRUE(heap_ready_becomes(heap, 1, 3, 3));
	EXPECT_EQ(2, heap_ready(heap, 0, 2));
	EXPECT_EQ(5, module_stat("ready_frames"));
	ASSERT_EQ(0, run_on(1));
	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	EXPECT_EQ(2, heap_ready(heap, 1, 3));
	EXPECT_EQ(2, heap_ready(heap, 0, 2));
	ASSERT_EQ(0, heap_commit(heap, 1, 2));
	EXPECT_EQ(0, heap_ready(heap, 1, 3));
	EXPECT_EQ(2, heap_ready(heap, 0, 2));
	EXPECT_EQ(3, arenas_on(heap, 0, 3, 1));
	/* A commit uses a frame of another node rather than fail. */
	ASSERT_EQ(0, heap_commit(heap, 3, 1));
	EXPECT_EQ(1, heap_ready(heap, 0, 2));
	ASSERT_EQ(0, run_on(0));
	ASSERT_EQ(0, heap_commit(heap, 4, 1));
	EXPECT_EQ(0, heap_ready(heap, 0, 2));
	EXPECT_EQ(2, arenas_on(heap, 3, 2, 0));
	EXPECT_EQ(-ENOMEM, heap_commit(heap, 5, 1));
}

TEST_F(node, each_node_has_its_own_count)
{
	struct heap *heap = &self->heap;

	ASSERT_TRUE(heap_ready_becomes(heap, 0, 3, 3));
	ASSERT_TRUE(heap_ready_becomes(heap, 1, 3, 3));
	EXPECT_EQ(1, heap_ready(heap, 0, 1));
	EXPECT_EQ(3, heap_ready(heap, 1, 3));
	/* KARENA_NODE_ANY counts the frames of all nodes, wherever the thread runs. */
	EXPECT_EQ(4, heap_ready(heap, KARENA_NODE_ANY, 4));
	ASSERT_EQ(0, run_on(1));
	EXPECT_EQ(4, heap_ready(heap, KARENA_NODE_ANY, 4));
	ASSERT_TRUE(heap_ready_becomes(heap, KARENA_NODE_ANY, 5, 5));
	EXPECT_EQ(1, heap_ready(heap, 0, 1));
	EXPECT_EQ(4, heap_ready(heap, 1, 4));
	EXPECT_EQ(0, heap_ready(heap, KARENA_NODE_ANY, 0));
	EXPECT_EQ(0, module_stat("ready_frames"));
}

TEST_F(node, ready_frames_follow_the_policy_of_the_heap)
{
	struct heap heap;

	ASSERT_EQ(0, open_on(&heap, KARENA_POLICY_BIND, 1));
	EXPECT_EQ(-EINVAL, heap_ready(&heap, 0, 1));
	EXPECT_EQ(-EINVAL, heap_ready(&heap, 0, 0));
	ASSERT_TRUE(heap_ready_becomes(&heap, KARENA_NODE_ANY, 2, 2));
	EXPECT_EQ(2, heap_ready(&heap, 1, 2));
	ASSERT_EQ(0, heap_limit(&heap, KARENA_LIMIT_HARD, 2 * ARENA, 0));
	ASSERT_EQ(0, heap_commit(&heap, 0, 2));
	EXPECT_EQ(0, heap_ready(&heap, 1, 2));
	EXPECT_EQ(2, arenas_on(&heap, 0, 2, 1));
	heap_destroy(&heap);

	/* With interleaving, each arena uses a frame of its own node. */
	ASSERT_EQ(0, open_on(&heap, KARENA_POLICY_INTERLEAVE, 0));
	ASSERT_EQ(0, heap_limit(&heap, KARENA_LIMIT_HARD, 4 * ARENA, 0));
	ASSERT_TRUE(heap_ready_becomes(&heap, 0, 2, 2));
	ASSERT_TRUE(heap_ready_becomes(&heap, 1, 2, 2));
	ASSERT_EQ(0, heap_commit(&heap, 0, 2));
	EXPECT_EQ(1, heap_ready(&heap, 0, 2));
	EXPECT_EQ(1, heap_ready(&heap, 1, 2));
	ASSERT_EQ(0, heap_commit(&heap, 2, 2));
	EXPECT_EQ(2, arenas_on(&heap, 0, 4, 0));
	EXPECT_EQ(2, arenas_on(&heap, 0, 4, 1));
	EXPECT_NE(node_of(heap.window), node_of(arena(&heap, 1)));
	heap_destroy(&heap);
}

TEST_F(node, invalid_policies_and_nodes_are_rejected)
{
	static const struct { uint32_t policy, node; } bad[] = {
		{ KARENA_POLICY_DEFAULT, 1 },
		{ KARENA_POLICY_DEFAULT, KARENA_NODE_ANY },
		{ KARENA_POLICY_INTERLEAVE, 1 },
		{ KARENA_POLICY_PREFER, 2 }, { KARENA_POLICY_BIND, 2 },
		{ KARENA_POLICY_PREFER, 63 }, { KARENA_POLICY_BIND, 63 },
		{ KARENA_POLICY_PREFER, 1024 }, { KARENA_POLICY_BIND, 1024 },
		{ KARENA_POLICY_PREFER, 1U << 31 },
		{ KARENA_POLICY_BIND, 1U << 31 },
		{ KARENA_POLICY_PREFER, KARENA_NODE_ANY },
		{ KARENA_POLICY_BIND, KARENA_NODE_ANY },
		{ KARENA_POLICY_INTERLEAVE + 1, 0 }, { ~0U, 0 },
	};
	long heaps = module_stat("nr_heaps");
	struct heap heap;

	for (int i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		EXPECT_EQ(-EINVAL, open_on(&heap, bad[i].policy, bad[i].node))
			TH_LOG("policy %u, node %u", bad[i].policy, bad[i].node);
	}
	EXPECT_EQ(heaps, module_stat("nr_heaps"));
	EXPECT_EQ(-EINVAL, heap_ready(&self->heap, 2, 1));
	EXPECT_EQ(-EINVAL, heap_ready(&self->heap, 1024, 1));
}

/* Use the struct without the members for policies. */
TEST_F(node, older_struct_leaves_out_the_policy)
{
	struct karena_create create = {
		.size = offsetof(struct karena_create, policy),
		.window = 4 * ARENA, .policy = 77, .node = 77, .soft_limit = 77
	};
	int fd = device_call(KARENA_CREATE, &create);

	ASSERT_GE(fd, 0);
	close(fd);
	EXPECT_EQ(77, create.policy);
	create.size -= 4;
	EXPECT_EQ(-EINVAL, device_call(KARENA_CREATE, &create));
}

static bool cpuset_is(const char *nodes)
{
	return !write_text(CGROUPS "/cgroup.subtree_control", "+cpuset") &&
	       !write_text(group_file("cpuset.mems"), nodes) && group_enter();
}

static void create_within_a_cpuset(struct child *child)
{
	struct heap heap;

	(void)child;
	CHECK(cpuset_is("0"));
	CHECK(open_on(&heap, KARENA_POLICY_BIND, 1) == -EINVAL);
	CHECK(open_on(&heap, KARENA_POLICY_PREFER, 1) == -EINVAL);
	CHECK(!open_on(&heap, KARENA_POLICY_BIND, 0));
	CHECK(!heap_commit(&heap, 0, 1));
	CHECK(arenas_on(&heap, 0, 1, 0) == 1);
	heap_destroy(&heap);
	/* Without a policy, memory comes from the allowed node. */
	CHECK(!open_on(&heap, KARENA_POLICY_DEFAULT, 0));
	CHECK(!run_on(1));
	CHECK(!heap_commit(&heap, 0, 4));
	CHECK(arenas_on(&heap, 0, 4, 0) == 4);
}

TEST_F(node, node_outside_the_cpuset_is_rejected)
{
	ASSERT_EQ(0, group_make());
	if (access(group_file("cpuset.mems"), F_OK) &&
	    write_text(CGROUPS "/cgroup.subtree_control", "+cpuset")) {
		group_remove();
		SKIP(return, "no cpusets");
	}
	EXPECT_EQ(0, in_child(create_within_a_cpuset));
	EXPECT_EQ(0, group_remove());
}

TEST_HARNESS_MAIN
