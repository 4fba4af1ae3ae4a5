/* SPDX-License-Identifier: BSD-3-Clause */
/* bollard-keeper: slurmstepd's child executes it, as the user. It starts Python, which is the keeper from then on.
 *
 * It is a separate program, so that the keeper has no copy of slurmstepd's memory. Its file has mode 0711: the kernel
 * lets users trace only programs that they can read (would_dump() in Linux, fs/exec.c). */
#define _GNU_SOURCE
#include "keeper.h"
#include "python.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Clears the ambient and inheritable capabilities: this process keeps its capabilities, and programs started from
 * here get none. Returns 0, or -1 with errno. */
static int keep_capabilities_here(void)
{
	struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct sets[2];

	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 || syscall(SYS_capget, &head, sets) < 0)
		return -1;
	sets[0].inheritable = sets[1].inheritable = 0;
	return (int) syscall(SYS_capset, &head, sets);
}

/* Returns the number in the environment variable `name`; -1 when it is not set. */
static long long number(const char *name)
{
	const char *text = getenv(name);

	return text ? strtoll(text, NULL, 10) : -1;
}

/* Returns the inherited descriptor whose number is in the variable `name`. Sets close-on-exec on it, so that
 * programs started from here do not get it. -1 when it is not open. */
static int descriptor(const char *name)
{
	long long fd = number(name);

	if (fd < 3 || fd > INT_MAX || fcntl((int) fd, F_SETFD, FD_CLOEXEC) < 0)
		return -1;
	return (int) fd;
}

/* Stores the directory of this program's file, the installation's, in `path`. Returns 0, or -1 when it is unknown or
 * too long. */
static int own_directory(char *path, size_t size)
{
	const char *self = (const char *) getauxval(AT_EXECFN), *slash = self ? strrchr(self, '/') : NULL;

	if (!slash || (size_t) (slash - self) >= size)
		return -1;
	memcpy(path, self, (size_t) (slash - self));
	path[slash - self] = '\0';
	return 0;
}

int main(void)
{
	struct keeper_job job = { .spec = getenv(KEEPER_SPEC), .site = getenv(KEEPER_SITE), .program = getenv(KEEPER_PROGRAM),
				  .times = { number(KEEPER_FORKED), number(KEEPER_DROPPED) } };
	char tree[PATH_MAX], why[1024] = "";
	int record, witness;

	/* The kernel has already made this process not dumpable, unless fs.suid_dumpable is 1. */
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 || keep_capabilities_here() < 0)
		return 1;
	if (getenv(KEEPER_SERVE)) {
		int connection = descriptor(KEEPER_SERVE);

		return clearenv() == 0 && connection >= 0 ? serve_witness(connection) : 1;
	}
	job.listener = descriptor(KEEPER_LISTENER);
	job.socket = descriptor(KEEPER_JOB);
	record = descriptor(KEEPER_RECORD);
	job.before = descriptor(KEEPER_BEFORE);
	witness = descriptor(KEEPER_WITNESS);
	if (!job.spec || !job.site || !job.program || job.listener < 0 || job.socket < 0 ||
	    (getenv(KEEPER_RECORD) && record < 0) || (getenv(KEEPER_BEFORE) && job.before < 0) ||
	    (getenv(KEEPER_WITNESS) && witness < 0) || own_directory(tree, sizeof(tree)) < 0) {
		fputs("bollard-keeper: only the plugin starts this program\n", stderr);
		return 1;
	}
	if (clearenv() != 0)  /* the strings that job points to stay valid */
		return 1;
	if (python_keep(tree, &job, why, sizeof(why)) == 0)
		return 0;
	serve_refusal(job.listener, why[0] ? why : "the runtime ended without a reason; this is a defect");
	return 1;
}
