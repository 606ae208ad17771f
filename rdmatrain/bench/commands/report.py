"""``rdmatrain bench report``: draws files of results."""

from collections import Counter
from pathlib import Path
from typing import Any

import click

from rdmatrain.bench.commands.sweep import WrongOption
from rdmatrain.bench.plots import draw, terminal_plot
from rdmatrain.errors import SettingError


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--html", default="", metavar="FILE", help="Write a report that a browser opens.")
@click.option("--png", default="", metavar="FILE", help="Draw, for documents.")
@click.option("--svg", default="", metavar="FILE", help="Draw, for documents.")
@click.option("--terminal", is_flag=True, help="Draw here. [default: if nothing else is drawn]")
def command(*, files: tuple[str, ...], terminal: bool, **drawings: str) -> None:
    """Draw what --json of rdmatrain bench wrote: latency, bandwidth, ratio, percent of the limit.

    Of several files, contestants that both have are told apart by the names of the files.
    """
    try:
        wanted = _wanted(drawings)
        records = _read(files)
        for out in wanted:
            draw(records, out)
        if terminal or not wanted:
            click.echo(terminal_plot(records))
    except SettingError as error:
        raise WrongOption(str(error)) from error


def _wanted(drawings: dict[str, str]) -> list[Path]:
    """Return the files to draw, before anything is read."""
    for kind, out in drawings.items():
        if out and Path(out).suffix.lower() != f".{kind}":
            raise SettingError(f"--{kind} {out}: give a name that ends in .{kind}")
    return [Path(out) for out in drawings.values() if out]


def _read(files: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the records of all files, each with the name of its own, as short as tells them apart.

    A file that is named twice is read once.
    """
    from rdmatrain.bench.records import read_json  # noqa: PLC0415 - --help stays fast

    paths = [Path(file) for file in dict.fromkeys(files)]
    times = Counter(path.name for path in paths)
    return [
        {**record, "file": path.name if times[path.name] == 1 else str(path)}
        for path in paths
        for record in read_json(path)
    ]
