// SPDX-License-Identifier: MIT
/*
 * Reads a file or block device into arenas, with io_uring and without the page cache:
 *
 *	cc -o uring-read uring-read.c $(pkg-config --cflags --libs karena-uring)
 *	./uring-read FILE
 *
 * The arenas are the fixed buffers of the ring, so the kernel looks up and pins their
 * pages once instead of at each read. If the kernel cannot pin them, the program uses plain
 * reads. It compares the data with those that read(2) returns, and prints one line.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <karena/uring.h>

#define BLOCK		((size_t)1 << 20)	/* of one request */
#define BLOCKS		32			/* requests at a time */
#define SIZE		(BLOCK * BLOCKS)

static struct io_uring ring;
static struct ka_uring_buffers *buffers;
static int file;

static void die(const char *what, const char *why)
{
	fprintf(stderr, "uring-read: %s: %s\n", what, why);
	exit(1);
}

/* Prepare a read of the rest of a block, of which @done bytes have arrived. */
static void prepare(char *run, size_t index, size_t done, off_t offset)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
	char *to = run + index * BLOCK + done;
	unsigned int length = BLOCK - done;
	int buffer;

	offset += index * BLOCK + done;
	if (buffers) {
		buffer = ka_uring_buffer_index(buffers, to, length);
		if (buffer < 0)
			die("cannot find the fixed buffer", ka_error());
		io_uring_prep_read_fixed(sqe, file, to, length, offset, buffer);
	} else {
		io_uring_prep_read(sqe, file, to, length, offset);
	}
	io_uring_sqe_set_data64(sqe, index);
}

/* Fill the run from the file, up to its end. Returns the number of bytes. */
static size_t fill(char *run, off_t offset, off_t end)
{
	size_t wanted = end - offset < (off_t)SIZE ? (size_t)(end - offset) : SIZE;
	size_t done[BLOCKS] = { 0 }, waiting = 0;

	for (size_t i = 0; i * BLOCK < wanted; i++, waiting++)
		prepare(run, i, 0, offset);
	while (waiting) {
		struct io_uring_cqe *cqe;
		size_t index, length;
		int err;

		err = io_uring_submit_and_wait(&ring, 1);
		if (err >= 0)
			err = io_uring_wait_cqe(&ring, &cqe);
		if (err < 0)
			die("cannot submit to the ring", strerror(-err));
		if (cqe->res < 0)
			die("cannot read", strerror(-cqe->res));
		index = io_uring_cqe_get_data64(cqe);
		length = wanted - index * BLOCK;
		if (length > BLOCK)
			length = BLOCK;
		if (!cqe->res && done[index] < length)
			die("cannot read", "the file became shorter");
		done[index] += cqe->res;
		io_uring_cqe_seen(&ring, cqe);
		if (done[index] < length)
			prepare(run, index, done[index], offset);
		else
			waiting--;
	}
	return wanted;
}

static void verify(int again, const char *run, size_t length, off_t offset)
{
	static char block[BLOCK];

	while (length) {
		ssize_t got = pread(again, block, length < BLOCK ? length : BLOCK,
				    offset);

		if (got <= 0)
			die("cannot read with read(2)",
			    got ? strerror(errno) : "early end of file");
		if (memcmp(block, run, got))
			die("wrong data", "read(2) returned other data than io_uring");
		run += got;
		offset += got;
		length -= got;
	}
}

static double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

/* Returns true if the file system supports O_DIRECT, which bypasses the page cache. */
static bool open_file(const char *path)
{
	struct stat stat_of;

	if (!stat(path, &stat_of) && !S_ISREG(stat_of.st_mode) &&
	    !S_ISBLK(stat_of.st_mode))
		die(path, "neither a file nor a block device");
	file = open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
	if (file >= 0)
		return true;
	if (errno == EINVAL)
		file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		die(path, strerror(errno));
	return false;
}

static struct ka_heap *make_heap(char **run)
{
	struct ka_options options = KA_OPTIONS;
	struct ka_heap *heap;

	options.window = 2 * SIZE;
	options.name = "uring-read";
	heap = ka_heap_create(&options);
	*run = heap ? ka_run_alloc(heap, SIZE, KA_ARENA_SIZE) : NULL;
	if (!*run)
		die("cannot allocate arenas", ka_error());
	return heap;
}

int main(int argc, char **argv)
{
	double time = 0, start;
	struct ka_heap *heap;
	struct iovec range;
	off_t end, at;
	bool direct;
	char *run;
	int again, err;

	if (argc != 2) {
		fprintf(stderr, "usage: uring-read FILE\n");
		return 1;
	}
	direct = open_file(argv[1]);
	again = open(argv[1], O_RDONLY | O_CLOEXEC);
	end = again < 0 ? -1 : lseek(again, 0, SEEK_END);
	if (end < 0)
		die(argv[1], strerror(errno));
	heap = make_heap(&run);
	err = io_uring_queue_init(BLOCKS, &ring, 0);
	if (err)
		die("cannot create a ring", strerror(-err));
	range = (struct iovec){ run, SIZE };
	buffers = ka_uring_register(&ring, heap, &range, 1);
	if (!buffers)
		fprintf(stderr, "uring-read: no fixed buffers: %s\n", ka_error());

	for (at = 0; at < end;) {
		size_t length;

		start = seconds();
		length = fill(run, at, end);
		time += seconds() - start;
		verify(again, run, length, at);
		at += length;
	}
	printf("%s: %lld bytes verified, %.0f MiB/s, %s, %s, arenas %s\n", argv[1],
	       (long long)end, time > 0 ? end / time / (1 << 20) : 0,
	       direct ? "O_DIRECT" : "no O_DIRECT",
	       buffers ? "fixed buffers" : "plain reads",
	       ka_heap_source(heap) == KA_SOURCE_DEVICE ? "on the module" :
	       "on plain mmap");

	io_uring_queue_exit(&ring);
	ka_uring_unregister(NULL, buffers);
	ka_heap_destroy(heap);
	close(again);
	close(file);
	return 0;
}
