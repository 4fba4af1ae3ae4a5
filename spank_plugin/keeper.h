/* SPDX-License-Identifier: BSD-3-Clause */
/* The interface between slurmstepd's child (keeper.c) and the program that it executes (keeper_main.c). Both run as
 * the user. */
#ifndef BOLLARD_KEEPER_H
#define BOLLARD_KEEPER_H

/* The environment variables of bollard-keeper; it has no others. The user cannot read them: the process is not
 * dumpable. */
#define KEEPER_SPEC "SPEC"
#define KEEPER_SITE "SITE"
#define KEEPER_PROGRAM "PROGRAM"
#define KEEPER_LISTENER "LISTENER"
#define KEEPER_JOB "JOB"
#define KEEPER_RECORD "RECORD"
#define KEEPER_WITNESS "WITNESS"  /* the keeper's connection to the witness */
#define KEEPER_SERVE "SERVE"      /* in the place of all others: be the witness of this connection */
#define KEEPER_FORKED "FORKED"
#define KEEPER_DROPPED "DROPPED"
#define KEEPER_BEFORE "BEFORE"

/* What a keeper is started with. The strings live until the process ends. */
struct keeper_job {
	const char *spec;
	const char *site;       /* the plugin's arguments in plugstack.conf, each followed by a space */
	const char *program;    /* argument 0 of the tasks, or "" */
	int listener, socket;   /* the first accepts tasks; the second hangs up when the job has ended */
	int before;             /* connection to the keeper of the container that this one follows; or -1 */
	long long times[2];     /* of slurmstepd's fork, and of giving up root in the child: CLOCK_MONOTONIC, ns */
};

/* witness.c: answers on the connection `fd` who owns the files whose descriptors come: uid and mode, two 32-bit numbers
 * each. Returns the exit status when the other side has closed it. Runs as the user, outside of any namespace of the
 * keeper. */
int serve_witness(int fd);

/* refusal.c: takes the keeper's place: sends `why` to each task that connects to `listener`. Returns when slurmstepd
 * has closed its lifeline, or when the listener fails. Runs as the user. `listener` stays the caller's. */
void serve_refusal(int listener, const char *why);

#endif
