// SPDX-License-Identifier: GPL-2.0
/*
 * The reserve: cleared huge frames that the administrator sets aside for all heaps,
 * as hugetlb's pool is. Nothing can be charged to a memory cgroup once it is
 * allocated: these frames are charged to none, also when a heap has them. They
 * are not reclaimed. Only so many are ever out of a memory cgroup's reach: one that
 * a heap has is replaced when the heap gives it up.
 */
#include <linux/cpuset.h>
#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/nodemask.h>

#include "karena.h"

/* Until the next try, without memory. */
#define PAUSE	HZ

#define RESERVE_GFP	((KARENA_FRAME_GFP & ~__GFP_ACCOUNT) | __GFP_THISNODE)

/* Guards the two below it; nothing is allocated under it. */
static DEFINE_SPINLOCK(reserve_lock);
static LIST_HEAD(reserve);
static unsigned long nr_reserve;

static atomic_long_t nr_used;		/* that heaps have */

static unsigned long reserve_target;	/* in frames */
static int last_node = NUMA_NO_NODE;

static struct kthread_worker *reserve_worker;
static struct kthread_delayed_work reserve_work;

static void reserve_run(unsigned long delay)
{
	struct kthread_worker *worker = READ_ONCE(reserve_worker);

	if (worker)
		kthread_mod_delayed_work(worker, &reserve_work, delay);
}

/* In bytes, with K, M or G. */
static int reserve_set(const char *text, const struct kernel_param *param)
{
	char *end;
	unsigned long long bytes = memparse(text, &end);

	if (end == text || (*end && *end != '\n'))
		return -EINVAL;
	if (bytes >> PAGE_SHIFT > totalram_pages())
		return -EINVAL;
	WRITE_ONCE(reserve_target, bytes >> KARENA_ARENA_SHIFT);
	reserve_run(0);
	return 0;
}

static int reserve_get(char *buffer, const struct kernel_param *param)
{
	return sysfs_emit(buffer, "%llu\n", (u64)READ_ONCE(reserve_target) <<
			  KARENA_ARENA_SHIFT);
}

static const struct kernel_param_ops reserve_ops = {
	.set	= reserve_set,
	.get	= reserve_get,
};
module_param_cb(reserve, &reserve_ops, NULL, 0644);
MODULE_PARM_DESC(reserve, "bytes of frames set aside for all heaps, charged to no memory cgroup (default: 0)");

/* A frame of a node, or of any of those allowed. */
static struct folio *reserve_pop(int node, const nodemask_t *allowed)
{
	struct folio *folio, *found = NULL;

	spin_lock(&reserve_lock);
	list_for_each_entry(folio, &reserve, lru) {
		int here = folio_nid(folio);

		if (node == NUMA_NO_NODE ? node_isset(here, *allowed) :
		    here == node) {
			found = folio;
			list_del(&folio->lru);
			nr_reserve--;
			break;
		}
	}
	spin_unlock(&reserve_lock);
	return found;
}

/* Whether the thread has a memory policy of its own. */
static bool has_policy(void)
{
#ifdef CONFIG_NUMA
	return current->mempolicy;
#else
	return false;
#endif
}

/**
 * karena_reserve_take() - Take a frame of the reserve to commit it.
 * @heap: Whose it becomes; it has charged it to the limits.
 * @node: Where it is to be; NUMA_NO_NODE: where the current thread's memory is.
 *
 * Return: A zeroed frame, or NULL.
 */
struct folio *karena_reserve_take(struct karena_heap *heap, int node)
{
	bool any = node == NUMA_NO_NODE && !has_policy();
	struct folio *folio;

	if (!READ_ONCE(nr_reserve))
		return NULL;
	if (node == NUMA_NO_NODE)
		node = karena_folio_local_node();
	if (!karena_folio_node_allowed(node))
		return NULL;
	folio = reserve_pop(node, NULL);
	if (!folio && any)
		folio = reserve_pop(NUMA_NO_NODE, &cpuset_current_mems_allowed);
	if (!folio)
		return NULL;
	/* Known by it when it is freed; see karena_folio_put(). */
	folio->private = &nr_used;
	atomic_long_inc(&nr_used);
	return folio;
}

/**
 * karena_reserve_put() - A heap has given up a frame of the reserve.
 */
void karena_reserve_put(void)
{
	atomic_long_dec(&nr_used);
	reserve_run(0);
}

/* On all nodes with memory in turn. */
static bool reserve_fill(void)
{
	struct folio *folio;

	last_node = next_node_in(last_node, node_states[N_MEMORY]);
	folio = __folio_alloc_node(RESERVE_GFP, KARENA_ARENA_ORDER, last_node);
	if (!folio)
		return false;
	spin_lock(&reserve_lock);
	list_add_tail(&folio->lru, &reserve);
	nr_reserve++;
	spin_unlock(&reserve_lock);
	return true;
}

static void reserve_work_fn(struct kthread_work *work)
{
	unsigned long target = READ_ONCE(reserve_target);
	unsigned long used = atomic_long_read(&nr_used);

	if (nr_reserve + used < target)
		reserve_run(reserve_fill() ? 0 : PAUSE);
	while (nr_reserve && nr_reserve + used > target) {
		struct folio *folio = reserve_pop(NUMA_NO_NODE, &node_states[N_MEMORY]);

		if (!folio)
			break;
		karena_folio_put(folio);
		cond_resched();
	}
}

/**
 * karena_reserve_frames() - Count the frames in the reserve, which no heap has.
 *
 * Return: Their number.
 */
long karena_reserve_frames(void)
{
	return READ_ONCE(nr_reserve);
}

/* The parameter may be written at any time, and tells the worker. */
static void reserve_set_worker(struct kthread_worker *worker)
{
	kernel_param_lock(THIS_MODULE);
	reserve_worker = worker;
	kernel_param_unlock(THIS_MODULE);
}

/**
 * karena_reserve_init() - Begin to fill the reserve.
 * @worker: Who does it.
 */
void karena_reserve_init(struct kthread_worker *worker)
{
	kthread_init_delayed_work(&reserve_work, reserve_work_fn);
	reserve_set_worker(worker);
	kthread_mod_delayed_work(worker, &reserve_work, 0);
}

/**
 * karena_reserve_exit() - Free the reserve.
 */
void karena_reserve_exit(void)
{
	struct folio *folio;

	reserve_set_worker(NULL);
	kthread_cancel_delayed_work_sync(&reserve_work);
	while ((folio = reserve_pop(NUMA_NO_NODE, &node_states[N_MEMORY])))
		karena_folio_put(folio);
}
