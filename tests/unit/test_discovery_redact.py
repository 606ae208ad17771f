# SPDX-License-Identifier: Apache-2.0
"""What is redacted is gone, and what decides an answer is still there."""

import ipaddress
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmatrain.discovery.aliases import Addresses, Names
from rdmatrain.discovery.snapshot import Record, Replay, dump, load

HALF = "0000:0000:0000:0000:0000:ffff:"


def files_of(**texts: str) -> dict[str, str]:
    """What a redacted snapshot has of files, whose paths are written with _ for /."""
    record = Record(files={name.replace("_", "/"): text for name, text in texts.items()})
    saved = json.loads(dump(Replay(record), redact=True))
    assert isinstance(saved["files"], dict)
    return {path.replace("/", "_"): text for path, text in saved["files"].items()}


# -- addresses --


def test_an_address_is_the_same_one_in_every_form() -> None:
    files = files_of(
        _etc_hosts="10.56.217.2 x\n",
        _sys_gid=HALF + "0a38:d902\n",
        _proc_net_route="eth0\t00D9380A\t01D9380A\t0001\t0\t0\t0\t00FFFFFF\t0\n",
        _proc_net_fib_trie="  |-- 10.56.217.2\n /32 host LOCAL\n",
        _podinfo_annotations='"ips":["10.56.217.2/24"],"tcp":"10.56.217.2:29500"',
    )
    new = ipaddress.IPv4Address(files["_etc_hosts"].split()[0])
    assert str(new) == "198.18.217.2"
    gid = ipaddress.IPv6Address(files["_sys_gid"].strip())
    assert gid.ipv4_mapped == new
    assert len(files["_sys_gid"]) == len(HALF + "0a38:d902\n")
    assert files["_proc_net_route"] == "eth0\t00D912C6\t01D912C6\t0001\t0\t0\t0\t00FFFFFF\t0\n"
    assert f"|-- {new}\n" in files["_proc_net_fib_trie"]
    assert files["_podinfo_annotations"] == f'"ips":["{new}/24"],"tcp":"{new}:29500"'


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0", "127.0.0.1", "169.254.3.4", "255.255.255.0", "224.0.0.251", "::", "::1",
        "ff02::1",
        "0000:0c:00.2", "00000000:0C:00.0", "pci0000:07", "300.1.1.1", "fw 28.39.1002.5.6",
        "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "0000:0000:0000:0000", "12:30:59", "a::b::c",
        "GPU-8dcd427f-483b-b48f-d7e5-75fb19a52b76", "0000-10-00-2", "1.2.3.4.5", "v1.2.3.4b",
        "0::/kubepods.slice", "2026-11-28.log", "0:0::1",
    ],
)  # fmt: skip
def test_what_is_no_address_of_somebody_stays(text: str) -> None:
    assert Addresses().in_text(text) == text


def test_four_numbers_in_sysfs_are_a_version() -> None:
    assert files_of(_sys_fw="16.35.20.12\n")["_sys_fw"] == "16.35.20.12\n"


@given(
    st.lists(st.integers(0x01000000, 0xDFFFFFFF), min_size=2, max_size=6, unique=True),
    st.integers(16, 32),
)
@settings(deadline=None, max_examples=200)
def test_networks_stay_together_and_addresses_apart(numbers: list[int], prefix: int) -> None:
    addresses = Addresses()
    new = [addresses.ipv4(number) for number in numbers]
    shift = 32 - prefix
    for a, new_a in zip(numbers, new, strict=True):
        for b, new_b in zip(numbers, new, strict=True):
            assert (a >> shift == b >> shift) == (new_a >> shift == new_b >> shift)
    assert new == [addresses.ipv4(number) for number in numbers]


