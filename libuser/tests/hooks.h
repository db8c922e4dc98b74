/* SPDX-License-Identifier: MIT */
/*
 * Helpers for tests of the debug hooks: a child that makes an error, and what it prints
 * before it ends.
 */
#ifndef KARENA_TESTS_HOOKS_H
#define KARENA_TESTS_HOOKS_H

#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>

#include "check/debug.h"

#include "common.h"

/* For functions that a stack must show. Their last call is not a jump. */
#define VISIBLE	__attribute__((noinline, noclone, unused))

static const struct family {
	char letter;
	void *(*malloc)(size_t size);
	void *(*calloc)(size_t count, size_t size);
	void *(*realloc)(void *block, size_t size);
	void (*free)(void *block);
} families[] = {
	{ 'r', ka_raw_malloc, ka_raw_calloc, ka_raw_realloc, ka_raw_free },
	{ 'm', ka_mem_malloc, ka_mem_calloc, ka_mem_realloc, ka_mem_free },
	{ 'o', ka_obj_malloc, ka_obj_calloc, ka_obj_realloc, ka_obj_free },
};

/* Set up this process before its first call of a domain. */
static inline void begin(const char *mode)
{
	setenv("KARENA_MALLOC", mode, 1);
}

static inline bool all_are(const void *bytes, size_t size, unsigned char what)
{
	return !ka_count_other(bytes, size, what);
}

/* A child that calls a function with a block, and what it prints to stderr. */
struct child {
	int status;
	char words[16384];
};

static inline struct child run(void (*what)(unsigned char *block), void *block)
{
	struct child child = { .status = -1 };
	size_t length = 0;
	int pipes[2];
	ssize_t more;
	pid_t pid;

	fflush(stdout);
	if (pipe(pipes))
		return child;
	pid = fork();
	if (!pid) {
		dup2(pipes[1], STDERR_FILENO);
		close(pipes[0]);
		close(pipes[1]);
		die_of_signals();
		what(block);
		_exit(0);
	}
	close(pipes[1]);
	while ((more = read(pipes[0], child.words + length,
			    sizeof(child.words) - 1 - length)) > 0)
		length += (size_t)more;
	close(pipes[0]);
	child.status = child_status(pid);
	return child;
}

#define ABORTED	(128 + SIGABRT)

static inline char *__attribute__((format(printf, 1, 2))) format(const char *text, ...)
{
	static char buffers[4][4096];
	static unsigned int next;
	va_list arguments;

	next = (next + 1) % 4;
	va_start(arguments, text);
	vsnprintf(buffers[next], sizeof(buffers[next]), text, arguments);
	va_end(arguments);
	return buffers[next];
}

/*
 * Return true if a child aborted for this reason, after a message that starts with @start.
 */
static inline bool said(const struct child *child, const char *start, const char *reason)
{
	bool right = child->status == ABORTED &&
		     !strncmp(child->words, start, strlen(start)) &&
		     strstr(child->words, format("\nFatal error: %s\n\nCurrent thread (most"
						 " recent call first):\n", reason));

	if (!right)
		printf("# status %d, not \"%s\" after:\n%s# but:\n%s", child->status, reason,
		       start, child->words);
	return right;
}

/*
 * Return true if a stack has a function of the test, and no function of the hooks before
 * it.
 */
static inline bool shows(const struct child *child, const char *title,
			 const void *function)
{
	const char *line = strstr(child->words, title);
	Dl_info info;

	if (!line || !dladdr(function, &info))
		return false;
	line = strchr(line + 1, '\n') + 1;
	for (; !strncmp(line, "  File \"", 8); line = strchr(line, '\n') + 1) {
		size_t length = strlen(info.dli_fname);
		uintptr_t at;

		if (strncmp(line + 8, info.dli_fname, length) != 0 ||
		    sscanf(line + 8 + length, "\", at %lx", &at) != 1)
			continue;
		at += (uintptr_t)info.dli_fbase;
		if (at - (uintptr_t)function < 400)
			return true;
		if (at - (uintptr_t)ka_layer_alloc < 120 || at - (uintptr_t)ka_callers_here < 120)
			return false;
	}
	return false;
}

#define TAKEN	"\nMemory block allocated at (most recent call first):\n"
#define GIVEN	"\nMemory block freed at (most recent call first):\n"

static VISIBLE void *alloc_here(size_t size)
{
	void *block = ka_mem_malloc(size);

	asm volatile("" : "+r" (block));
	return block;
}

static VISIBLE void free_here(void *block)
{
	ka_mem_free(block);
	asm volatile("");
}

static VISIBLE void overflows(unsigned char *block)
{
	block[16] = 'x';
	ka_mem_free(block);
	asm volatile("");
}

static inline void overflows_and_exits(unsigned char *block)
{
	block[20] = 1;
	exit(0);
}

static inline void touches_behind(unsigned char *block)
{
	block[16] = 1;
}

#endif /* KARENA_TESTS_HOOKS_H */
