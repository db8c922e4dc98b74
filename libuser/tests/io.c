// SPDX-License-Identifier: MIT
/*
 * I/O buffers: sizes, limits, operations, fork. Each test runs in a process of its own, and
 * so makes the first call. Runs on the source that KARENA_SOURCE names.
 */
#include <liburing.h>

#include "common.h"
#include "stamp.h"

TEST(sizes_are_whole_pages)
{
	static const size_t sizes[][2] = {
		{ 0, 4096 }, { 1, 4096 }, { 4096, 4096 }, { 4097, 8192 },
		{ 8192, 8192 }, { 3 * MIB - 1, 3 * MIB },
	};

	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		char *buffer = ka_io_alloc(sizes[i][0]);

		ASSERT_NE(NULL, buffer) TH_LOG("%s", ka_error());
		EXPECT_EQ(0, (uintptr_t)buffer % KA_PAGE_SIZE);
		EXPECT_EQ(sizes[i][1], ka_io_size(buffer));
		memset(buffer, 1, sizes[i][1]);
		EXPECT_EQ(0, ka_io_free(buffer));
	}
}

#define EXPECT_NO_MEMORY(_call)						\
	do {								\
		errno = 0;						\
		EXPECT_EQ(NULL, _call);					\
		EXPECT_EQ(ENOMEM, errno);				\
	} while (0)

TEST(too_large_sizes_are_rejected)
{
	char *buffer = ka_io_alloc(1);

	ASSERT_NE(NULL, buffer);
	*buffer = 5;
	EXPECT_NO_MEMORY(ka_io_alloc(SIZE_MAX));
	EXPECT_NE(NULL, strstr(ka_error(), "18446744073709551615"));
	for (size_t i = 0; i < 3 * KA_PAGE_SIZE; i += 1021) {
		EXPECT_NO_MEMORY(ka_io_alloc(SIZE_MAX - i));
		EXPECT_NO_MEMORY(ka_io_calloc(1, SIZE_MAX - i));
		EXPECT_NO_MEMORY(ka_io_realloc(buffer, SIZE_MAX - i));
		EXPECT_NO_MEMORY(ka_io_realloc(NULL, SIZE_MAX - i));
	}
	EXPECT_NO_MEMORY(ka_io_alloc(SIZE_MAX / 2));
	EXPECT_NO_MEMORY(ka_io_calloc(SIZE_MAX, SIZE_MAX));
	EXPECT_NO_MEMORY(ka_io_calloc((size_t)1 << 32, (size_t)1 << 32));
	EXPECT_NO_MEMORY(ka_io_calloc(SIZE_MAX / 4096 + 1, 4096));
	EXPECT_EQ(5, *buffer);
	EXPECT_EQ(0, ka_io_free(buffer));
}

TEST(calloc_clears_all_memory)
{
	static const size_t none[][2] = { { 0, 0 }, { 0, 8 }, { 8, 0 } };
	char *buffer = ka_io_alloc(64 * KA_PAGE_SIZE);

	ASSERT_NE(NULL, buffer);
	memset(buffer, 0x55, 64 * KA_PAGE_SIZE);
	EXPECT_EQ(0, ka_io_free(buffer));
	buffer = ka_io_calloc(1001, 100);
	ASSERT_NE(NULL, buffer);
	EXPECT_EQ(25 * KA_PAGE_SIZE, ka_io_size(buffer));
	for (size_t i = 0; i < ka_io_size(buffer); i++)
		ASSERT_EQ(0, buffer[i]);
	for (int i = 0; i < 3; i++) {
		char *other = ka_io_calloc(none[i][0], none[i][1]);

		ASSERT_NE(NULL, other);
		EXPECT_EQ(KA_PAGE_SIZE, ka_io_size(other));
	}
}

