// SPDX-License-Identifier: GPL-2.0
/*
 * Mapping a heap: which arguments mmap and the calls on its descriptor accept, and what
 * munmap, mprotect, mremap and fork do to the mapping.
 */
#include <pthread.h>

#include "child.h"

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE	0x100000
#endif

FIXTURE(mapping) {
	struct heap heap;
};

FIXTURE_SETUP(mapping)
{
	REQUIRE_MODULE();
	ASSERT_EQ(0, heap_open_alone(&self->heap, 8 * ARENA, 0));
}

FIXTURE_TEARDOWN(mapping)
{
	heap_destroy(&self->heap);
}

static int create(size_t window)
{
	struct karena_create create = { .size = sizeof(create), .window = window };

	return device_call(KARENA_CREATE, &create);
}

#define EXPECT_MMAP_FAILS(_errno, ...)					\
	do {								\
		EXPECT_EQ(MAP_FAILED, mmap(__VA_ARGS__));		\
		EXPECT_EQ(_errno, errno);				\
	} while (0)

TEST_F(mapping, the_window_is_aligned)
{
	EXPECT_EQ(0, (uintptr_t)self->heap.window % ARENA);
}

TEST_F(mapping, window_can_be_mapped_only_once)
{
	EXPECT_MMAP_FAILS(EBUSY, NULL, 8 * ARENA, PROT_READ, MAP_SHARED,
			  self->heap.fd, 0);
}

