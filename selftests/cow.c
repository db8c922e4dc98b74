// SPDX-License-Identifier: GPL-2.0
/*
 * Copy-on-write: which pages two processes share after a fork, when a process gets its own
 * copy of a page, whose data each process sees, and when copies become a huge page again.
 */
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "cow.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE	25
#endif

FIXTURE(cow) {
	struct balance before;
	struct heap heap;
};

FIXTURE_SETUP(cow)
{
	REQUIRE_MODULE();
	ASSERT_EQ(0, begin(&self->before, &self->heap));
}

FIXTURE_TEARDOWN(cow)
{
	family_end();
	heap_destroy(&self->heap);
	EXPECT_BALANCE(&self->before);
}

/* Visibility of data. */
TEST_F_TIMEOUT(cow, each_generation_sees_only_its_own_data, SLOW)
{
	/* Each process writes to its own pages and to some that all write to. */
	for (int who = PARENT; who <= GREATGRANDCHILD; who++) {
		if (who)
			ASSERT_EQ(0, bear(who - 1, who));
		EXPECT_EQ(0, ask(who, mark, 100 * who, 50, 'a' + who));
		EXPECT_EQ(0, ask(who, mark, SPARSE + who, 1, 'a' + who));
	}
	for (int who = PARENT; who <= GREATGRANDCHILD; who++) {
		EXPECT_EQ(0, ask(who, mark, 600, 50, 'a' + who));
		EXPECT_EQ(0, ask(who, mark, SPARSE + 10, 5, 'a' + who));
	}
	for (int who = PARENT; who <= GREATGRANDCHILD; who++) {
		EXPECT_EQ(0, ask(who, unlike, 600, 50, 'a' + who));
		EXPECT_EQ(0, ask(who, unlike, SPARSE + 10, 5, 'a' + who));
		for (int by = PARENT; by <= GREATGRANDCHILD; by++) {
			int then = by <= who ? 'a' + by : 'p';

			EXPECT_EQ(0, ask(who, unlike, 100 * by, 50, then));
			EXPECT_EQ(0, ask(who, unlike, 100 * by + 50, 50, 'p'));
			EXPECT_EQ(0, ask(who, unlike, SPARSE + by, 1, then));
		}
		EXPECT_EQ(0, ask(who, unlike, 650, 2 * PAGES - 650, 'p'));
		EXPECT_EQ(0, ask(who, unlike, SPARSE + 15, 5, 'p'));
	}
}

static long allow(struct heap *heap, long index, long prot, long c)
{
	(void)c;
	return mprotect(arena(heap, index), ARENA, prot) ? -errno : 0;
}

/* Newer kernels make a dirty PTE writable again. */
TEST_F(cow, mprotect_makes_no_shared_page_writable)
{
	for (int who = PARENT; who <= CHILD; who++) {
		ASSERT_EQ(0, ask(PARENT, allow, 1, PROT_READ, 0));
		ASSERT_EQ(0, bear(PARENT, CHILD));
		for (int index = 0; index < 2; index++) {
			ASSERT_EQ(0, ask(who, allow, index, PROT_READ, 0));
			ASSERT_EQ(0, ask(who, allow, index, PROT_READ | PROT_WRITE, 0));
			EXPECT_EQ(0, ask(who, mark, index * PAGES + 100 * who, 9, 'x'));
			EXPECT_EQ(0, ask(!who, unlike, index * PAGES + 100 * who, 9,
					 'p'));
		}
		EXPECT_EQ(0, end(CHILD));
		ASSERT_EQ(0, ask(PARENT, allow, 1, PROT_READ | PROT_WRITE, 0));
		ASSERT_EQ(0, mark(&self->heap, 0, 2 * PAGES, 'p'));
	}
}

TEST_F_TIMEOUT(cow, siblings_do_not_see_each_others_data, SLOW)
{
	for (int who = CHILD; who < NR_KIN; who++)
		ASSERT_EQ(0, bear(PARENT, who));
	for (int who = PARENT; who < NR_KIN; who++)
		EXPECT_EQ(0, ask(who, mark, 500, 24, 'a' + who));
	for (int who = PARENT; who < NR_KIN; who++) {
		EXPECT_EQ(0, ask(who, unlike, 500, 24, 'a' + who));
		EXPECT_EQ(0, ask(who, unlike, 0, 500, 'p'));
		EXPECT_EQ(0, ask(who, unlike, 524, 500, 'p'));
		EXPECT_EQ(0, ask(who, unlike, SPARSE, 20, 'p'));
	}
}

