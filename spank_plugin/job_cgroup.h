/* SPDX-License-Identifier: BSD-3-Clause */
/* The control groups of a job in which everything stands that bollard runs for it on this node. */
#ifndef BOLLARD_JOB_CGROUP_H
#define BOLLARD_JOB_CGROUP_H

#include <stdint.h>

/* One for each cgroup v1 hierarchy in which Slurm keeps the job, and one for cgroup v2. */
#define JOB_CGROUPS_MAX 16

struct job_cgroups {
	int count;
	char job[JOB_CGROUPS_MAX][512];  /* Slurm's own directory: ".../job_N" */
};

/* Fills *found with the directories that Slurm has for `job` on this node; none where it tracks no job by cgroups.
 * To be called in slurmstepd before its last step of the job has ended. */
void job_cgroups_find(struct job_cgroups *found, uint32_t job);

/* Moves this process, and all that it forks from now on, to the directory "step_bollard" beside the job's steps, which
 * is made where it is missing. 0, or -1 with errno. */
int job_cgroups_join(const struct job_cgroups *groups);

/* Moves the processes that are in one of them to all others too. 0, or -1 with errno. */
int job_cgroups_follow(const struct job_cgroups *groups);

/* SIGKILL for each process there, or only for those that somebody has stopped. Returns how many are there. */
int job_cgroups_kill(const struct job_cgroups *groups, int only_stopped);

/* How many processes are there. */
int job_cgroups_count(const struct job_cgroups *groups);

/* Removes "step_bollard", and what Slurm could not remove because of it: the job's directory and the user's, if
 * they are empty. 0 when "step_bollard" is gone everywhere, else -1. */
int job_cgroups_remove(const struct job_cgroups *groups);

#endif
