// SPDX-License-Identifier: GPL-2.0
/*
 * Clones: the copy-on-write heap of a child is a heap of its own, with its own number,
 * limits, state words, pressure and directory. Nothing that the child does changes the
 * parent's. cow.c tests the pages.
 */
#include <poll.h>

#include "family.h"

#define NR	8	/* arenas of the window */

static long soft_limit(struct heap *heap, long flags, long bytes, long c)
{
	struct karena_limit args = {
		.size = sizeof(args), .flags = flags, .soft = bytes,
	};

	(void)c;
	return heap_call(heap, KARENA_LIMIT, &args) ?: (long)args.soft;
}

/* From now on this process uses a new descriptor, found by the heap's address. */
static long attach_anew(struct heap *heap, long a, long b, long c)
{
	struct karena_attach attach = {
		.size = sizeof(attach), .address = (uintptr_t)heap->window,
	};
	int fd = device_call(KARENA_ATTACH, &attach);

	(void)a, (void)b, (void)c;
	if (fd < 0)
		return fd;
	close(heap->fd);
	heap->fd = fd;
	return 0;
}

static long set_word(struct heap *heap, long index, long word, long c)
{
	(void)c;
	set_state(heap, index, 1, word);
	return 0;
}

static long own_pid(struct heap *heap, long a, long b, long c)
{
	(void)heap, (void)a, (void)b, (void)c;
	return getpid();
}

FIXTURE(clone) {
	struct balance before;
	struct heap heap;
};

/* Two arenas with all pages marked. */
FIXTURE_SETUP(clone)
{
	REQUIRE_MODULE();
	balance_read(&self->before);
	ASSERT_EQ(0, heap_open(&self->heap, NR * ARENA, 0));
	ASSERT_EQ(0, family_make(&self->heap));
	expect_signals();
	ASSERT_EQ(0, commit(&self->heap, 0, 2, 0));
	ASSERT_EQ(0, mark(&self->heap, 0, 2 * PAGES, 'p'));
}

FIXTURE_TEARDOWN(clone)
{
	family_end();
	heap_destroy(&self->heap);
	EXPECT_BALANCE(&self->before);
}

TEST_F(clone, clone_has_its_own_number)
{
	long numbers[4];

	numbers[PARENT] = self->heap.id;
	for (int who = CHILD; who <= GREATGRANDCHILD; who++) {
		ASSERT_EQ(0, bear(who == GREATGRANDCHILD ? CHILD : who - 1, who));
		numbers[who] = ask(who, own_number, 0, 0, 0);
		EXPECT_EQ(numbers[who], ask(who, attached, 1, 0, 0));
		for (int other = PARENT; other < who; other++)
			EXPECT_GT(numbers[who], numbers[other]);
	}
	EXPECT_EQ(self->heap.id, ask(PARENT, own_number, 0, 0, 0));
	EXPECT_EQ(numbers[PARENT], stat_of(CHILD, "parent"));
	EXPECT_EQ(numbers[CHILD], stat_of(GRANDCHILD, "parent"));
	EXPECT_EQ(numbers[CHILD], stat_of(GREATGRANDCHILD, "parent"));
	EXPECT_EQ(0, stat_of(PARENT, "parent"));
	EXPECT_EQ(self->before.nr_heaps + 4, module_stat("nr_heaps"));
}

TEST_F_TIMEOUT(clone, directory_of_clone_describes_it, SLOW)
{
	struct heap clone;

	ASSERT_EQ(6 * ARENA, hard_limit(&self->heap, KARENA_LIMIT_HARD, 6 * ARENA, 0));
	ASSERT_EQ(5 * ARENA, soft_limit(&self->heap, KARENA_LIMIT_SOFT, 5 * ARENA, 0));
	ASSERT_TRUE(heap_ready_becomes(&self->heap, KARENA_NODE_ANY, 3, 3));
	ASSERT_EQ(0, bear(PARENT, CHILD));
	ASSERT_EQ(0, ask(CHILD, unlike, 0, 2 * PAGES, 'p'));
	clone = heap_of(CHILD);
	EXPECT_EQ(ask(CHILD, own_pid, 0, 0, 0), heap_stat(&clone, "pid"));
	EXPECT_EQ(getpid(), heap_stat(&self->heap, "pid"));
	EXPECT_TRUE(heap_says(&clone, "name", "selftest"));
	EXPECT_TRUE(heap_says(&clone, "fork", "cow"));
	EXPECT_TRUE(heap_says(&clone, "policy", "default"));
	EXPECT_EQ(self->heap.id, heap_stat(&clone, "parent"));
	EXPECT_EQ(NR * ARENA, heap_stat(&clone, "window"));
	EXPECT_EQ(6 * ARENA, heap_stat(&clone, "limit"));
	EXPECT_EQ(5 * ARENA, heap_stat(&clone, "soft_limit"));
	EXPECT_EQ(2 * ARENA, heap_stat(&clone, "committed"));
	EXPECT_EQ(2, heap_stat(&clone, "huge_arenas"));
	EXPECT_EQ(2 * ARENA, heap_stat(&clone, "shared"));
	EXPECT_EQ(2 * ARENA, heap_stat(&self->heap, "shared"));
	EXPECT_EQ(0, heap_stat(&clone, "ready_frames"));
	EXPECT_EQ(0, heap_stat(&clone, "copies"));
	EXPECT_EQ(0, heap_stat(&clone, "promoted"));
	EXPECT_EQ(0, end(CHILD));
	EXPECT_TRUE(heap_stat_becomes(&self->heap, "shared", 0));
}

