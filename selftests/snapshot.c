// SPDX-License-Identifier: GPL-2.0
/*
 * Snapshots: an image shows a heap at one moment, even if the heap and its process change
 * or end later. No process can write to an image, and its memory is accounted.
 */
#include <pthread.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "pages.h"
#include "pass.h"

FIXTURE(snapshot) {
	struct heap heap;
	long nr_heaps;
	gid_t group;
	int next_fd;
};

FIXTURE_SETUP(snapshot)
{
	struct karena_info info = { .size = sizeof(info) };
	struct stat stat_buf;

	REQUIRE_MODULE();
	ASSERT_EQ(0, device_call(KARENA_INFO, &info));
	ASSERT_TRUE(info.features & KARENA_FEATURE_SNAPSHOT);
	/* So that unprivileged processes may open the device. */
	ASSERT_EQ(0, stat(KARENA_DEVICE, &stat_buf));
	self->group = stat_buf.st_gid;
	ASSERT_EQ(0, chown(KARENA_DEVICE, 0, NOBODY));
	self->next_fd = lowest_free_fd();
	self->nr_heaps = module_stat("nr_heaps");
	ASSERT_EQ(0, heap_open(&self->heap, 32 * ARENA, 0));
}

FIXTURE_TEARDOWN(snapshot)
{
	heap_destroy(&self->heap);
	EXPECT_EQ(self->next_fd, lowest_free_fd());
	EXPECT_TRUE(module_stat_becomes("nr_heaps", self->nr_heaps));
	EXPECT_NOTHING_LEFT();
	EXPECT_EQ(0, chown(KARENA_DEVICE, 0, self->group));
}

#define NR_HUGE		3
#define SPARSE		5	/* index of the sparse arena */
#define FIRST		8	/* first committed page of it */
#define COUNT		40

/* Commit and fill arenas of each kind. */
static int populate(const struct heap *heap)
{
	int err = heap_commit(heap, 0, NR_HUGE) ?:
		  commit_pages(heap, SPARSE, FIRST, COUNT);

	if (err)
		return err;
	for (int i = 0; i < NR_HUGE; i++)
		fill(heap, i, 0, 512);
	fill(heap, SPARSE, FIRST, COUNT);
	return 0;
}

/* Count the pages of an image that differ from those that populate() filled. */
static size_t image_spoilt(const struct image *image)
{
	const struct heap heap = { .window = image->window };
	size_t pages = spoilt(&heap, SPARSE, FIRST, COUNT);

	for (int i = 0; i < NR_HUGE; i++)
		pages += spoilt(&heap, i, 0, 512);
	/* Pages that were not committed are not in the image. */
	pages += FIRST - unreadable(image->window + SPARSE * ARENA, FIRST);
	pages += !look(image->window + SPARSE * ARENA + (FIRST + COUNT) * PAGE);
	pages += !look(image->window + NR_HUGE * ARENA);
	return pages;
}

TEST_F(snapshot, call_fills_in_the_description_of_the_image)
{
	struct karena_snapshot args = { .size = sizeof(args) };
	struct heap *heap = &self->heap;
	int fd = heap_call(heap, KARENA_SNAPSHOT, &args);

	ASSERT_GE(fd, 0);
	EXPECT_EQ(sizeof(args), args.size);
	EXPECT_EQ(0, args.flags);
	EXPECT_EQ(heap->id, args.id);
	EXPECT_EQ((uintptr_t)heap->window, args.start);
	EXPECT_EQ(heap->size, args.window);
	EXPECT_EQ(heap->control_size, args.control_size);
	EXPECT_EQ(FD_CLOEXEC, fcntl(fd, F_GETFD));
	EXPECT_EQ(O_RDONLY, fcntl(fd, F_GETFL) & O_ACCMODE);
	close(fd);
}

TEST_F(snapshot, image_survives_all_changes_of_the_heap)
{
	struct heap *heap = &self->heap;
	struct image image;

	ASSERT_EQ(0, populate(heap));
	ASSERT_EQ(0, heap_snapshot(heap, &image));
	EXPECT_EQ(0, image_spoilt(&image));
	/* Written, */
	memset(page(heap, 0, 17), 'w', PAGE);
	memset(page(heap, 1, 0), 'w', ARENA);
	memset(page(heap, SPARSE, FIRST + 1), 'w', 3 * PAGE);
	EXPECT_EQ(0, image_spoilt(&image));
	EXPECT_EQ(0, count_other(page(heap, 0, 17), PAGE, 'w'));
	EXPECT_EQ(0, spoilt(heap, 0, 0, 17));
	EXPECT_EQ(0, spoilt(heap, 0, 18, 494));
	EXPECT_EQ(0, count_other(page(heap, 1, 0), ARENA, 'w'));
	EXPECT_EQ(0, count_other(page(heap, SPARSE, FIRST + 1), 3 * PAGE, 'w'));
	EXPECT_EQ(0, spoilt(heap, SPARSE, FIRST + 4, COUNT - 4));
	/* released in part and as a whole, */
	ASSERT_EQ(0, release_pages(heap, 0, 0, 300));
	ASSERT_EQ(0, release_pages(heap, 1, 100, 10));
	ASSERT_EQ(0, release_pages(heap, SPARSE, FIRST + 2, 10));
	ASSERT_EQ(0, heap_release(heap, 2, 1));
	EXPECT_EQ(0, image_spoilt(&image));
	EXPECT_EQ(SIGBUS, touch(arena(heap, 2)));
	/* and committed again, which makes them zero in the heap. */
	ASSERT_EQ(0, heap_commit(heap, 2, 1));
	EXPECT_EQ(0, count_other(arena(heap, 2), ARENA, 0));
	memset(arena(heap, 2), 'n', ARENA);
	EXPECT_EQ(0, image_spoilt(&image));
	/* Everything released. */
	ASSERT_EQ(0, heap_release(heap, 0, 32));
	EXPECT_EQ(0, image_spoilt(&image));
	image_destroy(&image);
}

/* No page of the image is touched before the heap changes. */
TEST_F(snapshot, image_can_be_mapped_late)
{
	struct karena_snapshot args = { .size = sizeof(args) };
	struct heap *heap = &self->heap;
	struct image image;
	int fd;

	ASSERT_EQ(0, populate(heap));
	fd = heap_call(heap, KARENA_SNAPSHOT, &args);
	ASSERT_GE(fd, 0);
	memset(arena(heap, 0), 'w', ARENA);
	memset(page(heap, SPARSE, FIRST), 'w', COUNT * PAGE);
	ASSERT_EQ(0, heap_release(heap, 1, 1));
	heap_destroy(heap);
	ASSERT_EQ(0, image_map(&image, fd, NULL, &args));
	EXPECT_EQ(0, image_spoilt(&image));
	image_destroy(&image);
	ASSERT_EQ(0, heap_open(heap, 32 * ARENA, 0));
}

/*
 * A fault in a mapping without page tables maps a huge frame by one PMD, which must not
 * hide copied pages.
 */
TEST_F(snapshot, new_mapping_shows_copied_pages)
{
	struct heap *heap = &self->heap;
	struct image first, second;

	ASSERT_EQ(0, populate(heap));
	ASSERT_EQ(0, heap_snapshot(heap, &first));
	memset(page(heap, 0, 17), 'w', PAGE);
	ASSERT_EQ(0, heap_snapshot(heap, &second));
	/* First touch another page of the arena. */
	EXPECT_EQ(0, look(second.window + 30 * PAGE));
	EXPECT_EQ(0, count_other(second.window + 17 * PAGE, PAGE, 'w'));
	EXPECT_EQ(0, image_spoilt(&first));
	memset(page(heap, 0, 17), 'v', PAGE);
	memset(page(heap, 0, 18), 'v', PAGE);
	ASSERT_EQ(0, madvise(heap->window, ARENA, MADV_DONTNEED));
	EXPECT_EQ(0, look(page(heap, 0, 30)));
	EXPECT_EQ(0, count_other(page(heap, 0, 17), 2 * PAGE, 'v'));
	EXPECT_EQ(0, count_other(second.window + 17 * PAGE, PAGE, 'w'));
	EXPECT_EQ(0, image_spoilt(&first));
	/* The same after mapping the arena again. */
	ASSERT_EQ(heap->window, mmap(heap->window, ARENA, PROT_READ | PROT_WRITE,
				     MAP_SHARED | MAP_FIXED, heap->fd, 0));
	EXPECT_EQ(0, look(page(heap, 0, 30)));
	EXPECT_EQ(0, count_other(page(heap, 0, 17), 2 * PAGE, 'v'));
	EXPECT_EQ(0, spoilt(heap, 0, 19, 493));
	image_destroy(&first);
	EXPECT_EQ(0, count_other(second.window + 17 * PAGE, PAGE, 'w'));
	image_destroy(&second);
	EXPECT_EQ(0, count_other(page(heap, 0, 17), 2 * PAGE, 'v'));
}

