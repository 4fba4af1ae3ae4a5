/* SPDX-License-Identifier: BSD-3-Clause */
/* An MPI program in a step that does not wire its ranks up. */
#define _GNU_SOURCE
#include "ranks.h"
#include "enter.h"
#include "program.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Whether any of these variables is there: who has set one tells the ranks of each other. */
static int any_of(char **envp, const char *const *names)
{
	for (; *names; names++)
		if (variable(envp, *names))
			return 1;
	return 0;
}

/* The file `name` in the first of the directories `path`, as access(2) finds it; NULL where there is none. */
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

/* MPICH can be built with PMIx. Its library then names that; one that cannot be found may. */
static int may_speak_pmix(char **envp)
{
	static const char usual[] = "/usr/lib/x86_64-linux-gnu:/usr/lib/aarch64-linux-gnu:/usr/local/lib:/usr/lib64:/usr/lib";
	static const char *const libraries[] = { "libmpich.so.12", "libmpi.so.12" };
	const char *own = variable(envp, "LD_LIBRARY_PATH"), *file;

	for (size_t i = 0; i < sizeof(libraries) / sizeof(*libraries); i++) {
		file = found_in_path(libraries[i], own, R_OK);
		if (!file)
			file = found_in_path(libraries[i], usual, R_OK);
		if (file)
			return names_library(file, "libpmix.so");
	}
	return 1;
}

void warn_of_single_ranks(char **argv, char **envp)
{
	/* Slurm's own, Cray's, and Intel MPI's library of PMI-1, which asks Slurm itself. */
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
