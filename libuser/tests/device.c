// SPDX-License-Identifier: MIT
/*
 * Error messages when the module is missing, not permitted, of another version, or fails at
 * any step; and the library's requests to the module. The linker's --wrap replaces the
 * system calls by fakes that fail as told, so this test needs no module.
 */
#include <fcntl.h>
#include <stdarg.h>
#include <sys/ioctl.h>

#include <linux/karena.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ	22
#endif

#include "common.h"

/* The step that fails, and its error. */
static struct {
	int open_errno;
	int info_errno;
	int create_errno;
	int map_window_errno;
	int map_control_errno;
	int commit_errno;
	int attach_errno;
	int populate_errno;	/* the control region has no pages */
	int spare_commits;	/* commits that succeed before commit_errno */
	uint32_t abi_version;
	uint64_t features;
	int map_part_errno;
	bool no_clone;		/* fork() copies the memory and makes no clone */
} fake;

static int opened, maps;
static struct karena_create created;	/* the requested heap */
static uint64_t attached;		/* address in the last ATTACH */
static struct karena_control *control;

int __wrap_open(const char *path, int flags, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);
void *__wrap_mmap(void *address, size_t size, int protection, int flags, int fd,
		  off_t offset);
int __wrap_ka_madvise(void *address, size_t size, int advice);
int __wrap_close(int fd);
void *__real_mmap(void *address, size_t size, int protection, int flags, int fd,
		  off_t offset);
int __real_close(int fd);
int __real_ka_madvise(void *address, size_t size, int advice);

static int fails(int error)
{
	errno = error;
	return error ? -1 : 0;
}

static int open_null(void)
{
	opened++;
	return dup(0);
}

int __wrap_open(const char *path, int flags, ...)
{
	(void)path;
	(void)flags;
	return fails(fake.open_errno) ? -1 : open_null();
}

int __wrap_close(int fd)
{
	opened--;
	return __real_close(fd);
}

int __wrap_ioctl(int fd, unsigned long request, ...)
{
	va_list arguments;
	void *args;

	(void)fd;
	va_start(arguments, request);
	args = va_arg(arguments, void *);
	va_end(arguments);
	if (request == KARENA_INFO) {
		struct karena_info *info = args;

		info->abi_version = fake.abi_version;
		info->arena_size = KARENA_ARENA_SIZE;
		info->window_max = 1UL << 40;
		info->features = fake.features;
		return fails(fake.info_errno);
	}
	if (request == KARENA_CREATE) {
		struct karena_create *create = args;

		created = *create;
		create->control_offset = create->window;
		create->control_size = 8192;
		create->id = 7;
		return fails(fake.create_errno) ? -1 : open_null();
	}
	if (request == KARENA_ATTACH) {
		attached = ((struct karena_attach *)args)->address;
		return fails(fake.attach_errno) ? -1 : open_null();
	}
	return fails(ENOTTY);
}

/* Mappings of a descriptor become anonymous ones; all mappings are counted. */
void *__wrap_mmap(void *address, size_t size, int protection, int flags, int fd,
		  off_t offset)
{
	void *map;

	bool part = flags & MAP_FIXED_NOREPLACE, window = part || !offset;

	if (fd < 0)
		return __real_mmap(address, size, protection, flags, fd, offset);
	if (fails(part ? fake.map_part_errno :
		  window ? fake.map_window_errno : fake.map_control_errno))
		return MAP_FAILED;
	map = __real_mmap(address, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS |
			  MAP_NORESERVE | (flags & MAP_FIXED_NOREPLACE), -1, 0);
	maps++;
	if (map == MAP_FAILED)
		return map;
	if (!window) {
		control = map;
		control->states_offset = 4096;
		control->id = 7;
	}
	/* With a module without policies, no child inherits anything. */
	if (!(fake.features & KARENA_FEATURE_FORK))
		__real_ka_madvise(map, size, MADV_DONTFORK);
	return map;
}

/* Like the module: a child has a clone with its own number. */
static void fork_child(void)
{
	if (control && fake.features & KARENA_FEATURE_FORK && !fake.no_clone)
		control->id = 8;
}

/*
 * Before the library registers its handler at load time, since the kernel clones before
 * both.
 */
__attribute__((constructor(101)))
static void fork_register(void)
{
	pthread_atfork(NULL, NULL, fork_child);
}

int __wrap_ka_madvise(void *address, size_t size, int advice)
{
	(void)address;
	(void)size;
	if (advice == MADV_REMOVE)
		return 0;
	if (advice == MADV_POPULATE_READ)
		return fails(fake.populate_errno);
	if (fake.spare_commits-- > 0)
		return 0;
	return fails(fake.commit_errno);
}

FIXTURE(device) {
	int unused;
};