static void look_at_it(struct child *child)
{
	struct karena_snapshot args;
	struct image image;
	int fd = receive_image(child->parent, &args);

	CHECK(fd >= 0);
	/* The heap did not exist when this process was forked. */
	CHECK(!image_map(&image, fd, (void *)args.start, &args));
	CHECK((uintptr_t)image.window == args.start);
	close(fd);
	image.fd = -1;
	CHECK(!image_spoilt(&image));
	CHECK(tell(child->parent, 1));
	CHECK(hear(child->parent));
	CHECK(!image_spoilt(&image));
	CHECK(image.control->nr_arenas == 16);
	image_destroy(&image);
}

TEST_F(snapshot, image_can_be_mapped_at_the_original_address_elsewhere)
{
	struct karena_snapshot args = { .size = sizeof(args) };
	struct child child;
	struct heap heap;
	int fd;

	/* Before the heap exists, so that the child inherits nothing. */
	ASSERT_EQ(0, child_start(&child, look_at_it));
	ASSERT_EQ(0, heap_open(&heap, 16 * ARENA, 0));
	ASSERT_EQ(0, populate(&heap));
	fd = heap_call(&heap, KARENA_SNAPSHOT, &args);
	ASSERT_GE(fd, 0);
	ASSERT_TRUE(send_image(child.line, fd, &args));
	close(fd);
	EXPECT_TRUE(hear(child.line));
	memset(heap.window, 'w', NR_HUGE * ARENA);
	ASSERT_EQ(0, heap_release(&heap, SPARSE, 1));
	heap_destroy(&heap);
	EXPECT_TRUE(tell(child.line, 1));
	EXPECT_EQ(0, child_end(&child));
}

#define EXPECT_FAILS(_errno, _call)					\
	do {								\
		errno = 0;						\
		EXPECT_EQ(-1, (long)(_call));				\
		EXPECT_EQ(_errno, errno);				\
	} while (0)

TEST_F(snapshot, image_cannot_be_written)
{
	struct heap *heap = &self->heap;
	int protection = PROT_READ | PROT_WRITE;
	struct iovec local, remote;
	struct image image;
	char path[64];
	int mem;

	ASSERT_EQ(0, populate(heap));
	ASSERT_EQ(0, heap_snapshot(heap, &image));
	EXPECT_FAILS(EACCES, mmap(NULL, image.size, protection, MAP_SHARED,
				  image.fd, 0));
	EXPECT_FAILS(EACCES, mmap(NULL, image.size, PROT_WRITE, MAP_SHARED,
				  image.fd, 0));
	EXPECT_FAILS(EACCES, mmap(NULL, image.control_size, protection, MAP_SHARED,
				  image.fd, image.size));
	EXPECT_FAILS(EACCES, mprotect(image.window, ARENA, protection));
	EXPECT_FAILS(EACCES, mprotect(image.control, PAGE, protection));
	/* A private mapping would copy whole huge pages. */
	EXPECT_FAILS(EINVAL, mmap(NULL, image.size, PROT_READ, MAP_PRIVATE,
				  image.fd, 0));
	EXPECT_FAILS(EINVAL, mmap(NULL, image.size, protection, MAP_PRIVATE,
				  image.fd, 0));
	EXPECT_EQ(-1, (long)mmap(NULL, image.size, PROT_READ | PROT_EXEC, MAP_SHARED,
				 image.fd, 0));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", image.fd);
	EXPECT_FAILS(ENXIO, open(path, O_RDWR));
	EXPECT_FAILS(ENXIO, open(path, O_RDONLY));
	EXPECT_EQ(-1, pwrite(image.fd, "x", 1, 0));
	EXPECT_EQ(-1, ftruncate(image.fd, 0));
	EXPECT_EQ(-1, fallocate(image.fd, FALLOC_FL_PUNCH_HOLE |
				FALLOC_FL_KEEP_SIZE, 0, ARENA));
	EXPECT_EQ(-1, fchmod(image.fd, 0777));
	EXPECT_EQ(SIGSEGV, touch(image.window));
	EXPECT_EQ(-1, madvise(image.window, ARENA, MADV_REMOVE));
	EXPECT_EQ(-1, madvise(image.window, ARENA, MADV_POPULATE_WRITE));
	local = (struct iovec){ path, sizeof(path) };
	remote = (struct iovec){ image.window, sizeof(path) };
	EXPECT_EQ(-1, process_vm_writev(getpid(), &local, 1, &remote, 1, 0));
	/* A debugger may write to read-only mappings, but not to this one. */
	mem = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	ASSERT_GE(mem, 0);
	EXPECT_EQ(-1, pwrite(mem, path, sizeof(path), (uintptr_t)image.window));
	EXPECT_EQ(-1, pwrite(mem, path, sizeof(path), (uintptr_t)image.control));
	close(mem);
	EXPECT_EQ(0, image_spoilt(&image));
	for (int i = 0; i < NR_HUGE; i++)
		EXPECT_EQ(0, spoilt(heap, i, 0, 512));
	image_destroy(&image);
}

/* Nor do the calls of a heap work. */
TEST_F(snapshot, image_is_not_a_heap)
{
	struct karena_range range = { .length = ARENA };
	struct karena_attach attach = { .size = sizeof(attach) };
	struct heap *heap = &self->heap;
	struct image image;
	struct heap as_heap;

	ASSERT_EQ(0, populate(heap));
	ASSERT_EQ(0, heap_snapshot(heap, &image));
	as_heap = (struct heap){ .fd = image.fd };
	EXPECT_EQ(-ENOTTY, heap_ranges(&as_heap, KARENA_RELEASE, &range, 1));
	EXPECT_EQ(-ENOTTY, heap_ranges(&as_heap, KARENA_COMMIT, &range, 1));
	EXPECT_EQ(-ENOTTY, heap_limit(&as_heap, 0, 0, 0));
	EXPECT_EQ(-ENOTTY, heap_ready(&as_heap, KARENA_NODE_ANY, 1));
	EXPECT_EQ(-ENOTTY, heap_share(&as_heap, 0, 0, ARENA));
	EXPECT_EQ(-ENOTTY, heap_snapshot(&as_heap, &image));
	attach.address = (uintptr_t)image.window;
	EXPECT_EQ(-ENOENT, device_call(KARENA_ATTACH, &attach));
	EXPECT_EQ(0, image_spoilt(&image));
	image_destroy(&image);
}

TEST_F(snapshot, parts_of_an_image_can_be_mapped)
{
	struct heap *heap = &self->heap;
	struct image image;
	char *part, *reserve;

	ASSERT_EQ(0, populate(heap));
	ASSERT_EQ(0, heap_snapshot(heap, &image));
	part = mmap(NULL, 2 * ARENA, PROT_READ, MAP_SHARED, image.fd, ARENA);
	ASSERT_NE(MAP_FAILED, part);
	EXPECT_EQ(0, memcmp(part, arena(heap, 1), 2 * ARENA));
	EXPECT_EQ(2 * ARENA, smaps(part, "FilePmdMapped"));
	/* A part that is not whole arenas is rejected, or correct. */
	EXPECT_FAILS(EINVAL, mmap(NULL, ARENA, PROT_READ, MAP_SHARED, image.fd, PAGE));
	EXPECT_FAILS(EINVAL, mmap(NULL, PAGE, PROT_READ, MAP_SHARED, image.fd, 0));
	EXPECT_EQ(-1, (long)mmap(NULL, 2 * image.size, PROT_READ, MAP_SHARED,
				 image.fd, 0));
	reserve = mmap(NULL, 4 * ARENA, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, reserve);
	reserve = (char *)(((uintptr_t)reserve + ARENA - 1) & ~(ARENA - 1)) + PAGE;
	EXPECT_FAILS(EINVAL, mmap(reserve, ARENA, PROT_READ, MAP_SHARED | MAP_FIXED,
				  image.fd, 0));
	image_destroy(&image);
	/* The mapping of the part alone keeps the image. */
	memset(arena(heap, 1), 'w', ARENA);
	EXPECT_EQ(0, count_other(part, PAGE, 2));
	munmap(part, 2 * ARENA);
}

TEST_F(snapshot, control_region_is_part_of_the_image)
{
	struct heap *heap = &self->heap;
	struct image image;

	ASSERT_EQ(0, populate(heap));
	ASSERT_EQ(0, heap_snapshot(heap, &image));
	EXPECT_EQ(KARENA_ABI_VERSION, image.control->abi_version);
	EXPECT_EQ(KARENA_ARENA_SHIFT, image.control->arena_shift);
	EXPECT_EQ(32, image.control->nr_arenas);
	EXPECT_EQ(heap->control->states_offset, image.control->states_offset);
	EXPECT_EQ(heap->control->stats_offset, image.control->stats_offset);
	for (int i = 0; i < 32; i++)
		EXPECT_EQ(i < NR_HUGE ? KARENA_ACTIVE :
			  i == SPARSE ? KARENA_ACTIVE | KARENA_SPARSE :
			  KARENA_FREE, image.states[i]);
	/* Later stores of the process do not change the image. */
	set_state(heap, 0, 32, KARENA_REQUESTED);
	EXPECT_EQ(KARENA_ACTIVE, image.states[0]);
	EXPECT_EQ(KARENA_FREE, image.states[31]);
	image_destroy(&image);
}

