// SPDX-License-Identifier: GPL-2.0
/*
 * Shared futexes in a heap: processes that share a page wake each other, a process with a
 * copy of the page wakes only its own threads, and a waiting thread is woken whatever
 * happened to the page since it began to wait.
 */
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>

#include "cow.h"
#include "pass.h"

#define STACK	(64 * 1024UL)

/* Seconds. Only a waiter that no thread wakes waits so long. */
#define PATIENCE	60

FIXTURE(futex) {
	struct balance before;
	struct heap heap;
};

FIXTURE_SETUP(futex)
{
	REQUIRE_MODULE();
	ASSERT_EQ(0, begin(&self->before, &self->heap));
}

FIXTURE_TEARDOWN(futex)
{
	family_end();
	heap_destroy(&self->heap);
	EXPECT_BALANCE(&self->before);
}

static long futex(void *word, int what, uint32_t value, const struct timespec *timeout)
{
	long ret = syscall(SYS_futex, word, what, value, timeout, NULL, 0);

	return ret < 0 ? -errno : ret;
}

static long wake(void *word)
{
	return futex(word, FUTEX_WAKE, INT_MAX, NULL);
}

/* A thread that waits until a word is woken. */
struct waiter {
	pthread_t thread;
	uint32_t *word;
	volatile pid_t tid;
	volatile long result;
	volatile bool done;
};

static struct waiter waiter;

static void *wait_main(void *data)
{
	struct timespec patience = { .tv_sec = PATIENCE };
	struct waiter *mine = data;

	mine->tid = syscall(SYS_gettid);
	mine->result = futex(mine->word, FUTEX_WAIT,
			     __atomic_load_n(mine->word, __ATOMIC_RELAXED), &patience);
	mine->done = true;
	return NULL;
}

/* Return true if a thread of this process sleeps, but not on a lock of the kernel. */
static bool sleeps(pid_t tid)
{
	char path[64], text[256], *name;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	if (read_text(path, text, sizeof(text)))
		return false;
	name = strrchr(text, ')');
	return name && name[2] == 'S';
}

/* Start to wait. Return 0 once the thread sleeps, or its error. */
static long wait_at(void *word)
{
	waiter = (struct waiter){ .word = word };
	if (pthread_create(&waiter.thread, NULL, wait_main, &waiter))
		return -EAGAIN;
	while (!waiter.done && !(waiter.tid && sleeps(waiter.tid)))
		usleep(1000);
	if (!waiter.done)
		return 0;
	pthread_join(waiter.thread, NULL);
	return waiter.result ?: -EALREADY;
}

static uint32_t *word_at(struct heap *heap, long page)
{
	return (uint32_t *)page_at(heap, page) + 100;
}

/* Tasks for the processes. */
static long begin_wait(struct heap *heap, long page, long b, long c)
{
	(void)b;
	(void)c;
	return wait_at(word_at(heap, page));
}

/* Return the number of woken threads. */
static long wake_page(struct heap *heap, long page, long b, long c)
{
	(void)b;
	(void)c;
	return wake(word_at(heap, page));
}

static long still_waits(struct heap *heap, long a, long b, long c)
{
	(void)heap, (void)a, (void)b, (void)c;
	return !waiter.done && sleeps(waiter.tid);
}

/* Return the result of the wait. */
static long end_wait(struct heap *heap, long a, long b, long c)
{
	(void)heap, (void)a, (void)b, (void)c;
	pthread_join(waiter.thread, NULL);
	return waiter.result;
}

#define EXPECT_WAKES(_who, _page)					\
	do {								\
		EXPECT_EQ(1, ask(_who, wake_page, _page, 0, 0));	\
		EXPECT_EQ(0, ask(_who, end_wait, 0, 0, 0));		\
	} while (0)

/* Locks of the C library. */
static void *lock_main(void *mutex)
{
	long err = pthread_mutex_lock(mutex);

	return (void *)(err ?: pthread_mutex_unlock(mutex));
}

static long lock_works(pthread_mutex_t *mutex, int shared, int robust)
{
	pthread_mutexattr_t kind;
	pthread_t thread;
	void *err;

	pthread_mutexattr_init(&kind);
	pthread_mutexattr_setpshared(&kind, shared);
	pthread_mutexattr_setrobust(&kind, robust);
	pthread_mutex_init(mutex, &kind);
	pthread_mutex_lock(mutex);
	pthread_create(&thread, NULL, lock_main, mutex);
	usleep(20000);
	pthread_mutex_unlock(mutex);
	pthread_join(thread, &err);
	return (long)err;
}

