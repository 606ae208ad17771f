# SPDX-License-Identifier: Apache-2.0
"""The kernel's table of processes, read while they come and go."""

import os
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from rdmatrain.launcher import proc

SLEEP = "import time; print(flush=True); time.sleep(60)"


def sleeper(env: dict[str, str]) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen([sys.executable, "-c", SLEEP], env=env, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline()
    return process


def test_a_process_is_read_whatever_its_name(tmp_path: Path) -> None:
    program = tmp_path / ") S 1 ("
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "60"], executable=program) as process:
        found = proc.read(process.pid)
        assert found is not None
        assert (found.pid, found.parent, found.is_dead) == (process.pid, os.getpid(), False)
        assert found.name == b") S 1 ("
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        dead = proc.read(process.pid)
        assert dead is not None and dead.is_dead and dead.identity == found.identity
    assert proc.read(process.pid) is None


def test_what_a_process_was_given_is_found_by_its_whole_name() -> None:
    with sleeper({"A": "1", "AB": "2=3", "B": "", "XA": "4"}) as process:
        given = [proc.was_given(process.pid, name) for name in (b"A", b"AB", b"B", b"C")]
        assert given == [b"1", b"2=3", b"", b""]
        process.kill()
    assert proc.was_given(process.pid, b"A") == b""


def test_another_process_with_the_same_id_is_not_killed() -> None:
    with sleeper({}) as process:
        found = proc.read(process.pid)
        assert found is not None
        proc.kill(found._replace(start=found.start - 1))
        assert proc.read(process.pid) == found
        proc.kill(found)
        assert process.wait() == -9
    proc.kill(found)


@given(st.lists(st.integers(1, 12), min_size=12, max_size=12), st.sets(st.integers(1, 15)))
def test_below_is_the_closure_of_the_parents(parents: list[int], roots: set[int]) -> None:
    table = {
        pid: proc.Process(pid, 0, parent, False) for pid, parent in enumerate(parents, start=1)
    }
    expected = roots & set(table)
    for _ in table:
        expected |= {pid for pid, process in table.items() if process.parent in expected}
    assert proc.below(table, roots) == expected
