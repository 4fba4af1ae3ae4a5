# SPDX-License-Identifier: BSD-3-Clause
"""PMI-2 without a library: the text protocol of Slurm's ``mpi/pmi2`` plugin on ``PMI_FD``.

The image needs only Python. The protocol as slurmstepd implements it (src/plugins/mpi/pmi2: agent.c for
the greeting, pmi2.c and client.c for the rest; the same in 20.11 to 26.05):

* The greeting is one line each way: ``cmd=init pmi_version=2 pmi_subversion=0`` and ``cmd=response_to_init rc=0
  pmi_version=2 pmi_subversion=0``. It is sent in one write, because the server reads it in one read of 64 bytes.
* Every later message has six bytes with the length of the body in decimal, padded with spaces on the right,
  then the body, ``cmd=NAME;key=value;key=value;``. The answer's command is ``NAME-response``, and it has the key
  ``rc``.
* libpmi2 doubles a ``;`` inside a value, but slurmstepd does not decode this. Such values are refused here.
* A connection serves one process, once. After ``finalize`` the server closes its end, and a second greeting is
  an error. So a task that has used this module cannot start an MPI program afterwards.

All ranks of a step must use the same version: slurmstepd keeps one version per node (MPICH uses PMI-1).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable

from bollard.mpi.errors import Pmi2Error

KEY_LIMIT = 64  # PMI2_MAX_KEYLEN, with the final NUL
VALUE_LIMIT = 1024  # PMI2_MAX_VALLEN, with the final NUL
_LENGTH_DIGITS = 6
# Bytes. Slurm's answers have at most one value; the longest is the process mapping of a very large job.
_ANSWER_LIMIT = 999_999
_GREETING = b"cmd=init pmi_version=2 pmi_subversion=0\n"
_GREETING_LIMIT = 256

LOST = "slurmstepd closed the PMI-2 connection"
LOST_HINT = "look in slurmd's log on this node; has this task already run an MPI program?"


def encode(command: str, pairs: Iterable[tuple[str, str]] = ()) -> bytes:
    """Return a message to the server, with its length.

    Raises:
        Pmi2Error: a key or a value is too long or holds ``;`` or NUL, or a key is empty or holds ``=``.
    """
    body = f"cmd={command};".encode()
    for key, value in pairs:
        raw_key, raw_value = key.encode(), value.encode()
        for text, limit, what in ((raw_key, KEY_LIMIT, "key"), (raw_value, VALUE_LIMIT, "value")):
            if len(text) >= limit:
                raise Pmi2Error(f"PMI-2 {what} of {len(text)} bytes", f"at most {limit - 1} fit")
            if b";" in text or b"\0" in text:
                raise Pmi2Error(f"PMI-2 {what} with ';' or NUL", "Slurm has no escape for it; encode it")
        if not raw_key or b"=" in raw_key:
            raise Pmi2Error(f"PMI-2 key {key!r}", "a key is not empty and has no '='")
        body += raw_key + b"=" + raw_value + b";"
    return str(len(body)).ljust(_LENGTH_DIGITS).encode() + body


def decode(body: bytes) -> tuple[str, dict[str, str]]:
    """Return the command of a message and its values. ``;;`` in a value means ``;``. The first of equal keys is used.

    Raises:
        Pmi2Error: the body is not of the form ``cmd=NAME;key=value;...``.
    """
    fields = []
    position = 0
    while position < len(body):
        end = body.find(b";", position)
        while end >= 0 and body[end + 1 : end + 2] == b";":
            end = body.find(b";", end + 2)
        key, equals, value = body[position:end].partition(b"=")
        if end < 0 or not equals:
            break
        fields.append((_text(key), _text(value.replace(b";;", b";"))))
        position = end + 1
    if position != len(body) or not fields or fields[0][0] != "cmd":
        raise Pmi2Error(
            f"slurmstepd sent no PMI-2 message: {body[:80]!r}",
            "is PMI_FD still the descriptor that Slurm opened?",
        )
    values: dict[str, str] = {}
    for key_text, value_text in fields[1:]:
        values.setdefault(key_text, value_text)
    return fields[0][1], values


class Wire:
    """One task's connection. Call `init` first and `finalize` last. Every call can block until the server answers.

    Every method raises Pmi2Error if the server refuses the request, closes the connection, or gives a wrong answer.
    """

    def __init__(self, descriptor: int, job_id: str, rank: int) -> None:
        """``descriptor``, ``job_id`` and ``rank`` are the values of PMI_FD, PMI_JOBID and PMI_RANK."""
        self._descriptor = descriptor
        self._job_id = job_id
        self.rank = rank
        self.size = 0

    def init(self) -> None:
        """Greet the server and join the job; this sets `rank` and `size` to the values of the server.

        Raises:
            Pmi2Error: the server refuses PMI-2 or gives a wrong answer.
        """
        self._send(_GREETING)
        line = b""
        while not line.endswith(b"\n"):
            if len(line) >= _GREETING_LIMIT:
                raise Pmi2Error(
                    f"slurmstepd answered the PMI-2 greeting with {line[:80]!r}",
                    "is PMI_FD still the descriptor that Slurm opened?",
                )
            line += self._receive(1)
        words = dict(word.partition("=")[::2] for word in _text(line).split())
        if words.get("cmd") != "response_to_init" or words.get("rc") != "0":
            raise Pmi2Error(
                f"slurmstepd refused PMI-2 (it offers {words.get('pmi_version', '?')}."
                f"{words.get('pmi_subversion', '?')}, rc {words.get('rc', '?')})",
                "a task of this node speaks another PMI version; start one kind of program per step",
            )
        answer = self._ask("fullinit", ("pmijobid", self._job_id), ("pmirank", str(self.rank)), ("threaded", "FALSE"))
        self.rank, self.size = self._number(answer, "rank"), self._number(answer, "size")

    def job_id(self) -> str:
        """Return the server's name of the job: ``JOB.STEP``."""
        return self._ask("job-getid").get("jobid", "")

    def put(self, key: str, value: str) -> None:
        """Offer a value to the other ranks; they see it after the next `fence`. Keys are unique in a job."""
        self._ask("kvs-put", ("key", key), ("value", value))

    def fence(self) -> None:
        """Wait until every rank of the step has called this."""
        self._ask("kvs-fence")

    def get(self, key: str) -> str | None:
        """Return the value that a rank has put before the last fence; None if there is none."""
        return self._found(self._ask("kvs-get", ("jobid", self._job_id), ("srcid", "-1"), ("key", key)))

    def finalize(self) -> None:
        """Leave the job and close the file descriptor."""
        self._ask("finalize")
        os.close(self._descriptor)

    def _ask(self, command: str, *pairs: tuple[str, str]) -> dict[str, str]:
        self._send(encode(command, pairs))
        prefix = self._receive(_LENGTH_DIGITS)
        digits = prefix.strip()
        if not digits.isdigit() or int(digits) > _ANSWER_LIMIT:
            raise Pmi2Error(
                f"slurmstepd sent {prefix!r} where PMI-2 has a length",
                "is PMI_FD still the descriptor that Slurm opened?",
            )
        name, values = decode(self._receive(int(digits)))
        if name != f"{command}-response":
            # After a message that it cannot parse, Slurm sends another command and closes the connection.
            raise Pmi2Error(f"slurmstepd answered {command} with {name}", LOST_HINT)
        if values.get("rc") != "0":
            told = values.get("errmsg", "no reason given")
            raise Pmi2Error(
                f"slurmstepd refused {command}: rc {values.get('rc', '?')}, {told}",
                "look in slurmd's log on this node",
            )
        return values

    def _send(self, message: bytes) -> None:
        try:
            while message:
                message = message[os.write(self._descriptor, message) :]
        except OSError as problem:
            raise self._broken(problem) from None

    def _receive(self, count: int) -> bytes:
        """Read exactly ``count`` bytes."""
        parts = []
        try:
            while count:
                part = os.read(self._descriptor, count)
                if not part:
                    raise Pmi2Error(LOST, LOST_HINT)
                parts.append(part)
                count -= len(part)
        except OSError as problem:
            raise self._broken(problem) from None
        return b"".join(parts)

    def _broken(self, problem: OSError) -> Pmi2Error:
        if isinstance(problem, (BrokenPipeError, ConnectionResetError)):
            return Pmi2Error(LOST, LOST_HINT)
        return Pmi2Error(
            f"PMI_FD={self._descriptor}: {problem.strerror}",
            "the descriptor that Slurm opened is not open here; keep it across exec",
        )

    @staticmethod
    def _found(values: dict[str, str]) -> str | None:
        return values.get("value", "") if values.get("found") == "TRUE" else None

    @staticmethod
    def _number(values: dict[str, str], key: str) -> int:
        text = values.get(key, "")
        if not text.isdigit():
            raise Pmi2Error(f"slurmstepd gave no {key} in its PMI-2 answer", LOST_HINT)
        return int(text)


def from_environment(env: dict[bytes, bytes]) -> Wire:
    """Return a connection from PMI_FD, PMI_JOBID and PMI_RANK; the greeting is not sent yet.

    Raises:
        Pmi2Error: PMI_FD or PMI_RANK is missing or not a number, or the file descriptor is not an open socket.
    """
    numbers = {}
    for name in (b"PMI_FD", b"PMI_RANK"):
        value = env.get(name, b"")
        if not value.isdigit() or len(value) > 9:
            raise Pmi2Error(
                f"{name.decode()}={_text(value)!r} in the environment is no number",
                "start it with srun --mpi=pmi2",
            )
        numbers[name] = int(value)
    descriptor = numbers[b"PMI_FD"]
    try:
        # If the socket was closed on the way, the number can belong to another file by now.
        socket.socket(fileno=os.dup(descriptor)).close()
    except OSError as problem:
        raise Pmi2Error(
            f"PMI_FD={descriptor} is no open socket: {problem.strerror}",
            "it did not survive the way here; the container must keep it open",
        ) from None
    return Wire(descriptor, _text(env.get(b"PMI_JOBID", b"0")), numbers[b"PMI_RANK"])


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
