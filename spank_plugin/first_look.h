/* SPDX-License-Identifier: BSD-3-Clause */
/* The pre-flight's first look at an image, in a child beside srun. srun does not wait for it: the child prints the
 * warning itself. Runs as the user. */
#ifndef BOLLARD_FIRST_LOOK_H
#define BOLLARD_FIRST_LOOK_H

/* Starts a child that gets the verdict of python_look() on `request`, and calls `judge` with `ask` and that. srun ends
 * only when the child has ended. Returns 0, or -1 when no child can be started. */
typedef void judge_fn(const void *ask, const char *text);
int first_look(const char *request, judge_fn *judge, const void *ask);

/* Returns 1 when the caller has to print its warning. 0 when the step is on its way and its launcher finds the same
 * (`launcher_does`). The answer is 1 without a first look too. */
int first_look_tells(int launcher_does);

/* Call it before srun sends the step. Tells the launcher, by ENV_TOLD, when the child has printed its warning. */
void first_look_sends(void);

#endif
