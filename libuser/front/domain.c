// SPDX-License-Identifier: MIT
/*
 * Domains: the allocator behind each, and the rules that all of them obey. Calls read the
 * allocator of a domain without a lock, so an allocator that was set is never freed.
 */
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>

#include <karena/domain.h>

#include "heap/heap.h"
#include "check/debug.h"
#include "front/domain.h"
#include "front/private.h"
#include "stats/tally.h"

static struct ka_heap *heap;

/* KARENA_MALLOC=count is set. */
static bool counted;

static void need_decision(void);

/* Guards the creation of the heap, and the list of allocators that were set. */
static struct ka_mutex lock = KA_MUTEX;
KA_FORK_TAKES(lock);

/*
 * A runtime often empties arenas and needs them again, so they stay as long as other free
 * memory.
 */
static struct ka_heap *make_heap(void)
{
	struct ka_options options = KA_OPTIONS;
	struct ka_heap *made;

	options.source = ka_private_source(true);
	made = ka_heap_create(&options);
	if (made) {
		ka_arenas_of(made)->most_empty = SIZE_MAX;
		made->permanent = true;
		made->tallies = counted ? ka_tallies : NULL;
	}
	return made;
}

struct ka_heap *ka_domain_heap(void)
{
	struct ka_heap *found = __atomic_load_n(&heap, __ATOMIC_ACQUIRE);

	if (__builtin_expect(!!found, 1))
		return found;
	need_decision();
	ka_lock(&lock);
	found = heap ? heap : make_heap();
	__atomic_store_n(&heap, found, __ATOMIC_RELEASE);
	ka_unlock(&lock);
	return found;
}

bool ka_domain_lost(void)
{
	const struct ka_heap *found = __atomic_load_n(&heap, __ATOMIC_ACQUIRE);

	return found && ka_pools_of(found)->inherited;
}

/* The slow path, which also stores the thread's cache for the next call. */
static __attribute__((noinline)) void *alloc_slow(size_t size)
{
	struct ka_heap *from = ka_domain_heap();
	struct ka_cache *cache = from ? ka_cache_of(&from->caches) : NULL;

	if (!cache)
		return NULL;
	if (!cache->ended)
		ka_domain_cache = cache;
	return ka_block_alloc(&from->caches, cache, size);
}

static void *default_malloc(void *context, size_t size)
{
	void *block = ka_block_try(ka_domain_cache, size);

	(void)context;
	if (__builtin_expect(!!block, 1))
		return block;
	/* While tracing is on, blocks that are not traced come from here. */
	block = ka_block_try_traced(ka_domain_cache, size);
	return block ? block : alloc_slow(size);
}

static void *default_calloc(void *context, size_t count, size_t size)
{
	struct ka_heap *from;
	void *block;

	/* The product does not overflow. */
	if (count * size < KA_PAGE_SIZE) {
		block = default_malloc(context, count * size);
		return block ? memset(block, 0, count * size) : NULL;
	}
	from = ka_domain_heap();
	return from ? ka_heap_calloc(from, count, size) : NULL;
}

static void *default_realloc(void *context, void *block, size_t size)
{
	struct ka_heap *from = ka_domain_heap();
	void *other;

	(void)context;
	if (!from)
		return NULL;
	other = ka_heap_realloc(from, block, size);
	if (!other && errno == EINVAL)
		ka_die("realloc");
	return other;
}

static __attribute__((noinline)) void free_slow(void *block)
{
	struct ka_heap *from = ka_domain_heap();

	if (block && (!from || ka_heap_free(from, block)))
		ka_die("free");
}

static void default_free(void *context, void *block)
{
	struct ka_heap *from = KA_READ(heap);
	struct ka_pool *pool = from ? ka_block_own(ka_pools_of(from), block) : NULL;

	(void)context;
	switch (ka_block_try_free(pool, block)) {
	case KA_TRY_FOREIGN:
	case KA_TRY_MARKED:
		free_slow(block);
		break;
	case KA_TRY_EMPTIED:
		ka_block_emptied(ka_cache_of(&from->caches), pool);
		break;
	default:
		break;
	}
}

static const struct ka_allocator by_default = {
	.malloc		= default_malloc,
	.calloc		= default_calloc,
	.realloc	= default_realloc,
	.free		= default_free,
};

static void *first_malloc(void *context, size_t size);
static void *first_calloc(void *context, size_t count, size_t size);
static void *first_realloc(void *context, void *block, size_t size);
static void first_free(void *context, void *block);

/* The allocators until the first call, which reads the environment and replaces them. */
#define FIRST(_domain)							\
	[_domain] = {							\
		.context = (void *)(_domain), .malloc = first_malloc,	\
		.calloc = first_calloc, .realloc = first_realloc,	\
		.free = first_free,					\
	}

