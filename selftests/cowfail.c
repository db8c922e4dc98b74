// SPDX-License-Identifier: GPL-2.0
/*
 * Limits of copy-on-write: which process is charged for a copy, what happens without memory
 * for one, and pages that must stay in place because they are pinned.
 */
#include <liburing.h>
#include <linux/if_xdp.h>
#include <sys/uio.h>

#include "cow.h"
#include "faults.h"

FIXTURE(cowfail) {
	struct balance before;
	struct heap heap;
};

FIXTURE_SETUP(cowfail)
{
	REQUIRE_MODULE();
	ASSERT_EQ(0, begin(&self->before, &self->heap));
}

FIXTURE_TEARDOWN(cowfail)
{
	family_end();
	heap_destroy(&self->heap);
	EXPECT_BALANCE(&self->before);
}

/* Charges, and lack of memory. */
static long enter_group(struct heap *heap, long a, long b, long c)
{
	(void)heap, (void)a, (void)b, (void)c;
	return group_enter() ? 0 : -EPERM;
}

TEST_F(cowfail, copy_is_charged_to_the_writer)
{
	long before;

	ASSERT_EQ(0, group_make());
	ASSERT_EQ(0, bear(PARENT, CHILD));
	ASSERT_EQ(0, ask(CHILD, enter_group, 0, 0, 0));
	ASSERT_EQ(0, ask(CHILD, spoiled, 0, 0, 0));
	before = group_stat("memory.current", NULL);
	EXPECT_LT(before, (long)ARENA);
	/* Copies of the parent are not charged to the child. */
	EXPECT_EQ(0, ask(PARENT, mark, 512, 400, 'q'));
	EXPECT_LT(group_stat("memory.current", NULL), before + (long)MIB);
	EXPECT_EQ(0, ask(CHILD, mark, 0, 400, 'c'));
	EXPECT_GE(group_stat("memory.current", NULL), before + 300 * (long)PAGE);
	EXPECT_LT(group_stat("memory.current", NULL), before + 700 * (long)PAGE);
	EXPECT_EQ(0, end(CHILD));
	EXPECT_EQ(0, group_remove());
}

/*
 * The kernel logs each process that the OOM killer kills. This test provokes that, so keep
 * the messages from the console, where they count as a failure.
 */
static bool kernel_talks(bool talks)
{
	static char before[64];

	if (!talks && read_text("/proc/sys/kernel/printk", before, sizeof(before)))
		return false;
	return !write_text("/proc/sys/kernel/printk", talks ? before : "1\n");
}

TEST_F_TIMEOUT(cowfail, without_memory_for_a_copy_only_the_writer_ends, SLOW)
{
	struct heap *heap = &self->heap;
	long result;

	ASSERT_EQ(0, commit(heap, 3, 5, 0));
	ASSERT_EQ(0, mark(heap, 3 * PAGES, 5 * PAGES, 'p'));
	ASSERT_EQ(0, group_make());
	ASSERT_EQ(0, group_limit(4 * MIB));
	ASSERT_EQ(0, bear(PARENT, CHILD));
	ASSERT_EQ(0, bear(CHILD, GRANDCHILD));
	ASSERT_EQ(0, ask(CHILD, mark, 500, 24, 'c'));
	ASSERT_EQ(0, bear(CHILD, GREATGRANDCHILD));
	ASSERT_EQ(0, ask(CHILD, enter_group, 0, 0, 0));
	ASSERT_TRUE(kernel_talks(false));
	result = ask(CHILD, mark, 3 * PAGES, 5 * PAGES, 'x');
	EXPECT_TRUE(kernel_talks(true));
	TH_LOG("the writer %s", result == DEAD ? "was killed" : "got a signal");
	EXPECT_TRUE(result == DEAD || result == -SIGBUS);
	EXPECT_EQ(result == DEAD ? 128 + SIGKILL : 0, end(CHILD));

	EXPECT_EQ(0, ask(PARENT, spoiled, 0, 0, 0));
	EXPECT_EQ(0, ask(PARENT, unlike, 3 * PAGES, 5 * PAGES, 'p'));
	EXPECT_EQ(0, ask(GRANDCHILD, unlike, 0, 2 * PAGES, 'p'));
	EXPECT_EQ(0, ask(GRANDCHILD, unlike, 3 * PAGES, 5 * PAGES, 'p'));
	EXPECT_EQ(0, ask(GREATGRANDCHILD, unlike, 500, 24, 'c'));
	EXPECT_EQ(0, ask(GREATGRANDCHILD, unlike, 524, 500, 'p'));
	EXPECT_EQ(0, ask(GREATGRANDCHILD, mark, 3 * PAGES, 5 * PAGES, 'g'));
	EXPECT_EQ(0, ask(PARENT, unlike, 3 * PAGES, 5 * PAGES, 'p'));
	EXPECT_EQ(0, group_remove());
}

