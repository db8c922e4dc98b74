// SPDX-License-Identifier: MIT
/*
 * Mistakes, and what the debug hooks say of them: one for each name that can be given.
 *
 * The hooks are installed by a call, so nothing in the environment is needed; with
 * KARENA_MALLOC=guard there, a write behind a block is a SIGSEGV instead. Ends with
 * SIGABRT, unless the mistake is none.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* With these attributes gcc finds most of the mistakes without the hooks. */
#define KARENA_NO_ATTRIBUTES
#include <karena/debug.h>

static char *copy(const char *text, size_t size)
{
	char *block = ka_mem_malloc(size);

	return block ? strcpy(block, text) : NULL;
}

/* Works: the hooks notice nothing. */
static void none(void)
{
	char *block = copy("karena", 7);

	ka_mem_free(ka_mem_realloc(block, 100));
}

/* Forgets that a string ends with a NUL. */
static void overflow(void)
{
	ka_mem_free(copy("karena", 6));
}

static void underflow(void)
{
	char *block = copy("karena", 7);

	block[-1] = ' ';
	ka_mem_free(block);
}

static void domain(void)
{
	ka_raw_free(copy("karena", 7));
}

static void twice(void)
{
	char *block = copy("karena", 7);

	ka_mem_free(block);
	ka_mem_free(block);
}

static void inside(void)
{
	ka_mem_free(strchr(copy("karena", 7), 'r'));
}

/* Keeps the old address of a block that has moved. */
static void stale(void)
{
	char *block = copy("karena", 7);
	char *other = ka_mem_realloc(block, 1000);

	block[0] = 'K';
	ka_mem_free(other);
}

static const struct {
	const char *name;
	void (*make)(void);
} mistakes[] = {
	{ "none", none },
	{ "overflow", overflow },
	{ "underflow", underflow },
	{ "domain", domain },
	{ "twice", twice },
	{ "inside", inside },
	{ "stale", stale },
};

#define NR_MISTAKES	(sizeof(mistakes) / sizeof(*mistakes))

int main(int argc, char **argv)
{
	if (ka_debug_install()) {
		fprintf(stderr, "debug: %s\n", ka_error());
		return 1;
	}
	for (size_t i = 0; argc == 2 && i < NR_MISTAKES; i++) {
		if (strcmp(argv[1], mistakes[i].name) != 0)
			continue;
		mistakes[i].make();
		/* Writes to freed blocks are looked for when one asks. */
		printf("%zu blocks are as they should be\n", ka_debug_check_all());
		return 0;
	}
	fprintf(stderr, "usage: debug MISTAKE, which is one of");
	for (size_t i = 0; i < NR_MISTAKES; i++)
		fprintf(stderr, " %s", mistakes[i].name);
	fprintf(stderr, "\n");
	return 2;
}
