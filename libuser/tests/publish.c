// SPDX-License-Identifier: MIT
/*
 * Other processes read the statistics of ka_heap_stats(), in the memory of the process or
 * in sysfs. Also tests when the library writes them. Runs on the source that KARENA_SOURCE
 * names.
 */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <karena/domain.h>

#include "shown.h"

#define SYSFS	"/sys/class/misc/karena/heaps/%llu/statistics"

FIXTURE(publish) {
};

FIXTURE_SETUP(publish)
{
	(void)self;
	setenv("KARENA_STATS", "1", 1);
}

FIXTURE_TEARDOWN(publish)
{
	(void)self;
}

static uint64_t sysfs(struct ka_heap *heap, const char *name)
{
	unsigned long long value = ~0ULL, read;
	char path[120], word[64];
	FILE *file;

	snprintf(path, sizeof(path), SYSFS, (unsigned long long)ka_heap_id(heap));
	/* The module creates the directory a moment after the first commit. */
	for (int i = 0; !(file = fopen(path, "r")) && i < 200; i++)
		usleep(10000);
	if (!file)
		return value;
	while (fscanf(file, "%63s %llu", word, &read) == 2) {
		if (!strcmp(word, name))
			value = read;
	}
	fclose(file);
	return value;
}

/* Statistics of the only heap as others see them. Return false if there are none. */
static bool seen(struct ka_heap *heap, struct karena_stats *stats)
{
	struct ka_metadata metadata;

	if (!on_device()) {
		if (!shown_of(getpid(), 1, &metadata))
			return false;
		*stats = metadata.shown;
		return stats->version == KARENA_STATS_VERSION && !(stats->sequence & 1);
	}
	*stats = (struct karena_stats){
		.arenas_allocated = sysfs(heap, "arenas_allocated"),
		.arenas_reclaimed = sysfs(heap, "arenas_reclaimed"),
		.arenas_highwater = sysfs(heap, "arenas_highwater"),
		.arenas = sysfs(heap, "arenas"),
		.pools = sysfs(heap, "pools"),
		.bytes_blocks = sysfs(heap, "bytes_blocks"),
		.bytes_available = sysfs(heap, "bytes_available"),
		.bytes_unused_pools = sysfs(heap, "bytes_unused_pools"),
		.bytes_headers = sysfs(heap, "bytes_headers"),
		.bytes_quantization = sysfs(heap, "bytes_quantization"),
		.bytes_alignment = sysfs(heap, "bytes_alignment"),
		.domain = {
			{ sysfs(heap, "raw_blocks"), sysfs(heap, "raw_bytes") },
			{ sysfs(heap, "mem_blocks"), sysfs(heap, "mem_bytes") },
			{ sysfs(heap, "obj_blocks"), sysfs(heap, "obj_bytes") },
		},
	};
	return stats->arenas_allocated;
}

static bool are(const struct karena_stats *stats, enum ka_domain domain, size_t blocks,
		size_t bytes)
{
	return stats->domain[domain].blocks == blocks &&
	       stats->domain[domain].bytes == bytes;
}

/* Use each domain, and read the statistics of their heap. */
static bool takes(const char *setting, struct karena_stats *stats)
{
	struct ka_stats told = { .size = sizeof(told) };

	setenv("KARENA_MALLOC", setting, 1);
	ka_mem_free(ka_mem_malloc(100));
	for (int i = 0; i < 3; i++)
		ka_obj_malloc(32);
	ka_raw_realloc(ka_raw_malloc(64), 2 * MIB);
	return !ka_heap_stats(ka_domain_heap(), &told) &&
	       told.used_bytes == 3 * 32 + 2 * MIB && seen(ka_domain_heap(), stats);
}

