// SPDX-License-Identifier: GPL-2.0
/*
 * Purging: how a frame is taken from an arena for reclaim, which has not been asked
 * for. Nothing is allocated, and nobody waited for who might allocate.
 */
#include <linux/mm.h>
#include <linux/pagemap.h>

#include "arena.h"

/*
 * A page that is taken unasked. Its lock keeps faults away, which hold it until they
 * have mapped the page, and a moment longer than they have a reference. If it is the
 * arena's alone and its reference is the only one, nobody uses it, or gets to: who looks
 * into the arena takes a reference under the lock that we hold. If others have it we
 * leave them theirs.
 */
static bool page_hold(struct karena_arena *arena, struct page *page)
{
	struct folio *folio = page_folio(page);

	if (!folio_trylock(folio))
		return false;
	if (karena_arena_shared(arena, page) || folio_ref_freeze(folio, 1))
		return true;
	folio_unlock(folio);
	return false;
}

static void page_let_go(struct karena_arena *arena, struct page *page, bool *shared)
{
	struct folio *folio = page_folio(page);

	if (karena_arena_shared(arena, page))
		*shared = true;
	else
		folio_ref_unfreeze(folio, 1);
	folio_unlock(folio);
}

/* The n-th of the pages that are held: those of the sparse frame, and the huge one. */
static struct page *purge_page(struct karena_arena *arena, unsigned long n)
{
	struct karena_frame *huge = karena_arena_huge(arena);
	struct page *page = NULL;

	if (n == KARENA_ARENA_PAGES)
		return huge ? folio_page(huge->folio, 0) : NULL;
	if (arena->frame->pages)
		page = arena->frame->pages[n];
	return karena_page_real(page) ? page : NULL;
}

/* With CHANGING and the family's lock held: take all out of the arena, or nothing. */
static bool purge_take(struct karena_arena *arena, bool *shared)
{
	unsigned long n, held;
	struct page *page;

	karena_arena_assert_locked(arena);
	lockdep_assert_held(&arena->heap->family->lock);
	for (held = 0; held <= KARENA_ARENA_PAGES; held++) {
		page = purge_page(arena, held);
		if (page && !page_hold(arena, page))
			break;
	}
	for (n = 0; n < held; n++) {
		page = purge_page(arena, n);
		if (page)
			page_let_go(arena, page, shared);
	}
	if (held <= KARENA_ARENA_PAGES)
		return false;
	karena_arena_empty(arena);
	return true;
}

/* With CHANGING held: whether a device may be using a page; perhaps it is not. */
static bool arena_pinned(struct karena_arena *arena)
{
	unsigned long n;

	for (n = 0; n <= KARENA_ARENA_PAGES; n++) {
		struct page *page = purge_page(arena, n);

		if (page && folio_maybe_dma_pinned(page_folio(page)))
			return true;
	}
	return false;
}

/* With CHANGING held, on an arena with a frame. */
static bool arena_purge(struct karena_arena *arena, u32 word)
{
	struct karena_frame *frame = arena->frame, *base = arena->base;
	struct karena_heap *heap = arena->heap;
	u32 *state = karena_state(heap, arena->index);
	bool taken, shared = false;

	/* Kinder than to take what a device is writing to. */
	if (arena_pinned(arena) || cmpxchg(state, word, KARENA_BUSY) != word)
		return false;
	karena_arena_unmap(arena, 0, KARENA_ARENA_PAGES);
	spin_lock(&heap->family->lock);
	taken = purge_take(arena, &shared);
	cmpxchg(state, KARENA_BUSY, taken ? KARENA_FREE : word);
	spin_unlock(&heap->family->lock);
	if (!taken)
		return false;
	/* It may have been mapped again until we had its lock. */
	if (shared)
		karena_arena_unmap(arena, 0, KARENA_ARENA_PAGES);
	karena_arena_free(heap, frame, base);
	return true;
}

/**
 * karena_purge() - Take a volatile arena's frame, if nobody uses it.
 * @arena: The arena of a heap that heap->purges keeps.
 * @word: Its state word, as it was when the arena was chosen.
 *
 * Context: Reclaim. Waits for nobody who allocates, and allocates nothing. The heap may
 * be cloned meanwhile: what is volatile or BUSY is not the clone's either way.
 * Return: Whether it was taken; then the state word says FREE. No memory comes free
 * when others have all of it, too.
 */
bool karena_purge(struct karena_arena *arena, u32 word)
{
	bool taken = false;

	if (karena_arena_trylock(arena)) {
		if (arena->frame)
			taken = arena_purge(arena, word);
		karena_arena_unlock(arena);
	}
	return taken;
}
