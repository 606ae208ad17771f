# SPDX-License-Identifier: Apache-2.0
"""Variables are read from below the shell, and what a device plugin put there is claimed."""

import errno
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_source import Link, MemorySource, environ

from rdmatrain.discovery.claims.pcidevice import resource
from rdmatrain.discovery.model import Evidence
from rdmatrain.discovery.pod import read_pod
from rdmatrain.discovery.pod_model import Claim, Pod, Trust, Variable

SAMPLES = Path(__file__).parents[3] / "shared/fixtures/k8s/pcidevice_env_samples.env"
VF = "PCIDEVICE_NVIDIA_COM_RDMA-VF"
# As the plugin's provider for RDMA writes it.
INFO = (
    '{"0000:0c:00.2":{"generic":{"deviceID":"0000:0c:00.2"},"rdma":{"issm":"/dev/infiniband/issm18",'
    '"rdma_cm":"/dev/infiniband/rdma_cm","rdma_dev":"mlx5_18","umad":"/dev/infiniband/umad18",'
    '"uverbs":"/dev/infiniband/uverbs18"}}}'
)


def pod_of(own: dict[str, str], **others: dict[str, str] | int) -> Pod:
    """Read a pod: ``parent`` is process 40, ``first`` process 1."""
    files: dict[str, str | list[str] | Link | int] = {
        "/proc/self": Link("41"),
        "/proc/41/status": "Name:\tpython\nPid:\t41\nPPid:\t40\n",
        "/proc/41/environ": environ(own),
    }
    for number, key in ((40, "parent"), (1, "first")):
        each = others.get(key, errno.EACCES)
        files[f"/proc/{number}/environ"] = each if isinstance(each, int) else environ(each)
    return read_pod(MemorySource(files))


def ids(pod: Pod) -> list[str]:
    return [complaint.id for complaint in pod.complaints]


def test_the_nearest_process_that_has_a_variable_counts() -> None:
    pod = pod_of({"A": "own"}, parent={"A": "p", "B": "p"}, first={"A": "1", "B": "1", "C": "1"})
    assert pod.variables == (
        Variable("A", "own", "environment"),
        Variable("B", "p", "/proc/40/environ"),
        Variable("C", "1", "/proc/1/environ"),
    )
    assert pod.complaints == ()


def test_a_child_of_process_1_has_one_ancestor() -> None:
    files = {"/proc/self/status": "PPid:\t1\n", "/proc/1/environ": environ({"B": "1"})}
    pod = read_pod(MemorySource({**files, "/proc/self/environ": environ({VF: "0000:0c:00.2"})}))
    assert [variable.source for variable in pod.variables] == ["/proc/1/environ", "environment"]
    assert pod.complaints == ()


def test_what_a_shell_dropped_is_found_and_complained_of() -> None:
    # dash kept the variable whose name it could have written itself.
    device = {VF: "0000:0c:00.2", "PCIDEVICE_INTEL_COM_SRIOV": "0000:03:02.1"}
    pod = pod_of({"PCIDEVICE_INTEL_COM_SRIOV": "0000:03:02.1"}, first=device)
    assert [(claim.pci, claim.evidence.source) for claim in pod.claims] == [
        ("0000:03:02.1", "PCIDEVICE_INTEL_COM_SRIOV in environment"),
        ("0000:0c:00.2", f"{VF} in /proc/1/environ"),
    ]
    (complaint,) = pod.complaints
    assert (complaint.id, complaint.source) == ("env-lost-by-shell", "/proc/1/environ")
    assert VF in complaint.text
    assert 'command: ["rdmatrain", ...]' in complaint.text


def test_what_was_not_dropped_is_not_complained_of() -> None:
    assert ids(pod_of({VF: "0000:0c:00.2"}, first={VF: "0000:0c:00.2"})) == []
    # slurmd does not pass on its environment: no shell lost this one.
    assert ids(pod_of({}, first={"PCIDEVICE_INTEL_COM_SRIOV": "0000:03:02.1", "A-B": "1"})) == []


def test_a_variable_that_was_changed_since_is_complained_of() -> None:
    pod = pod_of({VF: "0000:0c:00.2"}, parent={VF: "0000:0c:00.2"}, first={VF: "0000:2a:00.2"})
    assert [claim.pci for claim in pod.claims] == ["0000:0c:00.2"]
    (complaint,) = pod.complaints
    assert (complaint.id, complaint.source) == ("env-differs", f"{VF} in environment")
    assert "0000:2a:00.2" in complaint.text
    assert "/proc/1/environ" in complaint.text
    # Others differ as they like.
    assert ids(pod_of({"PWD": "/a"}, first={"PWD": "/"})) == []