/* Fault injection: each allocation fails once, as in inject.c. */

/* Above the number of allocations in a fork. */
#define MOST_FAULTS	3000

/*
 * Write to pages while allocations fail. Each write succeeds or raises a signal. Return the
 * number of other outcomes.
 */
static long copy_with_faults(struct heap *heap, long first, long count, long mark)
{
	int nth = nth_open(), number = 1;
	long wrong = nth < 0, signals = 0;

	for (long i = first; i < first + count; i++, number++) {
		long offset = i * PAGE + 5, ret;
		bool failed;

		wrong += !nth_arm(nth, number);
		ret = poke(heap, offset, mark, 0);
		failed = nth_disarm(nth);
		wrong += ret != 0 && ret != -SIGBUS;
		wrong += ret && !failed;
		signals += ret != 0;
		/* Now allocations succeed. */
		wrong += poke(heap, offset, mark, 0) != 0;
		wrong += peek(heap, offset, 0, 0) != mark;
		wrong += (char)peek(heap, offset + 1, 0, 0) != byte_of(i, 'p');
		/* Start again with the first allocation, on another page. */
		if (!failed)
			number = 0;
	}
	close(nth);
	return wrong ? -wrong : signals;
}

/* After a fork with a failed allocation, the child has all of the heap or nothing. */
static int child_of_a_fault(struct heap *heap)
{
	long there = PAGES - unlike(heap, 0, PAGES, 'p');

	if (!there)
		return failing(heap, 0, PAGES, SIGBUS) == PAGES ? 0 : 1;
	if (unlike(heap, 0, 2 * PAGES, 'p') || unlike(heap, SPARSE, 20, 'p'))
		return 2;
	return mark(heap, 50, 100, 'c') || unlike(heap, 50, 100, 'c') ? 3 : 0;
}

static void fork_with_faults(struct __test_metadata *_metadata, struct heap *heap)
{
	int nth = nth_open(), number, failures = 0;
	double until = seconds() + 300;
	bool failed = true;

	for (number = 1; number < MOST_FAULTS && failed; number++) {
		pid_t pid;

		ASSERT_TRUE(nth_arm(nth, number));
		pid = fork();
		if (!pid)
			_exit(child_of_a_fault(heap));
		failed = nth_disarm(nth);
		failures += pid < 0;
		if (pid > 0)
			EXPECT_EQ(0, child_status(pid));
		EXPECT_EQ(0, unlike(heap, number % PAGES, 1, 'p'));
		if (seconds() > until)
			break;
	}
	close(nth);
	TH_LOG("%d faults%s, %d failed forks", number - 1,
	       failed ? " and no more time" : "", failures);
	EXPECT_GT(failures, 0);
	EXPECT_LT(number, MOST_FAULTS);
	EXPECT_EQ(0, spoiled(heap, 0, 0, 0));
}

TEST_F_TIMEOUT(cowfail, each_allocation_in_fork_and_copy_may_fail, 600)
{
	if (!faults_possible())
		SKIP(return, "the kernel has no fault injection");
	ASSERT_TRUE(knobs_turn());
	fork_with_faults(_metadata, &self->heap);
	ASSERT_EQ(0, bear(PARENT, CHILD));
	EXPECT_GE(ask(CHILD, copy_with_faults, 0, 2 * PAGES, 'c'), 0);
	EXPECT_GE(ask(CHILD, copy_with_faults, SPARSE, 20, 'c'), 0);
	EXPECT_EQ(0, ask(PARENT, spoiled, 0, 0, 0));
	EXPECT_EQ(0, ask(CHILD, release, 0, 2, 0));
	ASSERT_EQ(0, bear(PARENT, GRANDCHILD));
	EXPECT_GE(ask(PARENT, copy_with_faults, 0, 2 * PAGES, 'q'), 0);
	EXPECT_EQ(0, ask(GRANDCHILD, spoiled, 0, 0, 0));
	EXPECT_TRUE(knobs_turn_back());
}

