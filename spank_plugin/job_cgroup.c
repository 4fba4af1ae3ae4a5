/* SPDX-License-Identifier: BSD-3-Clause */
/* The job's control groups, as root. Keepers have a directory of their own, beside the steps'. In the extern step's
 * directory Slurm would kill them at scancel's SIGTERM, while tasks of other steps may still save their work. The
 * job's limits apply to each directory below ".../job_N", whatever its name. */
#define _GNU_SOURCE
#include "job_cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#define OURS "/step_bollard"
/* Processes read at once. A container has three: keeper, task reaper and file server. Further processes are read,
 * and killed, in the next round. */
#define ROUND_MAX 1024
/* Tries of 5 ms each. Slurm holds this lock for a few system calls only. */
#define LOCK_TRIES 200

/* Cuts "/slurm_n1/uid_1000/job_7/step_0" to "/slurm_n1/uid_1000/job_7"; to "" when the job is not in the path. */
static void cut_at_job(char *path, uint32_t job)
{
	char part[32], *at = path;
	size_t size = (size_t) snprintf(part, sizeof(part), "/job_%u", job);

	while ((at = strstr(at, part)) && at[size] != '\0' && at[size] != '/')
		at += size;
	if (at)
		at[size] = '\0';
	else
		path[0] = '\0';
}

/* Frees and closes what reads a file line by line. Returns `rc`, with errno; -1 when not all of the file was read. */
static int end_reading(FILE *file, char *line, int rc)
{
	int saved;

	if (rc == 0 && !feof(file))
		rc = -1;
	saved = errno;
	free(line);
	fclose(file);
	errno = saved;
	return rc;
}

static int too_long(void)
{
	errno = ENAMETOOLONG;
	return -1;
}

/* Finds the job's directories in `own`, the /proc/self/cgroup of a slurmstepd of the job. It has lines such as
 * "4:freezer:/slurm/uid_1/job_7". Returns 0, or -1 with errno. */
static int find_own_place(struct job_cgroups *place, uint32_t job, const char *own)
{
	FILE *file = fopen(own, "re");
	char *line = NULL, *path;
	size_t size = 0;
	int rc = 0;

	place->v1[0] = place->v2[0] = '\0';
	if (!file)
		return -1;
	while (rc == 0 && getline(&line, &size, file) > 0) {
		line[strcspn(line, "\n")] = '\0';
		path = strchr(line, ':');
		path = path ? strchr(path + 1, ':') : NULL;
		if (!path)
			continue;
		cut_at_job(++path, job);
		if (strlen(path) >= sizeof(place->v1))
			rc = too_long();
		else if (path[0])
			memcpy(strncmp(line, "0::", 3) == 0 ? place->v2 : place->v1, path, strlen(path) + 1);
	}
	return end_reading(file, line, rc);
}

/* Adds the job's directory in the hierarchy of `line`, if Slurm has one there. Sets *mounted when the job can be in
 * this hierarchy. Returns 0, or -1 with errno. A line is "31 24 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup
 * rw,memory" (proc(5)). */
static int add_hierarchy(struct job_cgroups *found, const char *line, int *mounted)
{
	const char *type = strstr(line, " - cgroup"), *below;
	char root[256], mount[256], path[sizeof(found->job[0])];
	size_t length;

	if (!type)
		return 0;
	below = strncmp(type, " - cgroup2 ", 11) == 0 ? found->v2 : found->v1;
	if (!below[0])
		return 0;
	if (sscanf(line, "%*d %*d %*s %255s %255s", root, mount) != 2 || strlen(root) == 255 || strlen(mount) == 255)
		return too_long();
	if (strcmp(root, "/") != 0) {  /* only a part is mounted: the node is a container */
		length = strlen(root);
		if (strncmp(below, root, length) != 0 || below[length] != '/')
			return 0;
		below += length;
	}
	if (snprintf(path, sizeof(path), "%s%s", mount, below) >= (int) (sizeof(path) - sizeof(OURS)))
		return too_long();
	*mounted = 1;
	if (access(path, F_OK) < 0)
		return errno == ENOENT ? 0 : -1;
	if (found->count == JOB_CGROUPS_MAX) {
		errno = E2BIG;
		return -1;
	}
	memcpy(found->job[found->count++], path, sizeof(path));
	return 0;
}

