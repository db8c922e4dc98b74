// SPDX-License-Identifier: MIT
/*
 * What a program can ask of a heap: where it is, its runs, its blocks.
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

	/* What is shared with the parent can be had; its notes are not needed. */
	if (window->fork != KA_FORK_SHARE && ka_refuse_inherited(ka_pools_of(heap)))
		return -1;
	return window->source->descriptor(window);
}

size_t ka_trim(struct ka_heap *heap)
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
	/* One that has had no block yet is in no list. */
	if (cache && cache->caches)
		ka_cache_leave_all(cache);
	return cache ? 0 : -1;
}

/* Its runs. */

void *ka_run_alloc(struct ka_heap *heap, size_t size, size_t align)
{
	return ka_runs_take(ka_pools_of(heap), size, align);
}

int ka_run_free(struct ka_heap *heap, void *run)
{
	return run ? ka_block_free_run(&heap->caches, run) : 0;
}

size_t ka_run_size(struct ka_heap *heap, const void *run)
{
	return ka_runs_size(ka_pools_of(heap), run);
}

/* Its blocks. In a heap of the parent's, which a child may not touch, nothing is read. */

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
		ka_fail(ENOMEM, "no memory has room for %zu times %zu bytes", count, size);
		return NULL;
	}
	return cache ? ka_block_zeroed(&heap->caches, cache, product) : NULL;
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
		ka_fail(EINVAL, "an alignment of %zu is not a power of two", align);
		return NULL;
	}
	return cache ? ka_block_take_aligned(&heap->caches, cache, align, size) : NULL;
}

int ka_heap_free(struct ka_heap *heap, void *block)
{
	struct ka_cache *cache = ka_cache_to_give(&heap->caches);

	return cache ? ka_block_free(&heap->caches, cache, block) : -1;
}

size_t ka_heap_block_size(struct ka_heap *heap, const void *block)
{
	return ka_refuse_inherited(ka_pools_of(heap)) ? 0 : ka_block_size(&heap->caches, block);
}
