/* SPDX-License-Identifier: MIT */
/*
 * How another process finds the statistics of a heap without the module: at the start of
 * the heap's window, which it searches in /proc/PID/maps.
 */
#ifndef KARENA_TESTS_SHOWN_H
#define KARENA_TESTS_SHOWN_H

#include <sys/uio.h>

#include "common.h"
#include "heap/heap.h"

/* Read the metadata of the heap whose window starts at an address, if there is one. */
static inline bool shown_at(pid_t pid, unsigned long start, struct ka_metadata *metadata)
{
	struct iovec local = { metadata, sizeof(*metadata) };
	struct iovec remote = { (void *)start, sizeof(*metadata) };

	return process_vm_readv(pid, &local, 1, &remote, 1, 0) == sizeof(*metadata) &&
	       metadata->magic == KA_METADATA_MAGIC && metadata->version == KA_METADATA_VERSION &&
	       metadata->start == start;
}

/*
 * Return true if a page of a process is resident. Reading other pages would allocate page
 * tables in that process: gigabytes for the shadow memory of a sanitizer.
 */
static inline bool page_is_there(int pagemap, unsigned long address)
{
	uint64_t entry = 0;

	return pread(pagemap, &entry, sizeof(entry),
		     (off_t)(address / KA_PAGE_SIZE * sizeof(entry))) == sizeof(entry) &&
	       entry >> 62;
}

/* Read the metadata of the first, second ... heap of a process, ordered by address. */
static inline bool shown_of(pid_t pid, int number, struct ka_metadata *metadata)
{
	char path[40], line[400];
	bool found = false;
	FILE *maps;
	int pagemap;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)pid);
	pagemap = open(path, O_RDONLY | O_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	maps = fopen(path, "r");
	while (maps && !found && fgets(line, sizeof(line), maps)) {
		unsigned long start, end;
		char access[5];

		/*
		 * No test commits more than 1 GiB; the shadow memory of a sanitizer is
		 * larger.
		 */
		if (sscanf(line, "%lx-%lx %4s", &start, &end, access) != 3 ||
		    access[0] != 'r' || end - start > 1UL << 30)
			continue;
		start = (start + KA_ARENA_SIZE - 1) & ~(KA_ARENA_SIZE - 1);
		for (; start < end && !found; start += KA_ARENA_SIZE)
			found = page_is_there(pagemap, start) &&
				shown_at(pid, start, metadata) && !--number;
	}
	if (maps)
		fclose(maps);
	close(pagemap);
	return found;
}

#endif
