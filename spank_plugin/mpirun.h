/* SPDX-License-Identifier: BSD-3-Clause */
/* The translation of an mpirun command line to one of srun. Everything here runs in a container, as the user. add()
 * ends the process with exit status 255 when out of memory. */
#ifndef BOLLARD_MPIRUN_H
#define BOLLARD_MPIRUN_H

#include "inside.h"

/* The translation so far. Its memory is never freed: srun replaces this process. */
struct state {
	struct launch result;
	size_t used, room;
	long ranks, per_node;  /* 0: not given */
	int spread;       /* 1: over all nodes, however few ranks */
	int report;       /* 1: srun prints the binding */
	const char *binding;  /* the value for --cpu-bind, or NULL */
	struct host { char *name; long slots; } *hosts;
	size_t host_count;
};

/* srun_line.c: stores the reason why the line cannot be translated; later calls do not change it. */
__attribute__((format(printf, 2, 3))) void refuse(struct state *state, const char *format, ...);

/* srun_line.c: appends one word to srun's command line. */
__attribute__((format(printf, 2, 3))) void add(struct state *state, const char *format, ...);

/* placement.c: stores the number in `text`, the value of `option`, in *count; refuse() when it is not a number from
 * 1 on. */
void set_count(struct state *state, const char *option, const char *text, long *count);

/* placement.c: adds the hosts of a list "a,b:2"; refuse() for a host that is not valid. */
void add_hosts(struct state *state, const char *list);

/* placement.c: adds the hosts of the file `path`, one a line: "name", "name slots=2", "name:2"; # begins a comment.
 * refuse() when it cannot be read. */
void read_hosts(struct state *state, const char *path);

/* placement.c: applies --map-by: slot, node, socket, ppr:2:node, each with :PE=4, :OVERSUBSCRIBE; refuse() for
 * others. */
void map_by(struct state *state, const char *asked);

/* placement.c: adds the counts, hosts and binding that were given, as options of srun. */
void place(struct state *state);

#endif
