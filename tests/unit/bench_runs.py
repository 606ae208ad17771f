# SPDX-License-Identifier: Apache-2.0
"""Runs that never were, for tests of what compares them."""

import json

import numpy as np

CASES, ROUNDS = 12, 10
VERSIONS = {"python": "3.11.7", "torch": "2.13.0"}


def record(index, rounds, spins, op="all_reduce", **changed):
    fields = {
        "backend": "rdmatrain",
        "asked": "auto",
        "ranks": 2,
        "op": op,
        "dtype": "float32",
        "redop": "SUM",
        "root": -1,
        "in_place": True,
        "nbytes": 8 << index,
        "time": "2026-11-29T00:00:00+00:00",
        "rounds": [float(each) for each in rounds],
        "spins": [float(each) for each in spins],
        "transport": "shm",
        "machine": "a processor",
        "cpus": 2,
        "kernel": "6.1",
        "host": "here",
        "pinned": True,
        "versions": VERSIONS,
        "nic": None,
    }
    return fields | changed


def run(seed, factors=None, pace=1.0, rounds=ROUNDS, noise=0.02, crowd=0.02, **changed):
    """Make a run: noise only adds, to all cases of a round and to each; factors by case."""
    rng = np.random.default_rng(seed)
    together = pace * (1 + rng.exponential(noise, rounds))
    records = []
    for index in range(CASES):
        own = 1 + rng.exponential(crowd, rounds)
        spins = 60e-6 * together * (1 + rng.exponential(noise, rounds))
        seconds = 6e-6 * (1 + index) * (1 + rng.normal(0, 0.01)) * together * own
        records.append(record(index, seconds * (factors or {}).get(index, 1), spins, **changed))
    return records


def write_run(path, records):
    """Write records as ``--json`` does; returns the name of the file."""
    schema = {"schema": "rdmatrain-bench/1"}
    path.write_text("".join(json.dumps(schema | each) + "\n" for each in records))
    return str(path)


def full(records):
    """Add the fields of a record that a comparison does not look at."""
    rest = {"hosts": 1, "cv": 0.1, "calls": 100, "algbw": 1.0, "busbw": 1.0, "nwrong": 0}
    rest |= {"command": "", "commit": "", "memory_bytes": 1}
    times = ("seconds_p50", "seconds_p99", "seconds_min")
    return [each | rest | dict.fromkeys(times, each["rounds"][0]) for each in records]
