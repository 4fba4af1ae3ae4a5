/* SPDX-License-Identifier: BSD-3-Clause */
/* The parts of the shim in slurmstepd. */
#ifndef BOLLARD_STEPD_H
#define BOLLARD_STEPD_H

#include "wire.h"

#include <slurm/spank.h>

#define LAUNCHER BOLLARD_PREFIX "/bollard-enter"
#define KEEPER BOLLARD_PREFIX "/bollard-keeper"

/* What this step knows; a task forked by slurmstepd inherits it. */
extern struct step {
	int asked;              /* for a container; the rest counts only then */
	int named;              /* steps of the job share it by its name */
	char spec[SPEC_MAX];
	char *verbose;          /* when the client began, for --container-verbose; or NULL */
	char *site;
	const char *program;    /* argument 0 of the tasks */
	int launched;           /* srun has put the launcher first already */
	char address[100];      /* of the keeper's socket */
	char why[512];          /* not empty: no keeper, and the reason */
	int listener, job;      /* descriptors for the keeper to be */
	int leash;              /* keepers send a byte to it; at exit they are ended; or -1 */
	int record;             /* of the keeper that this step has started, for the accounting; or -1 */
	int lifeline;           /* held open until slurmstepd ends */
	pid_t helper;           /* to be reaped, or 0 */
	long long times[2];     /* of the fork, and of the end of root in the child: CLOCK_MONOTONIC, ns */
} step;

/* stepd.c: no container for this step, and the reason that each task tells. */
__attribute__((format(printf, 1, 2))) void refuse(const char *format, ...);

/* keeper.c: the keeper of step.spec: one that is there, else a new one; or a refusal. */
void find_keeper(spank_t spank, uint32_t job_id, uint32_t step_id);

/* keeper.c: keepers hang on to this socket, which is there for as long as the job, or the step, is. `name` becomes
 * its address, which is another one where somebody took that. */
void hold_leash(char *name, size_t size);

/* argv.c: what the tasks start, as far as one can tell, and whether srun has put the launcher first: to step.program,
 * which is read ahead, and step.launched. */
void look_at_argv(spank_t spank);

/* argv.c: the launcher before this task's program; 0, or -1 where Slurm does not allow it. */
int put_launcher_first(spank_t spank);

#endif
