// SPDX-License-Identifier: MIT
/*
 * Sizes as text: parsed and formatted.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

static const char suffixes[] = "KMGT";

/* Parse a number of bytes, perhaps with a suffix. Return 0, or -1. */
int ka_parse_size(const char *text, size_t *size)
{
	unsigned long long value;
	const char *suffix;
	char *end;

	/* strtoull() would accept a sign and spaces. */
	if (*text < '0' || *text > '9')
		return -1;
	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno)
		return -1;
	if (*end) {
		suffix = strchr(suffixes, *end >= 'a' ? *end - 'a' + 'A' : *end);
		if (!suffix || end[1])
			return -1;
		for (; suffix >= suffixes; suffix--) {
			if (value > SIZE_MAX >> 10)
				return -1;
			value <<= 10;
		}
	}
	*size = value;
	return 0;
}

/* Format a size in the largest unit that leaves a whole number. */
const char *ka_format_size(size_t size, char buffer[static 32])
{
	const char *units[] = { "bytes", "KiB", "MiB", "GiB", "TiB" };
	size_t unit = 0;

	while (size && unit < 4 && !(size & 1023)) {
		size >>= 10;
		unit++;
	}
	snprintf(buffer, 32, "%zu %s", size,
		 size == 1 && !unit ? "byte" : units[unit]);
	return buffer;
}
