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
};

/* Fork a process that is `id` for good, in a user namespace which maps `id`'s own ids and nothing
 * else, outside Slurm's process tree, with only `keep` (at most 8, none below 3) of the open
 * descriptors; it calls run(arg) and exits with its value. A byte goes through `leash` (-1: none) as
 * soon as it is the user: how to find and end it later. 0, or -1 with errno. *helper is for the caller to reap. */
int become_and_run(const struct identity *id, const int *keep, int nkeep, int leash,
		   int (*run)(void *arg), void *arg, pid_t *helper);

/* connect(2) with the effective user `uid`, in this thread alone: the peer sees that user. */
int connect_as(uid_t uid, int fd, const struct sockaddr *addr, socklen_t size);

/* SIGKILL for each process that sent a byte through the connection `fd` (SO_PASSCRED), if it is stopped and
 * still the user it was. One that runs ends by itself, and not before its last step has: the extern step
 * ends at scancel's SIGTERM, while tasks may still be saving their work. */
void kill_senders(int fd);

/* A new file folder/JOB.UID.MARK.TIME to write to, root's, readable by `id`'s group; the folder is made if it is
 * missing. The descriptor, or -1 with errno. */
int open_record(const char *folder, uint32_t job, const struct identity *id, unsigned long long mark);

/* Open the mount namespace that Slurm has made for the job, where it makes one and slurmstepd stands outside of it
 * (job_container/tmpfs, namespace/tmpfs); -1 where there is none. */
int open_job_place(uint32_t job);

/* 0 when `path` and its parents belong to root and nobody else can write them, else -1 with errno. */
int owned_by_root(const char *path);

#endif
