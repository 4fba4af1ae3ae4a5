/* SPDX-License-Identifier: BSD-3-Clause */
/* Slurm's own option table, which srun, sbatch and salloc export. The functions are in libslurmfull. Their prototypes
 * (src/common/slurm_opt.h) are the same from Slurm 20.11 to 26.05. */
#define _GNU_SOURCE
#include "client.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <slurm/slurm.h>

typedef char *get_fn(void *opt, const char *name);
typedef bool isset_fn(void *opt, const char *name);
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

/* Returns Slurm's configuration as this process has read it; NULL when libslurmfull does not export it. The plugin is
 * compiled with the headers of this Slurm, and Slurm refuses a plugin of another release. */
static const slurm_conf_t *configuration(void)
{
	return (const slurm_conf_t *) dlsym(RTLD_DEFAULT, "slurm_conf");
}

const char *slurm_default_mpi(void)
{
	const slurm_conf_t *conf = configuration();

	return conf && conf->mpi_default && conf->mpi_default[0] ? conf->mpi_default : "none";
}

int slurm_has_mpi(const char *type)
{
	const slurm_conf_t *conf = configuration();
	const char *at = conf ? conf->plugindir : NULL, *colon;
	char path[PATH_MAX];
	int size;

	if (strcmp(type, "none") == 0)
		return 1;
	for (; at && *at; at = *colon ? colon + 1 : colon) {
		colon = strchrnul(at, ':');
		size = snprintf(path, sizeof(path), "%.*s/mpi_%s.so", (int) (colon - at), at, type);
		if (size > 0 && (size_t) size < sizeof(path) && access(path, F_OK) == 0)
			return 1;
	}
	return 0;
}

int is_set(const char *value)
{
	return value && strcmp(value, "unset") != 0 && strcmp(value, "invalid-context") != 0;
}

int is_given(const char *name)
{
	void *opt = dlsym(RTLD_DEFAULT, "opt");
	isset_fn *isset = (isset_fn *) dlsym(RTLD_DEFAULT, "slurm_option_isset");

	return opt && isset && isset(opt, name);
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
