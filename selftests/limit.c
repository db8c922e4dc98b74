// SPDX-License-Identifier: GPL-2.0
/*
 * Limits: of a heap, set by its process and by root; of all heaps; of locked memory. At
 * each limit a commit returns ENOMEM and the process continues.
 */
#include <pthread.h>

#include "child.h"

FIXTURE(limit) {
	struct heap heap;
	gid_t group;
};

FIXTURE_SETUP(limit)
{
	struct karena_info info = { .size = sizeof(info) };
	struct stat stat;

	REQUIRE_MODULE();
	ASSERT_EQ(0, device_call(KARENA_INFO, &info));
	ASSERT_TRUE(info.features & KARENA_FEATURE_LIMIT);
	ASSERT_EQ(0, heap_open(&self->heap, 16 * ARENA, 8 * ARENA));
	ASSERT_EQ(0, lstat(KARENA_DEVICE, &stat));
	self->group = stat.st_gid;
	ASSERT_EQ(0, chown(KARENA_DEVICE, 0, NOBODY));
}

FIXTURE_TEARDOWN(limit)
{
	EXPECT_EQ(0, chown(KARENA_DEVICE, 0, self->group));
	heap_destroy(&self->heap);
	EXPECT_TRUE(module_stat_becomes("committed", 0));
}

/* Set the limits selected by the flags, and read both. Return 0 or -errno. */
static int call(const struct heap *heap, unsigned int flags, uint64_t *hard,
		uint64_t *soft)
{
	struct karena_limit args = {
		.size = sizeof(args), .flags = flags, .hard = *hard, .soft = *soft
	};
	int err = heap_call(heap, KARENA_LIMIT, &args);

	*hard = args.hard;
	*soft = args.soft;
	return err;
}

/* Return the limit in force, in arenas. */
static long hard_limit(const struct heap *heap)
{
	uint64_t hard = 0, soft = 0;
	int err = call(heap, 0, &hard, &soft);

	return err ?: hard / ARENA;
}

static long soft_limit(const struct heap *heap)
{
	uint64_t hard = 0, soft = 0;
	int err = call(heap, 0, &hard, &soft);

	return err ?: soft / ARENA;
}

static int set_hard(const struct heap *heap, long arenas)
{
	return heap_limit(heap, KARENA_LIMIT_HARD, arenas * ARENA, 0);
}

static uint32_t pressure_level(const struct heap *heap)
{
	return KARENA_PRESSURE_LEVEL(__atomic_load_n(&heap->control->pressure,
						     __ATOMIC_ACQUIRE));
}

TEST_F(limit, both_limits_can_be_read_and_set)
{
	struct karena_create create = {
		.window = 16 * ARENA, .soft_limit = 3 * ARENA
	};
	uint64_t hard = 1, soft = 1;
	struct heap heap;

	/* Values without a flag are ignored on input and filled in on return. */
	EXPECT_EQ(0, call(&self->heap, 0, &hard, &soft));
	EXPECT_EQ(8 * ARENA, hard);
	EXPECT_EQ(0, soft);

	ASSERT_EQ(0, heap_create(&heap, &create));
	EXPECT_EQ(16, hard_limit(&heap));
	EXPECT_EQ(3, soft_limit(&heap));
	hard = 5 * ARENA;
	soft = 7;
	EXPECT_EQ(0, call(&heap, KARENA_LIMIT_HARD, &hard, &soft));
	EXPECT_EQ(5 * ARENA, hard);
	EXPECT_EQ(3 * ARENA, soft);
	hard = 7;
	soft = 2 * ARENA;
	EXPECT_EQ(0, call(&heap, KARENA_LIMIT_SOFT, &hard, &soft));
	EXPECT_EQ(5 * ARENA, hard);
	EXPECT_EQ(2 * ARENA, soft);
	hard = 6 * ARENA;
	soft = 0;
	EXPECT_EQ(0, call(&heap, KARENA_LIMIT_HARD | KARENA_LIMIT_SOFT, &hard,
			  &soft));
	EXPECT_EQ(6, hard_limit(&heap));
	EXPECT_EQ(0, soft_limit(&heap));
	heap_destroy(&heap);
}

