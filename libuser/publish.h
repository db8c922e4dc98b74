/* SPDX-License-Identifier: MIT */
/*
 * The file in which others find a heap's figures when there is no module: one for each
 * heap, /dev/shm/karena.UID/PID.NUMBER, of one page.
 */
#ifndef KARENA_PUBLISH_H
#define KARENA_PUBLISH_H

#include <linux/karena.h>

#include "internal.h"

/* "ka_stats" in memory. */
#define KA_STATS_FILE_MAGIC	0x73746174735f616bULL
#define KA_STATS_FILE_VERSION	1

/**
 * struct ka_stats_file - What is in it.
 * @magic: KA_STATS_FILE_MAGIC, once all is there.
 * @version: KA_STATS_FILE_VERSION.
 * @pid: Of the heap's process, in its own namespace.
 * @started: When that started, as in /proc/PID/stat; 0 if it does not know.
 * @pid_namespace: Inode of that namespace; likewise.
 * @window: Where the heap's window begins there.
 * @name: The heap's name.
 * @stats: Its figures, written and read as the module's statistics page.
 *
 * A process that ended without exit() leaves its file. It is of a heap that is there
 * if /proc/PID/maps names it.
 */
struct ka_stats_file {
	uint64_t magic;
	uint32_t version;
	uint32_t pid;
	uint64_t started;
	uint64_t pid_namespace;
	uint64_t window;
	char name[KA_NAME_SIZE];
	struct karena_stats stats;
};

/* All keep errno. The first says whether there is a file now, mapped as @shown->file. */
bool ka_publish(struct ka_shown *shown, const void *window);
void ka_publish_unmap(struct ka_shown *shown);
void ka_publish_unlink(const struct ka_shown *shown);

#endif /* KARENA_PUBLISH_H */
