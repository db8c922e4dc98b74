// SPDX-License-Identifier: MIT
/*
 * The debug hooks: what they do when a block is allocated or freed, and the errors that they
 * look for. Layout and patterns are those of CPython's hooks (Objects/obmalloc.c), which have
 * no records, stacks or quarantine.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check/debug.h"

#define QUARANTINE	((size_t)1 << 20)
#define CALLER		__builtin_return_address(0)

static bool guards;
static bool check_at_exit;
static bool hooked;
static uint64_t last_serial;

/* The program's call, for the message if it finds an error. */
struct call {
	const char *prefix;
	const char *function;
	const void *caller;
};

#define REASON	160

/* Print all that is known about a block, if there is one, and release the lock of the records. */
static void report_block(const struct ka_record *record)
{
	const struct ka_callers *allocated_by = NULL, *freed_by = NULL;

	if (record) {
		allocated_by = record->allocated_by;
		freed_by = record->state == KA_LIVE ? NULL : record->freed_by;
		ka_dump_block(record);
	}
	ka_records_unlock();
	ka_dump_callers("Memory block allocated at", allocated_by);
	ka_dump_callers("Memory block freed at", freed_by);
}

/*
 * End the program because of an error in a block, or without a block. The lock is held; it is
 * released before the stacks are printed.
 */
static void __attribute__((noreturn, cold))
bad(const struct call *call, const struct ka_record *record, const char *reason)
{
	report_block(record);
	ka_dump_end(call->prefix, call->function, reason, ka_callers_here(call->caller));
}

static void __attribute__((noreturn, cold))
bad_pointer(const struct call *call, const void *address)
{
	const struct ka_record *record = ka_record_around(address);
	size_t before = 0, behind = 0;
	char reason[REASON];

	if (record) {
		before = (uintptr_t)record->block - (uintptr_t)address;
		behind = (uintptr_t)address - (uintptr_t)record->block;
	}
	if (!record)
		snprintf(reason, sizeof(reason), "bad pointer: no block is at %p: it was never"
			 " allocated here, or was freed long ago", address);
	else if (before < behind)
		snprintf(reason, sizeof(reason), "bad pointer: %p is %zu bytes before a"
			 " block", address, before);
	else
		snprintf(reason, sizeof(reason), "bad pointer: %p is %zu bytes behind the"
			 " start of a %sblock of %zu bytes", address, behind,
			 record->state == KA_LIVE ? "" : "freed ", record->size);
	bad(call, record, reason);
}

/*
 * The letter of a live block: that of its layer if the byte before the block is @wanted, else
 * that byte, or '?' if it is not printable.
 */
static char letter(const struct ka_record *record, char wanted)
{
	unsigned char found = *(record->block - KA_TRAILING);

	if (found == (unsigned char)wanted)
		return record->layer->id;
	return found >= ' ' && found <= '~' ? (char)found : '?';
}

/* Check a live block as a block of a layer. The lock is held. */
static void check_live(const struct call *call, const struct ka_record *record,
		       const struct ka_layer *layer)
{
	const unsigned char *block = record->block;
	size_t before = ka_before_head(record);
	char id = letter(record, layer->id), reason[REASON];

	if (id != layer->id) {
		snprintf(reason, sizeof(reason), "bad ID: Allocated using API '%c', verified"
			 " using API '%c'", id, layer->id);
		bad(call, record, reason);
	}
	if (ka_count_other(block - KA_LEADING, KA_LEADING, KA_FORBIDDEN) ||
	    ka_count_other(block - KA_HEAD - before, before, KA_FORBIDDEN))
		bad(call, record, "bad leading pad byte");
	if (ka_read_size(block - KA_HEAD) != record->size)
		bad(call, record, "bad size field");
	if (ka_count_other(block + record->size, record->pads, KA_FORBIDDEN))
		bad(call, record, "bad trailing pad byte");
	if (!record->run && ka_read_size(block + record->size + KA_TRAILING) != record->serial)
		bad(call, record, "bad serial number");
}

static bool is_dead(const struct ka_record *record)
{
	size_t tail = record->run ? record->pads : KA_TAIL;

	return record->closed ||
	       !ka_count_other(record->block - KA_HEAD, KA_HEAD + record->size + tail,
			       KA_DEAD);
}

/*
 * Find a live block and check it. It must belong to @layer, or to any layer if that is NULL.
 * The lock is held.
 */
static struct ka_record *find_live(const struct call *call, const struct ka_layer *layer,
				   const void *block)
{
	struct ka_record *record = ka_record_find(block);

	if (!record)
		bad_pointer(call, block);
	if (record->state != KA_LIVE)
		bad(call, record, strcmp(call->function, "free") != 0 ?
		    "the block is freed" : "double free");
	check_live(call, record, layer ? layer : record->layer);
	return record;
}

