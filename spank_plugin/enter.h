/* SPDX-License-Identifier: BSD-3-Clause */
/* The parts of bollard-enter, the launcher. Each runs in the task, as its user. */
#ifndef BOLLARD_ENTER_H
#define BOLLARD_ENTER_H

#include <stddef.h>
#include <stdint.h>

/* A container's namespaces: the user namespace first, the mount namespace second. */
#define WAYS_MAX 6

struct ways {
	int fds[WAYS_MAX];
	int count;
};

/* What the keeper answered: where this task goes. */
struct entry {
	char *frame;  /* owns the strings below; lives until the program takes over */
	char **argv;
	char **envp;
	const char *cwd;
	const char *note;  /* for the user's stderr, may be empty */
	const char *mode;  /* "", or how to run the program: see supervise() */
	const char *root;  /* "", or "root": the program believes to be root, see act_as_root() */
};

/* entry.c: ask the keeper at `name` for entry of the command `argv`, join its namespaces, change to its directory.
 * 0 with the connection in `keeper`, or -1 with the reason in `why`. */
int enter(const char *name, char **argv, const char *verbose, struct entry *entry, int *keeper, char *why, size_t size);

/* entry.c: 0, or -1 with errno. No set-user-id program gives this process more than it has from here on. */
int join(const struct ways *ways);

/* become.c: from here on changes of owner succeed without doing anything, in this process and all that it starts. */
void act_as_root(const char *root);

/* script.c: run the environment script in `frame` in the container, and send what it prints to `keeper`. */
int run_script(int keeper, const struct ways *ways, char *frame, uint32_t size);

/* script.c: this process's environment to descriptor 1, NUL-separated: how the keeper learns what a shell exported. */
int print_environment(void);

/* supervise.c: fork; returns in the child alone. The parent waits for it, passes signals on and ends as it did. With
 * `saved` it tells the keeper before, and waits for the answer: the container is being saved. */
void supervise(int keeper, int saved);

/* become.c: become the program `argv`, looked up in the image by PATH of `envp`; the best errno where that failed. */
int become(char **argv, char **envp);

/* become.c: the value of a variable in `envp`, or NULL. */
const char *variable(char **envp, const char *name);

/* enter.c: tell the user why not; the exit status. */
int fail(const char *text);

#endif
