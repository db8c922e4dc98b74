// SPDX-License-Identifier: GPL-2.0
/*
 * Copy-on-write after a fork with volatile arenas, releases of whole arenas and of parts,
 * and commits. No operation of one side changes what the other side sees.
 */
#include "cow.h"

FIXTURE(cowvolatile) {
	struct balance before;
	struct heap heap;
};

FIXTURE_SETUP(cowvolatile)
{
	REQUIRE_MODULE();
	ASSERT_EQ(0, begin(&self->before, &self->heap));
}

FIXTURE_TEARDOWN(cowvolatile)
{
	family_end();
	heap_destroy(&self->heap);
	EXPECT_BALANCE(&self->before);
}

/* Volatile arenas. */
TEST_F_TIMEOUT(cowvolatile, volatile_arena_is_free_in_the_child, SLOW)
{
	long huge = ask(PARENT, lend, 0, 0, 0), sparse = ask(PARENT, lend, 2, 0, 0);
	long committed = module_stat("committed");

	ASSERT_EQ(0, bear(PARENT, CHILD));
	EXPECT_EQ(KARENA_FREE, ask(CHILD, word, 0, 0, 0));
	EXPECT_EQ(KARENA_FREE, ask(CHILD, word, 2, 0, 0));
	EXPECT_EQ(PAGES, ask(CHILD, failing, 0, PAGES, SIGBUS));
	EXPECT_EQ(PAGES, ask(CHILD, failing, 2 * PAGES, PAGES, SIGBUS));
	EXPECT_EQ(0, ask(CHILD, unlike, PAGES, PAGES, 'p'));
	EXPECT_EQ(ARENA, stat_of(CHILD, "committed"));
	EXPECT_EQ(ARENA, stat_of(CHILD, "shared"));
	EXPECT_EQ(0, stat_of(CHILD, "volatile_arenas"));
	EXPECT_EQ(2, stat_of(PARENT, "volatile_arenas"));

	/* A commit in the child gives it new memory. */
	ASSERT_EQ(0, ask(CHILD, commit, 0, 1, 0));
	EXPECT_EQ(0, ask(CHILD, nonzero, 0, PAGES, 0));
	EXPECT_EQ(0, ask(CHILD, mark, 0, PAGES, 'c'));
	EXPECT_EQ(committed + ARENA, module_stat("committed"));

	/* The parent's arenas are unchanged. */
	EXPECT_TRUE(reuse(&self->heap, 0, huge));
	EXPECT_TRUE(reuse_sparse(&self->heap, 2, sparse));
	EXPECT_EQ(0, ask(PARENT, spoiled, 0, 0, 0));
	/* No clone shares them, so they can be reclaimed. */
	lend(&self->heap, 0, 0, 0);
	shrink_everything();
	EXPECT_EQ(KARENA_FREE, state(&self->heap, 0));
	EXPECT_EQ(0, ask(CHILD, unlike, 0, PAGES, 'c'));
}

TEST_F_TIMEOUT(cowvolatile, reclaim_takes_a_shared_arena_only_from_volatile_owners, SLOW)
{
	long committed = module_stat("committed"), since[2];
	struct heap clone;

	ASSERT_EQ(0, bear(PARENT, CHILD));
	clone = heap_of(CHILD);
	for (int i = 0; i < 2; i++)
		since[i] = ask(CHILD, lend, 2 * i, 0, 0);
	shrink_everything();
	for (int i = 0; i < 2; i++)
		EXPECT_EQ(false, ask(CHILD, reclaim_back, 2 * i, since[i], 0));
	EXPECT_EQ(PAGES, ask(CHILD, failing, 0, PAGES, SIGBUS));
	EXPECT_EQ(ARENA, heap_stat(&clone, "committed"));
	EXPECT_EQ(0, ask(PARENT, spoiled, 0, 0, 0));
	EXPECT_EQ(committed, module_stat("committed"));

	/* This is the last owner. */
	lend(&self->heap, 0, 0, 0);
	shrink_everything();
	EXPECT_EQ(PAGES, failing(&self->heap, 0, PAGES, SIGBUS));
	EXPECT_TRUE(module_stat_becomes("committed", committed - ARENA));

	/* The parent's arena is volatile, the child keeps it. */
	EXPECT_EQ(0, ask(CHILD, mark, PAGES, 9, 'c'));
	lend(&self->heap, 1, 0, 0);
	shrink_everything();
	EXPECT_EQ(PAGES, failing(&self->heap, PAGES, PAGES, SIGBUS));
	EXPECT_EQ(0, ask(CHILD, unlike, PAGES, 9, 'c'));
	EXPECT_EQ(0, ask(CHILD, unlike, PAGES + 9, PAGES - 9, 'p'));
}

