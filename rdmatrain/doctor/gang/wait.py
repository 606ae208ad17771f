"""Waiting at the store, always with an end, and gathering what all ranks say."""

from collections.abc import Sequence
from time import monotonic, sleep

from rdmatrain.comm.bootstrap import Store
from rdmatrain.doctor.gang.store import LAST_POLL_S, POLL_S


def first_of(store: Store, keys: Sequence[str], deadline: float) -> str:
    """Return the first of the keys that has a value; empty when the deadline has come.

    Args:
        store: to look into.
        keys: to look for.
        deadline: by :func:`time.monotonic`.

    """
    pause = POLL_S
    while True:
        for key in keys:
            if store.check([key]):
                return key
        if monotonic() >= deadline:
            return ""
        sleep(pause)
        pause = min(2 * pause, LAST_POLL_S)


def collect(store: Store, topic: str, ranks: Sequence[int], deadline: float) -> dict[int, str]:
    """Return what each rank put under ``TOPIC/RANK`` until the deadline.

    Args:
        store: to look into.
        topic: what they speak of.
        ranks: who is waited for.
        deadline: by :func:`time.monotonic`; then whatever is there counts.

    """
    found = {}
    for rank in ranks:
        if key := first_of(store, [f"{topic}/{rank}"], deadline):
            found[rank] = store.get(key).decode()
    return found
