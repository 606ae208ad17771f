# SPDX-License-Identifier: Apache-2.0
"""A bug report of each pod scenario: it shows what the pod saw, and not whose pod it was."""

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from xml.etree import ElementTree

import jsonschema
import pytest
from pod_scenarios import NAMES, load, write
from survey_answer import answer

from rdmatrain.discovery.orchestrator import Identity, whoami
from rdmatrain.discovery.pod import read_pod
from rdmatrain.discovery.snapshot import Record, Recorder, Replay, dump
from rdmatrain.discovery.snapshot import load as replay
from rdmatrain.discovery.source import Source
from rdmatrain.discovery.survey import Survey, survey
from rdmatrain.topo.command import as_json
from rdmatrain.topo.document import topology_document
from rdmatrain.topo.svg import topology_svg
from rdmatrain.topo.text import topology_text
from rdmatrain.topo.whoami import whoami_document

# Every second one: what is tested here does not differ between those of one kind.
SOME = NAMES[::2]
SCHEMAS = Path(__file__).parents[2] / "rdmatrain/topo/schemas"
TOPO, WHOAMI = (
    jsonschema.Draft202012Validator(json.loads((SCHEMAS / f"{name}.schema.json").read_text()))
    for name in ("topo", "whoami")
)
# A MAC, and the two interfaces that IPv6 makes of it (RFC 4291, appendix A).
MAC, LOCAL, GLOBAL = (
    "7c:fe:90:ca:4a:41",
    "fe80::7efe:90ff:feca:4a41",
    "fd77:1:2:3:7efe:90ff:feca:4a41",
)
SECRETS = {
    "HF_TOKEN": "hf_canary", "AWS_ACCESS_KEY_ID": "AKIAcanary", "NCCL_X_PASSWORD": "canary",
    "RDMATRAIN_URL": "https://ann:canary@host/x",
}  # fmt: skip
# What is whose: in variables that discovery reads, and in others.
VARIABLES = SECRETS | {
    "HOSTNAME": "quokka-0",
    "MASTER_ADDR": "quokka-worker-0.quokka.wombat.svc.numbat.corp",
    "PET_RDZV_ENDPOINT": "[fd77:1:2:3::5]:29400",
    "OMPI_MCA_orte_hnp_uri": "123.0;tcp://10.77.2.3,10.77.2.4:4444",
    "SLURM_TOPOLOGY_ADDR": "bilby.quoll1",
    "NCCL_COMM_ID": "10.77.3.4:5", "LWS_LEADER_ADDRESS": "quokka-0.quokka.wombat",
    "EXTRA_NETWORK_STATUS": json.dumps(
        [{"name": "wombat/rail0", "interface": "eth0", "ips": ["10.77.6.6"], "mac": MAC}]
    ),
    "MODEL": "dingo",
}  # fmt: skip
NOTES = {
    "kubectl.kubernetes.io/last-applied-configuration": {"image": "dingo"},
    "cni.projectcalico.org/podIP": "10.77.1.5/32",
    "batch.kubernetes.io/job-name": "quokka",
    "jobset.sigs.k8s.io/coordinator": "quokka-leader-0-0.quokka",
}
FILES = {
    "/etc/hostname": "quokka-0\n",
    "/etc/hosts": "10.77.1.5 quokka-0.quokka.wombat.svc.numbat.corp quokka-0\n",
    "/etc/volcano/worker.host": "quokka-worker-0.quokka\n",
    "/etc/mpi/hostfile": "quokka-worker-0.quokka.wombat.svc slots=8\n10.77.1.9 slots=8\n",
}
# Secrets that only their looks tell, in variables that discovery reads, and in its files.
LOOKS = {
    "NCCL_HEADER": "eyJcanary01.eyJcanary02.Canary-03",
    "UCX_A": "x hf_canary0123456789 y", "UCX_B": "ghp_canary0123456789",
    "UCX_C": "AKIA0123456789CANARY",
    "UCX_URL": "https://blob/x?sv=1&sig=canary%2Bsig&se=2", "FI_X": '{"apiKey": "canary-key"}',
    "PCIDEVICE_X_COM_Y_INFO": '{"0000:0c:00.9": {"generic": {"token": "canary-\\"tok"}}}',
}  # fmt: skip
# Users' own variables whose names begin as those of launchers do.
OTHERS = {
    "K_SERVICE": "a-canary-k", "JOB_URL": "https://git.canary/x", "LOCAL_PROXY": "a-canary-l",
    "GROUP_NAME": "a-canary-g", "ROLE_X": "a-canary-r", "GPU_OWNER": "a-canary-o",
    "AMD_CONTACT": "a-canary-a", "KUBEFLOW_X": "a-canary-f", "VC_X": "a-canary-v",
    "JOBSET_X": "a-canary-j", "MASTER_X": "a-canary-m",
    **{f"SLURM_{each}": "a-canary-s" for each in (
        "JOB_QOS", "JOB_RESERVATION", "JOB_GROUP", "JOB_UID", "JOB_GID", "STEP_NAME",
        "STEP_LICENSES", "CONTAINER_IMAGE", "CONF",
    )},
}  # fmt: skip
VARIABLES |= OTHERS | {f"NCCL_{name}": value for name, value in LOOKS.items()} | {
    "NCCL_DEBUG_FILE": "/home/quokka/nccl.%h",
    "I_MPI_HYDRA_HOST_FILE": "/home/quokka/hosts",
}  # fmt: skip
FILES |= {
    "/home/quokka/hosts": "quokka-worker-0.quokka\n",
    "/proc/self/cgroup": "0::/kubepods/quokka\n",
    "/etc/os-release": "ID=debian\nBUILD_HOST=quokka\n",
}
WHOSE = re.compile(
    "canary|quokka|wombat|numbat|bilby|quoll|dingo|10[.]77[.]|0a4d:|7c:fe:90|7efe:90ff|fd77", re.I
)


