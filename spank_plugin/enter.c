/* SPDX-License-Identifier: BSD-3-Clause */
/* bollard-enter: the static launcher Slurm executes in place of the task. It runs on the host after
 * TaskProlog and limits, asks the keeper, joins its namespaces and becomes the program. */
#define _GNU_SOURCE
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* runtime/environment.py: PRINTER_FD; runtime/entry.py: SCRIPT_OUTPUT_MAX */
#define PRINTER_FD 9
#define OUTPUT_MAX (4u << 20)
#define SCRIPT_MS 60000

static const char DEFAULT_PATH[] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

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
};

static int fail(const char *text)
{
	fprintf(stderr, "bollard: %s\n", text);
	return EXIT_BOLLARD;
}

/* Descriptor 1 gets the environment, NUL-separated: how the keeper learns what a shell exported. */
static int print_environment(void)
{
	for (char **at = environ; *at; at++)
		if (fwrite(*at, strlen(*at) + 1, 1, stdout) != 1)
			return EXIT_BOLLARD;
	return fflush(stdout) == 0 ? 0 : EXIT_BOLLARD;
}

/* "T", size, then argc, argv..., envc, envp..., cwd, verbose: all NUL-terminated. */
static int send_request(int fd, char **argv, char **envp, const char *cwd, const char *verbose)
{
	char head[1 + sizeof(uint32_t)], count[2][24];
	size_t size = 0, argc = 0, envc = 0, at = 0;
	char *frame;
	int rc;

	for (; argv[argc]; argc++)
		size += strlen(argv[argc]) + 1;
	for (; envp[envc]; envc++)
		size += strlen(envp[envc]) + 1;
	snprintf(count[0], sizeof(count[0]), "%zu", argc);
	snprintf(count[1], sizeof(count[1]), "%zu", envc);
	size += strlen(count[0]) + strlen(count[1]) + strlen(cwd) + strlen(verbose) + 4;
	if (size > WIRE_FRAME_MAX) {
		errno = E2BIG;
		return -1;
	}
	frame = malloc(size);
	if (!frame)
		return -1;
#define PUT(text) do { size_t n_ = strlen(text) + 1; memcpy(frame + at, text, n_); at += n_; } while (0)
	PUT(count[0]);
	for (size_t i = 0; i < argc; i++)
		PUT(argv[i]);
	PUT(count[1]);
	for (size_t i = 0; i < envc; i++)
		PUT(envp[i]);
	PUT(cwd);
	PUT(verbose);
#undef PUT
	head[0] = WIRE_TASK;
	memcpy(head + 1, &(uint32_t){(uint32_t) size}, sizeof(uint32_t));
	rc = wire_write(fd, head, sizeof(head));
	if (rc == 0)
		rc = wire_write(fd, frame, size);
	free(frame);
	return rc;
}