def test_garbage_in_an_environment_does_no_harm() -> None:
    text = f"\0\0=x\0no equals\0{VF}=0000:0c:00.2\0A==\0\udcff=1\0{VF}=0000:ff:00.2\0B=1"
    pod = read_pod(MemorySource({"/proc/self/environ": text}))
    assert {variable.name: variable.value for variable in pod.variables} == {
        VF: "0000:0c:00.2",
        "A": "=",
        "\udcff": "1",
        "B": "1",
    }
    assert pod.complaints == ()


def test_environments_that_cannot_be_read_are_complained_of_if_none_can() -> None:
    closed = {f"/proc/{number}/environ": errno.EACCES for number in ("self", "1")}
    (complaint,) = read_pod(MemorySource(closed)).complaints
    assert (complaint.id, complaint.source) == ("unreadable", "/proc/self/environ")
    assert "EACCES" in complaint.text
    assert read_pod(MemorySource({**closed, "/proc/1/environ": "A=1\0"})).complaints == ()
    # Then nobody knows what a shell dropped.
    assert read_pod(MemorySource({**closed, "/proc/1/environ": f"{VF}=0:1:2.3\0"})).complaints == ()


def test_a_list_and_its_info_are_claims_of_their_own() -> None:
    pod = pod_of({VF: "0000:0c:00.2", f"{VF}_INFO": INFO})
    assert pod.claims == (
        Claim(
            Evidence(f"{VF} in environment", "0000:0c:00.2"),
            Trust.VARIABLE,
            "nic",
            pci="0000:0c:00.2",
            resource="nvidia.com/rdma-vf",
        ),
        Claim(
            Evidence(
                f"{VF}_INFO in environment",
                "0000:0c:00.2, issm /dev/infiniband/issm18, rdma_cm /dev/infiniband/rdma_cm, "
                "rdma_dev mlx5_18, umad /dev/infiniband/umad18, uverbs /dev/infiniband/uverbs18",
            ),
            Trust.VARIABLE,
            "nic",
            pci="0000:0c:00.2",
            rdma=("mlx5_18",),
            resource="nvidia.com/rdma-vf",
            uverbs="uverbs18",
        ),
    )
    assert pod.complaints == ()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (VF, "nvidia.com/rdma-vf"),
        ("PCIDEVICE_INTEL_COM_DPDK_NIC_1", "intel.com/dpdk_nic_1"),
        ("PCIDEVICE_OPENSHIFT_IO_X", "openshift.io/x"),
        ("PCIDEVICE_RDMA_MY-CORP_COM_A-B", "rdma.my-corp.com/a-b"),
        ("PCIDEVICE_ACME_NIC", "acme_nic"),
        ("PCIDEVICE_", ""),
    ],
)
def test_the_resource_shows_through_its_variable(name: str, expected: str) -> None:
    assert resource(name) == expected


def test_other_providers_and_free_keys_change_nothing() -> None:
    # Its own README has these: a VF for DPDK, whose RDMA nobody asked about.
    value = (
        '{"0000:3b:02.6":{"extraInfo":{"token":"3e49019f"},"vfio":{"vfio-dev-mount":"/dev/vfio/169",'
        '"vfio-mount":"/dev/vfio/vfio"},"vhost":{"net-mount":"/dev/vhost-net"},"vdpa":{"mount":"/x"}}}'
    )
    name = "PCIDEVICE_INTEL_COM_DPDK_NIC_1"
    pod = pod_of({name: "0000:3b:02.6", f"{name}_INFO": value})
    assert [(claim.pci, claim.rdma, claim.uverbs) for claim in pod.claims] == [
        ("0000:3b:02.6", (), "")
    ] * 2
    assert pod.complaints == ()


def test_an_empty_rdma_object_is_complained_of() -> None:
    pod = pod_of({VF: "0000:0c:00.2", f"{VF}_INFO": '{"0000:0c:00.2":{"generic":{},"rdma":{}}}'})
    (complaint,) = pod.complaints
    assert (complaint.id, complaint.source) == ("rdma-not-told", f"{VF}_INFO in environment")
    assert "0000:0c:00.2" in complaint.text


