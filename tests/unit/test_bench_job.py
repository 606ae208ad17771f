# SPDX-License-Identifier: Apache-2.0
"""Jobs of ranks that are small scripts without torch: each says how it fails."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rdmatrain.bench import job
from rdmatrain.bench.job import JobOfRanks
from rdmatrain.bench.model import Case, Entry
from rdmatrain.bench.running import ContestantError
from rdmatrain.errors import SettingError

CASE = Case("all_reduce", "float32", "SUM", 4096, True)
GLOO = Entry("gloo")
HEAD = """
import os, signal, sys, time
from rdmatrain.bench.orders import serve
rank, ranks = int(sys.argv[1]), int(sys.argv[2])
def prepare(order):
    return {"nwrong": 10 * rank if order["check"] else None, "guess_s": 0.001 * (rank + 1)}
def timed(order):
    return {"seconds": [rank + 0.001 * call for call in range(order["calls"])]}
def drop(order):
    return {}
hello = {"rank": rank, "ranks": ranks, "host": f"h{rank % 2}", "pid": os.getpid(),
         "transport": ["shm", "tcp+shm", ""][rank % 3], "versions": {f"lib{rank}": "1"}}
"""
TAIL = """
serve(hello, {"prepare": prepare, "time": timed, "drop": drop})
"""


class Script:
    """A contestant whose ranks run a script."""

    entry = GLOO

    def __init__(self, body: str = "", tail: str = TAIL) -> None:
        self.text = HEAD + body + tail

    def why_not(self, case: Case) -> str:
        return "never" if case.op == "write" else ""

    def commands(self, ranks: int, socket_path: str) -> list[tuple[list[str], dict[str, str]]]:
        argv = [sys.executable, "-c", self.text]
        return [([*argv, str(rank), str(ranks)], {"OWN": str(rank)}) for rank in range(ranks)]


class Mpirun(Script):
    """The same, started by one process that does not end its ranks."""

    def commands(self, ranks: int, socket_path: str) -> list[tuple[list[str], dict[str, str]]]:
        spawn = (
            "import os, subprocess, sys\n"
            "all = [subprocess.Popen([sys.executable, '-c', sys.argv[1], str(r), sys.argv[2]],"
            " process_group=0) for r in range(int(sys.argv[2]))]\n"
            "sys.exit(max(p.wait() for p in all))"
        )
        if sys.version_info < (3, 11):
            spawn = spawn.replace("process_group=0", "preexec_fn=os.setpgrp")
        return [([sys.executable, "-c", spawn, self.text, str(ranks)], {})]


@contextmanager
def running(start: Script, folder: Path, ranks: int = 2) -> Iterator[JobOfRanks]:
    made = JobOfRanks(start, ranks, folder)  # type: ignore[arg-type]  # a Start in all it asks for
    try:
        yield made
    finally:
        made.close()
        assert not alive(folder)


def alive(folder: Path) -> list[int]:
    """Processes that know the folder, as ranks do by their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            zombie = (path / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            if not zombie and os.fsencode(folder) in (path / "environ").read_bytes():
                found.append(int(path.name))
        except OSError:
            pass
    return found


def wait_until(done: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def failure(call: Callable[[], object]) -> ContestantError:
    with pytest.raises(ContestantError) as error:
        call()
    return error.value


def test_answers_are_those_of_all_ranks(tmp_path: Path) -> None:
    with running(Script(), tmp_path, ranks=3) as made:
        prepared = made.prepare(CASE, check=True)
        assert prepared.nwrong == 0 + 10 + 20
        assert prepared.guess_s == 0.003
        assert made.prepare(CASE, check=False).nwrong is None
        assert made.time(2, 0) == [[0, 0.001], [1, 1.001], [2, 2.001]]
        made.drop()
        assert (made.transport, made.hosts) == ("shm+tcp", 2)
        assert made.versions == {"lib0": "1", "lib1": "1", "lib2": "1"}
        assert made.why_not(Case("write", "int8", "", 8, False)) == "never"


def test_ranks_of_a_launcher_that_leaves_them_end_even_if_they_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "SLOW_S", 0.5)
    monkeypatch.setattr(job, "END_S", 0.5)
    body = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ndef drop(order): time.sleep(60)\n"
    with running(Mpirun(body), tmp_path) as made:
        assert made.time(1, 0) == [[0], [1]]
        assert len(alive(tmp_path)) == 3
        assert "rank 0 on h0, rank 1 on h1 did not answer" in str(failure(made.drop))


def test_a_rank_that_was_killed_is_named_with_what_it_wrote(tmp_path: Path) -> None:
    body = """
def timed(order):
    if rank == 1:
        print("out of luck", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
"""
    with running(Script(body), tmp_path) as made:
        began = time.monotonic()
        error = failure(lambda: made.time(1, 0))
        assert error.gone
        assert str(error) == "rank 1 on h1 was killed by SIGKILL; it wrote: out of luck"
        assert time.monotonic() - began < 10
        assert failure(lambda: made.prepare(CASE, check=True)).gone


def test_a_rank_that_ends_between_orders_is_named_too(tmp_path: Path) -> None:
    body = "def drop(order):\n    if rank == 0: os._exit(7)\n    return {}\n"
    with running(Script(body), tmp_path) as made:
        assert "rank 0 on h0 ended with exit status 7" in str(failure(made.drop))


def test_an_error_on_all_ranks_is_that_of_a_case(tmp_path: Path) -> None:
    body = "def prepare(order): raise ValueError(f'no {order[\"op\"]} here')\n"
    with running(Script(body), tmp_path) as made:
        error = failure(lambda: made.prepare(CASE, check=True))
        assert not error.gone
        assert str(error).endswith("ValueError: no all_reduce here")
        assert made.time(1, 0) == [[0], [1]]


def test_an_error_on_one_rank_that_leaves_the_others_waiting_ends_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "GRACE_S", 0.5)
    body = "def prepare(order):\n    if rank == 1: raise ValueError('mine')\n    time.sleep(60)\n"
    with running(Script(body), tmp_path) as made:
        error = failure(lambda: made.prepare(CASE, check=True))
        assert error.gone
        assert str(error) == "rank 1 on h1: ValueError: mine"


