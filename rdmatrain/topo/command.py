"""What ``rdmatrain topo`` and ``rdmatrain whoami`` do: from options to texts and files."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdmatrain.discovery.model import Machine
from rdmatrain.errors import SettingError
from rdmatrain.topo.inputs import name_of, open_input

# Everything else is imported by whoever needs it: the commands are to answer at once.
if TYPE_CHECKING:
    from rdmatrain.discovery.survey import Survey

STDOUT = "-"


@dataclass(frozen=True)
class TopoOptions:
    """Options of ``rdmatrain topo``.

    Attributes:
        files: what to look at instead of this machine.
        root: another root for all files.
        dump: where to save a snapshot; empty for nowhere.
        redact: without names and secrets.
        json: as JSON.
        svg: where to save a drawing; empty for nowhere.
        nccl_topo: where to save a topology file for NCCL; empty for nowhere.

    """

    files: tuple[str, ...] = ()
    root: str = ""
    dump: str = ""
    redact: bool = False
    json: bool = False
    svg: str = ""
    nccl_topo: str = ""

    def saved(self) -> dict[str, str]:
        """Return where each of the options that save something is to save it."""
        saved = {"--dump": self.dump, "--svg": self.svg, "--nccl-topo": self.nccl_topo}
        return {name: path for name, path in saved.items() if path}

    def printed(self) -> list[str]:
        """Return the options that write to standard output."""
        to_stdout = [name for name, path in self.saved().items() if path == STDOUT]
        return to_stdout + ["--json"] * self.json


@dataclass(frozen=True)
class WhoamiOptions:
    """Options of ``rdmatrain whoami``, as in :class:`TopoOptions`."""

    files: tuple[str, ...] = ()
    root: str = ""
    json: bool = False


def show_topology(options: TopoOptions, write: Callable[[str], None]) -> None:
    """Look at a machine, save what should be saved, and write the answer.

    Args:
        options: what the user wants.
        write: where to write it: a text without its last line's end.

    Raises:
        SettingError: the options contradict each other, or a file cannot be read or written.

    """
    _check(options)
    found, snapshot = _look(options)
    if options.dump:
        save("--dump", options.dump, snapshot, write)
    if options.svg:
        from rdmatrain.topo.svg import topology_svg  # noqa: PLC0415

        save("--svg", options.svg, topology_svg(found), write)
    if options.nccl_topo:
        from rdmatrain.discovery.survey import nccl_topology  # noqa: PLC0415

        save("--nccl-topo", options.nccl_topo, nccl_topology(found), write)
    if options.json:
        from rdmatrain.topo.document import topology_document  # noqa: PLC0415

        write(as_json(topology_document(found)))
    elif not options.printed():
        from rdmatrain.topo.text import topology_text  # noqa: PLC0415

        write(topology_text(found))


def show_identity(options: WhoamiOptions, write: Callable[[str], None]) -> None:
    """Find out who this process is, and write it.

    Args:
        options: what the user wants.
        write: where to write it: a text without its last line's end.

    Raises:
        SettingError: the options contradict each other, or a file cannot be read.

    """
    from rdmatrain.discovery.orchestrator import whoami  # noqa: PLC0415
    from rdmatrain.discovery.pod import read_pod  # noqa: PLC0415
    from rdmatrain.topo.terminal import printable  # noqa: PLC0415
    from rdmatrain.topo.whoami import whoami_document, whoami_text  # noqa: PLC0415

    source = open_input(options.files, options.root)
    if isinstance(source, Machine):
        raise SettingError(f"{source.origin} describes a machine: a snapshot has a pod's facts")
    identity = whoami(source, read_pod(source))
    if options.json:
        write(as_json(whoami_document(identity)))
    else:
        write("\n".join(map(printable, whoami_text(identity).split("\n"))))


def as_json(document: dict[str, Any]) -> str:
    """Write a document in ASCII, with text that is no UTF-8 escaped."""
    return json.dumps(document, indent=2)


def _check(options: TopoOptions) -> None:
    if options.redact and not options.dump:
        raise SettingError("--redact is about what --dump saves: give both")
    if len(options.printed()) > 1:
        both = " and ".join(options.printed())
        raise SettingError(f"{both} cannot go to standard output together")
    files = [path for path in options.saved().values() if path != STDOUT]
    if len(set(files)) < len(files):
        raise SettingError(f"{' and '.join(options.saved())} cannot go to the same file")


def _look(options: TopoOptions) -> "tuple[Survey, str]":
    """Return what was found, and a snapshot if one is wanted."""
    from rdmatrain.discovery.survey import survey, survey_machine  # noqa: PLC0415

    source = open_input(options.files, options.root)
    if isinstance(source, Machine):
        if options.dump:
            raise SettingError(f"--dump saves what was read of a machine, not {source.origin}")
        return survey_machine(source), ""
    origin = name_of(options.files, options.root)
    if not options.dump:
        return survey(source, origin), ""
    from rdmatrain.discovery.snapshot import Recorder, dump  # noqa: PLC0415

    recorder = Recorder(source)
    found = survey(recorder, origin)
    recorder.read_background()
    return found, dump(recorder, options.redact)


def save(option: str, path: str, text: str, write: Callable[[str], None]) -> None:
    """Write a text into a file, or where answers go.

    Args:
        option: that asked for it.
        path: of the file; ``-`` for where answers go.
        text: to write.
        write: writes an answer.

    Raises:
        SettingError: the file cannot be written.

    """
    if path == STDOUT:
        write(text.removesuffix("\n"))
        return
    try:
        # A snapshot has a process's environment in it, which is nobody else's business.
        Path(path).touch(0o600 if option == "--dump" else 0o666)
        Path(path).write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:
        raise SettingError(f"{option} cannot write {path}: {error}") from error
