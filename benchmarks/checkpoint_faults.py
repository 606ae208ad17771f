"""Break checkpoints in the same ways, those of torch.distributed.checkpoint and ours.

Flipped bits, processes that are killed within a save, disks that fill; then what whole ones cost.
One process has one rank, so that the difference is the files and nothing else.
"""

import argparse
import logging
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from common import append_records, where

from rdmatrain.train import ShardedCheckpoints
from rdmatrain.train.manifest import read_manifest
from rdmatrain.train.shard import open_shard

FIXED_MS = (5, 15, 30, 50)  # when the notes of torch's behaviour were made
TENSORS = 16
ERRORS = (Exception, dcp.api.CheckpointException)  # torch's is no Exception
State = dict[str, Any]


def state_of(step: int, nbytes: int) -> State:
    count = max(nbytes // 4 // TENSORS, 1)
    tensors = {str(i): torch.full((count,), step + i / 64) for i in range(TENSORS)}
    return {"step": step, "w": tensors}


def is_exact(state: State, nbytes: int) -> bool:
    expected = state_of(state["step"], nbytes)["w"]
    return all(torch.equal(expected[name], tensor) for name, tensor in state["w"].items())


class DcpSameFolder:
    """dcp.save with one checkpoint_id, as its tutorials have it."""

    name = "DCP, one folder"

    def __init__(self, root: Path) -> None:
        self.root = root

    def save(self, step: int, state: State) -> None:
        """Save a step; how, is the contestant's matter."""
        dcp.save(state, checkpoint_id=self.root / "checkpoint")

    def load(self, into: State) -> None:
        """Fill the state from the newest checkpoint."""
        dcp.load(into, checkpoint_id=self.root / "checkpoint")

    def files(self) -> list[Path]:
        """Return the files of the newest checkpoint that have tensors; .metadata is a pickle."""
        return sorted(self.root.glob("*/*.distcp"))


class DcpNewFolders(DcpSameFolder):
    """dcp.save into a folder for each step, by a loop that keeps two and loads the newest."""

    name = "DCP, new folders"

    def finished(self) -> list[Path]:
        """Return the folders that have metadata."""
        return sorted(path.parent for path in self.root.glob("step-*/.metadata"))

    def save(self, step: int, state: State) -> None:
        """Save a step; how, is the contestant's matter."""
        dcp.save(state, checkpoint_id=self.root / f"step-{step:06}")
        for old in self.finished()[:-2]:
            shutil.rmtree(old)

    def load(self, into: State) -> None:
        """Fill the state from the newest checkpoint."""
        dcp.load(into, checkpoint_id=self.finished()[-1])

    def files(self) -> list[Path]:
        """Return the files of the newest checkpoint."""
        return sorted(self.finished()[-1].glob("*.distcp"))


class Ours:
    """rdmatrain.train.ShardedCheckpoints."""

    name = "rdmatrain"

    def __init__(self, root: Path) -> None:
        self.checkpoints, self.root = ShardedCheckpoints(root), root

    def save(self, step: int, state: State) -> None:
        """Save a step; how, is the contestant's matter."""
        self.checkpoints.save(step, state)

    def load(self, into: State) -> None:
        """Fill the state from the newest checkpoint."""
        self.checkpoints.load(into)

    def files(self) -> list[Path]:
        """Return the files of the newest checkpoint."""
        return sorted(sorted(self.root.iterdir())[-1].iterdir())


CONTESTANTS = (DcpSameFolder, DcpNewFolders, Ours)


def outcome(contestant: Any, nbytes: int) -> str:
    """Load, and say what that gave."""
    state = state_of(0, nbytes)
    try:
        contestant.load(state)
    except ERRORS:
        return "nothing loads"
    return f"step {state['step']}" if is_exact(state, nbytes) else "wrong data, silently"


def flips(kind: Any, folder: Path, count: int, nbytes: int) -> Counter[str]:
    """Flip single bits of the newest of two checkpoints, one at a time."""
    contestant, pick = kind(folder), random.Random(1)
    for step in (1, 2):
        contestant.save(step, state_of(step, nbytes))
    files = contestant.files()
    sizes = [path.stat().st_size for path in files]
    found: Counter[str] = Counter()
    for _ in range(count):
        (path,) = pick.choices(files, sizes)
        at, bit = pick.randrange(path.stat().st_size), 1 << pick.randrange(8)
        with path.open("r+b", buffering=0) as file:
            for restore in (False, True):
                byte = os.pread(file.fileno(), 1, at)[0]
                os.pwrite(file.fileno(), bytes([byte ^ bit]), at)
                if not restore:
                    found[outcome(contestant, nbytes)] += 1
    if outcome(contestant, nbytes) != "step 2":
        raise RuntimeError(f"{contestant.name}: flipped back, and not as before")
    return found


def killed(contestant: Any, delay_s: float, step: int, nbytes: int) -> None:
    """Save in a child, and kill it so long after it began."""
    began, begin = os.pipe()
    pid = os.fork()
    if pid == 0:
        state = state_of(step, nbytes)
        os.write(begin, b"!")
        contestant.save(step, state)
        os._exit(0)
    os.read(began, 1)
    time.sleep(delay_s)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(began)
    os.close(begin)


def kills(kind: Any, folder: Path, points: int, nbytes: int) -> Counter[str]:
    """Kill saves at the fixed points and at random ones within the time that a save takes."""
    pick, found = random.Random(2), Counter[str]()
    contestant = kind(folder / "time")
    begin = time.perf_counter()
    contestant.save(1, state_of(1, nbytes))
    takes = time.perf_counter() - begin
    delays = [ms / 1e3 for ms in FIXED_MS] + [pick.uniform(0, takes) for _ in range(points)]
    for index, delay in enumerate(delays):
        contestant = kind(folder / str(index))
        contestant.save(1, state_of(1, nbytes))
        killed(contestant, delay, 2, nbytes)
        found[outcome(kind(folder / str(index)), nbytes)] += 1
        shutil.rmtree(folder / str(index))
    return found


@contextmanager
def small_disk(folder: Path, nbytes: int) -> Iterator[Path]:
    """Mount memory of that size as a disk, which needs root."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={nbytes}", "tmpfs", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def full_disk(kind: Any, folder: Path, _: int, nbytes: int) -> Counter[str]:
    """Save, and then twice as much, as when the optimizer has a state; a half would fit."""
    if os.geteuid() != 0:
        return Counter(["skipped: mounting a small disk needs root"])
    with small_disk(folder, nbytes * 3 // 2) as disk:
        contestant = kind(disk)
        contestant.save(1, state_of(1, nbytes))
        begin = time.perf_counter()
        try:
            contestant.save(2, state_of(2, 2 * nbytes))
            told = "no error"
        except ERRORS as error:
            told = f"error after {time.perf_counter() - begin:.1f} s"
            told += ", names errno" if "errno 28" in str(error).lower() else ""
        return Counter([f"{told}; then {outcome(kind(disk), nbytes)}"])


def cost(folder: Path, rounds: int, nbytes: int) -> dict[str, dict[str, float]]:
    """Time whole saves and loads, in turns, and what our checksums take of them."""
    times: dict[str, dict[str, list[float]]] = {}

    def timed(name: str, what: str, call: Callable[[], object]) -> None:
        begin = time.perf_counter()
        call()
        times.setdefault(name, {}).setdefault(what, []).append(time.perf_counter() - begin)

    for kind in CONTESTANTS:
        (folder / kind.name).mkdir(parents=True)
    contestants = [kind(folder / kind.name) for kind in CONTESTANTS]
    state, into = state_of(1, nbytes), state_of(0, nbytes)
    for step in range(rounds):
        for contestant in contestants:
            os.sync()
            timed(contestant.name, "save_s", partial(contestant.save, step, state))
            timed(contestant.name, "load_s", partial(contestant.load, into))
        timed("rdmatrain", "check_s", partial(check_newest, folder / "rdmatrain"))
    return {
        name: {what: statistics.median(values) for what, values in kinds.items()}
        for name, kinds in times.items()
    }


def check_newest(root: Path) -> None:
    folder = sorted(root.iterdir())[-1]
    manifest = read_manifest(folder, int(folder.name.removeprefix("generation-")))
    open_shard(folder, manifest.shards[0]).close()


FAULTS: tuple[tuple[str, Callable[..., Counter[str]]], ...] = (
    ("one flipped bit", flips),
    ("kill -9 in a save", kills),
    ("disk full", full_disk),
)


def measure(args: argparse.Namespace, folder: Path) -> list[dict[str, object]]:
    """Run all, print the tables, and return the records."""
    records: list[dict[str, object]] = []
    settings = {"flips": (args.flips, 1 << 12), "kills": (args.kills, args.fault_mib << 20)}
    settings["full_disk"] = (0, args.fault_mib << 20)
    for fault, run in FAULTS:
        count, nbytes = settings[run.__name__]
        for kind in CONTESTANTS:
            (place := folder / run.__name__ / kind.name).parent.mkdir(exist_ok=True)
            found = run(kind, place, count, nbytes)
            text = "; ".join(f"{times} x {what}" for what, times in found.most_common())
            print(f"{fault:<18} {kind.name:<18} {text}", flush=True)
            records.append({"fault": fault, "contestant": kind.name, "found": dict(found)})
        shutil.rmtree(folder / run.__name__)
    print(f"\n{args.mib} MiB{'save [s]':>21} {'load [s]':>9}")
    for name, times in cost(folder / "cost", args.rounds, args.mib << 20).items():
        print(f"{name:<18} {times['save_s']:>9.3f} {times['load_s']:>9.3f}", flush=True)
        records.append({"cost_of_mib": args.mib, "contestant": name, **times})
    print(f"checksum of the whole file: {times['check_s']:.3f} s, part of each save and load")
    return records


def main() -> None:
    """Parse the command line, and measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--flips", type=int, default=10_000, help="single bits, of a small state")
    parser.add_argument("--kills", type=int, default=20, help="random points besides the fixed")
    parser.add_argument("--fault-mib", type=int, default=32, help="state that is killed or full")
    parser.add_argument("--mib", type=int, default=256, help="state whose cost is measured")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to save (default: a temporary folder)")
    parser.add_argument("--json", type=Path, help="append records to this file")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # of one process, of a folder that exists, of broken pickles
    torch.set_num_threads(1)  # children are forked
    logging.disable(logging.WARNING)  # each damage is one
    with tempfile.TemporaryDirectory(prefix="rdmatrain-bench-", dir=args.folder) as folder:
        records = measure(args, Path(folder))
    if args.json:
        common = {**where(), "argv": " ".join(sys.argv)}
        append_records(args.json, [{**record, **common} for record in records])


if __name__ == "__main__":
    main()
