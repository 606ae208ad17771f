"""What the commands look at: this machine, a folder, or what was written to files."""

import sys
from codecs import BOM_UTF8
from collections.abc import Sequence
from pathlib import Path

from rdmatrain.discovery.model import Machine
from rdmatrain.discovery.source import Source, Tree
from rdmatrain.errors import SettingError

STDIN = "-"
MAX_BYTES = 64 << 20
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def open_input(files: Sequence[str], root: str) -> Source | Machine:
    """Return what to look at: something with facts to ask for, or a machine from another tool.

    Args:
        files: those that the user named; none for a running machine. Several are put together.
        root: folder with the root of that machine's files; empty for this machine.

    Raises:
        SettingError: a file cannot be read or understood, or they do not go together.

    """
    if files and root:
        raise SettingError("-F and --root exclude each other: a file has all its facts in it")
    if not files:
        return _tree(root)
    texts = [(_name(file), read_text(file)) for file in files]
    snapshots = [(name, text) for name, text in texts if _is_snapshot(text)]
    if snapshots:
        return _replay(*snapshots[0], alone=len(texts) == 1)
    from rdmatrain.discovery.importers import merge, read_file  # noqa: PLC0415 - reads YAML, XML

    machines = [read_file(text, name) for name, text in texts]
    return machines[0] if len(machines) == 1 else merge(machines)


def name_of(files: Sequence[str], root: str) -> str:
    """Return what people call it: ``this machine``, the files or the folder."""
    return " and ".join(map(_name, files)) or root or "this machine"


def _tree(root: str) -> Tree:
    if root:
        if not Path(root).is_dir():
            raise SettingError(f"--root {root} is no folder")
        if not any((Path(root) / name).is_dir() for name in ("sys", "proc")):
            raise SettingError(f"--root {root} has neither sys nor proc in it: give their parent")
        # What this machine's libraries say is not about that one.
        return Tree(Path(root))
    from rdmatrain.discovery.probes import live  # noqa: PLC0415 - only this machine has them

    return Tree(probes=live())


def _replay(name: str, text: str, alone: bool) -> Source:
    if not alone:
        raise SettingError(f"{name} is a snapshot, which goes with no other file")
    from rdmatrain.discovery.snapshot import load  # noqa: PLC0415 - as late as the importers

    return load(text, name)


def _name(file: str) -> str:
    return "standard input" if file == STDIN else file


def read_text(file: str) -> str:
    """Return what is in a file, or in standard input for ``-``.

    Raises:
        SettingError: it cannot be read, or is too large.

    """
    try:
        if file != STDIN:
            with Path(file).open("rb") as opened:
                data = opened.read(MAX_BYTES + 1)
        elif sys.stdin is None:
            raise SettingError("standard input is closed")
        else:
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise SettingError(f"cannot read {_name(file)}: {why}") from error
    if len(data) > MAX_BYTES:
        raise SettingError(f"{_name(file)} has more than {MAX_BYTES >> 20} MiB")
    if data.startswith(_UTF16):  # from a shell of Windows
        return data.decode("utf-16", "replace")
    # The mark at the start, also of that shell, is no text.
    return data.removeprefix(BOM_UTF8).decode("utf-8", "surrogateescape")


def _is_snapshot(text: str) -> bool:
    return text.lstrip().startswith("{") and '"rdmatrain-snapshot/' in text
