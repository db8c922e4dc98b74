// SPDX-License-Identifier: MIT
/*
 * CPython on karena. Preloaded, this library lets pymalloc allocate its arenas, and the
 * interpreter its chunks of data stack, in a karena heap. With KARENA_PYTHON=domains, all
 * blocks of Python's three domains are karena's. Both hooks, PyObject_SetArenaAllocator() and
 * PyMem_SetAllocator() (PEP 445), are called before main().
 *
 * In any other program the library does nothing.
 */
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <karena/domain.h>

#include "front/private.h"

/* PyObjectArenaAllocator, unchanged since Python 3.4. */
struct arena_allocator {
	void *context;
	void *(*alloc)(void *context, size_t size);
	void (*free)(void *context, void *arena, size_t size);
};

static struct arena_allocator fallback;

/*
 * After the heap has refused an arena, Python's own allocator provides this many more before
 * the adapter asks the heap again.
 */
#define ARENAS_ELSEWHERE	15

/*
 * Allocate an arena, aligned to its size if that is a power of two: an unaligned arena costs
 * pymalloc a pool.
 *
 * If the heap refuses, the adapter calls Python's previous allocator. Without an arena, pymalloc
 * would ask again for each object, and the interpreter could not extend its data stack.
 */
static void *arena_alloc(void *context, size_t size)
{
	static unsigned int elsewhere;
	size_t align = size & (size - 1) || size > KA_ARENA_SIZE ? 0 : size;
	size_t whole = (size + KA_PAGE_SIZE - 1) & ~(KA_PAGE_SIZE - 1);
	unsigned int left = __atomic_load_n(&elsewhere, __ATOMIC_RELAXED);
	void *run = left ? NULL : ka_run_alloc(context, whole, align);

	if (run)
		return run;
	__atomic_store_n(&elsewhere, left ? left - 1 : ARENAS_ELSEWHERE, __ATOMIC_RELAXED);
	return fallback.alloc(fallback.context, size);
}

/* The heap knows the size of a run; CPython's sizes are not always the same. */
static void arena_free(void *context, void *arena, size_t size)
{
	if (ka_heap_contains(context, arena))
		ka_run_free(context, arena);
	else
		fallback.free(fallback.context, arena, size);
}

/*
 * Python's domains have karena's numbers, and PyMemAllocatorDomain and PyMemAllocatorEx,
 * unchanged since Python 3.5, have the layout of karena's types. Python checks sizes before it
 * calls, as karena's domains do, so it may call their allocators directly.
 */
#define NR_DOMAINS	3

typedef void set_allocator(int domain, const struct ka_allocator *allocator);

/* True if KARENA_PYTHON asks for the domains. */
static bool wants_domains(void)
{
	const char *text = secure_getenv("KARENA_PYTHON");

	if (!text || !*text || !strcmp(text, "arena"))
		return false;
	if (!strcmp(text, "domains"))
		return true;
	fprintf(stderr, "karena: KARENA_PYTHON: unknown value '%s' (choose arena or domains); the"
		" setting is ignored\n", text);
	return false;
}

static struct ka_heap *heap;
static bool has_domains;

/* Print the statistics of Python's heap, then those of the program's malloc. */
__attribute__((visibility("default")))
void malloc_stats(void)
{
	void (*next)(void);

	if (has_domains)
		ka_heap_print_stats(heap, STDERR_FILENO);
	*(void **)&next = dlsym(RTLD_NEXT, "malloc_stats");
	if (next)
		next();
}

/* Warn in a child whose heap is the parent's, before it uses the heap. */
static void warn_forked_child(void)
{
	static const char text[] =
		"karena: a forked child has no copy of this Python's heap and will"
		" end with SIGSEGV: the module is older than the library, or memory"
		" has run out; set KARENA_SOURCE=embedded to do without the module\n";
	struct ka_stats stats = { .size = sizeof(stats) };
	ssize_t ignored;

	if (!ka_heap_stats(heap, &stats))
		return;
	ignored = write(STDERR_FILENO, text, sizeof(text) - 1);
	(void)ignored;
}

__attribute__((constructor))
static void install(void)
{
	void (*get)(struct arena_allocator *allocator);
	void (*set)(struct arena_allocator *allocator);
	set_allocator *set_domain;
	struct arena_allocator allocator = {
		.alloc = arena_alloc, .free = arena_free
	};
	struct ka_options options = KA_OPTIONS;
	struct ka_allocator blocks;

	*(void **)&get = dlsym(RTLD_DEFAULT, "PyObject_GetArenaAllocator");
	*(void **)&set = dlsym(RTLD_DEFAULT, "PyObject_SetArenaAllocator");
	*(void **)&set_domain = dlsym(RTLD_DEFAULT, "PyMem_SetAllocator");
	if (!get || !set || !set_domain)
		return;
	has_domains = wants_domains();
	options.source = ka_private_source(true);
	heap = has_domains ? ka_domain_heap() : ka_heap_create(&options);
	if (!heap) {
		fprintf(stderr, "karena: %s; Python runs without karena\n", ka_error());
		has_domains = false;
		return;
	}
	get(&fallback);
	allocator.context = heap;
	set(&allocator);
	for (int domain = 0; has_domains && domain < NR_DOMAINS; domain++) {
		ka_allocator_get((enum ka_domain)domain, &blocks);
		set_domain(domain, &blocks);
	}
	if (ka_heap_source(heap) == KA_SOURCE_DEVICE)
		pthread_atfork(NULL, NULL, warn_forked_child);
	/* The heap is never destroyed: Python frees blocks after the destructors have run. */
}
