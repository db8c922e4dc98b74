// SPDX-License-Identifier: MIT
/*
 * The source that uses the kernel module. It maps the heap's file and closes it; madvise() then
 * controls the mapping.
 *
 * In a claimed window, the first arenas of the metadata and the first of all other arenas are
 * mapped. Both mappings grow in place, which needs no descriptor. So the limit of addresses,
 * mlockall() and the size of the process count little more than is used. An older module only
 * maps whole windows.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/karena.h>

#include "base/bits.h"
#include "source/claim.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_READ	22
#define MADV_POPULATE_WRITE	23
#endif

/* Time to wait for reclaim before the state word is read again. */
#define BUSY_NS		1000000

#define EMBEDDED_HINT	"or use KARENA_SOURCE=embedded"

static int device_open_node(void)
{
	int fd = open(KARENA_DEVICE, O_RDWR | O_CLOEXEC);

	if (fd >= 0)
		return fd;
	switch (errno) {
	case ENOENT:
	case ENXIO:
	case ENODEV:
		return ka_fail(errno, "there is no " KARENA_DEVICE
			       ": load the module (modprobe karena), "
			       EMBEDDED_HINT);
	case EACCES:
	case EPERM:
		return ka_fail(errno, "no permission to open " KARENA_DEVICE
			       ": join the group karena, " EMBEDDED_HINT);
	default:
		return ka_fail(errno, "cannot open " KARENA_DEVICE ": %s",
			       strerror(errno));
	}
}

static int device_check(int fd, struct karena_info *info)
{
	memset(info, 0, sizeof(*info));
	info->size = sizeof(*info);
	if (ioctl(fd, KARENA_INFO, info)) {
		if (errno == ENOTTY)
			return ka_fail(EPROTO, KARENA_DEVICE
				       " is not the device of karena's module");
		return ka_fail(errno, "cannot query " KARENA_DEVICE ": %s",
			       strerror(errno));
	}
	if (info->abi_version != KARENA_ABI_VERSION ||
	    info->arena_size != KA_ARENA_SIZE)
		return ka_fail(EPROTO, "the module has version %u of the interface and"
			       " the library version %d: install both from one release",
			       info->abi_version, KARENA_ABI_VERSION);
	return 0;
}

/* A module without policies for fork only supports NONE. */
static int choose_fork(struct ka_window *window, const struct karena_info *info)
{
	if (info->features & KARENA_FEATURE_FORK)
		return 0;
	if (window->fork == KA_FORK_SHARE)
		return ka_fail(EOPNOTSUPP, "the module is too old to share a heap with a"
			       " child: install module and library from one release");
	window->fork = KA_FORK_NONE;
	return 0;
}

/* The limit for the module, which also counts the metadata; the caller's limit does not. */
static size_t limit_of(const struct ka_window *window)
{
	size_t limit = window->limit * KA_ARENA_SIZE + window->most_metadata;

	return limit < ka_window_size(window) ? limit : ka_window_size(window);
}

static void fill_in(struct karena_create *create, const struct karena_info *info,
		    const struct ka_window *window, const struct ka_options *options)
{
	*create = (struct karena_create){
		.size = sizeof(*create),
		.window = ka_window_size(window),
	};
	if (options->limit)
		create->limit = limit_of(window);
	if (info->features & KARENA_FEATURE_FORK)
		create->fork = window->fork;
	/* A module without this feature lets every heap be pinned. */
	if (options->io && info->features & KARENA_FEATURE_IO)
		create->flags = KARENA_CREATE_IO;
	strncpy(create->name, options->name, sizeof(create->name) - 1);
}

static int device_create(int device, const struct karena_info *info,
			 const struct ka_options *options,
			 struct karena_create *create)
{
	char size[32], most[32];
	int fd = ioctl(device, KARENA_CREATE, create);

	if (fd >= 0)
		return fd;
	switch (errno) {
	case EFBIG:
		return ka_fail(errno, "a window of %s, with its metadata, is too"
			       " large: the module allows %s",
			       ka_format_size(options->window, size),
			       ka_format_size(info->window_max, most));
	case ENOMEM:
		return ka_fail(errno, "the kernel has no memory for a heap with a"
			       " window of %s",
			       ka_format_size(options->window, size));
	default:
		return ka_fail(errno, "the module cannot create the heap: %s",
			       strerror(errno));
	}
}

/* Arenas of each of the two mappings of a new claimed window. */
#define STEP	2

/* The part of a window that an arena is in: the arenas of the metadata, or all others. */
static bool is_other(const struct ka_window *window, size_t index)
{
	return index >= window->nr_metadata;
}

