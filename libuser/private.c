// SPDX-License-Identifier: MIT
/*
 * What libkarena-uring is told of a heap.
 */
#include "internal.h"
#include "private.h"

int ka_private_fail(int error, const char *sentence)
{
	return ka_fail(error, "%s", sentence);
}

char *ka_private_window(const struct ka_heap *heap, size_t *size)
{
	*size = heap->window.nr_arenas * KA_ARENA_SIZE;
	return heap->window.start;
}

size_t ka_private_committed(struct ka_heap *heap, size_t *from)
{
	size_t arena = *from / KA_ARENA_SIZE, length = 0;
	const struct ka_notes *notes = heap->notes;

	pthread_mutex_lock(&heap->lock);
	if (ka_refuse_inherited(heap)) {
		pthread_mutex_unlock(&heap->lock);
		return 0;
	}
	while (arena < notes->nr_touched && !ka_arena_at(notes, arena)->committed)
		arena++;
	*from = arena * KA_ARENA_SIZE;
	/* One that is committed in part is the last of a row. */
	while (arena < notes->nr_touched && length % KA_ARENA_SIZE == 0 &&
	       ka_arena_at(notes, arena)->committed)
		length += ka_arena_at(notes, arena++)->committed * KA_PAGE_SIZE;
	pthread_mutex_unlock(&heap->lock);
	return length;
}
