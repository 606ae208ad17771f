# SPDX-License-Identifier: Apache-2.0
"""Ranks that hang, and ranks that only take long, as the launcher's watcher sees them."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from integration_jobs import PYTHON, environment, facts_of, free_port, write_worker

from rdmatrain.launcher.messages import RankState
from rdmatrain.launcher.watch.hang import Suspect, judge
from rdmatrain.launcher.watch.watcher import Watcher

HANG_S = 1.5
STEP_S = 0.25
START_S = 60.0

# Rank 1 does it, after a collective that has worked; rank 0 waits for it in the next one.
HANGS = {
    "stopped": "os.kill(os.getpid(), 19)\n    while True: pass",
    "gil": "import ctypes\n    ctypes.PyDLL(None).sleep(60)",
    "idle": "lock = threading.Lock()\n    lock.acquire()\n    lock.acquire()",
    "deadlock": "dist.all_reduce(x, group=other)",
    "circle": "dist.recv(x, 0)",
    "gloo": "dist.recv(x, 0)",  # which does not say that it waits
}
BEGIN = """
dist.init_process_group("rdmatrain")
other = dist.new_group([0, 1])
x = torch.ones(4)
dist.all_reduce(x)
dist.all_reduce(x, group=other)
note(ready=True)
"""
HANG = """
def stuck():
    {}
stuck() if RANK == 1 else {}
"""
DIES = """
from torch.distributed.elastic.multiprocessing.errors import record
@record
def main():
    if RANK == 1:
        raise KeyError("no such column")
    dist.all_reduce(x)
main()
"""
INNOCENT = """
import subprocess
import numpy as np
def compute():
    end = time.monotonic() + 2.6
    while time.monotonic() < end:
        np.sort(np.random.rand(200_000))
        sum(range(3 * 10**7))  # with the GIL
def let_a_child_compute():
    code = "import time; end = time.monotonic() + 2.6\\nwhile time.monotonic() < end: pass"
    subprocess.run([sys.executable, "-c", code], check=True)
def write():
    end = time.monotonic() + 2.6
    with open(__file__ + ".checkpoint", "wb") as file:
        while time.monotonic() < end:
            file.write(bytes(1 << 20))
            file.flush()
            os.fsync(file.fileno())
            time.sleep(0.1)
for phase in (compute, let_a_child_compute, write):
    if RANK == 0:
        phase()
    else:
        note(**{phase.__name__: time.monotonic()})
    dist.all_reduce(x)
