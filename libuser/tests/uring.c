// SPDX-License-Identifier: MIT
/*
 * libkarena-uring: requests that commit and release, fixed buffers, and the reasons why
 * registration fails. Runs on the source that KARENA_SOURCE names.
 */
#include <fcntl.h>
#include <grp.h>
#include <liburing.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/utsname.h>

#include <karena/uring.h>
#include <linux/karena.h>

#include "common.h"

#define NOBODY	65534

/* Before 6.5, io_uring registers no file pages except those of tmpfs and hugetlbfs. */
static bool can_register(void)
{
	struct utsname name;
	int major, minor;

	if (!on_device())
		return true;
	if (uname(&name) || sscanf(name.release, "%d.%d", &major, &minor) != 2)
		return false;
	return major > 6 || (major == 6 && minor >= 5);
}

FIXTURE(uring) {
	struct ka_heap *heap;
	struct io_uring ring;
};

FIXTURE_SETUP(uring)
{
	int err = io_uring_queue_init(8, &self->ring, 0);

	/*
	 * There may be no io_uring, as in a container, but guests with the module have it.
	 */
	if (err && !on_device())
		SKIP(return, "no io_uring here: %s", strerror(-err));
	ASSERT_EQ(0, err);
	self->heap = make(256 * MIB, 0, KA_FORK_COW);
	ASSERT_NE(NULL, self->heap) TH_LOG("%s", ka_error());
}

FIXTURE_TEARDOWN(uring)
{
	ka_heap_destroy(self->heap);
	io_uring_queue_exit(&self->ring);
}

/* Submit the one prepared entry. Return its result. */
static int complete(struct io_uring *ring)
{
	struct io_uring_cqe *cqe;
	int result = io_uring_submit_and_wait(ring, 1);

	if (result < 0)
		return result;
	result = io_uring_wait_cqe(ring, &cqe);
	if (result)
		return result;
	result = cqe->res;
	io_uring_cqe_seen(ring, cqe);
	return result;
}

static size_t count_other(const char *start, size_t size, char byte)
{
	size_t other = 0;

	for (size_t i = 0; i < size; i++)
		other += start[i] != byte;
	return other;
}

static sigjmp_buf jump;

static void handler(int signal)
{
	siglongjmp(jump, signal);
}

/* Write to an address. Return 0, or the signal that the write raised. */
static int touch(volatile char *address)
{
	struct sigaction action = { .sa_handler = handler }, old;
	int signal;

	sigaction(SIGBUS, &action, &old);
	signal = sigsetjmp(jump, 1);
	if (!signal)
		*address = 1;
	sigaction(SIGBUS, &old, NULL);
	return signal;
}

#define EXPECT_FAILS(_errno, _message, _call)				\
	do {								\
		errno = 0;						\
		EXPECT_TRUE(_call);					\
		EXPECT_EQ(_errno, errno);				\
		EXPECT_NE(NULL, strstr(ka_error(), _message))		\
			TH_LOG("%s", ka_error());			\
	} while (0)

/* A file with the same byte everywhere. */
static int file_of(char byte, size_t size)
{
	int fd = memfd_create("karena", MFD_CLOEXEC);
	char *data = malloc(size);

	memset(data, byte, size);
	if (fd < 0 || pwrite(fd, data, size, 0) != (ssize_t)size)
		abort();
	free(data);
	return fd;
}

TEST_F(uring, read_into_a_fixed_buffer_reaches_the_run)
{
	char *run = ka_run_alloc(self->heap, 4 * MIB, KA_ARENA_SIZE);
	struct ka_uring_buffers *buffers;
	int fd = file_of('i', MIB), index;

	ASSERT_NE(NULL, run);
	memset(run, 'o', 4 * MIB);
	buffers = ka_uring_register(&self->ring, self->heap, NULL, 0);
	if (!can_register()) {
		EXPECT_EQ(NULL, buffers);
		EXPECT_EQ(EOPNOTSUPP, errno);
		EXPECT_NE(NULL, strstr(ka_error(), "this kernel does not accept memory"));
		close(fd);
		return;
	}
	ASSERT_NE(NULL, buffers) TH_LOG("%s", ka_error());
	index = ka_uring_buffer_index(buffers, run + MIB, MIB);
	ASSERT_GE(index, 0);
	io_uring_prep_read_fixed(io_uring_get_sqe(&self->ring), fd, run + MIB, MIB, 0,
				 index);
	EXPECT_EQ(MIB, complete(&self->ring));
	EXPECT_EQ(0, count_other(run, MIB, 'o'));
	EXPECT_EQ(0, count_other(run + MIB, MIB, 'i'));
	EXPECT_EQ(0, count_other(run + 2 * MIB, 2 * MIB, 'o'));
	ka_uring_unregister(&self->ring, buffers);
	ka_uring_unregister(&self->ring, NULL);
	/* The kernel no longer has the buffers. */
	io_uring_prep_read_fixed(io_uring_get_sqe(&self->ring), fd, run, MIB, 0, index);
	EXPECT_EQ(-EFAULT, complete(&self->ring));
	EXPECT_EQ(0, ka_run_free(self->heap, run));
	close(fd);
}

