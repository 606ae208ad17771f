# SPDX-License-Identifier: Apache-2.0
"""Contestants over MPI, as the conductor sees them; `make mpi` gets all three."""

import os
import signal
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from rdmatrain.bench import mpi
from rdmatrain.bench.contestants import find
from rdmatrain.bench.job import JobOfRanks
from rdmatrain.bench.model import OPS, Case
from rdmatrain.bench.orders import PIN_VARIABLE
from rdmatrain.bench.running import ContestantError

RANKS = 2
SIZES = {"float32": 4, "uint8": 1, "int64": 8}


@pytest.fixture(scope="module", params=list(mpi.PEERS))
def job(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    starts, failures = find([request.param], [])
    if failures:
        pytest.skip(f"{request.param}: {failures[0].text}; make mpi gets it")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PIN_VARIABLE, "1")
        opened = starts[0].open(RANKS, tmp_path_factory.mktemp("job"))
    yield opened
    opened.close()
    # Killed, it is gone a moment later: it has memory to give back, and is no child of ours.
    deadline = time.monotonic() + 10
    while alive(opened) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(opened)


def pids(job: JobOfRanks) -> list[int]:
    return [hello["pid"] for hello in job._hellos.values()]


def alive(job: JobOfRanks) -> list[int]:
    """Return the ranks that still run; one that nobody has waited for does not."""
    states = {}
    for pid in pids(job):
        path = Path(f"/proc/{pid}/stat")
        states[pid] = path.read_text("utf-8").rpartition(")")[2].split()[0] if path.exists() else ""
    return [pid for pid, state in states.items() if state not in ("", "Z", "X")]


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def cases() -> Iterator[Case]:
    for op, dtype, redop, in_place, count in product(
        OPS.values(), SIZES, ("SUM", "PRODUCT", "MIN", "MAX", ""), (False, True), (0, 2, 3000)
    ):
        nbytes = count * SIZES[dtype] if op.sized else 0
        if op.reduces == bool(redop) and (redop in ("", "SUM") or dtype == "float32"):
            yield Case(op.name, dtype, redop, nbytes, in_place, 1 if op.rooted else -1)


def test_every_operation_is_right_and_timed(job: Any) -> None:
    assert (job.transport, job.hosts) == ("", 1)
    assert job.versions["mpi4py"] == "4.1.2"
    done = [case for case in cases() if not job.why_not(case)]
    assert {case.op for case in done} == set(OPS) - {"write"}
    for case in done:
        prepared = job.prepare(case, check=True)
        assert prepared.nwrong == 0, case
        assert prepared.guess_s > 0
    seconds = job.time(calls=5, warmup=2)
    assert [len(each) for each in seconds] == [5, 5]
    assert all(each > 0 for rank in seconds for each in rank)
    assert job.prepare(done[0], check=False).nwrong is None
    job.drop()
    with pytest.raises(ContestantError, match="nothing is prepared"):
        job.time(calls=1, warmup=0)


def test_ranks_that_wait_take_no_cpu(job: Any) -> None:
    job.prepare(Case("all_reduce", "float32", "SUM", 1 << 16, True), check=True)
    before = [cpu_ticks(pid) for pid in pids(job)]
    time.sleep(1)
    assert [cpu_ticks(pid) for pid in pids(job)] == pytest.approx(before, abs=2)


# The last one, as all share the contestant.
def test_a_rank_that_dies_ends_the_contestant(job: Any) -> None:
    os.kill(pids(job)[1], signal.SIGKILL)
    with pytest.raises(ContestantError) as raised:
        job.prepare(Case("all_reduce", "float32", "SUM", 8, True), check=True)
    assert raised.value.gone
