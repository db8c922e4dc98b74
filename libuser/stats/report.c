// SPDX-License-Identifier: MIT
/*
 * A heap's statistics as text, in the layout of CPython's PYTHONMALLOCSTATS (obmalloc.c,
 * _PyObject_DebugMallocStats()). A heap has unused pages in place of CPython's unused pools. In
 * place of its map of arenas, the text has runs, metadata and, if they are counted, the domains.
 *
 * The heap is locked while the statistics are counted, but not while they are written, since
 * writing may block. Nothing here allocates, and little stack is used, since that of a thread
 * may be small.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "stats/stats.h"

/* Text that is to be written next. After an error nothing more is written. */
struct text {
	int fd;
	int error;
	size_t length;
	char bytes[1024];
};

/* Guards the two structs, so that one thread prints at a time. Taken before a heap's lock. */
static struct ka_mutex lock = KA_MUTEX;
KA_FORK_TAKES(lock);
static struct text text;
static struct {
	struct ka_stats stats;
	struct ka_class classes[KA_CLASSES];
	size_t nr_spare, spare_pages, metadata_pages;
	bool on_module;
	char name[KA_NAME_SIZE];
	const struct ka_tally *tallies;
} counted;

/* A heap is to be printed at exit. */
static bool at_exit_wanted;

#define LONGEST_LINE	128

static void flush(void)
{
	const char *from = text.bytes;

	while (text.length && !text.error) {
		ssize_t written = ka_write(text.fd, from, text.length);

		if (written < 0 && errno != EINTR)
			text.error = errno;
		if (written < 0)
			continue;
		from += written;
		text.length -= (size_t)written;
	}
	text.length = 0;
}

static void __attribute__((format(printf, 1, 2)))
line(const char *format, ...)
{
	va_list arguments;
	int length;

	if (sizeof(text.bytes) - text.length < LONGEST_LINE)
		flush();
	va_start(arguments, format);
	length = vsnprintf(text.bytes + text.length, LONGEST_LINE, format, arguments);
	va_end(arguments);
	/* vsnprintf() has truncated a longer line. */
	text.length += length < LONGEST_LINE ? (size_t)length : LONGEST_LINE - 1;
}

/* Print a label of 35 columns, and a value of 21 columns with commas. */
static void value(const char *label, size_t number)
{
	char digits[32], *at = digits + sizeof(digits) - 1;
	int count = 0;

	*at = 0;
	do {
		if (count && count % 3 == 0)
			*--at = ',';
		*--at = (char)('0' + number % 10);
		number /= 10;
		count++;
	} while (number);
	line("%-35s=%21s\n", label, at);
}

static void __attribute__((format(printf, 2, 3)))
named_value(size_t number, const char *format, ...)
{
	char label[64];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(label, sizeof(label), format, arguments);
	va_end(arguments);
	value(label, number);
}

/* Print a row for each class that has pools, and the counts of arenas. */
static void report_classes(void)
{
	struct ka_stats *stats = &counted.stats;

	line("Small block threshold = %zu, in %d size classes.\n\n", KA_BLOCK_MAX,
	     KA_CLASSES);
	line("class   size   num pools   blocks in use  avail blocks\n"
	     "-----   ----   ---------   -------------  ------------\n");
	for (unsigned int i = 0; i < KA_CLASSES; i++) {
		const struct ka_class *class = &counted.classes[i];

		if (class->pools)
			line("%5u %6zu %11zu %15zu %13zu\n", i, class->size, class->pools,
			     class->blocks, class->free_blocks);
	}
	line("\n");
	value("# arenas allocated total", stats->arenas_allocated);
	value("# arenas reclaimed", stats->arenas_reclaimed);
	value("# arenas highwater mark", stats->arenas_highwater);
	value("# arenas allocated current", stats->arenas);
	named_value(stats->arenas * KA_ARENA_SIZE, "%zu arenas * %zu bytes/arena",
		    stats->arenas, KA_ARENA_SIZE);
	line("\n");
}

static void report_bytes(void)
{
	const struct ka_stats *stats = &counted.stats;

	value("# bytes in allocated blocks", stats->used_bytes);
	value("# bytes in available blocks", stats->free_bytes);
	named_value(stats->available_bytes, "%zu unused pages * %zu bytes",
		    stats->available_bytes / KA_PAGE_SIZE, KA_PAGE_SIZE);
	value("# bytes lost to pool headers", stats->header_bytes);
	value("# bytes lost to quantization", stats->quantization_bytes);
	value("# bytes lost to arena alignment", stats->alignment_bytes);
	value("Total", stats->used_bytes + stats->free_bytes +
	      stats->available_bytes + stats->header_bytes + stats->quantization_bytes +
	      stats->alignment_bytes);
	line("\n");
}

