# SPDX-License-Identifier: Apache-2.0
"""GPUs are those that this container can use, by the best source that answers."""

from pathlib import Path
from typing import Any

import pytest
from fake_machine import Builder

from rdmatrain.discovery.gpus import read_gpus
from rdmatrain.discovery.model import Complaint, Gpu

ROOT = ("pci0000:07", "0000:07:01.0")
ADDRESSES = ("0000:0b:00.0", "0000:48:00.0", "0000:9a:00.0")
NO_PYNVML = {"error": "pynvml is not installed", "gpus": []}


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    return Builder(tmp_path)


def found(builder: Builder, nvml: Any = None) -> tuple[list[Gpu], list[Complaint]]:
    return read_gpus(builder.source({"nvml": nvml}))


def host(builder: Builder, *nodes: int) -> Builder:
    """Three GPUs that the driver shows, whose minors are not in the order of the bus."""
    for pci, minor in zip(ADDRESSES, (2, 0, 1), strict=True):
        builder.gpu(pci, ROOT, minor=minor, uuid=f"GPU-{minor}", numa=1, node=minor in nodes)
    return builder


def answer(pci: str, **changes: Any) -> dict[str, Any]:
    """A GPU as the probe gives it."""
    plain = {"index": 0, "uuid": f"GPU-of-{pci}", "pci": pci, "name": "NVIDIA H100"}
    return plain | {"minor": 5, "mig": []} | changes


# The kernel


def test_all_of_a_gpu_is_read_in_the_order_of_the_bus(builder: Builder) -> None:
    gpus, complaints = found(host(builder, 0, 1, 2))
    assert [(gpu.index, gpu.name, gpu.pci, gpu.minor) for gpu in gpus] == [
        (0, "GPU0", "0000:0b:00.0", 2),
        (1, "GPU1", "0000:48:00.0", 0),
        (2, "GPU2", "0000:9a:00.0", 1),
    ]
    assert complaints == []
    assert gpus[0] == Gpu(
        index=0,
        name="GPU0",
        pci="0000:0b:00.0",
        path=("pci0000:07", "0000:07:01.0", "0000:0b:00.0"),
        numa=1,
        vendor="nvidia",
        uuid="GPU-2",
        minor=2,
        model="NVIDIA H100 80GB HBM3",
    )


def test_without_dev_all_are_kept(builder: Builder) -> None:
    assert len(found(host(builder))[0]) == 3


def test_only_gpus_with_a_device_node_are_kept(builder: Builder) -> None:
    gpus, complaints = found(host(builder, 1))
    assert [(gpu.index, gpu.pci) for gpu in gpus] == [(0, "0000:9a:00.0")]
    assert complaints == []


def test_where_no_gpu_has_a_node_there_is_a_complaint(builder: Builder) -> None:
    gpus, (complaint,) = found(host(builder).file("/dev/null"))
    assert (gpus, complaint.id) == ([], "gpus-hidden")
    assert "3 GPUs" in complaint.text


def test_where_the_driver_is_hidden_the_bus_tells(builder: Builder) -> None:
    builder.function("0000:48:00.0", ROOT, ids="10de:2330", pci_class="0x030200", numa=0)
    builder.function("0000:0b:00.0", ROOT, ids="10de:2330", pci_class="0x030000")
    builder.function("0000:05:00.0", ROOT, ids="10de:22a3", pci_class="0x068000")  # NVSwitch
    builder.function("0000:06:00.0", ROOT, ids="1a03:2000", pci_class="0x030000")  # of the board
    gpus, complaints = found(builder)
    assert [(gpu.pci, gpu.numa, gpu.vendor, gpu.minor) for gpu in gpus] == [
        ("0000:0b:00.0", None, "nvidia", None),
        ("0000:48:00.0", 0, "nvidia", None),
    ]
    assert complaints == []
    builder.file("/dev/nvidia0").file("/dev/nvidia1").file("/dev/nvidiactl")
    assert found(builder) == (gpus, [])


def test_nodes_that_fit_no_gpu_are_a_complaint(builder: Builder) -> None:
    for bus in (5, 6, 7):
        builder.function(f"0000:0{bus}:00.0", ids="10de:2330", pci_class="0x030200")
    gpus, (complaint,) = found(builder.file("/dev/nvidia1"))
    assert (len(gpus), complaint.id) == (3, "gpus-unclear")
    assert "1 of 3 GPUs" in complaint.text


def test_a_node_of_none_of_the_gpus_is_a_complaint_too(builder: Builder) -> None:
    gpus, (complaint,) = found(host(builder).file("/dev/nvidia7"))
    assert (len(gpus), complaint.id) == (3, "gpus-unclear")


def test_a_gpu_that_nobody_has_opened_has_no_uuid_yet(builder: Builder) -> None:
    builder.gpu("0000:0b:00.0", uuid="GPU-????????-????-????-????-????????????")
    ((gpu,), complaints) = found(builder)
    assert (gpu.uuid, gpu.minor, complaints) == ("", 0, [])


def test_a_gpu_that_cannot_be_read_is_a_complaint(builder: Builder) -> None:
    host(builder, 0, 1, 2)
    folder = builder.root / "proc/driver/nvidia/gpus"
    (folder / "0000:48:00.0/information").unlink()
    (folder / "garbage").mkdir()
    gpus, complaints = found(builder)
    assert [gpu.minor for gpu in gpus] == [2, 1]
    assert [each.id for each in complaints] == ["unreadable", "unreadable"]
    assert "0000:48:00.0" in complaints[0].source and "ENOENT" in complaints[0].text


