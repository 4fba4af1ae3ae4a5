/* SPDX-License-Identifier: BSD-3-Clause */
/* Preloaded into slurmd and slurmstepd with `--site cgroup-v2`, if the machine also has cgroup v1 hierarchies. Slurm
 * refuses such a machine ("Hybrid mode is not supported"). Slurm reads its own cgroup, in /proc/PID/cgroup, without
 * the lines of v1. The plugin uses fopen(3), and reads the file as it is. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Returns a file in memory with the line of v2 in `path`, or -1. */
static int only_v2(const char *path)
{
	int fd = memfd_create("cgroup", MFD_CLOEXEC);
	FILE *file = fopen(path, "re");
	char line[4096];

	while (fd >= 0 && file && fgets(line, sizeof(line), file))
		if (strncmp(line, "0::", 3) == 0)
			(void) !write(fd, line, strlen(line));
	if (file)
		fclose(file);
	if (fd >= 0)
		lseek(fd, 0, SEEK_SET);
	return fd;
}

#define OPEN(name)									\
	int name(const char *path, int flags, ...)					\
	{										\
		__typeof__(&name) real = (__typeof__(&name)) dlsym(RTLD_NEXT, #name);	\
		va_list list;								\
		mode_t mode;								\
											\
		va_start(list, flags);							\
		mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(list, mode_t) : 0;	\
		va_end(list);								\
		if (fnmatch("/proc/*/cgroup", path, FNM_PATHNAME) == 0)			\
			return only_v2(path);						\
		return real(path, flags, mode);						\
	}
OPEN(open)
OPEN(open64)
