/* SPDX-License-Identifier: BSD-3-Clause */
/* The pre-flight in srun, before the job queues: warns when the image's MPI does not connect the ranks by the step's
 * --mpi. Chooses --mpi where the user said nothing and the site lets bollard choose. runtime/preflight/ looks into
 * the image and makes the verdict; verdict.py explains its form. This file reads the verdict, from the cache if it
 * is there. Nothing here refuses a step: a failure leaves it as it is. */
#define _GNU_SOURCE
#include "client.h"
#include "first_look.h"
#include "program.h"
#include "python.h"
#include "site_settings.h"
#include "verdict.h"
#include "constants.h"

#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Returns the type that a value of --mpi means: "pmix" for pmix_v4 too; NULL for one about which nothing is known. */
static const char *type_of(const char *value)
{
	const char *slash = strchr(value, '/');  /* mpi/pmix */

	value = slash ? slash + 1 : value;
	if (strcmp(value, "pmix") == 0 || strncmp(value, "pmix_v", 6) == 0)
		return "pmix";
	return strcmp(value, "pmi2") == 0 ? "pmi2" : strcmp(value, "none") == 0 ? "none" : NULL;
}

/* Returns the number that Slurm's option `name` begins with; 0 when the option is not given. */
static long number_of(const char *name)
{
	const char *value = slurm_option(name);
	long number = is_set(value) ? strtol(value, NULL, 10) : 0;

	return number > 0 && number < INT32_MAX ? number : 0;
}

/* Returns how many tasks the step has, as far as its options tell. */
static long tasks(void)
{
	long all = number_of("ntasks"), nodes = number_of("nodes"), each = number_of("ntasks-per-node");
	long least = (nodes ? nodes : 1) * (each ? each : 1);

	return all > 1 ? all : least;
}

/* Stores in `path` the program's path if the task finds it on the host: below the working directory `cwd`, or in the
 * home directory. Returns 1, or 0 for a program of the image. */
static int is_on_host(const char *program, const char *cwd, char path[PATH_MAX])
{
	const char *home = getenv("HOME");
	size_t size = home && home[0] == '/' && home[1] ? strlen(home) : 0;
	int length;

	if (!strchr(program, '/') || (program[0] == '/' && (!size || strncmp(program, home, size) != 0 || program[size] != '/')))
		return 0;
	length = snprintf(path, PATH_MAX, "%s%s%s", program[0] == '/' ? "" : cwd, program[0] == '/' ? "" : "/", program);
	return length > 0 && length < PATH_MAX && access(path, R_OK) == 0;
}

/* Returns the family of a program on the host; NULL when it names no MPI library. */
static const char *family_of_file(const char *path)
{
	return names_library(path, "libmpi_abi.so") ? "abi" : wireup_of_file(path);
}

/* Returns the first type of the list `use` that this Slurm has, in a static buffer; NULL for none. */
static const char *first_offered(const char *use)
{
	static char type[16];

	for (; use && sscanf(use, "%15s", type) == 1; use = strchr(use, ' '), use += use != NULL)
		if (slurm_has_mpi(type))
			return type;
	return NULL;
}

/* What is asked of an image's verdict. The strings live as long as the answer is awaited. */
struct question {
	const char *image, *name;     /* its path, and as the user named it */
	const char *program;          /* a program of the image; "" for none, or for one that is not there */
	const char *family;           /* of a program on the host: family_of_file() */
	const char *how;              /* type_of() the step's --mpi */
	const char *shown;            /* the option or the setting that it comes from */
	long ranks;
	int said, chooses, hosts;     /* the user gave --mpi; the site lets bollard choose; the program is on the host */
};

/* Returns 1 when rank 0's launcher is sure to find the same (ranks.c): a program that names its library, in a step that
 * tells that library nothing. With PMIx it looks for MPICH's library, in fewer places than the verdict `text` does. */
static int launcher_finds(const struct question *ask, const char *family, const char *text)
{
	if (!family || strcmp(ask->how, "none") == 0)
		return family != NULL;
	return strcmp(ask->how, "pmix") == 0 && strcmp(family, "pmi2") == 0 && strstr(text, "\n" PREFLIGHT_USUAL "\n");
}

/* Prints the warning. `line` is a "bad" line of the verdict behind its type, `use` the types that work or NULL. */
static void warn(const struct question *ask, const char *line, const char *use)
{
	const char *what = strchr(line, ' '), *offered = first_offered(use);
	char end[64], cure[128] = "";

	if (!what)
		return;
	if (strncmp(line, "apart ", 6) == 0)
		snprintf(end, sizeof(end), "would run %ld jobs of 1 rank", ask->ranks);
	else
		snprintf(end, sizeof(end), "would end with an error");
	if (offered)
		snprintf(cure, sizeof(cure), "; use --mpi=%s", offered);
	else if (use)
		snprintf(cure, sizeof(cure), "; it needs --mpi=%.*s, which this Slurm does not have", (int) strcspn(use, " "), use);
	fprintf(stderr, "bollard: warning: %s has %s: %s %s%s\n", ask->name, what + 1, ask->shown, end, cure);
	if (setenv(ENV_TOLD, "1", 1) < 0)
		unsetenv(ENV_TOLD);  /* the launcher then says it a second time */
}

