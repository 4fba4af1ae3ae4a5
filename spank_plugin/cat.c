/* SPDX-License-Identifier: BSD-3-Clause */
/* bollard-cat: stands in for /bin/sh where the saver runs mksquashfs, which gives a shell "cat NUMBER" for each file
 * that is added to an image (runtime/image/pack.py). A shell could be read by its user, so he could trace it. */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	const char *name = argc == 3 && strcmp(argv[1], "-c") == 0 && strncmp(argv[2], "cat ", 4) == 0 ? argv[2] + 4 : "";
	char part[4096];
	ssize_t size, written;
	int fd;

	if (!*name || strspn(name, "0123456789") != strlen(name))
		return 1;
	fd = open(name, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 1;
	while ((size = read(fd, part, sizeof(part))) > 0)
		for (const char *at = part; size > 0; at += written, size -= written) {
			written = write(1, at, (size_t) size);
			if (written <= 0)
				return 1;
		}
	return size < 0;
}
