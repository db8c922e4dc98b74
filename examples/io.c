// SPDX-License-Identifier: MIT
/*
 * Counts the lines of a file, which it reads into an I/O buffer without the page cache:
 *
 *	cc io.c -o io $(pkg-config --cflags --libs karena)
 *	./io FILE
 *
 * O_DIRECT needs aligned memory, which ka_io_alloc() allocates. If the file system does not
 * support O_DIRECT, the program reads the file through the page cache.
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
		die("cannot allocate a buffer", ka_error());

	/* A partial page is the end of the file; reading on would not be aligned. */
	do {
		length = read(fd, buffer, ka_io_size(buffer));
		if (length < 0)
			die(argv[1], strerror(errno));
		lines += count(buffer, (size_t)length);
		bytes += (size_t)length;
	} while (length && !(bytes % KA_PAGE_SIZE));

	printf("%s: %zu lines, %zu bytes, %s\n", argv[1], lines, bytes, how);
	if (ka_io_free(buffer))
		die("cannot free the buffer", ka_error());
	close(fd);
	return 0;
}
