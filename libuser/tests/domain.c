// SPDX-License-Identifier: MIT
/*
 * Domains: the rules for all three sets of functions, and the allocators behind them, which
 * can be read, replaced and stacked. Runs on the source that KARENA_SOURCE names.
 */
#include <stdint.h>
#include <time.h>

#include <karena/domain.h>

#include "common.h"

static const struct family {
	enum ka_domain domain;
	void *(*malloc)(size_t size);
	void *(*calloc)(size_t count, size_t size);
	void *(*realloc)(void *block, size_t size);
	void (*free)(void *block);
} families[] = {
	{ KA_DOMAIN_RAW, ka_raw_malloc, ka_raw_calloc, ka_raw_realloc, ka_raw_free },
	{ KA_DOMAIN_MEM, ka_mem_malloc, ka_mem_calloc, ka_mem_realloc, ka_mem_free },
	{ KA_DOMAIN_OBJ, ka_obj_malloc, ka_obj_calloc, ka_obj_realloc, ka_obj_free },
};

static void *takes_the_first_block(void *data)
{
	/* The cancellation stays pending; only a cancellation point acts on it. */
	pthread_cancel(pthread_self());
	*(void **)data = ka_raw_malloc(100);
	pthread_testcancel();
	return NULL;
}

TEST(cancellation_in_the_first_call_leaves_no_lock)
{
	void *block = NULL;
	pthread_t thread;

	ASSERT_EQ(0, pthread_create(&thread, NULL, takes_the_first_block, &block));
	pthread_join(thread, NULL);
	EXPECT_NE(NULL, block);
	ka_raw_free(block);
	ka_raw_free(ka_raw_malloc(100));
}

FIXTURE(domain) {
	const struct family *of;
};

FIXTURE_VARIANT(domain) {
	int number;
};

FIXTURE_VARIANT_ADD(domain, raw) { .number = 0 };
FIXTURE_VARIANT_ADD(domain, mem) { .number = 1 };
FIXTURE_VARIANT_ADD(domain, obj) { .number = 2 };

FIXTURE_SETUP(domain)
{
	self->of = &families[variant->number];
}

FIXTURE_TEARDOWN(domain)
{
	(void)self;
}

TEST_F(domain, size_0_counts_as_1)
{
	void *blocks[4] = {
		self->of->malloc(0), self->of->malloc(0), self->of->calloc(0, 7),
		self->of->calloc(7, 0),
	};
	void *block;

	for (int i = 0; i < 4; i++) {
		EXPECT_NE(NULL, blocks[i]);
		for (int j = 0; j < i; j++)
			EXPECT_NE(blocks[i], blocks[j]);
		EXPECT_LE(1, ka_heap_usable_size(ka_domain_heap(), blocks[i]));
	}
	for (int i = 0; i < 4; i++)
		self->of->free(blocks[i]);
	block = self->of->realloc(self->of->malloc(5000), 0);
	EXPECT_NE(NULL, block);
	EXPECT_GE(5000 / 2, ka_heap_usable_size(ka_domain_heap(), block));
	self->of->free(block);
	self->of->free(NULL);
}

TEST_F(domain, blocks_hold_the_requested_bytes)
{
	for (size_t size = 1; size < 3 * MIB; size = size * 3 / 2 + 1) {
		char *block = self->of->malloc(size);

		ASSERT_NE(NULL, block);
		EXPECT_EQ(0, (uintptr_t)block % 16);
		memset(block, 1, size);
		block = self->of->realloc(block, size * 2);
		ASSERT_NE(NULL, block);
		for (size_t i = 0; i < size; i++)
			ASSERT_EQ(1, block[i]);
		self->of->free(block);
		block = self->of->calloc(size, 2);
		ASSERT_NE(NULL, block);
		for (size_t i = 0; i < size * 2; i++)
			ASSERT_EQ(0, block[i]);
		memset(block, 0xff, size * 2);
		self->of->free(block);
	}
	EXPECT_NE(NULL, self->of->realloc(NULL, 10));
}

