// SPDX-License-Identifier: GPL-2.0
/*
 * sysfs: when a heap has a directory, what its files show, which users may read them, the
 * statistics that the process writes itself, and that the documentation is complete.
 */
#include <fnmatch.h>
#include <glob.h>
#include <grp.h>
#include <pthread.h>
#include <stddef.h>
#include <time.h>

#include "common.h"

#define OWNER	12345
#define GROUP	4242

FIXTURE(sysfs) {
	struct heap heap;
	char path[128];
};

FIXTURE_SETUP(sysfs)
{
	REQUIRE_MODULE();
	ASSERT_EQ(0, heap_make(&self->heap, 8 * ARENA, 4 * ARENA));
	snprintf(self->path, sizeof(self->path), SYSFS "/heaps/%llu",
		 (unsigned long long)self->heap.id);
}

FIXTURE_TEARDOWN(sysfs)
{
	heap_destroy(&self->heap);
}

TEST_F(sysfs, first_commit_creates_the_directory)
{
	EXPECT_EQ(-1, access(self->path, F_OK));
	ASSERT_EQ(0, heap_commit(&self->heap, 0, 1));
	EXPECT_TRUE(directory_appears(self->heap.id));
	heap_destroy(&self->heap);
	EXPECT_EQ(-1, access(self->path, F_OK));
	ASSERT_EQ(0, heap_make(&self->heap, 8 * ARENA, 4 * ARENA));
}

TEST_F(sysfs, directory_describes_the_heap)
{
	char path[256], name[64];
	struct heap *heap = &self->heap;
	long committed = module_stat("committed");

	ASSERT_EQ(0, heap_commit(heap, 0, 3));
	ASSERT_TRUE(directory_appears(heap->id));
	snprintf(path, sizeof(path), "%s/name", self->path);
	ASSERT_EQ(0, read_text(path, name, sizeof(name)));
	EXPECT_STREQ("selftest\n", name);
	EXPECT_EQ(getpid(), heap_stat(heap, "pid"));
	EXPECT_EQ(getuid(), heap_stat(heap, "uid"));
	EXPECT_EQ(8 * ARENA, heap_stat(heap, "window"));
	EXPECT_EQ(4 * ARENA, heap_stat(heap, "limit"));
	EXPECT_EQ(3 * ARENA, heap_stat(heap, "committed"));
	EXPECT_EQ(3, heap_stat(heap, "huge_arenas"));
	EXPECT_EQ(3, heap_stat(heap, "faults"));
	EXPECT_EQ(0, heap_stat(heap, "refused"));
	EXPECT_EQ(committed + 3 * ARENA, module_stat("committed"));
	EXPECT_EQ(0, heap_commit(heap, 4, 1));
	EXPECT_EQ(-ENOMEM, heap_commit(heap, 5, 1));
	EXPECT_EQ(4 * ARENA, heap_stat(heap, "committed"));
	EXPECT_EQ(1, heap_stat(heap, "refused"));
	ASSERT_EQ(0, heap_release(heap, 0, 8));
	EXPECT_EQ(0, heap_stat(heap, "committed"));
	EXPECT_EQ(0, heap_stat(heap, "huge_arenas"));
	EXPECT_EQ(committed, module_stat("committed"));
}

TEST_F(sysfs, open_file_does_not_keep_the_heap)
{
	char path[256], text[64];
	int fd;

	ASSERT_EQ(0, heap_commit(&self->heap, 0, 1));
	ASSERT_TRUE(directory_appears(self->heap.id));
	snprintf(path, sizeof(path), "%s/committed", self->path);
	fd = open(path, O_RDONLY);
	ASSERT_GE(fd, 0);
	heap_destroy(&self->heap);
	EXPECT_EQ(-1, read(fd, text, sizeof(text)));
	EXPECT_EQ(ENODEV, errno);
	close(fd);
	ASSERT_EQ(0, heap_make(&self->heap, 8 * ARENA, 4 * ARENA));
}

