# SPDX-License-Identifier: Apache-2.0
"""Sources are reconciled by how much they know, whatever they say, and in whatever order."""

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rdmatrain.discovery.allocation import reconcile
from rdmatrain.discovery.complaints import MEANING
from rdmatrain.discovery.model import Evidence, Gid, Gpu, Machine, Netdev, Nic, Port
from rdmatrain.discovery.pod_model import Allocation, Claim, Pod, Restriction, Trust

V2 = "RoCE v2"
ETH0 = Netdev("eth0", addresses=("10.244.1.5",))
NET1 = Netdev("net1", pci="0000:0c:00.2", addresses=("10.1.0.7",))
TABLE = (
    Gid(1, "fe80::7", V2, "net1"),
    Gid(2, "10.1.0.7", "RoCE v1", "net1"),
    Gid(3, "10.1.0.7", V2, "net1"),
)
VF = Nic(
    "mlx5_18",
    pci="0000:0c:00.2",
    netdevs=("net1",),
    ports=(Port("mlx5_18", 1, "ACTIVE", "Ethernet", TABLE),),
    uverbs="uverbs18",
)
HERE = Machine("this machine", nics=(VF,), netdevs=(ETH0, NET1))
SAYS = Claim(Evidence("PCIDEVICE_X in environment", VF.pci), Trust.VARIABLE, "nic", pci=VF.pci)


def opened(gids: dict[str, str], **changed: Any) -> dict[str, Any]:
    port = {"device": "mlx5_18", "port": 1, "error": "", "state": "ACTIVE", "gids": gids}
    return {"error": "", "ports": [port | changed]}


def ids(allocation: Allocation) -> list[str]:
    return [complaint.id for complaint in allocation.complaints]


def test_the_most_trusted_is_named_first() -> None:
    status = Claim(
        Evidence("network-status", "default/rail0"),
        Trust.DEVICE_INFO,
        "nic",
        pci=VF.pci,
        network="default/rail0",
    )
    node = Claim(Evidence("/dev/infiniband/uverbs18", "is there"), Trust.NAME, "nic")
    node = replace(node, uverbs="uverbs18")
    (granted,) = reconcile(HERE, Pod(claims=(node, SAYS, status)), opened({"3": ""})).nics
    assert [evidence.source for evidence in granted.evidence] == [
        "libibverbs",
        "this machine",
        "network-status",
        "PCIDEVICE_X in environment",
        "/dev/infiniband/uverbs18",
    ]
    assert (granted.port, granted.gid, granted.network) == (1, TABLE[2], "default/rail0")


def test_what_opens_is_used_though_its_node_is_not_seen() -> None:
    other = Claim(Evidence("/dev/infiniband/uverbs1", "is there"), Trust.NAME, "nic")
    pod = Pod(claims=(SAYS, replace(other, uverbs="uverbs1")))
    assert [each.nic for each in reconcile(HERE, pod, opened({"3": ""})).nics] == [VF]
    assert ids(reconcile(HERE, pod, opened({}, port=0, error="ENOENT"))) == ["nic-without-node"]
    # Of two that did not open it, the node tells why.
    assert "nic-without-node" in ids(reconcile(HERE, pod, None))


def test_a_gid_that_works_goes_before_a_better_one_that_was_not_tested() -> None:
    untested = "not tested: 1 s were over"
    (granted,) = reconcile(HERE, Pod(), opened({"1": "", "3": untested})).nics
    assert granted.gid == TABLE[0]
    (granted,) = reconcile(HERE, Pod(), opened({"1": "EINVAL", "3": untested})).nics
    assert granted.gid == TABLE[2]
    assert "libibverbs" not in [evidence.source for evidence in granted.evidence]


def test_a_gid_that_works_needs_no_word_of_the_kernel() -> None:
    bare = replace(VF, netdevs=(), ports=(replace(VF.ports[0], gids=(Gid(3, "10.9.9.9", ""),)),))
    machine = replace(HERE, nics=(bare,))
    assert reconcile(machine, Pod(), opened({"3": ""})).nics[0].gid == Gid(3, "10.9.9.9", "")
    assert reconcile(machine, Pod(), None).nics == ()


