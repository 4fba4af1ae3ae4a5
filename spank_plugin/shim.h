/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef BOLLARD_SHIM_H
#define BOLLARD_SHIM_H

#include <slurm/spank.h>
#include <stddef.h>

/* client_options.c, client.c: srun, sbatch, salloc; the user's own process. */
int client_init(spank_t spank);
int client_post_opt(spank_t spank);
int client_local_user_init(spank_t spank);

/* shim.c: whether Slurm's own OCI code is set up, by oci.conf(5) beside slurm.conf. */
int slurm_has_oci_conf(void);

/* stepd.c: slurmstepd. None of these fails for a user's mistake, but task_init. */
void stepd_init(spank_t spank, int argc, char **argv);
void stepd_user_init(void);
int stepd_task_init(spank_t spank);
void stepd_task_post_fork(spank_t spank);
void stepd_exit(spank_t spank);

#endif