def test_a_rank_that_hangs_is_named_in_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "SLOW_S", 0.5)
    body = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    body += "def drop(order):\n    if rank: time.sleep(60)\n    return {}\n"
    with running(Script(body), tmp_path) as made:
        error = failure(made.drop)
        assert error.gone
        assert "rank 1 on h1 did not answer within" in str(error)


def test_half_an_answer_does_not_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "SLOW_S", 0.5)
    tail = """
import json, socket
line = socket.socket(socket.AF_UNIX)
line.connect(os.environ["_RDMATRAIN_BENCH_SOCKET"])
line.sendall(json.dumps(hello).encode() + b"\\n")
line.recv(1000)
line.sendall(b'{"half":')
time.sleep(60)
"""
    with running(Script(tail=tail), tmp_path, ranks=1) as made:
        assert "rank 0 on h0" in str(failure(made.drop))


def test_a_rank_that_cannot_start_is_named_with_what_it_wrote(tmp_path: Path) -> None:
    start = Script("if rank == 1: sys.exit('no such library')\ntime.sleep(0.2)\n")
    error = failure(lambda: JobOfRanks(start, 2, tmp_path))  # type: ignore[arg-type]
    assert error.gone
    assert "rank 1 on" in str(error)
    assert "ended with exit status 1 before it was ready; it wrote: no such library" in str(error)
    assert not alive(tmp_path)


def test_ranks_that_do_not_come_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "START_S", 2.0)
    monkeypatch.setattr(job, "START_OF_RANK_S", 0.0)
    start = Script("if rank in (1, 2): time.sleep(60)\n")
    error = failure(lambda: JobOfRanks(start, 3, tmp_path))  # type: ignore[arg-type]
    assert "rank 1, 2 was not ready after 2 s" in str(error)
    assert not alive(tmp_path)


def test_a_program_that_is_not_there_is_an_error_of_its_contestant(tmp_path: Path) -> None:
    class Absent(Script):
        def commands(self, ranks: int, socket_path: str) -> list[tuple[list[str], dict[str, str]]]:
            return [(["/absent/mpirun"], {})]

    error = failure(lambda: JobOfRanks(Absent(), 2, tmp_path))  # type: ignore[arg-type]
    assert "cannot be started" in str(error)
    assert "/absent/mpirun" in str(error)


def test_a_folder_whose_name_is_too_long_for_a_socket_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="TMPDIR"):
        JobOfRanks(Script(), 2, tmp_path / ("x" * 100))  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "busy"), [("Script", True), ("Script", False), ("Mpirun", False)])
def test_no_rank_outlives_a_conductor_that_is_killed(kind: str, busy: bool, tmp_path: Path) -> None:
    mark = tmp_path / "busy"
    body = f"def drop(order):\n    open({str(mark)!r}, 'w')\n    time.sleep(60)\n"
    text = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_bench_job import {kind}, JobOfRanks
made = JobOfRanks({kind}({body!r}), 2, Path({str(tmp_path)!r}))
print("ready", flush=True)
{"made.drop()" if busy else "time.sleep(60)"}
"""
    conductor = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE)
    try:
        assert conductor.stdout is not None
        assert conductor.stdout.readline() == b"ready\n"
        wait_until(lambda: mark.exists() or not busy)
        assert len(alive(tmp_path)) >= 2
    finally:
        conductor.kill()
        conductor.communicate(timeout=10)
    wait_until(lambda: not alive(tmp_path))
