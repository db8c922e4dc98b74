// SPDX-License-Identifier: GPL-2.0
/*
 * Shares: another process maps exactly the shared range of a heap's own memory, writable or
 * read-only. The memory lives as long as any process has it, whichever process ends first.
 */
#include <pthread.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "pages.h"
#include "pass.h"

#define NR	4	/* arenas that most tests share */

FIXTURE(share) {
	struct heap heap;	/* children do not inherit it */
	long nr_heaps;
	int next_fd;
};

FIXTURE_SETUP(share)
{
	struct karena_info info = { .size = sizeof(info) };

	REQUIRE_MODULE();
	ASSERT_EQ(0, device_call(KARENA_INFO, &info));
	ASSERT_TRUE(info.features & KARENA_FEATURE_SHARE);
	self->next_fd = lowest_free_fd();
	self->nr_heaps = module_stat("nr_heaps");
	ASSERT_EQ(0, heap_open_fork(&self->heap, 16 * ARENA, KARENA_FORK_NONE));
}

FIXTURE_TEARDOWN(share)
{
	heap_destroy(&self->heap);
	EXPECT_EQ(self->next_fd, lowest_free_fd());
	EXPECT_TRUE(module_stat_becomes("nr_heaps", self->nr_heaps));
	EXPECT_NOTHING_LEFT();
}

static char *map_share(int fd, size_t length, int protection)
{
	char *memory = mmap(NULL, length, protection, MAP_SHARED, fd, 0);

	return memory == MAP_FAILED ? NULL : memory;
}

#define READ	PROT_READ
#define WRITE	(PROT_READ | PROT_WRITE)

/* Map the share of a received descriptor, and close the descriptor. */
static char *receive_share(int line, size_t length, int protection)
{
	int fd = receive_fd(line);
	char *memory;

	if (fd < 0)
		return NULL;
	memory = map_share(fd, length, protection);
	close(fd);
	return memory;
}

/* Share a range with the process at the other end of a socket. */
static bool send_share(int line, const struct heap *heap, uint32_t flags,
		       uint64_t offset, uint64_t length)
{
	int fd = heap_share(heap, flags, offset, length);
	bool sent;

	if (fd < 0)
		return false;
	sent = send_fd(line, fd);
	close(fd);
	return sent;
}

static void fill_arenas(const struct heap *heap, size_t count)
{
	for (size_t i = 0; i < count; i++)
		fill(heap, i, 0, 512);
}

/* Count the pages that differ from those in the window. */
static size_t differ(const char *memory, const struct heap *heap, size_t first,
		     size_t count)
{
	size_t pages = 0;

	for (size_t i = 0; i < count; i++)
		pages += memcmp(memory + i * PAGE, page(heap, 0, first + i),
				PAGE) != 0;
	return pages;
}

#define EXPECT_FAILS(_errno, _call)					\
	do {								\
		errno = 0;						\
		EXPECT_EQ(-1, (long)(_call));				\
		EXPECT_EQ(_errno, errno);				\
	} while (0)

#define CHECK_FAILS(_errno, _call)					\
	CHECK((long)(_call) == -1 && errno == (_errno))

static void see_and_write(struct child *child)
{
	char *memory = receive_share(child->parent, NR * ARENA, WRITE);

	CHECK(memory);
	CHECK(!count_other(memory, 2 * ARENA, 'o'));
	memset(memory + ARENA, 'r', ARENA);
	memset(memory + 3 * ARENA, 'r', PAGE);
	CHECK(tell(child->parent, 1));
	CHECK(hear(child->parent) == 2);
	CHECK(!count_other(memory, ARENA, 'p'));
	CHECK(!count_other(memory + 3 * ARENA, PAGE, 'p'));
	CHECK(!munmap(memory, NR * ARENA));
}

TEST_F(share, both_sides_see_each_write)
{
	struct heap *heap = &self->heap;
	struct child child;

	ASSERT_EQ(0, heap_commit(heap, 0, 3));
	ASSERT_EQ(0, commit_pages(heap, 3, 0, 4));
	memset(heap->window, 'o', 2 * ARENA);
	ASSERT_EQ(0, child_start(&child, see_and_write));
	ASSERT_TRUE(send_share(child.line, heap, KARENA_SHARE_WRITE, 0, NR * ARENA));
	ASSERT_TRUE(hear(child.line));
	EXPECT_EQ(0, count_other(arena(heap, 0), ARENA, 'o'));
	EXPECT_EQ(0, count_other(arena(heap, 1), ARENA, 'r'));
	EXPECT_EQ(0, count_other(arena(heap, 3), PAGE, 'r'));
	memset(arena(heap, 0), 'p', ARENA);
	memset(arena(heap, 3), 'p', PAGE);
	ASSERT_TRUE(tell(child.line, 2));
	EXPECT_EQ(0, child_end(&child));
	/* No page was copied. */
	EXPECT_EQ(0, heap_stat(heap, "copies"));
	EXPECT_EQ(0, count_other(arena(heap, 1), ARENA, 'r'));
}

TEST_F(share, descriptor_has_the_usual_flags)
{
	struct heap *heap = &self->heap;
	int readable, writable;

	readable = heap_share(heap, 0, 0, ARENA);
	ASSERT_GE(readable, 0);
	writable = heap_share(heap, KARENA_SHARE_WRITE, 0, ARENA);
	ASSERT_GE(writable, 0);
	EXPECT_EQ(FD_CLOEXEC, fcntl(readable, F_GETFD));
	EXPECT_EQ(FD_CLOEXEC, fcntl(writable, F_GETFD));
	EXPECT_EQ(O_RDONLY, fcntl(readable, F_GETFL) & O_ACCMODE);
	EXPECT_EQ(O_RDWR, fcntl(writable, F_GETFL) & O_ACCMODE);
	close(readable);
	close(writable);
}

/* Ways to write that a read-only share rejects. */
static void try_to_write(struct child *child)
{
	char bytes[64] = "no", path[64], *memory;
	struct iovec local = { bytes, sizeof(bytes) }, remote;
	int fd = receive_fd(child->parent), again, mem;

	CHECK(fd >= 0);
	CHECK_FAILS(EACCES, mmap(NULL, NR * ARENA, WRITE, MAP_SHARED, fd, 0));
	CHECK_FAILS(EACCES, mmap(NULL, NR * ARENA, PROT_WRITE, MAP_SHARED, fd, 0));
	CHECK_FAILS(EINVAL, mmap(NULL, NR * ARENA, WRITE, MAP_PRIVATE, fd, 0));
	CHECK_FAILS(EINVAL, mmap(NULL, NR * ARENA, READ, MAP_PRIVATE, fd, 0));
	memory = map_share(fd, NR * ARENA, READ);
	CHECK(memory);
	CHECK(!look(memory));
	CHECK_FAILS(EACCES, mprotect(memory, NR * ARENA, WRITE));
	CHECK_FAILS(EACCES, mprotect(memory, PAGE, PROT_WRITE));
	CHECK(touch(memory) == SIGSEGV);
	/* With the descriptor, or another one of the same file. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	CHECK_FAILS(ENXIO, open(path, O_RDWR));
	CHECK_FAILS(ENXIO, open(path, O_WRONLY));
	again = open(path, O_PATH | O_CLOEXEC);
	CHECK(again >= 0);
	CHECK_FAILS(EBADF, mmap(NULL, NR * ARENA, WRITE, MAP_SHARED, again, 0));
	close(again);
	again = dup(fd);
	fcntl(again, F_SETFL, O_RDWR);
	CHECK_FAILS(EACCES, mmap(NULL, NR * ARENA, WRITE, MAP_SHARED, again, 0));
	close(again);
	CHECK(pwrite(fd, bytes, sizeof(bytes), 0) == -1);
	CHECK(ftruncate(fd, 0) == -1);
	CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
			ARENA) == -1);
	CHECK(fchmod(fd, 0777) == -1);
	/* With the mapping. */
	CHECK(madvise(memory, ARENA, MADV_REMOVE) == -1);
	CHECK(madvise(memory, ARENA, MADV_POPULATE_WRITE) == -1);
	remote = (struct iovec){ memory, sizeof(bytes) };
	CHECK(process_vm_writev(getpid(), &local, 1, &remote, 1, 0) == -1);
	mem = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	CHECK(mem >= 0);
	CHECK(pwrite(mem, bytes, sizeof(bytes), (uintptr_t)memory) == -1);
	close(mem);
	/* After mremap() the mapping is still read-only. */
	memory = mremap(memory, ARENA, ARENA, MREMAP_MAYMOVE | MREMAP_FIXED,
			mmap(NULL, ARENA, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
			     -1, 0));
	if (memory != MAP_FAILED)
		CHECK_FAILS(EACCES, mprotect(memory, PAGE, WRITE));
	close(fd);
	/* Writes of the owner are visible. */
	CHECK(tell(child->parent, 1));
	CHECK(hear(child->parent));
	if (memory != MAP_FAILED)
		CHECK(!count_other(memory, PAGE, 'w'));
}

TEST_F(share, readonly_share_stays_read_only)
{
	struct heap *heap = &self->heap;
	struct child child;

	ASSERT_EQ(0, heap_commit(heap, 0, NR));
	fill_arenas(heap, NR);
	ASSERT_EQ(0, child_start(&child, try_to_write));
	ASSERT_TRUE(send_share(child.line, heap, 0, 0, NR * ARENA));
	ASSERT_TRUE(hear(child.line));
	for (int i = 0; i < NR; i++)
		EXPECT_EQ(0, spoilt(heap, i, 0, 512));
	memset(heap->window, 'w', PAGE);
	ASSERT_TRUE(tell(child.line, 1));
	EXPECT_EQ(0, child_end(&child));
}

/*
 * A writable share can be mapped read-only, and mprotect() can make the mapping writable.
 */