TEST_F(publish, others_see_each_domain_if_domains_are_counted)
{
	struct karena_stats stats;

	ASSERT_TRUE(takes("count", &stats));
	EXPECT_TRUE(are(&stats, KA_DOMAIN_RAW, 1, 2 * MIB));
	EXPECT_TRUE(are(&stats, KA_DOMAIN_MEM, 0, 0));
	EXPECT_TRUE(are(&stats, KA_DOMAIN_OBJ, 3, 3 * 32));
}

TEST_F(publish, others_see_no_uncounted_domains)
{
	struct karena_stats stats;

	ASSERT_TRUE(takes("", &stats));
	for (int i = 0; i < 3; i++)
		EXPECT_TRUE(are(&stats, (enum ka_domain)i, 0, 0));
}

static bool add_up(const struct karena_stats *stats)
{
	return stats->bytes_blocks + stats->bytes_available + stats->bytes_unused_pools +
	       stats->bytes_headers + stats->bytes_quantization +
	       stats->bytes_alignment == stats->arenas * KA_ARENA_SIZE;
}

static bool same(const struct karena_stats *seen, const struct ka_stats *told)
{
	return seen->arenas_allocated == told->arenas_allocated &&
	       seen->arenas_reclaimed == told->arenas_reclaimed &&
	       seen->arenas_highwater == told->arenas_highwater &&
	       seen->arenas == told->arenas && seen->pools == told->pools &&
	       seen->bytes_blocks == told->used_bytes &&
	       seen->bytes_available == told->free_bytes &&
	       seen->bytes_unused_pools == told->available_bytes &&
	       seen->bytes_headers == told->header_bytes &&
	       seen->bytes_quantization == told->quantization_bytes &&
	       seen->bytes_alignment == told->alignment_bytes;
}

TEST_F(publish, others_see_the_statistics_of_the_call)
{
	struct ka_heap *heap = make(256 * MIB, 0, KA_FORK_COW);
	struct karena_stats stats;
	unsigned int seed = 3;
	void *blocks[500] = {};

	ASSERT_NE(NULL, heap);
	for (int i = 0; i < 20000; i++) {
		int at = rand_r(&seed) % 500;
		size_t size = (size_t)rand_r(&seed) % (i % 100 ? 3000 : 500000);

		ka_heap_free(heap, blocks[at]);
		blocks[at] = ka_heap_malloc(heap, size);
		ASSERT_NE(NULL, blocks[at]);
		if (i % 500)
			continue;
		/* They may be older, because writing them takes long there. */
		EXPECT_TRUE(seen(heap, &stats) || on_device());
		EXPECT_TRUE(add_up(&stats));
	}
	for (int i = 0; i < 3; i++) {
		struct ka_stats told = stats_of(heap);

		ASSERT_TRUE(seen(heap, &stats));
		EXPECT_TRUE(same(&stats, &told));
		EXPECT_TRUE(add_up(&stats));
		for (int at = i; at < 500; at += 3) {
			ka_heap_free(heap, blocks[at]);
			blocks[at] = NULL;
		}
	}
	ka_heap_destroy(heap);
}

#define NOT_ON_THE_MODULE()						\
	do {								\
		if (on_device())					\
			SKIP(return, "the module shows the statistics itself"); \
	} while (0)

/* Start a child that creates two heaps and waits. */
static pid_t start_child(int *line)
{
	int lines[2];
	pid_t child;

	if (pipe(lines))
		return -1;
	child = fork();
	if (!child) {
		struct ka_options options = KA_OPTIONS;
		struct ka_heap *one, *two;

		options.name = "a name";
		options.window = 64 * MIB;
		one = ka_heap_create(&options);
		options.fork = KA_FORK_SHARE;
		two = ka_heap_create(&options);
		CHECK(one && two && ka_run_alloc(one, 5 * MIB, 0) &&
		      ka_run_alloc(two, 5 * MIB, 0));
		stats_of(one);
		stats_of(two);
		CHECK(write(lines[1], "", 1) == 1);
		pause();
	}
	close(lines[1]);
	*line = lines[0];
	return child;
}

