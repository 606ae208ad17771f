# SPDX-License-Identifier: Apache-2.0
"""What was told to container runtimes is claimed; what is told to GPU libraries restricts."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_source import Link, MemorySource, environ

from rdmatrain.discovery.model import Evidence
from rdmatrain.discovery.pod import read_pod
from rdmatrain.discovery.pod_model import Claim, Pod, Restriction, Trust

A = "GPU-8a10b6f7-077c-d51f-48f0-eba64feb5e9f"
B = "GPU-a498ba79-aa87-d951-24e9-fae585d4eb6c"
MIG = "MIG-41b36db1-7d4c-5b6e-9b4f-0d6a5c1c2a3b"
OLD_MIG = f"MIG-{A}/1/0"
MOUNTS = "/var/run/nvidia-container-devices"


def pod_of(variables: dict[str, str], **files: Any) -> Pod:
    return read_pod(MemorySource({"/proc/self/environ": environ(variables), **files}))


def told(value: str, name: str = "NVIDIA_VISIBLE_DEVICES", **files: Any) -> list[int | str | None]:
    pod = pod_of({name: value}, **files)
    assert pod.complaints == ()
    assert all(claim.kind == "gpu" and claim.granted for claim in pod.claims)
    return [claim.uuid or claim.index for claim in pod.claims]


def left(name: str, value: str) -> list[tuple[str, tuple[int | str, ...]]]:
    pod = pod_of({name: value})
    assert pod.claims == ()
    return [(each.vendor, each.devices) for each in pod.restrictions]


@pytest.mark.parametrize("name", ["NVIDIA_VISIBLE_DEVICES", "AMD_VISIBLE_DEVICES"])
@pytest.mark.parametrize("value", ["", "all", "none", "void", " "])
def test_what_images_and_cdi_write_claims_nothing(name: str, value: str) -> None:
    assert told(value, name) == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0,3", [0, 3]),
        (" 3 , 0 ", [3, 0]),
        ("0,", [0]),
        (f"{A},{B}", [A, B]),
        ("GPU-8a10b6f7", ["GPU-8a10b6f7"]),
        (MIG, [MIG]),
        (f"{OLD_MIG},{MIG}", [OLD_MIG, MIG]),
        ("0:1,2:0", [0, 2]),
        ("nvidia.com/gpu=0,nvidia.com/gpu=3", [0, 3]),
        (f"management.nvidia.com/gpu={A}", [A]),
        ("runtime.nvidia.com/gpu=all", []),
        ("nvidia.com/gpu=0:1,nvidia.com/gds=all,nvidia.com/mofed=all", [0]),
        ("nvidia.com/imex-channel=0,nvidia.com/mig=MIG-1", ["MIG-1"]),
        (f"0,0,{A},{A}", [0, A]),
    ],
)
def test_a_list_for_nvidia_is_claimed(value: str, expected: list[int | str]) -> None:
    assert told(value) == expected


def test_a_list_for_amd_is_claimed() -> None:
    assert told("0-2,5", "AMD_VISIBLE_DEVICES") == [0, 1, 2, 5]
    assert told("0xef2c1799a1f3e2ed", "AMD_VISIBLE_DEVICES") == ["0xef2c1799a1f3e2ed"]
    assert told("amd.com/gpu=1", "AMD_VISIBLE_DEVICES") == [1]


def test_a_claim_says_who_made_it() -> None:
    evidence = Evidence("NVIDIA_VISIBLE_DEVICES in environment", A)
    assert pod_of({"NVIDIA_VISIBLE_DEVICES": A}).claims == (
        Claim(evidence, Trust.VARIABLE, "gpu", uuid=A),
    )


def test_a_folder_of_mounts_has_one_file_for_each_device() -> None:
    files = {
        f"{MOUNTS}/{name}": ""
        for name in [B, "10", "2", "cdi/nvidia.com/gpu/7", "cdi/nvidia.com/gpu=8",
                     "cdi/runtime.nvidia.com/gpu/all", OLD_MIG, "imex/0", "all"]
    }  # fmt: skip
    assert told(MOUNTS, **files) == [2, 10, B, OLD_MIG, 7, 8]
    # The runtime takes the files even if the image's variable says all.
    assert told("all", **files) == [2, 10, B, OLD_MIG, 7, 8]


def test_an_empty_folder_of_mounts_is_a_complaint() -> None:
    pod = pod_of({"NVIDIA_VISIBLE_DEVICES": MOUNTS + "/"})
    assert (pod.claims, [each.id for each in pod.complaints]) == ((), ["mounts-empty"])
    assert pod.complaints[0].source == "NVIDIA_VISIBLE_DEVICES in environment"


@pytest.mark.parametrize(
    "value",
    ["GPU-", "8a10b6f7", "/some/path", "ALL!", "3-1", "-1", "99999999999", "1.5", "\x1b[2J"],
)
def test_what_names_no_gpu_is_complained_of_and_the_others_count(value: str) -> None:
    pod = pod_of({"NVIDIA_VISIBLE_DEVICES": f"{value},{A}"})
    assert [claim.uuid for claim in pod.claims] == [A]
    (complaint,) = pod.complaints
    assert complaint.id == "unreadable"
    assert complaint.source == "NVIDIA_VISIBLE_DEVICES in environment"
    assert complaint.text.isprintable()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1,0", (1, 0)),
        ("", ()),
        ("-1", ()),
        ("NoDevFiles", ()),
        ("0,1,-1,2", (0, 1)),
        (f"{B},{A}", (B, A)),
        ("GPU-8a10b6f7", ("GPU-8a10b6f7",)),
        (MIG, (MIG,)),
        (OLD_MIG, (OLD_MIG,)),
        (" 1, 2", (1, 2)),
        ("+1", (1,)),
    ],
)
def test_a_list_for_cuda_restricts(value: str, expected: tuple[int | str, ...]) -> None:
    pod = pod_of({"CUDA_VISIBLE_DEVICES": value})
    assert [each for each in pod.restrictions if each.vendor == "nvidia"] == [
        Restriction(Evidence("CUDA_VISIBLE_DEVICES in environment", value),
                    "nvidia", expected)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "expected", "what"),
    [
        ("0,1,0,2", (), "listed-twice"),
        (f"{A},{A}", (), "listed-twice"),
        ("0,x,1", (0,), "unreadable"),
        (f"0,{A}", (0,), "unreadable"),
        (f"{A},1", (A,), "unreadable"),
        (f"{A},{MIG}", (A,), "unreadable"),
        ("x", (), "unreadable"),
        ("0,,1", (0,), ""),
    ],
)
def test_a_list_for_cuda_ends_where_cuda_ends_it(
    value: str, expected: tuple[int | str, ...], what: str
) -> None:
    pod = pod_of({"CUDA_VISIBLE_DEVICES": value})
    assert [each.devices for each in pod.restrictions if each.vendor == "nvidia"] == [expected]
    assert [complaint.id for complaint in pod.complaints] == ([what] if what else [])


def test_what_follows_a_number_is_left_unread_by_cuda_only() -> None:
    pod = pod_of({"CUDA_VISIBLE_DEVICES": "1gpu2,2"})
    assert pod.complaints == ()
    assert [(each.vendor, each.devices) for each in pod.restrictions] == [
        ("amd", ()),
        ("nvidia", (1, 2)),
    ]


def test_a_list_for_amd_ends_at_what_is_no_device_or_was_there() -> None:
    for value, what in (("0,x,1", "unreadable"), ("0,0,1", "listed-twice"), ("0,-1,1", "")):
        pod = pod_of({"ROCR_VISIBLE_DEVICES": value})
        assert [each.devices for each in pod.restrictions] == [(0,)]
        assert [complaint.id for complaint in pod.complaints] == ([what] if what else [])


def test_lists_for_amd_apply_one_after_the_other() -> None:
    pod = pod_of({"HIP_VISIBLE_DEVICES": "1", "ROCR_VISIBLE_DEVICES": "2,GPU-DEADBEEFDEADBEEF"})
    assert [(each.vendor, each.devices) for each in pod.restrictions] == [
        ("amd", (2, "GPU-DEADBEEFDEADBEEF")),
        ("amd", (1,)),
    ]
    assert left("ROCR_VISIBLE_DEVICES", "") == [("amd", ())]


def test_hip_reads_the_variable_of_cuda_if_its_own_is_empty() -> None:
    assert left("CUDA_VISIBLE_DEVICES", "1") == [("amd", (1,)), ("nvidia", (1,))]
    assert left("HIP_VISIBLE_DEVICES", "") == []
    assert left("CUDA_VISIBLE_DEVICES", "") == [("nvidia", ())]
    both = pod_of({"HIP_VISIBLE_DEVICES": "", "CUDA_VISIBLE_DEVICES": "3"})
    assert [(each.vendor, each.devices) for each in both.restrictions] == [
        ("amd", (3,)),
        ("nvidia", (3,)),
    ]


def test_the_variable_for_opencl_restricts_nothing() -> None:
    assert left("GPU_DEVICE_ORDINAL", "2,3") == []


def test_only_this_process_is_restricted_by_its_variables() -> None:
    files = {"/proc/1/environ": environ({"CUDA_VISIBLE_DEVICES": "0", "NVIDIA_VISIBLE_DEVICES": A})}
    pod = pod_of({}, **files)
    assert pod.restrictions == ()
    assert [claim.uuid for claim in pod.claims] == [A]


def test_nodes_of_gpus_claim_least() -> None:
    names = ["nvidia10", "nvidia2", "nvidiactl", "nvidia-uvm", "nvidia-caps/nvidia-cap1"]
    pod = pod_of({"NVIDIA_VISIBLE_DEVICES": A}, **{f"/dev/{name}": "" for name in names})
    assert [(claim.weight, claim.minor) for claim in pod.claims] == [
        (Trust.VARIABLE, None),
        (Trust.NAME, 2),
        (Trust.NAME, 10),
    ]


def test_nodes_of_amd_are_known_by_what_they_lead_to() -> None:
    files: dict[str, Any] = {"/dev/kfd": "", "/dev/dri/card0": ""}
    for number, vendor in ((128, "0x1002"), (129, "0x1a03"), (130, "0x1002")):
        pci = f"0000:{number:02x}:00.0"
        files[f"/dev/dri/renderD{number}"] = ""
        files[f"/sys/class/drm/renderD{number}/device"] = Link(f"/sys/devices/pci0000:00/{pci}")
        files[f"/sys/devices/pci0000:00/{pci}/vendor"] = f"{vendor}\n"
    assert [claim.pci for claim in pod_of({}, **files).claims] == ["0000:80:00.0", "0000:82:00.0"]
    del files["/dev/kfd"]
    assert pod_of({}, **files).claims == ()


NAMES = ["NVIDIA_VISIBLE_DEVICES", "AMD_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES",
         "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"]  # fmt: skip
TOKEN = st.sampled_from(["0", "3", A, MIG, OLD_MIG, "nvidia.com/gpu=1", "all", "-1", "", " "])


@given(st.lists(TOKEN | st.text(), max_size=5), st.sampled_from(NAMES))
@settings(deadline=None, max_examples=200)
def test_whatever_is_in_a_list_nothing_raises(tokens: list[str], name: str) -> None:
    value = ",".join(tokens).replace("\0", "")
    pod = pod_of({name: value, "PCIDEVICE_X": "0000:0c:00.2"}, **{f"{MOUNTS}/{value[:20]}": ""})
    assert "0000:0c:00.2" in {claim.pci for claim in pod.claims}
    assert all(complaint.text.isprintable() for complaint in pod.complaints)


@given(st.lists(st.text(alphabet="xyz:/=-"), max_size=3), st.permutations(["0", A, MIG]))
@settings(deadline=None, max_examples=100)
def test_whatever_is_between_them_devices_count(garbage: list[str], devices: list[str]) -> None:
    pod = pod_of({"NVIDIA_VISIBLE_DEVICES": ",".join([*devices, *garbage, *devices])})
    assert {claim.uuid or str(claim.index) for claim in pod.claims} == {"0", A, MIG}
