// SPDX-License-Identifier: MIT
/*
 * Write traces to a file, as folded stacks or as JSON. Nothing here allocates with malloc,
 * whose blocks may be traced.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "trace/trace.h"

/* Names of a frame from the dynamic linker. */
struct symbol {
	const void *frame;
	const char *function;
	const char *module;
	size_t offset;
};

/* Cached symbols: a look-up is slow, and most stacks share most of their frames. */
#define SYMBOLS		((size_t)1024)

/* The file with its buffer, and the first error. */
struct file {
	int fd;
	int error;
	size_t used;
	char bytes[8192];
	struct symbol symbols[SYMBOLS];
};

static void flush(struct file *file)
{
	size_t from = 0;

	while (from < file->used && !file->error) {
		ssize_t done = write(file->fd, file->bytes + from, file->used - from);

		if (done >= 0)
			from += (size_t)done;
		else if (errno != EINTR)
			file->error = errno;
	}
	file->used = 0;
}

static void put_bytes(struct file *file, const char *bytes, size_t count)
{
	if (count > sizeof(file->bytes) - file->used)
		flush(file);
	/* Only the name of a file or a function can be so long. */
	while (count > sizeof(file->bytes)) {
		memcpy(file->bytes, bytes, sizeof(file->bytes));
		file->used = sizeof(file->bytes);
		flush(file);
		bytes += sizeof(file->bytes);
		count -= sizeof(file->bytes);
	}
	memcpy(file->bytes + file->used, bytes, count);
	file->used += count;
}

__attribute__((format(printf, 2, 3)))
static void put(struct file *file, const char *format, ...)
{
	char text[256];
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	put_bytes(file, text, (size_t)length);
}

/* Look up the call before the return address. Unknown members are NULL. */
static const struct symbol *find_symbol(struct file *file, const void *frame)
{
	size_t hash = (uintptr_t)frame * 0x9e3779b97f4a7c15ULL >> 32;
	struct symbol *symbol = &file->symbols[hash % SYMBOLS];
	const char *call = (const char *)frame - 1;
	Dl_info info;

	if (symbol->frame == frame)
		return symbol;
	*symbol = (struct symbol){ .frame = frame };
	if (!dladdr(call, &info))
		return symbol;
	symbol->function = info.dli_sname;
	symbol->module = info.dli_fname;
	symbol->offset = (uintptr_t)call - (uintptr_t)info.dli_fbase;
	return symbol;
}

/* Write a name as one word without ';', as a folded line needs it. */
static void put_folded_name(struct file *file, const char *name)
{
	for (; *name; name++) {
		char c = *name;

		put_bytes(file, c == ';' || (unsigned char)c <= ' ' || c == 127 ? "_" : &c, 1);
	}
}

static void put_folded_frame(struct file *file, const void *frame)
{
	const struct symbol *symbol = find_symbol(file, frame);
	const char *slash;

	if (symbol->function) {
		put_folded_name(file, symbol->function);
	} else if (symbol->module) {
		slash = strrchr(symbol->module, '/');
		put_folded_name(file, slash ? slash + 1 : symbol->module);
		put(file, "+%#zx", symbol->offset);
	} else {
		put(file, "%p", frame);
	}
}

static void put_folded(struct file *file, const struct ka_traces *traces)
{
	for (size_t i = 0; i < traces->count; i++) {
		const struct ka_trace_entry *entry = &traces->entries[i];
		size_t before = entry->bytes - (size_t)entry->more_bytes;

		if (!entry->bytes && !(traces->difference && before))
			continue;
		if (!entry->nr_frames)
			put(file, "[unknown]");
		for (size_t frame = entry->nr_frames; frame > 0; frame--) {
			put_folded_frame(file, entry->frames[frame - 1]);
			if (frame > 1)
				put(file, ";");
		}
		if (traces->difference)
			put(file, " %zu", before);
		put(file, " %zu\n", entry->bytes);
	}
}

