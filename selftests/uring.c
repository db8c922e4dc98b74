// SPDX-License-Identifier: GPL-2.0
/*
 * Pins that outlive an arena: fixed buffers of io_uring, and direct I/O to a slow disk.
 * Input through a pin reaches no arena that was committed after the pinned one was
 * released, and reclaim does not take a pinned arena.
 */
#include <pthread.h>
#include <sys/syscall.h>

#include "common.h"
#include "ring.h"

#define NR	32
#define OLD	'o'	/* content of the pinned arena */
#define INPUT	'i'	/* input through the pin */

#define REQUIRE_REGISTER()						\
	do {								\
		if (!can_register())					\
			SKIP(return, "no fixed buffers in file memory before 6.5"); \
	} while (0)

FIXTURE(uring) {
	struct heap heap;	/* arena 0 is pinned */
	struct heap other;
	struct io_uring ring;
	int input;
};

FIXTURE_SETUP(uring)
{
	REQUIRE_MODULE();
	/* One more arena for the released one. */
	ASSERT_EQ(0, heap_open_alone(&self->heap, (NR + 1) * ARENA, 0));
	ASSERT_EQ(0, heap_open_alone(&self->other, NR * ARENA, 0));
	self->input = file_of(INPUT, ARENA);
	ASSERT_GE(self->input, 0);
	ASSERT_EQ(0, io_uring_queue_init(8, &self->ring, 0));
}

FIXTURE_TEARDOWN(uring)
{
	io_uring_queue_exit(&self->ring);
	close(self->input);
	heap_destroy(&self->heap);
	heap_destroy(&self->other);
	EXPECT_TRUE(module_stat_becomes("pinned_orphans", 0));
	EXPECT_TRUE(module_stat_becomes("committed", 0));
}

/* Commit arena 0 and pin it. Return 0 or -errno. */
static int pin(struct heap *heap, struct io_uring *ring)
{
	int err = heap_commit(heap, 0, 1);

	if (err)
		return err;
	memset(heap->window, OLD, ARENA);
	return ring_register(ring, heap->window, ARENA);
}

/* Count the bytes that a newly committed arena should not have. */
static size_t foreign_bytes(const struct heap *heap)
{
	return count_other(heap->window, NR * ARENA, 0);
}

TEST_F(uring, arena_can_be_registered_if_the_kernel_registers_files)
{
	int err = pin(&self->heap, &self->ring);

	if (can_register()) {
		ASSERT_EQ(0, err);
		EXPECT_EQ(0, io_uring_unregister_buffers(&self->ring));
	} else {
		ASSERT_EQ(-EOPNOTSUPP, err);
	}
	/* The arena has no more references, and had none if registration failed. */
	EXPECT_EQ(0, heap_release(&self->heap, 0, 1));
	EXPECT_TRUE(module_stat_becomes("pinned_orphans", 0));
	EXPECT_EQ(0, heap_stat(&self->heap, "committed"));
}

TEST_F(uring, fixed_buffers_are_the_memory_of_the_arena)
{
	struct heap *heap = &self->heap;
	int output = file_of(0, ARENA);

	REQUIRE_REGISTER();
	ASSERT_EQ(0, pin(heap, &self->ring));
	ASSERT_EQ(ARENA, through_the_pin(&self->ring, IORING_OP_READ_FIXED,
					 self->input, heap->window, ARENA));
	EXPECT_EQ(0, count_other(heap->window, ARENA, INPUT));
	memset(heap->window, 'w', ARENA);
	ASSERT_EQ(ARENA, through_the_pin(&self->ring, IORING_OP_WRITE_FIXED,
					 output, heap->window, ARENA));
	ASSERT_EQ(ARENA, pread(output, heap->window, ARENA, 0));
	EXPECT_EQ(0, count_other(heap->window, ARENA, 'w'));
	close(output);
}

TEST_F(uring, input_after_a_release_reaches_no_arena)
{
	struct heap *heap = &self->heap;
	int output = file_of(0, ARENA);

	REQUIRE_REGISTER();
	ASSERT_EQ(0, pin(heap, &self->ring));
	ASSERT_EQ(0, heap_release(heap, 0, 1));
	EXPECT_EQ(1, module_stat("pinned_orphans"));
	ASSERT_EQ(0, heap_commit(heap, 0, NR));
	ASSERT_EQ(0, heap_commit(&self->other, 0, NR));
	ASSERT_EQ(ARENA, through_the_pin(&self->ring, IORING_OP_READ_FIXED,
					 self->input, heap->window, ARENA));
	EXPECT_EQ(0, foreign_bytes(heap));
	EXPECT_EQ(0, foreign_bytes(&self->other));
	/* The input arrived in the pinned memory and stays there. */
	memset(heap->window, 'w', ARENA);
	ASSERT_EQ(ARENA, through_the_pin(&self->ring, IORING_OP_WRITE_FIXED,
					 output, heap->window, ARENA));
	ASSERT_EQ(ARENA, pread(output, heap->window, ARENA, 0));
	EXPECT_EQ(0, count_other(heap->window, ARENA, INPUT));
	close(output);
}