static void decorate(const struct ka_record *record, int fill)
{
	unsigned char *block = record->block, *tail = block + record->size;
	size_t before = ka_before_head(record);

	memset(block - KA_HEAD - before, KA_FORBIDDEN, before);
	ka_write_size(block - KA_HEAD, record->size);
	*(block - KA_TRAILING) = (unsigned char)record->layer->id;
	memset(block - KA_LEADING, KA_FORBIDDEN, KA_LEADING);
	memset(block, fill, record->size);
	memset(tail, KA_FORBIDDEN, record->pads);
	if (!record->run)
		ka_write_size(tail + KA_TRAILING, record->serial);
}

/**
 * ka_layer_alloc() - Allocate a block.
 * @layer: Its layer.
 * @align: A power of two, or 0.
 * @size: Bytes.
 * @fill: The value of its bytes: KA_CLEAN, or 0.
 * @caller: Return address of the hook that the program called.
 *
 * Return: The block; NULL with errno and a message.
 */
void *ka_layer_alloc(const struct ka_layer *layer, size_t align, size_t size, int fill,
		     const void *caller)
{
	const struct ka_callers *allocated_by = ka_callers_here(caller);
	struct ka_record *record = ka_record_new();

	if (!record)
		return NULL;
	record->layer = layer;
	record->allocated_by = allocated_by;
	if (!ka_span_alloc(record, align > KA_HEAD ? align : KA_HEAD, size, guards)) {
		ka_record_drop(record);
		return NULL;
	}
	record->serial = __atomic_add_fetch(&last_serial, 1, __ATOMIC_RELAXED);
	decorate(record, fill);
	ka_record_add(record);
	return record->block;
}

/* Free blocks that have left the quarantine. End the program if one has been written to. */
static void quarantine_free(const struct call *call, struct ka_record *record)
{
	while (record) {
		struct ka_record *next = record->newer;

		if (!is_dead(record)) {
			ka_records_lock();
			bad(call, record, "write after free");
		}
		ka_span_free(record);
		ka_record_drop(record);
		record = next;
	}
}

static void layer_free(const struct ka_layer *layer, void *block, const struct call *call)
{
	const struct ka_callers *freed_by = ka_callers_here(call->caller);
	struct ka_record *record;
	int before = errno;

	/* The allocator below ends the program with a message about the parent's heap. */
	if (layer->lost()) {
		layer->below.free(layer->below.context, block);
		return;
	}
	ka_records_lock();
	record = find_live(call, layer, block);
	record->state = KA_FREEING;
	record->freed_by = freed_by;
	ka_records_unlock();
	ka_span_close(record);
	quarantine_free(call, ka_quarantine_put(record));
	errno = before;
}

/**
 * ka_layer_free() - Free a block.
 * @layer: The layer that it must belong to.
 * @block: The address that the program passed; NULL does nothing.
 * @caller: Return address of the hook that the program called.
 *
 * Keeps errno. An error ends the program.
 */
void ka_layer_free(const struct ka_layer *layer, void *block, const void *caller)
{
	if (block)
		layer_free(layer, block, &(struct call){ layer->prefix, "free", caller });
}

/**
 * ka_layer_resize() - Change the size of a block.
 * @layer: The layer that it must belong to.
 * @block: The block; NULL allocates one.
 * @size: Bytes.
 * @caller: Return address of the hook that the program called.
 *
 * The block always moves, so that a program that uses the old address finds KA_DEAD there. An
 * error ends the program.
 *
 * Return: The block, with KA_CLEAN in its new bytes; NULL with errno and a message, and the
 * block is unchanged.
 */
void *ka_layer_resize(const struct ka_layer *layer, void *block, size_t size,
		      const void *caller)
{
	const struct call call = { layer->prefix, "realloc", caller };
	size_t old;
	void *other;

	if (!block)
		return ka_layer_alloc(layer, 0, size, KA_CLEAN, caller);
	if (layer->lost())
		return layer->below.realloc(layer->below.context, block, size);
	ka_records_lock();
	old = find_live(&call, layer, block)->size;
	ka_records_unlock();
	other = ka_layer_alloc(layer, 0, size, KA_CLEAN, caller);
	if (!other)
		return NULL;
	memcpy(other, block, old < size ? old : size);
	layer_free(layer, block, &call);
	return other;
}

/* Return the size of a live block of a layer, or 0 if the layer has no such block. */
size_t ka_layer_size(const struct ka_layer *layer, const void *block)
{
	const struct ka_record *record;
	size_t size = 0;

	ka_records_lock();
	record = ka_record_find(block);
	if (record && record->layer == layer && record->state == KA_LIVE)
		size = record->size;
	ka_records_unlock();
	return size;
}

