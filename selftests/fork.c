// SPDX-License-Identifier: GPL-2.0
/*
 * What a child has of a heap after fork() under each policy: its own clone, the heap
 * itself, or nothing. Tests ownership, access and that nothing is left behind. clone.c
 * tests the clones, cow.c their pages.
 */
#include <spawn.h>
#include <stddef.h>

#include "family.h"

#define NR	8	/* arenas of the window */

static long control_signal(struct heap *heap, long a, long b, long c)
{
	(void)a, (void)b, (void)c;
	return touch((char *)&heap->control->pressure_seen + 3);
}

static long run_a_program(struct heap *heap, long a, long b, long c)
{
	(void)heap, (void)a, (void)b, (void)c;
	execl("/bin/true", "true", NULL);
	return -errno;
}

/* All policies. */
FIXTURE(policy) {
	struct balance before;
	struct heap heap;
};

FIXTURE_VARIANT(policy) {
	uint32_t fork;
	const char *name;
	bool inherited;	/* the child inherits memory */
	bool same;	/* the memory is the parent's */
};

FIXTURE_VARIANT_ADD(policy, cow) {
	.fork = KARENA_FORK_COW, .name = "cow", .inherited = true,
};

FIXTURE_VARIANT_ADD(policy, share) {
	.fork = KARENA_FORK_SHARE, .name = "share", .inherited = true, .same = true,
};

FIXTURE_VARIANT_ADD(policy, none) {
	.fork = KARENA_FORK_NONE, .name = "none",
};

FIXTURE_SETUP(policy)
{
	struct karena_create create = { .window = NR * ARENA, .fork = variant->fork };
	struct karena_info info = { .size = sizeof(info) };

	REQUIRE_MODULE();
	ASSERT_EQ(0, device_call(KARENA_INFO, &info));
	ASSERT_TRUE(info.features & KARENA_FEATURE_FORK);
	balance_read(&self->before);
	ASSERT_EQ(0, heap_create(&self->heap, &create));
	ASSERT_EQ(0, family_make(&self->heap));
	expect_signals();
	ASSERT_EQ(0, commit(&self->heap, 0, 2, 0));
	ASSERT_EQ(0, mark(&self->heap, 0, 2 * PAGES, 'p'));
}

FIXTURE_TEARDOWN(policy)
{
	family_end();
	heap_destroy(&self->heap);
	EXPECT_BALANCE(&self->before);
}

TEST_F(policy, policy_is_in_sysfs)
{
	EXPECT_TRUE(heap_says(&self->heap, "fork", variant->name));
	EXPECT_EQ(0, heap_stat(&self->heap, "parent"));
}

TEST_F_TIMEOUT(policy, children_and_grandchildren_get_what_the_policy_says, SLOW)
{
	const long none = variant->inherited ? 0 : -SIGSEGV;

	ASSERT_EQ(0, bear(PARENT, CHILD));
	ASSERT_EQ(0, bear(CHILD, GRANDCHILD));
	for (int who = CHILD; who <= GRANDCHILD; who++) {
		/* With a shared heap the grandchild sees what the child wrote before. */
		EXPECT_EQ(!variant->inherited ? 2 * PAGES :
			  variant->same && who == GRANDCHILD ? 10 : 0,
			  ask(who, unlike, 0, 2 * PAGES, 'p'));
		EXPECT_EQ(none, ask(who, mark, who * 10, 10, 'c'));
		EXPECT_EQ(variant->inherited ? 0 : SIGSEGV,
			  ask(who, control_signal, 0, 0, 0));
	}
	EXPECT_EQ(variant->same ? 20 : 0, ask(PARENT, unlike, 0, 2 * PAGES, 'p'));
	EXPECT_EQ(0, end(GRANDCHILD));
	EXPECT_EQ(0, end(CHILD));
	EXPECT_EQ(variant->same ? 20 : 0, ask(PARENT, unlike, 0, 2 * PAGES, 'p'));
	EXPECT_EQ(2 * ARENA, heap_stat(&self->heap, "committed"));
}

