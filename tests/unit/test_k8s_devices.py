# SPDX-License-Identifier: Apache-2.0
"""Devices of a job: what pods request, what operators are told, what DRA is asked for."""

import json
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import k8s_schemas
import pytest
import yaml
from k8s_device_jobs import NEW, Object, claim, job

from rdmatrain.errors import SettingError
from rdmatrain.k8s.devices import cluster_devices, job_devices, pod_devices
from rdmatrain.k8s.spec import DRA, INFINIBAND, SHARED, TCP, Network, Spec
from rdmatrain.k8s.validation import problems

OCI = Path(__file__).parents[3] / "shared/fixtures/oci"
NETWORKS = "k8s.v1.cni.cncf.io/networks"
H100_PFS = tuple(
    f"0000:{bus}:00.{port}"
    for bus in ("0c", "2a", "41", "58", "86", "a5", "bd", "d5")
    for port in (0, 1)
)


def of_kind(spec: Spec, kind: str) -> list[Object]:
    return [each for each in cluster_devices(spec, NEW).objects if each["kind"] == kind]


def the(spec: Spec, kind: str) -> Object:
    (found,) = of_kind(spec, kind)
    return found


def urgent(spec: Spec) -> list[str]:
    return [each.why for each in cluster_devices(spec, NEW).notes if each.urgent]


def oci(file: str, name: str, loader: Any = yaml.SafeLoader) -> Object:
    path = OCI / file
    if not path.is_file():
        pytest.skip(f"no {file} beside this checkout")
    objects: list[Object] = list(yaml.load_all(path.read_text(), loader))
    return next(each for each in objects if each["metadata"]["name"] == name)


# What a pod requests.


def test_a_pod_has_as_many_attachments_as_functions() -> None:
    fields, annotations, resources = pod_devices(job(Network(vfs=3)))
    assert fields == {}
    assert resources == {"nvidia.com/gpu": 8, "nvidia.com/rdma-vf": 3}
    assert json.loads(annotations[NETWORKS]) == [
        {"name": "rdma-vf", "interface": "net1"},
        {"name": "rdma-vf", "interface": "net2"},
        {"name": "rdma-vf", "interface": "net3"},
    ]


def test_networks_are_attached_in_their_order_with_their_namespaces() -> None:
    network = Network(vfs=2, networks=("net/rail-b", "rail-a"))
    assert json.loads(pod_devices(job(network))[1][NETWORKS]) == [
        {"name": "rail-b", "namespace": "net", "interface": "net1"},
        {"name": "rail-a", "interface": "net2"},
    ]


def test_a_shared_device_is_requested_once() -> None:
    network = Network(SHARED, 1, "rdma/hca", ("macvlan",))
    _, annotations, resources = pod_devices(job(network, gpus=0))
    assert resources == {"rdma/hca": 1}
    assert json.loads(annotations[NETWORKS]) == [{"name": "macvlan", "interface": "net1"}]


def test_claimed_devices_are_not_requested_of_plugins() -> None:
    fields, annotations, resources = pod_devices(job(Network(DRA, 8)))
    assert (annotations, resources) == ({}, {})
    assert fields["resourceClaims"] == [
        {"name": "devices", "resourceClaimTemplateName": "llm-devices"}
    ]
    assert fields["container"] == {"claims": [{"name": "devices"}]}
    (made,) = job_devices(job(Network(DRA, 8), namespace="train"), NEW).objects
    assert made["metadata"]["name"] == "llm-devices"
    assert made["metadata"]["namespace"] == "train"


def test_tcp_needs_no_device_but_gpus() -> None:
    spec = job(Network(TCP, networks=()))
    assert pod_devices(spec) == ({}, {}, {"nvidia.com/gpu": 8})
    assert cluster_devices(spec, NEW).objects == ()
    assert job_devices(spec, NEW).objects == ()


def test_the_hosts_network_has_nothing_attached() -> None:
    network = Network(SHARED, 1, "rdma/hca", host_network=True, host_network_reason="fabric")
    assert pod_devices(job(network))[1] == {}
    assert of_kind(job(network), "MacvlanNetwork") == []


