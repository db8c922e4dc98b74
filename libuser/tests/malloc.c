// SPDX-License-Identifier: MIT
/*
 * malloc and the related functions for a whole program, by LD_PRELOAD: what C, POSIX and
 * glibc guarantee. Started with libkarena-malloc.so preloaded.
 */
#include <dlfcn.h>
#include <malloc.h>

#include "common.h"

/* With the debug hooks, messages and statistics differ. */
#define NOT_WITH_HOOKS()						\
	do {								\
		if (getenv("KARENA_MALLOC"))				\
			SKIP(return, "differs with the debug hooks");	\
	} while (0)

/* Volatile, because the compiler knows malloc and would remove calls. */
static void *(*volatile do_malloc)(size_t size) = malloc;
static void (*volatile do_free)(void *block) = free;
static void *(*volatile do_calloc)(size_t count, size_t size) = calloc;
static void *(*volatile do_realloc)(void *block, size_t size) = realloc;

TEST(functions_are_those_of_the_library)
{
	static void *const functions[] = {
		malloc, free, calloc, realloc, reallocarray, memalign, aligned_alloc,
		posix_memalign, valloc, pvalloc, malloc_usable_size, mallinfo2,
		malloc_info, malloc_stats, mallopt,
	};
	Dl_info info;

	for (size_t i = 0; i < sizeof(functions) / sizeof(*functions); i++) {
		ASSERT_NE(0, dladdr(functions[i], &info));
		EXPECT_NE(NULL, strstr(info.dli_fname, "libkarena-malloc")) {
			TH_LOG("%zu: %s", i, info.dli_fname);
		}
	}
}

TEST(blocks_of_all_sizes_hold_the_requested_bytes)
{
	for (size_t size = 0; size < 8 * MIB; size += size < 2000 ? 1 : size / 5) {
		char *block = do_malloc(size);

		ASSERT_NE(NULL, block);
		ASSERT_LE(size, malloc_usable_size(block));
		memset(block, 1, malloc_usable_size(block));
		do_free(block);
		block = do_calloc(size, 1);
		ASSERT_NE(NULL, block);
		for (size_t i = 0; i < size; i++)
			ASSERT_EQ(0, block[i]);
		memset(block, 2, size);
		block = do_realloc(block, size * 2 + 1);
		ASSERT_NE(NULL, block);
		for (size_t i = 0; i < size; i++)
			ASSERT_EQ(2, block[i]);
		do_free(block);
	}
}

TEST(too_large_sizes_fail_with_enomem)
{
	static const size_t sizes[] = { SIZE_MAX, SIZE_MAX - 100, SIZE_MAX / 2,
					(size_t)1 << 48 };
	void *block = do_malloc(10), *other = &block;

	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		errno = 0;
		EXPECT_EQ(NULL, do_malloc(sizes[i]));
		EXPECT_EQ(ENOMEM, errno);
		errno = 0;
		EXPECT_EQ(NULL, do_realloc(block, sizes[i]));
		EXPECT_EQ(ENOMEM, errno);
		errno = 0;
		EXPECT_EQ(NULL, do_calloc(sizes[i], 2));
		EXPECT_EQ(ENOMEM, errno);
		errno = 0;
		EXPECT_EQ(NULL, reallocarray(block, sizes[i], 2));
		EXPECT_EQ(ENOMEM, errno);
		errno = 0;
		EXPECT_EQ(NULL, memalign(64, sizes[i]));
		EXPECT_EQ(ENOMEM, errno);
		errno = 0;
		EXPECT_EQ(NULL, pvalloc(sizes[i]));
		EXPECT_EQ(ENOMEM, errno);
		errno = 7;
		EXPECT_EQ(ENOMEM, posix_memalign(&other, 64, sizes[i]));
		EXPECT_EQ(7, errno);
		EXPECT_EQ(&block, other);
	}
	do_free(block);
}

TEST(alignments_follow_the_standards)
{
	for (size_t align = 1; align <= 4 * MIB; align *= 2) {
		void *blocks[4] = { aligned_alloc(align, align), memalign(align, 100) };

		EXPECT_EQ(align < sizeof(void *) ? EINVAL : 0,
			  posix_memalign(&blocks[2], align, 1000));
		for (int i = 0; i < 3; i++) {
			EXPECT_EQ(0, (uintptr_t)blocks[i] % align);
			do_free(blocks[i]);
		}
	}
	errno = 0;
	EXPECT_EQ(NULL, aligned_alloc(48, 48));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(EINVAL, posix_memalign(&(void *){ NULL }, 24, 48));
	EXPECT_EQ(EINVAL, posix_memalign(&(void *){ NULL }, 0, 48));
	for (size_t size = 0; size < 10000; size += 999) {
		char *block = valloc(size);

		ASSERT_NE(NULL, block);
		EXPECT_EQ(0, (uintptr_t)block % KA_PAGE_SIZE);
		do_free(block);
		block = pvalloc(size);
		ASSERT_NE(NULL, block);
		EXPECT_EQ(0, (uintptr_t)block % KA_PAGE_SIZE);
		EXPECT_LE((size + KA_PAGE_SIZE - 1) & ~(KA_PAGE_SIZE - 1),
			  malloc_usable_size(block));
		do_free(block);
	}
}

