# SPDX-License-Identifier: Apache-2.0
"""What the doctor says of folders: those of checkpoints, temporary files and logs."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from doctor_pods import asked, bare, first, healthy

from rdmatrain.discovery.deadline import LATE
from rdmatrain.doctor.meeting import Meeting
from rdmatrain.doctor.model import Case, Finding, Needs
from rdmatrain.doctor.probes import storage

MOUNTS = "/proc/self/mountinfo"
TABLE = """\
1 0 0:1 / / {root} - overlay overlay rw
2 1 0:2 / /tmp rw,nosuid - ext4 /dev/vdb rw
3 1 0:3 / /ckpt {ckpt} shared:1 - {kind} nas:/ckpt rw
4 1 0:4 / /data\\040sets rw - xfs /dev/vdc rw
"""
CHECKPOINT = (
    "checkpoint-dir",
    "checkpoint-quota",
    "checkpoint-space",
    "checkpoint-fsync",
    "checkpoint-rename",
)
GIB = 1 << 30


def saved(**changed: Any) -> dict[str, Any]:
    """What the probe says of a folder where a save goes well."""
    return {
        "path": "/ckpt/llm",
        "uid": 1000,
        "gid": 2000,
        "owner": 0,
        "group": 2000,
        "mode": 0o775,
        "free": 100 * GIB,
        "total": 200 * GIB,
        "free_inodes": 10**6,
        "inodes": 10**7,
        "fsync_s": 0.004,
        "reserve_mib": 4096,
        **dict.fromkeys(storage_steps(), ""),
        **changed,
    }


def storage_steps() -> tuple[str, ...]:
    tried = ("stat", "mkdir", "write", "fsync", "fsync_folder", "rename_file", "rename_folder")
    return (*tried, "reserve")


def until(step: str, name: str, **changed: Any) -> dict[str, Any]:
    """A save that did not come further than a step."""
    steps = storage_steps()
    facts = saved(**changed)
    for each in steps[steps.index(step) :]:
        del facts[each]
    return {**facts, step: name} if name else {**facts, "late": step}


def case(facts: Mapping[str, Any] | None, **mounts: str) -> Case:
    table = TABLE.format(**{"root": "rw", "ckpt": "rw", "kind": "nfs4", **mounts})
    return healthy({MOUNTS: table}, {"checkpoint": facts}, Needs(checkpoint_mib=4096))


def said(finding: Finding) -> tuple[str, str]:
    return finding.verdict.value, finding.evidence


@pytest.mark.parametrize("name", CHECKPOINT)
def test_a_folder_where_a_save_goes_well_passes(name: str) -> None:
    finding = asked(case(saved()), name)
    assert finding.verdict.value == "PASS", finding
    assert "/ckpt/llm" in finding.evidence
    assert finding.fix == ""


@pytest.mark.parametrize("name", CHECKPOINT)
@pytest.mark.parametrize("facts", [None, {"path": ""}, {"path": 3}])
def test_without_a_folder_nothing_is_said(name: str, facts: dict[str, Any] | None) -> None:
    assert said(asked(bare(probes={"checkpoint": facts}), name))[0] == "SKIP"


def test_garbage_is_no_place_for_temporary_files() -> None:
    assert said(asked(bare(probes={"tmp": {"launcher": None}}), "tmp"))[0] == "SKIP"


@pytest.mark.parametrize(("name", "probe"), [("tmp", "tmp"), ("log-dir", "logs")])
@pytest.mark.parametrize("facts", [None, {"error": "no answer"}])
def test_what_was_not_found_out_is_skipped(
    name: str, probe: str, facts: dict[str, Any] | None
) -> None:
    finding = asked(bare(probes={probe: facts}), name)
    assert said(finding) == ("SKIP", "no answer" if facts else "nobody looked")


@pytest.mark.parametrize("name", CHECKPOINT)
def test_numbers_that_are_none_break_nothing(name: str) -> None:
    wrong = saved(free="much", total=[], inodes=None, mode=float("nan"), fsync_s={}, uid=None)
    assert "broken" not in asked(case(wrong), name).evidence
    assert "broken" not in asked(case(saved(rename_file=[], write={})), name).evidence


@pytest.mark.parametrize(
    ("step", "name", "evidence", "fix"),
    [
        ("stat", "ENOTDIR", "/ckpt/llm: ENOTDIR at stat", "ls -ld /ckpt/llm"),
        ("mkdir", "EROFS", "/ckpt/llm: EROFS at mkdir", "readOnly: false"),
        ("mkdir", "EACCES", "as uid 1000, gid 2000 (of 0:2000, mode 775; nfs4 at /ckpt)", "2000"),
        ("write", "EIO", "/ckpt/llm: EIO at write", "ls -ld /ckpt/llm"),
    ],
)
def test_a_folder_that_cannot_be_written_fails(
    step: str, name: str, evidence: str, fix: str
) -> None:
    broken = case(until(step, name))
    finding = asked(broken, "checkpoint-dir")
    assert finding.verdict.value == "FAIL"
    assert evidence in finding.evidence
    assert fix in finding.fix
    assert first(broken) == "checkpoint-dir"


def test_a_mount_that_is_read_only_is_shown() -> None:
    finding = asked(case(until("mkdir", "EROFS"), ckpt="ro,relatime"), "checkpoint-dir")
    assert "nfs4 at /ckpt, read-only" in finding.evidence


@pytest.mark.parametrize("step", ["stat", "mkdir"])
def test_a_folder_that_does_not_answer_in_time_warns(step: str) -> None:
    slow = case(until(step, ""))
    finding = asked(slow, "checkpoint-dir")
    assert said(finding) == ("WARN", "/ckpt/llm did not answer within 0.9 s (nfs4 at /ckpt)")
    assert first(slow) == ""


def test_a_folder_that_is_made_by_the_job_passes() -> None:
    finding = asked(case(saved(parent="/ckpt")), "checkpoint-dir")
    assert said(finding) == (
        "PASS",
        "/ckpt/llm is not there, and will be made in /ckpt, which can be written (nfs4 at /ckpt)",
    )


def test_a_folder_that_was_not_mounted_warns() -> None:
    finding = asked(case(saved(path="/chkpt", parent="/")), "checkpoint-dir")
    assert said(finding) == (
        "WARN",
        "/chkpt is not there, and will be made in /, which is on overlay at /: lost with the pod",
    )
    assert "mountPath: /chkpt" in finding.fix


def test_checkpoints_in_memory_warn() -> None:
    finding = asked(case(saved(), kind="tmpfs"), "checkpoint-dir")
    assert said(finding) == ("WARN", "/ckpt/llm is on tmpfs at /ckpt: lost with the pod")


def test_a_mount_with_a_space_in_its_name_is_found() -> None:
    finding = asked(case(saved(path="/data sets/llm")), "checkpoint-dir")
    assert said(finding) == ("PASS", "/data sets/llm can be written (xfs at /data sets)")


@pytest.mark.parametrize("step", ["mkdir", "write", "fsync", "rename_folder", "reserve"])
def test_a_quota_that_is_used_up_fails(step: str) -> None:
    full = case(until(step, "EDQUOT"))
    finding = asked(full, "checkpoint-quota")
    assert said(finding) == (
        "FAIL",
        f"/ckpt/llm: EDQUOT at {step} as uid 1000, with 102400 MiB free on the disk",
    )
    assert first(full) == "checkpoint-quota"


@pytest.mark.parametrize(
    ("facts", "verdict", "evidence"),
    [
        (saved(), "PASS", "4096 MiB can be reserved"),
        (saved(reserve="ENOTSUP"), "SKIP", "more could not be reserved: ENOTSUP"),
        (until("reserve", ""), "SKIP", "more could not be reserved: too slow"),
        ({**until("reserve", ""), "late": None}, "SKIP", "more could not be reserved: not tried"),
    ],
)
def test_a_quota_that_was_not_measured_is_not_said_to_suffice(
    facts: dict[str, Any], verdict: str, evidence: str
) -> None:
    given, found = said(asked(case(facts), "checkpoint-quota"))
    assert (given, evidence in found) == (verdict, True)


@pytest.mark.parametrize(
    ("facts", "verdict", "evidence"),
    [
        (until("write", "ENOSPC", free=0), "FAIL", "0 MiB and 1000000 inodes free"),
        (saved(reserve="ENOSPC"), "FAIL", "102400 MiB and 1000000 inodes free"),
        (saved(free=4095 << 20), "FAIL", "4095 MiB and 1000000 inodes free, a checkpoint has 4096"),
        (saved(free_inodes=0), "FAIL", "102400 MiB and 0 inodes free"),
        (saved(free=8191 << 20), "WARN", "8191 MiB"),
        (saved(free_inodes=999), "WARN", "999 inodes free"),
        (saved(free=8192 << 20), "PASS", "8192 MiB"),
        (saved(free_inodes=0, inodes=0), "PASS", "102400 MiB"),
        (saved(free=0, total=0, free_inodes=0, inodes=0), "SKIP", "does not say how large it is"),
    ],
)
def test_room_for_two_checkpoints_is_wanted(
    facts: dict[str, Any], verdict: str, evidence: str
) -> None:
    finding = asked(case(facts), "checkpoint-space")
    assert finding.verdict.value == verdict
    assert evidence in finding.evidence
    if verdict == "FAIL":
        assert first(case(facts)) == "checkpoint-space"


@pytest.mark.parametrize(
    ("facts", "verdict", "evidence"),
    [
        (saved(fsync="EINVAL"), "FAIL", "fsync of a file: EINVAL (nfs4 at /ckpt)"),
        (saved(fsync_folder="EINVAL"), "FAIL", "fsync of a folder: EINVAL (nfs4 at /ckpt)"),
        (saved(fsync_s=0.75), "WARN", "fsync of 4 MiB took 0.75 s"),
        (until("fsync", ""), "WARN", "fsync of 4 MiB had no end after 0.9 s"),
        (until("fsync", "ENOSPC"), "SKIP", "nothing could be written"),
        (saved(), "PASS", "fsync of 4 MiB took 4 ms"),
    ],
)
def test_fsync_has_to_work_and_soon(facts: dict[str, Any], verdict: str, evidence: str) -> None:
    finding = asked(case(facts), "checkpoint-fsync")
    assert finding.verdict.value == verdict
    assert evidence in finding.evidence


@pytest.mark.parametrize(
    ("facts", "verdict", "evidence"),
    [
        (saved(rename_file="ENOSYS"), "FAIL", "a file cannot be renamed over another: ENOSYS"),
        (saved(rename_folder="ENOSYS"), "WARN", "a folder cannot be renamed: ENOSYS"),
        (until("rename_file", "EDQUOT"), "SKIP", "not tried"),
        (saved(), "PASS", "a file was renamed over another, and a folder"),
    ],
)
def test_rename_has_to_work(facts: dict[str, Any], verdict: str, evidence: str) -> None:
    finding = asked(case(facts), "checkpoint-rename")
    assert finding.verdict.value == verdict
    assert evidence in finding.evidence


def temporary(**changed: str) -> dict[str, Any]:
    return {
        "launcher": "/tmp",
        "launcher_error": "",
        "tempfile": "/tmp",
        "tempfile_error": "",
        **changed,
    }


@pytest.mark.parametrize(
    ("facts", "verdict", "evidence"),
    [
        (temporary(), "PASS", "the launcher has /tmp, tempfile /tmp"),
        (temporary(launcher_error="no folder", launcher=""), "FAIL", "no folder"),
        (temporary(tempfile_error="No usable temporary directory"), "FAIL", "tempfile: No usable"),
        (temporary(launcher="/dev/shm"), "WARN", "neither TMPDIR nor /tmp can be written"),
    ],
)
def test_temporary_files_need_a_place(facts: dict[str, Any], verdict: str, evidence: str) -> None:
    finding = asked(healthy(probes={"tmp": facts}), "tmp")
    assert finding.verdict.value == verdict
    assert evidence in finding.evidence
    assert bool(finding.fix) == (verdict != "PASS")


def test_what_is_compiled_must_be_loaded_from_tmp() -> None:
    noexec = TABLE.format(root="rw", ckpt="rw", kind="nfs4").replace("nosuid", "noexec")
    finding = asked(healthy({MOUNTS: noexec}, {"tmp": temporary()}), "tmp")
    assert finding.verdict.value == "WARN"
    assert "noexec" in finding.evidence


def test_a_log_dir_that_cannot_be_written_fails() -> None:
    facts = {
        "log_dir": {"path": "/logs", "source": "PET_LOG_DIR", "mkdir": "EROFS"},
        "recorder_dir": {"path": "/r", "source": "default", "mkdir": ""},
    }
    finding = asked(healthy(probes={"logs": facts}), "log-dir")
    assert said(finding) == ("FAIL", "--log-dir /logs (PET_LOG_DIR): EROFS")
    assert finding.fix == "--log-dir /tmp/logs, or a volume there"


def test_traces_that_cannot_be_written_warn() -> None:
    facts = {
        "log_dir": {"path": "", "source": ""},
        "recorder_dir": {"path": "/r", "source": "default", "mkdir": "EACCES"},
    }
    finding = asked(healthy(probes={"logs": facts}), "log-dir")
    assert said(finding) == (
        "WARN",
        "RDMATRAIN_RECORDER_DIR /r (default): EACCES, so a hang leaves no trace",
    )
    facts["recorder_dir"]["mkdir"] = ""
    finding = asked(healthy(probes={"logs": facts}), "log-dir")
    assert said(finding) == ("PASS", "RDMATRAIN_RECORDER_DIR /r (default) can be written")


# The probes, on this machine.


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """Makes a function of os or tempfile fail, as another file system does."""

    def make(name: str, number: int) -> None:
        def fail(*_: Any, **__: Any) -> Any:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(name, fail)

    return make


def test_a_save_is_tried_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "IN_MEMORY", set())
    facts = storage.ask_checkpoint(str(tmp_path), 8)
    steps = {step: facts[step] for step in storage_steps()}
    if steps["reserve"] == "ENOTSUP":  # of the disk that tests write to
        steps["reserve"] = ""
    assert steps == dict.fromkeys(storage_steps(), "")
    assert facts["path"] == str(tmp_path)
    assert facts["uid"] == os.geteuid()
    assert facts["total"] >= facts["free"] > 0
    assert facts["fsync_s"] >= 0
    assert isinstance(facts["ahead_s"], float)
    assert "late" not in facts
    assert "parent" not in facts
    assert list(tmp_path.iterdir()) == []


RESERVE = """
import json, os
from pathlib import Path
from rdmatrain.doctor.probes import storage
answers = [storage.ask_checkpoint("{small}", 8)]
storage.IN_MEMORY = set()
answers += [storage.ask_checkpoint("{small}", mib) for mib in (8, 9)]
for folder, mib in (("{small}", 17), ("{none}", 1)):
    try:
        storage._reserve(Path(folder) / "file", mib << 20)
    except OSError as error:
        answers.append({{"reserve": storage.name_of(error)}})
