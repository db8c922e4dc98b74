// SPDX-License-Identifier: GPL-2.0
/*
 * Standard system calls on the descriptors of heaps: fallocate(), poll() and close(). In a
 * child, an inherited descriptor refers to the child's clone.
 */
#include <linux/fs.h>
#include <linux/falloc.h>
#include <linux/poll.h>

#include "file.h"

/* The caller is a user of the heap; this function drops that user. */
static long heap_punch_hole(struct karena_heap *heap, int mode, loff_t offset, loff_t len)
{
	long err = -EOPNOTSUPP;

	if (mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE))
		err = karena_range_release(heap, offset, len);
	karena_heap_put(heap);
	return err;
}

/**
 * karena_heap_fallocate() - Release a range of a heap: fallocate() on its descriptor.
 * @file: A descriptor's file.
 * @mode: FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE.
 * @offset: Where the range begins, in bytes.
 * @len: Its length in bytes.
 *
 * Return: 0; -EOPNOTSUPP for another mode; -EPERM; or as karena_range_release().
 */
long karena_heap_fallocate(struct file *file, int mode, loff_t offset, loff_t len)
{
	struct karena_heap *heap = karena_heap_mine(file);

	return IS_ERR(heap) ? PTR_ERR(heap) : heap_punch_hole(heap, mode, offset, len);
}

/**
 * karena_window_fallocate() - Release a range of a window: MADV_REMOVE.
 * @file: The file that the windows of a family map.
 * @mode: As for karena_heap_fallocate().
 * @offset: Where the range begins, in bytes.
 * @len: Its length in bytes.
 *
 * Context: Without mmap_lock.
 * Return: As karena_heap_fallocate().
 */
long karena_window_fallocate(struct file *file, int mode, loff_t offset, loff_t len)
{
	struct karena_heap *heap = karena_heap_find(file->private_data, current->mm);

	return heap ? heap_punch_hole(heap, mode, offset, len) : -EPERM;
}

/**
 * karena_heap_poll() - Report EPOLLPRI when pressure has risen.
 * @file: A descriptor's file.
 * @table: The waiting process's table.
 *
 * A process that has received the descriptor from another process waits for the heap that
 * the descriptor was made for. A wait stays with the heap that the descriptor referred to
 * when the wait began.
 *
 * Return: EPOLLPRI or 0; see karena_pressure_poll().
 */
__poll_t karena_heap_poll(struct file *file, struct poll_table_struct *table)
{
	struct karena_heap *heap = karena_heap_mine(file);
	__poll_t events;

	if (IS_ERR(heap)) {
		heap = file->private_data;
		karena_heap_get(heap);
	}
	events = karena_pressure_poll(heap, file, table);
	karena_heap_put(heap);
	return events;
}

/**
 * karena_heap_flush() - Handle the close of a descriptor, perhaps at the end of a process.
 * @file: A descriptor's file.
 * @id: The table of descriptors.
 *
 * Return: 0.
 */
int karena_heap_flush(struct file *file, fl_owner_t id)
{
	karena_heap_exit(file->private_data);
	return 0;
}
