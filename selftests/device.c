// SPDX-License-Identifier: GPL-2.0
/*
 * The device and its calls: results, every error, and that a failed call leaves nothing
 * behind.
 */
#include <grp.h>

#include "common.h"

FIXTURE(device) {
	int fd;
	long nr_heaps;
	int next_fd;
};

static int lowest_free_fd(void)
{
	int fd = dup(0);

	close(fd);
	return fd;
}

FIXTURE_SETUP(device)
{
	REQUIRE_MODULE();
	self->fd = device_open();
	ASSERT_GE(self->fd, 0);
	self->nr_heaps = module_stat("nr_heaps");
	self->next_fd = lowest_free_fd();
}

FIXTURE_TEARDOWN(device)
{
	EXPECT_EQ(self->next_fd, lowest_free_fd());
	EXPECT_EQ(self->nr_heaps, module_stat("nr_heaps"));
	close(self->fd);
}

#define EXPECT_CALL_FAILS(_errno, _cmd, _args)				\
	do {								\
		EXPECT_EQ(-1, ioctl(self->fd, _cmd, _args));		\
		EXPECT_EQ(_errno, errno);				\
	} while (0)

TEST_F(device, info_describes_the_module)
{
	struct karena_info info = { .size = sizeof(info) };

	ASSERT_EQ(0, ioctl(self->fd, KARENA_INFO, &info));
	EXPECT_EQ(sizeof(info), info.size);
	EXPECT_EQ(KARENA_ABI_VERSION, info.abi_version);
	EXPECT_EQ(2 * MIB, info.arena_size);
	EXPECT_GE(info.window_max, 64UL << 30);
	EXPECT_EQ(module_stat("limit"), info.limit);
	EXPECT_EQ(module_stat("committed"), info.committed);
	EXPECT_EQ(KARENA_ABI_VERSION, module_stat("abi_version"));
}

TEST_F(device, unknown_calls_are_rejected)
{
	struct karena_info info = { .size = sizeof(info) };

	EXPECT_CALL_FAILS(ENOTTY, _IO(KARENA_IOC, 0), &info);
	EXPECT_CALL_FAILS(ENOTTY, _IO(KARENA_IOC, 0xff), &info);
	EXPECT_CALL_FAILS(ENOTTY, _IO(0xE8, 0x10), &info);
}

TEST_F(device, struct_sizes_are_checked)
{
	static const unsigned int calls[] = {
		KARENA_INFO, KARENA_CREATE, KARENA_ATTACH
	};
	static const size_t sizes[] = {
		sizeof(struct karena_info), sizeof(struct karena_create),
		sizeof(struct karena_attach),
	};

	for (int i = 0; i < 3; i++) {
		union {
			uint32_t size;
			char bytes[8192];
		} args = {};

		for (args.size = 0; args.size < sizes[i]; args.size++)
			EXPECT_CALL_FAILS(EINVAL, calls[i], &args);
		args.size = 4097;
		EXPECT_CALL_FAILS(E2BIG, calls[i], &args);
		args.size = sizes[i] + 8;
		args.bytes[sizes[i] + 7] = 1;
		EXPECT_CALL_FAILS(E2BIG, calls[i], &args);
		EXPECT_CALL_FAILS(EFAULT, calls[i], NULL);
		EXPECT_CALL_FAILS(EFAULT, calls[i], (void *)-4096L);
	}
}

TEST_F(device, longer_struct_with_zero_tail_is_accepted)
{
	struct {
		struct karena_info info;
		uint64_t tail[4];
	} args = { .info.size = sizeof(args) };

	EXPECT_EQ(0, ioctl(self->fd, KARENA_INFO, &args));
	EXPECT_EQ(KARENA_ABI_VERSION, args.info.abi_version);
	EXPECT_EQ(0, args.tail[0]);
}

