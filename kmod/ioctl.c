// SPDX-License-Identifier: GPL-2.0
/*
 * The calls on /dev/karena and on heaps, by ioctl() and through io_uring. Each has a row in
 * a table, and a struct that begins with its size. The file operations of descriptors and
 * of windows are here, too, because KARENA_CREATE makes these files.
 */
#include <linux/build_bug.h>
#include <linux/ctype.h>
#include <linux/err.h>
#include <linux/file.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/uaccess.h>

#include "compat.h"
#include "file.h"

static long heap_ioctl(struct file *file, unsigned int cmd, unsigned long arg);
static int heap_uring_cmd(struct io_uring_cmd *cmd, unsigned int flags);

union karena_args {
	struct karena_info info;
	struct karena_create create;
	struct karena_attach attach;
	struct karena_limit limit;
	struct karena_ready ready;
	struct karena_ranges ranges;
	struct karena_snapshot snapshot;
	struct karena_share share;
};

/* A call in progress: the caller's struct, its size, and the module's copy of it. */
struct karena_call {
	struct file *file;
	struct karena_heap *heap;	/* NULL for a call on the device */
	void __user *user;
	u32 size;
	union karena_args args;
};

/* A caller with an older struct gets the part it knows. */
static int call_answer(struct karena_call *call, size_t size)
{
	size_t known = min_t(size_t, call->size, size);

	return copy_to_user(call->user, &call->args, known) ? -EFAULT : 0;
}

/* Return a descriptor for a file, and take over the file's reference. */
static int call_answer_file(struct karena_call *call, size_t size,
			    struct file *file)
{
	int fd, err;

	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0) {
		err = fd;
		goto err_file;
	}
	err = call_answer(call, size);
	if (err)
		goto err_fd;
	fd_install(fd, file);
	return fd;

err_fd:
	put_unused_fd(fd);
err_file:
	fput(file);
	return err;
}

static int call_info(struct karena_call *call)
{
	struct karena_info *info = &call->args.info;

	if (info->flags || info->reserved)
		return -EINVAL;
	info->abi_version = KARENA_ABI_VERSION;
	info->features = KARENA_FEATURE_VOLATILE | KARENA_FEATURE_SPARSE |
			 KARENA_FEATURE_READY | KARENA_FEATURE_LIMIT |
			 KARENA_FEATURE_PRESSURE | KARENA_FEATURE_NODE |
			 KARENA_FEATURE_STATS | KARENA_FEATURE_FORK |
			 KARENA_FEATURE_IO | KARENA_FEATURE_SNAPSHOT |
			 KARENA_FEATURE_SHARE | KARENA_FEATURE_URING |
			 KARENA_FEATURE_PARTS;
	info->arena_size = KARENA_ARENA_SIZE;
	info->window_max = KARENA_WINDOW_MAX;
	info->limit = (u64)karena_limit() << PAGE_SHIFT;
	info->committed = (u64)karena_committed() << PAGE_SHIFT;
	return call_answer(call, sizeof(*info));
}

static bool name_valid(const char *name)
{
	size_t length = strnlen(name, KARENA_NAME_SIZE);
	size_t i;

	for (i = 0; i < length; i++) {
		if (!isascii(name[i]) || !isprint(name[i]) || name[i] == '/')
			return false;
	}
	return length < KARENA_NAME_SIZE;
}

static bool policy_valid(const struct karena_create *create)
{
	switch (create->policy) {
	case KARENA_POLICY_DEFAULT:
	case KARENA_POLICY_INTERLEAVE:
		return !create->node;
	case KARENA_POLICY_PREFER:
	case KARENA_POLICY_BIND:
		return create->node <= INT_MAX &&
		       karena_folio_node_allowed(create->node);
	default:
		return false;
	}
}

static bool fork_valid(const struct karena_create *create)
{
	if (create->flags & ~KARENA_CREATE_IO || create->reserved ||
	    create->fork > KARENA_FORK_NONE)
		return false;
	return !(create->flags & KARENA_CREATE_IO) || create->fork != KARENA_FORK_COW;
}

/* The file of a heap's descriptor. */
static const struct file_operations heap_fops = {
	.owner			= THIS_MODULE,
	.mmap			= karena_mmap,
	.get_unmapped_area	= thp_get_unmapped_area,
	.fallocate		= karena_heap_fallocate,
	.unlocked_ioctl		= heap_ioctl,
	.uring_cmd		= heap_uring_cmd,
	.poll			= karena_heap_poll,
	.fsync			= noop_fsync,
	.flush			= karena_heap_flush,
	.release		= karena_heap_release,
	.llseek			= noop_llseek,
};

