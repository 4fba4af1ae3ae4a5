/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef BOLLARD_MULTIPROG_H
#define BOLLARD_MULTIPROG_H

/* A --multi-prog configuration (srun(1)) with `launcher` before each program: to be freed, NULL when
 * there is no memory. */
char *with_launcher(const char *text, const char *launcher);

#endif
