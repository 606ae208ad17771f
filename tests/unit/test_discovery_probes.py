# SPDX-License-Identifier: Apache-2.0
"""What libibverbs and NVML say is kept as JSON; what they cannot say is an answer too."""

import json
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_rdma import V1, V2, FakeVerbs, write_port

import rdmatrain
from rdmatrain.discovery import probes
from rdmatrain.discovery.ports import read_ports
from rdmatrain.discovery.probes import ask_nvml, ask_verbs, live
from rdmatrain.discovery.source import Tree
from rdmatrain.errors import CommError


def asked(root: Path, verbs: FakeVerbs) -> dict[str, Any]:
    return ask_verbs(verbs, read_ports(Tree(root)))


# libibverbs


def test_each_entry_of_a_port_is_tested_and_a_failure_has_its_reason(tmp_path: Path) -> None:
    write_port(tmp_path, "mlx5_0/1", {0: ("fe80::1", V1), 3: ("10.0.0.1", V2), 9: ("fd00::1", V2)})
    verbs = FakeVerbs({"mlx5_0/1": {}}, bad={("mlx5_0/1", 3): "No such device"})
    found = asked(tmp_path, verbs)
    assert found == {
        "error": "",
        "ports": [
            {
                "device": "mlx5_0",
                "port": 1,
                "error": "",
                "state": "ACTIVE",
                "active_mtu": 4096,
                "speed_gbps": 100.0,
                "gids": {"0": "", "3": "No such device", "9": ""},
            }
        ],
    }
    assert json.loads(json.dumps(found)) == found


def test_the_best_entries_of_all_ports_are_tested_first(tmp_path: Path) -> None:
    usual = {0: ("fe80::1", V1), 1: ("fe80::1", V2), 2: ("10.0.0.1", V1), 3: ("10.0.0.1", V2)}
    for name in ("mlx5_0/1", "mlx5_1/1"):
        write_port(tmp_path, name, usual)
    verbs = FakeVerbs({"mlx5_0/1": {}, "mlx5_1/1": {}})
    asked(tmp_path, verbs)
    assert [index for _, index in verbs.tested] == [3, 3, 1, 1, 2, 2, 0, 0]


def test_ports_that_are_down_or_closed_are_listed_and_not_tested(tmp_path: Path) -> None:
    for name in ("mlx5_0/1", "mlx5_1/1"):
        write_port(tmp_path, name, {3: ("10.0.0.1", V2)})
    verbs = FakeVerbs({"mlx5_0/1": {"state": "DOWN"}, "mlx5_1/0": {"error": "Permission denied"}})
    ports = asked(tmp_path, verbs)["ports"]
    assert [(each["device"], each["port"], each["state"], each["error"]) for each in ports] == [
        ("mlx5_0", 1, "DOWN", ""),
        ("mlx5_1", 0, "ACTIVE", "Permission denied"),
    ]
    assert [each["gids"] for each in ports] == [{}, {}] and verbs.tested == []


def test_tests_end_in_time_and_what_is_left_is_not_known_to_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "PROBE_SECONDS", 0.05)
    write_port(tmp_path, "mlx5_0/1", {i: (f"10.0.0.{i}", V2) for i in range(1, 101)}, table=100)

    class Slow(FakeVerbs):
        def rdma_test_gid(self, device: str, port: int, index: int, /) -> str:
            time.sleep(0.03)
            return super().rdma_test_gid(device, port, index)

    verbs = Slow({"mlx5_0/1": {}})
    (port,) = asked(tmp_path, verbs)["ports"]
    assert 1 <= len(verbs.tested) <= 3 and len(port["gids"]) == 100
    assert port["gids"]["100"] == "not tested: 0.05 s were over"


def test_without_libibverbs_there_is_an_error(tmp_path: Path) -> None:
    write_port(tmp_path, "mlx5_0/1", {3: ("10.0.0.1", V2)})
    found = asked(tmp_path, FakeVerbs({}, missing="RDMA needs libibverbs"))
    assert found == {"error": "RDMA needs libibverbs", "ports": []}


def test_a_library_that_goes_away_is_an_error_too(tmp_path: Path) -> None:
    class Gone(FakeVerbs):
        def rdma_test_gid(self, device: str, port: int, index: int, /) -> str:
            raise CommError("it is gone", "NO_LIBRARY")

    write_port(tmp_path, "mlx5_0/1", {3: ("10.0.0.1", V2)})
    assert asked(tmp_path, Gone({"mlx5_0/1": {}})) == {"error": "it is gone", "ports": []}


def test_without_the_core_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rdmatrain._core", None)
    monkeypatch.delattr(rdmatrain, "_core", raising=False)
    found = live()["verbs"]()
    assert "rdmatrain._core cannot be loaded" in found["error"] and found["ports"] == []


