/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Helpers for tests of snapshots and shares: passing descriptors to another process, and a
 * sequence of writes whose order an image must show.
 */
#ifndef KARENA_SELFTESTS_PASS_H
#define KARENA_SELFTESTS_PASS_H

#include "child.h"

/* Send a descriptor through a socket. */
static inline bool send_fd(int line, int fd)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = {};
	char byte = 'f';
	struct iovec data = { &byte, 1 };
	struct msghdr message = {
		.msg_iov = &data, .msg_iovlen = 1,
		.msg_control = &control, .msg_controllen = sizeof(control),
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &fd, sizeof(int));
	return sendmsg(line, &message, MSG_NOSIGNAL) == 1;
}

/* Receive a descriptor, or return -1. */
static inline int receive_fd(int line)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = {};
	char byte = 0;
	struct iovec data = { &byte, 1 };
	struct msghdr message = {
		.msg_iov = &data, .msg_iovlen = 1,
		.msg_control = &control, .msg_controllen = sizeof(control),
	};
	struct cmsghdr *header;
	int fd;

	if (recvmsg(line, &message, MSG_CMSG_CLOEXEC) != 1 || byte != 'f')
		return -1;
	header = CMSG_FIRSTHDR(&message);
	if (!header || header->cmsg_type != SCM_RIGHTS ||
	    header->cmsg_len != CMSG_LEN(sizeof(int)))
		return -1;
	memcpy(&fd, CMSG_DATA(header), sizeof(int));
	return fd;
}

static inline int lowest_free_fd(void)
{
	int fd = dup(0);

	close(fd);
	return fd;
}

/* As heap_open(), with a fork policy. */
static inline int heap_open_fork(struct heap *heap, size_t size, uint32_t policy)
{
	struct karena_create create = { .window = size, .fork = policy };

	return heap_create(heap, &create);
}

/* Read from an address. Return 0, or the signal that the read raised. */
static inline int look(const volatile char *address)
{
	struct sigaction action = { .sa_handler = touch_handler };
	struct sigaction old_bus, old_segv;
	int signal;

	sigaction(SIGBUS, &action, &old_bus);
	sigaction(SIGSEGV, &action, &old_segv);
	signal = sigsetjmp(touch_jump, 1);
	if (!signal)
		(void)*address;
	sigaction(SIGBUS, &old_bus, NULL);
	sigaction(SIGSEGV, &old_segv, NULL);
	return signal;
}

/* Count the pages that cannot be read. */
static inline size_t unreadable(const char *start, size_t count)
{
	size_t pages = 0;

	for (size_t i = 0; i < count; i++)
		pages += look(start + i * PAGE + i) != 0;
	return pages;
}

/* KARENA_SHARE. Return a descriptor, or -errno. */
static inline int heap_share(const struct heap *heap, uint32_t flags,
			     uint64_t offset, uint64_t length)
{
	struct karena_share args = {
		.size = sizeof(args), .flags = flags,
		.offset = offset, .length = length,
	};

	return heap_call(heap, KARENA_SHARE, &args);
}

/* An image of a heap, mapped at any address. */
struct image {
	int fd;
	char *window;
	size_t size;
	struct karena_control *control;
	size_t control_size;
	uint32_t *states;
};

/* Map the image of a descriptor. Return 0 or -errno. */
static inline int image_map(struct image *image, int fd, void *where,
			    const struct karena_snapshot *args)
{
	memset(image, 0, sizeof(*image));
	image->fd = fd;
	image->size = args->window;
	image->control_size = args->control_size;
	image->window = mmap(where, image->size, PROT_READ,
			     MAP_SHARED | (where ? MAP_FIXED_NOREPLACE : 0), fd, 0);
	if (image->window == MAP_FAILED)
		return -errno;
	image->control = mmap(NULL, image->control_size, PROT_READ, MAP_SHARED, fd,
			      args->control_offset);
	if (image->control == MAP_FAILED)
		return -errno;
	image->states = (void *)((char *)image->control +
				 image->control->states_offset);
	return 0;
}

static inline void image_destroy(struct image *image)
{
	if (image->fd >= 0)
		close(image->fd);
	munmap(image->window, image->size);
	munmap(image->control, image->control_size);
}

/* Send an image through a socket. */
static inline bool send_image(int line, int fd, const struct karena_snapshot *args)
{
	return send_fd(line, fd) &&
	       send(line, args, sizeof(*args), MSG_NOSIGNAL) == sizeof(*args);
}

/* Receive an image. Return its descriptor, or -1. */
static inline int receive_image(int line, struct karena_snapshot *args)
{
	int fd = receive_fd(line);

	if (fd < 0)
		return fd;
	return recv(line, args, sizeof(*args), MSG_WAITALL) == sizeof(*args) ?
	       fd : -1;
}

/* Make an image of a heap and map it. Return 0 or -errno. */
static inline int heap_snapshot(const struct heap *heap, struct image *image)
{
	struct karena_snapshot args = { .size = sizeof(args) };
	int fd = heap_call(heap, KARENA_SNAPSHOT, &args);

	return fd < 0 ? fd : image_map(image, fd, NULL, &args);
}

/*
 * Make an image by the number of a heap and a file in /proc, such as mem, of a process that
 * has the heap. Return a descriptor, or -errno.
 */
