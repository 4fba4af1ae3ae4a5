/* SPDX-License-Identifier: BSD-3-Clause */
/* The operations that need root: give root up, write the id map of a process that has given it up, end a user's
 * processes. Nothing here reads an image, a path that a user named, or an environment variable. */
#define _GNU_SOURCE
#include "privilege.h"
#include "job_cgroup.h"
#include "root_owned.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Not in headers older than Linux 5.9 and glibc 2.34; the number is the same on every architecture. */
#ifndef SYS_close_range
#define SYS_close_range 436
#endif

/* user_namespaces(7): a map holds at most 340 lines since Linux 4.15, and is written in less than a page. */
#define MAP_LINES_MAX 340

/* Messages read from one connection. A keeper sends one, and each of its task reapers. */
#define MESSAGES_MAX 1024

/* Descriptors that the keeper gets, at most. */
#define KEEP_MAX 8

/* How long the child may take to give root up; it needs about 1 ms. */
#define HELP_MS 5000

/* Opens the directory of the records; -1 with errno unless it is root's, and root alone can write to it. A group of a
 * daemon may have its parent: /var/log of Ubuntu, for syslog. Who can write there can put another directory of root's in
 * this place, and no more: a link is followed only where root alone can change the whole path, and files are opened
 * beneath the descriptor. */
static int open_records(const char *folder)
{
	struct stat st;
	int fd = open(folder, O_RDONLY | O_DIRECTORY | (owned_by_root(folder) == 0 ? 0 : O_NOFOLLOW) | O_CLOEXEC);

	if (fd >= 0 && (fstat(fd, &st) < 0 || st.st_uid != 0 || (st.st_mode & (S_IWGRP | S_IWOTH)))) {
		close(fd);
		errno = EPERM;
		return -1;
	}
	return fd;
}

static void name_record(char name[32], uint32_t job, uid_t uid)
{
	snprintf(name, 32, "%u.%u", job, uid);
}

int open_record(const char *folder, uint32_t job, uid_t uid, gid_t gid)
{
	char name[32];
	struct stat st;
	int records, fd;

	if ((mkdir(folder, 0755) < 0 && errno != EEXIST) || (records = open_records(folder)) < 0)
		return -1;
	name_record(name, job, uid);
	fd = openat(records, name, O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
	close(records);
	if (fd >= 0 && (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || fchown(fd, 0, gid) < 0 || fchmod(fd, 0640) < 0)) {
		close(fd);
		return -1;
	}
	return fd;
}

void drop_empty_record(const char *folder, uint32_t job, uid_t uid)
{
	char name[32];
	struct stat st;
	int records = open_records(folder);

	if (records < 0)
		return;
	name_record(name, job, uid);
	if (fstatat(records, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) && st.st_size == 0)
		/* Another thread of slurmstepd may be the user for a moment, and this one with it: job_folder.c. */
		for (int tries = 0; unlinkat(records, name, 0) < 0 && (errno == EACCES || errno == EPERM) && tries < 1000; tries++)
			usleep(1000);
	close(records);
}

static int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	size_t size = strlen(text);
	ssize_t n;

	if (fd < 0)
		return -1;
	n = write(fd, text, size);
	close(fd);
	return n == (ssize_t) size ? 0 : -1;
}

/* Writes an id map to `text`: a line "INSIDE OUTSIDE 1" for each distinct id. An id is the same inside, but with
 * `as_root` the first is 0. Groups for which there is no room appear as "nogroup" inside; the user still has their
 * rights. */
static void map_text(char *text, size_t room, int as_root, gid_t first, const gid_t *more, int count)
{
	size_t at = (size_t) snprintf(text, room, "%u %u 1\n", as_root ? 0 : first, first), size;
	int lines = 1;

	for (int i = 0; i < count && lines < MAP_LINES_MAX; i++) {
		int known = more[i] == first || (as_root && more[i] == 0);

		for (int j = 0; j < i && !known; j++)
			known = more[j] == more[i];
		if (known)
			continue;
		size = (size_t) snprintf(text + at, room - at, "%u %u 1\n", more[i], more[i]);
		if (size >= room - at)
			break;
		at += size;
		lines++;
	}
	text[at] = '\0';
}

