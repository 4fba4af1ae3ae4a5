/* SPDX-License-Identifier: BSD-3-Clause */
/* bollard-cat: takes the place of /bin/sh when the saver runs mksquashfs (runtime/image/pack.py). mksquashfs starts
 * `sh -c "cat NUMBER"` for each file that it adds to an image. The user can read a shell, so the user could trace
 * it; this program has mode 0711. Copies the file NUMBER to stdout; the exit status is 0, or 1 for any failure. */
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