TEST_F(futex, libc_locks_work)
{
	pthread_mutex_t *mutex = (void *)word_at(&self->heap, 3);

	for (int i = 0; i < 2; i++, mutex = (void *)word_at(&self->heap, SPARSE)) {
		EXPECT_EQ(0, lock_works(mutex, PTHREAD_PROCESS_PRIVATE,
					PTHREAD_MUTEX_ROBUST));
		EXPECT_EQ(0, lock_works(mutex, PTHREAD_PROCESS_SHARED,
					PTHREAD_MUTEX_STALLED));
		EXPECT_EQ(0, lock_works(mutex, PTHREAD_PROCESS_SHARED,
					PTHREAD_MUTEX_ROBUST));
	}
}

/* Objects that two threads or processes use together. */
struct meeting {
	pthread_mutex_t mutex;
	pthread_cond_t came;
	pthread_barrier_t barrier;
	sem_t sem;
	int nr;
};

static void meeting_make(struct meeting *meeting)
{
	pthread_barrierattr_t barrier;
	pthread_mutexattr_t mutex;
	pthread_condattr_t cond;

	memset(meeting, 0, sizeof(*meeting));
	pthread_mutexattr_init(&mutex);
	pthread_mutexattr_setpshared(&mutex, PTHREAD_PROCESS_SHARED);
	pthread_mutex_init(&meeting->mutex, &mutex);
	pthread_condattr_init(&cond);
	pthread_condattr_setpshared(&cond, PTHREAD_PROCESS_SHARED);
	pthread_cond_init(&meeting->came, &cond);
	pthread_barrierattr_init(&barrier);
	pthread_barrierattr_setpshared(&barrier, PTHREAD_PROCESS_SHARED);
	pthread_barrier_init(&meeting->barrier, &barrier, 2);
	sem_init(&meeting->sem, 1, 0);
}

/* One of the two sides. The other waits for the semaphore, and so for the condition. */
static void meet(struct meeting *meeting, bool first)
{
	pthread_mutex_lock(&meeting->mutex);
	meeting->nr++;
	pthread_cond_broadcast(&meeting->came);
	while (meeting->nr < 2)
		pthread_cond_wait(&meeting->came, &meeting->mutex);
	pthread_mutex_unlock(&meeting->mutex);
	pthread_barrier_wait(&meeting->barrier);
	if (first)
		sem_wait(&meeting->sem);
	else
		usleep(20000);
	if (!first)
		sem_post(&meeting->sem);
}

static void *meet_main(void *meeting)
{
	meet(meeting, true);
	return NULL;
}

TEST_F(futex, libc_conditions_barriers_and_semaphores_work)
{
	struct meeting *meeting = (void *)page_at(&self->heap, 3);
	pthread_t thread;

	for (int i = 0; i < 2; i++, meeting = (void *)page_at(&self->heap, SPARSE)) {
		meeting_make(meeting);
		ASSERT_EQ(0, pthread_create(&thread, NULL, meet_main, meeting));
		usleep(20000);
		meet(meeting, false);
		EXPECT_EQ(0, pthread_join(thread, NULL));
	}
}

static void *nap_main(void *data)
{
	usleep(20000);
	return data;
}

TEST_F(futex, thread_with_its_stack_in_the_heap_is_joined)
{
	pthread_attr_t attr;
	pthread_t thread;
	void *result;

	pthread_attr_init(&attr);
	pthread_attr_setstack(&attr, page_at(&self->heap, 16), STACK);
	ASSERT_EQ(0, pthread_create(&thread, &attr, nap_main, self));
	ASSERT_EQ(0, pthread_join(thread, &result));
	EXPECT_EQ(self, result);
}

/*
 * Copies.
 */
static const long pages[] = { 3, 700, SPARSE + 2 };