/* A pipe holds references without pins, and must keep the data that the pages had. */
TEST_F_TIMEOUT(cowfail, pages_in_a_pipe_keep_their_content, SLOW)
{
	static const long numbers[] = { 5, SPARSE + 5 };
	struct heap *heap = &self->heap;

	for (int i = 0; i < ARRAY_SIZE(numbers); i++) {
		struct iovec vector = { page_at(heap, numbers[i]), PAGE };
		char copy[PAGE];
		int pipes[2];

		ASSERT_EQ(0, pipe(pipes));
		ASSERT_EQ(PAGE, vmsplice(pipes[1], &vector, 1, 0));
		ASSERT_EQ(0, bear(PARENT, CHILD));
		EXPECT_EQ(0, ask(CHILD, mark, numbers[i], 1, 'c'));
		EXPECT_EQ(0, release(heap, numbers[i] / PAGES, 1, 0));
		EXPECT_EQ(0, ask(CHILD, mark, numbers[i], 1, 'd'));
		EXPECT_EQ(0, ask(CHILD, commit, 4, 4, 0));
		EXPECT_EQ(0, ask(CHILD, mark, 4 * PAGES, 4 * PAGES, 'e'));
		ASSERT_EQ(PAGE, read(pipes[0], copy, PAGE));
		EXPECT_EQ(0, count_other(copy, PAGE, byte_of(numbers[i], 'p')));
		EXPECT_EQ(0, ask(CHILD, unlike, numbers[i], 1, 'd'));
		close(pipes[0]);
		close(pipes[1]);
		EXPECT_EQ(0, end(CHILD));
	}
}

/* Pins: pages that a device may write to stay in place and stay with the parent. */
FIXTURE(pinned) {
	struct balance before;
	struct heap heap;
	struct io_uring ring;
	int umem;
	int input;
};

FIXTURE_VARIANT(pinned) {
	bool ring;	/* fixed buffers of io_uring; else AF_XDP packet memory */
	long first;
	long count;
};

FIXTURE_VARIANT_ADD(pinned, huge_by_io_uring) {
	.ring = true, .first = 0, .count = 512,
};

FIXTURE_VARIANT_ADD(pinned, sparse_by_io_uring) {
	.ring = true, .first = 2 * 512 + 14, .count = 4,
};

FIXTURE_VARIANT_ADD(pinned, huge_by_a_packet_socket) {
	.first = 0, .count = 512,
};

FIXTURE_VARIANT_ADD(pinned, sparse_by_a_packet_socket) {
	.first = 2 * 512 + 14, .count = 4,
};

FIXTURE_SETUP(pinned)
{
	char data[PAGE];

	REQUIRE_MODULE();
	ASSERT_EQ(0, begin(&self->before, &self->heap));
	self->umem = -1;
	self->input = memfd_create("karena-cow", MFD_CLOEXEC);
	ASSERT_GE(self->input, 0);
	memset(data, 'i', PAGE);
	for (long i = 0; i < variant->count; i++)
		ASSERT_EQ(PAGE, pwrite(self->input, data, PAGE, i * PAGE));
	ASSERT_EQ(0, io_uring_queue_init(8, &self->ring, 0));
}

FIXTURE_TEARDOWN(pinned)
{
	family_end();
	io_uring_queue_exit(&self->ring);
	if (self->umem >= 0)
		close(self->umem);
	close(self->input);
	heap_destroy(&self->heap);
	EXPECT_BALANCE(&self->before);
}

/* Pin the pages until the ring or the socket is closed. Return 0 or -errno. */
static int pin(FIXTURE_DATA(pinned) *self, const FIXTURE_VARIANT(pinned) *variant)
{
	struct iovec buffer = {
		page_at(&self->heap, variant->first), variant->count * PAGE
	};
	struct xdp_umem_reg area = {
		.addr = (uintptr_t)buffer.iov_base, .len = buffer.iov_len,
		.chunk_size = PAGE,
	};

	if (variant->ring)
		return io_uring_register_buffers(&self->ring, &buffer, 1);
	self->umem = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
	if (self->umem < 0)
		return -errno;
	return setsockopt(self->umem, SOL_XDP, XDP_UMEM_REG, &area, sizeof(area)) ?
	       -errno : 0;
}

#define REQUIRE_PIN()							\
	do {								\
		int _err = pin(self, variant);				\
									\
		/* Linux 6.1 cannot register file memory; some lack AF_XDP. */ \
		if (_err == -EOPNOTSUPP || _err == -EAFNOSUPPORT)	\
			SKIP(return, "the kernel cannot pin such memory in this way"); \
		ASSERT_EQ(0, _err);					\
	} while (0)

/* The physical page frame, or 0. */
static uint64_t frame_at(struct heap *heap, long number)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry = 0;

	if (pread(fd, &entry, sizeof(entry),
		  (uintptr_t)page_at(heap, number) / PAGE * 8) != sizeof(entry))
		entry = 0;
	close(fd);
	return entry >> 63 ? entry & ((1ULL << 55) - 1) : 0;
}

/* Read from the file into the pinned pages. Return the number of bytes, or -errno. */
static int input_arrives(FIXTURE_DATA(pinned) *self,
			 const FIXTURE_VARIANT(pinned) *variant)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&self->ring);
	struct io_uring_cqe *cqe;
	int ret;

	io_uring_prep_read_fixed(sqe, self->input, page_at(&self->heap, variant->first),
				 variant->count * PAGE, 0, 0);
	ret = io_uring_submit(&self->ring);
	if (ret == 1)
		ret = io_uring_wait_cqe(&self->ring, &cqe);
	if (ret)
		return ret < 0 ? ret : -EPROTO;
	ret = cqe->res;
	io_uring_cqe_seen(&self->ring, cqe);
	return ret;
}

