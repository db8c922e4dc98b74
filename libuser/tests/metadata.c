// SPDX-License-Identifier: MIT
/*
 * The metadata at the start of the window: its cost, and that another process can find the
 * runs of a heap in an image of it, mapped at any address. Runs on the source that
 * KARENA_SOURCE names.
 */
#include <sys/ioctl.h>

#include <linux/karena.h>

#include "common.h"
#include "heap/heap.h"
#include "stamp.h"

#define RUNS	400

/* What the owner knows of its runs, ordered by address. */
struct known {
	size_t nr;
	struct {
		size_t offset, size;
	} runs[RUNS];
};

static void learn(void *data, size_t offset, size_t size)
{
	struct known *known = data;

	if (known->nr < RUNS) {
		known->runs[known->nr].offset = offset;
		known->runs[known->nr].size = size;
	}
	known->nr++;
}

static int compare_runs(const void *a, const void *b)
{
	size_t x = *(const size_t *)a, y = *(const size_t *)b;

	return (x > y) - (x < y);
}

/* Allocate runs of all sizes, free some, and record the others. */
static void fill(struct ka_heap *heap, struct known *known, unsigned int seed)
{
	char *runs[RUNS];

	memset(known, 0, sizeof(*known));
	for (int i = 0; i < RUNS; i++) {
		size_t pages = 1 + (size_t)rand_r(&seed) % (i % 40 ? 60 : 1500);

		runs[i] = ka_run_alloc(heap, pages * KA_PAGE_SIZE,
				       KA_PAGE_SIZE << rand_r(&seed) % 8);
		if (!runs[i])
			abort();
	}
	for (int i = 0; i < RUNS; i++) {
		if (rand_r(&seed) % 3) {
			ka_run_free(heap, runs[i]);
			continue;
		}
		learn(known, (size_t)(runs[i] - ka_window_of(heap)->start),
		      ka_run_size(heap, runs[i]));
		stamp(runs[i], ka_run_size(heap, runs[i]), (unsigned int)(runs[i] -
		      ka_window_of(heap)->start) / KA_PAGE_SIZE);
	}
	qsort(known->runs, known->nr, sizeof(*known->runs), compare_runs);
}

static bool agrees(const void *image, size_t size, const struct known *known)
{
	struct known seen = {};

	if (ka_walk(image, size, learn, &seen) || seen.nr != known->nr)
		return false;
	return !memcmp(seen.runs, known->runs, seen.nr * sizeof(*seen.runs));
}

/* Resident bytes of the metadata. */
static size_t metadata_memory(const struct ka_heap *heap)
{
	return resident_from(ka_window_of(heap)->start,
			     ka_window_of(heap)->nr_metadata * KA_ARENA_SIZE);
}

/* Committed memory according to the module, which creates the directory a moment later. */
static size_t committed(const struct ka_heap *heap)
{
	size_t bytes = 0;
	char path[80];
	FILE *file;

	snprintf(path, sizeof(path), "/sys/class/misc/karena/heaps/%llu/committed",
		 (unsigned long long)ka_heap_id(heap));
	for (int i = 0; i < 500; i++) {
		file = fopen(path, "r");
		if (file) {
			if (fscanf(file, "%zu", &bytes) != 1)
				bytes = 0;
			fclose(file);
			return bytes;
		}
		usleep(10000);
	}
	return 0;
}

TEST(small_heap_has_one_page_of_metadata)
{
	static const size_t windows[] = { 4 * MIB, 32 * MIB, (size_t)32 << 30 };
	struct ka_heap *heap;
	char *run;

	for (int i = 0; i < 3; i++) {
		heap = make(windows[i], 0, KA_FORK_COW);
		ASSERT_NE(NULL, heap);
		EXPECT_EQ(KA_PAGE_SIZE, metadata_memory(heap));
		run = ka_run_alloc(heap, 25 * KA_PAGE_SIZE, 0);
		ASSERT_NE(NULL, run);
		memset(run, 1, 25 * KA_PAGE_SIZE);
		EXPECT_EQ(KA_PAGE_SIZE, metadata_memory(heap));
		/* The run is committed in parts of 64 KiB. */
		if (on_device())
			EXPECT_EQ(33 * KA_PAGE_SIZE, committed(heap));
		ka_heap_destroy(heap);
	}
}

