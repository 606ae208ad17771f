# SPDX-License-Identifier: Apache-2.0
"""What a library may not do, and what a file may not contain."""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
C_FILES = sorted(
    path
    for folder in (ROOT / "csrc", ROOT / "tests" / "c")
    for path in folder.rglob("*")
    if path.suffix in {".c", ".h", ".cpp"}
)
CORE_FILES = [
    path for path in C_FILES if "csrc" in path.parts and not {"bind", "bench"} & {*path.parts}
]
PRODUCT_FILES = sorted(
    path
    for folder in ("csrc", "rdmatrain", "launch", "benchmarks", "k8s")
    for path in (ROOT / folder).rglob("*")
    if path.is_file() and path.suffix not in {".pyc", ".so"}
)

PYTHON_FILES = [path for path in PRODUCT_FILES if path.suffix == ".py"]
MAX_LINES = 400
# Those that are longer, with how long they are: they may only get shorter.
LONG = {
    "rdmatrain/config.py": 503,
    "rdmatrain/launcher/tunnel.py": 484,
}

# Comments and string literals, which may well name what the code must not do.
NOT_CODE = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.DOTALL)
FORBIDDEN = {
    "reads the environment": re.compile(r"\b(secure_)?getenv\s*\(|\benviron\b"),
    "writes to stdout": re.compile(r"\bv?printf\s*\(|\bputs\s*\(|\bputchar\s*\(|\bstdout\b"),
    "ends the process": re.compile(r"\b(_?exit|_Exit|quick_exit|abort)\s*\("),
}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_no_python_file_is_too_long_to_read_in_one_go() -> None:
    lengths = {relative(path): len(path.read_text("utf-8").splitlines()) for path in PYTHON_FILES}
    too_long = {name: lines for name, lines in lengths.items() if lines > LONG.get(name, MAX_LINES)}
    assert not too_long
    assert {name for name in LONG if lengths.get(name, 0) <= MAX_LINES} == set()


@pytest.mark.parametrize("path", CORE_FILES, ids=relative)
def test_core_leaves_the_process_alone(path):
    # format(printf, ...) is an attribute, not a call.
    code = NOT_CODE.sub(" ", path.read_text("utf-8")).replace("format(printf", "")
    for what, pattern in FORBIDDEN.items():
        found = pattern.search(code)
        assert found is None, f"{relative(path)} {what}: {found[0] if found else ''}"


@pytest.mark.parametrize("path", C_FILES, ids=relative)
def test_c_file_begins_with_its_license(path):
    first = path.read_text("utf-8").splitlines()[0]
    assert first.strip("/* ") == "SPDX-License-Identifier: Apache-2.0"


@pytest.mark.parametrize("path", PRODUCT_FILES, ids=relative)
def test_nothing_is_left_unfinished(path):
    marker = re.compile("TO" + r"DO\b|FIX" + r"ME\b|\bX" + r"XX\b|\bTB" + r"D\b")
    found = marker.search(path.read_text("utf-8", errors="replace"))
    assert found is None, f"{relative(path)} says {found[0] if found else ''}"


def test_shared_libraries_need_no_verbs():
    if shutil.which("readelf") is None:
        pytest.skip("readelf is not installed")
    spec = importlib.util.find_spec("rdmatrain._core")
    assert spec is not None
    assert spec.origin is not None
    libraries = sorted(Path(spec.origin).parent.glob("*.so"))
    assert {path.name.split(".")[0] for path in libraries} >= {"_core", "_c10d", "librdmatrain"}
    for path in libraries:
        command = ["readelf", "--wide", "--dynamic", str(path)]
        dynamic = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        needed = re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic)
        assert needed, f"readelf showed no needed library of {path.name}"
        assert not [name for name in needed if re.match(r"lib(ibverbs|rdmacm|mlx)", name)]
