/* SPDX-License-Identifier: MIT */
/* Copyright (C) 2026 The karena authors */
/**
 * DOC: Rules of the debug hooks
 *
 * The debug hooks are an allocator in front of that of each domain. It puts pads around each
 * block, fills new and freed memory with patterns, and records which call allocated each
 * block and which one freed it. A call that finds an error prints it to standard error with
 * the stacks of these calls, and aborts the program.
 *
 * The environment installs the hooks without a change to the program, at the first call
 * of a domain. libkarena-malloc.so reads the same variables:
 *
 * KARENA_MALLOC=debug
 *	Install the hooks.
 * KARENA_MALLOC=guard
 *	Install the hooks, and put an inaccessible page behind each block.
 * KARENA_QUARANTINE=SIZE
 *	Keep that many bytes of freed blocks from being allocated again, 1M by default; the
 *	oldest leave first.
 *
 * If KARENA_MALLOC is empty, "default", or "count" (see ka_domain_stats()), there are no
 * hooks. The library ignores any other value with a message on standard error.
 *
 * Layout, patterns and messages are those of CPython's PyMem_SetupDebugHooks() (PEP 445,
 * Objects/obmalloc.c).
 *
 * Threads: several threads may call all functions at once. Fork: a child may call them.
 * Signals: a signal handler must not call any of them.
 */
#ifndef KARENA_DEBUG_H
#define KARENA_DEBUG_H

#include <karena/domain.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

/**
 * ka_debug_install() - Install the debug hooks in all three domains.
 *
 * Does nothing where they are installed already, by the environment or an earlier call. A
 * program calls this before it allocates its first block, since the hooks report earlier
 * blocks as invalid. The hooks call malloc and free of the allocator that was there, and
 * implement realloc and calloc themselves.
 *
 * Return: 0, or -1 with errno: EINVAL, KARENA_QUARANTINE is not a size; ENOMEM, no memory.
 */
int ka_debug_install(void);

/**
 * ka_debug_check() - Check a block.
 * @block: An allocated block of any domain.
 *
 * Aborts the program if the call finds an error.
 *
 * Return: 1, the block is sound; 0, there are no hooks.
 */
size_t ka_debug_check(const void *block);

/**
 * ka_debug_check_all() - Check all allocated blocks and those in quarantine.
 *
 * Aborts the program if the call finds an error. The hooks also detect a write to a freed
 * block when the block leaves the quarantine and, if the environment installed them, at
 * exit.
 *
 * Return: The number of checked blocks; 0 without the hooks.
 */
size_t ka_debug_check_all(void);

/**
 * ka_debug_dump() - Print the record of a block, with its stacks, to standard error.
 * @address: Any address in or around the block, which is allocated or in quarantine.
 *
 * Shows errors in the block and does not abort.
 *
 * Return: 0, or -1 with errno: EINVAL, the hooks know no block there.
 */
int ka_debug_dump(const void *address);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif /* KARENA_DEBUG_H */
