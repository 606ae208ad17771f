"""XML as a small tree that knows its lines; hostile files end in an error, not in a full memory."""

import re
from dataclasses import dataclass, field
from typing import NoReturn

from rdmatrain.errors import SettingError

# Bridges and caches of real machines are nested less than 30 deep.
MAX_DEPTH = 100
MAX_ELEMENTS = 500_000


@dataclass
class Element:
    """An element of XML.

    Attributes:
        tag: its name.
        attributes: by name.
        line: where it begins, the first line being 1.
        children: elements inside it, in order. Text is not kept: no file that is read here has any.

    """

    tag: str
    attributes: dict[str, str]
    line: int
    children: list["Element"] = field(default_factory=list)

    def get(self, name: str) -> str:
        """Return an attribute without blanks around it; empty if it has none of that name."""
        return self.attributes.get(name, "").strip()


def parse_xml(text: str, name: str, first_line: int = 1) -> Element:
    """Return the root of a file.

    Args:
        text: its content.
        name: what to call it in errors.
        first_line: number of its first line in the file.

    Raises:
        SettingError: it is not XML, or too large; the text names line and column.

    """
    # Not needed to start the command line.
    from xml.parsers import expat  # noqa: PLC0415

    parser = expat.ParserCreate("utf-8")
    builder = _Builder(name)

    def start(tag: str, attributes: dict[str, str]) -> None:
        line = parser.CurrentLineNumber + first_line - 1
        builder.start(Element(tag, attributes, line))

    parser.StartElementHandler = start
    parser.EndElementHandler = builder.end
    # Entities that hold entities can grow without bound, and no file of these kinds has any.
    parser.EntityDeclHandler = builder.refuse_entities
    try:
        parser.Parse(_without_comments(text).encode("utf-8", "replace"), True)
    except expat.ExpatError as error:
        message = expat.ErrorString(error.code)
        where = f"line {error.lineno + first_line - 1}, column {error.offset + 1}"
        raise SettingError(f"{name} is not valid XML: {message} at {where}") from None
    return builder.root.children[0]


def _without_comments(text: str) -> str:
    """Return blanks for comments: XML has no ``--`` in them, but files of RCCL draw lines so."""
    parts, done = [], 0
    while (start := text.find("<!--", done)) >= 0 and (end := text.find("-->", start + 4)) >= 0:
        parts += [text[done:start], re.sub(r"[^\n]", " ", text[start : end + 3])]
        done = end + 3
    return "".join([*parts, text[done:]])


class _Builder:
    def __init__(self, name: str) -> None:
        self.root = Element("", {}, 0)
        self._name = name
        self._open = [self.root]
        self._count = 0

    def start(self, element: Element) -> None:
        self._count += 1
        if len(self._open) > MAX_DEPTH or self._count > MAX_ELEMENTS:
            raise SettingError(
                f"{self._name}, line {element.line}: more than {MAX_ELEMENTS} elements, or nested "
                f"more than {MAX_DEPTH} deep"
            )
        self._open[-1].children.append(element)
        self._open.append(element)

    def end(self, _tag: str) -> None:
        self._open.pop()

    def refuse_entities(self, entity: str, *_: object) -> NoReturn:
        raise SettingError(f"{self._name} declares an XML entity, {entity}, which is not read")
