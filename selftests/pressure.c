// SPDX-License-Identifier: GPL-2.0
/*
 * The pressure word and poll(): when a heap is told that memory is short, which level it
 * sees, when the pressure ends, and that no other heap is told.
 */
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <time.h>

#include "child.h"

#define NONE	KARENA_PRESSURE_NONE
#define SOME	KARENA_PRESSURE_SOME
#define HIGH	KARENA_PRESSURE_HIGH

/* Microseconds; longer than a level lasts. */
#define LASTED	(1500 * 1000)

FIXTURE(pressure) {
	struct heap heap;
	struct heap other;
};

FIXTURE_SETUP(pressure)
{
	struct karena_info info = { .size = sizeof(info) };
	struct karena_create create = {
		.window = 16 * ARENA, .limit = 8 * ARENA, .soft_limit = 2 * ARENA
	};

	REQUIRE_MODULE();
	ASSERT_EQ(0, device_call(KARENA_INFO, &info));
	ASSERT_TRUE(info.features & KARENA_FEATURE_PRESSURE);
	ASSERT_EQ(0, heap_create(&self->heap, &create));
	ASSERT_EQ(0, heap_create(&self->other, &create));
}

FIXTURE_TEARDOWN(pressure)
{
	heap_destroy(&self->heap);
	heap_destroy(&self->other);
}

static uint32_t word(const struct heap *heap)
{
	return __atomic_load_n(&heap->control->pressure, __ATOMIC_ACQUIRE);
}

static uint32_t level(const struct heap *heap)
{
	return KARENA_PRESSURE_LEVEL(word(heap));
}

static uint32_t number(const struct heap *heap)
{
	return word(heap) >> 2;
}

/* Acknowledge the pressure as a process does that has reacted to it. */
static void see(const struct heap *heap)
{
	__atomic_store_n(&heap->control->pressure_seen, word(heap),
			 __ATOMIC_RELEASE);
}

static short polled(const struct heap *heap)
{
	struct pollfd poll_fd = { .fd = heap->fd, .events = POLLPRI };

	return poll(&poll_fd, 1, 0) < 0 ? -1 : poll_fd.revents;
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

/* Wait up to ten seconds until the level has changed. Return the level. */
static uint32_t level_after(const struct heap *heap, uint32_t old)
{
	double until = now() + 10;

	while (level(heap) == old && now() < until)
		usleep(10000);
	return level(heap);
}

TEST_F(pressure, no_pressure_at_first)
{
	struct heap *heap = &self->heap;

	EXPECT_EQ(0, word(heap));
	EXPECT_EQ(0, polled(heap));
	EXPECT_EQ(0, heap_commit(heap, 0, 1));
	EXPECT_EQ(0, word(heap));
	EXPECT_EQ(0, polled(heap));
	EXPECT_EQ(0, heap_stat(heap, "pressure"));
	EXPECT_EQ(0, heap_stat(heap, "pressure_events"));
}

TEST_F(pressure, pressure_is_some_above_the_soft_limit)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_commit(heap, 0, 2));
	EXPECT_EQ(0, word(heap));
	ASSERT_EQ(0, heap_commit(heap, 2, 1));
	EXPECT_EQ(SOME, level(heap));
	EXPECT_EQ(1, number(heap));
	EXPECT_EQ(POLLPRI, polled(heap));
	EXPECT_EQ(1, heap_stat(heap, "pressure"));
	EXPECT_EQ(1, heap_stat(heap, "pressure_events"));
	/* Further commits above the limit are not a new rise. */
	ASSERT_EQ(0, heap_commit(heap, 3, 3));
	EXPECT_EQ(1, number(heap));
}

TEST_F(pressure, sparse_pages_above_the_soft_limit_count)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_commit(heap, 0, 2));
	ASSERT_EQ(0, heap_range(heap, KARENA_COMMIT, 2 * ARENA, 4096));
	EXPECT_EQ(SOME, level(heap));
	EXPECT_EQ(POLLPRI, polled(heap));
}

