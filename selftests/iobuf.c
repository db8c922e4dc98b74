// SPDX-License-Identifier: GPL-2.0
/*
 * Heaps for I/O buffers, and pinned memory across fork and snapshot: input from a device
 * keeps arriving in the memory that the process sees, and nowhere else.
 */
#include <linux/userfaultfd.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "pages.h"
#include "pass.h"
#include "ring.h"

#define OLD	'o'	/* content before the input */
#define INPUT	'i'	/* the input */
#define NR	4

static int io_open(struct heap *heap, uint32_t policy)
{
	struct karena_create create = {
		.flags = KARENA_CREATE_IO, .window = 16 * ARENA, .fork = policy
	};

	return heap_create(heap, &create);
}

FIXTURE(iobuf) {
	struct io_uring ring;
	int input;
	int output;
};

FIXTURE_SETUP(iobuf)
{
	struct karena_info info = { .size = sizeof(info) };

	REQUIRE_MODULE();
	ASSERT_EQ(0, device_call(KARENA_INFO, &info));
	ASSERT_TRUE(info.features & KARENA_FEATURE_IO);
	self->input = file_of(INPUT, ARENA);
	ASSERT_GE(self->input, 0);
	self->output = file_of(0, ARENA);
	ASSERT_GE(self->output, 0);
	ASSERT_EQ(0, io_uring_queue_init(8, &self->ring, 0));
}

FIXTURE_TEARDOWN(iobuf)
{
	io_uring_queue_exit(&self->ring);
	close(self->input);
	close(self->output);
	EXPECT_TRUE(module_stat_becomes("committed", 0));
	EXPECT_TRUE(module_stat_becomes("pinned_orphans", 0));
	EXPECT_TRUE(module_stat_becomes("nr_heaps", 0));
	EXPECT_EQ(0, module_stat("huge_arenas"));
	EXPECT_EQ(0, module_stat("sparse_pages"));
}

TEST_F(iobuf, io_heap_needs_policy_share_or_none)
{
	static const struct {
		uint32_t flags, fork;
		int err;
	} cases[] = {
		{ 0, KARENA_FORK_COW, 0 },
		{ 0, KARENA_FORK_SHARE, 0 },
		{ 0, KARENA_FORK_NONE, 0 },
		{ 0, KARENA_FORK_NONE + 1, -EINVAL },
		{ 0, ~0U, -EINVAL },
		{ KARENA_CREATE_IO, KARENA_FORK_COW, -EINVAL },
		{ KARENA_CREATE_IO, KARENA_FORK_SHARE, 0 },
		{ KARENA_CREATE_IO, KARENA_FORK_NONE, 0 },
		{ KARENA_CREATE_IO, KARENA_FORK_NONE + 1, -EINVAL },
		{ KARENA_CREATE_IO << 1, KARENA_FORK_NONE, -EINVAL },
		{ KARENA_CREATE_IO | 1U << 31, KARENA_FORK_NONE, -EINVAL },
	};
	struct karena_create create;

	for (int i = 0; i < ARRAY_SIZE(cases); i++) {
		int fd;

		create = (struct karena_create){
			.size = sizeof(create), .window = ARENA,
			.flags = cases[i].flags, .fork = cases[i].fork,
		};
		fd = device_call(KARENA_CREATE, &create);
		EXPECT_EQ(cases[i].err, fd < 0 ? fd : 0);
		if (fd >= 0)
			close(fd);
	}
	create = (struct karena_create){
		.size = sizeof(create), .window = ARENA, .reserved = 1
	};
	EXPECT_EQ(-EINVAL, device_call(KARENA_CREATE, &create));
	/*
	 * A caller whose struct has no policy asks for copy-on-write, which an I/O heap
	 * cannot have.
	 */
	create = (struct karena_create){
		.size = offsetof(struct karena_create, fork), .window = ARENA,
		.flags = KARENA_CREATE_IO,
	};
	EXPECT_EQ(-EINVAL, device_call(KARENA_CREATE, &create));
}

TEST_F(iobuf, sysfs_shows_the_fork_policy)
{
	static const char *const names[] = { "cow\n", "share\n", "none\n" };

	for (int i = 0; i < 3; i++) {
		char path[128], text[64];
		struct heap heap;

		ASSERT_EQ(0, heap_open_fork(&heap, ARENA, i));
		ASSERT_EQ(0, heap_commit(&heap, 0, 1));
		ASSERT_TRUE(directory_appears(heap.id));
		snprintf(path, sizeof(path), SYSFS "/heaps/%llu/fork",
			 (unsigned long long)heap.id);
		ASSERT_EQ(0, read_text(path, text, sizeof(text)));
		EXPECT_STREQ(names[i], text);
		heap_destroy(&heap);
	}
}

/* Expected result of io_uring for file-backed memory. */
static int register_error(void)
{
	return can_register() ? 0 : -EOPNOTSUPP;
}

/*
 * Read and write through the ring, if it has the memory. Return the number of wrong bytes.
 */
