// SPDX-License-Identifier: MIT
/*
 * Heaps: sources, options, invalid arguments, statistics, limits. Runs on the source that
 * KARENA_SOURCE names.
 */
#include <stddef.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>

#include <linux/karena.h>

#include "common.h"
#include "heap/heap.h"

static int lowest_free_fd(void)
{
	int fd = dup(0);

	close(fd);
	return fd;
}

TEST(source_is_the_requested_one)
{
	struct ka_heap *heap = ka_heap_create(NULL);
	const char *source = getenv("KARENA_SOURCE");

	ASSERT_NE(NULL, heap);
	if (!strcmp(source, "device")) {
		EXPECT_EQ(KA_SOURCE_DEVICE, ka_heap_source(heap));
		EXPECT_NE(0, ka_heap_id(heap));
	} else {
		EXPECT_EQ(KA_SOURCE_EMBEDDED, ka_heap_source(heap));
		EXPECT_EQ(0, ka_heap_id(heap));
	}
	ka_heap_destroy(heap);
	ka_heap_destroy(NULL);
}

TEST(auto_selects_the_available_source)
{
	struct ka_options options = KA_OPTIONS;
	struct ka_heap *heap;

	setenv("KARENA_SOURCE", "auto", 1);
	heap = ka_heap_create(&options);
	ASSERT_NE(NULL, heap);
	EXPECT_EQ(access("/dev/karena", R_OK | W_OK) ? KA_SOURCE_EMBEDDED :
		  KA_SOURCE_DEVICE, ka_heap_source(heap));
	ka_heap_destroy(heap);
}

/* Size of the kernel's pages that the library reads; 0: the real size. */
static unsigned long page_size;

unsigned long __real_getauxval(unsigned long type);
unsigned long __wrap_getauxval(unsigned long type);

unsigned long __wrap_getauxval(unsigned long type)
{
	return type == AT_PAGESZ && page_size ? page_size : __real_getauxval(type);
}

TEST(kernel_with_larger_pages_is_refused)
{
	static const char *const names[] = { "16 KiB", "64 KiB" };

	for (int i = 0; i < 2; i++) {
		page_size = 16384UL << 2 * i;
		EXPECT_EQ(NULL, ka_heap_create(NULL));
		EXPECT_EQ(EOPNOTSUPP, errno);
		EXPECT_NE(NULL, strstr(ka_error(), names[i])) TH_LOG("%s", ka_error());
	}
	page_size = 0;
	ka_heap_destroy(make(64 * MIB, 0, KA_FORK_COW));
}

TEST(no_descriptor_is_kept_or_needed)
{
	int before = lowest_free_fd();
	struct ka_heap *heap = make(64 * MIB, 0, KA_FORK_COW);
	char *run;

	ASSERT_NE(NULL, heap);
	EXPECT_EQ(before, lowest_free_fd());
	for (int fd = 3; fd < 1024; fd++)
		close(fd);
	run = ka_run_alloc(heap, 8 * MIB, 0);
	ASSERT_NE(NULL, run);
	memset(run, 1, 8 * MIB);
	EXPECT_EQ(0, ka_run_free(heap, run));
	ka_heap_destroy(heap);
}

#define EXPECT_CREATE_FAILS(_errno, _options)				\
	do {								\
		int next_fd = lowest_free_fd();				\
									\
		EXPECT_EQ(NULL, ka_heap_create(_options));		\
		EXPECT_EQ(_errno, errno);				\
		EXPECT_EQ(next_fd, lowest_free_fd());			\
	} while (0)

TEST(invalid_options_fail_with_a_message)
{
	struct ka_options options = KA_OPTIONS;

	options.size = 8;
	EXPECT_CREATE_FAILS(EINVAL, &options);
	options = (struct ka_options)KA_OPTIONS;
	options.source = 99;
	EXPECT_CREATE_FAILS(EINVAL, &options);

	options = (struct ka_options)KA_OPTIONS;
	options.limit = 1;
	EXPECT_CREATE_FAILS(EINVAL, &options);
	EXPECT_NE(NULL, strstr(ka_error(), "too small"));
	options.limit = KA_ARENA_SIZE - 1;
	EXPECT_CREATE_FAILS(EINVAL, &options);

	options = (struct ka_options)KA_OPTIONS;
	options.name = "a/b";
	EXPECT_CREATE_FAILS(EINVAL, &options);
	options.name = "tab\t";
	EXPECT_CREATE_FAILS(EINVAL, &options);
	options.name = "a name that is more than thirty-one characters";
	EXPECT_CREATE_FAILS(EINVAL, &options);

	options = (struct ka_options)KA_OPTIONS;
	options.window = SIZE_MAX;
	EXPECT_CREATE_FAILS(EFBIG, &options);
	options.window = SIZE_MAX / 2;
	EXPECT_EQ(NULL, ka_heap_create(&options));
	EXPECT_TRUE(errno == ENOMEM || errno == EFBIG);

	options = (struct ka_options)KA_OPTIONS;
	options.fork = 3;
	EXPECT_CREATE_FAILS(EINVAL, &options);
	EXPECT_NE(NULL, strstr(ka_error(), "invalid policy for fork"));
	options.fork = KA_FORK_COW;
	options.io = true;
	EXPECT_CREATE_FAILS(EINVAL, &options);
	EXPECT_NE(NULL, strstr(ka_error(), "cannot be copied at fork"));
}

