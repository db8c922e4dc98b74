// SPDX-License-Identifier: MIT
/*
 * What a correct program may do with glibc's malloc: cancel threads, fork with handlers of
 * other libraries, handle signals, set limits, grow large blocks. Also, errors that an
 * incorrect program must not get away with. Started with libkarena-malloc.so preloaded.
 */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <semaphore.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include "common.h"

/* In an emulator, forks are slow on the module. */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	SLOW

/* Volatile, because the compiler knows malloc and would remove calls. */
static void *(*volatile do_malloc)(size_t size) = malloc;
static void (*volatile do_free)(void *block) = free;
static void *(*volatile do_calloc)(size_t count, size_t size) = calloc;
static void *(*volatile do_realloc)(void *block, size_t size) = realloc;

static double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1000000000;
}

/* Allocate and free blocks of many sizes, several times. */
static void churn(int times)
{
	static __thread void *blocks[1000];

	for (int i = 0; i < times; i++) {
		for (size_t j = 0; j < 1000; j++) {
			blocks[j] = do_malloc(j * 7 % 5000 + (j % 100 ? 0 : 300000));
			if (blocks[j])
				memset(blocks[j], 1, 1);
		}
		for (size_t j = 0; j < 1000; j++)
			do_free(blocks[j]);
	}
}

/*
 * Handlers for fork() that were registered before those of any library except the preloaded
 * one. There are so many that libc allocates memory for them.
 */
static void *volatile kept[300];
static bool handlers_work;

static void allocate(void)
{
	for (size_t i = 0; handlers_work && i < 300; i++)
		kept[i] = do_realloc(kept[i], i * 100 + 1);
}

static void give_back(void)
{
	for (size_t i = 0; handlers_work && i < 300; i++) {
		do_free(kept[i]);
		kept[i] = do_calloc(3, i * (i % 10 ? 50 : 1000));
	}
}

static void (*volatile at_prepare)(void), (*volatile at_parent)(void);
static void (*volatile at_child)(void);

static void run_prepare(void)
{
	if (at_prepare)
		at_prepare();
}

static void run_parent(void)
{
	if (at_parent)
		at_parent();
}

static void run_child(void)
{
	if (at_child)
		at_child();
}

static void run_at_forks(void (*prepare)(void), void (*parent)(void), void (*child)(void))
{
	at_prepare = prepare;
	at_parent = parent;
	at_child = child;
}

static void register_early(void)
{
	pthread_atfork(allocate, give_back, give_back);
	pthread_atfork(run_prepare, run_parent, run_child);
	for (int i = 0; i < 60; i++)
		pthread_atfork(NULL, NULL, NULL);
}

__attribute__((section(".preinit_array"), used))
static void (*const early)(void) = register_early;

static volatile bool stop;

static void *churns(void *data)
{
	while (!stop)
		churn(1);
	return data;
}

static void fork_often(struct __test_metadata *_metadata, int forks)
{
	for (int i = 0; i < forks; i++) {
		pid_t child = fork();

		if (!child) {
			churn(1);
			_exit(0);
		}
		ASSERT_EQ(0, child_status(child));
	}
}

TEST(handlers_of_an_earlier_library_may_allocate)
{
	int forks = kernel_is_slow() ? 2 : on_device() ? 5 : 10;
	pthread_t threads[2];

	handlers_work = true;
	fork_often(_metadata, forks);
	for (int i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, churns, NULL));
	fork_often(_metadata, forks);
	stop = true;
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	handlers_work = false;
	pthread_atfork(allocate, give_back, give_back);
	handlers_work = true;
	fork_often(_metadata, forks);
}

/* Blocks that one thread allocates and the handlers free: the last ones of its pools. */
#define NR_GIVEN	2000
static void *volatile given[NR_GIVEN];

