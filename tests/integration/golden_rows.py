# SPDX-License-Identifier: Apache-2.0
"""Command lines for torchrun, and what the workers see that a launcher starts with them.

``golden_torchrun.json`` has what those of torchrun saw; ``make_golden_torchrun.py`` wrote it.
"""

import ast
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rdmatrain

PACKAGE = str(Path(rdmatrain.__file__).parents[1])
TABLE = Path(__file__).with_name("golden_torchrun.json")
TIMEOUT_S = 60.0
# What a worker may see in another way, and why. All else is as torchrun has it, except that a job
# within another one needs --standalone: RANK and its like say where a task of mpirun is, too.
MAY_DIFFER = {
    "MASTER_ADDR": "this node's door to the store, on loopback",
    "MASTER_PORT": "likewise; with one node and --master-port torchrun's rank 0 would listen there",
    "OMP_NUM_THREADS": "where it was not set: a share of the CPUs that are paid for, not 1",
    "PYTHONUNBUFFERED": "is set for the worker's own children too, where torchrun only has -u",
    "TORCHELASTIC_ERROR_FILE": "is in the launcher's own folder, and there without logs too",
    "TORCHELASTIC_RUN_ID": "where it was not given, a job of one node has one of its own, not none",
    "RDMATRAIN_*, NCCL_*, UCX_*, FI_*": "what discovery found for the rank",
}
_OURS = re.compile(r"RDMATRAIN_|NCCL_|UCX_|FI_|PYTHONUNBUFFERED$|OMP_NUM_THREADS$")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

# Imports only what the interpreter has loaded anyway.
WORKER = """\
import os, sys
seen = {"argv": sys.argv, "env": dict(os.environ)}
with open(os.path.join(os.environ["DUMP_TO"], os.environ["RANK"]), "x") as file:
    file.write(repr(seen))
"""


@dataclass(frozen=True)
class Row:
    """A job.

    Attributes:
        name: of the row.
        args: options, program and its arguments; ``{script}``, ``{module}``, ``{python}``,
            ``{folder}``, ``{port}``, ``{node}`` (0, 1) and ``{next}`` (1, 2) are replaced.
        env: variables of the launcher, replaced likewise.
        nodes: launchers to start, all on this host.
        cpus: how many CPUs the launcher may use; 0 for all.

    """

    name: str
    args: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    nodes: int = 1
    cpus: int = 0


Seen = list[dict[str, Any]]


def read_table() -> dict[str, tuple[Row, Seen]]:
    """Return the rows by name, each with what torchrun's workers saw, by rank."""
    found = {}
    for saved in json.loads(TABLE.read_text("utf-8"))["rows"]:
        common, workers = saved.pop("all"), saved.pop("workers")
        row = Row(**saved)
        seen = [{"argv": each.pop("argv"), "env": common | each} for each in workers]
        found[row.name] = (row, seen)
    return found


def run_row(launcher: Sequence[str], row: Row, folder: Path, extra: Mapping[str, str]) -> Seen:
    """Start a row's job and return what its workers saw, by rank, normalised.

    Args:
        launcher: the command that the row's arguments are for.
        row: what to start.
        folder: an empty one.
        extra: variables that the launcher needs besides.

    Raises:
        AssertionError: a launcher failed; has what it wrote.

    """
    names = _files(folder)
    base = _base(folder) | extra
    started = []
    for node in range(row.nodes):
        here = names | {"node": str(node), "next": str(node + 1)}
        env = base | {name: _filled(text, here) for name, text in row.env.items()}
        args = [_filled(text, here) for text in row.args]
        started.append(_start([*launcher, *args], folder, env, row.cpus))
    try:
        for popen in started:
            _, err = popen.communicate(timeout=TIMEOUT_S)
            assert popen.returncode == 0, f"{row.name}: exit code {popen.returncode}\n{err}"
    finally:
        for popen in started:
            if popen.poll() is None:
                os.killpg(popen.pid, signal.SIGKILL)
            with popen:  # closes its pipe
                pass
    dumps = sorted((folder / "seen").iterdir(), key=lambda path: int(path.name))
    given = base | {name: _filled(text, names) for name, text in row.env.items()}
    return [_normal(path, given, names) for path in dumps]


