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
#include <link.h>
#include <stdbool.h>
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
typedef int option_set_fn(void *opt, const char *name, const char *value, bool early);

static struct {
	char *own;                       /* --container, where Slurm has no such option */
	char *values[OPTION_COUNT];      /* of the options registered here */
	char *here;                      /* options of the container this process is in, for a step like it */
	char *around;                    /* the spec of the salloc that started this srun as its shell, or NULL */
} given;

static int fail(const char *text)
{
	fprintf(stderr, "bollard: %s\n", text);
	exit(EXIT_BOLLARD);  /* one line is enough: returning -1 would make Slurm add two of its own */
}

/* The last value counts; of an option that adds up, all do. Slurm may tell one twice. */
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

/* `which`: twice the option's row, and one more for the name that means its opposite; -1 for --container. */
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

/* 2205 for 22.05. */
static int slurm_version(spank_t spank)
{
	char *major = NULL, *minor = NULL;

	if (spank_get_item(spank, S_SLURM_VERSION_MAJOR, &major) != ESPANK_SUCCESS ||
	    spank_get_item(spank, S_SLURM_VERSION_MINOR, &minor) != ESPANK_SUCCESS)
		fail("Slurm does not tell its version to plugins");
	return atoi(major) * 100 + atoi(minor);
}

/* Slurm hands the options of an sbatch or salloc down to each srun inside; a container is asked for, not inherited. */
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

/* SRUN_CONTAINER and its like, which Slurm >= 21.08 knows by itself. Put where Slurm looks for options of plugins, so
 * that they count more than an #SBATCH line and less than the command line, as with Slurm's own. */
