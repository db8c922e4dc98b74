// SPDX-License-Identifier: GPL-2.0
/*
 * A heap lives as long as a mapping or a descriptor of it, ends completely with its process
 * however the process ends, and keeps the module loaded.
 */
#include <sys/syscall.h>

#include "common.h"

FIXTURE(lifetime) {
	long nr_heaps;
	long committed;
};

FIXTURE_SETUP(lifetime)
{
	REQUIRE_MODULE();
	self->nr_heaps = module_stat("nr_heaps");
	self->committed = module_stat("committed");
}

FIXTURE_TEARDOWN(lifetime)
{
	EXPECT_TRUE(module_stat_becomes("nr_heaps", self->nr_heaps));
	EXPECT_TRUE(module_stat_becomes("committed", self->committed));
}

static bool directory_exists(uint64_t id)
{
	char path[256];

	snprintf(path, sizeof(path), SYSFS "/heaps/%llu", (unsigned long long)id);
	return !access(path, F_OK);
}

TEST_F(lifetime, descriptor_alone_keeps_the_heap)
{
	struct heap heap;

	ASSERT_EQ(0, heap_open(&heap, 4 * ARENA, 0));
	ASSERT_EQ(0, heap_commit(&heap, 0, 2));
	munmap(heap.window, heap.size);
	munmap(heap.control, heap.control_size);
	EXPECT_EQ(self->nr_heaps + 1, module_stat("nr_heaps"));
	EXPECT_EQ(2 * ARENA, heap_stat(&heap, "committed"));
	close(heap.fd);
	EXPECT_TRUE(module_stat_becomes("nr_heaps", self->nr_heaps));
}

TEST_F(lifetime, control_region_alone_keeps_the_heap)
{
	struct heap heap;

	ASSERT_EQ(0, heap_make(&heap, 4 * ARENA, 0));
	ASSERT_EQ(0, heap_commit(&heap, 0, 2));
	munmap(heap.window, heap.size);
	EXPECT_EQ(KARENA_ACTIVE, state(&heap, 0));
	EXPECT_EQ(self->nr_heaps + 1, module_stat("nr_heaps"));
	munmap(heap.control, heap.control_size);
}

TEST_F(lifetime, sigkill_frees_everything)
{
	int pipes[2];
	uint64_t id;
	pid_t child;

	ASSERT_EQ(0, pipe(pipes));
	child = fork();
	if (!child) {
		struct heap heap;

		if (heap_make(&heap, 64 * ARENA, 0) || heap_commit(&heap, 0, 16) ||
		    write(pipes[1], &heap.id, sizeof(heap.id)) < 0)
			_exit(1);
		for (;;)
			memset(heap.window, 1, 16 * ARENA);
	}
	ASSERT_EQ(sizeof(id), read(pipes[0], &id, sizeof(id)));
	EXPECT_TRUE(directory_appears(id));
	EXPECT_EQ(self->committed + 16 * ARENA, module_stat("committed"));
	kill(child, SIGKILL);
	EXPECT_EQ(128 + SIGKILL, child_status(child));
	/* A process that is waited for has freed its heap already. */
	EXPECT_EQ(self->nr_heaps, module_stat("nr_heaps"));
	EXPECT_EQ(self->committed, module_stat("committed"));
	EXPECT_FALSE(directory_exists(id));
}

/*
 * Soon after exec, the program that inherited the descriptor has no access to the heap, and
 * keeps no memory.
 */
static const char ended[] =
	"for i in $(seq 20); do\n"
	"	[ $(cat " SYSFS "/nr_heaps) -gt $1 ] || exit 3\n"
	"	[ $(cat " SYSFS "/committed) -gt $2 ] || exit 0\n"
	"	sleep 0.1\n"
	"done\n"
	"exit 4";

