"""Where the job writes: checkpoints, temporary files, logs."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from rdmatrain.doctor.checks.reading import number, section
from rdmatrain.doctor.define import check
from rdmatrain.doctor.model import Case, Finding, failed, gravest, passed, skipped, warned
from rdmatrain.launcher.exit_codes import NOT_PERMITTED

GROUP = "storage"
NOT_ASKED = "nobody looked"
MOUNTS = "/proc/self/mountinfo"
# Steps of the probe, in their order.
STEPS = (
    "stat", "mkdir", "write", "fsync", "fsync_folder", "rename_file", "rename_folder", "reserve",
)  # fmt: skip
# These have checks of their own.
_FULL = {"ENOSPC", "EDQUOT"}
# What is in them is lost with the pod.
_PASSING = {"overlay", "tmpfs", "ramfs", "aufs"}
MAX_FSYNC_S = 0.5
MIN_INODES = 1000


class Mount(NamedTuple):
    """What is mounted at a place.

    Attributes:
        place: where.
        kind: type of file system; empty if it is not known.
        read_only: it cannot be written through this mount.

    """

    place: str = ""
    kind: str = ""
    read_only: bool = False

    def __str__(self) -> str:
        return f"{self.kind} at {self.place}{', read-only' if self.read_only else ''}"


@check(
    "checkpoint-dir",
    GROUP,
    title="the folder for checkpoints is there, or can be made, and can be written as this user",
    exit_code=NOT_PERMITTED,
)
def checkpoint_dir(case: Case) -> Finding:
    """Hours of training are lost where the first save fails, for want of a right or a mount."""
    facts, why_not = _checkpoint(case)
    if why_not:
        return skipped(why_not)
    path, mount = facts["path"], mount_of(case, str(facts.get("parent") or facts["path"]))
    step, name = _first_problem(facts, ("stat", "mkdir", "write"))
    if name in _FULL:
        return skipped(f"{path} is full ({name}): see checkpoint-space and checkpoint-quota")
    if name:
        return failed(f"{path}: {name} at {step} {_whose(facts, mount)}", _fix_of(facts, name))
    if facts.get("late") in {"stat", "mkdir"}:
        # A disk of many may be slow for a moment.
        text = f"{path} did not answer within 0.9 s ({mount})"
        return warned(text, f"timeout 5 stat {path}, on the node")
    parent = facts.get("parent")
    made = f" is not there, and will be made in {parent}, which" if parent else ""
    if mount.kind in _PASSING:
        return warned(f"{path}{made} is on {mount}: lost with the pod", _volume(path))
    return passed(f"{path}{made} can be written ({mount if mount.kind else 'mount unknown'})")


@check(
    "checkpoint-quota",
    GROUP,
    title="no quota keeps this user from writing a checkpoint",
    known="mmdetection#12069: errno 122 at a save, with space left",
    after="checkpoint-dir",
    exit_code=NOT_PERMITTED,
)
def checkpoint_quota(case: Case) -> Finding:
    """Quotas of users, groups or projects can be used up on a disk that looks empty.

    Node 0 reserves the size of a checkpoint for a moment, where the file system can do that.
    """
    facts, why_not = _checkpoint(case)
    if why_not:
        return skipped(why_not)
    step = next((each for each in STEPS if facts.get(each) == "EDQUOT"), "")
    if step:
        return failed(
            f"{facts['path']}: EDQUOT at {step} as uid {facts.get('uid')}, with "
            f"{_mib(facts, 'free')} MiB free on the disk",
            f"quota -s; then remove old checkpoints: du -sh {facts['path']}/*",
        )
    if facts.get("write") != "":
        return skipped(f"nothing could be written to {facts['path']}")
    if facts.get("reserve") == "":
        return passed(f"{facts['path']}: {int(number(facts, 'reserve_mib'))} MiB can be reserved")
    why = str(
        facts.get("reserve") or ("too slow" if facts.get("late") == "reserve" else "not tried")
    )
    return skipped(f"{facts['path']}: 4 MiB were written; more could not be reserved: {why}")


@check(
    "checkpoint-space",
    GROUP,
    title="there is room for a checkpoint, beside the one before it",
    after="checkpoint-dir checkpoint-quota",
)
def checkpoint_space(case: Case) -> Finding:
    """Old checkpoints go when the new one is whole, so there must be room for both."""
    facts, why_not = _checkpoint(case)
    if why_not:
        return skipped(why_not)
    path, needed, free = facts["path"], case.needs.checkpoint_mib, _mib(facts, "free")
    inodes, has_inodes = int(number(facts, "free_inodes")), int(number(facts, "inodes")) != 0
    room = f"{path}: {free} MiB and {inodes} inodes free, a checkpoint has {needed} MiB"
    clean = f"du -sh {path}/*, and remove old checkpoints; or a larger volume"
    if _has_no_space(facts) or (has_inodes and not inodes):
        return failed(f"{room}: ENOSPC", clean)
    if not number(facts, "total"):
        return skipped(f"{path}: its file system does not say how large it is")
    if free < needed:
        return failed(room, clean)
    if free < 2 * needed or (has_inodes and inodes < MIN_INODES):
        return warned(room, clean)
    return passed(room)


@check(
    "checkpoint-fsync",
    GROUP,
    title="files and folders of checkpoints can be made durable, and soon",
    after="checkpoint-dir checkpoint-quota checkpoint-space",
)
def checkpoint_fsync(case: Case) -> Finding:
    """Without fsync, what was written is lost with the node, however long ago that was."""
    facts, why_not = _checkpoint(case)
    if why_not:
        return skipped(why_not)
    path = facts["path"]
    step, name = _first_problem(facts, ("fsync", "fsync_folder"))
    if name and name not in _FULL:
        what = "a folder" if step == "fsync_folder" else "a file"
        mount = mount_of(case, str(facts.get("parent") or path))
        return failed(f"{path}: fsync of {what}: {name} ({mount})", _volume(path))
    slow = f"{path}: fsync of 4 MiB"
    fix = f"fio --name=sync --directory={path} --rw=write --bs=4M --size=64M --fsync=1"
    if facts.get("late") in {"write", "fsync", "fsync_folder"}:
        return warned(f"{slow} had no end after 0.9 s", fix)
    if "fsync_s" not in facts or name:
        return skipped(f"nothing could be written to {path}")
    seconds = number(facts, "fsync_s")
    if seconds > MAX_FSYNC_S:
        return warned(f"{slow} took {seconds:.2f} s", fix)
    return passed(f"{slow} took {1000 * seconds:.0f} ms")


@check(
    "checkpoint-rename",
    GROUP,
    title="files and folders of checkpoints can be renamed, over old files too",
    known="gcsfuse#324: folders cannot be renamed",
    after="checkpoint-dir checkpoint-quota checkpoint-space",
)
def checkpoint_rename(case: Case) -> Finding:
    """Checkpoints get their name when they are whole: where that takes a copy, a crash leaves half.

    Some file systems of object stores cannot rename at all.
    """
    facts, why_not = _checkpoint(case)
    if why_not:
        return skipped(why_not)
    path = facts["path"]
    mount = mount_of(case, str(facts.get("parent") or path))
    step, name = _first_problem(facts, ("rename_file", "rename_folder"))
    if name and name not in _FULL:
        if step == "rename_folder":
            what = f"{path}: a folder cannot be renamed: {name} ({mount})"
            return warned(what, _volume(path))
        what = f"{path}: a file cannot be renamed over another: {name} ({mount})"
        return failed(what, _volume(path))
    if facts.get("rename_file") != "" or facts.get("rename_folder") != "":
        return skipped(f"{path}: not tried")
    return passed(f"{path}: a file was renamed over another, and a folder")


@check(
    "tmp",
    GROUP,
    title="the launcher and Python have a folder for temporary files",
    known="open-r1#488: no usable temporary directory, and torch cannot be imported; "
    "pytorch#91005: /tmp is noexec, and torch.compile fails",
    exit_code=NOT_PERMITTED,
)
def tmp(case: Case) -> Finding:
    """With a read-only root, TMPDIR or /tmp must be a volume: torch itself needs one."""
    facts = case.probe("tmp")
    if facts is None or facts.get("error"):
        return skipped(str(facts["error"]) if facts else NOT_ASKED)
    volume = "volumes: [{name: tmp, emptyDir: {}}], volumeMounts: [{name: tmp, mountPath: /tmp}]"
    if facts.get("launcher_error"):
        return failed(str(facts["launcher_error"]), volume)
    if facts.get("tempfile_error"):
        return failed(f"tempfile: {facts['tempfile_error']}", volume)
    launcher, place = str(facts.get("launcher") or ""), str(facts.get("tempfile") or "")
    return _judge_tmp(case, launcher, place, volume)


@check(
    "log-dir",
    GROUP,
    title="the folders for logs and traces can be written",
    after="tmp",
    exit_code=NOT_PERMITTED,
)
def log_dir(case: Case) -> Finding:
    """Without a --log-dir that it can write, the launcher refuses to start.

    Without a folder for traces, a hang leaves none.
    """
    facts = case.probe("logs")
    if facts is None or facts.get("error"):
        return skipped(str(facts["error"]) if facts else NOT_ASKED)
    return gravest(_judge_logs(facts), "there are none: no --log-dir, and no recorder")


def mount_of(case: Case, path: str) -> Mount:
    """Return what is mounted at a path, or at the nearest place above it."""
    best = Mount()
    for place, options, kind in _mounts(case):
        above = place.rstrip("/") + "/"
        # Of two at one place, the later one hides the other.
        if f"{path}/".startswith(above) and len(place) >= len(best.place):
            best = Mount(place, kind, "ro" in options.split(","))
    return best


def _mounts(case: Case) -> Iterator[tuple[str, str, str]]:
    """Yield place, options and type of all mounts."""
    for line in (case.source.text(MOUNTS) or "").splitlines():
        left, _, right = line.partition(" - ")
        fields, kinds = left.split(), right.split()
        if len(fields) > 5 and kinds:
            place = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4])
            yield place, fields[5], kinds[0]


def _options(case: Case, path: str) -> list[str]:
    place = mount_of(case, path).place
    return [
        option
        for each, options, _ in _mounts(case)
        if each == place
        for option in options.split(",")
    ]


def _checkpoint(case: Case) -> tuple[Mapping[str, Any], str]:
    """Return what the probe found, or why there is nothing."""
    facts = case.probe("checkpoint")
    if facts is None:
        return {}, NOT_ASKED
    if not isinstance(facts.get("path"), str) or not facts["path"]:
        return {}, "no folder for checkpoints is given"
    if facts.get("error"):
        return {}, str(facts["error"])
    return facts, ""


def _first_problem(facts: Mapping[str, Any], steps: tuple[str, ...]) -> tuple[str, str]:
    found = ((step, str(facts[step])) for step in steps if facts.get(step))
    return next(found, ("", ""))


def _has_no_space(facts: Mapping[str, Any]) -> bool:
    return any(facts.get(step) == "ENOSPC" for step in STEPS)


def _whose(facts: Mapping[str, Any], mount: Mount) -> str:
    where = f" in {facts['parent']}" if facts.get("parent") else ""
    owner = f"{facts.get('owner')}:{facts.get('group')}, mode {int(number(facts, 'mode')):o}"
    user = f"uid {facts.get('uid')}, gid {facts.get('gid')}"
    return f"as {user}{where} (of {owner}{f'; {mount}' if mount.kind else ''})"


def _fix_of(facts: Mapping[str, Any], name: str) -> str:
    if name == "EROFS":
        return f"volumeMounts: [{{mountPath: {facts['path']}, readOnly: false}}]"
    if name in {"EACCES", "EPERM"}:
        gid = facts.get("gid") or 1000
        return f"spec: {{securityContext: {{fsGroup: {gid}}}}}, or chown of the volume"
    return f"ls -ld {facts['path']}"


def _volume(path: str) -> str:
    return f"volumeMounts: [{{name: checkpoints, mountPath: {path}}}], a PersistentVolumeClaim"


def _mib(facts: Mapping[str, Any], name: str) -> int:
    return int(number(facts, name)) >> 20


def _judge_tmp(case: Case, launcher: str, place: str, volume: str) -> Finding:
    if not launcher or not place:
        return skipped(NOT_ASKED)
    shown = f"the launcher has {launcher}, tempfile {place}"
    if launcher == "/dev/shm":
        return warned(f"{shown}: neither TMPDIR nor /tmp can be written", volume)
    if "noexec" in _options(case, place):
        return warned(f"{shown}, which is noexec: torch.compile cannot load what it makes", volume)
    return passed(shown)


def _judge_logs(facts: Mapping[str, Any]) -> Iterator[Finding]:
    for name, option in (("log_dir", "--log-dir"), ("recorder_dir", "RDMATRAIN_RECORDER_DIR")):
        each = section(facts, name)
        path, problem = each.get("path"), each.get("mkdir")
        if not path or problem is None:
            continue
        shown = f"{option} {path} ({each.get('source')})"
        fix = f"{option}{'=' if option.isupper() else ' '}/tmp/logs, or a volume there"
        if not problem:
            yield passed(f"{shown} can be written")
        elif name == "log_dir":
            yield failed(f"{shown}: {problem}", fix)
        else:
            yield warned(f"{shown}: {problem}, so a hang leaves no trace", fix)