TEST_F(limit, attach_and_sysfs_show_the_limit_in_force)
{
	struct karena_attach attach = { .size = sizeof(attach) };
	struct heap *heap = &self->heap;
	int fd;

	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	ASSERT_EQ(0, heap_limit(heap, KARENA_LIMIT_HARD | KARENA_LIMIT_SOFT,
				5 * ARENA, 2 * ARENA));
	EXPECT_EQ(5 * ARENA, heap_stat(heap, "limit"));
	EXPECT_EQ(2 * ARENA, heap_stat(heap, "soft_limit"));
	attach.address = (uintptr_t)heap->window;
	fd = device_call(KARENA_ATTACH, &attach);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(5 * ARENA, attach.limit);
	close(fd);
}

TEST_F(limit, limit_below_committed_memory_releases_nothing)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_commit(heap, 0, 6));
	memset(heap->window, 6, 6 * ARENA);
	ASSERT_EQ(0, set_hard(heap, 4));
	EXPECT_EQ(-ENOMEM, heap_commit(heap, 6, 1));
	EXPECT_EQ(-ENOMEM, heap_range(heap, KARENA_COMMIT, 7 * ARENA, ARENA));
	EXPECT_EQ(-ENOMEM, heap_range(heap, KARENA_COMMIT, 7 * ARENA, 4096));
	EXPECT_EQ(0, count_other(heap->window, 6 * ARENA, 6));
	EXPECT_EQ(6 * ARENA, heap_stat(heap, "committed"));
	/* Only below the limit can memory be committed again. */
	ASSERT_EQ(0, heap_release(heap, 0, 2));
	EXPECT_EQ(-ENOMEM, heap_commit(heap, 6, 1));
	ASSERT_EQ(0, heap_release(heap, 2, 1));
	EXPECT_EQ(0, heap_commit(heap, 6, 1));
	EXPECT_EQ(-ENOMEM, heap_commit(heap, 7, 1));
	/* After the limit was raised, commits succeed at once. */
	ASSERT_EQ(0, set_hard(heap, 16));
	EXPECT_EQ(0, heap_commit(heap, 7, 9));
	EXPECT_EQ(0, count_other(arena(heap, 3), 3 * ARENA, 6));
}

/* Commits by ioctl and by madvise, of pages and of arenas. */
TEST_F(limit, heap_limit_stops_every_kind_of_commit)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, set_hard(heap, 2));
	EXPECT_EQ(0, heap_range(heap, KARENA_COMMIT, 0, ARENA));
	EXPECT_EQ(0, heap_range(heap, KARENA_COMMIT, ARENA, ARENA - 8192));
	EXPECT_EQ(0, heap_range(heap, KARENA_COMMIT, 2 * ARENA, 8192));
	EXPECT_EQ(2 * ARENA, heap_stat(heap, "committed"));
	EXPECT_EQ(-ENOMEM, heap_range(heap, KARENA_COMMIT, 2 * ARENA + 8192, 4096));
	EXPECT_EQ(-ENOMEM, heap_range(heap, KARENA_COMMIT, 2 * ARENA - 4096, 4096));
	EXPECT_EQ(-ENOMEM, heap_range(heap, KARENA_COMMIT, 3 * ARENA, ARENA));
	EXPECT_EQ(-ENOMEM, heap_range(heap, KARENA_COMMIT, 4 * ARENA, 4096));
	EXPECT_EQ(-ENOMEM, heap_commit(heap, 5, 1));
	set_state(heap, 2, 1, KARENA_REQUESTED | KARENA_SPARSE);
	EXPECT_EQ(-1, madvise(arena(heap, 2) + 12288, 4096, MADV_POPULATE_WRITE));
	EXPECT_EQ(ENOMEM, errno);
	EXPECT_EQ(2 * ARENA, heap_stat(heap, "committed"));
	/* Releasing one page allows a commit of one page. */
	EXPECT_EQ(0, heap_range(heap, KARENA_RELEASE, 2 * ARENA, 4096));
	EXPECT_EQ(0, heap_range(heap, KARENA_COMMIT, 2 * ARENA - 4096, 4096));
	EXPECT_EQ(-ENOMEM, heap_range(heap, KARENA_COMMIT, 2 * ARENA - 8192, 4096));
	EXPECT_EQ(0, touch(heap->window));
	EXPECT_EQ(0, touch(arena(heap, 2) + 4096));
	EXPECT_EQ(0, touch(arena(heap, 2) - 4096));
}