/* job_cgroups_look() with the file `mountinfo` of /proc/self. */
static int look_in(struct job_cgroups *found, const char *mountinfo)
{
	char *line = NULL;
	size_t size = 0;
	FILE *mounts;
	int rc = 0, mounted = 0;

	found->count = 0;
	if (!found->v1[0] && !found->v2[0])
		return 0;
	mounts = fopen(mountinfo, "re");
	if (!mounts)
		return -1;
	while (rc == 0 && getline(&line, &size, mounts) > 0)
		rc = add_hierarchy(found, line, &mounted);
	rc = end_reading(mounts, line, rc);
	if (rc == 0 && found->count == 0) {
		errno = mounted ? ENOENT : ENODEV;
		rc = -1;
	}
	return rc;
}

int job_cgroups_look(struct job_cgroups *found)
{
	return look_in(found, "/proc/self/mountinfo");
}

/* job_cgroups_find() with the files `own` and `mountinfo` of /proc/self. */
static int find_in(struct job_cgroups *found, uint32_t job, const char *own, const char *mountinfo)
{
	found->count = 0;
	return find_own_place(found, job, own) < 0 ? -1 : look_in(found, mountinfo);
}

int job_cgroups_find(struct job_cgroups *found, uint32_t job)
{
	return find_in(found, job, "/proc/self/cgroup", "/proc/self/mountinfo");
}