TEST_F(pressure, pressure_lasts_until_a_second_after_the_release)
{
	struct heap *heap = &self->heap;
	double since;

	ASSERT_EQ(0, heap_commit(heap, 0, 3));
	usleep(LASTED);
	EXPECT_EQ(SOME, level(heap));
	EXPECT_EQ(1, number(heap));
	EXPECT_EQ(1, heap_stat(heap, "pressure"));
	ASSERT_EQ(0, heap_release(heap, 0, 1));
	since = now();
	EXPECT_EQ(NONE, level_after(heap, SOME));
	EXPECT_LT(now() - since, 4);
	/* Nobody acknowledged the pressure, but it has ended. */
	EXPECT_EQ(0, polled(heap));
	EXPECT_EQ(0, heap_stat(heap, "pressure"));
	/* A fall is not a rise. */
	EXPECT_EQ(1, number(heap));
	EXPECT_EQ(1, heap_stat(heap, "pressure_events"));
	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	EXPECT_EQ(SOME, level(heap));
	EXPECT_EQ(2, number(heap));
	EXPECT_EQ(POLLPRI, polled(heap));
	EXPECT_EQ(2, heap_stat(heap, "pressure_events"));
}

TEST_F(pressure, soft_limit_set_below_committed_memory_counts)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_commit(heap, 0, 2));
	ASSERT_EQ(0, heap_limit(heap, KARENA_LIMIT_SOFT, 0, ARENA));
	EXPECT_EQ(SOME, level(heap));
	EXPECT_EQ(POLLPRI, polled(heap));
	ASSERT_EQ(0, heap_limit(heap, KARENA_LIMIT_SOFT, 0, 0));
	EXPECT_EQ(NONE, level_after(heap, SOME));
	ASSERT_EQ(0, heap_commit(heap, 2, 6));
	EXPECT_EQ(NONE, level(heap));
}

/* Ready frames are not committed. */
TEST_F(pressure, ready_frames_do_not_count_against_the_soft_limit)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_commit(heap, 0, 2));
	ASSERT_TRUE(heap_ready_becomes(heap, KARENA_NODE_ANY, 4, 4));
	ASSERT_EQ(0, heap_release(heap, 0, 1));
	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	EXPECT_EQ(0, word(heap));
}

TEST_F(pressure, failed_commit_raises_pressure_to_high_for_a_second)
{
	struct heap *heap = &self->heap;
	double since;

	ASSERT_EQ(0, heap_limit(heap, KARENA_LIMIT_SOFT, 0, 0));
	ASSERT_EQ(0, heap_commit(heap, 0, 8));
	EXPECT_EQ(0, word(heap));
	since = now();
	ASSERT_EQ(-ENOMEM, heap_commit(heap, 8, 1));
	EXPECT_EQ(HIGH, level(heap));
	EXPECT_EQ(1, number(heap));
	EXPECT_EQ(POLLPRI, polled(heap));
	EXPECT_EQ(NONE, level_after(heap, HIGH));
	EXPECT_GT(now() - since, 0.5);
	EXPECT_LT(now() - since, 4);
	EXPECT_EQ(0, polled(heap));
	ASSERT_EQ(-ENOMEM, heap_range(heap, KARENA_COMMIT, 8 * ARENA, 4096));
	EXPECT_EQ(HIGH, level(heap));
	EXPECT_EQ(2, number(heap));
	EXPECT_EQ(2, heap_stat(heap, "pressure"));
	EXPECT_EQ(2, heap_stat(heap, "pressure_events"));
}

TEST_F(pressure, commit_with_invalid_arguments_raises_no_pressure)
{
	struct heap *heap = &self->heap;

	EXPECT_EQ(-EINVAL, heap_range(heap, KARENA_COMMIT, 16 * ARENA, ARENA));
	EXPECT_EQ(-EINVAL, heap_range(heap, KARENA_COMMIT, 1, ARENA));
	EXPECT_EQ(-1, madvise(heap->window, ARENA, MADV_POPULATE_WRITE));
	EXPECT_EQ(0, word(heap));
}