TEST(free_and_realloc_handle_their_special_cases)
{
	char *block;

	do_free(NULL);
	EXPECT_EQ(0, malloc_usable_size(NULL));
	block = do_realloc(NULL, 100);
	EXPECT_NE(NULL, block);
	EXPECT_EQ(NULL, do_realloc(block, 0));
	block = do_malloc(0);
	EXPECT_NE(NULL, block);
	errno = 7;
	do_free(block);
	block = do_malloc(10 * MIB);
	errno = 7;
	do_free(block);
	EXPECT_EQ(7, errno);
}

/* Run a function in a child. Return its status, and its messages on stderr. */
static int words_of(void (*what)(void), char *words, size_t size)
{
	ssize_t length;
	int pipes[2];
	pid_t child;

	if (pipe(pipes))
		return -1;
	child = fork();
	if (!child) {
		dup2(pipes[1], STDERR_FILENO);
		what();
		_exit(0);
	}
	close(pipes[1]);
	length = read(pipes[0], words, size - 1);
	words[length < 0 ? 0 : length] = 0;
	close(pipes[0]);
	return child_status(child);
}

static void frees_twice(void)
{
	void *block = do_malloc(40);

	do_free(block);
	do_free(block);
}

static void frees_what_is_none(void)
{
	static int none;

	do_free(&none);
}

static void frees_an_inner_page(void)
{
	do_free((char *)do_malloc(MIB) + KA_PAGE_SIZE);
}

static void reallocs_what_is_none(void)
{
	static int none;

	do_free(do_realloc(&none, 10));
}

/* A free block: see struct ka_free. */
struct freed {
	unsigned char mark;
	void *link;
};

static struct freed *volatile one, *volatile two, *volatile three;

/* Allocate all blocks of a pool, and free two of them. No other code uses blocks of this size. */
static void free_two_of_three(void)
{
	one = memset(do_malloc(3000), 1, 3000);
	two = memset(do_malloc(3000), 1, 3000);
	three = memset(do_malloc(3000), 1, 3000);
	do_free(one);
	do_free(two);
}

/* The library checks all free blocks when a pool becomes empty. */
static void overwrites_the_mark(void)
{
	free_two_of_three();
	two->mark = 1;
	do_free(three);
}

static void links_to_an_inner_address(void)
{
	free_two_of_three();
	two->link = (char *)one + 16;
	do_free(three);
}

