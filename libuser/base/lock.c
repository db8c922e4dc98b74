// SPDX-License-Identifier: MIT
/*
 * What locks do when they are taken already, see lock.h.
 */
#include "base/lock.h"
#include "base/sys.h"

/**
 * ka_mutex_wait() - Take a lock that somebody else has.
 * @mutex: The lock.
 */
void ka_mutex_wait(struct ka_mutex *mutex)
{
	while (__atomic_exchange_n(&mutex->state, 2, __ATOMIC_ACQUIRE))
		ka_wait(&mutex->state, 2, 0);
}

/**
 * ka_mutex_wake() - Let one of those who wait for a lock try to take it.
 * @mutex: The lock, which nobody has.
 */
void ka_mutex_wake(struct ka_mutex *mutex)
{
	ka_wake(&mutex->state);
}