/* Writes the id maps of `pid`: the user's own ids only. Each is mapped to itself, because PMIx compares uid and gid
 * with the host's. setgroups(2) is denied first: a process that drops a group could pass a permission that denies
 * that group. Returns 0, or -1 with errno. */
static int write_maps(pid_t pid, const struct identity *id)
{
	char text[MAP_LINES_MAX * 24 + 1], path[64];
	size_t page = (size_t) sysconf(_SC_PAGESIZE), room = page < sizeof(text) ? page : sizeof(text);

	snprintf(path, sizeof(path), "/proc/%d/setgroups", (int) pid);
	if (write_file(path, "deny") < 0)
		return -1;
	snprintf(path, sizeof(path), "/proc/%d/gid_map", (int) pid);
	map_text(text, room, id->as_root, id->gid, id->groups, id->ngroups);
	if (write_file(path, text) < 0)
		return -1;
	snprintf(path, sizeof(path), "/proc/%d/uid_map", (int) pid);
	map_text(text, room, id->as_root, id->uid, NULL, 0);
	return write_file(path, text);
}

/* Becomes the user `id` for good: sets real, effective and saved ids, reads them back, and checks that root cannot
 * be had again. Returns 0, or -1. */
static int become(const struct identity *id)
{
	uid_t uid[3];
	gid_t gid[3];

	if (setgroups((size_t) id->ngroups, id->groups) < 0 ||
	    setresgid(id->gid, id->gid, id->gid) < 0 ||
	    setresuid(id->uid, id->uid, id->uid) < 0)
		return -1;
	if (getresuid(&uid[0], &uid[1], &uid[2]) < 0 || getresgid(&gid[0], &gid[1], &gid[2]) < 0)
		return -1;
	for (int i = 0; i < 3; i++)
		if (uid[i] != id->uid || gid[i] != id->gid)
			return -1;
	if (id->uid != 0 && (setuid(0) == 0 || seteuid(0) == 0))
		return -1;
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

/* Sets all signals to their defaults, and unblocks them. */
static void forget_signals(void)
{
	struct sigaction action = { .sa_handler = SIG_DFL };
	sigset_t none;

	for (int sig = 1; sig < NSIG; sig++)
		sigaction(sig, &action, NULL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static int compare(const void *a, const void *b)
{
	return *(const int *) a - *(const int *) b;
}

int leave_only(const int *keep, int nkeep)
{
	int sorted[KEEP_MAX + 4], null = open("/dev/null", O_RDWR);  /* closed below when it is 3 or more */
	unsigned int from = 3;

	if (null < 0 || nkeep > KEEP_MAX + 4)
		return -1;
	memcpy(sorted, keep, (size_t) nkeep * sizeof(int));
	qsort(sorted, (size_t) nkeep, sizeof(int), compare);
	if (nkeep > 0 && sorted[0] < 3)
		return -1;
	for (int fd = 0; fd < 3; fd++)
		if (dup2(null, fd) < 0)
			return -1;
	for (int i = 0; i <= nkeep; i++) {
		unsigned int to = i < nkeep ? (unsigned int) sorted[i] - 1 : ~0u;

		if (to >= from && syscall(SYS_close_range, from, to, 0) < 0)
			return -1;
		if (i < nkeep)
			from = (unsigned int) sorted[i] + 1;
	}
	return 0;
}

/* Returns 1 when `pid` is a process of `uid` whose name begins with "bollard-", else 0. Reads /proc/PID/status:
 * /proc/PID itself belongs to root when the process is not dumpable. */
static int is_ours(pid_t pid, uid_t uid)
{
	char path[64], line[256];
	long owner = -1;
	int named = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", (int) pid);
	file = fopen(path, "re");
	if (!file)
		return 0;
	while (owner < 0 && fgets(line, sizeof(line), file)) {
		if (strncmp(line, "Name:\tbollard-", 14) == 0)
			named = 1;
		if (sscanf(line, "Uid: %ld", &owner) != 1)
			owner = -1;
	}
	fclose(file);
	return named && owner == (long) uid;
}

/* Calls poll(2) without waiting, again after a signal. */
static int poll_now(struct pollfd *what)
{
	int rc;

	do
		rc = poll(what, 1, 0);
	while (rc < 0 && errno == EINTR);
	return rc;
}

/* Opens a handle of the process that sent a byte through `fd`. Returns -1 with errno; ESRCH when it has ended or is
 * not ours. */
static int open_sender(int fd, const struct ucred *sender)
{
	struct pollfd hung_up = { .fd = fd };
	int handle = (int) syscall(SYS_pidfd_open, sender->pid, 0), rc, reason;

	if (handle < 0)
		return -1;
	/* While the other end of the connection is open, the process id is the sender's, not a later process's.
	 * Another process can hold that end open; then is_ours() makes sure that only a process of the same user is
	 * killed. */
	rc = poll_now(&hung_up);
	reason = rc < 0 ? errno : ESRCH;
	if (rc >= 0 && !(hung_up.revents & (POLLHUP | POLLERR)) && is_ours(sender->pid, sender->uid))
		return handle;
	close(handle);
	errno = reason;
	return -1;
}

int take_senders(int fd, int *handles, int most, int *lost)
{
	union { struct cmsghdr head; char space[CMSG_SPACE(sizeof(struct ucred))]; } control;
	struct ucred sender;
	char byte;
	int count = 0, messages;

	for (messages = 0; count < most && messages < MESSAGES_MAX; messages++) {
		struct iovec part = { .iov_base = &byte, .iov_len = 1 };
		struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1,
					  .msg_control = &control, .msg_controllen = sizeof(control) };
		struct cmsghdr *head;

		if (recvmsg(fd, &message, MSG_DONTWAIT) != 1)
			break;
		head = CMSG_FIRSTHDR(&message);
		if (!head || head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_CREDENTIALS)
			continue;
		memcpy(&sender, CMSG_DATA(head), sizeof(sender));
		handles[count] = open_sender(fd, &sender);
		*lost += handles[count] < 0 && errno != ESRCH;
		count += handles[count] >= 0;
	}
	*lost += messages == MESSAGES_MAX;  /* the sender of an unread message */
	return count;
}

int count_alive(const int *handles, int count)
{
	int alive = 0;

	for (int i = 0; i < count; i++) {
		struct pollfd ended = { .fd = handles[i], .events = POLLIN };

		alive += poll_now(&ended) <= 0;
	}
	return alive;
}

void kill_all(const int *handles, int count)
{
	/* The last first: it is the task reaper, which would act on the keeper's end. */
	while (count-- > 0)
		syscall(SYS_pidfd_send_signal, handles[count], SIGKILL, NULL, 0);
}

/* Keeps the capabilities over our user namespace through execve(2), as ambient capabilities. execve(2) clears all
 * others, unless the user is root in the namespace (capabilities(7)). keeper_main.c then keeps them from further
 * programs. Returns 0, or -1 with errno. */
static int keep_capabilities(void)
{
	struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct sets[2];

	if (syscall(SYS_capget, &head, sets) < 0)
		return -1;
	sets[0].inheritable = sets[0].permitted;
	sets[1].inheritable = sets[1].permitted;
	if (syscall(SYS_capset, &head, sets) < 0)
		return -1;
	for (unsigned int cap = 0; cap < 64; cap++)
		if ((sets[cap / 32].permitted >> (cap % 32) & 1) && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0) < 0)
			return -1;
	return 0;
}

/* As the first thing in the keeper's process, as root: closes slurmstepd's descriptors. The user can stop this process as
 * soon as it is his, and would keep them open. `keep` and `nkeep` as in become_and_run(). Returns 0 or -1. */
static int close_slurms(const struct identity *id, const int *keep, int nkeep, int ready, int mapped)
{
	int all[KEEP_MAX + 4], count = nkeep;

	memcpy(all, keep, (size_t) nkeep * sizeof(int));
	all[count++] = ready;
	all[count++] = mapped;
	if (id->place >= 0)
		all[count++] = id->place;
	if (id->first)
		all[count++] = id->first_fd;
	return leave_only(all, count);
}

/* In the keeper's process: joins the job's cgroups, becomes the user, makes a user namespace, and waits for its id
 * maps. Returns 0, or an enum no_start; NO_HELP also when the helper ends without writing the maps. The order matters:
 * root is needed up to become(). */
static int drop(const struct identity *id, int job_socket, int ready, int mapped)
{
	struct rlimit none = { 0, 0 }, files;
	char byte = 1;

	/* First: processes that it forks later are then in the cgroups too. */
	if (job_cgroups_join(id->cgroups) < 0)
		return NO_CGROUP;
	/* setns(2) also changes the root directory to that of the namespace. */
	if (id->place >= 0 && setns(id->place, CLONE_NEWNS) < 0)
		return NO_PLACE;
	forget_signals();
	umask(022);
	if (setsid() < 0 || chdir("/") < 0 || clearenv() != 0 || setrlimit(RLIMIT_CORE, &none) < 0)
		return NO_USER;
	/* The keeper needs one descriptor for each task and step. */
	if (getrlimit(RLIMIT_NOFILE, &files) < 0)
		return NO_USER;
	files.rlim_cur = files.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &files) < 0)
		return NO_USER;
	/* slurmstepd is exempt from the out-of-memory killer; a user's process must not be. As root: after become()
	 * this file in /proc belongs to root. */
	if (write_file("/proc/self/oom_score_adj", "0") < 0 || become(id) < 0)
		return NO_USER;
	/* The memory is a copy of slurmstepd's: the user must not read it, whatever fs.suid_dumpable is. */
	if (prctl(PR_SET_DUMPABLE, 0) < 0 || (job_socket >= 0 && send(job_socket, &byte, 1, MSG_NOSIGNAL) != 1))
		return NO_USER;
	if (id->first && id->first(id->first_fd) < 0)
		return NO_USER;
	if (unshare(CLONE_NEWUSER) < 0)
		return NO_NAMESPACE;
	return write(ready, &byte, 1) == 1 && read(mapped, &byte, 1) == 1 && keep_capabilities() == 0 ? 0 : NO_HELP;
}

