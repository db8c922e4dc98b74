// SPDX-License-Identifier: MIT
/*
 * libkarena-malloc: malloc and its kin for a whole program, by LD_PRELOAD. All
 * blocks lie in one heap, which the first call makes. operator new and delete are
 * libstdc++'s own, which call these.
 *
 * With the debug hooks the heap is another one than that which malloc() and free() look
 * at, so that these find nothing and go on to where the hooks are called.
 *
 * What the heap's making allocates itself comes from a small area that is never given
 * back. A pointer that is no block, and the block that was freed last freed again,
 * end the program with a message, as glibc's own malloc ends it.
 */
#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "cache.h"
#include "debug.h"

#define PUBLIC	__attribute__((visibility("default")))
#define SLOW	__attribute__((noinline, cold))

/* Where the program goes on; or in a function here that calls one that it called. */
#define CALLER	__builtin_return_address(0)

#define ENOUGH_LOCKED	((rlim_t)1 << 30)

/* Until it is made, it has no slots. Its empty arenas stay as other free memory does. */
static struct ka_heap heap = { .most_empty = SIZE_MAX };
static struct ka_heap debug_heap = { .most_empty = SIZE_MAX };
static bool made;

/* Not changed once the heap is made. */
static bool debugged;

/* Whether the program has come so far that libraries can be loaded. */
static bool can_load;

static __thread struct ka_cache cache = { KA_CACHE_INIT };

static pthread_mutex_t making = PTHREAD_MUTEX_INITIALIZER;
static __thread bool is_making;

/* For who allocates while the heap is made. */
static struct {
	_Alignas(4096) char bytes[16384];
	size_t used;
} first;

static bool is_first(const void *block)
{
	return (uintptr_t)block - (uintptr_t)first.bytes < sizeof(first.bytes);
}

/* Each has its size before it. By one thread at a time: the one that makes the heap. */
static void *first_alloc(size_t align, size_t size)
{
	size_t at = (first.used + sizeof(size_t) + align - 1) & ~(align - 1);

	if (align > _Alignof(first) || size > sizeof(first.bytes) ||
	    at > sizeof(first.bytes) - size) {
		errno = ENOMEM;
		return NULL;
	}
	first.used = at + size;
	((size_t *)(first.bytes + at))[-1] = size;
	return first.bytes + at;
}

/*
 * Where nobody chose, the module is for who may lock enough: memory that malloc cannot
 * have for want of that, a program rarely survives. A privilege may be dropped.
 */
static enum ka_source choose_source(void)
{
	const char *text = secure_getenv("KARENA_SOURCE");
	struct rlimit limit;

	if (text && *text && strcmp(text, "auto") != 0)
		return KA_SOURCE_AUTO;
	if (getrlimit(RLIMIT_MEMLOCK, &limit) || limit.rlim_cur < ENOUGH_LOCKED)
		return KA_SOURCE_EMBEDDED;
	return KA_SOURCE_AUTO;
}

static struct ka_heap *get_debug_heap(void)
{
	return &debug_heap;
}

/* The one that is made. */
static struct ka_heap *heap_in_use(void)
{
	return debugged ? &debug_heap : &heap;
}

static bool is_lost(void)
{
	return debug_heap.inherited;
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
		.context	= &debug_heap,
		.malloc		= below_malloc,
		.realloc	= below_realloc,
		.free		= below_free,
	},
	.heap	= get_debug_heap,
	.lost	= is_lost,
};