def test_infiniband_does_without_a_network_and_roce_does_not() -> None:
    bare = Network(vfs=8, resource="rdma/ib", networks=(), link=INFINIBAND)
    assert pod_devices(job(bare))[1:] == ({}, {"nvidia.com/gpu": 8, "rdma/ib": 8})
    assert problems(job(bare)) == []
    roce = replace(bare, link="roce")
    assert [each.field for each in problems(job(roce))] == ["network.networks"]
    with pytest.raises(SettingError, match=r"network\.networks is empty, and RoCE"):
        pod_devices(job(roce))


@pytest.mark.parametrize("network", [Network(vfs=3, networks=("a", "b")),
                                     Network(SHARED, 1, "rdma/hca", ("a", "b"))])  # fmt: skip
def test_names_that_fit_no_device_are_refused(network: Network) -> None:
    with pytest.raises(SettingError, match=r"network\.networks has 2 names") as said:
        pod_devices(job(network))
    assert "\n" not in str(said.value)


# What operators are told.


def test_the_policy_is_that_of_a_cloud_with_the_same_machines() -> None:
    """But for what a cloud knows besides: its nodes' label, and who makes the functions."""
    theirs = oci("sriov-network-node-policy.yaml", "bm-gpu-h100-8")["spec"]
    ours = the(job(Network(vfs=16, mtu=4220, pfs=H100_PFS)), "SriovNetworkNodePolicy")["spec"]
    for name in ("externallyManaged", "nodeSelector", "nicSelector"):
        theirs.pop(name)
    # Their addresses are not quoted: YAML 1.1 takes 0000:41:00.0 for 2460 seconds.
    texts = oci("sriov-network-node-policy.yaml", "bm-gpu-h100-8", yaml.BaseLoader)["spec"]
    assert ours.pop("nicSelector") == texts["nicSelector"]
    assert {name: ours[name] for name in theirs} == theirs
    assert {name: ours[name] for name in set(ours) - set(theirs)} == {
        "linkType": "eth",
        "nodeSelector": {"feature.node.kubernetes.io/pci-15b3.present": "true"},
        "excludeTopology": False,
    }


def test_the_network_is_that_of_a_cloud() -> None:
    theirs = oci("sriov-network.yaml", "rdma-vf")["spec"]
    spec = job(Network(vfs=16, mtu=4220))
    ours = the(spec, "SriovNetwork")["spec"]
    plugins = [json.loads(f"[{each['metaPlugins']}]") for each in (ours, theirs)]
    assert plugins[0] == plugins[1]
    for name in ("resourceName", "networkNamespace", "spoofChk"):
        assert ours[name] == theirs[name]
    assert json.loads(ours["ipam"])["type"] == json.loads(theirs["ipam"])["type"] == "nv-ipam"
    assert json.loads(ours["ipam"])["poolName"] == the(spec, "IPPool")["metadata"]["name"]


def test_without_names_of_nics_there_is_no_policy_that_takes_all() -> None:
    spec = job(Network(vfs=2))
    assert of_kind(spec, "SriovNetworkNodePolicy") == []
    # Nor is the RDMA mode of all nodes with such NICs changed.
    assert of_kind(spec, "SriovNetworkPoolConfig") == []
    assert len(of_kind(spec, "SriovNetwork")) == 1
    (why,) = urgent(spec)
    assert "rdmaMode: exclusive" in why


@pytest.mark.parametrize(("vfs", "pfs", "each"), [(1, 8, 1), (8, 8, 1), (16, 8, 2), (9, 8, 2)])
def test_a_node_has_as_many_functions_as_a_pod_requests(vfs: int, pfs: int, each: int) -> None:
    names = tuple(f"eth{number}#0-7" for number in range(pfs))
    policy = the(job(Network(vfs=vfs, pfs=names)), "SriovNetworkNodePolicy")["spec"]
    assert policy["numVfs"] == each
    assert policy["nicSelector"] == {"vendor": "15b3", "pfNames": list(names)}


