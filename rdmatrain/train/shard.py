"""A rank's file: written with its checksum, and checked before anything of it is used."""

import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

from rdmatrain.train.files import whole_file
from rdmatrain.train.manifest import DamageError, Shard

BLOCK_BYTES = 1 << 20


class _Sink:
    """Writes and hashes what torch.save gives, which is in the order of the file.

    torch turns an error in a write into one of its own, and then writes on. So the first one is
    kept, and the rest of the data dropped.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.hash = hashlib.sha256()
        self.size = 0
        self.error: OSError | None = None

    def write(self, data: memoryview) -> int:
        if self.error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self.error = error
            self.hash.update(data)
            self.size += len(data)
        return len(data)

    def flush(self) -> None:
        """Do nothing: the file is flushed when it is whole."""


def write_shard(folder: Path, rank: int, state: Any) -> Shard:
    """Write the state of a rank, durably.

    Raises:
        OSError: with the path.
        TypeError: something in it could not be loaded without running pickled code.

    """
    path = folder / Shard(rank, 0, "").name
    with whole_file(path) as file:
        sink = _Sink(file)
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
