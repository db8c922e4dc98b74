// SPDX-License-Identifier: MIT
/*
 * The debug hooks: what they do to blocks, how they are installed, and how much memory they
 * keep. Runs on the source that KARENA_SOURCE names.
 */
#include "hooks.h"

TEST(layout_and_patterns_are_those_of_cpython)
{
	static const unsigned char size[8] = { [6] = 0x12, [7] = 0x34 };

	begin("debug");
	for (int i = 0; i < 3; i++) {
		unsigned char *block = families[i].malloc(0x1234);
		unsigned char serial[8] = { [7] = (unsigned char)(2 * i + 1) };

		ASSERT_NE(NULL, block);
		EXPECT_EQ(0, (uintptr_t)block % 16);
		EXPECT_EQ(0, memcmp(block - 16, size, 8));
		EXPECT_EQ(families[i].letter, block[-8]);
		EXPECT_TRUE(all_are(block - 7, 7, 0xfd));
		EXPECT_TRUE(all_are(block, 0x1234, 0xcd));
		EXPECT_TRUE(all_are(block + 0x1234, 8, 0xfd));
		EXPECT_EQ(0, memcmp(block + 0x1234 + 8, serial, 8));
		families[i].free(block);
		EXPECT_TRUE(all_are(block - 16, 16 + 0x1234 + 16, 0xdd));
		block = families[i].calloc(5, 7);
		EXPECT_TRUE(all_are(block, 35, 0));
		EXPECT_TRUE(all_are(block + 35, 8, 0xfd));
		families[i].free(block);
	}
	EXPECT_EQ(6, ka_debug_check_all());
}

TEST(realloc_erases_the_old_block)
{
	unsigned char *block, *other;

	begin("debug");
	for (int i = 0; i < 3; i++) {
		block = families[i].realloc(NULL, 100);
		EXPECT_TRUE(all_are(block, 100, 0xcd));
		memset(block, 7, 100);
		other = families[i].realloc(block, 300);
		ASSERT_NE(NULL, other);
		EXPECT_NE(block, other);
		EXPECT_TRUE(all_are(block - 16, 16 + 100 + 16, 0xdd));
		EXPECT_TRUE(all_are(other, 100, 7));
		EXPECT_TRUE(all_are(other + 100, 200, 0xcd));
		EXPECT_TRUE(all_are(other + 300, 8, 0xfd));
		block = families[i].realloc(other, 9);
		EXPECT_TRUE(all_are(other, 300, 0xdd));
		EXPECT_TRUE(all_are(block, 9, 7));
		EXPECT_TRUE(all_are(block + 9, 8, 0xfd));
		other = families[i].realloc(block, 0);
		EXPECT_NE(NULL, other);
		EXPECT_TRUE(all_are(other, 8, 0xfd));
		families[i].free(other);
	}
}

TEST(too_large_sizes_fail_and_lose_nothing)
{
	static const size_t sizes[] = {
		SIZE_MAX, (size_t)PTRDIFF_MAX + 1, PTRDIFF_MAX, PTRDIFF_MAX - 31,
		(size_t)1 << 48,
	};
	unsigned char *block;

	begin("debug");
	setenv("KARENA_LIMIT", "8M", 1);
	block = ka_mem_malloc(100);
	memset(block, 1, 100);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		errno = 0;
		EXPECT_EQ(NULL, ka_mem_malloc(sizes[i]));
		EXPECT_EQ(ENOMEM, errno);
		errno = 0;
		EXPECT_EQ(NULL, ka_mem_realloc(block, sizes[i]));
		EXPECT_EQ(ENOMEM, errno);
		errno = 0;
		EXPECT_EQ(NULL, ka_mem_calloc(sizes[i] / 2 + 1, 2));
		EXPECT_EQ(ENOMEM, errno);
	}
	EXPECT_EQ(NULL, ka_mem_realloc(block, 9 * MIB));
	EXPECT_TRUE(all_are(block, 100, 1));
	EXPECT_EQ(1, ka_debug_check(block));
	EXPECT_EQ(1, ka_debug_check_all());
	errno = 7;
	ka_mem_free(block);
	EXPECT_EQ(7, errno);
}

TEST(quarantine_is_bounded)
{
	unsigned char *block, *other;
	int others = 0;

	begin("debug");
	setenv("KARENA_QUARANTINE", "64K", 1);
	block = ka_mem_malloc(1000);
	ka_mem_free(block);
	/* Of 1048 bytes each: with the first one, 62 fit. */
	do {
		other = ka_mem_malloc(1000);
		ka_mem_free(other);
		others++;
		ASSERT_GE((size_t)64 << 10, ka_quarantine_bytes());
	} while (other != block && others < 1000);
	EXPECT_LE(62, others);
	EXPECT_GT(1000, others);
	EXPECT_LT((size_t)62 << 10, ka_quarantine_bytes());
	EXPECT_EQ(62, ka_debug_check_all());
	/* A block larger than the quarantine empties it and leaves at once. */
	ka_mem_free(ka_mem_malloc(100000));
	EXPECT_EQ(0, ka_quarantine_bytes());
	EXPECT_EQ(0, ka_debug_check_all());
	EXPECT_EQ(0, stats_of(ka_domain_heap()).blocks);
}