TEST_F_TIMEOUT(futex, each_generation_wakes_only_its_own_threads, SLOW)
{
	for (int i = 0; i < ARRAY_SIZE(pages); i++) {
		/* The parent starts to wait before it has children. */
		ASSERT_EQ(0, ask(PARENT, begin_wait, pages[i], 0, 0));
		for (int who = CHILD; who <= GRANDCHILD; who++) {
			ASSERT_EQ(0, bear(who - 1, who));
			ASSERT_EQ(0, ask(who, begin_wait, pages[i], 0, 0));
		}
		for (int who = GRANDCHILD; who >= PARENT; who--) {
			for (int other = PARENT; other <= who; other++)
				EXPECT_EQ(1, ask(other, still_waits, 0, 0, 0));
			EXPECT_WAKES(who, pages[i]);
			EXPECT_EQ(0, ask(who, wake_page, pages[i], 0, 0));
		}
		for (int who = CHILD; who <= GRANDCHILD; who++)
			EXPECT_EQ(0, end(who));
	}
}

static long leave(struct heap *heap, long index, long b, long c)
{
	(void)b;
	(void)c;
	return heap_release(heap, index, 1);
}

static long come_back(struct heap *heap, long index, long b, long c)
{
	(void)b;
	(void)c;
	return heap_commit(heap, index, 1);
}

/* One process becomes the only owner of the old page, without a copy. */
TEST_F_TIMEOUT(futex, last_owner_of_a_page_wakes_its_own_threads, SLOW)
{
	for (int i = 0; i < ARRAY_SIZE(pages); i++) {
		long index = pages[i] / PAGES;

		for (int goes = PARENT; goes <= CHILD; goes++) {
			ASSERT_EQ(0, bear(PARENT, CHILD));
			/* The page may be mapped already, read-only. */
			EXPECT_EQ(0, ask(!goes, unlike, pages[i], 1, 'p'));
			ASSERT_EQ(0, ask(goes, leave, index, 0, 0));
			ASSERT_EQ(0, ask(!goes, begin_wait, pages[i], 0, 0));
			ASSERT_EQ(0, ask(goes, come_back, index, 0, 0));
			ASSERT_EQ(0, ask(goes, begin_wait, pages[i], 0, 0));
			EXPECT_WAKES(goes, pages[i]);
			EXPECT_EQ(1, ask(!goes, still_waits, 0, 0, 0));
			EXPECT_WAKES(!goes, pages[i]);
			EXPECT_EQ(0, end(CHILD));
			ASSERT_EQ(0, mark(&self->heap, pages[i], 1, 'p'));
		}
	}
}

/* A thread waits while its page changes. */
TEST_F_TIMEOUT(futex, waiter_survives_copy_and_promotion, SLOW)
{
	struct heap *heap = &self->heap;

	for (int i = 0; i < ARRAY_SIZE(pages); i++) {
		ASSERT_EQ(0, ask(PARENT, begin_wait, pages[i], 0, 0));
		ASSERT_EQ(0, bear(PARENT, CHILD));
		ASSERT_EQ(0, mark(heap, pages[i], 1, 'c'));
		EXPECT_WAKES(PARENT, pages[i]);
		EXPECT_EQ(0, end(CHILD));
	}
	ASSERT_EQ(0, bear(PARENT, CHILD));
	ASSERT_EQ(0, mark(heap, 0, 100, 'c'));
	ASSERT_EQ(0, ask(PARENT, begin_wait, 3, 0, 0));
	EXPECT_EQ(0, end(CHILD));
	ASSERT_TRUE(heap_stat_becomes(heap, "huge_arenas", 1));
	EXPECT_WAKES(PARENT, 3);
}

TEST_F(futex, waiter_survives_demotion)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, ask(PARENT, begin_wait, 3, 0, 0));
	ASSERT_EQ(0, release_pages(heap, 0, 100, 256));
	ASSERT_EQ(KARENA_ACTIVE | KARENA_SPARSE, state(heap, 0));
	EXPECT_WAKES(PARENT, 3);
}

TEST_F(futex, waiter_survives_reclaim)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, ask(PARENT, begin_wait, 3, 0, 0));
	make_volatile(heap, 0);
	for (int i = 0; i < 100 && state(heap, 0) != KARENA_FREE; i++)
		shrink_everything();
	ASSERT_EQ(KARENA_FREE, state(heap, 0));
	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	EXPECT_WAKES(PARENT, 3);
}

/* Two threads wake each other, and the main thread forks all the time. */
struct game {
	uint32_t *word;
	volatile bool over;
	volatile long failed;
	volatile long turns;
};

