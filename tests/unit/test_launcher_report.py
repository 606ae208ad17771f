"""The summary names the first rank that failed and groups what became of the others."""

import signal
import socket

import pytest

from rdmatrain.launcher.report import Worker, exit_code_of, likely_first, summary

HOST = socket.gethostname()


@pytest.mark.parametrize(("status", "code"), [(0, 0), (77, 77), (-9, 137), (-15, 143), (None, 137)])
def test_the_exit_code_is_the_workers_or_128_plus_the_signal(status: int, code: int) -> None:
    assert exit_code_of(status) == code


def test_of_workers_found_dead_together_a_killed_one_failed_first() -> None:
    exited, killed = Worker(0, 10, 1), Worker(1, 11, -signal.SIGKILL)
    assert likely_first([exited, killed]) is killed
    assert likely_first([Worker(2, 12, 5), exited]) is exited


def test_a_good_end_says_nothing() -> None:
    assert summary([Worker(0, 10, 0), Worker(1, 11, 0)], None, None) == []


def test_a_lone_failed_worker_is_one_line() -> None:
    worker = Worker(3, 10, 7)
    assert summary([worker], worker, None) == [
        f"rank 3 (host {HOST}, pid 10) failed first: ended with exit code 7"
    ]


def test_many_others_are_grouped_by_what_became_of_them() -> None:
    first = Worker(2, 12, -signal.SIGKILL)
    others = [
        Worker(0, 10, 1),
        Worker(1, 11, 1),
        Worker(3, 13, -signal.SIGTERM, signal.SIGTERM),
        Worker(4, 14, 1),
        Worker(5, 15, 0, signal.SIGTERM),
        Worker(6, 16, None, signal.SIGKILL),
    ]
    assert summary([*others, first], first, None) == [
        f"rank 2 (host {HOST}, pid 12) failed first: killed by SIGKILL (out of memory?)",
        "other ranks: 0-1,4 ended with exit code 1 by itself; "
        "3 killed by SIGTERM from the launcher; "
        "5 ended with exit code 0 after SIGTERM from the launcher; "
        "6 cannot be killed after SIGKILL from the launcher",
    ]


def test_a_signal_to_the_launcher_is_named() -> None:
    workers = [Worker(0, 10, -signal.SIGINT, signal.SIGINT)]
    assert summary(workers, None, signal.SIGINT) == [
        f"stopped by SIGINT on host {HOST}",
        "ranks: 0 killed by SIGINT from the launcher",
    ]
