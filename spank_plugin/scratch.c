/* SPDX-License-Identifier: BSD-3-Clause */
/* Shows a directory of the host in a container that runs: a TaskProlog makes $TMPDIR after the container was made.
 *
 * A child of the launcher does it. It joins the container's user namespace, which the user owns, and takes a copy of the
 * host's mounts. There it clones the directory; then it joins the container's mount namespace and attaches the clone.
 * The place may be missing in a root that nobody can write. Then the deepest directory on the way is covered by a copy
 * of itself: a tmpfs in which each of its entries is mounted again. Tasks that join later see a cover of "/" too:
 * setns(2) looks up the root of the namespace anew. */
#define _GNU_SOURCE
#include "enter.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SYS_open_tree
#define SYS_open_tree 428
#endif
#ifndef SYS_move_mount
#define SYS_move_mount 429
#endif
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif
/* linux/mount.h, linux/fcntl.h and sys/mount.h: not all C libraries have them, and the two mount.h exclude each other. */
#define B_OPEN_TREE_CLONE 1
#define B_AT_RECURSIVE 0x8000
#define B_EMPTY_BOTH (0x04 | 0x40)  /* MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH */
#define B_NOSUID 0x02               /* MOUNT_ATTR_* */
#define B_NODEV 0x04
#define B_RDONLY 0x01

/* How long the child may take: a task that the user stops holds the lock. */
#define SECONDS 10
/* Entries of a directory that is covered. */
#define ENTRIES_MAX 512
/* The directory of the host's mounts where covers are made: every system has it. */
#define STAGE "/proc"

int mount(const char *source, const char *target, const char *type, unsigned long flags, const void *data);
#define B_MS_NOSUID_NODEV 6UL
#define B_MS_SLAVE_ALL ((1UL << 19) | 16384UL)

struct attributes { unsigned long long set, clear, propagation, userns; };

static int clone_tree(int dir, const char *path)
{
	return (int) syscall(SYS_open_tree, dir, path, B_OPEN_TREE_CLONE | O_CLOEXEC | B_AT_RECURSIVE | AT_SYMLINK_NOFOLLOW);
}

static int attach(int tree, int target)
{
	return (int) syscall(SYS_move_mount, tree, "", target, "", B_EMPTY_BOTH);
}

static int protect(int tree, unsigned long long set, unsigned flags)
{
	struct attributes attributes = { .set = set };

	return (int) syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | flags, &attributes, sizeof(attributes));
}

/* Attaches the tree at `path` below the directory `at`. Returns 0, or -1 with errno. */
static int attach_at(int tree, int at, const char *path)
{
	int target = openat(at, path, O_PATH | O_CLOEXEC), rc, saved;

	if (target < 0)
		return -1;
	rc = attach(tree, target);
	saved = errno;
	close(target);
	errno = saved;
	return rc;
}

/* Makes the directory `path` below `at`, with its parents. Changes `path` meanwhile.
 * Returns 0, or -1 with errno. */
static int make_directories(int at, char *path)
{
	int rc = 0;

	for (char *slash = path; slash && rc == 0; ) {
		slash = strchr(slash + 1, '/');
		if (slash)
			*slash = '\0';
		if (mkdirat(at, path, 0755) < 0 && errno != EEXIST)
			rc = -1;
		if (slash)
			*slash = '/';
	}
	return rc;
}

struct entry_copy {
	char name[NAME_MAX + 1];
	char link[PATH_MAX];  /* where a symbolic link leads; else "" */
	int tree, directory;
};

