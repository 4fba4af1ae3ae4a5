/* SPDX-License-Identifier: BSD-3-Clause */
/* Whether nobody but root can change what a path leads to. Reads the owners and modes of files, nothing else. */
#define _GNU_SOURCE
#include "root_owned.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* As many links as the kernel follows in a path (path_resolution(7)). */
#define LINKS_MAX 40

/* Puts the target of the link `at` before `rest`, and cuts `at` to the directory from which the target leads on.
 * Returns 0, or -1 with errno. */
static int follow_link(char *at, char *rest)
{
	char target[PATH_MAX], whole[PATH_MAX];
	ssize_t size = readlink(at, target, sizeof(target));

	if (size < 0)
		return -1;
	if (snprintf(whole, sizeof(whole), "%.*s%s", (int) size, target, rest) >= (int) sizeof(whole)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	strcpy(rest, whole);
	*(target[0] == '/' ? at : strrchr(at, '/')) = '\0';
	return 0;
}

int owned_by_root(const char *path)
{
	char at[PATH_MAX] = "", rest[PATH_MAX], *part;
	struct stat st;
	size_t used, size;

	if (path[0] != '/' || strlen(path) >= sizeof(rest)) {
		errno = EINVAL;
		return -1;
	}
	strcpy(rest, path);
	for (int links = 0;;) {
		if (lstat(at[0] ? at : "/", &st) < 0)
			return -1;
		if (S_ISLNK(st.st_mode) && links++ < LINKS_MAX && follow_link(at, rest) == 0)
			continue;
		if (S_ISLNK(st.st_mode)) {
			errno = links > LINKS_MAX ? ELOOP : errno;
			return -1;
		}
		if (st.st_uid != 0 || (st.st_mode & (S_IWGRP | S_IWOTH))) {
			errno = EPERM;
			return -1;
		}
		/* Move the next name from `rest` to `at`. */
		part = rest + strspn(rest, "/");
		size = strcspn(part, "/");
		used = strlen(at);
		if (size == 0)
			return 0;
		if (used + size + 2 > sizeof(at)) {
			errno = ENAMETOOLONG;
			return -1;
		}
		if (size == 2 && memcmp(part, "..", 2) == 0)
			*(used ? strrchr(at, '/') : at) = '\0';
		else if (size != 1 || part[0] != '.')
			sprintf(at + used, "/%.*s", (int) size, part);
		memmove(rest, part + size, strlen(part + size) + 1);
	}
}