TEST_F(limit, limit_of_all_heaps_stops_every_kind_of_commit)
{
	struct heap *heap = &self->heap, other;
	char limit[64];

	ASSERT_EQ(0, read_text(LIMIT_PARAM, limit, sizeof(limit)));
	ASSERT_EQ(0, heap_open(&other, 16 * ARENA, 0));
	ASSERT_EQ(0, write_text(LIMIT_PARAM, "8M"));
	EXPECT_EQ(0, heap_commit(heap, 0, 2));
	EXPECT_EQ(0, heap_commit(&other, 0, 2));
	EXPECT_EQ(-ENOMEM, heap_commit(&other, 2, 1));
	EXPECT_EQ(-ENOMEM, heap_range(&other, KARENA_COMMIT, 2 * ARENA, ARENA));
	EXPECT_EQ(-ENOMEM, heap_range(&other, KARENA_COMMIT, 2 * ARENA, 4096));
	EXPECT_EQ(4 * ARENA, module_stat("committed"));
	EXPECT_EQ(0, heap_release(heap, 0, 1));
	EXPECT_EQ(0, heap_commit(&other, 2, 1));
	EXPECT_EQ(-ENOMEM, heap_commit(heap, 0, 1));
	EXPECT_EQ(0, touch(arena(heap, 1)));
	EXPECT_EQ(0, touch(arena(&other, 2)));
	EXPECT_EQ(0, write_text(LIMIT_PARAM, limit));
	EXPECT_EQ(0, heap_commit(heap, 0, 1));
	heap_destroy(&other);
}

/* The cgroup has room for three and a half arenas. */
static void fill_the_group(struct child *child)
{
	struct heap heap;

	(void)child;
	CHECK(group_enter());
	CHECK(!heap_open(&heap, 16 * ARENA, 0));
	CHECK(!heap_commit(&heap, 0, 1));
	CHECK(!group_limit(group_stat("memory.current", NULL) + 7 * MIB));
	CHECK(!heap_commit(&heap, 1, 3));
	CHECK(heap_commit(&heap, 4, 1) == -ENOMEM);
	CHECK(heap_range(&heap, KARENA_COMMIT, 5 * ARENA, ARENA) == -ENOMEM);
	/* The rest can be committed as pages. */
	CHECK(!heap_range(&heap, KARENA_COMMIT, 6 * ARENA, 65536));
	CHECK(heap_range(&heap, KARENA_COMMIT, 6 * ARENA, ARENA - 4096) == -ENOMEM);
	CHECK(!heap_range(&heap, KARENA_RELEASE, 6 * ARENA, ARENA));
	CHECK(!touch(arena(&heap, 3)));
	CHECK(touch(arena(&heap, 6)) == SIGBUS);
	CHECK(!heap_release(&heap, 0, 1));
	CHECK(!heap_commit(&heap, 4, 1));
}

TEST_F(limit, cgroup_limit_stops_every_kind_of_commit)
{
	ASSERT_EQ(0, group_make());
	EXPECT_EQ(0, in_child(fill_the_group));
	EXPECT_EQ(0, group_stat("memory.events", "oom_kill"));
	EXPECT_EQ(0, group_remove());
}

TEST_F(limit, soft_limit_only_raises_pressure)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_limit(heap, KARENA_LIMIT_SOFT, 0, 2 * ARENA));
	ASSERT_EQ(0, heap_commit(heap, 0, 2));
	EXPECT_EQ(KARENA_PRESSURE_NONE, pressure_level(heap));
	ASSERT_EQ(0, heap_commit(heap, 2, 1));
	EXPECT_EQ(KARENA_PRESSURE_SOME, pressure_level(heap));
	EXPECT_EQ(0, heap_commit(heap, 3, 5));
	EXPECT_EQ(0, heap_stat(heap, "refused"));
	EXPECT_EQ(8, hard_limit(heap));
}

