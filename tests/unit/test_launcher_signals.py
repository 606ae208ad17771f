# SPDX-License-Identifier: Apache-2.0
"""Signals arrive in order, and none that stops the job is lost among others."""

import os
import select
import signal

from rdmatrain.launcher.signals import SignalInbox


def test_stop_signals_come_in_order_and_others_only_wake() -> None:
    with SignalInbox(["SIGTERM", "SIGINT"]) as inbox:
        for number in (signal.SIGINT, signal.SIGCHLD, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert select.select([inbox], [], [], 5)[0]
        assert inbox.drain() == [signal.SIGINT, signal.SIGTERM]
        assert inbox.drain() == []


def test_a_stop_signal_after_very_many_dead_children_is_not_lost() -> None:
    with SignalInbox(["SIGTERM"]) as inbox:
        for _ in range(20_000):
            os.kill(os.getpid(), signal.SIGCHLD)
        os.kill(os.getpid(), signal.SIGTERM)
        assert inbox.drain() == [signal.SIGTERM]


def test_handlers_are_put_back_and_what_was_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with SignalInbox(["SIGHUP", "SIGTERM"]) as inbox:
            os.kill(os.getpid(), signal.SIGHUP)
            assert inbox.drain() == []
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
