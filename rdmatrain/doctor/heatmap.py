"""Draws how fast each pod of a gang sends to each other one: PNG or SVG, by matplotlib."""

import io
import math
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rdmatrain.errors import SettingError

KINDS = ("png", "svg")
NO_MATPLOTLIB = 'drawing needs matplotlib: pip install "rdmatrain[doctor]"'
# Beyond so many, numbers are too small to be read, and names are those of some.
MAX_NUMBERS, MAX_NAMES = 16, 40
INK, NONE = "#24292f", "#e4e7ea"
MAX_NAME = 28
Matrix = Sequence[Sequence[float | None]]


def kind_of(path: Path) -> str:
    """Return what is drawn into a file of that name.

    Raises:
        SettingError: it is neither PNG nor SVG.

    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in KINDS:
        raise SettingError(
            f"{path} is not a name for a drawing: give one that ends in .png or .svg"
        )
    return kind


def require_drawable(path: Path) -> None:
    """Find out before anything is measured whether it can be drawn.

    Raises:
        SettingError: matplotlib is not installed, or there can be no such file.

    """
    kind_of(path)
    if find_spec("matplotlib") is None:
        raise SettingError(NO_MATPLOTLIB)
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        why = "it is a folder" if path.is_dir() else "no such folder, or no right to write there"
        raise SettingError(f"cannot write {path}: {why}")


def draw(hosts: Sequence[str], gbps: Matrix, path: Path, caption: str = "") -> None:
    """Draw a matrix of bandwidths into a file; the same matrix gives the same bytes.

    Args:
        hosts: names of the pods, in the order of their ranks.
        gbps: Gbit/s from each (row) to each (column); None where nothing was measured.
        path: of the file, which ends in ``.png`` or ``.svg``.
        caption: a line below it.

    Raises:
        SettingError: matplotlib is not installed, or the file cannot be written.

    """
    kind = kind_of(path)
    try:
        import matplotlib  # noqa: PLC0415 - optional, and slow to import
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        raise SettingError(NO_MATPLOTLIB) from None
    look: Any = {"font.size": 9, "text.color": INK, "svg.fonttype": "none", "svg.hashsalt": "x"}
    with matplotlib.rc_context(look):
        side = min(4.0 + 0.45 * len(hosts), 14.0)
        figure = Figure((side + 1.5, side), layout="constrained")
        _heat(figure, [_short(each) for each in hosts], gbps)
        figure.suptitle("Gbit/s from one pod (row) to another (column)", fontsize=10.5)
        if caption:
            figure.supxlabel(_plain(caption), fontsize=8)
        out = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {}
        figure.savefig(out, format=kind, dpi=150, metadata=metadata, facecolor="white")
    try:
        path.write_bytes(out.getvalue())
    except OSError as error:
        raise SettingError(f"cannot write {path}: {error.strerror}") from error


def _heat(figure: Any, hosts: Sequence[str], gbps: Matrix) -> None:
    axes = figure.subplots()
    axes.set_facecolor(NONE)  # what was not measured
    rows = [[math.nan if each is None else each for each in row] for row in gbps]
    known = [each for row in gbps for each in row if each]
    fastest = max(known, default=1.0)
    image = axes.imshow(rows, cmap="viridis", vmin=0.0, vmax=fastest)
    figure.colorbar(image, ax=axes, shrink=0.8, label="Gbit/s")
    step = max(-(-len(hosts) // MAX_NAMES), 1)
    shown = range(0, len(hosts), step)
    axes.set_xticks(shown, [hosts[each] for each in shown], rotation=60, ha="right")
    axes.set_yticks(shown, [hosts[each] for each in shown])
    if len(hosts) <= MAX_NUMBERS:
        _write_numbers(axes, gbps, fastest)


def _write_numbers(axes: Any, gbps: Matrix, fastest: float) -> None:
    for row, values in enumerate(gbps):
        for column, value in enumerate(values):
            if value is not None:
                color = "white" if value < 0.6 * fastest else "black"
                axes.text(column, row, f"{value:.3g}", ha="center", va="center", color=color)


def _short(name: str) -> str:
    """Keep the ends of a name, which tell pods of one job apart."""
    plain = _plain(name)
    return plain if len(plain) <= MAX_NAME else f"{plain[:8]}...{plain[-(MAX_NAME - 11) :]}"


def _plain(text: str) -> str:
    """Return a text that matplotlib takes for no formula, and XML for text."""
    return "".join(each if each.isprintable() else "?" for each in text).replace("$", r"\$")
