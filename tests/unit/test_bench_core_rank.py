# SPDX-License-Identifier: Apache-2.0
"""Ranks of the core, started as a sweep starts them."""

import os
import signal
import time

import pytest

from rdmatrain.bench.contestants import OF_CORE, ONE_SIDED, RDMA_DEVICES, CoreRanks
from rdmatrain.bench.model import Case, Entry
from rdmatrain.bench.running import ContestantError

NBYTES = 100_000


def case(op, nbytes=NBYTES):
    return Case(op, "uint8", "", nbytes, in_place=False)


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts so many ranks over a transport, and ends them after the test."""
    monkeypatch.setenv("_RDMATRAIN_BENCH_PIN", "0")
    jobs = []

    def make(transport, ranks=2):
        folder = tmp_path / str(len(jobs))
        folder.mkdir()
        jobs.append(CoreRanks(Entry("rdmatrain", transport), OF_CORE).open(ranks, folder))
        return jobs[-1]

    yield make
    for job in jobs:
        job.close()


@pytest.mark.parametrize(("transport", "said"), [("auto", "shm"), ("tcp", "tcp")])
def test_both_operations_are_checked_and_timed(start, transport, said):
    job = start(transport)
    assert job.transport == said
    for op in ("pingpong", "write"):
        for nbytes in (8, NBYTES):
            prepared = job.prepare(case(op, nbytes), check=True)
            assert prepared.nwrong == 0
            assert prepared.guess_s > 0
            first, second = job.time(calls=12, warmup=3)
            assert len(first) == len(second) == 12
            assert all(0 < seconds < 5 for seconds in first)
            assert not any(second), "the clock is rank 0's"
            assert len(set(first)) == 1 or op == "pingpong", "writes are timed together"
            job.drop()


def test_what_is_not_compared_says_so(start):
    assert start("shm").prepare(case("write"), check=False).nwrong is None


def test_ranks_are_pairs(start):
    job = start("shm", ranks=4)
    assert job.prepare(case("pingpong"), check=True).nwrong == 0
    samples = job.time(calls=4, warmup=0)
    assert [bool(sum(each)) for each in samples] == [True, False, True, False]


def test_a_rank_without_a_partner_says_what_to_do(start):
    with pytest.raises(ContestantError, match="rank 2 of 3 has no partner: give an even --ranks"):
        start("shm", ranks=3)


def test_verbs_without_a_device_says_so(start):
    if RDMA_DEVICES.is_dir() and any(RDMA_DEVICES.iterdir()):
        pytest.skip("this machine has an RDMA device")
    with pytest.raises(ContestantError, match="verbs cannot be used: there is no RDMA device"):
        start("verbs")


def test_the_death_of_a_rank_is_told_at_once(start):
    job = start("shm")
    job.prepare(case("pingpong"), check=True)
    os.kill(job._ranks[1].pid, signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(ContestantError, match=r"rank 1 .* was killed by SIGKILL|lost") as failed:
        job.time(calls=1000, warmup=0)
    assert failed.value.gone
    assert time.monotonic() - began < 20


def test_write_is_the_cores_on_every_transport():
    assert {"write"} == ONE_SIDED
    assert not CoreRanks(Entry("rdmatrain", "tcp"), ONE_SIDED).why_not(case("write"))
    assert CoreRanks(Entry("rdmatrain", "tcp"), ONE_SIDED).why_not(case("pingpong"))
