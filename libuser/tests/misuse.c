// SPDX-License-Identifier: MIT
/*
 * The effect of misuses of malloc: each misuse runs in a child, and its outcome must be the
 * documented one for the malloc in use. The table in Documentation/library.rst is the same.
 * Started alone, or with one of karena's libraries preloaded.
 */
#include <malloc.h>
#include <sys/mman.h>

#include "common.h"

/* Volatile, because the compiler knows malloc and would remove calls. */
static void *(*volatile do_malloc)(size_t size) = malloc;
static void (*volatile do_free)(void *block) = free;
static void *(*volatile do_realloc)(void *block, size_t size) = realloc;

enum malloc_type { GLIBC, KARENA, CHECKED, TYPES };

/* How a child ends. */
enum outcome {
	NOTHING,	/* no effect */
	HARM,		/* the misuse did the damage that it can do */
	CRASH,		/* SIGSEGV or SIGBUS */
	TOLD,		/* a message on standard error, and SIGABRT */
	ANY,		/* depends on neighbouring memory */
	NONE,
};

static const char *const outcomes[] = { "nothing", "harm", "crash", "told", "any", "none" };

static void harm(void)
{
	_exit(HARM);
}

#define SIZE	200		/* of most blocks */
#define MANY	420		/* blocks of several pools */

/* Content of the blocks. No valid chunk of glibc has this size. */
#define CONTENT	0x11

static void *volatile blocks[MANY];

static void allocate_many(size_t size)
{
	for (int i = 0; i < MANY; i++) {
		blocks[i] = do_malloc(size);
		memset(blocks[i], CONTENT, size);
	}
}

static void free_many(void)
{
	for (int i = 0; i < MANY; i++)
		do_free(blocks[i]);
}

/* Allocate many blocks and write to each. Detect an address that was allocated twice. */
static void no_block_twice(size_t size)
{
	allocate_many(size);
	for (int i = 0; i < MANY; i++) {
		for (int j = 0; j < i; j++) {
			if (blocks[i] == blocks[j])
				harm();
		}
	}
}

static void *in_thread(void *data)
{
	void (*work)(void) = data;

	work();
	return NULL;
}

static void in_another_thread(void (*work)(void))
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, in_thread, work))
		abort();
	pthread_join(thread, NULL);
}

/*
 * The third block stays allocated, so that its pool is not empty when the others are freed.
 */
static char *volatile a, *volatile b, *volatile stays;

static void allocate_three(void)
{
	a = memset(do_malloc(SIZE), 1, SIZE);
	b = memset(do_malloc(SIZE), 1, SIZE);
	stays = memset(do_malloc(SIZE), 1, SIZE);
}

static void free_a(void)
{
	do_free(a);
}

static void free_a_b_a(void)
{
	do_free(a);
	do_free(b);
	do_free(a);
}

static void freed_twice_at_once(void)
{
	allocate_three();
	do_free(a);
	do_free(a);
	no_block_twice(SIZE);
}

static void freed_twice_with_another_between(void)
{
	allocate_three();
	free_a_b_a();
	no_block_twice(SIZE);
}

static void freed_twice_by_another_thread(void)
{
	allocate_three();
	in_another_thread(free_a_b_a);
	no_block_twice(SIZE);
}

static void freed_here_and_then_elsewhere(void)
{
	allocate_three();
	do_free(a);
	in_another_thread(free_a);
	no_block_twice(SIZE);
}

static void freed_elsewhere_and_then_here(void)
{
	allocate_three();
	in_another_thread(free_a);
	do_free(a);
	no_block_twice(SIZE);
}

static void freed_and_resized(void)
{
	allocate_three();
	do_free(a);
	do_free(b);
	a = do_realloc(a, SIZE);
	no_block_twice(SIZE);
}

static void take_elsewhere(void)
{
	allocate_many(SIZE);
}

/* For a block that its own thread has allocated last. */
static void the_middle_and_then_all(void)
{
	allocate_many(SIZE);
	do_free((char *)blocks[MANY - 1] + 16);
	free_many();
}

static void the_middle_and_then_malloc(void)
{
	allocate_many(SIZE);
	a = (char *)blocks[MANY - 1] + 16;
	do_free(a);
	if (do_malloc(SIZE) == a)
		harm();
}

static void the_middle_of_anothers(void)
{
	in_another_thread(take_elsewhere);
	do_free((char *)blocks[0] + 16);
	harm();
}

