"""Changes of manifests, made: fixes of the checks as JSON patches, and documents as YAML again."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from rdmatrain.doctor.manifest.define import Patch
from rdmatrain.doctor.manifest.nodes import (
    ABSENT,
    BOOLEAN,
    LIST,
    MAP,
    NULL,
    NUMBER,
    TEXT,
    Key,
    Node,
    as_json,
    documents,
    plain_kind,
)
from rdmatrain.errors import SettingError

# What an entry of a list is known by, as in a strategic merge patch; other lists are replaced.
_MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
}
# An entry of these is of one kind: what it was before is gone.
_ONE_OF = frozenset(["volumes"])
# What a patch says of one of these is no whole one.
_NEVER_ADDED = frozenset(["containers", "initContainers"])
_ORDER = "$patch"
_STR = "tag:yaml.org,2002:str"
# Booleans for some readers of YAML 1.1, though not for PyYAML.
_YAML_1_1 = frozenset(["y", "n"])
# Wider than any line: a long text stays one, as it was.
_WIDTH = 1 << 20


@dataclass(frozen=True)
class Operation:
    """A step of a JSON patch (RFC 6902).

    Attributes:
        op: ``add``, ``remove`` or ``replace``.
        path: keys from the document's root; ``-`` is behind a list's last entry.
        value: what is put there; None for ``remove``.

    """

    op: str
    path: tuple[Key, ...]
    value: Node | None = None

    @property
    def pointer(self) -> str:
        """The path as a JSON pointer (RFC 6901)."""
        parts = (str(each).replace("~", "~0").replace("/", "~1") for each in self.path)
        return "".join(f"/{each}" for each in parts)

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        made: dict[str, Any] = {"op": self.op, "path": self.pointer}
        if self.value is not None:
            made["value"] = as_json(self.value)
        return made


def operations(patch: Patch) -> list[Operation]:
    """Return what a patch does to its document, as it is now; nothing if it is already so.

    An object that a patch adds is not of that document: see :func:`added`.
    """
    change = None if patch.whole else _read(patch.change)
    if change is None:
        return []
    root, keys = _root(patch.node)
    return list(_into(root, keys, change))


def added(patch: Patch) -> Node | None:
    """Return the object that a patch adds; None if it changes one that is there."""
    return _read(patch.change) if patch.whole else None


def root_of(node: Node) -> Node:
    """Return the document that a node is in."""
    return _root(node)[0]


def apply(root: Node, steps: Iterable[Operation]) -> None:
    """Change a document."""
    for step in steps:
        *above, last = step.path
        owner = root.get(*above)
        if step.op == "remove":
            del owner.children[last]
        elif owner.kind == LIST and last == "-":
            _put(owner, len(owner.children), step.value)
        else:
            _put(owner, last, step.value)
        if owner.kind == LIST:
            _number(owner)


def to_yaml(roots: Sequence[Node]) -> str:
    """Return documents as a YAML stream: values as they were written, texts quoted if need be."""
    import yaml  # noqa: PLC0415 - it takes 0.02 s

    events: list[Any] = [yaml.StreamStartEvent()]
    for root in roots:
        events.append(yaml.DocumentStartEvent(explicit=True))
        events += _events(root)
        events.append(yaml.DocumentEndEvent())
    events.append(yaml.StreamEndEvent())
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.emit(events, Dumper=dumper, width=_WIDTH, allow_unicode=True)
    return text


def _root(node: Node) -> tuple[Node, tuple[Key, ...]]:
    keys: list[Key] = []
    while node.parent is not None:
        keys.append(node.key)
        node = node.parent
    return node, tuple(reversed(keys))


def _read(change: str) -> Node | None:
    """Return a change; None if there is none, as where odd names of a manifest broke it."""
    if not change:
        return None
    try:
        # A document that says null would be none.
        return next(documents(f"{{change: {change}}}", "a patch")).get("change")
    except SettingError:
        return None


def _into(root: Node, keys: tuple[Key, ...], change: Node) -> Iterator[Operation]:
    """Yield what a change at a path is: maps on the way that are not there are made."""
    place = root
    for depth, key in enumerate(keys):
        child = place.children.get(key)
        if child is None or child.kind == NULL:
            if change.kind != NULL:
                value = _wrapped(keys[depth + 1 :], _clean(change))
                yield Operation("add", keys[: depth + 1], value)
            return
        place = child
    yield from _merge(place, keys, change)


def _wrapped(keys: tuple[Key, ...], value: Node) -> Node:
    for key in reversed(keys):
        outer = Node(LIST if isinstance(key, int) else MAP, value.origin)
        _put(outer, key, value)
        value = outer
    return value


def _merge(target: Node, path: tuple[Key, ...], change: Node) -> Iterator[Operation]:
    if change.kind == NULL:
        yield Operation("remove", path)
    elif change.kind == MAP and target.kind == MAP:
        for key, each in change.entries():
            yield from _merge_key(target, (*path, key), each)
    elif change.kind == LIST and target.kind == LIST and path[-1:] and path[-1] in _MERGE_KEYS:
        yield from _merge_list(target, path, change)
    elif not _same(target, change):
        yield Operation("replace", path, _clean(change))


def _merge_key(target: Node, path: tuple[Key, ...], change: Node) -> Iterator[Operation]:
    child = target.children.get(path[-1])
    if child is not None:
        yield from _merge(child, path, change)
    elif change.kind != NULL and not _deletes(change):
        yield Operation("add", path, _clean(change))


def _merge_list(target: Node, path: tuple[Key, ...], change: Node) -> Iterator[Operation]:
    """Merge entries by what they are known by; what is deleted goes last, from the end on."""
    name = _MERGE_KEYS[str(path[-1])]
    gone: list[int] = []
    for each in change.items():
        found = [
            place
            for place, entry in enumerate(target.items())
            if entry.get(name).text == each.get(name).text
        ]
        if each.get(_ORDER).text == "delete":
            gone += found
        elif not found:
            yield from _append(path, each)
        elif path[-1] in _ONE_OF and not _same(target.get(found[-1]), each):
            yield Operation("replace", (*path, found[-1]), _clean(each))
        else:
            yield from _merge(target.get(found[-1]), (*path, found[-1]), each)
    yield from (Operation("remove", (*path, place)) for place in sorted(set(gone), reverse=True))


def _append(path: tuple[Key, ...], change: Node) -> Iterator[Operation]:
    """Add an entry; but for a container that another patch renamed, which the next round sees."""
    if path[-1] not in _NEVER_ADDED:
        yield Operation("add", (*path, "-"), _clean(change))


def _deletes(change: Node) -> bool:
    """Tell whether nothing is left of a list in which all entries are to be deleted."""
    entries = change.items()
    return bool(entries) and all(each.get(_ORDER).text == "delete" for each in entries)


def _clean(change: Node) -> Node:
    """Return a change without what only says what is to go."""
    made = Node(change.kind, change.origin, text=change.text)
    for key, each in change.children.items():
        if each.kind != NULL and each.get(_ORDER).text != "delete":
            _put(made, len(made.children) if made.kind == LIST else key, _clean(each))
    return made


def _same(one: Node, other: Node) -> bool:
    return (one.kind, one.text) == (other.kind, other.text) and (
        list(one.children) == list(other.children)
        and all(_same(one.children[key], other.children[key]) for key in one.children)
    )


def _put(owner: Node, key: Key, value: Node | None) -> None:
    assert value is not None  # only `remove` has none
    value.parent, value.key = owner, key
    owner.children[key] = value


def _number(owner: Node) -> None:
    """Give the entries of a list their places again."""
    entries = list(owner.children.values())
    owner.children = {}
    for place, each in enumerate(entries):
        _put(owner, place, each)


def _events(node: Node) -> Iterator[Any]:
    import yaml  # noqa: PLC0415 - as above

    if node.kind == MAP:
        yield yaml.MappingStartEvent(None, None, True, flow_style=not node.children)
        for key, each in node.entries():
            yield _text(key)
            yield from _events(each)
        yield yaml.MappingEndEvent()
    elif node.kind == LIST:
        yield yaml.SequenceStartEvent(None, None, True, flow_style=not node.children)
        for each in node.items():
            yield from _events(each)
        yield yaml.SequenceEndEvent()
    elif node.kind in {NUMBER, BOOLEAN}:
        yield yaml.ScalarEvent(None, None, (True, False), node.text)
    elif node.kind in {NULL, ABSENT}:
        yield yaml.ScalarEvent(None, None, (True, False), "null")
    else:
        yield _text(node.text)


@cache
def _resolver() -> Any:
    import yaml  # noqa: PLC0415 - as above

    return yaml.resolver.Resolver()


def _text(text: str) -> Any:
    """Return a text: plain where every reader takes it for one."""
    import yaml  # noqa: PLC0415 - as above

    tag = _resolver().resolve(yaml.ScalarNode, text, (True, False))
    safe = tag == _STR and plain_kind(text) == TEXT and text.lower() not in _YAML_1_1
    # Blocks cannot begin with spaces, nor have lines that end with them.
    block = "\n" in text and text == text.strip() + "\n" * text.endswith("\n")
    style = "|" if block and " \n" not in text else None if safe else '"'
    return yaml.ScalarEvent(None, None, (safe, True), text, style=style)