TEST_F(snapshot, image_has_the_statistics)
{
	struct heap *heap = &self->heap;
	struct karena_stats *stats, *shown;
	struct image image;

	stats = (void *)((char *)heap->control + heap->control->stats_offset);
	stats->version = KARENA_STATS_VERSION;
	stats->arenas = 7;
	ASSERT_EQ(0, heap_snapshot(heap, &image));
	stats->arenas = 8;
	shown = (void *)((char *)image.control + image.control->stats_offset);
	EXPECT_EQ(KARENA_STATS_VERSION, shown->version);
	EXPECT_EQ(7, shown->arenas);
	image_destroy(&image);
}

TEST_F(snapshot, volatile_arenas_are_free_in_the_image)
{
	struct heap *heap = &self->heap;
	uint32_t words[2];
	struct image image;

	ASSERT_EQ(0, populate(heap));
	words[0] = make_volatile(heap, 1);
	words[1] = make_volatile(heap, SPARSE);
	ASSERT_EQ(0, heap_snapshot(heap, &image));
	EXPECT_EQ(KARENA_FREE, image.states[1]);
	EXPECT_EQ(KARENA_FREE, image.states[SPARSE]);
	EXPECT_EQ(KARENA_ACTIVE, image.states[0]);
	EXPECT_EQ(512, unreadable(image.window + ARENA, 512));
	EXPECT_EQ(512, unreadable(image.window + SPARSE * ARENA, 512));
	EXPECT_EQ(0, memcmp(image.window, heap->window, ARENA));
	/* In the heap they are unchanged. */
	ASSERT_TRUE(reuse(heap, 1, words[0]));
	EXPECT_EQ(0, spoilt(heap, 1, 0, 512));
	ASSERT_TRUE(reuse_sparse(heap, SPARSE, words[1]));
	EXPECT_EQ(0, spoilt(heap, SPARSE, FIRST, COUNT));
	/* The image does not prevent reclaim. */
	make_volatile(heap, 1);
	make_volatile(heap, SPARSE);
	shrink_everything();
	EXPECT_EQ(KARENA_FREE, state(heap, 1));
	EXPECT_EQ(KARENA_FREE, state(heap, SPARSE));
	EXPECT_EQ(2 * ARENA, module_stat("committed"));
	image_destroy(&image);
}

/*
 * Arenas that became volatile after the snapshot are reclaimed from the heap and stay in
 * the image.
 */
TEST_F(snapshot, reclaim_from_the_heap_leaves_the_image_intact)
{
	struct heap *heap = &self->heap;
	struct image image;
	uint32_t word = 0;

	ASSERT_EQ(0, populate(heap));
	ASSERT_EQ(0, heap_snapshot(heap, &image));
	memset(page(heap, 0, 3), 'w', 2 * PAGE);
	for (int i = 0; i < NR_HUGE; i++)
		word = make_volatile(heap, i);
	make_volatile(heap, SPARSE);
	shrink_everything();
	EXPECT_EQ(0, image_spoilt(&image));
	/* The kernel decides whether to reclaim the arena, but reclaims all or nothing of it. */
	EXPECT_TRUE(reuse(heap, NR_HUGE - 1, word) ?
		    !spoilt(heap, NR_HUGE - 1, 0, 512) :
		    touch(arena(heap, NR_HUGE - 1)) == SIGBUS);
	ASSERT_EQ(0, heap_release(heap, 0, 32));
	EXPECT_EQ(0, heap_stat(heap, "committed"));
	EXPECT_EQ(0, image_spoilt(&image));
	image_destroy(&image);
}

TEST_F(snapshot, pages_without_writes_stay_huge_on_both_sides)
{
	struct heap *heap = &self->heap;
	struct image image;

	ASSERT_EQ(0, heap_commit(heap, 0, 4));
	for (int i = 0; i < 4; i++)
		fill(heap, i, 0, 512);
	ASSERT_EQ(0, heap_snapshot(heap, &image));
	for (int i = 0; i < 4; i++) {
		EXPECT_EQ(0, look(arena(heap, i)));
		EXPECT_EQ(0, look(image.window + i * ARENA));
	}
	EXPECT_EQ(4 * ARENA, smaps(heap->window, "FilePmdMapped"));
	EXPECT_EQ(4 * ARENA, smaps(image.window, "FilePmdMapped"));
	memset(page(heap, 2, 100), 'w', PAGE);
	EXPECT_EQ(3 * ARENA, smaps(heap->window, "FilePmdMapped"));
	EXPECT_EQ(0, look(image.window + 2 * ARENA + 100 * PAGE));
	EXPECT_EQ(4 * ARENA, smaps(image.window, "FilePmdMapped"));
	EXPECT_EQ(0, count_other(image.window + 2 * ARENA + 100 * PAGE, PAGE,
				 (char)(100 * 7 + 3)));
	image_destroy(&image);
}

static void own_and_end(struct child *child)
{
	struct karena_snapshot args = { .size = sizeof(args) };
	struct heap heap;
	int fd;

	CHECK(!heap_open(&heap, 16 * ARENA, 0));
	CHECK(!populate(&heap));
	fd = heap_call(&heap, KARENA_SNAPSHOT, &args);
	CHECK(fd >= 0);
	CHECK(send_image(child->parent, fd, &args));
	memset(page(&heap, 0, 40), 'w', 4 * PAGE);
	if (hear(child->parent) == 1)
		_exit(0);
	for (;;)
		memset(heap.window, 'w', NR_HUGE * ARENA);
}

TEST_F(snapshot, image_survives_its_owner)
{
	struct karena_snapshot args;
	struct image image;
	struct child child;

	for (int by_kill = 0; by_kill < 2; by_kill++) {
		int fd;

		ASSERT_EQ(0, child_start(&child, own_and_end));
		fd = receive_image(child.line, &args);
		ASSERT_GE(fd, 0);
		ASSERT_EQ(0, image_map(&image, fd, NULL, &args));
		EXPECT_EQ(0, image_spoilt(&image));
		ASSERT_TRUE(tell(child.line, 1 + by_kill));
		if (by_kill) {
			usleep(50000);
			kill(child.pid, SIGKILL);
		}
		EXPECT_EQ(by_kill ? 128 + SIGKILL : 0, child_end(&child));
		/* Memory that was only the heap's is freed. */
		EXPECT_TRUE(module_stat_becomes("committed",
						NR_HUGE * ARENA + COUNT * PAGE));
		EXPECT_EQ(0, image_spoilt(&image));
		EXPECT_EQ(16, image.control->nr_arenas);
		image_destroy(&image);
		EXPECT_TRUE(module_stat_becomes("committed", 0));
	}
}

TEST_F(snapshot, shared_memory_counts_once_and_copies_are_added)
{
	long bytes = NR_HUGE * ARENA + COUNT * PAGE;
	struct heap *heap = &self->heap;
	struct image first, second;
	long copies = module_stat("copies");

	ASSERT_EQ(0, populate(heap));
	EXPECT_EQ(0, heap_stat(heap, "shared"));
	EXPECT_EQ(bytes, module_stat("committed"));
	ASSERT_EQ(0, heap_snapshot(heap, &first));
	EXPECT_EQ(bytes, module_stat("committed"));
	EXPECT_EQ(bytes, heap_stat(heap, "committed"));
	EXPECT_EQ(bytes, heap_stat(heap, "shared"));
	/* The writes copy these pages. */
	memset(page(heap, 0, 3), 'w', 5 * PAGE);
	memset(page(heap, SPARSE, FIRST), 'w', 2 * PAGE);
	EXPECT_EQ(bytes + 7 * PAGE, module_stat("committed"));
	EXPECT_EQ(bytes, heap_stat(heap, "committed"));
	EXPECT_EQ(bytes - 7 * PAGE, heap_stat(heap, "shared"));
	EXPECT_EQ(7, heap_stat(heap, "copies"));
	EXPECT_EQ(copies + 7, module_stat("copies"));
	/* A second write copies nothing, unless there is another snapshot. */
	memset(page(heap, 0, 3), 'v', 5 * PAGE);
	EXPECT_EQ(7, heap_stat(heap, "copies"));
	ASSERT_EQ(0, heap_snapshot(heap, &second));
	EXPECT_EQ(bytes + 7 * PAGE, module_stat("committed"));
	EXPECT_EQ(bytes, heap_stat(heap, "shared"));
	memset(page(heap, 0, 3), 'u', PAGE);
	EXPECT_EQ(8, heap_stat(heap, "copies"));
	EXPECT_EQ(bytes + 8 * PAGE, module_stat("committed"));
	/* The heap is the only owner again; five pages of the huge frame exist twice. */
	image_destroy(&first);
	image_destroy(&second);
	EXPECT_TRUE(heap_stat_becomes(heap, "shared", 0));
	EXPECT_TRUE(module_stat_becomes("committed", bytes + 5 * PAGE));
	memset(page(heap, 1, 3), 'w', 5 * PAGE);
	EXPECT_EQ(8, heap_stat(heap, "copies"));
	EXPECT_EQ(bytes + 5 * PAGE, module_stat("committed"));
	/* Until the arena is mapped again. */
	ASSERT_EQ(heap->window, mmap(heap->window, ARENA, PROT_READ | PROT_WRITE,
				     MAP_SHARED | MAP_FIXED, heap->fd, 0));
	EXPECT_EQ(0, count_other(page(heap, 0, 3), PAGE, 'u'));
	EXPECT_EQ(0, count_other(page(heap, 0, 4), 4 * PAGE, 'v'));
	EXPECT_EQ(0, spoilt(heap, 0, 8, 504));
	EXPECT_EQ(bytes, module_stat("committed"));
	EXPECT_EQ(1, heap_stat(heap, "promoted"));
}