/* The kernel accepts MADV_DOFORK, but a mapping without permission gives no access. */
TEST_F(policy, madvise_does_not_change_the_policy)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, madvise(heap->window, heap->size, MADV_DOFORK));
	ASSERT_EQ(0, madvise(heap->control, heap->control_size, MADV_DOFORK));
	ASSERT_EQ(0, bear(PARENT, CHILD));
	if (variant->inherited) {
		EXPECT_EQ(0, ask(CHILD, unlike, 0, 2 * PAGES, 'p'));
		EXPECT_EQ(0, ask(CHILD, mark, 0, 1, 'c'));
	} else {
		EXPECT_EQ(2 * PAGES, ask(CHILD, failing, 0, 2 * PAGES, SIGBUS));
		EXPECT_EQ(-SIGBUS, ask(CHILD, mark, 0, 1, 'c'));
		EXPECT_EQ(SIGBUS, ask(CHILD, control_signal, 0, 0, 0));
		EXPECT_EQ(-ENOENT, ask(CHILD, attached, 0, 0, 0));
	}
	EXPECT_EQ(variant->same, ask(PARENT, unlike, 0, 2 * PAGES, 'p'));
}

TEST_F_TIMEOUT(policy, memory_with_dontfork_is_not_inherited, SLOW)
{
	struct heap *heap = &self->heap;
	const bool inherited = variant->inherited;

	/* The end of one arena and the start of the next. */
	ASSERT_EQ(0, madvise(page_at(heap, 500), 20 * PAGE, MADV_DONTFORK));
	ASSERT_EQ(0, bear(PARENT, CHILD));
	EXPECT_EQ(inherited ? 20 : 2 * PAGES,
		  ask(CHILD, failing, 0, 2 * PAGES, SIGSEGV));
	EXPECT_EQ(inherited ? 0 : 500, ask(CHILD, unlike, 0, 500, 'p'));
	EXPECT_EQ(inherited ? 0 : 2 * PAGES - 520,
		  ask(CHILD, unlike, 520, 2 * PAGES - 520, 'p'));
	EXPECT_EQ(inherited ? 0 : -SIGSEGV, ask(CHILD, mark, 0, 500, 'c'));
	EXPECT_EQ(0, end(CHILD));

	ASSERT_EQ(0, madvise(heap->window, heap->size, MADV_DONTFORK));
	ASSERT_EQ(0, bear(PARENT, CHILD));
	EXPECT_EQ(2 * PAGES, ask(CHILD, failing, 0, 2 * PAGES, SIGSEGV));
	EXPECT_EQ(inherited ? 0 : SIGSEGV, ask(CHILD, control_signal, 0, 0, 0));
	EXPECT_EQ(0, end(CHILD));

	ASSERT_EQ(0, madvise(heap->control, heap->control_size, MADV_DONTFORK));
	ASSERT_EQ(0, bear(PARENT, CHILD));
	EXPECT_EQ(2 * PAGES, ask(CHILD, failing, 0, 2 * PAGES, SIGSEGV));
	EXPECT_EQ(SIGSEGV, ask(CHILD, control_signal, 0, 0, 0));
	EXPECT_EQ(0, end(CHILD));
	EXPECT_EQ(variant->same ? 500 : 0, ask(PARENT, unlike, 0, 2 * PAGES, 'p'));
}

/* A child without the control region has the memory, and ATTACH works. */
TEST_F(policy, child_without_control_region_has_the_memory)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, madvise(heap->control, heap->control_size, MADV_DONTFORK));
	ASSERT_EQ(0, bear(PARENT, CHILD));
	EXPECT_EQ(SIGSEGV, ask(CHILD, control_signal, 0, 0, 0));
	if (variant->inherited) {
		EXPECT_EQ(0, ask(CHILD, unlike, 0, 2 * PAGES, 'p'));
		EXPECT_GT(ask(CHILD, attached, 1, 0, 0), 0);
		EXPECT_EQ(0, ask(CHILD, by_call, KARENA_COMMIT, 2 * PAGES, 5));
		EXPECT_EQ(0, ask(CHILD, mark, 2 * PAGES, 5, 'c'));
	}
	EXPECT_EQ(0, end(CHILD));
}