/* The first arena of a part, and the number of its arenas. */
static size_t part_start(const struct ka_window *window, bool others)
{
	return others ? window->nr_metadata : 0;
}

static size_t part_arenas(const struct ka_window *window, bool others)
{
	return others ? window->nr_arenas - window->nr_metadata : window->nr_metadata;
}

static size_t at_most(size_t count, size_t most)
{
	return count < most ? count : most;
}

/* Number of arenas of a part to map if @need are needed and there is room. */
static size_t ample(const struct ka_window *window, bool others, size_t need)
{
	return at_most(need + need / 4 + STEP, part_arenas(window, others));
}

/* Map the beginning of a part, at addresses where nothing is mapped. */
static bool map_part(struct ka_window *window, bool others, int fd)
{
	size_t first = part_start(window, others);
	size_t count = at_most(STEP, part_arenas(window, others));
	void *start = window->start + first * KA_ARENA_SIZE;

	if (mmap(start, count * KA_ARENA_SIZE, PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_FIXED_NOREPLACE, fd, (off_t)(first * KA_ARENA_SIZE)) != start)
		return false;
	window->mapped[others] = count;
	return true;
}

/*
 * Grow the mapping of a part. Unless it ends with the part, its last arena is uncommitted, and
 * that arena is what mremap() grows: a program may have split the rest, for example by
 * mprotect().
 */
static bool grow(struct ka_window *window, bool others, size_t count)
{
	size_t end = part_start(window, others) + window->mapped[others];

	if (!ka_grow(window->start + (end - 1) * KA_ARENA_SIZE, KA_ARENA_SIZE,
		     (count + 1) * KA_ARENA_SIZE))
		return false;
	window->mapped[others] += count;
	return true;
}

/* Map arenas, and one more behind them: 0, or ENOMEM. */
static int reach(struct ka_window *window, size_t first, size_t count)
{
	bool others = is_other(window, first);
	size_t mapped = window->mapped[others], need;

	if (!window->claimed)
		return 0;
	need = at_most(first - part_start(window, others) + count + 1,
		       part_arenas(window, others));
	if (need <= mapped || grow(window, others, ample(window, others, need) - mapped) ||
	    grow(window, others, need - mapped))
		return 0;
	return ENOMEM;
}

/* Unmap the arenas behind the last committed one of a part, if they are most of the mapping. */
static void shrink(struct ka_window *window, bool others)
{
	size_t first = part_start(window, others), top = window->mapped[others], keep;

	while (top && KARENA_STATE(__atomic_load_n(&window->states[first + top - 1],
						   __ATOMIC_RELAXED)) == KARENA_FREE)
		top--;
	keep = ample(window, others, top + 1);
	if (keep >= window->mapped[others] / 2)
		return;
	ka_munmap(window->start + (first + keep) * KA_ARENA_SIZE,
		  (window->mapped[others] - keep) * KA_ARENA_SIZE);
	window->mapped[others] = keep;
}

static void unmap(struct ka_window *window)
{
	if (!window->claimed) {
		ka_munmap(window->start, ka_window_size(window));
		return;
	}
	for (int others = 0; others < 2; others++) {
		size_t first = part_start(window, others);

		if (window->mapped[others])
			ka_munmap(window->start + first * KA_ARENA_SIZE,
				  window->mapped[others] * KA_ARENA_SIZE);
	}
	ka_unclaim(window);
}

/* Map a window in two parts that can grow. False on failure. */
static bool map_parts(struct ka_window *window, int fd)
{
	if (!ka_claim(window))
		return false;
	if (map_part(window, false, fd) && map_part(window, true, fd) &&
	    !reach(window, window->nr_metadata + STEP, 0))
		return true;
	unmap(window);
	return false;
}

static int map_window(struct ka_window *window, int fd, const struct karena_info *info,
		      const struct ka_options *options)
{
	char size[32];

	if (info->features & KARENA_FEATURE_PARTS && map_parts(window, fd))
		return 0;
	window->start = mmap(NULL, ka_window_size(window), PROT_READ | PROT_WRITE,
			     MAP_SHARED, fd, 0);
	if (window->start != MAP_FAILED)
		return 0;
	if (errno == ENOMEM)
		return ka_fail(errno, "no room for a window of %s in this process"
			       " (see ulimit -v)", ka_format_size(options->window, size));
	return ka_fail(errno, "cannot map the window: %s", strerror(errno));
}