static int open_item(const char *folder, const char *more, const char *item, int flags)
{
	char path[640];

	if (snprintf(path, sizeof(path), "%s%s/%s", folder, more, item) >= (int) sizeof(path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	return open(path, flags | O_CLOEXEC);
}

static int write_item(const char *folder, const char *item, const char *text, size_t size)
{
	int fd = open_item(folder, OURS, item, O_WRONLY);
	ssize_t n;

	if (fd < 0)
		return -1;
	n = write(fd, text, size);
	close(fd);
	return n == (ssize_t) size ? 0 : -1;
}

/* Copies the job's CPUs and memory nodes to our directory: a new cpuset of cgroup v1 is empty and accepts no
 * process. Returns 0, or -1 with errno; 0 when this hierarchy has no cpuset. */
static int fill_cpuset(const char *folder)
{
	static const char *const items[] = { "cpuset.cpus", "cpuset.mems" };
	char text[4096];
	ssize_t n;
	int fd;

	for (size_t i = 0; i < sizeof(items) / sizeof(*items); i++) {
		fd = open_item(folder, "", items[i], O_RDONLY);
		if (fd < 0)
			return errno == ENOENT ? 0 : -1;
		n = read(fd, text, sizeof(text));
		close(fd);
		if (n == (ssize_t) sizeof(text)) {  /* a part of the list would be another list */
			errno = E2BIG;
			return -1;
		}
		/* In cgroup v2 the file is empty (a newline) when nothing is limited. */
		if (n < 0 || (n > 1 && write_item(folder, items[i], text, (size_t) n) < 0))
			return -1;
	}
	return 0;
}

static int make(const char *folder)
{
	char path[640];

	snprintf(path, sizeof(path), "%s" OURS, folder);
	if (mkdir(path, 0755) < 0 && errno != EEXIST)
		return -1;
	return fill_cpuset(folder);
}

int job_cgroups_join(const struct job_cgroups *groups)
{
	for (int i = 0; i < groups->count; i++)
		if (make(groups->job[i]) < 0 || write_item(groups->job[i], "cgroup.procs", "0", 1) < 0)
			return -1;
	return 0;
}

/* Reads the processes in our directory below `folder`, at most `most`. Returns their number, 0 when the directory is
 * missing; -1 with errno when it cannot be read. */
static int read_processes(const char *folder, pid_t *found, int most)
{
	int fd, pid, count = 0, saved;
	FILE *file;

	do
		fd = open_item(folder, OURS, "cgroup.procs", O_RDONLY);
	while (fd < 0 && errno == EINTR);
	if (fd < 0)
		return errno == ENOENT ? 0 : -1;
	file = fdopen(fd, "r");
	if (!file) {
		saved = errno;
		close(fd);
		errno = saved;
		return -1;
	}
	while (count < most && fscanf(file, "%d", &pid) == 1)
		if (pid > 0)  /* 0: a process of another process namespace */
			found[count++] = pid;
	saved = errno;
	if (count < most && !feof(file))  /* ENODEV: the directory has been removed since */
		count = saved == ENODEV ? 0 : -1;
	fclose(file);
	errno = saved;
	return count;
}

/* Opens a handle of `pid` and then looks for it in our directory below `folder`: the id can belong to another process by
 * now. Returns the handle, which the caller closes; -1 with errno, ESRCH when it is not there. */
static int open_member(const char *folder, pid_t pid)
{
	static pid_t now[ROUND_MAX];
	int handle = (int) syscall(SYS_pidfd_open, pid, 0), left, saved;

	if (handle < 0)
		return -1;
	left = read_processes(folder, now, ROUND_MAX);
	saved = left < 0 ? errno : ESRCH;
	for (int i = 0; i < left; i++)
		if (now[i] == pid)
			return handle;
	close(handle);
	errno = saved;
	return -1;
}

/* Moves `pid`, whose handle is given, to our directory in each hierarchy. Returns 0, also when it ends meanwhile; -1
 * with errno. The handle is asked before each move: the id is this process's as long as that runs. */
static int move(const struct job_cgroups *groups, pid_t pid, int handle)
{
	struct pollfd ended = { .fd = handle, .events = POLLIN };
	char number[16];
	int size = snprintf(number, sizeof(number), "%d", (int) pid), rc;

	for (int i = 0; i < groups->count; i++) {
		do
			rc = poll(&ended, 1, 0);
		while (rc < 0 && errno == EINTR);
		if (rc != 0)
			return rc < 0 ? -1 : 0;
		if (write_item(groups->job[i], "cgroup.procs", number, (size_t) size) < 0)
			return errno == ESRCH ? 0 : -1;
	}
	return 0;
}

int job_cgroups_follow(const struct job_cgroups *groups)
{
	static pid_t found[ROUND_MAX];
	const char *from = NULL;
	int count = 0, handle;

	for (int i = 0; i < groups->count && count == 0; i++) {
		from = groups->job[i];
		count = read_processes(from, found, ROUND_MAX);
	}
	if (count < 0)
		return -1;
	for (int i = 0; count > 0 && i < groups->count; i++)
		if (make(groups->job[i]) < 0)
			return -1;
	for (int j = 0; j < count; j++) {
		handle = open_member(from, found[j]);
		if (handle < 0 && errno == ESRCH)
			continue;
		if (handle < 0 || move(groups, found[j], handle) < 0) {
			if (handle >= 0)
				close(handle);
			return -1;
		}
		close(handle);
	}
	return 0;
}

/* Returns 1 when `pid` is stopped, and with `servers` is not named as bollard's own processes are; else 0. */
static int is_stopped(pid_t pid, int servers)
{
	char path[64], line[128], state = 0;
	int own = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", (int) pid);
	file = fopen(path, "re");
	while (file && !state && fgets(line, sizeof(line), file)) {
		own |= strncmp(line, "Name:\tbollard-", 14) == 0;  /* the first line */
		sscanf(line, "State: %c", &state);
	}
	if (file)
		fclose(file);
	return (state == 'T' || state == 't') && !(servers && own);
}

/* Sends SIGKILL to `found`. When the directory cannot be read, nobody is killed: the caller tries again. */
static void kill_members(const char *folder, const pid_t *found, int count, enum victims victims)
{
	int handle;

	for (int i = 0; i < count; i++) {
		if (victims != ALL && !is_stopped(found[i], victims == STOPPED_SERVERS))
			continue;
		handle = open_member(folder, found[i]);
		if (handle < 0)
			continue;
		syscall(SYS_pidfd_send_signal, handle, SIGKILL, NULL, 0);
		close(handle);
	}
}

void job_cgroups_kill(const struct job_cgroups *groups, enum victims victims)
{
	static pid_t found[ROUND_MAX];

	for (int i = 0; i < groups->count; i++)
		kill_members(groups->job[i], found, read_processes(groups->job[i], found, ROUND_MAX), victims);
}

int job_cgroups_count(const struct job_cgroups *groups)
{
	static pid_t found[ROUND_MAX];
	int count, most = 0;

	for (int i = 0; i < groups->count; i++) {
		count = read_processes(groups->job[i], found, ROUND_MAX);
		if (count < 0)
			return -1;
		most = count > most ? count : most;
	}
	return most;
}

/* Takes the lock that Slurm holds when it makes or removes directories: flock(2) on the root of the hierarchy.
 * Returns a descriptor for the caller to close, or -1. */
static int lock_hierarchy(const char *job)
{
	char path[512];
	struct stat here, above;
	int fd, tries = 0;

	snprintf(path, sizeof(path), "%s", job);
	if (stat(path, &here) < 0)
		return -1;
	/* Go up to the topmost directory of this filesystem: the root of the hierarchy. */
	for (;;) {
		char *slash = strrchr(path, '/'), whole[512];

		if (!slash || slash == path)
			break;
		memcpy(whole, path, sizeof(whole));
		*slash = '\0';
		if (stat(path, &above) < 0 || above.st_dev != here.st_dev) {
			memcpy(path, whole, sizeof(path));
			break;
		}
	}
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	while (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0)
		if (tries++ >= LOCK_TRIES || usleep(5000) < 0) {
			close(fd);
			return -1;
		}
	return fd;
}

/* rmdir(2) that waits at most a second. Another thread of slurmstepd can have made all threads the user: it does so
 * when it ends X11 forwarding. */
static int remove_directory(const char *path)
{
	int rc;

	for (int tries = 0; (rc = rmdir(path)) < 0 && (errno == EACCES || errno == EPERM) && tries < 1000; tries++)
		usleep(1000);
	return rc;
}

/* Returns 1 when neither a directory nor a process is in `job`, else 0. */
static int is_vacant(const char *job)
{
	DIR *entries = opendir(job);
	struct dirent *entry;
	int vacant = entries != NULL, fd;
	char byte;

	while (entries && vacant && (entry = readdir(entries)))
		vacant = entry->d_type != DT_DIR || strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
	if (entries)
		closedir(entries);
	fd = vacant ? open_item(job, "", "cgroup.procs", O_RDONLY) : -1;
	vacant = fd >= 0 && read(fd, &byte, 1) == 0;
	if (fd >= 0)
		close(fd);
	return vacant;
}

/* Removes the job's directory `job`, and the user's, when they are empty. Slurm makes and removes them under its lock,
 * which any user can hold: that of the directory's root. Without the lock, only `alone` removes the job's, and nobody
 * the user's, in which another job may be starting. Returns 0, or -1 when `job` counts as busy though nothing is in it:
 * the caller tries again. */
static int remove_job(const char *job, int alone)
{
	int lock = lock_hierarchy(job), rc = 0;
	char path[512];

	if (lock < 0 && !alone)
		return 0;
	snprintf(path, sizeof(path), "%s", job);
	if (remove_directory(path) < 0) {
		rc = errno == EBUSY && is_vacant(job) ? -1 : 0;
	} else if (lock >= 0) {
		*strrchr(path, '/') = '\0';
		if (strncmp(strrchr(path, '/'), "/uid_", 5) == 0)
			remove_directory(path);
	}
	if (lock >= 0)
		close(lock);
	return rc;
}

int job_cgroups_remove(const struct job_cgroups *groups, int alone, unsigned int *ours)
{
	char path[640];
	int rc = 0;

	for (int i = 0; i < groups->count; i++) {
		snprintf(path, sizeof(path), "%s" OURS, groups->job[i]);
		if (remove_directory(path) == 0) {
			*ours |= 1u << i;
		} else if (errno != ENOENT) {
			rc = -1;
			continue;
		}
		/* When another step of the job still runs, rmdir(2) fails, and Slurm removes these two directories
		 * later. Of a job without a container nothing was in Slurm's way. */
		if ((*ours & 1u << i) && remove_job(groups->job[i], alone) < 0)
			rc = -1;
	}
	return rc;
}
