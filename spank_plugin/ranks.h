/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef BOLLARD_RANKS_H
#define BOLLARD_RANKS_H

/* ranks.c: warns on stderr, once a step, when an MPI program finds no variable that connects it to the other ranks.
 * Each rank would then run as a job of 1 rank and end with 0. Runs in the task, in the container, as the user. */
void warn_of_single_ranks(char **argv, char **envp);

#endif
