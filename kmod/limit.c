// SPDX-License-Identifier: GPL-2.0
/*
 * Limits: how much a heap, and all heaps together, may commit. The module charges memory
 * before it allocates it, and uncharges memory when it is free, so that neither limit is
 * exceeded. There are three exceptions: the moment of a demotion (sparse.c), the moment in
 * which a ready frame makes room for a commit, and copies. Every heap that has a shared
 * page counts it, so its own limit always has room for the copy. All heaps together count
 * the page once, and the copy is added without checking the limit, because a limit must not
 * raise a signal.
 *
 * Charged memory also counts against the process's RLIMIT_MEMLOCK, because it is never
 * swapped. The module counts it in mm->pinned_vm, like memory that RDMA and io_uring pin.
 * Counting it in mm->locked_vm would need mmap_lock, which a fault holds already, and for
 * which the thread that drops the last reference to a heap must not wait. All limits
 * together cost about 55 of the 1,927 instructions of a commit of a page.
 */
#include <linux/capability.h>
#include <linux/mm.h>
#include <linux/moduleparam.h>
#include <linux/sched/signal.h>
#include <linux/user_namespace.h>

#include "folio.h"

#define NOT_SET	ULONG_MAX

/* In pages, of all heaps. Charged pages are committed or ready. */
static unsigned long limit_pages = NOT_SET;
static atomic_long_t charged_pages;
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
 * karena_committed() - Count the pages that all heaps together have committed.
 *
 * Return: Pages, perhaps with some that were unpinned in the last second.
 */
unsigned long karena_committed(void)
{
	return atomic_long_read(&committed_pages);
}

/**
 * karena_limit_memlock() - Find out how much the current process may lock.
 *
 * Context: Any, also under family->lock: ns_capable_noaudit() does not write to the audit
 * log, which may sleep.
 * Return: Pages.
 */
unsigned long karena_limit_memlock(void)
{
	return ns_capable_noaudit(&init_user_ns, CAP_IPC_LOCK) ?
	       ULONG_MAX : rlimit(RLIMIT_MEMLOCK) >> PAGE_SHIFT;
}

static bool heap_above_memlock(struct karena_heap *heap, unsigned long pinned)
{
	pinned += READ_ONCE(heap->mm->locked_vm);
	/* The thread that makes frames ready has no limit of its own. */
	if (current->mm != heap->mm)
		return pinned > READ_ONCE(heap->charge.memlock);
	return pinned > rlimit(RLIMIT_MEMLOCK) >> PAGE_SHIFT &&
	       pinned > karena_limit_memlock();
}

/**
 * karena_limit_exceeded() - Ask whether more is charged than a limit now allows.
 * @heap: The heap, with the family's lock held.
 *
 * Return: True if its own limit is exceeded, or that of all heaps.
 */
bool karena_limit_exceeded(struct karena_heap *heap)
{
	lockdep_assert_held(&heap->family->lock);
	return heap->charge.pages > heap->charge.limit ||
	       atomic_long_read(&charged_pages) > karena_limit();
}

/**
 * karena_limit_allows() - Ask whether RLIMIT_MEMLOCK has room for more.
 * @heap: The heap.
 * @pages: How many pages.
 *
 * Return: True if it has, as of this moment.
 */
bool karena_limit_allows(struct karena_heap *heap, unsigned long pages)
{
	return !heap_above_memlock(heap, atomic64_read(&heap->mm->pinned_vm) + pages);
}

/* Charge pages to all heaps together and to the process. */
static int charge_outer(struct karena_heap *heap, unsigned long pages,
			unsigned long limit)
{
	atomic64_t *pinned_vm = &heap->mm->pinned_vm;
	long old = atomic_long_read(&charged_pages);
	s64 pinned = atomic64_read(pinned_vm);

	do {
		if (old + pages > limit)
			return -ENOMEM;
	} while (!atomic_long_try_cmpxchg(&charged_pages, &old, old + pages));
	do {
		if (heap_above_memlock(heap, pinned + pages)) {
			atomic_long_sub(pages, &charged_pages);
			return -ENOMEM;
		}
	} while (!atomic64_try_cmpxchg(pinned_vm, &pinned, pinned + pages));
	return 0;
}

