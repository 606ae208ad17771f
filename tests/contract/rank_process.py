"""A rank in a process of its own. Speaks lines of JSON with the test that started it.

In: rank, world, token, transport and its argument; then all addresses. Out: the own address; then
"running" once the ranks reduce; then the error that ended it, and when.
"""

import json
import sys
import time

import numpy as np

from rdmatrain import _core
from rdmatrain.errors import CommError


def say(**fields) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def main() -> None:
    mine = json.loads(sys.stdin.readline())
    comm = _core.Comm(mine["rank"], mine["world"], bytes.fromhex(mine["token"]))
    say(wire=comm.listen(mine["transport"], mine["arg"]).hex())
    wires = json.loads(sys.stdin.readline())
    peers = [
        (mine["transport"], bytes.fromhex(wire), f"process {rank}")
        for rank, wire in enumerate(wires)
    ]
    comm.connect(peers, 20)
    data = np.zeros(mine["count"], np.float32)
    for turn in range(1 << 30):
        if turn == 5:
            say(running=True)
        data[:] = mine["rank"]
        try:
            comm.post("all_reduce", "float32", out=data, timeout=20).wait()
        except CommError as error:
            say(status=error.status, text=str(error), at=time.monotonic())
            break
        if not np.all(data == sum(range(mine["world"]))):
            say(status="WRONG", text=f"turn {turn}: {data[:5]}", at=time.monotonic())
            break
        time.sleep(mine["pause_s"])
    comm.close()


if __name__ == "__main__":
    main()