/* Bytes of the UTF-8 character at @text; 0 if there is none. */
static size_t character(const unsigned char *text)
{
	size_t length = *text < 0x80 ? 1 : *text < 0xc2 ? 0 : *text < 0xe0 ? 2 :
			*text < 0xf0 ? 3 : *text < 0xf5 ? 4 : 0;

	for (size_t i = 1; i < length; i++) {
		if ((text[i] & 0xc0) != 0x80)
			return 0;
	}
	/* Refuse overlong forms, surrogates, and numbers beyond Unicode. */
	if ((*text == 0xe0 && text[1] < 0xa0) || (*text == 0xed && text[1] > 0x9f) ||
	    (*text == 0xf0 && text[1] < 0x90) || (*text == 0xf4 && text[1] > 0x8f))
		return 0;
	return length;
}

static void put_string(struct file *file, const char *text)
{
	const unsigned char *at = (const unsigned char *)text;

	put(file, "\"");
	while (*at) {
		size_t length = character(at);

		if (*at == '"' || *at == '\\')
			put(file, "\\%c", *at);
		else if (*at < ' ' || *at == 127)
			put(file, "\\u%04x", (unsigned int)*at);
		else if (length)
			put_bytes(file, (const char *)at, length);
		else
			put(file, "\\ufffd");
		at += length ? length : 1;
	}
	put(file, "\"");
}

static void put_json_frame(struct file *file, const void *frame)
{
	const struct symbol *symbol = find_symbol(file, frame);

	put(file, "{\"address\": \"%p\"", frame);
	if (symbol->function) {
		put(file, ", \"function\": ");
		put_string(file, symbol->function);
	}
	if (symbol->module) {
		put(file, ", \"file\": ");
		put_string(file, symbol->module);
		put(file, ", \"offset\": %zu", symbol->offset);
	}
	put(file, "}");
}

static void put_json_entry(struct file *file, const struct ka_traces *traces,
			   const struct ka_trace_entry *entry)
{
	put(file, "{\"bytes\": %zu, \"blocks\": %zu, \"total_bytes\": %zu,"
	    " \"total_blocks\": %zu", entry->bytes, entry->blocks, entry->total_bytes,
	    entry->total_blocks);
	if (traces->difference)
		put(file, ", \"more_bytes\": %td, \"more_blocks\": %td",
		    entry->more_bytes, entry->more_blocks);
	put(file, ", \"frames\": [");
	for (size_t i = 0; i < entry->nr_frames; i++) {
		put(file, i ? ",\n\t" : "\n\t");
		put_json_frame(file, entry->frames[i]);
	}
	put(file, "]}");
}

static void put_json(struct file *file, const struct ka_traces *traces)
{
	put(file, "{\n\"version\": 1,\n\"karena\": ");
	put_string(file, ka_version());
	put(file, ",\n\"process\": %d,\n\"interval\": %zu,\n\"most_frames\": %zu,\n"
	    "\"current_bytes\": %zu,\n\"peak_bytes\": %zu,\n\"by\": \"%s\",\n"
	    "\"difference\": %s,\n\"entries\": [", (int)getpid(), traces->interval,
	    traces->most_frames, traces->current, traces->peak,
	    traces->by == KA_TRACE_BY_SITE ? "site" : "stack",
	    traces->difference ? "true" : "false");
	for (size_t i = 0; i < traces->count; i++) {
		put(file, i ? ",\n" : "\n");
		put_json_entry(file, traces, &traces->entries[i]);
	}
	put(file, "\n]\n}\n");
}

/* Write the file: 0, or the first error. */
static int write_file(struct file *file, const struct ka_traces *traces, const char *path,
		      enum ka_trace_format format)
{
	file->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (file->fd < 0)
		return errno;
	if (format == KA_TRACE_FOLDED)
		put_folded(file, traces);
	else
		put_json(file, traces);
	flush(file);
	if (close(file->fd) && !file->error)
		file->error = errno;
	return file->error;
}

int ka_trace_write(const struct ka_traces *traces, const char *path,
		   enum ka_trace_format format)
{
	struct file *file;
	int error;

	if (format > KA_TRACE_JSON)
		return ka_fail(EINVAL, "invalid format of traces %d: choose one of enum"
			       " ka_trace_format", (int)format);
	file = ka_trace_map(sizeof(*file));
	error = file ? write_file(file, traces, path, format) : ENOMEM;
	ka_trace_unmap(file, sizeof(*file));
	if (!error)
		return 0;
	return ka_fail(error, "cannot write traces to %s: %s", path, strerror(error));
}
