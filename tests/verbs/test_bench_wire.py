# SPDX-License-Identifier: Apache-2.0
"""`write` and `pingpong` run over the device beside perftest, and are not far from its time.

How near they come is for benchmarks/wire.py to say, on a machine that does nothing else.
"""

import shutil

import pytest

from rdmatrain.bench import job
from rdmatrain.bench.conduct import Conductor, Plan
from rdmatrain.bench.contestants import OF_CORE, find
from rdmatrain.bench.model import Case, Entry

KIB = 1 << 10
# Time of ours / time of perftest's, each in its least disturbed round: the CPUs are emulated, and
# on a slow machine 8 bytes took more than 1.1 times as long.
MOST = 1.5
ROUNDS, MORE_ROUNDS = 2, 4
START_S = 240.0  # where others use this machine, Python alone starts in a minute
OURS, WIRE = Entry("rdmatrain", "verbs"), Entry("perftest")
CALLS = {"pingpong": 300, "write": 40}
CASES = [("pingpong", 8), ("pingpong", 2 * KIB), ("write", 64 * KIB), ("write", 512 * KIB)]


@pytest.fixture(scope="module")
def contestants(device, tmp_path_factory):
    """The core's two ranks, and what runs perftest."""
    if shutil.which("ib_write_bw") is None:
        pytest.skip("perftest is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("_RDMATRAIN_BENCH_PIN", "1")
        patch.setattr(job, "START_S", START_S)
        starts, failures = find(["perftest"], ["verbs"])
        assert not failures
        chosen = [start for start in starts if start.ops == OF_CORE]
        running = [(each.entry, each.open(2, tmp_path_factory.mktemp("wire"))) for each in chosen]
        yield running
        for _, each in running:
            each.close()


@pytest.mark.parametrize(("op", "nbytes"), CASES)
def test_the_wire_is_not_far(contestants, op, nbytes):
    assert [entry for entry, _ in contestants] == [OURS, WIRE]
    case = Case(op, "uint8", "", nbytes, in_place=False)
    best_s = {OURS: float("inf"), WIRE: float("inf")}
    for number in range(1, ROUNDS + MORE_ROUNDS + 1):
        conductor = Conductor(Plan([case], 1, 2, calls=CALLS[op]), contestants)
        conductor.run()
        assert not conductor.failures
        for result in conductor.results():
            assert result.nwrong == (0 if result.entry == OURS else None)
            assert result.transport == "verbs"
            best_s[result.entry] = min(best_s[result.entry], result.seconds_p50)
        ratio = best_s[OURS] / best_s[WIRE]
        if number >= ROUNDS and ratio <= MOST:
            return
    pytest.fail(f"{op} of {nbytes} bytes: {ratio:.2f} times perftest's time, more than {MOST}")