@given(st.lists(st.integers(1 << 112, (1 << 128) - 1), min_size=2, max_size=6, unique=True))
@settings(deadline=None, max_examples=200)
def test_ipv6_keeps_its_kind_and_its_networks(numbers: list[int]) -> None:
    addresses = Addresses()
    new = [addresses.ipv6(number) for number in numbers]
    assert len(set(new)) == len(numbers)
    for number, other in zip(numbers, new, strict=True):
        before, after = ipaddress.IPv6Address(number), ipaddress.IPv6Address(other)
        assert before.is_link_local == after.is_link_local
        assert before.is_multicast == after.is_multicast
        unique_local = ipaddress.ip_network("fc00::/7")
        assert (before in unique_local) == (after in unique_local)
        for second, new_second in zip(numbers, new, strict=True):
            assert (number >> 64 == second >> 64) == (other >> 64 == new_second >> 64)


def test_an_interface_that_was_made_of_a_mac_still_is() -> None:
    # RFC 4291, appendix A: 34-56-78-9A-BC-DE gives 3656:78FF:FE9A:BCDE.
    addresses = Addresses()
    assert addresses.in_text("34:56:78:9a:bc:de") == "02:00:00:00:00:01"
    assert addresses.in_text("fe80::3656:78ff:fe9a:bcde") == "fe80::ff:fe00:1"
    assert addresses.in_text("3656:78ff:fe9a:bcde") == "0000:00ff:fe00:0001"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10-77-1-5.ns.pod.cluster.local", "198-18-1-5.ns.pod.cluster.local"),
        ("ip-10-77-1-5.ec2", "ip-198-18-1-5.ec2"),
        ("34-56-78-9A-bc-de", "02-00-00-00-00-01"),
    ],
)
def test_addresses_with_dashes_are_addresses(text: str, expected: str) -> None:
    assert Addresses().in_text(text) == expected


def test_a_guid_and_the_gid_that_ends_in_it_agree() -> None:
    addresses = Addresses()
    guid = addresses.in_text("b8ce:f603:0065:f2ee")
    assert guid == "0000:0000:0000:0001"
    assert addresses.in_text("fe80:0000:0000:0000:b8ce:f603:0065:f2ee").endswith(guid)
    hardware = "80:00:10:48:fe:80:00:00:00:00:00:00:b8:ce:f6:03:00:65:f2:ee"
    assert addresses.in_text(hardware) == hardware[:36] + "00:00:00:00:00:00:00:01"


@given(st.text(alphabet='0123456789abcdef:.-ip \n"/%', max_size=40))
@settings(deadline=None, max_examples=200)
def test_any_text_is_taken(text: str) -> None:
    Addresses().in_text(text)
    Addresses().in_table(text)
    Names([text], [text]).in_text(text)


# -- names --


@pytest.mark.parametrize(
    ("names", "text", "expected"),
    [
        (["ann-gpt-worker-0"], "ann-gpt-worker-0.ann-gpt", "host-a-worker-0.host-a"),
        (["h100-17.acme.com"], "h100-17,h100-18", "host-X-17,host-X-18"),
        (["dgx[001-004]"], "dgx[001-004] dgx003", "host-a[001-004] host-a003"),
        (["zoo-trainer-2"], "zoo-trainer-2", "host-a-2"),
        (["zoo-node-0-1.zoo"], "zoo-node-0-1.zoo zookeeper", "host-a-node-0-1.host-a zookeeper"),
        (["pci-x"], r'{"pci-x": {\"pci-x\": "pci-x"}}', r'{"pci-x": {\"pci-x\": "host-a"}}'),
        (["default", "worker-0", "localhost", "10.0.0.1"], "default worker-0", "default worker-0"),
    ],
)
def test_names_keep_their_numbers_and_roles(names: list[str], text: str, expected: str) -> None:
    found = Names(names, ["trainers"]).in_text(text)
    assert found == expected.replace("host-X", found.partition("-1")[0])


def test_many_names_differ() -> None:
    many = [f"job{letter}x{other}" for letter in "abcdefghij" for other in "abcdefghij"]
    names = Names(many, [])
    assert len({names.in_text(name) for name in many}) == len(many)