/* The arenas of the metadata have no blocks, so their slots need no entries. */
TEST(first_block_needs_one_page_of_each_table)
{
	const size_t window = (size_t)32 << 30;
	struct ka_heap *heap = make(window, 0, KA_FORK_COW);

	ASSERT_NE(NULL, heap);
	ASSERT_LT(2, ka_window_of(heap)->nr_metadata);
	ASSERT_NE(NULL, ka_heap_malloc(heap, 100));
	/*
	 * On the module, committed pages are resident: the entries of an arena's pools have
	 * two.
	 */
	EXPECT_EQ((on_device() ? 3 : 2) * KA_PAGE_SIZE, metadata_memory(heap));
	EXPECT_EQ(KA_PAGE_SIZE, resident_from((char *)ka_pools_of(heap)->map,
					      window / KA_SLOT_SIZE * sizeof(void *)));
	EXPECT_EQ(ka_window_of(heap)->start + ka_window_of(heap)->nr_metadata * KA_ARENA_SIZE,
		  ka_pools_of(heap)->start);
	ka_heap_destroy(heap);
}

TEST(metadata_grows_page_by_page)
{
	struct ka_heap *heap = make(1024 * MIB, 0, KA_FORK_COW);
	size_t arenas = 0;

	ASSERT_NE(NULL, heap);
	while (ka_run_alloc(heap, 30 * MIB, 2 * MIB)) {
		arenas += 15;
		EXPECT_EQ(ka_metadata_size(arenas),
			  ka_arenas_of(heap)->metadata->pages * KA_PAGE_SIZE);
		EXPECT_GE(ka_metadata_size(arenas),
			  metadata_memory(heap));
	}
	EXPECT_EQ(ENOMEM, errno);
	EXPECT_LT(500, arenas);
	EXPECT_EQ(arenas, stats_of(heap).arenas);
	ka_heap_destroy(heap);
}

TEST(metadata_covers_the_last_run)
{
	struct ka_heap *heap = make((size_t)32 << 30, 0, KA_FORK_COW);
	struct known known = {};
	char *run;

	ASSERT_NE(NULL, heap);
	/* The metadata has more than one arena. */
	ASSERT_LE(2, ka_window_of(heap)->nr_metadata);
	run = ka_run_alloc(heap, 3 * MIB, (size_t)16 << 30);
	ASSERT_NE(NULL, run);
	memset(run, 1, 3 * MIB);
	EXPECT_EQ(3 * MIB, ka_run_size(heap, run));
	EXPECT_EQ(2, stats_of(heap).arenas);
	learn(&known, (size_t)(run - ka_window_of(heap)->start), 3 * MIB);
	EXPECT_TRUE(agrees(ka_window_of(heap)->start, ka_window_size(ka_window_of(heap)),
			   &known));
	EXPECT_EQ(0, ka_run_free(heap, run));
	ka_heap_destroy(heap);
}

TEST(run_above_the_limit_needs_no_metadata)
{
	struct ka_heap *heap = make((size_t)32 << 30, 4 * MIB, KA_FORK_COW);

	ASSERT_NE(NULL, heap);
	EXPECT_EQ(NULL, ka_run_alloc(heap, (size_t)30 << 30, 0));
	EXPECT_EQ(ENOMEM, errno);
	EXPECT_NE(NULL, strstr(ka_error(), "at its limit"));
	EXPECT_EQ(KA_PAGE_SIZE, metadata_memory(heap));
	ka_heap_destroy(heap);
}

