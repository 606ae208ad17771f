# SPDX-License-Identifier: Apache-2.0
"""What guests are made of: tools of the system, virtme-ng, and a kernel of Debian in build/vm.

`python tests/vm/vm_setup.py` gets what is missing, or says why it cannot be had, which is no error:
what needs a guest skips then.
"""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "vm"

PACKAGES = (
    "busybox-static",  # the initramfs
    "ibverbs-providers",
    "ibverbs-utils",
    "iproute2",
    "kmod",
    "perftest",
    "python3-pyverbs",
    "qemu-system-x86",
)
# Depends on the newest kernel, whose name has its version in it.
KERNEL_PACKAGE = "linux-image-amd64"
APT_TIMEOUT_S = 600
# Where tools of root are for those whose PATH leaves them out.
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


class UnavailableError(Exception):
    """There can be no guest on this machine; the text says why and what would help."""


@dataclass(frozen=True)
class Kit:
    """What it takes to boot: a kernel, beside its modules, and the program that boots it."""

    kernel: Path
    virtme_run: Path


def run(*command: str, cwd: Path | None = None) -> str:
    """Run a tool of the system; what it says when it fails becomes the reason."""
    env = {**os.environ, "PATH": PATH, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=APT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"`{' '.join(command)}` did not run: {error}") from error
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise UnavailableError(f"`{' '.join(command)}` failed: {last}")
    return done.stdout


def missing_packages() -> list[str]:
    if shutil.which("dpkg-query") is None:
        raise UnavailableError("guests are made of packages of Debian, and there is no dpkg here")
    shown = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *PACKAGES],
        capture_output=True,
        text=True,
        check=False,  # fails when it does not know one of them
        timeout=60,
    ).stdout
    installed = {line.split()[0] for line in shown.splitlines() if line.endswith(" installed")}
    return [name for name in PACKAGES if name not in installed]


def find_kernel() -> Path | None:
    """The kernel that was unpacked before, if it was: the folder gets its name when it is whole."""
    return next(iter(sorted((BUILD / "kernel" / "boot").glob("vmlinuz-*"))), None)


def find() -> Kit:
    """The kit, if it is complete; changes nothing."""
    if platform.machine() != "x86_64":
        raise UnavailableError(f"guests are x86_64, and this machine is {platform.machine()}")
    missing = missing_packages()
    if missing:
        raise UnavailableError(f"not installed: {' '.join(missing)}; `make vm` as root does it")
    virtme_run = Path(sysconfig.get_path("scripts")) / "virtme-run"
    if not virtme_run.exists():
        raise UnavailableError(f"no {virtme_run}: `make` installs virtme-ng into .venv")
    kernel = find_kernel()
    if kernel is None:
        raise UnavailableError(f"no kernel in {BUILD}: `make vm` puts one there")
    return Kit(kernel, virtme_run)


def get_what_is_missing() -> None:
    missing, kernel = missing_packages(), find_kernel()
    if kernel is not None and not missing:
        return
    if missing and os.geteuid() != 0:
        raise UnavailableError(f"only root can install {' '.join(missing)}")
    if os.geteuid() == 0:
        run("apt-get", "update", "-qq")
    if missing:
        print(f"Installing packages of the system: {' '.join(missing)}", flush=True)
        run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing)
    if kernel is None:
        unpack_kernel()


def unpack_kernel() -> None:
    """Unpack the kernel's package, without installing it, into build/vm/kernel."""
    depends = run("apt-cache", "depends", "--important", KERNEL_PACKAGE)
    package = next((word for word in depends.split() if word.startswith("linux-image-6")), None)
    if package is None:
        raise UnavailableError(f"the package {KERNEL_PACKAGE} of this system names no kernel")
    print(f"Unpacking {package} into {BUILD.relative_to(ROOT)}", flush=True)
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as name:
        folder = Path(name)
        run("apt-get", "download", "-qq", package, cwd=folder)
        (archive,) = folder.glob("*.deb")
        part = folder / "kernel"
        run("dpkg-deb", "-x", str(archive), str(part))
        (modules,) = (part / "lib" / "modules").iterdir()
        run("depmod", "-b", str(part), modules.name)
        part.rename(BUILD / "kernel")


def main() -> int:
    try:
        if platform.machine() == "x86_64":
            get_what_is_missing()
        find()
    except UnavailableError as why:
        print(f"SKIP: no guests on this machine: {why}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
