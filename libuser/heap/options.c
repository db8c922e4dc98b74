// SPDX-License-Identifier: MIT
/*
 * The options of a heap: those that the caller has set, and the rest from the environment.
 */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "heap/heap.h"

/* Size of struct ka_options in the first version. */
#define OPTIONS_MIN	offsetof(struct ka_options, fork)

/*
 * Read a size that the caller has not set from a variable; it stays 0 if that is not set
 * either.
 */
int ka_option_size(size_t *size, const char *variable)
{
	const char *text = secure_getenv(variable);

	if (*size || !text || !*text)
		return 0;
	if (ka_parse_size(text, size))
		return ka_fail(EINVAL, "%s: invalid size '%s' (examples: 512M, 2G)", variable,
			       text);
	if (!*size)
		return ka_fail(EINVAL, "%s: invalid size '%s': it must be larger than 0", variable,
			       text);
	return 0;
}

static int option_source(enum ka_source *source)
{
	const char *text = secure_getenv("KARENA_SOURCE");

	if (*source != KA_SOURCE_AUTO || !text || !*text || !strcmp(text, "auto"))
		return 0;
	if (!strcmp(text, "device"))
		*source = KA_SOURCE_DEVICE;
	else if (!strcmp(text, "embedded"))
		*source = KA_SOURCE_EMBEDDED;
	else
		return ka_fail(EINVAL, "KARENA_SOURCE: unknown source '%s' (choose auto, device or"
			       " embedded)", text);
	return 0;
}

static int option_name(const char **name, bool look)
{
	const char *text = *name;

	if (!text && look)
		text = secure_getenv("KARENA_NAME");
	if (!text || !*text) {
		/* The program's own name may have other characters; that is no error. */
		text = program_invocation_short_name;
		for (const char *c = text; *c; c++) {
			if (*c < ' ' || *c > '~' || *c == '/')
				text = "";
		}
		*name = text;
		return 0;
	}
	for (const char *c = text; *c; c++) {
		if (*c < ' ' || *c > '~' || *c == '/')
			return ka_fail(EINVAL, "invalid name of a heap '%.40s' (use printable"
				       " ASCII without '/')", text);
	}
	if (strlen(text) >= KA_NAME_SIZE)
		return ka_fail(EINVAL, "the name of a heap '%.40s' is too long (at most %d"
			       " characters)", text, KA_NAME_SIZE - 1);
	*name = text;
	return 0;
}

/* Print the last error message if @forgive. Return true if the caller ignores the variable. */
bool ka_option_ignored(bool forgive)
{
	if (forgive)
		ka_ignore();
	return forgive;
}

/* As ka_option_size(), if there is a @variable. The size must be at least @least. */
static int option_size(size_t *size, const char *variable, size_t least, bool forgive)
{
	size_t given = *size;
	char text[32];
	int error = variable ? ka_option_size(size, variable) : 0;

	if (!error && *size && *size < least)
		error = ka_fail(EINVAL, "a limit of %s is too small (at least 2 MiB)",
				ka_format_size(*size, text));
	if (!error || given || !ka_option_ignored(forgive))
		return error;
	*size = 0;
	return 0;
}

/*
 * Fill in the options that the caller has not set, from the environment unless the caller
 * ignores it. The window stays 0 if nobody has set it.
 */
static int complete_options(struct ka_options *options, bool forgive)
{
	bool look = !options->ignore_environment;

	if (look && option_source(&options->source) && !ka_option_ignored(forgive))
		return -1;
	if (option_name(&options->name, look) &&
	    (!ka_option_ignored(forgive) || option_name(&options->name, false)))
		return -1;
	if (option_size(&options->window, look ? "KARENA_WINDOW" : NULL, 0, forgive) ||
	    option_size(&options->limit, look ? "KARENA_LIMIT" : NULL, KA_ARENA_SIZE, forgive))
		return -1;
	if (options->window > SIZE_MAX / 2 && forgive) {
		ka_fail(EFBIG, "a window of %zu bytes is too large", options->window);
		ka_ignore();
		options->window = 0;
	}
	if (options->source > KA_SOURCE_EMBEDDED)
		return ka_fail(EINVAL, "invalid source %d: choose one of enum ka_source",
			       (int)options->source);
	if (options->fork > KA_FORK_NONE)
		return ka_fail(EINVAL, "invalid policy for fork %d: choose one of enum ka_fork",
			       (int)options->fork);
	if (options->io && options->fork == KA_FORK_COW)
		return ka_fail(EINVAL, "a heap for I/O buffers cannot be copied at fork:"
			       " choose KA_FORK_NONE or KA_FORK_SHARE");
	/* No machine has more, and adding the metadata does not overflow. */
	if (options->window > SIZE_MAX / 2)
		return ka_fail(EFBIG, "a window of %zu bytes is too large",
			       options->window);
	options->window = (options->window + KA_ARENA_SIZE - 1) &
			  ~(KA_ARENA_SIZE - 1);
	return 0;
}

/* The struct of an older version is shorter, that of a newer version longer. */
static int copy_options(struct ka_options *options, const struct ka_options *wanted)
{
	const char *from = (const char *)wanted;
	size_t size = wanted->size;

	if (size < OPTIONS_MIN || size > KA_PAGE_SIZE)
		return ka_fail(EINVAL, "struct ka_options has the invalid size %zu: initialise it"
			       " with KA_OPTIONS", size);
	for (size_t i = sizeof(*options); i < size; i++) {
		if (from[i])
			return ka_fail(EINVAL, "struct ka_options has an option that this"
				       " version of the library does not know");
	}
	memcpy(options, from, size < sizeof(*options) ? size : sizeof(*options));
	return 0;
}

/**
 * ka_options_read() - Read the options of a new heap.
 * @options: Filled in; @window stays 0 if nobody has set it.
 * @wanted: The options that the caller has set, or NULL.
 * @forgive: Ignore an invalid variable with a message on standard error.
 *
 * Return: 0, or -1 with errno and a message.
 */
int ka_options_read(struct ka_options *options, const struct ka_options *wanted, bool forgive)
{
	*options = (struct ka_options)KA_OPTIONS;
	if (wanted && copy_options(options, wanted))
		return -1;
	return complete_options(options, forgive);
}
