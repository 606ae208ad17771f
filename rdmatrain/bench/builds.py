"""Sweeps of two builds in turns, each with ranks of its own: what ``compare`` can be sure of."""

import json
import math
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

from rdmatrain.bench.command import Stopped, stops_raise
from rdmatrain.bench.compare import Key, Record
from rdmatrain.bench.job import child_setup
from rdmatrain.bench.progress import Left
from rdmatrain.bench.records import read_json
from rdmatrain.errors import SettingError

END_S = 30.0  # for a sweep that is told to end
Tell = Callable[[str], object]


@dataclass(frozen=True)
class Builds:
    """What to measure.

    Attributes:
        pythons: interpreters, each with one build of rdmatrain.
        files: where the results of each go, as JSON lines.
        starts: of each build.
        sweep: arguments of ``rdmatrain bench``.
        budget_s: seconds after which no start is begun; 0: no bound.
        resume: go on where the files end; else they are not there yet.

    """

    pythons: tuple[str, str]
    files: tuple[Path, Path]
    starts: int
    sweep: Sequence[str]
    budget_s: float = 0.0
    resume: bool = False


class Made(NamedTuple):
    """How many starts of each build the files have, and the signal that stopped it; 0: none."""

    starts: int
    stopped_by: int


def measure(builds: Builds, tell: Tell = lambda _: None) -> Made:
    """Sweep with each build in turns; the one that is first changes each time.

    A start that is not whole, or whose other build has none, is taken out of the files again.

    Args:
        builds: what to measure.
        tell: is told of each turn.

    Raises:
        SettingError: a file is there, or a sweep failed; what was measured before is in the files.

    """
    made = _already(builds)
    end = time.monotonic() + builds.budget_s if builds.budget_s else math.inf
    left = Left([1.0] * (builds.starts - made))
    try:
        with stops_raise():
            while made < builds.starts and time.monotonic() < end:
                tell(f"{left.text()}start {made + 1} of {builds.starts} of each build")
                _take_turn(builds, made)
                made += 1
    except Stopped as stop:
        return Made(made, stop.number)
    finally:
        for file in builds.files:
            _cut(file, made)
    return Made(made, 0)


def _already(builds: Builds) -> int:
    """Return how many starts of both the files have."""
    there = [file for file in builds.files if file.exists()]
    if there and not builds.resume:
        raise SettingError(
            f"{there[0]} is there: name a new file for the results of a build, or add --resume to "
            "go on with it"
        )
    if len(there) < len(builds.files):
        return 0
    return min(min(Counter(map(_case, read_json(file))).values()) for file in there)


def _case(record: Record) -> tuple[object, ...]:
    return tuple(record[each.name] for each in fields(Key))


def _take_turn(builds: Builds, number: int) -> None:
    both = list(zip(builds.pythons, builds.files, strict=True))
    for python, file in both if number % 2 == 0 else reversed(both):
        argv = [python, "-m", "rdmatrain.cli", "bench", *builds.sweep]
        _sweep([*argv, "--quiet", "--json", str(file)])


def _cut(file: Path, starts: int) -> None:
    """Leave so many starts in a file, the first ones."""
    if not file.exists():
        return
    if not starts:
        file.unlink()
        return
    records = read_json(file)
    seen: Counter[object] = Counter()
    kept = []
    for record in records:
        seen[_case(record)] += 1
        if seen[_case(record)] <= starts:
            kept.append(record)
    if len(kept) < len(records):
        new = file.with_name(f"{file.name}.new")
        new.write_text("".join(json.dumps(record) + "\n" for record in kept))
        new.replace(file)


def _sweep(command: list[str]) -> None:
    try:
        # Ctrl-C is for this process to handle.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            preexec_fn=child_setup(signal.SIGTERM),  # noqa: PLW1509 - it only makes system calls
        )
    except OSError as error:
        raise SettingError(f"{command[0]} cannot be run: {error.strerror}") from error
    try:
        said, _ = process.communicate()
    except BaseException:
        _end(process)
        raise
    if process.returncode:
        last = [line for line in said.splitlines() if line.strip()][-3:]
        raise SettingError(
            f"{' '.join(command)} ended with {process.returncode}: {' | '.join(last) or 'no word'}"
        )


def _end(process: "subprocess.Popen[str]") -> None:
    """End a sweep, which ends its ranks."""
    process.terminate()
    try:
        process.communicate(timeout=END_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
