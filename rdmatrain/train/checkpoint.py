"""Checkpoints in generations: saved and loaded by all ranks together, or by none."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
import torch.distributed as dist

from rdmatrain.errors import CheckpointError, RdmatrainError
from rdmatrain.metrics.worker import TALLY
from rdmatrain.train import generations
from rdmatrain.train.manifest import Manifest, Shard, read_manifest
from rdmatrain.train.ranks import Ranks
from rdmatrain.train.shard import load_shard, open_shard, snapshot, write_shard

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """What was loaded.

    Attributes:
        step: the step after which it was saved.
        state: this rank's state.
        metadata: what ``save`` got as such on rank 0.
        path: the folder it came from.

    """

    step: int
    state: Any
    metadata: dict[str, Any]
    path: Path


class MisfitError(RdmatrainError):
    """A generation is intact, but not for these ranks. The text says why."""


@dataclass(frozen=True)
class Reading:
    """What a rank reads of a generation.

    Attributes:
        files: the ranks whose files it checks.
        state: makes the state from those files.

    """

    files: set[int]
    state: Callable[[Mapping[int, BinaryIO]], Any]


@dataclass(frozen=True)
class _Save:
    """A save that has begun; ``write`` returns what the manifest has of this rank's file."""

    number: int
    step: int
    layout: dict[str, Any] | None
    metadata: Mapping[str, Any]
    write: Callable[[], "tuple[int, int, str] | None"]


