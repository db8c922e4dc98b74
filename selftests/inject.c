// SPDX-License-Identifier: GPL-2.0
/*
 * Fault injection: each allocation of a call fails once, first the first one, then the
 * second, and so on until the call completes without a failure. Each time the call must
 * succeed or return ENOMEM, leave nothing behind and keep the heap usable. For kernels with
 * CONFIG_FAULT_INJECTION, such as the debug kernel.
 */
#include "child.h"
#include "faults.h"

#define NR	8	/* arenas of the heap */

/* Above the allocations of any call; a call that reaches this would fail forever. */
#define MOST_FAULTS	5000

/* Data of an operation, all zero at the start. */
struct work {
	struct heap heap;
	int device;
};

/* The test injects faults into run, but not into prepare and check. */
struct operation {
	const char *name;
	int (*prepare)(struct work *work);
	int (*run)(struct work *work);
	/* Return an error message or NULL, and clean up. */
	const char *(*check)(struct work *work, int err);
};

static char *page(struct work *work, size_t index, size_t page)
{
	return arena(&work->heap, index) + page * PAGE;
}

static int prepare_nothing(struct work *work)
{
	memset(work, 0, sizeof(*work));
	work->heap.fd = -1;
	work->device = -1;
	return 0;
}

static int prepare_device(struct work *work)
{
	prepare_nothing(work);
	work->device = device_open();
	return work->device < 0 ? -errno : 0;
}

static int prepare_heap(struct work *work)
{
	prepare_nothing(work);
	return heap_open(&work->heap, NR * ARENA, 0);
}

/* One huge arena with a byte in each page, and two sparse arenas. */
static int prepare_arenas(struct work *work)
{
	int err = prepare_heap(work) ?: heap_commit(&work->heap, 0, 1) ?:
		  heap_range(&work->heap, KARENA_COMMIT, 2 * ARENA - PAGE, 9 * PAGE);

	for (int i = 0; i < 512 && !err; i++)
		page(work, 0, i)[i] = i % 250 + 1;
	for (int i = 511; i < 520 && !err; i++)
		page(work, 1, i)[i] = i % 250 + 1;
	return err;
}

/* Count the pages that are not zero after their first byte, or lack that byte. */
static size_t spoilt(struct work *work, size_t index, size_t first, size_t count)
{
	size_t pages = 0;

	for (size_t i = first; i < first + count; i++)
		pages += page(work, index, i)[i] != (char)(i % 250 + 1) ||
			 count_other(page(work, index, i), PAGE, 0) != 1;
	return pages;
}

/* Whatever failed before, everything must work now. */
static const char *use_and_destroy(struct work *work)
{
	struct heap *heap = &work->heap;
	const char *wrong = NULL;

	if (heap_commit(heap, 5, 2) || count_other(arena(heap, 5), 2 * ARENA, 0))
		wrong = "no arenas can be committed";
	else if (heap_range(heap, KARENA_COMMIT, 7 * ARENA, 5 * PAGE) ||
		 count_other(arena(heap, 7), 5 * PAGE, 0))
		wrong = "no pages can be committed";
	else if (heap_release(heap, 0, NR))
		wrong = "nothing can be released";
	else if (heap_stat(heap, "committed"))
		wrong = "some memory stays committed";
	heap_destroy(heap);
	return wrong;
}

static int run_open(struct work *work)
{
	return prepare_device(work);
}

static const char *check_open(struct work *work, int err)
{
	if (!err)
		close(work->device);
	return NULL;
}

static int run_info(struct work *work)
{
	struct karena_info info = { .size = sizeof(info) };

	return ioctl(work->device, KARENA_INFO, &info) ? -errno : 0;
}

static const char *check_info(struct work *work, int err)
{
	(void)err;
	close(work->device);
	return NULL;
}

static int run_create(struct work *work)
{
	struct karena_create create = {
		.size = sizeof(create), .window = NR * ARENA,
	};

	work->heap.fd = ioctl(work->device, KARENA_CREATE, &create);
	work->heap.size = create.window;
	work->heap.control_size = create.control_size;
	return work->heap.fd < 0 ? -errno : 0;
}

static const char *check_create(struct work *work, int err)
{
	if (!err)
		close(work->heap.fd);
	close(work->device);
	return NULL;
}

static int prepare_created(struct work *work)
{
	return prepare_device(work) ?: run_create(work);
}

