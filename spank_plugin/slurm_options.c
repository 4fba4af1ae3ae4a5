/* SPDX-License-Identifier: BSD-3-Clause */
/* Slurm's own option table, which srun, sbatch and salloc export. The functions are in libslurmfull. Their prototypes
 * (src/common/slurm_opt.h) are the same from Slurm 20.11 to 26.05. */
#define _GNU_SOURCE
#include "client.h"

#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef char *get_fn(void *opt, const char *name);
typedef int reset_fn(void *opt, const char *name);
typedef int set_fn(void *opt, const char *name, const char *value, bool early);

int has_slurm_options(void)
{
	return dlsym(RTLD_DEFAULT, "opt") && dlsym(RTLD_DEFAULT, "slurm_option_get");
}

const char *slurm_option(const char *name)
{
	void *opt = dlsym(RTLD_DEFAULT, "opt");
	get_fn *get = (get_fn *) dlsym(RTLD_DEFAULT, "slurm_option_get");

	return opt && get ? get(opt, name) : NULL;
}

int set_slurm_option(const char *name, const char *value)
{
	void *opt = dlsym(RTLD_DEFAULT, "opt");
	set_fn *set = (set_fn *) dlsym(RTLD_DEFAULT, "slurm_option_set");

	return opt && set ? set(opt, name, value, false) : -1;
}

int reset_slurm_option(const char *name)
{
	void *opt = dlsym(RTLD_DEFAULT, "opt");
	reset_fn *reset = (reset_fn *) dlsym(RTLD_DEFAULT, "slurm_option_reset");

	if (!opt || !reset)
		return -1;
	reset(opt, name);
	return 0;
}

int is_set(const char *value)
{
	return value && strcmp(value, "unset") != 0 && strcmp(value, "invalid-context") != 0;
}

const char *program_word(void)
{
	static char *command;
	char *word = NULL;
	size_t size = 0;
	int at = 0, components = 0;
	FILE *line = spank_context() == S_CTX_LOCAL || dlsym(RTLD_DEFAULT, "saopt")  /* only salloc has it */
		? fopen("/proc/self/cmdline", "re") : NULL;

	if (!line)
		return NULL;
	free(command);
	command = NULL;
	/* Slurm has read its options, so the first other word is at optind; but not when colons separate components. */
	for (; getdelim(&word, &size, '\0', line) > 0; at++) {
		components |= at < optind && strcmp(word, ":") == 0;
		if (at == optind && !components && strcmp(word, ":") != 0)
			command = strdup(word);
	}
	free(word);
	fclose(line);
	return command;
}

int slurm_version(spank_t spank)
{
	char *major = NULL, *minor = NULL;

	if (spank_get_item(spank, S_SLURM_VERSION_MAJOR, &major) != ESPANK_SUCCESS ||
	    spank_get_item(spank, S_SLURM_VERSION_MINOR, &minor) != ESPANK_SUCCESS)
		fail("Slurm does not tell its version to plugins");
	return atoi(major) * 100 + atoi(minor);
}
