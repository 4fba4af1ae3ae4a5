/* SPDX-License-Identifier: BSD-3-Clause */
/* spank_bollard.so: the hooks that Slurm calls (spank(8)). Each calls the function for the process it is in: client or
 * slurmstepd. */
#include "shim.h"

SPANK_PLUGIN(bollard, 1);

int slurm_spank_init(spank_t spank, int argc, char **argv)
{
	switch (spank_context()) {
	case S_CTX_LOCAL:
	case S_CTX_ALLOCATOR:
		return client_init(spank);
	case S_CTX_REMOTE:
		stepd_init(spank, argc, argv);
		return 0;
	default:  /* slurmd, and its helpers for prolog and epilog: nothing to do */
		return 0;
	}
}

int slurm_spank_init_post_opt(spank_t spank, int argc, char **argv)
{
	(void) argc, (void) argv;
	switch (spank_context()) {
	case S_CTX_LOCAL:
	case S_CTX_ALLOCATOR:
		return client_post_opt(spank);
	default:
		return 0;
	}
}

int slurm_spank_local_user_init(spank_t spank, int argc, char **argv)
{
	(void) argc, (void) argv;
	return client_local_user_init(spank);
}

int slurm_spank_user_init(spank_t spank, int argc, char **argv)
{
	(void) spank, (void) argc, (void) argv;
	stepd_user_init();
	return 0;  /* a failure here would drain the node */
}

int slurm_spank_task_post_fork(spank_t spank, int argc, char **argv)
{
	(void) argc, (void) argv;
	stepd_task_post_fork(spank);
	return 0;
}

int slurm_spank_task_exit(spank_t spank, int argc, char **argv)
{
	(void) argc, (void) argv;
	stepd_task_exit(spank);
	return 0;
}

int slurm_spank_exit(spank_t spank, int argc, char **argv)
{
	(void) argc, (void) argv;
	if (spank_context() == S_CTX_REMOTE)
		stepd_exit(spank);
	return 0;
}

int slurm_spank_task_init(spank_t spank, int argc, char **argv)
{
	(void) argc, (void) argv;
	return stepd_task_init(spank);
}
