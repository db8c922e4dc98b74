// SPDX-License-Identifier: MIT
/*
 * Tracing: whether it is on, and a table with the size and the stack of each traced block. The
 * tracer's pools contain the traced blocks; they are linked by @traced of struct ka_pools.
 *
 * To start or stop, the tracer hides all pools from the fast path. The next call of each thread
 * then takes the slow path, which sees the new generation: see ka_trace_due().
 */
#include <errno.h>
#include <execinfo.h>
#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "trace/trace.h"

/* Maximum number of the library's own frames at the inner end of a stack. */
#define MOST_OWN	16

#define FIRST_ENTRIES	((size_t)1024)

/* Estimates for larger intervals would not fit into 64 bits. */
#define MOST_INTERVAL	((size_t)1 << 40)

/* A traced block. One without a stack was traced before tracing started again. */
struct entry {
	void *block;
	size_t size;
	uint64_t weight : 63;
	uint64_t is_run : 1;
	struct ka_stack *stack;
};

/* Threads take it after the lock of the lists, and before that of a heap. */
static struct ka_mutex lock = KA_MUTEX;
KA_FORK_TAKES_INNER(lock);
static size_t interval = 1;
static size_t most_frames;
static uint64_t current;
static uint64_t peak;

/* Open addressing: an entry is at its hash, or behind it with no gap between. */
static struct entry *entries;
static size_t nr_slots;
static size_t nr_entries;

/* The thread is in backtrace(), which may allocate. */
static __thread bool is_capturing;

/* The library's code, in whatever file it is linked; see the Makefile. */
extern const char own_start[] __asm__("__start_karena_text")
	__attribute__((visibility("hidden")));
extern const char own_end[] __asm__("__stop_karena_text")
	__attribute__((visibility("hidden")));

void ka_trace_lock(void)
{
	ka_lock(&lock);
}

void ka_trace_unlock(void)
{
	ka_unlock(&lock);
}

static bool is_own(const void *address)
{
	return (uintptr_t)address - (uintptr_t)own_start <
	       (uintptr_t)own_end - (uintptr_t)own_start;
}

/*
 * Get the caller's stack without the library's frames. Return the number of frames; -1 while
 * the thread is already here.
 */
static int capture_stack(void *frames[static KA_TRACE_FRAMES])
{
	void *all[KA_TRACE_FRAMES + MOST_OWN];
	int most = (int)__atomic_load_n(&most_frames, __ATOMIC_RELAXED);
	int before = errno, count, own = 0;

	if (is_capturing)
		return -1;
	is_capturing = true;
	count = backtrace(all, most + MOST_OWN);
	is_capturing = false;
	errno = before;
	/* A sanitizer replaces backtrace(); the replacement's frame is the first. */
	while (own < count && !is_own(all[own]))
		own++;
	while (own < count && is_own(all[own]))
		own++;
	count -= own;
	if (count > most)
		count = most;
	for (int i = 0; i < count; i++)
		frames[i] = all[own + i];
	return count;
}

static size_t slot_of(const void *block)
{
	return ((uintptr_t)block >> 4) * 0x9e3779b97f4a7c15ULL >> 20 & (nr_slots - 1);
}

/* The slot of a block's entry, or the slot where it would be. The table is never full. */
static size_t find(const void *block)
{
	size_t slot = slot_of(block);

	while (entries[slot].block && entries[slot].block != block)
		slot = (slot + 1) & (nr_slots - 1);
	return slot;
}

static struct entry *find_entry(const void *block)
{
	struct entry *entry = nr_entries ? &entries[find(block)] : NULL;

	return entry && entry->block ? entry : NULL;
}

/* Make room for another entry. False without memory. */
static bool make_room(void)
{
	struct entry *old = entries, *table;
	size_t count = nr_slots, wanted = count ? count * 2 : FIRST_ENTRIES;

	if (nr_entries + 1 <= count - count / 4)
		return true;
	table = ka_trace_map(wanted * sizeof(*table));
	if (!table)
		return false;
	entries = table;
	nr_slots = wanted;
	for (size_t i = 0; i < count; i++) {
		if (old[i].block)
			entries[find(old[i].block)] = old[i];
	}
	ka_trace_unmap(old, count * sizeof(*old));
	return true;
}

static uint64_t bytes_of(const struct entry *entry)
{
	return (entry->size * entry->weight + KA_WEIGHT_ONE / 2) / KA_WEIGHT_ONE;
}

/* Add an entry to the counters, and to those of its stack. */
static void count_in(struct entry *entry)
{
	struct ka_stack *stack = entry->stack;
	uint64_t bytes = bytes_of(entry);

	stack->bytes += bytes;
	stack->blocks += entry->weight;
	stack->total_bytes += bytes;
	stack->total_blocks += entry->weight;
	current += bytes;
	if (current > peak)
		peak = current;
}