/* Options of an older version of the library. */
TEST(shorter_options_still_work)
{
	struct ka_options options = KA_OPTIONS;
	struct ka_heap *heap;

	options.size = offsetof(struct ka_options, fork);
	options.window = 8 * MIB;
	/* The bytes after the end are ignored. */
	memset((char *)&options + options.size, 0x55,
	       sizeof(options) - options.size);
	heap = ka_heap_create(&options);
	ASSERT_NE(NULL, heap) TH_LOG("%s", ka_error());
	EXPECT_EQ(8 * MIB, stats_of(heap).window);
	EXPECT_NE(NULL, ka_run_alloc(heap, MIB, 0));
	ka_heap_destroy(heap);
	options.size--;
	EXPECT_CREATE_FAILS(EINVAL, &options);
}

/* Options of a newer version. */
TEST(longer_options_work_if_the_rest_is_zero)
{
	struct {
		struct ka_options known;
		size_t more;
	} options = { .known = KA_OPTIONS };
	struct ka_heap *heap;

	options.known.size = sizeof(options);
	options.known.window = 8 * MIB;
	heap = ka_heap_create(&options.known);
	ASSERT_NE(NULL, heap) TH_LOG("%s", ka_error());
	ka_heap_destroy(heap);
	options.more = 1;
	EXPECT_CREATE_FAILS(EINVAL, &options.known);
	EXPECT_NE(NULL, strstr(ka_error(), "does not know"));
	options.known.size = SIZE_MAX;
	EXPECT_CREATE_FAILS(EINVAL, &options.known);
}

TEST(invalid_variables_fail_with_a_message)
{
	static const char *const sizes[] = {
		"much", "-1", "1X", "1GG", " 1", "0", "0M", "99999999999999999999",
		"99999999999T", "1.5G", "K"
	};

	setenv("KARENA_SOURCE", "disk", 1);
	EXPECT_CREATE_FAILS(EINVAL, NULL);
	unsetenv("KARENA_SOURCE");
	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		setenv("KARENA_WINDOW", sizes[i], 1);
		EXPECT_CREATE_FAILS(EINVAL, NULL);
		EXPECT_NE(NULL, strstr(ka_error(), "KARENA_WINDOW"));
		unsetenv("KARENA_WINDOW");
		setenv("KARENA_LIMIT", sizes[i], 1);
		EXPECT_CREATE_FAILS(EINVAL, NULL);
		EXPECT_NE(NULL, strstr(ka_error(), "KARENA_LIMIT"));
		unsetenv("KARENA_LIMIT");
	}
}

TEST(variables_set_what_options_leave_open)
{
	struct ka_stats stats = { .size = sizeof(stats) };
	struct ka_heap *heap;

	setenv("KARENA_WINDOW", "130M", 1);
	setenv("KARENA_LIMIT", "65536k", 1);
	heap = ka_heap_create(NULL);
	ASSERT_NE(NULL, heap);
	ASSERT_EQ(0, ka_heap_stats(heap, &stats));
	EXPECT_EQ(130 * MIB, stats.window);
	EXPECT_EQ(64 * MIB, stats.limit);
	ka_heap_destroy(heap);

	heap = make(8 * MIB, 4 * MIB, KA_FORK_COW);
	ASSERT_NE(NULL, heap);
	ASSERT_EQ(0, ka_heap_stats(heap, &stats));
	EXPECT_EQ(8 * MIB, stats.window);
	EXPECT_EQ(4 * MIB, stats.limit);
	ka_heap_destroy(heap);
}

static void *does_nothing(void *data)
{
	return data;
}

