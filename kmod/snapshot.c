// SPDX-License-Identifier: GPL-2.0
/*
 * Snapshots: clones that no process drives. Every process that has the descriptor may map it
 * for reading.
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched/mm.h>

#include "map.h"

static const struct file_operations snapshot_fops = {
	.owner			= THIS_MODULE,
	.mmap			= karena_mmap_snapshot,
	.get_unmapped_area	= thp_get_unmapped_area,
	.release		= karena_heap_release,
	.llseek			= noop_llseek,
};

/* The heap's mmap_lock is held for writing. */
static struct file *snapshot_make(struct karena_heap *heap)
{
	struct karena_heap *clone = karena_map_clone(heap, heap->mm);

	if (!test_bit(KARENA_HEAP_INCOMPLETE, &clone->flags))
		return karena_heap_open(clone, O_RDONLY, &snapshot_fops);
	karena_heap_put(clone);
	return ERR_PTR(-ENOMEM);
}

/**
 * karena_snapshot_open() - Make a snapshot (KARENA_SNAPSHOT).
 * @heap: The heap.
 * @call: The caller's struct, which gets the answer.
 *
 * Return: The snapshot's file, or an ERR_PTR: -EOPNOTSUPP, -ENOMEM, -EINTR, or -ENOENT
 * when the heap's process has ended.
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
	/*
	 * The mm exists even after the process has ended. Its lock allows one clone at a
	 * time.
	 */
	if (mmap_write_lock_killable(heap->mm)) {
		file = ERR_PTR(-EINTR);
	} else {
		/* The snapshot keeps pages that count as locked by the process. */
		file = karena_limit_allows(heap, READ_ONCE(heap->charge.committed)) ?
		       snapshot_make(heap) : ERR_PTR(-ENOMEM);
		mmap_write_unlock(heap->mm);
	}
	if (alive)
		mmput(heap->mm);
	call->id = heap->id;
	call->start = heap->start;
	call->window = karena_window_size(heap);
	call->control_offset = karena_window_size(heap);
	call->control_size = (u64)heap->control.nr << PAGE_SHIFT;
	return file;
}

/*
 * Returns true if a file is /proc/PID/mem of an address space. Only a process that may
 * trace the other one can have opened it. The kernel does not export that check, which asks
 * all security modules, but the open file shows its result. The file stays with the address
 * space for which it was opened, even if the process runs another program later.
 */
static bool file_is_memory_of(struct file *file, struct mm_struct *mm)
{
	const struct qstr *name = &file->f_path.dentry->d_name;

	return file_inode(file)->i_sb->s_magic == PROC_SUPER_MAGIC &&
	       name->len == 3 && !memcmp(name->name, "mem", 3) &&
	       file->f_mode & FMODE_READ && file->private_data == mm;
}

/**
 * karena_snapshot_find() - Find the heap that a process may make a snapshot of.
 * @call: The caller's struct.
 *
 * A process may make snapshots of its own heaps, and of the heaps of an address space for
 * which it has an open /proc/PID/mem.
 *
 * Return: The heap, of which the caller is a user now; or an ERR_PTR: -ENOENT, -EBADF or
 * -EPERM.
 */
struct karena_heap *karena_snapshot_find(const struct karena_snapshot *call)
{
	struct karena_heap *heap = karena_heap_by_id(call->id);
	struct file *memory;
	int err = -EPERM;

	if (!heap)
		return ERR_PTR(-ENOENT);
	if (heap->mm == current->mm)
		return heap;
	if (call->flags & KARENA_SNAPSHOT_MEMORY) {
		memory = fget(call->memory);
		if (!memory)
			err = -EBADF;
		else if (file_is_memory_of(memory, heap->mm))
			err = 0;
		if (memory)
			fput(memory);
	}
	if (!err)
		return heap;
	karena_heap_put(heap);
	return ERR_PTR(err);
}
