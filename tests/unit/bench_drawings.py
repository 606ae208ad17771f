# SPDX-License-Identifier: Apache-2.0
"""Records to draw: made by a formula, so that each value tells what it belongs to."""

from typing import Any

Record = dict[str, Any]
SIZES = tuple(8 * 16**power for power in range(6))


def record(
    backend: str = "rdmatrain", nbytes: int = 4096, p50: float = 1e-5, **more: Any
) -> Record:
    """An all-reduce over two ranks, unless ``more`` says otherwise."""
    return {
        "schema": "rdmatrain-bench/1",
        "op": "all_reduce",
        "backend": backend,
        "asked": "",
        "transport": "shm",
        "ranks": 2,
        "hosts": 1,
        "nbytes": nbytes,
        "dtype": "float32",
        "redop": "SUM",
        "in_place": True,
        "root": -1,
        "seconds_p50": p50,
        "seconds_p99": 1.5 * p50,
        "seconds_min": 0.9 * p50,
        "cv": 0.03,
        "rounds": [p50],
        "spins": [],
        "calls": 100,
        "algbw": nbytes / p50 / 1e9 if p50 else 0.0,
        "busbw": nbytes / p50 / 1e9 if p50 else 0.0,
        "nwrong": 0,
        "time": "2026-11-29T06:30:00+00:00",
        "command": "rdmatrain bench all_reduce",
        "commit": "0501b43",
        "machine": "Some Processor",
        "cpus": 2,
        "memory_bytes": 8 << 30,
        "kernel": "6.1.0",
        "host": "node-7",
        "versions": {"torch": "2.13.0"},
        "nic": None,
        "pinned": True,
    } | more


def sweep(*backends: str, sizes: tuple[int, ...] = SIZES, **more: Any) -> list[Record]:
    """Each backend takes twice as long as the one before, at all sizes."""
    return [
        record(backend, nbytes, 2**place * (1e-6 + nbytes / 1e10), **more)
        for place, backend in enumerate(backends)
        for nbytes in sizes
    ]
