// SPDX-License-Identifier: GPL-2.0
/*
 * Tracepoints: each reports its event and the heap.
 */
#include <sys/mount.h>

#include "common.h"

#define TRACING	"/sys/kernel/tracing"

FIXTURE(trace) {
	struct heap heap;
	char text[1 << 20];
};

FIXTURE_SETUP(trace)
{
	REQUIRE_MODULE();
	if (access(TRACING "/events", F_OK))
		mount("tracefs", TRACING, "tracefs", 0, NULL);
	ASSERT_EQ(0, access(TRACING "/events/karena", F_OK));
	ASSERT_EQ(0, write_text(TRACING "/events/karena/enable", "1"));
	ASSERT_EQ(0, write_text(TRACING "/trace", ""));
	ASSERT_EQ(0, heap_open(&self->heap, 16 * ARENA, 4 * ARENA));
}

FIXTURE_TEARDOWN(trace)
{
	write_text(TRACING "/events/karena/enable", "0");
	heap_destroy(&self->heap);
}

/* Return true if the trace has a line of this event and heap that contains the text. */
static bool traced(FIXTURE_DATA(trace) *self, const char *event, const char *what)
{
	char start[128];

	snprintf(start, sizeof(start), "%s: heap=%llu %s", event,
		 (unsigned long long)self->heap.id, what);
	return strstr(self->text, start);
}

static void read_trace(FIXTURE_DATA(trace) *self)
{
	int fd = open(TRACING "/trace", O_RDONLY | O_CLOEXEC);
	size_t length = 0;
	ssize_t got;

	while (fd >= 0 && length < sizeof(self->text) - 1 &&
	       (got = read(fd, self->text + length,
			   sizeof(self->text) - 1 - length)) > 0)
		length += got;
	self->text[length] = 0;
	if (fd >= 0)
		close(fd);
}

TEST_F_TIMEOUT(trace, every_event_is_reported, SLOW)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_commit(heap, 0, 2));
	ASSERT_EQ(0, heap_range(heap, KARENA_COMMIT, 2 * ARENA, 3 * PAGE));
	ASSERT_EQ(-ENOMEM, heap_commit(heap, 3, 2));
	ASSERT_EQ(0, heap_release(heap, 3, 2));
	ASSERT_EQ(0, heap_range(heap, KARENA_RELEASE, PAGE, ARENA - PAGE));
	ASSERT_TRUE(heap_ready_becomes(heap, KARENA_NODE_ANY, 1, 1));
	make_volatile(heap, 1);
	shrink_everything();
	ASSERT_EQ(KARENA_FREE, state(heap, 1));
	read_trace(self);
	EXPECT_TRUE(traced(self, "karena_commit", "page=0 count=512 err=0"));
	EXPECT_TRUE(traced(self, "karena_commit", "page=1024 count=3 err=0"));
	EXPECT_TRUE(traced(self, "karena_commit", "page=2048 count=512 err=-12"));
	EXPECT_TRUE(traced(self, "karena_fault", "page=512 result="));
	EXPECT_TRUE(traced(self, "karena_release", "arena=0 pages=511"));
	EXPECT_TRUE(traced(self, "karena_demote", "arena=0 pages=1"));
	EXPECT_TRUE(traced(self, "karena_ready", "node="));
	EXPECT_TRUE(traced(self, "karena_reclaim", "arena=1 pages=512"));
	EXPECT_TRUE(traced(self, "karena_pressure", "level=2 events=1"));
}

TEST_HARNESS_MAIN
