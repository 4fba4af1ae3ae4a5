/* SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE
#include "account.h"

#include <dlfcn.h>
#include <slurm/slurm.h>
#include <slurm/spank.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Slurm's own limit for a comment that is given at submission, in bytes. */
#define COMMENT_MAX 1024

typedef void init_fn(job_desc_msg_t *job);
typedef int update_fn(job_desc_msg_t *job, job_array_resp_msg_t **answer);
typedef void free_fn(job_array_resp_msg_t *answer);

/* Only this many bytes at the end of a record are read. */
#define LOOK_MAX (64 * 1024)

/* Copies the last line of `record` with the word "container=NAME" to `line`, at most `size` - 1 bytes. Returns its
 * length; 0 for none. */
static size_t last_line(int record, const char *container, char *line, size_t size)
{
	static char text[LOOK_MAX + 1];
	struct stat st;
	char word[64], *at, *end;
	ssize_t length = -1;

	if (fstat(record, &st) == 0)
		length = pread(record, text, LOOK_MAX, st.st_size > LOOK_MAX ? st.st_size - LOOK_MAX : 0);
	if (length <= 0)
		return 0;
	text[length] = '\0';
	snprintf(word, sizeof(word), " container=%s ", container);
	for (end = text + length; end > text; end = at) {
		*end = '\0';
		at = strrchr(text, '\n');
		if (!at)
			at = text;
		if (strstr(at, word)) {
			at += *at == '\n';
			length = end - at;
			if ((size_t) length >= size)
				length = (ssize_t) size - 1;
			memcpy(line, at, (size_t) length);
			return (size_t) length;
		}
	}
	return 0;
}

void tell_accounting(uint32_t job_id, int record, const char *container)
{
	init_fn *init = (init_fn *) dlsym(RTLD_DEFAULT, "slurm_init_job_desc_msg");
	update_fn *update = (update_fn *) dlsym(RTLD_DEFAULT, "slurm_update_job2");
	free_fn *release = (free_fn *) dlsym(RTLD_DEFAULT, "slurm_free_job_array_resp");
	job_array_resp_msg_t *answer = NULL;
	char text[COMMENT_MAX], number[16];
	job_desc_msg_t job;
	size_t size = last_line(record, container, text, sizeof(text));

	if (!init || !update || size == 0)
		return;
	/* A user's process wrote this text: keep printable characters only, and none that has a meaning in a shell
	 * or SQL. */
	for (size_t i = 0; i < size; i++)
		if (text[i] <= ' ' || text[i] > '~' || strchr("'\"\\`$;|", text[i]))
			text[i] = ' ';
	text[size] = '\0';
	init(&job);
	snprintf(number, sizeof(number), "%u", job_id);
	job.job_id_str = number;  /* the field that has the same name from Slurm 20.11 to 26.05 */
	job.admin_comment = text;
	if (update(&job, &answer) != SLURM_SUCCESS)
		slurm_error("bollard: slurmctld does not take the comment of job %u", job_id);
	if (answer && release)
		release(answer);
}
