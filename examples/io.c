// SPDX-License-Identifier: MIT
/*
 * Count the lines of a file, read past the page cache into a buffer for I/O:
 *
 *	cc io.c -o io $(pkg-config --cflags --libs karena)
 *	./io FILE
 *
 * O_DIRECT wants memory that is aligned, as ka_io_alloc() has it. Where a file system
 * does not know O_DIRECT, the file is read as others are.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <karena/karena.h>

#define SIZE	((size_t)1 << 20)

static void die(const char *what, const char *why)
{
	fprintf(stderr, "io: %s: %s\n", what, why);
	exit(1);
}

static size_t count(const char *buffer, size_t length)
{
	const char *end = buffer + length;
	size_t lines = 0;

	while ((buffer = memchr(buffer, '\n', (size_t)(end - buffer)))) {
		lines++;
		buffer++;
	}
	return lines;
}

int main(int argc, char **argv)
{
	size_t lines = 0, bytes = 0;
	const char *how = "O_DIRECT";
	ssize_t length;
	char *buffer;
	int fd;

	if (argc != 2) {
		fprintf(stderr, "usage: io FILE\n");
		return 1;
	}
	fd = open(argv[1], O_RDONLY | O_CLOEXEC | O_DIRECT);
	if (fd < 0 && errno == EINVAL) {
		how = "no O_DIRECT";
		fd = open(argv[1], O_RDONLY | O_CLOEXEC);
	}
	if (fd < 0)
		die(argv[1], strerror(errno));
	buffer = ka_io_alloc(SIZE);
	if (!buffer)
		die("a buffer", ka_error());

	/* Behind a part of a page there is nothing, and nothing aligned. */
	do {
		length = read(fd, buffer, ka_io_size(buffer));
		if (length < 0)
			die(argv[1], strerror(errno));
		lines += count(buffer, (size_t)length);
		bytes += (size_t)length;
	} while (length && !(bytes % KA_PAGE_SIZE));

	printf("%s: %zu lines, %zu bytes, %s\n", argv[1], lines, bytes, how);
	if (ka_io_free(buffer))
		die("the buffer", ka_error());
	close(fd);
	return 0;
}
