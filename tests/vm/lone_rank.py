"""One rank of two, on a host of its own, over verbs: HOST ADDRESS ADDRESS_OF_HOST_0.

Reduces until an error ends it. Prints "running" after some turns, and a line of JSON at the end:
what the error says, and how long after the last good turn it came.
"""

import json
import secrets
import sys
import time

import numpy as np
from host_ranks import LIMIT_S, exchange

from rdmatrain import _core
from rdmatrain.comm import rdma
from rdmatrain.config import load_settings
from rdmatrain.errors import CommError

RUNNING_AFTER = 20  # turns


def joined(host: int, address: str, leader: str) -> _core.Comm:
    """Make the communicator of this host's only rank, and connect it."""
    rails = rdma.find_rails(load_settings({})).rails
    argument = rdma.listen_argument(rails[:1], address, load_settings({}))
    token, _ = exchange(host, leader, secrets.token_hex(16))
    comm = _core.Comm(host, 2, bytes.fromhex(token))
    wires = exchange(host, leader, comm.listen("verbs", argument).hex())
    peers = [("verbs", bytes.fromhex(wire), f"guest {i}") for i, wire in enumerate(wires)]
    comm.connect(peers, LIMIT_S)
    return comm


def main() -> None:
    host, address, leader = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    comm = joined(host, address, leader)
    data = np.zeros(1000, np.float32)
    turn, last = 0, time.monotonic()
    try:
        while True:
            data[:] = turn % 100 + host
            comm.post("all_reduce", "float32", out=data, timeout=60).wait()
            last = time.monotonic()
            assert np.all(data == 2 * (turn % 100) + 1), turn
            turn += 1
            if turn == RUNNING_AFTER:
                print("running", flush=True)
    except CommError as error:
        after_s = time.monotonic() - last
        comm.close()
        print(json.dumps({"after_s": after_s, "status": error.status, "text": str(error)}))


if __name__ == "__main__":
    main()