struct vm_child {
	struct heap *heap;
	long nr_heaps;
};

/* A process that runs in the address space of the owner. */
static int use_as_the_owner(void *data)
{
	struct vm_child *child = data;

	if (module_stat("nr_heaps") != child->nr_heaps)
		return 1;
	if (heap_commit(child->heap, 2, 1))
		return 2;
	memset(arena(child->heap, 2), 'v', ARENA);
	memset(child->heap->window, 'v', PAGE);
	return attached(child->heap, 0, 0, 0) == (long)child->heap->id ? 0 : 3;
}

TEST_F(policy, process_with_the_same_mm_uses_the_heap_itself)
{
	struct vm_child child = { &self->heap, self->before.nr_heaps + 1 };
	static char stack[65536] __attribute__((aligned(16)));
	static const int flags[] = { CLONE_VM, CLONE_VM | CLONE_VFORK };

	for (int i = 0; i < ARRAY_SIZE(flags); i++) {
		pid_t pid = clone(use_as_the_owner, stack + sizeof(stack),
				  flags[i] | SIGCHLD, &child);

		ASSERT_GT(pid, 0);
		EXPECT_EQ(0, child_status(pid));
		EXPECT_EQ(0, count_other(self->heap.window, PAGE, 'v'));
		EXPECT_EQ(0, count_other(arena(&self->heap, 2), ARENA, 'v'));
		EXPECT_EQ(0, unlike(&self->heap, 1, 2 * PAGES - 1, 'p'));
		ASSERT_EQ(0, heap_release(&self->heap, 2, 1));
		ASSERT_EQ(0, mark(&self->heap, 0, 1, 'p'));
	}
}

__attribute__((noinline))
static pid_t start_by_vfork(char *arguments[])
{
	pid_t pid = vfork();

	if (!pid) {
		execve(arguments[0], arguments, environ);
		_exit(1);
	}
	return pid;
}

TEST_F_TIMEOUT(policy, spawning_a_program_makes_no_clone, SLOW)
{
	char *arguments[] = { "/bin/true", NULL };
	pid_t pid;

	for (int i = 0; i < 4; i++) {
		ASSERT_EQ(0, posix_spawn(&pid, arguments[0], NULL, NULL, arguments,
					 environ));
		EXPECT_EQ(0, child_status(pid));
		EXPECT_EQ(0, child_status(start_by_vfork(arguments)));
	}
	EXPECT_EQ(self->before.nr_heaps + 1, module_stat("nr_heaps"));
	EXPECT_EQ(0, unlike(&self->heap, 0, 2 * PAGES, 'p'));
	/* No process could share it. */
	EXPECT_EQ(0, heap_stat(&self->heap, "shared"));
	EXPECT_EQ(0, heap_stat(&self->heap, "copies"));
}

TEST_F(policy, exec_in_a_child_drops_its_heap)
{
	ASSERT_EQ(0, bear(PARENT, CHILD));
	if (variant->inherited)
		ASSERT_EQ(0, ask(CHILD, mark, 100, 10, 'c'));
	EXPECT_EQ(DEAD, ask(CHILD, run_a_program, 0, 0, 0));
	EXPECT_EQ(0, end(CHILD));
	EXPECT_TRUE(module_stat_becomes("nr_heaps", self->before.nr_heaps + 1));
	EXPECT_EQ(variant->same ? 10 : 0, unlike(&self->heap, 0, 2 * PAGES, 'p'));
	EXPECT_EQ(0, commit(&self->heap, 2, 1, 0));
}

