/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef BOLLARD_INSIDE_H
#define BOLLARD_INSIDE_H

#include <stddef.h>

/* From inside.c to paths.c: variables of the container that the host's loader must not see. Each value
 * is kept under its name with this prefix until the program has started. */
#define HIDDEN "_BOLLARD_HIDDEN_"
#define HIDDEN_NAMES "LD_PRELOAD", "LD_AUDIT", "LD_ASSUME_KERNEL"

/* mpirun.c: one line of `mpirun` as one of `srun`. NULL-terminated and never freed: this process becomes it. */
struct launch {
	char **argv;
	char why[512];    /* not empty: cannot be translated, and the reason */
	int native;       /* the image's own mpirun answers: --version, --help */
};

struct launch translate(int argc, char **argv);

#endif