TEST_F_TIMEOUT(clone, limits_are_separate, SLOW)
{
	ASSERT_EQ(0, bear(PARENT, CHILD));
	for (int round = 0; round < 2; round++) {
		/* With the inherited descriptor, and with one from ATTACH. */
		EXPECT_EQ(3 * ARENA, ask(CHILD, hard_limit, KARENA_LIMIT_HARD,
					 3 * ARENA, 0));
		EXPECT_EQ(2 * ARENA, ask(CHILD, soft_limit, KARENA_LIMIT_SOFT,
					 2 * ARENA, 0));
		EXPECT_EQ(NR * ARENA, ask(PARENT, hard_limit, 0, 0, 0));
		EXPECT_EQ(0, ask(PARENT, soft_limit, 0, 0, 0));
		EXPECT_EQ(-ENOMEM, ask(CHILD, commit, 2, 2, 0));
		EXPECT_EQ(0, ask(CHILD, release, 2, 2, 0));
		EXPECT_EQ(0, ask(PARENT, commit, 2, 6, 0));
		EXPECT_EQ(0, ask(PARENT, release, 2, 6, 0));
		EXPECT_EQ(0, ask(CHILD, attach_anew, 0, 0, 0));
	}
	EXPECT_EQ(4 * ARENA, ask(PARENT, hard_limit, KARENA_LIMIT_HARD, 4 * ARENA, 0));
	EXPECT_EQ(3 * ARENA, ask(CHILD, hard_limit, 0, 0, 0));
	EXPECT_EQ(3 * ARENA, stat_of(CHILD, "limit"));
	EXPECT_EQ(4 * ARENA, stat_of(PARENT, "limit"));
}

static int limit_by_root(const struct heap *heap, const char *bytes)
{
	char path[64];

	if (!directory_appears(heap->id))
		return -ENOENT;
	snprintf(path, sizeof(path), SYSFS "/heaps/%llu/limit",
		 (unsigned long long)heap->id);
	return write_text(path, bytes);
}

static long drop_rights(struct heap *heap, long a, long b, long c)
{
	(void)heap, (void)a, (void)b, (void)c;
	return become_nobody() ? 0 : -EPERM;
}

/* A fork must not let a process raise its limit. */
TEST_F(clone, limit_set_by_root_binds_the_clone)
{
	struct heap clone;

	ASSERT_EQ(0, limit_by_root(&self->heap, "6291456"));
	ASSERT_EQ(0, bear(PARENT, CHILD));
	ASSERT_EQ(0, ask(CHILD, drop_rights, 0, 0, 0));
	EXPECT_EQ(3 * ARENA, ask(CHILD, hard_limit, 0, 0, 0));
	EXPECT_EQ(-EPERM, ask(CHILD, hard_limit, KARENA_LIMIT_HARD, 4 * ARENA, 0));
	EXPECT_EQ(2 * ARENA, ask(CHILD, hard_limit, KARENA_LIMIT_HARD, 2 * ARENA, 0));
	/* A limit that root sets on one heap does not change the other. */
	clone = heap_of(CHILD);
	ASSERT_EQ(0, limit_by_root(&clone, "10485760"));
	EXPECT_EQ(5 * ARENA, ask(CHILD, hard_limit, 0, 0, 0));
	EXPECT_EQ(3 * ARENA, ask(PARENT, hard_limit, 0, 0, 0));
}