static void report_runs(void)
{
	const struct ka_stats *stats = &counted.stats;

	line("runs and metadata\n");
	value("# runs that are no pools", stats->runs - stats->pools);
	value("# bytes in these", stats->run_bytes - stats->pool_bytes);
	value("# spare runs, in unused pages", counted.nr_spare);
	value("# bytes in these", counted.spare_pages * KA_PAGE_SIZE);
	value("# bytes of metadata", counted.metadata_pages * KA_PAGE_SIZE);
	line("\n");
}

static void report_domains(void)
{
	static const char *const names[] = { "raw", "mem", "obj" };
	const struct ka_tally *tallies = counted.tallies;

	if (!tallies)
		return;
	line("domains\n");
	for (int i = 0; i < KARENA_DOMAINS; i++) {
		named_value(KA_READ(tallies[i].blocks), "# blocks of %s", names[i]);
		value("# bytes in these", KA_READ(tallies[i].bytes));
	}
	line("\n");
}

/*
 * Count the statistics. The heap is locked, but threads go on. Two counts of blocks may differ,
 * so the sums are those of the rows.
 */
static void count(struct ka_heap *heap)
{
	const struct ka_metadata *metadata = ka_arenas_of(heap)->metadata;
	struct ka_stats *stats = &counted.stats;

	*stats = metadata->stats;
	ka_pool_stats(ka_pools_of(heap), stats);
	ka_stats_classes(heap, counted.classes);
	stats->blocks = 0;
	stats->block_bytes = 0;
	for (unsigned int i = 0; i < KA_CLASSES; i++) {
		stats->blocks += counted.classes[i].blocks;
		stats->block_bytes += counted.classes[i].blocks * counted.classes[i].size;
	}
	ka_stats_add_up(heap, stats);
	counted.nr_spare = ka_pools_of(heap)->nr_spare;
	counted.spare_pages = ka_arenas_of(heap)->spare_pages;
	counted.metadata_pages = metadata->pages + metadata->pools_pages;
	counted.on_module = ka_window_of(heap)->control;
	counted.tallies = heap->tallies;
	memcpy(counted.name, metadata->name, sizeof(counted.name));
	heap->shown.reported = stats->arenas_highwater;
	heap->shown.due = false;
}

/* Write the counted statistics: 0, or an errno. */
static int report(int fd)
{
	text.fd = fd;
	text.error = 0;
	text.length = 0;
	line("Heap \"%s\" of process %d, %s.\n", counted.name, (int)getpid(),
	     counted.on_module ? "on the module" : "on plain mmap");
	report_classes();
	report_bytes();
	report_runs();
	report_domains();
	flush();
	return text.error;
}

/**
 * ka_report_due() - Print a heap's statistics for KARENA_MALLOCSTATS.
 * @heap: The heap, which is not locked.
 *
 * Does nothing if another thread is printing now. Errors are ignored, and errno is kept.
 */
void ka_report_due(struct ka_heap *heap)
{
	int before = errno;

	if (ka_is_forking() || !ka_mutex_try(&lock))
		return;
	ka_mutex_lock(&ka_arenas_of(heap)->lock);
	count(heap);
	ka_mutex_unlock(&ka_arenas_of(heap)->lock);
	report(STDERR_FILENO);
	ka_mutex_unlock(&lock);
	errno = before;
}

/* Print a heap at exit. The heap's lock is held. */
static void report_last(struct ka_heap *heap)
{
	if (!heap->shown.report || ka_pools_of(heap)->inherited)
		return;
	count(heap);
	report(STDERR_FILENO);
}

__attribute__((destructor))
static void at_exit(void)
{
	if (at_exit_wanted && ka_mutex_try(&lock)) {
		ka_heaps_at_exit(report_last);
		ka_mutex_unlock(&lock);
	}
}

/**
 * ka_report_wanted() - Set up the report of a new heap if KARENA_MALLOCSTATS is set.
 * @heap: The heap.
 */
void ka_report_wanted(struct ka_heap *heap)
{
	const char *text_of = secure_getenv("KARENA_MALLOCSTATS");

	heap->shown.report = text_of && *text_of && strcmp(text_of, "0") != 0;
	if (heap->shown.report)
		__atomic_store_n(&at_exit_wanted, true, __ATOMIC_RELAXED);
}

int ka_heap_print_stats(struct ka_heap *heap, int fd)
{
	int error;

	if (ka_refuse_inherited(ka_pools_of(heap)))
		return -1;
	ka_lock(&lock);
	ka_lock(&ka_arenas_of(heap)->lock);
	count(heap);
	ka_unlock(&ka_arenas_of(heap)->lock);
	error = report(fd);
	ka_unlock(&lock);
	if (error)
		return ka_fail(error, "the statistics of a heap cannot be written: %s",
			       strerror(error));
	return 0;
}
