// SPDX-License-Identifier: MIT
/*
 * Tracing by the environment. KARENA_TRACE, the interval, starts tracing when the library is
 * loaded; at exit the traces are written to KARENA_TRACE_FILE. Invalid values are reported at
 * load and ignored.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "trace/trace.h"

#define DEFAULT_FILE	"karena-trace.%p.json"
#define FRAMES		32

/*
 * The file's name before %p is replaced, copied since the program may change the environment.
 * NULL: do not write.
 */
static const char *pattern;
static char pattern_bytes[PATH_MAX];

/* Print that a variable is ignored because its value is no valid @what. */
static void refuse(const char *variable, const char *what, const char *text, const char *allowed)
{
	ka_fail(EINVAL, "%s: invalid %s '%.80s' (%s)", variable, what, text, allowed);
	ka_ignore();
}

/* Make the file's name: %p stands for the process's number, and %% for %. Return 0, or -1. */
static int file_name(char name[PATH_MAX], const char *text)
{
	size_t used = 0;

	for (; *text; text++) {
		int length = 1;

		if (*text != '%')
			name[used] = *text;
		else if (*++text == '%')
			name[used] = '%';
		else if (*text == 'p')
			length = snprintf(name + used, PATH_MAX - used, "%d", (int)getpid());
		else
			return -1;
		used += (size_t)length;
		/* Leave room for a number. */
		if (used > PATH_MAX - 16)
			return -1;
	}
	name[used] = '\0';
	return 0;
}

static bool ends_in(const char *text, const char *end)
{
	size_t length = strlen(text), tail = strlen(end);

	return length >= tail && !strcmp(text + length - tail, end);
}

/* Start tracing at load if the environment asks for it. */
__attribute__((constructor))
static void begin(void)
{
	const char *text = secure_getenv("KARENA_TRACE");
	const char *file = secure_getenv("KARENA_TRACE_FILE");
	char name[PATH_MAX];
	size_t interval;

	if (!text || !*text)
		return;
	if (!file || !*file)
		file = DEFAULT_FILE;
	if (strlen(file) >= PATH_MAX || file_name(name, file)) {
		refuse("KARENA_TRACE_FILE", "file name", file, "use %p for the number of the"
		       " process, %% for %, and no other %");
		file = DEFAULT_FILE;
	}
	if (ka_parse_size(text, &interval) || ka_trace_start(interval, FRAMES)) {
		refuse("KARENA_TRACE", "interval", text, "1 traces all blocks, 512K one block in"
		       " each 512 KiB; at most 1T");
		return;
	}
	memcpy(pattern_bytes, file, strlen(file) + 1);
	pattern = pattern_bytes;
}

/* Write the traces of this process: 0, or -1 with a message for ka_error(). */
static int write_traces(void)
{
	struct ka_traces *traces = ka_trace_snapshot(KA_TRACE_BY_STACK);
	char name[PATH_MAX];
	int error;

	if (!traces)
		return -1;
	file_name(name, pattern);
	error = ka_trace_write(traces, name, ends_in(name, ".folded") ? KA_TRACE_FOLDED :
			       KA_TRACE_JSON);
	ka_trace_free(traces);
	return error;
}

/* Write the traces at exit. Tracing goes on, since other destructors may still use the heap. */
__attribute__((destructor))
static void end(void)
{
	if (pattern && ka_heaps_any() && write_traces())
		fprintf(stderr, "karena: %s\n", ka_error());
}

/**
 * ka_traces_open() - Attach the tracer before the first heap is used.
 *
 * The call makes the linker include this file, with its constructor and destructor, in programs
 * that link libkarena.a.
 */
void ka_traces_open(void)
{
	ka_trace_attach();
}
