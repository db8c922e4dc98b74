// SPDX-License-Identifier: GPL-2.0
/*
 * The calls on a heap through io_uring: results and errors are those of the ioctl, a worker
 * does the work, and nothing is left behind when a ring, process or heap ends while
 * requests are in flight.
 */
#include <liburing.h>
#include <pthread.h>
#include <sys/mount.h>
#include <sys/syscall.h>

#include "child.h"

#define NR		64	/* arenas */
#define ENTRIES		64
#define TRACING		"/sys/kernel/tracing"
#define COMMIT_EVENT	TRACING "/events/karena/karena_commit"
#define AHEAD		PARAMETERS "/ahead"

#ifndef SYS_pidfd_open
#define SYS_pidfd_open	434
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd	438
#endif
#ifndef IORING_SETUP_DEFER_TASKRUN
#define IORING_SETUP_DEFER_TASKRUN	(1U << 13)
#endif

static struct io_uring_sqe *prep_reserved(struct io_uring *ring, int fd,
					  unsigned int cmd, uint64_t args,
					  uint64_t reserved)
{
	struct karena_uring command = { .arg = args, .reserved = reserved };
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

	io_uring_prep_rw(IORING_OP_URING_CMD, sqe, fd, NULL, 0, 0);
	sqe->cmd_op = cmd;
	memcpy(sqe->cmd, &command, sizeof(command));
	return sqe;
}

static struct io_uring_sqe *prep(struct io_uring *ring, int fd, unsigned int cmd,
				 const void *args)
{
	return prep_reserved(ring, fd, cmd, (uintptr_t)args, 0);
}

/* Wait up to a minute for a completion. Return its result, and its user data in @data. */
static int reap(struct io_uring *ring, uint64_t *data)
{
	struct __kernel_timespec minute = { .tv_sec = 60 };
	struct io_uring_cqe *cqe;
	int result = io_uring_wait_cqe_timeout(ring, &cqe, &minute);

	if (result)
		return result;
	result = cqe->res;
	if (data)
		*data = cqe->user_data;
	io_uring_cqe_seen(ring, cqe);
	return result;
}

/*
 * Submit the prepared entries. With a polling thread, the result of io_uring_submit() counts
 * the entries that the thread has not consumed yet.
 */
static int submit(struct io_uring *ring, int count)
{
	int ret = io_uring_submit(ring);

	if (ret < 0)
		return ret;
	return ret == count || ring->flags & IORING_SETUP_SQPOLL ? 0 : -EPROTO;
}

/* Submit the one prepared entry and wait for it. */
static int complete(struct io_uring *ring)
{
	return submit(ring, 1) ?: reap(ring, NULL);
}

static int uring_call(struct io_uring *ring, const struct heap *heap,
		      unsigned int cmd, void *args)
{
	prep(ring, heap->fd, cmd, args);
	return complete(ring);
}

/* A call with one range. It must stay in place until the request completes. */
struct request {
	struct karena_ranges list;
	struct karena_range range;
};

static void request_set(struct request *request, uint64_t offset, uint64_t length)
{
	request->range = (struct karena_range){ .offset = offset, .length = length };
	request->list = (struct karena_ranges){
		.size = sizeof(request->list),
		.ranges = (uintptr_t)&request->range,
		.nr = 1,
	};
}

static struct io_uring_sqe *prep_arenas(struct io_uring *ring,
					const struct heap *heap, unsigned int cmd,
					struct request *request, size_t first,
					size_t count)
{
	request_set(request, first * ARENA, count * ARENA);
	return prep(ring, heap->fd, cmd, &request->list);
}

static int uring_arenas(struct io_uring *ring, const struct heap *heap,
			unsigned int cmd, size_t first, size_t count)
{
	struct request request;

	prep_arenas(ring, heap, cmd, &request, first, count);
	return complete(ring);
}

/* Submit @count requests, one for each arena from @first on. */
static int submit_each(struct io_uring *ring, const struct heap *heap,
		       unsigned int cmd, struct request *requests, size_t first,
		       size_t count)
{
	for (size_t i = 0; i < count; i++)
		prep_arenas(ring, heap, cmd, &requests[i], first + i, 1);
	return submit(ring, count);
}

/* Count the requests that did not return 0. */
static int reap_failed(struct io_uring *ring, size_t count)
{
	int failed = 0;

	while (count--)
		failed += reap(ring, NULL) != 0;
	return failed;
}

FIXTURE(uringcmd) {
	struct heap heap;
	struct io_uring ring;
	long nr_heaps;
	long committed;
};

FIXTURE_SETUP(uringcmd)
{
	struct karena_info info = { .size = sizeof(info) };

	REQUIRE_MODULE();
	ASSERT_EQ(0, device_call(KARENA_INFO, &info));
	ASSERT_TRUE(info.features & KARENA_FEATURE_URING);
	self->nr_heaps = module_stat("nr_heaps");
	self->committed = module_stat("committed");
	ASSERT_EQ(0, heap_open(&self->heap, NR * ARENA, 0));
	ASSERT_EQ(0, io_uring_queue_init(ENTRIES, &self->ring, 0));
}

FIXTURE_TEARDOWN(uringcmd)
{
	io_uring_queue_exit(&self->ring);
	heap_destroy(&self->heap);
	EXPECT_TRUE(module_stat_becomes("nr_heaps", self->nr_heaps));
	EXPECT_TRUE(module_stat_becomes("committed", self->committed));
}

/* A range for each result: arenas, pages, four invalid ones, a volatile one, arenas. */
static const struct karena_range mixed[] = {
	{ .offset = 0, .length = 2 * ARENA },
	{ .offset = 2 * ARENA + PAGE, .length = 3 * PAGE },
	{ .offset = PAGE / 2, .length = PAGE },
	{ .offset = 3 * ARENA, .length = 0 },
	{ .offset = NR * ARENA, .length = PAGE },
	{ .offset = 4 * ARENA, .length = ARENA, .reserved = 1 },
	{ .offset = 5 * ARENA, .length = ARENA },
	{ .offset = 6 * ARENA - PAGE, .length = 2 * ARENA },
};

#define NR_MIXED	(sizeof(mixed) / sizeof(*mixed))

/* Return true if both heaps have the same committed memory and state words. */
static bool same(const struct heap *a, const struct heap *b)
{
	for (size_t i = 0; i < NR; i++) {
		if ((state(a, i) & 15) != (state(b, i) & 15))
			return false;
	}
	return heap_stat(a, "committed") == heap_stat(b, "committed") &&
	       heap_stat(a, "sparse_pages") == heap_stat(b, "sparse_pages");
}

