/* SPDX-License-Identifier: BSD-3-Clause */
/* paths.so: preloaded into the host's Slurm commands when they run in a container (inside.c), as the user. Slurm
 * reads its configuration, its plugins and munge's socket by absolute path. In a container these files are below
 * BOLLARD_VIEW, so that they hide nothing of the image. The functions below replace those of the C library and
 * change such paths; every other path stays the container's. */
#define _GNU_SOURCE
#include "host_slurm.h"  /* rendered by build.py */
#include "inside.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

extern char **environ;

static int below(const char *path, const char *parent)
{
	size_t size = strlen(parent);

	return strncmp(path, parent, size) == 0 && (path[size] == '/' || path[size] == '\0');
}

/* Returns `path`, or its place below BOLLARD_VIEW, written to `room` of PATH_MAX bytes. */
static const char *seen(const char *path, char *room)
{
	const char *asked = path;

	if (!path || path[0] != '/')
		return path;
	if (below(path, "/var/run"))
		path += strlen("/var");
	for (const char *const *dir = SLURM_DIRECTORIES; *dir; dir++)
		if (below(path, *dir) &&
		    snprintf(room, PATH_MAX, "%s%s", BOLLARD_VIEW, path) < PATH_MAX)
			return room;
	return asked;
}

#define NEXT(name) ((__typeof__(&name)) dlsym(RTLD_NEXT, #name))
#define SEEN(path) seen(path, (char[PATH_MAX]) { 0 })

/* A library named by an absolute path is the host's, if the host has it. */
void *dlopen(const char *path, int mode)
{
	char room[PATH_MAX];

	if (path && path[0] == '/' && snprintf(room, sizeof(room), "%s%s", BOLLARD_VIEW, path) < PATH_MAX &&
	    NEXT(access)(room, F_OK) == 0)
		path = room;
	return NEXT(dlopen)(path, mode);
}

static mode_t mode_of(int flags, va_list list)
{
	return flags & (O_CREAT | __O_TMPFILE) ? va_arg(list, mode_t) : 0;
}

#define OPEN(name, words, ...)					\
	int name words						\
	{							\
		va_list list;					\
		mode_t mode;					\
								\
		va_start(list, flags);				\
		mode = mode_of(flags, list);			\
		va_end(list);					\
		return NEXT(name)(__VA_ARGS__, flags, mode);	\
	}
OPEN(open, (const char *path, int flags, ...), SEEN(path))
OPEN(open64, (const char *path, int flags, ...), SEEN(path))
OPEN(openat, (int fd, const char *path, int flags, ...), fd, SEEN(path))
OPEN(openat64, (int fd, const char *path, int flags, ...), fd, SEEN(path))

FILE *fopen(const char *path, const char *mode) { return NEXT(fopen)(SEEN(path), mode); }
FILE *fopen64(const char *path, const char *mode) { return NEXT(fopen64)(SEEN(path), mode); }
DIR *opendir(const char *path) { return NEXT(opendir)(SEEN(path)); }
int access(const char *path, int mode) { return NEXT(access)(SEEN(path), mode); }
ssize_t readlink(const char *path, char *text, size_t size) { return NEXT(readlink)(SEEN(path), text, size); }
int stat(const char *path, struct stat *st) { return NEXT(stat)(SEEN(path), st); }
int stat64(const char *path, struct stat64 *st) { return NEXT(stat64)(SEEN(path), st); }
int lstat(const char *path, struct stat *st) { return NEXT(lstat)(SEEN(path), st); }
int lstat64(const char *path, struct stat64 *st) { return NEXT(lstat64)(SEEN(path), st); }
int fstatat(int fd, const char *path, struct stat *st, int flags)
{
	return NEXT(fstatat)(fd, SEEN(path), st, flags);
}

int fstatat64(int fd, const char *path, struct stat64 *st, int flags)
{
	return NEXT(fstatat64)(fd, SEEN(path), st, flags);
}

int glob(const char *pattern, int flags, int (*failed)(const char *, int), glob_t *found)
{
	return NEXT(glob)(SEEN(pattern), flags, failed, found);
}

int glob64(const char *pattern, int flags, int (*failed)(const char *, int), glob64_t *found)
{
	return NEXT(glob64)(SEEN(pattern), flags, failed, found);
}

