"""Checkpoints in generations: saved and loaded by all ranks together, or by none."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
import torch.distributed as dist

from rdmatrain.errors import CheckpointError
from rdmatrain.train import generations
from rdmatrain.train.manifest import Manifest, Shard, read_manifest
from rdmatrain.train.ranks import Ranks
from rdmatrain.train.shard import load_shard, open_shard, write_shard

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


class Checkpoints:
    """The checkpoints of a job, in a folder that all its ranks see.

    Every call is a collective: all ranks make it, and it returns or raises on all of them. It
    waits for other ranks as long as the group does, its timeout.

    Args:
        folder: where they are; made when needed. One job at a time may write there.
        group: a process group that moves CPU tensors; None for the default group, or for a process
            alone where none was formed.
        keep: how many generations stay; with one, damage to it cannot be survived.
        replicated: all ranks have the same state, as under DDP: rank 0 alone writes it, and it can
            be loaded by any number of ranks.

    Raises:
        ValueError: ``keep`` is less than 1, or this process is not in the group.

    """

    def __init__(
        self,
        folder: "str | os.PathLike[str]",
        group: dist.ProcessGroup | None = None,
        keep: int = 2,
        replicated: bool = False,
    ) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, not {keep}")
        self._root = Path(folder)
        self._ranks = Ranks(group)
        self._keep = keep
        self._replicated = replicated
        self._damaged: set[int] = set()

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
        ranks, step = self._ranks, int(step)
        purpose = f"the checkpoint of step {step} was not saved"
        steps = ranks.share(step)
        if len(set(steps)) > 1:
            raise CheckpointError(f"ranks save different steps: {steps}")
        first = ranks.rank == 0
        number = ranks.together(purpose, lambda: first and generations.begin(self._root))[0]
        folder = generations.folder_of(self._root, number)
        try:
            told = ranks.together(purpose, lambda: self._write_shard(folder, state))

            def write_manifest() -> None:
                if first:
                    self._manifest(number, step, told, metadata).write(folder)

            ranks.together(purpose, write_manifest)
        except CheckpointError:
            if first:
                generations.remove(self._root, number)
            raise
        if first:
            generations.rotate(self._root, self._keep, self._damaged)
        return folder

    def load(self) -> Checkpoint | None:
        """Load the newest generation that is intact on every rank.

        Every byte is checked before any is used. Damaged generations are passed over, with a
        warning that names file and reason.

        Returns:
            The checkpoint, of the same generation on all ranks; None if none was ever saved.

        Raises:
            CheckpointError: on all ranks: there are generations, but none is intact; or the newest
                intact one was saved by another number of ranks, or is too much for this torch.

        """
        first = self._ranks.rank == 0
        purpose = f"the checkpoints in {self._root} cannot be listed"
        listed = self._ranks.together(purpose, lambda: first and generations.finished(self._root))
        for number in reversed(listed[0]):
            opened = self._open(number)
            if opened is not None:
                return self._load(*opened)
        if listed[0]:
            raise CheckpointError(f"no checkpoint in {self._root} is intact: see the warnings")
        return None

    def _write_shard(self, folder: Path, state: Any) -> "tuple[int, int, str] | None":
        if self._replicated and self._ranks.rank > 0:
            return None
        shard = write_shard(folder, self._ranks.rank, state)
        return shard.rank, shard.size, shard.sha256

    def _manifest(
        self, number: int, step: int, told: list[Any], metadata: Mapping[str, Any] | None
    ) -> Manifest:
        return Manifest(
            generation=number,
            step=step,
            world_size=self._ranks.size,
            replicated=self._replicated,
            shards=tuple(Shard(*shard) for shard in told if shard),
            torch_version=str(torch.__version__),
            metadata=dict(metadata or {}),
        )

    def _open(self, number: int) -> tuple[Manifest, BinaryIO] | None:
        """Check a generation on every rank; None if it is damaged on any."""
        folder = generations.folder_of(self._root, number)
        mine: list[tuple[Manifest, BinaryIO]] = []

        def check() -> tuple[str, int]:
            manifest = read_manifest(folder, number)
            fits = manifest.replicated or manifest.world_size == self._ranks.size
            if fits:
                mine.append((manifest, open_shard(folder, manifest.shard_for(self._ranks.rank))))
            return manifest.sha256, self._ranks.size if fits else manifest.world_size

        told, failures = self._ranks.attempt(check)
        problem = "" if failures else self._misfit(told)
        if not failures and not problem:
            return mine[0]
        for _, file in mine:
            file.close()
        if problem:
            raise CheckpointError(f"{folder}: {problem}")
        self._damaged.add(number)
        if self._ranks.rank == 0:
            logger.warning("%s", CheckpointError(f"checkpoint {folder} is passed over", failures))
        return None

    def _misfit(self, told: list[tuple[str, int]]) -> str:
        """Why an intact generation is not for these ranks; empty if it is."""
        if len({seal for seal, _ in told}) > 1:
            return "ranks see different manifests; is the folder shared by all of them?"
        saved_by = told[0][1]
        if saved_by != self._ranks.size:
            return f"saved by {saved_by} ranks, each its own state; here are {self._ranks.size}"
        return ""

    def _load(self, manifest: Manifest, file: BinaryIO) -> Checkpoint:
        folder = generations.folder_of(self._root, manifest.generation)
        states: list[Any] = []
        purpose = f"{folder} is intact, but cannot be loaded"
        with file:
            self._ranks.together(purpose, lambda: states.append(load_shard(file)))
        return Checkpoint(manifest.step, states[0], manifest.metadata, folder)
