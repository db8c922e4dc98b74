// SPDX-License-Identifier: GPL-2.0
/*
 * What sysfs shows of a heap, when, and to whom.
 */
#include <grp.h>

#include "common.h"

#define OWNER	12345
#define GROUP	4242

FIXTURE(sysfs) {
	struct heap heap;
	char path[128];
};

FIXTURE_SETUP(sysfs)
{
	REQUIRE_MODULE();
	ASSERT_EQ(0, heap_make(&self->heap, 8 * ARENA, 4 * ARENA));
	snprintf(self->path, sizeof(self->path), SYSFS "/heaps/%llu",
		 (unsigned long long)self->heap.id);
}

FIXTURE_TEARDOWN(sysfs)
{
	heap_destroy(&self->heap);
}

TEST_F(sysfs, the_directory_is_made_by_the_first_commit)
{
	EXPECT_EQ(-1, access(self->path, F_OK));
	ASSERT_EQ(0, heap_commit(&self->heap, 0, 1));
	EXPECT_TRUE(directory_comes(self->heap.id));
	heap_destroy(&self->heap);
	EXPECT_EQ(-1, access(self->path, F_OK));
	ASSERT_EQ(0, heap_make(&self->heap, 8 * ARENA, 4 * ARENA));
}

TEST_F(sysfs, it_says_what_the_heap_is)
{
	char path[256], name[64];
	struct heap *heap = &self->heap;
	long committed = figure("committed");

	ASSERT_EQ(0, heap_commit(heap, 0, 3));
	ASSERT_TRUE(directory_comes(heap->id));
	snprintf(path, sizeof(path), "%s/name", self->path);
	ASSERT_EQ(0, read_text(path, name, sizeof(name)));
	EXPECT_STREQ("selftest\n", name);
	EXPECT_EQ(getpid(), heap_figure(heap, "pid"));
	EXPECT_EQ(getuid(), heap_figure(heap, "uid"));
	EXPECT_EQ(8 * ARENA, heap_figure(heap, "window"));
	EXPECT_EQ(4 * ARENA, heap_figure(heap, "limit"));
	EXPECT_EQ(3 * ARENA, heap_figure(heap, "committed"));
	EXPECT_EQ(3, heap_figure(heap, "huge_arenas"));
	EXPECT_EQ(3, heap_figure(heap, "faults"));
	EXPECT_EQ(0, heap_figure(heap, "refused"));
	EXPECT_EQ(committed + 3 * ARENA, figure("committed"));
	EXPECT_EQ(0, heap_commit(heap, 4, 1));
	EXPECT_EQ(-ENOMEM, heap_commit(heap, 5, 1));
	EXPECT_EQ(4 * ARENA, heap_figure(heap, "committed"));
	EXPECT_EQ(1, heap_figure(heap, "refused"));
	ASSERT_EQ(0, heap_release(heap, 0, 8));
	EXPECT_EQ(0, heap_figure(heap, "committed"));
	EXPECT_EQ(0, heap_figure(heap, "huge_arenas"));
	EXPECT_EQ(committed, figure("committed"));
}

TEST_F(sysfs, an_open_file_does_not_hold_the_heap)
{
	char path[256], text[64];
	int fd;

	ASSERT_EQ(0, heap_commit(&self->heap, 0, 1));
	ASSERT_TRUE(directory_comes(self->heap.id));
	snprintf(path, sizeof(path), "%s/committed", self->path);
	fd = open(path, O_RDONLY);
	ASSERT_GE(fd, 0);
	heap_destroy(&self->heap);
	EXPECT_EQ(-1, read(fd, text, sizeof(text)));
	EXPECT_EQ(ENODEV, errno);
	close(fd);
	ASSERT_EQ(0, heap_make(&self->heap, 8 * ARENA, 4 * ARENA));
}

/* Read a heap's file as somebody: 0 or an errno. */
static int read_as(const char *path, uid_t uid, gid_t gid)
{
	pid_t child = fork();

	if (!child) {
		char text[64];

		if (setgroups(0, NULL) || setgid(gid) || setuid(uid))
			_exit(255);
		_exit(-read_text(path, text, sizeof(text)));
	}
	return child_status(child);
}

TEST_F(sysfs, only_owner_group_and_root_read_it)
{
	int ready[2], done[2];
	uint64_t id;
	char path[256], byte = 0;
	pid_t child;

	ASSERT_EQ(0, pipe(ready));
	ASSERT_EQ(0, pipe(done));
	ASSERT_EQ(0, chown(KARENA_DEVICE, 0, GROUP));
	child = fork();
	if (!child) {
		struct heap heap;

		if (setgroups(0, NULL) || setgid(GROUP) || setuid(OWNER))
			_exit(1);
		if (heap_make(&heap, ARENA, 0) || heap_commit(&heap, 0, 1))
			_exit(2);
		if (write(ready[1], &heap.id, 8) != 8 || read(done[0], &byte, 1) != 1)
			_exit(3);
		_exit(0);
	}
	ASSERT_EQ(8, read(ready[0], &id, 8));
	ASSERT_TRUE(directory_comes(id));
	snprintf(path, sizeof(path), SYSFS "/heaps/%llu/committed",
		 (unsigned long long)id);
	EXPECT_EQ(0, read_as(path, 0, 0));
	EXPECT_EQ(0, read_as(path, OWNER, 65534));
	EXPECT_EQ(0, read_as(path, 65534, GROUP));
	EXPECT_EQ(EACCES, read_as(path, 65534, 65534));
	ASSERT_EQ(1, write(done[1], &byte, 1));
	EXPECT_EQ(0, child_status(child));
	ASSERT_EQ(0, chown(KARENA_DEVICE, 0, 0));
}

TEST_HARNESS_MAIN
