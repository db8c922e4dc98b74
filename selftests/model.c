// SPDX-License-Identifier: GPL-2.0
/*
 * Random commits and releases by several threads, in every possible way, compared with a
 * model of which pages are committed and what they contain. Some arenas belong to one
 * thread; the pages of the others are divided among the threads. KARENA_SECONDS is the
 * duration, KARENA_SEED the first seed.
 */
#include <pthread.h>
#include <sys/uio.h>

#include "common.h"

#define NR_THREADS	4
#define NR_OWN		3	/* private arenas of each thread */
#define NR_SHARED	4
#define NR_ARENAS	(NR_SHARED + NR_THREADS * NR_OWN)
#define PAGES		512
#define DEFAULT_SECONDS	4
#define PATIENCE	30

/* Content of a page: not committed, zeros, or words derived from its stamp. */
#define GONE		1ULL
#define ZERO		0ULL

static struct heap heap;
static uint64_t model[NR_ARENAS][PAGES];
static pthread_rwlock_t locks[NR_SHARED];

struct player {
	pthread_t thread;
	int number;
	unsigned int seed;
	time_t until;
	uint64_t stamp;
	int huge[NR_OWN];	/* private arenas; 1: huge, 0: sparse, -1: no memory */
	long steps;
	char wrong[160];	/* the first error */
};

