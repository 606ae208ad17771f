"""The steps of a training job: resumed, saved, counted, and ended by all ranks together."""

import logging
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, NoReturn

from rdmatrain.config import grace_s
from rdmatrain.errors import CheckpointError
from rdmatrain.metrics.worker import TALLY, publish
from rdmatrain.train.checkpoint import Checkpoint, Checkpoints
from rdmatrain.train.goodput import Goodput
from rdmatrain.train.preemption import PREEMPTED, Preemption
from rdmatrain.train.randomness import random_state, set_random_state

logger = logging.getLogger(__name__)


class Training:
    """Numbers the steps, and sees to it that a job which is stopped goes on as if it had not been.

    ::

        state = {"model": model, "optimizer": optimizer, "sampler": sampler}
        with Training(Checkpoints(folder, replicated=True), state, every=100) as run:
            for step in run.steps(10_000):
                ...  # forward, backward, optimizer.step()

    On entry the newest intact checkpoint is loaded. When the steps begin, the random number
    generators go on from where they were, whatever drew from them meanwhile; so make the iterator
    of a DataLoader before. With as many ranks, the steps have the bits of an undisturbed run.

    Checkpoints are saved when they are due and after the last step. Where one cannot be saved, that
    is an error in the log, and the steps go on; after the last step it is raised.

    When any rank gets one of the signals, all ranks end the same step, save, and leave by
    ``SystemExit`` with code 143: no rank leaves alone. For that, and for what time makes due,
    they make a small all_reduce after each step; the clock of rank 0 counts.

    Args:
        checkpoints: where to save, and how; its group is that of the ranks.
        state: what is saved, by name: what has ``state_dict`` and ``load_state_dict``, and lists
            and dictionaries of plain data, whose contents are replaced.
        every: steps from one checkpoint to the next; 0 for no such rule.
        every_s: seconds from one to the next; 0 for no such rule.
        signals: what stops the job; see :class:`Preemption`. Without any, a thread that is not the
            main one may train.

    Attributes:
        step: the last step that is done.
        goodput: where the time went, over all restarts.

    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        state: Mapping[str, Any],
        every: int = 0,
        every_s: float = 0.0,
        signals: Sequence[int] = (signal.SIGTERM,),
    ) -> None:
        self._checkpoints = checkpoints
        self._ranks = checkpoints.ranks
        self._state = state
        self._every, self._every_s = every, every_s
        self._preemption = Preemption(signals)
        self._grace_s = grace_s()
        self._saved_at = time.monotonic()
        self._longest_step_s = 0.0
        self._random: dict[str, Any] | None = None
        self.step = 0
        self.goodput = Goodput()

    def __enter__(self) -> "Training":
        self._preemption.__enter__()
        try:
            self._resume()
        except BaseException:
            self._preemption.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._preemption.__exit__(kind, error, trace)
        try:
            if kind is None:
                self._checkpoints.wait()
        finally:
            publish()  # the program may destroy the group next, and its counters with it

    def steps(self, total: int) -> Iterator[int]:
        """Yield the numbers of the steps that are left, from 1 to ``total`` if none is done.

        Raises:
            CheckpointError: on all ranks: the state after the last step could not be saved.
            SystemExit: on all ranks: one was told to stop; its code is 143.

        """
        if self._random is not None:
            set_random_state(self._random)
            self._random = None
        while self.step < total:
            begin = time.monotonic()
            yield self.step + 1
            self.step += 1
            seconds = time.monotonic() - begin
            self.goodput.steps_s += seconds
            self._longest_step_s = max(self._longest_step_s, seconds)
            self._between_steps(last=self.step >= total)

    def _between_steps(self, last: bool) -> None:
        stop, due, writing = self._agree()
        begin = time.monotonic()
        try:
            self._keep(due or stop or last, writing, stop or last)
        except CheckpointError as error:
            if last and not stop:
                raise
            if self._ranks.rank == 0:
                logger.error("%s", error)
        finally:
            self.goodput.saving_s += time.monotonic() - begin
            self._count()
        if stop:
            self._leave()

    def _leave(self) -> NoReturn:
        if self._ranks.rank == 0:
            logger.warning("told to stop: all ranks ended with step %d", self.step)
        raise SystemExit(PREEMPTED)

    def _agree(self) -> list[bool]:
        """Return whether to stop, whether a checkpoint is due, and whether any still writes one."""
        begin = time.monotonic()
        due = self._every > 0 and self.step % self._every == 0
        late = self._ranks.rank == 0 and 0 < self._every_s <= begin - self._saved_at
        writing = not self._checkpoints.written
        agreed = self._ranks.any_of(self._preemption.requested, due or late, writing)
        self.goodput.waiting_s += time.monotonic() - begin
        return agreed

    def _keep(self, due: bool, writing: bool, end: bool) -> None:
        if due:
            self._saved_at = time.monotonic()
            record = {"goodput": self.goodput.record()}
            self._checkpoints.save(self.step, self._snapshot(), record)
            self._compare_with_grace(time.monotonic() - self._saved_at)
        if end or not (due or writing):
            self._checkpoints.wait()

    def _resume(self) -> None:
        begin = time.monotonic()
        saved = self._checkpoints.load(into=self._snapshot)
        if saved is not None:
            self._restore(saved)
        self.goodput.loading_s += time.monotonic() - begin
        if saved is not None:
            self.goodput.resume(saved.metadata.get("goodput"))
        self._saved_at = time.monotonic()
        self._count()

    def _count(self) -> None:
        """Say for Prometheus how far the job is, and where its time went."""
        TALLY.set("rdmatrain_step", self.step)
        TALLY.set("rdmatrain_goodput_ratio", self.goodput.ratio)
        for kind in ("steps", "saving", "loading", "waiting", "lost"):
            seconds = getattr(self.goodput, f"{kind}_s")
            TALLY.set("rdmatrain_goodput_seconds", seconds, kind)

    def _restore(self, saved: Checkpoint) -> None:
        kept, randomness = _kept_by_training(saved)
        missing = self._state.keys() - kept.keys()
        if missing:
            raise CheckpointError(f"{saved.path} has no {', '.join(sorted(missing))}")
        for name, owner in self._state.items():
            _give_back(owner, kept[name])
        if len(randomness) == self._ranks.size:
            self._random = randomness[self._ranks.rank]
        elif self._ranks.rank == 0:
            was, now = len(randomness), self._ranks.size
            logger.warning("saved by %d ranks, now %d: random numbers are others", was, now)
        self.step = saved.step

    def _snapshot(self) -> dict[str, Any]:
        own = {name: _contents(owner) for name, owner in self._state.items()}
        return {"state": own, "random": self._ranks.share(random_state())}

    def _compare_with_grace(self, save_s: float) -> None:
        """Warn, once, if a step and a save do not fit into the time from SIGTERM to SIGKILL."""
        needed = self._longest_step_s + save_s
        if self._grace_s is None or needed <= self._grace_s:
            return
        if self._ranks.rank == 0:
            logger.warning(
                "a step takes up to %.1f s and a checkpoint %.1f s, but a job that is told to stop "
                "is killed after %.1f s: raise --grace, and the pod's grace period",
                self._longest_step_s,
                save_s,
                self._grace_s,
            )
        self._grace_s = None


def _kept_by_training(saved: Checkpoint) -> tuple[dict[str, Any], list[Any]]:
    try:
        return saved.state["state"], saved.state["random"]
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{saved.path} was not saved by Training") from error


def _contents(owner: Any) -> Any:
    return owner.state_dict() if hasattr(owner, "state_dict") else owner


def _give_back(owner: Any, contents: Any) -> None:
    if hasattr(owner, "load_state_dict"):
        owner.load_state_dict(contents)
    elif isinstance(owner, list):
        owner[:] = contents
    else:
        owner.clear()
        owner.update(contents)
