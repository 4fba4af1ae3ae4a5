/* SPDX-License-Identifier: BSD-3-Clause */
/* Preloaded into slurmd and slurmstepd, which are told of more CPUs than the machine has (HWLOC_SYNTHETIC).
 * task/affinity then binds tasks to CPUs that do not exist, which the kernel refuses and Slurm takes for a
 * failed launch. So CPU numbers are folded onto the CPUs that there are: CPU 5 of a node is CPU 1 of a
 * 2-core machine.
 * Tasks never see this library: they start with the job's environment. */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

__attribute__((constructor)) static void start(void)
{
	/* slurmd hands the library on to slurmstepd; it ends there. */
	if (strcmp(program_invocation_short_name, "slurmstepd") == 0)
		unsetenv("LD_PRELOAD");
}

int sched_setaffinity(pid_t pid, size_t size, const cpu_set_t *wanted)
{
	long cpus = sysconf(_SC_NPROCESSORS_CONF);
	cpu_set_t folded;

	CPU_ZERO(&folded);
	for (size_t cpu = 0; cpu < 8 * size; cpu++)
		if (CPU_ISSET_S(cpu, size, wanted))
			CPU_SET(cpu % (cpus > 0 ? cpus : 1), &folded);
	return (int) syscall(SYS_sched_setaffinity, pid, sizeof(folded), &folded);
}