#define WRONG(_player, _format, ...)					\
	do {								\
		if (!(_player)->wrong[0])				\
			snprintf((_player)->wrong, sizeof((_player)->wrong), \
				 "step %ld: " _format, (_player)->steps, \
				 ##__VA_ARGS__);			\
	} while (0)

static unsigned int draw(struct player *player, unsigned int below)
{
	return rand_r(&player->seed) / 7 % below;
}

/* In the second half of the shared arenas, thread 0 owns most pages. */
static bool owns(const struct player *player, int index, int page)
{
	int part = page / 16;

	if (index >= NR_SHARED)
		return (index - NR_SHARED) / NR_OWN == player->number;
	if (index < NR_SHARED / 2)
		return part % NR_THREADS == player->number;
	return (part % 3 ? 0 : part / 3 % NR_THREADS) == player->number;
}

static int *huge_of(struct player *player, int index)
{
	return &player->huge[(index - NR_SHARED) % NR_OWN];
}

static bool shared(int index)
{
	return index < NR_SHARED;
}

/* Only one thread at a time may set the state word of a shared arena. */
static void lock(int index, bool alone)
{
	if (!shared(index))
		return;
	if (alone)
		pthread_rwlock_wrlock(&locks[index]);
	else
		pthread_rwlock_rdlock(&locks[index]);
}

static void unlock(int index)
{
	if (shared(index))
		pthread_rwlock_unlock(&locks[index]);
}

static uint64_t *page_at(int index, int page)
{
	return (uint64_t *)(arena(&heap, index) + page * PAGE);
}

static uint64_t word_of(uint64_t stamp, size_t i)
{
	return stamp == ZERO ? 0 : stamp * 0x9e3779b97f4a7c15ULL + i;
}

static void write_page(struct player *player, int index, int page)
{
	uint64_t *words = page_at(index, page);
	uint64_t stamp;

	player->stamp += 2 * NR_THREADS;
	stamp = player->stamp + 2 * player->number + 2;
	for (size_t i = 0; i < PAGE / sizeof(*words); i++)
		words[i] = word_of(stamp, i);
	model[index][page] = stamp;
}

/* Return true if a page is committed. Unlike a load, this raises no signal. */
static bool present(int index, int page)
{
	char byte;
	struct iovec local = { &byte, 1 }, remote = { page_at(index, page), 1 };

	return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == 1;
}

static void check_page(struct player *player, int index, int page)
{
	uint64_t stamp = model[index][page], *words = page_at(index, page);
	bool gone = stamp == GONE;
	uint64_t wrong = 0;

	if (present(index, page) == gone) {
		WRONG(player, "page %d of arena %d is%s committed", page, index,
		      gone ? "" : " not");
		return;
	}
	if (gone)
		return;
	for (size_t i = 0; i < PAGE / sizeof(*words); i++)
		wrong |= words[i] ^ word_of(stamp, i);
	if (wrong)
		WRONG(player, "page %d of arena %d holds %llx, not %llx", page,
		      index, (unsigned long long)words[0],
		      (unsigned long long)word_of(stamp, 0));
}

static void check_arena(struct player *player, int index)
{
	for (int page = 0; page < PAGES; page++) {
		if (owns(player, index, page))
			check_page(player, index, page);
	}
}

static void check_word(struct player *player, int index)
{
	uint32_t word = state(&heap, index);
	int huge = *huge_of(player, index);
	uint32_t expected = huge < 0 ? KARENA_FREE : huge ? KARENA_ACTIVE :
			    KARENA_ACTIVE | KARENA_SPARSE;

	if (word != expected)
		WRONG(player, "arena %d's word is %x, not %x", index, word, expected);
}

/* Some of the player's pages in one arena, and the ranges that they form. */
struct choice {
	int index;
	bool chosen[PAGES];
	int count;
	struct karena_range ranges[PAGES / 2 + 1];
	int nr;
};

static void choose_pages(struct player *player, struct choice *choice, int runs,
			 int most)
{
	memset(choice->chosen, 0, sizeof(choice->chosen));
	for (int i = 0; i < runs; i++) {
		int first = draw(player, PAGES), length = 1 + draw(player, most);

		for (int page = first; page < first + length && page < PAGES; page++)
			choice->chosen[page] = owns(player, choice->index, page);
	}
}

static void make_ranges(struct choice *choice)
{
	choice->nr = 0;
	choice->count = 0;
	for (int page = 0; page < PAGES; page++) {
		struct karena_range *last = &choice->ranges[choice->nr - 1];
		uint64_t offset = choice->index * ARENA + page * PAGE;

		if (!choice->chosen[page])
			continue;
		choice->count++;
		if (choice->nr && last->offset + last->length == offset)
			last->length += PAGE;
		else
			choice->ranges[choice->nr++] = (struct karena_range){
				.offset = offset, .length = PAGE, .result = 4711
			};
	}
}

static int choose_arena(struct player *player)
{
	int index = draw(player, NR_SHARED + NR_OWN);

	return index < NR_SHARED ? index : index + player->number * NR_OWN;
}

/* One call with a list, or one madvise() for each range. */
static int apply(struct choice *choice, bool by_call, unsigned int cmd)
{
	int advice = cmd == KARENA_COMMIT ? MADV_POPULATE_WRITE : MADV_REMOVE;

	if (by_call)
		return heap_ranges(&heap, cmd, choice->ranges, choice->nr);
	for (int i = 0; i < choice->nr; i++) {
		if (madvise(heap.window + choice->ranges[i].offset,
			    choice->ranges[i].length, advice))
			return -errno;
	}
	return 0;
}

static int commit_by_madvise(struct choice *choice)
{
	uint32_t before = state(&heap, choice->index), after;
	int err;

	after = before == KARENA_ACTIVE ? before : KARENA_ACTIVE | KARENA_SPARSE;
	set_state(&heap, choice->index, 1, KARENA_REQUESTED | KARENA_SPARSE);
	err = apply(choice, false, KARENA_COMMIT);
	set_state(&heap, choice->index, 1, after);
	return err;
}

static bool all_gone(int index)
{
	for (int page = 0; page < PAGES; page++) {
		if (model[index][page] != GONE)
			return false;
	}
	return true;
}

static void commit_some(struct player *player, struct choice *choice)
{
	bool by_call = draw(player, 2);
	bool empty = !shared(choice->index) && all_gone(choice->index);
	int err;

	lock(choice->index, !by_call);
	err = by_call ? apply(choice, true, KARENA_COMMIT) :
			commit_by_madvise(choice);
	unlock(choice->index);
	if (err)
		WRONG(player, "commit in arena %d: %s", choice->index, strerror(-err));
	/* An empty arena gets a huge frame if all of its pages are committed at once. */
	if (empty)
		*huge_of(player, choice->index) = choice->count == PAGES && by_call;
	for (int page = 0; page < PAGES; page++) {
		if (!choice->chosen[page])
			continue;
		if (model[choice->index][page] == GONE)
			model[choice->index][page] = ZERO;
		check_page(player, choice->index, page);
	}
}

/*
 * The state of a released page of a shared arena depends on the other threads: not
 * committed if the arena is sparse already, cleared if it is still huge.
 */
static void released_page(struct player *player, int index, int page)
{
	bool huge = shared(index) ? present(index, page) :
				    *huge_of(player, index) == 1;

	model[index][page] = huge ? ZERO : GONE;
	check_page(player, index, page);
}

static void release_some(struct player *player, struct choice *choice)
{
	/* The pages of a list count together. Other ranges count one by one. */
	bool by_call = choice->nr > 1 || draw(player, 2);
	int *huge = huge_of(player, choice->index), err;

	lock(choice->index, false);
	err = apply(choice, by_call, KARENA_RELEASE);
	unlock(choice->index);
	if (err)
		WRONG(player, "release in arena %d: %s", choice->index, strerror(-err));
	if (!shared(choice->index)) {
		if (choice->count == PAGES)
			*huge = -1;
		else if (choice->count >= PAGES / 2 && *huge == 1)
			*huge = 0;
	}
	for (int page = 0; page < PAGES; page++) {
		if (choice->chosen[page])
			released_page(player, choice->index, page);
	}
}

static void write_some(struct player *player, struct choice *choice)
{
	for (int page = 0; page < PAGES; page++) {
		if (choice->chosen[page] && model[choice->index][page] != GONE)
			write_page(player, choice->index, page);
	}
}

/* Commit a private arena completely. Until then the word is REQUESTED. */
static void commit_whole(struct player *player, int index)
{
	int *huge = huge_of(player, index);
	bool had_pages = !all_gone(index);
	int err;

	err = draw(player, 2) ? heap_commit(&heap, index, 1) :
	      heap_range(&heap, KARENA_COMMIT, index * ARENA, ARENA);
	if (err)
		WRONG(player, "commit of arena %d: %s", index, strerror(-err));
	/* After madvise() on a huge arena, the word is as this thread wrote it. */
	if (state(&heap, index) == KARENA_REQUESTED)
		set_state(&heap, index, 1, *huge == 1 ? KARENA_ACTIVE :
			  KARENA_ACTIVE | KARENA_SPARSE);
	if (!had_pages)
		*huge = 1;
	for (int page = 0; page < PAGES; page++) {
		if (model[index][page] == GONE)
			model[index][page] = ZERO;
	}
	check_arena(player, index);
}

/* All threads do this, so any of the arenas may be reclaimed. */
static void lend(struct player *player, int index)
{
	uint32_t before = state(&heap, index), word = make_volatile(&heap, index);
	uint32_t found;

	if (draw(player, 4) == 0)
		shrink_everything();
	do {
		found = word;
		if (__atomic_compare_exchange_n(&heap.states[index], &found, before,
						false, __ATOMIC_ACQ_REL,
						__ATOMIC_ACQUIRE))
			break;
		/* BUSY: the kernel either reclaims the arena or restores the word. */
		sched_yield();
	} while (found != KARENA_FREE);
	if (found == KARENA_FREE) {
		*huge_of(player, index) = -1;
		for (int page = 0; page < PAGES; page++)
			model[index][page] = GONE;
	}
	check_arena(player, index);
}

static void own_step(struct player *player, int index)
{
	struct choice choice = { .index = index };

	switch (draw(player, 4)) {
	case 0:
		commit_whole(player, index);
		break;
	case 1:
		/* Release most of a huge arena, so that it becomes sparse. */
		choose_pages(player, &choice, 3, PAGES);
		make_ranges(&choice);
		release_some(player, &choice);
		break;
	case 2:
		memset(choice.chosen, 1, sizeof(choice.chosen));
		make_ranges(&choice);
		release_some(player, &choice);
		break;
	default:
		if (*huge_of(player, index) >= 0)
			lend(player, index);
		break;
	}
}

static void step(struct player *player)
{
	struct choice choice = { .index = choose_arena(player) };
	unsigned int what = draw(player, 8);

	if (what == 0 && !shared(choice.index)) {
		own_step(player, choice.index);
	} else {
		choose_pages(player, &choice, 1 + draw(player, 5),
			     draw(player, 4) ? 24 : PAGES);
		make_ranges(&choice);
		if (!choice.nr)
			return;
		if (what < 3)
			commit_some(player, &choice);
		else if (what < 5)
			release_some(player, &choice);
		else
			write_some(player, &choice);
	}
	for (int i = 0; i < 4; i++) {
		int index = choose_arena(player), page = draw(player, PAGES);

		if (owns(player, index, page))
			check_page(player, index, page);
	}
	if (!shared(choice.index))
		check_word(player, choice.index);
	player->steps++;
}

/* A slow machine needs longer until an arena has been demoted. */
static bool goes_on(const struct player *player)
{
	time_t now = time(NULL);

	return !player->wrong[0] && (now < player->until ||
	       (now < player->until + PATIENCE && !heap_stat(&heap, "demoted")));
}

static void *play(void *data)
{
	struct player *player = data;

	while (goes_on(player)) {
		step(player);
		if (player->steps % 64 == 0)
			check_arena(player, choose_arena(player));
	}
	for (int index = 0; index < NR_ARENAS; index++)
		check_arena(player, index);
	return NULL;
}

/* Expected statistics according to the model and the state words. */
static void sum_up(long *huge, long *sparse, long *pages)
{
	for (int index = 0; index < NR_ARENAS; index++) {
		long count = 0;

		for (int page = 0; page < PAGES; page++)
			count += model[index][page] != GONE;
		if (state(&heap, index) == KARENA_ACTIVE) {
			*huge += 1;
		} else {
			*sparse += count > 0;
			*pages += count;
		}
	}
}

static unsigned int number_of(const char *variable, unsigned int otherwise)
{
	const char *text = getenv(variable);

	return text ? strtoul(text, NULL, 0) : otherwise;
}

FIXTURE(model) {
	struct player players[NR_THREADS];
	unsigned int seed;
	unsigned int seconds;
};

FIXTURE_SETUP(model)
{
	REQUIRE_MODULE();
	self->seed = number_of("KARENA_SEED", time(NULL) ^ getpid());
	self->seconds = number_of("KARENA_SECONDS", DEFAULT_SECONDS *
				 (kernel_is_slow() ? 5 : 1));
	TH_LOG("KARENA_SEED=%u", self->seed);
	/* The timeout of the harness does not know the duration of this test. */
	alarm(self->seconds + PATIENCE + SLOW);
	ASSERT_EQ(0, heap_open(&heap, NR_ARENAS * ARENA, 0));
	memset(model, 0, sizeof(model));
	/* Every other shared arena is huge at first. */
	for (int index = 0; index < NR_ARENAS; index++) {
		if (shared(index) && index % 2) {
			ASSERT_EQ(0, heap_commit(&heap, index, 1));
			continue;
		}
		for (int page = 0; page < PAGES; page++)
			model[index][page] = GONE;
	}
	for (int i = 0; i < NR_SHARED; i++)
		pthread_rwlock_init(&locks[i], NULL);
}

FIXTURE_TEARDOWN(model)
{
	heap_destroy(&heap);
	EXPECT_TRUE(module_stat_becomes("committed", 0));
	EXPECT_EQ(0, module_stat("sparse_pages"));
	EXPECT_TRUE(module_stat_becomes("pinned_orphans", 0));
}

TEST_F_TIMEOUT(model, every_page_agrees_with_the_model, 24 * 3600)
{
	long huge = 0, sparse = 0, pages = 0;

	for (int i = 0; i < NR_THREADS; i++) {
		struct player *player = &self->players[i];

		*player = (struct player){
			.number = i, .seed = self->seed + i,
			.until = time(NULL) + self->seconds,
			.huge = { -1, -1, -1 },
		};
		pthread_create(&player->thread, NULL, play, player);
	}
	for (int i = 0; i < NR_THREADS; i++) {
		struct player *player = &self->players[i];

		pthread_join(player->thread, NULL);
		TH_LOG("thread %d: %ld steps%s%s", i, player->steps,
		       player->wrong[0] ? "; " : "", player->wrong);
		EXPECT_EQ(0, player->wrong[0]);
		EXPECT_GT(player->steps, 0);
	}
	/* Free the memory that was still referenced when it was released. */
	EXPECT_EQ(0, heap_ranges(&heap, KARENA_RELEASE, NULL, 0));
	sum_up(&huge, &sparse, &pages);
	TH_LOG("%ld huge arenas, %ld sparse arenas with %ld pages, %ld demoted, %ld reclaimed",
	       huge, sparse, pages, heap_stat(&heap, "demoted"),
	       heap_stat(&heap, "reclaimed"));
	EXPECT_EQ(huge, heap_stat(&heap, "huge_arenas"));
	EXPECT_EQ(sparse, heap_stat(&heap, "sparse_arenas"));
	EXPECT_EQ(pages, heap_stat(&heap, "sparse_pages"));
	EXPECT_EQ(huge * (long)ARENA + pages * (long)PAGE,
		  heap_stat(&heap, "committed"));
	EXPECT_GT(heap_stat(&heap, "demoted"), 0);
}

TEST_HARNESS_MAIN
