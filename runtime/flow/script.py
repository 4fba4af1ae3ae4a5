# SPDX-License-Identifier: BSD-3-Clause
"""The batch script of each job. The scripts keep the state of the job in the flow's directory; nothing else does.

User text gets into a script only as quoted words. Scripts of users are files of their own.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

# bash writes a record with one write(2), into bytes that were reserved before the flow started.
_FUNCTIONS = r"""
record() {
    local text="state=$1 job=$job start=$begun end=$3 status=$2 attempt=$attempt"
    text="$text restart=${SLURM_RESTART_COUNT:-0} node=${SLURMD_NODENAME:-unknown}"
    # Not a new file: the flow may have been removed.
    test -e "$flow/state/$part" && printf '%-510s.\n' "$text" 1<> "$flow/state/$part" ||
        echo "bollard: $flow/state/$part: the job's state cannot be written" >&2
}

ended() {
    local status=$? word=failed
    trap '' TERM INT
    trap - EXIT
    test -z "$requeued" || exit $status
    if test -n "$stopped"; then
        word=cancelled status=143
        # The limit of the flow file, or the job's own end, which a partition may set (from Slurm 22.05 on).
        test "$limit" -gt 0 && test $(($(date +%s) - begun)) -ge "$limit" && word=timeout
        test "${SLURM_JOB_END_TIME:-0}" -gt 0 && test "$(date +%s)" -ge "$SLURM_JOB_END_TIME" && word=timeout
    elif test $status = 0; then
        word=ok
    elif test -n "$late"; then
        word=timeout
    fi
    record $word $status "$(date +%s)"
    # Not after a cancellation: Slurm may start the job again, as after a requeue. The job .cancel sees the others.
    if test $word = failed -o $word = timeout && test -n "$cancel_others"; then
        # Of a bundle (bundle.py), the lines of the elements tell 12_3; its own line tells 12.
        scancel --quiet $(awk -v g=$generation -v job="$job" -v me="$id" '$1 == g && $2 !~ /^\./ {
            split($3, number, "_")
            if (number[1] == job ? $3 ~ /_/ && $3 != me : $3 !~ /_/) print $3
        }' "$flow/ids") 2> /dev/null
    fi
    exit $status
}

stop() {
    stopped=1
    test -n "$child" && kill -TERM "$child" 2> /dev/null
}

# Waits in the background, so that bash runs a trap at once.
go() {
    local status
    "$@" &
    child=$!
    wait $child
    status=$?
    # A trap interrupts wait; then the child has still to end.
    while kill -0 $child 2> /dev/null; do wait $child; status=$?; done
    child=
    return $status
}

# Nobody would see such a job: `flow list` and `flow cancel` need the directory.
if ! test -e "$flow/state/$part"; then
    echo "bollard: $flow/state/$part: is gone, so the job does not start" >&2
    exit 255
fi
# After a requeue the attempts go on. An attempt that a node failure or an administrator cut short is made again.
if test "${SLURM_RESTART_COUNT:-0}" -gt 0; then
    said=$(head -c 510 "$flow/state/$part")
    mine="job=$job "
    if [[ $said =~ ^state=(again|running|cancelled)\ $mine.*\ attempt=([0-9]+)\  ]]; then
        attempt=${BASH_REMATCH[2]}
        test "${BASH_REMATCH[1]}" != again || attempt=$((attempt + 1))
    fi
fi
trap ended EXIT
trap stop TERM INT
record running 0 0
"""

# In the same allocation.
_AGAIN = r"""
        echo "bollard: {name}: attempt $attempt of {attempts} ended with status $status; starting it again" >&2
        attempt=$((attempt + 1))
        record running 0 0
        continue
"""

# In another one. The job never ends as failed in between, so that the jobs that need it stay.
_REQUEUE = r"""
        record again $status "$(date +%s)"
        requeued=1
        # slurmd may end this script, and scontrol with it, before scontrol has an answer.
        if said=$(scontrol requeue "$id" 2>&1) || test -n "$stopped"; then
            echo "bollard: {name}: attempt $attempt of {attempts} ended with status $status; Slurm starts it again" >&2
            test -n "$stopped" || go sleep 300
            test -n "$stopped" || requeued=
            exit $status
        fi
        requeued=
        echo "bollard: {name}: scontrol requeue: $said; starting it again in the same allocation" >&2
        attempt=$((attempt + 1))
        record running 0 0
        continue