TEST_F(uring, index_is_that_of_the_buffer_with_the_whole_range)
{
	char *run = ka_run_alloc(self->heap, 16 * MIB, KA_ARENA_SIZE);
	const struct iovec ranges[] = {
		{ run + 10 * MIB, 2 * MIB }, { run + MIB, MIB }, { run + 2 * MIB, 4096 },
	};
	struct ka_uring_buffers *buffers;
	int low, middle, high;

	if (!can_register())
		SKIP(return, "no fixed buffers in a heap on this kernel");
	ASSERT_NE(NULL, run);
	buffers = ka_uring_register(&self->ring, self->heap, ranges, 3);
	ASSERT_NE(NULL, buffers) TH_LOG("%s", ka_error());
	low = ka_uring_buffer_index(buffers, run + MIB, MIB);
	middle = ka_uring_buffer_index(buffers, run + 2 * MIB, 4096);
	high = ka_uring_buffer_index(buffers, run + 11 * MIB, MIB);
	EXPECT_EQ(1 << 0 | 1 << 1 | 1 << 2, 1 << low | 1 << middle | 1 << high);
	EXPECT_EQ(low, ka_uring_buffer_index(buffers, run + 2 * MIB - 1, 1));
	EXPECT_EQ(high, ka_uring_buffer_index(buffers, run + 10 * MIB, 2 * MIB));
	EXPECT_FAILS(ENOENT, "not within one", ka_uring_buffer_index(buffers, run, 1) < 0);
	EXPECT_FAILS(ENOENT, "not within one",
		     ka_uring_buffer_index(buffers, run + MIB, MIB + 1) < 0);
	EXPECT_FAILS(ENOENT, "not within one",
		     ka_uring_buffer_index(buffers, run + 2 * MIB + 4096, 1) < 0);
	EXPECT_FAILS(ENOENT, "not within one",
		     ka_uring_buffer_index(buffers, run + 12 * MIB, 0) < 0);
	EXPECT_FAILS(ENOENT, "not within one",
		     ka_uring_buffer_index(buffers, run + 11 * MIB, SIZE_MAX) < 0);
	EXPECT_FAILS(EBUSY, "already",
		     !ka_uring_register(&self->ring, self->heap, ranges, 3));
	/* The struct can be freed after its ring was closed. */
	ka_uring_unregister(NULL, buffers);
}

TEST_F(uring, exactly_the_committed_memory_is_registered)
{
	struct ka_uring_buffers *buffers;
	char *first, *small, *large;

	EXPECT_FAILS(ENOENT, "nothing of the heap is committed",
		     !ka_uring_register(&self->ring, self->heap, NULL, 0));
	if (!can_register())
		SKIP(return, "no fixed buffers in a heap on this kernel");
	/* The first arena is committed in parts, so there are two buffers. */
	small = ka_run_alloc(self->heap, 8192, 0);
	large = ka_run_alloc(self->heap, 6 * MIB, KA_ARENA_SIZE);
	first = (char *)((uintptr_t)small & ~(KA_ARENA_SIZE - 1));
	ASSERT_NE(NULL, small);
	ASSERT_EQ(first + KA_ARENA_SIZE, large);
	buffers = ka_uring_register(&self->ring, self->heap, NULL, 0);
	ASSERT_NE(NULL, buffers) TH_LOG("%s", ka_error());
	EXPECT_EQ(0, ka_uring_buffer_index(buffers, small, 8192));
	EXPECT_EQ(1, ka_uring_buffer_index(buffers, large, 6 * MIB));
	EXPECT_EQ(-1, ka_uring_buffer_index(buffers, first + MIB, 1));
	EXPECT_EQ(-1, ka_uring_buffer_index(buffers, large + 6 * MIB, 1));
	ka_uring_unregister(&self->ring, buffers);
}

