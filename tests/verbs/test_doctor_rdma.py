# SPDX-License-Identifier: Apache-2.0
"""The doctor on a real, if software, RDMA device: what it says when something is taken away.

Everything is asked as uid 1000 without capabilities, as in a pod, and of a job that wants verbs.
Where it has nothing to say, that user trains.
"""

import contextlib
import ctypes
import json
import os
import resource
import stat
import subprocess
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from integration_jobs import RUN, environment, finish, start
from ranks import ADDRESS, NETDEV, ROOT, command, wait_for_device

from rdmatrain.cli import cli
from rdmatrain.discovery import deadline
from rdmatrain.doctor import catalog, probes
from rdmatrain.doctor.model import Needs

pytestmark = pytest.mark.timeout(900)

NODES = Path("/dev/infiniband")
USER = 1000
NEEDED = 512 << 20  # bytes that a rank registers, as the doctor says where that is not allowed
TRACES = {"RDMATRAIN_RECORDER_DIR": "/tmp/traces"}  # the usual place is in the checkout
DOCTOR = ["doctor", "--json", "--transport", "verbs"]
DEMO = ["--steps", "4", "--global-batch", "4", "--seq-len", "16"]
DEMO += ["--layers", "1", "--heads", "1", "--width", "8"]
# Of sched.h, sys/mount.h and sys/prctl.h.
CLONE_NEWNS, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 0x1000, 0x4000, 1 << 18
PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 4, 24, 38


@pytest.fixture(autouse=True)
def nodes_for_all(device) -> Iterator[None]:
    """As udev's rule of rdma-core, or a device plugin, has them."""
    wait_for_device()
    for node in NODES.iterdir():
        node.chmod(0o666)
    yield
    wait_for_device()


def ask(memlock: int = resource.RLIM_INFINITY, hidden: str = "") -> dict[str, dict[str, str]]:
    """What each check says, by its id, in order; ``hidden``: a folder that is empty for it.

    In a fork of this process, as Python takes up to a minute to start in a guest.
    """
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with os.fdopen(writable, "w") as out:
                out.write(said_to_user(memlock, hidden))
        except BaseException:  # noqa: BLE001, RUF100 - it must not go on as a second pytest
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writable)
    with os.fdopen(readable) as told:
        text = told.read()
    os.waitpid(pid, 0)
    assert text, "the doctor said nothing: see its traceback"
    said = {each["id"]: each for each in json.loads(text)["checks"]}
    for each in said.values():
        if each["verdict"] in {"FAIL", "WARN"}:
            print(each["verdict"], each["id"], each["evidence"], "|", each["fix"])  # noqa: T201
    return said


def said_to_user(memlock: int, hidden: str) -> str:
    """Become a user and ask; in a process of its own."""
    own_mounts()
    if hidden:
        call("mount", b"none", hidden.encode(), b"tmpfs", 0, None)
    become_user(memlock)
    return CliRunner().invoke(cli, DOCTOR).stdout


def own_mounts() -> None:
    """What this process mounts from now on, no other sees."""
    call("unshare", CLONE_NEWNS)
    call("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)


def open_to_all(folders: Iterable[Path]) -> None:
    """Let others than root reach these, though they lie below a folder that is root's alone.

    Such a folder becomes an empty one in which nothing is but the way to them.
    """
    held = {folder: os.open(folder, os.O_RDONLY | os.O_DIRECTORY) for folder in folders}
    for folder, descriptor in held.items():
        closed = [each for each in folder.parents if not each.stat().st_mode & stat.S_IXOTH]
        if closed:
            call("mount", b"none", bytes(closed[-1]), b"tmpfs", 0, b"mode=755")
        if not folder.exists():
            folder.mkdir(parents=True)
            call("mount", b"/proc/self/fd/%d" % descriptor, bytes(folder), None, MS_BIND, None)


def become_user(memlock: int) -> None:
    """From root to a user without any capability, who can get none."""
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (memlock, memlock))
    for number in range(int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1):
        call("prctl", PR_CAPBSET_DROP, number, 0, 0, 0)
    os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call("prctl", PR_SET_DUMPABLE, 1, 0, 0, 0)  # else /proc/self stays root's


def call(name: str, *args: object) -> None:
    """Call libc, or raise what errno says."""
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*args) != 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def first(said: dict[str, dict[str, str]], usual: dict[str, dict[str, str]]) -> str:
    """The first that fails or, without any, the first that warns of what is not usual."""
    for verdict in ("FAIL", "WARN"):
        for name, each in said.items():
            if each["verdict"] == verdict != usual[name]["verdict"]:
                return name
    return ""


@pytest.fixture(scope="module")
def usual(device):
    wait_for_device()
    for node in NODES.iterdir():
        node.chmod(0o666)
    catalog.checks()  # all modules, once and not in each fork
    probes.live(Needs())
    "localhost".encode("idna")  # names are looked up with it, and the user cannot import it
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deadline, "BUSY_S", 120.0)  # what computes, on CPUs that are emulated
        yield ask()


