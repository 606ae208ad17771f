"""Draws the simulation: time and bus bandwidth against the number of GPUs, by way and fabric."""

import io
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from rdmatrain.bench.scale.simulate import PER_HOST, Point
from rdmatrain.bench.sizes import size_text
from rdmatrain.errors import SettingError

COLORS = {"flat": "#c4432b", "by_host": "#1f6feb", "gather": "#2a7f3f", "halving": "#8250df"}
TEXTS = {
    "flat": "flat: every rank with every other, O(N) messages a rank",
    "by_host": "by_host: in the host, then N/8 hosts with each other",
    "gather": "gather: log2 N stages (small messages only)",
    "halving": "halving: in the host, then over the hosts in levels",
}
LINES = {"fat-tree": ("-", "o"), "rail": ("--", "D")}
INK, FAINT, GRID = "#24292f", "#57606a", "#e4e7ea"
MAX_WORLD = 4096  # ranks of a communicator: RDT_MAX_WORLD


def draw(points: Sequence[Point], caption: str, path: Path) -> None:
    """Draw points into a PNG or SVG file.

    Raises:
        SettingError: matplotlib is not installed, or the file cannot be written.

    """
    try:
        import matplotlib  # noqa: PLC0415 - optional, and slow to import
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        raise SettingError('drawing needs matplotlib: pip install "rdmatrain[bench]"') from None
    look: Any = {
        "font.size": 9.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "text.color": INK,
        "svg.fonttype": "none",
        "svg.hashsalt": "rdmatrain",
    }
    with matplotlib.rc_context(look):
        figure = Figure((11.0, 4.9), layout="constrained")
        _panels(figure, points)
        figure.supxlabel(fill(caption, 165), x=0.01, ha="left", fontsize=8, color=FAINT)
        out = io.BytesIO()
        kind = path.suffix.removeprefix(".") or "png"
        metadata = {"Date": None} if kind == "svg" else {}
        figure.savefig(out, format=kind, dpi=150, metadata=metadata, facecolor="white")
    try:
        path.write_bytes(out.getvalue())
    except OSError as error:
        raise SettingError(f"cannot write {path}: {error.strerror}") from error


def _panels(figure: Any, points: Sequence[Point]) -> None:
    sizes = sorted({point.nbytes for point in points})
    shown = [sizes[0], sizes[-1]]
    left, right = figure.subplots(1, 2)
    small, large = ([p for p in points if p.nbytes == nbytes] for nbytes in shown)
    _curves(left, [(p, p.seconds * 1e6) for p in small])
    left.set_title(f"all_reduce of {size_text(shown[0])}: time")
    left.set_ylabel("microseconds")
    _curves(right, [(p, p.busbw) for p in large])
    _bound(right, large)
    right.set_title(f"all_reduce of {size_text(shown[1])}: bus bandwidth")
    right.set_ylabel("GB/s")
    for axes in (left, right):
        _axes(axes, sorted({point.ranks for point in points}))
    if points[-1].ranks > MAX_WORLD:
        left.text(
            MAX_WORLD * 1.08, 0.02, f"beyond the {MAX_WORLD:,} ranks\nof a communicator",
            transform=left.get_xaxis_transform(), fontsize=8, color=FAINT,
        )  # fmt: skip
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False, fontsize=9)


def _bound(axes: Any, points: Sequence[Point]) -> None:
    bound = sorted({(p.ranks, p.busbw * p.seconds / p.bound_s) for p in points if p.bound_s})
    if bound:
        axes.plot(*zip(*bound, strict=True), ":", color=FAINT, linewidth=1.5)
        axes.annotate(
            "what the NICs of a host allow together", bound[0], (0, 5), textcoords="offset points",
            fontsize=8, color=FAINT,
        )  # fmt: skip


def _curves(axes: Any, values: Sequence[tuple[Point, float]]) -> None:
    for way, color in COLORS.items():
        for fabric, (line, marker) in LINES.items():
            found = [(p.ranks, y) for p, y in values if (p.way, p.fabric) == (way, fabric)]
            if found:
                axes.plot(
                    *zip(*found, strict=True),
                    line,
                    marker=marker,
                    color=color,
                    # the rails lie upon the fat tree where both are alike
                    linewidth=2.6 if line == "-" else 1.3,
                    markersize=5 if line == "-" else 8,
                    markerfacecolor=color if line == "-" else "none",
                    alpha=0.75 if line == "-" else 1.0,
                    label=f"{TEXTS[way]}; {fabric}",
                )


def _axes(axes: Any, gpus: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(gpus, [f"{n:,}" for n in gpus])
    axes.minorticks_off()
    axes.set_xlabel(f"GPUs, {PER_HOST} in a host, one NIC each")
    axes.grid(color=GRID)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if gpus[-1] > MAX_WORLD:
        axes.axvspan(MAX_WORLD, gpus[-1] * 1.2, color="#f3f4f6", zorder=0)
