"""Drawings made of letters."""

import math
import os
import shutil
import sys
from collections.abc import Sequence
from typing import Any

from rdmatrain.bench.plots.curves import Curve, Point, Record, View, drawing
from rdmatrain.bench.plots.labels import (
    Style,
    decades,
    optional,
    printable,
    seconds_text,
    size_ticks,
    styles,
)

NARROWEST, WIDEST, HEIGHT = 40, 120, 20
# Where an encoding has no lines.
_ASCII = str.maketrans("─│┌┐└┘├┤┬┴┼µ", "-|+++++++++u")


def plot(records: list[Record], width: int | None = None) -> str:
    """Draw all views, one below the other; see ``plots.terminal_plot``."""
    plotext = optional("plotext")
    found = drawing(records)
    looks = styles(found.backends)
    if width is None:
        width = shutil.get_terminal_size().columns
    width = min(max(width, NARROWEST), WIDEST)
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    parts = []
    for view in found.views:
        if view.sized and any(map(_moving, view.curves)):
            parts.append(_curves(plotext, view, looks, width, colour))
        else:
            parts.append(_bars(view, width))
    return _as_encoded("\n\n".join(parts))


def _curves(plotext: Any, view: View, looks: dict[str, Style], width: int, colour: bool) -> str:
    """Draw bus bandwidth by size."""
    figure = plotext.figure
    plotext.terminal.limit(False, False)
    figure.clear()
    figure.theme("simple" if colour else "colorless")
    figure.plot_size(width, HEIGHT)
    drawn = {curve.name: points for curve in view.curves if (points := _moving(curve))}
    # The first contestant is drawn last, on top of the others.
    for name, points in reversed(drawn.items()):
        _curve(plotext, points, looks[name], colour)
    _axes(figure, [point for points in drawn.values() for point in points])
    canvas: str = figure.build().string(colorless=not colour)
    figure.clear()
    title = f"{printable(view.title)}: bus bandwidth in GB/s"
    shown = {name: looks[name] for name in drawn}
    legend = _legend(plotext, shown, width, colour)
    return "\n".join([title, *legend, canvas.rstrip("\n")])


def _moving(curve: Curve) -> list[Point]:
    return [point for point in curve.points if point.busbw]


def _curve(plotext: Any, points: Sequence[Point], look: Style, colour: bool) -> None:
    marker = plotext.marker(look.letter, *([plotext.pixel(look.ansi)] if colour else []))
    signal = plotext.figure.signal(
        [math.log10(point.nbytes) for point in points],
        [math.log10(point.busbw) for point in points],
        marker=marker,
    )
    signal.lines()
    plotext.figure.draw(signal)


def _axes(figure: Any, points: Sequence[Point]) -> None:
    sizes, labels = size_ticks(point.nbytes for point in points)
    figure.ruler("x").ticks([math.log10(size) for size in sizes], labels)
    tens = decades([point.busbw for point in points])
    figure.ruler("y").ticks([math.log10(ten) for ten in tens], [f"{ten:g}" for ten in tens])


def _bars(view: View, width: int) -> str:
    """Draw the latency of each contestant where there are no curves."""
    names = [printable(curve.name) for curve in view.curves]
    points = [curve.points[-1] for curve in view.curves]
    times = [seconds_text(point.p50) for point in points]
    name_width, time_width = max(map(len, names)), max(map(len, times))
    room = max(width - name_width - time_width - 4, 10)
    longest = max(point.p50 for point in points)
    rows = [
        f"{name:<{name_width}}  {time:>{time_width}}  {'#' * max(round(room * p.p50 / longest), 1)}"
        for name, time, p in zip(names, times, points, strict=True)
    ]
    return "\n".join([f"{printable(view.title)}: latency, p50", *rows])


def _legend(plotext: Any, looks: dict[str, Style], width: int, colour: bool) -> list[str]:
    """Put as many contestants into a line as it holds."""
    names = {name: printable(name) for name in looks}
    column = max(map(len, names.values())) + 5
    entries = [
        f"{plotext.colorize(look.letter, look.ansi) if colour else look.letter} "
        f"{names[name]:<{column - 2}}"
        for name, look in looks.items()
    ]
    per_line = max(width // column, 1)
    rows = [entries[start : start + per_line] for start in range(0, len(entries), per_line)]
    return ["".join(row).rstrip() for row in rows]


def _as_encoded(text: str) -> str:
    """Use plain letters where standard output has no lines."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        plain = text.translate(_ASCII)
        return plain.encode(encoding, "backslashreplace").decode(encoding)
    return text