FIXTURE(guards) {
	char unused;
};

FIXTURE_SETUP(guards)
{
	(void)self;
}

FIXTURE_TEARDOWN(guards)
{
	(void)self;
}

/* A debug kernel needs the longer timeout. */
TEST_F_TIMEOUT(guards, without_room_for_guards_blocks_have_none, SLOW)
{
	enum { BLOCKS = 17000 };
	static unsigned char *blocks[BLOCKS];
	const volatile unsigned char *last;

	NOT_WITH_VALGRIND("has no room for so many mappings");
	if (!access("/sys/kernel/debug/kmemleak", F_OK))
		SKIP(return, "a debug kernel takes minutes for so many mappings");
	begin("guard");
	setenv("KARENA_QUARANTINE", "64K", 1);
	for (int i = 0; i < BLOCKS; i++) {
		blocks[i] = ka_obj_malloc(10);
		ASSERT_NE(NULL, blocks[i]);
	}
	/* The last blocks have no guard, so this byte can be read. */
	last = blocks[BLOCKS - 1];
	EXPECT_LE(0, (int)last[16]);
	EXPECT_EQ(BLOCKS, ka_debug_check_all());
	for (int i = 0; i < BLOCKS; i++)
		ka_obj_free(blocks[i]);
	EXPECT_EQ(8, ka_debug_check_all());
	EXPECT_EQ(8, stats_of(ka_domain_heap()).runs);
	/* There is room for a guard again. */
	blocks[0] = ka_mem_malloc(16);
	EXPECT_EQ(128 + SIGSEGV, run(touches_behind, blocks[0]).status);
}

static void takes_one(unsigned char *block)
{
	(void)block;
	CHECK(ka_raw_malloc(1));
}

static size_t back;

static void writes_before(unsigned char *block)
{
	block[-(ptrdiff_t)back] = 1;
	ka_mem_free(block);
}

TEST(write_before_a_block_is_detected)
{
	static const size_t places[] = { 1, 7, 12, 16, 17, 24, 32 };

	begin("debug");
	for (size_t i = 0; i < sizeof(places) / sizeof(*places); i++) {
		back = places[i];
		EXPECT_EQ(128 + SIGABRT, run(writes_before, ka_mem_malloc(10000)).status);
	}
}

TEST(invalid_settings_are_reported_and_ignored)
{
	struct child child;

	begin("debugging");
	child = run(takes_one, NULL);
	EXPECT_EQ(0, child.status);
	EXPECT_STREQ("karena: KARENA_MALLOC: unknown value 'debugging' (choose default, count,"
		     " debug or guard); the setting is ignored\n", child.words);
	begin("debug");
	setenv("KARENA_QUARANTINE", "much", 1);
	child = run(takes_one, NULL);
	EXPECT_EQ(0, child.status);
	EXPECT_STREQ("karena: KARENA_QUARANTINE: invalid size 'much' (examples: 512M, 2G); the"
		     " setting is ignored\n", child.words);
}

static void nothing_is_there(unsigned char *block)
{
	block = ka_mem_malloc(16);
	CHECK(block && ka_debug_check_all() == 0 && ka_debug_check(block + 1) == 0);
	CHECK(ka_debug_dump(block) == -1);
	ka_raw_free(block);
}

TEST(no_hooks_by_default)
{
	EXPECT_EQ(0, run(nothing_is_there, NULL).status);
	begin("default");
	EXPECT_EQ(0, run(nothing_is_there, NULL).status);
	begin("");
	EXPECT_EQ(0, run(nothing_is_there, NULL).status);
}

/* Counts the calls of the allocator below the hooks. */
static struct ka_allocator below;
static long mallocs, others, frees;

static void *count_malloc(void *context, size_t size)
{
	(void)context;
	mallocs++;
	return below.malloc(below.context, size);
}

static void *count_calloc(void *context, size_t count, size_t size)
{
	(void)context;
	others++;
	return below.calloc(below.context, count, size);
}

static void *count_realloc(void *context, void *block, size_t size)
{
	(void)context;
	others++;
	return below.realloc(below.context, block, size);
}

static void count_free(void *context, void *block)
{
	(void)context;
	frees++;
	below.free(below.context, block);
}

