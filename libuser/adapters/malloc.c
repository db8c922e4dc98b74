// SPDX-License-Identifier: MIT
/*
 * libkarena-malloc: malloc and the related functions for a whole program, by LD_PRELOAD. All
 * blocks lie in one heap, which the first call creates. C++'s operators new and delete are
 * here, too. Without memory they call those of libstdc++, which call the new handler and throw.
 *
 * With the debug hooks, and in the checked build, the blocks lie in @other_heap. malloc() and
 * free() look into @heap, find nothing, and take the slow path, which calls the hooks or the
 * checks.
 *
 * Allocations during the creation of the heap come from a small static area, and are never
 * freed. A pointer that is no block, and a block that is free already, end the program with a
 * message, as they do in glibc.
 */
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check/checked.h"
#include "check/debug.h"
#include "front/create.h"
#include "front/private.h"

#define PUBLIC	__attribute__((visibility("default")))
#define SLOW	__attribute__((noinline, cold))

/* Return address of the program's call; an address here, if another of these functions calls. */
#define CALLER	__builtin_return_address(0)

/* A heap has no slots until it is opened. Its empty arenas stay as long as other free memory. */
static struct ka_heap heap = { .caches.pools.arenas.most_empty = SIZE_MAX };
static struct ka_heap other_heap = { .caches.pools.arenas.most_empty = SIZE_MAX };
static bool made;

/* Constant once the heap is open. */
static bool debugged;

/* The program has started far enough for libraries to be loaded. */
static bool can_load;

static __thread struct ka_cache cache = { KA_CACHE_INIT };

static struct ka_mutex making = KA_MUTEX;
static __thread bool is_making;

/* Memory for allocations during the creation of the heap. */
#define FIRST_ALIGN	4096
static struct {
	_Alignas(FIRST_ALIGN) char bytes[16384];
	size_t used;
} first;

static bool is_first(const void *block)
{
	return (uintptr_t)block - (uintptr_t)first.bytes < sizeof(first.bytes);
}

/*
 * Allocate from the static area; each block has its size before it. Only the thread that
 * creates the heap calls this.
 */
static void *first_alloc(size_t align, size_t size)
{
	size_t at = (first.used + sizeof(size_t) + align - 1) & ~(align - 1);

	if (align > FIRST_ALIGN || size > sizeof(first.bytes) ||
	    at > sizeof(first.bytes) - size) {
		errno = ENOMEM;
		return NULL;
	}
	first.used = at + size;
	((size_t *)(first.bytes + at))[-1] = size;
	return first.bytes + at;
}

static struct ka_heap *get_other_heap(void)
{
	return &other_heap;
}

/* The heap that is opened. */
static struct ka_heap *heap_in_use(void)
{
	return KA_CHECKED || debugged ? &other_heap : &heap;
}

static bool is_lost(void)
{
	return ka_pools_of(&other_heap)->inherited;
}

static void *below_malloc(void *context, size_t size)
{
	return ka_heap_malloc(context, size);
}

static void *below_realloc(void *context, void *block, size_t size)
{
	return ka_heap_realloc(context, block, size);
}

static void below_free(void *context, void *block)
{
	if (ka_heap_free(context, block))
		ka_die("free");
}

static const struct ka_layer layer = {
	.id	= 'r',
	.prefix	= "",
	.below	= {
		.context	= &other_heap,
		.malloc		= below_malloc,
		.realloc	= below_realloc,
		.free		= below_free,
	},
	.heap	= get_other_heap,
	.lost	= is_lost,
};

static void SLOW make_heap(void)
{
	struct ka_options options = KA_OPTIONS;

	ka_mutex_lock(&making);
	if (!made) {
		is_making = true;
		options.source = ka_private_source(false);
		debugged = ka_hooks_wanted() == KA_HOOKS_DEBUG;
		if (ka_heap_open(heap_in_use(), &options, true))
			ka_die("cannot create a heap");
		is_making = false;
		__atomic_store_n(&made, true, __ATOMIC_RELEASE);
	}
	ka_mutex_unlock(&making);
	if (debugged && can_load)
		ka_callers_prime();
}