/* Read or write a file of a heap as another user. Return 0 or an errno. */
static int access_as(const char *path, const char *written, uid_t uid, gid_t gid)
{
	pid_t child = fork();

	if (!child) {
		char text[64];

		if (setgroups(0, NULL) || setgid(gid) || setuid(uid))
			_exit(255);
		_exit(written ? -write_text(path, written) :
				-read_text(path, text, sizeof(text)));
	}
	return child_status(child);
}

static int read_as(const char *path, uid_t uid, gid_t gid)
{
	return access_as(path, NULL, uid, gid);
}

TEST_F(sysfs, only_owner_group_and_root_read_and_only_root_writes)
{
	int ready[2], done[2];
	uint64_t id;
	char path[256], byte = 0;
	pid_t child;

	ASSERT_EQ(0, pipe(ready));
	ASSERT_EQ(0, pipe(done));
	ASSERT_EQ(0, chown(KARENA_DEVICE, 0, GROUP));
	child = fork();
	if (!child) {
		struct heap heap;

		if (setgroups(0, NULL) || setgid(GROUP) || setuid(OWNER))
			_exit(1);
		if (heap_make(&heap, ARENA, 0) || heap_commit(&heap, 0, 1))
			_exit(2);
		if (write(ready[1], &heap.id, 8) != 8 || read(done[0], &byte, 1) != 1)
			_exit(3);
		_exit(0);
	}
	ASSERT_EQ(8, read(ready[0], &id, 8));
	ASSERT_TRUE(directory_appears(id));
	snprintf(path, sizeof(path), SYSFS "/heaps/%llu/committed",
		 (unsigned long long)id);
	EXPECT_EQ(0, read_as(path, 0, 0));
	EXPECT_EQ(0, read_as(path, OWNER, 65534));
	EXPECT_EQ(0, read_as(path, 65534, GROUP));
	EXPECT_EQ(EACCES, read_as(path, 65534, 65534));
	EXPECT_NE(0, access_as(path, "2097152", 0, 0));
	snprintf(path, sizeof(path), SYSFS "/heaps/%llu/limit",
		 (unsigned long long)id);
	/* Only root may write this file. The owner has KARENA_LIMIT. */
	EXPECT_EQ(EACCES, read_as(path, OWNER, 65534));
	EXPECT_EQ(0, read_as(path, 65534, GROUP));
	EXPECT_EQ(EACCES, read_as(path, 65534, 65534));
	EXPECT_NE(0, access_as(path, "2097152", OWNER, GROUP));
	EXPECT_NE(0, access_as(path, "2097152", 65534, GROUP));
	EXPECT_NE(0, access_as(path, "2097152", 65534, 65534));
	EXPECT_EQ(0, access_as(path, "2097152", 0, 0));
	ASSERT_EQ(1, write(done[1], &byte, 1));
	EXPECT_EQ(0, child_status(child));
	ASSERT_EQ(0, chown(KARENA_DEVICE, 0, 0));
}

/* In a PID namespace, a process must read its own number in that namespace. */
static int pid_in_namespace(void)
{
	pid_t child;

	if (unshare(CLONE_NEWPID))
		return 10;
	child = fork();
	if (!child) {
		struct heap heap;

		if (heap_make(&heap, ARENA, 0) || heap_commit(&heap, 0, 1))
			_exit(11);
		_exit(heap_stat(&heap, "pid") == getpid() && getpid() == 1 ? 0 : 12);
	}
	return child_status(child);
}

TEST_F(sysfs, pid_is_that_in_the_namespace_of_the_reader)
{
	pid_t child = fork();

	if (!child)
		_exit(pid_in_namespace());
	EXPECT_EQ(0, child_status(child));
	/* A process outside the namespace of the reader. */
	ASSERT_EQ(0, heap_commit(&self->heap, 0, 1));
	EXPECT_EQ(getpid(), heap_stat(&self->heap, "pid"));
	child = fork();
	if (!child) {
		if (unshare(CLONE_NEWPID))
			_exit(10);
		child = fork();
		if (!child)
			_exit(heap_stat(&self->heap, "pid") == 0 ? 0 : 12);
		_exit(child_status(child));
	}
	EXPECT_EQ(0, child_status(child));
}

