# SPDX-License-Identifier: BSD-3-Clause
"""The `bollard` command: one module for each group of commands.

main.py: runs one command.
commands.py: the table of commands.
start.py: bollard exec, run, shell, test.
build.py: bollard build.
slurm_build.py: bollard build --on-slurm.
cache.py: bollard cache.
names.py: bollard names; the names apptainer, singularity and run-singularity.
inspect.py: bollard inspect, run-help.
sbom.py: bollard sbom.
instance.py: bollard instance.
job.py: bollard job, ps, attach.
plan.py: bollard plan.
pull.py: bollard pull.
push.py: bollard push, search, delete, tag.
registry.py: bollard registry.
remote.py: bollard remote.
flow.py: bollard flow.
sif.py: bollard sif.
sign.py: bollard sign, verify.
key.py: bollard key.
passphrase.py: passphrases from files and terminals.
encryption_key.py: the key of an encrypted image.
site.py: bollard site.
doctor.py: bollard doctor.
machine.py: the checks of bollard doctor.
image_findings.py: the checks of bollard doctor IMAGE.
findings.py: prints the findings of checks.
terminal.py: escapes control characters on a terminal.
completion.py: completion for shells.
manual.py: manual pages.
"""