/* As after an mmap() that fails after the module accepted it: the window is not mapped. */
TEST_F(mapping, unmapped_window_can_be_mapped_anywhere)
{
	struct heap *heap = &self->heap;
	char *old = heap->window, *other;

	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	old[0] = 7;
	ASSERT_EQ(0, munmap(old, heap->size - ARENA));
	other = mmap(NULL, heap->size, PROT_READ | PROT_WRITE, MAP_SHARED, heap->fd, 0);
	EXPECT_EQ(MAP_FAILED, other);
	EXPECT_EQ(EBUSY, errno);
	ASSERT_EQ(0, munmap(old + heap->size - ARENA, ARENA));
	/* Other memory is there now. The control region stays in place. */
	old = mmap(old, heap->size, PROT_NONE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
	ASSERT_NE(MAP_FAILED, old);
	other = mmap(NULL, heap->size, PROT_READ | PROT_WRITE, MAP_SHARED, heap->fd, 0);
	ASSERT_NE(MAP_FAILED, other);
	EXPECT_NE(old, other);
	EXPECT_EQ(7, other[0]);
	heap->window = other;
	EXPECT_EQ(0, heap_commit(heap, 1, 1));
	EXPECT_EQ(0, touch(arena(heap, 1)));
	munmap(old, heap->size);
}

TEST_F(mapping, only_shared_aligned_mappings_of_whole_arenas_are_accepted)
{
	const int rw = PROT_READ | PROT_WRITE;
	int fd = create(8 * ARENA);
	void *odd = self->heap.window + 64 * ARENA + 4096;

	ASSERT_GE(fd, 0);
	EXPECT_MMAP_FAILS(EINVAL, NULL, 8 * ARENA, rw, MAP_PRIVATE, fd, 0);
	EXPECT_MMAP_FAILS(EINVAL, NULL, ARENA + 4096, rw, MAP_SHARED, fd, 0);
	EXPECT_MMAP_FAILS(EINVAL, NULL, ARENA, rw, MAP_SHARED, fd, 4096);
	EXPECT_MMAP_FAILS(EINVAL, NULL, 8 * ARENA, rw, MAP_SHARED, fd, ARENA);
	EXPECT_MMAP_FAILS(EINVAL, NULL, 9 * ARENA, rw, MAP_SHARED, fd, 0);
	EXPECT_MMAP_FAILS(EINVAL, NULL, 4096, rw, MAP_SHARED, fd, 8 * ARENA);
	EXPECT_MMAP_FAILS(EINVAL, NULL, 8192, rw, MAP_SHARED, fd, 64 * ARENA);
	EXPECT_MMAP_FAILS(EINVAL, odd, 8 * ARENA, rw,
			  MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
	EXPECT_MMAP_FAILS(EPERM, NULL, 8 * ARENA, rw | PROT_EXEC, MAP_SHARED, fd,
			  0);
	/* The failed calls did not use up the only mapping. */
	EXPECT_NE(MAP_FAILED, mmap(NULL, 8 * ARENA, rw, MAP_SHARED, fd, 0));
	close(fd);
}

/* Find an unmapped range of this many arenas, aligned to an arena. */
static char *find_room(int arenas)
{
	char *room = mmap(NULL, (arenas + 1) * ARENA, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (room == MAP_FAILED)
		return NULL;
	munmap(room, (arenas + 1) * ARENA);
	return room + (ARENA - (uintptr_t)room % ARENA) % ARENA;
}

static char *map_part(int fd, char *window, int first, int arenas)
{
	return mmap(window + first * ARENA, arenas * ARENA, PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_FIXED_NOREPLACE, fd, first * ARENA);
}

/* Map the control region of a new heap, and some arenas, at their addresses. */
static int open_in_parts(struct heap *heap, int first, int arenas)
{
	struct karena_create create = { .size = sizeof(create), .window = 8 * ARENA };

	*heap = (struct heap){ .size = create.window, .window = find_room(16) };
	heap->fd = device_call(KARENA_CREATE, &create);
	if (heap->fd < 0 || !heap->window)
		return -1;
	if (map_part(heap->fd, heap->window, first, arenas) != arena(heap, first))
		return -1;
	return heap_map_control(heap, &create);
}

TEST_F(mapping, window_can_be_mapped_in_parts_at_their_addresses)
{
	struct heap heap;

	ASSERT_EQ(0, open_in_parts(&heap, 2, 1));
	EXPECT_EQ(MAP_FAILED, map_part(heap.fd, heap.window + ARENA, 5, 1));
	EXPECT_EQ(EBUSY, errno);
	EXPECT_EQ(MAP_FAILED, map_part(heap.fd, heap.window + 8 * ARENA, 2, 1));
	EXPECT_EQ(EBUSY, errno);
	EXPECT_EQ(arena(&heap, 5), map_part(heap.fd, heap.window, 5, 2));
	EXPECT_EQ(0, heap_commit(&heap, 2, 1));
	EXPECT_EQ(0, heap_commit(&heap, 5, 2));
	EXPECT_EQ(0, touch(arena(&heap, 6)));
	EXPECT_EQ(-ENOMEM, heap_commit(&heap, 3, 1));
	EXPECT_EQ(SIGSEGV, touch(arena(&heap, 3)));
	heap_destroy(&heap);
}

/* Find an arena that ends at the highest user address, whatever the processor supports. */
static char *find_end(void)
{
	for (int bits = 56; bits > 47; bits--) {
		void *below = (void *)((1UL << bits) - 2 * ARENA);
		void *start = mmap(below, ARENA, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS |
				   MAP_FIXED_NOREPLACE, -1, 0);

		if (start == MAP_FAILED)
			continue;
		munmap(start, ARENA);
		return (char *)(1UL << bits) - ARENA;
	}
	return (char *)(1UL << 47) - ARENA;
}

/* The window would start below the first address or end above the last one. */
TEST_F(mapping, partial_mapping_needs_space_for_the_whole_window)
{
	char *end = find_end() - ARENA;
	int fd = create(8 * ARENA);

	ASSERT_GE(fd, 0);
	EXPECT_EQ(MAP_FAILED, map_part(fd, NULL, 4, 1));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(MAP_FAILED, map_part(fd, end, 0, 1));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(end, map_part(fd, end - 7 * ARENA, 7, 1));
	munmap(end, ARENA);
	close(fd);
}

TEST_F(mapping, partial_mapping_can_grow_in_place)
{
	struct heap heap;
	pid_t child;

	ASSERT_EQ(0, open_in_parts(&heap, 0, 2));
	close(heap.fd);
	heap.fd = -1;
	EXPECT_EQ(0, heap_commit(&heap, 0, 2));
	memset(arena(&heap, 0), 'a', 2 * ARENA);
	/* The last arena of the mapping is enough to name it. */
	ASSERT_EQ(arena(&heap, 1), mremap(arena(&heap, 1), ARENA, 4 * ARENA, 0));
	EXPECT_TRUE(vm_flag(arena(&heap, 4), "dd"));
	EXPECT_EQ(0, heap_commit(&heap, 2, 3));
	memset(arena(&heap, 2), 'b', 3 * ARENA);
	child = fork();
	if (!child) {
		CHECK(!count_other(arena(&heap, 0), 2 * ARENA, 'a'));
		CHECK(!count_other(arena(&heap, 2), 3 * ARENA, 'b'));
		CHECK(mremap(arena(&heap, 4), ARENA, 2 * ARENA, 0) == arena(&heap, 4));
		CHECK(!heap_commit(&heap, 5, 1));
		memset(arena(&heap, 4), 'c', 2 * ARENA);
		_exit(0);
	}
	EXPECT_EQ(0, child_status(child));
	EXPECT_EQ(0, count_other(arena(&heap, 2), 3 * ARENA, 'b'));
	EXPECT_EQ(SIGSEGV, touch(arena(&heap, 5)));
	EXPECT_EQ(0, heap_release(&heap, 0, 5));
	EXPECT_EQ(SIGBUS, touch(arena(&heap, 4)));
	heap_destroy(&heap);
}

TEST_F(mapping, mapping_never_becomes_executable)
{
	EXPECT_EQ(-1, mprotect(self->heap.window, ARENA, PROT_READ | PROT_EXEC));
	EXPECT_EQ(EACCES, errno);
}

TEST_F(mapping, descriptor_rejects_other_file_operations)
{
	const int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	int fd = self->heap.fd;
	char byte;

	EXPECT_EQ(-1, ftruncate(fd, ARENA));
	EXPECT_EQ(EPERM, errno);
	EXPECT_EQ(-1, ftruncate(fd, 1000 * ARENA));
	EXPECT_EQ(EPERM, errno);
	EXPECT_EQ(-1, fchmod(fd, 0777));
	EXPECT_EQ(EPERM, errno);
	EXPECT_EQ(-1, read(fd, &byte, 1));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, write(fd, &byte, 1));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, fallocate(fd, 0, 0, ARENA));
	EXPECT_EQ(EOPNOTSUPP, errno);
	EXPECT_EQ(-1, fallocate(fd, FALLOC_FL_ZERO_RANGE, 0, ARENA));
	EXPECT_EQ(EOPNOTSUPP, errno);
	EXPECT_EQ(-1, fallocate(fd, punch, 100, ARENA));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, fallocate(fd, punch, 0, 100));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, fallocate(fd, punch, 8 * ARENA, ARENA));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, fallocate(fd, punch, 7 * ARENA, 2 * ARENA));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, fallocate(fd, punch, 1L << 62, ARENA));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, ioctl(fd, KARENA_INFO, &byte));
	EXPECT_EQ(ENOTTY, errno);
	EXPECT_EQ(0, fallocate(fd, punch, 0, 8 * ARENA));
}