def test_an_entry_whose_type_cannot_be_read_is_of_another_namespace() -> None:
    port = replace(VF.ports[0], gids=(Gid(3, "10.1.0.7", "", "net1"),))
    found = reconcile(replace(HERE, nics=(replace(VF, ports=(port,)),)), Pod(), None)
    assert found.nics == ()
    assert "nic-without-gid" in ids(found)


def test_what_manages_the_fabric_is_no_nic_though_it_has_a_link() -> None:
    ports = (Port("", 1, "ACTIVE", "InfiniBand", (Gid(0, "fe80::1", "InfiniBand"),)),)
    nics = tuple(Nic(name, pci=VF.pci, ports=ports) for name in ("mlx5_0", "smi1"))
    for claims in ((), (SAYS,)):
        found = reconcile(replace(HERE, nics=nics), Pod(claims=claims), None)
        assert [each.nic.name for each in found.nics] == ["mlx5_0"]
        assert found.namespaces == ("exclusive" if claims else "")
        assert ids(found) == ["verbs-unavailable"]


def test_the_port_that_works_is_taken() -> None:
    down = replace(VF.ports[0], state="DOWN")
    nic = replace(VF, ports=(down, replace(VF.ports[0], number=2)))
    (granted,) = reconcile(replace(HERE, nics=(nic,)), Pod(), None).nics
    assert granted.port == 2


def test_a_file_of_a_topology_grants_all_that_it_has() -> None:
    nics = (Nic("mlx5_0"), Nic("mlx5_1", ports=(Port("mlx5_1", 1, "", "Ethernet"),)))
    gpus = (Gpu(0, "GPU0"), Gpu(1, "GPU1"))
    found = reconcile(Machine("topo.xml", gpus=gpus, nics=nics), Pod(), None)
    assert [(each.nic, each.port, each.gid) for each in found.nics] == [
        (nics[0], 0, None),
        (nics[1], 1, None),
    ]
    assert [each.gpu for each in found.gpus] == list(gpus)
    assert (found.others, found.complaints, found.namespaces) == ((), (), "")


def test_the_kernel_knows_the_mode_of_namespaces_best() -> None:
    foreign = Nic("mlx5_0", ports=(Port("", 1, "ACTIVE", "Ethernet"),))
    pod = Pod(claims=(SAYS,))
    shown = replace(HERE, nics=(VF, foreign))
    assert reconcile(shown, pod, None).namespaces == "shared"
    assert reconcile(replace(shown, namespaces="exclusive"), pod, None).namespaces == "exclusive"
    assert reconcile(HERE, pod, None).namespaces == "exclusive"
    assert reconcile(replace(HERE, namespaces="shared"), pod, None).namespaces == "shared"


def test_addresses_that_are_none_are_not_known() -> None:
    vlan = (Gid(3, "10.1.0.7", V2, "vlan0"),)
    nic = replace(VF, netdevs=(), ports=(replace(VF.ports[0], gids=vlan),))

    def granted(*addresses: str, gid: str = "10.1.0.7") -> list[str]:
        ports = (replace(nic.ports[0], gids=(replace(vlan[0], address=gid),)),)
        netdevs = (Netdev("vlan0", addresses=addresses),)
        machine = replace(HERE, nics=(replace(nic, ports=ports),), netdevs=netdevs)
        return [each.nic.name for each in reconcile(machine, Pod(), None).nics]

    assert granted("junk") == granted("10.1.0.7", "") == granted("10.1.0.9", gid="") == ["mlx5_18"]
    assert granted("junk", "10.1.0.9") == []


def test_hundreds_of_foreign_nics_are_one_complaint() -> None:
    empty = Port("", 1, "ACTIVE", "Ethernet")
    foreign = tuple(Nic(f"mlx5_{n}", ports=(empty,)) for n in range(100, 400))
    found = reconcile(replace(HERE, nics=(*foreign, VF)), Pod(claims=(SAYS,)), None)
    assert [each.nic for each in found.nics] == [VF]
    assert len(found.others) == 300
    assert found.namespaces == "shared"
    (told,) = (each for each in found.complaints if each.id == "nic-foreign")
    assert "mlx5_100, " in told.text
    assert "and 292 more" in told.text