def test_a_list_and_its_info_that_differ_are_complained_of() -> None:
    pod = pod_of({VF: "0000:0c:00.2,0000:2a:00.2", f"{VF}_INFO": INFO})
    (complaint,) = pod.complaints
    assert (complaint.id, complaint.source) == ("lists-differ", VF)
    assert "0000:2a:00.2" in complaint.text
    # Older versions have no _INFO at all; no version has it alone.
    assert ids(pod_of({VF: "0000:0c:00.2"})) == []
    assert ids(pod_of({f"{VF}_INFO": INFO})) == ["lists-differ"]


def test_a_resource_may_be_called_info() -> None:
    name = "PCIDEVICE_ACME_COM_INFO"
    pod = pod_of({name: "0000:0c:00.2", f"{name}_INFO": INFO})
    assert {(claim.pci, claim.resource) for claim in pod.claims} == {
        ("0000:0c:00.2", "acme.com/info")
    }
    assert len(pod.claims) == 2
    assert pod.complaints == ()


def test_a_subfunction_has_a_name_in_place_of_an_address() -> None:
    info = '{"mlx5_core.sf.4":{"rdma":{"rdma_dev":"mlx5_7","uverbs":"/dev/infiniband/uverbs7"}}}'
    pod = pod_of({VF: "mlx5_core.sf.4", f"{VF}_INFO": info})
    assert [(claim.pci, claim.auxiliary, claim.rdma, claim.uverbs) for claim in pod.claims] == [
        ("", "mlx5_core.sf.4", (), ""),
        ("", "mlx5_core.sf.4", ("mlx5_7",), "uverbs7"),
    ]
    assert pod.complaints == ()


def test_a_device_that_is_listed_twice_counts_once() -> None:
    pod = pod_of({VF: "0000:0c:00.2,0000:2a:00.2, 0000:0c:00.2,"})
    assert [claim.pci for claim in pod.claims] == ["0000:0c:00.2", "0000:2a:00.2"]
    assert ids(pod) == ["listed-twice"]


def test_a_device_of_two_resources_is_complained_of() -> None:
    pod = pod_of({"PCIDEVICE_A_COM_X": "0000:0c:00.2", "PCIDEVICE_A_COM_Y": "0000:0c:00.2"})
    (complaint,) = pod.complaints
    assert (complaint.id, complaint.source) == ("listed-twice", "PCIDEVICE_A_COM_Y")
    assert "PCIDEVICE_A_COM_X" in complaint.text


@pytest.mark.parametrize(
    "value",
    ["eth0", "0000:0c:00.9", "0000:0c:20.0", "960.0", "0000:0c:00.2;0000:2a:00.2", "\x1b[31m"],
)
def test_what_is_no_address_is_complained_of_and_the_rest_counts(value: str) -> None:
    pod = pod_of({VF: f"{value},0000:2a:00.2"})
    assert [claim.pci for claim in pod.claims] == ["0000:2a:00.2"]
    (complaint,) = pod.complaints
    assert (complaint.id, complaint.source) == ("unreadable", f"{VF} in environment")
    assert value.replace("\x1b", r"\x1b") in complaint.text
    assert complaint.text.isprintable()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("{", "is not JSON"),
        ('{"0000:0c:00.2":' * 60_000, "recursion"),
        ('[{"0000:0c:00.2":{}}]', "is no object of JSON"),
        ('{"eth0":{}}', "is no PCI address"),
        (INFO[:-1] + ',"0000:0c:00.2":{}}', "twice"),
        (INFO[:-1] + ',"x":NaN}', "'NaN'"),
        (INFO[:-1] + ',"x":-Infinity}', "'-Infinity'"),
        (INFO[:-1] + f',"x":{"9" * 5000}}}', "is too large a number"),
        (INFO + "}", "is not JSON"),
        (INFO + " {}", "is 2 JSON values"),
    ],
)
def test_damaged_info_is_complained_of_and_the_list_counts(value: str, says: str) -> None:
    pod = pod_of({VF: "0000:0c:00.2", f"{VF}_INFO": value})
    assert pod.claims[0].pci == "0000:0c:00.2"
    assert any(says in complaint.text for complaint in pod.complaints), pod.complaints
    assert all(len(complaint.text) < 500 for complaint in pod.complaints)


@pytest.mark.parametrize(
    "details", ["null", "[]", '"x"', "7", '{"rdma":[]}', '{"rdma":{"uverbs":7}}']
)
def test_details_of_a_wrong_type_are_left_out(details: str) -> None:
    pod = pod_of({VF: "0000:0c:00.2", f"{VF}_INFO": f'{{"0000:0c:00.2":{details}}}'})
    assert [(claim.pci, claim.rdma, claim.uverbs) for claim in pod.claims] == [
        ("0000:0c:00.2", (), "")
    ] * 2