TEST_F(mapping, name_is_in_proc_maps)
{
	FILE *file = fopen("/proc/self/maps", "r");
	bool found = false;
	char line[512];

	while (fgets(line, sizeof(line), file))
		found |= !!strstr(line, "/karena:selftest");
	fclose(file);
	EXPECT_TRUE(found);
}

TEST_F(mapping, other_process_cannot_use_the_descriptor)
{
	int fd = create(ARENA);
	pid_t child;

	ASSERT_GE(fd, 0);
	child = fork();
	if (!child) {
		if (mmap(NULL, ARENA, PROT_READ, MAP_SHARED, fd, 0) != MAP_FAILED ||
		    errno != EPERM)
			_exit(1);
		if (!fallocate(self->heap.fd, FALLOC_FL_PUNCH_HOLE |
			       FALLOC_FL_KEEP_SIZE, 0, ARENA) || errno != EPERM)
			_exit(2);
		_exit(0);
	}
	EXPECT_EQ(0, child_status(child));
	close(fd);
}

TEST_F(mapping, child_does_not_inherit_a_heap_with_policy_none)
{
	pid_t child;

	ASSERT_EQ(0, heap_commit(&self->heap, 0, 2));
	arena(&self->heap, 0)[0] = 42;
	child = fork();
	if (!child)
		_exit(touch(arena(&self->heap, 0)) == SIGSEGV ? 0 : 1);
	EXPECT_EQ(0, child_status(child));
	EXPECT_EQ(42, arena(&self->heap, 0)[0]);

	/* MADV_DOFORK in the parent does not change that. */
	ASSERT_EQ(0, madvise(self->heap.window, 8 * ARENA, MADV_DOFORK));
	ASSERT_EQ(0, madvise(self->heap.control, self->heap.control_size,
			     MADV_DOFORK));
	child = fork();
	if (!child) {
		if (touch(arena(&self->heap, 0)) != SIGBUS)
			_exit(1);
		if (touch((char *)self->heap.control) != SIGBUS)
			_exit(2);
		_exit(0);
	}
	EXPECT_EQ(0, child_status(child));
	EXPECT_EQ(42, arena(&self->heap, 0)[0]);
}