def differences(theirs: Seen, ours: Seen, row: Row) -> list[str]:
    """Return what the workers see in another way than torchrun's, and should not."""
    if len(theirs) != len(ours):
        return [f"{len(ours)} workers, not {len(theirs)}"]
    found = []
    for rank, (their, our) in enumerate(zip(theirs, ours, strict=True)):
        if our["argv"] != their["argv"]:
            found.append(f"rank {rank}: argv {our['argv']}, not {their['argv']}")
        for name in sorted({*their["env"], *our["env"]}):
            pair = their["env"].get(name), our["env"].get(name)
            if not _agree(name, *pair, row):
                found.append(f"rank {rank}: {name} is {pair[1]!r}, not {pair[0]!r}")
    return found


def _agree(name: str, theirs: str | None, ours: str | None, row: Row) -> bool:
    if theirs == ours:
        return True
    if name == "TORCHELASTIC_RUN_ID":
        own = row.nodes == 1 and (theirs, ours) == ("none", "<uuid>")
        return own or (theirs == "<uuid>" and bool(ours))
    if name == "MASTER_ADDR":
        return ours == "127.0.0.1"
    if name == "TORCHELASTIC_ERROR_FILE":
        return ours == "<file>"
    if name in row.env or ours is None:
        return False
    return bool(_OURS.match(name)) and (theirs is None or name == "OMP_NUM_THREADS")


def _files(folder: Path) -> dict[str, str]:
    """Put the worker there as script and module; return what the names in a row stand for."""
    for name in ("seen", "tmp", "bin"):
        (folder / name).mkdir()
    for name in ("worker.py", "golden_worker.py"):
        (folder / name).write_text(WORKER, "utf-8")
    with socket.socket() as probe:  # torch's store listens on every address
        probe.bind(("0.0.0.0", 0))
        port = str(probe.getsockname()[1])
    return {
        "script": str(folder / "worker.py"),
        "module": "golden_worker",
        "python": sys.executable,
        "folder": str(folder),
        "port": port,
    }


def _base(folder: Path) -> dict[str, str]:
    """Return an environment that holds nothing of the one that tests run in."""
    return {
        "PATH": os.defpath,
        "HOME": str(folder),
        "TMPDIR": str(folder / "tmp"),
        "LC_ALL": "C.UTF-8",  # else the interpreter sets LC_CTYPE
        "PYTHONPATH": os.pathsep.join([str(folder), PACKAGE]),
        "DUMP_TO": str(folder / "seen"),
        "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
    }


def _filled(text: str, names: Mapping[str, str]) -> str:
    for name, value in names.items():
        text = text.replace("{" + name + "}", value)
    return text


def _start(
    command: Sequence[str], folder: Path, env: Mapping[str, str], cpus: int
) -> "subprocess.Popen[str]":
    allowed = ",".join(map(str, sorted(os.sched_getaffinity(0))[:cpus]))
    taskset = [shutil.which("taskset") or "taskset", "--cpu-list", allowed] if cpus else []
    return subprocess.Popen(
        [*taskset, *command],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _normal(path: Path, given: Mapping[str, str], names: Mapping[str, str]) -> dict[str, Any]:
    """Return what a worker saw: its arguments, and what its environment has that was not given."""
    seen = ast.literal_eval(path.read_text("utf-8"))
    env = {}
    for name, value in seen["env"].items():
        if given.get(name) != value:
            env[name] = _placeholder(name, value, names)
    env |= dict.fromkeys(given.keys() - seen["env"].keys())
    return {"argv": [_named(text, names) for text in seen["argv"]], "env": env}


def _placeholder(name: str, value: str, names: Mapping[str, str]) -> str:
    """Return a value without what differs from run to run."""
    if name == "MASTER_PORT" and value.isdecimal():
        return "<port>"
    if name == "MASTER_ADDR" and value in {socket.gethostname(), socket.getfqdn()}:
        return "<host>"
    if name == "TORCHELASTIC_ERROR_FILE" and value.startswith("/"):
        return "<file>"
    return "<uuid>" if _UUID.fullmatch(value) else _named(value, names)


def _named(text: str, names: Mapping[str, str]) -> str:
    for name in ("script", "folder", "python", "port"):
        text = text.replace(names[name], "{" + name + "}")
    return text