TEST_F(uring, input_after_the_heap_has_ended_reaches_no_arena)
{
	struct heap gone;

	REQUIRE_REGISTER();
	ASSERT_EQ(0, heap_make(&gone, NR * ARENA, 0));
	ASSERT_EQ(0, pin(&gone, &self->ring));
	heap_destroy(&gone);
	EXPECT_EQ(1, module_stat("pinned_orphans"));
	EXPECT_EQ(ARENA, module_stat("committed"));
	ASSERT_EQ(0, heap_commit(&self->heap, 0, NR));
	ASSERT_EQ(ARENA, through_the_pin(&self->ring, IORING_OP_READ_FIXED,
					 self->input, gone.window, ARENA));
	EXPECT_EQ(0, foreign_bytes(&self->heap));
}

/* A child that, when told to, commits all it can, and later checks the memory. */
static void watch(int in, int out)
{
	struct heap heap;
	char byte;

	if (heap_make(&heap, NR * ARENA, 0) || read(in, &byte, 1) != 1 ||
	    heap_commit(&heap, 0, NR) || write(out, "c", 1) != 1 ||
	    read(in, &byte, 1) != 1)
		_exit(2);
	_exit(foreign_bytes(&heap) ? 1 : 0);
}

TEST_F(uring, input_after_a_release_reaches_no_other_process)
{
	struct heap *heap = &self->heap;
	int to_child[2], to_parent[2];
	pid_t child;
	char byte;

	REQUIRE_REGISTER();
	ASSERT_EQ(0, pipe(to_child));
	ASSERT_EQ(0, pipe(to_parent));
	child = fork();
	if (!child)
		watch(to_child[0], to_parent[1]);
	ASSERT_EQ(0, pin(heap, &self->ring));
	ASSERT_EQ(0, heap_release(heap, 0, 1));
	ASSERT_EQ(1, write(to_child[1], "g", 1));
	ASSERT_EQ(1, read(to_parent[0], &byte, 1));
	ASSERT_EQ(ARENA, through_the_pin(&self->ring, IORING_OP_READ_FIXED,
					 self->input, heap->window, ARENA));
	ASSERT_EQ(1, write(to_child[1], "l", 1));
	EXPECT_EQ(0, child_status(child));
}

TEST_F(uring, reclaim_does_not_take_a_pinned_arena)
{
	struct heap *heap = &self->heap;
	int half = file_of(INPUT, ARENA / 2);
	uint32_t word;

	REQUIRE_REGISTER();
	ASSERT_EQ(0, pin(heap, &self->ring));
	ASSERT_EQ(0, heap_commit(heap, 1, 1));
	word = make_volatile(heap, 0);
	make_volatile(heap, 1);
	shrink_everything();
	EXPECT_EQ(KARENA_FREE, state(heap, 1));
	EXPECT_EQ(word, state(heap, 0));
	/* The arena is still volatile, and only it gets the input. */
	ASSERT_EQ(0, heap_commit(heap, 1, 1));
	ASSERT_EQ(0, heap_commit(&self->other, 0, NR));
	ASSERT_EQ(ARENA / 2, through_the_pin(&self->ring, IORING_OP_READ_FIXED,
					     half, heap->window, ARENA));
	EXPECT_EQ(0, count_other(arena(heap, 1), ARENA, 0));
	EXPECT_EQ(0, foreign_bytes(&self->other));
	ASSERT_TRUE(reuse(heap, 0, word));
	EXPECT_EQ(0, count_other(heap->window, ARENA / 2, INPUT));
	EXPECT_EQ(0, count_other(heap->window + ARENA / 2, ARENA / 2, OLD));
	EXPECT_EQ(1, heap_stat(heap, "reclaimed"));
	EXPECT_TRUE(module_stat_becomes("pinned_orphans", 0));
	/* Without the pin, the arena is reclaimed. */
	ASSERT_EQ(0, io_uring_unregister_buffers(&self->ring));
	word = make_volatile(heap, 0);
	shrink_everything();
	EXPECT_FALSE(reuse(heap, 0, word));
	EXPECT_EQ(SIGBUS, touch(heap->window));
	close(half);
}