static void *gives(void *data)
{
	static __thread void *blocks[NR_GIVEN];

	while (!stop) {
		for (size_t i = 0; i < NR_GIVEN; i++)
			blocks[i] = do_malloc(30000 + i * 7919 % 30000);
		for (size_t i = 0; i < NR_GIVEN; i++) {
			/* The thread frees the blocks that no handler has freed yet. */
			do_free(i % 4 ? blocks[i] : __atomic_exchange_n(&given[i], blocks[i],
									__ATOMIC_ACQ_REL));
		}
	}
	return data;
}

static void free_given(void)
{
	usleep(2000);
	for (size_t i = 0; i < NR_GIVEN; i++)
		do_free(__atomic_exchange_n(&given[i], NULL, __ATOMIC_ACQ_REL));
}

TEST(handlers_may_free_blocks_of_other_threads)
{
	int forks = kernel_is_slow() ? 2 : on_device() ? 5 : 30;
	pthread_t threads[2];

	for (int i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, gives, NULL));
	run_at_forks(free_given, free_given, free_given);
	for (int i = 0; i < forks; i++) {
		usleep(20000);
		fork_often(_metadata, 1);
	}
	run_at_forks(NULL, NULL, NULL);
	stop = true;
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
}

/* A library that stops its thread while the process forks. */
static pthread_t helper;
static sem_t helper_works;

static void *helps(void *data)
{
	sem_post(&helper_works);
	do
		churn(1);
	while (!stop);
	return data;
}

static void start_helper(void)
{
	stop = false;
	sem_init(&helper_works, 0, 0);
	if (pthread_create(&helper, NULL, helps, NULL))
		abort();
	sem_wait(&helper_works);
}

static void end_helper(void)
{
	stop = true;
	pthread_join(helper, NULL);
}

TEST(handlers_may_end_and_start_threads)
{
	start_helper();
	run_at_forks(end_helper, start_helper, start_helper);
	fork_often(_metadata, kernel_is_slow() ? 2 : 10);
	run_at_forks(NULL, NULL, NULL);
	end_helper();
}

TEST(child_may_start_its_first_thread_in_a_handler)
{
	do_free(do_malloc(10));
	run_at_forks(NULL, NULL, start_helper);
	fork_often(_metadata, kernel_is_slow() ? 2 : 10);
}

static volatile int forked, failed, most_forks;

static void forks_in_a_handler(int number)
{
	pid_t child;

	(void)number;
	if (forked >= most_forks)
		return;
	forked++;
	child = fork();
	if (!child) {
		/* The child continues where the signal interrupted the parent. */
		signal(SIGALRM, SIG_IGN);
		failed = -1;
		return;
	}
	failed += child_status(child) != 0;
}

TEST(signal_handler_may_fork_in_a_single_threaded_process)
{
	struct itimerval timer = { { 0, 3000 }, { 0, 3000 } };
	struct itimerval none = { };

	NOT_WITH_VALGRIND("is too slow for the timer");
	most_forks = kernel_is_slow() ? 2 : on_device() ? 5 : 40;
	signal(SIGALRM, forks_in_a_handler);
	setitimer(ITIMER_REAL, &timer, NULL);
	while (forked < most_forks && failed >= 0)
		churn(1);
	if (failed < 0) {
		churn(1);
		_exit(0);
	}
	setitimer(ITIMER_REAL, &none, NULL);
	EXPECT_EQ(0, failed);
}

static void *allocates_to_be_cancelled(void *data)
{
	/* The cancellation stays pending; only a cancellation point acts on it. */
	pthread_cancel(pthread_self());
	churn(2);
	for (int i = 0; i < 20; i++)
		do_free(do_malloc(3 * MIB));
	return data;
}

TEST(malloc_is_not_a_cancellation_point)
{
	for (int i = 0; i < 4; i++) {
		pthread_t thread;
		void *result;

		ASSERT_EQ(0, pthread_create(&thread, NULL, allocates_to_be_cancelled,
					    (void *)kept));
		pthread_join(thread, &result);
		EXPECT_EQ((void *)kept, result);
	}
	churn(1);
}

/* Each thread has a key with a destructor that allocates, after karena's own has run. */
static pthread_key_t late_key;
static volatile int destroyed;

