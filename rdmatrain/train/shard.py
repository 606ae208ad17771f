"""A rank's file: written with its checksum, and checked before anything of it is used."""

import copy
import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

from rdmatrain.train.files import whole_file
from rdmatrain.train.manifest import DamageError, Shard

BLOCK_BYTES = 1 << 20


class _Sink:
    """Writes and hashes what torch.save gives, which is in the order of the file.

    Both take about as long, so big pieces are hashed by a thread meanwhile. torch turns an error in
    a write into one of its own, and then writes on. So the first one is kept, and the rest of the
    data dropped.
    """

    def __init__(self, file: BinaryIO, hasher: Executor) -> None:
        self._file, self._hasher = file, hasher
        self.hash = hashlib.sha256()
        self.size = 0
        self.error: OSError | None = None

    def write(self, data: memoryview) -> int:
        if self.error is None:
            self.size += len(data)
            if len(data) < BLOCK_BYTES:
                self.hash.update(data)
                self._write(data)
            else:
                hashed = self._hasher.submit(self.hash.update, data)
                self._write(data)
                hashed.result()
        return len(data)

    def _write(self, data: memoryview) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            self.error = error

    def flush(self) -> None:
        """Do nothing: the file is flushed when it is whole."""


def snapshot(state: Any) -> Any:
    """Return a copy in the CPU's memory, which stays as it is when the state changes."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, Mapping):
        return {name: snapshot(value) for name, value in state.items()}
    if type(state) in {list, tuple}:
        return type(state)(snapshot(value) for value in state)
    return copy.deepcopy(state)


def write_shard(folder: Path, rank: int, state: Any) -> Shard:
    """Write the state of a rank, durably.

    Raises:
        OSError: with the path.
        TypeError: something in it could not be loaded without running pickled code.

    """
    path = folder / Shard(rank, 0, "").name
    with ThreadPoolExecutor(1, "hash") as hasher, whole_file(path) as file:
        sink = _Sink(file, hasher)
        torch.save(state, sink)
        if sink.error is not None:
            raise sink.error
        file.flush()
        if unsafe := get_unsafe_globals_in_checkpoint(file.name):
            kinds = ", ".join(sorted(unsafe))
            raise TypeError(
                f"{path}: could not be loaded again: tensors and plain data, no {kinds}"
            )
    return Shard(rank, sink.size, sink.hash.hexdigest())


def open_shard(folder: Path, shard: Shard) -> BinaryIO:
    """Open a shard of which every byte was checked.

    Raises:
        DamageError: it is not what was saved.
        OSError: it cannot be read.

    """
    path = folder / shard.name
    file = path.open("rb")
    try:
        size = os.fstat(file.fileno()).st_size
        if size != shard.size:
            raise DamageError(f"{path}: has {size} bytes, saved were {shard.size}")
        if _digest(file) != shard.sha256:
            raise DamageError(f"{path}: its checksum does not match")
    except BaseException:
        file.close()
        raise
    return file


def load_shard(file: BinaryIO) -> Any:
    """Return the state in a checked file, on the CPU, without running any pickled code."""
    file.seek(0)
    return torch.load(file, map_location="cpu", weights_only=True)


def _digest(file: BinaryIO) -> str:
    found = hashlib.sha256()
    block = memoryview(bytearray(BLOCK_BYTES))
    while count := file.readinto(block):  # type: ignore[attr-defined]
        found.update(block[:count])
    return found.hexdigest()