TEST_F(share, writable_share_can_be_mapped_read_only)
{
	struct heap *heap = &self->heap;
	char *memory;
	int fd;

	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	fd = heap_share(heap, KARENA_SHARE_WRITE, 0, ARENA);
	ASSERT_GE(fd, 0);
	memory = map_share(fd, ARENA, READ);
	ASSERT_NE(NULL, memory);
	EXPECT_EQ(0, look(memory));
	EXPECT_EQ(SIGSEGV, touch(memory));
	EXPECT_EQ(0, mprotect(memory, ARENA, WRITE));
	EXPECT_EQ(0, touch(memory + PAGE));
	EXPECT_EQ(1, *page(heap, 0, 1));
	EXPECT_EQ(-1, mprotect(memory, ARENA, PROT_READ | PROT_EXEC));
	munmap(memory, ARENA);
	close(fd);
}

/* A share gives no control over the heap. */
static void try_to_drive(struct child *child)
{
	struct karena_attach attach = { .size = sizeof(attach) };
	struct karena_range range = { .length = ARENA };
	struct image image;
	struct heap share;
	int fd = receive_fd(child->parent);
	char *memory = map_share(fd, NR * ARENA, WRITE);

	CHECK(memory);
	share = (struct heap){ .fd = fd };
	CHECK(heap_ranges(&share, KARENA_RELEASE, &range, 1) == -ENOTTY);
	CHECK(heap_ranges(&share, KARENA_COMMIT, &range, 1) == -ENOTTY);
	CHECK(heap_limit(&share, 0, 0, 0) == -ENOTTY);
	CHECK(heap_ready(&share, KARENA_NODE_ANY, 1) == -ENOTTY);
	CHECK(heap_share(&share, 0, 0, ARENA) == -ENOTTY);
	CHECK(heap_snapshot(&share, &image) == -ENOTTY);
	attach.address = (uintptr_t)memory;
	CHECK(device_call(KARENA_ATTACH, &attach) == -ENOENT);
	/* madvise() and fallocate() are for the owner only. */
	CHECK(madvise(memory, ARENA, MADV_REMOVE) == -1);
	CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
			ARENA) == -1);
	CHECK(ftruncate(fd, 2 * NR * ARENA) == -1);
	CHECK(pwrite(fd, "x", 1, 0) == -1);
	/* A write from here commits nothing, neither a store nor one by the kernel. */
	CHECK(tell(child->parent, 1));
	CHECK(hear(child->parent));
	CHECK(madvise(memory + ARENA, ARENA, MADV_POPULATE_WRITE) == -1);
	CHECK(errno == EFAULT);
	CHECK(madvise(memory + ARENA, ARENA, MADV_POPULATE_READ) == -1);
	CHECK(touch(memory + ARENA) == SIGBUS);
	CHECK(look(memory + ARENA) == SIGBUS);
	CHECK(pread(open("/dev/zero", O_RDONLY), memory + ARENA, PAGE, 0) == -1);
	CHECK(errno == EFAULT);
	CHECK(touch(memory + 2 * ARENA + PAGE) == SIGBUS);
}

TEST_F(share, share_gives_no_control_over_the_heap)
{
	struct heap *heap = &self->heap;
	struct child child;

	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	ASSERT_EQ(0, commit_pages(heap, 2, 0, 1));
	ASSERT_EQ(0, child_start(&child, try_to_drive));
	ASSERT_TRUE(send_share(child.line, heap, KARENA_SHARE_WRITE, 0, NR * ARENA));
	ASSERT_TRUE(hear(child.line));
	set_state(heap, 1, 1, KARENA_REQUESTED);
	set_state(heap, 2, 1, KARENA_REQUESTED | KARENA_SPARSE);
	ASSERT_TRUE(tell(child.line, 1));
	EXPECT_EQ(0, child_end(&child));
	EXPECT_EQ(KARENA_REQUESTED, state(heap, 1));
	EXPECT_EQ(ARENA + PAGE, heap_stat(heap, "committed"));
}

static void have_it_huge(struct child *child)
{
	char *memory = receive_share(child->parent, NR * ARENA, WRITE);
	long before = minor_faults();

	CHECK(memory);
	CHECK(!((uintptr_t)memory % ARENA));
	for (size_t i = 0; i < NR * ARENA; i += PAGE)
		memory[i] = 1;
	CHECK(minor_faults() - before < NR + 16);
	CHECK(smaps(memory, "FilePmdMapped") == NR * ARENA);
	CHECK(smaps(memory, "Rss") == NR * ARENA);
	/* The memory is counted only for the owner. */
	CHECK(!status_member("VmPin"));
}

TEST_F(share, huge_frames_are_huge_at_the_receiver)
{
	struct heap *heap = &self->heap;
	struct child child;

	ASSERT_EQ(0, heap_commit(heap, 0, NR));
	ASSERT_EQ(0, child_start(&child, have_it_huge));
	ASSERT_TRUE(send_share(child.line, heap, KARENA_SHARE_WRITE, 0, NR * ARENA));
	EXPECT_EQ(0, child_end(&child));
	/* Frames that the module keeps ready for a while count as well. */
	EXPECT_TRUE(heap_stat_becomes(heap, "ready_frames", 0));
	EXPECT_EQ(NR * ARENA, status_member("VmPin"));
	EXPECT_EQ(1, *page(heap, 3, 511));
	/* The owner has huge mappings as well. */
	EXPECT_EQ(0, touch(heap->window));
	EXPECT_GE(smaps(heap->window, "FilePmdMapped"), (long)ARENA);
}

/* From the middle of one arena to the middle of another. */
#define PART_FIRST	300UL
#define PART_PAGES	(212 + 512 + 512 + 17UL)

static void have_a_part(struct child *child)
{
	size_t length = PART_PAGES * PAGE;
	int fd = receive_fd(child->parent);
	char *memory = map_share(fd, length, READ);

	CHECK(memory);
	/* At this address whole arenas of the share can be mapped huge. */
	CHECK(((uintptr_t)memory & (ARENA - 1)) == PART_FIRST * PAGE);
	CHECK(!unreadable(memory, PART_PAGES));
	CHECK(smaps(memory, "FilePmdMapped") == 2 * ARENA);
	CHECK(smaps(memory, "Rss") == length);
	CHECK(*memory == (char)(PART_FIRST * 7 + 1));
	CHECK(!munmap(memory, length));
	/* Parts of the share. */
	for (size_t at = 0; at < PART_PAGES; at += 97) {
		size_t pages = PART_PAGES - at < 600 ? PART_PAGES - at : 600;

		memory = mmap(NULL, pages * PAGE, READ, MAP_SHARED, fd, at * PAGE);
		CHECK(memory != MAP_FAILED);
		for (size_t i = 0; i < pages; i++) {
			size_t number = PART_FIRST + at + i;

			CHECK(!count_other(memory + i * PAGE, PAGE,
					   number % 512 * 7 + number / 512 + 1));
		}
		CHECK(!munmap(memory, pages * PAGE));
	}
	close(fd);
}

TEST_F(share, share_may_have_partial_arenas)
{
	struct heap *heap = &self->heap;
	struct child child;

	ASSERT_EQ(0, heap_commit(heap, 0, NR));
	fill_arenas(heap, NR);
	ASSERT_EQ(0, child_start(&child, have_a_part));
	ASSERT_TRUE(send_share(child.line, heap, 0, PART_FIRST * PAGE,
			       PART_PAGES * PAGE));
	EXPECT_EQ(0, child_end(&child));
}

/*
 * Map the share at several distances from an arena boundary, most of which differ from
 * those in the window. Each page of the share must be the corresponding page of the window.
 */
