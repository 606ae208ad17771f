# SPDX-License-Identifier: Apache-2.0
"""Why nothing was started is told to Kubernetes too, unless somebody only looks."""

import json
from pathlib import Path

import pytest

from rdmatrain.errors import SettingError
from rdmatrain.launcher import command, termination


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "termination-log"
    path.touch()
    write = termination.write
    monkeypatch.setattr(termination, "write", lambda text: write(text, str(path)))
    return path


def test_a_refusal_is_in_the_pods_status(log: Path) -> None:
    with pytest.raises(SettingError, match=r"gone\.py"):
        command.run_job({"script": "gone.py", "script_args": (), "nnodes": "1"}, print)
    told = json.loads(log.read_text())
    assert (told["exit_code"], told["retryable"]) == (64, False)
    assert "gone.py" in told["message"]


def test_who_only_looks_leaves_the_pods_status_alone(log: Path) -> None:
    given = {"script": "gone.py", "script_args": (), "nnodes": "1", "nproc_per_node": "x"}
    with pytest.raises(SettingError):
        command.run_job(given | {"dry_run": True}, print)
    assert log.read_text() == ""
