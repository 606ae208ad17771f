# SPDX-License-Identifier: Apache-2.0
"""Golden environments of every orchestrator, and environments that nobody thought of."""

import json
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_source import MemorySource, environ

from rdmatrain.discovery.orchestrator import Identity, whoami
from rdmatrain.discovery.orchestrators.adapters import ADAPTERS
from rdmatrain.discovery.orchestrators.hosts import slurm_nodes, slurm_tasks
from rdmatrain.discovery.pod import read_pod

FOLDER = Path(__file__).parents[1] / "fixtures" / "orchestrators"
GOLDEN = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
NUMBERS = ("nnodes", "node_rank", "nproc_per_node", "leader_port", "epoch")


def ask(golden: Mapping[str, Any], order: random.Random | None = None) -> Identity:
    """Ask who a process is in an environment that is written down."""

    def part(name: str) -> dict[str, str]:
        pairs = list(golden.get(name, {}).items())
        if order:
            order.shuffle(pairs)
        return dict(pairs)

    def volume(name: str) -> str:
        return "\n".join(f"{key}={json.dumps(value)}" for key, value in part(name).items())

    source = MemorySource(
        {
            **part("files"),
            "/proc/self/environ": environ(part("env")),
            "/proc/1/environ": environ(part("env_of_process_1")),
            "/etc/podinfo/annotations": volume("annotations"),
            "/etc/podinfo/labels": volume("labels"),
        }
    )
    return whoami(source, read_pod(source))


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_environment(name: str) -> None:
    expect = dict(GOLDEN[name]["expect"])
    identity = ask(GOLDEN[name])
    words = expect.pop("decided_by")
    complaints = expect.pop("complaints")
    assert {key: getattr(identity, key) for key in expect if key != "within"} == {
        key: value for key, value in expect.items() if key != "within"
    }
    assert list(identity.within) == expect["within"]
    assert {key: identity.decided_by[key] for key in words} == words
    assert sorted(f"{each.id} {each.source}" for each in identity.complaints) == sorted(complaints)


@pytest.mark.parametrize("name", GOLDEN)
def test_the_order_of_variables_and_files_does_not_matter(name: str) -> None:
    first = ask(GOLDEN[name])
    for seed in range(2):
        assert ask(GOLDEN[name], random.Random(seed)) == first


@pytest.mark.parametrize("name", GOLDEN)
def test_everything_has_a_reason(name: str) -> None:
    identity = ask(GOLDEN[name])
    assert set(identity.decided_by) == {"orchestrator", "leader", *NUMBERS}
    for field, words in identity.decided_by.items():
        value = getattr(identity, field)
        assert words and words.isprintable()
        # What is known ends in the value; what is not says what to do.
        if value not in {None, ""} and field != "orchestrator":
            assert re.search(rf"[ :]0*{re.escape(str(value))}$", words)


def test_every_orchestrator_has_a_golden_environment() -> None:
    seen = {golden["expect"]["orchestrator"] for golden in GOLDEN.values()}
    assert seen == {adapter.name for adapter in ADAPTERS}
    assert len(GOLDEN) >= 24


def test_rank_and_world_size_never_choose_the_orchestrator() -> None:
    for golden in GOLDEN.values():
        other = {**golden["env"], "RANK": "5", "WORLD_SIZE": "6", "LOCAL_RANK": "1"}
        identity = ask({**golden, "env": other})
        assert identity.orchestrator == golden["expect"]["orchestrator"]


# Precedence: the markers of each, alone and on top of those of the others.
MARKERS = {
    "torchrun": {"TORCHELASTIC_RUN_ID": "x"},
    "mpirun": {"OMPI_COMM_WORLD_RANK": "0"},
    "slinky": {"SLINKY_TOPOLOGY": ""},
    "srun": {"SLURM_JOB_ID": "1"},
    "pytorchjob": {"PET_NNODES": "2", "MASTER_ADDR": "a-master-0"},
    "trainer": {"PET_NNODES": "2", "PET_MASTER_ADDR": "a-node-0-0.a"},
    "mpijob": {"K_MPI_JOB_ROLE": "worker"},
    "lws": {"LWS_WORKER_INDEX": "0"},
    "volcano": {"VC_TASK_INDEX": "0"},
    "indexed-job": {"JOB_COMPLETION_INDEX": "0"},
    "plain": {},
}