/*
 * The heap releases a huge frame that the image shares. Now the frame belongs to the image.
 */
TEST_F(snapshot, frame_released_by_the_heap_belongs_to_the_image)
{
	struct heap *heap = &self->heap;
	struct image image;

	ASSERT_EQ(0, heap_commit(heap, 0, 2));
	fill(heap, 0, 0, 512);
	ASSERT_EQ(0, heap_snapshot(heap, &image));
	ASSERT_EQ(0, heap_release(heap, 0, 1));
	EXPECT_EQ(ARENA, heap_stat(heap, "committed"));
	EXPECT_EQ(2 * ARENA, module_stat("committed"));
	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	EXPECT_EQ(3 * ARENA, module_stat("committed"));
	EXPECT_EQ(ARENA, heap_stat(heap, "shared"));
	EXPECT_EQ(0, count_other(arena(heap, 0), ARENA, 0));
	EXPECT_EQ(0, count_other(image.window + 7 * PAGE, PAGE, 7 * 7 + 1));
	image_destroy(&image);
	EXPECT_TRUE(module_stat_becomes("committed", 2 * ARENA));
}

/* Limits on commits do not limit writes. */
static void write_at_the_limits(struct child *child)
{
	struct image image;
	struct heap heap;

	(void)child;
	CHECK(limit_locked_memory(16 * MIB));
	CHECK(become_nobody());
	CHECK(!heap_open(&heap, 8 * ARENA, 4 * ARENA));
	CHECK(!heap_commit(&heap, 0, 4));
	CHECK(!heap_snapshot(&heap, &image));
	CHECK(status_member("VmPin") == 8 * ARENA);
	memset(heap.window, 'w', 4 * ARENA);
	CHECK(!count_other(heap.window, 4 * ARENA, 'w'));
	CHECK(!count_other(image.window, 4 * ARENA, 0));
	CHECK(heap_stat(&heap, "committed") == 4 * ARENA);
	image_destroy(&image);
	heap_destroy(&heap);
}

TEST_F(snapshot, no_limit_prevents_copies)
{
	EXPECT_EQ(0, in_child(write_at_the_limits));
}

static void snapshot_within_a_limit(struct child *child)
{
	struct karena_snapshot args;
	struct image images[2];
	struct heap heap;
	int next_fd;

	(void)child;
	CHECK(limit_locked_memory(20 * MIB));
	CHECK(become_nobody());
	CHECK(!heap_open(&heap, 16 * ARENA, 0));
	CHECK(!heap_commit(&heap, 0, 6));
	CHECK(pinned_becomes(6 * ARENA));
	next_fd = lowest_free_fd();
	/* 12 MiB twice exceeds 20. */
	CHECK(heap_snapshot(&heap, &images[0]) == -ENOMEM);
	CHECK(device_snapshot(heap.id, &args) == -ENOMEM);
	CHECK(lowest_free_fd() == next_fd);
	CHECK(pinned_becomes(6 * ARENA));
	memset(heap.window, 'w', 6 * ARENA);
	CHECK(!heap_stat(&heap, "copies"));
	CHECK(!heap_release(&heap, 2, 4));
	CHECK(!commit_pages(&heap, 2, 0, 512));
	CHECK(!release_pages(&heap, 2, 0, 412));
	/* 4 MiB and 100 pages, three times. */
	CHECK(!heap_snapshot(&heap, &images[0]));
	CHECK(pinned_becomes(2 * (2 * ARENA + 100 * PAGE)));
	CHECK(!heap_snapshot(&heap, &images[1]));
	CHECK(pinned_becomes(3 * (2 * ARENA + 100 * PAGE)));
	/* The heap itself has no more room either. */
	CHECK(!heap_commit(&heap, 3, 3));
	CHECK(heap_commit(&heap, 6, 1) == -ENOMEM);
	set_state(&heap, 6, 1, KARENA_FREE);
	/* Memory that the heap releases counts once less. */
	CHECK(!heap_release(&heap, 0, 1));
	CHECK(pinned_becomes(3 * (2 * ARENA + 100 * PAGE) + 2 * ARENA));
	image_destroy(&images[0]);
	image_destroy(&images[1]);
	CHECK(pinned_becomes(4 * ARENA + 100 * PAGE));
	heap_destroy(&heap);
	CHECK(status_member("VmPin") == 0);
}

TEST_F_TIMEOUT(snapshot, image_counts_against_memlock_a_second_time, SLOW)
{
	EXPECT_EQ(0, in_child(snapshot_within_a_limit));
}

/* A process with a heap for others to inspect. It continues when the test tells it to. */
static void have_a_heap(struct child *child)
{
	struct heap heap;

	CHECK(!heap_open(&heap, 16 * ARENA, 0));
	CHECK(!populate(&heap));
	CHECK(tell(child->parent, heap.id));
	for (int i = 0; hear(child->parent); i++) {
		memset(heap.window, 'a' + i, NR_HUGE * ARENA);
		CHECK(tell(child->parent, 1));
	}
	CHECK(!count_other(arena(&heap, 1), ARENA, 'a'));
}

static void look_without_rights(struct child *child)
{
	struct karena_snapshot args;
	struct heap heap;
	uint64_t other = hear(child->parent);

	CHECK(limit_locked_memory(64 * MIB));
	CHECK(become_nobody());
	CHECK(device_snapshot(other, &args) == -EPERM);
	CHECK(device_snapshot(other + 1000, &args) == -ENOENT);
	CHECK(device_snapshot(0, &args) == -ENOENT);
	CHECK(!heap_open(&heap, 16 * ARENA, 0));
	CHECK(!populate(&heap));
	for (int i = 0; i < 2; i++) {
		int fd = device_snapshot(heap.id, &args);
		struct image image;

		CHECK(fd >= 0);
		CHECK(args.start == (uintptr_t)heap.window);
		CHECK(args.id == heap.id);
		CHECK(!image_map(&image, fd, NULL, &args));
		CHECK(!image_spoilt(&image));
		image_destroy(&image);
	}
}

/*
 * Wait up to five seconds, because the file of a heap is released after the exit of its
 * process.
 */
static bool number_disappears(uint64_t id)
{
	struct karena_snapshot args;

	for (int i = 0; i < 500; i++) {
		if (device_snapshot(id, &args) == -ENOENT)
			return true;
		usleep(10000);
	}
	return false;
}

TEST_F(snapshot, snapshot_by_number_needs_ptrace_access)
{
	struct karena_snapshot args;
	struct child owner, other;
	struct image image;
	uint64_t id;
	int fd;

	ASSERT_EQ(0, child_start(&owner, have_a_heap));
	id = hear(owner.line);
	ASSERT_TRUE(id);
	ASSERT_EQ(0, child_start(&other, look_without_rights));
	ASSERT_TRUE(tell(other.line, id));
	EXPECT_EQ(0, child_end(&other));
	/*
	 * This process has the right, but must prove it by a file of the process.
	 * CAP_SYS_PTRACE alone is not enough.
	 */
	EXPECT_EQ(-EPERM, device_snapshot(id, &args));
	EXPECT_EQ(-EPERM, traced_snapshot(getpid(), "mem", id, &args));
	EXPECT_EQ(-EPERM, traced_snapshot(owner.pid, "environ", id, &args));
	EXPECT_EQ(-EPERM, traced_snapshot(owner.pid, "status", id, &args));
	args = (struct karena_snapshot){
		.size = sizeof(args), .id = id, .flags = KARENA_SNAPSHOT_MEMORY,
		.memory = 1000,
	};
	EXPECT_EQ(-EBADF, device_call(KARENA_SNAPSHOT, &args));
	fd = traced_snapshot(owner.pid, "mem", id, &args);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(id, args.id);
	EXPECT_EQ(16 * ARENA, args.window);
	EXPECT_EQ(FD_CLOEXEC, fcntl(fd, F_GETFD));
	ASSERT_EQ(0, image_map(&image, fd, NULL, &args));
	EXPECT_EQ(0, image_spoilt(&image));
	ASSERT_TRUE(tell(owner.line, 1));
	ASSERT_TRUE(hear(owner.line));
	EXPECT_EQ(0, image_spoilt(&image));
	EXPECT_EQ(0, child_end(&owner));
	EXPECT_EQ(0, image_spoilt(&image));
	image_destroy(&image);
	EXPECT_TRUE(number_disappears(id));
	EXPECT_EQ(-ENOENT, device_snapshot(~0ULL, &args));
}