# NVML


def test_nvml_goes_before_the_kernel(builder: Builder) -> None:
    host(builder, 0, 1, 2)
    nvml = {"error": "", "gpus": [answer("0000:48:00.0", mig=["MIG-1", "MIG-2"])]}
    (gpu,), complaints = found(builder, nvml)
    assert gpu == Gpu(
        index=0,
        name="GPU0",
        pci="0000:48:00.0",
        path=("pci0000:07", "0000:07:01.0", "0000:48:00.0"),
        numa=1,
        vendor="nvidia",
        uuid="GPU-of-0000:48:00.0",
        minor=5,
        model="NVIDIA H100",
        mig=("MIG-1", "MIG-2"),
    )
    assert complaints == []
    assert found(builder, {"error": "", "gpus": []}) == ([], [])


def test_without_pynvml_the_kernel_is_asked_and_nobody_complains(builder: Builder) -> None:
    gpus, complaints = found(host(builder, 0, 1, 2), NO_PYNVML)
    assert (len(gpus), complaints) == (3, [])


def test_a_driver_that_does_not_answer_is_a_complaint_where_there_are_gpus(
    builder: Builder,
) -> None:
    failed = {"error": "NVML: Unknown Error", "gpus": []}
    assert found(builder, failed) == ([], [])
    gpus, (complaint,) = found(host(builder, 0, 1, 2), failed)
    assert (len(gpus), complaint.id) == (3, "nvml-failed")
    assert "Unknown Error" in complaint.text and "restart the pod" in complaint.text


def test_a_lost_gpu_is_a_complaint_and_the_others_are_there(builder: Builder) -> None:
    nvml = {"error": "NVML: GPU 0: GPU is lost", "gpus": [answer("0000:48:00.0")]}
    gpus, (complaint,) = found(host(builder, 0, 1, 2), nvml)
    assert [gpu.pci for gpu in gpus] == ["0000:48:00.0"]
    assert complaint.id == "nvml-failed" and "GPU 0: GPU is lost" in complaint.text


def test_a_gpu_without_an_address_is_the_last(builder: Builder) -> None:
    nvml = {"error": "", "gpus": [answer(""), answer("0000:48:00.0"), answer("10000:01:00.0")]}
    gpus, _ = found(builder, nvml)
    assert [gpu.pci for gpu in gpus] == ["0000:48:00.0", "10000:01:00.0", ""]


# AMD


def test_gpus_of_amd_have_a_unique_id(builder: Builder) -> None:
    builder.gpu("0000:11:00.0", ROOT, ids="1002:74a1", uuid="b1f5a8c9d0e1f234", numa=1, minor=1)
    builder.gpu("0000:0b:00.0", ROOT, ids="1002:74a1", uuid="0xb1f5a8c9d0e1f235", minor=0)
    builder.function("0000:05:00.0", ROOT, ids="1002:1479", pci_class="0x060400")  # a bridge
    builder.function("0000:06:00.0", ids="1002:74a1", pci_class="0x120000", driver="vfio-pci")
    # The folder of drivers need not be shown.
    (builder.root / "sys/bus/pci/devices/0000:11:00.0/driver").unlink()
    gpus, complaints = found(builder)
    assert [(gpu.index, gpu.pci, gpu.uuid, gpu.vendor, gpu.numa) for gpu in gpus] == [
        (0, "0000:0b:00.0", "GPU-b1f5a8c9d0e1f235", "amd", None),
        (1, "0000:11:00.0", "GPU-b1f5a8c9d0e1f234", "amd", 1),
    ]
    assert gpus[0].path == ("pci0000:07", "0000:07:01.0", "0000:0b:00.0")
    assert complaints == []


def test_gpus_of_amd_without_a_render_node_are_left_out(builder: Builder) -> None:
    builder.gpu("0000:0b:00.0", ids="1002:74a1", minor=0, node=False)
    builder.gpu("0000:11:00.0", ids="1002:74a1", minor=1)
    gpus, complaints = found(builder)
    assert ([gpu.pci for gpu in gpus], complaints) == (["0000:11:00.0"], [])
    (builder.root / "dev/dri/renderD129").unlink()
    gpus, (complaint,) = found(builder)
    assert (gpus, complaint.id) == ([], "gpus-hidden")


def test_gpus_of_amd_without_the_node_to_compute_are_left_out(builder: Builder) -> None:
    builder.gpu("0000:0b:00.0", ids="1002:74a1")
    (builder.root / "dev/kfd").unlink()
    gpus, (complaint,) = found(builder)
    assert (gpus, complaint.id) == ([], "gpus-hidden") and "/dev/kfd" in complaint.text


def test_the_screen_of_a_ryzen_is_no_gpu_beside_one_of_nvidia(builder: Builder) -> None:
    builder.gpu("0000:05:00.0", ids="1002:164e", pci_class="0x030000", minor=1)
    gpus, complaints = found(builder)
    assert ([gpu.vendor for gpu in gpus], complaints) == (["amd"], [])
    builder.gpu("0000:0a:00.0", uuid="GPU-1").gpu("0000:0b:00.0", ids="1002:74a1", minor=2)
    gpus, complaints = found(builder)
    assert ([gpu.vendor for gpu in gpus], complaints) == (["nvidia", "amd"], [])
