# SPDX-License-Identifier: Apache-2.0
"""Specs at random, as users may write them: most can be rendered, names reach their limits."""

import string
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import yaml
from hypothesis import strategies as st

from rdmatrain.k8s.spec import (
    DEVICES,
    DRA,
    GIB,
    LINKS,
    MIB,
    SHARED,
    TCP,
    Checkpoint,
    JobSecret,
    Monitoring,
    Network,
    Spec,
    Topology,
)

_LETTERS, _DIGITS = string.ascii_lowercase, string.digits
QUEUED = {"volcano", "kueue", "lws", "mpijob", "trainjob", "pytorchjob", "jobset"}


def _labels(most: int = 63, least: int = 1) -> st.SearchStrategy[str]:
    """Labels of DNS, as likely at the limit as anywhere."""

    def of_length(length: int) -> st.SearchStrategy[str]:
        middle = st.text(_LETTERS + _DIGITS + "-", min_size=length, max_size=length)
        ends = st.tuples(st.sampled_from(_LETTERS), st.sampled_from(_LETTERS + _DIGITS))
        return st.builds(
            lambda text, both: (both[0] + text[1:-1] + both[1])[:length] if length > 1 else both[0],
            middle,
            ends,
        )

    lengths = st.one_of(st.integers(least, min(most, 16)), st.integers(least, most), st.just(most))
    return lengths.flatmap(of_length)


# Where controllers' names stop: LeaderWorkerSet, JobSet, Volcano, Job.
NAMES = st.one_of(
    _labels(14), _labels(14), _labels(25), st.sampled_from([44, 50, 54, 61, 63]).flatmap(_labels)
)
_DOMAINS = st.sampled_from(["example.com", "nvidia.com", "k8s.example.org", "a.b"])
_QUALIFIED = st.builds(lambda domain, name: f"{domain}/{name}", _DOMAINS, _labels(20))
_EFFECTS = st.sampled_from(["", ":NoSchedule", ":PreferNoSchedule", ":NoExecute"])
_TAINTS = st.tuples(_QUALIFIED, st.sampled_from(["", "=", "=a"]), _EFFECTS).map("".join)
_VARIABLES = st.text(string.ascii_uppercase + _DIGITS + "_", min_size=1, max_size=20).map(
    lambda text: "X" + text
)
# What YAML readers may take for something else, and what no reader should stumble over.
_VALUES = st.one_of(
    st.sampled_from(["on", "0000:16:00.0", "1e3", "08", "0x10", "~", "null", "1:30", "", " a "]),
    st.sampled_from(["- a", "a: b", "#", "{}", "a\nb", "'", '"', "$(HOME)", "\t", "*a", "é"]),
    st.text(st.characters(codec="utf-8", exclude_categories=("C", "Zl", "Zp")), max_size=30),
)
_IMAGES = st.sampled_from(
    [
        "llm",
        "llm:1",
        "registry.example.com/a/b:v1.2",
        "localhost:5000/x:y",
        "registry.example.com/llm@sha256:" + "0" * 64,
    ]
)
_COMMANDS = st.sampled_from(
    [
        ("rdmatrain", "run", "train.py"),
        ("rdmatrain", "run", "-m", "train", "--lr", "1e-3"),
        ("/usr/bin/rdmatrain", "run", "--log-dir", "/tmp/logs", "train.py", "$(X)"),
    ]
)


def _networks(devices: str, vfs: int) -> st.SearchStrategy[Network]:
    if devices == TCP:
        return st.just(Network(devices=TCP, networks=()))
    count = 1 if devices == SHARED else vfs
    domain = "rdma" if devices == SHARED else "nvidia.com"
    name = st.one_of(_labels(30), st.builds(lambda a, b: f"{a}/{b}", _labels(63), _labels(30)))
    names = st.one_of(
        st.lists(name, min_size=1, max_size=1),
        st.lists(name, min_size=count, max_size=count, unique=True),
    )
    return st.builds(
        Network,
        devices=st.just(devices),
        vfs=st.just(count),
        resource=_labels(20).map(lambda name: f"{domain}/{name}"),
        networks=names.map(tuple),
        link=st.sampled_from(LINKS),
        mtu=st.sampled_from([0, 0, 1500, 4220, 9000]),
        pfs=st.sampled_from([(), ("ens1f0",), ("ens1f0np0", "ens2f0np0"), ("eth0#0-3",)]),
        subnet=st.sampled_from(["192.168.0.0/16", "192.168.0.0/16", "10.0.0.0/8", "10.1.0.0/24"]),
        aligned=st.sampled_from(["pcie", "numa", "prefer"]),
    )


