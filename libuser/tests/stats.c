// SPDX-License-Identifier: MIT
/*
 * Statistics of a heap: they agree with a program that counts its own blocks, and they add
 * up, as numbers and as text. Runs on the source that KARENA_SOURCE names.
 */
#include <stdarg.h>

#include "common.h"

#define CLASSES		96
#define LARGEST		((size_t)256 << 10)
#define THREADS		4
#define BLOCKS		300	/* of each thread at most */
#define ROUNDS		12

/* The documented sizes, computed in another way. */
static size_t class_size(unsigned int class)
{
	size_t base = 128;

	if (class < 8)
		return (class + 1) * 16;
	for (class -= 8; class >= 8; class -= 8)
		base *= 2;
	return base + (class + 1) * base / 8;
}

static unsigned int class_of(size_t size)
{
	unsigned int class = 0;

	while (class_size(class) < size)
		class++;
	return class;
}

/* What a program knows of its blocks in a heap. */
struct known {
	size_t blocks[CLASSES];
	size_t runs;
	size_t run_bytes;
};

struct held {
	void *block;
	size_t size;
	bool run;
};

static void learn(struct known *known, const struct held *held, int sign)
{
	size_t one = (size_t)sign;

	if (!held->run) {
		known->blocks[class_of(held->size)] += one;
		return;
	}
	known->runs += one;
	known->run_bytes += one * ((held->size + KA_PAGE_SIZE - 1) & ~(KA_PAGE_SIZE - 1));
}

/* The heaps of a test, and the threads that use all of them. */
struct scene {
	struct ka_heap *heaps[3];
	pthread_barrier_t barrier;
	bool stop;
	bool swap;
	struct user {
		struct scene *scene;
		unsigned int seed;
		struct known known[3];
		struct held held[3][BLOCKS];
		long refused;
	} users[THREADS];
};

/* Sizes of every kind, mostly small ones, and different ones for each heap. */
static size_t any_size(int heap, unsigned int *seed)
{
	static const size_t most[3][3] = {
		{ 256, 1024, 8192 },
		{ 2000, 70000, 300000 },
		{ 128, 300000, 3 << 20 },
	};
	unsigned int luck = (unsigned int)rand_r(seed) % 40;

	return 1 + (size_t)rand_r(seed) % most[heap][luck > 1 ? 0 : luck + 1];
}

static void drop(struct user *user, int heap, int at)
{
	struct held *held = &user->held[heap][at];

	if (!held->block)
		return;
	if (ka_heap_free(user->scene->heaps[heap], held->block))
		abort();
	learn(&user->known[heap], held, -1);
	held->block = NULL;
}

/* The heap decides whether the block moves. */
static void resize(struct user *user, int heap, struct held *held, size_t size)
{
	struct ka_heap *in = user->scene->heaps[heap];
	size_t old = ka_heap_usable_size(in, held->block);
	void *block = ka_heap_realloc(in, held->block, size);

	if (!block)
		abort();
	learn(&user->known[heap], held, -1);
	held->run = is_run_now(block != held->block, held->run, old, size);
	held->block = block;
	held->size = ka_heap_usable_size(in, block);
	learn(&user->known[heap], held, 1);
}

static void step(struct user *user)
{
	int heap = rand_r(&user->seed) % 3, at = rand_r(&user->seed) % BLOCKS;
	struct held *held = &user->held[heap][at];
	size_t size = any_size(heap, &user->seed);

	if (held->block && rand_r(&user->seed) % 4 == 0) {
		resize(user, heap, held, size);
		return;
	}
	drop(user, heap, at);
	if (rand_r(&user->seed) % 3 == 0)
		return;
	*held = (struct held){
		ka_heap_malloc(user->scene->heaps[heap], size), size, size > LARGEST
	};
	if (held->block)
		learn(&user->known[heap], held, 1);
	else
		user->refused++;
}

/* From now on this thread has the blocks of its neighbour. */
static void swap_with_next(struct user *user)
{
	struct scene *scene = user->scene;
	struct user *next = &scene->users[(user - scene->users + 1) % THREADS];

	for (int heap = 0; heap < 3; heap++) {
		for (int at = 0; at < BLOCKS / 2; at++) {
			struct held held = user->held[heap][at];

			if (!held.block || !next->held[heap][at].block)
				continue;
			learn(&user->known[heap], &held, -1);
			learn(&next->known[heap], &next->held[heap][at], -1);
			user->held[heap][at] = next->held[heap][at];
			next->held[heap][at] = held;
			learn(&user->known[heap], &user->held[heap][at], 1);
			learn(&next->known[heap], &held, 1);
		}
	}
}