static void not_aligned(void)
{
	allocate_many(SIZE);
	do_free((char *)blocks[MANY - 1] + 1);
	if ((uintptr_t)do_malloc(SIZE) % 16)
		harm();
}

static void not_aligned_and_then_all(void)
{
	allocate_many(SIZE);
	do_free((char *)blocks[MANY - 1] + 1);
	free_many();
}

static void the_middle_resized(void)
{
	allocate_many(SIZE);
	if (do_realloc((char *)blocks[MANY - 1] + 16, 2 * SIZE))
		harm();
}

static void of_the_stack(void)
{
	char bytes[256] __attribute__((aligned(16)));

	memset(bytes, CONTENT, sizeof(bytes));
	do_free(bytes + 16);
	harm();
}

static void of_a_mapping(void)
{
	char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	do_free(page + 64);
	harm();
}

static void of_nothing(void)
{
	do_free((void *)0x10000000010);
	harm();
}

/* Two neighbours among the blocks that were allocated last. */
#define LAST	(MANY - 10)

static char *lower, *upper;

static void find_neighbours(void)
{
	size_t least = SIZE_MAX;

	for (int i = LAST; i < MANY; i++) {
		for (int j = LAST; j < MANY; j++) {
			size_t distance = (uintptr_t)blocks[j] - (uintptr_t)blocks[i];

			if (i != j && distance < least) {
				least = distance;
				lower = blocks[i];
				upper = blocks[j];
			}
		}
	}
}

static void written_a_byte_too_far(void)
{
	allocate_many(SIZE);
	find_neighbours();
	lower[malloc_usable_size(lower)] = 0;
	if (*upper != CONTENT)
		harm();
	free_many();
}

/* An address that an attacker would like malloc to return. */
static char target[512] __attribute__((aligned(16)));

static void written_by_attacker(void *at, size_t size)
{
	char *page = (char *)((uintptr_t)at >> 12);

	/*
	 * For glibc the decoded link is never aligned, so glibc never continues by chance.
	 */
	for (size_t i = 0; i < size / sizeof(void *); i++)
		((void **)at)[i] = target + (((uintptr_t)page & 15) ^ 8);
	for (int i = 0; i < MANY; i++) {
		char *block = do_malloc(SIZE);

		if (block >= target && block < target + sizeof(target))
			harm();
	}
}

static void written_into_a_free_neighbour(void)
{
	allocate_many(SIZE);
	find_neighbours();
	do_free((void *)(blocks[LAST] == upper ? blocks[LAST + 1] : blocks[LAST]));
	do_free(upper);
	written_by_attacker(upper, 32);
}

static void written_after_free(void)
{
	allocate_three();
	do_free(b);
	do_free(a);
	written_by_attacker(a, 32);
}

static void content_written_after_free(void)
{
	allocate_three();
	do_free(a);
	memset(a + 32, 'w', 32);
	for (int i = 0; i < MANY; i++) {
		char *block = do_malloc(SIZE);

		if (block == a && block[40] == 'w')
			harm();
		memset(block, 0, SIZE);
	}
}

static void old_content_read(void)
{
	allocate_three();
	memset(a, 's', SIZE);
	do_free(a);
	for (int i = 0; i < MANY; i++) {
		char *block = do_malloc(SIZE);

		if (block[64] == 's')
			harm();
		memset(block, 0, SIZE);
	}
}

/*
 * Count how often the next block follows the last one in memory, over more than 50 pools, each of
 * which goes up or down by chance.
 */
#define GUESSES	4200

static void next_address_guessed(void)
{
	char *last = do_malloc(SIZE), *next;
	int right = 0;

	allocate_many(SIZE);
	find_neighbours();
	for (int i = 0; i < GUESSES; i++) {
		next = do_malloc(SIZE);
		right += next - last == upper - lower;
		last = next;
	}
	if (right > GUESSES * 8 / 10)
		harm();
}

static void large_one_overrun(void)
{
	char *large[3];

	for (int i = 0; i < 3; i++)
		large[i] = memset(do_malloc(400000), 1, 400000);
	memset(large[1], 2, malloc_usable_size(large[1]) + 64);
	memset(large[0], 2, malloc_usable_size(large[0]) + 64);
	if (large[1][0] != 2 || large[2][0] != 1)
		harm();
}

