/* SPDX-License-Identifier: MIT */
/*
 * Locks. A thread that forks takes all of them before it does so, and handlers of other
 * libraries may run, and allocate, while it holds them: for this thread a lock is as good
 * as taken then. See fork.c.
 */
#ifndef KARENA_LOCK_H
#define KARENA_LOCK_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* A number for the calling thread that no other has: the address of its TCB. */
static inline uintptr_t ka_thread(void)
{
	return (uintptr_t)__builtin_thread_pointer();
}

/* The thread that forks and holds all locks; or 0. A child's only thread has its number. */
extern uintptr_t ka_forking;

static inline bool ka_is_forking(void)
{
	return __builtin_expect(__atomic_load_n(&ka_forking, __ATOMIC_RELAXED) ==
				ka_thread(), 0);
}

static inline void ka_lock(pthread_mutex_t *lock)
{
	if (!ka_is_forking())
		pthread_mutex_lock(lock);
}

static inline void ka_unlock(pthread_mutex_t *lock)
{
	if (!ka_is_forking())
		pthread_mutex_unlock(lock);
}

/* Let a fork take a lock, before those of the heaps; once for each lock. */
void ka_fork_takes(pthread_mutex_t *lock);

#endif /* KARENA_LOCK_H */
