// SPDX-License-Identifier: MIT
/*
 * The file in which others see a heap's figures: nobody is tricked into another one,
 * nothing stays behind, and whatever is in the way is no error.
 */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "shm.h"

FIXTURE(shm) {
	bool alone;
};

FIXTURE_SETUP(shm)
{
	self->alone = shm_alone();
}

FIXTURE_TEARDOWN(shm)
{
	(void)self;
}

/* A child with a heap that is shown, which ends as @how says. */
static int child_that(int how)
{
	pid_t child = fork();

	if (!child) {
		struct ka_heap *heap = make(64 * MIB, 0, KA_FORK_COW);

		CHECK(heap && files() >= 1);
		if (how == SIGKILL)
			raise(SIGKILL);
		if (how)
			_exit(how);
		exit(0);
	}
	return child_status(child);
}

TEST_F(shm, the_file_says_whose_it_is)
{
	struct ka_options options = KA_OPTIONS;
	struct ka_stats_file file, other;
	struct ka_heap *heap, *second;
	struct stat stat_of;
	char path[80];

	WITH_FILES();
	ASSERT_EQ(0, child_that(0));
	umask(0277);
	options.name = "a name";
	options.window = 64 * MIB;
	heap = ka_heap_create(&options);
	second = ka_heap_create(&options);
	umask(022);
	ASSERT_TRUE(file_of(getpid(), 1, &file));
	ASSERT_TRUE(file_of(getpid(), 2, &other));
	EXPECT_EQ(getpid(), file.pid);
	EXPECT_STREQ("a name", file.name);
	EXPECT_TRUE(ka_heap_contains(heap, (char *)file.window + 2 * KA_ARENA_SIZE));
	EXPECT_TRUE(ka_heap_contains(second, (char *)other.window + 2 * KA_ARENA_SIZE));
	EXPECT_NE(0, file.started);
	ASSERT_EQ(0, stat("/proc/self/ns/pid", &stat_of));
	EXPECT_EQ(stat_of.st_ino, file.pid_namespace);
	snprintf(path, sizeof(path), "%s/%d.1", dir, (int)getpid());
	ASSERT_EQ(0, stat(path, &stat_of));
	EXPECT_EQ(S_IFREG | 0600, stat_of.st_mode);
	ASSERT_EQ(0, lstat(dir, &stat_of));
	EXPECT_EQ(S_IFDIR | 0700, stat_of.st_mode);
	ka_heap_destroy(heap);
	EXPECT_EQ(1, files());
	ka_heap_destroy(second);
	EXPECT_EQ(0, files());
}

TEST_F(shm, at_exit_it_is_gone_and_what_is_left_is_swept)
{
	char path[120];

	WITH_FILES();
	EXPECT_EQ(0, child_that(0));
	EXPECT_EQ(0, files());
	EXPECT_EQ(128 + SIGKILL, child_that(SIGKILL));
	EXPECT_EQ(1, files());
	/* Each removes what the one before it has left. */
	for (int i = 0; i < 5; i++) {
		EXPECT_EQ(3, child_that(3));
		EXPECT_EQ(1, files());
	}
	/* What is no such file stays, and so does one of somebody who is there. */
	snprintf(path, sizeof(path), "%s/something", dir);
	close(open(path, O_CREAT | O_WRONLY, 0600));
	snprintf(path, sizeof(path), "%s/999999.x", dir);
	close(open(path, O_CREAT | O_WRONLY, 0600));
	snprintf(path, sizeof(path), "%s/%d.1", dir, (int)getppid());
	close(open(path, O_CREAT | O_WRONLY, 0600));
	EXPECT_EQ(0, child_that(0));
	EXPECT_EQ(3, files());
}

/* A PID that nobody has. */
static pid_t nobody(void)
{
	pid_t child = fork();

	if (!child)
		_exit(0);
	waitpid(child, NULL, 0);
	return child;
}

static void leave(pid_t pid, unsigned int number, const struct ka_stats_file *file)
{
	char path[120];
	int fd;

	snprintf(path, sizeof(path), "%s/%d.%u", dir, (int)pid, number);
	fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0600);
	if (fd < 0 || write(fd, file, sizeof(*file)) != sizeof(*file))
		abort();
	close(fd);
}