static void *use(void *data)
{
	struct user *user = data;
	struct scene *scene = user->scene;

	for (;;) {
		for (int i = 0; i < 3000; i++)
			step(user);
		pthread_barrier_wait(&scene->barrier);
		/* The main thread checks the statistics here. */
		pthread_barrier_wait(&scene->barrier);
		if (scene->stop)
			return NULL;
	}
}

/* At any time, six members add up to the memory of the arenas. */
static bool add_up(const struct ka_stats *stats)
{
	return stats->used_bytes + stats->free_bytes + stats->available_bytes +
	       stats->header_bytes + stats->quantization_bytes +
	       stats->alignment_bytes == stats->arenas * KA_ARENA_SIZE &&
	       stats->arenas == stats->arenas_allocated - stats->arenas_reclaimed &&
	       stats->arenas <= stats->arenas_highwater;
}

static void sum_up(const struct scene *scene, int heap, struct known *sum)
{
	memset(sum, 0, sizeof(*sum));
	for (int i = 0; i < THREADS; i++) {
		const struct known *known = &scene->users[i].known[heap];

		for (int class = 0; class < CLASSES; class++)
			sum->blocks[class] += known->blocks[class];
		sum->runs += known->runs;
		sum->run_bytes += known->run_bytes;
	}
}

/* Return the first difference between the statistics and the known blocks, or NULL. */
static const char *differences(struct ka_heap *heap, const struct known *known)
{
	struct ka_stats stats = { .size = sizeof(stats) };
	size_t blocks = 0, bytes = 0, pools = 0, free_bytes = 0;
	struct ka_class classes[CLASSES];
	static char text[100];

	if (ka_heap_stats(heap, &stats) || !add_up(&stats))
		return "the sum";
	if (ka_heap_classes(heap, classes, CLASSES, sizeof(struct ka_class)) != CLASSES)
		return "the number of classes";
	for (unsigned int i = 0; i < CLASSES; i++) {
		snprintf(text, sizeof(text), "size %zu: %zu blocks, not %zu",
			 classes[i].size, classes[i].blocks, known->blocks[i]);
		if (classes[i].size != class_size(i) ||
		    classes[i].blocks != known->blocks[i])
			return text;
		pools += classes[i].pools;
		blocks += classes[i].blocks;
		bytes += classes[i].blocks * classes[i].size;
		free_bytes += classes[i].free_blocks * classes[i].size;
		/* A pool of these sizes has 16 KiB. */
		if (classes[i].size <= 256 &&
		    classes[i].blocks + classes[i].free_blocks !=
		    classes[i].pools * (16384 / classes[i].size))
			return "the blocks of a pool";
	}
	if (stats.pools != pools || stats.blocks != blocks || stats.block_bytes != bytes)
		return "the sum of the classes";
	if (stats.free_bytes != free_bytes)
		return "the free blocks of the classes";
	if (stats.runs != pools + known->runs)
		return "the runs";
	return stats.used_bytes == bytes + known->run_bytes ? NULL : "the bytes in use";
}

static void begin(struct scene *scene, pthread_t *threads)
{
	for (int i = 0; i < 3; i++) {
		scene->heaps[i] = make(4096 * MIB, 0, KA_FORK_COW);
		if (!scene->heaps[i])
			abort();
	}
	pthread_barrier_init(&scene->barrier, NULL, THREADS + 1);
	for (unsigned int i = 0; i < THREADS; i++) {
		scene->users[i].scene = scene;
		scene->users[i].seed = i + 1;
		if (pthread_create(&threads[i], NULL, use, &scene->users[i]))
			abort();
	}
}

static void end(struct scene *scene, pthread_t *threads)
{
	scene->stop = true;
	pthread_barrier_wait(&scene->barrier);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	pthread_barrier_destroy(&scene->barrier);
}

static struct scene scene;

FIXTURE(stats) {
	int unused;
};

FIXTURE_SETUP(stats)
{
}

FIXTURE_TEARDOWN(stats)
{
}