static void map_it_anywhere(struct child *child)
{
	size_t length = PART_PAGES * PAGE;
	char *reserve = mmap(NULL, 6 * ARENA, PROT_NONE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	static const size_t places[] = { 0, PART_FIRST, 1, 511, PART_FIRST + 1 };
	int fd = receive_fd(child->parent);

	CHECK(reserve != MAP_FAILED);
	reserve = (char *)(((uintptr_t)reserve + ARENA - 1) & ~(ARENA - 1));
	for (int i = 0; i < ARRAY_SIZE(places); i++) {
		char *at = reserve + places[i] * PAGE;

		CHECK(mmap(at, length, WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == at);
		/* Start within an arena. */
		for (size_t j = 0; j < PART_PAGES; j++) {
			size_t index = (j + 400) % PART_PAGES;
			size_t number = PART_FIRST + index;

			CHECK(!count_other(at + index * PAGE, PAGE,
					   number % 512 * 7 + number / 512 + 1));
		}
		CHECK(!munmap(at, length));
	}
	close(fd);
}

TEST_F(share, share_is_correct_at_any_address)
{
	struct heap *heap = &self->heap;
	struct child child;

	ASSERT_EQ(0, heap_commit(heap, 0, NR));
	fill_arenas(heap, NR);
	ASSERT_EQ(0, child_start(&child, map_it_anywhere));
	ASSERT_TRUE(send_share(child.line, heap, KARENA_SHARE_WRITE,
			       PART_FIRST * PAGE, PART_PAGES * PAGE));
	EXPECT_EQ(0, child_end(&child));
}

#define SECRET	's'

/* Return true if any readable page has the secret byte. */
static bool finds_secret(const char *start, size_t pages)
{
	for (size_t i = 0; i < pages; i++) {
		if (!look(start + i * PAGE) && start[i * PAGE] == SECRET)
			return true;
	}
	return false;
}

/* Try to read outside the shared range, where everything is secret. */
static void reach_beyond(struct child *child)
{
	size_t length = 100 * PAGE, first = 100;
	int fd = receive_fd(child->parent);
	char *reserve, *at, *grown;

	reserve = mmap(NULL, 8 * ARENA, PROT_NONE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(reserve != MAP_FAILED);
	reserve = (char *)(((uintptr_t)reserve + ARENA - 1) & ~(ARENA - 1));

	/* A mapping that is larger than the share, or starts after or before it. */
	at = mmap(reserve + first * PAGE, 412 * PAGE, WRITE, MAP_SHARED | MAP_FIXED,
		  fd, 0);
	if (at != MAP_FAILED) {
		CHECK(!look(at + 5 * PAGE));
		CHECK(!finds_secret(at, 412));
		munmap(at, 412 * PAGE);
	}
	at = mmap(reserve, ARENA, WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
	if (at != MAP_FAILED) {
		CHECK(!look(at + 5 * PAGE));
		CHECK(!finds_secret(at, 512));
		munmap(at, ARENA);
	}
	at = mmap(reserve, ARENA, WRITE, MAP_SHARED | MAP_FIXED, fd, length);
	if (at != MAP_FAILED) {
		CHECK(!finds_secret(at, 512));
		munmap(at, ARENA);
	}
	at = mmap(reserve, ARENA, WRITE, MAP_SHARED | MAP_FIXED, fd,
		  -(off_t)(first * PAGE));
	if (at != MAP_FAILED) {
		CHECK(!finds_secret(at, 512));
		munmap(at, ARENA);
	}
	/* A mapping that grows in place, before and after a touch. */
	for (int touched = 0; touched < 2; touched++) {
		at = mmap(reserve + first * PAGE, length, WRITE,
			  MAP_SHARED | MAP_FIXED, fd, 0);
		CHECK(at != MAP_FAILED);
		if (touched)
			CHECK(!look(at));
		munmap(at + length, ARENA);
		grown = mremap(at, length, 412 * PAGE, 0);
		if (grown != MAP_FAILED) {
			CHECK(!look(grown + 5 * PAGE));
			CHECK(!finds_secret(grown, 412));
			munmap(grown, 412 * PAGE);
		} else {
			munmap(at, length);
		}
	}
	/* A mapping that grows and moves to where an arena fits, and a second mapping. */
	at = mmap(reserve, length, WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
	CHECK(at != MAP_FAILED);
	grown = mremap(at, length, 2 * ARENA, MREMAP_MAYMOVE | MREMAP_FIXED,
		       reserve + 4 * ARENA);
	if (grown != MAP_FAILED) {
		CHECK(!look(grown + 5 * PAGE));
		CHECK(!finds_secret(grown, 1024));
		munmap(grown, 2 * ARENA);
	} else {
		munmap(at, length);
	}
	at = mmap(reserve, length, WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
	CHECK(at != MAP_FAILED);
	grown = mremap(at, 0, 2 * ARENA, MREMAP_MAYMOVE | MREMAP_FIXED,
		       reserve + 4 * ARENA);
	if (grown != MAP_FAILED) {
		CHECK(!look(grown + 5 * PAGE));
		CHECK(!finds_secret(grown, 1024));
	}
	/* remap_file_pages() maps another part of the file. */
	for (size_t page = 0; page < 1024; page += 50) {
		if (!syscall(SYS_remap_file_pages, at, PAGE, 0, page, 0))
			CHECK(!finds_secret(at, 100));
	}
	close(fd);
}

TEST_F_TIMEOUT(share, memory_outside_the_share_cannot_be_read, SLOW)
{
	struct heap *heap = &self->heap;
	struct child child;

	/* First huge, then sparse. */
	for (int sparse = 0; sparse < 2; sparse++) {
		ASSERT_EQ(0, heap_release(heap, 0, 3));
		ASSERT_EQ(0, heap_commit(heap, 0, 1));
		if (sparse) {
			ASSERT_EQ(0, commit_pages(heap, 1, 0, 511));
			ASSERT_EQ(0, commit_pages(heap, 1, 511, 1));
		} else {
			ASSERT_EQ(0, heap_commit(heap, 1, 1));
		}
		ASSERT_EQ(0, heap_commit(heap, 2, 1));
		memset(heap->window, SECRET, 3 * ARENA);
		memset(page(heap, 1, 100), 'p', 100 * PAGE);
		ASSERT_EQ(0, child_start(&child, reach_beyond));
		ASSERT_TRUE(send_share(child.line, heap, KARENA_SHARE_WRITE,
				       ARENA + 100 * PAGE, 100 * PAGE));
		EXPECT_EQ(0, child_end(&child));
		EXPECT_EQ(0, count_other(page(heap, 1, 200), 312 * PAGE, SECRET));
		EXPECT_EQ(0, count_other(page(heap, 1, 0), 100 * PAGE, SECRET));
	}
}

/* The receiver sees the commits and releases of the owner. */
static void watch_it(struct child *child)
{
	char *memory = receive_share(child->parent, NR * ARENA, WRITE);
	uint64_t step;

	CHECK(memory);
	while ((step = hear(child->parent))) {
		switch (step) {
		case 1:
			CHECK(unreadable(memory, NR * 512) == NR * 512);
			CHECK(touch(memory + ARENA) == SIGBUS);
			break;
		case 2:
			CHECK(!count_other(memory, ARENA, 'a'));
			CHECK(unreadable(memory + ARENA, 512) == 512 - 8);
			CHECK(!count_other(memory + ARENA + 8 * PAGE, 8 * PAGE, 'b'));
			CHECK(unreadable(memory + 2 * ARENA, 1024) == 1024);
			break;
		case 3:
			CHECK(!count_other(memory, ARENA, 0));
			CHECK(!count_other(memory + ARENA, ARENA, 0));
			memset(memory, 'r', 2 * ARENA);
			break;
		case 4:
			/* Most of the first arena was released, little of the other. */
			CHECK(unreadable(memory, 300) == 300);
			CHECK(!count_other(memory + 300 * PAGE, 212 * PAGE, 'r'));
			CHECK(!count_other(memory + ARENA, 10 * PAGE, 0));
			CHECK(!count_other(memory + ARENA + 10 * PAGE, 502 * PAGE,
					   'r'));
			memset(memory + 300 * PAGE, 'q', 212 * PAGE);
			break;
		}
		CHECK(tell(child->parent, step));
	}
}

#define STEP(_number)							\
	do {								\
		ASSERT_TRUE(tell(child.line, _number));			\
		ASSERT_EQ(_number, hear(child.line));			\
	} while (0)

TEST_F(share, receiver_sees_commits_and_releases_of_the_owner)
{
	struct heap *heap = &self->heap;
	struct child child;

	ASSERT_EQ(0, child_start(&child, watch_it));
	ASSERT_TRUE(send_share(child.line, heap, KARENA_SHARE_WRITE, 0, NR * ARENA));
	STEP(1);
	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	ASSERT_EQ(0, commit_pages(heap, 1, 8, 8));
	memset(heap->window, 'a', ARENA);
	memset(page(heap, 1, 8), 'b', 8 * PAGE);
	STEP(2);
	ASSERT_EQ(0, heap_release(heap, 0, 2));
	EXPECT_EQ(0, heap_stat(heap, "committed"));
	STEP(1);
	ASSERT_EQ(0, heap_commit(heap, 0, 2));
	STEP(3);
	ASSERT_EQ(0, release_pages(heap, 0, 0, 300));
	ASSERT_EQ(0, release_pages(heap, 1, 0, 10));
	EXPECT_EQ(0, count_other(page(heap, 1, 10), 502 * PAGE, 'r'));
	EXPECT_EQ(1, heap_stat(heap, "demoted"));
	STEP(4);
	EXPECT_EQ(0, count_other(page(heap, 0, 300), 212 * PAGE, 'q'));
	ASSERT_EQ(0, heap_release(heap, 0, NR));
	STEP(1);
	EXPECT_EQ(0, module_stat("committed"));
	EXPECT_TRUE(module_stat_becomes("pinned_orphans", 0));
	EXPECT_EQ(0, child_end(&child));
}

/* An owner that shares a part of its heap, and ends when and how the test tells it. */
#define OWNED		6
#define OWNED_FIRST	(512 + 256UL)		/* page: the middle of arena 1 */
#define OWNED_PAGES	(256 + 512 + 100UL)	/* into arena 3, which is sparse */

static void own_and_share(struct child *child)
{
	struct heap heap;

	CHECK(!heap_open(&heap, 16 * ARENA, 0));
	CHECK(!heap_commit(&heap, 0, 3));
	CHECK(!commit_pages(&heap, 3, 0, 90));
	CHECK(!heap_commit(&heap, 4, 2));
	fill_arenas(&heap, 3);
	fill(&heap, 3, 0, 90);
	CHECK(send_share(child->parent, &heap, KARENA_SHARE_WRITE,
			 OWNED_FIRST * PAGE, OWNED_PAGES * PAGE));
	CHECK(send_share(child->parent, &heap, 0, ARENA, ARENA));
	/* A share that was closed keeps nothing. */
	close(heap_share(&heap, 0, 0, OWNED * ARENA));
	if (hear(child->parent) == 2) {
		kill(getpid(), SIGKILL);
		pause();
	}
}

static size_t owned_spoilt(const char *memory)
{
	size_t pages = 0;

	for (size_t i = 0; i < OWNED_PAGES - 10; i++) {
		size_t number = OWNED_FIRST + i;

		pages += count_other(memory + i * PAGE, PAGE,
				     number % 512 * 7 + number / 512 + 1) != 0;
	}
	/* The last pages are not committed. */
	return pages + 10 - unreadable(memory + (OWNED_PAGES - 10) * PAGE, 10);
}

#define OWNED_LEFT	(2 * ARENA + 90 * PAGE)	/* arenas 1, 2 and 3 */

TEST_F(share, share_survives_its_owner)
{
	for (int by_kill = 0; by_kill < 2; by_kill++) {
		struct child owner;
		char *memory, *other, *again;
		int fd;

		ASSERT_EQ(0, child_start(&owner, own_and_share));
		fd = receive_fd(owner.line);
		ASSERT_GE(fd, 0);
		other = receive_share(owner.line, ARENA, READ);
		ASSERT_NE(NULL, other);
		memory = map_share(fd, OWNED_PAGES * PAGE, WRITE);
		ASSERT_NE(NULL, memory);
		EXPECT_EQ(0, owned_spoilt(memory));
		EXPECT_EQ(5 * ARENA + 90 * PAGE, module_stat("committed"));
		ASSERT_TRUE(tell(owner.line, 1 + by_kill));
		EXPECT_EQ(by_kill ? 128 + SIGKILL : 0, child_end(&owner));
		EXPECT_TRUE(module_stat_becomes("committed", OWNED_LEFT));
		/* The existing mapping, a new one, and both together. */
		EXPECT_EQ(0, owned_spoilt(memory));
		again = map_share(fd, OWNED_PAGES * PAGE, WRITE);
		ASSERT_NE(NULL, again);
		close(fd);
		EXPECT_EQ(0, owned_spoilt(again));
		memset(memory, 'm', 256 * PAGE);
		memset(again + 300 * PAGE, 'a', PAGE);
		EXPECT_EQ(0, count_other(again, 256 * PAGE, 'm'));
		EXPECT_EQ(0, count_other(memory + 300 * PAGE, PAGE, 'a'));
		EXPECT_EQ(0, count_other(other + ARENA / 2, ARENA / 2, 'm'));
		EXPECT_EQ('\x02', *other);
		/* No process can commit memory there any more. */
		EXPECT_EQ(SIGBUS, touch(memory + (OWNED_PAGES - 1) * PAGE));
		munmap(memory, OWNED_PAGES * PAGE);
		EXPECT_EQ(OWNED_LEFT, module_stat("committed"));
		munmap(again, OWNED_PAGES * PAGE);
		/* The other share still has arena 1, or the part of it. */
		EXPECT_EQ(0, count_other(other + ARENA / 2, ARENA / 2, 'm'));
		EXPECT_GE(module_stat("committed"), (long)ARENA);
		munmap(other, ARENA);
		EXPECT_TRUE(module_stat_becomes("committed", 0));
		EXPECT_TRUE(module_stat_becomes("nr_heaps", self->nr_heaps + 1));
	}
}

TEST_F(share, descriptor_alone_keeps_the_memory)
{
	struct child owner;
	int fd, other, pair[2];
	char *memory;

	ASSERT_EQ(0, child_start(&owner, own_and_share));
	fd = receive_fd(owner.line);
	ASSERT_GE(fd, 0);
	other = receive_fd(owner.line);
	ASSERT_GE(other, 0);
	close(other);
	ASSERT_TRUE(tell(owner.line, 1));
	EXPECT_EQ(0, child_end(&owner));
	EXPECT_TRUE(module_stat_becomes("committed", OWNED_LEFT));
	EXPECT_EQ(-1, syscall(SYS_delete_module, "karena", O_NONBLOCK));
	EXPECT_EQ(EWOULDBLOCK, errno);
	/* During its transfer to another process, the descriptor belongs to no process. */
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	ASSERT_TRUE(send_fd(pair[0], fd));
	close(fd);
	usleep(300000);
	EXPECT_EQ(OWNED_LEFT, module_stat("committed"));
	fd = receive_fd(pair[1]);
	ASSERT_GE(fd, 0);
	memory = map_share(fd, OWNED_PAGES * PAGE, READ);
	ASSERT_NE(NULL, memory);
	EXPECT_EQ(0, owned_spoilt(memory));
	munmap(memory, OWNED_PAGES * PAGE);
	/* When the socket is closed, the descriptor in it is closed. */
	ASSERT_TRUE(send_fd(pair[0], fd));
	close(fd);
	close(pair[0]);
	close(pair[1]);
	EXPECT_TRUE(module_stat_becomes("committed", 0));
}

static void have_it_for_a_while(struct child *child)
{
	char *memory = receive_share(child->parent, NR * ARENA, WRITE);

	CHECK(memory);
	memset(memory, 'r', NR * ARENA);
	CHECK(tell(child->parent, 1));
	if (hear(child->parent) == 2) {
		for (;;)
			memset(memory, 'r', NR * ARENA);
	}
}

TEST_F(share, receivers_can_exit_and_be_killed)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_commit(heap, 0, NR));
	for (int by_kill = 0; by_kill < 2; by_kill++) {
		struct child child;

		memset(heap->window, 'o', NR * ARENA);
		ASSERT_EQ(0, child_start(&child, have_it_for_a_while));
		ASSERT_TRUE(send_share(child.line, heap, KARENA_SHARE_WRITE, 0,
				       NR * ARENA));
		ASSERT_TRUE(hear(child.line));
		ASSERT_TRUE(tell(child.line, 1 + by_kill));
		if (by_kill) {
			usleep(50000);
			kill(child.pid, SIGKILL);
		}
		EXPECT_EQ(by_kill ? 128 + SIGKILL : 0, child_end(&child));
		EXPECT_EQ(0, count_other(heap->window, NR * ARENA, 'r'));
		EXPECT_EQ(NR * ARENA, heap_stat(heap, "committed"));
	}
	/* There are no references left. */
	ASSERT_EQ(0, heap_release(heap, 0, NR));
	EXPECT_TRUE(module_stat_becomes("pinned_orphans", 0));
	EXPECT_EQ(0, module_stat("committed"));
}

static char *given;

static void write_as_a_grandchild(struct child *child)
{
	memset(given + ARENA, 'g', ARENA);
	CHECK(tell(child->parent, 1));
	CHECK(hear(child->parent));
	CHECK(!count_other(given, ARENA, 'r'));
	CHECK(!count_other(given + 2 * ARENA, ARENA, 'o'));
}

static void receive_and_fork(struct child *child)
{
	struct child grandchild;

	given = receive_share(child->parent, NR * ARENA, WRITE);
	CHECK(given);
	CHECK(!look(given));
	CHECK(!child_start(&grandchild, write_as_a_grandchild));
	CHECK(hear(grandchild.line));
	CHECK(!count_other(given + ARENA, ARENA, 'g'));
	memset(given, 'r', ARENA);
	CHECK(tell(child->parent, 1));
	CHECK(hear(child->parent));
	CHECK(tell(grandchild.line, 1));
	CHECK(!child_end(&grandchild));
	CHECK(!count_other(given + 2 * ARENA, ARENA, 'o'));
}

TEST_F(share, forked_receiver_and_its_child_have_the_share)
{
	struct heap *heap = &self->heap;
	struct child child;

	ASSERT_EQ(0, heap_commit(heap, 0, NR));
	ASSERT_EQ(0, child_start(&child, receive_and_fork));
	ASSERT_TRUE(send_share(child.line, heap, KARENA_SHARE_WRITE, 0, NR * ARENA));
	ASSERT_TRUE(hear(child.line));
	EXPECT_EQ(0, count_other(arena(heap, 0), ARENA, 'r'));
	EXPECT_EQ(0, count_other(arena(heap, 1), ARENA, 'g'));
	memset(arena(heap, 2), 'o', ARENA);
	ASSERT_TRUE(tell(child.line, 1));
	EXPECT_EQ(0, child_end(&child));
	EXPECT_EQ(0, heap_stat(heap, "copies"));
}

/*
 * The owner forks with copy-on-write, and the share stays with the parent. Arena 0 is huge,
 * arena 1 sparse; each of the three processes writes to some pages of both.
 */
#define BY_OWNER	10
#define BY_RECEIVER	20
#define BY_CLONE	30

static void receive_from_a_forking_owner(struct child *child)
{
	char *memory = receive_share(child->parent, 2 * ARENA, WRITE);
	uint64_t step;

	CHECK(memory);
	CHECK(!count_other(memory, 2 * ARENA, 'a'));
	while ((step = hear(child->parent))) {
		for (int i = 0; i < 2; i++) {
			char *at = memory + i * ARENA;

			switch (step) {
			case 1:
				CHECK(!count_other(at + BY_OWNER * PAGE, PAGE, 'o'));
				memset(at + BY_RECEIVER * PAGE, 'r', PAGE);
				break;
			case 2:
				CHECK(!count_other(at + BY_CLONE * PAGE, PAGE, 'a'));
				CHECK(!count_other(at + BY_RECEIVER * PAGE, PAGE,
						   'r'));
				break;
			case 3:
				CHECK(!count_other(at, 400 * PAGE, 'p'));
				CHECK(!count_other(at + 400 * PAGE, 112 * PAGE, 'a'));
				memset(at + 399 * PAGE, 's', 2 * PAGE);
				break;
			}
		}
		CHECK(tell(child->parent, step));
	}
}

static struct heap inherited;

static void be_a_clone(struct child *child)
{
	struct heap *heap = &inherited;

	CHECK(!count_other(heap->window, 2 * ARENA, 'a'));
	CHECK(tell(child->parent, 1));
	CHECK(hear(child->parent));
	/* The clone sees no writes of the owner or the receiver. */
	CHECK(!count_other(heap->window, 2 * ARENA, 'a'));
	for (int i = 0; i < 2; i++)
		memset(page(heap, i, BY_CLONE), 'c', PAGE);
	CHECK(tell(child->parent, 2));
	CHECK(hear(child->parent));
	for (int i = 0; i < 2; i++)
		CHECK(!count_other(page(heap, i, BY_CLONE), PAGE, 'c'));
}

TEST_F_TIMEOUT(share, share_stays_with_the_parent_after_a_fork, SLOW)
{
	struct child child, clone;
	struct heap heap;
	long copies;

	ASSERT_EQ(0, child_start(&child, receive_from_a_forking_owner));
	ASSERT_EQ(0, heap_open(&heap, 4 * ARENA, 0));
	ASSERT_EQ(0, heap_commit(&heap, 0, 1));
	ASSERT_EQ(0, commit_pages(&heap, 1, 0, 511));
	ASSERT_EQ(0, commit_pages(&heap, 1, 511, 1));
	memset(heap.window, 'a', 2 * ARENA);
	ASSERT_TRUE(send_share(child.line, &heap, KARENA_SHARE_WRITE, 0, 2 * ARENA));
	ASSERT_TRUE(tell(child.line, 9));
	ASSERT_EQ(9, hear(child.line));

	inherited = heap;
	ASSERT_EQ(0, child_start(&clone, be_a_clone));
	ASSERT_EQ(1, hear(clone.line));
	for (int i = 0; i < 2; i++)
		memset(page(&heap, i, BY_OWNER), 'o', PAGE);
	STEP(1);
	for (int i = 0; i < 2; i++)
		EXPECT_EQ(0, count_other(page(&heap, i, BY_RECEIVER), PAGE, 'r'));
	/* Copies for writes of the receiver belong to the parent's heap. */
	EXPECT_EQ(4, heap_stat(&heap, "copies"));
	ASSERT_TRUE(tell(clone.line, 1));
	ASSERT_EQ(2, hear(clone.line));
	for (int i = 0; i < 2; i++)
		EXPECT_EQ(0, count_other(page(&heap, i, BY_CLONE), PAGE, 'a'));
	STEP(2);
	/*
	 * Copy most pages of both arenas. After the clone has ended, they become huge
	 * again.
	 */
	for (int i = 0; i < 2; i++)
		memset(arena(&heap, i), 'p', 400 * PAGE);
	ASSERT_TRUE(tell(clone.line, 2));
	EXPECT_EQ(0, child_end(&clone));
	EXPECT_TRUE(heap_stat_becomes(&heap, "shared", 0));
	STEP(3);
	for (int i = 0; i < 2; i++)
		EXPECT_EQ(0, count_other(page(&heap, i, 399), 2 * PAGE, 's'));
	sleep(4);
	for (int i = 0; i < 2; i++)
		memset(arena(&heap, i), 'p', 400 * PAGE);
	for (int i = 0; i < 2; i++)
		memset(page(&heap, i, 400), 'a', PAGE);
	STEP(3);
	for (int i = 0; i < 2; i++)
		EXPECT_EQ(0, count_other(page(&heap, i, 399), 2 * PAGE, 's'));
	copies = heap_stat(&heap, "copies");
	memset(heap.window, 'q', 2 * ARENA);
	EXPECT_EQ(copies, heap_stat(&heap, "copies"));
	EXPECT_EQ(0, child_end(&child));
	heap_destroy(&heap);
}

/* Shares of a clone. */
static void share_as_a_clone(struct child *child)
{
	struct heap *heap = &inherited;
	int fd;

	memset(page(heap, 0, 3), 'c', PAGE);
	fd = heap_share(heap, KARENA_SHARE_WRITE, 0, ARENA);
	CHECK(fd >= 0);
	CHECK(send_fd(child->parent, fd));
	CHECK(hear(child->parent));
	CHECK(!count_other(page(heap, 0, 4), PAGE, 'r'));
	CHECK(!count_other(page(heap, 0, 5), PAGE, 'a'));
	memset(page(heap, 0, 6), 'c', PAGE);
	CHECK(tell(child->parent, 1));
	CHECK(hear(child->parent));
}

TEST_F(share, clone_shares_its_own_memory)
{
	struct child clone;
	struct heap heap;
	char *memory;

	ASSERT_EQ(0, heap_open(&heap, 4 * ARENA, 0));
	ASSERT_EQ(0, heap_commit(&heap, 0, 1));
	memset(heap.window, 'a', ARENA);
	inherited = heap;
	ASSERT_EQ(0, child_start(&clone, share_as_a_clone));
	memory = receive_share(clone.line, ARENA, WRITE);
	ASSERT_NE(NULL, memory);
	/* First a page that is not copied, then the copied one. */
	EXPECT_EQ(0, count_other(memory + 9 * PAGE, PAGE, 'a'));
	EXPECT_EQ(0, count_other(memory + 3 * PAGE, PAGE, 'c'));
	memset(memory + 4 * PAGE, 'r', PAGE);
	memset(page(&heap, 0, 5), 'p', PAGE);
	EXPECT_EQ(0, count_other(memory + 5 * PAGE, PAGE, 'a'));
	ASSERT_TRUE(tell(clone.line, 1));
	ASSERT_TRUE(hear(clone.line));
	EXPECT_EQ(0, count_other(memory + 6 * PAGE, PAGE, 'c'));
	EXPECT_EQ(0, count_other(page(&heap, 0, 3), 2 * PAGE, 'a'));
	EXPECT_EQ(0, count_other(page(&heap, 0, 6), PAGE, 'a'));
	ASSERT_TRUE(tell(clone.line, 1));
	EXPECT_EQ(0, child_end(&clone));
	/* The clone has ended, and the share still has its memory. */
	EXPECT_EQ(0, count_other(memory + 3 * PAGE, PAGE, 'c'));
	EXPECT_EQ(0, count_other(memory + 4 * PAGE, PAGE, 'r'));
	EXPECT_EQ(0, count_other(memory + 9 * PAGE, PAGE, 'a'));
	memset(memory, 'r', ARENA);
	EXPECT_EQ(0, count_other(page(&heap, 0, 9), PAGE, 'a'));
	EXPECT_EQ(0, count_other(page(&heap, 0, 5), PAGE, 'p'));
	munmap(memory, ARENA);
	EXPECT_TRUE(heap_stat_becomes(&heap, "shared", 0));
	heap_destroy(&heap);
}

/* The owner ends. Its clone and the receiver each keep the shared memory. */
static void own_share_and_fork(struct child *child)
{
	struct heap heap;
	pid_t clone;

	CHECK(!heap_open(&heap, 4 * ARENA, 0));
	CHECK(!heap_commit(&heap, 0, 2));
	memset(heap.window, 'a', 2 * ARENA);
	CHECK(send_share(child->parent, &heap, KARENA_SHARE_WRITE, 0, ARENA));
	clone = fork();
	if (clone)
		_exit(clone < 0);
	/* Wait until the parent has exited. */
	while (getppid() != 1)
		usleep(1000);
	memset(page(&heap, 0, 3), 'c', PAGE);
	CHECK(tell(child->parent, 1));
	CHECK(hear(child->parent));
	CHECK(!count_other(page(&heap, 0, 4), PAGE, 'a'));
	CHECK(!count_other(page(&heap, 0, 3), PAGE, 'c'));
	CHECK(!count_other(arena(&heap, 1), ARENA, 'a'));
	tell(child->parent, 1);
}

TEST_F(share, owner_may_end_before_clone_and_receiver)
{
	struct child owner;
	char *memory;

	ASSERT_EQ(0, child_start(&owner, own_share_and_fork));
	memory = receive_share(owner.line, ARENA, WRITE);
	ASSERT_NE(NULL, memory);
	EXPECT_EQ(0, child_status(owner.pid));
	ASSERT_TRUE(hear(owner.line));
	EXPECT_EQ(0, count_other(memory, ARENA, 'a'));
	memset(memory + 4 * PAGE, 'r', PAGE);
	ASSERT_TRUE(tell(owner.line, 1));
	ASSERT_TRUE(hear(owner.line));
	EXPECT_EQ(0, count_other(memory + 4 * PAGE, PAGE, 'r'));
	EXPECT_EQ(0, count_other(memory + 3 * PAGE, PAGE, 'a'));
	memset(memory, 'z', ARENA);
	close(owner.line);
	munmap(memory, ARENA);
	EXPECT_TRUE(module_stat_becomes("committed", 0));
}

/*
 * After the owner has ended, copies for a receiver are still charged to a cgroup. Here all
 * processes are in the same one.
 */
static void write_to_an_orphaned_share(struct child *child)
{
	struct child owner;
	char *memory;
	long before;

	(void)child;
	CHECK(group_enter());
	CHECK(!child_start(&owner, own_share_and_fork));
	memory = receive_share(owner.line, ARENA, WRITE);
	CHECK(memory);
	CHECK(!child_status(owner.pid));
	CHECK(hear(owner.line));
	before = group_stat("memory.current", NULL);
	memset(memory + 4 * PAGE, 'r', 508 * PAGE);
	CHECK(group_stat("memory.current", NULL) - before >=
	      (long)(508 * PAGE - MIB / 2));
	CHECK(tell(owner.line, 1));
	CHECK(hear(owner.line));
	close(owner.line);
}

TEST_F(share, copies_for_a_receiver_are_charged_to_a_cgroup)
{
	ASSERT_EQ(0, group_make());
	EXPECT_EQ(0, in_child(write_to_an_orphaned_share));
	for (int i = 0; i < 100 && group_remove(); i++)
		usleep(50000);
	EXPECT_EQ(-ENOENT, group_remove());
}

/* Not a share but the heap's own descriptor, in a process that may not use the heap. */
static void commit_and_send(struct child *child)
{
	bool mapped = hear(child->parent) == 2;
	struct heap heap;

	CHECK(!heap_open(&heap, NR * ARENA, 0));
	CHECK(!heap_range(&heap, KARENA_COMMIT, 0, NR * ARENA));
	if (!mapped) {
		munmap(heap.window, heap.size);
		munmap(heap.control, heap.control_size);
	}
	CHECK(send_fd(child->parent, heap.fd));
	CHECK(hear(child->parent));
}

TEST_F(share, heap_descriptor_in_another_process_keeps_no_memory)
{
	for (int mapped = 1; mapped >= 0; mapped--) {
		struct child owner;
		int fd;

		ASSERT_EQ(0, child_start(&owner, commit_and_send));
		ASSERT_TRUE(tell(owner.line, 1 + mapped));
		fd = receive_fd(owner.line);
		ASSERT_GE(fd, 0);
		EXPECT_EQ(NR * ARENA, module_stat("committed"));
		ASSERT_TRUE(tell(owner.line, 1));
		EXPECT_EQ(0, child_end(&owner));
		EXPECT_TRUE(module_stat_becomes("committed", 0));
		close(fd);
	}
}

#define RECEIVERS	8

static void be_one_of_many(struct child *child)
{
	char *memory = receive_share(child->parent, NR * ARENA, WRITE);
	uint64_t number = hear(child->parent);

	CHECK(memory);
	CHECK(!unreadable(memory, NR * 512));
	memset(memory + number * 16 * PAGE, number, 16 * PAGE);
	CHECK(tell(child->parent, 1));
	CHECK(hear(child->parent));
	CHECK(smaps(memory, "FilePmdMapped") == NR * ARENA);
	CHECK(tell(child->parent, smaps(memory, "Pss")));
	CHECK(hear(child->parent));
	for (uint64_t i = 1; i <= RECEIVERS; i++)
		CHECK(!count_other(memory + i * 16 * PAGE, 16 * PAGE, i));
}

TEST_F_TIMEOUT(share, eight_receivers_share_one_copy, SLOW)
{
	struct child children[RECEIVERS];
	struct heap *heap = &self->heap;
	long pss = 0;
	int fd;

	ASSERT_EQ(0, heap_commit(heap, 0, NR));
	fd = heap_share(heap, KARENA_SHARE_WRITE, 0, NR * ARENA);
	ASSERT_GE(fd, 0);
	for (int i = 0; i < RECEIVERS; i++) {
		ASSERT_EQ(0, child_start(&children[i], be_one_of_many));
		ASSERT_TRUE(send_fd(children[i].line, fd));
		ASSERT_TRUE(tell(children[i].line, 1 + i));
	}
	close(fd);
	for (int i = 0; i < RECEIVERS; i++)
		ASSERT_TRUE(hear(children[i].line));
	for (int i = 0; i < RECEIVERS; i++)
		ASSERT_TRUE(tell(children[i].line, 1));
	for (int i = 0; i < RECEIVERS; i++)
		pss += hear(children[i].line);
	EXPECT_LE(pss, (long)(NR * ARENA));
	EXPECT_GE(pss, (long)(NR * ARENA / 2));
	EXPECT_EQ(NR * ARENA, module_stat("committed"));
	for (int i = 0; i < RECEIVERS; i++)
		ASSERT_TRUE(tell(children[i].line, 1));
	for (int i = 0; i < RECEIVERS; i++)
		EXPECT_EQ(0, child_end(&children[i]));
	for (int i = 1; i <= RECEIVERS; i++)
		EXPECT_EQ(0, count_other(heap->window + i * 16 * PAGE, 16 * PAGE, i));
}

/* Receivers are killed at any moment while the owner uses the heap. */
static void use_it_until_killed(struct child *child)
{
	char *memory = receive_share(child->parent, NR * ARENA, WRITE);

	CHECK(memory);
	CHECK(tell(child->parent, 1));
	for (unsigned int i = 0;; i++) {
		touch(memory + i * 37 % (NR * 512) * PAGE);
		look(memory + i * 53 % (NR * 512) * PAGE);
	}
}

TEST_F_TIMEOUT(share, receivers_can_be_killed_at_any_moment, SLOW)
{
	struct heap *heap = &self->heap;
	unsigned int seed = 1;

	for (int round = 0; round < 30; round++) {
		struct child child;

		ASSERT_EQ(0, heap_commit(heap, 0, NR));
		ASSERT_EQ(0, child_start(&child, use_it_until_killed));
		ASSERT_TRUE(send_share(child.line, heap, KARENA_SHARE_WRITE, 0,
				       NR * ARENA));
		ASSERT_TRUE(hear(child.line));
		usleep(rand_r(&seed) % 5000);
		ASSERT_EQ(0, release_pages(heap, 0, 0, 300));
		ASSERT_EQ(0, heap_release(heap, 1, 1));
		usleep(rand_r(&seed) % 5000);
		kill(child.pid, SIGKILL);
		ASSERT_EQ(0, heap_release(heap, 0, NR));
		EXPECT_EQ(128 + SIGKILL, child_end(&child));
	}
	EXPECT_TRUE(module_stat_becomes("committed", 0));
	EXPECT_TRUE(module_stat_becomes("pinned_orphans", 0));
}

static void own_until_killed(struct child *child)
{
	struct heap heap;

	CHECK(!heap_open(&heap, NR * ARENA, 0));
	CHECK(!heap_commit(&heap, 0, NR));
	memset(heap.window, 'k', NR * ARENA);
	CHECK(send_share(child->parent, &heap, KARENA_SHARE_WRITE, 0, NR * ARENA));
	for (;;)
		memset(heap.window, 'k', NR * ARENA);
}

TEST_F_TIMEOUT(share, owners_can_be_killed_at_any_moment, SLOW)
{
	unsigned int seed = 2;

	for (int round = 0; round < 20; round++) {
		struct child child;
		char *memory;
		int fd;

		ASSERT_EQ(0, child_start(&child, own_until_killed));
		fd = receive_fd(child.line);
		ASSERT_GE(fd, 0);
		usleep(rand_r(&seed) % 3000);
		kill(child.pid, SIGKILL);
		memory = map_share(fd, NR * ARENA, WRITE);
		close(fd);
		ASSERT_NE(NULL, memory);
		/* In any state of the owner's exit. */
		for (size_t i = 0; i < NR * 512; i++)
			EXPECT_EQ(0, look(memory + i * PAGE));
		EXPECT_EQ(0, count_other(memory, NR * ARENA, 'k'));
		EXPECT_EQ(128 + SIGKILL, child_end(&child));
		EXPECT_EQ(0, count_other(memory, NR * ARENA, 'k'));
		EXPECT_EQ(NR * ARENA, module_stat("committed"));
		munmap(memory, NR * ARENA);
	}
}

/* A device reads and writes through the mapping of a share. */
static void do_direct_io(struct child *child)
{
	int disk = open(DISK, O_RDWR | O_DIRECT | O_CLOEXEC);
	int fd = receive_fd(child->parent), readable = receive_fd(child->parent);
	char *memory = map_share(fd, 2 * ARENA, WRITE);
	char *sealed = map_share(readable, 2 * ARENA, READ);

	CHECK(disk >= 0 && memory && sealed);
	CHECK(!count_other(memory, PAGE, 'o'));
	CHECK(pwrite(disk, memory, MIB, 0) == MIB);
	CHECK(pwrite(disk, sealed + ARENA, MIB, MIB) == MIB);
	/* Read from the disk into the other arena, across the border of two arenas. */
	CHECK(pread(disk, memory + ARENA - MIB / 2, MIB, 0) == MIB);
	CHECK(!count_other(memory + ARENA - MIB / 2, MIB, 'o'));
	CHECK(pread(disk, memory, MIB, MIB) == MIB);
	CHECK(!count_other(memory, MIB, 's'));
	/* Reads into memory that is read-only or not committed fail. */
	CHECK_FAILS(EFAULT, pread(disk, sealed, PAGE, 0));
	CHECK(!count_other(sealed, MIB, 's'));
	CHECK_FAILS(EFAULT, pread(disk, memory + 2 * ARENA - PAGE, PAGE, 0));
	CHECK_FAILS(EFAULT, pwrite(disk, memory + 2 * ARENA - PAGE, PAGE, 0));
}

TEST_F_TIMEOUT(share, receiver_can_do_direct_io, SLOW)
{
	struct heap *heap = &self->heap;
	struct child child;

	if (access(DISK, F_OK))
		SKIP(return, "no scratch disk " DISK);
	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	ASSERT_EQ(0, commit_pages(heap, 1, 0, 500));
	memset(heap->window, 'o', ARENA);
	memset(arena(heap, 1), 's', 500 * PAGE);
	ASSERT_EQ(0, child_start(&child, do_direct_io));
	for (int sealed = 0; sealed < 2; sealed++)
		ASSERT_TRUE(send_share(child.line, heap,
				       sealed ? 0 : KARENA_SHARE_WRITE,
				       0, 2 * ARENA));
	EXPECT_EQ(0, child_end(&child));
	EXPECT_EQ(0, count_other(arena(heap, 1), MIB / 2, 'o'));
	EXPECT_EQ(0, count_other(page(heap, 0, 384), MIB / 2, 'o'));
	EXPECT_EQ(0, count_other(heap->window, MIB, 's'));
}

/* A page that the receiver pins outlives its release, as if the owner had pinned it. */
static void pin_by_a_pipe(struct child *child)
{
	char *memory = receive_share(child->parent, ARENA, WRITE), bytes[PAGE];
	struct iovec vector = { memory + 5 * PAGE, PAGE };
	int pipes[2];

	CHECK(memory);
	CHECK(!pipe(pipes));
	CHECK(vmsplice(pipes[1], &vector, 1, 0) == PAGE);
	CHECK(tell(child->parent, 1));
	CHECK(hear(child->parent));
	CHECK(read(pipes[0], bytes, PAGE) == PAGE);
	CHECK(!count_other(bytes, PAGE, 'p'));
	CHECK(!count_other(memory, ARENA, 'n'));
}

TEST_F(share, page_pinned_by_a_receiver_is_not_reused)
{
	struct heap *heap = &self->heap;
	struct child child;

	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	memset(heap->window, 'p', ARENA);
	ASSERT_EQ(0, child_start(&child, pin_by_a_pipe));
	ASSERT_TRUE(send_share(child.line, heap, KARENA_SHARE_WRITE, 0, ARENA));
	ASSERT_TRUE(hear(child.line));
	ASSERT_EQ(0, heap_release(heap, 0, 1));
	EXPECT_EQ(1, module_stat("pinned_orphans"));
	ASSERT_EQ(0, heap_commit(heap, 0, 8));
	EXPECT_EQ(0, count_other(heap->window, 8 * ARENA, 0));
	memset(heap->window, 'n', ARENA);
	ASSERT_TRUE(tell(child.line, 1));
	EXPECT_EQ(0, child_end(&child));
	EXPECT_TRUE(module_stat_becomes("pinned_orphans", 0));
}

static void look_at_volatile(struct child *child)
{
	char *memory = receive_share(child->parent, NR * ARENA, WRITE);

	CHECK(memory);
	memset(memory, 'r', NR * ARENA);
	CHECK(tell(child->parent, 1));
	/* Volatile, but not reclaimed: the arena is mapped. */
	CHECK(hear(child->parent));
	CHECK(!count_other(memory, NR * ARENA, 'r'));
	memset(memory + 3 * ARENA, 's', ARENA);
	CHECK(tell(child->parent, 1));
	/* Reclaimed. */
	CHECK(hear(child->parent));
	CHECK(unreadable(memory, 1024) == 1024);
	CHECK(touch(memory) == SIGBUS);
	CHECK(!count_other(memory + 2 * ARENA, ARENA, 'r'));
	CHECK(!count_other(memory + 3 * ARENA, ARENA, 's'));
	CHECK(tell(child->parent, 1));
	/* Committed again. */
	CHECK(hear(child->parent));
	CHECK(!count_other(memory, 2 * ARENA, 0));
}

TEST_F(share, volatile_arenas_of_a_share_can_be_reclaimed)
{
	struct heap *heap = &self->heap;
	uint32_t words[NR];
	struct child child;

	ASSERT_EQ(0, heap_commit(heap, 0, NR));
	ASSERT_EQ(0, child_start(&child, look_at_volatile));
	ASSERT_TRUE(send_share(child.line, heap, KARENA_SHARE_WRITE, 0, NR * ARENA));
	ASSERT_TRUE(hear(child.line));
	for (int i = 0; i < NR; i++)
		words[i] = make_volatile(heap, i);
	ASSERT_TRUE(tell(child.line, 1));
	ASSERT_TRUE(hear(child.line));
	for (int i = 2; i < NR; i++)
		EXPECT_TRUE(reuse(heap, i, words[i]));
	shrink_everything();
	EXPECT_EQ(KARENA_FREE, state(heap, 0));
	EXPECT_FALSE(reuse(heap, 1, words[1]));
	EXPECT_EQ(2 * ARENA, module_stat("committed"));
	EXPECT_TRUE(module_stat_becomes("pinned_orphans", 0));
	ASSERT_TRUE(tell(child.line, 1));
	ASSERT_TRUE(hear(child.line));
	EXPECT_EQ(0, count_other(arena(heap, 2), ARENA, 'r'));
	EXPECT_EQ(0, count_other(arena(heap, 3), ARENA, 's'));
	ASSERT_EQ(0, heap_commit(heap, 0, 2));
	ASSERT_TRUE(tell(child.line, 1));
	EXPECT_EQ(0, child_end(&child));
}

/* End an owner with volatile arenas, which no process can reuse then. */
static void end_with_volatile_arenas(struct child *child)
{
	struct heap heap;

	CHECK(!heap_open(&heap, NR * ARENA, 0));
	CHECK(!heap_commit(&heap, 0, NR));
	memset(heap.window, 'v', NR * ARENA);
	CHECK(send_share(child->parent, &heap, 0, 0, NR * ARENA));
	make_volatile(&heap, 1);
	CHECK(hear(child->parent));
}

TEST_F(share, volatile_arenas_of_an_ended_owner_harm_nobody)
{
	struct child owner;
	char *memory;

	ASSERT_EQ(0, child_start(&owner, end_with_volatile_arenas));
	memory = receive_share(owner.line, NR * ARENA, READ);
	ASSERT_NE(NULL, memory);
	EXPECT_EQ(0, count_other(memory, NR * ARENA, 'v'));
	ASSERT_TRUE(tell(owner.line, 1));
	EXPECT_EQ(0, child_end(&owner));
	shrink_everything();
	/* The arena is gone or has its old content. */
	EXPECT_TRUE(look(memory + ARENA) || !count_other(memory + ARENA, ARENA, 'v'));
	EXPECT_EQ(0, count_other(memory, ARENA, 'v'));
	EXPECT_EQ(0, count_other(memory + 2 * ARENA, 2 * ARENA, 'v'));
	munmap(memory, NR * ARENA);
}

TEST_F(share, shares_may_overlap)
{
	struct heap *heap = &self->heap;
	char *first, *second, *third;
	int fd;

	ASSERT_EQ(0, heap_commit(heap, 0, NR));
	fill_arenas(heap, NR);
	fd = heap_share(heap, KARENA_SHARE_WRITE, 0, 2 * ARENA);
	ASSERT_GE(fd, 0);
	first = map_share(fd, 2 * ARENA, WRITE);
	close(fd);
	fd = heap_share(heap, 0, ARENA, 2 * ARENA);
	ASSERT_GE(fd, 0);
	second = map_share(fd, 2 * ARENA, READ);
	/* The second descriptor mapped twice. */
	third = map_share(fd, 2 * ARENA, READ);
	close(fd);
	ASSERT_TRUE(first && second && third);
	EXPECT_EQ(0, differ(first, heap, 0, 1024));
	EXPECT_EQ(0, differ(second, heap, 512, 1024));
	memset(first + ARENA, 'f', PAGE);
	EXPECT_EQ(0, count_other(second, PAGE, 'f'));
	EXPECT_EQ(0, count_other(third, PAGE, 'f'));
	munmap(first, 2 * ARENA);
	EXPECT_EQ(0, differ(second, heap, 512, 1024));
	munmap(second, 2 * ARENA);
	memset(arena(heap, 2), 't', PAGE);
	EXPECT_EQ(0, count_other(third + ARENA, PAGE, 't'));
	munmap(third, 2 * ARENA);
}

/* The heap ends while its process lives: no mapping of the window and no descriptor. */
TEST_F(share, share_survives_its_heap)
{
	struct heap *heap = &self->heap;
	char *memory;
	int fd;

	ASSERT_EQ(0, heap_commit(heap, 0, NR));
	fill_arenas(heap, NR);
	fd = heap_share(heap, KARENA_SHARE_WRITE, ARENA, ARENA);
	ASSERT_GE(fd, 0);
	memory = map_share(fd, ARENA, WRITE);
	ASSERT_NE(NULL, memory);
	close(fd);
	heap_destroy(heap);
	EXPECT_TRUE(module_stat_becomes("committed", ARENA));
	EXPECT_EQ(0, count_other(memory + 7 * PAGE, PAGE, 7 * 7 + 2));
	memset(memory, 'w', ARENA);
	EXPECT_EQ(0, count_other(memory, ARENA, 'w'));
	munmap(memory, ARENA);
	EXPECT_TRUE(module_stat_becomes("committed", 0));
	EXPECT_EQ(0, status_member("VmPin"));
	ASSERT_EQ(0, heap_open_fork(heap, 16 * ARENA, KARENA_FORK_NONE));
}

TEST_F(share, invalid_values_are_rejected)
{
	const struct karena_share good = { .size = sizeof(good), .length = PAGE };
	struct karena_share args = good;
	struct heap *heap = &self->heap;
	int next_fd = lowest_free_fd();
	union {
		uint32_t size;
		char bytes[8192];
	} big = {};
	static const struct {
		uint64_t offset, length;
	} bad[] = {
		{ 0, 0 }, { 0, 1 }, { 1, PAGE }, { PAGE / 2, PAGE },
		{ 0, PAGE + 512 }, { 0, 17 * ARENA }, { 16 * ARENA, PAGE },
		{ 16 * ARENA - PAGE, 2 * PAGE }, { ARENA, 16 * ARENA },
		{ -PAGE, PAGE }, { -PAGE, 2 * PAGE }, { PAGE, -PAGE },
		{ ARENA, -ARENA }, { 0, -PAGE }, { ~0ULL, ~0ULL },
		{ 1ULL << 63, 1ULL << 63 }, { 0, 1ULL << 63 },
	};

	for (int i = 0; i < ARRAY_SIZE(bad); i++)
		EXPECT_EQ(-EINVAL, heap_share(heap, 0, bad[i].offset,
					      bad[i].length));
	for (int bit = 1; bit < 32; bit++)
		EXPECT_EQ(-EINVAL, heap_share(heap, 1U << bit, 0, PAGE));
	EXPECT_EQ(-EINVAL, heap_share(heap, 3, 0, PAGE));
	for (big.size = 0; big.size < sizeof(good); big.size++)
		EXPECT_EQ(-EINVAL, heap_call(heap, KARENA_SHARE, &big));
	big.size = 4097;
	EXPECT_EQ(-E2BIG, heap_call(heap, KARENA_SHARE, &big));
	big.size = sizeof(good) + 8;
	big.bytes[sizeof(good) + 7] = 1;
	EXPECT_EQ(-E2BIG, heap_call(heap, KARENA_SHARE, &big));
	EXPECT_EQ(-EFAULT, heap_call(heap, KARENA_SHARE, NULL));
	EXPECT_EQ(-ENOTTY, device_call(KARENA_SHARE, &args));
	EXPECT_EQ(next_fd, lowest_free_fd());
	/* The smallest, the largest and the last valid range. */
	EXPECT_EQ(next_fd, heap_call(heap, KARENA_SHARE, &args));
	close(next_fd);
	EXPECT_EQ(next_fd, heap_share(heap, KARENA_SHARE_WRITE, 0, 16 * ARENA));
	close(next_fd);
	EXPECT_EQ(next_fd, heap_share(heap, 0, 16 * ARENA - PAGE, PAGE));
	close(next_fd);
}

TEST_F(share, invalid_mappings_are_rejected)
{
	struct heap *heap = &self->heap;
	int fd;

	ASSERT_EQ(0, heap_commit(heap, 0, 2));
	fd = heap_share(heap, KARENA_SHARE_WRITE, PAGE, ARENA);
	ASSERT_GE(fd, 0);
	EXPECT_FAILS(EINVAL, mmap(NULL, ARENA, WRITE, MAP_PRIVATE, fd, 0));
	EXPECT_FAILS(EINVAL, mmap(NULL, ARENA + PAGE, WRITE, MAP_SHARED, fd, 0));
	EXPECT_FAILS(EINVAL, mmap(NULL, ARENA, WRITE, MAP_SHARED, fd, PAGE));
	EXPECT_FAILS(EINVAL, mmap(NULL, PAGE, WRITE, MAP_SHARED, fd, ARENA));
	/* The highest page offset in a file. */
	EXPECT_EQ(-1, (long)mmap(NULL, PAGE, WRITE, MAP_SHARED, fd,
				 (off_t)(1UL << 62)));
	EXPECT_EQ(-1, (long)mmap(NULL, PAGE, WRITE, MAP_SHARED, fd, -(off_t)PAGE));
	EXPECT_EQ(-1, (long)mmap(NULL, PAGE, WRITE, MAP_SHARED, fd,
				 -(off_t)(2 * PAGE)));
	EXPECT_EQ(-1, (long)mmap(NULL, ARENA, PROT_READ | PROT_EXEC, MAP_SHARED, fd,
				 0));
	close(fd);
}

static void share_a_foreign_heap(struct child *child)
{
	struct heap heap = { .fd = receive_fd(child->parent) };

	CHECK(heap.fd >= 0);
	CHECK(heap_share(&heap, 0, 0, PAGE) == -EPERM);
	CHECK(heap_share(&heap, KARENA_SHARE_WRITE, 0, ARENA) == -EPERM);
	CHECK_FAILS(EPERM, mmap(NULL, 16 * ARENA, WRITE, MAP_SHARED, heap.fd, 0));
}

TEST_F(share, receiver_of_a_heap_descriptor_cannot_share)
{
	struct heap *heap = &self->heap;
	struct child child;

	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	ASSERT_EQ(0, child_start(&child, share_a_foreign_heap));
	ASSERT_TRUE(send_fd(child.line, heap->fd));
	EXPECT_EQ(0, child_end(&child));
}

TEST_F(share, without_free_descriptors_nothing_is_left_behind)
{
	struct rlimit old, none;
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	ASSERT_EQ(0, getrlimit(RLIMIT_NOFILE, &old));
	none = (struct rlimit){ lowest_free_fd(), old.rlim_max };
	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &none));
	EXPECT_EQ(-EMFILE, heap_share(heap, 0, 0, ARENA));
	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &old));
}

