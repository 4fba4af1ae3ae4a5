/* SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE
#include "account.h"

#include <dlfcn.h>
#include <slurm/slurm.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Slurm keeps at most so much of a comment that is given at submission. */
#define COMMENT_MAX 1024

typedef void init_fn(job_desc_msg_t *job);
typedef int update_fn(job_desc_msg_t *job, job_array_resp_msg_t **answer);
typedef void free_fn(job_array_resp_msg_t *answer);

void tell_accounting(uint32_t job_id, int record)
{
	init_fn *init = (init_fn *) dlsym(RTLD_DEFAULT, "slurm_init_job_desc_msg");
	update_fn *update = (update_fn *) dlsym(RTLD_DEFAULT, "slurm_update_job2");
	free_fn *release = (free_fn *) dlsym(RTLD_DEFAULT, "slurm_free_job_array_resp");
	job_array_resp_msg_t *answer = NULL;
	char text[COMMENT_MAX], number[16];
	job_desc_msg_t job;
	ssize_t size = pread(record, text, sizeof(text) - 1, 0);

	if (!init || !update || size <= 0)
		return;
	/* A user's process wrote it: printable characters, and none that a shell or SQL knows. */
	for (ssize_t i = 0; i < size; i++)
		if (text[i] <= ' ' || text[i] > '~' || strchr("'\"\\`$;|", text[i]))
			text[i] = ' ';
	text[size] = '\0';
	init(&job);
	snprintf(number, sizeof(number), "%u", job_id);
	job.job_id_str = number;  /* the one name that job_id has had from 20.11 to 26.05 */
	job.admin_comment = text;
	update(&job, &answer);
	if (answer && release)
		release(answer);
}
