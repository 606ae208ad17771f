"""Drawings of results: in the terminal, as PNG and SVG, and as one HTML file.

All of them draw the same views (``curves.py``). plotext, matplotlib and plotly come with
``pip install "rdmatrain[bench]"`` and are imported by what needs them.
"""

from pathlib import Path
from typing import Any

from rdmatrain.errors import SettingError

IMAGES = (".png", ".svg")
PAGE = ".html"


def draw(records: list[dict[str, Any]], out: Path) -> None:
    """Draw records into a file.

    Args:
        records: as ``model.record_of`` makes them; "file" in one tells where it was read.
        out: what to write; its suffix says what it becomes: .html, .png or .svg.

    Raises:
        SettingError: another suffix; no record that can be drawn; a package is not installed; or
            the file cannot be written.

    """
    suffix = out.suffix.lower()
    if suffix not in (PAGE, *IMAGES):
        raise SettingError(f"{out}: no such kind of drawing: name it .html, .png or .svg")
    if suffix == PAGE:
        from rdmatrain.bench.plots.page import page  # noqa: PLC0415 - takes long to import

        drawn = page(records).encode()
    else:
        from rdmatrain.bench.plots.figure import image  # noqa: PLC0415 - takes long to import

        drawn = image(records, suffix.removeprefix("."))
    try:
        out.write_bytes(drawn)
    except OSError as error:
        raise SettingError(f"cannot write {out}: {error.strerror}") from error


def terminal_plot(records: list[dict[str, Any]], width: int | None = None) -> str:
    """Draw bus bandwidth against size for a terminal, on logarithmic axes, a plot for each case.

    There is no colour where ``NO_COLOR`` is set, or standard output is no terminal.

    Args:
        records: as ``model.record_of`` makes them.
        width: columns; None for those of the terminal.

    Raises:
        SettingError: no record that can be drawn, or plotext is not installed.

    """
    from rdmatrain.bench.plots.terminal import plot  # noqa: PLC0415 - takes long to import

    return plot(records, width)
