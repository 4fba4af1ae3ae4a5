/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef BOLLARD_PYTHON_H
#define BOLLARD_PYTHON_H

#include "keeper.h"

#include <stddef.h>

/* python.c: the embedded runtime of the installation in the directory `tree`, loaded on first use, in a process that is
 * the user already. Each returns the runtime's verdict, or -1 with `why` when Python could not be started. */
int python_keep(const char *tree, const struct keeper_job *job, char *why, size_t size);
int python_check(const char *tree, const char *spec, int out, char *why, size_t size);

#endif