static size_t use_fixed(struct io_uring *ring, int input, int output, char *memory)
{
	char *check;
	size_t wrong;

	memset(memory, OLD, ARENA);
	if (through_the_pin(ring, IORING_OP_READ_FIXED, input, memory, ARENA) != ARENA)
		return ARENA;
	wrong = count_other(memory, ARENA, INPUT);
	memset(memory, 'w', ARENA);
	if (through_the_pin(ring, IORING_OP_WRITE_FIXED, output, memory, ARENA) !=
	    ARENA)
		return ARENA;
	check = mmap(NULL, ARENA, PROT_READ, MAP_SHARED, output, 0);
	wrong += count_other(check, ARENA, 'w');
	munmap(check, ARENA);
	return wrong;
}

static void do_nothing(struct child *child)
{
	hear(child->parent);
}

/* Once with a living child, once after it has exited. */
TEST_F(iobuf, fixed_buffers_work_before_and_after_a_fork)
{
	static const uint32_t policies[] = { KARENA_FORK_NONE, KARENA_FORK_SHARE };

	for (int i = 0; i < 2; i++) {
		struct child child;
		struct heap heap;

		ASSERT_EQ(0, io_open(&heap, policies[i]));
		ASSERT_EQ(0, heap_commit(&heap, 0, NR));
		EXPECT_EQ(register_error(),
			  ring_register(&self->ring, heap.window, ARENA));
		if (can_register()) {
			EXPECT_EQ(0, use_fixed(&self->ring, self->input,
					       self->output, heap.window));
		}
		ASSERT_EQ(0, child_start(&child, do_nothing));
		if (can_register()) {
			EXPECT_EQ(0, use_fixed(&self->ring, self->input,
					       self->output, heap.window));
			ASSERT_EQ(0, io_uring_unregister_buffers(&self->ring));
		}
		EXPECT_EQ(register_error(),
			  ring_register(&self->ring, arena(&heap, 1), ARENA));
		if (can_register()) {
			EXPECT_EQ(0, use_fixed(&self->ring, self->input,
					       self->output, arena(&heap, 1)));
			ASSERT_EQ(0, io_uring_unregister_buffers(&self->ring));
		}
		EXPECT_EQ(0, child_end(&child));
		EXPECT_EQ(register_error(),
			  ring_register(&self->ring, arena(&heap, 2), ARENA));
		if (can_register()) {
			EXPECT_EQ(0, use_fixed(&self->ring, self->input,
					       self->output, arena(&heap, 2)));
			ASSERT_EQ(0, io_uring_unregister_buffers(&self->ring));
		}
		/* Nothing was copied, and no reference is left. */
		EXPECT_EQ(0, heap_stat(&heap, "copies"));
		EXPECT_EQ(0, heap_release(&heap, 0, NR));
		EXPECT_TRUE(module_stat_becomes("pinned_orphans", 0));
		heap_destroy(&heap);
	}
}

/* Single pages can be registered in the same way as arenas. */
TEST_F(iobuf, sparse_pages_can_be_registered)
{
	struct heap heap;

	ASSERT_EQ(0, io_open(&heap, KARENA_FORK_NONE));
	ASSERT_EQ(0, commit_pages(&heap, 0, 0, 511));
	ASSERT_EQ(0, commit_pages(&heap, 0, 511, 1));
	EXPECT_EQ(register_error(), ring_register(&self->ring, heap.window, ARENA));
	if (can_register()) {
		EXPECT_EQ(0, use_fixed(&self->ring, self->input, self->output,
				       heap.window));
		ASSERT_EQ(0, io_uring_unregister_buffers(&self->ring));
	}
	heap_destroy(&heap);
}

static struct heap inherited;

static void see_what_arrives(struct child *child)
{
	CHECK(!count_other(inherited.window, ARENA, OLD));
	CHECK(tell(child->parent, 1));
	CHECK(hear(child->parent));
	CHECK(!count_other(inherited.window, ARENA, INPUT));
}

TEST_F(iobuf, input_into_a_shared_heap_reaches_both_processes)
{
	struct child child;
	struct heap heap;

	ASSERT_EQ(0, io_open(&heap, KARENA_FORK_SHARE));
	ASSERT_EQ(0, heap_commit(&heap, 0, 1));
	memset(heap.window, OLD, ARENA);
	ASSERT_EQ(register_error(), ring_register(&self->ring, heap.window, ARENA));
	inherited = heap;
	ASSERT_EQ(0, child_start(&child, see_what_arrives));
	ASSERT_TRUE(hear(child.line));
	if (can_register()) {
		EXPECT_EQ(ARENA, through_the_pin(&self->ring, IORING_OP_READ_FIXED,
						 self->input, heap.window, ARENA));
	} else {
		ASSERT_EQ(ARENA, pread(self->input, heap.window, ARENA, 0));
	}
	ASSERT_TRUE(tell(child.line, 1));
	EXPECT_EQ(0, child_end(&child));
	EXPECT_EQ(0, count_other(heap.window, ARENA, INPUT));
	if (can_register())
		ASSERT_EQ(0, io_uring_unregister_buffers(&self->ring));
	heap_destroy(&heap);
}