static int device_map(struct ka_window *window, int fd, const struct karena_info *info,
		      const struct ka_options *options, const struct karena_create *create)
{
	const struct karena_control *control;
	int error;

	if (map_window(window, fd, info, options))
		return -1;
	window->control = mmap(NULL, create->control_size, PROT_READ | PROT_WRITE,
			       MAP_SHARED, fd, (off_t)create->control_offset);
	if (window->control == MAP_FAILED) {
		error = errno;
		unmap(window);
		return ka_fail(error, "cannot map the control region: %s",
			       strerror(error));
	}
	control = window->control;
	window->control_size = create->control_size;
	window->states = (uint32_t *)((char *)window->control +
				      control->states_offset);
	window->id = create->id;
	return 0;
}

static int open_descriptor(const struct ka_window *window)
{
	struct karena_attach attach = {
		.size = sizeof(attach),
		.address = (uintptr_t)window->start,
	};
	int device = device_open_node();
	int fd;

	if (device < 0)
		return -1;
	fd = ioctl(device, KARENA_ATTACH, &attach);
	if (fd < 0)
		ka_fail(errno, "the module cannot create a descriptor of the heap: %s",
			strerror(errno));
	close(device);
	return fd;
}

static int device_descriptor(const struct ka_window *window)
{
	int before, fd;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
	fd = open_descriptor(window);
	pthread_setcancelstate(before, NULL);
	return fd;
}

static int ask_limit(int fd, struct karena_limit *limit)
{
	if (!ioctl(fd, KARENA_LIMIT, limit))
		return 0;
	switch (errno) {
	case EPERM:
		return ka_fail(errno, "only root may raise the limit of this heap, because"
			       " root has set it");
	case ENOTTY:
		return ka_fail(EOPNOTSUPP, "the module is too old to change a limit: install"
			       " module and library from one release");
	default:
		return ka_fail(errno, "the module cannot change the limit: %s",
			       strerror(errno));
	}
}

static int device_set_limit(const struct ka_window *window)
{
	struct karena_limit limit = {
		.size = sizeof(limit),
		.flags = KARENA_LIMIT_HARD,
		.hard = limit_of(window),
	};
	int before, fd, ret = -1;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
	fd = open_descriptor(window);
	if (fd >= 0) {
		ret = ask_limit(fd, &limit);
		close(fd);
	}
	pthread_setcancelstate(before, NULL);
	return ret;
}

static int open_heap(struct ka_window *window, const struct ka_options *options)
{
	struct karena_create create;
	struct karena_info info;
	int device, fd = -1, ret;

	device = device_open_node();
	if (device < 0)
		return -1;
	ret = device_check(device, &info);
	if (!ret)
		ret = choose_fork(window, &info);
	if (!ret) {
		fill_in(&create, &info, window, options);
		fd = device_create(device, &info, options, &create);
		ret = fd < 0 ? -1 : device_map(window, fd, &info, options, &create);
	}
	/* The source keeps no descriptor. A failure of close() does not matter. */
	if (fd >= 0)
		close(fd);
	close(device);
	return ret;
}

/* The caller may hold a lock, and opening and closing files are cancellation points. */
static int device_open(struct ka_window *window, const struct ka_options *options)
{
	int before, ret;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
	ret = open_heap(window, options);
	pthread_setcancelstate(before, NULL);
	return ret;
}

static void set_states(struct ka_window *window, size_t first, size_t count,
		       uint32_t state)
{
	for (size_t i = first; i < first + count; i++)
		__atomic_store_n(&window->states[i], state, __ATOMIC_RELEASE);
}

static void device_release(struct ka_window *window, size_t first, size_t count)
{
	char *start = window->start + first * KA_ARENA_SIZE;
	bool others = is_other(window, first);

	/* Not mapped: reach() failed when the arena should be committed. */
	if (window->claimed && first >= part_start(window, others) + window->mapped[others])
		return;
	/* The kernel sets the state words to FREE. */
	if (ka_madvise(start, count * KA_ARENA_SIZE, MADV_REMOVE)) {
		/* The kernel refuses this for memory locked by mlockall(). */
		ka_munlock(start, count * KA_ARENA_SIZE);
		ka_madvise(start, count * KA_ARENA_SIZE, MADV_REMOVE);
	}
	if (window->claimed)
		shrink(window, others);
}

static int device_commit(struct ka_window *window, size_t first, size_t count,
			 enum ka_pages pages)
{
	int error = reach(window, first, count);

	(void)pages;
	if (error)
		return error;
	set_states(window, first, count, KARENA_REQUESTED);
	if (!ka_madvise(window->start + first * KA_ARENA_SIZE, count * KA_ARENA_SIZE,
			MADV_POPULATE_WRITE))
		return 0;
	error = errno;
	device_release(window, first, count);
	return error;
}

