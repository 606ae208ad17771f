"""YAML and JSON as nodes that know where they stand, whatever they hold.

A node is asked for what should be below it and never raises: what is not there is a node too, which
says where it would be. Values are texts as they were written, and beside them what a reader of
YAML takes them for.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rdmatrain.discovery.claims.values import shown
from rdmatrain.discovery.yaml_text import MAX_YAML
from rdmatrain.errors import SettingError

# After aliases were followed, which may multiply a short text without end.
MAX_VALUES = 200_000
MAX_DEPTH = 100

MAP, LIST, TEXT, NUMBER, BOOLEAN, NULL, ABSENT = (
    "map", "list", "text", "number", "boolean", "null", "absent",
)  # fmt: skip
# A number to the base of 60, for those who read YAML 1.1: PyYAML and all that is built on it.
BASE_60 = "base 60"

_NUMBER = re.compile(r"[-+]?(0x[0-9a-fA-F]+|0o?[0-7]+|(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?)", re.ASCII)
_BASE_60 = re.compile(r"[-+]?\d[\d_]*(:[0-5]?\d)+(\.[\d_]*)?", re.ASCII)
_BOOLEANS = frozenset(
    form(word)
    for word in ("true", "false", "yes", "no", "on", "off")
    for form in (str.lower, str.title, str.upper)
)
_NULLS = frozenset(["", "~", "null", "Null", "NULL"])
_TRUE = frozenset(["true", "yes", "on"])
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]{1,60}", re.ASCII)
Key = str | int


@dataclass(eq=False)
class Origin:
    """A document: the file, and what people call it, as ``Job train``."""

    file: str
    label: str = ""


class Node:
    """A value of a document.

    Attributes:
        kind: what it is.
        text: a scalar as it was written; empty for all others.
        line: where it begins, from 1; 0 where that is not known.
        children: of a mapping by key, of a list by index.

    """

    __slots__ = ("children", "key", "kind", "line", "origin", "parent", "text")

    def __init__(
        self,
        kind: str,
        parent: "Node | Origin",
        key: Key = "",
        text: str = "",
        line: int = 0,
    ) -> None:
        self.kind, self.text, self.line, self.key = kind, text, line, key
        self.parent = parent if isinstance(parent, Node) else None
        self.origin: Origin = parent.origin if isinstance(parent, Node) else parent
        self.children: dict[Key, Node] = {}

    def get(self, *keys: Key) -> "Node":
        """Return what is there by these keys, one below the other."""
        node = self
        for key in keys:
            found = node.children.get(key)
            node = Node(ABSENT, node, key, line=node.line) if found is None else found
        return node

    def entries(self) -> list[tuple[str, "Node"]]:
        """Return what is in a mapping; nothing for all others."""
        return [(str(key), node) for key, node in self.children.items()] if self.kind == MAP else []

    def items(self) -> list["Node"]:
        """Return what is in a list; nothing for all others."""
        return list(self.children.values()) if self.kind == LIST else []

    def texts(self) -> list[str]:
        """Return the scalars of a list."""
        return [each.text for each in self.items()]

    def plain_items(self) -> list[Any]:
        """Return what is in a list as JSON has it; nothing for all others."""
        return [as_json(each) for each in self.items()]

    def walk(self) -> Iterator["Node"]:
        """Return it and all that is below it."""
        yield self
        for each in self.children.values():
            yield from each.walk()

    @property
    def there(self) -> bool:
        """There is such a value, and it is not null."""
        return self.kind not in {ABSENT, NULL}

    @property
    def true(self) -> bool:
        """It is true."""
        return self.text.lower() in _TRUE

    @property
    def number(self) -> int | None:
        """A whole number; None for all others."""
        match = re.fullmatch(r"[-+]?\d{1,18}", self.text, re.ASCII)
        return int(self.text) if match else None

    @property
    def path(self) -> str:
        """Where it is in its document: ``spec.containers[0]``."""
        steps: list[str] = []
        node = self
        while node.parent is not None:
            steps.append(_step(node.key))
            node = node.parent
        return "".join(reversed(steps)).removeprefix(".")

    @property
    def place(self) -> str:
        """Where it is at all: ``job.yaml:12: Job train: spec.containers[0]``."""
        line = f":{self.line}" if self.line else ""
        path = f": {self.path}" if self.path else ""
        return f"{shown(self.origin.file)}{line}: {self.origin.label}{path}"


def documents(text: str, file: str) -> Iterator[Node]:
    """Return the documents of a file that are not empty; the items of a List are some, too.

    Args:
        text: of the file.
        file: its name, for places and errors.

    Raises:
        SettingError: it is neither YAML nor JSON, or would become too large.

    """
    for root in _roots(text, file):
        if not root.there:
            continue
        whole = root.kind == MAP and root.get("kind").text.endswith("List")
        for document in root.get("items").items() if whole else [root]:
            document.parent = None
            label(document)
            yield document


def label(document: Node) -> None:
    """Give a document and all below it the name that people call it."""
    meta = document.get("metadata")
    name = meta.get("name").text or meta.get("generateName").text
    kind = document.get("kind").text or "document"
    origin = Origin(document.origin.file, shown(f"{kind} {name}".strip(), 100))
    for node in document.walk():
        node.origin = origin


def overlay(base: Node, patch: Node) -> Node:
    """Return what a patch makes of a value, as Kubernetes does it: lists are joined by names."""
    joined = _like(base)
    if base.kind == MAP and patch.kind == MAP:
        joined.children = _overlaid(base.children, patch.children.items())
    elif _has_names(base) and _has_names(patch):
        by_name = _overlaid(dict(_by_name(base)), _by_name(patch))
        joined.children = dict(enumerate(by_name.values()))
    else:
        return patch if patch.there else base
    return joined


def as_json(node: Node) -> Any:
    """Return a value as JSON has it."""
    if node.kind == MAP:
        return {key: as_json(each) for key, each in node.entries()}
    if node.kind == LIST:
        return [as_json(each) for each in node.items()]
    if node.kind == BOOLEAN:
        return node.true
    if node.kind == NUMBER:
        return _number(node.text)
    return node.text if node.there else None


def _number(text: str) -> int | float:
    for read in (int, lambda number: int(number, 0)):
        try:
            return read(text)
        except ValueError:
            continue
    return float(text)


def _overlaid(base: dict[Key, Node], patches: Iterable[tuple[Key, Node]]) -> dict[Key, Node]:
    joined = {**base}
    for key, node in patches:
        joined[key] = overlay(joined[key], node) if key in joined else node
    return joined


def _has_names(node: Node) -> bool:
    """Tell whether it is a list of what has names."""
    return node.kind == LIST and all(each.get("name").there for each in node.items())


def _by_name(node: Node) -> list[tuple[Key, Node]]:
    return [(each.get("name").text, each) for each in node.items()]


def _like(node: Node) -> Node:
    made = Node(node.kind, node.parent or node.origin, node.key, line=node.line)
    made.origin = node.origin
    return made


def _step(key: Key) -> str:
    if isinstance(key, int):
        return f"[{key}]"
    return f".{key}" if _PLAIN_KEY.fullmatch(key) else f'["{shown(key, 60)}"]'


def _roots(text: str, file: str) -> list[Node]:
    if len(text) > MAX_YAML:
        raise SettingError(f"{file} has {len(text)} characters, more than {MAX_YAML}")
    import yaml  # noqa: PLC0415 - it takes 0.02 s

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    builder = _Builder(file)
    if text.lstrip()[:1] in {"{", "["}:  # it may be JSON, which YAML does not always take
        try:
            return [builder.from_json(json.loads(text, parse_int=_Number, parse_float=_Number))]
        except (ValueError, RecursionError):
            builder = _Builder(file)
    try:
        return list(builder.from_events(yaml.parse(text, Loader=loader)))
    except (yaml.YAMLError, UnicodeError) as error:
        hint = ": is it a template? Give what it renders to" if "{{" in text else ""
        raise SettingError(f"{file}{_where_and_why(error)}{hint}") from None


def _where_and_why(error: Exception) -> str:
    """Return the line of an error and what it is, as other places are told."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or not problem:
        return f": {' '.join(str(error).split())}"
    began, context = getattr(error, "context_mark", None), getattr(error, "context", None)
    since = f" from line {began.line + 1}" if began is not None else ""
    return f":{mark.line + 1}: {problem}" + (f", {context}{since}" if context else "")