"""

_LOOP = r"""
while :; do
    seconds=$SECONDS
    go {command}
    status=$?
    late=
    if test {timeout} -gt 0 && test $status = 124 -o $status = 137 && test $((SECONDS - seconds)) -ge {timeout}; then
        late=1
        echo "bollard: {name}: stopped after {timeout} s, its policy.timeout.execute" >&2
    fi
    test $status = 0 || test $attempt -ge {attempts} || test -n "$stopped" || {{{again}    }}
    exit $status
done
"""


def text(
    name: str, flow: str, generation: int, options: Sequence[str], *, command: Sequence[str], attempts: int = 1,
    requeue: bool = False, timeout: int = 0, limit: int = 0, cancel_others: bool = False, before: str = "",
) -> str:  # fmt: skip
    """Return the script of one job.

    name: the job's name, or that of a transfer.
    flow: the flow's directory.
    generation: the number of the submission.
    options: sbatch's options, for a comment.
    command: what is started on the first node.
    attempts: how many times at most.
    requeue: whether Slurm starts each further attempt in another allocation.
    timeout: seconds for each attempt; 0 for none.
    limit: the job's time limit in seconds, to tell a timeout from a cancellation; 0 for none.
    cancel_others: whether a failure cancels the rest of the flow.
    before: shell code that runs before the first attempt.
    """
    words = ["timeout", "--kill-after=20", str(timeout), *command] if timeout else list(command)
    shown = " ".join(shlex.quote(word) for word in options).replace("\n", " ")
    lines = [
        "#!/bin/bash",
        f"# Made by `bollard flow`. Submitted, if it is not in an array of equal jobs, by: sbatch {shown}",
        f"flow={shlex.quote(flow)} generation={generation}",
        # The script of a bundle gives both.
        "job=${1:-${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}",
        "id=${2:-${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}}",
        f"part={shlex.quote(name)}${{SLURM_ARRAY_TASK_ID:+.$SLURM_ARRAY_TASK_ID}}",
        f"begun=$(date +%s) attempt=1 stopped= child= late= requeued= limit={limit}",
        f"cancel_others={'1' if cancel_others else ''}",
        f"export FB_WORKFLOW_ID={shlex.quote(flow.rpartition('/')[2])}",
        'test -z "$SLURM_ARRAY_TASK_ID" || export FB_TASK_ID="$SLURM_ARRAY_TASK_ID"',
    ]
    again = (_REQUEUE if requeue else _AGAIN).format(name=name, attempts=attempts)
    loop = _LOOP.format(command=shlex.join(words), timeout=timeout, attempts=attempts, name=name, again=again)
    return "\n".join(lines) + "\n" + _FUNCTIONS + before + loop


def unchanged(path: str, stamp: str) -> str:
    """Return shell code that ends the job if the file at `path` is missing, or its size and time are not `stamp`."""
    quoted = shlex.quote(path)
    return (
        f"seen=$(LC_ALL=C stat -Lc '%s %Y' {quoted} 2>&1) || {{\n"
        f"    printf 'bollard: %s: is not on %s: %s; use a file on a shared filesystem\\n' {quoted} "
        '"${SLURMD_NODENAME:-this node}" "${seen##*: }" >&2\n'
        "    exit 255\n}\n"
        f'if test "$seen" != {shlex.quote(stamp)}; then\n'
        f"    printf 'bollard: %s: has changed since the flow was submitted; bollard flow resume\\n' {quoted} >&2\n"
        "    exit 255\nfi\n"
    )


def canceller(flow: str, generation: int) -> str:
    """Return the script of the job that cancels the rest of a flow after a failure."""
    ids = shlex.quote(flow + "/ids")
    return (
        f"#!/bin/bash\n# Made by `bollard flow`: on-failure: cancel.\n"
        f"scancel --quiet $(awk '$1 == {generation} && $2 !~ /^\\./ && $3 !~ /_/ {{print $3}}' {ids}) "
        "2> /dev/null\n"
        "exit 0\n"
    )


def plain(command: Sequence[str]) -> str:
    """Return a script that becomes a command."""
    return f"#!/bin/bash\n# Made by `bollard flow`.\nexec {shlex.join(command)}\n"


MULTINODE = r"""
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
MULTINODE_HOSTLIST_NOSLOTS=$(paste -sd, <<< "$nodes")
MULTINODE_HOSTLIST=$(sed 's/$/:{slots}/' <<< "$nodes" | paste -sd,)
MULTINODE_TOTAL_SLOTS=$((SLURM_JOB_NUM_NODES * {slots}))
MULTINODE_NODE_IP=$(hostname -i | cut -d' ' -f1)
export MULTINODE_HOSTLIST MULTINODE_HOSTLIST_NOSLOTS MULTINODE_TOTAL_SLOTS MULTINODE_NODE_IP
"""
