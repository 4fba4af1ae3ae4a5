/* SPDX-License-Identifier: BSD-3-Clause */
/* srun, sbatch and salloc: takes the value of --container over from Slurm, and passes the spec to the step in one
 * variable. Mistakes are refused before anything is submitted. Runs as the user, in the user's process. */
#define _GNU_SOURCE
#include "client.h"
#include "first_look.h"
#include "header.h"
#include "multiprog.h"
#include "shim.h"
#include "site_settings.h"
#include "wire.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Returns 1 when `container` is an OCI bundle and Slurm's own OCI code is set up: Slurm then runs it. */
static int slurm_runs_it(const char *container)
{
	char *bundle;
	int yes;

	if (asprintf(&bundle, "%s/config.json", container) < 0)
		fail("out of memory");
	yes = access(bundle, F_OK) == 0 && slurm_has_oci_conf();
	free(bundle);
	return yes;
}

/* Returns the value of --container and removes the option from Slurm's table; NULL when there is none, or when Slurm
 * itself runs the container. */
static const char *take_over(void)
{
	const char *container = given.own;

	if (container)
		return container;
	container = slurm_option("container");  /* never freed: this process is short */
	if (!container || slurm_runs_it(container))
		return NULL;
	container = strdup(container);
	if (!container)
		fail("out of memory");
	if (reset_slurm_option("container") < 0)
		fail("this Slurm does not let a plugin take --container over; "
		     "ask the site's administrator to run its tests");
	unsetenv("SLURM_CONTAINER");
	return container;
}

/* Sets Slurm's option again, so that Slurm's records (squeue, sacct) name the image. srun sends the option to slurmctld
 * after this hook. It sends it to the nodes only after client_local_user_init(), which removes it again.
 *
 * Not in a heterogeneous step: there each component has a copy of the option. sbatch sends the option to the node too.
 * There Slurm ignores it without oci.conf, but fails the job when the working directory is missing. */
static void show_container(const char *spec, const char *cwd)
{
	struct header header;
	const char *options = read_header(spec, &header), *image, *end;
	char *path;

	if (!options || strncmp(options, "image=/", strlen("image=/")) != 0)
		return;  /* only the container's name is given */
	image = options + strlen("image=");
	end = strchrnul(image, ' ');
	if (spank_context() == S_CTX_LOCAL ? has_components() : slurm_has_oci_conf() || access(cwd, X_OK) < 0)
		return;
	path = strndup(image, (size_t) (end - image));
	if (path && !strchr(path, '%'))
		(void) set_slurm_option("container", path);  /* on failure the records do not name the image */
	free(path);
}

/* Guards a batch script. In sbatch no plugin can put the launcher before the script, and a node without this plugin
 * would run the script on the host. So the script's standard input gets a path through a descriptor that only the
 * plugin opens on the node. The path leads to the same file. Without the plugin, slurmstepd cannot open it and ends
 * the job before the script starts. */
static void guard_script(void)
{
	const char *input = slurm_option("input");
	char *guarded;

	if (!is_set(input) || input[0] != '/')  /* salloc has no such option; sbatch makes the path absolute */
		return;
	if (asprintf(&guarded, GATE "%s", input) < 0 || set_slurm_option("input", guarded) < 0)
		fail("this Slurm does not let a plugin guard the batch script; "
		     "ask the site's administrator to run bollard's tests");
	free(guarded);
}

/* fail() for options of Slurm that cannot be combined with a container. */
static void refuse_misfits(void)
{
	if (is_set(slurm_option("export-file")))
		fail("--container does not go with --export-file, which takes the container's own variable away; "
		     "use --export=NAME,...");
	/* Another process sends that step (Slurm 26.05), so srun cannot put the launcher before the program. */
	if (is_set(slurm_option("async")))
		fail("--container does not go with --async yet; write `srun ... &`");
}

/* Warns that salloc starts its command on this host: no plugin can change that. */
static void warn_of_command(void)
{
	const char *command = program_word();

	if (command)
		fprintf(stderr, "bollard: warning: salloc runs %s on this host, not in the container; "
			"write salloc srun --container=IMAGE PROGRAM\n", command);
}

/* Does the pre-flight for the image that the spec names. */
static void look_ahead(const char *spec, const char *container, const char *cwd, int multi_prog)
{
	struct header header;
	const char *at = read_header(spec, &header);
	char path[PATH_MAX];
	size_t size = 0;
	unsigned byte;

	if (!at || !container || strncmp(at, "image=/", strlen("image=/")) != 0)
		return;  /* another step has made the container */
	if (strstr(at, " mpi=host") || strstr(at, " mpi=auto"))
		return;  /* the node decides which MPI there is */
	for (at += strlen("image="); *at && *at != ' ' && size < sizeof(path) - 1; at++) {
		if (*at == '%' && sscanf(at + 1, "%2x", &byte) == 1) {
			path[size++] = (char) byte;
			at += 2;
		} else {
			path[size++] = *at;
		}
	}
	path[size] = '\0';
	preflight(path, container, cwd, multi_prog);
}

