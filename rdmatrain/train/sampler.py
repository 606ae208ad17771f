"""A sampler whose order knows no ranks, so that a job may go on with more or fewer of them."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from rdmatrain.train.ranks import Ranks


class ElasticSampler(Sampler[int]):
    """Deals the samples of an epoch to the ranks in turns, from any position on.

    The order depends on seed and epoch alone. The position counts samples that all ranks together
    are done with. The training loop says so with ``advance``, since a DataLoader draws samples
    before they are trained on::

        sampler = ElasticSampler(len(dataset), global_batch=64)
        for batch in DataLoader(dataset, batch_size=64 // world_size, sampler=sampler):
            train(batch)
            sampler.advance(64)
        sampler.set_epoch(sampler.epoch + 1)

    Args:
        length: number of samples of the dataset.
        seed: of the order; equal on all ranks.
        global_batch: samples of a step, over all ranks. What is left at the end of an epoch and
            fills no step is left out, so that all ranks make the same number of steps. None: every
            sample is used, and ranks may differ by one.
        rank: this rank; None for that of the default group, or 0.
        world_size: number of ranks; None for that of the default group, or 1.

    Attributes:
        epoch: the epoch, from 0.
        position: how many samples of it are done.

    Raises:
        ValueError: the numbers do not fit each other.

    """

    def __init__(
        self,
        length: int,
        seed: int = 0,
        global_batch: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        ranks = Ranks()
        self._rank = ranks.rank if rank is None else rank
        self._world = ranks.size if world_size is None else world_size
        if not 0 <= self._rank < self._world:
            raise ValueError(f"there is no rank {self._rank} of {self._world}")
        if global_batch is not None and (global_batch < 1 or global_batch % self._world):
            raise ValueError(f"global_batch {global_batch} is not divisible by {self._world} ranks")
        if length < 0:
            raise ValueError(f"length {length} is negative")
        self._length = length
        self._seed = seed
        self._step = global_batch or 1
        self.epoch = 0
        self.position = 0

    def __len__(self) -> int:
        return len(range(self.position + self._rank, self._end(), self._world))

    def __iter__(self) -> Iterator[int]:
        mine = self._order()[self.position + self._rank : self._end() : self._world]
        return map(int, mine.numpy())

    def advance(self, samples: int) -> None:
        """Tell that so many more samples were trained on, by all ranks together.

        Raises:
            ValueError: the epoch has fewer.

        """
        if not 0 <= samples <= self._length - self.position:
            rest = self._length - self.position
            raise ValueError(f"cannot advance by {samples} samples: {rest} of the epoch are left")
        self.position += samples

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch; the one that is under way goes on."""
        if epoch != self.epoch:
            self.epoch = epoch
            self.position = 0

    def state_dict(self) -> dict[str, Any]:
        """Return where the job is, in plain data that is equal on all ranks."""
        return {
            "seed": self._seed,
            "epoch": self.epoch,
            "length": self._length,
            "position": self.position,
            "order": self._order()[:64].tolist(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there, with any number of ranks.

        Raises:
            ValueError: seed, dataset or the torch that shuffles are others now, so that samples
                would be skipped and repeated. The sampler is as it was.

        """
        before = self.epoch, self.position
        self.epoch, self.position = state["epoch"], state["position"]
        now = self.state_dict()
        changed = [name for name in ("seed", "length", "order") if now[name] != state[name]]
        if changed:
            self.epoch, self.position = before
            raise ValueError(f"the state is of another order of samples: {changed[0]} differs")

    def _end(self) -> int:
        """Position at which the last whole step ends."""
        return self._length - (self._length - self.position) % self._step

    def _order(self) -> Tensor:
        seed = hashlib.sha256(f"{self._seed} {self.epoch}".encode()).digest()[:8]
        generator = torch.Generator().manual_seed(int.from_bytes(seed, "little"))
        return torch.randperm(self._length, generator=generator)