class _Number(str):
    """A number of JSON, as it was written."""


class _Builder:
    """Makes nodes, and no more of them than there may be."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._left = MAX_VALUES
        self._events: Iterator[Any] = iter(())
        self._anchors: dict[str, Node | None] = {}

    def from_json(self, value: Any) -> Node:
        return self._of_json(value, Origin(self._file), "", 0)

    def from_events(self, events: Iterator[Any]) -> Iterator[Node]:
        """Return the roots of a stream of YAML events."""
        self._events = events
        for event in events:
            if type(event).__name__ == "DocumentStartEvent":
                self._anchors = {}
                yield self._of_event(next(events), Origin(self._file), "", 0)

    def _of_json(self, value: Any, parent: Node | Origin, key: Key, depth: int) -> Node:
        pairs: Mapping[Any, Any] | None = None
        if isinstance(value, dict):
            node, pairs = self._new(MAP, parent, key, depth), value
        elif isinstance(value, list):
            node, pairs = self._new(LIST, parent, key, depth), dict(enumerate(value))
        elif isinstance(value, bool):
            node = self._new(BOOLEAN, parent, key, depth, str(value).lower())
        elif value is None:
            node = self._new(NULL, parent, key, depth)
        else:
            kind = NUMBER if isinstance(value, _Number) else TEXT
            node = self._new(kind, parent, key, depth, str(value))
        for name, each in (pairs or {}).items():
            node.children[name] = self._of_json(each, node, name, depth + 1)
        return node

    def _of_event(self, event: Any, parent: Node | Origin, key: Key, depth: int) -> Node:
        name, line = type(event).__name__, event.start_mark.line + 1
        if name == "AliasEvent":
            return self._alias(event.anchor, parent, key, depth)
        if event.anchor:
            self._anchors[event.anchor] = None
        if name == "ScalarEvent":
            kind = plain_kind(event.value) if event.implicit[0] else TEXT
            node = self._new(kind, parent, key, depth, event.value)
            node.line = line
        elif name == "SequenceStartEvent":
            node = self._list(self._new(LIST, parent, key, depth), line, depth)
        else:
            node = self._map(self._new(MAP, parent, key, depth), line, depth)
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _list(self, node: Node, line: int, depth: int) -> Node:
        node.line = line
        while type(event := next(self._events)).__name__ != "SequenceEndEvent":
            place = len(node.children)
            node.children[place] = self._of_event(event, node, place, depth + 1)
        return node

    def _map(self, node: Node, line: int, depth: int) -> Node:
        node.line = line
        merged: list[Node] = []
        while type(event := next(self._events)).__name__ != "MappingEndEvent":
            # Quoted, it is a key like any other.
            plain = type(event).__name__ == "ScalarEvent" and event.implicit[0]
            name = self._of_event(event, node, "", depth + 1)
            value = self._of_event(next(self._events), node, name.text, depth + 1)
            if name.text == "<<" and plain:
                merged += value.items() or [value]
            else:
                node.children[name.text] = value
        for each in merged:
            for key, child in each.children.items():
                if isinstance(key, str) and key not in node.children:
                    node.children[key] = self._copy(child, node, key, depth + 1)
        return node

    def _alias(self, anchor: str, parent: Node | Origin, key: Key, depth: int) -> Node:
        target = self._anchors.get(anchor)
        if target is None:
            why = "refers to itself" if anchor in self._anchors else "is not there"
            raise SettingError(f"{self._file}: what *{shown(anchor, 60)} means {why}")
        return self._copy(target, parent, key, depth)

    def _copy(self, node: Node, parent: Node | Origin, key: Key, depth: int) -> Node:
        copied = self._new(node.kind, parent, key, depth, node.text)
        copied.line = node.line
        for name, each in node.children.items():
            copied.children[name] = self._copy(each, copied, name, depth + 1)
        return copied

    def _new(self, kind: str, parent: Node | Origin, key: Key, depth: int, text: str = "") -> Node:
        self._left -= 1
        if self._left < 0:
            raise SettingError(
                f"{self._file} has more than {MAX_VALUES} values, with its aliases followed"
            )
        if depth > MAX_DEPTH:
            raise SettingError(f"{self._file} is nested deeper than {MAX_DEPTH}")
        return Node(kind, parent, key, text)


def plain_kind(plain: str) -> str:
    """Return what a reader of YAML takes an unquoted scalar for."""
    if plain in _NULLS:
        return NULL
    if plain in _BOOLEANS:
        return BOOLEAN
    if _NUMBER.fullmatch(plain):
        return NUMBER
    return BASE_60 if _BASE_60.fullmatch(plain) else TEXT
