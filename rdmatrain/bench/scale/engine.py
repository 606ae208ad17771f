"""Runs jobs on a simulated fabric by SimGrid: builds ``fabric.cpp`` and feeds it."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rdmatrain.errors import RdmatrainError

SOURCE = Path(__file__).with_name("fabric.cpp")
HOW_TO_GET = "apt-get install libsimgrid-dev g++ pkg-config (or build SimGrid 3.32 or later)"
BUILD_SECONDS = 300.0
# The plain fluid model: no factors fitted to TCP, no acknowledgements, no window.
CONFIG = (
    "--log=root.thres:critical",
    "--cfg=network/model:CM02",
    "--cfg=network/crosstraffic:0",
    "--cfg=network/TCP-gamma:1e15",
    "--cfg=contexts/guard-size:0",
    "--cfg=contexts/stack-size:128",
)


class EngineError(RdmatrainError):
    """The simulator is missing, does not build, or failed; the text says what to do."""


@dataclass(frozen=True)
class Tree:
    """A fat tree of SimGrid, from the NICs upwards.

    Attributes:
        down: of each level, how many nodes of the one below a switch of it has.
        up: of each level, how many switches of it a node of the one below has.
        bytes_per_s: of each link, in each direction.
        hop_s: latency of each link.

    """

    down: tuple[int, ...]
    up: tuple[int, ...]
    bytes_per_s: float
    hop_s: float


@dataclass(frozen=True)
class Stage:
    """What a rank does in a stage.

    Attributes:
        before_s: seconds until it sends.
        busy_s: seconds of its own work, while messages fly.
        arrivals: messages that it gets.
        to: ranks that it sends to.
        nbytes: that it sends to each of them.

    """

    before_s: float
    busy_s: float
    arrivals: int
    to: Sequence[int]
    nbytes: Sequence[float]


@dataclass(frozen=True)
class Job:
    """Ranks on nodes of a tree, and the stages of each, as many for all."""

    nodes: Sequence[int]
    ranks: Sequence[Sequence[Stage]]


def why_not() -> str:
    """Return what is missing for a simulation, and how to get it; "" where nothing is."""
    for program in ("g++", "pkg-config"):
        if shutil.which(program) is None:
            return f"{program} is not installed: {HOW_TO_GET}"
    found = subprocess.run(["pkg-config", "--exists", "simgrid"], check=False)
    return "" if found.returncode == 0 else f"SimGrid is not installed: {HOW_TO_GET}"


@contextmanager
def built() -> Iterator[Path]:
    """Build the simulator; yield it, and remove it in the end.

    Raises:
        EngineError: something is missing, or it does not build.

    """
    missing = why_not()
    if missing:
        raise EngineError(missing)
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "simgrid"], capture_output=True, text=True, check=True
    ).stdout.split()
    with tempfile.TemporaryDirectory(prefix="rdmatrain-scale-") as folder:
        program = Path(folder) / "fabric"
        command = ["g++", "-O2", "-std=c++17", str(SOURCE), "-o", str(program), *flags]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=BUILD_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise EngineError(
                f"g++ needed more than {BUILD_SECONDS:g} s for {SOURCE.name}: try it again on a "
                "machine that does less"
            ) from None
        if done.returncode:
            raise EngineError(f"{SOURCE.name} does not build with this SimGrid:\n{done.stderr}")
        yield program


def run(program: Path, tree: Tree, jobs: Sequence[Job], limit_s: float) -> list[float]:
    """Return the seconds that each job takes on the tree.

    Raises:
        EngineError: the simulator failed, or needed more than ``limit_s``.

    """
    try:
        done = subprocess.run(
            [str(program), *CONFIG],
            input="\n".join(_text(tree, jobs)),
            capture_output=True,
            text=True,
            check=False,
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired:
        raise EngineError(
            f"the simulation needed more than {limit_s:g} s: give fewer --gpus"
        ) from None
    seconds = [float(line) for line in done.stdout.split()]
    if done.returncode or len(seconds) != len(jobs):
        raise EngineError(f"the simulator failed ({done.returncode}): {done.stderr.strip()[-500:]}")
    return seconds


def _text(tree: Tree, jobs: Sequence[Job]) -> Iterator[str]:
    yield f"{len(tree.down)} {' '.join(map(str, (*tree.down, *tree.up)))}"
    yield f"{tree.bytes_per_s} {tree.hop_s} {len(jobs)}"
    for job in jobs:
        yield f"{len(job.nodes)} {len(job.ranks[0])}"
        yield " ".join(map(str, job.nodes))
        for rank in job.ranks:
            for stage in rank:
                yield f"{stage.before_s} {stage.busy_s} {stage.arrivals} {len(stage.to)}"
                yield " ".join(
                    f"{to} {nbytes}" for to, nbytes in zip(stage.to, stage.nbytes, strict=True)
                )
