/* SPDX-License-Identifier: BSD-3-Clause */
/* The warning for an MPI program in a step that does not connect its ranks. */
#define _GNU_SOURCE
#include "ranks.h"
#include "enter.h"
#include "program.h"
#include "constants.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Returns 1 when `envp` has any of these variables: whatever set one also connects the ranks. */
static int any_of(char **envp, const char *const *names)
{
	for (; *names; names++)
		if (variable(envp, *names))
			return 1;
	return 0;
}

/* Returns the first file `name` in the directories `path` that access(2) allows, in a static buffer; NULL for none.
 * A `name` with a slash is returned as it is. */
static const char *found_in_path(const char *name, const char *path, int mode)
{
	static char file[PATH_MAX];
	const char *colon;

	if (strchr(name, '/'))
		return name;
	for (; path; path = *colon ? colon + 1 : NULL) {
		colon = strchrnul(path, ':');
		if (snprintf(file, sizeof(file), "%.*s/%s", (int) (colon - path), path, name) < (int) sizeof(file) &&
		    access(file, mode) == 0)
			return file;
	}
	return NULL;
}

/* Returns 1 when the image's MPICH may use PMIx: its library names libpmix, or cannot be found. */
static int may_speak_pmix(char **envp)
{
	static const char *const libraries[] = { "libmpich.so.12", "libmpi.so.12" };
	const char *own = variable(envp, "LD_LIBRARY_PATH"), *file;

	for (size_t i = 0; i < sizeof(libraries) / sizeof(*libraries); i++) {
		file = found_in_path(libraries[i], own, R_OK);
		if (!file)
			file = found_in_path(libraries[i], USUAL_LIBRARIES, R_OK);
		if (file)
			return names_library(file, "libpmix.so");
	}
	return 1;
}

void warn_of_single_ranks(char **argv, char **envp)
{
	/* Slurm's PMI, Cray's PALS, and Intel MPI's PMI-1 library, which asks Slurm itself. */
	static const char *const for_mpich[] = { "PMI_FD", "PMI_PORT", "PALS_APID", "I_MPI_PMI_LIBRARY", NULL };
	static const char *const for_open_mpi[] = { "PMIX_NAMESPACE", "PMI_FD", "OMPI_COMM_WORLD_SIZE", NULL };
	const char *rank = variable(envp, "SLURM_PROCID"), *ranks = variable(envp, "SLURM_STEP_NUM_TASKS");
	const char *file, *wireup;
	int mpich;

	if (!rank || strcmp(rank, "0") != 0 || !ranks || atol(ranks) < 2)
		return;
	file = found_in_path(argv[0], variable(envp, "PATH"), X_OK);
	wireup = file ? wireup_of_file(file) : NULL;
	if (!wireup)
		return;
	mpich = strcmp(wireup, "pmi2") == 0;
	if (any_of(envp, mpich ? for_mpich : for_open_mpi) ||
	    (mpich && variable(envp, "PMIX_NAMESPACE") && may_speak_pmix(envp)))
		return;
	fprintf(stderr, "bollard: %s: %s jobs of 1 rank: this step tells an MPI program like that nothing of its other "
		"ranks; use --mpi=%s\n", argv[0], ranks, wireup);
}