static const struct misuse {
	const char *name;
	void (*commit)(void);
	enum outcome expected[TYPES];
} misuses[] = {
	{ "free(a), free(a)", freed_twice_at_once, { TOLD, TOLD, TOLD } },
	{ "free(a), free(b), free(a)", freed_twice_with_another_between, { TOLD, TOLD, TOLD } },
	{ "the same by another thread", freed_twice_by_another_thread, { TOLD, TOLD, TOLD } },
	{ "free(a), another thread's free(a)", freed_here_and_then_elsewhere,
	  { TOLD, TOLD, TOLD } },
	{ "another thread's free(a), free(a)", freed_elsewhere_and_then_here,
	  { TOLD, TOLD, TOLD } },
	{ "free(a), realloc(a)", freed_and_resized, { NOTHING, TOLD, TOLD } },
	{ "free(a + 16), and then all blocks", the_middle_and_then_all, { TOLD, TOLD, TOLD } },
	{ "free(a + 16), malloc", the_middle_and_then_malloc, { TOLD, HARM, TOLD } },
	{ "free(a + 16) of another thread's", the_middle_of_anothers, { TOLD, TOLD, TOLD } },
	{ "free(a + 1), and then all blocks", not_aligned_and_then_all, { TOLD, TOLD, TOLD } },
	{ "free(a + 1), malloc", not_aligned, { TOLD, HARM, TOLD } },
	{ "realloc(a + 16)", the_middle_resized, { TOLD, TOLD, TOLD } },
	{ "an address of the stack", of_the_stack, { TOLD, TOLD, TOLD } },
	{ "an address of a mapping", of_a_mapping, { TOLD, TOLD, TOLD } },
	{ "an address of nothing", of_nothing, { CRASH, TOLD, TOLD } },
	{ "a byte behind the end", written_a_byte_too_far, { TOLD, HARM, TOLD } },
	{ "into the link of a free block", written_into_a_free_neighbour,
	  { TOLD, HARM, TOLD } },
	{ "into the link after free", written_after_free, { TOLD, HARM, TOLD } },
	{ "into the rest after free", content_written_after_free, { HARM, HARM, TOLD } },
	{ "old content read", old_content_read, { HARM, HARM, NOTHING } },
	{ "the next address guessed", next_address_guessed, { HARM, NOTHING, NOTHING } },
	{ "64 bytes behind a large block's end", large_one_overrun, { ANY, ANY, CRASH } },
};

#define NR_MISUSES	(sizeof(misuses) / sizeof(*misuses))

/* The malloc of this program. */
static enum malloc_type malloc_in_use(void)
{
	const char *preload = getenv("LD_PRELOAD");

	if (!preload || !strstr(preload, "libkarena-malloc"))
		return GLIBC;
	return in_checked_build() ? CHECKED : KARENA;
}

static enum outcome outcome_of(const struct misuse *misuse, char *message, size_t size)
{
	int ends[2], status;
	ssize_t said;
	pid_t child;

	if (pipe(ends))
		abort();
	child = fork();
	if (!child) {
		dup2(ends[1], STDERR_FILENO);
		die_of_signals();
		misuse->commit();
		_exit(NOTHING);
	}
	close(ends[1]);
	said = read(ends[0], message, size - 1);
	message[said > 0 ? said : 0] = '\0';
	close(ends[0]);
	status = child_status(child);
	if (status == 128 + SIGABRT)
		return said > 0 ? TOLD : NONE;
	if (status == 128 + SIGSEGV || status == 128 + SIGBUS)
		return CRASH;
	return status <= HARM ? (enum outcome)status : NONE;
}

TEST(each_misuse_has_the_documented_outcome)
{
	enum malloc_type type = malloc_in_use();
	char message[400];

	NOT_WITH_VALGRIND("finds them itself");
	for (size_t i = 0; i < NR_MISUSES; i++) {
		enum outcome outcome = outcome_of(&misuses[i], message, sizeof(message));

		TH_LOG("%s: %s; %s", misuses[i].name, outcomes[outcome], message);
		if (misuses[i].expected[type] != ANY)
			EXPECT_EQ(misuses[i].expected[type], outcome);
		if (outcome == TOLD && type != GLIBC)
			EXPECT_EQ(0, strncmp(message, "karena: ", 8));
	}
}

TEST_HARNESS_MAIN
