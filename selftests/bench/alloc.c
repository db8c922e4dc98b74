// SPDX-License-Identifier: GPL-2.0
/*
 * The cost of malloc in one case, whose name is the argument; a second argument is its
 * number of threads. Prints the name, the seconds, the peak of resident memory and the
 * resident memory at the end in KiB, and the number of replaced blocks if the case does
 * nothing else. The table at the end has a row for each case. Without an argument the
 * program prints all names.
 */
#include "blocks.h"

struct work {
	const char *name;
	void (*run)(const struct work *work);
	size_t min, max;	/* sizes of blocks */
	size_t live;		/* blocks at a time */
	size_t steps;		/* how often; the case says what */
	int variant;		/* order, or number of threads */
};

enum order { SAME, REVERSED, SHUFFLED };

static size_t some_size(uint64_t *state, const struct work *work)
{
	return work->min + below(state, work->max - work->min + 1);
}

static size_t replaced;

/* Replace random blocks, @steps times. */
static void replace(void **blocks, const struct work *work, uint64_t *state)
{
	for (size_t i = 0; i < work->steps; i++) {
		void **slot = &blocks[below(state, work->live)];

		free(*slot);
		*slot = take(some_size(state, work));
	}
	__atomic_fetch_add(&replaced, work->steps, __ATOMIC_RELAXED);
}

static void churn(const struct work *work)
{
	void **blocks = pages(work->live * sizeof(*blocks));
	uint64_t state = 1;

	replace(blocks, work, &state);
	free_all(blocks, work->live);
}

static void *churn_thread(void *argument)
{
	churn(argument);
	return NULL;
}

static void churn_threads(const struct work *work)
{
	on_threads(work->variant, churn_thread, (void *)work, 0);
}

static pthread_barrier_t are_idle;

static void *idle_thread(void *argument)
{
	churn(argument);
	pthread_barrier_wait(&are_idle);
	pause();
	return NULL;
}

/* Threads that have freed all of their blocks, and stay alive. */
static void idle_threads(const struct work *work)
{
	pthread_t thread;

	pthread_barrier_init(&are_idle, NULL, (unsigned int)work->variant + 1);
	for (int i = 0; i < work->variant; i++) {
		if (pthread_create(&thread, NULL, idle_thread, (void *)work))
			die("pthread_create");
	}
	pthread_barrier_wait(&are_idle);
}

/* Threads of a server start and end. Each frees the blocks that the one before has left. */
struct server {
	const struct work *work;
	void **blocks;
	uint64_t state;
};

static void *serve(void *argument)
{
	struct server *server = argument;

	replace(server->blocks, server->work, &server->state);
	return NULL;
}

static void servers(const struct work *work)
{
	struct server all[MAX_THREADS];
	int n = work->variant;

	for (int i = 0; i < n; i++)
		all[i] = (struct server){
			work, pages(work->live * sizeof(void *)), (uint64_t)i + 1
		};
	for (int generation = 0; generation < 40; generation++)
		on_threads(n, serve, all, sizeof(*all));
	for (int i = 0; i < n; i++)
		free_all(all[i].blocks, work->live);
}

/* A queue between a thread that allocates blocks and one that frees them, in boxes. */
#define BOX	256
#define BOXES	16

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	size_t made, taken;
	void *boxes[BOXES][BOX];
} queue = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

static void await_boxes(const size_t *count, size_t other, size_t difference)
{
	pthread_mutex_lock(&queue.lock);
	while (*count - other == difference)
		pthread_cond_wait(&queue.changed, &queue.lock);
	pthread_mutex_unlock(&queue.lock);
}

static void count_box(size_t *count)
{
	pthread_mutex_lock(&queue.lock);
	++*count;
	pthread_cond_signal(&queue.changed);
	pthread_mutex_unlock(&queue.lock);
}

static void *consume(void *argument)
{
	const struct work *work = argument;

	for (size_t i = 0; i < work->steps; i++) {
		await_boxes(&queue.made, i, 0);
		free_all(queue.boxes[i % BOXES], BOX);
		count_box(&queue.taken);
	}
	return NULL;
}

static void produce(const struct work *work)
{
	uint64_t state = 1;
	pthread_t consumer;

	if (pthread_create(&consumer, NULL, consume, (void *)work))
		die("pthread_create");
	for (size_t i = 0; i < work->steps; i++) {
		/* Unsigned: i - taken is BOXES when the queue is full. */
		await_boxes(&queue.taken, i, -(size_t)BOXES);
		for (int j = 0; j < BOX; j++)
			queue.boxes[i % BOXES][j] = take(some_size(&state, work));
		count_box(&queue.made);
	}
	pthread_join(consumer, NULL);
}

