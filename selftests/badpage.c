// SPDX-License-Identifier: GPL-2.0
/*
 * Pages that the hardware reports as bad: only they raise a signal, which names the reason;
 * nothing reads, clears, copies or frees them. For kernels with CONFIG_MEMORY_FAILURE.
 */
#include <sys/uio.h>

#include "tracefs.h"

FIXTURE(badpage) {
	struct heap heap;
};

FIXTURE_SETUP(badpage)
{
	REQUIRE_MODULE();
	ASSERT_EQ(0, heap_make(&self->heap, 64 * ARENA, 0));
}

FIXTURE_TEARDOWN(badpage)
{
	heap_destroy(&self->heap);
}

TEST_F(badpage, poisoned_page_only_raises_a_signal)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	if (!madvise(arena(heap, 0) + 8192, 4096, MADV_HWPOISON))
		TH_LOG("the kernel has handled the poison");
	else if (errno == EINVAL || errno == EPERM)
		SKIP(return, "no CONFIG_MEMORY_FAILURE");
	ASSERT_EQ(0, madvise(arena(heap, 0), ARENA, MADV_DONTNEED));
	EXPECT_EQ(0, touch(arena(heap, 0)));
	EXPECT_EQ(SIGBUS, touch(arena(heap, 0) + 8192));
	EXPECT_EQ(0, touch(arena(heap, 0) + 4096));
}

#define OFFLINE		"/sys/devices/system/memory/hard_offline_page"
#define KPF_BUDDY	(1UL << 10)
#define BAD		2	/* index of the bad page */

/* Physical page frame of an address that was touched, or 0. */
static uint64_t frame_of(const void *address)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry = 0;

	if (fd < 0)
		return 0;
	if (pread(fd, &entry, 8, (uintptr_t)address / PAGE * 8) != 8)
		entry = 0;
	close(fd);
	return entry & ((1ULL << 55) - 1);
}

static uint64_t flags_of(uint64_t frame)
{
	int fd = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
	uint64_t flags = 0;

	if (fd < 0)
		return 0;
	if (pread(fd, &flags, 8, frame * 8) != 8)
		flags = 0;
	close(fd);
	return flags;
}

/*
 * Report a page as bad without a mapping, as a machine check does and madvise() does not:
 * the kernel only marks the page. Return NULL, or why this is impossible.
 */
static const char *fail_page(const char *address)
{
	uint64_t frame = frame_of(address);
	char text[32];

	if (!frame)
		return "no page frames in /proc/self/pagemap";
	if (access(OFFLINE, W_OK))
		return "no hard_offline_page: CONFIG_MEMORY_FAILURE, CONFIG_MEMORY_HOTPLUG";
	snprintf(text, sizeof(text), "%#lx\n", frame * PAGE);
	/* The write fails, because the kernel could not free the page. */
	write_text(OFFLINE, text);
	return NULL;
}

/* Report a page as bad, or skip the test if that is impossible. */
#define FAIL_PAGE(address)				\
	do {						\
		const char *why = fail_page(address);	\
							\
		if (why)				\
			SKIP(return, "%s", why);	\
	} while (0)

/* Fork a child that waits until it is killed. */
static pid_t fork_waiting(void)
{
	pid_t child = fork();

	if (!child) {
		pause();
		_exit(0);
	}
	return child;
}

static volatile int code;

static void code_handler(int signal, siginfo_t *info, void *context)
{
	(void)context;
	code = info->si_code;
	siglongjmp(touch_jump, signal);
}

/* Write to an address. Return the code of the SIGBUS that the write raised, or 0. */
static int touch_code(volatile char *address)
{
	struct sigaction old, action = {
		.sa_sigaction = code_handler, .sa_flags = SA_SIGINFO,
	};

	code = 0;
	sigaction(SIGBUS, &action, &old);
	if (!sigsetjmp(touch_jump, 1))
		*address = 1;
	sigaction(SIGBUS, &old, NULL);
	return code;
}

/* Return true if only the bad page of an arena raises a signal, which names the reason. */
static bool one_is_bad(char *arena)
{
	for (int i = 0; i < 512; i++) {
		if (touch_code(arena + i * PAGE) != (i == BAD ? BUS_MCEERR_AR : 0))
			return false;
	}
	return true;
}

TEST_F(badpage, frame_with_a_bad_page_is_mapped_by_ptes_and_never_freed)
{
	long before = module_stat("poisoned_frames");
	struct heap *heap = &self->heap;
	uint64_t frame;

	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	memset(arena(heap, 0), 1, ARENA);
	frame = frame_of(arena(heap, 0));
	EXPECT_EQ(ARENA, smaps(heap->window, "FilePmdMapped"));
	FAIL_PAGE(arena(heap, 0) + BAD * PAGE);
	ASSERT_EQ(0, madvise(arena(heap, 0), ARENA, MADV_DONTNEED));
	EXPECT_TRUE(one_is_bad(arena(heap, 0)));
	EXPECT_EQ(0, smaps(heap->window, "FilePmdMapped"));
	ASSERT_EQ(0, heap_release(heap, 0, 1));
	EXPECT_EQ(before + 1, module_stat("poisoned_frames"));
	/* If the first page had been freed, all others would have been freed with it. */
	EXPECT_EQ(0, flags_of(frame) & KPF_BUDDY);
	EXPECT_EQ(0, heap_stat(heap, "committed"));
}

/* A heap with policy copy-on-write and one arena in use. */
FIXTURE(copied) {
	struct heap heap;
};

FIXTURE_SETUP(copied)
{
	REQUIRE_MODULE();
	ASSERT_EQ(0, heap_open(&self->heap, 2 * ARENA, 0));
	ASSERT_EQ(0, heap_commit(&self->heap, 0, 1));
	memset(self->heap.window, 1, ARENA);
}

