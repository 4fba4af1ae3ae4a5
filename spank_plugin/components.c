/* SPDX-License-Identifier: BSD-3-Clause */
/* The components of a heterogeneous step: srun's hook runs for the first alone. */
#define _GNU_SOURCE
#include "client.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int has_components(void)
{
	const char *groups = slurm_option("het-group");
	static char line[1 << 16];
	int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? -1 : read(fd, line, sizeof(line));

	if (fd >= 0)
		close(fd);
	return (is_set(groups) && strpbrk(groups, ",-")) || size < 0 || size == sizeof(line) ||
	       memmem(line, (size_t) size, "\0:\0", 3) != NULL;
}

/* Where srun keeps a component's argv: word `at` of its options, or of their part `part`. */
struct place {
	void *argv;
	int found, part, at;
};

static void **words_of(void *options, int part)
{
	return part < 0 ? options : ((void **) options)[part];
}

/* Slurm's own slurm_opt_t (src/common/slurm_opt.h): four parts, of which a command has one, then the common
 * options. argv is among the first words of the part for srun up to 22.05, of the common ones since. */
static int look_for_argv(void *options, void *wanted)
{
	struct place *place = wanted;

	for (int part = -1; part < 4 && !place->found; part++)
		for (int at = 0; words_of(options, part) && at < (part < 0 ? 16 : 8) && !place->found; at++)
			if (words_of(options, part)[at] == place->argv)
				*place = (struct place) { place->argv, 1, part, at };
	return 0;
}

/* No program has such a name, for the launcher is no directory: only argv.c can make a command of it. */
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