TEST_F_TIMEOUT(cowvolatile, reused_volatile_arena_is_still_copied, SLOW)
{
	long since;

	ASSERT_EQ(0, bear(PARENT, CHILD));
	since = ask(CHILD, lend, 0, 0, 0);
	ASSERT_EQ(true, ask(CHILD, reclaim_back, 0, since, 0));
	EXPECT_EQ(0, ask(CHILD, unlike, 0, PAGES, 'p'));
	EXPECT_EQ(0, ask(CHILD, mark, 0, PAGES, 'c'));
	EXPECT_EQ(0, ask(PARENT, spoiled, 0, 0, 0));
	/* The same with copies in the arena. */
	since = ask(CHILD, lend, 0, 0, 0);
	ASSERT_EQ(true, ask(CHILD, reclaim_back, 0, since, 0));
	EXPECT_EQ(0, ask(CHILD, unlike, 0, PAGES, 'c'));
	since = ask(CHILD, lend, 0, 0, 0);
	shrink_everything();
	EXPECT_EQ(false, ask(CHILD, reclaim_back, 0, since, 0));
	EXPECT_EQ(PAGES, ask(CHILD, failing, 0, PAGES, SIGBUS));
	EXPECT_EQ(0, ask(PARENT, spoiled, 0, 0, 0));
}

/* Releases and commits. */
FIXTURE(released) {
	struct balance before;
	struct heap heap;
};

FIXTURE_VARIANT(released) {
	int by;		/* the process that releases */
	int other;
};

FIXTURE_VARIANT_ADD(released, by_the_parent) {
	.by = PARENT, .other = CHILD,
};

FIXTURE_VARIANT_ADD(released, by_the_child) {
	.by = CHILD, .other = PARENT,
};

FIXTURE_SETUP(released)
{
	REQUIRE_MODULE();
	ASSERT_EQ(0, begin(&self->before, &self->heap));
}

FIXTURE_TEARDOWN(released)
{
	family_end();
	heap_destroy(&self->heap);
	EXPECT_BALANCE(&self->before);
}

TEST_F(released, other_side_keeps_released_memory)
{
	long committed = module_stat("committed");

	ASSERT_EQ(0, bear(PARENT, CHILD));
	EXPECT_EQ(0, ask(variant->by, release, 0, 1, 0));
	EXPECT_EQ(0, ask(variant->by, release_some, SPARSE + 5, 5, 0));
	EXPECT_EQ(KARENA_FREE, ask(variant->by, word, 0, 0, 0));
	EXPECT_EQ(PAGES, ask(variant->by, failing, 0, PAGES, SIGBUS));
	EXPECT_EQ(5, ask(variant->by, failing, SPARSE + 5, 5, SIGBUS));
	EXPECT_EQ(0, ask(variant->by, unlike, SPARSE, 5, 'p'));
	EXPECT_EQ(SIZE - (long)(ARENA + 5 * PAGE), stat_of(variant->by, "committed"));
	EXPECT_EQ(0, ask(variant->other, spoiled, 0, 0, 0));
	EXPECT_EQ(committed, module_stat("committed"));

	/* A new commit has zeros, whatever the other side has there. */
	EXPECT_EQ(0, ask(variant->by, commit, 0, 1, 0));
	EXPECT_EQ(0, ask(variant->by, commit_some, SPARSE + 5, 3, 0));
	EXPECT_EQ(0, ask(variant->by, nonzero, 0, PAGES, 0));
	EXPECT_EQ(0, ask(variant->by, nonzero, SPARSE + 5, 3, 0));
	EXPECT_EQ(0, ask(variant->by, mark, 0, PAGES, 'x'));
	EXPECT_EQ(0, ask(variant->other, spoiled, 0, 0, 0));
	EXPECT_EQ(committed + ARENA + 3 * PAGE, module_stat("committed"));
}

/* A release or reclaim does not unmap the memory of the other side. */
TEST_F(released, other_side_keeps_its_mappings)
{
	ASSERT_EQ(0, bear(PARENT, CHILD));
	for (int who = PARENT; who <= CHILD; who++) {
		EXPECT_EQ(0, ask(who, unlike, 0, 2 * PAGES, 'p'));
		EXPECT_EQ(2, ask(who, pmds, 0, 0, 0));
	}
	EXPECT_EQ(0, ask(variant->by, release, 0, 1, 0));
	EXPECT_EQ(1, ask(variant->by, pmds, 0, 0, 0));
	EXPECT_EQ(2, ask(variant->other, pmds, 0, 0, 0));
	ask(variant->by, lend, 1, 0, 0);
	shrink_everything();
	EXPECT_EQ(0, ask(variant->by, pmds, 0, 0, 0));
	EXPECT_EQ(2, ask(variant->other, pmds, 0, 0, 0));
	EXPECT_EQ(0, ask(variant->other, spoiled, 0, 0, 0));
}