/* Open the heap if it is not open yet. */
static void need_heap(void)
{
	if (!__atomic_load_n(&made, __ATOMIC_ACQUIRE))
		make_heap();
}

/* A source may have set another errno, but POSIX knows only this one. */
static void *no_memory(void)
{
	errno = ENOMEM;
	return NULL;
}

static inline void *or_no_memory(void *block)
{
	return __builtin_expect(!!block, 1) ? block : no_memory();
}

static void *SLOW alloc_slow(size_t size)
{
	if (is_making)
		return first_alloc(KA_CLASS_STEP, size);
	need_heap();
	if (debugged)
		return ka_layer_alloc(&layer, 0, size, KA_CLEAN, CALLER);
	if (KA_CHECKED)
		return or_no_memory(ka_checked_alloc(&other_heap, 0, size));
	return or_no_memory(ka_block_alloc_slow(&heap.caches, &cache, size));
}

PUBLIC void *malloc(size_t size)
{
	void *block = ka_block_try(&cache, size);

	if (__builtin_expect(!!block, 1))
		return block;
	/* While tracing is on, blocks that are not traced come from here. */
	block = ka_block_try_traced(&cache, size);
	return block ? block : alloc_slow(size);
}

static void SLOW free_slow(void *block)
{
	if (!block || is_first(block))
		return;
	if (debugged) {
		ka_layer_free(&layer, block, CALLER);
		return;
	}
	if (!made)
		ka_fail(EINVAL, "no block begins at %p", block);
	else if (KA_CHECKED ? !ka_checked_free(&other_heap, block) :
			      !ka_block_free_slow(&heap.caches, &cache, block))
		return;
	ka_die("free");
}

static void SLOW free_marked(struct ka_pool *pool, void *block)
{
	if (ka_block_free_marked(&heap.caches, &cache, pool, block))
		ka_die("free");
}

PUBLIC void free(void *block)
{
	struct ka_pool *pool = ka_block_own(ka_pools_of(&heap), block);

	switch (ka_block_try_free(pool, block)) {
	case KA_TRY_FOREIGN:
		free_slow(block);
		break;
	case KA_TRY_MARKED:
		free_marked(pool, block);
		break;
	case KA_TRY_EMPTIED:
		ka_block_emptied(&cache, pool);
		break;
	default:
		break;
	}
}

static void *alloc_zeroed(size_t size)
{
	if (is_making)
		return first_alloc(KA_CLASS_STEP, size);
	need_heap();
	if (debugged)
		return ka_layer_alloc(&layer, 0, size, 0, CALLER);
	if (KA_CHECKED)
		return or_no_memory(ka_checked_alloc(&other_heap, 0, size));
	return or_no_memory(ka_block_alloc_zeroed(&heap.caches, &cache, size));
}

PUBLIC void *calloc(size_t count, size_t size)
{
	size_t product;
	void *block;

	if (__builtin_mul_overflow(count, size, &product)) {
		errno = ENOMEM;
		return NULL;
	}
	/* Clearing a small block is faster than finding out whether it is zero. */
	if (product < KA_PAGE_SIZE) {
		block = ka_block_try(&cache, product);
		if (__builtin_expect(!block, 0))
			block = malloc(product);
		return block ? memset(block, 0, product) : NULL;
	}
	return alloc_zeroed(product);
}

/* A block of the static area is copied, and never freed. */
static void *SLOW first_realloc(void *block, size_t size)
{
	size_t old = ((size_t *)block)[-1];
	void *other = malloc(size);

	return other ? memcpy(other, block, old < size ? old : size) : NULL;
}

