/* SPDX-License-Identifier: BSD-3-Clause */
/* Makes the spec as text (runtime/request/spec_text.py) from the options and variables. Runs as the user, in the
 * client. */
#define _GNU_SOURCE
#include "client.h"
#include "header.h"
#include "image_probe.h"
#include "python.h"
#include "site_settings.h"
#include "switch.h"
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* A spec that grows: "name=value" pairs separated by a space. %XX stands for a byte that is not printable ASCII, a
 * space, % or VALUE_MARK. */
struct text {
	char *at;
	size_t size;
};

/* Makes room for `more` bytes and a NUL. */
static void make_room(struct text *spec, size_t more)
{
	char *grown = realloc(spec->at, spec->size + more + 1);

	if (!grown)
		fail("out of memory");
	spec->at = grown;
}

static void put(struct text *spec, const char *text, size_t size)
{
	make_room(spec, size);
	memcpy(spec->at + spec->size, text, size);
	spec->size += size;
	spec->at[spec->size] = '\0';
}

static void put_quoted(struct text *spec, const char *value)
{
	make_room(spec, 3 * strlen(value));
	for (const unsigned char *c = (const unsigned char *) value; *c; c++)
		spec->size += (size_t) sprintf(spec->at + spec->size,
					       *c <= ' ' || *c == '%' || *c == VALUE_MARK || *c >= 0x7f ? "%%%02X" : "%c",
					       *c);
}

static void begin(struct text *spec, const char *name)
{
	put(spec, " ", spec->size ? 1 : 0);
	put(spec, name, strlen(name));
	put(spec, "=", 1);
}

static void add(struct text *spec, const char *name, const char *value)
{
	begin(spec, name);
	put_quoted(spec, value);
}

