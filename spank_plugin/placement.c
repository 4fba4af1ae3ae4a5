/* SPDX-License-Identifier: BSD-3-Clause */
/* The number of ranks that mpirun starts, and their placement, as options of srun. */
#define _GNU_SOURCE
#include "mpirun.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HOSTS_MAX = 65536, RANKS_MAX = 1 << 24 };

/* Returns the number in `text`, from 1 to RANKS_MAX; 0 when it is none. */
static long number(const char *text)
{
	char *end;
	long value;

	errno = 0;
	value = strtol(text, &end, 10);
	return errno == 0 && end != text && *end == '\0' && value > 0 && value <= RANKS_MAX ? value : 0;
}

void set_count(struct state *state, const char *option, const char *text, long *count)
{
	*count = number(text);
	if (*count == 0)
		refuse(state, "mpirun %s %s: not a number of ranks; give one from 1 on", option, text);
}

/* Adds a host with `slots` slots. A host that is named again gets these slots in addition. */
static void add_host(struct state *state, const char *name, size_t size, long slots)
{
	const char *here = getenv("SLURMD_NODENAME");
	char *host = strndup(name, size);
	struct host *grown;

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
	grown = state->host_count < HOSTS_MAX ? realloc(state->hosts, (state->host_count + 1) * sizeof(*grown)) : NULL;
	if (!grown) {
		refuse(state, "mpirun: too many hosts; name fewer");
		free(host);
		return;
	}
	state->hosts = grown;
	state->hosts[state->host_count].name = host;
	state->hosts[state->host_count++].slots = slots;
}

void add_hosts(struct state *state, const char *list)
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

void read_hosts(struct state *state, const char *path)
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

static int is_word(const char *text, size_t size, const char *word)
{
	return strlen(word) == size && strncasecmp(text, word, size) == 0;
}

void map_by(struct state *state, const char *asked)
{
	const char *at = asked;
	size_t size = strcspn(at, ":");

	if (is_word(at, size, "ppr")) {
		char *end;
		long count = strtol(at + size + (at[size] == ':'), &end, 10);  /* LONG_MAX on overflow */

		at = *end == ':' ? end + 1 : end;
		size = strcspn(at, ":");
		if (count <= 0 || count > RANKS_MAX || !is_word(at, size, "node")) {
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

/* Returns how many nodes of the job `ranks` need if each node is filled before the next, as by mpirun. 0 when they
 * do not fit. SLURM_TASKS_PER_NODE has the form "2(x3),1". */
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

/* Adds the hosts as options of srun. With the same number of ranks on each it names each host once; else it names
 * the host of every rank (--distribution=arbitrary). */
static void place_on_hosts(struct state *state)
{
	long total = 0, left;
	int even = 1;
	char *list = NULL;
	size_t size;
	FILE *out = open_memstream(&list, &size);

	if (!out) {
		refuse(state, "mpirun: out of memory; name fewer hosts");
		return;
	}
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
	if (fclose(out) != 0) {
		refuse(state, "mpirun: out of memory; name fewer hosts");
		free(list);
		return;
	}
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
	free(list);
}

void place(struct state *state)
{
	const char *text = getenv("SLURM_JOB_NUM_NODES");
	long nodes = text ? number(text) : 0;

	if (state->binding || state->report)  /* as one option: of several, srun uses the last only */
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
