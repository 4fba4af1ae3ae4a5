/* SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE
#include "slurmctld.h"

#include <dlfcn.h>
#include <slurm/slurm.h>
#include <stddef.h>

#if SLURM_VERSION_NUMBER >= SLURM_VERSION_NUM(21, 8, 0)

typedef int load_fn(job_info_msg_t **answer, uint32_t job_id, uint16_t show);
typedef void free_fn(job_info_msg_t *answer);

int job_record_has_container(uint32_t job_id)
{
	load_fn *load = (load_fn *) dlsym(RTLD_DEFAULT, "slurm_load_job");
	free_fn *release = (free_fn *) dlsym(RTLD_DEFAULT, "slurm_free_job_info_msg");
	job_info_msg_t *answer = NULL;
	int found = 0;

	if (!load || !release || load(&answer, job_id, 0) != SLURM_SUCCESS || !answer)
		return -1;
	for (uint32_t i = 0; i < answer->record_count; i++)
		if (answer->job_array[i].job_id == job_id && answer->job_array[i].container &&
		    answer->job_array[i].container[0])
			found = 1;
	release(answer);
	return found;
}

#else

int job_record_has_container(uint32_t job_id)
{
	(void) job_id;
	return 0;  /* Slurm has no field `container` before 21.08 */
}

#endif