TEST_F(clone, state_words_are_separate)
{
	ASSERT_EQ(0, ask(PARENT, commit_some, 3 * PAGES + 3, 4, 0));
	ASSERT_EQ(0, ask(PARENT, set_word, 4, KARENA_REQUESTED, 0));
	ASSERT_EQ(0, bear(PARENT, CHILD));
	for (int i = 0; i < NR; i++)
		EXPECT_EQ(state(&self->heap, i), ask(CHILD, word, i, 0, 0));
	EXPECT_EQ(0, ask(CHILD, set_word, 5, KARENA_REQUESTED, 0));
	EXPECT_EQ(KARENA_FREE, ask(PARENT, word, 5, 0, 0));
	EXPECT_EQ(0, ask(PARENT, set_word, 6, KARENA_REQUESTED, 0));
	EXPECT_EQ(KARENA_FREE, ask(CHILD, word, 6, 0, 0));
	EXPECT_EQ(0, ask(CHILD, release, 0, 1, 0));
	EXPECT_EQ(KARENA_ACTIVE, ask(PARENT, word, 0, 0, 0));
	EXPECT_EQ(0, ask(PARENT, release, 1, 1, 0));
	EXPECT_EQ(KARENA_ACTIVE, ask(CHILD, word, 1, 0, 0));
}

static long header_is(struct heap *heap, long index, long b, long c)
{
	const struct karena_control *control = heap->control;

	(void)b;
	(void)c;
	switch (index) {
	case 0:
		return control->abi_version;
	case 1:
		return control->arena_shift;
	case 2:
		return control->nr_arenas;
	case 3:
		return control->states_offset;
	case 4:
		return control->stats_offset;
	case 5:
		return control->reserved[0];
	}
	return -1;
}

TEST_F(clone, other_members_of_the_control_header_are_equal)
{
	ASSERT_EQ(0, bear(PARENT, CHILD));
	ASSERT_EQ(0, bear(CHILD, GRANDCHILD));
	for (int i = 0; i < 6; i++) {
		EXPECT_EQ(header_is(&self->heap, i, 0, 0), ask(CHILD, header_is, i, 0, 0));
		EXPECT_EQ(header_is(&self->heap, i, 0, 0),
			  ask(GRANDCHILD, header_is, i, 0, 0));
	}
	EXPECT_EQ(KARENA_ABI_VERSION, ask(GRANDCHILD, header_is, 0, 0, 0));
}

static struct karena_stats *statistics(struct heap *heap)
{
	return (void *)((char *)heap->control + heap->control->stats_offset);
}

static long say(struct heap *heap, long pools, long b, long c)
{
	struct karena_stats *stats = statistics(heap);

	(void)b;
	(void)c;
	stats->version = KARENA_STATS_VERSION;
	stats->pools = pools;
	stats->domain[KARENA_DOMAINS - 1].bytes = 10 * pools;
	return 0;
}

static long said(struct heap *heap, long a, long b, long c)
{
	const struct karena_stats *stats = statistics(heap);

	(void)a, (void)b, (void)c;
	if (stats->version != KARENA_STATS_VERSION ||
	    stats->domain[KARENA_DOMAINS - 1].bytes != 10 * stats->pools)
		return -EPROTO;
	return stats->pools;
}

/* The library of the child continues counting from the parent's numbers. */
TEST_F(clone, statistics_start_with_those_of_the_parent)
{
	ASSERT_EQ(0, ask(PARENT, say, 11, 0, 0));
	ASSERT_EQ(0, bear(PARENT, CHILD));
	EXPECT_EQ(11, ask(CHILD, said, 0, 0, 0));
	EXPECT_EQ(0, ask(CHILD, say, 22, 0, 0));
	EXPECT_EQ(11, ask(PARENT, said, 0, 0, 0));
	EXPECT_EQ(0, ask(PARENT, say, 33, 0, 0));
	EXPECT_EQ(22, ask(CHILD, said, 0, 0, 0));
	EXPECT_EQ(22, stat_of(CHILD, "statistics/pools"));
	EXPECT_EQ(220, stat_of(CHILD, "statistics/obj_bytes"));
	EXPECT_EQ(33, stat_of(PARENT, "statistics/pools"));
}

static long pressure(struct heap *heap, long a, long b, long c)
{
	(void)a, (void)b, (void)c;
	return __atomic_load_n(&heap->control->pressure, __ATOMIC_ACQUIRE);
}

/* Return 1 if poll() reports pressure. */
static long polled(struct heap *heap, long a, long b, long c)
{
	struct pollfd pollfd = { .fd = heap->fd, .events = POLLPRI };

	(void)a, (void)b, (void)c;
	return poll(&pollfd, 1, 0) < 0 ? -errno : !!(pollfd.revents & POLLPRI);
}

