/* SPDX-License-Identifier: BSD-3-Clause */
/* The pre-flight's first look at an image, in a child beside srun: it takes longer than the step's creation. Child and
 * srun agree in one word of shared memory who tells the user of ranks that do not find each other. */
#define _GNU_SOURCE
#include "first_look.h"
#include "python.h"
#include "constants.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* Who tells: not decided; the child, which prints its warning; rank 0's launcher, because srun has sent the step. */
enum { OPEN, CHILD, LAUNCHER };

static int *teller;     /* in shared memory; NULL without a first look */
static int end = -1;    /* of a pipe that the child holds until it ends */
static pid_t srun;

/* Sets *teller if nobody has decided before. Returns 1, or 0 when it was decided. */
static int decide(int who)
{
	int open = OPEN;

	return __atomic_compare_exchange_n(teller, &open, who, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

int first_look_tells(int launcher_does)
{
	return !teller || decide(CHILD) || !launcher_does;
}

void first_look_sends(void)
{
	if (teller && !decide(LAUNCHER) && setenv(ENV_TOLD, "1", 1) < 0)
		unsetenv(ENV_TOLD);  /* the launcher then says it a second time */
}

/* Waits at the end of srun until the child has ended: its warning must not come after the shell's prompt. The child ends
 * itself after a time (image_root.py). */
static void wait_for_child(void)
{
	char byte;

	if (getpid() != srun)  /* a process that srun has forked */
		return;
	while (read(end, &byte, 1) < 0 && errno == EINTR)
		;
}

/* Returns the verdict, in memory that is never freed; NULL for none. */
static const char *verdict(const char *request)
{
	static char text[65536];
	char tree[PATH_MAX], why[1024] = "";
	int fd = memfd_create("verdict", MFD_CLOEXEC);

	/* Resolved once: an upgrade can change the prefix, a link, to another tree at any time. */
	if (fd < 0 || !realpath(BOLLARD_PREFIX, tree) || python_look(tree, request, fd, why, sizeof(why)) < 0 ||
	    pread(fd, text, sizeof(text) - 1, 0) <= 0)
		return NULL;
	return text;
}

/* The child's main function. It has srun's signal mask, in which those of the keyboard may be blocked. */
static void look(const char *request, judge_fn *judge, const void *ask)
{
	sigset_t none;
	const char *text;

	sigemptyset(&none);
	prctl(PR_SET_NAME, "bollard-look");
	if (sigprocmask(SIG_SETMASK, &none, NULL) < 0 || signal(SIGCHLD, SIG_DFL) == SIG_ERR)
		return;
	text = verdict(request);
	if (text)
		judge(ask, text);
}

/* Forks the child as a child of a child that ends at once: srun never waits for it, and would have a zombie as long as the
 * step runs. Returns 0, or -1 when it does not run. */
static int start(const char *request, judge_fn *judge, const void *ask)
{
	struct sigaction children = { .sa_handler = SIG_DFL }, before;
	int status = -1;
	pid_t pid, child;

	/* The parent of srun may have set SIGCHLD to be ignored: the kernel then keeps no status of a child. */
	if (sigaction(SIGCHLD, &children, &before) < 0)
		return -1;
	pid = fork();
	if (pid == 0) {
		child = fork();
		if (child == 0)
			look(request, judge, ask);
		_exit(child < 0);
	}
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return sigaction(SIGCHLD, &before, NULL) < 0 || status != 0 ? -1 : 0;
}

int first_look(const char *request, judge_fn *judge, const void *ask)
{
	void *shared = mmap(NULL, sizeof(*teller), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int ends[2], rc;

	if (shared == MAP_FAILED || pipe2(ends, O_CLOEXEC) < 0)
		return -1;
	srun = getpid();
	end = ends[0];
	teller = shared;
	rc = atexit(wait_for_child) != 0 ? -1 : start(request, judge, ask);
	close(ends[1]);
	if (rc < 0)
		teller = NULL;  /* the caller looks itself, and tells */
	return rc;
}
