# SPDX-License-Identifier: Apache-2.0
"""Podman in namespaces of its own: networks, mounts and processes that this machine never sees.

`python tests/pods/pods_podman.py ps -a` is a podman of these, for a look; images are in build/pods.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "pods"
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
# Needed by podman, which asks for them only when a pod starts.
PROGRAMS = ("podman", "crun", "conmon", "catatonit", "iptables", "ip")
PROGRAMS += ("setpriv", "unshare", "nsenter")
LIBRARIES = ("/usr/lib/podman/netavark", "/usr/lib/podman/aardvark-dns")

# Podman takes cgroups for version 2 where that is mounted, which has no controllers on a machine
# with both. Limits of this machine above its own, as Podman asks for them, would be refused.
CONF = """\
[containers]
default_ulimits = [{ulimits}]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
network_config_dir = "{networks}"
"""
# PID 1 of the namespaces: gathers what dies, as conmon leaves it; all ends with it.
INIT = """
import os, subprocess, sys, time
if os.path.ismount("/sys/fs/cgroup/unified"):
    subprocess.run(["umount", "/sys/fs/cgroup/unified"], check=True)
for folder in ("/run", "/dev/shm"):  # Podman keeps there what runs: nothing, as after a boot
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
print("ready", flush=True)
while True:
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(0.1)
"""


class UnavailableError(Exception):
    """There can be no pods on this machine; the text says why and what would help."""


class PodmanError(Exception):
    """Podman failed; the text is its own."""


def require() -> None:
    """Look for what pods take; changes nothing."""
    if os.geteuid() != 0:
        raise UnavailableError("only root may make their namespaces")
    missing = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    missing += [path for path in LIBRARIES if not Path(path).exists()]
    if missing:
        raise UnavailableError(f"no {', '.join(missing)}; `make pods` installs it")


@dataclass
class Podman:
    """Podman beside one process, whose namespaces it lives in."""

    init: int
    conf: Path
    state: Path

    def inside(self, *command: str) -> list[str]:
        """The line that runs a command in the namespaces of the pods' host."""
        return ["nsenter", "-t", str(self.init), "-m", "-n", "-p", "-i", *command]

    def line(self, *words: str) -> list[str]:
        return self.inside("podman", "--root", str(BUILD / "storage"), *words)

    def run(self, *words: str, given: str = "", timeout_s: float = 600) -> str:
        try:
            done = subprocess.run(
                self.line(*words),
                input=given,
                capture_output=True,
                text=True,
                env={**os.environ, "PATH": PATH, "CONTAINERS_CONF": str(self.conf)},
                check=False,
                timeout=timeout_s,
            )
        except subprocess.TimeoutExpired as error:
            raise PodmanError(f"podman {' '.join(words)}: no end in {timeout_s:.0f} s") from error
        if done.returncode != 0:
            raise PodmanError(
                f"podman {' '.join(words)}: {done.stderr.strip()}{done.stdout[-2000:]}"
            )
        return done.stdout

    def mount_memory(self, place: Path, size: str) -> None:
        """Make a folder one of memory, with its owner and mode."""
        found = place.stat()
        options = f"size={size},mode={found.st_mode & 0o7777:o},gid={found.st_gid}"
        line = self.inside("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place))
        subprocess.run(line, check=True, timeout=60)

    def play(self, pod: dict[str, object], network: str, address: str) -> None:
        """Start a pod; the file is for whoever looks into a failure."""
        name = str(pod["metadata"]["name"])  # type: ignore[index]
        file = self.state / f"{name}.json"  # which is YAML as well
        file.write_text(json.dumps(pod, indent=1), "utf-8")
        told = self.run("kube", "play", "--network", network, "--ip", address, str(file))
        # It ends with 0 though a container did not start.
        if "failed to start" in told or "starting container" in told:
            raise PodmanError(told)

    def logs(self, container: str) -> str:
        done = subprocess.run(
            self.line("logs", container),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PATH": PATH, "CONTAINERS_CONF": str(self.conf)},
            check=False,
            timeout=120,
        )
        return done.stdout

    def exit_code(self, container: str, timeout_s: float) -> int:
        """Wait for the end of a container."""
        return int(self.run("wait", container, timeout_s=timeout_s).split()[-1])

    def has_image(self, name: str) -> bool:
        return name in self.run("images", "--format", "{{.Repository}}:{{.Tag}}").split()


def _ulimits() -> str:
    found = []
    for name, wanted in {"nofile": 65536, "nproc": 32768, "memlock": 64 << 20}.items():
        _, most = resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))
        limit = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        found.append(f'"{name}={limit}:{limit}"')
    return ", ".join(found)


@contextmanager
def podman() -> Iterator[Podman]:
    """A podman without pods; all that it started ends with it."""
    require()
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="rdmatrain-pods-") as name:
        state = Path(name)
        conf = state / "containers.conf"
        conf.write_text(CONF.format(ulimits=_ulimits(), networks=state / "networks"), "utf-8")
        # They end with this process too, however it ends.
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "-m", "-n", "-p", "-i"]
        command += ["--fork", "--kill-child=KILL", "--mount-proc"]
        with subprocess.Popen(
            [*command, sys.executable, "-c", INIT],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PATH": PATH},
        ) as outer:
            try:
                assert outer.stdout is not None
                if outer.stdout.readline() != "ready\n":
                    raise UnavailableError("this machine allows no namespaces of mounts, networks")
                yield Podman(_child(outer.pid), conf, state)
            finally:
                outer.kill()  # the kernel ends all else of the namespace
                outer.wait(60)


def _child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()[0])


def main(words: list[str]) -> int:
    with podman() as found:
        env = {**os.environ, "PATH": PATH, "CONTAINERS_CONF": str(found.conf)}
        return subprocess.run(found.line(*words), env=env, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
