/* SPDX-License-Identifier: BSD-3-Clause */
/* The parts of the shim in slurmstepd. */
#ifndef BOLLARD_STEPD_H
#define BOLLARD_STEPD_H

#include "header.h"
#include "wire.h"

#include <slurm/spank.h>

#define LAUNCHER BOLLARD_PREFIX "/bollard-enter"
#define KEEPER BOLLARD_PREFIX "/bollard-keeper"

/* What this step knows; a task forked by slurmstepd inherits it. */
extern struct step {
	int asked;              /* for a container; the rest counts only then */
	char spec[SPEC_MAX];
	struct header header;   /* all of the spec that is read here */
	const char *options;    /* the rest of it, which only the keeper reads; or NULL */
	char *site;
	const char *program;    /* argument 0 of the tasks */
	int launched;           /* srun has put the launcher first already */
	char address[100];      /* path of the keeper's socket */
	char why[512];          /* not empty: no keeper, and the reason */
	int listener, job;      /* descriptors for the keeper to be */
	int job_socket;              /* keepers send a byte to it, and end when it is closed; or -1 */
	int folder;             /* the job's, held (job_folder.h); or -1 */
	int is_extern;          /* the job's own step: it ends the containers of the job */
	int record;             /* of the job on this node, for the accounting; or -1 */
	char container[40];     /* by which the record names the container that this step has made */
	int occupied;           /* somebody listens at `address` who gives no lifeline */
	int lifeline;           /* held open until slurmstepd ends */
	pid_t helper;           /* to be reaped, or 0 */
	long long times[2];     /* of the fork, and of the end of root in the child: CLOCK_MONOTONIC, ns */
} step;

/* stepd.c: no container for this step, and the reason that each task tells. */
__attribute__((format(printf, 1, 2))) void refuse(const char *format, ...);

/* keeper.c: the keeper of step.spec: one that is there, else a new one; or a refusal. */
void find_keeper(spank_t spank, uint32_t job_id, uint32_t step_id);

/* keeper.c: keepers are connected to the socket `path`, which is there for as long as the job, or the step, is. */
void hold_leash(const char *path);

/* job_end.c: ends the containers of the job, if no other step of it on this node can need them. The extern step waits
 * until that is so. */
void end_containers(uint32_t job_id, uid_t uid);

/* job_end.c: keepers into the cgroups that Slurm makes for a step only after this one's keeper was started. */
void place_keepers(uint32_t job_id);

/* argv.c: what the tasks start, as far as one can tell, and whether srun has put the launcher first: to step.program,
 * which is read ahead, and step.launched. */
void look_at_argv(spank_t spank);

/* argv.c: the launcher before this task's program; 0, or -1 where Slurm does not allow it. */
int put_launcher_first(spank_t spank);

#endif
