// SPDX-License-Identifier: GPL-2.0
/*
 * Snapshots: clones that no process drives, and that any may map for reading which has
 * the descriptor.
 */
#include <linux/capability.h>
#include <linux/file.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>

#include "karena.h"

/* With the mm held for writing. */
static struct file *snapshot_make(struct karena_heap *heap)
{
	/* Its pages are kept from the heap's process's own. */
	if (!karena_limit_allows(heap, READ_ONCE(heap->committed)))
		return ERR_PTR(-ENOMEM);
	return karena_heap_open_snapshot(karena_clone(heap, heap->mm));
}

/**
 * karena_snapshot_open() - Make a snapshot (KARENA_SNAPSHOT).
 * @heap: The heap.
 * @call: Where the answer goes.
 *
 * Return: The snapshot's file, or an ERR_PTR: -EOPNOTSUPP, -ENOMEM, -EINTR, or -ENOENT
 * when the heap's process is gone.
 */
struct file *karena_snapshot_open(struct karena_heap *heap,
				  struct karena_snapshot *call)
{
	struct file *file;
	bool alive;

	if (test_bit(KARENA_HEAP_IO, &heap->flags))
		return ERR_PTR(-EOPNOTSUPP);
	alive = mmget_not_zero(heap->mm);
	if (!alive && heap->fork != KARENA_FORK_SHARE)
		return ERR_PTR(-ENOENT);
	/* Of a process that is gone, the lock is there still; one clone at a time. */
	if (mmap_write_lock_killable(heap->mm)) {
		file = ERR_PTR(-EINTR);
	} else {
		file = snapshot_make(heap);
		mmap_write_unlock(heap->mm);
	}
	if (alive)
		mmput(heap->mm);
	call->id = heap->id;
	call->start = heap->start;
	call->window = karena_window_size(heap);
	call->control_offset = karena_window_size(heap);
	call->control_size = (u64)heap->nr_control << PAGE_SHIFT;
	return file;
}

/**
 * karena_snapshot_find() - The heap that a process may make a snapshot of.
 * @id: Its number.
 *
 * Return: The heap's file, with a reference; or an ERR_PTR: -ENOENT or -EPERM.
 */
struct file *karena_snapshot_find(u64 id)
{
	struct file *file = karena_heap_by_id(id);
	struct karena_heap *heap;

	if (!file)
		return ERR_PTR(-ENOENT);
	heap = file->private_data;
	if (heap->mm == current->mm || capable(CAP_SYS_PTRACE))
		return file;
	fput(file);
	return ERR_PTR(-EPERM);
}
