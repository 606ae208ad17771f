# SPDX-License-Identifier: Apache-2.0
"""Ranks that hang, through ``rdmatrain run`` as users have it: named, and over within seconds."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from integration_jobs import RUN, finish, start, write_worker

# Ten seconds where there is a CPU for each rank; five times as much where there is not.
START_S, LIMIT_S = 60.0, 50.0
# Rank 1 does it after a collective that has worked; rank 0 waits for it in the next one.
HANG = """
import ctypes, signal
dist.init_process_group("{backend}")
x = torch.ones(4)
dist.all_reduce(x)
def stuck():
    {fault}
if RANK == 1:
    note(at=time.monotonic())
    stuck()
dist.all_reduce(x)
"""
SLEEP = "time.sleep(70)"
JOBS = {
    "stopped": ("rdmatrain", "os.kill(os.getpid(), signal.SIGSTOP)"),
    "gil": ("rdmatrain", "ctypes.PyDLL(None).sleep(70)"),
    "asleep": ("rdmatrain", SLEEP),
    "asleep under gloo": ("gloo", SLEEP),
}
SAID = {
    "stopped": r"has been stopped by a signal \(SIGSTOP\) for \d+ s",
    "gil": r"let no Python run for \d+ s, while rank 0 waits for it in all_reduce #2 of group 0",
    "asleep": r"has done nothing for \d+ s, while rank 0 waits for it in all_reduce #2 of group 0",
    "asleep under gloo": r"has done nothing for \d+ s, while rank 0 waits for it in all_reduce of",
}


def ends_of(jobs: "dict[str, subprocess.Popen[str]]") -> dict[str, float]:
    """When each job ended; all at once, so that none waits for another one."""
    ends: dict[str, float] = {}
    limit = time.monotonic() + START_S + LIMIT_S
    while len(ends) < len(jobs) and time.monotonic() < limit:
        time.sleep(0.02)
        now = time.monotonic()
        ends |= {
            kind: now for kind, job in jobs.items() if kind not in ends and job.poll() is not None
        }
    return ends


@pytest.mark.thorough
def test_a_rank_that_hangs_ends_the_job_and_is_named_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = {
        kind: start(
            [
                *RUN,
                "--nproc-per-node",
                "2",
                "--shutdown-timeout",
                "1",
                write_worker(tmp_path, HANG.format(backend=backend, fault=fault)),
            ]
        )
        for kind, (backend, fault) in JOBS.items()
    }
    ends = ends_of(jobs)
    for kind, ended in zip(jobs, finish(list(jobs.values()), timeout_s=5.0), strict=True):
        assert kind in ends, f"{kind} did not end: {ended.out}"
        took_s = ends[kind] - ended.of(1)["at"]
        with capsys.disabled():
            sys.stdout.write(f"\n{kind}: {took_s:.1f} s from the fault to the end of the job")
        first = re.findall(r"^rdmatrain run: (.*)", ended.out, flags=re.MULTILINE)[0]
        assert re.search(r"\brank 1\b", first.partition("while")[0]), first
        assert re.search(SAID[kind], first), first
        assert ended.code == 204, ended.out
        assert "in stuck" in ended.out, "where it stands follows"
        assert took_s < LIMIT_S
