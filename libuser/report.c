// SPDX-License-Identifier: MIT
/*
 * A heap's figures as text, in the layout of CPython's PYTHONMALLOCSTATS (obmalloc.c,
 * _PyObject_DebugMallocStats()): who reads one can read the other. Where that has
 * unused pools, a heap has unused pages; in place of its arena map, runs and notes, and the
 * domains, where they are counted.
 *
 * It is written while the heap is locked, so nothing here allocates.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <linux/karena.h>

#include "pool.h"

/* What is to be written next; after an error, nothing. */
struct text {
	int fd;
	int error;
	size_t length;
	char bytes[1024];
};

#define LONGEST_LINE	128

static void flush(struct text *text)
{
	const char *from = text->bytes;

	while (text->length && !text->error) {
		ssize_t written = write(text->fd, from, text->length);

		if (written < 0 && errno != EINTR)
			text->error = errno;
		if (written < 0)
			continue;
		from += written;
		text->length -= (size_t)written;
	}
	text->length = 0;
}

static void __attribute__((format(printf, 2, 3)))
line(struct text *text, const char *format, ...)
{
	va_list arguments;

	if (sizeof(text->bytes) - text->length < LONGEST_LINE)
		flush(text);
	va_start(arguments, format);
	text->length += (size_t)vsnprintf(text->bytes + text->length, LONGEST_LINE, format,
					  arguments);
	va_end(arguments);
}

/* A label of 35 columns, and a value with commas of 21. */
static void value(struct text *text, const char *label, size_t number)
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
	line(text, "%-35s=%21s\n", label, at);
}

static void __attribute__((format(printf, 3, 4)))
named_value(struct text *text, size_t number, const char *format, ...)
{
	char label[64];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(label, sizeof(label), format, arguments);
	va_end(arguments);
	value(text, label, number);
}

/* The rows; blocks in these, and bytes of them, as the rows have them. */
static void report_classes(struct text *text, const struct ka_class *classes,
			   struct ka_stats *stats)
{
	line(text, "Small block threshold = %zu, in %d size classes.\n\n", KA_BLOCK_MAX,
	     KA_CLASSES);
	line(text, "class   size   num pools   blocks in use  avail blocks\n"
	     "-----   ----   ---------   -------------  ------------\n");
	stats->blocks = 0;
	stats->block_bytes = 0;
	for (unsigned int i = 0; i < KA_CLASSES; i++) {
		const struct ka_class *class = &classes[i];

		stats->blocks += class->blocks;
		stats->block_bytes += class->blocks * class->size;
		if (class->pools)
			line(text, "%5u %6zu %11zu %15zu %13zu\n", i, class->size,
			     class->pools, class->blocks, class->free_blocks);
	}
	line(text, "\n");
}

static void report_arenas(struct text *text, const struct ka_stats *stats)
{
	value(text, "# arenas allocated total", stats->arenas_allocated);
	value(text, "# arenas reclaimed", stats->arenas_reclaimed);
	value(text, "# arenas highwater mark", stats->arenas_highwater);
	value(text, "# arenas allocated current", stats->arenas);
	named_value(text, stats->arenas * KA_ARENA_SIZE, "%zu arenas * %zu bytes/arena",
		    stats->arenas, KA_ARENA_SIZE);
	line(text, "\n");
}

static void report_bytes(struct text *text, const struct ka_stats *stats)
{
	value(text, "# bytes in allocated blocks", stats->used_bytes);
	value(text, "# bytes in available blocks", stats->free_bytes);
	named_value(text, stats->available_bytes, "%zu unused pages * %zu bytes",
		    stats->available_bytes / KA_PAGE_SIZE, KA_PAGE_SIZE);
	value(text, "# bytes lost to pool headers", stats->header_bytes);
	value(text, "# bytes lost to quantization", stats->quantization_bytes);
	value(text, "# bytes lost to arena alignment", stats->alignment_bytes);
	value(text, "Total", stats->used_bytes + stats->free_bytes +
	      stats->available_bytes + stats->header_bytes + stats->quantization_bytes +
	      stats->alignment_bytes);
	line(text, "\n");
}

static void report_runs(struct text *text, const struct ka_heap *heap,
			const struct ka_stats *stats)
{
	const struct ka_notes *notes = heap->notes;

	line(text, "runs and notes\n");
	value(text, "# runs that are no pools", stats->runs - stats->pools);
	value(text, "# bytes in these", stats->run_bytes - stats->pool_bytes);
	value(text, "# spare runs, in unused pages", heap->nr_spare);
	value(text, "# bytes in these", heap->spare_slots * KA_SLOT_SIZE);
	value(text, "# bytes of notes beside the arenas",
	      (notes->pages + notes->pools_pages) * KA_PAGE_SIZE);
	line(text, "\n");
}

/* If they are counted. */
static void report_domains(struct text *text, const struct ka_tally *tallies)
{
	static const char *const names[] = { "raw", "mem", "obj" };

	if (!tallies)
		return;
	line(text, "domains\n");
	for (int i = 0; i < KARENA_DOMAINS; i++) {
		named_value(text, KA_READ(tallies[i].blocks), "# blocks of %s", names[i]);
		value(text, "# bytes in these", KA_READ(tallies[i].bytes));
	}
	line(text, "\n");
}

/**
 * ka_report() - Write a heap's figures.
 * @heap: The heap, whose lock is held.
 * @fd: The descriptor.
 *
 * Return: 0, or an errno.
 */
int ka_report(struct ka_heap *heap, int fd)
{
	struct ka_stats stats = heap->notes->stats;
	struct ka_class classes[KA_CLASSES];
	struct text text;

	text.fd = fd;
	text.error = 0;
	text.length = 0;
	ka_pool_figures(heap, &stats);
	ka_stats_classes(heap, classes);
	line(&text, "Heap \"%s\" of process %d, %s.\n", heap->shown.name, (int)getpid(),
	     heap->window.control ? "on the module" : "on plain mmap");
	/* Threads go on: of two counts of their blocks, the rows' is taken. */
	report_classes(&text, classes, &stats);
	ka_stats_add_up(heap, &stats);
	report_arenas(&text, &stats);
	report_bytes(&text, &stats);
	report_runs(&text, heap, &stats);
	report_domains(&text, heap->tallies);
	flush(&text);
	return text.error;
}

int ka_heap_print_stats(struct ka_heap *heap, int fd)
{
	int error;

	if (ka_refuse_inherited(heap))
		return -1;
	pthread_mutex_lock(&heap->lock);
	error = ka_report(heap, fd);
	pthread_mutex_unlock(&heap->lock);
	if (error)
		return ka_fail(error, "the figures of a heap cannot be written: %s",
			       strerror(error));
	return 0;
}