static int run_map(struct work *work)
{
	const int prot = PROT_READ | PROT_WRITE;
	struct heap *heap = &work->heap;
	void *start;

	start = mmap(NULL, heap->size, prot, MAP_SHARED, heap->fd, 0);
	if (start == MAP_FAILED)
		return -errno;
	heap->window = start;
	start = mmap(NULL, heap->control_size, prot, MAP_SHARED, heap->fd,
		     heap->size);
	if (start == MAP_FAILED)
		return -errno;
	heap->control = start;
	return 0;
}

static const char *check_map(struct work *work, int err)
{
	struct heap *heap = &work->heap;

	(void)err;
	if (heap->window)
		munmap(heap->window, heap->size);
	if (heap->control)
		munmap(heap->control, heap->control_size);
	close(heap->fd);
	close(work->device);
	return NULL;
}

static int run_attach(struct work *work)
{
	struct karena_attach attach = {
		.size = sizeof(attach), .address = (uintptr_t)work->heap.window,
	};

	work->device = device_call(KARENA_ATTACH, &attach);
	return work->device < 0 ? work->device : 0;
}

static const char *check_attach(struct work *work, int err)
{
	if (!err)
		close(work->device);
	return use_and_destroy(work);
}

static int run_commit(struct work *work)
{
	return heap_commit(&work->heap, 0, 2);
}

static const char *check_commit(struct work *work, int err)
{
	struct heap *heap = &work->heap;

	if (!err && count_other(heap->window, 2 * ARENA, 0))
		return "committed memory is not zero";
	for (int i = 0; err && i < 2; i++) {
		/* The state word tells whether the arena is committed. */
		int signal = touch(arena(heap, i));

		if (signal != (state(heap, i) == KARENA_ACTIVE ? 0 : SIGBUS))
			return "the state word is wrong";
	}
	return use_and_destroy(work);
}

static int run_commit_call(struct work *work)
{
	return heap_range(&work->heap, KARENA_COMMIT, 0, 2 * ARENA);
}

static int run_commit_pages(struct work *work)
{
	set_state(&work->heap, 0, 1, KARENA_REQUESTED | KARENA_SPARSE);
	return madvise(page(work, 0, 3), 4 * PAGE, MADV_POPULATE_WRITE) ? -errno : 0;
}

static const char *check_commit_pages(struct work *work, int err)
{
	int there = 0;

	for (int i = 0; i < 512; i++) {
		char *at = page(work, 0, i);

		if (touch(at))
			continue;
		there++;
		*at = 0;
		if (i < 3 || i >= 7 || count_other(at, PAGE, 0))
			return "a page is committed without a request, or is not zero";
	}
	if (!err && there < 4)
		return "not all pages were committed";
	/* If the call never reached the module, there is no statistic. */
	if (there && heap_stat(&work->heap, "sparse_pages") != there)
		return "the statistic differs from the number of pages";
	return use_and_destroy(work);
}

static int run_commit_pages_call(struct work *work)
{
	struct karena_range ranges[] = {
		{ .offset = 3 * PAGE, .length = PAGE },
		{ .offset = 4 * PAGE, .length = 3 * PAGE },
	};

	return heap_ranges(&work->heap, KARENA_COMMIT, ranges, 2);
}

/* Arena 0 becomes sparse. Without memory for that, its pages are cleared. */
static int run_demote(struct work *work)
{
	return madvise(page(work, 0, 8), 496 * PAGE, MADV_REMOVE) ? -errno : 0;
}

static const char *check_demote(struct work *work, int err)
{
	bool sparse = state(&work->heap, 0) == (KARENA_ACTIVE | KARENA_SPARSE);
	long huge = heap_stat(&work->heap, "huge_arenas");

	if (err)
		return "a release failed";
	if (huge != !sparse)
		return "the state word is wrong";
	if (spoilt(work, 0, 0, 8) || spoilt(work, 0, 504, 8))
		return "the remaining pages have changed";
	if (sparse && touch(page(work, 0, 8)) != SIGBUS)
		return "released pages are accessible";
	if (!sparse && count_other(page(work, 0, 8), 496 * PAGE, 0))
		return "released pages are not zero";
	return use_and_destroy(work);
}

static int run_release(struct work *work)
{
	return madvise(work->heap.window, 3 * ARENA, MADV_REMOVE) ? -errno : 0;
}

static const char *check_release(struct work *work, int err)
{
	if (err)
		return "a release failed";
	for (int i = 0; i < 3; i++) {
		if (state(&work->heap, i) != KARENA_FREE)
			return "an arena is not free";
	}
	if (heap_stat(&work->heap, "committed"))
		return "some memory stays committed";
	return use_and_destroy(work);
}

static int run_release_call(struct work *work)
{
	struct karena_range ranges[] = {
		{ .offset = 8 * PAGE, .length = 400 * PAGE },
		{ .offset = 408 * PAGE, .length = 96 * PAGE },
	};

	return heap_ranges(&work->heap, KARENA_RELEASE, ranges, 2);
}

