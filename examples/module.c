// SPDX-License-Identifier: MIT
/*
 * The module's interface without the library: a function for each call, and a program that
 * uses all of them once. Documentation/interface.rst explains the calls.
 *
 * Exits with 1 when a call fails, with 2 when there is no module.
 */
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <linux/karena.h>	/* installed: <karena/linux/karena.h> */

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE	23
#endif

#define ARENAS	16

/* Commit whole arenas without a descriptor: ask in their state words, then populate. */
static int commit_arenas(char *window, uint32_t *states, size_t first, size_t count)
{
	char *start = window + first * KARENA_ARENA_SIZE;

	for (size_t i = first; i < first + count; i++)
		__atomic_store_n(&states[i], KARENA_REQUESTED, __ATOMIC_RELEASE);
	if (!madvise(start, count * KARENA_ARENA_SIZE, MADV_POPULATE_WRITE))
		return 0;
	/* Arenas before the one that failed may have memory: release them. */
	madvise(start, count * KARENA_ARENA_SIZE, MADV_REMOVE);
	return -1;
}

/* Commit pages of an arena that is FREE or sparse. The kernel does not know which of
 * them is the last, so the process writes ACTIVE, also after a failure.
 */
static int commit_pages(char *window, uint32_t *states, size_t arena, size_t first,
			size_t count)
{
	char *start = window + arena * KARENA_ARENA_SIZE + first * 4096;
	int ret;

	__atomic_store_n(&states[arena], KARENA_REQUESTED | KARENA_SPARSE, __ATOMIC_RELEASE);
	ret = madvise(start, count * 4096, MADV_POPULATE_WRITE);
	__atomic_store_n(&states[arena], KARENA_ACTIVE | KARENA_SPARSE, __ATOMIC_RELEASE);
	return ret;
}

/* Make an arena volatile; the result is needed to use it again. */
static uint32_t make_volatile(uint32_t *states, size_t arena)
{
	struct timespec now;
	uint32_t word;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	word = KARENA_VOLATILE_SINCE(now.tv_sec * 1000000000ULL + now.tv_nsec);
	__atomic_store_n(&states[arena], word, __ATOMIC_RELEASE);
	return word;
}