/* Passes the first component's spec to the step, in the environment variable ENV_SPEC. */
static void hand_over(const char *spec, const char *cwd, int multi_prog)
{
	if (strlen(spec) + sizeof(ENV_SPEC) >= SPEC_MAX)
		fail("the container's options are longer than Linux lets a variable be; use fewer binds");
	if (setenv(ENV_SPEC, spec, 1) < 0)
		fail("out of memory");
	if (spank_context() == S_CTX_ALLOCATOR) {
		guard_script();
		warn_of_command();
	}
	if (spank_context() == S_CTX_LOCAL && multi_prog && has_components())
		fail("--multi-prog in a container does not go with components; start each with an srun of its own");
	if (!given.own)
		show_container(spec, cwd);
}

/* Returns the directory that the tasks start in, for the caller to free. `asked` is the value of --chdir; Slurm
 * gives it the current directory by default, without symbolic links. For the current directory, returns $PWD if that
 * names it: a command line with $PWD in it then finds its files in the container, also through symbolic links. */
static char *start_directory(const char *asked)
{
	const char *named = getenv("PWD");
	char *current = getcwd(NULL, 0), *found;
	struct stat here, there;
	int is_current = current && (!asked || !strcmp(asked, current));

	if (is_current && named && named[0] == '/' && !strstr(named, "/..") && stat(named, &there) == 0 &&
	    stat(current, &here) == 0 && here.st_dev == there.st_dev && here.st_ino == there.st_ino)
		asked = named;
	else if (!asked)
		asked = current ? current : "/";
	found = strdup(asked);
	free(current);
	if (!found)
		fail("out of memory");
	return found;
}

/* Slurm calls this once for each component of a heterogeneous job. The components share one environment, and a
 * step's process cannot find out its component. So one srun line has one container. */
int client_post_opt(spank_t spank)
{
	static int component;
	const char *container = take_over(), *first = getenv(ENV_SPEC);
	int interactive = given.around && is_set(slurm_option("interactive"));
	int multi_prog = is_set(slurm_option("multi-prog")), asked;
	char *spec = NULL, *chdir_to, *program = NULL;

	(void) spank;
	if (given.own && !has_slurm_options())
		fail("this Slurm hides its options from plugins; ask the site's administrator to run bollard's tests");
	chdir_to = start_directory(slurm_option("chdir"));
	if (container && !container[0])
		fail("--container has no value; name a SIF file, a squashfs file or a directory");
	container = image_asked_for(container);
	/* An explicit container wins: the image is then a program in it. */
	if (spank_context() == S_CTX_LOCAL && !interactive && !container && !is_named() && !multi_prog)
		container = program = image_program(chdir_to);
	if (program && setenv(ENV_COMMAND, ACTION_RUN, 1) < 0)
		fail("out of memory");
	asked = interactive || container || is_named();
	if (asked)
		refuse_misfits();
	else
		refuse_idle_options();
	if (interactive)  /* the shell of a salloc: use the spec that salloc made */
		spec = strdup(given.around);
	else if (asked)
		spec = make_spec(container, chdir_to, multi_prog);
	if (asked && !spec)
		fail("out of memory");
	component++;
	if (component > 1 && (spec || spank_context() == S_CTX_LOCAL) && !same_container(spec, first))
		fail("the components of one job step must all have the same --container; "
		     "start those that differ with an srun of their own");
	if (component == 1 && spec)
		hand_over(spec, chdir_to, multi_prog);
	if (component == 1 && spec && spank_context() == S_CTX_LOCAL && !interactive && !program &&
	    !getenv("BOLLARD_CONTAINER"))
		look_ahead(spec, container, chdir_to, multi_prog);
	free(chdir_to);
	free(spec);
	free(program);
	free(given.own);
	given.own = NULL;  /* the next component has its own */
	return 0;
}

/* Puts the launcher before each program, just before srun sends the step. A node without this plugin then ends the
 * task with a reason, or with "No such file", and never runs the program on the host. */
int client_local_user_init(spank_t spank)
{
	static char launcher[] = BOLLARD_PREFIX "/bollard-enter";
	const char *spec = getenv(ENV_SPEC), *copy;
	struct header header;
	char **argv = NULL, *text;
	int argc = 0;

	if (!spec)
		return 0;
	first_look_sends();
	(void) reset_slurm_option("container");  /* show_container() may have set it */
	if (spank_get_item(spank, S_JOB_ARGV, &argc, &argv) != ESPANK_SUCCESS || argc < 1)
		fail("Slurm hides the step's command from plugins; ask the site's administrator to run bollard's tests");
	if (!read_header(spec, &header))
		fail("the container's spec was changed by something between; run srun without it");
	if (header.multi_prog) {
		text = argc < 2 ? NULL : with_launcher(argv[1], launcher);
		if (!text)
			fail("Slurm hides the --multi-prog configuration; name the container's programs in separate steps");
		argv[1] = text;  /* never freed: srun uses it until it ends */
		return 0;
	}
	guard_components(argv);
	/* With --bcast, srun makes the copied file the program after this hook (Slurm 23.02.4 and later). */
	copy = slurm_version(spank) >= 2302 ? slurm_option("bcast") : NULL;
	if (setenv(ENV_ARGV0, is_set(copy) ? copy : argv[0], 1) < 0)
		fail("out of memory");
	if (!is_set(copy))
		argv[0] = launcher;
	else if (set_slurm_option("bcast", launcher) < 0)
		unsetenv(ENV_ARGV0);  /* the node puts the launcher first */
	return 0;
}
