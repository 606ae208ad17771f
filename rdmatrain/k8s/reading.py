"""YAML to a spec: what it says, in the right types; what cannot be is refused.

Names of fields are those of :mod:`rdmatrain.k8s.spec` with dashes and without units, for values
have theirs: ``memory: 64Gi`` is ``memory_bytes``, ``grace: 2m`` is ``grace_s``.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from rdmatrain.discovery.claims.values import shown
from rdmatrain.discovery.yaml_text import MAX_YAML
from rdmatrain.doctor.manifest import nodes
from rdmatrain.doctor.manifest.nodes import Node, documents
from rdmatrain.errors import SettingError
from rdmatrain.k8s.spec import Spec
from rdmatrain.k8s.validation import Problem, problems
from rdmatrain.k8s.values import seconds, size
from rdmatrain.launcher import exit_codes
from rdmatrain.spelling import closest

STDIN = "-"
_UNITS = {"_bytes": size, "_s": seconds}
_SCALARS = (nodes.TEXT, nodes.NUMBER, nodes.BOOLEAN, nodes.BASE_60)


class SpecError(SettingError):
    """A spec cannot be read.

    Attributes:
        problems: each a line: where, which field, its value, what to do.
        exit_code: of the command that was to read it.

    """

    exit_code = exit_codes.NO_JOB

    def __init__(self, lines: list[str]) -> None:
        super().__init__("; ".join(lines))
        self.problems = tuple(lines)


def read_file(name: str) -> Spec:
    """Read a spec from a file; ``-`` is standard input.

    Raises:
        SettingError: there is no such file, or it says what cannot be.

    """
    try:
        if name == STDIN:
            with open(0, "rb", closefd=False) as stream:
                data = stream.read(MAX_YAML + 1)
        else:
            with Path(name).open("rb") as stream:
                data = stream.read(MAX_YAML + 1)
        text = data.decode()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise SettingError(f"cannot read {shown(name)}: {why}") from None
    return read_spec(text, "standard input" if name == STDIN else name)


def read_spec(text: str, file: str) -> Spec:
    """Read a spec.

    Args:
        text: YAML or JSON.
        file: what errors call it.

    Raises:
        SpecError: it says what cannot be, all that was found at once.
        SettingError: it is no YAML.

    """
    root = _root(text, file)
    reader = _Reader()
    spec = reader.section(root, Spec, "")
    if not reader.found:
        reader.found += problems(spec)
    twice = [Problem(field, why) for field, why in _repeated(text)]
    if found := twice + reader.found:
        raise SpecError([_told(each, reader.lines, file) for each in found])
    assert isinstance(spec, Spec)
    return spec


def _told(problem: Problem, lines: Mapping[str, int], file: str) -> str:
    """Return a problem as a line; of a field that is not there, without its place."""
    line = lines.get(problem.field)
    place = f"{shown(file)}:{line}" if line else shown(file)
    return f"{place}: {shown(problem.field)} {problem.text}"


def _root(text: str, file: str) -> Node:
    found = list(documents(text, file))
    if len(found) != 1:
        raise SettingError(
            f"{shown(file)} has {len(found)} documents that are not empty: a spec is one"
        )
    root = found[0]
    if root.kind != nodes.MAP:
        raise SettingError(f"{shown(file)} is no mapping: a spec begins with name, image, command")
    if root.get("apiVersion").there:
        raise SettingError(
            f"{shown(file)} is an object of Kubernetes, {root.origin.label}, and no spec of a job: "
            "rdmatrain k8s check looks at such"
        )
    return root


def _repeated(text: str) -> Iterator[tuple[str, str]]:
    """Return each key that a mapping has twice: YAML forbids it, and readers take either."""
    import yaml  # noqa: PLC0415 - it takes 0.02 s

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    waiting = [("", node) for node in yaml.compose_all(text, Loader=loader) if node]
    seen: set[int] = set()
    while waiting:
        path, node = waiting.pop()
        if not isinstance(node, yaml.MappingNode) or id(node) in seen:
            continue
        seen.add(id(node))
        names = [str(key.value) for key, _ in node.value]
        for name, often in Counter(names).items():
            if often > 1:
                yield f"{path}{name}", f"is there {often} times: leave one"
        waiting += [(f"{path}{key.value}.", value) for key, value in node.value]


class _Reader:
    """Reads nodes into dataclasses, and collects what is wrong."""

    def __init__(self) -> None:
        self.found: list[Problem] = []
        self.lines: dict[str, int] = {}
        self._readers: dict[Any, Callable[[Node, str], Any]] = {
            str: self._text,
            bool: self._boolean,
            int: self._number,
            tuple[str, ...]: self._texts,
            Mapping[str, str]: self._mapping,
        }

    def section(self, node: Node, made: type, path: str) -> Any:
        """Return a dataclass of a mapping; None if something of it is wrong."""
        if node.kind != nodes.MAP:
            return self._wrong(path, node, "give a mapping of fields")
        hints, before = get_type_hints(made), len(self.found)
        known = {spelled(each.name): each for each in fields(made)}
        self._look(node, known, path)
        values = {
            each.name: self._value(node.get(name), each, hints[each.name], path + name)
            for name, each in known.items()
            if node.children.get(name) is not None
        }
        return made(**values) if len(self.found) == before else None

    def _look(self, node: Node, known: Mapping[str, "Field[Any]"], path: str) -> None:
        """Note where each field stands; complain of those that are unknown, or not there."""
        for name, child in node.entries():
            self.lines[path + name] = child.line
            if name not in known:
                self._unknown(path, name, list(known))
        for name, each in known.items():
            if name not in node.children and _needed(each):
                self.found.append(Problem(path + name, "is not there: every job has one"))

    def _value(self, node: Node, field: "Field[Any]", hint: Any, path: str) -> Any:
        if not node.there:
            self.found.append(Problem(path, "is empty: give a value, or leave the field out"))
            return None
        if is_dataclass(hint):
            assert isinstance(hint, type)
            return self.section(node, hint, path + ".")
        for suffix, read in _UNITS.items():
            if field.name.endswith(suffix):
                return self._with_unit(node, path, read)
        return self._readers[hint](node, path)

    def _unknown(self, path: str, name: str, known: list[str]) -> None:
        meant = closest(name, known)
        hint = f"did you mean {path}{meant}?" if meant else f"fields are {', '.join(known)}"
        self.found.append(Problem(path + name, f"is no field of a spec: {hint}"))

    def _with_unit(self, node: Node, path: str, read: Callable[[str], int]) -> int:
        try:
            return read(node.text)
        except ValueError as error:
            self._wrong(path, node, str(error))
            return 0

    def _text(self, node: Node, path: str) -> str:
        if node.kind not in _SCALARS:
            self._wrong(path, node, "give a text")
        return node.text

    def _boolean(self, node: Node, path: str) -> bool:
        # Not yes or on: readers of YAML 1.2 take these for texts.
        if node.kind != nodes.BOOLEAN or node.text.lower() not in {"true", "false"}:
            self._wrong(path, node, "give true or false")
        return node.true

    def _number(self, node: Node, path: str) -> int:
        # Not 08 or 010: some readers of YAML take these for octal.
        if node.kind == nodes.NUMBER and node.number is not None and _is_plain(node.text):
            return node.number
        self._wrong(path, node, "give a whole number, without quotes and leading zeros")
        return 0

    def _texts(self, node: Node, path: str) -> tuple[str, ...]:
        if node.kind != nodes.LIST:
            self._wrong(path, node, "give a list of texts")
        found = {f"{path}[{place}]": each for place, each in enumerate(node.items())}
        self.lines |= {name: each.line for name, each in found.items()}
        return tuple(self._text(each, name) for name, each in found.items())

    def _mapping(self, node: Node, path: str) -> dict[str, str]:
        if node.kind != nodes.MAP:
            self._wrong(path, node, "give a mapping of texts")
        for name, each in node.entries():
            self.lines[f"{path}.{name}"] = each.line
        return {name: self._text(each, f"{path}.{name}") for name, each in node.entries()}

    def _wrong(self, path: str, node: Node, remedy: str) -> None:
        said = shown(node.text) or "empty"
        what = said if node.kind in _SCALARS else f"a {node.kind}" if node.there else "empty"
        quotes = "the text " if node.kind == nodes.TEXT and node.text else ""
        self.found.append(Problem(path.rstrip("."), f"is {quotes}{what}: {remedy}"))


def _is_plain(text: str) -> bool:
    return str(int(text)) == text


def spelled(name: str) -> str:
    """Return how a spec in YAML spells a field of a dataclass."""
    for suffix in _UNITS:
        name = name.removesuffix(suffix)
    return name.replace("_", "-")


def _needed(field: "Field[Any]") -> bool:
    return field.default is MISSING and field.default_factory is MISSING