/*
 * True if a block of the thread's own pools can stay when its size changes: it has room, and at
 * most a quarter would be unused. A marked block may be free. It is in use if it still links to
 * the first free block, since it was then allocated last.
 */
static inline bool fits(const void *block, size_t size)
{
	const struct ka_pool *pool = ka_block_own(ka_pools_of(&heap), block);

	return pool && size <= pool->size && size >= pool->size - pool->size / 4 &&
	       (!ka_is_marked(block) || ka_next(block) == pool->free) &&
	       ka_pool_begins_at(ka_pools_of(&heap), pool, block);
}

PUBLIC void *realloc(void *block, size_t size)
{
	void *other;

	if (size && fits(block, size))
		return block;
	if (!block)
		return malloc(size);
	if (!size) {
		free(block);
		return NULL;
	}
	if (is_first(block))
		return first_realloc(block, size);
	need_heap();
	if (debugged)
		return ka_layer_resize(&layer, block, size, CALLER);
	other = KA_CHECKED ? ka_checked_resize(&other_heap, block, size) :
			     ka_block_resize(&heap.caches, &cache, block, size);
	if (!other && errno == EINVAL)
		ka_die("realloc");
	return or_no_memory(other);
}

PUBLIC void *reallocarray(void *block, size_t count, size_t size)
{
	size_t product;

	if (__builtin_mul_overflow(count, size, &product)) {
		errno = ENOMEM;
		return NULL;
	}
	return realloc(block, product);
}

/*
 * Allocate an aligned block from the thread's current pools; NULL if they have none. @align is
 * a power of two.
 */
static inline void *try_aligned(size_t align, size_t size)
{
	/* The size stays at most KA_BLOCK_MAX when it is rounded up. */
	if (align > KA_SLOT_SIZE || size > KA_BLOCK_MAX / 2)
		return NULL;
	return ka_block_try(&cache, ((size ? size : 1) + align - 1) & ~(align - 1));
}

static void *alloc_aligned(size_t align, size_t size)
{
	void *block = try_aligned(align, size);

	if (__builtin_expect(!!block, 1))
		return block;
	if (is_making)
		return first_alloc(align < KA_CLASS_STEP ? KA_CLASS_STEP : align, size);
	need_heap();
	if (debugged)
		return ka_layer_alloc(&layer, align, size, KA_CLEAN, CALLER);
	if (KA_CHECKED)
		return or_no_memory(ka_checked_alloc(&other_heap, align, size));
	return or_no_memory(ka_block_alloc_aligned(&heap.caches, &cache, align, size));
}

/* glibc accepts any alignment here, and rounds it up. */
PUBLIC void *memalign(size_t align, size_t size)
{
	size_t power = KA_CLASS_STEP;

	while (power < align && power << 1)
		power <<= 1;
	if (power < align) {
		errno = EINVAL;
		return NULL;
	}
	return alloc_aligned(power, size);
}

PUBLIC void *aligned_alloc(size_t align, size_t size)
{
	if (!align || align & (align - 1)) {
		errno = EINVAL;
		return NULL;
	}
	return alloc_aligned(align, size);
}

PUBLIC int posix_memalign(void **block, size_t align, size_t size)
{
	int before = errno;
	void *aligned;

	if (!align || align & (align - 1) || align % sizeof(void *))
		return EINVAL;
	aligned = alloc_aligned(align, size);
	errno = before;
	if (!aligned)
		return ENOMEM;
	*block = aligned;
	return 0;
}

PUBLIC void *valloc(size_t size)
{
	return alloc_aligned(KA_PAGE_SIZE, size);
}

PUBLIC void *pvalloc(size_t size)
{
	size_t whole = (size + KA_PAGE_SIZE - 1) & ~(KA_PAGE_SIZE - 1);

	if (whole < size) {
		errno = ENOMEM;
		return NULL;
	}
	return alloc_aligned(KA_PAGE_SIZE, whole ? whole : KA_PAGE_SIZE);
}