/* Pressure comes only from the limit of the heap here; nothing else raises it. */
TEST_F_TIMEOUT(clone, pressure_is_separate, SLOW)
{
	ASSERT_EQ(0, bear(PARENT, CHILD));
	for (int round = 0; round < 2; round++) {
		int who = round ? PARENT : CHILD, other = round ? CHILD : PARENT;

		ASSERT_EQ(0, KARENA_PRESSURE_LEVEL(ask(who, pressure, 0, 0, 0)));
		ASSERT_EQ(2 * ARENA, ask(who, hard_limit, KARENA_LIMIT_HARD,
					 2 * ARENA, 0));
		ASSERT_EQ(-ENOMEM, ask(who, commit, 2, 1, 0));
		EXPECT_EQ(KARENA_PRESSURE_HIGH,
			  KARENA_PRESSURE_LEVEL(ask(who, pressure, 0, 0, 0)));
		EXPECT_EQ(1, ask(who, polled, 0, 0, 0));
		EXPECT_EQ(0, KARENA_PRESSURE_LEVEL(ask(other, pressure, 0, 0, 0)));
		EXPECT_EQ(0, ask(other, polled, 0, 0, 0));
		if (!round)
			EXPECT_EQ(0, stat_of(other, "pressure_events"));
		/* The pressure falls by itself, only in the heap that had it. */
		for (int i = 0; i < 100 && ask(who, polled, 0, 0, 0); i++)
			usleep(50000);
		EXPECT_EQ(0, KARENA_PRESSURE_LEVEL(ask(who, pressure, 0, 0, 0)));
	}
}

TEST_F_TIMEOUT(clone, inherited_descriptor_controls_only_the_clone, SLOW)
{
	struct heap *heap = &self->heap;

	for (int round = 0; round < 2; round++) {
		ASSERT_EQ(0, bear(PARENT, CHILD));
		if (round)
			ASSERT_EQ(0, ask(CHILD, attach_anew, 0, 0, 0));
		EXPECT_EQ(0, ask(CHILD, by_call, KARENA_COMMIT, 2 * PAGES, 700));
		EXPECT_EQ(0, ask(CHILD, mark, 2 * PAGES, 700, 'c'));
		EXPECT_EQ(KARENA_FREE, ask(PARENT, word, 2, 0, 0));
		EXPECT_EQ(700, failing(heap, 2 * PAGES, 700, SIGBUS));
		EXPECT_EQ(2 * ARENA, heap_stat(heap, "committed"));
		EXPECT_EQ(2 * ARENA + 700 * PAGE, stat_of(CHILD, "committed"));

		EXPECT_EQ(0, ask(CHILD, by_call, KARENA_RELEASE, 0, PAGES));
		EXPECT_EQ(PAGES, ask(CHILD, failing, 0, PAGES, SIGBUS));
		EXPECT_EQ(0, ask(CHILD, punch, PAGES, PAGES, 0));
		EXPECT_EQ(PAGES, ask(CHILD, failing, PAGES, PAGES, SIGBUS));
		EXPECT_EQ(0, unlike(heap, 0, 2 * PAGES, 'p'));
		EXPECT_EQ(2 * ARENA, heap_stat(heap, "committed"));
		EXPECT_EQ(700 * PAGE, stat_of(CHILD, "committed"));
		EXPECT_EQ(0, ask(CHILD, unlike, 2 * PAGES, 700, 'c'));

		/* The parent's descriptor still controls only the parent's heap. */
		EXPECT_EQ(0, ask(PARENT, by_call, KARENA_COMMIT, 4 * PAGES, PAGES));
		EXPECT_EQ(KARENA_FREE, ask(CHILD, word, 4, 0, 0));
		EXPECT_EQ(PAGES, ask(CHILD, failing, 4 * PAGES, PAGES, SIGBUS));
		EXPECT_EQ(0, ask(PARENT, by_call, KARENA_RELEASE, 4 * PAGES, PAGES));
		EXPECT_EQ(0, end(CHILD));
	}
}

static long ready_frames(struct heap *heap, long count, long b, long c)
{
	(void)b;
	(void)c;
	return heap_ready_becomes(heap, KARENA_NODE_ANY, count, count);
}

TEST_F_TIMEOUT(clone, ready_frames_are_separate, SLOW)
{
	ASSERT_EQ(true, ask(PARENT, ready_frames, 2, 0, 0));
	ASSERT_EQ(0, bear(PARENT, CHILD));
	EXPECT_EQ(0, stat_of(CHILD, "ready_frames"));
	EXPECT_EQ(true, ask(CHILD, ready_frames, 3, 0, 0));
	EXPECT_EQ(3, stat_of(CHILD, "ready_frames"));
	EXPECT_EQ(2, stat_of(PARENT, "ready_frames"));
	EXPECT_EQ(0, ask(CHILD, commit, 2, 3, 0));
	EXPECT_EQ(0, ask(CHILD, nonzero, 2 * PAGES, 3 * PAGES, 0));
	EXPECT_EQ(0, end(CHILD));
	EXPECT_EQ(2, stat_of(PARENT, "ready_frames"));
}

