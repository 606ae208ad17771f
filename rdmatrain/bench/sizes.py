"""Sizes as people write them, and those that a sweep goes through."""

import re
from collections.abc import Iterator

from rdmatrain.errors import SettingError

MAX_SIZES = 4096
# Powers of two whatever the spelling, as in nccl-tests.
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*([KMGT]?)(?:i?B)?", re.ASCII | re.IGNORECASE)


def parse_size(text: str, option: str) -> int:
    """Read 8, 512k, 64M or 1.5GiB: bytes.

    Args:
        text: as it was given.
        option: what to call it in the error, as ``-b``.

    Raises:
        SettingError: it is no size, or less than one byte.

    """
    match = _SIZE.fullmatch(text.strip())
    nbytes = int(float(match[1]) * (1 << _UNITS[match[2].upper()])) if match else 0
    if nbytes < 1:
        raise SettingError(
            f"{option} {text}: not a size: give bytes, at least 1, as 8, 512K or 64M"
        )
    return nbytes


def size_text(nbytes: float) -> str:
    """Write a size for people: 8 B, 512 KiB, 1.5 GiB."""
    for name, bits in reversed(_UNITS.items()):
        if name and nbytes >= 1 << bits:
            return f"{nbytes / (1 << bits):.3g} {name}iB"
    return f"{nbytes:.0f} B"


def sizes_between(first: int, last: int, factor: int, step: int) -> list[int]:
    """Return first, first * factor... up to last; or first, first + step... where there is a step.

    Raises:
        SettingError: nothing is between them, or too much; or the factor is less than 2.

    """
    if first > last:
        raise SettingError(
            f"-b {size_text(first)} is more than -e {size_text(last)}: no size is between them"
        )
    if factor < 2:
        raise SettingError(f"-f {factor}: sizes would not grow: give 2 or more, or a step with -i")
    if step < 0:
        raise SettingError(f"-i {step}: sizes would not grow: give 1 or more bytes")
    if step and (num := (last - first) // step + 1) > MAX_SIZES:
        raise SettingError(
            f"-i {step} makes {num} sizes, more than {MAX_SIZES}: give a larger step"
        )
    return list(range(first, last + 1, step) if step else _powers(first, last, factor))


def _powers(first: int, last: int, factor: int) -> Iterator[int]:
    while first <= last:
        yield first
        first *= factor


def fitted(sizes: list[int], unit: int) -> list[int]:
    """Return the sizes cut to multiples of a unit, at least one of it, each once."""
    return sorted({max(nbytes // unit, 1) * unit for nbytes in sizes})
