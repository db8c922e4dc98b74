// SPDX-License-Identifier: MIT
/*
 * Messages of the debug hooks, in the words of CPython's _PyObject_DebugDumpAddress(). Nothing
 * here allocates. Only accessible bytes of a block are read; its size is that in the record.
 */
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "check/debug.h"

/* Maximum number of wrong bytes that are shown one by one. */
#define MOST_SHOWN	((size_t)16)

/* Bytes of a block that are shown at each end. */
#define SHOWN_DATA	((size_t)8)

struct text {
	size_t length;
	char bytes[1024];
};

static void flush(struct text *text)
{
	for (size_t at = 0; at < text->length;) {
		ssize_t done = ka_write(STDERR_FILENO, text->bytes + at, text->length - at);

		if (done <= 0)
			break;
		at += (size_t)done;
	}
	text->length = 0;
}

static void __attribute__((format(printf, 2, 3)))
say(struct text *text, const char *format, ...)
{
	va_list arguments;
	int length;

	if (text->length > sizeof(text->bytes) / 2)
		flush(text);
	va_start(arguments, format);
	length = vsnprintf(text->bytes + text->length, sizeof(text->bytes) - text->length,
			   format, arguments);
	va_end(arguments);
	if (length > 0)
		text->length += (size_t)length;
	/* vsnprintf() has truncated a longer text. */
	if (text->length >= sizeof(text->bytes))
		text->length = sizeof(text->bytes) - 1;
}

/* Print a byte, with a mark if it is wrong. */
static void say_byte(struct text *text, const char *where, size_t at, unsigned char byte,
		     unsigned char wanted)
{
	say(text, "        at %s%zu: 0x%02x%s\n", where, at, byte,
	    byte == wanted ? "" : " *** OUCH");
}

static void say_leading(struct text *text, const struct ka_record *record)
{
	const unsigned char *block = record->block;

	say(text, "    The %d pad bytes at p-%d are ", KA_LEADING, KA_LEADING);
	if (!ka_count_other(block - KA_LEADING, KA_LEADING, KA_FORBIDDEN)) {
		say(text, "FORBIDDENBYTE, as expected.\n");
		return;
	}
	say(text, "not all FORBIDDENBYTE (0x%02x):\n", KA_FORBIDDEN);
	for (size_t i = KA_LEADING; i >= 1; i--)
		say_byte(text, "p-", i, *(block - i), KA_FORBIDDEN);
	say(text, "    Because memory is corrupted at the start, the count of bytes requested\n"
	    "       may be bogus, and checking the trailing pad bytes may segfault.\n");
}

/* Print pads before the head only if one of them is wrong. */
static void say_before_head(struct text *text, const struct ka_record *record)
{
	size_t before = ka_before_head(record), shown = 0;

	for (size_t at = KA_HEAD + 1; at <= KA_HEAD + before && shown < MOST_SHOWN; at++) {
		if (record->block[-(ptrdiff_t)at] == KA_FORBIDDEN)
			continue;
		if (!shown++)
			say(text, "    Of the %zu pad bytes before these and the size, not all are"
			    " FORBIDDENBYTE:\n", before);
		say_byte(text, "p-", at, record->block[-(ptrdiff_t)at], KA_FORBIDDEN);
	}
}

static void say_trailing(struct text *text, const struct ka_record *record)
{
	const unsigned char *tail = record->block + record->size;
	size_t shown = 0;

	/* A block with a guard may have no pads. */
	if (!record->pads)
		return;
	say(text, "    The %zu pad bytes at tail=%p are ", record->pads, (const void *)tail);
	if (!ka_count_other(tail, record->pads, KA_FORBIDDEN)) {
		say(text, "FORBIDDENBYTE, as expected.\n");
		return;
	}
	say(text, "not all FORBIDDENBYTE (0x%02x):\n", KA_FORBIDDEN);
	for (size_t i = 0; i < record->pads && shown < MOST_SHOWN; i++) {
		/* Of many pads, skip the right ones. */
		if (record->pads > MOST_SHOWN && tail[i] == KA_FORBIDDEN)
			continue;
		say_byte(text, "tail+", i, tail[i], KA_FORBIDDEN);
		shown++;
	}
}

