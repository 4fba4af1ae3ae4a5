/* SPDX-License-Identifier: BSD-3-Clause */
/* bollard-enter: the static launcher that Slurm executes in place of the task. It runs on the host, after TaskProlog
 * and with the task's limits. It asks the keeper, joins the container's namespaces and executes the program. */
#define _GNU_SOURCE
#include "enter.h"
#include "ranks.h"
#include "wire.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* Acts as the fusermount of libfuse 2 (runtime/container/fuse.py): sends the descriptor `device` of /dev/fuse, which
 * the keeper has mounted already, through the socket. Returns the exit status. */
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

static int is_directory(const char *path)
{
	struct stat st;

	return path && path[0] == '/' && stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* Warns when $TMPDIR is not in the container: a TaskProlog may make that directory after the container was made.
 * Only the first task of the node prints it. */
static void warn_of_lost_scratch(const char *scratch, char **envp)
{
	const char *local = getenv("SLURM_LOCALID"), *inside = variable(envp, "TMPDIR");

	if (inside && strcmp(inside, scratch) == 0 && !is_directory(inside) && (!local || strcmp(local, "0") == 0))
		fprintf(stderr, "bollard: $TMPDIR is %s, which is not in the container; bind it, or ask the site's "
			"administrator to add its parent directory to `mounts` in bollard.yaml\n", inside);
}

int main(int argc, char **argv)
{
	const char *fuse_socket = getenv("_FUSE_COMMFD"), *fuse_device = getenv(ENV_FUSE_FD);
	const char *name = getenv(ENV_ENTRY), *first = getenv(ENV_ARGV0), *image;
	const char *scratch = is_directory(getenv("TMPDIR")) ? strdup(getenv("TMPDIR")) : NULL;
	const char *local = getenv("SLURM_LOCALID"), *verbose = getenv(ENV_VERBOSE);
	char *address, why[4096];
	int told = getenv(ENV_TOLD) != NULL;
	struct entry entry = { 0 };
	int reason, keeper = -1;

	if (fuse_device && !name)  /* without a socket: an unmount, not needed */
		return fuse_socket ? be_fusermount(fuse_socket, fuse_device) : 0;
	if (!name && argc == 2 && strcmp(argv[1], PRINTER_OPTION) == 0)
		return print_environment();
	if (!name && getenv(ENV_SPEC))
		return fail_once("Slurm on this node has not loaded the bollard plugin, so there is no container; "
			    "the site's administrator should see its plugstack.conf");
	if (!name)
		return fail_once("bollard-enter is started by Slurm or by the bollard command, not by hand; "
			    "try: bollard exec IMAGE COMMAND");
	address = strdup(name);
	if (first)  /* argv[0] is the launcher itself: Slurm before 23.11 */
		argv[0] = strdup(first);
	else
		argv++;
	if (!address || (first && !argv[0]))
		return fail_once("out of memory");
	if (argc < 1 || !argv[0])
		return fail_once("no command given; name a program of the image");
	unsetenv(ENV_ENTRY);
	unsetenv(ENV_ARGV0);
	unsetenv(ENV_TOLD);
	/* Only the first task of the node reports. */
	verbose = verbose && (!local || strcmp(local, "0") == 0) ? strdup(verbose) : "";
	unsetenv(ENV_VERBOSE);
	if (enter(address, argv, verbose ? verbose : "", &entry, &keeper, why, sizeof(why)) < 0)
		return fail_once(why);
	fputs(entry.note, stderr);
	if (scratch)
		warn_of_lost_scratch(scratch, entry.envp);
	if (entry.mode[0])
		supervise(keeper, strcmp(entry.mode, LAUNCHER_SAVE) == 0);
	act_as_root(entry.root);
	if (!told)
		warn_of_single_ranks(entry.argv, entry.envp);
	reason = become(entry.argv, entry.envp);
	image = variable(entry.envp, "BOLLARD_IMAGE");
	if (reason == ENOTCONN || reason == ECONNABORTED) {
		snprintf(why, sizeof(why), "%s: the file server of the container %s has ended on this node; submit again, "
			 "and tell the site's administrator if it comes back", entry.argv[0], image ? image : "");
		return fail_once(why);
	}
	snprintf(why, sizeof(why), "%s: %s in the container %s; %s", entry.argv[0],
		 reason == ENOENT ? "not found" : strerror(reason), image ? image : "",
		 reason == ENOENT && entry.argv[0][0] == '-' ? "options come before the image" :
		 reason == ENOENT ? "is it in the image's PATH, and does its interpreter or loader exist there?" :
		 reason == E2BIG ? "pass fewer or shorter arguments and variables" :
		 reason == ENOEXEC ? "is it built for this machine?" :
		 reason == ELOOP ? "its symbolic links form a loop" :
		 reason == ETXTBSY ? "somebody writes into this file; wait until that has ended" :
		 reason == ENAMETOOLONG ? "choose a shorter name" :
		 reason == EIO ? "the image is damaged, or the disk or network filesystem that it lies on cannot be read" :
		 reason == ENOMEM || reason == EAGAIN ? "see `ulimit -v` and `ulimit -u`, and the memory of the job" :
		 reason == EMFILE || reason == ENFILE ? "see `ulimit -n`" :
		 "is it an executable file?");
	return fail_once(why);
}