/* Two unprivileged processes of the same user: ptrace access permits a snapshot. */
static void look_at_the_same_user(struct child *child)
{
	struct karena_snapshot args;
	uint64_t id = hear(child->parent);
	pid_t pid = hear(child->parent);
	int fd;

	CHECK(become_nobody());
	fd = traced_snapshot(pid, "mem", id, &args);
	CHECK(tell(child->parent, fd >= 0 ? 1 : -fd + 1));
}

static void have_a_heap_as_nobody(struct child *child)
{
	CHECK(limit_locked_memory(64 * MIB));
	CHECK(become_nobody());
	/* Otherwise a process that has changed its user cannot be traced. */
	CHECK(!prctl(PR_SET_DUMPABLE, 1));
	have_a_heap(child);
}

#define YAMA	"/proc/sys/kernel/yama/ptrace_scope"

static uint64_t answer_with(struct child *owner, uint64_t id, const char *scope)
{
	struct child other;
	uint64_t answer;

	if (scope && write_text(YAMA, scope))
		return 0;
	if (child_start(&other, look_at_the_same_user) || !tell(other.line, id) ||
	    !tell(other.line, owner->pid))
		return 0;
	answer = hear(other.line);
	child_end(&other);
	return answer;
}

TEST_F(snapshot, snapshot_by_number_obeys_security_modules)
{
	char before[16] = "";
	struct child owner;
	uint64_t id;

	ASSERT_EQ(0, child_start(&owner, have_a_heap_as_nobody));
	id = hear(owner.line);
	ASSERT_TRUE(id);
	if (read_text(YAMA, before, sizeof(before))) {
		EXPECT_EQ(1, answer_with(&owner, id, NULL));
	} else {
		EXPECT_EQ(1, answer_with(&owner, id, "0"));
		EXPECT_EQ(EACCES + 1, answer_with(&owner, id, "1"));
		EXPECT_EQ(0, write_text(YAMA, before));
	}
	ASSERT_TRUE(tell(owner.line, 1));
	ASSERT_TRUE(hear(owner.line));
	EXPECT_EQ(0, child_end(&owner));
}

TEST_F(snapshot, stopped_process_can_be_snapshotted)
{
	struct karena_snapshot args;
	struct child owner;
	struct image image;
	uint64_t id;
	int status;

	ASSERT_EQ(0, child_start(&owner, have_a_heap));
	id = hear(owner.line);
	ASSERT_TRUE(id);
	kill(owner.pid, SIGSTOP);
	ASSERT_EQ(owner.pid, waitpid(owner.pid, &status, WUNTRACED));
	ASSERT_TRUE(WIFSTOPPED(status));
	for (int i = 0; i < 3; i++) {
		int fd = traced_snapshot(owner.pid, "mem", id, &args);

		ASSERT_GE(fd, 0);
		ASSERT_EQ(0, image_map(&image, fd, NULL, &args));
		EXPECT_EQ(0, image_spoilt(&image));
		if (i < 2)
			image_destroy(&image);
	}
	kill(owner.pid, SIGCONT);
	ASSERT_TRUE(tell(owner.line, 1));
	ASSERT_TRUE(hear(owner.line));
	EXPECT_EQ(0, image_spoilt(&image));
	EXPECT_EQ(0, child_end(&owner));
	EXPECT_EQ(0, image_spoilt(&image));
	image_destroy(&image);
}

TEST_F(snapshot, io_heap_cannot_be_snapshotted)
{
	struct karena_create create = {
		.flags = KARENA_CREATE_IO, .window = 4 * ARENA,
		.fork = KARENA_FORK_NONE
	};
	struct karena_snapshot args;
	struct image image;
	struct heap heap;

	ASSERT_EQ(0, heap_create(&heap, &create));
	ASSERT_EQ(0, heap_commit(&heap, 0, 1));
	EXPECT_EQ(-EOPNOTSUPP, heap_snapshot(&heap, &image));
	EXPECT_EQ(-EOPNOTSUPP, device_snapshot(heap.id, &args));
	heap_destroy(&heap);
}

TEST_F(snapshot, image_of_an_empty_heap_is_empty)
{
	struct karena_create create = {
		.size = sizeof(create), .window = 4 * ARENA,
	};
	struct karena_snapshot args = { .size = sizeof(args) };
	struct image image;
	struct heap heap;

	ASSERT_EQ(0, heap_snapshot(&self->heap, &image));
	EXPECT_EQ(512, unreadable(image.window, 512));
	EXPECT_EQ(512, unreadable(image.window + 31 * ARENA, 512));
	for (int i = 0; i < 32; i++)
		EXPECT_EQ(KARENA_FREE, image.states[i]);
	/* Later commits of the heap do not change the image. */
	ASSERT_EQ(0, heap_commit(&self->heap, 0, 1));
	EXPECT_EQ(SIGBUS, look(image.window));
	image_destroy(&image);
	/* A heap that was never mapped. */
	heap.fd = device_call(KARENA_CREATE, &create);
	ASSERT_GE(heap.fd, 0);
	image.fd = heap_call(&heap, KARENA_SNAPSHOT, &args);
	ASSERT_GE(image.fd, 0);
	EXPECT_EQ(0, args.start);
	EXPECT_EQ(4 * ARENA, args.window);
	close(image.fd);
	close(heap.fd);
}

TEST_F(snapshot, invalid_values_are_rejected)
{
	const struct karena_snapshot good = { .size = sizeof(good) };
	struct karena_snapshot args = good;
	struct heap *heap = &self->heap;
	union {
		uint32_t size;
		char bytes[8192];
	} big = {};
	int next_fd = lowest_free_fd();
	void *memory;

	ASSERT_EQ(0, heap_commit(heap, 0, 1));
	args.flags = 1;
	EXPECT_EQ(-EINVAL, heap_call(heap, KARENA_SNAPSHOT, &args));
	args.flags = 1U << 31;
	EXPECT_EQ(-EINVAL, heap_call(heap, KARENA_SNAPSHOT, &args));
	args = good;
	args.id = heap->id;
	EXPECT_EQ(-EINVAL, heap_call(heap, KARENA_SNAPSHOT, &args));
	args.flags = 2;
	EXPECT_EQ(-EINVAL, device_call(KARENA_SNAPSHOT, &args));
	args.flags = 0;
	args.memory = 1;
	EXPECT_EQ(-EINVAL, device_call(KARENA_SNAPSHOT, &args));
	args.memory = 0;
	args.reserved = 1;
	EXPECT_EQ(-EINVAL, device_call(KARENA_SNAPSHOT, &args));
	for (big.size = 0; big.size < offsetof(struct karena_snapshot, memory);
	     big.size++) {
		EXPECT_EQ(-EINVAL, heap_call(heap, KARENA_SNAPSHOT, &big));
		EXPECT_EQ(-EINVAL, device_call(KARENA_SNAPSHOT, &big));
	}
	big.size = 4097;
	EXPECT_EQ(-E2BIG, heap_call(heap, KARENA_SNAPSHOT, &big));
	big.size = sizeof(good) + 8;
	big.bytes[sizeof(good) + 7] = 1;
	EXPECT_EQ(-E2BIG, heap_call(heap, KARENA_SNAPSHOT, &big));
	EXPECT_EQ(-EFAULT, heap_call(heap, KARENA_SNAPSHOT, NULL));
	/* The image exists already when the call fails to write its results. */
	memory = own_memory(PAGE);
	ASSERT_NE(NULL, memory);
	memcpy(memory, &good, sizeof(good));
	ASSERT_EQ(0, mprotect(memory, PAGE, PROT_READ));
	EXPECT_EQ(-EFAULT, heap_call(heap, KARENA_SNAPSHOT, memory));
	munmap(memory, PAGE);
	EXPECT_EQ(next_fd, lowest_free_fd());
	EXPECT_TRUE(heap_stat_becomes(heap, "shared", 0));
	/* A longer struct with a zero tail is valid. */
	big.bytes[sizeof(good) + 7] = 0;
	EXPECT_EQ(next_fd, heap_call(heap, KARENA_SNAPSHOT, &big));
	close(next_fd);
}

/* A failed call leaves no descriptor and no memory behind. */
TEST_F(snapshot, without_free_descriptors_nothing_is_left_behind)
{
	struct heap *heap = &self->heap;
	struct rlimit old, none;
	struct image image;

	ASSERT_EQ(0, populate(heap));
	ASSERT_EQ(0, getrlimit(RLIMIT_NOFILE, &old));
	none = (struct rlimit){ lowest_free_fd(), old.rlim_max };
	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &none));
	EXPECT_EQ(-EMFILE, heap_snapshot(heap, &image));
	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &old));
	EXPECT_TRUE(heap_stat_becomes(heap, "shared", 0));
}

static void refuse_a_foreign_heap(struct child *child)
{
	struct image image;
	struct heap heap = { .fd = receive_fd(child->parent) };

	CHECK(heap.fd >= 0);
	CHECK(become_nobody());
	CHECK(heap_snapshot(&heap, &image) == -EPERM);
}