/* The file that the windows of a family map. No process has a descriptor of it. */
static const struct file_operations window_fops = {
	.owner			= THIS_MODULE,
	.get_unmapped_area	= thp_get_unmapped_area,
	.fallocate		= karena_window_fallocate,
	.fsync			= noop_fsync,
	.release		= karena_family_release,
	.llseek			= noop_llseek,
};

static int call_create(struct karena_call *call)
{
	struct karena_create *create = &call->args.create;
	struct karena_heap *heap;
	struct file *file;

	if (!fork_valid(create) || !create->window ||
	    !IS_ALIGNED(create->window, KARENA_ARENA_SIZE))
		return -EINVAL;
	if (create->window > KARENA_WINDOW_MAX)
		return -EFBIG;
	if (create->limit && create->limit < KARENA_ARENA_SIZE)
		return -EINVAL;
	if (!name_valid(create->name) || !policy_valid(create))
		return -EINVAL;

	/* The group that may open the device node may read its heaps' files in sysfs. */
	heap = karena_heap_create(create, file_inode(call->file)->i_gid, &window_fops);
	if (IS_ERR(heap))
		return PTR_ERR(heap);
	create->id = heap->id;
	create->control_offset = karena_window_size(heap);
	create->control_size = (u64)heap->control.nr << PAGE_SHIFT;
	file = karena_heap_open(heap, O_RDWR, &heap_fops);
	if (IS_ERR(file))
		return PTR_ERR(file);
	return call_answer_file(call, sizeof(*create), file);
}

static int call_attach(struct karena_call *call)
{
	struct karena_attach *attach = &call->args.attach;
	struct mm_struct *mm = current->mm;
	struct karena_heap *heap;
	struct vm_area_struct *vma;
	bool found = false;
	struct file *file;
	u64 start = 0;

	if (attach->flags)
		return -EINVAL;

	mmap_read_lock(mm);
	vma = vma_lookup(mm, attach->address);
	heap = vma ? karena_heap_mapped(vma) : NULL;
	if (heap) {
		/* The address may be in the control region. */
		start = vma->vm_start - ((u64)vma->vm_pgoff << PAGE_SHIFT);
		found = attach->address - start < karena_window_size(heap);
		if (found)
			karena_heap_get(heap);
	}
	mmap_read_unlock(mm);
	if (!found)
		return -ENOENT;

	attach->start = start;
	attach->window = karena_window_size(heap);
	attach->limit = (u64)READ_ONCE(heap->charge.limit) << PAGE_SHIFT;
	attach->id = heap->id;
	attach->control_offset = karena_window_size(heap);
	attach->control_size = (u64)heap->control.nr << PAGE_SHIFT;
	file = karena_heap_open(heap, O_RDWR, &heap_fops);
	if (IS_ERR(file))
		return PTR_ERR(file);
	return call_answer_file(call, sizeof(*attach), file);
}

static int call_limit(struct karena_call *call)
{
	struct karena_limit *limit = &call->args.limit;
	int err = karena_limit_call(call->heap, limit);

	if (err)
		return err;
	karena_ready_fit(call->heap);
	return call_answer(call, sizeof(*limit));
}

static int call_ready(struct karena_call *call)
{
	struct karena_ready *ready = &call->args.ready;

	return karena_ready_call(call->heap, ready) ?:
	       call_answer(call, sizeof(*ready));
}

static int call_commit(struct karena_call *call)
{
	struct karena_ranges *ranges = &call->args.ranges;

	if (ranges->flags || ranges->reserved)
		return -EINVAL;
	return karena_ranges_commit(call->heap, ranges);
}

static int call_release(struct karena_call *call)
{
	struct karena_ranges *ranges = &call->args.ranges;

	if (ranges->flags || ranges->reserved)
		return -EINVAL;
	return karena_ranges_release(call->heap, ranges);
}

static int call_snapshot(struct karena_call *call)
{
	struct karena_snapshot *snapshot = &call->args.snapshot;
	struct karena_heap *heap = call->heap;
	struct file *file;

	if (snapshot->flags & ~KARENA_SNAPSHOT_MEMORY || snapshot->reserved ||
	    (snapshot->memory && !snapshot->flags) ||
	    (heap && (snapshot->id || snapshot->flags)))
		return -EINVAL;
	if (!heap) {
		heap = karena_snapshot_find(snapshot);
		if (IS_ERR(heap))
			return PTR_ERR(heap);
	}
	file = karena_snapshot_open(heap, snapshot);
	if (!call->heap)
		karena_heap_put(heap);
	if (IS_ERR(file))
		return PTR_ERR(file);
	return call_answer_file(call, sizeof(*snapshot), file);
}

