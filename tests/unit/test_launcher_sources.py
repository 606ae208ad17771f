# SPDX-License-Identifier: Apache-2.0
"""What a script imports of its own: by its text, and nothing that merely lies beside it."""

import hashlib
from pathlib import Path

import pytest

from rdmatrain.launcher import sources
from rdmatrain.launcher.sources import is_installed, sources_of

# Every way to import, in a script and below it; what is not imported is not there.
TREE = {
    "train.py": """
import os, json, a  # c2
import b.c as renamed, unknown
def late():
    from d import (  # a comment, with (parentheses)
        e,
        f as g,
    )
    from h import name_of_h
from i import *
""",
    "a.py": "",
    "b/__init__.py": "from . import beside\nfrom .deep.er import x\n",
    "b/beside.py": "from .. import a\n",
    "b/deep/er.py": "from ..up import y\n",
    "b/up.py": "from .......... import z\n",
    "b/c.py": "import train\n",
    "d/e.py": "",
    "d/f.py": "",
    "h.py": "",
    "i/__init__.py": "",
}
BESIDE = {
    "c2.py": "",
    "out/run-1/model.py": "",
    "d/other.py": "",
    ".venv/lib/python3/site-packages/torch.py": "",
    "os/not_python.txt": "",
}


@pytest.fixture(autouse=True)
def much_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_S", 60.0)


def write(folder: Path, tree: dict[str, str]) -> Path:
    for name, text in tree.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_what_is_imported_is_found_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, TREE | BESIDE)
    found = sources_of(tmp_path / "train.py", [tmp_path])
    assert found.complete
    assert found.digests == {
        name: f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        for name, text in TREE.items()
        if name != "train.py"
    }


def test_modules_are_looked_for_where_python_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = {"bin/train.py": "import nets.gpt", "src/nets/gpt.py": "", "nets/gpt.py": ""}
    write(tmp_path, tree)
    script = tmp_path / "bin/train.py"
    roots = [tmp_path / "bin", tmp_path / "src"]
    assert list(sources_of(script, roots).digests) == ["../src/nets/gpt.py"]
    monkeypatch.chdir(tmp_path / "bin")
    assert sources_of(Path("train.py"), [Path(), Path("../src")]) == sources_of(script, roots)


def test_packages_of_a_module_are_read_before_it(tmp_path: Path) -> None:
    write(tmp_path, {"nets/__init__.py": "import base", "nets/gpt.py": "", "base.py": ""})
    found = sources_of(tmp_path / "nets/gpt.py", [tmp_path], "nets.gpt")
    assert sorted(found.digests) == ["../base.py", "__init__.py"]


def test_what_is_installed_is_compared_as_packages(tmp_path: Path) -> None:
    packages = tmp_path / "lib/site-packages"
    write(packages, {"tool.py": "import helper", "helper.py": ""})
    assert sources_of(packages / "tool.py", [packages]).digests == {}
    write(tmp_path, {"train.py": "import helper"})
    assert sources_of(tmp_path / "train.py", [tmp_path, packages]).digests == {}
    assert is_installed(Path(hashlib.__file__))
    assert not is_installed(tmp_path / "train.py")


@pytest.mark.parametrize(("limit", "value"), [("MAX_S", 0.0), ("MAX_FILES", 2), ("MAX_BYTES", 100)])
def test_limits_end_it_and_are_told(
    limit: str, value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, TREE)
    monkeypatch.setattr(sources, limit, value)
    found = sources_of(tmp_path / "train.py", [tmp_path])
    assert not found.complete
    assert len(found.digests) < len(TREE) - 1


@pytest.mark.parametrize("text", [b"import " + b"a." * 100_000, b"from x import (", b"\xff\0"])
def test_any_text_is_read_to_its_end(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_bytes(text)
    assert sources_of(tmp_path / "train.py", [tmp_path]).digests == {}
