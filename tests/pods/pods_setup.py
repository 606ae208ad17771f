# SPDX-License-Identifier: Apache-2.0
"""What pods are made of: Podman, of the system's packages, and an image of launch/Containerfile.

`python tests/pods/pods_setup.py` gets what is missing, or says why it cannot be had, which is no
error: what needs pods skips then. An image that cannot be built where Podman builds another is one.
There is no registry, so the base is made of this machine.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pods_base
from pods_podman import BUILD, PATH, ROOT, Podman, PodmanError, UnavailableError, podman, require

PACKAGES = ("podman", "netavark", "aardvark-dns", "catatonit", "crun", "iptables", "iproute2")
PACKAGES += ("ibverbs-providers", "libibverbs1", "dash")
WHEELS = ROOT / "build" / "wheel"
BASE = "localhost/rdmatrain-base"
IMAGE = "localhost/rdmatrain"
TIMEOUT_S = 900
# What the image is made of, besides the base.
CONTENT = ("CMakeLists.txt", "pyproject.toml", "csrc", "rdmatrain", "launch")


class ImageError(Exception):
    """Podman builds images here, but not ours; the text is what the tool said."""


def run(*command: str) -> str:
    """Run a tool; what it says when it fails becomes the reason."""
    env = {**os.environ, "PATH": PATH, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"`{' '.join(command)}` did not run: {error}") from error
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise UnavailableError(f"`{' '.join(command)}` failed: {last}")
    return done.stdout


def install() -> None:
    """Install Podman, if something of it is missing."""
    try:
        require()
    except UnavailableError:
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise
        print(f"Installing packages of the system: {' '.join(PACKAGES)}", flush=True)
        run("apt-get", "update", "-qq")
        run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES)
        require()


def content() -> list[Path]:
    """The files that the image is made of."""
    found = [path for name in CONTENT for path in [ROOT / name, *(ROOT / name).rglob("*")]]
    left_out = {".md", ".pyc", ".so"}
    return sorted(each for each in found if each.is_file() and each.suffix not in left_out)


def digest(*data: bytes) -> str:
    return hashlib.sha256(b"\0".join(data)).hexdigest()[:16]


def base_name() -> str:
    return f"{BASE}:{digest(pods_base.fingerprint().encode())}"


def image_name() -> str:
    """The image of this checkout on this machine."""
    data = [each.read_bytes() for each in content()]
    return f"{IMAGE}:{digest(base_name().encode(), *data)}"


def find(host: Podman) -> str:
    """The image, if it is there; changes nothing."""
    name = image_name()
    if not host.has_image(name):
        raise UnavailableError("no image of this checkout: `make pods` builds it")
    return name


def make_wheel() -> Path:
    """Build the wheel, unless it is newer than what it is made of."""
    newest = max(each.stat().st_mtime for each in content())
    made = sorted(WHEELS.glob("*.whl"), key=lambda each: each.stat().st_mtime)
    if made and made[-1].stat().st_mtime > newest:
        return made[-1]
    for each in made:
        each.unlink()
    options = ("-q", "--no-build-isolation", "--no-deps", "-w", str(WHEELS))
    run(sys.executable, "-m", "pip", "wheel", *options, ".")
    (wheel,) = WHEELS.glob("*.whl")
    return wheel


def make_base(host: Podman, name: str) -> None:
    file = BUILD / "base.tar"
    try:
        pods_base.write(file)
        path = f"{pods_base.PYTHON.parent}:/usr/sbin:/usr/bin"
        host.run("import", "-q", "-c", f"ENV PATH={path}", str(file), name, timeout_s=TIMEOUT_S)
    finally:
        file.unlink(missing_ok=True)


def try_out(host: Podman, base: str) -> None:
    """Build an image in which nothing of ours can be wrong."""
    options = ("-q", "--layers=false", "--network", "none", "-f", "-")
    made = host.run("build", *options, str(host.state), given=f"FROM {base}\nRUN true\n")
    host.run("rmi", made.strip())


def make_image(host: Podman, name: str, base: str, wheel: Path) -> None:
    launch = ROOT / "launch"
    arguments = [f"BASE={base}", f"WHEEL={wheel.relative_to(ROOT)}"]
    host.run(
        "build", "-q", "--layers=false", "--network", "none", "-t", name,
        "-f", str(launch / "Containerfile"),
        "--ignorefile", str(launch / "Containerfile.dockerignore"),
        *(word for each in arguments for word in ("--build-arg", each)), str(ROOT),
        timeout_s=TIMEOUT_S,
    )  # fmt: skip


def forget_old(host: Podman, *kept: str) -> None:
    """Remove the images of other checkouts, and what is left of builds."""
    names = host.run("images", "--format", "{{.Repository}}:{{.Tag}}").split()
    old = [each for each in names if each.startswith((BASE, IMAGE)) and each not in kept]
    if old:
        host.run("rmi", "-f", *old)
    host.run("image", "prune", "-f")


def make() -> None:
    """Make what is missing."""
    install()
    with podman() as host:
        base, image = base_name(), image_name()
        if host.has_image(image):
            return
        began = time.monotonic()
        if not host.has_image(base):
            print("Making a base image of this machine's Python", flush=True)
            make_base(host, base)
        try_out(host, base)
        print("Building the image", flush=True)
        try:
            make_image(host, image, base, make_wheel())
        except (UnavailableError, PodmanError) as why:
            raise ImageError(str(why)) from why
        forget_old(host, base, image)
        print(f"Built {image} in {time.monotonic() - began:.0f} s", flush=True)


def main() -> int:
    try:
        make()
    except ImageError as why:
        print(f"no image of launch/Containerfile: {why}", file=sys.stderr)
        return 1
    except (UnavailableError, PodmanError) as why:
        print(f"SKIP: no pods on this machine: {why}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
