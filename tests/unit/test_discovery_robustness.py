# SPDX-License-Identifier: Apache-2.0
"""No shuffled, renamed, added, doubled or missing fact makes a right answer wrong in silence."""

import json
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from fake_machine import Builder
from memory_source import Link
from pod_scenarios import NAMES, Contents, Files, Seen, memorize, seen

from rdmatrain.discovery.allocation import reconcile
from rdmatrain.discovery.machine import read_machine
from rdmatrain.discovery.pod import read_pod

ENVIRON = re.compile("/proc/[^/]+/environ")
ANNOTATIONS = "/etc/podinfo/annotations"
# Without it, the user said something else.
USERS_WORD = re.compile("CUDA_VISIBLE_DEVICES=")
NO_GID = re.compile("0000:0000|fe80")
NO_FACT = re.compile(
    "/(numa_node|class|mtu|address|operstate|board_id|fw_ver|node_type|rate|driver|lo)$"
    "|^/proc/self/status$"
)
# What nothing else in the pod says: without it, nobody could tell it from a pod of the other kind.
ONLY_WORD = {
    # Granted to nobody, both NICs would be for all.
    "a_variable_of_another_host": "PCIDEVICE_",
    "one_more_than_granted": "PCIDEVICE_",
    # The driver shows both GPUs, and it is right where nothing is said.
    "gpus_of_a_privileged_pod": "NVIDIA_VISIBLE_DEVICES=",
    "gpus_named_by_mounts": "/var/run/nvidia-container-devices/GPU-",
    # It alone says that the two are one device.
    "physfn_is_hidden": "network-status|annotations",
}


@cache
def foreign() -> Contents:
    """An HCA of the host, as shared RDMA namespaces show it."""
    with TemporaryDirectory() as folder:
        Builder(Path(folder)).nic("mlx5_77", "0000:f1:00.0", node=False, uverbs="uverbs77")
        return memorize(Path(folder))


def environ(text: Any, random_: random.Random) -> str:
    entries = [entry for entry in text.split("\0") if entry]
    random_.shuffle(entries)
    return "".join(f"{entry}\0" for entry in entries)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_variables_and_claims_does_not_matter(name: str) -> None:
    here = seen(name)
    for seed in range(3):
        random_ = random.Random(seed)
        files = {
            path: environ(content, random_) if ENVIRON.fullmatch(path) else content
            for path, content in sorted(here.files.items(), key=lambda _: random_.random())
        }
        assert here.but(files) == here.answer


@pytest.mark.parametrize("name", NAMES)
def test_the_order_and_number_of_claims_does_not_matter(name: str) -> None:
    here = seen(name)
    source = Files(here.files, here.probes)
    machine, said = read_machine(source), read_pod(source)
    for seed in range(3):
        claims = list(said.claims * 2)
        random.Random(seed).shuffle(claims)
        shuffled = replace(said, claims=tuple(claims))
        assert reconcile(machine, shuffled, source.probe("verbs")) == here.answer.allocation


@pytest.mark.parametrize("name", NAMES)
def test_what_several_processes_say_counts_once(name: str) -> None:
    here = seen(name)
    own, first = here.files["/proc/self/environ"], here.files["/proc/1/environ"]
    found = here.but({**here.files, "/proc/self/environ": f"{own}{first}"})
    assert found.devices == here.answer.devices
    # A shell lost nothing then.
    assert set(found.ids) == set(here.answer.ids) - {"env-lost-by-shell"}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_devices_do_not_matter(name: str) -> None:
    here = seen(name)
    names = sorted(
        path.rpartition("/")[2]
        for path in here.files
        if re.fullmatch("/sys/class/infiniband/(mlx5|rxe|rdmap)[^/]*", path)
    )
    # Each one gets the name of another: the worst that a rename can do.
    new = dict(zip(names, [*names[1:], "mlx5_99"], strict=False))
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, names)) + r")\b")

    def renamed(text: str) -> str:
        return pattern.sub(lambda match: new[match[1]], text) if names else text

    files: Contents = {}
    for path, content in here.files.items():
        kernel = path.startswith(("/sys/", "/dev/"))
        changed = content
        if kernel and isinstance(content, str):
            changed = renamed(content)
        elif kernel and isinstance(content, Link):
            changed = Link(renamed(content.target))
        files[renamed(path) if kernel else path] = changed
    verbs = json.loads(renamed(json.dumps(here.probes.get("verbs"))))
    found = here.but(files, verbs=verbs)
    assert found.devices == here.answer.devices
    assert set(found.ids) - {"rdma-name-differs"} == set(here.answer.ids) - {"rdma-name-differs"}


@pytest.mark.parametrize("name", NAMES)
def test_hcas_of_others_change_nothing_but_are_told(name: str) -> None:
    here = seen(name)
    verbs = here.probes.get("verbs")
    if verbs:
        port = {"device": "mlx5_77", "port": 0, "error": "No such file or directory", "state": ""}
        verbs = {**verbs, "ports": [*verbs["ports"], port]} if not verbs["error"] else verbs
    found = here.but({**here.files, **foreign()}, verbs=verbs)
    assert found.devices == here.answer.devices
    assert "mlx5_77" in [nic.name for nic, _ in found.allocation.others]
    assert set(found.ids) - set(here.answer.ids) <= {"nic-foreign", "nic-not-opened"}
    assert {"nic-foreign", "nic-not-opened"} & set(found.ids)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_fact_is_told_or_changes_no_device(name: str) -> None:
    here = seen(name)
    for fact, files, changed in missing(here):
        if name in ONLY_WORD and re.search(ONLY_WORD[name], fact):
            continue
        found = here.but(files, **changed)
        told = set(found.complaints) - set(here.answer.complaints)
        same = found.devices == here.answer.devices
        assert same or told, f"without {fact}: {found.devices}, and not {here.answer.devices}"


def missing(here: Seen) -> Iterator[tuple[str, Contents, dict[str, Any]]]:
    """Yield what is seen without one fact, for each."""
    for probe in here.probes:
        yield f"probe {probe}", here.files, {probe: None}
    environs = {path: str(here.files[path]) for path in here.files if ENVIRON.fullmatch(path)}
    entries = {entry for text in environs.values() for entry in text.split("\0") if "=" in entry}
    for entry in sorted(entry for entry in entries if not USERS_WORD.search(entry)):
        without = {path: text.replace(f"{entry}\0", "") for path, text in environs.items()}
        yield entry, {**here.files, **without}, {}
    notes = str(here.files.get(ANNOTATIONS, ""))
    for line in notes.splitlines(keepends=True):
        yield line, {**here.files, ANNOTATIONS: notes.replace(line, "")}, {}
    for path in here.files:
        if is_fact(path, here) and not USERS_WORD.search(environs.get(path, "")):
            yield path, {other: here.files[other] for other in here.files if other != path}, {}


def is_fact(path: str, here: Seen) -> bool:
    """Whether a file says something about which devices are whose."""
    # Where nobody grants it, a device that is not listed is just not there.
    if re.fullmatch("/sys/class/infiniband/[^/]+", path):
        return here.answer.allocation.namespaces == "exclusive"
    row = re.fullmatch("(.*/ports/1)/(gids|gid_attrs/types|gid_attrs/ndevs)/([0-9]+)", path)
    gid = str(here.files[f"{row[1]}/gids/{row[3]}"]) if row else "used"
    return not NO_GID.match(gid) and not NO_FACT.search(path)