static void uncharge_outer(struct karena_heap *heap, unsigned long pages)
{
	atomic64_sub(pages, &heap->mm->pinned_vm);
	atomic_long_sub(pages, &charged_pages);
}

/* The family's lock is held. */
static int charge_heap(struct karena_heap *heap, unsigned long pages)
{
	lockdep_assert_held(&heap->family->lock);
	if (heap->charge.pages + pages > heap->charge.limit)
		return -ENOMEM;
	WRITE_ONCE(heap->charge.pages, heap->charge.pages + pages);
	return 0;
}

/**
 * karena_charge_ready() - Count pages that become ready.
 * @heap: The heap, with the family's lock held.
 * @pages: How many.
 *
 * The last eighth of the limit of all heaps is left for commits.
 *
 * Return: 0, or -ENOMEM near a limit.
 */
int karena_charge_ready(struct karena_heap *heap, unsigned long pages)
{
	unsigned long limit = karena_limit();
	int err = charge_outer(heap, pages, limit - limit / 8);

	if (err)
		return err;
	err = charge_heap(heap, pages);
	if (err)
		uncharge_outer(heap, pages);
	return err;
}

/**
 * karena_charge_room() - Ask whether karena_charge_ready() would succeed.
 * @heap: The heap.
 * @pages: How many pages.
 *
 * Return: True if it would, as of this moment.
 */
bool karena_charge_room(struct karena_heap *heap, unsigned long pages)
{
	unsigned long charged = READ_ONCE(heap->charge.pages) + pages;
	unsigned long limit = karena_limit();

	return charged <= READ_ONCE(heap->charge.limit) &&
	       karena_limit_allows(heap, pages) &&
	       atomic_long_read(&charged_pages) + pages <= limit - limit / 8;
}

/**
 * karena_uncharge_ready() - Count pages that are no longer ready.
 * @heap: The heap, with the family's lock held.
 * @pages: How many.
 */
void karena_uncharge_ready(struct karena_heap *heap, unsigned long pages)
{
	lockdep_assert_held(&heap->family->lock);
	WRITE_ONCE(heap->charge.pages, heap->charge.pages - pages);
	uncharge_outer(heap, pages);
}

/**
 * karena_charge_committed() - Count ready pages as committed.
 * @heap: The heap, with the family's lock held.
 * @pages: How many.
 */
void karena_charge_committed(struct karena_heap *heap, unsigned long pages)
{
	lockdep_assert_held(&heap->family->lock);
	WRITE_ONCE(heap->charge.committed, heap->charge.committed + pages);
	atomic_long_add(pages, &committed_pages);
}

/**
 * karena_charge() - Count pages that are about to be committed.
 * @heap: The heap, with the family's lock held.
 * @pages: How many.
 *
 * Return: 0, or -ENOMEM at the limit of the heap, of all heaps together or of the process.
 */
int karena_charge(struct karena_heap *heap, unsigned long pages)
{
	int err = charge_outer(heap, pages, karena_limit());

	if (err)
		return err;
	err = charge_heap(heap, pages);
	if (err)
		uncharge_outer(heap, pages);
	else
		karena_charge_committed(heap, pages);
	return err;
}

/**
 * karena_charge_heap() - Count pages as committed in a heap and its process alone.
 * @heap: The heap.
 * @pages: Change of the number: for memory that other heaps share, or that is freed.
 *
 * No limit is checked: a heap that has a page must get its copy.
 */
void karena_charge_heap(struct karena_heap *heap, long pages)
{
	spin_lock(&heap->family->lock);
	WRITE_ONCE(heap->charge.pages, heap->charge.pages + pages);
	WRITE_ONCE(heap->charge.committed, heap->charge.committed + pages);
	WARN_ON_ONCE((long)heap->charge.committed < 0 ||
		     heap->charge.pages < heap->charge.committed);
	spin_unlock(&heap->family->lock);
	atomic64_add(pages, &heap->mm->pinned_vm);
}

/**
 * karena_charge_all() - Count pages as committed for all heaps together alone.
 * @pages: Change of the number: for copies, and for pages that no heap has any more.
 */