def test_nothing_is_wrong(usual):
    assert [name for name, each in usual.items() if each["verdict"] == "FAIL"] == []
    seen = ("device-opens", "port-state", "gid-usable", "gid-routable", "mtu", "memlock")
    assert {name: usual[name]["verdict"] for name in seen} == dict.fromkeys(seen, "PASS")


def test_memlock_of_64_kib(usual):
    said = ask(memlock=65536)
    assert first(said, usual) == "memlock"
    assert said["memlock"]["verdict"] == "FAIL"
    assert "512 MiB" in said["memlock"]["evidence"]
    assert "64 KiB" in said["memlock"]["evidence"]


def test_memlock_of_what_it_asks_for(usual):
    assert ask(memlock=NEEDED)["memlock"]["verdict"] == "PASS"


def test_no_device(usual):
    command("rdma", "link", "delete", "rxe0")
    try:
        assert first(ask(), usual) == "device-missing"
    finally:
        command("rdma", "link", "add", "rxe0", "type", "rxe", "netdev", NETDEV)


def test_no_link(usual):
    command("ip", "link", "set", NETDEV, "down")
    try:
        assert first(ask(), usual) == "port-state"
    finally:
        command("ip", "link", "set", NETDEV, "up")


def test_an_mtu_of_1500(usual):
    command("ip", "link", "set", NETDEV, "mtu", "1500")
    try:
        assert first(ask(), usual) == "mtu"
    finally:
        command("ip", "link", "set", NETDEV, "mtu", "9000")


def test_a_table_of_gids_without_ipv4(usual):
    with without_address():
        assert first(ask(), usual) == "gid-routable"


@contextlib.contextmanager
def without_address() -> Iterator[None]:
    command("ip", "addr", "del", f"{ADDRESS}/24", "dev", NETDEV)
    try:
        yield
    finally:
        command("ip", "addr", "add", f"{ADDRESS}/24", "dev", NETDEV)


def test_no_node_of_the_device(usual):
    assert first(ask(hidden=str(NODES)), usual) == "uverbs-nodes"


def test_a_node_that_only_root_may_open(usual):
    for node in NODES.glob("uverbs*"):
        node.chmod(0o600)
    assert first(ask(), usual) == "device-opens"


def test_a_gang_of_two_is_measured_over_the_device(device):
    common = TRACES | {
        "PET_NNODES": "2",
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": "29671",
        "RDMATRAIN_SECRET": "a secret of the tests, long enough",
        "RDMATRAIN_TRANSPORT": "verbs",
    }
    doctor = [sys.executable, "-m", "rdmatrain.cli", "doctor", "--gang", "--json"]
    doctor += ["--gang-timeout", "240"]
    pods = [start(doctor, common | {"PET_NODE_RANK": str(rank)}) for rank in range(2)]
    ended = finish(pods, timeout_s=600)
    text = ended[0].out
    found = json.JSONDecoder().raw_decode(text[text.index("{") :])[0]
    said = {each["id"]: each for each in found["checks"]}
    for name in ("forms", "ping", "checksum", "bandwidth"):
        assert said[f"gang-{name}"]["verdict"] == "PASS", said[f"gang-{name}"]
    assert found["gang"]["transport"] == [[None, "verbs"], ["verbs", None]]
    assert all(value > 0 for row in found["gang"]["gbps"] for value in row if value is not None)


def test_a_user_trains_over_the_device_once_memlock_allows_it(device, tmp_path_factory):
    """As a pod does: the demo, by the launcher, which asks the doctor first."""
    folder = tmp_path_factory.mktemp("user")
    for each in (folder, *folder.parents[:2]):
        each.chmod(0o755)
    text, out = folder / "text", folder / "out"
    text.write_text("to be, or not to be, that is the question: " * 200)
    out.mkdir(mode=0o700)
    os.chown(out, USER, USER)
    train = [*RUN, "--preflight", "--transport", "verbs", "--nproc-per-node", "2"]
    train += [str(ROOT / "launch/train_gpt.py"), *DEMO, "--data", str(text), "--out", str(out)]
    own = {"HOME": str(out), "RDMATRAIN_RECORDER_DIR": str(out), "RDMATRAIN_LOG": "info"}

    def as_user() -> None:
        own_mounts()
        open_to_all([Path(sys.base_prefix), ROOT])
        become_user(NEEDED)

    done = subprocess.run(
        train,
        env=environment(own),
        cwd=out,
        preexec_fn=as_user,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "rxe0/1 gid" in done.stdout
    result = json.loads((out / "result.json").read_text())
    assert (out / "result.json").stat().st_uid == USER
    assert result["transport"] == ["self", "verbs"]
    assert len(result["param_sha256"]) == 2
    assert len(set(result["param_sha256"])) == 1
