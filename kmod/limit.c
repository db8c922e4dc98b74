// SPDX-License-Identifier: GPL-2.0
/*
 * Limits: how much a heap, and all heaps together, may commit. What is charged
 * here is charged before memory is allocated and uncharged when it is free, so
 * that neither limit is exceeded (but for the moment of a demotion, see sparse.c).
 *
 * What is charged is also accounted to the process's RLIMIT_MEMLOCK, as it is never
 * swapped. That takes mmap_lock, which a fault holds; so it is done ahead, in
 * batches: karena_charge() asks for it with EAGAIN, karena_lock() does it.
 */
#include <linux/capability.h>
#include <linux/mm.h>
#include <linux/moduleparam.h>
#include <linux/pid.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>

#include "karena.h"

#define NOT_SET	ULONG_MAX

/* Pages accounted to RLIMIT_MEMLOCK ahead, where it allows many more: 16 MiB. */
#define LOCK_BATCH	(8 * KARENA_ARENA_PAGES)

/* In pages, of all heaps; charged is what is committed or ready. */
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
 * karena_committed() - What all heaps together have committed.
 *
 * Return: Pages, without those that have come free since somebody pinned them.
 */
unsigned long karena_committed(void)
{
	karena_frame_reap(NULL);
	return atomic_long_read(&committed_pages);
}

/* With heap->lock held. */
static int charge(struct karena_heap *heap, unsigned long pages, unsigned long limit)
{
	long old = atomic_long_read(&charged_pages);

	lockdep_assert_held(&heap->lock);
	if (heap->charged + pages > heap->limit)
		return -ENOMEM;
	do {
		if (old + pages > limit)
			return -ENOMEM;
	} while (!atomic_long_try_cmpxchg(&charged_pages, &old, old + pages));
	if (heap->charged + pages > heap->locked) {
		atomic_long_sub(pages, &charged_pages);
		return -EAGAIN;
	}
	WRITE_ONCE(heap->charged, heap->charged + pages);
	return 0;
}

/**
 * karena_charge_ready() - Count pages that become ready.
 * @heap: The heap, with heap->lock held.
 * @pages: How many.
 *
 * The last eighth of the limit of all heaps is left to who commits.
 *
 * Return: 0, -ENOMEM near a limit, or -EAGAIN when karena_lock_ready() is needed
 * first.
 */
int karena_charge_ready(struct karena_heap *heap, unsigned long pages)
{
	return charge(heap, pages, karena_limit() - karena_limit() / 8);
}

/**
 * karena_charge_room() - Whether karena_charge_ready() has a chance.
 * @heap: The heap.
 * @pages: How many pages.
 *
 * Return: Whether it has at this moment.
 */
bool karena_charge_room(struct karena_heap *heap, unsigned long pages)
{
	unsigned long charged = READ_ONCE(heap->charged) + pages;
	unsigned long limit = karena_limit();

	return charged <= READ_ONCE(heap->limit) &&
	       atomic_long_read(&charged_pages) + pages <= limit - limit / 8;
}

/**
 * karena_uncharge_ready() - Count pages that are ready no more.
 * @heap: The heap.
 * @pages: How many.
 */
void karena_uncharge_ready(struct karena_heap *heap, unsigned long pages)
{
	spin_lock(&heap->lock);
	WRITE_ONCE(heap->charged, heap->charged - pages);
	spin_unlock(&heap->lock);
	atomic_long_sub(pages, &charged_pages);
}

/**
 * karena_charge_committed() - Count pages as committed that were ready.
 * @heap: The heap.
 * @pages: How many.
 */
void karena_charge_committed(struct karena_heap *heap, unsigned long pages)
{
	spin_lock(&heap->lock);
	WRITE_ONCE(heap->committed, heap->committed + pages);
	spin_unlock(&heap->lock);
	atomic_long_add(pages, &committed_pages);
}

static int charge_commit(struct karena_heap *heap, unsigned long pages)
{
	int err;

	spin_lock(&heap->lock);
	err = charge(heap, pages, karena_limit());
	if (!err)
		WRITE_ONCE(heap->committed, heap->committed + pages);
	spin_unlock(&heap->lock);
	if (!err)
		atomic_long_add(pages, &committed_pages);
	return err;
}