static const struct ka_allocator undecided[KARENA_DOMAINS] = {
	FIRST(KA_DOMAIN_RAW), FIRST(KA_DOMAIN_MEM), FIRST(KA_DOMAIN_OBJ),
};

static const struct ka_allocator *allocators[KARENA_DOMAINS] = {
	&undecided[KA_DOMAIN_RAW], &undecided[KA_DOMAIN_MEM], &undecided[KA_DOMAIN_OBJ],
};

static void decide(void)
{
	const struct ka_allocator *counting = NULL;
	enum ka_hooks hooks = ka_hooks_wanted();

	if (hooks == KA_HOOKS_DEBUG)
		ka_callers_prime();
	counted = hooks == KA_HOOKS_COUNT;
	if (counted)
		counting = ka_tally_hooks(&by_default, ka_domain_heap);
	for (int i = 0; i < KARENA_DOMAINS; i++) {
		const struct ka_allocator *first = &by_default;

		if (hooks == KA_HOOKS_DEBUG)
			first = ka_debug_hook((enum ka_domain)i, &by_default, ka_domain_heap,
					      ka_domain_lost);
		else if (counting)
			first = &counting[i];
		__atomic_store_n(&allocators[i], first, __ATOMIC_RELEASE);
	}
}

static void need_decision(void)
{
	static pthread_once_t decided = PTHREAD_ONCE_INIT;

	pthread_once(&decided, decide);
}

static inline const struct ka_allocator *behind(enum ka_domain domain)
{
	return __atomic_load_n(&allocators[domain], __ATOMIC_ACQUIRE);
}

static int check_domain(enum ka_domain domain)
{
	if ((unsigned int)domain < KARENA_DOMAINS)
		return 0;
	return ka_fail(EINVAL, "invalid domain %d: choose one of enum ka_domain", (int)domain);
}

int ka_allocator_get(enum ka_domain domain, struct ka_allocator *allocator)
{
	if (check_domain(domain))
		return -1;
	need_decision();
	*allocator = *behind(domain);
	return 0;
}

/* An allocator that was set. It stays, since a thread may be about to call it. */
struct kept {
	struct ka_allocator allocator;
	const struct kept *next;
};

/*
 * Copy an allocator to a page of its own, which is read-only then: no overflow reaches its
 * functions.
 */
static const struct kept *keep(const struct ka_allocator *allocator, const struct kept *next)
{
	struct kept *kept = ka_mmap(NULL, KA_PAGE_SIZE, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS);

	if (kept == MAP_FAILED)
		goto err;
	*kept = (struct kept){ *allocator, next };
	if (!ka_mprotect(kept, KA_PAGE_SIZE, PROT_READ))
		return kept;
	ka_munmap(kept, KA_PAGE_SIZE);

err:
	ka_fail(ENOMEM, "no memory for a copy of the allocator");
	return NULL;
}

/* Find the copy of an allocator, or make one; NULL with errno and a message. */
static const struct ka_allocator *copy_of(const struct ka_allocator *allocator)
{
	static const struct kept *all;
	const struct kept *kept;

	ka_lock(&lock);
	for (kept = all; kept; kept = kept->next) {
		if (!memcmp(&kept->allocator, allocator, sizeof(*allocator)))
			break;
	}
	if (!kept) {
		kept = keep(allocator, all);
		all = kept ? kept : all;
	}
	ka_unlock(&lock);
	return kept ? &kept->allocator : NULL;
}

/* Check an allocator for a domain and copy it; NULL with errno and a message. */
static const struct ka_allocator *checked_copy(enum ka_domain domain,
					       const struct ka_allocator *allocator)
{
	if (check_domain(domain))
		return NULL;
	if (!allocator->malloc || !allocator->calloc || !allocator->realloc ||
	    !allocator->free) {
		ka_fail(EINVAL, "the allocator lacks a function: malloc, calloc, realloc and"
			" free must be set");
		return NULL;
	}
	need_decision();
	return copy_of(allocator);
}

int ka_allocator_set(enum ka_domain domain, const struct ka_allocator *allocator)
{
	const struct ka_allocator *copy = checked_copy(domain, allocator);

	if (!copy)
		return -1;
	__atomic_store_n(&allocators[domain], copy, __ATOMIC_RELEASE);
	return 0;
}