TEST_F(domain, too_large_sizes_fail_and_lose_nothing)
{
	static const size_t sizes[] = { (size_t)PTRDIFF_MAX, (size_t)PTRDIFF_MAX + 1,
					SIZE_MAX };
	char *block = self->of->malloc(100);

	ASSERT_NE(NULL, block);
	memset(block, 7, 100);
	for (int i = 0; i < 3; i++) {
		errno = 0;
		EXPECT_EQ(NULL, self->of->malloc(sizes[i]));
		EXPECT_EQ(ENOMEM, errno);
		errno = 0;
		EXPECT_EQ(NULL, self->of->realloc(block, sizes[i]));
		EXPECT_EQ(ENOMEM, errno);
		errno = 0;
		EXPECT_EQ(NULL, self->of->calloc(2, sizes[i] / 2 + 1));
		EXPECT_EQ(ENOMEM, errno);
		EXPECT_EQ(NULL, self->of->calloc(sizes[i], sizes[i]));
	}
	for (int i = 0; i < 100; i++)
		EXPECT_EQ(7, block[i]);
	errno = 7;
	self->of->free(block);
	EXPECT_EQ(7, errno);
}

TEST_F(domain, invalid_block_aborts_the_program)
{
	static int none;
	pid_t child = fork();

	if (!child) {
		close(STDERR_FILENO);
		signal(SIGABRT, SIG_DFL);
		self->of->free(&none);
		_exit(0);
	}
	EXPECT_EQ(128 + SIGABRT, child_status(child));
	child = fork();
	if (!child) {
		close(STDERR_FILENO);
		self->of->free(self->of->realloc(&none, 10));
		_exit(0);
	}
	EXPECT_EQ(128 + SIGABRT, child_status(child));
}

/* An allocator that counts calls and passes them to the earlier one. */
struct counter {
	struct ka_allocator below;
	long mallocs, callocs, reallocs, frees;
};

static void *count_malloc(void *context, size_t size)
{
	struct counter *counter = context;

	__atomic_fetch_add(&counter->mallocs, 1, __ATOMIC_RELAXED);
	return counter->below.malloc(counter->below.context, size);
}

static void *count_calloc(void *context, size_t count, size_t size)
{
	struct counter *counter = context;

	__atomic_fetch_add(&counter->callocs, 1, __ATOMIC_RELAXED);
	return counter->below.calloc(counter->below.context, count, size);
}

static void *count_realloc(void *context, void *block, size_t size)
{
	struct counter *counter = context;

	__atomic_fetch_add(&counter->reallocs, 1, __ATOMIC_RELAXED);
	return counter->below.realloc(counter->below.context, block, size);
}

static void count_free(void *context, void *block)
{
	struct counter *counter = context;

	__atomic_fetch_add(&counter->frees, 1, __ATOMIC_RELAXED);
	counter->below.free(counter->below.context, block);
}

/* Put a counter in front of the allocator of a domain. */
static int stack(enum ka_domain domain, struct counter *counter)
{
	struct ka_allocator allocator = {
		counter, count_malloc, count_calloc, count_realloc, count_free,
	};

	return ka_allocator_get(domain, &counter->below) ||
	       ka_allocator_set(domain, &allocator);
}

TEST_F(domain, allocators_can_be_stacked_and_removed)
{
	struct counter counters[2] = {};
	void *before = self->of->malloc(30), *block;

	ASSERT_EQ(0, stack(self->of->domain, &counters[0]));
	ASSERT_EQ(0, stack(self->of->domain, &counters[1]));
	self->of->free(before);
	block = self->of->realloc(self->of->malloc(0), 500);
	self->of->free(self->of->calloc(3, 5));
	/* Sizes that cannot fit are rejected before the allocator is called. */
	EXPECT_EQ(NULL, self->of->malloc(SIZE_MAX));
	EXPECT_EQ(NULL, self->of->calloc(SIZE_MAX, 2));
	for (int i = 0; i < 2; i++) {
		EXPECT_EQ(1, counters[i].mallocs);
		EXPECT_EQ(1, counters[i].callocs);
		EXPECT_EQ(1, counters[i].reallocs);
		EXPECT_EQ(2, counters[i].frees);
	}
	/* The other domains are unchanged. */
	for (int i = 0; i < 3; i++) {
		if (families[i].domain != self->of->domain)
			families[i].free(families[i].malloc(1));
	}
	EXPECT_EQ(1, counters[1].mallocs);
	ASSERT_EQ(0, ka_allocator_set(self->of->domain, &counters[0].below));
	self->of->free(block);
	EXPECT_EQ(2, counters[1].frees);
}