static void raise_and_commit(struct child *child)
{
	struct heap heap;

	(void)child;
	CHECK(limit_locked_memory(64 * MIB));
	CHECK(become_nobody());
	CHECK(!heap_open(&heap, 16 * ARENA, 2 * ARENA));
	CHECK(!heap_commit(&heap, 0, 2));
	CHECK(heap_commit(&heap, 2, 1) == -ENOMEM);
	CHECK(!set_hard(&heap, 3));
	CHECK(!heap_commit(&heap, 2, 1));
	CHECK(!set_hard(&heap, 1));
	CHECK(!set_hard(&heap, 16));
	CHECK(!heap_commit(&heap, 3, 1));
}

TEST_F(limit, unprivileged_process_may_set_its_limit)
{
	EXPECT_EQ(0, in_child(raise_and_commit));
}

/* File in sysfs with which root sets the limit of a heap. */
static const char *limit_file(uint64_t id)
{
	static char path[128];

	snprintf(path, sizeof(path), SYSFS "/heaps/%llu/limit",
		 (unsigned long long)id);
	return path;
}

static int root_sets(uint64_t id, unsigned long arenas)
{
	char text[32];

	snprintf(text, sizeof(text), "%lu\n", arenas * ARENA);
	return write_text(limit_file(id), text);
}

/* The parent is root, and sets a limit of four arenas. */
static void meet_roots_limit(struct child *child)
{
	struct heap heap;

	CHECK(limit_locked_memory(64 * MIB));
	CHECK(become_nobody());
	CHECK(!heap_open(&heap, 16 * ARENA, 8 * ARENA));
	CHECK(!heap_commit(&heap, 0, 1));
	CHECK(tell(child->parent, heap.id));
	CHECK(hear(child->parent));
	CHECK(hard_limit(&heap) == 4);
	CHECK(set_hard(&heap, 5) == -EPERM);
	CHECK(set_hard(&heap, 16) == -EPERM);
	CHECK(hard_limit(&heap) == 4);
	CHECK(!set_hard(&heap, 4));
	CHECK(!heap_commit(&heap, 1, 3));
	CHECK(heap_commit(&heap, 4, 1) == -ENOMEM);
	/* The process may still set its soft limit. */
	CHECK(!heap_limit(&heap, KARENA_LIMIT_SOFT, 0, 16 * ARENA));
	/* The call sets both limits or none. */
	CHECK(heap_limit(&heap, KARENA_LIMIT_HARD | KARENA_LIMIT_SOFT, 5 * ARENA,
			 ARENA) == -EPERM);
	CHECK(soft_limit(&heap) == 16);
	CHECK(!set_hard(&heap, 3));
	CHECK(set_hard(&heap, 5) == -EPERM);
	/* Nor may the process write to root's file. */
	CHECK(write_text(limit_file(heap.id), "33554432") < 0);
	CHECK(hard_limit(&heap) == 3);
	CHECK(tell(child->parent, 1));
	CHECK(hear(child->parent));
	CHECK(hard_limit(&heap) == 6);
	CHECK(!heap_commit(&heap, 4, 2));
	CHECK(set_hard(&heap, 7) == -EPERM);
}

TEST_F(limit, only_privileged_processes_may_raise_roots_limit)
{
	struct child child;
	uint64_t id;

	ASSERT_EQ(0, child_start(&child, meet_roots_limit));
	id = hear(child.line);
	ASSERT_TRUE(id && directory_appears(id));
	EXPECT_EQ(0, root_sets(id, 4));
	ASSERT_TRUE(tell(child.line, 1));
	EXPECT_EQ(1, hear(child.line));
	EXPECT_EQ(0, root_sets(id, 6));
	tell(child.line, 1);
	EXPECT_EQ(0, child_end(&child));
}