/* Check all blocks, and return their number. The lock is held. */
static size_t check_all(const struct call *call)
{
	struct ka_record *record = NULL;
	size_t count = 0;

	while ((record = ka_record_after(record))) {
		if (record->state == KA_FREEING || record->layer->lost())
			continue;
		count++;
		if (record->state == KA_LIVE)
			check_live(call, record, record->layer);
		else if (!is_dead(record))
			bad(call, record, "write after free");
	}
	return count;
}

size_t ka_debug_check(const void *block)
{
	const struct call call = { "", "ka_debug_check", CALLER };

	if (!__atomic_load_n(&hooked, __ATOMIC_ACQUIRE))
		return 0;
	ka_records_lock();
	find_live(&call, NULL, block);
	ka_records_unlock();
	return 1;
}

size_t ka_debug_check_all(void)
{
	const struct call call = { "", "ka_debug_check_all", CALLER };
	size_t count;

	if (!__atomic_load_n(&hooked, __ATOMIC_ACQUIRE))
		return 0;
	ka_records_lock();
	count = check_all(&call);
	ka_records_unlock();
	return count;
}

int ka_debug_dump(const void *address)
{
	const struct ka_record *record;

	ka_records_lock();
	record = ka_record_around(address);
	if (!record || record->layer->lost()) {
		ka_records_unlock();
		return ka_fail(EINVAL, "no block is at %p", address);
	}
	report_block(record);
	return 0;
}

__attribute__((destructor))
static void at_exit(void)
{
	const struct call call = { "", "exit", CALLER };

	if (!__atomic_load_n(&check_at_exit, __ATOMIC_ACQUIRE))
		return;
	ka_records_lock();
	check_all(&call);
	ka_records_unlock();
}

/* Prepare the records before the first hook: 0, or -1 with errno and a message. */
int ka_debug_begin(void)
{
	size_t quarantine = 0;

	if (ka_option_size(&quarantine, "KARENA_QUARANTINE"))
		return -1;
	ka_records_begin(quarantine ? quarantine : QUARANTINE);
	return 0;
}

enum ka_hooks ka_hooks_wanted(void)
{
	const char *text = secure_getenv("KARENA_MALLOC");

	if (!text || !*text || !strcmp(text, "default"))
		return KA_HOOKS_NONE;
	if (!strcmp(text, "count"))
		return KA_HOOKS_COUNT;
	guards = !strcmp(text, "guard");
	if (!guards && strcmp(text, "debug") != 0) {
		ka_fail(EINVAL, "KARENA_MALLOC: unknown value '%.100s' (choose default, count,"
			" debug or guard)", text);
		ka_ignore();
		return KA_HOOKS_NONE;
	}
	if (ka_debug_begin()) {
		ka_ignore();
		ka_records_begin(QUARANTINE);
	}
	__atomic_store_n(&check_at_exit, true, __ATOMIC_RELEASE);
	return KA_HOOKS_DEBUG;
}

/* Domains. */

static struct ka_layer layers[KARENA_DOMAINS] = {
	[KA_DOMAIN_RAW] = { .id = 'r', .prefix = "ka_raw_" },
	[KA_DOMAIN_MEM] = { .id = 'm', .prefix = "ka_mem_" },
	[KA_DOMAIN_OBJ] = { .id = 'o', .prefix = "ka_obj_" },
};

static struct ka_allocator hooks[KARENA_DOMAINS];

static void *hook_malloc(void *context, size_t size)
{
	return ka_layer_alloc(context, 0, size, KA_CLEAN, CALLER);
}

static void *hook_calloc(void *context, size_t count, size_t size)
{
	return ka_layer_alloc(context, 0, count * size, 0, CALLER);
}

static void *hook_realloc(void *context, void *block, size_t size)
{
	return ka_layer_resize(context, block, size, CALLER);
}

static void hook_free(void *context, void *block)
{
	ka_layer_free(context, block, CALLER);
}

/**
 * ka_debug_hook() - Make the hooks of a domain, which call its previous allocator.
 * @domain: The domain.
 * @below: The previous allocator.
 * @heap: Returns the heap of the domains; NULL with errno and a message.
 * @lost: Returns true if that heap is the parent's.
 *
 * Called once for each domain.
 *
 * Return: The hooks.
 */
const struct ka_allocator *ka_debug_hook(enum ka_domain domain,
					 const struct ka_allocator *below,
					 struct ka_heap *(*heap)(void), bool (*lost)(void))
{
	struct ka_layer *layer = &layers[domain];

	layer->below = *below;
	layer->heap = heap;
	layer->lost = lost;
	hooks[domain] = (struct ka_allocator){
		layer, hook_malloc, hook_calloc, hook_realloc, hook_free,
	};
	__atomic_store_n(&hooked, true, __ATOMIC_RELEASE);
	return &hooks[domain];
}

/* True if the hooks of a domain have been made. */
bool ka_debug_hooks(enum ka_domain domain)
{
	return layers[domain].heap;
}