static inline int traced_snapshot(pid_t pid, const char *file, uint64_t id,
				  struct karena_snapshot *args)
{
	char path[64];
	int memory, fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, file);
	memory = open(path, O_RDONLY | O_CLOEXEC);
	if (memory < 0)
		return -errno;
	*args = (struct karena_snapshot){
		.size = sizeof(*args), .id = id,
		.flags = KARENA_SNAPSHOT_MEMORY, .memory = memory,
	};
	fd = device_call(KARENA_SNAPSHOT, args);
	close(memory);
	return fd;
}

/* Make an image of one of this process's heaps by its number. */
static inline int device_snapshot(uint64_t id, struct karena_snapshot *args)
{
	*args = (struct karena_snapshot){ .size = sizeof(*args), .id = id };
	return device_call(KARENA_SNAPSHOT, args);
}

/*
 * A chain of numbers. In each round, writers store the number of the round in all links,
 * strictly one link after another. So at any moment the links up to some point have the
 * number of this round, and the links after it that of the last round.
 */
#define CHAIN_LINKS	256
#define CHAIN_PER_ARENA	32
#define CHAIN_ARENAS	16	/* in every other arena */

struct chain {
	uint64_t turn;
	bool stop;
};

/* Create a chain in memory that children share. */
static inline struct chain *chain_make(void)
{
	return mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		    -1, 0);
}

/* Commit the memory of a chain, half of it in huge frames. Return 0 or -errno. */
static inline int chain_commit(const struct heap *heap)
{
	int err = 0;

	for (size_t i = 0; i < CHAIN_ARENAS && !err; i += 2)
		err = heap_range(heap, KARENA_COMMIT, i * ARENA,
				 ARENA - (i / 2 % 2) * PAGE);
	return err;
}

/*
 * Neighbouring links are far apart in memory: a sequence of writes must not block at its
 * first link whenever pages are unmapped in order, and the page that is unmapped first has
 * a link from the middle of a round.
 */
static inline uint64_t *chain_link(const char *window, size_t link)
{
	size_t place = (link * 37 + 100) % CHAIN_LINKS;
	size_t index = place / CHAIN_PER_ARENA * 2;
	size_t page = place % CHAIN_PER_ARENA * (ARENA / PAGE / CHAIN_PER_ARENA);

	return (uint64_t *)(window + index * ARENA + page * PAGE);
}

/* Be one of @writers writers until the chain is stopped. */
static inline void chain_write(struct chain *chain, char *window,
			       unsigned int writer, unsigned int writers)
{
	while (!__atomic_load_n(&chain->stop, __ATOMIC_ACQUIRE)) {
		uint64_t turn = __atomic_load_n(&chain->turn, __ATOMIC_ACQUIRE);

		if (turn % writers != writer) {
			sched_yield();
			continue;
		}
		__atomic_store_n(chain_link(window, turn % CHAIN_LINKS),
				 turn / CHAIN_LINKS + 1, __ATOMIC_RELAXED);
		__atomic_store_n(&chain->turn, turn + 1, __ATOMIC_RELEASE);
	}
}

static inline void chain_stop(struct chain *chain)
{
	__atomic_store_n(&chain->stop, true, __ATOMIC_RELEASE);
}

/* Wait up to 20 seconds for so many more writes. */
static inline bool chain_continues(struct chain *chain, uint64_t turns)
{
	uint64_t until = __atomic_load_n(&chain->turn, __ATOMIC_ACQUIRE) + turns;

	for (int i = 0; i < 20000; i++) {
		if (__atomic_load_n(&chain->turn, __ATOMIC_ACQUIRE) >= until)
			return true;
		usleep(1000);
	}
	return false;
}

/*
 * Count the links in an image that are inconsistent with any one moment. @within: the
 * moment was within a round. @sum: a checksum of the links.
 */
static inline size_t chain_broken(const char *window, bool *within, uint64_t *sum)
{
	uint64_t first = *chain_link(window, 0), last = first;
	size_t broken = 0;

	*sum = first;
	for (size_t link = 1; link < CHAIN_LINKS; link++) {
		uint64_t number = *chain_link(window, link);

		broken += number > last || number + 1 < first;
		last = number;
		*sum = *sum * 31 + number;
	}
	*within = last != first;
	return broken;
}

/* Number of images to check. A debug kernel takes a second for each. */
static inline int chain_looks(void)
{
	return kernel_is_slow() ? 6 : 25;
}

/*
 * Make images of a heap while a chain grows in it. Return how many links were inconsistent,
 * or how often an image has changed; or -errno.
 */
static inline long chain_look(const struct heap *heap, struct chain *chain)
{
	int looks = chain_looks(), within = 0;
	long broken = 0;

	if (!chain_continues(chain, CHAIN_LINKS))
		return -ETIME;
	/*
	 * Make more images if the writers are slow, until enough of them are within a
	 * round.
	 */
	for (int i = 0; i < 8 * looks; i++) {
		uint64_t sum, later;
		struct image image;
		bool inside;
		int err = heap_snapshot(heap, &image);

		if (err)
			return err;
		broken += chain_broken(image.window, &inside, &sum);
		within += inside;
		/* The heap changes, the image does not. */
		if (!chain_continues(chain, CHAIN_LINKS / 3 + i % looks))
			return -ETIME;
		broken += chain_broken(image.window, &inside, &later);
		broken += sum != later;
		image_destroy(&image);
		if (i + 1 >= looks && within > looks / 2)
			break;
	}
	/* If few images were within a round, the test proves little. */
	return within > looks / 2 ? broken : -EAGAIN;
}

#endif