TEST_F(uring, pinned_arena_does_not_become_sparse)
{
	struct heap *heap = &self->heap;

	REQUIRE_REGISTER();
	ASSERT_EQ(0, pin(heap, &self->ring));
	ASSERT_EQ(0, madvise(heap->window, 400 * PAGE, MADV_REMOVE));
	EXPECT_EQ(1, heap_stat(heap, "huge_arenas"));
	EXPECT_EQ(0, heap_stat(heap, "demoted"));
	EXPECT_EQ(0, count_other(heap->window, 400 * PAGE, 0));
	EXPECT_EQ(0, count_other(heap->window + 400 * PAGE, 112 * PAGE, OLD));
	ASSERT_EQ(ARENA, through_the_pin(&self->ring, IORING_OP_READ_FIXED,
					 self->input, heap->window, ARENA));
	EXPECT_EQ(0, count_other(heap->window, ARENA, INPUT));
	/* Without the pin it does. */
	ASSERT_EQ(0, io_uring_unregister_buffers(&self->ring));
	ASSERT_EQ(0, madvise(heap->window, 400 * PAGE, MADV_REMOVE));
	EXPECT_EQ(1, heap_stat(heap, "demoted"));
	EXPECT_EQ(0, count_other(heap->window + 400 * PAGE, 112 * PAGE, INPUT));
}

TEST_F(uring, input_after_pages_were_released_reaches_no_page)
{
	struct iovec buffer = { self->heap.window, 64 * PAGE };
	struct heap *heap = &self->heap;

	REQUIRE_REGISTER();
	/* Open a heap that has a descriptor. */
	heap_destroy(heap);
	ASSERT_EQ(0, heap_open(heap, (NR + 1) * ARENA, 0));
	buffer.iov_base = heap->window;
	ASSERT_EQ(0, heap_range(heap, KARENA_COMMIT, 0, 64 * PAGE));
	ASSERT_EQ(0, io_uring_register_buffers(&self->ring, &buffer, 1));
	ASSERT_EQ(0, heap_range(heap, KARENA_RELEASE, 0, 64 * PAGE));
	EXPECT_EQ(64, module_stat("pinned_orphans"));
	EXPECT_EQ(64 * PAGE, heap_stat(heap, "committed"));
	ASSERT_EQ(0, heap_range(heap, KARENA_COMMIT, 0, 512 * PAGE - PAGE));
	ASSERT_EQ(0, heap_commit(heap, 1, NR - 2));
	ASSERT_EQ(64 * PAGE, through_the_pin(&self->ring, IORING_OP_READ_FIXED,
					     self->input, heap->window,
					     64 * PAGE));
	EXPECT_EQ(0, count_other(heap->window, ARENA - PAGE, 0));
	EXPECT_EQ(0, count_other(arena(heap, 1), (NR - 2) * ARENA, 0));
}

TEST_F_TIMEOUT(uring, late_input_from_a_disk_reaches_no_arena, SLOW)
{
	struct heap *heap = &self->heap;
	struct slow_read read = { .to = heap->window };
	char *data = mmap(NULL, MIB, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	bool started;
	long orphans;
	int err;

	read.disk = open(DISK, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (read.disk < 0)
		SKIP(return, "no scratch disk " DISK);
	/* The whole read would take a quarter of an hour. */
	if (!disk_slow("1024"))
		SKIP(return, "cannot slow down a disk with a cgroup");
	memset(data, INPUT, MIB);
	ASSERT_EQ(MIB, pwrite(read.disk, data, MIB, 0));
	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	memset(heap->window, OLD, ARENA);

	started = slow_read_start(&read);
	err = heap_release(heap, 0, 1) ?: heap_commit(heap, 0, NR) ?:
	      heap_commit(&self->other, 0, NR);
	orphans = module_stat("pinned_orphans");
	/* Before any check, because a process that waits for the disk cannot be killed. */
	disk_fast();
	pthread_join(read.thread, NULL);
	ASSERT_TRUE(started);
	ASSERT_EQ(0, err);
	EXPECT_EQ(1, orphans);
	EXPECT_EQ(MIB, read.result);
	EXPECT_EQ(0, foreign_bytes(heap));
	EXPECT_EQ(0, foreign_bytes(&self->other));
	close(read.disk);
	munmap(data, MIB);
}

TEST_HARNESS_MAIN
