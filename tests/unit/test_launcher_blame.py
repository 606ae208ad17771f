# SPDX-License-Identifier: Apache-2.0
"""The cause is told before the consequence, with who, where, what and what to do."""

import itertools
import resource
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from rdmatrain._core import Pair
from rdmatrain.launcher.blame import (
    CAUSE_S,
    SETTLE_S,
    headline,
    is_consequence,
    of_hardware,
    of_worker,
    root_cause,
    settle_s,
)
from rdmatrain.launcher.messages import Fault

KILLED = of_worker(1, "b", 11, -signal.SIGKILL)
CRASHED = of_worker(2, "b", 12, -signal.SIGSEGV)
RAISED = of_worker(3, "c", 13, 1, "KeyError: 'x' (train.py:12)")
QUIET = of_worker(4, "c", 14, 3)
LEFT = of_worker(0, "a", 10, 1, "DistBackendError: rank 1 (host b, pid 11) has left the group")
LOST = Fault(kind="lost-node", host="d", detail="silent for 8 s", exit_code=201)


@pytest.mark.parametrize("cause", [KILLED, CRASHED, RAISED, QUIET, LOST])
def test_the_cause_is_told_whenever_it_comes(cause: Fault) -> None:
    for order in itertools.permutations([LEFT, cause, LEFT]):
        assert root_cause(order) is cause


@pytest.mark.parametrize("sure", [KILLED, CRASHED])
def test_a_signal_counts_more_than_an_error_that_came_first(sure: Fault) -> None:
    assert root_cause([RAISED, sure]) is sure


def test_of_equals_the_first_counts() -> None:
    assert root_cause([RAISED, QUIET]) is RAISED
    assert root_cause([QUIET, RAISED]) is QUIET
    assert root_cause([LEFT]) is LEFT


def test_a_consequence_waits_longer_for_its_cause() -> None:
    assert settle_s([LEFT]) == CAUSE_S
    assert settle_s([LEFT, KILLED]) == settle_s([RAISED]) == SETTLE_S


@pytest.mark.parametrize(
    ("fault", "code"), [(KILLED, 137), (CRASHED, 139), (RAISED, 1), (QUIET, 3)]
)
def test_the_exit_code_is_the_workers_or_128_and_the_signal(fault: Fault, code: int) -> None:
    assert fault.exit_code == code


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("RuntimeError: [gloo/transport/tcp/pair.cc:534] Connection closed by peer [::1]:1", True),
        ("DistBackendError: NCCL error: remote process exited or there was a network error", True),
        ("RuntimeError: rank 0 of 2: the store that the group forms through is gone", True),
        ("ValueError: batch size 0", False),
        ("", False),
    ],
)
def test_errors_that_others_caused_are_known(error: str, expected: bool) -> None:
    assert is_consequence(error) is expected


def test_the_headline_says_who_where_what_and_what_to_do() -> None:
    assert headline(KILLED).startswith("rank 1 on host b (pid 11): killed by SIGKILL; ")
    assert "memory" in headline(KILLED)
    assert headline(LOST).startswith("host d: silent for 8 s; see whether that pod")
    assert "KeyError: 'x' (train.py:12)" in headline(RAISED)


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGTERM, signal.SIGINT])
def test_signals_that_follow_from_errors_do_not_count_more_than_them(number: int) -> None:
    ended = of_worker(1, "b", 11, -number)
    assert root_cause([RAISED, ended]) is RAISED
    assert root_cause([ended, RAISED]) is ended


def test_an_abort_because_another_rank_has_gone_is_a_consequence() -> None:
    said = "its last line on stderr is: what(): NCCL error: remote process exited"
    aborted = of_worker(1, "b", 11, -signal.SIGABRT, said)
    assert root_cause([aborted, RAISED]) is RAISED
    assert settle_s([aborted]) == CAUSE_S
    assert said in headline(aborted)
    assert not of_worker(1, "b", 11, -signal.SIGSEGV, said).consequence


@pytest.mark.parametrize("number", signal.Signals)
def test_each_signal_has_a_next_step(number: signal.Signals) -> None:
    assert headline(of_worker(1, "b", 11, -number)).count("; ") == 1


def test_what_is_nobodys_fault_names_no_host() -> None:
    fault = Fault(kind="timeout", host="", detail="the gang was not complete", exit_code=200)
    assert headline(fault).startswith("the gang was not complete; see whether")


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        ("AcceleratorError: CUDA error: uncorrectable ECC error encountered", "", "device", 203),
        ("CUDA error: CUDA-capable device(s) is/are busy or unavailable", "", "device", 203),
        ("DistBackendError: rdmatrain: mlx5_0/1: the port went down", "IO_ERROR", "fabric", 202),
        ("RuntimeError: CUDA error: device-side assert triggered", "", "exit", 1),
        ("OSError: [Errno 5] Input/output error", "", "exit", 1),
        ("DistBackendError: rank 1 (host b, pid 1) has left the group", "IO_ERROR", "exit", 1),
    ],
)
def test_hardware_that_failed_is_told_from_programs_that_did(
    error: str, status: str, kind: str, code: int
) -> None:
    fault = of_hardware(of_worker(1, "a", 11, 1, error), error, status)
    assert (fault.kind, fault.exit_code, fault.rank) == (kind, code, 1)
    assert of_hardware(KILLED, error, status) is KILLED


def test_memory_that_may_not_be_locked_is_a_matter_of_the_pod() -> None:
    """What a worker says whose NIC gets no memory, as far as the launcher sees it."""
    # Two scripts are two devices: on one, whichever side comes first would find its end.
    argument = "rails=fake0/1/1 addr=127.0.0.1 fake="
    side = Pair("verbs", argument + "reg=1", 0, bytes(16))
    other = Pair("verbs", argument + "seed=1", 1, bytes(16))
    before, most = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (64 << 10, most))
    addresses = side.address(), other.address()
    with ThreadPoolExecutor(1) as pool:
        dialer = pool.submit(other.connect, addresses[0], 60)
        try:
            with pytest.raises(MemoryError) as caught:
                side.connect(addresses[1], 60)
        finally:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (before, most))
            side.close()
            failed = dialer.exception()
            other.close()
    assert failed is not None
    said = f"MemoryError: {caught.value}"
    fault = of_hardware(of_worker(1, "a", 11, 1, said), said, "")
    assert (fault.kind, fault.exit_code) == ("limit", 77)
    assert "64 KiB" in headline(fault) and "--explain memlock" in headline(fault)
    said = "MemoryError: registering 4 KiB with fake0: Cannot allocate memory"
    assert of_hardware(of_worker(1, "a", 11, 1, said), said, "NO_MEMORY").kind == "exit"