TEST(metadata_does_not_count_as_used_memory)
{
	struct ka_heap *heap = make(8 * MIB, 8 * MIB, KA_FORK_COW);
	struct ka_stats stats;

	ASSERT_NE(NULL, heap);
	stats = stats_of(heap);
	EXPECT_EQ(8 * MIB, stats.window);
	EXPECT_EQ(8 * MIB, stats.limit);
	EXPECT_EQ(0, stats.arenas);
	/* Exactly the limit and the window. */
	EXPECT_NE(NULL, ka_run_alloc(heap, 8 * MIB, 0));
	EXPECT_EQ(4, stats_of(heap).arenas);
	EXPECT_FALSE(ka_heap_contains(heap, ka_arenas_of(heap)->metadata));
	EXPECT_EQ(-1, ka_run_free(heap, ka_arenas_of(heap)->metadata));
	EXPECT_EQ(EINVAL, errno);
	ka_heap_destroy(heap);
}

TEST(walk_finds_every_run)
{
	struct ka_heap *heap = make(256 * MIB, 0, KA_FORK_COW);
	struct known known = {};

	ASSERT_NE(NULL, heap);
	EXPECT_TRUE(agrees(ka_window_of(heap)->start, ka_window_size(ka_window_of(heap)),
			   &known));
	for (unsigned int seed = 1; seed <= 3; seed++) {
		fill(heap, &known, seed);
		EXPECT_LT(100, known.nr);
		EXPECT_TRUE(agrees(ka_window_of(heap)->start,
				   ka_window_size(ka_window_of(heap)), &known));
		for (size_t i = 0; i < known.nr; i++)
			ka_run_free(heap, ka_window_of(heap)->start +
				    known.runs[i].offset);
	}
	ka_heap_destroy(heap);
}

/* A copy of the metadata at another address, in a mapping as large as the window. */
static void *copy_of(const struct ka_heap *heap)
{
	void *copy = mmap(NULL, ka_window_size(ka_window_of(heap)),
			  PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS |
			  MAP_NORESERVE, -1, 0);

	if (copy == MAP_FAILED)
		abort();
	memcpy(copy, ka_arenas_of(heap)->metadata,
	       ka_arenas_of(heap)->metadata->pages * KA_PAGE_SIZE);
	return copy;
}

TEST(copied_metadata_can_be_walked)
{
	struct ka_heap *heap = make(256 * MIB, 0, KA_FORK_COW);
	size_t size = ka_window_size(ka_window_of(heap));
	struct known known;
	void *copy;

	fill(heap, &known, 4);
	copy = copy_of(heap);
	ka_heap_destroy(heap);
	EXPECT_TRUE(agrees(copy, size, &known));
	munmap(copy, size);
}

#define EXPECT_WALK_FAILS(_error, _member, _value)			\
	do {								\
		uint64_t was = (_member);				\
									\
		(_member) = (__typeof__(_member))(_value);		\
		EXPECT_EQ(_error, ka_walk(metadata, size, learn, &known));	\
		(_member) = (__typeof__(_member))was;			\
	} while (0)

