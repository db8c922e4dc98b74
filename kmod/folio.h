/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Charges of a heap, its control region, the folios of frames, and pressure.
 */
#ifndef _KARENA_FOLIO_H
#define _KARENA_FOLIO_H

#include <linux/mm.h>
#include <linux/poll.h>
#include <linux/wait.h>

#include "base.h"

struct mem_cgroup;

/**
 * struct karena_wait - The queue of processes that wait for a heap's pressure to rise.
 * @queue: The queue. Each of its entries holds a file of the family.
 * @left: Entry in the family's list, once the heap has been destroyed.
 * @rcu: To free it.
 */
struct karena_wait {
	wait_queue_head_t queue;
	struct list_head left;
	struct rcu_head rcu;
};

/* limit.c */
int karena_charge(struct karena_heap *heap, unsigned long pages);
void karena_uncharge(struct karena_heap *heap, unsigned long pages);
void karena_charge_heap(struct karena_heap *heap, long pages);
void karena_charge_all(long pages);
bool karena_charge_room(struct karena_heap *heap, unsigned long pages);
int karena_charge_ready(struct karena_heap *heap, unsigned long pages);
void karena_uncharge_ready(struct karena_heap *heap, unsigned long pages);
void karena_charge_committed(struct karena_heap *heap, unsigned long pages);
void karena_limit_abandon(struct karena_heap *heap);
unsigned long karena_limit_memlock(void);
bool karena_limit_exceeded(struct karena_heap *heap);
bool karena_limit_allows(struct karena_heap *heap, unsigned long pages);
int karena_limit_call(struct karena_heap *heap, struct karena_limit *call);
unsigned long karena_limit_pages(u64 bytes);
int karena_limit_by_root(struct karena_heap *heap, u64 bytes);
unsigned long karena_limit(void);
unsigned long karena_committed(void);
void karena_limit_init(void);

/* key.c */
int karena_key_prepare(struct karena_heap *heap, gfp_t gfp);
void karena_key_abandon(struct karena_heap *heap);
void karena_key_set(struct karena_heap *heap, struct folio *folio, pgoff_t page);
bool karena_key_is(struct karena_heap *heap, struct page *page, pgoff_t number);
void karena_key_claim(struct karena_heap *heap, struct page *page, pgoff_t number);
void karena_key_clear(struct folio *folio);

/* control.c */
struct page *karena_control_page(struct karena_heap *heap, unsigned long number,
				 gfp_t gfp);
bool karena_control_states(struct karena_heap *heap, unsigned long index, gfp_t gfp);
void karena_control_copy(struct karena_heap *heap, struct karena_heap *clone);
u64 karena_control_size(unsigned long nr_arenas);
int karena_control_alloc(struct karena_heap *heap, gfp_t gfp);
void karena_control_lock(struct karena_heap *heap, struct page *page);
void karena_control_settle(struct karena_heap *heap);
void karena_control_free(struct karena_heap *heap);
struct karena_control *karena_control(struct karena_heap *heap);
void karena_control_stats(struct karena_heap *heap, struct karena_stats *stats);
bool karena_control_part(struct karena_heap *heap, unsigned long index,
			 unsigned long *gone);
u32 *karena_state(struct karena_heap *heap, unsigned long index);
unsigned long karena_control_word_pages(const struct karena_heap *heap);
u32 *karena_control_words(struct karena_heap *heap, unsigned long page,
			  unsigned long *first, unsigned long *count);

/* folio.c */
struct mem_cgroup *karena_folio_memcg(struct karena_heap *heap);
struct folio *karena_folio_alloc(struct karena_heap *heap, unsigned int order,
				 int node, gfp_t gfp);
bool karena_folio_bad(struct folio *folio);
void karena_folio_put(struct folio *folio);
void karena_folio_free(struct karena_heap *heap, struct folio *folio, bool counted);
void karena_folio_reap_some(struct karena_heap *heap);
bool karena_folio_reap(struct karena_heap *heap);
bool karena_folio_passing(struct karena_heap *heap);
void karena_folio_wait(struct karena_heap *heap);
void karena_folio_prepare(struct karena_heap *heap);
void karena_folio_abandon(struct karena_heap *heap);
int karena_folio_local_node(void);
bool karena_folio_node_allowed(int node);
int karena_folio_node(const struct karena_heap *heap, unsigned long index);
long karena_folio_orphans(void);
long karena_folio_poisoned(void);
void karena_folio_exit(void);

/* pressure.c */
void karena_pressure_raise(struct karena_heap *heap, u32 level);
void karena_pressure_check(struct karena_heap *heap);
bool karena_pressure_low(struct mem_cgroup *memcg);
__poll_t karena_pressure_poll(struct karena_heap *heap, struct file *file,
			      struct poll_table_struct *table);
int karena_pressure_prepare(struct karena_heap *heap, gfp_t gfp);
void karena_pressure_stop(struct karena_heap *heap);
void karena_pressure_forget(struct karena_family *family);

#endif /* _KARENA_FOLIO_H */