/* Less than half of a huge arena: the pages are cleared, only for the releasing process. */
TEST_F(released, few_released_pages_are_cleared_for_one_side)
{
	long committed = module_stat("committed");

	ASSERT_EQ(0, bear(PARENT, CHILD));
	EXPECT_EQ(0, ask(variant->by, release_some, 100, 255, 0));
	EXPECT_EQ(0, ask(variant->by, nonzero, 100, 255, 0));
	EXPECT_EQ(0, ask(variant->by, unlike, 0, 100, 'p'));
	EXPECT_EQ(0, ask(variant->by, unlike, 355, 157, 'p'));
	EXPECT_EQ(0, ask(variant->other, spoiled, 0, 0, 0));
	EXPECT_EQ(SIZE, stat_of(variant->by, "committed"));
	EXPECT_LE(module_stat("committed"), committed + 255 * (long)PAGE);

	EXPECT_EQ(0, ask(variant->by, mark, 100, 255, 'x'));
	EXPECT_EQ(0, ask(variant->by, unlike, 100, 255, 'x'));
	EXPECT_EQ(0, ask(variant->other, spoiled, 0, 0, 0));
	/* Some of these pages are copies already. */
	EXPECT_EQ(0, ask(variant->by, release_some, 90, 100, 0));
	EXPECT_EQ(0, ask(variant->by, nonzero, 90, 100, 0));
	EXPECT_EQ(0, ask(variant->by, unlike, 190, 165, 'x'));
	EXPECT_EQ(0, ask(variant->other, spoiled, 0, 0, 0));
}

/* The other side releases too, and then is the only owner of the frame. */
TEST_F(released, both_sides_may_clear_pages)
{
	ASSERT_EQ(0, bear(PARENT, CHILD));
	EXPECT_EQ(0, ask(variant->by, release_some, 100, 50, 0));
	EXPECT_EQ(0, ask(variant->other, release_some, 120, 50, 0));
	EXPECT_EQ(0, ask(variant->by, nonzero, 100, 50, 0));
	EXPECT_EQ(0, ask(variant->by, unlike, 150, 20, 'p'));
	EXPECT_EQ(0, ask(variant->other, nonzero, 120, 50, 0));
	EXPECT_EQ(0, ask(variant->other, unlike, 100, 20, 'p'));
	EXPECT_EQ(0, ask(variant->by, mark, 100, 10, 'x'));
	EXPECT_EQ(0, variant->by == PARENT ? end(CHILD) : ask(PARENT, release, 0, 1, 0));
	ASSERT_EQ(0, ask(variant->by, renew, 0, 1, 0));
	EXPECT_EQ(0, ask(variant->by, unlike, 0, 100, 'p'));
	EXPECT_EQ(0, ask(variant->by, unlike, 100, 10, 'x'));
	EXPECT_EQ(0, ask(variant->by, nonzero, 110, 40, 0));
	EXPECT_EQ(0, ask(variant->by, unlike, 150, PAGES - 150, 'p'));
	EXPECT_EQ(2, stat_of(variant->by, "huge_arenas"));
}

TEST_F(released, release_of_most_of_an_arena_makes_one_side_sparse)
{
	ASSERT_EQ(0, bear(PARENT, CHILD));
	EXPECT_EQ(0, ask(variant->by, release_some, 100, 400, 0));
	EXPECT_EQ(KARENA_ACTIVE | KARENA_SPARSE, ask(variant->by, word, 0, 0, 0));
	EXPECT_EQ(KARENA_ACTIVE, ask(variant->other, word, 0, 0, 0));
	EXPECT_EQ(400, ask(variant->by, failing, 100, 400, SIGBUS));
	EXPECT_EQ(0, ask(variant->by, unlike, 0, 100, 'p'));
	EXPECT_EQ(0, ask(variant->by, unlike, 500, 12, 'p'));
	EXPECT_EQ(SIZE - 400 * (long)PAGE, stat_of(variant->by, "committed"));
	EXPECT_EQ(0, ask(variant->other, spoiled, 0, 0, 0));

	EXPECT_EQ(0, ask(variant->by, commit_some, 200, 100, 0));
	EXPECT_EQ(0, ask(variant->by, nonzero, 200, 100, 0));
	EXPECT_EQ(0, ask(variant->by, mark, 200, 100, 'x'));
	EXPECT_EQ(0, ask(variant->by, mark, 0, 50, 'x'));
	EXPECT_EQ(0, ask(variant->other, spoiled, 0, 0, 0));
	EXPECT_EQ(0, ask(variant->by, unlike, 50, 50, 'p'));
	EXPECT_EQ(0, ask(variant->by, unlike, 200, 100, 'x'));
}

