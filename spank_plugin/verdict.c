/* SPDX-License-Identifier: BSD-3-Clause */
/* Reads the pre-flight's verdicts from the user's cache, in srun. runtime/preflight/verdict.py writes them. */
#define _GNU_SOURCE
#include "verdict.h"
#include "constants.h"

#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static uint64_t changed(const struct stat *st)
{
	return (uint64_t) st->st_mtim.tv_sec * 1000000000u + (uint64_t) st->st_mtim.tv_nsec;
}

/* Stores in `place` where the verdict on `image` is cached: verdict.place() and client.identity() have the same rule.
 * Returns 0, or -1 when there is no such place. */
static int find_place(const char *image, char place[PATH_MAX])
{
	static const char *const inside[] = { "etc/ld.so.cache", "usr/local/lib", "opt" };
	const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
	char path[PATH_MAX];
	struct stat st, part;
	uint64_t newest;
	int own = cache && cache[0] == '/', size;

	if ((!own && (!home || home[0] != '/')) || stat(image, &st) < 0)
		return -1;
	newest = changed(&st);
	for (size_t i = 0; S_ISDIR(st.st_mode) && i < sizeof(inside) / sizeof(*inside); i++) {
		size = snprintf(path, sizeof(path), "%s/%s", image, inside[i]);
		if (size > 0 && (size_t) size < sizeof(path) && stat(path, &part) == 0 && changed(&part) > newest)
			newest = changed(&part);
	}
	size = snprintf(place, PATH_MAX, "%s%s/bollard-preflight/%llu.%llu.%llu", own ? cache : home, own ? "" : "/.cache",
			(unsigned long long) st.st_ino, (unsigned long long) st.st_size, (unsigned long long) newest);
	return size > 0 && size < PATH_MAX ? 0 : -1;
}

/* Returns 1 if this user owns the open file and nobody else may write to it. verdict.py has the same rule. */
static int is_ours(int fd, mode_t kind)
{
	struct stat st;

	return fstat(fd, &st) == 0 && (st.st_mode & S_IFMT) == kind && st.st_uid == geteuid() && !(st.st_mode & 022);
}

/* Opens the file `place` if it and its directory are this user's alone, and are no links. Returns a descriptor, or -1:
 * other users must not choose --mpi, nor what is printed. */
static int open_place(char place[PATH_MAX])
{
	char *slash = strrchr(place, '/');
	int folder, fd = -1;

	*slash = '\0';
	folder = open(place, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	*slash = '/';
	if (folder < 0)
		return -1;
	if (is_ours(folder, S_IFDIR))
		fd = openat(folder, slash + 1, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	close(folder);
	if (fd >= 0 && !is_ours(fd, S_IFREG)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

char *cached_verdict(const char *image)
{
	static char text[65536];
	char place[PATH_MAX];
	ssize_t size;
	int fd;

	if (find_place(image, place) < 0 || (fd = open_place(place)) < 0)
		return NULL;
	size = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (size < 0)
		return NULL;
	text[size] = '\0';
	return strncmp(text, PREFLIGHT_HEAD "\n", strlen(PREFLIGHT_HEAD "\n")) == 0 ? strdup(text) : NULL;
}

/* Puts `?` in the place of each byte that a terminal may obey. A verdict's own words are ASCII. */
static char *printable(char *text)
{
	for (char *at = text; at && *at; at++)
		if (*at < ' ' || *at > '~')
			*at = '?';
	return text;
}

char *verdict_line(const char *text, const char *begin)
{
	size_t size = strlen(begin);

	for (const char *at = text; at && *at; at = strchr(at, '\n') ? strchr(at, '\n') + 1 : NULL)
		if (strncmp(at, begin, size) == 0)
			return printable(strndup(at + size, (size_t) (strchrnul(at, '\n') - at) - size));
	return NULL;
}

const char *program_family(const char *text, const char *program)
{
	static const char *const families[] = { "pmi2", "pmix", "abi", PROGRAM_MISSING };
	char line[PATH_MAX + 64];
	int size = snprintf(line, sizeof(line), "\nprogram - %s\n", program);

	if (size < 0 || (size_t) size >= sizeof(line) || strstr(text, "\nunread ") || strstr(text, line))
		return "";
	for (size_t i = 0; i < sizeof(families) / sizeof(*families); i++) {
		snprintf(line, sizeof(line), "\nprogram %s %s\n", families[i], program);
		if (strstr(text, line))
			return families[i];
	}
	return NULL;
}