/* The members of the statistics page, and their names in sysfs. */
static const struct {
	const char *name;
	size_t offset;
} shown[] = {
#define SHOWN(_member)	{ #_member, offsetof(struct karena_stats, _member) }
	SHOWN(arenas_allocated), SHOWN(arenas_reclaimed), SHOWN(arenas_highwater),
	SHOWN(arenas), SHOWN(pools), SHOWN(bytes_blocks), SHOWN(bytes_available),
	SHOWN(bytes_unused_pools), SHOWN(bytes_headers),
	SHOWN(bytes_quantization), SHOWN(bytes_alignment),
#define DOMAIN(_name, _index, _member)					\
	{ #_name "_" #_member,						\
	  offsetof(struct karena_stats, domain[_index]._member) }
	DOMAIN(raw, 0, blocks), DOMAIN(raw, 0, bytes),
	DOMAIN(mem, 1, blocks), DOMAIN(mem, 1, bytes),
	DOMAIN(obj, 2, blocks), DOMAIN(obj, 2, bytes),
};

#define NR_SHOWN	(sizeof(shown) / sizeof(*shown))

static struct karena_stats *stats_of(const struct heap *heap)
{
	return (void *)((char *)heap->control + heap->control->stats_offset);
}

/* A member of the statistics page as sysfs shows it; ~0 - errno on failure. */
static uint64_t statistic(const struct heap *heap, const char *name)
{
	return heap_line(heap, "statistics", name);
}

/* Store a different value in each member, all too large for 32 bits. */
static void say(struct karena_stats *stats, uint64_t base)
{
	__atomic_store_n(&stats->sequence, stats->sequence + 1, __ATOMIC_SEQ_CST);
	for (int i = 0; i < NR_SHOWN; i++)
		__atomic_store_n((uint64_t *)((char *)stats + shown[i].offset),
				 base + i, __ATOMIC_SEQ_CST);
	stats->version = KARENA_STATS_VERSION;
	__atomic_store_n(&stats->sequence, stats->sequence + 1, __ATOMIC_SEQ_CST);
}

static int wrong_statistics(const struct heap *heap, uint64_t base, int step)
{
	int wrong = 0;

	for (int i = 0; i < NR_SHOWN; i++)
		wrong += statistic(heap, shown[i].name) != base + i * step;
	return wrong;
}

TEST_F(sysfs, sysfs_shows_the_statistics_that_the_process_wrote)
{
	struct heap *heap = &self->heap;
	struct karena_stats *stats = stats_of(heap);

	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	ASSERT_TRUE(directory_appears(heap->id));
	EXPECT_EQ(0, wrong_statistics(heap, 0, 0));
	say(stats, 1UL << 40);
	EXPECT_EQ(0, wrong_statistics(heap, 1UL << 40, 1));
	say(stats, 5);
	EXPECT_EQ(0, wrong_statistics(heap, 5, 1));
	/* The module does not check the values. */
	say(stats, ~0UL - 100);
	EXPECT_EQ(0, wrong_statistics(heap, ~0UL - 100, 1));
	EXPECT_EQ(ARENA, heap_stat(heap, "committed"));
	/* The module shows nothing of an unknown layout. */
	stats->version = 0;
	EXPECT_EQ(0, wrong_statistics(heap, 0, 0));
	stats->version = KARENA_STATS_VERSION + 1;
	EXPECT_EQ(0, wrong_statistics(heap, 0, 0));
	stats->version = KARENA_STATS_VERSION;
	EXPECT_EQ(0, wrong_statistics(heap, ~0UL - 100, 1));
}

static bool stop;

/* The sequence count stays odd, or changes all the time. */
static void *write_all_the_time(void *data)
{
	struct karena_stats *stats = data;

	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED))
		say(stats, 7);
	return NULL;
}