def test_this_machine_answers_in_time() -> None:
    for name, call in live().items():
        started = time.monotonic()
        found = call()
        assert set(found) == {"error", "ports" if name == "verbs" else "gpus"}
        assert json.loads(json.dumps(found)) == found
        assert time.monotonic() - started < 5


def test_a_driver_that_hangs_is_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "HANG_SECONDS", 0.05)
    let_go = threading.Event()
    for name in ("_live_verbs", "_live_nvml"):
        monkeypatch.setattr(probes, name, lambda *_: let_go.wait(60))
    answers = {name: call() for name, call in live().items()}
    let_go.set()
    late = {"error": "no answer within 0.05 s"}
    assert answers == {"verbs": late | {"ports": []}, "nvml": late | {"gpus": []}}


# NVML


class NvmlError(Exception):
    pass


class FakeNvml:
    """pynvml on a machine of two GPUs; the second one is cut into slices.

    Attributes:
        broken: text of the error of each function, by name.
        closed: how often it was shut down.

    """

    def __init__(self, **broken: str) -> None:
        self.broken = broken
        self.closed = 0

    def __getattribute__(self, name: str) -> Any:
        broken = object.__getattribute__(self, "broken") if name != "broken" else {}
        if name in broken:
            return lambda *_: (_ for _ in ()).throw(NvmlError(broken[name]))
        return object.__getattribute__(self, name)

    def nvmlInit(self) -> None: ...
    def nvmlShutdown(self) -> None:
        self.closed += 1

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        if str(index) in self.broken.get("lost", ""):
            raise NvmlError("GPU is lost")
        return f"GPU-{index}"

    def nvmlDeviceGetUUID(self, handle: str) -> str | bytes:
        return handle.encode() if handle == "GPU-0" else handle

    def nvmlDeviceGetName(self, _: str) -> bytes:
        return b"NVIDIA H100 80GB HBM3"

    def nvmlDeviceGetPciInfo(self, handle: str) -> SimpleNamespace:
        bus = {"GPU-0": b"00000000:0B:00.0", "GPU-1": "00000000:48:00.0"}
        return SimpleNamespace(busId=bus[handle])

    def nvmlDeviceGetMinorNumber(self, handle: str) -> int:
        return 4 + int(handle[-1])

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: str) -> int:
        if handle == "GPU-0":
            raise NvmlError("Not Supported")
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, _: str, number: int) -> str:
        if number not in {0, 2}:
            raise NvmlError("Not Found")
        return f"MIG-{number}"


MODEL = "NVIDIA H100 80GB HBM3"
GPUS = [
    {"index": 0, "uuid": "GPU-0", "pci": "0000:0b:00.0", "name": MODEL, "minor": 4, "mig": []},
    {"index": 1, "uuid": "GPU-1", "pci": "0000:48:00.0", "name": MODEL, "minor": 5}
    | {"mig": ["MIG-0", "MIG-2"]},
]


def test_the_gpus_of_nvml_have_addresses_uuids_and_slices() -> None:
    nvml = FakeNvml()
    found = ask_nvml(nvml)
    assert found == {"error": "", "gpus": GPUS}
    assert json.loads(json.dumps(found)) == found and nvml.closed == 1


def test_a_driver_that_does_not_answer_is_an_error() -> None:
    found = ask_nvml(FakeNvml(nvmlInit="Driver/library version mismatch"))
    assert found == {"error": "NVML: Driver/library version mismatch", "gpus": []}
    assert ask_nvml(FakeNvml(nvmlDeviceGetCount="Unknown Error"))["error"] == "NVML: Unknown Error"
    assert ask_nvml(object())["error"].startswith("NVML: ")


def test_a_gpu_that_is_lost_does_not_hide_the_others() -> None:
    found = ask_nvml(FakeNvml(lost="0"))
    assert found == {"error": "NVML: GPU 0: GPU is lost", "gpus": GPUS[1:]}


@pytest.mark.parametrize(
    ("function", "field", "default"),
    [
        ("nvmlDeviceGetUUID", "uuid", ""),
        ("nvmlDeviceGetPciInfo", "pci", ""),
        ("nvmlDeviceGetName", "name", ""),
        ("nvmlDeviceGetMinorNumber", "minor", None),
    ],
)
def test_what_a_driver_does_not_say_is_empty(function: str, field: str, default: Any) -> None:
    gpus = ask_nvml(FakeNvml(**{function: "Not Supported", "nvmlShutdown": "Uninitialized"}))[
        "gpus"
    ]
    assert [gpu[field] for gpu in gpus] == [default, default]
    assert gpus[0] == GPUS[0] | {field: default}


def test_without_pynvml_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert live()["nvml"]() == {"error": "pynvml is not installed", "gpus": []}


def test_pynvml_is_asked_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    assert live()["nvml"]() == {"error": "", "gpus": GPUS}