FIXTURE_TEARDOWN(copied)
{
	heap_destroy(&self->heap);
}

/* Parent and child get no copy of the bad page, and keep their other pages. */
TEST_F(copied, bad_page_is_not_copied)
{
	struct heap *heap = &self->heap;
	pid_t child;

	FAIL_PAGE(heap->window + BAD * PAGE);
	child = fork();
	if (!child)
		_exit(!one_is_bad(heap->window));
	EXPECT_EQ(0, child_status(child));
	EXPECT_TRUE(one_is_bad(heap->window));
}

/* Not ENOMEM, which would tell the program to free memory. */
TEST_F(copied, copy_for_the_kernel_fails_with_ehwpoison)
{
	struct heap *heap = &self->heap;
	pid_t child;

	FAIL_PAGE(heap->window + BAD * PAGE);
	child = fork_waiting();
	EXPECT_EQ(-1, madvise(heap->window + BAD * PAGE, PAGE, MADV_POPULATE_WRITE));
	EXPECT_EQ(EHWPOISON, errno);
	EXPECT_EQ(0, madvise(heap->window + PAGE, PAGE, MADV_POPULATE_WRITE));
	kill(child, SIGKILL);
	child_status(child);
}

/* A release clears pages of a huge frame. Writing to a bad page may stop the machine. */
TEST_F(badpage, bad_page_is_not_cleared)
{
	struct heap *heap = &self->heap;
	struct iovec vector = { arena(heap, 0) + BAD * PAGE, 1 };
	const char *why;
	char byte = 0;
	int pipes[2];

	ASSERT_EQ(0, pipe(pipes));
	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	memset(arena(heap, 0), 1, ARENA);
	/* The kernel reads the page through the pipe, also when it is bad. */
	ASSERT_EQ(1, vmsplice(pipes[1], &vector, 1, 0));
	why = fail_page(vector.iov_base);
	if (!why) {
		EXPECT_EQ(0, madvise(arena(heap, 0) + (BAD - 1) * PAGE, 3 * PAGE, MADV_REMOVE));
		EXPECT_EQ(0, count_other(arena(heap, 0) + (BAD - 1) * PAGE, PAGE, 0));
		EXPECT_EQ(0, count_other(arena(heap, 0) + (BAD + 1) * PAGE, PAGE, 0));
		EXPECT_EQ(1, heap_stat(heap, "huge_arenas"));
		EXPECT_EQ(1, read(pipes[0], &byte, 1));
		EXPECT_EQ(1, byte);
	}
	close(pipes[0]);
	close(pipes[1]);
	if (why)
		SKIP(return, "%s", why);
}

#define VM_FAULT_HWPOISON	"0x10"

/* The module detects the bad page itself: the core would try to drop the page first. */
TEST_F(badpage, fault_of_a_bad_page_is_traced_as_such)
{
	static char text[1 << 20];
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	memset(arena(heap, 0), 1, ARENA);
	FAIL_PAGE(arena(heap, 0) + BAD * PAGE);
	ASSERT_EQ(0, madvise(arena(heap, 0), ARENA, MADV_DONTNEED));
	ASSERT_EQ(0, trace_start());
	EXPECT_EQ(BUS_MCEERR_AR, touch_code(arena(heap, 0) + BAD * PAGE));
	EXPECT_EQ(0, touch(arena(heap, 0)));
	trace_read(text, sizeof(text));
	trace_stop();
	EXPECT_TRUE(traced(text, heap, "karena_fault", "page=2 result=" VM_FAULT_HWPOISON "\n"));
	EXPECT_FALSE(traced(text, heap, "karena_fault", "page=0 result=" VM_FAULT_HWPOISON "\n"));
}

/* Making the frame sparse would copy its pages in use. */
TEST_F(badpage, frame_with_a_bad_page_stays_huge)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	memset(arena(heap, 0), 1, ARENA);
	FAIL_PAGE(arena(heap, 0) + BAD * PAGE);
	ASSERT_EQ(0, madvise(arena(heap, 0) + 100 * PAGE, 412 * PAGE, MADV_REMOVE));
	EXPECT_EQ(SIGBUS, touch(arena(heap, 0) + BAD * PAGE));
	EXPECT_EQ(0, count_other(arena(heap, 0), BAD * PAGE, 1));
	EXPECT_EQ(1, heap_stat(heap, "huge_arenas"));
	EXPECT_EQ(0, heap_stat(heap, "sparse_arenas"));
}

/* A copy that fails stays a single page. Nothing reads it to make the arena huge. */
TEST_F(copied, bad_copy_is_not_promoted)
{
	struct heap *heap = &self->heap;
	const char *why;
	pid_t child;

	child = fork_waiting();
	/* These pages are copies now. */
	for (int i = 0; i < 4; i++)
		ASSERT_EQ(0, touch(heap->window + i * PAGE));
	EXPECT_EQ(4, heap_stat(heap, "copies"));
	why = fail_page(heap->window + BAD * PAGE);
	kill(child, SIGKILL);
	child_status(child);
	if (why)
		SKIP(return, "%s", why);
	EXPECT_TRUE(module_stat_becomes("nr_heaps", 1));
	/* Without a page table, the first touch would make the arena huge again. */
	ASSERT_EQ(heap->window, mmap(heap->window, ARENA, PROT_READ | PROT_WRITE,
				     MAP_SHARED | MAP_FIXED, heap->fd, 0));
	EXPECT_TRUE(one_is_bad(heap->window));
	EXPECT_EQ(0, heap_stat(heap, "promoted"));
	EXPECT_EQ(0, heap_stat(heap, "huge_arenas"));
}

TEST_HARNESS_MAIN
