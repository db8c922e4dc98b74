// SPDX-License-Identifier: MIT
/*
 * Changes of a pool's owner: from a thread to the shelf or to nobody, and back. See the
 * table in pool.h.
 */
#include "pool/pool.h"

/* Put a pool on the shelf, or return it if it is empty by now. The heap's lock is held. */
void ka_pool_shelve_locked(struct ka_pools *pools, struct ka_pool *pool)
{
	struct ka_pool_list *shelf = &pools->shelf[pool->class];

	ka_pool_link(shelf, pool);
	for (;;) {
		ka_pool_collect(pools, pool);
		if (!pool->used)
			break;
		/*
		 * Either a thread that frees a block after this finds the pool on the shelf,
		 * or this thread finds the block.
		 */
		__atomic_exchange_n(&pool->owner, KA_SHELF, __ATOMIC_SEQ_CST);
		if (!__atomic_load_n(&pool->remote, __ATOMIC_SEQ_CST))
			return;
	}
	ka_pool_unlink(shelf, pool);
	ka_pool_return_locked(pools, pool);
}

/**
 * ka_pool_shelve() - Put a pool on the shelf for the threads that need blocks of its class.
 * @pools: The pools of the heap.
 * @pool: A pool of the caller's, in no list. If it is empty, it is returned to the heap.
 *
 * Context: Takes the heap's lock.
 */
void ka_pool_shelve(struct ka_pools *pools, struct ka_pool *pool)
{
	ka_arenas_lock(&pools->arenas);
	ka_pool_shelve_locked(pools, pool);
	ka_arenas_unlock(&pools->arenas);
}

/* Choose the best of the first pools on a shelf, or NULL. */
static struct ka_pool *shelf_choose(const struct ka_pool_list *shelf)
{
	struct ka_pool *best = shelf->first, *pool = best;

	for (int i = 0; i < KA_LOOK_AT && pool; i++, pool = pool->next) {
		if (ka_pool_is_better(pool, best))
			best = pool;
	}
	return best;
}

/**
 * ka_pool_unshelve() - Take a pool from the shelf.
 * @pools: The pools of the heap.
 * @class: Size class of the blocks.
 * @owner: Number of the new owner.
 *
 * Context: Takes the heap's lock.
 *
 * Return: The pool, or NULL.
 */
struct ka_pool *ka_pool_unshelve(struct ka_pools *pools, unsigned int class, uintptr_t owner)
{
	struct ka_pool *pool;

	if (!__atomic_load_n(&pools->shelf[class].first, __ATOMIC_RELAXED))
		return NULL;
	ka_arenas_lock(&pools->arenas);
	pool = shelf_choose(&pools->shelf[class]);
	if (pool) {
		ka_pool_unlink(&pools->shelf[class], pool);
		__atomic_store_n(&pool->owner, owner, __ATOMIC_RELEASE);
	}
	ka_arenas_unlock(&pools->arenas);
	return pool;
}

/**
 * ka_pool_adopt_unowned() - Become the owner of a pool that had no owner a moment ago.
 * @pools: The pools of the heap.
 * @pool: The pool.
 * @owner: Number of the new owner.
 *
 * Context: May take the heap's lock.
 *
 * Return: True if the pool had no owner. The new owner has to collect its remote frees.
 */
bool ka_pool_adopt_unowned(struct ka_pools *pools, struct ka_pool *pool, uintptr_t owner)
{
	uintptr_t now = __atomic_load_n(&pool->owner, __ATOMIC_SEQ_CST);
	bool mine = false;

	if (now == KA_NOBODY && __libc_single_threaded) {
		__atomic_store_n(&pool->owner, owner, __ATOMIC_RELAXED);
		return true;
	}
	if (now == KA_NOBODY)
		return __atomic_compare_exchange_n(&pool->owner, &now, owner, false,
						   __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
	if (now != KA_SHELF)
		return false;
	ka_arenas_lock(&pools->arenas);
	if (__atomic_load_n(&pool->owner, __ATOMIC_RELAXED) == KA_SHELF) {
		ka_pool_unlink(&pools->shelf[pool->class], pool);
		__atomic_store_n(&pool->owner, owner, __ATOMIC_RELEASE);
		mine = true;
	}
	ka_arenas_unlock(&pools->arenas);
	return mine;
}

/**
 * ka_pool_disown() - Give up the ownership of a full pool.
 * @pools: The pools of the heap.
 * @pool: A pool of the caller's, in no list, without a free block.
 *
 * Return: True; false if other threads have freed blocks by now, and the caller still owns the
 * pool.
 */
bool ka_pool_disown(struct ka_pools *pools, struct ka_pool *pool)
{
	uintptr_t owner = ka_pool_owner(pool);

	/* No other thread can have freed a block since the last were collected. */
	if (__libc_single_threaded) {
		__atomic_store_n(&pool->owner, KA_NOBODY, __ATOMIC_RELAXED);
		return true;
	}
	/* Either a thread that frees a block from here on adopts the pool, or we see the block. */
	__atomic_exchange_n(&pool->owner, KA_NOBODY, __ATOMIC_SEQ_CST);
	return !__atomic_load_n(&pool->remote, __ATOMIC_SEQ_CST) ||
	       !ka_pool_adopt(pools, pool, owner | KA_CALLED);
}

/**
 * ka_pool_abandon() - Give up a pool: return it if it is empty, disown it if it is full, else put
 *	it on the shelf.
 * @pools: The pools of the heap.
 * @pool: A pool of the caller's, in no list.
 */
void ka_pool_abandon(struct ka_pools *pools, struct ka_pool *pool)
{
	ka_pool_collect(pools, pool);
	if (pool->free || pool->made < pool->capacity || !ka_pool_disown(pools, pool))
		ka_pool_shelve(pools, pool);
}

/**
 * ka_pool_call() - Tell the owner of a pool that other threads have freed blocks of it.
 * @pool: A pool of another thread. Nothing happens if it has no owner by now.
 */
void ka_pool_call(struct ka_pool *pool)
{
	uintptr_t owner = __atomic_load_n(&pool->owner, __ATOMIC_RELAXED);

	while (owner > KA_SPARE && !(owner & KA_CALLED) &&
	       !__atomic_compare_exchange_n(&pool->owner, &owner, owner | KA_CALLED, true,
					    __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
		;
}