/* Status byte with descriptors attached, then one frame. */
static int read_reply(int fd, char *status, struct ways *ways, char **frame, uint32_t *size)
{
	union { struct cmsghdr head; char space[CMSG_SPACE(WAYS_MAX * sizeof(int))]; } control;
	struct iovec part = { .iov_base = status, .iov_len = 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1,
				  .msg_control = &control, .msg_controllen = sizeof(control) };
	struct cmsghdr *rights;
	ssize_t n;

	ways->count = 0;
	do
		n = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n == 0)
		errno = ECONNRESET;
	if (n <= 0)
		return -1;
	rights = CMSG_FIRSTHDR(&message);
	if (rights && rights->cmsg_level == SOL_SOCKET && rights->cmsg_type == SCM_RIGHTS) {
		ways->count = (int) ((rights->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(ways->fds, CMSG_DATA(rights), (size_t) ways->count * sizeof(int));
	}
	if (wire_read(fd, size, sizeof(*size)) < 0)
		return -1;
	if (*size == 0 || *size > WIRE_FRAME_MAX) {
		errno = EPROTO;
		return -1;
	}
	*frame = malloc(*size);
	if (!*frame || wire_read(fd, *frame, *size) < 0)
		return -1;
	if ((*frame)[*size - 1] != '\0') {
		errno = EPROTO;
		return -1;
	}
	return 0;
}

/* The next string of a frame whose last byte is NUL; NULL at its end. */
static char *next(char **at, const char *end)
{
	char *text = *at;

	if (text >= end)
		return NULL;
	*at += strlen(text) + 1;
	return text;
}

static char **next_list(char **at, const char *end)
{
	char *text = next(at, end), **list;
	unsigned long count = text ? strtoul(text, NULL, 10) : 0;

	if (!text || count > (unsigned long) (end - *at))
		return NULL;
	list = calloc(count + 1, sizeof(*list));
	for (unsigned long i = 0; list && i < count; i++) {
		list[i] = next(at, end);
		if (!list[i]) {
			free(list);
			return NULL;
		}
	}
	return list;
}

static int parse(struct entry *entry, uint32_t size)
{
	char *at = entry->frame, *end = entry->frame + size;

	entry->argv = next_list(&at, end);
	entry->envp = entry->argv ? next_list(&at, end) : NULL;
	entry->cwd = entry->envp ? next(&at, end) : NULL;
	entry->note = entry->cwd ? next(&at, end) : NULL;
	entry->mode = entry->note ? next(&at, end) : NULL;
	if (entry->mode && entry->argv[0])
		return 0;
	errno = EPROTO;
	return -1;
}

/* Joining needs no privilege; and no set-user-id program of the image may give more than the user has. */
static int join(const struct ways *ways)
{
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -1;
	for (int i = 0; i < ways->count; i++)
		if (setns(ways->fds[i], 0) < 0)
			return -1;
	return 0;
}

/* In a child: the image's shell with the frame's environment and script, its output to `out`. */
static void be_shell(const struct ways *ways, char *frame, uint32_t size, int out)
{
	char *at = frame, **envp = next_list(&at, frame + size), *script = envp ? next(&at, frame + size) : NULL;
	char *argv[] = { "sh", "-c", script, NULL };
	int status, self = open("/proc/self/exe", O_RDONLY), null = open("/dev/null", O_RDWR);

	/* Joined first: any of these descriptors may have the printer's number. */
	if (script && self >= 0 && null >= 0 && join(ways) == 0 && dup2(null, 0) == 0 && dup2(out, 1) == 1 &&
	    (self == PRINTER_FD ? fcntl(self, F_SETFD, 0) == 0 : dup2(self, PRINTER_FD) == PRINTER_FD) &&
	    chdir("/") == 0) {
		/* Children alone enter a process namespace; its /proc knows no others. */
		pid_t pid = access("/proc/self/", F_OK) == 0 ? 0 : fork();

		if (pid > 0)
			_exit(waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status) : 127);
		if (pid == 0)
			execve("/bin/sh", argv, envp);
	}
	_exit(127);
}

static long long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

/* Environment scripts of the image that need a real shell are user code: they run here, in the task's
 * own control group and limits, and the keeper gets what they export. One empty frame means no shell. */
static int run_script(int fd, const struct ways *ways, char *frame, uint32_t size)
{
	static char output[OUTPUT_MAX];
	struct pollfd more = { .events = POLLIN };
	uint32_t used = 0;
	long long deadline = now_ms() + SCRIPT_MS;
	int ends[2], status = 0, ended = 0;
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0 || (pid = fork()) < 0)
		return -1;
	if (pid == 0)
		be_shell(ways, frame, size, ends[1]);
	close(ends[1]);
	more.fd = ends[0];
	/* Until the shell has ended, not until the pipe has: a script may leave something running. */
	while (!ended && now_ms() < deadline) {
		ssize_t n = 0;

		ended = waitpid(pid, &status, WNOHANG) == pid;
		while (used < OUTPUT_MAX && (n = read(ends[0], output + used, OUTPUT_MAX - used)) > 0)
			used += (uint32_t) n;
		if (n == 0)
			more.fd = -1;  /* closed, or more than we take: poll() only waits from here on */
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
	if (status != 0)
		used = 0;
	if (wire_write(fd, &used, sizeof(used)) < 0)
		return -1;
	return wire_write(fd, output, used);
}

