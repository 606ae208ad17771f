"""The fake transport cuts a connection at the Nth send: an error or right data, never a hang."""

import time

import numpy as np
import pytest
from group import CALL_S, LIMIT_S, call
from oracle import assert_same_bits, inputs, reduced, values

from rdmatrain.errors import CommError

SOON_S = 5.0
PATIENCE_S = 8.0
WORLD = 3
SCRIPTS = {
    "plain": "",
    "delay": "delay=5,seed=3,",
    "slot": "delay=2,slots=1,seed=4,",
    "place": "delay=2,slots=3,seed=6,place=1,",
}


def steps(comm, rank):
    """Some of everything: yields (got, want) after each operation, which raises if it failed."""
    right, left = (rank + 1) % WORLD, (rank - 1) % WORLD
    for n in (1000, 65537):
        data = values("float32", rank, n).copy()
        call(comm, "all_reduce", "float32", out=data, timeout=PATIENCE_S)
        yield data, reduced("float32", "SUM", inputs("float32", WORLD, n))
        got = np.zeros(n, np.int32)
        limits = {"timeout": PATIENCE_S}
        work = comm.post("recv", "int32", out=got, peer=left, **limits)
        call(comm, "send", "int32", in_=values("int32", rank, n), peer=right, **limits)
        work.wait()
        yield got, values("int32", left, n)
        gathered = np.zeros(WORLD * n, np.int32)
        call(comm, "all_gather", "int32", in_=values("int32", rank, n), out=gathered, **limits)
        yield gathered, np.concatenate(inputs("int32", WORLD, n))


def checked_steps(comm, rank):
    """The error that ended the steps, or None."""
    try:
        for number, (got, want) in enumerate(steps(comm, rank)):
            assert_same_bits(got, want, f"step {number}, rank {rank}")
    except CommError as error:
        return error
    return None


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("fail", range(1, 21))
@pytest.mark.parametrize("who", ["rank 1", "all"])
def test_a_lost_connection_is_an_error_and_what_succeeded_is_right(connect, script, fail, who):
    broken, whole = f"{SCRIPTS[script]}fail={fail}", SCRIPTS[script].rstrip(",")
    scripts = [broken if who == "all" or rank == 1 else whole for rank in range(WORLD)]
    outcomes = connect("fake", WORLD, scripts=scripts).outcomes(checked_steps)
    assert [outcome.error for outcome in outcomes] == [None] * WORLD
    assert max(outcome.seconds for outcome in outcomes) < SOON_S, outcomes
    errors = [outcome.value for outcome in outcomes if outcome.value is not None]
    assert errors, "the connection was cut, and nobody noticed"
    for error in errors:
        assert error.status in ("PEER_LOST", "REMOTE_ERROR")
        assert "died or closed its connection" in str(error)
        assert "thread" in str(error)


def test_the_buffers_of_a_failed_call_are_no_longer_read_or_written(connect):
    """After the error the owner may reuse them: the peer gets no byte of the new content."""
    scripts = ["delay=9,seed=2", "delay=9,seed=3,fail=2"]
    for _ in range(20):
        mine = np.full(65537, 1.0, np.float32)

        def body(comm, rank, mine=mine):
            data = mine if rank == 0 else np.full(65537, 1.0, np.float32)
            error = None
            try:
                call(comm, "all_reduce", "float32", out=data, timeout=CALL_S)
            except CommError as caught:
                error = caught
            if rank == 0:
                data[:] = 99.0
                time.sleep(0.02)
                assert np.all(data == 99.0)
            else:
                assert not np.any(data >= 99.0)
            return error

        errors = connect("fake", 2, scripts=scripts).run(body, LIMIT_S)
        assert all(errors)