static void have_nothing(struct child *child)
{
	struct karena_range range = { .length = ARENA };
	struct heap *heap = &inherited;
	struct image image;

	CHECK(look(heap->window) == SIGSEGV);
	CHECK(look((char *)heap->control) == SIGSEGV);
	/* This process does not have the heap of the descriptor. */
	CHECK(heap_snapshot(heap, &image) == -EPERM);
	CHECK(heap_ranges(heap, KARENA_RELEASE, &range, 1) == -EPERM);
	CHECK(mmap(NULL, heap->size, PROT_READ | PROT_WRITE, MAP_SHARED, heap->fd,
		   0) == MAP_FAILED);
	(void)child;
}

TEST_F(iobuf, child_has_nothing_with_policy_none)
{
	for (int io = 0; io < 2; io++) {
		struct child child = {};
		struct heap heap;

		ASSERT_EQ(0, io ? io_open(&heap, KARENA_FORK_NONE) :
			  heap_open_fork(&heap, 4 * ARENA, KARENA_FORK_NONE));
		ASSERT_EQ(0, heap_commit(&heap, 0, 2));
		memset(heap.window, OLD, 2 * ARENA);
		inherited = heap;
		ASSERT_EQ(0, child_start(&child, have_nothing));
		EXPECT_EQ(0, child_end(&child));
		EXPECT_EQ(0, count_other(heap.window, 2 * ARENA, OLD));
		heap_destroy(&heap);
	}
}

/*
 * An ordinary heap accepts fixed buffers until another heap shares its frames. After that,
 * registration fails and changes nothing.
 */
static int refused(void)
{
	return can_register() ? -EFAULT : -EOPNOTSUPP;
}

TEST_F(iobuf, ordinary_heap_can_be_registered_until_a_fork)
{
	struct child child;
	struct heap heap;

	ASSERT_EQ(0, heap_open(&heap, 4 * ARENA, 0));
	ASSERT_EQ(0, heap_commit(&heap, 0, NR));
	memset(heap.window, OLD, NR * ARENA);
	ASSERT_EQ(register_error(), ring_register(&self->ring, heap.window, ARENA));
	if (can_register()) {
		EXPECT_EQ(0, use_fixed(&self->ring, self->input, self->output,
				       heap.window));
		ASSERT_EQ(0, io_uring_unregister_buffers(&self->ring));
	}
	ASSERT_EQ(0, child_start(&child, do_nothing));
	EXPECT_EQ(refused(), ring_register(&self->ring, heap.window, ARENA));
	EXPECT_EQ(refused(), ring_register(&self->ring, arena(&heap, 1), PAGE));
	EXPECT_EQ(0, child_end(&child));
	EXPECT_EQ(refused(), ring_register(&self->ring, heap.window, ARENA));
	/* Ordinary reads and writes of the ring, and direct I/O, still work. */
	ASSERT_EQ(ARENA, pread(self->input, arena(&heap, 1), ARENA, 0));
	EXPECT_EQ(0, count_other(arena(&heap, 1), ARENA, INPUT));
	EXPECT_EQ(0, count_other(arena(&heap, 2), 2 * ARENA, OLD));
	EXPECT_EQ(0, heap_release(&heap, 0, NR));
	EXPECT_EQ(0, heap_stat(&heap, "committed"));
	EXPECT_TRUE(module_stat_becomes("pinned_orphans", 0));
	heap_destroy(&heap);
}

static void try_to_register_a_clone(struct child *child)
{
	struct io_uring ring;

	(void)child;
	CHECK(!io_uring_queue_init(8, &ring, 0));
	CHECK(ring_register(&ring, inherited.window, ARENA) == refused());
	memset(inherited.window, 'c', ARENA);
	CHECK(ring_register(&ring, inherited.window, ARENA) == refused());
	io_uring_queue_exit(&ring);
}

TEST_F(iobuf, clone_cannot_be_registered)
{
	struct heap heap;

	ASSERT_EQ(0, heap_open(&heap, 4 * ARENA, 0));
	ASSERT_EQ(0, heap_commit(&heap, 0, 1));
	inherited = heap;
	EXPECT_EQ(0, in_child(try_to_register_a_clone));
	EXPECT_EQ(0, count_other(heap.window, ARENA, 0));
	heap_destroy(&heap);
}

