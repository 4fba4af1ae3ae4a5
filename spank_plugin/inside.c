/* SPDX-License-Identifier: BSD-3-Clause */
/* bollard-inside: a static program that is `srun`, `sbatch`, ... and `mpirun` in a container. It executes the host's
 * command with the host's loader and libraries from BOLLARD_VIEW, so it needs no C library of the image. Runs as the
 * user. */
#define _GNU_SOURCE
#include "host_slurm.h"  /* rendered by build.py */
#include "inside.h"
#include "program.h"
#include "switch.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_SIZE = 1 << 16 };

static int fail(const char *who, const char *text, const char *value, const char *hint)
{
	fprintf(stderr, "bollard: %s: %s%s; %s\n", who, text, value, hint);
	return EXIT_BOLLARD;
}

__attribute__((noreturn)) static void out_of_memory(void)
{
	fprintf(stderr, "bollard: out of memory; try again\n");
	exit(EXIT_BOLLARD);
}

static void set(const char *name, const char *value)
{
	if (setenv(name, value, 1) < 0)
		out_of_memory();
}

static int is_on(const char *variable)
{
	const char *value = getenv(variable);

	return value && means_yes(value);
}

static void hide(const char *name)
{
	const char *value = getenv(name);
	char hidden[64];

	snprintf(hidden, sizeof(hidden), HIDDEN "%s", name);
	if (value)
		set(hidden, value);
	unsetenv(name);
}

static int write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int done = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t) strlen(text);

	if (fd >= 0)
		close(fd);
	return done ? 0 : -1;
}

/* Writes "0 ..." of the id map `map` in the other direction, "OUTSIDE 0 1", to `text`. Returns 0, or -1 when no id
 * is 0 here or when 0 is root itself. */
static int opposite(const char *map, char *text, size_t size)
{
	unsigned inside, outside, count;
	FILE *file = fopen(map, "re");
	int found = 0;

	while (file && !found && fscanf(file, "%u %u %u", &inside, &outside, &count) == 3)
		found = inside == 0 && outside != 0;
	if (file)
		fclose(file);
	snprintf(text, size, "%u 0 1", found ? outside : 0);
	return found ? 0 : -1;
}

/* Gives root in the container (--container-remap-root) the user's own ids back, in a new user namespace: Slurm
 * accepts no other ids. When the kernel makes no namespace, Slurm's own message follows. */
static void be_oneself(void)
{
	char uid[64], gid[64];

	if (getuid() != 0 || opposite("/proc/self/uid_map", uid, sizeof(uid)) < 0 ||
	    opposite("/proc/self/gid_map", gid, sizeof(gid)) < 0 || unshare(CLONE_NEWUSER) < 0)
		return;
	(void) write_text("/proc/self/setgroups", "deny");  /* fails when the container's namespace has it already */
	if (write_text("/proc/self/uid_map", uid) < 0 || write_text("/proc/self/gid_map", gid) < 0)
		fprintf(stderr, "bollard: your own user id cannot be had back here; use Slurm's commands outside of a "
				"container with --container-remap-root\n");
}

/* Executes the host's command `path` with `argv`. Returns only on failure, with the exit status. */
static int start_host(const char *path, char **argv)
{
	static const char *const names[] = { HIDDEN_NAMES, NULL };
	char *program = NULL, **full;
	int argc = 0, at = 0;

	while (argv[argc])
		argc++;
	full = calloc((size_t) argc + 5, sizeof(*full));
	if (!full || asprintf(&program, "%s%s", BOLLARD_VIEW, path) < 0)
		out_of_memory();
	full[at++] = BOLLARD_VIEW HOST_LOADER;
	full[at++] = "--library-path";
	full[at++] = HOST_LIBRARIES;
	full[at++] = program;
	memcpy(full + at, argv + 1, (size_t) argc * sizeof(*full));
	for (const char *const *name = names; *name; name++)
		hide(*name);
	set("LD_PRELOAD", BOLLARD_VIEW "/bin/paths.so");
	be_oneself();
	execv(full[0], full);
	return fail(argv[0], "the host's command cannot be started here: ", strerror(errno),
		    "was something bound over " BOLLARD_VIEW "?");
}

static const char *host_path(const char *name)
{
	for (size_t i = 0; HOST_COMMANDS[i].name; i++)
		if (strcmp(HOST_COMMANDS[i].name, name) == 0)
			return HOST_COMMANDS[i].path;
	return NULL;
}

/* Finds the image's own program `name` in PATH, skipping this program, and writes its path to `file`. Returns 0, or
 * -1 when there is none. */
static int find_native(const char *name, char *file, size_t size)
{
	const char *path = getenv("PATH"), *at, *colon;
	struct stat own, other;

	if (stat("/proc/self/exe", &own) < 0)
		memset(&own, 0, sizeof(own));
	for (at = path ? path : ""; *at; at = colon + (*colon != '\0')) {
		colon = strchrnul(at, ':');
		if (snprintf(file, size, "%.*s/%s", (int) (colon - at), at, name) >= (int) size)
			continue;
		if (colon > at && stat(file, &other) == 0 && S_ISREG(other.st_mode) && access(file, X_OK) == 0 &&
		    (own.st_ino != other.st_ino || own.st_dev != other.st_dev))
			return 0;
	}
	return -1;
}

