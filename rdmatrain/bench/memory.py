"""The memory limits of this machine: talks to ``_limit``, the program of csrc/bench/limit.c."""

import importlib.util
import json
import os
import selectors
import subprocess
import time
from pathlib import Path
from typing import Any, NoReturn

from rdmatrain.bench.model import GB, Case
from rdmatrain.bench.running import ContestantError, Prepared

PROGRAM = "_limit"
RANKS = 2
ITEMSIZE = 4  # of float32
# What an order may take: other programs may have the CPUs, and its processes spin.
PATIENCE_S, SLOW_FACTOR = 60.0, 20
END_S = 2.0
STREAMS = {"copy": 2, "triad": 3}  # arrays that each reads or writes, as STREAM counts them


class MemoryLimit:
    """An all-reduce of two ranks that does nothing but move and add the bytes.

    No all-reduce of two ranks of one host that leaves the result in both tensors can be faster, if
    each rank has one CPU. See ``rdmatrain.bench.running.Running``.

    Args:
        ranks: of the sweep; it has two.
        program: to run instead of the installed one.

    Raises:
        ContestantError: it cannot be started.

    """

    transport = "memory"
    device = "cpu"
    hosts = 1

    def __init__(self, ranks: int = RANKS, program: Path | None = None) -> None:
        self._ranks = ranks
        self.versions: dict[str, str] = {}
        self._guess_s = 0.0
        self._heard = b""
        try:
            self._process = subprocess.Popen(
                [str(program or _program())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,  # nothing is left to flush for a program that has ended
            )
        except OSError as error:
            raise ContestantError(f"{PROGRAM} cannot be started: {error}", gone=True) from error
        self.cpus: int = self._answer(PATIENCE_S)["processes"]

    def why_not(self, case: Case) -> str:
        """Return why it has no such case; "" where it has."""
        if self._ranks != RANKS:
            return f"it has {RANKS} ranks, and there are {self._ranks}"
        if self.cpus < RANKS:
            return "it needs two CPUs: processes that spin cannot share one"
        if (case.op, case.dtype, case.redop) != ("all_reduce", "float32", "SUM"):
            return "it has only all_reduce of float32 with SUM"
        return "" if case.in_place else "it has all_reduce only in place"

    def prepare(self, case: Case, check: bool) -> Prepared:
        """Allocate, run it once and check it; that costs little, so it is not asked whether to."""
        return self._prepare(case.op, RANKS, case.nbytes)

    def time(self, calls: int, warmup: int) -> list[list[float]]:
        """Make the calls; seconds of each, by process."""
        self._say(f"time {calls} {warmup}")
        answer = self._answer(PATIENCE_S + SLOW_FACTOR * self._guess_s * (calls + warmup))
        seconds: list[list[float]] = answer["seconds"]
        return seconds

    def drop(self) -> None:
        """Free the memory."""
        self._say("drop")
        self._answer(PATIENCE_S)

    @property
    def pid(self) -> int:
        """Process id of the program, which is the parent of its other processes."""
        return self._process.pid

    def close(self) -> None:
        """End the processes."""
        if self._process.stdin and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe:
                pipe.close()

    def bandwidth(self, stream: str, cpus: int, nbytes: int, calls: int) -> list[float]:
        """Measure how fast memory is read and written.

        Args:
            stream: of ``STREAMS``.
            cpus: that do it at once, each with arrays of its own.
            nbytes: of each array.
            calls: number of times.

        Returns:
            GB/s of all of them together, of each call; bytes read and written both count.

        """
        self._prepare(stream, cpus, nbytes)
        slowest = map(max, zip(*self.time(calls, 1), strict=True))
        self.drop()
        return [STREAMS[stream] * nbytes * cpus / seconds / GB for seconds in slowest]

    def _prepare(self, kind: str, processes: int, nbytes: int) -> Prepared:
        self._say(f"prepare {kind} {processes} {nbytes}")
        answer = self._answer(PATIENCE_S)
        self._guess_s = answer["guess_s"]
        return Prepared(answer["nwrong"], self._guess_s)

    def _say(self, order: str) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(f"{order}\n".encode())
            self._process.stdin.flush()
        except OSError:
            self._give_up("has ended")

    def _answer(self, patience_s: float) -> dict[str, Any]:
        """Return the next line of the program."""
        assert self._process.stdout
        fd = self._process.stdout.fileno()
        deadline = time.monotonic() + patience_s
        with selectors.DefaultSelector() as selector:
            selector.register(fd, selectors.EVENT_READ)
            while b"\n" not in self._heard:
                if not selector.select(max(deadline - time.monotonic(), 0)):
                    self._give_up(f"did not answer within {patience_s:.0f} s")
                part = os.read(fd, 1 << 16)
                if not part:
                    self._give_up("has ended")
                self._heard += part
        line, _, self._heard = self._heard.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _give_up(self, what: str) -> NoReturn:
        self._process.kill()
        self._process.wait()
        assert self._process.stderr
        words = self._process.stderr.read().decode(errors="replace").strip()
        self.close()
        raise ContestantError(f"{PROGRAM} {what}{words and f'; it wrote: {words}'}", gone=True)


def _program() -> Path:
    """Return where the program is: beside the extensions, wherever these are installed."""
    spec = importlib.util.find_spec("rdmatrain._core")
    path = Path(spec.origin).with_name(PROGRAM) if spec and spec.origin else None
    if path is None or not path.is_file():
        text = f"rdmatrain is installed without its memory probe ({PROGRAM}): install it again"
        raise ContestantError(text, gone=True)
    return path
