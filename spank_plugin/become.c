/* SPDX-License-Identifier: BSD-3-Clause */
/* The launcher joins the container's namespaces, and becomes the program. */
#define _GNU_SOURCE
#include "enter.h"
#include "ownership.h"
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

/* The id by which the namespace shows a group that is not mapped (overflowgid, user_namespaces(7)). */
#define NO_GROUP 65534

/* Joining needs no privilege: the user owns the user namespace, which comes first. no_new_privs keeps set-user-id
 * programs of the image from giving more rights than the user has. */
int join(const struct namespaces *namespaces)
{
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -1;
	for (int i = 0; i < namespaces->count; i++)
		if (setns(namespaces->fds[i], 0) < 0)
			return -1;
	return 0;
}

const char *variable(char **envp, const char *name)
{
	size_t size = strlen(name);

	for (; *envp; envp++)
		if (strncmp(*envp, name, size) == 0 && (*envp)[size] == '=')
			return *envp + size + 1;
	return NULL;
}

void act_as_root(const char *root)
{
	static gid_t groups[NGROUPS_MAX];
	int all, count = 0;

	if (!root[0] || !b_can_fake_ownership())
		return;  /* without a filter the kernel refuses changes of owner */
	all = getgroups(NGROUPS_MAX, groups);
	if (all < 0) {
		fprintf(stderr, "bollard: cannot read this task's groups (%s): changes of owner will fail\n", strerror(errno));
		return;
	}
	for (int i = 0; i < all; i++)
		if (groups[i] != 0 && groups[i] != NO_GROUP)
			groups[count++] = groups[i];
	if (b_fake_ownership(0, groups, count) < 0)
		fprintf(stderr, "bollard: no seccomp filter (%s): changes of owner will fail\n", strerror(errno));
}

/* Calls execve(2). A script without a #! line is run by /bin/sh, as by execvp(3) and every shell. Returns on
 * failure, with errno. */
static void execute(const char *file, char **argv, char **envp)
{
	char **with_shell, magic[4] = "";
	size_t argc = 0;
	int fd, elf;

	execve(file, argv, envp);
	if (errno != ENOEXEC)
		return;
	fd = open(file, O_RDONLY | O_CLOEXEC);
	elf = fd >= 0 && read(fd, magic, sizeof(magic)) == sizeof(magic) && memcmp(magic, "\177ELF", 4) == 0;
	if (fd >= 0)
		close(fd);
	if (elf) {
		errno = ENOEXEC;  /* a program for another machine must not be run as a script */
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

int become(char **argv, char **envp)
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
