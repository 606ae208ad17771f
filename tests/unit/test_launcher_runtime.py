# SPDX-License-Identifier: Apache-2.0
"""The launcher's folder is private, and nothing of it stays."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import rdmatrain
from rdmatrain.errors import SettingError
from rdmatrain.launcher import runtime
from rdmatrain.launcher.runtime import Runtime

ROOT = str(Path(rdmatrain.__file__).parents[1])
MAKE_AND_SLEEP = (
    "import sys, time\nfrom rdmatrain.launcher.runtime import Runtime\n"
    "kept = Runtime({'TMPDIR': sys.argv[1]})\n"
    "kept.write_secret(b's')\nprint(kept.folder, flush=True)\ntime.sleep(60)\n"
)


def started(base: Path) -> tuple["subprocess.Popen[str]", Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", MAKE_AND_SLEEP, str(base)],
        env={"PYTHONPATH": ROOT},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277, 0o777])
def test_only_this_user_can_look_into_it(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        made = Runtime({"XDG_RUNTIME_DIR": str(tmp_path)})
        secret = made.write_secret(b"\x00 secret\n")
    finally:
        os.umask(before)
    assert made.folder.parent == tmp_path
    assert made.folder.stat().st_mode & 0o7777 == 0o700
    assert secret.parent == made.folder
    assert secret.stat().st_mode & 0o7777 == 0o600
    assert secret.read_bytes() == b"\x00 secret\n"
    made.close()
    made.close()
    assert list(tmp_path.iterdir()) == []


def test_the_first_folder_that_can_be_written_is_taken(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "good").mkdir()
    for unusable in ("/proc", str(tmp_path / "none"), str(tmp_path / "file"), "good", ""):
        made = Runtime({"XDG_RUNTIME_DIR": unusable, "TMPDIR": str(tmp_path / "good")})
        assert made.folder.parent == tmp_path / "good"
        made.close()
    everybodys = Runtime({"XDG_RUNTIME_DIR": str(tmp_path / "open"), "TMPDIR": str(tmp_path)})
    assert everybodys.folder.parent == tmp_path
    everybodys.close()


def test_in_a_pod_a_folder_may_be_everybodys(tmp_path: Path) -> None:
    # The kubelet makes emptyDirs so, and nobody but the pod's containers can reach them.
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty").chmod(0o777)
    environ = {"TMPDIR": str(tmp_path / "empty"), "KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    made = Runtime(environ)
    assert made.folder.parent == tmp_path / "empty"
    made.close()


def test_the_system_folders_are_the_last_resort() -> None:
    made = Runtime({})
    assert str(made.folder.parent) in ("/tmp", "/dev/shm")
    made.close()
    assert not made.folder.exists()


def test_without_any_folder_each_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    bases = [Path("/proc"), Path("/nowhere")]
    monkeypatch.setattr(runtime, "_bases", lambda environ: bases)
    with pytest.raises(SettingError, match=r"/proc: .*; /nowhere: No such file.*TMPDIR"):
        Runtime({})


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: bytes) -> int:
        full_fd = os.open("/dev/full", os.O_WRONLY)
        try:
            return write(full_fd, data)
        finally:
            os.close(full_fd)

    write = os.write
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(SettingError, match=f"{tmp_path}: No space left on device"):
        Runtime({"TMPDIR": str(tmp_path)})
    assert list(tmp_path.iterdir()) == []


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    made = Runtime({"TMPDIR": str(tmp_path)})
    (made.folder / "sub").mkdir()
    (made.folder / "sub" / "file").touch()
    (made.folder / "sub" / "folder_link").symlink_to(outside)
    (made.folder / "file_link").symlink_to(outside / "kept")
    (made.folder / "dangling").symlink_to("nowhere")
    made.close()
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]
    assert (outside / "kept").exists()


def test_a_folder_that_a_link_replaced_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    made = Runtime({"TMPDIR": str(tmp_path)})
    made.folder.rename(tmp_path / "moved")
    made.folder.symlink_to(outside)
    made.close()
    assert (outside / "kept").exists()


def test_folders_of_dead_launchers_are_removed_and_those_of_living_ones_stay(
    tmp_path: Path,
) -> None:
    living, its_folder = started(tmp_path)
    dead, left_over = started(tmp_path)
    dead.kill()
    dead.communicate()
    assert left_over.is_dir()
    (tmp_path / "rdmatrain-0-link").symlink_to(its_folder)
    others = tmp_path / f"rdmatrain-{os.geteuid() + 1}-x"
    others.mkdir()
    try:
        made = Runtime({"TMPDIR": str(tmp_path)})
        assert not left_over.exists()
        assert (its_folder / "secret").exists()
        assert others.exists()
        made.close()
    finally:
        living.kill()
        living.communicate()


def test_many_that_start_at_once_do_not_remove_each_others(tmp_path: Path) -> None:
    made: list[Runtime] = []

    def make() -> None:
        for _ in range(25):
            made.append(Runtime({"TMPDIR": str(tmp_path)}))
            made[-1].write_secret(b"x")

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 200
    assert all((each.folder / "secret").exists() for each in made)
    for each in made:
        each.close()
    assert list(tmp_path.iterdir()) == []
