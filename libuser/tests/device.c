// SPDX-License-Identifier: MIT
/*
 * What the library says when the module is missing, forbidden, of another
 * version, or fails at any step. The system calls are replaced by some that fail
 * as told (the linker's --wrap), so this needs no module.
 */
#include <fcntl.h>
#include <stdarg.h>
#include <sys/ioctl.h>

#include <linux/karena.h>

#include "common.h"

/* Which step fails, and how. */
static struct {
	int open_errno;
	int info_errno;
	int create_errno;
	int map_window_errno;
	int map_control_errno;
	int commit_errno;
	uint32_t abi_version;
} fake;

static int opened, maps;

int __wrap_open(const char *path, int flags, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);
void *__wrap_mmap(void *address, size_t size, int protection, int flags, int fd,
		  off_t offset);
int __wrap_madvise(void *address, size_t size, int advice);
int __wrap_close(int fd);
void *__real_mmap(void *address, size_t size, int protection, int flags, int fd,
		  off_t offset);
int __real_close(int fd);

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
		return fails(fake.info_errno);
	}
	if (request == KARENA_CREATE) {
		struct karena_create *create = args;

		create->control_offset = create->window;
		create->control_size = 8192;
		return fails(fake.create_errno) ? -1 : open_null();
	}
	return fails(ENOTTY);
}

/* Maps of a descriptor become anonymous ones; all maps are counted. */
void *__wrap_mmap(void *address, size_t size, int protection, int flags, int fd,
		  off_t offset)
{
	void *map;

	if (fd >= 0 && fails(offset ? fake.map_control_errno :
			     fake.map_window_errno))
		return MAP_FAILED;
	if (fd < 0)
		return __real_mmap(address, size, protection, flags, fd, offset);
	map = __real_mmap(NULL, size, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (offset && map != MAP_FAILED)
		((struct karena_control *)map)->states_offset = 4096;
	maps++;
	return map;
}

int __wrap_madvise(void *address, size_t size, int advice)
{
	(void)address;
	(void)size;
	return advice == MADV_REMOVE ? 0 : fails(fake.commit_errno);
}

FIXTURE(device) {
	int unused;
};

FIXTURE_SETUP(device)
{
	memset(&fake, 0, sizeof(fake));
	fake.abi_version = KARENA_ABI_VERSION;
	setenv("KARENA_SOURCE", "device", 1);
	setenv("KARENA_WINDOW", "64M", 1);
}

FIXTURE_TEARDOWN(device)
{
	/* Whatever failed, no descriptor is left. */
	EXPECT_EQ(0, opened);
}

#define EXPECT_FAILS(_errno, _words)					\
	do {								\
		EXPECT_EQ(NULL, ka_heap_create(NULL));			\
		EXPECT_EQ(_errno, errno);				\
		EXPECT_NE(NULL, strstr(ka_error(), _words))		\
			TH_LOG("%s", ka_error());			\
	} while (0)

TEST_F(device, with_nothing_wrong_it_works)
{
	struct ka_heap *heap = ka_heap_create(NULL);

	ASSERT_NE(NULL, heap);
	EXPECT_EQ(KA_SOURCE_DEVICE, ka_heap_source(heap));
	EXPECT_EQ(2, maps);
	EXPECT_NE(NULL, ka_run_alloc(heap, MIB, 0));
	ka_heap_destroy(heap);
}

TEST_F(device, no_module)
{
	fake.open_errno = ENOENT;
	EXPECT_FAILS(ENOENT, "load the module");
	fake.open_errno = ENODEV;
	EXPECT_FAILS(ENODEV, "load the module");
}

TEST_F(device, no_permission)
{
	fake.open_errno = EACCES;
	EXPECT_FAILS(EACCES, "join the group karena");
}

TEST_F(device, no_descriptors_left)
{
	fake.open_errno = EMFILE;
	EXPECT_FAILS(EMFILE, "Too many open files");
}

TEST_F(device, another_device)
{
	fake.info_errno = ENOTTY;
	EXPECT_FAILS(EPROTO, "not the device");
}

TEST_F(device, another_version_of_the_module)
{
	fake.abi_version = KARENA_ABI_VERSION + 1;
	EXPECT_FAILS(EPROTO, "install both from one release");
}

TEST_F(device, the_kernel_refuses_the_heap)
{
	fake.create_errno = EFBIG;
	EXPECT_FAILS(EFBIG, "the module allows 1 TiB");
	fake.create_errno = ENOMEM;
	EXPECT_FAILS(ENOMEM, "no memory for a heap");
	fake.create_errno = EMFILE;
	EXPECT_FAILS(EMFILE, "does not make the heap");
}

TEST_F(device, the_maps_fail)
{
	fake.map_window_errno = ENOMEM;
	EXPECT_FAILS(ENOMEM, "no room for a window of 64 MiB");
	fake.map_window_errno = EPERM;
	EXPECT_FAILS(EPERM, "cannot map the window");
	fake.map_window_errno = 0;
	fake.map_control_errno = ENOMEM;
	EXPECT_FAILS(ENOMEM, "cannot map the control region");
}

TEST_F(device, a_commit_fails)
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

TEST_F(device, auto_goes_on_without_it)
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