TEST_F(sysfs, process_that_never_stops_writing_blocks_no_reader)
{
	struct heap *heap = &self->heap;
	struct karena_stats *stats = stats_of(heap);
	time_t before = time(NULL);
	pthread_t writer;

	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	ASSERT_TRUE(directory_appears(heap->id));
	say(stats, 7);
	stats->sequence++;
	for (int i = 0; i < 10; i++)
		statistic(heap, "arenas");
	stop = false;
	ASSERT_EQ(0, pthread_create(&writer, NULL, write_all_the_time, stats));
	for (int i = 0; i < 200; i++)
		statistic(heap, "arenas");
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	pthread_join(writer, NULL);
	memset(stats, 0xff, 4096);
	EXPECT_EQ(0, wrong_statistics(heap, 0, 0));
	EXPECT_LT(time(NULL) - before, 20);
	/* After valid writes, the statistics are shown again. */
	memset(stats, 0, 4096);
	say(stats, 9);
	EXPECT_EQ(0, wrong_statistics(heap, 9, 1));
}

/* The names in the documentation, as patterns: <id> matches anything. */
struct documented {
	char patterns[128][128];
	int nr;
};

static int read_documented(struct documented *documented)
{
	static const char *const files[] = {
		ABI_DIR "/sysfs-class-misc-karena", ABI_DIR "/sysfs-module-karena",
	};
	char line[256];

	for (int i = 0; i < 2; i++) {
		FILE *file = fopen(files[i], "r");

		if (!file)
			return -errno;
		while (fgets(line, sizeof(line), file)) {
			char *to = documented->patterns[documented->nr], *from;
			bool inside = false;

			if (strncmp(line, "What:", 5) || documented->nr == 128)
				continue;
			for (from = line + 5; *from == '\t' || *from == ' '; from++)
				;
			for (; *from && *from != '\n'; from++) {
				if (*from == '<')
					*to++ = '*';
				inside = (inside || *from == '<') && *from != '>';
				if (!inside && *from != '>')
					*to++ = *from;
			}
			documented->nr++;
		}
		fclose(file);
	}
	return 0;
}

static bool is_documented(const struct documented *documented, const char *path)
{
	for (int i = 0; i < documented->nr; i++) {
		if (!fnmatch(documented->patterns[i], path, FNM_PATHNAME))
			return true;
	}
	return false;
}

/* Files that every device has are documented elsewhere. */
static bool every_device_has(const char *path)
{
	static const char *const names[] = {
		"dev", "power", "subsystem", "uevent"
	};
	char of_device[64];

	for (int i = 0; i < 4; i++) {
		snprintf(of_device, sizeof(of_device), SYSFS "/%s", names[i]);
		if (!strcmp(path, of_device))
			return true;
	}
	return false;
}

/* One value in one line; in two files of a heap, a name and a number in each line. */
static bool lines_are_right(const char *path, const char *text)
{
	const char *name = strrchr(path, '/') + 1, *line;
	unsigned long long value;
	char word[64];

	if (strcmp(name, "events") && strcmp(name, "statistics"))
		return strchr(text, '\n') == text + strlen(text) - 1;
	for (line = text; *line; line = strchr(line, '\n') + 1) {
		if (sscanf(line, "%63[a-z_] %llu", word, &value) != 2 ||
		    !strchr(line, '\n'))
			return false;
	}
	return true;
}

/* sysfs files are kernel memory that no memory cgroup is charged for. */
TEST_F(sysfs, heap_has_at_most_twenty_files)
{
	char pattern[160];
	glob_t found;

	ASSERT_EQ(0, heap_commit(&self->heap, 0, 1));
	ASSERT_TRUE(directory_appears(self->heap.id));
	snprintf(pattern, sizeof(pattern), "%s/*", self->path);
	ASSERT_EQ(0, glob(pattern, 0, NULL, &found));
	EXPECT_GE(20, found.gl_pathc);
	for (int i = 0; i < found.gl_pathc; i++) {
		struct stat stat;

		EXPECT_TRUE(!lstat(found.gl_pathv[i], &stat) && S_ISREG(stat.st_mode));
	}
	globfree(&found);
}

