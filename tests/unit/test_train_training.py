# SPDX-License-Identifier: Apache-2.0
"""rdmatrain.train.training: the loop that resumes, saves and stops; its ranks are threads here."""

import logging
import random
import signal
import threading
import time

import numpy as np
import pytest
import torch
from fake_ranks import on_ranks

from rdmatrain.train import CheckpointError, Checkpoints, ElasticSampler, Goodput, Training
from rdmatrain.train import training as module
from rdmatrain.train.randomness import random_state, set_random_state


class Job:
    """Trains a tiny model with dropout, all three generators of random numbers, and a sampler."""

    def __init__(self, seed=5):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        self.model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 0.1)
        self.sampler = ElasticSampler(1000, rank=0, world_size=1)
        self.curve = []

    @property
    def state(self):
        names = ("model", "optimizer", "sampler", "curve")
        return {name: getattr(self, name) for name in names}

    def step(self):
        index = next(iter(self.sampler))
        noise = random.random() + np.random.normal() + np.random.randint(9)
        loss = (self.model(torch.full((2, 4), index / 1000 + noise)) ** 2).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.sampler.advance(1)
        self.curve.append((self.sampler.position, loss.item()))

    def result(self):
        return [p.detach().clone() for p in self.model.parameters()], list(self.curve)


def train(root, total, until=None, **options):
    """Train to the end, or until an error at a step; return the job and its run."""
    job = Job()
    background = options.pop("background", False)
    checkpoints = Checkpoints(root, replicated=True, background=background)
    with Training(checkpoints, job.state, **options) as run:
        torch.rand(3), random.random(), np.random.rand()  # as a DataLoader does
        for step in run.steps(total):
            if step == until:
                raise KeyboardInterrupt
            job.step()
    return job, run


def same(one, other):
    return one[1] == other[1] and all(map(torch.equal, one[0], other[0]))


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("until", [1, 3, 4, 8, 20])
def test_a_job_that_was_cut_ends_with_the_bits_of_one_that_was_not(tmp_path, until, background):
    undisturbed, _ = train(tmp_path / "undisturbed", 20, every=3)
    for cut in (until, min(until + 4, 20)):
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "cut", 20, cut, every=3, background=background)
    resumed, run = train(tmp_path / "cut", 20, every=3, background=background)
    assert same(resumed.result(), undisturbed.result())
    assert run.step == 20
    assert [position for position, _ in resumed.curve] == list(range(1, 21))


def test_each_part_of_the_state_matters(tmp_path):
    """Without the random numbers, the bits are others: the test above can fail."""
    undisturbed, _ = train(tmp_path / "undisturbed", 20, every=3)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", 20, 8, every=3)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "set_random_state", lambda state: None)
        resumed, _ = train(tmp_path / "cut", 20, every=3)
    assert not same(resumed.result(), undisturbed.result())


def test_a_job_that_is_done_does_no_more_steps(tmp_path):
    done, _ = train(tmp_path, 4)
    again, run = train(tmp_path, 4)
    assert run.step == 4
    assert same(done.result(), again.result())
    more, run = train(tmp_path, 6)
    assert [position for position, _ in more.curve] == list(range(1, 7))


def test_random_numbers_go_on_from_where_they_were():
    draw = lambda: (random.gauss(0, 1), np.random.normal(), torch.randn(3).tolist())  # noqa: E731
    draw()
    state = random_state()
    expected = [draw() for _ in range(5)]
    set_random_state(state)
    assert [draw() for _ in range(5)] == expected


def saved_steps(root):
    return sorted(int(p.name.removeprefix("generation-")) for p in root.iterdir())


def test_time_makes_checkpoints_due_by_the_clock_of_rank_0(tmp_path, monkeypatch):
    now = {"rank 0": 0.0, "rank 1": 0.0}
    clock = lambda: now[threading.current_thread().name]  # noqa: E731
    monkeypatch.setattr(module.time, "monotonic", clock)
    saved = []
    monkeypatch.setattr(
        Checkpoints,
        "save",
        lambda checkpoints, step, *_: saved.append((checkpoints.ranks.rank, step)),
    )

    def act(ranks):
        with Training(Checkpoints(tmp_path, ranks), {}, every_s=10, signals=()) as run:
            for _ in run.steps(9):
                now[threading.current_thread().name] += 4 if ranks.rank == 0 else 1000

    assert on_ranks(2, act) == [None, None]
    assert [step for rank, step in saved if rank == 0] == [3, 6, 9]
    assert [step for rank, step in saved if rank == 1] == [3, 6, 9]


def test_no_rank_stops_alone(tmp_path):
    """One is told to stop; all end the same step, save, and leave with 143."""
    ended = [0, 0, 0]

    def act(ranks):
        with Training(Checkpoints(tmp_path, ranks), {}, signals=()) as run:
            try:
                for step in run.steps(100):
                    ended[ranks.rank] = step
                    if (ranks.rank, step) == (2, 7):
                        run._preemption.requested = True
            except SystemExit as stopped:
                return stopped.code
        return None

    assert on_ranks(3, act) == [143, 143, 143]
    assert ended == [7, 7, 7]
    assert [found.step for found in on_ranks(3, lambda r: Checkpoints(tmp_path, r).load())] == [
        7
    ] * 3


