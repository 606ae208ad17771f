# SPDX-License-Identifier: Apache-2.0
"""The secret of the tasks of one host: one for all, and nobody else's."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rdmatrain.errors import SettingError
from rdmatrain.launcher.host_secret import host_secret


def test_all_tasks_that_start_at_once_get_the_same(tmp_path: Path) -> None:
    environ = {"TMPDIR": str(tmp_path)}
    for turn in range(20):
        base = tmp_path / str(turn)
        base.mkdir()
        environ = {"XDG_RUNTIME_DIR": str(base), "TMPDIR": "/nowhere"}
        with ThreadPoolExecutor(8) as pool:
            found = set(pool.map(lambda env: host_secret(env)[0], [environ] * 16))
        assert [len(secret) for secret in found] == [64]
        (folder,) = base.iterdir()
        (file,) = folder.iterdir()  # no draft is left
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_folder_or_file_that_others_may_have_made_is_refused(tmp_path: Path) -> None:
    environ = {"TMPDIR": str(tmp_path)}
    _, path = host_secret(environ)
    path.chmod(0o640)
    with pytest.raises(SettingError, match="not this user's alone"):
        host_secret(environ)
    path.chmod(0o600)
    path.parent.chmod(0o755)
    with pytest.raises(SettingError, match="not this user's alone"):
        host_secret(environ)
    path.parent.chmod(0o700)
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")
    with pytest.raises(SettingError, match="no secret for the tasks of this host"):
        host_secret(environ)


def test_what_is_no_secret_is_named(tmp_path: Path) -> None:
    environ = {"TMPDIR": str(tmp_path)}
    _, path = host_secret(environ)
    path.write_bytes(b"short")
    with pytest.raises(SettingError, match=r"holds no secret: remove it"):
        host_secret(environ)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(SettingError, match="set RDMATRAIN_SECRET_FILE, or TMPDIR"):
        host_secret({"TMPDIR": str(file)})
    (tmp_path / f"rdmatrain-{os.geteuid()}").symlink_to("/")
    with pytest.raises(SettingError, match="not this user's alone"):
        host_secret({"TMPDIR": str(tmp_path)})
