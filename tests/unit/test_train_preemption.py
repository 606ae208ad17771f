# SPDX-License-Identifier: Apache-2.0
"""rdmatrain.train.preemption: a signal is noted, and nothing else that handled it is lost."""

import os
import signal
import threading

import pytest

from rdmatrain.train import PREEMPTED, Preemption


@pytest.fixture(autouse=True)
def default_handlers():
    signals = (signal.SIGTERM, signal.SIGUSR1)
    before = [signal.signal(number, signal.SIG_DFL) for number in signals]
    yield
    for number, handler in zip(signals, before, strict=True):
        signal.signal(number, handler)


def test_a_signal_is_noted_and_the_handler_taken_back():
    with Preemption() as preemption:
        assert not preemption.requested
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert preemption.requested
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert PREEMPTED == 143


def test_the_handler_that_was_there_is_called_and_there_again():
    seen = []

    def handler(number, frame):
        seen.append((number, frame is not None))

    signal.signal(signal.SIGTERM, handler)
    with Preemption() as preemption:
        signal.raise_signal(signal.SIGTERM)
        assert preemption.requested
    assert seen == [(signal.SIGTERM, True)]
    assert signal.getsignal(signal.SIGTERM) is handler


def test_ignored_signals_count_as_well():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with Preemption() as preemption:
        signal.raise_signal(signal.SIGTERM)
        assert preemption.requested
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN


def test_other_signals_may_be_chosen():
    with Preemption((signal.SIGUSR1,)) as preemption:
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        signal.raise_signal(signal.SIGUSR1)
        assert preemption.requested


def test_an_interrupt_is_noted_without_a_traceback():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Preemption((signal.SIGINT,)) as preemption:
            signal.raise_signal(signal.SIGINT)
            assert preemption.requested
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_forked_child_dies_of_the_signal():
    with Preemption() as preemption:
        pid = os.fork()
        if pid == 0:
            signal.raise_signal(signal.SIGTERM)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM
        assert not preemption.requested


def test_other_threads_are_refused():
    raised = []

    def enter():
        with pytest.raises(RuntimeError, match="main thread") as error, Preemption():
            pass
        raised.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert raised


def test_what_native_code_handles_is_refused(monkeypatch):
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    with pytest.raises(RuntimeError, match="SIGUSR1"), Preemption((signal.SIGUSR1,)):
        pass