TEST(inconsistent_metadata_is_rejected)
{
	struct ka_heap *heap = make(64 * MIB, 0, KA_FORK_COW);
	size_t size = ka_window_size(ka_window_of(heap));
	struct ka_metadata *metadata;
	struct known known;

	ASSERT_NE(NULL, ka_run_alloc(heap, MIB, 0));
	metadata = copy_of(heap);
	EXPECT_WALK_FAILS(-EPROTO, metadata->magic, 0);
	EXPECT_WALK_FAILS(-EPROTO, metadata->version, KA_METADATA_VERSION + 1);
	EXPECT_WALK_FAILS(-EPROTO, metadata->entry_size, 8);
	EXPECT_WALK_FAILS(-EAGAIN, metadata->sequence, 3);
	EXPECT_WALK_FAILS(-EPROTO, metadata->nr_arenas, metadata->nr_arenas + 1);
	EXPECT_WALK_FAILS(-EPROTO, metadata->nr_arenas, UINT64_MAX);
	EXPECT_WALK_FAILS(-EPROTO, metadata->nr_touched, metadata->nr_arenas + 1);
	EXPECT_WALK_FAILS(-EPROTO, metadata->nr_metadata, metadata->nr_touched + 1);
	EXPECT_WALK_FAILS(-EPROTO, metadata->pages, 0);
	EXPECT_WALK_FAILS(-EPROTO, metadata->pages, UINT64_MAX);
	EXPECT_EQ(-EPROTO, ka_walk(metadata, 16, learn, &known));
	EXPECT_EQ(-EPROTO, ka_walk(metadata, KA_ARENA_SIZE, learn, &known));
	/* Whatever the bitmaps say, no run may extend beyond the window. */
	metadata->nr_touched = metadata->nr_metadata + 12;
	memset(metadata->arenas, 0xff, 12 * sizeof(*metadata->arenas));
	memset(&known, 0, sizeof(known));
	EXPECT_EQ(0, ka_walk(metadata, size, learn, &known));
	EXPECT_EQ(12 * KA_ARENA_PAGES, known.nr);
	EXPECT_EQ(KA_PAGE_SIZE, known.runs[0].size);
	/* With the original value the walk succeeds. */
	munmap(metadata, size);
	memset(&known, 0, sizeof(known));
	EXPECT_EQ(0, ka_walk(ka_arenas_of(heap)->metadata, size, learn, &known));
	EXPECT_EQ(1, known.nr);
	ka_heap_destroy(heap);
}

struct changing {
	struct ka_metadata *metadata;
	struct known known;
};

/* The owner of the heap shifts all entries after the first run was found. */
static void change(void *data, size_t offset, size_t size)
{
	struct changing *changing = data;

	learn(&changing->known, offset, size);
	changing->metadata->nr_metadata = 0;
	changing->metadata->nr_touched = UINT64_MAX;
}

TEST(walk_survives_a_concurrent_change)
{
	struct ka_heap *heap = make(64 * MIB, 0, KA_FORK_COW);
	struct changing changing = { 0 };

	for (int i = 0; i < 10; i++)
		ASSERT_NE(NULL, ka_run_alloc(heap, MIB, 0));
	changing.metadata = copy_of(heap);
	EXPECT_EQ(0, ka_walk(changing.metadata, ka_window_size(ka_window_of(heap)), change,
			     &changing));
	EXPECT_EQ(10, changing.known.nr);
	munmap(changing.metadata, ka_window_size(ka_window_of(heap)));
	ka_heap_destroy(heap);
}

TEST(metadata_is_consistent_between_calls)
{
	struct ka_heap *heap = make(8 * MIB, 0, KA_FORK_COW);
	void *run = ka_run_alloc(heap, MIB, 0);

	EXPECT_EQ(0, ka_arenas_of(heap)->metadata->sequence & 1);
	EXPECT_EQ(NULL, ka_run_alloc(heap, 16 * MIB, 0));
	EXPECT_EQ(0, ka_arenas_of(heap)->metadata->sequence & 1);
	EXPECT_EQ(-1, ka_run_free(heap, (char *)run + 1));
	EXPECT_EQ(0, ka_arenas_of(heap)->metadata->sequence & 1);
	EXPECT_EQ(0, ka_run_free(heap, run));
	EXPECT_EQ(0, ka_arenas_of(heap)->metadata->sequence & 1);
	EXPECT_EQ(4, ka_arenas_of(heap)->metadata->sequence / 2 + 1);
	ka_heap_destroy(heap);
}

static int snapshot(struct ka_heap *heap, struct karena_snapshot *args)
{
	int fd = ka_heap_descriptor(heap), image;

	*args = (struct karena_snapshot){ .size = sizeof(*args) };
	image = ioctl(fd, KARENA_SNAPSHOT, args);
	close(fd);
	return image;
}

