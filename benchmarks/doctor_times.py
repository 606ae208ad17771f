"""Measure how long ``rdmatrain doctor`` takes: of this pod, and of a gang of four on this host."""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from common import append_records, where

DOCTOR = [sys.executable, "-m", "rdmatrain.cli", "doctor", "--json"]
PODS = 4
NODE_S, GANG_S = 2.0, 10.0  # what is promised


def main() -> int:
    """Measure, print; return 1 if a promise is not held."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--times", type=int, default=5, help="how often each (default: 5)")
    parser.add_argument("--json", type=Path, help="append records to this file")
    args = parser.parse_args()
    node = [ask_node() for _ in range(args.times)]
    gang = [ask_gang() for _ in range(args.times)]
    held = [show("node", node, NODE_S), show(f"gang of {PODS}", gang, GANG_S)]
    if args.json:
        scopes = (("node", 1, node), ("gang", PODS, gang))
        records = [{"scope": name, "pods": pods, "seconds": took} for name, pods, took in scopes]
        append_records(args.json, [record | where() for record in records])
    return int(not all(held))


def ask_node() -> float:
    """Return the seconds that a process takes which examines this pod."""
    began = time.monotonic()
    subprocess.run(DOCTOR, check=True, stdout=subprocess.DEVNULL, timeout=60)
    return time.monotonic() - began


def ask_gang() -> float:
    """Return the seconds from starting the first pod's doctor to the end of the last one's."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    common = {
        "PET_NNODES": str(PODS),
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": str(port),
        "RDMATRAIN_SECRET": "benchmark-of-the-doctor-0123456789",
    }
    began = time.monotonic()
    pods = [
        subprocess.Popen(
            [*DOCTOR, "--gang"],
            env=os.environ | common | {"PET_NODE_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for rank in range(PODS)
    ]
    said = [pod.communicate(timeout=120)[0] for pod in pods]
    took = time.monotonic() - began
    if any(pod.returncode for pod in pods):
        sys.exit(f"a doctor ended with {[pod.returncode for pod in pods]}: {said[0]}")
    found = json.JSONDecoder().raw_decode(said[0][said[0].index("{") :])[0]
    assert len(found["gang"]["hosts"]) == PODS, found["gang"]
    return took


def show(name: str, took: Sequence[float], limit: float) -> bool:
    """Print a row; tell whether the usual time is within the limit."""
    usual = statistics.median(took)
    ok = usual <= limit
    print(
        f"{name:>10}: {usual:.2f} s ({min(took):.2f}..{max(took):.2f}, {len(took)} times), "
        f"at most {limit:g} s: {'ok' if ok else 'MISSED'}"
    )
    return ok


if __name__ == "__main__":
    sys.exit(main())
