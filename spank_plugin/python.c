/* SPDX-License-Identifier: BSD-3-Clause */
/* Loads the embedded runtime, _bollard.so, from C. Only that library is linked to libpython. */
#define _GNU_SOURCE
#include "python.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>

typedef int keep_fn(const struct keeper_job *job, char *why, size_t size);
typedef int check_fn(const char *text, int out, char *why, size_t size);

static void *symbol(const char *tree, const char *name, char *why, size_t size)
{
	char path[PATH_MAX];
	void *library = NULL, *found = NULL;

	/* RTLD_GLOBAL: Python's extension modules are not linked to libpython themselves. Never closed: Python
	 * cannot be unloaded. */
	if (snprintf(path, sizeof(path), "%s/_bollard.so", tree) < (int) sizeof(path))
		library = dlopen(path, RTLD_LAZY | RTLD_GLOBAL);
	found = library ? dlsym(library, name) : NULL;
	if (!found) {
		const char *reason = dlerror();

		snprintf(why, size, "cannot load the runtime (%s); the site's administrator should run "
			 "`bollard site check` on this node", reason ? reason : "its path is too long");
	}
	return found;
}

int python_keep(const char *tree, const struct keeper_job *job, char *why, size_t size)
{
	keep_fn *keep = (keep_fn *) symbol(tree, "bollard_keep", why, size);

	return keep ? keep(job, why, size) : -1;
}

int python_check(const char *tree, const char *spec, int out, char *why, size_t size)
{
	check_fn *check = (check_fn *) symbol(tree, "bollard_check", why, size);

	return check ? check(spec, out, why, size) : -1;
}

int python_look(const char *tree, const char *request, int out, char *why, size_t size)
{
	check_fn *look = (check_fn *) symbol(tree, "bollard_look", why, size);

	return look ? look(request, out, why, size) : -1;
}