TEST_F_TIMEOUT(pinned, pinned_page_stays_with_the_parent_and_the_child_gets_a_copy, SLOW)
{
	const long first = variant->first, count = variant->count;
	struct heap *heap = &self->heap;
	uint64_t frames[2];

	REQUIRE_PIN();
	frames[0] = frame_at(heap, first);
	frames[1] = frame_at(heap, first + count - 1);
	ASSERT_NE(0, frames[0]);
	ASSERT_EQ(0, bear(PARENT, CHILD));
	ASSERT_EQ(0, bear(CHILD, GRANDCHILD));
	EXPECT_EQ(count, stat_of(CHILD, "copies"));
	EXPECT_EQ(0, ask(PARENT, mark, first, count, 'q'));
	EXPECT_EQ(frames[0], frame_at(heap, first));
	EXPECT_EQ(frames[1], frame_at(heap, first + count - 1));
	EXPECT_EQ(0, stat_of(PARENT, "copies"));
	EXPECT_EQ(0, ask(CHILD, spoiled, 0, 0, 0));
	EXPECT_EQ(0, ask(GRANDCHILD, spoiled, 0, 0, 0));
	if (variant->ring) {
		ASSERT_EQ(count * PAGE, input_arrives(self, variant));
		EXPECT_EQ(0, count_other(page_at(heap, first), count * PAGE, 'i'));
		EXPECT_EQ(0, ask(CHILD, spoiled, 0, 0, 0));
	}
	EXPECT_EQ(0, ask(CHILD, mark, 0, 2 * PAGES, 'c'));
	EXPECT_EQ(0, ask(CHILD, mark, SPARSE, 20, 'c'));
	EXPECT_EQ(0, ask(CHILD, unlike, 0, 2 * PAGES, 'c'));
	EXPECT_EQ(0, ask(CHILD, unlike, SPARSE, 20, 'c'));
	EXPECT_EQ(0, ask(GRANDCHILD, spoiled, 0, 0, 0));
	/* Pages that are not pinned are shared as usual. */
	EXPECT_EQ(0, ask(PARENT, unlike, PAGES, PAGES, 'p'));
}

/* Even if the pinned pages were released, no other process gets the input. */
TEST_F_TIMEOUT(pinned, late_input_reaches_no_other_process, SLOW)
{
	const long first = variant->first, count = variant->count;
	struct heap *heap = &self->heap;

	REQUIRE_PIN();
	ASSERT_EQ(0, bear(PARENT, CHILD));
	ASSERT_EQ(0, release(heap, 0, 3, 0));
	EXPECT_GT(module_stat("pinned_orphans"), 0);
	EXPECT_EQ(0, ask(CHILD, spoiled, 0, 0, 0));
	EXPECT_EQ(0, ask(CHILD, commit, 3, 5, 0));
	if (variant->ring)
		ASSERT_EQ(count * PAGE, input_arrives(self, variant));
	EXPECT_EQ(0, ask(CHILD, spoiled, 0, 0, 0));
	EXPECT_EQ(0, ask(CHILD, nonzero, 3 * PAGES, 5 * PAGES, 0));
	EXPECT_EQ(0, ask(CHILD, mark, first, count, 'c'));
	EXPECT_EQ(0, end(CHILD));
}

/*
 * After its first fork a heap no longer accepts long-term pins (fixed buffers since 6.5).
 */
TEST_F(pinned, forked_heap_refuses_long_term_pins)
{
	int err = pin(self, variant);

	if (err == -EOPNOTSUPP || err == -EAFNOSUPPORT)
		SKIP(return, "the kernel cannot pin such memory in this way");
	ASSERT_EQ(0, err);
	EXPECT_EQ(0, variant->ring ? io_uring_unregister_buffers(&self->ring) :
		  close(self->umem));
	self->umem = -1;
	ASSERT_EQ(0, bear(PARENT, CHILD));
	EXPECT_EQ(0, ask(CHILD, spoiled, 0, 0, 0));
	err = pin(self, variant);
	if (!err) {
		/* Linux 6.1 accepts the pin. Then the pages belong to this process only. */
		EXPECT_EQ(0, ask(CHILD, mark, variant->first, variant->count, 'c'));
		EXPECT_EQ(0, ask(PARENT, spoiled, 0, 0, 0));
		EXPECT_EQ(0, ask(PARENT, mark, variant->first, variant->count, 'q'));
		EXPECT_EQ(0, ask(CHILD, unlike, variant->first, variant->count, 'c'));
	}
}

TEST_HARNESS_MAIN
