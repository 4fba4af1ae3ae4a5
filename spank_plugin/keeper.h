/* SPDX-License-Identifier: BSD-3-Clause */
/* What slurmstepd's child (keeper.c) and the program that it becomes (keeper_start.c) agree on. */
#ifndef BOLLARD_KEEPER_H
#define BOLLARD_KEEPER_H

/* Variables of the environment of bollard-keeper, which are all that is in it: the user cannot read that. */
#define KEEPER_SPEC "SPEC"
#define KEEPER_SITE "SITE"
#define KEEPER_PROGRAM "PROGRAM"
#define KEEPER_LISTENER "LISTENER"
#define KEEPER_JOB "JOB"
#define KEEPER_RECORD "RECORD"
#define KEEPER_FORKED "FORKED"
#define KEEPER_DROPPED "DROPPED"

/* What a keeper is started with. */
struct keeper_job {
	const char *spec;
	const char *site;       /* the words of the plugin's line in plugstack.conf */
	const char *program;    /* argument 0 of the tasks, or "" */
	int listener, socket;   /* tasks come to the first; the second hangs up when the job has ended */
	long long times[2];     /* of slurmstepd's fork, and of the end of root in the child: CLOCK_MONOTONIC, ns */
};

/* refusal.c: tell every task that comes to `listener` why there is no container, until slurmstepd has gone. */
void serve_refusal(int listener, const char *why);

#endif
