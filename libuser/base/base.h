/* SPDX-License-Identifier: MIT */
/*
 * Sizes, errors, locks and system calls, which all layers of the library use. Each folder is a
 * layer with a header of its own, which includes only those of lower layers; `layers` checks
 * that. From the bottom to the top:
 *
 *	base		sizes, classes, errors, locks, system calls, the clock
 *	source		windows, and what commits their arenas: the module, or plain mmap
 *	arena		arenas and their metadata; runs of pages
 *	pool		pools: runs that are cut into blocks; the runs of the program
 *	thread		caches: the pools of a thread; blocks
 *	heap		heaps: their options, their public functions, and fork
 *	stats		statistics: counted, written for other processes, printed
 *	trace		tracing: which blocks are in use, and where they were allocated
 *	check		the debug hooks, and the checked build
 *	front		domains, buffers for input and output; heaps are created here
 *
 * struct ka_heap consists of a struct for each layer, which has the struct of the layer below
 * as a member. A function is called with the struct of its own layer.
 */
#ifndef KARENA_BASE_H
#define KARENA_BASE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <karena/karena.h>

#include "base/class.h"
#include "base/lock.h"
#include "base/sys.h"

#define KA_ARENA_PAGES	(KA_ARENA_SIZE / KA_PAGE_SIZE)
#define KA_MIB		((size_t)1 << 20)

/* Words of a map with one bit for each page. */
#define KA_MAP_WORDS	(KA_ARENA_PAGES / 64)

/* Pools consist of slots of 16 KiB, by which the pool of an address is found. */
#define KA_SLOT_SHIFT	14
#define KA_SLOT_SIZE	((size_t)1 << KA_SLOT_SHIFT)
#define KA_ARENA_SLOTS	(KA_ARENA_SIZE / KA_SLOT_SIZE)
#define KA_SLOT_PAGES	(KA_SLOT_SIZE / KA_PAGE_SIZE)

/* Bytes of a slot's entry in the metadata: struct ka_pool. */
#define KA_SLOT_ENTRY	((size_t)64)

/* 1 in the checked build: see check/checked.h. */
#ifndef KA_CHECKED
#define KA_CHECKED	0
#endif

/*
 * Read a variable that another thread may change. This is one load. The compiler may make it an
 * operand of another instruction, which it does not with the loads of stdatomic.
 */
#ifdef __SANITIZE_THREAD__
#define KA_READ(value)	__atomic_load_n(&(value), __ATOMIC_RELAXED)
#else
#define KA_READ(value)	(value)
#endif

/*
 * error.c; ka_fail() sets the message and errno and returns -1; ka_fail_inherited() returns
 * true
 */
int ka_fail(int error, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
bool ka_fail_inherited(void);
void ka_ignore(void);
void ka_die(const char *what) __attribute__((noreturn, cold));

/* size.c */
int ka_parse_size(const char *text, size_t *size);
const char *ka_format_size(size_t size, char buffer[static 32]);

#endif /* KARENA_BASE_H */