static void SLOW make_heap(void)
{
	struct ka_options options = KA_OPTIONS;

	pthread_mutex_lock(&making);
	if (!made) {
		is_making = true;
		options.source = choose_source();
		debugged = ka_hooks_wanted() == KA_HOOKS_DEBUG;
		if (ka_heap_open(heap_in_use(), &options))
			ka_die("no heap");
		is_making = false;
		__atomic_store_n(&made, true, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&making);
	if (debugged && can_load)
		ka_callers_prime();
}

/* From here on there is a heap. */
static void need_heap(void)
{
	if (!__atomic_load_n(&made, __ATOMIC_ACQUIRE))
		make_heap();
}

static void *SLOW take(size_t size)
{
	if (is_making)
		return first_alloc(KA_CLASS_STEP, size);
	need_heap();
	if (debugged)
		return ka_layer_take(&layer, 0, size, KA_CLEAN, CALLER);
	return ka_block_take(&heap, &cache, size);
}

PUBLIC void *malloc(size_t size)
{
	void *block = ka_block_try(&cache, size);

	if (__builtin_expect(!!block, 1))
		return block;
	/* While blocks are traced, the others come from here. */
	block = ka_block_try_traced(&cache, size);
	return block ? block : take(size);
}

static void SLOW give(void *block)
{
	if (!block || is_first(block))
		return;
	if (debugged) {
		ka_layer_give(&layer, block, CALLER);
		return;
	}
	if (!made)
		ka_fail(EINVAL, "no block begins at %p", block);
	else if (!ka_block_give_slowly(&heap, &cache, block))
		return;
	ka_die("free");
}

PUBLIC void free(void *block)
{
	struct ka_pool *pool = ka_block_own(&heap, block);

	if (__builtin_expect(!pool, 0)) {
		give(block);
		return;
	}
	if (__builtin_expect(!ka_pool_give(pool, block), 0))
		ka_block_emptied(&cache, pool);
}

static void *take_zeroed(size_t size)
{
	if (is_making)
		return first_alloc(KA_CLASS_STEP, size);
	need_heap();
	if (debugged)
		return ka_layer_take(&layer, 0, size, 0, CALLER);
	return ka_block_zeroed(&heap, &cache, size);
}

PUBLIC void *calloc(size_t count, size_t size)
{
	size_t product;
	void *block;

	if (__builtin_mul_overflow(count, size, &product)) {
		errno = ENOMEM;
		return NULL;
	}
	/* A small one is cleared faster than it is found out whether it has to be. */
	if (product < KA_PAGE_SIZE) {
		block = malloc(product);
		return block ? memset(block, 0, product) : NULL;
	}
	return take_zeroed(product);
}

/* From the first area nothing goes back. */
static void *SLOW first_realloc(void *block, size_t size)
{
	size_t old = ((size_t *)block)[-1];
	void *other = malloc(size);

	return other ? memcpy(other, block, old < size ? old : size) : NULL;
}

PUBLIC void *realloc(void *block, size_t size)
{
	void *other;

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
	other = ka_block_resize(&heap, &cache, block, size);
	if (!other && errno != ENOMEM && errno != EOWNERDEAD)
		ka_die("realloc");
	return other;
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

static void *take_aligned(size_t align, size_t size)
{
	if (is_making)
		return first_alloc(align < KA_CLASS_STEP ? KA_CLASS_STEP : align, size);
	need_heap();
	if (debugged)
		return ka_layer_take(&layer, align, size, KA_CLEAN, CALLER);
	return ka_block_take_aligned(&heap, &cache, align, size);
}

/* glibc takes any alignment here, and rounds it up. */
PUBLIC void *memalign(size_t align, size_t size)
{
	size_t power = KA_CLASS_STEP;

	while (power < align && power << 1)
		power <<= 1;
	if (power < align) {
		errno = EINVAL;
		return NULL;
	}
	return take_aligned(power, size);
}

PUBLIC void *aligned_alloc(size_t align, size_t size)
{
	if (!align || align & (align - 1)) {
		errno = EINVAL;
		return NULL;
	}
	return take_aligned(align, size);
}

PUBLIC int posix_memalign(void **block, size_t align, size_t size)
{
	int before = errno;
	void *taken;

	if (!align || align & (align - 1) || align % sizeof(void *))
		return EINVAL;
	taken = take_aligned(align, size);
	errno = before;
	if (!taken)
		return ENOMEM;
	*block = taken;
	return 0;
}

PUBLIC void *valloc(size_t size)
{
	return take_aligned(KA_PAGE_SIZE, size);
}

PUBLIC void *pvalloc(size_t size)
{
	size_t whole = (size + KA_PAGE_SIZE - 1) & ~(KA_PAGE_SIZE - 1);

	if (whole < size) {
		errno = ENOMEM;
		return NULL;
	}
	return take_aligned(KA_PAGE_SIZE, whole ? whole : KA_PAGE_SIZE);
}

PUBLIC size_t malloc_usable_size(void *block)
{
	if (!block)
		return 0;
	if (is_first(block))
		return ((size_t *)block)[-1];
	need_heap();
	if (debugged)
		return ka_layer_size(&layer, block);
	return ka_block_size(&heap, block);
}

/* What shows stacks loads a library; when the first call comes, it may be too early. */
__attribute__((constructor))
static void prime(void)
{
	can_load = true;
	if (debugged)
		ka_callers_prime();
}

/* The heap's figures; all zero as long as there is none. */
static struct ka_stats figures(void)
{
	struct ka_stats stats = { .size = sizeof(stats) };

	if (__atomic_load_n(&made, __ATOMIC_ACQUIRE))
		ka_heap_stats(heap_in_use(), &stats);
	return stats;
}

/*
 * In the words of glibc: arena, all that is committed; uordblks and fordblks, what of
 * it is in use and free; hblks and hblkhd, blocks that are runs of their own.
 */
PUBLIC struct mallinfo2 mallinfo2(void)
{
	struct ka_stats stats = figures();
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

/* The same, in numbers that are too small for it. */
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
	struct ka_stats stats = figures();

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

/* As glibc's, whether anything was given back; the argument means nothing here. */
PUBLIC int malloc_trim(size_t pad)
{
	(void)pad;
	if (!__atomic_load_n(&made, __ATOMIC_ACQUIRE))
		return 0;
	if (debugged)
		return ka_trim(&debug_heap) > 0;
	return !ka_refuse_inherited(&heap) && ka_cache_trim(&heap, &cache);
}

/* glibc's settings mean nothing here; it is no error to have them. */
PUBLIC int mallopt(int param, int value)
{
	(void)param;
	(void)value;
	return 1;
}
