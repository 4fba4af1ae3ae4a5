/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef BOLLARD_PRIVILEGE_H
#define BOLLARD_PRIVILEGE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

/* Who the keeper is: from SPANK items alone, never from an environment. */
struct identity {
	uid_t uid;
	gid_t gid;
	const gid_t *groups;
	int ngroups;
	int place;    /* a mount namespace to begin in, or -1 for slurmstepd's own */
	int as_root;  /* the namespace shows uid and gid as 0 */
	const struct job_cgroups *cgroups;  /* of the job: where it stands */
};

/* What the helper of become_and_run() exits with: 0, or why there is no such process. */
enum no_start { NO_HELP = 1, NO_CGROUP, NO_PLACE, NO_USER, NO_NAMESPACE };

/* Fork a process that is `id` for good, in a user namespace which maps `id`'s own ids and nothing
 * else, outside Slurm's process tree, with only `keep` (at most 8, none below 3) of the open
 * descriptors; it calls run(arg) and exits with its value. A byte goes through `job_socket` (-1: none) as
 * soon as it is the user: how to find and end it later. 0, or -1 with errno. *helper is for the caller to reap. */
int become_and_run(const struct identity *id, const int *keep, int nkeep, int job_socket,
		   int (*run)(void *arg), void *arg, pid_t *helper);

/* Handles (pidfds) of the processes that sent a byte through the connection `fd` (SO_PASSCRED), at most `most`; of those
 * that are still the user's and have a name of ours. Returns their number. */
int take_senders(int fd, int *handles, int most);

/* How many of these processes have not ended. */
int count_alive(const int *handles, int count);

/* SIGKILL for each of them. */
void kill_all(const int *handles, int count);

/* Opens folder/JOB.UID to append to, root's, readable by the group `gid`; file and folder are made if they are missing.
 * The descriptor, or -1 with errno. */
int open_record(const char *folder, uint32_t job, uid_t uid, gid_t gid);

/* Removes folder/JOB.UID if nothing stands in it: no task entered a container of the job on this node. */
void drop_empty_record(const char *folder, uint32_t job, uid_t uid);

/* Open the mount namespace that Slurm has made for the job, where it makes one and slurmstepd stands outside of it
 * (job_container/tmpfs, namespace/tmpfs); -1 where there is none. */
int open_job_place(uint32_t job);

/* 0 when `path` and its parents belong to root and nobody else can write them, else -1 with errno. */
int owned_by_root(const char *path);

#endif
