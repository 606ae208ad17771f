"""Values that anybody may have written: JSON in all its deformities, and how they are shown."""

import ipaddress
import json
import re
import reprlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

from rdmatrain.discovery.complaints import complaint
from rdmatrain.discovery.model import Complaint
from rdmatrain.discovery.pod_model import Variable

# A complaint shows no more of a value; names are shorter than MAX_WORD.
MAX_SHOWN = 200
MAX_WORD = 1000
# JSON has no limit, but no id or index is longer, and Python refuses to read thousands of digits.
MAX_DIGITS = 18
# A file that was cut while it was written may be filled with zeros.
_SPACE = re.compile(r"[ \t\r\n\0]*")


def shown(value: object, most: int = MAX_SHOWN) -> str:
    """Return a value for a complaint: short, and without what a terminal would obey."""
    text = value if isinstance(value, str) else reprlib.repr(value)
    safe = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in text[:most]
    )
    return safe[:most] + ("..." if max(len(text), len(safe)) > most else "")


def origin(variable: Variable) -> str:
    """Return how evidence and complaints name a variable."""
    return f"{shown(variable.name)} in {variable.source}"


def unreadable(source: str, value: object, why: str) -> Complaint:
    """Complain of a value that is left out."""
    return complaint("unreadable", source, f"{why}: '{shown(value)}'")


class Json:
    """Reads JSON text that may be damaged, or several values on end.

    Attributes:
        complaints: what could not be read so far.
        torn: the text ended, or went on, in a way that is no JSON.

    """

    def __init__(self, source: str) -> None:
        """Read for ``source``, which complaints name."""
        self.complaints: list[Complaint] = []
        self.torn = False
        self._source = source
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object,
            parse_constant=self._constant,
            parse_int=self._integer,
        )

    def value(self, text: str) -> Any:
        """Return the first value; None if there is none. It should be the only one."""
        values = list(self.stream(text))
        if len(values) > 1 or not (values or self.complaints):
            self._complain(text, f"is {len(values)} JSON values")
        return values[0] if values else None

    def items(self, text: str) -> list[Any]:
        """Return what a list has; of another value, that alone; nothing of what is no JSON."""
        value = self.value(text)
        if isinstance(value, list):
            return value
        return [] if value is None and self.complaints else [value]

    def stream(self, text: str) -> Iterator[Any]:
        """Yield values that follow each other, up to one that cannot be read."""
        start = _after_space(text, 0)
        while start < len(text):
            try:
                value, end = self._decoder.raw_decode(text, start)
            except (ValueError, RecursionError) as error:
                self.torn = True
                self._complain(text[start:], f"is not JSON ({shown(str(error))})")
                return
            yield value
            start = _after_space(text, end)

    def _complain(self, text: str, why: str) -> None:
        self.complaints.append(unreadable(self._source, text, why))

    def _constant(self, text: str) -> None:
        self._complain(text, "is no number of JSON")

    def _integer(self, text: str) -> int | None:
        if len(text) <= MAX_DIGITS:
            return int(text)
        self._complain(text, "is too large a number")
        return None

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            twice = sorted(key for key in found if counts[key] > 1)
            self._complain(", ".join(twice), "has keys twice, of which the last counts")
        return found


def mapping(value: Any) -> dict[str, Any]:
    """Return an object of JSON; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def word(value: Any) -> str:
    """Return a string of JSON, stripped and safe to show; empty for anything else."""
    return shown(value.strip(), MAX_WORD) if isinstance(value, str) else ""


def words(value: Any) -> tuple[str, ...]:
    """Return the words of a comma list, or of a list; a word that is there twice counts once."""
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else []
    return tuple(dict.fromkeys(filter(None, map(word, parts))))


def address(text: str) -> str:
    """Return an IP address without its prefix; empty for what is none."""
    try:
        return str(ipaddress.ip_interface(text).ip)
    except ValueError:
        return ""


def _after_space(text: str, start: int) -> int:
    space = _SPACE.match(text, start)
    return space.end() if space else start
