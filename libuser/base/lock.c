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
 * @mutex: The lock, which nobody has.
 */
void ka_mutex_wake(struct ka_mutex *mutex)
{
	ka_wake(&mutex->state);
}

uintptr_t ka_forking;
struct ka_mutex ka_lists = KA_MUTEX;

/* Locks that a fork takes before @ka_lists, and after it. */
#define MOST_LOCKS	8

static struct ka_mutex *outer[MOST_LOCKS], *inner[MOST_LOCKS];
static unsigned int nr_outer, nr_inner;

static void locks_unlock_outer(unsigned int count)
{
	while (count)
		ka_mutex_unlock(outer[--count]);
}

/**
 * ka_fork_lock() - Take all locks that a fork takes, except those of heaps.
 *
 * Context: No lock is added to them before ka_fork_unlock().
 */
void ka_fork_lock(void)
{
	unsigned int count;

	for (;;) {
		count = __atomic_load_n(&nr_outer, __ATOMIC_ACQUIRE);
		for (unsigned int i = 0; i < count; i++)
			ka_mutex_lock(outer[i]);
		ka_mutex_lock(&ka_lists);
		if (count == nr_outer)
			break;
		ka_mutex_unlock(&ka_lists);
		locks_unlock_outer(count);
	}
	for (unsigned int i = 0; i < nr_inner; i++)
		ka_mutex_lock(inner[i]);
}

/**
 * ka_fork_unlock() - Release the locks that ka_fork_lock() has taken.
 */
void ka_fork_unlock(void)
{
	for (unsigned int i = nr_inner; i > 0; i--)
		ka_mutex_unlock(inner[i - 1]);
	ka_mutex_unlock(&ka_lists);
	locks_unlock_outer(nr_outer);
}

/*
 * Add a lock; @ka_lists is held. If the caller is forking, the fork holds the lock from now on.
 * In a child whose parent forked during pthread_once(), the lock may have been added already.
 */
static void lock_add(struct ka_mutex *locks[], unsigned int *count, struct ka_mutex *lock)
{
	for (unsigned int i = 0; i < *count; i++) {
		if (locks[i] == lock)
			return;
	}
	locks[*count] = lock;
	__atomic_store_n(count, *count + 1, __ATOMIC_RELEASE);
	if (ka_is_forking())
		ka_mutex_lock(lock);
}

/**
 * ka_fork_takes() - Add a lock to those that a fork takes.
 * @lock: The lock, which threads take before that of the lists.
 */
void ka_fork_takes(struct ka_mutex *lock)
{
	ka_lists_lock();
	lock_add(outer, &nr_outer, lock);
	ka_lists_unlock();
}

/**
 * ka_fork_takes_inner() - Add a lock to those that a fork takes.
 * @lock: The lock, which threads take after that of the lists and before that of a heap.
 */
void ka_fork_takes_inner(struct ka_mutex *lock)
{
	ka_lists_lock();
	lock_add(inner, &nr_inner, lock);
	ka_lists_unlock();
}