def test_rdma_devices_are_of_one_pod_only() -> None:
    spec = job(Network(vfs=2, pfs=("eth1",)))
    pool = the(spec, "SriovNetworkPoolConfig")["spec"]
    assert pool["rdmaMode"] == "exclusive"
    policy = the(spec, "SriovNetworkNodePolicy")["spec"]
    assert pool["nodeSelector"]["matchLabels"] == policy["nodeSelector"]


def test_infiniband_has_its_own_kind_of_network() -> None:
    spec = job(Network(vfs=8, link=INFINIBAND, networks=("ib",), pfs=("ibp24s0",)))
    assert of_kind(spec, "SriovNetwork") == []
    assert the(spec, "SriovIBNetwork")["spec"]["metaPlugins"] == '{"type":"rdma"}'
    assert the(spec, "SriovNetworkNodePolicy")["spec"]["linkType"] == "ib"


def test_networks_have_subnets_of_their_own() -> None:
    spec = job(Network(vfs=4, networks=("a", "b", "a", "c")))
    pools = {each["metadata"]["name"]: each["spec"] for each in of_kind(spec, "IPPool")}
    assert {name: each["subnet"] for name, each in pools.items()} == {
        "a": "192.168.0.0/18",
        "b": "192.168.64.0/18",
        "c": "192.168.128.0/18",
    }
    assert all(each["perNodeBlockSize"] >= 4 for each in pools.values())
    assert pools["b"]["gateway"] == "192.168.64.1"


@pytest.mark.parametrize(
    ("networks", "subnet", "most", "length"),
    [
        # 64 addresses for the 16 interfaces of a node; the first and the last of all are nobody's.
        (("a",), "192.168.0.0/16", 1023, 15),
        (("a",), "10.0.0.0/25", 1, 24),
        (("a",), "10.0.0.0/32", 0, 25),
        # A sixteenth of it for each network, and 8 addresses for its interface of a node.
        (tuple("abcdefghijklmnop"), "192.168.0.0/16", 511, 15),
        (tuple("abcdefghijklmnop"), "192.168.0.0/30", 0, 24),
    ],
)
def test_a_subnet_has_a_block_for_each_node(
    networks: tuple[str, ...], subnet: str, most: int, length: int
) -> None:
    network = Network(vfs=16, networks=networks, subnet=subnet)
    if most:
        pools = of_kind(job(network, nodes=most), "IPPool")
        parts = [ip_network(each["spec"]["subnet"]) for each in pools]
        assert all(each.subnet_of(ip_network(subnet)) for each in parts)
        assert len({*parts}) == len(networks)
    said = rf"^network\.subnet is {subnet}, .* each node with .* {most + 1}: give a /{length}, "
    with pytest.raises(SettingError, match=said):
        cluster_devices(job(network, nodes=most + 1), NEW)
    wider = replace(network, subnet=f"0.0.0.0/{length}")
    assert of_kind(job(wider, nodes=most + 1), "IPPool")


def test_one_name_in_two_namespaces_is_refused() -> None:
    with pytest.raises(SettingError, match=r"network\.networks has y/net"):
        cluster_devices(job(Network(vfs=2, networks=("x/net", "y/net"))), NEW)


def test_functions_of_a_virtual_machine_are_offered_as_azure_does() -> None:
    """The configuration that Azure publishes for AKS and InfiniBand."""
    spec = job(Network(vfs=8, resource="rdma/ib", networks=(), link=INFINIBAND))
    (policy,) = cluster_devices(spec, NEW).objects
    plugin = policy["spec"]["sriovDevicePlugin"]
    assert json.loads(plugin["config"]) == {
        "resourceList": [
            {
                "resourcePrefix": "rdma",
                "resourceName": "ib",
                "selectors": {"vendors": ["15b3"], "linkTypes": ["infiniband"], "isRdma": True},
            }
        ]
    }