/* The inherited descriptor maps the child's own memory. */
TEST_F(clone, whole_arenas_can_be_remapped_in_place)
{
	ASSERT_EQ(0, bear(PARENT, CHILD));
	ASSERT_EQ(0, ask(CHILD, mark, PAGES + 10, 5, 'c'));
	ASSERT_EQ(0, ask(CHILD, renew, 1, 1, 0));
	EXPECT_EQ(0, ask(CHILD, unlike, PAGES + 10, 5, 'c'));
	EXPECT_EQ(0, ask(CHILD, unlike, PAGES + 15, PAGES - 15, 'p'));
	EXPECT_EQ(0, ask(CHILD, mark, PAGES + 20, 5, 'd'));
	ASSERT_EQ(0, ask(CHILD, attach_anew, 0, 0, 0));
	ASSERT_EQ(0, ask(CHILD, renew, 0, 2, 0));
	EXPECT_EQ(0, ask(CHILD, unlike, PAGES + 20, 5, 'd'));
	EXPECT_EQ(0, ask(CHILD, unlike, 0, PAGES + 10, 'p'));
	EXPECT_EQ(0, ask(PARENT, unlike, 0, 2 * PAGES, 'p'));
	ASSERT_EQ(0, ask(PARENT, renew, 0, 2, 0));
	EXPECT_EQ(0, ask(PARENT, unlike, 0, 2 * PAGES, 'p'));
}

TEST_F(clone, clone_ends_with_its_mappings_and_descriptors)
{
	ASSERT_EQ(0, bear(PARENT, CHILD));
	ASSERT_EQ(0, ask(CHILD, mark, 0, 50, 'c'));
	EXPECT_EQ(self->before.nr_heaps + 2, module_stat("nr_heaps"));
	ASSERT_EQ(0, ask(CHILD, give_up, 0, 0, 0));
	EXPECT_TRUE(module_stat_becomes("nr_heaps", self->before.nr_heaps + 1));
	EXPECT_TRUE(module_stat_becomes("committed", self->before.committed + 2 * ARENA));
	EXPECT_EQ(0, ask(CHILD, locked, 0, 0, 0));
	EXPECT_EQ(PAGES, ask(CHILD, failing, 0, PAGES, SIGSEGV));
	EXPECT_EQ(0, unlike(&self->heap, 0, 2 * PAGES, 'p'));
	EXPECT_EQ(0, end(CHILD));
}

TEST_F(clone, clone_needs_no_descriptor)
{
	ASSERT_EQ(0, ask(PARENT, close_it, 0, 0, 0));
	self->heap.fd = -1;
	ASSERT_EQ(0, bear(PARENT, CHILD));
	ASSERT_EQ(0, bear(CHILD, GRANDCHILD));
	for (int who = PARENT; who <= GRANDCHILD; who++) {
		EXPECT_EQ(0, ask(who, unlike, 0, 2 * PAGES, 'p'));
		EXPECT_EQ(0, ask(who, mark, 10 * who, 10, 'a'));
		EXPECT_EQ(0, ask(who, commit, 3, 1, 0));
		EXPECT_EQ(0, ask(who, release_some, PAGES, 400, 0));
		EXPECT_EQ(400, ask(who, failing, PAGES, 400, SIGBUS));
		EXPECT_EQ(0, ask(who, unlike, PAGES + 400, 112, 'p'));
	}
}

/* The first heap has ended. Its clone is a heap like any other. */
TEST_F(clone, clone_survives_unmap_of_the_first_heap)
{
	struct heap clone;

	ASSERT_EQ(0, bear(PARENT, CHILD));
	ASSERT_EQ(0, ask(CHILD, mark, 0, 10, 'c'));
	ASSERT_EQ(0, mark(&self->heap, 10, 10, 'x'));
	clone = heap_of(CHILD);
	/* The child inherited the parent's descriptor, which keeps both heaps. */
	ASSERT_EQ(0, ask(CHILD, close_it, 0, 0, 0));
	heap_destroy(&self->heap);
	ASSERT_TRUE(module_stat_becomes("nr_heaps", self->before.nr_heaps + 1));
	EXPECT_TRUE(pinned_becomes(self->before.locked));
	EXPECT_EQ(0, ask(CHILD, unlike, 0, 10, 'c'));
	EXPECT_EQ(0, ask(CHILD, unlike, 10, 2 * PAGES - 10, 'p'));
	EXPECT_TRUE(heap_stat_becomes(&clone, "shared", 0));
	EXPECT_EQ(0, ask(CHILD, mark, 10, 2 * PAGES - 10, 'd'));
	EXPECT_EQ(0, ask(CHILD, commit, 2, 2, 0));
	EXPECT_EQ(0, ask(CHILD, nonzero, 2 * PAGES, 2 * PAGES, 0));
	EXPECT_EQ(4 * ARENA, heap_stat(&clone, "committed"));
	EXPECT_EQ(0, ask(CHILD, release, 0, 4, 0));
	EXPECT_TRUE(module_stat_becomes("committed", self->before.committed));
	EXPECT_EQ(0, end(CHILD));
	/* The teardown destroys this heap. */
	ASSERT_EQ(0, heap_open(&self->heap, ARENA, 0));
}

