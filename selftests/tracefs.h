/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Helpers for tests of the module's tracepoints.
 */
#ifndef KARENA_SELFTESTS_TRACEFS_H
#define KARENA_SELFTESTS_TRACEFS_H

#include <sys/mount.h>

#include "common.h"

#define TRACING	"/sys/kernel/tracing"

/* Trace all events of the module from now on. Return 0 or -errno. */
static inline int trace_start(void)
{
	if (access(TRACING "/events", F_OK))
		mount("tracefs", TRACING, "tracefs", 0, NULL);
	return write_text(TRACING "/trace", "") ?:
	       write_text(TRACING "/events/karena/enable", "1");
}

static inline void trace_stop(void)
{
	write_text(TRACING "/events/karena/enable", "0");
}

/* Read the trace as a string. */
static inline void trace_read(char *text, size_t size)
{
	int fd = open(TRACING "/trace", O_RDONLY | O_CLOEXEC);
	size_t length = 0;
	ssize_t got;

	while (fd >= 0 && length < size - 1 &&
	       (got = read(fd, text + length, size - 1 - length)) > 0)
		length += got;
	text[length] = 0;
	if (fd >= 0)
		close(fd);
}

/* Return true if the trace has a line of this event and heap that contains the text. */
static inline bool traced(const char *trace, const struct heap *heap, const char *event,
			  const char *what)
{
	char start[128];

	snprintf(start, sizeof(start), "%s: heap=%llu %s", event,
		 (unsigned long long)heap->id, what);
	return strstr(trace, start);
}

#endif