TEST_F(iobuf, ordinary_heap_can_be_registered_until_a_snapshot)
{
	struct image image;
	struct heap heap;

	ASSERT_EQ(0, heap_open(&heap, 4 * ARENA, 0));
	ASSERT_EQ(0, heap_commit(&heap, 0, NR));
	memset(heap.window, OLD, NR * ARENA);
	ASSERT_EQ(register_error(), ring_register(&self->ring, heap.window, ARENA));
	if (can_register())
		ASSERT_EQ(0, io_uring_unregister_buffers(&self->ring));
	ASSERT_EQ(0, heap_snapshot(&heap, &image));
	EXPECT_EQ(refused(), ring_register(&self->ring, heap.window, ARENA));
	/* On no kernel can a device write to an image. */
	EXPECT_EQ(-EFAULT, ring_register(&self->ring, image.window, ARENA));
	image_destroy(&image);
	EXPECT_EQ(refused(), ring_register(&self->ring, arena(&heap, 1), ARENA));
	EXPECT_EQ(0, count_other(heap.window, NR * ARENA, OLD));
	EXPECT_EQ(0, heap_release(&heap, 0, NR));
	EXPECT_TRUE(module_stat_becomes("pinned_orphans", 0));
	heap_destroy(&heap);
}

/*
 * Pinned during a fork: the frame stays with the parent, whatever the parent writes later,
 * and the child has a copy of the content at the fork.
 */
static void keep_what_was(struct child *child)
{
	char *was = own_memory(ARENA);

	CHECK(was);
	memcpy(was, inherited.window, ARENA);
	CHECK(!count_other(was, ARENA, OLD));
	CHECK(tell(child->parent, 1));
	CHECK(hear(child->parent));
	CHECK(!memcmp(was, inherited.window, ARENA));
	memset(inherited.window, 'c', ARENA);
	CHECK(tell(child->parent, 1));
	CHECK(hear(child->parent));
	CHECK(!count_other(inherited.window, ARENA, 'c'));
}

static int commit_kind(const struct heap *heap, bool sparse)
{
	return sparse ? commit_pages(heap, 0, 0, 511) ?:
			commit_pages(heap, 0, 511, 1) :
			heap_commit(heap, 0, 1);
}

TEST_F(iobuf, input_after_a_fork_reaches_the_parent)
{
	for (int sparse = 0; sparse < 2; sparse++) {
		struct child child;
		struct heap heap;

		ASSERT_EQ(0, heap_open(&heap, 4 * ARENA, 0));
		ASSERT_EQ(0, commit_kind(&heap, sparse));
		memset(heap.window, OLD, ARENA);
		ASSERT_EQ(register_error(),
			  ring_register(&self->ring, heap.window, ARENA));
		if (!can_register()) {
			/* The tests with the slow disk cover such kernels. */
			heap_destroy(&heap);
			continue;
		}
		inherited = heap;
		ASSERT_EQ(0, child_start(&child, keep_what_was));
		ASSERT_TRUE(hear(child.line));
		/* A write of the process must not separate the page from the input. */
		memset(heap.window, 'p', ARENA / 2);
		EXPECT_EQ(ARENA, through_the_pin(&self->ring, IORING_OP_READ_FIXED,
						 self->input, heap.window, ARENA));
		EXPECT_EQ(0, count_other(heap.window, ARENA, INPUT));
		ASSERT_TRUE(tell(child.line, 1));
		ASSERT_TRUE(hear(child.line));
		EXPECT_EQ(0, count_other(heap.window, ARENA, INPUT));
		/* The ring writes the same memory out. */
		EXPECT_EQ(0, use_fixed(&self->ring, self->input, self->output,
				       heap.window));
		ASSERT_TRUE(tell(child.line, 1));
		EXPECT_EQ(0, child_end(&child));
		EXPECT_EQ(0, use_fixed(&self->ring, self->input, self->output,
				       heap.window));
		ASSERT_EQ(0, io_uring_unregister_buffers(&self->ring));
		EXPECT_EQ(0, heap_release(&heap, 0, 1));
		EXPECT_TRUE(module_stat_becomes("pinned_orphans", 0));
		heap_destroy(&heap);
	}
}

TEST_F(iobuf, input_after_a_snapshot_reaches_the_heap)
{
	for (int sparse = 0; sparse < 2; sparse++) {
		struct image image;
		struct heap heap;

		ASSERT_EQ(0, heap_open(&heap, 4 * ARENA, 0));
		ASSERT_EQ(0, commit_kind(&heap, sparse));
		memset(heap.window, OLD, ARENA);
		ASSERT_EQ(register_error(),
			  ring_register(&self->ring, heap.window, ARENA));
		ASSERT_EQ(0, heap_snapshot(&heap, &image));
		EXPECT_EQ(0, count_other(image.window, ARENA, OLD));
		memset(heap.window, 'p', ARENA / 2);
		if (can_register()) {
			EXPECT_EQ(0, use_fixed(&self->ring, self->input,
					       self->output, heap.window));
			ASSERT_EQ(0, io_uring_unregister_buffers(&self->ring));
		}
		EXPECT_EQ(0, count_other(image.window, ARENA, OLD));
		image_destroy(&image);
		heap_destroy(&heap);
	}
}

