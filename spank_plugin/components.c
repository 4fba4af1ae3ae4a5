/* SPDX-License-Identifier: BSD-3-Clause */
/* The components of a heterogeneous step. srun calls its hook for the first component only. */
#define _GNU_SOURCE
#include "client.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int has_components(void)
{
	const char *groups = slurm_option("het-group");
	FILE *line = fopen("/proc/self/cmdline", "re");
	char *word = NULL;
	size_t size = 0;
	int found = line == NULL || (is_set(groups) && strpbrk(groups, ",-"));

	while (!found && getdelim(&word, &size, '\0', line) > 0)
		found = strcmp(word, ":") == 0;
	found |= line && !found && !feof(line);  /* a line that cannot be read may have any word */
	free(word);
	if (line)
		fclose(line);
	return found;
}

/* Where srun keeps a component's argv: word `at` of its options (`part` -1), or of the options' part `part`. */
struct place {
	void *argv;
	int found, part, at;
};

static void **words_of(void *options, int part)
{
	return part < 0 ? options : ((void **) options)[part];
}

/* Finds the argv of the first component in its options, and stores the place. Returns 0, as slurm_list_for_each()
 * needs. `options` is Slurm's slurm_opt_t (src/common/slurm_opt.h). It begins with pointers to four parts, of which
 * a command has one; the common options follow. Up to 22.05 argv is among the first words of srun's part, since then
 * among those of the common options. */
static int look_for_argv(void *options, void *wanted)
{
	struct place *place = wanted;

	for (int part = -1; part < 4 && !place->found; part++)
		for (int at = 0; words_of(options, part) && at < (part < 0 ? 16 : 8) && !place->found; at++)
			if (words_of(options, part)[at] == place->argv)
				*place = (struct place) { place->argv, 1, part, at };
	return 0;
}

/* Puts the launcher's path and a slash before a component's program. Such a file cannot exist, because the launcher
 * is no directory: only argv.c on the node turns the name into a command. Returns 0, as slurm_list_for_each() needs. */
static int name_below_launcher(void *options, void *known)
{
	struct place *place = known;
	char **argv = words_of(options, place->part) ? words_of(options, place->part)[place->at] : NULL, *name;

	if (!argv || argv == place->argv || !argv[0])
		return 0;
	if (asprintf(&name, BOLLARD_PREFIX "/bollard-enter/%s", argv[0]) < 0)
		fail("out of memory");
	argv[0] = name;
	return 0;
}

void guard_components(char **argv)
{
	typedef int each_fn(void *list, int (*function)(void *item, void *arg), void *arg);
	void **list = dlsym(RTLD_DEFAULT, "opt_list");
	each_fn *each = (each_fn *) dlsym(RTLD_DEFAULT, "slurm_list_for_each");
	struct place place = { argv, 0, 0, 0 };

	if (!list || !*list)
		return;
	if (each)
		each(*list, look_for_argv, &place);
	if (!place.found)
		fail("this Slurm hides the commands of a heterogeneous step; start each component with an srun of its own");
	each(*list, name_below_launcher, &place);
}