TEST_F_TIMEOUT(share, many_shares_leave_nothing_behind, SLOW)
{
	int nr = kernel_is_slow() ? 200 : 1000;
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_commit(heap, 0, NR));
	for (int i = 0; i < nr; i++) {
		int fd = heap_share(heap, i % 2, i % 512 * PAGE, ARENA);

		ASSERT_GE(fd, 0);
		if (i % 4 == 0) {
			char *memory = map_share(fd, ARENA, READ);

			ASSERT_NE(NULL, memory);
			EXPECT_EQ(0, look(memory + i % 512 * PAGE));
			munmap(memory, ARENA);
		}
		close(fd);
	}
	ASSERT_EQ(0, heap_release(heap, 0, NR));
	EXPECT_TRUE(module_stat_becomes("pinned_orphans", 0));
}

/* An image shows a share's memory at one moment, even if receivers write to it. */
static struct chain *common_chain;
static unsigned int nr_writers;

static void write_in_turn(struct child *child)
{
	char *memory = receive_share(child->parent, CHAIN_ARENAS * ARENA, WRITE);

	CHECK(memory);
	chain_write(common_chain, memory, 0, nr_writers);
}

static void *write_as_the_owner(void *data)
{
	chain_write(common_chain, data, 1, nr_writers);
	return NULL;
}

