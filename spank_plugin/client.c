/* SPDX-License-Identifier: BSD-3-Clause */
/* srun, sbatch and salloc: take the value of --container over from Slurm, say no to mistakes before
 * anything is submitted, hand the spec to the step in one variable. Runs as the user, in his process. */
#define _GNU_SOURCE
#include "client.h"
#include "header.h"
#include "multiprog.h"
#include "shim.h"
#include "wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void fail(const char *text)
{
	fprintf(stderr, "bollard: %s\n", text);
	exit(EXIT_BOLLARD);  /* one line is enough: returning -1 would make Slurm add two of its own */
}

/* A bundle that Slurm's own OCI code is set up to run stays Slurm's. */
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

/* The value of --container, taken away from Slurm; NULL when there is none, or when it stays Slurm's. */
static const char *take_over(void)
{
	const char *container = given.own;

	if (container)
		return container;
	container = slurm_option("container");  /* such strings live as long as this short process */
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

/* Slurm's own records (squeue, sacct) shall name the image. srun sends its option to slurmctld after this hook,
 * and to the nodes only after client_local_user_init(), which takes it away again; but in a heterogeneous step each
 * component has a copy. sbatch's goes to the node as well, where Slurm ignores it when there is no oci.conf, but
 * gives the job up when the working directory is missing. */
static void show_container(const char *spec, const char *cwd)
{
	struct header header;
	const char *options = read_header(spec, &header), *image, *end;
	char *path;

	if (!options || strncmp(options, "image=/", strlen("image=/")) != 0)
		return;  /* a container's name alone */
	image = options + strlen("image=");
	end = strchrnul(image, ' ');
	if (spank_context() == S_CTX_LOCAL ? has_components() : slurm_has_oci_conf() || access(cwd, X_OK) < 0)
		return;
	path = strndup(image, (size_t) (end - image));
	if (path && !strchr(path, '%'))
		(void) set_slurm_option("container", path);  /* else the records lack it */
	free(path);
}

/* No plugin can put the launcher before a batch script in sbatch, and a node without this plugin would run the
 * script on the host. So the script's standard input is named by a path that is there only where the plugin has
 * made it, and is the same file: without it slurmstepd ends the job before the script starts. */
static void guard_script(void)
{
	const char *input = slurm_option("input");
	char *guarded;

	if (!is_set(input) || input[0] != '/')  /* salloc has no such option; sbatch has made it absolute */
		return;
	if (asprintf(&guarded, GATE "%s", input) < 0 || set_slurm_option("input", guarded) < 0)
		fail("this Slurm does not let a plugin guard the batch script; "
		     "ask the site's administrator to run bollard's tests");
	free(guarded);
}

/* Options of Slurm's that do not go with a container. */
static void refuse_misfits(void)
{
	if (is_set(slurm_option("export-file")))
		fail("--container does not go with --export-file, which takes the container's own variable away; "
		     "use --export=NAME,...");
	/* Another process sends that step (26.05), so that srun can guard nothing. */
	if (is_set(slurm_option("async")))
		fail("--container does not go with --async yet; write `srun ... &`");
}

/* Slurm starts the command of a salloc where salloc runs, whatever a plugin does. */
static void warn_of_command(void)
{
	const char *command = salloc_command();

	if (command)
		fprintf(stderr, "bollard: warning: salloc runs %s on this host, not in the container; "
			"write salloc srun --container=IMAGE PROGRAM\n", command);
}

/* The first component's spec, on its way to the step. */
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

/* Called once for each component of a heterogeneous job. They share one environment, and a step's
 * process cannot tell which of them it is: one srun line has one container. */
int client_post_opt(spank_t spank)
{
	static int component;
	const char *container = take_over(), *chdir_to = slurm_option("chdir"), *first = getenv(ENV_SPEC);
	int interactive = given.around && is_set(slurm_option("interactive"));
	int multi_prog = is_set(slurm_option("multi-prog")), asked;
	char *spec = NULL, *here = NULL;

	(void) spank;
	if (given.own && !has_slurm_options())
		fail("this Slurm hides its options from plugins; ask the site's administrator to run bollard's tests");
	if (!chdir_to)
		chdir_to = here = getcwd(NULL, 0);
	if (!chdir_to)
		chdir_to = "/";
	if (container && !container[0])
		fail("--container has no value; name a SIF file, a squashfs file or a directory");
	container = image_asked_for(container);
	asked = interactive || container || is_named();
	if (asked)
		refuse_misfits();
	else
		refuse_idle_options();
	if (interactive)  /* the shell of a salloc: what that has found out counts */
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
	free(here);
	free(spec);
	free(given.own);
	given.own = NULL;  /* the next component has its own */
	return 0;
}

/* Put the launcher before each program here, just before the step is sent: a node without this plugin then ends
 * the task with a reason, or with "No such file", and never runs the program on the host. */
int client_local_user_init(spank_t spank)
{
	static char launcher[] = BOLLARD_PREFIX "/bollard-enter";
	const char *spec = getenv(ENV_SPEC), *copy;
	struct header header;
	char **argv = NULL, *text;
	int argc = 0;

	if (!spec)
		return 0;
	(void) reset_slurm_option("container");  /* where it was shown: see show_container() */
	if (spank_get_item(spank, S_JOB_ARGV, &argc, &argv) != ESPANK_SUCCESS || argc < 1)
		fail("Slurm hides the step's command from plugins; ask the site's administrator to run bollard's tests");
	if (!read_header(spec, &header))
		fail("the container's spec was changed by something between; run srun without it");
	if (header.multi_prog) {
		text = argc < 2 ? NULL : with_launcher(argv[1], launcher);
		if (!text)
			fail("Slurm hides the --multi-prog configuration; name the container's programs in separate steps");
		argv[1] = text;  /* srun's from here on, until it ends */
		return 0;
	}
	guard_components(argv);
	/* The file that --bcast has copied becomes the program after this hook (23.02.4 and later). */
	copy = slurm_version(spank) >= 2302 ? slurm_option("bcast") : NULL;
	if (setenv(ENV_ARGV0, is_set(copy) ? copy : argv[0], 1) < 0)
		fail("out of memory");
	if (!is_set(copy))
		argv[0] = launcher;
	else if (set_slurm_option("bcast", launcher) < 0)
		unsetenv(ENV_ARGV0);  /* the node puts the launcher first */
	return 0;
}