TEST(realloc_preserves_the_content)
{
	char *buffer = ka_io_realloc(NULL, 10), *spoiler, *other;
	size_t size = KA_PAGE_SIZE;

	ASSERT_NE(NULL, buffer);
	spoiler = ka_io_alloc(1);
	stamp(buffer, size, 9);
	for (size_t pages = 2; pages < 2000; pages = pages * 3 / 2) {
		buffer = ka_io_realloc(buffer, pages * KA_PAGE_SIZE - 1);
		ASSERT_NE(NULL, buffer);
		EXPECT_EQ(0, wrong_stamps(buffer, size, 9));
		size = pages * KA_PAGE_SIZE;
		EXPECT_EQ(size, ka_io_size(buffer));
		stamp(buffer, size, 9);
	}
	/* If the number of pages stays the same, the buffer does not change. */
	EXPECT_EQ(buffer, ka_io_realloc(buffer, size - KA_PAGE_SIZE + 1));
	while (size > KA_PAGE_SIZE) {
		size = size / 2 / KA_PAGE_SIZE * KA_PAGE_SIZE;
		buffer = ka_io_realloc(buffer, size);
		ASSERT_NE(NULL, buffer);
		EXPECT_EQ(size ?: KA_PAGE_SIZE, ka_io_size(buffer));
		EXPECT_EQ(0, wrong_stamps(buffer, size, 9));
	}
	other = ka_io_realloc(buffer, 0);
	EXPECT_EQ(buffer, other);
	EXPECT_EQ(KA_PAGE_SIZE, ka_io_size(buffer));
	EXPECT_EQ(0, ka_io_free(buffer));
	EXPECT_EQ(0, ka_io_free(spoiler));
}

TEST(buffer_can_shrink_in_place_at_the_limit)
{
	char *buffer;

	setenv("KARENA_IO_LIMIT", "2M", 1);
	buffer = ka_io_alloc(2 * MIB);
	ASSERT_NE(NULL, buffer) TH_LOG("%s", ka_error());
	memset(buffer, 7, 2 * MIB);
	EXPECT_EQ(buffer, ka_io_realloc(buffer, MIB));
	EXPECT_EQ(7, buffer[MIB - 1]);
	EXPECT_NO_MEMORY(ka_io_realloc(buffer, 3 * MIB));
	EXPECT_EQ(7, buffer[0]);
	EXPECT_EQ(0, ka_io_free(buffer));
}

#define EXPECT_NO_BUFFER(_address)					\
	do {								\
		errno = 0;						\
		EXPECT_EQ(-1, ka_io_free(_address));			\
		EXPECT_EQ(EINVAL, errno);				\
		errno = 0;						\
		EXPECT_EQ(0, ka_io_size(_address));			\
		EXPECT_EQ(EINVAL, errno);				\
		errno = 0;						\
		EXPECT_EQ(NULL, ka_io_realloc(_address, 1));		\
		EXPECT_EQ(EINVAL, errno);				\
	} while (0)

TEST(invalid_buffers_are_rejected)
{
	struct ka_heap *heap = make(4 * MIB, 0, KA_FORK_COW);
	char *buffer, local;

	/* Before the first allocation, and after it. */
	for (int i = 0; i < 2; i++) {
		EXPECT_NO_BUFFER(&local);
		EXPECT_EQ(0, ka_io_free(NULL));
		buffer = ka_io_alloc(3 * KA_PAGE_SIZE);
		ASSERT_NE(NULL, buffer);
	}
	EXPECT_NO_BUFFER(buffer + 1);
	EXPECT_NO_BUFFER(buffer + KA_PAGE_SIZE);
	EXPECT_NO_BUFFER(buffer + 100 * MIB);
	EXPECT_NO_BUFFER(ka_run_alloc(heap, KA_PAGE_SIZE, 0));
	EXPECT_EQ(0, ka_io_free(buffer));
	EXPECT_NO_BUFFER(buffer);
	ka_heap_destroy(heap);
}

TEST(variable_sets_the_limit)
{
	char *buffers[4];

	setenv("KARENA_IO_LIMIT", "6M", 1);
	/* The limits of other heaps do not apply. */
	setenv("KARENA_LIMIT", "2M", 1);
	setenv("KARENA_WINDOW", "2M", 1);
	for (int i = 0; i < 3; i++) {
		buffers[i] = ka_io_alloc(2 * MIB);
		ASSERT_NE(NULL, buffers[i]);
		memset(buffers[i], i, 2 * MIB);
	}
	EXPECT_NO_MEMORY(ka_io_alloc(1));
	EXPECT_NE(NULL, strstr(ka_error(), "limit"));
	EXPECT_EQ(0, ka_io_free(buffers[1]));
	EXPECT_NE(NULL, ka_io_alloc(1));
}

