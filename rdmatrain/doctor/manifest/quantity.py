"""Quantities of Kubernetes: ``64Gi``, ``500m``."""

import re
from fractions import Fraction

from rdmatrain.doctor.manifest.nodes import Node

_QUANTITY = re.compile(
    r"([-+]?(?:\d{1,18}\.?\d{0,18}|\.\d{1,18}))([a-zA-Z]{0,2}|[eE][-+]?\d{1,2})", re.ASCII
)
_FACTORS = {
    "n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000), "": Fraction(1),
    **{name: Fraction(1000**power) for power, name in enumerate("kMGTPE", 1)},
    **{f"{name}i": Fraction(1024**power) for power, name in enumerate("KMGTPE", 1)},
}  # fmt: skip


def quantity(node: Node) -> Fraction | None:
    """Return what a quantity says; None if it is none.

    Args:
        node: with its text.

    """
    match = _QUANTITY.fullmatch(node.text)
    if match is None:
        return None
    number, suffix = Fraction(match[1]), match[2]
    if suffix in _FACTORS:
        return number * _FACTORS[suffix]
    return number * Fraction(10) ** int(suffix[1:]) if suffix[1:].lstrip("+-").isdigit() else None


def mib(value: Fraction) -> int:
    """Return bytes as MiB."""
    return int(value) >> 20