/* Starts this srun again with `type` in SLURM_MPI_TYPE. Slurm loads the plugin of its default type before plugins
 * see the options, and never loads another one. Nothing is submitted yet. Returns only on failure. */
static void start_again(const char *type)
{
	const char *conf = getenv("SLURM_CONF");
	FILE *line = fopen("/proc/self/cmdline", "re");
	char **argv = NULL, *word = NULL;
	size_t count = 0, size = 0;

	for (; line && getdelim(&word, &size, '\0', line) > 0; word = NULL, size = 0) {
		char **grown = realloc(argv, (count + 2) * sizeof(*argv));

		if (!grown)
			return;
		argv = grown;
		argv[count++] = word;
		argv[count] = NULL;
	}
	if (!count || setenv("SLURM_MPI_TYPE", type, 1) < 0)
		return;
	unsetenv(ENV_SPEC);
	unsetenv(ENV_TOLD);
	if (conf && strncmp(conf, "/proc/", strlen("/proc/")) == 0)  /* a descriptor of this process: without slurmd */
		unsetenv("SLURM_CONF");
	execv("/proc/self/exe", argv);
	unsetenv("SLURM_MPI_TYPE");
}

/* Chooses --mpi where the user said nothing. Returns when the site's default works, or none of the types that do. */
static void choose(const char *use, const char *how)
{
	char list[64];
	const char *offered = first_offered(use);

	if (use && snprintf(list, sizeof(list), " %s", use) > 0 && !strstr(list, how) && offered)
		start_again(offered);
}

/* Warns, or chooses --mpi, by the verdict `text`. */
static void judge(const struct question *ask, const char *text)
{
	const char *family = ask->hosts || !ask->program[0] ? ask->family : program_family(text, ask->program);
	int hosts = ask->hosts;
	char begin[64], *use, *bad;

	if (family && strcmp(family, PROGRAM_MISSING) == 0) {
		/* A mount shows it, most likely at the path that it has on the host: /scratch/me/app. Else it is not known. */
		if (ask->program[0] != '/' || access(ask->program, R_OK) < 0)
			return;
		family = family_of_file(ask->program);
		hosts = 1;
	}
	if (!ask->said && !ask->chooses && !family && hosts)
		return;
	if (family && !family[0])
		family = NULL;
	snprintf(begin, sizeof(begin), "use %s ", family ? family : "any");
	use = verdict_line(text, begin);
	snprintf(begin, sizeof(begin), "bad %s %s ", family ? family : "any", ask->how);
	bad = verdict_line(text, begin);
	if (ask->chooses)
		choose(use, ask->how);
	if (bad && (ask->said || family) && slurm_has_mpi(ask->how) && first_look_tells(launcher_finds(ask, family, text)))
		warn(ask, bad, use);
	free(bad);
	free(use);
}

/* Judges in the child that has looked into the image. */
static void judge_beside(const void *ask, const char *text)
{
	judge(ask, text);
}

/* Lets the runtime look into the image, and judges. Only a choice of --mpi has to be made before anything is submitted:
 * else the look runs beside srun. */
static void look_into(const struct question *ask)
{
	char *request, *text = NULL;
	int status = 0;

	if (strchr(ask->image, '\n') || strchr(ask->program, '\n') ||
	    asprintf(&request, "%s\n%s", ask->image, ask->hosts ? "" : ask->program) < 0)
		return;
	if (ask->chooses || first_look(request, judge_beside, ask) < 0)
		text = runtime_answer(python_look, request, &status);
	if (status == 0 && text && text[0])
		judge(ask, text);
	free(text);
	free(request);
}

void preflight(const char *image, const char *name, const char *cwd, int multi_prog)
{
	const char *said = is_given("mpi") ? slurm_option("mpi") : NULL, *standard = slurm_default_mpi();
	const char *program = program_word();
	struct question ask = { .image = image, .name = name, .ranks = tasks(), .said = is_set(said) };
	char path[PATH_MAX], shown[64], *text;

	ask.how = type_of(ask.said ? said : standard);
	ask.chooses = !ask.said && site_says("\n" SITE_CHOOSES_MPI);
	if (!ask.how || ask.ranks < 2 || getenv("I_MPI_PMI_LIBRARY"))  /* Intel MPI's own way: that library asks Slurm itself */
		return;
	ask.program = program && !multi_prog ? program : "";
	ask.hosts = is_on_host(ask.program, cwd, path);
	if (ask.hosts)
		ask.family = family_of_file(path);
	else if (ask.program[0] != '/' && strchr(ask.program, '/'))
		ask.program = "";  /* not found on the host: it is where the plan's mounts put it, or nowhere */
	if (!ask.said && !ask.chooses && !ask.family && (ask.hosts || !ask.program[0]))
		return;
	snprintf(shown, sizeof(shown), ask.said ? "--mpi=%.40s" : "MpiDefault=%.40s", ask.said ? said : standard);
	ask.shown = shown;
	text = cached_verdict(image);
	if (text && (ask.hosts || !ask.program[0] || program_family(text, ask.program)))
		judge(&ask, text);
	else
		look_into(&ask);
	free(text);
}
