/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef BOLLARD_PROGRAM_H
#define BOLLARD_PROGRAM_H

/* inside.c: whether this is in a step of srun's. */
int in_step(void);

/* program.c: the --mpi= that an MPI program speaks, "pmix" or "pmi2"; NULL when nothing tells.
 * `name` is what mpirun was called as, `program` the path of the program, `mpirun` that of the image's own. */
const char *wireup_of(const char *name, const char *program, const char *mpirun);

/* program.c: the same, told by the libraries that the program names, and by nothing else. */
const char *wireup_of_file(const char *path);

/* program.c: whether a program or library names a library whose name begins so. */
int names_library(const char *path, const char *library);

#endif