JOB = {
    "_proc_1_environ": "HOSTNAME=acme-gpt-worker-1\0MASTER_ADDR=acme-gpt-worker-0.acme-gpt\0"
    "VC_WORKER_HOSTS=acme-gpt-worker-0.acme-gpt,acme-gpt-worker-1.acme-gpt\0PATH=/home/bob\0",
    "_etc_volcano_worker.host": "acme-gpt-worker-0.acme-gpt\nacme-gpt-worker-1.acme-gpt\n",
    "_etc_podinfo_labels": 'volcano.sh/job-name="acme-gpt"\nteam="bobs"\n'
    'volcano.sh/job-namespace="bobspace"',
    "_etc_podinfo_annotations": 'k8s.v1.cni.cncf.io/network-status="[{'
    '\\"name\\":\\"bobspace/net1\\",\\"ips\\":[\\"10.1.2.3\\"],\\"mac\\":\\"7a:bb:87:d9:b4:94\\"}]"\n'
    'kubectl.kubernetes.io/last-applied-configuration="{\\"token\\":\\"x\\"}"',
    "_proc_sys_kernel_hostname": "acme-gpt-worker-1\n",
    "_sys_class_net_net1_address": "7a:bb:87:d9:b4:94\n",
}  # fmt: skip


def test_a_job_is_not_to_be_recognised_and_still_hangs_together() -> None:
    files = files_of(**JOB)
    text = json.dumps(files)
    for word in ("acme", "bob", "gpt", "10.1.2.3", "7a:bb", "team", "last-applied"):
        assert word not in text
    assert files["_proc_1_environ"].split("\0")[0] == "HOSTNAME=host-a-worker-1"
    assert files["_etc_volcano_worker.host"] == "host-a-worker-0.host-a\nhost-a-worker-1.host-a\n"
    assert files["_proc_sys_kernel_hostname"] == "host-a-worker-1\n"
    assert files["_etc_podinfo_labels"] == (
        'volcano.sh/job-name="host-a"\nvolcano.sh/job-namespace="host-b"'
    )
    assert files["_etc_podinfo_annotations"] == (
        'k8s.v1.cni.cncf.io/network-status="[{\\"name\\":\\"host-b/network0\\",'
        '\\"ips\\":[\\"198.18.2.3\\"],\\"mac\\":\\"02:00:00:00:00:01\\"}]"'
    )
    assert files["_sys_class_net_net1_address"] == "02:00:00:00:00:01\n"


def test_what_was_taken_out_is_listed() -> None:
    record = Record(files={path.replace("_", "/"): text for path, text in JOB.items()})
    saved: dict[str, Any] = json.loads(dump(Replay(record), redact=True))
    assert saved["redacted"] is True
    assert saved["removed"] == [
        "/proc/1/environ: 1 variables that discovery does not read",
        "/etc/podinfo/annotations: 1 annotations or labels that discovery does not read",
        "/etc/podinfo/labels: 1 annotations or labels that discovery does not read",
        "2 addresses were replaced",
        "2 names were replaced",
    ]


def test_a_list_of_hosts_is_moved_out_of_its_user_s_folder_and_still_found() -> None:
    record = Record(
        files={
            "/proc/1/environ": "I_MPI_HYDRA_HOST_FILE=/home/zoo/hosts\0MASTER_ADDR=ape-1\0",
            "/mnt/zoo/hosts": "ape-1\nyak-2\n",
        },
        links={"/home": "/mnt", "/sys/x": "y"},
    )
    text = dump(Replay(record), redact=True)
    assert "zoo" not in text
    again = load(text, "x")
    name, _, path = (again.text("/proc/1/environ") or "").partition("\0")[0].partition("=")
    assert name == "I_MPI_HYDRA_HOST_FILE"
    assert again.text(path) == "host-a-1\nhost-b-2\n"
    assert again.link("/sys/x") == "y"


def test_a_file_that_only_looks_like_labels_stays() -> None:
    assert files_of(_etc_os='NAME="Debian"\n') == {"_etc_os": 'NAME="Debian"\n'}


def test_addresses_in_what_calls_said_are_replaced_too() -> None:
    said = {"verbs": {"error": "", "ports": [{"gids": {"3": "10.1.2.3 is not here"}, "port": 1}]}}
    saved = json.loads(dump(Replay(Record(probes=said)), redact=True))
    assert saved["probes"]["verbs"]["ports"] == [
        {"gids": {"3": "198.18.2.3 is not here"}, "port": 1}
    ]