static void *play_main(void *data)
{
	struct timespec patience = { .tv_sec = PATIENCE };
	struct game *game = data;
	uint32_t turn;
	long ret;

	while (!game->over && !game->failed) {
		turn = __atomic_add_fetch(game->word, 1, __ATOMIC_ACQ_REL);
		ret = wake(game->word);
		if (ret >= 0)
			ret = futex(game->word, FUTEX_WAIT, turn, &patience);
		if (ret && ret != -EAGAIN)
			game->failed = ret;
		game->turns++;
	}
	__atomic_add_fetch(game->word, 1, __ATOMIC_ACQ_REL);
	wake(game->word);
	return NULL;
}

TEST_F_TIMEOUT(futex, no_futex_call_fails_during_forks, SLOW)
{
	pthread_t threads[2];

	for (int i = 0; i < ARRAY_SIZE(pages); i++) {
		struct game game = { .word = word_at(&self->heap, pages[i]) };

		for (int t = 0; t < 2; t++)
			ASSERT_EQ(0, pthread_create(&threads[t], NULL, play_main, &game));
		for (int forks = 0; forks < 8; forks++) {
			long turns = game.turns;
			pid_t child;

			/* Both threads have written to their page since the last fork. */
			while (!game.failed && game.turns < turns + 2)
				usleep(100);
			child = fork();
			if (!child) {
				*page_at(&self->heap, pages[i]) = 1;
				_exit(0);
			}
			EXPECT_EQ(0, child_status(child));
		}
		game.over = true;
		for (int t = 0; t < 2; t++)
			pthread_join(threads[t], NULL);
		EXPECT_EQ(0, game.failed);
	}
}