def test_shared_devices_are_those_that_the_spec_names() -> None:
    network = Network(SHARED, 1, "rdma/hca", ("x/macvlan",), mtu=9000, pfs=("ens1f0np0#0-3",))
    config = json.loads(
        the(job(network), "NicClusterPolicy")["spec"]["rdmaSharedDevicePlugin"]["config"]
    )
    (offered,) = config["configList"]
    assert (offered["resourcePrefix"], offered["resourceName"]) == ("rdma", "hca")
    assert offered["selectors"] == {
        "vendors": ["15b3"],
        "linkTypes": ["ether"],
        "ifNames": ["ens1f0np0"],
    }
    made = the(job(network), "MacvlanNetwork")
    assert made["metadata"] == {"name": "macvlan"}
    assert made["spec"]["networkNamespace"] == "x"
    assert (made["spec"]["master"], made["spec"]["mtu"]) == ("ens1f0np0", 9000)


def test_shared_devices_cannot_be_named_by_address() -> None:
    network = Network(SHARED, 1, "rdma/hca", ("macvlan",), pfs=("0000:0c:00.0",))
    with pytest.raises(SettingError, match=r"network\.pfs has 0000:0c:00\.0"):
        cluster_devices(job(network), NEW)


def test_a_name_that_no_plugin_announces_is_refused() -> None:
    with pytest.raises(SettingError, match=r"network\.resource is nvidia\.com/rdma\.vf"):
        cluster_devices(job(Network(vfs=1, resource="nvidia.com/rdma.vf")), NEW)


def values(network: Network, gpus: int = 8) -> dict[str, Object]:
    texts = cluster_devices(job(network, gpus), NEW).texts
    return {name: yaml.safe_load(text) for name, text in texts}


def test_charts_bring_what_the_devices_need() -> None:
    operator = values(Network(vfs=2, resource="example.com/vf"))["network-operator.values"]
    assert operator["sriovNetworkOperator"] == {"enabled": True}
    assert operator["sriov-network-operator"]["operator"]["resourcePrefix"] == "example.com"
    shared = values(Network(SHARED, 1, "rdma/hca"))["network-operator.values"]
    assert shared["sriovNetworkOperator"] == {"enabled": False}
    assert set(values(Network(TCP))) == {"gpu-operator.values"}
    assert values(Network(TCP), gpus=0) == {}


def test_either_the_plugin_or_dra_hands_out_gpus() -> None:
    by_plugin = values(Network(vfs=2))
    assert by_plugin["gpu-operator.values"]["devicePlugin"] == {"enabled": True}
    assert "dra-driver-nvidia-gpu.values" not in by_plugin
    by_claim = values(Network(DRA, 8))
    assert by_claim["gpu-operator.values"]["devicePlugin"] == {"enabled": False}
    assert by_claim["dra-driver-nvidia-gpu.values"] == {"resources": {"gpus": {"enabled": True}}}
    # Node Feature Discovery is of one of the two.
    both = [by_claim[f"{name}-operator.values"]["nfd"]["enabled"] for name in ("gpu", "network")]
    assert both == [False, True]


def test_dra_attaches_its_networks_itself() -> None:
    spec = job(Network(DRA, 2, networks=("a", "x/b"), pfs=("eth1", "0000:0c:00.0")), gpus=2)
    a, b = of_kind(spec, "NetworkAttachmentDefinition")
    assert [each["metadata"] for each in (a, b)] == [
        {"name": "a", "namespace": "default"},
        {"name": "b", "namespace": "x"},
    ]
    # The driver writes deviceID beside the type: a list of plugins would never see it.
    assert json.loads(a["spec"]["config"])["type"] == "sriov"
    (offered,) = the(spec, "SriovResourcePolicy")["spec"]["configs"]
    assert offered["resourceFilters"] == [
        {
            "vendors": ["15b3"],
            "linkType": "eth",
            "pfNames": ["eth1"],
            "pfPciAddresses": ["0000:0c:00.0"],
        }
    ]
    asked = claim(spec.network, 2)["config"]
    told = [(each["requests"], each["opaque"]["parameters"]) for each in asked]
    assert [requests for requests, _ in told] == [["nic-0"], ["nic-1"]]
    assert [
        (each["ifName"], each["netAttachDefNamespace"], each["netAttachDefName"])
        for _, each in told
    ] == [("net1", "default", "a"), ("net2", "x", "b")]