/* Use a volatile arena again. Returns 1 if its data are intact. */
static int reuse(uint32_t *states, size_t arena, uint32_t word)
{
	return __atomic_compare_exchange_n(&states[arena], &word, KARENA_ACTIVE, 0,
					   __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

/* A descriptor of a heap of this process, by an address in its window. */
static int attach(const void *address)
{
	struct karena_attach attach = {
		.size = sizeof(attach),
		.address = (uintptr_t)address,
	};
	int device = open(KARENA_DEVICE, O_RDWR | O_CLOEXEC), heap;

	if (device < 0)
		return -1;
	heap = ioctl(device, KARENA_ATTACH, &attach);
	close(device);
	return heap;
}

/* Set both limits of a heap. EPERM: root has set the hard limit. */
static int set_limits(int heap, uint64_t hard, uint64_t soft)
{
	struct karena_limit limit = {
		.size = sizeof(limit),
		.flags = KARENA_LIMIT_HARD | KARENA_LIMIT_SOFT,
		.hard = hard,
		.soft = soft,
	};

	return ioctl(heap, KARENA_LIMIT, &limit);
}

/* Keep frames cleared ahead, on any node. */
static int keep_ready(int heap, uint32_t count)
{
	struct karena_ready ready = {
		.size = sizeof(ready),
		.count = count,
		.node = KARENA_NODE_ANY,
	};

	return ioctl(heap, KARENA_READY, &ready);
}

/* Commit two whole arenas and the first 64 KiB of a third, each with its own result. */
static int commit_list(int heap, uint64_t arena)
{
	struct karena_range list[] = {
		{ .offset = arena * KARENA_ARENA_SIZE, .length = 2 * KARENA_ARENA_SIZE },
		{ .offset = (arena + 2) * KARENA_ARENA_SIZE, .length = 65536 },
	};
	struct karena_ranges ranges = {
		.size = sizeof(ranges),
		.ranges = (uintptr_t)list,
		.nr = 2,
	};

	if (!ioctl(heap, KARENA_COMMIT, &ranges))
		return 0;
	for (int i = 0; i < 2; i++)
		if (list[i].result)
			fprintf(stderr, "range %d: %s\n", i, strerror(-list[i].result));
	return -1;
}

/* Release three of every four pages of an arena in one call, so it becomes sparse. */
static int release_most(int heap, uint64_t arena)
{
	static struct karena_range list[128];
	struct karena_ranges ranges = {
		.size = sizeof(ranges),
		.ranges = (uintptr_t)list,
		.nr = 128,
	};

	for (int i = 0; i < 128; i++)
		list[i] = (struct karena_range){
			.offset = arena * KARENA_ARENA_SIZE + i * 4 * 4096 + 4096,
			.length = 3 * 4096,
		};
	return ioctl(heap, KARENA_RELEASE, &ranges);
}

/* A read-only image of a heap. The object at address A of the heap is at
 * image + (A - snapshot->start).
 */
static const char *take_image(int heap, struct karena_snapshot *snapshot)
{
	const char *image;
	int fd;

	*snapshot = (struct karena_snapshot){ .size = sizeof(*snapshot) };
	fd = ioctl(heap, KARENA_SNAPSHOT, snapshot);
	if (fd < 0)
		return NULL;	/* ENOMEM: usually RLIMIT_MEMLOCK */
	image = mmap(NULL, snapshot->window, PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	return image == MAP_FAILED ? NULL : image;
}

/* A descriptor by which another process maps arenas read-only. */
static int share_arenas(int heap, uint64_t arena, uint64_t count)
{
	struct karena_share share = {
		.size = sizeof(share),
		.offset = arena * KARENA_ARENA_SIZE,
		.length = count * KARENA_ARENA_SIZE,
	};

	return ioctl(heap, KARENA_SHARE, &share);
}

/* Return true if memory has become short since the last call. */
static int pressure_risen(struct karena_control *control)
{
	uint32_t word = __atomic_load_n(&control->pressure, __ATOMIC_ACQUIRE);
	uint32_t seen = __atomic_load_n(&control->pressure_seen, __ATOMIC_RELAXED);

	if (KARENA_PRESSURE_LEVEL(word) == KARENA_PRESSURE_NONE || word >> 2 == seen >> 2)
		return 0;
	__atomic_store_n(&control->pressure_seen, word, __ATOMIC_RELEASE);
	return 1;
}

/* Wait for pressure, up to a time in milliseconds. */
static int wait_for_pressure(int heap, struct karena_control *control, int timeout)
{
	struct pollfd pollfd = { .fd = heap, .events = POLLPRI };

	return poll(&pollfd, 1, timeout) > 0 && pressure_risen(control);
}

/* Write statistics for sysfs; one thread at a time. */
static void write_stats(struct karena_control *control, const struct karena_stats *now)
{
	struct karena_stats *page = (void *)((char *)control + control->stats_offset);
	size_t skip = offsetof(struct karena_stats, arenas_allocated);
	uint32_t sequence = page->sequence;

	__atomic_store_n(&page->sequence, sequence + 1, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_RELEASE);
	memcpy((char *)page + skip, (const char *)now + skip, sizeof(*now) - skip);
	__atomic_store_n(&page->sequence, sequence + 2, __ATOMIC_RELEASE);
	page->version = KARENA_STATS_VERSION;
}

static int failed(const char *call)
{
	perror(call);
	return 1;
}

int main(void)
{
	struct karena_info info = { .size = sizeof(info) };
	struct karena_create create = {
		.size = sizeof(create),
		.window = ARENAS * KARENA_ARENA_SIZE,
		.limit = 12 * KARENA_ARENA_SIZE,
		.name = "example",
		.fork = KARENA_FORK_COW,
		.policy = KARENA_POLICY_DEFAULT,
	};
	struct karena_stats stats = { .arenas_allocated = 2, .arenas = 2 };
	struct karena_snapshot snapshot;
	struct karena_control *control;
	const char *image;
	uint32_t *states;
	int device, heap;
	uint32_t word;
	char *window;

	/* 1. Open the device and check its version. */
	device = open(KARENA_DEVICE, O_RDWR | O_CLOEXEC);
	if (device < 0 || ioctl(device, KARENA_INFO, &info)) {
		perror(KARENA_DEVICE);
		return 2;
	}
	if (info.abi_version != KARENA_ABI_VERSION) {
		fprintf(stderr, "the module has another ABI version\n");
		return 2;
	}

	/* 2. Create a heap. */
	heap = ioctl(device, KARENA_CREATE, &create);
	if (heap < 0)
		return failed("KARENA_CREATE");

	/* 3. Map its window and its control region; keep no descriptor. */
	window = mmap(NULL, create.window, PROT_READ | PROT_WRITE, MAP_SHARED, heap, 0);
	control = mmap(NULL, create.control_size, PROT_READ | PROT_WRITE, MAP_SHARED, heap,
		       create.control_offset);
	if (window == MAP_FAILED || control == MAP_FAILED)
		return failed("mmap");
	close(heap);
	close(device);
	states = (uint32_t *)((char *)control + control->states_offset);

	/* 4. Commit arenas 0 and 1; 5. use them: zeroed memory, each mapped by one PMD. */
	if (commit_arenas(window, states, 0, 2))
		return failed("MADV_POPULATE_WRITE");
	memset(window, 42, 2 * KARENA_ARENA_SIZE);
	printf("heap %llu: arena 0 is in state %u\n", (unsigned long long)create.id,
	       KARENA_STATE(__atomic_load_n(&states[0], __ATOMIC_ACQUIRE)));

	/* Volatile and back: one store, one compare-and-swap. */
	word = make_volatile(states, 1);
	printf("reused with its data: %s\n", reuse(states, 1, word) ? "yes" : "no");

	/* The calls that need a descriptor. */
	heap = attach(window);
	if (heap < 0)
		return failed("KARENA_ATTACH");
	if (set_limits(heap, 10 * KARENA_ARENA_SIZE, 8 * KARENA_ARENA_SIZE))
		return failed("KARENA_LIMIT");
	if (keep_ready(heap, 1))
		return failed("KARENA_READY");
	if (commit_list(heap, 4))
		return failed("KARENA_COMMIT");
	if (release_most(heap, 4))
		return failed("KARENA_RELEASE");
	if (commit_pages(window, states, 7, 0, 16))
		return failed("MADV_POPULATE_WRITE of pages");
	image = take_image(heap, &snapshot);
	if (!image)
		return failed("KARENA_SNAPSHOT");
	window[0] = 1;
	printf("the image has %d, the heap %d\n", image[0], window[0]);
	if (share_arenas(heap, 0, 1) < 0)
		return failed("KARENA_SHARE");
	write_stats(control, &stats);
	printf("pressure: %s\n", wait_for_pressure(heap, control, 0) ? "yes" : "no");

	/* 6. Release arena 1; arena 0 keeps its contents. */
	if (madvise(window + KARENA_ARENA_SIZE, KARENA_ARENA_SIZE, MADV_REMOVE))
		return failed("MADV_REMOVE");
	printf("arena 1 is in state %u\n",
	       KARENA_STATE(__atomic_load_n(&states[1], __ATOMIC_ACQUIRE)));

	/* 7. The heap ends with its last mapping and descriptor. */
	close(heap);
	munmap(window, create.window);
	munmap(control, create.control_size);
	return 0;
}
