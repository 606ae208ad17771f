# SPDX-License-Identifier: Apache-2.0
"""Annotations are read from downward API files, and what Multus put there is claimed."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_source import MemorySource, environ

from rdmatrain.discovery.model import Evidence
from rdmatrain.discovery.pod import read_pod
from rdmatrain.discovery.pod_model import Claim, Pod, Request, Trust

SAMPLE = Path(__file__).parents[3] / "shared/fixtures/k8s/network-status_sriov-dp-530.json"
STATUS = "k8s.v1.cni.cncf.io/network-status"
NETWORKS = "k8s.v1.cni.cncf.io/networks"
FILE = "/etc/podinfo/annotations"
DEFAULT = {"name": "cilium", "interface": "eth0", "ips": ["10.0.0.9"], "default": True, "dns": {}}
VF = {
    "name": "train/sriov-net1",
    "interface": "net1",
    "ips": ["10.56.217.2", "fd00::2"],
    "mac": "7a:bb:87:d9:b4:94",
    "dns": {},
    "device-info": {
        "type": "pci",
        "version": "1.1.0",
        "pci": {
            "pci-address": "0000:03:00.3",
            "rdma-device": "mlx5_4",
            "pf-pci-address": "0000:03:00.0",
        },
    },
    "gateway": ["<nil>"],
}
NET1 = Claim(
    Evidence(f"{STATUS} in {FILE}", "train/sriov-net1 net1 0000:03:00.3 mlx5_4"),
    Trust.DEVICE_INFO,
    "nic",
    pci="0000:03:00.3",
    rdma=("mlx5_4",),
    netdev="net1",
    network="train/sriov-net1",
    pf="0000:03:00.0",
    addresses=("10.56.217.2", "fd00::2"),
)


def quoted(text: str) -> str:
    """Quote as Go does, for text without its rarer escapes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def pod_of(*entries: Any, variables: dict[str, str] | None = None, **more: str) -> Pod:
    """Read a pod with a status of these entries; ``networks`` is what was asked for."""
    notes = {STATUS: json.dumps(entries)} if entries else {}
    notes.update({NETWORKS: more.pop("networks")} if "networks" in more else {})
    text = "".join(f"{key}={quoted(value)}\n" for key, value in notes.items())
    files = {FILE: text, "/proc/self/environ": environ(variables or {})}
    return read_pod(MemorySource({**files, **more}))


def ids(pod: Pod) -> list[str]:
    return [complaint.id for complaint in pod.complaints]


def test_the_lines_of_a_volume_are_unquoted_as_go_quotes_them() -> None:
    text = (
        'plain="a"\nempty=""\nquotes="\\"a\\\\b\\""\nlines="a\\nb\\tc\\r"\nrare="\\a\\b\\f\\v\\x00\\x7f"\n'
        'wide="\\u200b\\U000e0001é\u2028"\nbytes="\\xff\\xfe"\nequals="a=b=c"\n'
    )
    pod = read_pod(MemorySource({FILE: text, "/proc/self/environ": ""}))
    assert dict(pod.annotations) == {
        "plain": "a",
        "empty": "",
        "quotes": '"a\\b"',
        "lines": "a\nb\tc\r",
        "rare": "\a\b\f\v\0\x7f",
        "wide": "\u200b\U000e0001é\u2028",
        "bytes": "\udcff\udcfe",
        "equals": "a=b=c",
    }
    assert pod.complaints == ()


@pytest.mark.parametrize(
    "line",
    ["key", "key=", "key=value", 'key="', 'key="a', 'key="a"b"', 'key="\\"', 'key="\\q"',
     'key="\\xfg"', 'key="\\Uffffffff"', '="a"', 'a b="c"', '{"json": 1}', "key='a'"],
)  # fmt: skip
def test_a_line_that_is_none_is_complained_of_and_the_others_count(line: str) -> None:
    text = f'before="1"\n{line}\nafter="2"\n'
    pod = read_pod(MemorySource({FILE: text, "/proc/self/environ": ""}))
    assert pod.annotations == (("before", "1"), ("after", "2"))
    (complaint,) = pod.complaints
    assert (complaint.id, complaint.source) == ("unreadable", FILE)
    assert line in complaint.text


