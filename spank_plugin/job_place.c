/* SPDX-License-Identifier: BSD-3-Clause */
/* The job's own mount namespace, found in slurmstepd's mounts, as root. */
#define _GNU_SOURCE
#include "job_place.h"

#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int look_for_private_tmp(struct dl_phdr_info *info, size_t size, void *found)
{
	(void) size;
	*(int *) found |= strstr(info->dlpi_name, "/job_container_tmpfs.so") != NULL ||
			  strstr(info->dlpi_name, "/namespace_tmpfs.so") != NULL;
	return 0;
}

static int octal(char c)
{
	return c >= '0' && c <= '7';
}

/* Decodes a path of /proc/self/mountinfo in place: \040 is a space; an escape always has three digits (proc(5)). */
static void unescape(char *text)
{
	char *to = text;

	for (; *text; text++)
		if (text[0] == '\\' && octal(text[1]) && octal(text[2]) && octal(text[3])) {
			*to++ = (char) ((text[1] - '0') * 64 + (text[2] - '0') * 8 + (text[3] - '0'));
			text += 3;
		} else {
			*to++ = *text;
		}
	*to = '\0';
}

/* open_job_place() with the file `mountinfo` of /proc/self. */
static int find_place(uint32_t job, int *place, const char *mountinfo)
{
	char end[32], *line = NULL, *path, *kind;
	size_t size = 0;
	int reason = 0;
	FILE *mounts = fopen(mountinfo, "re");

	*place = -1;
	if (!mounts)
		return -1;
	/* Slurm mounts the namespace on BasePath/JOB/.ns. Only root can make a mount of the type nsfs in this
	 * namespace. */
	snprintf(end, sizeof(end), "/%u/.ns", job);
	while (*place < 0 && getline(&line, &size, mounts) > 0) {
		kind = strstr(line, " - nsfs ");
		path = kind ? strchr(line, '/') : NULL;  /* "34 25 0:4 mnt:[4026532562] /run/7/.ns rw ..." */
		if (!path || path > kind)
			continue;
		path[strcspn(path, " ")] = '\0';
		unescape(path);
		if (strlen(path) > strlen(end) && strcmp(path + strlen(path) - strlen(end), end) == 0 &&
		    (*place = open(path, O_RDONLY | O_CLOEXEC)) < 0)
			reason = errno;
	}
	if (*place < 0 && !feof(mounts))
		reason = errno;
	free(line);
	fclose(mounts);
	errno = reason;
	return *place >= 0 || reason == 0 ? 0 : -1;
}

int open_job_place(uint32_t job, int *place)
{
	int loaded = 0;

	dl_iterate_phdr(look_for_private_tmp, &loaded);
	*place = -1;
	return loaded ? find_place(job, place, "/proc/self/mountinfo") : 0;
}
