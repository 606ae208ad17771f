# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of two real ranks over rdmatrain: damage, full disks, kill -9, resumed training."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration_jobs import (
    MARKER,
    RUN,
    Ended,
    finish,
    nothing_left_behind,
    processes_with,
    run,
    start,
    write_worker,
)

TRAIN = Path(__file__).parents[2] / "launch" / "train_gpt.py"
SMALL = ["--steps=60", "--layers=1", "--heads=2", "--width=32", "--seq-len=32", "--log-every=30"]

GROUP = """
from pathlib import Path
from rdmatrain.train import Checkpoints
dist.init_process_group("rdmatrain", timeout=timedelta(seconds=30))
checkpoints = Checkpoints(sys.argv[1])
def state_of(step, size=1000):
    return {"weights": torch.full((size,), 10.0 * step + RANK), "step": step}
def note_loaded():
    found = checkpoints.load()
    if found is not None:
        whole = torch.equal(found.state["weights"], state_of(found.step)["weights"])
        note(loaded=found.step, whole=whole)
    return found
"""


def expect_loaded(job: Ended, step: int) -> None:
    for rank in (0, 1):
        assert job.of(rank)["loaded"] == step, job.out
        assert job.of(rank)["whole"], job.out


def test_damage_that_one_rank_meets_sends_all_to_the_generation_before(tmp_path: Path) -> None:
    body = """
for step in (1, 2):
    folder = checkpoints.save(step, state_of(step))
if RANK == 0:
    path = folder / "rank-00001.pt"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
dist.barrier()
note_loaded()
dist.destroy_process_group()
"""
    job = run(write_worker(tmp_path, GROUP + body), str(tmp_path / "checkpoints"))
    assert job.code == 0, job.out
    expect_loaded(job, 1)
    assert job.out.count("is passed over: rank 1: ") == 1
    assert "rank-00001.pt: its checksum does not match" in job.out


# Rank and call at which a process is killed.
KILLS = [
    (0, "mkdir"),
    (1, "fsync"),  # its shard is written, and has no name yet
    (0, "manifest.json.tmp"),  # all shards are whole
    (0, "rmtree"),  # the new generation is whole, an old one half removed
]


def test_kill_9_within_a_save_costs_no_more_than_that_save(tmp_path: Path) -> None:
    body = """
import shutil
rank, name = int(sys.argv[2]), sys.argv[3]
def deadly(real, wanted=lambda *_: True):
    def call(*args, **kwargs):
        if wanted(*args):
            os.kill(os.getpid(), 9)
        return real(*args, **kwargs)
    return call
found = note_loaded()
step = found.step if found else 0
for _ in range(1 if step else 2):  # so that there is always one to remove
    step += 1
    checkpoints.save(step, state_of(step))
if RANK == rank:
    if name == "mkdir": Path.mkdir = deadly(Path.mkdir)
    if name == "fsync": os.fsync = deadly(os.fsync)
    if name.startswith("manifest"):
        Path.rename = deadly(Path.rename, lambda path, _: path.name == name)
    if name == "rmtree": shutil.rmtree = deadly(shutil.rmtree)
note(saving=True)
checkpoints.save(step + 1, state_of(step + 1))
note(survived=True)
"""
    worker, folder = write_worker(tmp_path, GROUP + body), str(tmp_path / "checkpoints")
    expected = 0
    for rank, name in KILLS:
        job = run(worker, folder, str(rank), name)
        assert job.code != 0, job.out
        assert job.of(rank)["saving"], job.out
        assert "survived" not in job.of(rank), job.out
        if expected:
            expect_loaded(job, expected)
        # Two saves went well in the first job and one in each later one; the one that was killed
        # counts only if its manifest was there.
        expected += (1 if expected else 2) + (name == "rmtree")
    check = write_worker(tmp_path, GROUP + "note_loaded()\ndist.destroy_process_group()\n")
    job = run(check, folder)
    assert job.code == 0, job.out
    expect_loaded(job, expected)


@contextlib.contextmanager
def mounted(folder: Path, *what: str) -> Iterator[Path]:
    """Mount something that is to be small, which takes root."""
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root and mount")
    folder.mkdir()
    done = subprocess.run(["mount", *what, folder], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"mount is refused: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=7m,nr_inodes=40", "tmpfs") as disk:
        yield disk


@pytest.fixture
def quota(tmp_path: Path) -> Iterator[Path]:
    """A disk that has room, but a quota of 7 MiB: of btrfs, from which root is not exempt."""
    if shutil.which("mkfs.btrfs") is None:
        pytest.skip("there is no mkfs.btrfs (package btrfs-progs) to make a disk with a quota")
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(128 << 20)
    subprocess.run(["mkfs.btrfs", "-q", image], check=True)
    with mounted(tmp_path / "disk", "-o", "loop", str(image)) as disk:
        subprocess.run(["btrfs", "quota", "enable", disk], check=True)
        subprocess.run(["btrfs", "qgroup", "limit", "7M", disk], check=True)
        yield disk