/* Only used addresses count, whether the limit was set before or after. */
TEST(window_uses_no_address_space)
{
	const size_t most = 1UL << 30, used = on_device() ? most / 4 : most / 8 * 6;
	struct ka_heap *before, *after;
	struct rlimit limit = { most, most };
	pthread_t thread;

	NOT_WITH_SANITIZERS();
	NOT_WITH_VALGRIND("does not support such addresses");
	before = ka_heap_create(NULL);
	ASSERT_EQ(0, setrlimit(RLIMIT_AS, &limit));
	ASSERT_EQ(0, setrlimit(RLIMIT_DATA, &limit));
	after = ka_heap_create(NULL);
	for (int i = 0; i < 2; i++) {
		struct ka_heap *heap = i ? after : before;
		char *run;

		ASSERT_NE(NULL, heap);
		EXPECT_EQ(on_device() ? 64UL << 30 : 1UL << 40, stats_of(heap).window);
		EXPECT_EQ(NULL, ka_run_alloc(heap, 8 * most, 0));
		EXPECT_EQ(ENOMEM, errno);
		run = ka_run_alloc(heap, used, 0);
		ASSERT_NE(NULL, run);
		ASSERT_EQ(0, pthread_create(&thread, NULL, does_nothing, NULL));
		pthread_join(thread, NULL);
		ka_run_free(heap, run);
		ka_heap_trim(heap);
	}
	ka_heap_destroy(before);
	ka_heap_destroy(after);
	/* A shared heap must be one mapping, so its whole window counts. */
	EXPECT_EQ(NULL, make(8 * most, 0, KA_FORK_SHARE));
	EXPECT_EQ(ENOMEM, errno);
	EXPECT_NE(NULL, strstr(ka_error(), "no room"));
	after = make(0, 0, KA_FORK_SHARE);
	ASSERT_NE(NULL, after);
	EXPECT_LE(stats_of(after).window, most);
	ka_heap_destroy(after);
}

/*
 * Windows of 1 TiB, of which 47 fit into the address space, and smaller ones between them.
 */
TEST(windows_do_not_overlap)
{
	struct ka_heap *heaps[30];

	for (int i = 0; i < 30; i++) {
		heaps[i] = i % 3 ? make(64 * MIB, 0, KA_FORK_COW) : ka_heap_create(NULL);
		ASSERT_NE(NULL, heaps[i]);
		for (int j = 0; j < i; j++) {
			EXPECT_FALSE(ka_heap_contains(heaps[i], ka_pools_of(heaps[j])->start));
			EXPECT_FALSE(ka_heap_contains(heaps[j], ka_pools_of(heaps[i])->start));
		}
	}
	for (int i = 0; i < 30; i++)
		ka_heap_destroy(heaps[i]);
}