static void count_out(const struct entry *entry)
{
	uint64_t bytes = bytes_of(entry);

	if (!entry->stack)
		return;
	entry->stack->bytes -= bytes;
	entry->stack->blocks -= entry->weight;
	current -= bytes;
}

static void add(struct entry entry)
{
	entries[find(entry.block)] = entry;
	count_in(&entry);
	nr_entries++;
	if (entry.is_run)
		__atomic_store_n(&ka_trace_nr_runs, ka_trace_nr_runs + 1,
				 __ATOMIC_RELAXED);
}

/* Remove an entry. Entries behind it move up, so that no gap separates them from their hash. */
static void entry_remove(size_t hole)
{
	size_t mask = nr_slots - 1, slot = hole;

	count_out(&entries[hole]);
	if (entries[hole].is_run)
		__atomic_store_n(&ka_trace_nr_runs, ka_trace_nr_runs - 1,
				 __ATOMIC_RELAXED);
	nr_entries--;
	for (;;) {
		slot = (slot + 1) & mask;
		if (!entries[slot].block)
			break;
		if (((slot - slot_of(entries[slot].block)) & mask) <
		    ((slot - hole) & mask))
			continue;
		entries[hole] = entries[slot];
		hole = slot;
	}
	entries[hole] = (struct entry){ 0 };
}

static bool has_free(const struct ka_pool *pool)
{
	return pool->free || pool->made < pool->capacity;
}

/* Allocate a block from the tracer's pools of a class, or return NULL. The lock is held. */
static void *block_alloc(struct ka_pools *pools, unsigned int class)
{
	struct ka_pool_list *list = &pools->traced[class];
	struct ka_pool *pool = list->first;
	void *block;

	if (!pool) {
		pool = ka_pool_make(pools, class, KA_TRACED);
		if (!pool)
			return NULL;
		ka_pool_link(list, pool);
	}
	if (!pool->free)
		ka_pool_extend(pools, pool);
	block = ka_pool_alloc(pool);
	if (!has_free(pool))
		ka_pool_unlink(list, pool);
	return block;
}

static void block_free(struct ka_pools *pools, struct ka_pool *pool, void *block)
{
	struct ka_pool_list *list = &pools->traced[pool->class];

	if (!has_free(pool))
		ka_pool_link(list, pool);
	if (ka_pool_free(pool, block))
		return;
	ka_pool_unlink(list, pool);
	ka_pool_return(pools, pool);
}

static size_t draw(void)
{
	return ka_sample_next(__atomic_load_n(&interval, __ATOMIC_RELAXED));
}

/*
 * Make the entry of a new block. It has no stack if the block cannot be traced. The lock is
 * held.
 */
static struct entry prepare(size_t whole, size_t size, unsigned int due,
			    void *frames[], int count)
{
	struct entry entry = { .size = size };

	/* Tracing may have stopped by now, and started again with another interval. */
	if (KA_READ(ka_trace_generation) != due || !make_room())
		return entry;
	entry.weight = ka_sample_weight(whole, interval) & (~0ULL >> 1);
	entry.stack = ka_stack_of(frames, (size_t)count);
	return entry;
}

static void *traced_alloc(struct ka_pools *pools, size_t whole, size_t size, unsigned int due)
{
	void *frames[KA_TRACE_FRAMES];
	int count = capture_stack(frames);
	struct entry entry;

	if (count < 0)
		return NULL;
	ka_trace_lock();
	entry = prepare(whole, size, due, frames, count);
	if (entry.stack)
		entry.block = block_alloc(pools, ka_class_of(whole));
	if (entry.block)
		add(entry);
	ka_trace_unlock();
	return entry.block;
}

static void add_run(void *run, size_t whole, size_t size, unsigned int due)
{
	void *frames[KA_TRACE_FRAMES];
	int count = capture_stack(frames);
	struct entry entry;

	if (count < 0)
		return;
	ka_trace_lock();
	entry = prepare(whole, size, due, frames, count);
	if (entry.stack) {
		entry.block = run;
		entry.is_run = true;
		add(entry);
	}
	ka_trace_unlock();
}

static bool traced_free(struct ka_pools *pools, struct ka_pool *pool, void *block)
{
	struct entry *entry;

	ka_trace_lock();
	entry = find_entry(block);
	if (entry) {
		entry_remove((size_t)(entry - entries));
		block_free(pools, pool, block);
	}
	ka_trace_unlock();
	return entry;
}

static void run_freed(const void *run)
{
	struct entry *entry;

	ka_trace_lock();
	entry = find_entry(run);
	if (entry && entry->is_run)
		entry_remove((size_t)(entry - entries));
	ka_trace_unlock();
}

/*
 * Count a resized block as freed and allocated at the current stack. Its weight stays that of
 * its allocation.
 */
