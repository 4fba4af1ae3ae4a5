/* SPDX-License-Identifier: BSD-3-Clause */
/* srun, sbatch and salloc: take the value of --container over from Slurm, say no to mistakes before
 * anything is submitted, hand the spec to the step in one variable. Runs as the user, in his process. */
#define _GNU_SOURCE
#include "multiprog.h"
#include "options.h"  /* rendered from runtime/options.py by build.py */
#include "plain.h"
#include "shim.h"
#include "wire.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* Slurm's own option table, exported by srun, sbatch and salloc; prototypes unchanged 20.11 to 26.05
 * (src/common/slurm_opt.h). The calls live in libslurmfull. */
typedef char *option_get_fn(void *opt, const char *name);
typedef int option_reset_fn(void *opt, const char *name);

static struct {
	char *own;                       /* --container, where Slurm has no such option */
	char *values[OPTION_COUNT];      /* of the options registered here */
	char *here;                      /* options of the container this process is in, for a step like it */
} given;

static int fail(const char *text)
{
	fprintf(stderr, "bollard: %s\n", text);
	exit(EXIT_BOLLARD);  /* one line is enough: returning -1 would make Slurm add two of its own */
}

static void keep_value(char **slot, const char *value)
{
	free(*slot);
	*slot = strdup(value ? value : "1");
	if (!*slot)
		fail("out of memory");
}

static int on_option(int which, const char *value, int remote)
{
	if (!remote)
		keep_value(which < 0 ? &given.own : &given.values[which], value);
	return 0;
}

/* 2205 for 22.05. */
static int slurm_version(spank_t spank)
{
	char *major = NULL, *minor = NULL;

	if (spank_get_item(spank, S_SLURM_VERSION_MAJOR, &major) != ESPANK_SUCCESS ||
	    spank_get_item(spank, S_SLURM_VERSION_MINOR, &minor) != ESPANK_SUCCESS)
		fail("Slurm does not tell its version to plugins");
	return atoi(major) * 100 + atoi(minor);
}

int client_init(spank_t spank)
{
	struct spank_option container = { "container", "IMAGE", "run each task in the container IMAGE", 1, -1,
					  on_option };

	/* mpirun in a container (inside.c): its ranks belong in a container like that. */
	if (getenv("BOLLARD_AS_HERE") && getenv("BOLLARD_OPTIONS"))
		keep_value(&given.here, getenv("BOLLARD_OPTIONS"));
	unsetenv("BOLLARD_AS_HERE");
	/* Inherited from a job around this one: Slurm's rule is that steps do not inherit a container. */
	unsetenv("SLURM_CONTAINER");
	unsetenv(ENV_SPEC);
	/* Slurm >= 21.08 owns --container, and drops a second option of that name with a message. */
	if (slurm_version(spank) < 2108 && spank_option_register(spank, &container) != ESPANK_SUCCESS)
		return -1;
	for (int i = 0; i < OPTION_COUNT; i++) {
		struct spank_option option = { OPTIONS[i].slurm, OPTIONS[i].argument, OPTIONS[i].help,
					       OPTIONS[i].argument != NULL, i, on_option };

		if (option.name && spank_option_register(spank, &option) != ESPANK_SUCCESS)
			return -1;
	}
	return 0;
}

/* A growing spec: "name=value" parted by spaces, with %XX for all that is not plain text. */
struct text {
	char *at;
	size_t size;
};

static void add(struct text *spec, const char *name, const char *value)
{
	size_t need = spec->size + strlen(name) + 3 * strlen(value) + 3;
	char *grown = realloc(spec->at, need);

	if (!grown)
		fail("out of memory");
	spec->at = grown;
	spec->size += (size_t) sprintf(spec->at + spec->size, "%s%s=", spec->size ? " " : "", name);
	for (const unsigned char *c = (const unsigned char *) value; *c; c++)
		spec->size += (size_t) sprintf(spec->at + spec->size,
					       *c <= ' ' || *c == '%' || *c >= 0x7f ? "%%%02X" : "%c", *c);
}

