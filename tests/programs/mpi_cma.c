/* Cross-memory attach: each rank reads the memory of its right neighbour on the same node.
 *
 * The kernel allows process_vm_readv only between processes that may trace each other, so this fails where
 * ranks of one node have user namespaces of their own, and MPI falls back to slow copies without a word.
 *
 * Output: one line per rank, "rank R of S on HOST cma ok", "... cma alone" (one rank on this node), or
 * "... cma failed: Operation not permitted (errno 1)". Exit: 0, or 1 where any rank failed. */
#define _GNU_SOURCE
#include <errno.h>
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

struct place {
    int64_t pid;
    uint64_t address;
};

int main(int argc, char **argv)
{
    int rank, size, length, local_rank, local_size, ok = 1, all_ok;
    char host[MPI_MAX_PROCESSOR_NAME] = "", *hosts;
    MPI_Comm node;
    struct place mine, theirs;

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Get_processor_name(host, &length);
    /* By name, not by MPI_COMM_TYPE_SHARED: that is the library's opinion of what can be shared (MPICH 5.0.2
     * under its own mpiexec says: nothing), and this program is to find out. */
    hosts = malloc((size_t)size * sizeof host);
    if (!hosts)
        MPI_Abort(MPI_COMM_WORLD, 1);
    MPI_Allgather(host, sizeof host, MPI_CHAR, hosts, sizeof host, MPI_CHAR, MPI_COMM_WORLD);
    int first = 0;
    while (strcmp(hosts + (size_t)first * sizeof host, host) != 0)
        first++;
    free(hosts);
    MPI_Comm_split(MPI_COMM_WORLD, first, rank, &node);
    MPI_Comm_rank(node, &local_rank);
    MPI_Comm_size(node, &local_size);

    volatile uint64_t secret = 0xb011a4d000000000u + (uint64_t)local_rank;
    mine = (struct place){ .pid = getpid(), .address = (uint64_t)(uintptr_t)&secret };
    int right = (local_rank + 1) % local_size, left = (local_rank + local_size - 1) % local_size;
    MPI_Sendrecv(&mine, sizeof mine, MPI_BYTE, left, 0, &theirs, sizeof theirs, MPI_BYTE, right, 0, node,
                 MPI_STATUS_IGNORE);

    if (local_size == 1) {
        printf("rank %d of %d on %s cma alone\n", rank, size, host);
    } else {
        uint64_t seen = 0;
        struct iovec here = { &seen, sizeof seen };
        struct iovec there = { (void *)(uintptr_t)theirs.address, sizeof seen };
        ssize_t got = process_vm_readv((pid_t)theirs.pid, &here, 1, &there, 1, 0);
        int problem = errno;

        ok = got == (ssize_t)sizeof seen && seen == 0xb011a4d000000000u + (uint64_t)right;
        if (ok)
            printf("rank %d of %d on %s cma ok\n", rank, size, host);
        else if (got < 0)
            printf("rank %d of %d on %s cma failed: %s (errno %d)\n", rank, size, host, strerror(problem),
                   problem);
        else
            printf("rank %d of %d on %s cma failed: wrong memory\n", rank, size, host);
    }
    fflush(stdout);
    /* Nobody may leave while its memory is being read. */
    MPI_Allreduce(&ok, &all_ok, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    MPI_Comm_free(&node);
    MPI_Finalize();
    return all_ok ? 0 : 1;
}
