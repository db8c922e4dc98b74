// SPDX-License-Identifier: MIT
/*
 * The slow paths of locks, and the locks that a fork takes: see lock.h.
 */
#include "base/lock.h"
#include "base/sys.h"

/**
 * ka_mutex_wait() - Take a lock that another thread holds.
 * @mutex: The lock.
 *
 * Context: Sleeps until the lock is free.
 */
void ka_mutex_wait(struct ka_mutex *mutex)
{
	while (__atomic_exchange_n(&mutex->state, 2, __ATOMIC_ACQUIRE))
		ka_wait(&mutex->state, 2, 0);
}

/**
 * ka_mutex_wake() - Wake a thread that waits for a lock.
 * @mutex: The lock, which no thread holds.
 */
void ka_mutex_wake(struct ka_mutex *mutex)
{
	ka_wake(&mutex->state);
}

uintptr_t ka_forking;
struct ka_mutex ka_lists = KA_MUTEX;

/*
 * The tables of the locks that a fork takes, which KA_FORK_TAKES() and KA_FORK_TAKES_INNER() fill.
 * The linker defines these symbols, unless no file that is linked has such a lock.
 */
extern struct ka_mutex *const outer[] __asm__("__start_karena_locks")
	__attribute__((visibility("hidden"), weak));
extern struct ka_mutex *const outer_end[] __asm__("__stop_karena_locks")
	__attribute__((visibility("hidden"), weak));
extern struct ka_mutex *const inner[] __asm__("__start_karena_inner_locks")
	__attribute__((visibility("hidden"), weak));
extern struct ka_mutex *const inner_end[] __asm__("__stop_karena_inner_locks")
	__attribute__((visibility("hidden"), weak));

static size_t table_size(struct ka_mutex *const *start, struct ka_mutex *const *end)
{
	return ((uintptr_t)end - (uintptr_t)start) / sizeof(struct ka_mutex *);
}

/**
 * ka_fork_lock() - Take all locks that a fork takes, except those of heaps.
 */
void ka_fork_lock(void)
{
	for (size_t i = 0; i < table_size(outer, outer_end); i++)
		ka_mutex_lock(outer[i]);
	ka_mutex_lock(&ka_lists);
	for (size_t i = 0; i < table_size(inner, inner_end); i++)
		ka_mutex_lock(inner[i]);
}

/**
 * ka_fork_unlock() - Release the locks that ka_fork_lock() has taken.
 */
void ka_fork_unlock(void)
{
	for (size_t i = table_size(inner, inner_end); i > 0; i--)
		ka_mutex_unlock(inner[i - 1]);
	ka_mutex_unlock(&ka_lists);
	for (size_t i = table_size(outer, outer_end); i > 0; i--)
		ka_mutex_unlock(outer[i - 1]);
}