TEST(foreign_mapping_in_a_window_is_kept)
{
	struct ka_heap *heap = make(64 * MIB, 0, KA_FORK_COW);
	char *runs[40], *foreign;
	int nr = 0;

	ASSERT_NE(NULL, heap);
	if (!ka_window_of(heap)->claimed || on_device())
		SKIP(return, "the window is reserved, or its mapping grows");
	foreign = ka_pools_of(heap)->start + 3 * KA_ARENA_SIZE + 7 * KA_PAGE_SIZE;
	ASSERT_EQ(foreign, mmap(foreign, KA_PAGE_SIZE, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
	*foreign = 'f';
	while (nr < 40 && (runs[nr] = ka_run_alloc(heap, 2 * MIB, 0))) {
		memset(runs[nr], 'r', 2 * MIB);
		nr++;
	}
	EXPECT_EQ(31, nr);
	EXPECT_EQ(ENOMEM, errno);
	EXPECT_EQ(NULL, ka_run_alloc(heap, KA_PAGE_SIZE, 0));
	EXPECT_EQ(2 * MIB, ka_run_size(heap, runs[2]));
	EXPECT_NE(0, ka_run_free(heap, ka_pools_of(heap)->start + 3 * KA_ARENA_SIZE));
	for (int i = 0; i < nr; i++)
		EXPECT_EQ(0, ka_run_free(heap, runs[i]));
	EXPECT_GE(1, stats_of(heap).arenas);
	ka_heap_destroy(heap);
	EXPECT_EQ('f', *foreign);
}

TEST(foreign_mapping_stops_the_growth_of_a_mapping)
{
	struct ka_heap *heap = make(64 * MIB, 0, KA_FORK_COW);
	char *runs[20], *foreign;
	int nr = 0;

	ASSERT_NE(NULL, heap);
	if (!ka_window_of(heap)->claimed || !on_device())
		SKIP(return, "the window is reserved, or the heap continues behind the mapping");
	foreign = ka_pools_of(heap)->start + 20 * KA_ARENA_SIZE;
	ASSERT_EQ(foreign, mmap(foreign, KA_PAGE_SIZE, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
	*foreign = 'f';
	while (nr < 20 && (runs[nr] = ka_run_alloc(heap, 2 * MIB, 0)))
		nr++;
	EXPECT_EQ(19, nr);
	EXPECT_EQ(ENOMEM, errno);
	EXPECT_EQ(0, ka_run_free(heap, runs[7]));
	EXPECT_EQ(runs[7], ka_run_alloc(heap, 2 * MIB, 0));
	ka_heap_destroy(heap);
	EXPECT_EQ('f', *foreign);
}

/* A heap that has released arenas also unmaps their addresses. */
TEST(window_shrinks_again)
{
	struct ka_heap *heap = make(0, 0, KA_FORK_COW);
	size_t before = mapped_size();
	char *runs[60];

	ASSERT_NE(NULL, heap);
	if (!ka_window_of(heap)->claimed)
		SKIP(return, "the window is reserved");
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 60; i++)
			ASSERT_NE(NULL, runs[i] = ka_run_alloc(heap, 2 * MIB, 0));
		EXPECT_LE(before + 118 * MIB, mapped_size());
		for (int i = 0; i < 60; i++)
			ASSERT_EQ(0, ka_run_free(heap, runs[(i * 7 + round) % 60]));
		ka_heap_trim(heap);
		EXPECT_GE(before + 16 * MIB, mapped_size());
	}
	ka_heap_destroy(heap);
}

/* mprotect() splits the mapping that is to grow. */
TEST(window_grows_behind_protected_pages)
{
	struct ka_heap *heap = make(64 * MIB, 0, KA_FORK_COW);
	char *run;

	ASSERT_NE(NULL, heap);
	for (int i = 0; i < 20; i++) {
		run = ka_run_alloc(heap, 2 * MIB, 0);
		ASSERT_NE(NULL, run);
		ASSERT_EQ(0, mprotect(run + 2 * MIB - KA_PAGE_SIZE, KA_PAGE_SIZE, PROT_NONE));
		run[2 * MIB - KA_PAGE_SIZE - 1] = 'x';
	}
	ka_heap_destroy(heap);
}

TEST(at_the_limit_allocations_fail_and_nothing_is_lost)
{
	struct ka_heap *heap = make(64 * MIB, 6 * MIB, KA_FORK_COW);
	struct ka_stats stats = { .size = sizeof(stats) };
	char *runs[3];

	ASSERT_NE(NULL, heap);
	for (int i = 0; i < 3; i++) {
		runs[i] = ka_run_alloc(heap, 2 * MIB, 0);
		ASSERT_NE(NULL, runs[i]);
		memset(runs[i], i + 1, 2 * MIB);
	}
	errno = 0;
	EXPECT_EQ(NULL, ka_run_alloc(heap, KA_PAGE_SIZE, 0));
	EXPECT_EQ(ENOMEM, errno);
	EXPECT_NE(NULL, strstr(ka_error(), "limit"));
	EXPECT_EQ(NULL, ka_run_alloc(heap, 8 * MIB, 0));
	ASSERT_EQ(0, ka_heap_stats(heap, &stats));
	EXPECT_EQ(3, stats.arenas);
	EXPECT_EQ(3, stats.runs);
	for (int i = 0; i < 3; i++)
		EXPECT_EQ(i + 1, runs[i][2 * MIB - 1]);
	EXPECT_EQ(0, ka_run_free(heap, runs[1]));
	EXPECT_NE(NULL, ka_run_alloc(heap, KA_PAGE_SIZE, 0));
	ka_heap_destroy(heap);
}

TEST(allocations_fail_at_the_end_of_the_window)
{
	struct ka_heap *heap = make(4 * MIB, 0, KA_FORK_COW);

	ASSERT_NE(NULL, heap);
	EXPECT_NE(NULL, ka_run_alloc(heap, 3 * MIB, 0));
	errno = 0;
	EXPECT_EQ(NULL, ka_run_alloc(heap, 2 * MIB, 0));
	EXPECT_EQ(ENOMEM, errno);
	EXPECT_NE(NULL, strstr(ka_error(), "window"));
	EXPECT_NE(NULL, ka_run_alloc(heap, 1 * MIB, 0));
	ka_heap_destroy(heap);
}

TEST(contains_checks_the_window)
{
	struct ka_heap *heap = make(8 * MIB, 0, KA_FORK_COW);
	char *run;

	ASSERT_NE(NULL, heap);
	run = ka_run_alloc(heap, KA_PAGE_SIZE, 0);
	EXPECT_TRUE(ka_heap_contains(heap, run));
	EXPECT_TRUE(ka_heap_contains(heap, run + 8 * MIB - 1));
	EXPECT_FALSE(ka_heap_contains(heap, run + 8 * MIB));
	EXPECT_FALSE(ka_heap_contains(heap, run - 1));
	EXPECT_FALSE(ka_heap_contains(heap, NULL));
	EXPECT_FALSE(ka_heap_contains(heap, &heap));
	ka_heap_destroy(heap);
}

TEST(statistics_are_correct_and_add_up)
{
	struct ka_heap *heap = make(64 * MIB, 0, KA_FORK_COW);
	struct ka_stats stats = { .size = sizeof(stats) };
	char *big, *small;

	ASSERT_NE(NULL, heap);
	ASSERT_EQ(0, ka_heap_stats(heap, &stats));
	EXPECT_EQ(0, stats.arenas);
	small = ka_run_alloc(heap, 16384, 0);
	big = ka_run_alloc(heap, 5 * MIB, 0);
	ASSERT_EQ(0, ka_heap_stats(heap, &stats));
	EXPECT_EQ(4, stats.arenas);
	EXPECT_EQ(2, stats.runs);
	EXPECT_EQ(5 * MIB + 16384, stats.run_bytes);
	EXPECT_EQ(stats.arenas * KA_ARENA_SIZE,
		  stats.run_bytes + stats.available_bytes);
	EXPECT_EQ(0, ka_run_free(heap, big));
	EXPECT_EQ(0, ka_run_free(heap, small));
	ASSERT_EQ(0, ka_heap_stats(heap, &stats));
	EXPECT_EQ(0, stats.runs);
	EXPECT_EQ(0, stats.run_bytes);
	EXPECT_EQ(1, stats.arenas);
	EXPECT_EQ(4, stats.arenas_highwater);
	EXPECT_EQ(stats.arenas, stats.arenas_allocated - stats.arenas_reclaimed);
	stats.size = 0;
	EXPECT_EQ(-1, ka_heap_stats(heap, &stats));
	EXPECT_EQ(EINVAL, errno);
	ka_heap_destroy(heap);
}

TEST(small_heap_uses_only_the_memory_it_needs)
{
	struct ka_heap *heap = make(64 * MIB, 0, KA_FORK_COW);
	struct ka_stats stats = { .size = sizeof(stats) };
	char *first = NULL, *run;

	ASSERT_NE(NULL, heap);
	for (int i = 0; i < 10; i++) {
		run = ka_run_alloc(heap, 16384, 0);
		ASSERT_NE(NULL, run);
		memset(run, 1, 16384);
		first = first ?: run;
	}
	EXPECT_LE(160 * 1024, resident_from(first, 8 * MIB));
	EXPECT_GE(192 * 1024, resident_from(first, 8 * MIB));
	/* A run that does not fit into the first arena uses no more memory there. */
	run = ka_run_alloc(heap, 2 * MIB, 0);
	ASSERT_NE(NULL, run);
	memset(run, 1, 2 * MIB);
	run = ka_run_alloc(heap, 1 * MIB, 0);
	ASSERT_NE(NULL, run);
	memset(run, 1, 1 * MIB);
	ASSERT_EQ(0, ka_heap_stats(heap, &stats));
	EXPECT_EQ(2, stats.arenas);
	EXPECT_GE(3 * MIB + 192 * 1024, resident_from(first, 8 * MIB));
	ka_heap_destroy(heap);
}

TEST(partly_committed_arena_can_be_filled_emptied_and_refilled)
{
	struct ka_heap *heap = make(64 * MIB, 0, KA_FORK_COW);
	struct ka_stats stats = { .size = sizeof(stats) };
	char *runs[128], *big;

	ASSERT_NE(NULL, heap);
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 128; i++) {
			runs[i] = ka_run_alloc(heap, 16384, 0);
			ASSERT_NE(NULL, runs[i]);
			memset(runs[i], i, 16384);
		}
		ASSERT_EQ(0, ka_heap_stats(heap, &stats));
		EXPECT_EQ(1, stats.arenas);
		for (int i = 0; i < 128; i++) {
			EXPECT_EQ(i, runs[i][16383]);
			ASSERT_EQ(0, ka_run_free(heap, runs[i]));
		}
		/* Consecutive arenas may start with a partly committed one. */
		big = ka_run_alloc(heap, 5 * MIB, 0);
		ASSERT_NE(NULL, big);
		memset(big, 1, 5 * MIB);
		ASSERT_EQ(0, ka_run_free(heap, big));
	}
	ka_heap_destroy(heap);
}