/* C23. The caller's sizes make nothing faster here. */
PUBLIC void free_sized(void *block, size_t size)
{
	(void)size;
	free(block);
}

PUBLIC void free_aligned_sized(void *block, size_t align, size_t size)
{
	(void)align;
	(void)size;
	free(block);
}

/* glibc's other names for these functions, which old programs call. */
#if __has_attribute(copy)
#define ALIAS(name)	__attribute__((visibility("default"), alias(#name), copy(name)))
#else
#define ALIAS(name)	__attribute__((visibility("default"), alias(#name)))
#endif

void *__libc_malloc(size_t size) ALIAS(malloc);
void __libc_free(void *block) ALIAS(free);
void cfree(void *block) ALIAS(free);
void *__libc_calloc(size_t count, size_t size) ALIAS(calloc);
void *__libc_realloc(void *block, size_t size) ALIAS(realloc);
void *__libc_memalign(size_t align, size_t size) ALIAS(memalign);
void *__libc_valloc(size_t size) ALIAS(valloc);
void *__libc_pvalloc(size_t size) ALIAS(pvalloc);
int __posix_memalign(void **block, size_t align, size_t size) ALIAS(posix_memalign);
/* An alias without the attribute that warns of calls. */
#define PLAIN_ALIAS(name)	__attribute__((visibility("default"), alias(#name)))
struct mallinfo __libc_mallinfo(void)
	PLAIN_ALIAS(mallinfo);
int __libc_mallopt(int param, int value) ALIAS(mallopt);

/*
 * C++. All of libstdc++'s operators new and delete call these four, as the standard requires: a
 * program that replaces one of the four changes the others, too. Here each new calls a function
 * of malloc. If that has no memory, the operator of the C++ library with the same name is
 * called: it calls the new handler, tries malloc again, and throws. The names are those of
 * 64-bit machines.
 */
static void *find_next(const char *name)
{
	static const char *const libraries[] = {
		"libstdc++.so.6", "libc++abi.so.1", "libc++.so.1",
	};
	void *next = dlsym(RTLD_NEXT, name);

	/* A plug-in may have loaded the C++ library, out of reach of RTLD_NEXT. */
	for (size_t i = 0; !next && i < sizeof(libraries) / sizeof(*libraries); i++) {
		void *library = dlopen(libraries[i], RTLD_LAZY | RTLD_NOLOAD);

		next = library ? dlsym(library, name) : NULL;
	}
	return next;
}

static void *SLOW next_new(const char *name, size_t size, size_t align)
{
	void *(*next)(size_t size, size_t align);

	*(void **)&next = find_next(name);
	if (!next)
		ka_die(name);
	return next(size, align);
}

static inline void *or_next(void *block, const char *name, size_t size, size_t align)
{
	return __builtin_expect(!!block, 1) ? block : next_new(name, size, align);
}

PUBLIC void *_Znwm(size_t size);
PUBLIC void *_Znwm(size_t size)
{
	return or_next(malloc(size), __func__, size, 0);
}

PUBLIC void *_ZnwmSt11align_val_t(size_t size, size_t align);
PUBLIC void *_ZnwmSt11align_val_t(size_t size, size_t align)
{
	return or_next(alloc_aligned(align, size), __func__, size, align);
}

void _ZdlPv(void *block) ALIAS(free);
void _ZdlPvSt11align_val_t(void *block, size_t align) ALIAS(free_sized);

PUBLIC size_t malloc_usable_size(void *block)
{
	int before = errno;
	size_t size;

	if (!block)
		return 0;
	if (is_first(block))
		return ((size_t *)block)[-1];
	need_heap();
	if (debugged)
		size = ka_layer_size(&layer, block);
	else
		size = KA_CHECKED ? ka_checked_size(&other_heap, block) :
				    ka_block_size(&heap.caches, block);
	errno = before;
	return size;
}

