/* SPDX-License-Identifier: BSD-3-Clause */
/* bollard-inside and paths.so: both run in a container, as the user. */
#ifndef BOLLARD_INSIDE_H
#define BOLLARD_INSIDE_H

#include <stddef.h>

/* inside.c hides these variables of the container from the host's loader. It keeps each value under its name with
 * this prefix. paths.c restores them when the program has started. */
#define HIDDEN "_BOLLARD_HIDDEN_"
#define HIDDEN_NAMES "LD_PRELOAD", "LD_AUDIT", "LD_ASSUME_KERNEL"

/* A command line of `mpirun`, translated to one of `srun`. */
struct launch {
	char **argv;      /* NULL-terminated; never freed: srun replaces this process */
	char why[512];    /* not empty: the line cannot be translated, and this is the reason */
	int native;       /* 1: the image's own mpirun answers: --version, --help */
};

/* mpirun.c: returns the srun command line for mpirun's `argv`. Sets variables of the environment for options such as
 * -x. Ends the process when out of memory. */
struct launch translate(int argc, char **argv);

#endif