/* Only one page is pinned. The others are shared, or are copied together with it. */
TEST_F(iobuf, one_pinned_page_copies_at_most_its_arena)
{
	struct child child;
	struct heap heap;
	long committed;

	ASSERT_EQ(0, heap_open(&heap, NR * ARENA, 0));
	ASSERT_EQ(0, heap_commit(&heap, 0, NR));
	memset(heap.window, OLD, NR * ARENA);
	ASSERT_EQ(register_error(),
		  ring_register(&self->ring, page(&heap, 0, 7), PAGE));
	inherited = heap;
	ASSERT_EQ(0, child_start(&child, keep_what_was));
	ASSERT_TRUE(hear(child.line));
	committed = module_stat("committed");
	EXPECT_GE(committed, (long)(NR * ARENA));
	EXPECT_LE(committed, (long)((NR + 1) * ARENA));
	if (can_register()) {
		EXPECT_EQ(PAGE, through_the_pin(&self->ring, IORING_OP_READ_FIXED,
						self->input, page(&heap, 0, 7), PAGE));
		EXPECT_EQ(0, count_other(page(&heap, 0, 7), PAGE, INPUT));
		ASSERT_EQ(0, io_uring_unregister_buffers(&self->ring));
	}
	ASSERT_TRUE(tell(child.line, 1));
	ASSERT_TRUE(hear(child.line));
	EXPECT_EQ(0, count_other(page(&heap, 0, 8), 504 * PAGE, OLD));
	EXPECT_EQ(0, count_other(arena(&heap, 1), (NR - 1) * ARENA, OLD));
	ASSERT_TRUE(tell(child.line, 1));
	EXPECT_EQ(0, child_end(&child));
	heap_destroy(&heap);
}

/* Direct I/O pins pages for the duration of a call, in every kind of heap. */
TEST_F_TIMEOUT(iobuf, direct_io_works_in_every_heap, SLOW)
{
	int disk = open(DISK, O_RDWR | O_DIRECT | O_CLOEXEC);

	if (disk < 0)
		SKIP(return, "no scratch disk " DISK);
	for (int kind = 0; kind < 5; kind++) {
		struct child child = {};
		struct heap heap;

		ASSERT_EQ(0, kind < 3 ? heap_open_fork(&heap, 16 * ARENA, kind) :
			  io_open(&heap, kind - 2));
		ASSERT_EQ(0, heap_commit(&heap, 0, 2));
		ASSERT_EQ(0, commit_pages(&heap, 2, 0, 300));
		for (int forked = 0; forked < 2; forked++) {
			if (forked)
				ASSERT_EQ(0, child_start(&child, do_nothing));
			memset(heap.window, 'd' + forked, MIB);
			ASSERT_EQ(MIB, pwrite(disk, heap.window, MIB, 0));
			memset(heap.window, OLD, 2 * ARENA);
			memset(arena(&heap, 2), OLD, 300 * PAGE);
			ASSERT_EQ(MIB, pread(disk, arena(&heap, 1), MIB, 0));
			EXPECT_EQ(0, count_other(arena(&heap, 1), MIB, 'd' + forked));
			EXPECT_EQ(0, count_other(arena(&heap, 1) + MIB, MIB, OLD));
			ASSERT_EQ(MIB, pread(disk, arena(&heap, 2), MIB, 0));
			EXPECT_EQ(0, count_other(arena(&heap, 2), MIB, 'd' + forked));
			EXPECT_EQ(0, count_other(page(&heap, 2, 256), 44 * PAGE, OLD));
			/* Reads into memory that is not committed fail. */
			EXPECT_EQ(-1, pread(disk, page(&heap, 2, 300), PAGE, 0));
			EXPECT_EQ(EFAULT, errno);
		}
		EXPECT_EQ(0, child_end(&child));
		heap_destroy(&heap);
	}
	close(disk);
}

/*
 * Pages are pinned, copied to a child, released and committed again, at any moment.
 * process_vm_readv() pins the pages that it reads.
 */
struct jumble {
	struct heap heap;
	bool stop;
};

static bool jumble_continues(const struct jumble *jumble)
{
	return !__atomic_load_n(&jumble->stop, __ATOMIC_RELAXED);
}

static void *pin_all_the_time(void *data)
{
	struct jumble *jumble = data;
	static char copy[64 * PAGE];
	struct iovec local = { copy, sizeof(copy) };

	while (jumble_continues(jumble)) {
		for (size_t at = 0; at < 2 * ARENA; at += sizeof(copy)) {
			struct iovec remote = {
				jumble->heap.window + at, sizeof(copy)
			};

			process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
		}
	}
	return NULL;
}

static void *release_all_the_time(void *data)
{
	struct jumble *jumble = data;

	while (jumble_continues(jumble)) {
		heap_range(&jumble->heap, KARENA_COMMIT, 0, 2 * ARENA - PAGE);
		sched_yield();
		heap_range(&jumble->heap, KARENA_RELEASE, 0, ARENA);
		heap_range(&jumble->heap, KARENA_RELEASE, ARENA, ARENA);
	}
	return NULL;
}

