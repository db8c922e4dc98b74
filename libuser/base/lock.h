/* SPDX-License-Identifier: MIT */
/*
 * Locks. Threads take them in this order:
 *
 *	the locks of KA_FORK_TAKES(), in the order in which their files are linked
 *	ka_lists: the list of heaps, and the lists of caches
 *	the locks of KA_FORK_TAKES_INNER()
 *	the lock of a cache
 *	the lock that a thread holds while it writes a heap's statistics
 *	the lock of a heap
 *
 * A lock is a word: 0, or 1 while a thread holds it, or 2 while others may wait for it. Mutexes
 * of libc are not used, since a preloaded library may replace their functions by functions
 * that allocate. The algorithm is the third of Ulrich Drepper's "Futexes Are Tricky".
 *
 * A thread that forks takes all locks first. Handlers of other libraries may run, and allocate,
 * while it holds them, so ka_lock() does nothing in that thread. See heap/fork.c.
 */
#ifndef KARENA_LOCK_H
#define KARENA_LOCK_H

#include <stdbool.h>
#include <stdint.h>

/* The number of the calling thread, which is unique: the address of its TCB. */
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

/* Take a lock if it is free. True if the thread holds it now. */
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

/* As ka_mutex_try(); also true in a thread that forks. */
static inline bool ka_try_lock(struct ka_mutex *mutex)
{
	return ka_is_forking() || ka_mutex_try(mutex);
}

/*
 * Make forks take a lock, before ka_lists or after it. The linker collects the addresses of these
 * locks in a section, so no code has to run before the first use of a lock. With "retain", lld
 * keeps them in a program that is linked with --gc-sections, too.
 */
#define KA_FORK_TABLE(name, lock)						\
	static struct ka_mutex *const lock##_entry				\
		__attribute__((section(name), used, retain)) = &(lock)
#define KA_FORK_TAKES(lock)		KA_FORK_TABLE("karena_locks", lock)
#define KA_FORK_TAKES_INNER(lock)	KA_FORK_TABLE("karena_inner_locks", lock)

/* Take and release all locks that a fork takes before those of heaps. */
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
