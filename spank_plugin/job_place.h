/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef BOLLARD_JOB_PLACE_H
#define BOLLARD_JOB_PLACE_H

#include <stdint.h>

/* Opens the mount namespace that Slurm made for the job (job_container/tmpfs, namespace/tmpfs): slurmstepd itself is
 * not in it. Stores a descriptor, which the caller closes, in *place; -1 there when Slurm has made none. Returns 0, or
 * -1 with errno when there is one, or may be one, but it cannot be opened. */
int open_job_place(uint32_t job, int *place);

#endif
