# SPDX-License-Identifier: Apache-2.0
"""However a launcher is killed, nothing of its job is left; nothing else is touched."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import rdmatrain
from rdmatrain.launcher import cgroup

ROOT = str(Path(rdmatrain.__file__).parents[1])
WAIT_S = 30.0
LEFT_S = 2.0

# A module that all processes import from the bed's folder, which is their first argument.
COMMON = """
import os, signal, subprocess, sys, time
folder = sys.argv[1]
HEAD = "import sys; sys.path.insert(0, sys.argv[1]); from common import *\\n"
def note(kind, pid=None):
    open(f"{folder}/pids/{kind}.{pid or os.getpid()}", "w").close()
def python(code, **more):
    return subprocess.Popen([sys.executable, "-c", HEAD + code, folder], **more)
"""
HEAD = "import sys; sys.path.insert(0, sys.argv[1]); from common import *\n"
SLEEP = "note('sleeper'); time.sleep(60)\n"

# A launcher in small: a guardian, then one worker.
LAUNCHER = """
from rdmatrain.launcher import process
from rdmatrain.launcher.guardian import Guardian
from rdmatrain.launcher.runtime import Runtime
process.become_subreaper()
BEFORE
runtime = Runtime({"TMPDIR": folder + "/tmp"})
runtime.write_secret(b"secret")
guardian = Guardian(runtime.folder)
if not USES_CGROUP and guardian.cgroup:
    guardian.cgroup.remove()
    guardian.cgroup = None
environment = {**os.environ, **guardian.environment()}
in_child = process.child_setup()
def child():
    guardian.cgroup and guardian.cgroup.join()
    in_child()
worker = python(WORKER, env=environment, preexec_fn=child)
note("launcher"), note("guardian", guardian.pid)
AFTER
time.sleep(60)
"""


def launcher_code(worker: str, *, before: str = "", after: str = "", uses_cgroup: bool) -> str:
    code = LAUNCHER.replace("BEFORE", before).replace("AFTER", after)
    return code.replace("USES_CGROUP", str(uses_cgroup)).replace("WORKER", repr(worker))


class Bed:
    """A folder with process ids, and what was started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "pids").mkdir()
        (folder / "tmp").mkdir()
        (folder / "common.py").write_text(COMMON)
        self.launchers: list[subprocess.Popen[bytes]] = []

    def start(
        self, worker: str, *, before: str = "", after: str = "", uses_cgroup: bool = True
    ) -> "subprocess.Popen[bytes]":
        code = launcher_code(worker, before=before, after=after, uses_cgroup=uses_cgroup)
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": ROOT}
        command = [sys.executable, "-c", HEAD + code, str(self.folder)]
        self.launchers.append(subprocess.Popen(command, env=environment, start_new_session=True))
        self.pids("launcher", 1)
        return self.launchers[-1]

    def pids(self, kind: str = "*", count: int = 0) -> list[int]:
        """Wait for so many processes of a kind; return their ids."""
        pattern = f"{kind}.*" if kind != "*" else "*"
        wait_until(lambda: len(list((self.folder / "pids").glob(pattern))) >= count)
        return [int(path.suffix[1:]) for path in (self.folder / "pids").glob(pattern)]

    def left(self) -> list[str]:
        """Return what of the job is still there."""
        pids = [pid for pid in self.pids() if is_alive(pid) and pid not in self.pids("spared")]
        return [*map(str, pids), *map(str, (self.folder / "tmp").iterdir())]

    def close(self) -> None:
        for launcher in self.launchers:
            launcher.kill()
            launcher.wait()
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not any(map(is_alive, self.pids("guardian"))), LEFT_S)
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[Bed]:
    bed = Bed(tmp_path)
    yield bed
    bed.close()