#define LAYERS	12

struct layers {
	enum ka_domain domain;
	struct counter counters[LAYERS];
};

static void *stack_layers(void *data)
{
	struct layers *layers = data;

	for (int i = 0; i < LAYERS; i++) {
		struct counter *counter = &layers->counters[i];
		struct ka_allocator allocator = {
			counter, count_malloc, count_calloc, count_realloc, count_free,
		};

		if (ka_allocator_get(layers->domain, &counter->below))
			return "get";
		while (ka_allocator_replace(layers->domain, &counter->below, &allocator)) {
			if (errno != EAGAIN)
				return "replace";
		}
	}
	return NULL;
}

TEST_F(domain, concurrent_replacements_lose_no_allocator)
{
	struct ka_allocator before, wrong = {};
	struct layers *layers = calloc(2, sizeof(*layers));
	pthread_t threads[2];
	void *failed;

	ASSERT_EQ(0, ka_allocator_get(self->of->domain, &before));
	for (int i = 0; i < 2; i++) {
		layers[i].domain = self->of->domain;
		pthread_create(&threads[i], NULL, stack_layers, &layers[i]);
	}
	for (int i = 0; i < 2; i++) {
		pthread_join(threads[i], &failed);
		EXPECT_EQ(NULL, failed);
	}
	self->of->free(self->of->malloc(10));
	for (int i = 0; i < 2 * LAYERS; i++)
		EXPECT_EQ(1, layers[i / LAYERS].counters[i % LAYERS].mallocs);
	EXPECT_EQ(-1, ka_allocator_replace(self->of->domain, &before, &wrong));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, ka_allocator_replace(self->of->domain, &wrong, &before));
	EXPECT_EQ(EAGAIN, errno);
	EXPECT_NE(NULL, wrong.malloc);
	ASSERT_EQ(0, ka_allocator_set(self->of->domain, &before));
	free(layers);
}

/* Count the read-only pages of the process that belong to no file. */
static size_t pages_to_read(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	unsigned long start, end, node;
	char rights[8], line[512];
	size_t pages = 0;

	while (fgets(line, sizeof(line), maps)) {
		if (sscanf(line, "%lx-%lx %7s %*s %*s %lu", &start, &end, rights, &node) == 4 &&
		    !strcmp(rights, "r--p") && !node && !strchr(line, '['))
			pages += (end - start) / KA_PAGE_SIZE;
	}
	fclose(maps);
	return pages;
}

TEST_F(domain, allocator_tables_are_not_in_blocks)
{
	struct counter counters[2] = {};
	size_t blocks, pages;

	self->of->free(self->of->malloc(1));
	blocks = stats_of(ka_domain_heap()).blocks;
	pages = pages_to_read();
	for (int i = 0; i < 50; i++) {
		ASSERT_EQ(0, stack(self->of->domain, &counters[i % 2]));
		ASSERT_EQ(0, ka_allocator_set(self->of->domain, &counters[i % 2].below));
	}
	EXPECT_EQ(blocks, stats_of(ka_domain_heap()).blocks);
	/* The tables that were set before are still mapped. */
	EXPECT_EQ(pages + 3, pages_to_read());
}

static bool stop;

static void *uses(void *data)
{
	const struct family *of = data;
	long wrong = 0;

	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
		char *block = of->malloc(100);

		memset(block, 1, 100);
		block = of->realloc(block, 300);
		wrong += block[99] != 1;
		of->free(block);
		relax();
	}
	return (void *)wrong;
}

