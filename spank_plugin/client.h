/* SPDX-License-Identifier: BSD-3-Clause */
/* The parts of the shim in srun, sbatch and salloc. It is the user's process: each may end it with a reason. */
#ifndef BOLLARD_CLIENT_H
#define BOLLARD_CLIENT_H

#include "options.h"  /* rendered from runtime/request/options.py by build.py */

#include <slurm/spank.h>

/* client_options.c: what is asked of a container. */
extern struct given {
	char *own;                       /* --container, where Slurm has no such option */
	char *values[OPTION_COUNT];      /* of the options registered here */
	char *here;                      /* options of the container this process is in, for a step like it */
	char *around;                    /* the spec of the salloc that started this srun as its shell, or NULL */
} given;

/* client_options.c: `container`, or where that is NULL the image that another option or a variable names; NULL for none. */
const char *image_asked_for(const char *container);

/* client_options.c: the value of VARIABLES[i] of options.h; NULL where it is not set, or pyxis's. */
const char *variable_of(int i);

/* client_options.c: whether a container is asked for by its name. */
int is_named(void);

/* client_options.c: options of a container that is not asked for are a mistake, for the task would run on the host. */
void refuse_idle_options(void);

/* spec.c: the spec of `container`, which is NULL for one that another step has named. Finished here for a plain image
 * and no further wishes, which is the common case and costs no interpreter; by the runtime otherwise. */
char *make_spec(const char *container, const char *cwd, int multi_prog);

/* spec.c: whether two specs, or none, are the same but for --container-verbose. */
int same_container(const char *a, const char *b);

/* slurm_options.c: whether this Slurm shows its options. */
int has_slurm_options(void);

/* slurm_options.c: an option's value, which lives as long as this short process; NULL for none. */
const char *slurm_option(const char *name);

/* slurm_options.c: whether such a value is one: Slurm has words for "not given" and "not for this command". */
int is_set(const char *value);

/* slurm_options.c: 0, or -1 where this Slurm does not allow it. */
int set_slurm_option(const char *name, const char *value);
int reset_slurm_option(const char *name);

/* slurm_options.c: 2205 for 22.05. */
int slurm_version(spank_t spank);

/* The program that salloc's command line names; NULL where it names none, and in other commands. */
const char *salloc_command(void);

/* components.c: whether this srun starts several, parted by a colon, or those of a heterogeneous job. */
int has_components(void);

/* components.c: mark the programs of all components but the first, whose words are `argv`: srun has no hook there. */
void guard_components(char **argv);

/* client.c */
__attribute__((noreturn)) void fail(const char *text);

#endif
