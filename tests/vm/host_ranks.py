"""Two ranks of a host, as threads; runs in each of two guests: HOST ADDRESS ADDRESS_OF_HOST_0.

The ranks of a host are joined by shm, those of different hosts by verbs. Every dtype and reduction
goes through an all_reduce by hosts and is compared with NumPy; then a large one is counted on the
wire. Prints a line of JSON.
"""

import json
import secrets
import socket
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/contract"))

from group import in_arena, results, run_threads  # noqa: E402
from oracle import INTS, REDOPS, REDUCED, assert_same_bits, inputs  # noqa: E402
from test_hosts import by_host  # noqa: E402

from rdmatrain import _core  # noqa: E402
from rdmatrain.comm import rdma  # noqa: E402
from rdmatrain.config import load_settings  # noqa: E402

PORT = 18600
RANKS = (0, 1)  # of a host
HOSTS = [0, 0, 1, 1]  # of the ranks
LIMIT_S = 200.0
TRAFFIC_COUNT = 1 << 20  # float32
SENT = Path("/sys/class/net/eth0/statistics/tx_bytes")


def exchange(host: int, leader: str, mine: object) -> list:
    """Give what this host has to the other one; both, in order of hosts."""
    if host == 0:
        with socket.create_server(("", PORT)) as server:
            server.settimeout(LIMIT_S)
            peer, _ = server.accept()
    else:
        peer = dialled(leader)
    with peer, peer.makefile("rw") as file:
        file.write(json.dumps(mine) + "\n")
        file.flush()
        other = json.loads(file.readline())
    return [mine, other] if host == 0 else [other, mine]


def dialled(leader: str) -> socket.socket:
    deadline = time.monotonic() + LIMIT_S
    while True:
        try:
            return socket.create_connection((leader, PORT), timeout=LIMIT_S)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def joined(host: int, address: str, leader: str) -> list[_core.Comm]:
    """Make and connect the communicators of this host's ranks."""
    _core.arena_open()
    rails = rdma.find_rails(load_settings({})).rails
    argument = rdma.listen_argument(rails[:1], address, load_settings({}))
    token, _ = exchange(host, leader, secrets.token_hex(16))
    comms = [
        _core.Comm(2 * host + i, 4, bytes.fromhex(token), hosts=HOSTS, tuning={"way": 2})
        for i in RANKS
    ]
    mine = [[comm.listen("shm").hex(), comm.listen("verbs", argument).hex()] for comm in comms]
    wires = [wire for wires in exchange(host, leader, mine) for wire in wires]
    peers = [
        ("shm" if HOSTS[rank] == host else "verbs", bytes.fromhex(wire[HOSTS[rank] != host]), "")
        for rank, wire in enumerate(wires)
    ]
    results(run_threads([lambda c=comm: c.connect(peers, LIMIT_S) for comm in comms], LIMIT_S))
    return comms


def all_reduce(comms, host, dtype, op, shares):
    def one(i):
        out = in_arena(shares[2 * host + i], 0)
        comms[i].post("all_reduce", dtype, op, out=out, timeout=LIMIT_S).wait()
        return out

    return results(run_threads([lambda i=i: one(i) for i in RANKS], LIMIT_S))


def check_values(comms, host) -> int:
    cells = [(dtype, op) for dtype in REDUCED for op in REDOPS]
    cells += [(dtype, op) for dtype in INTS for op in ("BAND", "BOR", "BXOR")]
    for i, (dtype, op) in enumerate(cells):
        shares = inputs(dtype, 4, (1, 17, 1000, 40001)[i % 4], salt=i)
        want = by_host(dtype, op, shares, HOSTS)
        for got in all_reduce(comms, host, dtype, op, shares):
            assert_same_bits(got, want, f"{dtype} {op} of {len(want)}")
    return len(cells)


def bytes_on_the_wire(comms, host, shares) -> int:
    before = int(SENT.read_text())
    got = all_reduce(comms, host, "float32", "SUM", shares)
    assert_same_bits(got[0], by_host("float32", "SUM", shares, HOSTS), "what was counted")
    return int(SENT.read_text()) - before


def count_traffic(comms, host) -> dict[str, int]:
    """Bytes that this host sends for one large all_reduce, all headers included.

    The fewest of some runs: soft-RoCE now and then sends again what only came late. The median
    tells how often.
    """
    shares = [np.arange(TRAFFIC_COUNT, dtype=np.float32) % (7 + rank) for rank in range(4)]
    bytes_on_the_wire(comms, host, shares)  # registers, and tells keys
    staged = sum(peer["staged_bytes"] for comm in comms for peer in comm.stats())
    sent = [bytes_on_the_wire(comms, host, shares) for _ in range(8)]
    staged = sum(peer["staged_bytes"] for comm in comms for peer in comm.stats()) - staged
    return {
        "sent_bytes": min(sent),
        "median_bytes": int(median(sent)),
        "optimum_bytes": 4 * TRAFFIC_COUNT,
        "staged_bytes": staged,
    }


def main() -> None:
    host, address, leader = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    comms = joined(host, address, leader)
    num_cells = check_values(comms, host)
    facts = {"cells": num_cells, **count_traffic(comms, host)}
    results(run_threads([comm.close for comm in comms], LIMIT_S))
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
