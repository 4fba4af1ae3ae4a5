/* SPDX-License-Identifier: BSD-3-Clause */
/* The operations that need root. Everything here runs as root, in slurmstepd; become_and_run() gives root up in a
 * child. */
#ifndef BOLLARD_PRIVILEGE_H
#define BOLLARD_PRIVILEGE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

/* The keeper's user. The values come from SPANK items, never from an environment variable. */
struct identity {
	uid_t uid;
	gid_t gid;
	const gid_t *groups;
	int ngroups;
	int place;    /* descriptor of a mount namespace to join first, or -1 for slurmstepd's own */
	int as_root;  /* 1: uid and gid are 0 in the user namespace */
	const struct job_cgroups *cgroups;  /* of the job; the keeper joins them */
	int (*first)(int fd);  /* called as the user before the user namespace is made; below 0: no keeper. NULL: nothing */
	int first_fd;          /* its argument */
};

/* What the helper of become_and_run() answers: 0, or why there is no keeper. */
enum no_start { NO_HELP = 1, NO_CGROUP, NO_PLACE, NO_USER, NO_NAMESPACE };

/* Forks a helper, which forks the keeper. The keeper becomes the user `id` and cannot become root again. Its user
 * namespace maps the ids of `id` only. Of the open descriptors it has only `keep` (`nkeep`, at most 8, none below 3).
 * It calls run(arg) and exits with the returned value. As soon as it is the user, it sends one byte through
 * `job_socket` (-1: none): take_senders() finds it by that. The helper writes the id maps as root and ends.
 *
 * Returns 0 when the helper is forked, or -1 with errno. The caller reaps *helper, and closes *answer: a pipe with
 * one byte when the helper ends. The byte is 0 when the keeper has given root up and has its id maps, else an enum
 * no_start. The exit status would not do: with contain_spank, a hook may run in a process that is not the helper's
 * parent. */
int become_and_run(const struct identity *id, const int *keep, int nkeep, int job_socket,
		   int (*run)(void *arg), void *arg, pid_t *helper, int *answer);

/* Opens the standard descriptors on /dev/null, and closes all others except `keep` (`nkeep`, at most 8, none below 3).
 * Returns 0 or -1. */
int leave_only(const int *keep, int nkeep);

/* Opens handles (pidfds) of the processes that sent a byte through the connection `fd` (SO_PASSCRED), at most
 * `most`. Takes only processes that still belong to the sending user and whose name begins with "bollard-". Adds to
 * *lost the processes that run but of which no handle can be had. Reads at most 1024 bytes. Returns the number of
 * handles, which are the caller's. Does not wait. */
int take_senders(int fd, int *handles, int most, int *lost);

/* Returns how many of these processes have not ended, or may not have: poll(2) failed. */
int count_alive(const int *handles, int count);

/* Sends SIGKILL to each of them, the last first. Reports no failure. */
void kill_all(const int *handles, int count);

/* Opens the file folder/JOB.UID for appending. It belongs to root, and the group `gid` can read it. Makes file and
 * directory when they are missing. Returns a descriptor, which the caller closes, or -1 with errno. */
int open_record(const char *folder, uint32_t job, uid_t uid, gid_t gid);

/* Removes folder/JOB.UID when it is empty: no task entered a container of the job on this node. Reports no failure. */
void drop_empty_record(const char *folder, uint32_t job, uid_t uid);

#endif
