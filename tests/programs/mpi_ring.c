/* Smallest useful MPI program: who is where with which library, a token around the ring, a sum over all.
 *
 * Output: one line per rank "rank R of S on HOST library NAME", then "sum ok" from rank 0.
 * Exit: 0, or 1 where the token or the sum is wrong. */
#include <mpi.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
    int rank, size, length, token, ok, all_ok;
    long mine, sum = 0;
    char host[MPI_MAX_PROCESSOR_NAME], library[MPI_MAX_LIBRARY_VERSION_STRING];

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Get_processor_name(host, &length);
    MPI_Get_library_version(library, &length);
    /* Both libraries say more than fits a line: builder, date, configure options. */
    library[strcspn(library, ",\n")] = '\0';
    for (char *c = library; *c; c++)
        if (*c == '\t')
            *c = ' ';
    printf("rank %d of %d on %s library %s\n", rank, size, host, library);
    fflush(stdout);

    MPI_Sendrecv(&rank, 1, MPI_INT, (rank + 1) % size, 0, &token, 1, MPI_INT, (rank + size - 1) % size, 0,
                 MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    mine = rank + 1;
    MPI_Allreduce(&mine, &sum, 1, MPI_LONG, MPI_SUM, MPI_COMM_WORLD);
    ok = token == (rank + size - 1) % size && sum == (long)size * (size + 1) / 2;
    MPI_Allreduce(&ok, &all_ok, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    if (rank == 0)
        puts(all_ok ? "sum ok" : "sum wrong");
    MPI_Finalize();
    return all_ok ? 0 : 1;
}