TEST_F(mapping, data_survives_mprotect)
{
	ASSERT_EQ(0, heap_commit(&self->heap, 0, 8));
	for (int i = 0; i < 8; i++)
		memset(arena(&self->heap, i), 'a' + i, ARENA);
	/* A hole in the middle splits the VMA and a PMD. */
	ASSERT_EQ(0, mprotect(arena(&self->heap, 3) + 8192, 4096, PROT_NONE));
	EXPECT_EQ(SIGSEGV, touch(arena(&self->heap, 3) + 8192));
	ASSERT_EQ(0, mprotect(arena(&self->heap, 3) + 8192, 4096,
			      PROT_READ | PROT_WRITE));
	for (int i = 0; i < 8; i++)
		EXPECT_EQ(0, count_other(arena(&self->heap, i), ARENA, 'a' + i));
	EXPECT_EQ(0, heap_release(&self->heap, 0, 8));
	EXPECT_EQ(SIGBUS, touch(arena(&self->heap, 5)));
}

static void *move(char *from, size_t size, size_t new_size, char *to)
{
	return mremap(from, size, new_size, MREMAP_MAYMOVE | MREMAP_FIXED, to);
}

static void expect_refused(struct __test_metadata *_metadata, void *moved)
{
	EXPECT_EQ(MAP_FAILED, moved);
	EXPECT_EQ(EINVAL, errno);
}

