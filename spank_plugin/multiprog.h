/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef BOLLARD_MULTIPROG_H
#define BOLLARD_MULTIPROG_H

/* Returns the --multi-prog configuration `text` (srun(1)) with `launcher` before each program, for the caller to
 * free; NULL when out of memory. Runs as the user, in srun. */
char *with_launcher(const char *text, const char *launcher);

#endif
