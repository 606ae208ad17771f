"""Inputs and expected results of the matrix: NumPy does the arithmetic, torch the conversions.

Half types, float8 and complex32 are widened to float32, combined in the order of the ranks and
rounded once at the end. Everything else is combined as it is; integers wrap.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

FLOATS = [
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn,
    torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz,
]  # fmt: skip
INTS = [
    torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64,
    torch.uint64,
]  # fmt: skip
COMPLEX = [torch.complex32, torch.complex64, torch.complex128]
DTYPES = [*FLOATS, *INTS, torch.bool, *COMPLEX, torch.float8_e8m0fnu]
BITS = ["BAND", "BOR", "BXOR"]
OPS = ["SUM", "AVG", "PRODUCT", "MIN", "MAX", *BITS, "PREMUL_SUM"]
FACTOR = 0.3  # no binary fraction: tells float32 from float64

COMBINE = {
    "SUM": np.add, "AVG": np.add, "PREMUL_SUM": np.add, "PRODUCT": np.multiply,
    "MIN": np.minimum, "MAX": np.maximum,
    "BAND": np.bitwise_and, "BOR": np.bitwise_or, "BXOR": np.bitwise_xor,
}  # fmt: skip
OF_BOOLS = {"SUM": np.logical_or, "PRODUCT": np.logical_and}


def has_meaning(dtype: torch.dtype, op: str) -> bool:
    if dtype in FLOATS:
        return op not in BITS
    if dtype in INTS:
        return op != "PREMUL_SUM"
    if dtype in COMPLEX:
        return op in {"SUM", "AVG", "PRODUCT", "PREMUL_SUM"}
    return dtype == torch.bool and op not in {"AVG", "PREMUL_SUM"}


@lru_cache(maxsize=4096)
def values(dtype: torch.dtype, rank: int, count: int) -> Tensor:
    """What a rank starts with: any integers, floats of 0.05 to 2.2 and both signs. Read it only."""
    x = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x += np.uint64((rank + 1) * 0x32BE59BD9B4E019)
    x ^= x >> np.uint64(31)
    x *= np.uint64(0x94D049BB133111EB)
    if dtype in INTS:
        return torch.from_numpy((x >> np.uint64(3)).view(np.int64)).to(dtype)
    if dtype == torch.bool:
        return torch.from_numpy((x >> np.uint64(7)) % 3 == 0)
    if dtype == torch.float8_e8m0fnu:
        return torch.from_numpy((x >> np.uint64(9)).astype(np.uint8)).view(dtype)
    real = torch.from_numpy(((x >> np.uint64(11)) % 40).astype(np.float64) - 19.5) / 9
    return (
        from_parts(dtype, torch.stack([real, real.roll(1)], 1))
        if dtype in COMPLEX
        else real.to(dtype)
    )


def from_parts(dtype: torch.dtype, parts: Tensor) -> Tensor:
    return torch.view_as_complex(parts.to(dtype.to_real()))


def wide(tensor: Tensor) -> np.ndarray:
    """Return the numbers as they are combined, complex ones as a column for each part."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    half = tensor.is_floating_point() and tensor.element_size() < 4
    return (tensor.float() if half else tensor).numpy()


def narrow(dtype: torch.dtype, numbers: np.ndarray) -> Tensor:
    tensor = torch.from_numpy(numbers)
    return from_parts(dtype, tensor) if dtype in COMPLEX else tensor.to(dtype)


def times(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Multiply complex numbers by their parts, without what NumPy may fuse."""
    real = a[:, 0] * b[:, 0] - a[:, 1] * b[:, 1]
    return np.stack([real, a[:, 0] * b[:, 1] + a[:, 1] * b[:, 0]], 1)


def quotient(total: np.ndarray, world: int) -> np.ndarray:
    """Divide by the number of ranks: integers are truncated towards zero."""
    by = total.dtype.type(world)
    if total.dtype.kind == "f":
        return total / by
    return total // by + ((total < 0) & (total % by != 0)).astype(total.dtype)


@lru_cache(maxsize=4096)
def reduced(dtype: torch.dtype, op: str, world: int, count: int) -> Tensor:
    """Reduce what the ranks start with. Read it only."""
    combine = COMBINE[op]
    if dtype == torch.bool:
        combine = OF_BOOLS.get(op, combine)
    elif dtype in COMPLEX and op == "PRODUCT":
        combine = times
    shares = [wide(values(dtype, rank, count)) for rank in range(world)]
    with np.errstate(over="ignore"):
        if op == "PREMUL_SUM":
            shares = [share * share.dtype.type(FACTOR) for share in shares]
        total = shares[0]
        for share in shares[1:]:
            total = combine(total, share)
        return narrow(dtype, quotient(total, world) if op == "AVG" else total)
