// SPDX-License-Identifier: GPL-2.0
/*
 * Purging: how reclaim frees the frame of a volatile arena, without asking the process. It
 * allocates nothing, and waits for no thread that may allocate.
 *
 * Process and reclaim agree by the state word alone, on processors that reorder accesses as
 * well:
 *
 * - Either the process replaces VOLATILE by ACTIVE, or reclaim replaces it by BUSY. Both are
 *   a compare-and-swap of one word, so only one succeeds.
 * - The process stores VOLATILE with release semantics, after its last access to the arena.
 *   The cmpxchg() that reads this word is fully ordered, so reclaim unmaps, checks and frees
 *   the pages after that access.
 * - The process's compare-and-swap has acquire semantics, so its next access comes after it.
 *   If reclaim had tried before and had failed, it stored VOLATILE by a cmpxchg(), which is
 *   fully ordered, after it had put the pages back.
 * - A stray access, which uses the arena in spite of VOLATILE, is over when the pages are
 *   unmapped: the unmapping waits until no processor has their translation.
 * - A process that reads FREE commits the arena again. The commit takes CHANGING, which
 *   reclaim drops after it has freed the frame.
 *
 * selftests/litmus has the first three as programs for herd7.
 */
#include <linux/mm.h>
#include <linux/pagemap.h>

#include "arena.h"

/* Returns the n-th of the pages to hold: those of the sparse frame, then the huge frame. */
static struct page *arena_held_page(struct karena_arena *arena, unsigned long n)
{
	struct karena_frame *huge = karena_arena_huge(arena);
	struct page *page = NULL;

	if (n == KARENA_ARENA_PAGES)
		return huge ? folio_page(huge->folio, 0) : NULL;
	if (arena->frame->pages)
		page = arena->frame->pages[n];
	return karena_page_real(page) ? page : NULL;
}

/*
 * Empty the arena if all of its pages can be held: locked, and with the count frozen if the
 * arena owns the page alone. A fault holds the lock until it has mapped the page. While the
 * count is frozen, no thread uses the page, and none can begin to: a fault gets its
 * reference under the family's lock, which is held here. Pages that other arenas share stay
 * theirs; then @shared becomes true. CHANGING and the family's lock are held.
 */
static bool arena_take(struct karena_arena *arena, bool *shared)
{
	unsigned long n, held;
	struct folio *folio;
	struct page *page;

	karena_arena_assert_locked(arena);
	lockdep_assert_held(&arena->heap->family->lock);
	for (held = 0; held <= KARENA_ARENA_PAGES; held++) {
		page = arena_held_page(arena, held);
		if (!page)
			continue;
		folio = page_folio(page);
		if (!folio_trylock(folio))
			break;
		if (!karena_arena_shared(arena, page) && !folio_ref_freeze(folio, 1)) {
			folio_unlock(folio);
			break;
		}
	}
	for (n = 0; n < held; n++) {
		page = arena_held_page(arena, n);
		if (!page)
			continue;
		folio = page_folio(page);
		if (karena_arena_shared(arena, page))
			*shared = true;
		else
			folio_ref_unfreeze(folio, 1);
		folio_unlock(folio);
	}
	if (held <= KARENA_ARENA_PAGES)
		return false;
	karena_arena_empty(arena);
	return true;
}

/* Returns true if a device may be using a page. CHANGING is held. */
static bool arena_is_pinned(struct karena_arena *arena)
{
	unsigned long n;

	for (n = 0; n <= KARENA_ARENA_PAGES; n++) {
		struct page *page = arena_held_page(arena, n);

		if (page && folio_maybe_dma_pinned(page_folio(page)))
			return true;
	}
	return false;
}

/**
 * karena_purge() - Free a volatile arena's frame, if no thread or device uses it.
 * @arena: The arena of a heap that heap->groups.purges keeps.
 * @word: The state word that it had when reclaim chose it.
 *
 * Context: Reclaim. Waits for no thread that may allocate, and allocates nothing. The heap
 * may be cloned at the same time: a clone gets no arena that is VOLATILE or BUSY.
 * Return: True if the arena was purged; its state word is FREE then. No memory becomes free
 * if other arenas share all of it.
 */
bool karena_purge(struct karena_arena *arena, u32 word)
{
	struct karena_heap *heap = arena->heap;
	struct karena_frame *frame, *base;
	u32 *state = karena_state(heap, arena->index);
	bool taken = false, shared = false;

	if (!karena_arena_trylock(arena))
		return false;
	frame = arena->frame;
	base = arena->base;
	/* A device may still write to a pinned page: purge another arena instead. */
	if (!frame || arena_is_pinned(arena) || cmpxchg(state, word, KARENA_BUSY) != word)
		goto unlock;
	karena_arena_unmap(arena, 0, KARENA_ARENA_PAGES);
	spin_lock(&heap->family->lock);
	taken = arena_take(arena, &shared);
	cmpxchg(state, KARENA_BUSY, taken ? KARENA_FREE : word);
	spin_unlock(&heap->family->lock);
	if (!taken)
		goto unlock;
	/* A fault may have mapped a shared page again before its folio was locked. */
	if (shared)
		karena_arena_unmap(arena, 0, KARENA_ARENA_PAGES);
	karena_arena_free(heap, frame, base);
unlock:
	karena_arena_unlock(arena);
	return taken;
}