TEST_F_TIMEOUT(stats, statistics_are_exact_at_any_moment, SLOW)
{
	pthread_t threads[THREADS];
	struct known sum;

	begin(&scene, threads);
	for (int round = 0; round < ROUNDS; round++) {
		const char *wrong = NULL;

		/* The sum is also correct while the threads run. */
		for (int i = 0; i < 20; i++) {
			struct ka_stats stats = stats_of(scene.heaps[i % 3]);

			EXPECT_TRUE(add_up(&stats));
		}
		pthread_barrier_wait(&scene.barrier);
		for (int i = 0; i < 3 && !wrong; i++) {
			sum_up(&scene, i, &sum);
			wrong = differences(scene.heaps[i], &sum);
		}
		EXPECT_EQ(NULL, wrong) TH_LOG("%s", wrong);
		if (round == ROUNDS - 1)
			break;
		pthread_barrier_wait(&scene.barrier);
	}
	end(&scene, threads);
	for (int i = 0; i < THREADS; i++)
		EXPECT_EQ(0, scene.users[i].refused);
}

TEST_F_TIMEOUT(stats, remotely_freed_blocks_are_exact_after_the_end_of_threads, SLOW)
{
	pthread_t threads[THREADS];
	struct known sum;

	begin(&scene, threads);
	for (int round = 0; round < ROUNDS; round++) {
		pthread_barrier_wait(&scene.barrier);
		for (int i = 0; i < THREADS; i++)
			swap_with_next(&scene.users[i]);
		for (int i = 0; i < 3; i++) {
			struct ka_stats stats = stats_of(scene.heaps[i]);
			size_t blocks = 0;

			EXPECT_TRUE(add_up(&stats));
			sum_up(&scene, i, &sum);
			for (int class = 0; class < CLASSES; class++)
				blocks += sum.blocks[class];
			EXPECT_LE(blocks, stats.blocks);
		}
		if (round < ROUNDS - 1)
			pthread_barrier_wait(&scene.barrier);
	}
	end(&scene, threads);
	for (int i = 0; i < 3; i++) {
		const char *wrong;

		sum_up(&scene, i, &sum);
		wrong = differences(scene.heaps[i], &sum);
		EXPECT_EQ(NULL, wrong) TH_LOG("%s", wrong);
	}
}

TEST_F(stats, empty_heap_and_short_arrays_have_statistics)
{
	struct ka_heap *heap = make(64 * MIB, 0, KA_FORK_COW);
	struct ka_class classes[3] = { [2].size = 7 };
	struct ka_stats stats = stats_of(heap);

	EXPECT_TRUE(add_up(&stats));
	EXPECT_EQ(0, stats.arenas);
	EXPECT_EQ(CLASSES, ka_heap_classes(heap, classes, 0, sizeof(struct ka_class)));
	EXPECT_EQ(0, classes[0].size);
	EXPECT_EQ(CLASSES, ka_heap_classes(heap, classes, 2, sizeof(struct ka_class)));
	EXPECT_EQ(16, classes[0].size);
	EXPECT_EQ(32, classes[1].size);
	EXPECT_EQ(7, classes[2].size);
	EXPECT_EQ(0, classes[0].pools + classes[0].blocks + classes[0].free_blocks);
	ka_heap_destroy(heap);
}

TEST_F(stats, shorter_struct_gets_no_more_members)
{
	struct ka_heap *heap = make(64 * MIB, 0, KA_FORK_COW);
	struct ka_stats stats;

	memset(&stats, 0x55, sizeof(stats));
	stats.size = offsetof(struct ka_stats, used_bytes);
	ASSERT_NE(NULL, ka_heap_malloc(heap, 100));
	ASSERT_EQ(0, ka_heap_stats(heap, &stats));
	EXPECT_EQ(1, stats.blocks);
	EXPECT_EQ(0x5555555555555555UL, stats.used_bytes);
	EXPECT_EQ(0x5555555555555555UL, stats.alignment_bytes);
	ka_heap_destroy(heap);
}

/* Read the text of a heap from a pipe that has room for all of it. */
static void text_of(struct ka_heap *heap, char *text, size_t size)
{
	int ends[2];
	ssize_t length;

	if (pipe(ends) || ka_heap_print_stats(heap, ends[1]))
		abort();
	close(ends[1]);
	length = read(ends[0], text, size - 1);
	text[length > 0 ? length : 0] = 0;
	close(ends[0]);
}

