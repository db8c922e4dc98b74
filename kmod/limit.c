// SPDX-License-Identifier: GPL-2.0
/*
 * Limits: how much a heap, and all heaps together, may commit. What is charged
 * here is charged before memory is allocated and uncharged when it is free, so
 * that neither limit is ever exceeded, not even for a moment.
 */
#include <linux/mm.h>
#include <linux/moduleparam.h>

#include "karena.h"

#define NOT_SET	ULONG_MAX

/* In pages, of all heaps. */
static unsigned long limit_pages = NOT_SET;
static atomic_long_t committed_pages;

/* In bytes, with K, M or G. */
static int limit_set(const char *text, const struct kernel_param *param)
{
	char *end;
	unsigned long long bytes = memparse(text, &end);

	if (end == text || (*end && *end != '\n'))
		return -EINVAL;
	WRITE_ONCE(limit_pages, min_t(u64, bytes >> PAGE_SHIFT, LONG_MAX));
	return 0;
}

static int limit_get(char *buffer, const struct kernel_param *param)
{
	return sysfs_emit(buffer, "%llu\n", (u64)karena_limit() << PAGE_SHIFT);
}

static const struct kernel_param_ops limit_ops = {
	.set	= limit_set,
	.get	= limit_get,
};
module_param_cb(limit, &limit_ops, NULL, 0644);
MODULE_PARM_DESC(limit, "bytes that all heaps together may commit (default: half of the memory)");

/**
 * karena_limit() - The limit of all heaps together.
 *
 * Return: Pages.
 */
unsigned long karena_limit(void)
{
	return READ_ONCE(limit_pages);
}

/**
 * karena_committed() - What all heaps together have committed.
 *
 * Return: Pages, without those that have come free since somebody pinned them.
 */
unsigned long karena_committed(void)
{
	karena_frame_reap(NULL);
	return atomic_long_read(&committed_pages);
}

static int try_charge(struct karena_heap *heap, unsigned long pages)
{
	long old = atomic_long_read(&committed_pages);

	do {
		if (old + pages > karena_limit())
			return -ENOMEM;
	} while (!atomic_long_try_cmpxchg(&committed_pages, &old, old + pages));

	spin_lock(&heap->lock);
	if (heap->committed + pages <= heap->limit) {
		heap->committed += pages;
		spin_unlock(&heap->lock);
		return 0;
	}
	spin_unlock(&heap->lock);
	atomic_long_sub(pages, &committed_pages);
	return -ENOMEM;
}

/**
 * karena_charge() - Count pages that are about to be committed.
 * @heap: The heap.
 * @pages: How many.
 *
 * Return: 0, or -ENOMEM at the limit of the heap or of all heaps together.
 */
int karena_charge(struct karena_heap *heap, unsigned long pages)
{
	if (!try_charge(heap, pages))
		return 0;
	/* What was pinned when it was released may be free by now. */
	karena_frame_reap(heap);
	return try_charge(heap, pages);
}

/**
 * karena_uncharge() - Count pages that are committed no more.
 * @heap: The heap, or NULL when it is gone.
 * @pages: How many.
 */
void karena_uncharge(struct karena_heap *heap, unsigned long pages)
{
	if (heap) {
		spin_lock(&heap->lock);
		heap->committed -= pages;
		spin_unlock(&heap->lock);
	}
	atomic_long_sub(pages, &committed_pages);
}

/**
 * karena_limit_init() - Set the default where the administrator set nothing.
 *
 * Arenas are never swapped; half of the memory is what tmpfs takes, too.
 */
void karena_limit_init(void)
{
	if (limit_pages == NOT_SET)
		limit_pages = totalram_pages() / 2;
}