/* A child calls exec() while its own child still has the heap. */
TEST_F(policy, exec_in_the_parent_keeps_the_childs_heap)
{
	ASSERT_EQ(0, bear(PARENT, CHILD));
	ASSERT_EQ(0, bear(CHILD, GRANDCHILD));
	EXPECT_EQ(DEAD, ask(CHILD, run_a_program, 0, 0, 0));
	EXPECT_EQ(0, end(CHILD));
	if (variant->inherited) {
		EXPECT_EQ(0, ask(GRANDCHILD, unlike, 0, 2 * PAGES, 'p'));
		EXPECT_EQ(0, ask(GRANDCHILD, mark, 7, 600, 'g'));
		EXPECT_EQ(0, ask(GRANDCHILD, unlike, 7, 600, 'g'));
		EXPECT_EQ(0, ask(GRANDCHILD, commit, 3, 1, 0));
	}
	EXPECT_EQ(0, end(GRANDCHILD));
	EXPECT_EQ(variant->same ? 600 : 0, unlike(&self->heap, 0, 2 * PAGES, 'p'));
}

/* The middle or the last process ends, by itself or killed. */
TEST_F_TIMEOUT(policy, exit_in_any_order_loses_nothing, SLOW)
{
	static const int orders[][3] = {
		{ CHILD, GRANDCHILD, GREATGRANDCHILD },
		{ GREATGRANDCHILD, GRANDCHILD, CHILD },
		{ GRANDCHILD, CHILD, GREATGRANDCHILD },
		{ GRANDCHILD, GREATGRANDCHILD, CHILD },
	};
	const bool inherited = variant->inherited;

	for (int order = 0; order < ARRAY_SIZE(orders); order++) {
		ASSERT_EQ(0, mark(&self->heap, 0, 2 * PAGES, 'p'));
		for (int who = CHILD; who <= GREATGRANDCHILD; who++) {
			ASSERT_EQ(0, bear(who - 1, who));
			ASSERT_EQ(inherited ? 0 : -SIGSEGV,
				  ask(who, mark, who * 100, 100, 'a' + who));
		}
		for (int i = 0; i < 3; i++) {
			int who = orders[order][i];

			EXPECT_EQ(inherited ? 0 : 100,
				  ask(who, unlike, who * 100, 100, 'a' + who));
			EXPECT_EQ(inherited ? 0 : 100, ask(who, unlike, 0, 100, 'p'));
			EXPECT_EQ(inherited ? 0 : 624,
				  ask(who, unlike, 400, 624, 'p'));
			EXPECT_EQ(i % 2 ? 0 : 128 + SIGKILL, i % 2 ? end(who) : slay(who));
		}
		EXPECT_EQ(variant->same ? 300 : 0,
			  unlike(&self->heap, 0, 2 * PAGES, 'p'));
	}
}

TEST_F_TIMEOUT(policy, many_forks_leave_nothing_behind, SLOW)
{
	long forks = kernel_is_slow() ? 30 : 100;

	for (long i = 0; i < forks; i++) {
		pid_t pid = fork();

		/* Every other child touches the memory. */
		if (!pid && variant->inherited && i % 2)
			_exit(unlike(&self->heap, i, 1, 'p') != 0);
		if (!pid)
			_exit(0);
		ASSERT_EQ(0, child_status(pid));
	}
	EXPECT_EQ(0, unlike(&self->heap, 0, 2 * PAGES, 'p'));
}

TEST_F(policy, descriptor_gives_a_child_no_more_than_the_policy)
{
	const long forbidden = variant->inherited ? 0 : -EPERM;

	ASSERT_EQ(0, bear(PARENT, CHILD));
	if (!variant->inherited) {
		EXPECT_EQ(-EPERM, ask(CHILD, map_again, 0, 0, 0));
		EXPECT_EQ(-EPERM, ask(CHILD, renew, 0, 1, 0));
		EXPECT_EQ(-ENOENT, ask(CHILD, attached, 0, 0, 0));
	}
	EXPECT_EQ(forbidden, ask(CHILD, by_call, KARENA_COMMIT, 3 * PAGES, 4));
	EXPECT_EQ(forbidden, ask(CHILD, by_call, KARENA_RELEASE, 3, 4));
	EXPECT_EQ(forbidden, ask(CHILD, punch, PAGES, PAGES, 0));
	EXPECT_EQ(forbidden ?: (long)(4 * ARENA),
		  ask(CHILD, hard_limit, KARENA_LIMIT_HARD, 4 * ARENA, 0));
	EXPECT_EQ(variant->same ? 4 * ARENA : NR * ARENA,
		  ask(PARENT, hard_limit, 0, 0, 0));
	EXPECT_EQ(variant->same ? PAGES : 0,
		  ask(PARENT, failing, 0, 2 * PAGES, SIGBUS));
	/* A release of a few pages clears them in a huge arena. */
	EXPECT_EQ(variant->same ? 4 : 0, ask(PARENT, unlike, 0, PAGES, 'p'));
}

