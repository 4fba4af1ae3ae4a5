/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef BOLLARD_PYTHON_H
#define BOLLARD_PYTHON_H

#include "keeper.h"

#include <stddef.h>

/* python.c: call the embedded runtime of the installation in the directory `tree`; the first call loads it. All run
 * as the user. Return 0 when the runtime has succeeded, else -1 with the reason in `why`, which has `size` bytes.
 * python_keep() is the keeper until its step or job has ended. python_check() writes the full spec to the descriptor
 * `out`. python_look() writes the pre-flight's verdict to it (client.py). */
int python_keep(const char *tree, const struct keeper_job *job, char *why, size_t size);
int python_look(const char *tree, const char *request, int out, char *why, size_t size);
int python_check(const char *tree, const char *spec, int out, char *why, size_t size);

#endif
