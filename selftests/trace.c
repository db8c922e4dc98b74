// SPDX-License-Identifier: GPL-2.0
/*
 * Tracepoints: each reports its event and the heap.
 */
#include "tracefs.h"

FIXTURE(trace) {
	struct heap heap;
	char text[1 << 20];
};

FIXTURE_SETUP(trace)
{
	REQUIRE_MODULE();
	ASSERT_EQ(0, trace_start());
	ASSERT_EQ(0, heap_open(&self->heap, 16 * ARENA, 4 * ARENA));
}

FIXTURE_TEARDOWN(trace)
{
	trace_stop();
	heap_destroy(&self->heap);
}

TEST_F_TIMEOUT(trace, every_event_is_reported, SLOW)
{
	struct heap *heap = &self->heap;
	char *text = self->text;

	ASSERT_EQ(0, heap_commit(heap, 0, 2));
	ASSERT_EQ(0, heap_range(heap, KARENA_COMMIT, 2 * ARENA, 3 * PAGE));
	ASSERT_EQ(-ENOMEM, heap_commit(heap, 3, 2));
	ASSERT_EQ(0, heap_release(heap, 3, 2));
	ASSERT_EQ(0, heap_range(heap, KARENA_RELEASE, PAGE, ARENA - PAGE));
	ASSERT_TRUE(heap_ready_becomes(heap, KARENA_NODE_ANY, 1, 1));
	make_volatile(heap, 1);
	shrink_everything();
	ASSERT_EQ(KARENA_FREE, state(heap, 1));
	trace_read(text, sizeof(self->text));
	EXPECT_TRUE(traced(text, heap, "karena_commit", "page=0 count=512 err=0"));
	EXPECT_TRUE(traced(text, heap, "karena_commit", "page=1024 count=3 err=0"));
	EXPECT_TRUE(traced(text, heap, "karena_commit", "page=2048 count=512 err=-12"));
	EXPECT_TRUE(traced(text, heap, "karena_fault", "page=512 result="));
	EXPECT_TRUE(traced(text, heap, "karena_release", "arena=0 pages=511"));
	EXPECT_TRUE(traced(text, heap, "karena_demote", "arena=0 pages=1"));
	EXPECT_TRUE(traced(text, heap, "karena_ready", "node="));
	EXPECT_TRUE(traced(text, heap, "karena_reclaim", "arena=1 pages=512"));
	EXPECT_TRUE(traced(text, heap, "karena_pressure", "level=2 events=1"));
}

TEST_HARNESS_MAIN
