/* SPDX-License-Identifier: MIT */
/*
 * What the tests of a heap's file share: a /dev/shm of their own, and what is in it.
 */
#ifndef KARENA_TESTS_SHM_H
#define KARENA_TESTS_SHM_H

#include <dirent.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "common.h"
#include "publish.h"

/* The directory of the user that the tests run as. */
static char dir[40];

/* What others run at the same time is not disturbed: whether that can be. */
static inline bool shm_alone(void)
{
	snprintf(dir, sizeof(dir), "/dev/shm/karena.%u", geteuid());
	setenv("KARENA_STATS", "1", 1);
	return !unshare(CLONE_NEWNS) &&
	       !mount("none", "/", "none", MS_REC | MS_PRIVATE, "") &&
	       !mount("shm", "/dev/shm", "tmpfs", 0, "mode=1777");
}

#define WITH_FILES()							\
	do {								\
		if (on_device())					\
			SKIP(return, "the module shows the figures itself"); \
		if (!self->alone)					\
			SKIP(return, "to have a /dev/shm of its own takes root"); \
	} while (0)

/* Files in the directory; -1: there is none. */
static inline int files(void)
{
	DIR *open = opendir(dir);
	struct dirent *entry;
	int count = 0;

	if (!open)
		return -1;
	while ((entry = readdir(open)))
		count += entry->d_name[0] != '.';
	closedir(open);
	return count;
}

static inline bool file_of(pid_t pid, unsigned int number, struct ka_stats_file *file)
{
	char path[80];
	ssize_t length = -1;
	int fd;

	snprintf(path, sizeof(path), "%s/%d.%u", dir, (int)pid, number);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	length = read(fd, file, sizeof(*file));
	close(fd);
	return length == sizeof(*file) && file->magic == KA_STATS_FILE_MAGIC &&
	       file->version == KA_STATS_FILE_VERSION;
}

#endif
