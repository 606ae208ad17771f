# SPDX-License-Identifier: Apache-2.0
"""What DRA drivers put into a container is claimed: metadata of KEP-5304, and SRIOVNETWORK_*."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_source import MemorySource, environ

from rdmatrain.discovery.model import Evidence
from rdmatrain.discovery.pod import read_pod
from rdmatrain.discovery.pod_model import Claim, Pod, Trust

SAMPLES = Path(__file__).parents[3] / "shared/fixtures/k8s"
needs_samples = pytest.mark.skipif(
    not SAMPLES.is_dir(), reason="the collected fixtures are not beside the checkout"
)
ROOT = "/var/run/kubernetes.io/dra-device-attributes"
DRIVER = "sriovnetwork.k8snetworkplumbingwg.io"
FILE = f"{ROOT}/resourceclaimtemplates/nics/nic0/{DRIVER}-metadata.json"
V1 = "metadata.resource.k8s.io/v1alpha1"
NIC = {
    "driver": DRIVER,
    "pool": "node-1",
    "name": "0000-0c-00-2",
    "attributes": {
        "resource.kubernetes.io/pciBusID": {"string": "0000:0c:00.2"},
        "resource.kubernetes.io/pcieRoot": {"string": "pci0000:07"},
        "dra.net/numaNode": {"int": 0},
        f"{DRIVER}/rdmaCapable": {"bool": True},
        f"{DRIVER}/pfPciAddress": {"string": "0000:0c:00.0"},
        f"{DRIVER}/rdmaDevice": {"string": "mlx5_4"},
    },
    "networkData": {
        "interfaceName": "net1",
        "ips": ["10.0.1.7/24", "fd00::7/64"],
        "hardwareAddress": "7a:bb:87:d9:b4:94",
    },
}
CLAIM = Claim(
    Evidence(FILE, f"{DRIVER} 0000-0c-00-2 0000:0c:00.2 net1"),
    Trust.DEVICE_INFO,
    "nic",
    pci="0000:0c:00.2",
    rdma=("mlx5_4",),
    netdev="net1",
    network="nics/nic0",
    resource=DRIVER,
    pf="0000:0c:00.0",
    root="pci0000:07",
    numa=0,
    addresses=("10.0.1.7", "fd00::7"),
)
# Attributes as the driver for NVIDIA's GPUs publishes them.
GPU = {
    "driver": "gpu.nvidia.com",
    "name": "gpu-1",
    "attributes": {
        "uuid": {"string": "GPU-a498ba79-aa87-d951-24e9-fae585d4eb6c"},
        "type": {"string": "gpu"},
        "productName": {"string": "NVIDIA A100-SXM4-40GB"},
        "cudaComputeCapability": {"version": "8.0.0"},
        "resource.kubernetes.io/pciBusID": {"string": "0000:10:1d.0"},
        "resource.kubernetes.io/pcieRoot": {"string": "pci0000:10"},
        "resource.kubernetes.io/numaNode": {"ints": [1]},
    },
}


def document(*devices: Any, version: str = V1) -> str:
    requests = [{"name": "nic0", "devices": list(devices)}]
    return json.dumps({"apiVersion": version, "podClaimName": "nics", "requests": requests})


def pod_of(text: str = "", path: str = FILE, **files: Any) -> Pod:
    return read_pod(MemorySource({"/proc/self/environ": "", path: text, **files}))


def env_of(variables: dict[str, str]) -> Pod:
    return read_pod(MemorySource({"/proc/self/environ": environ(variables)}))


def ids(pod: Pod) -> list[str]:
    return [complaint.id for complaint in pod.complaints]


def test_a_device_of_a_network_driver_is_a_nic() -> None:
    pod = pod_of(document(NIC))
    assert pod.claims == (CLAIM,)
    assert pod.complaints == ()


def test_a_device_of_a_gpu_driver_is_a_gpu() -> None:
    path = f"{ROOT}/resourceclaims/mine/gpus/gpu.nvidia.com-metadata.json"
    pod = pod_of(json.dumps({"apiVersion": V1, "requests": [{"devices": [GPU]}]}), path)
    assert pod.claims == (
        Claim(
            Evidence(path, "gpu.nvidia.com gpu-1 0000:10:1d.0"),
            Trust.DEVICE_INFO,
            "gpu",
            pci="0000:10:1d.0",
            network="mine/gpus",
            resource="gpu.nvidia.com",
            root="pci0000:10",
            numa=1,
            uuid="GPU-a498ba79-aa87-d951-24e9-fae585d4eb6c",
        ),
    )
    assert pod.complaints == ()


@pytest.mark.parametrize(
    ("driver", "attributes", "kind"),
    [
        ("gpu.amd.com", {}, "gpu"),
        ("gpu.example.com", {}, "gpu"),
        ("acme.com", {"type": {"string": "mig"}}, "gpu"),
        ("dra.net", {}, "nic"),
        ("sriovnetwork.openshift.io", {}, "nic"),
        ("sriovnetwork.k8snetworkplumbingwg.io", {}, "nic"),
        ("cni.dra.networking.x-k8s.io", {}, "nic"),
        ("acme.com", {"dra.net/rdma": {"bool": True}}, "nic"),
        ("fpga.vendor.net", {"dra.net/ifName": {"string": "net1"}}, "nic"),
        ("fpga.vendor.net", {"productName": {"string": "U280"}}, ""),
        ("storage.networks.example.com", {}, ""),
        ("dra.network", {}, ""),
        ("compute-domain.nvidia.com", {"type": {"string": "channel"}}, ""),
        ("dra.cpu", {}, ""),
        ("memory.kubernetes.io", {}, ""),
        ("", {}, ""),
    ],
)
def test_drivers_and_attributes_tell_what_a_device_is(
    driver: str, attributes: dict[str, Any], kind: str
) -> None:
    device = {"driver": driver, "name": "x", "attributes": attributes}
    assert [claim.kind for claim in pod_of(document(device)).claims] == ([kind] if kind else [])


@pytest.mark.parametrize(
    "path",
    [
        f"{ROOT}/resourceclaims/nics/nic0/{DRIVER}-metadata.json",
        f"{ROOT}/resourceclaimtemplates/nics/nic0/{DRIVER}-metadata.json",
        f"/var/run/dra-device-attributes/nics/nic0/{DRIVER}-metadata.json",
        f"/var/run/dra-device-attributes/{DRIVER}/nics/metadata.json",
    ],
)
def test_files_are_found_by_every_layout(path: str) -> None:
    (claim,) = pod_of(document(NIC), path).claims
    assert (claim.pci, claim.network, claim.evidence.source) == ("0000:0c:00.2", "nics/nic0", path)


def test_names_of_claim_and_request_are_those_of_the_folders_if_the_file_has_none() -> None:
    text = json.dumps({"apiVersion": V1, "requests": [{"devices": [NIC]}]})
    assert [claim.network for claim in pod_of(text).claims] == ["nics/nic0"]


def test_the_first_version_that_is_known_counts() -> None:
    newer = document({**NIC, "attributes": {}}, version="metadata.resource.k8s.io/v2")
    beta = document(NIC, version="metadata.resource.k8s.io/v1beta1")
    alpha = document({**NIC, "name": "0000-0d-00-2", "attributes": {}})
    assert pod_of(f"{newer}\n{beta}{alpha}\n").claims == (CLAIM,)


def test_versions_that_are_all_unknown_are_complained_of() -> None:
    pod = pod_of(document(NIC, version="metadata.resource.k8s.io/v2") + '{"apiVersion": 7}')
    assert pod.claims == ()
    (complaint,) = pod.complaints
    assert (complaint.id, complaint.source) == ("unreadable", FILE)
    assert "metadata.resource.k8s.io/v2" in complaint.text


def test_a_file_that_is_torn_counts_as_far_as_it_goes() -> None:
    whole = document(NIC)
    assert ids(pod_of(whole + whole[:50])) == []
    assert pod_of(whole + whole[:50]).claims == (CLAIM,)
    # All that can be written of one object: nothing, a part, or zeros in place of the rest.
    for text in ["", whole[:1], whole[:-1], whole[:40] + "\0" * 9]:
        pod = pod_of(text)
        assert pod.claims == ()
        assert [(each.id, each.source) for each in pod.complaints] == [("metadata-torn", FILE)]
    newer = document(NIC, version="metadata.resource.k8s.io/v2")
    assert ids(pod_of(newer + whole[:50])) == ["metadata-torn"]


def test_a_nic_without_network_data_is_late() -> None:
    early = {key: value for key, value in NIC.items() if key != "networkData"}
    pod = pod_of(document(early))
    assert [(claim.pci, claim.netdev) for claim in pod.claims] == [("0000:0c:00.2", "")]
    (complaint,) = pod.complaints
    assert (complaint.id, complaint.source) == ("metadata-late", FILE)
    assert "0000-0c-00-2" in complaint.text


def test_spellings_of_the_proposal_are_read() -> None:
    device = {
        "driver": "dra.net",
        "attributes": {
            "resource.k8s.io/pciBusID": {"string": "0000:0c:00.2"},
            "resource.k8s.io/pcieRoot": {"string": "pci0000:07"},
            "numaNode": {"ints": [3]},
            "dra.net/rdmaDevice": {"strings": ["mlx5_4", "smi1"]},
        },
        "networkData": {"interfaceName": "net1", "addresses": ["10.0.1.7"], "hwAddress": "7a:bb"},
    }
    (claim,) = pod_of(document(device)).claims
    assert (claim.pci, claim.root, claim.numa) == ("0000:0c:00.2", "pci0000:07", 3)
    assert (claim.rdma, claim.addresses) == (("mlx5_4", "smi1"), ("10.0.1.7",))


def test_an_attribute_of_kubernetes_goes_before_one_of_a_driver() -> None:
    for name in ("a.b/pciBusID", "z.b/pciBusID"):
        attributes = {
            name: {"string": "0000:ff:00.0"},
            "resource.kubernetes.io/pciBusID": {"string": "0000:0c:00.2"},
        }
        (claim,) = pod_of(document({**NIC, "attributes": attributes})).claims
        assert claim.pci == "0000:0c:00.2"


def test_a_device_without_an_address_is_known_by_its_name() -> None:
    for name in ("0000-0c-00-2", "pci-0000-0c-00-2"):
        (claim,) = pod_of(document({**NIC, "name": name, "attributes": {}})).claims
        assert claim.pci == "0000:0c:00.2"


@pytest.mark.parametrize(
    "value", [{"ints": [0, 1]}, {"int": -1}, {"int": True}, {"int": "0"}, {"int": 1.5}, None, []]
)
def test_a_node_that_is_not_one_number_is_not_known(value: Any) -> None:
    device = {**NIC, "attributes": {"resource.kubernetes.io/numaNode": value}}
    (claim,) = pod_of(document(device)).claims
    assert claim.numa is None


@pytest.mark.parametrize("requests", [None, 7, {}, [7], [{"name": "x"}], [{"devices": {}}]])
def test_requests_of_a_wrong_type_are_complained_of(requests: Any) -> None:
    pod = pod_of(json.dumps({"apiVersion": V1, "requests": requests}))
    assert ids(pod) == ["unreadable"]
    assert ids(pod_of(json.dumps({"apiVersion": V1, "requests": []}))) == []


@needs_samples
def test_constructed_files_are_read() -> None:
    early = pod_of((SAMPLES / "kep5304_constructed_gen1.json").read_text())
    assert [(claim.pci, claim.netdev, claim.numa) for claim in early.claims] == [
        ("0000:0c:00.2", "", 0)
    ]
    assert ids(early) == ["metadata-late"]
    text = (SAMPLES / "kep5304_constructed_gen2_stream.json").read_text()
    later = pod_of(text)
    assert [(claim.netdev, claim.addresses) for claim in later.claims] == [("net1", ("10.0.1.7",))]
    assert ids(later) == []


@needs_samples
@pytest.mark.parametrize("length", range(0, 1600, 53))
def test_a_file_that_is_cut_anywhere_gives_its_device_or_is_torn(length: int) -> None:
    text = (SAMPLES / "kep5304_constructed_gen2_stream.json").read_text()
    pod = pod_of(text[:length])
    found = [claim.pci for claim in pod.claims], ids(pod)
    whole = len(text.rstrip())
    assert found == ((["0000:0c:00.2"], []) if length >= whole else ([], ["metadata-torn"]))


def test_variables_of_the_driver_for_sriov_are_claimed() -> None:
    pod = env_of(
        {
            "SRIOVNETWORK_VF_DEVICE_0000_08_00_1": "0000:08:00.1",
            "SRIOVNETWORK_NET_ATTACH_DEF_NAME": "vf-net",
            "SRIOVNETWORK_0000_08_00_1_RDMA_UVERB": "/dev/infiniband/uverbs4",
            "SRIOVNETWORK_0000_08_00_1_RDMA_UMAD": "/dev/infiniband/umad4",
            "SRIOVNETWORK_0000_08_00_1_RDMA_CM": "/dev/infiniband/rdma_cm",
            "SRIOVNETWORK_0000_08_00_1_RDMA_DEVICE": "mlx5_4",
            "SRIOVNETWORK_PCI_ADDRESSES": "0000:08:00.1",
        }
    )
    source = "SRIOVNETWORK_VF_DEVICE_0000_08_00_1 in environment"
    assert pod.claims == (
        Claim(
            Evidence(source, "0000:08:00.1, /dev/infiniband/uverbs4, mlx5_4"),
            Trust.VARIABLE,
            "nic",
            pci="0000:08:00.1",
            rdma=("mlx5_4",),
            network="vf-net",
            resource=DRIVER,
            uverbs="uverbs4",
        ),
    )
    assert pod.complaints == ()


def test_of_several_devices_each_is_claimed_without_the_network() -> None:
    pod = env_of(
        {
            "SRIOVNETWORK_VF_DEVICE_0000_08_00_1": "0000:08:00.1",
            "SRIOVNETWORK_VF_DEVICE_DEVICE_2": "0000:08:00.2",
            "SRIOVNETWORK_0000_08_00_3_RDMA_DEVICE": "mlx5_6",
            "SRIOVNETWORK_NET_ATTACH_DEF_NAME": "vf-net",
            "SRIOVNETWORK_PCI_ADDRESSES": "0000:08:00.1,0000:08:00.2,0000:08:00.3,0000:08:00.4",
        }
    )
    assert {(claim.pci, claim.network, claim.rdma) for claim in pod.claims} == {
        ("0000:08:00.1", "", ()),
        ("0000:08:00.2", "", ()),
        ("0000:08:00.3", "", ("mlx5_6",)),
        ("0000:08:00.4", "", ()),
    }
    assert pod.complaints == ()


def test_addresses_that_a_list_lacks_are_complained_of() -> None:
    variables = {
        "SRIOVNETWORK_VF_DEVICE_0000_08_00_1": "0000:08:00.1",
        "SRIOVNETWORK_PCI_ADDRESSES": "0000:08:00.2,x",
    }
    pod = env_of(variables)
    assert [claim.pci for claim in pod.claims] == ["0000:08:00.1", "0000:08:00.2"]
    assert ids(pod) == ["unreadable", "lists-differ"]


def test_a_device_whose_address_is_none_is_complained_of() -> None:
    pod = env_of({"SRIOVNETWORK_VF_DEVICE_X": "eth0", "SRIOVNETWORK_X_RDMA_DEVICE": "mlx5_6"})
    assert [(claim.pci, claim.rdma) for claim in pod.claims] == [("", ("mlx5_6",))]
    assert ids(pod) == ["unreadable"]
    assert env_of({"SRIOVNETWORK_VF_DEVICE_X": "eth0"}).claims == ()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner)
    | st.dictionaries(st.sampled_from([*NIC, *NIC["attributes"], "string", "ints"]), inner),
    max_leaves=8,
)


@given(JSON)
@settings(deadline=None, max_examples=150)
def test_whatever_a_device_is_the_others_count(device: Any) -> None:
    assert CLAIM in pod_of(document(device, NIC)).claims


@given(st.text(), st.integers(0, 700))
@settings(deadline=None, max_examples=150)
def test_whatever_a_file_is_the_others_count(junk: str, length: int) -> None:
    other = f"{ROOT}/resourceclaims/a/b/c.json"
    pod = pod_of(document(NIC), **{other: document(NIC)[:length] + junk})
    assert CLAIM in pod.claims
    assert all(complaint.text.isprintable() for complaint in pod.complaints)


@given(st.permutations(list(NIC["attributes"].items())))
@settings(deadline=None, max_examples=30)
def test_the_order_of_attributes_does_not_matter(attributes: list[tuple[str, Any]]) -> None:
    assert pod_of(document({**NIC, "attributes": dict(attributes)})).claims == (CLAIM,)


@given(st.text(), st.text(st.characters(categories=["L", "N"]), max_size=8))
@settings(deadline=None, max_examples=100)
def test_whatever_a_variable_of_the_driver_is_the_others_count(value: str, device: str) -> None:
    names = [f"SRIOVNETWORK_VF_DEVICE_{device}", f"SRIOVNETWORK_{device}_RDMA_DEVICE",
             "SRIOVNETWORK_PCI_ADDRESSES"]  # fmt: skip
    variables = dict.fromkeys(names, value) | {"SRIOVNETWORK_VF_DEVICE_1": "0000:08:00.1"}
    assert "0000:08:00.1" in {claim.pci for claim in env_of(variables).claims}
