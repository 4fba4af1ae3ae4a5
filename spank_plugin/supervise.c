/* SPDX-License-Identifier: BSD-3-Clause */
/* The program as a child of the launcher, which stays the task. */
#define _GNU_SOURCE
#include "enter.h"
#include "wire.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static pid_t program;  /* of supervise() */

/* What reaches this process goes to the program; what a terminal sends has reached it already. */
static void pass_on(int number, siginfo_t *info, void *context)
{
	(void) context;
	if (info->si_code <= 0 && info->si_pid != program)
		kill(program, number);
}

/* End as the program did, so that whoever waits for this process learns the same. */
static void end_alike(int status)
{
	if (WIFSIGNALED(status)) {
		setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });  /* the program's own core is there */
		signal(WTERMSIG(status), SIG_DFL);
		raise(WTERMSIG(status));
	}
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_BOLLARD);
}

/* The program runs as a child; this process waits for it and ends as it did. With `saved` it tells the keeper
 * before, and waits for the answer: the container is being saved. Returns in the child alone. */
void supervise(int keeper, int saved)
{
	static const int passed[] = { SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM, SIGCONT, SIGWINCH };
	struct sigaction action = { .sa_sigaction = pass_on, .sa_flags = SA_SIGINFO | SA_RESTART };
	sigset_t all, before;
	int status = 0;
	uint32_t size = 0;
	char byte = WIRE_DONE, text[4096] = "";

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);  /* until `program` is known */
	program = fork();
	if (program < 0) {
		fail("cannot start the program: too many processes; end some, and try again");
		_exit(EXIT_BOLLARD);
	}
	if (program == 0) {
		sigprocmask(SIG_SETMASK, &before, NULL);
		return;
	}
	for (size_t i = 0; i < sizeof(passed) / sizeof(*passed); i++)
		sigaction(passed[i], &action, NULL);
	sigprocmask(SIG_SETMASK, &before, NULL);
	while (waitpid(program, &status, 0) < 0 && errno == EINTR)
		;
	if (!saved)
		end_alike(status);
	if (wire_write(keeper, &byte, 1) < 0 || wire_read(keeper, &byte, 1) < 0 ||
	    wire_read(keeper, &size, sizeof(size)) < 0 || size == 0 || size > sizeof(text) ||
	    wire_read(keeper, text, size) < 0)
		strcpy(text, "the container was not saved: its keeper ended");
	text[sizeof(text) - 1] = '\0';
	if (text[0]) {
		fail(text);
		status = status ? status : EXIT_BOLLARD << 8;
	}
	end_alike(status);
}