note(done=True)
"""


@dataclass
class Job:
    """Two ranks, started by hand, with their watcher."""

    watcher: Watcher
    processes: list[subprocess.Popen[str]]

    def close(self) -> list[str]:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        self.watcher.end()
        return [process.communicate(timeout=20)[0] for process in self.processes]


def start(folder: Path, body: str, extra: Mapping[str, str] | None = None) -> Job:
    folder.mkdir(exist_ok=True)
    worker = write_worker(folder, body)
    watcher = Watcher(folder)
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [*PYTHON, worker],
            env=environment(
                common | {"RANK": str(rank)} | watcher.environment(rank) | dict(extra or {})
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        for rank in (0, 1)
    ]
    watcher.begin({rank: (rank, process.pid) for rank, process in enumerate(processes)})
    return Job(watcher, processes)


@dataclass
class Found:
    suspect: Suspect
    stacks: str


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Job]]:
    """All jobs that end badly, side by side."""
    folder = tmp_path_factory.mktemp("jobs")
    waits = {"circle": "dist.recv(x, 1)", "gloo": "dist.recv(x, 1)"}
    bodies = {
        kind: BEGIN + HANG.format(how, waits.get(kind, "dist.all_reduce(x)"))
        for kind, how in HANGS.items()
    }
    bodies["gloo"] = bodies["gloo"].replace("rdmatrain", "gloo")
    started: dict[str, Job] = {}
    try:
        for kind, body in {"dies": BEGIN + DIES, **bodies}.items():
            started[kind] = start(folder / kind, body)
        yield started
    finally:
        for job in started.values():
            job.close()


@pytest.fixture(scope="module")
def found(jobs: dict[str, Job]) -> dict[str, Found]:
    """Wait until each job that hangs has its verdict; then there is time for stacks."""
    verdicts: dict[str, Suspect] = {}
    end = time.monotonic() + START_S
    while len(verdicts) < len(HANGS) and time.monotonic() < end:
        time.sleep(STEP_S)
        for kind in HANGS.keys() - verdicts.keys():
            suspect = judge(jobs[kind].watcher.observe(), HANG_S)
            if suspect is not None:
                verdicts[kind] = suspect
    return {
        kind: Found(suspect, jobs[kind].watcher.stacks(suspect.rank or 0))
        for kind, suspect in verdicts.items()
    }


@pytest.mark.parametrize("kind", ["stopped", "gil", "idle"])
def test_a_rank_that_hangs_is_named_and_says_where_it_stands(
    found: dict[str, Found], kind: str
) -> None:
    suspect, stacks = found[kind].suspect, found[kind].stacks
    assert (suspect.rank, suspect.kind, suspect.waiting) == (1, kind, (0,))
    assert HANG_S <= suspect.seconds < HANG_S + 4.0
    if kind != "stopped":
        assert "rank 0 waits for it in all_reduce #2 of group 0" in suspect.detail
    assert stacks.startswith("Main thread (most recent call first):\n")
    assert "in stuck" in stacks.splitlines()[1]


def test_ranks_that_wait_for_each_other_are_named_with_their_calls(
    found: dict[str, Found],
) -> None:
    suspect = found["deadlock"].suspect
    assert (suspect.rank, suspect.kind, suspect.waiting) == (None, "deadlock", (0, 1))
    assert "rank 0 waits in all_reduce #2 of group 0; rank 1 waits in all_reduce #2 of group" in (
        suspect.detail
    )
    for kind in ("circle", "gloo"):
        circle = found[kind].suspect
        assert (circle.rank, circle.kind) == (None, "deadlock")
        assert circle.detail.endswith(
            "rank 0 waits in send from rank 1 to rank 0; rank 1 waits in send from rank 0 to rank 1"
        )


def test_what_a_rank_died_of_is_known_with_its_status(jobs: dict[str, Job]) -> None:
    """Through torch's own @record, which writes the same file and has no room for the status."""
    watcher = jobs["dies"].watcher
    for process in jobs["dies"].processes:
        process.wait(START_S)
    assert watcher.observe() == ()
    assert watcher.error_of(1).startswith("KeyError: 'no such column' (worker_")
    assert watcher.status_of(1) == ""
    assert watcher.error_of(0).startswith("DistBackendError: rdmatrain: ")
    assert watcher.status_of(0) == "PEER_LOST"


def test_who_takes_long_is_innocent_on_a_crowded_machine(tmp_path: Path) -> None:
    spin = [sys.executable, "-c", "while True: pass"]
    crowd: list[subprocess.Popen[bytes]] = []
    job = start(tmp_path, BEGIN + INNOCENT)
    seen: list[RankState] = []
    try:
        end = time.monotonic() + START_S
        while (states := job.watcher.observe()) and time.monotonic() < end:
            assert judge(states, HANG_S) is None
            seen += states
            if not crowd and any(state.waiting_s for state in states):
                crowd += [subprocess.Popen(spin) for _ in range(2 * len(os.sched_getaffinity(0)))]
            time.sleep(STEP_S)
    finally:
        for process in crowd:
            process.kill()
            process.wait()
        facts = facts_of("".join(job.close()))
    assert facts[0]["done"], "it did not come to its end"
    # Rank 1 did wait for longer than allowed, each time.
    waited = {state.waits_in for state in seen if (state.waiting_s or 0.0) > HANG_S}
    assert waited == {f"all_reduce #{n} of group 0" for n in (2, 3, 4)}