/* Opens all entries of the directory `dir`. Returns their number, or -1 with errno. */
static int copy_entries(int dir, struct entry_copy *found)
{
	DIR *entries = fdopendir(openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	struct dirent *entry;
	struct stat st;
	ssize_t size;
	int count = 0;

	while (entries && (entry = readdir(entries))) {
		struct entry_copy *copy = &found[count];

		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if (count == ENTRIES_MAX) {
			errno = E2BIG;
			return -1;
		}
		if (fstatat(dir, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			return -1;
		snprintf(copy->name, sizeof(copy->name), "%s", entry->d_name);
		copy->directory = S_ISDIR(st.st_mode);
		if (S_ISLNK(st.st_mode)) {
			size = readlinkat(dir, entry->d_name, copy->link, sizeof(copy->link) - 1);
			if (size < 0)
				return -1;
			copy->link[size] = '\0';
		} else if ((copy->tree = clone_tree(dir, entry->d_name)) < 0) {
			return -1;
		}
		count++;
	}
	return entries ? count : -1;
}

/* Makes the cover in the mount namespace of the host's mounts: `copies`, and `rest` with the tree there. Returns the
 * tree of the whole, or -1 with errno. */
static int make_cover(struct entry_copy *copies, int count, char *rest, int tree)
{
	int stage, cover;

	if (mount("tmpfs", STAGE, "tmpfs", B_MS_NOSUID_NODEV, "mode=0755,size=1m") < 0)
		return -1;
	stage = open(STAGE, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (stage < 0)
		return -1;
	for (int i = 0; i < count; i++) {
		struct entry_copy *copy = &copies[i];
		int fd;

		if (copy->link[0]) {
			if (symlinkat(copy->link, stage, copy->name) < 0)
				return -1;
			continue;
		}
		if (copy->directory ? mkdirat(stage, copy->name, 0755) < 0
				    : (fd = openat(stage, copy->name, O_CREAT | O_WRONLY | O_CLOEXEC, 0644)) < 0 || close(fd) < 0)
			return -1;
		if (attach_at(copy->tree, stage, copy->name) < 0)
			return -1;
	}
	if (make_directories(stage, rest) < 0 || attach_at(tree, stage, rest) < 0)
		return -1;
	cover = clone_tree(AT_FDCWD, STAGE);
	/* Only the tmpfs itself: its entries keep their own flags. */
	return cover < 0 || protect(cover, B_RDONLY, 0) < 0 ? -1 : cover;
}

/* Attaches the tree at `path` in the container, which this process has joined. `own` is the mount namespace with the
 * host's mounts, `theirs` the container's. Returns 0, or -1 with errno. */
static int place(int tree, const char *path, int own, int theirs)
{
	static struct entry_copy copies[ENTRIES_MAX];
	char parent[PATH_MAX], rest[PATH_MAX];
	struct stat here, there;
	char *slash;
	int dir, count, cover;

	if (fstat(tree, &here) < 0)
		return -1;
	if (stat(path, &there) == 0) {
		if (here.st_dev == there.st_dev && here.st_ino == there.st_ino)
			return 0;  /* another task has shown it */
		return attach_at(tree, AT_FDCWD, path);
	}
	if (errno != ENOENT)
		return -1;
	snprintf(parent, sizeof(parent), "%s", path);
	for (rest[0] = '\0'; ; ) {
		slash = strrchr(parent, '/');
		snprintf(rest, sizeof(rest), "%s", path + (slash - parent) + 1);
		*slash = '\0';
		dir = open(parent[0] ? parent : "/", O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (dir >= 0)
			break;
		if (!parent[0] || errno != ENOENT)
			return -1;
	}
	if (make_directories(dir, rest) == 0)
		return attach_at(tree, dir, rest);
	if (errno != EROFS && errno != EACCES && errno != EPERM)
		return -1;
	count = copy_entries(dir, copies);
	if (count < 0 || setns(own, CLONE_NEWNS) < 0)
		return -1;
	cover = make_cover(copies, count, rest, tree);
	if (cover < 0 || setns(theirs, CLONE_NEWNS) < 0)
		return -1;
	return attach_at(cover, AT_FDCWD, parent[0] ? parent : "/");
}

/* Runs in the child. Returns 0, or -1 with errno. */
static int show(const struct namespaces *namespaces, const char *path)
{
	char name[40];
	int lock, tree, own;

	alarm(SECONDS);
	/* Opened anew: a lock belongs to the open file, and all tasks have got the same one from the keeper. */
	snprintf(name, sizeof(name), "/proc/self/fd/%d", namespaces->fds[1]);
	lock = open(name, O_RDONLY | O_CLOEXEC);
	if (lock < 0 || flock(lock, LOCK_EX) < 0 || setns(namespaces->fds[0], CLONE_NEWUSER) < 0 ||
	    unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, B_MS_SLAVE_ALL, NULL) < 0)
		return -1;
	own = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
	tree = clone_tree(AT_FDCWD, path);
	if (own < 0 || tree < 0 || protect(tree, B_NOSUID | B_NODEV, B_AT_RECURSIVE) < 0 ||
	    setns(namespaces->fds[1], CLONE_NEWNS) < 0)
		return -1;
	return place(tree, path, own, namespaces->fds[1]);
}

void show_scratch(const struct namespaces *namespaces, const char *path)
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(show(namespaces, path) < 0 ? 1 : 0);
	/* Where it fails, warn_of_lost_scratch() tells the user. */
	while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}
