// SPDX-License-Identifier: MIT
/*
 * Records of blocks, found by the block's address, and the quarantine of freed blocks. Their
 * memory is separate from all heaps, so a program that overwrites its blocks leaves the records
 * intact. Records and stacks are never unmapped.
 */
#include <errno.h>
#include <string.h>

#include "check/debug.h"

#define CHUNK		((size_t)256 << 10)
#define FIRST_BUCKETS	((size_t)4096)

static struct ka_mutex lock = KA_MUTEX;
KA_FORK_TAKES(lock);

static char *room;
static size_t room_left;

static struct ka_record **buckets;
static size_t nr_buckets;
static size_t nr_records;
static struct ka_record *unused;

/* The quarantine, ordered by the time of the free. */
static struct ka_record *oldest, *newest;
static size_t quarantined;
static size_t quarantine_limit;

void ka_records_lock(void)
{
	ka_lock(&lock);
}

void ka_records_unlock(void)
{
	ka_unlock(&lock);
}

/* Set the size of the quarantine, before the first record. */
void ka_records_begin(size_t quarantine)
{
	ka_records_lock();
	quarantine_limit = quarantine;
	ka_records_unlock();
}

static void *pages(size_t size)
{
	void *start = ka_mmap(NULL, size, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS);

	return start == MAP_FAILED ? NULL : start;
}

/* Allocate zeroed bytes that are never freed; NULL without memory. The lock is held. */
void *ka_records_room(size_t size)
{
	void *start;

	size = (size + 15) & ~(size_t)15;
	if (size > CHUNK / 4)
		return pages(size);
	if (size > room_left) {
		start = pages(CHUNK);
		if (!start)
			return NULL;
		room = start;
		room_left = CHUNK;
	}
	start = room;
	room += size;
	room_left -= size;
	return start;
}

static struct ka_record **bucket_of(const void *block)
{
	uint64_t hash = (uintptr_t)block / 16 * 0x9e3779b97f4a7c15ULL;

	return &buckets[hash >> 32 & (nr_buckets - 1)];
}

static void insert(struct ka_record *record)
{
	struct ka_record **bucket = bucket_of(record->block);

	record->next = *bucket;
	*bucket = record;
}

/*
 * Keep at least as many buckets as records, if there is memory. False if there are none at all.
 */
static bool grow(void)
{
	size_t size = nr_buckets ? nr_buckets * 2 : FIRST_BUCKETS, old = nr_buckets;
	struct ka_record **more, **before = buckets;

	if (nr_records < nr_buckets)
		return true;
	more = pages(size * sizeof(struct ka_record *));
	if (!more)
		return buckets;
	buckets = more;
	nr_buckets = size;
	for (size_t i = 0; i < old; i++) {
		while (before[i]) {
			struct ka_record *record = before[i];

			before[i] = record->next;
			insert(record);
		}
	}
	if (before)
		ka_munmap(before, old * sizeof(struct ka_record *));
	return true;
}

/**
 * ka_record_new() - Allocate a record, which is not in the table yet.
 *
 * Return: The record, all zero, for which the table has room; NULL with errno and a message.
 */
struct ka_record *ka_record_new(void)
{
	struct ka_record *record = NULL;

	ka_records_lock();
	if (grow()) {
		record = unused;
		if (record)
			unused = record->next;
		else
			record = ka_records_room(sizeof(*record));
	}
	if (record)
		nr_records++;
	ka_records_unlock();
	if (record)
		memset(record, 0, sizeof(*record));
	else
		ka_fail(ENOMEM, "no memory for the record of a block");
	return record;
}

/* Free a record that is not in the table. */
void ka_record_drop(struct ka_record *record)
{
	ka_records_lock();
	record->next = unused;
	unused = record;
	nr_records--;
	ka_records_unlock();
}

/* Put the record of a new block into the table. */
void ka_record_add(struct ka_record *record)
{
	ka_records_lock();
	insert(record);
	ka_records_unlock();
}

/* Return the record of a block, or NULL if the block has no record. The lock is held. */
struct ka_record *ka_record_find(const void *block)
{
	struct ka_record *record = buckets ? *bucket_of(block) : NULL;

	while (record && record->block != block)
		record = record->next;
	return record;
}

/* The next record in the table, or the first one for NULL. NULL at the end. The lock is held. */
struct ka_record *ka_record_after(const struct ka_record *record)
{
	size_t i = 0;

	if (record && record->next)
		return record->next;
	if (record)
		i = (size_t)(bucket_of(record->block) - buckets) + 1;
	while (i < nr_buckets && !buckets[i])
		i++;
	return i < nr_buckets ? buckets[i] : NULL;
}

/*
 * Return the block whose memory contains an address, or NULL. The search reads all
 * records. The lock is held.
 */
struct ka_record *ka_record_around(const void *address)
{
	struct ka_record *record = NULL;

	while ((record = ka_record_after(record))) {
		uintptr_t start = (uintptr_t)record->block - record->lead;

		if ((uintptr_t)address - start < record->span)
			return record;
	}
	return NULL;
}

static void table_remove(const struct ka_record *record)
{
	struct ka_record **link = bucket_of(record->block);

	while (*link != record)
		link = &(*link)->next;
	*link = record->next;
}

/**
 * ka_quarantine_put() - Put a freed block into the quarantine.
 * @record: Its record, in the state KA_FREEING.
 *
 * Return: The oldest records, if the quarantine exceeds its size, linked by @newer. They are no
 * longer in the table and belong to the caller.
 */
struct ka_record *ka_quarantine_put(struct ka_record *record)
{
	struct ka_record *first, *last = NULL;

	ka_records_lock();
	record->state = KA_QUARANTINED;
	record->newer = NULL;
	if (newest)
		newest->newer = record;
	else
		oldest = record;
	newest = record;
	quarantined += record->span;
	first = oldest;
	while (oldest && quarantined > quarantine_limit) {
		last = oldest;
		oldest = last->newer;
		quarantined -= last->span;
		table_remove(last);
	}
	if (!oldest)
		newest = NULL;
	if (last)
		last->newer = NULL;
	ka_records_unlock();
	return last ? first : NULL;
}

size_t ka_quarantine_bytes(void)
{
	size_t bytes;

	ka_records_lock();
	bytes = quarantined;
	ka_records_unlock();
	return bytes;
}