@pytest.mark.parametrize(
    "folder", ["/etc/podinfo", "/etc/pod-info", "/podinfo", "/etc/downward", "/etc/podnetinfo"]
)
def test_volumes_are_found_where_they_usually_are(folder: str) -> None:
    files = {f"{folder}/annotations": 'a="1"\n', f"{folder}/labels": 'b="2"'}
    pod = read_pod(MemorySource(files))
    assert (pod.annotations, pod.labels) == ((("a", "1"),), (("b", "2"),))


def test_of_several_volumes_the_first_counts_for_a_key() -> None:
    files = {FILE: 'a="1"\n', "/podinfo/annotations": 'a="2"\nb="3"\n'}
    assert read_pod(MemorySource(files)).annotations == (("a", "1"), ("b", "3"))


def test_an_attached_network_joins_interface_address_and_device() -> None:
    pod = pod_of(DEFAULT, VF)
    default, net1 = pod.claims
    assert net1 == NET1
    assert (default.network, default.netdev, default.granted) == ("cilium", "eth0", False)
    assert pod.complaints == ()


@pytest.mark.skipif(
    not SAMPLE.exists(), reason="the collected fixtures are not beside the checkout"
)
def test_a_real_status_is_read() -> None:
    pod = read_pod(MemorySource({FILE: f"{STATUS}={quoted(SAMPLE.read_text())}"}))
    default, net1 = pod.claims
    assert (default.network, default.netdev, default.granted) == ("k8s-pod-network", "", False)
    assert (net1.network, net1.netdev, net1.pci) == ("default/sriov-net1", "net1", "0000:03:00.3")
    assert (net1.rdma, net1.addresses) == (("mlx5_4",), ("10.56.217.2",))


def test_a_function_may_have_several_rdma_devices() -> None:
    info = {"type": "pci", "pci": {"pci-address": "0000:03:00.3", "rdma-device": "mlx5_4, smi1"}}
    (claim,) = pod_of({**VF, "device-info": info}).claims
    assert claim.rdma == ("mlx5_4", "smi1")


@pytest.mark.parametrize(
    ("info", "pci", "pf"),
    [
        ({"type": "vdpa", "vdpa": {"parent-device": "vdpa:0000:65:00.3", "driver": "vhost",
                                   "path": "/dev/vhost-vdpa-0", "pci-address": "0000:65:00.3",
                                   "pf-pci-address": "0000:65:00.0"}},
         "0000:65:00.3", "0000:65:00.0"),
        ({"type": "vhost-user", "vhost-user": {"mode": "client", "path": "/var/run/x"}}, "", ""),
        ({"type": "memif", "memif": {"role": "slave", "path": "/var/run/x"}}, "", ""),
        ({"version": "1.0.0", "pci": {"pci-address": "0000:65:00.3"}}, "0000:65:00.3", ""),
        ({"type": "pci"}, "", ""),
    ],
)  # fmt: skip
def test_every_type_of_device_info_is_read(info: dict[str, Any], pci: str, pf: str) -> None:
    pod = pod_of({**VF, "device-info": info})
    (claim,) = pod.claims
    assert (claim.pci, claim.pf, claim.netdev, claim.granted) == (pci, pf, "net1", True)
    assert pod.complaints == ()


def test_a_network_without_device_info_is_known_by_its_interface() -> None:
    (claim,) = pod_of({"name": "train/macvlan", "interface": "net1", "ips": ["10.1.0.2/24"]}).claims
    assert (claim.pci, claim.rdma, claim.netdev, claim.granted) == ("", (), "net1", True)
    assert claim.addresses == ("10.1.0.2",)


def test_a_default_network_that_is_a_device_was_given() -> None:
    (claim,) = pod_of({**VF, "default": True}).claims
    assert (claim.granted, claim.pci) == (True, "0000:03:00.3")