TEST_F(snapshot, receiver_of_a_heap_descriptor_cannot_make_images)
{
	struct child child;
	struct heap heap;

	ASSERT_EQ(0, child_start(&child, refuse_a_foreign_heap));
	ASSERT_EQ(0, heap_open(&heap, 4 * ARENA, 0));
	ASSERT_EQ(0, heap_commit(&heap, 0, 1));
	ASSERT_TRUE(send_fd(child.line, heap.fd));
	EXPECT_EQ(0, child_end(&child));
	EXPECT_EQ(0, heap_stat(&heap, "shared"));
	heap_destroy(&heap);
}

/* A clone writes to its memory. The clone and its parent make images of the clone. */
static struct heap inherited;

static void be_a_clone(struct child *child)
{
	struct karena_snapshot args = { .size = sizeof(args) };
	struct heap *heap = &inherited;
	struct image image;
	int fd;

	memset(page(heap, 0, 5), 'c', PAGE);
	memset(page(heap, SPARSE, FIRST), 'c', PAGE);
	fd = heap_call(heap, KARENA_SNAPSHOT, &args);
	CHECK(fd >= 0);
	CHECK(!image_map(&image, fd, NULL, &args));
	CHECK(image.control->nr_arenas == 32);
	CHECK(!count_other(image.window + 5 * PAGE, PAGE, 'c'));
	memset(page(heap, 0, 5), 'd', PAGE);
	memset(arena(heap, 1), 'd', ARENA);
	CHECK(!count_other(image.window + 5 * PAGE, PAGE, 'c'));
	CHECK(!count_other(image.window + SPARSE * ARENA + FIRST * PAGE, PAGE, 'c'));
	CHECK(!memcmp(image.window + 2 * ARENA, arena(heap, 2), ARENA));
	CHECK(send_image(child->parent, fd, &args));
	CHECK(heap->control->id != heap->id);
	CHECK(tell(child->parent, heap->control->id));
	CHECK(hear(child->parent));
	memset(heap->window, 'e', NR_HUGE * ARENA);
	CHECK(tell(child->parent, 1));
	CHECK(hear(child->parent));
}

TEST_F(snapshot, clones_and_images_are_separate)
{
	struct heap *heap = &self->heap;
	struct karena_snapshot args;
	struct image before, during, theirs, by_number;
	struct child child;
	uint64_t id;
	int fd;

	ASSERT_EQ(0, populate(heap));
	ASSERT_EQ(0, heap_snapshot(heap, &before));
	inherited = *heap;
	ASSERT_EQ(0, child_start(&child, be_a_clone));
	fd = receive_image(child.line, &args);
	ASSERT_GE(fd, 0);
	id = hear(child.line);
	ASSERT_TRUE(id);
	ASSERT_EQ(0, image_map(&theirs, fd, NULL, &args));
	EXPECT_EQ(0, heap_snapshot(heap, &during));
	memset(page(heap, 0, 6), 'p', PAGE);
	EXPECT_EQ(0, image_spoilt(&before));
	EXPECT_EQ(0, image_spoilt(&during));
	/* The changes that the child made in its clone. */
	EXPECT_EQ(0, count_other(theirs.window + 5 * PAGE, PAGE, 'c'));
	EXPECT_EQ(0, memcmp(theirs.window + ARENA, before.window + ARENA, ARENA));
	fd = traced_snapshot(child.pid, "mem", id, &args);
	ASSERT_GE(fd, 0);
	EXPECT_EQ((uintptr_t)heap->window, args.start);
	ASSERT_EQ(0, image_map(&by_number, fd, NULL, &args));
	ASSERT_TRUE(tell(child.line, 1));
	ASSERT_TRUE(hear(child.line));
	EXPECT_EQ(0, count_other(by_number.window + 5 * PAGE, PAGE, 'd'));
	EXPECT_EQ(0, count_other(by_number.window + ARENA, ARENA, 'd'));
	EXPECT_EQ(0, count_other(theirs.window + 5 * PAGE, PAGE, 'c'));
	EXPECT_EQ(0, image_spoilt(&before));
	EXPECT_EQ(0, image_spoilt(&during));
	EXPECT_EQ(0, count_other(page(heap, 0, 6), PAGE, 'p'));
	EXPECT_EQ(0, spoilt(heap, 0, 0, 6));
	ASSERT_TRUE(tell(child.line, 1));
	EXPECT_EQ(0, child_end(&child));
	/* Both images outlive the clone. */
	EXPECT_EQ(0, count_other(by_number.window + ARENA, ARENA, 'd'));
	EXPECT_EQ(0, count_other(theirs.window + 5 * PAGE, PAGE, 'c'));
	EXPECT_EQ(0, image_spoilt(&during));
	image_destroy(&before);
	image_destroy(&theirs);
	EXPECT_EQ(0, image_spoilt(&during));
	image_destroy(&during);
	image_destroy(&by_number);
	EXPECT_EQ(0, spoilt(heap, 2, 0, 512));
}

/* A child inherits an image like the mapping of any file. */
static struct image inherited_image;

static void look_at_an_inherited_image(struct child *child)
{
	(void)child;
	CHECK(!image_spoilt(&inherited_image));
	memset(inherited.window, 'c', NR_HUGE * ARENA);
	CHECK(!image_spoilt(&inherited_image));
	image_destroy(&inherited_image);
}

TEST_F(snapshot, child_inherits_the_image)
{
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, populate(heap));
	ASSERT_EQ(0, heap_snapshot(heap, &inherited_image));
	memset(heap->window, 'w', ARENA);
	inherited = *heap;
	EXPECT_EQ(0, in_child(look_at_an_inherited_image));
	EXPECT_EQ(0, image_spoilt(&inherited_image));
	image_destroy(&inherited_image);
}

#define NR_IMAGES	60

TEST_F_TIMEOUT(snapshot, each_of_many_images_is_correct, SLOW)
{
	struct heap *heap = &self->heap;
	struct image images[NR_IMAGES];

	ASSERT_EQ(0, heap_commit(heap, 0, 2));
	ASSERT_EQ(0, commit_pages(heap, 2, 0, NR_IMAGES));
	for (int i = 0; i < NR_IMAGES; i++) {
		/* One page is new in each image, another changes with each. */
		memset(page(heap, 0, i), 1 + i, PAGE);
		memset(page(heap, 1, 0), 1 + i, PAGE);
		memset(page(heap, 2, i), 1 + i, PAGE);
		ASSERT_EQ(0, heap_snapshot(heap, &images[i]));
	}
	EXPECT_LE(module_stat("committed"),
		  2 * ARENA + NR_IMAGES * PAGE + 3 * NR_IMAGES * PAGE);
	/* Destroy every other image, starting in the middle. */
	for (int i = NR_IMAGES / 2; i < NR_IMAGES; i += 2)
		image_destroy(&images[i]);
	memset(heap->window, 'w', 2 * ARENA);
	ASSERT_EQ(0, heap_release(heap, 2, 1));
	for (int i = 0; i < NR_IMAGES; i++) {
		char *window = images[i].window;

		if (i >= NR_IMAGES / 2 && (i - NR_IMAGES / 2) % 2 == 0)
			continue;
		for (int j = 0; j < NR_IMAGES; j++) {
			char byte = j <= i ? 1 + j : 0;

			EXPECT_EQ(0, count_other(window + j * PAGE, PAGE, byte));
			EXPECT_EQ(0, count_other(window + 2 * ARENA + j * PAGE,
						 PAGE, byte));
		}
		EXPECT_EQ(0, count_other(window + ARENA, PAGE, 1 + i));
	}
	for (int i = NR_IMAGES - 1; i >= 0; i--) {
		if (i < NR_IMAGES / 2 || (i - NR_IMAGES / 2) % 2)
			image_destroy(&images[i]);
	}
	EXPECT_TRUE(module_stat_becomes("committed", 2 * ARENA));
}

TEST_F_TIMEOUT(snapshot, many_images_leave_nothing_behind, SLOW)
{
	int nr = kernel_is_slow() ? 200 : 1000;
	struct heap *heap = &self->heap;

	ASSERT_EQ(0, populate(heap));
	for (int i = 0; i < nr; i++) {
		struct karena_snapshot args;
		int fd = device_snapshot(heap->id, &args);

		ASSERT_GE(fd, 0);
		*page(heap, i % NR_HUGE, i % 512) = 1;
		close(fd);
	}
	EXPECT_TRUE(heap_stat_becomes(heap, "shared", 0));
	EXPECT_EQ(NR_HUGE * ARENA + COUNT * PAGE, heap_stat(heap, "committed"));
	/* Copies become huge pages again, at the latest with a new mapping. */
	for (int i = 0; i < NR_HUGE; i++) {
		ASSERT_EQ(arena(heap, i),
			  mmap(arena(heap, i), ARENA, PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_FIXED, heap->fd, i * ARENA));
		EXPECT_EQ(0, look(arena(heap, i)));
	}
	EXPECT_TRUE(module_stat_becomes("committed", NR_HUGE * ARENA + COUNT * PAGE));
}