static int device_commit_pages(struct ka_window *window, size_t arena, size_t from,
			       size_t count)
{
	char *start = window->start + arena * KA_ARENA_SIZE + from * KA_PAGE_SIZE;
	int error = reach(window, arena, 1);

	if (error)
		return error;
	set_states(window, arena, 1, KARENA_REQUESTED | KARENA_SPARSE);
	if (ka_madvise(start, count * KA_PAGE_SIZE, MADV_POPULATE_WRITE))
		error = errno;
	set_states(window, arena, 1, KARENA_ACTIVE | KARENA_SPARSE);
	return error;
}

/*
 * Release pages of an arena by one call, so that its huge frame can be freed. Locked memory
 * cannot be released so, and an older module does not support it.
 */
static bool release_pages(struct ka_window *window, size_t arena, const uint64_t *map)
{
	const struct karena_control *control = window->control;
	struct karena_part *part;
	int error;

	if (!control->part_offset)
		return false;
	part = (struct karena_part *)((char *)window->control + control->part_offset);
	for (size_t i = 0; i < KA_MAP_WORDS; i++)
		__atomic_store_n(&part->pages[i], map[i], __ATOMIC_RELAXED);
	__atomic_store_n(&part->arena, arena + 1, __ATOMIC_RELEASE);
	error = ka_madvise(window->start + arena * KA_ARENA_SIZE, KA_ARENA_SIZE, MADV_REMOVE);
	__atomic_store_n(&part->arena, 0, __ATOMIC_RELEASE);
	return !error;
}

static bool device_purge(struct ka_window *window, size_t arena, const uint64_t *map)
{
	uint32_t *state = &window->states[arena];
	size_t pages = ka_count_bits(map, 0, KA_ARENA_PAGES);

	/* Purging less than half of a huge frame frees no memory. */
	if (pages < KA_ARENA_PAGES / 2 &&
	    !(__atomic_load_n(state, __ATOMIC_ACQUIRE) & KARENA_SPARSE))
		return false;
	/* A huge frame stays if it is pinned, or cannot be copied now. */
	return release_pages(window, arena, map) &&
	       __atomic_load_n(state, __ATOMIC_ACQUIRE) & KARENA_SPARSE;
}

static bool device_make_volatile(struct ka_window *window, size_t arena)
{
	uint32_t word = __atomic_load_n(&window->states[arena], __ATOMIC_RELAXED);

	set_states(window, arena, 1, (word & KARENA_SPARSE) |
		   KARENA_VOLATILE_SINCE(ka_clock()));
	return true;
}

static bool device_reuse(struct ka_window *window, size_t arena)
{
	uint32_t *state = &window->states[arena];
	uint32_t word = __atomic_load_n(state, __ATOMIC_ACQUIRE);

	while (KARENA_STATE(word) == KARENA_VOLATILE || KARENA_STATE(word) == KARENA_BUSY) {
		if (KARENA_STATE(word) == KARENA_BUSY) {
			/* Reclaim may need this processor to make progress. */
			ka_wait(state, word, BUSY_NS);
			word = __atomic_load_n(state, __ATOMIC_ACQUIRE);
		} else if (__atomic_compare_exchange_n(state, &word,
						       KARENA_ACTIVE | (word & KARENA_SPARSE),
						       false, __ATOMIC_ACQ_REL,
						       __ATOMIC_ACQUIRE)) {
			return true;
		}
	}
	return false;
}

static bool device_pressed(struct ka_window *window)
{
	struct karena_control *control = window->control;
	uint32_t now = __atomic_load_n(&control->pressure, __ATOMIC_RELAXED);

	if (!KARENA_PRESSURE_LEVEL(now) ||
	    now == __atomic_load_n(&control->pressure_seen, __ATOMIC_RELAXED))
		return false;
	__atomic_store_n(&control->pressure_seen, now, __ATOMIC_RELAXED);
	return true;
}

static bool device_copied(struct ka_window *window)
{
	const struct karena_control *control = window->control;

	/* Fault in the page by a call that returns an error if the kernel has no memory. */
	if (ka_madvise(window->control, KA_PAGE_SIZE, MADV_POPULATE_READ) ||
	    control->id == window->id)
		return false;
	window->id = control->id;
	return true;
}

static void device_close(struct ka_window *window)
{
	unmap(window);
	ka_munmap(window->control, window->control_size);
}

const struct ka_source_type ka_device = {
	.source		= KA_SOURCE_DEVICE,
	.frames		= true,
	.open		= device_open,
	.commit		= device_commit,
	.commit_pages	= device_commit_pages,
	.release	= device_release,
	.purge		= device_purge,
	.make_volatile	= device_make_volatile,
	.reuse	= device_reuse,
	.pressed	= device_pressed,
	.copied		= device_copied,
	.set_limit	= device_set_limit,
	.descriptor	= device_descriptor,
	.close		= device_close,
};