@pytest.mark.parametrize("inner", MARKERS)
@pytest.mark.parametrize("outer", MARKERS)
def test_the_first_of_two_is_the_answer(inner: str, outer: str) -> None:
    names = list(MARKERS)
    if names.index(inner) > names.index(outer):
        inner, outer = outer, inner
    identity = ask({"env": MARKERS[outer] | MARKERS[inner]})
    assert identity.orchestrator == inner
    assert identity.within == (() if outer in {inner, "plain"} else (outer,))


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("node1", ["node1"]),
        ("node[01-04,07],other3", ["node01", "node02", "node03", "node04", "node07", "other3"]),
        ("a[9-11]", ["a9", "a10", "a11"]),
        ("a[098-101]x", ["a098x", "a099x", "a100x", "a101x"]),
        ("r[1-2]n[1-2]", ["r1n1", "r1n2", "r2n1", "r2n2"]),
        ("gpu-a-[0-1],gpu-b-[3]", ["gpu-a-0", "gpu-a-1", "gpu-b-3"]),
        *((bad, []) for bad in ("", "a[", "a]", "a[1-", "a[2-1]", "a[]", "a[x]", "a[[1]]", "a b")),
        ("a[0-9999999]", []),
        ("a[0-999][0-999]", []),
    ],
)
def test_lists_of_slurm(text: str, nodes: list[str]) -> None:
    assert list(slurm_nodes(text)) == nodes


@pytest.mark.parametrize(
    ("text", "tasks"),
    [
        ("8(x4),4", [8, 8, 8, 8, 4]),
        ("1", [1]),
        *((bad, []) for bad in ("", "8(x4", "x4", "8(4)", "-1", "8,,4", "8(x99999),1")),
    ],
)
def test_tasks_of_slurm(text: str, tasks: list[int]) -> None:
    assert list(slurm_tasks(text)) == tasks


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 40)), min_size=1, max_size=5))
@settings(deadline=None, max_examples=100)
def test_a_list_of_slurm_has_what_was_put_in(ranges: list[tuple[int, int]]) -> None:
    text = ",".join(f"{low:05}-{low + more:05}" for low, more in ranges)
    expect = [f"n{low + each:05}" for low, more in ranges for each in range(more + 1)]
    assert list(slurm_nodes(f"n[{text}]")) == expect


KEYS = sorted(
    {
        key
        for golden in GOLDEN.values()
        for part in ("env", "annotations", "labels")
        for key in golden.get(part, {})
    }
)
VALUES = st.one_of(
    st.integers(-2, 20).map(str),
    st.sampled_from(
        sorted({value for golden in GOLDEN.values() for value in golden["env"].values()})
    ),
    st.text(max_size=12),
    st.text("0123456789[](),:-x. \n", max_size=12),
)
PATHS = ("/etc/volcano/worker.host", "/etc/volcano/.host", "/etc/mpi/hostfile", "/etc/hosts")
FILES = st.dictionaries(st.sampled_from([*PATHS, "/etc/hostname"]), st.text(max_size=40))


@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=8), FILES)
@settings(deadline=None, max_examples=150)
def test_no_environment_is_too_bad(values: dict[str, str], files: dict[str, str]) -> None:
    notes = {key: value for key, value in values.items() if "/" in key}
    env = {key: value for key, value in values.items() if "/" not in key}
    check(ask({"env": env, "annotations": notes, "labels": notes, "files": files}))


@given(st.sampled_from(sorted(GOLDEN)), st.data())
@settings(deadline=None, max_examples=200)
def test_a_golden_environment_with_other_values(name: str, data: st.DataObject) -> None:
    golden = dict(GOLDEN[name])
    for part in ("env", "annotations", "labels"):
        known = golden.get(part, {})
        if known:
            changed = data.draw(st.dictionaries(st.sampled_from(sorted(known)), VALUES, max_size=3))
            golden[part] = {**known, **changed}
    check(ask(golden))


def test_more_processes_than_a_host_can_have_are_no_number() -> None:
    """What follows takes time for each, and for each pair of them."""
    identity = ask({"env": {"PET_NPROC_PER_NODE": "99999"}})
    assert identity.nproc_per_node is None
    assert [each.id for each in identity.complaints] == ["not-a-number"]
    assert ask({"env": {"PET_NPROC_PER_NODE": "1024"}}).nproc_per_node == 1024


def check(identity: Identity) -> None:
    """Assert what holds of any identity."""
    ids = {each.id for each in identity.complaints}
    numbers = {name: getattr(identity, name) for name in NUMBERS}
    assert all(value is None or (type(value) is int and value >= 0) for value in numbers.values())
    assert identity.nnodes != 0 and identity.nproc_per_node != 0 and identity.leader_port != 0
    if None not in {identity.nnodes, identity.node_rank}:
        assert numbers["node_rank"] < numbers["nnodes"] or ids & {
            "rank-out-of-range",
            "elastic-nodes",
        }
    assert re.fullmatch(r"[\x21-\x7e]*", identity.leader)
    assert set(identity.decided_by) == {"orchestrator", "leader", *NUMBERS}
    assert all(str(each).isprintable() for each in identity.complaints)
    assert all(words.isprintable() for words in identity.decided_by.values())