def wait_until(condition: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def parent(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(status.split("PPid:")[1].split()[0])


SETSID = f"python({SLEEP!r}, start_new_session=True)\n"
# Its parent ends at once, so it is an orphan in a session of its own.
DOUBLE_FORK = f"python({SETSID!r}, start_new_session=True).wait()\n"
HIDDEN = f"python({SLEEP!r}, env={{}}, start_new_session=True)\n"
HOLDS_PORT = (
    "import socket\nserver = socket.create_server(('127.0.0.1', 0))\n"
    "note('port', server.getsockname()[1])\ntime.sleep(60)\n"
)


@pytest.mark.parametrize("uses_cgroup", [True, False])
@pytest.mark.parametrize(
    ("worker", "num_sleepers"), [(SLEEP, 1), (SETSID + SLEEP, 2), (DOUBLE_FORK + SLEEP, 2)]
)
def test_a_killed_launcher_leaves_nothing(
    bed: Bed, worker: str, num_sleepers: int, uses_cgroup: bool
) -> None:
    launcher = bed.start(worker, uses_cgroup=uses_cgroup)
    sleepers = bed.pids("sleeper", num_sleepers)
    assert all(map(is_alive, sleepers))
    assert len(bed.left()) == len(sleepers) + 3
    launcher.kill()
    wait_until(lambda: not bed.left(), LEFT_S)


def test_launcher_and_workers_killed_at_once_leave_nothing(bed: Bed) -> None:
    launcher = bed.start("note('worker')\n" + SETSID + DOUBLE_FORK + SLEEP)
    bed.pids("sleeper", 3)
    for pid in (launcher.pid, *bed.pids("worker")):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not bed.left(), LEFT_S)


def test_a_killed_launcher_frees_its_jobs_ports(bed: Bed) -> None:
    orphan = f"python({HOLDS_PORT!r}, start_new_session=True).wait()\n"
    launcher = bed.start(f"python({orphan!r}, start_new_session=True)\n" + SLEEP)
    wait_until(lambda: bool(list((bed.folder / "pids").glob("port.*"))))
    (path,) = (bed.folder / "pids").glob("port.*")
    path.unlink()
    port = int(path.suffix[1:])
    with socket.create_connection(("127.0.0.1", port)):
        pass
    launcher.kill()

    def refused() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) != 0

    wait_until(refused, LEFT_S)


def test_an_orphan_that_hides_its_environment_was_seen_before(bed: Bed) -> None:
    launcher = bed.start(HIDDEN + SLEEP, uses_cgroup=False)
    bed.pids("sleeper", 2)
    time.sleep(2.5)
    launcher.kill()
    wait_until(lambda: not bed.left(), LEFT_S)


def test_a_launcher_inside_the_job_goes_with_what_it_started(bed: Bed) -> None:
    # The worker is a launcher of its own; its worker leaves an orphan.
    inner = launcher_code(DOUBLE_FORK + SLEEP, uses_cgroup=False)
    launcher = bed.start(inner, uses_cgroup=False)
    bed.pids("launcher", 2), bed.pids("sleeper", 2)
    launcher.kill()
    wait_until(lambda: not bed.left(), LEFT_S)


def test_what_a_launcher_inside_started_belongs_to_the_job_itself(bed: Bed) -> None:
    inner = launcher_code(DOUBLE_FORK + SLEEP, uses_cgroup=False)
    launcher = bed.start(inner, uses_cgroup=False)
    bed.pids("launcher", 2), bed.pids("sleeper", 2)
    (inner_guardian,) = (pid for pid in bed.pids("guardian", 2) if parent(pid) != launcher.pid)
    os.kill(inner_guardian, signal.SIGKILL)
    launcher.kill()
    wait_until(lambda: not any(map(is_alive, bed.pids())), LEFT_S)


def test_others_are_left_alone(bed: Bed) -> None:
    # A child from before exec, a child of it that comes later, and another job.
    sidecar = "note('spared'); time.sleep(1)\npython(\"note('spared'); time.sleep(60)\").wait()"
    launcher = bed.start(SLEEP, before=f"python({sidecar!r})", uses_cgroup=False)
    other = bed.folder / "other"
    other.mkdir()
    neighbour = Bed(other)
    neighbour.start(SETSID + SLEEP)
    neighbour.pids("sleeper", 2)
    spared = bed.pids("spared", 2)
    time.sleep(2.5)
    launcher.kill()
    wait_until(lambda: not bed.left(), LEFT_S)
    time.sleep(0.3)
    assert all(map(is_alive, spared))
    assert len(neighbour.left()) == 5
    neighbour.close()


