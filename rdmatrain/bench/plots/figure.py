"""Drawings by matplotlib: a row for each view, with latency and bus bandwidth by size."""

import io
from textwrap import fill, wrap
from typing import Any

from rdmatrain.bench.plots.curves import Curve, Drawing, Record, View, drawing, text
from rdmatrain.bench.plots.labels import (
    Style,
    optional,
    printable,
    seconds_text,
    size_ticks,
    styles,
)

WIDTH, ROW_HEIGHT, BAR_HEIGHT, MARGIN_HEIGHT = 11.0, 3.8, 0.4, 1.4  # inches
DPI = 150
LETTERS = 140  # that a line over the whole width holds
ROOM = 2.0  # from the outermost line to the end of a logarithmic axis, as a factor
MOST_DOTS = 60_000  # of a side of a PNG file
INK, FAINT, GRID = "#24292f", "#6a737d", "#e4e7ea"
_LOOK = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "text.parse_math": False,  # names come from files
    "axes.edgecolor": "#b8bec5",
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "rdmatrain",  # the same records give the same file
}


def image(records: list[Record], kind: str) -> bytes:
    """Draw records as an image.

    Args:
        records: see ``plots.draw``.
        kind: "png" or "svg".

    Raises:
        SettingError: no record can be drawn, or matplotlib is not installed.

    """
    found = drawing(records)
    matplotlib = optional("matplotlib")
    with matplotlib.rc_context(_LOOK):
        heights = [_height(view) for view in found.views]
        height = MARGIN_HEIGHT + sum(heights)
        figure = optional("matplotlib.figure").Figure((WIDTH, height), layout="constrained")
        figure.get_layout_engine().set(h_pad=0.12, w_pad=0.12)
        looks = styles(found.backends)
        panels = figure.subplots(len(heights), 2, squeeze=False, height_ratios=heights)
        _rows(panels, found, looks)
        _legend(figure, found, looks)
        figure.supxlabel(
            caption(found), x=0.01, ha="left", fontsize=8, color=FAINT, linespacing=1.5
        )
        out = io.BytesIO()
        dpi = min(DPI, MOST_DOTS / height)
        metadata = {"Date": None} if kind == "svg" else {}
        figure.savefig(out, format=kind, dpi=dpi, metadata=metadata, facecolor="white")
    return out.getvalue()


def caption(found: Drawing) -> str:
    """Say where and of what the results are, a line for each that differs, and what lines mean."""
    said = dict.fromkeys(_said(record) for record in found.records)
    lines = ["Lines: median (p50). Bands: up to p99. Bus bandwidth as in nccl-tests."]
    if found.num_wrong:
        lines.append(f"{found.num_wrong} of {len(found.records)} results had WRONG values.")
    lines += [printable(line) for line in said if line]
    return "\n".join(part for line in lines for part in wrap(line, LETTERS))


def _said(record: Record) -> str:
    cpus = f"{text(record, 'cpus')} CPUs" if text(record, "cpus") else ""
    kernel = f"Linux {text(record, 'kernel')}" if text(record, "kernel") else ""
    commit = f"rdmatrain {text(record, 'commit')[:12]}" if text(record, "commit") else ""
    date = text(record, "time").partition("T")[0]
    return ", ".join(filter(None, [text(record, "machine"), cpus, kernel, commit, date]))


def _height(view: View) -> float:
    return ROW_HEIGHT if view.sized else 1.0 + BAR_HEIGHT * len(view.curves)


def _rows(panels: Any, found: Drawing, looks: dict[str, Style]) -> None:
    for view, (latency, bandwidth) in zip(found.views, panels, strict=True):
        latency.set_title(printable(view.title))
        if not view.sized:
            _bars(latency, view, looks)
            bandwidth.set_axis_off()
            continue
        for curve in view.curves:
            line = _line(looks[curve.name], found.backends[curve.name])
            _latency(latency, curve, line)
            fast = [point for point in curve.points if point.busbw]
            bandwidth.plot([p.nbytes for p in fast], [p.busbw for p in fast], **line)
        for panel, label in ((latency, "latency"), (bandwidth, "bus bandwidth (GB/s)")):
            panel.set_ylabel(label)
            _log_axes(panel, view)
        latency.yaxis.set_major_formatter(lambda seconds, _: seconds_text(seconds))
        bandwidth.yaxis.set_major_formatter(lambda speed, _: f"{speed:g}")


def _latency(panel: Any, curve: Curve, line: dict[str, Any]) -> None:
    sizes = [point.nbytes for point in curve.points]
    p50, p99 = ([getattr(point, key) for point in curve.points] for key in ("p50", "p99"))
    panel.plot(sizes, p50, **line)
    if line["linestyle"] == "-":
        panel.fill_between(sizes, p50, p99, color=line["color"], alpha=0.13, linewidth=0, zorder=1)


def _line(look: Style, backend: str) -> dict[str, Any]:
    ours = backend == "rdmatrain"
    return {
        "color": look.light,
        "marker": look.marker,
        "markersize": 5,
        "markeredgecolor": "white",
        "markeredgewidth": 0.7,
        "linewidth": 2.2 if ours else 1.6,
        "linestyle": {"dash": "--", "dot": ":"}.get(look.dash, "-"),
        "zorder": 3 if ours else 2,
    }


def _log_axes(panel: Any, view: View) -> None:
    values = [value for line in panel.lines for value in line.get_ydata()]
    if not values:
        panel.set_axis_off()
        return
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    # A p99 that is far away must not press the lines together.
    low, high = min(values) / ROOM, max(values) * ROOM
    panel.set_ylim(low, high)
    if high / low < 100:
        panel.yaxis.get_major_locator().set_params(subs=(1, 2, 5))
    ticks, labels = size_ticks(point.nbytes for curve in view.curves for point in curve.points)
    panel.set_xticks(ticks, labels)
    panel.minorticks_off()
    panel.grid(color=GRID, linewidth=0.8)


def _bars(panel: Any, view: View, looks: dict[str, Style]) -> None:
    """Draw the latency of each contestant: there is one size only, or none."""
    points = [curve.points[-1] for curve in view.curves]
    colours = [looks[curve.name].light for curve in view.curves]
    rows = range(len(points))
    panel.barh(rows, [point.p50 for point in points], color=colours, height=0.6)
    for row, point in zip(rows, points, strict=True):
        text = f"{seconds_text(point.p50)}, p99 {seconds_text(point.p99)}"
        note = panel.annotate(
            text, (point.p50, row), xytext=(4, 0), textcoords="offset points",
            va="center", fontsize=9, annotation_clip=False,
        )  # fmt: skip
        note.set_in_layout(False)  # it may reach into the place beside, which is empty
    panel.set_yticks(rows, [fill(printable(curve.name), 24) for curve in view.curves])
    panel.invert_yaxis()
    panel.xaxis.set_major_formatter(lambda seconds, _: seconds_text(seconds) if seconds else "0")
    panel.set_xlabel("latency")
    panel.grid(axis="x", color=GRID, linewidth=0.8)


def _legend(figure: Any, found: Drawing, looks: dict[str, Style]) -> None:
    line2d = optional("matplotlib.lines").Line2D
    # matplotlib keeps a name that begins with _ out of a legend.
    names = [f" {printable(name)}" for name in found.backends]
    handles = [
        line2d([], [], **_line(looks[name], found.backends[name])) for name in found.backends
    ]
    columns = max(1, min(len(names), LETTERS // (max(map(len, names)) + 9)))
    figure.legend(handles, names, loc="outside upper left", ncols=columns, frameon=False)