static void links_to_another_mapping(void)
{
	free_two_of_three();
	one->link = mmap(NULL, KA_PAGE_SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	do_free(three);
}

static void links_to_itself(void)
{
	free_two_of_three();
	two->link = two;
	do_free(three);
}

static void links_in_a_circle(void)
{
	free_two_of_three();
	one->link = two;
	do_free(three);
}

TEST(invalid_block_aborts_with_a_message)
{
	static void (*const wrongs[])(void) = {
		frees_twice, frees_what_is_none, frees_an_inner_page,
		reallocs_what_is_none, overwrites_the_mark, links_to_an_inner_address,
		links_to_another_mapping, links_to_itself, links_in_a_circle,
	};
	char words[200];

	NOT_WITH_HOOKS();
	for (size_t i = 0; i < sizeof(wrongs) / sizeof(*wrongs); i++) {
		EXPECT_EQ(128 + SIGABRT, words_of(wrongs[i], words, sizeof(words)));
		EXPECT_EQ(&words[0], strstr(words, "karena: ")) TH_LOG("%s", words);
	}
}

TEST(statistics_are_those_of_this_heap)
{
	struct mallinfo2 before = mallinfo2(), after;
	void *block = do_malloc(5 * MIB);
	char *text = NULL;
	size_t size = 0;
	FILE *file;

	NOT_WITH_HOOKS();
	after = mallinfo2();
	EXPECT_EQ(before.uordblks + 5 * MIB + (in_checked_build() ? 3 * KA_PAGE_SIZE : 0),
		  after.uordblks);
	EXPECT_EQ(before.hblks + 1, after.hblks);
	EXPECT_EQ(after.arena, after.uordblks + after.fordblks);
	EXPECT_EQ(0, after.arena % (2 * MIB));
	do_free(block);
	file = open_memstream(&text, &size);
	EXPECT_EQ(0, malloc_info(0, file));
	fclose(file);
	EXPECT_EQ(text, strstr(text, "<malloc version=\"karena-"));
	do_free(text);
	EXPECT_EQ(-1, malloc_info(1, stderr));
	EXPECT_EQ(EINVAL, errno);
}

static void *in_a_thread(void *data)
{
	void *blocks[1000];

	for (int i = 0; i < 1000; i++)
		blocks[i] = do_malloc((size_t)i);
	for (int i = 0; i < 1000; i++)
		do_free(blocks[i]);
	return data;
}

TEST(many_short_threads_leave_nothing_behind)
{
	size_t before = 0;
	pthread_t thread;

	for (int i = 0; i < 500; i++) {
		ASSERT_EQ(0, pthread_create(&thread, NULL, in_a_thread, NULL));
		pthread_join(thread, NULL);
		if (i == 10)
			before = mallinfo2().uordblks;
	}
	EXPECT_GE(before + 4096, mallinfo2().uordblks);
}

#define NR_LATE		200

static void takes_late(void *data)
{
	*(void **)data = do_calloc(1, 8192);
}

static pthread_key_t late_key;

static void *ends_late(void *data)
{
	pthread_setspecific(late_key, data);
	do_free(do_malloc(8192));
	return NULL;
}

/* After the library has finished with the thread. */
TEST(memory_allocated_by_an_ending_thread_can_be_used_by_others)
{
	static void *blocks[NR_LATE];
	size_t before;
	pthread_t thread;

	/* Destructors run in the order in which their keys were created. */
	ASSERT_EQ(0, pthread_key_create(&late_key, takes_late));
	malloc_trim(0);
	before = mallinfo2().arena;
	for (int i = 0; i < NR_LATE; i++) {
		ASSERT_EQ(0, pthread_create(&thread, NULL, ends_late, &blocks[i]));
		pthread_join(thread, NULL);
		ASSERT_NE(NULL, blocks[i]);
	}
	for (int i = 0; i < NR_LATE; i++)
		do_free(blocks[i]);
	malloc_trim(0);
	EXPECT_GE(before + 2 * MIB, mallinfo2().arena);
	pthread_key_delete(late_key);
}

/*
 * More threads than glibc caches stacks for, so an ending thread frees the stack of
 * another.
 */
#define NR_IDLE		12
#define ROUNDS		20

static void *takes_nothing(void *all_there)
{
	pthread_barrier_wait(all_there);
	return NULL;
}

static void *takes_little(void *all_there)
{
	void *block = do_malloc(100);

	pthread_barrier_wait(all_there);
	do_free(block);
	return NULL;
}

static int run_detached(void *(*what)(void *), pthread_barrier_t *all_there)
{
	pthread_attr_t attributes;
	pthread_t thread;
	int error = 0;

	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	pthread_barrier_init(all_there, NULL, NR_IDLE + 1);
	for (int i = 0; i < NR_IDLE && !error; i++)
		error = pthread_create(&thread, &attributes, what, all_there);
	if (!error)
		pthread_barrier_wait(all_there);
	pthread_attr_destroy(&attributes);
	return error;
}

TEST(thread_that_only_frees_at_its_end_leaves_nothing_behind)
{
	/* Static, because nobody joins the threads that use them. */
	static pthread_barrier_t barriers[ROUNDS][2];
	char *blocks[100];

	for (int round = 0; round < ROUNDS; round++) {
		ASSERT_EQ(0, run_detached(takes_nothing, &barriers[round][0]));
		usleep(5000);
		ASSERT_EQ(0, run_detached(takes_little, &barriers[round][1]));
		/* This scans the pools of all threads. */
		for (int i = 0; i < 100; i++)
			blocks[i] = do_malloc(3000);
		malloc_trim(0);
		for (int i = 0; i < 100; i++)
			do_free(blocks[i]);
	}
}

TEST(child_continues_to_work)
{
	char *block = do_malloc(1000);
	pid_t child;

	memset(block, 5, 1000);
	child = fork();
	if (!child) {
		CHECK(block[0] == 5 && block[999] == 5);
		in_a_thread(NULL);
		do_free(block);
		_exit(0);
	}
	EXPECT_EQ(0, child_status(child));
	do_free(block);
}

TEST_HARNESS_MAIN