def test_what_the_driver_of_claims_does_not_do_is_said() -> None:
    """It installs one CNI plugin, and chains none that keeps NICs of one fabric apart."""
    apart, mtu = urgent(job(Network(DRA, 8)))
    assert "arp_ignore=1" in apart
    for given in (0, 4220):
        assert urgent(job(Network(DRA, 1, mtu=given))) == [mtu]
    assert "packets of RoCE 1024" in mtu
    infiniband = job(Network(DRA, 8, link=INFINIBAND))
    (why,) = urgent(infiniband)
    assert "install ib-sriov-cni" in why
    (offered,) = the(infiniband, "SriovResourcePolicy")["spec"]["configs"]
    assert offered["resourceFilters"][0]["linkType"] == "ib"


def test_addresses_are_for_nodes_with_such_nics_alone() -> None:
    pool = the(job(Network(vfs=2)), "IPPool")["spec"]
    (term,) = pool["nodeSelector"]["nodeSelectorTerms"]
    assert term["matchExpressions"] == [
        {"key": "feature.node.kubernetes.io/pci-15b3.present", "operator": "In", "values": ["true"]}
    ]


def test_gpus_that_are_not_nvidias_need_no_operator_of_theirs() -> None:
    spec = job(Network(vfs=2), gpu_resource="amd.com/gpu")
    assert {name for name, _ in cluster_devices(spec, NEW).texts} == {"network-operator.values"}
    claimed = values(Network(DRA, 8, gpu_class="gpu.amd.com"))
    assert set(claimed) == {"network-operator.values", "dra-driver-sriov.values"}
    assert "gpu-operator.values" in values(Network(DRA, 8, gpu_class="mig.nvidia.com"))


def test_another_drivers_devices_are_claimed_without_our_words() -> None:
    network = Network(DRA, 2, device_class="dranet", networks=("unused",))
    asked = claim(network, 2)
    assert "config" not in asked
    nics = [each for each in asked["requests"] if each["name"].startswith("nic-")]
    assert [each["exactly"] for each in nics] == [{"deviceClassName": "dranet"}] * 2
    assert cluster_devices(job(network), NEW).objects == ()


@k8s_schemas.needs_crds
@pytest.mark.parametrize(
    "network",
    [
        Network(vfs=16, mtu=4220, pfs=H100_PFS),
        Network(vfs=8, link=INFINIBAND, networks=("ib",), pfs=("ibp24s0",)),
        Network(vfs=8, link=INFINIBAND, networks=(), resource="rdma/ib"),
        Network(SHARED, 1, "rdma/hca", ("macvlan",), pfs=("ens1f0np0",)),
        Network(SHARED, 1, "rdma/hca", ("ipoib",), INFINIBAND),
        Network(DRA, 16, pfs=("eth1", "0000:0c:00.0")),
        Network(DRA, 8, aligned="prefer", link=INFINIBAND),
        Network(DRA, 8, aligned="numa"),
    ],
    ids=lambda each: f"{each.devices}-{each.link}-{each.vfs}",
)
def test_objects_are_valid(network: Network) -> None:
    spec = job(network)
    objects = cluster_devices(spec, NEW).objects + job_devices(spec, NEW).objects
    assert objects
    assert [error for each in objects for error in k8s_schemas.errors(each)] == []


@pytest.mark.parametrize(
    ("network", "fields"),
    [
        (Network(vfs=2, mtu=9000, pfs=("eth1",)), "devices vfs resource networks link mtu pfs"),
        (Network(SHARED, 1, "rdma/a", mtu=9000), "devices resource networks mtu pfs"),
        (
            Network(DRA, 8, mtu=9000),
            "devices vfs networks link mtu pfs device_class gpu_class aligned",
        ),
    ],
    ids=lambda each: getattr(each, "devices", ""),
)
def test_fields_leave_notes_of_what_they_became(network: Network, fields: str) -> None:
    spec = job(network)
    notes = cluster_devices(spec, NEW).notes + job_devices(spec, NEW).notes
    assert {note.field for note in notes} >= {f"network.{name}" for name in fields.split()}
    assert all(note.why.endswith(".") and note.became for note in notes)
