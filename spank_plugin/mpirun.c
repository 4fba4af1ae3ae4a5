/* SPDX-License-Identifier: BSD-3-Clause */
/* Translates the options of `mpirun` and `mpiexec` (Open MPI and MPICH) to options of `srun`. Starts nothing. An
 * option without a row in the table is refused: a job must not run in another way than requested. */
#define _GNU_SOURCE
#include "mpirun.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum kind {
	COUNT,      /* number of ranks */
	PER_NODE,   /* ranks on each node */
	HOSTS,      /* a,b:2 */
	HOST_FILE,
	EXPORT,     /* NAME or NAME=VALUE */
	SETTING,    /* NAME VALUE: an environment variable */
	MCA,        /* NAME VALUE: an MCA parameter; `srun` is the prefix of its environment variable */
	BIND,       /* the value names the binding */
	BOUND,      /* `srun` is the value of --cpu-bind; the option has no value */
	REPORT,     /* print the binding */
	MAP,        /* the value says how ranks are placed */
	SPREAD,     /* the same as MAP with the value node */
	RANK,       /* the value says how ranks are numbered */
	VALUE,      /* `srun` is the same option of srun; the value follows it */
	FLAG,       /* `srun` is the same option of srun; no value */
	DROP,       /* no effect here; `srun` is the number of its values */
	NATIVE,     /* the image's own mpirun answers */
};

static const struct rule {
	const char *name;  /* without - or --, which are the same here */
	enum kind kind;
	const char *srun;
} RULES[] = {
	{ "n", COUNT, NULL }, { "np", COUNT, NULL }, { "c", COUNT, NULL }, { "num-procs", COUNT, NULL },
	{ "N", PER_NODE, NULL }, { "npernode", PER_NODE, NULL }, { "ppn", PER_NODE, NULL },
	{ "perhost", PER_NODE, NULL }, { "num-per-node", PER_NODE, NULL },
	{ "H", HOSTS, NULL }, { "host", HOSTS, NULL }, { "hosts", HOSTS, NULL },
	{ "hostfile", HOST_FILE, NULL }, { "machinefile", HOST_FILE, NULL }, { "f", HOST_FILE, NULL },
	{ "default-hostfile", HOST_FILE, NULL },
	{ "x", EXPORT, NULL },
	{ "env", SETTING, NULL }, { "genv", SETTING, NULL },
	{ "mca", MCA, "OMPI_MCA_" }, { "gmca", MCA, "OMPI_MCA_" }, { "omca", MCA, "OMPI_MCA_" },
	{ "prtemca", MCA, "PRTE_MCA_" }, { "pmixmca", MCA, "PMIX_MCA_" },
	{ "bind-to", BIND, NULL }, { "binding", BIND, NULL },
	{ "bind-to-core", BOUND, "cores" }, { "bind-to-socket", BOUND, "sockets" }, { "bind-to-none", BOUND, "none" },
	{ "report-bindings", REPORT, NULL },
	{ "map-by", MAP, NULL }, { "rank-by", RANK, NULL }, { "bynode", SPREAD, NULL },
	{ "byslot", FLAG, "--distribution=block" },
	{ "cpus-per-proc", VALUE, "--cpus-per-task=" }, { "cpus-per-rank", VALUE, "--cpus-per-task=" },
	{ "wdir", VALUE, "--chdir=" }, { "wd", VALUE, "--chdir=" }, { "working-dir", VALUE, "--chdir=" },
	{ "stdin", VALUE, "--input=" }, { "s", VALUE, "--input=" },
	{ "oversubscribe", FLAG, "--overcommit" },
	{ "tag-output", FLAG, "--label" }, { "l", FLAG, "--label" }, { "prepend-rank", FLAG, "--label" },
	{ "q", FLAG, "--quiet" }, { "quiet", FLAG, "--quiet" },
	/* These have no effect: Slurm starts the ranks, passes the whole environment to all, and ends all when one
	 * fails. */
	{ "nooversubscribe", DROP, "0" }, { "allow-run-as-root", DROP, "0" }, { "v", DROP, "0" },
	{ "verbose", DROP, "0" }, { "envall", DROP, "0" }, { "genvall", DROP, "0" }, { "envlist", DROP, "1" },
	{ "genvlist", DROP, "1" }, { "launcher", DROP, "1" }, { "bootstrap", DROP, "1" }, { "rmk", DROP, "1" },
	{ "launcher-exec", DROP, "1" }, { "bootstrap-exec", DROP, "1" }, { "prefix", DROP, "1" },
	{ "noprefix", DROP, "0" }, { "iface", DROP, "1" }, { "enable-recovery", DROP, "0" },
	{ "disable-recovery", DROP, "0" }, { "display-map", DROP, "0" }, { "display-allocation", DROP, "0" },
	{ "display", DROP, "1" }, { "use-hwthread-cpus", DROP, "0" }, { "disable-auto-cleanup", DROP, "0" },
	{ "version", NATIVE, NULL }, { "V", NATIVE, NULL }, { "help", NATIVE, NULL }, { "h", NATIVE, NULL },
	{ "info", NATIVE, NULL },
};