/* A receiver writes, alone or in turns with the owner. */
TEST_F_TIMEOUT(share, image_shows_one_moment_of_a_receivers_writes, SLOW)
{
	for (nr_writers = 1; nr_writers <= 2; nr_writers++) {
		struct child child;
		pthread_t thread;
		struct heap heap;

		common_chain = chain_make();
		ASSERT_EQ(0, child_start(&child, write_in_turn));
		ASSERT_EQ(0, heap_open(&heap, CHAIN_ARENAS * ARENA, 0));
		ASSERT_EQ(0, chain_commit(&heap));
		ASSERT_TRUE(send_share(child.line, &heap, KARENA_SHARE_WRITE, 0,
				       CHAIN_ARENAS * ARENA));
		if (nr_writers == 2)
			ASSERT_EQ(0, pthread_create(&thread, NULL,
						    write_as_the_owner,
						    heap.window));
		EXPECT_EQ(0, chain_look(&heap, common_chain));
		chain_stop(common_chain);
		if (nr_writers == 2)
			pthread_join(thread, NULL);
		EXPECT_EQ(0, child_end(&child));
		munmap(common_chain, PAGE);
		heap_destroy(&heap);
	}
}

/*
 * Everything at once: an owner commits, releases, makes arenas volatile, forks and makes
 * images; receivers write and exit. No memory of an unrelated process may appear.
 */