/* The runtime's parser says what is wrong with what was asked, or returns the spec in full. */
static char *checked(const char *spec)
{
	int ends[2], status = 0;
	size_t size = 0, room = 0;
	char why[1024] = "", *text = NULL;
	ssize_t n;
	pid_t pid;

	fflush(NULL);
	if (pipe2(ends, O_CLOEXEC) < 0 || (pid = fork()) < 0)
		fail("cannot start the check of --container: too many processes or open files; end some, and try again");
	if (pid == 0) {
		int verdict = python_check(spec, ends[1], why, sizeof(why));

		if (why[0])
			fprintf(stderr, "bollard: %s\n", why);
		_exit(verdict == 0 ? 0 : EXIT_BOLLARD);
	}
	close(ends[1]);
	do {
		if (room - size < 2) {
			char *grown = realloc(text, room += 65536);

			if (!grown)
				fail("out of memory");
			text = grown;
		}
		n = read(ends[0], text + size, room - size - 1);
		size += n > 0 ? (size_t) n : 0;
	} while (n > 0 || (n < 0 && errno == EINTR));
	close(ends[0]);
	text[size] = '\0';
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (status != 0 || size == 0) {
		free(text);
		exit(EXIT_BOLLARD);  /* it has told the reason */
	}
	return text;
}

/* The options' environment forms; whether any was there. */
static int add_variables(struct text *spec)
{
	int any = 0;

	for (int i = 0; i < VARIABLE_COUNT; i++) {
		const char *value = getenv(VARIABLES[i].name);

		if (!value || !value[0] || (VARIABLES[i].option >= 0 && given.values[VARIABLES[i].option]))
			continue;
		add(spec, VARIABLES[i].name, value);
		any = 1;
	}
	return any;
}

static void add_identity(struct text *spec, const struct stat *st)
{
	char text[80];

	snprintf(text, sizeof(text), "%llu.%llu.%llu", (unsigned long long) st->st_ino,
		 (unsigned long long) st->st_size,
		 (unsigned long long) st->st_mtim.tv_sec * 1000000000ull + (unsigned long long) st->st_mtim.tv_nsec);
	add(spec, "id", text);
}

/* The spec of `container`: finished here for a plain image and no further wishes, which is the
 * common case and costs no interpreter; by the runtime otherwise. */
static char *make_spec(const char *container, const char *cwd, int multi_prog)
{
	struct text spec = { NULL, 0 };
	char *image = NULL, *full;
	const char *home = getenv("HOME");
	struct stat st;
	int plain = 1;

	if (container[0] != '/' && container[0] != '~' && !strstr(container, "://")) {
		char *here = getcwd(NULL, 0);

		if (!here || asprintf(&image, "%s/%s", here, container) < 0)
			fail("the current directory cannot be found; change to one that exists");
		free(here);
	} else {
		image = strdup(container);
	}
	if (!image)
		fail("out of memory");
	add(&spec, "image", image);
	add(&spec, "asked", container);
	add(&spec, "cwd", cwd);
	add(&spec, "userhome", home ? home : "");
	plain = image[0] == '/' && plain_image(image, &st);
	if (plain)
		add_identity(&spec, &st);
	if (add_variables(&spec))
		plain = 0;
	if (multi_prog)
		add(&spec, "multi-prog", "1");
	if (given.here) {  /* finished spec text of the container around this process: spec.py, options */
		char *grown = realloc(spec.at, spec.size + strlen(given.here) + 2);

		if (!grown)
			fail("out of memory");
		spec.at = grown;
		spec.size += (size_t) sprintf(spec.at + spec.size, " %s", given.here);
	}
	for (int i = 0; i < OPTION_COUNT; i++)  /* verbose is the last row of the table: see stepd_init() */
		if (given.values[i]) {
			add(&spec, OPTIONS[i].name, given.values[i]);
			plain = 0;
		}
	free(image);
	/* In a container the image's path is another one, and Python may be the image's: the node decides. */
	if (plain || getenv("BOLLARD_CONTAINER"))
		return spec.at;
	full = checked(spec.at);
	free(spec.at);
	return full;
}

/* A bundle that Slurm's own OCI code is set up to run stays Slurm's. */
static int slurm_runs_it(const char *container)
{
	char *bundle = NULL;
	int yes = asprintf(&bundle, "%s/config.json", container) >= 0 && access(bundle, F_OK) == 0 && slurm_has_oci_conf();

	free(bundle);
	return yes;
}