static int call_share(struct karena_call *call)
{
	struct karena_share *share = &call->args.share;
	struct file *file = karena_share_open(call->heap, share);

	if (IS_ERR(file))
		return PTR_ERR(file);
	return call_answer_file(call, sizeof(*share), file);
}

struct karena_call_type {
	unsigned int cmd;
	size_t size_first;	/* up to the last member of the first version */
	size_t size;
	int (*run)(struct karena_call *call);
};

#define CALL(_cmd, _run, _struct, _last) {				\
	.cmd		= _cmd,						\
	.size_first	= offsetofend(struct _struct, _last),		\
	.size		= sizeof(struct _struct),			\
	.run		= _run,						\
}

static const struct karena_call_type device_calls[] = {
	CALL(KARENA_INFO, call_info, karena_info, committed),
	CALL(KARENA_CREATE, call_create, karena_create, control_size),
	CALL(KARENA_ATTACH, call_attach, karena_attach, control_size),
	CALL(KARENA_SNAPSHOT, call_snapshot, karena_snapshot, control_size),
};

static const struct karena_call_type heap_calls[] = {
	CALL(KARENA_LIMIT, call_limit, karena_limit, soft),
	CALL(KARENA_READY, call_ready, karena_ready, reserved),
	CALL(KARENA_COMMIT, call_commit, karena_ranges, reserved),
	CALL(KARENA_RELEASE, call_release, karena_ranges, reserved),
	CALL(KARENA_SNAPSHOT, call_snapshot, karena_snapshot, control_size),
	CALL(KARENA_SHARE, call_share, karena_share, length),
};

static int call_run(struct karena_call *call, unsigned int cmd,
		    const struct karena_call_type *types, size_t nr)
{
	const struct karena_call_type *type = types;
	int err;

	while (type->cmd != cmd) {
		if (++type == types + nr)
			return -ENOTTY;
	}
	if (get_user(call->size, (u32 __user *)call->user))
		return -EFAULT;
	if (call->size < type->size_first)
		return -EINVAL;
	if (call->size > PAGE_SIZE)
		return -E2BIG;
	err = copy_struct_from_user(&call->args, type->size, call->user, call->size);
	if (err)
		return err;
	return type->run(call);
}

static bool call_known(unsigned int cmd)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(heap_calls); i++) {
		if (heap_calls[i].cmd == cmd)
			return true;
	}
	return false;
}

/**
 * karena_ioctl() - Run a call on the device.
 * @file: The device.
 * @cmd: The call, such as KARENA_INFO.
 * @arg: Address of the call's struct.
 *
 * Return: The result of the call or a negative errno, as in uapi/linux/karena.h.
 */
long karena_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct karena_call call = { .file = file, .user = (void __user *)arg };

	return call_run(&call, cmd, device_calls, ARRAY_SIZE(device_calls));
}

/* Run a call on a heap, such as KARENA_LIMIT. */
static long heap_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct karena_heap *heap = karena_heap_mine(file);
	struct karena_call call = { .heap = heap, .user = (void __user *)arg };
	long ret;

	if (IS_ERR(heap))
		return call_known(cmd) ? PTR_ERR(heap) : -ENOTTY;
	ret = call_run(&call, cmd, heap_calls, ARRAY_SIZE(heap_calls));
	karena_heap_put(heap);
	return ret;
}

/*
 * Run a call on a heap from a submission queue entry, with the same struct. COMMIT and
 * RELEASE, which allocate and clear memory, return -EAGAIN; io_uring then runs them in a
 * worker of the ring, which has the process's mm. The ring cancels queued requests, and
 * interrupts running ones as a signal does.
 */
static int heap_uring_cmd(struct io_uring_cmd *cmd, unsigned int flags)
{
	const struct karena_uring *call = karena_uring_payload(cmd);
	unsigned int number = cmd->cmd_op;
	u64 arg = READ_ONCE(call->arg);
	long ret;

	if (READ_ONCE(call->reserved))
		return -EINVAL;
	if (number == KARENA_SNAPSHOT || number == KARENA_SHARE)
		return -ENOTTY;
	if ((number == KARENA_COMMIT || number == KARENA_RELEASE) &&
	    flags & IO_URING_F_NONBLOCK) {
		karena_uring_keep(cmd, flags);
		return -EAGAIN;
	}
	ret = heap_ioctl(cmd->file, number, arg);
	/* io_uring restarts no request. */
	return ret == -ERESTARTNOHAND ? -EINTR : ret;
}
