/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef BOLLARD_SLURMCTLD_H
#define BOLLARD_SLURMCTLD_H

#include <stdint.h>

/* Asks slurmctld for the job's record. Returns 1 when the job was submitted with Slurm's field `container`, 0 when
 * not, -1 when slurmctld does not answer. Returns 0 before Slurm 21.08, which has no such field. Runs as root, in
 * slurmstepd. */
int job_record_has_container(uint32_t job_id);

#endif