/* All bytes of a freed block, from the head to the end of its tail, should be KA_DEAD. */
static void say_dead(struct text *text, const struct ka_record *record)
{
	const unsigned char *block = record->block;
	size_t tail = record->run ? record->pads : KA_TAIL, shown = 0, bad;

	bad = ka_count_other(block - KA_HEAD, KA_HEAD + record->size + tail, KA_DEAD);
	if (!bad) {
		say(text, "    It is freed, and all its bytes are DEADBYTE, as expected.\n");
		return;
	}
	say(text, "    It is freed, and not all its bytes are DEADBYTE (0x%02x):\n", KA_DEAD);
	for (size_t i = KA_HEAD; i >= 1 && shown < MOST_SHOWN; i--) {
		if (*(block - i) != KA_DEAD) {
			say_byte(text, "p-", i, *(block - i), KA_DEAD);
			shown++;
		}
	}
	for (size_t i = 0; i < record->size + tail && shown < MOST_SHOWN; i++) {
		if (block[i] != KA_DEAD) {
			say_byte(text, "p+", i, block[i], KA_DEAD);
			shown++;
		}
	}
	if (shown < bad)
		say(text, "        and %zu more\n", bad - shown);
}

/* Print the first and the last bytes of a block. */
static void say_data(struct text *text, const struct ka_record *record)
{
	size_t size = record->size, at = 0;

	if (!size)
		return;
	say(text, "    Data at p:");
	while (at < size && at < SHOWN_DATA)
		say(text, " %02x", record->block[at++]);
	if (size - at > SHOWN_DATA) {
		say(text, " ...");
		at = size - SHOWN_DATA;
	}
	while (at < size)
		say(text, " %02x", record->block[at++]);
	say(text, "\n");
}

/* The letter of a block; '?' if the one before a live block is not printable. */
static char letter_of(const struct ka_record *record)
{
	unsigned char letter;

	if (record->state != KA_LIVE)
		return record->layer->id;
	letter = *(record->block - KA_TRAILING);
	return letter >= ' ' && letter <= '~' ? (char)letter : '?';
}

/**
 * ka_dump_block() - Print what is known about a block.
 * @record: Its record. The lock is held, unless only the caller has the record.
 */
void ka_dump_block(const struct ka_record *record)
{
	bool dead = record->state == KA_QUARANTINED && !record->closed;
	struct text text = { 0 };
	uint64_t size;

	say(&text, "Debug memory block at address p=%p: API '%c'\n", (void *)record->block,
	    letter_of(record));
	say(&text, "    %zu bytes originally requested\n", record->size);
	if (record->state == KA_LIVE) {
		size = ka_read_size(record->block - KA_HEAD);
		say_leading(&text, record);
		say_before_head(&text, record);
		if (size != record->size)
			say(&text, "    The size at p-%zu is %#jx *** OUCH\n", KA_HEAD,
			    (uintmax_t)size);
		say_trailing(&text, record);
	} else if (dead) {
		say_dead(&text, record);
	} else {
		say(&text, "    It is freed, and cannot be looked at.\n");
	}
	say(&text, "    The block was made by call #%ju to debug malloc/realloc.\n",
	    (uintmax_t)record->serial);
	if (record->state == KA_LIVE || dead)
		say_data(&text, record);
	say(&text, "\n");
	flush(&text);
}

/* Print a frame with its file and its offset there, from which addr2line finds the line. */
static void say_frame(struct text *text, void *frame)
{
	/* The return address may already belong to the next function. */
	void *call = (char *)frame - 1;
	Dl_info info;

	if (!dladdr(call, &info) || !info.dli_fname) {
		say(text, "  at %p\n", frame);
		return;
	}
	say(text, "  File \"%.200s\", at %#tx", info.dli_fname,
	    (char *)call - (char *)info.dli_fbase);
	if (info.dli_sname)
		say(text, ", in %.100s", info.dli_sname);
	say(text, "\n");
}

/**
 * ka_dump_callers() - Print a stack of calls.
 * @title: A line before the stack.
 * @stack: The stack; NULL prints nothing.
 *
 * Context: The lock is not held. dladdr() takes a lock of the dynamic linker, and its holder
 * may be waiting for the lock of the records.
 */
void ka_dump_callers(const char *title, const struct ka_callers *stack)
{
	struct text text = { 0 };

	if (!stack)
		return;
	say(&text, "%s (most recent call first):\n", title);
	for (uint32_t i = 0; i < stack->depth; i++)
		say_frame(&text, stack->frames[i]);
	say(&text, "\n");
	flush(&text);
}

/* Print the error and the stack of the current call, and abort the program. */
void ka_dump_end(const char *prefix, const char *function, const char *reason,
		 const struct ka_callers *stack)
{
	struct text text = { 0 };

	say(&text, "Fatal error: %s%s: %s\n\n", prefix, function, reason);
	flush(&text);
	ka_dump_callers("Current thread", stack);
	abort();
}