FIXTURE_SETUP(device)
{
	memset(&fake, 0, sizeof(fake));
	fake.abi_version = KARENA_ABI_VERSION;
	fake.features = KARENA_FEATURE_FORK | KARENA_FEATURE_IO;
	setenv("KARENA_SOURCE", "device", 1);
	setenv("KARENA_WINDOW", "64M", 1);
}

FIXTURE_TEARDOWN(device)
{
	/* No test leaves a descriptor open. */
	EXPECT_EQ(0, opened);
}

#define EXPECT_FAILS(_errno, _words)					\
	do {								\
		EXPECT_EQ(NULL, ka_heap_create(NULL));			\
		EXPECT_EQ(_errno, errno);				\
		EXPECT_NE(NULL, strstr(ka_error(), _words))		\
			TH_LOG("%s", ka_error());			\
	} while (0)

TEST_F(device, heap_works_without_faults)
{
	struct ka_heap *heap = ka_heap_create(NULL);

	ASSERT_NE(NULL, heap);
	EXPECT_EQ(KA_SOURCE_DEVICE, ka_heap_source(heap));
	EXPECT_EQ(2, maps);
	EXPECT_NE(NULL, ka_run_alloc(heap, MIB, 0));
	ka_heap_destroy(heap);
}

TEST_F(device, window_is_mapped_only_as_far_as_it_is_used)
{
	struct ka_heap *heap, *whole;
	size_t before = mapped_size();

	NOT_WITH_SANITIZERS();
	setenv("KARENA_WINDOW", "8G", 1);
	fake.features |= KARENA_FEATURE_PARTS;
	heap = ka_heap_create(NULL);
	ASSERT_NE(NULL, heap);
	EXPECT_EQ(3, maps);
	for (int i = 0; i < 100; i++)
		ASSERT_NE(NULL, ka_run_alloc(heap, 2 * MIB, 0));
	EXPECT_GT(before + 300 * MIB, mapped_size());
	ka_heap_destroy(heap);
	EXPECT_GT(before + MIB, mapped_size());
	/* If the kernel rejects a partial mapping, the heap maps the whole window. */
	fake.map_part_errno = EINVAL;
	whole = ka_heap_create(NULL);
	ASSERT_NE(NULL, whole);
	EXPECT_LT(before + 8192 * MIB, mapped_size());
	ka_heap_destroy(whole);
	EXPECT_GT(before + MIB, mapped_size());
}

TEST_F(device, missing_module)
{
	fake.open_errno = ENOENT;
	EXPECT_FAILS(ENOENT, "load the module");
	fake.open_errno = ENODEV;
	EXPECT_FAILS(ENODEV, "load the module");
}

TEST_F(device, missing_permission)
{
	fake.open_errno = EACCES;
	EXPECT_FAILS(EACCES, "join the group karena");
}

TEST_F(device, no_descriptors_left)
{
	fake.open_errno = EMFILE;
	EXPECT_FAILS(EMFILE, "Too many open files");
}

TEST_F(device, device_of_another_driver)
{
	fake.info_errno = ENOTTY;
	EXPECT_FAILS(EPROTO, "not the device");
}

TEST_F(device, module_of_another_version)
{
	fake.abi_version = KARENA_ABI_VERSION + 1;
	EXPECT_FAILS(EPROTO, "install both from one release");
}

TEST_F(device, create_fails)
{
	fake.create_errno = EFBIG;
	EXPECT_FAILS(EFBIG, "the module allows 1 TiB");
	fake.create_errno = ENOMEM;
	EXPECT_FAILS(ENOMEM, "no memory for a heap");
	fake.create_errno = EMFILE;
	EXPECT_FAILS(EMFILE, "cannot create the heap");
}

TEST_F(device, mmap_fails)
{
	fake.map_window_errno = ENOMEM;
	EXPECT_FAILS(ENOMEM, "no room for a window of 64 MiB");
	fake.map_window_errno = EPERM;
	EXPECT_FAILS(EPERM, "cannot map the window");
	fake.map_window_errno = 0;
	fake.map_control_errno = ENOMEM;
	EXPECT_FAILS(ENOMEM, "cannot map the control region");
}

TEST_F(device, commit_fails)
{
	struct ka_heap *heap = ka_heap_create(NULL);
	struct ka_stats stats = { .size = sizeof(stats) };

	ASSERT_NE(NULL, heap);
	fake.commit_errno = ENOMEM;
	EXPECT_EQ(NULL, ka_run_alloc(heap, 5 * MIB, 0));
	EXPECT_EQ(ENOMEM, errno);
	EXPECT_NE(NULL, strstr(ka_error(), "no memory for 3 more arenas"));
	ASSERT_EQ(0, ka_heap_stats(heap, &stats));
	EXPECT_EQ(0, stats.arenas);
	EXPECT_EQ(0, stats.runs);
	fake.commit_errno = 0;
	EXPECT_NE(NULL, ka_run_alloc(heap, 5 * MIB, 0));
	ka_heap_destroy(heap);
}

