/* SPDX-License-Identifier: MIT */
/*
 * The debug hooks. Each file calls only functions of the files below it:
 *
 *	debug.c		the hooks: what they do to a block, and their checks
 *	dump.c		the messages
 *	guard.c		the memory of a block, and the guard behind it
 *	record.c	a record for each block, in use or in quarantine
 *	callers.c	stacks of calls
 *
 * ka_records_lock() guards all records and stacks. A thread that holds it takes no other lock
 * and calls no function of another library except write(), so any other lock may be held before
 * it.
 */
#ifndef KARENA_DEBUG_INTERNAL_H
#define KARENA_DEBUG_INTERNAL_H

#include <karena/debug.h>
#include <linux/karena.h>

#include "heap/heap.h"

/* CPython's patterns: in new memory, in freed memory, and in pads. */
#define KA_CLEAN	0xcd
#define KA_DEAD		0xdd
#define KA_FORBIDDEN	0xfd

/*
 * Before a block: its size, the letter of its layer, and 7 pads. Behind it: 8 pads, and its
 * serial number.
 */
#define KA_HEAD		((size_t)16)
#define KA_LEADING	7

/*
 * The bytes before the head are pads, too: at least 16, except in a run. At most a page of them
 * is checked.
 */
#define KA_LEAD_LEAST	((size_t)32)
#define KA_LEAD_CHECKED	((size_t)4096)

#define KA_TRAILING	((size_t)8)
#define KA_TAIL		((size_t)16)

/**
 * struct ka_layer - The hooks of a domain, or those of malloc.
 * @id: Its letter.
 * @prefix: First part of its functions' names, before "malloc" and so on.
 * @below: The previous allocator. The hooks call its malloc and free; if @lost is true, its
 *	free and realloc, which end the program.
 * @heap: Returns the heap for blocks with a guard or an alignment; NULL with errno and a
 *	message.
 * @lost: Returns true if that heap is the parent's, and its blocks cannot be used.
 */
struct ka_layer {
	char id;
	const char *prefix;
	struct ka_allocator below;
	struct ka_heap *(*heap)(void);
	bool (*lost)(void);
};

/**
 * struct ka_callers - A stack of calls. Each is stored once and never freed.
 * @next: The next stack of the bucket.
 * @hash: Hash of @depth and @frames.
 * @depth: Number of frames.
 * @frames: Return addresses, the most recent call first.
 */
struct ka_callers {
	const struct ka_callers *next;
	uint32_t hash;
	uint32_t depth;
	void *frames[];
};

/* The hooks that KARENA_MALLOC asks for. */
enum ka_hooks {
	KA_HOOKS_NONE,
	KA_HOOKS_COUNT,	/* for domains only; see stats/tally.c */
	KA_HOOKS_DEBUG,
};

enum ka_state {
	KA_LIVE,	/* in use */
	KA_FREEING,	/* the freeing thread fills it; no other thread may use it */
	KA_QUARANTINED,
};

/**
 * struct ka_record - What the hooks know about a block.
 * @next: The next record of the bucket, or of the unused records.
 * @newer: In quarantine, the block that was freed next.
 * @layer: The layer of the block.
 * @block: First byte of the block.
 * @size: Bytes that the program asked for.
 * @lead: Bytes of its memory before the block, with the head as the last of them.
 * @pads: Pads behind the block.
 * @span: Bytes from the start of @lead to the end of the memory, including the guard.
 * @serial: Number of the call that allocated the block.
 * @allocated_by: Stack of the call that allocated it.
 * @freed_by: Stack of the call that freed it, unless the block is live.
 * @state: State of the block.
 * @run: The memory is a run of its own.
 * @guarded: The last page of the run is inaccessible.
 * @closed: All other pages of it are, too.
 */
struct ka_record {
	struct ka_record *next;
	struct ka_record *newer;
	const struct ka_layer *layer;
	unsigned char *block;
	size_t size;
	size_t lead;
	size_t pads;
	size_t span;
	uint64_t serial;
	const struct ka_callers *allocated_by;
	const struct ka_callers *freed_by;
	enum ka_state state;
	bool run;
	bool guarded;
	bool closed;
};

/* Number of checked pads before a block's head. */
static inline size_t ka_before_head(const struct ka_record *record)
{
	size_t bytes = record->lead - KA_HEAD;

	return bytes < KA_LEAD_CHECKED ? bytes : KA_LEAD_CHECKED;
}

/* Store a number in big-endian order, so that a dump reads well. */
static inline void ka_write_size(unsigned char *at, uint64_t value)
{
	value = __builtin_bswap64(value);
	__builtin_memcpy(at, &value, sizeof(value));
}

static inline uint64_t ka_read_size(const unsigned char *at)
{
	uint64_t value;

	__builtin_memcpy(&value, at, sizeof(value));
	return __builtin_bswap64(value);
}

/* Count the bytes that are not @of. */
static inline size_t ka_count_other(const unsigned char *bytes, size_t size,
				    unsigned char of)
{
	size_t count = 0;

	for (size_t i = 0; i < size; i++)
		count += bytes[i] != of;
	return count;
}

/*
 * debug.c; ka_hooks_wanted() reads KARENA_MALLOC, and prepares the records if it asks for the
 * debug hooks. It ignores an invalid value with a message. @caller: return address of the hook
 * that the program called.
 */
enum ka_hooks ka_hooks_wanted(void);
int ka_debug_begin(void);
const struct ka_allocator *ka_debug_hook(enum ka_domain domain,
					 const struct ka_allocator *below,
					 struct ka_heap *(*heap)(void), bool (*lost)(void));
bool ka_debug_hooks(enum ka_domain domain);
void *ka_layer_alloc(const struct ka_layer *layer, size_t align, size_t size, int fill,
		     const void *caller);
void *ka_layer_resize(const struct ka_layer *layer, void *block, size_t size,
		      const void *caller);
void ka_layer_free(const struct ka_layer *layer, void *block, const void *caller);
size_t ka_layer_size(const struct ka_layer *layer, const void *block);

/* dump.c; a caller of the last two does not hold the lock */
void ka_dump_block(const struct ka_record *record);
void ka_dump_callers(const char *title, const struct ka_callers *stack);
void ka_dump_end(const char *prefix, const char *function, const char *reason,
		 const struct ka_callers *stack) __attribute__((noreturn, cold));

/* guard.c; ka_span_alloc() returns false with errno and a message on failure */
bool ka_span_alloc(struct ka_record *record, size_t align, size_t size, bool guard);
void ka_span_close(struct ka_record *record);
void ka_span_free(const struct ka_record *record);

/* record.c */
void ka_records_begin(size_t quarantine);
void ka_records_lock(void);
void ka_records_unlock(void);
void *ka_records_room(size_t size);
struct ka_record *ka_record_new(void);
void ka_record_drop(struct ka_record *record);
void ka_record_add(struct ka_record *record);
struct ka_record *ka_record_find(const void *block);
struct ka_record *ka_record_around(const void *address);
struct ka_record *ka_record_after(const struct ka_record *record);
struct ka_record *ka_quarantine_put(struct ka_record *record);
size_t ka_quarantine_bytes(void);

/* callers.c */
void ka_callers_prime(void);
const struct ka_callers *ka_callers_here(const void *caller);

#endif /* KARENA_DEBUG_INTERNAL_H */
