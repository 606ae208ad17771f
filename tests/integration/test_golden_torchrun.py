# SPDX-License-Identifier: Apache-2.0
"""The environment of the workers is torchrun's, for every command line of a table."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from golden_rows import Row, differences, read_table, run_row
from make_golden_torchrun import ROWS, TORCHRUN

OURS = [sys.executable, "-m", "rdmatrain.cli", "run"]
TABLE = read_table()
# Enough to see that the table is true; make_golden_torchrun.py --check does all.
REMADE = (
    "two workers, underscores",
    "a port and an id",
    "virtual local ranks of some GPUs",
    "PET rendezvous",
    "arguments with the local rank",
)


def run_all(
    launcher: Sequence[str], rows: Sequence[Row], folder: Path, extra: dict[str, str]
) -> str:
    """Run rows, some at once; return what differs from the table, in lines."""

    def run(place: int) -> list[str]:
        row = rows[place]
        own = folder / str(place)
        own.mkdir()
        try:
            return differences(TABLE[row.name][1], run_row(launcher, row, own, extra), row)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            return [str(error)]

    # A launcher waits for its workers most of the time.
    with ThreadPoolExecutor(2 * len(os.sched_getaffinity(0))) as pool:
        found = pool.map(run, range(len(rows)))
        return "\n".join(
            f"{row.name}: {each}" for row, wrong in zip(rows, found, strict=True) for each in wrong
        )


def test_the_table_has_the_rows_that_the_script_makes() -> None:
    assert [row for row, _ in TABLE.values()] == list(ROWS)
    assert len(TABLE) >= 60


@pytest.mark.timeout(300)  # about 15 s on two CPUs with nothing else to do
def test_workers_see_what_torchruns_workers_see(tmp_path: Path) -> None:
    extra = {"RDMATRAIN_SECRET": "a secret that only this test has"}
    assert run_all(OURS, ROWS, tmp_path, extra) == ""


def test_the_table_is_what_torchrun_does(tmp_path: Path) -> None:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed beside this interpreter")
    rows = [TABLE[name][0] for name in REMADE]
    assert run_all(TORCHRUN, rows, tmp_path, {}) == ""


@pytest.mark.parametrize(
    ("name", "value", "seen"),
    [
        ("WORLD_SIZE", "3", True),
        ("WORLD_SIZE", None, True),
        ("EXTRA", "1", True),
        ("TORCHELASTIC_USE_AGENT_STORE", "False", True),
        ("TORCHELASTIC_ERROR_FILE", None, True),
        ("MASTER_ADDR", "10.0.0.1", True),
        ("MASTER_PORT", None, True),
        ("TORCHELASTIC_RUN_ID", "", True),
        ("TORCHELASTIC_RUN_ID", "job", False),
        ("RDMATRAIN_ARENA", "on", False),
        ("NCCL_IB_HCA", "=mlx5_0", False),
        ("OMP_NUM_THREADS", "4", False),
        ("OMP_NUM_THREADS", None, True),
        ("PYTHONUNBUFFERED", "1", False),
    ],
)
def test_a_difference_is_seen_where_none_may_be(name: str, value: str | None, seen: bool) -> None:
    row, theirs = TABLE["two workers, a word"]
    ours = [each | {"env": each["env"] | {"MASTER_ADDR": "127.0.0.1"}} for each in theirs]
    assert differences(theirs, ours, row) == []
    env = {key: text for key, text in ours[1]["env"].items() if key != name}
    ours[1] = ours[1] | {"env": env | ({name: value} if value is not None else {})}
    assert len(differences(theirs, ours, row)) == seen


def test_other_arguments_workers_and_own_values_are_seen() -> None:
    row, theirs = TABLE["own threads"]
    ours = [each | {"env": each["env"] | {"MASTER_ADDR": "127.0.0.1"}} for each in theirs]
    assert differences(theirs, ours, row) == []
    assert differences(theirs, ours[:1], row) == ["1 workers, not 2"]
    assert len(differences(theirs, [ours[0], ours[1] | {"argv": []}], row)) == 1
    changed = ours[0] | {"env": ours[0]["env"] | {"OMP_NUM_THREADS": "1"}}
    assert len(differences(theirs, [changed, ours[1]], row)) == 1