TEST_F(device, no_memory_for_the_first_page_of_metadata)
{
	struct ka_heap *heap;

	fake.commit_errno = ENOMEM;
	EXPECT_FAILS(ENOMEM, "no memory for a heap's metadata");
	EXPECT_NE(NULL, strstr(ka_error(), "ulimit -l"));
	/* With auto, the process still gets a heap. */
	setenv("KARENA_SOURCE", "auto", 1);
	heap = ka_heap_create(NULL);
	ASSERT_NE(NULL, heap);
	EXPECT_EQ(KA_SOURCE_EMBEDDED, ka_heap_source(heap));
	EXPECT_NE(NULL, ka_run_alloc(heap, MIB, 0));
	ka_heap_destroy(heap);
}

TEST_F(device, no_memory_for_another_page_of_metadata)
{
	struct ka_stats before = { .size = sizeof(before) }, after = before;
	struct ka_options options = KA_OPTIONS;
	struct ka_heap *heap;
	char *run;

	options.window = 256 * MIB;
	heap = ka_heap_create(&options);
	ASSERT_NE(NULL, heap);
	run = ka_run_alloc(heap, 16 * MIB, 0);
	ASSERT_NE(NULL, run);
	ASSERT_EQ(0, ka_heap_stats(heap, &before));
	/*
	 * More arenas than the first metadata page describes: the commit of metadata fails,
	 * then that of memory.
	 */
	for (int i = 0; i < 2; i++) {
		fake.spare_commits = i;
		fake.commit_errno = ENOMEM;
		errno = 0;
		EXPECT_EQ(NULL, ka_run_alloc(heap, 100 * MIB, 0));
		EXPECT_EQ(ENOMEM, errno);
		EXPECT_NE(NULL, strstr(ka_error(), "no memory for 50 more arenas"));
		ASSERT_EQ(0, ka_heap_stats(heap, &after));
		EXPECT_EQ(0, memcmp(&before, &after, sizeof(before)));
		EXPECT_EQ(16 * MIB, ka_run_size(heap, run));
	}
	fake.commit_errno = 0;
	EXPECT_NE(NULL, ka_run_alloc(heap, 100 * MIB, 0));
	ka_heap_destroy(heap);
}

TEST_F(device, module_limit_includes_the_metadata)
{
	struct ka_stats stats = { .size = sizeof(stats) };
	struct ka_options options = KA_OPTIONS;
	struct ka_heap *heap;

	options.window = 32UL << 30;
	options.limit = 9 * MIB;
	heap = ka_heap_create(&options);
	ASSERT_NE(NULL, heap);
	EXPECT_LT(8 * MIB, created.limit);
	EXPECT_GT(13 * MIB, created.limit);
	EXPECT_EQ(0, created.limit % KA_PAGE_SIZE);
	EXPECT_LT(32UL << 30, created.window);
	/* The metadata of pools needs 8 KiB for each arena. */
	EXPECT_GE((32UL << 30) + (128 + 8) * MIB, created.window);
	ASSERT_EQ(0, ka_heap_stats(heap, &stats));
	EXPECT_EQ(32UL << 30, stats.window);
	EXPECT_EQ(8 * MIB, stats.limit);
	ka_heap_destroy(heap);

	options.limit = 0;
	heap = ka_heap_create(&options);
	ASSERT_NE(NULL, heap);
	EXPECT_EQ(0, created.limit);
	ka_heap_destroy(heap);
}

TEST_F(device, fork_policy_is_passed_to_the_module)
{
	static const enum ka_fork policies[] = {
		KA_FORK_COW, KA_FORK_SHARE, KA_FORK_NONE
	};
	struct ka_options options = KA_OPTIONS;
	struct ka_heap *heap;

	for (int i = 0; i < 3; i++) {
		options.fork = policies[i];
		options.io = i > 0;
		heap = ka_heap_create(&options);
		ASSERT_NE(NULL, heap);
		EXPECT_EQ(i, created.fork);
		EXPECT_EQ(i ? KARENA_CREATE_IO : 0, created.flags);
		ka_heap_destroy(heap);
	}
}

