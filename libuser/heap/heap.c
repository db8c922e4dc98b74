// SPDX-License-Identifier: MIT
/*
 * The public functions of a heap: its addresses, its limit, its runs and its blocks.
 */
#include <errno.h>

#include "heap/heap.h"

enum ka_source ka_heap_source(const struct ka_heap *heap)
{
	return ka_window_of(heap)->source->source;
}

uint64_t ka_heap_id(const struct ka_heap *heap)
{
	return ka_window_of(heap)->id;
}

bool ka_heap_contains(const struct ka_heap *heap, const void *address)
{
	return ka_window_contains(ka_window_of(heap), address);
}

int ka_heap_descriptor(struct ka_heap *heap)
{
	const struct ka_window *window = ka_window_of(heap);

	/* A child may use the file of a shared window; that needs no metadata. */
	if (window->fork != KA_FORK_SHARE && ka_refuse_inherited(ka_pools_of(heap)))
		return -1;
	return window->source->descriptor(window);
}

/* One thread at a time changes a limit, so that kernel and library have the same one. */
static struct ka_mutex limit_lock = KA_MUTEX;
KA_FORK_TAKES(limit_lock);

int ka_heap_set_limit(struct ka_heap *heap, size_t limit)
{
	struct ka_arenas *arenas = ka_arenas_of(heap);
	struct ka_window wanted;
	char text[32];
	int error = 0;

	if (ka_refuse_inherited(ka_pools_of(heap)))
		return -1;
	ka_lock(&limit_lock);
	ka_arenas_lock(arenas);
	wanted = arenas->window;
	wanted.limit = limit ? limit / KA_ARENA_SIZE : wanted.nr_arenas - wanted.nr_metadata;
	wanted.most_metadata = ka_metadata_most(&wanted);
	/* The kernel also counts the metadata that is committed already. */
	if (wanted.most_metadata < ka_metadata_committed(arenas))
		wanted.most_metadata = ka_metadata_committed(arenas);
	ka_arenas_unlock(arenas);
	if (!wanted.limit || wanted.limit > wanted.nr_arenas - wanted.nr_metadata)
		error = ka_fail(EINVAL, "invalid limit of %s: it must be from 2 MiB to the size of"
				" the window",
				ka_format_size(limit, text));
	/* Opens a file, so the heap is not locked. */
	else if (wanted.source->set_limit)
		error = wanted.source->set_limit(&wanted);
	if (!error) {
		ka_arenas_lock(arenas);
		arenas->window.limit = wanted.limit;
		arenas->window.most_metadata = wanted.most_metadata;
		ka_arenas_unlock(arenas);
	}
	ka_unlock(&limit_lock);
	return error;
}

int ka_heap_reset(struct ka_heap *heap)
{
	if (ka_refuse_inherited(ka_pools_of(heap)))
		return -1;
	if (heap->permanent)
		return ka_fail(EINVAL, "the heap of the domains cannot be reset");
	ka_lists_lock();
	ka_caches_free(&heap->caches);
	heap->caches.nr_cacheless = 0;
	ka_heaps_renumber(heap);
	ka_sampler->forget_heap(ka_window_of(heap), false);
	/* The lists stay locked: a fork before this would leave a child pools without owners. */
	ka_arenas_lock(ka_arenas_of(heap));
	ka_pools_forget(ka_pools_of(heap));
	ka_runs_forget(ka_arenas_of(heap));
	ka_arenas_decay(ka_arenas_of(heap));
	ka_arenas_changed(ka_arenas_of(heap));
	ka_arenas_unlock(ka_arenas_of(heap));
	ka_lists_unlock();
	return 0;
}

size_t ka_heap_trim(struct ka_heap *heap)
{
	struct ka_cache *cache;

	if (ka_refuse_inherited(ka_pools_of(heap)))
		return 0;
	cache = ka_cache_of(&heap->caches);
	return cache ? ka_cache_trim(&heap->caches, cache) * KA_PAGE_SIZE : 0;
}

int ka_heap_idle(struct ka_heap *heap)
{
	struct ka_cache *cache;

	if (ka_refuse_inherited(ka_pools_of(heap)))
		return -1;
	cache = ka_cache_of(&heap->caches);
	/* A cache that the thread has not used yet is in no list. */
	if (cache && cache->caches)
		ka_cache_abandon_all(cache);
	return cache ? 0 : -1;
}

