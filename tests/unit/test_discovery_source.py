# SPDX-License-Identifier: Apache-2.0
"""A source resolves paths as the kernel does, below any root, and never raises."""

import os
from pathlib import Path

import pytest

from rdmatrain.discovery.source import MAX_BYTES, Tree


def link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


@pytest.mark.parametrize(
    "path",
    [
        "/devices/a/b/../c/file",
        "/class/b/file",
        "/class/b/../c/file",
        "/class/b/",
        "/class/b/up/c/./file",
        "//class//b//file",
        "/chain/file",
        "/none/at/../all",
    ],
)
def test_paths_lead_where_the_kernel_says(tmp_path: Path, path: str) -> None:
    for name in "bc":
        (tmp_path / "devices/a" / name).mkdir(parents=True)
        (tmp_path / "devices/a" / name / "file").write_text(name)
    link(tmp_path / "class/b", "../devices/a/b")
    link(tmp_path / "devices/a/b/up", "..")
    link(tmp_path / "chain", "class/b")
    expected = os.path.realpath(f"{tmp_path}{path}")
    assert f"{tmp_path}{Tree(tmp_path).real(path)}" == expected


def test_absolute_links_stay_below_the_root(tmp_path: Path) -> None:
    link(tmp_path / "proc/self/root", "/")
    link(tmp_path / "out", "../../../../../../etc/inside")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/inside").write_text("inside")
    assert Tree(tmp_path).text("/proc/self/root/etc/inside") == "inside"
    assert Tree(tmp_path).text("/out") == "inside"


@pytest.mark.parametrize("target", ["round", "round/x", "/round/../round", "other"])
def test_links_in_a_circle_lead_nowhere(tmp_path: Path, target: str) -> None:
    link(tmp_path / "round", target)
    link(tmp_path / "other", "round")
    source = Tree(tmp_path)
    for path in ("/round", "/round/x", "/round/x/y"):
        assert source.failure(path) == "ELOOP"
        assert (source.text(path), source.names(path)) == (None, [])
    assert source.link("/round") == target
    assert source.link("/round/x") is None


def test_odd_paths_and_long_files_are_answers(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"x" * (MAX_BYTES + 1))
    source = Tree(tmp_path)
    assert source.text("/long") == "x" * MAX_BYTES
    assert source.failure("/a\0b") == "EINVAL"
    assert (source.failure("/"), source.failure("/" + "n" * 300)) == ("EISDIR", "ENAMETOOLONG")
    assert (source.link("/a\0b"), source.names("/a\0b"), source.link("/")) == (None, [], None)
