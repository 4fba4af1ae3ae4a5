/* SPDX-License-Identifier: BSD-3-Clause */
/* `mpirun` and `mpiexec` of Open MPI and MPICH as `srun`: what each of their options is there. Nothing is
 * started here. An option without a row is refused, for a job that runs otherwise than asked is worse. */
#define _GNU_SOURCE
#include "inside.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum kind {
	COUNT,      /* of ranks */
	PER_NODE,   /* ranks on each node */
	HOSTS,      /* a,b:2 */
	HOST_FILE,
	EXPORT,     /* NAME or NAME=VALUE */
	SETTING,    /* NAME VALUE: a variable */
	MCA,        /* NAME VALUE: a parameter, which is a variable too */
	BIND,
	BOUND,      /* the same without a value */
	REPORT,     /* show the binding */
	MAP,
	SPREAD,     /* as MAP node */
	RANK,
	VALUE,      /* srun has the same: its words, then the value */
	FLAG,       /* srun has the same */
	DROP,       /* nothing to do here; `srun` is how many values it has */
	NATIVE,     /* the image's own mpirun knows */
};

static const struct rule {
	const char *name;  /* without - or --, which both take for each other here */
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
	/* Slurm starts the ranks, gives all of them the whole environment, and ends all when one fails. */
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

/* Where Slurm's binding is called otherwise. */
static const char *const BINDINGS[][2] = {
	{ "core", "cores" }, { "none", "none" }, { "socket", "sockets" }, { "package", "sockets" },
	{ "numa", "ldoms" }, { "hwthread", "threads" }, { "user", "none" },
};

enum { HOSTS_MAX = 65536 };

struct state {
	struct launch result;
	size_t used, room;
	long ranks, per_node;
	int spread;       /* over all nodes, however few ranks */
	int report;
	const char *binding;  /* what --cpu-bind takes, or NULL */
	struct { char *name; long slots; } *hosts;
	size_t host_count;
};

__attribute__((format(printf, 2, 3)))
static void refuse(struct state *state, const char *format, ...)
{
	va_list list;

	if (state->result.why[0])
		return;
	va_start(list, format);
	vsnprintf(state->result.why, sizeof(state->result.why), format, list);
	va_end(list);
}

__attribute__((format(printf, 2, 3)))
static void add(struct state *state, const char *format, ...)
{
	char *word = NULL;
	va_list list;

	va_start(list, format);
	if (vasprintf(&word, format, list) < 0)
		word = NULL;
	va_end(list);
	if (state->used + 2 > state->room) {
		char **grown = realloc(state->result.argv, (state->room += 64) * sizeof(*grown));

		if (!grown)
			word = NULL;
		else
			state->result.argv = grown;
	}
	if (!word) {
		fputs("bollard: out of memory\n", stderr);
		exit(255);
	}
	state->result.argv[state->used++] = word;
	state->result.argv[state->used] = NULL;
}

/* A number from 1 on, or 0. */
static long number(const char *text)
{
	char *end;
	long value;

	errno = 0;
	value = strtol(text, &end, 10);
	return errno == 0 && end != text && *end == '\0' && value > 0 && value <= 1 << 24 ? value : 0;
}

static void set_count(struct state *state, const char *option, const char *text, long *count)
{
	*count = number(text);
	if (*count == 0)
		refuse(state, "mpirun %s %s: not a number of ranks; give one from 1 on", option, text);
}

static void set_variable(struct state *state, const char *prefix, const char *name, size_t size, const char *value)
{
	char *full = NULL;

	if (size == 0 || asprintf(&full, "%s%.*s", prefix, (int) size, name) < 0 || setenv(full, value, 1) < 0)
		refuse(state, "mpirun: %.*s cannot be set as a variable; write NAME=VALUE", (int) size, name);
	free(full);
}

/* One host, its slots, or 1 for none; a host named again has one slot more. */
static void add_host(struct state *state, const char *name, size_t size, long slots)
{
	const char *here = getenv("SLURMD_NODENAME");
	char *host = strndup(name, size);

	if (host && here && (strcmp(host, "localhost") == 0 || strcmp(host, "127.0.0.1") == 0)) {
		free(host);
		host = strdup(here);
	}
	if (!host || !host[0] || host[0] == '-' || slots <= 0) {
		refuse(state, "mpirun: %.*s is no host; write NAME or NAME:SLOTS", (int) size, name);
		free(host);
		return;
	}
	for (size_t i = 0; i < state->host_count; i++)
		if (strcmp(state->hosts[i].name, host) == 0) {
			state->hosts[i].slots += slots;
			free(host);
			return;
		}
	state->hosts = realloc(state->hosts, (state->host_count + 1) * sizeof(*state->hosts));
	if (!state->hosts || state->host_count >= HOSTS_MAX) {
		refuse(state, "mpirun: too many hosts");
		return;
	}
	state->hosts[state->host_count].name = host;
	state->hosts[state->host_count++].slots = slots;
}

/* a,b:2 */
static void add_hosts(struct state *state, const char *list)
{
	for (const char *at = list; *at; at += *at == ',') {
		size_t size = strcspn(at, ",:");
		const char *name = at;
		long slots = 1;

		at += size;
		if (*at == ':') {
			char text[32];
			size_t digits = strcspn(++at, ",");

			snprintf(text, sizeof(text), "%.*s", (int) digits, at);
			slots = number(text);
			at += digits;
		}
		add_host(state, name, size, slots);
	}
}

/* A line a host: "name", "name slots=2", "name:2"; # begins a comment. */
static void read_hosts(struct state *state, const char *path)
{
	FILE *file = fopen(path, "re");
	char line[4096];

	if (!file) {
		refuse(state, "mpirun: %s: %s; name the file of hosts", path, strerror(errno));
		return;
	}
	while (fgets(line, sizeof(line), file)) {
		char *at = line + strspn(line, " \t"), *slots;
		size_t size;

		at[strcspn(at, "#\r\n")] = '\0';
		size = strcspn(at, " \t:");
		if (size == 0)
			continue;
		slots = at[size] == ':' ? at + size + 1 : strstr(at + size, "slots=");
		if (slots && at[size] != ':')
			slots += strlen("slots=");
		if (slots)
			slots[strcspn(slots, " \t")] = '\0';
		add_host(state, at, size, slots ? number(slots) : 1);
	}
	fclose(file);
}

static void bind_to(struct state *state, const char *asked)
{
	size_t size = strcspn(asked, ":");  /* ":overload-allowed" and the like: Slurm has given the CPUs out */

	for (size_t i = 0; i < sizeof(BINDINGS) / sizeof(*BINDINGS); i++)
		if (strlen(BINDINGS[i][0]) == size && strncasecmp(BINDINGS[i][0], asked, size) == 0) {
			state->binding = BINDINGS[i][1];
			return;
		}
	refuse(state, "mpirun --bind-to %s: srun cannot bind so; use core, socket, numa, hwthread or none", asked);
}

static int is_word(const char *text, size_t size, const char *word)
{
	return strlen(word) == size && strncasecmp(text, word, size) == 0;
}

/* slot, node, socket, ppr:2:node, each with :PE=4, :OVERSUBSCRIBE */
static void map_by(struct state *state, const char *asked)
{
	const char *at = asked;
	size_t size = strcspn(at, ":");

	if (is_word(at, size, "ppr")) {
		char *end;
		long count = strtol(at + size + (at[size] == ':'), &end, 10);

		at = *end == ':' ? end + 1 : end;
		size = strcspn(at, ":");
		if (count <= 0 || !is_word(at, size, "node")) {
			refuse(state, "mpirun --map-by %s: srun counts ranks on a node; use ppr:N:node", asked);
			return;
		}
		state->per_node = count;
	} else if (is_word(at, size, "node")) {
		add(state, "--distribution=cyclic");
		state->spread = 1;
	} else if (is_word(at, size, "slot") || is_word(at, size, "core") || is_word(at, size, "hwthread")) {
		add(state, "--distribution=block:block");
	} else if (is_word(at, size, "socket") || is_word(at, size, "package") || is_word(at, size, "numa")) {
		add(state, "--distribution=block:cyclic");
	} else if (size > 0) {
		refuse(state, "mpirun --map-by %s: srun cannot place ranks so; use slot, node, socket or ppr:N:node", asked);
		return;
	}
	for (at += size; *at == ':'; at += size) {
		at++;
		size = strcspn(at, ":");
		if (strncasecmp(at, "PE=", 3) == 0 && isdigit((unsigned char) at[3]))
			add(state, "--cpus-per-task=%ld", strtol(at + 3, NULL, 10));
		else if (is_word(at, size, "OVERSUBSCRIBE"))
			add(state, "--overcommit");
		else if (!is_word(at, size, "NOOVERSUBSCRIBE") && !is_word(at, size, "SPAN"))
			refuse(state, "mpirun --map-by %s: srun knows no %.*s; leave it out", asked, (int) size, at);
	}
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
		if (equals)  /* without a value: the whole environment goes along anyway */
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

/* How many nodes of the job `ranks` fill, one after the other, as mpirun would; 0 when they do not fit.
 * SLURM_TASKS_PER_NODE is "2(x3),1". */
static long nodes_for(long ranks)
{
	const char *at = getenv("SLURM_TASKS_PER_NODE");
	long nodes = 0;

	while (at && *at) {
		char *end;
		long tasks = strtol(at, &end, 10), times = 1;

		if (end == at || tasks <= 0)
			return 0;
		if (strncmp(end, "(x", 2) == 0) {
			times = strtol(end + 2, &end, 10);
			end += *end == ')';
		}
		for (; times > 0; times--) {
			nodes++;
			ranks -= tasks;
			if (ranks <= 0)
				return nodes;
		}
		at = *end == ',' ? end + 1 : "";
	}
	return 0;
}

/* Hosts with their slots: the same number on each is a plain list, else every rank's host is named. */
static void place_on_hosts(struct state *state)
{
	long total = 0, left;
	int even = 1;
	char *list = NULL;
	size_t size;
	FILE *out = open_memstream(&list, &size);

	for (size_t i = 0; i < state->host_count; i++) {
		total += state->hosts[i].slots;
		even = even && state->hosts[i].slots == state->hosts[0].slots;
	}
	if (state->ranks == 0)
		state->ranks = state->per_node ? state->per_node * (long) state->host_count : total;
	left = state->ranks;
	even = even || state->per_node || state->ranks > total;
	for (size_t i = 0; i < state->host_count && left > 0; i++) {
		long times = even ? 1 : state->hosts[i].slots < left ? state->hosts[i].slots : left;

		left -= even ? (state->per_node ? state->per_node : state->hosts[i].slots) : times;
		for (; times > 0; times--)
			fprintf(out, "%s%s", ftell(out) > 0 ? "," : "", state->hosts[i].name);
	}
	fclose(out);
	if (even) {
		size_t names = 1;

		for (const char *comma = list; (comma = strchr(comma, ',')); comma++)
			names++;
		add(state, "--nodes=%zu", names);
		if (state->hosts[0].slots > 1 && !state->per_node && state->ranks <= total)
			add(state, "--ntasks-per-node=%ld", state->hosts[0].slots);
	} else {
		add(state, "--distribution=arbitrary");
	}
	add(state, "--nodelist=%s", list);
}

static void place(struct state *state)
{
	const char *text = getenv("SLURM_JOB_NUM_NODES");
	long nodes = text ? number(text) : 0;

	if (state->binding || state->report)  /* one option: srun takes the last */
		add(state, "--cpu-bind=%s%s%s", state->report ? "verbose" : "",
		    state->report && state->binding ? "," : "", state->binding ? state->binding : "");
	if (state->host_count)
		place_on_hosts(state);
	else if (state->per_node && state->ranks)
		add(state, "--nodes=%ld", (state->ranks + state->per_node - 1) / state->per_node);
	else if (state->per_node && nodes)
		state->ranks = state->per_node * nodes;
	else if (state->ranks && !state->spread && (nodes = nodes_for(state->ranks)) > 0)
		add(state, "--nodes=%ld", nodes);
	if (state->per_node)
		add(state, "--ntasks-per-node=%ld", state->per_node);
	if (state->ranks)
		add(state, "--ntasks=%ld", state->ranks);
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