/* Runs. */

void *ka_run_alloc(struct ka_heap *heap, size_t size, size_t align)
{
	return ka_runs_alloc(ka_pools_of(heap), size, align);
}

int ka_run_free(struct ka_heap *heap, void *run)
{
	return run ? ka_block_free_run(&heap->caches, run) : 0;
}

size_t ka_run_size(struct ka_heap *heap, const void *run)
{
	return ka_runs_size(ka_pools_of(heap), run);
}

/* Blocks. In a child, these functions read nothing of a heap that is the parent's. */

void *ka_heap_malloc(struct ka_heap *heap, size_t size)
{
	struct ka_cache *cache = ka_cache_of(&heap->caches);

	return cache ? ka_block_alloc(&heap->caches, cache, size) : NULL;
}

void *ka_heap_calloc(struct ka_heap *heap, size_t count, size_t size)
{
	struct ka_cache *cache = ka_cache_of(&heap->caches);
	size_t product;

	if (__builtin_mul_overflow(count, size, &product)) {
		ka_fail(ENOMEM, "the size of %zu times %zu bytes is too large", count, size);
		return NULL;
	}
	return cache ? ka_block_alloc_zeroed(&heap->caches, cache, product) : NULL;
}

void *ka_heap_realloc(struct ka_heap *heap, void *block, size_t size)
{
	struct ka_cache *cache = ka_cache_of(&heap->caches);

	if (!cache || (block && ka_refuse_inherited(ka_pools_of(heap))))
		return NULL;
	return block ? ka_block_resize(&heap->caches, cache, block, size) :
		       ka_block_alloc(&heap->caches, cache, size);
}

void *ka_heap_aligned_alloc(struct ka_heap *heap, size_t align, size_t size)
{
	struct ka_cache *cache = ka_cache_of(&heap->caches);

	if (!align || align & (align - 1)) {
		ka_fail(EINVAL, "invalid alignment %zu: it must be a power of two", align);
		return NULL;
	}
	return cache ? ka_block_alloc_aligned(&heap->caches, cache, align, size) : NULL;
}

int ka_heap_free(struct ka_heap *heap, void *block)
{
	struct ka_cache *cache = ka_cache_for_free(&heap->caches);

	return cache ? ka_block_free(&heap->caches, cache, block) : -1;
}

size_t ka_heap_usable_size(struct ka_heap *heap, const void *block)
{
	return ka_refuse_inherited(ka_pools_of(heap)) ? 0 : ka_block_size(&heap->caches, block);
}

size_t ka_heap_expand(struct ka_heap *heap, void *block, size_t size)
{
	struct ka_cache *cache = ka_cache_of(&heap->caches);

	return cache && !ka_refuse_inherited(ka_pools_of(heap)) ?
	       ka_block_expand(&heap->caches, cache, block, size) : 0;
}

int ka_heap_free_sized(struct ka_heap *heap, void *block, size_t size)
{
	size_t usable;

	if (!block)
		return 0;
	usable = ka_heap_usable_size(heap, block);
	if (!usable)
		return -1;
	if (size > usable)
		return ka_fail(EINVAL, "invalid size %zu: the block %p has room for %zu bytes",
			       size, block, usable);
	return ka_heap_free(heap, block);
}

size_t ka_heap_malloc_batch(struct ka_heap *heap, size_t size, void **blocks, size_t nr)
{
	struct ka_cache *cache = ka_cache_of(&heap->caches);
	size_t done = 0;

	for (; cache && done < nr; done++) {
		blocks[done] = ka_block_alloc(&heap->caches, cache, size);
		if (!blocks[done])
			break;
	}
	return done;
}

size_t ka_heap_free_batch(struct ka_heap *heap, void *const *blocks, size_t nr)
{
	size_t done = 0;

	while (done < nr && !ka_heap_free(heap, blocks[done]))
		done++;
	return done;
}

size_t ka_good_size(size_t size)
{
	if (size <= KA_BLOCK_MAX)
		return ka_class_size(ka_class_of(size ? size : 1));
	return size > SIZE_MAX - KA_PAGE_SIZE ? size :
	       (size + KA_PAGE_SIZE - 1) & ~(KA_PAGE_SIZE - 1);
}
