// SPDX-License-Identifier: MIT
/*
 * Makes the memory error that its argument names, and shows what the debug hooks print:
 *
 *	cc debug.c -o debug $(pkg-config --cflags --libs karena)
 *	./debug ERROR
 *
 * The program installs the hooks itself, so it needs no variable in the environment. With
 * KARENA_MALLOC=guard, a write behind a block raises SIGSEGV instead. The hooks abort the
 * program, unless ERROR is the word "none".
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* With the attributes, gcc itself warns about most of these errors. */
#define KARENA_NO_ATTRIBUTES
#include <karena/debug.h>

static char *copy(const char *text, size_t size)
{
	char *block = ka_mem_malloc(size);

	return block ? strcpy(block, text) : NULL;
}

/* No error. */
static void none(void)
{
	char *block = copy("karena", 7);

	ka_mem_free(ka_mem_realloc(block, 100));
}

/* Allocates no room for the final NUL. */
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

/* Writes to the old address of a block that has moved. */
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
} errors[] = {
	{ "none", none },
	{ "overflow", overflow },
	{ "underflow", underflow },
	{ "domain", domain },
	{ "twice", twice },
	{ "inside", inside },
	{ "stale", stale },
};

#define NR_ERRORS	(sizeof(errors) / sizeof(*errors))

int main(int argc, char **argv)
{
	if (ka_debug_install()) {
		fprintf(stderr, "debug: %s\n", ka_error());
		return 1;
	}
	for (size_t i = 0; argc == 2 && i < NR_ERRORS; i++) {
		if (strcmp(argv[1], errors[i].name) != 0)
			continue;
		errors[i].make();
		/* Without this call the hooks find a write to a freed block later. */
		printf("%zu blocks have no errors\n", ka_debug_check_all());
		return 0;
	}
	fprintf(stderr, "usage: debug ERROR, one of");
	for (size_t i = 0; i < NR_ERRORS; i++)
		fprintf(stderr, " %s", errors[i].name);
	fprintf(stderr, "\n");
	return 2;
}