TEST_F(domain, allocator_can_be_replaced_while_threads_use_it)
{
	/*
	 * On a machine that emulates processors in turn, a short sleep may take a second.
	 */
	time_t until = time(NULL) + 3;
	struct ka_allocator first, second;
	struct counter counter = {};
	pthread_t threads[3];
	void *wrong;

	stop = false;
	ASSERT_EQ(0, ka_allocator_get(self->of->domain, &first));
	ASSERT_EQ(0, stack(self->of->domain, &counter));
	ASSERT_EQ(0, ka_allocator_get(self->of->domain, &second));
	for (int i = 0; i < 3; i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, uses, (void *)self->of));
	for (int i = 0; i < 300 && time(NULL) < until; i++) {
		ASSERT_EQ(0, ka_allocator_set(self->of->domain, &first));
		usleep(100);
		ASSERT_EQ(0, ka_allocator_set(self->of->domain, &second));
	}
	/* The second allocator stays until a thread has used it. */
	while (!__atomic_load_n(&counter.mallocs, __ATOMIC_RELAXED))
		usleep(100);
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	for (int i = 0; i < 3; i++) {
		pthread_join(threads[i], &wrong);
		EXPECT_EQ(NULL, wrong);
	}
	EXPECT_LT(0, counter.mallocs);
}

TEST(invalid_domains_and_allocators_are_rejected)
{
	struct ka_allocator allocator;

	EXPECT_EQ(-1, ka_allocator_get((enum ka_domain)3, &allocator));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, ka_allocator_get((enum ka_domain)-1, &allocator));
	ASSERT_EQ(0, ka_allocator_get(KA_DOMAIN_MEM, &allocator));
	EXPECT_EQ(-1, ka_allocator_set((enum ka_domain)3, &allocator));
	EXPECT_EQ(EINVAL, errno);
	allocator.calloc = NULL;
	errno = 0;
	EXPECT_EQ(-1, ka_allocator_set(KA_DOMAIN_MEM, &allocator));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_NE(NULL, ka_mem_calloc(1, 1));
}

TEST(child_continues_with_blocks_of_its_parent)
{
	char *block = ka_obj_malloc(1000);
	pid_t child;

	memset(block, 3, 1000);
	child = fork();
	if (!child) {
		block = ka_obj_realloc(block, 5000);
		CHECK(block && block[999] == 3);
		ka_obj_free(block);
		CHECK(ka_mem_calloc(10, 10));
		_exit(0);
	}
	EXPECT_EQ(0, child_status(child));
	EXPECT_EQ(3, block[999]);
	ka_obj_free(block);
}

static bool has(const struct family *of, size_t blocks, size_t bytes)
{
	struct ka_domain_stats stats = KA_DOMAIN_STATS;

	return !ka_domain_stats(of->domain, &stats) && stats.blocks == blocks &&
	       stats.bytes == bytes;
}

/* Before and after the calls, the domain has no blocks. */
static void takes_and_gives(const struct family *of)
{
	char *blocks[4], *large;

	CHECK(has(of, 0, 0));
	for (int i = 0; i < 4; i++)
		blocks[i] = of->malloc(32);
	CHECK(has(of, 4, 4 * 32));
	blocks[0] = of->realloc(blocks[0], 1000);
	CHECK(has(of, 4, 3 * 32 + 1024));
	blocks[0] = of->realloc(blocks[0], 0);
	CHECK(has(of, 4, 3 * 32 + 16));
	CHECK(!of->realloc(blocks[1], SIZE_MAX / 4) && !of->malloc(SIZE_MAX / 4));
	large = of->realloc(NULL, 3 * MIB);
	CHECK(has(of, 5, 3 * 32 + 16 + 3 * MIB));
	of->free(large);
	of->free(NULL);
	errno = 7;
	for (int i = 0; i < 4; i++)
		of->free(blocks[i]);
	CHECK(errno == 7 && has(of, 0, 0));
	large = of->calloc(16, 16);
	CHECK(large && !large[255] && has(of, 1, 256));
	of->free(large);
}

/* Not in mem, so that a child of fork() has no blocks there. */
static void *take_and_give_often(void *data)
{
	for (int i = 0; i < 20000; i++)
		families[i % 2 * 2].free(families[i % 2 * 2].malloc((size_t)i % 5000));
	return data;
}

static bool is_printed(const char *lines)
{
	char text[8192] = "";
	FILE *file = tmpfile();
	bool is;

	is = !ka_heap_print_stats(ka_domain_heap(), fileno(file));
	rewind(file);
	is = is && fread(text, 1, sizeof(text) - 1, file) && strstr(text, lines);
	fclose(file);
	return is;
}

