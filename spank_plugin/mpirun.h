/* SPDX-License-Identifier: BSD-3-Clause */
/* A line of mpirun on its way to one of srun. */
#ifndef BOLLARD_MPIRUN_H
#define BOLLARD_MPIRUN_H

#include "inside.h"

struct state {
	struct launch result;
	size_t used, room;
	long ranks, per_node;
	int spread;       /* over all nodes, however few ranks */
	int report;
	const char *binding;  /* what --cpu-bind takes, or NULL */
	struct host { char *name; long slots; } *hosts;
	size_t host_count;
};

/* mpirun.c: why this cannot be done; the first reason counts. */
__attribute__((format(printf, 2, 3))) void refuse(struct state *state, const char *format, ...);

/* mpirun.c: one more word of srun's. */
__attribute__((format(printf, 2, 3))) void add(struct state *state, const char *format, ...);

/* placement.c: how many, of an option's value. */
void set_count(struct state *state, const char *option, const char *text, long *count);

/* placement.c: a,b:2 */
void add_hosts(struct state *state, const char *list);

/* placement.c: a file with a line for each host: "name", "name slots=2", "name:2"; # begins a comment. */
void read_hosts(struct state *state, const char *path);

/* placement.c: slot, node, socket, ppr:2:node, each with :PE=4, :OVERSUBSCRIBE */
void map_by(struct state *state, const char *asked);

/* placement.c: all that was said of counts, hosts and binding, as options of srun. */
void place(struct state *state);

#endif
