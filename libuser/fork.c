// SPDX-License-Identifier: MIT
/*
 * All heaps of the process, and what becomes of them when it forks: a copy, or the
 * parent's heap, of which the child has the memory or nothing.
 */
#include <sys/mman.h>
#include <time.h>

#include "trace.h"

static pthread_mutex_t heaps_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t heaps_once = PTHREAD_ONCE_INIT;
static struct ka_heap *heaps;
static struct ka_heap *by_index[KA_HEAPS];
static uint64_t last_serial;

void ka_heaps_lock(void)
{
	pthread_mutex_lock(&heaps_lock);
}

void ka_heaps_unlock(void)
{
	pthread_mutex_unlock(&heaps_lock);
}

/* Whether there has ever been a heap. */
bool ka_heaps_any(void)
{
	return last_serial;
}

/* With the lock held: see ka_caches_hide_pools(). */
void ka_heaps_hide_pools(void)
{
	for (struct ka_heap *heap = heaps; heap; heap = heap->next)
		ka_caches_hide_pools(heap);
}

/* Fork with every lock held, so that no child finds one that nobody releases. */
static void fork_prepare(void)
{
	pthread_mutex_lock(&heaps_lock);
	ka_trace_lock();
	for (struct ka_heap *heap = heaps; heap; heap = heap->next)
		pthread_mutex_lock(&heap->lock);
}

/* Parent and child alike hold what fork_prepare() took. */
static void fork_parent(void)
{
	for (struct ka_heap *heap = heaps; heap; heap = heap->next)
		pthread_mutex_unlock(&heap->lock);
	ka_trace_unlock();
	pthread_mutex_unlock(&heaps_lock);
}

/* What is mapped there by chance later must not pass for the heap. */
static void keep_addresses(void *start, size_t size)
{
	if (size)
		(void)mmap(start, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS |
			   MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
}

static void inherit(struct ka_heap *heap)
{
	struct ka_window *window = &heap->window;

	if (window->fork == KA_FORK_COW && window->source->copied(window))
		return;
	heap->inherited = true;
	heap->nr_slots = 0;
	if (window->fork == KA_FORK_SHARE)
		return;
	keep_addresses(window->start, ka_window_size(window));
	keep_addresses(window->control, window->control_size);
}

static void fork_child(void)
{
	for (struct ka_heap *heap = heaps; heap; heap = heap->next) {
		if (!heap->inherited)
			inherit(heap);
		ka_stats_forked(heap);
		if (heap->inherited)
			ka_trace_heap_gone_locked(heap);
		ka_caches_forked(heap);
	}
	fork_parent();
}

static void register_handlers(void)
{
	pthread_atfork(fork_prepare, fork_parent, fork_child);
}

/*
 * Whoever takes a lock before those of the heaps registers later than they. All register
 * when the library is loaded, or by an earlier first call: by a later one they could take
 * the lock when a fork is under way that has not met the handler.
 */
__attribute__((constructor))
void ka_fork_register(void)
{
	pthread_once(&heaps_once, register_handlers);
}

/* An index for a heap, or KA_HEAPS if there are too many: it has no blocks then. */
static size_t free_index(void)
{
	size_t index = 0;

	while (index < KA_HEAPS && by_index[index])
		index++;
	return index;
}

void ka_heap_register(struct ka_heap *heap)
{
	ka_fork_register();
	pthread_mutex_lock(&heaps_lock);
	heap->next = heaps;
	heaps = heap;
	heap->serial = ++last_serial;
	heap->index = free_index();
	if (heap->index < KA_HEAPS)
		by_index[heap->index] = heap;
	pthread_mutex_unlock(&heaps_lock);
}

void ka_heap_unregister(struct ka_heap *heap)
{
	struct ka_heap **link = &heaps;

	pthread_mutex_lock(&heaps_lock);
	while (*link != heap)
		link = &(*link)->next;
	*link = heap->next;
	if (heap->index < KA_HEAPS)
		by_index[heap->index] = NULL;
	ka_caches_free(heap);
	pthread_mutex_unlock(&heaps_lock);
}

/* Whoever called exit() may hold a lock, or have a thread that never gives it back. */
static bool lock_soon(pthread_mutex_t *lock)
{
	static const struct timespec moment = { .tv_nsec = 1000000 };

	for (int i = 0; i < 1000; i++) {
		if (!pthread_mutex_trylock(lock))
			return true;
		nanosleep(&moment, NULL);
	}
	return false;
}

/**
 * ka_heaps_at_exit() - Call a function for each heap at the end of the program.
 * @visit: The function; with the heap's lock held, and that of the list.
 */
void ka_heaps_at_exit(void (*visit)(struct ka_heap *heap))
{
	if (!lock_soon(&heaps_lock))
		return;
	for (struct ka_heap *heap = heaps; heap; heap = heap->next) {
		if (!lock_soon(&heap->lock))
			continue;
		visit(heap);
		pthread_mutex_unlock(&heap->lock);
	}
	pthread_mutex_unlock(&heaps_lock);
}