/**
 * karena_charge() - Count pages that are about to be committed.
 * @heap: The heap.
 * @pages: How many.
 *
 * Return: 0; -ENOMEM at the limit of the heap or of all heaps together; -EAGAIN when
 * karena_lock() is needed first.
 */
int karena_charge(struct karena_heap *heap, unsigned long pages)
{
	int err = charge_commit(heap, pages);

	if (err == -ENOMEM) {
		/* What was pinned when it was released may be free by now. */
		karena_frame_reap(heap);
		err = charge_commit(heap, pages);
	}
	return err;
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
		WRITE_ONCE(heap->charged, heap->charged - pages);
		WRITE_ONCE(heap->committed, heap->committed - pages);
		spin_unlock(&heap->lock);
	}
	atomic_long_sub(pages, &charged_pages);
	atomic_long_sub(pages, &committed_pages);
}

/**
 * karena_lock_allowed() - Whether karena_lock() has a chance.
 * @heap: The heap, the current process's.
 * @pages: How many pages are to be charged.
 *
 * Return: Whether RLIMIT_MEMLOCK allows them at this moment.
 */
bool karena_lock_allowed(struct karena_heap *heap, unsigned long pages)
{
	unsigned long room = rlimit(RLIMIT_MEMLOCK) >> PAGE_SHIFT;
	unsigned long want = READ_ONCE(heap->charged) + pages;
	unsigned long have = READ_ONCE(heap->locked);

	return want <= have || capable(CAP_IPC_LOCK) ||
	       READ_ONCE(heap->mm->locked_vm) + want - have <= room;
}

/* Near the limit nothing is ahead: it may be another heap's. */
static unsigned long lock_batch(struct karena_heap *heap)
{
	unsigned long room = rlimit(RLIMIT_MEMLOCK) >> PAGE_SHIFT;
	unsigned long used = READ_ONCE(heap->mm->locked_vm);

	return used + 8 * LOCK_BATCH <= room || capable(CAP_IPC_LOCK) ?
	       LOCK_BATCH : 0;
}

/**
 * karena_lock() - Account pages to RLIMIT_MEMLOCK before they are charged.
 * @heap: The heap, the current process's.
 * @pages: How many.
 *
 * Context: Takes mmap_lock.
 * Return: 0, -ENOMEM above the limit, -EINTR when the process is being killed.
 */
int karena_lock(struct karena_heap *heap, unsigned long pages)
{
	unsigned long want = READ_ONCE(heap->charged) + pages;
	unsigned long have = READ_ONCE(heap->locked);
	unsigned long more;
	int err;

	assign_bit(KARENA_HEAP_UNLIMITED, &heap->flags, capable(CAP_IPC_LOCK));
	if (fatal_signal_pending(current))
		return -EINTR;
	if (want <= have)
		return 0;
	more = want - have + lock_batch(heap);
	err = account_locked_vm(heap->mm, more, true);
	if (err)
		return err;
	spin_lock(&heap->lock);
	WRITE_ONCE(heap->locked, heap->locked + more);
	spin_unlock(&heap->lock);
	return 0;
}

/**
 * karena_lock_ready() - Account pages to RLIMIT_MEMLOCK before they are ready.
 * @heap: The heap, of whatever process.
 * @pages: How many.
 *
 * The limit is that of the process which made the heap; one that had the right to
 * lock any amount when it last did so may do so still.
 *
 * Context: Takes mmap_lock.
 * Return: Whether they are accounted.
 */
bool karena_lock_ready(struct karena_heap *heap, unsigned long pages)
{
	unsigned long want = READ_ONCE(heap->charged) + pages;
	unsigned long have = READ_ONCE(heap->locked);
	struct task_struct *task;
	int err;

	if (want <= have)
		return true;
	task = get_pid_task(heap->pid, PIDTYPE_TGID);
	if (!task)
		return false;
	mmap_write_lock(heap->mm);
	err = __account_locked_vm(heap->mm, want - have, true, task,
				  test_bit(KARENA_HEAP_UNLIMITED, &heap->flags));
	mmap_write_unlock(heap->mm);
	put_task_struct(task);
	if (err)
		return false;
	spin_lock(&heap->lock);
	WRITE_ONCE(heap->locked, heap->locked + want - have);
	spin_unlock(&heap->lock);
	return true;
}

