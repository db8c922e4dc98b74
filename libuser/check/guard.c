// SPDX-License-Identifier: MIT
/*
 * The memory of a block: a block of the allocator below the hooks or, with a guard, a run whose
 * last page is inaccessible. The block then ends before that page, except for bytes that its
 * alignment needs. Once it is freed, the whole run is inaccessible.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "check/debug.h"

/*
 * A guard costs two of the 65530 mappings that Linux allows a process by default. Half of them
 * remain for the program.
 */
#define MOST_GUARDS	16000

static int nr_guards;
static bool said_so;

static size_t round_up(size_t size, size_t to)
{
	return (size + to - 1) & ~(to - 1);
}

static unsigned char *start_of(const struct ka_record *record)
{
	return record->block - record->lead;
}

/*
 * Make the last page the guard. If that fails, or if there are too many guards, the block has
 * none. The first time that there are too many, print a message.
 */
static void put_guard(struct ka_record *record)
{
	static const char no_more[] = "karena: 16000 blocks have a guard: no further block has"
		" one until some are freed\n";
	unsigned char *page = start_of(record) + record->span - KA_PAGE_SIZE;

	if (__atomic_add_fetch(&nr_guards, 1, __ATOMIC_RELAXED) <= MOST_GUARDS)
		record->guarded = !ka_mprotect(page, KA_PAGE_SIZE, PROT_NONE);
	else if (!__atomic_exchange_n(&said_so, true, __ATOMIC_RELAXED))
		ka_write(STDERR_FILENO, no_more, sizeof(no_more) - 1);
	if (!record->guarded)
		__atomic_fetch_sub(&nr_guards, 1, __ATOMIC_RELAXED);
}

static bool span_alloc_run(struct ka_record *record, size_t align, size_t size)
{
	struct ka_heap *heap = record->layer->heap();
	size_t step = align < KA_PAGE_SIZE ? align : KA_PAGE_SIZE;
	size_t room = round_up(size ? size : 1, step), whole;
	unsigned char *run;

	/* With a large alignment, as many bytes lie before the block. */
	whole = align > KA_PAGE_SIZE ? align + room : round_up(KA_HEAD + room, KA_PAGE_SIZE);
	run = heap ? ka_run_alloc(heap, whole + KA_PAGE_SIZE, align) : NULL;
	if (!run)
		return false;
	record->run = true;
	record->lead = whole - room;
	record->pads = room - size;
	record->span = whole + KA_PAGE_SIZE;
	record->block = run + record->lead;
	put_guard(record);
	return true;
}

static bool span_alloc_below(struct ka_record *record, size_t align, size_t size)
{
	const struct ka_allocator *below = &record->layer->below;
	unsigned char *start;

	record->lead = align > KA_HEAD ? align : KA_LEAD_LEAST;
	record->pads = KA_TRAILING;
	record->span = record->lead + size + KA_TAIL;
	if (align > KA_HEAD)
		start = ka_heap_aligned_alloc(record->layer->heap(), align, record->span);
	else
		start = below->malloc(below->context, record->span);
	if (!start)
		return false;
	record->block = start + record->lead;
	return true;
}

/**
 * ka_span_alloc() - Allocate the memory of a block and its pads.
 * @record: Record of the block. @layer is set; the call sets @size and the members for the
 *	memory.
 * @align: A power of two, at least KA_HEAD.
 * @size: Bytes of the block.
 * @guard: Put a guard behind the block.
 *
 * Return: True; false with errno and a message.
 */
bool ka_span_alloc(struct ka_record *record, size_t align, size_t size, bool guard)
{
	const size_t most = PTRDIFF_MAX - 4 * KA_PAGE_SIZE;

	if (size > most || align > most - size) {
		ka_fail(ENOMEM, "the size of %zu bytes is too large", size);
		return false;
	}
	record->size = size;
	return guard ? span_alloc_run(record, align, size) : span_alloc_below(record, align, size);
}

/* Make the memory of a freed block inaccessible, or fill it with KA_DEAD. */
void ka_span_close(struct ka_record *record)
{
	if (record->guarded &&
	    !ka_mprotect(start_of(record), record->span - KA_PAGE_SIZE, PROT_NONE)) {
		record->closed = true;
		return;
	}
	memset(record->block - KA_HEAD, KA_DEAD,
	       KA_HEAD + record->size + (record->run ? record->pads : KA_TAIL));
}

/* Free the memory of a block. Only the caller has the record. */
void ka_span_free(const struct ka_record *record)
{
	const struct ka_allocator *below = &record->layer->below;
	unsigned char *start = start_of(record);

	if (!record->run) {
		below->free(below->context, start);
		return;
	}
	/* A run that mprotect() cannot make accessible again, for lack of mappings, is lost. */
	if (record->guarded) {
		if (ka_mprotect(start, record->span, PROT_READ | PROT_WRITE))
			return;
		__atomic_fetch_sub(&nr_guards, 1, __ATOMIC_RELAXED);
	}
	if (ka_run_free(record->layer->heap(), start))
		ka_die("free");
}
