/* SPDX-License-Identifier: MIT */
/*
 * Debug hooks: what is behind the domains puts pads around each block, fills what is
 * fresh and what is freed, and knows of each block who took it and who gave it back. A
 * call that finds something wrong says what, on the standard error, with the stacks of
 * these calls, and ends the program with SIGABRT.
 *
 * The environment has them without a change to a program, at the first call of a
 * domain, and for libkarena-malloc.so likewise:
 *
 *	KARENA_MALLOC=debug	the hooks
 *	KARENA_MALLOC=guard	the hooks, and behind each block a page that cannot be
 *				touched
 *	KARENA_QUARANTINE=SIZE	how many bytes of freed blocks are kept from being used
 *				again, 1M by default; the oldest go first
 *
 * With KARENA_MALLOC empty, "default", or "count" (see ka_domain_stats()), there are
 * none; anything else ends the program with a sentence and status 125.
 *
 * Layout, patterns and texts are those of CPython's PyMem_SetupDebugHooks() (PEP 445,
 * Objects/obmalloc.c). All functions may be called by several threads at once, and in a
 * child after fork(); none from a signal handler.
 */
#ifndef KARENA_DEBUG_H
#define KARENA_DEBUG_H

#include <karena/domain.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

/**
 * ka_debug_install() - Put the debug hooks before what is behind all three domains.
 *
 * Once for each domain and process: where they are, by the environment or an earlier
 * call, nothing is done. To be called before the first block is taken: one from before
 * is no block to them. They call the malloc and free of what was there; realloc and
 * calloc are theirs.
 *
 * Return: 0, or -1 with errno: EINVAL, KARENA_QUARANTINE is no size; ENOMEM, no memory.
 */
int ka_debug_install(void);

/**
 * ka_debug_check() - Look whether all is well.
 * @block: A block that is in use, of any domain; or NULL: all of them, and those in
 *	quarantine.
 *
 * What is wrong ends the program. What was written to a freed block is seen here, when
 * the block leaves the quarantine, and, where the environment asked for the hooks, at
 * exit.
 *
 * Return: How many blocks were looked at; 0 without the hooks.
 */
size_t ka_debug_check(const void *block);

/**
 * ka_debug_dump() - Write what is known of a block on the standard error.
 * @address: Any address in or around the block.
 *
 * In use or in quarantine; that something is wrong with it is shown, but ends nothing.
 *
 * Return: 0, or -1 with errno: EINVAL, no block is there, as far as the hooks know.
 */
int ka_debug_dump(const void *address);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif /* KARENA_DEBUG_H */