/* Skip a line with this text. Return false if the line differs. */
static bool __attribute__((format(printf, 2, 3)))
eat(char **text, const char *format, ...)
{
	char line[200];
	va_list arguments;
	size_t length;

	va_start(arguments, format);
	vsnprintf(line, sizeof(line), format, arguments);
	va_end(arguments);
	length = strlen(line);
	if (strncmp(*text, line, length) != 0 || (*text)[length] != '\n') {
		fprintf(stderr, "# wanted: %s\n# found:  %.90s\n", line, *text);
		return false;
	}
	*text += length + 1;
	return true;
}

/* A label and a number with commas, in the format of CPython's printone(). */
static bool eat_value(char **text, const char *label, size_t value)
{
	char number[40], with[40] = "";
	size_t length, at = 0;

	length = (size_t)snprintf(number, sizeof(number), "%zu", value);
	for (size_t i = 0; i < length; i++) {
		with[at++] = number[i];
		if ((length - i) % 3 == 1 && i + 1 < length)
			with[at++] = ',';
	}
	return eat(text, "%-35s=%21s", label, with);
}

static bool eat_number(char **text, size_t value, const char *format, size_t number,
		       size_t bytes)
{
	char label[64];

	snprintf(label, sizeof(label), format, number, bytes);
	return eat_value(text, label, value);
}

static bool eat_rows(char **text, const struct ka_class *classes)
{
	if (!eat(text, "Small block threshold = 262144, in 96 size classes.") ||
	    !eat(text, "%s", "") ||
	    !eat(text, "class   size   num pools   blocks in use  avail blocks") ||
	    !eat(text, "-----   ----   ---------   -------------  ------------"))
		return false;
	for (unsigned int i = 0; i < CLASSES; i++) {
		const struct ka_class *class = &classes[i];

		if (class->pools && !eat(text, "%5u %6u %11zu %15zu %13zu", i,
					 (unsigned int)class->size, class->pools,
					 class->blocks, class->free_blocks))
			return false;
	}
	return eat(text, "%s", "");
}

static bool eat_sums(char **text, const struct ka_stats *stats)
{
	size_t total = stats->arenas * KA_ARENA_SIZE;

	return eat_value(text, "# arenas allocated total", stats->arenas_allocated) &&
	       eat_value(text, "# arenas reclaimed", stats->arenas_reclaimed) &&
	       eat_value(text, "# arenas highwater mark", stats->arenas_highwater) &&
	       eat_value(text, "# arenas allocated current", stats->arenas) &&
	       eat_number(text, total, "%zu arenas * %zu bytes/arena", stats->arenas,
			  KA_ARENA_SIZE) &&
	       eat(text, "%s", "") &&
	       eat_value(text, "# bytes in allocated blocks", stats->used_bytes) &&
	       eat_value(text, "# bytes in available blocks", stats->free_bytes) &&
	       eat_number(text, stats->available_bytes, "%zu unused pages * %zu bytes",
			  stats->available_bytes / KA_PAGE_SIZE, KA_PAGE_SIZE) &&
	       eat_value(text, "# bytes lost to pool headers", 0) &&
	       eat_value(text, "# bytes lost to quantization",
			 stats->quantization_bytes) &&
	       eat_value(text, "# bytes lost to arena alignment", 0) &&
	       eat_value(text, "Total", total) && eat(text, "%s", "");
}

TEST_F_TIMEOUT(stats, text_has_exactly_the_documented_layout, SLOW)
{
	struct ka_options options = KA_OPTIONS;
	struct ka_class classes[CLASSES];
	static char text[32768];
	struct ka_stats stats;
	struct ka_heap *heap;
	unsigned int seed = 5;
	char *at = text;

	options.name = "one of text";
	heap = ka_heap_create(&options);
	for (int i = 0; i < 5000; i++) {
		void *block = ka_heap_malloc(heap, any_size(i % 3, &seed));

		ASSERT_NE(NULL, block);
		if (i % 3)
			ka_heap_free(heap, block);
	}
	for (unsigned int i = 0; i < CLASSES; i++)
		ASSERT_NE(NULL, ka_heap_malloc(heap, class_size(i)));
	ka_heap_classes(heap, classes, CLASSES, sizeof(struct ka_class));
	stats = stats_of(heap);
	text_of(heap, text, sizeof(text));
	EXPECT_TRUE(eat(&at, "Heap \"one of text\" of process %d, %s.", (int)getpid(),
			on_device() ? "on the module" : "on plain mmap"));
	EXPECT_TRUE(eat_rows(&at, classes));
	EXPECT_TRUE(eat_sums(&at, &stats));
	EXPECT_TRUE(eat(&at, "runs and metadata"));
	EXPECT_TRUE(eat_value(&at, "# runs that are no pools",
			      stats.runs - stats.pools));
	EXPECT_TRUE(eat_value(&at, "# bytes in these",
			      stats.run_bytes - stats.pool_bytes));
	EXPECT_NE(NULL, strstr(at, "# bytes of metadata "));
	EXPECT_STREQ("\n\n", text + strlen(text) - 2);
	ka_heap_destroy(heap);
}