TEST_F(shm, a_sweep_is_bounded_and_leaves_other_namespaces_alone)
{
	struct ka_stats_file file = { .magic = KA_STATS_FILE_MAGIC };
	pid_t gone = nobody();
	struct stat stat_of;

	WITH_FILES();
	ASSERT_EQ(0, child_that(0));
	ASSERT_EQ(0, stat("/proc/self/ns/pid", &stat_of));
	file.pid_namespace = stat_of.st_ino;
	for (unsigned int i = 1; i <= 40; i++)
		leave(gone, i, &file);
	EXPECT_EQ(0, child_that(0));
	EXPECT_EQ(24, files());
	EXPECT_EQ(0, child_that(0));
	EXPECT_EQ(8, files());
	EXPECT_EQ(0, child_that(0));
	EXPECT_EQ(0, files());
	file.pid_namespace++;
	leave(gone, 1, &file);
	EXPECT_EQ(0, child_that(0));
	EXPECT_EQ(1, files());
	/* What was never filled in is nobody's. */
	memset(&file, 0, sizeof(file));
	leave(gone, 1, &file);
	EXPECT_EQ(0, child_that(0));
	EXPECT_EQ(0, files());
}

TEST_F(shm, files_of_the_same_pid_are_told_apart)
{
	struct ka_heap *heap = make(64 * MIB, 0, KA_FORK_COW), *other;
	struct ka_stats_file file, mine;

	WITH_FILES();
	ASSERT_TRUE(file_of(getpid(), 1, &file));
	/* Of this process before exec: there is no such window any more. */
	mine = file;
	mine.window = 16 * KA_PAGE_SIZE;
	leave(getpid(), 2, &mine);
	/* Of another one, that had the PID before. */
	mine = file;
	mine.started--;
	leave(getpid(), 3, &mine);
	for (unsigned int i = 2; i < 4; i++) {
		other = make(64 * MIB, 0, KA_FORK_COW);
		ASSERT_TRUE(file_of(getpid(), i, &mine));
		EXPECT_TRUE(ka_heap_contains(other, (char *)mine.window + 4 * MIB));
	}
	ASSERT_TRUE(file_of(getpid(), 1, &mine));
	EXPECT_EQ(file.window, mine.window);
	ka_heap_destroy(heap);
}

/* A heap works, and nobody sees anything of it. */
static bool works_unseen(void)
{
	struct ka_heap *heap = make(64 * MIB, 0, KA_FORK_COW);
	char *runs[3];
	bool works;

	if (!heap)
		return false;
	errno = 7;
	for (int i = 0; i < 3; i++) {
		runs[i] = ka_run_alloc(heap, 3 * MIB, 0);
		if (!runs[i])
			return false;
		runs[i][3 * MIB - 1] = 1;
	}
	works = errno == 7 && files() < 1 && figures(heap).runs == 3 &&
		!ka_run_free(heap, runs[1]) &&
		ka_heap_free(heap, ka_heap_malloc(heap, 100)) == 0;
	ka_heap_destroy(heap);
	return works;
}

TEST_F(shm, a_directory_that_is_not_the_users_alone_is_not_used)
{
	WITH_FILES();
	ASSERT_EQ(0, mkdir("/dev/shm/trap", 0700));
	ASSERT_EQ(0, symlink("trap", dir));
	EXPECT_TRUE(works_unseen());
	EXPECT_EQ(0, files());
	ASSERT_EQ(0, unlink(dir));
	ASSERT_EQ(0, mkdir(dir, 0700));
	ASSERT_EQ(0, chmod(dir, 0750));
	EXPECT_TRUE(works_unseen());
	ASSERT_EQ(0, chmod(dir, 01700));
	EXPECT_TRUE(works_unseen());
	ASSERT_EQ(0, chmod(dir, 0700));
	EXPECT_EQ(0, child_that(0));
	if (chown(dir, 65534, 65534))
		SKIP(return, "to give a directory away takes root");
	EXPECT_TRUE(works_unseen());
	EXPECT_EQ(0, files());
	ASSERT_EQ(0, rmdir(dir));
	/* A file in the place of the directory. */
	close(open(dir, O_CREAT | O_WRONLY, 0600));
	EXPECT_TRUE(works_unseen());
}

