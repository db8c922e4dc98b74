/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Shared by the benchmarks of malloc. They call malloc and free like any program, so
 * LD_PRELOAD selects the allocator. They get their own memory from mmap.
 */
#ifndef BENCH_BLOCKS_H
#define BENCH_BLOCKS_H

#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define KIB		1024UL
#define MIB		(1024 * KIB)
#define PAGE		4096
#define MAX_THREADS	64

static inline void die(const char *what)
{
	perror(what);
	exit(1);
}

static inline void *pages(size_t size)
{
	void *map = mmap(NULL, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (map == MAP_FAILED)
		die("mmap");
	return map;
}

/* The same numbers in every run and with every allocator: xorshift64*. */
static inline uint64_t next_random(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * 0x2545f4914f6cdd1dULL;
}

static inline size_t below(uint64_t *state, size_t limit)
{
	return (size_t)((next_random(state) >> 32) * limit >> 32);
}

/* Write to both ends of the block and to each of its pages, like a program that uses it. */
static inline void *use(void *block, size_t size)
{
	volatile char *bytes = block;

	if (!block)
		die("no memory");
	for (size_t at = 0; at < size; at += PAGE)
		bytes[at] = 1;
	bytes[size - 1] = 1;
	return block;
}

/* The compiler knows malloc, and would remove calls whose block is never seen. */
static inline void *take(size_t size)
{
	return use(malloc(size), size);
}

static inline void free_all(void **blocks, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(blocks[i]);
}

static inline double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* A member of /proc/self/status in KiB, read without calling malloc. */
static inline unsigned long status_member(const char *name)
{
	int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
	char text[8192], *at;
	ssize_t n;

	if (fd < 0)
		die("/proc/self/status");
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n > 0 ? n : 0] = '\0';
	at = strstr(text, name);
	if (!at) {
		fprintf(stderr, "/proc/self/status has no %s\n", name);
		exit(1);
	}
	return strtoul(at + strlen(name), NULL, 10);
}

/* Start n threads, with arguments of this size each, and wait for them. */
static inline void on_threads(int n, void *(*start)(void *), void *arguments, size_t size)
{
	pthread_t threads[MAX_THREADS];

	for (int i = 0; i < n; i++) {
		if (pthread_create(&threads[i], NULL, start,
				   (char *)arguments + (size_t)i * size))
			die("pthread_create");
	}
	for (int i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
}

#endif /* BENCH_BLOCKS_H */
