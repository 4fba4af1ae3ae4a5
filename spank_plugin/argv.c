/* SPDX-License-Identifier: BSD-3-Clause */
/* A task's command line, in slurmstepd: puts the launcher before the program. */
#define _GNU_SOURCE
#include "stepd.h"
#include "wire.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void look_at_argv(spank_t spank)
{
	static char first[4096];
	char **argv = NULL;
	int argc = 0;

	step.program = "";
	if (spank_get_item(spank, S_JOB_ARGV, &argc, &argv) != ESPANK_SUCCESS || argc < 1)
		return;
	step.program = argv[0];
	if (strncmp(argv[0], LAUNCHER "/", strlen(LAUNCHER "/")) == 0 && strlen(argv[0]) < sizeof(first)) {
		strcpy(first, argv[0] + strlen(LAUNCHER "/"));
		argv[0][strlen(LAUNCHER)] = '\0';  /* in place: Slurm frees this string */
		step.launched = 1;
	} else if (strcmp(argv[0], LAUNCHER) != 0) {
		/* It was set for another component. */
		if (spank_unsetenv(spank, ENV_ARGV0) != ESPANK_SUCCESS)
			refuse("Slurm does not take " ENV_ARGV0 " out of the step's environment; tell the site's "
			       "administrator");
	} else {  /* a value longer than a path is not read: the task then fails with a reason */
		step.launched = spank_getenv(spank, ENV_ARGV0, first, sizeof(first)) == ESPANK_SUCCESS;
	}
	if (step.launched)
		step.program = first;
}

/* Returns argument 0 as slurmstepd would make it, for the caller to free: with --bcast to a directory, slurmstepd
 * appends a file name. NULL when Slurm does not tell the parts of that name, or when out of memory. */
static char *first_argument(spank_t spank, const char *argv0)
{
	uint32_t job_id, step_id;
	char node[256], *text;

	if (!argv0[0] || argv0[strlen(argv0) - 1] != '/')
		return strdup(argv0);
	if (spank_get_item(spank, S_JOB_ID, &job_id) != ESPANK_SUCCESS ||
	    spank_get_item(spank, S_JOB_STEPID, &step_id) != ESPANK_SUCCESS ||
	    spank_getenv(spank, "SLURMD_NODENAME", node, sizeof(node)) != ESPANK_SUCCESS ||
	    asprintf(&text, "%sslurm_bcast_%u.%u_%s", argv0, job_id, step_id, node) < 0)
		return NULL;
	return text;
}

/* Passes argument 0 to the launcher in a variable: argv[0] names the launcher itself. Returns 0 or -1. */
static int tell_argument(spank_t spank, const char *argv0)
{
	char *first = first_argument(spank, argv0);
	int rc = first && spank_setenv(spank, ENV_ARGV0, first, 1) == ESPANK_SUCCESS ? 0 : -1;

	free(first);
	return rc;
}

int put_launcher_first(spank_t spank)
{
	static char *launcher[] = { LAUNCHER };
	spank_err_t (*prepend)(spank_t, int, const char **) = dlsym(RTLD_DEFAULT, "spank_prepend_task_argv");
	char **argv = NULL, *first;
	int argc = 0;

	if (spank_setenv(spank, ENV_ENTRY, step.address, 1) != ESPANK_SUCCESS ||
	    (step.header.name[0] && spank_setenv(spank, ENV_SPEC, step.spec, 1) != ESPANK_SUCCESS) ||
	    (step.header.verbose[0] && spank_setenv(spank, ENV_VERBOSE, step.header.verbose, 1) != ESPANK_SUCCESS))
		return -1;
	if (step.header.multi_prog)
		return 0;
	if (step.launched)
		return tell_argument(spank, step.program);
	if (spank_get_item(spank, S_JOB_ARGV, &argc, &argv) != ESPANK_SUCCESS || argc < 1)
		return -1;
	if (prepend) {
		first = first_argument(spank, argv[0]);
		if (!first)
			return -1;
		if (strcmp(first, argv[0]) != 0)  /* slurmstepd would test the name of the launcher instead */
			argv[0] = first;  /* never freed: Slurm uses it until it executes the task */
		else
			free(first);
		return prepend(spank, 1, (const char **) launcher) == ESPANK_SUCCESS ? 0 : -1;
	}
	if (tell_argument(spank, argv[0]) < 0)
		return -1;
	argv[0] = launcher[0];  /* slurmstepd passes this array to execve(2), the last call of this process */
	return 0;
}