#define NR_BUSY		6

struct busy {
	struct heap heap;
	time_t until;
	long foreign;
};

static struct busy *busy;	/* shared by all processes */

static bool busy_continues(void)
{
	return time(NULL) < busy->until;
}

/* Write or read a page, or fail. A plain access would raise SIGBUS. */
static void poke(char *at, char byte, bool write)
{
	char bytes[64];
	struct iovec local = { bytes, sizeof(bytes) };
	struct iovec remote = { at, sizeof(bytes) };

	memset(bytes, byte, sizeof(bytes));
	if (write) {
		if (process_vm_writev(getpid(), &local, 1, &remote, 1, 0) < 0)
			sched_yield();
		return;
	}
	if (process_vm_readv(getpid(), &local, 1, &remote, 1, 0) < 0)
		return;
	/* Zero, or written by one of these processes. */
	for (int i = 0; i < sizeof(bytes); i++) {
		if (bytes[i] && bytes[i] != 'o' && bytes[i] != 'r')
			__atomic_add_fetch(&busy->foreign, 1, __ATOMIC_RELAXED);
	}
}

static void receive_at_random(struct child *child)
{
	char *memory = receive_share(child->parent, NR_BUSY * ARENA, WRITE);
	unsigned int seed = getpid();

	CHECK(memory);
	while (busy_continues()) {
		size_t at = rand_r(&seed) % (NR_BUSY * 512);

		poke(memory + at * PAGE, 'r', rand_r(&seed) % 2);
		if (rand_r(&seed) % 2000 == 0)
			madvise(memory, NR_BUSY * ARENA, MADV_DONTNEED);
	}
}