TEST(domains_are_counted_on_request)
{
	struct ka_stats stats = { .size = sizeof(stats) };

	setenv("KARENA_MALLOC", "count", 1);
	ASSERT_NE(NULL, ka_domain_heap());
	EXPECT_TRUE(is_printed("\ndomains\n"));
	ASSERT_NE(NULL, ka_raw_malloc(64));
	ASSERT_NE(NULL, ka_obj_malloc(2 * MIB));
	takes_and_gives(&families[1]);
	EXPECT_TRUE(has(&families[0], 1, 64));
	EXPECT_TRUE(has(&families[2], 1, 2 * MIB));
	ASSERT_EQ(0, ka_heap_stats(ka_domain_heap(), &stats));
	EXPECT_EQ(64 + 2 * MIB, stats.used_bytes);
	EXPECT_TRUE(is_printed("\n# blocks of obj                    =                    1\n"
			       "# bytes in these                   =            2,097,152\n"));
}

TEST(invalid_block_aborts_a_program_that_counts)
{
	char none[64] __attribute__((aligned(16))) = "";
	pid_t child;

	setenv("KARENA_MALLOC", "count", 1);
	for (int i = 0; i < 2; i++) {
		/* First without and then with a heap. */
		child = fork();
		if (!child) {
			close(STDERR_FILENO);
			if (i)
				setenv("KARENA_LIMIT", "much", 1);
			ka_obj_free(none);
			_exit(0);
		}
		EXPECT_EQ(128 + SIGABRT, child_status(child));
	}
}

/*
 * The child counts no blocks of threads that it does not have, except at most one of each.
 */
TEST(counts_of_threads_are_correct_after_a_fork)
{
	struct ka_domain_stats stats = KA_DOMAIN_STATS;
	pthread_t threads[2];
	pid_t child;

	NOT_WITH_THREAD_SANITIZER();
	setenv("KARENA_MALLOC", "count", 1);
	for (int i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, take_and_give_often, NULL));
	child = fork();
	if (!child) {
		takes_and_gives(&families[1]);
		CHECK(!ka_domain_stats(KA_DOMAIN_RAW, &stats) && stats.blocks <= 2);
		_exit(0);
	}
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	EXPECT_EQ(0, child_status(child));
	for (int i = 0; i < 3; i++)
		EXPECT_TRUE(has(&families[i], 0, 0));
}

TEST(uncounted_domains_have_no_statistics)
{
	struct ka_domain_stats stats = KA_DOMAIN_STATS;

	EXPECT_EQ(-1, ka_domain_stats((enum ka_domain)3, &stats));
	EXPECT_EQ(EINVAL, errno);
	ASSERT_NE(NULL, ka_obj_malloc(10));
	EXPECT_TRUE(is_printed("\nruns and metadata\n"));
	EXPECT_EQ(-1, ka_domain_stats(KA_DOMAIN_OBJ, &stats));
	EXPECT_EQ(ENODATA, errno);
	EXPECT_NE(NULL, strstr(ka_error(), "KARENA_MALLOC=count"));
	EXPECT_FALSE(is_printed("# blocks of obj"));
}

TEST(limit_applies_to_all_three_domains)
{
	pid_t child;

	/* The first call creates the heap. */
	setenv("KARENA_LIMIT", "4M", 1);
	child = fork();
	if (!child) {
		size_t count = 0;

		while (families[count % 3].malloc(1000))
			count++;
		CHECK(errno == ENOMEM);
		CHECK(count > 3000 && count < 4195);
		CHECK(!ka_raw_calloc(1000, 1000) && !ka_mem_malloc(MIB));
		_exit(0);
	}
	EXPECT_EQ(0, child_status(child));
}

TEST(first_call_fails_with_an_invalid_setting)
{
	pid_t child;

	setenv("KARENA_LIMIT", "much", 1);
	child = fork();
	if (!child) {
		CHECK(!ka_raw_malloc(10) && errno == EINVAL);
		CHECK(strstr(ka_error(), "KARENA_LIMIT: invalid size 'much'"));
		CHECK(!ka_domain_heap());
		setenv("KARENA_LIMIT", "64M", 1);
		CHECK(ka_raw_malloc(10));
		_exit(0);
	}
	EXPECT_EQ(0, child_status(child));
}

TEST_HARNESS_MAIN
