/* SPDX-License-Identifier: MIT */
/*
 * Locks: a word that is 0, 1 while somebody has it, and 2 while others may wait for that.
 * They are no mutexes of libc, since a library that is preloaded may have put functions of
 * its own before these, which may allocate. The algorithm is the third of Ulrich Drepper's
 * "Futexes Are Tricky".
 *
 * A thread that forks takes all of them before it does so, and handlers of other
 * libraries may run, and allocate, while it holds them: for this thread a lock is as good
 * as taken then. See heap/fork.c.
 *
 * The order in which threads take them: those of ka_fork_takes(), that of the lists of heaps
 * and caches, those of ka_fork_takes_inner(), that of a cache, that of a heap.
 */
#ifndef KARENA_LOCK_H
#define KARENA_LOCK_H

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

struct ka_mutex {
	uint32_t state;
};

#define KA_MUTEX	{ 0 }

/* lock.c */
void ka_mutex_wait(struct ka_mutex *mutex);
void ka_mutex_wake(struct ka_mutex *mutex);

/* Whether it is taken now. */
static inline bool ka_mutex_try(struct ka_mutex *mutex)
{
	uint32_t free = 0;

	return __atomic_compare_exchange_n(&mutex->state, &free, 1, false, __ATOMIC_ACQUIRE,
					   __ATOMIC_RELAXED);
}

static inline void ka_mutex_lock(struct ka_mutex *mutex)
{
	if (__builtin_expect(!ka_mutex_try(mutex), 0))
		ka_mutex_wait(mutex);
}

static inline void ka_mutex_unlock(struct ka_mutex *mutex)
{
	if (__builtin_expect(__atomic_exchange_n(&mutex->state, 0, __ATOMIC_RELEASE) == 2, 0))
		ka_mutex_wake(mutex);
}

static inline void ka_lock(struct ka_mutex *mutex)
{
	if (!ka_is_forking())
		ka_mutex_lock(mutex);
}

static inline void ka_unlock(struct ka_mutex *mutex)
{
	if (!ka_is_forking())
		ka_mutex_unlock(mutex);
}

/* Whether it is taken now. */
static inline bool ka_try_lock(struct ka_mutex *mutex)
{
	return ka_is_forking() || ka_mutex_try(mutex);
}

/* Let a fork take a lock, before that of the lists, or behind it; once for each lock. */
void ka_fork_takes(struct ka_mutex *lock);
void ka_fork_takes_inner(struct ka_mutex *lock);

/* Take and release what a fork takes before the locks of heaps. */
void ka_fork_lock(void);
void ka_fork_unlock(void);

/* The lock of the lists: of all heaps, and of the caches of each. */
extern struct ka_mutex ka_lists;

static inline void ka_lists_lock(void)
{
	ka_lock(&ka_lists);
}

static inline void ka_lists_unlock(void)
{
	ka_unlock(&ka_lists);
}

#endif /* KARENA_LOCK_H */
