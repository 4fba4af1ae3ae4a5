/* SPDX-License-Identifier: BSD-3-Clause */
/* The control groups of a job on this node. All of bollard's processes for the job are in them. Everything here runs as
 * root, in slurmstepd or in its child. */
#ifndef BOLLARD_JOB_CGROUP_H
#define BOLLARD_JOB_CGROUP_H

#include <stdint.h>

/* One for each cgroup v1 hierarchy in which Slurm keeps the job, and one for cgroup v2. */
#define JOB_CGROUPS_MAX 16

struct job_cgroups {
	int count;
	char job[JOB_CGROUPS_MAX][512];  /* Slurm's own directory: ".../job_N" */
	char v1[512], v2[512];           /* that directory below a hierarchy's root, or empty */
};

/* Fills *found with the directories that Slurm has for `job` on this node; the count is 0 when Slurm tracks no job by
 * cgroups. Call it in slurmstepd before its last step of the job has ended: it reads /proc/self/cgroup.
 *
 * Returns 0, or -1 with errno; *found then has the directories that were found up to the failure. ENOENT: this process
 * is in the job's cgroups, but their directories are gone. ENODEV: no such hierarchy is mounted here. */
int job_cgroups_find(struct job_cgroups *found, uint32_t job);

/* Looks again for the directories in all hierarchies, by found->v1 and found->v2 of an earlier job_cgroups_find(). For a
 * process that is not in them any more; Slurm may have made more of them since. Returns as job_cgroups_find(). */
int job_cgroups_look(struct job_cgroups *found);

/* Moves this process to the directory "step_bollard" beside the job's steps, in each hierarchy; later children are
 * then in it too. Makes the directory when it is missing. Returns 0, or -1 with errno. */
int job_cgroups_join(const struct job_cgroups *groups);

/* Moves the processes that are in one "step_bollard" to those of all hierarchies. Returns 0, or -1 with errno. */
int job_cgroups_follow(const struct job_cgroups *groups);

/* Which processes job_cgroups_kill() kills. STOPPED: by SIGSTOP or a tracer. STOPPED_SERVERS: those of them that are not
 * bollard's own, that is, file servers. */
enum victims { ALL, STOPPED, STOPPED_SERVERS };

/* Sends SIGKILL to processes in "step_bollard", at most 1024 a call. Reports no failure: ask job_cgroups_count() who is
 * left. */
void job_cgroups_kill(const struct job_cgroups *groups, enum victims victims);

/* Returns the number of processes in "step_bollard", at most 1024: the largest number of any hierarchy. -1 with
 * errno when a hierarchy cannot be read, and the number is unknown. */
int job_cgroups_count(const struct job_cgroups *groups);

/* Removes "step_bollard". Also removes the job's directory and the user's when they are empty: Slurm could not
 * remove them while "step_bollard" was there. `alone`: no further step of the job can start. `ours` is 0 at the first
 * call: it gets a bit for each hierarchy that had the directory. Returns 0, or -1 when something is left that can be
 * removed in a moment. */
int job_cgroups_remove(const struct job_cgroups *groups, int alone, unsigned int *ours);

#endif