class Report(NamedTuple):
    """What a pod sees, and both reports of it."""

    found: Survey
    identity: Identity
    plain: str
    redacted: str


@cache
def report(name: str) -> Report:
    """Report the pod of a scenario, which is somebody's."""
    with TemporaryDirectory() as folder:
        recorder = Recorder(write(owned(load(name)), Path(folder)))
        found, identity = survey(recorder), identify(recorder)
        recorder.read_background()
    return Report(found, identity, dump(recorder, redact=False), dump(recorder, redact=True))


def owned(scenario: dict[str, Any]) -> dict[str, Any]:
    """Return a scenario in which it stands everywhere whose pod it is."""
    owned = deepcopy(scenario)
    for section in {"environment", "init", *({"parent"} & owned.keys())}:
        owned[section] = VARIABLES | owned.get(section, {})
    owned["annotations"] = NOTES | owned.get("annotations", {})
    owned["files"] = FILES | owned.get("files", {})
    for nic in owned.get("nics", {}).values():
        if "ip" in nic and not nic.get("ib"):
            gids = (LOCAL, GLOBAL, "::ffff:10.77.5.5")
            first = nic.get("gid", 3) + 1
            nic["gids"] = {first + at: [gid, "RoCE v2"] for at, gid in enumerate(gids)}
    return owned


def identify(source: Source) -> Identity:
    return whoami(source, read_pod(source))


def decided(identity: Identity) -> list[Any]:
    """What whoami says, without names."""
    return [
        identity.orchestrator, identity.within, identity.nnodes, identity.node_rank,
        identity.nproc_per_node, bool(identity.leader), identity.leader_port, identity.epoch,
        [each.id for each in identity.complaints],
    ]  # fmt: skip