/* Values of --bind-to, and the values of srun's --cpu-bind for them. */
static const char *const BINDINGS[][2] = {
	{ "core", "cores" }, { "none", "none" }, { "socket", "sockets" }, { "package", "sockets" },
	{ "numa", "ldoms" }, { "hwthread", "threads" }, { "user", "none" },
};

static void set_variable(struct state *state, const char *prefix, const char *name, size_t size, const char *value)
{
	char *full = NULL;

	if (size == 0 || asprintf(&full, "%s%.*s", prefix, (int) size, name) < 0 || setenv(full, value, 1) < 0)
		refuse(state, "mpirun: %.*s cannot be set as a variable; write NAME=VALUE", (int) size, name);
	free(full);
}

static void bind_to(struct state *state, const char *asked)
{
	size_t size = strcspn(asked, ":");  /* without ":overload-allowed" and the like: Slurm assigns CPUs */

	for (size_t i = 0; i < sizeof(BINDINGS) / sizeof(*BINDINGS); i++)
		if (strlen(BINDINGS[i][0]) == size && strncasecmp(BINDINGS[i][0], asked, size) == 0) {
			state->binding = BINDINGS[i][1];
			return;
		}
	refuse(state, "mpirun --bind-to %s: srun cannot bind so; use core, socket, numa, hwthread or none", asked);
}

static const struct rule *find(const char *name, size_t size)
{
	for (size_t i = 0; i < sizeof(RULES) / sizeof(*RULES); i++)
		if (strlen(RULES[i].name) == size && memcmp(RULES[i].name, name, size) == 0)
			return &RULES[i];
	return NULL;
}

static int value_count(const struct rule *rule)
{
	switch (rule->kind) {
	case BOUND:
	case FLAG:
	case REPORT:
	case SPREAD:
	case NATIVE:
		return 0;
	case SETTING:
	case MCA:
		return 2;
	case DROP:
		return rule->srun[0] - '0';
	default:
		return 1;
	}
}

static void apply(struct state *state, const struct rule *rule, const char *option, char **values)
{
	const char *equals;

	switch (rule->kind) {
	case COUNT:
		set_count(state, option, values[0], &state->ranks);
		break;
	case PER_NODE:
		set_count(state, option, values[0], &state->per_node);
		break;
	case HOSTS:
		add_hosts(state, values[0]);
		break;
	case HOST_FILE:
		read_hosts(state, values[0]);
		break;
	case EXPORT:
		equals = strchr(values[0], '=');
		if (equals)  /* without a value: srun passes the whole environment anyway */
			set_variable(state, "", values[0], (size_t) (equals - values[0]), equals + 1);
		break;
	case SETTING:
		set_variable(state, "", values[0], strlen(values[0]), values[1]);
		break;
	case MCA:
		set_variable(state, rule->srun, values[0], strlen(values[0]), values[1]);
		break;
	case BIND:
		bind_to(state, values[0]);
		break;
	case BOUND:
		state->binding = rule->srun;
		break;
	case REPORT:
		state->report = 1;
		break;
	case MAP:
		map_by(state, values[0]);
		break;
	case SPREAD:
		map_by(state, "node");
		break;
	case RANK:
		if (strcasecmp(values[0], "slot") != 0 && strcasecmp(values[0], "fill") != 0)
			refuse(state, "mpirun --rank-by %s: srun numbers ranks by slot alone; leave it out", values[0]);
		break;
	case VALUE:
		add(state, "%s%s", rule->srun, values[0]);
		break;
	case FLAG:
		add(state, "%s", rule->srun);
		break;
	case DROP:
		break;
	case NATIVE:
		state->result.native = 1;
		break;
	}
}

struct launch translate(int argc, char **argv)
{
	struct state state = { 0 };
	int at = 1;

	add(&state, "srun");
	while (at < argc && argv[at][0] == '-' && argv[at][1] && !state.result.why[0] && !state.result.native) {
		const char *option = argv[at], *name = option + 1 + (option[1] == '-'), *equals = strchr(name, '=');
		size_t size = equals ? (size_t) (equals - name) : strlen(name);
		const struct rule *rule = find(name, size);
		char *attached[1];

		at++;
		if (strcmp(option, "--") == 0)
			break;
		if (!rule || (equals && value_count(rule) != 1)) {
			refuse(&state, "mpirun %s: srun has nothing like it; leave it out, or set BOLLARD_NO_MPIRUN=1 "
			       "for the image's own mpirun", option);
		} else if (equals) {
			attached[0] = (char *) equals + 1;
			apply(&state, rule, option, attached);
		} else if (at + value_count(rule) > argc) {
			refuse(&state, "mpirun %s: its value is missing", option);
		} else {
			apply(&state, rule, option, argv + at);
			at += value_count(rule);
		}
	}
	if (state.result.native || state.result.why[0])
		return state.result;
	if (at >= argc)
		refuse(&state, "mpirun: no program named; put it after the options");
	place(&state);
	add(&state, "--");
	for (; at < argc; at++) {
		if (strcmp(argv[at], ":") == 0)
			refuse(&state, "mpirun ... : ...: several programs are srun --multi-prog here; use that, or set "
			       "BOLLARD_NO_MPIRUN=1 for the image's own mpirun");
		add(&state, "%s", argv[at]);
	}
	return state.result;
}