TEST(program_can_install_hooks_once)
{
	const struct ka_allocator counting = {
		NULL, count_malloc, count_calloc, count_realloc, count_free,
	};
	unsigned char *block;
	struct child child;

	setenv("KARENA_QUARANTINE", "much", 1);
	errno = 0;
	EXPECT_EQ(-1, ka_debug_install());
	EXPECT_EQ(EINVAL, errno);
	setenv("KARENA_QUARANTINE", "1", 1);
	ASSERT_EQ(0, ka_allocator_get(KA_DOMAIN_MEM, &below));
	ASSERT_EQ(0, ka_allocator_set(KA_DOMAIN_MEM, &counting));
	ASSERT_EQ(0, ka_debug_install());
	ASSERT_EQ(0, ka_debug_install());
	block = alloc_here(16);
	EXPECT_EQ(1, ka_debug_check_all());
	EXPECT_EQ(1, mallocs);
	child = run(overflows, block);
	EXPECT_TRUE(said(&child, "Debug", "ka_mem_free: bad trailing pad byte"));
	EXPECT_TRUE(shows(&child, TAKEN, alloc_here));
	/* At exit, only hooks that the environment installed check the blocks. */
	EXPECT_EQ(0, run(overflows_and_exits, block).status);
	ka_mem_free(ka_mem_realloc(block, 20));
	ka_mem_free(ka_mem_calloc(3, 4));
	EXPECT_EQ(3, mallocs);
	EXPECT_EQ(3, frees);
	EXPECT_EQ(0, others);
	ka_obj_free(ka_obj_malloc(3));
	ka_raw_free(ka_raw_malloc(3));
	EXPECT_EQ(3, mallocs);
}

#define THREADS	4
#define SHARED	32

static unsigned char *shared[SHARED];

/* Blocks are passed between threads, and each must be as the last thread left it. */
static void *uses(void *data)
{
	unsigned int seed = (unsigned int)(uintptr_t)data;
	long wrong = 0;

	for (int i = 0; i < 3000; i++) {
		const struct family *of;
		unsigned char *block;
		int at = rand_r(&seed) % SHARED;

		of = &families[at % 3];
		block = __atomic_exchange_n(&shared[at], NULL, __ATOMIC_ACQ_REL);
		if (!block) {
			block = of->malloc(40 + (size_t)at);
			memset(block, at, 40);
		} else if (i % 3) {
			wrong += !all_are(block, 40, (unsigned char)at);
			block = of->realloc(block, 40 + (size_t)i % 100);
			wrong += !all_are(block, 40, (unsigned char)at);
		} else {
			of->free(block);
			continue;
		}
		of->free(__atomic_exchange_n(&shared[at], block, __ATOMIC_ACQ_REL));
	}
	return (void *)wrong;
}

static void start_threads(pthread_t threads[static THREADS])
{
	for (uintptr_t i = 0; i < THREADS; i++) {
		if (pthread_create(&threads[i], NULL, uses, (void *)i))
			abort();
	}
}

static long end_threads(const pthread_t threads[static THREADS])
{
	long wrong = 0;
	void *of_thread;

	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i], &of_thread);
		wrong += (long)of_thread;
	}
	for (int i = 0; i < SHARED; i++) {
		families[i % 3].free(shared[i]);
		shared[i] = NULL;
	}
	return wrong;
}

FIXTURE(threads) {
	pthread_t threads[THREADS];
};

FIXTURE_SETUP(threads)
{
	(void)self;
}

FIXTURE_TEARDOWN(threads)
{
	(void)self;
}

TEST_F_TIMEOUT(threads, share_blocks, SLOW)
{
	begin("debug");
	setenv("KARENA_QUARANTINE", "16K", 1);
	start_threads(self->threads);
	for (int i = 0; i < 100; i++)
		ka_debug_check_all();
	EXPECT_EQ(0, end_threads(self->threads));
	EXPECT_GE((size_t)16 << 10, ka_quarantine_bytes());
	EXPECT_LT(0, ka_debug_check_all());
}

static void goes_on(unsigned char *block)
{
	CHECK(all_are(block, 50, 9));
	block = ka_mem_realloc(block, 500);
	for (int i = 0; i < 500; i++)
		ka_obj_free(ka_obj_malloc((size_t)i));
	ka_mem_free(block);
	CHECK(ka_debug_check_all() > 0);
}

TEST_F_TIMEOUT(threads, child_continues_during_calls_of_other_threads, SLOW)
{
	unsigned char *block;

	NOT_WITH_THREAD_SANITIZER();
	begin("debug");
	block = ka_mem_malloc(50);
	memset(block, 9, 50);
	start_threads(self->threads);
	for (int i = 0; i < 20; i++) {
		struct child child = run(goes_on, block);

		EXPECT_EQ(0, child.status) TH_LOG("%s", child.words);
	}
	EXPECT_EQ(0, end_threads(self->threads));
	EXPECT_EQ(1, ka_debug_check(block));
}

TEST_HARNESS_MAIN