static int ask(int fd, char **argv, const char *verbose, struct entry *entry, struct ways *ways, uint32_t *size, char *status)
{
	static char here[1 << 16];

	if (!getcwd(here, sizeof(here)))
		strcpy(here, "/");
	if (send_request(fd, argv, environ, here, verbose) < 0 || read_reply(fd, status, ways, &entry->frame, size) < 0)
		return -1;
	while (*status == WIRE_SCRIPT) {
		if (run_script(fd, ways, entry->frame, *size) < 0)
			return -1;
		for (int i = 0; i < ways->count; i++)
			close(ways->fds[i]);
		free(entry->frame);
		entry->frame = NULL;
		if (read_reply(fd, status, ways, &entry->frame, size) < 0)
			return -1;
	}
	return 0;
}

/* Ask the keeper at `name` for entry of the command `argv` and join its namespaces.
 * 0, or -1 after the reason was put into `why`. */
static int enter(const char *name, char **argv, const char *verbose, struct entry *entry, int *keeper,
		 char *why, size_t size)
{
	struct ways ways = { .count = 0 };
	int fd;
	uint32_t length = 0;
	char status = 0;

	do
		fd = wire_connect(name, getuid(), NULL);
	while (fd < 0 && errno == EAGAIN && usleep(1000) == 0);  /* thousands of tasks are before this one */
	if (fd < 0) {
		snprintf(why, size, "the container's keeper on this node is gone (%s); "
			 "submit again, and tell the site's administrator if it comes back", strerror(errno));
		return -1;
	}
	/* Whatever fails below ends this process: descriptors and memory go with it. */
	if (ask(fd, argv, verbose, entry, &ways, &length, &status) < 0)
		snprintf(why, size, "the container's keeper on this node ended before it let the task in (%s); "
			 "submit again, and tell the site's administrator if it comes back", strerror(errno));
	else if (status != WIRE_OK)
		snprintf(why, size, "%s", entry->frame);
	else if (ways.count < 2 || parse(entry, length) < 0)
		snprintf(why, size, "the container's keeper gave an answer this launcher cannot read; "
			 "are both of one bollard version?");
	else if (join(&ways) < 0)
		snprintf(why, size, "cannot join the container's namespaces: %s", strerror(errno));
	else if ((*keeper = fd, chdir(entry->cwd)) < 0)
		snprintf(why, size, "cannot change to %s in the container: %s", entry->cwd, strerror(errno));
	else
		return 0;
	return -1;
}

#define MODE_SAVE "save"  /* runtime/entry.py: SAVE; any other: WAIT */

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
static void supervise(int keeper, int saved)
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

static const char *variable(char **envp, const char *name)
{
	size_t size = strlen(name);

	for (; *envp; envp++)
		if (strncmp(*envp, name, size) == 0 && (*envp)[size] == '=')
			return *envp + size + 1;
	return NULL;
}

/* execve(2), and as execvp(3) and every shell do, a script without a #! line goes to /bin/sh. */
static void execute(const char *file, char **argv, char **envp)
{
	char **with_shell, magic[4] = "";
	size_t argc = 0;
	int fd;

	execve(file, argv, envp);
	if (errno != ENOEXEC)
		return;
	fd = open(file, O_RDONLY | O_CLOEXEC);
	if (fd >= 0 && read(fd, magic, sizeof(magic)) == sizeof(magic) && memcmp(magic, "\177ELF", 4) == 0) {
		errno = ENOEXEC;  /* a program for another machine is no script */
		return;
	}
	while (argv[argc])
		argc++;
	with_shell = calloc(argc + 2, sizeof(*with_shell));
	if (!with_shell)
		return;
	with_shell[0] = "sh";
	with_shell[1] = (char *) file;
	if (argc > 1)
		memcpy(with_shell + 2, argv + 1, (argc - 1) * sizeof(*with_shell));
	execve("/bin/sh", with_shell, envp);
	free(with_shell);
	errno = ENOEXEC;
}

