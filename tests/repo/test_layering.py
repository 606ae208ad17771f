# SPDX-License-Identifier: Apache-2.0
"""Dependencies point one way: ARCHITECTURE.md draws the layers, these tests hold them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
# A layer includes itself, the layers below, and the public headers; never a sibling.
LEVEL = {"base": 0, "arena": 1, "ibv": 1, "reduce": 1, "transport": 2, "coll": 3, "bind": 4}
LEVEL["bench"] = 0  # programs, which include nothing of ours
TRANSPORTS = {path.name.removesuffix("_ctx.c") for path in CSRC.glob("transport/*_ctx.c")}
C_FILES = sorted(path for path in CSRC.rglob("*") if path.suffix in {".c", ".h", ".cpp"})


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def layer_of(path: Path) -> str:
    return path.relative_to(CSRC).parts[0]


def includes(path: Path) -> list[str]:
    """Return what a file includes, as ``<angle.h>`` or ``"quoted.h"``."""
    return re.findall(r'^\s*#\s*include\s*([<"][^>"]+[>"])', path.read_text("utf-8"), re.MULTILINE)


def quoted(path: Path) -> list[str]:
    return [name.strip('"') for name in includes(path) if name.startswith('"')]


def transport_of(name: str) -> str | None:
    """Return the transport that a file of ``transport/`` belongs to; None if all share it."""
    owner = re.split(r"[_.]", name)[0]
    return owner if owner in TRANSPORTS else None


@pytest.mark.parametrize("path", C_FILES, ids=relative)
def test_every_c_file_belongs_to_a_layer(path):
    assert layer_of(path) in {*LEVEL, "include"}


@pytest.mark.parametrize("path", C_FILES, ids=relative)
def test_includes_point_down(path):
    here = layer_of(path)
    for name in quoted(path):
        target = name.split("/")[0] if "/" in name else here
        if target in {here, "rdmatrain"}:
            continue
        assert LEVEL.get(target, 99) < LEVEL.get(here, -1), f"{relative(path)} includes {name}"


@pytest.mark.parametrize("path", sorted(CSRC.glob("include/**/*.h")), ids=relative)
def test_public_headers_include_only_public_ones(path):
    for name in quoted(path):
        assert (CSRC / "include" / name).is_file(), f"{relative(path)} includes {name}"


@pytest.mark.parametrize("path", C_FILES, ids=relative)
def test_the_header_of_a_transport_is_private_to_it(path):
    mine = transport_of(path.name) if layer_of(path) == "transport" else None
    for name in quoted(path):
        if not name.startswith("transport/"):
            continue
        owner = transport_of(Path(name).name)
        assert owner in {None, mine}, f"{relative(path)} includes {name}"


@pytest.mark.parametrize("path", C_FILES, ids=relative)
def test_python_and_torch_appear_in_bind_only(path):
    foreign = re.compile(r'[<"](Python\.h|(torch|ATen|c10|pybind11)/)')
    found = [name for name in includes(path) if foreign.match(name)]
    assert not found or layer_of(path) == "bind"


def test_python_layers_hold():
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
