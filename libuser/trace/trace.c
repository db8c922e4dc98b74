// SPDX-License-Identifier: MIT
/*
 * Whether blocks are traced, and which are: a table from each to its size and stack.
 * The pools that traced blocks lie in are the tracer's, in @traced of struct ka_pools.
 *
 * To start or to stop, the tables from which threads take are emptied: each thread's
 * next call is a slow one, which sees what has changed (ka_trace_due()).
 */
#include <errno.h>
#include <execinfo.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "trace/trace.h"

/* How many frames the library itself may have at a stack's end. */
#define MOST_OWN	16

#define FIRST_ENTRIES	((size_t)1024)

/* Estimates of more would not fit into 64 bits. */
#define MOST_INTERVAL	((size_t)1 << 40)

/* A traced block. Without a stack it is of a time before tracing started again. */
struct entry {
	void *block;
	size_t size;
	uint64_t weight : 63;
	uint64_t is_run : 1;
	struct ka_stack *stack;
};

static struct ka_mutex lock = KA_MUTEX;
static size_t interval = 1;
static size_t most_frames;
static uint64_t current;
static uint64_t peak;

/* Open addressing: an entry is at its hash or, with no gap between, behind it. */
static struct entry *entries;
static size_t nr_slots;
static size_t nr_entries;

/* To find a stack may allocate. */
static __thread bool is_looking;

/* All of the library's code, wherever it is linked to; see the Makefile. */
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

/* The caller's stack without the library's frames: how many, or -1, not now. */
static int look(void *frames[static KA_TRACE_FRAMES])
{
	void *all[KA_TRACE_FRAMES + MOST_OWN];
	int most = (int)__atomic_load_n(&most_frames, __ATOMIC_RELAXED);
	int before = errno, count, own = 0;

	if (is_looking)
		return -1;
	is_looking = true;
	count = backtrace(all, most + MOST_OWN);
	is_looking = false;
	errno = before;
	/* A sanitizer has a backtrace() of its own, whose frame comes first. */
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

/* The slot of a block's entry, or the one that it would have. There is room. */
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

/* Let there be room for another entry. */
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

/* It counts for its stack from now on. */
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

/* Entries behind it may have to move up, so that there is no gap before them. */
static void take_out(size_t hole)
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

/* A block of the tracer's pools of a class, or NULL. */
static void *take_block(struct ka_pools *pools, unsigned int class)
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
	block = ka_pool_take(pool);
	if (!has_free(pool))
		ka_pool_unlink(list, pool);
	return block;
}

static void give_block(struct ka_pools *pools, struct ka_pool *pool, void *block)
{
	struct ka_pool_list *list = &pools->traced[pool->class];

	if (!has_free(pool))
		ka_pool_link(list, pool);
	if (ka_pool_give(pool, block))
		return;
	ka_pool_unlink(list, pool);
	ka_pool_give_back(pools, pool);
}

static size_t draw(void)
{
	return ka_sample_next(__atomic_load_n(&interval, __ATOMIC_RELAXED));
}

/* With the lock held: an entry for a block, or one without a stack. */
static struct entry prepare(size_t whole, size_t size, unsigned int due,
			    void *frames[], int count)
{
	struct entry entry = { .size = size };

	/* It may have been stopped, and have been started with another interval. */
	if (KA_READ(ka_trace_generation) != due || !make_room())
		return entry;
	entry.weight = ka_sample_weight(whole, interval) & (~0ULL >> 1);
	entry.stack = ka_stack_of(frames, (size_t)count);
	return entry;
}

static void *take_traced(struct ka_pools *pools, size_t whole, size_t size, unsigned int due)
{
	void *frames[KA_TRACE_FRAMES];
	int count = look(frames);
	struct entry entry;

	if (count < 0)
		return NULL;
	ka_trace_lock();
	entry = prepare(whole, size, due, frames, count);
	if (entry.stack)
		entry.block = take_block(pools, ka_class_of(whole));
	if (entry.block)
		add(entry);
	ka_trace_unlock();
	return entry.block;
}

static void add_run(void *run, size_t whole, size_t size, unsigned int due)
{
	void *frames[KA_TRACE_FRAMES];
	int count = look(frames);
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

static bool give_traced(struct ka_pools *pools, struct ka_pool *pool, void *block)
{
	struct entry *entry;

	ka_trace_lock();
	entry = find_entry(block);
	if (entry) {
		take_out((size_t)(entry - entries));
		give_block(pools, pool, block);
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
		take_out((size_t)(entry - entries));
	ka_trace_unlock();
}

/*
 * It is as if the block had been freed and allocated; but what it stands for was settled
 * when it was allocated.
 */
static void block_resized(const void *block, size_t size)
{
	void *frames[KA_TRACE_FRAMES];
	int count = ka_trace_active() ? look(frames) : -1;
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

/* Forget the blocks of a window's heap. */
static void heap_gone(const struct ka_window *window, bool locked)
{
	size_t size = ka_window_size(window), slot = 0;
	uintptr_t start = (uintptr_t)window->start;

	if (!locked)
		ka_trace_lock();
	/* What moves up when an entry is taken out comes from slots not yet seen. */
	while (nr_entries && slot < nr_slots) {
		if (entries[slot].block && (uintptr_t)entries[slot].block - start < size)
			take_out(slot);
		else
			slot++;
	}
	if (!locked)
		ka_trace_unlock();
}

/**
 * ka_trace_attach() - Let the layers below call the tracer.
 */
void ka_trace_attach(void)
{
	static const struct ka_sampler sampler = {
		.draw		= draw,
		.take		= take_traced,
		.add_run	= add_run,
		.give		= give_traced,
		.run_freed	= run_freed,
		.resized	= block_resized,
		.heap_gone	= heap_gone,
	};

	if (!__atomic_load_n(&ka_sampler, __ATOMIC_ACQUIRE))
		__atomic_store_n(&ka_sampler, &sampler, __ATOMIC_RELEASE);
}

/* From here on every thread takes the slow way, and sees the new generation there. */
static void next_generation(void)
{
	__atomic_fetch_add(&ka_trace_generation, 1, __ATOMIC_ACQ_REL);
	/*
	 * A thread that shows a pool later sees the new generation, and a pool that was shown
	 * earlier is hidden below: see pool_show() in thread/current.h.
	 * A kernel or a sandbox without it may leave a pool shown until it has no block.
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
		return ka_fail(EINVAL, "an interval of %zu bytes is not from 1 to 1T", bytes);
	if (!frames || frames > KA_TRACE_FRAMES)
		return ka_fail(EINVAL, "%zu frames are not from 1 to %d", frames,
			       KA_TRACE_FRAMES);
	ka_syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
	/* The first time it loads a library. */
	look(ignored);
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
	return active ? ka_fail(EBUSY, "tracing is on already") : 0;
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
 * ka_trace_figures() - Fill in what a snapshot says of tracing itself.
 * @traces: The snapshot. The lock is held.
 */
void ka_trace_figures(struct ka_traces *traces)
{
	traces->interval = interval;
	traces->most_frames = most_frames;
	traces->current = current;
	traces->peak = peak;
}

/* Threads take the lock behind that of the lists, and before that of a heap. */
__attribute__((constructor))
static void register_lock(void)
{
	ka_fork_takes_inner(&lock);
}