/*
 * The child inherits a descriptor but no mapping, so there is no clone, and the descriptor
 * gives no access to the parent's heap.
 */
TEST_F(clone, descriptor_without_mapping_makes_no_clone)
{
	struct heap heap;

	ASSERT_EQ(0, heap_open(&heap, 2 * ARENA, 0));
	ASSERT_EQ(0, heap_commit(&heap, 0, 1));
	ASSERT_EQ(0, mark(&heap, 0, PAGES, 'f'));
	munmap(heap.window, heap.size);
	munmap(heap.control, heap.control_size);
	ASSERT_EQ(0, bear(PARENT, CHILD));
	EXPECT_NE(0, ask_of(CHILD, &heap, by_call, KARENA_RELEASE, 0, PAGES));
	EXPECT_NE(0, ask_of(CHILD, &heap, punch, 0, PAGES, 0));
	EXPECT_NE(0, ask_of(CHILD, &heap, map_again, 0, 0, 0));
	EXPECT_EQ(ARENA, heap_stat(&heap, "committed"));
	EXPECT_EQ(0, end(CHILD));
	close(heap.fd);
}

static long protect(struct heap *heap, long first, long count, long prot)
{
	return mprotect(page_at(heap, first), count * PAGE, prot) ? -errno : 0;
}

static long unmap(struct heap *heap, long first, long count, long c)
{
	(void)c;
	return munmap(page_at(heap, first), count * PAGE) ? -errno : 0;
}

TEST_F_TIMEOUT(clone, protected_and_unmapped_parts_stay_so_in_the_clone, SLOW)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, protect(heap, 100, 10, PROT_READ));
	ASSERT_EQ(0, protect(heap, 200, 10, PROT_NONE));
	ASSERT_EQ(0, unmap(heap, 300, 10, 0));
	ASSERT_EQ(0, unmap(heap, PAGES + 500, 12, 0));
	ASSERT_EQ(0, unmap(heap, 6 * PAGES, PAGES, 0));
	ASSERT_EQ(0, bear(PARENT, CHILD));
	EXPECT_EQ(0, ask(CHILD, unlike, 0, 200, 'p'));
	EXPECT_EQ(-SIGSEGV, ask(CHILD, mark, 105, 1, 'c'));
	EXPECT_EQ(10, ask(CHILD, failing, 200, 10, SIGSEGV));
	EXPECT_EQ(10, ask(CHILD, failing, 300, 10, SIGSEGV));
	EXPECT_EQ(0, ask(CHILD, unlike, 310, PAGES + 190, 'p'));
	EXPECT_EQ(12, ask(CHILD, failing, PAGES + 500, 12, SIGSEGV));

	/*
	 * After mprotect() allows access, the child finds the data and writes to its own
	 * copy.
	 */
	ASSERT_EQ(0, ask(CHILD, protect, 100, 110, PROT_READ | PROT_WRITE));
	EXPECT_EQ(0, ask(CHILD, unlike, 100, 200, 'p'));
	EXPECT_EQ(0, ask(CHILD, mark, 100, 110, 'c'));
	EXPECT_EQ(0, ask(CHILD, unlike, 100, 110, 'c'));
	ASSERT_EQ(0, protect(heap, 100, 110, PROT_READ | PROT_WRITE));
	EXPECT_EQ(0, unlike(heap, 0, 300, 'p'));
	EXPECT_EQ(0, mark(heap, 0, 300, 'q'));
	EXPECT_EQ(0, ask(CHILD, unlike, 100, 110, 'c'));
	EXPECT_EQ(0, ask(CHILD, unlike, 210, 90, 'p'));

	/* mprotect() in the child does not affect the parent. */
	ASSERT_EQ(0, ask(CHILD, protect, 0, PAGES / 2, PROT_READ));
	EXPECT_EQ(0, mark(heap, 0, 10, 'r'));
	EXPECT_EQ(0, ask(CHILD, unlike, 0, 10, 'p'));
	EXPECT_EQ(-SIGSEGV, ask(CHILD, mark, 0, 1, 'c'));
}

