# SPDX-License-Identifier: Apache-2.0
"""Runs the doctor where something is wrong: in namespaces, under limits, in a cgroup."""

import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any
from uuid import uuid4

import doctor_pods

from doctor_faults.fault import Answer, Fault, NotMadeError
from doctor_faults.refuse import NUMBERS
from rdmatrain.discovery.pod import read_pod

HERE = Path(__file__).parent
DOCTOR = (str(Path(sys.executable).with_name("rdmatrain")), "doctor", "--json")
IN_POD = (sys.executable, str(HERE / "in_pod.py"))
REFUSE = (sys.executable, "-IS", str(HERE / "refuse.py"))
LIMIT_S = 60
_ASKED: dict[str, list[Answer]] = {}
_ASKING: dict[str, Lock] = {}
# A pod of a job of two, at the end of a cable: node 0 is at its other end, in the namespace "far".
HOSTS = (
    "127.0.0.1 localhost\n10.77.0.1 worker-0.train worker-0\n10.77.0.2 worker-1.train worker-1\n"
)
NETWORK = """
ip link set lo up; mount -t sysfs none /sys
mkdir -p /run/netns; mount -t tmpfs none /run/netns; ip netns add far
ip link add own0 type veth peer name far0 netns far
ip addr add 10.77.0.2/24 dev own0; ip -n far addr add 10.77.0.1/24 dev far0
ip link set own0 up; ip -n far link set far0 up
ip route add default via 10.77.0.1
hostname worker-1
cat > "$HERE/hosts" <<end
{hosts}end
mount --bind "$HERE/hosts" /etc/hosts
echo 'nameserver 10.77.0.1
options timeout:1 attempts:1' > "$HERE/resolv.conf"
mount --bind "$HERE/resolv.conf" /etc/resolv.conf
"""
JOB = {
    "PET_NNODES": "2",
    "PET_NODE_RANK": "1",
    "PET_NPROC_PER_NODE": "1",
    "PET_MASTER_ADDR": "worker-0.train",
    "PET_MASTER_PORT": "29500",
    "RDMATRAIN_SECRET": "a secret of the tests, long enough",
}


@dataclass(frozen=True)
class Sandbox:
    """Where the doctor runs. All of it is gone afterwards.

    Attributes:
        shell: run before it by root in a mount and UTS namespace of its own; ``$HERE`` is a folder.
        env: variables besides PATH; ``{here}`` is that folder.
        options: of the doctor, likewise.
        limits: options of prlimit.
        user: who it runs as, without any capability; 0 for root with all of them.
        network: it has a network namespace of its own.
        groups: cgroups of its own: files of version 1 by controller.
        refuse: a system call, and the errno that it fails with.
        pod: a saved pod whose devices it sees in place of this machine's.
        hosts: contents of /etc/hosts of a job, which then is the only one.

    """

    shell: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    user: int = 0
    network: bool = False
    groups: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    refuse: tuple[str, str] | None = None
    pod: str = ""

    def but(self, **changed: Any) -> "Sandbox":
        """Return another one; shell and variables are added to those that it has."""
        env = {**self.env, **changed.pop("env", {})}
        shell = f"{self.shell}\n{changed.pop('shell', '')}"
        return replace(self, shell=shell, env=env, **changed)


LONE = Sandbox()
IN_JOB = Sandbox(shell=NETWORK.format(hosts=HOSTS), env=JOB, network=True)
IN_GPU_POD = Sandbox(pod=doctor_pods.HEALTHY)


def live(name: str, cause: str, base: Sandbox = LONE, **changed: Any) -> Fault:
    """Return a fault that is made by changing a sandbox in which nothing is wrong.

    What the doctor warns of there, as of a clock that nobody keeps, is true of this machine.
    """
    healthy = base.but(user=changed.get("user", 0))
    return Fault(name, cause, asking(base.but(**changed)), usual=_remembered(healthy))


def asking(sandbox: Sandbox) -> Callable[[], list[Answer]]:
    """Return what asks the doctor in there."""
    return lambda: _ask(sandbox)