void karena_charge_all(long pages)
{
	WARN_ON_ONCE(atomic_long_add_return(pages, &charged_pages) < 0);
	WARN_ON_ONCE(atomic_long_add_return(pages, &committed_pages) < 0);
}

/**
 * karena_uncharge() - Count pages that are no longer committed.
 * @heap: The heap.
 * @pages: How many.
 */
void karena_uncharge(struct karena_heap *heap, unsigned long pages)
{
	karena_charge_heap(heap, -pages);
	karena_charge_all(-pages);
}

/**
 * karena_limit_abandon() - Uncharge a process.
 * @heap: Its heap, which is about to be destroyed. Its orphans stay charged to all heaps
 *	together.
 */
void karena_limit_abandon(struct karena_heap *heap)
{
	atomic64_sub(heap->charge.pages, &heap->mm->pinned_vm);
}

/* The family's lock is held. */
static int heap_set_limit(struct karena_heap *heap, u64 bytes, bool raise)
{
	lockdep_assert_held(&heap->family->lock);
	if (bytes < KARENA_ARENA_SIZE || bytes > karena_window_size(heap))
		return -EINVAL;
	if (!raise && bytes >> PAGE_SHIFT > heap->charge.limit)
		return -EPERM;
	WRITE_ONCE(heap->charge.limit, bytes >> PAGE_SHIFT);
	return 0;
}

/**
 * karena_limit_pages() - Convert a soft limit to pages.
 * @bytes: The limit, 0 for none.
 *
 * Return: Pages, 0 for none.
 */
unsigned long karena_limit_pages(u64 bytes)
{
	/* A limit that cannot be rounded up is out of reach anyway. */
	return (bytes >> PAGE_SHIFT) + (!PAGE_ALIGNED(bytes) && bytes <= LLONG_MAX);
}

/**
 * karena_limit_by_root() - Set a heap's hard limit as root.
 * @heap: The heap.
 * @bytes: The limit.
 *
 * Return: 0 or -EINVAL. After 0 the caller calls karena_ready_fit().
 */
int karena_limit_by_root(struct karena_heap *heap, u64 bytes)
{
	int err;

	spin_lock(&heap->family->lock);
	err = heap_set_limit(heap, bytes, true);
	if (!err)
		set_bit(KARENA_HEAP_LIMITED, &heap->flags);
	spin_unlock(&heap->family->lock);
	return err;
}

/**
 * karena_limit_call() - Set and read limits (KARENA_LIMIT).
 * @heap: The heap.
 * @call: The caller's struct, which gets the answer.
 *
 * Return: 0, -EINVAL or -EPERM. After an error no limit has changed. After 0 the caller
 * calls karena_ready_fit().
 */
int karena_limit_call(struct karena_heap *heap, struct karena_limit *call)
{
	/* Not under the lock: capable() may write to the audit log, which may sleep. */
	bool raise = test_bit(KARENA_HEAP_LIMITED, &heap->flags) &&
		     capable(CAP_SYS_RESOURCE);
	int err = 0;

	if (call->flags & ~(KARENA_LIMIT_HARD | KARENA_LIMIT_SOFT))
		return -EINVAL;
	spin_lock(&heap->family->lock);
	raise |= !test_bit(KARENA_HEAP_LIMITED, &heap->flags);
	if (call->flags & KARENA_LIMIT_HARD)
		err = heap_set_limit(heap, call->hard, raise);
	if (!err && call->flags & KARENA_LIMIT_SOFT)
		WRITE_ONCE(heap->charge.soft_limit, karena_limit_pages(call->soft));
	call->hard = (u64)heap->charge.limit << PAGE_SHIFT;
	call->soft = (u64)heap->charge.soft_limit << PAGE_SHIFT;
	spin_unlock(&heap->family->lock);
	return err;
}

/**
 * karena_limit_init() - Set the default, unless the administrator has set a limit.
 *
 * Arenas are never swapped. Half of the memory is also the default limit of tmpfs.
 */
void karena_limit_init(void)
{
	if (limit_pages == NOT_SET)
		limit_pages = totalram_pages() / 2;
}