static void allocates_late(void *data)
{
	(void)data;
	churn(1);
	destroyed++;
}

static void *ends(void *data)
{
	churn(1);
	pthread_setspecific(late_key, data);
	return NULL;
}

TEST(destructors_of_thread_data_may_allocate)
{
	ASSERT_EQ(0, pthread_key_create(&late_key, allocates_late));
	for (int i = 0; i < 5; i++) {
		pthread_t thread;

		ASSERT_EQ(0, pthread_create(&thread, NULL, ends, (void *)kept));
		pthread_join(thread, NULL);
	}
	EXPECT_EQ(5, destroyed);
}

static void *does_nothing(void *data)
{
	return data;
}

TEST(later_address_space_limit_leaves_room)
{
	struct rlimit limit = { 1UL << 30, 1UL << 30 };
	pthread_t thread;
	void *block;

	churn(1);
	ASSERT_EQ(0, setrlimit(RLIMIT_AS, &limit));
	ASSERT_EQ(0, setrlimit(RLIMIT_DATA, &limit));
	ASSERT_EQ(0, pthread_create(&thread, NULL, does_nothing, NULL));
	pthread_join(thread, NULL);
	EXPECT_EQ(NULL, do_malloc(8UL << 30));
	EXPECT_EQ(ENOMEM, errno);
	/* On the module, memory is committed at once. */
	block = do_malloc(on_device() ? 300 * MIB : 700 * MIB);
	EXPECT_NE(NULL, block);
	do_free(block);
	churn(1);
}

static void allocates_little(void)
{
	for (size_t i = 0; i < 300; i++)
		kept[i] = do_realloc(kept[i], i * 4 + 1);
}

TEST(only_used_memory_is_locked)
{
	struct rlimit limit;
	size_t most;

	NOT_WITH_VALGRIND("uses more memory");
	allocates_little();
	ASSERT_EQ(0, getrlimit(RLIMIT_MEMLOCK, &limit));
	/*
	 * On the module, arenas have 2 MiB, and count when they are mapped and committed.
	 */
	most = on_device() ? 64 * MIB : 8 * MIB;
	if (limit.rlim_max > most || !getuid())
		limit.rlim_max = most;
	limit.rlim_cur = limit.rlim_max;
	ASSERT_EQ(0, setrlimit(RLIMIT_MEMLOCK, &limit));
	/* The limit does not apply to root. */
	ASSERT_TRUE(getuid() || (!setgid(65534) && !setuid(65534)));
	ASSERT_EQ(0, mlockall(MCL_CURRENT | MCL_FUTURE));
	allocates_little();
	EXPECT_EQ(NULL, do_malloc(most));
	EXPECT_EQ(ENOMEM, errno);
	allocates_little();
}

/*
 * Grow a block in steps and stamp each page. Return how often the block has moved, or -1.
 */
static int grow(size_t step, size_t most)
{
	char *block = NULL;
	int moved = 0;

	for (size_t size = step; size <= most; size += step) {
		char *other = do_realloc(block, size);

		if (!other)
			return -1;
		moved += other != block;
		block = other;
		for (size_t at = size - step; at < size; at += KA_PAGE_SIZE)
			*(size_t *)(block + at) = at;
		/* Other blocks take up memory behind the block. */
		kept[size / step % 300] = do_realloc(kept[size / step % 300], 20000);
	}
	for (size_t at = 0; at < most / step * step; at += KA_PAGE_SIZE) {
		if (*(size_t *)(block + at) != at)
			return -1;
	}
	do_free(block);
	return moved;
}