TEST_F(device, create_with_readonly_struct_leaves_no_heap)
{
	struct karena_create create = {
		.size = sizeof(create), .window = ARENA
	};
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	memcpy(page, &create, sizeof(create));
	mprotect(page, 4096, PROT_READ);
	EXPECT_CALL_FAILS(EFAULT, KARENA_CREATE, page);
}

TEST_F(device, info_rejects_flags_and_reserved_members)
{
	struct karena_info info = { .size = sizeof(info), .flags = 1 };

	EXPECT_CALL_FAILS(EINVAL, KARENA_INFO, &info);
	info.flags = 0;
	info.reserved = 1;
	EXPECT_CALL_FAILS(EINVAL, KARENA_INFO, &info);
}

TEST_F(device, create_rejects_invalid_values)
{
	struct karena_info info = { .size = sizeof(info) };
	const struct karena_create good = {
		.size = sizeof(good), .window = 16 * ARENA, .name = "good"
	};
	struct karena_create create;

	ASSERT_EQ(0, ioctl(self->fd, KARENA_INFO, &info));

#define EXPECT_CREATE_FAILS(_errno, _member, _value)			\
	do {								\
		create = good;						\
		create._member = _value;				\
		EXPECT_CALL_FAILS(_errno, KARENA_CREATE, &create);	\
	} while (0)

	EXPECT_CREATE_FAILS(EINVAL, flags, 1);
	EXPECT_CREATE_FAILS(EINVAL, flags, 1u << 31);
	EXPECT_CREATE_FAILS(EINVAL, window, 0);
	EXPECT_CREATE_FAILS(EINVAL, window, ARENA - 1);
	EXPECT_CREATE_FAILS(EINVAL, window, ARENA + 4096);
	EXPECT_CREATE_FAILS(EINVAL, window, ~0UL);
	EXPECT_CREATE_FAILS(EFBIG, window, info.window_max + ARENA);
	EXPECT_CREATE_FAILS(EFBIG, window, ~0UL & ~(ARENA - 1));
	EXPECT_CREATE_FAILS(EINVAL, limit, 1);
	EXPECT_CREATE_FAILS(EINVAL, limit, ARENA - 1);
	EXPECT_CREATE_FAILS(EINVAL, name[0], '/');
	EXPECT_CREATE_FAILS(EINVAL, name[1], '\n');
	EXPECT_CREATE_FAILS(EINVAL, name[1], (char)0xff);

	create = good;
	memset(create.name, 'x', sizeof(create.name));
	EXPECT_CALL_FAILS(EINVAL, KARENA_CREATE, &create);
}

TEST_F(device, create_survives_garbage)
{
	struct karena_create create;

	srandom(1);
	for (int i = 0; i < 20000; i++) {
		unsigned char *bytes = (unsigned char *)&create;
		int fd;

		for (size_t j = 0; j < sizeof(create); j++)
			bytes[j] = random() & random();
		/* Otherwise nearly all would fail because of the size. */
		if (i % 4)
			create.size = sizeof(create);
		if (i % 8 > 4) {
			create.flags = 0;
			create.window = (random() % 64) << 20;
			create.name[random() % KARENA_NAME_SIZE] = 0;
		}
		fd = ioctl(self->fd, KARENA_CREATE, &create);
		if (fd >= 0)
			close(fd);
	}
}

TEST_F(device, create_fills_in_results_and_sets_cloexec)
{
	struct karena_create create = {
		.size = sizeof(create), .window = 3 * ARENA, .name = "it's me"
	};
	int fd = ioctl(self->fd, KARENA_CREATE, &create);

	ASSERT_GE(fd, 0);
	EXPECT_EQ(FD_CLOEXEC, fcntl(fd, F_GETFD));
	EXPECT_GT(create.id, 0);
	EXPECT_EQ(3 * ARENA, create.control_offset);
	EXPECT_EQ(3 * 4096, create.control_size);
	close(fd);
}