/* Allocate all blocks, then free all of them in the order given by variant. */
static void batches(const struct work *work)
{
	void **blocks = pages(work->live * sizeof(*blocks));
	size_t *order = pages(work->live * sizeof(*order)), n = work->live;
	uint64_t state = 1;

	for (size_t i = 0; i < n; i++)
		order[i] = work->variant == REVERSED ? n - 1 - i : i;
	for (size_t i = n - 1; work->variant == SHUFFLED && i; i--) {
		size_t other = below(&state, i + 1), index = order[i];

		order[i] = order[other];
		order[other] = index;
	}
	for (size_t step = 0; step < work->steps; step++) {
		for (size_t i = 0; i < n; i++)
			blocks[i] = take(some_size(&state, work));
		for (size_t i = 0; i < n; i++)
			free(blocks[order[i]]);
	}
}

/* Buffers grow in turn from min to max, each time by 1/variant of their size. */
static void grow(const struct work *work)
{
	char **buffers = pages(work->live * sizeof(*buffers));

	for (size_t step = 0; step < work->steps; step++) {
		memset(buffers, 0, work->live * sizeof(*buffers));
		for (size_t size = work->min; size <= work->max;
		     size += size / (size_t)work->variant + 1) {
			for (size_t i = 0; i < work->live; i++) {
				buffers[i] = realloc(buffers[i], size);
				if (!buffers[i])
					die("no memory");
				buffers[i][0] = 1;
				buffers[i][size - 1] = 1;
			}
		}
		free_all((void **)buffers, work->live);
	}
}

static void *take_zeroed(size_t size)
{
	char *block = calloc(1, size);

	if (block && (block[0] || block[size - 1]))
		die("calloc gave what is not zero");
	return use(block, size);
}

/* All blocks stay until the end, so all memory is new. */
static void calloc_fresh(const struct work *work)
{
	void **blocks = pages(work->live * sizeof(*blocks));
	uint64_t state = 1;

	for (size_t i = 0; i < work->live; i++)
		blocks[i] = take_zeroed(some_size(&state, work));
	free_all(blocks, work->live);
}

static void calloc_reused(const struct work *work)
{
	void **blocks = pages(work->live * sizeof(*blocks));
	uint64_t state = 1;

	for (size_t i = 0; i < work->steps; i++) {
		void **slot = &blocks[below(&state, work->live)];

		free(*slot);
		*slot = take_zeroed(some_size(&state, work));
	}
	free_all(blocks, work->live);
}

/* Free the oldest block, but keep one in variant until the end. */
static void mixed_lifetimes(const struct work *work)
{
	void **blocks = pages(work->live * sizeof(*blocks));
	void **kept = pages((work->steps / (size_t)work->variant + 1) * sizeof(*kept));
	uint64_t state = 1;
	size_t n = 0;

	for (size_t i = 0; i < work->steps; i++) {
		void **slot = &blocks[i % work->live];

		if (*slot && !below(&state, (size_t)work->variant) &&
		    n < work->steps / (size_t)work->variant)
			kept[n++] = *slot;
		else
			free(*slot);
		*slot = take(some_size(&state, work));
	}
	free_all(blocks, work->live);
	free_all(kept, n);
}

static void short_threads(const struct work *work)
{
	struct work little = *work;

	little.steps = 200;
	for (size_t i = 0; i < work->steps; i++)
		on_threads(work->variant, churn_thread, &little, 0);
}

/* Alignments from 16 to 4096 bytes, small ones more often. */
static void aligned(const struct work *work)
{
	void **blocks = pages(work->live * sizeof(*blocks));
	uint64_t state = 1;

	for (size_t i = 0; i < work->steps; i++) {
		void **slot = &blocks[below(&state, work->live)];
		size_t size = some_size(&state, work), alignment;

		alignment = (size_t)16 << below(&state, 1 + below(&state, 9));
		free(*slot);
		if (posix_memalign(slot, alignment, size))
			die("no memory");
		use(*slot, size);
	}
	free_all(blocks, work->live);
}

/* Keep one block in @live steps, as a program keeps a part of its data. */
static void kept_few(const struct work *work)
{
	struct link {
		struct link *next;
	} *all = NULL, *link;
	uint64_t state = 1;

	for (size_t i = 0; i < work->live; i++) {
		link = take(some_size(&state, work));
		link->next = all;
		all = link;
	}
	for (size_t i = 0; all; i++) {
		link = all;
		all = link->next;
		if (i % work->steps)
			free(link);
	}
}