/* Becomes the program, looked up in the image by the image's PATH; returns errno of the best failure. */
static int become(char **argv, char **envp)
{
	const char *path = variable(envp, "PATH"), *at, *colon;
	static char file[1 << 16];
	int reason = ENOENT;

	if (strchr(argv[0], '/')) {
		execute(argv[0], argv, envp);
		return errno;
	}
	for (at = path ? path : DEFAULT_PATH; ; at = colon + 1) {
		colon = strchrnul(at, ':');
		snprintf(file, sizeof(file), "%.*s/%s", (int) (colon - at), at == colon ? "." : at, argv[0]);
		if (at == colon)
			snprintf(file, sizeof(file), "./%s", argv[0]);
		execute(file, argv, envp);
		if (errno != ENOENT && errno != ENOTDIR)
			reason = errno;
		if (*colon == '\0')
			return reason;
	}
}

/* As the fusermount of libfuse 2 (runtime/fuse.py): hand over the descriptor that is mounted already. */
static int be_fusermount(const char *socket_number, const char *device)
{
	union { struct cmsghdr head; char space[CMSG_SPACE(sizeof(int))]; } control;
	char byte = 0;
	struct iovec part = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1,
				  .msg_control = &control, .msg_controllen = sizeof(control) };
	int fd = atoi(device);

	control.head = (struct cmsghdr) { .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET,
					  .cmsg_type = SCM_RIGHTS };
	memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
	return sendmsg(atoi(socket_number), &message, 0) == 1 ? 0 : EXIT_BOLLARD;
}

int main(int argc, char **argv)
{
	const char *fuse_socket = getenv("_FUSE_COMMFD"), *fuse_device = getenv("BOLLARD_FUSE_FD");
	const char *name = getenv(ENV_ENTRY), *first = getenv(ENV_ARGV0), *image;
	const char *local = getenv("SLURM_LOCALID"), *verbose = getenv(ENV_VERBOSE);
	char *address, why[4096];
	struct entry entry = { 0 };
	int reason, keeper = -1;

	if (fuse_device)  /* without a socket it is asked to unmount, which our end does */
		return fuse_socket ? be_fusermount(fuse_socket, fuse_device) : 0;
	if (!name && argc == 2 && strcmp(argv[1], "--print-environment") == 0)
		return print_environment();
	if (!name && getenv(ENV_SPEC))
		return fail("Slurm on this node has not loaded the bollard plugin, so there is no container; "
			    "the site's administrator should see its plugstack.conf");
	if (!name)
		return fail("bollard-enter is started by Slurm or by the bollard command, not by hand; "
			    "try: bollard exec IMAGE COMMAND");
	address = strdup(name);
	if (first)  /* this launcher stands in argv[0] itself: Slurm before 23.11 */
		argv[0] = strdup(first);
	else
		argv++;
	if (!address || (first && !argv[0]))
		return fail("out of memory");
	if (argc < 1 || !argv[0])
		return fail("no command given; name a program of the image");
	unsetenv(ENV_ENTRY);
	unsetenv(ENV_ARGV0);
	/* One task of the node tells. */
	verbose = verbose && (!local || strcmp(local, "0") == 0) ? strdup(verbose) : "";
	unsetenv(ENV_VERBOSE);
	if (enter(address, argv, verbose ? verbose : "", &entry, &keeper, why, sizeof(why)) < 0)
		return fail(why);
	fputs(entry.note, stderr);
	if (entry.mode[0])
		supervise(keeper, strcmp(entry.mode, MODE_SAVE) == 0);
	reason = become(entry.argv, entry.envp);
	image = variable(entry.envp, "BOLLARD_IMAGE");
	snprintf(why, sizeof(why), "%s: %s in the container %s; %s", entry.argv[0],
		 reason == ENOENT ? "not found" : strerror(reason), image ? image : "",
		 reason == ENOENT ? "is it in the image's PATH, and does its interpreter or loader exist there?" :
		 reason == E2BIG ? "pass fewer or shorter arguments and variables" :
		 reason == ENOEXEC ? "is it built for this machine?" :
		 "is it an executable file?");
	return fail(why);
}