/* Returns why the child has ended: its exit status, an enum no_start. */
static int reason_of(pid_t child)
{
	int status;

	return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) ? WEXITSTATUS(status) : NO_HELP;
}

/* In the helper: waits until the child has given root up, and writes its id maps as root. Returns the answer, 0 or an
 * enum no_start. */
static int help(const struct identity *id, pid_t child, int ready, int mapped)
{
	struct pollfd started = { .fd = ready, .events = POLLIN };
	char byte;
	int rc;

	do
		rc = poll(&started, 1, HELP_MS);
	while (rc < 0 && errno == EINTR);
	if (rc != 1) {  /* the user may have stopped the child */
		kill(child, SIGKILL);
		return NO_HELP;
	}
	if (read(ready, &byte, 1) != 1)
		return reason_of(child);
	return write_maps(child, id) == 0 && write(mapped, &byte, 1) == 1 ? 0 : NO_HELP;
}

int become_and_run(const struct identity *id, const int *keep, int nkeep, int job_socket,
		   int (*run)(void *arg), void *arg, pid_t *helper, int *answer)
{
	int to_child[2], to_helper[2], to_caller[2], rc;
	unsigned char reason;
	pid_t pid, child;

	if (nkeep > KEEP_MAX || id->ngroups < 0) {
		errno = EINVAL;
		return -1;
	}
	if (pipe2(to_caller, O_CLOEXEC) < 0)
		return -1;
	pid = fork();
	if (pid != 0) {
		rc = errno;
		close(to_caller[1]);
		if (pid < 0)
			close(to_caller[0]);
		errno = rc;
		*helper = pid;
		*answer = to_caller[0];
		return pid < 0 ? -1 : 0;
	}
	/* Forks twice, so that the keeper is no child of slurmstepd. slurmstepd waits for all of its children. With
	 * proctrack/linuxproc it also signals all of its descendants. */
	if (pipe2(to_child, O_CLOEXEC) < 0 || pipe2(to_helper, O_CLOEXEC) < 0)
		_exit(NO_HELP);
	child = fork();
	if (child == 0) {
		rc = close_slurms(id, keep, nkeep, to_helper[1], to_child[0]) < 0 ?
		     NO_HELP : drop(id, job_socket, to_helper[1], to_child[0]);
		if (rc != 0 || leave_only(keep, nkeep) < 0)
			_exit(rc != 0 ? rc : NO_HELP);
		_exit(run(arg));
	}
	close(to_helper[1]);
	close(to_child[0]);
	reason = (unsigned char) (child < 0 ? NO_HELP : help(id, child, to_helper[0], to_child[1]));
	_exit(write(to_caller[1], &reason, 1) == 1 ? reason : NO_HELP);
}