TEST_F(clone, each_heap_has_its_own_clone)
{
	struct heap other;

	ASSERT_EQ(0, heap_open(&other, 4 * ARENA, 0));
	ASSERT_EQ(0, heap_commit(&other, 0, 2));
	ASSERT_EQ(0, mark(&other, 0, 2 * PAGES, 'o'));
	ASSERT_EQ(0, bear(PARENT, CHILD));
	EXPECT_NE(ask(CHILD, own_number, 0, 0, 0), ask_of(CHILD, &other, own_number, 0, 0, 0));
	EXPECT_EQ(ask(CHILD, own_number, 0, 0, 0), ask(CHILD, attached, 0, 0, 0));
	EXPECT_EQ(ask_of(CHILD, &other, own_number, 0, 0, 0),
		  ask_of(CHILD, &other, attached, 1, 0, 0));
	EXPECT_EQ(self->before.nr_heaps + 4, module_stat("nr_heaps"));
	EXPECT_EQ(self->before.committed + 4 * ARENA, module_stat("committed"));

	EXPECT_EQ(0, ask(CHILD, mark, 0, 100, 'c'));
	EXPECT_EQ(0, ask_of(CHILD, &other, unlike, 0, 2 * PAGES, 'o'));
	EXPECT_EQ(0, ask_of(CHILD, &other, mark, 50, 100, 'd'));
	EXPECT_EQ(0, ask(CHILD, unlike, 0, 100, 'c'));
	EXPECT_EQ(0, ask(CHILD, unlike, 100, 924, 'p'));
	EXPECT_EQ(0, ask_of(CHILD, &other, release, 1, 1, 0));
	EXPECT_EQ(0, ask_of(CHILD, &other, by_call, KARENA_RELEASE, 0, 10));
	EXPECT_EQ(0, ask(CHILD, unlike, 100, 924, 'p'));
	EXPECT_EQ(0, unlike(&self->heap, 0, 2 * PAGES, 'p'));
	EXPECT_EQ(0, unlike(&other, 0, 2 * PAGES, 'o'));
	/* The child drops its clone of the first heap, the parent drops the second heap. */
	EXPECT_EQ(0, ask(CHILD, give_up, 0, 0, 0));
	EXPECT_EQ(0, ask_of(CHILD, &other, close_it, 0, 0, 0));
	heap_destroy(&other);
	EXPECT_TRUE(module_stat_becomes("nr_heaps", self->before.nr_heaps + 2));
	EXPECT_EQ(0, ask_of(CHILD, &other, unlike, 50, 100, 'd'));
	EXPECT_EQ(0, unlike(&self->heap, 0, 2 * PAGES, 'p'));
	EXPECT_EQ(0, end(CHILD));
}

static long make_a_heap(struct heap *heap, long arenas, long b, long c)
{
	(void)b;
	(void)c;
	return heap_open(heap, arenas * ARENA, 0) ?: heap_commit(heap, 0, arenas) ?:
	       mark(heap, 0, arenas * PAGES, 'h');
}

TEST_F(clone, child_can_create_its_own_heaps)
{
	static struct heap other;

	ASSERT_EQ(0, bear(PARENT, CHILD));
	ASSERT_EQ(0, ask_of(CHILD, &other, make_a_heap, 3, 0, 0));
	ASSERT_EQ(0, bear(CHILD, GRANDCHILD));
	EXPECT_EQ(0, ask_of(GRANDCHILD, &other, unlike, 0, 3 * PAGES, 'h'));
	EXPECT_EQ(0, ask_of(GRANDCHILD, &other, mark, 9, 9, 'i'));
	EXPECT_EQ(0, ask_of(CHILD, &other, unlike, 0, 3 * PAGES, 'h'));
	EXPECT_EQ(0, ask(GRANDCHILD, unlike, 0, 2 * PAGES, 'p'));
	EXPECT_EQ(self->before.nr_heaps + 5, module_stat("nr_heaps"));
	EXPECT_EQ(0, end(CHILD));
	EXPECT_EQ(0, ask_of(GRANDCHILD, &other, unlike, 9, 9, 'i'));
	EXPECT_EQ(0, ask_of(GRANDCHILD, &other, unlike, 18, 3 * PAGES - 18, 'h'));
}

/*
 * Each process has its own locked memory. Neither RLIMIT_MEMLOCK nor another limit prevents
 * a fork or a copy.
 */
