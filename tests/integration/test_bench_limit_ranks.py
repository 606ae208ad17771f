# SPDX-License-Identifier: Apache-2.0
"""``rdmatrain bench limit`` with real ranks."""

import os
import signal
import sys
from pathlib import Path

import pytest
from integration_jobs import finish, start

from rdmatrain.bench.records import read_json, read_lines

BENCH = [sys.executable, "-m", "rdmatrain.cli", "bench", "limit"]
SIZES = ["-b", "8", "-e", "64K", "-f", "8192"]
pytestmark = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="the limit's processes spin, and cannot share one CPU"
)


def test_the_limits_and_rdmatrain_are_measured_in_one_run(tmp_path: Path) -> None:
    file = tmp_path / "limit.jsonl"
    (ended,) = finish([start([*BENCH, *SIZES, "--rounds", "2", "--json", str(file), "--quiet"])])
    assert ended.code == 0, ended.out
    records = read_json(file)
    found = {(each["backend"], each["nbytes"]): each for each in records}
    assert set(found) == {(b, n) for b in ("limit", "fake", "rdmatrain") for n in (8, 65536)}
    assert all(each["nwrong"] == 0 and len(each["rounds"]) == 2 for each in records)
    assert len({each["time"] for each in records}) == 1
    rows = [line.split() for line in ended.out.splitlines() if "rdmatrain" in line[20:45]]
    shown = {int(row[0]): [float(each) for each in row[-3:]] for row in rows if row[0].isdecimal()}
    for nbytes in (8, 65536):
        memory, call, ours = (
            found[name, nbytes]["seconds_p50"] for name in ("limit", "fake", "rdmatrain")
        )
        expected = [100 * limit / ours for limit in (memory, call, memory + call)]
        assert shown[nbytes] == pytest.approx(expected, abs=0.06)
    assert "copy" in ended.out
    assert "triad" in ended.out
    assert "the wire" in ended.out


@pytest.mark.thorough
def test_a_limit_that_dies_is_told_and_the_rest_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "limit.jsonl"
    started = start([*BENCH, *SIZES, "--rounds", "40", "--json", str(file)])
    assert started.stdout
    for line in started.stdout:
        if "round 1 is done" in line:
            break
    (program,) = [pid for pid in children(started.pid) if name_of(pid) == "_limit"]
    os.kill(program, signal.SIGKILL)
    (ended,) = finish([started])
    assert ended.code == 1, ended.out
    lines = read_lines(file)
    assert {each["backend"] for each in lines if "failure" not in each} == {
        "limit",
        "fake",
        "rdmatrain",
    }
    (failure,) = [each for each in lines if "failure" in each]
    assert failure["backend"] == "limit"
    assert "_limit has ended" in failure["failure"]
    assert {len(each["rounds"]) for each in lines if each["backend"] == "rdmatrain"} == {40}
    assert not children(started.pid)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["-b", "0"], "-b 0: not a size"),
        (["-e", "100T"], "of memory"),
        (["-f", "1"], "-f 1: sizes would not grow"),
        (["--rounds", "0"], "--rounds 0: give 1 or more"),
        (["--transport", "smh"], "--transport smh: unknown: did you mean shm?"),
        (["--json", "/no/such/folder/file"], "there is no folder /no/such/folder"),
    ],
)
def test_wrong_options_are_one_line(options: list[str], error: str) -> None:
    (ended,) = finish([start([*BENCH, *options])])
    assert ended.code == 2
    assert error in ended.out
    assert "Traceback" not in ended.out


def children(pid: int) -> list[int]:
    """Return the living children of a process; none if it has ended."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(word) for word in text.split()]


def name_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
