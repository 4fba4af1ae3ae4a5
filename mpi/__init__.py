# SPDX-License-Identifier: BSD-3-Clause
"""Start-up of MPI in a container: what Slurm has prepared for it, and a check that it works.

| file | content |
|---|---|
| ``wireup.py`` | what a container must keep so that MPI finds Slurm (plain data, no imports) |
| ``library.py`` | opens libpmix or libpmi2 |
| ``pmix.py`` | PMIx client calls, through libpmix |
| ``pmi2.py`` | PMI-2 client calls, through libpmi2 |
| ``pmi2_wire.py`` | PMI-2 without any library: the text protocol over ``PMI_FD`` |
| ``errors.py`` | the errors of these calls |
| ``hello.py`` | ``python -m bollard.mpi.hello``: checks the wire-up without an MPI program |
"""