TEST_F_TIMEOUT(cow, copy_keeps_the_rest_of_the_page, SLOW)
{
	static const long offsets[] = { 77 * PAGE, 78 * PAGE + 4095, SPARSE * PAGE + 9 };

	ASSERT_EQ(0, bear(PARENT, CHILD));
	for (int i = 0; i < ARRAY_SIZE(offsets); i++) {
		long offset = offsets[i], number = offset / PAGE;
		long before = (unsigned char)byte_of(number, 'p');

		EXPECT_EQ(0, ask(CHILD, poke, offset, before ^ 0x55, 0));
		for (long at = number * PAGE; at < (number + 1) * PAGE; at += 13) {
			if (at != offset)
				EXPECT_EQ(before, ask(CHILD, peek, at, 0, 0));
		}
		EXPECT_EQ(before ^ 0x55, ask(CHILD, peek, offset, 0, 0));
		EXPECT_EQ(0, unlike(&self->heap, number, 1, 'p'));
		if (i)
			EXPECT_EQ(0, ask(CHILD, unlike, number + 1, 1, 'p'));
	}
}

/* Shared frames, and the cost of a write. */
TEST_F(cow, frame_is_shared_until_a_write)
{
	long committed = module_stat("committed"), copies = module_stat("copies");

	EXPECT_EQ(0, heap_stat(&self->heap, "shared"));
	ASSERT_EQ(0, bear(PARENT, CHILD));
	EXPECT_EQ(0, ask(CHILD, spoiled, 0, 0, 0));
	EXPECT_EQ(0, ask(PARENT, spoiled, 0, 0, 0));
	for (int who = PARENT; who <= CHILD; who++) {
		EXPECT_EQ(SIZE, stat_of(who, "shared"));
		EXPECT_EQ(SIZE, stat_of(who, "committed"));
		EXPECT_EQ(0, stat_of(who, "copies"));
	}
	EXPECT_EQ(committed, module_stat("committed"));

	/* The child writes to one page of a huge frame and one of a sparse frame. */
	EXPECT_EQ(0, ask(CHILD, poke, 7 * PAGE, 1, 0));
	EXPECT_EQ(0, ask(CHILD, poke, SPARSE * PAGE, 1, 0));
	EXPECT_EQ(copies + 2, module_stat("copies"));
	EXPECT_EQ(committed + 2 * PAGE, module_stat("committed"));
	EXPECT_EQ(2, stat_of(CHILD, "copies"));
	EXPECT_EQ(0, stat_of(PARENT, "copies"));
	EXPECT_EQ(SIZE - 2 * PAGE, stat_of(CHILD, "shared"));

	/* The child writes to the same page again, and the parent to other pages. */
	EXPECT_EQ(0, ask(CHILD, poke, 7 * PAGE + 50, 1, 0));
	EXPECT_EQ(0, ask(PARENT, mark, 10, 30, 'q'));
	EXPECT_EQ(0, ask(PARENT, mark, SPARSE + 5, 3, 'q'));
	EXPECT_EQ(0, ask(PARENT, mark, 10, 30, 'r'));
	EXPECT_EQ(copies + 35, module_stat("copies"));
	EXPECT_EQ(committed + 35 * PAGE, module_stat("committed"));
	EXPECT_EQ(2, stat_of(CHILD, "copies"));
	EXPECT_EQ(33, stat_of(PARENT, "copies"));
	for (int who = PARENT; who <= CHILD; who++)
		EXPECT_EQ(SIZE, stat_of(who, "committed"));

	/* The child's own pages end with the child. */
	EXPECT_EQ(0, end(CHILD));
	EXPECT_TRUE(module_stat_becomes("committed", committed + 30 * PAGE));
	EXPECT_TRUE(heap_stat_becomes(&self->heap, "shared", 0));
}

TEST_F(cow, page_no_longer_shared_is_not_copied)
{
	long copies = module_stat("copies");

	ASSERT_EQ(0, bear(PARENT, CHILD));
	/* In a sparse frame each page is shared or not by itself. */
	EXPECT_EQ(0, ask(CHILD, mark, SPARSE, 20, 'c'));
	EXPECT_EQ(0, ask(PARENT, mark, SPARSE, 20, 'q'));
	EXPECT_EQ(copies + 20, module_stat("copies"));
	/* The child has released these pages, so the parent no longer shares them. */
	EXPECT_EQ(0, ask(CHILD, release, 0, 1, 0));
	EXPECT_EQ(0, ask(PARENT, mark, 0, PAGES, 'q'));
	EXPECT_EQ(copies + 20, module_stat("copies"));
	EXPECT_EQ(0, ask(PARENT, unlike, 0, PAGES, 'q'));
	/* After the child has ended, the parent shares nothing. */
	EXPECT_EQ(0, end(CHILD));
	EXPECT_TRUE(heap_stat_becomes(&self->heap, "shared", 0));
	EXPECT_EQ(0, mark(&self->heap, PAGES, PAGES, 'q'));
	EXPECT_EQ(copies + 20, module_stat("copies"));
}