TEST(invalid_limit_is_an_error_until_it_is_corrected)
{
	static const char *const sizes[] = { "much", "0", "-1", "1M" };

	for (int i = 0; i < 4; i++) {
		setenv("KARENA_IO_LIMIT", sizes[i], 1);
		errno = 0;
		EXPECT_EQ(NULL, ka_io_alloc(1));
		EXPECT_EQ(EINVAL, errno);
		EXPECT_NE(NULL, strstr(ka_error(), i < 3 ? "KARENA_IO_LIMIT" :
				       "too small"));
	}
	setenv("KARENA_IO_LIMIT", "2M", 1);
	EXPECT_NE(NULL, ka_io_alloc(1));
}

/* A limit above the size of the default window. */
TEST(large_limit_gets_a_large_window)
{
	setenv("KARENA_IO_LIMIT", "40G", 1);
	EXPECT_NE(NULL, ka_io_alloc(1)) TH_LOG("%s", ka_error());
}

TEST(little_address_space_is_sufficient)
{
	struct rlimit limit = { 4UL << 30, 4UL << 30 };

	NOT_WITH_SANITIZERS();
	ASSERT_EQ(0, setrlimit(RLIMIT_AS, &limit));
	EXPECT_NE(NULL, ka_io_alloc(MIB)) TH_LOG("%s", ka_error());
}

#define FILE_SIZE	(64 * KA_PAGE_SIZE)

/*
 * A file for direct I/O: a temporary file with this content, or, on a file system without
 * direct I/O, the guest's scratch disk, which is only read.
 */
static int direct_file(char *buffer)
{
	char path[] = "./karena-io-XXXXXX";
	int fd = mkstemp(path), direct;

	if (fd < 0)
		return open("/dev/vda", O_RDONLY | O_DIRECT);
	direct = open(path, O_RDWR | O_DIRECT);
	unlink(path);
	close(fd);
	if (direct < 0)
		return open("/dev/vda", O_RDONLY | O_DIRECT);
	for (size_t i = 0; i < FILE_SIZE; i++)
		buffer[i] = (char)(i / 251);
	if (pwrite(direct, buffer, FILE_SIZE, 0) != (ssize_t)FILE_SIZE)
		abort();
	return direct;
}

/* Read the file without direct I/O. */
static void read_plainly(int fd, char *content)
{
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_DIRECT);
	if (pread(fd, content, FILE_SIZE, 0) != (ssize_t)FILE_SIZE)
		abort();
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_DIRECT);
}

TEST(direct_io_reads_into_buffers)
{
	static char content[FILE_SIZE];
	char *buffer = ka_io_alloc(FILE_SIZE);
	int fd;

	ASSERT_NE(NULL, buffer);
	fd = direct_file(buffer);
	if (fd < 0)
		SKIP(return, "no file for direct I/O: %s", strerror(errno));
	read_plainly(fd, content);
	memset(buffer, 0x55, FILE_SIZE);
	ASSERT_EQ(FILE_SIZE, pread(fd, buffer, FILE_SIZE, 0));
	EXPECT_EQ(0, memcmp(content, buffer, FILE_SIZE));
	/* A single page works as well. */
	memset(buffer, 0x55, FILE_SIZE);
	ASSERT_EQ(KA_PAGE_SIZE, pread(fd, buffer + KA_PAGE_SIZE, KA_PAGE_SIZE, 0));
	EXPECT_EQ(0x55, buffer[0]);
	EXPECT_EQ(0, memcmp(content, buffer + KA_PAGE_SIZE, KA_PAGE_SIZE));
	EXPECT_EQ(0x55, buffer[2 * KA_PAGE_SIZE]);
	close(fd);
}

/* Create a ring with one fixed buffer. Return 0, -errno, or 1 without io_uring. */
static int ring_open(struct io_uring *ring, char *buffer, size_t size)
{
	struct iovec vector = { buffer, size };
	int error;

	if (io_uring_queue_init(4, ring, 0))
		return 1;
	error = io_uring_register_buffers(ring, &vector, 1);
	if (error)
		io_uring_queue_exit(ring);
	return error;
}