TEST_F_TIMEOUT(iobuf, pins_forks_and_releases_run_concurrently, SLOW)
{
	time_t until = time(NULL) + 8;
	struct jumble jumble = {};
	pthread_t threads[2];
	int forks = 0, wrong = 0;

	ASSERT_EQ(0, heap_open(&jumble.heap, 4 * ARENA, 0));
	ASSERT_EQ(0, pthread_create(&threads[0], NULL, pin_all_the_time, &jumble));
	ASSERT_EQ(0, pthread_create(&threads[1], NULL, release_all_the_time,
				    &jumble));
	/* A slow machine needs longer for as many rounds. */
	while (forks < 4 || time(NULL) < until) {
		pid_t child = fork();

		ASSERT_GE(child, 0);
		if (!child) {
			/* The child's pages are zero or not there. */
			for (size_t i = 0; i < 2 * ARENA; i += 16 * PAGE) {
				char *at = jumble.heap.window + i;

				if (!look(at) && *at)
					_exit(1);
				if (!touch(at) && *at != 1)
					_exit(2);
			}
			_exit(0);
		}
		wrong += child_status(child) != 0;
		forks++;
	}
	__atomic_store_n(&jumble.stop, true, __ATOMIC_RELAXED);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	EXPECT_EQ(0, wrong);
	ASSERT_EQ(0, heap_release(&jumble.heap, 0, 2));
	EXPECT_TRUE(heap_stat_becomes(&jumble.heap, "committed", 0));
	heap_destroy(&jumble.heap);
}

/*
 * A pin of any duration, on every kernel: process_vm_readv() has pinned its source, and
 * waits for the page that it copies to.
 */
struct pin {
	pthread_t thread;
	int uffd;
	char *from;
	char *to;
	ssize_t result;
};

static void *pin_main(void *data)
{
	struct pin *pin = data;
	struct iovec local = { pin->to, PAGE }, remote = { pin->from, PAGE };

	pin->result = process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
	return NULL;
}

/* Pin a page. Wait up to ten seconds until it is pinned. */
static bool pin_start(struct pin *pin, char *from)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct uffd_msg message;

	pin->from = from;
	pin->to = own_memory(PAGE);
	pin->uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (!pin->to || pin->uffd < 0)
		return false;
	range.range.start = (uintptr_t)pin->to;
	range.range.len = PAGE;
	if (ioctl(pin->uffd, UFFDIO_API, &api) ||
	    ioctl(pin->uffd, UFFDIO_REGISTER, &range) ||
	    pthread_create(&pin->thread, NULL, pin_main, pin))
		return false;
	for (int i = 0; i < 1000; i++) {
		if (read(pin->uffd, &message, sizeof(message)) == sizeof(message))
			return true;
		usleep(10000);
	}
	return false;
}

/*
 * End the pin. Return the byte that was read, or -1. A copy word by word may already have
 * the first word in a register while it waits.
 */
static int pin_end(struct pin *pin)
{
	struct uffdio_zeropage zero = {};
	int byte;

	zero.range.start = (uintptr_t)pin->to;
	zero.range.len = PAGE;
	ioctl(pin->uffd, UFFDIO_ZEROPAGE, &zero);
	pthread_join(pin->thread, NULL);
	byte = pin->result == PAGE ? pin->to[PAGE - 1] : -1;
	close(pin->uffd);
	munmap(pin->to, PAGE);
	return byte;
}

TEST_F(iobuf, pinned_frame_stays_with_the_parent)
{
	for (int sparse = 0; sparse < 2; sparse++) {
		struct child child;
		struct heap heap;
		struct pin pin;

		ASSERT_EQ(0, heap_open(&heap, 4 * ARENA, 0));
		ASSERT_EQ(0, commit_kind(&heap, sparse));
		memset(heap.window, OLD, ARENA);
		ASSERT_TRUE(pin_start(&pin, page(&heap, 0, 7)));
		inherited = heap;
		ASSERT_EQ(0, child_start(&child, keep_what_was));
		ASSERT_TRUE(hear(child.line));
		/* process_vm_readv(), which holds the pin, reads this. */
		memset(page(&heap, 0, 7), INPUT, PAGE);
		EXPECT_EQ(INPUT, pin_end(&pin));
		ASSERT_TRUE(tell(child.line, 1));
		ASSERT_TRUE(hear(child.line));
		ASSERT_TRUE(tell(child.line, 1));
		EXPECT_EQ(0, child_end(&child));
		EXPECT_EQ(0, heap_release(&heap, 0, 1));
		EXPECT_TRUE(module_stat_becomes("pinned_orphans", 0));
		heap_destroy(&heap);
	}
}

/*
 * A thread releases memory that a fork is about to copy for the child because it is pinned.
 * The child has the old content or nothing.
 */
#define NR_SLOW		16	/* arenas that a fork must examine page by page */

struct releaser {
	pthread_t thread;
	struct heap *heap;
	long at;	/* time in nanoseconds; 0: not known yet */
};