TEST_F(device, control_region_describes_itself)
{
	struct heap heap;

	ASSERT_EQ(0, heap_make(&heap, 5 * ARENA, 0));
	EXPECT_EQ(KARENA_ABI_VERSION, heap.control->abi_version);
	EXPECT_EQ(KARENA_ARENA_SHIFT, heap.control->arena_shift);
	EXPECT_EQ(heap.id, heap.control->id);
	EXPECT_EQ(5, heap.control->nr_arenas);
	for (int i = 0; i < 5; i++)
		EXPECT_EQ(KARENA_FREE, state(&heap, i));
	heap_destroy(&heap);
}

TEST_F(device, attach_finds_the_heap_of_an_address)
{
	struct karena_attach attach = { .size = sizeof(attach) };
	struct heap heap;
	int fd;

	ASSERT_EQ(0, heap_make(&heap, 4 * ARENA, 2 * ARENA));
	attach.address = (uintptr_t)arena(&heap, 2) + 12345;
	fd = ioctl(self->fd, KARENA_ATTACH, &attach);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(FD_CLOEXEC, fcntl(fd, F_GETFD));
	EXPECT_EQ((uintptr_t)heap.window, attach.start);
	EXPECT_EQ(4 * ARENA, attach.window);
	EXPECT_EQ(2 * ARENA, attach.limit);
	EXPECT_EQ(heap.id, attach.id);
	EXPECT_EQ(4 * ARENA, attach.control_offset);
	EXPECT_EQ(heap.control_size, attach.control_size);

	/*
	 * The descriptor is that of the heap: it releases memory that madvise() committed.
	 */
	EXPECT_EQ(0, heap_commit(&heap, 0, 1));
	EXPECT_EQ(0, fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
			       ARENA));
	EXPECT_EQ(SIGBUS, touch(arena(&heap, 0)));
	close(fd);
	heap_destroy(&heap);
}

TEST_F(device, attach_rejects_addresses_outside_windows)
{
	struct karena_attach attach = {
		.size = sizeof(attach), .address = (uintptr_t)&attach
	};
	struct heap heap;

	EXPECT_CALL_FAILS(ENOENT, KARENA_ATTACH, &attach);
	attach.address = 0;
	EXPECT_CALL_FAILS(ENOENT, KARENA_ATTACH, &attach);
	attach.address = ~0UL;
	EXPECT_CALL_FAILS(ENOENT, KARENA_ATTACH, &attach);

	ASSERT_EQ(0, heap_make(&heap, 4 * ARENA, 0));
	attach.address = (uintptr_t)heap.control;
	EXPECT_CALL_FAILS(ENOENT, KARENA_ATTACH, &attach);
	attach.address = (uintptr_t)heap.window;
	attach.flags = 1;
	EXPECT_CALL_FAILS(EINVAL, KARENA_ATTACH, &attach);
	heap_destroy(&heap);
}

static int open_as(uid_t uid, gid_t gid)
{
	pid_t child = fork();

	if (!child) {
		int fd;

		if (setgroups(0, NULL) || setgid(gid) || setuid(uid))
			_exit(255);
		fd = device_open();
		_exit(fd < 0 ? errno : 0);
	}
	return child_status(child);
}

TEST_F(device, only_root_and_the_group_may_open_the_device)
{
	struct stat stat;

	ASSERT_EQ(0, fstat(self->fd, &stat));
	EXPECT_EQ(0660, stat.st_mode & 07777);
	EXPECT_EQ(EACCES, open_as(65534, 65534));
	ASSERT_EQ(0, chown(KARENA_DEVICE, 0, 4242));
	EXPECT_EQ(EACCES, open_as(65534, 65534));
	EXPECT_EQ(0, open_as(65534, 4242));
	ASSERT_EQ(0, chown(KARENA_DEVICE, 0, stat.st_gid));
}

TEST_HARNESS_MAIN