def texts(value: Any) -> Iterator[str]:
    """Every text in JSON, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key in value:
            yield from texts(key)
            yield from texts(value[key])
    elif isinstance(value, list):
        for each in value:
            yield from texts(each)


@pytest.mark.parametrize("name", SOME)
def test_a_report_shows_what_the_pod_saw(name: str) -> None:
    pod = report(name)
    for text in (pod.plain, pod.redacted):
        source = replay(text, "x")
        again = survey(source)
        assert answer(again) == answer(pod.found)
        assert [each.id for each in again.complaints] == [each.id for each in pod.found.complaints]
        assert decided(identify(source)) == decided(pod.identity)
    assert identify(replay(pod.plain, "x")) == pod.identity


@pytest.mark.parametrize("name", SOME)
def test_a_redacted_report_does_not_tell_whose_it_is(name: str) -> None:
    pod = report(name)
    assert WHOSE.search(pod.plain)
    assert [text for text in texts(json.loads(pod.redacted)) if WHOSE.search(text)] == []
    plain = "\n".join(texts(json.loads(pod.plain)))
    assert [secret for secret in SECRETS.values() if f"={secret}" in plain] == []


@pytest.mark.parametrize("name", SOME)
def test_every_form_is_well_formed(name: str) -> None:
    pod = report(name)
    TOPO.validate(json.loads(as_json(topology_document(pod.found))))
    WHOAMI.validate(json.loads(as_json(whoami_document(pod.identity))))
    assert ElementTree.fromstring(topology_svg(pod.found)).tag.endswith("svg")
    assert all(line.isprintable() for line in topology_text(pod.found).split("\n"))


def dumped(redact: bool, files: dict[str, str]) -> tuple[str, str]:
    """Return what a snapshot of these files shows, and what it says was removed."""
    saved = json.loads(dump(Replay(Record(files=dict(files))), redact))
    removed = "\n".join(saved.pop("removed"))
    return "\n".join(texts(saved)), removed


def environ(variables: dict[str, str]) -> dict[str, str]:
    return {"/proc/self/environ": "".join(f"{name}={each}\0" for name, each in variables.items())}


@pytest.mark.parametrize("redact", [False, True])
@pytest.mark.parametrize("name", LOOKS)
def test_what_looks_like_a_secret_is_in_no_report(redact: bool, name: str) -> None:
    note = f"k8s.v1.cni.cncf.io/networks={json.dumps(LOOKS[name])}\n"
    files = environ({name: LOOKS[name]}) | {"/etc/podinfo/annotations": note}
    text, removed = dumped(redact, files)
    assert "canary" not in text.lower()
    assert removed.count("1 that look like secrets") + removed.count("2 that look") == 2


def test_what_holds_a_secret_is_still_json() -> None:
    text = LOOKS["PCIDEVICE_X_COM_Y_INFO"]
    source = replay(dump(Replay(Record(files={"/etc/podinfo/networks": text})), False), "x")
    told = json.loads(source.text("/etc/podinfo/networks") or "")
    assert told == {"0000:0c:00.9": {"generic": {"token": "removed"}}}


def test_variables_that_only_begin_as_those_of_launchers_are_not_in_a_redacted_report() -> None:
    assert "canary" not in dumped(True, environ(OTHERS))[0]
    assert dumped(False, environ(OTHERS))[0].count("canary") == len(OTHERS)


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        # Pods may be called so.
        ("HOSTNAME", "7canary-0", "host-a-0"),
        ("MASTER_ADDR", "7-canary-worker-0.7-canary", "host-a-worker-0.host-a"),
        ("TORCHELASTIC_RUN_ID", "canary-7", "host-a-7"),
        ("KUBEFLOW_TRAINER_SERVER_URL", "https://canary.canaries:8", "https://host-X:8"),
        ("NCCL_DEBUG_FILE", "/home/canary/nccl.%h", "/path"),
        ("UCX_LOG_FILE", "file:/home/canary/a b", "file:/path b"),
        ("NCCL_TOPO_FILE", "/teams/canary/topo.xml", "/path"),
        ("CUDA_CACHE_PATH", "/home/canary:/scratch/canary", "/path:/path"),
        ("NVIDIA_VISIBLE_DEVICES", "/var/run/nvidia-container-devices", None),
        ("PCIDEVICE_X_INFO", '{"a": {"rdma": {"uverbs": "/dev/infiniband/uverbs1"}}}', None),
        ("NCCL_SOCKET_IFNAME", "=eth0", None),
    ],
)
def test_variables_name_neither_hosts_nor_users(name: str, value: str, shown: str | None) -> None:
    text, _ = dumped(True, environ({name: value}))
    assert "canar" not in text
    expected = re.escape(value if shown is None else shown).replace(
        "host\\-X", "host-[ab].host-[ab]"
    )
    assert re.search(f"{name}={expected}\0", text)


def test_a_pod_whose_name_starts_with_a_digit_is_renamed_in_its_files() -> None:
    hosts = "10.1.2.3 7canary-0.ns.svc 7canary-0\n"
    text, _ = dumped(True, {"/etc/hostname": "7canary-0\n", "/etc/hosts": hosts})
    assert "canary" not in text
    assert text.count("host-a-0") == 3


STATUS = [
    {
        "name": "ns/canary0",
        "interface": "canary0",
        "ips": ["192.168.1.2"],
        "dns": {"search": ["canary.corp"]},
        "device-info": {"type": "pci", "pci": {"pci-address": "0000:0c:00.2"}},
    }
]


@pytest.mark.parametrize(
    ("path", "text", "shown"),
    [
        ("/etc/hosts", "# of canary\n127.0.0.1 localhost # canary\n", "127.0.0.1 localhost"),
        ("/etc/os-release", 'ID=debian\nBUILD_HOST="canary"\nVERSION_ID="12"\n', "VERSION_ID"),
        ("/proc/driver/nvidia/version", "NVRM 535.1 (ci@canary) Jul\n", "NVRM 535.1  Jul"),
        ("/proc/self/cgroup", "0::/user/canary\n", "0::/\n"),
        ("/proc/self/cgroup", "4:cpu,io:/slurm/canary\n", "4:cpu,io:/\n"),
        ("/etc/podinfo/labels", 'topology.kubernetes.io/zone="canary"\n', None),
        ("/etc/podinfo/annotations", 'nvidia.com/x="canary"\n', None),
        (
            "/etc/podinfo/annotations",
            'k8s.v1.cni.cncf.io/networks="canary/canary0@net1, canary/b"\n',
            "@net1",
        ),
        ("/proc/1/environ", "PCIDEVICE_CANARY_COM_VF-X=0000:0c:00.2\0", "_COM_VF-X=0000:0c:00.2"),
        ("/proc/1/environ", "PCIDEVICE_NVIDIA_COM_VF=\0", "PCIDEVICE_NVIDIA_COM_VF="),
    ],
)
def test_what_else_tells_whose_it_is_is_not_in_a_redacted_report(
    path: str, text: str, shown: str | None
) -> None:
    found, _ = dumped(True, {path: text})
    assert "canary" not in found.lower()
    assert shown is None or shown in found


def test_networks_are_renamed_and_interfaces_called_like_them_are_not() -> None:
    key = "k8s.v1.cni.cncf.io/network-status"
    files = {"/etc/podinfo/annotations": f"{key}={json.dumps(json.dumps(STATUS))}\n"}
    source = replay(dump(Replay(Record(files=files)), True), "x")
    (entry,) = json.loads(dict(read_pod(source).annotations)[key])
    assert entry["name"].endswith("/network0")
    assert (entry["interface"], entry["dns"]) == ("canary0", {})
    assert entry["device-info"] == STATUS[0]["device-info"]


def test_metadata_of_claims_names_neither_pods_nor_nodes_nor_projects() -> None:
    root = "/var/run/kubernetes.io/dra-device-attributes"
    device = {
        "driver": "dra.net",
        "pool": "canary-node",
        "name": "nic0",
        "attributes": {
            "canary.corp/project": {"string": "canary"},
            "canary.corp/numaNode": {"int": 1},
            "resource.kubernetes.io/pciBusID": {"string": "0000:0c:00.2"},
        },
    }
    document = {
        "apiVersion": "metadata.resource.k8s.io/v1beta1",
        "metadata": {"name": "canary-pod"},
        "podClaimName": "canary-claim",
        "requests": [{"name": "canary-nic", "devices": [device]}],
    }
    files = {
        f"{root}/resourceclaims/canary-claim/canary-nic/dra.net-metadata.json": json.dumps(document)
    }
    folders = {
        root: ["resourceclaims"],
        f"{root}/resourceclaims": ["canary-claim"],
        f"{root}/resourceclaims/canary-claim": ["canary-nic"],
        f"{root}/resourceclaims/canary-claim/canary-nic": ["dra.net-metadata.json"],
    }
    source = Replay(Record(files=files, folders=folders))
    text = dump(source, True)
    assert "canary" not in text
    (before,), (after,) = (read_pod(each).claims for each in (source, replay(text, "x")))
    same = ("pci", "numa", "resource", "kind", "rdma", "netdev")
    assert [getattr(before, each) for each in same] == [getattr(after, each) for each in same]
    assert (before.pci, before.numa) == ("0000:0c:00.2", 1)


@pytest.mark.parametrize("redact", [False, True])
def test_a_snapshot_begins_with_its_schema(redact: bool) -> None:
    assert next(iter(json.loads(dump(Replay(Record()), redact)))) == "schema"
