# SPDX-License-Identifier: Apache-2.0
"""Two sides on one connection: what arrives is whole, wrong bytes are counted, deaths are seen."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from rdmatrain._core import Pair
from rdmatrain.errors import CommError, CommTimeoutError

LIMIT_S = 20
CHUNK = 128 << 10
ARGUMENTS = {
    "shm": None,
    "tcp": "127.0.0.1",
    # No library: verbs of a NIC that completes late and has no room for inline data.
    "verbs": "rails=fake0/1/1 addr=127.0.0.1 fake=delay=3;seed=5;inline=0",
}


def joined(transport):
    token = os.urandom(16)
    sides = [Pair(transport, ARGUMENTS[transport], side, token) for side in (0, 1)]
    addresses = [side.address() for side in reversed(sides)]
    both(sides, lambda side: side.connect(addresses[sides.index(side)], LIMIT_S))
    return sides


def both(sides, call):
    """Call it on each side at once; the two results."""
    with ThreadPoolExecutor(2) as pool:
        return [each.result() for each in [pool.submit(call, side) for side in sides]]


@pytest.fixture(params=sorted(ARGUMENTS))
def pair(request):
    sides = joined(request.param)
    yield sides
    for side in sides:
        side.close()


@pytest.mark.parametrize("nbytes", [1, 8, 4097, CHUNK - 1, CHUNK + 1, 3 * CHUNK])
@pytest.mark.parametrize("op", ["pingpong", "write"])
def test_what_is_sent_and_written_is_what_arrives(pair, op, nbytes):
    for side in pair:
        side.reserve(nbytes)
    for calls in (1, 8, 25):
        first, second = both(
            pair, partial(getattr(Pair, op), calls=calls, timeout=LIMIT_S, check=True)
        )
        assert (first[1], second[1]) == (0, 0), calls
        assert len(first[0]) == len(second[0]) == (calls if op == "pingpong" else 1)
        assert all(0 < seconds < LIMIT_S for seconds in first[0])
        assert not any(second[0])


@pytest.mark.parametrize(
    ("transport", "op"), [("tcp", "pingpong"), ("shm", "write"), ("verbs", "write")]
)
def test_bytes_that_are_not_those_of_this_call_are_wrong(transport, op):
    """The side that does not check sends what its memory holds: zeros."""
    nbytes = 70000
    pair = joined(transport)
    for side in pair:
        side.reserve(nbytes)
    checks = [op == "pingpong", op == "write"]
    calls = both(pair, lambda side: getattr(side, op)(1, LIMIT_S, check=checks[pair.index(side)]))
    nwrong = calls[checks.index(True)][1]
    assert nbytes * 0.98 < nwrong < nbytes  # one byte of 256 should be zero
    for side in pair:
        side.close()


def test_a_run_is_as_long_as_its_calls(pair):
    for side in pair:
        side.reserve(1 << 20)
    began = time.perf_counter()
    (written, _), _ = both(pair, lambda side: side.write(40, LIMIT_S))
    wall_s = time.perf_counter() - began
    assert 0 < written[0] < wall_s
    assert (40 << 20) / written[0] < 200e9  # no memory is that fast


def test_a_side_that_is_alone_gives_up_in_time(pair):
    pair[0].reserve(8)
    with pytest.raises(CommTimeoutError, match="did not go on in time"):
        pair[0].pingpong(1, 0.2)
    with pytest.raises(CommError, match="failed before"):
        pair[0].pingpong(1, 0.2)


def test_a_side_that_leaves_is_missed_at_once(pair):
    for side in pair:
        side.reserve(8)
    leave = threading.Timer(0.2, pair[1].close)
    leave.start()
    began = time.monotonic()
    with pytest.raises(CommError, match="other side of the pair is lost"):
        pair[0].pingpong(1, LIMIT_S)
    assert time.monotonic() - began < LIMIT_S / 2
    leave.join()


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match='over "smoke"'):
        Pair("smoke", None, 0, bytes(16))
    with pytest.raises(ValueError, match="side 2"):
        Pair("shm", None, 2, bytes(16))
    with pytest.raises(ValueError, match="16 bytes"):
        Pair("shm", None, 0, b"short")
    side = Pair("shm", None, 0, bytes(16))
    side.reserve(8)
    with pytest.raises(ValueError, match="not connected"):
        side.pingpong(1, 1)
    with pytest.raises(MemoryError, match="no room"):
        side.reserve(1 << 50)
    side.close()
    side.close()
    with pytest.raises(CommError, match="closed"):
        side.address()