@st.composite
def specs(draw: st.DrawFn, target: str) -> Spec:
    """Specs for a target: most of them it can honour."""
    devices = draw(st.sampled_from(DEVICES))
    gpus = draw(st.sampled_from([0, 1, 2, 4, 8, 16]))
    vfs = draw(st.sampled_from([1, 2, 4, 8, 16]))
    if devices == DRA:
        vfs = draw(st.sampled_from([max(1, gpus), 1, 2]))
    memory = draw(st.integers(1, 2048)) * GIB
    claim = draw(st.one_of(st.just(""), _labels(63)))
    size = draw(st.sampled_from([0, 1 << 40])) if claim else 0
    usual = target == "kueue" or (target in QUEUED and draw(st.booleans()))
    queue = draw(_labels(63)) if usual or draw(st.integers(0, 19)) == 0 else ""
    # Kueue places no claim by its topology.
    unplaced = target == "kueue" and devices == DRA and draw(st.integers(0, 9)) > 0
    return Spec(
        name=draw(NAMES),
        image=draw(_IMAGES),
        command=draw(_COMMANDS),
        namespace=draw(_labels(63)),
        nodes=draw(st.sampled_from([1, 2, 3, 10, 16, 101, 1000])),
        gpus=gpus,
        gpu_resource=draw(st.sampled_from(["nvidia.com/gpu", "amd.com/gpu"])),
        workers=gpus * draw(st.sampled_from([0, 1, 2])),
        cpus=draw(st.integers(1, 256)),
        memory_bytes=memory,
        shm_bytes=draw(st.sampled_from([64 * MIB, 100 * MIB, memory // 2])),
        env=draw(st.dictionaries(_VARIABLES, _VALUES, max_size=4)),
        network=draw(_networks(devices, vfs)),
        queue=queue,
        priority=draw(st.sampled_from(["", "", "training", "a.b-c"])),
        topology=Topology() if unplaced else draw(_topologies()),
        node_selector=draw(st.dictionaries(_QUALIFIED, _labels(20), max_size=2)),
        tolerations=tuple(draw(st.lists(_TAINTS, max_size=2, unique=True))),
        pull_secrets=tuple(draw(st.lists(_labels(63), max_size=2, unique=True))),
        volumes=draw(st.dictionaries(st.sampled_from(["/data", "/mnt/b"]), _labels(63))),
        checkpoint=Checkpoint(
            claim,
            draw(st.sampled_from(["/checkpoints", "/mnt/a/b"])),
            size,
            draw(st.sampled_from(["", "lustre"])) if size else "",
        ),
        grace_s=draw(st.integers(30, 3600)),
        join_timeout_s=draw(st.integers(1, 86400)),
        max_restarts=draw(st.sampled_from([0, 1, 3, 100])),
        secret=JobSecret(draw(st.one_of(st.just(""), _labels(63))), draw(st.booleans())),
        monitoring=draw(_monitoring()),
        preflight=draw(st.booleans()),
        user=draw(st.sampled_from([1000, 1, 65534])),
        ipc_lock=draw(st.booleans()),
    )


def _topologies() -> st.SearchStrategy[Topology]:
    none = st.just(Topology())
    return st.one_of(
        none,
        st.builds(Topology, label=_QUALIFIED, required=st.booleans()),
        st.builds(Topology, label=_QUALIFIED, tier=st.integers(0, 4), required=st.booleans()),
    )


def _monitoring() -> st.SearchStrategy[Monitoring]:
    return st.builds(
        Monitoring,
        port=st.sampled_from([0, 9400, 1024, 65535]),
        namespace=_labels(63),
        labels=st.dictionaries(_QUALIFIED, _labels(20), max_size=2),
    )


def text_of(spec: Spec) -> str:
    """A spec as a user writes it, with all of its fields."""
    return str(yaml.safe_dump(_plain(spec), allow_unicode=True))


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return dict(_field(each.name, getattr(value, each.name)) for each in fields(value))
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def _field(name: str, value: Any) -> tuple[str, Any]:
    if name.endswith("_bytes"):
        return name.removesuffix("_bytes"), f"{value // MIB}Mi"
    if name.endswith("_s"):
        return name.removesuffix("_s").replace("_", "-"), f"{value}s"
    return name.replace("_", "-"), _plain(value)