TEST_F(limit, root_may_raise_the_limit_that_root_set)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	ASSERT_TRUE(directory_appears(heap->id));
	ASSERT_EQ(0, root_sets(heap->id, 2));
	EXPECT_EQ(2 * ARENA, heap_stat(heap, "limit"));
	EXPECT_EQ(0, heap_commit(heap, 1, 1));
	EXPECT_EQ(-ENOMEM, heap_commit(heap, 2, 1));
	EXPECT_EQ(0, set_hard(heap, 16));
	EXPECT_EQ(0, heap_commit(heap, 2, 14));
	EXPECT_EQ(0, root_sets(heap->id, 1));
	EXPECT_EQ(16 * ARENA, heap_stat(heap, "committed"));
}

TEST_F(limit, sysfs_rejects_invalid_limits)
{
	static const char *const bad[] = {
		"many", "-1", "0", "1", "2097151", "33554433", "12 apples",
		"18446744073709551616",
	};
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	ASSERT_TRUE(directory_appears(heap->id));
	for (int i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		EXPECT_LT(write_text(limit_file(heap->id), bad[i]), 0);
	EXPECT_EQ(8 * ARENA, heap_stat(heap, "limit"));
	EXPECT_EQ(0, write_text(limit_file(heap->id), "33554432"));
	EXPECT_EQ(16, hard_limit(heap));
}

static void lock_by_madvise(struct child *child)
{
	struct heap heap;

	(void)child;
	CHECK(limit_locked_memory(4 * MIB));
	CHECK(become_nobody());
	CHECK(!heap_open(&heap, 16 * ARENA, 0));
	CHECK(status_member("VmPin") == 0);
	CHECK(!heap_commit(&heap, 0, 1));
	CHECK(status_member("VmPin") >= (long)ARENA);
	CHECK(!heap_commit(&heap, 1, 1));
	CHECK(status_member("VmPin") == 2 * ARENA);
	CHECK(heap_commit(&heap, 2, 1) == -ENOMEM);
	CHECK(!touch(arena(&heap, 0)) && !touch(arena(&heap, 1)));
	CHECK(touch(arena(&heap, 2)) == SIGBUS);
	CHECK(!heap_release(&heap, 0, 1));
	CHECK(!heap_commit(&heap, 2, 1));
	CHECK(heap_commit(&heap, 3, 1) == -ENOMEM);
	heap_destroy(&heap);
	CHECK(status_member("VmPin") == 0);
}

static void lock_by_call(struct child *child)
{
	struct heap heap;
	int runs = 0;

	(void)child;
	CHECK(limit_locked_memory(4 * MIB));
	CHECK(become_nobody());
	CHECK(!heap_open(&heap, 16 * ARENA, 0));
	CHECK(!heap_range(&heap, KARENA_COMMIT, 0, ARENA));
	while (!heap_range(&heap, KARENA_COMMIT, ARENA + runs * 65536, 65536))
		runs++;
	CHECK(runs == 32);
	CHECK(heap_range(&heap, KARENA_COMMIT, 3 * ARENA, ARENA) == -ENOMEM);
	CHECK(heap_range(&heap, KARENA_COMMIT, 3 * ARENA, 4096) == -ENOMEM);
	CHECK(status_member("VmPin") == 2 * ARENA);
	CHECK(!touch(heap.window) && !touch(arena(&heap, 1)));
	CHECK(!heap_range(&heap, KARENA_RELEASE, 0, ARENA));
	CHECK(!heap_range(&heap, KARENA_COMMIT, 3 * ARENA, ARENA));
	heap_destroy(&heap);
	CHECK(status_member("VmPin") == 0);
}

TEST_F(limit, memlock_limit_stops_madvise_with_enomem)
{
	EXPECT_EQ(0, in_child(lock_by_madvise));
}

TEST_F(limit, memlock_limit_stops_commit_with_enomem)
{
	EXPECT_EQ(0, in_child(lock_by_call));
}

/* Memory that one heap has released must no longer count when another heap commits. */
static void lock_by_turns(struct child *child)
{
	struct heap heaps[2];
	char *memory = own_memory(4 * MIB);

	(void)child;
	CHECK(limit_locked_memory(4 * MIB));
	CHECK(become_nobody());
	for (int i = 0; i < 2; i++)
		CHECK(!heap_open(&heaps[i], 16 * ARENA, 0));
	for (int i = 0; i < 4; i++) {
		CHECK(!heap_commit(&heaps[i % 2], 0, 2));
		CHECK(heap_commit(&heaps[(i + 1) % 2], 0, 1) == -ENOMEM);
		CHECK(!heap_release(&heaps[i % 2], 0, 2));
	}
	heap_destroy(&heaps[0]);
	heap_destroy(&heaps[1]);
	CHECK(memory);
	CHECK(!mlock(memory, 2 * MIB));
	CHECK(!heap_open(&heaps[0], 16 * ARENA, 0));
	CHECK(!heap_commit(&heaps[0], 0, 1));
	CHECK(heap_commit(&heaps[0], 1, 1) == -ENOMEM);
}

TEST_F(limit, memory_released_by_one_heap_can_be_locked_by_another)
{
	EXPECT_EQ(0, in_child(lock_by_turns));
}

/* The privileges of the committing process decide. */
static void lock_as_root(struct child *child)
{
	struct heap heap;

	(void)child;
	CHECK(limit_locked_memory(4 * MIB));
	CHECK(!heap_open(&heap, 64 * ARENA, 0));
	CHECK(!heap_commit(&heap, 0, 40));
	CHECK(status_member("VmPin") >= (long)(40 * ARENA));
	CHECK(status_member("VmPin") <= (long)(40 * ARENA + 32 * MIB));
	CHECK(!heap_release(&heap, 0, 40));
	CHECK(status_member("VmPin") <= (long)(32 * MIB));
	CHECK(!heap_commit(&heap, 0, 3));
	heap_destroy(&heap);
	CHECK(status_member("VmPin") == 0);
}

TEST_F(limit, root_may_exceed_the_memlock_limit)
{
	EXPECT_EQ(0, in_child(lock_as_root));
}

static void lock_nothing(struct child *child)
{
	struct heap heap;

	(void)child;
	CHECK(limit_locked_memory(0));
	CHECK(become_nobody());
	CHECK(!heap_open(&heap, 16 * ARENA, 0));
	CHECK(heap_commit(&heap, 0, 1) == -ENOMEM);
	CHECK(heap_range(&heap, KARENA_COMMIT, 0, 4096) == -ENOMEM);
	CHECK(status_member("VmPin") == 0);
}

TEST_F(limit, memlock_limit_of_zero_prevents_all_commits)
{
	EXPECT_EQ(0, in_child(lock_nothing));
}

struct committer {
	pthread_t thread;
	struct heap *heap;
	int first;
	int committed;
	int other;
};

static void *commit_four(void *data)
{
	struct committer *committer = data;

	for (int i = 0; i < 4; i++) {
		int err = heap_commit(committer->heap, committer->first + i, 1);

		committer->committed += !err;
		committer->other += err && err != -ENOMEM;
	}
	return NULL;
}

/*
 * Threads ask for sixteen arenas in total. The limit allows ten, and exactly ten succeed.
 */
static void lock_in_threads(struct child *child)
{
	struct committer committers[4];
	int committed = 0;
	struct heap heap;

	(void)child;
	CHECK(limit_locked_memory(20 * MIB));
	CHECK(become_nobody());
	CHECK(!heap_open(&heap, 16 * ARENA, 0));
	for (int i = 0; i < 4; i++) {
		committers[i] = (struct committer){ .heap = &heap, .first = 4 * i };
		CHECK(!pthread_create(&committers[i].thread, NULL, commit_four,
				      &committers[i]));
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(committers[i].thread, NULL);
		CHECK(!committers[i].other);
		committed += committers[i].committed;
	}
	CHECK(committed == 10);
	CHECK(status_member("VmPin") == 20 * MIB);
}

TEST_F(limit, threads_together_lock_up_to_the_limit)
{
	EXPECT_EQ(0, in_child(lock_in_threads));
}

TEST_F(limit, invalid_values_are_rejected)
{
	const struct karena_limit good = {
		.size = sizeof(good), .flags = KARENA_LIMIT_HARD, .hard = 4 * ARENA
	};
	struct heap *heap = &self->heap;
	struct karena_limit args;

#define EXPECT_FAILS(_errno, _member, _value)				\
	do {								\
		args = good;						\
		args._member = _value;					\
		EXPECT_EQ(-(_errno), heap_call(heap, KARENA_LIMIT, &args)); \
	} while (0)

	for (unsigned int size = 0; size < sizeof(good); size++)
		EXPECT_FAILS(EINVAL, size, size);
	EXPECT_FAILS(EINVAL, flags, KARENA_LIMIT_HARD | 4);
	EXPECT_FAILS(EINVAL, flags, KARENA_LIMIT_HARD | 1U << 31);
	EXPECT_FAILS(EINVAL, hard, 0);
	EXPECT_FAILS(EINVAL, hard, ARENA - 1);
	EXPECT_FAILS(EINVAL, hard, 16 * ARENA + 1);
	EXPECT_FAILS(EINVAL, hard, ~0UL);
	/* An invalid call sets neither of the limits. */
	EXPECT_EQ(-EINVAL, heap_limit(heap, KARENA_LIMIT_HARD | KARENA_LIMIT_SOFT,
				      0, ARENA));
	EXPECT_EQ(-EFAULT, heap_call(heap, KARENA_LIMIT, NULL));
	EXPECT_EQ(-EFAULT, heap_call(heap, KARENA_LIMIT, (void *)-4096L));
	args = good;
	EXPECT_EQ(-ENOTTY, device_call(KARENA_LIMIT, &args));
	EXPECT_EQ(8, hard_limit(heap));
	EXPECT_EQ(0, soft_limit(heap));
	EXPECT_EQ(0, set_hard(heap, 16));
	EXPECT_EQ(0, set_hard(heap, 1));
}

TEST_F(limit, longer_struct_may_have_a_zero_tail)
{
	struct {
		struct karena_limit limit;
		uint64_t tail[2];
	} args = { { .size = sizeof(args) } };

	EXPECT_EQ(0, heap_call(&self->heap, KARENA_LIMIT, &args));
	EXPECT_EQ(8 * ARENA, args.limit.hard);
	EXPECT_EQ(sizeof(args), args.limit.size);
	args.tail[1] = 1;
	EXPECT_EQ(-E2BIG, heap_call(&self->heap, KARENA_LIMIT, &args));
	args.limit.size = 4097;
	EXPECT_EQ(-E2BIG, heap_call(&self->heap, KARENA_LIMIT, &args));
}

TEST_F(limit, readonly_struct_fails_with_efault)
{
	struct karena_limit good = { .size = sizeof(good) };
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ASSERT_NE(MAP_FAILED, page);
	memcpy(page, &good, sizeof(good));
	ASSERT_EQ(0, mprotect(page, 4096, PROT_READ));
	EXPECT_EQ(-EFAULT, heap_call(&self->heap, KARENA_LIMIT, page));
}

static struct heap parents;

static void limit_the_parents_heap(struct child *child)
{
	(void)child;
	CHECK(set_hard(&parents, 1) == -EPERM);
	CHECK(heap_limit(&parents, 0, 0, 0) == -EPERM);
}

TEST_F(limit, other_processes_cannot_set_a_limit)
{
	ASSERT_EQ(0, heap_open_alone(&parents, 16 * ARENA, 8 * ARENA));
	EXPECT_EQ(0, in_child(limit_the_parents_heap));
	EXPECT_EQ(8, hard_limit(&parents));
	heap_destroy(&parents);
}

TEST_F(limit, create_accepts_any_soft_limit)
{
	struct karena_create create = {
		.window = 16 * ARENA, .limit = 4 * ARENA, .soft_limit = 1
	};
	struct heap heap;

	ASSERT_EQ(0, heap_create(&heap, &create));
	ASSERT_EQ(0, heap_commit(&heap, 0, 1));
	EXPECT_EQ(KARENA_PRESSURE_SOME, pressure_level(&heap));
	heap_destroy(&heap);
	create = (struct karena_create){
		.window = 16 * ARENA, .soft_limit = ~0UL
	};
	ASSERT_EQ(0, heap_create(&heap, &create));
	ASSERT_EQ(0, heap_commit(&heap, 0, 16));
	EXPECT_EQ(KARENA_PRESSURE_NONE, pressure_level(&heap));
	heap_destroy(&heap);
}

TEST_HARNESS_MAIN
