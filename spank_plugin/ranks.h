/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef BOLLARD_RANKS_H
#define BOLLARD_RANKS_H

/* ranks.c: one line on stderr, by the first rank of a step, where an MPI program finds nothing of the step's that tells
 * it of the other ranks: each rank would be a job of its own, and end with 0. Called in the container. */
void warn_of_single_ranks(char **argv, char **envp);

#endif