int ka_allocator_replace(enum ka_domain domain, struct ka_allocator *expected,
			 const struct ka_allocator *allocator)
{
	const struct ka_allocator *copy = checked_copy(domain, allocator), *found;

	if (!copy)
		return -1;
	found = behind(domain);
	if (!memcmp(found, expected, sizeof(*expected)) &&
	    __atomic_compare_exchange_n(&allocators[domain], &found, copy, false,
					__ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
		return 0;
	*expected = *found;
	return ka_fail(EAGAIN, "the domain has another allocator by now");
}

int ka_domain_stats(enum ka_domain domain, struct ka_domain_stats *stats)
{
	const struct ka_tally *tally;

	if (stats->size < sizeof(*stats))
		return ka_fail(EINVAL, "struct ka_domain_stats has the invalid size %zu:"
			       " initialise it with KA_DOMAIN_STATS", stats->size);
	if (check_domain(domain))
		return -1;
	need_decision();
	if (ka_domain_lost() && ka_fail_inherited())
		return -1;
	if (!counted)
		return ka_fail(ENODATA, "the blocks of domains are not counted: set"
			       " KARENA_MALLOC=count");
	tally = &ka_tallies[domain];
	stats->blocks = KA_READ(tally->blocks);
	stats->bytes = KA_READ(tally->bytes);
	return 0;
}

static void *heap_malloc(void *context, size_t size)
{
	return ka_heap_malloc(context, size);
}

static void *heap_calloc(void *context, size_t count, size_t size)
{
	return ka_heap_calloc(context, count, size);
}

static void *heap_realloc(void *context, void *block, size_t size)
{
	return ka_heap_realloc(context, block, size);
}

static void heap_free(void *context, void *block)
{
	if (ka_heap_free(context, block))
		ka_die("free");
}

void ka_heap_allocator(struct ka_heap *of, struct ka_allocator *allocator)
{
	*allocator = (struct ka_allocator){
		.context	= of,
		.malloc		= heap_malloc,
		.calloc		= heap_calloc,
		.realloc	= heap_realloc,
		.free		= heap_free,
	};
}

static void *too_large(size_t count, size_t size)
{
	ka_fail(ENOMEM, "the size of %zu times %zu bytes is too large", count, size);
	return NULL;
}

static inline void *domain_malloc(enum ka_domain domain, size_t size)
{
	const struct ka_allocator *allocator = behind(domain);

	if (size > PTRDIFF_MAX)
		return too_large(1, size);
	return allocator->malloc(allocator->context, size);
}

static inline void *domain_calloc(enum ka_domain domain, size_t count, size_t size)
{
	const struct ka_allocator *allocator = behind(domain);
	size_t product;

	if (__builtin_mul_overflow(count, size, &product) || product > PTRDIFF_MAX)
		return too_large(count, size);
	return allocator->calloc(allocator->context, count, size);
}

static inline void *domain_realloc(enum ka_domain domain, void *block, size_t size)
{
	const struct ka_allocator *allocator = behind(domain);

	if (size > PTRDIFF_MAX)
		return too_large(1, size);
	return allocator->realloc(allocator->context, block, size);
}

static inline void domain_free(enum ka_domain domain, void *block)
{
	const struct ka_allocator *allocator = behind(domain);

	allocator->free(allocator->context, block);
}

static void *first_malloc(void *context, size_t size)
{
	need_decision();
	return domain_malloc((enum ka_domain)(uintptr_t)context, size);
}

static void *first_calloc(void *context, size_t count, size_t size)
{
	need_decision();
	return domain_calloc((enum ka_domain)(uintptr_t)context, count, size);
}

static void *first_realloc(void *context, void *block, size_t size)
{
	need_decision();
	return domain_realloc((enum ka_domain)(uintptr_t)context, block, size);
}

static void first_free(void *context, void *block)
{
	need_decision();
	domain_free((enum ka_domain)(uintptr_t)context, block);
}

void *ka_raw_malloc(size_t size)
{
	return domain_malloc(KA_DOMAIN_RAW, size);
}

void *ka_raw_calloc(size_t count, size_t size)
{
	return domain_calloc(KA_DOMAIN_RAW, count, size);
}

void *ka_raw_realloc(void *block, size_t size)
{
	return domain_realloc(KA_DOMAIN_RAW, block, size);
}

void ka_raw_free(void *block)
{
	domain_free(KA_DOMAIN_RAW, block);
}

void *ka_mem_malloc(size_t size)
{
	return domain_malloc(KA_DOMAIN_MEM, size);
}

void *ka_mem_calloc(size_t count, size_t size)
{
	return domain_calloc(KA_DOMAIN_MEM, count, size);
}

void *ka_mem_realloc(void *block, size_t size)
{
	return domain_realloc(KA_DOMAIN_MEM, block, size);
}

void ka_mem_free(void *block)
{
	domain_free(KA_DOMAIN_MEM, block);
}

void *ka_obj_malloc(size_t size)
{
	return domain_malloc(KA_DOMAIN_OBJ, size);
}

void *ka_obj_calloc(size_t count, size_t size)
{
	return domain_calloc(KA_DOMAIN_OBJ, count, size);
}

void *ka_obj_realloc(void *block, size_t size)
{
	return domain_realloc(KA_DOMAIN_OBJ, block, size);
}

void ka_obj_free(void *block)
{
	domain_free(KA_DOMAIN_OBJ, block);
}
