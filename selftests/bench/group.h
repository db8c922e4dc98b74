/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A memory cgroup with a benchmark as its only process.
 */
#ifndef KARENA_BENCH_GROUP_H
#define KARENA_BENCH_GROUP_H

#include <sys/stat.h>

#include "bench.h"

#define ROOT	"/sys/fs/cgroup"
#define GROUP	ROOT "/karena-bench"

static inline void enter_group(void)
{
	write_text(ROOT "/cgroup.subtree_control", "+memory");
	/* Drop page cache that an earlier program has left in the cgroup. */
	rmdir(GROUP);
	if (mkdir(GROUP, 0755) && errno != EEXIST)
		die(GROUP);
	if (write_text(GROUP "/cgroup.procs", "0"))
		die(GROUP);
}

/* Bytes charged to the cgroup. */
static inline long group_memory(void)
{
	char text[32];

	if (read_text(GROUP "/memory.current", text, sizeof(text)) < 0)
		die(GROUP "/memory.current");
	return atol(text);
}

/* Set memory.high; a negative value removes it. */
static inline void group_high(long bytes)
{
	char text[32];

	snprintf(text, sizeof(text), "%ld", bytes);
	if (write_text(GROUP "/memory.high", bytes < 0 ? "max" : text))
		die(GROUP "/memory.high");
}

/* EAGAIN: the kernel could not reclaim all at once. The caller may try again. */
static inline void group_reclaim(size_t bytes)
{
	char text[32];

	snprintf(text, sizeof(text), "%zu", bytes);
	if (write_text(GROUP "/memory.reclaim", text) && errno != EAGAIN)
		die(GROUP "/memory.reclaim");
}

#endif
