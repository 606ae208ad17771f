# SPDX-License-Identifier: Apache-2.0
"""rdmatrain.train.goodput: seconds that add up over restarts, by clocks that nobody sets."""

import time

import pytest

from rdmatrain.train import Goodput
from rdmatrain.train import goodput as module


@pytest.fixture
def clock(monkeypatch):
    """The boot's clock, and the wall clock, which jumps."""
    now = {"boot": "b1", "s": 1000.0}
    monkeypatch.setattr(module, "_clock", lambda: now["s"])
    monkeypatch.setattr(module, "_boot", lambda: now["boot"])
    monkeypatch.setattr(time, "time", lambda: pytest.fail("the wall clock was asked"))
    return now


def test_the_ratio_is_steps_over_all(clock):
    goodput = Goodput(steps_s=6, saving_s=1, loading_s=1, waiting_s=1, lost_s=1)
    assert goodput.total_s == 10
    assert goodput.ratio == 0.6
    assert str(goodput).startswith("goodput 60.0% of 10.0 s: steps 6.0 s")
    assert Goodput().ratio == 1


def test_what_a_crash_undid_is_lost(clock):
    first = Goodput(steps_s=50, saving_s=5, loading_s=0.5)
    record = first.record()
    first.steps_s += 30  # steps that no checkpoint has
    clock["s"] += 40  # 30 s of them, 6 s without a process, 4 s of loading
    second = Goodput(loading_s=4)
    second.resume(record)
    assert (second.steps_s, second.saving_s, second.loading_s) == (50, 5, 4.5)
    assert second.lost_s == 36
    assert (second.restarts, second.unmeasured) == (1, 0)
    second.steps_s += 10
    third = Goodput()
    clock["s"] += 1
    third.resume(second.record() | {"at_s": clock["s"] - 1})
    assert third.lost_s == 37
    assert third.restarts == 2
    assert third.total_s == 50 + 10 + 5 + 4.5 + 37


@pytest.mark.parametrize("boot", ["b2", ""])
def test_another_boot_makes_the_ratio_a_bound(clock, boot):
    record = Goodput(steps_s=50).record()
    clock.update(boot=boot, s=5.0)
    goodput = Goodput()
    goodput.resume(record)
    assert (goodput.lost_s, goodput.unmeasured) == (0, 1)
    assert "at most 100.0%" in str(goodput)
    assert "1 unmeasured" in str(goodput)


def test_a_checkpoint_without_a_record_is_unmeasured(clock):
    goodput = Goodput()
    goodput.resume(None)
    assert (goodput.restarts, goodput.unmeasured) == (1, 1)


def test_the_real_clock_goes_on_and_the_boot_has_a_name():
    begin = module._clock()
    time.sleep(0.01)
    assert 0.01 <= module._clock() - begin < 5
    assert len(module._boot()) == 36