def test_the_older_annotation_says_the_same_once() -> None:
    old = "k8s.v1.cni.cncf.io/networks-status"
    text = "".join(f"{key}={quoted(json.dumps([VF]))}\n" for key in (old, STATUS))
    assert read_pod(MemorySource({FILE: text})).claims == (NET1,)
    (claim,) = read_pod(MemorySource({FILE: text.splitlines()[0]})).claims
    assert claim.evidence.source == f"{old} in {FILE}"


@pytest.mark.parametrize("name", ["NETWORK_STATUS", "K8S_NETWORKS_STATUS", "network_status"])
def test_a_variable_may_have_the_status(name: str) -> None:
    (claim,) = pod_of(variables={name: json.dumps([VF])}).claims
    assert (claim.pci, claim.evidence.source) == ("0000:03:00.3", f"{name} in environment")


def test_a_variable_of_that_name_may_be_something_else() -> None:
    pod = pod_of(variables={"WIFI_NETWORK_STATUS": "up", "NETWORK_STATUS_URL": ""})
    assert (pod.claims, pod.complaints) == ((), ())


def test_a_file_may_have_the_status_alone() -> None:
    path = "/etc/podinfo/network-status"
    pod = read_pod(MemorySource({path: json.dumps([VF])}))
    assert pod.claims[0].evidence.source == f"{STATUS} in {path}"
    assert dict(pod.annotations) == {STATUS: json.dumps([VF])}


def test_requests_are_read_in_either_form() -> None:
    pod = pod_of(DEFAULT, *[VF] * 4, networks="rdma-vf, train/rdma-vf@net7,\n rdma-vf,x/y@z")
    source = f"{NETWORKS} in {FILE}"
    assert pod.requests == (
        Request(Evidence(source, "rdma-vf"), "rdma-vf"),
        Request(Evidence(source, "train/rdma-vf@net7"), "train/rdma-vf", "net7"),
        Request(Evidence(source, "rdma-vf"), "rdma-vf"),
        Request(Evidence(source, "x/y@z"), "x/y", "z"),
    )
    elements = [
        {"name": "rdma-vf"},
        {"name": "rdma-vf", "namespace": "train", "interface": "net7"},
        {"name": "rdma-vf", "cni-args": {"a": [1]}},
        {"name": "y", "namespace": "x", "interface": "z"},
    ]
    assert pod_of(DEFAULT, *[VF] * 4, networks=json.dumps(elements)).requests == pod.requests
    assert pod.complaints == ()


@pytest.mark.parametrize("garbage", ["a/b/c", "a@b@c", "@x", "/", "a b"])
def test_a_request_that_is_none_is_complained_of_and_the_others_count(garbage: str) -> None:
    pod = pod_of(VF, networks=f"{garbage},rdma-vf")
    assert [request.network for request in pod.requests] == ["rdma-vf"]
    assert ids(pod) == ["unreadable"]
    pod = pod_of(VF, networks=json.dumps([garbage, {"name": "rdma-vf"}, {"name": 7}, None]))
    assert [request.network for request in pod.requests] == ["rdma-vf"]
    assert ids(pod) == ["unreadable"] * 3


def test_a_status_that_is_late_is_complained_of() -> None:
    # Nothing but what was asked for; then only the default network; then one of two.
    assert ids(pod_of(networks="rdma-vf")) == ["network-status-late"]
    assert ids(pod_of(DEFAULT, networks="rdma-vf")) == ["network-status-late"]
    assert ids(pod_of(DEFAULT, VF, networks="rdma-vf,rdma-vf")) == ["network-status-late"]
    assert ids(pod_of(DEFAULT, VF, VF, networks="rdma-vf,rdma-vf")) == []
    assert ids(pod_of(DEFAULT)) == []
    assert ids(pod_of()) == []


def test_a_variable_that_is_empty_is_late_unless_a_volume_tells() -> None:
    empty = {"NETWORK_STATUS": ""}
    (complaint,) = pod_of(variables=empty).complaints
    assert complaint.id == "network-status-late"
    assert complaint.source == "NETWORK_STATUS in environment"
    assert "downward API volume" in complaint.text
    assert ids(pod_of(DEFAULT, VF, variables=empty)) == []