def test_a_signal_ends_the_step_and_the_job_goes_on_from_there(tmp_path):
    undisturbed, _ = train(tmp_path / "undisturbed", 9)
    job = Job()
    checkpoints = Checkpoints(tmp_path / "told", replicated=True)
    with pytest.raises(SystemExit) as stopped, Training(checkpoints, job.state) as run:
        torch.rand(3), random.random(), np.random.rand()
        for step in run.steps(9):
            if step == 5:
                signal.raise_signal(signal.SIGTERM)
            job.step()
    assert stopped.value.code == 143
    assert len(job.curve) == 5
    resumed, _ = train(tmp_path / "told", 9)
    assert same(resumed.result(), undisturbed.result())


def fail(*_args):
    raise CheckpointError("the disk is full")


def test_what_cannot_be_saved_is_an_error_in_the_log_and_raised_at_the_end(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(Checkpoints, "save", fail)
    done = []
    with (
        pytest.raises(CheckpointError, match="disk is full"),
        Training(Checkpoints(tmp_path), {}, every=2) as run,
    ):
        done.extend(run.steps(6))
    assert done == [1, 2, 3, 4, 5, 6]
    assert [r.levelno for r in caplog.records] == [logging.ERROR] * 2


def test_a_job_that_cannot_save_when_told_to_stop_may_still_be_retried(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(Checkpoints, "save", fail)
    with (
        pytest.raises(SystemExit) as stopped,
        Training(Checkpoints(tmp_path), {}) as run,
    ):
        for _ in run.steps(6):
            signal.raise_signal(signal.SIGTERM)
    assert stopped.value.code == 143
    assert "disk is full" in caplog.text


def test_other_numbers_of_ranks_are_told_that_random_numbers_differ(tmp_path, caplog):
    def act(ranks):
        with Training(Checkpoints(tmp_path, ranks, replicated=True), {}, signals=()) as run:
            return list(run.steps(1))

    assert on_ranks(2, act) == [[1], [1]]
    assert not caplog.records
    assert on_ranks(3, act) == [[], [], []]
    assert "saved by 2 ranks, now 3: random numbers are others" in caplog.text


@pytest.mark.parametrize(("grace", "warned"), [("0.05", True), ("60", False), ("", False)])
def test_a_grace_period_that_is_too_short_is_told_before_it_matters(
    tmp_path, monkeypatch, caplog, grace, warned
):
    monkeypatch.setenv("RDMATRAIN_GRACE", grace)
    with Training(Checkpoints(tmp_path), {}, every=1) as run:
        for _ in run.steps(2):
            time.sleep(0.06)
    assert (caplog.text.count("is killed after 0.1 s: raise --grace") == 1) == warned
    assert len(caplog.records) == warned


def test_goodput_adds_up_over_restarts(tmp_path):
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, 20, 8, every=3)
    time.sleep(0.05)
    _, run = train(tmp_path, 20, every=3)
    passed = time.monotonic() - begin
    assert run.goodput.restarts == 1
    assert run.goodput.unmeasured == 0
    assert run.goodput.lost_s >= 0.05
    assert 0.5 * passed < run.goodput.total_s <= passed
    assert 0 < run.goodput.ratio < 1
    kept = Checkpoints(tmp_path, replicated=True).load().metadata["goodput"]
    assert kept["restarts"] == 1
    assert Goodput().record().keys() == kept.keys()


def test_what_is_written_in_the_background_is_finished_between_steps(tmp_path):
    job = Job()
    checkpoints = Checkpoints(tmp_path, replicated=True, background=True)
    manifest = tmp_path / "generation-0000000001" / "manifest.json"
    with Training(checkpoints, job.state, every=1000) as run:
        for step in run.steps(400):
            job.step()
            if step == 1:
                run._every = 1
            elif step == 2:
                run._every = 1000
            elif manifest.exists():
                break
            time.sleep(0.005)
    assert manifest.exists()
    assert 2 < step < 400


@pytest.mark.parametrize("state", [[], {"w": 1}, {"state": {"model": 1}, "random": []}])
def test_a_checkpoint_that_lacks_something_is_named(tmp_path, state):
    folder = Checkpoints(tmp_path).save(1, state)
    with (
        pytest.raises(CheckpointError, match=f"{folder} (was not saved by Training|has no curve)"),
        Training(Checkpoints(tmp_path), {"curve": []}),
    ):
        pass


def test_a_dictionary_gets_its_contents_back(tmp_path):
    best = {"loss": 2.0}
    with Training(Checkpoints(tmp_path), {"best": best}) as run:
        for step in run.steps(1):
            best.update(loss=1.0, step=step)
    again = {"other": 0}
    with Training(Checkpoints(tmp_path), {"best": again}):
        assert again == {"loss": 1.0, "step": 1}


def test_a_handler_is_taken_back_when_nothing_can_be_loaded(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError), Training(Checkpoints(tmp_path / "file"), {}):
        pass
    assert signal.getsignal(signal.SIGTERM) is before
