/* SPDX-License-Identifier: BSD-3-Clause */
/* The parts of bollard-enter, the launcher. Each runs in the task, as the task's user, never as root. */
#ifndef BOLLARD_ENTER_H
#define BOLLARD_ENTER_H

#include <stddef.h>
#include <stdint.h>

/* A container's namespaces: the user namespace first, the mount namespace second. */
#define WAYS_MAX 6

/* Descriptors of the namespaces to join. */
struct namespaces {
	int fds[WAYS_MAX];
	int count;
};

/* The keeper's answer: what this task runs, and where. */
struct entry {
	char *frame;  /* owns the strings below; never freed: the program replaces this process */
	char **argv;
	char **envp;
	const char *cwd;
	const char *note;  /* for the user's stderr; may be empty */
	const char *mode;  /* "", or how to run the program: see supervise() */
	const char *root;  /* "", or "root": the task appears as root, see act_as_root() */
	const char *scratch;  /* "", or the task's $TMPDIR, which the container lacks: see show_scratch() */
};

/* entry.c: asks the keeper at `name` to admit the command `argv`, joins the container's namespaces and changes to
 * its directory. Returns 0, fills `entry`, and stores the connection, which is then the caller's, in `keeper`.
 * Returns -1 with the reason in `why`, which has `size` bytes. */
int enter(const char *name, char **argv, const char *verbose, struct entry *entry, int *keeper, char *why, size_t size);

/* become.c: joins the namespaces. Returns 0, or -1 with errno. Sets no_new_privs first: from here on a set-user-id
 * program gives this process no privilege. */
int join(const struct namespaces *namespaces);

/* scratch.c: shows the directory `path` of the host at the same path of the container, if it is another one there. Does
 * nothing where that fails. Call it before join(). */
void show_scratch(const struct namespaces *namespaces, const char *path);

/* become.c: installs a seccomp filter that makes changes of owner succeed without effect, in this process and all
 * that it starts. Does nothing for `root` "". Prints a warning when the kernel refuses the filter. */
void act_as_root(const char *root);

/* script.c: runs the environment script in `frame` (`size` bytes) in the container, and sends its output to `keeper`.
 * Returns 0, or -1 with errno. The frame stays the caller's. */
int run_script(int keeper, const struct namespaces *namespaces, char *frame, uint32_t size);

/* script.c: writes this process's environment to stdout, NUL-separated: the keeper reads from it what a shell exported.
 * Returns the exit status: 0, or EXIT_BOLLARD. */
int print_environment(void);

/* supervise.c: forks, and returns in the child alone. The parent never returns: it passes signals to the child,
 * waits for it and ends as it did. With `saved` the parent first tells the keeper that the program has ended, and
 * waits until the container is saved. When fork(2) fails, the process ends with EXIT_BOLLARD. */
void supervise(int keeper, int saved);

/* become.c: executes the program `argv`, looked up in the image by PATH of `envp`. Returns only on failure, with the
 * errno that tells the user most. */
int become(char **argv, char **envp);

/* become.c: returns the value of the variable `name` in `envp`, or NULL. The string belongs to `envp`. */
const char *variable(char **envp, const char *name);

/* fail_once.c: prints "bollard: TEXT" on stderr, once for all tasks of the step on this node. Returns EXIT_BOLLARD. */
int fail_once(const char *text);

#endif
