/* SPDX-License-Identifier: BSD-3-Clause */
/* The options of a container: those registered with Slurm, and the environment variables that stand for them. */
#define _GNU_SOURCE
#include "client.h"
#include "wire.h"

#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct given given;

/* Stores a copy of `value` in `slot`. With `between` it appends it to the earlier values; else the last value
 * counts. Slurm may report one value twice. */
static void keep_value(char **slot, const char *value, const char *between)
{
	char *before = *slot, *text = NULL;

	if (before && between && strcmp(before, value) == 0)
		return;
	if ((before && between ? asprintf(&text, "%s%s%s", before, between, value) : asprintf(&text, "%s", value)) < 0)
		fail("out of memory");
	free(before);
	*slot = text;
}

/* Slurm's callback for an option. `which` is twice the option's row, plus 1 for the name of its opposite; -1 for
 * --container. `remote` is 1 in slurmstepd. Returns 0. */
static int on_option(int which, const char *value, int remote)
{
	if (remote)
		return 0;
	if (which < 0)
		keep_value(&given.own, value ? value : "", NULL);
	else
		keep_value(&given.values[which / 2], value ? value : which % 2 ? "0" : "1", OPTIONS[which / 2].between);
	return 0;
}

/* Removes the variables by which Slurm passes the options of an sbatch or salloc to each srun inside: steps do not
 * inherit the container. */
static void forget_options_around(void)
{
	static const char *const begins[] = { "SLURM_SPANK__SLURM_SPANK_OPTION_bollard_", "_SLURM_SPANK_OPTION_bollard_" };
	char name[256];

	for (char **at = environ; *at; ) {
		const char *equals = strchr(*at, '=');
		int ours = equals && (size_t) (equals - *at) < sizeof(name) &&
			   (strncmp(*at, begins[0], strlen(begins[0])) == 0 ||
			    strncmp(*at, begins[1], strlen(begins[1])) == 0);

		if (ours) {
			snprintf(name, sizeof(name), "%.*s", (int) (equals - *at), *at);
			ours = unsetenv(name) == 0;
		}
		at = ours ? environ : at + 1;
	}
}

/* Passes SRUN_CONTAINER, SBATCH_CONTAINER or SALLOC_CONTAINER to Slurm as an option of a plugin; Slurm >= 21.08
 * reads them itself. Such a value overrides an #SBATCH line, and the command line overrides it, as with Slurm's own
 * variables. */
static void offer_environment_form(void)
{
	const char *variable = "SRUN_CONTAINER", *salloc;

	if (spank_context() == S_CTX_ALLOCATOR) {
		salloc = slurm_option("no-shell");  /* only salloc has this option */
		variable = salloc && strcmp(salloc, "invalid-context") != 0 ? "SALLOC_CONTAINER" : "SBATCH_CONTAINER";
	}
	if (getenv(variable) && setenv("SLURM_SPANK__SLURM_SPANK_OPTION_bollard_container", getenv(variable), 1) < 0)
		fail("out of memory");
}

static int look_for_pyxis(struct dl_phdr_info *info, size_t size, void *found)
{
	(void) size;
	*(int *) found |= strstr(info->dlpi_name, "spank_pyxis.so") != NULL;
	return 0;
}

static int pyxis_is_loaded(void)
{
	int found = 0;

	dl_iterate_phdr(look_for_pyxis, &found);
	return found;
}

const char *variable_of(int i)
{
	const char *value = getenv(VARIABLES[i].name);
	int is_pyxis = strncmp(VARIABLES[i].name, "PYXIS_", strlen("PYXIS_")) == 0 ||
		       strncmp(VARIABLES[i].name, "ENROOT_", strlen("ENROOT_")) == 0;
	int theirs = value && is_pyxis && pyxis_is_loaded();

	return value && value[0] && !theirs ? value : NULL;
}

static int register_option(spank_t spank, int row, int opposite)
{
	struct spank_option option = { opposite ? OPTIONS[row].opposite : OPTIONS[row].slurm, OPTIONS[row].argument,
				       OPTIONS[row].help, OPTIONS[row].argument != NULL, 2 * row + opposite, on_option };

	if (opposite)
		option.usage = OPTIONS[row].against;
	return !option.name || spank_option_register(spank, &option) == ESPANK_SUCCESS ? 0 : -1;
}

/* Returns 1 when `container` is the value of one of Slurm's variables: an option on the command line then overrides
 * it. */
static int is_from_environment(const char *container)
{
	static const char *const names[] = { "SRUN_CONTAINER", "SBATCH_CONTAINER", "SALLOC_CONTAINER" };

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (getenv(names[i]) && strcmp(getenv(names[i]), container) == 0)
			return 1;
	return 0;
}

const char *image_asked_for(const char *container)
{
	const char *image = given.values[OPTION_IMAGE];

	if (image && !image[0])
		fail("--container-image has no value; name a SIF file, a squashfs file or a directory");
	if (container && image && is_from_environment(container))
		return image;
	if (container && image && strcmp(container, image) != 0)
		fail("--container and --container-image name two images; leave one of them out");
	for (int i = 0; !image && i < VARIABLE_COUNT; i++)
		if (VARIABLES[i].option == OPTION_IMAGE)
			image = variable_of(i);
	return container ? container : image;
}

int is_named(void)
{
	int named = given.values[OPTION_NAME] != NULL;

	for (int i = 0; i < VARIABLE_COUNT; i++)
		named |= VARIABLES[i].option == OPTION_NAME && variable_of(i);
	return named;
}

void refuse_idle_options(void)
{
	char line[256];

	for (int i = 0; i < OPTION_COUNT; i++)
		if (given.values[i] && i != OPTION_VERBOSE) {
			snprintf(line, sizeof(line), "--%s without a container; add --container=IMAGE",
				 given.values[i][0] == '0' && OPTIONS[i].opposite ? OPTIONS[i].opposite
										   : OPTIONS[i].slurm);
			fail(line);
		}
}

int client_init(spank_t spank)
{
	struct spank_option container = { "container", "IMAGE", "run each task in the container IMAGE", 1, -1,
					  on_option };

	/* mpirun in a container (inside.c) sets BOLLARD_AS_HERE: its ranks get a container with the same options. */
	if (getenv("BOLLARD_AS_HERE") && getenv("BOLLARD_OPTIONS") && !(given.here = strdup(getenv("BOLLARD_OPTIONS"))))
		fail("out of memory");
	unsetenv("BOLLARD_AS_HERE");
	/* Set by a job around this one. Slurm's rule is that steps do not inherit a container. */
	unsetenv("SLURM_CONTAINER");
	if (getenv(ENV_SPEC) && !(given.around = strdup(getenv(ENV_SPEC))))
		fail("out of memory");
	unsetenv(ENV_SPEC);
	unsetenv(ENV_ARGV0);
	unsetenv(ENV_COMMAND);
	unsetenv(ENV_TOLD);
	forget_options_around();
	if (spank_context() == S_CTX_ALLOCATOR)
		warn_of_image_script();
	/* Slurm >= 21.08 has --container itself, and refuses a second option of that name with a message. */
	if (slurm_version(spank) < 2108) {
		if (spank_option_register(spank, &container) != ESPANK_SUCCESS)
			return -1;
		offer_environment_form();
	}
	/* When pyxis is loaded too, it keeps the options of its names. */
	for (int i = 0; i < OPTION_COUNT; i++)
		if ((OPTIONS[i].ours || !pyxis_is_loaded()) &&
		    (register_option(spank, i, 0) < 0 || register_option(spank, i, 1) < 0))
			return -1;
	return 0;
}
