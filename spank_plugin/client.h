/* SPDX-License-Identifier: BSD-3-Clause */
/* The parts of the shim in srun, sbatch and salloc. Everything here runs in the user's own process, never as root. Each
 * function may end the process with fail(). */
#ifndef BOLLARD_CLIENT_H
#define BOLLARD_CLIENT_H

#include "options.h"  /* rendered from runtime/request/options.py by build.py */

#include <slurm/spank.h>

/* client_options.c: the options that the user gave. The strings live until the process ends, unless noted. */
extern struct given {
	char *own;                       /* --container where Slurm has no such option; freed after each component */
	char *values[OPTION_COUNT];      /* values of the options registered by this plugin; NULL: not given */
	char *here;                      /* options of the container around this process, for mpirun's step; or NULL */
	char *around;                    /* the spec of the salloc that started this srun as its shell, or NULL */
} given;

/* client_options.c: returns the image: `container`, else the value of --container-image or of its variable; NULL for
 * none. If one of Slurm's variables gave `container`, --container-image overrides it. The string is not the
 * caller's. fail() when both are on the command line and differ. */
const char *image_asked_for(const char *container);

/* client_options.c: returns the value of the variable VARIABLES[i] of options.h. NULL when it is unset or empty, and
 * for a PYXIS_ variable when pyxis is loaded. The string belongs to the environment. */
const char *variable_of(int i);

/* client_options.c: returns 1 when an option or a variable names the container, else 0. */
int is_named(void);

/* client_options.c: fail() when options of a container are given without a container: the task would run on the
 * host. */
void refuse_idle_options(void);

/* spec.c: returns the spec of `container`, for the caller to free. `container` is NULL when another step made the
 * named container. For a valid image without further options the spec is finished here, without an interpreter. Else
 * the runtime checks it, in a child. fail() for a mistake. */
char *make_spec(const char *container, const char *cwd, int multi_prog);

/* spec.c: calls a function of the embedded runtime, python_check() or python_look(), in a child, with `text`. Returns
 * what it wrote, for the caller to free, and stores in *status the child's exit status, as from waitpid(2). The child
 * prints the reason of a failure, unless `call` gives none. fail() when no child can be started. */
typedef int runtime_fn(const char *tree, const char *text, int out, char *why, size_t size);
char *runtime_answer(runtime_fn *call, const char *text, int *status);

/* preflight.c: warns when the image's MPI does not connect the ranks of this step; for an image without a cached verdict
 * later, from a child. Starts srun again with another --mpi where the user said nothing and the site lets bollard
 * choose; call it before anything is submitted. `image`
 * is the path of the image, `name` the image as the user named it, `cwd` the directory of the tasks. */
void preflight(const char *image, const char *name, const char *cwd, int multi_prog);

/* spec.c: returns 1 when two specs differ at most in --container-verbose, or when both are NULL; else 0. */
int same_container(const char *a, const char *b);

/* image_program.c: returns the path of the image when srun's program is one, as in `srun ./img.sif`. NULL when it is
 * none, and when the site leaves such programs to the kernel. A relative path begins at `cwd`, the directory of the
 * tasks. The caller frees the string. */
char *image_program(const char *cwd);

/* image_program.c: warns when the script on sbatch's command line is an image: Slurm takes text alone. */
void warn_of_image_script(void);

/* slurm_options.c: returns 1 when this Slurm exports its option table to plugins, else 0. */
int has_slurm_options(void);

/* slurm_options.c: returns the value of Slurm's option `name`; NULL for none. The string is never freed: this
 * process is short. It may be one of Slurm's words for "not given": see is_set(). */
const char *slurm_option(const char *name);

/* slurm_options.c: returns 1 when `value` is a value, 0 for NULL and for Slurm's words "unset" and
 * "invalid-context". */
int is_set(const char *value);

/* slurm_options.c: returns 1 when the user has given Slurm's option `name`, on the command line or by a variable. 0
 * when not, or when this Slurm does not tell. slurm_option() also returns values that Slurm has set itself. */
int is_given(const char *name);

/* slurm_options.c: both return 0, or -1 when this Slurm does not export the call. set_slurm_option() also returns
 * Slurm's own number for a failure, which is not 0. */
int set_slurm_option(const char *name, const char *value);
int reset_slurm_option(const char *name);

/* slurm_options.c: returns MpiDefault of slurm.conf; "none" when it is not set. */
const char *slurm_default_mpi(void);

/* slurm_options.c: returns 1 when this machine has Slurm's plugin for `--mpi=TYPE`, else 0. */
int slurm_has_mpi(const char *type);

/* slurm_options.c: returns Slurm's version as a number: 2205 for 22.05. fail() when Slurm does not tell it. */
int slurm_version(spank_t spank);

/* slurm_options.c: returns the program on the command line of srun or salloc: the first word after the options. NULL
 * for none, in sbatch, and when colons separate components. The next call frees the string. */
const char *program_word(void);

/* components.c: returns 1 when this srun starts several components, separated by a colon or by --het-group; else 0.
 * Also 1 when its command line cannot be read. */
int has_components(void);

/* components.c: puts the launcher's path before the program of each component but the first. `argv` is the command
 * line of the first: srun calls its hook for that one alone. fail() when Slurm hides the command lines. */
void guard_components(char **argv);

/* fail.c: prints "bollard: TEXT" on stderr and ends the process with exit status EXIT_BOLLARD. */
__attribute__((noreturn)) void fail(const char *text);

#endif
