/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The descriptors of the module, the calls on them, and the files in sysfs.
 */
#ifndef _KARENA_FILE_H
#define _KARENA_FILE_H

#include <linux/fs.h>
#include <linux/poll.h>

#include "map.h"

struct miscdevice;

/* file.c */
long karena_heap_fallocate(struct file *file, int mode, loff_t offset, loff_t len);
long karena_window_fallocate(struct file *file, int mode, loff_t offset, loff_t len);
__poll_t karena_heap_poll(struct file *file, struct poll_table_struct *table);
int karena_heap_flush(struct file *file, fl_owner_t id);

/* ioctl.c */
long karena_ioctl(struct file *file, unsigned int cmd, unsigned long arg);

/* sysfs.c */
extern const struct attribute_group *karena_groups[];
int karena_sysfs_init(struct miscdevice *device);
void karena_sysfs_exit(void);

#endif /* _KARENA_FILE_H */