@pytest.mark.parametrize(
    ("kind", "error"), [("small_disk", "errno 28, ENOSPC"), ("quota", "errno 122, EDQUOT")]
)
def test_a_disk_full_for_one_rank_is_an_error_on_all_and_training_goes_on(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str, error: str
) -> None:
    body = """
checkpoints.save(1, state_of(1))
size = 1000 if RANK == 0 else 2_000_000
failed = reported(checkpoints.save, 2, state_of(2, size))
dist.all_reduce(total := torch.ones(1))
note(failures={str(k): v for k, v in failed.failures.items()}, total=total.item())
note_loaded()
checkpoints.save(3, state_of(3))
note_loaded()
dist.destroy_process_group()
"""
    folder = request.getfixturevalue(kind) / "checkpoints"
    job = run(write_worker(tmp_path, GROUP + body), str(folder))
    assert job.code == 0, job.out
    for rank in (0, 1):
        facts = job.of(rank)
        assert facts["kind"] == "CheckpointError"
        assert facts["after_s"] < 10
        assert list(facts["failures"]) == ["1"]
        assert "generation-0000000002/rank-00001.pt" in facts["failures"]["1"]
        assert error in facts["failures"]["1"]
        assert facts["total"] == 2
    expect_loaded(job, 3)
    left = sorted(path.name for path in folder.iterdir())
    assert left == ["generation-0000000001", "generation-0000000002"]


def test_no_inodes_and_a_read_only_disk_are_errors_on_all_and_training_goes_on(
    tmp_path: Path, small_disk: Path
) -> None:
    body = """
import subprocess
disk = Path(sys.argv[1]).parent
def remount(options):
    if RANK == 0:
        subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)
    dist.barrier()
def use_inodes():
    try:
        for number in range(1000):
            (disk / f"file{number}").touch()
    except OSError:
        return
def expect_failure(name, step):
    began = time.monotonic()
    try:
        checkpoints.save(step, state_of(step))
        text = ""
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
    dist.all_reduce(total := torch.ones(1))
    note(**{name: [text, time.monotonic() - began, total.item(), checkpoints.load().step]})
checkpoints.save(1, state_of(1))
if RANK == 0:
    use_inodes()
dist.barrier()
expect_failure("inodes", 2)
if RANK == 0:
    (disk / "file0").unlink()
    (disk / "file1").unlink()  # room for the folder and one file, but not for both shards
dist.barrier()
expect_failure("one inode", 3)
if RANK == 0:
    for path in disk.glob("file*"):
        path.unlink()
dist.barrier()
checkpoints.save(4, state_of(4))
remount("ro")
expect_failure("read-only", 5)
remount("rw")
checkpoints.save(6, state_of(6))
note_loaded()
dist.destroy_process_group()
"""
    job = run(write_worker(tmp_path, GROUP + body), str(small_disk / "checkpoints"))
    assert job.code == 0, job.out
    expected = {
        "inodes": (28, "generation-0000000002", 1),
        "one inode": (28, "rank-0000", 1),
        "read-only": (30, "generation-0000000003", 4),
    }
    for name, (code, path, step) in expected.items():
        text, seconds, total, loaded = job.of(0)[name]
        assert text == job.of(1)[name][0]
        assert text.startswith("CheckpointError: ")
        assert f"errno {code}, " in text
        assert path in text
        assert seconds < 10
        assert (total, loaded) == (2, step)
    expect_loaded(job, 6)


# The demo


def train(out: Path, *args: str, env: dict[str, str] | None = None) -> "subprocess.Popen[str]":
    command = [*RUN, "--nproc-per-node", "2", str(TRAIN), *SMALL, "--data", str(TRAIN)]
    return start([*command, "--out", str(out), *args], env)


def result_of(out: Path) -> dict[str, object]:
    found = json.loads((out / "result.json").read_text())
    return {name: found[name] for name in ("param_sha256", "final_loss", "heldout_loss")}


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    out = tmp_path_factory.mktemp("undisturbed")
    (ended,) = finish([train(out)])
    assert ended.code == 0, ended.out
    return result_of(out)


def test_training_that_was_killed_ends_with_the_bits_of_undisturbed_training(
    tmp_path: Path, undisturbed: dict[str, object]
) -> None:
    folder, out = tmp_path / "checkpoints", tmp_path / "killed"
    options = ("--checkpoint", str(folder), "--checkpoint-every", "4")
    with nothing_left_behind() as env:
        for number in (2, 5):  # killed, started again and killed once more
            process = train(out, *options, env=env)
            wait_for(folder / f"generation-{number:010}" / "manifest.json", process)
            for pid in processes_with(env[MARKER]):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.communicate(timeout=20)
            assert not (out / "result.json").exists()
    (resumed,) = finish([train(out, *options)])
    assert resumed.code == 0, resumed.out
    assert "step    1 " not in resumed.out
    assert result_of(out) == undisturbed


def pid_of_rank(marker: str, rank: int) -> int:
    (pid,) = [
        pid
        for pid in processes_with(marker)
        if f"\0RANK={rank}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    ]
    return pid


def test_ranks_that_are_told_to_stop_leave_together_and_resume_with_the_same_bits(
    tmp_path: Path, undisturbed: dict[str, object]
) -> None:
    folder, out = tmp_path / "checkpoints", tmp_path / "told"
    options = ("--checkpoint", str(folder), "--checkpoint-every", "10")
    whom = {1: lambda env, _: pid_of_rank(env[MARKER], 1), 4: lambda _, process: process.pid}
    for number, chosen in whom.items():  # rank 1 alone, and the launcher, which tells all
        with nothing_left_behind() as env:
            process = train(out, *options, env=env)
            wait_for(folder / f"generation-{number:010}" / "manifest.json", process)
            os.kill(chosen(env, process), signal.SIGTERM)
            text, _ = process.communicate(timeout=60)
            assert process.returncode == 143, text
    steps = [
        json.loads(path.read_text())["step"] for path in folder.glob("generation-*/manifest.json")
    ]
    assert any(step % 10 for step in steps), "no checkpoint was made for a signal"
    (resumed,) = finish([train(out, *options)])
    assert resumed.code == 0, resumed.out
    assert f"goes on from the checkpoint of step {max(steps)}\n" in resumed.out
    assert "2 restarts" in resumed.out
    assert result_of(out) == undisturbed
