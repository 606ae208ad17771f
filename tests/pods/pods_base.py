# SPDX-License-Identifier: Apache-2.0
"""A base image without a registry: this Python, its packages for a job, and what they link to.

Files are at the same paths as on this machine, and belong to root.
"""

import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

# The interpreter that .venv was made of.
PYTHON = Path(sys._base_executable)
# What a job imports, with all that those require; pip, for launch/Containerfile.
PACKAGES = ("torch", "numpy", "click", "PyYAML", "prometheus-client", "pip", "setuptools")
# What launch/Containerfile's RUN lines, and those who look into a pod, type.
TOOLS = ("bash", "cat", "chmod", "cp", "dirname", "env", "grep", "id", "install", "ln", "ls")
TOOLS += ("mkdir", "mv", "rm", "sed", "sh", "sleep", "touch", "uname")
# Opened by name, so that no ELF header mentions them.
OPENED = ("libibverbs.so.1", "libnss_files.so.2", "libnss_dns.so.2")
LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
ETC = {
    "passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "group": "root:x:0:\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
# Goes up when something else is put in.
EDITION = 2
# Headers, programs and tests: a third of it all, and no job needs them.
LEFT_OUT = re.compile(
    r"torch/(include|test|share)/|torch/bin/(?!torch_shm_manager)|[^/]+/(.+/)?tests/|.*\.a$"
)


def requirements(name: str, seen: set[str]) -> None:
    """Add a package that is installed, and what it requires here."""
    key = name.lower().replace("_", "-")
    if key in seen:
        return
    try:
        found = distribution(name)
    except PackageNotFoundError:  # an optional peer, or one that this Python needs not
        return
    seen.add(key)
    for text in found.requires or ():
        each = Requirement(text)
        if each.marker is None or each.marker.evaluate({"extra": ""}):
            requirements(each.name, seen)


def package_files() -> Iterator[tuple[Path, str]]:
    """Yield each file of the packages, and its path below site-packages."""
    names: set[str] = set()
    for name in PACKAGES:
        requirements(name, names)
    for name in sorted(names):
        for each in distribution(name).files or ():
            below = str(each)
            path = Path(str(each.locate()))
            if not below.startswith("..") and not LEFT_OUT.match(below) and path.is_file():
                yield path, below


def interpreter_files() -> Iterator[Path]:
    """Yield the files of the interpreter that .venv was made of."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    yield from (Path(sys.base_prefix) / "bin").glob("python3*")
    for path in stdlib.rglob("*"):
        first = path.relative_to(stdlib).parts[0]
        if first in {"site-packages", "dist-packages", "test", "idlelib"} or path.is_dir():
            continue
        if path.suffix != ".a":
            yield path


def linked(paths: list[Path]) -> set[Path]:
    """Return the shared libraries that programs and libraries need, as ldd finds them."""
    shown = subprocess.run(
        ["ldd", *map(str, paths)], capture_output=True, text=True, check=False, timeout=600
    ).stdout
    words = (line.split("(")[0].split()[-1:] for line in shown.splitlines() if "(0x" in line)
    found = {os.path.normpath(word[0]) for word in words if word and word[0].startswith("/")}
    # Those of packages are where the packages are, and find each other.
    return {Path(each) for each in found if "-packages" not in each}


def opened() -> Iterator[Path]:
    """Yield the libraries that are found by name alone, and the providers of libibverbs."""
    shown = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=False)
    for line in shown.stdout.splitlines():
        name, _, path = line.partition(" => ")
        if path and name.split()[0] in OPENED:
            yield Path(path)
            yield from Path(path).parent.glob("libibverbs/*.so")


class Archive:
    """A tar file of what is on this machine, each file once, with the links that lead to it."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._names: set[str] = set()

    def text(self, name: str, content: str) -> None:
        """Add a file that is not of this machine."""
        entry = tarfile.TarInfo(name)
        entry.mode, entry.size = 0o644, len(content.encode())
        self._tar.addfile(entry, io.BytesIO(content.encode()))

    def link(self, name: str, target: str) -> None:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = tarfile.SYMTYPE, target
        self._tar.addfile(entry)
        self._names.add(name)

    def folder(self, name: str, mode: int = 0o755) -> None:
        if name not in self._names:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            self._tar.addfile(entry)
            self._names.add(name)

    def add(self, path: Path, at: Path | None = None) -> None:
        """Add a file, with its folders, and if it is a link what it leads to."""
        where = at or path
        first = where.parts[1]
        if first in LINKS:
            where = Path("/", LINKS[first], *where.parts[2:])
        name = str(where)[1:]
        if name in self._names:
            return
        for parent in reversed(where.parents[:-1]):
            self.folder(str(parent)[1:])
        if path.is_symlink() and at is None:
            self.link(name, str(path.readlink()))
            target = path.parent / path.readlink()
            if target.is_file():
                self.add(Path(os.path.normpath(target)))  # resolve() would follow links too
            return
        self._names.add(name)
        entry = self._tar.gettarinfo(str(path), name)
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        entry.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
        if not entry.isreg():  # a second hard link: as a file of its own
            entry.type = tarfile.REGTYPE
            entry.size = path.stat().st_size
        with path.open("rb") as file:
            self._tar.addfile(entry, file)


def fingerprint() -> str:
    """What tells one base from another: the interpreter and the packages in it."""
    names: set[str] = set()
    for name in PACKAGES:
        requirements(name, names)
    versions = [f"{name} {distribution(name).version}" for name in sorted(names)]
    return "\n".join([str(EDITION), sys.version, sys.base_prefix, *versions])


def write(file: Path) -> None:
    """Write the root file system, as a tar file."""
    programs = [Path(found) for tool in TOOLS if (found := shutil.which(tool))]
    interpreter, packages = list(interpreter_files()), list(package_files())
    purelib = Path(
        subprocess.run(
            [PYTHON, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True, text=True, check=True, timeout=60,
        ).stdout.strip()
    )  # fmt: skip
    extensions = [path for path in interpreter if ".so" in path.name]
    extensions += [path for path, _ in packages if ".so" in path.name]
    found = list(opened())
    binaries = [*programs, PYTHON.resolve(), *extensions, *found]
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as tar:
        archive = Archive(tar)
        for folder in ("usr", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "etc", "opt", "var"):
            archive.folder(folder)
        for folder in ("tmp", "var/tmp"):
            archive.folder(folder, 0o1777)
        for name, target in LINKS.items():
            archive.link(name, target)
        for name, content in ETC.items():
            archive.text(f"etc/{name}", content)
        for path in [*programs, *interpreter, *found, *sorted(linked(binaries))]:
            archive.add(path)
        for path, below in packages:
            archive.add(path, purelib / below)