/* Shared memory. */
static void share_waits(struct child *child)
{
	int fd = receive_fd(child->parent);
	char *memory = mmap(NULL, ARENA, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	pthread_mutex_t *mutex = (void *)memory;

	CHECK(memory != MAP_FAILED);
	close(fd);
	CHECK(!wait_at(memory + 3 * PAGE));
	CHECK(tell(child->parent, 1));
	CHECK(!end_wait(NULL, 0, 0, 0));
	meet((void *)(memory + 8 * PAGE), true);
	/* This process exits while it holds the mutex. */
	CHECK(!pthread_mutex_lock(mutex));
	CHECK(tell(child->parent, 2));
	CHECK(hear(child->parent) == 3);
}

TEST_F(futex, processes_with_a_share_wake_each_other)
{
	pthread_mutex_t *mutex = (void *)page_at(&self->heap, 0);
	struct meeting *meeting = (void *)page_at(&self->heap, 8);
	pthread_mutexattr_t kind;
	struct child child;
	pthread_t thread;
	void *err;
	int fd;

	pthread_mutexattr_init(&kind);
	pthread_mutexattr_setpshared(&kind, PTHREAD_PROCESS_SHARED);
	pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(mutex, &kind);
	meeting_make(meeting);
	ASSERT_EQ(0, child_start(&child, share_waits));
	fd = heap_share(&self->heap, KARENA_SHARE_WRITE, 0, ARENA);
	ASSERT_GE(fd, 0);
	ASSERT_TRUE(send_fd(child.line, fd));
	close(fd);
	ASSERT_EQ(1, hear(child.line));
	EXPECT_EQ(1, wake(page_at(&self->heap, 3)));
	meet(meeting, false);
	ASSERT_EQ(2, hear(child.line));
	/* The kernel wakes a waiter when the owner of the mutex has exited. */
	ASSERT_EQ(0, pthread_create(&thread, NULL, lock_main, mutex));
	usleep(20000);
	ASSERT_TRUE(tell(child.line, 3));
	pthread_join(thread, &err);
	EXPECT_EQ(EOWNERDEAD, (long)err);
	EXPECT_EQ(0, child_end(&child));
}

static char *share;

/* Wait in a share of this process's heap that is mapped read-only. */
static long wait_in_share(struct heap *heap, long page, long b, long c)
{
	int fd = heap_share(heap, 0, page / PAGES * ARENA, ARENA);
	char *memory;

	(void)b;
	(void)c;
	if (fd < 0)
		return fd;
	memory = mmap(NULL, ARENA, PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	if (memory == MAP_FAILED)
		return -errno;
	share = memory;
	return wait_at((uint32_t *)(memory + page % PAGES * PAGE) + 100);
}

static long forget_share(struct heap *heap, long a, long b, long c)
{
	(void)heap, (void)a, (void)b, (void)c;
	return munmap(share, ARENA);
}

TEST_F_TIMEOUT(futex, waiter_in_a_readonly_share_is_woken, SLOW)
{
	for (int i = 0; i < ARRAY_SIZE(pages); i++) {
		ASSERT_EQ(0, ask(PARENT, wait_in_share, pages[i], 0, 0));
		EXPECT_WAKES(PARENT, pages[i]);
		EXPECT_EQ(0, ask(PARENT, forget_share, 0, 0, 0));
		/* The shares of parent and child are different memory. */
		ASSERT_EQ(0, bear(PARENT, CHILD));
		for (int who = PARENT; who <= CHILD; who++)
			ASSERT_EQ(0, ask(who, wait_in_share, pages[i], 0, 0));
		for (int who = PARENT; who <= CHILD; who++) {
			EXPECT_EQ(0, ask(who, mark, pages[i], 1, 'r'));
			EXPECT_WAKES(who, pages[i]);
			EXPECT_EQ(0, ask(who, forget_share, 0, 0, 0));
		}
		EXPECT_EQ(0, end(CHILD));
	}
}

/*
 * A page that only the child still has keeps the futex key of its parent until the child
 * writes to it.
 */
TEST_F_TIMEOUT(futex, waiter_in_a_share_of_an_inherited_page_is_woken, SLOW)
{
	for (int i = 0; i < ARRAY_SIZE(pages); i++) {
		ASSERT_EQ(0, bear(PARENT, CHILD));
		ASSERT_EQ(0, ask(PARENT, release, pages[i] / PAGES, 1, 0));
		ASSERT_EQ(0, ask(CHILD, wait_in_share, pages[i], 0, 0));
		EXPECT_EQ(0, ask(CHILD, mark, pages[i], 1, 'c'));
		EXPECT_WAKES(CHILD, pages[i]);
		EXPECT_EQ(0, ask(CHILD, forget_share, 0, 0, 0));
		EXPECT_EQ(0, end(CHILD));
	}
}

TEST_F(futex, processes_with_one_heap_wake_each_other)
{
	struct heap heap;

	ASSERT_EQ(0, heap_open_fork(&heap, 2 * ARENA, KARENA_FORK_SHARE));
	ASSERT_EQ(0, heap_commit(&heap, 0, 1));
	ASSERT_EQ(0, ask_of(PARENT, &heap, begin_wait, 3, 0, 0));
	ASSERT_EQ(0, bear(PARENT, CHILD));
	EXPECT_EQ(1, ask_of(CHILD, &heap, wake_page, 3, 0, 0));
	EXPECT_EQ(0, ask_of(PARENT, &heap, end_wait, 0, 0, 0));
	ASSERT_EQ(0, ask_of(CHILD, &heap, begin_wait, 3, 0, 0));
	EXPECT_EQ(1, ask_of(PARENT, &heap, wake_page, 3, 0, 0));
	EXPECT_EQ(0, ask_of(CHILD, &heap, end_wait, 0, 0, 0));
	EXPECT_EQ(0, end(CHILD));
	heap_destroy(&heap);
}

TEST_F(futex, state_words_work_as_futexes)
{
	ASSERT_EQ(0, wait_at(&self->heap.states[1]));
	EXPECT_EQ(1, wake(&self->heap.states[1]));
	EXPECT_EQ(0, end_wait(NULL, 0, 0, 0));
}

/* Root can ask the kernel to split all huge pages of a process. */
TEST_F(futex, arenas_stay_huge_after_split_huge_pages)
{
	const char *path = "/sys/kernel/debug/split_huge_pages";
	struct heap *heap = &self->heap;
	char range[100];

	if (access(path, W_OK))
		SKIP(return, "no split_huge_pages in debugfs");
	snprintf(range, sizeof(range), "%d,0x%lx,0x%lx", getpid(),
		 (unsigned long)heap->window, (unsigned long)heap->window + heap->size);
	EXPECT_EQ(0, write_text(path, range));
	EXPECT_EQ(0, spoiled(heap, 0, 0, 0));
	EXPECT_EQ(2 * ARENA, smaps(heap->window, "FilePmdMapped"));
}

TEST_HARNESS_MAIN