TEST_F(shm, nobody_is_led_into_another_file)
{
	struct ka_stats_file file;
	struct stat stat_of;
	char path[80];
	pid_t child;

	WITH_FILES();
	ASSERT_EQ(0, child_that(0));
	close(open("/dev/shm/victim", O_CREAT | O_WRONLY, 0600));
	child = fork();
	if (!child) {
		snprintf(path, sizeof(path), "%s/%d.1", dir, (int)getpid());
		CHECK(!symlink("../victim", path));
		CHECK(make(64 * MIB, 0, KA_FORK_COW));
		CHECK(file_of(getpid(), 2, &file));
		/* Another's file in the place of its own stays. */
		snprintf(path, sizeof(path), "%s/%d.2", dir, (int)getpid());
		CHECK(!unlink(path) && !symlink("../victim", path));
		exit(0);
	}
	EXPECT_EQ(0, child_status(child));
	ASSERT_EQ(0, stat("/dev/shm/victim", &stat_of));
	EXPECT_EQ(0, stat_of.st_size);
	EXPECT_EQ(2, files());
}

static int in_a_child(bool (*test)(void))
{
	pid_t child = fork();

	if (!child) {
		CHECK(test());
#ifdef __SANITIZE_ADDRESS__
		/* Without /proc it cannot look for leaks. */
		_exit(0);
#endif
		exit(0);
	}
	return child_status(child);
}

static bool without_room(void)
{
	return !umount("/dev/shm") && !mount("shm", "/dev/shm", "tmpfs", 0, "size=8k") &&
	       !mkdir(dir, 0700) && !system("head -c 8192 /dev/zero >/dev/shm/full") &&
	       works_unseen() && !files();
}

static bool without_descriptors(void)
{
	struct rlimit none = { 0, 0 };

	return !setrlimit(RLIMIT_NOFILE, &none) && works_unseen();
}

static bool with_no_size_for_files(void)
{
	struct rlimit none = { 0, 0 };

	return !setrlimit(RLIMIT_FSIZE, &none) && works_unseen();
}

static bool read_only(void)
{
	return !mount("shm", "/dev/shm", "tmpfs", MS_REMOUNT | MS_RDONLY, "") &&
	       works_unseen();
}

static bool without_root_directory(void)
{
	return make(64 * MIB, 0, KA_FORK_COW) && files() == 1 &&
	       !chroot("/proc/self/fdinfo") && !chdir("/") && works_unseen();
}

static bool without_rights(void)
{
	struct ka_heap *heap = make(64 * MIB, 0, KA_FORK_COW);

	/* What has been mapped goes on to be written. */
	return heap && !setgid(65534) && !setuid(65534) && works_unseen() &&
	       ka_run_alloc(heap, 5 * MIB, 0) && figures(heap).arenas == 3;
}

/* Who opens a file from here on is killed. */
static bool sandbox(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mkdir, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	};
	struct sock_fprog program = { sizeof(filter) / sizeof(*filter), filter };

	return !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) &&
	       !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static bool in_a_sandbox(void)
{
	struct ka_heap *heap;

	unsetenv("KARENA_STATS");
	heap = make(64 * MIB, 0, KA_FORK_COW);
	return heap && sandbox() && ka_run_alloc(heap, 6 * MIB, 0) &&
	       figures(heap).arenas == 3;
}

TEST_F(shm, whatever_is_in_the_way_is_no_error)
{
	NOT_WITH_VALGRIND("opens files and makes directories of its own");
	WITH_FILES();
	EXPECT_EQ(0, in_a_child(with_no_size_for_files));
	EXPECT_EQ(0, in_a_child(without_descriptors));
	EXPECT_EQ(0, in_a_child(without_root_directory));
	EXPECT_EQ(0, in_a_child(without_rights));
	EXPECT_EQ(0, in_a_child(in_a_sandbox));
	system("rm -rf /dev/shm/karena.*");
	EXPECT_EQ(0, in_a_child(read_only));
	EXPECT_EQ(0, in_a_child(without_room));
}

TEST_HARNESS_MAIN