/* The value of --container, taken away from Slurm; NULL when there is none, or when it stays Slurm's. */
static const char *take_over(void *opt, option_get_fn *get)
{
	option_reset_fn *reset = (option_reset_fn *) dlsym(RTLD_DEFAULT, "slurm_option_reset");
	const char *container = given.own;

	if (container)
		return container;
	container = get(opt, "container");  /* such strings live as long as this short process */
	if (!container || slurm_runs_it(container))
		return NULL;
	if (!reset)
		fail("this Slurm does not let a plugin take --container over; "
		     "ask the site's administrator to run its tests");
	reset(opt, "container");
	unsetenv("SLURM_CONTAINER");
	return container;
}

/* slurm_option_get() has words for "not given" and "not for this command". */
static int is_set(const char *value)
{
	return value && strcmp(value, "unset") != 0 && strcmp(value, "invalid-context") != 0;
}

/* Whether two specs, or none, are the same but for --container-verbose, which stands last. */
static int same_container(const char *a, const char *b)
{
	const char *end_a = a ? strstr(a, " verbose=") : NULL, *end_b = b ? strstr(b, " verbose=") : NULL;
	size_t size_a = end_a ? (size_t) (end_a - a) : a ? strlen(a) : 0;
	size_t size_b = end_b ? (size_t) (end_b - b) : b ? strlen(b) : 0;

	return !a == !b && size_a == size_b && (!a || memcmp(a, b, size_a) == 0);
}

/* Called once for each component of a heterogeneous job. They share one environment, and a step's
 * process cannot tell which of them it is: one srun line has one container. */
int client_post_opt(spank_t spank)
{
	static int component;
	void *opt = dlsym(RTLD_DEFAULT, "opt");
	option_get_fn *get = (option_get_fn *) dlsym(RTLD_DEFAULT, "slurm_option_get");
	const char *container = NULL, *chdir_to = NULL, *multi_prog = NULL, *first = getenv(ENV_SPEC);
	char *spec = NULL, *here = NULL;

	(void) spank;
	if (opt && get) {
		container = take_over(opt, get);
		chdir_to = get(opt, "chdir");
		multi_prog = get(opt, "multi-prog");
	} else if (given.own) {
		fail("this Slurm hides its options from plugins; ask the site's administrator to run bollard's tests");
	}
	if (!chdir_to)
		chdir_to = here = getcwd(NULL, 0);
	if (container && opt && get && is_set(get(opt, "export-file")))
		fail("--container does not go with --export-file, which takes the container's own variable away; "
		     "use --export=NAME,...");
	if (container && !container[0])
		fail("--container has no value; name a SIF file, a squashfs file or a directory");
	if (container)
		spec = make_spec(container, chdir_to ? chdir_to : "/", is_set(multi_prog));
	if (component++ == 0) {
		if (spec && strlen(spec) + sizeof(ENV_SPEC) >= SPEC_MAX)
			fail("what is asked of the container is longer than Linux lets a variable be; use fewer binds");
		if (spec && setenv(ENV_SPEC, spec, 1) < 0)
			fail("out of memory");
	} else if ((spec || spank_context() == S_CTX_LOCAL) && !same_container(spec, first)) {
		fail("the components of one job step must all have the same --container; "
		     "start those that differ with an srun of their own");
	}
	free(here);
	free(spec);
	return 0;
}

/* Before Slurm 23.11 no plugin can reach the argv of a --multi-prog task on the node, but srun shows
 * the configuration's text here, just before it is sent: put the launcher before each program. */
int client_local_user_init(spank_t spank)
{
	const char *spec = getenv(ENV_SPEC);
	char **argv = NULL, *text;
	int argc = 0;

	if (!spec || !strstr(spec, " multi-prog=") || slurm_version(spank) >= 2311)
		return 0;
	if (spank_get_item(spank, S_JOB_ARGV, &argc, &argv) != ESPANK_SUCCESS || argc < 2)
		fail("Slurm hides the --multi-prog configuration; name the container's programs in separate steps");
	text = with_launcher(argv[1], BOLLARD_PREFIX "/bollard-enter");
	if (!text)
		fail("out of memory");
	argv[1] = text;  /* srun's from here on, until it ends */
	return 0;
}