/* One transfer through the fixed buffer. Return bytes or -errno. */
static int transfer(struct io_uring *ring, int fd, char *buffer, unsigned int size,
		    bool in)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	struct io_uring_cqe *cqe;
	int result;

	if (in)
		io_uring_prep_read_fixed(sqe, fd, buffer, size, 0, 0);
	else
		io_uring_prep_write_fixed(sqe, fd, buffer, size, 0, 0);
	if (io_uring_submit(ring) != 1 || io_uring_wait_cqe(ring, &cqe))
		return -EIO;
	result = cqe->res;
	io_uring_cqe_seen(ring, cqe);
	return result;
}

/* Memory that was pinned before a fork stays with the parent while the child lives. */
TEST(fixed_buffers_survive_a_fork)
{
	char *buffer = ka_io_alloc(4 * MIB), read_back[100];
	struct io_uring ring;
	int ends[2], error;
	pid_t child;

	ASSERT_NE(NULL, buffer);
	memset(buffer, 1, 4 * MIB);
	error = ring_open(&ring, buffer, 4 * MIB);
	if (error == 1)
		SKIP(return, "this process cannot use io_uring");
	if (error == -EOPNOTSUPP && on_device())
		SKIP(return, "no fixed buffers in file memory before 6.5");
	ASSERT_EQ(0, error) TH_LOG("%s", strerror(-error));
	ASSERT_EQ(0, pipe(ends));
	child = fork();
	if (!child) {
		char *own = ka_io_calloc(1, 4 * MIB);

		CHECK(own);
		usleep(300000);
		_exit(0);
	}
	memset(buffer, 2, 4 * MIB);
	ASSERT_EQ(100, transfer(&ring, ends[1], buffer + 3 * MIB, 100, false));
	ASSERT_EQ(100, read(ends[0], read_back, 100));
	EXPECT_EQ(2, read_back[99]);
	ASSERT_EQ(7, write(ends[1], "arrives", 7));
	ASSERT_EQ(7, transfer(&ring, ends[0], buffer + MIB, 100, true));
	EXPECT_EQ(0, memcmp(buffer + MIB, "arrives", 7));
	EXPECT_EQ(0, child_status(child));
	io_uring_queue_exit(&ring);
	EXPECT_EQ(0, ka_io_free(buffer));
}

/* In a child: its parent's buffer is missing, and it can allocate its own. */
static void check_child(char *buffer)
{
	pid_t child = fork();
	char *own;

	if (!child) {
		die_of_signals();
		buffer[0]++;
		_exit(0);
	}
	CHECK(child_status(child) == 128 + SIGSEGV);
	CHECK(ka_io_free(buffer) == -1 && errno == EOWNERDEAD);
	CHECK(strstr(ka_error(), "the parent process's"));
	CHECK(!ka_io_size(buffer) && errno == EOWNERDEAD);
	CHECK(!ka_io_realloc(buffer, 1) && errno == EOWNERDEAD);
	own = ka_io_alloc(3 * MIB);
	CHECK(own && own != buffer);
	stamp(own, 3 * MIB, 5);
	CHECK(ka_io_free(buffer) == -1 && errno == EOWNERDEAD);
	CHECK(ka_io_size(own) == 3 * MIB);
	CHECK(!wrong_stamps(own, 3 * MIB, 5));
	CHECK(!ka_io_free(own));
}

TEST(child_has_its_own_buffers)
{
	char *buffer = ka_io_alloc(3 * MIB);
	pid_t child;

	ASSERT_NE(NULL, buffer);
	stamp(buffer, 3 * MIB, 4);
	child = fork();
	if (!child) {
		check_child(buffer);
		_exit(0);
	}
	EXPECT_EQ(0, child_status(child));
	EXPECT_EQ(0, wrong_stamps(buffer, 3 * MIB, 4));
	EXPECT_EQ(3 * MIB, ka_io_size(buffer));
	EXPECT_EQ(0, ka_io_free(buffer));
}

/*
 * At any depth: the parent's addresses stay unused, and those of earlier ancestors become
 * free.
 */