static void offer_environment_form(void)
{
	void *opt = dlsym(RTLD_DEFAULT, "opt");
	option_get_fn *get = (option_get_fn *) dlsym(RTLD_DEFAULT, "slurm_option_get");
	const char *variable = "SRUN_CONTAINER", *salloc;

	if (spank_context() == S_CTX_ALLOCATOR) {
		salloc = opt && get ? get(opt, "no-shell") : NULL;  /* which salloc alone has */
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

static int register_option(spank_t spank, int row, int opposite)
{
	struct spank_option option = { opposite ? OPTIONS[row].opposite : OPTIONS[row].slurm, OPTIONS[row].argument,
				       OPTIONS[row].help, OPTIONS[row].argument != NULL, 2 * row + opposite, on_option };

	if (opposite)
		option.usage = OPTIONS[row].against;
	return !option.name || spank_option_register(spank, &option) == ESPANK_SUCCESS ? 0 : -1;
}

int client_init(spank_t spank)
{
	struct spank_option container = { "container", "IMAGE", "run each task in the container IMAGE", 1, -1,
					  on_option };

	/* mpirun in a container (inside.c): its ranks belong in a container like that. */
	if (getenv("BOLLARD_AS_HERE") && getenv("BOLLARD_OPTIONS") && !(given.here = strdup(getenv("BOLLARD_OPTIONS"))))
		fail("out of memory");
	unsetenv("BOLLARD_AS_HERE");
	/* Inherited from a job around this one: Slurm's rule is that steps do not inherit a container. */
	unsetenv("SLURM_CONTAINER");
	if (getenv(ENV_SPEC) && !(given.around = strdup(getenv(ENV_SPEC))))
		fail("out of memory");
	unsetenv(ENV_SPEC);
	unsetenv(ENV_ARGV0);
	forget_options_around();
	/* Slurm >= 21.08 owns --container, and drops a second option of that name with a message. */
	if (slurm_version(spank) < 2108) {
		if (spank_option_register(spank, &container) != ESPANK_SUCCESS)
			return -1;
		offer_environment_form();
	}
	/* Where pyxis is loaded too, its options stay its own. */
	for (int i = 0; i < OPTION_COUNT; i++)
		if ((OPTIONS[i].ours || !pyxis_is_loaded()) &&
		    (register_option(spank, i, 0) < 0 || register_option(spank, i, 1) < 0))
			return -1;
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
	int any = 0, inside = getenv("BOLLARD_CONTAINER") != NULL;

	for (int i = 0; i < VARIABLE_COUNT; i++) {
		const char *value = getenv(VARIABLES[i].name);

		if (!value || !value[0] || given.values[VARIABLES[i].option] || VARIABLES[i].option == OPTION_IMAGE)
			continue;
		if (inside && strstr(VARIABLES[i].name, "_BIND"))
			continue;  /* there it tells what is bound, and asks for nothing */
		add(spec, VARIABLES[i].name, value);
		any = 1;
	}
	return any;
}

/* Whether the site limits where images lie: the runtime knows (site.py). */
static int site_limits_images(void)
{
	int fd = open(BOLLARD_PREFIX "/site.conf", O_RDONLY | O_CLOEXEC);
	char text[65536];
	ssize_t size = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	text[size > 0 ? size : 0] = '\0';
	return strstr(text, "\nimages-") || size == (ssize_t) sizeof(text) - 1;  /* a long one: ask */
}

static void add_identity(struct text *spec, const struct stat *st)
{
	char text[80];

	snprintf(text, sizeof(text), "%llu.%llu.%llu", (unsigned long long) st->st_ino,
		 (unsigned long long) st->st_size,
		 (unsigned long long) st->st_mtim.tv_sec * 1000000000ull + (unsigned long long) st->st_mtim.tv_nsec);
	add(spec, "id", text);
}

/* The absolute path of the image `container`, as far as that needs no knowledge of a user's home. */
static char *absolute(const char *container)
{
	char *image = NULL;

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
	return image;
}

/* The spec of `container`, which is NULL for one that another step has named: finished here for a plain image
 * and no further wishes, which is the common case and costs no interpreter; by the runtime otherwise. */
static char *make_spec(const char *container, const char *cwd, int multi_prog)
{
	struct text spec = { NULL, 0 };
	char *image = container ? absolute(container) : NULL, *full;
	const char *home = getenv("HOME");
	struct stat st;
	int plain = 0;

	if (image) {
		add(&spec, "image", image);
		add(&spec, "asked", container);
	}
	add(&spec, "cwd", cwd);
	add(&spec, "userhome", home ? home : "");
	plain = image && image[0] == '/' && plain_image(image, &st) && !site_limits_images();
	if (plain)
		add_identity(&spec, &st);
	if (add_variables(&spec))
		plain = 0;
	if (multi_prog)
		add(&spec, "multi-prog", "2");  /* see client_local_user_init() */
	if (given.here) {  /* finished spec text: spec.py, options */
		char *grown = realloc(spec.at, spec.size + strlen(given.here) + 2);

		if (!grown)
			fail("out of memory");
		spec.at = grown;
		spec.size += (size_t) sprintf(spec.at + spec.size, " %s", given.here);
		plain = 0;
	}
	for (int i = 0; i < OPTION_COUNT; i++)  /* verbose is the last row of the table: see stepd_init() */
		if (given.values[i] && i != OPTION_IMAGE) {
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
	container = strdup(container);
	if (!container)
		fail("out of memory");
	reset(opt, "container");
	unsetenv("SLURM_CONTAINER");
	return container;
}

/* slurm_option_get() has words for "not given" and "not for this command". */
static int is_set(const char *value)
{
	return value && strcmp(value, "unset") != 0 && strcmp(value, "invalid-context") != 0;
}

/* Whether this srun starts several components: parted by a colon, or those of a heterogeneous job. */
static int heterogeneous(void *opt, option_get_fn *get)
{
	const char *groups = get(opt, "het-group");
	static char line[1 << 16];
	int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? -1 : read(fd, line, sizeof(line));

	if (fd >= 0)
		close(fd);
	return (is_set(groups) && strpbrk(groups, ",-")) || size < 0 || size == sizeof(line) || memmem(line, (size_t) size, "\0:\0", 3) != NULL;
}

/* Slurm's own records (squeue, sacct) shall name the image. srun sends its option to slurmctld after this hook,
 * and to the nodes only after client_local_user_init(), which takes it away again; but in a heterogeneous step each
 * component has a copy. sbatch's goes to the node as well, where Slurm ignores it when there is no oci.conf, but
 * gives the job up when the working directory is missing. */
static void show_container(void *opt, option_get_fn *get, const char *spec, const char *cwd)
{
	option_set_fn *set = (option_set_fn *) dlsym(RTLD_DEFAULT, "slurm_option_set");
	const char *image = spec + strlen("image="), *end = strchrnul(spec, ' ');
	char *path;

	if (strncmp(spec, "image=/", strlen("image=/")) != 0)
		return;  /* a container's name alone */
	if (spank_context() == S_CTX_LOCAL ? heterogeneous(opt, get) : slurm_has_oci_conf() || access(cwd, X_OK) < 0)
		return;
	path = strndup(image, (size_t) (end - image));
	if (set && path && !strchr(path, '%'))
		set(opt, "container", path, false);
	free(path);
}

/* Whether two specs, or none, are the same but for --container-verbose, which stands last. */
static int same_container(const char *a, const char *b)
{
	const char *end_a = a ? strstr(a, " verbose=") : NULL, *end_b = b ? strstr(b, " verbose=") : NULL;
	size_t size_a = end_a ? (size_t) (end_a - a) : a ? strlen(a) : 0;
	size_t size_b = end_b ? (size_t) (end_b - b) : b ? strlen(b) : 0;

	return !a == !b && size_a == size_b && (!a || memcmp(a, b, size_a) == 0);
}

/* No plugin can put the launcher before a batch script in sbatch, and a node without this plugin would run the
 * script on the host. So the script's standard input is named by a path that is there only where the plugin has
 * made it, and is the same file: without it slurmstepd ends the job before the script starts. */
static void guard_script(void *opt, option_get_fn *get)
{
	option_set_fn *set = (option_set_fn *) dlsym(RTLD_DEFAULT, "slurm_option_set");
	const char *input = get(opt, "input");
	char *guarded;

	if (!is_set(input) || input[0] != '/')  /* salloc has no such option; sbatch has made it absolute */
		return;
	if (!set || asprintf(&guarded, GATE "%s", input) < 0 || set(opt, "input", guarded, false) < 0)
		fail("this Slurm does not let a plugin guard the batch script; "
		     "ask the site's administrator to run bollard's tests");
	free(guarded);
}

/* The image that was asked for by --container-image or a variable, where --container was not given. */
static const char *other_name_of_image(const char *container)
{
	const char *image = given.values[OPTION_IMAGE];

	if (container && image && strcmp(container, image) != 0)
		fail("--container and --container-image name two images; leave one of them out");
	for (int i = 0; !image && i < VARIABLE_COUNT; i++)
		if (VARIABLES[i].option == OPTION_IMAGE && !pyxis_is_loaded()) {
			image = getenv(VARIABLES[i].name);
			image = image && image[0] ? image : NULL;
		}
	return container ? container : image;
}

/* Whether a container is asked for by its name alone. */
static int is_named(void)
{
	int named = given.values[OPTION_NAME] != NULL;

	for (int i = 0; i < VARIABLE_COUNT; i++) {
		const char *name = VARIABLES[i].option == OPTION_NAME ? getenv(VARIABLES[i].name) : NULL;

		named |= name && name[0];
	}
	return named;
}

/* Options of a container that is not asked for are a mistake: the task would run on the host. */
static void refuse_idle_options(void)
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

/* Called once for each component of a heterogeneous job. They share one environment, and a step's
 * process cannot tell which of them it is: one srun line has one container. */
int client_post_opt(spank_t spank)
{
	static int component;
	void *opt = dlsym(RTLD_DEFAULT, "opt");
	option_get_fn *get = (option_get_fn *) dlsym(RTLD_DEFAULT, "slurm_option_get");
	const char *container = NULL, *chdir_to = NULL, *multi_prog = NULL, *first = getenv(ENV_SPEC);
	char *spec = NULL, *here = NULL;
	int interactive = 0, asked;

	(void) spank;
	if (opt && get) {
		container = take_over(opt, get);
		chdir_to = get(opt, "chdir");
		multi_prog = get(opt, "multi-prog");
		interactive = given.around && is_set(get(opt, "interactive"));
	} else if (given.own) {
		fail("this Slurm hides its options from plugins; ask the site's administrator to run bollard's tests");
	}
	if (!chdir_to)
		chdir_to = here = getcwd(NULL, 0);
	if (container && !container[0])
		fail("--container has no value; name a SIF file, a squashfs file or a directory");
	container = other_name_of_image(container);
	asked = interactive || container || is_named();
	if (asked && opt && get && is_set(get(opt, "export-file")))
		fail("--container does not go with --export-file, which takes the container's own variable away; "
		     "use --export=NAME,...");
	/* Another process sends that step (26.05), so that srun can guard nothing. */
	if (asked && opt && get && is_set(get(opt, "async")))
		fail("--container does not go with --async yet; write `srun ... &`");
	if (interactive)  /* the shell of a salloc: what that has found out counts */
		spec = strdup(given.around);
	else if (asked)
		spec = make_spec(container, chdir_to ? chdir_to : "/", is_set(multi_prog));
	else
		refuse_idle_options();
	if (asked && !spec)
		fail("out of memory");
	if (component++ == 0) {
		if (spec && strlen(spec) + sizeof(ENV_SPEC) >= SPEC_MAX)
			fail("what is asked of the container is longer than Linux lets a variable be; use fewer binds");
		if (spec && setenv(ENV_SPEC, spec, 1) < 0)
			fail("out of memory");
		if (spec && opt && get && spank_context() == S_CTX_ALLOCATOR)
			guard_script(opt, get);
		if (spec && opt && get && spank_context() == S_CTX_LOCAL && is_set(multi_prog) && heterogeneous(opt, get))
			fail("--multi-prog in a container does not go with components; start each with an srun of its own");
		if (spec && opt && get && !given.own)
			show_container(opt, get, spec, chdir_to ? chdir_to : "/");
	} else if ((spec || spank_context() == S_CTX_LOCAL) && !same_container(spec, first)) {
		fail("the components of one job step must all have the same --container; "
		     "start those that differ with an srun of their own");
	}
	free(here);
	free(spec);
	free(given.own);
	given.own = NULL;  /* the next component has its own */
	return 0;
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

/* No program has such a name, for the launcher is no directory: only stepd.c can make a command of it. */
static int name_below_launcher(void *options, void *known)
{
	struct place *place = known;
	char **argv = words_of(options, place->part) ? words_of(options, place->part)[place->at] : NULL, *name;

	if (argv && argv != place->argv && argv[0] && asprintf(&name, BOLLARD_PREFIX "/bollard-enter/%s", argv[0]) >= 0)
		argv[0] = name;
	return 0;
}

/* Of a heterogeneous step only the first component comes to the hook below. */
static void guard_components(char **argv)
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

/* Put the launcher before each program here, just before the step is sent: a node without this plugin then ends
 * the task with a reason, or with "No such file", and never runs the program on the host. */
int client_local_user_init(spank_t spank)
{
	static char launcher[] = BOLLARD_PREFIX "/bollard-enter";
	const char *spec = getenv(ENV_SPEC);
	void *opt = dlsym(RTLD_DEFAULT, "opt");
	option_get_fn *get = (option_get_fn *) dlsym(RTLD_DEFAULT, "slurm_option_get");
	option_set_fn *set = (option_set_fn *) dlsym(RTLD_DEFAULT, "slurm_option_set");
	option_reset_fn *reset = (option_reset_fn *) dlsym(RTLD_DEFAULT, "slurm_option_reset");
	char **argv = NULL, *text;
	const char *copy;
	int argc = 0;

	if (!spec)
		return 0;
	if (opt && reset)
		reset(opt, "container");
	if (spank_get_item(spank, S_JOB_ARGV, &argc, &argv) != ESPANK_SUCCESS || argc < 1)
		fail("Slurm hides the step's command from plugins; ask the site's administrator to run bollard's tests");
	if (strstr(spec, " multi-prog=")) {
		text = argc < 2 ? NULL : with_launcher(argv[1], launcher);
		if (!text)
			fail("Slurm hides the --multi-prog configuration; name the container's programs in separate steps");
		argv[1] = text;  /* srun's from here on, until it ends */
		return 0;
	}
	guard_components(argv);
	/* The file that --bcast has copied becomes the program after this hook (23.02.4 and later). */
	copy = opt && get && slurm_version(spank) >= 2302 ? get(opt, "bcast") : NULL;
	if (setenv(ENV_ARGV0, is_set(copy) ? copy : argv[0], 1) < 0)
		fail("out of memory");
	if (!is_set(copy))
		argv[0] = launcher;
	else if (!set || set(opt, "bcast", launcher, false) < 0)
		unsetenv(ENV_ARGV0);  /* the node puts the launcher first */
	return 0;
}
