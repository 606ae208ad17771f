"""A state that is divided among ranks, and may be loaded by another number of them.

torch.distributed.checkpoint plans: who writes which part of a DTensor, who writes what all have,
and which parts of which files a rank needs. Its plans travel as JSON, and so does what it calls
metadata, which is our layout: it would pickle both. Files are ours: a list of a rank's parts.
"""

import os
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import (
    DefaultLoadPlanner,
    DefaultSavePlanner,
    Metadata,
    SavePlan,
)
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadItemType,
    ReadItem,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from rdmatrain.train.checkpoint import Checkpoints, MisfitError, Reading
from rdmatrain.train.manifest import Manifest
from rdmatrain.train.ranks import describe
from rdmatrain.train.shard import load_shard

# By full name: either {"at": [rank, place]} of plain data, or {"dtype", "size", "chunks"} of a
# tensor, with [rank, place, offsets, sizes] of each chunk. A place is an index in the rank's list.
Layout = dict[str, dict[str, Any]]


class ShardedCheckpoints(Checkpoints):
    """Checkpoints of a state that is divided among ranks, for any number of them.

    It is a dictionary with DTensors, as of FSDP2 and tensor parallelism; each rank writes its parts
    of those. What else is in it, tensors and plain data, all ranks have alike. ``load`` needs such
    a state, on as many ranks as there are now, and fills it in place: what it names must be in the
    checkpoint, with the same sizes and types, and the rest stays unread::

        checkpoints = ShardedCheckpoints(folder)
        saved = checkpoints.load({"model": model.state_dict()})
        ...
        checkpoints.save(step, {"model": model.state_dict()})

    Args:
        folder, group, keep, background: as of :class:`Checkpoints`.

    """

    def __init__(
        self,
        folder: "str | os.PathLike[str]",
        group: dist.ProcessGroup | None = None,
        keep: int = 2,
        background: bool = False,
    ) -> None:
        super().__init__(folder, group, keep, background=background)

    def _divide(self, state: Any, purpose: str) -> tuple[Any, dict[str, Any] | None]:
        divisions: list[Division] = []

        def plan() -> list[Any]:
            divisions.append(Division(state))
            return divisions[0].told()

        told = self.ranks.together(purpose, plan)
        # Each rank decides for all, from the same plans, and so the same.
        decided: list[tuple[list[Any], Layout]] = []
        decide = lambda: decided.append(divisions[0].decide(self.ranks.rank, told))  # noqa: E731
        self.ranks.together(purpose, decide)
        return decided[0]

    def _reading(self, manifest: Manifest, into: Any) -> Reading:
        if manifest.layout is None:
            raise MisfitError("its state is not divided among ranks: load it with Checkpoints")
        try:
            collection = Collection(manifest.layout, into)
        except Exception as error:  # the manifest is intact: what is wrong is what was asked for
            raise MisfitError(describe(error)) from error
        # Together the ranks check all files, also those that none of them needs.
        mine = range(self.ranks.rank, manifest.world_size, self.ranks.size)
        return Reading(collection.files | set(mine), collection.fill)


