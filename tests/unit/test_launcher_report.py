# SPDX-License-Identifier: Apache-2.0
"""What became of workers, those that ended alike together."""

import signal

from rdmatrain.launcher import exit_codes
from rdmatrain.launcher.report import Worker, outcomes


def test_workers_are_grouped_by_what_became_of_them() -> None:
    workers = [
        Worker(0, 0, 10, 1),
        Worker(1, 1, 11, 1),
        Worker(3, 3, 13, -signal.SIGTERM, signal.SIGTERM),
        Worker(4, 4, 14, 1),
        Worker(5, 5, 15, 0, signal.SIGTERM),
        Worker(6, 6, 16, None, signal.SIGKILL),
        Worker(7, 7, 17, -40),
    ]
    assert outcomes(workers) == (
        "0-1,4 ended with exit code 1 by itself; 3 killed by SIGTERM from the launcher; "
        "5 ended with exit code 0 after SIGTERM from the launcher; "
        "6 cannot be killed after SIGKILL from the launcher; 7 killed by signal 40"
    )


def test_the_exit_codes_are_a_contract() -> None:
    assert set(exit_codes.MEANING) >= {0, 1, 2, 64, 69, 77, 78, 137, 143, 200, 201, 202, 203, 204}
    retried = {code for code in exit_codes.MEANING if exit_codes.may_be_retried(code)}
    assert retried == {137, 143, 200, 201, 202, 203, 204}