static long now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000L + now.tv_nsec;
}

static void *releaser_main(void *data)
{
	struct releaser *releaser = data;
	long at;

	do {
		relax();
		at = __atomic_load_n(&releaser->at, __ATOMIC_ACQUIRE);
	} while (!at || now_ns() < at);
	heap_range(releaser->heap, KARENA_RELEASE, 0, ARENA);
	return NULL;
}

static int look_at_the_pinned_arena(const struct heap *heap)
{
	for (size_t i = 0; i < 512; i += 5) {
		char *at = page(heap, 0, i);

		if (look(at))
			continue;
		if (count_other(at, PAGE, OLD))
			return 1;
		*at = 'c';
	}
	return heap_release(heap, 0, 1) ? 2 : 0;
}

TEST_F_TIMEOUT(iobuf, pinned_memory_can_be_released_during_a_fork, SLOW)
{
	int rounds = kernel_is_slow() ? 10 : 40;
	unsigned int seed = 3;
	struct heap heap;
	long took = 0;

	ASSERT_EQ(0, heap_open(&heap, (NR_SLOW + 2) * ARENA, 0));
	for (int i = 1; i <= NR_SLOW; i++)
		ASSERT_EQ(0, heap_range(&heap, KARENA_COMMIT, i * ARENA,
					ARENA - PAGE));
	for (int round = 0; round < rounds; round++) {
		struct releaser releaser = { .heap = &heap };
		struct pin pin;
		pid_t child;
		long begin;

		ASSERT_EQ(0, heap_range(&heap, KARENA_COMMIT, 0, ARENA));
		memset(heap.window, OLD, ARENA);
		ASSERT_TRUE(pin_start(&pin, page(&heap, 0, 7)));
		ASSERT_EQ(0, pthread_create(&releaser.thread, NULL, releaser_main,
					    &releaser));
		/* At any moment of a fork, judged by the duration of the last one. */
		begin = now_ns();
		__atomic_store_n(&releaser.at, begin + (took ?
				 (rand_r(&seed) * 1000L + 1) % took : 1),
				 __ATOMIC_RELEASE);
		child = fork();
		if (!child)
			_exit(look_at_the_pinned_arena(&heap));
		took = now_ns() - begin;
		EXPECT_EQ(0, child_status(child));
		pthread_join(releaser.thread, NULL);
		EXPECT_EQ(OLD, pin_end(&pin));
	}
	/* Once for all rounds, since a worker looks for unpinned frames once a second. */
	EXPECT_TRUE(module_stat_becomes("pinned_orphans", 0));
	EXPECT_EQ(0, heap_release(&heap, 0, NR_SLOW + 1));
	EXPECT_EQ(0, heap_stat(&heap, "committed"));
	heap_destroy(&heap);
}

/*
 * The slow disk: a fork or a snapshot runs while pages are pinned. The child or the image
 * has the content at that moment, which does not change later.
 */
static void keep_what_may_have_come(struct child *child)
{
	char *was = own_memory(MIB);

	/* Leave the cgroup of the reader, which is removed later. */
	CHECK(!write_text(CGROUPS "/cgroup.procs", "0"));
	CHECK(was);
	memcpy(was, inherited.window, MIB);
	CHECK(!count_other(inherited.window + MIB, MIB, OLD));
	CHECK(tell(child->parent, 1));
	CHECK(hear(child->parent));
	CHECK(!memcmp(was, inherited.window, MIB));
	/* At one kilobyte a second, few of the bytes can have arrived. */
	CHECK(count_other(was, MIB, INPUT) >= MIB / 2);
}

static void write_to_disk(int disk, char byte)
{
	char *data = own_memory(MIB);

	if (!data)
		return;
	memset(data, byte, MIB);
	if (pwrite(disk, data, MIB, 0) != MIB)
		perror("# " DISK);
	munmap(data, MIB);
}

FIXTURE(slow_disk) {
	struct heap heap;
	struct slow_read read;
};

FIXTURE_VARIANT(slow_disk) {
	bool sparse;
};

FIXTURE_VARIANT_ADD(slow_disk, huge) {
	.sparse = false,
};

FIXTURE_VARIANT_ADD(slow_disk, sparse) {
	.sparse = true,
};