TEST_F(uringcmd, every_range_has_the_result_of_the_ioctl)
{
	static const unsigned int cmds[] = {
		KARENA_COMMIT, KARENA_RELEASE, KARENA_COMMIT, KARENA_COMMIT
	};
	static const int expected[] = { 0, 0, -EINVAL, -EINVAL, -EINVAL, -EINVAL, -EBUSY };
	struct karena_range ranges[NR_MIXED];
	struct karena_ranges list = {
		.size = sizeof(list), .ranges = (uintptr_t)ranges, .nr = NR_MIXED
	};
	struct heap twin;

	ASSERT_EQ(0, heap_open(&twin, NR * ARENA, 0));
	for (int i = 0; i < 4; i++) {
		struct karena_range twins[NR_MIXED];
		int err;

		if (state(&twin, 5) != KARENA_FREE || !i) {
			ASSERT_EQ(0, heap_release(&twin, 5, 1));
			ASSERT_EQ(0, heap_release(&self->heap, 5, 1));
		}
		ASSERT_EQ(0, heap_commit(&twin, 5, 1));
		ASSERT_EQ(0, heap_commit(&self->heap, 5, 1));
		make_volatile(&twin, 5);
		make_volatile(&self->heap, 5);
		memcpy(twins, mixed, sizeof(mixed));
		memcpy(ranges, mixed, sizeof(mixed));
		err = heap_ranges(&twin, cmds[i], twins, NR_MIXED);
		EXPECT_EQ(err, uring_call(&self->ring, &self->heap, cmds[i], &list));
		EXPECT_EQ(-EINVAL, err);
		EXPECT_EQ(0, memcmp(twins, ranges, sizeof(ranges)));
		EXPECT_TRUE(same(&twin, &self->heap));
		for (int j = 0; cmds[i] == KARENA_COMMIT && j < 7; j++)
			EXPECT_EQ(expected[j], ranges[j].result);
	}
	EXPECT_EQ(0, touch(arena(&self->heap, 1) + ARENA - 1));
	EXPECT_EQ(0, touch(arena(&self->heap, 2) + PAGE));
	EXPECT_EQ(SIGBUS, touch(arena(&self->heap, 2)));
	heap_destroy(&twin);
}

TEST_F(uringcmd, limits_and_ready_frames_can_be_set_and_read)
{
	struct karena_limit limit = {
		.size = sizeof(limit),
		.flags = KARENA_LIMIT_HARD | KARENA_LIMIT_SOFT,
		.hard = 10 * ARENA,
		.soft = 5 * ARENA,
	};
	struct karena_limit by_ioctl = { .size = sizeof(by_ioctl) };
	struct karena_ready ready = {
		.size = sizeof(ready), .count = 3, .node = KARENA_NODE_ANY
	};
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, uring_call(&self->ring, heap, KARENA_LIMIT, &limit));
	ASSERT_EQ(0, heap_call(heap, KARENA_LIMIT, &by_ioctl));
	EXPECT_EQ(10 * ARENA, by_ioctl.hard);
	EXPECT_EQ(5 * ARENA, by_ioctl.soft);
	limit = by_ioctl;
	limit.hard = 0;
	ASSERT_EQ(0, uring_call(&self->ring, heap, KARENA_LIMIT, &limit));
	EXPECT_EQ(10 * ARENA, limit.hard);
	limit.flags = KARENA_LIMIT_HARD;
	limit.hard = PAGE;
	EXPECT_EQ(-EINVAL, uring_call(&self->ring, heap, KARENA_LIMIT, &limit));

	for (int i = 0; i < 1000 && ready.ready != 3; i++) {
		ASSERT_EQ(0, uring_call(&self->ring, heap, KARENA_READY, &ready));
		usleep(10000);
	}
	EXPECT_EQ(3, ready.ready);
	ready.count = NR + 1;
	EXPECT_EQ(-EINVAL, uring_call(&self->ring, heap, KARENA_READY, &ready));
	ready.count = 0;
	EXPECT_EQ(0, uring_call(&self->ring, heap, KARENA_READY, &ready));
	EXPECT_EQ(0, ready.ready);
}

TEST_F(uringcmd, at_the_limit_the_other_ranges_fail_with_enomem)
{
	struct karena_limit limit = {
		.size = sizeof(limit), .flags = KARENA_LIMIT_HARD, .hard = 4 * ARENA
	};
	struct karena_range ranges[6] = {};
	struct karena_ranges list = {
		.size = sizeof(list), .ranges = (uintptr_t)ranges, .nr = 6
	};

	ASSERT_EQ(0, heap_call(&self->heap, KARENA_LIMIT, &limit));
	for (int i = 0; i < 6; i++) {
		ranges[i].offset = i * ARENA;
		ranges[i].length = ARENA;
	}
	EXPECT_EQ(-ENOMEM, uring_call(&self->ring, &self->heap, KARENA_COMMIT, &list));
	for (int i = 0; i < 6; i++)
		EXPECT_EQ(i < 4 ? 0 : -ENOMEM, ranges[i].result);
	/* The part of a range that was committed before the limit stays committed. */
	ASSERT_EQ(0, heap_release(&self->heap, 0, 6));
	EXPECT_EQ(-ENOMEM, uring_arenas(&self->ring, &self->heap, KARENA_COMMIT, 8, 6));
	EXPECT_EQ(0, touch(arena(&self->heap, 11)));
	EXPECT_EQ(SIGBUS, touch(arena(&self->heap, 12)));
	EXPECT_EQ(4 * ARENA, heap_stat(&self->heap, "committed"));
}

