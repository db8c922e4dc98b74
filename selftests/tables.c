// SPDX-License-Identifier: GPL-2.0
/*
 * Page tables that threads change while other threads fault: dropped by MADV_DONTNEED, which
 * makes newer kernels free empty tables, or installed by guard pages. A process sees its own
 * pages all the time.
 */
#include <pthread.h>

#include "family.h"

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL	102
#define MADV_GUARD_REMOVE	103
#endif

/* Seconds for which threads run beside each other. */
#define SECONDS		2

FIXTURE(tables) {
	struct balance before;
	struct heap heap;
};

/* Two arenas with all pages marked. */
FIXTURE_SETUP(tables)
{
	REQUIRE_MODULE();
	balance_read(&self->before);
	ASSERT_EQ(0, heap_open(&self->heap, 8 * ARENA, 0));
	ASSERT_EQ(0, family_make(&self->heap));
	ASSERT_EQ(0, commit(&self->heap, 0, 2, 0));
	ASSERT_EQ(0, mark(&self->heap, 0, 2 * PAGES, 'p'));
}

FIXTURE_TEARDOWN(tables)
{
	family_end();
	heap_destroy(&self->heap);
	EXPECT_BALANCE(&self->before);
}

/* A thread that gives advice about an arena until it is stopped. */
struct adviser {
	pthread_t thread;
	struct heap *heap;
	long index;
	const int *advice;	/* ends with 0 */
	bool stop;
	long rounds;
};

static void *advise_main(void *data)
{
	struct adviser *adviser = data;
	char *at = arena(adviser->heap, adviser->index);

	while (!__atomic_load_n(&adviser->stop, __ATOMIC_RELAXED)) {
		for (const int *advice = adviser->advice; *advice; advice++)
			madvise(at, ARENA, *advice);
		adviser->rounds++;
	}
	return NULL;
}

static bool adviser_start(struct adviser *adviser, struct heap *heap, long index,
			  const int *advice)
{
	*adviser = (struct adviser){ .heap = heap, .index = index, .advice = advice };
	return !pthread_create(&adviser->thread, NULL, advise_main, adviser);
}

/* Return how many times the thread has given its advice. */
static long adviser_stop(struct adviser *adviser)
{
	__atomic_store_n(&adviser->stop, true, __ATOMIC_RELAXED);
	pthread_join(adviser->thread, NULL);
	return adviser->rounds;
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

/*
 * Read the pages of an arena, or write to them, and look at the copy of the first page in
 * between. Return how many reads showed a wrong page, or a negative errno.
 */
static long fault_beside_drops(struct heap *heap, long index, long writes, long c)
{
	static const int advice[] = { MADV_DONTNEED, 0 };
	volatile char *first = page(heap, index, 0);
	struct adviser adviser;
	double end = now() + SECONDS;
	long wrong = 0;
	char mark = 1;

	(void)c;
	*first = mark;
	if (!adviser_start(&adviser, heap, index, advice))
		return -EAGAIN;
	for (long i = 1; now() < end; i = i % (PAGES - 1) + 1) {
		volatile char *other = page(heap, index, i);

		if (writes)
			*other = i;
		wrong += writes ? *other != (char)i : *other != byte_of(index * PAGES + i, 'p');
		wrong += *first != mark;
		*first = ++mark;
		wrong += *first != mark;
	}
	return adviser_stop(&adviser) ? wrong : -EAGAIN;
}

/* The shared pages are below the copies; the core must not map all of the huge frame. */
TEST_F_TIMEOUT(tables, copies_stay_visible_while_tables_are_dropped, SLOW)
{
	ASSERT_EQ(0, bear(PARENT, CHILD));
	ASSERT_EQ(0, bear(CHILD, GRANDCHILD));
	EXPECT_EQ(0, ask(GRANDCHILD, fault_beside_drops, 0, false, 0));
	EXPECT_EQ(0, ask(CHILD, fault_beside_drops, 1, false, 0));
	EXPECT_EQ(0, ask(PARENT, fault_beside_drops, 1, true, 0));
	EXPECT_EQ(0, ask(CHILD, unlike, 0, PAGES, 'p'));
}

/* After the other owners have ended, writes go to the huge frame itself. */
TEST_F_TIMEOUT(tables, writes_below_copies_stay_visible_while_tables_are_dropped, SLOW)
{
	ASSERT_EQ(0, bear(PARENT, CHILD));
	ASSERT_EQ(0, ask(PARENT, mark, 0, 8, 'q'));
	ASSERT_EQ(0, end(CHILD));
	EXPECT_EQ(0, ask(PARENT, fault_beside_drops, 0, true, 0));
	EXPECT_EQ(0, ask(PARENT, unlike, PAGES, PAGES, 'p'));
}

/* Guard pages need a table, which a thread installs without waiting for faults, and drops. */
TEST_F_TIMEOUT(tables, guard_pages_come_and_go_beside_faults, SLOW)
{
	static const int advice[] = {
		MADV_GUARD_INSTALL, MADV_GUARD_REMOVE, MADV_DONTNEED, 0
	};
	struct heap *heap = &self->heap;
	struct adviser adviser;
	double end = now() + SECONDS;

	if (madvise(arena(heap, 0), ARENA, MADV_GUARD_INSTALL))
		SKIP(return, "this kernel has no guard pages in mappings of files");
	EXPECT_EQ(SIGSEGV, touch(page(heap, 0, 3)));
	ASSERT_EQ(0, madvise(arena(heap, 0), ARENA, MADV_GUARD_REMOVE));
	ASSERT_TRUE(adviser_start(&adviser, heap, 0, advice));
	for (long i = 0; now() < end; i++) {
		int signal = touch(page(heap, 0, i % PAGES));

		EXPECT_TRUE(!signal || signal == SIGSEGV) TH_LOG("signal %d", signal);
	}
	EXPECT_LT(0, adviser_stop(&adviser));
	ASSERT_EQ(0, madvise(arena(heap, 0), ARENA, MADV_GUARD_REMOVE));
	/* Each touch wrote 1 to the first byte of a page. */
	for (long i = 0; i < PAGES; i++) {
		char first = *page(heap, 0, i);

		EXPECT_TRUE(first == 1 || first == byte_of(i, 'p'));
		EXPECT_EQ(byte_of(i, 'p'), page(heap, 0, i)[1]);
	}
}

TEST_HARNESS_MAIN
