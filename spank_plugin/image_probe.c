/* SPDX-License-Identifier: BSD-3-Clause */
/* The image probe: accepts a valid image in the client without an interpreter. runtime/image/image.py checks every
 * other file, and words the error. */
#define _GNU_SOURCE
#include "image_probe.h"

#include <endian.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

/* Architecture codes of the SIF header (sif.go). */
#if defined(__x86_64__)
#define SIF_ARCH "02"
#elif defined(__aarch64__)
#define SIF_ARCH "04"
#else
#define SIF_ARCH "??"  /* unknown architecture: always use the full check in Python */
#endif

static uint64_t little_endian(const unsigned char *at)
{
	uint64_t value;

	memcpy(&value, at, sizeof(value));
	return le64toh(value);
}

enum { SLOTS = 48, SLOT = 585, PARTITION = 0x4004, LUKS = 5, GOCRYPTFS = 6 };  /* sif.go */

/* Returns 1 when the table of a SIF file shows no encrypted partition: such an image needs a key, which the full check
 * asks for. `head` are the first 128 bytes. A table of another size than usual counts as encrypted. */
static int is_not_encrypted(int fd, const unsigned char *head)
{
	static unsigned char table[SLOTS * SLOT];
	uint64_t count = little_endian(head + 88), offset = little_endian(head + 96);

	if (count > SLOTS || offset > 1 << 20 || pread(fd, table, sizeof(table), (off_t) offset) != sizeof(table))
		return 0;
	for (const unsigned char *at = table; at < table + count * SLOT; at += SLOT) {
		uint32_t type, filesystem;

		memcpy(&type, at, sizeof(type));
		memcpy(&filesystem, at + 201, sizeof(filesystem));
		filesystem = le32toh(filesystem);
		if (at[4] && le32toh(type) == PARTITION && (filesystem == LUKS || filesystem == GOCRYPTFS))
			return 0;
	}
	return 1;
}

static int plain_header(const unsigned char *head, uint64_t size)
{
	/* SIF header: magic at 32, version at 42, architecture at 45, data offset at 112, data size at 120. */
	if (memcmp(head + 32, "SIF_MAGIC\0" "01\0" SIF_ARCH, 15) == 0) {
		uint64_t offset = little_endian(head + 112), length = little_endian(head + 120);

		return offset >= 128 && offset <= size && length > 0 && length <= size - offset;
	}
	/* squashfs super block: magic at 0, version 4.0 at 28, bytes used at 40. */
	return memcmp(head, "hsqs", 4) == 0 && memcmp(head + 28, "\4\0\0\0", 4) == 0 &&
	       little_endian(head + 40) >= 96 && little_endian(head + 40) <= size;
}

int probe_image(const char *path, struct stat *st)
{
	unsigned char head[128];
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK), plain = 0;

	if (fd < 0)
		return 0;
	if (fstat(fd, st) == 0 && S_ISREG(st->st_mode) && pread(fd, head, sizeof(head), 0) == sizeof(head))
		plain = plain_header(head, (uint64_t) st->st_size) && (head[0] == 'h' || is_not_encrypted(fd, head));
	close(fd);
	return plain;
}
