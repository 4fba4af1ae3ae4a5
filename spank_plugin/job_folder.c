/* SPDX-License-Identifier: BSD-3-Clause */
/* flock(2) counts a job's slurmstepds: each holds a shared lock on the file "holders", which the kernel releases when it
 * ends. The one that gets the exclusive lock is the last. Whoever can open a file can lock it: only root can open this
 * one, while users can open the directory. */
#define _GNU_SOURCE
#include "job_folder.h"
#include "privilege.h"
#include "root_owned.h"
#include "wire.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* Wait for the last slurmstepd of before: it removes the directory within milliseconds, or within 9 s when the user
 * hinders it (job_end.c). */
#define HOLD_MS 10000
#define LOCK_TRY_US 1000
#define REMOVE_TRIES 2000
#define HOLDERS "holders"
/* Dead sockets of a folder are removed when it has more than this many. The search connects to each of them. */
#define SOCKETS_MAX 64

static int lock_within(int fd, int kind, int ms)
{
	for (int waited = 0; flock(fd, kind | LOCK_NB) < 0; waited++)
		if ((errno != EWOULDBLOCK && errno != EINTR) || waited >= ms || (usleep(LOCK_TRY_US) < 0 && errno != EINTR))
			return -1;
	return 0;
}

static void path_of(char *path, size_t size, uint32_t job, const char *name)
{
	snprintf(path, size, JOB_FOLDERS "/%u%s", job, name);
}

int job_folder_hold(uint32_t job)
{
	char path[64], holders[64];
	struct stat held;
	int fd;

	if ((mkdir(JOB_FOLDERS, 0755) < 0 && errno != EEXIST) || chmod(JOB_FOLDERS, 0755) < 0 ||
	    owned_by_root(JOB_FOLDERS) < 0)
		return -1;
	path_of(path, sizeof(path), job, "");
	path_of(holders, sizeof(holders), job, "/" HOLDERS);
	for (int tries = 0; tries < 10; tries++) {
		if (mkdir(path, 0755) < 0 && errno != EEXIST)
			return -1;
		fd = open(holders, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
		if (fd < 0 && errno == ENOENT)
			continue;  /* the last slurmstepd of before has removed the directory */
		if (fd < 0)
			return -1;
		if (lock_within(fd, LOCK_SH, HOLD_MS) < 0) {
			close(fd);
			break;
		}
		if (fstat(fd, &held) == 0 && held.st_nlink > 0 && chmod(path, 0755) == 0)
			return fd;
		close(fd);
	}
	errno = EBUSY;
	return -1;
}

int job_folder_is_last(int holders)
{
	int rc;

	do
		rc = flock(holders, LOCK_EX | LOCK_NB);
	while (rc < 0 && errno == EINTR);
	return rc == 0 ? 1 : errno == EWOULDBLOCK ? 0 : -1;
}

void job_folder_hold_again(int holders)
{
	/* Refused only while another slurmstepd has the exclusive lock: that one is the last, and cleans up. */
	(void) flock(holders, LOCK_SH | LOCK_NB);
}

void job_folder_release(int lock)
{
	flock(lock, LOCK_UN);
	close(lock);
}

/* Removes everything in the folder but HOLDERS. Returns 0, or -1 when something stays. */
static int empty(const char *path)
{
	DIR *entries = opendir(path);
	struct dirent *entry;
	int rc = entries ? 0 : -1;

	while (entries && (entry = readdir(entries)))
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
		    strcmp(entry->d_name, HOLDERS) != 0 && unlinkat(dirfd(entries), entry->d_name, 0) < 0)
			rc = -1;
	if (entries)
		closedir(entries);
	return rc;
}

void job_folder_remove(uint32_t job)
{
	char path[64], holders[64];
	int tries = 0, rc;

	path_of(path, sizeof(path), job, "");
	path_of(holders, sizeof(holders), job, "/" HOLDERS);
	/* While another thread of the extern step ends X11 forwarding, all of them are the user for some milliseconds. */
	while ((empty(path) < 0 || unlink(holders) < 0) && errno != ENOENT && tries++ < REMOVE_TRIES)
		usleep(LOCK_TRY_US);
	/* HOLDERS is removed last. From here on another slurmstepd may make a new HOLDERS, and rmdir(2) then fails. */
	do
		rc = rmdir(path);
	while (rc < 0 && errno == EACCES && tries++ < REMOVE_TRIES && usleep(LOCK_TRY_US) == 0);
}

static void lock_path(char *file, size_t size, const char *address)
{
	const char *name = strrchr(address, '/');

	snprintf(file, size, "%.*s/lock.%.2s", (int) (name - address), address, name + 1);
}

static int open_lock(const char *address)
{
	char file[128];

	lock_path(file, sizeof(file), address);
	return open(file, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
}

int job_folder_lock(const char *address, int ms)
{
	int fd = open_lock(address);

	if (fd < 0)
		return -1;
	if (lock_within(fd, LOCK_EX, ms) == 0)
		return fd;
	close(fd);
	errno = ETIMEDOUT;
	return -1;
}

/* Removes the socket at `address` when nobody listens there. A process holds the lock of an address from before
 * bind(2) until it listens. `mine` is an address whose lock the caller holds. */
static void remove_dead(const char *address, const char *mine)
{
	char own[128], other[128];
	int lock = -1, fd;

	lock_path(own, sizeof(own), mine);
	lock_path(other, sizeof(other), address);
	if (strcmp(own, other) != 0 && ((lock = open_lock(address)) < 0 || flock(lock, LOCK_EX | LOCK_NB) < 0)) {
		if (lock >= 0)
			close(lock);
		return;
	}
	fd = wire_connect(address, (uid_t) -1);
	if (fd >= 0)
		close(fd);
	else if (errno == ECONNREFUSED)
		unlink(address);
	if (lock >= 0)
		job_folder_release(lock);
}

/* Returns 1 for the 16 hexadecimal digits of a keeper's socket, else 0. */
static int is_socket(const char *name)
{
	return strlen(name) == 16 && strspn(name, "0123456789abcdef") == 16;
}

void job_folder_tidy(const char *address)
{
	const char *slash = strrchr(address, '/');
	struct dirent *entry;
	char path[128];
	int count = 0;
	DIR *entries;

	snprintf(path, sizeof(path), "%.*s", (int) (slash - address), address);
	entries = opendir(path);
	while (entries && (entry = readdir(entries)))
		count += is_socket(entry->d_name);
	if (entries && count >= SOCKETS_MAX) {
		rewinddir(entries);
		while ((entry = readdir(entries))) {
			snprintf(path, sizeof(path), "%.*s/%.16s", (int) (slash - address), address, entry->d_name);
			if (is_socket(entry->d_name) && strcmp(path, address) != 0)
				remove_dead(path, address);
		}
	}
	if (entries)
		closedir(entries);
}

int job_folder_listen(const char *address, uid_t uid)
{
	int fd, saved;

	if (unlink(address) < 0 && errno != ENOENT)
		return -1;
	fd = wire_listen(address);
	/* connect(2) needs write permission on the socket; root always has it. */
	if (fd >= 0 && (chmod(address, 0600) < 0 || lchown(address, uid, (gid_t) -1) < 0)) {
		saved = errno;
		close(fd);
		errno = saved;
		return -1;
	}
	return fd;
}
