// SPDX-License-Identifier: MIT
/*
 * CPython on karena: preloaded, this makes pymalloc take its arenas, and the
 * interpreter its data-stack chunks, from a karena heap; or, with
 * KARENA_PYTHON=domains, all three of Python's domains their blocks. The hooks are
 * PyObject_SetArenaAllocator() and PyMem_SetAllocator() (PEP 445), called before
 * main().
 *
 * In a program that is no CPython it does nothing.
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

/* PyObjectArenaAllocator, as it is since Python 3.4. */
struct arena_allocator {
	void *context;
	void *(*alloc)(void *context, size_t size);
	void (*free)(void *context, void *arena, size_t size);
};

static struct arena_allocator fallback;

/* After a refusal, so many arenas come from elsewhere before the heap is asked again. */
#define ARENAS_ELSEWHERE	15

/*
 * A power of two is aligned to itself: an unaligned arena costs pymalloc a pool.
 *
 * What the heap refuses comes from where it came from before. Without an arena, pymalloc
 * would ask again for each object, and the interpreter's data stack could not go on.
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

/* The heap knows how long a run is; CPython's sizes do not always agree. */
static void arena_free(void *context, void *arena, size_t size)
{
	if (ka_heap_contains(context, arena))
		ka_run_free(context, arena);
	else
		fallback.free(fallback.context, arena, size);
}

/*
 * Python's domains are karena's, and so are PyMemAllocatorDomain and PyMemAllocatorEx,
 * as they are since Python 3.5. It checks sizes before it calls, as the families of
 * calls do, so it has what is behind these.
 */
#define NR_DOMAINS	3

typedef void set_allocator(int domain, const struct ka_allocator *allocator);

static void use_domain(set_allocator *set, int domain)
{
	struct ka_allocator allocator;

	ka_allocator_get((enum ka_domain)domain, &allocator);
	set(domain, &allocator);
}

/* Whether KARENA_PYTHON asks for the domains. */
static bool wants_domains(void)
{
	const char *text = secure_getenv("KARENA_PYTHON");

	if (!text || !*text || !strcmp(text, "arena"))
		return false;
	if (!strcmp(text, "domains"))
		return true;
	fprintf(stderr, "karena: KARENA_PYTHON=%s is unknown: give arena or domains; it is"
		" ignored\n", text);
	return false;
}

static struct ka_heap *heap;
static bool has_domains;

/* What Python has, and behind it, what the C library's own malloc has for the others. */
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

/* Speak up once, in the child, before it touches what is not there. */
static void warn_forked_child(void)
{
	static const char text[] =
		"karena: a forked child has no copy of this Python's heap and will"
		" end with SIGSEGV: the module is older than the library, or memory"
		" has run out; KARENA_SOURCE=embedded does without the module\n";
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

	*(void **)&get = dlsym(RTLD_DEFAULT, "PyObject_GetArenaAllocator");
	*(void **)&set = dlsym(RTLD_DEFAULT, "PyObject_SetArenaAllocator");
	*(void **)&set_domain = dlsym(RTLD_DEFAULT, "PyMem_SetAllocator");
	if (!get || !set || !set_domain)
		return;
	has_domains = wants_domains();
	options.source = ka_private_source(true);
	heap = has_domains ? ka_domain_heap() : ka_heap_create(&options);
	if (!heap) {
		fprintf(stderr, "karena: %s; Python goes on without\n", ka_error());
		has_domains = false;
		return;
	}
	get(&fallback);
	allocator.context = heap;
	set(&allocator);
	for (int domain = 0; has_domains && domain < NR_DOMAINS; domain++)
		use_domain(set_domain, domain);
	if (ka_heap_source(heap) == KA_SOURCE_DEVICE)
		pthread_atfork(NULL, NULL, warn_forked_child);
	/* Never torn down: Python frees after the destructors have run. */
}