NODE = replace(SAYS, evidence=Evidence("/dev/infiniband/uverbs18", "is there"), weight=Trust.NAME)
NODE = replace(NODE, pci="", uverbs="uverbs18")


def elsewhere(nic: Nic) -> Nic:
    """Return a NIC whose interface is in another network namespace."""
    gids = (Gid(3, "10.9.0.1", V2, "eth2"),)
    return replace(nic, netdevs=(), ports=(replace(nic.ports[0], gids=gids),))


def test_a_nic_that_can_be_opened_lacks_its_network() -> None:
    machine = replace(HERE, nics=(elsewhere(VF),), netdevs=(ETH0,))
    found = reconcile(machine, Pod(claims=(NODE,)), opened({"3": "EINVAL"}))
    (told,) = found.complaints
    assert told.id == "nic-without-gid"
    assert told.text.endswith("attach its network: annotation k8s.v1.cni.cncf.io/networks")
    assert found.namespaces == "shared"
    # Without any node it is not for this pod.
    assert "nic-foreign" in ids(reconcile(machine, Pod(), None))


def test_beside_a_nic_that_works_others_without_network_are_foreign() -> None:
    foreign = elsewhere(replace(VF, name="mlx5_19", pci="0000:2a:00.2", uverbs="uverbs19"))
    machine = replace(HERE, nics=(VF, foreign))
    pod = Pod(claims=(NODE, replace(NODE, uverbs="uverbs19")))
    found = reconcile(machine, pod, None)
    assert [each.nic for each in found.nics] == [VF]
    assert "nic-foreign" in ids(found)
    assert "nic-without-gid" not in ids(found)


def test_an_interface_that_is_here_needs_an_address() -> None:
    bare = replace(VF, ports=(replace(VF.ports[0], gids=()),))
    found = reconcile(replace(HERE, nics=(bare,)), Pod(claims=(NODE,)), opened({}))
    (told,) = found.complaints
    assert told.id == "nic-without-gid"
    assert told.text.endswith("needs an address in this network namespace")


def port_is(state: str, link_layer: str, *others: Nic) -> Allocation:
    """Return what is said of a NIC whose interface is here and whose only port is in a state."""
    ports = (Port("mlx5_19", 1, state, link_layer),)
    nic = Nic("mlx5_19", pci="0000:2a:00.0", netdevs=("net2",), ports=ports)
    netdevs = (*HERE.netdevs, Netdev("net2", pci=nic.pci))
    return reconcile(replace(HERE, nics=(nic, *others), netdevs=netdevs), Pod(), None)


def test_a_port_without_a_cable_is_no_fault_if_another_nic_works() -> None:
    for link_layer in ("Ethernet", "InfiniBand"):
        found = port_is("DOWN", link_layer, VF)
        assert [nic.name for nic, _ in found.others] == ["mlx5_19"]
        assert "is DOWN" in found.others[0][1]
        assert "nic-port-down" not in ids(found)
        assert "nic-port-down" in ids(port_is("DOWN", link_layer))
    down = replace(VF, ports=(replace(VF.ports[0], state="DOWN"),))
    assert "nic-port-down" in ids(port_is("DOWN", "Ethernet", down))


def test_infiniband_in_init_waits_for_the_subnet_manager() -> None:
    told = {each.id: each.text for each in port_is("INIT", "InfiniBand").complaints}
    assert "is INIT: it waits for the subnet manager" in told["nic-port-down"]
    for state, link_layer in (("INIT", "Ethernet"), ("DOWN", "InfiniBand")):
        told = {each.id: each.text for each in port_is(state, link_layer).complaints}
        assert "subnet manager" not in told["nic-port-down"]


