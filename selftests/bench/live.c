// SPDX-License-Identifier: GPL-2.0
/*
 * The cost of a large heap: the program allocates as many MiB of blocks as the argument
 * says and keeps them; then it replaces random blocks, forks, reads the allocator's
 * statistics, frees half of the blocks and returns the memory. Prints a line for each value
 * with its name: ns per block or pair, us per call, ms, and KiB resident.
 *
 * Statistics are read, and memory is returned, by the function that each allocator has for
 * it. Without such a function nothing is printed. Resident memory includes the list of
 * blocks, except in the last value.
 */
#include <dlfcn.h>
#include <malloc.h>
#include <stdbool.h>
#include <sys/wait.h>

#include "blocks.h"

#define LEAST		16UL
#define MOST		1024UL
#define PAIRS		1000000
#define CALLS		20		/* of each kind, unless they are slow */
#define SECONDS		3.0		/* or until this time */
#define ALL_ARENAS	4096		/* MALLCTL_ARENAS_ALL of jemalloc */

struct heap {
	void **blocks;
	size_t n, size;		/* number of blocks, and bytes of their list */
	uint64_t state;
};

/* Small sizes are more frequent: the mean is at a third of the range. */
static size_t some_size(uint64_t *state)
{
	size_t one = below(state, MOST - LEAST + 1), other = below(state, MOST - LEAST + 1);

	return LEAST + (one < other ? one : other);
}

static void print(const char *name, double value)
{
	dprintf(STDOUT_FILENO, "%s %.3f\n", name, value);
}

/* Functions of allocators in addition to malloc. */
typedef int mallctl_t(const char *name, void *old, size_t *old_size, void *new,
		      size_t new_size);
typedef int property_t(const char *name, size_t *value);
typedef void print_t(const char *text, void *argument);
typedef void print_stats_t(print_t *print, void *argument);
typedef void release_t(void);
typedef void collect_t(bool force);

/* Find a function of the preloaded allocator; NULL if it has none. */
static void *theirs(const char *name)
{
	return dlsym(RTLD_DEFAULT, name);
}

static void fill(struct heap *heap, size_t bytes)
{
	size_t size;

	for (size_t sum = 0; sum < bytes; sum += size) {
		size = some_size(&heap->state);
		heap->blocks[heap->n++] = take(size);
	}
}

static void replace_one(struct heap *heap)
{
	void **slot = &heap->blocks[below(&heap->state, heap->n)];

	free(*slot);
	*slot = take(some_size(&heap->state));
}

static void replace(struct heap *heap)
{
	double start = now();

	for (int i = 0; i < PAIRS; i++)
		replace_one(heap);
	print("pair", (now() - start) * 1e9 / PAIRS);
}

/*
 * Print the mean of several calls. The heap changes between them, so that no call finds it
 * unchanged.
 */
static void print_calls(const char *name, struct heap *heap, void (*call)(void))
{
	double seconds = 0;
	int n;

	for (n = 0; n < CALLS && seconds < SECONDS; n++) {
		double start = now();

		call();
		seconds += now() - start;
		replace_one(heap);
	}
	print(name, seconds * 1e6 / n);
}

static void fork_once(void)
{
	pid_t pid = fork();
	int status;

	if (pid == 0)
		_exit(0);
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
		die("fork");
}

static void ignore(const char *text, void *argument)
{
	(void)text;
	(void)argument;
}

/* Use the first function that exists. mallinfo2() always does, at least glibc's. */
static void read_statistics(void)
{
	property_t *property = theirs("MallocExtension_GetNumericProperty");
	print_stats_t *print_stats = theirs("mi_stats_print_out");
	mallctl_t *mallctl = theirs("mallctl");
	size_t value, size = sizeof(value);
	uint64_t epoch = 1;

	if (print_stats) {
		print_stats(ignore, NULL);
	} else if (mallctl) {
		if (mallctl("epoch", NULL, NULL, &epoch, sizeof(epoch)) ||
		    mallctl("stats.allocated", &value, &size, NULL, 0))
			die("mallctl");
	} else if (property) {
		if (!property("generic.current_allocated_bytes", &value))
			die("MallocExtension_GetNumericProperty");
	} else if (mallinfo2().arena + mallinfo2().hblkhd == 0) {
		die("mallinfo2");
	}
}

/* The file in which karena shows a heap's statistics to other processes. */
static char shown[64];

static bool is_shown(void)
{
	for (int number = 0; number < 4; number++) {
		snprintf(shown, sizeof(shown), "/dev/shm/karena.%u/%d.%d", geteuid(),
			 (int)getpid(), number);
		if (access(shown, R_OK) == 0)
			return true;
	}
	return false;
}

static void read_shown(void)
{
	int fd = open(shown, O_RDONLY | O_CLOEXEC);
	char page[PAGE];

	if (fd < 0 || read(fd, page, sizeof(page)) != sizeof(page))
		die(shown);
	close(fd);
}

static void give_back(void)
{
	release_t *release = theirs("MallocExtension_ReleaseFreeMemory");
	collect_t *collect = theirs("mi_collect");
	mallctl_t *mallctl = theirs("mallctl");
	char purge[32];

	if (collect) {
		collect(true);
	} else if (mallctl) {
		snprintf(purge, sizeof(purge), "arena.%d.purge", ALL_ARENAS);
		if (mallctl("thread.tcache.flush", NULL, NULL, NULL, 0) ||
		    mallctl(purge, NULL, NULL, NULL, 0))
			die(purge);
	} else if (release) {
		release();
	} else {
		malloc_trim(0);
	}
}

static void free_half(struct heap *heap)
{
	size_t n = 0;

	for (size_t i = 0; i < heap->n; i++) {
		if (below(&heap->state, 2))
			free(heap->blocks[i]);
		else
			heap->blocks[n++] = heap->blocks[i];
	}
	heap->n = n;
}

static void print_giving_back(struct heap *heap)
{
	double start;

	print("rss-full", (double)status_member("VmRSS:"));
	free_half(heap);
	print("rss-freed", (double)status_member("VmRSS:"));
	start = now();
	give_back();
	print("give-back", (now() - start) * 1e3);
	print("rss-given-back", (double)status_member("VmRSS:"));
	free_all(heap->blocks, heap->n);
	munmap(heap->blocks, heap->size);
	give_back();
	print("rss-end", (double)status_member("VmRSS:"));
}

int main(int argc, char **argv)
{
	size_t bytes = (argc == 2 ? strtoul(argv[1], NULL, 10) : 0) * MIB;
	struct heap heap = { .state = 1 };
	double start;

	if (!bytes) {
		fprintf(stderr, "Usage: live MIB\n");
		return 2;
	}
	heap.size = bytes / LEAST * sizeof(*heap.blocks);
	heap.blocks = pages(heap.size);
	start = now();
	fill(&heap, bytes);
	print("fill", (now() - start) * 1e9 / (double)heap.n);
	replace(&heap);
	print_calls("fork", &heap, fork_once);
	print_calls("read", &heap, read_statistics);
	if (is_shown())
		print_calls("read-shown", &heap, read_shown);
	print_giving_back(&heap);
	return 0;
}