class ShardedState:
    """A model and its optimizer, for :class:`~rdmatrain.train.Training` and ShardedCheckpoints.

    An optimizer alone will not do: before its first step it has no state that could be filled, and
    it knows parameters by numbers.

    Args:
        model: as ``fully_shard`` or ``parallelize_module`` made it.
        optimizer: of its parameters.

    """

    def __init__(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._model, self._optimizer = model, optimizer

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both; the optimizer gets zeros if it has none yet."""
        model, optimizer = get_state_dict(self._model, self._optimizer)
        return {"model": model, "optimizer": optimizer}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        set_state_dict(
            self._model,
            self._optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
        )


class Division:
    """What each rank writes of a state; what several have is written by the lowest of them.

    Args:
        state: this rank's: DTensors, tensors and plain data, in dictionaries and lists.

    Raises:
        ValueError: it cannot be planned.

    """

    def __init__(self, state: dict[str, Any]) -> None:
        # Replicas in one file rather than spread over all: each rank reads few files then.
        self._planner = DefaultSavePlanner(False, False, dedup_save_to_lowest_rank=True)
        flat = {name: value for name, (_, value) in flattened(state).items()}
        self._planner.set_up_planner(flat, is_coordinator=True)
        self._plan = self._planner.create_local_plan()

    def told(self) -> list[Any]:
        """Return this rank's plan, as JSON can hold it."""
        return [_told(item) for item in self._plan.items]

    def decide(self, rank: int, told: list[list[Any]]) -> tuple[list[Any], Layout]:
        """Return what this rank writes, and the layout, from what all ranks told.

        Raises:
            ValueError: parts overlap, or some are missing.

        """
        plans = [SavePlan([_heard(item) for item in items]) for items in told]
        plans, _ = self._planner.create_global_plan(plans)
        layout: Layout = {}
        for writer, plan in enumerate(plans):
            for place, item in enumerate(plan.items):
                _add(layout, item, [writer, place])
        return [self._part(item) for item in plans[rank].items], layout

    def _part(self, item: WriteItem) -> Any:
        part = self._planner.lookup_object(item.index)
        if isinstance(part, Tensor) and part.untyped_storage().nbytes() != part.nbytes:
            return part.detach().clone()  # torch.save would write all that it is a view of
        return part


class Collection:
    """What a rank reads, to fill its state from the files of any number of ranks.

    Args:
        layout: of the state that was saved.
        into: this rank's state now, with the keys, sizes and types that were saved.

    Raises:
        ValueError, RuntimeError: it does not fit what was saved; the text names the key.

    """

    def __init__(self, layout: Layout, into: dict[str, Any]) -> None:
        self._layout, self._into, self._flat = layout, into, flattened(into)
        metadata = Metadata({name: _metadata(entry) for name, entry in layout.items()})
        self._planner = DefaultLoadPlanner(False, False)
        flat = {name: value for name, (_, value) in self._flat.items()}
        self._planner.set_up_planner(flat, metadata)
        self._reads: dict[int, list[tuple[int, ReadItem]]] = {}
        for item in self._planner.create_local_plan().items:
            rank, place = self._source(item)
            self._reads.setdefault(rank, []).append((place, item))

    @property
    def files(self) -> set[int]:
        """The ranks whose files are needed."""
        return set(self._reads)

    def fill(self, files: Mapping[int, BinaryIO]) -> dict[str, Any]:
        """Copy what is needed of the files into the state, and return it."""
        for rank, reads in self._reads.items():
            parts = load_shard(files[rank])
            for place, item in reads:
                self._put(item, parts[place])
        return self._into

    def _source(self, item: ReadItem) -> tuple[int, int]:
        name = item.storage_index.fqn
        entry = self._layout[name]
        if item.type == LoadItemType.BYTE_IO:
            rank, place = entry["at"]
            return rank, place
        dtype = _dtype_name(self._planner.lookup_tensor(item.dest_index))
        if dtype != entry["dtype"]:
            raise ValueError(f"{name} was saved as {entry['dtype']}, and is {dtype} now")
        rank, place, *_ = entry["chunks"][item.storage_index.index]
        return rank, place

    def _put(self, item: ReadItem, part: Any) -> None:
        if item.type == LoadItemType.BYTE_IO:
            owner: Any = self._into
            (*path, last), _ = self._flat[item.dest_index.fqn]
            for key in path:
                owner = owner[key]
            owner[last] = part
            return
        for axis, start in enumerate(item.storage_offsets):
            part = part.narrow(axis, start, item.lengths[axis])
        self._planner.resolve_tensor(item).detach().copy_(part)


def flattened(state: Mapping[Any, Any]) -> dict[str, tuple[tuple[Any, ...], Any]]:
    """Return by full name where each tensor is, and each thing without tensors, as a whole.

    torch's own goes into lists of dictionaries as well, so that a longer one could not be loaded.

    Raises:
        TypeError: it is no dictionary.
        ValueError: two have one name.

    """
    flat: dict[str, tuple[tuple[Any, ...], Any]] = {}
    if not isinstance(state, Mapping):
        raise TypeError(f"a state that is divided is a dictionary, no {type(state).__name__}")

    def walk(items: Iterable[tuple[Any, Any]], path: tuple[Any, ...]) -> None:
        for key, value in items:
            here = (*path, key)
            if _has_tensors(value):
                walk(value.items() if isinstance(value, Mapping) else enumerate(value), here)
                continue
            name = ".".join(map(str, here))
            if name in flat:
                raise ValueError(f"two parts of the state are called {name}")
            flat[name] = here, value

    walk(state.items(), ())
    return flat


def _has_tensors(value: Any) -> bool:
    """Tell whether it is a dictionary or list that has a tensor somewhere."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, list):
        return False
    return any(isinstance(each, Tensor) or _has_tensors(each) for each in value)


def _told(item: WriteItem) -> list[Any]:
    data = item.tensor_data
    if data is None:
        return [item.index.fqn, item.type.name]
    chunk, dtype = data.chunk, str(data.properties.dtype).removeprefix("torch.")
    box = [list(chunk.offsets), list(chunk.sizes), list(data.size)]
    return [item.index.fqn, item.type.name, dtype, *box]


def _heard(told: list[Any]) -> WriteItem:
    name, kind, *rest = told
    if not rest:
        return WriteItem(MetadataIndex(name), WriteItemType[kind])
    dtype, offsets, sizes, size = rest
    data = TensorWriteData(_chunk(offsets, sizes), _properties(dtype), torch.Size(size))
    return WriteItem(MetadataIndex(name, offsets), WriteItemType[kind], tensor_data=data)


def _add(layout: Layout, item: WriteItem, at: list[int]) -> None:
    name, _, *rest = _told(item)
    if not rest:
        layout[name] = {"at": at}
        return
    dtype, offsets, sizes, size = rest
    entry = layout.setdefault(name, {"dtype": dtype, "size": size, "chunks": []})
    entry["chunks"].append([*at, offsets, sizes])


def _metadata(entry: dict[str, Any]) -> Any:
    if "at" in entry:
        return BytesStorageMetadata()
    chunks = [_chunk(offsets, sizes) for _, _, offsets, sizes in entry["chunks"]]
    return TensorStorageMetadata(_properties(entry["dtype"]), torch.Size(entry["size"]), chunks)


def _chunk(offsets: list[int], sizes: list[int]) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes))


def _properties(dtype: str) -> TensorProperties:
    return TensorProperties(getattr(torch, dtype))


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
