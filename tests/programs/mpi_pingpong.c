/* Latency and bandwidth between the first and the last rank; the others wait.
 *
 * Usage: mpi_pingpong [ITERATIONS]   (default 1000)
 * Output, from rank 0: one line of JSON. Latency is half a round trip of 8 bytes, in microseconds; bandwidth
 * is that of 1 MiB messages one way, in MiB/s, over a tenth as many iterations (at least 10). Each round trip
 * is timed by itself, so that the median tells the usual case and the mean shows disturbances.
 * Exit: 0, or 2 for a wrong command line or fewer than two ranks. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SMALL = 8, LARGE = 1 << 20, WARM_UP = 50, MOST = 10000000 };

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Half round trips in seconds: fills times[0..count). */
static void bounce(int rank, int peer, char *buffer, int bytes, int count, double *times)
{
    for (int i = -WARM_UP; i < count; i++) {
        double start = MPI_Wtime();
        if (rank == 0) {
            MPI_Send(buffer, bytes, MPI_BYTE, peer, 0, MPI_COMM_WORLD);
            MPI_Recv(buffer, bytes, MPI_BYTE, peer, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        } else {
            MPI_Recv(buffer, bytes, MPI_BYTE, peer, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            MPI_Send(buffer, bytes, MPI_BYTE, peer, 0, MPI_COMM_WORLD);
        }
        if (i >= 0)
            times[i] = (MPI_Wtime() - start) / 2;
    }
}

static void summarise(double *times, int count, double *median, double *mean)
{
    double sum = 0;
    for (int i = 0; i < count; i++)
        sum += times[i];
    *mean = sum / count;
    qsort(times, (size_t)count, sizeof *times, compare);
    *median = count % 2 ? times[count / 2] : (times[count / 2 - 1] + times[count / 2]) / 2;
}

int main(int argc, char **argv)
{
    int rank, size, length;
    char host[MPI_MAX_PROCESSOR_NAME] = "", peer_host[MPI_MAX_PROCESSOR_NAME] = "";
    char library[MPI_MAX_LIBRARY_VERSION_STRING];
    long iterations = 1000;
    char *end = "";

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (argc > 1)
        iterations = strtol(argv[1], &end, 10);
    if (argc > 2 || *end || iterations < 1 || iterations > MOST || size < 2) {
        if (rank == 0)
            fprintf(stderr, "usage: mpi_pingpong [ITERATIONS 1..%d], with two ranks or more\n", MOST);
        MPI_Finalize();
        return 2;
    }
    MPI_Get_processor_name(host, &length);
    MPI_Get_library_version(library, &length);
    library[strcspn(library, ",\n")] = '\0';
    for (char *c = library; *c; c++)
        if (*c == '\t' || *c == '"' || *c == '\\')
            *c = ' ';

    int last = size - 1, large_count = iterations < 100 ? 10 : (int)(iterations / 10);
    if (rank == last)
        MPI_Send(host, sizeof host, MPI_CHAR, 0, 1, MPI_COMM_WORLD);
    if (rank == 0)
        MPI_Recv(peer_host, sizeof peer_host, MPI_CHAR, last, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);

    MPI_Barrier(MPI_COMM_WORLD);
    if (rank == 0 || rank == last) {
        char *buffer = calloc(1, LARGE);
        double *times = malloc((size_t)(iterations > large_count ? iterations : large_count) * sizeof *times);
        if (!buffer || !times)
            MPI_Abort(MPI_COMM_WORLD, 1);
        int peer = rank == 0 ? last : 0;
        double latency_median, latency_mean, transfer_median, transfer_mean;

        bounce(rank, peer, buffer, SMALL, (int)iterations, times);
        summarise(times, (int)iterations, &latency_median, &latency_mean);
        bounce(rank, peer, buffer, LARGE, large_count, times);
        summarise(times, large_count, &transfer_median, &transfer_mean);
        if (rank == 0)
            printf("{\"hosts\": [\"%s\", \"%s\"], \"library\": \"%s\", \"iterations\": %ld, "
                   "\"latency_us\": {\"median\": %.3f, \"mean\": %.3f}, "
                   "\"bandwidth_mib_s\": {\"median\": %.1f, \"mean\": %.1f}}\n",
                   host, peer_host, library, iterations, latency_median * 1e6, latency_mean * 1e6,
                   1 / transfer_median, 1 / transfer_mean);
        free(times);
        free(buffer);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    MPI_Finalize();
    return 0;
}