TEST_F(pressure, high_pressure_falls_to_some_above_the_soft_limit)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_commit(heap, 0, 8));
	ASSERT_EQ(-ENOMEM, heap_commit(heap, 8, 1));
	EXPECT_EQ(HIGH, level(heap));
	EXPECT_EQ(2, number(heap));
	see(heap);
	EXPECT_EQ(SOME, level_after(heap, HIGH));
	EXPECT_EQ(2, number(heap));
	/* An acknowledged level is not reported again when it falls. */
	EXPECT_EQ(0, polled(heap));
	ASSERT_EQ(0, heap_release(heap, 0, 8));
	EXPECT_EQ(NONE, level_after(heap, SOME));
}

TEST_F(pressure, acknowledged_pressure_is_not_polled_again)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_commit(heap, 0, 8));
	EXPECT_EQ(POLLPRI, polled(heap));
	EXPECT_EQ(POLLPRI, polled(heap));
	see(heap);
	EXPECT_EQ(0, polled(heap));
	EXPECT_EQ(SOME, level(heap));
	/* A rise is reported. */
	ASSERT_EQ(-ENOMEM, heap_commit(heap, 8, 1));
	EXPECT_EQ(POLLPRI, polled(heap));
	see(heap);
	EXPECT_EQ(0, polled(heap));
	/* The same level is not reported again. */
	ASSERT_EQ(-ENOMEM, heap_commit(heap, 8, 1));
	EXPECT_EQ(0, polled(heap));
}

struct poller {
	pthread_t thread;
	const struct heap *heap;
	pid_t tid;
	int ret;
	short revents;
};

static void *poll_for_pressure(void *data)
{
	struct poller *poller = data;
	struct pollfd poll_fd = { .fd = poller->heap->fd, .events = POLLPRI };

	__atomic_store_n(&poller->tid, syscall(SYS_gettid), __ATOMIC_RELEASE);
	poller->ret = poll(&poll_fd, 1, 10000);
	poller->revents = poll_fd.revents;
	return NULL;
}

/* Wait up to ten seconds until a thread sleeps. Return true if it does. */
static bool sleeps(pid_t *tid)
{
	char path[64], text[512], *state;

	for (int i = 0; i < 1000; i++) {
		usleep(10000);
		snprintf(path, sizeof(path), "/proc/self/task/%d/stat",
			 __atomic_load_n(tid, __ATOMIC_ACQUIRE));
		if (read_text(path, text, sizeof(text)))
			continue;
		state = strrchr(text, ')');
		if (state && state[2] == 'S')
			return true;
	}
	return false;
}

TEST_F(pressure, poll_wakes_up)
{
	struct heap *heap = &self->heap;
	struct poller poller = { .heap = heap };
	double since;

	ASSERT_EQ(0, heap_commit(heap, 0, 2));
	for (int i = 0; i < 2; i++) {
		poller.tid = 0;
		ASSERT_EQ(0, pthread_create(&poller.thread, NULL,
					    poll_for_pressure, &poller));
		ASSERT_TRUE(sleeps(&poller.tid));
		/* First the heap crosses the soft limit, then a commit fails. */
		since = now();
		EXPECT_EQ(i ? -ENOMEM : 0, heap_commit(heap, 2, i ? 7 : 1));
		pthread_join(poller.thread, NULL);
		EXPECT_LT(now() - since, 5);
		EXPECT_EQ(1, poller.ret);
		EXPECT_EQ(POLLPRI, poller.revents);
		see(heap);
	}
}

/* Count how often a thread has gone to sleep. */
static long sleeps_of(pid_t tid)
{
	static const char member[] = "\nvoluntary_ctxt_switches:";
	char path[64], text[4096], *at;

	snprintf(path, sizeof(path), "/proc/self/task/%d/status", tid);
	if (read_text(path, text, sizeof(text)))
		return -1;
	at = strstr(text, member);
	return at ? atol(at + strlen(member)) : -1;
}

static long commit_in_a_child(struct heap *heap, int first, int count)
{
	pid_t child = fork();

	if (!child)
		_exit(heap_commit(heap, first, count) || level(heap) != SOME);
	return child_status(child);
}