class Checkpoints:
    """The checkpoints of a job, in a folder that all its ranks see.

    Every method is a collective: all ranks call it, and it returns or raises on all of them. It
    waits for other ranks as long as the group does, its timeout.

    Args:
        folder: where they are; made when needed. One job at a time may write there.
        group: a process group that moves CPU tensors; None for the default group, or for a process
            alone where none was formed.
        keep: how many generations stay; with one, damage to it cannot be survived.
        replicated: all ranks have the same state, as under DDP: rank 0 alone writes it, and it can
            be loaded by any number of ranks.
        background: ``save`` copies the state into the CPU's memory, and a thread writes it. It is
            a checkpoint when the next ``save``, ``load`` or ``wait`` has returned, which raise what
            went wrong.

    Attributes:
        ranks: who takes part.

    Raises:
        ValueError: ``keep`` is less than 1, or this process is not in the group.

    """

    def __init__(
        self,
        folder: "str | os.PathLike[str]",
        group: dist.ProcessGroup | None = None,
        keep: int = 2,
        replicated: bool = False,
        background: bool = False,
    ) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, not {keep}")
        self.ranks = Ranks(group)
        self._root = Path(folder)
        self._keep = keep
        self._replicated = replicated
        self._background = background
        self._under_way: tuple[_Save, Future[tuple[int, int, str] | None]] | None = None
        self._damaged: set[int] = set()
        # From 0 on: of a counter that begins with 1, Prometheus' increase() says nothing.
        for result in ("saved", "failed"):
            TALLY.add("rdmatrain_checkpoints_total", 0, result)

    def save(self, step: int, state: Any, metadata: Mapping[str, Any] | None = None) -> Path:
        """Save a new generation; older ones are as they were until it is durable.

        Args:
            step: the step that was just done, equal on all ranks.
            state: tensors and plain data, in dictionaries, lists and tuples.
            metadata: what JSON can hold, for the manifest; that of rank 0 counts.

        Returns:
            The folder of the new generation.

        Raises:
            CheckpointError: on all ranks, if any could not write, with its rank, path and errno.
                Nothing was saved, older generations are intact, and training may go on.

        """
        begin = time.monotonic()
        self.wait()
        step = int(step)
        steps = self.ranks.share(step)
        if len(set(steps)) > 1:
            raise CheckpointError(f"ranks save different steps: {steps}")
        with _failure_counted():
            save = self._begin(step, state, metadata or {})
        if self._background:
            # A thread for each save: none stays when training ends.
            executor = ThreadPoolExecutor(1, "checkpoint")
            self._under_way = save, executor.submit(save.write)
            executor.shutdown(wait=False)
        else:
            self._finish(save, save.write)
        TALLY.observe("rdmatrain_checkpoint_duration_seconds", time.monotonic() - begin)
        return generations.folder_of(self._root, save.number)

    @property
    def written(self) -> bool:
        """Whether this rank has nothing left to write; no collective."""
        return self._under_way is None or self._under_way[1].done()

    def wait(self) -> None:
        """Wait until what is saved in the background is a checkpoint.

        Raises:
            CheckpointError: on all ranks, as by ``save``.

        """
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            save, written = under_way
            self._finish(save, written.result)

    def load(self, into: Any = None) -> Checkpoint | None:
        """Load the newest generation that is intact on every rank.

        Every byte is checked before any is used. Damaged generations are passed over, with a
        warning that names file and reason.

        Args:
            into: the state to be filled, for :class:`ShardedCheckpoints`, or what returns it, which
                is called if there is something to load. Others need none.

        Returns:
            The checkpoint, of the same generation on all ranks; None if none was ever saved.

        Raises:
            CheckpointError: on all ranks: there are generations, but none is intact; or the newest
                intact one is not for these ranks, or is too much for this torch.

        """
        self.wait()
        first = self.ranks.rank == 0
        purpose = f"the checkpoints in {self._root} cannot be listed"
        listed = self.ranks.together(purpose, lambda: first and generations.finished(self._root))
        if listed[0] and callable(into):
            into = into()
        for number in reversed(listed[0]):
            with ExitStack() as files:
                found = self._open(number, into, files)
                if found is not None:
                    return self._load(*found)
        if listed[0]:
            raise CheckpointError(f"no checkpoint in {self._root} is intact: see the warnings")
        return None

    def _divide(self, state: Any, purpose: str) -> tuple[Any, dict[str, Any] | None]:
        """Return what this rank writes, and where the parts of the state are if it has parts."""
        return state, None

    def _reading(self, manifest: Manifest, into: Any) -> Reading:
        """Return what this rank reads of a generation, or raise MisfitError."""
        if manifest.layout is not None:
            raise MisfitError("its state is divided among ranks: load it with ShardedCheckpoints")
        if not manifest.replicated and manifest.world_size != self.ranks.size:
            raise MisfitError(
                f"saved by {manifest.world_size} ranks, each its own state; "
                f"here are {self.ranks.size}"
            )
        rank = 0 if manifest.replicated else self.ranks.rank
        return Reading({rank}, lambda files: load_shard(files[rank]))

    def _begin(self, step: int, state: Any, metadata: Mapping[str, Any]) -> _Save:
        """Make the new folder; with ``background``, the state may change afterwards."""
        rank, purpose = self.ranks.rank, _purpose(step)
        mine, layout = self._divide(state, purpose)
        writes = rank == 0 or not self._replicated
        kept: list[Any] = []

        def begin() -> int:
            if writes:
                kept.append(snapshot(mine) if self._background else mine)
            return generations.begin(self._root) if rank == 0 else 0

        number = self.ranks.together(purpose, begin)[0]

        def write() -> tuple[int, int, str] | None:
            if not writes:
                return None
            shard = write_shard(generations.folder_of(self._root, number), rank, kept[0])
            return shard.rank, shard.size, shard.sha256

        return _Save(number, step, layout, metadata, write)

    def _finish(self, save: _Save, write: Callable[[], "tuple[int, int, str] | None"]) -> None:
        """Have all shards written, and then the manifest."""
        with _failure_counted():
            self._write(save, write)
        TALLY.add("rdmatrain_checkpoints_total", 1, "saved")
        if self.ranks.rank == 0:
            generations.rotate(self._root, self._keep, self._damaged)

    def _write(self, save: _Save, write: Callable[[], "tuple[int, int, str] | None"]) -> None:
        purpose, first = _purpose(save.step), self.ranks.rank == 0
        try:
            told = self.ranks.together(purpose, write)

            def write_manifest() -> None:
                if first:
                    folder = generations.folder_of(self._root, save.number)
                    self._manifest(save, told).write(folder)

            self.ranks.together(purpose, write_manifest)
        except CheckpointError:
            if first:
                generations.remove(self._root, save.number)
            raise

    def _manifest(self, save: _Save, told: list[Any]) -> Manifest:
        return Manifest(
            generation=save.number,
            step=save.step,
            world_size=self.ranks.size,
            replicated=self._replicated,
            shards=tuple(Shard(*shard) for shard in told if shard),
            torch_version=str(torch.__version__),
            metadata=dict(save.metadata),
            layout=save.layout,
        )

    def _open(
        self, number: int, into: Any, files: ExitStack
    ) -> tuple[Manifest, Reading, dict[int, BinaryIO]] | None:
        """Check a generation on every rank; None if it is damaged on any."""
        folder = generations.folder_of(self._root, number)
        found: list[tuple[Manifest, Reading, dict[int, BinaryIO]]] = []

        def check() -> tuple[str, str]:
            manifest = read_manifest(folder, number)
            try:
                reading = self._reading(manifest, into)
            except MisfitError as error:
                return manifest.sha256, str(error)
            opened = {
                rank: files.enter_context(open_shard(folder, manifest.shards[rank]))
                for rank in sorted(reading.files)
            }
            found.append((manifest, reading, opened))
            return manifest.sha256, ""

        told, failures = self.ranks.attempt(check)
        if failures:
            self._damaged.add(number)
            if self.ranks.rank == 0:
                reason = CheckpointError(f"checkpoint {folder} is passed over", failures)
                logger.warning("%s", reason)
            return None
        if len({seal for seal, _ in told}) > 1:
            problem = "ranks see different manifests; is the folder shared by all of them?"
            raise CheckpointError(f"{folder}: {problem}")
        misfits = {rank: text for rank, (_, text) in enumerate(told) if text}
        if misfits:
            raise CheckpointError(f"{folder} is intact, but not for this job", misfits)
        return found[0]

    def _load(self, manifest: Manifest, reading: Reading, files: dict[int, BinaryIO]) -> Checkpoint:
        folder = generations.folder_of(self._root, manifest.generation)
        states: list[Any] = []
        purpose = f"{folder} is intact, but cannot be loaded"
        self.ranks.together(purpose, lambda: states.append(reading.state(files)))
        return Checkpoint(manifest.step, states[0], manifest.metadata, folder)


def _purpose(step: int) -> str:
    return f"the checkpoint of step {step} was not saved"


@contextmanager
def _failure_counted() -> Iterator[None]:
    try:
        yield
    except CheckpointError:
        TALLY.add("rdmatrain_checkpoints_total", 1, "failed")
        raise