static const char *check_release_call(struct work *work, int err)
{
	/* The kernel may have failed to copy the list of ranges. */
	if (!err)
		return check_demote(work, err);
	if (spoilt(work, 0, 0, 8) || spoilt(work, 0, 504, 8))
		return "the remaining pages have changed";
	return use_and_destroy(work);
}

/* The first touch needs page tables. A touch from user mode must not kill the process. */
static int prepare_touch(struct work *work)
{
	return prepare_heap(work) ?: run_commit_call(work) ?:
	       heap_range(&work->heap, KARENA_COMMIT, 3 * ARENA, PAGE);
}

static int run_touch(struct work *work)
{
	return touch(page(work, 1, 5)) || touch(page(work, 3, 0)) ? -EPROTO : 0;
}

static const char *check_touch(struct work *work, int err)
{
	return err ? "a touch was a signal" : use_and_destroy(work);
}

static int run_limit(struct work *work)
{
	return heap_limit(&work->heap, KARENA_LIMIT_HARD | KARENA_LIMIT_SOFT,
			  NR * ARENA, ARENA);
}

static const char *check_usable(struct work *work, int err)
{
	(void)err;
	return use_and_destroy(work);
}

static int run_ready(struct work *work)
{
	long ready = heap_ready(&work->heap, KARENA_NODE_ANY, 2);

	return ready < 0 ? ready : 0;
}

static const char *check_ready(struct work *work, int err)
{
	if (!err && !heap_ready_becomes(&work->heap, KARENA_NODE_ANY, 2, 2))
		return "no frames are ready";
	return use_and_destroy(work);
}

/* Reclaim allocates nothing. */
static int run_reclaim(struct work *work)
{
	struct heap *heap = &work->heap;

	for (int i = 0; i < 3; i++)
		make_volatile(heap, i);
	shrink_everything();
	return 0;
}

static const char *check_reclaim(struct work *work, int err)
{
	struct heap *heap = &work->heap;

	(void)err;
	for (int i = 0; i < 3; i++) {
		bool gone = state(heap, i) == KARENA_FREE;

		if (!gone && KARENA_STATE(state(heap, i)) != KARENA_VOLATILE)
			return "a volatile arena is neither intact nor free";
		if (gone && touch(page(work, i, i == 1 ? 511 : 0)) != SIGBUS)
			return "a free arena is accessible";
	}
	return use_and_destroy(work);
}

static int run_destroy(struct work *work)
{
	struct heap *heap = &work->heap;

	close(heap->fd);
	heap->fd = -1;
	if (munmap(heap->window, heap->size))
		return -errno;
	return munmap(heap->control, heap->control_size) ? -errno : 0;
}

static const char *check_destroy(struct work *work, int err)
{
	/* Parts that were unmapped before can be unmapped again without an error. */
	if (err)
		heap_destroy(&work->heap);
	return NULL;
}

/* The first arena of a cgroup allocates the lists of that cgroup. */
static int prepare_group(struct work *work)
{
	return group_make() ?: group_enter() ? prepare_heap(work) : -EPROTO;
}

static const char *check_group(struct work *work, int err)
{
	const char *wrong = check_commit(work, err);

	if (write_text(CGROUPS "/cgroup.procs", "0") || group_remove())
		return "the cgroup cannot be removed";
	return wrong;
}

static const struct operation operations[] = {
	{ "open", prepare_nothing, run_open, check_open },
	{ "info", prepare_device, run_info, check_info },
	{ "create", prepare_device, run_create, check_create },
	{ "mmap", prepare_created, run_map, check_map },
	{ "attach", prepare_heap, run_attach, check_attach },
	{ "commit by madvise", prepare_heap, run_commit, check_commit },
	{ "commit by call", prepare_heap, run_commit_call, check_commit },
	{ "commit in a new cgroup", prepare_group, run_commit, check_group },
	{ "pages by madvise", prepare_heap, run_commit_pages, check_commit_pages },
	{ "pages by call", prepare_heap, run_commit_pages_call, check_commit_pages },
	{ "touch", prepare_touch, run_touch, check_touch },
	{ "demote by madvise", prepare_arenas, run_demote, check_demote },
	{ "demote by call", prepare_arenas, run_release_call, check_release_call },
	{ "release", prepare_arenas, run_release, check_release },
	{ "limit", prepare_heap, run_limit, check_usable },
	{ "ready", prepare_heap, run_ready, check_ready },
	{ "reclaim", prepare_arenas, run_reclaim, check_reclaim },
	{ "destroy", prepare_arenas, run_destroy, check_destroy },
};