TEST_F(stats, failed_write_is_an_error)
{
	struct ka_heap *heap = make(64 * MIB, 0, KA_FORK_NONE);
	struct ka_class class;
	pid_t child;

	ASSERT_NE(NULL, heap);
	EXPECT_EQ(-1, ka_heap_print_stats(heap, -1));
	EXPECT_EQ(EBADF, errno);
	EXPECT_NE(NULL, strstr(ka_error(), "cannot be written"));
	child = fork();
	if (!child) {
		CHECK(ka_heap_print_stats(heap, STDERR_FILENO) && errno == EOWNERDEAD);
		errno = 0;
		CHECK(ka_heap_classes(heap, &class, 1, sizeof(class)) == -1 &&
		      errno == EOWNERDEAD);
		_exit(0);
	}
	EXPECT_EQ(0, child_status(child));
	ka_heap_destroy(heap);
}

/* Run a function in a child. Count how often a line occurs on its standard error. */
static int count_lines(void (*run)(struct ka_heap *heap), const char *setting,
		       const char *line)
{
	static char text[200000];
	size_t length = 0;
	int ends[2], count = 0;
	ssize_t more;
	pid_t child;

	if (pipe(ends))
		abort();
	child = fork();
	if (!child) {
		setenv("KARENA_MALLOCSTATS", setting, 1);
		dup2(ends[1], STDERR_FILENO);
		run(make(64 * MIB, 0, KA_FORK_COW));
		exit(0);
	}
	close(ends[1]);
	while ((more = read(ends[0], text + length, sizeof(text) - 1 - length)) > 0)
		length += (size_t)more;
	close(ends[0]);
	text[length] = 0;
	if (child_status(child))
		return -1;
	for (const char *at = text; (at = strstr(at, line)); at++)
		count++;
	return count;
}

/* Three new arenas; then one is released and committed again, and one is for the blocks. */
static void has_arenas(struct ka_heap *heap)
{
	void *runs[3];

	for (int i = 0; i < 3; i++)
		runs[i] = ka_run_alloc(heap, 2 * MIB, 0);
	errno = 7;
	CHECK(!ka_run_free(heap, runs[2]));
	CHECK(!ka_run_free(heap, runs[1]));
	CHECK(ka_run_alloc(heap, 4 * MIB, 0));
	for (int i = 0; i < 1000; i++)
		CHECK(ka_heap_malloc(heap, 100));
	CHECK(errno == 7);
}

static void has_none(struct ka_heap *heap)
{
	CHECK(heap);
}

static void does_not_exit(struct ka_heap *heap)
{
	CHECK(ka_run_alloc(heap, 4 * MIB, 0));
	_exit(0);
}

TEST_F_TIMEOUT(stats, text_is_printed_when_arenas_have_doubled_and_at_exit, SLOW)
{
	static const char head[] = "\nSmall block threshold = 262144, in ";

	EXPECT_EQ(0, count_lines(has_arenas, "", head));
	EXPECT_EQ(0, count_lines(has_arenas, "0", head));
	/* At one, two and four arenas, and at exit. */
	EXPECT_EQ(4, count_lines(has_arenas, "1", head));
	EXPECT_EQ(4, count_lines(has_arenas, "yes", head));
	EXPECT_EQ(1, count_lines(has_none, "1", head));
	EXPECT_EQ(1, count_lines(does_not_exit, "1", head));
	EXPECT_EQ(1, count_lines(does_not_exit, "1",
				 "2 arenas * 2097152 bytes/arena     =            4,194,304\n"));
	EXPECT_EQ(1, count_lines(does_not_exit, "1",
				 "Total                              =            4,194,304\n"));
}

TEST_HARNESS_MAIN