@cache
def possible() -> bool:
    """Whether there can be sandboxes at all."""
    return (
        os.geteuid() == 0
        and all(map(shutil.which, ("unshare", "setpriv", "prlimit", "ip", "hostname")))
        and subprocess.run(["unshare", "-m", "-u", "-n", "true"], check=False).returncode == 0
    )


def _remembered(sandbox: Sandbox) -> Callable[[], list[Answer]]:
    def ask() -> list[Answer]:
        with _ASKING.setdefault(repr(sandbox), Lock()):
            if repr(sandbox) not in _ASKED:
                _ASKED[repr(sandbox)] = _ask(sandbox)
            return _ASKED[repr(sandbox)]

    return ask


def _ask(sandbox: Sandbox) -> list[Answer]:
    if not possible():
        raise NotMadeError("only root may make namespaces and limits, with util-linux and iproute2")
    if sandbox.refuse and platform.machine() not in NUMBERS:
        raise NotMadeError(f"numbers of system calls are not known of {platform.machine()}")
    with TemporaryDirectory() as folder, _cgroups(sandbox.groups) as groups:
        here = Path(folder)
        here.chmod(0o755)
        done = subprocess.run(
            _command(sandbox, here, groups),
            input=_pod(sandbox.pod) if sandbox.pod else "",
            env=_environment(sandbox, here),
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    try:
        said = json.loads(done.stdout)
    except ValueError as error:
        text = f"the doctor ended with {done.returncode}: {done.stdout}{done.stderr}"
        raise AssertionError(text) from error
    return [Answer(each["id"], each["verdict"], each["evidence"]) for each in said["checks"]]


def _command(sandbox: Sandbox, here: Path, groups: list[Path]) -> list[str]:
    enter = "".join(f"echo $$ > {folder}/cgroup.procs\n" for folder in groups)
    shell = f"set -e\n{sandbox.shell}\n{enter}"
    namespaces = ["--mount", "--uts", *(["--net"] if sandbox.network else [])]
    become = ["--reuid", str(sandbox.user), "--regid", str(sandbox.user), "--clear-groups"]
    nothing = ["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]
    return [
        *("unshare", *namespaces),
        *("sh", "-c", f'{shell}\nexec "$@"', "sh"),
        *(["prlimit", *sandbox.limits] if sandbox.limits else []),
        *([*REFUSE, *sandbox.refuse] if sandbox.refuse else []),
        *(["setpriv", *become, *nothing] if sandbox.user else []),
        *(IN_POD if sandbox.pod else DOCTOR),
        *(each.format(here=here) for each in sandbox.options),
    ]


def _environment(sandbox: Sandbox, here: Path) -> dict[str, str]:
    own = {"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), "HERE": str(here)}
    if sandbox.pod:
        own["PYTHONPATH"] = str(HERE.parents[1] / "unit")
        pod = read_pod(doctor_pods.pod(sandbox.pod).source)
        own |= {each.name: each.value for each in pod.variables if each.name != "PATH"}
    return own | {name: value.format(here=here) for name, value in sandbox.env.items()}


@cache
def _pod(name: str) -> str:
    """Return a saved pod as in_pod.py reads it."""
    seen = doctor_pods.seen(name)
    files = {
        path: [content.target] if isinstance(content, doctor_pods.Link) else content
        for path, content in seen.files.items()
        # The CPUs are this machine's, which is no part of that pod's NUMA nodes.
        if not isinstance(content, list) and not path.startswith("/sys/devices/system/node/")
    }
    return json.dumps({"files": files, "probes": seen.probes})


@contextlib.contextmanager
def _cgroups(wanted: Mapping[str, Mapping[str, str]]) -> Iterator[list[Path]]:
    made: list[Path] = []
    try:
        for controller, settings in wanted.items():
            folder = Path(f"/sys/fs/cgroup/{controller}/rdmatrain-doctor-{uuid4().hex}")
            if not folder.parent.is_dir():
                raise NotMadeError(f"no cgroup of version 1 for {controller}")
            try:
                folder.mkdir()
                made.append(folder)
                for file, value in settings.items():
                    (folder / file).write_text(value)
            except OSError as error:
                raise NotMadeError(f"no cgroup for {controller}: {error}") from error
        yield made
    finally:
        for folder in made:
            folder.rmdir()