TEST(released_memory_leaves_the_process)
{
	struct ka_heap *heap = make(128 * MIB, 0, KA_FORK_COW);
	long before, full, after;
	char *run;

	NOT_WITH_SANITIZERS();
	ASSERT_NE(NULL, heap);
	before = resident();
	run = ka_run_alloc(heap, 64 * MIB, 0);
	ASSERT_NE(NULL, run);
	memset(run, 1, 64 * MIB);
	full = resident();
	EXPECT_EQ(0, ka_run_free(heap, run));
	after = resident();
	EXPECT_GT(full - before, (long)(63 * MIB));
	EXPECT_LT(after - before, (long)(4 * MIB));
	ka_heap_destroy(heap);
}

TEST(locked_memory_is_released)
{
	struct ka_heap *heap = make(64 * MIB, 0, KA_FORK_COW);
	struct ka_stats stats = { .size = sizeof(stats) };
	char *run;

	NOT_WITH_SANITIZERS();
	ASSERT_NE(NULL, heap);
	ASSERT_EQ(0, mlockall(MCL_CURRENT | MCL_FUTURE)) TH_LOG("mlockall");
	for (int i = 0; i < 2; i++) {
		run = ka_run_alloc(heap, 16 * MIB, 0);
		ASSERT_NE(NULL, run);
		/* Memory that is new since the last round is zero. */
		if (i)
			EXPECT_EQ(0, run[8 * MIB]);
		memset(run, 1, 16 * MIB);
		EXPECT_EQ(0, ka_run_free(heap, run));
	}
	ASSERT_EQ(0, ka_heap_stats(heap, &stats));
	EXPECT_EQ(1, stats.arenas);
	ASSERT_EQ(0, munlockall());
	ka_heap_destroy(heap);
}

