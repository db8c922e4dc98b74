// SPDX-License-Identifier: MIT
/*
 * The file in which others find a heap's figures when there is no module. The directory
 * is the user's alone, or there is no file; the file has all of its memory from the
 * begin, so that writing to it cannot be SIGBUS; no descriptor is kept.
 *
 * Nothing here allocates, as the heap may be the one that malloc stands on, and whatever
 * fails is no error: then nobody sees the figures.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "publish.h"

#define FILE_SIZE	KA_PAGE_SIZE
#define NAME_SIZE	24		/* of two numbers and a dot */

/* How many files of one process there may be, before there are no more. */
#define MOST_FILES	1024

/* Of a directory with many files: how many are looked at, and how many are removed. */
#define MOST_LOOKED_AT	256
#define MOST_REMOVED	16

static int open_dir(void)
{
	char path[32];
	struct stat stat;
	int dir;

	snprintf(path, sizeof(path), "/dev/shm/karena.%u", geteuid());
	mkdir(path, 0700);
	dir = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir < 0)
		return -1;
	/* Anybody may have made it. */
	if (!fstat(dir, &stat) && stat.st_uid == geteuid() &&
	    (stat.st_mode & 07777) == 0700)
		return dir;
	close(dir);
	return -1;
}

static void file_name(char name[static NAME_SIZE], pid_t pid, unsigned int number)
{
	snprintf(name, NAME_SIZE, "%d.%u", (int)pid, number);
}

/* Of the calling process: the 22nd word, of which the second may have spaces in it. */
static uint64_t started(void)
{
	int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
	char text[1024], *word = NULL;
	ssize_t length = 0;

	if (fd >= 0) {
		length = read(fd, text, sizeof(text) - 1);
		close(fd);
	}
	if (length > 0) {
		text[length] = 0;
		word = strrchr(text, ')');
	}
	for (int i = 2; i < 22 && word; i++)
		word = strchr(word + 1, ' ');
	return word ? strtoull(word, NULL, 10) : 0;
}

static uint64_t pid_namespace(void)
{
	struct stat stat_of;

	return stat("/proc/self/ns/pid", &stat_of) ? 0 : stat_of.st_ino;
}

static bool read_file(int dir, const char *name, struct ka_stats_file *file)
{
	int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	ssize_t length;

	if (fd < 0)
		return false;
	length = read(fd, file, sizeof(*file));
	close(fd);
	return length == sizeof(*file) && file->magic == KA_STATS_FILE_MAGIC;
}

/* Whose file a name is that this library gives; 0: nobody's. */
static pid_t owner_of(const char *name)
{
	size_t digits = strspn(name, "0123456789");
	const char *number = name + digits + 1;

	if (!digits || digits > 9 || name[digits] != '.' ||
	    strspn(number, "0123456789") != strlen(number))
		return 0;
	return atoi(name);
}

/* Whether a file was left by a process that is gone, as far as can be known here. */
static bool is_left(int dir, const char *name, uint64_t namespace)
{
	struct ka_stats_file file;
	pid_t pid = owner_of(name);

	if (!pid || !kill(pid, 0) || errno != ESRCH)
		return false;
	return !read_file(dir, name, &file) || file.pid_namespace == namespace;
}

/* Remove what processes have left that ended without exit(). */
static void sweep(int dir, uint64_t namespace)
{
	char entries[1024] __attribute__((aligned(8)));
	int looked_at = 0, removed = 0;
	ssize_t length, at;

	while (looked_at < MOST_LOOKED_AT && removed < MOST_REMOVED &&
	       (length = getdents64(dir, entries, sizeof(entries))) > 0) {
		const struct dirent64 *entry;

		for (at = 0; at < length && removed < MOST_REMOVED; at += entry->d_reclen) {
			entry = (const struct dirent64 *)(entries + at);
			looked_at++;
			if (is_left(dir, entry->d_name, namespace))
				removed += !unlinkat(dir, entry->d_name, 0);
		}
	}
}

/*
 * Whether a file that is the process's by its name was left by another one that had the
 * same PID, or by another program that this process was before exec.
 */
static bool is_older(int dir, const char *name, uint64_t began)
{
	struct ka_stats_file file;
	unsigned char resident;

	if (!read_file(dir, name, &file))
		return false;
	/* Of a heap that is there, the window is. */
	return file.started != began ||
	       mincore((void *)file.window, KA_PAGE_SIZE, &resident);
}