static const char *const balanced[] = {
	"nr_heaps", "committed", "huge_arenas", "sparse_arenas", "sparse_pages",
	"ready_frames", "pinned_orphans",
};

FIXTURE(inject) {
	bool possible;
	bool usercopy;
	int nth;
	int dice;
};

FIXTURE_SETUP(inject)
{
	REQUIRE_MODULE();
	self->nth = nth_open();
	self->dice = open("/proc/self/make-it-fail", O_RDWR | O_CLOEXEC);
	self->possible = self->nth >= 0 && self->dice >= 0 && faults_possible();
	self->usercopy = copies_can_fail();
	if (self->possible)
		ASSERT_TRUE(knobs_turn());
	/* Frames that a worker prepares for a growing heap are not those of the test. */
	for (int i = 0; i < ARRAY_SIZE(balanced); i++)
		ASSERT_TRUE(module_stat_becomes(balanced[i], 0));
}

FIXTURE_TEARDOWN(inject)
{
	if (self->possible)
		EXPECT_TRUE(knobs_turn_back());
	close(self->nth);
	close(self->dice);
}

#define REQUIRE_INJECTION()						\
	do {								\
		if (!self->possible)					\
			SKIP(return, "the kernel has no fault injection"); \
	} while (0)

static void expect_nothing_left(struct __test_metadata *_metadata)
{
	for (int i = 0; i < ARRAY_SIZE(balanced); i++) {
		EXPECT_TRUE(module_stat_becomes(balanced[i], 0)) {
			TH_LOG("%s is %ld", balanced[i], module_stat(balanced[i]));
		}
	}
}

/* Check one run, whose faults the caller has set up. Return an error message or NULL. */
static const char *judge(struct work *work, const struct operation *operation,
			 bool usercopy, int err)
{
	if (err && err != -ENOMEM && !(err == -EFAULT && usercopy))
		return "the error is not ENOMEM";
	return operation->check(work, err);
}

static void walk(struct __test_metadata *_metadata, int nth, bool usercopy,
		 const struct operation *operation)
{
	const char *wrong = NULL;
	struct work work;
	int n, err, failures = 0;

	for (n = 1; n < MOST_FAULTS && !wrong; n++) {
		bool hit;

		ASSERT_EQ(0, operation->prepare(&work));
		ASSERT_TRUE(nth_arm(nth, n));
		err = operation->run(&work);
		hit = nth_disarm(nth);
		wrong = judge(&work, operation, usercopy, err);
		failures += err != 0;
		if (!hit)
			break;
	}
	TH_LOG("%s: %d faults, %d failures", operation->name, n - 1, failures);
	EXPECT_EQ(NULL, wrong) {
		TH_LOG("%s, fault %d, %s: %s", operation->name, n,
		       strerror(-err), wrong);
	}
	/* In the last round no allocation failed. */
	EXPECT_EQ(0, err);
	EXPECT_GT(n, 1);
	EXPECT_LT(n, MOST_FAULTS);
	expect_nothing_left(_metadata);
}

TEST_F_TIMEOUT(inject, each_allocation_of_each_call_may_fail, 600)
{
	REQUIRE_INJECTION();
	for (int i = 0; i < ARRAY_SIZE(operations); i++)
		walk(_metadata, self->nth, self->usercopy, &operations[i]);
}

static bool set_probability(const char *percent)
{
	return !write_text(DEBUG "/failslab/probability", percent) &&
	       !write_text(DEBUG "/fail_page_alloc/probability", percent);
}

TEST_F_TIMEOUT(inject, random_allocations_may_fail, 600)
{
	const char *wrong = NULL;
	int failures = 0, err;

	REQUIRE_INJECTION();
	for (int round = 0; round < 10; round++) {
		const char *percent = round % 2 ? "2" : "20";

		ASSERT_TRUE(set_probability(percent));
		for (int i = 0; i < ARRAY_SIZE(operations) && !wrong; i++) {
			struct work work;

			ASSERT_EQ(0, operations[i].prepare(&work));
			ASSERT_EQ(1, write(self->dice, "1", 1));
			err = operations[i].run(&work);
			ASSERT_EQ(1, write(self->dice, "0", 1));
			wrong = judge(&work, &operations[i], self->usercopy, err);
			failures += err != 0;
			EXPECT_EQ(NULL, wrong) {
				TH_LOG("%s: %s", operations[i].name, wrong);
			}
		}
	}
	TH_LOG("%d failures", failures);
	EXPECT_GT(failures, 0);
	expect_nothing_left(_metadata);
}

TEST_HARNESS_MAIN
