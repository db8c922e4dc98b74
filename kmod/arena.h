/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Arenas: the slots of a window, and how each gets, shares and loses its frame.
 */
#ifndef _KARENA_ARENA_H
#define _KARENA_ARENA_H

#include <linux/bitops.h>
#include <linux/lockdep.h>
#include <linux/mm_types.h>

#include "frame.h"

/**
 * enum karena_arena_flag - Bits of arena->flags; see base.h.
 * @KARENA_ARENA_CHANGING: A bit lock.
 * @KARENA_ARENA_FROZEN: Makes faults wait.
 */
enum karena_arena_flag {
	KARENA_ARENA_CHANGING,
	KARENA_ARENA_FROZEN,
};

/**
 * struct karena_arena - A slot of the window.
 * @heap: The heap.
 * @index: Its number in the window.
 * @flags: Bits of enum karena_arena_flag.
 * @tried_word: Its state word when reclaim last failed to purge it.
 * @tried: The time of that failure, in units of the state words.
 * @frame: Its frame, or NULL.
 * @base: The huge frame below a sparse frame, or NULL.
 */
struct karena_arena {
	struct karena_heap *heap;
	unsigned long index;
	unsigned long flags;
	u32 tried_word;
	u32 tried;
	struct karena_frame *frame;
	struct karena_frame *base;
};

/**
 * karena_arena_huge() - Find the huge frame of an arena, be it frame or base.
 * @arena: The arena, with CHANGING or the family's lock held.
 *
 * Return: The frame, or NULL.
 */
static inline struct karena_frame *karena_arena_huge(struct karena_arena *arena)
{
	if (arena->base)
		return arena->base;
	return arena->frame && arena->frame->folio ? arena->frame : NULL;
}

#ifdef CONFIG_LOCKDEP
extern struct lockdep_map karena_changing_map;
#endif

/*
 * Assert that the arena is locked and that this thread holds CHANGING, of this or another
 * arena.
 */
static inline void karena_arena_assert_locked(const struct karena_arena *arena)
{
	lockdep_assert(test_bit(KARENA_ARENA_CHANGING, &arena->flags) &&
		       lock_is_held(&karena_changing_map));
}

/* Arenas are allocated in chunks of this number, so that cloning a heap is fast. */
#define KARENA_CHUNK	64

/**
 * struct karena_chunk - Neighbouring arenas.
 * @arenas: KARENA_CHUNK consecutive arenas.
 */
struct karena_chunk {
	struct karena_arena arenas[KARENA_CHUNK];
};

/**
 * struct karena_windows - A process's mappings of a window.
 * @vmas: The mappings, by their offsets.
 * @nr: The number of mappings: a window may be mapped in parts.
 */
struct karena_windows {
	struct vm_area_struct **vmas;
	unsigned int nr;
};

/**
 * struct karena_place - The page that an arena has at a place in the window.
 * @page: The page, with its folio locked and referenced; or KARENA_ZERO.
 * @shared: Other arenas share the page, so a write must copy it first.
 * @by_pages: The arena has pages outside of its huge frame, so no PMD may map it.
 * @used: A fault has found the arena's huge frame before.
 */
struct karena_place {
	struct page *page;
	bool shared;
	bool by_pages;
	bool used;
};

/* window.c */
bool karena_is_window(const struct vm_area_struct *vma, const struct karena_heap *heap);
bool karena_windows_any(struct karena_heap *heap);
void karena_windows_get(struct karena_heap *heap, struct karena_windows *windows);
void karena_windows_put(struct karena_windows *windows);
void karena_windows_unmap(struct karena_windows *windows, unsigned long from,
			  unsigned long to);
bool karena_windows_can_protect(struct karena_heap *heap);
void karena_windows_protect(struct karena_windows *windows, unsigned long from,
			    unsigned long to);
bool karena_window_unmap(struct karena_heap *heap, unsigned long from, unsigned long to);

/* arena.c */
struct karena_arena *karena_arena(struct karena_heap *heap, unsigned long index);
struct karena_arena *karena_arena_make(struct karena_heap *heap, unsigned long index,
				       gfp_t gfp);
void karena_arena_lock(struct karena_arena *arena);
bool karena_arena_trylock(struct karena_arena *arena);
void karena_arena_unlock(struct karena_arena *arena);
void karena_arena_freeze(struct karena_arena *arena);
void karena_arena_thaw(struct karena_arena *arena);
void karena_arena_set_frame(struct karena_arena *arena, struct karena_frame *frame);
bool karena_arena_shared(struct karena_arena *arena, struct page *page);
unsigned long karena_arena_count_volatile(struct karena_heap *heap);
struct page *karena_arena_page(struct karena_arena *arena, unsigned long i);
bool karena_arena_has(struct karena_heap *heap, unsigned long page);
bool karena_arena_lock_page(struct karena_heap *heap, unsigned long page,
			    struct karena_place *place);
void karena_arena_unlock_page(struct karena_place *place);
void karena_arena_empty(struct karena_arena *arena);
void karena_arena_free(struct karena_heap *heap, struct karena_frame *frame,
		       struct karena_frame *base);
void karena_arena_unmap(struct karena_arena *arena, unsigned long first,
			unsigned long count);
void karena_arena_destroy_all(struct karena_heap *heap);
int karena_arena_init(void);
void karena_arena_exit(void);

/* sparse.c */
void karena_sparse_trim(struct karena_arena *arena);
void karena_sparse_set(struct karena_arena *arena, unsigned long i, struct folio *folio);
struct folio *karena_sparse_alloc(struct karena_arena *arena, unsigned long i,
				  gfp_t gfp);
void karena_sparse_settle(struct karena_arena *arena, const unsigned long *which);
void karena_sparse_freeze(struct karena_arena *arena, const unsigned long *which);
int karena_sparse_hold_huge(struct karena_frame *frame);
void karena_sparse_release(struct karena_arena *arena, const unsigned long *gone);
bool karena_sparse_demote(struct karena_arena *arena, const unsigned long *gone);

/* cow.c */
extern atomic_long_t karena_nr_copies;
extern atomic_long_t karena_nr_promoted;
int karena_cow_split(struct karena_arena *arena, gfp_t gfp);
int karena_cow_copy(struct karena_heap *heap, struct vm_area_struct *vma,
		    unsigned long page);
int karena_cow_copy_held(struct karena_arena *arena,
			 bool (*held)(struct karena_arena *arena, struct page *page));
bool karena_cow_promote(struct karena_heap *heap, unsigned long page);
unsigned long karena_cow_shared(struct karena_heap *heap);
void karena_cow_prepare(struct karena_heap *heap);
void karena_cow_queue_promote(struct karena_family *family);
void karena_cow_begin(struct karena_family *family);
void karena_cow_end(struct karena_family *family);

/* commit.c */
int karena_commit(struct karena_heap *heap, unsigned long page, unsigned long count,
		  bool single, bool *again);
void karena_release(struct karena_heap *heap, unsigned long index,
		    const unsigned long *gone);

/* purge.c */
bool karena_purge(struct karena_arena *arena, u32 word);

/* reclaim.c */
extern atomic_long_t karena_nr_reclaimed;
extern atomic_long_t karena_nr_reclaimed_ready;
int karena_reclaim_init(void);
void karena_reclaim_exit(void);

#endif /* _KARENA_ARENA_H */
