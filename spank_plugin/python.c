/* SPDX-License-Identifier: BSD-3-Clause */
/* The door from the shim to the embedded runtime, _bollard.so, which alone is linked to libpython. */
#define _GNU_SOURCE
#include "shim.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int keep_fn(const char *spec, const char *site, const char *program, int listener, int job, const long long *times,
		    char *why, size_t size);
typedef int check_fn(const char *spec, int out, char *why, size_t size);

static void *symbol(const char *name, char *why, size_t size)
{
	char tree[PATH_MAX], path[PATH_MAX + 16];

	/* Looked up once: at an upgrade the prefix, a link, leads to another tree from one moment to the next. */
	if (!realpath(BOLLARD_PREFIX, tree)) {
		snprintf(why, size, BOLLARD_PREFIX ": %s; the site's administrator should install bollard again on "
			 "this node", strerror(errno));
		return NULL;
	}
	snprintf(path, sizeof(path), "%s/_bollard.so", tree);
	/* Global, for extension modules of Python are not linked to libpython themselves. Never closed:
	 * Python cannot be unloaded, and the process lives for this alone. */
	void *library = dlopen(path, RTLD_LAZY | RTLD_GLOBAL);
	void *found = library ? dlsym(library, name) : NULL;

	if (!found)
		snprintf(why, size, "cannot load the runtime (%s); the site's administrator should "
			 "install bollard again on this node", dlerror());
	return found;
}

int python_keep(const char *spec, const char *site, const char *program, int listener, int job, const long long *times,
		char *why, size_t size)
{
	keep_fn *keep = (keep_fn *) symbol("bollard_keep", why, size);

	return keep ? keep(spec, site, program, listener, job, times, why, size) : -1;
}

int python_check(const char *spec, int out, char *why, size_t size)
{
	check_fn *check = (check_fn *) symbol("bollard_check", why, size);

	return check ? check(spec, out, why, size) : -1;
}