TEST_F(uringcmd, invalid_input_is_rejected_as_by_the_ioctl)
{
	struct io_uring *ring = &self->ring;
	int fd = self->heap.fd, device;
	struct karena_info info = { .size = sizeof(info) };
	struct karena_snapshot snapshot = { .size = sizeof(snapshot) };
	struct request request;

#define EXPECT_REFUSED(_errno)						\
	do {								\
		prep(ring, fd, KARENA_COMMIT, &request.list);		\
		EXPECT_EQ(-(_errno), complete(ring));			\
		EXPECT_EQ(-(_errno), heap_call(&self->heap, KARENA_COMMIT, \
					       &request.list));		\
		request_set(&request, 0, ARENA);			\
	} while (0)

	request_set(&request, 0, ARENA);
	request.list.size = 0;
	EXPECT_REFUSED(EINVAL);
	request.list.flags = 1;
	EXPECT_REFUSED(EINVAL);
	request.list.reserved = 1;
	EXPECT_REFUSED(EINVAL);
	request.list.nr = KARENA_RANGES_MAX + 1;
	EXPECT_REFUSED(EINVAL);
	request.list.size = PAGE + 1;
	EXPECT_REFUSED(E2BIG);
	request.list.ranges = 8;
	EXPECT_REFUSED(EFAULT);

	prep(ring, fd, 0, &request.list);
	EXPECT_EQ(-ENOTTY, complete(ring));
	prep(ring, fd, KARENA_SHARE + 1, &request.list);
	EXPECT_EQ(-ENOTTY, complete(ring));
	prep(ring, fd, KARENA_INFO, &info);
	EXPECT_EQ(-ENOTTY, complete(ring));
	/* Calls that return a descriptor do not work through a ring. */
	prep(ring, fd, KARENA_SNAPSHOT, &snapshot);
	EXPECT_EQ(-ENOTTY, complete(ring));
	prep(ring, fd, KARENA_SHARE, &snapshot);
	EXPECT_EQ(-ENOTTY, complete(ring));
	prep_reserved(ring, fd, KARENA_COMMIT, (uintptr_t)&request.list, 1);
	EXPECT_EQ(-EINVAL, complete(ring));
	prep_reserved(ring, fd, KARENA_LIMIT, (uintptr_t)&request.list, 1ULL << 63);
	EXPECT_EQ(-EINVAL, complete(ring));
	for (unsigned int cmd = KARENA_LIMIT; cmd <= KARENA_RELEASE; cmd++) {
		prep(ring, fd, cmd, NULL);
		EXPECT_EQ(-EFAULT, complete(ring));
		prep_reserved(ring, fd, cmd, -PAGE, 0);
		EXPECT_EQ(-EFAULT, complete(ring));
	}
	/* The device itself accepts no requests. */
	device = device_open();
	prep(ring, device, KARENA_INFO, &info);
	EXPECT_EQ(-EOPNOTSUPP, complete(ring));
	close(device);
	EXPECT_EQ(KARENA_FREE, state(&self->heap, 0));
	EXPECT_EQ(self->committed, module_stat("committed"));
}

TEST_F(uringcmd, unwritable_results_are_efault)
{
	struct karena_range *ranges = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
					   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct karena_ranges list = {
		.size = sizeof(list), .ranges = (uintptr_t)ranges, .nr = 2
	};

	ASSERT_NE(MAP_FAILED, ranges);
	ranges[0].length = ARENA;
	ranges[1].offset = ARENA;
	ranges[1].length = ARENA;
	ASSERT_EQ(0, mprotect(ranges, PAGE, PROT_READ));
	EXPECT_EQ(-EFAULT, uring_call(&self->ring, &self->heap, KARENA_COMMIT, &list));
	EXPECT_EQ(KARENA_FREE, state(&self->heap, 1));
	munmap(ranges, PAGE);
}

/* In a child, with a heap of another process. */
static bool refuses_everything(const struct heap *heap)
{
	struct karena_ready ready = {
		.size = sizeof(ready), .count = 1, .node = KARENA_NODE_ANY
	};
	struct karena_limit limit = { .size = sizeof(limit) };
	struct io_uring ring;

	return !io_uring_queue_init(ENTRIES, &ring, 0) &&
	       uring_arenas(&ring, heap, KARENA_COMMIT, 1, 1) == -EPERM &&
	       uring_arenas(&ring, heap, KARENA_RELEASE, 0, 1) == -EPERM &&
	       uring_call(&ring, heap, KARENA_READY, &ready) == -EPERM &&
	       uring_call(&ring, heap, KARENA_LIMIT, &limit) == -EPERM;
}

/* The parent's heap, inherited or through a stolen descriptor. */
static struct heap parents;

static void use_inherited(struct child *child)
{
	(void)child;
	CHECK(refuses_everything(&parents));
}

static void use_stolen(struct child *child)
{
	struct heap heap = {};
	int pid, pidfd;

	pid = hear(child->parent);
	pidfd = syscall(SYS_pidfd_open, pid, 0);
	CHECK(pidfd >= 0);
	heap.fd = syscall(SYS_pidfd_getfd, pidfd, (int)hear(child->parent), 0);
	CHECK(heap.fd >= 0);
	CHECK(refuses_everything(&heap));
}

TEST_F(uringcmd, heap_of_another_process_is_rejected)
{
	struct karena_create create = { .window = 4 * ARENA, .fork = KARENA_FORK_NONE };
	struct child child = {};

	ASSERT_EQ(0, child_start(&child, use_stolen));
	ASSERT_EQ(0, heap_create(&parents, &create));
	ASSERT_EQ(0, heap_commit(&parents, 0, 1));
	EXPECT_EQ(0, in_child(use_inherited));
	tell(child.line, getpid());
	tell(child.line, parents.fd);
	EXPECT_EQ(0, child_end(&child));
	EXPECT_EQ(0, touch(parents.window));
	EXPECT_EQ(ARENA, heap_stat(&parents, "committed"));
	heap_destroy(&parents);
}

static void drive_clone(struct child *child)
{
	struct heap *heap = &parents;
	struct io_uring ring;

	(void)child;
	CHECK(!io_uring_queue_init(ENTRIES, &ring, 0));
	CHECK(!uring_arenas(&ring, heap, KARENA_COMMIT, 1, 1));
	memset(arena(heap, 1), 'c', ARENA);
	CHECK(!count_other(heap->window, ARENA, 'p'));
	CHECK(!uring_arenas(&ring, heap, KARENA_RELEASE, 0, 1));
	CHECK(touch(heap->window) == SIGBUS);
	CHECK(!count_other(arena(heap, 1), ARENA, 'c'));
}

TEST_F(uringcmd, descriptor_in_a_child_refers_to_its_clone)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	memset(heap->window, 'p', ARENA);
	parents = *heap;
	EXPECT_EQ(0, in_child(drive_clone));
	EXPECT_EQ(0, count_other(heap->window, ARENA, 'p'));
	EXPECT_EQ(KARENA_FREE, state(heap, 1));
	EXPECT_EQ(SIGBUS, touch(arena(heap, 1)));
	EXPECT_EQ(ARENA, heap_stat(heap, "committed"));
}

/* Commit and release through a ring with these flags. Return 0, or the line that failed. */
static int works_on(const struct heap *heap, struct io_uring *ring)
{
	if (uring_arenas(ring, heap, KARENA_COMMIT, 0, 4))
		return __LINE__;
	if (touch(arena(heap, 3)) || count_other(arena(heap, 1), ARENA, 0))
		return __LINE__;
	if (uring_arenas(ring, heap, KARENA_RELEASE, 1, 2))
		return __LINE__;
	if (touch(arena(heap, 1)) != SIGBUS || touch(arena(heap, 3)))
		return __LINE__;
	return 0;
}

#define EXPECT_WORKS(_flags)						\
	do {								\
		struct io_uring_params params = { .flags = _flags };	\
		struct io_uring other;					\
									\
		ASSERT_EQ(0, io_uring_queue_init_params(8, &other, &params)); \
		EXPECT_EQ(0, works_on(&self->heap, &other));		\
		io_uring_queue_exit(&other);				\
	} while (0)