/* This holds for the window and the control region. Their content stays. */
TEST_F(mapping, mremap_cannot_move_or_duplicate_the_mapping)
{
	struct heap *heap = &self->heap;
	char *place = mmap(NULL, 8 * ARENA, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	ASSERT_NE(MAP_FAILED, place);
	place = (char *)(((uintptr_t)place + ARENA - 1) & ~(ARENA - 1));
	ASSERT_EQ(0, heap_commit(heap, 0, 4));
	for (int i = 0; i < 4; i++)
		memset(arena(heap, i), 'a' + i, ARENA);
	expect_refused(_metadata, move(arena(heap, 1), ARENA, ARENA, place));
	expect_refused(_metadata, move(arena(heap, 2), 4096, 4096, place + 4096));
	expect_refused(_metadata, move(arena(heap, 0), 0, ARENA, place + 2 * ARENA));
	expect_refused(_metadata, move((char *)heap->control, heap->control_size,
				       heap->control_size, place + 4 * ARENA));
	for (int i = 0; i < 4; i++) {
		EXPECT_EQ(0, count_other(arena(heap, i), ARENA, 'a' + i));
		memset(arena(heap, i), 'A' + i, ARENA);
	}
	EXPECT_EQ(0, heap_release(heap, 1, 2));
	EXPECT_EQ(SIGBUS, touch(arena(heap, 1)));
	EXPECT_EQ(0, count_other(arena(heap, 3), ARENA, 'D'));
}

/* In the file, the control region follows the window, and nothing follows it. */
TEST_F(mapping, growing_the_mapping_reaches_no_foreign_memory)
{
	char *grown = mremap(self->heap.window, 8 * ARENA, 9 * ARENA,
			     MREMAP_MAYMOVE);

	if (grown != MAP_FAILED) {
		self->heap.window = grown;
		self->heap.size = 9 * ARENA;
		EXPECT_EQ(SIGBUS, touch(grown + 8 * ARENA +
					self->heap.control_size));
	}
	EXPECT_EQ(0, heap_commit(&self->heap, 0, 1));
}

/* Adjacent mappings of one file. */
TEST_F(mapping, window_and_control_region_may_be_adjacent)
{
	for (int order = 0; order < 2; order++) {
		struct karena_create create = {
			.size = sizeof(create), .window = 4 * ARENA,
		};
		struct karena_attach attach = { .size = sizeof(attach) };
		const int rw = PROT_READ | PROT_WRITE;
		int fd = device_call(KARENA_CREATE, &create);
		char *place = mmap(NULL, 8 * ARENA, PROT_NONE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		struct heap heap = { .fd = -1 };

		ASSERT_GE(fd, 0);
		ASSERT_NE(MAP_FAILED, place);
		place += ARENA - (uintptr_t)place % ARENA;
		for (int i = 0; i < 2; i++) {
			if (i == order)
				heap.window = mmap(place, 4 * ARENA, rw,
						   MAP_SHARED | MAP_FIXED, fd, 0);
			else
				heap.control = mmap(place + 4 * ARENA,
						    create.control_size, rw,
						    MAP_SHARED | MAP_FIXED, fd,
						    create.control_offset);
		}
		ASSERT_EQ(place, heap.window);
		ASSERT_EQ(place + 4 * ARENA, (char *)heap.control);
		heap.states = (void *)(place + 4 * ARENA +
				       heap.control->states_offset);
		EXPECT_EQ(0, heap_commit(&heap, 0, 4));
		EXPECT_EQ(0, touch(place + 4 * ARENA - 1));
		EXPECT_EQ(0, heap_release(&heap, 0, 4));
		attach.address = (uintptr_t)place + 4 * ARENA;
		EXPECT_EQ(-ENOENT, device_call(KARENA_ATTACH, &attach));
		munmap(place, 5 * ARENA);
		close(fd);
	}
}

/* dd: no core dump. A core dump would touch each page of a huge window. */
TEST_F(mapping, core_dumps_exclude_the_heap_unless_asked)
{
	EXPECT_TRUE(vm_flag(self->heap.window, "dd"));
	ASSERT_EQ(0, madvise(self->heap.window, ARENA, MADV_DODUMP));
	EXPECT_FALSE(vm_flag(self->heap.window, "dd"));
	EXPECT_TRUE(vm_flag(arena(&self->heap, 1), "dd"));
}

TEST_F(mapping, msync_succeeds)
{
	ASSERT_EQ(0, heap_commit(&self->heap, 0, 1));
	EXPECT_EQ(0, msync(self->heap.window, ARENA, MS_SYNC));
}

TEST_F(mapping, window_works_after_a_partial_unmap)
{
	ASSERT_EQ(0, heap_commit(&self->heap, 0, 8));
	ASSERT_EQ(0, munmap(arena(&self->heap, 2), 3 * ARENA));
	EXPECT_EQ(SIGSEGV, touch(arena(&self->heap, 2)));
	EXPECT_EQ(0, touch(arena(&self->heap, 5)));
	EXPECT_EQ(16 * MIB, heap_stat(&self->heap, "committed"));
	EXPECT_EQ(0, fallocate(self->heap.fd, FALLOC_FL_PUNCH_HOLE |
			       FALLOC_FL_KEEP_SIZE, 2 * ARENA, 3 * ARENA));
	EXPECT_EQ(10 * MIB, heap_stat(&self->heap, "committed"));
}

TEST_F(mapping, mlockall_neither_commits_nor_kills)
{
	struct heap heap;

	ASSERT_EQ(0, heap_commit(&self->heap, 0, 1));
	ASSERT_EQ(0, mlockall(MCL_CURRENT | MCL_FUTURE));
	ASSERT_EQ(0, heap_make(&heap, 4 * ARENA, 0));
	EXPECT_EQ(SIGBUS, touch(arena(&heap, 0)));
	EXPECT_EQ(0, heap_commit(&heap, 1, 1));
	EXPECT_EQ(0, touch(arena(&heap, 1)));
	ASSERT_EQ(0, munlockall());
	heap_destroy(&heap);
}

TEST_HARNESS_MAIN