TEST_F(publish, other_process_finds_all_heaps)
{
	struct ka_metadata metadata;
	pid_t child;
	char byte;
	int line = -1;

	NOT_ON_THE_MODULE();
	child = start_child(&line);
	ASSERT_EQ(1, read(line, &byte, 1));
	for (int stopped = 0; stopped <= 1; stopped++) {
		for (int number = 1; number <= 2; number++) {
			ASSERT_TRUE(shown_of(child, number, &metadata));
			EXPECT_STREQ("a name", metadata.name);
			EXPECT_EQ(3, metadata.shown.arenas);
			EXPECT_EQ(5 * MIB, metadata.shown.bytes_blocks);
			EXPECT_TRUE(add_up(&metadata.shown));
		}
		EXPECT_FALSE(shown_of(child, 3, &metadata));
		/* A stopped process can be read as well. */
		kill(child, SIGSTOP);
	}
	kill(child, SIGKILL);
	EXPECT_EQ(128 + SIGKILL, child_status(child));
	close(line);
}

/* Allow only the system calls of glibc's malloc, and those that end a test. */
static bool sandbox(void)
{
	static const unsigned int calls[] = {
		SYS_brk, SYS_mmap, SYS_munmap, SYS_mremap, SYS_mprotect, SYS_madvise,
		SYS_futex, SYS_exit_group,
	};
	const int nr = sizeof(calls) / sizeof(*calls);
	struct sock_filter filter[sizeof(calls) / sizeof(*calls) + 3] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
	};
	struct sock_fprog program = { (unsigned short)(nr + 3), filter };

	for (int i = 0; i < nr; i++)
		filter[1 + i] = (struct sock_filter)
			BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, calls[i], (__u8)(nr - i), 0);
	filter[1 + nr] = (struct sock_filter)
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	filter[2 + nr] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	return !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) &&
	       !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

TEST_F(publish, library_works_in_a_sandbox_for_malloc)
{
	pid_t child;

	NOT_WITH_VALGRIND("makes system calls of its own");
	if (prctl(PR_GET_SECCOMP) < 0)
		SKIP(return, "the kernel has no seccomp");
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	SKIP(return, "a sanitizer makes system calls of its own");
#endif
	child = fork();
	if (!child) {
		struct ka_heap *heap = make(256 * MIB, 0, KA_FORK_COW);
		void *blocks[1000];

		CHECK(heap && sandbox());
		for (size_t round = 0; round < 20; round++) {
			for (size_t i = 0; i < 1000; i++)
				blocks[i] = ka_heap_malloc(heap, i * round * 3);
			CHECK(stats_of(heap).blocks >= 1000);
			for (size_t i = 0; i < 1000; i++)
				ka_heap_free(heap, blocks[i]);
		}
		ka_heap_trim(heap);
		CHECK(stats_of(heap).arenas < 3);
		_exit(0);
	}
	EXPECT_EQ(0, child_status(child));
}

/* Without descriptors, files, or a root directory. */
TEST_F(publish, nothing_is_opened)
{
	struct rlimit none = { 0, 0 };
	struct karena_stats stats;
	struct ka_heap *heap;

	NOT_ON_THE_MODULE();
	heap = make(64 * MIB, 0, KA_FORK_COW);
	setrlimit(RLIMIT_FSIZE, &none);
	errno = 7;
	ASSERT_NE(NULL, ka_run_alloc(heap, 5 * MIB, 0));
	EXPECT_EQ(7, errno);
	stats_of(heap);
	ASSERT_TRUE(seen(heap, &stats));
	EXPECT_EQ(3, stats.arenas);
	setrlimit(RLIMIT_NOFILE, &none);
	EXPECT_EQ(3, stats_of(heap).arenas);
	ka_heap_destroy(heap);
}