/* A new file, with its memory; its descriptor, or -1. */
static int create_file(int dir, struct ka_shown *shown, uint64_t began)
{
	char name[NAME_SIZE];
	struct stat stat;
	int fd;

	for (shown->number = 1; shown->number <= MOST_FILES; shown->number++) {
		file_name(name, shown->pid, shown->number);
		if (!faccessat(dir, name, F_OK, AT_SYMLINK_NOFOLLOW) &&
		    is_older(dir, name, began))
			unlinkat(dir, name, 0);
		fd = openat(dir, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
			    0600);
		if (fd < 0 && errno == EEXIST)
			continue;
		if (fd < 0)
			return -1;
		/* Whatever the umask is. */
		if (!fchmod(fd, 0600) && !fallocate(fd, 0, 0, (off_t)FILE_SIZE) &&
		    !fstat(fd, &stat)) {
			shown->device = stat.st_dev;
			shown->inode = stat.st_ino;
			return fd;
		}
		unlinkat(dir, name, 0);
		close(fd);
		return -1;
	}
	return -1;
}

static void fill_in(struct ka_stats_file *file, const struct ka_shown *shown,
		    const void *window, uint64_t began, uint64_t namespace)
{
	file->version = KA_STATS_FILE_VERSION;
	file->pid = (uint32_t)shown->pid;
	file->started = began;
	file->pid_namespace = namespace;
	file->window = (uintptr_t)window;
	memcpy(file->name, shown->name, sizeof(file->name));
	__atomic_store_n(&file->magic, KA_STATS_FILE_MAGIC, __ATOMIC_RELEASE);
}

/* What ends a process that tries is not tried. */
static bool may_write(const struct ka_shown *shown)
{
	struct rlimit limit;

	/* Set-user-ID programs keep to themselves what they do. */
	if (getauxval(AT_SECURE))
		return false;
	/* Above the limit of files there is SIGXFSZ. */
	if (getrlimit(RLIMIT_FSIZE, &limit) || limit.rlim_cur < FILE_SIZE)
		return false;
	/* Who has put itself into a sandbox by now may be killed for opening a file. */
	return prctl(PR_GET_SECCOMP) == shown->seccomp;
}

/**
 * ka_publish() - Make and map the file of a heap.
 * @shown: How the heap is shown; its members for the file are filled in.
 * @window: The start of the heap's window.
 *
 * Return: Whether there is one now. Keeps errno.
 */
bool ka_publish(struct ka_shown *shown, const void *window)
{
	int before = errno, dir, fd = -1;
	uint64_t began, namespace;
	void *file = MAP_FAILED;

	dir = may_write(shown) ? open_dir() : -1;
	if (dir >= 0) {
		began = started();
		namespace = pid_namespace();
		sweep(dir, namespace);
		shown->pid = getpid();
		fd = create_file(dir, shown, began);
	}
	if (fd >= 0) {
		file = mmap(NULL, FILE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		close(fd);
	}
	if (file != MAP_FAILED) {
		fill_in(file, shown, window, began, namespace);
		shown->file = file;
	} else if (fd >= 0) {
		ka_publish_unlink(shown);
	}
	if (dir >= 0)
		close(dir);
	errno = before;
	return shown->file;
}

/**
 * ka_publish_unmap() - Have no part in a file any more.
 * @shown: How the heap is shown, by a file.
 */
void ka_publish_unmap(struct ka_shown *shown)
{
	int before = errno;

	munmap(shown->file, FILE_SIZE);
	shown->file = NULL;
	errno = before;
}

/**
 * ka_publish_unlink() - Remove a file's name.
 * @shown: How the heap is shown, by a file of this process.
 *
 * The process may have another root by now, or other rights: nothing else is removed.
 */
void ka_publish_unlink(const struct ka_shown *shown)
{
	int before = errno, dir = open_dir();
	char name[NAME_SIZE];
	struct stat stat;

	file_name(name, shown->pid, shown->number);
	if (dir >= 0) {
		if (!fstatat(dir, name, &stat, AT_SYMLINK_NOFOLLOW) &&
		    stat.st_dev == shown->device && stat.st_ino == shown->inode)
			unlinkat(dir, name, 0);
		close(dir);
	}
	errno = before;
}