TEST(block_grows_across_arenas_without_copies)
{
	const size_t most = kernel_is_slow() ? 32 * MIB : on_device() ? 64 * MIB : 256 * MIB;
	struct rusage before, after;
	int moved;

	NOT_WITH_VALGRIND("takes minutes");
	if (in_checked_build())
		SKIP(return, "a block between guards is copied");
	getrusage(RUSAGE_SELF, &before);
	moved = grow(MIB, most);
	EXPECT_LE(0, moved);
	EXPECT_GE(on_device() ? 1000 : 8, moved);
	moved = grow(64 << 10, most / 4);
	EXPECT_LE(0, moved);
	EXPECT_GE(on_device() ? 1000 : 16, moved);
	getrusage(RUSAGE_SELF, &after);
	if (!on_device())
		EXPECT_GE((long)(most >> 10) + 24 * 1024, after.ru_maxrss - before.ru_maxrss);
}

static void fill(unsigned char *block, size_t from, size_t to, unsigned char what)
{
	for (size_t i = (from + 4095) & ~(size_t)4095; i < to; i += 4096)
		block[i] = what;
}

static bool is_filled(const unsigned char *block, size_t size, unsigned char what)
{
	for (size_t i = 0; i < size; i += 4096) {
		if (block[i] != what)
			return false;
	}
	return true;
}

/* Neighbouring blocks grow by random steps, so parts of them are moved again. */
TEST(block_moved_in_parts_is_intact_and_leaves_zeros)
{
	int steps = kernel_is_slow() || is_instrumented() ? 100 : on_device() ? 200 : 1000;
	unsigned char *blocks[6] = {}, *block;
	size_t sizes[6] = {}, more;
	unsigned int seed = 1;

	for (int i = 0; i < steps; i++) {
		int which = rand_r(&seed) % 6;

		more = ((size_t)rand_r(&seed) % 300 + 1) * 5000;
		if (sizes[which] + more > 24 * MIB) {
			do_free(blocks[which]);
			sizes[which] = 0;
			blocks[which] = NULL;
			/* Perhaps at the old address. */
			block = do_calloc(1, 3 * MIB);
			ASSERT_NE(NULL, block);
			ASSERT_TRUE(is_filled(block, 3 * MIB, 0));
			do_free(block);
		}
		block = do_realloc(blocks[which], sizes[which] + more);
		ASSERT_NE(NULL, block);
		ASSERT_TRUE(is_filled(block, sizes[which], which + 1));
		blocks[which] = block;
		fill(block, sizes[which], sizes[which] + more, which + 1);
		sizes[which] += more;
	}
	for (int i = 0; i < 6; i++)
		do_free(blocks[i]);
}

/* Allocate a block with another one behind it, and free memory elsewhere. */
static unsigned char *block_to_move(void)
{
	unsigned char *block = do_malloc(MIB), *way = do_malloc(MIB / 4), *room, *last;

	room = do_malloc(4 * MIB);
	last = do_malloc(3 * MIB);
	memset(block, 0xaa, MIB);
	memset(way, 1, MIB / 4);
	memset(room, 1, 4 * MIB);
	memset(last, 1, 3 * MIB);
	do_free(room);
	return block;
}

/* Under a limit that is too small, the kernel could not grow the stack. */
static void __attribute__((noinline)) use_stack(void)
{
	volatile char bytes[128 << 10];

	for (size_t i = 0; i < sizeof(bytes); i += 1024)
		bytes[i] = 1;
}

TEST(block_is_intact_if_a_limit_forbids_to_move_it)
{
	struct rlimit limit = { 5 * MIB, 5 * MIB }, none = { RLIM_INFINITY, RLIM_INFINITY };
	unsigned char *block = block_to_move(), *moved;

	if (on_device())
		SKIP(return, "the module moves no pages");
	limit.rlim_max = RLIM_INFINITY;
	use_stack();
	ASSERT_EQ(0, setrlimit(RLIMIT_AS, &limit));
	moved = do_realloc(block, 3 * MIB);
	setrlimit(RLIMIT_AS, &none);
	EXPECT_TRUE(is_filled(moved ? moved : block, MIB, 0xaa));
	if (!moved)
		moved = do_realloc(block, 3 * MIB);
	ASSERT_NE(NULL, moved);
	EXPECT_TRUE(is_filled(moved, MIB, 0xaa));
	memset(moved, 2, 3 * MIB);
	do_free(moved);
	churn(10);
}