@pytest.mark.parametrize(
    "entry", [None, 7, "net1", [], {}, {"name": 7}, {"name": ""}, {"interface": "net1"}]
)
def test_an_entry_that_is_none_is_complained_of_and_the_others_count(entry: Any) -> None:
    pod = pod_of(entry, VF)
    assert pod.claims == (NET1,)
    assert [(each.id, each.source) for each in pod.complaints] == [
        ("unreadable", f"{STATUS} in {FILE}")
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"interface": 7, "ips": "10.0.0.1", "device-info": []},
        {"ips": [7, None, "<nil>", "nonsense"], "device-info": {"type": 7, "pci": 7}},
        {"ips": {}, "device-info": {"type": "pci", "pci": {"pci-address": 7, "rdma-device": {}}}},
        {"device-info": {"type": ["pci"], "pci": []}},
    ],
)
def test_fields_of_a_wrong_type_are_left_out(change: dict[str, Any]) -> None:
    (claim,) = pod_of({**VF, **change}).claims
    assert (claim.network, claim.pci, claim.rdma) == ("train/sriov-net1", "", ())


def test_an_address_that_is_none_is_complained_of() -> None:
    # As YAML 1.1 reads an address that is not quoted.
    info = {"type": "pci", "pci": {"pci-address": "960.0", "rdma-device": "mlx5_4"}}
    pod = pod_of({**VF, "device-info": info})
    assert [(claim.pci, claim.rdma) for claim in pod.claims] == [("", ("mlx5_4",))]
    (complaint,) = pod.complaints
    assert "960.0" in complaint.text


def test_a_status_that_is_no_list_is_complained_of() -> None:
    for text in ("7", '"x"', "null", "[", "{}"):
        files = {"/etc/podinfo/network-status": text}
        assert ids(read_pod(MemorySource({**files, "/proc/self/environ": ""}))) == ["unreadable"]


def test_names_are_safe_to_show() -> None:
    (claim,) = pod_of({**VF, "name": "\x1b[2J\u202e", "interface": "net\n1"}).claims
    assert (claim.network, claim.netdev) == (r"\x1b[2J\u202e", r"net\n1")
    assert claim.evidence.text.isprintable()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*VF, "type", "pci"]), inner),
    max_leaves=8,
)


@given(JSON)
@settings(deadline=None, max_examples=150)
def test_whatever_an_entry_is_the_others_count(entry: Any) -> None:
    pod = pod_of(entry, VF, networks=json.dumps([entry, {"name": "rdma-vf"}]))
    assert NET1 in pod.claims
    assert any(request.network == "rdma-vf" for request in pod.requests)


@given(st.text(st.characters(exclude_characters="\n")), st.text())
@settings(deadline=None, max_examples=150)
def test_whatever_surrounds_a_line_it_counts(line: str, status: str) -> None:
    text = f'{line}\n{STATUS}={quoted(json.dumps([VF]))}\n{NETWORKS}="x"\n{line}'
    pod = read_pod(MemorySource({FILE: text, "/podinfo/network-status": status}))
    assert NET1 in pod.claims
    assert all(complaint.text.isprintable() for complaint in pod.complaints)


@given(st.text(), st.integers(0, 500))
@settings(deadline=None, max_examples=150)
def test_a_status_that_was_cut_never_raises(junk: str, length: int) -> None:
    status = json.dumps([DEFAULT, VF])[:length] + junk
    files = {"/podinfo/network-status": status, "/podinfo/networks": status}
    pod = read_pod(MemorySource(files))
    assert all(complaint.text.isprintable() for complaint in pod.complaints)


@given(st.permutations([STATUS, NETWORKS, "a", "b"]))
@settings(deadline=None, max_examples=24)
def test_the_order_of_annotations_does_not_matter(keys: list[str]) -> None:
    values = {STATUS: json.dumps([DEFAULT, VF]), NETWORKS: "rdma-vf,x", "a": "1", "b": "2"}
    pods = [
        read_pod(MemorySource({FILE: "".join(f"{key}={quoted(values[key])}\n" for key in order)}))
        for order in (keys, sorted(keys))
    ]
    assert pods[0].claims == pods[1].claims
    assert pods[0].requests == pods[1].requests
    assert pods[0].complaints == pods[1].complaints
