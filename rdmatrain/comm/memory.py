"""Tensors in the arena: the memory that the other ranks of this host can reach."""

import operator
from collections.abc import Sequence
from typing import Any

import torch

from rdmatrain import _core
from rdmatrain.comm.backend import load_extension
from rdmatrain.config import load_settings
from rdmatrain.errors import SettingError


def install_allocator() -> None:
    """See :func:`rdmatrain.install_allocator`."""
    _require_allowed()
    load_extension().install_allocator()


def empty(size: Sequence[Any], dtype: torch.dtype | None, requires_grad: bool) -> torch.Tensor:
    """See :func:`rdmatrain.empty`."""
    _require_allowed()
    if len(size) == 1 and isinstance(size[0], Sequence):
        (size,) = size
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise TypeError(f"rdmatrain.empty: dtype must be a torch.dtype, not {dtype!r}")
    try:
        size = [operator.index(length) for length in size]
    except TypeError as error:
        raise TypeError(f"rdmatrain.empty: {error}") from None
    extension = load_extension()
    try:
        _core.arena_open()
    except MemoryError as error:
        raise RuntimeError(str(error)) from None
    tensor = extension.arena_empty(size, dtype or torch.get_default_dtype())
    return tensor.requires_grad_(requires_grad)


def _require_allowed() -> None:
    if load_settings().arena == "off":
        raise SettingError(
            "RDMATRAIN_ARENA=off forbids the arena: unset it, or set it to on, to use it"
        )
