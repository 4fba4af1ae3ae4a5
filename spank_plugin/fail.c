/* SPDX-License-Identifier: BSD-3-Clause */
/* How srun, sbatch and salloc end when a request for a container cannot be met. */
#define _GNU_SOURCE
#include "client.h"
#include "constants.h"

#include <stdio.h>
#include <stdlib.h>

void fail(const char *text)
{
	fprintf(stderr, "bollard: %s\n", text);
	exit(EXIT_BOLLARD);  /* not -1 to Slurm: it would print two more lines */
}
