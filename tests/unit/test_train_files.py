# SPDX-License-Identifier: Apache-2.0
"""rdmatrain.train.files, and in what order a save makes things durable."""

import os
from pathlib import Path

import pytest
import torch

from rdmatrain.train import Checkpoints
from rdmatrain.train.files import whole_file


def test_a_file_has_no_name_before_it_is_whole(tmp_path):
    with whole_file(tmp_path / "file") as file:
        file.write(b"all of it")
        assert not (tmp_path / "file").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"all of it"


def test_what_is_interrupted_gets_no_name(tmp_path):
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "file"):
        raise KeyboardInterrupt
    assert not (tmp_path / "file").exists()


def test_two_cannot_write_the_same_file(tmp_path):
    with (
        pytest.raises(FileExistsError, match="file'"),
        whole_file(tmp_path / "file"),
        whole_file(tmp_path / "file"),
    ):
        pass


def test_nothing_gets_its_name_before_what_it_stands_for_is_durable(tmp_path, monkeypatch):
    events = []
    fsync, rename = os.fsync, Path.rename

    def note_fsync(fd):
        events.append(("fsync", Path(f"/proc/self/fd/{fd}").readlink()))
        fsync(fd)

    def note_rename(path, target):
        events.append(("rename", target))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "rename", note_rename)
    root = tmp_path / "new"
    folder = Checkpoints(root).save(1, torch.zeros(3))
    assert events == [
        ("fsync", tmp_path),
        ("fsync", root),
        ("fsync", folder / "rank-00000.pt.tmp"),
        ("rename", folder / "rank-00000.pt"),
        ("fsync", folder),
        ("fsync", folder / "manifest.json.tmp"),
        ("rename", folder / "manifest.json"),
        ("fsync", folder),
    ]