int connect(int fd, const struct sockaddr *address, socklen_t size)
{
	const struct sockaddr_un *local = (const struct sockaddr_un *) address;
	size_t begin = offsetof(struct sockaddr_un, sun_path);
	struct sockaddr_un there = { .sun_family = AF_UNIX };
	char path[sizeof(local->sun_path) + 1] = "";
	const char *view;

	if (address->sa_family == AF_UNIX && size > begin && size <= sizeof(*local)) {
		memcpy(path, local->sun_path, size - begin);
		view = SEEN(path);
		if (view != path && strlen(view) < sizeof(there.sun_path)) {
			strcpy(there.sun_path, view);
			return NEXT(connect)(fd, (struct sockaddr *) &there, sizeof(there));
		}
	}
	return NEXT(connect)(fd, address, size);
}

/* Users and groups are looked up in the host's files first. SlurmUser must be this cluster's; the image may have no
 * such user, or one with another id. */
#define LOOK_UP(name, type, type_key, key, file, next, matches)					\
	int name(type_key key, struct type *entry, char *text, size_t size, struct type **found)	\
	{												\
		FILE *list = NEXT(fopen)(BOLLARD_VIEW file, "re");					\
		int error = ENOENT;									\
												\
		while (list && (error = next(list, entry, text, size, found)) == 0 && !(matches))	\
			;										\
		if (list)										\
			fclose(list);									\
		return error == 0 || error == ERANGE ? error : NEXT(name)(key, entry, text, size, found);	\
	}
LOOK_UP(getpwnam_r, passwd, const char *, name, "/etc/passwd", fgetpwent_r, strcmp(entry->pw_name, name) == 0)
LOOK_UP(getpwuid_r, passwd, uid_t, uid, "/etc/passwd", fgetpwent_r, entry->pw_uid == uid)
LOOK_UP(getgrnam_r, group, const char *, name, "/etc/group", fgetgrent_r, strcmp(entry->gr_name, name) == 0)
LOOK_UP(getgrgid_r, group, gid_t, gid, "/etc/group", fgetgrent_r, entry->gr_gid == gid)

/* As with getpwnam(3), the result is static: not safe for threads. */
#define ONE_PLACE(name, name_r, type, type_key)				\
	struct type *name(type_key key)					\
	{								\
		static struct type entry;				\
		static char text[1 << 16];				\
		struct type *found = NULL;				\
									\
		errno = name_r(key, &entry, text, sizeof(text), &found);	\
		return found;						\
	}
ONE_PLACE(getpwnam, getpwnam_r, passwd, const char *)
ONE_PLACE(getpwuid, getpwuid_r, passwd, uid_t)
ONE_PLACE(getgrnam, getgrnam_r, group, const char *)
ONE_PLACE(getgrgid, getgrgid_r, group, gid_t)

#if defined(__GLIBC__) && __GLIBC__ == 2 && __GLIBC_MINOR__ < 33
/* stat(2) and its variants were compiled to these calls before glibc 2.33. */
int __xstat(int version, const char *path, struct stat *st) { return NEXT(__xstat)(version, SEEN(path), st); }
int __xstat64(int version, const char *path, struct stat64 *st) { return NEXT(__xstat64)(version, SEEN(path), st); }
int __lxstat(int version, const char *path, struct stat *st) { return NEXT(__lxstat)(version, SEEN(path), st); }
int __lxstat64(int version, const char *path, struct stat64 *st) { return NEXT(__lxstat64)(version, SEEN(path), st); }
#endif

/* Runs before main(). Restores the container's own variables (inside.h), for the programs that this one starts. */
__attribute__((constructor))
static void restore_environment(void)
{
	static const char *const names[] = { HIDDEN_NAMES, NULL };

	for (const char *const *name = names; *name; name++) {
		char hidden[64];
		const char *value;

		snprintf(hidden, sizeof(hidden), HIDDEN "%s", *name);
		value = getenv(hidden);
		if (value)
			setenv(*name, value, 1);
		else
			unsetenv(*name);
		unsetenv(hidden);
	}
	/* ps(1) and pkill(1) would show the loader's name otherwise. */
	if (program_invocation_short_name)
		prctl(PR_SET_NAME, program_invocation_short_name);
}
