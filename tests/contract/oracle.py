"""What a collective must give, in NumPy alone, sharing nothing with the C code.

bfloat16 is held as raw uint16. Values depend on rank and index, so that neither a swapped chunk nor
a wrong order of the ranks can pass.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from rdmatrain import _core

Array = NDArray[np.generic]

DTYPES = _core.DTYPES
FLOATS = ("float16", "bfloat16", "float32", "float64")
INTS = tuple(name for name in DTYPES if "int" in name)
COMPLEX = ("complex64", "complex128")
REDUCED = FLOATS + INTS  # by the reductions of REDOPS
REDOPS = ("SUM", "AVG", "MIN", "MAX", "PRODUCT")
COMBINE = {
    "SUM": np.add,
    "AVG": np.add,
    "MIN": np.minimum,
    "MAX": np.maximum,
    "PRODUCT": np.multiply,
    "BAND": np.bitwise_and,
    "BOR": np.bitwise_or,
    "BXOR": np.bitwise_xor,
    "PREMUL_SUM": np.add,
}
BFLOAT16_NAN = 0x7FC0
BFLOAT16_INF = 0x7F80
MASK64 = (1 << 64) - 1


def numpy_dtype(dtype: str) -> np.dtype:
    """What holds it; words of its size where NumPy does not know the type."""
    if dtype == "bfloat16":
        return np.dtype(np.uint16)
    if dtype == "complex32":
        return np.dtype(np.uint32)
    return np.dtype(np.uint8 if "float8" in dtype else dtype)


# -- data --


def scrambled(rank: int, count: int, salt: int) -> NDArray[np.uint64]:
    """A different 64-bit number for each rank, index and salt."""
    start = ((rank + 1) * 0xBF58476D1CE4E5B9 + salt * 0xD6E8FEB86659FD93) & MASK64
    x = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(start)
    x ^= x >> np.uint64(29)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(32)
    return x


@lru_cache(maxsize=64)
def values(dtype: str, rank: int, count: int, salt: int = 0) -> Array:
    """Read-only input of a rank: about -3.3 to 3.3 for floats and complex, else the whole range."""
    x = scrambled(rank, count, salt)
    real = ((x % np.uint64(2001)).astype(np.float64) - 1000.0) / 300.0
    if dtype in FLOATS:
        data = from_floats(dtype, real)
    elif dtype in COMPLEX:
        data = (real + 1j * real[::-1]).astype(dtype)
    elif dtype == "bool":
        data = x % np.uint64(3) == 0
    else:
        data = x.astype(numpy_dtype(dtype))
    data.flags.writeable = False
    return data


def from_floats(dtype: str, real: NDArray[np.float64]) -> Array:
    """Elements near the given numbers; bfloat16 is cut off, which needs no rounding."""
    if dtype != "bfloat16":
        return real.astype(dtype)
    return (real.astype(np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def inputs(dtype: str, world: int, count: int, salt: int = 0) -> list[Array]:
    return [values(dtype, rank, count, salt) for rank in range(world)]


# -- reductions --


def widen(dtype: str, data: Array) -> Array:
    if dtype == "bfloat16":
        return (data.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return data.astype(np.float32) if dtype == "float16" else data


def bfloat16_magnitude(code: NDArray[np.uint16]) -> NDArray[np.float64]:
    """Value of a code without its sign. Infinity counts as 2^128, where rounding puts it."""
    bits = code.astype(np.uint32) << np.uint32(16)
    return np.where(code == BFLOAT16_INF, 2.0**128, bits.view(np.float32).astype(np.float64))


def round_to_bfloat16(wide: NDArray[np.float32]) -> NDArray[np.uint16]:
    """To the nearer of the two neighbours; between them, to the even one. NaN becomes one NaN."""
    bits = wide.view(np.uint32)
    down = ((bits >> np.uint32(16)) & np.uint32(0x7FFF)).astype(np.uint16)
    size = np.abs(wide.astype(np.float64))
    finite = np.isfinite(wide)
    below = np.where(finite, size - bfloat16_magnitude(down), 0.0)
    above = np.where(finite, bfloat16_magnitude(down + np.uint16(1)) - size, 1.0)
    up = (above < below) | ((above == below) & (down % 2 == 1))
    code = down + up.astype(np.uint16) + np.where(np.signbit(wide), 0x8000, 0).astype(np.uint16)
    return np.where(np.isnan(wide), np.uint16(BFLOAT16_NAN), code).astype(np.uint16)


def narrow(dtype: str, acc: Array) -> Array:
    if dtype == "bfloat16":
        return round_to_bfloat16(acc)
    return acc.astype(np.float16) if dtype == "float16" else acc


def divided(acc: Array, world: int) -> Array:
    """The quotient by the number of ranks: truncated towards zero for integers."""
    by = acc.dtype.type(world)
    if acc.dtype.kind == "f":
        return acc / by
    quotient = acc // by
    return quotient + ((acc < 0) & (acc % by != 0)).astype(acc.dtype)


def reduced(dtype: str, op: str, shares: list[Array], factor: float = 1.0) -> Array:
    """The reduction in the order of the ranks, rounded once at the end."""
    with np.errstate(all="ignore"):
        wide = [widen(dtype, share) for share in shares]
        if op == "PREMUL_SUM":
            wide = [share * share.dtype.type(factor) for share in wide]
        acc = wide[0]
        for share in wide[1:]:
            acc = COMBINE[op](acc, share)
        if op == "AVG":
            acc = divided(acc, len(shares))
        return narrow(dtype, acc)


# -- comparisons --


def bits_of(data: Array) -> Array:
    """As words; a complex number as its two parts, one behind the other."""
    return data.view(f"u{8 if data.dtype.itemsize == 16 else data.dtype.itemsize}")


def assert_same_bits(got: Array, want: Array, what: str) -> None:
    differ = np.flatnonzero(bits_of(got) != bits_of(want))
    assert differ.size == 0, (
        f"{what}: {differ.size} of {got.size} words differ, the first at {differ[0]}: "
        f"{got.view(bits_of(got).dtype)[differ[0]]:#x} in {got!r} instead of {want!r}"
    )


def assert_same_numbers(dtype: str, got: Array, want: Array, what: str) -> None:
    """As bits, but any NaN equals any NaN, and -0.0 equals 0.0."""
    got_wide, want_wide = widen(dtype, got), widen(dtype, want)
    np.testing.assert_array_equal(got_wide, want_wide, err_msg=what, strict=True)