/* Selecting a policy. */
TEST(unknown_policy_is_rejected)
{
	static const struct {
		uint32_t flags, fork, reserved;
	} bad[] = {
		{ 0, KARENA_FORK_NONE + 1, 0 },
		{ 0, UINT32_MAX, 0 },
		{ 0, KARENA_FORK_COW, 1 },
		{ 0, KARENA_FORK_NONE, 0x80000000 },
		{ KARENA_CREATE_IO, KARENA_FORK_COW, 0 },
		{ KARENA_CREATE_IO << 1, KARENA_FORK_NONE, 0 },
	};

	REQUIRE_MODULE();
	for (int i = 0; i < ARRAY_SIZE(bad); i++) {
		struct karena_create create = {
			.size = sizeof(create), .window = ARENA,
			.flags = bad[i].flags, .fork = bad[i].fork,
			.reserved = bad[i].reserved,
		};

		EXPECT_EQ(-EINVAL, device_call(KARENA_CREATE, &create)) {
			TH_LOG("case %d", i);
		}
	}
}

/* Programs that were built before the policy existed. */
TEST(struct_without_policy_means_copy_on_write)
{
	static const size_t sizes[] = {
		offsetof(struct karena_create, policy),
		offsetof(struct karena_create, fork),
	};

	REQUIRE_MODULE();
	for (int i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct karena_create create = {
			.size = sizes[i], .window = ARENA, .fork = KARENA_FORK_NONE,
		};
		int fd = device_call(KARENA_CREATE, &create);
		struct heap heap = { .id = create.id };

		ASSERT_GE(fd, 0);
		heap.window = mmap(NULL, ARENA, PROT_READ | PROT_WRITE, MAP_SHARED,
				   fd, 0);
		ASSERT_NE(MAP_FAILED, heap.window);
		heap.fd = fd;
		ASSERT_EQ(0, heap_range(&heap, KARENA_COMMIT, 0, PAGE));
		EXPECT_TRUE(heap_says(&heap, "fork", "cow"));
		close(fd);
		munmap(heap.window, ARENA);
	}
}

#define FILE_MAX	"/proc/sys/fs/file-max"

/* Run without privileges, while root has set file-max below the open files. */
static int fork_without_files(int to_parent, int from_parent)
{
	struct rlimit unlimited = { RLIM_INFINITY, RLIM_INFINITY };
	struct heap heap;
	pid_t child;
	char byte = 0;

	setrlimit(RLIMIT_MEMLOCK, &unlimited);
	if (heap_make(&heap, 4 * ARENA, 0) || heap_commit(&heap, 0, 2))
		return 1;
	memset(heap.window, 7, 2 * ARENA);
	if (setgroups(0, NULL) || setgid(65534) || setuid(65534) ||
	    write(to_parent, &byte, 1) != 1 || read(from_parent, &byte, 1) != 1)
		return 2;
	/* Each processor counts some open files locally before the kernel counts them. */
	for (int i = 0; i < 500 && open("/dev/null", O_RDONLY) >= 0; i++)
		errno = 0;
	if (errno != ENFILE)
		return 3;
	child = fork();
	if (!child) {
		if (touch(heap.window) || count_other(heap.window + 1, 2 * ARENA - 1, 7))
			_exit(4);
		if (heap_commit(&heap, 3, 1) || touch(arena(&heap, 3)))
			_exit(5);
		child = fork();
		if (!child)
			_exit(touch(arena(&heap, 3)) ? 6 : 0);
	}
	return child_status(child);
}

