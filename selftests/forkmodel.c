// SPDX-License-Identifier: GPL-2.0
/*
 * A random tree of processes with a copy-on-write heap. Each process has a model in private
 * memory of what every page must contain. A fork copies that memory in the same way as the
 * heap, so no process needs to ask another. KARENA_SECONDS is the duration, KARENA_SEED the
 * first seed.
 */
#include "family.h"

#define NR_ARENAS	6
#define DEFAULT_SECONDS	20

/* Content of a page: not committed, zeros, or words derived from its stamp. */
#define GONE		1ULL
#define ZERO		0ULL

/* All of these are private to a process. */
static struct heap heap;
static uint64_t stamps[NR_ARENAS][PAGES];
static uint64_t patches[NR_ARENAS][PAGES];	/* one word that differs; or 0 */
static uint32_t lent[NR_ARENAS];		/* state word of a volatile arena; or 0 */
static uint64_t last_stamp;
static unsigned int seed;
static long steps;
static bool wrong;

/* The last operations of this process and its ancestors, printed when a check fails. */
#define NR_DEEDS	40

static char deeds[NR_DEEDS][80];
static unsigned int nr_deeds;

#define NOTE(_format, ...)						\
	snprintf(deeds[nr_deeds++ % NR_DEEDS], sizeof(deeds[0]),	\
		 "process %d, step %ld: " _format, family.self, steps,	\
		 ##__VA_ARGS__)

static void tell_deeds(void)
{
	for (unsigned int i = nr_deeds; i < nr_deeds + NR_DEEDS; i++)
		fprintf(stderr, "# %s\n", deeds[i % NR_DEEDS]);
}

#define WRONG(_format, ...)						\
	do {								\
		if (wrong)						\
			break;						\
		wrong = true;						\
		NOTE("wrong: " _format, ##__VA_ARGS__);			\
		tell_deeds();						\
	} while (0)

static unsigned int draw(unsigned int below)
{
	return rand_r(&seed) / 7 % below;
}

static uint64_t *words_at(int index, int number)
{
	return (uint64_t *)page(&heap, index, number);
}

static size_t patch_place(int index, int number)
{
	return (index * 101 + number * 37) % (PAGE / sizeof(uint64_t));
}

static uint64_t word_of(uint64_t stamp, size_t i)
{
	return stamp == ZERO ? 0 : stamp * 0x9e3779b97f4a7c15ULL + i;
}

/* No two processes ever write the same stamp. */
static uint64_t new_stamp(void)
{
	last_stamp += 2;
	return ((uint64_t)getpid() << 40) + last_stamp;
}

/* Count the wrong words of a page; or return minus the signal. */
__attribute__((noinline))
static int page_differs(int index, int number)
{
	uint64_t *words = words_at(index, number), stamp = stamps[index][number];
	size_t patched = patch_place(index, number);
	int signal = sigsetjmp(touch_jump, 1), count = 0;

	if (signal)
		return -signal;
	for (size_t i = 0; i < PAGE / sizeof(*words); i++) {
		if (i == patched && patches[index][number])
			count += words[i] != patches[index][number];
		else
			count += words[i] != word_of(stamp, i);
	}
	return count;
}

static void check_page(int index, int number)
{
	bool gone = stamps[index][number] == GONE;
	int differs;

	if (lent[index])
		return;
	differs = page_differs(index, number);
	if (gone ? differs != -SIGBUS : differs)
		WRONG("page %d of arena %d, word %x: %d, should be %llx", number, index,
		      state(&heap, index), differs,
		      (unsigned long long)stamps[index][number]);
}

/* Check a sample of the pages, since checking all after each step takes too long. */
static void check_some(int index, int first, int count)
{
	int stride = 1 + count / 24;

	for (int i = first + draw(stride); i < first + count; i += stride)
		check_page(index, i);
}

static void check_all(void)
{
	for (int index = 0; index < NR_ARENAS; index++) {
		for (int number = 0; number < PAGES; number++)
			check_page(index, number);
	}
}

static void set_page(int index, int number, uint64_t stamp)
{
	stamps[index][number] = stamp;
	patches[index][number] = 0;
}

static void set_arena(int index, uint64_t stamp)
{
	for (int number = 0; number < PAGES; number++)
		set_page(index, number, stamp);
}

static bool all_gone(int index)
{
	for (int number = 0; number < PAGES; number++) {
		if (stamps[index][number] != GONE)
			return false;
	}
	return true;
}

static void write_page(int index, int number)
{
	uint64_t *words = words_at(index, number), stamp = new_stamp();

	for (size_t i = 0; i < PAGE / sizeof(*words); i++)
		words[i] = word_of(stamp, i);
	set_page(index, number, stamp);
}

/* Write one word. A copy must preserve the rest of the page. */
static void patch_page(int index, int number)
{
	uint64_t stamp = new_stamp();

	words_at(index, number)[patch_place(index, number)] = stamp;
	patches[index][number] = stamp;
}

static void write_some(int index)
{
	int first = draw(PAGES), count = 1 + draw(draw(4) ? 8 : PAGES);
	bool whole = draw(2);

	NOTE("write to %d, %d+%d, %s", index, first, count, whole ? "whole" : "words");
	for (int i = first; i < first + count && i < PAGES; i++) {
		if (stamps[index][i] == GONE)
			continue;
		if (whole)
			write_page(index, i);
		else
			patch_page(index, i);
	}
}

static void committed(int index, int first, int count)
{
	for (int i = first; i < first + count; i++) {
		if (stamps[index][i] == GONE)
			set_page(index, i, ZERO);
	}
	check_some(index, first, count);
}

/* With madvise(), the state word is the request, and afterwards the state. */
static int commit_by_advice(int index, int first, int count)
{
	int err;

	set_state(&heap, index, 1, count == PAGES ? KARENA_REQUESTED :
		  KARENA_REQUESTED | KARENA_SPARSE);
	err = madvise(page(&heap, index, first), count * PAGE, MADV_POPULATE_WRITE) ?
	      -errno : 0;
	if (KARENA_STATE(state(&heap, index)) == KARENA_REQUESTED)
		set_state(&heap, index, 1, KARENA_ACTIVE | KARENA_SPARSE);
	return err;
}

static void commit_pages_of(int index)
{
	int first = draw(PAGES), count = 1 + draw(draw(4) ? 32 : PAGES), err;

	if (!draw(3)) {
		first = 0;
		count = PAGES;
	}
	if (first + count > PAGES)
		count = PAGES - first;
	NOTE("commit in %d, %d+%d, word %x", index, first, count, state(&heap, index));
	/* madvise() commits only free and sparse arenas. */
	err = draw(2) && state(&heap, index) != KARENA_ACTIVE ?
	      commit_by_advice(index, first, count) :
	      call_pages(&heap, KARENA_COMMIT, index, first, count);
	if (err)
		WRONG("commit in arena %d: %s", index, strerror(-err));
	committed(index, first, count);
}

/* The state word tells whether the pages were cleared or released. */
static void released(int index, int first, int count, uint32_t before)
{
	uint32_t after = state(&heap, index);

	if (before == KARENA_ACTIVE && count < PAGES / 2 && after != KARENA_ACTIVE)
		WRONG("%d pages make arena %d sparse", count, index);
	if (before == KARENA_ACTIVE && count >= PAGES / 2 && after == KARENA_ACTIVE)
		WRONG("%d pages do not make arena %d sparse", count, index);
	for (int i = first; i < first + count; i++) {
		if (stamps[index][i] != GONE)
			set_page(index, i, after == KARENA_ACTIVE ? ZERO : GONE);
	}
	check_some(index, first, count);
}

static void release_pages_of(int index)
{
	int first = draw(PAGES), count = 1 + draw(draw(2) ? 32 : PAGES), err;
	uint32_t before = state(&heap, index);

	if (!draw(4)) {
		first = 0;
		count = PAGES;
	}
	if (first + count > PAGES)
		count = PAGES - first;
	NOTE("release in %d, %d+%d, word %x", index, first, count, before);
	err = draw(2) ? release_pages(&heap, index, first, count) :
	      call_pages(&heap, KARENA_RELEASE, index, first, count);
	if (err)
		WRONG("release in arena %d: %s", index, strerror(-err));
	released(index, first, count, before);
}

static void make_arena_volatile(int index)
{
	if (all_gone(index))
		return;
	/*
	 * The other bits of the word are a time, so the model must remember that an arena
	 * is sparse.
	 */
	if (state(&heap, index) != KARENA_ACTIVE &&
	    state(&heap, index) != (KARENA_ACTIVE | KARENA_SPARSE))
		WRONG("arena %d has pages, but the word %x", index, state(&heap, index));
	NOTE("make %d volatile, word %x", index, state(&heap, index));
	lent[index] = make_volatile(&heap, index);
}

static void reuse_arena(int index, uint32_t active)
{
	uint32_t found;

	do {
		found = lent[index];
		if (__atomic_compare_exchange_n(&heap.states[index], &found, active,
						false, __ATOMIC_ACQ_REL,
						__ATOMIC_ACQUIRE))
			break;
		/* BUSY: the kernel either reclaims the arena or restores the word. */
		sched_yield();
	} while (found != KARENA_FREE && (found == KARENA_BUSY || found == lent[index]));
	if (found == KARENA_FREE)
		set_arena(index, GONE);
	else if (found != lent[index])
		WRONG("arena %d was volatile, and has the word %x", index, found);
	lent[index] = 0;
	NOTE("reuse %d: %s", index, found == KARENA_FREE ? "gone" : "intact");
	check_some(index, 0, PAGES);
}

/* The state word before the arena became volatile. Only the process remembers it. */
static uint32_t words_before[NR_ARENAS];

static void make_volatile_or_reuse(int index)
{
	if (lent[index]) {
		reuse_arena(index, words_before[index]);
		return;
	}
	words_before[index] = state(&heap, index);
	make_arena_volatile(index);
}

static void map_in_place(void)
{
	int first = draw(NR_ARENAS), count = 1 + draw(NR_ARENAS - first);
	long err = renew(&heap, first, count, 0);

	NOTE("mmap of %d, %d arenas", first, count);
	if (err)
		WRONG("mmap of %d arenas at %d: %s", count, first, strerror(-err));
}

static void use(int index)
{
	switch (draw(16)) {
	case 0:
	case 1:
		commit_pages_of(index);
		break;
	case 2:
	case 3:
		release_pages_of(index);
		break;
	case 4:
		make_volatile_or_reuse(index);
		break;
	case 5:
		NOTE("drop page tables of %d", index);
		madvise(page(&heap, index, draw(PAGES / 2)), PAGES / 2 * PAGE,
			MADV_DONTNEED);
		break;
	case 6:
		check_some(index, 0, PAGES);
		break;
	default:
		write_some(index);
		break;
	}
}

static void step(void)
{
	int index = draw(NR_ARENAS);

	if (!draw(24)) {
		map_in_place();
	} else if (lent[index]) {
		if (!draw(4))
			make_volatile_or_reuse(index);
		else if (!draw(60))
			write_text("/proc/sys/vm/drop_caches", "2\n");
	} else {
		use(index);
	}
	for (int i = 0; i < 4; i++)
		check_page(draw(NR_ARENAS), draw(PAGES));
	steps++;
}

/* Return the number of steps since birth, or -1 after an error. */
static long live(struct heap *unused, long count, long with, long c)
{
	(void)unused;
	(void)c;
	seed = with;
	while (count-- && !wrong)
		step();
	return wrong ? -1 : steps;
}

/* The first process of a tree creates the heap. */
static long found(struct heap *unused, long a, long b, long c)
{
	(void)unused, (void)a, (void)b, (void)c;
	if (heap_open(&heap, NR_ARENAS * ARENA, 0))
		return -1;
	for (int index = 0; index < NR_ARENAS; index++)
		set_arena(index, GONE);
	return 0;
}

/* A child has what the parent had, except volatile arenas. */
static long born(struct heap *unused, long parent, long b, long c)
{
	(void)unused, (void)b, (void)c;
	NOTE("born of process %ld", parent);
	steps = 0;
	for (int index = 0; index < NR_ARENAS; index++) {
		if (!lent[index])
			continue;
		if (state(&heap, index) != KARENA_FREE)
			WRONG("arena %d was volatile, and has the word %x", index,
			      state(&heap, index));
		set_arena(index, GONE);
		lent[index] = 0;
	}
	return wrong ? -1 : 0;
}

/* Check everything. No arena may be volatile, because statistics do not show these. */
static long confess(struct heap *unused, long a, long b, long c)
{
	long bytes = 0;

	(void)unused, (void)a, (void)b, (void)c;
	for (int index = 0; index < NR_ARENAS; index++) {
		if (lent[index])
			reuse_arena(index, words_before[index]);
	}
	check_all();
	for (int index = 0; index < NR_ARENAS; index++) {
		for (int number = 0; number < PAGES; number++)
			bytes += stamps[index][number] == GONE ? 0 : PAGE;
	}
	return wrong ? -1 : bytes;
}

static long leave(struct heap *unused, long a, long b, long c)
{
	(void)unused, (void)a, (void)b, (void)c;
	heap_destroy(&heap);
	return 0;
}

/*
 * The test itself has no heap. Its own random numbers choose what each process does next.
 */
struct play {
	unsigned int seed;
	long trees, forks, exits, kills, steps;
};

static unsigned int choose(struct play *play, unsigned int below)
{
	return rand_r(&play->seed) / 7 % below;
}

static int nr_alive(void)
{
	int count = 0;

	for (int who = 1; who < NR_KIN; who++)
		count += family.pids[who] != 0;
	return count;
}

/* Choose a living process or a free number; 0 if there is none. */
static int choose_one(struct play *play, bool alive)
{
	int first = choose(play, NR_KIN);

	for (int i = 0; i < NR_KIN; i++) {
		int who = (first + i) % NR_KIN;

		if (who != PARENT && !!family.pids[who] == alive)
			return who;
	}
	return PARENT;
}

/* Start steps of all processes or of one, except the process with this number. */
static bool start(struct play *play, int but)
{
	int alone = choose(play, 3) ? PARENT : choose_one(play, true);
	long count = 1 + choose(play, 12);
	bool started[NR_KIN] = {};

	for (int who = 1; who < NR_KIN; who++) {
		long with = choose(play, INT32_MAX);

		started[who] = family.pids[who] && who != but &&
			       (!alone || alone == who) &&
			       order_of(who, &heap, live, count, with, 0);
	}
	/* One process is born while the others run. */
	if (but) {
		int who = choose_one(play, false);

		if (who && (bear(but, who) || ask(who, born, but, 0, 0)))
			return false;
		play->forks += who != 0;
	}
	for (int who = 1; who < NR_KIN; who++) {
		long result = started[who] ? answer(who) : 0;

		if (result < 0)
			return false;
		play->steps += started[who] ? count : 0;
	}
	return true;
}

static bool found_tree(struct play *play)
{
	play->trees++;
	return !bear(PARENT, CHILD) && !ask(CHILD, found, 0, 0, 0);
}

/* A process checks everything and exits, with or without its heap. */
static bool part(struct play *play)
{
	int who = choose_one(play, true);

	play->exits++;
	if (ask(who, confess, 0, 0, 0) < 0)
		return false;
	if (choose(play, 2) && ask(who, leave, 0, 0, 0))
		return false;
	return !end(who);
}

/* A process is killed during its steps. */
static bool murder(struct play *play)
{
	int who = choose_one(play, true);
	long with = choose(play, INT32_MAX);

	play->kills++;
	if (!order_of(who, &heap, live, 1000000, with, 0))
		return false;
	usleep(choose(play, 20000));
	return slay(who) == 128 + SIGKILL;
}

static bool go_on(struct play *play)
{
	if (!nr_alive())
		return found_tree(play);
	switch (choose(play, 12)) {
	case 0:
		return nr_alive() < 3 && choose(play, 3) ? true : part(play);
	case 1:
		return nr_alive() < 3 && choose(play, 3) ? true : murder(play);
	case 2:
	case 3:
	case 4:
	case 5:
		return start(play, choose_one(play, true));
	default:
		return start(play, PARENT);
	}
}

static unsigned int number_from(const char *variable, unsigned int otherwise)
{
	const char *text = getenv(variable);

	return text ? strtoul(text, NULL, 0) : otherwise;
}

FIXTURE(forkmodel) {
	struct balance before;
	unsigned int seconds;
	struct play play;
};

FIXTURE_SETUP(forkmodel)
{
	REQUIRE_MODULE();
	self->play.seed = number_from("KARENA_SEED", time(NULL) ^ getpid());
	self->seconds = number_from("KARENA_SECONDS", DEFAULT_SECONDS);
	TH_LOG("KARENA_SEED=%u", self->play.seed);
	/* The timeout of the harness does not know the duration of this test. */
	alarm(self->seconds + SLOW);
	balance_read(&self->before);
	ASSERT_EQ(0, family_make(&heap));
	expect_signals();
}

FIXTURE_TEARDOWN(forkmodel)
{
	family_end();
	EXPECT_BALANCE(&self->before);
}

TEST_F_TIMEOUT(forkmodel, every_process_agrees_with_its_model, 24 * 3600)
{
	struct play *play = &self->play;
	long copies = module_stat("copies"), promoted = module_stat("promoted");
	double until = seconds() + self->seconds;
	bool right = true;

	while (right && seconds() < until)
		right = go_on(play);
	TH_LOG("%ld trees, %ld forks, %ld exits, %ld kills, %ld steps, %ld copies, %ld promoted",
	       play->trees, play->forks, play->exits, play->kills, play->steps,
	       module_stat("copies") - copies, module_stat("promoted") - promoted);
	ASSERT_TRUE(right);
	EXPECT_GT(play->forks, 0);
	EXPECT_GT(play->steps, 0);
	for (int who = 1; who < NR_KIN; who++) {
		long bytes;

		if (!family.pids[who])
			continue;
		bytes = ask(who, confess, 0, 0, 0);
		ASSERT_GE(bytes, 0);
		EXPECT_EQ(bytes, bytes ? stat_of(who, "committed") : 0);
	}
	for (int who = 1; who < NR_KIN; who++) {
		if (family.pids[who])
			EXPECT_EQ(0, end(who));
	}
}

TEST_HARNESS_MAIN
