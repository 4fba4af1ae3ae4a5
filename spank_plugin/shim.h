/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef BOLLARD_SHIM_H
#define BOLLARD_SHIM_H

#include <slurm/spank.h>

/* client_options.c, client.c: the hooks in srun, sbatch and salloc, the user's own process. Each returns 0, or -1
 * when Slurm refuses an option of ours; a user's mistake ends the process. */
int client_init(spank_t spank);
int client_post_opt(spank_t spank);
int client_local_user_init(spank_t spank);

/* stepd.c: the hooks in slurmstepd. A user's mistake makes no hook fail: Slurm would drain the node. Instead
 * stepd_task_init() ends the task with the reason and EXIT_BOLLARD; it returns 0 otherwise. Slurm calls
 * stepd_user_init() with its privileges dropped for a while, stepd_task_init() as the user, and the others as root
 * (spank(8)). */
void stepd_init(spank_t spank, int argc, char **argv);
void stepd_user_init(void);
int stepd_task_init(spank_t spank);
void stepd_task_post_fork(spank_t spank);
void stepd_task_exit(spank_t spank);
void stepd_exit(spank_t spank);

#endif