TEST(child_has_its_heap_when_file_max_is_reached)
{
	int to_parent[2], to_child[2];
	char before[64], byte = 0;
	pid_t child;

	REQUIRE_MODULE();
	ASSERT_EQ(0, read_text(FILE_MAX, before, sizeof(before)));
	ASSERT_EQ(0, pipe(to_parent));
	ASSERT_EQ(0, pipe(to_child));
	child = fork();
	if (!child)
		_exit(fork_without_files(to_parent[1], to_child[0]));
	EXPECT_EQ(1, read(to_parent[0], &byte, 1));
	EXPECT_EQ(0, write_text(FILE_MAX, "1"));
	EXPECT_EQ(1, write(to_child[1], &byte, 1));
	EXPECT_EQ(0, child_status(child));
	EXPECT_EQ(0, write_text(FILE_MAX, before));
}

/* KARENA_FORK_SHARE. */
FIXTURE(share) {
	struct balance before;
	struct heap heap;
};

FIXTURE_SETUP(share)
{
	struct karena_create create = {
		.window = NR * ARENA, .fork = KARENA_FORK_SHARE
	};

	REQUIRE_MODULE();
	balance_read(&self->before);
	ASSERT_EQ(0, heap_create(&self->heap, &create));
	ASSERT_EQ(0, family_make(&self->heap));
	expect_signals();
	ASSERT_EQ(0, commit(&self->heap, 0, 2, 0));
	ASSERT_EQ(0, mark(&self->heap, 0, 2 * PAGES, 'p'));
	ASSERT_EQ(0, bear(PARENT, CHILD));
	ASSERT_EQ(0, bear(CHILD, GRANDCHILD));
}

FIXTURE_TEARDOWN(share)
{
	family_end();
	heap_destroy(&self->heap);
	EXPECT_BALANCE(&self->before);
}

TEST_F(share, all_processes_have_the_same_heap)
{
	for (int who = PARENT; who <= GRANDCHILD; who++) {
		EXPECT_EQ(self->heap.id, ask(who, own_number, 0, 0, 0));
		EXPECT_EQ(self->heap.id, ask(who, attached, 1, 0, 0));
	}
	EXPECT_EQ(self->before.nr_heaps + 1, module_stat("nr_heaps"));
	EXPECT_EQ(self->before.committed + 2 * ARENA, module_stat("committed"));
	EXPECT_EQ(0, heap_stat(&self->heap, "shared"));
	EXPECT_EQ(0, heap_stat(&self->heap, "copies"));
}

TEST_F(share, all_processes_see_each_write)
{
	for (int who = PARENT; who <= GRANDCHILD; who++)
		EXPECT_EQ(0, ask(who, mark, 300 + 100 * who, 100, 'a' + who));
	for (int who = PARENT; who <= GRANDCHILD; who++) {
		EXPECT_EQ(0, ask(who, unlike, 0, 300, 'p'));
		for (int by = PARENT; by <= GRANDCHILD; by++)
			EXPECT_EQ(0, ask(who, unlike, 300 + 100 * by, 100, 'a' + by));
		EXPECT_EQ(0, ask(who, unlike, 600, 424, 'p'));
		EXPECT_EQ(2, ask(who, pmds, 0, 0, 0));
	}
	EXPECT_EQ(0, heap_stat(&self->heap, "copies"));
}

TEST_F(share, all_processes_may_control_the_heap)
{
	for (int who = PARENT; who <= GRANDCHILD; who++) {
		int next = (who + 1) % 3;

		/* Whole arenas and pages, with and without a descriptor. */
		ASSERT_EQ(0, ask(who, commit, 2, 2, 0));
		EXPECT_EQ(KARENA_ACTIVE, ask(next, word, 3, 0, 0));
		EXPECT_EQ(0, ask(next, mark, 2 * PAGES, 2 * PAGES, 'n'));
		EXPECT_EQ(0, ask(who, unlike, 2 * PAGES, 2 * PAGES, 'n'));
		EXPECT_EQ(0, ask(next, release, 2, 2, 0));
		EXPECT_EQ(KARENA_FREE, ask(who, word, 2, 0, 0));
		EXPECT_EQ(-SIGBUS, ask(who, mark, 2 * PAGES, 1, 'w'));
		EXPECT_EQ(0, ask(who, by_call, KARENA_COMMIT, 4 * PAGES + 7, 9));
		EXPECT_EQ(0, ask(next, nonzero, 4 * PAGES + 7, 9, 0));
		EXPECT_EQ(9 * PAGE + 2 * ARENA, heap_stat(&self->heap, "committed"));
		EXPECT_EQ(0, ask(next, by_call, KARENA_RELEASE, 4 * PAGES, PAGES));
		EXPECT_EQ(-SIGBUS, ask(who, mark, 4 * PAGES + 7, 1, 'w'));
	}
	EXPECT_EQ(5 * ARENA, ask(CHILD, hard_limit, KARENA_LIMIT_HARD, 5 * ARENA, 0));
	EXPECT_EQ(5 * ARENA, ask(PARENT, hard_limit, 0, 0, 0));
	EXPECT_EQ(-ENOMEM, ask(GRANDCHILD, commit, 2, 4, 0));
}