TEST_F(device, older_module_gets_no_unknown_requests)
{
	struct ka_options options = KA_OPTIONS;
	struct ka_heap *heap;

	fake.features = 0;
	options.fork = KA_FORK_NONE;
	options.io = true;
	heap = ka_heap_create(&options);
	ASSERT_NE(NULL, heap);
	EXPECT_EQ(0, created.fork);
	EXPECT_EQ(0, created.flags);
	ka_heap_destroy(heap);

	options.fork = KA_FORK_SHARE;
	EXPECT_EQ(NULL, ka_heap_create(&options));
	EXPECT_EQ(EOPNOTSUPP, errno);
	EXPECT_NE(NULL, strstr(ka_error(), "too old to share"));
	/* With auto, plain mmap can share. */
	setenv("KARENA_SOURCE", "auto", 1);
	heap = ka_heap_create(&options);
	ASSERT_NE(NULL, heap);
	EXPECT_EQ(KA_SOURCE_EMBEDDED, ka_heap_source(heap));
	ka_heap_destroy(heap);
}

/* Return in a child: 1, the heap works; 2, calls on the heap fail as they should. */
static int heap_in_child(struct ka_heap *heap, char *run)
{
	struct ka_stats stats = { .size = sizeof(stats) };
	pid_t child = fork();
	int status;

	if (!child) {
		if (ka_run_alloc(heap, MIB, 0))
			_exit(!ka_run_free(heap, run) && ka_heap_id(heap) == 8 ?
			      1 : 3);
		if (errno != EOWNERDEAD || !ka_run_free(heap, run) ||
		    !ka_heap_stats(heap, &stats) || ka_run_size(heap, run) ||
		    ka_heap_descriptor(heap) >= 0 || errno != EOWNERDEAD)
			_exit(4);
		/* The addresses are not free for other mappings. */
		if (__real_mmap(run, MIB, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS |
				MAP_FIXED_NOREPLACE, -1, 0) == run)
			_exit(5);
		ka_heap_destroy(heap);
		_exit(2);
	}
	if (waitpid(child, &status, 0) != child || !WIFEXITED(status))
		return -1;
	return WEXITSTATUS(status);
}

TEST_F(device, child_without_clone_gets_an_error)
{
	static const struct {
		bool older, no_clone;
		int populate_errno, has;
	} cases[] = {
		{ .has = 1 },
		{ .has = 2, .older = true },
		{ .has = 2, .no_clone = true },
		{ .has = 2, .populate_errno = EFAULT },
	};
	struct ka_heap *heap;
	char *run;

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		fake.features = KARENA_FEATURE_FORK * !cases[i].older;
		fake.no_clone = cases[i].no_clone;
		fake.populate_errno = cases[i].populate_errno;
		heap = ka_heap_create(NULL);
		ASSERT_NE(NULL, heap);
		run = ka_run_alloc(heap, MIB, 0);
		ASSERT_NE(NULL, run);
		EXPECT_EQ(cases[i].has, heap_in_child(heap, run)) TH_LOG("case %zu", i);
		EXPECT_EQ(0, ka_run_free(heap, run));
		ka_heap_destroy(heap);
	}
}

TEST_F(device, descriptor_refers_to_the_heap)
{
	struct ka_heap *heap = ka_heap_create(NULL);
	char *run = ka_run_alloc(heap, MIB, 0);
	int fd = ka_heap_descriptor(heap);

	ASSERT_LE(0, fd);
	EXPECT_GE((uintptr_t)run, attached);
	EXPECT_LE((uintptr_t)run, attached + 66 * MIB);
	close(fd);
	fake.attach_errno = ENOMEM;
	EXPECT_EQ(-1, ka_heap_descriptor(heap));
	EXPECT_EQ(ENOMEM, errno);
	EXPECT_NE(NULL, strstr(ka_error(), "cannot create a descriptor"));
	fake.open_errno = EACCES;
	EXPECT_EQ(-1, ka_heap_descriptor(heap));
	EXPECT_EQ(EACCES, errno);
	EXPECT_NE(NULL, strstr(ka_error(), "join the group karena"));
	ka_heap_destroy(heap);
}

TEST_F(device, auto_continues_without_the_module)
{
	static const int errors[] = { ENOENT, EACCES, EMFILE };
	struct ka_heap *heap;

	setenv("KARENA_SOURCE", "auto", 1);
	for (int i = 0; i < 3; i++) {
		fake.open_errno = errors[i];
		heap = ka_heap_create(NULL);
		ASSERT_NE(NULL, heap);
		EXPECT_EQ(KA_SOURCE_EMBEDDED, ka_heap_source(heap));
		ka_heap_destroy(heap);
	}
	fake.open_errno = 0;
	fake.abi_version = 0;
	heap = ka_heap_create(NULL);
	ASSERT_NE(NULL, heap);
	EXPECT_EQ(KA_SOURCE_EMBEDDED, ka_heap_source(heap));
	ka_heap_destroy(heap);
}

TEST_HARNESS_MAIN