/* In another process, which has only the descriptor of the image. */
static void look_at(int image, const struct karena_snapshot *args,
		    const struct known *known)
{
	const struct ka_metadata *metadata;
	char *map;

	/*
	 * Occupy the address of the heap if it is free, so that the image is mapped
	 * elsewhere.
	 */
	(void)mmap((void *)args->start, args->window, PROT_NONE, MAP_PRIVATE |
		   MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
	map = mmap(NULL, args->window, PROT_READ, MAP_SHARED, image, 0);
	metadata = (void *)map;
	CHECK(map != MAP_FAILED);
	CHECK(metadata->start == args->start);
	CHECK((uintptr_t)map != args->start);
	CHECK(agrees(map, args->window, known));
	for (size_t i = 0; i < known->nr; i++)
		CHECK(!wrong_stamps(map + known->runs[i].offset,
				    known->runs[i].size, (unsigned int)
				    (known->runs[i].offset / KA_PAGE_SIZE)));
}

static int look_in_child(int image, const struct karena_snapshot *args,
			 const struct known *known)
{
	pid_t child = fork();

	if (!child) {
		look_at(image, args, known);
		_exit(0);
	}
	return child_status(child);
}

TEST(other_process_can_walk_a_snapshot)
{
	/* The child inherits nothing of this heap. */
	struct ka_heap *heap = make(256 * MIB, 0, KA_FORK_NONE);
	struct karena_snapshot args;
	struct known known;
	int image;

	if (!on_device()) {
		ka_heap_destroy(heap);
		SKIP(return, "no snapshots without the module");
	}
	ASSERT_NE(NULL, heap);
	fill(heap, &known, 5);
	image = snapshot(heap, &args);
	ASSERT_LE(0, image) TH_LOG("%s", strerror(errno));
	/* Later changes of the heap do not affect the image. */
	for (size_t i = 0; i < known.nr; i++) {
		char *run = ka_window_of(heap)->start + known.runs[i].offset;

		memset(run, 0x55, known.runs[i].size);
		if (i % 2)
			EXPECT_EQ(0, ka_run_free(heap, run));
	}
	ASSERT_NE(NULL, ka_run_alloc(heap, 40 * MIB, 0));
	EXPECT_EQ(0, look_in_child(image, &args, &known));
	ka_heap_destroy(heap);
	/* Nor does the end of the heap. */
	EXPECT_EQ(0, look_in_child(image, &args, &known));
	close(image);
}

static bool stop;

static void *take_and_give(void *data)
{
	/*
	 * Pause now and then: on a slow kernel, metadata that changes all the time is never
	 * consistent.
	 */
	for (unsigned int i = 0; !__atomic_load_n(&stop, __ATOMIC_RELAXED); i++) {
		void *run = ka_run_alloc(data, 3 * KA_PAGE_SIZE, 0);

		if (!run || ka_run_free(data, run))
			return data;
		if (i % 16 == 0)
			usleep(1000);
	}
	return NULL;
}

TEST(snapshot_during_changes_is_consistent_or_rejected)
{
	struct ka_heap *heap = make(64 * MIB, 0, KA_FORK_COW);
	struct karena_snapshot args;
	pthread_t thread;
	int whole = 0;
	void *failed;

	if (!on_device()) {
		ka_heap_destroy(heap);
		SKIP(return, "no snapshots without the module");
	}
	ASSERT_NE(NULL, ka_run_alloc(heap, MIB, 0));
	stop = false;
	ASSERT_EQ(0, pthread_create(&thread, NULL, take_and_give, heap));
	for (int i = 0; i < 60; i++) {
		struct known seen = {};
		int image = snapshot(heap, &args), error;
		void *map;

		ASSERT_LE(0, image) TH_LOG("%s", strerror(errno));
		map = mmap(NULL, args.window, PROT_READ, MAP_SHARED, image, 0);
		ASSERT_NE(MAP_FAILED, map);
		error = ka_walk(map, args.window, learn, &seen);
		EXPECT_TRUE(!error || error == -EAGAIN);
		if (!error) {
			whole++;
			EXPECT_EQ(((struct ka_metadata *)map)->stats.runs, seen.nr);
			EXPECT_EQ(MIB, seen.runs[0].size);
		}
		munmap(map, args.window);
		close(image);
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, &failed);
	EXPECT_EQ(NULL, failed);
	EXPECT_LT(0, whole);
	ka_heap_destroy(heap);
}

TEST_HARNESS_MAIN
