/* SPDX-License-Identifier: BSD-3-Clause */
/* The spec as text (runtime/request/spec.py), from what is given. */
#define _GNU_SOURCE
#include "client.h"
#include "plain.h"
#include "python.h"
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

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
		char tree[PATH_MAX];
		int verdict = -1;

		/* Looked up once: at an upgrade the prefix, a link, leads to another tree. */
		if (realpath(BOLLARD_PREFIX, tree))
			verdict = python_check(tree, spec, ends[1], why, sizeof(why));
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
		const char *value = variable_of(i);

		if (!value || given.values[VARIABLES[i].option] || VARIABLES[i].option == OPTION_IMAGE)
			continue;
		if (inside && strstr(VARIABLES[i].name, "_BIND"))
			continue;  /* there it tells what is bound, and asks for nothing */
		add(spec, VARIABLES[i].name, value);
		any = 1;
	}
	return any;
}

/* Whether the site's settings have a line that begins so, or may: the runtime knows (site.py). */
static int site_says(const char *line)
{
	int fd = open(BOLLARD_PREFIX "/site.conf", O_RDONLY | O_CLOEXEC);
	char text[65536];
	ssize_t size;

	if (fd < 0)
		return errno != ENOENT;
	size = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (size < 0 || size == (ssize_t) sizeof(text) - 1)
		return 1;
	text[size] = '\0';
	return strstr(text, line) != NULL;
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

/* A word that no other client of this job has. All components of a heterogeneous step get the same one. */
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
	struct text spec = { NULL, 0 };
	char *image = container ? absolute(container) : NULL, *full;
	const char *home = getenv("HOME");
	struct passwd *me;
	struct stat st;
	int plain = 0, asks;  /* `asks`: for more than an image */

	if (image) {
		add(&spec, "image", image);
		add(&spec, "asked", container);
	}
	add(&spec, "cwd", cwd);
	if (!home || !home[0])
		home = (me = getpwuid(getuid())) ? me->pw_dir : "";
	add(&spec, "userhome", home);
	plain = image && image[0] == '/' && plain_image(image, &st) && !site_says("\nimages-");
	if (plain)
		add_identity(&spec, &st);
	asks = add_variables(&spec);
	if (multi_prog)
		add(&spec, "multi-prog", "2");  /* see client_local_user_init() */
	if (is_set(slurm_option("pty")))
		add(&spec, "pty", "1");  /* the full check takes it out where it changes nothing */
	if (given.here) {  /* finished spec text: spec.py, options */
		char *grown = realloc(spec.at, spec.size + strlen(given.here) + 2);

		if (!grown)
			fail("out of memory");
		spec.at = grown;
		spec.size += (size_t) sprintf(spec.at + spec.size, " %s", given.here);
		asks = 1;
	}
	for (int i = 0; i < OPTION_COUNT; i++)
		asks |= given.values[i] && i != OPTION_IMAGE;
	asks |= plain && site_says("\nwritable=1");
	if (asks && !is_named())
		add(&spec, "once", once());  /* the full check takes it out where steps may share the container */
	for (int i = 0; i < OPTION_COUNT; i++)  /* verbose is the last row of the table: see stepd_init() */
		if (given.values[i] && i != OPTION_IMAGE)
			add(&spec, OPTIONS[i].name, given.values[i]);
	free(image);
	/* In a container the image's path is another one, and Python may be the image's: the node decides. */
	if ((plain && !asks) || getenv("BOLLARD_CONTAINER"))
		return spec.at;
	full = checked(spec.at);
	free(spec.at);
	return full;
}

int same_container(const char *a, const char *b)
{
	const char *end_a = a ? strstr(a, " verbose=") : NULL, *end_b = b ? strstr(b, " verbose=") : NULL;
	size_t size_a = end_a ? (size_t) (end_a - a) : a ? strlen(a) : 0;
	size_t size_b = end_b ? (size_t) (end_b - b) : b ? strlen(b) : 0;

	return !a == !b && size_a == size_b && (!a || memcmp(a, b, size_a) == 0);
}
