# SPDX-License-Identifier: Apache-2.0
"""``rdmatrain bench train`` with real ranks."""

import json
import os
import signal
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from integration_jobs import finish, start

BENCH = [sys.executable, "-m", "rdmatrain.cli", "bench", "train"]
TINY = ["--width", "24", "--layers", "1", "--heads", "2", "--seq-len", "8", "--batch", "2"]
SCHEMA = json.loads(files("rdmatrain.bench").joinpath("schemas/train.schema.json").read_text())


def read(file: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for record in records:
        jsonschema.Draft202012Validator(SCHEMA).validate(record)
    return records


def test_ddp_and_fsdp2_train_right_over_both_and_only_silence_does_not(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    (ended,) = finish([start([*BENCH, *TINY, "--steps", "3", "--json", str(file)])])
    assert ended.code == 0, ended.out
    found = {(each["ranks"], each["strategy"], each["backend"]): each for each in read(file)}
    backends = ("rdmatrain", "gloo", "silent")
    assert list(found) == [(n, s, b) for n in (1, 2) for s in ("ddp", "fsdp2") for b in backends]
    for (ranks, strategy, backend), each in found.items():
        alone = found[1, strategy, backend]["seconds_p50"]
        assert each["efficiency"] == pytest.approx(alone / each["seconds_p50"])
        assert each["tokens_per_s"] == pytest.approx(ranks * 2 * 8 / each["seconds_p50"])
        assert each["steps"] == 3
        embeddings, layer, head = (256 + 8) * 24, 12 * 24**2 + 13 * 24, 2 * 24 + 25 * 256
        assert each["parameters"] == embeddings + layer + head
        off = abs((each["loss"] or 0) / each["loss_expected"] - 1)
        # The check would find a group that does not communicate.
        assert (off > 3e-3) == (backend == "silent" and ranks == 2), each
    assert found[2, "ddp", "rdmatrain"]["transport"] == "shm"


@pytest.mark.thorough
def test_a_rank_that_dies_is_told_and_the_rest_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    options = ["--strategy", "ddp", "--vs", "", "--steps", "200", "--json", str(file)]
    started = start([*BENCH, *TINY, *options])
    assert started.stdout
    for line in started.stdout:
        if "round 2 of 5" in line:
            break
    os.kill(rank_of(started.pid, ranks=2, rank=1), signal.SIGKILL)
    (ended,) = finish([started])
    assert ended.code == 1, ended.out
    records = read(file)
    results = [each for each in records if "failure" not in each]
    assert {(each["ranks"], each["steps"]) for each in results if each["ranks"] == 1} == {(1, 200)}
    assert {each["steps"] for each in results if each["ranks"] == 2} <= {40, 80, 120, 160}
    assert len(results) == 4
    (failure,) = [each["failure"] for each in records if "failure" in each]
    assert failure.startswith("the job of 2 ranks: rank 1 on ")
    assert "SIGKILL" in failure
    assert failure.split(";")[0] in ended.out


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--ranks", "0"], "--ranks 0: give numbers from 1 to"),
        (["--strategy", "pp"], "--strategy pp: unknown"),
        (["--vs", "mpich"], "--vs mpich: unknown"),
        (["--width", "100"], "--width 100: give a multiple of --heads 6"),
    ],
)
def test_wrong_options_are_one_line(options: list[str], error: str) -> None:
    (ended,) = finish([start([*BENCH, *options])])
    assert ended.code == 2
    assert error in ended.out
    assert "Traceback" not in ended.out


def rank_of(pid: int, ranks: int, rank: int) -> int:
    """Return the process of a rank among the children of a process."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8")
    wanted = {f"WORLD_SIZE={ranks}".encode(), f"RANK={rank}".encode()}
    (found,) = [
        int(word)
        for word in text.split()
        if wanted <= set(Path(f"/proc/{word}/environ").read_bytes().split(b"\0"))
    ]
    return found