TEST(grandchildren_have_their_own_buffers)
{
	char *buffer = ka_io_alloc(MIB), *last = buffer;
	pid_t child;
	int depth;

	ASSERT_NE(NULL, buffer);
	for (depth = 0; depth < 12; depth++) {
		char *own;

		child = fork();
		if (child)
			break;
		CHECK(ka_io_free(last) == -1 && errno == EOWNERDEAD);
		own = ka_io_alloc(MIB);
		CHECK(own && own != last);
		memset(own, depth, MIB);
		last = own;
	}
	if (depth == 12)
		_exit(0);
	if (depth)
		_exit(child_status(child));
	EXPECT_EQ(0, child_status(child));
	EXPECT_EQ(0, ka_io_free(buffer));
}

struct worker {
	pthread_t thread;
	unsigned int number;
	long wrong;
};

static void *work(void *data)
{
	struct worker *worker = data;
	unsigned int seed = worker->number;

	for (int i = 0; i < 1500; i++) {
		size_t pages = 1 + (size_t)rand_r(&seed) % 30, size;
		char *buffer = ka_io_alloc(pages * KA_PAGE_SIZE), *other;

		if (!buffer) {
			worker->wrong++;
			continue;
		}
		size = pages * KA_PAGE_SIZE;
		stamp(buffer, size, worker->number);
		other = ka_io_realloc(buffer, 2 * size);
		worker->wrong += !other ||
				 wrong_stamps(other, size, worker->number) ||
				 ka_io_size(other) != 2 * size ||
				 ka_io_free(other);
	}
	return NULL;
}

/* Several threads make the first call at once. */
TEST(threads_can_allocate_buffers)
{
	struct worker workers[4];

	for (unsigned int i = 0; i < 4; i++) {
		workers[i] = (struct worker){ .number = i + 1 };
		ASSERT_EQ(0, pthread_create(&workers[i].thread, NULL, work,
					    &workers[i]));
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(workers[i].thread, NULL);
		EXPECT_EQ(0, workers[i].wrong);
	}
}

static int callers;
static bool callers_end;

static void *call(void *data)
{
	int own = 0;

	ka_io_size(data);
	__atomic_fetch_add(&callers, 1, __ATOMIC_RELAXED);
	while (!__atomic_load_n(&callers_end, __ATOMIC_RELAXED))
		ka_io_size(&own);
	return NULL;
}

static pthread_t first_callers[4];

/* Runs before the library's handler, because it was registered later. */
static void others_call_now(void)
{
	for (int i = 0; i < 4; i++)
		CHECK(!pthread_create(&first_callers[i], NULL, call, &callers));
	while (__atomic_load_n(&callers, __ATOMIC_RELAXED) < 4)
		usleep(100);
}

/* Fork while other threads make the first call. */
static void fork_at_first_call(void)
{
	pid_t child;

	CHECK(!pthread_atfork(others_call_now, NULL, NULL));
	child = fork();
	if (!child) {
		alarm(5);
		CHECK(ka_io_size(&child) == 0);
		_exit(0);
	}
	__atomic_store_n(&callers_end, true, __ATOMIC_RELAXED);
	for (int i = 0; i < 4; i++)
		pthread_join(first_callers[i], NULL);
	_exit(child_status(child));
}

TEST(fork_at_the_first_call_does_not_hang)
{
	NOT_WITH_THREAD_SANITIZER();
	for (int i = 0; i < 10; i++) {
		pid_t child = fork();

		if (!child)
			fork_at_first_call();
		EXPECT_EQ(0, child_status(child));
	}
}

TEST(fork_during_calls_of_other_threads_does_not_hang)
{
	struct worker workers[2];

	NOT_WITH_THREAD_SANITIZER();
	for (unsigned int i = 0; i < 2; i++) {
		workers[i] = (struct worker){ .number = i + 1 };
		ASSERT_EQ(0, pthread_create(&workers[i].thread, NULL, work,
					    &workers[i]));
	}
	for (int i = 0; i < 20; i++) {
		pid_t child = fork();

		if (!child) {
			CHECK(ka_io_alloc(MIB));
			_exit(0);
		}
		EXPECT_EQ(0, child_status(child));
	}
	for (int i = 0; i < 2; i++) {
		pthread_join(workers[i].thread, NULL);
		EXPECT_EQ(0, workers[i].wrong);
	}
}

TEST_HARNESS_MAIN