/* As another user, count how many of @nr heaps get a directory when they commit. */
static int directories_of(uid_t uid, int nr)
{
	pid_t child = fork();

	if (!child) {
		struct rlimit unlimited = { RLIM_INFINITY, RLIM_INFINITY };
		struct heap heaps[8] = {};
		int have = 0;

		setrlimit(RLIMIT_MEMLOCK, &unlimited);
		if (setgroups(0, NULL) || setgid(GROUP) || setuid(uid))
			_exit(100);
		for (int i = 0; i < nr; i++) {
			if (heap_make(&heaps[i], ARENA, 0) || heap_commit(&heaps[i], 0, 1))
				_exit(101);
			/* The directories are created in this order. */
			have += directory_appears_within(heaps[i].id, have == i ? 500 : 20);
		}
		/* When one heap ends, the next one that commits gets a directory. */
		heap_destroy(&heaps[0]);
		if (have < nr && (heap_release(&heaps[nr - 1], 0, 1) ||
				  heap_commit(&heaps[nr - 1], 0, 1) ||
				  !directory_appears(heaps[nr - 1].id)))
			_exit(102);
		_exit(have);
	}
	return child_status(child);
}

TEST_F(sysfs, user_gets_as_many_directories_as_root_allows)
{
	char before[32];

	ASSERT_EQ(0, read_text(PARAMETERS "/directories", before, sizeof(before)));
	ASSERT_EQ(0, chown(KARENA_DEVICE, 0, GROUP));
	ASSERT_EQ(0, write_text(PARAMETERS "/directories", "3"));
	EXPECT_EQ(3, directories_of(OWNER, 5));
	EXPECT_EQ(3, directories_of(OWNER, 5));
	EXPECT_EQ(3, directories_of(OWNER + 1, 3));
	ASSERT_EQ(0, write_text(PARAMETERS "/directories", "0"));
	ASSERT_EQ(0, heap_commit(&self->heap, 0, 1));
	EXPECT_FALSE(directory_appears_within(self->heap.id, 20));
	ASSERT_EQ(0, write_text(PARAMETERS "/directories", before));
	/* The next commit tries again. */
	ASSERT_EQ(0, heap_commit(&self->heap, 1, 1));
	EXPECT_TRUE(directory_appears(self->heap.id));
	ASSERT_EQ(0, chown(KARENA_DEVICE, 0, 0));
}

TEST_F(sysfs, documentation_matches_the_files)
{
	static const char *const places[] = {
		SYSFS "/*", SYSFS "/heaps/*/*", PARAMETERS "/*",
	};
	struct documented documented = {};
	char text[4096];
	glob_t found;

	ASSERT_EQ(0, heap_commit(&self->heap, 0, 1));
	ASSERT_TRUE(directory_appears(self->heap.id));
	ASSERT_EQ(0, read_documented(&documented));
	EXPECT_GT(documented.nr, 20);
	for (int i = 0; i < documented.nr; i++) {
		EXPECT_EQ(0, glob(documented.patterns[i], 0, NULL, &found))
			TH_LOG("missing: %s", documented.patterns[i]);
		globfree(&found);
	}
	for (int i = 0; i < 3; i++) {
		ASSERT_EQ(0, glob(places[i], 0, NULL, &found));
		for (int j = 0; j < found.gl_pathc; j++) {
			const char *path = found.gl_pathv[j];
			int err = read_text(path, text, sizeof(text));

			if (every_device_has(path))
				continue;
			EXPECT_TRUE(is_documented(&documented, path) ||
				    err == -EISDIR)
				TH_LOG("not documented: %s", path);
			EXPECT_TRUE(err == -EISDIR ||
				    (!err && lines_are_right(path, text)))
				TH_LOG("neither a value nor names and values: %s", path);
		}
		globfree(&found);
	}
}

TEST_HARNESS_MAIN
