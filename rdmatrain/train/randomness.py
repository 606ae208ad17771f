"""The states of the random number generators of a process, as plain data that JSON can hold."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def random_state() -> dict[str, Any]:
    """Return the states of Python's, NumPy's and torch's generators: the CPU's, and this GPU's."""
    version, words, gauss = random.getstate()
    kind, keys, *position = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [kind, np.asarray(keys).tobytes().hex(), *position],
        "torch": _hex(torch.get_rng_state()),
        "cuda": _hex(torch.cuda.get_rng_state()) if torch.cuda.is_initialized() else "",
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Let the generators go on from there; that of a GPU only where there is one.

    Raises:
        ValueError, RuntimeError: it is not what :func:`random_state` returns.

    """
    version, words, gauss = state["python"]
    kind, keys, *position = state["numpy"]
    random.setstate((version, tuple(words), gauss))
    np.random.set_state((kind, np.frombuffer(bytes.fromhex(keys), np.uint32), *position))
    torch.set_rng_state(_tensor(state["torch"]))
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(_tensor(state["cuda"]))


def _hex(state: Tensor) -> str:
    return bytes(state.numpy()).hex()


def _tensor(text: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
