/* SPDX-License-Identifier: BSD-3-Clause */
/* Runs the program as a child of the launcher; the launcher stays the task. */
#define _GNU_SOURCE
#include "enter.h"
#include "wire.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile pid_t program;  /* 0 once it has ended */

/* Signal handler: sends the signal on to the program. A signal from the kernel, as of a terminal, has reached the
 * program already. */
static void pass_on(int number, siginfo_t *info, void *context)
{
	int saved = errno;

	(void) context;
	if (program > 0 && info->si_code <= 0 && info->si_pid != program)
		kill(program, number);
	errno = saved;
}

/* Ends this process as the program ended: with the same exit status or signal. */
static void end_alike(int status)
{
	if (WIFSIGNALED(status)) {
		setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });  /* the program has written its own core file */
		signal(WTERMSIG(status), SIG_DFL);
		raise(WTERMSIG(status));
	}
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_BOLLARD);
}

/* Waits for the program and returns its status. Reaps it only after `program` is 0: pass_on() then sends no signal
 * to a later process with the same process id. */
static int status_of(pid_t child)
{
	int status = EXIT_BOLLARD << 8;
	siginfo_t ended;

	while (waitid(P_PID, (id_t) child, &ended, WEXITED | WNOWAIT) < 0 && errno == EINTR)
		;
	program = 0;
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	return status;
}

/* Tells the keeper that the program has ended. Writes its answer to `text`, which has `room` bytes: "", or the
 * reason why the container was not saved. */
static void report(int keeper, char *text, uint32_t room)
{
	char byte = WIRE_DONE;
	uint32_t size = 0;

	if (wire_write(keeper, &byte, 1) < 0 || wire_read(keeper, &byte, 1) < 0 ||
	    wire_read(keeper, &size, sizeof(size)) < 0 || size == 0 || size > room || wire_read(keeper, text, size) < 0)
		strcpy(text, "the container was not saved: its keeper ended");
	text[room - 1] = '\0';
}

void supervise(int keeper, int saved)
{
	static const int passed[] = { SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM, SIGCONT, SIGWINCH };
	struct sigaction action = { .sa_sigaction = pass_on, .sa_flags = SA_SIGINFO | SA_RESTART };
	struct sigaction children = { .sa_handler = SIG_DFL }, chosen;
	char text[4096] = "";
	sigset_t all, before;
	pid_t child;
	int status;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);  /* until `program` is known */
	/* The parent of this task may have set SIGCHLD to be ignored: the kernel then keeps no status of a child. */
	sigaction(SIGCHLD, &children, &chosen);
	program = child = fork();
	if (child < 0) {
		fail_once("cannot start the program: too many processes; end some, and try again");
		_exit(EXIT_BOLLARD);
	}
	if (child == 0) {
		sigaction(SIGCHLD, &chosen, NULL);
		sigprocmask(SIG_SETMASK, &before, NULL);
		return;
	}
	for (size_t i = 0; i < sizeof(passed) / sizeof(*passed); i++)
		sigaction(passed[i], &action, NULL);
	sigprocmask(SIG_SETMASK, &before, NULL);
	status = status_of(child);
	if (saved)
		report(keeper, text, sizeof(text));
	if (text[0]) {
		fail_once(text);
		status = status ? status : EXIT_BOLLARD << 8;
	}
	end_alike(status);
}