static void block_resized(const void *block, size_t size)
{
	void *frames[KA_TRACE_FRAMES];
	int count = ka_trace_active() ? capture_stack(frames) : -1;
	struct ka_stack *stack = NULL;
	struct entry *entry;

	ka_trace_lock();
	entry = find_entry(block);
	if (entry && entry->stack) {
		count_out(entry);
		entry->size = size;
		if (count >= 0)
			stack = ka_stack_of(frames, (size_t)count);
		if (stack)
			entry->stack = stack;
		count_in(entry);
	}
	ka_trace_unlock();
}

/* Remove the entries of all blocks of a heap. @locked: the caller holds the lock. */
static void forget_heap(const struct ka_window *window, bool locked)
{
	size_t size = ka_window_size(window), slot = 0;
	uintptr_t start = (uintptr_t)window->start;

	if (!locked)
		ka_trace_lock();
	/* The removal moves entries up from slots that this loop has not reached yet. */
	while (nr_entries && slot < nr_slots) {
		if (entries[slot].block && (uintptr_t)entries[slot].block - start < size)
			entry_remove(slot);
		else
			slot++;
	}
	if (!locked)
		ka_trace_unlock();
}

/**
 * ka_trace_attach() - Set ka_sampler, by which the lower layers call the tracer.
 */
void ka_trace_attach(void)
{
	static const struct ka_sampler sampler = {
		.draw		= draw,
		.alloc		= traced_alloc,
		.add_run	= add_run,
		.free		= traced_free,
		.run_freed	= run_freed,
		.resized	= block_resized,
		.forget_heap	= forget_heap,
	};

	if (!__atomic_load_n(&ka_sampler, __ATOMIC_ACQUIRE))
		__atomic_store_n(&ka_sampler, &sampler, __ATOMIC_RELEASE);
}

/* Start or stop tracing: every thread takes the slow path, where it sees the new generation. */
static void next_generation(void)
{
	__atomic_fetch_add(&ka_trace_generation, 1, __ATOMIC_ACQ_REL);
	/*
	 * A thread that shows a pool after the barrier sees the new generation; a pool shown
	 * before it is hidden below: see pool_show() in thread/current.h. Without membarrier(),
	 * which an old kernel may lack and a sandbox may forbid, a pool may stay shown until it
	 * has no free block.
	 */
	if (ka_syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0))
		ka_syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0);
	ka_heaps_hide_pools();
}

static void forget_all(void)
{
	for (size_t slot = 0; slot < nr_slots; slot++)
		entries[slot].stack = NULL;
	ka_stacks_forget();
	current = 0;
	peak = 0;
}

int ka_trace_start(size_t bytes, size_t frames)
{
	void *ignored[KA_TRACE_FRAMES];
	bool active;

	if (!bytes || bytes > MOST_INTERVAL)
		return ka_fail(EINVAL, "invalid interval of %zu bytes: it must be from 1 to 1T",
			       bytes);
	if (!frames || frames > KA_TRACE_FRAMES)
		return ka_fail(EINVAL, "invalid number of frames %zu: it must be from 1 to %d",
			       frames, KA_TRACE_FRAMES);
	ka_syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
	/* The first call of backtrace() loads a library. */
	capture_stack(ignored);
	ka_lists_lock();
	ka_trace_lock();
	active = ka_trace_active();
	if (!active) {
		forget_all();
		__atomic_store_n(&interval, bytes, __ATOMIC_RELAXED);
		__atomic_store_n(&most_frames, frames, __ATOMIC_RELAXED);
		next_generation();
	}
	ka_trace_unlock();
	ka_lists_unlock();
	return active ? ka_fail(EBUSY, "tracing is on already: stop it first") : 0;
}

void ka_trace_stop(void)
{
	ka_lists_lock();
	ka_trace_lock();
	if (ka_trace_active())
		next_generation();
	ka_trace_unlock();
	ka_lists_unlock();
}

bool ka_trace_active(void)
{
	return __atomic_load_n(&ka_trace_generation, __ATOMIC_RELAXED) & 1;
}

void ka_trace_memory(size_t *now, size_t *most)
{
	ka_trace_lock();
	if (now)
		*now = current;
	if (most)
		*most = peak;
	ka_trace_unlock();
}

void ka_trace_reset_peak(void)
{
	ka_trace_lock();
	peak = current;
	ka_trace_unlock();
}

size_t ka_trace_of(const void *block, const void **frames, size_t most)
{
	const struct entry *entry;
	size_t count = 0;

	ka_trace_lock();
	entry = find_entry(block);
	while (entry && entry->stack && count < most && count < entry->stack->nr_frames) {
		frames[count] = entry->stack->frames[count];
		count++;
	}
	ka_trace_unlock();
	return count;
}

/**
 * ka_trace_stats() - Fill in the settings and totals of a snapshot.
 * @traces: The snapshot.
 *
 * Context: The lock of the traces is held.
 */
void ka_trace_stats(struct ka_traces *traces)
{
	traces->interval = interval;
	traces->most_frames = most_frames;
	traces->current = current;
	traces->peak = peak;
}