def test_a_guardian_that_is_told_that_all_is_well_does_nothing(bed: Bed) -> None:
    launcher = bed.start(
        SLEEP,
        uses_cgroup=False,
        after="guardian.close(); guardian.close()\nassert worker.poll() is None\n"
        "assert runtime.folder.exists()\nopen(folder + '/closed', 'w').close()",
    )
    wait_until((bed.folder / "closed").exists)
    (guardian,) = bed.pids("guardian")
    assert not is_alive(guardian)
    assert is_alive(bed.pids("sleeper", 1)[0])
    assert launcher.poll() is None


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGPIPE"])
def test_a_guardian_heeds_no_signal(bed: Bed, number: str) -> None:
    launcher = bed.start(SETSID + SLEEP)
    (guardian,) = bed.pids("guardian", 1)
    bed.pids("sleeper", 2)
    os.kill(guardian, signal.Signals[number])
    time.sleep(0.05)
    assert is_alive(guardian)
    launcher.kill()
    wait_until(lambda: not bed.left(), LEFT_S)


def test_a_killed_guardian_hurts_nothing_and_is_replaced(bed: Bed) -> None:
    after = (
        "first = guardian.pid\nos.kill(first, 9)\nos.waitpid(first, 0)\n"
        "assert worker.poll() is None\nguardian.revive()\nnote('guardian', guardian.pid)"
    )
    launcher = bed.start(DOUBLE_FORK + SLEEP, after=after)
    bed.pids("guardian", 2)
    sleepers = bed.pids("sleeper", 2)
    time.sleep(0.2)
    assert all(map(is_alive, sleepers))
    launcher.kill()
    wait_until(lambda: not bed.left(), LEFT_S)


def test_a_guardian_keeps_nothing_of_the_launcher(bed: Bed) -> None:
    launcher = bed.start(SLEEP)
    (guardian,) = bed.pids("guardian", 1)
    fds = [str(path.readlink()) for path in Path(f"/proc/{guardian}/fd").iterdir()]
    pipes = [name for name in fds if name.startswith("pipe:")]
    assert sorted(fds) == sorted(["/dev/null"] * 3 + pipes) and len(pipes) == 1
    assert Path(f"/proc/{guardian}/cwd").readlink() == Path("/")
    assert os.getsid(guardian) == guardian != os.getsid(launcher.pid)
    assert Path(f"/proc/{guardian}/comm").read_text() == "rdmatrain-guard\n"
    used = Path(f"/proc/{guardian}/smaps_rollup").read_text().split("Pss:")[1].split()[0]
    assert int(used) < 16 << 10  # KiB


@pytest.fixture
def group() -> Iterator[cgroup.Cgroup]:
    made = cgroup.create(f"rdmatrain-test-{uuid.uuid4().hex}")
    if made is None:
        pytest.skip("this process may not make a cgroup of version 2")
    yield made
    made.kill()
    made.remove()


def test_a_cgroup_ends_all_that_joined_and_what_they_started(group: cgroup.Cgroup) -> None:
    setsid = shutil.which("setsid") or "setsid"
    joined = subprocess.Popen(
        ["sh", "-c", f"{setsid} -f sleep 60; exec sleep 60"],
        preexec_fn=group.join,  # noqa: PLW1509 - one thread
    )
    outside = subprocess.Popen(["sleep", "60"])
    procs = group.path / "cgroup.procs"
    wait_until(lambda: len(procs.read_text().split()) == 2)
    inner = group.path / "inner"
    inner.mkdir()
    group.kill()
    assert joined.wait(WAIT_S) == -signal.SIGKILL
    group.remove()
    assert not group.path.exists()
    assert outside.poll() is None
    outside.kill()
    outside.wait()
    group.kill()
    group.join()
    group.remove()


def test_where_no_cgroup_is_allowed_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for own in (None, Path("/proc"), tmp_path / "none", tmp_path):
        monkeypatch.setattr(cgroup, "_own_folder", lambda own=own: own)
        assert cgroup.create("rdmatrain-test") is None
    assert list(tmp_path.iterdir()) == []