def test_much_garbage_gives_few_complaints() -> None:
    pod = pod_of({VF: ",".join(f"x{number}" for number in range(1000)), "PCIDEVICE_A": "x"})
    assert ids(pod) == ["unreadable"] * 10
    assert pod.complaints[-1].text == "and 992 more"


@pytest.mark.skipif(
    not SAMPLES.exists(), reason="the collected fixtures are not beside the checkout"
)
def test_real_values_are_read() -> None:
    lines = [line for line in SAMPLES.read_text().splitlines() if line.startswith("PCIDEVICE")]
    found = [pod_of(dict([line.split("=", 1)])) for line in lines]
    assert [[claim.pci for claim in pod.claims] for pod in found] == [
        ["0000:03:02.1", "0000:03:04.3"],
        ["0000:07:03.1"],
        ["0000:3b:02.6"],
        ["0000:3b:02.6"],
    ]
    assert {claim.resource for pod in found for claim in pod.claims} == {
        "intel.com/sriov",
        "mellanox.com/mlx5_vf",
        "intel.com/dpdk_nic_1",
    }


ENVIRONMENT = {
    VF: "0000:0c:00.2,0000:2a:00.2",
    f"{VF}_INFO": INFO,
    "PCIDEVICE_INTEL_COM_SRIOV": "0000:03:02.1,nonsense",
    "PCIDEVICE_INTEL_COM_OTHER": "0000:03:02.1",
    "SRIOVNETWORK_VF_DEVICE_0000_08_00_1": "0000:08:00.1",
    "SRIOVNETWORK_VF_DEVICE_0000_08_00_2": "0000:08:00.2",
    "SRIOVNETWORK_0000_08_00_1_RDMA_DEVICE": "mlx5_4",
    "SRIOVNETWORK_PCI_ADDRESSES": "0000:08:00.2,0000:08:00.3",
    "NETWORK_STATUS": '[{"name": "train/net1", "interface": "net1"}]',
    "OTHER_NETWORK_STATUS": '[{"name": "train/net2", "interface": "net2"}]',
    "NVIDIA_VISIBLE_DEVICES": "GPU-8a10b6f7,3",
    "CUDA_VISIBLE_DEVICES": "1,0,x",
    "ROCR_VISIBLE_DEVICES": "1",
    "PATH": "/bin",
}


@given(st.permutations(list(ENVIRONMENT.items())), st.permutations(list(ENVIRONMENT.items())))
@settings(deadline=None, max_examples=50)
def test_the_order_of_variables_does_not_matter(
    own: list[tuple[str, str]], first: list[tuple[str, str]]
) -> None:
    lost = {name: value for name, value in own if "-" not in name}
    expected = pod_of({k: v for k, v in ENVIRONMENT.items() if "-" not in k}, first=ENVIRONMENT)
    assert (len(expected.claims), len(expected.restrictions)) == (12, 3)
    assert pod_of(lost, first=dict(first)) == expected


@st.composite
def damaged(draw: st.DrawFn, value: str) -> str:
    """A real value with a piece taken out, doubled or replaced."""
    start = draw(st.integers(0, len(value)))
    end = draw(st.integers(start, min(len(value), start + 20)))
    return (
        value[:start]
        + draw(st.sampled_from(["", value[start:end] * 2, "{", '"', ",", "\0", "é"]))
        + value[end:]
    )


@given(st.one_of(st.text(), damaged(INFO), damaged(json.dumps({"0000:2a:00.2": {"rdma": {}}}))))
@settings(deadline=None, max_examples=200)
def test_whatever_is_in_one_variable_the_others_count(value: str) -> None:
    pod = pod_of({"PCIDEVICE_A_COM_B": value, "PCIDEVICE_A_COM_B_INFO": value, VF: "0000:0c:00.2"})
    assert "nvidia.com/rdma-vf" in {claim.resource for claim in pod.claims}
    assert all(complaint.text.isprintable() for complaint in pod.complaints)


@given(st.text(), st.text())
@settings(deadline=None, max_examples=100)
def test_whatever_surrounds_a_variable_it_counts(before: str, after: str) -> None:
    text = f"{before}\0{VF}=0000:0c:00.2\0{after}"
    pod = read_pod(MemorySource({"/proc/self/environ": text, "/proc/self/status": before}))
    assert any(variable.name == VF for variable in pod.variables)