TEST_F(publish, settings_are_obeyed)
{
	struct karena_stats stats;
	struct ka_heap *heap;

	unsetenv("KARENA_STATS");
	heap = make(64 * MIB, 0, KA_FORK_COW);
	ASSERT_NE(NULL, ka_run_alloc(heap, KA_PAGE_SIZE, 0));
	stats_of(heap);
	/* The statistics page of the module exists in any case. */
	EXPECT_EQ(on_device(), seen(heap, &stats));
	ASSERT_NE(NULL, ka_run_alloc(heap, 2 * MIB, 0));
	stats_of(heap);
	ASSERT_TRUE(seen(heap, &stats));
	EXPECT_EQ(2, stats.arenas);
	ka_heap_destroy(heap);
	setenv("KARENA_STATS", "0", 1);
	heap = make(64 * MIB, 0, KA_FORK_COW);
	ASSERT_NE(NULL, ka_run_alloc(heap, 6 * MIB, 0));
	stats_of(heap);
	EXPECT_FALSE(seen(heap, &stats));
	ka_heap_destroy(heap);
	setenv("KARENA_STATS", "2", 1);
	EXPECT_EQ(NULL, make(64 * MIB, 0, KA_FORK_COW));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_NE(NULL, strstr(ka_error(), "KARENA_STATS: unknown value '2'"));
}

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/*
 * Wait until a change of the heap makes others see so many arenas. The library waits a
 * hundred times as long as its last write of the statistics took, which can be long on a
 * busy machine.
 */
static bool shows_arenas(struct ka_heap *heap, size_t wanted)
{
	struct karena_stats stats;

	for (int i = 0; i < 40; i++) {
		usleep(on_device() ? 400000 : 50000);
		if (!ka_run_alloc(heap, KA_PAGE_SIZE, 0) || !seen(heap, &stats))
			return false;
		if (stats.arenas == wanted)
			return true;
	}
	return false;
}

TEST_F_TIMEOUT(publish, arenas_are_published_at_once_and_pools_soon, SLOW)
{
	struct ka_heap *heap = make(64 * MIB, 0, KA_FORK_COW);
	struct karena_stats stats;
	void *runs[4];
	uint64_t shown;

	NOT_WITH_VALGRIND("is a hundred times slower");
	for (size_t i = 0; i < 4; i++) {
		runs[i] = ka_run_alloc(heap, 2 * MIB, 0);
		ASSERT_TRUE(shows_arenas(heap, i + 2));
	}
	for (size_t i = 0; i < 4; i++)
		ka_run_free(heap, runs[i]);
	usleep(on_device() ? 400000 : 50000);
	shown = now();
	ka_run_free(heap, ka_run_alloc(heap, KA_PAGE_SIZE, 0));
	/* After this time, the heap may release an arena at that moment. */
	if (on_device())
		stats_of(heap);
	ASSERT_TRUE(seen(heap, &stats));
	EXPECT_EQ(stats_of(heap).arenas, stats.arenas);
	EXPECT_EQ(0, stats.pools);
	/* One more pool is too early, unless this was slow. The next one is not. */
	ASSERT_NE(NULL, ka_heap_malloc(heap, 100));
	shown = now() - shown;
	ASSERT_TRUE(seen(heap, &stats));
	EXPECT_TRUE(!stats.pools || shown > 90000000);
	usleep(400000);
	ASSERT_NE(NULL, ka_heap_malloc(heap, 1000));
	ASSERT_TRUE(seen(heap, &stats));
	EXPECT_EQ(2, stats.pools);
	EXPECT_TRUE(add_up(&stats));
	ka_heap_destroy(heap);
}

