/* SPDX-License-Identifier: BSD-3-Clause */
/* Which MPI a program was built with. Everything here runs as the user, in a container or in the client. The strings
 * returned are constants. */
#ifndef BOLLARD_PROGRAM_H
#define BOLLARD_PROGRAM_H

/* inside.c: returns 1 in a step that srun started, 0 in a batch script and outside of jobs. */
int in_step(void);

/* program.c: returns the value for srun's --mpi=, "pmix" or "pmi2"; NULL when it cannot be found out. `name` is the
 * name by which mpirun was called, `program` the path of the program, `mpirun` the path of the image's own mpirun. */
const char *wireup_of(const char *name, const char *program, const char *mpirun);

/* program.c: returns the same, from the libraries that the program at `path` names; NULL when it is no ELF file or
 * names no MPI library. */
const char *wireup_of_file(const char *path);

/* program.c: returns 1 when the ELF file `path` names a library whose name begins with `library`, else 0. */
int names_library(const char *path, const char *library);

#endif