/* The arena has copies, both among the shared pages and in the released range. */
TEST_F(released, arena_with_copies_can_be_released_in_parts)
{
	ASSERT_EQ(0, bear(PARENT, CHILD));
	EXPECT_EQ(0, ask(variant->by, mark, 90, 20, 'x'));
	EXPECT_EQ(0, ask(variant->by, mark, 490, 20, 'x'));
	EXPECT_EQ(0, ask(variant->by, release_some, 100, 400, 0));
	EXPECT_EQ(400, ask(variant->by, failing, 100, 400, SIGBUS));
	EXPECT_EQ(0, ask(variant->by, unlike, 0, 90, 'p'));
	EXPECT_EQ(0, ask(variant->by, unlike, 90, 10, 'x'));
	EXPECT_EQ(0, ask(variant->by, unlike, 500, 10, 'x'));
	EXPECT_EQ(0, ask(variant->by, unlike, 510, 2, 'p'));
	EXPECT_EQ(0, ask(variant->other, spoiled, 0, 0, 0));
	EXPECT_EQ(0, ask(variant->by, release_some, 0, PAGES, 0));
	EXPECT_EQ(PAGES, ask(variant->by, failing, 0, PAGES, SIGBUS));
	EXPECT_EQ(0, ask(variant->by, commit, 0, 1, 0));
	EXPECT_EQ(0, ask(variant->by, nonzero, 0, PAGES, 0));
	EXPECT_EQ(0, ask(variant->other, spoiled, 0, 0, 0));
}

TEST_F(released, memory_released_before_the_fork_is_free_on_both_sides)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, release_some(heap, 100, 50, 0));
	ASSERT_EQ(0, release_some(heap, PAGES + 100, 400, 0));
	ASSERT_EQ(0, release_some(heap, SPARSE + 5, 5, 0));
	ASSERT_EQ(0, bear(PARENT, CHILD));
	for (int who = PARENT; who <= CHILD; who++) {
		EXPECT_EQ(0, ask(who, nonzero, 100, 50, 0));
		EXPECT_EQ(400, ask(who, failing, PAGES + 100, 400, SIGBUS));
		EXPECT_EQ(5, ask(who, failing, SPARSE + 5, 5, SIGBUS));
		EXPECT_EQ(0, ask(who, unlike, PAGES, 100, 'p'));
	}
	EXPECT_EQ(0, ask(variant->by, commit_some, PAGES + 100, 50, 0));
	EXPECT_EQ(0, ask(variant->by, nonzero, PAGES + 100, 50, 0));
	EXPECT_EQ(0, ask(variant->by, mark, PAGES + 50, 100, 'x'));
	EXPECT_EQ(400, ask(variant->other, failing, PAGES + 100, 400, SIGBUS));
	EXPECT_EQ(0, ask(variant->other, unlike, PAGES, 100, 'p'));
	EXPECT_EQ(0, ask(variant->by, unlike, PAGES + 50, 100, 'x'));
}

TEST_F(released, memory_committed_after_the_fork_is_not_shared)
{
	ASSERT_EQ(0, bear(PARENT, CHILD));
	for (int who = PARENT; who <= CHILD; who++) {
		EXPECT_EQ(0, ask(who, commit, 3, 2, 0));
		EXPECT_EQ(0, ask(who, commit_some, SPARSE + 100, 20, 0));
		EXPECT_EQ(0, ask(who, nonzero, 3 * PAGES, 2 * PAGES, 0));
		EXPECT_EQ(0, ask(who, nonzero, SPARSE + 100, 20, 0));
		EXPECT_EQ(0, ask(who, mark, 3 * PAGES, 2 * PAGES, 'a' + who));
		EXPECT_EQ(0, ask(who, mark, SPARSE + 100, 20, 'a' + who));
	}
	EXPECT_EQ(0, stat_of(variant->by, "copies"));
	EXPECT_EQ(0, ask(variant->by, release, 3, 1, 0));
	EXPECT_EQ(0, ask(variant->other, unlike, 3 * PAGES, 2 * PAGES,
			 'a' + variant->other));
	EXPECT_EQ(0, ask(variant->other, unlike, SPARSE + 100, 20, 'a' + variant->other));
	EXPECT_EQ(0, ask(variant->by, unlike, 4 * PAGES, PAGES, 'a' + variant->by));
	/* The parent still has its earlier mappings. */
	EXPECT_EQ(variant->by == PARENT ? 3 : 1, ask(variant->by, pmds, 0, 0, 0));
}

TEST_HARNESS_MAIN
