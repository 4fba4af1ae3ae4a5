/* SPDX-License-Identifier: BSD-3-Clause */
/* What slurmctld knows of a job. */
#ifndef BOLLARD_JOB_RECORD_H
#define BOLLARD_JOB_RECORD_H

#include <stdint.h>

/* 1 where the job was submitted with Slurm's field `container`, 0 where not, -1 where slurmctld does not tell. */
int job_record_has_container(uint32_t job_id);

#endif
