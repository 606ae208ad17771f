# SPDX-License-Identifier: Apache-2.0
"""Results of runs that never were, for tests of what is written of them."""

from typing import Any

from hypothesis import strategies as st

from rdmatrain.bench.model import OPS, Case, Context, Entry, Failure, Nic, Result, Sweep

NIC = Nic("mlx5_2", 1, "Ethernet", 100.0, "28.39.1002", 4096, 3, "10.0.0.7")
CONTEXT = Context(
    time="2026-11-29T06:30:00+00:00",
    command="rdmatrain bench all_reduce -b 8 -e 64M --vs gloo",
    commit="0501b43",
    machine="Some Processor",
    cpus=2,
    memory_bytes=8 << 30,
    kernel="6.1.0",
    host="node-7",
    versions={"rdmatrain": "0.1.0", "python": "3.11.2", "torch": "2.13.0"},
    nic=None,
    pinned=True,
)
OURS, GLOO, OPENMPI = Entry("rdmatrain", "shm"), Entry("gloo"), Entry("openmpi")


def case(op: str = "all_reduce", nbytes: int = 4096, **changes: Any) -> Case:
    """A case of float32 as the operation has it."""
    known = OPS[op]
    fields = {
        "dtype": "float32",
        "redop": "SUM" if known.reduces else "",
        "in_place": known.in_place == "in",
        "root": 0 if known.rooted else -1,
    }
    return Case(op, nbytes=nbytes, **fields | changes)


def result(entry: Entry, what: Case, seconds: float = 1e-5, **changes: Any) -> Result:
    """Five rounds whose median is ``seconds``, on two ranks."""
    fields: dict[str, Any] = {
        "ranks": 2,
        "hosts": 1,
        "transport": "shm",
        "rounds": tuple(seconds * part for part in (0.98, 1.0, 1.02, 0.99, 1.01)),
        "seconds_p50": seconds,
        "seconds_p99": seconds * 1.5,
        "seconds_min": seconds * 0.9,
        "cv": 0.0158,
        "calls": 500,
        "nwrong": 0,
    }
    return Result(entry, what, **fields | changes)


DTYPES = (
    "float32",
    "bfloat16",
    "float16",
    "float64",
    "int8",
    "int64",
    "uint8",
    "bool",
    "complex64",
)
TIMES = st.floats(1e-9, 1e4)
ENTRIES = st.builds(
    Entry,
    st.sampled_from(["rdmatrain", "gloo", "nccl", "openmpi", "mpich", "intelmpi", "perftest"]),
    st.sampled_from(["", "auto", "shm", "tcp", "verbs"]),
)
CASES = st.builds(
    Case,
    st.sampled_from(sorted(OPS)),
    st.sampled_from(DTYPES),
    st.sampled_from(["SUM", "AVG", "PRODUCT", "MIN", "MAX", ""]),
    st.integers(0, 1 << 36),  # what has 12 digits leaves no space before it
    st.booleans(),
    st.integers(-1, 1023),
)
RESULTS = st.builds(
    Result,
    ENTRIES,
    CASES,
    ranks=st.integers(1, 1024),
    hosts=st.integers(1, 1024),
    transport=st.sampled_from(["", "shm", "tcp", "verbs", "shm+tcp"]),
    rounds=st.lists(TIMES, min_size=1, max_size=9).map(tuple),
    seconds_p50=TIMES,
    seconds_p99=TIMES,
    seconds_min=TIMES,
    cv=st.floats(0, 10),
    calls=st.integers(1, 10**6),
    nwrong=st.none() | st.integers(0, 1 << 50),
)
NICS = st.builds(
    Nic,
    device=st.text(min_size=1),
    port=st.integers(1, 255),
    link_layer=st.sampled_from(["Ethernet", "InfiniBand"]),
    rate_gbps=st.floats(0, 3200),
    firmware=st.text(),
    mtu=st.sampled_from([0, 1024, 4096]),
    gid_index=st.integers(0, 255),
    gid=st.ip_addresses().map(str),
)
CONTEXTS = st.builds(
    Context,
    time=st.datetimes().map(lambda when: f"{when.isoformat(timespec='seconds')}+00:00"),
    command=st.text(),
    commit=st.text(),
    machine=st.text(),
    cpus=st.integers(1, 1024),
    memory_bytes=st.integers(0, 1 << 50),
    kernel=st.text(),
    host=st.text(),
    versions=st.dictionaries(st.text(), st.text(), max_size=4),
    nic=st.none() | NICS,
    pinned=st.booleans(),
)
FAILURES = st.builds(Failure, ENTRIES, st.none() | CASES, st.text())
SWEEPS = st.builds(
    Sweep, CONTEXTS, st.lists(RESULTS, max_size=4), st.lists(FAILURES, max_size=2), st.booleans()
)