/* In a sandbox without mremap(), with all memory locked. */
TEST(block_copied_instead_of_moved_leaves_zeros)
{
	struct sock_filter rows[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mremap, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog filter = { sizeof(rows) / sizeof(*rows), rows };
	unsigned char *block = block_to_move(), *other;

	if (on_device())
		SKIP(return, "the module moves no pages");
	if (mlockall(MCL_CURRENT | MCL_FUTURE))
		SKIP(return, "cannot lock so much memory here");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, 2, &filter))
		SKIP(return, "this kernel has no seccomp");
	block = do_realloc(block, 3 * MIB);
	ASSERT_NE(NULL, block);
	EXPECT_TRUE(is_filled(block, MIB, 0xaa));
	for (int i = 0; i < 4; i++) {
		other = do_calloc(1, MIB);
		ASSERT_NE(NULL, other);
		EXPECT_TRUE(is_filled(other, MIB, 0));
	}
}

/*
 * Allocate blocks one after the other, leaving a hole of less than one block in each arena.
 */
static double time_of_large_ones(int count)
{
	double began = seconds();

	for (int i = 0; i < count; i++) {
		if (!do_malloc(1073741))
			return -1;
	}
	return seconds() - began;
}

TEST(time_to_find_room_for_a_large_block_does_not_grow)
{
	double few, many;

	if (on_device())
		SKIP(return, "the module commits memory at once");
	time_of_large_ones(1000);
	few = time_of_large_ones(4000);
	many = time_of_large_ones(8000);
	ASSERT_LT(0, few);
	TH_LOG("4000 blocks: %.3f s, 8000 blocks: %.3f s", few, many);
	EXPECT_GT(5 * few + 0.1, many);
}

/* Return the status of a child that makes an error. Its error output is dropped. */
static int status_of(void (*mistake)(void))
{
	pid_t child = fork();

	if (!child) {
		dup2(open("/dev/null", O_WRONLY), STDERR_FILENO);
		mistake();
		_exit(0);
	}
	return child_status(child);
}

static void frees_four_twice(void)
{
	void *blocks[8];

	for (int i = 0; i < 8; i++)
		blocks[i] = do_malloc(1000);
	for (int i = 0; i < 8; i++)
		do_free(blocks[i % 4]);
	for (int i = 0; i < 200; i++)
		do_malloc(950);
}

static void *volatile shared[3];

static void *frees_in_turn(void *data)
{
	do_free(shared[0]);
	do_free(shared[1]);
	do_free(shared[0]);
	return data;
}

static void frees_twice_in_another_thread(void)
{
	pthread_t thread;

	for (int i = 0; i < 3; i++)
		shared[i] = do_malloc(200);
	pthread_create(&thread, NULL, frees_in_turn, NULL);
	pthread_join(thread, NULL);
	for (int i = 0; i < 5000; i++)
		do_malloc(200);
}

static void writes_after_free(void)
{
	void **block = do_malloc(500), **other = do_malloc(500);

	do_free(block);
	block[1] = (void *)0x123456789000;
	do_free(other);
}

static void frees_at_once_twice(void)
{
	void *block = do_malloc(30);

	do_free(block);
	do_free(block);
}

static void frees_what_is_none(void)
{
	static char none[64];

	do_free(none + 16);
}

TEST(invalid_calls_abort_the_program)
{
	NOT_WITH_VALGRIND("finds them itself");
	EXPECT_EQ(128 + SIGABRT, status_of(frees_at_once_twice));
	EXPECT_EQ(128 + SIGABRT, status_of(frees_what_is_none));
	EXPECT_EQ(128 + SIGABRT, status_of(frees_four_twice));
	EXPECT_EQ(128 + SIGABRT, status_of(frees_twice_in_another_thread));
	EXPECT_EQ(128 + SIGABRT, status_of(writes_after_free));
}

TEST_HARNESS_MAIN
