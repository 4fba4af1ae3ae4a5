/* SPDX-License-Identifier: BSD-3-Clause */
/* Part of _bollard.so, after cffi's own text: starts Python isolated from the user's settings, and calls the
 * runtime. The verdict is a failure until the runtime sets it to 0. build.py defines the BOLLARD_* macros. Runs as
 * the user. */
#include "keeper.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

/* cffi defines these below; they call the Python functions in callbacks.py. */
static void keep(char *spec, char *site, char *program, int listener, int job, int before, long long forked, long long dropped, char *why, int size, int *verdict);
static void check(char *spec, int out, char *why, int size, int *verdict);
static void look(char *request, int out, char *why, int size, int *verdict);

static wchar_t *const search_path[] = { BOLLARD_SEARCH_PATH };

/* Returns the directory of the Python packages beside this library, for PyMem_RawFree(); NULL on failure. Not from
 * the prefix: an upgrade can change that to another tree at any time. */
static wchar_t *packages(void)
{
	char path[PATH_MAX];
	const char *slash;
	Dl_info here;

	if (!dladdr(&search_path, &here) || !here.dli_fname || !(slash = strrchr(here.dli_fname, '/')) ||
	    (size_t) snprintf(path, sizeof(path), "%.*s/python", (int) (slash - here.dli_fname), here.dli_fname) >=
	    sizeof(path))
		return NULL;
	return Py_DecodeLocale(path, NULL);
}

static PyStatus start(void)
{
	wchar_t *own = NULL;
	PyPreConfig before;
	PyConfig config;
	PyStatus status;

	/* Isolated: no PYTHON* variable, no user site, no PATH search, no pyvenv.cfg (PEP 587). */
	PyPreConfig_InitIsolatedConfig(&before);
	before.utf8_mode = 1;
	status = Py_PreInitialize(&before);
	if (PyStatus_Exception(status))
		return status;
	PyConfig_InitIsolatedConfig(&config);
	config.install_signal_handlers = 0;
	config.write_bytecode = 0;
	config.site_import = 0;
	config.pathconfig_warnings = 0;
	config.module_search_paths_set = 1;
	for (size_t i = 0; i < sizeof(search_path) / sizeof(*search_path); i++) {
		status = PyWideStringList_Append(&config.module_search_paths, search_path[i]);
		if (PyStatus_Exception(status))
			goto done;
	}
	own = packages();
	status = own ? PyWideStringList_Append(&config.module_search_paths, own) : PyStatus_NoMemory();
	PyMem_RawFree(own);
	if (PyStatus_Exception(status))
		goto done;
	status = PyConfig_SetString(&config, &config.executable, BOLLARD_EXECUTABLE);
	if (!PyStatus_Exception(status))
		status = PyConfig_SetString(&config, &config.home, BOLLARD_HOME);
	if (!PyStatus_Exception(status))
		status = Py_InitializeFromConfig(&config);
done:
	PyConfig_Clear(&config);
	return status;
}

/* Starts Python unless it runs. Returns 1, or 0 with the reason in `why`. */
static int started(char *why, size_t size)
{
	PyStatus status;

	if (Py_IsInitialized())
		return 1;
	status = start();
	if (PyStatus_Exception(status)) {
		snprintf(why, size, "Python did not start (%s); the site's administrator should install "
			 "bollard again on this node", status.err_msg ? status.err_msg : "no reason given");
		return 0;
	}
	PyEval_SaveThread();
	return 1;
}

/* Stores a reason in `why` when the runtime has given none. `machine` is what the user calls this host. */
static void explain(char *why, size_t size, const char *machine)
{
	if (!why[0])
		snprintf(why, size, "the runtime in " BOLLARD_PREFIX " could not be loaded; "
			 "the site's administrator should install bollard again on this %s", machine);
}

CFFI_DLLEXPORT int bollard_keep(const struct keeper_job *job, char *why, size_t size)
{
	int verdict = -1;

	if (started(why, size))
		keep((char *) job->spec, (char *) job->site, (char *) job->program, job->listener, job->socket, job->before,
		     job->times[0], job->times[1], why, (int) size, &verdict);
	if (verdict != 0)
		explain(why, size, "node");
	return verdict;
}

CFFI_DLLEXPORT int bollard_check(const char *spec, int out, char *why, size_t size)
{
	int verdict = -1;

	if (started(why, size))
		check((char *) spec, out, why, (int) size, &verdict);
	if (verdict != 0)
		explain(why, size, "machine");
	return verdict;
}

CFFI_DLLEXPORT int bollard_look(const char *request, int out, char *why, size_t size)
{
	int verdict = -1;

	if (started(why, size))
		look((char *) request, out, why, (int) size, &verdict);
	return verdict;  /* a verdict is advice: without a runtime there is none */
}