TEST_F(pressure, pressure_in_a_childs_heap_wakes_only_its_own_pollers)
{
	struct heap *heap = &self->heap;
	struct poller poller = { .heap = heap };
	long before;

	ASSERT_EQ(0, heap_commit(heap, 0, 2));
	ASSERT_EQ(0, pthread_create(&poller.thread, NULL, poll_for_pressure, &poller));
	ASSERT_TRUE(sleeps(&poller.tid));
	before = sleeps_of(poller.tid);
	EXPECT_LT(0, before);
	EXPECT_EQ(0, commit_in_a_child(heap, 2, 1));
	EXPECT_EQ(before, sleeps_of(poller.tid));
	EXPECT_EQ(NONE, level(heap));
	ASSERT_EQ(0, heap_commit(heap, 2, 1));
	pthread_join(poller.thread, NULL);
	EXPECT_EQ(POLLPRI, poller.revents);
}

/* The child waits for its own heap with a descriptor of the parent. */
static void unmap_what_is_waited_for(struct heap *heap)
{
	struct pollfd poll_fd = { .fd = heap->fd, .events = POLLPRI };
	struct epoll_event event = { .events = EPOLLPRI };
	struct poller poller = { .heap = heap };
	int epoll = epoll_create1(EPOLL_CLOEXEC);

	CHECK(!epoll_ctl(epoll, EPOLL_CTL_ADD, heap->fd, &event));
	CHECK(!pthread_create(&poller.thread, NULL, poll_for_pressure, &poller));
	CHECK(sleeps(&poller.tid));
	CHECK(!munmap(heap->window, heap->size));
	CHECK(!munmap(heap->control, heap->control_size));
	/* From here on the descriptor refers to the parent's heap. */
	CHECK(!poll(&poll_fd, 1, 100));
	CHECK(!epoll_wait(epoll, &event, 1, 100));
	close(epoll);
	_exit(0);
}

TEST_F(pressure, poller_may_outlive_the_heap)
{
	struct heap *heap = &self->heap;
	pid_t child;

	ASSERT_EQ(0, heap_commit(heap, 0, 2));
	for (int i = 0; i < 3; i++) {
		child = fork();
		if (!child)
			unmap_what_is_waited_for(heap);
		EXPECT_EQ(0, child_status(child));
	}
	EXPECT_TRUE(module_stat_becomes("nr_heaps", 2));
}

TEST_F(pressure, epoll_reports_level_and_edge)
{
	struct heap *heap = &self->heap;
	struct epoll_event event = { .events = EPOLLPRI };
	int by_level = epoll_create1(EPOLL_CLOEXEC);
	int by_edge = epoll_create1(EPOLL_CLOEXEC);

	ASSERT_EQ(0, epoll_ctl(by_level, EPOLL_CTL_ADD, heap->fd, &event));
	event.events = EPOLLPRI | EPOLLET;
	ASSERT_EQ(0, epoll_ctl(by_edge, EPOLL_CTL_ADD, heap->fd, &event));
	EXPECT_EQ(0, epoll_wait(by_level, &event, 1, 0));
	EXPECT_EQ(0, epoll_wait(by_edge, &event, 1, 0));
	ASSERT_EQ(0, heap_commit(heap, 0, 8));
	for (int i = 0; i < 2; i++) {
		EXPECT_EQ(1, epoll_wait(by_level, &event, 1, 1000));
		EXPECT_EQ(EPOLLPRI, event.events);
	}
	EXPECT_EQ(1, epoll_wait(by_edge, &event, 1, 1000));
	EXPECT_EQ(EPOLLPRI, event.events);
	EXPECT_EQ(0, epoll_wait(by_edge, &event, 1, 0));
	see(heap);
	EXPECT_EQ(0, epoll_wait(by_level, &event, 1, 0));
	/* The next rise is the next edge. */
	ASSERT_EQ(-ENOMEM, heap_commit(heap, 8, 1));
	EXPECT_EQ(1, epoll_wait(by_level, &event, 1, 1000));
	EXPECT_EQ(1, epoll_wait(by_edge, &event, 1, 1000));
	EXPECT_EQ(0, epoll_wait(by_edge, &event, 1, 0));
	close(by_level);
	close(by_edge);
}

