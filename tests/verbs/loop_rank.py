"""A rank in a process of its own, of one group after the other. ranks.py starts it.

Speaks lines of JSON. In: what the rank is in a group; then the addresses of all. Out: its own
address; then "running" once the ranks reduce; then how that ended, and that all was given back.
While it reduces, it is asked for its "turns", or told to "stop".
"""

import array
import json
import select
import sys
import time
from pathlib import Path

from rdmatrain import _core
from rdmatrain.errors import CommError

PERIOD = 251  # of the values, a prime: no chunk looks like its neighbours
NUM_INPUTS = 4  # that take turns
NUM_WORKS = 3  # pending at once
CONNECT_S = 30.0
OPERATION_S = 20.0


def say(**fields):
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def count_fds():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def values(ranks, turn, count):
    """float32: the sum of what these ranks give in a turn; small integers, so it is exact."""
    base = 1000 * sum(ranks) + 7 * turn * len(ranks)
    period = array.array("f", [base + i * len(ranks) for i in range(PERIOD)])
    return (period * (count // PERIOD + 1))[:count].tobytes()


class Loop:
    """All-reduces without end, several at a time, each in a buffer of the arena."""

    def __init__(self, comm, rank, world, count):
        self.comm = comm
        self.turns = 0
        self.done_at = time.monotonic()  # the last turn that was
        self.buffers = [_core.arena_buffer(4 * count) for _ in range(NUM_WORKS)]
        self.inputs = [values([rank], turn, count) for turn in range(NUM_INPUTS)]
        self.wanted = [values(range(world), turn, count) for turn in range(NUM_INPUTS)]

    def turn(self):
        """One all-reduce in each buffer. The errors of all that failed; none may stay pending."""
        works, errors = [], []
        for index, buffer in enumerate(self.buffers):
            buffer[:] = self.inputs[(self.turns + index) % NUM_INPUTS]
            try:
                works.append(
                    self.comm.post("all_reduce", "float32", out=buffer, timeout=OPERATION_S)
                )
            except CommError as error:
                errors.append(error)
        for work in works:
            try:
                work.wait()
            except CommError as error:
                errors.append(error)
        if not errors:
            self.check()
            self.done_at = time.monotonic()
        self.turns += 1
        return errors

    def check(self):
        for index, buffer in enumerate(self.buffers):
            if buffer != self.wanted[(self.turns + index) % NUM_INPUTS]:
                raise AssertionError(f"turn {self.turns}: buffer {index} is wrong")

    def run(self):
        """Until an operation fails or the test says so; the errors."""
        while True:
            errors = self.turn()
            if errors:
                return errors
            if self.turns == 3:
                say(running=True)
            if select.select([sys.stdin], [], [], 0)[0]:
                if sys.stdin.readline().strip() == "stop":
                    return []
                say(turns=self.turns)


def take_part(mine):
    """In one group; says how it ended."""
    fds, since = count_fds(), time.monotonic()
    comm = _core.Comm(mine["rank"], mine["world"], bytes.fromhex(mine["token"]))
    try:
        say(wire=comm.listen("verbs", mine["arg"]).hex())
        wires = json.loads(sys.stdin.readline())
        peers = [("verbs", bytes.fromhex(w), f"process {r}") for r, w in enumerate(wires)]
        comm.connect(peers, CONNECT_S)
        loop = Loop(comm, mine["rank"], mine["world"], mine["count"])
        errors, since = loop.run(), loop.done_at
    except (CommError, MemoryError) as error:
        errors = [error]
    at = time.monotonic()
    told = [(getattr(error, "status", type(error).__name__), str(error)) for error in errors]
    say(errors=told, at=at, quiet_s=at - since)
    comm.close()
    say(closed_s=time.monotonic() - at, leaked_fds=count_fds() - fds)


def main():
    _core.arena_open()
    while line := sys.stdin.readline():
        take_part(json.loads(line))


if __name__ == "__main__":
    main()
