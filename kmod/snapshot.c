// SPDX-License-Identifier: GPL-2.0
/*
 * Snapshots: clones that no process drives, and that any may map for reading which has
 * the descriptor.
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

/* With the mm held for writing. */
static struct file *snapshot_make(struct karena_heap *heap)
{
	/* Its pages are kept from the heap's process's own. */
	if (!karena_limit_allows(heap, READ_ONCE(heap->committed)))
		return ERR_PTR(-ENOMEM);
	return karena_heap_open_snapshot(karena_map_clone(heap, heap->mm),
					 &snapshot_fops);
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

/*
 * Whether a file is /proc/PID/mem of an address space. Only a process that may trace the
 * other can have opened it: that check, with those of all security modules, is not
 * exported, and its result is. The file belongs to the address space that it was opened
 * for, also when the process runs another program since.
 */
static bool file_is_memory_of(struct file *file, struct mm_struct *mm)
{
	const struct qstr *name = &file->f_path.dentry->d_name;

	return file_inode(file)->i_sb->s_magic == PROC_SUPER_MAGIC &&
	       name->len == 3 && !memcmp(name->name, "mem", 3) &&
	       file->f_mode & FMODE_READ && file->private_data == mm;
}

/* 0 if the caller may look into a heap. */
static int heap_may_look(struct karena_heap *heap, const struct karena_snapshot *call)
{
	struct file *memory;
	bool may;

	if (heap->mm == current->mm)
		return 0;
	if (!(call->flags & KARENA_SNAPSHOT_MEMORY))
		return -EPERM;
	memory = fget(call->memory);
	if (!memory)
		return -EBADF;
	may = file_is_memory_of(memory, heap->mm);
	fput(memory);
	return may ? 0 : -EPERM;
}

/**
 * karena_snapshot_find() - The heap that a process may make a snapshot of.
 * @call: The caller's wish.
 *
 * Return: The heap's file, with a reference; or an ERR_PTR: -ENOENT, -EBADF or -EPERM.
 */
struct file *karena_snapshot_find(const struct karena_snapshot *call)
{
	struct file *file = karena_heap_by_id(call->id);
	int err;

	if (!file)
		return ERR_PTR(-ENOENT);
	err = heap_may_look(file->private_data, call);
	if (!err)
		return file;
	fput(file);
	return ERR_PTR(err);
}