static void *fail_otherwise(void *heap)
{
	return ka_run_alloc(heap, 1, 0) ? heap : (void *)(uintptr_t)
	       !strstr(ka_error(), "whole pages");
}

TEST(each_thread_has_its_own_error_message)
{
	struct ka_heap *heap = make(4 * MIB, 0, KA_FORK_COW);
	pthread_t thread;
	void *failed;

	ASSERT_NE(NULL, heap);
	EXPECT_EQ(-1, ka_heap_stats(heap, &(struct ka_stats){ .size = 0 }));
	ASSERT_EQ(0, pthread_create(&thread, NULL, fail_otherwise, heap));
	pthread_join(thread, &failed);
	EXPECT_EQ(NULL, failed);
	EXPECT_NE(NULL, strstr(ka_error(), "ka_stats"));
	ka_heap_destroy(heap);
}

TEST(module_heap_has_a_descriptor)
{
	struct ka_heap *heap = make(64 * MIB, 4 * MIB, KA_FORK_COW);
	struct karena_limit limit = { .size = sizeof(limit) };
	int fd;

	ASSERT_NE(NULL, heap);
	fd = ka_heap_descriptor(heap);
	if (!on_device()) {
		EXPECT_EQ(-1, fd);
		EXPECT_EQ(EOPNOTSUPP, errno);
		EXPECT_NE(NULL, strstr(ka_error(), "not on the module"));
		ka_heap_destroy(heap);
		return;
	}
	ASSERT_LE(0, fd) TH_LOG("%s", ka_error());
	EXPECT_EQ(FD_CLOEXEC, fcntl(fd, F_GETFD));
	ASSERT_EQ(0, ioctl(fd, KARENA_LIMIT, &limit));
	/* The limit includes the page of metadata. */
	EXPECT_EQ(4 * MIB + 3 * KA_PAGE_SIZE + 8 * 2 * KA_PAGE_SIZE, limit.hard);
	close(fd);
	EXPECT_NE(NULL, ka_run_alloc(heap, 4 * MIB, 0));
	ka_heap_destroy(heap);
}

TEST(version_is_that_of_the_build)
{
	EXPECT_STREQ(KARENA_VERSION, ka_version());
}

TEST_HARNESS_MAIN
