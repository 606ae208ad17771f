# SPDX-License-Identifier: Apache-2.0
"""Folders that no checkpoint can be written to."""

from typing import Any

from doctor_faults.fault import Fault, saved
from doctor_faults.sandbox import LONE, live
from rdmatrain.doctor.checks.storage import STEPS
from rdmatrain.doctor.model import Needs

WRITES = LONE.but(
    shell='mkdir "$HERE/checkpoints"; chmod 777 "$HERE/checkpoints"',
    options=("--checkpoint-dir", "{here}/checkpoints"),
)
TMPFS = 'mount -t tmpfs -o {},mode=777 none "$HERE/checkpoints"'


def checkpoints(name: str, cause: str, shell: str, **changed: Any) -> Fault:
    return live(name, cause, WRITES, shell=shell, **changed)


def saved_checkpoint(name: str, cause: str, **changed: Any) -> Fault:
    """A save that went well on a large disk, but for what is changed."""
    steps = dict.fromkeys(STEPS, "")
    space = {"free": 1 << 40, "total": 1 << 42, "free_inodes": 10**8, "inodes": 10**9}
    owner = {"uid": 1000, "gid": 1000, "owner": 1000, "group": 1000, "mode": 0o755}
    facts = {"path": "/saves", "fsync_s": 0.01, **owner, **space, **steps, **changed}
    return saved(
        name,
        cause,
        probes={"checkpoint": facts, "clock": {"error": ""}},
        needs=Needs(checkpoint_dir=facts["path"]),
    )


FAULTS = [
    checkpoints(
        "a folder that cannot be made",
        "checkpoint-dir",
        f"{TMPFS.format('size=4g,ro')}",
        options=("--checkpoint-dir", "{here}/checkpoints/run/7"),
    ),
    checkpoints(
        "a file in place of the folder",
        "checkpoint-dir",
        'rmdir "$HERE/checkpoints"; touch "$HERE/checkpoints"',
    ),
    checkpoints("a read-only volume for checkpoints", "checkpoint-dir", TMPFS.format("size=4g,ro")),
    checkpoints(
        "a folder of root for another user",
        "checkpoint-dir",
        'chmod 755 "$HERE/checkpoints"',
        user=1000,
    ),
    checkpoints(
        "a folder above that may not be entered",
        "checkpoint-dir",
        'mount -t tmpfs -o mode=700 none "$HERE"; mkdir "$HERE/checkpoints"; '
        'chmod 777 "$HERE/checkpoints"',
        user=1000,
    ),
    checkpoints("a small volume for checkpoints", "checkpoint-space", TMPFS.format("size=100m")),
    checkpoints(
        "a full volume for checkpoints",
        "checkpoint-space",
        TMPFS.format("size=2g") + '; fallocate -l 2047m "$HERE/checkpoints/old"',
    ),
    checkpoints(
        "no inodes for checkpoints", "checkpoint-space", TMPFS.format("size=4g,nr_inodes=1")
    ),
    live("no folder for temporary files", "tmp", shell="mount -o remount,bind,ro /"),
    live(
        "logs where nothing can be written",
        "log-dir",
        shell='mkdir "$HERE/logs"; mount -t tmpfs -o ro none "$HERE/logs"',
        env={"PET_LOG_DIR": "{here}/logs"},
    ),
    saved_checkpoint("a quota that is used up", "checkpoint-quota", write="EDQUOT"),
    checkpoints(
        "a quota that leaves less than a checkpoint",
        "checkpoint-quota",
        "",
        refuse=("fallocate", "EDQUOT"),
    ),
    saved_checkpoint(
        "a bucket in which no folder is renamed", "checkpoint-rename", rename_folder="ENOSYS"
    ),
    saved_checkpoint("a disk that takes seconds to write 4 MiB", "checkpoint-fsync", fsync_s=3.25),
    saved_checkpoint("a clock of 90 s behind the file server's", "clock", ahead_s=90.0),
]
