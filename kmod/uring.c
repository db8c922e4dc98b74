// SPDX-License-Identifier: GPL-2.0
/*
 * The calls on a heap through io_uring: the same calls on the same structs. What
 * allocates and clears runs in the ring's workers, which have the process's mm; the
 * ring cancels what is queued, and interrupts what runs as a signal does.
 */
#include <linux/err.h>

#include "compat.h"
#include "karena.h"

static bool call_waits(unsigned int cmd)
{
	return cmd == KARENA_COMMIT || cmd == KARENA_RELEASE;
}

/**
 * karena_heap_uring_cmd() - A call on a heap, from a submission queue entry.
 * @cmd: The command: its number and struct karena_uring.
 * @flags: How it is issued.
 *
 * Return: What the call returns, or a negative errno; -EAGAIN where it must not wait: then
 * a worker tries it again.
 */
int karena_heap_uring_cmd(struct io_uring_cmd *cmd, unsigned int flags)
{
	const struct karena_uring *call = karena_uring_payload(cmd);
	unsigned int number = cmd->cmd_op;
	u64 arg = READ_ONCE(call->arg);
	long ret;

	if (READ_ONCE(call->reserved))
		return -EINVAL;
	if (number == KARENA_SNAPSHOT || number == KARENA_SHARE)
		return -ENOTTY;
	if (call_waits(number) && flags & IO_URING_F_NONBLOCK) {
		karena_uring_keep(cmd, flags);
		return -EAGAIN;
	}
	ret = karena_heap_ioctl(cmd->file, number, arg);
	/* Nobody restarts a request. */
	return ret == -ERESTARTNOHAND ? -EINTR : ret;
}
