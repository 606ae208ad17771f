"""What all ranks of a group do together: they tell each other, and fail as one."""

import errno
import json
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from rdmatrain.errors import CheckpointError, RdmatrainError


class Ranks:
    """The ranks of a group; without torch.distributed, this process alone.

    Args:
        group: a process group that moves CPU tensors; None for the default group, if there is one.

    Raises:
        ValueError: this process is not in the group.

    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        formed = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank(group) if formed else 0
        self.size = dist.get_world_size(group) if formed else 1
        self._group = group
        if self.rank < 0:
            raise ValueError("this process is not a rank of the group")

    def share(self, value: Any) -> list[Any]:
        """Return the value of each rank. It travels as JSON: nothing of a peer is unpickled."""
        data = json.dumps(value).encode()
        if self.size == 1:
            return [json.loads(data)]
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(sizes, torch.tensor([len(data)]), group=self._group)
        longest = max(int(size) for size in sizes)
        told = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
        mine = torch.frombuffer(bytearray(data.ljust(longest)), dtype=torch.uint8)
        dist.all_gather(told, mine, group=self._group)
        return [json.loads(text.numpy().tobytes()) for text in told]

    def any_of(self, *flags: bool) -> list[bool]:
        """Return for each flag whether it is set on any rank, which is one small all_reduce."""
        if self.size == 1:
            return list(flags)
        told = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(told, dist.ReduceOp.MAX, group=self._group)
        return [bool(flag) for flag in told.tolist()]

    def attempt(self, action: Callable[[], Any]) -> tuple[list[Any], dict[int, str]]:
        """Act on every rank; return the results by rank, and what failed, equal on all ranks."""
        result, failure = None, ""
        try:
            result = action()
        except Exception as error:  # whatever it is, the others must not wait for this rank
            failure = describe(error)
        told = self.share([result, failure])
        failures = {rank: failure for rank, (_, failure) in enumerate(told) if failure}
        return [result for result, _ in told], failures

    def together(self, purpose: str, action: Callable[[], Any]) -> list[Any]:
        """Act on every rank and return the results by rank.

        Raises:
            CheckpointError: on all ranks, if the action failed on any.

        """
        results, failures = self.attempt(action)
        if failures:
            raise CheckpointError(purpose, failures)
        return results


def describe(error: Exception) -> str:
    """Return an error in a line, with path and errno where it has them."""
    if isinstance(error, OSError) and error.errno is not None:
        code = errno.errorcode.get(error.errno, "unknown")
        path = f"{error.filename}: " if error.filename is not None else ""
        return f"{path}{error.strerror} (errno {error.errno}, {code})"
    if isinstance(error, RdmatrainError):
        return str(error)
    return f"{type(error).__name__}: {error}"