/* Passes the variable `name` to the new container as BOLLARDENV_NAME. Escapes $, `, \ and ": the runtime reads the
 * value as text between double quotes (environment.py, _override). */
static void set_for_container(const char *name)
{
	const char *value = getenv(name);
	char full[64], *quoted, *to;

	if (!value)
		return;
	quoted = to = malloc(2 * strlen(value) + 1);
	if (!quoted)
		out_of_memory();
	for (; *value; value++) {
		if (strchr("$`\\\"", *value))
			*to++ = '\\';
		*to++ = *value;
	}
	*to = '\0';
	snprintf(full, sizeof(full), "BOLLARDENV_%s", name);
	set(full, quoted);
	free(quoted);
}

/* Prepares the environment for the step that mpirun starts. BOLLARD_AS_HERE makes the plugin start it with the
 * options of this container. Variables that describe the current step are removed. */
static void set_environment(void)
{
	static const char *const of_the_step[] = {
		"SLURM_CPU_BIND", "SLURM_CPU_BIND_LIST", "SLURM_CPU_BIND_TYPE", "SLURM_CPU_BIND_VERBOSE",
		"SLURM_MEM_BIND", "SLURM_MEM_BIND_LIST", "SLURM_MEM_BIND_TYPE", "SLURM_MEM_BIND_VERBOSE",
		"SLURM_DISTRIBUTION", "SLURM_NNODES", "SLURM_TASKS_PER_NODE", "SLURM_NTASKS_PER_NODE",
	};

	set_for_container("PATH");  /* a new container starts with the image's PATH: environment.py */
	set_for_container("LD_LIBRARY_PATH");
	set("BOLLARD_AS_HERE", "1");
	if (!in_step())
		return;
	for (size_t i = 0; i < sizeof(of_the_step) / sizeof(*of_the_step); i++)
		unsetenv(of_the_step[i]);
}

/* A step started by srun holds its CPUs, so a step inside it must share them. In a batch script SLURM_STEP_ID is a
 * number of ten digits. */
int in_step(void)
{
	const char *step = getenv("SLURM_STEP_ID");

	return step && step[0] && strlen(step) < 10;
}

static int mpirun(char **argv, const char *name)
{
	const char *container = getenv("BOLLARD_CONTAINER"), *srun = host_path("srun"), *mpi;
	static char native[PATH_SIZE], program[PATH_SIZE];
	int argc = 0, have = find_native(name, native, sizeof(native)) == 0, at = 0, last = 0;
	struct launch launch = { 0 };
	char **full, *option = NULL;

	while (argv[argc])
		argc++;
	if (!is_on("BOLLARD_NO_MPIRUN") && getenv("SLURM_JOB_ID") && container && srun)
		launch = translate(argc, argv);
	else
		launch.native = 1;
	if (launch.native) {
		/* In a job it starts its helpers on the other nodes by srun; they must run in this container too. */
		if (getenv("SLURM_JOB_ID") && container) {
			set_environment();
			set("SRUN_CONTAINER", container);
		}
		if (have) {
			argv[0] = native;  /* hydra looks for its other programs in the directory of argv[0] */
			execv(native, argv);
		}
		return fail(name, "the image has none", have ? strerror(errno) : "", "name one of its programs");
	}
	if (launch.why[0]) {
		fprintf(stderr, "bollard: %s\n", launch.why);
		return EXIT_BOLLARD;
	}
	while (strcmp(launch.argv[last], "--") != 0)
		last++;
	if (strchr(launch.argv[last + 1], '/') ?
	    snprintf(program, sizeof(program), "%s", launch.argv[last + 1]) >= (int) sizeof(program) :
	    find_native(launch.argv[last + 1], program, sizeof(program)) < 0)
		program[0] = '\0';
	mpi = wireup_of(name, program, have ? native : "");
	full = calloc((size_t) (argc + last) + 80, sizeof(*full));
	if (!full || asprintf(&option, "--container=%s", container) < 0)
		out_of_memory();
	full[at++] = "srun";
	full[at++] = option;
	full[at++] = "--export=ALL";
	if (mpi && asprintf(&full[at++], "--mpi=%s", mpi) < 0)
		out_of_memory();
	if (in_step())
		full[at++] = "--overlap";
	for (char **word = launch.argv + 1; *word; word++)
		full[at++] = *word;
	if (is_on("BOLLARD_SHOW_MPIRUN")) {
		for (char **word = full; *word; word++)
			printf("%s%s", word == full ? "" : " ", *word);
		puts("");
		return 0;
	}
	set_environment();
	return start_host(srun, full);
}

int main(int argc, char **argv)
{
	const char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL, *name = slash ? slash + 1 : argc > 0 ? argv[0] : "";
	const char *path = host_path(name);

	if (strncmp(name, "mpi", 3) == 0 || strcmp(name, "orterun") == 0 || strcmp(name, "prterun") == 0)
		return mpirun(argv, name);
	if (!path)
		return fail(name, "not a command of Slurm's on this node", "",
			    "bollard-inside is started as srun, sbatch, ... in a container");
	return start_host(path, argv);
}