TEST_F(pressure, reclaim_of_an_arena_raises_pressure_to_some)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_commit(heap, 0, 2));
	shrink_everything();
	EXPECT_EQ(0, word(heap));
	make_volatile(heap, 0);
	shrink_everything();
	ASSERT_EQ(KARENA_FREE, state(heap, 0));
	EXPECT_EQ(SOME, level(heap));
	EXPECT_EQ(1, number(heap));
	EXPECT_EQ(POLLPRI, polled(heap));
	EXPECT_EQ(NONE, level_after(heap, SOME));
	EXPECT_EQ(1, heap_stat(heap, "pressure_events"));
}

TEST_F(pressure, reclaim_of_a_ready_frame_raises_pressure_to_some)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	ASSERT_TRUE(heap_ready_becomes(heap, KARENA_NODE_ANY, 2, 2));
	EXPECT_EQ(0, word(heap));
	for (int i = 0; i < 5 && !heap_stat(heap, "reclaimed_ready"); i++)
		shrink_everything();
	ASSERT_LT(0, heap_stat(heap, "reclaimed_ready"));
	EXPECT_EQ(SOME, level(heap));
	EXPECT_EQ(POLLPRI, polled(heap));
	EXPECT_EQ(NONE, level_after(heap, SOME));
}

/*
 * In a cgroup of 24 MiB, one heap has volatile arenas and the other has none; then a commit
 * needs more memory.
 */
static void outgrow_the_group(struct child *child)
{
	struct heap heap;
	char *memory;

	(void)child;
	CHECK(group_enter());
	CHECK(!heap_open(&heap, 16 * ARENA, 0));
	CHECK(!heap_commit(&heap, 0, 5));
	CHECK(!word(&heap));
	make_volatile(&heap, 0);
	make_volatile(&heap, 1);
	memory = own_memory(20 * MIB);
	CHECK(memory);
	for (size_t at = 0; at < 20 * MIB && state(&heap, 0) != KARENA_FREE;
	     at += 4096)
		memory[at] = 1;
	CHECK(level(&heap) == SOME);
	CHECK(number(&heap) == 1);
	CHECK(polled(&heap) == POLLPRI);
}

TEST_F_TIMEOUT(pressure, reclaim_by_a_memory_cgroup_raises_pressure_to_some, SLOW)
{
	ASSERT_EQ(0, group_make());
	ASSERT_EQ(0, group_limit(24 * MIB));
	EXPECT_EQ(0, in_child(outgrow_the_group));
	EXPECT_EQ(0, group_stat("memory.events", "oom_kill"));
	EXPECT_EQ(0, group_remove());
	EXPECT_EQ(0, word(&self->heap));
}

/* In 24 MiB as well. One of the two heaps has no volatile arena. */
static void outgrow_it_with_two(struct child *child)
{
	struct heap heap, other;
	char *memory;

	(void)child;
	CHECK(group_enter());
	CHECK(!heap_open(&heap, 16 * ARENA, 0));
	CHECK(!heap_open(&other, 16 * ARENA, 0));
	CHECK(!heap_commit(&heap, 0, 4));
	CHECK(!heap_commit(&other, 0, 2));
	for (int i = 0; i < 4; i++)
		make_volatile(&heap, i);
	memory = own_memory(20 * MIB);
	CHECK(memory);
	for (size_t at = 0; at < 20 * MIB && state(&heap, 0) != KARENA_FREE;
	     at += 4096)
		memory[at] = 1;
	CHECK(level_after(&other, NONE) == SOME);
	CHECK(polled(&other) == POLLPRI);
}

TEST_F_TIMEOUT(pressure, reclaim_by_a_memory_cgroup_is_reported_to_all_its_heaps, SLOW)
{
	ASSERT_EQ(0, group_make());
	ASSERT_EQ(0, group_limit(24 * MIB));
	EXPECT_EQ(0, in_child(outgrow_it_with_two));
	EXPECT_EQ(0, group_remove());
	EXPECT_EQ(0, word(&self->heap));
}

static void fail_in_the_group(struct child *child)
{
	struct heap heap;
	int n;

	(void)child;
	CHECK(group_enter());
	CHECK(!heap_open(&heap, 64 * ARENA, 0));
	for (n = 0; n < 64 && !heap_commit(&heap, n, 1); n++)
		;
	CHECK(n >= 9 && n <= 11);
	CHECK(level(&heap) == HIGH);
	CHECK(polled(&heap) == POLLPRI);
}