/*
 * Consistency: an image shows one moment. The writers are one thread, two threads on
 * possibly two processors, or processes that share the heap.
 */
struct writer {
	struct chain *chain;
	char *window;
	unsigned int number;
	unsigned int writers;
};

static void *writer_main(void *data)
{
	struct writer *writer = data;

	chain_write(writer->chain, writer->window, writer->number,
		    writer->writers);
	return NULL;
}

static long moments_of_threads(const struct heap *heap, unsigned int nr)
{
	struct chain *chain = chain_make();
	struct writer writers[2];
	pthread_t threads[2];
	long broken;

	for (unsigned int i = 0; i < nr; i++) {
		writers[i] = (struct writer){ chain, heap->window, i, nr };
		if (pthread_create(&threads[i], NULL, writer_main, &writers[i]))
			return -EAGAIN;
	}
	broken = chain_look(heap, chain);
	chain_stop(chain);
	for (unsigned int i = 0; i < nr; i++)
		pthread_join(threads[i], NULL);
	munmap(chain, PAGE);
	return broken;
}

TEST_F_TIMEOUT(snapshot, image_shows_one_moment_of_one_writer, SLOW)
{
	ASSERT_EQ(0, chain_commit(&self->heap));
	EXPECT_EQ(0, moments_of_threads(&self->heap, 1));
}

TEST_F_TIMEOUT(snapshot, image_shows_one_moment_of_two_threads, SLOW)
{
	ASSERT_EQ(0, chain_commit(&self->heap));
	EXPECT_EQ(0, moments_of_threads(&self->heap, 2));
}

static struct chain *common_chain;
static unsigned int nr_writers;

static void write_in_turn(struct child *child)
{
	unsigned int number = hear(child->parent) - 1;

	chain_write(common_chain, inherited.window, number, nr_writers);
}

/* One or two children that share the heap write; their parent makes images. */
TEST_F_TIMEOUT(snapshot, image_shows_one_moment_of_other_processes, SLOW)
{
	for (nr_writers = 1; nr_writers <= 2; nr_writers++) {
		struct child children[2];
		struct heap heap;

		ASSERT_EQ(0, heap_open_fork(&heap, CHAIN_ARENAS * ARENA,
					    KARENA_FORK_SHARE));
		ASSERT_EQ(0, chain_commit(&heap));
		common_chain = chain_make();
		inherited = heap;
		for (int i = 0; i < nr_writers; i++) {
			ASSERT_EQ(0, child_start(&children[i], write_in_turn));
			ASSERT_TRUE(tell(children[i].line, 1 + i));
		}
		EXPECT_EQ(0, chain_look(&heap, common_chain));
		chain_stop(common_chain);
		for (int i = 0; i < nr_writers; i++)
			EXPECT_EQ(0, child_end(&children[i]));
		munmap(common_chain, PAGE);
		heap_destroy(&heap);
	}
}

/* A child that shares the heap makes the image, and then its parent writes. */
static void snapshot_of_the_same_heap(struct child *child)
{
	struct karena_snapshot args;
	struct image image;
	int fd;

	CHECK(!heap_snapshot(&inherited, &image));
	CHECK(!image_spoilt(&image));
	image_destroy(&image);
	fd = traced_snapshot(getppid(), "mem", inherited.id, &args);
	CHECK(fd >= 0);
	CHECK(!image_map(&image, fd, NULL, &args));
	CHECK(tell(child->parent, 1));
	CHECK(hear(child->parent));
	CHECK(!image_spoilt(&image));
	CHECK(!count_other(inherited.window, ARENA, 'w'));
	memset(arena(&inherited, 1), 'c', ARENA);
	CHECK(!image_spoilt(&image));
	image_destroy(&image);
}

TEST_F(snapshot, any_process_of_a_shared_heap_can_make_images)
{
	struct child child;
	struct heap heap;

	ASSERT_EQ(0, heap_open_fork(&heap, 16 * ARENA, KARENA_FORK_SHARE));
	ASSERT_EQ(0, populate(&heap));
	inherited = heap;
	ASSERT_EQ(0, child_start(&child, snapshot_of_the_same_heap));
	ASSERT_TRUE(hear(child.line));
	memset(heap.window, 'w', ARENA);
	ASSERT_TRUE(tell(child.line, 1));
	EXPECT_EQ(0, child_end(&child));
	EXPECT_EQ(0, count_other(heap.window, ARENA, 'w'));
	EXPECT_EQ(0, count_other(arena(&heap, 1), ARENA, 'c'));
	heap_destroy(&heap);
}

/*
 * After a snapshot, a write copies the page for the heap and so for all processes that
 * share the heap, whatever they have mapped.
 */
static void read_and_write_in_turn(struct child *child)
{
	struct heap *heap = &inherited;

	for (int i = 0; i < 8; i++) {
		uint64_t turn = hear(child->parent);
		char *at = page(heap, turn % 2 ? SPARSE : 0, FIRST + 2 * turn);

		/* Map the pages here, for reading. */
		CHECK(!look(at) && !look(at + PAGE));
		CHECK(tell(child->parent, turn));
		/* The other process has written to the first page and read the second. */
		CHECK(hear(child->parent) == turn);
		CHECK(!count_other(at, PAGE, 'p'));
		memset(at, 'c', PAGE);
		memset(at + PAGE, 'c', PAGE);
		CHECK(tell(child->parent, turn));
	}
}

TEST_F(snapshot, processes_of_a_shared_heap_see_each_others_writes)
{
	struct image images[8];
	struct child child;
	struct heap heap;

	ASSERT_EQ(0, heap_open_fork(&heap, 16 * ARENA, KARENA_FORK_SHARE));
	ASSERT_EQ(0, populate(&heap));
	inherited = heap;
	ASSERT_EQ(0, child_start(&child, read_and_write_in_turn));
	for (uint64_t turn = 1; turn <= 8; turn++) {
		char *at = page(&heap, turn % 2 ? SPARSE : 0, FIRST + 2 * turn);

		ASSERT_EQ(0, heap_snapshot(&heap, &images[turn - 1]));
		ASSERT_TRUE(tell(child.line, turn));
		ASSERT_EQ(turn, hear(child.line));
		memset(at, 'p', PAGE);
		EXPECT_EQ(0, look(at + PAGE));
		ASSERT_TRUE(tell(child.line, turn));
		ASSERT_EQ(turn, hear(child.line));
		EXPECT_EQ(0, count_other(at, 2 * PAGE, 'c'));
	}
	EXPECT_EQ(0, child_end(&child));
	EXPECT_EQ(0, image_spoilt(&images[0]));
	for (int i = 0; i < 8; i++)
		image_destroy(&images[i]);
	heap_destroy(&heap);
}

/* The heap survives its creator. */
static void outlive_the_creator(struct child *child)
{
	struct karena_snapshot args;
	struct image image;
	struct heap heap;
	pid_t heir;

	CHECK(!heap_open_fork(&heap, 16 * ARENA, KARENA_FORK_SHARE));
	CHECK(!populate(&heap));
	heir = fork();
	if (heir)
		_exit(heir < 0);
	while (getppid() != 1)
		usleep(1000);
	CHECK(!heap_snapshot(&heap, &image));
	CHECK(!image_spoilt(&image));
	memset(heap.window, 'w', NR_HUGE * ARENA);
	CHECK(!image_spoilt(&image));
	/* By number the heap has no living creator. */
	CHECK(device_snapshot(heap.id, &args) == -EPERM);
	image_destroy(&image);
	CHECK(tell(child->parent, 1));
}

TEST_F(snapshot, shared_heap_can_be_snapshotted_after_exit_of_its_creator)
{
	struct child creator;

	ASSERT_EQ(0, child_start(&creator, outlive_the_creator));
	EXPECT_EQ(0, child_status(creator.pid));
	EXPECT_TRUE(hear(creator.line));
	close(creator.line);
}

/*
 * The state words belong to the same moment. A thread reuses an arena, sets a flag in
 * another arena, and clears the flag before the first becomes volatile again.
 */
#define TELLS	30	/* the arena with the flag */

