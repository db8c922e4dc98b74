// SPDX-License-Identifier: MIT
/*
 * The sentence that explains a failure, one a thread.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "internal.h"

static _Thread_local char sentence[256] = "nothing has failed";

int ka_fail(int error, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(sentence, sizeof(sentence), format, arguments);
	va_end(arguments);
	errno = error;
	return -1;
}

const char *ka_error(void)
{
	return sentence;
}

const char *ka_version(void)
{
	return KARENA_VERSION;
}