char *runtime_answer(runtime_fn *call, const char *asked, int *status)
{
	struct sigaction children = { .sa_handler = SIG_DFL }, before;
	int ends[2];
	size_t size = 0, room = 0;
	char why[1024] = "", *text = NULL;
	ssize_t n;
	pid_t pid;

	fflush(NULL);
	/* The parent of this client may have set SIGCHLD to be ignored: the kernel then keeps no status of a child. */
	if (sigaction(SIGCHLD, &children, &before) < 0 || pipe2(ends, O_CLOEXEC) < 0 || (pid = fork()) < 0)
		fail("cannot start the check of --container: too many processes or open files; end some, and try again");
	if (pid == 0) {
		char tree[PATH_MAX];
		int verdict = -1;

		/* Resolved once: an upgrade can change the prefix, a link, to another tree at any time. */
		if (realpath(BOLLARD_PREFIX, tree))
			verdict = call(tree, asked, ends[1], why, sizeof(why));
		else
			snprintf(why, sizeof(why), BOLLARD_PREFIX ": %s; the site's administrator should install bollard "
				 "again on this machine", strerror(errno));
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
	*status = -1;
	while (waitpid(pid, status, 0) < 0 && errno == EINTR)
		;
	if (sigaction(SIGCHLD, &before, NULL) < 0)
		fail("cannot restore the handling of SIGCHLD; try again");
	return text;
}

/* Checks `spec` with the runtime's parser. Returns the full spec, for the caller to free. For a mistake the child
 * prints the reason, and this process ends. */
static char *checked(const char *spec)
{
	int status;
	char *text = runtime_answer(python_check, spec, &status);

	if (status != 0 || !text[0]) {
		free(text);
		exit(EXIT_BOLLARD);  /* the child has printed the reason */
	}
	return text;
}

/* Returns the quoted value of the option `name` of the container around this process, with its length in *size; NULL
 * for none. The text is part of given.here. */
static const char *value_around(const char *name, size_t *size)
{
	size_t length = strlen(name);

	for (const char *at = given.here, *end; at && *at; at = *end ? end + 1 : end) {
		end = strchrnul(at, ' ');
		if (strncmp(at, name, length) == 0 && at[length] == '=') {
			*size = (size_t) (end - at) - length - 1;
			return at + length + 1;
		}
	}
	return NULL;
}

/* Returns the value of an option that goes into the header, from the command line, the container around or a
 * variable; "" for none. The caller frees it. */
static char *settled_value(int option)
{
	size_t size = 0;
	const char *around = value_around(OPTIONS[option].name, &size);
	char *found = given.values[option] ? strdup(given.values[option]) : around ? strndup(around, size) : NULL;

	for (int i = 0; !found && i < VARIABLE_COUNT; i++)
		if (VARIABLES[i].option == option && variable_of(i))
			found = OPTIONS[option].argument ? strdup(variable_of(i)) : strdup(means_yes(variable_of(i)) ? "1" : "0");
	if (!found)
		found = strdup("");
	if (!found)
		fail("out of memory");
	return found;
}

/* Returns 1 for the options that root needs and that therefore are in the header. */
static int is_settled_here(int option)
{
	return option == OPTION_NAME || option == OPTION_FAKEROOT || option == OPTION_VERBOSE;
}

/* Adds the options that have a value. Returns 1 when there is any, else 0. */
static int add_options(struct text *spec, int in_container)
{
	int any = 0;

	for (int i = 0; i < OPTION_COUNT; i++) {
		size_t size;
		const char *around = value_around(OPTIONS[i].name, &size), *value = given.values[i];

		if (i == OPTION_IMAGE || (in_container && is_settled_here(i)))
			continue;
		if (!value && !around)
			continue;
		begin(spec, OPTIONS[i].name);
		if (around && (!value || OPTIONS[i].adds_up))
			put(spec, around, size);
		if (around && value && OPTIONS[i].adds_up)
			put(spec, (char[]) { VALUE_MARK }, 1);
		if (value)
			put_quoted(spec, value);
		any = 1;
	}
	return any;
}

/* Adds the environment variables that stand for options. Returns 1 when there is any, else 0. */
static int add_variables(struct text *spec, int in_container)
{
	int any = 0;

	for (int i = 0; i < VARIABLE_COUNT; i++) {
		const char *value = variable_of(i);

		if (!value || given.values[VARIABLES[i].option] || VARIABLES[i].option == OPTION_IMAGE)
			continue;
		if (in_container && (strstr(VARIABLES[i].name, "_BIND") || is_settled_here(VARIABLES[i].option)))
			continue;  /* binds were for the container around; settle() adds the header's options */
		add(spec, VARIABLES[i].name, value);
		any = 1;
	}
	return any;
}

/* Fills the header for a client in a container. The node reads the client's other options and variables. */
static void settle(struct text *spec, struct header *header)
{
	char *name = settled_value(OPTION_NAME), *root = settled_value(OPTION_FAKEROOT);
	char *verbose = settled_value(OPTION_VERBOSE);
	struct timespec now;

	if (name[0]) {
		if (parse_name(name, header) < 0)
			fail("this --container-name is not allowed; use up to 64 letters, digits and _.-, and behind a colon "
			     "auto, create, exec or no_exec");
		add(spec, OPTIONS[OPTION_NAME].name, name);
	}
	header->root = root[0] && means_yes(root);
	if (root[0])
		add(spec, OPTIONS[OPTION_FAKEROOT].name, header->root ? "1" : "0");
	if (verbose[0] && means_yes(verbose) && clock_gettime(CLOCK_REALTIME, &now) == 0)
		snprintf(header->verbose, sizeof(header->verbose), "%lld",
			 (long long) now.tv_sec * 1000000000LL + now.tv_nsec);
	free(name);
	free(root);
	free(verbose);
}

/* Returns the header and the options as one text, which the node reads; the caller frees it. */
static char *with_header(const struct text *spec, struct header *header, const char *cwd)
{
	struct text quoted = { NULL, 0 };
	char *head, *full;

	put(&quoted, "", 0);
	put_quoted(&quoted, cwd);
	if (quoted.size >= CWD_MAX - sizeof(HEADER_CWD))
		fail("the path of the current directory is too long; change to another one");
	header->cwd = quoted.at;
	header->cwd_size = quoted.size;
	head = write_header(header);
	if (!head || asprintf(&full, "%s%s", head, spec->at) < 0)
		fail("out of memory");
	free(quoted.at);
	free(head);
	return full;
}

static void add_identity(struct text *spec, const struct stat *st)
{
	char text[80];

	snprintf(text, sizeof(text), "%llu.%llu.%llu", (unsigned long long) st->st_ino,
		 (unsigned long long) st->st_size,
		 (unsigned long long) st->st_mtim.tv_sec * 1000000000ull + (unsigned long long) st->st_mtim.tv_nsec);
	add(spec, "id", text);
}

/* Returns the absolute path of the image `container`, for the caller to free. Paths with ~ and references with ://
 * are returned as they are: the runtime resolves them. */
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

/* Returns a word that no other client of this job has, in a static buffer. All components of a heterogeneous step
 * have the same one. */
static const char *once(void)
{
	static char word[64];
	struct timespec now;

	if (!word[0] && clock_gettime(CLOCK_REALTIME, &now) == 0)
		snprintf(word, sizeof(word), "%ld.%lld%09ld", (long) getpid(), (long long) now.tv_sec, now.tv_nsec);
	return word;
}

char *make_spec(const char *container, const char *cwd, int multi_prog)
{
	struct header header = { .image = container != NULL, .multi_prog = multi_prog, .mode = AUTO };
	int in_container = getenv("BOLLARD_CONTAINER") != NULL, plain, more;
	char *image = container ? absolute(container) : NULL, *full;
	const char *home = getenv("HOME");
	struct text spec = { NULL, 0 };
	struct passwd *me;
	struct stat st;

	if (image) {
		add(&spec, "image", image);
		add(&spec, "asked", container);
	}
	if (!home || !home[0])
		home = (me = getpwuid(getuid())) ? me->pw_dir : "";
	add(&spec, "userhome", home);
	plain = image && image[0] == '/' && probe_image(image, &st) && !site_says("\n" SITE_LIMITS_IMAGES) &&
		!site_says("\n" SITE_TRUST);
	if (plain)
		add_identity(&spec, &st);
	more = add_options(&spec, in_container);
	more |= add_variables(&spec, in_container);
	more |= plain && site_says("\nwritable=1");
	if (more && is_set(slurm_option("pty")))
		add(&spec, "pty", "1");  /* the full check removes it when it has no effect */
	if (more && !is_named())
		add(&spec, "once", once());  /* the full check removes it when steps may share the container */
	free(image);
	/* In a container the image's path differs from the host's, and the Python may be the image's. So the node
	 * checks the rest. */
	if (in_container)
		settle(&spec, &header);
	if (in_container || (plain && !more)) {
		full = with_header(&spec, &header, cwd);
	} else {
		add(&spec, "cwd", cwd);
		if (multi_prog)
			add(&spec, "multi-prog", "1");
		full = checked(spec.at);
	}
	free(spec.at);
	return full;
}

/* Returns 1 when two headers are the same but for --container-verbose, else 0. */
static int same_header(const struct header *a, const struct header *b)
{
	return a->root == b->root && a->image == b->image && a->multi_prog == b->multi_prog && a->mode == b->mode &&
	       strcmp(a->name, b->name) == 0 && a->cwd_size == b->cwd_size &&
	       memcmp(a->cwd, b->cwd, a->cwd_size) == 0;
}

int same_container(const char *a, const char *b)
{
	struct header head_a, head_b;
	const char *rest_a = a ? read_header(a, &head_a) : NULL, *rest_b = b ? read_header(b, &head_b) : NULL;

	if (!a || !b)
		return !a && !b;
	return rest_a && rest_b && same_header(&head_a, &head_b) && strcmp(rest_a, rest_b) == 0;
}