TEST_F(lifetime, exec_ends_the_heap)
{
	char nr_heaps[24], committed[24];
	pid_t child;

	snprintf(nr_heaps, sizeof(nr_heaps), "%ld", self->nr_heaps);
	snprintf(committed, sizeof(committed), "%ld", self->committed);
	child = fork();
	if (!child) {
		struct heap heap;

		if (heap_open(&heap, 4 * ARENA, 0) || heap_commit(&heap, 0, 4) ||
		    module_stat("committed") != self->committed + 4 * (long)ARENA)
			_exit(1);
		/* Even with the descriptor inherited across exec. */
		fcntl(heap.fd, F_SETFD, 0);
		execl("/bin/sh", "sh", "-c", ended, "sh", nr_heaps, committed, NULL);
		_exit(2);
	}
	EXPECT_EQ(0, child_status(child));
}

TEST_F_TIMEOUT(lifetime, many_heaps_leave_nothing_behind, SLOW)
{
	int nr = kernel_is_slow() ? 200 : 1000;

	for (int i = 0; i < nr; i++) {
		struct heap heap;

		ASSERT_EQ(0, heap_make(&heap, 4 * ARENA, 0));
		if (i % 10 == 0)
			ASSERT_EQ(0, heap_commit(&heap, i % 4, 1));
		heap_destroy(&heap);
	}
}

TEST_F(lifetime, module_cannot_be_unloaded_while_a_heap_is_mapped)
{
	struct heap heap;

	ASSERT_EQ(0, heap_make(&heap, 4 * ARENA, 0));
	/* The errno of the kernel for a module in use, which rmmod(8) reports as busy. */
	EXPECT_EQ(-1, syscall(SYS_delete_module, "karena", O_NONBLOCK));
	EXPECT_EQ(EWOULDBLOCK, errno);
	EXPECT_EQ(0, heap_commit(&heap, 0, 4));
	EXPECT_EQ(0, touch(arena(&heap, 3)));
	EXPECT_EQ(-1, syscall(SYS_delete_module, "karena", O_NONBLOCK));
	EXPECT_EQ(EWOULDBLOCK, errno);
	heap_destroy(&heap);
}

/*
 * An O_PATH descriptor holds a reference to the inode, whose operations are in the module,
 * but not to the file.
 */
TEST_F(lifetime, o_path_descriptor_holds_the_module)
{
	struct heap heap;
	struct stat stat;
	char path[64];
	int fd;

	ASSERT_EQ(0, heap_open(&heap, 4 * ARENA, 0));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", heap.fd);
	fd = open(path, O_PATH | O_CLOEXEC);
	ASSERT_GE(fd, 0);
	heap_destroy(&heap);
	EXPECT_TRUE(module_stat_becomes("nr_heaps", self->nr_heaps));
	EXPECT_EQ(-1, syscall(SYS_delete_module, "karena", O_NONBLOCK));
	EXPECT_EQ(EWOULDBLOCK, errno);
	EXPECT_EQ(0, fstat(fd, &stat));
	close(fd);
}

/* Nor can the file be opened again through /proc. */
TEST_F(lifetime, proc_does_not_reopen_a_heap)
{
	struct heap heap;
	char path[64];

	ASSERT_EQ(0, heap_open(&heap, 4 * ARENA, 0));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", heap.fd);
	EXPECT_EQ(-1, open(path, O_RDWR));
	EXPECT_EQ(ENXIO, errno);
	heap_destroy(&heap);
}

/* kernfs copies directory entries to memory that must be committed first. */
TEST_F(lifetime, reading_sysfs_into_an_arena_commits_it)
{
	struct heap heap;
	int fd = open(SYSFS, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	ASSERT_GE(fd, 0);
	ASSERT_EQ(0, heap_make(&heap, 4 * ARENA, 0));
	set_state(&heap, 0, 1, KARENA_REQUESTED);
	EXPECT_GT(syscall(SYS_getdents64, fd, heap.window, 65536), 0);
	EXPECT_EQ(KARENA_ACTIVE, state(&heap, 0));
	heap_destroy(&heap);
	close(fd);
}

TEST_HARNESS_MAIN