/**
 * karena_unlock_surplus() - Account less when less is charged.
 * @heap: The heap.
 *
 * Context: Takes mmap_lock.
 */
void karena_unlock_surplus(struct karena_heap *heap)
{
	unsigned long batch = lock_batch(heap), surplus = 0;

	spin_lock(&heap->lock);
	if (heap->locked > heap->charged + 2 * batch) {
		surplus = heap->locked - heap->charged - batch;
		WRITE_ONCE(heap->locked, heap->locked - surplus);
	}
	spin_unlock(&heap->lock);
	if (surplus)
		account_locked_vm(heap->mm, surplus, false);
}

/**
 * karena_unlock_all() - Account nothing any more.
 * @heap: A heap that goes.
 *
 * Context: Takes mmap_lock.
 */
void karena_unlock_all(struct karena_heap *heap)
{
	if (heap->locked)
		account_locked_vm(heap->mm, heap->locked, false);
}

/* With heap->lock held. */
static int set_limit(struct karena_heap *heap, u64 bytes, bool raise)
{
	lockdep_assert_held(&heap->lock);
	if (bytes < KARENA_ARENA_SIZE || bytes > karena_window_size(heap))
		return -EINVAL;
	if (!raise && bytes >> PAGE_SHIFT > heap->limit)
		return -EPERM;
	WRITE_ONCE(heap->limit, bytes >> PAGE_SHIFT);
	return 0;
}

/* Ready frames are the first that a new limit leaves no room for. */
static void limits_changed(struct karena_heap *heap)
{
	while (READ_ONCE(heap->charged) > READ_ONCE(heap->limit) &&
	       karena_ready_drop(heap, 1))
		;
	karena_pressure_check(heap);
}

/**
 * karena_limit_pages() - What a soft limit is in pages.
 * @bytes: The limit, 0 for none.
 *
 * Return: Pages, 0 for none.
 */
unsigned long karena_limit_pages(u64 bytes)
{
	return (bytes >> PAGE_SHIFT) + !PAGE_ALIGNED(bytes);
}

/**
 * karena_limit_by_root() - Set a heap's hard limit as root.
 * @heap: The heap.
 * @bytes: The limit.
 *
 * Return: 0 or -EINVAL.
 */
int karena_limit_by_root(struct karena_heap *heap, u64 bytes)
{
	int err;

	spin_lock(&heap->lock);
	err = set_limit(heap, bytes, true);
	if (!err)
		set_bit(KARENA_HEAP_LIMITED, &heap->flags);
	spin_unlock(&heap->lock);
	if (!err)
		limits_changed(heap);
	return err;
}

/* Who may raise what root has set. */
static bool may_raise(struct karena_heap *heap)
{
	return test_bit(KARENA_HEAP_LIMITED, &heap->flags) &&
	       capable(CAP_SYS_RESOURCE);
}

/**
 * karena_limit_call() - Set and read limits (KARENA_LIMIT).
 * @heap: The heap.
 * @call: The caller's wish, and where the answer goes.
 *
 * Return: 0, -EINVAL or -EPERM; when it fails no limit is changed.
 */
int karena_limit_call(struct karena_heap *heap, struct karena_limit *call)
{
	bool raise = may_raise(heap);
	int err = 0;

	if (call->flags & ~(KARENA_LIMIT_HARD | KARENA_LIMIT_SOFT))
		return -EINVAL;
	spin_lock(&heap->lock);
	raise |= !test_bit(KARENA_HEAP_LIMITED, &heap->flags);
	if (call->flags & KARENA_LIMIT_HARD)
		err = set_limit(heap, call->hard, raise);
	if (!err && call->flags & KARENA_LIMIT_SOFT)
		WRITE_ONCE(heap->soft_limit, karena_limit_pages(call->soft));
	call->hard = (u64)heap->limit << PAGE_SHIFT;
	call->soft = (u64)heap->soft_limit << PAGE_SHIFT;
	spin_unlock(&heap->lock);
	if (!err)
		limits_changed(heap);
	return err;
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