TEST_F_TIMEOUT(pressure, commit_refused_by_a_memory_cgroup_raises_pressure_to_high, SLOW)
{
	ASSERT_EQ(0, group_make());
	ASSERT_EQ(0, group_limit(24 * MIB));
	EXPECT_EQ(0, in_child(fail_in_the_group));
	EXPECT_EQ(0, group_remove());
	EXPECT_EQ(0, word(&self->heap));
}

TEST_F(pressure, garbage_in_the_pressure_words_harms_nothing)
{
	struct heap *heap = &self->heap;
	struct karena_control *control = heap->control;

	ASSERT_EQ(0, heap_commit(heap, 0, 2));
	memset(control, 0xff, sizeof(*control));
	EXPECT_EQ(0, polled(heap));
	EXPECT_EQ(0, heap_stat(heap, "pressure"));
	EXPECT_EQ(0, heap_stat(heap, "pressure_events"));
	ASSERT_EQ(0, heap_commit(heap, 2, 1));
	EXPECT_EQ(1 << 2 | SOME, word(heap));
	EXPECT_EQ(POLLPRI, polled(heap));

	control->pressure = 0;
	control->pressure_seen = 12345;
	EXPECT_EQ(POLLPRI, polled(heap));
	EXPECT_EQ(1, heap_stat(heap, "pressure"));
	ASSERT_EQ(-ENOMEM, heap_commit(heap, 3, 6));
	EXPECT_EQ(2 << 2 | HIGH, word(heap));
	/* The module has its own copy of the level, from which it restores the word. */
	control->pressure = 77;
	ASSERT_EQ(0, heap_release(heap, 0, 8));
	EXPECT_TRUE(heap_stat_becomes(heap, "pressure", 0));
	EXPECT_EQ(2 << 2 | NONE, word(heap));
	EXPECT_EQ(2, heap_stat(heap, "pressure_events"));
	/* No other member of the region is needed either. */
	EXPECT_EQ(0, heap_commit(heap, 0, 1));
}

TEST_F(pressure, unaffected_heap_sees_no_pressure)
{
	struct heap *heap = &self->heap, *other = &self->other;
	struct poller poller = { .heap = other };

	ASSERT_EQ(0, heap_commit(other, 0, 2));
	ASSERT_EQ(0, heap_commit(heap, 0, 8));
	ASSERT_EQ(-ENOMEM, heap_commit(heap, 8, 1));
	make_volatile(heap, 0);
	shrink_everything();
	EXPECT_EQ(KARENA_FREE, state(heap, 0));
	EXPECT_EQ(0, word(other));
	EXPECT_EQ(0, polled(other));
	EXPECT_EQ(0, heap_stat(other, "pressure"));
	EXPECT_EQ(0, heap_stat(other, "pressure_events"));

	/* Its pollers continue to sleep. */
	ASSERT_EQ(0, pthread_create(&poller.thread, NULL, poll_for_pressure,
				    &poller));
	ASSERT_TRUE(sleeps(&poller.tid));
	ASSERT_EQ(-ENOMEM, heap_commit(heap, 8, 2));
	EXPECT_TRUE(sleeps(&poller.tid));
	ASSERT_EQ(0, heap_commit(other, 2, 1));
	pthread_join(poller.thread, NULL);
	EXPECT_EQ(POLLPRI, poller.revents);
}

TEST_F(pressure, heap_under_pressure_can_be_destroyed)
{
	struct heap heaps[8];

	for (int i = 0; i < 8; i++) {
		ASSERT_EQ(0, heap_open(&heaps[i], 2 * ARENA, ARENA));
		ASSERT_EQ(-ENOMEM, heap_commit(&heaps[i], 0, 2));
		EXPECT_EQ(HIGH, level(&heaps[i]));
		heap_destroy(&heaps[i]);
	}
	/* The timers that lower the level find no heap. */
	usleep(LASTED);
	EXPECT_EQ(2, module_stat("nr_heaps"));
}

TEST_HARNESS_MAIN
