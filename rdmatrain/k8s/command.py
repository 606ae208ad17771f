"""What ``rdmatrain k8s`` does: from options to a text, or to files."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

from rdmatrain.discovery.claims.values import shown
from rdmatrain.errors import SettingError
from rdmatrain.k8s.cluster import read_cluster
from rdmatrain.k8s.parts import Note, Object, Part
from rdmatrain.k8s.reading import SpecError, read_file, spelled
from rdmatrain.k8s.render import render
from rdmatrain.k8s.spec import DRA, TCP, Network, Spec
from rdmatrain.k8s.targets.target import TARGETS
from rdmatrain.k8s.text import document, stream
from rdmatrain.spelling import closest
from rdmatrain.topo.terminal import item, printable

# Whoever owns a Secret reads its file, and nobody else.
_SECRET_MODE, _MODE = 0o600, 0o644
_NOT_HERE = "nothing"
# Fields that claims of DRA alone have, and those that policies and networks of a cluster have.
_OF_CLAIMS = ("network.device-class", "network.gpu-class", "network.aligned")
_OF_NICS = ("network.link", "network.mtu", "network.pfs", "network.subnet")


@dataclass(frozen=True)
class RenderOptions:
    """Options of ``rdmatrain k8s render`` and ``explain``.

    Attributes:
        spec: name of a file; ``-`` is standard input.
        target: of :data:`~rdmatrain.k8s.targets.target.TARGETS`.
        kubernetes: version of the cluster; empty for the newest that is known.
        versions: of add-ons, each as ``volcano=1.15``.
        with_cluster: also what an administrator applies once.
        output: folder to write files to; empty for standard output.

    """

    spec: str
    target: str
    kubernetes: str = ""
    versions: tuple[str, ...] = ()
    with_cluster: bool = False
    output: str = ""


def run_render(
    options: RenderOptions, write: Callable[[str], None], tell: Callable[[str], None]
) -> None:
    """Write the objects of a job.

    Args:
        options: what the user wants.
        write: where a stream goes.
        tell: where a person reads what is beside it.

    Raises:
        SettingError: an option is wrong, the spec cannot be, or a file cannot be written.

    """
    _, part = _rendered(options)
    if options.output:
        for name in _save(part, Path(options.output)):
            tell(name)
    else:
        # A script stands alone; values of charts among objects would be an object to nobody.
        write(stream(part.objects) or "".join(text for _, text in part.texts))
        _tell_unwritten(part, tell)
    # What was rendered may be long, and be piped on: this is what a person sees last.
    for why in dict.fromkeys(each.why for each in part.notes if each.urgent):
        tell(f"note: {printable(why)}")


def _tell_unwritten(part: Part, tell: Callable[[str], None]) -> None:
    names = ", ".join(name for name, _ in part.texts)
    if names and part.objects:
        tell(f"note: written with --output alone, as they are no objects: {names}")


def run_explain(
    options: RenderOptions, asked: tuple[str, ...], write: Callable[[str], None], *, as_json: bool
) -> None:
    """Write what each field of a spec became, and why.

    Args:
        options: what is rendered.
        asked: fields, or sections, of the spec; none for all.
        write: where it goes.
        as_json: a list of objects with field, became, why and urgent.

    Raises:
        SettingError: an option is wrong, there is no such field, or the spec cannot be.

    """
    known = field_names()
    wanted = {name for each in asked for name in _asked(each, known)} or {*known, ""}
    spec, part = _rendered(options)
    why = partial(_why_silent, spec, with_cluster=options.with_cluster)
    notes = [each for each in _in_order(part, known, why) if each.field in wanted]
    if as_json:
        write(json.dumps([asdict(each) for each in notes], indent=2) + "\n")
    else:
        write("\n".join(_table(notes)) + "\n")


def list_targets(write: Callable[[str], None]) -> None:
    """Write what ``--for`` may be."""
    wide = max(map(len, TARGETS)) + 2
    write("".join(f"{name:{wide}}{text}\n" for name, text in TARGETS.items()))


def known_target(name: str) -> str:
    """Return the name of a target.

    Raises:
        SettingError: there is none of that name; says which there are.

    """
    if name in TARGETS:
        return name
    meant = closest(name, TARGETS)
    hint = f"did you mean {meant}?" if meant else f"give {', '.join(TARGETS)}"
    raise SettingError(f"--for {shown(name, 80)} is no target: {hint}")


def field_names() -> list[str]:
    """Return all fields that a spec in YAML may have, with dots, in order."""
    return list(_field_names(Spec, ""))


def _field_names(made: type, path: str) -> Iterator[str]:
    hints = get_type_hints(made)
    for each in fields(made):
        name, hint = path + spelled(each.name), hints[each.name]
        if is_dataclass(hint):
            assert isinstance(hint, type)
            yield from _field_names(hint, name + ".")
        else:
            yield name


def _rendered(options: RenderOptions) -> tuple[Spec, Part]:
    name = known_target(options.target)
    cluster = read_cluster(options.kubernetes, options.versions)
    spec = read_file(options.spec)
    try:
        return spec, render(spec, name, cluster, with_cluster=options.with_cluster)
    except SettingError as error:
        raise SpecError([f"{shown(options.spec)} for {name}: {error}"]) from error


def _save(part: Part, folder: Path) -> Iterator[str]:
    """Write each object to a file, whose names sort as the objects are to be applied."""
    texts = [
        (f"{place:02}-{_file_name(each)}.yaml", document(each), each["kind"] == "Secret")
        for place, each in enumerate(part.objects, 1)
    ]
    texts += [(name, text, False) for name, text in part.texts]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text, secret in texts:
            _write_file(folder / name, text, _SECRET_MODE if secret else _MODE)
            yield str(folder / name)
    except OSError as error:
        raise SettingError(f"cannot write to {shown(str(folder))}: {error.strerror}") from error


def _write_file(path: Path, text: str, mode: int) -> None:
    """Write a file that never had another mode."""
    path.unlink(missing_ok=True)
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(number, "w", encoding="utf-8") as file:
        file.write(text)


def _file_name(thing: Object) -> str:
    return f"{thing['kind']}-{thing['metadata']['name']}".lower()


def _asked(name: str, known: list[str]) -> list[str]:
    """Return a field, or all of a section."""
    plain = ".".join(map(spelled, name.split(".")))
    if plain in known:
        return [plain]
    if section := [each for each in known if each.startswith(f"{plain}.")]:
        return section
    meant = closest(plain, known)
    hint = f"did you mean {meant}?" if meant else f"fields are {', '.join(known)}"
    raise SettingError(f"{shown(name, 80)} is no field of a spec: {hint}")


def _why_silent(spec: Spec, field: str, *, with_cluster: bool) -> str:
    """Say why nothing that is rendered has a field."""
    devices = spec.network.devices
    if field == "network.host-network-reason":
        return "The pods do not see the host's network."
    if field in _OF_CLAIMS and devices != DRA:
        return f"Only a claim of DRA has it, and network.devices is {devices}."
    if field in _OF_NICS and devices == TCP:
        return "TCP over the pods' own network needs no device."
    if field in _OF_NICS and not with_cluster:
        return "What an administrator applies once has it: see --with-cluster."
    return _why_no_interface(spec.network, field)


def _why_no_interface(network: Network, field: str) -> str:
    """Say why no network or node policy has a field."""
    if field == "network.mtu" and not network.mtu:
        return "It is not given: interfaces keep the one that they have."
    if not network.networks:
        return "No network is rendered, as the spec names none: devices are as the nodes have them."
    return "Only the node policy sets it, and none is rendered without network.pfs."


def _in_order(part: Part, known: list[str], why: Callable[[str], str]) -> list[Note]:
    """Return the notes in the order of the fields, then those of no field.

    Args:
        part: whose notes they are.
        known: all fields.
        why: says why there is no note of a field.

    """
    notes = [_as_in_yaml(each, known) for each in part.notes]
    silent = [
        Note(name, _NOT_HERE, why(name))
        for name in known
        if all(each.field != name for each in notes)
    ]
    place = {name: number for number, name in enumerate(known)}
    return sorted([*notes, *silent], key=lambda each: place.get(each.field, len(place)))


def _as_in_yaml(note: Note, known: list[str]) -> Note:
    """Return a note whose field is called as in YAML; of a whole section, its first field."""
    name = ".".join(map(spelled, note.field.split(".")))
    if name and name not in known:
        name = next((each for each in known if each.startswith(f"{name}.")), name)
    return replace(note, field=name)


def _table(notes: list[Note]) -> Iterator[str]:
    """Show notes: a field, and below it what it became, and below that why."""
    last: Any = None
    for note in notes:
        if note.field != last:
            last = note.field
            yield printable(note.field) or "of no field"
        yield from item("  ", note.became)
        yield from item("      ", note.why)