static void *own_at_random(void *data)
{
	struct heap *heap = &busy->heap;
	unsigned int seed = gettid();

	(void)data;
	while (busy_continues()) {
		size_t index = rand_r(&seed) % NR_BUSY;
		size_t first = rand_r(&seed) % 512;
		struct image image;
		pid_t pid;

		switch (rand_r(&seed) % 40) {
		case 0:
			call_pages(heap, KARENA_RELEASE, index, 0, 512);
			break;
		case 1:
			call_pages(heap, KARENA_RELEASE, index, 0, first + 1);
			break;
		case 2:
			make_volatile(heap, index);
			break;
		case 3:
			shrink_everything();
			break;
		case 4:
			call_pages(heap, KARENA_COMMIT, index, first, 512 - first);
			break;
		case 5:
			if (!heap_snapshot(heap, &image)) {
				poke(page(heap, index, first), 'o', true);
				poke(image.window + index * ARENA, 0, false);
				image_destroy(&image);
			}
			break;
		case 6:
			pid = fork();
			if (!pid) {
				for (int i = 0; i < 20; i++)
					poke(page(heap, index, rand_r(&seed) % 512),
					     'o', i % 2);
				_exit(0);
			}
			if (pid > 0)
				waitpid(pid, NULL, 0);
			break;
		case 7:
		case 8:
		case 9:
			call_pages(heap, KARENA_COMMIT, index, 0, 512);
			break;
		default:
			poke(page(heap, index, first), 'o', rand_r(&seed) % 2);
			break;
		}
	}
	return NULL;
}

