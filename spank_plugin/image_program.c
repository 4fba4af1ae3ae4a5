/* SPDX-License-Identifier: BSD-3-Clause */
/* Images that are named where Slurm expects a program. Every SIF file begins with a #! line, so it can be one. */
#define _GNU_SOURCE
#include "client.h"
#include "site_settings.h"
#include "constants.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What SIF files and images of Singularity 2 begin with. */
#define LAUNCH_LINE "#!/usr/bin/env run-singularity\n"
#define LAUNCH_SIZE 32  /* of the launch line in a SIF header; the magic follows it (sif.go) */
#define SIF_MAGIC "SIF_MAGIC"

/* Returns 1 when the file `path` is an image that the kernel would start by run-singularity, else 0. Reads the first 42
 * bytes of a regular file; never waits for a FIFO or a terminal. */
static int is_image(const char *path)
{
	char head[LAUNCH_SIZE + sizeof(SIF_MAGIC)] = "";
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK), found = 0;
	struct stat st;

	if (fd < 0)
		return 0;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && pread(fd, head, sizeof(head), 0) == sizeof(head))
		found = memcmp(head + LAUNCH_SIZE, SIF_MAGIC, sizeof(SIF_MAGIC)) == 0 ||
			memcmp(head, LAUNCH_LINE, strlen(LAUNCH_LINE)) == 0;
	close(fd);
	return found;
}

/* Stores the path of the program `name` in `path`: below `cwd`, or in the directories of PATH. Only names that end in
 * .sif are looked for in PATH, so that other programs cost no search. Returns 0, or -1 when it is not found. */
static int find(const char *name, const char *cwd, char path[PATH_MAX])
{
	const char *at = getenv("PATH"), *colon;
	size_t size = strlen(name);
	int length;

	if (strchr(name, '/')) {
		length = snprintf(path, PATH_MAX, "%s%s%s", name[0] == '/' ? "" : cwd, name[0] == '/' ? "" : "/", name);
		return length > 0 && length < PATH_MAX ? 0 : -1;
	}
	if (size < 4 || strcmp(name + size - 4, ".sif") != 0)
		return -1;
	for (; at && *at; at = *colon ? colon + 1 : colon) {
		colon = strchrnul(at, ':');
		length = snprintf(path, PATH_MAX, "%.*s/%s", (int) (colon - at), at, name);
		if (at[0] == '/' && length > 0 && length < PATH_MAX && access(path, X_OK) == 0)
			return 0;
	}
	return -1;
}

char *image_program(const char *cwd)
{
	const char *name = program_word();
	char path[PATH_MAX], *image;

	/* With --bcast the program is a copy that does not exist yet. */
	if (!name || find(name, cwd, path) < 0 || !is_image(path) || is_set(slurm_option("bcast")) ||
	    has_components() || site_says("\n" SITE_NO_IMAGE_PROGRAMS))
		return NULL;
	image = strdup(path);
	if (!image)
		fail("out of memory");
	return image;
}

/* Returns 1 when the value of the option `word` is the next word of the command line and may be an image, else 0. */
static int takes_image(const char *word)
{
	return strncmp(word, "--container", strlen("--container")) == 0 && !strchr(word, '=');
}

void warn_of_image_script(void)
{
	FILE *line = dlsym(RTLD_DEFAULT, "saopt") ? NULL : fopen("/proc/self/cmdline", "re");
	char *word = NULL, before[64] = "";
	size_t size = 0;
	struct stat st;

	if (!line)
		return;
	/* Slurm has not read its options yet. The script is the first word that is a file and no option's value; a wrong
	 * guess costs only this line. */
	for (int at = 0; getdelim(&word, &size, '\0', line) > 0; at++) {
		if (at > 0 && word[0] != '-' && !takes_image(before) && stat(word, &st) == 0 && S_ISREG(st.st_mode)) {
			if (is_image(word))
				fprintf(stderr, "bollard: %s is an image, and sbatch takes scripts alone; "
					"write sbatch --wrap 'srun %s%s ARGUMENTS'\n", word,
					strchr(word, '/') ? "" : "./", word);
			break;
		}
		snprintf(before, sizeof(before), "%s", word);
	}
	free(word);
	fclose(line);
}