static void kept_all(const struct work *work)
{
	uint64_t state = 1;

	for (size_t sum = 0, size; sum < work->live; sum += size) {
		size = some_size(&state, work);
		take(size);
	}
}

static const struct work works[] = {
	{ "churn-128", churn, 8, 128, 10000, 10000000, 0 },
	{ "churn-1k", churn, 8, KIB, 20000, 3000000, 0 },
	{ "churn-20k", churn, KIB, 20 * KIB, 2000, 1000000, 0 },
	{ "churn-300k", churn, 20 * KIB, 300 * KIB, 100, 20000, 0 },
	{ "large", churn, 300 * KIB, 6 * MIB, 6, 40, 0 },
	{ "large-held", churn, MIB, 3 * MIB, 40, 60, 0 },
	{ "server", servers, 16, KIB, 5000, 50000, 2 },
	{ "producer", produce, 16, 512, 0, 15000, 0 },
	{ "batch-16-same", batches, 16, 16, 100000, 40, SAME },
	{ "batch-16-reversed", batches, 16, 16, 100000, 40, REVERSED },
	{ "batch-16-random", batches, 16, 16, 100000, 40, SHUFFLED },
	{ "batch-1k-same", batches, KIB, KIB, 4000, 150, SAME },
	{ "batch-1k-reversed", batches, KIB, KIB, 4000, 150, REVERSED },
	{ "batch-1k-random", batches, KIB, KIB, 4000, 150, SHUFFLED },
	{ "batch-40k-same", batches, 40000, 40000, 100, 120, SAME },
	{ "batch-40k-reversed", batches, 40000, 40000, 100, 120, REVERSED },
	{ "batch-40k-random", batches, 40000, 40000, 100, 120, SHUFFLED },
	{ "batch-256k-same", batches, 256 * KIB, 256 * KIB, 20, 60, SAME },
	{ "batch-256k-reversed", batches, 256 * KIB, 256 * KIB, 20, 60, REVERSED },
	{ "batch-256k-random", batches, 256 * KIB, 256 * KIB, 20, 60, SHUFFLED },
	{ "realloc-strings", grow, 16, 64 * KIB, 20, 200, 2 },
	{ "realloc-vectors", grow, 16 * KIB, 8 * MIB, 2, 4, 8 },
	{ "calloc-fresh", calloc_fresh, 16, 16 * KIB, 6000, 0, 0 },
	{ "calloc-reused", calloc_reused, 16, 16 * KIB, 2000, 600000, 0 },
	{ "mixed", mixed_lifetimes, 16, 512, 1000, 3000000, 64 },
	{ "threads-short", short_threads, 16, KIB, 100, 2000, 2 },
	{ "threads-churn", churn_threads, 8, 256, 5000, 2000000, 4 },
	{ "threads-idle", idle_threads, 16, KIB, 20000, 40000, 16 },
	{ "aligned", aligned, 16, 4 * KIB, 2000, 1000000, 0 },
	{ "tuples", kept_few, 56, 72, 3000000, 2000, 0 },
	{ "tiny", kept_all, 16, KIB, 100 * KIB, 0, 0 },
};

static void run(const struct work *work)
{
	double start = now();

	work->run(work);
	dprintf(STDOUT_FILENO, "%s %.6f %lu %lu %zu\n", work->name, now() - start,
		status_member("VmHWM:"), status_member("VmRSS:"), replaced);
}

static const struct work *find(const char *name)
{
	for (size_t i = 0; i < sizeof(works) / sizeof(*works); i++) {
		if (strcmp(works[i].name, name) == 0)
			return &works[i];
	}
	fprintf(stderr, "alloc: no case %s\n", name);
	exit(2);
}

int main(int argc, char **argv)
{
	struct work work;

	if (argc < 2) {
		for (size_t i = 0; i < sizeof(works) / sizeof(*works); i++)
			puts(works[i].name);
		return 0;
	}
	work = *find(argv[1]);
	if (argc > 2)
		work.variant = atoi(argv[2]);
	if (argc > 2 && (work.variant < 1 || work.variant > MAX_THREADS)) {
		fprintf(stderr, "alloc: 1 to %d threads\n", MAX_THREADS);
		return 2;
	}
	run(&work);
	return 0;
}
