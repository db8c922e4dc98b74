// SPDX-License-Identifier: GPL-2.0
/*
 * The cost of creating and destroying a heap, compared with an empty memfd: elapsed time,
 * and processor time including kernel threads. The first commit creates the directory in
 * sysfs. The commit itself is not measured, but the commit of an arena clears 2 MiB and
 * leaves cold caches behind, so the memfd in that comparison is created after the same
 * work.
 */
#include <sys/stat.h>

#include "bench.h"

#define CYCLES		20		/* of each kind in a round */
#define ARENAS		512		/* 1 GiB */
#define DEFAULT_ARENAS	32768		/* 64 GiB, libkarena's default */
#define REQUIRED	"<= 3"
#define HEAPS		"/sys/class/misc/karena/heaps"

enum kind {
	MEMFD, HEAP, HEAP_DEVICE, HEAP_LARGE, HEAP_PAGE, MEMFD_COLD, HEAP_ARENA, NR_KINDS
};

static const char * const names[] = {
	[MEMFD]		= "memfd",
	[HEAP]		= "heap",
	[HEAP_DEVICE]	= "heap, device opened too",
	[HEAP_LARGE]	= "heap, window of 64 GiB",
	[HEAP_PAGE]	= "heap, 4 KiB, directory",
	[MEMFD_COLD]	= "memfd, 2 MiB cleared",
	[HEAP_ARENA]	= "heap, 2 MiB, directory",
};

/* Elapsed time and processor time of a cycle. */
struct time {
	double wall;
	double cpu;
};

struct cost {
	struct series wall;
	struct series cpu;
};

static int device, heaps;

static struct time time_now(void)
{
	return (struct time){ now(), clock_us(CLOCK_PROCESS_CPUTIME_ID) };
}

static void time_add(struct time *sum, struct time from)
{
	struct time to = time_now();

	sum->wall += to.wall - from.wall;
	sum->cpu += to.cpu - from.cpu;
}

static void cycle_memfd(struct time *sum, bool cold)
{
	struct time start = time_now();
	int fd = memfd_create("bench", MFD_CLOEXEC);
	static char memory[ARENA];
	char *map;

	if (fd < 0)
		die("memfd_create");
	map = mmap(NULL, ARENAS * ARENA, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		die("mmap");
	close(fd);
	if (cold) {
		time_add(sum, start);
		memset(memory, 0, sizeof(memory));
		start = time_now();
	}
	munmap(map, ARENAS * ARENA);
	time_add(sum, start);
}

static void cycle_heap(struct time *sum, enum kind kind)
{
	struct time start = time_now();
	struct heap heap;

	if (kind == HEAP_DEVICE)
		heap_make(&heap, ARENAS);
	else
		heap_make_on(device, &heap, kind == HEAP_LARGE ? DEFAULT_ARENAS :
			     ARENAS);
	heap_destroy(&heap);
	time_add(sum, start);
}

static nlink_t directories(void)
{
	struct stat stat;

	if (fstat(heaps, &stat))
		die(HEAPS);
	return stat.st_nlink;
}

/*
 * Looking for the directory is not part of the work, so its processor time does not count.
 */
static void await_directory(struct time *sum, nlink_t before)
{
	double start = now();

	while (directories() == before) {
		if (now() - start > 10e6) {
			fprintf(stderr, "no directory comes\n");
			exit(1);
		}
		sched_yield();
	}
	sum->wall += now() - start;
}

static void cycle_directory(struct time *sum, enum kind kind)
{
	nlink_t before = directories();
	struct time start = time_now();
	struct heap heap;

	heap_make_on(device, &heap, ARENAS);
	time_add(sum, start);
	if (kind == HEAP_PAGE)
		heap_commit_as(&heap, 4096, KARENA_REQUESTED | KARENA_SPARSE);
	else
		heap_commit(&heap, 1);
	await_directory(sum, before);
	start = time_now();
	heap_destroy(&heap);
	time_add(sum, start);
}

static void measure(struct cost *cost, enum kind kind)
{
	double kernel = kernel_cpu();
	struct time sum = {};

	for (int i = 0; i < CYCLES; i++) {
		if (kind == MEMFD || kind == MEMFD_COLD)
			cycle_memfd(&sum, kind == MEMFD_COLD);
		else if (kind == HEAP_PAGE || kind == HEAP_ARENA)
			cycle_directory(&sum, kind);
		else
			cycle_heap(&sum, kind);
	}
	/* Later work of kernel workers, after RCU, is included. */
	usleep(60000);
	kernel = kernel_cpu() - kernel;
	record(&cost->wall, sum.wall / CYCLES);
	record(&cost->cpu, (sum.cpu + kernel) / CYCLES);
}

static void print(const char *name, const struct cost *cost,
		  const struct cost *memfd)
{
	const char *required = cost == memfd ? NULL : REQUIRED;

	printf("%-26s%7.1f us", name, median(&cost->wall));
	print_ratio(median(&cost->wall) / median(&memfd->wall), required);
	printf("%7.1f us", median(&cost->cpu));
	print_ratio(median(&cost->cpu) / median(&memfd->cpu), required);
	printf("%4d\n", cost->wall.n);
}

static void compare_kinds(const char *title)
{
	struct cost costs[NR_KINDS] = {};
	char what[64];

	for (int round = -1; round < ROUNDS; round++) {
		warm_up = round < 0;
		for (int kind = 0; kind < NR_KINDS; kind++)
			measure(&costs[kind], kind);
	}
	printf("%-26s%10s%7s%7s%10s%7s%7s%4s\n", title, "time", "ratio", "",
	       "CPU", "ratio", "", "n");
	for (int kind = 0; kind < NR_KINDS; kind++) {
		print(names[kind], &costs[kind],
		      &costs[kind < MEMFD_COLD ? MEMFD : MEMFD_COLD]);
		snprintf(what, sizeof(what), "made and destroyed, %s", title);
		report("heap", what, names[kind], "us", &costs[kind].wall);
		snprintf(what, sizeof(what), "made and destroyed, %s: CPU", title);
		report("heap", what, names[kind], "us", &costs[kind].cpu);
	}
}

int main(void)
{
	struct heap other;

	device = device_open();
	heaps = open(HEAPS, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (heaps < 0)
		die(HEAPS);
	printf("A heap made and destroyed, against a memfd; medians of rounds of %d\n",
	       CYCLES);
	compare_kinds("no other heap alive");
	heap_make(&other, ARENAS);
	compare_kinds("another heap alive");
	heap_destroy(&other);
	return 0;
}