left = os.listdir("{small}") + os.listdir("{none}")
disk = os.statvfs("{small}")
reserved = [each.get("reserve") for each in answers]
print(json.dumps([reserved, left, disk.f_bavail * disk.f_frsize]))
"""


def test_what_can_be_reserved_is_reserved_and_given_back(tmp_path: Path) -> None:
    """On a disk of 16 MiB, and on one that cannot reserve."""
    small, none = tmp_path / "small", tmp_path / "none"
    small.mkdir()
    none.mkdir()
    mounts = f"mount -t tmpfs -o size=16m none {small} && mount -t ramfs none {none}"
    code = RESERVE.format(small=small, none=none)
    command = ["unshare", "--mount", "sh", "-c", f'{mounts} || exit 77; exec "$@"', "sh"]
    try:
        done = subprocess.run(
            [*command, sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("there is no unshare, of util-linux")
    if os.geteuid() or done.returncode == 77:
        pytest.skip("only root may mount")
    reserved, left, free = json.loads(done.stdout or done.stderr)
    # In memory it is not tried, and neither is what would take more than half of what is free.
    assert reserved == [None, "", None, "ENOSPC", "ENOTSUP"]
    assert (left, free) == ([], 16 << 20)


@pytest.mark.parametrize(("rank", "reserves"), [(0, 4096), (None, 4096), (1, 0)])
def test_one_node_reserves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rank: int | None, reserves: int
) -> None:
    monkeypatch.setattr(storage, "meeting_here", lambda _: Meeting(node_rank=rank))
    monkeypatch.setattr(storage, "_Save", lambda _, facts: SimpleNamespace(run=lambda: None))
    needs = Needs(checkpoint_dir=str(tmp_path), checkpoint_mib=4096)
    assert storage.probes(needs)["checkpoint"]()["reserve_mib"] == reserves


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    facts = storage.ask_checkpoint(str(tmp_path / "a/b"))
    assert facts["parent"] == str(tmp_path)
    assert facts["rename_folder"] == ""
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert storage.ask_checkpoint(str(tmp_path / "file"))["stat"] == "ENOTDIR"
    assert storage.ask_checkpoint(str(tmp_path / "file/below"))["stat"] == "ENOTDIR"


def test_a_link_that_leads_nowhere_is_told(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    facts = storage.ask_checkpoint(str(tmp_path / "link"))
    assert facts["stat"] == "ENOENT"
    assert "mkdir" not in facts


def test_no_folder_is_asked_for_where_none_is_given() -> None:
    assert storage.ask_checkpoint("") == {"path": ""}


@pytest.mark.parametrize(
    ("call", "number", "step", "after"),
    [
        ("tempfile.mkdtemp", errno.EROFS, "mkdir", None),
        ("rdmatrain.doctor.probes.storage._write", errno.EDQUOT, "write", None),
        ("rdmatrain.doctor.probes.storage._sync", errno.EINVAL, "fsync_folder", "rename_file"),
        ("pathlib.Path.rename", errno.ENOSYS, "rename_file", None),
    ],
)
def test_a_step_that_fails_is_told(
    tmp_path: Path,
    refused: Callable[[str, int], None],
    call: str,
    number: int,
    step: str,
    after: str | None,
) -> None:
    refused(call, number)
    facts = storage.ask_checkpoint(str(tmp_path))
    assert facts[step] == errno.errorcode[number]
    assert after is None or facts[after] == ""
    assert list(tmp_path.iterdir()) == []


def test_a_small_write_is_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "CHUNK", b"x")
    assert storage.ask_checkpoint(str(tmp_path))["write"] == ""

    class Full:
        def write(self, data: bytes) -> int:
            return len(data) - 1

    with pytest.raises(OSError, match="No space left"):
        storage._write(Full())  # type: ignore[arg-type]


def test_a_step_without_end_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "in_time", lambda seconds, _: f"{LATE} {seconds:g} s")
    assert storage.ask_checkpoint(str(tmp_path))["late"] == "stat"
    assert storage.ask_tmp({}) == storage.ask_logs({}) == {"error": "no answer within 0.9 s"}


def test_a_probe_that_breaks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "in_time", lambda *_: "KeyError: 'x'")
    facts = storage.ask_checkpoint(str(tmp_path))
    assert "late" not in facts
    assert said(asked(case(facts), "checkpoint-dir")) == ("SKIP", "KeyError: 'x'")


def test_the_launchers_folder_is_found(tmp_path: Path) -> None:
    facts = storage.ask_tmp({"XDG_RUNTIME_DIR": str(tmp_path)})
    assert facts["launcher"] == str(tmp_path)
    assert Path(facts["tempfile"]).is_dir()
    assert list(tmp_path.iterdir()) == []


def test_no_place_for_temporary_files_is_told(refused: Callable[[str, int], None]) -> None:
    refused("rdmatrain.launcher.runtime._make", errno.EROFS)
    refused("tempfile.TemporaryFile", errno.ENOENT)
    facts = storage.ask_tmp({})
    assert "Read-only file system" in facts["launcher_error"]
    assert facts["tempfile_error"] == "No such file or directory"


def test_the_folders_of_logs_are_those_of_the_job(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    given = {
        "PET_LOG_DIR": str(tmp_path / "logs"),
        "RDMATRAIN_RECORDER_DIR": str(tmp_path / "file/below"),
    }
    facts = storage.ask_logs(given)
    assert facts["log_dir"] == {"path": given["PET_LOG_DIR"], "source": "PET_LOG_DIR", "mkdir": ""}
    assert facts["recorder_dir"]["source"] == "RDMATRAIN_RECORDER_DIR"
    assert facts["recorder_dir"]["mkdir"] == "ENOTDIR"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_folders_that_nobody_wants_are_not_tried() -> None:
    facts = storage.ask_logs({"PET_LOG_DIR": os.devnull, "RDMATRAIN_RECORDER": "0"})
    assert "mkdir" not in facts["log_dir"]
    assert facts["recorder_dir"]["path"] == ""
    assert "mkdir" not in facts["recorder_dir"]


def test_wrong_settings_are_told() -> None:
    assert "RDMATRAIN_RECORDER" in storage.ask_logs({"RDMATRAIN_RECORDER": "many"})["error"]