static uint64_t *taker_flag(const struct heap *heap)
{
	return (uint64_t *)arena(heap, TELLS);
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

static void dwell(uint64_t nanoseconds)
{
	uint64_t until = now_ns() + nanoseconds;

	while (now_ns() < until)
		;
}

static void *take_and_tell(void *data)
{
	struct heap *heap = data;
	uint64_t *flag = taker_flag(heap), *stop = flag + 1, image = flag[2];
	uint32_t word = now_volatile();

	while (!__atomic_load_n(stop, __ATOMIC_ACQUIRE)) {
		set_state(heap, 0, 1, word);
		dwell(image / 4);
		if (!reuse(heap, 0, word))
			break;
		__atomic_store_n(flag, 1, __ATOMIC_RELEASE);
		/*
		 * Longer than a snapshot takes, since the state words are read at its
		 * start.
		 */
		dwell(2 * image);
		__atomic_store_n(flag, 0, __ATOMIC_RELEASE);
	}
	return NULL;
}

static int commit_for_taker(struct heap *heap)
{
	struct image image;
	uint64_t start;
	int err = 0;

	for (int i = 0; i <= TELLS && !err; i += 2)
		err = call_pages(heap, KARENA_COMMIT, i, 0, 512 - i / 2 % 2);
	if (err)
		return err;
	memset(heap->window, 'v', ARENA);
	start = now_ns();
	err = heap_snapshot(heap, &image);
	/* Duration of a snapshot. */
	taker_flag(heap)[2] = now_ns() - start;
	if (!err)
		image_destroy(&image);
	return err;
}

/* Count the inconsistent images. Return -EAGAIN if too few show the flag. */
static long images_beside_taker(struct heap *heap)
{
	uint64_t *stop = taker_flag(heap) + 1;
	long told = 0, wrong = 0, images = kernel_is_slow() ? 30 : 100;

	/* On a busy machine the other thread gets little processor time. */
	for (long i = 0; i < images || (told <= 5 && i < 3000); i++) {
		struct image image;
		int err = heap_snapshot(heap, &image);

		if (err)
			return err;
		if (*(uint64_t *)(image.window + TELLS * ARENA)) {
			told++;
			wrong += image.states[0] != KARENA_ACTIVE ||
				 look(image.window) || *image.window != 'v';
		}
		image_destroy(&image);
		usleep(1000);
	}
	__atomic_store_n(stop, 1, __ATOMIC_RELEASE);
	return told > 5 ? wrong : -EAGAIN;
}

TEST_F_TIMEOUT(snapshot, image_has_the_state_words_of_its_moment, SLOW)
{
	struct heap *heap = &self->heap;
	pthread_t thread;

	ASSERT_EQ(0, commit_for_taker(heap));
	ASSERT_EQ(0, pthread_create(&thread, NULL, take_and_tell, heap));
	EXPECT_EQ(0, images_beside_taker(heap));
	pthread_join(thread, NULL);
}

/* The first arena becomes volatile before the last one, and is reused after it. */
#define LAST	100

static void give_and_take_in_order(struct child *child)
{
	uint32_t word = now_volatile();

	CHECK(tell(child->parent, 1));
	for (;;) {
		set_state(&inherited, 0, 1, word);
		set_state(&inherited, LAST, 1, word);
		CHECK(reuse(&inherited, LAST, word));
		CHECK(reuse(&inherited, 0, word));
	}
}

/*
 * A process that shares the heap uses the same state words, and is not a thread of this
 * one.
 */
TEST_F_TIMEOUT(snapshot, image_has_state_words_of_its_moment_with_other_processes, SLOW)
{
	int images = kernel_is_slow() ? 60 : 300, given = 0, wrong = 0;
	struct child child;
	struct heap heap;

	ASSERT_EQ(0, heap_open_fork(&heap, 128 * ARENA, KARENA_FORK_SHARE));
	ASSERT_EQ(0, commit_for_taker(&heap));
	ASSERT_EQ(0, heap_commit(&heap, LAST, 1));
	inherited = heap;
	ASSERT_EQ(0, child_start(&child, give_and_take_in_order));
	ASSERT_TRUE(hear(child.line));
	for (int i = 0; i < images; i++) {
		struct image image;

		ASSERT_EQ(0, heap_snapshot(&heap, &image));
		given += image.states[0] == KARENA_FREE;
		wrong += image.states[LAST] == KARENA_FREE &&
			 image.states[0] != KARENA_FREE;
		image_destroy(&image);
	}
	kill(child.pid, SIGKILL);
	EXPECT_EQ(128 + SIGKILL, child_end(&child));
	EXPECT_GT(given, 5);
	EXPECT_EQ(0, wrong);
	heap_destroy(&heap);
}

TEST_F(snapshot, module_cannot_be_unloaded_while_an_image_exists)
{
	struct image image;

	ASSERT_EQ(0, populate(&self->heap));
	ASSERT_EQ(0, heap_snapshot(&self->heap, &image));
	heap_destroy(&self->heap);
	EXPECT_EQ(-1, syscall(SYS_delete_module, "karena", O_NONBLOCK));
	EXPECT_EQ(EWOULDBLOCK, errno);
	close(image.fd);
	image.fd = -1;
	EXPECT_EQ(-1, syscall(SYS_delete_module, "karena", O_NONBLOCK));
	EXPECT_EQ(EWOULDBLOCK, errno);
	EXPECT_EQ(0, image_spoilt(&image));
	image_destroy(&image);
	ASSERT_EQ(0, heap_open(&self->heap, 32 * ARENA, 0));
}

/* No image has volatile arenas, which the kernel reclaims during the snapshot. */
static void *shrink_all_the_time(void *data)
{
	const bool *stop = data;

	while (!__atomic_load_n(stop, __ATOMIC_ACQUIRE))
		write_text("/proc/sys/vm/drop_caches", "2\n");
	return NULL;
}

TEST_F_TIMEOUT(snapshot, reclaim_during_a_snapshot_frees_each_arena_once, SLOW)
{
	struct heap *heap = &self->heap;
	time_t until = time(NULL) + 6;
	bool stop = false;
	pthread_t thread;
	int rounds = 0;

	ASSERT_EQ(0, pthread_create(&thread, NULL, shrink_all_the_time, &stop));
	/* A slow machine needs longer for as many rounds. */
	while (rounds < 3 || time(NULL) < until) {
		struct image image;

		for (int i = 0; i < 12; i++) {
			/* If the arena is still volatile, the heap still has its memory. */
			call_pages(heap, KARENA_COMMIT, i, 0, 512 - i % 2);
			make_volatile(heap, i);
		}
		ASSERT_EQ(0, heap_snapshot(heap, &image));
		for (int i = 0; i < 12; i++) {
			EXPECT_EQ(KARENA_FREE, image.states[i]);
			EXPECT_EQ(SIGBUS, look(image.window + i * ARENA));
		}
		image_destroy(&image);
		rounds++;
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	shrink_everything();
	ASSERT_EQ(0, heap_release(heap, 0, 32));
	EXPECT_EQ(0, heap_stat(heap, "committed"));
	EXPECT_EQ(0, heap_stat(heap, "shared"));
}

/*
 * Snapshots of a heap in full use: each page of an image is either missing or complete, and
 * does not change.
 */
#define NR_BUSY	8

struct busy {
	struct heap *heap;
	time_t until;
};

static void *use_all_the_time(void *data)
{
	struct busy *busy = data;
	struct heap *heap = busy->heap;
	unsigned int seed = gettid();
	char bytes[PAGE];

	while (time(NULL) < busy->until) {
		size_t index = rand_r(&seed) % NR_BUSY;
		size_t first = rand_r(&seed) % 512;
		struct iovec local = { bytes, PAGE };
		struct iovec remote = { page(heap, index, first), PAGE };

		memset(bytes, rand_r(&seed), PAGE);
		switch (rand_r(&seed) % 16) {
		case 0:
			call_pages(heap, KARENA_RELEASE, index, 0, 512);
			break;
		case 1:
			call_pages(heap, KARENA_RELEASE, index, 0, first + 1);
			break;
		case 2:
			make_volatile(heap, index);
			break;
		case 3:
			shrink_everything();
			break;
		case 4:
			call_pages(heap, KARENA_COMMIT, index, first, 512 - first);
			break;
		case 5:
		case 6:
			call_pages(heap, KARENA_COMMIT, index, 0, 512);
			break;
		default:
			/* A write to a missing page fails instead of raising a signal. */
			if (process_vm_writev(getpid(), &local, 1, &remote, 1,
					      0) < 0)
				sched_yield();
		}
	}
	return NULL;
}

/* A checksum of some of an image; missing pages count as zero. */
static uint64_t image_sum(const struct image *image)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < NR_BUSY * 512; i += 11) {
		const char *at = image->window + i * PAGE;

		if (look(at))
			continue;
		for (size_t byte = 0; byte < PAGE; byte += 8)
			sum = sum * 31 + *(uint64_t *)(at + byte) + i;
	}
	return sum;
}

TEST_F_TIMEOUT(snapshot, images_of_a_busy_heap_do_not_change, SLOW)
{
	struct busy busy = { &self->heap, time(NULL) + 6 };
	struct image images[3];
	uint64_t sums[3];
	pthread_t threads[3];
	int rounds = 0;

	for (int i = 0; i < 3; i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, use_all_the_time,
					    &busy));
	while (time(NULL) < busy.until) {
		for (int i = 0; i < 3; i++) {
			ASSERT_EQ(0, heap_snapshot(&self->heap, &images[i]));
			sums[i] = image_sum(&images[i]);
		}
		usleep(20000);
		for (int i = 0; i < 3; i++) {
			EXPECT_EQ(sums[i], image_sum(&images[i]));
			image_destroy(&images[i]);
		}
		rounds++;
	}
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	EXPECT_GE(rounds, 1);
	ASSERT_EQ(0, heap_release(&self->heap, 0, 32));
	EXPECT_TRUE(heap_stat_becomes(&self->heap, "committed", 0));
	EXPECT_EQ(0, heap_stat(&self->heap, "shared"));
}

TEST_HARNESS_MAIN