TEST_F_TIMEOUT(publish, changing_pools_are_published_ten_times_a_second_at_most, SLOW)
{
	struct ka_heap *heap = make(64 * MIB, 0, KA_FORK_COW);
	struct karena_stats before, after;
	uint64_t began = now(), most;
	void *blocks[100];

	NOT_WITH_VALGRIND("is a hundred times slower");
	NOT_ON_THE_MODULE();
	ASSERT_NE(NULL, ka_heap_malloc(heap, 8000));
	ASSERT_TRUE(seen(heap, &before));
	/* After a slow write, as on a busy machine, the next one may be late. */
	do {
		uint64_t round = now();

		while (now() - round < 350000000) {
			for (int i = 0; i < 100; i++)
				blocks[i] = ka_heap_malloc(heap, 8000);
			for (int i = 0; i < 100; i++)
				ka_heap_free(heap, blocks[i]);
		}
		ASSERT_TRUE(seen(heap, &after));
	} while (after.sequence == before.sequence && now() - began < 20000000000);
	most = (now() - began) / 100000000 + 2;
	EXPECT_LT(before.sequence, after.sequence);
	EXPECT_GE(before.sequence + 2 * most, after.sequence);
	ka_heap_destroy(heap);
}

static bool reading;

/* Count the statistics that another process sees half written or inconsistent. */
static void *reads(void *data)
{
	const struct karena_stats *page = data;
	struct karena_stats stats;
	const __u64 *from = (const __u64 *)page;
	__u64 *to = (__u64 *)&stats;
	long wrong = 0, right = 0;

	while (__atomic_load_n(&reading, __ATOMIC_RELAXED)) {
		uint32_t sequence = __atomic_load_n(&page->sequence, __ATOMIC_ACQUIRE);

		for (size_t i = 1; i < sizeof(stats) / 8; i++)
			to[i] = __atomic_load_n(&from[i], __ATOMIC_ACQUIRE);
		if (sequence & 1 ||
		    __atomic_load_n(&page->sequence, __ATOMIC_RELAXED) != sequence)
			continue;
		right += add_up(&stats);
		wrong += !add_up(&stats);
	}
	return (void *)(wrong || !right ? wrong + 1 : 0);
}

TEST_F_TIMEOUT(publish, reader_sees_complete_statistics_during_writes, SLOW)
{
	struct ka_heap *heap = make(256 * MIB, 0, KA_FORK_COW);
	unsigned int seed = 1;
	pthread_t thread;
	void *wrong;

	NOT_ON_THE_MODULE();
	stats_of(heap);
	reading = true;
	ASSERT_EQ(0, pthread_create(&thread, NULL, reads, &ka_arenas_of(heap)->metadata->shown));
	for (int i = 0; i < 100000; i++) {
		void *run = ka_run_alloc(heap, (1 + (size_t)rand_r(&seed) % 300) *
					 KA_PAGE_SIZE, 0);

		stats_of(heap);
		ka_run_free(heap, run);
	}
	__atomic_store_n(&reading, false, __ATOMIC_RELAXED);
	pthread_join(thread, &wrong);
	EXPECT_EQ(NULL, wrong);
	ka_heap_destroy(heap);
}

TEST_F_TIMEOUT(publish, child_publishes_its_own_statistics, SLOW)
{
	struct ka_heap *heap = make(64 * MIB, 0, KA_FORK_COW);
	struct karena_stats before, after, stats;
	pid_t child;

	ASSERT_NE(NULL, ka_run_alloc(heap, 3 * MIB, 0));
	stats_of(heap);
	ASSERT_TRUE(seen(heap, &before));
	child = fork();
	if (!child) {
		CHECK(ka_run_alloc(heap, 3 * MIB, 0));
		CHECK(stats_of(heap).arenas == 4);
		CHECK(seen(heap, &stats) && add_up(&stats) && stats.arenas == 4);
		/* A child that exits in this way leaves nothing behind. */
		_exit(0);
	}
	EXPECT_EQ(0, child_status(child));
	ASSERT_TRUE(seen(heap, &after));
	EXPECT_EQ(0, memcmp(&before, &after, sizeof(before)));
	ASSERT_NE(NULL, ka_run_alloc(heap, 3 * MIB, 0));
	stats_of(heap);
	ASSERT_TRUE(seen(heap, &after));
	EXPECT_EQ(4, after.arenas);
	ka_heap_destroy(heap);
}

TEST_HARNESS_MAIN
