"""How far the clocks of pods are apart: Cristian's method, over the store."""

import time
from dataclasses import dataclass

from rdmatrain.comm.bootstrap import Store
from rdmatrain.doctor.gang.wait import first_of

EXCHANGES = 5
EXCHANGE_S = 5.0


@dataclass(frozen=True)
class Offset:
    """How much later it is elsewhere, and how long the exchange took that says so, in seconds."""

    seconds: float
    rtt_s: float


def offset(asked_s: float, said_s: float, heard_s: float) -> Offset:
    """Return what an exchange says.

    Args:
        asked_s: by this clock.
        said_s: the answer, by the other clock.
        heard_s: by this clock.

    """
    return Offset(said_s - (asked_s + heard_s) / 2, heard_s - asked_s)


def serve(store: Store, world: int, deadline: float) -> None:
    """Say what time it is by rank 0's clock to each other rank, one after the other.

    Args:
        store: the ranks' own.
        world: how many ranks there are.
        deadline: by :func:`time.monotonic`.

    """
    for rank in range(1, world):
        for i in range(EXCHANGES):
            now = time.monotonic()
            until = min(deadline, now + max(EXCHANGE_S, (deadline - now) / 4))
            if not first_of(store, [f"clock/{rank}/{i}/ask"], until):
                break
            store.set(f"clock/{rank}/{i}/say", repr(time.time()))


def ask(store: Store, rank: int, deadline: float) -> Offset | None:
    """Return how far rank 0's clock is from this one: by the exchange that took least.

    Args:
        store: the ranks' own.
        rank: who asks.
        deadline: by :func:`time.monotonic`.

    """
    found = []
    for i in range(EXCHANGES):
        asked_s = time.time()
        store.set(f"clock/{rank}/{i}/ask", "")
        if not first_of(store, [f"clock/{rank}/{i}/say"], deadline):
            break
        heard_s = time.time()
        found.append(offset(asked_s, float(store.get(f"clock/{rank}/{i}/say")), heard_s))
    return min(found, key=lambda each: each.rtt_s, default=None)
