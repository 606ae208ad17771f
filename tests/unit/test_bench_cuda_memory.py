# SPDX-License-Identifier: Apache-2.0
"""Writes from GPU to GPU, where driver and NIC are scripted: no CPU can look at that memory."""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from rdmatrain import _core
from rdmatrain.bench import cuda_memory
from rdmatrain.bench.contestants import CoreRanks, find, on_device
from rdmatrain.bench.core_rank import GpuHalves
from rdmatrain.bench.cuda_memory import CudaError, CudaMemory
from rdmatrain.bench.model import Case
from rdmatrain.errors import SettingError

SOURCE = Path(__file__).with_name("fake_cuda.c")
LIMIT_S = 20
NIC = "rails=fake0/1/1 addr=127.0.0.1 fake="


class FakeCuda:
    """The library, and what it counts."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))

    def __getitem__(self, name: str) -> int:
        return self._variable(name).value

    def __setitem__(self, name: str, value: int) -> None:
        self._variable(name).value = value

    def _variable(self, name: str) -> ctypes.c_int:
        return ctypes.c_int.in_dll(self._library, f"fake_cuda_{name}")

    @property
    def allocations(self) -> int:
        """How many are not freed."""
        return int(self._library.fake_cuda_allocations())


@pytest.fixture
def cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no cc to compile the fake driver with")
    path = tmp_path / "libcuda.so.1"
    argv = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", str(SOURCE), "-o", str(path)]
    subprocess.run(argv, check=True, timeout=60)
    monkeypatch.setattr(cuda_memory, "LIBRARY", str(path))
    fake = FakeCuda(path)
    yield fake
    assert fake.allocations == 0
    assert fake["contexts"] == 0


def test_what_is_written_there_is_read_from_there(cuda: FakeCuda) -> None:
    cuda["devices"] = 3
    memory = CudaMemory(10_000, index=7)
    assert cuda["used_device"] == 7 % 3
    assert memory.address % os.sysconf("SC_PAGESIZE") == 0
    data = np.arange(10_000, dtype=np.uint32).astype(np.uint8)
    memory.write(0, data)
    memory.write(300, ~data[:50])
    data[300:350] = ~data[:50]
    with os.fdopen(os.dup(memory.fd), "rb") as file:
        assert file.read(10_000) == data.tobytes(), "a NIC would find other bytes"
    assert memory.read(0, 10_000).tolist() == data.tolist()
    assert memory.read(9_990, 10).tolist() == data[9_990:].tolist()
    assert cuda["flushes"] == 2, "what a NIC wrote may be on its way"
    memory.close()


@pytest.mark.parametrize("nbytes", [1, 64, 4096, 300_001])
def test_a_nic_writes_from_gpu_to_gpu(cuda: FakeCuda, nbytes: int) -> None:
    def serve(side: int) -> int:
        gpu = GpuHalves(nbytes, side)
        gpu.lend(pairs[side], writes=side == 0)
        assert gpu.count_wrong() == nbytes, "it was there before it was written"
        pairs[side].write(5, LIMIT_S)
        wrong = gpu.count_wrong()
        pairs[side].reserve(0)
        gpu.close()
        return wrong

    cuda["devices"] = 2
    pairs = joined("dmabuf=1")
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(serve, (0, 1))) == [nbytes, 0]
    for pair in pairs:
        pair.close()


def joined(script: str) -> list[_core.Pair]:
    """Return two sides that are connected over the scripted NIC."""
    pairs = [_core.Pair("verbs", NIC + script, side, bytes(16)) for side in (0, 1)]
    addresses = [pair.address() for pair in pairs]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda i: pairs[i].connect(addresses[1 - i], LIMIT_S), (0, 1)))
    return pairs


def test_a_nic_whose_driver_cannot_is_named(cuda: FakeCuda) -> None:
    pairs = joined("dmabuf=2")
    gpu = GpuHalves(4096, 0)
    with pytest.raises(ValueError, match="the driver of fake0 registers no memory of other"):
        gpu.lend(pairs[0], writes=True)
    gpu.close()
    for pair in pairs:
        pair.close()


def test_what_cannot_be_had_says_why_and_leaves_nothing(cuda: FakeCuda) -> None:
    cuda["dmabuf"] = 0
    with pytest.raises(CudaError, match="gives no dmabuf of its memory: it takes NVIDIA's open"):
        CudaMemory(1, 0)
    assert "open kernel modules" in cuda_memory.why_not()
    cuda["dmabuf"] = -1
    assert "open kernel modules (R515)" in cuda_memory.why_not()
    cuda["dmabuf"], cuda["room"] = 1, 0
    with pytest.raises(CudaError, match="cuMemAlloc_v2: out of memory"):
        CudaMemory(1, 0)
    cuda["room"], cuda["devices"] = 64, 0
    assert cuda_memory.why_not() == "CUDA's driver finds no GPU"
    cuda["devices"] = 1
    assert cuda_memory.why_not() == ""


def test_without_a_driver_write_on_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_memory, "LIBRARY", "libcuda-is-not-here.so.1")
    starts, _ = find([], ["verbs"])
    with pytest.raises(SettingError, match="--device cuda: CUDA's driver is not installed: libcu"):
        on_device(starts, "cuda", ["write"])


def test_only_verbs_writes_there(cuda: FakeCuda) -> None:
    starts = on_device(find([], ["verbs", "tcp"])[0], "cuda", ["write"])
    over_verbs, over_tcp = (each for each in starts if isinstance(each, CoreRanks))
    assert over_verbs.device == over_tcp.device == "cuda"
    assert over_verbs.why_not(case("write")) == ""
    assert "is seen by a CPU" in over_verbs.why_not(case("pingpong"))
    assert over_tcp.why_not(case("write")).endswith("give --transport verbs")


def case(op: str) -> Case:
    """Return one of a page."""
    return Case(op, "uint8", "", 4096, in_place=False)