TEST_F(uring, failed_registration_gives_the_reason)
{
	char *run = ka_run_alloc(self->heap, 2 * MIB, KA_ARENA_SIZE);
	const struct iovec foreign = { &run, 8 };
	const struct iovec empty = { run, 0 };
	const struct iovec beyond = { run, 512 * MIB };
	const struct iovec overlap[] = { { run + 4096, 8192 }, { run, 4097 } };
	const struct iovec uncommitted = { run + 64 * MIB, MIB };

	ASSERT_NE(NULL, run);
	EXPECT_FAILS(EINVAL, "or not in the heap",
		     !ka_uring_register(&self->ring, self->heap, &foreign, 1));
	EXPECT_FAILS(EINVAL, "empty",
		     !ka_uring_register(&self->ring, self->heap, &empty, 1));
	EXPECT_FAILS(EINVAL, "or not in the heap",
		     !ka_uring_register(&self->ring, self->heap, &beyond, 1));
	EXPECT_FAILS(EINVAL, "nothing",
		     !ka_uring_register(&self->ring, self->heap, overlap, 0));
	EXPECT_FAILS(EINVAL, "overlap",
		     !ka_uring_register(&self->ring, self->heap, overlap, 2));
	if (can_register())
		EXPECT_FAILS(EFAULT, "not committed",
			     !ka_uring_register(&self->ring, self->heap, &uncommitted,
						1));
}

TEST_F(uring, forked_heap_is_rejected_with_the_reason)
{
	char *run = ka_run_alloc(self->heap, 2 * MIB, KA_ARENA_SIZE);
	struct ka_uring_buffers *buffers;
	int line[2], status;
	pid_t child;

	if (!can_register())
		SKIP(return, "no fixed buffers in a heap on this kernel");
	ASSERT_NE(NULL, run);
	memset(run, 1, 2 * MIB);
	ASSERT_EQ(0, pipe(line));
	child = fork();
	if (!child) {
		char byte;

		/* Wait until the parent is done. */
		close(line[1]);
		_exit((int)read(line[0], &byte, 1));
	}
	buffers = ka_uring_register(&self->ring, self->heap, NULL, 0);
	if (on_device()) {
		EXPECT_EQ(NULL, buffers);
		EXPECT_EQ(EOPNOTSUPP, errno);
		EXPECT_NE(NULL, strstr(ka_error(), "was forked"))
			TH_LOG("%s", ka_error());
	} else {
		EXPECT_NE(NULL, buffers) TH_LOG("%s", ka_error());
	}
	ka_uring_unregister(&self->ring, buffers);
	close(line[1]);
	close(line[0]);
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
}

/* For a privileged process, nothing is counted. */
TEST(memlock_limit_is_named_in_the_message)
{
	struct rlimit limit = { 3 * MIB, 3 * MIB };
	struct ka_heap *heap = make(256 * MIB, 0, KA_FORK_COW);
	struct io_uring ring;
	int err;

	if (geteuid())
		SKIP(return, "needs root to become nobody");
	if (!can_register())
		SKIP(return, "no fixed buffers in a heap on this kernel");
	ASSERT_NE(NULL, heap);
	ASSERT_NE(NULL, ka_run_alloc(heap, 2 * MIB, KA_ARENA_SIZE));
	ASSERT_NE(NULL, ka_run_alloc(heap, 2 * MIB, KA_ARENA_SIZE));
	ASSERT_EQ(0, setrlimit(RLIMIT_MEMLOCK, &limit));
	ASSERT_EQ(0, setgroups(0, NULL));
	ASSERT_EQ(0, setgid(NOBODY));
	ASSERT_EQ(0, setuid(NOBODY));
	err = io_uring_queue_init(8, &ring, 0);
	if (err && !on_device())
		SKIP(return, "no io_uring here: %s", strerror(-err));
	ASSERT_EQ(0, err);
	EXPECT_FAILS(ENOMEM, "limit of locked memory",
		     !ka_uring_register(&ring, heap, NULL, 0));
	io_uring_queue_exit(&ring);
	ka_heap_destroy(heap);
}

