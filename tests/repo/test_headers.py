# SPDX-License-Identifier: Apache-2.0
"""Every header compiles alone, so that the order of includes never matters."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
# Not bind/: its headers are C++ over torch, and each is the first include of its own .cpp.
# Not *.inc.h: text that is included once for each instruction set, with macros set before.
C_HEADERS = sorted(
    path
    for path in CSRC.rglob("*.h")
    if "bind" not in path.parts and not path.name.endswith(".inc.h")
)
CXX_HEADERS = [CSRC / "include/rdmatrain" / name for name in ("coll.h", "status.h", "types.h")]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def complaints(compiler: str, language: str, header: Path) -> str:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    flags = ["-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", "-I", "csrc/include", "-I", "csrc"]
    kind = language.replace("11", "").replace("20", "")
    command = [compiler, f"-std={language}", *flags, "-fsyntax-only", "-x", kind, str(header)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    ).stderr


@pytest.mark.parametrize("header", C_HEADERS, ids=relative)
def test_header_compiles_alone(header):
    assert complaints("gcc", "c11", header) == ""


@pytest.mark.parametrize("header", CXX_HEADERS, ids=relative)
def test_public_header_compiles_as_cpp(header):
    assert complaints("g++", "c++20", header) == ""
