/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What a test does in a child of its own: in a memory cgroup, as a user without
 * rights, or in step with its parent. A child says which condition failed.
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
	int parent;	/* the child's end of a line between the two */
	int line;	/* the parent's end */
};

/* Start a child; it ends with 0, if it ends at all, when its work returns. */
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

/* A child's status, from its start to its end. */
static inline int in_child(void (*work)(struct child *child))
{
	struct child child;
	int err = child_start(&child, work);

	return err ?: child_end(&child);
}

/* Tell the other side something; false when it is gone. */
static inline bool tell(int line, uint64_t what)
{
	return send(line, &what, sizeof(what), MSG_NOSIGNAL) == sizeof(what);
}

/* Wait until the other side tells something; 0 when it is gone. */
static inline uint64_t hear(int line)
{
	uint64_t what;

	return recv(line, &what, sizeof(what), MSG_WAITALL) == sizeof(what) ?
	       what : 0;
}

/* For good; the device node must be the group's. */
static inline bool become_nobody(void)
{
	return !setgroups(0, NULL) && !setgid(NOBODY) && !setuid(NOBODY);
}

static inline bool limit_locked_memory(rlim_t bytes)
{
	struct rlimit limit = { bytes, bytes };

	return !setrlimit(RLIMIT_MEMLOCK, &limit);
}

/* A member of /proc/self/status that is in KiB, in bytes; or -1. */
static inline long status_figure(const char *member)
{
	char text[8192], *at;

	if (read_text("/proc/self/status", text, sizeof(text)))
		return -1;
	at = strstr(text, member);
	return at ? atol(at + strlen(member) + 1) * 1024 : -1;
}

/* Wait, twenty seconds at most: what is kept ready for a while counts, too. */
static inline bool pinned_becomes(long bytes)
{
	for (int i = 0; i < 2000; i++) {
		if (status_figure("VmPin") == bytes)
			return true;
		usleep(10000);
	}
	return false;
}

/* A file of this program's memory cgroup. */
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

/* A number in a file of the cgroup: behind its name, or without one the first. */
static inline long group_figure(const char *file, const char *name)
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
 * Wait, twenty seconds at most, until a figure is in a range, the end not included: two
 * seconds may pass before memory.stat shows what was charged.
 */
static inline bool group_figure_becomes(const char *file, const char *name, long least,
					long end)
{
	for (int i = 0; i < 2000; i++) {
		long figure = group_figure(file, name);

		if (figure >= least && figure < end)
			return true;
		usleep(10000);
	}
	return false;
}

/* Wait, twenty seconds at most: the last of a process goes after its end. */
static inline bool group_falls_below(long bytes)
{
	for (int i = 0; i < 2000; i++) {
		if (group_figure("memory.current", NULL) < bytes)
			return true;
		usleep(10000);
	}
	return false;
}

/* Memory of this process's own, in small pages; NULL without. */
static inline char *own_memory(size_t size)
{
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED || madvise(memory, size, MADV_NOHUGEPAGE))
		return NULL;
	return memory;
}

#endif
