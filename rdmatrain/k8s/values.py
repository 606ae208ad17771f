"""Durations and sizes of a spec: texts with a unit, and how they are written again."""

import re
from fractions import Fraction

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d{1,9}[smhd])+", re.ASCII)
_SUFFIXES = "kMGTP"
_BYTES = {
    **{f"{suffix.upper()}i": 1024**power for power, suffix in enumerate(_SUFFIXES, 1)},
    **{suffix: 1000**power for power, suffix in enumerate(_SUFFIXES, 1)},
}
_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)([KMGTP]i|[kMGTP])", re.ASCII)
_UNITS = [unit for unit in _BYTES if unit.endswith("i")]


def seconds(text: str) -> int:
    """Read a duration: ``120s``, ``10m``, ``1h30m``.

    Raises:
        ValueError: it is none; says what would be one.

    """
    if not _DURATION.fullmatch(text):
        raise ValueError("give whole numbers with s, m, h or d, such as 120s or 1h30m")
    return sum(int(part[:-1]) * _SECONDS[part[-1]] for part in re.findall(r"\d+[smhd]", text))


def size(text: str) -> int:
    """Read a number of bytes: ``64Gi``, ``500G``.

    Raises:
        ValueError: it is none; says what would be one.

    """
    match = _SIZE.fullmatch(text)
    many = Fraction(match[1]) * _BYTES[match[2]] if match else Fraction(1, 2)
    if many.denominator != 1:
        raise ValueError("give a number with Mi, Gi or Ti, such as 64Gi")
    return int(many)


def duration_text(number: int) -> str:
    """Return a duration as a spec has it, in the largest unit that it is a multiple of."""
    for unit in "dhm":
        if number and number % _SECONDS[unit] == 0:
            return f"{number // _SECONDS[unit]}{unit}"
    return f"{number}s"


def size_text(number: int) -> str:
    """Return a size as Kubernetes writes it, in the largest unit that it is a multiple of."""
    for unit in reversed(_UNITS):
        if number and number % _BYTES[unit] == 0:
            return f"{number // _BYTES[unit]}{unit}"
    return str(number)
