/* SPDX-License-Identifier: BSD-3-Clause */
/* The parts of the shim in slurmstepd. They run as root, unless noted. */
#ifndef BOLLARD_STEPD_H
#define BOLLARD_STEPD_H

#include "header.h"
#include "wire.h"

#include <slurm/spank.h>

#define LAUNCHER BOLLARD_PREFIX "/bollard-enter"
#define KEEPER BOLLARD_PREFIX "/bollard-keeper"

/* step.c: the state of this step. slurmstepd's tasks inherit it by fork(2). The strings live until slurmstepd ends. */
extern struct step {
	int asked;              /* 1: this step asks for a container; else the rest is not used */
	char spec[SPEC_MAX - sizeof(ENV_SPEC)];  /* as long as fits into one variable of a task, with the name */
	struct header header;   /* the only part of the spec that is read here */
	const char *options;    /* the rest of the spec, which only the keeper reads; or NULL */
	char *site;             /* the plugin's arguments in plugstack.conf, each followed by a space */
	int no_record;          /* 1: record=no is among them */
	int account;            /* 1: account=yes is among them */
	const char *program;    /* argument 0 of the tasks */
	int launched;           /* 1: srun has put the launcher first already */
	char address[100];      /* path of the keeper's socket */
	char why[512];          /* not empty: no keeper, and the reason */
	int listener, job;      /* descriptors that the new keeper gets */
	int job_socket;         /* keepers send a byte to it, and end when it is closed; or -1 */
	char job_socket_path[100]; /* the path of job_socket */
	int folder;             /* the job's directory, held (job_folder.h); or -1 */
	int is_extern;          /* 1: the job's extern step, which ends the containers of the job */
	int record;             /* the job's record on this node, for the accounting; or -1 */
	char container[40];     /* the name in the record of the container that this step made */
	int before;             /* connection to a keeper that ends, because the container is made anew; or -1 */
	int lifeline;           /* connection to the keeper, held open until slurmstepd ends; or -1 */
	int bus_error;          /* 1: a task has ended by SIGBUS */
	pid_t helper;           /* the helper to reap (privilege.h), or 0 */
	int answer;             /* the pipe with the helper's answer, while there is a helper */
	long long times[2];     /* of the fork, and of giving up root in the child: CLOCK_MONOTONIC, ns */
} step;

/* step.c: stores the reason in step.why: this step gets no container, and its tasks end with the reason. */
__attribute__((format(printf, 1, 2))) void refuse(const char *format, ...);

/* keeper.c: finds the keeper of step.spec, or starts one, and holds its lifeline. refuse() on failure. */
void find_keeper(spank_t spank, uint32_t job_id, uint32_t step_id);

/* keeper.c: opens the job socket at `path` and stores it in step.job_socket; -1 there on failure, with errno. Keepers are
 * connected to it, and it stays open as long as the job, or the step, runs. */
void hold_job_socket(const char *path);

/* job_end.c: notes in which cgroups the job is. Called at the step's start too: Slurm 20.11 moves slurmstepd out of them
 * before its last hook. Logs a failure with slurm_error(). */
void know_cgroups(uint32_t job_id);

/* job_end.c: ends the containers of the job when no other step of the job runs on this node. The extern step waits
 * until then, at most 24 hours; other steps return at once. Logs with slurm_error() what it cannot read or end. */
void end_containers(uint32_t job_id, uid_t uid);

/* job_end.c: kills the file servers of the job's containers that their user has stopped. A process that waits for one
 * survives SIGKILL. */
void end_stopped_servers(void);

/* job_end.c: moves the keepers to those cgroups of the job that Slurm made after the keeper started. Logs a failure
 * with slurm_error(). */
void place_keepers(uint32_t job_id);

/* argv.c: sets step.program, which the keeper reads ahead ("" when unknown), and step.launched. Takes the launcher's
 * mark away from Slurm's argv in place. */
void look_at_argv(spank_t spank);

/* argv.c: puts the launcher before this task's program. Returns 0, or -1 when Slurm does not allow it. Runs as the
 * user, in the task's process. */
int put_launcher_first(spank_t spank);

#endif
