/* SPDX-License-Identifier: MIT */
/*
 * What the files of the debug hooks share. Calls go down only:
 *
 *	debug.c		the hooks: what they do to a block, and what they look for
 *	dump.c		the texts
 *	guard.c		what a block lies in, and the guard behind it
 *	record.c	a record of each block, in use or in quarantine
 *	callers.c	who called
 *
 * ka_records_lock() guards all records and stacks. Nothing else is locked, no other
 * library's function but write() called while it is held: it may be taken with any
 * other lock held.
 */
#ifndef KARENA_DEBUG_INTERNAL_H
#define KARENA_DEBUG_INTERNAL_H

#include <karena/debug.h>
#include <linux/karena.h>

#include "heap/heap.h"

/* As CPython has them: in what is fresh, what is freed, and around. */
#define KA_CLEAN	0xcd
#define KA_DEAD		0xdd
#define KA_FORBIDDEN	0xfd

/* Before a block: its size, its letter, and 7 pads. Behind it: 8 pads, its number. */
#define KA_HEAD		((size_t)16)
#define KA_LEADING	7

/* There is room for more before it, which is forbidden too, up to a page. */
#define KA_LEAD_LEAST	((size_t)32)
#define KA_LEAD_CHECKED	((size_t)4096)

#define KA_TRAILING	((size_t)8)
#define KA_TAIL		((size_t)16)

/**
 * struct ka_layer - The hooks of a family of calls.
 * @id: Its letter.
 * @prefix: Its functions' names, before "malloc" and the like.
 * @below: What was behind the family before; only malloc and free are called.
 * @heap: The heap that guards and alignments are had of; NULL with errno and a sentence.
 * @lost: Whether that heap is the parent's, and no block of it can be touched.
 */
struct ka_layer {
	char id;
	const char *prefix;
	struct ka_allocator below;
	struct ka_heap *(*heap)(void);
	bool (*lost)(void);
};

/**
 * struct ka_callers - Who called; each is there once, and stays.
 * @next: With the same hash, or nearly so.
 * @hash: Of what follows.
 * @depth: How many frames there are.
 * @frames: Return addresses, most recent call first.
 */
struct ka_callers {
	const struct ka_callers *next;
	uint32_t hash;
	uint32_t depth;
	void *frames[];
};

/* What KARENA_MALLOC asks for. */
enum ka_hooks {
	KA_HOOKS_NONE,
	KA_HOOKS_COUNT,	/* of the domains alone; see tally.c */
	KA_HOOKS_DEBUG,
};

enum ka_state {
	KA_LIVE,	/* in use */
	KA_FREEING,	/* its thread is filling it, and nobody else may touch it */
	KA_QUARANTINED,
};

/**
 * struct ka_record - What is known of a block.
 * @next: In the table, or among those that are none.
 * @newer: In quarantine.
 * @layer: The family that it is from.
 * @block: Where it begins.
 * @size: What was asked for, in bytes.
 * @lead: Bytes before it, the head being the last of them.
 * @pads: Pads behind it.
 * @span: Bytes from @lead to the end of what it lies in, the guard included.
 * @serial: The number of the call that made it.
 * @taken: Who took it.
 * @given: Who gave it back, unless it is live.
 * @state: What can be done to it.
 * @run: It lies in a run of its own.
 * @guarded: The last page of that cannot be touched.
 * @closed: Nor can any other.
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
	const struct ka_callers *taken;
	const struct ka_callers *given;
	enum ka_state state;
	bool run;
	bool guarded;
	bool closed;
};

/* How many bytes before a block's head are forbidden. */
static inline size_t ka_before_head(const struct ka_record *record)
{
	size_t bytes = record->lead - KA_HEAD;

	return bytes < KA_LEAD_CHECKED ? bytes : KA_LEAD_CHECKED;
}

/* Big-endian, so that a dump reads well. */
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

/* How many of so many bytes are not what they should be. */
static inline size_t ka_count_other(const unsigned char *bytes, size_t size,
				    unsigned char of)
{
	size_t count = 0;

	for (size_t i = 0; i < size; i++)
		count += bytes[i] != of;
	return count;
}

/*
 * debug.c; the first says what the environment wants, and lets the debug hooks begin, or
 * ends the program if it is wrong. @caller: where the program goes on.
 */
enum ka_hooks ka_hooks_wanted(void);
int ka_debug_begin(void);
const struct ka_allocator *ka_debug_hook(enum ka_domain domain,
					 const struct ka_allocator *below,
					 struct ka_heap *(*heap)(void), bool (*lost)(void));
bool ka_debug_hooks(enum ka_domain domain);
void *ka_layer_take(const struct ka_layer *layer, size_t align, size_t size, int fill,
		    const void *caller);
void *ka_layer_resize(const struct ka_layer *layer, void *block, size_t size,
		      const void *caller);
void ka_layer_give(const struct ka_layer *layer, void *block, const void *caller);
size_t ka_layer_size(const struct ka_layer *layer, const void *block);

/* dump.c; with the lock held, but for the last two. */
void ka_dump_block(const struct ka_record *record);
void ka_dump_callers(const char *title, const struct ka_callers *stack);
void ka_dump_end(const char *prefix, const char *function, const char *reason,
		 const struct ka_callers *stack) __attribute__((noreturn, cold));

/* guard.c; the first returns false with errno and a sentence. */
bool ka_span_take(struct ka_record *record, size_t align, size_t size, bool guard);
void ka_span_close(struct ka_record *record);
void ka_span_give(const struct ka_record *record);

/* record.c; "with the lock held" where it says so. */
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

/* callers.c; NULL if there is none to be had. */
void ka_callers_prime(void);
const struct ka_callers *ka_callers_here(const void *caller);

#endif /* KARENA_DEBUG_INTERNAL_H */
