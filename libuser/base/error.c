// SPDX-License-Identifier: MIT
/*
 * The error message of each thread.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"

static __thread char message[256] = "no call of this thread has failed";

int ka_fail(int error, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	/*
	 * Most processes only ever fail to find the module. For them, vsnprintf() would touch
	 * 130 KiB of libc.
	 */
	if (strchr(format, '%'))
		vsnprintf(message, sizeof(message), format, arguments);
	else
		strncpy(message, format, sizeof(message) - 1);
	va_end(arguments);
	errno = error;
	return -1;
}

/* Fail because the heap belongs to the parent process. Returns true. */
bool ka_fail_inherited(void)
{
	ka_fail(EOWNERDEAD, "the heap is the parent process's: a forked child has no copy of it");
	return true;
}

const char *ka_error(void)
{
	return message;
}

const char *ka_version(void)
{
	return KARENA_VERSION;
}

/**
 * ka_ignore() - Print the last error message, and that the invalid setting is ignored.
 */
void ka_ignore(void)
{
	char line[512];
	int length = snprintf(line, sizeof(line), "karena: %s; the setting is ignored\n", message);

	ka_write(STDERR_FILENO, line, (size_t)length);
}

/* End the program with the last error message, where the caller cannot return it. */
void ka_die(const char *what)
{
	char line[512];
	int length = snprintf(line, sizeof(line), "karena: %s: %s\n", what, message);

	ka_write(STDERR_FILENO, line, (size_t)length);
	abort();
}
