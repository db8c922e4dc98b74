/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Helpers for tests of pinned memory: fixed buffers of io_uring, and a read from a slow
 * disk that keeps its pages pinned.
 */
#ifndef KARENA_SELFTESTS_RING_H
#define KARENA_SELFTESTS_RING_H

#include <liburing.h>
#include <pthread.h>
#include <sys/utsname.h>

#include "common.h"

/* Before 6.5, io_uring registers no file pages except those of tmpfs and hugetlbfs. */
static inline bool can_register(void)
{
	struct utsname name;
	int major, minor;

	if (uname(&name) || sscanf(name.release, "%d.%d", &major, &minor) != 2)
		return false;
	return major > 6 || (major == 6 && minor >= 5);
}

/* A file with the same byte everywhere. */
static inline int file_of(char byte, size_t size)
{
	char data[65536];
	int fd = memfd_create("karena-selftest", MFD_CLOEXEC);

	memset(data, byte, sizeof(data));
	for (size_t at = 0; fd >= 0 && at < size; at += sizeof(data)) {
		if (pwrite(fd, data, sizeof(data), at) != sizeof(data)) {
			close(fd);
			return -1;
		}
	}
	return fd;
}

/* Register memory as the only fixed buffer of the ring. Return 0 or -errno. */
static inline int ring_register(struct io_uring *ring, void *memory, size_t size)
{
	struct iovec buffer = { memory, size };

	return io_uring_register_buffers(ring, &buffer, 1);
}

/* Transfer between pinned pages and a file. Return bytes or -errno. */
static inline int through_the_pin(struct io_uring *ring, int opcode, int fd,
				  void *address, unsigned int length)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	struct io_uring_cqe *cqe;
	int result;

	if (opcode == IORING_OP_READ_FIXED)
		io_uring_prep_read_fixed(sqe, fd, address, length, 0, 0);
	else
		io_uring_prep_write_fixed(sqe, fd, address, length, 0, 0);
	result = io_uring_submit_and_wait(ring, 1);
	if (result < 0)
		return result;
	result = io_uring_wait_cqe(ring, &cqe);
	if (result)
		return result;
	result = cqe->res;
	io_uring_cqe_seen(ring, cqe);
	return result;
}

/* A read from a disk that its cgroup delays. Until it completes, its pages are pinned. */
struct slow_read {
	pthread_t thread;
	pid_t tid;
	int disk;
	char *to;
	ssize_t result;
};

static inline void *slow_read_main(void *data)
{
	struct slow_read *read = data;

	__atomic_store_n(&read->tid, gettid(), __ATOMIC_RELEASE);
	read->result = pread(read->disk, read->to, MIB, 0);
	return NULL;
}

static inline char thread_state(pid_t tid)
{
	char path[64], text[256], *at;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	if (read_text(path, text, sizeof(text)))
		return 0;
	at = strrchr(text, ')');
	return at ? at[2] : 0;
}

/* Start the read. Wait up to ten seconds until it waits for the disk. */
static inline bool slow_read_start(struct slow_read *read)
{
	int asleep = 0;

	if (pthread_create(&read->thread, NULL, slow_read_main, read))
		return false;
	for (int i = 0; i < 1000 && asleep < 10; i++) {
		pid_t tid = __atomic_load_n(&read->tid, __ATOMIC_ACQUIRE);

		usleep(10000);
		asleep = tid && thread_state(tid) == 'D' ? asleep + 1 : 0;
	}
	return asleep == 10;
}

#endif