TEST_F(uring, ranges_must_be_whole_pages_of_the_window)
{
	char *run = ka_run_alloc(self->heap, 2 * MIB, KA_ARENA_SIZE);
	struct karena_range range, next;

	ASSERT_NE(NULL, run);
	ASSERT_EQ(0, ka_uring_range(&range, self->heap, run, 2 * MIB));
	ASSERT_EQ(0, ka_uring_range(&next, self->heap, run + MIB, 4096));
	EXPECT_EQ(2 * MIB, range.length);
	EXPECT_EQ(MIB, next.offset - range.offset);
	EXPECT_EQ(4096, next.length);
	EXPECT_EQ(0, range.result | range.reserved);
	EXPECT_FAILS(EINVAL, "whole pages",
		     ka_uring_range(&range, self->heap, run + 1, 4096));
	EXPECT_FAILS(EINVAL, "whole pages",
		     ka_uring_range(&range, self->heap, run, 4095));
	EXPECT_FAILS(EINVAL, "whole pages", ka_uring_range(&range, self->heap, run, 0));
	EXPECT_FAILS(EINVAL, "window",
		     ka_uring_range(&range, self->heap, run, 512 * MIB));
	EXPECT_FAILS(EINVAL, "window",
		     ka_uring_range(&range, self->heap,
				    (void *)((uintptr_t)&range & -4096UL), 4096));
}

TEST_F(uring, madvise_accepts_whole_pages_below_4_gib)
{
	struct io_uring_sqe sqe;
	char *start = (char *)(uintptr_t)KA_ARENA_SIZE;

	EXPECT_EQ(0, ka_uring_prep_populate(&sqe, start, 4096));
	EXPECT_EQ(IORING_OP_MADVISE, sqe.opcode);
	EXPECT_EQ((uintptr_t)start, sqe.addr);
	EXPECT_EQ(4096, sqe.len);
	EXPECT_EQ(23, sqe.fadvise_advice);
	EXPECT_EQ(0, ka_uring_prep_remove(&sqe, start, ((size_t)4 << 30) - 4096));
	EXPECT_EQ(MADV_REMOVE, sqe.fadvise_advice);
	EXPECT_EQ(0xfffff000, sqe.len);
	EXPECT_FAILS(EINVAL, "4 GiB",
		     ka_uring_prep_populate(&sqe, start, (size_t)4 << 30));
	EXPECT_FAILS(EINVAL, "whole pages", ka_uring_prep_remove(&sqe, start, 0));
	EXPECT_FAILS(EINVAL, "whole pages",
		     ka_uring_prep_remove(&sqe, start + 512, 4096));
}

TEST_F(uring, only_a_heap_on_the_module_has_a_descriptor)
{
	int fd;

	if (on_device()) {
		fd = ka_heap_descriptor(self->heap);
		EXPECT_GE(fd, 0) TH_LOG("%s", ka_error());
		EXPECT_EQ(FD_CLOEXEC, fcntl(fd, F_GETFD));
		close(fd);
	} else {
		EXPECT_FAILS(EOPNOTSUPP, "descriptor",
			     ka_heap_descriptor(self->heap) < 0);
	}
}

#define REQUIRE_DEVICE()						\
	do {								\
		if (!on_device())					\
			SKIP(return, "plain mmap has no descriptor");	\
	} while (0)

TEST_F(uring, memory_of_a_run_can_be_released_and_committed_again)
{
	char *run = ka_run_alloc(self->heap, 6 * MIB, KA_ARENA_SIZE);
	struct ka_uring_call call;
	struct karena_range ranges[2];
	int fd;

	REQUIRE_DEVICE();
	fd = ka_heap_descriptor(self->heap);
	ASSERT_GE(fd, 0);
	ASSERT_NE(NULL, run);
	memset(run, 'o', 6 * MIB);
	/* The first arena and the last. */
	ASSERT_EQ(0, ka_uring_range(&ranges[0], self->heap, run, 2 * MIB));
	ASSERT_EQ(0, ka_uring_range(&ranges[1], self->heap, run + 4 * MIB, 2 * MIB));
	ka_uring_prep_release(io_uring_get_sqe(&self->ring), fd, &call, ranges, 2);
	ASSERT_EQ(0, complete(&self->ring));
	EXPECT_EQ(SIGBUS, touch(run));
	EXPECT_EQ(0, count_other(run + 2 * MIB, 2 * MIB, 'o'));
	EXPECT_EQ(SIGBUS, touch(run + 4 * MIB));
	ka_uring_prep_commit(io_uring_get_sqe(&self->ring), fd, &call, ranges, 2);
	ASSERT_EQ(0, complete(&self->ring));
	EXPECT_EQ(0, count_other(run, 2 * MIB, 0));
	EXPECT_EQ(0, count_other(run + 2 * MIB, 2 * MIB, 'o'));
	EXPECT_EQ(0, count_other(run + 4 * MIB, 2 * MIB, 0));
	EXPECT_EQ(0, ranges[0].result | ranges[1].result);
	/* An invalid range fails, and the others succeed. */
	ranges[0].reserved = 1;
	ka_uring_prep_release(io_uring_get_sqe(&self->ring), fd, &call, ranges, 2);
	EXPECT_EQ(-EINVAL, complete(&self->ring));
	EXPECT_EQ(-EINVAL, ranges[0].result);
	EXPECT_EQ(0, ranges[1].result);
	EXPECT_EQ(0, touch(run));
	EXPECT_EQ(SIGBUS, touch(run + 4 * MIB));
	close(fd);
}