def test_variables_of_one_vendor_hide_no_gpu_of_another() -> None:
    nvidia = Gpu(0, "GPU0", vendor="nvidia", uuid="GPU-a")
    amd = (Gpu(1, "GPU1", vendor="amd", uuid="GPU-b"), Gpu(2, "GPU2", vendor="amd", uuid="GPU-c"))
    machine = Machine("this machine", gpus=(nvidia, *amd))
    hip = Restriction(Evidence("HIP_VISIBLE_DEVICES", "0"), "amd", (0,))
    # Numbers count what the one before left.
    rocr = Restriction(Evidence("ROCR_VISIBLE_DEVICES", "1"), "amd", (1,))
    found = reconcile(machine, Pod(restrictions=(rocr, hip)), None)
    assert [each.gpu for each in found.gpus] == [nvidia, amd[1]]
    assert found.complaints == ()
    hidden = Restriction(Evidence("CUDA_VISIBLE_DEVICES", ""), "nvidia", ())
    assert [each.gpu for each in reconcile(machine, Pod(restrictions=(hidden,)), None).gpus] == [
        *amd
    ]


def test_an_old_name_of_a_slice_leads_to_its_gpu() -> None:
    machine = Machine("this machine", gpus=(Gpu(0, "GPU0", uuid="GPU-a"), Gpu(1, "GPU1")))
    said = Evidence("NVIDIA_VISIBLE_DEVICES", "MIG-GPU-a/1/0")
    claim = Claim(said, Trust.VARIABLE, "gpu", uuid="MIG-GPU-a/1/0")
    assert [each.gpu.name for each in reconcile(machine, Pod(claims=(claim,)), None).gpus] == [
        "GPU0"
    ]


CLAIMS = st.builds(
    Claim,
    st.builds(Evidence, st.sampled_from(["a", "b"]), st.just("")),
    st.sampled_from(Trust),
    st.sampled_from(["nic", "gpu"]),
    granted=st.booleans(),
    pci=st.sampled_from(["", "0000:0c:00.0", "0000:0c:00.2", "0000:ff:00.0"]),
    rdma=st.lists(st.sampled_from(["mlx5_0", "mlx5_18", "x"]), max_size=2).map(tuple),
    netdev=st.sampled_from(["", "eth0", "net1"]),
    network=st.sampled_from(["", "rail0"]),
    uverbs=st.sampled_from(["", "uverbs0", "uverbs18"]),
    pf=st.sampled_from(["", "0000:0c:00.0"]),
    uuid=st.sampled_from(["", "GPU-", "GPU-a", "MIG-x"]),
    index=st.sampled_from([None, 0, 1, 7]),
    minor=st.sampled_from([None, 0, 3]),
    auxiliary=st.sampled_from(["", "mlx5_core.sf.4"]),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2)
    | st.dictionaries(
        st.sampled_from(["error", "ports", "device", "port", "state", "gids", "3"]), inner
    ),
    max_leaves=12,
)
PF = Nic("mlx5_0", pci="0000:0c:00.0", uverbs="uverbs0", ports=(Port("mlx5_0", 1, "", ""),))
BUSY = Machine(
    "this machine",
    gpus=(Gpu(0, "GPU0", uuid="GPU-a", minor=3), Gpu(1, "GPU1", uuid="GPU-b", mig=("MIG-x",))),
    nics=(replace(VF, pf=PF.pci), PF),
    netdevs=(ETH0, NET1),
)


@settings(deadline=None, max_examples=150)
@given(claims=st.lists(CLAIMS, max_size=5), verbs=JSON, random=st.randoms())
def test_each_nic_is_granted_or_refused_with_a_reason(
    claims: list[Claim], verbs: Any, random: Any
) -> None:
    found = reconcile(BUSY, Pod(claims=tuple(claims)), verbs)
    names = [each.nic.name for each in found.nics] + [nic.name for nic, _ in found.others]
    assert sorted(names) == ["mlx5_0", "mlx5_18"]
    assert all(why for _, why in found.others)
    assert found.gpus
    assert {complaint.id for complaint in found.complaints} <= MEANING.keys()
    shuffled = random.sample(claims * 2, len(claims) * 2)
    assert reconcile(BUSY, Pod(claims=tuple(shuffled)), verbs) == found
