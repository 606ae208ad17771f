"""How numbers and names look in all drawings; and what has to be installed for them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import cycle
from typing import Any

from rdmatrain.bench.plots.curves import CALL, MEMORY, ONLY_LIMITS
from rdmatrain.bench.sizes import size_text
from rdmatrain.errors import SettingError

MOST_SIZES = 8  # ticks of an axis


@dataclass(frozen=True)
class Style:
    """How a contestant is drawn.

    Attributes:
        light: colour on white.
        dark: colour on black.
        ansi: of the 16 colours of terminals.
        letter: its points in a terminal.
        marker: its points in matplotlib.
        symbol: the same in plotly.
        dash: of its line: "solid", "dash" or "dot".

    """

    light: str
    dark: str
    ansi: int
    letter: str
    marker: str
    symbol: str
    dash: str = "solid"


# After Okabe and Ito: told apart by people who see no red or no green, and by their points in grey.
_STYLES = (
    Style("#0072b2", "#4db2ff", 12, "o", "o", "circle"),
    Style("#d55e00", "#ff8a3d", 9, "x", "s", "square"),
    Style("#009e73", "#2bd4a4", 10, "+", "D", "diamond"),
    Style("#b0558f", "#e59bc6", 13, "*", "^", "triangle-up"),
    Style("#c98a00", "#f2b632", 11, "#", "v", "triangle-down"),
    Style("#3a9bd9", "#8ad0f7", 14, "@", "P", "cross"),
    Style("#4b4b4b", "#d8d8d8", 7, "%", "X", "x"),
    Style("#332288", "#a99cf0", 4, "&", "p", "pentagon"),
    Style("#882255", "#e07aa5", 5, "=", "*", "star"),
    Style("#6f7d1c", "#c3d15a", 3, "$", "h", "hexagon"),
)
_AT_HOME = {
    backend: _STYLES[place]
    for place, backend in enumerate(
        ("rdmatrain", "gloo", "openmpi", "mpich", "intelmpi", "nccl", "perftest")
    )
} | {
    MEMORY: Style("#8a8a8a", "#9a9a9a", 8, "-", "", "line-ew", "dash"),
    CALL: Style("#8a8a8a", "#9a9a9a", 8, ".", "", "line-ew", "dot"),
}

_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "\u00b5s"), (1e-9, "ns"))


def styles(backends: dict[str, str]) -> dict[str, Style]:
    """Choose how contestants look: a backend's first one always the same, further ones differently.

    Args:
        backends: of each contestant, by name.

    """
    chosen: dict[str, Style] = {}
    for name, backend in backends.items():
        home = _AT_HOME.get(backend)
        if home and (backend in ONLY_LIMITS or home not in chosen.values()):
            chosen[name] = home
    spare = cycle([style for style in _STYLES if style not in chosen.values()] or _STYLES)
    return {name: chosen.get(name) or next(spare) for name in backends}


def seconds_text(seconds: float) -> str:
    """Write a time for people: 12.3 us is 12.3 µs."""
    scale, unit = next((pair for pair in _TIMES if seconds >= pair[0]), _TIMES[-1])
    return f"{float(f'{seconds / scale:.3g}'):g} {unit}"  # 1000, not 1e+03


def size_ticks(sizes: Iterable[int]) -> tuple[list[int], list[str]]:
    """Choose sizes for an axis, evenly among those that there are, and write them."""
    known = sorted(set(sizes))
    step = math.ceil(len(known) / MOST_SIZES)
    chosen = known[::step]
    return chosen, [size_text(size) for size in chosen]


def decades(values: Sequence[float]) -> list[float]:
    """Return the powers of ten among the values; those around them, if there are less than two."""
    low, high = (math.log10(value) for value in (min(values), max(values)))
    first, last = math.ceil(low), math.floor(high)
    if last <= first:
        first, last = math.floor(low), math.ceil(high)
    return [10.0**power for power in range(first, last + 1)]


def printable(text: str) -> str:
    """Escape what could steer a terminal, and what is no character at all."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def optional(module: str) -> Any:
    """Import what may not be installed.

    Raises:
        SettingError: it is not.

    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise SettingError(
            f'{package} cannot be imported: pip install "rdmatrain[bench]" ({error})'
        ) from error