TEST_F(uringcmd, rings_of_every_kind_accept_the_calls)
{
	EXPECT_WORKS(0);
	EXPECT_WORKS(IORING_SETUP_SQPOLL);
	EXPECT_WORKS(IORING_SETUP_SQE128);
	EXPECT_WORKS(IORING_SETUP_CQE32);
	EXPECT_WORKS(IORING_SETUP_COOP_TASKRUN);
	EXPECT_WORKS(IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
}

/*
 * Newer kernels run a command in such a ring, if the file needs no polling. The completion
 * wakes nobody, so the program asks for it again and again.
 */
TEST_F(uringcmd, ring_with_iopoll_is_rejected_or_works)
{
	struct request request;
	struct io_uring other;
	int ret;

	ASSERT_EQ(0, io_uring_queue_init(8, &other, IORING_SETUP_IOPOLL));
	prep_arenas(&other, &self->heap, KARENA_COMMIT, &request, 0, 1);
	ASSERT_EQ(1, io_uring_submit(&other));
	for (int i = 0; i < 3000 && !io_uring_cq_ready(&other); i++)
		usleep(10000);
	ret = reap(&other, NULL);
	EXPECT_TRUE(!ret || ret == -EOPNOTSUPP);
	EXPECT_EQ(ret ? SIGBUS : 0, touch(arena(&self->heap, 0)));
	if (!ret)
		EXPECT_EQ(ARENA, heap_stat(&self->heap, "committed"));
	io_uring_queue_exit(&other);
}

TEST_F(uringcmd, registered_file_works)
{
	struct heap *heap = &self->heap;
	struct request request;
	struct io_uring_sqe *sqe;

	ASSERT_EQ(0, io_uring_register_files(&self->ring, &heap->fd, 1));
	close(heap->fd);
	heap->fd = -1;
	request_set(&request, 0, 2 * ARENA);
	sqe = prep(&self->ring, 0, KARENA_COMMIT, &request.list);
	sqe->flags |= IOSQE_FIXED_FILE;
	EXPECT_EQ(0, complete(&self->ring));
	EXPECT_EQ(0, touch(arena(heap, 1)));
}

/* A registered file keeps the heap as a descriptor does. */
TEST_F(uringcmd, registered_file_keeps_the_heap)
{
	struct request request;
	struct io_uring_sqe *sqe;
	struct heap heap;

	ASSERT_EQ(0, heap_open(&heap, 4 * ARENA, 0));
	ASSERT_EQ(0, io_uring_register_files(&self->ring, &heap.fd, 1));
	heap_destroy(&heap);
	EXPECT_EQ(self->nr_heaps + 2, module_stat("nr_heaps"));
	request_set(&request, 0, 2 * ARENA);
	sqe = prep(&self->ring, 0, KARENA_COMMIT, &request.list);
	sqe->flags |= IOSQE_FIXED_FILE;
	EXPECT_EQ(0, complete(&self->ring));
	EXPECT_EQ(self->committed + 2 * ARENA, module_stat("committed"));
	EXPECT_EQ(0, io_uring_unregister_files(&self->ring));
	EXPECT_TRUE(module_stat_becomes("nr_heaps", self->nr_heaps + 1));
	EXPECT_TRUE(module_stat_becomes("committed", self->committed));
}

static bool trace_commits(const struct heap *heap)
{
	char filter[64];
	int trace;

	if (access(TRACING "/events", F_OK))
		mount("tracefs", TRACING, "tracefs", 0, NULL);
	snprintf(filter, sizeof(filter), "heap == %llu", (unsigned long long)heap->id);
	/* O_TRUNC empties the trace. */
	trace = open(TRACING "/trace", O_WRONLY | O_TRUNC | O_CLOEXEC);
	return trace >= 0 && !close(trace) &&
	       !write_text(COMMIT_EVENT "/filter", filter) &&
	       !write_text(COMMIT_EVENT "/enable", "1");
}

/* The thread of a line in the trace: "  a-name-123   [000] ..." */
static pid_t traced_pid(const char *line)
{
	const char *end = strstr(line, " [");

	while (end && end > line && *end != '-')
		end--;
	return end ? atoi(end + 1) : 0;
}

/* Count the commits in the trace, and return how many were made by workers of a ring. */
static int commits_by_workers(int *all)
{
	FILE *trace = fopen(TRACING "/trace", "r");
	int workers = 0;
	char line[512];

	*all = 0;
	while (trace && fgets(line, sizeof(line), trace)) {
		char path[64], name[32];

		if (!strstr(line, "karena_commit: "))
			continue;
		++*all;
		snprintf(path, sizeof(path), "/proc/self/task/%d/comm",
			 traced_pid(line));
		if (!read_text(path, name, sizeof(name)))
			workers += !strncmp(name, "iou-wrk-", 8);
	}
	if (trace)
		fclose(trace);
	write_text(COMMIT_EVENT "/enable", "0");
	write_text(COMMIT_EVENT "/filter", "0");
	return workers;
}

#define EXPECT_WORKERS(_flags)						\
	do {								\
		struct io_uring_params params = { .flags = _flags };	\
		struct io_uring other;					\
		int all;						\
									\
		ASSERT_EQ(0, io_uring_queue_init_params(8, &other, &params)); \
		ASSERT_TRUE(trace_commits(&self->heap));		\
		EXPECT_EQ(0, uring_arenas(&other, &self->heap, KARENA_COMMIT, \
					  0, 8));			\
		EXPECT_EQ(8, commits_by_workers(&all));			\
		EXPECT_EQ(8, all);					\
		io_uring_queue_exit(&other);				\
		ASSERT_EQ(0, heap_release(&self->heap, 0, 8));		\
	} while (0)

TEST_F(uringcmd, workers_commit_and_the_submitter_never_does)
{
	int all;

	/* Commits by an ioctl do not count as those of a worker. */
	ASSERT_TRUE(trace_commits(&self->heap));
	ASSERT_EQ(0, heap_range(&self->heap, KARENA_COMMIT, 0, 8 * ARENA));
	EXPECT_EQ(0, commits_by_workers(&all));
	EXPECT_EQ(8, all);
	ASSERT_EQ(0, heap_release(&self->heap, 0, 8));

	EXPECT_WORKERS(0);
	EXPECT_WORKERS(IORING_SETUP_SQPOLL);
	EXPECT_WORKERS(IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
}

static double seconds(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

TEST_F_TIMEOUT(uringcmd, submitter_clears_no_pages, SLOW)
{
	double cpu, ioctl_cpu, wall, submit_wall;
	struct heap *heap = &self->heap;
	struct request request;
	char ahead[16];
	int ret;

	/* Only the commits themselves may clear frames. */
	ASSERT_EQ(0, read_text(AHEAD, ahead, sizeof(ahead)));
	ASSERT_EQ(0, write_text(AHEAD, "0"));
	cpu = seconds(CLOCK_THREAD_CPUTIME_ID);
	ret = heap_range(heap, KARENA_COMMIT, 0, NR * ARENA);
	ioctl_cpu = seconds(CLOCK_THREAD_CPUTIME_ID) - cpu;
	ret = ret ?: heap_release(heap, 0, NR);

	cpu = seconds(CLOCK_THREAD_CPUTIME_ID);
	wall = seconds(CLOCK_MONOTONIC);
	prep_arenas(&self->ring, heap, KARENA_COMMIT, &request, 0, NR);
	io_uring_submit(&self->ring);
	submit_wall = seconds(CLOCK_MONOTONIC) - wall;
	ret = ret ?: reap(&self->ring, NULL);
	wall = seconds(CLOCK_MONOTONIC) - wall;
	cpu = seconds(CLOCK_THREAD_CPUTIME_ID) - cpu;
	write_text(AHEAD, ahead);

	ASSERT_EQ(0, ret);
	TH_LOG("%d arenas: ioctl %.1f ms; submitter %.2f ms; submit returns after %.1f of %.1f ms",
	       NR, ioctl_cpu * 1e3, cpu * 1e3, submit_wall * 1e3, wall * 1e3);
	EXPECT_LT(cpu * 5, ioctl_cpu);
	EXPECT_LT(submit_wall * 2, wall);
	EXPECT_EQ(0, count_other(heap->window, NR * ARENA, 0));
}

TEST_F(uringcmd, linked_read_finds_the_arena_committed)
{
	struct heap *heap = &self->heap;
	struct request request, too_many;
	struct io_uring_sqe *sqe;
	int disk = open(DISK, O_RDWR | O_DIRECT | O_CLOEXEC);
	char *data = own_memory(ARENA);
	struct karena_limit limit = {
		.size = sizeof(limit), .flags = KARENA_LIMIT_HARD, .hard = 4 * ARENA
	};

	if (disk < 0)
		SKIP(return, "no scratch disk " DISK);
	ASSERT_NE(NULL, data);
	for (size_t i = 0; i < ARENA; i++)
		data[i] = i * 31 + i / PAGE;
	ASSERT_EQ(ARENA, pwrite(disk, data, ARENA, 0));
	ASSERT_EQ(0, heap_call(heap, KARENA_LIMIT, &limit));

	/* Without a commit the read fails. */
	io_uring_prep_read(io_uring_get_sqe(&self->ring), disk, arena(heap, 3), ARENA,
			   0);
	EXPECT_GT(0, complete(&self->ring));

	sqe = prep_arenas(&self->ring, heap, KARENA_COMMIT, &request, 3, 1);
	sqe->flags |= IOSQE_IO_LINK;
	sqe->user_data = 1;
	sqe = io_uring_get_sqe(&self->ring);
	io_uring_prep_read(sqe, disk, arena(heap, 3), ARENA, 0);
	sqe->user_data = 2;
	ASSERT_EQ(2, io_uring_submit(&self->ring));
	for (int i = 1; i <= 2; i++) {
		uint64_t which;
		int result = reap(&self->ring, &which);

		EXPECT_EQ(i, which);
		EXPECT_EQ(i == 1 ? 0 : (int)ARENA, result);
	}
	EXPECT_EQ(0, memcmp(data, arena(heap, 3), ARENA));

	/* A failed commit cancels the linked read. */
	sqe = prep_arenas(&self->ring, heap, KARENA_COMMIT, &too_many, 8, 8);
	sqe->flags |= IOSQE_IO_LINK;
	sqe->user_data = 1;
	sqe = io_uring_get_sqe(&self->ring);
	io_uring_prep_read(sqe, disk, arena(heap, 8), ARENA, 0);
	sqe->user_data = 2;
	ASSERT_EQ(2, io_uring_submit(&self->ring));
	for (int i = 0; i < 2; i++) {
		uint64_t which;
		int result = reap(&self->ring, &which);

		EXPECT_EQ(which == 1 ? -ENOMEM : -ECANCELED, result);
	}
	EXPECT_EQ(0, count_other(arena(heap, 8), ARENA, 0));
	munmap(data, ARENA);
	close(disk);
}

/* The worker continues with the next request itself; the submitter has never tried it. */
TEST_F(uringcmd, linked_calls_have_their_own_arguments)
{
	struct request requests[16];
	struct heap *heap = &self->heap;

	for (int i = 0; i < 16; i++) {
		struct io_uring_sqe *sqe = prep_arenas(&self->ring, heap, KARENA_COMMIT,
						       &requests[i], i, 1);

		sqe->flags |= i < 15 ? IOSQE_IO_LINK : 0;
	}
	ASSERT_EQ(16, io_uring_submit(&self->ring));
	EXPECT_EQ(0, reap_failed(&self->ring, 16));
	EXPECT_EQ(16 * ARENA, heap_stat(heap, "committed"));
	for (int i = 0; i < 16; i++)
		EXPECT_EQ(0, touch(arena(heap, i)));
	EXPECT_EQ(SIGBUS, touch(arena(heap, 16)));
}

TEST_F(uringcmd, madvise_commits_and_releases_through_a_ring)
{
	struct heap *heap = &self->heap;
	struct karena_limit limit = {
		.size = sizeof(limit), .flags = KARENA_LIMIT_HARD, .hard = 4 * ARENA
	};
	struct io_uring *ring = &self->ring;

	set_state(heap, 0, 3, KARENA_REQUESTED);
	io_uring_prep_madvise(io_uring_get_sqe(ring), heap->window, 3 * ARENA,
			      MADV_POPULATE_WRITE);
	ASSERT_EQ(0, complete(ring));
	EXPECT_EQ(KARENA_ACTIVE, state(heap, 2));
	EXPECT_EQ(0, count_other(heap->window, 3 * ARENA, 0));
	io_uring_prep_madvise(io_uring_get_sqe(ring), arena(heap, 1), ARENA, MADV_REMOVE);
	ASSERT_EQ(0, complete(ring));
	EXPECT_EQ(KARENA_FREE, state(heap, 1));
	EXPECT_EQ(SIGBUS, touch(arena(heap, 1)));
	ASSERT_EQ(0, heap_call(heap, KARENA_LIMIT, &limit));
	set_state(heap, 8, 4, KARENA_REQUESTED);
	io_uring_prep_madvise(io_uring_get_sqe(ring), arena(heap, 8), 4 * ARENA,
			      MADV_POPULATE_WRITE);
	EXPECT_EQ(-ENOMEM, complete(ring));
	EXPECT_EQ(4 * ARENA, heap_stat(heap, "committed"));
	io_uring_prep_madvise(io_uring_get_sqe(ring), arena(heap, 20), ARENA,
			      MADV_POPULATE_WRITE);
	EXPECT_EQ(-EFAULT, complete(ring));
}

/* The ring may reuse an entry after submission, so a request must have copied it. */
TEST_F_TIMEOUT(uringcmd, entry_can_be_reused_at_once, SLOW)
{
	struct request requests[NR];
	struct io_uring small;

	ASSERT_EQ(0, io_uring_queue_init(2, &small, 0));
	for (int i = 0; i < NR; i++) {
		/* Only a worker runs it, or the submitter tries first: code paths differ. */
		struct io_uring_sqe *sqe = prep_arenas(&small, &self->heap,
						       KARENA_COMMIT, &requests[i],
						       i, 1);

		sqe->flags |= i % 2 ? IOSQE_ASYNC : 0;
		ASSERT_EQ(1, io_uring_submit(&small));
	}
	EXPECT_EQ(0, reap_failed(&small, NR));
	EXPECT_EQ(NR * ARENA, heap_stat(&self->heap, "committed"));
	EXPECT_EQ(0, count_other(self->heap.window, NR * ARENA, 0));
	io_uring_queue_exit(&small);
}

/* A thread that uses its own ring on its own part of the heap, or on all of it. */
struct driver {
	pthread_t thread;
	const struct heap *heap;
	size_t first, count;
	unsigned int seed;
	int rounds;
	int failures;
};

static void *drive_own(void *data)
{
	struct driver *driver = data;
	const struct heap *heap = driver->heap;
	struct request requests[ENTRIES];
	struct io_uring ring;

	if (io_uring_queue_init(ENTRIES, &ring, 0)) {
		driver->failures = 1;
		return NULL;
	}
	for (int round = 0; round < driver->rounds; round++) {
		driver->failures += !!submit_each(&ring, heap, KARENA_COMMIT, requests,
						  driver->first, driver->count);
		driver->failures += reap_failed(&ring, driver->count);
		for (size_t i = driver->first; i < driver->first + driver->count; i++) {
			driver->failures += count_other(arena(heap, i), ARENA, 0) != 0;
			memset(arena(heap, i), i + 1, ARENA);
		}
		for (size_t i = driver->first; i < driver->first + driver->count; i++)
			driver->failures += count_other(arena(heap, i), ARENA,
							i + 1) != 0;
		driver->failures += !!submit_each(&ring, heap, KARENA_RELEASE, requests,
						  driver->first, driver->count);
		driver->failures += reap_failed(&ring, driver->count);
	}
	io_uring_queue_exit(&ring);
	return NULL;
}

/* Commit and release random arenas and pages. */
static void *drive_all(void *data)
{
	struct driver *driver = data;
	struct request requests[ENTRIES];
	struct io_uring ring;

	if (io_uring_queue_init(ENTRIES, &ring, 0)) {
		driver->failures = 1;
		return NULL;
	}
	for (int round = 0; round < driver->rounds; round++) {
		for (int i = 0; i < ENTRIES; i++) {
			uint64_t first = driver->first +
					 rand_r(&driver->seed) % driver->count;
			uint64_t page = rand_r(&driver->seed) % 512;

			if (rand_r(&driver->seed) % 2)
				request_set(&requests[i], first * ARENA, ARENA);
			else
				request_set(&requests[i], first * ARENA + page * PAGE,
					    (512 - page) * PAGE);
			prep(&ring, driver->heap->fd,
			     rand_r(&driver->seed) % 2 ? KARENA_COMMIT : KARENA_RELEASE,
			     &requests[i].list);
		}
		driver->failures += io_uring_submit(&ring) != ENTRIES;
		driver->failures += reap_failed(&ring, ENTRIES);
	}
	io_uring_queue_exit(&ring);
	return NULL;
}

/* Run four threads. Return the number of failures. */
static int drive(const struct heap *heap, void *(*work)(void *data), bool all, int rounds)
{
	struct driver drivers[4] = {};
	int failures = 0;

	for (int i = 0; i < 4; i++) {
		drivers[i] = (struct driver){
			.heap = heap, .seed = i + 1, .rounds = rounds,
			.first = all ? 0 : i * NR / 4,
			.count = all ? 8 : NR / 4,
		};
		if (pthread_create(&drivers[i].thread, NULL, work, &drivers[i]))
			abort();
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(drivers[i].thread, NULL);
		failures += drivers[i].failures;
	}
	return failures;
}

TEST_F_TIMEOUT(uringcmd, threads_with_their_own_rings_commit_at_once, SLOW)
{
	EXPECT_EQ(0, drive(&self->heap, drive_own, false, 4));
	EXPECT_EQ(0, heap_stat(&self->heap, "committed"));
}

TEST_F_TIMEOUT(uringcmd, requests_for_the_same_arenas_are_serialised, SLOW)
{
	EXPECT_EQ(0, drive(&self->heap, drive_all, true, 8));
	for (int i = 0; i < 8; i++) {
		uint32_t word = state(&self->heap, i);

		EXPECT_TRUE(word == KARENA_FREE || word == KARENA_ACTIVE ||
			    word == (KARENA_ACTIVE | KARENA_SPARSE));
	}
	ASSERT_EQ(0, heap_release(&self->heap, 0, NR));
	EXPECT_EQ(0, heap_stat(&self->heap, "committed"));
	EXPECT_EQ(0, heap_stat(&self->heap, "sparse_arenas"));
}

#define LONG_ONE	100	/* user data of a request that takes a worker a while */
#define CANCEL		200	/* user data of a cancellation, plus that of its target */
#define QUEUED		16

TEST_F_TIMEOUT(uringcmd, cancelled_requests_are_not_executed_and_others_are, SLOW)
{
	int results[256], cancelled = 0;
	struct request first, requests[QUEUED];
	struct heap *heap = &self->heap;
	unsigned int workers[] = { 1, 0 };

	for (int i = 0; i < 256; i++)
		results[i] = 1;
	ASSERT_EQ(0, io_uring_register_iowq_max_workers(&self->ring, workers));
	prep_arenas(&self->ring, heap, KARENA_COMMIT, &first, QUEUED, NR - QUEUED)
		->user_data = LONG_ONE;
	for (int i = 0; i < QUEUED; i++)
		prep_arenas(&self->ring, heap, KARENA_COMMIT, &requests[i], i, 1)
			->user_data = i;
	ASSERT_EQ(QUEUED + 1, io_uring_submit(&self->ring));
	/* Starting with the last one. */
	for (int i = QUEUED - 1; i >= 0; i--) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&self->ring);

		io_uring_prep_cancel64(sqe, i, 0);
		sqe->user_data = CANCEL + i;
	}
	ASSERT_EQ(QUEUED, io_uring_submit(&self->ring));
	for (int i = 0; i < 2 * QUEUED + 1; i++) {
		uint64_t which = 255;
		int result = reap(&self->ring, &which);

		ASSERT_EQ(1, results[which]);
		results[which] = result;
	}
	EXPECT_EQ(0, results[LONG_ONE]);
	for (int i = 0; i < QUEUED; i++) {
		int answer = results[CANCEL + i];
		bool done = answer != 0;

		EXPECT_TRUE(!done || answer == -ENOENT || answer == -EALREADY);
		cancelled += !done;
		EXPECT_EQ(done ? 0 : -ECANCELED, results[i]);
		EXPECT_EQ(done ? 0 : SIGBUS, touch(arena(heap, i)));
		EXPECT_EQ(0, requests[i].range.result);
	}
	EXPECT_GE(cancelled, 1);
	EXPECT_EQ((NR - cancelled) * ARENA, heap_stat(heap, "committed"));
}

#define MANY		KARENA_RANGES_MAX

/* A list that takes a worker a while, and a heap with a window large enough. */
static struct long_list {
	struct karena_ranges call;
	struct karena_range ranges[MANY];
} long_list;

/* Start the commit, and wait until the first range is done. */
static bool long_list_start(struct io_uring *ring, const struct heap *heap)
{
	struct karena_range *ranges = long_list.ranges;

	long_list.call = (struct karena_ranges){
		.size = sizeof(long_list.call), .ranges = (uintptr_t)ranges, .nr = MANY,
	};
	for (int i = 0; i < MANY; i++)
		ranges[i] = (struct karena_range){
			.offset = i % 512 * PAGE, .length = PAGE, .result = 4711,
		};
	prep(ring, heap->fd, KARENA_COMMIT, &long_list.call)->user_data = LONG_ONE;
	if (io_uring_submit(ring) != 1)
		return false;
	for (int i = 0; i < 10000; i++) {
		if (!__atomic_load_n(&ranges[0].result, __ATOMIC_RELAXED))
			return true;
		usleep(100);
	}
	return false;
}

/* Return true if the list was interrupted and its results say where. */
static bool long_list_interrupted(void)
{
	int i;

	for (i = 0; i < MANY && !long_list.ranges[i].result; i++)
		;
	return i && i + 1 < MANY && long_list.ranges[i].result == -EINTR &&
	       long_list.ranges[i + 1].result == 4711;
}

TEST_F_TIMEOUT(uringcmd, running_request_ends_when_it_is_cancelled, SLOW)
{
	struct heap heap;
	uint64_t which;

	ASSERT_EQ(0, heap_open(&heap, MANY * PAGE, 0));
	ASSERT_TRUE(long_list_start(&self->ring, &heap));
	io_uring_prep_cancel64(io_uring_get_sqe(&self->ring), LONG_ONE, 0);
	ASSERT_EQ(1, io_uring_submit(&self->ring));
	for (int i = 0; i < 2; i++) {
		int result = reap(&self->ring, &which);

		/*
		 * The kernel searches twice, and may not find the request the second time.
		 */
		EXPECT_TRUE(which == LONG_ONE ? result == -EINTR :
			    result == -EALREADY || result == -ENOENT);
	}
	EXPECT_TRUE(long_list_interrupted());
	heap_destroy(&heap);
}

TEST_F_TIMEOUT(uringcmd, running_request_ends_with_its_ring, SLOW)
{
	struct io_uring ring;
	struct heap heap;

	ASSERT_EQ(0, heap_open(&heap, MANY * PAGE, 0));
	ASSERT_EQ(0, io_uring_queue_init(1, &ring, 0));
	ASSERT_TRUE(long_list_start(&ring, &heap));
	io_uring_queue_exit(&ring);
	/* The request has a reference to the file, and so to the heap. */
	heap_destroy(&heap);
	EXPECT_TRUE(module_stat_becomes("nr_heaps", self->nr_heaps + 1));
	EXPECT_TRUE(long_list_interrupted());
}

TEST_F_TIMEOUT(uringcmd, closed_ring_with_many_requests_leaves_nothing_behind, SLOW)
{
	for (int i = 0; i < 10; i++) {
		struct request requests[2 * NR];
		struct io_uring ring;
		struct heap heap;

		ASSERT_EQ(0, heap_open(&heap, NR * ARENA, 0));
		ASSERT_EQ(0, io_uring_queue_init(2 * ENTRIES, &ring,
						 i % 2 ? IORING_SETUP_SQPOLL : 0));
		ASSERT_EQ(0, submit_each(&ring, &heap, KARENA_COMMIT, requests, 0, NR));
		ASSERT_EQ(0, submit_each(&ring, &heap, KARENA_RELEASE, requests + NR,
					 0, NR));
		usleep(i * 1000);
		io_uring_queue_exit(&ring);
		heap_destroy(&heap);
		/* The requests refer to structs on this stack. */
		ASSERT_TRUE(module_stat_becomes("nr_heaps", self->nr_heaps + 1));
		ASSERT_TRUE(module_stat_becomes("committed", self->committed));
	}
}

TEST_F_TIMEOUT(uringcmd, unmapped_heap_ends_with_its_last_request, SLOW)
{
	for (int i = 0; i < 10; i++) {
		struct request requests[NR];
		struct heap heap;

		ASSERT_EQ(0, heap_open(&heap, NR * ARENA, 0));
		ASSERT_EQ(0, submit_each(&self->ring, &heap, KARENA_COMMIT, requests, 0,
					 NR));
		usleep(i * 1000);
		heap_destroy(&heap);
		EXPECT_EQ(0, reap_failed(&self->ring, NR));
		ASSERT_TRUE(module_stat_becomes("nr_heaps", self->nr_heaps + 1));
		ASSERT_TRUE(module_stat_becomes("committed", self->committed));
	}
}

static struct request endless[2][NR];

/*
 * After exec() has started, queued requests fail, because a thread gets no new worker then.
 */
static bool ending;

static bool drive_one(struct io_uring *ring)
{
	int result = reap(ring, NULL);

	return !result || (result == -ECANCELED &&
			   __atomic_load_n(&ending, __ATOMIC_RELAXED));
}

/* Two threads that always keep requests in flight. */
static void *drive_for_ever(void *data)
{
	struct driver *driver = data;
	struct io_uring ring;
	int in_flight = 0;

	CHECK(!io_uring_queue_init(ENTRIES, &ring, 0));
	for (;;) {
		size_t i = rand_r(&driver->seed) % NR;
		unsigned int commit = rand_r(&driver->seed) % 2;

		prep(&ring, driver->heap->fd, commit ? KARENA_COMMIT : KARENA_RELEASE,
		     &endless[commit][i].list);
		CHECK(io_uring_submit(&ring) == 1);
		if (++in_flight == ENTRIES) {
			in_flight--;
			CHECK(drive_one(&ring));
		}
	}
	return NULL;
}

static void drive_until_killed(struct child *child)
{
	struct driver drivers[2];
	struct heap heap;
	uint64_t how;

	CHECK(!heap_open(&heap, NR * ARENA, 0));
	for (int i = 0; i < 2 * NR; i++)
		request_set(&endless[i / NR][i % NR], i % NR * ARENA, ARENA);
	for (int i = 0; i < 2; i++) {
		drivers[i] = (struct driver){ .heap = &heap, .seed = getpid() + i };
		CHECK(!pthread_create(&drivers[i].thread, NULL, drive_for_ever,
				      &drivers[i]));
	}
	CHECK(tell(child->parent, 1));
	how = hear(child->parent);
	__atomic_store_n(&ending, true, __ATOMIC_RELAXED);
	switch (how) {
	case 1:
		_exit(0);
	case 2:
		execl("/bin/true", "true", NULL);
		_exit(1);
	default:
		/* Never returns; the process is killed. */
		pthread_join(drivers[0].thread, NULL);
	}
}

TEST_F_TIMEOUT(uringcmd, ended_process_with_many_requests_leaves_nothing_behind, SLOW)
{
	for (int i = 0; i < 12; i++) {
		struct child child = {};

		ASSERT_EQ(0, child_start(&child, drive_until_killed));
		ASSERT_EQ(1, hear(child.line));
		usleep(i * 10000);
		if (i % 3)
			tell(child.line, i % 3);
		else
			kill(child.pid, SIGKILL);
		EXPECT_EQ(i % 3 ? 0 : 128 + SIGKILL, child_end(&child));
		ASSERT_TRUE(module_stat_becomes("nr_heaps", self->nr_heaps + 1));
		ASSERT_TRUE(module_stat_becomes("committed", self->committed));
	}
}

/* In the child each arena is either complete or missing. */
static void look_at_clone(struct child *child)
{
	(void)child;
	for (int i = 0; i < NR; i++) {
		if (state(&parents, i) == KARENA_ACTIVE)
			CHECK(!count_other(arena(&parents, i), ARENA, 0));
		else
			CHECK(touch(arena(&parents, i)) == SIGBUS);
	}
}

TEST_F_TIMEOUT(uringcmd, fork_during_commits_clones_whole_arenas, SLOW)
{
	struct request requests[NR];

	parents = self->heap;
	for (int i = 0; i < 5; i++) {
		struct child child = {};

		ASSERT_EQ(0, submit_each(&self->ring, &self->heap, KARENA_COMMIT,
					 requests, 0, NR));
		usleep(i * 2000);
		ASSERT_EQ(0, child_start(&child, look_at_clone));
		EXPECT_EQ(0, reap_failed(&self->ring, NR));
		EXPECT_EQ(0, child_end(&child));
		EXPECT_EQ(0, count_other(self->heap.window, NR * ARENA, 0));
		ASSERT_EQ(0, heap_release(&self->heap, 0, NR));
	}
}

/* Commit arenas as one list. Return how many succeeded. */
static int commit_list(const struct heap *heap, int nr)
{
	struct karena_range ranges[NR] = {};
	struct karena_ranges list = {
		.size = sizeof(list), .ranges = (uintptr_t)ranges, .nr = nr
	};
	struct io_uring ring;
	int count = 0;

	for (int i = 0; i < nr; i++) {
		ranges[i].offset = i * ARENA;
		ranges[i].length = ARENA;
	}
	if (io_uring_queue_init(8, &ring, 0) ||
	    uring_call(&ring, heap, KARENA_COMMIT, &list) != -ENOMEM)
		return -1;
	while (!ranges[count].result)
		count++;
	io_uring_queue_exit(&ring);
	return ranges[count].result == -ENOMEM ? count : -1;
}

static void exceed_locked_memory(struct child *child)
{
	struct heap heap;

	(void)child;
	CHECK(!heap_open(&heap, NR * ARENA, 0));
	CHECK(limit_locked_memory(5 * ARENA));
	CHECK(become_nobody());
	/* From now on the frames that are made ready in advance respect the limit. */
	CHECK(!heap_ready(&heap, KARENA_NODE_ANY, 0));
	CHECK(commit_list(&heap, 8) == 5);
	CHECK(!touch(arena(&heap, 4)) && touch(arena(&heap, 5)) == SIGBUS);
}

TEST_F(uringcmd, memlock_limit_is_that_of_the_submitter)
{
	EXPECT_EQ(0, in_child(exceed_locked_memory));
}

static void exceed_group(struct child *child)
{
	struct heap heap;
	int count;

	(void)child;
	CHECK(group_enter());
	CHECK(!heap_open(&heap, NR * ARENA, 0));
	count = commit_list(&heap, NR);
	CHECK(count >= 9 && count <= 11);
	CHECK(group_stat("memory.current", NULL) >= (long)(count * ARENA));
}

TEST_F(uringcmd, workers_charge_the_memory_cgroup_of_the_submitter)
{
	if (group_make())
		SKIP(return, "cannot create a memory cgroup");
	ASSERT_EQ(0, group_limit(24 * MIB));
	EXPECT_EQ(0, in_child(exceed_group));
	EXPECT_EQ(0, group_stat("memory.events", "oom_kill"));
	EXPECT_EQ(0, group_remove());
}

static void raise_what_root_has_set(struct child *child)
{
	struct karena_limit limit = {
		.size = sizeof(limit), .flags = KARENA_LIMIT_HARD, .hard = 6 * ARENA
	};
	struct io_uring ring;
	struct heap heap;

	CHECK(!heap_open(&heap, NR * ARENA, 0));
	CHECK(!heap_commit(&heap, 0, 1));
	CHECK(become_nobody());
	CHECK(tell(child->parent, heap.id));
	CHECK(hear(child->parent));
	CHECK(!io_uring_queue_init(8, &ring, 0));
	CHECK(uring_call(&ring, &heap, KARENA_LIMIT, &limit) == -EPERM);
	prep(&ring, heap.fd, KARENA_LIMIT, &limit)->flags |= IOSQE_ASYNC;
	CHECK(complete(&ring) == -EPERM);
	limit.hard = 2 * ARENA;
	CHECK(!uring_call(&ring, &heap, KARENA_LIMIT, &limit));
}

TEST_F(uringcmd, privileges_are_those_of_the_submitter)
{
	struct child child = {};
	char path[128];
	uint64_t id;

	ASSERT_EQ(0, child_start(&child, raise_what_root_has_set));
	id = hear(child.line);
	EXPECT_TRUE(directory_appears(id));
	snprintf(path, sizeof(path), SYSFS "/heaps/%llu/limit", (unsigned long long)id);
	EXPECT_EQ(0, write_text(path, "8388608"));
	EXPECT_TRUE(tell(child.line, 1));
	EXPECT_EQ(0, child_end(&child));
}

TEST_HARNESS_MAIN