static void fork_at_the_limits(struct child *child)
{
	struct heap heap;
	pid_t pid;

	(void)child;
	heap_destroy(family.heap);
	CHECK(status_member("VmPin") == 0);
	CHECK(limit_locked_memory(8 * MIB));
	CHECK(become_nobody());
	CHECK(!heap_open(&heap, NR * ARENA, 0));
	CHECK(!heap_commit(&heap, 0, 4));
	CHECK(heap_commit(&heap, 4, 1) == -ENOMEM);
	CHECK(!mark(&heap, 0, 4 * PAGES, 'p'));
	CHECK(status_member("VmPin") == 4 * ARENA);
	pid = fork();
	CHECK(pid >= 0);
	CHECK(!unlike(&heap, 0, 4 * PAGES, 'p'));
	CHECK(status_member("VmPin") == 4 * ARENA);
	CHECK(heap_commit(&heap, 4, 1) == -ENOMEM);
	CHECK(!mark(&heap, 0, 4 * PAGES, pid ? 'q' : 'c'));
	CHECK(!unlike(&heap, 0, 4 * PAGES, pid ? 'q' : 'c'));
	CHECK(heap_commit(&heap, 4, 1) == -ENOMEM);
	CHECK(!heap_release(&heap, 0, 1));
	CHECK(!heap_commit(&heap, 4, 1));
	CHECK(!heap_release(&heap, 1, 2));
	CHECK(!mark(&heap, 3 * PAGES, PAGES, pid ? 'q' : 'c'));
	if (!pid)
		_exit(0);
	CHECK(!child_status(pid));
	CHECK(!heap_release(&heap, 0, 5));
	CHECK(pinned_becomes(0));
}

TEST_F(clone, locked_memory_limit_allows_forks_and_copies)
{
	struct stat stat;

	ASSERT_EQ(0, lstat(KARENA_DEVICE, &stat));
	ASSERT_EQ(0, chown(KARENA_DEVICE, 0, NOBODY));
	EXPECT_EQ(0, in_child(fork_at_the_limits));
	EXPECT_EQ(0, chown(KARENA_DEVICE, 0, stat.st_gid));
}

TEST_F_TIMEOUT(clone, limit_of_the_heap_allows_forks_and_copies, SLOW)
{
	ASSERT_EQ(2 * ARENA, hard_limit(&self->heap, KARENA_LIMIT_HARD, 2 * ARENA, 0));
	ASSERT_EQ(0, bear(PARENT, CHILD));
	ASSERT_EQ(0, bear(CHILD, GRANDCHILD));
	for (int who = PARENT; who <= GRANDCHILD; who++) {
		EXPECT_EQ(0, ask(who, mark, 0, 2 * PAGES, 'a' + who));
		EXPECT_EQ(-ENOMEM, ask(who, commit_some, 3 * PAGES, 1, 0));
	}
	for (int who = PARENT; who <= GRANDCHILD; who++) {
		EXPECT_EQ(0, ask(who, unlike, 0, 2 * PAGES, 'a' + who));
		EXPECT_EQ(2 * ARENA, stat_of(who, "committed"));
	}
}

TEST_F(clone, limit_of_the_module_allows_forks_and_copies)
{
	char before[64], now[64];

	ASSERT_EQ(0, read_text(LIMIT_PARAM, before, sizeof(before)));
	snprintf(now, sizeof(now), "%ld\n", module_stat("committed"));
	ASSERT_EQ(0, write_text(LIMIT_PARAM, now));
	EXPECT_EQ(-ENOMEM, commit_some(&self->heap, 3 * PAGES, 1, 0));
	EXPECT_EQ(0, bear(PARENT, CHILD));
	EXPECT_EQ(0, ask(CHILD, mark, 0, 2 * PAGES, 'c'));
	EXPECT_EQ(-ENOMEM, ask(CHILD, commit_some, 3 * PAGES, 1, 0));
	EXPECT_EQ(0, bear(CHILD, GRANDCHILD));
	EXPECT_EQ(0, ask(PARENT, mark, 0, PAGES, 'q'));
	EXPECT_EQ(0, ask(GRANDCHILD, unlike, 0, 2 * PAGES, 'c'));
	EXPECT_EQ(0, ask(PARENT, unlike, 0, PAGES, 'q'));
	EXPECT_EQ(0, write_text(LIMIT_PARAM, before));
	EXPECT_EQ(0, ask(CHILD, commit_some, 3 * PAGES, 1, 0));
}

TEST_F(clone, each_process_counts_its_own_locked_memory)
{
	ASSERT_EQ(0, bear(PARENT, CHILD));
	EXPECT_EQ(2 * ARENA, ask(CHILD, locked, 0, 0, 0));
	EXPECT_EQ(0, ask(CHILD, commit, 2, 3, 0));
	EXPECT_EQ(2 * ARENA, ask(PARENT, locked, 0, 0, 0));
	EXPECT_EQ(0, ask(CHILD, release, 0, 4, 0));
	EXPECT_EQ(2 * ARENA, ask(PARENT, locked, 0, 0, 0));
	EXPECT_EQ(0, ask(CHILD, release, 0, NR, 0));
	EXPECT_EQ(0, end(CHILD));
	EXPECT_EQ(2 * ARENA, ask(PARENT, locked, 0, 0, 0));
}

TEST_HARNESS_MAIN
