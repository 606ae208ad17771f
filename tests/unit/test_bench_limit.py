# SPDX-License-Identifier: Apache-2.0
"""The memory limit's program, and the tables of ``rdmatrain bench limit``."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest
from bench_results import case, result

from rdmatrain.bench import memory
from rdmatrain.bench.limit import FAKE, LIMIT, all_reduce_lines, wire_lines
from rdmatrain.bench.memory import MemoryLimit
from rdmatrain.bench.model import Entry
from rdmatrain.bench.running import ContestantError

SOURCE = Path(__file__).parents[2] / "csrc" / "bench" / "limit.c"
OURS = Entry("rdmatrain", "auto")
needs_two_cpus = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="processes that spin cannot share one CPU"
)


@pytest.fixture
def limit():
    with closing(MemoryLimit()) as started:
        yield started


def children(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def end(pids):
    """Tell whether all of them end soon; who has not been waited for yet has ended too."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        states = []
        for pid in pids:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                states.append(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0])
        if set(states) <= {"Z", "X"}:
            return True
        time.sleep(0.01)
    return False


def in_place(nbytes, **changes):
    return case("all_reduce", nbytes, **{"in_place": True, **changes})


@needs_two_cpus
@pytest.mark.parametrize("nbytes", [4, 8, 12, 4100, 1 << 20])
def test_two_processes_add_right_and_are_timed(limit, nbytes):
    assert limit.prepare(in_place(nbytes), True).nwrong == 0
    seconds = limit.time(7, 2)
    assert [len(of_process) for of_process in seconds] == [7, 7]
    assert all(0 < each < 60 for of_process in seconds for each in of_process)
    limit.drop()


@needs_two_cpus
def test_every_element_of_a_wrong_sum_is_counted(tmp_path):
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    text = SOURCE.read_text(encoding="utf-8")
    wrong = text.replace("a[i] = b[i] = a[i] + b[i];", "a[i] = b[i] = a[i] - b[i];")
    assert wrong != text
    (tmp_path / "wrong.c").write_text(wrong, encoding="utf-8")
    program = tmp_path / "wrong"
    subprocess.run(["gcc", "-O2", "-o", str(program), str(tmp_path / "wrong.c")], check=True)
    with closing(MemoryLimit(program=program)) as limit:
        assert limit.prepare(in_place(4100), True).nwrong == 2 * 1025


def test_the_memory_limit_is_that_of_two_ranks() -> None:
    with closing(MemoryLimit(ranks=4)) as limit:
        assert limit.why_not(in_place(8)) == "it has 2 ranks, and there are 4"


@needs_two_cpus
def test_sizes_may_grow_and_shrink_with_and_without_a_drop_between(limit):
    for nbytes in (4096, 1 << 20, 64, 1 << 21):
        assert limit.prepare(in_place(nbytes), True).nwrong == 0
        if nbytes != 64:
            limit.drop()


@pytest.mark.parametrize("stream", ["copy", "triad"])
def test_bandwidth_counts_what_is_read_and_written(limit, stream):
    for cpus in (1, limit.cpus):
        found = limit.bandwidth(stream, cpus, 1 << 20, 5)
        assert len(found) == 5
        assert all(0.001 < each < 10_000 for each in found)


def test_who_waits_for_an_order_takes_no_cpu(limit):
    pids = [limit.pid, *children(limit.pid)]
    assert len(pids) == limit.cpus

    def ticks():
        stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
        return sum(int(words[11]) + int(words[12]) for words in stats)

    before = ticks()
    time.sleep(0.3)
    assert ticks() - before <= 1


@needs_two_cpus
def test_a_process_that_is_killed_is_an_error_and_leaves_none(limit):
    others = children(limit.pid)
    os.kill(others[0], signal.SIGKILL)
    with pytest.raises(ContestantError, match="one of its processes was killed") as raised:
        limit.prepare(in_place(4096), True)
    assert raised.value.gone
    limit.close()
    assert end([limit.pid, *others])


def test_all_processes_end_with_the_one_that_started_them():
    limit = MemoryLimit()
    pids = [limit.pid, *children(limit.pid)]
    limit.close()
    assert end(pids)
    limit.close()


def test_a_package_without_the_program_says_what_to_do(monkeypatch):
    monkeypatch.setattr(memory, "PROGRAM", "_no_limit")
    with pytest.raises(ContestantError, match=r"without its memory probe .*: install it again"):
        MemoryLimit()


@needs_two_cpus
@pytest.mark.parametrize(
    ("what", "why"),
    [
        (in_place(8), ""),
        (in_place(8, dtype="bfloat16"), "it has only all_reduce of float32 with SUM"),
        (in_place(8, redop="MAX"), "it has only all_reduce of float32 with SUM"),
        (case("broadcast"), "it has only all_reduce of float32 with SUM"),
    ],
)
def test_it_says_what_it_has_not(limit, what, why):
    assert limit.why_not(what) == why


def test_percent_is_the_limits_time_of_ours():
    what = in_place(4 << 20)
    lines = all_reduce_lines(
        [result(LIMIT, what, 2e-6), result(FAKE, what, 3e-6), result(OURS, what, 10e-6)]
    )
    words = lines[-1].split()
    assert words[:4] == ["4194304", "2.00", "3.00", "rdmatrain"]
    assert words[4:] == ["10.00", "419.430", "20.0", "30.0", "50.0"]


def test_more_than_the_limit_is_said_to_be_a_disturbance():
    what = in_place(4096)
    lines = all_reduce_lines([result(LIMIT, what, 2e-5), result(OURS, what, 1e-5)])
    assert "200.0" in lines[-3]
    assert lines[-2].startswith("# more than 100 percent: other programs used the CPUs")


def test_without_a_limit_there_is_no_percent():
    what = in_place(4096)
    assert all_reduce_lines([result(OURS, what, 10e-6)])[-1].split()[-3:] == ["-", "-", "-"]
    some = all_reduce_lines([result(LIMIT, what, 4e-6), result(OURS, what, 10e-6)])
    assert some[-1].split()[-3:] == ["40.0", "-", "-"]
    some = all_reduce_lines([result(FAKE, what, 4e-6), result(OURS, what, 10e-6)])
    assert some[-1].split()[-3:] == ["-", "40.0", "-"]


def test_each_transport_has_a_row_and_limits_have_none():
    what = in_place(4096)
    entries = [LIMIT, FAKE, Entry("rdmatrain", "shm"), Entry("rdmatrain", "tcp")]
    rows = [
        line
        for line in all_reduce_lines([result(entry, what) for entry in entries])
        if not line.startswith("#")
    ]
    assert [row.split()[3] for row in rows] == ["rdmatrain/shm", "rdmatrain/tcp"]


def test_the_wire_has_a_table_for_each_operation():
    verbs, wire = Entry("rdmatrain", "verbs"), Entry("perftest")
    lines = wire_lines(
        [
            result(wire, case("write", 65536), 9e-6),
            result(verbs, case("write", 65536), 10e-6),
            result(wire, case("pingpong", 8), 2e-6),
            result(verbs, case("pingpong", 8), 4e-6),
        ]
    )
    rows = [line.split() for line in lines if not line.startswith("#")]
    assert [(row[0], row[-1]) for row in rows] == [("8", "50.0"), ("65536", "90.0")]
    assert wire_lines([result(LIMIT, in_place(8))]) == []
