/* SPDX-License-Identifier: BSD-3-Clause */
/* Environment scripts of the image that need a real shell. They are user code, so the launcher runs them, in the
 * task's control group and with its limits. */
#define _GNU_SOURCE
#include "enter.h"
#include "wire.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define QUIET_SHOWN 4096

int print_environment(void)
{
	for (char **at = environ; *at; at++)
		if (fwrite(*at, strlen(*at) + 1, 1, stdout) != 1)
			return EXIT_BOLLARD;
	return fflush(stdout) == 0 ? 0 : EXIT_BOLLARD;
}

/* Executes the image's bash, because recipes are written for it, else its sh. Returns on failure. With -p bash does not
 * read the file that $BASH_ENV names. */
static void exec_shell(char *script, char **envp)
{
	static const char *const places[] = { "/bin/bash", "/usr/bin/bash", "/usr/local/bin/bash" };
	char *bash[] = { "bash", "-p", "-c", script, NULL }, *sh[] = { "sh", "-c", script, NULL };

	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++)
		execve(places[i], bash, envp);
	execve("/bin/sh", sh, envp);
}

/* In a child: runs the image's shell with the frame's environment and script. `out` becomes its stdout, and `quiet` its
 * descriptor QUIET_FD, or /dev/null when `quiet` is -1. Never returns; the exit status is 127 on failure. */
static void be_shell(const struct namespaces *namespaces, char *frame, uint32_t size, int out, int quiet)
{
	char *at = frame, **envp = wire_next_list(&at, frame + size), *script = envp ? wire_next(&at, frame + size) : NULL;
	const char *root = script ? wire_next(&at, frame + size) : NULL;
	int status, self = open("/proc/self/exe", O_RDONLY), null = open("/dev/null", O_RDWR);

	/* join() comes before dup2(): one of the namespaces' descriptors may have the number PRINTER_FD. */
	if (root && self >= 0 && null >= 0 && join(namespaces) == 0 && dup2(null, 0) == 0 && dup2(out, 1) == 1 &&
	    (self == PRINTER_FD ? fcntl(self, F_SETFD, 0) == 0 : dup2(self, PRINTER_FD) == PRINTER_FD) &&
	    dup2(quiet >= 0 ? quiet : null, QUIET_FD) == QUIET_FD && chdir("/") == 0) {
		/* setns(2) puts only children into a process namespace. Without a /proc/self this process is not in
		 * it: fork. */
		pid_t pid = access("/proc/self/", F_OK) == 0 ? 0 : fork();

		if (pid > 0)
			_exit(waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status) : 127);
		if (pid == 0)
			act_as_root(root);
		if (pid == 0)
			exec_shell(script, envp);
	}
	_exit(127);
}

/* Returns a file in memory whose descriptor is higher than those that be_shell() assigns, for the caller to close;
 * -1 on failure. */
static int quiet_file(void)
{
	int file = memfd_create("bollard-output", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int high = file < 0 ? -1 : fcntl(file, F_DUPFD_CLOEXEC, PRINTER_FD + 1);

	if (file >= 0)
		close(file);
	return high;
}

/* Prints the end of the output of a script that failed. Seals the file first: processes that the script left running
 * cannot add to it any more. */
static void show_quiet(int quiet, int failed)
{
	char text[QUIET_SHOWN];
	off_t end = lseek(quiet, 0, SEEK_END);
	ssize_t n;

	fcntl(quiet, F_ADD_SEALS, F_SEAL_GROW);
	if (!failed || end <= 0)
		return;
	n = pread(quiet, text, sizeof(text), end > QUIET_SHOWN ? end - QUIET_SHOWN : 0);
	if (n > 0 && fwrite(text, 1, (size_t) n, stderr) == (size_t) n && text[n - 1] != '\n')
		fputc('\n', stderr);
}

static long long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

/* The keeper gets the output of the script's shell, whatever its exit status is. An empty frame means that no shell
 * ran. */
int run_script(int fd, const struct namespaces *namespaces, char *frame, uint32_t size)
{
	static char output[SCRIPT_OUTPUT_MAX];
	struct pollfd more = { .events = POLLIN };
	uint32_t used = 0;
	long long deadline = now_ms() + SCRIPT_MS;
	struct sigaction children = { .sa_handler = SIG_DFL }, before;
	int ends[2], status = 0, ended = 0, quiet = quiet_file();
	pid_t pid;

	/* The parent of this task may have set SIGCHLD to be ignored: the kernel then keeps no status of a child. */
	if (pipe2(ends, O_CLOEXEC) < 0 || fcntl(ends[0], F_SETFL, O_NONBLOCK) < 0 ||
	    sigaction(SIGCHLD, &children, &before) < 0 || (pid = fork()) < 0)
		return -1;
	if (pid == 0)
		be_shell(namespaces, frame, size, ends[1], quiet);
	close(ends[1]);
	more.fd = ends[0];
	/* Wait for the end of the shell, not of the pipe: a script may leave a process running that holds the pipe. */
	while (!ended && now_ms() < deadline) {
		ssize_t n = 0;

		ended = waitpid(pid, &status, WNOHANG) == pid;
		while (used < SCRIPT_OUTPUT_MAX && (n = read(ends[0], output + used, SCRIPT_OUTPUT_MAX - used)) > 0)
			used += (uint32_t) n;
		if (n == 0)
			more.fd = -1;  /* closed, or the buffer is full: poll() only waits from here on */
		if (!ended)
			poll(&more, 1, 10);
	}
	close(ends[0]);
	if (!ended) {
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		fprintf(stderr, "bollard: the image's environment scripts took over %d s and were ended\n",
			SCRIPT_MS / 1000);
	}
	if (quiet >= 0) {
		show_quiet(quiet, used == 0 || status != 0);
		close(quiet);
	}
	if (sigaction(SIGCHLD, &before, NULL) < 0)
		return -1;
	if (wire_write(fd, &used, sizeof(used)) < 0)
		return -1;
	return wire_write(fd, output, used);
}