/*
 * Runs before all other constructors, here and in other libraries (-z initfirst), when libc
 * does not know the environment yet. backtrace() loads a library, for which the program's first
 * allocation may have been too early.
 */
__attribute__((constructor(101)))
static void begin(int argc, char **argv, char **variables)
{
	(void)argc;
	(void)argv;
	if (!environ)
		environ = variables;
	can_load = true;
	if (made && debugged)
		ka_callers_prime();
}

/* The heap's statistics; all zero while there is no heap. */
static struct ka_stats heap_stats(void)
{
	struct ka_stats stats = { .size = sizeof(stats) };

	if (__atomic_load_n(&made, __ATOMIC_ACQUIRE))
		ka_heap_stats(heap_in_use(), &stats);
	return stats;
}

/*
 * glibc's members: arena has all committed bytes; uordblks and fordblks those in use and those
 * free; hblks and hblkhd count blocks that are runs of their own.
 */
PUBLIC struct mallinfo2 mallinfo2(void)
{
	struct ka_stats stats = heap_stats();
	size_t runs = stats.run_bytes - stats.pool_bytes;
	size_t total = stats.run_bytes + stats.available_bytes;

	return (struct mallinfo2){
		.arena = total,
		.ordblks = stats.pools,
		.hblks = stats.runs - stats.pools,
		.hblkhd = runs,
		.uordblks = stats.used_bytes,
		.fordblks = total - stats.used_bytes,
		.keepcost = stats.available_bytes,
	};
}

/* The same in int, which is too small for large heaps. */
PUBLIC struct mallinfo mallinfo(void)
{
	struct mallinfo2 info = mallinfo2();

	return (struct mallinfo){
		.arena = (int)info.arena,
		.ordblks = (int)info.ordblks,
		.hblks = (int)info.hblks,
		.hblkhd = (int)info.hblkhd,
		.uordblks = (int)info.uordblks,
		.fordblks = (int)info.fordblks,
		.keepcost = (int)info.keepcost,
	};
}

PUBLIC void malloc_stats(void)
{
	need_heap();
	ka_heap_print_stats(heap_in_use(), STDERR_FILENO);
}

PUBLIC int malloc_info(int options, FILE *file)
{
	struct ka_stats stats = heap_stats();

	if (options) {
		errno = EINVAL;
		return -1;
	}
	fprintf(file, "<malloc version=\"karena-" KARENA_VERSION "\">\n"
		"<heap nr=\"0\">\n"
		"<total type=\"arenas\" count=\"%zu\" size=\"%zu\"/>\n"
		"<total type=\"pools\" count=\"%zu\" size=\"%zu\"/>\n"
		"<total type=\"blocks\" count=\"%zu\" size=\"%zu\"/>\n"
		"<total type=\"runs\" count=\"%zu\" size=\"%zu\"/>\n"
		"<total type=\"available\" size=\"%zu\"/>\n"
		"</heap>\n</malloc>\n",
		stats.arenas, stats.arenas * KA_ARENA_SIZE, stats.pools, stats.pool_bytes,
		stats.blocks, stats.block_bytes, stats.runs - stats.pools,
		stats.run_bytes - stats.pool_bytes, stats.available_bytes);
	return 0;
}

/* Returns 1 if memory was returned, as glibc's does. The argument has no effect. */
PUBLIC int malloc_trim(size_t pad)
{
	(void)pad;
	if (!__atomic_load_n(&made, __ATOMIC_ACQUIRE))
		return 0;
	if (KA_CHECKED || debugged)
		return ka_heap_trim(&other_heap) > 0;
	return !ka_refuse_inherited(ka_pools_of(&heap)) && ka_cache_trim(&heap.caches, &cache);
}

/* glibc's settings have no effect; setting them is no error. */
PUBLIC int mallopt(int param, int value)
{
	(void)param;
	(void)value;
	return 1;
}