/* Also if a request must wait for one that it is linked to. */
TEST_F(uring, entry_can_be_reused_at_once)
{
	char *run = ka_run_alloc(self->heap, 32 * MIB, KA_ARENA_SIZE);
	struct karena_range ranges[16];
	struct ka_uring_call calls[16];
	struct io_uring_cqe *cqe;
	struct io_uring small;
	int fd;

	REQUIRE_DEVICE();
	fd = ka_heap_descriptor(self->heap);
	ASSERT_GE(fd, 0);
	ASSERT_NE(NULL, run);
	ASSERT_EQ(0, ka_uring_prep_remove(io_uring_get_sqe(&self->ring), run, 32 * MIB));
	ASSERT_EQ(0, complete(&self->ring));
	ASSERT_EQ(0, io_uring_queue_init(2, &small, 0));
	for (int i = 0; i < 16; i++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&small);

		ASSERT_EQ(0, ka_uring_range(&ranges[i], self->heap, run + i * 2 * MIB,
					    2 * MIB));
		ka_uring_prep_commit(sqe, fd, &calls[i], &ranges[i], 1);
		sqe->flags |= i % 2 ? 0 : IOSQE_IO_LINK;
		ASSERT_EQ(i % 2 ? 2 : 0, i % 2 ? io_uring_submit(&small) : 0);
	}
	for (int i = 0; i < 16; i++) {
		ASSERT_EQ(0, io_uring_wait_cqe(&small, &cqe));
		EXPECT_EQ(0, cqe->res);
		io_uring_cqe_seen(&small, cqe);
	}
	for (int i = 0; i < 16; i++)
		EXPECT_EQ(0, touch(run + i * 2 * MIB));
	io_uring_queue_exit(&small);
	close(fd);
}

TEST_F(uring, frames_can_be_kept_ready)
{
	struct ka_uring_call call;
	unsigned int ready = 0;
	int fd;

	REQUIRE_DEVICE();
	fd = ka_heap_descriptor(self->heap);
	ASSERT_GE(fd, 0);
	for (int i = 0; i < 1000 && ready != 3; i++) {
		ka_uring_prep_ready(io_uring_get_sqe(&self->ring), fd, &call, 3,
				    KARENA_NODE_ANY);
		ASSERT_EQ(0, complete(&self->ring));
		ready = ka_uring_ready(&call);
		usleep(10000);
	}
	EXPECT_EQ(3, ready);
	ka_uring_prep_ready(io_uring_get_sqe(&self->ring), fd, &call, 1000000,
			    KARENA_NODE_ANY);
	EXPECT_EQ(-EINVAL, complete(&self->ring));
	close(fd);
}

TEST_F(uring, run_is_populated_and_removed_without_a_descriptor)
{
	char *run = ka_run_alloc(self->heap, 4 * MIB, KA_ARENA_SIZE);
	long before, after;

	NOT_WITH_SANITIZERS();
	ASSERT_NE(NULL, run);
	before = resident();
	ASSERT_EQ(0, ka_uring_prep_populate(io_uring_get_sqe(&self->ring), run,
					    4 * MIB));
	ASSERT_EQ(0, complete(&self->ring));
	after = resident();
	/* On the module, the allocation has already populated it. */
	EXPECT_GE(after - before, on_device() ? 0 : 4 * (long)MIB);
	ASSERT_EQ(0, ka_uring_prep_remove(io_uring_get_sqe(&self->ring), run, 2 * MIB));
	if (on_device()) {
		EXPECT_EQ(0, complete(&self->ring));
		EXPECT_EQ(SIGBUS, touch(run));
		EXPECT_EQ(0, touch(run + 2 * MIB));
	} else {
		EXPECT_EQ(-EINVAL, complete(&self->ring));
		EXPECT_EQ(0, touch(run));
	}
}

TEST_HARNESS_MAIN
