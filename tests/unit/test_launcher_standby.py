# SPDX-License-Identifier: Apache-2.0
"""A standby imports first and is a worker like any other from then on."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from rdmatrain.launcher.job import Program
from rdmatrain.launcher.loop import Loop
from rdmatrain.launcher.standby import Reserve, Standby
from rdmatrain.launcher.start import Start

SHOW = """
import json, os, sys
import __main__
facts = dict(argv=sys.argv, path=sys.path[0], file=__file__, name=__name__, main=__main__.__file__,
             env=os.environ.get("LATE"), early=os.environ.get("EARLY"),
             imported="wave" in sys.modules)
print(json.dumps(facts), flush=True)
print("to stderr", file=sys.stderr)
sys.exit(7)
"""
ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), "EARLY": "x"}
Make = Callable[..., Standby]


def as_start(program: Program, local_rank: int = 0) -> Start:
    return Start(rank=0, local_rank=local_rank, program=program, environment=ENVIRONMENT)


@pytest.fixture
def make() -> Iterator[Make]:
    """Standbys; what is left of them is killed and reaped."""
    made: list[Standby] = []

    def one(program: Program, modules: "tuple[str, ...]" = ("wave",)) -> Standby:
        made.append(Standby(as_start(program), modules))
        return made[-1]

    yield one
    for standby in made:
        standby.kill()
        with suppress(ChildProcessError):
            os.waitpid(standby.pid, 0)


def begin(standby: Standby, program: Program) -> "tuple[int, str, str]":
    """Let it run; return its exit code and what it wrote."""
    with ExitStack() as stack:
        (out, to_out), (err, to_err) = os.pipe(), os.pipe()
        start = replace(as_start(program), environment=ENVIRONMENT | {"LATE": "now"})
        standby.begin(replace(start, stdout=to_out, stderr=to_err))
        os.close(to_out)
        os.close(to_err)
        texts = [stack.enter_context(os.fdopen(fd)).read() for fd in (out, err)]
    _, status = os.waitpid(standby.pid, 0)
    return os.waitstatus_to_exitcode(status), texts[0], texts[1]


def test_a_script_sees_what_python_gives_it(make: Make, tmp_path: Path) -> None:
    script = tmp_path / "show.py"
    script.write_text(SHOW)
    program = Program(script=str(script), args=("--a", "b c"))
    code, out, err = begin(make(program), program)
    assert (code, err) == (7, "to stderr\n")
    facts = json.loads(out)
    assert facts["argv"] == [str(script), "--a", "b c"]
    assert facts["path"] == str(tmp_path)
    assert (facts["file"], facts["main"]) == (str(script), str(script))
    assert (facts["name"], facts["env"], facts["early"]) == ("__main__", "now", "x")
    assert facts["imported"]


def test_a_module_runs_as_python_m_runs_it(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shown.py").write_text(SHOW)
    program = Program(script="shown", module=True, args=("x",))
    code, out, _ = begin(make(program), program)
    facts = json.loads(out)
    assert code == 7
    assert facts["argv"] == [str(tmp_path / "shown.py"), "x"]
    assert (facts["path"], facts["name"]) == (str(tmp_path), "__main__")


def test_a_relative_script_has_an_absolute_file_and_may_start_processes(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spawns.py").write_text("""
import multiprocessing, os, sys
def double(number):
    return 2 * number
if __name__ == "__main__":
    os.chdir("/")
    print(__file__, flush=True)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(double, [21]))
""")
    program = Program(script="spawns.py")
    code, out, err = begin(make(program), program)
    assert (code, out, err) == (0, f"{tmp_path}/spawns.py\n[42]\n", "")


def test_an_import_that_fails_is_the_programs_to_tell(make: Make, tmp_path: Path) -> None:
    script = tmp_path / "fails.py"
    script.write_text("import no_such_module_anywhere")
    program = Program(script=str(script))
    code, _, err = begin(make(program, ("no_such_module_anywhere",)), program)
    assert code == 1 and "No module named 'no_such_module_anywhere'" in err


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU only")
def test_it_imports_on_the_cpus_of_its_worker() -> None:
    cpu = max(os.sched_getaffinity(0))
    standby = Standby(replace(as_start(Program(script="x.py")), cpus=(cpu,)), ())
    assert os.sched_getaffinity(standby.pid) == {cpu}
    standby.kill()
    os.waitpid(standby.pid, 0)


def test_one_that_has_died_cannot_begin(make: Make) -> None:
    program = Program(script="x.py")
    standby = make(program)
    os.kill(standby.pid, 9)
    os.waitid(os.P_PID, standby.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        standby.begin(as_start(program))


def test_one_that_is_not_wanted_ends_with_its_launcher(make: Make) -> None:
    standby = make(Program(script="x.py"))
    standby._socket.close()  # as the kernel does when the launcher dies
    end = time.monotonic() + 20
    while os.waitid(os.P_PID, standby.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_reserve_fills_after_a_while_and_gives_each_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rdmatrain.launcher.standby.AFTER_S", 0.05)
    loop = Loop()
    reserve = Reserve(loop, ("wave",))
    reserve.prepare([as_start(Program(script="x.py"), local_rank) for local_rank in range(2)])
    assert reserve.pids == []
    loop.run(lambda: len(reserve.pids) == 2)
    pids = reserve.pids
    first = reserve.take(0)
    assert first is not None and first.pid == pids[0] and reserve.take(0) is None
    assert reserve.pids == pids[1:]
    first.kill()
    reserve.close()
    for pid in pids:
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == 9
    loop.close()


@pytest.mark.parametrize(
    ("program", "modules"),
    [
        (Program(script="x", no_python=True), ("wave",)),
        (Program(script="x.py", run_path=True), ("wave",)),
        (Program(script="x.py"), ()),
    ],
)
def test_a_program_that_is_run_otherwise_or_imports_nothing_has_none(
    monkeypatch: pytest.MonkeyPatch, program: Program, modules: "tuple[str, ...]"
) -> None:
    monkeypatch.setattr("rdmatrain.launcher.standby.AFTER_S", 0.0)
    loop, over = Loop(), []
    reserve = Reserve(loop, modules)
    reserve.prepare([as_start(program)])
    loop.later(0.05, lambda: over.append(1))
    loop.run(lambda: bool(over))
    assert reserve.pids == []
    loop.close()
