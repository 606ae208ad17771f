# SPDX-License-Identifier: Apache-2.0
"""Who takes part in a sweep, and what starts its ranks."""

import sys
from pathlib import Path

import pytest

from rdmatrain.bench import contestants, mpi
from rdmatrain.bench.contestants import find, on_device
from rdmatrain.bench.model import OPS, Case, Entry
from rdmatrain.bench.orders import DEVICE_VARIABLE, SOCKET_VARIABLE
from rdmatrain.errors import SettingError


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Let no MPI of this machine be found; returns where one would be."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(mpi, "BUILD", tmp_path / "build")
    return tmp_path / "cache" / "rdmatrain" / "peers"


def test_rdmatrain_comes_once_for_each_transport_and_peers_in_their_order() -> None:
    starts, failures = find(["gloo", "gloo"], ["tcp", "auto", "tcp"])
    entries = list(dict.fromkeys(start.entry for start in starts))
    assert entries == [Entry("rdmatrain", "tcp"), Entry("rdmatrain", "auto"), Entry("gloo")]
    assert failures == []


@pytest.mark.parametrize("asked", ["auto", "shm", "tcp", "verbs"])
def test_an_operation_is_of_one_start_of_an_entry(asked: str) -> None:
    starts, _ = find([], [asked])
    for name in OPS:
        assert sum(name in start.ops for start in starts) <= 1


def test_ceilings_are_contestants_of_what_they_bound() -> None:
    starts, failures = find(["fake", "limit"], ["auto"])
    assert failures == []
    assert [start.entry.backend for start in starts[-2:]] == ["fake", "limit"]
    for start in starts[-2:]:
        assert start.ops == {"all_reduce"}


def test_an_unknown_peer_is_named_with_the_one_that_was_meant() -> None:
    with pytest.raises(SettingError, match="'openmp' is no peer: did you mean openmpi"):
        find(["gloo", "openmp"], ["auto"])
    with pytest.raises(SettingError, match="'ucx' is no peer: the peers are gloo, nccl, openmpi"):
        find(["ucx"], ["auto"])


def test_what_is_not_installed_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    starts, failures = find(["mpich", "gloo", "perftest"], ["auto"])
    assert [start.entry.backend for start in starts if start.entry.backend != "rdmatrain"] == [
        "gloo"
    ]
    assert [(failure.entry.backend, failure.case, failure.text) for failure in failures] == [
        ("mpich", None, "not installed: rdmatrain bench peers mpich gets it"),
        ("perftest", None, "there is no ib_write_bw in PATH: install the package perftest"),
    ]


def test_perftest_without_a_device_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "ib_write_bw"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(contestants, "RDMA_DEVICES", tmp_path / "infiniband")
    assert "no RDMA device" in contestants.missing("perftest")
    (tmp_path / "infiniband" / "mlx5_0").mkdir(parents=True)
    assert contestants.missing("perftest") == ""


def test_nccl_needs_a_device() -> None:
    import torch  # noqa: PLC0415 - slow

    if torch.cuda.device_count():
        pytest.skip("there is a CUDA device")
    [failure] = find(["nccl"], ["auto"])[1]
    assert "NCCL" in failure.text


def test_beside_nccl_rdmatrain_has_tensors_of_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contestants, "_no_nccl", lambda: "")
    monkeypatch.setattr(contestants, "_no_cuda", lambda: "")

    def devices(names: list[str], device: str) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for start in on_device(find(names, ["auto"])[0], device, ["write", "reduce"]):
            for _, env in start.commands(2, "/orders"):
                name = type(start).__name__ + " " + start.entry.backend
                found.setdefault(name, set()).add(env[DEVICE_VARIABLE])
        return found

    core, ours, gloo, nccl = (
        "CoreRanks rdmatrain",
        *(f"TorchRanks {name}" for name in ("rdmatrain", "gloo", "nccl")),
    )
    assert devices(["gloo"], "auto") == {core: {"cpu"}, ours: {"cpu"}, gloo: {"cpu"}}
    assert devices(["nccl"], "auto") == {core: {"cpu"}, ours: {"cuda"}, nccl: {"cuda"}}
    assert devices(["nccl"], "cpu") == {core: {"cpu"}, ours: {"cpu"}, nccl: {"cuda"}}
    assert devices([], "cuda") == {core: {"cuda"}, ours: {"cuda"}}
    monkeypatch.setattr(contestants, "_no_cuda", lambda: "torch finds no CUDA device")
    with pytest.raises(SettingError, match="--device cuda: torch finds no CUDA device"):
        devices([], "cuda")


def test_ranks_of_torch_have_a_launchers_variables() -> None:
    starts, _ = find(["gloo"], ["tcp", "auto"])
    commands = {str(start.entry): start.commands(3, "/orders") for start in starts}
    for backend, started in commands.items():
        assert len(started) == 3
        for rank, (argv, env) in enumerate(started):
            assert argv[0] == sys.executable
            assert env["RANK"] == env["LOCAL_RANK"] == str(rank)
            assert env["WORLD_SIZE"] == env["LOCAL_WORLD_SIZE"] == "3"
            assert env["MASTER_ADDR"] == "127.0.0.1"
            assert env["MASTER_PORT"] == started[0][1]["MASTER_PORT"]
            assert env[SOCKET_VARIABLE] == "/orders"
            assert env.get("RDMATRAIN_ARENA") == (None if backend == "gloo" else "on")
            transport = "tcp" if backend == "rdmatrain/tcp" else None
            assert env.get("RDMATRAIN_TRANSPORT") == transport


def test_an_mpi_is_started_by_its_mpirun(nothing_installed: Path) -> None:
    folder = nothing_installed / "openmpi"
    (folder / "bin").mkdir(parents=True)
    (folder / f"lib/python3.{sys.version_info.minor}/site-packages").mkdir(parents=True)
    (folder / mpi.MADE).touch()
    starts, failures = find(["openmpi"], ["auto"])
    assert not failures
    [(argv, env)] = starts[-1].commands(2, "/orders")
    assert argv[0] == str(folder / "bin" / "mpirun")
    assert argv[argv.index("-n") + 1] == "2"
    assert argv[-2:] == [str(mpi.RANK_SCRIPT), "openmpi"]
    assert env[SOCKET_VARIABLE] == "/orders"


@pytest.mark.parametrize(
    ("backend", "case", "why"),
    [
        ("gloo", Case("all_reduce", "float32", "SUM", 8, True), ""),
        ("gloo", Case("all_reduce", "float32", "SUM", 8, False), "only in place"),
        ("gloo", Case("all_to_all", "float32", "", 8, True), "only out of place"),
        ("gloo", Case("reduce_scatter", "float32", "SUM", 8, False), ""),
        ("gloo", Case("all_reduce", "bfloat16", "AVG", 8, True), ""),
        ("gloo", Case("all_reduce", "uint8", "AVG", 8, True), "Gloo has no AVG of uint8"),
        ("gloo", Case("write", "float32", "", 8, False), "gloo has no write"),
        ("rdmatrain", Case("all_reduce", "int8", "AVG", 8, True), ""),
    ],
)
def test_what_torch_lacks_is_known_before_it_is_asked(backend: str, case: Case, why: str) -> None:
    starts, _ = find(["gloo"], ["auto"])
    said = next(start for start in starts if start.entry.backend == backend).why_not(case)
    assert bool(said) == bool(why)
    assert why in said
