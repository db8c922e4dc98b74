/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Helpers for tests that use child processes: in a memory cgroup, without privileges, or in
 * step with the parent. A failed CHECK() in a child prints its condition.
 */
#ifndef KARENA_SELFTESTS_CHILD_H
#define KARENA_SELFTESTS_CHILD_H

#include <grp.h>
#include <sys/socket.h>

#include "common.h"

#define NOBODY		65534

#define CHECK(_condition)						\
	do {								\
		if (!(_condition)) {					\
			fprintf(stderr, "# %s:%d: in a child: %s\n",	\
				__FILE__, __LINE__, #_condition);	\
			_exit(1);					\
		}							\
	} while (0)

struct child {
	pid_t pid;
	int parent;	/* child's end of the socket pair */
	int line;	/* parent's end */
};

/* Fork a child that runs @work and exits with status 0. Return 0 or -errno. */
static inline int child_start(struct child *child,
			      void (*work)(struct child *child))
{
	int ends[2];

	*child = (struct child){ .pid = -1, .parent = -1, .line = -1 };
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
		return -errno;
	child->line = ends[0];
	child->parent = ends[1];
	fflush(stdout);
	child->pid = fork();
	if (!child->pid) {
		close(child->line);
		work(child);
		_exit(0);
	}
	close(child->parent);
	return child->pid < 0 ? -errno : 0;
}

static inline int child_end(struct child *child)
{
	close(child->line);
	return child_status(child->pid);
}

/* Run @work in a child and wait for it. Return its status. */
static inline int in_child(void (*work)(struct child *child))
{
	struct child child;
	int err = child_start(&child, work);

	return err ?: child_end(&child);
}

/* Send a number to the other side. Return false if the other side has ended. */
static inline bool tell(int line, uint64_t what)
{
	return send(line, &what, sizeof(what), MSG_NOSIGNAL) == sizeof(what);
}

/* Wait for a number from the other side. Return 0 if the other side has ended. */
static inline uint64_t hear(int line)
{
	uint64_t what;

	return recv(line, &what, sizeof(what), MSG_WAITALL) == sizeof(what) ?
	       what : 0;
}

/* Drop all privileges for good. The group of the device node must be NOBODY. */
static inline bool become_nobody(void)
{
	return !setgroups(0, NULL) && !setgid(NOBODY) && !setuid(NOBODY);
}

static inline bool limit_locked_memory(rlim_t bytes)
{
	struct rlimit limit = { bytes, bytes };

	return !setrlimit(RLIMIT_MEMLOCK, &limit);
}

/* A member of /proc/self/status in bytes, or -1. The file has it in KiB. */
static inline long status_member(const char *member)
{
	char text[8192], *at;

	if (read_text("/proc/self/status", text, sizeof(text)))
		return -1;
	at = strstr(text, member);
	return at ? atol(at + strlen(member) + 1) * 1024 : -1;
}

/* Wait up to 20 seconds. Frames that the module keeps ready for a while count as pinned. */
static inline bool pinned_becomes(long bytes)
{
	for (int i = 0; i < 2000; i++) {
		if (status_member("VmPin") == bytes)
			return true;
		usleep(10000);
	}
	return false;
}

/* Path of a file in the memory cgroup of this program. */
static inline const char *group_file(const char *file)
{
	static char path[256];

	snprintf(path, sizeof(path), CGROUPS "/karena-%s/%s",
		 program_invocation_short_name, file);
	return path;
}

static inline int group_make(void)
{
	write_text(CGROUPS "/cgroup.subtree_control", "+memory");
	return mkdir(group_file(""), 0755) && errno != EEXIST ? -errno : 0;
}

static inline int group_remove(void)
{
	return rmdir(group_file("")) ? -errno : 0;
}

static inline bool group_enter(void)
{
	return !write_text(group_file("cgroup.procs"), "0");
}

static inline int group_limit(long bytes)
{
	char text[32];

	snprintf(text, sizeof(text), "%ld", bytes);
	return write_text(group_file("memory.max"), text);
}

/*
 * A number in a file of the cgroup: the one after @name, or the first one without a name.
 */
static inline long group_stat(const char *file, const char *name)
{
	char text[8192], *line;
	size_t length = name ? strlen(name) : 0;

	if (read_text(group_file(file), text, sizeof(text)))
		return -1;
	if (!name)
		return atol(text);
	for (line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (!strncmp(line, name, length) && line[length] == ' ')
			return atol(line + length);
	}
	return -1;
}

/*
 * Wait up to 20 seconds until a number is at least @least and below @end. memory.stat may
 * show a charge two seconds late.
 */
static inline bool group_stat_becomes(const char *file, const char *name, long least,
				      long end)
{
	for (int i = 0; i < 2000; i++) {
		long value = group_stat(file, name);

		if (value >= least && value < end)
			return true;
		usleep(10000);
	}
	return false;
}

/* Wait up to 20 seconds. The last pages of a process are uncharged after it has exited. */
static inline bool group_falls_below(long bytes)
{
	for (int i = 0; i < 2000; i++) {
		if (group_stat("memory.current", NULL) < bytes)
			return true;
		usleep(10000);
	}
	return false;
}

/* Map anonymous memory in small pages. Return NULL on failure. */
static inline char *own_memory(size_t size)
{
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED || madvise(memory, size, MADV_NOHUGEPAGE))
		return NULL;
	return memory;
}

#endif