static void fill_with_secrets(struct child *child)
{
	struct heap heap;

	(void)child;
	CHECK(!heap_open(&heap, 4 * ARENA, 0));
	while (busy_continues()) {
		CHECK(!heap_commit(&heap, 0, 4));
		memset(heap.window, SECRET, 4 * ARENA);
		CHECK(!heap_release(&heap, 0, 4));
	}
}

TEST_F_TIMEOUT(share, all_operations_at_once_leak_no_memory, SLOW)
{
	struct child children[3];
	pthread_t threads[2];

	busy = mmap(NULL, sizeof(*busy), PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, busy);
	busy->until = time(NULL) + 8;
	ASSERT_EQ(0, child_start(&children[0], receive_at_random));
	ASSERT_EQ(0, child_start(&children[1], receive_at_random));
	ASSERT_EQ(0, child_start(&children[2], fill_with_secrets));
	ASSERT_EQ(0, heap_open(&busy->heap, NR_BUSY * ARENA, 0));
	for (int i = 0; i < 2; i++)
		ASSERT_TRUE(send_share(children[i].line, &busy->heap,
				       KARENA_SHARE_WRITE, 0, NR_BUSY * ARENA));
	for (int i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, own_at_random, NULL));
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < 3; i++)
		EXPECT_EQ(0, child_end(&children[i]));
	EXPECT_EQ(0, busy->foreign);
	ASSERT_EQ(0, heap_release(&busy->heap, 0, NR_BUSY));
	EXPECT_TRUE(heap_stat_becomes(&busy->heap, "committed", 0));
	EXPECT_TRUE(module_stat_becomes("committed", 0));
	heap_destroy(&busy->heap);
	munmap(busy, sizeof(*busy));
}

TEST_HARNESS_MAIN