FIXTURE_SETUP(slow_disk)
{
	REQUIRE_MODULE();
	self->heap.fd = -1;
	self->read.disk = open(DISK, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (self->read.disk < 0)
		SKIP(return, "no scratch disk " DISK);
	write_to_disk(self->read.disk, INPUT);
	ASSERT_EQ(0, heap_open(&self->heap, 4 * ARENA, 0));
	ASSERT_EQ(0, commit_kind(&self->heap, variant->sparse));
	memset(self->heap.window, OLD, ARENA);
	self->read.to = self->heap.window;
}

FIXTURE_TEARDOWN(slow_disk)
{
	if (self->heap.fd < 0)
		return;
	close(self->read.disk);
	heap_destroy(&self->heap);
	EXPECT_TRUE(module_stat_becomes("committed", 0));
	EXPECT_TRUE(module_stat_becomes("pinned_orphans", 0));
}

TEST_F_TIMEOUT(slow_disk, input_from_a_slow_disk_after_a_fork_reaches_the_parent, SLOW)
{
	struct heap *heap = &self->heap;
	struct child child = {};
	bool started, heard = false;
	int err = -1;

	/* The whole read would take a quarter of an hour. */
	if (!disk_slow("1024"))
		SKIP(return, "cannot slow down a disk with a cgroup");
	started = slow_read_start(&self->read);
	inherited = *heap;
	if (started)
		err = child_start(&child, keep_what_may_have_come);
	/* The parent's writes must not separate its pages from the input. */
	if (!err) {
		heard = hear(child.line);
		memset(heap->window + MIB / 2, 'p', MIB);
	}
	/* Before any check, because a process that waits for the disk cannot be killed. */
	disk_fast();
	pthread_join(self->read.thread, NULL);
	ASSERT_TRUE(started);
	ASSERT_EQ(0, err);
	EXPECT_TRUE(heard);
	EXPECT_EQ(MIB, self->read.result);
	EXPECT_EQ(0, count_other(heap->window, MIB, INPUT));
	EXPECT_EQ(0, count_other(heap->window + MIB, MIB / 2, 'p'));
	EXPECT_EQ(0, count_other(heap->window + 3 * MIB / 2, MIB / 2, OLD));
	ASSERT_TRUE(tell(child.line, 1));
	EXPECT_EQ(0, child_end(&child));
	EXPECT_EQ(0, count_other(heap->window, MIB, INPUT));
}

TEST_F_TIMEOUT(slow_disk, input_from_a_slow_disk_is_not_in_an_image, SLOW)
{
	struct heap *heap = &self->heap;
	char *was = own_memory(MIB);
	struct image image;
	bool started;
	int err = -1;

	ASSERT_NE(NULL, was);
	if (!disk_slow("1024"))
		SKIP(return, "cannot slow down a disk with a cgroup");
	started = slow_read_start(&self->read);
	if (started)
		err = heap_snapshot(heap, &image);
	if (!err) {
		memcpy(was, image.window, MIB);
		memset(heap->window + MIB / 2, 'p', MIB);
	}
	disk_fast();
	pthread_join(self->read.thread, NULL);
	ASSERT_TRUE(started);
	ASSERT_EQ(0, err);
	EXPECT_EQ(MIB, self->read.result);
	EXPECT_EQ(0, count_other(heap->window, MIB, INPUT));
	EXPECT_EQ(0, count_other(heap->window + MIB, MIB / 2, 'p'));
	EXPECT_EQ(0, memcmp(image.window, was, MIB));
	EXPECT_GE(count_other(was, MIB, INPUT), MIB / 2);
	EXPECT_EQ(0, count_other(image.window + MIB, MIB, OLD));
	image_destroy(&image);
	EXPECT_EQ(0, count_other(heap->window, MIB, INPUT));
	munmap(was, MIB);
}

/*
 * A clone reads from the disk while its parent writes. The input arrives in the clone,
 * which shared the frame with its parent until the read.
 */
static void read_as_a_clone(struct child *child)
{
	struct slow_read read = { .to = inherited.window };

	read.disk = open(DISK, O_RDWR | O_DIRECT | O_CLOEXEC);
	CHECK(read.disk >= 0);
	CHECK(disk_slow("1024"));
	CHECK(slow_read_start(&read));
	/* The parent makes the disk fast again, even if this process fails. */
	CHECK(tell(child->parent, 1));
	pthread_join(read.thread, NULL);
	CHECK(read.result == MIB);
	CHECK(!count_other(inherited.window, MIB, INPUT));
	CHECK(!count_other(inherited.window + MIB, MIB, OLD));
	write_text(CGROUPS "/cgroup.procs", "0");
}

TEST_F_TIMEOUT(slow_disk, input_of_a_clone_reaches_only_the_clone, SLOW)
{
	struct heap *heap = &self->heap;
	struct child child;
	bool heard;

	if (!disk_slow("1024"))
		SKIP(return, "cannot slow down a disk with a cgroup");
	disk_fast();
	inherited = *heap;
	ASSERT_EQ(0, child_start(&child, read_as_a_clone));
	heard = hear(child.line);
	if (heard) {
		memset(heap->window, 'p', MIB);
		heap_release(heap, 0, 1);
	}
	disk_speed("max");
	EXPECT_TRUE(heard);
	EXPECT_EQ(0, child_end(&child));
	rmdir(DISK_GROUP);
	EXPECT_EQ(SIGBUS, touch(heap->window));
	EXPECT_EQ(0, heap_stat(heap, "committed"));
	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	EXPECT_EQ(0, count_other(heap->window, ARENA, 0));
}

TEST_HARNESS_MAIN