/* Read by the process, by another process, into a pipe and to a disk. */
TEST_F(cow, reading_copies_nothing)
{
	long committed = module_stat("committed"), copies = module_stat("copies");
	struct iovec local, remote;
	char data[PAGE];
	int pipes[2], disk;

	ASSERT_EQ(0, bear(PARENT, CHILD));
	ASSERT_EQ(0, ask(CHILD, spoiled, 0, 0, 0));
	local = (struct iovec){ data, PAGE };
	for (long i = 0; i < 2 * PAGES; i += 100) {
		remote = (struct iovec){ page_at(&self->heap, i), PAGE };
		ASSERT_EQ(PAGE, process_vm_readv(family.pids[CHILD], &local, 1,
						 &remote, 1, 0));
		EXPECT_EQ(0, count_other(data, PAGE, byte_of(i, 'p')));
	}
	ASSERT_EQ(0, pipe(pipes));
	ASSERT_EQ(PAGE, write(pipes[1], page_at(&self->heap, 3), PAGE));
	remote = (struct iovec){ page_at(&self->heap, 4), PAGE };
	ASSERT_EQ(PAGE, vmsplice(pipes[1], &remote, 1, 0));
	disk = open(DISK, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (disk >= 0) {
		EXPECT_EQ(64 * PAGE, pwrite(disk, page_at(&self->heap, 64), 64 * PAGE, 0));
		close(disk);
	}
	EXPECT_EQ(copies, module_stat("copies"));
	EXPECT_EQ(committed, module_stat("committed"));
	EXPECT_EQ(0, ask(PARENT, spoiled, 0, 0, 0));
	close(pipes[0]);
	close(pipes[1]);
}

/* The kernel itself overwrites the page. */
static long read_zeros(struct heap *heap, long number, long b, long c)
{
	int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	long ret = read(zero, page_at(heap, number), PAGE);

	(void)b;
	(void)c;
	close(zero);
	return ret;
}

/* As a debugger writes, which needs no write permission. */
static long write_from_outside(int who, struct heap *heap, long number, char byte)
{
	char path[64], data[PAGE];
	long ret;
	int fd;

	memset(data, byte, PAGE);
	snprintf(path, sizeof(path), "/proc/%d/mem", family.pids[who]);
	fd = open(path, O_RDWR | O_CLOEXEC);
	ret = pwrite(fd, data, PAGE, (uintptr_t)page_at(heap, number));
	close(fd);
	return ret;
}

TEST_F_TIMEOUT(cow, writes_by_the_kernel_copy_the_page, SLOW)
{
	struct heap *heap = &self->heap;
	long copies = module_stat("copies");
	struct iovec local, remote;
	char data[PAGE];
	int disk;

	ASSERT_EQ(0, bear(PARENT, CHILD));
	EXPECT_EQ(PAGE, ask(CHILD, read_zeros, 9, 0, 0));
	EXPECT_EQ(PAGE, ask(CHILD, read_zeros, SPARSE + 9, 0, 0));
	EXPECT_EQ(PAGE, ask(PARENT, read_zeros, 10, 0, 0));
	memset(data, 'w', PAGE);
	local = (struct iovec){ data, PAGE };
	remote = (struct iovec){ page_at(heap, 11), PAGE };
	EXPECT_EQ(PAGE, process_vm_writev(family.pids[CHILD], &local, 1, &remote, 1, 0));
	EXPECT_EQ(PAGE, write_from_outside(CHILD, heap, 12, 'w'));
	EXPECT_EQ(copies + 5, module_stat("copies"));
	EXPECT_EQ(4, stat_of(CHILD, "copies"));

	EXPECT_EQ(0, ask(CHILD, nonzero, 9, 1, 0));
	EXPECT_EQ(0, ask(CHILD, nonzero, SPARSE + 9, 1, 0));
	EXPECT_EQ(0, ask(CHILD, unlike, 10, 1, 'p'));
	EXPECT_EQ('w', ask(CHILD, peek, 11 * PAGE + 7, 0, 0));
	EXPECT_EQ('w', ask(CHILD, peek, 12 * PAGE + 7, 0, 0));
	EXPECT_EQ(0, unlike(heap, 0, 10, 'p'));
	EXPECT_EQ(0, nonzero(heap, 10, 1, 0));
	EXPECT_EQ(0, unlike(heap, 11, 2 * PAGES - 11, 'p'));
	EXPECT_EQ(0, unlike(heap, SPARSE, 20, 'p'));

	/* And a disk, if there is one. */
	disk = open(DISK, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (disk < 0)
		return;
	ASSERT_EQ(16 * PAGE, pwrite(disk, page_at(heap, PAGES), 16 * PAGE, 0));
	ASSERT_EQ(16 * PAGE, pread(disk, page_at(heap, PAGES + 100), 16 * PAGE, 0));
	EXPECT_EQ(0, memcmp(page_at(heap, PAGES), page_at(heap, PAGES + 100), 16 * PAGE));
	EXPECT_EQ(0, ask(CHILD, unlike, PAGES, PAGES, 'p'));
	close(disk);
}

TEST_F_TIMEOUT(cow, nothing_is_shared_after_both_wrote_everything, SLOW)
{
	long committed = module_stat("committed"), copies;

	ASSERT_EQ(0, bear(PARENT, CHILD));
	EXPECT_EQ(0, ask(CHILD, mark, 0, 2 * PAGES, 'c'));
	EXPECT_EQ(0, ask(CHILD, mark, SPARSE, 20, 'c'));
	EXPECT_EQ(0, stat_of(CHILD, "shared"));
	EXPECT_EQ(committed + SIZE, module_stat("committed"));
	copies = module_stat("copies");
	EXPECT_EQ(0, ask(PARENT, spoiled, 0, 0, 0));
	EXPECT_EQ(0, ask(PARENT, mark, 0, 2 * PAGES, 'q'));
	EXPECT_EQ(0, ask(PARENT, mark, SPARSE, 20, 'q'));
	EXPECT_EQ(0, stat_of(PARENT, "shared"));
	/* The process that wrote first has all of the copies. */
	EXPECT_EQ(copies, module_stat("copies"));
	EXPECT_EQ(committed + SIZE, module_stat("committed"));
	EXPECT_EQ(0, ask(CHILD, unlike, 0, 2 * PAGES, 'c'));
	EXPECT_EQ(0, ask(CHILD, unlike, SPARSE, 20, 'c'));
	EXPECT_EQ(0, ask(PARENT, unlike, 0, 2 * PAGES, 'q'));
}

/* Huge pages stay huge or become huge again. */
TEST_F_TIMEOUT(cow, arenas_without_writes_stay_huge_on_both_sides, SLOW)
{
	ASSERT_EQ(0, commit(&self->heap, 3, 5, 0));
	ASSERT_EQ(0, mark(&self->heap, 3 * PAGES, 5 * PAGES, 'p'));
	ASSERT_EQ(7, pmds(&self->heap, 0, 0, 0));
	ASSERT_EQ(0, bear(PARENT, CHILD));
	ASSERT_EQ(0, bear(CHILD, GRANDCHILD));
	for (int who = PARENT; who <= GRANDCHILD; who++) {
		EXPECT_EQ(0, ask(who, unlike, 0, 2 * PAGES, 'p'));
		EXPECT_EQ(0, ask(who, unlike, 3 * PAGES, 5 * PAGES, 'p'));
		EXPECT_EQ(7, ask(who, pmds, 0, 0, 0));
	}
	EXPECT_EQ(0, ask(CHILD, poke, PAGES * PAGE, 1, 0));
	EXPECT_EQ(0, ask(PARENT, poke, 4 * PAGES * PAGE, 1, 0));
	for (int who = PARENT; who <= GRANDCHILD; who++) {
		EXPECT_EQ(0, ask(who, unlike, 5 * PAGES, 3 * PAGES, 'p'));
		EXPECT_EQ(who == GRANDCHILD ? 7 : 6, ask(who, pmds, 0, 0, 0));
	}
	/* Writing to all of one arena changes no arena of the other processes. */
	EXPECT_EQ(0, ask(GRANDCHILD, mark, 0, PAGES, 'g'));
	EXPECT_EQ(6, ask(GRANDCHILD, pmds, 0, 0, 0));
	EXPECT_EQ(6, ask(CHILD, pmds, 0, 0, 0));
	EXPECT_EQ(6, ask(PARENT, pmds, 0, 0, 0));
}

/* Write to many pages of one arena and to few of another. */
static void copy_much_and_little(struct __test_metadata *_metadata, int who)
{
	EXPECT_EQ(0, ask(who, mark, 5, 500, 'x'));
	EXPECT_EQ(0, ask(who, mark, PAGES + 5, 3, 'x'));
}

static void expect_much_and_little(struct __test_metadata *_metadata, int who)
{
	EXPECT_EQ(0, ask(who, unlike, 0, 5, 'p'));
	EXPECT_EQ(0, ask(who, unlike, 5, 500, 'x'));
	EXPECT_EQ(0, ask(who, unlike, 505, 12, 'p'));
	EXPECT_EQ(0, ask(who, unlike, PAGES + 5, 3, 'x'));
	EXPECT_EQ(0, ask(who, unlike, PAGES + 8, PAGES - 8, 'p'));
	EXPECT_EQ(0, ask(who, unlike, SPARSE, 20, 'p'));
}

/* Check the process that is left, to which these statistics belong. */
static void expect_together(struct __test_metadata *_metadata, int who, long committed)
{
	struct heap heap = heap_of(who);

	expect_much_and_little(_metadata, who);
	/* The arena with many copies becomes huge by itself. */
	EXPECT_TRUE(heap_stat_becomes(&heap, "promoted", 1));
	EXPECT_TRUE(module_stat_becomes("committed", committed + 3 * PAGE));
	EXPECT_EQ(1, heap_stat(&heap, "huge_arenas"));
	expect_much_and_little(_metadata, who);
	EXPECT_EQ(0, ask(who, pmds, 0, 0, 0));

	/* The other arena, and the PMDs, do so with a new mapping. */
	ASSERT_EQ(0, ask(who, renew, 0, 2, 0));
	expect_much_and_little(_metadata, who);
	EXPECT_EQ(2, ask(who, pmds, 0, 0, 0));
	EXPECT_EQ(2, heap_stat(&heap, "promoted"));
	EXPECT_EQ(2, heap_stat(&heap, "huge_arenas"));
	EXPECT_EQ(committed, module_stat("committed"));
	EXPECT_EQ(0, ask(who, mark, 0, 2 * PAGES, 'y'));
	EXPECT_EQ(0, ask(who, unlike, 0, 2 * PAGES, 'y'));
	EXPECT_EQ(2, ask(who, pmds, 0, 0, 0));
	EXPECT_EQ(0, heap_stat(&heap, "shared"));
}

TEST_F_TIMEOUT(cow, copies_of_the_parent_become_huge_after_exit_of_the_child, SLOW)
{
	long committed = module_stat("committed");

	ASSERT_EQ(0, bear(PARENT, CHILD));
	copy_much_and_little(_metadata, PARENT);
	EXPECT_EQ(0, ask(CHILD, spoiled, 0, 0, 0));
	EXPECT_EQ(0, end(CHILD));
	expect_together(_metadata, PARENT, committed);
}

TEST_F_TIMEOUT(cow, copies_of_the_child_become_huge_after_exit_of_the_parent, SLOW)
{
	long committed = module_stat("committed");

	ASSERT_EQ(0, bear(PARENT, CHILD));
	ASSERT_EQ(0, bear(CHILD, GRANDCHILD));
	copy_much_and_little(_metadata, GRANDCHILD);
	EXPECT_EQ(0, ask(CHILD, spoiled, 0, 0, 0));
	EXPECT_EQ(0, ask(PARENT, release, 0, 3, 0));
	EXPECT_EQ(128 + SIGKILL, slay(CHILD));
	expect_together(_metadata, GRANDCHILD, committed);
}

/* While another process shares the frame, no request makes copies a huge page. */
TEST_F_TIMEOUT(cow, new_mapping_of_shared_memory_shows_own_data, SLOW)
{
	ASSERT_EQ(0, bear(PARENT, CHILD));
	for (int who = PARENT; who <= CHILD; who++)
		copy_much_and_little(_metadata, who);
	for (int who = PARENT; who <= CHILD; who++) {
		ASSERT_EQ(0, ask(who, renew, 0, 2, 0));
		/* Touch a page that is not copied first. */
		EXPECT_EQ(0, ask(who, unlike, PAGES - 1, 1, 'p'));
		EXPECT_EQ(0, ask(who, unlike, 2 * PAGES - 1, 1, 'p'));
		expect_much_and_little(_metadata, who);
		EXPECT_EQ(0, ask(who, mark, 0, 5, 'a' + who));
	}
	EXPECT_EQ(0, ask(PARENT, unlike, 0, 5, 'a'));
	EXPECT_EQ(0, ask(CHILD, unlike, 0, 5, 'b'));
	EXPECT_EQ(0, stat_of(PARENT, "promoted"));
	EXPECT_EQ(0, stat_of(CHILD, "promoted"));
}

/* Advice that drops or fills page tables, whether or not the kernel accepts it here. */
TEST_F_TIMEOUT(cow, madvise_does_not_change_who_sees_what, SLOW)
{
	static const int advices[] = {
		MADV_DONTNEED, MADV_COLLAPSE, MADV_HUGEPAGE, MADV_PAGEOUT, MADV_COLD,
		MADV_FREE, MADV_POPULATE_READ, MADV_POPULATE_WRITE, MADV_WILLNEED,
		MADV_NOHUGEPAGE, MADV_COLLAPSE, MADV_DONTNEED, MADV_MERGEABLE,
	};

	ASSERT_EQ(0, bear(PARENT, CHILD));
	copy_much_and_little(_metadata, CHILD);
	for (int i = 0; i < ARRAY_SIZE(advices); i++) {
		for (int who = PARENT; who <= CHILD; who++) {
			ask(who, advise, 0, 2 * PAGES, advices[i]);
			ask(who, advise, 100, 50, advices[i]);
		}
		EXPECT_EQ(0, ask(CHILD, unlike, 511, 1, 'p'));
		expect_much_and_little(_metadata, CHILD);
		EXPECT_EQ(0, ask(PARENT, spoiled, 0, 0, 0));
	}
}

/*
 * The trap: a fault on one page of a huge folio, with an empty PMD, maps all of the folio.
 * If some pages of an arena are copies or were released, a process without page tables must
 * not see the pages below them, whichever page it touches first.
 */
enum first_access {
	READ_BELOW, READ_ABOVE, READ_LAST, WRITE_BELOW, WRITE_ABOVE, READ_FROM_OUTSIDE,
	WRITE_FROM_OUTSIDE, POPULATE, NR_FIRST_ACCESSES,
};

static void access_first(struct __test_metadata *_metadata, int who, struct heap *heap,
			 enum first_access first, long number)
{
	static char data[PAGE];
	struct iovec local = { data, PAGE };
	struct iovec remote = { page_at(heap, number + 1), PAGE };

	switch (first) {
	case READ_BELOW:
		EXPECT_EQ(0, ask(who, unlike, number - 1, 1, 'p'));
		break;
	case READ_ABOVE:
		EXPECT_EQ(0, ask(who, unlike, number + 1, 1, 'p'));
		break;
	case READ_LAST:
		EXPECT_EQ(0, ask(who, unlike, number | (PAGES - 1), 1, 'p'));
		break;
	case WRITE_BELOW:
		EXPECT_EQ(0, ask(who, mark, number - 1, 1, 'p'));
		break;
	case WRITE_ABOVE:
		EXPECT_EQ(0, ask(who, mark, number + 1, 1, 'p'));
		break;
	case READ_FROM_OUTSIDE:
		EXPECT_EQ(PAGE, process_vm_readv(family.pids[who], &local, 1, &remote,
						 1, 0));
		EXPECT_EQ(0, count_other(data, PAGE, byte_of(number + 1, 'p')));
		break;
	case WRITE_FROM_OUTSIDE:
		memset(data, byte_of(number + 1, 'p'), PAGE);
		EXPECT_EQ(PAGE, process_vm_writev(family.pids[who], &local, 1, &remote,
						  1, 0));
		break;
	default:
		EXPECT_EQ(0, ask(who, advise, number + 1, 1, MADV_POPULATE_READ));
		break;
	}
}

static void expect_arena(struct __test_metadata *_metadata, int who, long number,
			 int mark)
{
	long first = number & ~(PAGES - 1);

	EXPECT_EQ(0, ask(who, unlike, number, 1, mark));
	EXPECT_EQ(0, ask(who, unlike, first, number - first, 'p'));
	EXPECT_EQ(0, ask(who, unlike, number + 1, first + PAGES - number - 1, 'p'));
}

TEST_F_TIMEOUT(cow, child_without_page_tables_sees_no_old_pages, SLOW)
{
	for (int first = 0; first < NR_FIRST_ACCESSES; first++) {
		ASSERT_EQ(0, mark(&self->heap, 0, 2 * PAGES, 'p'));
		ASSERT_EQ(0, bear(PARENT, CHILD));
		/* The child has a copy in one arena, the parent in the other. */
		ASSERT_EQ(0, ask(CHILD, mark, 100, 1, 'c'));
		ASSERT_EQ(0, ask(PARENT, mark, PAGES + 200, 1, 'q'));
		ASSERT_EQ(0, bear(CHILD, GRANDCHILD));
		ASSERT_EQ(0, bear(PARENT, GREATGRANDCHILD));
		access_first(_metadata, GRANDCHILD, &self->heap, first, 100);
		expect_arena(_metadata, GRANDCHILD, 100, 'c');
		access_first(_metadata, GREATGRANDCHILD, &self->heap, first, PAGES + 200);
		expect_arena(_metadata, GREATGRANDCHILD, PAGES + 200, 'q');
		EXPECT_EQ(0, ask(GREATGRANDCHILD, unlike, 100, 1, 'p'));
		EXPECT_EQ(0, ask(GRANDCHILD, unlike, PAGES + 200, 1, 'p'));
		for (int who = GREATGRANDCHILD; who >= CHILD; who--)
			EXPECT_EQ(0, end(who));
	}
}

/* A process has no page tables for memory that it has remapped or dropped. */
TEST_F_TIMEOUT(cow, process_that_dropped_page_tables_sees_no_old_pages, SLOW)
{
	for (int first = 0; first < NR_FIRST_ACCESSES; first++) {
		ASSERT_EQ(0, mark(&self->heap, 0, 2 * PAGES, 'p'));
		ASSERT_EQ(0, bear(PARENT, CHILD));
		ASSERT_EQ(0, ask(CHILD, mark, 100, 1, 'c'));
		ASSERT_EQ(0, ask(CHILD, mark, PAGES + 200, 1, 'c'));
		ASSERT_EQ(0, ask(CHILD, renew, 0, 1, 0));
		ASSERT_EQ(0, ask(CHILD, advise, PAGES, PAGES, MADV_DONTNEED));
		access_first(_metadata, CHILD, &self->heap, first, 100);
		expect_arena(_metadata, CHILD, 100, 'c');
		access_first(_metadata, CHILD, &self->heap, first, PAGES + 200);
		expect_arena(_metadata, CHILD, PAGES + 200, 'c');
		EXPECT_EQ(0, ask(PARENT, spoiled, 0, 0, 0));
		EXPECT_EQ(0, end(CHILD));
	}
}

/* The same with cleared and released pages. */
TEST_F_TIMEOUT(cow, pages_released_by_another_generation_stay_hidden, SLOW)
{
	for (int first = 0; first < NR_FIRST_ACCESSES; first++) {
		ASSERT_EQ(0, renew(&self->heap, 0, 2, 0));
		ASSERT_EQ(0, mark(&self->heap, 0, 2 * PAGES, 'p'));
		ASSERT_EQ(0, bear(PARENT, CHILD));
		/* One page of a huge arena, and half of another, which becomes sparse. */
		ASSERT_EQ(0, ask(CHILD, release_some, 100, 1, 0));
		ASSERT_EQ(0, ask(CHILD, release_some, PAGES, 256, 0));
		ASSERT_EQ(0, bear(CHILD, GRANDCHILD));
		access_first(_metadata, GRANDCHILD, &self->heap, first, 100);
		EXPECT_EQ(0, ask(GRANDCHILD, nonzero, 100, 1, 0));
		access_first(_metadata, GRANDCHILD, &self->heap, first, PAGES + 300);
		EXPECT_EQ(256, ask(GRANDCHILD, failing, PAGES, 256, SIGBUS));
		EXPECT_EQ(0, ask(GRANDCHILD, unlike, PAGES + 256, 256, 'p'));
		EXPECT_EQ(0, ask(PARENT, spoiled, 0, 0, 0));
		EXPECT_EQ(0, end(GRANDCHILD));
		EXPECT_EQ(0, end(CHILD));
	}
}

/* Concurrent writers. */
#define NR_WRITERS	4

struct writer {
	pthread_t thread;
	struct heap *heap;
	pthread_barrier_t *barrier;
	int number;
};

/* Write a byte of each page, in step with the other threads. */
static void *write_main(void *data)
{
	struct writer *writer = data;

	for (long i = 0; i < 2 * PAGES; i++) {
		if (i % 64 == 0)
			pthread_barrier_wait(writer->barrier);
		page_at(writer->heap, i)[100 + writer->number] = 'w';
	}
	return NULL;
}

static long write_in_threads(struct heap *heap, long a, long b, long c)
{
	struct writer writers[NR_WRITERS];
	pthread_barrier_t barrier;
	long wrong = 0;

	(void)a, (void)b, (void)c;
	pthread_barrier_init(&barrier, NULL, NR_WRITERS);
	for (int i = 0; i < NR_WRITERS; i++) {
		writers[i] = (struct writer){
			.heap = heap, .barrier = &barrier, .number = i
		};
		if (pthread_create(&writers[i].thread, NULL, write_main, &writers[i]))
			return -EAGAIN;
	}
	for (int i = 0; i < NR_WRITERS; i++)
		pthread_join(writers[i].thread, NULL);
	for (long i = 0; i < 2 * PAGES; i++) {
		char *at = page_at(heap, i);

		for (int n = 0; n < NR_WRITERS; n++)
			wrong += at[100 + n] != 'w';
		wrong += at[99] != byte_of(i, 'p');
		wrong += at[100 + NR_WRITERS] != byte_of(i, 'p');
	}
	return wrong;
}

TEST_F_TIMEOUT(cow, concurrent_threads_make_one_copy_per_page, SLOW)
{
	ASSERT_EQ(0, bear(PARENT, CHILD));
	EXPECT_EQ(0, ask(CHILD, write_in_threads, 0, 0, 0));
	EXPECT_EQ(2 * PAGES, stat_of(CHILD, "copies"));
	EXPECT_EQ(0, ask(PARENT, spoiled, 0, 0, 0));
	EXPECT_EQ(0, write_in_threads(&self->heap, 0, 0, 0));
}

/* All processes write to the same pages at once. Each must see its own last write. */
static long write_all(struct heap *heap, long rounds, long who, long c)
{
	long wrong = 0;

	(void)c;
	for (long round = 0; round < rounds; round++) {
		wrong += mark(heap, 0, 2 * PAGES, who + 10 * round) != 0;
		wrong += mark(heap, SPARSE, 20, who + 10 * round) != 0;
		wrong += unlike(heap, 0, 2 * PAGES, who + 10 * round);
		wrong += unlike(heap, SPARSE, 20, who + 10 * round);
	}
	return wrong;
}

TEST_F_TIMEOUT(cow, concurrent_processes_each_get_their_own_copy, SLOW)
{
	for (int round = 0; round < 5; round++) {
		ASSERT_EQ(0, mark(&self->heap, 0, 2 * PAGES, 'p'));
		for (int who = CHILD; who <= GREATGRANDCHILD; who++)
			ASSERT_EQ(0, bear(who / 2, who));
		for (int who = CHILD; who <= GREATGRANDCHILD; who++)
			ASSERT_TRUE(order_of(who, &self->heap, write_all, 2, who, 0));
		EXPECT_EQ(0, write_all(&self->heap, 2, PARENT, 0));
		for (int who = CHILD; who <= GREATGRANDCHILD; who++)
			EXPECT_EQ(0, answer(who));
		for (int who = CHILD; who <= GREATGRANDCHILD; who++)
			EXPECT_EQ(0, end(who));
	}
}

/*
 * One process writes while the other releases, demotes or exits. The writer loses nothing.
 */
TEST_F_TIMEOUT(cow, copy_is_complete_during_release_demotion_and_exit, SLOW)
{
	struct heap *heap = &self->heap;

	for (int round = 0; round < 16; round++) {
		ASSERT_EQ(0, release(heap, 0, 3, 0));
		ASSERT_EQ(0, renew(heap, 0, 3, 0));
		ASSERT_EQ(0, commit(heap, 0, 2, 0));
		ASSERT_EQ(0, commit_some(heap, SPARSE, 20, 0));
		ASSERT_EQ(0, mark(heap, 0, 2 * PAGES, 'p'));
		ASSERT_EQ(0, mark(heap, SPARSE, 20, 'p'));
		ASSERT_EQ(0, bear(PARENT, CHILD));
		ASSERT_TRUE(order_of(CHILD, heap, write_all, 1, 'c', 0));
		switch (round % 4) {
		case 0:
			EXPECT_EQ(0, release(heap, 0, 3, 0));
			EXPECT_EQ(0, answer(CHILD));
			break;
		case 1:
			for (int i = 0; i < 2; i++)
				EXPECT_EQ(0, release_some(heap, i * PAGES + 50, 400, 0));
			EXPECT_EQ(0, release_some(heap, SPARSE + 3, 10, 0));
			EXPECT_EQ(0, answer(CHILD));
			EXPECT_EQ(0, unlike(heap, 0, 50, 'p'));
			EXPECT_EQ(0, unlike(heap, 450, 112, 'p'));
			EXPECT_EQ(0, unlike(heap, 962, 62, 'p'));
			EXPECT_EQ(0, unlike(heap, SPARSE + 13, 7, 'p'));
			break;
		case 2:
			EXPECT_EQ(128 + SIGKILL, slay(CHILD));
			EXPECT_EQ(0, ask(PARENT, spoiled, 0, 0, 0));
			break;
		default:
			EXPECT_EQ(0, write_all(heap, 1, 'q', 0));
			EXPECT_EQ(0, answer(CHILD));
			break;
		}
		if (family.pids[CHILD])
			EXPECT_EQ(0, end(CHILD));
	}
}

/* Newer kernels define these; see their Documentation/admin-guide/mm/pagemap.rst. */
#define WP_ASYNC		(1ULL << 15)
#define SCAN_WRITTEN		(1ULL << 1)
#define SCAN_PROTECT		(1ULL << 0)
#define SCAN_CHECK_ASYNC	(1ULL << 1)

struct scan {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t inverted, mask, anyof_mask, return_mask;
};

struct scan_region {
	uint64_t start, end, categories;
};

#define SCAN	_IOWR('f', 16, struct scan)

/* Return the first page of an arena that was written to since the last call, or -1. */
static long written(int pagemap, const char *arena)
{
	struct scan_region region = {};
	struct scan scan = {
		.size = sizeof(scan), .flags = SCAN_PROTECT | SCAN_CHECK_ASYNC,
		.start = (uintptr_t)arena, .end = (uintptr_t)arena + ARENA,
		.vec = (uintptr_t)&region, .vec_len = 1, .mask = SCAN_WRITTEN,
		.return_mask = SCAN_WRITTEN,
	};
	int nr = ioctl(pagemap, SCAN, &scan);

	if (nr < 0)
		return -errno - 1;
	return nr ? (region.start - (uintptr_t)arena) / PAGE : -1;
}

/* A fork makes a huge PMD read-only, and a write makes it writable. */
TEST(write_after_a_fork_is_seen_by_pagemap_scan)
{
	struct uffdio_api api = { .api = UFFD_API, .features = WP_ASYNC };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_WP };
	int uffd, pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	struct heap heap;
	pid_t child;
	long first;

	REQUIRE_MODULE();
	uffd = syscall(SYS_userfaultfd, O_CLOEXEC);
	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api))
		SKIP(return, "no asynchronous write protection by userfaultfd before 6.7");
	ASSERT_EQ(0, heap_open(&heap, 2 * ARENA, 0));
	ASSERT_EQ(0, heap_commit(&heap, 0, 1));
	memset(heap.window, 1, ARENA);
	child = fork();
	if (!child)
		_exit(0);
	ASSERT_EQ(0, child_status(child));
	EXPECT_TRUE(module_stat_becomes("nr_heaps", 1));
	EXPECT_EQ(0, touch(heap.window));
	EXPECT_EQ(ARENA, smaps(heap.window, "FilePmdMapped"));
	reg.range.start = (uintptr_t)heap.window;
	reg.range.len = ARENA;
	ASSERT_EQ(0, ioctl(uffd, UFFDIO_REGISTER, &reg));
	EXPECT_EQ(0, written(pagemap, heap.window));
	EXPECT_EQ(-1, written(pagemap, heap.window));
	EXPECT_EQ(ARENA, smaps(heap.window, "FilePmdMapped"));
	EXPECT_EQ(0, touch(heap.window + 7 * PAGE));
	/*
	 * The kernel may map the whole arena again by one PMD. Then every page counts as
	 * written.
	 */
	first = written(pagemap, heap.window);
	EXPECT_TRUE(first >= 0 && first <= 7);
	EXPECT_EQ(1, heap.window[7 * PAGE]);
	close(uffd);
	close(pagemap);
	heap_destroy(&heap);
}

TEST_HARNESS_MAIN