TEST_F(share, any_process_may_reuse_a_volatile_arena)
{
	long since = ask(CHILD, lend, 0, 0, 0);

	EXPECT_EQ(true, ask(PARENT, reclaim_back, 0, since, 0));
	EXPECT_EQ(0, ask(GRANDCHILD, unlike, 0, PAGES, 'p'));
	since = ask(PARENT, lend, 0, 0, 0);
	shrink_everything();
	EXPECT_EQ(false, ask(CHILD, reclaim_back, 0, since, 0));
	for (int who = PARENT; who <= GRANDCHILD; who++) {
		EXPECT_EQ(KARENA_FREE, ask(who, word, 0, 0, 0));
		EXPECT_EQ(PAGES, ask(who, failing, 0, PAGES, SIGBUS));
		EXPECT_EQ(0, ask(who, unlike, PAGES, PAGES, 'p'));
	}
}

/*
 * The creator, to which the memory was accounted, has exited. Its child still uses the
 * heap.
 */
static void share_and_leave(struct child *child)
{
	struct karena_create create = {
		.window = NR * ARENA, .fork = KARENA_FORK_SHARE
	};
	struct heap heap;

	CHECK(!heap_create(&heap, &create));
	CHECK(!heap_commit(&heap, 0, 2));
	CHECK(!mark(&heap, 0, 2 * PAGES, 's'));
	CHECK(tell(child->parent, heap.id));
	if (fork())
		return;
	/* Wait until the creator has exited. */
	hear(child->parent);
	CHECK(!unlike(&heap, 0, 2 * PAGES, 's'));
	CHECK(!mark(&heap, 0, 2 * PAGES, 't'));
	CHECK(!unlike(&heap, 0, 2 * PAGES, 't'));
	CHECK(heap_stat(&heap, "committed") == 2 * ARENA);
	CHECK(!heap_commit(&heap, 4, 2));
	CHECK(!mark(&heap, 4 * PAGES, 2 * PAGES, 'u'));
	CHECK(attached(&heap, 0, 0, 0) == (long)heap.id);
	CHECK(!heap_release(&heap, 0, 2));
	CHECK(touch(heap.window) == SIGBUS);
	CHECK(!unlike(&heap, 4 * PAGES, 2 * PAGES, 'u'));
	CHECK(tell(child->parent, 1));
}

TEST_F(share, shared_heap_survives_its_creator)
{
	struct child child;
	int status = -1;

	/* The processes of the fixture are not needed. */
	ASSERT_EQ(0, end(GRANDCHILD));
	ASSERT_EQ(0, end(CHILD));

	ASSERT_EQ(0, prctl(PR_SET_CHILD_SUBREAPER, 1));
	ASSERT_EQ(0, child_start(&child, share_and_leave));
	EXPECT_GT(hear(child.line), 0);
	EXPECT_EQ(0, child_status(child.pid));
	EXPECT_TRUE(tell(child.line, 1));
	EXPECT_EQ(1, hear(child.line));
	/* The child that the creator left behind. */
	EXPECT_GT(waitpid(-1, &status, 0), 0);
	EXPECT_EQ(0, status);
	close(child.line);
}

TEST_HARNESS_MAIN
